/* Blocks: small ones from slabs of their class, larger ones as extents of their own. */
#include <string.h>

#include "alloc/engine.h"

#define PLACE_EXTENT(place) ((uint32_t)((place)&EXTENT_INDEX_MASK))
#define PLACE_BLOCK(place)  ((uint32_t)((place) >> EXTENT_INDEX_BITS))

/* 32..128 in steps of 16, then 8 per doubling to 1 KiB, then 4 per doubling to 4 KiB. */
uint32_t class_bytes(uint32_t class_number)
{
    assert(class_number < SLAB_CLASSES);
    if (class_number < 7) {
        return 32 + class_number * 16;
    }
    if (class_number < 31) {
        uint32_t i = class_number - 7;
        return (128u << i / 8) / 8 * (9 + i % 8);
    }
    uint32_t i = class_number - 31;
    return (1024u << i / 4) / 4 * (5 + i % 4);
}

uint32_t class_of(uint64_t bytes)
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

uint32_t slab_shape(uint64_t slab_bytes, uint32_t class_number, uint32_t *first)
{
    uint64_t size = class_bytes(class_number);
    uint64_t blocks = (slab_bytes - sizeof(struct slab)) / size;
    uint64_t at = 0;
    for (;;) {
        at = (sizeof(struct slab) + (blocks + 63) / 64 * 8 + 15) & ~(uint64_t)15;
        if (at + blocks * size <= slab_bytes) {
            break;
        }
        blocks--;
    }
    *first = (uint32_t)at;
    return (uint32_t)blocks;
}

/* The header only; the bitmap's word is marked by who changes it. */
static struct slab *slab_edit(struct heap *h, uint32_t i)
{
    return (struct slab *)arena_write(&h->arena, extent_address(h, extent_get(h, i)),
                                      sizeof(struct slab));
}

static uint64_t *slab_word_edit(struct heap *h, uint32_t i, uint32_t word)
{
    uint64_t at = extent_address(h, extent_get(h, i)) + sizeof(struct slab) + word * 8u;
    return (uint64_t *)arena_write(&h->arena, at, 8);
}

static void list_append(struct heap *h, struct slab_list *list, uint32_t i)
{
    struct slab *s = slab_edit(h, i);
    s->next = 0;
    s->prev = list->tail;
    if (list->tail != 0) {
        slab_edit(h, list->tail)->next = i;
    } else {
        list->head = i;
    }
    list->tail = i;
    list->partial++;
}

static void list_take(struct heap *h, struct slab_list *list, uint32_t i)
{
    struct slab *s = slab_edit(h, i);
    if (s->prev != 0) {
        slab_edit(h, s->prev)->next = s->next;
    } else {
        list->head = s->next;
    }
    if (s->next != 0) {
        slab_edit(h, s->next)->prev = s->prev;
    } else {
        list->tail = s->prev;
    }
    s->next = s->prev = 0;
    list->partial--;
}

static int slab_new(struct heap *h, enum pool pool, uint32_t class_number)
{
    uint64_t bytes =
        header(h)->slabs[pool][class_number].slabs == 0 ? SLAB_BYTES_FIRST : SLAB_BYTES;
    uint32_t i = 0;
    int rv = extent_alloc(h, bytes, &i);
    if (rv == ERR_NOSPACE && bytes > SLAB_BYTES_FIRST) {
        rv = extent_alloc(h, SLAB_BYTES_FIRST, &i); /* the last bits of a full heap */
    }
    if (rv != 0) {
        return rv;
    }
    uint32_t first = 0;
    uint32_t blocks =
        slab_shape(extent_granules(h, i) << h->regions.granule_shift, class_number, &first);
    struct extent *x = extent_edit(h, i);
    x->a = first;
    x->b = (uint32_t)EXTENT_SLAB << EXTENT_INDEX_BITS | class_number |
           (pool == POOL_INTERNAL ? EXTENT_INTERNAL : 0);
    memset(arena_write(&h->arena, extent_address(h, x), first), 0, first);
    slab_edit(h, i)->blocks = (uint16_t)blocks;
    struct slab_list *list = &header_edit(h)->slabs[pool][class_number];
    list->slabs++;
    list_append(h, list, i);
    return 0;
}

