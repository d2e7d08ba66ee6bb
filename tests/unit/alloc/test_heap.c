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
        {.shard = 0, .bytes_max = 1 << 20, .granule_shift = 7},
        {.shard = 0, .bytes_max = 1 << 20, .granule_shift = 17},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(heap_create(&bad[i], &heap), ERR_INVAL);
        assert_null(heap);
    }
}

/* Every byte from `from` on is zero. */
static void assert_zero(struct heap *heap, uint64_t ptr, uint64_t from, uint64_t size)
{
    while (from < size) {
        const uint8_t *bytes = NULL;
        uint64_t part = 0;
        assert_int_equal(heap_read(heap, ptr, from, size - from, &bytes, &part), 0);
        assert_in_range(part, 1, size - from);
        if (bytes[0] != 0 || memcmp(bytes, bytes + 1, part - 1) != 0) {
            fail_msg("not zero behind %llu of %llu", (unsigned long long)from,
                     (unsigned long long)size);
        }
        from += part;
    }
}

static void objects_are_zeroed_and_initialised(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)256 << 20);
    const uint64_t sizes[] = {1,    15,   16,     17,      1008,          1009,
                              4064, 4065, 100000, 1 << 20, (1 << 20) + 1, 50 << 20};
    heap_begin(heap, 1, 1, 100);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            uint64_t ptr = 0;
            uint8_t first = 0;
            struct heap_object o;
            assert_int_equal(heap_alloc(heap, 9, sizes[i], 70000, slice_of("x", 1), &ptr), 0);
            assert_int_equal(heap_copy(heap, ptr, 0, &first, 1), 0);
            assert_int_equal(first, 'x');
            assert_zero(heap, ptr, 1, sizes[i]);
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

/* Whoever lists objects on a loop mustn't stand still where all but a few are gone. */
static void lists_look_at_a_bounded_number_of_slots(void **state)
{
    (void)state;
    enum { MANY = 60000 };
    struct heap *heap = heap_new((uint64_t)64 << 20);
    static uint64_t ptrs[MANY];
    struct heap_object list[4];
    uint64_t next = 0;
    size_t count = 0;
    unsigned calls = 0;
    heap_begin(heap, 1, 1, 100);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(heap_alloc(heap, 9, 1, 1, slice_of(NULL, 0), &ptrs[i]), 0);
    }
    for (size_t i = 0; i + 1 < MANY; i++) {
        assert_int_equal(heap_free_object(heap, 10, ptrs[i]), 0);
    }
    heap_end(heap);
    do {
        uint64_t from = next;
        count += heap_list_objects(heap, from, list, 4, &next);
        assert_true(next == 0 || (next > from && next - from <= 20000));
        calls++;
    } while (next != 0);
    assert_int_equal(count, 1);
    assert_int_equal(list[0].ptr, ptrs[MANY - 1]);
    assert_true(calls > 3);
    heap_free(heap);
}

