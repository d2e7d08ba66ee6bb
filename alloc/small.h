/* What a small object costs when nothing special happens: its slot and its slab are looked up once,
 * marked once each, and changed in place. Inlined into object.c; slot.c and slab.c have what is
 * rare, and the same as calls for everybody else. */
#ifndef CAIRN_ALLOC_SMALL_H
#define CAIRN_ALLOC_SMALL_H

#include "alloc/engine.h"

/* ---- slots ---- */

#define SLOTS_USABLE (SLOTS_PER_PAGE - SLOT_FIRST)

/* Where a slot is. Stays right until its page leaves the table. */
struct slot_at {
    struct slot_page *page; /* NULL: there is no such slot */
    uint64_t *entry;
};

/* For reading; slot_mark() comes before a change. The page is loaded. */
static inline struct slot_at slot_locate(const struct heap *h, uint64_t slot)
{
    int64_t frame = slot_frame(h, slot / SLOTS_PER_PAGE);
    if (frame < 0 || slot % SLOTS_PER_PAGE < SLOT_FIRST) {
        return (struct slot_at){NULL, NULL};
    }
    uint8_t *page = h->arena.base + slot_frame_address(h, (uint64_t)frame);
    assert_slow(arena_is_loaded(&h->arena, slot_frame_address(h, (uint64_t)frame) >> PAGE_SHIFT));
    return (struct slot_at){(struct slot_page *)(void *)page,
                            (uint64_t *)(void *)page + slot % SLOTS_PER_PAGE};
}

/* slot_prepare(), and where the slot is. */
static inline int slot_next(struct heap *h, uint64_t *slot, struct slot_at *at)
{
    uint32_t current = header(h)->slot_current;
    if (__builtin_expect(current != 0 && heap_is_loaded(h), 1)) {
        uint64_t first = (uint64_t)(current - 1) * SLOTS_PER_PAGE;
        *at = slot_locate(h, first + SLOT_FIRST);
        if (at->page->free_count != 0) {
            uint32_t entry = at->page->head != 0 ? at->page->head : at->page->fresh;
            *slot = first + entry;
            at->entry = (uint64_t *)(void *)at->page + entry;
            return 0;
        }
    }
    int rv = slot_prepare(h, slot);
    if (rv == 0) {
        *at = slot_locate(h, *slot);
    }
    return rv;
}

/* The entry alone, or with it the page's header. */
static inline void slot_mark_entry(struct heap *h, const struct slot_at *at)
{
    uint64_t address = (uint64_t)((const uint8_t *)at->entry - h->arena.base);
    (void)arena_write_line(&h->arena, address);
}
static inline void slot_mark(struct heap *h, const struct slot_at *at)
{
    uint64_t address = (uint64_t)((const uint8_t *)at->entry - h->arena.base);
    arena_mark(&h->arena, address >> PAGE_SHIFT,
               (uint64_t)1 << (address >> LINE_SHIFT & 63) | 1 /* the header's line */);
}

static inline bool slot_is_bound(uint64_t word)
{
    const uint32_t bound =
        1u << SLOT_LIVE | 1u << SLOT_LEASED | 1u << SLOT_DEAD | 1u << SLOT_PREPARED;
    return (bound >> slot_word_state(word) & 1) != 0;
}

/* slot_take() of a slot that is marked: the one that the page hands out next. */
static inline uint32_t slot_bind(const struct slot_at *at, enum slot_state state, uint64_t place)
{
    struct slot_page *p = at->page;
    uint64_t word = *at->entry;
    uint32_t generation = 1;
    assert(slot_word_state(word) == SLOT_FREE);
    if (p->head != 0) {
        generation = slot_word_generation(word);
        p->head = (uint16_t)slot_word_place(word);
    } else {
        p->fresh++;
    }
    p->free_count--;
    *at->entry = slot_word(generation, state, place);
    return generation;
}

/* What slot_unbind() leaves to others: the generations are used up. */
void slot_retire(struct heap *h, const struct slot_at *at);
/* The page has got free entries: does it join the queue? */
void slot_page_join(struct heap *h, struct slot_page *p);

/* slot_release() of a slot that is marked. */
static inline void slot_unbind(struct heap *h, const struct slot_at *at)
{
    struct slot_page *p = at->page;
    uint64_t word = *at->entry;
    uint32_t generation = slot_word_generation(word);
    assert(slot_is_bound(word));
    if (__builtin_expect(generation == SLOT_GENERATION_MAX, 0)) {
        slot_retire(h, at);
        return;
    }
    *at->entry = slot_word(generation + 1, SLOT_FREE, p->head);
    p->head = (uint16_t)((uintptr_t)at->entry % PAGE_BYTES / sizeof *at->entry);
    p->free_count++;
    /* A page with many retired slots may never have so many free ones: see slot_page_join(). */
    uint32_t many = (uint32_t)(p->free_count + p->retired >= (int)SLOT_PAGE_REUSE);
    if ((many & ~p->next >> 31) != 0) { /* one branch: the two are rarely true together */
        slot_page_join(h, p);
    }
}

