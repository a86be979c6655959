"""What a client's text consists of, as PostgreSQL's scan.l reads it: words, names, strings, ends of statements.

Rules
1. A text is read once, from its beginning to its end, however it is made: a client may send megabytes to stop a worker.
2. What is not closed (string, name, comment) goes on to the end of the text. PostgreSQL refuses such a text.
3. Comments nest. A string behind an E'…' continues it: there a backslash escapes too. In other strings it does not, as
   `standard_conforming_strings` has it unless a client wants otherwise.
"""

from libc.stdint cimport uint8_t

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t length, const void *needle, size_t needle_length)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t length)

cdef enum:                          # what a byte may be in a word
    BEGINS = 1
    GOES_ON = 2                     # in the tag of a dollar quote as well, but for $

cdef uint8_t[256] LETTERS
for _letter in range(256):
    if chr(_letter).isascii() and not (chr(_letter).isalpha() or _letter == 95):
        LETTERS[_letter] = GOES_ON if chr(_letter).isdigit() else 0
    else:
        LETTERS[_letter] = BEGINS | GOES_ON

cdef enum:
    NAME_LENGTH = 63                # bytes of a name that PostgreSQL looks at
    BLOCK = 32                      # bytes that are looked at together

NAMES = ("none", "end", "word", "identifier", "string", "other")


cdef Scan begin_scan(const char *text, Py_ssize_t length) noexcept nogil:
    cdef Scan scan
    scan.text = text
    scan.length = length
    scan.start = scan.at = 0
    scan.escapes = False
    return scan


cdef int next_token(Scan *scan) noexcept nogil:
    """The kind of the next Token; where it stands is in `scan`."""
    cdef const char *text = scan.text
    cdef bint escapes = scan.escapes
    cdef Py_ssize_t at = behind_gap(text, scan.length, scan.at)
    cdef Py_ssize_t end
    scan.start = scan.at = at
    scan.escapes = False
    if at >= scan.length:
        return TOKEN_NONE
    if LETTERS[<uint8_t>text[at]] & BEGINS:
        end = behind_word(text, scan.length, at)
        if end == at + 1 and end < scan.length and (text[end] == b"'" or text[end] == b"&"):
            return next_prefixed(scan, text[at] | 32)
        scan.at = end
        return TOKEN_WORD
    if text[at] == b"'":
        scan.escapes = escapes
        scan.at = behind_quote(text, scan.length, at, escapes)
        return TOKEN_STRING
    if text[at] == b'"':
        scan.at = behind_quote(text, scan.length, at, False)
        return TOKEN_IDENTIFIER
    scan.at = behind_dollars(text, scan.length, at) if text[at] == b"$" else at
    if scan.at > at:
        return TOKEN_STRING
    scan.at = at + 1
    return TOKEN_END if text[at] == b";" else TOKEN_OTHER


cdef int next_prefixed(Scan *scan, char letter) noexcept nogil:
    """A word of one letter right before a quote or an ampersand: E'…', B'…', X'…', N'…', U&'…', U&"…"?"""
    cdef Py_ssize_t quote = scan.start + 1
    if scan.text[quote] == b"&":
        quote += 1
        if letter == b"u" and quote < scan.length and scan.text[quote] == b'"':
            scan.start = quote
            scan.at = behind_quote(scan.text, scan.length, quote, False)
            return TOKEN_IDENTIFIER
        if letter != b"u" or quote == scan.length or scan.text[quote] != b"'":
            scan.at = scan.start + 1
            return TOKEN_WORD
    elif letter != b"e" and letter != b"b" and letter != b"x" and letter != b"n":
        scan.at = quote
        return TOKEN_WORD
    scan.escapes = letter == b"e"
    scan.at = behind_quote(scan.text, scan.length, quote, scan.escapes)
    return TOKEN_STRING


