#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* The fault of this thread: `fault_after` allocations still succeed, then `fault_repeat` of them
 * fail. */
static _Thread_local bool fault_armed;
static _Thread_local long fault_after;
static _Thread_local long fault_repeat;
static _Thread_local long fault_hits;

static bool fault_now(void)
{
    if (!fault_armed) {
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
