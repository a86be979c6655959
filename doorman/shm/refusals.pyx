"""Refused logins, counted by cause: one row for each process, one writer each, readers add up.

A row outlives its process, so that the sums never go down. A pool's own refusals stand with its other counters as well.
"""

from libc.stdint cimport uint32_t

from doorman.shm.layout cimport REFUSAL_CAUSES
from doorman.shm.table cimport Table

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
