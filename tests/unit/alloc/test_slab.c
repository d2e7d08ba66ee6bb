/* Blocks: classes, slabs, pools, and blocks too large for a slab. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/small.h"

#define BLOCKS 20000

static struct heap *heap_new(uint64_t bytes_max, uint32_t shift)
{
    struct heap_opts opts = {
        .uid = 7, .heap_id = 3, .bytes_max = bytes_max, .granule_shift = shift};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static uint64_t dice(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

static void every_size_has_the_smallest_class_that_holds_it(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < SLAB_CLASSES; c++) {
        assert_int_equal(class_of(class_bytes(c)), c);
        assert_int_equal(class_bytes(c) % PLACE_UNIT, 0);
        if (c + 1 < SLAB_CLASSES) {
            assert_true(class_bytes(c) < class_bytes(c + 1));
            assert_int_equal(class_of(class_bytes(c) + 1), c + 1);
        }
    }
    assert_int_equal(class_of(1), 0);
    assert_int_equal(class_bytes(SLAB_CLASSES - 1), SLAB_BLOCK_BYTES_MAX);
}

static void blocks_fill_their_slab_and_stay_inside(void **state)
{
    (void)state;
    const uint64_t sizes[] = {SLAB_BYTES_FIRST, SLAB_BYTES};
    for (size_t i = 0; i < 2; i++) {
        for (uint32_t c = 0; c < SLAB_CLASSES; c++) {
            uint32_t first = 0;
            uint32_t blocks = slab_shape(sizes[i], c, &first);
            assert_true(blocks >= 3);
            assert_int_equal(first % PLACE_UNIT, 0);
            assert_true(first >= sizeof(struct slab) + (blocks + 63) / 64 * 8);
            uint64_t end = first + (uint64_t)blocks * class_bytes(c);
            assert_true(end <= sizes[i]);
            assert_true(sizes[i] - end < class_bytes(c) + PLACE_UNIT + 8);
        }
    }
}

static void places_name_offset_and_class(void **state)
{
    (void)state;
    const uint64_t offsets[] = {0, 16, 4096, ((uint64_t)1 << 44) - 16};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        for (uint32_t c = 0; c < SLAB_CLASSES; c++) {
            uint64_t place = place_make(offsets[i], c);
            assert_int_equal(place_offset(place), offsets[i]);
            assert_int_equal(place_class(place), c);
            assert_true(place != 0 && place >> PLACE_BITS == 0);
        }
        assert_int_equal(place_class(place_make(offsets[i], PLACE_NO_CLASS)), PLACE_NO_CLASS);
    }
}

/* Each block is zeroed when it is handed out, overlaps no other and keeps its bytes. */
static void run_blocks(uint64_t seed, uint32_t shift, uint64_t size_max)
{
    struct heap *heap = heap_new((uint64_t)64 << 20, shift);
    struct {
        uint64_t place, bytes;
        enum pool pool;
    } *b = calloc(1000, sizeof *b);
    assert_non_null(b);
    uint64_t live[POOLS] = {0};
    for (int i = 0; i < 8000; i++) {
        size_t k = dice(&seed) % 1000;
        if (b[k].place != 0) {
            assert_true(block_bytes(heap, b[k].place) >= b[k].bytes);
            const uint8_t *bytes = arena_at(&heap->arena, block_address(heap, b[k].place));
            assert_int_equal(bytes[0], k & 0xff);
            assert_int_equal(bytes[b[k].bytes - 1], k & 0xff);
            block_free(heap, b[k].pool, b[k].place);
            live[b[k].pool]--;
            b[k].place = 0;
            continue;
        }
        b[k].bytes = dice(&seed) % size_max + 1;
        b[k].pool = (enum pool)(dice(&seed) % POOLS);
        assert_int_equal(block_alloc(heap, b[k].pool, b[k].bytes, &b[k].place), 0);
        uint64_t got = block_bytes(heap, b[k].place);
        uint8_t *bytes = arena_write(&heap->arena, block_address(heap, b[k].place), got);
        assert_true(bytes[0] == 0 && memcmp(bytes, bytes + 1, got - 1) == 0);
        memset(bytes, (int)(k & 0xff), got);
        if (b[k].pool != POOL_OBJECTS && place_class(b[k].place) == PLACE_NO_CLASS) {
            /* What isn't an object says so in its first four bytes; here only the tests look. */
            assert_false(extent_is_object(heap, place_granule(heap, b[k].place)));
        }
        live[b[k].pool]++;
        for (uint32_t p = 0; p < POOLS; p++) {
            assert_int_equal(header(heap)->block_count[p], live[p]);
        }
    }
    for (size_t k = 0; k < 1000; k++) {
        if (b[k].place != 0) {
            block_free(heap, b[k].pool, b[k].place);
        }
    }
    for (uint32_t p = 0; p < POOLS; p++) {
        assert_int_equal(header(heap)->block_count[p], 0);
        assert_int_equal(header(heap)->block_bytes[p], 0);
        for (uint32_t c = 0; c < SLAB_CLASSES; c++) {
            assert_true(header(heap)->slabs[p][c].slabs <= 1);
            assert_int_equal(header(heap)->slabs[p][c].partial, header(heap)->slabs[p][c].slabs);
        }
    }
    free(b);
    heap_free(heap);
}

