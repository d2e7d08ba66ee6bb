/* Slots and leases: generations, retirement, what a pointer may still mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

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

static void heap_done(struct heap *heap)
{
    heap_end(heap);
    struct err_text e = {""};
    if (heap_check(heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
    heap_free(heap);
}

static uint64_t alloc(struct heap *heap)
{
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(heap, 1, 8, 0, slice_of(NULL, 0), &ptr), 0);
    return ptr;
}

/* Its slot and block go when it is freed: what isn't narrow leaves no spare. */
static uint64_t alloc_wide(struct heap *heap)
{
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(heap, 1, 8, OBJECT_NARROW_TYPES, slice_of(NULL, 0), &ptr), 0);
    return ptr;
}

static void a_slot_is_retired_when_its_generations_are_used_up(void **state)
{
    (void)state;
    struct heap *heap = heap_new(2 << 20);
    uint64_t first = 0;
    uint64_t old = 0;
    /* One page of 510 slots and all their lives, one at a time: the page leaves, and its frame is
     * used again. */
    for (uint64_t i = 0; i < (uint64_t)510 * SLOT_GENERATION_MAX + 3; i++) {
        uint64_t ptr = alloc(heap);
        if (ptr == old) {
            fail_msg("a pointer comes again");
        }
        first = first == 0 ? ptr : first;
        old = ptr;
        if (heap_free_object(heap, 1, ptr) != 0) {
            fail_msg("free");
        }
    }
    const uint8_t *bytes = NULL;
    uint64_t part = 0;
    assert_int_equal(heap_read(heap, first, 0, 1, &bytes, &part), ERR_STALE);
    assert_int_equal(header(heap)->slot_retired, 1);
    assert_int_equal(header(heap)->slot_pages, 2);
    assert_int_equal(header(heap)->slot_frames, 1);
    heap_done(heap);
}

/* The last object of a page of which all other slots are free or retired. */
static void a_page_whose_last_slot_is_retired_is_used_again(void **state)
{
    (void)state;
    struct heap *heap = heap_new(2 << 20);
    uint64_t ptrs[511];
    for (uint32_t i = 0; i < 511; i++) { /* one more than a page has */
        ptrs[i] = alloc_wide(heap);
    }
    for (uint32_t i = 0; i < 410; i++) {
        uint64_t slot = ptr_slot(ptrs[i]);
        uint64_t *entry = arena_write(
            &heap->arena, heap->regions.frames_at + slot * sizeof(uint64_t), sizeof(uint64_t));
        *entry |= SLOT_GENERATION_MAX;
        ptrs[i] = ptr_make(5, SLOT_GENERATION_MAX, slot);
    }
    for (uint32_t i = 1; i < 510; i++) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), 0);
    }
    assert_int_equal(header(heap)->slot_queue_count, 0);
    assert_int_equal(heap_free_object(heap, 1, ptrs[0]), 0);
    assert_int_equal(header(heap)->slot_queue_count, 1);
    heap_done(heap);
}

static void a_freed_pointer_is_stale_for_ever(void **state)
{
    (void)state;
    struct heap *heap = heap_new(2 << 20);
    uint64_t old = alloc(heap);
    uint64_t slot = ptr_slot(old);
    uint64_t lives = 1;
    assert_int_equal(heap_free_object(heap, 1, old), 0);
    for (uint64_t i = 0; i < 40000; i++) {
        uint64_t ptr = alloc(heap);
        lives += ptr_slot(ptr) == slot;
        assert_int_equal(heap_free_object(heap, 1, old), ERR_STALE);
        assert_int_equal(heap_realloc(heap, 1, old, 5), ERR_STALE);
        assert_int_equal(heap_free_object(heap, 1, ptr), 0);
        assert_int_equal(heap_free_object(heap, 1, ptr), ERR_STALE);
    }
    assert_int_equal(lives, SLOT_GENERATION_MAX);
    assert_int_equal(slot_word_state(slot_get(heap, slot)), SLOT_RETIRED);
    heap_done(heap);
}

/* A page comes back only when many of its slots are free, and pages take turns. */
static void pages_wait_in_a_queue(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20);
    static uint64_t ptrs[510 * 4];
    for (size_t i = 0; i < 510 * 4; i++) {
        ptrs[i] = alloc_wide(heap);
        assert_int_equal(ptr_slot(ptrs[i]), i / 510 * 512 + 2 + i % 510);
    }
    for (size_t i = 0; i < SLOT_PAGE_REUSE - 1; i++) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[510 + i]), 0);
    }
    assert_int_equal(header(heap)->slot_queue_count, 0);
    assert_int_equal(heap_free_object(heap, 1, ptrs[510 + SLOT_PAGE_REUSE - 1]), 0);
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), 0);
    }
    assert_int_equal(header(heap)->slot_queue_count, 2);
    for (size_t i = 0; i < SLOT_PAGE_REUSE + 1; i++) {
        uint64_t ptr = alloc_wide(heap); /* the page of the first free that made it so */
        assert_int_equal(ptr_slot(ptr) / 512, i < SLOT_PAGE_REUSE ? 1 : 0);
        assert_int_equal(ptr_generation(ptr), 2);
    }
    assert_int_equal(header(heap)->slot_queue_count, 0);
    heap_done(heap);
}

/* ---- leases ---- */

