"""Counters and histograms: writing them, adding them up, closing windows. counters.pxd has the rules."""

import msgspec

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from doorman.shm.atomics cimport highest_bit, load32, store32
from doorman.shm.layout cimport (
    HISTOGRAM_BUCKETS,
    OPEN_BUCKETS,
    OPEN_PHASES,
    SOCKET_STATES,
    CounterRow,
    ProcessCounterRow,
    WindowRow,
)
from doorman.shm.table cimport Table, now_us

SQLSTATE_CLASSES = ("08", "53", "57", "25P02", "26000", "other")
PARAMETER_SQLSTATES = ("22023", "42704", "42501", "55P02")
STREAM_KINDS = ("data_row", "copy_data", "function_call_response")
PHASES = ("tcp_connect", "tls", "auth", "startup")
PHASE_SECONDS = (0.001, 0.01, 0.1, 1.0, 10.0)
CONNECTION_KINDS = ("total", "plain", "tls", "cancel")
QUERY_SECONDS = (0.0005, 0.005, 0.05, 0.5, 5.0)
TRANSACTION_SECONDS = (0.001, 0.01, 0.1, 1.0, 10.0)
WAIT_SECONDS = (0.0001, 0.001, 0.01, 0.1, 1.0)

cdef enum:
    N_TOTALS = 54               # words of CounterRow up to its spare ones
    QUERIES = 0                 # histograms of a CounterRow
    TRANSACTIONS = 1
    WAITS = 2

cdef int64_t[5] PHASE_LIMITS
PHASE_LIMITS[:] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
cdef int64_t[3][5] LIMITS
LIMITS[<int>QUERIES][:] = [500, 5_000, 50_000, 500_000, 5_000_000]
LIMITS[<int>TRANSACTIONS][:] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
LIMITS[<int>WAITS][:] = [100, 1_000, 10_000, 100_000, 1_000_000]


class Totals(msgspec.Struct, frozen=True):
    """Counters of a pool since it is there, over all processes. Bytes and times (microseconds) are the servers' side."""

    transactions: int = 0
    queries: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    transaction_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    waits: int = 0
    errors: int = 0
    logins: int = 0
    login_failures: int = 0
    cancels: int = 0
    servers_opened: int = 0
    servers_closed: int = 0
    listens: int = 0
    errors_of_class: tuple[int, ...] = (0,) * 6
    statement_hits: int = 0
    statement_misses: int = 0
    checks_known: int = 0
    checks_sent: int = 0
    opens_started: int = 0
    streams: tuple[int, ...] = (0,) * 3
    streams_failed: tuple[int, ...] = (0,) * 3
    streamed_bytes: tuple[int, ...] = (0,) * 3
    tls_handshakes: int = 0
    tls_handshake_errors: int = 0
    tls_handshake_time: int = 0
    tls_histogram: tuple[int, ...] = (0,) * 11
    gate_waits: int = 0
    parameter_errors: tuple[int, ...] = (0,) * 4


class Averages(msgspec.Struct, frozen=True):
    """Of the statistics window that ended last: per second, and microseconds."""

    transactions: int = 0
    queries: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    errors: int = 0
    transaction_us: int = 0
    query_us: int = 0
    wait_us: int = 0


class Percentiles(msgspec.Struct, frozen=True):
    """50th, 90th, 95th and 99th of each, in microseconds; 0 where nothing happened."""

    query: tuple[int, ...] = (0,) * 4
    transaction: tuple[int, ...] = (0,) * 4
    wait: tuple[int, ...] = (0,) * 4


class Cumulative(msgspec.Struct, frozen=True):
    """How many times were at most QUERY_SECONDS (and so on), bucket by bucket, since the pool is there."""

    query: tuple[int, ...] = (0,) * 5
    transaction: tuple[int, ...] = (0,) * 5
    wait: tuple[int, ...] = (0,) * 5


NOTHING_YET = (Cumulative(), Percentiles())


class ProcessTotals(msgspec.Struct, frozen=True):
    """Counters of one process row, or of all."""

    connections: int
    plain: int
    encrypted: int
    cancels: int
    opens: tuple[tuple[int, ...], ...]
    open_time: tuple[int, ...]
    texts: int
    text_bytes: int
    loop_delay: int
    loop_delay_high: int
    texts_forgotten: int


# --- writing ---------------------------------------------------------------------------------------------------------

