/* What a coordinator sends to one participant, and sends again. The coordinator is real, and so are
 * the shards; the other shard's answers are made up here, in the order that matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "coord/coord.h"
#include "unit/alloc/txn_part.h"
#include "unit/replica/cluster.h"

#define SENT_MAX 64u

struct sent {
    uint16_t kind;
    uint32_t node;
    uint64_t token;
};

struct legs {
    struct cluster c;
    struct cluster_node *node; /* leads the home shard */
    struct coord *coord;
    struct cluster_client client;
    uint64_t home, other, ptr;
    struct sent sent[SENT_MAX];
    uint32_t count;
    struct shard_command commit;
    int rv;
    bool answered;
    struct command_result result;
    /* what is answered next */
    uint64_t token;
    int err;
    uint32_t leader; /* whom it names */
    struct command_result answer;
};
static struct legs legs;

static int peer_command(void *arg, uint32_t node, uint16_t kind, struct slice body, uint64_t token)
{
    struct legs *t = arg;
    (void)body;
    if (kind == KIND_TX_FORGET) {
        return ERR_NOCONN;
    }
    assert_true(t->count < SENT_MAX);
    t->sent[t->count++] = (struct sent){.kind = kind, .node = node, .token = token};
    return 0;
}

static const struct coord_cbs cbs = {.peer_command = peer_command};

static void on_commit(struct shard_command *command, const struct command_result *result)
{
    struct legs *t = command->arg;
    t->answered = true;
    t->result = *result;
}

static void append_part(struct buf *parts, uint64_t uid, uint64_t ptr)
{
    static struct part part;
    uint8_t head[12];
    part_begin(&part, 0);
    part_write(&part, ptr, 0, slice_of("12345678", 8));
    store_u64(head, uid);
    store_u32(head + 8, (uint32_t)part.len);
    assert_int_equal(buf_append(parts, head, sizeof head), 0);
    assert_int_equal(buf_append(parts, part.bytes, part.len), 0);
}

static void begin(void *arg)
{
    struct legs *t = arg;
    struct buf parts = {0};
    struct buf body = {0};
    const struct heap *heap = shard_heap(replica_shard(t->node->replica, t->home));
    assert_int_equal(
        coord_open(t->node->env, t->node->replica, t->node->number, &cbs, t, &t->coord), 0);
    append_part(&parts, t->home, t->ptr);
    append_part(&parts, t->other, t->ptr);
    struct msg_tx_commit m = {.uid = t->home,
                              .session = t->client.session,
                              .seq = t->client.seq + 1,
                              .acked = t->client.acked,
                              .deadline = heap_clock(heap) + hlc_from_ms(20000),
                              .parts = slice_of(parts.data, parts.len)};
    assert_int_equal(message_encode_tx_commit(&m, &body), 0);
    t->commit = (struct shard_command){.cb = on_commit, .arg = t};
    t->rv = coord_commit(t->coord, slice_of(body.data, body.len), CLUSTER_OWNER, &t->commit);
    buf_close(&parts);
    buf_close(&body);
}

static void end(void *arg)
{
    struct legs *t = arg;
    coord_close(t->coord);
}

/* The other shard: of the same heap, or of one of its own, which is named "g". */
static void legs_open_over(struct legs *t, bool two_heaps)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, 7, 0);
    t->home = cluster_heap(&t->c, "h", two_heaps ? 1 : 2, 1 << 20);
    t->other = two_heaps ? cluster_heap(&t->c, "g", 2, 1 << 20) : t->home + 1;
    cluster_run_ms(&t->c, 8000); /* leaders come to where they are wanted */
    t->node = &t->c.nodes[cluster_leader(&t->c, t->home)];
    if (two_heaps && &t->c.nodes[cluster_leader(&t->c, t->other)] == t->node) {
        t->other++; /* leaders of one heap are on different nodes */
    }
    assert_true(&t->c.nodes[cluster_leader(&t->c, t->other)] != t->node);
    (void)client_open(&t->client, &t->c, t->home, 1, 16, 60000);
    t->ptr = client_alloc(&t->client, 8, slice_of(NULL, 0));
    sim_proc_call(t->node->env, begin, t);
    assert_int_equal(t->rv, 0);
}

static void legs_open(struct legs *t)
{
    legs_open_over(t, false);
}

