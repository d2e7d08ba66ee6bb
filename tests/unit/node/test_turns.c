/* Turns at objects: one after another, who has tried most first, nobody waits for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "node/turns.h"
#include "sim/sim.h"

#define UID    7u
#define PTR    100u
#define OTHER  200u
#define READS  8u
#define TIMELY (SIM_MS / 2) /* for a turn */

struct read {
    struct turn_wait wait;
    bool at_once, done;
    int err;
    uint32_t order; /* in which they were answered, from 1 on */
};

struct world {
    struct sim *sim;
    struct env *env;
    struct turns *turns;
    uint64_t versions[2];
    struct read reads[READS];
    uint32_t answered;
    bool dumb; /* those who have the turn aren't answered */
    /* What the next call does. */
    uint32_t i;
    uint64_t ptr;
    uint8_t tries;
};

static struct world w;

static uint64_t version_of(void *arg, uint64_t uid, uint64_t ptr)
{
    assert_ptr_equal(arg, &w);
    assert_int_equal(uid, UID);
    return w.versions[ptr == OTHER];
}

static void answer(struct read *read, uint64_t ptr)
{
    read->done = true;
    read->order = ++w.answered;
    if (w.dumb) {
        turns_pass(w.turns, UID, ptr);
    } else {
        turns_told(w.turns, UID, ptr, w.versions[ptr == OTHER]);
    }
}

static void waited(struct turn_wait *wait, int err)
{
    struct read *read = container_of(wait, struct read, wait);
    assert_false(read->done);
    read->err = err;
    if (err != 0) {
        read->done = true;
        return;
    }
    answer(read, PTR);
}

static void do_take(void *arg)
{
    struct read *read = &w.reads[w.i];
    (void)arg;
    read->wait.cb = waited;
    read->at_once = turns_take(w.turns, UID, w.ptr, w.tries, &read->wait);
    if (read->at_once) {
        answer(read, w.ptr);
    }
}

static void take_at(uint32_t i, uint64_t ptr, uint8_t tries)
{
    w.i = i;
    w.ptr = ptr;
    w.tries = tries;
    sim_proc_call(w.env, do_take, NULL);
}

static void take(uint32_t i, uint8_t tries)
{
    take_at(i, PTR, tries);
}

static void do_change(void *arg)
{
    (void)arg;
    w.versions[0]++;
    turns_applied(w.turns);
}

/* Who has the turn changes the object, and the loop goes on for a moment. */
static void change(void)
{
    sim_proc_call(w.env, do_change, NULL);
}

static void pass_time(uint64_t ns)
{
    sim_run_until(w.sim, sim_now_ns(w.sim) + ns);
}

static struct turns_stats stats(void)
{
    struct turns_stats s;
    turns_get_stats(w.turns, &s);
    return s;
}

static void do_open(void *arg)
{
    (void)arg;
    w.turns = turns_new(w.env, version_of, &w);
}

static void do_close(void *arg)
{
    (void)arg;
    turns_free(w.turns);
    w.turns = NULL;
}

static int set_up(void **state)
{
    (void)state;
    memset(&w, 0, sizeof w);
    w.versions[0] = w.versions[1] = 1;
    w.sim = sim_new(1);
    w.env = sim_proc_start(sim_host_new(w.sim, "a"), ENV_ROLE_NODE, "a");
    sim_proc_call(w.env, do_open, NULL);
    return w.turns == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    sim_proc_call(w.env, do_close, NULL);
    sim_proc_free(w.env);
    sim_free(w.sim);
    return 0;
}

/* ---- claims ---- */

static void a_change_hands_the_turn_on(void **state)
{
    (void)state;
    take(0, 1);
    take(1, 1);
    take(2, 1);
    assert_true(w.reads[0].at_once);
    assert_false(w.reads[1].at_once);
    pass_time(TIMELY);
    assert_int_equal(w.answered, 1);
    change();
    pass_time(TIMELY);
    assert_int_equal(w.answered, 2);
    assert_int_equal(w.reads[1].order, 2);
    change();
    pass_time(TIMELY);
    assert_int_equal(w.reads[2].order, 3);
    assert_int_equal(stats().expired, 0);
    assert_int_equal(stats().waiting, 0);
}

