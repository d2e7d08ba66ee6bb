#include "unit/client/server.h"

#include <pthread.h>

#include "support/test.h"

#include "base/env_uv.h"
#include "base/txn_part.h"
#include "rpc/rpc.h"
#include "rpc/tls.h"
#include "unit/rpc/certs.h"

#define OBJECTS      65536u
#define OBJECT_BYTES 64u
#define BIG_BYTES                                                                                  \
    (3u << 20) /* any object's bytes beyond OBJECT_BYTES read as zeroes, up to here                \
                */
#define HELD_MAX  4096u
#define FIRST_UID 16u

struct held {
    struct rpc_conn *conn;
    struct frame_header header;
    struct buf body;
};

struct server {
    struct env *env;
    struct rpc_server *rpc;
    struct rpc_identity identity;
    char endpoint[64];
    pthread_t thread;
    struct env_post post;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    enum { IDLE, HOLD, RELEASE, STOP } order;
    bool holding;
    struct held held[HELD_MAX];
    uint32_t held_count;
    uint64_t sessions, objects;
    _Atomic uint64_t leases, promised; /* slots that nothing was done with yet */
    _Atomic uint32_t losing;           /* leases that aren't known when they are asked about */
    uint64_t root;
    uint64_t retention_ms;
    uint32_t type_number;
    struct buf type; /* the one that was registered last */
    uint8_t bytes[OBJECTS][OBJECT_BYTES];
};

static void answer(struct rpc_conn *conn, uint64_t request, uint16_t kind, struct buf *body)
{
    struct frame_header h = {.kind = kind, .request_id = request};
    struct slice part = slice_of(body->data, body->len);
    (void)rpc_send(conn, &h, &part, 1);
    buf_close(body);
}

static void put(struct buf *b, const void *data, size_t len)
{
    (void)buf_append(b, data, len);
}

static void answer_cluster(struct server *s, struct rpc_conn *conn, uint64_t request)
{
    struct buf nodes = {0};
    uint32_t number = 1;
    uint16_t len = (uint16_t)strlen(s->endpoint);
    put(&nodes, &number, 4);
    put(&nodes, "\2\0n1", 4);
    put(&nodes, &len, 2);
    put(&nodes, s->endpoint, len);
    struct msg_cluster_info m = {
        .cluster_id = 9, .self = 1, .meta_leader = 1, .nodes = slice_of(nodes.data, nodes.len)};
    struct buf body = {0};
    (void)message_encode_cluster_info(&m, &body);
    answer(conn, request, KIND_CLUSTER_INFO, &body);
    buf_close(&nodes);
}

static void answer_heap(struct rpc_conn *conn, uint64_t request, struct slice in)
{
    struct msg_heap_open q;
    (void)message_decode_heap_open(in, &q);
    uint64_t count = slice_equals(q.name, slice_of("h", 1)) ? 1 : 2;
    if (count == 2 && !slice_equals(q.name, slice_of("two", 3))) {
        (void)rpc_send_error(conn, request, ERR_NOTFOUND, 1, 0, 0, "no such heap");
        return;
    }
    struct buf shards = {0};
    uint32_t node = 1;
    for (uint64_t uid = FIRST_UID; uid < FIRST_UID + count; uid++) {
        put(&shards, &uid, 8);
        put(&shards, &node, 4);
    }
    struct msg_heap_info m = {.heap_id = count, .shards = slice_of(shards.data, shards.len)};
    struct buf body = {0};
    (void)message_encode_heap_info(&m, &body);
    answer(conn, request, KIND_HEAP_INFO, &body);
    buf_close(&shards);
}

static uint8_t *object_of(struct server *s, uint64_t ptr)
{
    return s->bytes[(ptr & 0xffffff) % OBJECTS];
}

static uint32_t allocations(struct slice part)
{
    struct cursor c = cursor_of(part);
    uint32_t count = 0;
    (void)cursor_bytes(&c, sizeof(struct txn_part_header));
    while (cursor_left(&c) >= sizeof(struct txn_item)) {
        struct slice item = cursor_bytes(&c, sizeof(struct txn_item));
        count += item.data[0] == TXN_ALLOC;
        (void)cursor_bytes(&c, load_u16(item.data + 2));
        (void)cursor_bytes(&c, load_u32(item.data + 4));
    }
    return count;
}

