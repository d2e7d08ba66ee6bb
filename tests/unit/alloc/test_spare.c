/* Spares: what was freed keeps its slot and its block for the next object of its class. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/engine.h"

static struct heap *heap_new(uint64_t bytes_max)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .shard = 5, .bytes_max = bytes_max};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    heap_begin(heap, 1, 1, 1);
    return heap;
}

static void check(const struct heap *heap)
{
    struct err_text e = {""};
    if (heap_check(heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void heap_done(struct heap *heap)
{
    heap_end(heap);
    check(heap);
    heap_free(heap);
}

static uint64_t alloc(struct heap *heap, uint64_t size, struct slice init)
{
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(heap, 1, size, 3, init, &ptr), 0);
    return ptr;
}

static uint64_t place_of(const struct heap *heap, uint64_t ptr)
{
    return slot_word_place(slot_get(heap, ptr_slot(ptr)));
}

static uint64_t spare_count(const struct heap *heap, uint64_t size)
{
    return spares_of(heap, class_of(size + sizeof(struct object_header)))->count;
}

static void the_newest_is_used_next(void **state)
{
    (void)state;
    static const uint8_t ones[200] = {[0 ... 199] = 0xff};
    struct heap *heap = heap_new(4 << 20);
    uint64_t ptrs[20];
    uint64_t places[20];
    for (size_t i = 0; i < 20; i++) {
        ptrs[i] = alloc(heap, 96, slice_of(ones, 96));
        places[i] = place_of(heap, ptrs[i]);
    }
    uint64_t blocks = header(heap)->block_count[POOL_OBJECTS];
    for (size_t i = 0; i < SPARES_MAX; i++) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), 0);
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), ERR_STALE);
    }
    assert_int_equal(header(heap)->block_count[POOL_OBJECTS], blocks);
    assert_int_equal(header(heap)->object_count, 20 - SPARES_MAX);
    check(heap);
    for (size_t i = SPARES_MAX; i-- > 0;) {
        uint64_t ptr = alloc(heap, 85, slice_of(ones, 3)); /* of the same class */
        assert_int_equal(ptr_slot(ptr), ptr_slot(ptrs[i]));
        assert_int_equal(ptr_generation(ptr), 2);
        assert_int_equal(place_of(heap, ptr), places[i]);
        const uint8_t *bytes = NULL;
        uint64_t part = 0;
        assert_int_equal(heap_read(heap, ptr, 0, 85, &bytes, &part), 0);
        assert_memory_equal(bytes, ones, 3);
        for (size_t k = 3; k < part; k++) {
            assert_int_equal(bytes[k], 0);
        }
        assert_int_equal(heap_read(heap, ptrs[i], 0, 1, &bytes, &part), ERR_STALE);
    }
    assert_int_equal(header(heap)->block_count[POOL_OBJECTS], blocks);
    assert_int_equal(header(heap)->object_bytes, 96 * 13 + 85 * SPARES_MAX);
    heap_done(heap);
}

static void only_small_objects_without_history_leave_one(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    uint64_t ptr = 0;
    assert_int_equal(heap_free_object(heap, 1, alloc(heap, 1009, slice_of(NULL, 0))), 0);
    assert_int_equal(heap_alloc(heap, 1, 8, OBJECT_NARROW_TYPES, slice_of(NULL, 0), &ptr), 0);
    assert_int_equal(heap_free_object(heap, 1, ptr), 0);
    assert_false(spares_exist(heap));
    assert_int_equal(heap_free_object(heap, 1, alloc(heap, 1008, slice_of(NULL, 0))), 0);
    assert_int_equal(spare_count(heap, 1008), 1);
    /* Nobody takes it while history is kept, and it stays sound. */
    ptr = alloc(heap, 8, slice_of(NULL, 0));
    assert_int_equal(heap_set_retention(heap, 1000), 0);
    (void)alloc(heap, 1008, slice_of(NULL, 0));
    assert_int_equal(spare_count(heap, 1008), 1);
    assert_int_equal(heap_free_object(heap, heap_next_version(heap), ptr), 0);
    assert_int_equal(spare_count(heap, 8), 0);
    check(heap);
    assert_int_equal(heap_set_retention(heap, 0), 0);
    ptr = alloc(heap, 1008, slice_of(NULL, 0));
    assert_int_equal(spare_count(heap, 1008), 0);
    assert_int_equal(heap_free_object(heap, heap_next_version(heap), ptr), 0);
    assert_int_equal(spare_count(heap, 1008), 1);
    heap_done(heap);
}

