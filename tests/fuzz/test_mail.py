"""Mail of other processes, servers handed on, deadlines: several at once, and what is done for the first one raises.

The relay and the table are real; a second process is played by `Trial`. Which of the Python callbacks raises does not
matter: everything that is done for somebody may, be it that no memory is left.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from doorman.shm.table import monotonic_us
from doorman.shm.trial import Trial
from tests.fuzz.script import message
from tests.fuzz.stage import COMPLAINTS, PLAIN, SESSION, ClientEnd, Login, ServerEnd, Stage
from tests.simulate.invariants import check_table

ANSWER = message(b"T", b"\0\0") + message(b"C", b"SELECT 0\0") + message(b"Z", b"I")


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(pool_size=2, processes=2)
    yield stage
    stage.close()


def query(text: bytes) -> bytes:
    return message(b"Q", text + b"\0")


def enter(stage: Stage, number: int) -> list[ClientEnd]:
    """Clients that are logged in, with as many servers idle as the pool may have."""
    clients = [stage.connect(PLAIN) for _ in range(number)]
    stage.settle()
    for client in clients[:2]:  # both at once: so there are two servers
        client.write(query(b"warm up"))
    stage.settle()
    for server in stage.servers:
        server.write(ANSWER)
    stage.settle()
    assert len(stage.servers) == 2 and not stage.trial.pool_row(PLAIN)["n_busy"]
    for end in (*clients, *stage.servers):
        end.received.clear()
    return clients


def take_all(stage: Stage) -> tuple[Trial, list[int]]:
    """Another process has taken both servers."""
    other = Trial(stage.table, 1)
    slots = []
    for _ in range(2):
        slots.append(other.take(PLAIN, log_in(other), monotonic_us())[0])
    assert -1 not in slots and len(set(slots)) == 2
    return other, slots


def log_in(other: Trial) -> int:
    """A client of another process."""
    client = other.admit(monotonic_us())
    other.log_in(client, PLAIN)
    return client


def raise_once(stage: Stage, name: str) -> None:
    """The next call of this callback of the host's fails."""
    callback: Callable[..., Any] = getattr(stage.host, name)

    def fail(*arguments: object) -> None:
        setattr(stage.host, name, callback)
        raise MemoryError("injected")

    setattr(stage.host, name, fail)


def raised_once() -> None:
    assert len(COMPLAINTS.records) == 1 and "injected" in COMPLAINTS.records[0], COMPLAINTS.records
    COMPLAINTS.records.clear()


def assert_serves(stage: Stage, client: ClientEnd, text: bytes) -> None:
    client.write(query(text))
    stage.settle()
    assert_served(stage, client, text)


def assert_served(stage: Stage, client: ClientEnd, text: bytes) -> None:
    [server] = [server for server in stage.servers if query(text) in server.received]
    server.write(ANSWER)
    stage.settle()
    assert client.received == ANSWER
    client.received.clear()
    server.received.clear()


def server_of(stage: Stage, slot: int) -> ServerEnd:
    return next(server for server in stage.servers if server.slot == slot)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_grant_that_raises_ends_its_client_and_the_others_arrive(stage: Stage, bad: int) -> None:
    first, second, third, *_ = clients = enter(stage, 3)
    other, slots = take_all(stage)
    for client, text in ((first, b"one"), (second, b"two")):
        client.write(query(text))
        stage.settle()
    for slot in slots:
        other.give_back(slot, monotonic_us())
    assert stage.trial.mail_of(0) == set(slots)
    stage.relay.drop(slots[bad], server_of(stage, slots[bad]).generation)  # so its socket must be asked for
    raise_once(stage, "want")
    stage.settle()
    raised_once()
    assert [client.is_ended for client in clients] == [bad == 0, bad == 1, False]
    assert_served(stage, (second, first)[bad], (b"two", b"one")[bad])
    for text in (b"three", b"four"):
        assert_serves(stage, third, text)
    check_table(stage.trial)
    row = stage.trial.pool_row(PLAIN)
    assert (row["n_idle"], row["n_busy"], row["n_waiting"]) == (2, 0, 0), "a server is lost"


def test_a_client_whose_end_raises_keeps_no_other_one_from_its_end(stage: Stage) -> None:
    clients = enter(stage, 3)
    other, _ = take_all(stage)
    for client in clients[:2]:
        client.write(query(b"wait"))
    stage.settle()
    for client in range(2):
        assert other.condemn(client)
    raise_once(stage, "client_ended")
    stage.settle()
    raised_once()
    assert [client.is_ended for client in clients] == [True, True, False]
    assert b"57P01" in clients[1].received
    assert stage.trial.pool_row(PLAIN)["n_waiting"] == 0


