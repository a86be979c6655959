"""SCRAM ClientKeys in the shared table. Runs in workers and keeper at logins and openings; users.pxd has the rules."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from doorman.shm.atomics cimport store32
from doorman.shm.layout cimport KEY_BYTES, NONE, UserRow
from doorman.shm.lock cimport acquire, release
from doorman.shm.table cimport Table, now_us

cdef enum:
    WAYS = 8


cdef uint32_t users_for(uint32_t wanted) noexcept nogil:
    """Rows of a region with room for so many keys: buckets are a power of two."""
    cdef uint32_t rows = WAYS
    while rows < wanted:
        rows *= 2
    return rows


cpdef bint keep_key(Table table, bytes stored_key, bytes client_key) except -1:
    """Remember a ClientKey that a client has just proved; False when it is known already. Both have 32 bytes."""
    cdef UserRow *row
    cdef bint is_new
    check_length(stored_key)
    check_length(client_key)
    acquire(&table.header.users_lock, table.pid)
    row = find_row(table, stored_key)
    is_new = row == NULL or memcmp(row.client_key, <const char *>client_key, KEY_BYTES) != 0
    if is_new:
        write_row(table, row if row != NULL else choose_row(table, stored_key), stored_key, client_key)
    else:
        row.used_at = now_us()
    release(&table.header.users_lock)
    return is_new


cpdef bytes find_key(Table table, bytes stored_key):
    """The ClientKey of a verifier with this StoredKey, if some client has proved it."""
    cdef UserRow *row
    cdef uint8_t[KEY_BYTES] key
    check_length(stored_key)
    acquire(&table.header.users_lock, table.pid)
    row = find_row(table, stored_key)
    if row != NULL:
        row.used_at = now_us()
        memcpy(key, row.client_key, KEY_BYTES)
    release(&table.header.users_lock)
    if row == NULL:
        return None
    found = <bytes>(<char *>key)[:KEY_BYTES]
    memset(key, 0, KEY_BYTES)
    return found


def has_key(Table table, bytes stored_key) -> bool:
    """Whether `find_key` would find one; nothing secret is copied."""
    cdef UserRow *row
    check_length(stored_key)
    acquire(&table.header.users_lock, table.pid)
    row = find_row(table, stored_key)
    release(&table.header.users_lock)
    return row != NULL


def drop_key(Table table, bytes stored_key) -> bool:
    """Forget the key of a verifier: a server did not take it. False when there was none."""
    cdef UserRow *row
    check_length(stored_key)
    acquire(&table.header.users_lock, table.pid)
    row = find_row(table, stored_key)
    if row != NULL:
        wipe_row(table, row)
    release(&table.header.users_lock)
    return row != NULL


cdef int check_length(bytes key) except -1:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return 0


cdef UserRow *bucket_of(Table table, const char *stored_key) noexcept nogil:
    cdef uint32_t number
    memcpy(&number, stored_key, sizeof(number))
    return &table.users[number % (table.header.n_users // WAYS) * WAYS]


cdef UserRow *find_row(Table table, const char *stored_key) noexcept nogil:
    cdef UserRow *bucket = bucket_of(table, stored_key)
    cdef int way
    for way in range(WAYS):
        if bucket[way].state and memcmp(bucket[way].stored_key, stored_key, KEY_BYTES) == 0:
            return &bucket[way]
    return NULL


cdef UserRow *choose_row(Table table, const char *stored_key) noexcept nogil:
    """A free row of the bucket, else the one that was used the longest time ago."""
    cdef UserRow *bucket = bucket_of(table, stored_key)
    cdef UserRow *oldest = bucket
    cdef int way
    for way in range(WAYS):
        if not bucket[way].state:
            return &bucket[way]
        if bucket[way].used_at < oldest.used_at:
            oldest = &bucket[way]
    return oldest


cdef void write_row(Table table, UserRow *row, const char *stored_key, const char *client_key) noexcept nogil:
    store32(<uint32_t *>&table.header.users_writing, <uint32_t>(row - table.users))
    memcpy(row.stored_key, stored_key, KEY_BYTES)
    memcpy(row.client_key, client_key, KEY_BYTES)
    row.used_at = now_us()
    store32(&row.state, 1)
    store32(<uint32_t *>&table.header.users_writing, <uint32_t>NONE)


cdef void wipe_row(Table table, UserRow *row) noexcept nogil:
    store32(<uint32_t *>&table.header.users_writing, <uint32_t>(row - table.users))
    memset(row, 0, sizeof(UserRow))
    store32(<uint32_t *>&table.header.users_writing, <uint32_t>NONE)


cdef void wipe_half_written(Table table) noexcept nogil:
    """Repair only: rule 4. The users lock is held."""
    cdef int32_t row = table.header.users_writing
    if row != NONE:
        wipe_row(table, &table.users[row])
