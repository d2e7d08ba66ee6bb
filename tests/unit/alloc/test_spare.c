/* Spares: what was freed keeps its slot and its block for the next object of its class. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "txn_part.h"

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
    /* Where history begins they go. */
    ptr = alloc(heap, 8, slice_of(NULL, 0));
    assert_int_equal(heap_set_retention(heap, 1000), 0);
    assert_false(spares_exist(heap));
    assert_int_equal(heap_free_object(heap, heap_next_version(heap), ptr), 0);
    assert_int_equal(spare_count(heap, 8), 0);
    check(heap);
    assert_int_equal(heap_set_retention(heap, 0), 0);
    ptr = alloc(heap, 1008, slice_of(NULL, 0));
    assert_int_equal(heap_free_object(heap, heap_next_version(heap), ptr), 0);
    assert_int_equal(spare_count(heap, 1008), 1);
    /* For readers at a time, too. */
    assert_int_equal(heap_close_at(heap, heap_clock(heap), heap_clock(heap), 1000), 0);
    assert_false(spares_exist(heap));
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

static void a_spare_of_the_last_generation_is_used_once_more_and_retired(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    uint64_t slots[2];
    for (size_t i = 0; i < 2; i++) {
        slots[i] = ptr_slot(alloc(heap, 8, slice_of(NULL, 0)));
        uint64_t *entry = arena_write(&heap->arena, heap->regions.frames_at + slots[i] * 8, 8);
        *entry += SLOT_GENERATION_MAX - 2;
    }
    for (size_t i = 0; i < 2; i++) {
        uint64_t ptr = ptr_make(5, SLOT_GENERATION_MAX - 1, slots[i]);
        assert_int_equal(heap_free_object(heap, 1, ptr), 0);
    }
    assert_int_equal(spare_count(heap, 8), 2);
    uint64_t ptr = alloc(heap, 8, slice_of(NULL, 0));
    assert_int_equal(ptr, ptr_make(5, SLOT_GENERATION_MAX, slots[1]));
    assert_int_equal(heap_free_object(heap, 1, ptr), 0);
    assert_int_equal(spare_drop_all(heap), 0);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(slot_word_state(slot_get(heap, slots[i])), SLOT_RETIRED);
    }
    heap_done(heap);
}

static void where_history_is_kept_they_are_damage(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    struct err_text e = {""};
    assert_int_equal(heap_free_object(heap, 1, alloc(heap, 8, slice_of(NULL, 0))), 0);
    check(heap);
    header_edit(heap)->retention_ms = 1000;
    assert_int_equal(heap_check(heap, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "history"));
    header_edit(heap)->retention_ms = 0;
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
    struct heap_command c = {.kind = HEAP_COMMAND_ALLOC, .size = 4000};
    uint64_t last[8];
    struct heap_outcome out = {.code = 0};
    for (size_t i = 0; out.code == 0; i++) {
        assert_int_equal(heap_apply(heap, 1, &c, &out), 0);
        last[i % 8] = out.code == 0 ? out.value : last[i % 8];
    }
    assert_int_equal(out.code, ERR_NOSPACE);
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

/* ---- whoever needs the space gets it: the only space there is are spares ---- */

#define SESSION 9
#define LEASED  (10 * HEAP_LEASE_SLOTS_MAX)

struct fixture {
    struct heap *heap;
    uint64_t lease[LEASED]; /* pointers, of which `used` are objects */
    uint32_t used;
    uint64_t odd;        /* of 40 bytes, the only one of its class */
    uint64_t large[500]; /* of 1008 bytes */
    uint32_t larges;
    uint64_t last[SPARES_MAX]; /* of 16 bytes, the newest ones */
};

static struct heap_outcome apply(struct fixture *f, struct heap_command c)
{
    struct heap_outcome out;
    assert_int_equal(heap_apply(f->heap, heap_next_version(f->heap), &c, &out), 0);
    return out;
}

static struct heap_outcome apply_alloc(struct fixture *f, uint64_t size)
{
    return apply(f, (struct heap_command){.kind = HEAP_COMMAND_ALLOC, .size = size});
}

static struct heap_outcome alloc_leased(struct fixture *f, uint64_t size)
{
    assert_true(f->used < LEASED);
    struct heap_outcome out = apply(f, (struct heap_command){.kind = HEAP_COMMAND_ALLOC,
                                                             .session = SESSION,
                                                             .ptr = f->lease[f->used],
                                                             .size = size});
    f->used += out.code == 0;
    return out;
}

static void lease(struct fixture *f)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < LEASED; i += HEAP_LEASE_SLOTS_MAX) {
        assert_int_equal(heap_lease(f->heap, SESSION, HEAP_LEASE_SLOTS_MAX, &number, f->lease + i),
                         0);
    }
}

