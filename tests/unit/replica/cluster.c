#include "unit/replica/cluster.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"

#define DELAY_NS (200 * 1000ull)
#define STEP_MS  2u

/* ---- the carrier ---- */

struct packet {
    struct cluster *cluster;
    uint32_t from, to; /* 0.. */
    uint16_t kind;     /* 0: a peer batch */
    bool answer;
    int err;
    uint64_t token;
    struct env *env; /* of the asker, when it asked */
    struct buf body;
};

static void packet_free(struct packet *p)
{
    buf_close(&p->body);
    mem_free(p);
}

static void carry(struct packet *p, void (*cb)(void *arg))
{
    const struct cluster *c = p->cluster;
    sim_at(c->sim, sim_now_ns(c->sim) + c->delay_ns + c->nodes[p->from].delay_ns, cb, p);
}

static struct packet *packet_new(struct cluster *c, uint32_t from, uint32_t to, struct slice body)
{
    bool held = mem_fault_hold(true);
    struct packet *p = mem_zalloc(sizeof *p);
    assert(p != NULL);
    p->cluster = c;
    p->from = from;
    p->to = to;
    int rv = buf_append(&p->body, body.data, body.len);
    assert(rv == 0);
    (void)mem_fault_hold(held);
    return p;
}

static void answer_in(void *arg)
{
    struct packet *p = arg;
    struct cluster_node *node = &p->cluster->nodes[p->to];
    replica_bulk_answer(node->replica, p->token, p->err, p->kind,
                        slice_of(p->body.data, p->body.len));
}

static void packet_in(void *arg)
{
    struct packet *p = arg;
    struct cluster_node *node = &p->cluster->nodes[p->to];
    if (p->kind == 0) {
        (void)replica_receive(node->replica, p->from + 1, slice_of(p->body.data, p->body.len));
        return;
    }
    struct buf out = {0};
    uint16_t kind = 0;
    int err = replica_bulk_serve(node->replica, p->from + 1, p->kind,
                                 slice_of(p->body.data, p->body.len), &kind, &out);
    bool held = mem_fault_hold(true);
    buf_clear(&p->body);
    (void)buf_append(&p->body, out.data, out.len);
    (void)mem_fault_hold(held);
    buf_close(&out);
    p->kind = kind;
    p->err = err;
}

static bool reachable(const struct cluster_node *node)
{
    return node->env != NULL && !sim_proc_dead(node->env) && node->replica != NULL && !node->cut;
}

static void deliver_answer(void *arg)
{
    struct packet *p = arg;
    struct cluster_node *node = &p->cluster->nodes[p->to];
    if (node->env == p->env && !sim_proc_dead(node->env) && node->replica != NULL) {
        if (node->cut) {
            p->err = ERR_NOCONN;
        }
        sim_proc_call(node->env, answer_in, p);
    }
    packet_free(p);
}

static void deliver(void *arg)
{
    struct packet *p = arg;
    struct cluster_node *to = &p->cluster->nodes[p->to];
    bool ok = reachable(to) && !p->cluster->nodes[p->from].cut;
    if (ok) {
        sim_proc_call(to->env, packet_in, p);
    }
    if (p->kind == 0 && p->token == 0) {
        packet_free(p);
        return;
    }
    if (!ok) {
        p->err = ERR_NOCONN;
    }
    uint32_t from = p->from;
    p->from = p->to;
    p->to = from;
    carry(p, deliver_answer);
}

static void on_send(void *arg, uint32_t number, struct slice items)
{
    struct cluster_node *node = arg;
    struct cluster *c = node->cluster;
    if (node->cut || sim_chance(c->sim, c->loss_per_million)) {
        return;
    }
    carry(packet_new(c, node->number - 1, number - 1, items), deliver);
}

static void on_bulk(void *arg, uint32_t number, uint16_t kind, struct slice body, uint64_t token)
{
    struct cluster_node *node = arg;
    struct packet *p = packet_new(node->cluster, node->number - 1, number - 1, body);
    p->kind = kind;
    p->token = token;
    p->env = node->env;
    assert(token != 0);
    carry(p, deliver);
}

static void on_shard_failed(void *arg, struct shard *shard, int err, const char *text)
{
    struct cluster_node *node = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    node->shards_failed++;
    log_warn("test", "a shard failed", "node=%u shard=%llx err=%s text=\"%s\"", node->number,
             (unsigned long long)info.uid, err_name(err), text);
}

