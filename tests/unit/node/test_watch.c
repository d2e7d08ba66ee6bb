/* WATCH, asked of real nodes frame by frame: what is answered and when, what is refused, and that
 * nothing of a watch stays behind. */
#include "support/test.h"

#include "base/hlc.h"
#include "base/log.h"
#include "unit/coord/world.h"

#define CHANGE_HEAD 68u
#define FROM_NOW    0u
#define FROM_TOKEN  1u
#define FROM_OLDEST 2u
#define OBJECT      1u
#define ROOT        2u
#define TYPE        4u
#define ALL         5u

static struct world w;
static uint64_t object; /* on shard 0 */
static uint64_t acked;  /* of its session: all up to this one were answered */

/* ---- the world ---- */

static void retain(uint32_t shard, uint64_t ms)
{
    struct msg_set_retention m = {.uid = w.uids[shard],
                                  .session = w.sessions[shard],
                                  .seq = ++w.seqs[shard],
                                  .retention_ms = ms};
    struct buf body = {0};
    assert_int_equal(message_encode_set_retention(&m, &body), 0);
    assert_int_equal(world_command(&w, w.uids[shard], KIND_SET_RETENTION, &body).code, 0);
}

static void write_encode(uint64_t ptr, uint64_t value, struct buf *body)
{
    uint8_t bytes[8];
    store_u64(bytes, value);
    struct msg_write m = {.uid = w.uids[0],
                          .session = w.sessions[0],
                          .seq = ++w.seqs[0],
                          .acked = acked,
                          .ptr = ptr,
                          .data = slice_of(bytes, sizeof bytes)};
    assert_int_equal(message_encode_write(&m, body), 0);
}

static void write_value(uint64_t value)
{
    struct buf body = {0};
    write_encode(object, value, &body);
    assert_int_equal(world_command(&w, w.uids[0], KIND_WRITE, &body).code, 0);
    acked = w.seqs[0];
}