def test_a_waiter_whose_end_raises_keeps_no_other_one_waiting(stage: Stage) -> None:
    """Logins, which wait for the first server of all; another process could not open it."""
    other, now = Trial(stage.table, 1), monotonic_us()
    slots = [other.take(PLAIN, log_in(other), now)[1] for _ in range(2)]
    assert -1 not in slots
    clients = [stage.connect(PLAIN) for _ in range(3)]
    stage.settle()
    assert stage.trial.pool_row(PLAIN)["n_waiting"] == 5
    for slot in slots:
        other.open_failed(slot, now)
    later = now + 60_000_000
    other.open_failed(other.reserve(PLAIN, later), later)
    raise_once(stage, "client_ended")
    stage.settle()
    raised_once()
    assert all(client.is_ended for client in clients)
    assert all(b"no route to host" in client.received for client in clients[1:])


def test_a_server_whose_deadline_raises_does_not_take_away_that_of_others(stage: Stage) -> None:
    """Two clients vanish amid their statements; the second cancel request of the one cannot be sent."""
    clients = enter(stage, 2)
    for client in clients:
        client.write(query(b"for ever"))
    stage.settle()
    for client in clients:
        client.close()
    stage.settle()
    time.sleep(0.15)  # a tenth of a second is what the first request gets
    raise_once(stage, "cancel_server")
    stage.relay.tick()
    raised_once()
    assert len(stage.host.to_cancel) == 1, "nobody cancels the other statement any more"
    stage.settle()


