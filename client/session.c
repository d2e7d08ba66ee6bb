/* Sessions: what makes a command that is sent twice take effect once.
 *
 *   OPENING --RESULT--> OPENED --SESSION_EXPIRED--> DEAD --last of its requests gone--> freed
 *
 * A shard has at most one session that takes new commands. A dead one lives until its commands in
 * flight are answered: a node keeps the results of an expired session for a while, and a command
 * sent under it must not be sent under another.
 *
 * A command is resent byte for byte, the `acked` of its first send included: a node may compare the
 * two. */
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/internal.h"

#define NS_PER_MS UINT64_C(1000000)

static void on_keepalive(struct env_timer *timer);

/* A SESSION_* request into the shard's queue. */
static struct core_op *request(struct core_session *session, uint16_t kind, size_t len)
{
    struct core_op *op = core__op_new(kind, len);
    if (op == NULL) {
        return NULL;
    }
    op->shard = session->shard;
    op->session = session;
    session->live++;
    list_push_back(&session->shard->ready, &op->link);
    return op;
}

static void patch(const struct core_session *session, struct core_op *op)
{
    struct command_prefix prefix = {
        .uid = session->shard->uid,
        .session = session->id,
        .seq = op->seq,
        .acked = session->acked,
    };
    message_patch_command(op->body, &prefix);
}

int core__session_start(struct core_shard *shard)
{
    struct core *core = shard->core;
    size_t ring = core->opts.inflight_max * sizeof(struct core_op *);
    struct core_session *session = mem_zalloc(sizeof *session + ring);
    if (session == NULL) {
        return ERR_NOMEM;
    }
    session->shard = shard;
    session->next_seq = 1;
    session->keepalive.cb = on_keepalive;
    struct msg_session_open m = {
        .uid = shard->uid,
        .nonce = env_random_u64(core->env),
        .owner = core->owner,
        .window = core->opts.inflight_max,
        .lease_ms = core->opts.lease_ms,
    };
    struct core_op *op = request(session, KIND_SESSION_OPEN, message_size_session_open(&m));
    if (op == NULL) {
        mem_free(session);
        return ERR_NOMEM;
    }
    struct buf body = {.data = op->body, .capacity = op->len};
    int rv = message_encode_session_open(&m, &body);
    assert(rv == 0);
    assert(body.data == op->body);
    shard->session = session;
    return 0;
}

/* How long who hasn't prepared may still do so. A number that is drawn in advance waits for its
 * commit, until the call's deadline at most. */
static uint32_t deadline_ms(const struct core_op *op)
{
    if (!op->reserves || op->call == NULL) {
        return TX_DEADLINE_MS;
    }
    uint64_t now = env_now_ns(op->shard->core->env);
    uint64_t left = op->call->deadline_ns > now ? (op->call->deadline_ns - now) / NS_PER_MS : 0;
    uint32_t limit = TX_DEADLINE_MS_MAX - 2 * TX_DEADLINE_MS; /* what clocks may be apart */
    return left + TX_DEADLINE_MS < limit ? (uint32_t)left + TX_DEADLINE_MS : limit;
}

bool core__session_room(const struct core_session *session)
{
    return session->state == SESSION_OPENED &&
           session->next_seq - session->acked <= session->shard->core->opts.inflight_max;
}

void core__session_number(struct core_session *session, struct core_op *op)
{
    assert(core__session_room(session));
    struct core_op **place =
        &session->ring[session->next_seq % session->shard->core->opts.inflight_max];
    assert(*place == NULL);
    *place = op;
    op->seq = session->next_seq++;
    op->session = session;
    op->numbered = true;
    session->live++;
    patch(session, op);
    if (op->kind == KIND_TX_COMMIT && load_u64(op->body + COMMAND_PREFIX_BYTES) == 0) {
        store_u64(op->body + COMMAND_PREFIX_BYTES,
                  core__clock_after(session->shard->core, deadline_ms(op)));
    }
    if (op->call != NULL) {
        op->call->session = session->id;
        op->call->seq = op->seq;
    }
}

bool core__session_adopt(struct core_op *reserved, struct core_op *op)
{
    struct core_session *session = reserved->session;
    assert(reserved->numbered);
    if (session->state != SESSION_OPENED) {
        core_tx_release(reserved);
        return false;
    }
    session->ring[reserved->seq % session->shard->core->opts.inflight_max] = op;
    op->seq = reserved->seq;
    op->session = session;
    op->numbered = op->named = true;
    session->live++;
    reserved->numbered = false;
    core__op_free(reserved);
    patch(session, op);
    op->call->session = session->id;
    op->call->seq = op->seq;
    return true;
}

void core_tx_release(struct core_op *reserved)
{
    struct core_shard *shard = reserved->shard;
    core__session_settle(reserved);
    core__op_free(reserved);
    core__shard_pump(shard);
}

