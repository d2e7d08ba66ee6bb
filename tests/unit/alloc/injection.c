#include "injection.h"

#include <stddef.h>
#include <string.h>

#include "base/assert.h"

static uint64_t below(struct injection *x, uint64_t end)
{
    return driver_random(x->chance) % end;
}

static uint8_t *at(struct injection *x, uint64_t address)
{
    return x->heap->arena.base + address;
}

static void put(struct injection *x, uint8_t *to, uint8_t value)
{
    assert(x->count < INJECTION_EDITS_MAX);
    x->edits[x->count].at = to;
    x->edits[x->count++].was = *to;
    *to = value;
}

void injection_flip(struct injection *x, uint64_t address, uint64_t bit)
{
    uint8_t *to = at(x, address + bit / 8);
    put(x, to, (uint8_t)(*to ^ 1u << bit % 8));
}

/* One byte of a number each: it must not need more. */
static void put_u64(struct injection *x, uint64_t address, uint64_t value)
{
    for (uint64_t i = 0; i < 8; i++) {
        uint8_t byte = (uint8_t)(value >> i * 8);
        if (*at(x, address + i) != byte) {
            put(x, at(x, address + i), byte);
        }
    }
}

void injection_take_back(struct injection *x)
{
    while (x->count > 0) {
        x->count--;
        *x->edits[x->count].at = x->edits[x->count].was;
    }
}

/* ---- where to hit ---- */

static uint64_t entry_address(const struct heap *h, uint64_t slot)
{
    return h->regions.frames_at + (uint64_t)slot_frame(h, slot / SLOTS_PER_PAGE) * PAGE_BYTES +
           slot % SLOTS_PER_PAGE * 8;
}

/* A random slot in this state; 0: none. */
static uint64_t slot_in(struct injection *x, enum slot_state state)
{
    uint64_t end = (uint64_t)header(x->heap)->slot_pages * SLOTS_PER_PAGE;
    uint64_t start = below(x, end);
    for (uint64_t i = 0; i < end; i++) {
        uint64_t slot = (start + i) % end;
        uint64_t word = slot_get(x->heap, slot);
        if (word != 0 && slot_word_state(word) == state) {
            return slot;
        }
    }
    return 0;
}

/* Block of a random live or freed object. */
static bool some_object(struct injection *x, bool table, uint64_t *slot, struct object_view *o)
{
    for (int i = 0; i < 300; i++) {
        *slot = slot_in(x, below(x, 4) == 0 ? SLOT_DEAD : SLOT_LIVE);
        if (*slot == 0) {
            continue;
        }
        object_decode(x->heap, slot_word_place(slot_get(x->heap, *slot)), o);
        if (!table || (o->flags & OBJECT_TABLE) != 0) {
            return true;
        }
    }
    return false;
}

/* A random slab or, with `slab` false, record of a pool in an extent or slab. */
static bool some_slab(struct injection *x, uint64_t *granule)
{
    uint64_t total = space_granules(x->heap);
    uint64_t start = below(x, total);
    for (int round = 0; round < 2; round++) {
        for (uint64_t g = extent_next(x->heap, start); g < total; g = extent_next(x->heap, g + 1)) {
            if (!extent_is_object(x->heap, g) && slab_get(x->heap, g)->magic == BLOCK_MAGIC_SLAB) {
                *granule = g;
                return true;
            }
        }
        start = 0;
    }
    return false;
}

static uint64_t some_undo(struct injection *x)
{
    uint64_t count = header(x->heap)->undo_count;
    uint64_t place = header(x->heap)->undo_head;
    for (uint64_t skip = count == 0 ? 0 : below(x, count); skip > 0; skip--) {
        place = undo_get(x->heap, place)->next;
    }
    return place;
}

/* Address of a random record of a map; 0: none. */
static uint64_t some_record(struct injection *x, enum heap_map map)
{
    uint64_t place = header(x->heap)->maps[map].root;
    while (place != 0) {
        const struct map_node *n = arena_at(&x->heap->arena, block_address(x->heap, place));
        uint64_t next = below(x, 2) == 0 ? n->left : n->right;
        if (next == 0 || below(x, 4) == 0) {
            return block_address(x->heap, place);
        }
        place = next;
    }
    return 0;
}

/* ---- kinds of damage: each does one, or says that this heap has nothing of the kind ---- */

static bool hit_granules(struct injection *x)
{
    uint64_t words = (space_granules(x->heap) + 63) / 64;
    injection_flip(x, x->heap->regions.granules_at + below(x, words) * sizeof(struct granules),
                   below(x, 128));
    return true;
}

