/* The check: heaps of all shapes are never accused, and whatever is damaged in one is found. Damage
 * is done to the arena's bytes directly, one thing at a time, and taken back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "heap_driver.h"

#define HEAPS      100
#define INJECTIONS 1000

struct findings {
    uint64_t damage, dangling;
    char code[32];
    char text[ERR_TEXT_BYTES]; /* the first of DAMAGE */
};

static void note(void *arg, enum heap_severity severity, const char *code, const char *text)
{
    struct findings *f = arg;
    if (severity == HEAP_FINDING_DANGLING) {
        f->dangling++;
    } else if (f->damage++ == 0) {
        (void)snprintf(f->code, sizeof f->code, "%s", code);
        (void)snprintf(f->text, sizeof f->text, "%s", text);
    }
}

static struct findings check_all(const struct heap *heap)
{
    struct findings f = {0};
    uint64_t damage = heap_check_all(heap, 100000, note, &f);
    assert_int_equal(damage, f.damage);
    return f;
}

/* Heaps of many shapes, by number. */
static void driver_open_some(struct driver *d, uint64_t seed)
{
    static const uint64_t sizes[] = {2, 4, 8, 24};
    static const uint32_t shifts[] = {0, 0, 10, 13, 16};
    static const uint64_t largest[] = {2000, 30000, 200000, (uint64_t)5 << 19};
    uint64_t bytes = sizes[seed % 4] << 20;
    driver_open(d, seed, bytes, shifts[seed % 5], seed % 3 == 0 ? 0 : seed % 3 * 200,
                largest[seed % 4]);
}

static void must_be_sound(const struct driver *d, uint64_t seed, int step)
{
    struct err_text e = {""};
    if (heap_check(d->heap, &e) != 0) {
        fail_msg("seed %" PRIu64 ", step %d: %s", seed, step, e.text);
    }
    struct findings f = check_all(d->heap);
    if (f.damage != 0 || f.dangling != driver_dangling(d)) {
        fail_msg("seed %" PRIu64 ", step %d: %" PRIu64 " %s %s, %" PRIu64 " dangling of %" PRIu64,
                 seed, step, f.damage, f.code, f.text, f.dangling, driver_dangling(d));
    }
}

static void healthy_heaps_are_never_accused(void **state)
{
    (void)state;
    uint64_t dangling = 0;
    uint64_t full = 0;
    struct driver *d = malloc(sizeof *d);
    assert_non_null(d);
    for (uint64_t seed = 1; seed <= HEAPS; seed++) {
        driver_open_some(d, seed);
        for (int i = 1; i <= 900; i++) {
            driver_step(d);
            if (i % 150 == 0) {
                must_be_sound(d, seed, i);
            }
        }
        dangling += driver_dangling(d);
        full += d->nospace > 0;
        driver_close(d);
    }
    print_message("%d heaps, %" PRIu64 " pointers dangle, %" PRIu64 " heaps were full\n", HEAPS,
                  dangling, full);
    assert_true(dangling > 100);
    assert_true(full > 10);
    free(d);
}

/* ---- damage ---- */

#define EDITS_MAX 8

struct injection {
    struct heap *heap;
    struct driver *chance;
    size_t count;
    struct {
        uint8_t *at;
        uint8_t was;
    } edits[EDITS_MAX];
};

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
    assert_true(x->count < EDITS_MAX);
    x->edits[x->count].at = to;
    x->edits[x->count++].was = *to;
    *to = value;
}

static void flip(struct injection *x, uint64_t address, uint64_t bit)
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

static void take_back(struct injection *x)
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
    flip(x, x->heap->regions.granules_at + below(x, words) * sizeof(struct granules),
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
    flip(x, entry_address(x->heap, slot), 14 + below(x, 50));
    return true;
}

static bool hit_slot_page(struct injection *x)
{
    uint64_t slot = slot_in(x, SLOT_LIVE);
    if (slot == 0) {
        return false;
    }
    flip(x, entry_address(x->heap, slot / SLOTS_PER_PAGE * SLOTS_PER_PAGE), below(x, 128));
    return true;
}

static bool hit_directory(struct injection *x)
{
    uint64_t entries = header(x->heap)->slot_pages + 4u; /* those behind the last one too */
    flip(x, x->heap->regions.directory_at + below(x, entries) * 4, below(x, 32));
    return true;
}

static bool hit_slab_header(struct injection *x)
{
    uint64_t granule = 0;
    if (!some_slab(x, &granule)) {
        return false;
    }
    uint64_t byte = below(x, sizeof(struct slab));
    if (byte == offsetof(struct slab, hint) || byte == offsetof(struct slab, hint) + 1) {
        byte = 0; /* it may be lower than it has to */
    }
    flip(x, granule_address(x->heap, granule) + byte, below(x, 8));
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
    flip(x, granule_address(x->heap, granule) + sizeof *s, below(x, bits));
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
        flip(x, address + 8, bit); /* slot, wide, slack */
    } else if (bit < 50) {
        flip(x, address + 8, OBJECT_FLAGS_SHIFT + bit - 45);
    } else if (bit < 82) {
        flip(x, address + offsetof(struct object_header_wide, size), bit - 50);
    } else {
        flip(x, address + offsetof(struct object_header_wide, reserved), bit % 64);
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
            flip(x, end, below(x, 8));
            return true;
        }
    }
    return false;
}

