#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "base/mem.h"

static struct heap *heap_new(uint64_t bytes_max)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .shard = 5, .bytes_max = bytes_max};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static void size_classes_hold_what_they_are_asked_for(void **state)
{
    (void)state;
    for (uint64_t bytes = 1; bytes <= SLAB_BLOCK_BYTES_MAX; bytes++) {
        uint32_t number = class_of(bytes);
        assert_true(number < SLAB_CLASSES);
        assert_true(class_bytes(number) >= bytes);
        assert_true(number == 0 || class_bytes(number - 1) < bytes);
        assert_int_equal(class_bytes(number) % 16, 0);
    }
}

static void options_out_of_bounds_are_refused(void **state)
{
    (void)state;
    struct heap *heap = NULL;
    const struct heap_opts bad[] = {
        {.shard = 0, .bytes_max = (1 << 20) - 4096},
        {.shard = 0, .bytes_max = (1 << 20) + 1},
        {.shard = 0, .bytes_max = (uint64_t)1 << 50},
        {.shard = 4096, .bytes_max = 1 << 20},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(heap_create(&bad[i], &heap), ERR_INVAL);
        assert_null(heap);
    }
}

static void objects_are_zeroed_and_initialised(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)256 << 20);
    const uint64_t sizes[] = {1, 15, 16, 17, 1008, 1009, 4064, 4065, 100000, OBJECT_BYTES_MAX};
    heap_begin(heap, 1, 1, 100);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            uint64_t ptr = 0;
            const uint8_t *bytes = NULL;
            struct heap_object o;
            assert_int_equal(heap_alloc(heap, 9, sizes[i], 70000, slice_of("x", 1), &ptr), 0);
            assert_int_equal(heap_read(heap, ptr, 0, sizes[i], &bytes), 0);
            assert_int_equal(bytes[0], 'x');
            for (uint64_t at = 1; at < sizes[i]; at++) {
                if (bytes[at] != 0) {
                    fail_msg("byte %llu of %llu", (unsigned long long)at,
                             (unsigned long long)sizes[i]);
                }
            }
            uint64_t len = sizes[i] < WRITE_BYTES_MAX ? sizes[i] : WRITE_BYTES_MAX;
            uint8_t *junk = malloc(len);
            assert_non_null(junk);
            memset(junk, 0xee, len);
            assert_int_equal(heap_write(heap, 10, ptr, sizes[i] - len, slice_of(junk, len)), 0);
            free(junk);
            assert_int_equal(heap_stat(heap, ptr, &o), 0);
            assert_int_equal(o.size, sizes[i]);
            assert_int_equal(o.type, 70000);
            assert_int_equal(o.version, 10);
            assert_int_equal(ptr_shard(o.ptr), 5);
            assert_int_equal(heap_free_object(heap, 11, ptr), 0);
            assert_int_equal(heap_stat(heap, ptr, &o), ERR_STALE);
        }
    }
    heap_end(heap);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static void wrong_pointers_and_sizes_have_their_own_errors(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    uint64_t ptr = 0;
    const uint8_t *bytes = NULL;
    heap_begin(heap, 1, 1, 1);
    assert_int_equal(heap_alloc(heap, 1, 0, 0, slice_of(NULL, 0), &ptr), ERR_INVAL);
    assert_int_equal(heap_alloc(heap, 1, 1, 0, slice_of("ab", 2), &ptr), ERR_INVAL);
    assert_int_equal(heap_alloc(heap, 1, OBJECT_BYTES_MAX + 1, 0, slice_of(NULL, 0), &ptr),
                     ERR_TOOBIG);
    assert_int_equal(heap_alloc(heap, 1, OBJECT_BYTES_MAX, 0, slice_of(NULL, 0), &ptr),
                     ERR_NOSPACE);
    assert_int_equal(heap_read(heap, 0, 0, 0, &bytes), ERR_INVAL);
    assert_int_equal(heap_alloc(heap, 1, 8, 0, slice_of(NULL, 0), &ptr), 0);
    assert_int_equal(heap_read(heap, ptr_make(6, ptr_generation(ptr), ptr_slot(ptr)), 0, 1, &bytes),
                     ERR_INVAL);
    assert_int_equal(heap_read(heap, ptr + 1, 0, 1, &bytes), ERR_STALE);
    assert_int_equal(heap_read(heap, ptr_make(5, 1, (uint64_t)1 << 37), 0, 1, &bytes), ERR_STALE);
    assert_int_equal(heap_read(heap, ptr_make(5, 0, 0), 0, 1, &bytes), ERR_STALE);
    assert_int_equal(heap_read(heap, ptr, 8, 0, &bytes), 0);
    assert_int_equal(heap_read(heap, ptr, 9, 0, &bytes), ERR_RANGE);
    assert_int_equal(heap_read(heap, ptr, UINT64_MAX, 2, &bytes), ERR_RANGE);
    assert_int_equal(heap_write(heap, 1, ptr, 1, slice_of("12345678", 8)), ERR_RANGE);
    heap_end(heap);
    heap_free(heap);
}

