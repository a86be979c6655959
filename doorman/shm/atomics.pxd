"""The few atomic operations that the shared table needs: GCC's builtins, all sequentially consistent."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from * nogil:
    """
    static inline int dm_cas32(unsigned int *word, unsigned int expected, unsigned int wanted) {
        return __atomic_compare_exchange_n(word, &expected, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline int dm_cas64(unsigned long *word, unsigned long expected, unsigned long wanted) {
        return __atomic_compare_exchange_n(word, &expected, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline unsigned int dm_load32(const unsigned int *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
    static inline void dm_store32(unsigned int *word, unsigned int value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
    static inline unsigned int dm_add32(unsigned int *word, unsigned int n) { return __atomic_fetch_add(word, n, __ATOMIC_SEQ_CST); }
    static inline unsigned int dm_sub32(unsigned int *word, unsigned int n) { return __atomic_fetch_sub(word, n, __ATOMIC_SEQ_CST); }
    static inline unsigned int dm_or32(unsigned int *word, unsigned int bits) { return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST); }
    static inline unsigned int dm_swap32(unsigned int *word, unsigned int value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); }
    static inline unsigned long dm_add64(unsigned long *word, unsigned long n) { return __atomic_fetch_add(word, n, __ATOMIC_SEQ_CST); }
    static inline unsigned long dm_load64(const unsigned long *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
    static inline unsigned long dm_or64(unsigned long *word, unsigned long bits) { return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST); }
    static inline unsigned long dm_swap64(unsigned long *word, unsigned long value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); }
    static inline int dm_lowest_bit(unsigned long word) { return __builtin_ctzl(word); }
    static inline int dm_highest_bit(unsigned long word) { return 63 - __builtin_clzl(word); }
    static inline void dm_pause(void) {
    #if defined(__x86_64__)
        __builtin_ia32_pause();
    #endif
    }
    """
    bint cas32 "dm_cas32"(uint32_t *word, uint32_t expected, uint32_t wanted)
    bint cas64 "dm_cas64"(uint64_t *word, uint64_t expected, uint64_t wanted)
    uint32_t load32 "dm_load32"(const uint32_t *word)
    void store32 "dm_store32"(uint32_t *word, uint32_t value)
    uint32_t add32 "dm_add32"(uint32_t *word, uint32_t n)
    uint32_t sub32 "dm_sub32"(uint32_t *word, uint32_t n)
    uint32_t or32 "dm_or32"(uint32_t *word, uint32_t bits)
    uint32_t swap32 "dm_swap32"(uint32_t *word, uint32_t value)
    uint64_t add64 "dm_add64"(uint64_t *word, uint64_t n)
    uint64_t load64 "dm_load64"(const uint64_t *word)
    uint64_t or64 "dm_or64"(uint64_t *word, uint64_t bits)
    uint64_t swap64 "dm_swap64"(uint64_t *word, uint64_t value)
    int lowest_bit "dm_lowest_bit"(uint64_t word)
    int highest_bit "dm_highest_bit"(uint64_t word)
    void spin_pause "dm_pause"()