static void the_largest_object_is_a_table_of_chunks(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)2 << 30);
    uint64_t ptr = 0;
    uint8_t bytes[20];
    uint8_t got[20];
    memset(bytes, 0xab, sizeof bytes);
    heap_begin(heap, 1, 1, 1);
    assert_int_equal(heap_alloc(heap, 1, OBJECT_BYTES_MAX, 0, slice_of("x", 1), &ptr), 0);
    assert_int_equal(header(heap)->chunk_count, 1024);
    for (uint64_t chunk = 1; chunk < 1024; chunk += 511) {
        uint64_t edge = (chunk << 20) - 7;
        assert_int_equal(heap_write(heap, 2, ptr, edge, slice_of(bytes, sizeof bytes)), 0);
        assert_int_equal(heap_copy(heap, ptr, edge, got, sizeof got), 0);
        assert_memory_equal(got, bytes, sizeof bytes);
        const uint8_t *at = NULL;
        uint64_t part = 0;
        assert_int_equal(heap_read(heap, ptr, edge, sizeof bytes, &at, &part), 0);
        assert_int_equal(part, 7);
    }
    assert_true(heap->arena.present_count < 2000); /* what wasn't written isn't there */
    assert_int_equal(heap_check(heap, NULL), 0);
    assert_int_equal(heap_free_object(heap, 3, ptr), 0);
    assert_int_equal(header(heap)->chunk_count, 0);
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
    uint64_t part = 0;
    uint8_t copy[2];
    heap_begin(heap, 1, 1, 1);
    assert_int_equal(heap_alloc(heap, 1, 0, 0, slice_of(NULL, 0), &ptr), ERR_INVAL);
    assert_int_equal(heap_alloc(heap, 1, 1, 0, slice_of("ab", 2), &ptr), ERR_INVAL);
    assert_int_equal(heap_alloc(heap, 1, OBJECT_BYTES_MAX + 1, 0, slice_of(NULL, 0), &ptr),
                     ERR_TOOBIG);
    assert_int_equal(heap_alloc(heap, 1, OBJECT_BYTES_MAX, 0, slice_of(NULL, 0), &ptr),
                     ERR_NOSPACE);
    assert_int_equal(heap_read(heap, 0, 0, 0, &bytes, &part), ERR_INVAL);
    assert_int_equal(heap_alloc(heap, 1, 8, 0, slice_of(NULL, 0), &ptr), 0);
    const uint64_t wrong[][2] = {
        {ptr_make(6, ptr_generation(ptr), ptr_slot(ptr)), (uint64_t)ERR_INVAL},
        {0, (uint64_t)ERR_INVAL},
        {ptr + 1, (uint64_t)ERR_STALE},
        {ptr_make(5, 1, (uint64_t)1 << 37), (uint64_t)ERR_STALE},
        {ptr_make(5, 0, 0), (uint64_t)ERR_STALE},
        {ptr_make(5, ptr_generation(ptr) + 1, ptr_slot(ptr)), (uint64_t)ERR_STALE},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int want = (int)wrong[i][1];
        struct heap_object o;
        struct heap_change change;
        size_t count = 0;
        assert_int_equal(heap_read(heap, wrong[i][0], 0, 1, &bytes, &part), want);
        assert_int_equal(heap_copy(heap, wrong[i][0], 0, copy, 1), want);
        assert_int_equal(heap_stat(heap, wrong[i][0], &o), want);
        assert_int_equal(heap_write(heap, 1, wrong[i][0], 0, slice_of("a", 1)), want);
        assert_int_equal(heap_realloc(heap, 1, wrong[i][0], 1), want);
        assert_int_equal(heap_free_object(heap, 1, wrong[i][0]), want);
        assert_int_equal(heap_stat_at(heap, 1, wrong[i][0], &o), want);
        assert_int_equal(heap_history(heap, wrong[i][0], 0, &change, 1, &count), want);
        assert_int_equal(heap_alloc_leased(heap, 1, 1, wrong[i][0], 1, 0, slice_of(NULL, 0)), want);
    }
    assert_int_equal(heap_read(heap, ptr, 8, 0, &bytes, &part), 0);
    assert_int_equal(part, 0);
    assert_int_equal(heap_read(heap, ptr, 9, 0, &bytes, &part), ERR_RANGE);
    assert_int_equal(heap_copy(heap, ptr, 7, copy, 2), ERR_RANGE);
    assert_int_equal(heap_read(heap, ptr, UINT64_MAX, 2, &bytes, &part), ERR_RANGE);
    assert_int_equal(heap_write(heap, 1, ptr, 1, slice_of("12345678", 8)), ERR_RANGE);
    assert_int_equal(heap_realloc(heap, 1, ptr, 0), ERR_INVAL);
    assert_int_equal(heap_realloc(heap, 1, ptr, OBJECT_BYTES_MAX + 1), ERR_TOOBIG);
    assert_int_equal(heap_realloc(heap, 1, ptr, OBJECT_BYTES_MAX), ERR_NOSPACE);
    heap_end(heap);
    heap_free(heap);
}

