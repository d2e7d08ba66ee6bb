/* What a small object costs when nothing special happens: its slot and its slab are looked up once,
 * marked once each, and changed in place. Inlined into object.c; slot.c and slab.c have what is
 * rare, and the same as calls for everybody else. */
#ifndef CAIRN_ALLOC_SMALL_H
#define CAIRN_ALLOC_SMALL_H

#include "alloc/engine.h"

/* All of the page may be written. Asked first, it spares the usual case, which is that of disk
 * mode, computing which lines they are. */
static inline bool page_is_open(const struct heap *h, uint64_t page)
{
    return __builtin_expect(h->arena.lines[page] == PAGE_LINES_ALL, 1);
}

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

/* The same for a slot that exists: an entry of the table names it. */
static inline uint64_t *slot_entry(const struct heap *h, uint64_t slot)
{
    uint64_t at = h->regions.directory_at + slot / SLOTS_PER_PAGE * sizeof(uint32_t);
    uint64_t frame = *(const uint32_t *)arena_at(&h->arena, at) - (uint64_t)1;
    return (uint64_t *)(void *)(h->arena.base + slot_frame_address(h, frame)) +
           slot % SLOTS_PER_PAGE;
}
static inline uint64_t slot_page_of(const struct heap *h, const uint64_t *entry) /* of the arena */
{
    return (uint64_t)((const uint8_t *)entry - h->arena.base) >> PAGE_SHIFT;
}

/* The slot that the current page hands out next, if it is known and has any; *at: none. */
static inline uint64_t slot_next(const struct heap *h, struct slot_at *at)
{
    struct slot_page *p = h->slot_page;
    if (__builtin_expect(p == NULL || p->free_count == 0, 0)) {
        *at = (struct slot_at){NULL, NULL};
        return 0;
    }
    uint32_t entry = p->head != 0 ? p->head : p->fresh;
    *at = (struct slot_at){p, (uint64_t *)(void *)p + entry};
    return (uint64_t)p->page * SLOTS_PER_PAGE + entry;
}

#define SLOT_HEAD_LINE ((uint64_t)1) /* of a slot page */
/* The entry alone, or with it the page's header. */
static inline void slot_mark_word(struct heap *h, const uint64_t *entry)
{
    (void)arena_write_line(&h->arena, (uint64_t)((const uint8_t *)entry - h->arena.base));
}
static inline void slot_mark(struct heap *h, const uint64_t *entry)
{
    uint64_t address = (uint64_t)((const uint8_t *)entry - h->arena.base);
    if (!page_is_open(h, address >> PAGE_SHIFT)) {
        arena_mark(&h->arena, address >> PAGE_SHIFT, arena_line(address) | SLOT_HEAD_LINE);
    }
}

