"""The record layer of TLS 1.2 (RFC 5246, 5288, 7905) and 1.3 (RFC 8446 section 5) over the AEADs of `cipher`.

Keys, IVs, sequence numbers and traffic secrets stand in a `TlsRow`, in the shared table or private to this object, so
that any process that may touch the socket goes on where the last one stopped. A `RecordLayer` is one process's handle
of it: ciphers made from those keys, and what is left of an incomplete handshake message.

Rules
1. A sequence number is used up (written to the row) before its record can reach the wire: a process that is killed in
   between leaves a hole, which the peer refuses, and never a nonce that is used twice. Such a connection is not lent
   again, for its slot is still its owner's (docs/tls.md).
2. Nothing that was not authenticated is given to anybody: `open` clears what a failed AEAD left behind.
3. A fault is final: `fault` stays, nothing more is read or written but the alert that `seal_farewell` makes.
4. What a row's `epoch` says is older than the cipher here is made anew: another process may have changed the key.
5. One record holds up to 16,384 bytes; a peer's longer one is a fault, as are more than MOST_EMPTY records in a row
   that carry nothing.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from doorman.shm.layout cimport TlsDirection, TlsRow
from doorman.shm.table cimport Table, now_us
from doorman.tls.cipher cimport TAG, cipher_of

from doorman.tls.faults import ALERTS, Fault
from doorman.tls.schedule import Keys, Session, next_keys
from doorman.tls.suites import BY_NUMBER

cdef enum:
    KIND_CCS = 20
    KIND_ALERT = 21
    KIND_HANDSHAKE = 22
    KIND_DATA = 23
    TLS_1_2 = 0x0303
    TLS_1_3 = 0x0304
    EXPLICIT = 8
    MOST_EMPTY = 32                 # OpenSSL's limit as well
    MOST_HANDSHAKE = 131_072        # bytes of a message after the handshake; the longest ticket has 65,551
    UPDATE_AFTER = 1 << 23          # records under one key of TLS 1.3; AES-GCM allows 2^24.5 (RFC 8446 section 5.5)

cdef uint64_t LAST_SEQUENCE = <uint64_t>0xFFFFFFFFFFFFFFFF


cdef char[PLAIN_MOST + 64] INNER    # the content with its type behind it (TLS 1.3)
cdef uint8_t[12] NONCE_BYTES
cdef uint8_t[13] AAD_BYTES          # of TLS 1.2; in 1.3 it is the record's header

cdef int FAULT_MAC = Fault.BAD_RECORD_MAC
cdef int FAULT_OVERFLOW = Fault.RECORD_OVERFLOW
cdef int FAULT_UNEXPECTED = Fault.UNEXPECTED_MESSAGE
cdef int FAULT_DECODE = Fault.DECODE_ERROR
cdef int FAULT_ALERT = Fault.PEER_ALERT
cdef int FAULT_SEQUENCE = Fault.SEQUENCE_OVERFLOW
cdef int FAULT_EMPTY = Fault.TOO_MANY_EMPTY
cdef int FAULT_VERSION = Fault.BAD_VERSION


cdef size_t sealed_bound(size_t length) noexcept nogil:
    """Room that `seal_all` needs for so many bytes, a KeyUpdate before them included."""
    return length + (length // PLAIN_MOST + 3) * OVERHEAD


cdef class RecordLayer:
    """One encrypted connection. Python code has `seal_bytes`, `open_bytes`, `farewell`; the relay the `cdef` methods."""

    def __dealloc__(self):
        if self.owns_row:
            memset(self.row, 0, sizeof(TlsRow))
            free(self.row)

    @property
    def version(self) -> int:
        """0x0303 or 0x0304."""
        return self.row.version

    @property
    def suite(self) -> int:
        """IANA number of the cipher suite."""
        return self.row.suite

    def export(self) -> Session:
        """Everything that another process needs to go on."""
        return Session(self.row.version, self.row.suite, keys_of(&self.row.inbound, self.row.suite),
                       keys_of(&self.row.outbound, self.row.suite))

    # --- for Python users --------------------------------------------------------------------------------------------

    def seal_bytes(self, data: bytes) -> bytes:
        """Records that carry `data`; empty when the connection has a fault."""
        room = bytearray(sealed_bound(len(data)))
        cdef char *out = room
        return bytes(room[:self.seal_all(data, len(data), out)])

    def open_bytes(self, data: bytes) -> bytes:
        """What the records in `data`, and an incomplete one of the last call, carry; look at `ended` and `fault`."""
        cdef size_t used = 0
        data = (self.raw or b"") + data
        room = bytearray(len(data))
        cdef char *into = room
        cdef Py_ssize_t n = self.open_all(data, len(data), into, &used)
        self.raw = data[used:]
        return bytes(room[:n])

    def farewell(self) -> bytes:
        """The last record to write: close_notify, or the alert that tells the peer of the fault."""
        cdef char[64] out
        return out[:self.seal_farewell(out)]

    @property
    def is_between(self) -> bool:
        """Nothing incomplete is kept here: another process may go on."""
        return not self.raw and not self.is_amid()

    # --- writing -----------------------------------------------------------------------------------------------------

    cdef Py_ssize_t seal(self, int kind, const char *data, size_t length, char *out) except -1:
        """One record of up to PLAIN_MOST bytes; `out` has room for OVERHEAD more. Bytes written, 0 with a fault."""
        cdef TlsDirection *way = &self.row.outbound
        cdef uint64_t sequence = way.sequence
        cdef size_t total
        cdef bint is_13 = self.row.version == TLS_1_3
        cdef char *body = out + HEADER
        if self.fault or sequence == LAST_SEQUENCE:
            self.fault = self.fault or FAULT_SEQUENCE
            return 0
        if way.epoch != self.seal_epoch:
            self.load_seal()
        if is_13:
            memcpy(INNER, data, length)
            INNER[length] = <char>kind
            length += 1
            data = INNER
            kind = KIND_DATA
        else:
            set_aad12(sequence, kind, length)
        if self.aes12:
            memcpy(NONCE_BYTES, way.iv, 4)
            write64(NONCE_BYTES + 4, way.explicit_base + sequence)
            memcpy(body, NONCE_BYTES + 4, EXPLICIT)
            body += EXPLICIT
        else:
            set_nonce(way, sequence)
        total = (body - out - HEADER) + length + TAG
        write_header(out, kind, total)
        way.sequence = sequence + 1                     # rule 1
        if is_13:
            self.sealer.seal(NONCE_BYTES, <const uint8_t *>out, HEADER, data, length, body)
        else:
            self.sealer.seal(NONCE_BYTES, AAD_BYTES, 13, data, length, body)
        return HEADER + total

    cdef Py_ssize_t seal_all(self, const char *data, size_t length, char *out) except -1:
        """Records that carry so many bytes; `out` has room for `sealed_bound`. Bytes written, 0 with a fault."""
        cdef TlsDirection *way = &self.row.outbound
        cdef size_t take
        cdef Py_ssize_t n, total = 0
        if self.row.version == TLS_1_3 and (way.owes_update or way.sequence >= UPDATE_AFTER):
            total = self.seal_update(out)
        while length:
            take = length if length < PLAIN_MOST else PLAIN_MOST
            n = self.seal(KIND_DATA, data, take, out + total)
            if not n:
                return 0
            total += n
            data += take
            length -= take
        return total

    cdef Py_ssize_t seal_update(self, char *out) except -1:
        """KeyUpdate without a request for the peer's (RFC 8446 section 4.6.3), and the next key from there on."""
        cdef Py_ssize_t n = self.seal(KIND_HANDSHAKE, b"\x18\x00\x00\x01\x00", 5, out)
        change_key(&self.row.outbound, self.row.suite)
        self.row.outbound.owes_update = 0
        return n

    def update_key(self) -> bytes:
        """A KeyUpdate of our own accord (TLS 1.3): write it, everything after it is under the next key."""
        cdef char[64] out
        if self.row.version != TLS_1_3:
            raise ValueError("TLS 1.2 has no KeyUpdate")
        return out[:self.seal_update(out)]

    cdef Py_ssize_t seal_farewell(self, char *out) except -1:
        """The last record: close_notify, or the alert of the fault. 0 when there is nothing to say."""
        cdef int fault = self.fault
        cdef Py_ssize_t n
        if not self.row.version or (fault and fault not in ALERTS):
            return 0
        last_words = bytes((2, ALERTS[fault])) if fault else b"\x01\x00"
        self.fault = 0
        n = self.seal(KIND_ALERT, last_words, 2, out)
        self.fault = fault
        return n

    # --- reading -----------------------------------------------------------------------------------------------------

    cdef Py_ssize_t open_all(self, const char *raw, size_t have, char *into, size_t *used) except -1:
        """Open the whole records among `have` bytes. Bytes written to `into`, which has room for `have`; `used` says
        how many bytes of `raw` are dealt with. Stops at a fault and at close_notify."""
        cdef const uint8_t *at = <const uint8_t *>raw
        cdef const uint8_t *end = at + have
        cdef size_t size
        cdef Py_ssize_t n, total = 0
        cdef int kind
        while end - at >= HEADER and not self.fault and not self.ended:
            size = <size_t>at[3] << 8 | at[4]
            if not self.is_header(at, size) or <size_t>(end - at) < HEADER + size:
                break
            kind = at[0]
            n = self.open(at, size, into + total, &kind)
            if n < 0:
                break
            at += HEADER + size
            if kind == KIND_DATA and n and self.handshake is None:
                self.empties = 0
                total += n
            else:
                self.on_other(kind, into + total, n)
        used[0] = <const char *>at - raw
        return total

    cdef bint is_header(self, const uint8_t *at, size_t size) noexcept:
        """May a record begin like this?"""
        cdef bint is_13 = self.row.version == TLS_1_3
        if at[0] < KIND_CCS or at[0] > KIND_DATA or (is_13 and at[0] != KIND_DATA):
            self.fault = FAULT_UNEXPECTED
        elif at[1] != 3 or (not is_13 and at[2] != 3):
            self.fault = FAULT_VERSION
        elif size > <size_t>(PLAIN_MOST + (256 if is_13 else TAG + EXPLICIT)):
            self.fault = FAULT_OVERFLOW
        return not self.fault

    cdef Py_ssize_t open(self, const uint8_t *record, size_t size, char *into, int *kind) except -2:
        """One whole record. Bytes of its content, -1 with a fault."""
        cdef TlsDirection *way = &self.row.inbound
        cdef const uint8_t *body = record + HEADER
        cdef bint is_13 = self.row.version == TLS_1_3, is_authentic
        cdef Py_ssize_t length = <Py_ssize_t>size - TAG - (EXPLICIT if self.aes12 else 0)
        if length < (1 if self.row.version == TLS_1_3 else 0):
            return self.fail(FAULT_MAC)
        if way.sequence == LAST_SEQUENCE:
            return self.fail(FAULT_SEQUENCE)
        if way.epoch != self.open_epoch:
            self.load_open()
        if self.aes12:
            memcpy(NONCE_BYTES, way.iv, 4)
            memcpy(NONCE_BYTES + 4, body, EXPLICIT)
            body += EXPLICIT
        else:
            set_nonce(way, way.sequence)
        if is_13:
            is_authentic = self.opener.open(NONCE_BYTES, record, HEADER, <const char *>body, length, into)
        else:
            set_aad12(way.sequence, kind[0], length)
            is_authentic = self.opener.open(NONCE_BYTES, AAD_BYTES, 13, <const char *>body, length, into)
        if not is_authentic:
            memset(into, 0, length)                     # rule 2
            return self.fail(FAULT_MAC)
        way.sequence += 1
        if is_13:
            length = strip_padding(into, length)
            if length < 0:
                return self.fail(FAULT_UNEXPECTED)
            kind[0] = <uint8_t>into[length]
        if length > PLAIN_MOST:
            return self.fail(FAULT_OVERFLOW)
        return length

    cdef int fail(self, int fault) noexcept:
        """Rule 3."""
        self.fault = fault
        return -1

    cdef int on_other(self, int kind, const char *data, Py_ssize_t length) except -1:
        """A record that carries no bytes for anybody: an empty one, an alert, a message after the handshake."""
        self.empties += 1
        if self.empties > MOST_EMPTY:
            self.fault = FAULT_EMPTY
        elif kind == KIND_ALERT and self.handshake is None:
            self.on_alert(<const uint8_t *>data, length)
        elif kind == KIND_HANDSHAKE and length:
            self.on_handshake(data[:length])
        elif kind != KIND_DATA or self.handshake is not None:
            self.fault = FAULT_UNEXPECTED
        return 0

    cdef int on_alert(self, const uint8_t *data, Py_ssize_t length) except -1:
        """close_notify ends the stream; user_canceled and warnings of TLS 1.2 mean nothing; all others are fatal."""
        if length != 2:
            self.fault = FAULT_DECODE
        elif data[1] == 0:
            self.ended = True
        elif data[1] != 90 and (self.row.version == TLS_1_3 or data[0] != 1):
            self.fault = FAULT_ALERT
            self.alert = data[1]
        return 0

    cdef int on_handshake(self, bytes data) except -1:
        """Messages after the handshake, perhaps cut by records or several in one."""
        data = (self.handshake or b"") + data
        while not self.fault and len(data) >= 4:
            size = int.from_bytes(data[1:4], "big")
            if size > MOST_HANDSHAKE:
                self.fault = FAULT_DECODE
                return 0
            if len(data) < 4 + size:
                break
            self.on_message(data[0], data[4 : 4 + size], len(data) == 4 + size)
            data = data[4 + size :]
        self.handshake = data or None
        return 0

    cdef int on_message(self, int kind, bytes body, bint is_last) except -1:
        """KeyUpdate; a session ticket or HelloRequest from a server. Nothing else has a place here."""
        if kind == 24 and self.row.version == TLS_1_3 and is_last:
            if body not in (b"\x00", b"\x01"):
                self.fault = FAULT_DECODE
                return 0
            change_key(&self.row.inbound, self.row.suite)
            if body == b"\x01":
                self.row.outbound.owes_update = 1
        elif not self.is_client or kind != (4 if self.row.version == TLS_1_3 else 0):
            self.fault = FAULT_UNEXPECTED
        return 0

    cdef bint is_amid(self) noexcept:
        """A message after the handshake is incomplete: no other process can go on here."""
        return self.handshake is not None

    # --- keys --------------------------------------------------------------------------------------------------------

    cdef int load_seal(self) except -1:
        self.sealer = cipher_of(&self.row.outbound, self.row.suite, True)
        self.seal_epoch = self.row.outbound.epoch
        return 0

    cdef int load_open(self) except -1:
        self.opener = cipher_of(&self.row.inbound, self.row.suite, False)
        self.open_epoch = self.row.inbound.epoch
        return 0


