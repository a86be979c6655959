"""Prepared statements as this worker knows them: their text once for all clients, and what each client calls them.

Rules
1. A `Statement` is identified by text, parameter types and the planner settings of its client; two of them never mean the
   same. Its name on servers is made of a digest of all that, so all workers agree on it without talking.
2. A client's named statement keeps its `Statement` alive for as long as the client has the name, whatever `Statements` (the
   worker's cache of texts) forgets.
3. The unnamed statement of a client is one reference: the protocol reaches no older one.
"""

cimport cython

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from doorman.shm.statements cimport Digest

cdef enum:
    SERVER_NAME_LENGTH = 40         # DOORMAN_ and 32 hexadecimal digits

@cython.final
cdef class Statement:
    cdef Digest digest
    cdef Py_hash_t hash
    cdef uint64_t planner
    cdef bytes body                 # of its Parse message behind the name: text, NUL, parameter types
    cdef char[41] name              # on servers, with NUL
    cdef uint32_t dirt              # what running it may leave in a session
    cdef uint32_t temporary         # how many temporary things it makes for sure
    cdef bint control               # may change what later statements meet: transaction control, DEALLOCATE, DISCARD
    cdef bint sets                  # may change the settings under which later texts are parsed
    cdef bint folds                 # and some stay in plans
    cdef bint hides                 # and to what it sets them is not in the text
    cdef bint momentary             # it means something else each time that it is parsed: 'now'
    cdef bint moves                 # it may close or declare portals
    cdef bint matters               # and some of them are not reported and matter to the texts (set_texts)
    cdef bint returns               # SET … DEFAULT, RESET, DISCARD: leads back to what was before the client
    cdef bint forgets               # DEALLOCATE or DISCARD: the server may lose statements
    cdef bint speaks                # may name prepared statements: DEALLOCATE, EXECUTE, PREPARE (sql_names)
    cdef tuple spoken               # and which, once that was looked for
    cdef bint fetches               # FETCH: what it returns is the cursor's matter, and compared with nothing
    cdef bint ends                  # a transaction, or a part of it: what was set in that may be taken back
    cdef bint copies                # COPY
    cdef bint changes               # ALTER, DROP or CREATE: what is prepared before it may be stale behind it
    cdef bint untagged              # CREATE … AS, a DO with DDL: the tag does not say what was made
    cdef bint plain                 # none of these: running it leaves everything else as it is, but for `dirt`
    cdef bint recent                # used since the clock's hand passed

@cython.final
cdef class Named:
    cdef bytes name                 # the client's
    cdef Statement statement
    cdef bint told                  # the client was sent a description of it (or will be, when what was sent succeeds)
    cdef uint32_t shape             # of the rows by that description; 0 = none came yet
    cdef uint32_t types             # digest of the parameters' types by that description; 0 = likewise
    cdef bytes parameters           # and those themselves, as ParameterDescription lists them

@cython.final
cdef class Statements:
    cdef PyObject **cells
    cdef uint32_t mask
    cdef uint32_t hand              # of the clock
    cdef readonly uint32_t count
    cdef readonly uint64_t bytes    # of their texts
    cdef readonly uint32_t limit
    cdef public uint32_t forgotten  # to make room for others, not counted yet
    cdef Statement intern(self, uint64_t planner, const char *body, Py_ssize_t length)
    cdef int make_room(self) except -1
    cdef void put(self, Statement statement) noexcept
    cdef void remove_at(self, uint32_t at) noexcept

cdef void write_name(char *into, const Digest *digest) noexcept nogil
