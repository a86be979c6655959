"""What compiled code uses of rows.pyx."""

from libc.stdint cimport int64_t, uint32_t

from doorman.shm.layout cimport PoolRow
from doorman.shm.table cimport Table

cpdef bytes get_parameters(Table table, int number)
cdef void write_limits(PoolRow *row, bint session_mode, uint32_t pool_size, uint32_t min_pool_size, uint32_t max_opening,
                       bint round_robin, int64_t check_after_us, bint cleanup, bint statements,
                       uint32_t statement_limit, uint32_t catalog) noexcept nogil
