/* The check of the data's space: granule maps, extents, slabs and their lists; and what a place
 * names. */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"

/* ---- granule maps ---- */

static struct granules checked_granules(const struct check *c, uint64_t word)
{
    struct granules g;
    memcpy(&g, check_look(c, c->h->regions.granules_at + word * sizeof g), sizeof g);
    return g;
}

static uint64_t words_of(const struct check *c)
{
    return (c->granules + 63) / 64;
}

static bool is_start(const struct check *c, uint64_t granule)
{
    return granule < c->granules &&
           (checked_granules(c, granule / 64).start >> (granule & 63) & 1) != 0;
}

static bool is_object(const struct check *c, uint64_t granule)
{
    return (checked_granules(c, granule / 64).used >> (granule & 63) & 1) != 0;
}

/* First granule from `from` on that starts an extent; c->granules: none. */
static uint64_t next_start(const struct check *c, uint64_t from)
{
    uint64_t mask = ~(uint64_t)0 << (from & 63);
    for (uint64_t word = from / 64; word < words_of(c); word++) {
        uint64_t bits = checked_granules(c, word).start & mask;
        if (bits != 0) {
            uint64_t granule = word * 64 + (uint64_t)__builtin_ctzll(bits);
            return granule < c->granules ? granule : c->granules;
        }
        mask = ~(uint64_t)0;
    }
    return c->granules;
}

/* Granules of the extent that starts here. */
static uint64_t extent_len(const struct check *c, uint64_t granule)
{
    uint64_t from = granule + 1;
    uint64_t mask = ~(uint64_t)0 << (from & 63);
    for (uint64_t word = from / 64; word < words_of(c); word++) {
        struct granules g = checked_granules(c, word);
        uint64_t ends = ~(g.used & ~g.start) & mask;
        if (ends != 0) {
            uint64_t end = word * 64 + (uint64_t)__builtin_ctzll(ends);
            return (end < c->granules ? end : c->granules) - granule;
        }
        mask = ~(uint64_t)0;
    }
    return c->granules - granule;
}

/* The start of the extent that holds a granule, at most `reach` granules back. */
static bool extent_start(const struct check *c, uint64_t granule, uint64_t reach, uint64_t *start)
{
    uint64_t mask = ~(uint64_t)0 >> (63 - (granule & 63));
    for (uint64_t word = granule / 64;; word--) {
        struct granules g = checked_granules(c, word);
        uint64_t ends = ~(g.used & ~g.start) & mask; /* starts, and what is free */
        if (ends != 0) {
            uint64_t bit = 63 - (uint64_t)__builtin_clzll(ends);
            *start = word * 64 + bit;
            return (g.start >> bit & 1) != 0 && granule - *start <= reach;
        }
        if (word == 0 || granule - word * 64 >= reach) {
            return false;
        }
        mask = ~(uint64_t)0;
    }
}

static void check_bits(struct check *c)
{
    uint64_t used = 0;
    uint64_t before = 0; /* is the last granule of the word before used? */
    for (uint64_t word = 0; word < words_of(c) && !c->stop; word++) {
        struct granules g = checked_granules(c, word);
        uint64_t in_word = c->granules - word * 64;
        uint64_t beyond = in_word >= 64 ? 0 : ~(uint64_t)0 << in_word;
        uint64_t taken = g.used | g.start;
        uint64_t further = g.used & ~g.start;
        uint64_t orphans = further & ~(taken << 1 | before);
        if (orphans != 0) {
            check_damage(c, "granule-map",
                         "granule %" PRIu64
                         " goes on an extent that doesn't begin: what lies there is lost",
                         word * 64 + (uint64_t)__builtin_ctzll(orphans));
        }
        if ((taken & beyond) != 0) {
            check_damage(c, "granule-map",
                         "granule %" PRIu64 " is in use behind the end of the data",
                         word * 64 + (uint64_t)__builtin_ctzll(taken & beyond));
        }
        used += (uint64_t)__builtin_popcountll(taken);
        before = taken >> 63;
    }
    uint64_t end = c->h->regions.granules_at + words_of(c) * sizeof(struct granules);
    uint64_t rest = -end & (PAGE_BYTES - 1);
    if (rest != 0 && !check_is_zero(check_look(c, end), rest)) {
        check_damage(c, "granule-map", "bits are set behind the end of the data, page %" PRIu64,
                     end >> PAGE_SHIFT);
    }
    if (used != c->hd->used_granules) {
        check_damage(c, "granule-count",
                     "%" PRIu64 " granules are in use, the header counts %" PRIu64
                     ": the free space it reports is wrong",
                     used, c->hd->used_granules);
    }
}

