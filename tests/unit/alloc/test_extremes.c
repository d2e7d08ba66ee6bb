/* Heaps at their ends: very many objects, a very large one, free space that is of no use, a full
 * heap, slots that are used up. The heap is checked after each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"

#define MIB ((uint64_t)1 << 20)

static struct heap *heap;
static uint64_t index_next, clock_now, seed;

static uint64_t dice(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 33;
}

static void start(uint64_t bytes_max)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .bytes_max = bytes_max};
    assert_int_equal(heap_create(&opts, &heap), 0);
    index_next = 0;
    clock_now = 1000;
    seed = 1;
}

static uint64_t begin(void)
{
    heap_begin(heap, ++index_next, 1, clock_now);
    return heap_next_version(heap);
}

static void check(void)
{
    struct err_text e = {.text = ""};
    if (heap_check(heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void stop(void)
{
    check();
    heap_free(heap);
}

static uint64_t put(uint64_t bytes) /* 0: no space */
{
    uint64_t ptr = 0;
    uint64_t version = begin();
    int rv =
        heap_alloc(heap, version, bytes, 1, slice_of(&index_next, bytes < 8 ? bytes : 8), &ptr);
    heap_end(heap);
    assert_true(rv == 0 || rv == ERR_NOSPACE);
    assert_true(rv != 0 || ptr != 0);
    return rv == 0 ? ptr : 0;
}

static void del(uint64_t ptr)
{
    uint64_t version = begin();
    assert_int_equal(heap_free_object(heap, version, ptr), 0);
    heap_end(heap);
}

static int resize(uint64_t ptr, uint64_t bytes)
{
    uint64_t version = begin();
    int rv = heap_realloc(heap, version, ptr, bytes);
    heap_end(heap);
    return rv;
}

static void put_bytes(uint64_t ptr, uint64_t offset, const char *text)
{
    uint64_t version = begin();
    assert_int_equal(heap_write(heap, version, ptr, offset, slice_of(text, strlen(text))), 0);
    heap_end(heap);
}

static void has_bytes(uint64_t ptr, uint64_t offset, const char *text)
{
    char got[32] = "";
    assert_int_equal(heap_copy(heap, ptr, offset, got, strlen(text)), 0);
    assert_memory_equal(got, text, strlen(text));
}

static void defrag(void)
{
    struct heap_defrag d = {.left = true};
    while (d.left) {
        (void)begin();
        assert_int_equal(heap_defrag(heap, HEAP_DEFRAG_BYTES_MAX, &d), 0);
        heap_end(heap);
    }
}

static struct heap_stats stats(void)
{
    struct heap_stats s;
    heap_get_stats(heap, &s);
    return s;
}

/* ---- very many ---- */

#define MANY 10000000u

static void ten_million_objects_live_at_once(void **state)
{
    (void)state;
    start((uint64_t)2 << 30);
    uint64_t *ptrs = malloc(MANY * sizeof *ptrs);
    assert_non_null(ptrs);
    for (uint64_t i = 0; i < MANY; i++) {
        ptrs[i] = put(16);
        assert_int_not_equal(ptrs[i], 0);
    }
    struct heap_stats s = stats();
    assert_int_equal(s.object_count, MANY);
    assert_int_equal(s.object_bytes, (uint64_t)MANY * 16);
    assert_true(s.arena_bytes < (uint64_t)MANY * 42); /* 16 + header 16 + slot 8 */
    for (uint64_t i = 0; i < MANY; i += 997) {
        uint64_t got[2];
        assert_int_equal(heap_copy(heap, ptrs[i], 0, got, sizeof got), 0);
        assert_int_equal(got[0], i + 1);
        assert_int_equal(got[1], 0);
    }
    check();
    for (uint64_t i = 0; i < MANY; i++) {
        del(ptrs[i]);
    }
    struct heap_object o;
    assert_int_equal(heap_stat(heap, ptrs[0], &o), ERR_STALE);
    assert_int_equal(heap_stat(heap, ptrs[MANY - 1], &o), ERR_STALE);
    free(ptrs);
    assert_int_equal(stats().object_count, 0);
    assert_true(header(heap)->used_granules << 8 <= 2 * SLAB_BYTES);
    stop();
}

