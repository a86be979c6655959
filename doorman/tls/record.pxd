"""The record layer: one encrypted connection, as far as it is not data in a `TlsRow`. See record.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from doorman.shm.layout cimport TlsDirection, TlsRow
from doorman.shm.table cimport Table
from doorman.tls.cipher cimport Cipher

cdef enum:
    HEADER = 5                      # bytes of a record's header
    PLAIN_MOST = 16_384             # bytes of content in one record
    RECORD_MOST = 16_645            # bytes of the longest record on the wire (TLS 1.3: 2^14 + 256, and the header)
    OVERHEAD = 29                   # most that sealing adds to a record: header, explicit nonce, type, tag


cdef class RecordLayer:
    cdef TlsRow *row
    cdef bint owns_row
    cdef bint is_client             # this side is the TLS client: it faces a server
    cdef Cipher sealer              # for outbound.key, as of `seal_epoch`
    cdef Cipher opener
    cdef uint32_t seal_epoch
    cdef uint32_t open_epoch
    cdef bint aes12                 # TLS 1.2 with AES-GCM: explicit nonces
    cdef bytes handshake            # the incomplete handshake message so far (after the handshake: tickets, KeyUpdate)
    cdef uint32_t empties           # records in a row that carried nothing
    cdef readonly bint ended        # the peer said close_notify
    cdef readonly int fault         # doorman.tls.faults.Fault; not 0: nothing is read or written any more
    cdef readonly int alert         # what the peer's fatal alert said
    cdef bytes raw                  # Python users only: an incomplete record

    cdef Py_ssize_t seal(self, int kind, const char *data, size_t length, char *out) except -1
    cdef Py_ssize_t seal_all(self, const char *data, size_t length, char *out) except -1
    cdef Py_ssize_t seal_update(self, char *out) except -1
    cdef Py_ssize_t seal_farewell(self, char *out) except -1
    cdef Py_ssize_t open_all(self, const char *raw, size_t have, char *into, size_t *used) except -1
    cdef bint is_header(self, const uint8_t *at, size_t size) noexcept
    cdef Py_ssize_t open(self, const uint8_t *record, size_t size, char *into, int *kind) except -2
    cdef int fail(self, int fault) noexcept
    cdef int on_other(self, int kind, const char *data, Py_ssize_t length) except -1
    cdef int on_alert(self, const uint8_t *data, Py_ssize_t length) except -1
    cdef int on_handshake(self, bytes data) except -1
    cdef int on_message(self, int kind, bytes body, bint is_last) except -1
    cdef bint is_amid(self) noexcept
    cdef int load_seal(self) except -1
    cdef int load_open(self) except -1


cdef size_t sealed_bound(size_t length) noexcept nogil
cdef RecordLayer layer_of(TlsRow *row, bint is_client)
cdef RecordLayer client_row_layer(Table table, int client, object session)
cdef int fill_row(TlsRow *row, object session, long long now) except -1
