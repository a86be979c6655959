"""Keeps count of what a server still has to answer; pending.pxd has the rules. Pure state, no sockets."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc


cdef uint8_t entry_at(Pending *pending, uint32_t at) noexcept:
    return pending.entries[(pending.head + at) & (pending.capacity - 1)]


cdef int grow(Pending *pending) except -1:
    cdef uint32_t at
    cdef uint32_t capacity = pending.capacity * 2 if pending.capacity else 8
    cdef uint8_t *larger = <uint8_t *>malloc(capacity)
    if larger == NULL:
        raise MemoryError("no memory for the queue of pending answers")
    for at in range(pending.length):
        larger[at] = entry_at(pending, at)
    free(pending.entries)
    pending.entries = larger
    pending.head = 0
    pending.capacity = capacity
    return 0


cdef int push(Pending *pending, uint8_t entry) except -1:
    if pending.length == pending.capacity:
        grow(pending)
    pending.entries[(pending.head + pending.length) & (pending.capacity - 1)] = entry
    pending.length += 1
    return 0


cdef void pop(Pending *pending) noexcept:
    pending.head = (pending.head + 1) & (pending.capacity - 1)
    pending.length -= 1


cdef int pending_sent(Pending *pending, char kind) except -1:
    """A message of this type byte goes to the server."""
    if kind == b"Q" or kind == b"F":            # Query, FunctionCall
        if not pending.skipping:
            pending.doubtful |= pending_unsynced(pending)
            push(pending, QUERY if kind == b"Q" else CALL)
    elif kind == b"S":                          # Sync
        if pending.copy_in:
            pending.swallowed += 1
        else:
            pending.skipping = False
            push(pending, SYNC)
    elif kind == b"c" or kind == b"f":          # CopyDone, CopyFail
        if not pending.copy_in and pending.length and not pending.skipping:
            push(pending, COPY_END)
        pending.copy_in = False
    elif kind == b"d" or kind == b"H":          # CopyData, Flush
        pass
    elif not pending.skipping and not ends_with_run(pending):      # Parse Bind Describe Execute Close
        push(pending, UNSYNCED)
    return 0


cdef int pending_batch(Pending *pending) except -1:
    """Extended messages and their Sync go to a server that owes nothing and does not skip."""
    while pending.capacity < 2:
        grow(pending)
    pending.head = 0
    pending.entries[0] = UNSYNCED
    pending.entries[1] = SYNC
    pending.length = 2
    return 0


cdef bint ends_with_run(Pending *pending) noexcept:
    """What was sent last belongs to the same run of extended messages as what comes now (rule 1)."""
    return pending.length > 0 and entry_at(pending, pending.length - 1) == UNSYNCED


cdef bint pending_unsynced(Pending *pending) noexcept:
    """True when the last thing sent was an extended message that no Sync has followed yet."""
    cdef uint32_t at = pending.length
    while at and entry_at(pending, at - 1) == COPY_END:
        at -= 1
    return at > 0 and entry_at(pending, at - 1) == UNSYNCED


cdef bint pending_mixed(Pending *pending) noexcept:
    """Does a Query or FunctionCall stand behind extended messages without a Sync between them? Then it does not show here whose
    an error is (rule 5)."""
    cdef uint32_t at
    cdef uint8_t entry
    cdef bint unsynced = False
    for at in range(pending.length):
        entry = entry_at(pending, at)
        if unsynced and (entry == QUERY or entry == CALL):
            return True
        unsynced = entry == UNSYNCED or (unsynced and entry == COPY_END)
    return False


cdef bint pending_head_is_query(Pending *pending) noexcept:
    """Is it a Query that is being answered?"""
    return pending.length > 0 and entry_at(pending, 0) == QUERY


cdef void pending_settle(Pending *pending) noexcept:
    """The unsynced messages at the head are known to be answered."""
    drop_run(pending)


cdef void drop_run(Pending *pending) noexcept:
    """What is answered by no ReadyForQuery of its own goes from the head."""
    while pending.length and (entry_at(pending, 0) == UNSYNCED or entry_at(pending, 0) == COPY_END):
        pop(pending)


cdef bint pending_ready(Pending *pending) noexcept:
    """ReadyForQuery came; False when nothing was owed."""
    pending.copy_in = False
    pending_copied(pending)
    drop_run(pending)
    if not pending.length:
        pending.doubtful = True
        return False
    pop(pending)
    while pending.length and entry_at(pending, 0) == COPY_END:
        pop(pending)
    return True


cdef void pending_copied(Pending *pending) noexcept:
    """A COPY is over, and went well: what was taken for swallowed was."""
    pending.copying = False
    pending.swallowed = 0


cdef void pending_error(Pending *pending) noexcept:
    """ErrorResponse came."""
    if pending.copying:
        pending.copy_in = False
        pending.doubtful |= pending.swallowed > 0
        pending_copied(pending)
    if not pending.length or entry_at(pending, 0) != UNSYNCED:
        return
    while pending.length and entry_at(pending, 0) != SYNC:
        pop(pending)
    if not pending.length:
        pending.skipping = True


cdef void pending_copy_in(Pending *pending) noexcept:
    """CopyInResponse came: the message at the head started it; Syncs right behind it will not be answered, but for those
    behind its end, if that was sent already."""
    cdef uint8_t first
    pending.copy_in = True
    pending.copying = True
    pending.swallowed = 0
    if not pending.length:
        pending.doubtful = True
        return
    first = entry_at(pending, 0)
    pop(pending)
    while pending.length and entry_at(pending, 0) == SYNC:
        pop(pending)
        pending.swallowed += 1
    if pending.length and entry_at(pending, 0) == COPY_END:
        while pending.length and entry_at(pending, 0) == COPY_END:      # all but the first mean nothing
            pop(pending)
        pending.copy_in = False
        if first == UNSYNCED and pending.length and entry_at(pending, 0) == UNSYNCED:
            pending.doubtful = True                     # or did the COPY start behind that, and its end meant nothing?
    elif first == UNSYNCED and pending.length and entry_at(pending, 0) != UNSYNCED:
        pending.doubtful = True                         # or was it the Query behind?
    unpop(pending, first)


cdef int pending_unswallow(Pending *pending, uint32_t syncs) except -1:
    """So many of the swallowed Syncs are answered after all: they stand behind the head again."""
    cdef uint8_t first = entry_at(pending, 0)
    pending.swallowed = 0
    if not syncs:
        return 0
    pop(pending)
    while syncs:
        if pending.length + 1 >= pending.capacity:
            grow(pending)
        unpop(pending, SYNC)
        syncs -= 1
    unpop(pending, first)
    return 0


cdef void unpop(Pending *pending, uint8_t entry) noexcept:
    """Put an entry back at the head: there is room, it was just taken from there."""
    pending.head = (pending.head + pending.capacity - 1) & (pending.capacity - 1)
    pending.entries[pending.head] = entry
    pending.length += 1


cdef void pending_clear(Pending *pending) noexcept:
    pending.head = 0
    pending.length = 0
    pending.copy_in = False
    pending.skipping = False
    pending.swallowed = 0
    pending.copying = False
    pending.doubtful = False


cdef void pending_free(Pending *pending) noexcept:
    free(pending.entries)
    pending.entries = NULL
    pending.capacity = 0
    pending_clear(pending)


cdef class PendingAnswers:
    """The queue for tests, which drive it with letters: `sent("Q")`, `received("Z")`."""

    cdef Pending pending

    def __dealloc__(self):
        pending_free(&self.pending)

    def sent(self, kind: str) -> None:
        pending_sent(&self.pending, <char>ord(kind))

    def received(self, kind: str) -> None:
        if kind == "Z":
            pending_ready(&self.pending)
        elif kind == "E":
            pending_error(&self.pending)
        elif kind == "G":
            pending_copy_in(&self.pending)
        elif kind == "C" and self.pending.copying:
            pending_copied(&self.pending)

    @property
    def quiet(self) -> bool:
        """Nothing is owed and nothing is expected from the client."""
        return not self.pending.length and not self.pending.copy_in and not self.pending.skipping

    @property
    def doubtful(self) -> bool:
        return self.pending.doubtful
