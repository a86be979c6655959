"""The worker's cache of statement texts; statements.pxd has the rules.

Open addressing with linear probing; the hash is CPython's keyed SipHash, so clients cannot choose collisions. What is
forgotten first is decided by a clock: a statement gets one more round for each use.
"""

import hashlib

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, strlen

from doorman.shm.statements cimport Digest
from doorman.workers.relay.engine cimport DIRT_SETTINGS, DIRT_TEMPORARY
from doorman.workers.relay.traces cimport depends_on_moment, first_word_of, leads_back, makes_from_query, traces_of

from doorman.workers.set_texts import folds, hides_value, settings_in
from doorman.workers.sql_tokens import mentions
from doorman.workers.temporary_texts import temporary_made

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030E0000
    #define dm_hash_bytes(data, length) Py_HashBuffer((data), (length))
    #else
    PyAPI_FUNC(Py_hash_t) _Py_HashBytes(const void *, Py_ssize_t);
    #define dm_hash_bytes(data, length) _Py_HashBytes((data), (length))
    #endif
    """
    Py_hash_t hash_bytes "dm_hash_bytes"(const void *data, Py_ssize_t length) noexcept

cdef enum:
    LONGEST_KEPT = 1 << 16          # bytes
    MOST_KEPT = 1 << 26             # bytes of all texts: long ones are to leave room for the rest of the machine

cdef const char *HEX = b"0123456789abcdef"

# First words (see traces.pxd) of statements behind which nothing is as it was before.
cdef frozenset CONTROL = frozenset((b"begin", b"start", b"commit", b"end", b"rollback", b"abort", b"prepare", b"deallocate", b"discard", b"set", b"reset", b"alter", b"drop", b"create"))
cdef frozenset ENDS = frozenset((b"commit", b"end", b"rollback", b"abort", b"prepare"))
cdef frozenset CHANGES = frozenset((b"alter", b"drop", b"create"))
cdef frozenset FORGETS = frozenset((b"deallocate", b"discard"))
cdef frozenset EXECUTES = frozenset((b"execute", b"explain", b"create"))


cdef void write_name(char *into, const Digest *digest) noexcept nogil:
    """A statement's name on servers, 40 characters and NUL."""
    cdef int i
    memcpy(into, b"DOORMAN_", 8)
    for i in range(16):
        into[8 + i] = HEX[(digest.high >> (60 - 4 * i)) & 15]
        into[24 + i] = HEX[(digest.low >> (60 - 4 * i)) & 15]
    into[SERVER_NAME_LENGTH] = 0


cdef class Statement:
    """One text with its parameter types, planned under the same settings; see statements.pxd."""


cdef class Named:
    """A client's name for a statement."""


cdef Statement make_statement(uint64_t planner, const char *body, Py_ssize_t length, Py_hash_t hash):
    cdef Statement statement = Statement()
    cdef bytes word
    statement.body = body[:length]
    statement.planner = planner
    statement.hash = hash
    hashed = hashlib.blake2b(planner.to_bytes(8, "big"), digest_size=16, person=b"pg_doorman")
    hashed.update(statement.body)
    digest = hashed.digest()
    statement.digest.high = int.from_bytes(digest[:8], "big")
    statement.digest.low = int.from_bytes(digest[8:], "big")
    write_name(statement.name, &statement.digest)
    statement.dirt = traces_of(body, length)
    word = first_word_of(body, length)
    statement.control = word in CONTROL
    statement.forgets = word in FORGETS
    statement.ends = word in ENDS
    statement.fetches = word == b"fetch"
    statement.copies = word == b"copy"
    statement.changes = word in CHANGES
    statement.untagged = makes_from_query(body, length)
    statement.temporary = temporary_made(statement.body) if statement.dirt & DIRT_TEMPORARY and length <= LONGEST_KEPT else 0
    statement.speaks = (
        statement.forgets or word == b"prepare" or (word in EXECUTES and mentions(statement.body, b"execute"))
    )
    statement.returns = word == b"reset" or word == b"discard" or (word == b"set" and leads_back(body, length))
    statement.sets = (
        word == b"set" or word == b"reset" or word == b"discard" or statement.dirt & DIRT_SETTINGS != 0
        or (word == b"do" and leads_back(body, length))
    )
    statement.control = statement.control or statement.sets
    statement.momentary = depends_on_moment(body, strlen(body))
    statement.moves = word == b"close" or word == b"declare"
    statement.plain = (
        not statement.control and not statement.speaks and not statement.untagged and not statement.dirt & DIRT_TEMPORARY
        and not statement.fetches and not statement.moves and not statement.momentary and not statement.copies
    )
    if statement.sets:
        statement.matters = length > LONGEST_KEPT or settings_in(statement.body[: statement.body.index(b"\0")])[1]
        statement.folds = statement.matters and (length > LONGEST_KEPT or folds(statement.body))
        statement.hides = statement.matters and (length > LONGEST_KEPT or hides_value(statement.body))
    return statement