static void blocks_are_zeroed_and_keep_their_bytes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        run_blocks(seed, 0, 200);
        run_blocks(seed, 0, 9000);
        run_blocks(seed, 14, 9000);
    }
}

static void the_first_slab_is_small_and_an_empty_one_goes(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)64 << 20, 0);
    uint64_t *places = calloc(BLOCKS, sizeof *places);
    assert_non_null(places);
    const struct slab_list *list = &header(heap)->slabs[POOL_OBJECTS][class_of(64)];
    for (size_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(block_alloc(heap, POOL_OBJECTS, 64, &places[i]), 0);
    }
    assert_int_equal(extent_granules(heap, slab_of(heap, places[0])), SLAB_BYTES_FIRST / 256);
    assert_int_equal(extent_granules(heap, slab_of(heap, places[BLOCKS - 1])), SLAB_BYTES / 256);
    uint32_t first = 0;
    uint64_t in_first = slab_shape(SLAB_BYTES_FIRST, class_of(64), &first);
    uint64_t in_others = slab_shape(SLAB_BYTES, class_of(64), &first);
    uint64_t slabs = 1 + (BLOCKS - in_first + in_others - 1) / in_others;
    assert_int_equal(list->slabs, slabs);
    assert_int_equal(slab_free_blocks(heap, POOL_OBJECTS, class_of(64)),
                     in_first + (slabs - 1) * in_others - BLOCKS);
    /* Another pool has slabs of its own. */
    uint64_t other = 0;
    assert_int_equal(block_alloc(heap, POOL_MAPS, 64, &other), 0);
    assert_int_equal(slab_get(heap, slab_of(heap, other))->pool, POOL_MAPS);
    assert_int_equal(list->slabs, slabs);

    struct heap_class_stats stats[HEAP_CLASSES];
    heap_get_class_stats(heap, stats);
    const struct heap_class_stats *c = &stats[class_of(64)];
    assert_int_equal(c->block_bytes, 64);
    assert_int_equal(c->slabs, slabs + 1);
    assert_int_equal(c->blocks, BLOCKS + 1);
    assert_int_equal(c->bytes, (BLOCKS + 1) * 64);
    assert_int_equal(c->capacity, 2 * in_first + (slabs - 1) * in_others);
    assert_int_equal(c->arena_bytes, 2 * SLAB_BYTES_FIRST + (slabs - 1) * SLAB_BYTES);
    assert_int_equal(stats[HEAP_CLASSES - 1].blocks, 0);
    assert_int_equal(stats[HEAP_CLASSES - 1].arena_bytes, 0);

    for (size_t i = 0; i < BLOCKS; i++) {
        block_free(heap, POOL_OBJECTS, places[i]);
    }
    assert_int_equal(list->slabs, 1);
    assert_int_equal(list->partial, 1);
    slab_drop(heap, list->head - 1);
    assert_int_equal(list->slabs, 0);
    assert_int_equal(list->head, 0);
    assert_int_equal(list->tail, 0);
    assert_int_equal(slab_free_blocks(heap, POOL_OBJECTS, class_of(64)), 0);
    free(places);
    heap_free(heap);
}

/* Which slab the next block of 64 bytes comes from. */
static uint64_t next_slab(struct heap *heap, uint64_t *place)
{
    assert_int_equal(block_alloc(heap, POOL_OBJECTS, 64, place), 0);
    return slab_of(heap, *place);
}