cdef Py_ssize_t behind_gap(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil:
    """Where spaces and comments end."""
    while at < length:
        if text[at] == b" " or 9 <= text[at] <= 13:
            at += 1
        elif text[at] == b"-" and at + 1 < length and text[at + 1] == b"-":
            while at < length and text[at] != b"\n" and text[at] != b"\r":
                at += 1
        elif text[at] == b"/" and at + 1 < length and text[at + 1] == b"*":
            at = behind_comment(text, length, at)
        else:
            break
    return at


cdef Py_ssize_t behind_comment(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil:
    cdef Py_ssize_t depth = 0
    while at + 1 < length:
        if text[at] == b"/" and text[at + 1] == b"*":
            depth += 1
            at += 2
        elif text[at] == b"*" and text[at + 1] == b"/":
            depth -= 1
            at += 2
            if not depth:
                return at
        else:
            at += 1
    return length


cdef Py_ssize_t behind_word(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil:
    while at < length and (LETTERS[<uint8_t>text[at]] or text[at] == b"$"):
        at += 1
    return at


cdef Py_ssize_t behind_quote(const char *text, Py_ssize_t length, Py_ssize_t at, bint escapes) noexcept nogil:
    """From the quote at this place; a doubled one is part of what is quoted."""
    cdef char quote = text[at]
    at += 1
    while at < length:
        if text[at] == quote:
            if at + 1 == length or text[at + 1] != quote:
                return at + 1
            at += 2
        elif escapes and text[at] == b"\\":
            at += 2
        else:
            at += 1
    return length


cdef Py_ssize_t behind_dollars(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil:
    """From the dollar at this place; `at` itself when it opens no string."""
    cdef Py_ssize_t end = at + 1
    cdef const char *closing
    if end < length and LETTERS[<uint8_t>text[end]] & BEGINS:
        while end < length and LETTERS[<uint8_t>text[end]]:
            end += 1
    if end == length or text[end] != b"$":
        return at
    end += 1
    closing = <const char *>memmem(text + end, length - end, text + at, end - at)
    return closing - text + end - at if closing != NULL else length


cdef Py_ssize_t find_letters(
    const char *text, Py_ssize_t length, Py_ssize_t at, const char *word, Py_ssize_t word_length
) noexcept nogil:
    """Where this stands next, in letters of either kind, from `at` on; -1: nowhere. word: small letters and _, at least three."""
    cdef uint8_t[3] first
    cdef uint8_t[3] fold
    cdef Py_ssize_t last = length - word_length
    cdef Py_ssize_t end
    cdef int i
    for i in range(3):
        first[i] = word[i]
        fold[i] = 0 if word[i] == b"_" else 32
    while at <= last:
        end = at + BLOCK
        if end > last:
            end = last + 1
        elif not may_begin(<const uint8_t *>text + at, first, fold):
            at = end
            continue
        while at < end:
            if (<uint8_t>text[at] | fold[0]) == first[0] and strncasecmp(text + at, word, word_length) == 0:
                return at
            at += 1
    return -1


cdef inline uint8_t may_begin(const uint8_t *text, const uint8_t *first, const uint8_t *fold) noexcept nogil:
    """Do these three stand somewhere in a block? Without branches, so that the compiler makes a few vector instructions of it."""
    cdef uint8_t found = 0
    cdef int i
    for i in range(BLOCK):
        found |= (
            ((text[i] | fold[0]) == first[0]) & ((text[i + 1] | fold[1]) == first[1]) & ((text[i + 2] | fold[2]) == first[2])
        )
    return found


cdef bint has_word(const char *text, Py_ssize_t length, const char *word, Py_ssize_t word_length) noexcept nogil:
    """Does it stand in the text, and not as a part of a longer one?"""
    cdef Py_ssize_t at = find_letters(text, length, 0, word, word_length)
    cdef Py_ssize_t end
    while at >= 0:
        end = at + word_length
        if (not at or not LETTERS[<uint8_t>text[at - 1]]) and (end == length or not LETTERS[<uint8_t>text[end]]):
            return True
        at = find_letters(text, length, end, word, word_length)
    return False


cdef bint is_word(Scan *scan, const char *word, Py_ssize_t length) noexcept nogil:
    """Is the word that was found this one?"""
    return scan.at - scan.start == length and strncasecmp(scan.text + scan.start, word, length) == 0


cdef bytes name_of(Scan *scan):
    """What the word or identifier that was found names: what PostgreSQL looks at of it. (Escapes in a U&"…" are left as
    they are.)"""
    cdef bytes name
    if scan.text[scan.start] != b'"':
        return scan.text[scan.start : min(scan.at, scan.start + NAME_LENGTH)].lower()
    name = scan.text[scan.start + 1 : scan.at]
    return name.removesuffix(b'"').replace(b'""', b'"')[:NAME_LENGTH]


def statements_in(bytes text) -> list[bytes]:
    """The statements of a text, each from its first word to its end."""
    cdef Scan scan = begin_scan(text, len(text))
    cdef Py_ssize_t start
    cdef int kind = TOKEN_END
    found = []
    while kind != TOKEN_NONE:
        kind = next_token(&scan)
        start = scan.start
        while kind != TOKEN_NONE and kind != TOKEN_END:
            kind = next_token(&scan)
        if scan.start > start:
            found.append(text[start : scan.start])
    return found


def mentions(bytes text, bytes letters) -> bool:
    """`find_letters`: do these stand anywhere in it?"""
    return find_letters(text, len(text), 0, letters, len(letters)) >= 0


def without_strings(bytes text) -> bytes:
    """The text with nothing in its strings."""
    cdef Scan scan = begin_scan(text, len(text))
    cdef int kind = next_token(&scan)
    cdef Py_ssize_t copied = 0
    found = []
    while kind != TOKEN_NONE:
        if kind == TOKEN_STRING:
            found.append(text[copied : scan.start])
            copied = scan.at
        kind = next_token(&scan)
    found.append(text[copied:])
    return b"''".join(found)


def first_tokens(bytes text, int most) -> list[bytes]:
    """The texts of the first tokens."""
    cdef Scan scan = begin_scan(text, len(text))
    found = []
    while len(found) < most and next_token(&scan) != TOKEN_NONE:
        found.append(text[scan.start : scan.at])
    return found


def tokens_in(bytes text) -> list[tuple[str, bytes]]:
    """Kind and text of each token; for tests."""
    cdef Scan scan = begin_scan(text, len(text))
    cdef int kind = next_token(&scan)
    found = []
    while kind != TOKEN_NONE:
        found.append((NAMES[kind], text[scan.start : scan.at]))
        kind = next_token(&scan)
    return found
