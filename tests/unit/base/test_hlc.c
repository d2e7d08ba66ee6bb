#include "tests/support/test.h"

#include "base/hlc.h"

static void next_follows_the_wall_clock(void **state)
{
    (void)state;
    uint64_t t = hlc_next(0, 1000);
    assert_true(t == hlc_from_ms(1000));
    assert_true(hlc_to_ms(t) == 1000);
    assert_true(hlc_next(t, 1001) == hlc_from_ms(1001));
}

static void next_grows_when_the_clock_stands_or_goes_back(void **state)
{
    (void)state;
    uint64_t t = hlc_from_ms(1000);
    for (uint64_t i = 0; i < 200000; i++) {
        uint64_t next = hlc_next(t, 1000 - i % 1000);
        assert_true(next > t);
        t = next;
    }
    /* 65536 stamps of one millisecond and more run over into the next ones. */
    assert_true(hlc_to_ms(t) == 1000 + 200000 / 65536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next_follows_the_wall_clock),
        cmocka_unit_test(next_grows_when_the_clock_stands_or_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
