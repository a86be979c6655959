"""The queue of pending answers against a model of PostgreSQL, with messages and answers crossing on the wire."""

from __future__ import annotations

from doorman.workers.relay.pending import PendingAnswers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.relay.postgres_model import PostgresModel, Sent

WORK, DELIVER = "work", "deliver"
Step = Sent | str

commands = st.builds(Sent, st.sampled_from("QFPBDEC"), fails=st.booleans())
copies = st.builds(Sent, st.sampled_from("QE"), copies=st.integers(1, 2))
copy_messages = st.builds(Sent, st.sampled_from("ddcf"), fails=st.booleans())
syncs = st.builds(Sent, st.sampled_from("SSH"))
steps = st.lists(st.one_of(commands, copies, copy_messages, syncs, st.just(WORK), st.just(DELIVER)), max_size=40)


def take(step: Step, server: PostgresModel, pending: PendingAnswers) -> None:
    """One thing happens: the client sends, the server works, or one of its answers arrives."""
    if isinstance(step, Sent):
        pending.sent(step.kind)
        server.inbox.append(step)
    elif step == WORK:
        server.work()
    elif server.answers:
        pending.received(server.answers.popleft())


def finish(server: PostgresModel, pending: PendingAnswers) -> None:
    """Everything that is under way is processed and arrives."""
    while (server.inbox and not server.is_dead) or server.answers:
        server.work()
        take(DELIVER, server, pending)


@settings(max_examples=400, deadline=None)
@given(steps)
@example([Sent("Q", copies=1), Sent("d"), Sent("c")])
@example([Sent("E", copies=1), Sent("d"), Sent("c"), Sent("S")])
@example([Sent("E", copies=1), Sent("c"), Sent("S"), Sent("P")])
@example([Sent("E", copies=1), Sent("S"), WORK, WORK, DELIVER, Sent("c")])
def test_a_server_that_is_called_quiet_is_at_rest(happened: list[Step]) -> None:
    server, pending = PostgresModel(), PendingAnswers()
    for step in happened:
        take(step, server, pending)
        if server.is_dead:
            return
        if pending.quiet and not pending.doubtful:
            idle_talk = all(sent.kind in "dcfH" for sent in server.inbox)
            assert idle_talk and not server.answers and not server.is_ignoring and not server.is_unsynced
            assert server.copying is None


@settings(max_examples=400, deadline=None)
@given(steps)
@example([Sent("Q", copies=1), Sent("d"), Sent("c")])
@example([Sent("Q", copies=1), Sent("d"), Sent("d", fails=True), Sent("c"), WORK, WORK, WORK, DELIVER])
@example([Sent("P"), Sent("c"), Sent("E", copies=1), Sent("S")])
@example([Sent("P"), Sent("c"), Sent("c"), Sent("E", copies=1), Sent("S")])
def test_a_server_at_rest_is_called_quiet_or_doubtful(happened: list[Step]) -> None:
    server, pending = PostgresModel(), PendingAnswers()
    for step in happened:
        take(step, server, pending)
    finish(server, pending)
    if server.copying is not None:
        take(Sent("f"), server, pending)
        finish(server, pending)
    if server.is_dead:
        return
    assert pending.doubtful or pending.quiet == server.is_at_rest
    take(Sent("S"), server, pending)
    finish(server, pending)
    assert pending.doubtful or pending.quiet


@settings(max_examples=150, deadline=None)
@given(st.lists(commands, max_size=30))
def test_without_copy_and_mixed_protocols_nothing_is_ever_doubtful(sent: list[Sent]) -> None:
    server, pending = PostgresModel(), PendingAnswers()
    for message in sent:
        take(message, server, pending)
        if message.kind in "PBDEC":
            take(Sent("S"), server, pending)
    finish(server, pending)
    assert pending.quiet and not pending.doubtful
