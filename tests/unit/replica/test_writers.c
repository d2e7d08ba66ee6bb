/* Who made an object's changes: what the log says for certain is told, and where an entry leaves
 * more than one possibility nobody is named, or only what all possibilities have in common. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "replica/internal.h"
#include "unit/alloc/txn_part.h"
#include "unit/replica/cluster.h"

#define HEAP_BYTES   ((uint64_t)8 << 20)
#define TOGETHER_MAX 80u
#define OTHER_OWNER  (CLUSTER_OWNER + 1)
#define FOUND_MAX    128u

struct user {
    uint64_t session, seq, owner;
};

struct asked {
    uint16_t kind;
    uint64_t owner;
    struct buf body;
    struct shard_command command;
    struct command_result result;
    bool done;
};

static struct writers {
    struct cluster c;
    struct env *env; /* of the leader */
    struct shard *shard;
    struct user a, b;
    uint64_t object;
    struct asked asked[TOGETHER_MAX];
    uint32_t count;
    struct shard_writer found[FOUND_MAX]; /* newest first */
    size_t found_count;
    uint64_t from;
} t;

/* ---- commands, many in one entry ---- */

static void answered(struct shard_command *command, const struct command_result *result)
{
    struct asked *asked = command->arg;
    asked->result = *result;
    asked->done = true;
}

static void ask(uint16_t kind, struct user *user, struct buf *body)
{
    assert_true(t.count < TOGETHER_MAX);
    struct asked *asked = &t.asked[t.count++];
    struct command_prefix prefix = {
        .uid = t.shard->uid, .session = user->session, .seq = ++user->seq};
    if (kind == KIND_SESSION_OPEN) {
        prefix.seq = --user->seq;
    }
    message_patch_command(body->data, &prefix);
    *asked = (struct asked){.kind = kind, .owner = user->owner, .body = *body};
    asked->command = (struct shard_command){.cb = answered, .arg = asked};
    *body = (struct buf){0};
}

static void propose_all(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < t.count; i++) {
        struct asked *a = &t.asked[i];
        assert_int_equal(shard_propose(t.shard, a->kind, slice_of(a->body.data, a->body.len),
                                       a->owner, &a->command),
                         0);
    }
}

/* What was asked goes as one entry; *value: of the last one. */
static uint64_t together(void)
{
    uint64_t before = wal_log_last_index(t.shard->log);
    uint64_t value = 0;
    sim_proc_call(t.env, propose_all, NULL);
    for (uint32_t i = 0; i < t.count; i++) {
        for (uint32_t ms = 0; !t.asked[i].done; ms++) {
            assert_true(ms < 10000);
            cluster_run_ms(&t.c, 1);
        }
        assert_int_equal(t.asked[i].result.err, 0);
        value = t.asked[i].result.value;
        buf_close(&t.asked[i].body);
    }
    assert_int_equal(wal_log_last_index(t.shard->log), before + 1);
    t.count = 0;
    return value;
}

