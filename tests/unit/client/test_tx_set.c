/* A transaction's set: what it travels as is what the shards take, and its ranges are what a plain
 * array of bytes would be. */
#include "alloc/txn.h"
#include "base/mem.h"
#include "client/tx_set.h"
#include "support/test.h"

static struct core_shard shards[20];
static struct cairn_heap heap;

static struct tx_set *set_new(void)
{
    struct tx_set *set = sdk__tx_set_new(NULL);
    assert_non_null(set);
    set->opts.items_max = TX_ITEMS_MAX;
    set->opts.bytes_max = TX_BYTES_MAX;
    for (uint32_t i = 0; i < 20; i++) {
        shards[i].uid = 100 + i;
    }
    return set;
}

static struct tx_object *object_of(struct tx_set *set, uint32_t shard, uint64_t ptr)
{
    struct tx_object *object = sdk__tx_set_object(set, &heap, &shards[shard], ptr);
    assert_non_null(object);
    return object;
}

static void parts_are_what_shards_take(void **state)
{
    (void)state;
    struct tx_set *set = set_new();
    struct tx_parts parts;
    struct tx_object *a = object_of(set, 0, 1);
    struct tx_object *fresh = object_of(set, 1, 2);
    struct tx_root *root = sdk__tx_set_root(set, &heap, &shards[1], slice_of("name", 4));
    assert_int_equal(sdk__tx_set_saw_object(set, a, 77), 0);
    assert_int_equal(sdk__tx_compare_bytes(set, a, 8, slice_of("abc", 3)), 0);
    assert_int_equal(sdk__tx_write_bytes(set, a, 0, slice_of("12345678", 8)), 0);
    fresh->born = fresh->sized = true;
    fresh->size = 100;
    fresh->session = 5;
    assert_int_equal(sdk__tx_write_bytes(set, fresh, 0, slice_of("init", 4)), 0);
    assert_int_equal(sdk__tx_write_bytes(set, fresh, 50, slice_of("more", 4)), 0);
    assert_int_equal(sdk__tx_set_saw_root(set, root, 9, 3), 0);
    root->written = true;
    root->desired = 2;
    memset(&parts, 0, sizeof parts);
    assert_int_equal(sdk__tx_parts_encode(set, &parts), 0);
    assert_int_equal(parts.count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct txn_part_header header;
        struct txn_cursor cursor;
        struct slice bytes = slice_of(parts.parts[i].bytes.data, parts.parts[i].bytes.len);
        assert_int_equal(txn_part_check(bytes, false), 0);
        assert_int_equal(txn_part_open(bytes, &header, &cursor), 0);
        assert_int_equal(header.session, i == 0 ? 0 : 5);
        assert_int_equal(header.items, i == 0 ? 3 : 4);
    }
    sdk__tx_parts_order(&parts);
    assert_int_equal(parts.parts[0].shard->uid, 101); /* the one with most items */
    sdk__tx_parts_free(&parts);
    sdk__tx_set_free(set);
}

static void sixteen_shards_are_enough(void **state)
{
    (void)state;
    struct tx_set *set = set_new();
    struct tx_parts parts;
    for (uint32_t i = 0; i < 17; i++) {
        assert_int_equal(sdk__tx_set_saw_object(set, object_of(set, i, 1), 1), 0);
    }
    memset(&parts, 0, sizeof parts);
    assert_int_equal(sdk__tx_parts_encode(set, &parts), ERR_LIMIT);
    sdk__tx_parts_free(&parts);
    sdk__tx_set_free(set);
}

static void a_part_of_several_is_smaller_than_one_alone(void **state)
{
    (void)state;
    static uint8_t bytes[TX_PART_BYTES_MAX + 1];
    struct tx_set *set = set_new();
    struct tx_parts parts;
    assert_int_equal(
        sdk__tx_write_bytes(set, object_of(set, 0, 1), 0, slice_of(bytes, sizeof bytes)), 0);
    memset(&parts, 0, sizeof parts);
    assert_int_equal(sdk__tx_parts_encode(set, &parts), 0);
    sdk__tx_parts_free(&parts);
    assert_int_equal(sdk__tx_write_bytes(set, object_of(set, 1, 1), 0, slice_of(bytes, 1)), 0);
    memset(&parts, 0, sizeof parts);
    assert_int_equal(sdk__tx_parts_encode(set, &parts), ERR_TOOBIG);
    sdk__tx_parts_free(&parts);
    sdk__tx_set_free(set);
}

#define SPACE 96u

