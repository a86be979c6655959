"""What is counted where, and how it is added up.

Rules
1. Every counter has one writer: `CounterRow` and `ProcessCounterRow` the process whose row it is, `WindowRow` and
   `CensusRow` the keeper. Writers add plainly; readers add up rows of all processes. Nothing here takes a lock.
2. A process's successor goes on counting in its row, so a death loses no count.
3. A histogram has a bucket for each microsecond below 64 and 64 buckets for each power of two above: the middle of a
   bucket is within 0.8 % of every time in it. Rows are large and mostly untouched; a reader stops when it has seen as
   many times as were counted, so that it does not touch pages that nobody has written.
4. A window lasts 15 seconds. The histograms at the start of the last two windows are kept, so percentiles tell of the
   window that ended last and of what came since: of 15 to 30 seconds.
"""

from libc.stdint cimport int64_t, uint64_t

from doorman.shm.layout cimport CounterRow
from doorman.shm.table cimport Table

cpdef count_connection(Table table, int kind)
cpdef count_opening(Table table, int slot)
cpdef count_phase(Table table, int phase, int64_t elapsed)
cdef void count_time(uint64_t *histogram, int64_t elapsed) noexcept nogil
cdef void count_error(CounterRow *counters, const char *sqlstate) noexcept nogil
