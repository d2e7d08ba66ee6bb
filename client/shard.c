/* Where a shard's requests go.
 *
 * `leader` is a supposition: from HEAP_INFO at first, then from NOTLEADER's hints, else the next
 * node in turn. It is changed by the first failure that a node answers with and by nothing that
 * arrives later from the same node, so that a thousand requests in flight at a deposed leader count
 * as one failure. While `retry_ns` lies ahead nothing is sent but what ends a hold. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/internal.h"

#define NS_PER_MS       UINT64_C(1000000)
#define HOMELESS_ROUNDS 3u /* every node said so often that it has no replica of the shard */

static void note(struct core_shard *shard, int err, const struct core_node *node, const char *text)
{
    shard->last_err = err;
    (void)snprintf(shard->last_text, sizeof shard->last_text, "%.31s: %.200s",
                   node->name[0] != '\0' ? node->name : node->address, text);
}

/* Half to twice of a step that doubles with each failure: the first is 5..20 ms. */
static uint64_t backoff_ns(struct core_shard *shard)
{
    uint32_t shift = shard->failures == 0 ? 0 : shard->failures - 1;
    uint64_t ms = shift > 6 ? BACKOFF_MAX_MS : (uint64_t)BACKOFF_FIRST_MS << shift;
    if (ms > BACKOFF_MAX_MS) {
        ms = BACKOFF_MAX_MS;
    }
    uint64_t low = ms * NS_PER_MS / 2;
    return low + env_random_u64(shard->core->env) % (ms * NS_PER_MS * 3 / 2);
}

/* The next connected node after the one tried last. One that goes away or didn't serve just now
 * gets its turn only after the others have had time to connect. */
static struct core_node *pick(struct core_shard *shard)
{
    struct core *core = shard->core;
    uint64_t now = env_now_ns(core->env);
    struct core_node *last_resort = NULL;
    for (uint32_t i = 1; i <= core->node_count; i++) {
        struct core_node *node = core->nodes[(shard->rotor + i) % core->node_count];
        bool shunned = node == shard->shunned && now < shard->shunned_until_ns;
        if (core__node_usable(node) && (!shunned || core->node_count == 1)) {
            return node;
        }
        if (node->conn != NULL && !shunned && now >= node->goaway_ns + SHUN_MS * NS_PER_MS) {
            last_resort = node;
        }
        (void)core__node_open(node); /* out of memory: the next failure tries again */
    }
    return last_resort;
}

static void arm(struct core_shard *shard, uint64_t at_ns)
{
    env_timer_start(shard->core->env, &shard->timer, at_ns);
}

/* A connected node to send to, or NULL: a timer or a connection will bring us back. */
static struct core_node *route(struct core_shard *shard)
{
    struct core_node *node = shard->leader;
    if (node != NULL && node->goaway) {
        node = shard->leader = NULL;
    }
    if (node != NULL && node->conn == NULL) {
        uint64_t now = env_now_ns(shard->core->env);
        if (shard->connect_until_ns == 0) {
            shard->connect_until_ns = now + CONNECT_WAIT_MS * NS_PER_MS;
            (void)core__node_open(node);
        }
        if (now < shard->connect_until_ns) {
            arm(shard, shard->connect_until_ns);
            return NULL;
        }
        node = shard->leader = NULL;
    }
    if (node == NULL) {
        node = shard->leader = pick(shard);
    }
    shard->connect_until_ns = 0;
    if (node == NULL) {
        arm(shard, env_now_ns(shard->core->env) + SHUN_MS * NS_PER_MS);
    } else {
        shard->rotor = node->index;
    }
    return node;
}

/* false: the node takes no more for now */
static bool send_one(struct core_shard *shard, struct core_node *node, struct core_op *op)
{
    int rv = core__send(node, op);
    if (rv == 0) {
        return true;
    }
    if (rv == ERR_TOOBIG && op->call != NULL && op->unsettled == 0) {
        core__call_finish(op->call, rv, "the request does not fit into a frame");
        return true;
    }
    /* BUSY: its queue drains; CLOSED: its on_close comes; NOMEM: perhaps later. */
    shard->retry_ns = env_now_ns(shard->core->env) + backoff_ns(shard);
    arm(shard, shard->retry_ns);
    return false;
}

/* The number is all that was wanted; it stays in flight until the commit that gets it. */
static void reserved(struct core_op *op)
{
    struct core_call *call = op->call;
    list_remove(&op->link);
    list_remove(&op->call_link);
    list_push_back(&op->shard->reserved, &op->link);
    op->call = NULL;
    call->op = op;
    call->value = load_u64(op->body + COMMAND_PREFIX_BYTES);
    core__call_finish(call, 0, "%s", "");
}