static void a_slot_is_retired_when_its_generations_are_used_up(void **state)
{
    (void)state;
    struct heap *heap = heap_new(2 << 20);
    uint64_t first = 0;
    uint64_t old = 0;
    heap_begin(heap, 1, 1, 1);
    /* One page of 510 slots and all their lives, one at a time: the page leaves, and its frame is
     * used again. */
    for (uint64_t i = 0; i < (uint64_t)510 * SLOT_GENERATION_MAX + 3; i++) {
        uint64_t ptr = 0;
        assert_int_equal(heap_alloc(heap, 1, 8, 0, slice_of(NULL, 0), &ptr), 0);
        assert_true(ptr != old);
        first = first == 0 ? ptr : first;
        old = ptr;
        assert_int_equal(heap_free_object(heap, 1, ptr), 0);
    }
    heap_end(heap);
    const uint8_t *bytes = NULL;
    assert_int_equal(heap_read(heap, first, 0, 1, &bytes), ERR_STALE);
    assert_int_equal(header(heap)->slot_retired, 1);
    assert_int_equal(header(heap)->slot_pages, 2);
    assert_int_equal(header(heap)->slot_frames, 1);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static void versions_only_grow(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    heap_begin(heap, 1, 1, 100);
    assert_int_equal(heap_next_version(heap), 100);
    assert_int_equal(heap_next_version(heap), 101);
    heap_end(heap);
    heap_begin(heap, 2, 1, 50);
    assert_int_equal(heap_next_version(heap), 102);
    heap_end(heap);
    assert_int_equal(heap_clock(heap), 102);
    assert_int_equal(heap_index(heap), 2);
    heap_free(heap);
}

static void maps_keep_order_and_places(void **state)
{
    (void)state;
    struct heap *heap = heap_new(8 << 20);
    char key[32];
    heap_begin(heap, 1, 1, 1);
    struct slice v;
    assert_int_equal(heap_map_put(heap, HEAP_MAP_META, slice_of("", 0), slice_of("v", 1)),
                     ERR_INVAL);
    assert_int_equal(heap_map_put(heap, HEAP_MAP_META, slice_of("pin", 3), slice_of("keep", 4)), 0);
    assert_int_equal(heap_map_get(heap, HEAP_MAP_META, slice_of("pin", 3), &v), 0);
    const uint8_t *place = v.data;
    for (int i = 0; i < 2000; i++) {
        int n = snprintf(key, sizeof key, "%d", i * 7 % 2000);
        assert_int_equal(
            heap_map_put(heap, HEAP_MAP_META, slice_of(key, (size_t)n), slice_of(key, (size_t)n)),
            0);
    }
    for (int i = 0; i < 2000; i += 2) {
        int n = snprintf(key, sizeof key, "%d", i);
        assert_int_equal(heap_map_delete(heap, HEAP_MAP_META, slice_of(key, (size_t)n)), 0);
        assert_int_equal(heap_map_delete(heap, HEAP_MAP_META, slice_of(key, (size_t)n)),
                         ERR_NOTFOUND);
    }
    heap_end(heap);
    assert_int_equal(heap_map_get(heap, HEAP_MAP_META, slice_of("pin", 3), &v), 0);
    assert_ptr_equal(v.data, place);
    assert_int_equal(heap_map_count(heap, HEAP_MAP_META), 1001);
    assert_null(heap_map_edit(heap, HEAP_MAP_META, slice_of("pin", 3), 2, 3));
    assert_null(heap_map_edit(heap, HEAP_MAP_META, slice_of("pim", 3), 0, 1));
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static void an_empty_heap_is_small_in_memory(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)16 << 30);
    struct heap_stats s;
    heap_get_stats(heap, &s);
    assert_true(s.present_pages <= 4);
    assert_int_equal(s.arena_bytes_max, (uint64_t)16 << 30);
    assert_true(s.largest_free_bytes > (uint64_t)15 << 30);
    heap_free(heap);
}

