/* What the files of the engine share. Nobody outside alloc/ includes this. */
#ifndef CAIRN_ALLOC_ENGINE_H
#define CAIRN_ALLOC_ENGINE_H

#include "alloc/arena.h"
#include "alloc/heap.h"
#include "alloc/heap_layout.h"
#include "base/assert.h"

/* Where the regions of the arena's address space start, in bytes: header page, spares, slot
 * directory, granule maps, slot frames, data. A function of bytes_max and granule_shift alone. The
 * regions are sized for the worst case; what counts against bytes_max is what they use. */
struct heap_regions {
    uint32_t granule_shift;
    uint64_t directory_at, granules_at, frames_at, data_at, end;
    uint32_t slot_pages_max, frames_max;
    uint64_t granules_max;
    uint64_t spares_until; /* used granules up to which spares are made */
};
/* granule_shift 0: the smallest that bytes_max allows. */
void heap_regions_of(uint64_t bytes_max, uint32_t granule_shift, struct heap_regions *out);
bool heap_granule_shift_is_valid(uint64_t bytes_max, uint32_t granule_shift); /* 0 is */

/* Volatile index over the granule maps: the longest free run below each node (space.c). */
struct space;

/* How many blocks are free in all slabs of a pool and class: the sum of what the partial ones say,
 * kept beside the arena for compaction. */
struct slab_room {
    bool known; /* counted since the heap was opened; else the numbers are differences */
    uint64_t blocks[POOLS][SLAB_CLASSES];
};

/* The current slab of a class, looked up: what follows from the arena as long as it stays that. */
struct slab_cursor {
    struct slab *slab;                      /* NULL: nobody has looked */
    uint8_t *blocks;                        /* the first one */
    uint64_t place;                         /* its */
    uint64_t bytes;                         /* of each */
    const uint64_t *lines_head, *lines_map; /* of the pages of its header and of the bitmap's end */
};

#define MAP_PLACES          256u
#define MAP_PLACES_PER_LINE 8u

struct heap {
    struct arena arena;
    struct heap_regions regions;
    struct space *space;
    struct slab_room room;
    /* Per page of the data: granule + 1 of the slab that its first byte lies in. 0: of none, or of
     * one that nobody has noted. No part of the state (alloc/slab.c). */
    uint32_t *slab_pages;
    struct slab_cursor cursors[SLAB_CLASSES]; /* of POOL_OBJECTS */
    struct slot_page *slot_page;              /* the current one; NULL: nobody has looked */
    uint64_t uid;                             /* the header's, where every entry finds it near */
    uint64_t entry_time;
    uint64_t work; /* heap_work() */
    bool in_entry;
    /* Where keys of maps were found last, by their hash; 0: nowhere (alloc/map.c). A short cut and
     * no part of the state: each place is a living node's, whose key is compared. */
    uint64_t *map_places; /* in map_places_room, at the first line that begins there: so that a
                             look-up in a const heap can note it */
    uint64_t map_places_room[MAP_PLACES + MAP_PLACES_PER_LINE - 1];
};

struct arena *heap_arena(struct heap *heap);
uint64_t heap_page_count(const struct heap *heap);
/* Takes over the pages of a loaded arena (moved out of *arena) after checking every structure. *e
 * says what is wrong. */
int heap_adopt(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e);
/* The same for the pages of our own image, which are loaded when they are wanted. */
int heap_adopt_own(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e);
bool heap_bytes_max_is_valid(uint64_t bytes_max);

static inline const struct heap_header *header(const struct heap *h)
{
    return (const struct heap_header *)(const void *)h->arena.base;
}

/* ---- adopt.c: what a call will read, where it may not be in memory yet ------------------------
 *
 * Before anything changes: each returns 0 or a fatal code (ERR_CORRUPT, ERR_IO, ERR_NOMEM), which
 * is heap_damage()'s from then on. Nothing but a look at a counter when all is loaded. */

static inline int heap_load(const struct heap *h, uint64_t address, uint64_t len)
{
    return arena_load_now((struct arena *)(uintptr_t)&h->arena, address, len);
}
static inline bool heap_is_loaded(const struct heap *h)
{
    return __builtin_expect(h->arena.unloaded_count == 0, 1);
}
int heap_load_all(const struct heap *h, struct err_text *e);
/* Does the page hold something that is loaded when a heap is opened? As far as is known while not
 * all is loaded. */