/* ---- slabs ---- */

/* Marks a slab's header and one word of its bitmap. */
static inline void slab_mark(struct heap *h, uint64_t address, uint32_t word)
{
    static_assert(sizeof(struct slab) <= LINE_BYTES, "a granule begins with a line");
    uint64_t at = address + sizeof(struct slab) + word * sizeof(uint64_t);
    uint64_t page = address >> PAGE_SHIFT;
    uint64_t head = (uint64_t)1 << (address >> LINE_SHIFT & 63);
    uint64_t map = (uint64_t)1 << (at >> LINE_SHIFT & 63);
    if (__builtin_expect(at >> PAGE_SHIFT == page, 1)) {
        arena_mark(&h->arena, page, head | map);
        return;
    }
    arena_mark(&h->arena, page, head);
    arena_mark(&h->arena, page + 1, map);
}

/* The slab, which is marked, has no free block any more, or has one again. */
void slab_is_full(struct heap *h, struct slab *s);
void slab_has_room(struct heap *h, struct slab *s, uint64_t granule);
/* Adds a slab to a class that has no free block. ERR_NOSPACE, ERR_NOMEM. */
int slab_new(struct heap *h, enum pool pool, uint32_t class_number);

static inline void blocks_count(struct heap *h, enum pool pool, uint64_t blocks, uint64_t bytes)
{
    struct heap_header *hd = header_counts(h);
    hd->block_count[pool] += blocks;
    hd->block_bytes[pool] += bytes;
}

/* A block of a slab that has a free one. Its bytes are what they are. */
static inline uint64_t slab_take(struct heap *h, enum pool pool, uint32_t class_number,
                                 uint64_t granule)
{
    uint64_t offset = granule << h->regions.granule_shift;
    uint64_t address = h->regions.data_at + offset;
    struct slab *s = (struct slab *)(void *)(h->arena.base + address);
    assert(s->roomy != 0);
    uint32_t word = (uint32_t)__builtin_ctz(s->roomy);
    uint64_t map = s->map[word];
    uint32_t block = word * 64 + (uint32_t)__builtin_ctzll(~map);
    assert(block < s->blocks);
    slab_mark(h, address, word);
    map |= map + 1; /* its lowest zero */
    s->map[word] = map;
    s->roomy &= ~((uint32_t)(map == ~(uint64_t)0) << word);
    s->used++;
    h->room.blocks[pool][class_number]--;
    uint32_t bytes = class_bytes(class_number);
    blocks_count(h, pool, 1, bytes);
    uint64_t place = place_make(offset + s->first + block * bytes, class_number);
    if (s->used == s->blocks) {
        slab_is_full(h, s);
    }
    return place;
}

/* block_alloc_small() */
static inline int block_take(struct heap *h, enum pool pool, uint64_t bytes, uint64_t *place)
{
    uint32_t class_number = class_of(bytes);
    const struct slab_list *list = header_slabs(h, pool, class_number);
    if (__builtin_expect(list->head == 0, 0)) {
        int rv = slab_new(h, pool, class_number);
        if (rv != 0) {
            *place = 0;
            return rv;
        }
    }
    *place = slab_take(h, pool, class_number, list->head - 1);
    return 0;
}

/* block_free_small() */
static inline void block_give(struct heap *h, enum pool pool, uint64_t place, uint64_t granule)
{
    uint64_t at = granule << h->regions.granule_shift;
    uint64_t address = h->regions.data_at + at;
    struct slab *s = (struct slab *)(void *)(h->arena.base + address);
    uint32_t class_number = place_class(place);
    assert(s->magic == BLOCK_MAGIC_SLAB);
    assert(s->pool == pool);
    assert(s->class == class_number);
    uint64_t offset = place_offset(place) - at - s->first;
    uint32_t block = (uint32_t)(offset * slab_classes[class_number].inverse >> 32);
    uint32_t word = block / 64;
    uint64_t bit = (uint64_t)1 << (block & 63);
    slab_mark(h, address, word);
    assert((s->map[word] & bit) != 0);
    s->map[word] &= ~bit;
    s->roomy |= (uint32_t)1 << word;
    s->used--;
    h->room.blocks[pool][class_number]++;
    blocks_count(h, pool, (uint64_t)-1, -(uint64_t)class_bytes(class_number));
    if (s->used + 1 == s->blocks || s->used == 0) {
        slab_has_room(h, s, granule);
    }
}

#endif
