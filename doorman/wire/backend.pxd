"""Types for the compiled form of backend.py. The module works without it."""

cimport cython


@cython.locals(at=Py_ssize_t, there=Py_ssize_t, end=Py_ssize_t, body=Py_ssize_t, first=Py_ssize_t, kept_from=Py_ssize_t, kept=bytes)
cpdef bytes checked_parameter_statuses(bytes messages, bytes hidden)