bool heap_page_steers(const struct heap *h, uint64_t page);
/* The page of a slot. */
__attribute__((cold)) int slot_load_slow(const struct heap *h, uint64_t slot);
static inline int slot_load(const struct heap *h, uint64_t slot)
{
    return heap_is_loaded(h) ? 0 : slot_load_slow(h, slot);
}
/* An object's header and table. */
__attribute__((cold)) int object_load_slow(const struct heap *h, uint64_t place);
static inline int object_load(const struct heap *h, uint64_t place)
{
    return heap_is_loaded(h) ? 0 : object_load_slow(h, place);
}
/* What else freeing or resizing it reads: slabs of its blocks, and of those that its newest record
 * has. Its slot page is loaded. */
__attribute__((cold)) int object_load_all_slow(const struct heap *h, uint64_t place);
static inline int object_load_all(const struct heap *h, uint64_t place)
{
    return heap_is_loaded(h) ? 0 : object_load_all_slow(h, place);
}
int undo_load_chunks(const struct heap *h, uint64_t place);
/* Of an internal extent: the header, if it is a slab. */
int slab_load_slow(const struct heap *h, uint64_t granule);
static inline int slab_load(const struct heap *h, uint64_t granule)
{
    return heap_is_loaded(h) ? 0 : slab_load_slow(h, granule);
}
/* What moving an extent, or the blocks of a slab, reads. */
int extent_load_slow(const struct heap *h, uint64_t granule);
static inline int extent_load(const struct heap *h, uint64_t granule)
{
    return heap_is_loaded(h) ? 0 : extent_load_slow(h, granule);
}
/* All before `maps`. */
static inline struct heap_header *header_edit(struct heap *h)
{
    return (struct heap_header *)arena_write(&h->arena, 0, offsetof(struct heap_header, maps));
}
/* Only index .. dead_bytes of it: what nearly every command changes. heap_begin() marks it for the
 * entry, in which no view is opened; then header_counts() will do. */
#define HEADER_COUNTS_FROM  offsetof(struct heap_header, index)
#define HEADER_COUNTS_BYTES (offsetof(struct heap_header, slot_frames) - HEADER_COUNTS_FROM)
static inline struct heap_header *header_counts_edit(struct heap *h)
{
    (void)arena_write(&h->arena, HEADER_COUNTS_FROM, HEADER_COUNTS_BYTES);
    return (struct heap_header *)h->arena.base;
}
static inline struct heap_header *header_counts(struct heap *h)
{
    assert_slow(
        arena_is_marked(&h->arena, 0, arena_lines(HEADER_COUNTS_FROM, HEADER_COUNTS_BYTES)));
    return (struct heap_header *)h->arena.base;
}
static inline struct map_root *header_map_edit(struct heap *h, enum heap_map map)
{
    return (struct map_root *)arena_write(
        &h->arena, offsetof(struct heap_header, maps) + map * sizeof(struct map_root),
        sizeof(struct map_root));
}
static inline const struct slab_list *header_slabs(const struct heap *h, enum pool pool,
                                                   uint32_t class_number)
{
    return &header(h)->slabs[pool][class_number];
}
static inline struct slab_list *header_slabs_edit(struct heap *h, enum pool pool,
                                                  uint32_t class_number)
{
    uint64_t at = offsetof(struct heap_header, slabs) +
                  (pool * (sizeof(header(h)->slabs[0]) / sizeof(struct slab_list)) + class_number) *
                      sizeof(struct slab_list);
    return (struct slab_list *)arena_write(&h->arena, at, sizeof(struct slab_list));
}

/* ---- space.c: extents of granules ------------------------------------------------------------ */

/* Builds the index from the granule maps. ERR_NOMEM. */
int space_open(struct heap *h);
void space_close(struct heap *h);
static inline uint64_t granule_address(const struct heap *h, uint64_t granule)
{
    return h->regions.data_at + (granule << h->regions.granule_shift);
}
/* At least `bytes` where they leave little over (space_index.h); reads as zero. Grows the data if
 * nothing fits. object: what it will hold (heap_layout.h). ERR_NOSPACE, ERR_NOMEM. */
int extent_alloc(struct heap *h, bool object, uint64_t bytes, uint64_t *granule);
/* The same for a caller that writes the first `filled` bytes: they are what they are. */
int extent_alloc_filled(struct heap *h, bool object, uint64_t bytes, uint64_t filled,
                        uint64_t *granule);
/* At the lowest place that fits, and only wholly below granule `limit`; never grows. False: there
 * is none. */