static int slab_alloc(struct heap *h, enum pool pool, uint32_t class_number, uint64_t *place)
{
    struct slab_list *list = &header_edit(h)->slabs[pool][class_number];
    if (list->head == 0) {
        int rv = slab_new(h, pool, class_number);
        if (rv != 0) {
            return rv;
        }
    }
    uint32_t i = list->head;
    struct slab *s = slab_edit(h, i);
    uint32_t word = s->hint;
    while (s->map[word] == ~(uint64_t)0) {
        word++;
    }
    uint32_t block = word * 64 + (uint32_t)__builtin_ctzll(~s->map[word]);
    assert(block < s->blocks);
    *slab_word_edit(h, i, word) |= (uint64_t)1 << (block & 63);
    s->hint = (uint16_t)word;
    s->used++;
    if (s->used == s->blocks) {
        list_take(h, list, i);
    }
    *place = (uint64_t)block << EXTENT_INDEX_BITS | i;
    uint32_t size = class_bytes(class_number);
    memset(arena_write(&h->arena, block_address(h, *place), size), 0, size);
    return 0;
}

static void slab_free(struct heap *h, enum pool pool, uint64_t place)
{
    uint32_t i = PLACE_EXTENT(place);
    uint32_t block = PLACE_BLOCK(place);
    struct slab_list *list =
        &header_edit(h)->slabs[pool][extent_get(h, i)->b & (EXTENT_INTERNAL - 1)];
    struct slab *s = slab_edit(h, i);
    uint64_t *word = slab_word_edit(h, i, block / 64);
    assert((*word >> (block & 63) & 1) != 0);
    *word &= ~((uint64_t)1 << (block & 63));
    if (block / 64 < s->hint) {
        s->hint = (uint16_t)(block / 64);
    }
    if (s->used == s->blocks) {
        list_append(h, list, i);
    }
    s->used--;
    /* One empty slab may stay, so that a class at its edge doesn't come and go. */
    if (s->used == 0 && list->partial > 1) {
        list_take(h, list, i);
        list->slabs--;
        extent_free(h, i);
    }
}

/* ---- blocks of any size ---- */

int block_alloc(struct heap *h, enum pool pool, uint64_t bytes, uint64_t slot, uint64_t *place)
{
    int rv = 0;
    *place = 0;
    if (bytes <= SLAB_BLOCK_BYTES_MAX) {
        rv = slab_alloc(h, pool, class_of(bytes), place);
    } else {
        uint32_t i = 0;
        rv = extent_alloc(h, bytes, &i);
        if (rv == 0) {
            struct extent *x = extent_edit(h, i);
            x->a = (uint32_t)slot;
            x->b |= (uint32_t)(slot >> 32) | (pool == POOL_INTERNAL ? EXTENT_INTERNAL : 0);
            *place = i;
        }
    }
    if (rv == 0) {
        struct heap_header *hd = header_edit(h);
        hd->block_count[pool]++;
        hd->block_bytes[pool] += block_bytes(h, *place);
    }
    return rv;
}

void block_free(struct heap *h, uint64_t place)
{
    const struct extent *x = extent_get(h, PLACE_EXTENT(place));
    enum pool pool = (x->b & EXTENT_INTERNAL) != 0 ? POOL_INTERNAL : POOL_OBJECTS;
    struct heap_header *hd = header_edit(h);
    hd->block_count[pool]--;
    hd->block_bytes[pool] -= block_bytes(h, place);
    if (extent_state(x) == EXTENT_SLAB) {
        slab_free(h, pool, place);
    } else {
        extent_free(h, PLACE_EXTENT(place));
    }
}

uint64_t block_address(const struct heap *h, uint64_t place)
{
    const struct extent *x = extent_get(h, PLACE_EXTENT(place));
    uint64_t address = extent_address(h, x);
    if (extent_state(x) == EXTENT_SLAB) {
        address += x->a + (uint64_t)PLACE_BLOCK(place) * class_bytes(x->b & (EXTENT_INTERNAL - 1));
    }
    return address;
}

uint64_t block_bytes(const struct heap *h, uint64_t place)
{
    const struct extent *x = extent_get(h, PLACE_EXTENT(place));
    if (extent_state(x) == EXTENT_SLAB) {
        return class_bytes(x->b & (EXTENT_INTERNAL - 1));
    }
    return extent_granules(h, PLACE_EXTENT(place)) << h->regions.granule_shift;
}
