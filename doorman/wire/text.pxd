"""Types for the compiled form of text.py. The module works without it."""

cimport cython

cpdef str decode(raw)
cpdef bytes encode(text)
@cython.locals(raw=bytes)
cpdef bytes cstring(text)