bool extent_alloc_below(struct heap *h, bool object, uint64_t bytes, uint64_t limit,
                        uint64_t *granule);
/* Where that would be. */
bool extent_fits_below(const struct heap *h, uint64_t bytes, uint64_t limit, uint64_t *granule);
bool extent_is_object(const struct heap *h, uint64_t granule);
void extent_free(struct heap *h, uint64_t granule);
/* It is near: what it reads and changes is likely to be far away, and each part of it somewhere
 * else, so all is asked for at once. */
void extent_prefetch(const struct heap *h, uint64_t granule);
/* Changes a used extent's size without moving it. New bytes read as zero. False: what is behind it
 * isn't free. Never fails when shrinking; never grows the data, since a lack of local memory must
 * not look like an answer (I2). */
bool extent_resize(struct heap *h, uint64_t granule, uint64_t bytes);
/* The extent now lies at `to`, below it, with only free granules between; its bytes are already
 * there. */
void extent_slide(struct heap *h, uint64_t granule, uint64_t to);
uint64_t extent_granules(const struct heap *h, uint64_t granule);
/* First used extent that starts at `from` or behind it; the number of granules of the data when
 * there is none. */
uint64_t extent_next(const struct heap *h, uint64_t from);
/* The same, of those that don't hold an object. */
uint64_t extent_next_internal(const struct heap *h, uint64_t from);
/* Last used extent that starts before `end`; UINT64_MAX when there is none. */
uint64_t extent_last_before(const struct heap *h, uint64_t end);
static inline const struct granules *granules_at(const struct heap *h, uint64_t word)
{
    return (const struct granules *)arena_at(&h->arena, h->regions.granules_at +
                                                            word * sizeof(struct granules));
}
/* The used extent that holds this granule, which is used. */
static inline uint64_t extent_of(const struct heap *h, uint64_t granule)
{
    uint64_t w = granule / 64;
    uint64_t starts = granules_at(h, w)->start & (~(uint64_t)0 >> (63 - (granule & 63)));
    while (starts == 0) {
        assert(w > 0);
        starts = granules_at(h, --w)->start;
    }
    return w * 64 + 63 - (uint64_t)__builtin_clzll(starts);
}
uint64_t space_granules(const struct heap *h); /* of the data as it is */
uint64_t space_used_between(const struct heap *h, uint64_t from, uint64_t to);
uint64_t space_largest_free(const struct heap *h); /* granules, without what could be grown */
/* Bytes that count against bytes_max. */
uint64_t space_bytes(const struct heap *h);
/* The most that data_bytes can become with the slots there are. */
uint64_t space_data_bytes_max(const struct heap *h);
/* Local memory of the index, for the data as it is. */
uint64_t space_index_bytes(const struct heap *h);
/* Takes `pages` pages for metadata out of the budget, from the tail of the data if need be. */
int space_take_pages(struct heap *h, uint64_t pages);
/* Gives up to `bytes` of the free tail back to the budget; returns how much. */
uint64_t space_trim(struct heap *h, uint64_t bytes);

/* ---- slab.c: blocks -------------------------------------------------------------------------- */

struct slab_class {
    uint32_t bytes;   /* of a block */
    uint32_t inverse; /* 2^32 / bytes, rounded up: offset * inverse >> 32 divides a multiple */
};
extern const struct slab_class slab_classes[SLAB_CLASSES];
/* Of blocks of narrow objects: by (bytes + 15) / 16. */
extern const uint8_t slab_class_narrow[OBJECT_NARROW_BYTES_MAX / 16 + 1];
static inline uint32_t class_of(uint64_t bytes)
{
    assert(bytes <= SLAB_BLOCK_BYTES_MAX);
    if (bytes <= 32) {
        return 0;
    }
    if (bytes <= 128) {
        return (uint32_t)((bytes + 15) / 16 - 2);
    }
    uint32_t n = (uint32_t)bytes - 1;
    uint32_t log = 31 - (uint32_t)__builtin_clz(n);
    if (bytes <= 1024) {
        return 7 + (log - 7) * 8 + ((n >> (log - 3)) & 7);
    }
    return 31 + (log - 10) * 4 + ((n >> (log - 2)) & 3);
}
static inline uint32_t class_bytes(uint32_t class_number)
{
    assert(class_number < SLAB_CLASSES);
    return slab_classes[class_number].bytes;
}
/* Blocks that fit in a slab and where the first is. */
uint32_t slab_shape(uint64_t slab_bytes, uint32_t class_number, uint32_t *first);