static int begin(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    world_open(&w, 4242);
    world_run_ms(&w, 10000); /* leaders have come to where they stay */
    acked = 0;
    retain(0, 600000);
    object = world_alloc(&w, 0, 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    world_close(&w);
    return 0;
}

/* Of a world in which nodes are killed. */
static int begin_killing(void **state)
{
    sim_ignore_leaks(true);
    return begin(state);
}

static int end_killing(void **state)
{
    int rv = end(state);
    sim_ignore_leaks(false);
    return rv;
}

static uint64_t watches_of(uint32_t node)
{
    struct node_health h;
    node_get_health(w.nodes[node].node, &h);
    return h.watches;
}

/* ---- asking ---- */

static struct msg_watch about(uint8_t what)
{
    return (struct msg_watch){.uid = w.uids[0],
                              .from = FROM_TOKEN,
                              .max = 1000,
                              .bytes_max = 1u << 20,
                              .what = what,
                              .ptr = what == OBJECT ? object : 0};
}

static struct answer *ask(uint32_t node, const struct msg_watch *m)
{
    struct buf body = {0};
    assert_int_equal(message_encode_watch(m, &body), 0);
    struct answer *a = world_send(&w, node, KIND_WATCH, slice_of(body.data, body.len));
    buf_close(&body);
    assert_non_null(a);
    return a;
}

struct heard {
    uint64_t token, first, last; /* orders */
    uint32_t count;
    size_t bytes;
    uint64_t value; /* that the last one wrote */
};

static struct heard heard_of(struct answer *a)
{
    struct heard h = {0};
    struct msg_watch_result m;
    assert_true(world_wait(&w, a, 60000));
    if (a->kind == KIND_ERROR) {
        struct msg_error e;
        assert_int_equal(message_decode_error(slice_of(a->body.data, a->body.len), &e), 0);
        fail_msg("%u: %.*s", e.code, (int)e.text.len, (const char *)e.text.data);
    }
    assert_int_equal(a->kind, KIND_WATCH_RESULT);
    assert_int_equal(message_decode_watch_result(slice_of(a->body.data, a->body.len), &m), 0);
    h.token = m.token;
    h.bytes = m.changes.len;
    for (size_t at = 0; at < m.changes.len; h.count++) {
        const uint8_t *c = m.changes.data + at;
        uint32_t before = load_u32(c + 60);
        uint32_t after = load_u32(c + 64);
        uint32_t before_len = before == UINT32_MAX ? 0 : before;
        assert_true(load_u64(c) > h.last);
        h.last = load_u64(c);
        h.first = h.first == 0 ? h.last : h.first;
        if (after == 8) {
            h.value = load_u64(c + CHANGE_HEAD + load_u16(c + 58) + before_len);
        }
        at += CHANGE_HEAD + load_u16(c + 58) + before_len + (after == UINT32_MAX ? 0 : after);
    }
    world_answer_free(a);
    return h;
}

static struct heard hear(uint32_t node, const struct msg_watch *m)
{
    return heard_of(ask(node, m));
}

/* What it is refused with; *text may be NULL. */
static int refusal(struct answer *a, char text[512])
{
    struct msg_error e;
    assert_true(world_wait(&w, a, 60000));
    if (a->kind == 0) {
        world_answer_free(a);
        return ERR_NOCONN;
    }
    assert_int_equal(a->kind, KIND_ERROR);
    assert_int_equal(message_decode_error(slice_of(a->body.data, a->body.len), &e), 0);
    if (text != NULL) {
        (void)snprintf(text, 512, "%.*s", (int)e.text.len, (const char *)e.text.data);
    }
    int err = -(int)e.code;
    world_answer_free(a);
    return err;
}

static uint64_t token_now(void)
{
    struct msg_watch m = about(ALL);
    m.from = FROM_NOW;
    struct heard h = hear(world_leader(&w, w.uids[0]), &m);
    assert_int_equal(h.count, 0);
    return h.token;
}

/* ---- answers ---- */

static void a_change_answers_those_who_wait_for_it(void **state)
{
    (void)state;
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(OBJECT);
    struct msg_watch other = about(ROOT);
    char name[255];
    memset(name, 'n', sizeof name); /* the longest there is */
    other.name = slice_of(name, sizeof name);
    m.token = other.token = token_now();
    m.wait_ms = 30000;
    other.wait_ms = 3000;
    m.values = 1;
    struct answer *waits = ask(leader, &m);
    struct answer *idle = ask(leader, &other);
    world_run_ms(&w, 500);
    assert_false(waits->done);
    assert_int_equal(watches_of(leader), 2);
    write_value(7);
    struct heard h = heard_of(waits);
    assert_int_equal(h.count, 1);
    assert_int_equal(h.value, 7);
    assert_int_equal(h.token, h.last);
    assert_true(h.last > m.token);
    assert_false(idle->done);
    /* What was made before is not waited for. */
    h = hear(leader, &m);
    assert_int_equal(h.value, 7);
    /* Time over: no changes, and a token behind what is no business of it. */
    struct heard nothing = heard_of(idle);
    assert_int_equal(nothing.count, 0);
    assert_true(nothing.token >= h.token);
    assert_int_equal(watches_of(leader), 0);
}

static void a_slow_consumer_gets_all_of_a_long_history(void **state)
{
    (void)state;
    enum { ROUNDS = 30, EACH = 200 };
    uint32_t leader = world_leader(&w, w.uids[0]);
    static struct answer *answers[EACH];
    uint64_t noise = world_alloc(&w, 0, 0);
    uint64_t start = token_now();
    write_value(1);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < EACH; i++) {
            struct buf body = {0};
            write_encode(noise, (uint64_t)i, &body);
            answers[i] = world_send(&w, leader, KIND_WRITE, slice_of(body.data, body.len));
            buf_close(&body);
        }
        for (int i = 0; i < EACH; i++) {
            assert_true(world_wait(&w, answers[i], 60000));
            assert_int_equal(answers[i]->kind, KIND_RESULT);
            world_answer_free(answers[i]);
        }
        acked = w.seqs[0];
    }
    write_value(2);
    /* By type and by object, in bites that are too small for it. */
    struct msg_watch m = about(ALL);
    m.token = start;
    m.bytes_max = 5000;
    m.values = 1;
    uint32_t count = 0;
    for (struct heard h; (h = hear(leader, &m)).count > 0; m.token = h.token) {
        assert_true(h.bytes < m.bytes_max + CHANGE_HEAD + 16);
        assert_true(h.first > m.token);
        count += h.count;
    }
    assert_int_equal(count, ROUNDS * EACH + 2);
    m.token = start;
    m.bytes_max = 1; /* one at a time */
    for (count = 0; count < 20; count++) {
        struct heard h = hear(leader, &m);
        assert_int_equal(h.count, 1);
        m.token = h.token;
    }
    /* A search that takes several turns finds what is at its end, and holds up nobody: many of
     * them at once, and a change while they look. */
    m = about(ALL);
    m.what = TYPE;
    m.type = 77;
    m.token = start;
    for (int i = 0; i < 40; i++) {
        answers[i] = ask(leader, &m);
    }
    m = about(OBJECT);
    m.token = token_now();
    m.wait_ms = 30000;
    m.values = 1;
    struct answer *waits = ask(leader, &m);
    write_value(3);
    assert_int_equal(heard_of(waits).value, 3);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(heard_of(answers[i]).count, 0);
    }
    assert_int_equal(watches_of(leader), 0);
}