static void on_command(struct server *s, struct rpc_conn *conn, const struct frame_header *h,
                       struct slice body)
{
    struct msg_result r = {.version = 1};
    if (h->kind == KIND_SESSION_OPEN) {
        r.value = ++s->sessions;
    } else if (h->kind == KIND_ALLOC) {
        struct msg_alloc m;
        (void)message_decode_alloc(body, &m);
        r.value = 1ull << 38 | ++s->objects;
        memset(object_of(s, r.value), 0, OBJECT_BYTES);
        memcpy(object_of(s, r.value), m.init.data, m.init.len < OBJECT_BYTES ? m.init.len : 0);
    } else if (h->kind == KIND_WRITE) {
        struct msg_write m;
        (void)message_decode_write(body, &m);
        if (m.offset + m.data.len <= OBJECT_BYTES) {
            memcpy(object_of(s, m.ptr) + m.offset, m.data.data, m.data.len);
        } else {
            r.code = -ERR_RANGE;
        }
    } else if (h->kind == KIND_ADD_U64) {
        struct msg_add_u64 m;
        (void)message_decode_add_u64(body, &m);
        uint8_t *at = object_of(s, m.ptr) + m.offset % (OBJECT_BYTES - 8);
        r.value = load_u64(at);
        store_u64(at, r.value + m.delta);
    } else if (h->kind == KIND_ROOT_SET) {
        struct msg_root_set m;
        (void)message_decode_root_set(body, &m);
        s->root = m.ptr;
    } else if (h->kind == KIND_LEASE) {
        struct msg_lease m;
        (void)message_decode_lease(body, &m);
        r.value = ++s->leases << 40 | (uint64_t)m.count << 24 | m.session;
        s->promised += m.count;
    } else if (h->kind == KIND_TX_COMMIT_ONE) {
        struct msg_tx_commit_one m;
        (void)message_decode_tx_commit_one(body, &m);
        s->promised -= allocations(m.part);
    } else if (h->kind == KIND_FREE) {
        r.code = -ERR_STALE;
    } else if (h->kind == KIND_REALLOC) {
        struct msg_realloc m;
        (void)message_decode_realloc(body, &m);
        r.code = m.size > BIG_BYTES ? -ERR_NOSPACE : 0;
    } else if (h->kind == KIND_TYPE_REGISTER) {
        struct msg_type_register m;
        (void)message_decode_type_register(body, &m);
        bool other = s->type_number != 0 && s->type_number != m.number;
        r.code = other ? -ERR_CONFLICT : 0;
        if (!other) {
            s->type_number = m.number;
            buf_clear(&s->type);
            put(&s->type, m.descriptor.data, m.descriptor.len);
        }
    } else if (h->kind == KIND_SET_RETENTION) {
        struct msg_set_retention m;
        (void)message_decode_set_retention(body, &m);
        s->retention_ms = m.retention_ms;
    } else if (h->kind == KIND_DEFRAG) {
        struct msg_defrag m;
        (void)message_decode_defrag(body, &m);
        r.value = (uint64_t)m.bytes << 1 | 1;
    } else if (h->kind == KIND_TRIM) {
        struct msg_trim m;
        (void)message_decode_trim(body, &m);
        r.value = m.bytes < 4096 ? m.bytes : 4096;
    }
    struct buf out = {0};
    (void)message_encode_result(&r, &out);
    answer(conn, h->request_id, KIND_RESULT, &out);
}

