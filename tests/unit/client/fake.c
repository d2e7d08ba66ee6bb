#include "unit/client/fake.h"

#include <stdio.h>
#include <string.h>

#include "support/test.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/log.h"

/* ---- answers ---- */

static void answer(struct rpc_conn *conn, uint64_t request, uint16_t kind, struct buf *body)
{
    struct frame_header h = {.kind = kind, .request_id = request};
    struct slice part = slice_of(body->data, body->len);
    (void)rpc_send(conn, &h, &part, 1);
    buf_close(body);
}

static void answer_result(struct rpc_conn *conn, uint64_t request, const struct msg_result *m)
{
    struct buf body = {0};
    assert_int_equal(message_encode_result(m, &body), 0);
    answer(conn, request, KIND_RESULT, &body);
}

static void put_u32(struct buf *b, uint32_t v)
{
    (void)buf_append(b, &v, sizeof v);
}
static void put_u64(struct buf *b, uint64_t v)
{
    (void)buf_append(b, &v, sizeof v);
}
static void put_text(struct buf *b, const char *text)
{
    uint16_t len = (uint16_t)strlen(text);
    (void)buf_append(b, &len, sizeof len);
    (void)buf_append(b, text, len);
}

static void answer_cluster(struct fake_node *node, struct rpc_conn *conn, uint64_t request)
{
    struct fake *f = node->fake;
    struct buf nodes = {0};
    for (uint32_t i = 0; i < FAKE_NODES; i++) {
        char address[32];
        (void)snprintf(address, sizeof address, "%s:7420", f->nodes[i].name);
        put_u32(&nodes, f->nodes[i].number);
        put_text(&nodes, f->nodes[i].name);
        put_text(&nodes, address);
    }
    struct msg_cluster_info m = {.cluster_id = 77,
                                 .self = node->number,
                                 .meta_leader = f->hints ? f->leader : 0,
                                 .nodes = slice_of(nodes.data, nodes.len)};
    struct buf body = {0};
    assert_int_equal(message_encode_cluster_info(&m, &body), 0);
    answer(conn, request, KIND_CLUSTER_INFO, &body);
    buf_close(&nodes);
}

static void answer_heap(struct fake *f, struct rpc_conn *conn, uint64_t request)
{
    struct buf shards = {0};
    for (uint32_t i = 0; i < FAKE_SHARDS; i++) {
        put_u64(&shards, FAKE_UID(i));
        put_u32(&shards, f->hints ? f->leader : 1);
    }
    struct msg_heap_info m = {
        .heap_id = 5, .shard_bytes_max = 1 << 20, .shards = slice_of(shards.data, shards.len)};
    struct buf body = {0};
    assert_int_equal(message_encode_heap_info(&m, &body), 0);
    answer(conn, request, KIND_HEAP_INFO, &body);
    buf_close(&shards);
}

static void answer_read(struct fake *f, struct rpc_conn *conn, uint64_t request, struct slice in)
{
    struct msg_read q;
    assert_int_equal(message_decode_read(in, &q), 0);
    if (f->read_changes > 0) {
        f->read_changes--;
        f->read_version++;
    }
    uint8_t *data = malloc(q.len + 1u);
    for (uint32_t i = 0; i < q.len; i++) {
        data[i] = (uint8_t)((q.offset + i) * 7 + f->read_version);
    }
    struct msg_read_result m = {.version = f->read_version, .data = slice_of(data, q.len)};
    struct buf body = {0};
    assert_int_equal(message_encode_read_result(&m, &body), 0);
    answer(conn, request, KIND_READ_RESULT, &body);
    free(data);
}

/* ---- the model ---- */

static uint64_t *counter(struct fake *f, uint64_t uid)
{
    return &f->counters[uid == 1 ? FAKE_SHARDS : uid - FAKE_UID(0)];
}

static uint64_t session_open(struct fake *f, const struct msg_session_open *m)
{
    for (uint32_t i = 0; i < f->session_count; i++) {
        if (f->sessions[i].nonce == m->nonce && f->sessions[i].uid == m->uid) {
            return i + 1;
        }
    }
    assert_true(f->session_count < FAKE_SESSIONS);
    assert_int_equal(m->owner, hash64(0, "alice", 5));
    f->sessions[f->session_count].uid = m->uid;
    f->sessions[f->session_count].nonce = m->nonce;
    return ++f->session_count;
}

