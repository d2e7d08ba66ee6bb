/* Requests: their memory, and what their answers mean. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/internal.h"

struct core_op *core__op_new(uint16_t kind, size_t len)
{
    struct core_op *op = mem_alloc(sizeof *op + len);
    if (op == NULL) {
        return NULL;
    }
    memset(op, 0, sizeof *op);
    list_init(&op->link);
    list_init(&op->call_link);
    op->kind = kind;
    op->len = len;
    return op;
}

void core__op_free(struct core_op *op)
{
    if (op == NULL) {
        return;
    }
    assert(op->request == 0);
    list_remove(&op->link);
    list_remove(&op->call_link);
    if (op->session != NULL) {
        core__session_drop(op);
    }
    mem_free(op);
}

bool core__op_is_command(const struct core_op *op)
{
    switch (op->kind) {
    case KIND_SESSION_OPEN:
    case KIND_SESSION_KEEPALIVE:
    case KIND_SESSION_CLOSE:
        return false;
    default:
        return message_is_command(op->kind);
    }
}

static bool is_session(const struct core_op *op)
{
    return message_is_command(op->kind) && !core__op_is_command(op);
}

/* Ends the op's call, whose other requests go too. */
static void fail(struct core_op *op, int err, const char *text)
{
    if (op->call != NULL) {
        core__call_finish(op->call, err, "%s", text);
    } else {
        core__op_free(op);
    }
}

/* ---- commands ---- */

static void command_done(struct core_op *op, int err, const char *text)
{
    struct core_call *call = op->call;
    struct core_shard *shard = op->shard;
    core__session_settle(op);
    if (call == NULL) {
        shard->core->stats.in_background--;
        core__op_free(op);
    } else {
        core__call_finish(call, err, "%s", text);
    }
    core__shard_pump(shard);
}

/* The number is settled, and has done nothing: the command is as good as new. */
static void renumber(struct core_op *op)
{
    core__session_settle(op);
    core__session_drop(op);
    op->numbered = false;
    op->sends = 0;
}

/* result: an applied command says so. Of a transaction's home that means "unknown": what it has
 * forgotten may have been a commit (ADR 0007 §5). */
static void command_expired(struct core_op *op, bool result)
{
    struct core_shard *shard = op->shard;
    struct core_session *session = op->session;
    core__session_died(session);
    op->unsettled--;
    bool unknown = result && op->kind == KIND_TX_COMMIT;
    if (result && op->kind == KIND_TX_SETTLE && op->call != NULL) {
        /* Of the transaction's session, or of ours: who asks again has a new one. */
        command_done(op, ERR_SESSION_EXPIRED, err_text_of(ERR_SESSION_EXPIRED));
        return;
    }
    if (op->unsettled > 0 || op->call == NULL || unknown) {
        command_done(op, ERR_INDOUBT,
                     "the session ended while the answer was outstanding: the call may or may not "
                     "have taken effect; read to find out");
        return;
    }
    if (op->named) {
        command_done(op, ERR_TX_ABORTED, "the session ended before the transaction was proposed");
        return;
    }
    renumber(op); /* this was the only time it was sent */
    list_push_back(&shard->waiting, &op->link);
    core__shard_pump(shard);
}

/* Is it a plain command that an undecided transaction has kept from doing anything? */
static bool met_undecided(const struct core_op *op, int code)
{
    return code == ERR_TX_UNDECIDED && op->call != NULL &&
           (op->kind < KIND_TX_COMMIT_ONE || op->kind > KIND_TX_FORGET);
}

