"""Secrets and proofs are compared in constant time: by `hmac.compare_digest`, `is_equal` or `same_bytes` alone.

An `==` that ends at the first difference shows by nanoseconds, which no test measures reliably. So the sources are
read, and each comparison that is right now is made wrong to see that the reading finds it. The compiled comparison is
timed over data so long that an early end cannot be missed. What is compared with a constant tells nothing.
"""

from __future__ import annotations

import ast
import hmac
import operator
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doorman.auth.digest import is_equal
from doorman.auth.exchange import Asked, Md5Exchange, judge_password
from doorman.auth.md5 import md5_answer, md5_hash
from doorman.errors import ClientFault

PACKAGE = Path(__file__).resolve().parents[3] / "doorman"
SECRETIVE = re.compile(
    r"passw|passphrase|secret|proof|prove|signature|stored|verifier|_key\b|nonce|token|answer|expected|digest|hash|mark\b",
    re.IGNORECASE,
)
SECRETIVE_WHEN_COMPILED = re.compile(r"passw|secret|proof|signature|verifier|_key\b|nonce|token|cookie", re.IGNORECASE)
"""There digests are statements', and answers PostgreSQL's."""
CONSTANT_TIME = ("compare_digest", "is_equal")
PREFIX_TESTS = ("startswith", "endswith", "find", "index", "count")
HARMLESS = {  # here nobody guesses
    ("auth/look_up_exchange.py", "found.password == met.password"): "what two look-ups found",
    ("workers/lookups.py", "failed == entry.mark"): "what two look-ups found",
    ("auth/scram.py", "nonce.startswith(self._nonce)"): "as client, of what was sent to the server in clear",
    ("auth/public_keys.py", "signature != self.seen"): "inode, size and time of a file",
    ("config/check_user.py", "url != password"): "whether the scheme of a URL was there",
    ("config/pem.py", "certificate.public_key() != key.public_key()"): "public keys, of our own files",
    ("config/check_general.py", "(certificate is None) != (private_key is None)"): "whether they are there",
    ("config/startup.py", "(other := spellings.setdefault(canonical_key(key), key)) != key"): "names of parameters",
    (
        "workers/allocation.py",
        "(entry.overlay, entry.settings.password) != (found.parameters, found.password)",
    ): "look-ups",
    ("workers/roster.py", "(self.overlay, self.settings.password) == (found.parameters, found.password)"): "look-ups",
    ("workers/allocation.py", "pool_key(settings) in renewed"): "database and user",
    ("workers/allocation.py", "pool_key(settings) in plan.renewed"): "database and user",
    ("workers/credentials.py", "pool.password.startswith((PREFIX, *TOKEN_PREFIXES))"): "the kind of what is stored",
}
HARMLESS_LINES = {  # a key that was proved; a verifier, which the configuration has or PostgreSQL
    ("shm/users.pyx", "is_new = row == NULL or memcmp(row.client_key, <const char *>client_key, KEY_BYTES) != 0"),
    ("shm/users.pyx", "if bucket[way].state and memcmp(bucket[way].stored_key, stored_key, KEY_BYTES) == 0:"),
}
COMPARING_CALL = re.compile(r"\b(?:mem|str|strn)n?cmp\b|\.(?:startswith|endswith|find|index|count)\(")
COMPARISON = re.compile(r"==|!=| not in | in \(")
TO_CONSTANT = re.compile(r"""[!=]= (?:[bf]*["']|[A-Z_]+\b|-?\d|NULL)|len\(|_length\b""")


def comparisons(tree: ast.AST) -> Iterator[ast.expr]:
    """By `==`, `!=`, `in`, `startswith` …, of what is no constant, with something that is named like a secret."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(by, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for by in node.ops
        ):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PREFIX_TESTS:
            sides = [node.func.value, *node.args]
        else:
            continue
        telling = [side for side in sides if not is_constant(side)]
        if len(telling) > 1 and any(SECRETIVE.search(ast.unparse(side)) for side in telling):
            yield node


def is_constant(side: ast.expr) -> bool:
    """Literals, CONSTANTS, members of ours in capitals, lengths."""
    if isinstance(side, ast.Call):
        return isinstance(side.func, ast.Name) and side.func.id == "len"
    if isinstance(side, ast.Tuple | ast.List | ast.Set):
        return all(is_constant(element) for element in side.elts)
    if isinstance(side, ast.BinOp):
        return is_constant(side.left) and is_constant(side.right)
    name = side.attr if isinstance(side, ast.Attribute) else side.id if isinstance(side, ast.Name) else None
    return isinstance(side, ast.Constant) if name is None else name.isupper()


class MadeWrong(ast.NodeTransformer):
    """The `at`-th constant-time comparison as an `==`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not is_constant_time(node):
            return node
        self.at -= 1
        return node if self.at != -1 else ast.Compare(node.args[0], [ast.Eq()], [node.args[1]])