static struct msg_result apply(struct fake *f, uint16_t kind, struct slice body)
{
    struct command_prefix p;
    assert_int_equal(message_command_prefix(body, &p), 0);
    if (kind == KIND_SESSION_OPEN) {
        struct msg_session_open m;
        assert_int_equal(message_decode_session_open(body, &m), 0);
        return (struct msg_result){.value = session_open(f, &m)};
    }
    assert_true(p.session >= 1 && p.session <= f->session_count);
    struct fake_session *s = &f->sessions[p.session - 1];
    assert_int_equal(s->uid, p.uid);
    if (s->expired || s->closed) {
        return (struct msg_result){.code = (uint32_t)-ERR_SESSION_EXPIRED};
    }
    s->acked = p.acked > s->acked ? p.acked : s->acked;
    if (kind == KIND_SESSION_KEEPALIVE || kind == KIND_SESSION_CLOSE) {
        f->keepalives += kind == KIND_SESSION_KEEPALIVE;
        f->closes += kind == KIND_SESSION_CLOSE;
        s->closed = kind == KIND_SESSION_CLOSE;
        return (struct msg_result){0};
    }
    assert_true(p.seq > s->acked); /* the client never sends what it has acknowledged ... */
    assert_true(p.seq < FAKE_SEQS);
    if (f->undecided > 0 && !s->applied[p.seq]) {
        f->undecided--;
        return (struct msg_result){.code = (uint32_t)-ERR_TX_UNDECIDED};
    }
    if (!s->applied[p.seq]) {
        s->applied[p.seq] = true;
        s->result[p.seq] = (*counter(f, p.uid))++;
    }
    return (struct msg_result){.value = s->result[p.seq], .version = 1000 + p.seq};
}

static void see(struct fake_node *node, uint16_t kind, struct slice body)
{
    struct fake *f = node->fake;
    struct command_prefix p;
    assert_int_equal(message_command_prefix(body, &p), 0);
    assert_true(f->seen_count < FAKE_SEEN);
    f->seen[f->seen_count++] = (struct fake_seen){
        node->number, kind, p.uid, p.session, p.seq, p.acked, hash64(0, body.data, body.len)};
}

static void on_command(struct fake_node *node, struct rpc_conn *conn, const struct frame_header *h,
                       struct slice body)
{
    struct fake *f = node->fake;
    struct msg_result result = apply(f, h->kind, body);
    if (f->late_notleader) {
        f->late_notleader = false;
        (void)rpc_send_error(conn, h->request_id, ERR_NOTLEADER, 0, f->leader, 0, "deposed");
        return;
    }
    if (f->drop_per_million > 0 && sim_chance(f->sim, f->drop_per_million)) {
        rpc_close(conn, ERR_CLOSED);
        return;
    }
    bool session = h->kind == KIND_SESSION_OPEN || h->kind == KIND_SESSION_CLOSE;
    if (f->hold && !session) {
        assert_true(f->held_count < 1024);
        f->held[f->held_count++] = (struct fake_held){conn, h->request_id, result};
    } else if (!f->silent || session) {
        answer_result(conn, h->request_id, &result);
    }
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *h,
                     struct slice body)
{
    struct fake_node *node = arg;
    struct fake *f = node->fake;
    node->requests++;
    assert_int_equal(message_check(h->kind, body), 0);
    if (message_is_command(h->kind)) {
        see(node, h->kind, body);
    }
    if (f->garbage) {
        f->garbage = false;
        struct buf none = {0};
        answer_cluster(node, conn, h->request_id);
        buf_close(&none);
        return;
    }
    if (h->kind == KIND_CLUSTER) {
        answer_cluster(node, conn, h->request_id);
        return;
    }
    if (h->kind == KIND_ADMIN) {
        memcpy(f->admin_node, node->name, sizeof f->admin_node);
        struct msg_admin_result m = {.json = slice_of("{}", 2)};
        struct buf out = {0};
        assert_int_equal(message_encode_admin_result(&m, &out), 0);
        answer(conn, h->request_id, KIND_ADMIN_RESULT, &out);
        return;
    }
    if (node->number != f->leader) {
        (void)rpc_send_error(conn, h->request_id, ERR_NOTLEADER, 0, f->hints ? f->leader : 0, 0,
                             "not me");
        return;
    }
    if (f->refuse_times > 0 && h->kind != KIND_SESSION_OPEN && h->kind != KIND_HEAP_OPEN) {
        f->refuse_times--;
        (void)rpc_send_error(conn, h->request_id, f->refuse, 0, 0, f->retry_after_ms, "refused");
        return;
    }
    if (message_is_command(h->kind)) {
        on_command(node, conn, h, body);
    } else if (h->kind == KIND_HEAP_OPEN) {
        answer_heap(f, conn, h->request_id);
    } else if (h->kind == KIND_READ) {
        answer_read(f, conn, h->request_id, body);
    } else {
        (void)rpc_send_error(conn, h->request_id, ERR_NOTFOUND, 0, 0, 0, "no such thing");
    }
}