# --- making layers ---------------------------------------------------------------------------------------------------

cdef RecordLayer layer_of(TlsRow *row, bint is_client):
    """This process's handle of a row that is filled."""
    cdef RecordLayer layer = RecordLayer()
    layer.row = row
    layer.is_client = is_client
    layer.aes12 = row.version == TLS_1_2 and not BY_NUMBER[row.suite].is_chacha
    return layer


def private_layer(session: Session, *, is_client: bool) -> RecordLayer:
    """A layer whose keys are this object's own."""
    cdef TlsRow *row = <TlsRow *>calloc(1, sizeof(TlsRow))
    cdef RecordLayer layer
    if row == NULL:
        raise MemoryError("no memory for an encrypted connection")
    fill_row(row, session, now_us())
    layer = layer_of(row, is_client)
    layer.owns_row = True
    return layer


def slot_layer(Table table, int slot, session: Session) -> RecordLayer:
    """The server of a slot that this process is opening is encrypted from now on."""
    table.slots[slot].tls = 1                           # before the keys: they are cleared where this is set
    fill_row(&table.slot_tls[slot], session, now_us())
    return layer_of(&table.slot_tls[slot], True)


def clear_slot(Table table, int slot) -> None:
    """This process, which is opening the slot's server, begins anew with another socket."""
    memset(&table.slot_tls[slot], 0, sizeof(TlsRow))
    table.slots[slot].tls = 0