static void command_result(struct core_op *op, struct core_node *node, struct slice body)
{
    struct msg_result m;
    int rv = message_decode_result(body, &m);
    assert(rv == 0); /* checked when it came */
    struct core_session *session = op->session;
    core__shard_served(op->shard, node);
    int code = m.code <= INT16_MAX ? -(int)m.code : ERR_PROTOCOL;
    if (code == ERR_SESSION_EXPIRED) {
        command_expired(op, true);
        return;
    }
    op->unsettled = 0;
    uint64_t acked = load_u64(op->body + 24);
    if (acked > session->told) {
        session->told = acked;
    }
    if (met_undecided(op, code)) {
        renumber(op);
        core__shard_park(op);
        return;
    }
    if (code == 0) {
        core__clock_saw(op->shard->core, m.version);
        session->leases = session->leases || op->kind == KIND_LEASE;
    }
    if (op->call != NULL) {
        op->call->value = m.value;
        op->call->version = m.version;
    }
    command_done(op, code, err_text_of(code));
}

/* ---- reads ---- */

static void read_answer(struct core_op *op, struct slice body)
{
    struct core_call *call = op->call;
    struct msg_read_result m;
    int rv = message_decode_read_result(body, &m);
    assert(rv == 0);
    if (m.data.len != op->piece_len) {
        core__call_finish(call, ERR_PROTOCOL, "asked for %u bytes and got %zu", op->piece_len,
                          m.data.len);
        return;
    }
    if (call->read.versioned && m.version != call->read.version) {
        /* Changed between two pieces: begin again, at the newer version. */
        if (++call->read.restarts > READ_RESTARTS_MAX) {
            core__call_finish(call, ERR_BUSY,
                              "the object changed all the time while it was read in pieces");
            return;
        }
        list_for_each_safe (it, next, &call->ops) {
            struct core_op *other = list_entry(it, struct core_op, call_link);
            core__unsend(other);
            core__op_free(other);
        }
        call->read.next = call->read.done = 0;
        call->read.out = 0;
        call->read.versioned = false;
        (void)core__read_pump(call);
        return;
    }
    call->read.versioned = true;
    call->read.version = m.version;
    if (m.data.len > 0) {
        memcpy(call->read.data + op->piece, m.data.data, m.data.len);
    }
    call->read.done += m.data.len;
    call->read.out--;
    if (call->read.done == call->read.len) {
        call->version = m.version;
        core__call_finish(call, 0, "%s", "");
        return;
    }
    core__op_free(op);
    (void)core__read_pump(call);
}

int core__read_pump(struct core_call *call)
{
    struct core_shard *shard = call->shard;
    while (call->read.next < call->read.len && call->read.out < READ_PIECES_MAX) {
        struct core_op *op = core__op_read(call, call->read.next);
        if (op == NULL) {
            core__call_finish(call, ERR_NOMEM, "out of memory for a piece of a large read");
            return ERR_NOMEM;
        }
        op->call = call;
        op->shard = shard;
        list_push_back(&call->ops, &op->call_link);
        list_push_back(&shard->ready, &op->link);
        call->read.next += op->piece_len;
        call->read.out++;
    }
    core__shard_pump(shard);
    return 0;
}

static int shards_decode(struct core_call *call, const struct msg_heap_info *m)
{
    uint32_t count = (uint32_t)(m->shards.len / 12);
    if (m->shards.len % 12 != 0 || count == 0 || count > SHARDS_PER_HEAP_MAX) {
        return ERR_PROTOCOL;
    }
    struct core *core = call->core;
    struct core_heap *heap = mem_zalloc(sizeof *heap + count * sizeof(struct core_shard *));
    if (heap == NULL) {
        return ERR_NOMEM;
    }
    struct cursor c = cursor_of(m->shards);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t uid = cursor_u64(&c);
        heap->shards[i] = core__shard(core, uid, cursor_u32(&c));
        if (heap->shards[i] == NULL) {
            mem_free(heap);
            return ERR_NOMEM;
        }
    }
    heap->core = core;
    heap->id = m->heap_id;
    heap->count = count;
    atomic_init(&heap->next, (uint32_t)env_random_u64(core->env));
    call->opened = heap;
    return 0;
}

