#include "unit/coord/world.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

#define STEP_MS 2u

/* ---- nodes ---- */

static void on_death(void *arg)
{
    struct world_node *n = arg;
    struct env *env = n->env;
    node_free(n->node);
    n->node = NULL;
    n->env = NULL;
    sim_proc_free(env);
}

static void open_node(void *arg)
{
    struct world_node *n = arg;
    struct err_text e = {""};
    struct node_config config = n->world->config;
    (void)snprintf(config.name, sizeof config.name, "%s", n->name);
    (void)snprintf(config.listen, sizeof config.listen, "%s:7420", n->name);
    int rv = node_open(n->env, &config, NULL, NULL, &n->node, &e);
    if (rv != 0) {
        (void)fprintf(stderr, "%s: %s\n", n->name, e.text);
    }
    assert(rv == 0);
}

void world_start(struct world *w, uint32_t node)
{
    struct world_node *n = &w->nodes[node];
    n->stopped = false;
    n->env = sim_proc_start(n->host, ENV_ROLE_NODE, n->name);
    sim_proc_on_death(n->env, on_death, n);
    sim_proc_call(n->env, open_node, n);
}

void world_kill(struct world *w, uint32_t node)
{
    sim_proc_kill(w->nodes[node].env, SIM_SIGKILL);
    world_run_ms(w, STEP_MS);
    assert(w->nodes[node].env == NULL);
}

static void on_stopped(void *arg)
{
    struct world_node *n = arg;
    n->stopped = true;
}

static void stop_node(void *arg)
{
    struct world_node *n = arg;
    node_stop(n->node, on_stopped, n);
}

/* In order, so that whatever is left is a leak. */
static void world_stop(struct world *w, uint32_t node)
{
    struct world_node *n = &w->nodes[node];
    sim_proc_call(n->env, stop_node, n);
    for (uint32_t i = 0; !n->stopped; i++) {
        assert(i < 10000);
        world_run_ms(w, STEP_MS);
    }
    node_free(n->node);
    n->node = NULL;
    while (sim_proc_busy(n->env)) { /* a checkpoint that nobody waits for still writes */
        world_run_ms(w, STEP_MS);
    }
    sim_proc_free(n->env);
    n->env = NULL;
}

void world_run_ms(struct world *w, uint64_t ms)
{
    bool held = mem_fault_hold(false); /* what the test does itself lacks no memory */
    sim_run_until(w->sim, sim_now_ns(w->sim) + ms * SIM_MS);
    (void)mem_fault_hold(held);
}

/* ---- the client ---- */

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    struct world_node *n = arg;
    (void)conn;
    (void)hello;
    (void)ok;
    (void)e;
    n->ready = true;
    return 0;
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body)
{
    struct world_node *n = arg;
    (void)conn;
    for (uint32_t i = 0; i < WORLD_ANSWERS; i++) {
        struct answer *a = &n->world->answers[i];
        if (a->id != 0 && a->id == header->request_id && !a->done) {
            a->done = true;
            a->kind = header->kind;
            bool held = mem_fault_hold(true);
            int rv = buf_append(&a->body, body.data, body.len);
            (void)mem_fault_hold(held);
            assert(rv == 0);
        }
    }
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct world_node *n = arg;
    (void)conn;
    (void)reason;
    (void)text;
    n->conn = NULL;
    n->ready = false;
    for (uint32_t i = 0; i < WORLD_ANSWERS; i++) {
        struct answer *a = &n->world->answers[i];
        a->done = a->done || (a->id != 0 && a->node == (uint32_t)(n - n->world->nodes));
    }
}

static const struct rpc_cbs client_cbs = {
    .on_ready = on_ready, .on_frame = on_frame, .on_close = on_close};

static void connect_in(void *arg)
{
    struct world_node *n = arg;
    char address[32];
    (void)snprintf(address, sizeof address, "%s:7420", n->name);
    int rv = rpc_connect(n->world->client, address, n->name, RPC_LANE_CLIENT, &n->world->identity,
                         &client_cbs, n, &n->conn);
    assert(rv == 0);
}

static void send_in(void *arg)
{
    struct world *w = arg;
    w->sent = rpc_send(w->nodes[w->to].conn, &w->header, &w->body, 1);
}

static bool connected(struct world *w, uint32_t node)
{
    struct world_node *n = &w->nodes[node];
    for (uint32_t i = 0; n->node != NULL && !n->ready && i < 500; i++) {
        if (n->conn == NULL) {
            sim_proc_call(w->client, connect_in, n);
        }
        world_run_ms(w, STEP_MS);
    }
    return n->ready;
}

struct answer *world_send(struct world *w, uint32_t node, uint16_t kind, struct slice body)
{
    struct answer *a = w->answers;
    while (a->id != 0) {
        a++;
        assert(a < w->answers + WORLD_ANSWERS);
    }
    if (!connected(w, node)) {
        return NULL;
    }
    *a = (struct answer){.id = ++w->id_last, .node = node};
    w->header = (struct frame_header){.kind = kind, .request_id = a->id};
    w->body = body;
    w->to = node;
    sim_proc_call(w->client, send_in, w);
    assert(w->sent == 0);
    return a;
}