static bool hit_table(struct injection *x)
{
    uint64_t slot = 0;
    struct object_view o;
    if (!some_object(x, true, &slot, &o)) {
        return false;
    }
    uint64_t chunks = object_chunks(o.size);
    uint64_t chunk = below(x, chunks);
    if (below(x, 2) == 0) {
        flip(x, o.payload + chunk * 8, below(x, 64));
    } else {
        flip(x, block_address(x->heap, object_chunk_at(x->heap, &o, chunk)), below(x, 128));
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
    flip(x, block_address(x->heap, place) + fields[which], below(x, word ? 32 : 64));
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
    flip(x, address, below(x, sizeof(struct map_node) * 8));
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
        flip(x, offsetof(struct heap_header, maps), below(x, maps * 8));
        break;
    case 1:
        flip(x, offsetof(struct heap_header, slabs), below(x, slabs * 8));
        break;
    case 2:
        flip(x, sizeof(struct heap_header),
             below(x, (PAGE_BYTES - sizeof(struct heap_header)) * 8));
        break;
    default:
        flip(x, fields[below(x, sizeof fields / sizeof fields[0])], below(x, 32));
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
    flip(x, record + offsetof(struct lease_record, count), below(x, 64)); /* count, left */
    return true;
}

static bool hit_type(struct injection *x)
{
    uint64_t address = some_record(x, HEAP_MAP_TYPES);
    if (address == 0) {
        return false;
    }
    uint64_t record = address + sizeof(struct map_node) + 8;
    flip(x, record + offsetof(struct type_record, field_count), below(x, 16));
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
        flip(x, address + sizeof *s, block);
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

static const struct {
    const char *name;
    bool (*hit)(struct injection *x);
} kinds[] = {
    {"granule maps", hit_granules},
    {"slots", hit_slot},
    {"slot pages", hit_slot_page},
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
#define KINDS (sizeof kinds / sizeof kinds[0])

/* Both must see it; then it is taken back, and neither may. */
static bool inject(struct driver *d, struct driver *chance, size_t kind, uint64_t seed)
{
    struct injection x = {.heap = d->heap, .chance = chance};
    if (!kinds[kind].hit(&x)) {
        return false;
    }
    assert_true(x.count > 0);
    struct err_text e = {""};
    int rv = heap_check(d->heap, &e);
    struct findings f = check_all(d->heap);
    if (rv != ERR_CORRUPT || f.damage == 0 || e.text[0] == '\0') {
        fail_msg("seed %" PRIu64 ", %s: %zu bytes changed, the first at %" PRIu64
                 ": not found (%d, %" PRIu64 ")",
                 seed, kinds[kind].name, x.count, (uint64_t)(x.edits[0].at - d->heap->arena.base),
                 rv, f.damage);
    }
    take_back(&x);
    return true;
}

static void every_damage_is_found(void **state)
{
    (void)state;
    uint64_t found[KINDS] = {0};
    uint64_t all = 0;
    struct driver *d = malloc(sizeof *d);
    struct driver chance = {.seed = 99};
    assert_non_null(d);
    for (uint64_t seed = 1; all < INJECTIONS; seed++) {
        assert_true(seed < 400);
        driver_open_some(d, seed * 7);
        for (int i = 0; i < 700; i++) {
            driver_step(d);
        }
        for (int i = 0; i < 40; i++) {
            size_t kind = (size_t)(driver_random(&chance) % KINDS);
            bool hit = inject(d, &chance, kind, seed);
            found[kind] += hit;
            all += hit;
        }
        assert_int_equal(heap_check(d->heap, NULL), 0);
        driver_close(d);
    }
    for (size_t i = 0; i < KINDS; i++) {
        print_message("%6" PRIu64 " %s\n", found[i], kinds[i].name);
        assert_true(found[i] >= 10);
    }
    print_message("%" PRIu64 " injections, all found\n", all);
    free(d);
}

/* ---- what leads nowhere, and what it says ---- */

static void a_pointer_to_nothing_is_told_from_damage(void **state)
{
    (void)state;
    struct driver *d = malloc(sizeof *d);
    assert_non_null(d);
    driver_open(d, 5, 4 << 20, 0, 0, 3000);
    uint64_t nodes[3];
    heap_begin(d->heap, 2, 1, 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            heap_alloc(d->heap, heap_next_version(d->heap), 40, 1, slice_of(NULL, 0), &nodes[i]),
            0);
    }
    uint64_t foreign = ptr_make(6, 1, 12345); /* another shard's: not for us to judge */
    const uint64_t targets[3] = {nodes[1], nodes[2], foreign};
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(heap_write(d->heap, heap_next_version(d->heap), nodes[0], 8 + i * 8,
                                    slice_of(&targets[i], 8)),
                         0);
    }
    struct heap_command c = {
        .kind = HEAP_COMMAND_ROOT_SET, .name = slice_of("top", 3), .ptr = nodes[2]};
    struct heap_outcome out;
    assert_int_equal(heap_apply(d->heap, heap_next_version(d->heap), &c, &out), 0);
    heap_end(d->heap);
    struct findings f = check_all(d->heap);
    assert_int_equal(f.damage + f.dangling, 0);
    heap_begin(d->heap, 3, 1, 3);
    assert_int_equal(heap_free_object(d->heap, heap_next_version(d->heap), nodes[2]), 0);
    heap_end(d->heap);
    f = check_all(d->heap);
    assert_int_equal(f.damage, 0);
    assert_int_equal(f.dangling, 2); /* the root, and one field */
    assert_int_equal(heap_check(d->heap, NULL), 0);
    /* At most as many as were asked for. */
    f = (struct findings){0};
    assert_int_equal(heap_check_all(d->heap, 1, note, &f), 0);
    assert_int_equal(f.dangling, 1);
    driver_close(d);
    free(d);
}

/* ---- hostile arenas ---- */

static bool opened(const struct heap *victim, const uint8_t *pages, struct heap **out)
{
    struct heap_receive *r = NULL;
    const struct arena *a = &victim->arena;
    uint64_t digest = 0;
    const uint8_t *at_page = pages;
    assert_int_equal(heap_receive_open(heap_page_count(victim), header(victim)->bytes_max, &r), 0);
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        assert_int_equal(heap_receive_page(r, p, at_page), 0);
        digest += arena_page_hash(p, at_page);
        at_page += PAGE_BYTES;
    }
    const struct heap_header *hd = (const struct heap_header *)(const void *)pages;
    return heap_receive_finish(r, hd->uid, hd->index, hd->term, digest, out) == 0;
}

