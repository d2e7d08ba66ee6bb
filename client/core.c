/* The core's life: finding the cluster, calls and their deadlines, the end. */
#include "client/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/internal.h"

#define NS_PER_MS UINT64_C(1000000)

/* ---- time: deadlines of calls, attempts at nodes ---- */

void core__wake(struct core *core, uint64_t at_ns)
{
    if (core->timer_at_ns == 0 || at_ns < core->timer_at_ns) {
        core->timer_at_ns = at_ns;
        env_timer_start(core->env, &core->timer, at_ns);
    }
}

/* The deadline passed. A command that may have taken effect goes on in the background. */
static void call_expire(struct core_call *call)
{
    const char *last = call->shard != NULL ? call->shard->last_text : "";
    bool sent = false;
    list_for_each (it, &call->ops) {
        struct core_op *op = list_entry(it, struct core_op, call_link);
        sent = sent || (core__op_is_command(op) && op->unsettled > 0);
    }
    core__call_finish(call, sent ? ERR_INDOUBT : ERR_TIMEOUT,
                      sent
                          ? "no answer before the deadline: the call may or may not have taken "
                            "effect; read to find out%s%s"
                          : "the deadline passed before the call was served; nothing has happened: "
                            "try again%s%s",
                      last[0] != '\0' ? "; last trouble: " : "", last);
}

/* Requests that their node hasn't answered for too long are asked elsewhere. Returns when the next
 * one is due. They stand by when they were sent, so that of those which don't wait for something
 * the first one tells. */
static uint64_t attempts_check(struct core_node *node, uint64_t now)
{
    uint64_t least = UINT64_MAX;
    if (node == NULL) {
        return least;
    }
    list_for_each_safe (it, next, &node->inflight) {
        struct core_op *op = list_entry(it, struct core_op, link);
        if (op->shard == NULL) {
            continue; /* ADMIN: asked of this node or of none */
        }
        uint64_t due = op->sent_ns + (ATTEMPT_MS + op->wait_ms) * NS_PER_MS;
        if (due > now) {
            least = due < least ? due : least;
            if (op->wait_ms == 0) {
                break;
            }
            continue;
        }
        struct core_shard *shard = op->shard;
        core__unsend(op);
        core__op_lost(op, node, ERR_TIMEOUT, "no answer within 2 s");
        core__shard_pump(shard);
    }
    return least;
}

static void on_timer(struct env_timer *timer)
{
    struct core *core = container_of(timer, struct core, timer);
    uint64_t now = env_now_ns(core->env);
    core->timer_at_ns = 0;
    while (!list_empty(&core->calls)) {
        struct core_call *call = list_entry(core->calls.next, struct core_call, link);
        if (call->deadline_ns > now) {
            core__wake(core, call->deadline_ns);
            break;
        }
        call_expire(call);
    }
    for (uint32_t i = 0; i < core->node_count; i++) {
        uint64_t due = attempts_check(core->nodes[i], now);
        if (due != UINT64_MAX) {
            core__wake(core, due);
        }
    }
}

/* ---- the cluster's time, by what answers say ---- */

uint64_t core__clock_after(const struct core *core, uint32_t ms)
{
    uint64_t passed = (env_now_ns(core->env) - core->clock_ns) / NS_PER_MS;
    return core->clock == 0 ? 0 : core->clock + hlc_from_ms(passed + ms);
}

void core__clock_saw(struct core *core, uint64_t version)
{
    if (version > core__clock_after(core, 0)) {
        core->clock = version;
        core->clock_ns = env_now_ns(core->env);
    }
}

/* ---- calls ---- */

/* Takes a request from its call: it is freed, or, as a command that may have taken effect, resent
 * until it is answered. */
static void op_leave(struct core_op *op)
{
    if (op->numbered && op->unsettled > 0) {
        list_remove(&op->call_link);
        op->call = NULL;
        op->shard->core->stats.in_background++;
        return;
    }
    if (op->numbered) {
        core__session_settle(op);
    }
    core__unsend(op);
    core__op_free(op);
}