/* ---- refusals ---- */

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    uint32_t leader = world_leader(&w, w.uids[0]);
    const struct msg_watch good = about(ALL);
    struct msg_watch bad[9];
    for (size_t i = 0; i < 9; i++) {
        bad[i] = good;
    }
    bad[0].what = 0;
    bad[1].what = 6;
    bad[2].from = 3;
    bad[3].max = 0;
    bad[4].bytes_max = 0;
    bad[5].wait_ms = WATCH_WAIT_MS_MAX + 1;
    bad[6].uid = SHARD_META;
    bad[7].from = 255;
    bad[8].what = 255;
    for (size_t i = 0; i < 9; i++) {
        assert_int_equal(refusal(ask(leader, &bad[i]), NULL), ERR_PROTOCOL);
    }
    struct msg_watch nowhere = good;
    nowhere.uid = 999;
    assert_int_equal(refusal(ask(leader, &nowhere), NULL), ERR_NOSHARD);
    uint32_t follower = (leader + 1) % WORLD_NODES;
    assert_int_equal(refusal(ask(follower, &good), NULL), ERR_NOTLEADER);
    /* Bytes that are no WATCH: cut off anywhere, and any bytes at all. */
    struct buf body = {0};
    assert_int_equal(message_encode_watch(&good, &body), 0);
    for (size_t len = 0; len < body.len; len++) {
        struct answer *a = world_send(&w, leader, KIND_WATCH, slice_of(body.data, len));
        assert_non_null(a);
        int err = refusal(a, NULL);
        assert_true(err == ERR_PROTOCOL || err == ERR_NOSHARD || err == ERR_NOCONN);
    }
    for (uint32_t i = 0; i < 300; i++) {
        for (size_t k = i % 2 * 8; k < body.len; k++) { /* half of them for the right shard */
            body.data[k] = (uint8_t)((i * 2654435761u + k * 40503u) >> 11);
        }
        struct answer *a = world_send(&w, leader, KIND_WATCH, slice_of(body.data, body.len));
        assert_non_null(a);
        assert_true(world_wait(&w, a, 60000));
        world_answer_free(a);
    }
    buf_close(&body);
    world_run_ms(&w, 1000);
    assert_int_equal(watches_of(leader), 0);
    (void)token_now(); /* and it serves on */
}

