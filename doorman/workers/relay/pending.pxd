"""What a server still owes: a queue that mirrors which ReadyForQuery answers which message.

Rules
1. An entry is QUERY or CALL (each answered by one ReadyForQuery), SYNC (likewise), or UNSYNCED: a run of extended
   messages, which is answered by no ReadyForQuery of its own. Two UNSYNCED never stand side by side (a COPY_END may
   stand between them).
2. ReadyForQuery takes entries up to and including the first that is not UNSYNCED.
3. An error in a run of extended messages makes PostgreSQL skip to the next Sync: everything before that SYNC goes; when
   none has been sent, `skipping` says that nothing but a Sync will be answered.
4. In COPY IN PostgreSQL ignores Flush and Sync. Those that were sent behind the COPY and before its end (COPY_END, noted
   where it was sent before the COPY was announced) are taken out again (`swallowed`). If the COPY then fails, nobody can
   tell which of them came when it had failed already, and are answered; `settle` finds out, else it is doubtful.
5. A Query right behind unsynced messages: an error may be of either, and PostgreSQL itself then loses count of its
   transaction ("unexpected state STARTED" for the next statement, although it said ReadyForQuery I). Hence doubtful, unless
   the queue of replies tells whose it is; once that is given up (`abandon`), `pending_mixed` says that nobody can.
6. Whenever PostgreSQL's answers can no longer be told for certain, `doubtful` is set: such a server never serves
   another client.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum Entry:
    UNSYNCED = 1
    SYNC = 2
    QUERY = 3
    CALL = 4
    COPY_END = 5            # CopyDone or CopyFail: answered by nothing, part of the run or Query before it

cdef struct Pending:
    uint8_t *entries        # ring
    uint32_t head
    uint32_t length
    uint32_t capacity       # a power of two
    bint copy_in            # the server waits for CopyData
    bint copying            # a COPY IN was announced and is not known to be over
    bint skipping           # rule 3
    uint32_t swallowed      # Syncs sent during this COPY IN; rule 4
    bint doubtful           # rules 5 and 6

cdef int pending_sent(Pending *pending, char kind) except -1
cdef int pending_batch(Pending *pending) except -1
cdef bint pending_ready(Pending *pending) noexcept
cdef void pending_error(Pending *pending) noexcept
cdef void pending_copy_in(Pending *pending) noexcept
cdef void pending_copied(Pending *pending) noexcept
cdef int pending_unswallow(Pending *pending, uint32_t syncs) except -1
cdef void pending_settle(Pending *pending) noexcept
cdef bint pending_unsynced(Pending *pending) noexcept
cdef bint pending_mixed(Pending *pending) noexcept
cdef bint pending_head_is_query(Pending *pending) noexcept
cdef void pending_clear(Pending *pending) noexcept
cdef void pending_free(Pending *pending) noexcept
