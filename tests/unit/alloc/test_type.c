/* Types: the encoding and its hostile forms, what may be registered, what is compatible. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "alloc/engine.h"

#define NAME(text) slice_of(text, sizeof(text) - 1)

static struct heap *heap_new(void)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .shard = 5, .bytes_max = 8 << 20};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static struct heap_type account(void)
{
    return (struct heap_type){
        .number = 4,
        .size = 48,
        .name = NAME("account"),
        .field_count = 3,
        .fields = {{NAME("balance"), FIELD_I64, 0, 1, 0},
                   {NAME("next"), FIELD_PTR, 8, 2, 4},
                   {NAME("name"), FIELD_CHARS, 24, 20, 0}},
    };
}

static int put(struct heap *heap, uint64_t version, const struct heap_type *t)
{
    struct buf b = {0};
    assert_int_equal(heap_type_encode(t, &b), 0);
    int rv = heap_type_register(heap, version, t->number, slice_of(b.data, b.len));
    buf_close(&b);
    return rv;
}

static void elements_have_their_sizes(void **state)
{
    (void)state;
    assert_int_equal(heap_field_bytes(FIELD_PTR), 8);
    assert_int_equal(heap_field_bytes(FIELD_CHARS), 1);
    assert_int_equal(heap_field_bytes(FIELD_U16), 2);
    assert_int_equal(heap_field_bytes(FIELD_F32), 4);
    assert_int_equal(heap_field_bytes((enum heap_field_kind)0), 0);
    assert_int_equal(heap_field_bytes(FIELD_KINDS), 0);
    assert_int_equal(heap_field_bytes((enum heap_field_kind)200), 0);
}

static void a_type_comes_back_as_it_was_registered(void **state)
{
    (void)state;
    struct heap *heap = heap_new();
    struct heap_type in = account();
    struct heap_type out;
    heap_begin(heap, 1, 1, 1);
    assert_int_equal(heap_type_get(heap, 4, &out), ERR_NOTFOUND);
    assert_int_equal(put(heap, 9, &in), 0);
    assert_int_equal(put(heap, 10, &in), 0); /* again: nothing changes */
    heap_end(heap);
    assert_int_equal(heap_type_get(heap, 4, &out), 0);
    assert_int_equal(out.number, 4);
    assert_int_equal(out.version, 9);
    assert_int_equal(out.size, 48);
    assert_true(slice_equals(out.name, in.name));
    assert_int_equal(out.field_count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(slice_equals(out.fields[i].name, in.fields[i].name));
        assert_int_equal(out.fields[i].kind, in.fields[i].kind);
        assert_int_equal(out.fields[i].offset, in.fields[i].offset);
        assert_int_equal(out.fields[i].count, in.fields[i].count);
        assert_int_equal(out.fields[i].target, in.fields[i].target);
    }
    assert_int_equal(heap_type_next(heap, 0, &out), 0);
    assert_int_equal(out.number, 4);
    assert_int_equal(heap_type_next(heap, 4, &out), ERR_NOTFOUND);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static void types_are_listed_in_order_of_their_numbers(void **state)
{
    (void)state;
    struct heap *heap = heap_new();
    const uint32_t numbers[] = {70000, 3, 255, 256, 1, UINT32_MAX};
    const uint32_t sorted[] = {1, 3, 255, 256, 70000, UINT32_MAX};
    heap_begin(heap, 1, 1, 1);
    for (size_t i = 0; i < 6; i++) {
        char name[] = {'t', (char)('0' + i)};
        struct heap_type t = {.number = numbers[i], .size = 1, .name = slice_of(name, 2)};
        assert_int_equal(put(heap, 1, &t), 0);
    }
    heap_end(heap);
    struct heap_type t = {.number = 0};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(heap_type_next(heap, t.number, &t), 0);
        assert_int_equal(t.number, sorted[i]);
    }
    assert_int_equal(heap_type_next(heap, t.number, &t), ERR_NOTFOUND);
    heap_free(heap);
}

