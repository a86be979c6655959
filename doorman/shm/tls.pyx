"""What the table says about TLS: who may start a handshake when, how many there were, what went wrong, who speaks what."""

import msgspec

from libc.stdint cimport int64_t, uint32_t, uint64_t

from doorman.shm.atomics cimport cas64, load64
from doorman.shm.layout cimport SLOT_FREE, TLS_FAULTS, TLS_SECONDS_BUCKETS, CounterRow, TlsCounterRow, TlsRow
from doorman.shm.table cimport Table, now_us

BUCKETS_US = (1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000)
"""Upper bounds of the histogram of handshakes with servers; one more bucket is for longer ones."""

assert len(BUCKETS_US) + 1 == TLS_SECONDS_BUCKETS

cdef enum:
    BURST_US = 10_000               # handshakes of so long a time may start together


class TlsCounters(msgspec.Struct, frozen=True):
    """Handshakes and faults of all processes. Times are microseconds; faults by number (`doorman.tls.faults.Fault`)."""

    client_handshakes: int
    client_handshakes_12: int
    server_handshakes: int
    server_handshakes_12: int
    client_time: int
    server_time: int
    client_faults: tuple[int, ...]
    server_faults: tuple[int, ...]


class PoolTls(msgspec.Struct, frozen=True):
    """Handshakes of one pool's servers. `connections`: its encrypted servers now; `histogram`: by `BUCKETS_US`."""

    connections: int
    handshakes: int
    errors: int
    time: int
    histogram: tuple[int, ...]


class TlsView(msgspec.Struct, frozen=True):
    """One encrypted connection: version 0x0303 or 0x0304, IANA number of the suite, records in both directions."""

    version: int
    suite: int
    established_at: int
    records_in: int
    records_out: int


def reserve_handshake(Table table, per_second: int) -> int:
    """Take the next place among all processes' handshakes with clients; how many microseconds to wait for it."""
    cdef int64_t interval = 1_000_000 // per_second
    cdef int64_t now = now_us()
    cdef uint64_t *word = <uint64_t *>&table.header.next_handshake
    cdef uint64_t seen
    cdef int64_t start
    while True:
        seen = load64(word)
        start = max(<int64_t>seen, now - BURST_US)
        if cas64(word, seen, <uint64_t>(start + interval)):
            return max(0, start - now)


def count_client_handshake(Table table, version: int, took_us: int) -> None:
    """A handshake with a client succeeded in this process."""
    cdef TlsCounterRow *row = &table.tls_counters[table.process]
    row.client_handshakes += 1
    row.client_handshakes_12 += version == 0x0303
    row.client_time += took_us


def count_client_fault(Table table, fault: int) -> None:
    """A handshake with a client failed."""
    table.tls_counters[table.process].client_faults[<int>fault] += 1


def count_server_handshake(Table table, pool: int, version: int, took_us: int) -> None:
    """A handshake with a server of a pool succeeded in this process."""
    cdef TlsCounterRow *row = &table.tls_counters[table.process]
    cdef CounterRow *counters = table.counter_row(pool)
    cdef int bucket = 0
    row.server_handshakes += 1
    row.server_handshakes_12 += version == 0x0303
    row.server_time += took_us
    while bucket < len(BUCKETS_US) and took_us > BUCKETS_US[bucket]:
        bucket += 1
    counters.tls_handshakes += 1
    counters.tls_handshake_time += took_us
    counters.tls_histogram[bucket] += 1


def count_server_fault(Table table, pool: int, fault: int) -> None:
    """A handshake with a server failed, or the server does not speak TLS where it must."""
    table.tls_counters[table.process].server_faults[<int>fault] += 1
    table.counter_row(pool).tls_handshake_errors += 1


def tls_counters(Table table) -> TlsCounters:
    """Sums over all processes since the segment was made."""
    cdef TlsCounterRow *row
    cdef uint32_t process
    cdef int i
    sums = [0] * 6
    clients, servers = [0] * TLS_FAULTS, [0] * TLS_FAULTS
    for process in range(table.header.n_processes):
        row = &table.tls_counters[process]
        for i, value in enumerate((row.client_handshakes, row.client_handshakes_12, row.server_handshakes,
                                   row.server_handshakes_12, row.client_time, row.server_time)):
            sums[i] += value
        for i in range(TLS_FAULTS):
            clients[i] += row.client_faults[i]
            servers[i] += row.server_faults[i]
    return TlsCounters(*sums, tuple(clients), tuple(servers))


def pool_tls(Table table, int pool) -> PoolTls:
    """What a pool's servers have to do with TLS."""
    cdef CounterRow *row
    cdef uint32_t process, slot
    cdef int i
    sums = [0] * 3
    histogram = [0] * TLS_SECONDS_BUCKETS
    for process in range(table.header.n_processes):
        row = &table.counters[pool * table.header.n_processes + process]
        sums[0] += row.tls_handshakes
        sums[1] += row.tls_handshake_errors
        sums[2] += row.tls_handshake_time
        for i in range(TLS_SECONDS_BUCKETS):
            histogram[i] += row.tls_histogram[i]
    connections = 0
    for slot in range(table.header.n_slots):
        connections += (table.slots[slot].state != SLOT_FREE and table.slots[slot].pool == pool
                        and table.slot_tls[slot].version != 0)
    return PoolTls(connections, *sums, tuple(histogram))


def slot_tls(Table table, int slot) -> TlsView | None:
    """What a server connection is encrypted with, None when it is not."""
    return view(&table.slot_tls[slot]) if table.slots[slot].tls else None


def client_tls(Table table, int client) -> TlsView | None:
    """What a client connection is encrypted with, None when it is not."""
    return view(&table.client_tls[client]) if table.clients[client].tls else None


cdef object view(TlsRow *row):
    if not row.version:
        return None
    return TlsView(row.version, row.suite, row.established_at, row.inbound.sequence, row.outbound.sequence)