void core__call_finish(struct core_call *call, int err, const char *format, ...)
{
    struct core *core = call->core;
    assert(!call->finished);
    call->finished = true;
    call->err = err;
    call->text[0] = '\0';
    if (err != 0) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(call->text, sizeof call->text, format, args);
        va_end(args);
    }
    list_for_each_safe (it, next, &call->ops) {
        op_leave(list_entry(it, struct core_op, call_link));
    }
    if (call->deadline_ns != 0) {
        core->call_count--;
    }
    list_remove(&call->link);
    list_push_back(&core->finished, &call->link);
    env_defer(core->env, &core->task);
}

static void deadline_insert(struct core *core, struct core_call *call)
{
    uint32_t ms = call->timeout_ms != 0 ? call->timeout_ms : core->opts.timeout_ms;
    call->deadline_ns = env_now_ns(core->env) + ms * NS_PER_MS;
    /* Most calls have the same timeout, so the place is nearly always at the end. */
    struct list *at = core->calls.prev;
    while (at != &core->calls &&
           list_entry(at, struct core_call, link)->deadline_ns > call->deadline_ns) {
        at = at->prev;
    }
    list_push_front(at, &call->link);
    core->call_count++;
    if (at == &core->calls) {
        core__wake(core, call->deadline_ns);
    }
}

void core_call(struct core *core, struct core_call *call)
{
    struct core_op *op = call->op;
    assert(op != NULL);
    assert(call->cb != NULL);
    call->core = core;
    call->op = NULL;
    call->finished = false;
    call->deadline_ns = 0;
    list_init(&call->link);
    list_init(&call->ops);
    op->call = call;
    list_push_back(&call->ops, &op->call_link);
    core->stats.calls++;
    if (core->phase != CORE_READY) {
        core__call_finish(call, ERR_CANCELED, "the client is closed");
        return;
    }
    if (core->call_count >= CORE_CALLS_MAX) {
        if (call->reserved != NULL) {
            core_tx_release(call->reserved);
        }
        core__call_finish(call, ERR_BUSY, "%u calls are pending: wait for some of them",
                          CORE_CALLS_MAX);
        return;
    }
    deadline_insert(core, call);
    if (call->kind == KIND_ADMIN) {
        list_push_back(&core->admin, &op->link);
        core__admin_pump(core);
        return;
    }
    if (call->uid != 0) {
        call->shard = core__shard(core, call->uid, 0);
        if (call->shard == NULL) {
            core__call_finish(call, ERR_NOMEM, "out of memory for a shard");
            return;
        }
    }
    struct core_shard *shard = call->shard;
    op->shard = shard;
    if (call->reserved != NULL) {
        if (!core__session_adopt(call->reserved, op)) {
            core__call_finish(call, ERR_TX_ABORTED,
                              "the session that the transaction's number is "
                              "of has ended before it was sent");
            return;
        }
        list_push_back(&shard->ready, &op->link);
        core__shard_pump(shard);
        return;
    }
    list_push_back(core__op_is_command(op) ? &shard->waiting : &shard->ready, &op->link);
    if (call->kind == KIND_READ) {
        call->read.next = op->piece_len;
        call->read.out = 1;
        (void)core__read_pump(call);
    } else {
        core__shard_pump(shard);
    }
}

void core_call_cancel(struct core_call *call, int err)
{
    if (call->finished) {
        return;
    }
    bool sent = false;
    list_for_each (it, &call->ops) {
        struct core_op *op = list_entry(it, struct core_op, call_link);
        sent = sent || (core__op_is_command(op) && op->unsettled > 0);
    }
    core__call_finish(call, sent ? ERR_INDOUBT : err, "canceled");
}

/* ---- questions to one node ---- */