static inline bool slot_word_is(uint64_t word, uint32_t generation, enum slot_state state)
{
    return (word & ((1u << (14 + SLOT_STATE_BITS)) - 1)) == slot_word(generation, state, 0);
}
static inline bool slot_is_bound(uint64_t word)
{
    const uint32_t bound = 1u << SLOT_LIVE | 1u << SLOT_LEASED | 1u << SLOT_DEAD |
                           1u << SLOT_PREPARED | 1u << SLOT_SPARE;
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
void slot_retire(struct heap *h, struct slot_page *p, uint64_t *entry);
/* The page has got free entries: does it join the queue? */
void slot_page_join(struct heap *h, struct slot_page *p);

/* slot_release() of a slot that is marked, and has this word. */
static inline void slot_unbind(struct heap *h, const struct slot_at *at, uint64_t word)
{
    struct slot_page *p = at->page;
    uint32_t generation = slot_word_generation(word);
    if (__builtin_expect(generation == SLOT_GENERATION_MAX, 0)) {
        slot_retire(h, p, at->entry);
        return;
    }
    *at->entry = slot_word(generation + 1, SLOT_FREE, p->head);
    p->head = (uint16_t)((uintptr_t)at->entry % PAGE_BYTES / sizeof *at->entry);
    uint32_t free_count = p->free_count + 1u;
    p->free_count = (uint16_t)free_count;
    /* Each time it passes the number; with many retired slots it may never have so many. */
    if (__builtin_expect(
            free_count == SLOT_PAGE_REUSE || p->retired > SLOTS_USABLE - SLOT_PAGE_REUSE, 0)) {
        slot_page_join(h, p);
    }
}

/* ---- spares ---- */

static inline bool object_is_plain(const struct object_header *o) /* narrow, without flags */
{
    return (o->word & (OBJECT_WIDE | ~(uint64_t)0 << OBJECT_FLAGS_SHIFT)) == 0;
}

static inline struct spares *spares_edit(struct heap *h, uint32_t class_number)
{
    static_assert(sizeof(struct spares) == LINE_BYTES, "a line of a class");
    arena_mark(&h->arena, SPARES_AT >> PAGE_SHIFT, (uint64_t)1 << class_number);
    return spares_of(h, class_number);
}

/* For the slot that has this word. */
static inline bool spare_has_room(const struct heap *h, uint32_t class_number, uint64_t word)
{
    return spares_of(h, class_number)->count < SPARES_MAX &&
           slot_word_generation(word) != SLOT_GENERATION_MAX && !spares_are_dear(h);
}

#define SPARE_STATES ((uint64_t)(SLOT_SPARE - SLOT_LIVE) << 14) /* between their words */

/* All is marked. A live slot, which has this word, and its block become a spare. */
static inline void spare_push(struct spares *k, uint64_t slot, uint64_t *entry, uint64_t word)
{
    uint64_t count = k->count;
    *entry = word + 1 /* generation */ + SPARE_STATES;
    k->slots[count] = slot;
    k->count = count + 1;
}

/* All is marked. Of count + 1 spares the newest, whose slot has this word, becomes live. */
static inline void spare_pop(struct spares *k, uint64_t count, uint64_t *entry, uint64_t word)
{
    assert(slot_word_state(word) == SLOT_SPARE);
    *entry = word - SPARE_STATES;
    k->slots[count] = 0;
    k->count = count;
}

/* ---- slabs ---- */

static inline uint64_t slab_map_address(uint64_t slab, uint32_t word)
{
    return slab + sizeof(struct slab) + word * sizeof(uint64_t);
}
/* Marks a slab's header and one word of its bitmap. */
void slab_mark_lines(struct heap *h, uint64_t address, uint32_t word);
static inline void slab_mark(struct heap *h, uint64_t address, uint32_t word)
{
    uint64_t at = slab_map_address(address, word);
    if (!page_is_open(h, at >> PAGE_SHIFT) || (at ^ address) >> PAGE_SHIFT != 0) {
        slab_mark_lines(h, address, word);
    }
}

/* The slab, which is marked, has no free block any more; or its free blocks have become one, its
 * share, or all. */
void slab_is_full(struct heap *h, struct slab *s);
void slab_has_room(struct heap *h, struct slab *s, uint64_t granule);
#define SLAB_SHARE 64u /* of its blocks: with less than that free a slab is left alone */
/* A class that has no current slab gets one. ERR_NOSPACE, ERR_NOMEM. */
int slab_choose(struct heap *h, enum pool pool, uint32_t class_number);
/* Sets the cursor of a class of objects. ERR_NOSPACE, ERR_NOMEM. */
int cursor_open(struct heap *h, uint32_t class_number);

static inline void blocks_count(struct heap *h, enum pool pool, uint64_t blocks, uint64_t bytes)
{
    struct heap_header *hd = header_counts(h);
    hd->block_count[pool] += blocks;
    hd->block_bytes[pool] += bytes;
}

/* The block that the slab, which has one, hands out next. */
static inline uint32_t slab_next(const struct slab *s)
{
    uint32_t word = (uint32_t)__builtin_ctz(s->roomy);
    return word * 64 + (uint32_t)__builtin_ctzll(~s->map[word]);
}
/* It is handed out, and all is marked. Is the slab full then, slab_is_full() follows. */
static inline void slab_bind(struct heap *h, struct slab *s, enum pool pool, uint32_t class_number,
                             uint32_t block)
{
    uint32_t roomy = s->roomy;
    uint64_t map = s->map[block / 64];
    map |= map + 1; /* its lowest zero */
    s->map[block / 64] = map;
    roomy &= roomy - (map == ~(uint64_t)0); /* the lowest one */
    s->roomy = roomy;
    s->used++;
    h->room.blocks[pool][class_number]--;
    blocks_count(h, pool, 1, slab_classes[class_number].bytes);
}

/* Narrow objects, as object_shape_of() has it. */
#define SMALL_HEAD      ((uint64_t)sizeof(struct object_header))
#define SMALL_BYTES_MAX (OBJECT_NARROW_BYTES_MAX - SMALL_HEAD)
static_assert(((uint64_t)SLAB_GRANULES_MAX << GRANULE_SHIFT_MIN) >= OBJECT_NARROW_BYTES_MAX,
              "a narrow object's block is in a slab");

/* Magic, class and pool, which are the first 48 bits, at once. */
static inline bool slab_is(const struct slab *s, enum pool pool, uint32_t class_number)
{
    static_assert(offsetof(struct slab, class) == 4, "media format");
    static_assert(offsetof(struct slab, pool) == 5, "media format");
    uint64_t want = BLOCK_MAGIC_SLAB | (uint64_t)class_number << 32 | (uint64_t)pool << 40;
    return (load_u64(s) ^ want) << 16 == 0;
}

/* Where a block of a slab is. */
struct block_at {
    struct slab *slab;
    uint64_t granule;
    uint32_t block; /* number in the slab */
};
static inline struct block_at block_in(const struct heap *h, uint64_t granule, uint64_t place)
{
    uint64_t at = granule << h->regions.granule_shift;
    struct slab *s = (struct slab *)(void *)(h->arena.base + h->regions.data_at + at);
    uint64_t offset = place_offset(place) - at - s->first;
    uint64_t block = offset * slab_classes[s->class].inverse >> 32;
    return (struct block_at){s, granule, (uint32_t)block};
}

/* slab_of(), which is noted for the page. */
uint64_t slab_search(struct heap *h, uint64_t place);

/* By the page that it begins in, if one slab has all of that. Else the note is of the one before:
 * then a block behind the last of that. */
static inline struct block_at block_locate(struct heap *h, uint64_t place)
{
    uint32_t noted = h->slab_pages[place_offset(place) >> PAGE_SHIFT];
    if (__builtin_expect(noted != 0, 1)) {
        struct block_at at = block_in(h, noted - 1, place);
        if (__builtin_expect(at.block < at.slab->blocks, 1)) {
            return at;
        }
    }
    return block_in(h, slab_search(h, place), place);
}

/* What freeing an object changes: its slot, and the slab that its block is in. */
void slot_and_slab_mark_lines(struct heap *h, uint64_t slot, uint64_t slab, uint32_t word);
static inline void slot_and_slab_mark(struct heap *h, const uint64_t *entry,
                                      const struct block_at *b)
{
    uint64_t slot = (uint64_t)((const uint8_t *)entry - h->arena.base);
    uint64_t slab = (uint64_t)((const uint8_t *)b->slab - h->arena.base);
    uint64_t map = slab_map_address(slab, b->block / 64);
    if (!page_is_open(h, slot >> PAGE_SHIFT) || !page_is_open(h, slab >> PAGE_SHIFT) ||
        (map ^ slab) >> PAGE_SHIFT != 0) {
        slot_and_slab_mark_lines(h, slot, slab, b->block / 64);
    }
}

/* block_free() of a block in a slab, which is marked. */
static inline void block_give(struct heap *h, enum pool pool, uint64_t place, struct block_at b)
{
    struct slab *s = b.slab;
    uint32_t class_number = place_class(place);
    assert(slab_is(s, pool, class_number));
    uint32_t word = b.block / 64;
    uint64_t bit = (uint64_t)1 << (b.block & 63);
    uint64_t map = s->map[word];
    assert((map & bit) != 0);
    s->map[word] = map & ~bit;
    s->roomy |= (uint32_t)1 << word;
    uint32_t used = s->used - 1u;
    s->used = (uint16_t)used;
    h->room.blocks[pool][class_number]++;
    blocks_count(h, pool, (uint64_t)-1, -(uint64_t)slab_classes[class_number].bytes);
    uint32_t free_count = s->blocks - used;
    if (__builtin_expect(free_count == 1 || free_count == s->blocks / SLAB_SHARE || used == 0, 0)) {
        slab_has_room(h, s, b.granule);
    }
}

/* ---- objects ---- */

static inline void object_set_version(struct heap *h, uint64_t place, uint64_t version)
{
    static_assert(PLACE_UNIT % sizeof(struct object_header) == 0, "within a line");
    struct object_header *head = arena_write_line(&h->arena, block_address(h, place));
    head->version = version;
}

#endif