static void fields_must_lie_apart_and_inside(void **state)
{
    (void)state;
    struct heap *heap = heap_new();
    heap_begin(heap, 1, 1, 1);
    struct heap_type t = account();
    t.fields[1].offset = 7;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.fields[2].count = 25;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.fields[2].offset = UINT32_MAX;
    t.fields[2].count = UINT32_MAX;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.fields[1].name = t.fields[0].name;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.fields[0].target = 4;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.fields[0].count = 0; /* flexible, but not the last */
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.size = 0;
    t.field_count = 0;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.number = 0;
    assert_int_equal(put(heap, 1, &t), ERR_INVAL);
    t = account();
    t.fields[2].count = 0; /* a flexible array at the end */
    assert_int_equal(put(heap, 1, &t), 0);
    heap_end(heap);
    assert_int_equal(heap_map_count(heap, HEAP_MAP_TYPES), 1);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static void a_type_may_grow_and_nothing_else(void **state)
{
    (void)state;
    struct heap *heap = heap_new();
    struct heap_type out;
    struct heap_type t = account();
    struct heap_type old = account();
    heap_begin(heap, 1, 1, 1);
    assert_int_equal(put(heap, 1, &old), 0);
    t.size = 40;
    t.fields[2].count = 16;
    assert_int_equal(put(heap, 2, &t), ERR_CONFLICT); /* a field shrank */
    t = account();
    t.fields[0].kind = FIELD_U64;
    assert_int_equal(put(heap, 2, &t), ERR_CONFLICT);
    t = account();
    t.fields[1].target = 0;
    assert_int_equal(put(heap, 2, &t), ERR_CONFLICT);
    t = account();
    t.name = NAME("other");
    assert_int_equal(put(heap, 2, &t), ERR_CONFLICT);
    t = account();
    t.number = 5;
    assert_int_equal(put(heap, 2, &t), ERR_CONFLICT); /* the name belongs to 4 */
    t = account();
    t.fields[2] = (struct heap_field){NAME("flags"), FIELD_U32, 44, 1, 0};
    assert_int_equal(put(heap, 2, &t), ERR_CONFLICT); /* one gone, one new */
    t = account();
    t.size = 64;
    t.field_count = 5;
    t.fields[3] = (struct heap_field){NAME("flags"), FIELD_U32, 44, 1, 0};
    t.fields[4] = (struct heap_field){NAME("more"), FIELD_BYTES, 48, 16, 0};
    assert_int_equal(put(heap, 3, &t), 0);
    assert_int_equal(heap_type_get(heap, 4, &out), 0);
    assert_int_equal(out.field_count, 5);
    assert_int_equal(out.size, 64);
    assert_int_equal(out.version, 3);
    assert_int_equal(put(heap, 4, &old), 0); /* a program that knows the old form */
    assert_int_equal(heap_type_get(heap, 4, &out), 0);
    assert_int_equal(out.field_count, 5);
    assert_int_equal(out.version, 3);
    heap_end(heap);
    heap_free(heap);
}

static void hostile_bytes_are_refused(void **state)
{
    (void)state;
    struct heap *heap = heap_new();
    struct heap_type t = account();
    struct heap_type out;
    struct buf b = {0};
    assert_int_equal(heap_type_encode(&t, &b), 0);
    heap_begin(heap, 1, 1, 1);
    for (size_t len = 0; len < b.len; len++) {
        assert_int_equal(heap_type_register(heap, 1, 4, slice_of(b.data, len)), ERR_PROTOCOL);
    }
    assert_int_equal(buf_append(&b, "x", 1), 0);
    assert_int_equal(heap_type_register(heap, 1, 4, slice_of(b.data, b.len)), ERR_PROTOCOL);
    b.len--;
    /* Any byte changed in any way is refused, or is another sound type. */
    unsigned refused = 0;
    for (size_t i = 0; i < b.len; i++) {
        for (unsigned x = 1; x < 256; x++) {
            b.data[i] ^= (uint8_t)x;
            int rv = heap_type_register(heap, 1, 4, slice_of(b.data, b.len));
            assert_true(rv == 0 || rv == ERR_PROTOCOL || rv == ERR_INVAL || rv == ERR_CONFLICT);
            refused += rv != 0;
            if (heap_map_count(heap, HEAP_MAP_TYPES) != 0) {
                assert_int_equal(heap_type_get(heap, 4, &out), 0);
                uint8_t key[4] = {0, 0, 0, 4};
                assert_int_equal(heap_map_delete(heap, HEAP_MAP_TYPES, slice_of(key, 4)), 0);
            }
            b.data[i] ^= (uint8_t)x;
        }
    }
    assert_true(refused > b.len * 100);
    heap_end(heap);
    buf_close(&b);
    t.name = NAME("a b");
    assert_int_equal(heap_type_encode(&t, &b), ERR_INVAL);
    t.name = slice_of("", 0);
    assert_int_equal(heap_type_encode(&t, &b), ERR_INVAL);
    buf_close(&b);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static void there_is_an_end_to_types(void **state)
{
    (void)state;
    struct heap *heap = heap_new();
    heap_begin(heap, 1, 1, 1);
    for (uint32_t i = 1; i <= HEAP_TYPES_MAX + 1; i++) {
        char name[4] = {'t', (char)('a' + i % 26), (char)('a' + i / 26 % 26),
                        (char)('a' + i / 676)};
        struct heap_type t = {.number = i, .size = 1, .name = slice_of(name, sizeof name)};
        assert_int_equal(put(heap, 1, &t), i <= HEAP_TYPES_MAX ? 0 : ERR_LIMIT);
    }
    heap_end(heap);
    assert_int_equal(heap_map_count(heap, HEAP_MAP_TYPES), HEAP_TYPES_MAX);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_have_their_sizes),
        cmocka_unit_test(a_type_comes_back_as_it_was_registered),
        cmocka_unit_test(types_are_listed_in_order_of_their_numbers),
        cmocka_unit_test(fields_must_lie_apart_and_inside),
        cmocka_unit_test(a_type_may_grow_and_nothing_else),
        cmocka_unit_test(hostile_bytes_are_refused),
        cmocka_unit_test(there_is_an_end_to_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