static void answer_read(struct server *s, struct rpc_conn *conn, uint64_t request, struct slice in)
{
    struct msg_read q;
    (void)message_decode_read(in, &q);
    if (q.offset > BIG_BYTES || q.len > BIG_BYTES - q.offset) {
        (void)rpc_send_error(conn, request, ERR_RANGE, 16, 0, 0, "beyond the end");
        return;
    }
    uint8_t *data = calloc(1, q.len + 1u);
    for (uint64_t i = q.offset; i < OBJECT_BYTES && i < q.offset + q.len; i++) {
        data[i - q.offset] = object_of(s, q.ptr)[i];
    }
    struct msg_read_result m = {.version = q.at != 0 ? q.at : 4, .data = slice_of(data, q.len)};
    struct buf body = {0};
    (void)message_encode_read_result(&m, &body);
    answer(conn, request, KIND_READ_RESULT, &body);
    free(data);
}

/* Three changes, two on the first page; while the second is fetched another one has been made. */
static void answer_history(struct rpc_conn *conn, uint64_t request, struct slice in)
{
    static const uint64_t versions[] = {50, 40, 30, 20};
    struct msg_history q;
    struct buf changes = {0};
    struct buf body = {0};
    (void)message_decode_history(in, &q);
    size_t first = q.skip == 0 ? 1 : 1 + (size_t)q.skip - 1; /* the newest came in between */
    size_t end = q.skip == 0 ? 3 : 4;
    for (size_t i = first; i < end; i++) {
        uint64_t words[5] = {versions[i], versions[i] - 10, 64, 8, 4 | (uint64_t)1 << 32};
        put(&changes, words, sizeof words);
    }
    struct msg_history_result m = {
        .more = q.skip == 0, .safepoint = 7, .changes = slice_of(changes.data, changes.len)};
    (void)message_encode_history_result(&m, &body);
    answer(conn, request, KIND_HISTORY_RESULT, &body);
    buf_close(&changes);
}

static void answer_types(struct server *s, struct rpc_conn *conn, uint64_t request, struct slice in)
{
    struct msg_type_list q;
    struct buf types = {0};
    struct buf body = {0};
    (void)message_decode_type_list(in, &q);
    if (q.after == 0 && s->type_number != 0) {
        uint64_t version = 12;
        uint32_t len = (uint32_t)s->type.len;
        put(&types, &s->type_number, 4);
        put(&types, &version, 8);
        put(&types, &len, 4);
        put(&types, s->type.data, s->type.len);
    }
    struct msg_type_list_result m = {.more = q.after == 0,
                                     .types = slice_of(types.data, types.len)};
    (void)message_encode_type_list_result(&m, &body);
    answer(conn, request, KIND_TYPE_LIST_RESULT, &body);
    buf_close(&types);
}

/* Two objects, a page without any, and one more. */
static void answer_objects(struct rpc_conn *conn, uint64_t request, struct slice in)
{
    struct msg_object_list q;
    struct buf objects = {0};
    struct buf body = {0};
    (void)message_decode_object_list(in, &q);
    uint32_t count = q.from == 0 ? 2 : q.from == 77 ? 0 : 1;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t words[4] = {q.from + i + 1, 10 + i, 4, q.typed != 0 ? q.type : 99};
        put(&objects, words, sizeof words);
    }
    struct msg_object_list_result m = {.next = q.from == 0    ? 77
                                               : q.from == 77 ? 99
                                                              : 0,
                                       .objects = slice_of(objects.data, objects.len)};
    (void)message_encode_object_list_result(&m, &body);
    answer(conn, request, KIND_OBJECT_LIST_RESULT, &body);
    buf_close(&objects);
}

/* Its number says whose it is, and of how many slots. */
static void answer_lease(struct server *s, struct rpc_conn *conn, uint64_t request, struct slice in)
{
    struct msg_lease_get q;
    struct buf ptrs = {0};
    struct buf body = {0};
    (void)message_decode_lease_get(in, &q);
    uint64_t count = q.lease >> 24 & 0xffff;
    if (s->losing > 0) {
        s->losing--;
        s->promised -= count;
        (void)rpc_send_error(conn, request, ERR_NOTFOUND, 16, 0, 0, "no such lease");
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t ptr = (q.uid - FIRST_UID) << 52 | UINT64_C(2) << 38 |
                       ((q.lease >> 40) * LEASE_SLOTS_MAX + i) % OBJECTS;
        put(&ptrs, &ptr, sizeof ptr);
    }
    struct msg_lease_info m = {.session = q.lease & 0xffffff,
                               .ptrs = slice_of(ptrs.data, ptrs.len)};
    (void)message_encode_lease_info(&m, &body);
    answer(conn, request, KIND_LEASE_INFO, &body);
    buf_close(&ptrs);
}