/* Larger blocks are extents. From eight granules on whole granules round up less than classes do,
 * and leave no half-filled slabs. */
static inline uint64_t slab_block_bytes_max(const struct heap *h)
{
    uint64_t bytes = (uint64_t)SLAB_GRANULES_MAX << h->regions.granule_shift;
    return bytes < SLAB_BLOCK_BYTES_MAX ? bytes : SLAB_BLOCK_BYTES_MAX;
}

#define PLACE_NO_CLASS 63u
static inline uint64_t place_make(uint64_t offset, uint32_t class_number)
{
    return ((offset / PLACE_UNIT) << PLACE_CLASS_BITS |
            (class_number == PLACE_NO_CLASS ? 0 : class_number + 1)) +
           1;
}
static inline uint64_t place_offset(uint64_t place) /* in the data */
{
    return ((place - 1) >> PLACE_CLASS_BITS) * PLACE_UNIT;
}
/* PLACE_NO_CLASS: an extent. */
static inline uint32_t place_class(uint64_t place)
{
    uint32_t class = (uint32_t)(place - 1) & ((1u << PLACE_CLASS_BITS) - 1);
    return class == 0 ? PLACE_NO_CLASS : class - 1;
}
static inline uint64_t place_granule(const struct heap *h, uint64_t place)
{
    return place_offset(place) >> h->regions.granule_shift;
}
static inline uint64_t block_address(const struct heap *h, uint64_t place)
{
    return h->regions.data_at + place_offset(place);
}

/* A block of at least `bytes`; slab blocks are zeroed, extents read as zero. ERR_NOSPACE,
 * ERR_NOMEM. */
int block_alloc(struct heap *h, enum pool pool, uint64_t bytes, uint64_t *place);
/* The same from a slab, with bytes that are what they are. bytes <= slab_block_bytes_max(). */
int block_alloc_small(struct heap *h, enum pool pool, uint64_t bytes, uint64_t *place);
/* The same as an extent, of which the first `filled` bytes are. bytes > slab_block_bytes_max(). */
int block_alloc_large(struct heap *h, enum pool pool, uint64_t bytes, uint64_t filled,
                      uint64_t *place);
void block_free(struct heap *h, enum pool pool, uint64_t place);
static inline uint64_t block_bytes(const struct heap *h, uint64_t place)
{
    uint32_t class_number = place_class(place);
    return class_number != PLACE_NO_CLASS
               ? class_bytes(class_number)
               : extent_granules(h, place_granule(h, place)) << h->regions.granule_shift;
}
/* Could the block hold so many bytes where it is (in its class, or as an extent that can be
 * resized)? Does it, and keeps the counters. Bytes gained read as zero. */
bool block_resize(struct heap *h, enum pool pool, uint64_t place, uint64_t bytes);
/* The slab that a block of a class lies in: its granule. A slab is so short that it begins in the
 * word of that granule or in one of the four before. Which one is random, so there is no branch. */
static inline uint64_t slab_of(const struct heap *h, uint64_t place)
{
    static_assert(SLAB_BYTES >> GRANULE_SHIFT_MIN <= 4 * 64, "starts in one of five words");
    assert(place_class(place) != PLACE_NO_CLASS);
    uint64_t granule = place_granule(h, place);
    uint64_t w = granule / 64;
    if (w < 4) {
        return extent_of(h, granule);
    }
    const struct granules *g = granules_at(h, w - 4);
    uint64_t upto = ~(uint64_t)0 >> (63 - (granule & 63));
    uint32_t has = (uint32_t)(g[0].start != 0) | (uint32_t)(g[1].start != 0) << 1 |
                   (uint32_t)(g[2].start != 0) << 2 | (uint32_t)(g[3].start != 0) << 3 |
                   (uint32_t)((g[4].start & upto) != 0) << 4;
    assert(has != 0);
    uint32_t last = 31 - (uint32_t)__builtin_clz(has);
    uint64_t starts = g[last].start & (upto | ((uint64_t)(last >> 2) - 1));
    return (w - 4 + last) * 64 + 63 - (uint64_t)__builtin_clzll(starts);
}
static inline const struct slab *slab_get(const struct heap *h, uint64_t granule)
{
    return (const struct slab *)arena_at(&h->arena, granule_address(h, granule));
}
/* For compaction: another block of the same class and pool, in a slab with a free block that isn't
 * `granule`'s. False: there is none. Never makes a slab. */