static void legs_close(struct legs *t)
{
    sim_proc_call(t->node->env, end, t);
    cluster_close(&t->c);
}

static void answer_in(void *arg)
{
    struct legs *t = arg;
    coord_answer(t->coord, t->token, t->err, t->leader, &t->answer);
}

static void answer_as(struct legs *t, const struct sent *sent, int err, uint32_t leader,
                      const struct command_result *result)
{
    t->token = sent->token;
    t->err = err;
    t->leader = leader;
    t->answer = *result;
    sim_proc_call(t->node->env, answer_in, t);
}

static void answer(struct legs *t, const struct sent *sent, int err, uint64_t value,
                   uint64_t version)
{
    struct command_result result = {.err = err, .value = value, .version = version};
    answer_as(t, sent, err, 0, &result);
}

static struct coord_stats stats_of(const struct legs *t)
{
    struct coord_stats stats;
    coord_get_stats(t->coord, &stats);
    return stats;
}

/* A time that the other shard can have prepared at. */
static uint64_t time_of_vote(const struct legs *t)
{
    return heap_clock(shard_heap(replica_shard(t->node->replica, t->home))) + 1;
}

static uint64_t value_at_home(const struct legs *t)
{
    uint8_t bytes[8];
    const struct heap *heap = shard_heap(replica_shard(t->node->replica, t->home));
    assert_int_equal(heap_copy(heap, t->ptr, 0, bytes, sizeof bytes), 0);
    return load_u64(bytes);
}

/* The next request to the other shard, of this kind, within the time. */
static const struct sent *next(struct legs *t, uint32_t *at, uint16_t kind, uint64_t ms)
{
    for (uint64_t waited = 0; waited <= ms; waited++) {
        while (*at < t->count) {
            const struct sent *sent = &t->sent[(*at)++];
            if (sent->kind == kind) {
                return sent;
            }
        }
        cluster_run_ms(&t->c, 1);
    }
    return NULL;
}

/* The vote was asked for twice; the outcome follows the first answer and is refused for the moment,
 * and behind that comes the other answer. Then nothing is on its way to that shard, which has yet
 * to hear the outcome. */
static void an_outcome_is_sent_again_when_an_older_answer_came_last(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    legs_open(t);
    const struct sent *prepare = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(prepare);
    const struct sent *refuse = next(t, &at, KIND_TX_REFUSE, 2 * COORD_PATIENCE_MS);
    assert_non_null(refuse);
    uint64_t time = heap_clock(shard_heap(replica_shard(t->node->replica, t->home))) + 1;
    answer(t, refuse, 0, TXN_YES, time);
    const struct sent *decide = next(t, &at, KIND_TX_DECIDE, 100);
    assert_non_null(decide);
    assert_true(t->answered);
    assert_int_equal(t->result.code, 0);
    answer(t, decide, ERR_BUSY, 0, 0);
    answer(t, prepare, 0, TXN_YES, time);
    decide = next(t, &at, KIND_TX_DECIDE, 200);
    assert_non_null(decide);
    answer(t, decide, 0, TXN_APPLIED, 0);
    assert_null(next(t, &at, KIND_TX_DECIDE, 2 * COORD_PATIENCE_MS)); /* it has been told */
    legs_close(t);
}

/* The outcome that was refused for the moment with nothing else on its way: after a pause. */
static void an_outcome_that_was_refused_for_the_moment_is_sent_again(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    legs_open(t);
    const struct sent *sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    uint64_t time = heap_clock(shard_heap(replica_shard(t->node->replica, t->home))) + 1;
    answer(t, sent, 0, TXN_YES, time);
    for (uint32_t i = 0; i < 10; i++) {
        sent = next(t, &at, KIND_TX_DECIDE, 200);
        assert_non_null(sent);
        answer(t, sent, ERR_BUSY, 0, 0);
        assert_int_equal(t->count, at); /* not at once */
    }
    sent = next(t, &at, KIND_TX_DECIDE, 200);
    assert_non_null(sent);
    assert_null(next(t, &at, KIND_TX_DECIDE, COORD_PATIENCE_MS / 2)); /* one is on its way */
    answer(t, sent, 0, TXN_APPLIED, 0);
    assert_null(next(t, &at, KIND_TX_DECIDE, 2 * COORD_PATIENCE_MS));
    legs_close(t);
}