static const struct replica_cbs callbacks = {
    .send = on_send,
    .bulk_request = on_bulk,
    .on_shard_failed = on_shard_failed,
};

/* ---- processes ---- */

static void on_durable(void *arg, uint64_t position)
{
    struct cluster_node *node = arg;
    if (node->replica != NULL) {
        replica_log_durable(node->replica, position);
    }
}

static void on_log_failed(void *arg, int err, const char *text)
{
    struct cluster_node *node = arg;
    (void)text;
    if (node->replica != NULL) {
        replica_log_failed(node->replica, err);
    }
}

static void on_pressure(void *arg, struct wal_log *log)
{
    struct cluster_node *node = arg;
    if (node->replica != NULL) {
        replica_log_pressure(node->replica, log);
    }
}

static void open_node(void *arg)
{
    struct cluster_node *node = arg;
    struct err_text e = {.text = ""};
    (void)env_dir_create(node->env, "/data");
    struct wal_opts wal_opts = {
        .dir = "/data/wal",
        .node_uid = 1000 + node->number,
        .segment_bytes = 1 << 20,
        .on_durable = on_durable,
        .on_failed = on_log_failed,
        .on_pressure = on_pressure,
        .arg = node,
    };
    int rv = wal_open(node->env, &wal_opts, &node->wal, &e);
    if (rv == 0) {
        struct replica_opts opts = {
            .env = node->env,
            .wal = node->wal,
            .dir = "/data/shards",
            .node = node->number,
            .nodes = {1, 2, 3},
            .node_count = CLUSTER_NODES,
            .self_id = node->self_id,
            .founding = node->founding,
            .cluster_id = 5,
            .election_ms = 300,
            .leaders = REPLICA_LEADERS_SPREAD,
            .heartbeat_ms = 50,
            .meta_bytes_max = 4 << 20,
            .mode = IMAGE_DISK,
            .checkpoint_log_bytes = node->cluster->checkpoint_log_bytes,
            .cbs = &callbacks,
            .arg = node,
        };
        rv = replica_open(&opts, &node->replica, &e);
    }
    if (rv != 0 && rv != ERR_NOMEM) {
        (void)fprintf(stderr, "node %u: %s: %s\n", node->number, err_name(rv), e.text);
    }
    node->open_err = rv;
}

/* What a test does itself lacks no memory; what the nodes do may. */
static void call_in(struct cluster_node *node, void (*cb)(void *arg), void *arg)
{
    bool held = mem_fault_hold(false);
    sim_proc_call(node->env, cb, arg);
    (void)mem_fault_hold(held);
}

int cluster_try_start(struct cluster *c, uint32_t i)
{
    struct cluster_node *node = &c->nodes[i];
    assert(node->env == NULL);
    node->env = sim_proc_start(node->host, ENV_ROLE_NODE, sim_host_name(node->host));
    assert(node->env != NULL);
    node->stopped = false;
    call_in(node, open_node, node);
    if (node->open_err != 0) {
        cluster_kill(c, i, SIM_SIGKILL);
    }
    return node->open_err;
}

void cluster_start(struct cluster *c, uint32_t i)
{
    int rv = cluster_try_start(c, i);
    assert(rv == 0);
}

/* A log that is abandoned waits for its writes in flight before it frees itself, and those of a
 * dead process never end: what it holds stays, and is known here. */
static struct wal *graves[1024];
static size_t grave_count;

static void end(struct cluster_node *node)
{
    replica_free(node->replica);
    node->replica = NULL;
    if (node->wal != NULL) {
        graves[grave_count++ % (sizeof graves / sizeof *graves)] = node->wal;
        wal_abandon(node->wal);
        node->wal = NULL;
    }
    sim_proc_free(node->env);
    node->env = NULL;
}

void cluster_kill(struct cluster *c, uint32_t i, enum sim_death how)
{
    struct cluster_node *node = &c->nodes[i];
    sim_proc_kill(node->env, how);
    end(node);
}

