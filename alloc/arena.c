#include "alloc/arena.h"

#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#define CHUNK_SHIFT 20
#define HUGE_BYTES  ((uintptr_t)2 << 20)
/* So much memory of absent pages is kept, to be zeroed or overwritten when it is used again: giving
 * it back costs a system call, and a fault for each page later. */
#define STALE_MIN   1024u /* pages */
#define STALE_SHARE 8u    /* of those present */

static uint64_t words_of(uint64_t pages)
{
    return (pages + 63) / 64;
}

static uint64_t sums_of(uint64_t pages)
{
    return (words_of(pages) + 63) / 64;
}

size_t pageset_bytes(uint64_t pages)
{
    return (size_t)(words_of(pages) + sums_of(pages)) * sizeof(uint64_t);
}

void pageset_place(struct pageset *s, void *memory, uint64_t pages)
{
    s->words = memory;
    s->sums = s->words + words_of(pages);
}

uint64_t pageset_next(const struct pageset *s, uint64_t from, uint64_t pages)
{
    if (from >= pages) {
        return pages;
    }
    uint64_t word = from >> 6;
    uint64_t bits = s->words[word] & (~(uint64_t)0 << (from & 63));
    while (bits == 0) {
        word++;
        if (word >= words_of(pages)) {
            return pages;
        }
        uint64_t sum = s->sums[word >> 6] & (~(uint64_t)0 << (word & 63));
        if (sum == 0) {
            word |= 63; /* the loop goes on with the next sum */
            continue;
        }
        word = (word & ~(uint64_t)63) + (uint64_t)__builtin_ctzll(sum);
        bits = s->words[word];
    }
    uint64_t page = (word << 6) + (uint64_t)__builtin_ctzll(bits);
    return page < pages ? page : pages;
}

/* Calls for every word that may have a bit. */
#define FOR_EACH_WORD(word, s, pages)                                                              \
    for (uint64_t sum_ = 0; sum_ < sums_of(pages); sum_++)                                         \
        for (uint64_t bits_ = (s)->sums[sum_], word = 0;                                           \
             bits_ != 0 && (word = (sum_ << 6) + (uint64_t)__builtin_ctzll(bits_), true);          \
             bits_ &= bits_ - 1)

void pageset_copy(struct pageset *to, const struct pageset *from, uint64_t pages)
{
    FOR_EACH_WORD(word, from, pages)
    {
        to->words[word] = from->words[word];
    }
    memcpy(to->sums, from->sums, sums_of(pages) * sizeof *to->sums);
}

uint64_t pageset_merge(struct pageset *to, const struct pageset *from, uint64_t pages)
{
    uint64_t added = 0;
    FOR_EACH_WORD(word, from, pages)
    {
        added += (uint64_t)__builtin_popcountll(from->words[word] & ~to->words[word]);
        to->words[word] |= from->words[word];
    }
    for (uint64_t i = 0; i < sums_of(pages); i++) {
        to->sums[i] |= from->sums[i];
    }
    return added;
}

void pageset_clear(struct pageset *s, uint64_t pages)
{
    FOR_EACH_WORD(word, s, pages)
    {
        s->words[word] = 0;
    }
    memset(s->sums, 0, sums_of(pages) * sizeof *s->sums);
}

/* ---- life ---- */

static void *reserve(size_t bytes, int protection)
{
    void *p = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    /* A huge page would make an almost empty arena cost megabytes. */
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    return p;
}