cdef void count_time(uint64_t *histogram, int64_t elapsed) noexcept nogil:
    """Add a time in microseconds: below 64 a bucket each, above 64 buckets for each power of two."""
    cdef uint64_t value = <uint64_t>elapsed if elapsed > 0 else 0
    cdef int shift
    if value >= <uint64_t>1 << 37:
        value = (<uint64_t>1 << 37) - 1
    if value < 64:
        histogram[value] += 1
        return
    shift = highest_bit(value) - 6
    histogram[(shift + 1) * 64 + ((value >> shift) - 64)] += 1


cdef void count_error(CounterRow *counters, const char *sqlstate) noexcept nogil:
    """An error with this SQLSTATE (five characters) went to a client."""
    cdef int kind = 5
    if memcmp(sqlstate, b"08", 2) == 0:
        kind = 0
    elif memcmp(sqlstate, b"53", 2) == 0:
        kind = 1
    elif memcmp(sqlstate, b"57", 2) == 0:
        kind = 2
    elif memcmp(sqlstate, b"25P02", 5) == 0:
        kind = 3
    elif memcmp(sqlstate, b"26000", 5) == 0:
        kind = 4
    counters.errors += 1
    counters.errors_of_class[kind] += 1


cpdef count_connection(Table table, int kind):
    """A client's first packet said what it is; `kind` is an index of CONNECTION_KINDS (0 is counted by the relay)."""
    cdef ProcessCounterRow *row = &table.process_counters[table.process]
    if kind == 1:
        row.plain += 1
    elif kind == 2:
        row.encrypted += 1
    elif kind == 3:
        row.cancels += 1


cpdef count_opening(Table table, int slot):
    """An attempt to open a server for this slot began."""
    table.counter_row(table.slots[slot].pool).opens_started += 1


def count_parameter_error(Table table, pool: int, sqlstate: str) -> None:
    """PostgreSQL refused a configured startup parameter of this pool."""
    if sqlstate in PARAMETER_SQLSTATES:
        table.counter_row(pool).parameter_errors[<int>PARAMETER_SQLSTATES.index(sqlstate)] += 1


cpdef count_phase(Table table, int phase, int64_t elapsed):
    """A phase (index of PHASES) of opening a server took so many microseconds."""
    cdef ProcessCounterRow *row = &table.process_counters[table.process]
    cdef int bucket = 0
    while bucket < 5 and elapsed > PHASE_LIMITS[bucket]:
        bucket += 1
    row.opens[phase][bucket] += 1
    row.open_time[phase] += elapsed


# --- reading ---------------------------------------------------------------------------------------------------------

cdef void add_up(Table table, int pool, uint64_t *sums) noexcept nogil:
    cdef uint64_t *row
    cdef int process, i
    memset(sums, 0, N_TOTALS * sizeof(uint64_t))
    for process in range(<int>table.header.n_processes):
        row = <uint64_t *>&table.counters[pool * <int>table.header.n_processes + process]
        for i in range(N_TOTALS):
            sums[i] += row[i]


def pool_totals(Table table, int pool) -> Totals:
    """The counters of one pool."""
    cdef uint64_t[N_TOTALS] s
    add_up(table, pool, s)
    return Totals(
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14],
        (s[15], s[16], s[17], s[18], s[19], s[20]), s[21], s[22], s[23], s[24], s[25],
        (s[26], s[27], s[28]), (s[29], s[30], s[31]), (s[32], s[33], s[34]), s[35], s[36], s[37],
        tuple([s[i] for i in range(38, 49)]), s[49], (s[50], s[51], s[52], s[53]),
    )


def process_totals(Table table, int process) -> ProcessTotals:
    """The counters of one process row."""
    cdef ProcessCounterRow *row = &table.process_counters[process]
    return ProcessTotals(
        row.connections, row.plain, row.encrypted, row.cancels,
        tuple([tuple([row.opens[phase][i] for i in range(OPEN_BUCKETS)]) for phase in range(OPEN_PHASES)]),
        tuple([row.open_time[phase] for phase in range(OPEN_PHASES)]), row.texts, row.text_bytes,
        row.loop_delay, row.loop_delay_high, row.texts_forgotten,
    )


