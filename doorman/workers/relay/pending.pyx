"""Keeps count of what a server still has to answer; pending.pxd has the rules. Pure state, no sockets."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc


cdef uint8_t entry_at(Pending *pending, uint32_t at) noexcept:
    return pending.entries[(pending.head + at) & (pending.capacity - 1)]


cdef int push(Pending *pending, uint8_t entry) except -1:
    cdef uint8_t *larger
    cdef uint32_t at, capacity
    if pending.length == pending.capacity:
        capacity = pending.capacity * 2 if pending.capacity else 8
        larger = <uint8_t *>malloc(capacity)
        if larger == NULL:
            raise MemoryError("no memory for the queue of pending answers")
        for at in range(pending.length):
            larger[at] = entry_at(pending, at)
        free(pending.entries)
        pending.entries = larger
        pending.head = 0
        pending.capacity = capacity
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
        pending.early_end = pending.length > 0 and (pending.early_end or not pending.copy_in)
        pending.copy_in = False
    elif kind == b"d" or kind == b"H":          # CopyData, Flush
        pass
    elif not pending.skipping and not pending_unsynced(pending):    # Parse Bind Describe Execute Close
        push(pending, UNSYNCED)
    return 0


cdef bint pending_unsynced(Pending *pending) noexcept:
    """True when the last thing sent was an extended message that no Sync has followed yet."""
    return pending.length > 0 and entry_at(pending, pending.length - 1) == UNSYNCED


cdef void pending_settle(Pending *pending) noexcept:
    """The unsynced messages at the head are known to be answered."""
    if pending.length and entry_at(pending, 0) == UNSYNCED:
        pop(pending)


cdef bint pending_ready(Pending *pending) noexcept:
    """ReadyForQuery came; False when nothing was owed."""
    pending.copy_in = False
    if pending.length and entry_at(pending, 0) == UNSYNCED:
        pop(pending)
    if not pending.length:
        pending.doubtful = True
        return False
    pop(pending)
    if not pending.length:
        pending.early_end = False
    return True


cdef void pending_error(Pending *pending) noexcept:
    """ErrorResponse came."""
    if pending.copy_in:
        pending.copy_in = False
        if pending.swallowed:
            pending.doubtful = True
    if not pending.length or entry_at(pending, 0) != UNSYNCED:
        return
    while pending.length and entry_at(pending, 0) != SYNC:
        pop(pending)
    if not pending.length:
        pending.skipping = True


cdef void pending_copy_in(Pending *pending) noexcept:
    """CopyInResponse came: the message at the head started it; Syncs right behind it will not be answered."""
    cdef uint8_t first
    pending.copy_in = True
    pending.swallowed = 0
    if not pending.length or pending.early_end:
        pending.doubtful = True
        return
    first = entry_at(pending, 0)
    pop(pending)
    while pending.length and entry_at(pending, 0) == SYNC:
        pop(pending)
        pending.swallowed += 1
    unpop(pending, first)


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
    pending.early_end = False
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

    @property
    def quiet(self) -> bool:
        """Nothing is owed and nothing is expected from the client."""
        return not self.pending.length and not self.pending.copy_in and not self.pending.skipping

    @property
    def doubtful(self) -> bool:
        return self.pending.doubtful
