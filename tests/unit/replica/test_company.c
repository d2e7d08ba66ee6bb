/* Outcomes of transactions share an entry with what comes next, wait for it a few milliseconds at
 * most, and are not left behind when something else goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define HEAP_BYTES ((uint64_t)1 << 20)

struct lazy {
    struct cluster c;
    struct cluster_node *node; /* leads */
    struct shard *shard;
    uint64_t before; /* the last index when nothing was asked yet */
    struct shard_command forget, other;
    struct command_result told, told_other;
    bool done, done_other;
};

static void forgot(struct shard_command *command, const struct command_result *result)
{
    struct lazy *t = command->arg;
    t->done = true;
    t->told = *result;
}

static void other_done(struct shard_command *command, const struct command_result *result)
{
    struct lazy *t = command->arg;
    t->done_other = true;
    t->told_other = *result;
}

static void lazy_open(struct lazy *t)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, 5, 0);
    uint64_t uid = cluster_heap(&t->c, "h", 1, HEAP_BYTES);
    cluster_run_ms(&t->c, 1000);
    t->node = &t->c.nodes[cluster_leader(&t->c, uid)];
    t->shard = replica_shard(t->node->replica, uid);
    t->before = wal_log_last_index(t->shard->log);
    t->forget = (struct shard_command){.cb = forgot, .arg = t};
    t->other = (struct shard_command){.cb = other_done, .arg = t};
}

static uint64_t entries(const struct lazy *t)
{
    return wal_log_last_index(t->shard->log) - t->before;
}

static void forget(void *arg)
{
    struct lazy *t = arg;
    struct buf body = {0};
    uint8_t name[24] = {1};
    struct msg_tx_forget m = {.uid = t->shard->uid, .names = slice_of(name, sizeof name)};
    assert_int_equal(message_encode_tx_forget(&m, &body), 0);
    assert_int_equal(
        shard_propose_tx(t->shard, KIND_TX_FORGET, slice_of(body.data, body.len), &t->forget), 0);
    buf_close(&body);
}

static void forget_then_other(void *arg)
{
    struct lazy *t = arg;
    forget(t);
    assert_int_equal(shard_barrier(t->shard, &t->other), 0);
}

/* Its bytes mean nothing: an answer of PROTOCOL, and a batch into which no more fits. */
static void fill_then_forget(void *arg)
{
    struct lazy *t = arg;
    static uint8_t bytes[ENTRY_BYTES_MAX];
    size_t len =
        wal_entry_bytes_max(t->node->wal) - ENTRY_HEADER_BYTES - ENTRY_COMMAND_HEADER_BYTES;
    assert_true(len <= sizeof bytes);
    assert_int_equal(shard__propose_for(t->shard, KIND_TICK, slice_of(bytes, len), &t->other), 0);
    forget(t);
}

static void forget_then_hurry(void *arg)
{
    struct lazy *t = arg;
    forget(t);
    shard_hurry(t->shard);
}

static void forget_then_move(void *arg)
{
    struct lazy *t = arg;
    forget(t);
    uint32_t to = t->node->number == 1 ? 2 : 1;
    assert_int_equal(shard_transfer_leadership(t->shard, to), 0);
}

static void an_outcome_waits_for_company_and_not_for_long(void **state)
{
    (void)state;
    struct lazy t;
    lazy_open(&t);
    sim_proc_call(t.node->env, forget, &t);
    cluster_run_ms(&t.c, 3);
    assert_int_equal(entries(&t), 0);
    cluster_run_ms(&t.c, 20);
    assert_int_equal(entries(&t), 1);
    assert_true(t.done);
    assert_int_equal(t.told.err, 0);
    cluster_close(&t.c);
}

static void an_outcome_shares_the_entry_of_the_next_command(void **state)
{
    (void)state;
    struct lazy t;
    lazy_open(&t);
    sim_proc_call(t.node->env, forget_then_other, &t);
    assert_int_equal(entries(&t), 1);
    cluster_run_ms(&t.c, 20);
    assert_int_equal(entries(&t), 1);
    assert_true(t.done && t.done_other);
    cluster_close(&t.c);
}

static void an_outcome_that_is_awaited_goes_at_once(void **state)
{
    (void)state;
    struct lazy t;
    lazy_open(&t);
    sim_proc_call(t.node->env, forget_then_hurry, &t);
    assert_int_equal(entries(&t), 1);
    cluster_close(&t.c);
}

static void an_outcome_behind_a_full_batch_is_not_left(void **state)
{
    (void)state;
    struct lazy t;
    lazy_open(&t);
    sim_proc_call(t.node->env, fill_then_forget, &t);
    assert_int_equal(entries(&t), 1);
    cluster_run_ms(&t.c, 50);
    assert_true(t.done_other);
    assert_int_equal(t.told_other.code, ERR_PROTOCOL);
    assert_true(t.done);
    assert_int_equal(t.told.err, 0);
    assert_int_equal(entries(&t), 2);
    cluster_close(&t.c);
}

/* While leadership moves the log takes nothing: what lay here would be sent again to the next
 * leader, and what it decides would stay undecided meanwhile. */
static void an_outcome_goes_before_leadership_moves(void **state)
{
    (void)state;
    struct lazy t;
    lazy_open(&t);
    sim_proc_call(t.node->env, forget_then_move, &t);
    cluster_run_ms(&t.c, 1000);
    assert_true(t.done);
    assert_int_equal(t.told.err, 0);
    assert_false(shard__leads(t.shard));
    cluster_close(&t.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_outcome_waits_for_company_and_not_for_long),
        cmocka_unit_test(an_outcome_shares_the_entry_of_the_next_command),
        cmocka_unit_test(an_outcome_that_is_awaited_goes_at_once),
        cmocka_unit_test(an_outcome_behind_a_full_batch_is_not_left),
        cmocka_unit_test(an_outcome_goes_before_leadership_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