static void serve(struct server *s, struct rpc_conn *conn, const struct frame_header *h,
                  struct slice in)
{
    struct buf body = {0};
    uint64_t id = h->request_id;
    if (message_is_command(h->kind)) {
        on_command(s, conn, h, in);
    } else if (h->kind == KIND_CLUSTER) {
        answer_cluster(s, conn, id);
    } else if (h->kind == KIND_HEAP_OPEN) {
        answer_heap(conn, id, in);
    } else if (h->kind == KIND_READ) {
        answer_read(s, conn, id, in);
    } else if (h->kind == KIND_HISTORY) {
        answer_history(conn, id, in);
    } else if (h->kind == KIND_TYPE_LIST) {
        answer_types(s, conn, id, in);
    } else if (h->kind == KIND_OBJECT_LIST) {
        answer_objects(conn, id, in);
    } else if (h->kind == KIND_STAT) {
        struct msg_stat q;
        (void)message_decode_stat(in, &q);
        struct msg_stat_result m = {
            .size = OBJECT_BYTES, .version = q.at != 0 ? q.at : 4, .type = 3, .flags = 0};
        (void)message_encode_stat_result(&m, &body);
        answer(conn, id, KIND_STAT_RESULT, &body);
    } else if (h->kind == KIND_ROOT_GET && s->root != 0) {
        struct msg_root_result m = {.ptr = s->root, .version = 4};
        (void)message_encode_root_result(&m, &body);
        answer(conn, id, KIND_ROOT_RESULT, &body);
    } else if (h->kind == KIND_ROOT_LIST) {
        struct msg_root_list q;
        (void)message_decode_root_list(in, &q);
        struct msg_root_list_result m = {.more = q.after.len == 0};
        struct buf entries = {0};
        uint64_t numbers[2] = {s->root, 4};
        put(&entries, q.after.len == 0 ? "\1\0a" : "\1\0b", 3);
        put(&entries, numbers, 16);
        m.entries = slice_of(entries.data, entries.len);
        (void)message_encode_root_list_result(&m, &body);
        answer(conn, id, KIND_ROOT_LIST_RESULT, &body);
        buf_close(&entries);
    } else if (h->kind == KIND_LEASE_GET) {
        answer_lease(s, conn, id, in);
    } else if (h->kind == KIND_TX_VALIDATE) {
        struct msg_tx_validated m = {.valid = 1, .clock = 4};
        (void)message_encode_tx_validated(&m, &body);
        answer(conn, id, KIND_TX_VALIDATED, &body);
    } else if (h->kind == KIND_TX_HOLD) {
        struct msg_tx_held m = {.clock = 4, .hold = 1};
        (void)message_encode_tx_held(&m, &body);
        answer(conn, id, KIND_TX_HELD, &body);
    } else if (h->kind == KIND_ADMIN) {
        struct msg_admin_result m = {.json = slice_of("{\"ok\":true}", 11)};
        (void)message_encode_admin_result(&m, &body);
        answer(conn, id, KIND_ADMIN_RESULT, &body);
    } else {
        (void)rpc_send_error(conn, id, ERR_NOTFOUND, 16, 0, 0, "no such root");
    }
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *h,
                     struct slice in)
{
    struct server *s = arg;
    if (s->holding && h->kind != KIND_SESSION_CLOSE) {
        struct held *held = &s->held[s->held_count++ % HELD_MAX];
        *held = (struct held){.conn = conn, .header = *h};
        put(&held->body, in.data, in.len);
        return;
    }
    serve(s, conn, h, in);
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct server *s = arg;
    (void)reason;
    (void)text;
    for (uint32_t i = 0; i < s->held_count; i++) {
        if (s->held[i].conn == conn) {
            s->held[i].conn = NULL;
        }
    }
}

