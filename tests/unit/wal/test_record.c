/* Packing and unpacking: what goes in comes out, and anything else is refused. */
#include "support/test.h"

#include "base/err.h"
#include "wal/wal_layout.h"

static const struct wal_header header = {
    .sequence = 3, .salt = 0x1122334455667788, .base = 1 << 20, .bytes = 1 << 20, .node_uid = 9};

static void a_header_comes_back_and_no_flipped_bit_passes(void **state)
{
    uint8_t bytes[WAL_HEADER_BYTES];
    struct wal_header h;

    (void)state;
    wal__header_pack(&header, bytes);
    assert_int_equal(wal__header_unpack(bytes, &h), 0);
    assert_memory_equal(&h, &header, sizeof h);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(wal__header_unpack(bytes, &h), ERR_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void headers_out_of_range_are_refused(void **state)
{
    uint8_t bytes[WAL_HEADER_BYTES];
    struct wal_header h, out;

    (void)state;
    h = header;
    h.sequence = 0;
    wal__header_pack(&h, bytes);
    assert_int_equal(wal__header_unpack(bytes, &out), ERR_CORRUPT);
    h = header;
    h.bytes = (1 << 20) + 1;
    wal__header_pack(&h, bytes);
    assert_int_equal(wal__header_unpack(bytes, &out), ERR_CORRUPT);
    h = header;
    h.base = 1ull << 63;
    wal__header_pack(&h, bytes);
    assert_int_equal(wal__header_unpack(bytes, &out), ERR_CORRUPT);
}

static void a_record_comes_back_and_no_flipped_bit_passes(void **state)
{
    uint8_t bytes[128];
    struct wal_record in = {.kind = WAL_KIND_ENTRY,
                            .type = 7,
                            .uid = 1,
                            .index = 2,
                            .term = 3,
                            .data = slice_of("hello", 5)};
    struct wal_record out;
    size_t len = wal__record_pack(&in, bytes), got;

    (void)state;
    assert_int_equal(len, wal__record_bytes(5));
    assert_int_equal(wal__record_unpack(slice_of(bytes, len), &out, &got), 0);
    assert_int_equal(got, len);
    assert_int_equal(out.kind, in.kind);
    assert_int_equal(out.type, 7);
    assert_int_equal(out.uid, 1);
    assert_int_equal(out.index, 2);
    assert_int_equal(out.term, 3);
    assert_true(slice_equals(out.data, in.data));
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(wal__record_unpack(slice_of(bytes, i), &out, &got), ERR_CORRUPT);
    }
    for (size_t bit = 0; bit < 8 * (WAL_RECORD_HEAD_BYTES + 5); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(wal__record_unpack(slice_of(bytes, len), &out, &got), ERR_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void a_block_belongs_to_one_life_of_one_place(void **state)
{
    uint8_t block[2 * WAL_ALIGN];
    struct wal_block_head in = {
        .bytes = 5000, .records = 2, .synced_to = 77, .position = 5, .position_end = 9, .flags = 1};
    struct wal_block_head out;
    struct wal_header other;
    struct slice s = slice_of(block, sizeof block);

    (void)state;
    memset(block, 0xab, sizeof block);
    assert_int_equal(wal__block_seal(block, &in, &header, 8192), 8192);
    assert_int_equal(block[8191], 0);
    assert_true(wal__block_check(s, &header, 8192, &out));
    assert_memory_equal(&in, &out, sizeof in);
    assert_false(wal__block_check(s, &header, 4096, &out));
    assert_false(wal__block_check(slice_of(block, 8191), &header, 8192, &out));
    assert_false(wal__block_check(slice_of(block, 0), &header, 8192, &out));
    other = header;
    other.salt++;
    assert_false(wal__block_check(s, &other, 8192, &out));
    other = header;
    other.sequence++;
    assert_false(wal__block_check(s, &other, 8192, &out));
    for (size_t i = 0; i < sizeof block; i++) {
        block[i] ^= 0x40;
        assert_false(wal__block_check(s, &header, 8192, &out));
        block[i] ^= 0x40;
    }
}

static void a_restate_out_of_order_is_refused(void **state)
{
    struct wal_restate in = {.prev_index = 5, .last_index = 4}, out;
    uint8_t bytes[WAL_RESTATE_BYTES];

    (void)state;
    wal__restate_pack(&in, bytes);
    assert_int_equal(wal__restate_unpack(slice_of(bytes, sizeof bytes), &out), ERR_CORRUPT);
    in.last_index = 5;
    wal__restate_pack(&in, bytes);
    assert_int_equal(wal__restate_unpack(slice_of(bytes, sizeof bytes), &out), 0);
    assert_int_equal(wal__restate_unpack(slice_of(bytes, sizeof bytes - 1), &out), ERR_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_comes_back_and_no_flipped_bit_passes),
        cmocka_unit_test(headers_out_of_range_are_refused),
        cmocka_unit_test(a_record_comes_back_and_no_flipped_bit_passes),
        cmocka_unit_test(a_block_belongs_to_one_life_of_one_place),
        cmocka_unit_test(a_restate_out_of_order_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