void core__session_settle(struct core_op *op)
{
    struct core_session *session = op->session;
    uint32_t window = session->shard->core->opts.inflight_max;
    assert(op->numbered);
    assert(session->ring[op->seq % window] == op);
    session->ring[op->seq % window] = NULL;
    op->numbered = false;
    while (session->acked + 1 < session->next_seq &&
           session->ring[(session->acked + 1) % window] == NULL) {
        session->acked++;
    }
    session->active_ns = env_now_ns(session->shard->core->env);
    if (session->keepalive.slot == 0 && session->state == SESSION_OPENED) {
        env_timer_start_in_ms(session->shard->core->env, &session->keepalive,
                              session->shard->core->opts.lease_ms / 3);
    }
}

void core__session_free(struct core_session *session)
{
    env_timer_stop(session->shard->core->env, &session->keepalive);
    mem_free(session);
}

void core__session_died(struct core_session *session)
{
    if (session->state == SESSION_DEAD) {
        return;
    }
    log_info("client", "session ended", "shard=%llu session=%llu",
             (unsigned long long)session->shard->uid, (unsigned long long)session->id);
    session->state = SESSION_DEAD;
    env_timer_stop(session->shard->core->env, &session->keepalive);
    if (session->shard->session == session) {
        session->shard->session = NULL;
        atomic_store(&session->shard->session_id, 0);
    }
    if (session->live == 0) {
        core__session_free(session);
    }
}

void core__session_drop(struct core_op *op)
{
    struct core_session *session = op->session;
    op->session = NULL;
    assert(session->live > 0);
    session->live--;
    if (op->kind == KIND_SESSION_KEEPALIVE) {
        session->keeping = false;
    }
    if (session->live == 0 && session->state == SESSION_DEAD) {
        core__session_free(session);
    }
}

/* The node answered: no, and it will be no again. Whoever waits for the session learns that. */
static void open_refused(struct core_session *session, int err, const char *text)
{
    struct core_shard *shard = session->shard;
    core__session_died(session);
    struct list refused;
    list_init(&refused);
    list_splice(&refused, &shard->waiting);
    while (!list_empty(&refused)) {
        struct core_op *op = list_entry(refused.next, struct core_op, link);
        list_remove(&op->link);
        core__call_finish(op->call, err, "no session with the shard: %s", text);
    }
}

void core__session_answer(struct core_op *op, const struct msg_result *result, int err,
                          const char *text)
{
    struct core_session *session = op->session;
    struct core_shard *shard = session->shard;
    struct core *core = shard->core;
    switch (op->kind) {
    case KIND_SESSION_OPEN:
        if (err == 0) {
            session->id = result->value;
            session->state = SESSION_OPENED;
            atomic_store(&shard->session_id, session->id);
            core__clock_saw(core, session->id); /* an id is the version at which it was opened */
            core->stats.sessions_opened++;
        } else if (err == ERR_LIMIT || err == ERR_BUSY) {
            /* As many sessions as the shard allows: some will end. */
            core__shard_requeue(op);
            if (shard->leader != NULL) {
                core__shard_bounce(shard, shard->leader, err, 0, 0, text);
            }
            core__shard_pump(shard);
            return;
        } else {
            open_refused(session, err, text);
        }
        break;
    case KIND_SESSION_KEEPALIVE:
        if (err == 0) {
            uint64_t acked = load_u64(op->body + 24);
            session->told = acked > session->told ? acked : session->told;
        } else {
            core__session_died(session);
        }
        break;
    default: /* SESSION_CLOSE: whatever the answer, there's nothing more to do */
        core__session_closed(core);
        break;
    }
    core__op_free(op);
    core__shard_pump(shard);
}

/* Renews the lease only while the node holds results or slots for us; else the session may expire,
 * and the next command opens another. */
static void on_keepalive(struct env_timer *timer)
{
    struct core_session *session = container_of(timer, struct core_session, keepalive);
    struct core_shard *shard = session->shard;
    struct core *core = shard->core;
    uint64_t now = env_now_ns(core->env);
    uint64_t due = session->active_ns + core->opts.lease_ms / 3 * NS_PER_MS;
    if (core->phase != CORE_READY || session->state != SESSION_OPENED ||
        (session->told + 1 >= session->next_seq && !session->leases)) {
        return;
    }
    sdk__lease_pool_rest(shard);
    if (now < due) {
        env_timer_start(core->env, timer, due);
        return;
    }
    env_timer_start_in_ms(core->env, timer, core->opts.lease_ms / 3);
    if (session->keeping) {
        return;
    }
    struct core_op *op = request(session, KIND_SESSION_KEEPALIVE, COMMAND_PREFIX_BYTES);
    if (op == NULL) {
        return;
    }
    session->keeping = true;
    patch(session, op);
    core__shard_pump(shard);
}

int core__session_close(struct core_session *session)
{
    struct core_shard *shard = session->shard;
    struct core_node *node = shard->leader;
    if (session->state != SESSION_OPENED || node == NULL || node->conn == NULL) {
        return ERR_NOCONN;
    }
    struct core_op *op = request(session, KIND_SESSION_CLOSE, COMMAND_PREFIX_BYTES);
    if (op == NULL) {
        return ERR_NOMEM;
    }
    patch(session, op);
    int rv = core__send(node, op);
    if (rv != 0) {
        core__op_free(op);
    }
    return rv;
}