cdef RecordLayer client_row_layer(Table table, int client, object session):
    """A client of this process is encrypted from now on."""
    table.clients[client].tls = 1                       # before the keys: they are cleared where this is set
    fill_row(&table.client_tls[client], session, now_us())
    return layer_of(&table.client_tls[client], False)


cdef int fill_row(TlsRow *row, object session, long long now) except -1:
    """Write a session's keys; `version` last."""
    row.version = 0
    row.suite = session.suite
    row.established_at = now
    fill_direction(&row.inbound, session.inbound)
    fill_direction(&row.outbound, session.outbound)
    row.version = session.version
    return 0


cdef int fill_direction(TlsDirection *way, object keys) except -1:
    cdef bytes key = keys.key, iv = keys.iv, secret = keys.secret
    if len(key) > sizeof(way.key) or len(iv) > sizeof(way.iv) or len(secret) > sizeof(way.secret):
        raise ValueError("keys of an unknown cipher suite")
    memset(way, 0, sizeof(TlsDirection))
    memcpy(way.key, <const char *>key, len(key))
    memcpy(way.iv, <const char *>iv, len(iv))
    memcpy(way.secret, <const char *>secret, len(secret))
    way.sequence = keys.sequence
    way.explicit_base = keys.explicit_base
    way.epoch = 1
    return 0


