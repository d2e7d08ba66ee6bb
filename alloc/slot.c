/* The slot table. A slot page is numbered once and for all; freeing bumps a slot's generation and
 * retires the slot when the generations are used up, and a page whose slots are all retired leaves
 * its frame to a new page. */
#include <string.h>

#include "alloc/small.h"

#define NEXT_MASK (SLOT_PAGE_QUEUED - 1)

static inline struct slot_page *page_edit(struct heap *h, uint64_t page)
{
    int64_t frame = slot_frame(h, page);
    assert(frame >= 0);
    return (struct slot_page *)arena_write_line(&h->arena, slot_frame_address(h, (uint64_t)frame));
}

static inline const struct slot_page *page_get(const struct heap *h, uint64_t page)
{
    int64_t frame = slot_frame(h, page);
    assert(frame >= 0);
    return (const struct slot_page *)arena_at(&h->arena, slot_frame_address(h, (uint64_t)frame));
}

/* A page that takes 510 slots into use: a frame, and with every 1024th a page of the directory. */
static int page_new(struct heap *h)
{
    const struct heap_header *hd = header(h);
    uint32_t page = hd->slot_pages;
    uint32_t frame = hd->slot_frame_free;
    if (page >= h->regions.slot_pages_max ||
        (frame == 0 && hd->slot_frames >= h->regions.frames_max)) {
        return ERR_NOSPACE;
    }
    uint64_t directory_at = h->regions.directory_at + (uint64_t)page * 4;
    uint64_t pages = (uint64_t)(frame == 0) + (page % (PAGE_BYTES / 4) == 0);
    int rv = pages == 0 ? 0 : space_take_pages(h, pages);
    if (rv == 0) {
        rv = arena_commit(&h->arena, directory_at, 4);
    }
    if (rv == 0 && frame != 0) {
        rv = heap_load(h, slot_frame_address(h, frame - 1), PAGE_BYTES);
    }
    if (rv == 0) {
        rv = arena_commit(
            &h->arena, slot_frame_address(h, frame != 0 ? frame - 1 : hd->slot_frames), PAGE_BYTES);
    }
    if (rv != 0) {
        return rv;
    }
    struct heap_header *edit = header_edit(h);
    if (frame != 0) {
        frame--;
        edit->slot_frame_free =
            (uint32_t) * (const uint64_t *)arena_at(&h->arena, slot_frame_address(h, frame));
        edit->slot_frame_free_count--;
    } else {
        frame = edit->slot_frames++;
    }
    edit->slot_pages++;
    edit->slot_current = page + 1;
    h->slot_page = NULL;
    *(uint32_t *)arena_write(&h->arena, directory_at, 4) = frame + 1;
    struct slot_page *p =
        (struct slot_page *)arena_write(&h->arena, slot_frame_address(h, frame), PAGE_BYTES);
    memset(p, 0, PAGE_BYTES);
    p->free_count = SLOTS_USABLE;
    p->fresh = SLOT_FIRST;
    p->page = page;
    return 0;
}

/* The oldest page of the queue, or a new one, becomes the current page. */
static int page_next(struct heap *h)
{
    uint32_t queued = header(h)->slot_queue_head;
    if (queued == 0) {
        return page_new(h);
    }
    int rv = slot_load(h, (uint64_t)(queued - 1) * SLOTS_PER_PAGE);
    if (rv != 0) {
        return rv;
    }
    struct slot_page *p = page_edit(h, queued - 1);
    struct heap_header *hd = header_edit(h);
    hd->slot_queue_head = p->next & NEXT_MASK;
    if (hd->slot_queue_head == 0) {
        hd->slot_queue_tail = 0;
    }
    hd->slot_queue_count--;
    p->next = 0;
    hd->slot_current = queued;
    h->slot_page = NULL;
    return 0;
}