static void each_class_keeps_a_few(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    uint64_t ptrs[2][20];
    for (size_t i = 0; i < 20; i++) {
        ptrs[0][i] = alloc(heap, 16, slice_of(NULL, 0));
        ptrs[1][i] = alloc(heap, 1000, slice_of(NULL, 0));
    }
    uint64_t before = header(heap)->block_count[POOL_OBJECTS];
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[0][i]), 0);
        assert_int_equal(heap_free_object(heap, 1, ptrs[1][i]), 0);
    }
    assert_int_equal(spare_count(heap, 16), SPARES_MAX);
    assert_int_equal(spare_count(heap, 1000), SPARES_MAX);
    assert_int_equal(header(heap)->block_count[POOL_OBJECTS], before - 40 + 2 * SPARES_MAX);
    check(heap);
    /* Compaction finds what they keep. */
    struct heap_defrag step;
    assert_int_equal(heap_defrag(heap, HEAP_DEFRAG_BYTES_MAX, &step), 0);
    assert_false(spares_exist(heap));
    assert_int_equal(header(heap)->block_count[POOL_OBJECTS], 0);
    assert_int_equal(header(heap)->used_granules, 0);
    heap_done(heap);
}

static void the_last_generation_leaves_none(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    uint64_t slot = ptr_slot(alloc(heap, 8, slice_of(NULL, 0)));
    uint64_t *entry = arena_write(&heap->arena, heap->regions.frames_at + slot * 8, 8);
    *entry |= SLOT_GENERATION_MAX;
    assert_int_equal(heap_free_object(heap, 1, ptr_make(5, SLOT_GENERATION_MAX, slot)), 0);
    assert_int_equal(spare_count(heap, 8), 0);
    assert_int_equal(slot_word_state(slot_get(heap, slot)), SLOT_RETIRED);
    heap_done(heap);
}

/* Whoever needs the space gets it, in the same entry for an object, and with the next one else. */
static void a_full_heap_has_none(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    uint64_t small[SPARES_MAX];
    for (size_t i = 0; i < SPARES_MAX; i++) {
        small[i] = alloc(heap, 1008, slice_of(NULL, 0));
    }
    for (size_t i = 0; i < SPARES_MAX; i++) {
        assert_int_equal(heap_free_object(heap, 1, small[i]), 0);
    }
    assert_true(spares_exist(heap));
    uint64_t ptr = 0;
    uint64_t last[8];
    for (size_t i = 0; heap_alloc(heap, 1, 4000, 3, slice_of(NULL, 0), &ptr) == 0; i++) {
        last[i % 8] = ptr;
    }
    assert_false(spares_exist(heap));
    check(heap);
    /* More than the share is in use: none is made. */
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(heap_free_object(heap, 1, last[i]), 0);
    }
    assert_true(spares_are_dear(heap));
    assert_int_equal(heap_free_object(heap, 1, alloc(heap, 8, slice_of(NULL, 0))), 0);
    assert_false(spares_exist(heap));
    heap_done(heap);
}

static void an_entry_of_a_nearly_full_heap_begins_without_any(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    assert_int_equal(heap_free_object(heap, 1, alloc(heap, 8, slice_of(NULL, 0))), 0);
    while (!spares_are_dear(heap)) {
        (void)alloc(heap, 20000, slice_of(NULL, 0));
    }
    assert_true(spares_exist(heap));
    heap_end(heap);
    check(heap);
    heap_begin(heap, 2, 1, 2);
    assert_false(spares_exist(heap));
    heap_done(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_is_used_next),
        cmocka_unit_test(only_small_objects_without_history_leave_one),
        cmocka_unit_test(each_class_keeps_a_few),
        cmocka_unit_test(the_last_generation_leaves_none),
        cmocka_unit_test(a_full_heap_has_none),
        cmocka_unit_test(an_entry_of_a_nearly_full_heap_begins_without_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
