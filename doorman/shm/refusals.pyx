"""Refused logins, counted by cause: one row for each process, one writer each, readers add up. And who has been in the
log for it lately, over all processes.

A row outlives its process, so that the sums never go down. A pool's own refusals stand with its other counters as well.
A source has one place; who takes another's makes it forgotten, which costs a line in the log at most.
"""

from libc.stdint cimport uint32_t, uint64_t

from doorman.shm.atomics cimport add64, cas64, load64, swap64
from doorman.shm.layout cimport REFUSAL_CAUSES, SOURCE_ROWS, SourceRow
from doorman.shm.table cimport Table, now_us

CAUSES = (
    "invalid_startup", "protocol_error", "hba", "tls_required", "tls_handshake_fail", "too_many_clients", "no_pool",
    "password", "pam", "ldap", "jwt", "talos", "cert", "auth_query", "timeout", "other",
)
"""In the order of the row. The first six are what `pg_doorman_listener_rejections_total` speaks of."""

assert len(CAUSES) == REFUSAL_CAUSES

cdef dict NUMBER_OF = {cause: number for number, cause in enumerate(CAUSES)}


def count_refusal(Table table, cause: str, pool: int = -1) -> None:
    """One more, by this process; `pool` where it is known whose login it was."""
    cdef int number = NUMBER_OF.get(cause, REFUSAL_CAUSES - 1)
    table.processes[table.process].refusals[number] += 1
    if pool >= 0:
        table.counter_row(pool).login_failures += 1


def refusal_counts(Table table) -> dict[str, int]:
    """Cause -> how many, over all processes since the segment was made."""
    cdef int number
    cdef uint32_t process
    counts = dict.fromkeys(CAUSES, 0)
    for process in range(table.header.n_processes):
        for number, cause in enumerate(CAUSES):
            counts[cause] += table.processes[process].refusals[number]
    return counts


def lines_left_out(Table table, bytes source, interval_us: int) -> int | None:
    """May a refusal of this source be logged? None: no, one was within the interval, by whatever process. Else how many
    were left out since that one. One word tells source and time, so of two processes only one gets a number."""
    cdef uint64_t name = digest(source)
    cdef SourceRow *row = &table.sources[name & (SOURCE_ROWS - 1)]
    cdef uint32_t now = <uint32_t>(now_us() // 10_000)
    cdef uint64_t interval = <uint64_t>interval_us // 10_000
    cdef uint64_t seen, wanted = (name & <uint64_t>0xFFFFFFFF00000000) | now
    cdef bint is_known
    while True:
        seen = load64(&row.seen)
        is_known = seen != 0 and seen >> 32 == name >> 32
        if is_known and <uint32_t>(now - <uint32_t>seen) < interval:
            add64(&row.left_out, 1)
            return None
        if cas64(&row.seen, seen, wanted):
            break
    left_out = swap64(&row.left_out, 0)
    return left_out if is_known else 0


cdef uint64_t digest(const unsigned char[:] source) noexcept:
    """FNV-1a, mixed once more: high bits name, low bits place. Sources are addresses, which nobody chooses freely."""
    cdef uint64_t value = <uint64_t>0xCBF29CE484222325
    cdef Py_ssize_t at
    for at in range(source.shape[0]):
        value = (value ^ source[at]) * <uint64_t>0x100000001B3
    value ^= value >> 29
    return value * <uint64_t>0xBF58476D1CE4E5B9
