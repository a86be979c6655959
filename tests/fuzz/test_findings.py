"""What fuzzing found, as the smallest transcripts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.fuzz.faithful import Theatre, told
from tests.fuzz.script import message
from tests.fuzz.stage import PLAIN, RENAMES, SESSION, ClientEnd, Stage

SYNC = message(b"S", b"")
EXECUTE = message(b"E", b"\0" + bytes(4))
READY = message(b"Z", b"I")
MakeStage = Callable[..., Stage]


def parse(name: bytes, text: bytes) -> bytes:
    return message(b"P", name + b"\0" + text + b"\0\0\0")


def query(text: bytes) -> bytes:
    return message(b"Q", text + b"\0")


def bind(name: bytes) -> bytes:
    return message(b"B", b"\0" + name + b"\0" + bytes(6))


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(**options: int) -> Stage:
        made.append(Stage(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def theatre() -> Iterator[Theatre]:
    theatre = Theatre(pool_size=1)
    yield theatre
    theatre.close()


def enter(stage: Stage, pool: int = RENAMES) -> ClientEnd:
    client = stage.connect(pool)
    stage.settle()
    return client


def finish(theatre: Theatre) -> None:
    """Let the servers work; every client that is there must have got all of its answers."""
    theatre.settle()
    for client in theatre.clients:
        if client.is_open and not client.direct.is_over:
            client.check(fully=True)
    theatre.check_idle()


# --- memory and strangers' bytes -------------------------------------------------------------------------------------


def test_a_large_parse_of_a_client_whose_statements_are_not_renamed_streams(make_stage: MakeStage) -> None:
    """It was read to its end where only its beginning had come: up to 256 MiB behind the read buffer."""
    stage = make_stage()
    client = enter(stage, PLAIN)
    whole = parse(b"", b"x" * 1_000_000)
    client.write(whole[:70_000])
    stage.settle()
    assert bytes(stage.servers[0].received) == whole[:70_000]
    client.write(whole[70_000:])
    stage.settle()
    assert bytes(stage.servers[0].received) == whole


@pytest.mark.parametrize("last", [b"\xff\0\0\0\4", b"Q\0\0\0\0", parse(b"big", b"x" * 400_000)[:100]])
def test_what_was_put_together_for_a_client_that_is_sent_away_reaches_no_stranger(
    make_stage: MakeStage, last: bytes
) -> None:
    """After a message written anew came one that ends the connection: the former went to the next client's server."""
    stage = make_stage()
    intruder, client = enter(stage), enter(stage)
    intruder.write(parse(b"a", b"drop table t") + last)
    stage.settle()
    assert intruder.is_ended
    stage.servers[0].write(message(b"1", b"") + message(b"E", b"\0") + READY)
    stage.settle()
    for server in stage.servers:
        server.received.clear()
    client.write(parse(b"b", b"select 1") + SYNC)
    stage.settle()
    assert not any(b"drop table" in server.received for server in stage.servers)


def test_an_error_of_a_begin_that_was_put_off_ends_the_client_not_the_worker(make_stage: MakeStage) -> None:
    stage = make_stage()
    client = enter(stage)
    client.write(query(b"begin") + query(b"select 1"))
    stage.settle()
    stage.servers[0].write(message(b"E", b"SERROR\0VERROR\0C57014\0\0") + READY + message(b"C", b"SELECT 1\0") + READY)
    stage.settle()
    stage.check()
    assert told(client.received)[-1] == (b"E", b"08006") and client.is_ended


