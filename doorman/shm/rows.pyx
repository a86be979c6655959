"""The table for Python code: set up its pools, read its rows as frozen structs. Console, keeper and tests use it."""

import msgspec

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from doorman.shm.atomics cimport store32
from doorman.shm.layout cimport (
    CLIENT_FREE,
    FAILURE_BYTES,
    NAME_BYTES,
    NONE,
    PARAMETER_BYTES,
    POOL_LIVE,
    POOL_UNUSED,
    SLOT_FREE,
    SLOT_OPENING,
    ClientRow,
    CounterRow,
    Header,
    PoolRow,
    ProcessRow,
    SlotRow,
    WindowRow,
)
from doorman.shm.lock cimport acquire, lock_init, release
from doorman.shm.table cimport Table, copy_text, now_us, read_text

SLOT_STATES = ("free", "opening", "idle", "active", "resetting", "granted", "closing")
CLIENT_STATES = ("free", "login", "idle", "active", "waiting")
ROLES = ("none", "worker", "keeper")


class PoolView(msgspec.Struct, frozen=True):
    """One pool row. Counts are of this instant; times in microseconds of the monotonic clock."""

    number: int
    database: str
    user: str
    pool_mode: str
    pool_size: int
    min_pool_size: int
    paused: bool
    disabled: bool
    epoch: int
    idle: int
    busy: int
    opening: int
    closing: int
    waiting: int
    failed_at: int
    failure_sqlstate: str
    failure: str


class SlotView(msgspec.Struct, frozen=True):
    """One server connection."""

    number: int
    pool: int
    state: str
    owner: int
    client: int
    home: int
    generation: int
    epoch: int
    backend_pid: int
    opened_at: int
    used_at: int
    active_since: int
    lifetime: int
    idle_timeout: int
    transactions: int
    queries: int
    bytes_sent: int
    bytes_received: int
    uses: int
    application_name: str
    tls: bool


class ClientView(msgspec.Struct, frozen=True):
    """One client connection; `database` and `user` are the console's where `admin` is set, else the pool's."""

    number: int
    connection_id: int
    worker: int
    pool: int
    slot: int
    state: str
    family: int
    address: bytes
    port: int
    tls: bool
    connected_at: int
    wait_since: int
    wait_total: int
    wait_max: int
    transactions: int
    queries: int
    errors: int
    admin: bool
    application_name: str
    database: str
    user: str


class ProcessView(msgspec.Struct, frozen=True):
    """One process row."""

    number: int
    pid: int
    role: str
    generation: int
    heartbeat: int
    asleep: bool


def set_up_pool(Table table, int number, *, database: str, user: str, session_mode: bool, pool_size: int,
                min_pool_size: int, max_opening: int, round_robin: bool, check_after_us: int, cleanup: bool = True,
                statements: bool = False, statement_limit: int = 0, catalog: int = 0, version: int = 0) -> None:
    """Make an UNUSED row a live pool's. `version` (of the master) says with what settings its servers are opened."""
    cdef PoolRow *row = &table.pools[number]
    lock_init(&row.lock)
    copy_text(row.database, NAME_BYTES, database.encode("utf-8", "surrogateescape"))
    copy_text(row.user, NAME_BYTES, user.encode("utf-8", "surrogateescape"))
    write_limits(row, session_mode, pool_size, min_pool_size, max_opening, round_robin, check_after_us, cleanup,
                 statements, statement_limit, catalog)
    row.version = version
    row.paused = 0
    row.disabled = 0
    row.failed_at = 0
    row.parameters_length = 0
    row.idle_head = NONE
    row.idle_tail = NONE
    row.wait_head = NONE
    row.wait_tail = NONE
    if <uint32_t>number >= table.header.pools_high:
        store32(&table.header.pools_high, number + 1)
    store32(&row.state, POOL_LIVE)


cdef void write_limits(PoolRow *row, bint session_mode, uint32_t pool_size, uint32_t min_pool_size, uint32_t max_opening,
                       bint round_robin, int64_t check_after_us, bint cleanup, bint statements,
                       uint32_t statement_limit, uint32_t catalog) noexcept nogil:
    row.session_mode = session_mode
    row.pool_size = pool_size
    row.min_pool_size = min_pool_size
    row.max_opening = max_opening
    row.round_robin = round_robin
    row.check_after = check_after_us
    row.cleanup = cleanup
    row.statements = statements
    row.statement_limit = statement_limit
    row.catalog = catalog


