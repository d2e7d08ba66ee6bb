#include <string.h>

#include "alloc/arena_memory.h"
#include "alloc/page_hash.h"
#include "base/assert.h"
#include "base/mem.h"

/* So much memory of absent pages is kept, to be zeroed or overwritten when it is used again: giving
 * it back costs a system call, and a fault for each page later. */
#define STALE_MIN   1024u /* pages */
#define STALE_SHARE 8u    /* of those present */

/* ---- life ---- */

int arena_open(struct arena *a, uint64_t pages)
{
    assert(pages > 0);
    memset(a, 0, sizeof *a);
    a->pages = pages;
    size_t set = pageset_bytes(pages);
    size_t chunks = (size_t)(pages / CHUNK_PAGES / 64 + 1) * sizeof(uint64_t);
    a->memory_bytes = 6 * set + 2 * chunks +
                      (size_t)(pageset_words(pages) + 7 * pages) * sizeof(uint64_t) +
                      (size_t)pages * sizeof(uint32_t);
    a->memory = arena_memory_reserve(a->memory_bytes, true);
    if (a->memory == NULL) {
        return ERR_NOMEM;
    }
    a->base = arena_memory_reserve((size_t)(pages << PAGE_SHIFT), false);
    if (a->base == NULL) {
        arena_memory_release(a->memory, a->memory_bytes);
        return ERR_NOMEM;
    }
    uint8_t *at = a->memory;
    struct pageset *sets[] = {&a->present, &a->dirty,    &a->unhashed,
                              &a->stale,   &a->unloaded, &a->listed};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        pageset_place(sets[i], at, pages);
        at += set;
    }
    a->chunks = (uint64_t *)(void *)at;
    at += chunks;
    a->huge = (uint64_t *)(void *)at;
    at += chunks;
    a->hash = (uint64_t *)(void *)at;
    a->lines_due = a->hash + pages;
    a->lines = a->lines_due + pages;
    a->lines_before = a->lines + pages;
    a->patched = a->lines_before + pages;
    a->home = a->patched + pages;
    a->written = a->home + pages;
    a->armed = a->written + pages;
    a->filled = (uint32_t *)(void *)(a->armed + pageset_words(pages));
    return 0;
}

void arena_close(struct arena *a)
{
    assert(a->view_count == 0);
    assert(a->copy_count == 0);
    if (a->source != NULL) {
        a->source->close(a->source);
    }
    mem_free(a->copies);
    arena_memory_release(a->base, (size_t)(a->pages << PAGE_SHIFT));
    arena_memory_release(a->memory, a->memory_bytes);
    memset(a, 0, sizeof *a);
}

/* ---- pages that aren't in memory yet ---- */

bool arena_is_loaded(const struct arena *a, uint64_t page)
{
    return a->damage != 0 || !pageset_has(&a->unloaded, page);
}

static void unloaded_remove(struct arena *a, uint64_t page)
{
    pageset_remove(&a->unloaded, page);
    a->unloaded_count--;
    if (a->unloaded_count == 0 && a->source != NULL) {
        a->source->close(a->source);
        a->source = NULL;
        arena_memory_forget(a->home, a->pages * sizeof *a->home);
    }
}

/* The page stays unloaded, so that nobody takes it for the zeros that are in its memory. */
static int damaged(struct arena *a, uint64_t page, int err)
{
    assert(a->source != NULL);
    if (a->damage == 0) {
        a->damage = err;
        a->source->describe(a->source, page, a->home[page], err, &a->damage_text);
    }
    return a->damage;
}

/* How many pages from `page` on, below `end`, are unloaded and lie behind each other at home. */
static uint64_t unloaded_run(const struct arena *a, uint64_t page, uint64_t end)
{
    uint64_t count = 0;
    while (page + count < end && pageset_has(&a->unloaded, page + count) &&
           a->home[page + count] == a->home[page] + (count << PAGE_SHIFT)) {
        count++;
    }
    return count;
}