@pytest.mark.parametrize("body", [b"", b"TimeZone", b"TimeZone\0UTC", b"TimeZone\0a\0b\0"])
@pytest.mark.parametrize("pool", [RENAMES, PLAIN, SESSION])
def test_a_malformed_parameter_status_is_no_internal_error(make_stage: MakeStage, body: bytes, pool: int) -> None:
    stage = make_stage()
    client = enter(stage, pool)
    client.write(query(b"select 1"))
    stage.settle()
    stage.servers[0].write(message(b"S", body) + message(b"C", b"SELECT 1\0") + READY)
    stage.settle()
    stage.check()
    assert told(client.received)[-1] == (b"Z", b"I")


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("farewell", [message(b"X", b""), b""])
def test_a_setting_of_a_client_that_left_before_its_answer_reaches_no_stranger(
    theatre: Theatre, farewell: bytes
) -> None:
    """The tag SET came when nobody looked at tags any more: the next client had the time zone of the one before."""
    theatre.enter(RENAMES)
    theatre.clients[0].ask(query(b"set timezone to 'a'") + farewell)
    theatre.round()
    theatre.round()
    if not farewell:
        theatre.clients[0].close()
    theatre.enter(RENAMES)
    theatre.clients[1].ask(parse(b"", b"select 1") + bind(b"") + EXECUTE + SYNC)
    finish(theatre)


def test_what_a_client_deallocated_before_it_left_is_prepared_anew(theatre: Theatre) -> None:
    theatre.enter(RENAMES)
    theatre.clients[0].ask(parse(b"a", b"select 1") + SYNC)
    theatre.settle()
    theatre.clients[0].ask(query(b"insert") + query(b"deallocate all") + message(b"X", b""))
    theatre.settle()
    theatre.enter(RENAMES)
    theatre.clients[1].ask(parse(b"a", b"select 1") + bind(b"a") + EXECUTE + SYNC)
    finish(theatre)


def test_a_lock_that_is_taken_behind_discard_all_is_given_back(theatre: Theatre) -> None:
    """The tag DISCARD ALL came when the message behind it had been noted already."""
    theatre.enter(RENAMES)
    theatre.clients[0].ask(query(b"insert") + query(b"discard all") + query(b"select pg_advisory_lock(1)"))
    finish(theatre)


def test_deallocate_behind_a_batch_that_is_under_way(theatre: Theatre) -> None:
    """It went to PostgreSQL, which does not know the client's name."""
    theatre.enter(RENAMES)
    theatre.clients[0].ask(parse(b"a", b"select 1") + SYNC + query(b"deallocate a"))
    finish(theatre)


def test_a_portal_of_an_earlier_transaction_forgets_no_names(theatre: Theatre) -> None:
    """The Execute of one that was not there any more forgot all names, for as long as the answer was not there; and
    DEALLOCATE behind it went to PostgreSQL."""
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    client.ask(parse(b"b", b"deallocate all") + bind(b"b") + SYNC)
    theatre.settle()
    client.ask(EXECUTE + SYNC + query(b'deallocate "b"'))
    finish(theatre)


def test_a_query_drops_the_unnamed_statement_although_its_close_was_skipped(theatre: Theatre) -> None:
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    client.ask(parse(b"", b"select 1") + message(b"D", b"Px\0") + message(b"C", b"S\0") + SYNC + query(b"select 2"))
    theatre.settle()
    client.ask(message(b"D", b"S\0") + SYNC)
    finish(theatre)


def test_a_failed_transaction_takes_no_parse_behind_another_message_either(theatre: Theatre) -> None:
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    client.ask(query(b"insert") + parse(b"", b"select 1") + SYNC + query(b"begin; fail"))
    theatre.settle()
    client.ask(message(b"C", b"Pp\0") + parse(b"", b"select 1") + SYNC)
    finish(theatre)


def test_servers_that_may_keep_no_statement_are_not_asked_for_ever() -> None:
    """What rows a statement returns was asked for again and again: there was no place to remember it."""
    theatre = Theatre(pool_size=1, statement_limit=0)
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    client.ask(parse(b"a", b"select 1") + message(b"D", b"Sa\0") + SYNC)
    theatre.settle()
    client.ask(bind(b"a") + EXECUTE + SYNC)
    finish(theatre)
    theatre.close()


def test_a_large_parse_that_waits_while_more_comes(theatre: Theatre) -> None:
    """Both its server's answer and more of the client's bytes came in one look at the sockets: the Parse, which was
    gathered and then held, was copied to where it did not fit."""
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    client.ask(query(b"select 1"))
    theatre.settle()
    large = b"select 1" + b" " * 250_000
    client.ask(query(b"begin; select 1") + parse(b"", large) + bind(b"") + EXECUTE + SYNC)
    Stage.settle(theatre)
    theatre.servers[0].work()
    theatre.servers[0].move()
    client.ask(query(b"commit"))
    finish(theatre)