void cluster_open(struct cluster *c, uint64_t seed, uint64_t checkpoint_log_bytes)
{
    memset(c, 0, sizeof *c);
    log_set_level(LOG_WARN);
    c->sim = sim_new(seed);
    c->checkpoint_log_bytes = checkpoint_log_bytes;
    c->delay_ns = DELAY_NS;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "n%u", i + 1);
        struct cluster_node *node = &c->nodes[i];
        node->cluster = c;
        node->number = i + 1;
        node->self_id = replica_id_make(0, i + 1);
        node->founding = true;
        node->host = sim_host_new(c->sim, name);
        cluster_start(c, i);
    }
}

void cluster_close(struct cluster *c)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (c->nodes[i].env != NULL) {
            cluster_kill(c, i, SIM_SIGKILL);
        }
    }
    cluster_run_ms(c, 1000); /* what is still carried */
    sim_free(c->sim);
}

void cluster_run_ms(struct cluster *c, uint64_t ms)
{
    bool held = mem_fault_hold(false);
    sim_run_until(c->sim, sim_now_ns(c->sim) + ms * SIM_MS);
    (void)mem_fault_hold(held);
}

/* ---- looking ---- */

struct shard_info cluster_info(struct cluster *c, uint32_t i, uint64_t uid)
{
    struct shard_info info = {0};
    struct shard *s = c->nodes[i].replica != NULL ? replica_shard(c->nodes[i].replica, uid) : NULL;
    if (s != NULL) {
        shard_get_info(s, &info);
    }
    return info;
}

uint32_t cluster_leader(struct cluster *c, uint64_t uid)
{
    for (uint32_t tries = 0; tries < 15000; tries++) {
        for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
            if (!c->nodes[i].cut && cluster_info(c, i, uid).serving) {
                return i;
            }
        }
        cluster_run_ms(c, STEP_MS);
    }
    assert(false && "a leader within 30 s");
    return 0;
}

void cluster_check_equal(struct cluster *c, uint64_t uid)
{
    for (uint32_t tries = 0; tries < 15000; tries++) {
        uint64_t digest = 0;
        uint64_t index = 0;
        uint32_t same = 0;
        uint32_t running = 0;
        for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
            if (c->nodes[i].replica == NULL) {
                continue;
            }
            running++;
            struct shard_info info = cluster_info(c, i, uid);
            if (info.uid == 0 || info.failed || info.installing) {
                continue;
            }
            uint64_t at;
            struct err_text e = {.text = ""};
            struct shard *s = replica_shard(c->nodes[i].replica, uid);
            if (same == 0) {
                index = info.applied_index;
            }
            if (info.applied_index != index) {
                continue;
            }
            uint64_t d = shard_digest(s, &at);
            assert(at == index);
            if (same == 0) {
                digest = d;
            }
            if (d != digest) {
                (void)fprintf(stderr, "node %u differs in shard %llx at index %llu\n", i + 1,
                              (unsigned long long)uid, (unsigned long long)index);
            }
            assert(d == digest);
            if (heap_check(shard_heap(s), &e) != 0) {
                (void)fprintf(stderr, "node %u: %s\n", i + 1, e.text);
                assert(false && "the heap checks");
            }
            same++;
        }
        if (same == running) {
            return;
        }
        cluster_run_ms(c, STEP_MS);
    }
    assert(false && "replicas at one index within 30 s");
}

/* ---- commands ---- */

struct request {
    struct shard_command command;
    struct shard_read read;
    struct cluster_node *node;
    uint64_t uid;
    uint16_t kind;
    struct slice body;
    int rv;
    bool done;
    struct command_result result;
    int read_err;
    cluster_look_cb look;
    void *look_arg;
};

static void command_done(struct shard_command *command, const struct command_result *result)
{
    struct request *q = container_of(command, struct request, command);
    assert(!q->done);
    q->done = true;
    q->result = *result;
}

static void propose(void *arg)
{
    struct request *q = arg;
    struct shard *s = replica_shard(q->node->replica, q->uid);
    q->rv =
        s == NULL ? ERR_NOSHARD : shard_propose(s, q->kind, q->body, CLUSTER_OWNER, &q->command);
}

