/* One framed connection.
 *
 *   CONNECTING --on_open--> HELLO --HELLO_OK or HELLO--> READY --rpc_close, error--> CLOSING
 * --on_close--> gone
 *
 * Frames are parsed where the transport's bytes lie; only a frame that is not there completely is
 * copied, into `input`. A connection holds no memory but its struct while it is idle. Callbacks
 * come from the transport's callbacks and from timers only, never from inside a call of the owner.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/frame.h"
#include "rpc/internal.h"

static const char *const lane_names[] = {"client", "raft", "bulk"};

static uint64_t keepalive_ms(const struct rpc_conn *c)
{
    return c->lane == RPC_LANE_RAFT ? RAFT_KEEPALIVE_MS : KEEPALIVE_MS;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

static int early_append(struct rpc_conn *c, const struct slice *parts, size_t count)
{
    size_t before = c->early.len;
    for (size_t i = 0; i < count; i++) {
        if (buf_append(&c->early, parts[i].data, parts[i].len) != 0) {
            c->early.len = before;
            return ERR_NOMEM;
        }
    }
    return 0;
}

/* Sends in any state in which there is a stream. */
static int send_frame(struct rpc_conn *c, const struct frame_header *header,
                      const struct slice *parts, size_t count)
{
    assert(count <= RPC_PARTS_MAX);
    struct slice all[RPC_PARTS_MAX + 1];
    uint8_t head[FRAME_HEADER_BYTES];
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        length += parts[i].len;
        all[i + 1] = parts[i];
    }
    if (length > FRAME_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    struct frame_header h = *header;
    h.length = (uint32_t)length;
    frame_pack(&h, head);
    all[0] = slice_of(head, sizeof head);
    int rv = c->in_ready ? early_append(c, all, count + 1)
                         : env_conn_write(c->env, c->stream, all, count + 1);
    if (rv == 0 && c->server != NULL) {
        c->server->stats.frames_out++;
        c->server->stats.bytes_out += length + FRAME_HEADER_BYTES;
    }
    return rv;
}

/* `rv` is that of an encoder that filled `body`; closes the buffer. */
static int send_encoded(struct rpc_conn *c, uint16_t kind, uint64_t request_id, struct buf *body,
                        int rv)
{
    if (rv == 0) {
        struct frame_header h = {.kind = kind, .request_id = request_id};
        struct slice part = slice_of(body->data, body->len);
        rv = send_frame(c, &h, &part, 1);
    }
    buf_close(body);
    return rv;
}

static int send_error(struct rpc_conn *c, uint64_t request_id, const struct msg_error *m)
{
    struct buf body = {0};
    return send_encoded(c, KIND_ERROR, request_id, &body, message_encode_error(m, &body));
}

static int send_hello(struct rpc_conn *c)
{
    const struct rpc_identity *s = c->self;
    struct msg_hello m = {
        .wire_major = RPC_WIRE_MAJOR,
        .wire_minor = RPC_WIRE_MINOR,
        .lane = (uint8_t)c->lane,
        .cluster_id = s->cluster_id,
        .node_uid = s->node_uid,
        .node_state = s->node_state,
        .engine = s->engine,
        .name = slice_of(s->name, strnlen(s->name, sizeof s->name)),
        .software = slice_of(RPC_SOFTWARE, sizeof RPC_SOFTWARE - 1),
    };
    struct buf body = {0};
    return send_encoded(c, KIND_HELLO, 0, &body, message_encode_hello(&m, &body));
}

static int send_hello_ok(struct rpc_conn *c, uint16_t wire_minor)
{
    const struct rpc_identity *s = c->self;
    struct msg_hello_ok m = {
        .wire_minor = wire_minor,
        .cluster_id = s->cluster_id,
        .node_uid = s->node_uid,
        .node_state = s->node_state,
        .engine = s->engine,
        .roster = s->roster,
        .name = slice_of(s->name, strnlen(s->name, sizeof s->name)),
        .software = slice_of(RPC_SOFTWARE, sizeof RPC_SOFTWARE - 1),
    };
    struct buf body = {0};
    return send_encoded(c, KIND_HELLO_OK, 0, &body, message_encode_hello_ok(&m, &body));
}

static void close_with(struct rpc_conn *c, int reason, const char *cause)
{
    if (c->state == CONN_CLOSING) {
        return;
    }
    c->state = CONN_CLOSING;
    env_timer_stop(c->env, &c->timer);
    env_timer_stop(c->env, &c->resume);
    if (c->cause[0] == '\0') {
        (void)snprintf(c->cause, sizeof c->cause, "%s", cause);
    }
    env_conn_close(c->env, c->stream, reason);
}