def test_a_login_that_raises_costs_not_the_server_that_it_got(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In session mode a login waits for its server; the client before it hands it on."""
    holders = [stage.connect(SESSION) for _ in range(2)]
    stage.settle()
    bad, good = (stage.connect(SESSION) for _ in range(2))
    stage.settle()
    assert len(stage.servers) == 2 and stage.trial.pool_row(SESSION)["n_waiting"] == 2
    greet = Login.greet

    def fail(login: Login, *arguments: Any) -> None:
        monkeypatch.setattr(Login, "greet", greet)
        raise MemoryError("injected")

    monkeypatch.setattr(Login, "greet", fail)
    holders[0].close()
    for _ in range(2):  # of the first client's, then of the failed one's leavings
        stage.settle()
        for server in stage.servers:
            if b"DISCARD ALL" in server.received:
                server.received.clear()
                server.write(message(b"C", b"DISCARD ALL\0") + message(b"Z", b"I"))
    stage.settle()
    raised_once()
    assert bad.is_ended and not good.is_ended and good.received, "the next one has not got it"
    assert len(stage.servers) == 2 and not any(server.is_ended for server in stage.servers)
    check_table(stage.trial)


def test_many_logins_that_waited_for_the_first_server_are_not_as_many_calls_deep() -> None:
    """In transaction mode each gives the server on to the next at once. A child with little stack does it."""
    number = 1500
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * number + 500:
        pytest.skip("needs more descriptors")
    child = os.fork()
    if child == 0:
        left = 255
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            left = log_in_with_little_stack(number)
        finally:
            os._exit(left)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def log_in_with_little_stack(number: int) -> int:
    """How many of so many clients wait in the end."""
    stage = Stage(pool_size=1, clients=number, max_connections=number)
    opening: list[tuple[int, int, int]] = []
    stage.open = lambda *slot: opening.append(slot)  # type: ignore[assignment, misc]
    while stage.trial.pool_row(PLAIN)["n_waiting"] < number:
        stage.relay.run()
        stage.attend()
        if len(stage.clients) < number:
            stage.connect(PLAIN).flush()
    del stage.open
    resource.setrlimit(resource.RLIMIT_STACK, (512 << 10, resource.RLIM_INFINITY))
    stage.open(*opening[0])
    return stage.trial.pool_row(PLAIN)["n_waiting"]


def end_elsewhere(stage: Stage) -> ServerEnd:
    """The stage's only server, which another process has taken and ended; nobody has been told."""
    [old] = stage.servers
    other = Trial(stage.table, 1)
    slot, _ = other.take(PLAIN, log_in(other), monotonic_us())
    assert slot == old.slot and other.start_close(slot)
    other.finish_close(slot)
    stage.host.forget(slot, old.generation)
    return old


def test_a_server_that_another_process_ended_leaves_no_descriptor_when_its_place_is_taken_here(stage: Stage) -> None:
    """That it is over is told some time later: by then this process may have opened the next one in the same slot."""
    client = stage.connect(PLAIN)
    stage.settle()
    old = end_elsewhere(stage)
    client.write(query(b"again"))
    stage.settle()
    new = stage.servers[-1]
    assert (new.slot, new.generation) == (old.slot, old.generation + 1)
    stage.settle()
    assert old.is_ended, "its descriptor is still open"


def test_a_server_that_another_process_gave_up_leaves_no_descriptor_even_if_nobody_tells(stage: Stage) -> None:
    """Its slot may stay empty for long, and PostgreSQL would keep the connection as long."""
    stage.connect(PLAIN)
    stage.settle()
    old = end_elsewhere(stage)
    for _ in range(10):
        stage.tick()
    stage.settle()
    assert old.is_ended, "its descriptor is still open"


def test_a_socket_that_is_needed_to_end_a_connection_is_asked_for_until_it_comes(stage: Stage) -> None:
    stage.connect(PLAIN)
    stage.settle()
    [server] = stage.servers
    stage.relay.drop(server.slot, server.generation)
    assert stage.relay.close_idle(server.slot, server.generation)
    stage.host.wanted.clear()  # the question, or its answer, is lost
    for _ in range(10):
        stage.tick()
    stage.settle()
    assert server.is_ended, "the connection is left open"
    server.close()
    stage.settle()
    assert not stage.trial.slot_row(server.slot)["state"]


def test_a_client_whose_servers_socket_comes_late_does_not_wait_for_ever_when_its_turn_raises(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = stage.connect(SESSION)
    stage.settle()
    [server] = stage.servers
    holder.close()
    stage.settle()
    server.write(message(b"C", b"DISCARD ALL\0") + message(b"Z", b"I"))
    stage.settle()
    stage.relay.drop(server.slot, server.generation)
    greet = Login.greet

    def fail(login: Login, *arguments: Any) -> None:
        monkeypatch.setattr(Login, "greet", greet)
        raise MemoryError("injected")

    monkeypatch.setattr(Login, "greet", fail)
    bad = stage.connect(SESSION)
    stage.settle()
    raised_once()
    assert bad.is_ended


def test_a_new_server_that_cannot_be_watched_does_not_keep_its_place_for_ever(stage: Stage) -> None:
    """epoll has no memory for it, or does not take such a file, as here."""
    opening: list[tuple[int, int, int]] = []
    stage.open = lambda *slot: opening.append(slot)  # type: ignore[assignment, misc]
    client = stage.connect(PLAIN)
    stage.settle()
    [(_, slot, _)] = opening
    nothing = os.open("/dev/null", os.O_RDONLY)
    stage.relay.opened(slot, nothing, 1, b"secret", b"", lifetime_us=0, idle_timeout_us=0)
    assert len(COMPLAINTS.records) == 1
    COMPLAINTS.records.clear()
    stage.settle()
    assert not stage.trial.slot_row(slot)["state"]
    assert client.is_ended and b"internal error" in client.received


@pytest.mark.parametrize("waits_for", ["a server", "its socket"])
def test_a_client_that_is_sent_away_keeps_no_server_while_it_reads_why(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    """It has sent more than was asked for, so it may take some seconds for its last words."""
    logins: list[Login] = []
    start_login = stage.host.start_login

    def note(client: Any) -> Login:
        logins.append(start_login(client))
        return logins[-1]

    monkeypatch.setattr(stage.host, "start_login", note)
    client = enter(stage, 2)[0]
    monkeypatch.setattr(stage, "look_for", lambda *server: None)  # the answer is late
    other = Trial(stage.table, 1)
    slots: list[int] = []
    if waits_for == "a server":
        other, slots = take_all(stage)
    else:
        for server in stage.servers:
            stage.relay.drop(server.slot, server.generation)
    client.write(query(b"wait"))
    stage.settle()
    row = stage.trial.pool_row(PLAIN)
    assert (row["n_waiting"], row["n_busy"]) == ((1, 2) if slots else (0, 1))
    client.sock.send(b"more")
    stage.relay.dismiss(logins[0].client, b"!")
    for slot in slots:
        other.give_back(slot, monotonic_us())
    stage.settle()
    assert client.received == b"!"
    row = stage.trial.pool_row(PLAIN)
    assert (row["n_idle"], row["n_waiting"], row["n_busy"]) == (2, 0, 0)