static void a_leased_pointer_is_final(void **state)
{
    (void)state;
    struct heap *heap = heap_new(2 << 20);
    uint64_t lease = 0;
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    assert_int_equal(heap_lease(heap, 77, 0, &lease, ptrs), ERR_INVAL);
    assert_int_equal(heap_lease(heap, 77, HEAP_LEASE_SLOTS_MAX + 1, &lease, ptrs), ERR_INVAL);
    assert_int_equal(heap_lease(heap, 77, 16, &lease, ptrs), 0);
    assert_int_equal(lease, 1);
    assert_int_equal(header(heap)->leased_count, 16);
    uint64_t other = alloc(heap);
    for (size_t i = 0; i < 16; i++) {
        assert_true(ptr_slot(ptrs[i]) != ptr_slot(other));
        /* Not an object yet, for nobody else, and not too large. */
        assert_int_equal(heap_write(heap, 1, ptrs[i], 0, slice_of("x", 1)), ERR_STALE);
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), ERR_STALE);
        assert_int_equal(heap_alloc_leased(heap, 1, 78, ptrs[i], 9, 0, slice_of(NULL, 0)),
                         ERR_STALE);
        assert_int_equal(heap_alloc_leased(heap, 1, 77, ptrs[i], 0, 0, slice_of(NULL, 0)),
                         ERR_INVAL);
        assert_int_equal(heap_alloc_leased(heap, 1, 77, ptrs[i], 8 << 20, 0, slice_of(NULL, 0)),
                         ERR_NOSPACE);
        assert_int_equal(heap_alloc_leased(heap, 1, 77, ptrs[i], 9, 4, slice_of("leased", 6)), 0);
        assert_int_equal(heap_alloc_leased(heap, 1, 77, ptrs[i], 9, 4, slice_of("leased", 6)),
                         ERR_STALE);
        char bytes[9];
        assert_int_equal(heap_copy(heap, ptrs[i], 0, bytes, 9), 0);
        assert_string_equal(bytes, "leased");
    }
    /* All are used: the lease is gone. */
    uint64_t session = 0;
    uint32_t count = 0;
    assert_int_equal(heap_lease_get(heap, lease, &session, ptrs, &count), ERR_NOTFOUND);
    assert_int_equal(heap_lease_return(heap, lease), ERR_NOTFOUND);
    assert_int_equal(header(heap)->leased_count, 0);
    heap_done(heap);
}

static void what_a_lease_has_left_can_be_asked_for_and_returned(void **state)
{
    (void)state;
    struct heap *heap = heap_new(2 << 20);
    uint64_t lease[2];
    uint64_t ptrs[8];
    uint64_t others[8];
    uint64_t left[8];
    assert_int_equal(heap_lease(heap, 5, 8, &lease[0], ptrs), 0);
    assert_int_equal(heap_lease(heap, 6, 8, &lease[1], others), 0);
    assert_int_equal(heap_alloc_leased(heap, 1, 5, ptrs[0], 1, 0, slice_of(NULL, 0)), 0);
    assert_int_equal(heap_alloc_leased(heap, 1, 5, ptrs[3], 1, 0, slice_of(NULL, 0)), 0);
    assert_int_equal(heap_free_object(heap, 1, ptrs[3]), 0); /* its slot may be anybody's now */
    uint64_t session = 0;
    uint32_t count = 0;
    assert_int_equal(heap_lease_get(heap, lease[0], &session, left, &count), 0);
    assert_int_equal(session, 5);
    assert_int_equal(count, 6);
    const size_t unused[] = {1, 2, 4, 5, 6, 7};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(left[i], ptrs[unused[i]]);
    }
    assert_int_equal(heap_lease_return(heap, lease[0]), 0);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(heap_alloc_leased(heap, 1, 5, left[i], 1, 0, slice_of(NULL, 0)),
                         ERR_STALE);
    }
    for (size_t i = 0; i < 7; i++) {
        uint64_t ptr = alloc(heap); /* the returned slots, each in its next life */
        assert_int_equal(ptr_generation(ptr), 2);
        assert_in_range(ptr_slot(ptr), ptr_slot(ptrs[0]), ptr_slot(ptrs[7]));
    }
    struct heap_object o;
    assert_int_equal(heap_stat(heap, ptrs[0], &o), 0);
    assert_int_equal(header(heap)->leased_count, 8);
    assert_int_equal(heap_lease_return(heap, lease[1]), 0);
    heap_done(heap);
}

static void a_lease_for_which_there_is_no_room_leaves_nothing(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    uint64_t lease = 0;
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    uint64_t leases = 0;
    while (heap_lease(heap, 1, HEAP_LEASE_SLOTS_MAX, &lease, ptrs) == 0) {
        leases++;
    }
    assert_true(leases > 100);
    assert_int_equal(heap_lease(heap, 1, HEAP_LEASE_SLOTS_MAX, &lease, ptrs), ERR_NOSPACE);
    assert_int_equal(header(heap)->leased_count, leases * HEAP_LEASE_SLOTS_MAX);
    assert_int_equal(heap_map_count(heap, HEAP_MAP_LEASES), leases);
    assert_int_equal(heap_check(heap, NULL), 0);
    for (uint64_t i = 1; i <= leases; i++) {
        assert_int_equal(heap_lease_return(heap, i), 0);
    }
    assert_int_equal(header(heap)->leased_count, 0);
    heap_done(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_whose_last_slot_is_retired_is_used_again),
        cmocka_unit_test(a_slot_is_retired_when_its_generations_are_used_up),
        cmocka_unit_test(a_freed_pointer_is_stale_for_ever),
        cmocka_unit_test(pages_wait_in_a_queue),
        cmocka_unit_test(a_leased_pointer_is_final),
        cmocka_unit_test(what_a_lease_has_left_can_be_asked_for_and_returned),
        cmocka_unit_test(a_lease_for_which_there_is_no_room_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