/* Not the generation of a slot in use: nothing else in the heap knows it. */
static bool hit_slot(struct injection *x)
{
    uint64_t slot = slot_in(x, (enum slot_state)below(x, SLOT_STATES));
    if (slot == 0) {
        return false;
    }
    injection_flip(x, entry_address(x->heap, slot), 14 + below(x, 50));
    return true;
}

static bool hit_slot_page(struct injection *x)
{
    uint64_t slot = slot_in(x, SLOT_LIVE);
    if (slot == 0) {
        return false;
    }
    injection_flip(x, entry_address(x->heap, slot / SLOTS_PER_PAGE * SLOTS_PER_PAGE),
                   below(x, 128));
    return true;
}

/* An absent page has no bytes that could be damaged. */
static bool hit_spares(struct injection *x)
{
    if (!pageset_has(&x->heap->arena.present, SPARES_AT >> PAGE_SHIFT)) {
        return false;
    }
    injection_flip(x, SPARES_AT + below(x, PAGE_BYTES), below(x, 8));
    return true;
}

static bool hit_directory(struct injection *x)
{
    uint64_t entries = header(x->heap)->slot_pages + 4u; /* those behind the last one too */
    injection_flip(x, x->heap->regions.directory_at + below(x, entries) * 4, below(x, 32));
    return true;
}

static bool hit_slab_header(struct injection *x)
{
    uint64_t granule = 0;
    if (!some_slab(x, &granule)) {
        return false;
    }
    uint64_t byte = below(x, sizeof(struct slab));
    injection_flip(x, granule_address(x->heap, granule) + byte, below(x, 8));
    return true;
}

static bool hit_slab_bitmap(struct injection *x)
{
    uint64_t granule = 0;
    if (!some_slab(x, &granule)) {
        return false;
    }
    const struct slab *s = slab_get(x->heap, granule);
    uint64_t bits = (s->blocks + 63u) / 64 * 64;
    injection_flip(x, granule_address(x->heap, granule) + sizeof *s, below(x, bits));
    return true;
}

/* Not the type, whose number may be any. */
static bool hit_object(struct injection *x)
{
    uint64_t slot = 0;
    struct object_view o;
    if (!some_object(x, false, &slot, &o)) {
        return false;
    }
    uint64_t address = o.payload - o.head;
    bool wide = o.head == sizeof(struct object_header_wide);
    uint64_t bit = below(x, wide ? 160 : 50);
    if (bit < 45) {
        injection_flip(x, address + 8, bit); /* slot, wide, slack */
    } else if (bit < 50) {
        injection_flip(x, address + 8, OBJECT_FLAGS_SHIFT + bit - 45);
    } else if (bit < 82) {
        injection_flip(x, address + offsetof(struct object_header_wide, size), bit - 50);
    } else {
        injection_flip(x, address + offsetof(struct object_header_wide, reserved), bit % 64);
    }
    return true;
}

static bool hit_slack(struct injection *x)
{
    for (int i = 0; i < 50; i++) {
        uint64_t slot = 0;
        struct object_view o;
        if (!some_object(x, false, &slot, &o) || (o.flags & OBJECT_TABLE) != 0) {
            continue;
        }
        uint64_t bytes = block_bytes(x->heap, slot_word_place(slot_get(x->heap, slot)));
        uint64_t end = o.payload + o.size;
        if (bytes - o.head > o.size && pageset_has(&x->heap->arena.present, end >> PAGE_SHIFT)) {
            injection_flip(x, end, below(x, 8));
            return true;
        }
    }
    return false;
}

/* The header of a chunk that a record has: its number, which record, whose. */
static bool hit_kept_chunk(struct injection *x)
{
    uint64_t place = header(x->heap)->undo_head; /* there are few of them */
    for (; place != 0; place = undo_get(x->heap, place)->next) {
        const struct undo_record *r = undo_get(x->heap, place);
        if (r->chunks != 0) {
            uint64_t link =
                undo_chunk_address(x->heap, place, object_chunks(r->offset) + below(x, r->chunks));
            uint64_t chunk = load_u64(arena_at(&x->heap->arena, link));
            injection_flip(x, block_address(x->heap, chunk), below(x, 128));
            return true;
        }
    }
    return false;
}