/* The peer did what it must not: tell it, tell the log, and close. */
static void refuse(struct rpc_conn *c, int err, const char *cause)
{
    if (c->state == CONN_CLOSING) {
        return;
    }
    const struct env_peer *peer = env_conn_peer(c->env, c->stream);
    log_warn("rpc", c->state == CONN_READY ? "closing a connection" : "refusing a connection",
             "peer=%s name=%s error=%s cause=\"%s\"", peer->address, peer->name, err_name(err),
             cause);
    struct msg_error m = {.code = (uint32_t)-err, .text = slice_of(cause, strlen(cause))};
    c->in_ready = false;
    (void)send_error(c, 0, &m); /* the close says it too, if less clearly */
    if (c->server != NULL) {
        c->server->stats.refused += c->state != CONN_READY;
        c->server->stats.protocol_errors++;
    }
    close_with(c, err, cause);
}

/* ---- the hello exchange ------------------------------------------------------------------------
 */

/* A callback may close the connection and still return 0. */
static bool call_on_ready(struct rpc_conn *c, const struct msg_hello *hello,
                          const struct msg_hello_ok *ok)
{
    struct err_text e = {{0}};
    c->state = CONN_READY;
    c->in_ready = hello != NULL;
    int rv = c->cbs->on_ready == NULL ? 0 : c->cbs->on_ready(c->arg, c, hello, ok, &e);
    c->in_ready = false;
    if (c->state != CONN_READY) {
        return false;
    }
    if (rv != 0) {
        c->state = CONN_HELLO;
        refuse(c, rv, e.text[0] != '\0' ? e.text : err_text_of(rv));
        return false;
    }
    c->pinged_ns = env_now_ns(c->env);
    env_timer_start_in_ms(c->env, &c->timer, keepalive_ms(c));
    return true;
}

static bool name_matches(const struct rpc_conn *c, struct slice name)
{
    const struct env_peer *peer = env_conn_peer(c->env, c->stream);
    return slice_equals(name, slice_of(peer->name, strnlen(peer->name, sizeof peer->name)));
}

static uint16_t smaller(uint16_t a, uint16_t b)
{
    return a < b ? a : b;
}

static void on_hello(struct rpc_conn *c, struct slice body)
{
    char cause[RPC_CAUSE_BYTES];
    struct msg_hello m;
    if (message_decode_hello(body, &m) != 0) {
        /* The version stands first in every version of HELLO. */
        uint16_t major = body.len >= 2 ? load_u16(body.data) : RPC_WIRE_MAJOR;
        if (major == RPC_WIRE_MAJOR) {
            refuse(c, ERR_PROTOCOL, "malformed HELLO");
            return;
        }
        m = (struct msg_hello){.wire_major = major};
    }
    if (m.wire_major != RPC_WIRE_MAJOR) {
        (void)snprintf(
            cause, sizeof cause,
            "protocol version %u, but this node speaks version %u: use matching releases",
            m.wire_major, RPC_WIRE_MAJOR);
        refuse(c, ERR_VERSION, cause);
        return;
    }
    if (m.lane > RPC_LANE_BULK) {
        (void)snprintf(cause, sizeof cause, "HELLO for unknown lane %u", m.lane);
        refuse(c, ERR_PROTOCOL, cause);
        return;
    }
    if (!name_matches(c, m.name)) {
        char name[64];
        rpc__text_copy(name, sizeof name, m.name);
        (void)snprintf(cause, sizeof cause, "HELLO as '%s', but the certificate is that of '%s'",
                       name, env_conn_peer(c->env, c->stream)->name);
        refuse(c, ERR_UNAUTHENTICATED, cause);
        return;
    }
    if (m.lane != RPC_LANE_CLIENT && env_conn_peer(c->env, c->stream)->role != ENV_ROLE_NODE) {
        (void)snprintf(cause, sizeof cause, "the %s lane is for nodes, and '%s' is a user",
                       lane_names[m.lane], env_conn_peer(c->env, c->stream)->name);
        refuse(c, ERR_DENIED, cause);
        return;
    }
    c->lane = (enum rpc_lane)m.lane;
    if (!call_on_ready(c, &m, NULL)) {
        buf_close(&c->early);
        return;
    }
    int rv = send_hello_ok(c, smaller(m.wire_minor, RPC_WIRE_MINOR));
    if (rv == 0 && c->early.len > 0) {
        struct slice part = slice_of(c->early.data, c->early.len);
        rv = env_conn_write(c->env, c->stream, &part, 1);
    }
    buf_close(&c->early);
    if (rv != 0) {
        close_with(c, rv, err_text_of(rv));
    }
}