/* Bytes are changed behind the checksum. What is let pass is used like any other heap. */
static void what_passes_the_check_can_be_used(void **state)
{
    (void)state;
    struct driver *d = malloc(sizeof *d);
    struct driver *use = malloc(sizeof *use);
    uint64_t passed = 0;
    uint64_t refused = 0;
    assert_non_null(d);
    assert_non_null(use);
    for (uint64_t seed = 1; seed <= 12; seed++) {
        driver_open(d, seed, 4 << 20, seed % 2 == 0 ? 0 : 12, seed % 3 * 100, 9000);
        for (int i = 0; i < 500; i++) {
            driver_step(d);
        }
        const struct arena *a = &d->heap->arena;
        size_t count = (size_t)a->present_count;
        uint8_t *pages = malloc(count * PAGE_BYTES);
        assert_non_null(pages);
        for (int round = 0; round < 60; round++) {
            size_t n = 0;
            for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
                memcpy(pages + n++ * PAGE_BYTES, a->base + (p << PAGE_SHIFT), PAGE_BYTES);
            }
            assert_int_equal(n, count);
            uint64_t bytes = 1 + driver_random(d) % 3;
            for (uint64_t i = 0; i < bytes; i++) {
                /* Most often in the metadata, which comes first. */
                uint64_t pool = driver_random(d) % 4 == 0 ? count : count < 8 ? count : 8;
                pages[driver_random(d) % (pool * PAGE_BYTES)] ^=
                    (uint8_t)(1u << driver_random(d) % 8);
            }
            memset(use, 0, sizeof *use);
            if (!opened(d->heap, pages, &use->heap)) {
                refused++;
                continue;
            }
            passed++;
            use->seed = seed * 1000 + (uint64_t)round;
            use->size_max = 20000;
            struct heap_object list[64];
            uint64_t next = 0;
            use->count = heap_list_objects(use->heap, 0, list, 64, &next);
            for (size_t i = 0; i < use->count; i++) {
                use->ptrs[i] = list[i].ptr;
            }
            if (heap_index(use->heap) < UINT64_MAX >> 20) {
                for (int i = 0; i < 150; i++) {
                    driver_step(use);
                }
            }
            assert_int_equal(heap_check(use->heap, NULL), 0);
            driver_close(use);
        }
        free(pages);
        driver_close(d);
    }
    print_message("%" PRIu64 " refused, %" PRIu64 " used\n", refused, passed);
    assert_true(refused > 100);
    assert_true(passed > 20);
    free(use);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(healthy_heaps_are_never_accused),
        cmocka_unit_test(every_damage_is_found),
        cmocka_unit_test(a_pointer_to_nothing_is_told_from_damage),
        cmocka_unit_test(what_passes_the_check_can_be_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
