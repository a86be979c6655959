"""The other half of the seam: what `sockets` does where a connection is encrypted (`conn.tls`).

Rules
1. A read takes no more from the socket than fits `room` as it is: what it decrypts to is shorter. So every record that
   is whole is opened at once, and what may be left is one incomplete record (`link.raw`), for which epoll will speak.
   Hence `room` is always more than one record (RECORD_MOST); who reads into less is at fault.
2. `outb` of an encrypted connection holds records: writing what is queued is the same for both kinds.
3. close_notify or a fault ends the stream. If bytes came before it, they are returned first; so that the end is noticed
   then, the socket's reading side is shut down, which epoll announces like an end of the peer's.
4. A server is lent to others only between records (`is_between`): the rest of one would be in this process alone.
"""

import logging

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EPIPE, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from doorman.shm.table cimport Table
from doorman.tls.record cimport RECORD_MOST, RecordLayer, client_row_layer, layer_of, sealed_bound
from doorman.workers.relay.buffer cimport buffer_append, buffer_free, buffer_length
from doorman.workers.relay.engine cimport SCRATCH, Conn
from doorman.workers.relay.link cimport Link

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *into, size_t room, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    int shutdown(int fd, int how)
    int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RD, SHUT_RDWR

log = logging.getLogger("doorman.relay")

cdef enum:
    PIECE = 131_072                 # bytes sealed for one send
    SEALED_PIECE = PIECE + 512      # `sealed_bound` of that

cdef char[SCRATCH] RAW              # records as they came: one read of the process at a time
cdef char[SEALED_PIECE] OUT


cdef Py_ssize_t receive_sealed(Conn conn, char *into, size_t room) noexcept:
    """As `Sockets.receive`: bytes of content, 0 at the end of the stream or after a fault, -1: nothing to read now."""
    cdef Link link = conn.tls
    cdef size_t left = buffer_length(&link.raw)
    cdef ssize_t n
    if link.layer.fault or link.layer.ended:
        return 0
    room = min(room, <size_t>SCRATCH)
    if room <= RECORD_MOST:
        return 0
    if left:
        memcpy(RAW, link.raw.data + link.raw.start, left)
    while True:
        n = recv(conn.fd, RAW + left, room - left, MSG_DONTWAIT)        # network op
        conn.drained = n < <ssize_t>(room - left)
        if n > 0:
            break
        if n == 0:
            return 0
        if errno != EINTR:
            return -1 if errno == EAGAIN else 0
    try:
        return open_what_came(conn, link, RAW, left + n, into)
    except Exception:
        log.exception("a connection was ended by an internal error in its record layer")
        return 0


cdef Py_ssize_t open_what_came(Conn conn, Link link, const char *raw, size_t have, char *into) except -2:
    cdef size_t used = 0
    cdef Py_ssize_t total = link.layer.open_all(raw, have, into, &used)
    buffer_free(&link.raw)
    if link.layer.fault or link.layer.ended:
        end_stream(conn, link)
        return total
    if used < have:
        buffer_append(&link.raw, raw + used, have - used)
    return total if total else -1


cdef int end_stream(Conn conn, Link link) except -1:
    """Rule 3; a fault is counted, and the peer is told."""
    if link.layer.fault:
        link.faults[link.layer.fault] += 1
        say_farewell(conn)
    shutdown(conn.fd, SHUT_RD)
    return 0


cdef Py_ssize_t transmit_sealed(Conn conn, const char *data, size_t length) except -2:
    """As `Sockets.transmit`: bytes of records that remain queued; -1 when nothing more can be written."""
    cdef Link link = conn.tls
    cdef size_t take
    cdef Py_ssize_t n
    cdef ssize_t sent
    while length:
        take = min(length, <size_t>PIECE)
        n = link.layer.seal_all(data, take, OUT)
        if not n:
            return -1
        sent = 0
        if not buffer_length(&conn.outb):
            sent = send(conn.fd, OUT, n, MSG_DONTWAIT | MSG_NOSIGNAL)   # network op
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    cut_off(conn, errno)
                    return -1
                sent = 0
        if sent < n:
            buffer_append(&conn.outb, OUT + sent, n - sent)
        data += take
        length -= take
    return <Py_ssize_t>buffer_length(&conn.outb)


cdef void cut_off(Conn conn, int error) noexcept:
    """A write failed with this errno. Where the peer is not gone (ENOBUFS: the kernel has no memory), bytes are missing from
    now on, and it would take what comes next for them: the connection ends, which epoll announces."""
    if error != EPIPE and error != ECONNRESET:
        shutdown(conn.fd, SHUT_RDWR)


cdef int take_rest(Conn conn, bytes rest) except -1:
    """Bytes that came together with the end of the handshake: what they carry goes to `inb`."""
    cdef Py_ssize_t n
    cdef char *into
    room = bytearray(len(rest))
    into = room
    n = open_what_came(conn, conn.tls, rest, len(rest), into)
    if n > 0:
        buffer_append(&conn.inb, into, n)
    return 0


cdef int say_farewell(Conn conn) noexcept:
    """close_notify, or the alert of a fault: once, and only if nothing is queued before it."""
    cdef Link link = conn.tls
    cdef Py_ssize_t n
    cdef char[64] last_words
    if link.said_farewell or buffer_length(&conn.outb):
        return 0
    link.said_farewell = True
    try:
        n = link.layer.seal_farewell(last_words)
        if n:
            send(conn.fd, last_words, n, MSG_DONTWAIT | MSG_NOSIGNAL)
    except Exception:
        log.exception("a connection could not be closed in order")
    return 0


cdef bint is_between(Link link) noexcept:
    """Rule 4."""
    return not buffer_length(&link.raw) and not link.layer.is_amid()


cdef Link link_server(Table table, int slot, RecordLayer layer):
    """This process's link to an encrypted server. layer: where this process has one already, None: from its row."""
    cdef Link link
    if layer is None:
        if not table.slot_tls[slot].version:
            return None                             # whoever opened it died amid its handshake
        layer = layer_of(&table.slot_tls[slot], True)
    link = Link()
    link.layer = layer
    link.faults = table.tls_counters[table.process].server_faults
    return link


cdef Link link_client(Table table, int client, object session):
    cdef Link link = Link()
    link.layer = client_row_layer(table, client, session)
    link.faults = table.tls_counters[table.process].client_faults
    return link
