"""Clients that must go: the pooler shuts down, or their pool was removed. Idle ones go now, others when they are idle.

Rules
1. Idle is who has no server and no transaction (BEGIN alone takes no server), and a client in session mode whose server is in
   no transaction and owes nothing.
2. Everybody is told why: FATAL 57P01, as PostgreSQL does.
3. A condemned client (KILL) goes whatever it does, and what its server runs is cancelled. In the middle of a message of
   its server's no word of ours can be said.
"""

from doorman.shm.layout cimport WAIT_FAILED, WAIT_NO
from doorman.workers.relay.backend cimport is_amid_message, is_at_rest
from doorman.workers.relay.buffer cimport buffer_length
from doorman.workers.relay.client_side cimport ClientSide
from doorman.workers.relay.engine cimport PHASE_FAREWELL, STAGE_NONE, Client, Server

from doorman.shm.lifecycle import REMOVED

SHUTTING_DOWN = ("57P01", "terminating connection due to administrator command")


cdef class Leaving(ClientSide):
    """Sends clients away."""

    def drain(self) -> int:
        """Graceful end: idle clients are told to go, the others when their transaction is over. How many are left."""
        cdef Client client
        self.draining = True
        left = 0
        for client in list(self.clients):
            if client is None or client.closed:
                continue
            if self.is_idle(client) and client.row.wait_state == WAIT_NO:
                self.send_away(client, SHUTTING_DOWN)
            else:
                left += 1
        return left

    def dismiss_pool(self, pool: int) -> int:
        """Send the clients of a removed pool away; those that wait for a server will get none. How many are left."""
        cdef Client client
        left = 0
        for client in list(self.clients):
            if client is None or client.closed or client.pool != pool:
                continue
            if self.is_idle(client):
                self.send_away(client, REMOVED)
            else:
                left += 1
        return left

    def dismiss_all(self) -> None:
        """The process ends now. A client that is amid a message cannot be told: it would take that for a part of it."""
        cdef Client client
        for client in list(self.clients):
            if client is None or client.closed or client.phase == PHASE_FAREWELL or buffer_length(&client.outb):
                continue
            if client.server is None or not is_amid_message(client.server):
                self.send_away(client, SHUTTING_DOWN)

    cdef bint is_idle(self, Client client) noexcept:
        """Rule 1. What it has sent and nobody has looked at yet counts, unless it waits for a server."""
        cdef Server server = client.server
        if client.phase == PHASE_FAREWELL or (buffer_length(&client.inb) and client.row.wait_state == WAIT_NO):
            return False
        if server is None:
            return client.begin is None or client.row.wait_state != WAIT_NO
        return client.session_mode and server.stage == STAGE_NONE and is_at_rest(server, client)

    cdef int send_away(self, Client client, why) except -1:
        """Rule 2."""
        if client.row.wait_state == WAIT_FAILED:
            client.row.wait_state = WAIT_NO         # it is out of the queue already
        return self.refuse(client, "FATAL", why[0], why[1])

    cdef int look_at_condemned(self) except -1:
        """Clients of ours that the console sends away (shm/orders)."""
        cdef Client client
        for client in list(self.clients):
            if client is not None and not client.closed and client.row.condemned == client.row.connection_id:
                try:
                    self.expel(client)
                except Exception:
                    self.fail(client)
        return 0

    cdef int expel(self, Client client) except -1:
        """Rule 3."""
        if client.phase == PHASE_FAREWELL:
            return 0
        if client.server is not None and is_amid_message(client.server):
            return self.end_client(client)
        self.stop_waiting(client)
        return self.send_away(client, SHUTTING_DOWN)
