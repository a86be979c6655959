"""The doors of the pool against the plain model of them, in sequences that hypothesis thinks up.

One test process plays the master and three workers, the last of them the keeper too. After every step the table must
keep its own rules and agree with the model: same
states, same idle list, same queue, same owners. In the end everybody who waits must be served.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from doorman.shm.lifecycle import collect_pool, find_unused_pool, free_pool, remove_pool
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from tests.simulate.invariants import check_at_rest, check_table, queue_of, walk
from tests.simulate.model import Client, Model, Pool
from tests.simulate.rows import (
    ATTEND_CONDEMNED,
    BACK_CLOSE,
    BACK_GRANTED,
    BACK_HELD,
    BACK_IDLE,
    BACK_REFUSED,
    KEEPER,
    NONE,
    WORKER,
    Slot,
    Wait,
    add_pool,
    make_table,
    resize_pool,
)

WORKERS = 3
KEEPER_ROW = WORKERS - 1
MOST_POOLS = 3
SLOTS = 6
MAX_CONNECTIONS = 8
ANSWERS = {Slot.IDLE: BACK_IDLE, Slot.GRANTED: BACK_GRANTED, Slot.RESETTING: BACK_HELD, Slot.CLOSING: BACK_CLOSE}

picks = st.integers(0, 1 << 16)


class PoolMachine(RuleBasedStateMachine):
    table: Table

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=3), max_opening=st.integers(1, 3))
    def start(self, sizes: list[int], max_opening: int) -> None:
        self.table = make_table(
            processes=WORKERS,
            pool_sizes=sizes,
            slots=SLOTS,
            clients=MAX_CONNECTIONS + 2,
            max_connections=MAX_CONNECTIONS,
            max_opening=max_opening,
            spare_pools=MOST_POOLS - len(sizes),
        )
        self.trials = [
            Trial(self.table, process=row, role=KEEPER if row == KEEPER_ROW else WORKER) for row in range(WORKERS)
        ]
        self.max_opening = max_opening
        self.versions = 0
        self.model = Model(tuple(sizes), max_opening, SLOTS)
        self.now = 1_000_000

    def tick(self) -> int:
        self.now += 1000
        return self.now

    def slots(self, *states: Slot) -> list[int]:
        return sorted(slot for slot, server in self.model.servers.items() if server.state in states)

    def clients(self, *states: Wait) -> list[int]:
        return sorted(client for client, row in self.model.clients.items() if row.wait in states)

    def free_clients(self) -> list[int]:
        return [client for client in self.clients(Wait.NO) if self.model.clients[client].slot == NONE]

    def owner(self, slot: int) -> Trial:
        return self.trials[self.model.servers[slot].owner]

    def worker(self, client: int) -> Trial:
        return self.trials[self.model.clients[client].worker]

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(pick=picks)
    def admit(self, pick: int) -> None:
        trial = self.trials[pick % WORKERS]
        client = trial.admit(self.tick())
        assert (client == NONE) == (len(self.model.clients) == MAX_CONNECTIONS)
        if client != NONE:
            assert client not in self.model.clients
            number = pick % len(self.model.pools)
            pool = self.model.pools[number]
            assert not trial.enter(client, number, pool.generation + 1)
            if not trial.enter(client, number, pool.generation):
                assert not pool.is_live
                trial.dismiss(client)
                return
            assert pool.is_live
            self.model.clients[client] = Client(trial.process, number)

    @precondition(lambda self: self.free_clients())
    @rule(pick=picks)
    def dismiss(self, pick: int) -> None:
        client = one_of(self.free_clients(), pick)
        self.worker(client).dismiss(client)
        del self.model.clients[client]

    @precondition(lambda self: self.free_clients())
    @rule(pick=picks)
    def take(self, pick: int) -> None:
        client, now = one_of(self.free_clients(), pick), self.tick()
        row = self.model.clients[client]
        expected = self.model.take(row.pool, client, now)
        slot, to_open = self.worker(client).take(row.pool, client, now)
        assert slot == expected
        if slot == NONE:
            self.note_reserved(to_open, row.pool, row.worker, now)
        else:
            assert to_open == NONE
            self.serve(slot)

    def serve(self, slot: int) -> None:
        """What a worker does when a server has become its client's."""
        server = self.model.servers[slot]
        self.owner(slot).set_home(slot)
        self.owner(slot).set_running(slot, True)
        server.home, server.running = server.owner, True

    @precondition(lambda self: self.clients(Wait.QUEUED, Wait.GRANTED))
    @rule(pick=picks)
    def leave_queue(self, pick: int) -> None:
        client = one_of(self.clients(Wait.QUEUED, Wait.GRANTED), pick)
        slot = self.worker(client).leave_queue(client)
        assert slot == self.model.leave_queue(client)
        if slot != NONE:
            self.hand_on(slot)

    @precondition(lambda self: self.clients(Wait.FAILED, Wait.CANCELLED))
    @rule()
    def look_at_waiters(self) -> None:
        for client in self.clients(Wait.FAILED, Wait.CANCELLED):
            assert self.worker(client).client_row(client)["wait_state"] == self.model.clients[client].wait
            self.worker(client).end_wait(client)
            self.model.clients[client].wait = Wait.NO

    @rule()
    def read_mail(self) -> None:
        """Every grant is in the box of the right process, and can be accepted."""
        for trial in self.trials:
            for slot in trial.take_mail():
                server = self.model.servers.get(slot)
                if server is not None and server.state == Slot.GRANTED and server.owner == trial.process:
                    assert trial.accept_grant(slot, server.client, self.tick())
                    self.model.lend(slot, server.client)
                    self.serve(slot)
                elif server is not None and server.client != NONE:
                    assert not trial.accept_grant(slot, server.client, self.now)
        assert not self.slots(Slot.GRANTED)

    # --- servers -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.given())
    @rule(pick=picks)
    def give_back(self, pick: int) -> None:
        self.hand_on(one_of(self.given(), pick))

    def given(self) -> list[int]:
        """Slots that their owner may give back; a held one it has given back already."""
        return [s for s in self.slots(Slot.ACTIVE, Slot.RESETTING) if not self.model.servers[s].held]

    def hand_on(self, slot: int) -> None:
        trial = self.owner(slot)
        server = self.model.servers[slot]
        server.running = False
        trial.set_running(slot, False)
        trial.woken = 0
        result = trial.give_back(slot, self.tick())
        state = self.model.give_back(slot, trial.process)
        if state == Slot.ACTIVE:
            assert result == server.client
            self.serve(slot)
        else:
            assert result == ANSWERS[state]
        assert trial.woken == (1 << server.owner if state == Slot.GRANTED else 0)

    @precondition(lambda self: self.slots(Slot.IDLE, Slot.CLOSING))
    @rule(pick=picks)
    def give_back_twice(self, pick: int) -> None:
        slot = one_of(self.slots(Slot.IDLE, Slot.CLOSING), pick)
        assert self.trials[0].give_back(slot, self.now) == BACK_REFUSED

    @rule(pick=picks)
    def reserve(self, pick: int) -> None:
        pool, trial, now = self.used_pool(pick), self.trials[pick % WORKERS], self.tick()
        self.note_reserved(trial.reserve(pool, now), pool, trial.process, now)

    def note_reserved(self, slot: int, pool: int, process: int, now: int) -> None:
        assert (slot != NONE) == self.model.may_reserve(pool, now)
        if slot != NONE:
            self.model.reserved(slot, pool, process, now)

    @precondition(lambda self: self.slots(Slot.OPENING))
    @rule(pick=picks)
    def opened(self, pick: int) -> None:
        self.hand_on(one_of(self.slots(Slot.OPENING), pick))

    @precondition(lambda self: self.slots(Slot.OPENING))
    @rule(pick=picks, wait=st.booleans())
    def open_failed(self, pick: int, wait: bool) -> None:
        slot = one_of(self.slots(Slot.OPENING), pick)
        trial, now = self.owner(slot), self.tick()
        trial.open_failed(slot, now)
        self.model.open_failed(slot, now)
        if wait:
            self.now += 100_000

    @precondition(lambda self: self.slots(Slot.ACTIVE, Slot.RESETTING))
    @rule(pick=picks)
    def start_close(self, pick: int) -> None:
        slot = one_of(self.slots(Slot.ACTIVE, Slot.RESETTING), pick)
        trial = self.owner(slot)
        assert trial.start_close(slot)
        self.model.move(slot, Slot.CLOSING, trial.process)
        assert not trial.start_close(slot)

    @precondition(lambda self: self.slots(Slot.CLOSING))
    @rule(pick=picks)
    def finish_close(self, pick: int) -> None:
        slot = one_of(self.slots(Slot.CLOSING), pick)
        generation = self.trials[0].slot_row(slot)["generation"]
        self.owner(slot).finish_close(slot)
        del self.model.servers[slot]
        assert self.trials[0].slot_row(slot)["generation"] == generation + 1

    @precondition(lambda self: self.slots(Slot.ACTIVE))
    @rule(pick=picks)
    def start_reset(self, pick: int) -> None:
        slot = one_of(self.slots(Slot.ACTIVE), pick)
        trial = self.owner(slot)
        assert trial.start_reset(slot)
        self.model.move(slot, Slot.RESETTING, trial.process)
        assert not trial.start_reset(slot)

    @precondition(lambda self: self.model.servers)
    @rule(pick=picks, to=st.sampled_from((Slot.RESETTING, Slot.CLOSING)))
    def claim_idle(self, pick: int, to: Slot) -> None:
        slot, trial = one_of(sorted(self.model.servers), pick), self.trials[pick % WORKERS]
        generation = trial.slot_row(slot)["generation"]
        assert not trial.claim_idle(slot, generation + 1, to)
        claimed = trial.claim_idle(slot, generation, to)
        assert claimed == (self.model.servers[slot].state == Slot.IDLE)
        if claimed:
            self.model.move(slot, to, trial.process)

    # --- console and cancel requests ---------------------------------------------------------------------------------

    @rule(pick=picks, paused=st.booleans())
    def set_paused(self, pick: int, paused: bool) -> None:
        pool = self.used_pool(pick)
        self.trials[pick % WORKERS].set_paused(pool, paused)
        self.model.set_paused(pool, paused)

    @rule(pick=picks)
    def reconnect(self, pick: int) -> None:
        """RECONNECT outdates all servers and takes the idle ones out; they are the keeper's to close."""
        pool, trial = self.used_pool(pick), self.trials[pick % WORKERS]
        idle = list(self.model.pools[pool].idle)
        trial.woken = 0
        trial.reconnect(pool)
        self.model.reconnect(pool, KEEPER_ROW)
        assert set(idle) <= trial.mail_of(KEEPER_ROW)
        assert trial.woken == (1 << KEEPER_ROW if idle else 0)

    @precondition(lambda self: self.model.clients)
    @rule(pick=picks, stranger=st.booleans())
    def condemn(self, pick: int, stranger: bool) -> None:
        """KILL marks the client that is meant, not the next one of its row, and tells its worker."""
        client, trial = one_of(sorted(self.model.clients), pick), self.trials[pick % WORKERS]
        row = trial.client_row(client)
        trial.woken = 0
        if stranger:
            assert not trial.condemn(client, row["connection_id"] + 1000)
            assert trial.woken == 0
            return
        assert trial.condemn(client)
        assert trial.client_row(client)["condemned"] == row["connection_id"]
        assert trial.woken == 1 << row["worker"]
        assert trial.attention_of(row["worker"]) & ATTEND_CONDEMNED

    @precondition(lambda self: self.model.clients)
    @rule(pick=picks, stranger=st.booleans())
    def begin_cancel(self, pick: int, stranger: bool) -> None:
        client, trial = one_of(sorted(self.model.clients), pick), self.trials[pick % WORKERS]
        connection_id = trial.client_row(client)["connection_id"]
        if stranger:
            assert trial.begin_cancel(client, connection_id + 1000) == NONE
            return
        assert trial.begin_cancel(client, connection_id) == self.model.begin_cancel(client, trial.process)

    @precondition(lambda self: self.cancelled())
    @rule(pick=picks, doubtful=st.booleans())
    def end_cancel(self, pick: int, doubtful: bool) -> None:
        slot = one_of(self.cancelled(), pick)
        trial = self.trials[self.model.servers[slot].canceller]
        generation = trial.slot_row(slot)["generation"]
        assert not trial.end_cancel(slot, generation + 1, doubtful)
        held = trial.end_cancel(slot, generation, doubtful)
        assert held == self.model.end_cancel(slot, trial.process, doubtful)
        if held:
            self.hand_on(slot)

    def cancelled(self) -> list[int]:
        return sorted(slot for slot, server in self.model.servers.items() if server.canceller != NONE)

    # --- pools come, change and go -----------------------------------------------------------------------------------

    def pools(self, wanted: Callable[[Pool], bool]) -> list[int]:
        return [number for number, pool in enumerate(self.model.pools) if wanted(pool)]

    def used_pool(self, pick: int) -> int:
        return one_of(self.pools(lambda pool: not pool.is_unused), pick)

    @rule(size=st.integers(1, 4))
    def add(self, size: int) -> None:
        number = find_unused_pool(self.table)
        unused = self.pools(lambda pool: pool.is_unused)
        expected = unused[0] if unused else len(self.model.pools)
        assert number == (expected if expected < MOST_POOLS else NONE)
        if number != NONE:
            add_pool(self.table, number, size, self.max_opening)
            self.model.add_pool(number, size, self.max_opening)

    @precondition(lambda self: self.pools(lambda pool: pool.is_live))
    @rule(pick=picks, size=st.integers(1, 4), anew=st.booleans())
    def resize(self, pick: int, size: int, anew: bool) -> None:
        pool = one_of(self.pools(lambda pool: pool.is_live), pick)
        self.versions += anew
        version = self.versions if anew else self.model.pools[pool].version
        freed, wake = resize_pool(self.table, pool, size, self.max_opening, version=version)
        assert (freed, wake) == ([], 1 << KEEPER_ROW)
        self.model.resize(pool, size, version, KEEPER_ROW)

    @precondition(lambda self: len(self.pools(lambda pool: pool.is_live)) > 1)
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        pool = one_of(self.pools(lambda pool: pool.is_live), pick)
        remove_pool(self.table, pool)
        self.model.remove_pool(pool, KEEPER_ROW)

    @precondition(lambda self: len(self.pools(lambda pool: pool.is_live)) > 1)
    @rule(pick=picks)
    def collect(self, pick: int) -> None:
        number = one_of(self.pools(lambda pool: pool.is_live), pick)
        pool = self.model.pools[number]
        assert not collect_pool(self.table, number, pool.generation + 1)
        assert collect_pool(self.table, number, pool.generation) == self.model.is_deserted(number)
        pool.is_live = not self.model.is_deserted(number)

    @rule()
    def free(self) -> None:
        for number, pool in enumerate(self.model.pools):
            gone = not pool.is_live and not pool.is_unused and self.model.is_deserted(number)
            assert free_pool(self.table, number) == gone
            if gone:
                pool.is_unused = True
                pool.generation += 1

    # --- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def the_table_keeps_its_rules(self) -> None:
        if hasattr(self, "table"):
            check_table(self.trials[0], {n: pool.most for n, pool in enumerate(self.model.pools)})

    @invariant()
    def table_and_model_agree(self) -> None:
        if not hasattr(self, "table"):
            return
        trial, model = self.trials[0], self.model
        rows = {slot: trial.slot_row(slot) for slot in range(SLOTS)}
        assert {s: row["state"] for s, row in rows.items() if row["state"]} == {
            s: server.state for s, server in model.servers.items()
        }
        for slot, server in model.servers.items():
            expected = (server.pool, server.owner, server.client, server.canceller, server.held)
            assert tuple(rows[slot][key] for key in ("pool", "owner", "client", "canceller", "held")) == expected
        clients = [trial.client_row(client) for client in range(trial.header_row()["clients_high"])]
        for number, pool in enumerate(model.pools):
            row = trial.pool_row(number)
            assert (row["generation"], row["pool_size"], row["epoch"]) == (pool.generation, pool.size, pool.epoch)
            idle = walk(row["idle_head"], row["idle_tail"], lambda n: (rows[n]["next"], rows[n]["previous"]))
            assert idle == pool.idle
            assert queue_of(trial, number, clients) == pool.queue
        for client, mine in model.clients.items():
            assert (clients[client]["wait_state"], clients[client]["slot"]) == (mine.wait, mine.slot)

    def teardown(self) -> None:
        """Everything under way ends well: then nobody waits any more."""
        if not hasattr(self, "table"):
            return
        for _ in range(4 * MAX_CONNECTIONS):
            self.now += 100_000
            self.one_round()
        check_at_rest(self.trials[0])
        self.send_clients_away()
        self.free()
        assert not self.pools(lambda pool: not pool.is_live and not pool.is_unused), "a removed pool is still named"
        self.table.close()

    def send_clients_away(self) -> None:
        for client, row in list(self.model.clients.items()):
            if not self.model.pools[row.pool].is_live:
                self.worker(client).dismiss(client)
                del self.model.clients[client]

    def one_round(self) -> None:
        for pool in self.pools(lambda pool: not pool.is_unused):
            self.trials[0].set_paused(pool, False)
            self.model.set_paused(pool, False)
        for client in self.clients(Wait.QUEUED):
            if not self.model.pools[self.model.clients[client].pool].is_live:
                self.worker(client).leave_queue(client)
                self.model.leave_queue(client)
        self.look_at_waiters()
        self.read_mail()
        while self.cancelled():
            self.end_cancel(0, doubtful=False)
        for slot in self.slots(Slot.OPENING, Slot.ACTIVE, Slot.RESETTING):
            self.hand_on(slot)
        while self.slots(Slot.CLOSING):
            self.finish_close(0)
        for pool in self.pools(lambda pool: not pool.is_unused):
            now = self.tick()
            self.note_reserved(self.trials[0].reserve(pool, now), pool, 0, now)


def one_of(choices: list[int], pick: int) -> int:
    return choices[pick % len(choices)]


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=120, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