static int load_run(struct arena *a, uint64_t page, uint64_t count)
{
    uint8_t *bytes = a->base + (page << PAGE_SHIFT);
    int rv = arena_commit(a, page << PAGE_SHIFT, count << PAGE_SHIFT);
    if (rv != 0) {
        return damaged(a, page, rv);
    }
    rv = a->source->read(a->source, a->home[page], count, bytes);
    uint64_t good = 0;
    while (rv == 0 && good < count) {
        if (page_hash(bytes + (good << PAGE_SHIFT)) != a->hash[page + good]) {
            rv = ERR_CORRUPT;
        } else {
            unloaded_remove(a, page + good);
            good++;
        }
    }
    if (rv != 0) {
        memset(bytes + (good << PAGE_SHIFT), 0, (count - good) << PAGE_SHIFT);
        return damaged(a, page + good, rv);
    }
    return 0;
}

#define LOAD_PAGES 64u /* a piece: checked while it is warm */

int arena_load_slow(struct arena *a, uint64_t address, uint64_t len)
{
    if (len == 0) {
        return 0;
    }
    uint64_t end = (address + len - 1) / PAGE_BYTES + 1;
    assert(end <= a->pages);
    for (uint64_t page = address >> PAGE_SHIFT; page < end && a->unloaded_count != 0;) {
        uint64_t most = end - page < LOAD_PAGES ? end : page + LOAD_PAGES;
        uint64_t count = unloaded_run(a, page, most);
        if (count == 0) {
            page = pageset_next(&a->unloaded, page, end);
            continue;
        }
        int rv = a->damage != 0 ? a->damage : load_run(a, page, count);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

int arena_load_all(struct arena *a)
{
    if (a->unloaded_count == 0) {
        return 0;
    }
    for (uint64_t page = 0; (page = pageset_next(&a->unloaded, page, a->pages)) < a->pages;) {
        uint64_t count = unloaded_run(a, page, a->pages);
        arena_memory_expect(a, page, count);
        page += count;
    }
    return arena_load_slow(a, 0, a->pages << PAGE_SHIFT);
}

void arena_load_give(struct arena *a, uint64_t page, int err, const void *bytes)
{
    if (a->damage != 0 || !pageset_has(&a->unloaded, page)) {
        return;
    }
    err = err == 0 ? arena_commit(a, page << PAGE_SHIFT, PAGE_BYTES) : err;
    if (err != 0) {
        (void)damaged(a, page, err);
        return;
    }
    arena_memory_fill(a, page);
    memcpy(a->base + (page << PAGE_SHIFT), bytes, PAGE_BYTES);
    unloaded_remove(a, page);
    arena_memory_filled(a, page);
}

/* ---- writing ---- */

static inline void mark_dirty(struct arena *a, uint64_t page)
{
    if (!pageset_has(&a->dirty, page)) {
        pageset_add(&a->dirty, page);
        a->dirty_count++;
    }
}

void arena_write_again(struct arena *a, uint64_t page, uint64_t lines)
{
    mark_dirty(a, page);
    a->lines_before[page] |= lines;
}

/* Comes before these lines change: the page's hash loses their parts while their bytes are there,
 * which are about to be in the cache anyway. The page doesn't count in the digest until it has new
 * ones. */
static void unhash(struct arena *a, uint64_t page, uint64_t lines)
{
    uint64_t *due = &a->lines_due[page];
    if (!pageset_has(&a->unhashed, page)) {
        a->digest -= page_share(page, a->hash[page]);
        pageset_add(&a->unhashed, page);
        *due = 0;
    }
    if (lines == PAGE_LINES_ALL) {
        a->hash[page] = 0;
    } else {
        a->hash[page] -= page_lines_hash(a->base + (page << PAGE_SHIFT), lines & ~*due);
    }
    *due |= lines;
}

/* Comes before the page's lines change. */
static void mark_changed(struct arena *a, uint64_t page)
{
    if (!a->tracked) {
        mark_dirty(a, page);
    } else if (a->lines[page] == 0 && !pageset_has(&a->listed, page)) {
        a->written[a->written_count++] = page;
    }
}

#define STREAM_BYTES 1024u /* less isn't worth it */
#define STREAM_PAGES ((uint64_t)64 << 20 >> PAGE_SHIFT)
#define CACHED_BYTES ((uint64_t)8 << 20)

/* bytes.data NULL: zeros. */
static void put(struct arena *a, uint8_t *to, struct slice bytes, bool past)
{
    if (past && bytes.len >= STREAM_BYTES) {
        lines_stream(to, bytes.data, bytes.len);
        a->streamed = true;
    } else if (bytes.data == NULL) {
        memset(to, 0, bytes.len);
    } else {
        memcpy(to, bytes.data, bytes.len);
    }
}

/* Bytes of a page that the caller will overwrite, whatever they are. */
struct part {
    uint64_t from, end;
    bool past; /* the caches */
};
static const struct part none;

static bool is_whole(struct part p)
{
    return p.end - p.from == PAGE_BYTES;
}

/* An absent page whose memory has leftovers gets its zeroes, but for what will be overwritten. */
static void wash(struct arena *a, uint64_t page, struct part over)
{
    if (pageset_has(&a->stale, page)) {
        view_save(a, page);
        uint8_t *at = a->base + (page << PAGE_SHIFT);
        put(a, at, slice_of(NULL, over.from), over.past);
        put(a, at + over.end, slice_of(NULL, PAGE_BYTES - over.end), over.past);
        pageset_remove(&a->stale, page);
        a->stale_count--;
    }
}

/* What is overwritten as a whole needn't be read, unless a view wants it. */
static void load_to_write(struct arena *a, uint64_t page, bool whole)
{
    if (whole && a->view_count == 0 && pageset_has(&a->unloaded, page)) {
        unloaded_remove(a, page);
    } else {
        (void)arena_load_slow(a, page << PAGE_SHIFT, PAGE_BYTES);
    }
}

static void arm(struct arena *a, uint64_t page)
{
    a->armed[page >> 6] |= (uint64_t)1 << (page & 63);
}

static void disarm(struct arena *a, uint64_t page)
{
    a->armed[page >> 6] &= ~((uint64_t)1 << (page & 63));
}

/* For a checkpoint nobody needs to know more of a page than that it will be written whole. */
static uint64_t widened(uint64_t lines)
{
    return __builtin_popcountll(lines) > PATCH_LINES_MAX ? PAGE_LINES_ALL : lines;
}

/* A page that isn't hot; or, where lines aren't tracked, has others marked. */
static void warm(struct arena *a, uint64_t page, uint64_t lines, struct part over)
{
    assert(page < a->pages);
    if (!a->tracked && a->lines[page] != 0) {
        a->lines[page] = widened(a->lines[page] | lines);
        unhash(a, page, a->lines[page]);
        return;
    }
    if (pageset_has(&a->present, page)) {
        if (a->unloaded_count != 0) {
            load_to_write(a, page, is_whole(over));
        }
        if (a->view_count != 0) {
            view_save(a, page);
        }
        if (!a->tracked) {
            lines = page <= 1 ? PAGE_LINES_ALL /* every command marks them */ : widened(lines);
        }
        unhash(a, page, a->tracked ? PAGE_LINES_ALL : lines);
    } else {
        wash(a, page, over);
        pageset_add(&a->present, page);
        a->present_count++;
        a->unusual = true;
        lines = PAGE_LINES_ALL; /* what was there before isn't any more */
        pageset_add(&a->unhashed, page);
        a->lines_due[page] = PAGE_LINES_ALL;
    }
    mark_changed(a, page);
    a->lines[page] = lines;
    if (a->tracked) {
        arm(a, page);
    }
}

static inline void touch(struct arena *a, uint64_t page, uint64_t lines, struct part over)
{
    if (!arena_is_armed(a, page)) {
        warm(a, page, lines, over);
    } else {
        arena_mark(a, page, lines);
    }
}

void arena_touch(struct arena *a, uint64_t page, uint64_t lines)
{
    warm(a, page, lines, none);
}

enum touch { TOUCH, TOUCH_OVER, TOUCH_OVER_PAST };

static void touch_range(struct arena *a, uint64_t address, uint64_t len, enum touch how)
{
    for (uint64_t end = address + len; address < end;) {
        uint64_t page = address >> PAGE_SHIFT;
        uint64_t stop = (page + 1) << PAGE_SHIFT;
        stop = stop < end ? stop : end;
        uint64_t lines = arena_lines(address, stop - address);
        if ((lines & ~a->lines[page]) != 0) {
            uint64_t from = address % PAGE_BYTES;
            struct part over = {from, from + (stop - address), how == TOUCH_OVER_PAST};
            touch(a, page, lines, how == TOUCH ? none : over);
        }
        address = stop;
    }
}

void arena_touch_range(struct arena *a, uint64_t address, uint64_t len)
{
    touch_range(a, address, len, TOUCH);
}

void arena_overwrite_range(struct arena *a, uint64_t address, uint64_t len)
{
    touch_range(a, address, len, TOUCH_OVER);
}

/* When the page was filled: the pages that had been by then, and whether it had been filled shortly
 * before already. It is in a cache when both is so once more: of pages that objects leave in any
 * order few are, and of those that one object leaves to the next all. */
static bool fill_note(struct arena *a, uint64_t page)
{
    uint32_t now = (uint32_t)(a->filled_bytes >> PAGE_SHIFT);
    uint32_t then = a->filled[page];
    bool again = ((now - (then >> 1)) & UINT32_MAX >> 1) < CACHED_BYTES >> PAGE_SHIFT;
    a->filled[page] = now << 1 | again;
    return again && (then & 1) != 0;
}

void arena_fill(struct arena *a, uint64_t address, struct slice head, struct slice bytes)
{
    uint64_t len = head.len + bytes.len;
    uint64_t middle = (address + len / 2) >> PAGE_SHIFT;
    a->filled_bytes += len;
    bool past = a->present_count >= STREAM_PAGES && !a->tracked && !fill_note(a, middle);
    touch_range(a, address, len, past ? TOUCH_OVER_PAST : TOUCH_OVER);
    memcpy(a->base + address, head.data, head.len);
    put(a, a->base + address + head.len, bytes, past);
}

void arena_patches_forget(struct arena *a)
{
    const uint64_t per_page = PAGE_BYTES / sizeof *a->patched; /* what may be left at each end */
    uint64_t end = a->pages < per_page ? a->pages : per_page;
    arena_memory_forget(a->patched, a->pages * sizeof *a->patched);
    memset(a->patched, 0, end * sizeof *a->patched);
    memset(a->patched + a->pages - end, 0, end * sizeof *a->patched);
}

void arena_cool_page(struct arena *a, uint64_t page)
{
    if (!a->tracked) {
        a->lines_before[page] |= a->lines[page];
    }
    a->lines[page] = 0;
    disarm(a, page);
}

void arena_cool_listed(struct arena *a)
{
    for (uint64_t i = 0; i < a->written_count; i++) {
        a->lines_before[a->written[i]] |= a->lines[a->written[i]];
        pageset_add(&a->listed, a->written[i]);
        a->unusual = true;
    }
}

void arena_cool(struct arena *a)
{
    arena_cool_listed(a);
    for (uint64_t page = 0; (page = pageset_next(&a->unhashed, page, a->pages)) < a->pages;
         page++) {
        arena_cool_page(a, page);
    }
}

void arena_track(struct arena *a)
{
    assert(arena_dirty_pages(a) == 0);
    arena_cool(a);
    a->tracked = true;
}

static void committed_tracked(struct arena *a)
{
    for (uint64_t i = 0; i < a->written_count; i++) {
        a->lines[a->written[i]] = 0;
    }
    if (a->unusual) {
        for (uint64_t i = 0; i < a->written_count; i++) {
            a->lines_before[a->written[i]] = 0;
            pageset_remove(&a->listed, a->written[i]);
        }
        a->unusual = false;
    }
    a->written_count = 0;
}

void arena_committed(struct arena *a)
{
    if (a->tracked) {
        committed_tracked(a);
        return;
    }
    for (uint64_t p = 0; (p = pageset_next(&a->dirty, p, a->pages)) < a->pages; p++) {
        a->lines[p] = 0;
        a->lines_before[p] = 0;
    }
    pageset_clear(&a->dirty, a->pages);
    a->dirty_count = 0;
}

void arena_clean(struct arena *a, uint64_t address, uint64_t len)
{
    if (len == 0) {
        return;
    }
    if (a->unloaded_count != 0) {
        (void)arena_load_slow(a, address, len);
    }
    uint64_t last = (address + len - 1) >> PAGE_SHIFT;
    for (uint64_t page = address >> PAGE_SHIFT; page <= last; page++) {
        wash(a, page, none);
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
        arena_memory_give(a, page, end - page);
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
        if (a->unloaded_count != 0) {
            load_to_write(a, p, true);
        }
        pageset_remove(&a->present, p);
        a->present_count--;
        unhash(a, p, PAGE_LINES_ALL);
        pageset_remove(&a->unhashed, p);
        mark_changed(a, p);
        if (a->tracked) {
            pageset_add(&a->listed, p);
            a->unusual = true;
            disarm(a, p);
        }
        a->lines[p] = 0;
        pageset_add(&a->stale, p);
        a->stale_count++;
    }
    if (a->stale_count > STALE_MIN + a->present_count / STALE_SHARE && a->view_count == 0) {
        trim(a, 2 * count);
    }
}

/* ---- loading and the digest ---- */

static void hash_set(struct arena *a, uint64_t page, uint64_t hash)
{
    if (pageset_has(&a->present, page)) {
        a->digest -= page_share(page, a->hash[page]);
    } else {
        pageset_add(&a->present, page);
        a->present_count++;
    }
    a->digest += page_share(page, hash);
    a->hash[page] = hash;
}

int arena_load(struct arena *a, uint64_t page, const void *bytes)
{
    assert(page < a->pages);
    assert(a->view_count == 0);
    int rv = arena_commit(a, page << PAGE_SHIFT, PAGE_BYTES);
    if (rv != 0) {
        return rv;
    }
    memcpy(a->base + (page << PAGE_SHIFT), bytes, PAGE_BYTES);
    hash_set(a, page, page_hash(bytes));
    return 0;
}

void arena_load_later(struct arena *a, uint64_t page, uint64_t hash, uint64_t home)
{
    assert(page < a->pages);
    assert(a->source == NULL);
    a->unloaded_count += !pageset_has(&a->unloaded, page);
    pageset_add(&a->unloaded, page);
    hash_set(a, page, hash);
    a->home[page] = home;
}

void arena_load_expect(struct arena *a, uint64_t page, uint64_t count)
{
    arena_memory_touch(a->hash + page, count * sizeof *a->hash);
    arena_memory_touch(a->home + page, count * sizeof *a->home);
}

void arena_load_never(struct arena *a, uint64_t page)
{
    assert(page < a->pages);
    assert(a->source == NULL);
    if (!pageset_has(&a->present, page)) {
        return;
    }
    pageset_remove(&a->present, page);
    pageset_remove(&a->unloaded, page);
    a->present_count--;
    a->unloaded_count--;
    a->digest -= page_share(page, a->hash[page]);
    a->hash[page] = 0;
}

void arena_source_set(struct arena *a, struct arena_source *source)
{
    assert(a->source == NULL);
    if (a->unloaded_count == 0) {
        source->close(source);
        return;
    }
    a->source = source;
}

void arena_load_mapped(struct arena *a, uint64_t page, uint64_t count)
{
    assert(a->view_count == 0);
    a->mapped = true;
    for (uint64_t p = page; p < page + count; p++) {
        assert(!pageset_has(&a->present, p));
        pageset_add(&a->present, p);
        pageset_add(&a->unhashed, p);
        a->lines_due[p] = PAGE_LINES_ALL;
    }
    a->present_count += count;
}

uint64_t arena_digest(struct arena *a)
{
    arena_cool(a);
    for (uint64_t page = 0; (page = pageset_next(&a->unhashed, page, a->pages)) < a->pages;
         page++) {
        a->hash[page] += page_lines_hash(a->base + (page << PAGE_SHIFT), a->lines_due[page]);
        a->digest += page_share(page, a->hash[page]);
    }
    pageset_clear(&a->unhashed, a->pages);
    return a->digest;
}