def is_constant_time(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in CONSTANT_TIME


def found_in(path: Path, tree: ast.AST) -> list[str]:
    module = str(path.relative_to(PACKAGE))
    return [text for node in comparisons(tree) if (module, text := ast.unparse(node)) not in HARMLESS]


def found_in_compiled(path: Path, text: str) -> list[str]:
    """Lines that compare by anything but `same_bytes` and what calls it."""
    module = str(path.relative_to(PACKAGE))
    lines = [line.partition(" # ")[0].strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [
        line
        for line in lines
        if SECRETIVE_WHEN_COMPILED.search(line)
        and (COMPARING_CALL.search(line) or (COMPARISON.search(line) and not TO_CONSTANT.search(line)))
        and (module, line) not in HARMLESS_LINES
    ]


SOURCES = sorted(PACKAGE.rglob("*.py"))
COMPILED_SOURCES = sorted(PACKAGE.rglob("*.pyx"))
RIGHT = [
    (path, at)
    for path in SOURCES
    for at in range(sum(is_constant_time(node) for node in ast.walk(ast.parse(path.read_text()))))
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_python_compares_secrets_in_constant_time(path: Path) -> None:
    assert not found_in(path, ast.parse(path.read_text()))


@pytest.mark.parametrize(("path", "at"), RIGHT, ids=lambda value: getattr(value, "name", str(value)))
def test_each_comparison_would_be_found_if_it_were_not(path: Path, at: int) -> None:
    assert len(found_in(path, MadeWrong(at).visit(ast.parse(path.read_text())))) == 1


def test_all_that_is_compared_is_there() -> None:
    """MD5 answer and two kinds of passwords in clear; nonce (twice), binding, proof and (as it should be, and as it may
    be besides) the server's signature; password in clear against a verifier, and both keys of two verifiers. Tokens are
    checked by signatures with public keys: there is nothing secret to compare."""
    counts = {path.name: sum(found.name == path.name for found, _ in RIGHT) for path, _ in RIGHT}
    assert counts == {"exchange.py": 3, "scram.py": 6, "verifier.py": 3}
    assert not [entry for entry in HARMLESS if entry[1] not in texts_of(entry[0])], "no longer needed"


def texts_of(module: str) -> list[str]:
    return [ast.unparse(node) for node in comparisons(ast.parse((PACKAGE / module).read_text()))]


@pytest.mark.parametrize("path", COMPILED_SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_compiled_code_compares_secrets_in_constant_time(path: Path) -> None:
    assert not found_in_compiled(path, path.read_text())


def test_a_cancel_key_compared_otherwise_would_be_found() -> None:
    """Cancel keys are compared with those of all clients, in the relay."""
    path = PACKAGE / "workers/relay/server_side.pyx"
    right = "not same_bytes(row.cancel_secret, <const uint8_t *><const char *>secret, row.cancel_length)"
    text = path.read_text()
    assert text.count(right) == 1 and text.count("same_bytes(") == 1
    for wrong in ("memcmp(row.cancel_secret, <const char *>secret, n) != 0", "row.cancel_secret[:n] != secret"):
        assert len(found_in_compiled(path, text.replace(right, wrong))) == 1
    assert (
        "same_bytes("
        in (PACKAGE / "auth/digest.pyx").read_text().partition("cpdef bint is_equal")[2].partition("\n\n\n")[0]
    )


# --- what runs -------------------------------------------------------------------------------------------------------

LONG = 16 << 20
EARLY, LATE = (bytearray(LONG) for _ in range(2))
EARLY[0] = LATE[-1] = 1


def is_constant_in_time(compare: Callable[[bytes, bytes], object]) -> bool:
    """A difference in the first of 16 MiB takes as long as one in the last; the quickest of several."""
    whole, early, late = bytes(LONG), bytes(EARLY), bytes(LATE)

    def took(other: bytes) -> float:
        began = time.perf_counter()
        compare(whole, other)
        return time.perf_counter() - began

    pairs = [(took(early), took(late)) for _ in range(5)]
    first, last = (min(taken) for taken in zip(*pairs, strict=True))
    return first > last / 2


@pytest.mark.parametrize("compare", [is_equal, hmac.compare_digest])
def test_where_the_difference_is_takes_no_other_time(compare: Callable[[bytes, bytes], bool]) -> None:
    """`is_equal` is `same_bytes`, which also compares cancel keys."""
    assert is_constant_in_time(compare)


def test_an_early_end_would_be_noticed() -> None:
    assert not is_constant_in_time(operator.eq)


class Tripwire(str):
    """A stored password that must not be compared by `==`."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared by ==")

    __ne__ = __eq__
    __hash__ = str.__hash__


def test_a_tripwire_trips() -> None:
    with pytest.raises(AssertionError, match="by =="):
        assert Tripwire("secret") == "wrong"


@pytest.mark.parametrize("stored", ["secret", md5_hash("secret", "ann")], ids=["clear", "md5"])
def test_a_password_in_clear_touches_no_tripwire(stored: str) -> None:
    asked = Asked("ann", Tripwire(stored), Tripwire(stored), lambda n: bytes(n), None)
    assert judge_password(asked, b"secret") == (True, None)
    assert judge_password(asked, b"secrex") == (False, None)


def test_an_md5_answer_touches_no_tripwire() -> None:
    stored = md5_hash("secret", "ann")
    for sent, is_right in ((stored, True), (md5_hash("wrong", "ann"), False)):
        exchange = Md5Exchange("ann", Tripwire(stored), lambda n: bytes(n))
        exchange.start()
        try:
            exchange.feed(md5_answer(sent, bytes(4)).encode() + b"\0")
        except ClientFault:
            assert not is_right
        assert exchange.done == is_right