cdef object keys_of(TlsDirection *way, int suite):
    kind = BY_NUMBER[suite]
    secret = way.secret[: 48 if kind.digest == "sha384" else 32] if kind.version == TLS_1_3 else b""
    return Keys(way.key[:kind.key_bytes], way.iv[:kind.salt_bytes], way.sequence, secret, way.explicit_base)


cdef int change_key(TlsDirection *way, int suite) except -1:
    """The next generation of one direction's keys; numbers begin at 0 again."""
    kind = BY_NUMBER[suite]
    secret, key, iv = next_keys(suite, way.secret[: 48 if kind.digest == "sha384" else 32])
    memcpy(way.secret, <const char *><bytes>secret, len(secret))
    memcpy(way.key, <const char *><bytes>key, len(key))
    memcpy(way.iv, <const char *><bytes>iv, len(iv))
    way.sequence = 0
    way.epoch += 1
    return 0


# --- bytes of a record -----------------------------------------------------------------------------------------------

cdef inline void write64(uint8_t *into, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(8):
        into[i] = <uint8_t>(value >> (56 - 8 * i))


cdef inline void write_header(char *out, int kind, size_t length) noexcept nogil:
    out[0] = <char>kind
    out[1] = 3
    out[2] = 3
    out[3] = <char>(length >> 8)
    out[4] = <char>length


cdef inline void set_nonce(TlsDirection *way, uint64_t sequence) noexcept:
    """The IV xor the sequence number (RFC 8446 section 5.3, RFC 7905 section 2)."""
    cdef int i
    memcpy(NONCE_BYTES, way.iv, 12)
    for i in range(8):
        NONCE_BYTES[4 + i] ^= <uint8_t>(sequence >> (56 - 8 * i))


cdef inline void set_aad12(uint64_t sequence, int kind, size_t length) noexcept:
    """seq_num, type, version, length of the content (RFC 5246 section 6.2.3.3)."""
    write64(AAD_BYTES, sequence)
    write_header(<char *>AAD_BYTES + 8, kind, length)


cdef inline Py_ssize_t strip_padding(const char *inner, Py_ssize_t length) noexcept nogil:
    """Where the type of a TLSInnerPlaintext stands, behind its content; -1 when it is all zeros."""
    length -= 1
    while length >= 0 and inner[length] == 0:
        length -= 1
    return length