#define ASK(NAME, name, user, ...)                                                                 \
    do {                                                                                           \
        struct msg_##name msg_ = {__VA_ARGS__};                                                    \
        struct buf body_ = {0};                                                                    \
        assert_int_equal(message_encode_##name(&msg_, &body_), 0);                                 \
        ask(KIND_##NAME, (user), &body_);                                                          \
    } while (0)

static void ask_write(struct user *user, uint64_t ptr)
{
    ASK(WRITE, write, user, .ptr = ptr, .data = slice_of("written", 7));
}

/* It changes nothing. */
static void ask_in_vain(struct user *user)
{
    ASK(COMPARE_AND_WRITE, compare_and_write, user, .ptr = t.object,
        .expected = slice_of("neverso", 7), .desired = slice_of("instead", 7));
}

static void open_user(struct user *user, uint64_t owner)
{
    *user = (struct user){.owner = owner};
    ASK(SESSION_OPEN, session_open, user, .nonce = owner, .owner = owner, .window = 256,
        .lease_ms = 3600000);
    user->session = together();
}

static void writers_open(void)
{
    memset(&t, 0, sizeof t);
    cluster_open(&t.c, 11, (uint64_t)64 << 20);
    uint64_t uid = cluster_heap(&t.c, "h", 1, HEAP_BYTES);
    cluster_run_ms(&t.c, 1000);
    struct cluster_node *node = &t.c.nodes[cluster_leader(&t.c, uid)];
    t.env = node->env;
    t.shard = replica_shard(node->replica, uid);
    open_user(&t.a, CLUSTER_OWNER);
    open_user(&t.b, OTHER_OWNER);
    ASK(SET_RETENTION, set_retention, &t.a, .retention_ms = 600000);
    (void)together();
    ASK(ALLOC, alloc, &t.a, .size = 64);
    t.object = together();
}

static void look(void *arg)
{
    uint64_t ptr = *(const uint64_t *)arg;
    assert_int_equal(shard_writers(t.shard, ptr, t.found, FOUND_MAX, &t.found_count, &t.from), 0);
}

static void find(uint64_t ptr)
{
    sim_proc_call(t.env, look, &ptr);
}

static void assert_is(size_t i, const struct user *user, uint64_t seq, uint16_t kind)
{
    assert_true(i < t.found_count);
    assert_int_equal(t.found[i].session, user->session);
    assert_int_equal(t.found[i].owner, user->owner);
    assert_int_equal(t.found[i].seq, seq);
    assert_int_equal(t.found[i].kind, kind);
}

static void assert_nobody(size_t i)
{
    assert_true(i < t.found_count);
    assert_int_equal(t.found[i].session, 0);
    assert_int_equal(t.found[i].owner, 0);
}

/* ---- what is certain ---- */

static void one_command_of_an_entry_is_named(void **state)
{
    (void)state;
    writers_open();
    uint64_t born = t.a.seq;
    ask_write(&t.b, t.object);
    (void)together();
    find(t.object);
    assert_int_equal(t.found_count, 2);
    assert_is(0, &t.b, t.b.seq, KIND_WRITE);
    assert_is(1, &t.a, born, KIND_ALLOC);
    cluster_close(&t.c);
}

static void as_many_changes_as_commands_are_told_apart_by_their_order(void **state)
{
    (void)state;
    writers_open();
    ask_write(&t.a, t.object);
    uint64_t first = t.a.seq;
    ask_write(&t.b, t.object);
    ask_write(&t.a, t.object);
    (void)together();
    find(t.object);
    assert_is(0, &t.a, first + 1, KIND_WRITE);
    assert_is(1, &t.b, t.b.seq, KIND_WRITE);
    assert_is(2, &t.a, first, KIND_WRITE);
    cluster_close(&t.c);
}

static void all_records_of_a_transaction_are_of_one_command(void **state)
{
    (void)state;
    static struct part part;
    writers_open();
    part_begin(&part, 0);
    part_write(&part, t.object, 0, slice_of("one", 3));
    part_write(&part, t.object, 8, slice_of("two", 3));
    ASK(TX_COMMIT_ONE, tx_commit_one, &t.b, .part = part_slice(&part));
    (void)together();
    find(t.object);
    assert_int_equal(t.found_count, 3);
    assert_is(0, &t.b, t.b.seq, KIND_TX_COMMIT_ONE);
    assert_is(1, &t.b, t.b.seq, KIND_TX_COMMIT_ONE);
    cluster_close(&t.c);
}

/* ---- what isn't ---- */

static void nobody_is_named_where_two_may_have_been_it(void **state)
{
    (void)state;
    writers_open();
    ask_in_vain(&t.a);
    ask_write(&t.b, t.object);
    (void)together();
    find(t.object);
    assert_int_equal(t.found_count, 2);
    assert_nobody(0);
    cluster_close(&t.c);
}

static void what_all_possibilities_share_is_told(void **state)
{
    (void)state;
    writers_open();
    ask_in_vain(&t.b);
    ask_write(&t.b, t.object);
    (void)together();
    find(t.object);
    assert_is(0, &t.b, 0, 0);
    cluster_close(&t.c);
}

/* Where an object comes to lie is not said by the command. */
static void of_two_births_in_an_entry_nobody_knows_which(void **state)
{
    (void)state;
    writers_open();
    ASK(ALLOC, alloc, &t.a, .size = 64);
    ASK(ALLOC, alloc, &t.b, .size = 64);
    uint64_t ptr = together();
    find(ptr);
    assert_int_equal(t.found_count, 1);
    assert_nobody(0);
    ASK(ALLOC, alloc, &t.b, .size = 64);
    ASK(ALLOC, alloc, &t.b, .size = 64);
    ptr = together();
    find(ptr);
    assert_is(0, &t.b, 0, 0);
    cluster_close(&t.c);
}

/* A birth and a write in one entry: the write can only be of who knew the pointer. */
static void a_birth_beside_a_write_takes_nothing_from_it(void **state)
{
    (void)state;
    writers_open();
    ASK(ALLOC, alloc, &t.a, .size = 64);
    ask_write(&t.b, t.object);
    (void)together();
    find(t.object);
    assert_is(0, &t.b, t.b.seq, KIND_WRITE);
    cluster_close(&t.c);
}

static void more_candidates_than_are_kept_name_nobody(void **state)
{
    (void)state;
    writers_open();
    for (uint32_t i = 0; i < 70; i++) {
        ask_write(i % 2 == 0 ? &t.a : &t.b, t.object);
    }
    (void)together();
    find(t.object);
    for (size_t i = 0; i < 70; i++) {
        assert_nobody(i);
    }
    cluster_close(&t.c);
}

static void what_the_log_has_lost_is_nobodys(void **state)
{
    (void)state;
    writers_open();
    uint64_t pressed_from = wal_log_prev_index(t.shard->log);
    ask_write(&t.a, t.object);
    (void)together();
    checkpoint_want(t.shard, true);
    for (uint32_t i = 0; wal_log_prev_index(t.shard->log) == pressed_from; i++) {
        assert_true(i < 1000);
        cluster_run_ms(&t.c, 20);
    }
    ask_write(&t.b, t.object);
    (void)together();
    find(t.object);
    assert_int_equal(t.found_count, 3);
    assert_is(0, &t.b, t.b.seq, KIND_WRITE);
    assert_nobody(1);
    assert_nobody(2);
    assert_true(t.from > pressed_from + 1);
    cluster_close(&t.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_command_of_an_entry_is_named),
        cmocka_unit_test(as_many_changes_as_commands_are_told_apart_by_their_order),
        cmocka_unit_test(all_records_of_a_transaction_are_of_one_command),
        cmocka_unit_test(nobody_is_named_where_two_may_have_been_it),
        cmocka_unit_test(what_all_possibilities_share_is_told),
        cmocka_unit_test(of_two_births_in_an_entry_nobody_knows_which),
        cmocka_unit_test(a_birth_beside_a_write_takes_nothing_from_it),
        cmocka_unit_test(more_candidates_than_are_kept_name_nobody),
        cmocka_unit_test(what_the_log_has_lost_is_nobodys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