/* Random writes beside an array; the ranges neither touch nor overlap, and count what they cost. */
static void ranges_are_what_an_array_would_be(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252u;
    for (int round = 0; round < 300; round++) {
        struct tx_set *set = set_new();
        struct tx_object *object = object_of(set, 0, 1);
        uint8_t model[SPACE] = {0};
        bool written[SPACE] = {false};
        for (int i = 0; i < 12; i++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            uint64_t offset = random % SPACE;
            size_t len = 1 + (random >> 32) % 12;
            uint8_t bytes[12];
            len = offset + len > SPACE ? SPACE - offset : len;
            memset(bytes, (int)(random >> 16), sizeof bytes);
            assert_int_equal(sdk__tx_write_bytes(set, object, offset, slice_of(bytes, len)), 0);
            for (size_t k = 0; k < len; k++) {
                model[offset + k] = bytes[k];
                written[offset + k] = true;
            }
        }
        uint8_t found[SPACE] = {0};
        sdk__tx_overlay(object, 0, found, SPACE);
        assert_memory_equal(found, model, SPACE);
        uint32_t ranges = 0;
        size_t bytes = 0;
        uint64_t end = 0;
        list_for_each (it, &object->writes) {
            const struct tx_range *range = list_entry(it, struct tx_range, link);
            assert_true(ranges == 0 || range->offset > end);
            end = range->offset + range->bytes.len;
            bytes += range->bytes.len;
            ranges++;
            assert_true(sdk__tx_covered(object, range->offset, range->bytes.len));
            assert_false(sdk__tx_covered(object, range->offset, range->bytes.len + 1));
        }
        size_t expected = 0;
        for (size_t i = 0; i < SPACE; i++) {
            expected += written[i];
        }
        assert_int_equal(bytes, expected);
        assert_int_equal(set->items, ranges);
        assert_int_equal(set->size, bytes + ranges * sizeof(struct txn_item));
        sdk__tx_drop_writes(set, object);
        assert_int_equal(set->size, 0);
        sdk__tx_set_free(set);
    }
}

static void compares_split_around_own_writes(void **state)
{
    (void)state;
    struct tx_set *set = set_new();
    struct tx_object *object = object_of(set, 0, 1);
    assert_int_equal(sdk__tx_write_bytes(set, object, 4, slice_of("xy", 2)), 0);
    assert_int_equal(sdk__tx_compare_bytes(set, object, 2, slice_of("abxYcd", 6)), ERR_CONFLICT);
    assert_int_equal(sdk__tx_compare_bytes(set, object, 2, slice_of("abxycd", 6)), 0);
    const struct tx_range *last = list_entry(object->compares.prev, struct tx_range, link);
    assert_int_equal(last->offset, 6);
    assert_int_equal(last->bytes.len, 2);
    assert_memory_equal(last->bytes.data, "cd", 2);
    sdk__tx_set_free(set);
}

/* However often: what a round leaves is what the next one takes. */
static void ranges_that_go_leave_their_memory(void **state)
{
    (void)state;
    static uint8_t bytes[5000];
    struct tx_set *set = set_new();
    struct tx_object *object = object_of(set, 0, 1);
    struct tx_memory first = {.at = NULL};
    for (int round = 0; round < 1000; round++) {
        for (uint64_t i = 0; i < 30; i++) { /* apart, then longer, then all of them one */
            assert_int_equal(sdk__tx_write_bytes(set, object, i * 60, slice_of(bytes, 8)), 0);
            assert_int_equal(sdk__tx_write_bytes(set, object, i * 60 + 8, slice_of(bytes, 40)), 0);
        }
        assert_int_equal(sdk__tx_write_bytes(set, object, 0, slice_of(bytes, 1800)), 0);
        assert_int_equal(sdk__tx_write_bytes(set, object, 1800, slice_of(bytes, 3200)), 0);
        assert_ptr_equal(object->writes.next->next, &object->writes);
        assert_int_equal(set->bytes.large, 1);
        sdk__tx_drop_writes(set, object);
        assert_int_equal(set->bytes.large, 0);
        assert_int_equal(set->size, 0);
        if (round == 0) {
            first = set->bytes.memory;
        }
        assert_ptr_equal(set->bytes.memory.at, first.at);
        assert_ptr_equal(set->bytes.memory.blocks, first.blocks);
    }
    sdk__tx_set_free(set);
}

static void objects_are_found_again_however_many(void **state)
{
    (void)state;
    static struct tx_object *objects[3][3000];
    struct tx_set *set = set_new();
    for (uint64_t i = 0; i < 3000; i++) {
        for (uint32_t shard = 0; shard < 3; shard++) {
            if (i % 100 == 50) {
                mem_fault(0, 1); /* of the first that is asked for: it needn't be this object's */
            }
            objects[shard][i] = sdk__tx_set_object(set, &heap, &shards[shard], i << 38 | i);
            mem_fault(0, 0);
            if (objects[shard][i] == NULL) {
                objects[shard][i] = object_of(set, shard, i << 38 | i);
            }
        }
    }
    assert_int_equal(set->object_count, 9000);
    for (uint64_t i = 0; i < 3000; i++) {
        for (uint32_t shard = 0; shard < 3; shard++) {
            assert_ptr_equal(object_of(set, shard, i << 38 | i), objects[shard][i]);
        }
    }
    sdk__tx_set_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_what_shards_take),
        cmocka_unit_test(sixteen_shards_are_enough),
        cmocka_unit_test(a_part_of_several_is_smaller_than_one_alone),
        cmocka_unit_test(ranges_are_what_an_array_would_be),
        cmocka_unit_test(ranges_that_go_leave_their_memory),
        cmocka_unit_test(objects_are_found_again_however_many),
        cmocka_unit_test(compares_split_around_own_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
