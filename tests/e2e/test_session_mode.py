"""Session mode, of the pool or of one user: the server is the client's from login to the end, and clean afterwards."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import POOL_SIZE, Connect, backends
from tests.e2e.lone import extended
from tests.e2e.raw import tell, wait_until
from tests.harness import Doorman, Postgres
from tests.torture.wire import COPY_DONE, SYNC, bind, copy_data, execute, parse, query, startup

LEFTOVERS = """
SELECT (SELECT count(*) FROM pg_prepared_statements) + (SELECT count(*) FROM pg_cursors)
     + (SELECT count(*) FROM pg_listening_channels())
     + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
     + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
       current_setting('search_path'), current_setting('statement_timeout'), current_user
"""
CLEAN = ["0", '"$user", public', "0", "app"]


@pytest.fixture(params=[("session", "app"), ("mixed", "scram_user")], ids=["pool", "user"])
def where(request: pytest.FixtureRequest) -> tuple[str, str]:
    place: tuple[str, str] = request.param
    return place


def test_the_key_names_the_clients_own_backend_from_first_to_last(connect: Connect, where: tuple[str, str]) -> None:
    first, second = connect(*where), connect(*where)
    for _ in range(5):
        assert first.value("SELECT pg_backend_pid()") == str(first.pid)
        assert second.value("SELECT pg_backend_pid()") == str(second.pid)
    assert first.pid != second.pid


def test_everything_that_a_session_owns_works_and_is_gone_afterwards(connect: Connect, where: tuple[str, str]) -> None:
    raw = connect(*where)
    pid = raw.pid
    assert raw.ask(parse("SELECT $1::int + 1", "plus"), SYNC) == "1 ZI"
    raw.ask(query("CREATE TEMP TABLE mine AS SELECT 42 AS answer"))
    raw.ask(query("PREPARE sql_level AS SELECT 1"), query("LISTEN news"), ready=2)
    raw.ask(query("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10)"))
    raw.ask(query("SET search_path = pg_catalog; SET statement_timeout = 9999; SELECT pg_advisory_lock(77)"))
    got = raw.converse(bind([b"4"], "plus"), execute(), SYNC)
    assert [one.columns() for one in got if one.kind == b"D"] == [[b"5"]]
    assert raw.value("SELECT answer FROM mine") == "42"
    assert raw.rows("FETCH 2 FROM held") == [["1"], ["2"]]
    raw.quit()
    for _ in range(POOL_SIZE):
        successor = connect(*where)
        assert successor.rows(LEFTOVERS) == [CLEAN]
        if successor.pid == pid:
            break
    else:
        pytest.fail("the server was not lent again")


@pytest.mark.parametrize("extends", [False, True])
def test_what_only_the_end_of_a_session_takes_back_is_taken_back(
    connect: Connect, postgres: Postgres, where: tuple[str, str], extends: bool
) -> None:
    postgres.admin("GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO app")
    raw = connect(*where)
    text = "SELECT pg_backup_start('mine', fast => true)"
    assert "D" in raw.ask(*([parse(text), bind(), execute(), SYNC] if extends else [query(text)]))
    assert raw.value("SELECT lsn <> '0/0' FROM pg_backup_stop(false)") == "t", "it is its own until then"
    raw.quit()
    wait_until(lambda: raw.pid not in [row["pid"] for row in backends(postgres)], "the server is closed")


@pytest.mark.parametrize("how", ["close", "reset", "quit"])
def test_a_session_that_ends_in_a_transaction_leaves_nothing(
    connect: Connect, where: tuple[str, str], table: str, how: str
) -> None:
    raw = connect(*where)
    raw.ask(query(f"BEGIN; INSERT INTO {table} VALUES (1, 'x'); LOCK {table}; SELECT pg_advisory_lock(78)"))
    getattr(raw, how)()
    successor = connect(*where)
    assert successor.value(f"SELECT count(*) FROM {table}") == "0"
    assert successor.rows(LEFTOVERS) == [CLEAN]


def test_notifications_reach_an_idle_session_at_once(connect: Connect) -> None:
    listener, speaker = connect("session"), connect("postgres")
    listener.ask(query("LISTEN news"))
    for number in range(20):
        speaker.ask(query(f"NOTIFY news, '{number}'"))
        got = listener.next()
        assert (got.kind, got.body[4:]) == (b"A", f"news\0{number}\0".encode())
    assert listener.value("SELECT 1") == "1"


def test_one_that_finds_no_server_waits_with_its_login_and_is_served_in_turn(connect: Connect, pooler: Doorman) -> None:
    holders = connect.many(POOL_SIZE, "session")
    waiting = [connect.bare() for _ in range(4)]
    for number, raw in enumerate(waiting):
        raw.send(startup("app", "session"))
        pooler.wait_pool("session", cl_waiting=number + 1)
    assert all(raw.is_silent(0.02) for raw in waiting)
    for gone in (holders[0], *waiting[:-1]):
        gone.quit() if gone.pid else None
        served = next(raw for raw in waiting if not raw.pid)
        served.until("Z")
        assert served.value("SELECT pg_backend_pid()") == str(served.pid)


def test_a_waiting_login_that_vanishes_leaves_the_queue(connect: Connect, pooler: Doorman) -> None:
    connect.many(POOL_SIZE, "session")
    raw = connect.bare()
    raw.send(startup("app", "session"))
    pooler.wait_pool("session", cl_waiting=1)
    raw.close()
    pooler.wait_pool("session", cl_waiting=0)


def test_a_session_whose_backend_is_terminated_is_told_so(connect: Connect, pooler: Doorman) -> None:
    raw, other = connect("session"), connect("session")
    other.value(f"SELECT pg_terminate_backend({raw.pid})")
    assert raw.last_words()["C"] == "57P01"
    assert other.value("SELECT 1") == "1"


def test_sessions_in_one_pool_and_transactions_in_another_do_not_meet(connect: Connect) -> None:
    sessions = connect.many(POOL_SIZE, "session")
    for raw in sessions:
        raw.ask(query("BEGIN"))
    assert connect("postgres").value("SELECT 1") == "1"
    assert connect("mixed").value("SELECT 1") == "1"
    for raw in sessions:
        assert tell(raw.converse(query("COMMIT"))) == "C ZI"


def test_many_sessions_in_turn_use_few_servers(connect: Connect, pooler: Doorman) -> None:
    pids = set()
    for _ in range(20):
        raw = connect("session")
        pids.add(raw.pid)
        raw.quit()
        wait_until(lambda: pooler.pool_row("session")["sv_active"] == 0, "given back")
    assert len(pids) <= POOL_SIZE


@pytest.mark.parametrize("begin", ["SELECT 1", "BEGIN"])
@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize("back", ["RESET ALL", "RESET TimeZone", "DISCARD ALL"])
def test_the_way_back_leads_to_what_was_asked_for_at_startup(
    connect: Connect, where: tuple[str, str], back: str, send: Callable[[str], bytes], begin: str
) -> None:
    """As asyncpg's pool does it each time it gives a connection back."""
    if begin == "BEGIN" and back == "DISCARD ALL":
        return
    raw = connect(*where, TimeZone="Asia/Tokyo")
    for _ in range(2):
        raw.ask(query(begin))
        raw.ask(query("SET TimeZone = 'America/Lima'"), query("SET work_mem = '5MB'"), ready=2)
        assert raw.parameters["TimeZone"] == "America/Lima"
        raw.ask(send(back))
        assert raw.parameters["TimeZone"] == "Asia/Tokyo"
        assert raw.value("SHOW TimeZone") == "Asia/Tokyo"
        assert raw.value("SHOW work_mem") == ("5MB" if back == "RESET TimeZone" else "4MB")
        raw.ask(query("COMMIT; RESET work_mem"))