bool world_wait(struct world *w, struct answer *a, uint64_t ms)
{
    uint64_t until = sim_now_ns(w->sim) + ms * SIM_MS;
    while (!a->done && sim_now_ns(w->sim) < until) {
        world_run_ms(w, STEP_MS);
    }
    return a->done;
}

void world_answer_free(struct answer *a)
{
    buf_close(&a->body);
    a->id = 0;
}

/* ---- asking the leader ---- */

static struct shard *shard_at(struct world *w, uint32_t node, uint64_t uid)
{
    struct node *n = w->nodes[node].node;
    struct replica *r = n == NULL ? NULL : node_replica(n);
    return r == NULL ? NULL : replica_shard(r, uid);
}

uint32_t world_leader(struct world *w, uint64_t uid)
{
    for (uint32_t tries = 0; tries < 15000; tries++) {
        uint32_t found = WORLD_NODES;
        uint64_t term = 0;
        for (uint32_t i = 0; i < WORLD_NODES; i++) {
            struct shard *s = shard_at(w, i, uid);
            struct shard_info info = {0};
            if (s != NULL) {
                shard_get_info(s, &info);
            }
            if (info.serving && info.term >= term) {
                found = i;
                term = info.term;
            }
        }
        if (found < WORLD_NODES) {
            return found;
        }
        world_run_ms(w, STEP_MS);
    }
    assert(!"a shard has no leader");
    return 0;
}

const struct heap *world_heap(struct world *w, uint32_t node, uint64_t uid)
{
    struct shard *s = shard_at(w, node, uid);
    return s == NULL ? NULL : shard_heap(s);
}

static bool may_ask_again(const struct answer *a, int *err)
{
    struct msg_error e;
    *err = ERR_NOCONN;
    if (a->kind == KIND_ERROR) {
        int rv = message_decode_error(slice_of(a->body.data, a->body.len), &e);
        assert(rv == 0);
        *err = -(int)e.code;
    }
    return *err == ERR_NOCONN || *err == ERR_NOTLEADER || *err == ERR_UNAVAILABLE ||
           *err == ERR_BUSY || *err == ERR_NOSHARD || *err == ERR_SHUTDOWN || *err == ERR_NOMEM ||
           *err == ERR_IO;
}

/* Until it is answered with something else than "ask again". */
static struct buf ask(struct world *w, uint64_t uid, uint16_t kind, struct buf *body, int *err)
{
    struct buf out = {0};
    *err = ERR_TIMEOUT;
    for (uint32_t tries = 0; tries < 300; tries++) {
        uint32_t node = world_leader(w, uid);
        struct answer *a = world_send(w, node, kind, slice_of(body->data, body->len));
        if (a == NULL) {
            continue;
        }
        bool done = world_wait(w, a, 15000);
        assert(done);
        if (a->kind != 0 && a->kind != KIND_ERROR) {
            *err = 0;
            (void)buf_append(&out, a->body.data, a->body.len);
        }
        bool again = *err != 0 && may_ask_again(a, err);
        world_answer_free(a);
        if (!again) {
            break;
        }
        world_run_ms(w, 20);
        *err = ERR_TIMEOUT;
    }
    buf_close(body);
    return out;
}

struct msg_result world_command(struct world *w, uint64_t uid, uint16_t kind, struct buf *body)
{
    struct msg_result result = {0};
    int err;
    struct buf out = ask(w, uid, kind, body, &err);
    if (err != 0) {
        result.code = (uint32_t)-err;
    } else {
        int rv = message_decode_result(slice_of(out.data, out.len), &result);
        assert(rv == 0);
    }
    buf_close(&out);
    return result;
}

struct buf world_read(struct world *w, uint64_t uid, uint16_t kind, struct buf *body, int *err)
{
    return ask(w, uid, kind, body, err);
}

/* ---- a heap ---- */

static uint64_t open_session(struct world *w, uint64_t uid)
{
    struct msg_session_open m = {.uid = uid,
                                 .nonce = uid + 1,
                                 .owner = hash64(0, w->identity.name, strlen(w->identity.name)),
                                 .window = 256,
                                 .lease_ms = 60000};
    struct buf body = {0};
    int rv = message_encode_session_open(&m, &body);
    assert(rv == 0);
    struct msg_result r = world_command(w, uid, KIND_SESSION_OPEN, &body);
    assert(r.code == 0);
    return r.value;
}

