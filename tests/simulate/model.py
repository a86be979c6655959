"""What the pool ought to do, in the plainest Python: lists and numbers, no locks, no links, nothing shared.

Tells for every door what must come out of it. `test_pool_model.py` compares that with the real table after each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulate.rows import HOME_LOOKS, NONE, RETRY_AFTER_US, Slot, Wait


@dataclass
class Server:
    pool: int
    owner: int
    opened_at: int
    epoch: int
    state: Slot = Slot.OPENING
    client: int = NONE
    home: int = NONE
    canceller: int = NONE
    held: bool = False
    running: bool = False


@dataclass
class Client:
    worker: int
    pool: int
    wait: Wait = Wait.NO
    since: int = 0
    slot: int = NONE


@dataclass
class Pool:
    size: int
    max_opening: int
    is_live: bool = True
    is_unused: bool = False
    most: int = 0  # servers that it may have since its size was lowered
    generation: int = 0
    version: int = 0
    paused: bool = False
    epoch: int = 0
    failed_at: int = 0
    idle: list[int] = field(default_factory=list)  # most recently used first
    queue: list[int] = field(default_factory=list)  # oldest first


class Model:
    def __init__(self, sizes: tuple[int, ...], max_opening: int, n_slots: int) -> None:
        self.pools = [Pool(size, max_opening) for size in sizes]
        self.servers: dict[int, Server] = {}
        self.clients: dict[int, Client] = {}
        self.n_slots = n_slots

    def count(self, pool: int, *states: Slot) -> int:
        return sum(1 for server in self.servers.values() if server.pool == pool and server.state in states)

    def size(self, pool: int) -> int:
        return sum(1 for server in self.servers.values() if server.pool == pool)

    def alive(self, pool: int) -> int:
        return self.size(pool) - self.count(pool, Slot.CLOSING)

    # --- pools come, change and go -----------------------------------------------------------------------------------

    def add_pool(self, number: int, size: int, max_opening: int) -> None:
        generation = self.pools[number].generation if number < len(self.pools) else 0
        epoch = self.pools[number].epoch if number < len(self.pools) else 0
        pool = Pool(size, max_opening, generation=generation, epoch=epoch)
        if number < len(self.pools):
            self.pools[number] = pool
        else:
            self.pools.append(pool)

    def resize(self, number: int, size: int, version: int, keeper: int) -> None:
        pool = self.pools[number]
        pool.most = max(pool.most, self.size(number))
        pool.size = size
        if version != pool.version:
            pool.version, pool.epoch, pool.failed_at = version, pool.epoch + 1, 0
            size = 0
        self.end_idle(number, size, keeper)

    def end_idle(self, number: int, most: int, keeper: int) -> None:
        pool = self.pools[number]
        while pool.idle and self.alive(number) > most:
            self.move(pool.idle[-1], Slot.CLOSING, keeper)

    def remove_pool(self, number: int, keeper: int) -> None:
        pool = self.pools[number]
        pool.is_live, pool.epoch = False, pool.epoch + 1
        self.end_idle(number, 0, keeper)
        for client in pool.queue:
            self.clients[client].wait = Wait.FAILED
        pool.queue.clear()

    def is_deserted(self, number: int) -> bool:
        return not self.size(number) and all(client.pool != number for client in self.clients.values())

    # --- take --------------------------------------------------------------------------------------------------------

    def take(self, number: int, client: int, now: int) -> int:
        """The slot that this client must get, or NONE: it waits."""
        pool, row = self.pools[number], self.clients[client]
        if not pool.idle or pool.queue or pool.paused:
            pool.queue.append(client)
            row.wait, row.since = Wait.QUEUED, now
            return NONE
        slot = next((s for s in pool.idle[:HOME_LOOKS] if self.servers[s].home == row.worker), pool.idle[0])
        pool.idle.remove(slot)
        self.lend(slot, client)
        return slot

    def lend(self, slot: int, client: int) -> None:
        server, row = self.servers[slot], self.clients[client]
        server.state, server.client, server.owner = Slot.ACTIVE, client, row.worker
        row.slot, row.wait = slot, Wait.NO

    def may_reserve(self, number: int, now: int) -> bool:
        pool = self.pools[number]
        opening = self.count(number, Slot.OPENING)
        return (
            opening < min(len(pool.queue), pool.max_opening)
            and not pool.paused
            and pool.is_live
            and self.size(number) < pool.size
            and len(self.servers) < self.n_slots
            and not (pool.failed_at and now - pool.failed_at < RETRY_AFTER_US)
        )

    def reserved(self, slot: int, number: int, process: int, now: int) -> None:
        assert slot not in self.servers, f"slot {slot} was not free"
        self.servers[slot] = Server(number, process, now, self.pools[number].epoch)

    # --- give back ---------------------------------------------------------------------------------------------------

    def give_back(self, slot: int, process: int) -> Slot:
        """The state that the server goes to. In ACTIVE or GRANTED its `client` is the new one."""
        server = self.servers[slot]
        pool = self.pools[server.pool]
        if server.state == Slot.OPENING:
            pool.failed_at = 0
        self.part(slot)
        if server.canceller != NONE:
            server.state, server.held = Slot.RESETTING, True
        elif server.epoch != pool.epoch or not pool.is_live or self.alive(server.pool) > pool.size:
            server.state, server.owner = Slot.CLOSING, process
        elif pool.queue and not pool.paused:
            self.grant(slot, process)
        else:
            server.state, server.owner = Slot.IDLE, NONE
            pool.idle.insert(0, slot)
        return server.state

    def grant(self, slot: int, process: int) -> None:
        server = self.servers[slot]
        client = self.pools[server.pool].queue.pop(0)
        self.lend(slot, client)
        if self.clients[client].worker != process:
            server.state = Slot.GRANTED
            self.clients[client].wait = Wait.GRANTED

    def part(self, slot: int) -> None:
        server = self.servers[slot]
        if server.client != NONE and self.clients[server.client].slot == slot:
            self.clients[server.client].slot = NONE
        server.client = NONE

    def leave_queue(self, client: int) -> int:
        row = self.clients[client]
        slot = row.slot if row.wait == Wait.GRANTED else NONE
        if row.wait == Wait.QUEUED:
            self.pools[row.pool].queue.remove(client)
        row.wait, row.slot = Wait.NO, NONE
        return slot

    def set_paused(self, number: int, paused: bool) -> None:
        pool = self.pools[number]
        pool.paused = paused
        while pool.idle and pool.queue and not paused:
            self.grant(pool.idle.pop(0), NONE)  # by mail, also to the process that resumes

    def reconnect(self, number: int, process: int) -> None:
        pool = self.pools[number]
        pool.epoch += 1
        pool.failed_at = 0
        for slot in list(pool.idle):
            self.move(slot, Slot.CLOSING, process)

    # --- open and close ----------------------------------------------------------------------------------------------

    def open_failed(self, slot: int, now: int) -> None:
        server = self.servers.pop(slot)
        pool = self.pools[server.pool]
        pool.failed_at = now
        if self.size(server.pool) > self.count(server.pool, Slot.CLOSING):
            return
        for client in [c for c in pool.queue if self.clients[c].since <= server.opened_at]:
            pool.queue.remove(client)
            self.clients[client].wait = Wait.FAILED

    def move(self, slot: int, state: Slot, process: int) -> None:
        """start_reset, start_close, claim_idle."""
        server = self.servers[slot]
        self.part(slot)
        if server.state == Slot.IDLE:
            self.pools[server.pool].idle.remove(slot)
        server.state, server.owner = state, process

    # --- cancel requests ---------------------------------------------------------------------------------------------

    def begin_cancel(self, client: int, process: int) -> int:
        row = self.clients[client]
        if row.wait == Wait.QUEUED:
            self.pools[row.pool].queue.remove(client)
            row.wait = Wait.CANCELLED
            return NONE
        server = self.servers.get(row.slot)
        if server is None or server.state != Slot.ACTIVE or not server.running or server.canceller != NONE:
            return NONE
        server.canceller = process
        return row.slot

    def end_cancel(self, slot: int, process: int, doubtful: bool) -> bool:
        server = self.servers[slot]
        server.canceller = NONE
        if doubtful:
            server.epoch = -1
        held = server.held and server.state == Slot.RESETTING
        if held:
            server.owner = process
        server.held = False
        return held
