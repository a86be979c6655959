"""Values that are not ASCII follow their client, whatever encodings it and the servers' clients before it had.

`search_path` is the one that is reported (PostgreSQL 18) and may hold such names.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorman.workers.encodings import ALIASES, CODECS, reported_name
from tests.e2e.lone import Lone, lone_pooler
from tests.e2e.raw import Raw
from tests.harness import Doorman, Postgres
from tests.torture.wire import message, query, startup

WRITTEN = {"UTF8": b"\xc3\xa9", "LATIN1": b"\xe9", "WIN1252": b"\xe9"}  # é


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Postgres, Doorman]]:
    with lone_pooler() as services:
        services[0].admin('CREATE SCHEMA "é"')
        services[0].admin('CREATE TABLE "é".here AS SELECT 7 AS x')
        services[0].admin('GRANT USAGE ON SCHEMA "é" TO PUBLIC')
        services[0].admin('GRANT SELECT ON "é".here TO PUBLIC')
        yield services


@pytest.fixture
def lone(services: tuple[Postgres, Doorman]) -> Iterator[Lone]:
    with Lone(*services) as lone:
        yield lone


def spelled(text: bytes) -> bytes:
    """A Query in the client's own encoding."""
    return message(b"Q", text + b"\0")


def assert_found_on_each_server(lone: Lone, raw: Raw, told: bytes) -> None:
    """And the client was told its path as it writes it."""
    pids = set()
    for _ in range(20):
        holder = lone.client("two")
        holder.ask(query("BEGIN; SELECT 1"))
        pids.add(raw.value("SELECT pg_backend_pid()"))
        assert raw.value("SELECT x FROM here") == "7"
        other = lone.client("two", client_encoding="SJIS")
        holder.ask(query("COMMIT"))
        other.value("SELECT 1")
        if len(pids) == 2:
            break
    assert len(pids) == 2
    assert raw.parameters["search_path"].encode("utf-8", "surrogateescape") == b'"' + told + b'"'


@pytest.mark.parametrize("encoding", WRITTEN)
def test_what_a_client_sets_in_its_own_encoding(lone: Lone, encoding: str) -> None:
    raw = lone.client("two", client_encoding=encoding)
    assert "E:" not in raw.ask(spelled(b'SET search_path TO "' + WRITTEN[encoding] + b'"'))
    assert_found_on_each_server(lone, raw, WRITTEN[encoding])


@pytest.mark.parametrize("before", ["LATIN1", "SJIS", "UTF8"])
@pytest.mark.parametrize("encoding", WRITTEN)
def test_what_it_asks_for_at_startup(lone: Lone, encoding: str, before: str) -> None:
    """A startup packet is in the server's encoding, as PostgreSQL takes it."""
    for stranger in [lone.client("two", client_encoding=before) for _ in range(2)]:
        stranger.value("SELECT 1")
    raw = lone.client("two", client_encoding=encoding, search_path='"é"')
    assert_found_on_each_server(lone, raw, WRITTEN[encoding])


def test_a_value_stays_when_its_client_chooses_another_encoding(lone: Lone) -> None:
    raw = lone.client("two", client_encoding="LATIN1")
    raw.ask(spelled(b'SET search_path TO "\xe9"'))
    raw.ask(query("SET client_encoding = 'UTF8'"))
    assert raw.value("SELECT x FROM here") == "7"
    raw.ask(query("SET search_path TO public"), query('SET search_path TO "é"'), ready=2)
    assert_found_on_each_server(lone, raw, WRITTEN["UTF8"])


@pytest.mark.parametrize("sql", ["{path}; {encoding}", "{encoding}; {path}"])
def test_both_in_one_query(lone: Lone, sql: str) -> None:
    raw = lone.client("two")
    raw.ask(query(sql.format(path='SET search_path TO "é"', encoding="SET client_encoding = 'LATIN1'")))
    assert_found_on_each_server(lone, raw, WRITTEN["LATIN1"])


def test_the_way_back_in_another_encoding(lone: Lone) -> None:
    raw = lone.client("two", search_path='"é"')
    raw.ask(query("SET client_encoding = 'LATIN1'"))
    for end in ("ROLLBACK", "COMMIT"):
        raw.ask(query("BEGIN"), query("SET search_path TO nowhere"), ready=2)
        assert "E:" not in raw.ask(query("RESET search_path"))
        assert raw.value("SELECT x FROM here") == "7"
        raw.ask(query(end))
        assert_found_on_each_server(lone, raw, WRITTEN["LATIN1"])


def test_the_way_back_is_told_in_its_clients_encoding(lone: Lone) -> None:
    raw, other = (lone.client("one", search_path='"é"', client_encoding="LATIN1") for _ in range(2))
    raw.ask(query("RESET search_path"))
    other.value("SELECT 1")
    assert raw.value("SELECT x FROM here") == "7"
    assert raw.parameters["search_path"] == '"\udce9"'


def test_what_its_encoding_cannot_tell_ends_its_clients_session_alone(lone: Lone) -> None:
    """PostgreSQL refuses such a login as well. Of a session it would try to report that for ever."""
    before = lone.client("two").value("SELECT 1"), lone.servers()
    bare = Raw((lone.doorman.host, lone.doorman.port))
    lone.made.append(bare)
    bare.send(startup("app", "two", client_encoding="LATIN1", search_path="日"))
    fields = bare.last_words()
    assert (fields["V"], fields["C"]) == ("FATAL", "22P05")
    raw = lone.client("two")
    raw.ask(query('SET search_path TO "日"'))
    raw.ask(query("SET client_encoding = 'LATIN1'"))
    raw.send(query("SELECT 1"))
    fields = raw.last_words()
    assert (fields["V"], fields["C"]) == ("FATAL", "22P05") and "search_path" in fields["M"]
    assert (lone.client("two").value("SELECT 1"), lone.servers()) == before


def test_a_value_in_an_encoding_that_is_not_known_ends_its_clients_session_alone(lone: Lone) -> None:
    before = lone.client("two").value("SELECT 1"), lone.servers()
    raw = lone.client("two", client_encoding="EUC_TW")
    assert raw.ask(spelled(b'SET search_path TO "\xc4\xa1"')) == "C S ZI"
    raw.send(query("SELECT 1"))
    assert raw.last_words()["C"] == "22P05"
    assert (lone.client("two").value("SELECT 1"), lone.servers()) == before


def test_encodings_have_the_names_that_postgresql_knows(services: tuple[Postgres, Doorman]) -> None:
    names = [*ALIASES, *CODECS, "utf-8", "Windows 1252", "iso_8859_15", "KOI8-R", "iso 8859-5"]
    rows = services[0].admin(
        "SELECT n, pg_encoding_to_char(pg_char_to_encoding(n)) FROM unnest(%s::name[]) AS n", [names]
    )
    assert {name: reported_name(name) for name in names} == dict(rows)
    assert reported_name("no such") == "no such"
