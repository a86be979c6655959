"""Rules over the users of a pool: `rule(config, path, user)`, where `path` is the user's key path."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from doorman.config import pem
from doorman.config.check_general import report_fault
from doorman.config.schema import Config, Pool, User
from doorman.config.tokens import KEY_FILE_PREFIX, KEY_SET_PREFIX, TALOS_ROLES, TOKEN_PREFIXES
from doorman.config.undecided import Undecided
from doorman.errors import ConfigProblem

PASSWORDLESS_METHODS = ("trust", "pam", "ldap", "cert")

Rule = Callable[[Config, str, User, tuple[User, ...]], Iterator[ConfigProblem]]


def walk_users(rule: Rule, config: Config, path: str, pool: Pool) -> Iterator[ConfigProblem]:
    """Apply one rule to every user; a user that cannot be judged does not keep the others from it."""
    for index, user in enumerate(pool.users):
        try:
            yield from rule(config, f"{path}.users[{index}]", user, pool.users[:index])
        except Undecided:
            continue


def check_unique_name(config: Config, path: str, user: User, before: tuple[User, ...]) -> Iterator[ConfigProblem]:
    """V32: a name once in a pool."""
    if any(user.username == other.username for other in before):
        yield ConfigProblem(f"{path}.username", f'"{user.username}" is already a user of this pool')


def check_password(config: Config, path: str, user: User, before: tuple[User, ...]) -> Iterator[ConfigProblem]:
    """T4: a password, except where another way of proving oneself is configured."""
    if user.password is None and user.auth_pam_service is None and not _has_other_way(config, user):
        reason = "missing; it is required unless the user logs in by PAM, LDAP, certificate, Talos or trust"
        yield ConfigProblem(f"{path}.password", reason)


def _has_other_way(config: Config, user: User) -> bool:
    if config.talos.keys and user.username in TALOS_ROLES:
        return True
    return any(rule.method in PASSWORDLESS_METHODS for rule in config.general.pg_hba or ())


def check_jwt_key(config: Config, path: str, user: User, before: tuple[User, ...]) -> Iterator[ConfigProblem]:
    """V33: the key file that a JWT user names is a public key; the key set's URL is one."""
    password = user.password or ""
    if password.startswith(KEY_FILE_PREFIX):
        yield from report_fault(f"{path}.password", pem.check_token_key, password.removeprefix(KEY_FILE_PREFIX))
    url = password.removeprefix(KEY_SET_PREFIX)
    if url != password and not url.startswith(("https://", "http://")):
        yield ConfigProblem(f"{path}.password", f"{KEY_SET_PREFIX} needs a URL that starts with https:// or http://")


def check_jwt_claims(config: Config, path: str, user: User, before: tuple[User, ...]) -> Iterator[ConfigProblem]:
    """What tokens must say is only asked of tokens."""
    for key in ("jwt_issuer", "jwt_audience"):
        if getattr(user, key) is not None and not (user.password or "").startswith(TOKEN_PREFIXES):
            forms = " or ".join(f"{prefix}…" for prefix in TOKEN_PREFIXES)
            yield ConfigProblem(f"{path}.{key}", f"needs a password of the form {forms}")


def check_server_password(config: Config, path: str, user: User, before: tuple[User, ...]) -> Iterator[ConfigProblem]:
    """V34: a server password belongs to a server user name."""
    if user.server_password is not None and user.server_username is None:
        yield ConfigProblem(f"{path}.server_password", "needs server_username")


def check_sizes(config: Config, path: str, user: User, before: tuple[User, ...]) -> Iterator[ConfigProblem]:
    """V35: the minimum fits."""
    if user.min_pool_size is not None and user.min_pool_size > user.pool_size:
        reason = f"is {user.min_pool_size}, more than pool_size ({user.pool_size})"
        yield ConfigProblem(f"{path}.min_pool_size", reason)


RULES: tuple[Rule, ...] = (
    *(check_unique_name, check_password, check_jwt_key, check_jwt_claims),
    *(check_server_password, check_sizes),
)