static void a_token_is_of_this_shard_and_in_its_history(void **state)
{
    (void)state;
    char text[512];
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(ALL);
    m.token = token_now() + 1;
    assert_int_equal(refusal(ask(leader, &m), text), ERR_INVAL);
    assert_non_null(strstr(text, "ahead of this shard"));
    m.token = UINT64_MAX;
    assert_int_equal(refusal(ask(leader, &m), NULL), ERR_INVAL);
    m.token = 0; /* before its history began */
    assert_int_equal(refusal(ask(leader, &m), text), ERR_SNAPSHOT_TOO_OLD);
    assert_non_null(strstr(text, "the oldest token"));
    m.from = FROM_OLDEST;
    m.at = 1;
    assert_int_equal(refusal(ask(leader, &m), text), ERR_SNAPSHOT_TOO_OLD);
    assert_non_null(strstr(text, "the oldest version"));
    const struct heap *heap = world_heap(&w, leader, w.uids[0]);
    m.at = heap_clock(heap) + hlc_from_ms(60000);
    assert_int_equal(refusal(ask(leader, &m), NULL), ERR_INVAL);
    m.uid = w.uids[1]; /* keeps none */
    m.at = 0;
    assert_int_equal(refusal(ask(world_leader(&w, w.uids[1]), &m), text), ERR_UNSUPPORTED);
    assert_non_null(strstr(text, "retention"));
    /* One that waits learns that there is none any more. */
    m = about(OBJECT);
    m.token = token_now();
    m.wait_ms = 30000;
    struct answer *waits = ask(leader, &m);
    world_run_ms(&w, 100);
    retain(0, 0);
    assert_int_equal(refusal(waits, NULL), ERR_UNSUPPORTED);
    retain(0, 600000);
    assert_int_equal(refusal(ask(leader, &m), NULL), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(watches_of(leader), 0);
}

static void so_many_watches_and_no_more(void **state)
{
    (void)state;
    static struct answer *answers[WATCHES_PER_CONN_MAX];
    char text[512];
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(OBJECT);
    m.token = token_now();
    m.wait_ms = 30000;
    for (size_t i = 0; i < WATCHES_PER_CONN_MAX; i++) {
        answers[i] = ask(leader, &m);
    }
    world_run_ms(&w, 200);
    assert_int_equal(watches_of(leader), WATCHES_PER_CONN_MAX);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(refusal(ask(leader, &m), text), ERR_LIMIT);
        assert_non_null(strstr(text, "too many watches"));
    }
    write_value(9);
    for (size_t i = 0; i < WATCHES_PER_CONN_MAX; i++) {
        assert_int_equal(heard_of(answers[i]).count, 1);
    }
    assert_int_equal(watches_of(leader), 0);
    assert_int_equal(hear(leader, &m).count, 1);
}

/* Connections besides the world's own. */
struct crowd {
    struct env *env; /* whose user it is */
    struct rpc_identity identity;
    struct rpc_conn *conn;
    uint32_t leader;
    bool ready;
    struct msg_watch ask;
    uint32_t asks, limited;
};

static int crowd_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                       const struct msg_hello_ok *ok, struct err_text *e)
{
    struct crowd *c = arg;
    (void)conn;
    (void)hello;
    (void)ok;
    (void)e;
    c->ready = true;
    return 0;
}

static void crowd_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                        struct slice body)
{
    struct crowd *c = arg;
    struct msg_error e;
    (void)conn;
    if (header->kind == KIND_ERROR && message_decode_error(body, &e) == 0) {
        c->limited += e.code == (uint32_t)-ERR_LIMIT;
    }
}

static void crowd_gone(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct crowd *c = arg;
    (void)conn;
    (void)reason;
    (void)text;
    c->conn = NULL;
}

static const struct rpc_cbs crowd_cbs = {
    .on_ready = crowd_ready, .on_frame = crowd_frame, .on_close = crowd_gone};

static void crowd_connect_in(void *arg)
{
    struct crowd *c = arg;
    char address[32];
    (void)snprintf(address, sizeof address, "%s:7420", w.nodes[c->leader].name);
    assert_int_equal(rpc_connect(c->env, address, w.nodes[c->leader].name, RPC_LANE_CLIENT,
                                 &c->identity, &crowd_cbs, c, &c->conn),
                     0);
}