/* ---- very large ---- */

static void an_object_of_a_gibibyte(void **state)
{
    (void)state;
    const uint64_t full = OBJECT_BYTES_MAX;
    start(full + full / 2);
    uint64_t ptr = put(full);
    assert_int_not_equal(ptr, 0);
    assert_int_equal(put(full), 0);
    const uint64_t places[] = {8, MIB - 3, 512 * MIB - 1, full - 6};
    for (size_t i = 0; i < 4; i++) {
        put_bytes(ptr, places[i], "border");
    }
    for (size_t i = 0; i < 4; i++) {
        has_bytes(ptr, places[i], "border");
    }
    uint64_t version = begin();
    assert_int_equal(heap_write(heap, version, ptr, full - 5, slice_of("border", 6)), ERR_RANGE);
    heap_end(heap);
    assert_true(stats().present_pages < 4000); /* what was never written has no memory */
    check();
    assert_int_equal(resize(ptr, full + 1), ERR_TOOBIG);
    assert_int_equal(resize(ptr, 3 * MIB + 5), 0);
    has_bytes(ptr, MIB - 3, "border");
    defrag(); /* the last chunk's new block came before the others went, so behind them */
    assert_true(stats().arena_bytes < 16 * MIB);
    check();
    assert_int_equal(resize(ptr, full), 0);
    has_bytes(ptr, MIB - 3, "border");
    has_bytes(ptr, full - 6, "\0\0\0\0\0"); /* cut off, and zero now */

    version = begin();
    assert_int_equal(heap_set_retention(heap, 1000000), 0);
    heap_end(heap);
    put_bytes(ptr, full - 6, "newest");
    assert_int_equal(resize(ptr, MIB / 2), 0);
    check();
    del(ptr);
    struct heap_object o;
    assert_int_equal(heap_stat(heap, ptr, &o), ERR_STALE);
    assert_true(stats().dead_count == 1 && stats().undo_count >= 3);
    check();
    version = begin();
    assert_int_equal(heap_set_retention(heap, 0), 0);
    for (uint64_t left = 1; left != 0;) {
        heap_reclaim(heap, UINT64_MAX, HEAP_RECLAIM_RECORDS_MAX, &left);
    }
    heap_end(heap);
    assert_int_equal(stats().object_count + stats().dead_count, 0);
    defrag();
    assert_true(stats().arena_bytes < 2 * MIB);
    stop();
}

/* ---- free space that is of no use ---- */

/* Every second of equal extents goes: half is free, and nothing larger fits. */
static void holes_are_of_no_use_until_compaction(void **state)
{
    (void)state;
    const uint64_t sizes[] = {2100, 4000, 20000, 65000};
    for (size_t k = 0; k < 4; k++) {
        uint64_t size = sizes[k];
        start(32 * MIB);
        static uint64_t ptrs[1 << 15];
        uint64_t count = 0;
        while ((ptrs[count] = put(size)) != 0) {
            count++;
        }
        for (uint64_t i = 0; i < count; i += 2) {
            del(ptrs[i]);
        }
        /* Just above a hole: none fits, though half the heap is free. */
        struct heap_stats s = stats();
        assert_true(s.free_bytes > s.arena_bytes_max / 3);
        assert_true(s.largest_free_bytes < 4 * size);
        uint64_t ptr = 0;
        uint64_t version = begin();
        assert_int_equal(heap_alloc(heap, version, 4 * size + MIB / 4, 1, slice_of(NULL, 0), &ptr),
                         ERR_NOSPACE);
        heap_end(heap);
        assert_int_equal(ptr, 0);
        check();
        defrag();
        check();
        assert_true(stats().largest_free_bytes > s.free_bytes / 8 * 7);
        uint64_t more = 0;
        while (put(MIB) != 0) {
            more++;
        }
        assert_true(more >= s.free_bytes / MIB - 2);
        for (uint64_t i = 1; i < count; i += 2) {
            struct heap_object o;
            assert_int_equal(heap_stat(heap, ptrs[i], &o), 0);
            assert_int_equal(o.size, size);
        }
        stop();
    }
}

