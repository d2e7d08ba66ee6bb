/* Views: what the arena was at one index. A page that changes while a view needs it is copied
 * first; one copy serves all views opened since the page's last copy. Copies are labelled with the
 * epoch of the newest view at that time: a view reads the copy with the smallest epoch that isn't
 * below its own, or the live page when there is none. */
#include <string.h>

#include "alloc/arena.h"
#include "alloc/engine.h"
#include "alloc/page_hash.h"
#include "base/assert.h"
#include "base/mem.h"

struct copy {
    struct copy *next; /* of the bucket */
    uint64_t page;
    uint64_t epoch;
    uint8_t bytes[4096];
};

#define COPY_BUCKETS_MIN 64
#define COPIES_MIN       4096 /* 16 MiB; beyond that a quarter of the present pages */
/* The machine fetches what follows by itself. */
#define EXPECT_LINES   4
#define EXPECT_ENTRIES 12
/* Patches of a page whose lines aren't those of the patches before: they are read one by one. */
#define PATCHES_LINES_MAX 16

static size_t bucket_of(const struct arena *a, uint64_t page)
{
    return (size_t)(page * 0x9e3779b97f4a7c15ull >> 20) & (a->copy_buckets - 1);
}

static struct copy *copy_for(const struct arena *a, uint64_t page, uint64_t epoch)
{
    struct copy *best = NULL;
    if (a->copy_count == 0) {
        return NULL;
    }
    for (struct copy *c = a->copies[bucket_of(a, page)]; c != NULL; c = c->next) {
        if (c->page == page && c->epoch >= epoch && (best == NULL || c->epoch < best->epoch)) {
            best = c;
        }
    }
    return best;
}

static uint64_t copy_epoch_max(const struct arena *a, uint64_t page)
{
    uint64_t epoch = 0;
    if (a->copy_count == 0) {
        return 0;
    }
    for (struct copy *c = a->copies[bucket_of(a, page)]; c != NULL; c = c->next) {
        if (c->page == page && c->epoch > epoch) {
            epoch = c->epoch;
        }
    }
    return epoch;
}

/* Copies that no view alive can read. */
static void copies_free(struct arena *a)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; i < a->view_count; i++) {
        if (!a->views[i]->canceled && a->views[i]->epoch < oldest) {
            oldest = a->views[i]->epoch;
        }
    }
    for (size_t i = 0; i < a->copy_buckets && a->copy_count > 0; i++) {
        struct copy **link = &a->copies[i];
        while (*link != NULL) {
            struct copy *c = *link;
            if (c->epoch >= oldest) {
                link = &c->next;
                continue;
            }
            *link = c->next;
            mem_free(c);
            a->copy_count--;
        }
    }
}

static bool buckets_grow(struct arena *a)
{
    size_t count = a->copy_buckets == 0 ? COPY_BUCKETS_MIN : a->copy_buckets * 4;
    struct copy **buckets = mem_zalloc(count * sizeof *buckets);
    if (buckets == NULL) {
        return a->copy_buckets != 0; /* longer chains, then */
    }
    struct copy **old = a->copies;
    size_t old_count = a->copy_buckets;
    a->copies = buckets;
    a->copy_buckets = count;
    for (size_t i = 0; i < old_count; i++) {
        for (struct copy *c = old[i], *next = NULL; c != NULL; c = next) {
            next = c->next;
            c->next = buckets[bucket_of(a, c->page)];
            buckets[bucket_of(a, c->page)] = c;
        }
    }
    mem_free(old);
    return true;
}

static void cancel(struct view *view)
{
    view->canceled = true;
    copies_free(view->arena);
}

/* The oldest long view goes first; a checkpoint's only when there is no other way. */
static void cancel_one(struct arena *a, bool checkpoint_too)
{
    for (int pass = 0; pass < (checkpoint_too ? 2 : 1); pass++) {
        for (uint32_t i = 0; i < a->view_count; i++) {
            struct view *view = a->views[i];
            if (!view->canceled && view->checkpoint == (pass == 1)) {
                cancel(view);
                return;
            }
        }
    }
}

static bool page_is_needed(const struct arena *a, uint64_t page)
{
    uint64_t saved = copy_epoch_max(a, page);
    for (uint32_t i = 0; i < a->view_count; i++) {
        const struct view *view = a->views[i];
        if (!view->canceled && view->epoch > saved && page < view->pages &&
            pageset_has(&view->present, page)) {
            return true;
        }
    }
    return false;
}

