/* Blocks: small ones from slabs of their class and pool, larger ones as extents of their own. */
#include <string.h>

#include "alloc/small.h"

/* 32..128 in steps of 16, then 8 per doubling to 1 KiB, then 4 per doubling to 4 KiB. */
#define C(size)                                                                                    \
    {                                                                                              \
        size, (uint32_t)((((uint64_t)1 << 32) + (size)-1) / (size))                                \
    }
const struct slab_class slab_classes[SLAB_CLASSES] = {
    C(32),   C(48),   C(64),   C(80),   C(96),   C(112),  C(128),  C(144),  C(160),  C(176),
    C(192),  C(208),  C(224),  C(240),  C(256),  C(288),  C(320),  C(352),  C(384),  C(416),
    C(448),  C(480),  C(512),  C(576),  C(640),  C(704),  C(768),  C(832),  C(896),  C(960),
    C(1024), C(1280), C(1536), C(1792), C(2048), C(2560), C(3072), C(3584), C(4096),
};
#undef C

#define FOUR(n) n, n, n, n
const uint8_t slab_class_narrow[OBJECT_NARROW_BYTES_MAX / 16 + 1] = {
    0,        0,        0,        1,        2,        3,        4,        5,        6, /* up to 128
                                                                                          bytes */
    7,        8,        9,        10,       11,       12,       13,       14,          /* 256 */
    15,       15,       16,       16,       17,       17,       18,       18,       19, 19,
    20,       20,       21,       21,       22,       22, /* 512 */
    FOUR(23), FOUR(24), FOUR(25), FOUR(26), FOUR(27), FOUR(28), FOUR(29), FOUR(30),
};
#undef FOUR

/* ---- which slab a page belongs to ---- */

static void pages_note(struct heap *h, uint64_t granule, uint32_t note)
{
    uint64_t from = granule << h->regions.granule_shift;
    uint64_t end = from + (extent_granules(h, granule) << h->regions.granule_shift);
    for (uint64_t page = (from + PAGE_BYTES - 1) >> PAGE_SHIFT; page << PAGE_SHIFT < end; page++) {
        h->slab_pages[page] = note;
    }
}

uint64_t slab_search(struct heap *h, uint64_t place)
{
    uint64_t granule = slab_of(h, place);
    uint64_t page = place_offset(place) >> PAGE_SHIFT;
    if (page << PAGE_SHIFT >= granule << h->regions.granule_shift && h->slab_pages[page] == 0) {
        pages_note(h, granule, (uint32_t)granule + 1); /* it was opened with the heap, or moved */
    }
    return granule;
}

void slab_mark_lines(struct heap *h, uint64_t address, uint32_t word)
{
    static_assert(sizeof(struct slab) <= LINE_BYTES, "a granule begins with a line");
    uint64_t at = slab_map_address(address, word);
    uint64_t page = address >> PAGE_SHIFT;
    uint64_t head = arena_line(address);
    uint64_t map = arena_line(at);
    if (at >> PAGE_SHIFT == page) {
        arena_mark(&h->arena, page, head | map);
        return;
    }
    arena_mark(&h->arena, page, head);
    arena_mark(&h->arena, page + 1, map);
}