static int prepare(struct fixture *f, const struct part *p, uint64_t seq)
{
    struct txn_result out;
    uint64_t participants[] = {7, 8};
    struct txn_prepare prepare = {.name = {.home = 8, .session = SESSION, .seq = seq},
                                  .deadline = heap_clock(f->heap) + 1000,
                                  .digest = 77,
                                  .participants = slice_of(participants, sizeof participants),
                                  .part = part_slice(p)};
    assert_int_equal(txn_apply_prepare(f->heap, heap_next_version(f->heap), &prepare, 0, &out), 0);
    assert_int_equal(out.answer, out.code == 0 ? TXN_YES : TXN_NO);
    return out.code;
}

static void part_of(struct fixture *f, struct part *p)
{
    part_begin(p, SESSION);
    part_alloc(p, f->lease[f->used], 16, slice_of(NULL, 0));
}

/* So many objects of 16 bytes that slots take more than an eighth of the limit, or the heap would
 * have no spares. */
#define SMALL_OBJECTS 17000u

/* Nothing fits any more, neither an object of 16 nor one of 1008 bytes; of maps every block that a
 * transaction will want. */
static void fixture_open(struct fixture *f)
{
    struct part p;
    struct txn_result out;
    memset(f, 0, sizeof *f);
    f->heap = heap_new(1 << 20);
    lease(f);
    part_of(f, &p);
    f->odd = apply_alloc(f, 40).value;
    assert_int_equal(prepare(f, &p, 1), 0);
    struct txn_name name = {.home = 8, .session = SESSION, .seq = 1};
    assert_int_equal(txn_apply_abort(f->heap, &name, 77, 0, &out), 0);
    f->used++;
    struct heap_command one = {.kind = HEAP_COMMAND_LEASE, .session = SESSION, .count = 1};
    assert_int_equal(apply(f, one).code, 0);
    for (uint32_t i = 0; i < SMALL_OBJECTS; i++) {
        assert_int_equal(apply_alloc(f, 16).code, 0);
    }
    struct heap_outcome next = {.code = 0};
    while ((next = apply_alloc(f, 1008)).code == 0) {
        f->large[f->larges++] = next.value;
    }
    for (uint32_t i = 0; (next = apply_alloc(f, 16)).code == 0; i++) {
        f->last[i % SPARES_MAX] = next.value;
    }
    while (alloc_leased(f, 16).code == 0) {
    }
    assert_true(f->last[SPARES_MAX - 1] != 0);
    assert_true(f->used < LEASED - 2);
    assert_false(spares_exist(f->heap));
    assert_false(spares_are_dear(f->heap));
}

static void free_all(struct fixture *f, const uint64_t *ptrs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(heap_free_object(f->heap, 1, ptrs[i]), 0);
    }
}

/* Blocks of 16 bytes and their slots. */
static void leave_blocks(struct fixture *f)
{
    free_all(f, f->last, SPARES_MAX);
    assert_int_equal(spare_count(f->heap, 16), SPARES_MAX);
    assert_int_equal(f->heap->room.blocks[POOL_OBJECTS][0], 0);
}