static size_t copies_max(const struct arena *a)
{
    if (a->copy_max != 0) {
        return a->copy_max;
    }
    size_t quarter = (size_t)(a->present_count / 4);
    return quarter > COPIES_MIN ? quarter : COPIES_MIN;
}

void view_save(struct arena *a, uint64_t page)
{
    if (a->view_count == 0) {
        return;
    }
    while (page_is_needed(a, page)) {
        if (a->copy_count >= copies_max(a)) {
            size_t before = a->copy_count;
            cancel_one(a, false);
            if (a->copy_count != before) {
                continue;
            }
            /* Only checkpoints are left: they are short, and bounded by what was dirty. */
        }
        struct copy *copy = NULL;
        if (a->copy_count < a->copy_buckets * 2 || buckets_grow(a)) {
            copy = mem_alloc(sizeof *copy);
        }
        if (copy == NULL) {
            cancel_one(a, true);
            continue;
        }
        copy->page = page;
        copy->epoch = a->epoch;
        memcpy(copy->bytes, a->base + (page << PAGE_SHIFT), PAGE_BYTES);
        copy->next = a->copies[bucket_of(a, page)];
        a->copies[bucket_of(a, page)] = copy;
        a->copy_count++;
        return;
    }
}

/* ---- opening and closing ---- */

/* What a delta says of a page of which these lines have changed: they alone, or the whole page when
 * they are many, when too many patches would lie on the newest whole copy, or when opening reads
 * it, which would have to look in several places. */
static uint64_t patch_of(const struct heap *heap, uint64_t page, uint64_t lines)
{
    uint64_t all = heap->arena.patched[page] | lines;
    bool few = __builtin_popcountll(lines) <= PATCH_LINES_MAX &&
               (all == lines || __builtin_popcountll(all) <= PATCHES_LINES_MAX);
    return few && !heap_page_steers(heap, page) ? lines : PAGE_LINES_ALL;
}

uint64_t view_delta_bytes(const struct heap *heap)
{
    const struct arena *a = &heap->arena;
    uint64_t lines = 0;
    for (uint64_t p = 0; (p = pageset_next(&a->dirty, p, a->pages)) < a->pages; p++) {
        if (pageset_has(&a->present, p)) {
            lines += (uint64_t)__builtin_popcountll(patch_of(heap, p, arena_lines_written(a, p)));
        }
    }
    return lines * LINE_BYTES;
}

/* The next page that a view has to know more of: it isn't hashed, or a checkpoint writes it. */
static uint64_t next_entry(const struct view *view, uint64_t from)
{
    const struct arena *a = view->arena;
    uint64_t unhashed = pageset_next(&a->unhashed, from, a->pages);
    uint64_t dirty = view->checkpoint ? pageset_next(&a->dirty, from, a->pages) : a->pages;
    return unhashed < dirty ? unhashed : dirty;
}

static int list_reserve(struct view *view)
{
    const struct arena *a = view->arena;
    size_t count = 0;
    for (uint64_t p = 0; (p = next_entry(view, p)) < a->pages; p++) {
        count++;
    }
    view->list = count == 0 ? NULL : mem_alloc(count * sizeof *view->list);
    return count != 0 && view->list == NULL ? ERR_NOMEM : 0;
}

/* Of a dirty page; all: the checkpoint writes every page that is present. */
static void change_take(struct view *view, struct view_entry *entry, bool all)
{
    struct arena *a = view->arena;
    uint64_t page = entry->page;
    entry->lines = a->lines_before[page];
    entry->patch = PAGE_LINES_ALL;
    if (!pageset_has(&a->present, page)) {
        pageset_add(&view->gone, page);
    } else if (!all) {
        entry->patch = patch_of(view->heap, page, entry->lines);
        pageset_add(&view->present, page);
        pageset_add(entry->patch == PAGE_LINES_ALL ? &view->whole : &view->part, page);
    }
    a->lines_before[page] = 0;
}

/* Asks the caches for what is known of a page, some pages ahead. */
static void expect_entry(const struct view *view, uint64_t page)
{
    const struct arena *a = view->arena;
    __builtin_prefetch(&a->hash[page]);
    __builtin_prefetch(&a->lines_due[page]);
    __builtin_prefetch(&a->lines[page], 1);
    __builtin_prefetch(&a->lines_before[page], 1);
    __builtin_prefetch(&a->patched[page]);
}

