"""What a client's text consists of, as PostgreSQL reads it. See sql_tokens.pyx."""

cdef enum Token:
    TOKEN_NONE = 0                  # the text is over
    TOKEN_END = 1                   # ; of a statement
    TOKEN_WORD = 2
    TOKEN_IDENTIFIER = 3            # "in quotes"
    TOKEN_STRING = 4                # '…', E'…', $tag$…$tag$ and kin
    TOKEN_OTHER = 5                 # any other byte

cdef struct Scan:
    const char *text
    Py_ssize_t length
    Py_ssize_t start                # of the token that was found last
    Py_ssize_t at                   # behind it
    bint escapes                    # it is a string in which a backslash escapes

cdef Scan begin_scan(const char *text, Py_ssize_t length) noexcept nogil
cdef int next_token(Scan *scan) noexcept nogil
cdef Py_ssize_t find_letters(
    const char *text, Py_ssize_t length, Py_ssize_t at, const char *word, Py_ssize_t word_length
) noexcept nogil
cdef bint has_word(const char *text, Py_ssize_t length, const char *word, Py_ssize_t word_length) noexcept nogil
cdef bint is_word(Scan *scan, const char *word, Py_ssize_t length) noexcept nogil
cdef bytes name_of(Scan *scan)
cdef Py_ssize_t behind_gap(const char *text, Py_ssize_t length, Py_ssize_t at) noexcept nogil