static void crowd_ask_in(void *arg)
{
    struct crowd *c = arg;
    struct buf body = {0};
    assert_int_equal(message_encode_watch(&c->ask, &body), 0);
    struct slice part = slice_of(body.data, body.len);
    for (uint32_t i = 0; i < c->asks; i++) {
        struct frame_header header = {.kind = KIND_WATCH, .request_id = i + 1};
        assert_int_equal(rpc_send(c->conn, &header, &part, 1), 0);
    }
    buf_close(&body);
}

static void crowd_close_in(void *arg)
{
    struct crowd *c = arg;
    rpc_close(c->conn, ERR_CANCELED);
}

static void crowd_connect(struct crowd *c, struct env *env, const char *user, uint32_t leader)
{
    *c = (struct crowd){.env = env, .leader = leader, .identity = w.identity};
    (void)snprintf(c->identity.name, sizeof c->identity.name, "%s", user);
    sim_proc_call(env, crowd_connect_in, c);
    for (uint32_t i = 0; !c->ready; i++) {
        assert_true(i < 1000);
        world_run_ms(&w, 2);
    }
}

static void crowd_ask(struct crowd *c, const struct msg_watch *m, uint32_t asks)
{
    c->ask = *m;
    c->asks = asks;
    sim_proc_call(c->env, crowd_ask_in, c);
}

static void a_user_has_so_many_on_all_connections_together(void **state)
{
    (void)state;
    enum { FULL = WATCHES_PER_USER_MAX / WATCHES_PER_CONN_MAX };
    static struct crowd own[FULL + 1];
    static struct crowd another;
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(OBJECT);
    m.token = token_now();
    m.wait_ms = 30000;
    for (uint32_t i = 0; i < FULL + 1; i++) {
        crowd_connect(&own[i], w.client, "u1", leader);
    }
    struct env *stranger = sim_proc_start(sim_host_new(w.sim, "u2"), ENV_ROLE_USER, "u2");
    crowd_connect(&another, stranger, "u2", leader);
    /* Alone, the leader can't say yet that it is one: nothing is answered that isn't refused. */
    for (uint32_t i = 0; i < WORLD_NODES; i++) {
        if (i != leader) {
            sim_net_cut(w.nodes[leader].host, w.nodes[i].host, true);
            sim_net_cut(w.nodes[i].host, w.nodes[leader].host, true);
        }
    }
    for (uint32_t i = 0; i < FULL; i++) {
        crowd_ask(&own[i], &m, WATCHES_PER_CONN_MAX);
    }
    world_run_ms(&w, 20);
    assert_int_equal(watches_of(leader), WATCHES_PER_USER_MAX);
    crowd_ask(&own[FULL], &m, 3);
    crowd_ask(&another, &m, 1);
    world_run_ms(&w, 20);
    assert_int_equal(own[FULL].limited, 3);
    assert_int_equal(another.limited, 0);
    assert_int_equal(watches_of(leader), WATCHES_PER_USER_MAX + 1);
    /* Those of a connection that is gone don't count. */
    sim_proc_call(w.client, crowd_close_in, &own[0]);
    world_run_ms(&w, 20);
    crowd_ask(&own[FULL], &m, 1);
    world_run_ms(&w, 20);
    assert_int_equal(own[FULL].limited, 3);
    sim_net_heal(w.sim);
    world_run_ms(&w, 2000);
    for (uint32_t i = 1; i < FULL + 1; i++) {
        sim_proc_call(w.client, crowd_close_in, &own[i]);
    }
    sim_proc_call(stranger, crowd_close_in, &another);
    world_run_ms(&w, 2000);
    assert_int_equal(watches_of(leader), 0);
    sim_proc_kill(stranger, SIM_SIGKILL);
    sim_proc_free(stranger);
}

/* ---- what ends them ---- */

static void close_in(void *arg)
{
    struct world_node *n = arg;
    rpc_close(n->conn, ERR_CANCELED);
}

