/* Futures that were freed, for the next calls.
 *
 * A program with a thousand calls under way takes and frees that many in a row. The allocator has
 * no fast path for so many blocks of their size, and merges them with their neighbours only to cut
 * them off again. Whoever finds the list in use asks the allocator instead of waiting. */
#include <stdatomic.h>

#include "base/mem.h"
#include "client/sdk.h"

#if defined(__has_include)
#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(from, bytes)   ((void)(from), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes) ((void)(from), (void)(bytes))
#endif

#define SPARE_MAX 2048u

struct spare {
    struct spare *next; /* stays readable: leaks are looked for along it */
    uint8_t rest[sizeof(struct cairn_future) - sizeof(struct spare *)];
};

static atomic_flag busy = ATOMIC_FLAG_INIT;
static struct spare *first; /* guarded by it */
static _Atomic uint32_t count;

static bool enter(void)
{
    return !atomic_flag_test_and_set_explicit(&busy, memory_order_acquire);
}

static void leave(void)
{
    atomic_flag_clear_explicit(&busy, memory_order_release);
}

static struct spare *take(void)
{
    struct spare *s = NULL;
    if (atomic_load_explicit(&count, memory_order_relaxed) != 0 && enter()) {
        s = first;
        if (s != NULL) {
            first = s->next;
            atomic_store_explicit(&count, atomic_load_explicit(&count, memory_order_relaxed) - 1,
                                  memory_order_relaxed);
        }
        leave();
    }
    return s;
}

struct cairn_future *sdk__future_memory(void)
{
    struct spare *s = mem_fault_armed() ? NULL : take();
    if (s == NULL) {
        return mem_alloc(sizeof(struct cairn_future));
    }
    ASAN_UNPOISON_MEMORY_REGION(s->rest, sizeof s->rest);
    return (struct cairn_future *)(void *)s;
}

void sdk__future_forget(struct cairn_future *future)
{
    struct spare *s = (struct spare *)(void *)future;
    if (atomic_load_explicit(&count, memory_order_relaxed) >= SPARE_MAX || !enter()) {
        mem_free(future);
        return;
    }
    s->next = first;
    first = s;
    ASAN_POISON_MEMORY_REGION(s->rest, sizeof s->rest);
    atomic_store_explicit(&count, atomic_load_explicit(&count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    leave();
}

void sdk__future_spares_free(void)
{
    for (struct spare *s; (s = take()) != NULL;) {
        ASAN_UNPOISON_MEMORY_REGION(s->rest, sizeof s->rest);
        mem_free(s);
    }
}