class TooManyParameters(ValueError):
    """A server reports more than the table has room for."""


def set_parameters(Table table, int number, bytes messages, epoch: int | None = None) -> None:
    """Remember the ParameterStatus messages that a server of this pool sent at its start (at most PARAMETER_BYTES).

    epoch: of that server. What one that is outdated already said counts only as long as nothing else is known.
    """
    cdef PoolRow *row = &table.pools[number]
    cdef uint32_t length = <uint32_t>len(messages)
    if length > PARAMETER_BYTES:
        raise TooManyParameters(
            f"the server reports {length} bytes of parameters, pg_doorman keeps {PARAMETER_BYTES}: is search_path that long?")
    acquire(&row.lock, table.pid)
    if row.parameters_length and epoch is not None and row.epoch != <uint32_t>epoch:
        release(&row.lock)
        return
    row.parameters_version = row.version
    row.parameters_epoch = row.epoch
    store32(&row.parameters_length, 0)          # not known, should this process be killed half-way
    memcpy(row.parameters, <const char *>messages, length)
    store32(&row.parameters_length, length)
    release(&row.lock)


cpdef bytes get_parameters(Table table, int number):
    """The ParameterStatus messages of a pool; empty until its first server was opened."""
    cdef PoolRow *row = &table.pools[number]
    cdef char[PARAMETER_BYTES] parameters
    cdef uint32_t length
    acquire(&row.lock, table.pid)
    length = row.parameters_length
    memcpy(parameters, row.parameters, length)
    release(&row.lock)
    return parameters[:length]


def get_failure(Table table, int number) -> tuple[str, str]:
    """SQLSTATE and message of the pool's last failed attempt to open a server."""
    cdef PoolRow *row = &table.pools[number]
    cdef char[8] sqlstate
    cdef char[FAILURE_BYTES] failure
    acquire(&row.lock, table.pid)
    memcpy(sqlstate, row.failure_sqlstate, 8)
    memcpy(failure, row.failure, FAILURE_BYTES)
    release(&row.lock)
    return read_text(sqlstate, 8), read_text(failure, FAILURE_BYTES)


def pool_rows(Table table) -> list[PoolView]:
    """All pools; one that was removed as long as somebody is in it."""
    return [pool_row(table, number) for number in range(table.header.pools_high)
            if table.pools[number].state != POOL_UNUSED]


def pool_row(Table table, int number) -> PoolView:
    cdef PoolRow *row = &table.pools[number]
    return PoolView(
        number, read_text(row.database, NAME_BYTES), read_text(row.user, NAME_BYTES),
        "session" if row.session_mode else "transaction", row.pool_size, row.min_pool_size, bool(row.paused),
        bool(row.disabled), row.epoch, row.n_idle, row.n_busy, row.n_opening, row.n_closing, row.n_waiting, row.failed_at,
        read_text(row.failure_sqlstate, 8), read_text(row.failure, sizeof(row.failure)),
    )


def slot_rows(Table table) -> list[SlotView]:
    """All server connections, those being opened or closed included."""
    return [slot_row(table, number) for number in range(table.header.n_slots)
            if table.slots[number].state != SLOT_FREE]


def slot_generations(Table table, list slots) -> list[int]:
    """How many connections these rows have had, FREE or not."""
    return [table.slots[<int>slot].generation for slot in slots]


def renew_generation(Table table, slot: int) -> int:
    """This process, which is opening the slot's server, begins anew with another socket: that is another connection,
    and who has the first one must not take it for this. Nobody else writes an OPENING slot."""
    cdef SlotRow *row = &table.slots[<int>slot]
    store32(&row.generation, row.generation + 1)
    return row.generation


