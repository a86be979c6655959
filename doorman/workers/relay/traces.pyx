"""Looks through statement texts; traces.pxd says for what. One pass, sixteen bytes at a time: texts are long.

A false alarm costs a clean-up, a miss would leave something for a stranger; so words count wherever they stand, in
comments and strings too.
"""

import re

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr

from doorman.workers.relay.engine cimport DIRT_CONNECTED, DIRT_LOCKS, DIRT_SETTINGS, DIRT_TEMPORARY
from doorman.workers.sql_tokens cimport (
    TOKEN_NONE,
    TOKEN_STRING,
    Scan,
    begin_scan,
    behind_gap,
    find_letters,
    has_word,
    next_token,
)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t length)

cdef object RESETS = re.compile(rb"\b(?:reset|default)\b", re.I)
cdef object DEFAULT = re.compile(rb"\b(?:default|local)\b", re.I)
cdef object TABLE = re.compile(rb"\b(?:table|view)\b", re.I)
cdef object DDL = re.compile(rb"\b(?:create|alter|drop)\b", re.I)
cdef object COPY = re.compile(rb";\s*(?:copy|--|/\*)", re.I)
cdef object AS = re.compile(rb"\bas\b", re.I)

cdef enum:
    BLOCK = 16                      # bytes that are looked at together

cdef uint8_t[256] MIDDLES           # of triggers
for _letter in tuple(b"_mM"):
    MIDDLES[_letter] = 1

cdef uint8_t[256] IN_WORD
for _letter in range(256):
    IN_WORD[_letter] = chr(_letter).isalnum() or _letter == 95 or _letter > 127


cdef uint32_t traces_of(const char *text, Py_ssize_t length) noexcept nogil:
    """Dirt bits for a text (it may go on behind a NUL with other data; only `length` counts)."""
    cdef Py_ssize_t at = 1                      # a trigger has something before and behind it
    cdef Py_ssize_t end
    cdef uint32_t traces = 0
    while at < length - 1:
        end = at + BLOCK
        if end > length - 1:
            end = length - 1
        elif not has_trigger(<const uint8_t *>text + at):
            at = end
            continue
        for at in range(at, end):
            if MIDDLES[<uint8_t>text[at]] and is_trigger(<const uint8_t *>text + at):
                traces |= look_closer(text, length, at)
        at = end
    return traces


cdef inline uint8_t is_trigger(const uint8_t *at) noexcept nogil:
    """The middle of t_, g_, y_ or k_ (set_config, pg_temp, pg_settings, pg_create_…, advisory_lock, dblink_connect), or of mp (temp)."""
    return (
        ((at[0] == 95) & (((at[-1] | 32) == 116) | ((at[-1] | 32) == 107) | ((at[-1] | 32) == 103) | ((at[-1] | 32) == 121)))
        | (((at[0] | 32) == 109) & ((at[1] | 32) == 112))
    )


cdef inline uint8_t has_trigger(const uint8_t *text) noexcept nogil:
    """Is there one in this block? Without branches, so that the compiler makes a few vector instructions of it."""
    cdef uint8_t found = 0
    cdef int i
    for i in range(BLOCK):
        found |= is_trigger(text + i)
    return found