bool slab_alloc_elsewhere(struct heap *h, enum pool pool, uint32_t class_number, uint64_t granule,
                          uint64_t *place);
/* For compaction: blocks are taken from others from now on, and it goes when it is empty. */
void slab_disuse(struct heap *h, uint64_t granule);
/* For compaction: free blocks of all slabs of the class. */
uint64_t slab_free_blocks(struct heap *h, enum pool pool, uint32_t class_number);
/* The next block in use, from number `from` on. False: there is none. */
bool slab_block_next(const struct heap *h, uint64_t granule, uint32_t from, uint32_t *block);
static inline uint64_t slab_place(const struct heap *h, uint64_t granule, const struct slab *s,
                                  uint32_t block)
{
    return place_make((granule << h->regions.granule_shift) + s->first +
                          (uint64_t)block * class_bytes(s->class),
                      s->class);
}
/* Adds a slab of SLAB_BYTES_FIRST; there is free space for it. */
void slab_new_small(struct heap *h, enum pool pool, uint32_t class_number);
/* Gives an empty slab back. */
void slab_drop(struct heap *h, uint64_t granule);
/* The slab's header is already at `to`: the list follows. */
void slab_moved(struct heap *h, uint64_t granule, uint64_t to);

/* ---- slot.c ---------------------------------------------------------------------------------- */

static inline uint32_t slot_word_generation(uint64_t word)
{
    return (uint32_t)(word & SLOT_GENERATION_MAX);
}
static inline enum slot_state slot_word_state(uint64_t word)
{
    return (enum slot_state)(word >> 14 & ((1u << SLOT_STATE_BITS) - 1));
}
static inline uint64_t slot_word_place(uint64_t word)
{
    return word >> (14 + SLOT_STATE_BITS);
}
static inline uint64_t slot_word(uint32_t generation, enum slot_state state, uint64_t place)
{
    return generation | (uint64_t)state << 14 | place << (14 + SLOT_STATE_BITS);
}
/* Frame of a slot page, or -1 when the page never was or has left the table. */
static inline int64_t slot_frame(const struct heap *h, uint64_t page)
{
    if (page >= header(h)->slot_pages) {
        return -1;
    }
    return (int64_t) * (const uint32_t *)arena_at(&h->arena, h->regions.directory_at + page * 4) -
           1;
}
static inline uint64_t slot_frame_address(const struct heap *h, uint64_t frame)
{
    return h->regions.frames_at + frame * PAGE_BYTES;
}
/* The entry, 0 when there is none. Its page is loaded. */
static inline uint64_t slot_peek(const struct heap *h, uint64_t slot)
{
    int64_t frame = slot_frame(h, slot / SLOTS_PER_PAGE);
    if (frame < 0 || slot % SLOTS_PER_PAGE < SLOT_FIRST) {
        return 0;
    }
    return *(const uint64_t *)arena_at(&h->arena, slot_frame_address(h, (uint64_t)frame) +
                                                      slot % SLOTS_PER_PAGE * 8);
}
/* The same; 0, too, if its page can't be loaded: who must know that asks slot_load(). */
static inline uint64_t slot_get(const struct heap *h, uint64_t slot)
{
    return slot_load(h, slot) == 0 ? slot_peek(h, slot) : 0;
}
/* Makes sure that the next slot_take() succeeds. ERR_NOSPACE, ERR_NOMEM, a fatal code. */
int slot_prepare(struct heap *h, uint64_t *slot);
/* Binds the slot that slot_prepare() named, as LIVE or LEASED. Returns its generation. */
uint32_t slot_take(struct heap *h, uint64_t slot, enum slot_state state, uint64_t place);
/* A LIVE, LEASED, DEAD or PREPARED slot becomes another of these, or gets another place; its
 * generation stays. */
void slot_set(struct heap *h, uint64_t slot, enum slot_state state, uint64_t place);
/* The slot goes back: next generation, or RETIRED. */
void slot_release(struct heap *h, uint64_t slot);

/* ---- spare.c: what was freed and is kept for the next object of its class ---------------------
 */

static inline struct spares *spares_of(const struct heap *h, uint32_t class_number)
{
    return (struct spares *)(void *)(h->arena.base + SPARES_AT) + class_number;
}
/* Does the object at `place`, whose slot has this word, become a spare when it is freed? It is
 * live, without history and intents. A function of the arena alone. */
