/* libraft's memory.
 *
 * Entries: libraft wants every entry's payload in a `batch` that it owns and may free on one path
 * or another (and on some failing paths twice). It never keeps one beyond raft_step(), so no
 * payload is ever handed over: all entries carry the address of the consensus itself as their
 * batch, and freeing that is nothing. Who gets a block's reference is decided afterwards, by
 * whether the step asked to store the entry. No copy, no header in the blocks.
 *
 * The rest (configurations, progress tables, the message queue) comes from mem_alloc(). libraft
 * doesn't survive a failing allocation everywhere (a configuration that can't be copied is freed
 * twice), so it never sees one: it gets a piece of a reserve, and the consensus is dead after that
 * step, as after a crash. The reserve is zero pages until then and is never refilled; running out
 * of it as well is the end of the process. */
#include "base/assert.h"
#include "base/mem.h"
#include "replica/consensus_internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define RESERVE_BYTES ((size_t)256 << 10)
#define HEADER_BYTES                                                                               \
    ((size_t)16) /* in front of a block: its size, for realloc out of the reserve */

static _Thread_local struct consensus *stepping;
static _Alignas(16) uint8_t reserve[RESERVE_BYTES]; /* of all threads */
static _Atomic size_t reserve_used;

static bool in_reserve(const void *p)
{
    return (uintptr_t)p >= (uintptr_t)reserve && (uintptr_t)p < (uintptr_t)reserve + RESERVE_BYTES;
}

static void *reserve_take(size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    assert(stepping != NULL);
    size_t at = atomic_fetch_add(&reserve_used, bytes);
    assert(bytes <= RESERVE_BYTES && at <= RESERVE_BYTES - bytes);
    stepping->dead = true;
    return reserve + at;
}

static void *heap_malloc(void *data, size_t size)
{
    (void)data;
    uint8_t *block = mem_alloc(size + HEADER_BYTES);
    if (block == NULL) {
        block = reserve_take(size + HEADER_BYTES);
    }
    store_u64(block, size);
    return block + HEADER_BYTES;
}

static void heap_free(void *data, void *ptr)
{
    (void)data;
    if (ptr == NULL) {
        return;
    }
    if (stepping != NULL && (ptr == (void *)stepping || ptr == (void *)stepping->work->scratch)) {
        return;
    }
    uint8_t *block = (uint8_t *)ptr - HEADER_BYTES;
    if (!in_reserve(block)) {
        mem_free(block);
    }
}

static void *heap_calloc(void *data, size_t count, size_t size)
{
    assert(size == 0 || count <= SIZE_MAX / 2 / size);
    void *p = heap_malloc(data, count * size);
    memset(p, 0, count * size);
    return p;
}

static void *heap_realloc(void *data, void *ptr, size_t size)
{
    void *p = heap_malloc(data, size);
    if (ptr != NULL) {
        uint64_t old = load_u64((uint8_t *)ptr - HEADER_BYTES);
        memcpy(p, ptr, old < size ? old : size);
        heap_free(data, ptr);
    }
    return p;
}

/* Only libraft's own disk code asks for these, and it isn't used. */
static void *heap_aligned_alloc(void *data, size_t alignment, size_t size)
{
    (void)data;
    (void)alignment;
    (void)size;
    return NULL;
}

static void heap_aligned_free(void *data, size_t alignment, void *ptr)
{
    (void)alignment;
    heap_free(data, ptr);
}

static struct raft_heap heap = {NULL,         heap_malloc,        heap_free,        heap_calloc,
                                heap_realloc, heap_aligned_alloc, heap_aligned_free};
static pthread_once_t heap_once = PTHREAD_ONCE_INIT;

static void heap_set(void)
{
    raft_heap_set(&heap);
}

void consensus__heap_setup(void)
{
    int rv = pthread_once(&heap_once, heap_set);
    assert(rv == 0);
}

void consensus__heap_enter(struct consensus *c)
{
    assert(stepping == NULL);
    stepping = c;
}

void consensus__heap_leave(struct consensus *c)
{
    assert(stepping == c);
    stepping = NULL;
}

void *consensus__batch(struct consensus *c)
{
    return c;
}