static void a_slab_with_little_room_waits_until_it_has_its_share(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)64 << 20, 0);
    uint64_t places[4000];
    const struct slab_list *list = &header(heap)->slabs[POOL_OBJECTS][class_of(64)];
    for (size_t i = 0; i < 4000; i++) {
        (void)next_slab(heap, &places[i]);
    }
    uint64_t current = list->current - 1;
    uint64_t full = slab_of(heap, places[300]); /* behind the small one */
    assert_int_equal(slab_get(heap, full)->used, slab_get(heap, full)->blocks);
    assert_true(full != current);
    uint32_t share = slab_get(heap, full)->blocks / SLAB_SHARE;
    assert_true(share > 1);
    for (uint32_t i = 0; i < share - 1; i++) {
        block_free(heap, POOL_OBJECTS, places[300 + i]);
    }
    assert_int_equal(list->tail, full + 1);
    /* The current one is used up; then not this one, but a new one. */
    uint64_t place = 0;
    uint64_t slabs = list->slabs;
    while (list->current == current + 1) {
        assert_int_equal(next_slab(heap, &place), current);
    }
    assert_int_equal(list->current, 0);
    uint64_t next = next_slab(heap, &place);
    assert_true(next != full && next != current);
    assert_int_equal(list->slabs, slabs + 1);
    /* With its share it is the next one, and serves until it is full. */
    block_free(heap, POOL_OBJECTS, places[300 + share - 1]);
    while (list->current == next + 1) {
        assert_int_equal(next_slab(heap, &place), next);
    }
    for (uint32_t i = 0; i < share; i++) {
        assert_int_equal(next_slab(heap, &place), full);
        assert_int_equal(place, places[300 + i]);
    }
    assert_int_equal(list->slabs, slabs + 1);
    assert_int_equal(list->head, 0);
    heap_free(heap);
}

static void where_there_is_no_space_little_room_will_do(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)1 << 20, 0);
    uint64_t *places = calloc(BLOCKS, sizeof *places);
    assert_non_null(places);
    size_t count = 0;
    while (block_alloc(heap, POOL_OBJECTS, 64, &places[count]) == 0) {
        count++;
    }
    block_free(heap, POOL_OBJECTS, places[1000]);
    uint64_t place = 0;
    (void)next_slab(heap, &place);
    assert_int_equal(place, places[1000]);
    assert_int_equal(block_alloc(heap, POOL_OBJECTS, 64, &place), ERR_NOSPACE);
    free(places);
    heap_free(heap);
}

/* The highest of several that have room stays as it is. */
static void the_lowest_slab_is_filled_first(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)64 << 20, 0);
    const size_t blocks = 12000; /* fewer slabs than are looked at */
    uint64_t *places = calloc(blocks, sizeof *places);
    assert_non_null(places);
    for (size_t i = 0; i < blocks; i++) {
        (void)next_slab(heap, &places[i]);
    }
    const struct slab_list *list = &header(heap)->slabs[POOL_OBJECTS][class_of(64)];
    uint64_t lowest = UINT64_MAX;
    for (size_t i = 1000; i < blocks; i += 2) {
        uint64_t granule = slab_of(heap, places[i]);
        lowest = granule < lowest ? granule : lowest;
        block_free(heap, POOL_OBJECTS, places[i]);
    }
    uint64_t place = 0;
    for (uint64_t current = list->current; list->current == current;) {
        (void)next_slab(heap, &place);
    }
    assert_int_equal(next_slab(heap, &place), lowest);
    free(places);
    heap_free(heap);
}

static void the_last_bits_of_a_full_heap_hold_small_slabs(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)1 << 20, 0);
    uint64_t place = 0;
    uint64_t blocks = 0;
    while (block_alloc(heap, POOL_OBJECTS, 1024, &place) == 0) {
        blocks++;
    }
    assert_true(blocks > 920);
    uint64_t granules = 0;
    for (uint64_t g = extent_next(heap, 0); g < space_granules(heap);
         g = extent_next(heap, g + 1)) {
        granules = extent_granules(heap, g);
    }
    assert_int_equal(granules, SLAB_BYTES_FIRST / 256);
    assert_true((space_largest_free(heap) << 8) < SLAB_BYTES_FIRST);
    heap_free(heap);
}