/* From every kind of size to every other one, with other objects around. */
static void realloc_keeps_what_was_there_and_clears_what_is_new(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)256 << 20);
    const uint64_t sizes[] = {1,       40,      300,           1008,           1009,    3000,
                              5000,    70000,   (1 << 20) - 1, 1 << 20,        1048577, 3 << 20,
                              3500000, 9 << 20, 40 << 20,      1048576 * 2 + 5};
    const size_t count = sizeof sizes / sizeof sizes[0];
    const uint32_t types[] = {3, 90000};
    heap_begin(heap, 1, 1, 1);
    for (size_t i = 0; i < 2 * count * count; i++) {
        uint64_t from = sizes[i / 2 / count];
        uint64_t to = sizes[i / 2 % count];
        uint64_t ptr = 0;
        uint64_t other = 0;
        struct heap_object o;
        assert_int_equal(
            heap_alloc(heap, 1, from, types[i % 2], slice_of("start", from < 5 ? 1 : 5), &ptr), 0);
        assert_int_equal(heap_alloc(heap, 1, 100, 0, slice_of(NULL, 0), &other), 0);
        assert_int_equal(heap_write(heap, 2, ptr, from - 1, slice_of("!", 1)), 0);
        assert_int_equal(heap_realloc(heap, 3, ptr, to), 0);
        assert_int_equal(heap_stat(heap, ptr, &o), 0);
        assert_int_equal(o.size, to);
        assert_int_equal(o.type, types[i % 2]);
        assert_int_equal(o.version, 3);
        uint8_t byte = 0;
        uint64_t keep = from < to ? from : to;
        assert_int_equal(heap_copy(heap, ptr, 0, &byte, 1), 0);
        assert_int_equal(byte, from == 1 ? '!' : 's');
        assert_int_equal(heap_copy(heap, ptr, keep - 1, &byte, 1), 0);
        assert_int_equal(byte, from <= to ? '!' : keep - 1 < 5 ? "start"[keep - 1] : 0);
        assert_zero(heap, ptr, from, to);
        /* and back: what was cut off is zero */
        assert_int_equal(heap_realloc(heap, 4, ptr, from), 0);
        assert_zero(heap, ptr, keep < 5 ? 5 : keep, from);
        assert_int_equal(heap_check(heap, NULL), 0);
        assert_int_equal(header(heap)->object_bytes, from + 100);
        assert_int_equal(heap_free_object(heap, 5, ptr), 0);
        assert_int_equal(heap_free_object(heap, 5, other), 0);
    }
    heap_end(heap);
    assert_int_equal(header(heap)->object_bytes, 0);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