static void on_hello_ok(struct rpc_conn *c, struct slice body)
{
    struct msg_hello_ok m;
    if (message_decode_hello_ok(body, &m) != 0) {
        refuse(c, ERR_PROTOCOL, "malformed HELLO_OK");
    } else if (m.wire_minor > RPC_WIRE_MINOR) {
        refuse(c, ERR_VERSION, "HELLO_OK with a newer version than offered");
    } else if (!name_matches(c, m.name)) {
        refuse(c, ERR_UNAUTHENTICATED, "HELLO_OK with another name than the certificate");
    } else {
        (void)call_on_ready(c, NULL, &m);
    }
}

/* ERROR without a request: the peer's reason to close. */
static void on_last_error(struct rpc_conn *c, struct slice body)
{
    struct msg_error m;
    if (message_decode_error(body, &m) != 0) {
        refuse(c, ERR_PROTOCOL, "malformed ERROR");
        return;
    }
    int reason = m.code <= INT16_MAX ? -(int)m.code : ERR_PROTOCOL;
    char text[128];
    rpc__text_copy(text, sizeof text, m.text);
    (void)snprintf(c->cause, sizeof c->cause, "refused by %s: %s",
                   env_conn_peer(c->env, c->stream)->address, text);
    close_with(c, reason < 0 ? reason : ERR_CLOSED, "");
}

/* ---- receiving ---------------------------------------------------------------------------------
 */

static bool lane_allows(const struct rpc_conn *c, uint16_t kind)
{
    enum message_lane lane = message_lane(kind);
    switch (c->lane) {
    case RPC_LANE_CLIENT:
        return lane == MESSAGE_LANE_ANY || lane == MESSAGE_LANE_CLIENT;
    case RPC_LANE_RAFT: /* RESULT answers PEER_COMMAND */
        return lane == MESSAGE_LANE_ANY || lane == MESSAGE_LANE_RAFT || kind == KIND_RESULT;
    case RPC_LANE_BULK:
        return lane == MESSAGE_LANE_ANY || lane == MESSAGE_LANE_BULK;
    }
    return false;
}

static void on_unexpected(struct rpc_conn *c, const struct frame_header *h)
{
    char cause[RPC_CAUSE_BYTES];
    if (c->state == CONN_HELLO) {
        (void)snprintf(cause, sizeof cause, "%s (kind %u) before the hello exchange",
                       message_name(h->kind), h->kind);
    } else {
        (void)snprintf(cause, sizeof cause, "%s (kind %u) does not belong on the %s lane",
                       message_name(h->kind), h->kind, lane_names[c->lane]);
    }
    refuse(c, ERR_PROTOCOL, cause);
}

static void deliver_ready(struct rpc_conn *c, const struct frame_header *h, struct slice body)
{
    switch (h->kind) {
    case KIND_HELLO:
    case KIND_HELLO_OK:
        refuse(c, ERR_PROTOCOL, "a second HELLO");
        return;
    case KIND_PING: {
        if (message_check(KIND_PING, body) != 0) {
            refuse(c, ERR_PROTOCOL, "malformed PING");
            return;
        }
        struct frame_header pong = {.kind = KIND_PONG, .request_id = h->request_id};
        (void)send_frame(c, &pong, &body, 1); /* a full queue is no silence */
        return;
    }
    case KIND_PONG:
        return;
    case KIND_ERROR:
        if (h->request_id == 0) {
            on_last_error(c, body);
            return;
        }
        break;
    default:
        if (!message_known(h->kind)) {
            /* A newer minor version's: the sender learns that we don't have it. */
            if (rpc_send_error(c, h->request_id, ERR_UNSUPPORTED, 0, 0, 0,
                               "this node does not know that kind of message") != 0) {
                close_with(c, ERR_BUSY, "the peer does not read");
            }
            return;
        }
        if (!lane_allows(c, h->kind)) {
            on_unexpected(c, h);
            return;
        }
    }
    c->cbs->on_frame(c->arg, c, h, body);
}