/* Of all pages that aren't hashed, which become cool. For a checkpoint with the dirty marks. */
static void list_fill(struct view *view, bool all)
{
    struct arena *a = view->arena;
    uint64_t ahead = 0;
    for (size_t i = 0; i < EXPECT_ENTRIES && ahead < a->pages; i++, ahead++) {
        ahead = next_entry(view, ahead);
    }
    view->digest = a->digest;
    arena_cool_listed(a);
    for (uint64_t p = 0; (p = next_entry(view, p)) < a->pages; p++) {
        struct view_entry *entry = &view->list[view->list_count++];
        ahead = next_entry(view, ahead);
        if (ahead < a->pages) {
            expect_entry(view, ahead++);
        }
        *entry = (struct view_entry){.page = p, .hash = a->hash[p]};
        if (pageset_has(&a->unhashed, p)) {
            entry->due = a->lines_due[p];
            arena_cool_page(a, p);
        }
        if (view->checkpoint && pageset_has(&a->dirty, p)) {
            change_take(view, entry, all);
        }
    }
    if (!view->checkpoint) {
        return;
    }
    if (all) {
        pageset_copy(&view->whole, &a->present, a->pages);
    }
    pageset_clear(&a->dirty, a->pages);
    a->dirty_count = 0;
}

static int open_view(struct heap *heap, bool checkpoint, bool all, struct view **out)
{
    struct arena *a = heap_arena(heap);
    *out = NULL;
    if (a->view_count == VIEWS_MAX) {
        return ERR_BUSY;
    }
    struct view *view = mem_zalloc(sizeof *view);
    if (view == NULL) {
        return ERR_NOMEM;
    }
    size_t bytes = pageset_bytes(a->pages);
    view->memory = mem_zalloc(checkpoint ? 4 * bytes : bytes);
    if (view->memory == NULL) {
        goto err_after_alloc;
    }
    view->heap = heap;
    view->arena = a;
    view->index = heap_index(heap);
    view->term = heap_term(heap);
    view->pages = heap_page_count(heap);
    view->checkpoint = checkpoint;
    if (list_reserve(view) != 0) {
        goto err_after_memory;
    }
    pageset_place(&view->present, view->memory, a->pages);
    if (checkpoint) {
        pageset_place(&view->whole, (uint8_t *)view->memory + bytes, a->pages);
        pageset_place(&view->part, (uint8_t *)view->memory + 2 * bytes, a->pages);
        pageset_place(&view->gone, (uint8_t *)view->memory + 3 * bytes, a->pages);
    }
    if (!checkpoint || all) {
        pageset_copy(&view->present, &a->present, a->pages);
    }
    assert(!heap->in_entry);
    list_fill(view, all);
    view->epoch = ++a->epoch;
    a->views[a->view_count++] = view;
    *out = view;
    return 0;

err_after_memory:
    mem_free(view->memory);
err_after_alloc:
    mem_free(view);
    return ERR_NOMEM;
}

int view_open(struct heap *heap, struct view **out)
{
    return open_view(heap, false, true, out);
}

int view_open_checkpoint(struct heap *heap, bool all, struct view **out)
{
    return open_view(heap, true, all, out);
}

void view_restore_dirty(struct view *view)
{
    for (size_t i = 0; i < view->list_count; i++) {
        const struct view_entry *entry = &view->list[i];
        if (entry->patch != 0) {
            arena_write_again(view->arena, entry->page, entry->lines);
        }
    }
}

void view_settle(struct view *view, bool all)
{
    struct arena *a = view->arena;
    if (all) {
        arena_patches_forget(a);
        return;
    }
    for (size_t i = 0; i < view->list_count; i++) {
        const struct view_entry *e = &view->list[i];
        a->patched[e->page] = e->patch == PAGE_LINES_ALL ? 0 : a->patched[e->page] | e->patch;
    }
}

void view_close(struct view *view)
{
    struct arena *a = view->arena;
    uint32_t i = 0;
    while (i < a->view_count && a->views[i] != view) {
        i++;
    }
    assert(i < a->view_count);
    memmove(&a->views[i], &a->views[i + 1], (a->view_count - i - 1) * sizeof a->views[0]);
    a->view_count--;
    copies_free(a);
    assert(a->view_count > 0 || a->copy_count == 0);
    mem_free(view->list);
    mem_free(view->memory);
    mem_free(view);
}

/* ---- reading ---- */

uint64_t view_index(const struct view *view)
{
    return view->index;
}