/* A commit brings the home shard's clock to the greatest vote, which may be ahead of the clocks of
 * all nodes: time goes on from there, at half its pace, until they have caught up. */
static void time_goes_on_behind_a_commit_from_ahead(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    legs_open(t);
    const struct heap *heap = shard_heap(replica_shard(t->node->replica, t->home));
    const struct sent *sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    uint64_t time = heap_clock(heap) + hlc_from_ms(15000);
    answer(t, sent, 0, TXN_YES, time);
    sent = next(t, &at, KIND_TX_DECIDE, 100);
    assert_non_null(sent);
    answer(t, sent, 0, TXN_APPLIED, 0);
    cluster_run_ms(&t->c, 100);
    assert_true(heap_clock(heap) >= time);
    t->client.seq++;
    uint64_t began = hlc_to_ms(heap_clock(heap));
    for (uint32_t i = 0; i < 10; i++) {
        cluster_run_ms(&t->c, 1000);
        (void)client_add(&t->client, t->ptr, 1);
    }
    assert_in_range(hlc_to_ms(heap_clock(heap)) - began, 4500, 5500);
    for (uint32_t i = 0; i < 25; i++) {
        cluster_run_ms(&t->c, 1000);
        (void)client_add(&t->client, t->ptr, 1);
    }
    uint64_t wall = env_wall_us(t->node->env) / 1000;
    assert_in_range(hlc_to_ms(heap_clock(heap)), wall - 100, wall + 600);
    legs_close(t);
}

/* Nobody will ever vote for a shard that is gone with its heap: the commit is over at once, not
 * when its deadline is, and nothing of it happened. */
static void a_commit_is_aborted_when_a_participant_is_dropped(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    legs_open_over(t, true);
    assert_non_null(next(t, &at, KIND_TX_PREPARE, 100));
    cluster_heap_drop(&t->c, "g");
    for (uint32_t i = 0; i < 2000 && !t->answered; i++) {
        cluster_run_ms(&t->c, 1);
    }
    assert_true(t->answered);
    assert_int_equal(t->result.code, ERR_TX_TOO_LATE);
    cluster_run_ms(&t->c, 1000);
    assert_int_equal(value_at_home(t), 0);
    assert_int_equal(stats_of(t).running, 0);
    assert_null(next(t, &at, KIND_TX_DECIDE, 2 * COORD_PATIENCE_MS)); /* to whom? */
    legs_close(t);
}

/* The same behind the decision: what was committed stays so, and isn't kept for a shard that can't
 * hear of it. */
static void a_commit_is_done_when_a_participant_is_dropped_behind_it(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    legs_open_over(t, true);
    const struct sent *sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    answer(t, sent, 0, TXN_YES, time_of_vote(t));
    sent = next(t, &at, KIND_TX_DECIDE, 100);
    assert_non_null(sent);
    assert_true(t->answered);
    assert_int_equal(t->result.code, 0);
    cluster_run_ms(&t->c, 1000);
    assert_int_equal(value_at_home(t), load_u64("12345678"));
    assert_int_equal(stats_of(t).running, 1);
    cluster_heap_drop(&t->c, "g");
    cluster_run_ms(&t->c, 200);
    while ((sent = next(t, &at, KIND_TX_DECIDE, 10)) != NULL) {
        answer(t, sent, ERR_NOCONN, 0, 0);
    }
    cluster_run_ms(&t->c, 1000);
    assert_int_equal(stats_of(t).running, 0);
    /* And forgotten when its time is over and the client has heard of it: home is told, and of a
     * shard that is gone nothing is expected. */
    assert_int_equal(stats_of(t).forgotten, 0);
    t->client.seq++;
    t->client.acked = t->client.seq;
    for (uint32_t i = 0; i < 30; i++) {
        cluster_run_ms(&t->c, 1000);
        (void)client_add(&t->client, t->ptr, 1);
    }
    assert_int_equal(stats_of(t).forgotten, 1);
    legs_close(t);
}