static void a_block_resizes_within_its_class_or_its_free_space(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)16 << 20, 0);
    uint64_t small = 0;
    uint64_t large = 0;
    uint64_t behind = 0;
    assert_int_equal(block_alloc(heap, POOL_OBJECTS, 100, &small), 0);
    assert_true(block_resize(heap, POOL_OBJECTS, small, 97));
    assert_true(block_resize(heap, POOL_OBJECTS, small, 112));
    assert_false(block_resize(heap, POOL_OBJECTS, small, 113));
    assert_false(block_resize(heap, POOL_OBJECTS, small, 96));
    assert_false(block_resize(heap, POOL_OBJECTS, small, 5000));

    assert_int_equal(block_alloc(heap, POOL_OBJECTS, 10000, &large), 0);
    assert_int_equal(block_bytes(heap, large), 10240);
    memset(arena_write(&heap->arena, block_address(heap, large), 10240), 1, 10240);
    assert_true(block_resize(heap, POOL_OBJECTS, large, 40000));
    const uint8_t *bytes = arena_read(&heap->arena, block_address(heap, large), 40000);
    assert_int_equal(bytes[10239], 1);
    for (size_t i = 10240; i < 40000; i++) {
        assert_int_equal(bytes[i], 0);
    }
    assert_int_equal(header(heap)->block_bytes[POOL_OBJECTS], 112 + 40192);
    assert_int_equal(block_alloc(heap, POOL_OBJECTS, 5000, &behind), 0);
    assert_false(block_resize(heap, POOL_OBJECTS, large, 40193));
    assert_true(block_resize(heap, POOL_OBJECTS, large, 2049));
    assert_false(block_resize(heap, POOL_OBJECTS, large, 2048));
    assert_int_equal(block_bytes(heap, large), 2304);
    assert_true(block_resize(heap, POOL_OBJECTS, large, 40192));
    block_free(heap, POOL_OBJECTS, large);
    block_free(heap, POOL_OBJECTS, behind);
    block_free(heap, POOL_OBJECTS, small);
    assert_int_equal(header(heap)->block_bytes[POOL_OBJECTS], 0);
    heap_free(heap);
}

static void elsewhere_is_another_slab_with_room(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)16 << 20, 0);
    uint64_t places[60];
    uint64_t place = 0;
    uint32_t c = class_of(1024);
    for (size_t i = 0; i < 60; i++) {
        assert_int_equal(block_alloc(heap, POOL_UNDO, 1024, &places[i]), 0);
    }
    uint64_t first = slab_of(heap, places[0]);
    uint64_t last = slab_of(heap, places[59]);
    assert_true(first != last);
    /* The first one is full, the last one has room. */
    assert_false(slab_alloc_elsewhere(heap, POOL_UNDO, c, last, &place));
    assert_true(slab_alloc_elsewhere(heap, POOL_UNDO, c, first, &place));
    assert_int_equal(slab_of(heap, place), last);
    assert_int_equal(header(heap)->block_count[POOL_UNDO], 61);
    block_free(heap, POOL_UNDO, places[3]);
    assert_true(slab_alloc_elsewhere(heap, POOL_UNDO, c, last, &place));
    assert_int_equal(place, places[3]);
    assert_false(slab_alloc_elsewhere(heap, POOL_MAPS, c, last, &place));
    uint32_t block = 0;
    uint32_t count = 0;
    for (; slab_block_next(heap, last, block, &block); block++) {
        count++;
    }
    assert_int_equal(count, slab_get(heap, last)->used);
    heap_free(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_has_the_smallest_class_that_holds_it),
        cmocka_unit_test(blocks_fill_their_slab_and_stay_inside),
        cmocka_unit_test(places_name_offset_and_class),
        cmocka_unit_test(blocks_are_zeroed_and_keep_their_bytes),
        cmocka_unit_test(the_first_slab_is_small_and_an_empty_one_goes),
        cmocka_unit_test(a_slab_with_little_room_waits_until_it_has_its_share),
        cmocka_unit_test(where_there_is_no_space_little_room_will_do),
        cmocka_unit_test(the_lowest_slab_is_filled_first),
        cmocka_unit_test(the_last_bits_of_a_full_heap_hold_small_slabs),
        cmocka_unit_test(a_block_resizes_within_its_class_or_its_free_space),
        cmocka_unit_test(elsewhere_is_another_slab_with_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