static struct core_node *admin_node(struct core *core, const struct core_call *call, bool *known)
{
    struct core_node *any = NULL;
    *known = call->node[0] == '\0';
    for (uint32_t i = 0; i < core->node_count; i++) {
        struct core_node *node = core->nodes[i];
        if (call->node[0] != '\0') {
            if (strcmp(call->node, node->name) == 0) {
                *known = true;
                (void)core__node_open(node);
                return node->conn != NULL ? node : NULL;
            }
            continue;
        }
        (void)core__node_open(node);
        if (node->conn != NULL && (any == NULL || any->goaway)) {
            any = node;
        }
    }
    return any;
}

void core__admin_pump(struct core *core)
{
    list_for_each_safe (it, next, &core->admin) {
        struct core_op *op = list_entry(it, struct core_op, link);
        bool known;
        struct core_node *node = admin_node(core, op->call, &known);
        if (!known) {
            core__call_finish(op->call, ERR_NOTFOUND, "the cluster has no node '%s'",
                              op->call->node);
        } else if (node != NULL) {
            int rv = core__send(node, op);
            if (rv == ERR_TOOBIG || rv == ERR_NOMEM) {
                core__call_finish(op->call, rv, "%s", err_text_of(rv));
            }
        }
    }
}

void core__admin_lost(struct core_node *node, const char *text)
{
    list_for_each_safe (it, next, &node->core->admin) {
        struct core_op *op = list_entry(it, struct core_op, link);
        if (strcmp(op->call->node, node->name) == 0) {
            core__call_finish(op->call, ERR_UNAVAILABLE, "node %s (%s): %s", node->name,
                              node->address, text);
        }
    }
}

/* ---- finding the cluster ---- */

struct core_node *core__node(struct core *core, uint32_t number)
{
    for (uint32_t i = 0; i < core->node_count; i++) {
        if (core->nodes[i]->number == number) {
            return core->nodes[i];
        }
    }
    return NULL;
}

static void opened(struct core *core, int err)
{
    env_timer_stop(core->env, &core->open_timer);
    core->phase = err == 0 ? CORE_READY : CORE_FAILED;
    core->open_err = err;
    core->ready_due = true;
    env_defer(core->env, &core->task);
}

static void ask_cluster(struct core_node *endpoint)
{
    struct core_op *op = core__op_new(KIND_CLUSTER, 0);
    if (op == NULL) {
        return; /* the timer asks again */
    }
    if (core__send(endpoint, op) != 0) {
        core__op_free(op);
    }
}

/* Refusals that trying again won't change. */
static bool is_refusal(int err)
{
    switch (err) {
    case ERR_TLS:
    case ERR_UNAUTHENTICATED:
    case ERR_DENIED:
    case ERR_VERSION:
    case ERR_WRONGCLUSTER:
    case ERR_UNSUPPORTED:
        return true;
    default:
        return false;
    }
}

static void on_open_timer(struct env_timer *timer)
{
    struct core *core = container_of(timer, struct core, open_timer);
    uint64_t now = env_now_ns(core->env);
    if (now >= core->open_deadline_ns) {
        opened(core, is_refusal(core->open_err) ? core->open_err : ERR_UNAVAILABLE);
        return;
    }
    for (uint32_t i = 0; i < core->endpoints_started; i++) {
        struct core_node *endpoint = core->endpoints[i];
        if (endpoint->conn != NULL && list_empty(&endpoint->inflight)) {
            ask_cluster(endpoint);
        }
    }
    if (core->endpoints_started < core->endpoint_count) {
        struct core_node *endpoint = core->endpoints[core->endpoints_started++];
        int rv = core__node_open(endpoint);
        if (rv != 0) {
            core__bootstrap_failed(endpoint, rv, err_text_of(rv));
            if (core->phase != CORE_CONNECTING) {
                return;
            }
        }
    }
    uint64_t next = now + ENDPOINT_STAGGER_MS * NS_PER_MS;
    env_timer_start(core->env, timer,
                    next < core->open_deadline_ns ? next : core->open_deadline_ns);
}