/* Held answers of a connection that is gone are lost. */
static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct fake_node *node = arg;
    (void)reason;
    (void)text;
    for (uint32_t i = 0; i < node->fake->held_count; i++) {
        if (node->fake->held[i].conn == conn) {
            node->fake->held[i].conn = NULL;
        }
    }
}

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    (void)arg;
    (void)conn;
    (void)hello;
    (void)ok;
    (void)e;
    return 0;
}

static const struct rpc_cbs server_cbs = {
    .on_ready = on_ready, .on_frame = on_frame, .on_close = on_close};

/* ---- nodes ---- */

static void node_listen(void *arg)
{
    struct fake_node *node = arg;
    char address[32];
    struct err_text e = {{0}};
    (void)snprintf(address, sizeof address, "%s:7420", node->name);
    int rv =
        rpc_server_open(node->env, address, &node->identity, &server_cbs, node, &node->server, &e);
    assert_int_equal(rv, 0);
}

void fake_node_start(struct fake_node *node)
{
    node->env = sim_proc_start(node->host, ENV_ROLE_NODE, node->name);
    sim_proc_call(node->env, node_listen, node);
}

static void server_closed(void *arg)
{
    struct fake_node *node = arg;
    node->server = NULL;
}

static void node_unlisten(void *arg)
{
    struct fake_node *node = arg;
    rpc_server_close(node->server, server_closed, node);
}

/* Its connections end at once, as those of a killed process do. */
void fake_node_kill(struct fake_node *node)
{
    struct fake *f = node->fake;
    sim_proc_call(node->env, node_unlisten, node);
    for (int i = 0; i < 4000 && node->server != NULL; i++) {
        sim_run_until(f->sim, sim_now_ns(f->sim) + SIM_MS);
    }
    assert_null(node->server);
    sim_proc_free(node->env);
    node->env = NULL;
}

void fake_open(struct fake *f, uint64_t seed)
{
    memset(f, 0, sizeof *f);
    log_set_level(LOG_OFF);
    f->sim = sim_new(seed);
    f->leader = 1;
    f->hints = true;
    f->read_version = 1;
    for (uint32_t i = 0; i < FAKE_NODES; i++) {
        struct fake_node *node = &f->nodes[i];
        node->fake = f;
        node->number = i + 1;
        (void)snprintf(node->name, sizeof node->name, "n%u", i + 1);
        node->host = sim_host_new(f->sim, node->name);
        node->identity =
            (struct rpc_identity){.cluster_id = 77, .node_uid = 100 + i, .node_state = 1};
        memcpy(node->identity.name, node->name, sizeof node->name);
        fake_node_start(node);
    }
    f->client_host = sim_host_new(f->sim, "client");
    f->env = sim_proc_start(f->client_host, ENV_ROLE_USER, "alice");
    memcpy(f->identity.name, "alice", 6);
}

/* ---- the client ---- */

void fake_run(struct fake *f, uint64_t ms)
{
    sim_run_until(f->sim, sim_now_ns(f->sim) + ms * SIM_MS);
}

bool fake_run_until(struct fake *f, const bool *flag, uint64_t ms)
{
    uint64_t end = sim_now_ns(f->sim) + ms * SIM_MS;
    while (!*flag && sim_now_ns(f->sim) < end) {
        fake_run(f, 1);
    }
    return *flag;
}

static void on_core_ready(void *arg, struct core *core, int err, const char *text)
{
    struct fake *f = arg;
    assert_false(f->opened);
    assert_ptr_equal(core, f->core);
    f->opened = true;
    f->open_err = err;
    (void)snprintf(f->open_text, sizeof f->open_text, "%s", text);
}

struct connect_args {
    struct fake *f;
    const char *endpoints;
    const struct core_opts *opts;
    int rv;
};

static void connect_turn(void *arg)
{
    struct connect_args *a = arg;
    struct err_text e = {{0}};
    a->rv = core_open(a->f->env, a->endpoints, &a->f->identity, a->opts, on_core_ready, a->f,
                      &a->f->core, &e);
}