int slot_prepare(struct heap *h, uint64_t *slot)
{
    uint32_t current = header(h)->slot_current;
    if (current != 0) {
        int rv = slot_load(h, (uint64_t)(current - 1) * SLOTS_PER_PAGE);
        if (rv != 0) {
            return rv;
        }
    }
    const struct slot_page *p = current == 0 ? NULL : page_get(h, current - 1);
    if (p == NULL || p->free_count == 0) {
        int rv = page_next(h);
        if (rv != 0) {
            return rv;
        }
        current = header(h)->slot_current;
        p = page_get(h, current - 1);
    }
    assert(p->free_count > 0);
    int64_t frame = slot_frame(h, current - 1);
    h->slot_page =
        (struct slot_page *)(void *)(h->arena.base + slot_frame_address(h, (uint64_t)frame));
    *slot = (uint64_t)(current - 1) * SLOTS_PER_PAGE + (p->head != 0 ? p->head : p->fresh);
    return 0;
}

/* A slot that exists, marked. */
static struct slot_at slot_edit(struct heap *h, uint64_t slot)
{
    struct slot_at at = slot_locate(h, slot);
    assert(at.page != NULL);
    slot_mark(h, at.entry);
    return at;
}

uint32_t slot_take(struct heap *h, uint64_t slot, enum slot_state state, uint64_t place)
{
    struct slot_at at = slot_edit(h, slot);
    assert(state == SLOT_LIVE || state == SLOT_LEASED);
    assert(slot % SLOTS_PER_PAGE == (at.page->head != 0 ? at.page->head : at.page->fresh));
    return slot_bind(&at, state, place);
}

void slot_set(struct heap *h, uint64_t slot, enum slot_state state, uint64_t place)
{
    struct slot_at at = slot_locate(h, slot);
    assert(at.page != NULL);
    slot_mark_word(h, at.entry);
    assert(slot_is_bound(*at.entry));
    *at.entry = slot_word(slot_word_generation(*at.entry), state, place);
    assert(slot_is_bound(*at.entry));
}

/* All its slots are retired: the frame is free for another page. */
static void page_leave(struct heap *h, uint64_t page)
{
    uint64_t frame = (uint64_t)slot_frame(h, page);
    struct heap_header *hd = header_edit(h);
    memset(arena_write(&h->arena, slot_frame_address(h, frame), PAGE_BYTES), 0, PAGE_BYTES);
    *(uint64_t *)arena_write(&h->arena, slot_frame_address(h, frame), 8) = hd->slot_frame_free;
    hd->slot_frame_free = (uint32_t)frame + 1;
    hd->slot_frame_free_count++;
    *(uint32_t *)arena_write(&h->arena, h->regions.directory_at + page * 4, 4) = 0;
    hd->slot_retired++;
    if (hd->slot_current == page + 1) {
        hd->slot_current = 0;
        h->slot_page = NULL;
    }
}

/* A page with many free entries waits its turn at the end of the queue: first in, first out, so
 * that the generations of all pages wear alike. */
static void page_enqueue(struct heap *h, struct slot_page *p)
{
    struct heap_header *hd = header_edit(h);
    p->next = SLOT_PAGE_QUEUED;
    if (hd->slot_queue_tail != 0) {
        page_edit(h, hd->slot_queue_tail - 1)->next = SLOT_PAGE_QUEUED | (p->page + 1);
    } else {
        hd->slot_queue_head = p->page + 1;
    }
    hd->slot_queue_tail = p->page + 1;
    hd->slot_queue_count++;
}

void slot_page_join(struct heap *h, struct slot_page *p)
{
    /* With many retired slots a page may never have SLOT_PAGE_REUSE free ones: then all that can be
     * is enough. */
    uint32_t usable = SLOTS_USABLE - p->retired;
    uint32_t enough = usable < SLOT_PAGE_REUSE ? usable : SLOT_PAGE_REUSE;
    if (p->free_count >= enough && (p->next & SLOT_PAGE_QUEUED) == 0 &&
        header(h)->slot_current != p->page + 1) {
        page_enqueue(h, p);
    }
}

void slot_retire(struct heap *h, struct slot_page *p, uint64_t *entry)
{
    *entry = slot_word(SLOT_GENERATION_MAX, SLOT_RETIRED, 0);
    p->retired++;
    if (p->retired == SLOTS_USABLE) {
        page_leave(h, p->page); /* no entry is free, so it isn't in the queue */
        return;
    }
    slot_page_join(h, p);
}

void slot_release(struct heap *h, uint64_t slot)
{
    struct slot_at at = slot_edit(h, slot);
    assert(slot_is_bound(*at.entry));
    slot_unbind(h, &at, *at.entry);
}