bool spare_fits(const struct heap *h, uint64_t place, uint64_t word, const struct object_header *o);
void spare_put(struct heap *h, uint64_t slot, uint64_t place);
/* The newest spare of a class becomes a live object's slot and block, whose bytes are what they
 * are. False: there is none. *rv: it can't be loaded. */
bool spare_take(struct heap *h, uint32_t class_number, uint64_t *slot, uint64_t *place, int *rv);
/* All slots and blocks go where they go without spares. A fatal code: what they need can't be
 * loaded. */
int spare_drop_all(struct heap *h);
bool spares_exist(const struct heap *h);
/* How many there are, and what their blocks have. */
uint64_t spares_count(const struct heap *h, uint64_t *bytes);
/* Behind what found no space, takes `bytes` at least, and has changed nothing: is it worth another
 * try, now that there are no spares? There still are if that could never be enough. Where a slot
 * has been prepared and not yet taken that is heap_apply()'s to ask: of the slots that go one comes
 * next. */
bool spares_give_way(struct heap *h, uint64_t bytes, int *rv);
/* Behind what makes the heap fuller: it has none when it is nearly full. */
static inline bool spares_are_dear(const struct heap *h)
{
    return header(h)->used_granules > h->regions.spares_until;
}

/* ---- lease.c --------------------------------------------------------------------------------- */

/* Is the pointer leased to this session? ERR_INVAL, ERR_STALE. */
int lease_find_slot(const struct heap *h, uint64_t session, uint64_t ptr);
/* The slot goes back with a new generation, and leaves its lease. */
void lease_drop_slot(struct heap *h, uint64_t slot);
/* So many slots leave their lease: they aren't LEASED any more when the command ends. */
void lease_forget_slots(struct heap *h, uint64_t lease, uint32_t count);
/* The slot leaves its lease as LIVE or PREPARED. */
void lease_use_slot(struct heap *h, uint64_t slot, enum slot_state state, uint64_t place);

/* ---- object.c -------------------------------------------------------------------------------- */

struct object_view {
    uint64_t size;
    uint64_t payload; /* address; of a table: of the places of its chunks */
    uint64_t version;
    uint64_t slot;
    uint32_t type;
    uint32_t flags; /* enum object_flag */
    uint32_t head;  /* bytes of the header */
};
#define OBJECT_SLOT_MASK (((uint64_t)1 << PTR_SLOT_BITS) - 1)
#define OBJECT_SLACK_MAX 63u
static inline void object_decode(const struct heap *h, uint64_t place, struct object_view *out)
{
    uint64_t address = block_address(h, place);
    (void)heap_load(h, address, sizeof(struct object_header_wide));
    const struct object_header *o = (const struct object_header *)arena_at(&h->arena, address);
    out->version = o->version;
    out->slot = o->word & OBJECT_SLOT_MASK;
    out->flags = (uint32_t)(o->word >> OBJECT_FLAGS_SHIFT);
    if ((o->word & OBJECT_WIDE) != 0) {
        const struct object_header_wide *w = (const struct object_header_wide *)o;
        out->size = w->size;
        out->type = w->type;
        out->head = sizeof *w;
    } else {
        uint64_t slack = o->word >> OBJECT_SLACK_SHIFT & OBJECT_SLACK_MAX;
        out->size = block_bytes(h, place) - sizeof *o - slack;
        out->type = (uint32_t)(o->word >> OBJECT_TYPE_SHIFT) & (OBJECT_NARROW_TYPES - 1);
        out->head = sizeof *o;
    }
    out->payload = address + out->head;
}
static inline uint64_t object_chunks(uint64_t size)
{
    return (size + OBJECT_CHUNK_BYTES - 1) / OBJECT_CHUNK_BYTES;
}
/* Bytes in chunk number `chunk` of a table of that size. */
static inline uint64_t object_chunk_bytes(uint64_t size, uint64_t chunk)
{
    uint64_t left = size - chunk * OBJECT_CHUNK_BYTES;
    return left < OBJECT_CHUNK_BYTES ? left : OBJECT_CHUNK_BYTES;
}
/* How an object of a size and type lies in a block: header and bytes of the block. */
struct object_shape {
    uint64_t bytes;
    uint32_t head;
    bool table;
};
static inline struct object_shape object_shape_of(uint64_t size, uint32_t type)
{
    struct object_shape s = {.head = sizeof(struct object_header_wide)};
    if (size > OBJECT_CHUNK_BYTES) {
        s.table = true;
        s.bytes = s.head + object_chunks(size) * sizeof(uint64_t);
    } else {
        if (size <= OBJECT_NARROW_BYTES_MAX - sizeof(struct object_header) &&
            type < OBJECT_NARROW_TYPES) {
            s.head = sizeof(struct object_header);
        }
        s.bytes = s.head + size;
    }
    return s;
}
/* Writes the header of an object that is shaped so; HISTORY is all of `flags` that counts. */
void object_set_header(struct heap *h, uint64_t place, const struct object_shape *shape,
                       const struct object_view *o);
