/* Stores to persistent memory. What isn't whole lines goes by libpmem, which also knows the fence;
 * lines, nearly all there is, are stored right here, each by one instruction where the processor
 * has such: until a fence is through, a processor goes on only as long as it finds room for further
 * stores. */
#include <libpmem.h>

#include "alloc/image_pmem.h"

#if defined(__x86_64__)
#include <immintrin.h>

static bool narrow; /* for tests */

void image_pm_set_narrow(bool on)
{
    narrow = on;
}

bool image_pm_is_wide(void)
{
    return !narrow && __builtin_cpu_supports("avx512f") != 0;
}

static inline void line_narrow(uint8_t *to, const uint8_t *from)
{
    for (size_t i = 0; i < LINE_BYTES; i += sizeof(__m128i)) {
        __m128i part = _mm_loadu_si128((const __m128i *)(const void *)(from + i));
        _mm_stream_si128((__m128i *)(void *)(to + i), part);
    }
}

__attribute__((target("avx512f"))) static inline void line_wide(uint8_t *to, const uint8_t *from)
{
    _mm512_stream_si512((__m512i *)(void *)to, _mm512_loadu_si512(from));
}

__attribute__((target("avx512f"))) static void row_wide(uint8_t *to, const uint8_t *from,
                                                        size_t len)
{
    for (size_t at = 0; at < len; at += LINE_BYTES) {
        line_wide(to + at, from + at);
    }
}

__attribute__((target("avx512f"))) static void lines_wide(uint8_t *to, const uint8_t *from,
                                                          uint64_t mask)
{
    for (; mask != 0; mask &= mask - 1) {
        size_t at = (size_t)__builtin_ctzll(mask) * LINE_BYTES;
        line_wide(to + at, from + at);
    }
}
#else
void image_pm_set_narrow(bool on)
{
    (void)on;
}

bool image_pm_is_wide(void)
{
    return false;
}

static void line_narrow(uint8_t *to, const uint8_t *from)
{
    (void)pmem_memcpy(to, from, LINE_BYTES, PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN);
}
#endif

static void copy(void *to, const void *from, size_t len)
{
    if (len == sizeof(uint64_t) && (uintptr_t)to % sizeof(uint64_t) == 0) {
        /* Stored again and again: by the cache, which is asked to write it. */
        *(volatile uint64_t *)to = *(const uint64_t *)from;
        pmem_flush(to, len);
        return;
    }
    if ((len | (uintptr_t)to) % LINE_BYTES != 0) {
        (void)pmem_memcpy(to, from, len, PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN);
        return;
    }
#if defined(__x86_64__)
    if (image_pm_is_wide()) {
        row_wide(to, from, len);
        return;
    }
#endif
    for (size_t at = 0; at < len; at += LINE_BYTES) {
        line_narrow((uint8_t *)to + at, (const uint8_t *)from + at);
    }
}

static void lines(void *to, const void *from, uint64_t mask)
{
#if defined(__x86_64__)
    if (image_pm_is_wide()) {
        lines_wide(to, from, mask);
        return;
    }
#endif
    for (; mask != 0; mask &= mask - 1) {
        size_t at = (size_t)__builtin_ctzll(mask) * LINE_BYTES;
        line_narrow((uint8_t *)to + at, (const uint8_t *)from + at);
    }
}

static const struct image_pm_ops real_ops = {copy, lines, pmem_drain};
static const struct image_pm_ops *ops = &real_ops;

void image_pm_set_ops(const struct image_pm_ops *replacement)
{
    ops = replacement != NULL ? replacement : &real_ops;
}

void image_pm_copy(void *to, const void *from, uint64_t bytes)
{
    ops->copy(to, from, (size_t)bytes);
}

void image_pm_copy_lines(void *to, const void *from, uint64_t mask)
{
    ops->lines(to, from, mask);
}

void image_pm_drain(void)
{
    ops->drain();
}