uint64_t view_term(const struct view *view)
{
    return view->term;
}

uint64_t view_page_count(const struct view *view)
{
    return view->pages;
}

bool view_canceled(const struct view *view)
{
    return view->canceled;
}

const uint8_t *view_page(struct view *view, uint64_t page)
{
    const struct arena *a = view->arena;
    if (view->canceled || page >= view->pages || !pageset_has(&view->present, page)) {
        return NULL;
    }
    const struct copy *copy = copy_for(a, page, view->epoch);
    if (copy == NULL) {
        (void)arena_load_now(view->arena, page << PAGE_SHIFT, PAGE_BYTES);
    }
    if (a->damage != 0) {
        cancel(view); /* what it shows, or what was copied for it, may be zeros */
        return NULL;
    }
    return copy != NULL ? copy->bytes : a->base + (page << PAGE_SHIFT);
}

uint64_t view_next(const struct view *view, bool part, uint64_t from)
{
    uint64_t page = pageset_next(part ? &view->part : &view->whole, from, view->arena->pages);
    return page < view->pages ? page : view->pages;
}

/* Most calls go on where the last one was. NULL: the page is hashed, and didn't change. */
static struct view_entry *entry_of(struct view *view, uint64_t page)
{
    size_t low = view->list_at;
    size_t high = view->list_count;
    if (low < high && view->list[low].page <= page) {
        while (low < high && view->list[low].page < page) {
            low++;
        }
        high = low;
    } else {
        low = 0;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (view->list[middle].page < page) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    view->list_at = low;
    return low < view->list_count && view->list[low].page == page ? &view->list[low] : NULL;
}

static void expect_lines(const struct arena *a, uint64_t page, uint64_t lines)
{
    const uint8_t *bytes = a->base + (page << PAGE_SHIFT);
    for (uint32_t i = 0; i < EXPECT_LINES && lines != 0; i++, lines &= lines - 1) {
        __builtin_prefetch(bytes + (uint64_t)__builtin_ctzll(lines) * LINE_BYTES);
    }
}

void view_expect(const struct view *view, uint64_t page)
{
    const struct arena *a = view->arena;
    expect_lines(a, page + 1, PAGE_LINES_ALL);
    if (view->list_at + EXPECT_ENTRIES < view->list_count) {
        const struct view_entry *entry = &view->list[view->list_at + EXPECT_ENTRIES];
        __builtin_prefetch(&a->hash[entry->page], 1);
        expect_lines(a, entry->page, entry->patch | entry->due);
    }
}

uint64_t view_patch(struct view *view, uint64_t page)
{
    const struct view_entry *entry = entry_of(view, page);
    return entry == NULL ? PAGE_LINES_ALL : entry->patch;
}

uint64_t view_next_gone(const struct view *view, uint64_t from)
{
    return pageset_next(&view->gone, from, view->arena->pages);
}

/* bytes: of the view's page. */
static void entry_hash(struct view *view, struct view_entry *entry, const uint8_t *bytes)
{
    struct arena *a = view->arena;
    uint64_t page = entry->page;
    entry->hash += page_lines_hash(bytes, entry->due);
    entry->due = 0;
    uint64_t share = page_share(page, entry->hash);
    view->digest += share;
    /* Without a copy the page is still the same, and the arena needn't hash it again. */
    if (bytes == a->base + (page << PAGE_SHIFT) && pageset_has(&a->unhashed, page)) {
        a->hash[page] = entry->hash;
        a->digest += share;
        pageset_remove(&a->unhashed, page);
    }
}

uint64_t view_hash_page(struct view *view, uint64_t page, const uint8_t *bytes)
{
    struct view_entry *entry = entry_of(view, page);
    if (entry == NULL) {
        return page_hash(bytes);
    }
    if (entry->due != 0) {
        entry_hash(view, entry, bytes);
    }
    return entry->hash;
}

uint64_t view_digest(struct view *view)
{
    for (size_t i = 0; i < view->list_count; i++) {
        struct view_entry *entry = &view->list[i];
        const uint8_t *bytes = entry->due == 0 ? NULL : view_page(view, entry->page);
        if (bytes != NULL) {
            entry_hash(view, entry, bytes);
        }
    }
    return view->digest;
}

void view_thaw(struct view *view, uint64_t page)
{
    pageset_remove(&view->present, page);
    pageset_remove(pageset_has(&view->part, page) ? &view->part : &view->whole, page);
}
