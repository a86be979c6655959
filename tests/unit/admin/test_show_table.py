"""SHOW over a table whose rows were brought into their states through the pool's own doors."""

from __future__ import annotations

import pytest

from doorman.shm.rows import slot_rows
from doorman.shm.table import Table, monotonic_us
from doorman.shm.trial import Trial
from tests.unit.admin.client import Session

SECOND = 1_000_000
WRITER = 0  # row of shop/writer


@pytest.fixture
def worker(table: Table) -> Trial:
    return Trial(table, process=1)


def log_in(worker: Trial) -> int:
    client = worker.admit(monotonic_us() - 9 * SECOND)
    worker.log_in(client, WRITER)
    return client


def open_server(worker: Trial, client: int, now: int) -> int:
    """A server for a client that finds none: taken, opened, lent."""
    slot, to_open = worker.take(WRITER, client, now)
    assert slot < 0 <= to_open
    assert worker.give_back(to_open, now) == client
    return to_open


def writer_row(session: Session) -> dict[str, str | None]:
    (row,) = [row for row in session.rows("SHOW POOLS") if row["user"] == "writer"]
    return row


def server_states(session: Session) -> dict[str | None, str | None]:
    return {row["server_id"]: row["state"] for row in session.rows("SHOW SERVERS")}


def test_a_servers_way_shows(session: Session, worker: Trial, table: Table) -> None:
    now = monotonic_us()
    client = log_in(worker)
    _, opening = worker.take(WRITER, client, now)
    (server_id,) = server_states(session)
    assert writer_row(session)["sv_login"] == "1" and server_states(session) == {server_id: "login"}

    worker.give_back(opening, now - 3 * SECOND)
    row = writer_row(session)
    assert row["sv_active"] == "1" and 3000 <= int(row["oldest_active_age_ms"] or "") < 4000
    assert server_states(session) == {server_id: "active"}

    worker.start_reset(opening)
    assert writer_row(session)["sv_active"] == "1" and server_states(session) == {server_id: "active"}

    worker.give_back(opening, now)
    row = writer_row(session)
    assert (row["sv_active"], row["sv_idle"], row["oldest_active_age_ms"]) == ("0", "1", "0")
    assert server_states(session) == {server_id: "idle"}

    worker.start_close(opening)
    row = writer_row(session)
    assert {row[key] for key in ("sv_active", "sv_idle", "sv_login", "sv_used")} == {"0"}
    assert server_states(session) == {server_id: "closing"}

    worker.finish_close(opening)
    assert server_states(session) == {}
    open_server(worker, log_in(worker), now)
    assert len(slot_rows(table)) == 1 and server_id not in server_states(session)


def test_the_oldest_wait_shows_while_it_lasts(session: Session, worker: Trial) -> None:
    now = monotonic_us()
    worker.set_paused(WRITER, True)
    waiter = log_in(worker)
    assert worker.take(WRITER, waiter, now - 2 * SECOND) == (-1, -1)
    row = writer_row(session)
    assert (row["paused"], row["maxwait"]) == ("1", "2") and 0 < int(row["maxwait_us"] or "") < SECOND
    worker.leave_queue(waiter)
    assert (writer_row(session)["maxwait"], writer_row(session)["maxwait_us"]) == ("0", "0")


def test_clients_show_once_they_are_logged_in(session: Session, worker: Trial) -> None:
    stranger = worker.admit(monotonic_us())
    client = log_in(worker)
    (row,) = session.rows("SHOW CLIENTS")
    assert (row["database"], row["user"], row["state"], row["age_seconds"]) == ("shop", "writer", "idle", "9")
    assert writer_row(session)["cl_idle"] == "1"
    worker.dismiss(stranger)
    worker.dismiss(client)
    assert session.rows("SHOW CLIENTS") == []