static void other_answer(struct core_op *op, struct slice body)
{
    struct core_call *call = op->call;
    int rv = 0;
    assert(call != NULL); /* only of a command does the answer come when nobody waits any more */
    switch (op->kind) {
    case KIND_STAT: {
        struct msg_stat_result m;
        rv = message_decode_stat_result(body, &m);
        call->size = m.size;
        call->version = m.version;
        call->type = m.type;
        call->flags = m.flags;
        break;
    }
    case KIND_ROOT_GET: {
        struct msg_root_result m;
        rv = message_decode_root_result(body, &m);
        call->value = m.ptr;
        call->version = m.version;
        break;
    }
    case KIND_ROOT_LIST: {
        struct msg_root_list_result m;
        rv = message_decode_root_list_result(body, &m);
        call->more = m.more != 0;
        call->version = m.directory;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.entries.data, m.entries.len);
        }
        break;
    }
    case KIND_HISTORY: {
        struct msg_history_result m;
        rv = message_decode_history_result(body, &m);
        call->more = m.more != 0;
        call->version = m.safepoint;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.changes.data, m.changes.len);
        }
        break;
    }
    case KIND_TYPE_LIST: {
        struct msg_type_list_result m;
        rv = message_decode_type_list_result(body, &m);
        call->more = m.more != 0;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.types.data, m.types.len);
        }
        break;
    }
    case KIND_OBJECT_LIST: {
        struct msg_object_list_result m;
        rv = message_decode_object_list_result(body, &m);
        call->value = m.next;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.objects.data, m.objects.len);
        }
        break;
    }
    case KIND_LEASE_GET: {
        struct msg_lease_info m;
        rv = message_decode_lease_info(body, &m);
        call->value = m.session;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.ptrs.data, m.ptrs.len);
        }
        break;
    }
    case KIND_TX_VALIDATE: {
        struct msg_tx_validated m;
        rv = message_decode_tx_validated(body, &m);
        call->value = m.conflict;
        call->version = m.version;
        if (rv == 0 && m.valid == 0) {
            rv = ERR_CONFLICT;
        }
        break;
    }
    case KIND_TX_HOLD: {
        struct msg_tx_held m;
        rv = message_decode_tx_held(body, &m);
        call->version = m.clock;
        call->value = m.hold;
        break;
    }
    case KIND_FETCH: {
        struct msg_fetch_result m;
        rv = message_decode_fetch_result(body, &m);
        call->version = m.at;
        call->value = m.objects.len;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.objects.data, m.objects.len);
        }
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.frontier.data, m.frontier.len);
        }
        break;
    }
    case KIND_WATCH: {
        struct msg_watch_result m;
        rv = message_decode_watch_result(body, &m);
        call->value = m.token;
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.changes.data, m.changes.len);
        }
        break;
    }
    case KIND_HEAP_OPEN: {
        struct msg_heap_info m;
        rv = message_decode_heap_info(body, &m);
        if (rv == 0) {
            rv = shards_decode(call, &m);
        }
        break;
    }
    case KIND_ADMIN: {
        struct msg_admin_result m;
        rv = message_decode_admin_result(body, &m);
        if (rv == 0) {
            rv = buf_append(&call->bytes, m.json.data, m.json.len);
        }
        break;
    }
    default:
        rv = ERR_PROTOCOL;
    }
    core__call_finish(call, rv, "%s", err_text_of(rv));
}

/* ---- errors ---- */

/* Errors that say: this node, or this moment, is the wrong one. The others are the request's own.
 */
static bool try_again(int err)
{
    switch (err) {
    case ERR_BUSY:
    case ERR_NOTLEADER:
    case ERR_UNAVAILABLE:
    case ERR_TIMEOUT:
    case ERR_NOCONN:
    case ERR_NOSHARD:
    case ERR_SHUTDOWN:
    case ERR_DISKFULL:
    case ERR_NOMEM:
    case ERR_IO:
    case ERR_CORRUPT:
    case ERR_CLOSED:
    case ERR_LIMIT:
        return true;
    default:
        return false;
    }
}