void core__bootstrap_ready(struct core_node *endpoint)
{
    ask_cluster(endpoint);
}

void core__bootstrap_failed(struct core_node *endpoint, int reason, const char *text)
{
    struct core *core = endpoint->core;
    endpoint->failed = true;
    endpoint->failure = reason;
    (void)snprintf(core->open_text, sizeof core->open_text, "%.100s: %.150s", endpoint->address,
                   text);
    core->open_err = reason;
    if (core->endpoints_started < core->endpoint_count) {
        env_timer_start(core->env, &core->open_timer, env_now_ns(core->env));
        return;
    }
    for (uint32_t i = 0; i < core->endpoint_count; i++) {
        if (!core->endpoints[i]->failed || !is_refusal(core->endpoints[i]->failure)) {
            return;
        }
    }
    opened(core, reason);
}

static int node_decode(struct cursor *c, struct core_node *node)
{
    node->number = cursor_u32(c);
    struct slice name = cursor_bytes(c, cursor_u16(c));
    struct slice address = cursor_bytes(c, cursor_u16(c));
    if (c->failed || node->number == 0 || name.len == 0 || name.len > NODE_NAME_BYTES_MAX ||
        address.len == 0 || address.len > ADDRESS_BYTES_MAX) {
        return ERR_PROTOCOL;
    }
    memcpy(node->name, name.data, name.len);
    memcpy(node->address, address.data, address.len);
    return 0;
}

static void nodes_free(struct core *core)
{
    for (uint32_t i = 0; i < core->node_count; i++) {
        core__node_free(core->nodes[i]);
    }
    core->node_count = 0;
}

static int nodes_decode(struct core *core, const struct msg_cluster_info *m)
{
    struct cursor c = cursor_of(m->nodes);
    assert(core->node_count == 0);
    while (cursor_left(&c) > 0) {
        if (core->node_count == NODES_MAX) {
            return ERR_PROTOCOL;
        }
        struct core_node *node = core__node_new(core);
        if (node == NULL) {
            return ERR_NOMEM;
        }
        node->index = core->node_count;
        int rv = node_decode(&c, node);
        if (rv != 0 || core__node(core, node->number) != NULL) {
            core__node_free(node);
            return ERR_PROTOCOL;
        }
        core->nodes[core->node_count++] = node;
    }
    return core__node(core, m->self) == NULL ? ERR_PROTOCOL : 0;
}

/* The connection to the endpoint goes on as that of its node; the other endpoints were only names
 * for nodes. */
static void adopt(struct core *core, struct core_node *endpoint, uint32_t self)
{
    struct core_node *node = core__node(core, self);
    endpoint->number = node->number;
    endpoint->index = node->index;
    memcpy(endpoint->name, node->name, sizeof endpoint->name);
    core->nodes[node->index] = endpoint;
    core__node_free(node);
    for (uint32_t i = 0; i < core->endpoint_count; i++) {
        struct core_node *other = core->endpoints[i];
        if (other == endpoint) {
            continue;
        }
        list_for_each_safe (it, next, &other->inflight) {
            struct core_op *op = list_entry(it, struct core_op, link);
            core__unsend(op);
            core__op_free(op);
        }
        core__node_free(other);
    }
    core->endpoint_count = core->endpoints_started = 0;
}