def test_one_who_leaves_while_its_settings_are_set_again(connect: Connect, where: tuple[str, str]) -> None:
    for _ in range(20):
        raw = connect(*where, TimeZone="Asia/Tokyo")
        raw.send(query("RESET ALL"))
        raw.close()
    assert connect(*where).value("SHOW TimeZone") != "Asia/Tokyo"


def test_notifications_that_come_while_settings_are_set_again(connect: Connect, where: tuple[str, str]) -> None:
    raw, other = connect(*where, TimeZone="Asia/Tokyo"), connect(*where)
    raw.ask(query("LISTEN news"))
    heard = 0
    for _ in range(100):
        other.send(query("NOTIFY news"))
        heard += sum(got.kind == b"A" for got in raw.converse(query("RESET ALL")))
        other.until("Z")
    heard += sum(got.kind == b"A" for got in raw.converse(query("SELECT 1"), query("SELECT 1"), ready=2))
    assert heard == 100


@pytest.mark.parametrize("send", [query, extended], ids=["simple", "extended"])
def test_set_to_default_leads_to_what_was_asked_for_at_startup(
    connect: Connect, where: tuple[str, str], send: Callable[[str], bytes]
) -> None:
    raw = connect(*where, TimeZone="Asia/Tokyo")
    raw.ask(query("SET TimeZone = 'America/Lima'"))
    raw.ask(send("SET TimeZone TO DEFAULT"))
    assert raw.parameters["TimeZone"] == "Asia/Tokyo"
    assert raw.value("SHOW TimeZone") == "Asia/Tokyo"


def test_one_who_leaves_without_having_read_what_comes_before_the_way_back(
    connect: Connect, where: tuple[str, str]
) -> None:
    for _ in range(5):
        raw = connect(*where, TimeZone="Asia/Tokyo")
        raw.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 30000); RESET ALL"))
        time.sleep(0.2)
        raw.close()
    assert connect(*where).value("SHOW TimeZone") != "Asia/Tokyo"


def test_the_way_back_and_half_a_message_of_a_copy_that_has_failed(
    connect: Connect, where: tuple[str, str], table: str
) -> None:
    raw = connect(*where, TimeZone="Asia/Tokyo")
    large = copy_data(b"1\t" + b"x" * 1_000_000 + b"\n")
    raw.send(query(f"RESET ALL; COPY {table} FROM STDIN"))
    raw.until("G")
    raw.send(copy_data(b"bad\n"), large[:500_000])
    assert tell(raw.until("Z")) == "E:22P02 ZI"
    time.sleep(0.3)
    raw.send(large[500_000:], COPY_DONE)
    assert raw.value("SHOW TimeZone") == "Asia/Tokyo"


def test_the_way_back_and_a_notification_right_behind_it(connect: Connect, pooler: Doorman) -> None:
    """A slow reader: by the time that it has read everything, the notification has come."""
    raw, other = connect.bare(), connect("session")
    raw.socket.close()
    raw.socket = socket.socket()
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.socket.settimeout(15)
    raw.socket.connect((pooler.host, pooler.port))
    raw.log_in("app", "session", TimeZone="Asia/Tokyo")
    raw.ask(query("LISTEN news"))
    for size in (3000, 4000, 5000):
        raw.send(query(f"SELECT repeat('x', 1000) FROM generate_series(1, {size}); RESET TimeZone"))
        time.sleep(0.7)
        other.ask(query("NOTIFY news"))
        time.sleep(0.2)
        raw.until("Z")
        assert raw.value("SHOW TimeZone") == raw.parameters["TimeZone"] == "Asia/Tokyo"
