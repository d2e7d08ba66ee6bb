/* The bank check accepts a constant total and nothing else. */
#include "support/test.h"

#include "history/bank.h"

static void a_constant_total_holds(void **state)
{
    (void)state;
    struct bank b;
    bank_init(&b, 3, 30);
    assert_false(bank_holds(&b)); /* nothing was audited */
    assert_true(bank_audit(&b, 1, (int64_t[]){10, 10, 10}, 3));
    assert_true(bank_audit(&b, 2, (int64_t[]){0, 29, 1}, 3));
    assert_true(bank_holds(&b));
    assert_string_equal(b.first_wrong, "");
}

static void another_total_is_reported_and_stays(void **state)
{
    (void)state;
    struct bank b;
    bank_init(&b, 2, 20);
    assert_false(bank_audit(&b, 7, (int64_t[]){10, 9}, 2));
    assert_true(bank_audit(&b, 8, (int64_t[]){10, 10}, 2));
    assert_false(bank_audit(&b, 9, (int64_t[]){10, 11}, 2));
    assert_false(bank_holds(&b));
    assert_int_equal(b.wrong, 2);
    assert_int_equal(b.audits, 3);
    assert_string_equal(b.first_wrong, "audit 7: total 19 instead of 20");
}

static void overdrafts_and_overflows_are_wrong(void **state)
{
    (void)state;
    struct bank b;
    bank_init(&b, 2, 20);
    assert_false(bank_audit(&b, 1, (int64_t[]){-1, 21}, 2));
    assert_non_null(strstr(b.first_wrong, "below zero"));
    bank_init(&b, 2, INT64_MIN);
    assert_false(bank_audit(&b, 1, (int64_t[]){INT64_MAX, 1}, 2));
    assert_non_null(strstr(b.first_wrong, "overflow"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_constant_total_holds),
        cmocka_unit_test(another_total_is_reported_and_stays),
        cmocka_unit_test(overdrafts_and_overflows_are_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