static bool hit_table(struct injection *x)
{
    if (below(x, 2) == 0 && hit_kept_chunk(x)) {
        return true;
    }
    uint64_t slot = 0;
    struct object_view o;
    if (!some_object(x, true, &slot, &o)) {
        return false;
    }
    uint64_t chunks = object_chunks(o.size);
    uint64_t chunk = below(x, chunks);
    if (below(x, 2) == 0) {
        injection_flip(x, o.payload + chunk * 8, below(x, 64));
    } else {
        injection_flip(x, block_address(x->heap, object_chunk_at(x->heap, &o, chunk)),
                       below(x, 128));
    }
    return true;
}

/* The times, and in a record that nobody goes back to what was where, can't be told. */
static bool hit_undo(struct injection *x)
{
    static const uint8_t fields[] = {
        offsetof(struct undo_record, magic), offsetof(struct undo_record, kind),
        offsetof(struct undo_record, slot),  offsetof(struct undo_record, older),
        offsetof(struct undo_record, newer), offsetof(struct undo_record, next),
        offsetof(struct undo_record, prev),  offsetof(struct undo_record, len)};
    uint64_t place = some_undo(x);
    if (place == 0) {
        return false;
    }
    uint64_t which = below(x, sizeof fields);
    bool word = which < 2 || which == 7;
    injection_flip(x, block_address(x->heap, place) + fields[which], below(x, word ? 32 : 64));
    return true;
}

static bool hit_map(struct injection *x)
{
    static const enum heap_map maps[] = {HEAP_MAP_ROOTS, HEAP_MAP_UNDO, HEAP_MAP_TYPES,
                                         HEAP_MAP_LEASES};
    uint64_t address = some_record(x, maps[below(x, 4)]);
    if (address == 0) {
        return false;
    }
    injection_flip(x, address, below(x, sizeof(struct map_node) * 8));
    return true;
}

static bool hit_counter(struct injection *x)
{
    static const uint16_t fields[] = {offsetof(struct heap_header, used_granules),
                                      offsetof(struct heap_header, slot_frame_free),
                                      offsetof(struct heap_header, slot_frame_free_count),
                                      offsetof(struct heap_header, slot_retired),
                                      offsetof(struct heap_header, slot_queue_head),
                                      offsetof(struct heap_header, slot_queue_tail),
                                      offsetof(struct heap_header, slot_queue_count),
                                      offsetof(struct heap_header, reserved0),
                                      offsetof(struct heap_header, object_count),
                                      offsetof(struct heap_header, object_bytes),
                                      offsetof(struct heap_header, dead_count),
                                      offsetof(struct heap_header, dead_bytes),
                                      offsetof(struct heap_header, chunk_count),
                                      offsetof(struct heap_header, block_count),
                                      offsetof(struct heap_header, block_count) + 8,
                                      offsetof(struct heap_header, block_count) + 16,
                                      offsetof(struct heap_header, block_bytes),
                                      offsetof(struct heap_header, block_bytes) + 8,
                                      offsetof(struct heap_header, block_bytes) + 16,
                                      offsetof(struct heap_header, undo_head),
                                      offsetof(struct heap_header, undo_tail),
                                      offsetof(struct heap_header, undo_count),
                                      offsetof(struct heap_header, undo_bytes),
                                      offsetof(struct heap_header, leased_count)};
    uint64_t maps = sizeof(struct map_root) * HEAP_MAP_COUNT;
    uint64_t slabs = sizeof(struct slab_list) * 40 * POOLS;
    switch (below(x, 4)) {
    case 0:
        injection_flip(x, offsetof(struct heap_header, maps), below(x, maps * 8));
        break;
    case 1:
        injection_flip(x, offsetof(struct heap_header, slabs), below(x, slabs * 8));
        break;
    case 2:
        injection_flip(x, sizeof(struct heap_header),
                       below(x, (PAGE_BYTES - sizeof(struct heap_header)) * 8));
        break;
    default:
        injection_flip(x, fields[below(x, sizeof fields / sizeof fields[0])], below(x, 32));
        break;
    }
    return true;
}

static bool hit_lease(struct injection *x)
{
    uint64_t address = some_record(x, HEAP_MAP_LEASES);
    if (address == 0) {
        return false;
    }
    uint64_t record = address + sizeof(struct map_node) + 8;
    injection_flip(x, record + offsetof(struct lease_record, count),
                   below(x, 64)); /* count, left */
    return true;
}

static bool hit_type(struct injection *x)
{
    uint64_t address = some_record(x, HEAP_MAP_TYPES);
    if (address == 0) {
        return false;
    }
    uint64_t record = address + sizeof(struct map_node) + 8;
    injection_flip(x, record + offsetof(struct type_record, field_count), below(x, 16));
    return true;
}

