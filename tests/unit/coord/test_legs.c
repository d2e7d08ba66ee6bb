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
    struct command_result answer;
};
static struct legs legs;

static int peer_command(void *arg, uint32_t node, uint16_t kind, struct slice body, uint64_t token)
{
    struct legs *t = arg;
    (void)node;
    (void)body;
    if (kind == KIND_TX_FORGET) {
        return ERR_NOCONN;
    }
    assert_true(t->count < SENT_MAX);
    t->sent[t->count++] = (struct sent){.kind = kind, .token = token};
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

static void legs_open(struct legs *t)
{
    memset(t, 0, sizeof *t);
    cluster_open(&t->c, 7, 0);
    t->home = cluster_heap(&t->c, "h", 2, 1 << 20);
    t->other = t->home + 1;
    cluster_run_ms(&t->c, 8000); /* leaders come to where they are wanted */
    t->node = &t->c.nodes[cluster_leader(&t->c, t->home)];
    assert_true(&t->c.nodes[cluster_leader(&t->c, t->other)] != t->node);
    (void)client_open(&t->client, &t->c, t->home, 1, 16, 60000);
    t->ptr = client_alloc(&t->client, 8, slice_of(NULL, 0));
    sim_proc_call(t->node->env, begin, t);
    assert_int_equal(t->rv, 0);
}

static void legs_close(struct legs *t)
{
    sim_proc_call(t->node->env, end, t);
    cluster_close(&t->c);
}

static void answer_in(void *arg)
{
    struct legs *t = arg;
    coord_answer(t->coord, t->token, t->err, 0, &t->answer);
}

static void answer(struct legs *t, const struct sent *sent, int err, uint64_t value,
                   uint64_t version)
{
    t->token = sent->token;
    t->err = err;
    t->answer = (struct command_result){.err = err, .value = value, .version = version};
    sim_proc_call(t->node->env, answer_in, t);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_outcome_is_sent_again_when_an_older_answer_came_last),
        cmocka_unit_test(an_outcome_that_was_refused_for_the_moment_is_sent_again),
        cmocka_unit_test(time_goes_on_behind_a_commit_from_ahead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