/* Wholly free pages are absent (E13): else two replicas with the same state would differ. */
static void check_free_pages(struct check *c)
{
    const struct arena *a = &c->h->arena;
    uint32_t shift = c->h->regions.granule_shift;
    uint64_t first = c->h->regions.data_at >> PAGE_SHIFT;
    uint64_t end = first + (c->hd->data_bytes >> PAGE_SHIFT);
    for (uint64_t page = first; (page = pageset_next(&a->present, page, a->pages)) < end; page++) {
        uint64_t granule = ((page - first) << PAGE_SHIFT) >> shift;
        uint64_t count = shift >= PAGE_SHIFT ? 1 : (uint64_t)1 << (PAGE_SHIFT - shift);
        struct granules g = checked_granules(c, granule / 64);
        if (((g.used | g.start) >> (granule & 63) & (((uint64_t)1 << count) - 1)) == 0) {
            check_damage(c, "page-free", "page %" PRIu64 " is present, but nothing uses it", page);
        }
        if (c->stop) {
            return;
        }
    }
}

/* ---- slabs ---- */

static uint64_t low_bits(uint32_t count)
{
    return count == 64 ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1;
}

static void check_slab(struct check *c, uint64_t granule, uint64_t bytes)
{
    uint64_t address = granule_address(c->h, granule);
    const struct slab *s = check_data(c, address, sizeof *s);
    if (s == NULL || s->class >= SLAB_CLASSES || s->pool >= POOLS || bytes < SLAB_BYTES_FIRST ||
        bytes > SLAB_BYTES) {
        check_damage(c, "slab-header",
                     "slab at granule %" PRIu64 " (page %" PRIu64
                     "): not a slab's class, pool or size; its objects can't be "
                     "reached",
                     granule, address >> PAGE_SHIFT);
        return;
    }
    uint32_t first = 0;
    uint32_t blocks = slab_shape(bytes, s->class, &first);
    uint32_t words = (blocks + 63) / 64;
    if (s->first != first || s->blocks != blocks || s->used > blocks || s->reserved0 != 0 ||
        s->reserved1 != 0 || (s->roomy & ~low_bits(words)) != 0 ||
        check_data(c, address, first) == NULL) {
        check_damage(c, "slab-header",
                     "slab at granule %" PRIu64 " (page %" PRIu64 "): its header doesn't fit class "
                     "%u",
                     granule, address >> PAGE_SHIFT, s->class);
        return;
    }
    uint32_t used = 0;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t all = low_bits(blocks - w * 64 < 64 ? blocks - w * 64 : 64);
        bool roomy = (s->roomy >> w & 1) != 0;
        if ((~s->map[w] & ~all) != 0 || roomy != (s->map[w] != ~(uint64_t)0)) {
            check_damage(c, "slab-bitmap",
                         "slab at granule %" PRIu64 ": word %u of its bitmap is wrong", granule, w);
        }
        used += (uint32_t)__builtin_popcountll(s->map[w] & all);
    }
    const uint8_t *rest = (const uint8_t *)&s->map[words];
    if (!check_is_zero(rest, (size_t)(first - sizeof *s - words * 8u))) {
        check_damage(c, "slab-bitmap",
                     "slab at granule %" PRIu64 ": bytes behind its bitmap aren't zero", granule);
    }
    if (used != s->used) {
        check_damage(c, "slab-count",
                     "slab at granule %" PRIu64 ": %u blocks are in use, counted as %u", granule,
                     used, s->used);
    }
    c->slabs[s->pool][s->class]++;
    c->partial[s->pool][s->class] += s->used < blocks;
    c->blocks[s->pool] += used;
    c->bytes[s->pool] += (uint64_t)used * class_bytes(s->class);
}

static void check_extents(struct check *c)
{
    uint32_t shift = c->h->regions.granule_shift;
    uint64_t len = 0;
    for (uint64_t g = 0; (g = next_start(c, g)) < c->granules && !c->stop; g += len) {
        len = extent_len(c, g);
        uint64_t bytes = len << shift;
        uint64_t address = granule_address(c->h, g);
        if (bytes <= slab_block_bytes_max(c->h)) {
            check_damage(c, "extent-size",
                         "extent at granule %" PRIu64 " (page %" PRIu64 "), %" PRIu64
                         " bytes: so small a block belongs in a slab",
                         g, address >> PAGE_SHIFT, bytes);
            continue;
        }
        if (is_object(c, g)) {
            c->blocks[POOL_OBJECTS]++;
            c->bytes[POOL_OBJECTS] += bytes;
            continue;
        }
        const uint32_t *magic = check_data(c, address, sizeof *magic);
        uint32_t what = magic == NULL ? 0 : *magic;
        if (what == BLOCK_MAGIC_SLAB) {
            check_slab(c, g, bytes);
        } else if (what == BLOCK_MAGIC_MAP || what == BLOCK_MAGIC_UNDO) {
            enum pool pool = what == BLOCK_MAGIC_MAP ? POOL_MAPS : POOL_UNDO;
            c->blocks[pool]++;
            c->bytes[pool] += bytes;
        } else {
            check_damage(c, "extent-owner",
                         "extent at granule %" PRIu64 " (page %" PRIu64 "), %" PRIu64
                         " bytes: neither a slab nor a record; the space is lost",
                         g, address >> PAGE_SHIFT, bytes);
        }
    }
}