/* Sizes that walk up, each just above the holes that the last ones left: best fit's bad case. */
static void sizes_that_grow_past_their_holes(void **state)
{
    (void)state;
    start(32 * MIB);
    static uint64_t ptrs[1 << 15];
    uint64_t count = 0;
    for (uint64_t size = 1100; size < 300000; size += size / 9 + 256) {
        while (count < 1u << 15 && (ptrs[count] = put(size)) != 0) {
            count++;
        }
        for (uint64_t i = 0; i < count;) { /* two of three go, so that holes have neighbours */
            if (dice() % 3 == 0) {
                i++;
                continue;
            }
            del(ptrs[i]);
            ptrs[i] = ptrs[--count];
        }
    }
    check();
    defrag();
    struct heap_stats s = stats();
    assert_true(s.largest_free_bytes > s.free_bytes / 8 * 7);
    stop();
}

/* ---- a full heap ---- */

static void filled_to_the_last_byte_and_emptied_a_hundred_times(void **state)
{
    (void)state;
    start(4 * MIB);
    static uint64_t ptrs[1 << 18];
    uint64_t first = 0;
    for (int round = 0; round < 100; round++) {
        uint64_t count = 0;
        uint64_t bytes = 0;
        for (uint64_t size = 65536; size > 0; size /= 2) { /* ever smaller, until nothing fits */
            while ((ptrs[count] = put(size)) != 0) {
                bytes += size;
                count++;
            }
        }
        assert_true(bytes > 4 * MIB / 100 * 97);
        assert_int_equal(put(1), 0);
        first = round == 0 ? bytes : first;
        /* Slots that were used once keep their page, nothing else is lost. */
        assert_true(bytes + MIB / 32 > first);
        if (round % 25 == 0) {
            check();
        }
        for (uint64_t i = 0; i < count; i++) { /* in another order each time */
            uint64_t j = i + dice() % (count - i);
            uint64_t ptr = ptrs[j];
            ptrs[j] = ptrs[i];
            del(ptr);
        }
        assert_int_equal(stats().object_count, 0);
    }
    stop();
}

/* ---- slots that are used up ---- */

static void a_page_of_slots_is_used_up_and_leaves(void **state)
{
    (void)state;
    start(4 * MIB);
    uint64_t kept = put(16);
    uint64_t first = put(16);
    uint64_t slot = first & (((uint64_t)1 << PTR_SLOT_BITS) - 1);
    del(first);
    /* A slot's generations, one object at a time: the list is last in, first out. */
    uint64_t uses = 1;
    for (;;) {
        uint64_t ptr = put(16);
        if ((ptr & (((uint64_t)1 << PTR_SLOT_BITS) - 1)) != slot) {
            del(ptr);
            break;
        }
        assert_int_not_equal(ptr, first);
        del(ptr);
        uses++;
    }
    assert_true(uses >= SLOT_GENERATION_MAX);
    assert_int_equal(slot_word_state(slot_get(heap, slot)), SLOT_RETIRED);
    struct heap_object o;
    assert_int_equal(heap_stat(heap, first, &o), ERR_STALE);
    check();
    del(kept);
    uint64_t gone = header(heap)->slot_retired;
    for (uint64_t i = 0; i < (uint64_t)SLOTS_PER_PAGE * SLOT_GENERATION_MAX * 2; i++) {
        del(put(16));
        if (header(heap)->slot_retired > gone) {
            break;
        }
    }
    assert_int_equal(header(heap)->slot_retired, gone + 1);
    assert_int_equal(slot_frame(heap, 0), -1);
    assert_int_equal(heap_stat(heap, first, &o), ERR_STALE);
    assert_int_equal(heap_stat(heap, kept, &o), ERR_STALE);
    check();
    uint64_t ptr = put(16);
    assert_int_equal(heap_stat(heap, ptr, &o), 0);
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_million_objects_live_at_once),
        cmocka_unit_test(an_object_of_a_gibibyte),
        cmocka_unit_test(holes_are_of_no_use_until_compaction),
        cmocka_unit_test(sizes_that_grow_past_their_holes),
        cmocka_unit_test(filled_to_the_last_byte_and_emptied_a_hundred_times),
        cmocka_unit_test(a_page_of_slots_is_used_up_and_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