/* Block, header and chunks of an object with zeroed bytes. ERR_NOSPACE, ERR_NOMEM. */
int object_build(struct heap *h, const struct object_view *o, uint64_t *place);
uint64_t object_chunk_at(const struct heap *h, const struct object_view *o, uint64_t chunk);
int chunk_build(struct heap *h, uint64_t slot, uint64_t number, uint64_t bytes, uint64_t *place);
void chunk_set_header(struct heap *h, uint64_t place, uint64_t slot, uint64_t number);
void chunk_drop(struct heap *h, uint64_t place);
/* Which undo record has the chunk now (heap_layout.h). */
void chunk_set_keeper(struct heap *h, uint64_t place, uint64_t keeper);
/* Bytes of the object from or to memory; the range is inside it. */
void object_get_bytes(const struct heap *h, const struct object_view *o, uint64_t offset,
                      void *data, uint64_t len);
void object_put_bytes(struct heap *h, const struct object_view *o, uint64_t offset,
                      const void *data, uint64_t len);
/* For reading. Leftovers in absent pages aren't state: washing them changes nothing that anyone
 * can see. */
static inline const void *heap_bytes(const struct heap *h, uint64_t address, uint64_t len)
{
    return arena_read((struct arena *)(uintptr_t)&h->arena, address, len);
}
/* Place of a live (or, with `dead`, of a freed but readable) object. ERR_INVAL, ERR_STALE. */
int object_find(const struct heap *h, uint64_t ptr, bool dead, uint64_t *place);
/* Frees the block and, of a table, the chunks; not the slot. */
void object_drop(struct heap *h, uint64_t place);
void object_set_flag(struct heap *h, uint64_t place, enum object_flag flag, bool on);
/* Can an object be so large, and begin with these bytes? ERR_INVAL, ERR_TOOBIG. */
int object_size_check(uint64_t size, struct slice init);
/* For transactions, which find out before what would fail. object_reserve(): an object of version 0
 * that nobody counts (ERR_NOSPACE, ERR_NOMEM). The others return 0 or a fatal code: where there is
 * no room for an undo record, history gives way. */
int object_reserve(struct heap *h, uint64_t slot, uint64_t size, uint32_t type, struct slice init,
                   uint64_t *place);
int object_birth(struct heap *h, uint64_t version, uint64_t place);
int object_overwrite(struct heap *h, uint64_t version, uint64_t place, uint64_t offset,
                     struct slice data);
int object_end(struct heap *h, uint64_t version, uint64_t place);
/* The block of a chunk moved (its bytes are already at `to`): the link to it follows, which is in
 * its object's table, or in an undo record when it was cut off. */
void chunk_moved(struct heap *h, uint64_t from, uint64_t to);

/* ---- undo.c ---------------------------------------------------------------------------------- */

/* Before history is kept: no spare stays, and the slabs are made that the record of a free needs,
 * before there is no room for them: a full heap whose objects can't be freed would stay full.
 * ERR_NOSPACE, ERR_NOMEM, a fatal code. */
int undo_open(struct heap *h);
/* One slab of such a class stays, empty or not. */
bool undo_needs_class(const struct heap *h, enum pool pool, uint32_t class_number);
/* By the heap's retention, or for a while, for readers at a time. */
static inline bool history_is_kept(const struct heap *h)
{
    return (header(h)->retention_ms | header(h)->keep_until) != 0;
}
/* All is in memory and changes leave no records: nothing but the object itself can make a command
 * on it unusual. */
static inline bool heap_is_plain(const struct heap *h)
{
    const struct heap_header *hd = header(h);
    return __builtin_expect((h->arena.unloaded_count | hd->retention_ms | hd->keep_until) == 0, 1);
}
/* What can be told of a time. A heap without retention still knows how everything was that hasn't
 * changed since: reading it "as of now" needs no history. */