static void deliver(struct rpc_conn *c, const struct frame_header *h, struct slice body)
{
    if (c->server != NULL) {
        c->server->stats.frames_in++;
    }
    if (c->state == CONN_READY) {
        deliver_ready(c, h, body);
    } else if (h->kind == KIND_HELLO && c->server != NULL) {
        on_hello(c, body);
    } else if (h->kind == KIND_HELLO_OK && c->server == NULL) {
        on_hello_ok(c, body);
    } else if (h->kind == KIND_ERROR && h->request_id == 0) {
        on_last_error(c, body);
    } else {
        on_unexpected(c, h);
    }
}

static bool unpack(struct rpc_conn *c, const uint8_t *at, struct frame_header *h)
{
    const char *cause = NULL;
    int rv = frame_unpack(at, h, &cause);
    if (rv != 0) {
        refuse(c, rv, cause);
        return false;
    }
    return true;
}

static bool keep(struct rpc_conn *c, const uint8_t *data, size_t len)
{
    if (buf_append(&c->input, data, len) != 0) {
        close_with(c, ERR_NOMEM, "out of memory for a frame");
        return false;
    }
    return true;
}

/* Takes what completes the header or the frame in `input`; returns the bytes taken. */
static size_t feed_partial(struct rpc_conn *c, const uint8_t *data, size_t len)
{
    struct frame_header h = {0};
    size_t want = FRAME_HEADER_BYTES;
    if (c->input.len >= FRAME_HEADER_BYTES) {
        if (!unpack(c, c->input.data, &h)) {
            return len;
        }
        want += h.length;
    }
    size_t take = want - c->input.len < len ? want - c->input.len : len;
    if (!keep(c, data, take)) {
        return len;
    }
    if (c->input.len < want) {
        return take;
    }
    if (want == FRAME_HEADER_BYTES) { /* the header has just been completed, or it stands alone */
        if (!unpack(c, c->input.data, &h)) {
            return len;
        }
        if (h.length > 0) {
            return take;
        }
    }
    deliver(c, &h, slice_of(c->input.data + FRAME_HEADER_BYTES, h.length));
    if (c->input.capacity > INPUT_KEEP_BYTES) {
        buf_close(&c->input);
    } else {
        buf_clear(&c->input);
    }
    return take;
}

static void feed(struct rpc_conn *c, const uint8_t *data, size_t len)
{
    while (len > 0 && c->state != CONN_CLOSING) {
        if (c->paused) {
            c->stash = keep(c, data, len);
            return;
        }
        if (c->input.len > 0) {
            size_t taken = feed_partial(c, data, len);
            data += taken;
            len -= taken;
            continue;
        }
        struct frame_header h;
        if (len < FRAME_HEADER_BYTES) {
            (void)keep(c, data, len);
            return;
        }
        if (!unpack(c, data, &h)) {
            return;
        }
        size_t bytes = FRAME_HEADER_BYTES + (size_t)h.length;
        if (len < bytes) {
            (void)keep(c, data, len);
            return;
        }
        deliver(c, &h, slice_of(data + FRAME_HEADER_BYTES, h.length));
        data += bytes;
        len -= bytes;
    }
}

static void stream_on_data(void *arg, struct env_conn *stream, const uint8_t *data, size_t len)
{
    struct rpc_conn *c = arg;
    (void)stream;
    c->heard_ns = env_now_ns(c->env);
    if (c->server != NULL) {
        c->server->stats.bytes_in += len;
    }
    if (c->stash) { /* the transport had this under way when we paused it: it comes after the stash
                     */
        if (c->state != CONN_CLOSING) {
            (void)keep(c, data, len);
        }
        return;
    }
    feed(c, data, len);
}

static void on_resume(struct env_timer *timer)
{
    struct rpc_conn *c = container_of(timer, struct rpc_conn, resume);
    if (c->paused || c->state == CONN_CLOSING) {
        return;
    }
    struct buf stash = c->input;
    buf_init(&c->input);
    c->stash = false;
    feed(c, stash.data, stash.len);
    buf_close(&stash);
    if (!c->paused && c->state != CONN_CLOSING) {
        c->heard_ns = env_now_ns(c->env);
        c->stream_paused = false;
        env_conn_pause(c->env, c->stream, false);
    }
}

