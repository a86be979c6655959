"""Client rows: one for each admitted connection.

Rules
1. A row is taken and given up under the clients lock; `clients_used` never exceeds `max_connections`.
2. Between that, its worker alone writes it, except the wait fields, which belong to the pool's lock.
3. A row is given up only when it is in no queue and no slot names it.
"""

from libc.stdint cimport int64_t

from doorman.shm.table cimport Table

cdef int admit_client(Table table, int64_t now) noexcept nogil
cdef void dismiss_client(Table table, int client) noexcept nogil
cdef void give_up_row(Table table, int client) noexcept nogil
cdef void rebuild_free_clients(Table table) noexcept nogil