int cluster_command_at(struct cluster *c, uint32_t i, uint16_t kind, struct slice body,
                       struct command_result *result, uint64_t wait_ms)
{
    struct command_prefix prefix;
    int rv = message_command_prefix(body, &prefix);
    assert(rv == 0);
    if (c->nodes[i].replica == NULL) {
        return ERR_NOCONN;
    }
    struct request q = {.node = &c->nodes[i], .uid = prefix.uid, .kind = kind, .body = body};
    q.command.cb = command_done;
    call_in(&c->nodes[i], propose, &q);
    if (q.rv != 0) {
        return q.rv;
    }
    uint64_t until = sim_now_ns(c->sim) + wait_ms * SIM_MS;
    while (!q.done && sim_now_ns(c->sim) < until) {
        cluster_run_ms(c, STEP_MS);
    }
    /* Nobody may be left waiting with our stack. */
    while (!q.done) {
        cluster_run_ms(c, 100);
    }
    *result = q.result;
    return q.result.err;
}

struct command_result cluster_command(struct cluster *c, uint16_t kind, struct slice body)
{
    struct command_prefix prefix;
    (void)message_command_prefix(body, &prefix);
    int rv = 0;
    for (uint32_t tries = 0; tries < 1000; tries++) {
        struct command_result result = {0};
        uint32_t leader = cluster_leader(c, prefix.uid);
        rv = cluster_command_at(c, leader, kind, body, &result, 2000);
        if (rv == 0) {
            return result;
        }
        if (rv != ERR_IO &&
            (err_class(rv) & ERR_CLASS_RETRYABLE) == 0) { /* a replica that stopped: others go on */
            return (struct command_result){.code = rv};
        }
        cluster_run_ms(c, 20);
    }
    (void)fprintf(stderr, "command %u: %s\n", kind, err_name(rv));
    assert(false && "the command was applied within 20 s");
    return (struct command_result){0};
}

static void read_done(struct shard_read *read, int err)
{
    struct request *q = container_of(read, struct request, read);
    assert(!q->done);
    q->done = true;
    q->read_err = err;
    if (err == 0 && q->look != NULL) {
        q->look(q->look_arg, shard_heap(replica_shard(q->node->replica, q->uid)));
    }
}

static void read_start(void *arg)
{
    struct request *q = arg;
    struct shard *s = replica_shard(q->node->replica, q->uid);
    q->rv = s == NULL ? ERR_NOSHARD : shard_read_index(s, &q->read);
}

static int read_at(struct cluster *c, uint32_t i, struct request *q, uint64_t wait_ms)
{
    q->node = &c->nodes[i];
    q->read.cb = read_done;
    call_in(&c->nodes[i], read_start, q);
    uint64_t until = sim_now_ns(c->sim) + wait_ms * SIM_MS;
    while (q->rv == 0 && !q->done && sim_now_ns(c->sim) < until) {
        cluster_run_ms(c, 1);
    }
    return q->rv;
}

int cluster_read_at(struct cluster *c, uint32_t i, uint64_t uid, uint64_t wait_ms, int *err)
{
    struct request q = {.uid = uid};
    int rv = read_at(c, i, &q, wait_ms);
    assert(rv != 0 || q.done);
    *err = q.read_err;
    return rv;
}

void cluster_read_version(struct cluster *c, uint64_t uid, uint64_t version, uint64_t wait_ms,
                          cluster_look_cb cb, void *arg, int *err)
{
    struct request q = {.uid = uid, .read = {.at = version}, .look = cb, .look_arg = arg};
    int rv = read_at(c, cluster_leader(c, uid), &q, wait_ms);
    assert(rv == 0 && q.done);
    *err = q.read_err;
}

void cluster_read(struct cluster *c, uint64_t uid, cluster_look_cb cb, void *arg)
{
    for (uint32_t tries = 0; tries < 1000; tries++) {
        struct request q = {.uid = uid, .look = cb, .look_arg = arg};
        int rv = read_at(c, cluster_leader(c, uid), &q, 5000);
        assert(rv != 0 || q.done);
        if (rv == 0 && q.read_err == 0) {
            return;
        }
        cluster_run_ms(c, 20);
    }
    assert(false && "the read was answered within 20 s");
}

/* ---- a client ---- */