static void release(struct server *s)
{
    s->holding = false;
    for (uint32_t i = 0; i < s->held_count; i++) {
        struct held *held = &s->held[i];
        if (held->conn != NULL) {
            serve(s, held->conn, &held->header, slice_of(held->body.data, held->body.len));
        }
        buf_close(&held->body);
    }
    s->held_count = 0;
}

static void on_stopped(void *arg)
{
    struct server *s = arg;
    env_uv_stop(s->env);
}

static void on_order(struct env_post *post)
{
    struct server *s = container_of(post, struct server, post);
    pthread_mutex_lock(&s->lock);
    int order = s->order;
    s->order = IDLE;
    pthread_mutex_unlock(&s->lock);
    if (order == HOLD) {
        s->holding = true;
    } else {
        release(s);
    }
    if (order == STOP) {
        rpc_server_close(s->rpc, on_stopped, s);
    }
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void order(struct server *s, int what)
{
    pthread_mutex_lock(&s->lock);
    s->order = what;
    env_post(s->env, &s->post);
    while (s->order != IDLE) {
        pthread_cond_wait(&s->wake, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

void server_hold(struct server *s, bool hold)
{
    order(s, hold ? HOLD : RELEASE);
}

static void *server_thread(void *arg)
{
    struct server *s = arg;
    env_uv_run(s->env);
    return NULL;
}

static void certificates_make(const struct dir *dir)
{
    struct test_ca ca;
    struct test_ca other;
    char a[DIR_PATH_BYTES];
    char b[DIR_PATH_BYTES];
    test_ca_open(&ca, "CA of the test");
    test_ca_open(&other, "CA of somebody else");
    test_ca_write(&ca, dir_path(dir, "ca.crt", a));
    test_cert_write(&ca, "URI:cairn://node/n1", CERT_SERVER | CERT_CLIENT, -60, 3600,
                    dir_path(dir, "n1.crt", a), dir_path(dir, "n1.key", b));
    test_cert_write(&ca, "URI:cairn://user/alice", CERT_CLIENT, -60, 3600,
                    dir_path(dir, "alice.crt", a), dir_path(dir, "alice.key", b));
    test_cert_write(&other, "URI:cairn://user/eve", CERT_CLIENT, -60, 3600,
                    dir_path(dir, "eve.crt", a), dir_path(dir, "eve.key", b));
    test_ca_close(&ca);
    test_ca_close(&other);
}

struct server *server_start(const struct dir *dir)
{
    static const struct rpc_cbs cbs = {.on_frame = on_frame, .on_close = on_close};
    struct server *s = calloc(1, sizeof *s);
    char paths[3][DIR_PATH_BYTES];
    struct err_text e = {{0}};
    certificates_make(dir);
    struct tls_opts tls = {.ca_file = dir_path(dir, "ca.crt", paths[0]),
                           .cert_file = dir_path(dir, "n1.crt", paths[1]),
                           .key_file = dir_path(dir, "n1.key", paths[2])};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    s->post.cb = on_order;
    s->identity =
        (struct rpc_identity){.name = "n1", .cluster_id = 9, .node_uid = 1, .node_state = 1};
    assert_int_equal(env_uv_open(&s->env), 0);
    if (tls_attach(s->env, &tls, &e) != 0) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(rpc_server_open(s->env, "127.0.0.1:0", &s->identity, &cbs, s, &s->rpc, &e), 0);
    (void)snprintf(s->endpoint, sizeof s->endpoint, "127.0.0.1:%d", rpc_server_port(s->rpc));
    assert_int_equal(pthread_create(&s->thread, NULL, server_thread, s), 0);
    return s;
}

void server_stop(struct server *s)
{
    order(s, STOP);
    pthread_join(s->thread, NULL);
    tls_detach(s->env);
    env_uv_close(s->env);
    buf_close(&s->type);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *server_endpoint(const struct server *s)
{
    return s->endpoint;
}

uint64_t server_leases(const struct server *s)
{
    return s->leases;
}

uint64_t server_promised(const struct server *s)
{
    return s->promised;
}

void server_lose_leases(struct server *s, uint32_t count)
{
    s->losing = count;
}