int arena_open(struct arena *a, uint64_t pages)
{
    assert(pages > 0);
    memset(a, 0, sizeof *a);
    a->pages = pages;
    size_t set = pageset_bytes(pages);
    size_t chunks = (size_t)((pages << PAGE_SHIFT >> CHUNK_SHIFT) / 64 + 1) * sizeof(uint64_t);
    a->memory_bytes = 4 * set + chunks + 3 * (size_t)pages * sizeof(uint64_t);
    a->memory = reserve(a->memory_bytes, PROT_READ | PROT_WRITE);
    if (a->memory == NULL) {
        return ERR_NOMEM;
    }
    a->base = reserve((size_t)(pages << PAGE_SHIFT), PROT_NONE);
    if (a->base == NULL) {
        (void)munmap(a->memory, a->memory_bytes);
        return ERR_NOMEM;
    }
    uint8_t *at = a->memory;
    struct pageset *sets[] = {&a->present, &a->dirty, &a->unhashed, &a->stale};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        pageset_place(sets[i], at, pages);
        at += set;
    }
    a->chunks = (uint64_t *)(void *)at;
    at += chunks;
    a->hash = (uint64_t *)(void *)at;
    a->lines = a->hash + pages;
    a->lines_before = a->lines + pages;
    return 0;
}

void arena_close(struct arena *a)
{
    assert(a->view_count == 0);
    assert(a->copy_count == 0);
    mem_free(a->copies);
    (void)munmap(a->base, (size_t)(a->pages << PAGE_SHIFT));
    (void)munmap(a->memory, a->memory_bytes);
    memset(a, 0, sizeof *a);
}

int arena_commit(struct arena *a, uint64_t address, uint64_t len)
{
    uint64_t end = a->pages << PAGE_SHIFT;
    assert(len > 0);
    assert(address + len <= end);
    for (uint64_t chunk = address >> CHUNK_SHIFT; chunk <= (address + len - 1) >> CHUNK_SHIFT;
         chunk++) {
        uint64_t bit = (uint64_t)1 << (chunk & 63);
        if ((a->chunks[chunk >> 6] & bit) != 0) {
            continue;
        }
        uint64_t from = chunk << CHUNK_SHIFT;
        uint64_t bytes =
            end - from < ((uint64_t)1 << CHUNK_SHIFT) ? end - from : (uint64_t)1 << CHUNK_SHIFT;
        if (mprotect(a->base + from, (size_t)bytes, PROT_READ | PROT_WRITE) != 0) {
            return ERR_NOMEM;
        }
        a->chunks[chunk >> 6] |= bit;
    }
    return 0;
}

/* ---- writing ---- */

static inline void mark_changed(struct arena *a, uint64_t page)
{
    if (!pageset_has(&a->dirty, page)) {
        pageset_add(&a->dirty, page);
        a->dirty_count++;
        if (a->tracked) {
            if (a->touched_count < ARENA_TOUCHED_MAX) {
                a->touched[a->touched_count] = page;
            }
            a->touched_count += a->touched_count <= ARENA_TOUCHED_MAX;
        }
    }
    pageset_add(&a->unhashed, page);
}

/* An absent page whose memory has leftovers gets its zeroes, unless all of it will be overwritten.
 */
static void wash(struct arena *a, uint64_t page, bool whole)
{
    if (pageset_has(&a->stale, page)) {
        view_save(a, page);
        if (!whole) {
            memset(a->base + (page << PAGE_SHIFT), 0, PAGE_BYTES);
        }
        pageset_remove(&a->stale, page);
        a->stale_count--;
    }
}

/* A page that isn't hot. */
static __attribute__((noinline)) void warm(struct arena *a, uint64_t page, uint64_t lines,
                                           bool whole)
{
    assert(page < a->pages);
    if (!a->tracked) {
        lines = PAGE_LINES_ALL;
    }
    if (pageset_has(&a->present, page)) {
        if (a->view_count != 0) {
            view_save(a, page);
        }
    } else {
        wash(a, page, whole);
        pageset_add(&a->present, page);
        a->present_count++;
        lines = PAGE_LINES_ALL; /* what was there before isn't any more */
    }
    mark_changed(a, page);
    a->lines[page] = lines;
}

