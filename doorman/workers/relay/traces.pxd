"""What a statement's text says about the traces it may leave in a session: things that no command tag shows.

Tags (see backend) show SET, LISTEN, PREPARE, DECLARE, CREATE. A SELECT may do the like through functions: `set_config`,
advisory locks; SELECT INTO and CREATE TABLE AS make temporary tables. Only the text tells, and only what stands in it:
a function of the user's that does such things inside is not seen.
"""

from libc.stdint cimport uint32_t

cdef uint32_t traces_of(const char *text, Py_ssize_t length) noexcept nogil
cdef bint may_set(const char *text, Py_ssize_t length) noexcept nogil
cdef bint may_copy(const char *text, Py_ssize_t length)
cdef bint moves_portals(const char *text, Py_ssize_t length) noexcept nogil
cdef bint depends_on_moment(const char *text, Py_ssize_t length) noexcept nogil
cdef bint does_change(const char *text, Py_ssize_t length)
cdef bint makes_from_query(const char *text, Py_ssize_t length)
cdef const char *text_of_parse(const char *message, Py_ssize_t length) noexcept nogil
cdef bint leads_back(const char *text, Py_ssize_t length)
cdef bytes first_word_of(const char *text, Py_ssize_t length)
cdef uint32_t traces_in(const char *message, Py_ssize_t here, Py_ssize_t total) noexcept
cdef uint32_t traces_of_call(const char *message, Py_ssize_t here) noexcept