/* The slab that starts at this granule, if it is one that check_slab() would let pass. */
static const struct slab *slab_sound(const struct check *c, uint64_t granule)
{
    if (!is_start(c, granule) || is_object(c, granule)) {
        return NULL;
    }
    uint64_t address = granule_address(c->h, granule);
    const struct slab *s = check_data(c, address, sizeof *s);
    if (s == NULL || s->magic != BLOCK_MAGIC_SLAB || s->class >= SLAB_CLASSES || s->pool >= POOLS) {
        return NULL;
    }
    if (c->damage == 0) {
        return s; /* the rest was verified */
    }
    uint64_t bytes = extent_len(c, granule) << c->h->regions.granule_shift;
    if (bytes < SLAB_BYTES_FIRST || bytes > SLAB_BYTES) {
        return NULL;
    }
    uint32_t first = 0;
    uint32_t blocks = slab_shape(bytes, s->class, &first);
    return s->blocks == blocks && s->first == first && check_data(c, address, first) != NULL ? s
                                                                                             : NULL;
}

static void check_slab_list(struct check *c, uint32_t pool, uint32_t class)
{
    const struct slab_list *list = &c->hd->slabs[pool][class];
    uint64_t count = 0;
    uint32_t prev = 0;
    for (uint32_t i = list->head; i != 0;) {
        const struct slab *s = slab_sound(c, i - 1);
        if (s == NULL || s->class != class || s->pool != pool || s->prev != prev ||
            s->used >= s->blocks || ++count > c->partial[pool][class]) {
            check_damage(c, "slab-list",
                         "slabs of pool %u, class %u: granule %u shouldn't be in their list; "
                         "allocations would go wrong",
                         pool, class, i - 1);
            return;
        }
        prev = i;
        i = s->next;
    }
    if (list->current != 0 && list->current != list->head) {
        check_damage(c, "slab-list",
                     "slabs of pool %u, class %u: blocks would come from granule %u, which isn't "
                     "the first of their list",
                     pool, class, list->current - 1);
    }
    if (count != list->partial || list->tail != prev || list->partial != c->partial[pool][class] ||
        list->slabs != c->slabs[pool][class]) {
        check_damage(c, "slab-list",
                     "slabs of pool %u, class %u: %" PRIu64 " of %" PRIu64
                     " with free blocks are listed (counted as %u), %" PRIu64
                     " in all (counted as %u)",
                     pool, class, count, c->partial[pool][class], list->partial,
                     c->slabs[pool][class], list->slabs);
    }
}

/* A full slab is in no list: its links are zero. */
static void check_full_slabs(struct check *c)
{
    for (uint64_t g = 0; (g = next_start(c, g)) < c->granules && !c->stop; g++) {
        const struct slab *s = slab_sound(c, g);
        if (s != NULL && s->used == s->blocks && (s->next != 0 || s->prev != 0)) {
            check_damage(c, "slab-list", "slab at granule %" PRIu64 " is full, but linked", g);
        }
    }
}

void check_space(struct check *c)
{
    check_bits(c);
    if (!c->stop) {
        check_free_pages(c);
    }
    if (!c->stop) {
        check_extents(c);
    }
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        for (uint32_t class = 0; class < SLAB_CLASSES && !c->stop; class ++) {
            check_slab_list(c, pool, class);
        }
    }
    if (!c->stop) {
        check_full_slabs(c);
    }
}

/* ---- places ---- */

static bool block_in_slab(const struct check *c, uint64_t place, enum pool pool, struct block *out)
{
    uint32_t shift = c->h->regions.granule_shift;
    uint64_t offset = place_offset(place);
    uint32_t class = place_class(place);
    uint64_t start = 0;
    if (class >= SLAB_CLASSES || !extent_start(c, offset >> shift, SLAB_BYTES >> shift, &start)) {
        return false;
    }
    const struct slab *s = slab_sound(c, start);
    if (s == NULL || s->class != class || s->pool != pool) {
        return false;
    }
    uint64_t in_slab = offset - (start << shift);
    uint32_t size = class_bytes(class);
    if (in_slab < s->first || (in_slab - s->first) % size != 0) {
        return false;
    }
    uint64_t block = (in_slab - s->first) / size;
    if (block >= s->blocks || (s->map[block / 64] >> (block & 63) & 1) == 0) {
        return false;
    }
    *out = (struct block){.place = place,
                          .address = c->h->regions.data_at + offset,
                          .bytes = size,
                          .granule = start,
                          .class = class};
    return true;
}

