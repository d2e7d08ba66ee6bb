/* The checkers accept what one order explains, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/history.h"

static struct history h;
static char why[256];

static size_t op(enum history_kind kind, uint64_t a, uint64_t b, uint64_t out, uint64_t from,
                 uint64_t to)
{
    size_t at = history_call(&h, 1, 0, kind, a, b, from);
    if (to != HISTORY_NEVER) {
        history_return(&h, at, out, to);
    }
    return at;
}
static enum history_verdict reg(void)
{
    enum history_verdict v = history_check_register(&h, 0, 0, why, sizeof why);
    history_close(&h);
    return v;
}
static enum history_verdict counter(void)
{
    enum history_verdict v = history_check_counter(&h, 0, why, sizeof why);
    history_close(&h);
    return v;
}

static void reads_see_the_last_write(void **state)
{
    (void)state;
    op(HISTORY_WRITE, 5, 0, 0, 1, 2);
    op(HISTORY_READ, 0, 0, 5, 3, 4);
    assert_int_equal(reg(), HISTORY_OK);
    op(HISTORY_WRITE, 5, 0, 0, 1, 2);
    op(HISTORY_READ, 0, 0, 0, 3, 4);
    assert_int_equal(reg(), HISTORY_VIOLATION);
}

static void concurrent_operations_take_any_order(void **state)
{
    (void)state;
    op(HISTORY_WRITE, 5, 0, 0, 1, 10);
    op(HISTORY_READ, 0, 0, 0, 2, 3);
    op(HISTORY_READ, 0, 0, 5, 4, 5);
    assert_int_equal(reg(), HISTORY_OK);
    op(HISTORY_WRITE, 5, 0, 0, 1, 10);
    op(HISTORY_READ, 0, 0, 5, 2, 3);
    op(HISTORY_READ, 0, 0, 0, 4, 5); /* and never back */
    assert_int_equal(reg(), HISTORY_VIOLATION);
}

static void an_unknown_write_happens_once_or_never(void **state)
{
    (void)state;
    op(HISTORY_WRITE, 5, 0, 0, 1, HISTORY_NEVER);
    op(HISTORY_READ, 0, 0, 0, 3, 4);
    op(HISTORY_WRITE, 6, 0, 0, 5, 6);
    op(HISTORY_READ, 0, 0, 6, 7, 8);
    op(HISTORY_READ, 0, 0, 5, 9, 10);
    assert_int_equal(reg(), HISTORY_OK);
    op(HISTORY_WRITE, 5, 0, 0, 1, HISTORY_NEVER);
    op(HISTORY_READ, 0, 0, 5, 3, 4);
    op(HISTORY_WRITE, 6, 0, 0, 5, 6);
    op(HISTORY_READ, 0, 0, 5, 9, 10);
    assert_int_equal(reg(), HISTORY_VIOLATION);
    op(HISTORY_WRITE, 5, 0, 0, 9, HISTORY_NEVER);
    op(HISTORY_READ, 0, 0, 5, 3, 4); /* before it was asked for */
    assert_int_equal(reg(), HISTORY_VIOLATION);
}

static void a_compare_and_write_compares(void **state)
{
    (void)state;
    op(HISTORY_CAS, 0, 5, 1, 1, 2);
    op(HISTORY_CAS, 0, 6, 0, 3, 4);
    op(HISTORY_CAS, 5, 7, 1, 5, 6);
    op(HISTORY_READ, 0, 0, 7, 7, 8);
    assert_int_equal(reg(), HISTORY_OK);
    op(HISTORY_CAS, 0, 5, 1, 1, 2);
    op(HISTORY_CAS, 0, 6, 1, 3, 4);
    assert_int_equal(reg(), HISTORY_VIOLATION);
    op(HISTORY_CAS, 0, 5, 1, 1, 2);
    op(HISTORY_CAS, 5, 6, 0, 3, 4);
    assert_int_equal(reg(), HISTORY_VIOLATION);
}

static void long_histories_are_quick(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 3000; i++) {
        op(HISTORY_WRITE, i + 1, 0, 0, i * 10, i % 50 == 0 ? HISTORY_NEVER : i * 10 + 25);
        op(HISTORY_READ, 0, 0, i % 50 == 0 ? i : i + 1, i * 10 + 26, i * 10 + 27);
    }
    enum history_verdict v = reg();
    assert_true(v == HISTORY_VIOLATION || v == HISTORY_OK);
}

static void a_counter_counts_each_add_once(void **state)
{
    (void)state;
    op(HISTORY_ADD, 0, 0, 0, 1, 2);
    op(HISTORY_ADD, 0, 0, 1, 3, 6);
    op(HISTORY_ADD, 0, 0, 2, 4, 7);
    op(HISTORY_READ, 0, 0, 3, 8, 9);
    assert_int_equal(counter(), HISTORY_OK);
    op(HISTORY_ADD, 0, 0, 0, 1, 2);
    op(HISTORY_ADD, 0, 0, 0, 3, 4); /* lost */
    assert_int_equal(counter(), HISTORY_VIOLATION);
    op(HISTORY_ADD, 0, 0, 0, 1, 2);
    op(HISTORY_READ, 0, 0, 2, 3, 4); /* doubled */
    assert_int_equal(counter(), HISTORY_VIOLATION);
    op(HISTORY_ADD, 0, 0, 0, 1, 2);
    op(HISTORY_READ, 0, 0, 0, 3, 4); /* stale */
    assert_int_equal(counter(), HISTORY_VIOLATION);
}

static void unknown_adds_fill_the_holes_they_can(void **state)
{
    (void)state;
    op(HISTORY_ADD, 0, 0, 0, 1, HISTORY_NEVER);
    op(HISTORY_ADD, 0, 0, 1, 3, 4);
    op(HISTORY_READ, 0, 0, 2, 5, 6);
    assert_int_equal(counter(), HISTORY_OK);
    op(HISTORY_ADD, 0, 0, 1, 3, 4);
    op(HISTORY_ADD, 0, 0, 0, 5, HISTORY_NEVER); /* asked for too late */
    assert_int_equal(counter(), HISTORY_VIOLATION);
    op(HISTORY_ADD, 0, 0, 0, 1, HISTORY_NEVER);
    op(HISTORY_READ, 0, 0, 2, 5, 6); /* twice */
    assert_int_equal(counter(), HISTORY_VIOLATION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_see_the_last_write),
        cmocka_unit_test(concurrent_operations_take_any_order),
        cmocka_unit_test(an_unknown_write_happens_once_or_never),
        cmocka_unit_test(a_compare_and_write_compares),
        cmocka_unit_test(long_histories_are_quick),
        cmocka_unit_test(a_counter_counts_each_add_once),
        cmocka_unit_test(unknown_adds_fill_the_holes_they_can),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