static void memory_faults_at_creation_are_clean(void **state)
{
    (void)state;
    struct heap_opts opts = {.uid = 1, .bytes_max = 1 << 20};
    for (long n = 0;; n++) {
        struct heap *heap = NULL;
        mem_fault(n, 1);
        int rv = heap_create(&opts, &heap);
        bool hit = mem_fault_hits() > 0;
        mem_fault(0, 0);
        if (!hit) {
            assert_int_equal(rv, 0);
            heap_free(heap);
            break;
        }
        assert_int_equal(rv, ERR_NOMEM);
        assert_null(heap);
    }
}

/* Any single damaged word of the header, descriptors, slots or records is refused or harmless:
 * never a crash. */
static void a_damaged_heap_is_refused_or_sound(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    heap_begin(heap, 1, 1, 1);
    uint64_t ptr[200];
    for (uint64_t i = 0; i < 200; i++) {
        assert_int_equal(heap_alloc(heap, i, 1 + i * i % 9000, 1, slice_of(NULL, 0), &ptr[i]), 0);
        assert_int_equal(
            heap_map_put(heap, HEAP_MAP_ROOTS, slice_of(&ptr[i], 8), slice_of(&ptr[i], 8)), 0);
    }
    for (uint64_t i = 0; i < 200; i += 3) {
        assert_int_equal(heap_free_object(heap, 1, ptr[i]), 0);
    }
    heap_end(heap);
    assert_int_equal(heap_check(heap, NULL), 0);
    const struct heap_regions *r = &heap->regions;
    const struct {
        uint64_t at, bytes;
    } ranges[] = {{0, sizeof(struct heap_header) - 512},
                  {r->directory_at, 4},
                  {r->extents_at, (uint64_t)header(heap)->extent_count * 20},
                  {r->frames_at, 4096},
                  {r->data_at, 40000}};
    unsigned refused = 0;
    unsigned all = 0;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        for (uint64_t at = 0; at + 4 <= ranges[i].bytes; at += 4) {
            uint8_t *word = heap->arena.base + ranges[i].at + at;
            uint32_t was = load_u32(word);
            const uint32_t values[] = {0, was + 1, was ^ 0x80000000u, UINT32_MAX, was ^ 0x40};
            for (size_t k = 0; k < 5; k++) {
                store_u32(word, values[k]);
                refused += heap_check(heap, NULL) != 0;
                all++;
            }
            store_u32(word, was);
        }
    }
    assert_int_equal(heap_check(heap, NULL), 0);
    assert_true(refused > all / 20);
    heap_free(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_classes_hold_what_they_are_asked_for),
        cmocka_unit_test(options_out_of_bounds_are_refused),
        cmocka_unit_test(objects_are_zeroed_and_initialised),
        cmocka_unit_test(wrong_pointers_and_sizes_have_their_own_errors),
        cmocka_unit_test(a_slot_is_retired_when_its_generations_are_used_up),
        cmocka_unit_test(versions_only_grow),
        cmocka_unit_test(maps_keep_order_and_places),
        cmocka_unit_test(an_empty_heap_is_small_in_memory),
        cmocka_unit_test(memory_faults_at_creation_are_clean),
        cmocka_unit_test(a_damaged_heap_is_refused_or_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
