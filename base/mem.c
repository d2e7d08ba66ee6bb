#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The fault of this thread: `fault_after` allocations still succeed, then `fault_repeat` of them
 * fail. */
static _Thread_local bool fault_armed;
static _Thread_local bool fault_held;
static _Thread_local long fault_after;
static _Thread_local long fault_repeat;
static _Thread_local long fault_hits;

static bool fault_now(void)
{
    if (!fault_armed || fault_held) {
        return false;
    }
    if (fault_after > 0) {
        fault_after--;
        return false;
    }
    if (fault_repeat == 0) {
        return false;
    }
    if (fault_repeat > 0) {
        fault_repeat--;
    }
    fault_hits++;
    return true;
}

void mem_fault(long after, long repeat)
{
    assert(after >= 0);
    fault_armed = repeat != 0;
    fault_after = after;
    fault_repeat = repeat;
    if (fault_armed) {
        fault_hits = 0;
    }
}

bool mem_fault_armed(void)
{
    return fault_armed;
}

bool mem_fault_hold(bool held)
{
    bool was = fault_held;
    fault_held = held;
    return was;
}

long mem_fault_hits(void)
{
    return fault_hits;
}

void *mem_alloc(size_t bytes)
{
    assert(bytes > 0);
    return fault_now() ? NULL : malloc(bytes);
}

void *mem_zalloc(size_t bytes)
{
    assert(bytes > 0);
    return fault_now() ? NULL : calloc(1, bytes);
}

void *mem_realloc(void *block, size_t bytes)
{
    assert(bytes > 0);
    return fault_now() ? NULL : realloc(block, bytes);
}

void *mem_aligned(size_t alignment, size_t bytes)
{
    assert(bytes > 0);
    assert(alignment >= sizeof(void *) && (alignment & (alignment - 1)) == 0);
    void *block = NULL;
    if (fault_now() || posix_memalign(&block, alignment, bytes) != 0) {
        return NULL;
    }
    return block;
}

char *mem_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = mem_alloc(bytes);
    if (copy != NULL) {
        memcpy(copy, text, bytes);
    }
    return copy;
}

void mem_free(void *block)
{
    free(block);
}

/* ---- past the caches ---- */

#if defined(__x86_64__)
#define LINE_BYTES 64u

static inline void part_stream(uint8_t *to, const uint8_t *from, size_t at)
{
    __m128i part = from == NULL ? _mm_setzero_si128()
                                : _mm_loadu_si128((const __m128i *)(const void *)(from + at));
    _mm_stream_si128((__m128i *)(void *)(to + at), part);
}

static inline void part_store(uint8_t *to, const uint8_t *from, size_t at, size_t bytes)
{
    if (from == NULL) {
        memset(to + at, 0, bytes);
    } else {
        memcpy(to + at, from + at, bytes);
    }
}

/* Only whole lines go to memory in one piece. */
static inline __attribute__((always_inline)) void stream(uint8_t *to, const uint8_t *from,
                                                         size_t bytes)
{
    size_t at = -(uintptr_t)to % LINE_BYTES;
    at = at < bytes ? at : bytes;
    part_store(to, from, 0, at);
    for (; bytes - at >= LINE_BYTES; at += LINE_BYTES) {
        part_stream(to, from, at);
        part_stream(to, from, at + 16);
        part_stream(to, from, at + 32);
        part_stream(to, from, at + 48);
    }
    part_store(to, from, at, bytes - at);
}

void lines_stream(void *to, const void *from, size_t bytes)
{
    if (from == NULL) {
        stream(to, NULL, bytes);
    } else {
        stream(to, from, bytes);
    }
}

void lines_settle(void)
{
    _mm_sfence();
}
#else
void lines_stream(void *to, const void *from, size_t bytes)
{
    if (from == NULL) {
        memset(to, 0, bytes);
    } else if (bytes > 0) {
        memcpy(to, from, bytes);
    }
}

void lines_settle(void) {}
#endif