bool check_block(const struct check *c, uint64_t place, enum pool pool, struct block *out)
{
    if (place == 0 || (place - 1) >> PLACE_CLASS_BITS >= c->hd->data_bytes / PLACE_UNIT) {
        return false;
    }
    if (place_class(place) != PLACE_NO_CLASS) {
        return block_in_slab(c, place, pool, out);
    }
    uint32_t shift = c->h->regions.granule_shift;
    uint64_t offset = place_offset(place);
    uint64_t granule = offset >> shift;
    if ((granule << shift) != offset || !is_start(c, granule) ||
        is_object(c, granule) != (pool == POOL_OBJECTS)) {
        return false;
    }
    *out = (struct block){.place = place,
                          .address = c->h->regions.data_at + offset,
                          .bytes = extent_len(c, granule) << shift,
                          .granule = granule,
                          .class = PLACE_NO_CLASS};
    if (pool == POOL_OBJECTS) {
        return true;
    }
    const uint32_t *magic = check_data(c, out->address, sizeof *magic);
    return magic != NULL && *magic == (pool == POOL_MAPS ? BLOCK_MAGIC_MAP : BLOCK_MAGIC_UNDO);
}

/* Takes in the slab that the offset lies in. False: it isn't one, or not all of it is there. */
static bool near_load(const struct check *c, uint64_t offset, struct checked_slab *near)
{
    uint32_t shift = c->h->regions.granule_shift;
    uint64_t start = 0;
    if (!extent_start(c, offset >> shift, SLAB_BYTES >> shift, &start)) {
        return false;
    }
    const struct slab *s = slab_sound(c, start);
    if (s == NULL || s->pool != POOL_OBJECTS) {
        return false;
    }
    uint64_t bytes = extent_len(c, start) << shift;
    if (check_data(c, granule_address(c->h, start), bytes) == NULL) {
        return false;
    }
    uint32_t size = class_bytes(s->class);
    *near = (struct checked_slab){.map = s->map,
                                  .blocks_at = (start << shift) + s->first,
                                  .bytes = s->blocks * size,
                                  .reciprocal = UINT32_MAX / size + 1,
                                  .class = s->class,
                                  .block_bytes = size};
    return true;
}

uint64_t check_block_near(struct check *c, uint64_t place, uint32_t *bytes)
{
    static_assert(SLAB_BYTES * SLAB_BLOCK_BYTES_MAX <= (uint64_t)1 << 32,
                  "multiplying with the reciprocal divides exactly");
    uint32_t class = place_class(place);
    if (c->near == NULL || c->damage != 0 || class >= SLAB_CLASSES || place == 0 ||
        (place - 1) >> PLACE_CLASS_BITS >= c->hd->data_bytes / PLACE_UNIT) {
        return 0;
    }
    uint64_t offset = place_offset(place);
    struct checked_slab *near = &c->near[offset / SLAB_BYTES % CHECKED_SLABS];
    if (offset - near->blocks_at >= near->bytes && !near_load(c, offset, near)) {
        return 0;
    }
    uint64_t in_slab = offset - near->blocks_at;
    if (in_slab >= near->bytes || near->class != class) {
        return 0;
    }
    uint64_t block = in_slab * near->reciprocal >> 32;
    if (block * near->block_bytes != in_slab || (near->map[block / 64] >> (block & 63) & 1) == 0) {
        return 0;
    }
    *bytes = near->block_bytes;
    return c->h->regions.data_at + offset;
}

static void each_in_slab(struct check *c, uint64_t granule, const struct slab *s, check_block_cb cb)
{
    uint64_t at = granule << c->h->regions.granule_shift;
    uint32_t size = class_bytes(s->class);
    for (uint32_t i = 0; i < s->blocks && !c->stop; i++) {
        if ((s->map[i / 64] >> (i & 63) & 1) != 0) {
            uint64_t offset = at + s->first + (uint64_t)i * size;
            struct block b = {.place = place_make(offset, s->class),
                              .address = c->h->regions.data_at + offset,
                              .bytes = size,
                              .granule = granule,
                              .class = s->class};
            cb(c, &b);
        }
    }
}

void check_each_block(struct check *c, enum pool pool, check_block_cb cb)
{
    uint64_t len = 0;
    for (uint64_t g = 0; (g = next_start(c, g)) < c->granules && !c->stop; g += len) {
        len = extent_len(c, g);
        const struct slab *s = slab_sound(c, g);
        struct block b;
        if (s != NULL && s->pool == pool) {
            each_in_slab(c, g, s, cb);
        } else if (s == NULL &&
                   check_block(c, place_make(g << c->h->regions.granule_shift, PLACE_NO_CLASS),
                               pool, &b)) {
            cb(c, &b);
        }
    }
}