def all_process_totals(Table table) -> ProcessTotals:
    """The counters of all processes that ever were, added up; delays are the largest."""
    rows = [process_totals(table, process) for process in range(<int>table.header.n_processes)]
    return ProcessTotals(
        sum([row.connections for row in rows]), sum([row.plain for row in rows]), sum([row.encrypted for row in rows]),
        sum([row.cancels for row in rows]),
        tuple([tuple(map(sum, zip(*phase))) for phase in zip(*[row.opens for row in rows])]),
        tuple(map(sum, zip(*[row.open_time for row in rows]))), sum([row.texts for row in rows]),
        sum([row.text_bytes for row in rows]), max([row.loop_delay for row in rows]),
        max([row.loop_delay_high for row in rows]), sum([row.texts_forgotten for row in rows]),
    )


# --- histograms ------------------------------------------------------------------------------------------------------

cdef inline uint64_t *histogram_of(CounterRow *row, int which) noexcept nogil:
    if which == QUERIES:
        return row.query_histogram
    if which == TRANSACTIONS:
        return row.transaction_histogram
    return row.wait_histogram


cdef inline uint64_t *base_of(WindowRow *row, int which, int half) noexcept nogil:
    if which == QUERIES:
        return row.query_base[half]
    if which == TRANSACTIONS:
        return row.transaction_base[half]
    return row.wait_base[half]


cdef inline uint64_t count_of(CounterRow *row, int which) noexcept nogil:
    if which == QUERIES:
        return row.queries
    return row.transactions if which == TRANSACTIONS else row.waits


cdef inline int64_t middle_of(int bucket) noexcept nogil:
    """Microseconds that a bucket stands for."""
    cdef int shift
    if bucket < 64:
        return bucket
    shift = bucket // 64 - 1
    return ((<int64_t>(64 + bucket % 64)) << shift) + ((<int64_t>1 << shift) >> 1)


cdef int merge(Table table, int pool, int which, uint64_t *into) noexcept nogil:
    """Add the histogram up over the processes; how many buckets from the first on may be other than 0 (rule 3)."""
    cdef CounterRow *row
    cdef uint64_t *histogram
    cdef uint64_t wanted, seen
    cdef int process, bucket, high = 0
    memset(into, 0, HISTOGRAM_BUCKETS * sizeof(uint64_t))
    for process in range(<int>table.header.n_processes):
        row = &table.counters[pool * <int>table.header.n_processes + process]
        wanted = count_of(row, which)
        histogram = histogram_of(row, which)
        seen = 0
        bucket = 0
        while seen < wanted and bucket < HISTOGRAM_BUCKETS:
            into[bucket] += histogram[bucket]
            seen += histogram[bucket]
            bucket += 1
        high = max(high, bucket)
    return high


cdef tuple percentiles_of(Table table, int pool, int which):
    cdef uint64_t[HISTOGRAM_BUCKETS] counts
    cdef WindowRow *window = &table.windows[pool]
    cdef uint64_t *base
    cdef uint64_t total = 0, seen = 0
    cdef uint32_t writing
    cdef int high, bucket, wanted = 0, tries = 0
    cdef int64_t[4] found
    cdef double[4] shares
    shares[:] = [0.5, 0.9, 0.95, 0.99]
    high = merge(table, pool, which, counts)
    while True:
        writing = load32(&window.writing)
        base = base_of(window, which, window.older)
        total = 0
        if window.turns:
            for bucket in range(high):
                counts[bucket] = counts[bucket] - base[bucket] if counts[bucket] > base[bucket] else 0
                total += counts[bucket]
        else:
            for bucket in range(high):
                total += counts[bucket]
        tries += 1
        if tries == 3 or (not writing & 1 and load32(&window.writing) == writing):
            break
        high = merge(table, pool, which, counts)
    if not total:
        return (0, 0, 0, 0)
    for bucket in range(high):
        seen += counts[bucket]
        while wanted < 4 and <double>seen >= shares[wanted] * <double>total:
            found[wanted] = middle_of(bucket)
            wanted += 1
    return (found[0], found[1], found[2], found[3])


def pool_percentiles(Table table, int pool) -> Percentiles:
    """Rule 4."""
    return Percentiles(
        percentiles_of(table, pool, QUERIES), percentiles_of(table, pool, TRANSACTIONS),
        percentiles_of(table, pool, WAITS))


def pool_times(Table table, int pool) -> tuple[Cumulative, Percentiles]:
    """Both, and no look at the histograms of a pool in which nothing ever happened."""
    cdef int process
    cdef CounterRow *row
    for process in range(<int>table.header.n_processes):
        row = &table.counters[pool * <int>table.header.n_processes + process]
        if row.queries or row.transactions or row.waits:
            return pool_cumulative(table, pool), pool_percentiles(table, pool)
    return NOTHING_YET