void rpc_pause(struct rpc_conn *c, bool paused)
{
    if (c->state == CONN_CLOSING || c->state == CONN_CONNECTING) {
        return;
    }
    c->paused = paused;
    if (paused) {
        env_timer_stop(c->env, &c->resume);
        if (!c->stream_paused) {
            c->stream_paused = true;
            env_conn_pause(c->env, c->stream, true);
        }
    } else if (c->stream_paused) {
        env_timer_start(c->env, &c->resume, env_now_ns(c->env));
    }
}

/* ---- time --------------------------------------------------------------------------------------
 */

/* Frames only note when they came; the timer looks at that when it fires, so a busy connection
 * costs no timer work. */
static void on_timer(struct env_timer *timer)
{
    struct rpc_conn *c = container_of(timer, struct rpc_conn, timer);
    if (c->state == CONN_CLOSING) {
        return;
    }
    if (c->state == CONN_CONNECTING) {
        /* The other machine may have gone in the middle of the handshake: nothing would tell. */
        close_with(c, ERR_TIMEOUT, "not connected within 5 s");
        return;
    }
    if (c->state != CONN_READY) {
        refuse(c, ERR_TIMEOUT, "no hello within 5 s");
        return;
    }
    uint64_t now = env_now_ns(c->env);
    if (c->stream_paused) { /* silence is our own doing */
        c->heard_ns = now;
    }
    uint64_t silent_ms = (now - c->heard_ns) / 1000000u;
    if (silent_ms >= (c->lane == RPC_LANE_RAFT ? RAFT_SILENCE_MAX_MS : SILENCE_MAX_MS)) {
        const struct env_peer *peer = env_conn_peer(c->env, c->stream);
        log_warn("rpc", "closing a silent connection", "peer=%s name=%s silent_ms=%llu",
                 peer->address, peer->name, (unsigned long long)silent_ms);
        close_with(c, ERR_TIMEOUT,
                   c->lane == RPC_LANE_RAFT ? "nothing heard for 2 s" : "nothing heard for 6 s");
        return;
    }
    uint64_t keepalive = keepalive_ms(c);
    if (silent_ms >= keepalive && now - c->pinged_ns >= keepalive * UINT64_C(1000000)) {
        struct msg_ping m = {.stamp = now};
        struct buf body = {0};
        c->pinged_ns = now;
        (void)send_encoded(c, KIND_PING, 0, &body, message_encode_ping(&m, &body));
    }
    uint64_t next_ms = silent_ms < keepalive ? keepalive - silent_ms : keepalive;
    env_timer_start_in_ms(c->env, &c->timer, next_ms);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void stream_on_open(void *arg, struct env_conn *stream)
{
    struct rpc_conn *c = arg;
    (void)stream;
    if (c->state != CONN_CONNECTING) {
        return;
    }
    c->state = CONN_HELLO;
    c->heard_ns = env_now_ns(c->env);
    env_timer_start_in_ms(c->env, &c->timer, HELLO_TIMEOUT_MS);
    int rv = send_hello(c);
    if (rv != 0) {
        close_with(c, rv, err_text_of(rv));
    }
}

static void stream_on_drain(void *arg, struct env_conn *stream)
{
    struct rpc_conn *c = arg;
    (void)stream;
    if (c->state == CONN_READY && c->cbs->on_drain != NULL) {
        c->cbs->on_drain(c->arg, c);
    }
}

static void stream_on_close(void *arg, struct env_conn *stream, int reason, const char *text)
{
    struct rpc_conn *c = arg;
    (void)stream;
    assert(reason < 0);
    env_timer_stop(c->env, &c->timer);
    env_timer_stop(c->env, &c->resume);
    c->state = CONN_CLOSING;
    if (c->server != NULL) {
        rpc__server_forget(c->server, c);
    }
    if (c->cbs->on_close != NULL) {
        c->cbs->on_close(c->arg, c, reason, c->cause[0] != '\0' ? c->cause : text);
    }
    buf_close(&c->input);
    buf_close(&c->early);
    mem_free(c);
}

const struct env_conn_cbs rpc__stream_cbs = {
    .on_open = stream_on_open,
    .on_data = stream_on_data,
    .on_drain = stream_on_drain,
    .on_close = stream_on_close,
};

static struct rpc_conn *conn_new(struct env *env, const struct rpc_identity *self,
                                 const struct rpc_cbs *cbs, void *arg)
{
    struct rpc_conn *c = mem_zalloc(sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    c->env = env;
    c->self = self;
    c->cbs = cbs;
    c->arg = arg;
    c->timer.cb = on_timer;
    c->resume.cb = on_resume;
    list_init(&c->link);
    return c;
}

int rpc_connect(struct env *env, const char *address, const char *expected_name, enum rpc_lane lane,
                const struct rpc_identity *self, const struct rpc_cbs *cbs, void *arg,
                struct rpc_conn **out)
{
    *out = NULL;
    struct rpc_conn *c = conn_new(env, self, cbs, arg);
    if (c == NULL) {
        return ERR_NOMEM;
    }
    c->state = CONN_CONNECTING;
    c->lane = lane;
    int rv =
        env_connect(env, address, ENV_ROLE_NODE, expected_name, &rpc__stream_cbs, c, &c->stream);
    if (rv != 0) {
        mem_free(c);
        return rv;
    }
    env_timer_start_in_ms(env, &c->timer, HELLO_TIMEOUT_MS);
    *out = c;
    return 0;
}

struct rpc_conn *rpc__conn_accept(struct rpc_server *server, struct env_conn *stream)
{
    struct rpc_conn *c = conn_new(server->env, server->self, server->cbs, server->arg);
    if (c == NULL) {
        return NULL;
    }
    c->server = server;
    c->stream = stream;
    c->state = CONN_HELLO;
    c->heard_ns = env_now_ns(c->env);
    env_timer_start_in_ms(c->env, &c->timer, HELLO_TIMEOUT_MS);
    return c;
}

static void orphan_on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                            struct slice body)
{
    (void)arg;
    (void)conn;
    (void)header;
    (void)body;
}

void rpc__conn_orphan(struct rpc_conn *c)
{
    static const struct rpc_cbs nobody = {.on_frame = orphan_on_frame};
    c->cbs = &nobody;
    c->arg = NULL;
}

int rpc_send(struct rpc_conn *c, const struct frame_header *header, const struct slice *parts,
             size_t count)
{
    if (c->state != CONN_READY) {
        return ERR_CLOSED;
    }
    int rv = send_frame(c, header, parts, count);
    if (rv != 0 && rv != ERR_TOOBIG && c->server != NULL) {
        /* An answer that can't be queued is lost; the client learns that from the close. */
        const struct env_peer *peer = env_conn_peer(c->env, c->stream);
        log_warn("rpc", "closing a connection that can't take an answer",
                 "peer=%s name=%s error=%s queued=%zu", peer->address, peer->name, err_name(rv),
                 rpc_queued(c));
        close_with(c, rv, "too slow: its queue of answers is full");
    }
    return rv;
}

int rpc_send_error(struct rpc_conn *c, uint64_t request_id, int err, uint64_t uid,
                   uint32_t leader_node, uint32_t retry_after_ms, const char *text)
{
    assert(err < 0);
    size_t len = text != NULL ? strnlen(text, 511) : 0;
    struct msg_error m = {
        .code = (uint32_t)-err,
        .retry_after_ms = retry_after_ms,
        .leader_node = leader_node,
        .uid = uid,
        .text = slice_of(text, len),
    };
    struct buf body = {0};
    int rv = message_encode_error(&m, &body);
    if (rv == 0) {
        struct frame_header h = {.kind = KIND_ERROR, .request_id = request_id};
        struct slice part = slice_of(body.data, body.len);
        rv = rpc_send(c, &h, &part, 1);
    }
    buf_close(&body);
    return rv;
}

void rpc_flush(struct rpc_conn *c)
{
    if (c->state == CONN_READY) {
        env_conn_flush(c->env, c->stream);
    }
}

void rpc_close(struct rpc_conn *c, int reason)
{
    close_with(c, reason, err_text_of(reason));
}

const struct env_peer *rpc_peer(const struct rpc_conn *c)
{
    return env_conn_peer(c->env, c->stream);
}

enum rpc_lane rpc_conn_lane(const struct rpc_conn *c)
{
    return c->lane;
}

size_t rpc_queued(const struct rpc_conn *c)
{
    return env_conn_queued(c->env, c->stream) + c->early.len;
}

void rpc_set_data(struct rpc_conn *c, void *data)
{
    c->data = data;
}

void *rpc_data(const struct rpc_conn *c)
{
    return c->data;
}

void rpc__text_copy(char *out, size_t size, struct slice text)
{
    size_t n = text.len < size - 1 ? text.len : size - 1;
    for (size_t i = 0; i < n; i++) {
        uint8_t ch = text.data[i];
        out[i] = ch >= 0x20 && ch < 0x7f && ch != '"' ? (char)ch : '?';
    }
    out[n] = '\0';
}