/* Who waits because the shard is held waits until TX_CLOSE has come: it overtakes them, once. */
static void send_closes(struct core_shard *shard)
{
    struct core_node *node = shard->leader;
    list_for_each_safe (it, next, &shard->waiting) {
        struct core_op *op = list_entry(it, struct core_op, link);
        if (op->kind != KIND_TX_CLOSE) {
            continue;
        }
        if (shard->last_err != ERR_BUSY || node == NULL || !core__node_usable(node) ||
            shard->session == NULL || !core__session_room(shard->session)) {
            return;
        }
        core__session_number(shard->session, op);
        if (!send_one(shard, node, op)) {
            core__shard_requeue(op);
            return;
        }
    }
}

void core__shard_pump(struct core_shard *shard)
{
    struct core *core = shard->core;
    if (core->phase != CORE_READY || (list_empty(&shard->ready) && list_empty(&shard->waiting))) {
        return;
    }
    if (shard->retry_ns != 0) {
        if (env_now_ns(core->env) < shard->retry_ns) {
            send_closes(shard);
            arm(shard, shard->retry_ns);
            return;
        }
        shard->retry_ns = 0;
    }
    struct core_node *node = route(shard);
    if (node == NULL) {
        return;
    }
    while (!list_empty(&shard->ready)) {
        struct core_op *op = list_entry(shard->ready.next, struct core_op, link);
        if (!send_one(shard, node, op)) {
            return;
        }
    }
    if (list_empty(&shard->waiting)) {
        return;
    }
    if (shard->session == NULL) {
        if (core__session_start(shard) != 0) {
            shard->retry_ns = env_now_ns(core->env) + backoff_ns(shard);
            arm(shard, shard->retry_ns);
            return;
        }
        (void)send_one(shard, node, list_entry(shard->ready.next, struct core_op, link));
        return;
    }
    struct core_session *session = shard->session;
    while (!list_empty(&shard->waiting) && core__session_room(session)) {
        struct core_op *op = list_entry(shard->waiting.next, struct core_op, link);
        core__session_number(session, op);
        if (op->reserves) {
            reserved(op);
            continue;
        }
        if (!send_one(shard, node, op)) {
            /* It has its number and waits with the others that do. */
            list_remove(&op->link);
            list_push_back(&shard->ready, &op->link);
            return;
        }
    }
}

static void on_timer(struct env_timer *timer)
{
    core__shard_pump(container_of(timer, struct core_shard, timer));
}

/* Those that met an undecided transaction try again, under new numbers. */
static void on_park_timer(struct env_timer *timer)
{
    struct core_shard *shard = container_of(timer, struct core_shard, park_timer);
    list_splice(&shard->waiting, &shard->parked);
    core__shard_pump(shard);
}

void core__shard_park(struct core_op *op)
{
    struct core_shard *shard = op->shard;
    assert(!op->numbered);
    list_push_back(&shard->parked, &op->link);
    if (shard->park_timer.slot == 0) {
        env_timer_start_in_ms(shard->core->env, &shard->park_timer, PARK_MS);
    }
}

void core__shard_requeue(struct core_op *op)
{
    assert(op->request == 0);
    list_remove(&op->link);
    list_push_back(&op->shard->ready, &op->link);
}

/* No node has the shard: it was dropped. What was sent before may have taken effect. */
static void shard_gone(struct core_shard *shard)
{
    struct list gone;
    list_init(&gone);
    list_splice(&gone, &shard->ready);
    list_splice(&gone, &shard->waiting);
    list_splice(&gone, &shard->parked);
    if (shard->session != NULL) {
        core__session_died(shard->session);
    }
    while (!list_empty(&gone)) {
        struct core_op *op = list_entry(gone.next, struct core_op, link);
        list_remove(&op->link);
        int err = op->unsettled > 0 && core__op_is_command(op) ? ERR_INDOUBT : ERR_NOSHARD;
        if (op->numbered) {
            core__session_settle(op);
        }
        if (op->call != NULL) {
            core__call_finish(op->call, err, "no node has this shard: was the heap dropped? (%s)",
                              shard->last_text);
        } else {
            shard->core->stats.in_background -= core__op_is_command(op);
            core__op_free(op);
        }
    }
}

