#include "tests/support/test.h"

#include "base/crc.h"

/* Bit by bit, from the definition in RFC 3720: reflected polynomial, complement before and after.
 */
static uint32_t crc_by_bits(uint32_t seed, const uint8_t *data, size_t len)
{
    uint32_t crc = ~seed;
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
        }
    }
    return ~crc;
}

static void known_answers(void **state)
{
    (void)state;
    uint8_t bytes[32];
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x8a9136aau); /* RFC 3720 B.4 */
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x62a8ab43u);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)i;
    }
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x46dd794eu);
    assert_int_equal(crc32c(0, NULL, 0), 0);
    assert_int_equal(crc32c(77, NULL, 0), 77);
}

static void equals_the_definition_at_every_length_and_alignment(void **state)
{
    (void)state;
    uint8_t bytes[600];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 31 + i / 7);
    }
    for (size_t start = 0; start < 16; start++) {
        for (size_t len = 0; len + start <= sizeof bytes; len += 1 + len / 16) {
            assert_int_equal(crc32c(5, bytes + start, len), crc_by_bits(5, bytes + start, len));
        }
    }
}

static void chains_at_every_cut(void **state)
{
    (void)state;
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 13);
    }
    uint32_t whole = crc32c(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut++) {
        uint32_t first = crc32c(0, bytes, cut);
        assert_int_equal(crc32c(first, bytes + cut, sizeof bytes - cut), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(equals_the_definition_at_every_length_and_alignment),
        cmocka_unit_test(chains_at_every_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