@pytest.mark.parametrize("name", [b"", b"a"])
def test_a_describe_that_was_skipped_costs_no_statement(theatre: Theatre, name: bytes) -> None:
    theatre.enter(RENAMES)
    client = theatre.clients[0]
    client.ask(parse(name, b"select 1") + SYNC)
    theatre.settle()
    client.ask(message(b"D", b"Px\0") + message(b"D", b"S" + name + b"\0") + SYNC)
    theatre.settle()
    client.ask(bind(name) + EXECUTE + SYNC)
    finish(theatre)


def test_an_error_behind_discard_all_in_one_batch(make_stage: MakeStage) -> None:
    """Undoing a skipped Close looked into the names of a client that had none left."""
    stage = make_stage()
    client = enter(stage)
    batch = parse(b"b", b"discard all") + bind(b"b") + EXECUTE + message(b"D", b"Px\0") + message(b"C", b"Sb\0")
    client.write(batch + SYNC)
    stage.settle()
    stage.servers[0].write(
        message(b"1", b"") + message(b"2", b"") + message(b"C", b"DISCARD ALL\0") + message(b"E", b"\0")
    )
    stage.settle()
    stage.check()


def test_an_unrenamed_parse_is_answered_and_its_server_given_back(theatre: Theatre) -> None:
    theatre.enter(PLAIN)
    theatre.enter(PLAIN)
    for client in theatre.clients:
        client.ask(parse(b"", b"select 1") + bind(b"") + EXECUTE + SYNC)
    finish(theatre)


def test_names_of_a_pool_that_does_not_rename_go_out_as_they_are(make_stage: MakeStage) -> None:
    stage = make_stage()
    client = enter(stage, PLAIN)
    batch = parse(b"a", b"select 1") + bind(b"a") + EXECUTE + message(b"C", b"Sa\0") + SYNC
    client.write(batch)
    stage.settle()
    assert bytes(stage.servers[0].received) == batch


# --- peers that do not read ------------------------------------------------------------------------------------------


def test_a_client_that_is_full_is_not_forgotten_when_its_server_is_full_too(make_stage: MakeStage) -> None:
    """Full of answers of ours; then the message behind, of which more is to come, did not fit its server, and what the
    client was watched for was only its end."""
    stage = make_stage(pool_size=1)
    client = enter(stage)
    client.write(query(b";"))
    stage.settle()
    [server] = stage.servers
    server.write(message(b"I", b"") + READY)
    stage.settle()
    fd = stage.relay.server_fd(server.slot, server.generation)
    with socket.socket(fileno=os.dup(fd)) as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    server.received.clear()
    client.received.clear()
    client.reads = server.reads = False
    large = query(b"x" * 400_000)
    client.write(query(b";") * 4000 + large)
    stage.settle()
    server.reads = True
    stage.settle()
    assert 0 < len(server.received) < len(large), "nothing was full"
    client.reads = True
    stage.settle()
    assert len(told(client.received)) == 2 * 4000
    assert bytes(server.received) == large


def test_a_client_that_becomes_full_while_it_sends_more_than_can_be_kept_is_not_forgotten(
    make_stage: MakeStage,
) -> None:
    """What it sent had to wait (`holding`) and was as much as is kept. Then came, in one look at the sockets, rows that
    it did not take, and more of its own."""
    stage = make_stage(pool_size=1)
    client = enter(stage)
    client.write(query(b"begin; select 1") + parse(b"", b"select 2"))
    stage.settle()
    client.write(SYNC * 13_107)
    stage.settle()
    [server] = stage.servers
    row = message(b"D", b"\0\1" + (996).to_bytes(4, "big") + b"x" * 996)
    client.received.clear()
    client.reads = False
    server.write(row * 150)
    stage.settle()
    server.write(row * 150)
    server.move()
    client.write(SYNC)
    client.move()
    stage.relay.run()
    stage.settle()
    client.reads = True
    stage.settle()
    assert len(client.received) == 300 * len(row)
