"""Admission of clients and their rows. Runs in workers; clients.pxd has the rules."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from doorman.shm.atomics cimport add64, store32
from doorman.shm.layout cimport CLIENT_FREE, CLIENT_LOGIN, NONE, ClientRow, Header, TlsRow
from doorman.shm.lock cimport acquire, release
from doorman.shm.table cimport Table


cdef int admit_client(Table table, int64_t now) noexcept nogil:
    """A new row for a client of this process; NONE when `max_connections` are in."""
    cdef Header *header = table.header
    cdef ClientRow *row
    cdef int client = NONE
    acquire(&header.clients_lock, table.pid)
    if header.clients_used < header.max_connections:
        client = header.clients_free
        if client != NONE:
            header.clients_free = table.clients[client].next_free
        elif header.clients_high < header.n_clients:
            client = <int>header.clients_high
            header.clients_high += 1
    if client != NONE:
        row = &table.clients[client]
        memset(row, 0, sizeof(ClientRow))
        row.worker = table.process
        row.pool = NONE
        row.slot = NONE
        row.wait_next = NONE
        row.wait_previous = NONE
        row.connected_at = now
        row.state_since = now
        header.clients_used += 1
        store32(&row.state, CLIENT_LOGIN)
    release(&header.clients_lock)
    if client != NONE:
        row.connection_id = add64(&header.next_connection_id, 1)
    return client


cdef void dismiss_client(Table table, int client) noexcept nogil:
    cdef Header *header = table.header
    acquire(&header.clients_lock, table.pid)
    give_up_row(table, client)
    release(&header.clients_lock)


cdef void give_up_row(Table table, int client) noexcept nogil:
    """`dismiss_client` under the clients lock. The cancel key goes first: a FREE row must not be found by it."""
    cdef Header *header = table.header
    cdef ClientRow *row = &table.clients[client]
    if row.state == CLIENT_FREE:
        return
    store32(&table.cancel_pids[client], 0)
    memset(row.cancel_secret, 0, sizeof(row.cancel_secret))
    if row.tls:
        memset(&table.client_tls[client], 0, sizeof(TlsRow))
    store32(&row.state, CLIENT_FREE)
    row.next_free = header.clients_free
    header.clients_free = client
    header.clients_used -= 1


cdef void rebuild_free_clients(Table table) noexcept nogil:
    """Repair only: make the free list and the count again from the states. The clients lock is held."""
    cdef Header *header = table.header
    cdef int client
    cdef uint32_t used = 0
    header.clients_free = NONE
    for client in range(<int>header.clients_high):
        if table.clients[client].state == CLIENT_FREE:
            table.clients[client].next_free = header.clients_free
            header.clients_free = client
        else:
            used += 1
    header.clients_used = used