cdef uint32_t look_closer(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil:
    cdef Py_ssize_t left = length - at
    if text[at] == b"_":
        if left >= 7 and at >= 3 and strncasecmp(text + at - 3, b"set_config", 10) == 0:
            return DIRT_SETTINGS
        if left >= 6 and at >= 3 and strncasecmp(text + at - 3, b"set_limit", 9) == 0:          # of pg_trgm
            return DIRT_SETTINGS
        if left >= 5 and at >= 2 and strncasecmp(text + at - 2, b"pg_temp", 7) == 0:
            return DIRT_TEMPORARY
        if left >= 8 and at >= 6 and strncasecmp(text + at - 6, b"dblink_connect", 14) == 0:
            return DIRT_CONNECTED
        if left >= 9 and at >= 2 and strncasecmp(text + at - 2, b"pg_settings", 11) == 0:      # UPDATE of it sets
            return DIRT_SETTINGS
        if left >= 5 and at >= 8 and strncasecmp(text + at - 8, b"advisory_lock", 13) == 0:     # not ..._xact_lock
            return DIRT_LOCKS
        if at >= 2 and ends_with_its_session(text + at - 2, left + 2):
            return DIRT_CONNECTED
        return 0
    if left >= 2 and at >= 2 and strncasecmp(text + at - 2, b"temp", 4) == 0 and makes_table(text, length, at - 2):
        return DIRT_TEMPORARY
    return 0


cdef bint ends_with_its_session(const char *text, Py_ssize_t length) noexcept nogil:
    """Does a function's name begin here whose work only the end of the session takes back? Temporary replication slots, the
    origin of what is replicated, a backup."""
    if strncasecmp(text, b"pg_", 3) != 0:
        return False
    return (
        is_slot_made(text + 3, length - 3, b"create_", 7) or is_slot_made(text + 3, length - 3, b"copy_", 5)
        or starts_with(text, length, b"pg_replication_origin_session_setup", 35)
        or starts_with(text, length, b"pg_backup_start", 15) or starts_with(text, length, b"pg_start_backup", 15)
    )


cdef bint is_slot_made(const char *text, Py_ssize_t length, const char *verb, Py_ssize_t verb_length) noexcept nogil:
    if not starts_with(text, length, verb, verb_length):
        return False
    text += verb_length
    length -= verb_length
    return (
        starts_with(text, length, b"logical_replication_slot", 24)
        or starts_with(text, length, b"physical_replication_slot", 25)
    )


cdef inline bint starts_with(const char *text, Py_ssize_t length, const char *word, Py_ssize_t word_length) noexcept nogil:
    return length >= word_length and strncasecmp(text, word, word_length) == 0


cdef bint makes_table(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil:
    """Is the TEMP at this place a word that follows CREATE, REPLACE, INTO, LOCAL or GLOBAL (or a comment)?"""
    cdef Py_ssize_t end = at + 4
    if length - end >= 5 and strncasecmp(text + end, b"orary", 5) == 0:
        end += 5
    if end < length and IN_WORD[<uint8_t>text[end]]:
        return False
    if not at or IN_WORD[<uint8_t>text[at - 1]]:
        return False
    while at and is_space(text[at - 1]):
        at -= 1
        if is_newline(text[at]) and ends_comment(text, at):
            return True
    return (
        ends_with(text, at, b"create", 6) or ends_with(text, at, b"replace", 7) or ends_with(text, at, b"into", 4)
        or ends_with(text, at, b"local", 5) or ends_with(text, at, b"global", 6) or ends_with(text, at, b"*/", 2)
    )


cdef bint ends_comment(const char *text, Py_ssize_t at) noexcept nogil:
    """Is there a -- in the line that ends here?"""
    while at >= 2 and not is_newline(text[at - 1]):
        if text[at - 1] == b"-" and text[at - 2] == b"-":
            return True
        at -= 1
    return False


cdef inline bint ends_with(const char *text, Py_ssize_t end, const char *word, Py_ssize_t length) noexcept nogil:
    return end >= length and strncasecmp(text + end - length, word, length) == 0


cdef inline bint is_space(char byte) noexcept nogil:
    return byte == b" " or (byte >= 9 and byte <= 13)


cdef inline bint is_newline(char byte) noexcept nogil:
    return byte == b"\n" or byte == b"\r"


cdef uint32_t traces_of_call(const char *message, Py_ssize_t here) noexcept:
    """What a FunctionCall may leave, by the oids in pg_proc.dat: set_config, pg_advisory_lock and kin."""
    cdef const uint8_t *b = <const uint8_t *>message + 5
    cdef uint32_t oid
    if here < 9:
        return 0
    oid = <uint32_t>b[0] << 24 | <uint32_t>b[1] << 16 | <uint32_t>b[2] << 8 | b[3]
    if oid == 2078:
        return DIRT_SETTINGS
    return DIRT_LOCKS if 2880 <= oid <= 2892 else 0


cdef uint32_t traces_in(const char *message, Py_ssize_t here, Py_ssize_t total) noexcept:
    """What a Query may leave in the session. Of a large one only the beginning is there to be looked at."""
    if here < total:
        return DIRT_SETTINGS | DIRT_LOCKS | DIRT_TEMPORARY
    return traces_of(message + 5, here - 5)


cdef bint leads_back(const char *text, Py_ssize_t length):
    """Is this a SET that leads back to a default, RESET or DISCARD? (It shows by its tag too, but only then.) Or a DO that may?"""
    cdef Py_ssize_t at = first_letter(text, length)
    text += at
    length -= at
    if length > 2 and begins(text, length, b"do", 2) and not IN_WORD[<uint8_t>text[2]]:
        return RESETS.search(text[:length]) is not None
    if not begins(text, length, b"set", 3):
        return length >= 6 and (begins(text, length, b"reset", 5) or begins(text, length, b"discard", 7))
    return length >= 12 and DEFAULT.search(text[:length]) is not None


cdef inline bint begins(const char *text, Py_ssize_t length, const char *word, Py_ssize_t word_length) noexcept nogil:
    """With a word of small letters? Its first and last letter decide nearly always."""
    return (
        length >= word_length and text[0] | 32 == word[0] and text[word_length - 1] | 32 == word[word_length - 1]
        and strncasecmp(text, word, word_length) == 0
    )


cdef bint may_set(const char *text, Py_ssize_t length) noexcept nogil:
    """Does a Query begin with SET or RESET, or consist of several statements?"""
    cdef Py_ssize_t at = first_letter(text, length)
    cdef const char *end
    if begins(text + at, length - at, b"set", 3) or begins(text + at, length - at, b"reset", 5):
        return True
    end = <const char *>memchr(text + at, 59, length - at)         # ;
    return end != NULL and end + 2 < text + length


cdef bint may_copy(const char *text, Py_ssize_t length):
    """May a Query begin a COPY?"""
    cdef Py_ssize_t at = first_letter(text, length)
    cdef const char *end
    if begins(text + at, length - at, b"copy", 4):
        return True
    end = <const char *>memchr(text + at, 59, length - at)         # ;
    return end != NULL and end + 4 < text + length and COPY.search(text[:length], end - text) is not None


cdef bint moves_portals(const char *text, Py_ssize_t length) noexcept nogil:
    """Does a text speak of CLOSE or DECLARE? Then portals of its client may be others behind it."""
    return has_word(text, length, b"close", 5) or has_word(text, length, b"declare", 7)


cdef bint depends_on_moment(const char *text, Py_ssize_t length) noexcept nogil:
    """Is there a string with a word that PostgreSQL may read as the time when it parses the text?"""
    cdef Scan scan
    cdef int kind
    if not speaks_of_moment(text, length):
        return False
    scan = begin_scan(text, length)
    while True:
        kind = next_token(&scan)
        if kind == TOKEN_NONE:
            return False
        if kind == TOKEN_STRING and speaks_of_moment(text + scan.start, scan.at - scan.start):
            return True


cdef bint speaks_of_moment(const char *text, Py_ssize_t length) noexcept nogil:
    return (
        has_letters(text, length, b"now", 3) or has_letters(text, length, b"today", 5)
        or has_letters(text, length, b"tomorrow", 8) or has_letters(text, length, b"yesterday", 9)
    )


cdef bint has_letters(const char *text, Py_ssize_t length, const char *word, Py_ssize_t word_length) noexcept nogil:
    """Does it stand there, without a letter before or behind it?"""
    cdef Py_ssize_t at = find_letters(text, length, 0, word, word_length)
    while at >= 0:
        if not (at and is_letter(text[at - 1])) and not (at + word_length < length and is_letter(text[at + word_length])):
            return True
        at = find_letters(text, length, at + word_length, word, word_length)
    return False


cdef inline bint is_letter(char byte) noexcept nogil:
    return b"a" <= byte | 32 <= b"z"


cdef bint does_change(const char *text, Py_ssize_t length):
    """Is this a DO block, or an EXPLAIN, that speaks of CREATE, ALTER or DROP?"""
    cdef Py_ssize_t at = first_letter(text, length)
    cdef Py_ssize_t word = 2 if begins(text + at, length - at, b"do", 2) else 7
    if word == 7 and not begins(text + at, length - at, b"explain", 7):
        return False
    return at + word < length and not IN_WORD[<uint8_t>text[at + word]] and DDL.search(text[at:length]) is not None


cdef bint makes_from_query(const char *text, Py_ssize_t length):
    """May this be CREATE TABLE … AS, CREATE MATERIALIZED VIEW, or a DO with DDL in it? (SELECT … INTO is not looked for: the
    word stands in too many texts. It shows when the client has it described, for it returns no rows.)"""
    cdef Py_ssize_t at = first_letter(text, length)
    cdef bytes words
    if not begins(text + at, length - at, b"create", 6):
        return does_change(text, length)
    words = text[at:length]
    found = TABLE.search(words)                         # one search after the other: together they would be quadratic
    return found is not None and AS.search(words, found.end()) is not None


cdef const char *text_of_parse(const char *message, Py_ssize_t length) noexcept nogil:
    """Where the text in a Parse begins: at its end if that has not come."""
    cdef const char *end = <const char *>memchr(message + 5, 0, length - 5) if length > 5 else NULL
    return end + 1 if end != NULL else message + length


cdef Py_ssize_t first_letter(const char *text, Py_ssize_t length) noexcept nogil:
    """Where spaces, comments and empty statements end."""
    cdef Py_ssize_t at = behind_gap(text, length, 0)
    while at < length and text[at] == b";":
        at = behind_gap(text, length, at + 1)
    return at


cdef bytes first_word_of(const char *text, Py_ssize_t length):
    """The first word in lower case, behind spaces and comments; empty when the text begins with something else."""
    cdef Py_ssize_t at = first_letter(text, length)
    cdef Py_ssize_t start = at
    while at < length and at - start < 16 and IN_WORD[<uint8_t>text[at]]:
        at += 1
    return text[start:at].lower()


def momentary(bytes text) -> bool:
    """`depends_on_moment` for tests."""
    return depends_on_moment(text, len(text))


def traces(bytes text) -> int:
    """`traces_of` for tests."""
    return traces_of(text, len(text))


def first_word(bytes text) -> bytes:
    """`first_word_of` for tests."""
    return first_word_of(text, len(text))