static inline void touch(struct arena *a, uint64_t page, uint64_t lines, bool whole)
{
    if (arena_is_hot(a, page)) {
        a->lines[page] |= lines;
    } else {
        warm(a, page, lines, whole);
    }
}

void arena_touch(struct arena *a, uint64_t page, uint64_t lines)
{
    touch(a, page, lines, false);
}

static void touch_range(struct arena *a, uint64_t address, uint64_t len, bool whole)
{
    for (uint64_t end = address + len; address < end;) {
        uint64_t page = address >> PAGE_SHIFT;
        uint64_t stop = (page + 1) << PAGE_SHIFT;
        stop = stop < end ? stop : end;
        uint64_t lines = arena_lines(address, stop - address);
        if ((lines & ~a->lines[page]) != 0) {
            touch(a, page, lines, whole && stop - address == PAGE_BYTES);
        }
        address = stop;
    }
}

void arena_touch_range(struct arena *a, uint64_t address, uint64_t len)
{
    touch_range(a, address, len, false);
}

void *arena_overwrite(struct arena *a, uint64_t address, uint64_t len)
{
    touch_range(a, address, len, true);
    return a->base + address;
}

void arena_cool(struct arena *a)
{
    for (uint64_t page = 0; (page = pageset_next(&a->unhashed, page, a->pages)) < a->pages;
         page++) {
        if (a->tracked) {
            a->lines_before[page] |= a->lines[page];
        }
        a->lines[page] = 0;
    }
}

void arena_track(struct arena *a)
{
    assert(a->dirty_count == 0);
    arena_cool(a);
    a->tracked = true;
}

static void page_committed(struct arena *a, uint64_t page)
{
    a->lines[page] = 0;
    a->lines_before[page] = 0;
    pageset_remove(&a->dirty, page);
}

void arena_committed(struct arena *a)
{
    if (a->tracked && a->touched_count <= ARENA_TOUCHED_MAX) {
        for (uint32_t i = 0; i < a->touched_count; i++) {
            page_committed(a, a->touched[i]);
        }
    } else {
        for (uint64_t p = 0; (p = pageset_next(&a->dirty, p, a->pages)) < a->pages; p++) {
            page_committed(a, p);
        }
        pageset_clear(&a->dirty, a->pages);
    }
    a->touched_count = 0;
    a->dirty_count = 0;
}

void arena_clean(struct arena *a, uint64_t address, uint64_t len)
{
    if (len == 0) {
        return;
    }
    uint64_t last = (address + len - 1) >> PAGE_SHIFT;
    for (uint64_t page = address >> PAGE_SHIFT; page <= last; page++) {
        wash(a, page, false);
    }
}

void arena_zero(struct arena *a, uint64_t address, uint64_t len)
{
    uint64_t end = address + len;
    while (address < end) {
        uint64_t page = address >> PAGE_SHIFT;
        uint64_t stop = (page + 1) << PAGE_SHIFT;
        stop = stop < end ? stop : end;
        if (pageset_has(&a->present, page)) {
            memset(arena_write(a, address, stop - address), 0, stop - address);
        }
        address = stop;
    }
}

/* Memory that reads as zero from now on. */
static void give_back(const struct arena *a, uint64_t page, uint64_t count)
{
    void *at = a->base + (page << PAGE_SHIFT);
    size_t bytes = (size_t)(count << PAGE_SHIFT);
    if (!a->mapped) {
        (void)madvise(at, bytes, MADV_DONTNEED);
        return;
    }
    /* What was mapped from a file would show it again. */
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) {
        memset(at, 0, bytes);
    }
}

/* Gives memory of about so many absent pages back. No view may still look at it. */
static void trim(struct arena *a, uint64_t pages)
{
    uint64_t given = 0;
    while (given < pages && a->stale_count != 0) {
        uint64_t page = pageset_next(&a->stale, a->trim_at, a->pages);
        if (page == a->pages) {
            a->trim_at = 0;
            continue;
        }
        uint64_t end = page;
        for (; end < a->pages && end - page < pages && pageset_has(&a->stale, end); end++) {
            pageset_remove(&a->stale, end);
        }
        give_back(a, page, end - page);
        a->stale_count -= end - page;
        given += end - page;
        a->trim_at = end;
    }
}