def server_peers(Table table) -> list[tuple[int, bytes]]:
    """Pool and address (4 or 16 bytes in network order) of every server whose host name was looked up."""
    cdef SlotRow *row
    cdef int number
    found = []
    for number in range(<int>table.header.n_slots):
        row = &table.slots[number]
        if row.peer_length and row.state not in (SLOT_FREE, SLOT_OPENING):
            found.append((row.pool, <bytes>(<char *>row.peer)[:4 if row.peer_length == 4 else 16]))
    return found


def slot_row(Table table, int number) -> SlotView:
    cdef SlotRow *row = &table.slots[number]
    return SlotView(
        number, row.pool, SLOT_STATES[row.state], row.owner, row.client, row.home, row.generation, row.epoch,
        row.backend_pid, row.opened_at, row.used_at, row.active_since, row.lifetime, row.idle_timeout,
        row.transactions, row.queries, row.bytes_sent, row.bytes_received, row.uses,
        name_of_served(table, row), bool(row.tls),
    )


cdef str name_of_served(Table table, SlotRow *row):
    """application_name of the server's last client; "" before the first and when its row has another client by now."""
    if not row.served or table.clients[row.served_row].connection_id != row.served:
        return ""
    return read_text(table.clients[row.served_row].application_name, NAME_BYTES)


def client_rows(Table table) -> list[ClientView]:
    """All client connections, those logging in included."""
    return [client_row(table, number) for number in range(table.header.clients_high)
            if table.clients[number].state != CLIENT_FREE]


def client_row(Table table, int number) -> ClientView:
    cdef ClientRow *row = &table.clients[number]
    cdef PoolRow *pool
    database = read_text(row.database, NAME_BYTES)
    user = read_text(row.user, NAME_BYTES)
    if row.pool != NONE:
        pool = &table.pools[row.pool]
        database = read_text(pool.database, NAME_BYTES)
        user = read_text(pool.user, NAME_BYTES)
    return ClientView(
        number, row.connection_id, row.worker, row.pool, row.slot, CLIENT_STATES[row.state], row.family,
        bytes(row.address[:16]), row.port, bool(row.tls), row.connected_at, row.wait_since, row.wait_total,
        row.wait_max, row.transactions, row.queries, row.errors, bool(row.admin),
        read_text(row.application_name, NAME_BYTES), database, user,
    )


def client_address(Table table, int number) -> bytes:
    """A client's IP address in network order: 4 or 16 bytes, none on the Unix socket."""
    cdef ClientRow *row = &table.clients[number]
    return <bytes>row.address[:4 if row.family == 4 else 16 if row.family == 6 else 0]


def process_rows(Table table) -> list[ProcessView]:
    """Every process that has a row, alive or about to be replaced."""
    return [process_row(table, number) for number in range(table.header.n_processes)
            if table.processes[number].role]


def process_row(Table table, int number) -> ProcessView:
    cdef ProcessRow *row = &table.processes[number]
    return ProcessView(number, row.pid, ROLES[row.role], row.generation, row.heartbeat, bool(row.asleep))


def regions(Table table) -> list[tuple[str, int, int, int]]:
    """The regions of the table: name, bytes of a row, rows in use, rows."""
    cdef Header *header = table.header
    cdef uint32_t slot
    used = 0
    for slot in range(header.n_slots):
        used += table.slots[slot].state != SLOT_FREE
    pools = len(pool_rows(table))
    processes = len(process_rows(table))
    return [
        ("processes", sizeof(ProcessRow), processes, header.n_processes),
        ("pools", sizeof(PoolRow), pools, header.n_pools),
        ("servers", sizeof(SlotRow), used, header.n_slots),
        ("clients", sizeof(ClientRow), header.clients_used, header.n_clients),
        ("counters", sizeof(CounterRow), pools * processes, header.n_pools * header.n_processes),
        ("windows", sizeof(WindowRow), pools, header.n_pools),
        ("statements", table.statement_set_bytes, used, header.n_slots),
    ]


def longest_wait_us(Table table, int number) -> int:
    """How long the oldest waiter of a pool has been waiting now; 0 when nobody waits."""
    cdef PoolRow *row = &table.pools[number]
    cdef int64_t since
    acquire(&row.lock, table.pid)
    since = table.clients[row.wait_head].wait_since if row.wait_head != NONE else 0
    release(&row.lock)
    return max(0, now_us() - since) if since else 0