/* A block that is in use in every count, but that nobody owns. */
static bool leak_block(struct injection *x)
{
    for (int i = 0; i < 50; i++) {
        uint64_t granule = 0;
        if (!some_slab(x, &granule)) {
            return false;
        }
        const struct slab *s = slab_get(x->heap, granule);
        uint64_t address = granule_address(x->heap, granule);
        uint32_t bytes = class_bytes(s->class);
        uint64_t word = 0;
        while (word < (s->blocks + 63u) / 64 && s->map[word] == ~(uint64_t)0) {
            word++;
        }
        uint64_t block = word * 64 + (uint64_t)__builtin_ctzll(~s->map[word]);
        /* Numbers whose lowest byte doesn't overflow, so that one edit each will do. */
        uint64_t counts = offsetof(struct heap_header, block_count) + s->pool * 8u;
        uint64_t sums = offsetof(struct heap_header, block_bytes) + s->pool * 8u;
        if (s->blocks - s->used < 2 || *at(x, counts) == 255 ||
            *at(x, address + offsetof(struct slab, used)) == 255) {
            continue;
        }
        injection_flip(x, address + sizeof *s, block);
        put(x, at(x, address + offsetof(struct slab, used)), (uint8_t)(s->used + 1));
        put(x, at(x, counts), (uint8_t)(*at(x, counts) + 1));
        put_u64(x, sums, load_u64(at(x, sums)) + bytes);
        return true;
    }
    return false;
}

static bool own_twice(struct injection *x)
{
    uint64_t slot = slot_in(x, SLOT_LIVE);
    uint64_t other = slot_in(x, SLOT_LIVE);
    if (slot == other || slot == 0) {
        return false;
    }
    uint64_t word = slot_get(x->heap, slot);
    put_u64(x, entry_address(x->heap, slot),
            slot_word(slot_word_generation(word), SLOT_LIVE,
                      slot_word_place(slot_get(x->heap, other))));
    return true;
}

static bool own_a_chunk_twice(struct injection *x)
{
    uint64_t slot = 0;
    struct object_view o;
    if (!some_object(x, true, &slot, &o)) {
        return false;
    }
    uint64_t last = object_chunks(o.size) - 1;
    put_u64(x, o.payload + last * 8, object_chunk_at(x->heap, &o, 0));
    return true;
}

const struct injection_kind injection_kinds[] = {
    {"granule maps", hit_granules},
    {"slots", hit_slot},
    {"slot pages", hit_slot_page},
    {"spares", hit_spares},
    {"slot directory", hit_directory},
    {"slab headers", hit_slab_header},
    {"slab bitmaps", hit_slab_bitmap},
    {"objects", hit_object},
    {"slack", hit_slack},
    {"chunks", hit_table},
    {"undo records", hit_undo},
    {"map records", hit_map},
    {"header", hit_counter},
    {"leases", hit_lease},
    {"types", hit_type},
    {"leaked blocks", leak_block},
    {"blocks owned twice", own_twice},
    {"chunks owned twice", own_a_chunk_twice},
};
const size_t injection_kind_count = sizeof injection_kinds / sizeof injection_kinds[0];

/* ---- pointers ---- */

static uint64_t pointer_in_root(struct injection *x)
{
    uint64_t address = some_record(x, HEAP_MAP_ROOTS);
    const struct map_node *n = arena_at(&x->heap->arena, address);
    return address == 0 ? 0 : address + ((sizeof *n + n->key_len + 7u) & ~(uint64_t)7);
}

static uint64_t pointer_in_field(struct injection *x)
{
    struct object_view o;
    uint64_t slot = slot_in(x, SLOT_LIVE);
    if (slot == 0) {
        return 0;
    }
    object_decode(x->heap, slot_word_place(slot_get(x->heap, slot)), &o);
    if ((o.type != 1 && o.type != 2) || o.size < 16 || (o.flags & OBJECT_TABLE) != 0) {
        return 0;
    }
    uint64_t items = o.type == 1 && o.size > 32 ? 3 : (o.size - 8) / 8;
    uint64_t address = o.payload + 8 + below(x, items) * 8;
    return pageset_has(&x->heap->arena.present, address >> PAGE_SHIFT) ? address : 0;
}

uint64_t injection_some_pointer(struct injection *x)
{
    for (int i = 0; i < 2000; i++) {
        struct heap_object o;
        uint64_t address = below(x, 2) == 0 ? pointer_in_root(x) : pointer_in_field(x);
        if (address != 0 && heap_stat(x->heap, load_u64(at(x, address)), &o) == 0) {
            return address;
        }
    }
    return 0;
}