/* What says nothing about the vote isn't taken for one: it is asked for again. */
static void an_answer_that_says_nothing_is_no_vote(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    struct command_result odd = {.value = TXN_APPLIED};
    legs_open(t);
    const struct sent *sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    answer_as(t, sent, 0, 0, &odd);
    sent = next(t, &at, KIND_TX_PREPARE, 200);
    assert_non_null(sent);
    answer(t, sent, 0, TXN_NO_VOTE, 0);
    sent = next(t, &at, KIND_TX_PREPARE, 200);
    assert_non_null(sent);
    answer(t, sent, 0, TXN_YES, 0); /* prepared, but when? */
    sent = next(t, &at, KIND_TX_PREPARE, 400);
    assert_non_null(sent);
    assert_false(t->answered);
    answer(t, sent, 0, TXN_NO, 0); /* doesn't say why: aborted */
    assert_true(t->answered);
    assert_int_equal(t->result.code, ERR_TX_ABORTED);
    sent = next(t, &at, KIND_TX_DECIDE, 200);
    assert_non_null(sent);
    odd = (struct command_result){.code = ERR_NOSPACE, .value = TXN_APPLIED};
    answer_as(t, sent, 0, 0, &odd); /* an outcome is told until it is applied */
    sent = next(t, &at, KIND_TX_DECIDE, 400);
    assert_non_null(sent);
    assert_int_equal(stats_of(t).running, 1);
    answer(t, sent, 0, TXN_APPLIED, 0);
    cluster_run_ms(&t->c, 100);
    assert_int_equal(stats_of(t).running, 0);
    legs_close(t);
}

/* It can't be, and is counted and said; the transaction doesn't go on for ever. */
static void a_shard_that_knows_another_outcome_is_counted(void **state)
{
    (void)state;
    struct legs *t = &legs;
    uint32_t at = 0;
    legs_open(t);
    const struct sent *sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    answer(t, sent, 0, TXN_YES, time_of_vote(t));
    sent = next(t, &at, KIND_TX_DECIDE, 100);
    assert_non_null(sent);
    assert_int_equal(stats_of(t).wrong, 0);
    answer(t, sent, 0, TXN_WRONG, 0);
    assert_int_equal(stats_of(t).wrong, 1);
    cluster_run_ms(&t->c, 100);
    assert_int_equal(stats_of(t).running, 0);
    assert_null(next(t, &at, KIND_TX_DECIDE, 2 * COORD_PATIENCE_MS));
    legs_close(t);
}

/* Who doesn't lead says who does, and is taken at his word at once; but not when he names himself,
 * and not for ever when they name each other. */
static void a_hint_is_followed_at_once_but_not_round_and_round(void **state)
{
    (void)state;
    struct legs *t = &legs;
    struct command_result none = {.err = ERR_NOTLEADER};
    uint32_t at = 0;
    uint32_t soon = 0;
    legs_open(t);
    const struct sent *sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    answer_as(t, sent, ERR_NOTLEADER, sent->node, &none);
    assert_null(next(t, &at, KIND_TX_PREPARE, 5));
    sent = next(t, &at, KIND_TX_PREPARE, 100);
    assert_non_null(sent);
    for (uint32_t i = 0; i < 12; i++) {
        uint64_t began = sim_now_ns(t->c.sim);
        answer_as(t, sent, ERR_NOTLEADER, sent->node % CLUSTER_NODES + 1, &none);
        sent = next(t, &at, KIND_TX_PREPARE, COORD_RESEND_MS + 100);
        if (sent == NULL) {
            break; /* patience is over: it is asked to refuse */
        }
        soon += sim_now_ns(t->c.sim) - began < 30 * SIM_MS;
    }
    assert_in_range(soon, 1, 4);
    assert_false(t->answered);
    legs_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_outcome_is_sent_again_when_an_older_answer_came_last),
        cmocka_unit_test(an_outcome_that_was_refused_for_the_moment_is_sent_again),
        cmocka_unit_test(time_goes_on_behind_a_commit_from_ahead),
        cmocka_unit_test(a_commit_is_aborted_when_a_participant_is_dropped),
        cmocka_unit_test(a_commit_is_done_when_a_participant_is_dropped_behind_it),
        cmocka_unit_test(an_answer_that_says_nothing_is_no_vote),
        cmocka_unit_test(a_shard_that_knows_another_outcome_is_counted),
        cmocka_unit_test(a_hint_is_followed_at_once_but_not_round_and_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