void arena_drop(struct arena *a, uint64_t page, uint64_t count)
{
    for (uint64_t p = page; p < page + count; p++) {
        if (!pageset_has(&a->present, p)) {
            continue;
        }
        pageset_remove(&a->present, p);
        a->present_count--;
        a->lines[p] = 0;
        mark_changed(a, p);
        pageset_add(&a->stale, p);
        a->stale_count++;
    }
    if (a->stale_count > STALE_MIN + a->present_count / STALE_SHARE && a->view_count == 0) {
        trim(a, 2 * count);
    }
}

/* ---- loading and the digest ---- */

uint64_t arena_page_hash(uint64_t page, const void *bytes)
{
    return hash64(page, bytes, PAGE_BYTES);
}

int arena_load(struct arena *a, uint64_t page, const void *bytes)
{
    void *at = NULL;
    int rv = arena_load_place(a, page, 1, &at);
    if (rv == 0) {
        memcpy(at, bytes, PAGE_BYTES);
        arena_loaded(a, page);
    }
    return rv;
}

int arena_load_place(struct arena *a, uint64_t page, uint64_t count, void **bytes)
{
    assert(count > 0);
    assert(page < a->pages);
    assert(count <= a->pages - page);
    assert(a->view_count == 0);
    int rv = arena_commit(a, page << PAGE_SHIFT, count << PAGE_SHIFT);
    if (rv != 0) {
        return rv;
    }
    *bytes = a->base + (page << PAGE_SHIFT);
    /* Where all of a huge page will be filled it costs nothing, and saves 511 faults. */
    uintptr_t from = ((uintptr_t)*bytes + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1);
    uintptr_t end = ((uintptr_t)*bytes + (count << PAGE_SHIFT)) & ~(uintptr_t)(HUGE_BYTES - 1);
    if (from < end) {
        (void)madvise(a->base + (from - (uintptr_t)a->base), end - from, MADV_HUGEPAGE);
    }
    return 0;
}

void arena_loaded(struct arena *a, uint64_t page)
{
    if (!pageset_has(&a->present, page)) {
        pageset_add(&a->present, page);
        a->present_count++;
    }
    uint64_t hash = arena_page_hash(page, a->base + (page << PAGE_SHIFT));
    a->digest += hash - a->hash[page];
    a->hash[page] = hash;
}

void arena_unload(struct arena *a, uint64_t page)
{
    assert(page < a->pages);
    if (!pageset_has(&a->present, page)) {
        return;
    }
    memset(a->base + (page << PAGE_SHIFT), 0, PAGE_BYTES);
    pageset_remove(&a->present, page);
    a->present_count--;
    a->digest -= a->hash[page];
    a->hash[page] = 0;
}

void arena_load_mapped(struct arena *a, uint64_t page, uint64_t count)
{
    assert(a->view_count == 0);
    a->mapped = true;
    for (uint64_t p = page; p < page + count; p++) {
        assert(!pageset_has(&a->present, p));
        pageset_add(&a->present, p);
        pageset_add(&a->unhashed, p);
    }
    a->present_count += count;
}

uint64_t arena_digest(struct arena *a)
{
    arena_cool(a);
    for (uint64_t page = 0; (page = pageset_next(&a->unhashed, page, a->pages)) < a->pages;
         page++) {
        uint64_t hash = 0;
        if (pageset_has(&a->present, page)) {
            hash = arena_page_hash(page, a->base + (page << PAGE_SHIFT));
        }
        a->digest += hash - a->hash[page];
        a->hash[page] = hash;
    }
    pageset_clear(&a->unhashed, a->pages);
    return a->digest;
}
