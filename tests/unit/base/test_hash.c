#include "tests/support/test.h"

#include "base/hash.h"

/* The values stand in media: if one of these changes, files and digests of older versions can't be
 * read. */
static void values_never_change(void **state)
{
    (void)state;
    assert_true(hash64(0, "", 0) == 0x2d06800538d394c2u);
    assert_true(hash64(0, "cairn", 5) == hash64(0, "cairn", 5));
    uint8_t bytes[1024];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)i;
    }
    uint64_t sum = 0;
    for (size_t len = 0; len <= sizeof bytes; len++) {
        sum = sum * 31 + hash64(len, bytes, len);
    }
    assert_true(sum == 0x4c952c796e34e9d2u);
}

static void seed_and_bytes_matter(void **state)
{
    (void)state;
    assert_true(hash64(1, "cairn", 5) != hash64(2, "cairn", 5));
    assert_true(hash64(1, "cairn", 5) != hash64(1, "cairm", 5));
    assert_true(hash64(1, "cairn", 5) != hash64(1, "cairn", 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_never_change),
        cmocka_unit_test(seed_and_bytes_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
