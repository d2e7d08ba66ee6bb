#include "tests/support/test.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"

static void appended_bytes_are_in_order(void **state)
{
    (void)state;
    struct buf b = {0};
    uint8_t expected[5000];
    for (size_t i = 0; i < sizeof expected; i++) {
        expected[i] = (uint8_t)(i * 7);
        assert_int_equal(buf_append(&b, &expected[i], 1), 0);
        assert_int_equal(b.len, i + 1);
        assert_true(b.len <= b.capacity);
    }
    assert_memory_equal(b.data, expected, sizeof expected);
    buf_close(&b);
    assert_null(b.data);
    assert_int_equal(b.capacity, 0);
}

static void consume_moves_the_rest_to_the_front(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b);
    assert_int_equal(buf_append(&b, "abcdef", 6), 0);
    buf_consume(&b, 0);
    assert_int_equal(b.len, 6);
    buf_consume(&b, 2);
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.data, "cdef", 4);
    buf_consume(&b, 4);
    assert_int_equal(b.len, 0);
    buf_close(&b);
}

static void clear_keeps_the_memory(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_int_equal(buf_append(&b, "abc", 3), 0);
    uint8_t *data = b.data;
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_int_equal(buf_append(&b, "xyz", 3), 0);
    assert_ptr_equal(b.data, data);
    buf_close(&b);
}

static void failed_growth_changes_nothing(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_int_equal(buf_append(&b, "abc", 3), 0);
    uint8_t big[4096] = {0};
    mem_fault(0, -1);
    assert_int_equal(buf_append(&b, big, sizeof big), ERR_NOMEM);
    assert_int_equal(buf_reserve(&b, sizeof big), ERR_NOMEM);
    assert_null(buf_extend(&b, sizeof big));
    mem_fault(0, 0);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "abc", 3);
    buf_close(&b);
}

static void absurd_sizes_are_refused(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_int_equal(buf_append(&b, "abc", 3), 0);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), ERR_NOMEM);
    assert_int_equal(buf_reserve(&b, SIZE_MAX - 2), ERR_NOMEM);
    assert_int_equal(buf_reserve(&b, SIZE_MAX / 2), ERR_NOMEM);
    assert_int_equal(b.len, 3);
    buf_close(&b);
}

static void appending_nothing_is_fine(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_int_equal(buf_append(&b, NULL, 0), 0);
    assert_non_null(buf_extend(&b, 0));
    assert_int_equal(b.len, 0);
    buf_close(&b);
}

static void slices_compare_by_bytes(void **state)
{
    (void)state;
    assert_true(slice_equals(slice_of(NULL, 0), slice_of("x", 0)));
    assert_true(slice_equals(slice_of("ab", 2), slice_of("abc", 2)));
    assert_false(slice_equals(slice_of("ab", 2), slice_of("abc", 3)));
    assert_false(slice_equals(slice_of("ab", 2), slice_of("ac", 2)));
}

static void cursor_reads_little_endian(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 'x', 'y'};
    struct cursor c = cursor_of(slice_of(bytes, sizeof bytes));
    assert_int_equal(cursor_u8(&c), 1);
    assert_int_equal(cursor_u16(&c), 0x0302);
    assert_int_equal(cursor_u32(&c), 0x07060504);
    assert_true(cursor_u64(&c) == 0x0f0e0d0c0b0a0908u);
    assert_int_equal(cursor_left(&c), 2);
    struct slice rest = cursor_bytes(&c, 2);
    assert_ptr_equal(rest.data, bytes + 15);
    assert_int_equal(cursor_left(&c), 0);
    assert_false(c.failed);
}

static void cursor_stays_failed_after_a_short_read(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 2, 3};
    struct cursor c = cursor_of(slice_of(bytes, sizeof bytes));
    assert_int_equal(cursor_u32(&c), 0);
    assert_true(c.failed);
    assert_int_equal(cursor_u8(&c), 0);
    assert_int_equal(cursor_u16(&c), 0);
    assert_true(cursor_u64(&c) == 0);
    assert_null(cursor_bytes(&c, 1).data);
    assert_null(cursor_bytes(&c, 0).data);
    assert_int_equal(cursor_left(&c), 0);
}

static void cursor_refuses_lengths_beyond_the_end(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 2, 3};
    struct cursor c = cursor_of(slice_of(bytes, sizeof bytes));
    assert_null(cursor_bytes(&c, SIZE_MAX).data);
    assert_true(c.failed);
    struct cursor empty = cursor_of(slice_of(NULL, 0));
    assert_int_equal(cursor_bytes(&empty, 0).len, 0);
    assert_false(empty.failed);
    assert_int_equal(cursor_u8(&empty), 0);
    assert_true(empty.failed);
}

static void loads_give_back_what_was_stored(void **state)
{
    (void)state;
    uint8_t bytes[9] = {0};
    store_u64(bytes + 1, 0x1122334455667788u);
    assert_int_equal(bytes[1], 0x88);
    assert_true(load_u64(bytes + 1) == 0x1122334455667788u);
    assert_int_equal(load_u32(bytes + 1), 0x55667788);
    store_u16(bytes + 3, 0xabcd);
    assert_int_equal(load_u16(bytes + 3), 0xabcd);
    store_u32(bytes + 5, 0xdeadbeefu);
    assert_int_equal(load_u32(bytes + 5), 0xdeadbeefu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appended_bytes_are_in_order),
        cmocka_unit_test(consume_moves_the_rest_to_the_front),
        cmocka_unit_test(clear_keeps_the_memory),
        cmocka_unit_test(failed_growth_changes_nothing),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(appending_nothing_is_fine),
        cmocka_unit_test(slices_compare_by_bytes),
        cmocka_unit_test(cursor_reads_little_endian),
        cmocka_unit_test(cursor_stays_failed_after_a_short_read),
        cmocka_unit_test(cursor_refuses_lengths_beyond_the_end),
        cmocka_unit_test(loads_give_back_what_was_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