/* All objects of the second slab, which goes with the spares among them. */
static void leave_slab(struct fixture *f)
{
    uint32_t first = 0;
    uint32_t from = slab_shape(SLAB_BYTES_FIRST, class_of(1024), &first);
    free_all(f, f->large + from, slab_shape(SLAB_BYTES, class_of(1024), &first));
    free_all(f, f->large, 1); /* a class keeps one empty slab, if no other has a block */
    assert_int_equal(spare_count(f->heap, 1008), SPARES_MAX);
}

static void fixture_close(struct fixture *f)
{
    assert_false(spares_exist(f->heap));
    heap_done(f->heap);
}

/* ---- who asks for what can't be there leaves everything as it is ---- */

#define TOO_MUCH ((uint64_t)40 << 20)

static void no_space_at_all(struct fixture *f, struct heap_command c)
{
    assert_int_equal(apply(f, c).code, ERR_NOSPACE);
    assert_int_equal(spare_count(f->heap, 16), SPARES_MAX);
}

static void what_could_never_fit_takes_no_spares(void **state)
{
    struct fixture f = {.used = 0};
    struct part p;
    (void)state;
    f.heap = heap_new(32 << 20);
    lease(&f);
    uint64_t kept = apply_alloc(&f, 1000).value;
    for (uint32_t i = 0; i < SPARES_MAX; i++) {
        f.last[i] = apply_alloc(&f, 16).value;
    }
    free_all(&f, f.last, SPARES_MAX);
    no_space_at_all(&f, (struct heap_command){.kind = HEAP_COMMAND_ALLOC, .size = TOO_MUCH});
    no_space_at_all(&f, (struct heap_command){.kind = HEAP_COMMAND_ALLOC,
                                              .session = SESSION,
                                              .ptr = f.lease[0],
                                              .size = TOO_MUCH});
    no_space_at_all(
        &f, (struct heap_command){.kind = HEAP_COMMAND_REALLOC, .ptr = kept, .size = TOO_MUCH});
    part_begin(&p, SESSION);
    part_alloc(&p, f.lease[0], 100, slice_of(NULL, 0));
    part_alloc(&p, f.lease[1], TOO_MUCH, slice_of(NULL, 0));
    struct heap_command c = {.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)};
    assert_int_equal(apply(&f, c).code, ERR_NOSPACE); /* what was leased for it goes */
    assert_int_equal(spare_count(f.heap, 16), SPARES_MAX);
    heap_done(f.heap);
}

static void a_leased_object_gets_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    leave_blocks(&f);
    assert_int_equal(alloc_leased(&f, 16).code, 0);
    fixture_close(&f);
}

static void an_object_of_another_class_gets_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    leave_blocks(&f); /* with the slots that come next */
    leave_slab(&f);
    assert_int_equal(apply_alloc(&f, 5000).code, 0);
    fixture_close(&f);
}

static void a_transaction_of_one_shard_gets_it(void **state)
{
    struct fixture f;
    struct part p;
    (void)state;
    fixture_open(&f);
    leave_blocks(&f);
    part_of(&f, &p);
    struct heap_command c = {.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)};
    assert_int_equal(apply(&f, c).code, 0);
    fixture_close(&f);
}

static void a_prepared_transaction_gets_it(void **state)
{
    struct fixture f;
    struct part p;
    (void)state;
    fixture_open(&f);
    leave_blocks(&f);
    part_of(&f, &p);
    assert_int_equal(prepare(&f, &p, 2), 0);
    fixture_close(&f);
}

static void an_object_of_another_size_gets_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    leave_blocks(&f);
    struct heap_command c = {.kind = HEAP_COMMAND_REALLOC, .ptr = f.odd, .size = 10};
    assert_int_equal(apply(&f, c).code, 0);
    fixture_close(&f);
}

static void a_lease_gets_its_slots(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct heap_command c = {.kind = HEAP_COMMAND_LEASE, .session = SESSION, .count = 1};
    while (apply(&f, c).code == 0) {
    }
    leave_blocks(&f);
    assert_int_equal(apply(&f, c).code, 0);
    fixture_close(&f);
}