enum history_known { HISTORY_KEPT, HISTORY_UNCHANGED, HISTORY_GONE };
enum history_known history_known(const struct heap *h, uint64_t at);
/* Does a change of this version leave a record? */
static inline bool undo_is_kept(const struct heap *h, uint64_t version)
{
    const struct heap_header *hd = header(h);
    return history_is_kept(h) && version > hd->safepoint;
}
/* Records what is about to change in the object at `place`; must come before the change. Bytes
 * [offset, offset + len) of its payload are kept. ERR_NOSPACE, ERR_NOMEM: nothing happened. */
int undo_push(struct heap *h, uint64_t version, uint64_t place, enum undo_kind kind,
              uint64_t offset, uint64_t len);
/* Nothing is known any more of what was before now: for a change that can't fail and has no room to
 * be recorded. */
void history_gives_way(struct heap *h);
/* A change isn't recorded, since it is older than what can be read: who follows changes must know.
 */
void history_skips(struct heap *h);
/* Behind history_gives_way(): the newest record of an object becomes that of its free, in place. */
void undo_turn_into_free(struct heap *h, uint64_t place);

/* The same for a name, which led to the first pointer (of a version) and will lead to the other. */
int undo_push_root(struct heap *h, uint64_t version, struct slice name, uint64_t before_version,
                   uint64_t before, uint64_t after);
/* Place of the newest record of a name, 0 none; and the name of a record. */
uint64_t undo_newest_root(const struct heap *h, struct slice name);
static inline struct slice undo_root_name(const struct undo_record *r)
{
    return slice_of(r + 1, r->len);
}
/* The same for a change of the size: keeps the bytes, and takes over the chunks, that are cut off.
 */
int undo_push_resize(struct heap *h, uint64_t version, uint64_t place, uint64_t size);
static inline uint64_t undo_chunks_at(uint64_t len) /* offset in the record's block */
{
    return (sizeof(struct undo_record) + len + 7) & ~(uint64_t)7;
}
static inline uint64_t undo_record_bytes(const struct undo_record *r)
{
    return r->chunks == 0 ? sizeof *r + r->len : undo_chunks_at(r->len) + (uint64_t)r->chunks * 8;
}
/* Records of an object, newest first: place of the newest, 0 none; and of what is older. */
uint64_t undo_newest(const struct heap *h, uint64_t slot);
static inline const struct undo_record *undo_get(const struct heap *h, uint64_t place)
{
    return (const struct undo_record *)arena_at(&h->arena, block_address(h, place));
}
/* Bytes of an object as they were when the change of record `end` (0: the oldest that is known of)
 * had been made, and nothing newer: undoes the records from `newest` down to it. version.c. */
void undo_bytes_behind(const struct heap *h, const struct object_view *o, uint64_t newest,
                       uint64_t end, uint64_t offset, void *data, uint64_t len);
/* The block of a record moved (its bytes are already at `to`): the links to it follow. What is at
 * `from` may be overwritten already, and isn't read. */
void undo_moved(struct heap *h, uint64_t from, uint64_t to);
/* Where the record has the place of the chunk of this number. */
uint64_t undo_chunk_address(const struct heap *h, uint64_t place, uint64_t number);

/* ---- root.c ---------------------------------------------------------------------------------- */

/* A placeholder for a name that doesn't exist. ERR_NOSPACE, ERR_NOMEM. */
int root_reserve(struct heap *h, struct slice name);
void root_release(struct heap *h, struct slice name);
/* The name leads to ptr from `version` on; 0: it goes. ERR_NOSPACE, ERR_NOMEM. must: history gives
 * way, and of a name that exists or has a placeholder this doesn't fail. */
int root_change(struct heap *h, uint64_t version, struct slice name, uint64_t ptr, bool must);
/* Version of the newest change of the name that is known of, 0 none: also of its deletion. */
uint64_t root_changed_at(const struct heap *h, struct slice name);

/* ---- map.c ----------------------------------------------------------------------------------- */

void map_places_init(struct heap *h);
/* The block of a record moved from one place to another (its bytes are already there): the links
 * to it follow. What is at `from` may be overwritten already, and isn't read. */
void map_moved(struct heap *h, uint64_t from, uint64_t to);
/* What has to work without room. A record gets another key of the same length, which no record has;
 * or keeps the first `len` bytes of its value. */
void map_rekey(struct heap *h, enum heap_map map, struct slice from, struct slice to);
void map_cut(struct heap *h, enum heap_map map, struct slice key, uint64_t len);

#endif
