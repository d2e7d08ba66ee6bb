/* The commit protocol, all of it that fits: every state that two coordinators, two or three
 * participants and a bad network can reach (ADR 0007 §5). And the same with rules broken on
 * purpose, which must not pass.
 *
 *   test_model                                                 what CTest runs
 *   test_model PARTICIPANTS IN_FLIGHT STATES_MAX [MUTATION]    one run of that size
 *
 * IN_FLIGHT counts what the network delays. A request and its answer that nothing comes between
 * don't need it, so 0 is a whole protocol over a network without delays, but with losses. */
#include "explorer.h"
#include "support/test.h"

static const char *const mutation_names[MUTATIONS] = {
    [MUTATION_NONE] = "none",
    [MUTATION_FORGET_EARLY] = "forget_early",
    [MUTATION_ABORT_WITHOUT_NO] = "abort_without_no",
    [MUTATION_REFUSE_SAYS_NO] = "refuse_says_no",
    [MUTATION_LATE_IS_NO] = "late_is_no",
    [MUTATION_STALE_YES_COUNTS] = "stale_yes_counts",
    [MUTATION_NO_ISN_T_KEPT] = "no_isn_t_kept",
    [MUTATION_CLOCK_ABORTS] = "clock_aborts",
    [MUTATION_LATE_HIDES_SESSION] = "late_hides_session",
    [MUTATION_REFUSE_SKIPS_SESSION] = "refuse_skips_session",
    [MUTATION_PREPARE_SKIPS_SESSION] = "prepare_skips_session",
    [MUTATION_SETTLE_KEEPS_NOTHING] = "settle_keeps_nothing",
};

static struct explorer_result run(uint32_t count, uint32_t bag, enum protocol_mutation mutation,
                                  uint32_t states_max, bool print)
{
    struct protocol p = {.count = count, .bag_max = bag, .mutation = mutation};
    struct explorer_result r = explore(&p, states_max, print);
    printf("participants=%u in_flight=%u mutation=%s states=%llu moves=%llu depth=%u: %s\n", count,
           bag, mutation_names[mutation], (unsigned long long)r.states, (unsigned long long)r.moves,
           r.depth, r.violation != NULL ? r.violation : (r.complete ? "all hold" : "not complete"));
    return r;
}

static void two_participants_and_delayed_messages(void **state)
{
    (void)state;
    struct explorer_result r = run(2, 1, MUTATION_NONE, 400000, true);
    assert_null(r.violation);
    assert_true(r.complete);
}

static void three_participants(void **state)
{
    (void)state;
    struct explorer_result r = run(3, 0, MUTATION_NONE, 400000, true);
    assert_null(r.violation);
    assert_true(r.complete);
}

static void every_broken_rule_is_found(void **state)
{
    (void)state;
    for (int m = MUTATION_NONE + 1; m < MUTATIONS; m++) {
        /* That home's word is older than the LATE takes a message that is delayed. */
        uint32_t bag = m == MUTATION_STALE_YES_COUNTS ? 1 : 0;
        struct explorer_result r = run(2, bag, (enum protocol_mutation)m, 400000, false);
        assert_non_null(r.violation);
    }
}

int main(int argc, char **argv)
{
    if (argc >= 4) {
        int mutation = argc > 4 ? atoi(argv[4]) : MUTATION_NONE;
        assert_in_range(mutation, 0, MUTATIONS - 1);
        struct explorer_result r =
            run((uint32_t)atoi(argv[1]), (uint32_t)atoi(argv[2]), (enum protocol_mutation)mutation,
                (uint32_t)atoi(argv[3]), true);
        return r.violation != NULL || !r.complete;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_participants_and_delayed_messages),
        cmocka_unit_test(three_participants),
        cmocka_unit_test(every_broken_rule_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