cdef class Statements:
    """All statement texts that this worker remembers, at most `limit` of them and MOST_KEPT bytes."""

    def __cinit__(self, limit: int):
        cdef uint32_t size = 16
        self.limit = max(limit, 1)
        while size < 2 * self.limit:
            size *= 2
        self.cells = <PyObject **>calloc(size, sizeof(PyObject *))
        if self.cells == NULL:
            raise MemoryError("no memory for the cache of statements")
        self.mask = size - 1

    def __dealloc__(self):
        cdef uint32_t at
        if self.cells == NULL:
            return
        for at in range(self.mask + 1):
            if self.cells[at] != NULL:
                Py_DECREF(<object>self.cells[at])
        free(self.cells)

    cdef Statement intern(self, uint64_t planner, const char *body, Py_ssize_t length):
        """The statement of a Parse message's body (the message behind the name)."""
        cdef Py_hash_t hash = hash_bytes(body, length) ^ <Py_hash_t>planner
        cdef uint32_t at = <uint32_t>hash & self.mask
        cdef Statement statement
        while self.cells[at] != NULL:
            statement = <Statement>self.cells[at]
            if (
                statement.hash == hash and statement.planner == planner and len(statement.body) == length
                and memcmp(<const char *>statement.body, body, length) == 0
            ):
                statement.recent = True
                return statement
            at = (at + 1) & self.mask
        statement = make_statement(planner, body, length, hash)
        if length > LONGEST_KEPT:
            return statement                # whoever uses it keeps it
        while self.count >= self.limit or self.bytes + length > MOST_KEPT:
            self.make_room()
        self.put(statement)
        return statement

    cdef void put(self, Statement statement) noexcept:
        cdef uint32_t at = <uint32_t>statement.hash & self.mask
        while self.cells[at] != NULL:
            at = (at + 1) & self.mask
        Py_INCREF(statement)
        self.cells[at] = <PyObject *>statement
        self.count += 1
        self.bytes += len(statement.body)

    cdef int make_room(self) except -1:
        """Forget the first statement that was not used since the hand last passed."""
        cdef Statement statement
        while True:
            self.hand = (self.hand + 1) & self.mask
            if self.cells[self.hand] == NULL:
                continue
            statement = <Statement>self.cells[self.hand]
            if not statement.recent:
                self.remove_at(self.hand)
                self.forgotten += 1
                return 0
            statement.recent = False

    cdef void remove_at(self, uint32_t at) noexcept:
        """Empty a cell; those that were pushed past it move up."""
        cdef uint32_t hole = at
        cdef uint32_t home
        self.bytes -= len((<Statement>self.cells[at]).body)
        Py_DECREF(<object>self.cells[at])
        self.count -= 1
        while True:
            at = (at + 1) & self.mask
            if self.cells[at] == NULL:
                break
            home = <uint32_t>(<Statement>self.cells[at]).hash & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.cells[hole] = self.cells[at]
                hole = at
        self.cells[hole] = NULL

    def clear(self) -> int:
        """Forget all texts (clients keep what they have names for); how many there were."""
        cdef uint32_t at, n = self.count
        for at in range(self.mask + 1):
            if self.cells[at] != NULL:
                Py_DECREF(<object>self.cells[at])
                self.cells[at] = NULL
        self.count = 0
        self.bytes = 0
        return n

    def known(self) -> list[tuple[int, bytes]]:
        """Digest (128 bits) and SQL text of all that is remembered."""
        cdef uint32_t at
        cdef Statement statement
        found = []
        for at in range(self.mask + 1):
            if self.cells[at] != NULL:
                statement = <Statement>self.cells[at]
                found.append((<object>statement.digest.high << 64 | statement.digest.low,
                              statement.body.partition(b"\0")[0]))
        return found

    def texts(self) -> list[tuple[int, bytes]]:
        """Planner digest and body of all that is remembered; for tests."""
        cdef uint32_t at
        cdef Statement statement
        found = []
        for at in range(self.mask + 1):
            if self.cells[at] != NULL:
                statement = <Statement>self.cells[at]
                found.append((statement.planner, statement.body))
        return found

    def look_up(self, planner: int, bytes body) -> str:
        """The server-side name of a statement; for tests."""
        return self.intern(planner, body, len(body)).name.decode()