/* A node that answers so did not propose the command; with the others, NOTLEADER say, the command
 * may stand in the log already and be applied under the next leader. */
static bool never_proposed(int err)
{
    switch (err) {
    case ERR_BUSY:
    case ERR_NOSHARD:
    case ERR_DISKFULL:
    case ERR_LIMIT:
    case ERR_SESSION_EXPIRED:
        return true;
    default:
        return !try_again(err);
    }
}

static void error_answer(struct core_op *op, struct core_node *node, struct slice body)
{
    struct msg_error m;
    int rv = message_decode_error(body, &m);
    assert(rv == 0);
    int err = m.code > 0 && m.code <= INT16_MAX ? -(int)m.code : ERR_PROTOCOL;
    char text[CORE_TEXT_BYTES];
    int n = (int)(m.text.len < 200 ? m.text.len : 200);
    (void)snprintf(text, sizeof text, "%.*s", n, m.text.len > 0 ? (const char *)m.text.data : "");
    if (text[0] == '\0') {
        (void)snprintf(text, sizeof text, "%s", err_text_of(err));
    }
    if (op->shard == NULL) { /* ADMIN: a question to that very node */
        fail(op, err, text);
        return;
    }
    if (is_session(op) && (!try_again(err) || op->kind == KIND_SESSION_CLOSE)) {
        core__session_answer(op, NULL, err, text);
        return;
    }
    if (core__op_is_command(op) && err == ERR_SESSION_EXPIRED) {
        command_expired(op, false);
        return;
    }
    if (never_proposed(err)) {
        op->unsettled--;
    }
    /* Too many watches: that the others are asked less often would help nobody. */
    bool own_limit = op->kind == KIND_WATCH && err == ERR_LIMIT;
    if (try_again(err) && !own_limit) {
        struct core_shard *shard = op->shard;
        core__shard_requeue(op);
        core__shard_bounce(shard, node, err, m.leader_node, m.retry_after_ms, text);
        core__shard_pump(shard);
        return;
    }
    core__shard_served(op->shard, node);
    if (!core__op_is_command(op)) {
        fail(op, err, text);
    } else if (op->unsettled > 0) {
        command_done(op, ERR_INDOUBT, text);
    } else {
        command_done(op, err, text);
    }
}

void core__op_answer(struct core_op *op, struct core_node *node, uint16_t kind, struct slice body)
{
    if (op->kind == KIND_CLUSTER) {
        core__bootstrap_answer(node, op, kind, body);
        return;
    }
    if (op->call == NULL && !message_is_command(op->kind)) {
        core__op_free(op);
        return;
    }
    if (kind == KIND_ERROR) {
        error_answer(op, node, body);
        return;
    }
    if (core__op_is_command(op)) {
        command_result(op, node, body);
        return;
    }
    if (op->shard != NULL) {
        core__shard_served(op->shard, node);
    }
    if (is_session(op)) {
        struct msg_result m;
        int rv = message_decode_result(body, &m);
        assert(rv == 0);
        int code = m.code <= INT16_MAX ? -(int)m.code : ERR_PROTOCOL;
        core__session_answer(op, &m, code, err_text_of(code));
    } else if (op->kind == KIND_READ) {
        read_answer(op, body);
    } else {
        other_answer(op, body);
    }
}

void core__op_lost(struct core_op *op, struct core_node *node, int reason, const char *text)
{
    if (op->shard == NULL) {
        if (op->kind == KIND_CLUSTER) {
            core__op_free(op); /* the endpoint's failure is dealt with */
        } else {
            /* Whether an operator's verb may be repeated isn't known here. */
            fail(op, ERR_UNAVAILABLE, "the connection was lost before the answer came");
        }
        return;
    }
    if (op->kind == KIND_SESSION_CLOSE) {
        core__session_answer(op, NULL, reason, text);
        return;
    }
    struct core_shard *shard = op->shard;
    core__shard_requeue(op);
    core__shard_bounce(shard, node, reason, 0, 0, text);
}