static void a_name_gets_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct heap_command c = {
        .kind = HEAP_COMMAND_ROOT_SET, .name = slice_of("a name", 6), .ptr = f.odd};
    char name[60];
    memset(name, 'n', sizeof name);
    for (size_t len = 1; len < sizeof name; len++) {
        c.name = slice_of(name, len);
        if (apply(&f, c).code != 0) {
            break;
        }
    }
    assert_int_equal(apply(&f, c).code, ERR_NOSPACE);
    leave_slab(&f);
    assert_int_equal(apply(&f, c).code, 0);
    fixture_close(&f);
}

static void history_gets_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct heap_command c = {.kind = HEAP_COMMAND_SET_RETENTION, .size = 1000};
    assert_int_equal(apply(&f, c).code, ERR_NOSPACE);
    leave_slab(&f);
    assert_int_equal(apply(&f, c).code, 0);
    fixture_close(&f);
}

/* What is at the end of the arena isn't kept there. */
static void the_tail_goes_with_them(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20);
    uint64_t ptrs[15 + 3 * 63]; /* four slabs */
    size_t count = sizeof ptrs / sizeof ptrs[0];
    for (size_t i = 0; i < count; i++) {
        ptrs[i] = alloc(heap, 1008, slice_of(NULL, 0));
    }
    for (size_t i = count; i-- > 14;) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), 0);
    }
    assert_int_equal(spare_count(heap, 1008), SPARES_MAX);
    (void)heap_trim(heap, UINT64_MAX);
    assert_false(spares_exist(heap));
    assert_int_equal(header(heap)->data_bytes, SLAB_BYTES_FIRST);
    heap_done(heap);
}

static void they_are_counted_apart(void **state)
{
    (void)state;
    struct heap *heap = heap_new(4 << 20);
    struct heap_stats s;
    struct heap_class_stats classes[HEAP_CLASSES];
    uint64_t ptrs[3];
    for (size_t i = 0; i < 3; i++) {
        ptrs[i] = alloc(heap, i == 0 ? 16 : 1000, slice_of(NULL, 0));
    }
    heap_get_stats(heap, &s);
    uint64_t allocated = s.object_block_bytes;
    assert_int_equal(s.spare_count, 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(heap_free_object(heap, 1, ptrs[i]), 0);
    }
    heap_get_stats(heap, &s);
    assert_int_equal(s.object_block_bytes, allocated);
    assert_int_equal(s.spare_count, 3);
    assert_int_equal(s.spare_bytes, 32 + 2 * 1024);
    heap_get_class_stats(heap, classes);
    for (uint32_t i = 0; i < HEAP_CLASSES; i++) {
        assert_int_equal(classes[i].spare, i == 0 ? 1 : i == class_of(1024) ? 2 : 0);
    }
    heap_done(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_is_used_next),
        cmocka_unit_test(only_small_objects_without_history_leave_one),
        cmocka_unit_test(each_class_keeps_a_few),
        cmocka_unit_test(the_last_generation_leaves_none),
        cmocka_unit_test(a_spare_of_the_last_generation_is_used_once_more_and_retired),
        cmocka_unit_test(where_history_is_kept_they_are_damage),
        cmocka_unit_test(a_full_heap_has_none),
        cmocka_unit_test(an_entry_of_a_nearly_full_heap_begins_without_any),
        cmocka_unit_test(what_could_never_fit_takes_no_spares),
        cmocka_unit_test(a_leased_object_gets_it),
        cmocka_unit_test(an_object_of_another_class_gets_it),
        cmocka_unit_test(a_transaction_of_one_shard_gets_it),
        cmocka_unit_test(a_prepared_transaction_gets_it),
        cmocka_unit_test(an_object_of_another_size_gets_it),
        cmocka_unit_test(a_lease_gets_its_slots),
        cmocka_unit_test(a_name_gets_it),
        cmocka_unit_test(history_gets_it),
        cmocka_unit_test(the_tail_goes_with_them),
        cmocka_unit_test(they_are_counted_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
