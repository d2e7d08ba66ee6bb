/* Whose session a command is in is looked into when its batch goes: what is refused then leaves the
 * batch, and the others in it are none the worse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "replica/internal.h"
#include "unit/replica/cluster.h"

#define HEAP_BYTES  ((uint64_t)8 << 20)
#define OTHER_OWNER (CLUSTER_OWNER + 1)
#define COMMANDS    8u
#define PART_BYTES  16u

struct asked {
    struct buf body;
    uint64_t owner;
    struct shard_command command;
    int err, code;
    uint32_t answers;
    bool again; /* from inside its callback it is proposed once more */
};

static struct claims {
    struct cluster c;
    struct cluster_client client;
    struct env *env; /* of the leader */
    struct shard *shard;
    uint64_t object;
    struct asked asked[COMMANDS];
    uint32_t count;
} t;

static void propose(struct asked *a)
{
    assert_int_equal(shard_propose(t.shard, KIND_WRITE, slice_of(a->body.data, a->body.len),
                                   a->owner, &a->command),
                     0);
}

static void answered(struct shard_command *command, const struct command_result *result)
{
    struct asked *a = command->arg;
    a->err = result->err;
    a->code = result->code;
    a->answers++;
    if (a->again) {
        a->again = false;
        a->owner = CLUSTER_OWNER;
        propose(a);
    }
}

static void propose_all(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < t.count; i++) {
        assert_int_equal(t.asked[i].answers, 0); /* never from inside shard_propose() */
        propose(&t.asked[i]);
    }
}

/* Its bytes have lengths of their own, so that what moves up in a batch is seen to be right. */
static struct asked *ask(uint64_t session, uint64_t owner)
{
    static const uint8_t text[] = "ABCDEFGHIJKLMNOP";
    struct asked *a = &t.asked[t.count];
    struct msg_write m = {.uid = t.client.uid,
                          .session = session,
                          .seq = t.client.seq + 1 + t.count,
                          .acked = t.client.acked,
                          .ptr = t.object,
                          .offset = t.count * PART_BYTES,
                          .data = slice_of(text, 3 + t.count)};
    *a = (struct asked){.owner = owner};
    assert_int_equal(message_encode_write(&m, &a->body), 0);
    a->command = (struct shard_command){.cb = answered, .arg = a};
    t.count++;
    return a;
}

static uint64_t go(void)
{
    uint64_t before = wal_log_last_index(t.shard->log);
    sim_proc_call(t.env, propose_all, NULL);
    cluster_run_ms(&t.c, 1000);
    return wal_log_last_index(t.shard->log) - before;
}

static void claims_open(void)
{
    memset(&t, 0, sizeof t);
    cluster_open(&t.c, 17, (uint64_t)64 << 20);
    uint64_t uid = cluster_heap(&t.c, "h", 1, HEAP_BYTES);
    assert_int_equal(client_open(&t.client, &t.c, uid, 1, 64, 3600000).code, 0);
    t.object = client_alloc(&t.client, (uint64_t)COMMANDS * PART_BYTES, slice_of(NULL, 0));
    struct cluster_node *node = &t.c.nodes[cluster_leader(&t.c, uid)];
    t.env = node->env;
    t.shard = replica_shard(node->replica, uid);
}

static void claims_close(void)
{
    cluster_check_equal(&t.c, t.client.uid);
    for (uint32_t i = 0; i < t.count; i++) {
        buf_close(&t.asked[i].body);
    }
    cluster_close(&t.c);
}

static void look(void *arg, const struct heap *heap)
{
    assert_int_equal(heap_copy(heap, t.object, 0, arg, COMMANDS * PART_BYTES), 0);
}

static bool was_written(uint32_t i)
{
    uint8_t bytes[COMMANDS * PART_BYTES];
    cluster_read(&t.c, t.client.uid, look, bytes);
    const uint8_t *part = bytes + (size_t)i * PART_BYTES;
    bool whole = memcmp(part, "ABCDEFGHIJKLMNOP", 3 + i) == 0;
    for (size_t k = whole ? 3 + i : 0; k < PART_BYTES; k++) {
        assert_int_equal(part[k], 0);
    }
    return whole;
}

static void what_claims_another_s_session_leaves_its_batch(void **state)
{
    (void)state;
    claims_open();
    uint64_t ours = t.client.session;
    const int expected[COMMANDS] = {ERR_DENIED, 0, ERR_SESSION_EXPIRED, ERR_DENIED,
                                    0,          0, ERR_DENIED,          ERR_SESSION_EXPIRED};
    for (uint32_t i = 0; i < COMMANDS; i++) {
        (void)ask(expected[i] == ERR_SESSION_EXPIRED ? ours + 1 : ours,
                  expected[i] == ERR_DENIED ? OTHER_OWNER : CLUSTER_OWNER);
    }
    assert_int_equal(go(), 1); /* one entry, with three of them */
    for (uint32_t i = 0; i < COMMANDS; i++) {
        assert_int_equal(t.asked[i].answers, 1);
        assert_int_equal(t.asked[i].err, expected[i]);
        assert_int_equal(t.asked[i].code, 0);
        assert_int_equal(was_written(i), expected[i] == 0);
    }
    claims_close();
}

static void a_batch_that_nothing_is_left_of_is_no_entry(void **state)
{
    (void)state;
    claims_open();
    (void)ask(t.client.session, OTHER_OWNER);
    (void)ask(t.client.session + 1, CLUSTER_OWNER);
    assert_int_equal(go(), 0);
    assert_int_equal(t.asked[0].err, ERR_DENIED);
    assert_int_equal(t.asked[1].err, ERR_SESSION_EXPIRED);
    claims_close();
}

static void who_is_refused_may_propose_at_once(void **state)
{
    (void)state;
    claims_open();
    (void)ask(t.client.session, CLUSTER_OWNER);
    ask(t.client.session, OTHER_OWNER)->again = true;
    assert_int_equal(go(), 2);
    assert_int_equal(t.asked[0].answers, 1);
    assert_int_equal(t.asked[1].answers, 2); /* the second one behind the entry of the other */
    assert_int_equal(t.asked[1].err, 0);
    assert_true(was_written(0) && was_written(1));
    claims_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_claims_another_s_session_leaves_its_batch),
        cmocka_unit_test(a_batch_that_nothing_is_left_of_is_no_entry),
        cmocka_unit_test(who_is_refused_may_propose_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