void core__bootstrap_answer(struct core_node *endpoint, struct core_op *op, uint16_t kind,
                            struct slice body)
{
    struct core *core = endpoint->core;
    core__op_free(op);
    if (core->phase != CORE_CONNECTING || kind == KIND_ERROR) {
        return; /* the timer asks again */
    }
    struct msg_cluster_info m;
    int rv = message_decode_cluster_info(body, &m);
    if (rv == 0) {
        rv = nodes_decode(core, &m);
    }
    if (rv == 0) {
        core->meta = core__shard(core, META_UID, m.meta_leader);
        rv = core->meta == NULL ? ERR_NOMEM : 0;
    }
    if (rv != 0) {
        nodes_free(core);
        (void)snprintf(core->open_text, sizeof core->open_text,
                       "%.100s: its description of the cluster is not usable: %s",
                       endpoint->address, err_text_of(rv));
        if (rv != ERR_NOMEM) {
            opened(core, rv);
        }
        return;
    }
    core->cluster_id = m.cluster_id;
    adopt(core, endpoint, m.self);
    core->meta->leader = core__node(core, m.meta_leader); /* may be the adopted one */
    opened(core, 0);
}

static int endpoint_add(struct core *core, const char *text, size_t len, struct err_text *e)
{
    if (core->endpoint_count == ENDPOINTS_MAX) {
        return err_set(e, ERR_INVAL, "more than %d endpoints", ENDPOINTS_MAX);
    }
    if (len == 0 || len > ADDRESS_BYTES_MAX || memchr(text, ':', len) == NULL ||
        text[len - 1] == ':' || text[0] == ':') {
        return err_set(e, ERR_INVAL, "endpoint '%.*s' is not host:port",
                       (int)(len < 128 ? len : 128), text);
    }
    struct core_node *node = core__node_new(core);
    if (node == NULL) {
        return ERR_NOMEM;
    }
    memcpy(node->address, text, len);
    node->index = core->endpoint_count;
    core->endpoints[core->endpoint_count++] = node;
    return 0;
}

static int endpoints_parse(struct core *core, const char *text, struct err_text *e)
{
    if (strncmp(text, "cairn://", 8) == 0) {
        text += 8;
    }
    for (;;) {
        size_t len = strcspn(text, ",");
        size_t end = len;
        while (len > 0 && (*text == ' ' || *text == '\t')) {
            text++;
            len--;
            end--;
        }
        while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '/')) {
            len--;
        }
        int rv = endpoint_add(core, text, len, e);
        if (rv != 0) {
            return rv;
        }
        if (text[end] == '\0') {
            return 0;
        }
        text += end + 1;
    }
}

/* ---- life ---- */

static void core_free(struct core *core)
{
    env_timer_stop(core->env, &core->open_timer);
    env_timer_stop(core->env, &core->timer);
    env_timer_stop(core->env, &core->close_timer);
    for (uint32_t i = 0; i < core->shard_count; i++) {
        if (core->shards[i]->session != NULL) {
            core__session_free(core->shards[i]->session);
        }
        core__shard_free(core->shards[i]);
    }
    mem_free(core->shards);
    nodes_free(core);
    for (uint32_t i = 0; i < core->endpoint_count; i++) {
        core__node_free(core->endpoints[i]);
    }
    mem_free(core->slots);
    mem_free(core);
}

static void ops_purge(struct list *ops)
{
    while (!list_empty(ops)) {
        struct core_op *op = list_entry(ops->next, struct core_op, link);
        if (op->numbered) {
            core__session_settle(op);
        }
        core__unsend(op);
        core__op_free(op);
    }
}

static void purge(struct core *core)
{
    for (uint32_t i = 0; i < core->endpoint_count; i++) {
        ops_purge(&core->endpoints[i]->inflight);
    }
    for (uint32_t i = 0; i < core->node_count; i++) {
        ops_purge(&core->nodes[i]->inflight);
    }
    for (uint32_t i = 0; i < core->shard_count; i++) {
        ops_purge(&core->shards[i]->ready);
        ops_purge(&core->shards[i]->waiting);
        ops_purge(&core->shards[i]->parked);
        ops_purge(&core->shards[i]->reserved);
    }
}

/* Callbacks run here, at the end of the turn, and not where a call ends: what they do (call again,
 * close) can't disturb a loop over requests. */