/* Fills the heap up to some amount of room and tries one call: it works, or nothing has changed. */
static void no_space_changes_nothing(void **state)
{
    (void)state;
    const uint64_t sizes[] = {50, 5000, 300000, 1500000, 2600000};
    for (uint64_t room = 0; room < 4000; room += 37) {
        struct heap_opts opts = {
            .uid = 1, .shard = 5, .bytes_max = 8 << 20, .retention_ms = room % 2 == 0 ? 0 : 1000};
        struct heap *heap = NULL;
        assert_int_equal(heap_create(&opts, &heap), 0);
        heap_begin(heap, 1, 1, 1 << 20);
        uint64_t ptrs[5];
        uint64_t filler = 0;
        uint64_t hole = 0;
        for (size_t i = 0; i < 5; i++) {
            assert_int_equal(heap_alloc(heap, heap_next_version(heap), sizes[i], 1,
                                        slice_of("abc", 3), &ptrs[i]),
                             0);
        }
        if (room > 0) {
            (void)heap_alloc(heap, heap_next_version(heap), room * 700, 1, slice_of(NULL, 0),
                             &hole);
        }
        for (uint64_t size = 2 << 20; size > 1; size /= 2) {
            while (heap_alloc(heap, heap_next_version(heap), size, 1, slice_of(NULL, 0), &filler) ==
                   0) {
            }
        }
        if (hole != 0) {
            (void)heap_free_object(heap, heap_next_version(heap), hole);
        }
        for (size_t i = 0; i < 25; i++) {
            uint64_t ptr = ptrs[i % 5];
            struct heap_object before;
            struct heap_object after;
            assert_int_equal(heap_stat(heap, ptr, &before), 0);
            uint64_t count = header(heap)->object_count;
            uint64_t undo = header(heap)->undo_count;
            uint64_t chunks = header(heap)->chunk_count;
            uint64_t size = sizes[(i / 5 + i) % 5] + i;
            int rv = heap_realloc(heap, heap_next_version(heap), ptr, size);
            assert_true(rv == 0 || rv == ERR_NOSPACE);
            assert_int_equal(heap_stat(heap, ptr, &after), 0);
            if (rv != 0) {
                assert_int_equal(after.size, before.size);
                assert_int_equal(after.version, before.version);
                assert_int_equal(header(heap)->object_count, count);
                assert_int_equal(header(heap)->undo_count, undo);
                assert_int_equal(header(heap)->chunk_count, chunks);
            } else {
                assert_int_equal(after.size, size);
            }
            char bytes[3];
            assert_int_equal(heap_copy(heap, ptr, 0, bytes, 3), 0);
            assert_memory_equal(bytes, "abc", 3);
        }
        heap_end(heap);
        assert_int_equal(heap_check(heap, NULL), 0);
        heap_free(heap);
    }
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

/* Look-ups remember places: what was freed or moved since must not be found there. */
static void maps_forget_places_that_were_freed(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20);
    struct slice v;
    char key[16];
    char other[16];
    heap_begin(heap, 1, 1, 1);
    for (int i = 0; i < 2000; i++) {
        struct slice k = slice_of(key, (size_t)snprintf(key, sizeof key, "k%05d", i));
        struct slice o = slice_of(other, (size_t)snprintf(other, sizeof other, "o%05d", i));
        assert_int_equal(heap_map_put(heap, HEAP_MAP_META, k, slice_of("first", 5)), 0);
        assert_int_equal(heap_map_get(heap, HEAP_MAP_META, k, &v), 0);
        assert_int_equal(heap_map_get(heap, HEAP_MAP_ROOTS, k, &v), ERR_NOTFOUND);
        assert_int_equal(heap_map_put(heap, HEAP_MAP_META, k, slice_of(key, sizeof key)), 0);
        assert_int_equal(heap_map_get(heap, HEAP_MAP_META, k, &v), 0);
        assert_int_equal(v.len, sizeof key);
        assert_int_equal(heap_map_delete(heap, HEAP_MAP_META, k), 0);
        assert_int_equal(heap_map_put(heap, HEAP_MAP_META, o, slice_of(other, sizeof other)), 0);
        assert_int_equal(heap_map_get(heap, HEAP_MAP_META, k, &v), ERR_NOTFOUND);
        assert_null(heap_map_edit(heap, HEAP_MAP_META, k, 0, 1));
        assert_int_equal(heap_map_get(heap, HEAP_MAP_META, o, &v), 0);
        assert_memory_equal(v.data, other, sizeof other);
    }
    heap_end(heap);
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
    struct heap_opts opts = {.uid = 1, .bytes_max = 1 << 20, .retention_ms = 1};
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
            heap_map_put(heap, HEAP_MAP_META, slice_of(&ptr[i], 8), slice_of(&ptr[i], 8)), 0);
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
                  {r->granules_at, 256},
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
        cmocka_unit_test(lists_look_at_a_bounded_number_of_slots),
        cmocka_unit_test(the_largest_object_is_a_table_of_chunks),
        cmocka_unit_test(realloc_keeps_what_was_there_and_clears_what_is_new),
        cmocka_unit_test(no_space_changes_nothing),
        cmocka_unit_test(versions_only_grow),
        cmocka_unit_test(maps_keep_order_and_places),
        cmocka_unit_test(maps_forget_places_that_were_freed),
        cmocka_unit_test(an_empty_heap_is_small_in_memory),
        cmocka_unit_test(memory_faults_at_creation_are_clean),
        cmocka_unit_test(a_damaged_heap_is_refused_or_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