static void who_has_tried_most_goes_first(void **state)
{
    (void)state;
    take(0, 1);
    take(1, 1);
    take(2, 3);
    take(3, 3);
    take(4, 2);
    for (int i = 0; i < 4; i++) {
        change();
        pass_time(TIMELY);
    }
    assert_int_equal(w.reads[2].order, 2);
    assert_int_equal(w.reads[3].order, 3);
    assert_int_equal(w.reads[4].order, 4);
    assert_int_equal(w.reads[1].order, 5);
}

static void a_turn_without_a_change_ends_by_time(void **state)
{
    (void)state;
    take(0, 1);
    take(1, 1);
    pass_time(TURNS_US_MAX * (SIM_MS / 1000));
    assert_true(w.reads[1].done);
    assert_int_equal(w.reads[1].err, 0);
    assert_int_equal(stats().expired, 1);
    /* And when nobody waits, the next one needn't. */
    pass_time(TURNS_US_MAX * (SIM_MS / 1000));
    take(2, 1);
    assert_true(w.reads[2].at_once);
}

static void short_turns_make_the_next_ones_shorter(void **state)
{
    (void)state;
    take(0, 1);
    for (int i = 0; i < 100; i++) {
        memset(&w.reads[1], 0, sizeof w.reads[1]);
        take(1, 1);
        change();
        pass_time(SIM_MS / 10);
        assert_true(w.reads[1].done);
    }
    take(2, 1);
    pass_time(TURNS_US_MIN * (SIM_MS / 1000) + SIM_MS);
    assert_true(w.reads[2].done);
}

static void who_is_not_answered_passes(void **state)
{
    (void)state;
    take(0, 1);
    w.dumb = true;
    for (uint32_t i = 1; i < READS; i++) {
        take(i, 1);
    }
    change();
    pass_time(TIMELY);
    assert_int_equal(w.answered, READS);
    assert_int_equal(stats().expired, 0);
}

static void nobody_waits_for_ever(void **state)
{
    (void)state;
    take(0, 1);
    take(1, 1);
    uint64_t until = sim_now_ns(w.sim) + TURNS_WAIT_MS * SIM_MS + SIM_MS;
    while (sim_now_ns(w.sim) < until) { /* others come who have tried more often */
        memset(&w.reads[2], 0, sizeof w.reads[2]);
        take(2, 9);
        change();
        pass_time(TIMELY);
        assert_true(w.reads[2].done);
    }
    assert_true(w.reads[1].done);
    assert_int_equal(stats().overdue, 1);
}

static void objects_do_not_wait_for_each_other(void **state)
{
    (void)state;
    take(0, 1);
    take(1, 1);
    take_at(2, OTHER, 1);
    assert_true(w.reads[2].at_once);
}

static void closing_answers_all(void **state)
{
    (void)state;
    take(0, 1);
    take(1, 1);
    take(2, 1);
    sim_proc_call(w.env, do_close, NULL);
    for (uint32_t i = 1; i <= 2; i++) {
        assert_true(w.reads[i].done);
        assert_int_equal(w.reads[i].err, ERR_SHUTDOWN);
    }
}

static void what_is_forgotten_costs_nobody_a_turn(void **state)
{
    (void)state;
    for (uint32_t i = 0; i <= TURNS_OBJECTS_MAX; i++) {
        memset(&w.reads[0], 0, sizeof w.reads[0]);
        take_at(0, 1000 + i, 1);
        assert_true(w.reads[0].at_once);
    }
    memset(&w.reads[0], 0, sizeof w.reads[0]);
    take_at(0, 1000, 1); /* the longest ago: forgotten */
    assert_true(w.reads[0].at_once);
    take_at(1, 1000, 1);
    assert_false(w.reads[1].at_once);
}

int main(void)
{
#define CLAIM(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CLAIM(a_change_hands_the_turn_on),
        CLAIM(who_has_tried_most_goes_first),
        CLAIM(a_turn_without_a_change_ends_by_time),
        CLAIM(short_turns_make_the_next_ones_shorter),
        CLAIM(who_is_not_answered_passes),
        CLAIM(nobody_waits_for_ever),
        CLAIM(objects_do_not_wait_for_each_other),
        CLAIM(closing_answers_all),
        CLAIM(what_is_forgotten_costs_nobody_a_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
