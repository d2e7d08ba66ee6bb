#include "consensus_fixture.h"

static void round_trip_gives_the_same_configuration(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= NODES_MAX * 2; n++) {
        struct consensus_config in = config_of((n + 1) / 2, n), out;
        in.servers[0].id = UINT64_MAX;
        struct buf bytes = {0};
        assert_int_equal(consensus_config_encode(&in, &bytes), 0);
        assert_int_equal(bytes.len % 8, 0);
        assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), 0);
        assert_int_equal(out.count, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(out.servers[i].id == in.servers[i].id);
            assert_int_equal(out.servers[i].role, in.servers[i].role);
        }
        buf_close(&bytes);
    }
}

static void every_prefix_is_refused(void **state)
{
    (void)state;
    struct consensus_config config = config_of(3, 4), out;
    struct buf bytes = {0};
    assert_int_equal(consensus_config_encode(&config, &bytes), 0);
    for (size_t n = 0; n < bytes.len; n++) {
        assert_int_equal(consensus_config_decode(slice_of(bytes.data, n), &out), ERR_PROTOCOL);
        assert_int_equal(out.count, 0);
    }
    uint8_t zero = 0;
    assert_int_equal(buf_append(&bytes, &zero, 1), 0);
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    buf_close(&bytes);
}

static void every_flipped_bit_is_refused_or_another_valid_configuration(void **state)
{
    (void)state;
    struct consensus_config config = config_of(3, 4), out;
    struct buf bytes = {0}, again = {0};
    assert_int_equal(consensus_config_encode(&config, &bytes), 0);
    for (size_t i = 0; i < bytes.len * 8; i++) {
        bytes.data[i / 8] ^= (uint8_t)(1 << i % 8);
        if (consensus_config_decode(slice_of(bytes.data, bytes.len), &out) == 0) {
            buf_clear(&again);
            assert_int_equal(consensus_config_encode(&out, &again), 0);
            assert_true(
                slice_equals(slice_of(bytes.data, bytes.len), slice_of(again.data, again.len)));
        }
        bytes.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    buf_close(&bytes);
    buf_close(&again);
}

static void no_servers_no_voters_too_many_and_doubles_are_refused(void **state)
{
    (void)state;
    struct consensus_config out;
    struct buf bytes = {0};
    struct consensus_config two = config_of(2, 2);
    assert_int_equal(consensus_config_encode(&two, &bytes), 0);
    uint8_t *first_role = bytes.data + 9 + 8 + 17, *second_role = first_role + 26;
    *first_role = *second_role = CONSENSUS_STANDBY;
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    *first_role = 3;
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    *first_role = CONSENSUS_VOTER;
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), 0);
    memcpy(bytes.data + 9 + 26, bytes.data + 9, 26); /* the same server twice */
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    store_u64(bytes.data + 1, UINT64_MAX);
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    store_u64(bytes.data + 1, 0);
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    bytes.data[0] = 2;
    assert_int_equal(consensus_config_decode(slice_of(bytes.data, bytes.len), &out), ERR_PROTOCOL);
    buf_close(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_gives_the_same_configuration),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused_or_another_valid_configuration),
        cmocka_unit_test(no_servers_no_voters_too_many_and_doubles_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