static void make_heap(struct world *w)
{
    struct msg_heap_create m = {.uid = SHARD_META,
                                .session = open_session(w, SHARD_META),
                                .seq = 1,
                                .shard_bytes_max = 8u << 20,
                                .shard_count = WORLD_SHARDS,
                                .replicas = 3,
                                .name = slice_of("h", 1)};
    struct buf body = {0};
    int rv = message_encode_heap_create(&m, &body);
    assert(rv == 0);
    struct msg_result r = world_command(w, SHARD_META, KIND_HEAP_CREATE, &body);
    assert(r.code == 0);
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        struct catalog_shard shard;
        uint32_t leader = world_leader(w, SHARD_META);
        rv = catalog_shard_of(node_replica(w->nodes[leader].node), slice_of("h", 1), i, &shard);
        assert(rv == 0);
        w->uids[i] = shard.uid;
    }
    /* Leaders come to where they are wanted, each on another node. */
    world_run_ms(w, 3000);
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        w->sessions[i] = open_session(w, w->uids[i]);
    }
}

uint64_t world_alloc(struct world *w, uint32_t shard, uint64_t value)
{
    uint8_t init[8];
    store_u64(init, value);
    struct msg_alloc m = {.uid = w->uids[shard],
                          .session = w->sessions[shard],
                          .seq = ++w->seqs[shard],
                          .size = 8,
                          .init = slice_of(init, sizeof init)};
    struct buf body = {0};
    int rv = message_encode_alloc(&m, &body);
    assert(rv == 0);
    struct msg_result r = world_command(w, w->uids[shard], KIND_ALLOC, &body);
    assert(r.code == 0);
    return r.value;
}

uint64_t world_value(struct world *w, uint32_t shard, uint64_t ptr, uint64_t *version)
{
    struct msg_read m = {.uid = w->uids[shard], .ptr = ptr, .len = 8};
    struct msg_read_result result;
    struct buf body = {0};
    int err;
    int rv = message_encode_read(&m, &body);
    assert(rv == 0);
    struct buf out = world_read(w, w->uids[shard], KIND_READ, &body, &err);
    assert(err == 0);
    rv = message_decode_read_result(slice_of(out.data, out.len), &result);
    assert(rv == 0);
    uint64_t value = load_u64(result.data.data);
    if (version != NULL) {
        *version = result.version;
    }
    buf_close(&out);
    return value;
}

/* ---- life ---- */

void world_open(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->sim = sim_new(seed);
    log_set_clock(sim_log_clock, w->sim);
    struct node_config *config = &w->config;
    node_config_init(config);
    (void)snprintf(config->cluster, sizeof config->cluster, "test");
    (void)snprintf(config->data_dir, sizeof config->data_dir, "/data");
    config->node_count = WORLD_NODES;
    config->storage = NODE_STORAGE_DISK;
    config->meta_bytes_max = 4u << 20;
    config->election_ms = 500;
    config->leaders = REPLICA_LEADERS_SPREAD; /* what is on several shards is on several nodes */
    for (uint32_t i = 0; i < WORLD_NODES; i++) {
        struct world_node *n = &w->nodes[i];
        n->world = w;
        n->number = i + 1;
        (void)snprintf(n->name, sizeof n->name, "n%u", i + 1);
        n->host = sim_host_new(w->sim, n->name);
        config->nodes[i].number = i + 1;
        (void)snprintf(config->nodes[i].name, sizeof config->nodes[i].name, "%s", n->name);
        (void)snprintf(config->nodes[i].address, sizeof config->nodes[i].address, "%s:7420",
                       n->name);
    }
    w->client_host = sim_host_new(w->sim, "u1");
    w->client = sim_proc_start(w->client_host, ENV_ROLE_USER, "u1");
    (void)snprintf(w->identity.name, sizeof w->identity.name, "u1");
    for (uint32_t i = 0; i < WORLD_NODES; i++) {
        world_start(w, i);
    }
    make_heap(w);
}

void world_close(struct world *w)
{
    for (uint32_t i = 0; i < WORLD_NODES; i++) {
        if (w->nodes[i].env != NULL) {
            world_stop(w, i);
        }
    }
    world_run_ms(w, 2000); /* the client's connections end */
    for (uint32_t i = 0; i < WORLD_ANSWERS; i++) {
        world_answer_free(&w->answers[i]);
    }
    log_set_clock(NULL, NULL);
    sim_proc_kill(w->client, SIM_SIGKILL);
    sim_proc_free(w->client);
    sim_free(w->sim);
}

void world_settle(struct world *w, uint64_t ms)
{
    uint64_t until = sim_now_ns(w->sim) + ms * SIM_MS;
    for (;;) {
        bool empty = true;
        for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
            for (uint32_t k = 0; k < WORLD_NODES; k++) {
                struct txn_counts counts = {0};
                const struct heap *heap = world_heap(w, k, w->uids[i]);
                if (heap != NULL) {
                    txn_count(heap, &counts);
                }
                empty = empty && counts.prepared == 0;
            }
        }
        if (empty) {
            return;
        }
        assert(sim_now_ns(w->sim) < until);
        world_run_ms(w, STEP_MS);
    }
}