static void on_task(struct env_task *task)
{
    struct core *core = container_of(task, struct core, task);
    if (core->ready_due) {
        core->ready_due = false;
        core->ready_cb(core->ready_arg, core, core->open_err,
                       core->open_err == 0 ? "" : core->open_text);
    }
    while (!list_empty(&core->finished)) {
        struct core_call *call = list_entry(core->finished.next, struct core_call, link);
        list_remove(&call->link);
        call->cb(call);
    }
    if (!core->close_due) {
        return;
    }
    void (*done)(void *arg) = core->close_done;
    void *arg = core->close_arg;
    purge(core);
    core_free(core);
    done(arg);
}

int core_open(struct env *env, const char *endpoints, const struct rpc_identity *self,
              const struct core_opts *opts, core_ready_cb cb, void *arg, struct core **out,
              struct err_text *e)
{
    *out = NULL;
    struct core *core = mem_zalloc(sizeof *core);
    if (core == NULL) {
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    core->env = env;
    core->self = self;
    core->opts = *opts;
    core->opts.timeout_ms = opts->timeout_ms != 0 ? opts->timeout_ms : 30000;
    core->opts.inflight_max = opts->inflight_max != 0 ? opts->inflight_max : 256;
    core->opts.lease_ms = opts->lease_ms != 0 ? opts->lease_ms : 60000;
    core->owner = hash64(0, self->name, strnlen(self->name, sizeof self->name));
    core->ready_cb = cb;
    core->ready_arg = arg;
    core->slot_free = UINT32_MAX;
    core->open_timer.cb = on_open_timer;
    core->timer.cb = on_timer;
    core->task.cb = on_task;
    list_init(&core->calls);
    list_init(&core->finished);
    list_init(&core->admin);
    int rv = 0;
    if (core->opts.inflight_max > SESSION_WINDOW_MAX || core->opts.lease_ms < 1000 ||
        core->opts.lease_ms > 3600000) {
        rv = err_set(e, ERR_INVAL, "inflight_max is 1..%d, lease_ms is 1000..3600000",
                     SESSION_WINDOW_MAX);
    } else {
        rv = endpoints_parse(core, endpoints, e);
    }
    if (rv != 0) {
        core_free(core);
        return rv;
    }
    core->open_err = ERR_UNAVAILABLE;
    (void)snprintf(core->open_text, sizeof core->open_text, "no endpoint answered");
    core->open_deadline_ns = env_now_ns(env) + core->opts.timeout_ms * NS_PER_MS;
    env_timer_start(env, &core->open_timer, env_now_ns(env));
    *out = core;
    return 0;
}

static void close_now(struct core *core)
{
    core->close_due = true;
    env_defer(core->env, &core->task);
}

static void on_close_timer(struct env_timer *timer)
{
    close_now(container_of(timer, struct core, close_timer));
}

void core__session_closed(struct core *core)
{
    assert(core->closing_sessions > 0);
    if (--core->closing_sessions == 0) {
        close_now(core);
    }
}

void core_close(struct core *core, void (*done)(void *arg), void *arg)
{
    assert(core->phase != CORE_CLOSING);
    core->phase = CORE_CLOSING;
    core->ready_due = false;
    core->close_done = done;
    core->close_arg = arg;
    core->close_timer.cb = on_close_timer;
    env_timer_stop(core->env, &core->open_timer);
    while (!list_empty(&core->calls)) {
        core__call_finish(list_entry(core->calls.next, struct core_call, link), ERR_CANCELED,
                          "the client was closed");
    }
    purge(core);
    for (uint32_t i = 0; i < core->shard_count; i++) {
        struct core_session *session = core->shards[i]->session;
        if (session != NULL && core__session_close(session) == 0) {
            core->closing_sessions++;
        }
    }
    if (core->closing_sessions == 0) {
        close_now(core);
    } else {
        env_timer_start_in_ms(core->env, &core->close_timer, CLOSE_MS);
    }
}

void core_get_stats(const struct core *core, struct core_stats *out)
{
    *out = core->stats;
}