void core__shard_bounce(struct core_shard *shard, struct core_node *from, int err, uint32_t hint,
                        uint32_t retry_after_ms, const char *text)
{
    struct core *core = shard->core;
    note(shard, err, from, text);
    if (err == ERR_NOTLEADER || err == ERR_BUSY) {
        shard->homeless = 0;
    }
    if (shard->leader != from) {
        return; /* another answer of that node has told us before */
    }
    if (err == ERR_NOSHARD && core->phase == CORE_READY &&
        ++shard->homeless > HOMELESS_ROUNDS * core->node_count) {
        shard->homeless = 0;
        shard_gone(shard);
        return;
    }
    core->stats.bounces++;
    shard->failures++;
    uint64_t wait_ns = backoff_ns(shard);
    if (err == ERR_BUSY || err == ERR_LIMIT || err == ERR_DISKFULL) {
        /* The right node, at a bad moment. */
        if (wait_ns < retry_after_ms * NS_PER_MS) {
            wait_ns = retry_after_ms * NS_PER_MS;
        }
        if (err == ERR_DISKFULL && shard->failures % 4 == 0) {
            shard->leader = NULL; /* perhaps another one leads by now */
        }
    } else {
        struct core_node *leader = hint == 0 ? NULL : core__node(core, hint);
        if (leader == from || (leader != NULL && leader->goaway)) {
            leader = NULL;
        }
        shard->leader = leader;
        shard->shunned = from;
        shard->shunned_until_ns = env_now_ns(core->env) + SHUN_MS * NS_PER_MS;
        if (leader != NULL && shard->failures <= 2) {
            wait_ns =
                0; /* told by who should know; later ones may be sending us round in circles */
        }
    }
    shard->connect_until_ns = 0;
    shard->retry_ns = wait_ns == 0 ? 0 : env_now_ns(core->env) + wait_ns;
    if (shard->retry_ns != 0) {
        arm(shard, shard->retry_ns);
    }
}

void core__shard_served(struct core_shard *shard, struct core_node *from)
{
    if (shard->leader == from) {
        shard->failures = 0;
    }
    shard->homeless = 0;
}

void core__shard_node_ready(struct core *core, struct core_node *node)
{
    for (uint32_t i = 0; i < core->shard_count; i++) {
        struct core_shard *shard = core->shards[i];
        if (shard->leader == NULL || shard->leader == node) {
            core__shard_pump(shard);
        }
    }
}

void core__shard_node_lost(struct core *core, struct core_node *node, int reason, const char *text)
{
    for (uint32_t i = 0; i < core->shard_count; i++) {
        struct core_shard *shard = core->shards[i];
        if (shard->leader == node) {
            core__shard_bounce(shard, node, reason == ERR_CLOSED ? ERR_NOCONN : reason, 0, 0, text);
        }
        core__shard_pump(shard);
    }
}

/* ---- the table of shards ---- */

static struct core_shard *shard_new(struct core *core, uint64_t uid)
{
    if (core->shard_count == core->shard_capacity) {
        uint32_t capacity = core->shard_capacity == 0 ? 16 : core->shard_capacity * 2;
        struct core_shard **shards =
            mem_realloc(core->shards, capacity * sizeof(struct core_shard *));
        if (shards == NULL) {
            return NULL;
        }
        core->shards = shards;
        core->shard_capacity = capacity;
    }
    struct core_shard *shard = mem_zalloc(sizeof *shard);
    if (shard == NULL) {
        return NULL;
    }
    shard->core = core;
    shard->uid = uid;
    shard->timer.cb = on_timer;
    list_init(&shard->ready);
    list_init(&shard->waiting);
    list_init(&shard->parked);
    list_init(&shard->reserved);
    shard->park_timer.cb = on_park_timer;
    core->shards[core->shard_count++] = shard;
    return shard;
}

struct core_shard *core__shard(struct core *core, uint64_t uid, uint32_t preferred)
{
    for (uint32_t i = 0; i < core->shard_count; i++) {
        if (core->shards[i]->uid == uid) {
            return core->shards[i];
        }
    }
    struct core_shard *shard = shard_new(core, uid);
    if (shard != NULL) {
        shard->preferred = preferred;
        shard->leader = core__node(core, preferred);
        if (core->node_count > 0) { /* without a supposition, not all shards to the same node */
            shard->rotor = (uint32_t)(uid % core->node_count);
        }
    }
    return shard;
}

void core__shard_free(struct core_shard *shard)
{
    assert(list_empty(&shard->ready));
    assert(list_empty(&shard->waiting));
    assert(list_empty(&shard->parked));
    assert(list_empty(&shard->reserved));
    sdk__lease_pool_free(shard->pool);
    env_timer_stop(shard->core->env, &shard->park_timer);
    env_timer_stop(shard->core->env, &shard->timer);
    mem_free(shard);
}