void slot_and_slab_mark_lines(struct heap *h, uint64_t slot, uint64_t slab, uint32_t word)
{
    struct arena *a = &h->arena;
    uint64_t map = slab_map_address(slab, word);
    if (__builtin_expect(!arena_is_armed(a, slot >> PAGE_SHIFT) ||
                             !arena_is_armed(a, slab >> PAGE_SHIFT) ||
                             (slab ^ map) >> PAGE_SHIFT != 0,
                         0)) {
        arena_mark(a, slot >> PAGE_SHIFT, arena_line(slot) | SLOT_HEAD_LINE);
        slab_mark_lines(h, slab, word);
        return;
    }
    struct arena_marker m = arena_marker_of(a);
    arena_mark_armed(&m, slot >> PAGE_SHIFT, arena_line(slot) | SLOT_HEAD_LINE);
    arena_mark_armed(&m, slab >> PAGE_SHIFT, arena_line(slab) | arena_line(map));
    arena_marked(a, &m);
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
static struct slab *slab_edit(struct heap *h, uint64_t granule)
{
    static_assert(sizeof(struct slab) <= LINE_BYTES, "a granule begins with a line");
    return (struct slab *)arena_write_line(&h->arena, granule_address(h, granule));
}

/* ---- the list of slabs with a free block ----
 *
 * Blocks come from the current slab until it is full. Then from the lowest of the first LIST_LOOKS
 * that have their share free, so that the highest become empty and the data can end below them; or
 * from a new one: where hardly a slab has anything, as is usual when things come and go in a heap
 * that doesn't grow, to change slabs with each block would cost more than the block. Slabs with
 * less than their share are behind all others, but for the current one, which is the first; they
 * wait until they have it, or until there is no space. */
#define LIST_LOOKS 16u

static uint32_t share_of(const struct slab *s)
{
    return s->blocks < 2 * SLAB_SHARE ? 1 : s->blocks / SLAB_SHARE;
}

static bool has_share(const struct slab *s)
{
    return (uint32_t)s->blocks - s->used >= share_of(s);
}

static void list_append(struct heap *h, struct slab_list *list, struct slab *s, uint64_t granule)
{
    uint32_t link = (uint32_t)granule + 1;
    s->next = 0;
    s->prev = list->tail;
    if (list->tail != 0) {
        slab_edit(h, list->tail - 1)->next = link;
    } else {
        list->head = link;
    }
    list->tail = link;
    list->partial++;
}

/* Slabs beside this one in the list get other neighbours. */
static void list_relink(struct heap *h, struct slab_list *list, const struct slab *s,
                        uint32_t for_next, uint32_t for_prev)
{
    if (s->prev != 0) {
        slab_edit(h, s->prev - 1)->next = for_next;
    } else {
        list->head = for_next;
    }
    if (s->next != 0) {
        slab_edit(h, s->next - 1)->prev = for_prev;
    } else {
        list->tail = for_prev;
    }
}

static void list_take(struct heap *h, struct slab_list *list, struct slab *s)
{
    list_relink(h, list, s, s->next, s->prev);
    s->next = s->prev = 0;
    list->partial--;
}

/* To the front, but behind the current one. */
static void list_push(struct heap *h, struct slab_list *list, struct slab *s, uint64_t granule)
{
    if (list->head == 0 || (list->current != 0 && list->current == list->tail)) {
        list_append(h, list, s, granule);
        return;
    }
    uint32_t link = (uint32_t)granule + 1;
    s->prev = list->current;
    if (list->current != 0) {
        struct slab *current = slab_edit(h, list->current - 1);
        s->next = current->next;
        current->next = link;
    } else {
        s->next = list->head;
        list->head = link;
    }
    slab_edit(h, s->next - 1)->prev = link;
    list->partial++;
}

static void cursor_forget(struct heap *h, enum pool pool, uint32_t class_number)
{
    if (pool == POOL_OBJECTS) {
        h->cursors[class_number].slab = NULL;
    }
}

/* Nobody takes blocks from the current slab any more. */
static void list_leave(struct heap *h, enum pool pool, uint32_t class_number)
{
    header_slabs_edit(h, pool, class_number)->current = 0;
    cursor_forget(h, pool, class_number);
}

void slab_moved(struct heap *h, uint64_t granule, uint64_t to)
{
    assert(to < granule);
    pages_note(h, granule, 0);
    const struct slab *s = slab_get(h, to);
    if (s->used < s->blocks) {
        uint32_t link = (uint32_t)to + 1;
        struct slab_list *list = header_slabs_edit(h, (enum pool)s->pool, s->class);
        list_relink(h, list, s, link, link);
        list->current = list->current == granule + 1 ? link : list->current;
        cursor_forget(h, (enum pool)s->pool, s->class);
    }
}

/* ---- slabs ---- */

/* The extent becomes an empty slab. */
static void slab_make(struct heap *h, enum pool pool, uint32_t class_number, uint64_t granule)
{
    uint64_t bytes = extent_granules(h, granule) << h->regions.granule_shift;
    uint32_t first = 0;
    uint32_t blocks = slab_shape(bytes, class_number, &first);
    struct slab *s = arena_write(&h->arena, granule_address(h, granule), first);
    memset(s, 0, first);
    s->magic = BLOCK_MAGIC_SLAB;
    s->class = (uint8_t)class_number;
    s->pool = (uint8_t)pool;
    s->blocks = (uint16_t)blocks;
    s->first = first;
    uint32_t words = (blocks + 63) / 64;
    s->roomy = (uint32_t)(((uint64_t)1 << words) - 1);
    if (blocks % 64 != 0) {
        s->map[words - 1] = ~(uint64_t)0 << blocks % 64;
    }
    struct slab_list *list = header_slabs_edit(h, pool, class_number);
    list->slabs++;
    list_push(h, list, s, granule);
    pages_note(h, granule, (uint32_t)granule + 1);
    h->room.blocks[pool][class_number] += blocks;
}

static int slab_new(struct heap *h, enum pool pool, uint32_t class_number)
{
    uint64_t bytes =
        header(h)->slabs[pool][class_number].slabs == 0 ? SLAB_BYTES_FIRST : SLAB_BYTES;
    uint64_t granule = 0;
    int rv = extent_alloc(h, false, bytes, &granule);
    if (rv == ERR_NOSPACE && bytes > SLAB_BYTES_FIRST) {
        rv = extent_alloc(h, false, SLAB_BYTES_FIRST, &granule); /* the last bits of a full heap */
    }
    if (rv == 0) {
        slab_make(h, pool, class_number, granule);
    }
    return rv;
}

int slab_choose(struct heap *h, enum pool pool, uint32_t class_number)
{
    struct slab_list *list = header_slabs_edit(h, pool, class_number);
    uint32_t best = 0;
    uint32_t link = list->head;
    for (uint32_t looks = 0; link != 0 && looks < LIST_LOOKS; looks++) {
        const struct slab *s = slab_get(h, link - 1);
        if (!has_share(s)) {
            break;
        }
        best = best == 0 || link < best ? link : best;
        link = s->next;
    }
    if (best == 0) {
        int rv = slab_new(h, pool, class_number);
        if (rv != 0 && (rv != ERR_NOSPACE || list->head == 0)) {
            return rv;
        }
        best = list->head;
    }
    if (best != list->head) {
        struct slab *s = slab_edit(h, best - 1);
        list_take(h, list, s);
        list_push(h, list, s, best - 1);
    }
    list->current = best;
    return 0;
}

int cursor_open(struct heap *h, uint32_t class_number)
{
    const struct slab_list *list = header_slabs(h, POOL_OBJECTS, class_number);
    int rv = list->current == 0 ? slab_choose(h, POOL_OBJECTS, class_number) : 0;
    if (rv != 0) {
        return rv;
    }
    uint64_t granule = list->current - 1;
    uint64_t address = granule_address(h, granule);
    struct slab *s = (struct slab *)(void *)(h->arena.base + address);
    assert(slab_is(s, POOL_OBJECTS, class_number));
    h->cursors[class_number] = (struct slab_cursor){
        .slab = s,
        .blocks = (uint8_t *)s + s->first,
        .place = slab_place(h, granule, s, 0),
        .bytes = class_bytes(class_number),
        .lines_head = &h->arena.lines[address >> PAGE_SHIFT],
        .lines_map = &h->arena.lines[(address + s->first - 1) >> PAGE_SHIFT],
    };
    return 0;
}

void slab_is_full(struct heap *h, struct slab *s)
{
    list_leave(h, (enum pool)s->pool, s->class);
    list_take(h, header_slabs_edit(h, (enum pool)s->pool, s->class), s);
}

/* A block of a slab that has a free one. Its bytes are what they are. */
static uint64_t slab_take(struct heap *h, uint64_t granule)
{
    uint64_t address = granule_address(h, granule);
    struct slab *s = (struct slab *)(void *)(h->arena.base + address);
    assert(s->roomy != 0);
    uint32_t block = slab_next(s);
    assert(block < s->blocks);
    slab_mark(h, address, block / 64);
    uint64_t place = slab_place(h, granule, s, block);
    slab_bind(h, s, (enum pool)s->pool, s->class, block);
    if (s->roomy == 0) {
        slab_is_full(h, s);
    }
    return place;
}

static void slab_release(struct heap *h, uint64_t granule)
{
    struct slab *s = slab_edit(h, granule);
    struct slab_list *list = header_slabs_edit(h, (enum pool)s->pool, s->class);
    assert(s->used == 0);
    if (list->current == granule + 1) {
        list_leave(h, (enum pool)s->pool, s->class);
    }
    h->room.blocks[s->pool][s->class] -= s->blocks;
    list_take(h, list, s);
    list->slabs--;
    pages_note(h, granule, 0);
    extent_free(h, granule);
}

void slab_has_room(struct heap *h, struct slab *s, uint64_t granule)
{
    struct slab_list *list = header_slabs_edit(h, (enum pool)s->pool, s->class);
    uint32_t free_count = (uint32_t)s->blocks - s->used;
    bool current = list->current == granule + 1;
    if (free_count == 1 && share_of(s) > 1) {
        list_append(h, list, s, granule);
    } else if (free_count == 1) {
        list_push(h, list, s, granule);
    } else if (free_count == share_of(s) && !current) {
        list_take(h, list, s);
        list_push(h, list, s, granule);
    }
    /* One empty slab may stay, so that a class at its edge doesn't come and go. */
    if (s->used == 0 && list->partial > 1 && !current) {
        slab_release(h, granule);
    }
}

/* ---- for compaction ---- */

void slab_new_small(struct heap *h, enum pool pool, uint32_t class_number)
{
    uint64_t granule = 0;
    bool fits = extent_alloc_below(h, false, SLAB_BYTES_FIRST, space_granules(h), &granule);
    assert(fits);
    slab_make(h, pool, class_number, granule);
}

bool slab_alloc_elsewhere(struct heap *h, enum pool pool, uint32_t class_number, uint64_t granule,
                          uint64_t *place)
{
    uint32_t link = header_slabs(h, pool, class_number)->tail;
    if (link == granule + 1) {
        link = slab_get(h, granule)->prev;
    }
    if (link == 0) {
        return false;
    }
    *place = slab_take(h, link - 1);
    return true;
}

void slab_disuse(struct heap *h, uint64_t granule)
{
    struct slab *s = slab_edit(h, granule);
    struct slab_list *list = header_slabs_edit(h, (enum pool)s->pool, s->class);
    if (list->current == granule + 1) {
        list_leave(h, (enum pool)s->pool, s->class);
        if (!has_share(s)) {
            list_take(h, list, s);
            list_append(h, list, s, granule);
        }
    }
}

void slab_drop(struct heap *h, uint64_t granule)
{
    slab_release(h, granule);
}

uint64_t slab_free_blocks(struct heap *h, enum pool pool, uint32_t class_number)
{
    if (!h->room.known) {
        memset(&h->room, 0, sizeof h->room);
        for (uint32_t p = 0; p < POOLS; p++) {
            for (uint32_t c = 0; c < SLAB_CLASSES; c++) {
                for (uint32_t link = header(h)->slabs[p][c].head; link != 0;) {
                    const struct slab *s = slab_get(h, link - 1);
                    h->room.blocks[p][c] += (uint64_t)s->blocks - s->used;
                    link = s->next;
                }
            }
        }
        h->room.known = true;
    }
    return h->room.blocks[pool][class_number];
}

bool slab_block_next(const struct heap *h, uint64_t granule, uint32_t from, uint32_t *block)
{
    const struct slab *s = slab_get(h, granule);
    for (uint32_t word = from / 64; word < (s->blocks + 63u) / 64; word++) {
        uint64_t bits = s->map[word];
        if (word == from / 64) {
            bits &= ~(uint64_t)0 << (from & 63);
        }
        if (bits != 0) {
            *block = word * 64 + (uint32_t)__builtin_ctzll(bits);
            return *block < s->blocks;
        }
    }
    return false;
}

/* ---- blocks of any size ---- */

int block_alloc_small(struct heap *h, enum pool pool, uint64_t bytes, uint64_t *place)
{
    uint32_t class_number = class_of(bytes);
    const struct slab_list *list = header_slabs(h, pool, class_number);
    int rv = list->current == 0 ? slab_choose(h, pool, class_number) : 0;
    *place = rv == 0 ? slab_take(h, list->current - 1) : 0;
    return rv;
}

int block_alloc(struct heap *h, enum pool pool, uint64_t bytes, uint64_t *place)
{
    if (bytes <= slab_block_bytes_max(h)) {
        int rv = block_alloc_small(h, pool, bytes, place);
        if (rv == 0) {
            uint64_t size = class_bytes(place_class(*place));
            memset(arena_write(&h->arena, block_address(h, *place), size), 0, size);
        }
        return rv;
    }
    return block_alloc_large(h, pool, bytes, 0, place);
}

int block_alloc_large(struct heap *h, enum pool pool, uint64_t bytes, uint64_t filled,
                      uint64_t *place)
{
    *place = 0;
    uint64_t granule = 0;
    uint32_t shift = h->regions.granule_shift;
    assert(bytes > slab_block_bytes_max(h));
    int rv = extent_alloc_filled(h, pool == POOL_OBJECTS, bytes, filled, &granule);
    if (rv == 0) {
        *place = place_make(granule << shift, PLACE_NO_CLASS);
        blocks_count(h, pool, 1, (bytes + ((uint64_t)1 << shift) - 1) >> shift << shift);
    }
    return rv;
}

void block_free(struct heap *h, enum pool pool, uint64_t place)
{
    if (place_class(place) != PLACE_NO_CLASS) {
        struct block_at b = block_locate(h, place);
        slab_mark(h, (uint64_t)((const uint8_t *)b.slab - h->arena.base), b.block / 64);
        block_give(h, pool, place, b);
        return;
    }
    blocks_count(h, pool, (uint64_t)-1, -block_bytes(h, place));
    assert(extent_is_object(h, place_granule(h, place)) == (pool == POOL_OBJECTS));
    extent_free(h, place_granule(h, place));
}

bool block_resize(struct heap *h, enum pool pool, uint64_t place, uint64_t bytes)
{
    uint32_t class_number = place_class(place);
    if (class_number != PLACE_NO_CLASS) {
        return bytes <= slab_block_bytes_max(h) && class_of(bytes) == class_number;
    }
    if (bytes <= slab_block_bytes_max(h)) {
        return false; /* a slab has a better one */
    }
    uint64_t before = block_bytes(h, place);
    if (!extent_resize(h, place_granule(h, place), bytes)) {
        return false;
    }
    header_edit(h)->block_bytes[pool] += block_bytes(h, place) - before;
    return true;
}
