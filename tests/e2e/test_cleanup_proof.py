"""Whatever one client does to a server's session, the next client on the same server finds nothing of it.

Every example of `commands` runs in every way that a client may go about it, by both protocols, in transaction mode
with a single server. The server must be the same one afterwards: cleaned, not replaced.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.e2e.commands import CANNOT, EXAMPLES, Example
from tests.e2e.lone import Lone, difference, extended, lone_pooler, snapshot
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres, find_debian_postgres
from tests.torture.wire import TERMINATE, query

WAYS = ["alone", "committed", "rolled back", "failed", "vanished"]
ALL = [(command, example) for command, examples in EXAMPLES.items() for example in examples]


def cases() -> list[ParameterSet]:
    return [pytest.param(example, id=f"{command}: {example.name}") for command, example in ALL]


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def test_the_table_knows_every_command_of_postgresql(lone: Lone) -> None:
    check_commands(lone.postgres)


def test_the_snapshot_sees_what_each_example_leaves(lone: Lone) -> None:
    """Directly on PostgreSQL; else the proof below would prove nothing."""
    for _, example in ALL:
        with Raw((lone.postgres.host, lone.postgres.port)).log_in("postgres") as direct:
            before = snapshot(direct)
            direct.ask(query("BEGIN" if example.where == "block" else ""))
            for statement in example.statements:
                assert "E:" not in direct.ask(query(statement)), (statement, example)
            seen = difference(before, snapshot(direct)).keys() - {"transaction"}
            assert seen or not example.leaves, example
            direct.send(TERMINATE)
            direct.read_to_end()  # its locks are gone


@pytest.mark.parametrize("example", cases())
def test_nothing_is_left(lone: Lone, example: Example) -> None:
    ways = [way for way in WAYS if example.where == "anywhere" or (example.where == "alone") == (way == "alone")]
    assert left_by(lone, example, ways) == {}


def test_nothing_is_left_by_one_that_quits_at_once(lone: Lone) -> None:
    """Terminate in the same packet: the server is still at work, and does all of it, when its client is gone."""
    left = {}
    for _, example in ALL:
        left[example.name] = left_by(lone, example, ["quits at once"])
    assert {name: found for name, found in left.items() if found} == {}


def test_nothing_is_left_in_debians_postgresql() -> None:
    bindir = find_debian_postgres()
    if bindir is None:
        pytest.skip("needs Debian's package postgresql")
    with lone_pooler(bindir) as services, Lone(*services) as lone:
        check_commands(lone.postgres)
        for _, example in ALL:
            way = "alone" if example.where == "alone" else "committed"
            assert left_by(lone, example, [way]) == {}, example


def check_commands(postgres: Postgres) -> None:
    psql = [str(postgres.bindir / "psql"), "-X", "-d", postgres.dsn(user="postgres"), "-c", "\\h *"]
    told = subprocess.run(psql, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^Command:\s+(.*)$", told, re.MULTILINE)
    excused = [name for names in CANNOT.values() for name in re.split(r",\s*", names.strip())]
    assert len(commands) > 180
    assert set(commands) - set(EXAMPLES) == set(excused)
    assert len(set(excused)) == len(excused)


def left_by(lone: Lone, example: Example, ways: list[str]) -> dict[tuple[str, str], object]:
    """What another client finds, by way and protocol."""
    left: dict[tuple[str, str], object] = {}
    other = lone.client("super")
    before = snapshot(other)
    for way in ways:
        for protocol in ("simple", "extended"):
            play(lone.client("super"), example, way, protocol)
            found = difference(before, snapshot(other))
            if found:
                left[way, protocol] = found
                lone.replace_servers()
                before = snapshot(lone.client("super"))
    return left


def play(actor: Raw, example: Example, way: str, protocol: str) -> None:
    encode = query if protocol == "simple" else extended
    statements = [encode(statement) for statement in example.statements]
    if way == "quits at once":
        actor.send(*statements, TERMINATE)
        actor.read_to_end()
        return
    in_block = way != "alone"
    for message in [encode("BEGIN")] * in_block + statements:
        refused = "E:" in actor.ask(message)
        # Alone, the second statement finds a clean session.
        assert not refused or (way == "alone" and len(statements) > 1), example
    if way == "failed":
        actor.ask(encode("SELECT 1/0"))
    if way == "vanished":
        actor.close()
    elif in_block:
        actor.ask(encode("COMMIT" if way == "committed" else "ROLLBACK"))
