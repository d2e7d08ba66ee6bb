/* Memory: the only door to malloc, so that a test can make the nth allocation fail.
 *
 * Every function may return NULL (out of memory, or a fault injected by a test); callers handle it.
 * thread: any */
#ifndef CAIRN_BASE_MEM_H
#define CAIRN_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t bytes);                /* uninitialised; bytes > 0 */
void *mem_zalloc(size_t bytes);               /* zeroed; bytes > 0 */
void *mem_realloc(void *block, size_t bytes); /* on NULL the old block stays valid */
void *mem_aligned(size_t alignment, size_t bytes);
char *mem_strdup(const char *text);
void mem_free(void *block); /* NULL is allowed; also frees mem_aligned() */

/* Test hook: the allocation number `after` from now on (0 = the next one) fails, and `repeat` - 1
 * more after it (repeat < 0: all that follow; 0: switch off). Per thread. */
void mem_fault(long after, long repeat);
/* Who keeps freed memory for later asks, and leaves it where it is then: what is asked for is to be
 * an allocation that can fail. */
bool mem_fault_armed(void);
/* Held: this thread's allocations neither fail nor count, for what a test does beside the code that
 * it tests. Returns what it was. */
bool mem_fault_hold(bool held);
/* Allocations that failed by mem_fault() on this thread since it was last armed. */
long mem_fault_hits(void);

/* Comes first in a function that only asks the caches for something. To a compiler such a function
 * is without effect, and it drops the calls where it sees the function: in its own file, and in any
 * when a program is optimised as a whole. It can't look into this statement. */
static inline void lines_ask(void)
{
    __asm__ volatile("");
}

/* Asks the caches for the lines of [from, from + bytes), which needn't be readable. */
static inline void lines_prefetch(const void *from, size_t bytes)
{
    lines_ask();
    for (size_t at = 0; at < bytes; at += 64) {
        __builtin_prefetch((const uint8_t *)from + at);
    }
}

/* memcpy() past the caches, for bytes that nobody reads soon: a store that goes by a cache reads
 * the line first. from NULL: zeros. Other threads see them in any order, until lines_settle(): it
 * comes before whatever tells them. */
void lines_stream(void *to, const void *from, size_t bytes);
void lines_settle(void);

#endif