struct command_result client_open(struct cluster_client *client, struct cluster *c, uint64_t uid,
                                  uint64_t nonce, uint32_t window, uint32_t lease_ms)
{
    *client = (struct cluster_client){.cluster = c, .uid = uid};
    struct msg_session_open m = {
        .uid = uid, .nonce = nonce, .owner = CLUSTER_OWNER, .window = window, .lease_ms = lease_ms};
    struct buf body = {0};
    int rv = message_encode_session_open(&m, &body);
    assert(rv == 0);
    struct command_result result =
        cluster_command(c, KIND_SESSION_OPEN, slice_of(body.data, body.len));
    buf_close(&body);
    client->session = result.value;
    return result;
}

static struct command_result client_send(struct cluster_client *client, uint16_t kind,
                                         struct buf *body)
{
    struct command_prefix prefix = {.uid = client->uid,
                                    .session = client->session,
                                    .seq = ++client->seq,
                                    .acked = client->acked};
    message_patch_command(body->data, &prefix);
    struct command_result result =
        cluster_command(client->cluster, kind, slice_of(body->data, body->len));
    client->acked = client->seq;
    buf_close(body);
    return result;
}

struct command_result client_command(struct cluster_client *client, uint16_t kind, struct buf *body)
{
    return client_send(client, kind, body);
}

uint64_t client_alloc(struct cluster_client *client, uint64_t size, struct slice init)
{
    struct msg_alloc m = {.size = size, .init = init};
    struct buf body = {0};
    int rv = message_encode_alloc(&m, &body);
    assert(rv == 0);
    struct command_result result = client_send(client, KIND_ALLOC, &body);
    assert(result.code == 0);
    return result.value;
}

struct command_result client_add(struct cluster_client *client, uint64_t ptr, uint64_t delta)
{
    struct msg_add_u64 m = {.ptr = ptr, .delta = delta};
    struct buf body = {0};
    int rv = message_encode_add_u64(&m, &body);
    assert(rv == 0);
    return client_send(client, KIND_ADD_U64, &body);
}

struct command_result client_write(struct cluster_client *client, uint64_t ptr, uint64_t offset,
                                   struct slice data)
{
    struct msg_write m = {.ptr = ptr, .offset = offset, .data = data};
    struct buf body = {0};
    int rv = message_encode_write(&m, &body);
    assert(rv == 0);
    return client_send(client, KIND_WRITE, &body);
}

static bool shards_open(struct cluster *c, uint64_t uid, uint32_t shards)
{
    uint32_t running = 0;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        running += c->nodes[i].replica != NULL;
    }
    for (uint32_t k = 0; k < shards; k++) {
        uint32_t open = 0;
        for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
            const struct replica *r = c->nodes[i].replica;
            open += r != NULL && replica_shard(c->nodes[i].replica, uid + k) != NULL;
        }
        if (open < (c->replicas != 0 ? c->replicas : running)) {
            return false;
        }
    }
    return true;
}

uint64_t cluster_heap(struct cluster *c, const char *name, uint32_t shards, uint64_t bytes_max)
{
    struct cluster_client client;
    struct slice text = slice_of(name, strlen(name));
    struct command_result result =
        client_open(&client, c, SHARD_META, sim_random(c->sim), 4, 60000);
    assert(result.code == 0);
    struct msg_heap_create m = {
        .shard_bytes_max = bytes_max, .shard_count = shards, .replicas = c->replicas, .name = text};
    struct buf body = {0};
    int rv = message_encode_heap_create(&m, &body);
    assert(rv == 0);
    result = client_send(&client, KIND_HEAP_CREATE, &body);
    assert(result.code == 0);
    struct catalog_shard shard;
    rv = catalog_shard_of(c->nodes[cluster_leader(c, SHARD_META)].replica, text, 0, &shard);
    assert(rv == 0);
    for (uint32_t tries = 0; !shards_open(c, shard.uid, shards); tries++) {
        assert(tries < 5000);
        cluster_run_ms(c, STEP_MS);
    }
    return shard.uid;
}

void cluster_heap_drop(struct cluster *c, const char *name)
{
    struct cluster_client client;
    struct command_result result;
    (void)client_open(&client, c, SHARD_META, sim_random(c->sim), 4, 60000);
    struct msg_heap_drop m = {.name = slice_of(name, strlen(name))};
    struct buf body = {0};
    int rv = message_encode_heap_drop(&m, &body);
    assert(rv == 0);
    result = client_send(&client, KIND_HEAP_DROP, &body);
    assert(result.code == 0);
}
