/* The coordinator's table, move by move. */
#include "coord/machine.h"

#include "base/err.h"
#include "support/test.h"

static struct coord_machine m;
static struct coord_actions a;

static void step(enum coord_event_kind kind, uint32_t part, uint64_t time, uint32_t fresh)
{
    struct coord_event e = {
        .kind = kind, .part = part, .time = time, .fresh = fresh, .code = ERR_TX_TOO_LATE};
    coord_machine_step(&m, &e, &a);
}

static void all_yes_commits_at_the_greatest_time(void **state)
{
    (void)state;
    coord_machine_init(&m, 3, COORD_COMMIT, NULL, &a);
    assert_int_equal(a.prepare, 7);
    step(COORD_ON_YES, 0, 5, 0);
    step(COORD_ON_YES, 1, 9, 0);
    assert_false(a.answer);
    step(COORD_ON_YES, 2, 7, 0);
    assert_true(a.answer);
    assert_int_equal(a.commit, 7);
    assert_int_equal(m.commit_time, 9);
    step(COORD_ON_NO, 1, 0, 0); /* too late to say */
    assert_int_equal(m.state, COORD_COMMITTING);
    step(COORD_ON_APPLIED, 0, 0, 0);
    step(COORD_ON_APPLIED, 2, 0, 0);
    step(COORD_ON_RESEND, 1, 0, 0);
    assert_int_equal(a.commit, 2);
    step(COORD_ON_APPLIED, 1, 0, 0);
    assert_true(a.forget);
    assert_int_equal(m.state, COORD_DONE);
}

static void silence_asks_and_a_refusal_aborts(void **state)
{
    (void)state;
    coord_machine_init(&m, 2, COORD_COMMIT, NULL, &a);
    step(COORD_ON_SILENCE, 1, 0, 0);
    assert_int_equal(a.ask, 2);
    assert_false(a.answer);
    step(COORD_ON_RESEND, 1, 0, 0);
    assert_int_equal(a.ask, 2);
    assert_int_equal(a.prepare, 0);
    step(COORD_ON_NO, 1, 0, 0);
    assert_true(a.answer);
    assert_int_equal(a.abort, 3);
    assert_int_equal(m.refused_by, 1);
}

static void late_is_a_refusal_only_by_home_s_next_word(void **state)
{
    (void)state;
    coord_machine_init(&m, 2, COORD_COMMIT, NULL, &a);
    step(COORD_ON_YES, 0, 5, 0);
    step(COORD_ON_LATE, 1, 0, 0);
    assert_int_equal(a.prepare, 1);
    step(COORD_ON_YES, 0, 5, 0); /* an answer to the first question */
    assert_int_equal(m.state, COORD_GATHERING);
    step(COORD_ON_YES, 0, 5, 1);
    assert_true(a.answer);
    assert_int_equal(m.code, ERR_TX_TOO_LATE);

    coord_machine_init(&m, 2, COORD_COMMIT, NULL, &a);
    step(COORD_ON_LATE, 1, 0, 0);
    step(COORD_ON_COMMITTED, 0, 8, 1);
    assert_true(a.answer);
    assert_int_equal(m.commit_time, 8);
    assert_int_equal(m.code, 0);
}

static void recovery_asks_and_finish_sends(void **state)
{
    (void)state;
    const uint64_t times[2] = {3, 4};
    coord_machine_init(&m, 2, COORD_RECOVER, NULL, &a);
    assert_int_equal(a.ask, 3);
    assert_int_equal(a.prepare, 0);
    step(COORD_ON_YES, 0, 3, 0);
    step(COORD_ON_LATE, 1, 0, 0);
    assert_int_equal(a.abort, 3);
    coord_machine_init(&m, 2, COORD_FINISH, times, &a);
    assert_int_equal(a.commit, 3);
    assert_int_equal(m.commit_time, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_yes_commits_at_the_greatest_time),
        cmocka_unit_test(silence_asks_and_a_refusal_aborts),
        cmocka_unit_test(late_is_a_refusal_only_by_home_s_next_word),
        cmocka_unit_test(recovery_asks_and_finish_sends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