int fake_connect(struct fake *f, const char *endpoints, const struct core_opts *opts)
{
    static const struct core_opts defaults = {0};
    struct connect_args a = {f, endpoints != NULL ? endpoints : "cairn://n1:7420,n2:7420,n3:7420",
                             opts != NULL ? opts : &defaults, 0};
    f->opened = false;
    sim_proc_call(f->env, connect_turn, &a);
    if (a.rv != 0) {
        return a.rv;
    }
    assert_true(fake_run_until(f, &f->opened, 60000));
    return f->open_err;
}

static void on_call_done(struct core_call *call)
{
    struct fake_call *c = container_of(call, struct fake_call, call);
    assert_false(c->done);
    c->done = true;
}

static void submit_turn(void *arg)
{
    struct fake_call *c = arg;
    core_call(c->fake->core, &c->call);
    assert_false(c->done); /* never from inside */
}

void fake_submit(struct fake *f, struct fake_call *c)
{
    c->fake = f;
    c->done = false;
    c->call.cb = on_call_done;
    sim_proc_call(f->env, submit_turn, c);
}

uint64_t fake_ptr(uint32_t shard)
{
    return (uint64_t)shard << 52 | 1ull << 38 | 9;
}

void fake_add(struct fake *f, struct fake_call *c, uint32_t shard)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(core_prepare_add_u64(&c->call, f->heap, fake_ptr(shard), 0, 1), 0);
    fake_submit(f, c);
}

int fake_wait(struct fake *f, struct fake_call *c)
{
    assert_true(fake_run_until(f, &c->done, 200000));
    return c->call.err;
}

int fake_heap_open(struct fake *f)
{
    struct fake_call c = {0};
    assert_int_equal(core_prepare_heap_open(&c.call, f->core, "h"), 0);
    fake_submit(f, &c);
    int rv = fake_wait(f, &c);
    f->heap = c.call.opened;
    return rv;
}

static void on_core_closed(void *arg)
{
    struct fake *f = arg;
    f->closed = true;
}

static void close_turn(void *arg)
{
    struct fake *f = arg;
    core_close(f->core, on_core_closed, f);
    assert_false(f->closed);
}

void fake_core_close(struct fake *f)
{
    f->closed = false;
    sim_proc_call(f->env, close_turn, f);
    assert_true(fake_run_until(f, &f->closed, 1100)); /* the bound of core.h, and a little */
    f->core = NULL;
    core_heap_close(f->heap);
    f->heap = NULL;
}

void fake_close(struct fake *f)
{
    if (f->core != NULL) {
        fake_core_close(f);
    }
    fake_run(f, 3000); /* connections close */
    for (uint32_t i = 0; i < FAKE_NODES; i++) {
        if (f->nodes[i].env != NULL) {
            fake_node_kill(&f->nodes[i]);
        }
    }
    sim_proc_free(f->env);
    sim_free(f->sim);
}

/* ---- faults ---- */

struct release_args {
    struct fake *f;
    uint32_t i;
};

static void release_turn(void *arg)
{
    struct release_args *a = arg;
    struct fake_held *h = &a->f->held[a->i];
    if (h->conn != NULL) {
        answer_result(h->conn, h->request, &h->result);
    }
    h->conn = NULL;
}

void fake_release(struct fake *f, uint32_t i)
{
    struct release_args a = {f, i};
    assert_true(i < f->held_count);
    sim_proc_call(f->nodes[f->leader - 1].env, release_turn, &a);
}

void fake_release_all(struct fake *f)
{
    f->hold = false;
    for (uint32_t i = 0; i < f->held_count; i++) {
        fake_release(f, i);
    }
    f->held_count = 0;
}

void fake_expire_sessions(struct fake *f)
{
    for (uint32_t i = 0; i < f->session_count; i++) {
        f->sessions[i].expired = true;
    }
}

static void goaway_one(void *arg, struct rpc_conn *conn)
{
    (void)arg;
    struct msg_goaway m = {.grace_ms = 5000};
    struct buf body = {0};
    assert_int_equal(message_encode_goaway(&m, &body), 0);
    answer(conn, 0, KIND_GOAWAY, &body);
}

static void goaway_turn(void *arg)
{
    struct fake_node *node = arg;
    rpc_server_each(node->server, goaway_one, NULL);
}

void fake_goaway(struct fake_node *node)
{
    sim_proc_call(node->env, goaway_turn, node);
}
