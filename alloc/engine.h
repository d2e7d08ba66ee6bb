/* What the files of the engine share. Nobody outside alloc/ includes this. */
#ifndef CAIRN_ALLOC_ENGINE_H
#define CAIRN_ALLOC_ENGINE_H

#include "alloc/arena.h"
#include "alloc/heap.h"
#include "alloc/heap_layout.h"
#include "base/assert.h"

enum pool { POOL_OBJECTS, POOL_INTERNAL };

/* Where the regions of the arena's address space start, in bytes: header page, slot directory,
 * extent descriptors, slot frames, data. A function of bytes_max alone. The regions are sized for
 * the worst case; what counts against bytes_max is what they use. */
struct heap_regions {
    uint32_t granule_shift;
    uint64_t directory_at, extents_at, frames_at, data_at, end;
    uint32_t slot_pages_max, frames_max, extents_max;
};
void heap_regions_of(uint64_t bytes_max, struct heap_regions *out);

struct heap {
    struct arena arena;
    struct heap_regions regions;
    uint64_t entry_time;
    bool in_entry;
};

struct arena *heap_arena(struct heap *heap);
uint64_t heap_page_count(const struct heap *heap);
/* Takes over the pages of a loaded arena (moved out of *arena) after checking every structure. *e
 * says what is wrong. */
int heap_adopt(struct arena *arena, uint64_t bytes_max, struct heap **out, struct err_text *e);
bool heap_bytes_max_is_valid(uint64_t bytes_max);

static inline const struct heap_header *header(const struct heap *h)
{
    return (const struct heap_header *)arena_at(&h->arena, 0);
}
static inline struct heap_header *header_edit(struct heap *h)
{
    return (struct heap_header *)arena_write(&h->arena, 0, PAGE_BYTES);
}

/* ---- space.c: extents
 * --------------------------------------------------------------------------------------------- */

static inline const struct extent *extent_get(const struct heap *h, uint32_t i)
{
    return (const struct extent *)arena_at(&h->arena, h->regions.extents_at +
                                                          (uint64_t)i * sizeof(struct extent));
}
static inline struct extent *extent_edit(struct heap *h, uint32_t i)
{
    return (struct extent *)arena_write(&h->arena,
                                        h->regions.extents_at + (uint64_t)i * sizeof(struct extent),
                                        sizeof(struct extent));
}
static inline enum extent_state extent_state(const struct extent *x)
{
    return (enum extent_state)(x->b >> EXTENT_INDEX_BITS);
}
static inline uint64_t extent_address(const struct heap *h, const struct extent *x)
{
    return h->regions.data_at + ((uint64_t)x->at << h->regions.granule_shift);
}
uint64_t extent_granules(const struct heap *h, uint32_t i);
/* At least `bytes`, marked USED with a = b = 0 but for the state. ERR_NOSPACE, ERR_NOMEM. */
int extent_alloc(struct heap *h, uint64_t bytes, uint32_t *out);
void extent_free(struct heap *h, uint32_t i);
/* Bin number (row * 16 + column) of a size in granules. */
uint32_t bin_of(uint64_t granules);
/* Bytes that count against bytes_max. */
uint64_t space_bytes(const struct heap *h);
/* Takes one page for metadata out of the budget, from the tail of the data if need be. */
int space_take_page(struct heap *h);

/* ---- slab.c: blocks
 * -------------------------------------------------------------------------------------------------
 */

uint32_t class_of(uint64_t bytes); /* bytes <= SLAB_BLOCK_BYTES_MAX */
uint32_t class_bytes(uint32_t class_number);
/* Blocks that fit in a slab and where the first is. */
uint32_t slab_shape(uint64_t slab_bytes, uint32_t class_number, uint32_t *first);

/* A block of at least `bytes`; slab blocks are zeroed, extents read as zero. slot: its owner
 * (POOL_OBJECTS). */
int block_alloc(struct heap *h, enum pool pool, uint64_t bytes, uint64_t slot, uint64_t *place);
void block_free(struct heap *h, uint64_t place);
uint64_t block_address(const struct heap *h, uint64_t place);
uint64_t block_bytes(const struct heap *h, uint64_t place);

/* ---- slot.c
 * ---------------------------------------------------------------------------------------------------------
 */

static inline uint32_t slot_word_generation(uint64_t word)
{
    return (uint32_t)(word & SLOT_GENERATION_MAX);
}
static inline enum slot_state slot_word_state(uint64_t word)
{
    return (enum slot_state)(word >> 14 & 3);
}
static inline uint64_t slot_word_place(uint64_t word)
{
    return word >> 16;
}
static inline uint64_t slot_word(uint32_t generation, enum slot_state state, uint64_t place)
{
    return generation | (uint64_t)state << 14 | place << 16;
}
/* Frame of a slot page, or -1 when the page never was or has left the table. */
int64_t slot_frame(const struct heap *h, uint64_t page);
/* The entry, 0 when there is none. */
uint64_t slot_get(const struct heap *h, uint64_t slot);
/* Makes sure that the next slot_take() succeeds. ERR_NOSPACE, ERR_NOMEM. */
int slot_prepare(struct heap *h, uint64_t *slot);
/* Binds the slot that slot_prepare() named. Returns its generation. */
uint32_t slot_take(struct heap *h, uint64_t slot, uint64_t place);
void slot_release(struct heap *h, uint64_t slot);

/* ---- map.c, heap.c: for check.c
 * --------------------------------------------------------------------------------------- */

struct object_view {
    uint64_t size;
    uint64_t payload; /* address */
    uint64_t version;
    uint64_t slot;
    uint32_t type;
    uint32_t flags;
};
void object_decode(const struct heap *h, uint64_t place, struct object_view *out);

#endif