static void a_connection_that_goes_takes_its_watches_along(void **state)
{
    (void)state;
    enum { MANY = 20 };
    struct answer *answers[MANY];
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(OBJECT);
    for (int round = 0; round < 6; round++) {
        m.token = token_now();
        m.wait_ms = 30000;
        for (int i = 0; i < MANY; i++) {
            m.what = i % 2 == 0 ? OBJECT : ALL;
            answers[i] = ask(leader, &m);
        }
        world_run_ms(&w, round % 3 == 0 ? 0 : 100); /* some are on their way, some wait */
        if (round % 2 == 0) {
            sim_proc_call(w.client, close_in, &w.nodes[leader]);
        } else { /* as it answers them */
            struct buf body = {0};
            write_encode(object, 5, &body);
            struct answer *wrote =
                world_send(&w, leader, KIND_WRITE, slice_of(body.data, body.len));
            buf_close(&body);
            world_run_ms(&w, 2);
            sim_proc_call(w.client, close_in, &w.nodes[leader]);
            assert_true(world_wait(&w, wrote, 60000));
            world_answer_free(wrote);
        }
        for (int i = 0; i < MANY; i++) {
            assert_true(world_wait(&w, answers[i], 60000));
            world_answer_free(answers[i]);
        }
        world_run_ms(&w, 3000);
        assert_int_equal(watches_of(leader), 0);
        write_value(6);
    }
}

static void hand_over_in(void *arg)
{
    uint32_t leader = *(const uint32_t *)arg;
    struct shard *shard = replica_shard(node_replica(w.nodes[leader].node), w.uids[0]);
    uint32_t next = (leader + 1) % WORLD_NODES;
    assert_int_equal(shard_transfer_leadership(shard, w.nodes[next].number), 0);
}

static void another_leader_goes_on_from_the_token(void **state)
{
    (void)state;
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(OBJECT);
    m.token = token_now();
    m.wait_ms = 30000;
    m.values = 1;
    for (uint64_t value = 10; value < 14; value++) {
        struct answer *waits = ask(leader, &m);
        world_run_ms(&w, 100);
        assert_false(waits->done);
        sim_proc_call(w.nodes[leader].env, hand_over_in, &leader);
        assert_int_equal(refusal(waits, NULL), ERR_NOTLEADER);
        write_value(value);
        leader = world_leader(&w, w.uids[0]);
        struct heard h = hear(leader, &m);
        assert_int_equal(h.count, 1);
        assert_int_equal(h.value, value);
        m.token = h.token;
    }
}

static void a_killed_leader_loses_no_change(void **state)
{
    (void)state;
    uint32_t leader = world_leader(&w, w.uids[0]);
    struct msg_watch m = about(OBJECT);
    m.token = token_now();
    m.wait_ms = 30000;
    m.values = 1;
    for (uint64_t value = 20; value < 23; value++) {
        struct answer *waits = ask(leader, &m);
        world_run_ms(&w, 50);
        uint32_t killed = leader;
        world_kill(&w, killed);
        assert_true(world_wait(&w, waits, 60000));
        assert_int_equal(waits->kind, 0);
        world_answer_free(waits);
        write_value(value);
        leader = world_leader(&w, w.uids[0]);
        struct heard h = hear(leader, &m);
        assert_int_equal(h.count, 1);
        assert_int_equal(h.value, value);
        m.token = h.token;
        world_start(&w, killed);
        world_run_ms(&w, 3000);
        leader = world_leader(&w, w.uids[0]);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(a_change_answers_those_who_wait_for_it),
        TEST(a_slow_consumer_gets_all_of_a_long_history),
        TEST(what_makes_no_sense_is_refused),
        TEST(a_token_is_of_this_shard_and_in_its_history),
        TEST(so_many_watches_and_no_more),
        TEST(a_user_has_so_many_on_all_connections_together),
        TEST(a_connection_that_goes_takes_its_watches_along),
        TEST(another_leader_goes_on_from_the_token),
        cmocka_unit_test_setup_teardown(a_killed_leader_loses_no_change, begin_killing,
                                        end_killing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