cdef tuple cumulative_of(Table table, int pool, int which):
    cdef uint64_t[HISTOGRAM_BUCKETS] counts
    cdef uint64_t seen = 0
    cdef uint64_t[5] result
    cdef int bucket = 0, limit
    cdef int high = merge(table, pool, which, counts)
    for limit in range(5):
        while bucket < high and middle_of(bucket) <= LIMITS[which][limit]:
            seen += counts[bucket]
            bucket += 1
        result[limit] = seen
    return (result[0], result[1], result[2], result[3], result[4])


def pool_cumulative(Table table, int pool) -> Cumulative:
    """The histograms of one pool with the few buckets of a scrape."""
    return Cumulative(
        cumulative_of(table, pool, QUERIES), cumulative_of(table, pool, TRANSACTIONS),
        cumulative_of(table, pool, WAITS))


# --- windows ---------------------------------------------------------------------------------------------------------

def end_window(Table table, int pool) -> None:
    """Keeper: a window of this pool ends and the next begins."""
    cdef WindowRow *row = &table.windows[pool]
    cdef uint64_t[N_TOTALS] s
    cdef int64_t now = now_us()
    cdef int64_t elapsed = max(now - (row.began_at or table.header.started_at), 1)
    add_up(table, pool, s)
    if s[0] == row.transactions and s[1] == row.queries and s[2] == row.bytes_received and s[8] == row.errors \
            and s[3] == row.bytes_sent and s[6] == row.wait_time:
        row.quiet += 1
        if row.quiet > 2:                       # nothing to write: pages that nobody needs stay untouched
            row.began_at = now
            return
    else:
        row.quiet = 0
    store32(&row.writing, row.writing + 1 | 1)
    write_averages(row, s, elapsed)
    copy_bases(table, pool, row)
    row.began_at = now
    row.turns += 1
    store32(&row.writing, row.writing + 1)


cdef void write_averages(WindowRow *row, uint64_t *s, int64_t elapsed) noexcept nogil:
    cdef uint64_t transactions = s[0] - row.transactions
    cdef uint64_t queries = s[1] - row.queries
    row.transactions_per_second = transactions * 1_000_000 // elapsed
    row.queries_per_second = queries * 1_000_000 // elapsed
    row.received_per_second = (s[2] - row.bytes_received) * 1_000_000 // elapsed
    row.sent_per_second = (s[3] - row.bytes_sent) * 1_000_000 // elapsed
    row.errors_per_second = (s[8] - row.errors) * 1_000_000 // elapsed
    row.mean_transaction = (s[4] - row.transaction_time) // transactions if transactions else 0
    row.mean_query = (s[5] - row.query_time) // queries if queries else 0
    row.mean_wait = (s[6] - row.wait_time) // transactions if transactions else 0
    row.transactions = s[0]
    row.queries = s[1]
    row.bytes_received = s[2]
    row.bytes_sent = s[3]
    row.transaction_time = s[4]
    row.query_time = s[5]
    row.wait_time = s[6]
    row.errors = s[8]


cdef void copy_bases(Table table, int pool, WindowRow *row) noexcept nogil:
    """The older base is written over with the histograms of now, and is the newer one from here on."""
    cdef uint64_t[HISTOGRAM_BUCKETS] counts
    cdef uint64_t *base
    cdef int which, high, bucket
    for which in range(3):
        high = merge(table, pool, which, counts)
        base = base_of(row, which, row.older)
        for bucket in range(high):
            base[bucket] = counts[bucket]
    row.older = 1 - row.older


def pool_averages(Table table, int pool) -> Averages:
    """Of the window that ended last."""
    cdef WindowRow *row = &table.windows[pool]
    return Averages(
        row.transactions_per_second, row.queries_per_second, row.received_per_second, row.sent_per_second,
        row.errors_per_second, row.mean_transaction, row.mean_query, row.mean_wait)


# --- sockets ---------------------------------------------------------------------------------------------------------

def set_census(Table table, states) -> None:
    """Keeper: how many sockets of our processes are in which state, in the order of SHOW SOCKETS."""
    for at, count in enumerate(states[:SOCKET_STATES]):
        table.census.states[<int>at] = count
    table.census.taken_at = now_us()


def get_census(Table table) -> tuple[int, ...]:
    """What the last `set_census` said; zeros before."""
    return tuple([table.census.states[i] for i in range(SOCKET_STATES)])
