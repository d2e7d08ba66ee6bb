#include "alloc/arena_memory.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define CHUNK_BYTES ((uintptr_t)1 << CHUNK_SHIFT)
/* From so many pages present on an arena is large: what its growing ends have too much, a part of a
 * huge page each, is a few per cent then, and less with every page more. */
#define LARGE_PAGES ((uint64_t)64 << 20 >> PAGE_SHIFT)
/* For each chunk that a large arena grows by, so many of those it had before become huge pages,
 * which copies them; and so many are looked at. */
#define COLLAPSE_CHUNKS 2u
#define COLLAPSE_LOOKS  64u
#define COLLAPSE_FULL   (CHUNK_PAGES - CHUNK_PAGES / 8)

static bool chunk_has(const uint64_t *set, uint64_t chunk)
{
    return (set[chunk >> 6] >> (chunk & 63) & 1) != 0;
}

static void chunk_add(uint64_t *set, uint64_t chunk)
{
    set[chunk >> 6] |= (uint64_t)1 << (chunk & 63);
}

void *arena_memory_reserve(size_t bytes, bool accessible)
{
    int protection = accessible ? PROT_READ | PROT_WRITE : PROT_NONE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    uint8_t *p = mmap(NULL, bytes + CHUNK_BYTES, protection, flags, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t before = (size_t)(-(uintptr_t)p & (CHUNK_BYTES - 1));
    size_t end = (before + bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
    if (before != 0) {
        (void)munmap(p, before);
    }
    if (end < bytes + CHUNK_BYTES) {
        (void)munmap(p + end, bytes + CHUNK_BYTES - end);
    }
    /* A huge page would make an almost empty arena cost megabytes. */
    (void)madvise(p + before, bytes, MADV_NOHUGEPAGE);
    return p + before;
}

void arena_memory_release(void *memory, size_t bytes)
{
    (void)munmap(memory, bytes);
}

static void advise(const void *memory, size_t bytes, int advice)
{
    uintptr_t from = ((uintptr_t)memory + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
    uintptr_t end = ((uintptr_t)memory + bytes) & ~(uintptr_t)(PAGE_BYTES - 1);
    if (from < end) {
        (void)madvise((uint8_t *)(uintptr_t)memory + (from - (uintptr_t)memory), end - from,
                      advice);
    }
}

void arena_memory_forget(const void *memory, size_t bytes)
{
    advise(memory, bytes, MADV_DONTNEED);
}

void arena_memory_touch(void *memory, size_t bytes)
{
    advise(memory, bytes, MADV_POPULATE_WRITE);
}

/* ---- huge pages ---- */

static void chunks_expect(struct arena *a, uint64_t first, uint64_t end)
{
    uint64_t whole = a->pages / CHUNK_PAGES; /* the last one may be a part */
    end = end < whole ? end : whole;
    if (first >= end || madvise(a->base + (first << CHUNK_SHIFT), (end - first) << CHUNK_SHIFT,
                                MADV_HUGEPAGE) != 0) {
        return;
    }
    for (uint64_t chunk = first; chunk < end; chunk++) {
        chunk_add(a->huge, chunk);
    }
}

void arena_memory_expect(struct arena *a, uint64_t page, uint64_t count)
{
    chunks_expect(a, (page + CHUNK_PAGES - 1) / CHUNK_PAGES, (page + count) / CHUNK_PAGES);
}

static uint64_t chunk_count(const struct arena *a, const struct pageset *set, uint64_t chunk)
{
    uint64_t count = 0;
    for (uint64_t page = chunk * CHUNK_PAGES; page < (chunk + 1) * CHUNK_PAGES && page < a->pages;
         page += 64) {
        count += (uint64_t)__builtin_popcountll(set->words[page / 64]);
    }
    return count;
}

static bool is_large(const struct arena *a)
{
    return a->present_count >= LARGE_PAGES;
}

/* Of small pages, of which few are absent. */
static bool chunk_is_full(const struct arena *a, uint64_t chunk)
{
    return !chunk_has(a->huge, chunk) && chunk_count(a, &a->present, chunk) >= COLLAPSE_FULL;
}

static void collapse(struct arena *a, uint64_t chunk)
{
    chunks_expect(a, chunk, chunk + 1);
    (void)madvise(a->base + (chunk << CHUNK_SHIFT), CHUNK_BYTES, MADV_COLLAPSE);
}

void arena_memory_fill(struct arena *a, uint64_t page)
{
    uint64_t chunk = page / CHUNK_PAGES;
    if (is_large(a) && chunk_count(a, &a->unloaded, chunk) == CHUNK_PAGES) {
        chunks_expect(a, chunk, chunk + 1);
    }
}

void arena_memory_filled(struct arena *a, uint64_t page)
{
    uint64_t chunk = page / CHUNK_PAGES;
    if (is_large(a) && !a->mapped && chunk_count(a, &a->unloaded, chunk) == 0 &&
        chunk_is_full(a, chunk)) {
        collapse(a, chunk);
    }
}

/* The next full chunk becomes a huge page. What isn't accessible, most of a large reservation, is
 * passed over 64 at a time, and that counts as a look. */
static void collapse_next(struct arena *a)
{
    uint64_t chunks = (a->pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
    for (uint32_t looks = 0; looks < COLLAPSE_LOOKS; looks++) {
        uint64_t chunk = a->collapse_at < chunks ? a->collapse_at : 0;
        uint64_t open = a->chunks[chunk >> 6] >> (chunk & 63);
        if (open == 0) {
            a->collapse_at = (chunk | 63) + 1;
            continue;
        }
        chunk += (uint64_t)__builtin_ctzll(open);
        a->collapse_at = chunk + 1;
        if (chunk_is_full(a, chunk)) {
            collapse(a, chunk);
            return;
        }
    }
}

/* Chunks that become accessible. The first of a region, which has none below, may stay almost
 * empty. One whose pages are unloaded becomes a huge page when it is filled: who wants a page of it
 * before shouldn't wait until two megabytes are zeroed. */
static void grow_huge(struct arena *a, uint64_t first, uint64_t end)
{
    bool follows = first != 0 && chunk_has(a->chunks, first - 1);
    for (uint64_t chunk = follows ? first : first + 1; chunk < end; chunk++) {
        if (a->unloaded_count == 0) {
            chunks_expect(a, chunk, end);
            break;
        }
        if (chunk_count(a, &a->unloaded, chunk) == 0) {
            chunks_expect(a, chunk, chunk + 1);
        }
    }
    if (a->mapped || a->unloaded_count != 0) {
        return; /* memory that isn't ours, or isn't there, needn't be collapsed */
    }
    for (uint64_t i = 0; i < COLLAPSE_CHUNKS * (end - first); i++) {
        collapse_next(a);
    }
}

/* ---- */

int arena_commit(struct arena *a, uint64_t address, uint64_t len)
{
    uint64_t end = a->pages << PAGE_SHIFT;
    assert(len > 0);
    assert(address + len <= end);
    uint64_t last = (address + len - 1) >> CHUNK_SHIFT;
    for (uint64_t chunk = address >> CHUNK_SHIFT; chunk <= last; chunk++) {
        if (chunk_has(a->chunks, chunk)) {
            continue;
        }
        uint64_t first = chunk;
        uint64_t stop = chunk + 1;
        while (stop <= last && !chunk_has(a->chunks, stop)) {
            stop++;
        }
        uint64_t from = first << CHUNK_SHIFT;
        uint64_t to = stop << CHUNK_SHIFT < end ? stop << CHUNK_SHIFT : end;
        if (mprotect(a->base + from, (size_t)(to - from), PROT_READ | PROT_WRITE) != 0) {
            return ERR_NOMEM;
        }
        for (; chunk < stop; chunk++) {
            chunk_add(a->chunks, chunk);
        }
        if (is_large(a)) {
            grow_huge(a, first, stop);
        }
    }
    return 0;
}

/* What is given back of a huge page must not come back with it. One without any page that is
 * present may be filled anew. */
static void chunk_tear(struct arena *a, uint64_t chunk)
{
    if (!chunk_has(a->huge, chunk) || chunk_count(a, &a->present, chunk) == 0) {
        return;
    }
    (void)madvise(a->base + (chunk << CHUNK_SHIFT), CHUNK_BYTES, MADV_NOHUGEPAGE);
    a->huge[chunk >> 6] &= ~((uint64_t)1 << (chunk & 63));
}

void arena_memory_give(struct arena *a, uint64_t page, uint64_t count)
{
    void *at = a->base + (page << PAGE_SHIFT);
    size_t bytes = (size_t)(count << PAGE_SHIFT);
    if (!a->mapped) {
        (void)madvise(at, bytes, MADV_DONTNEED);
        chunk_tear(a, page / CHUNK_PAGES);
        chunk_tear(a, (page + count - 1) / CHUNK_PAGES);
        return;
    }
    /* What was mapped from a file would show it again. */
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) {
        memset(at, 0, bytes);
    }
}
