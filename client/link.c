/* Connections to nodes, and the table of requests in flight. */
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/internal.h"

#define SLOT_NONE UINT32_MAX

/* ---- requests in flight ---- */

static int slots_grow(struct core *core)
{
    uint32_t count = core->slot_count == 0 ? 256 : core->slot_count * 2;
    struct core_slot *slots = mem_realloc(core->slots, (size_t)count * sizeof *slots);
    if (slots == NULL) {
        return ERR_NOMEM;
    }
    for (uint32_t i = core->slot_count; i < count; i++) {
        slots[i] = (struct core_slot){.life = 1, .next_free = i + 1 < count ? i + 1 : SLOT_NONE};
    }
    core->slot_free = core->slot_count;
    core->slots = slots;
    core->slot_count = count;
    return 0;
}

static int slot_take(struct core *core, struct core_op *op)
{
    if (core->slot_count == 0 || core->slot_free == SLOT_NONE) {
        int rv = slots_grow(core);
        if (rv != 0) {
            return rv;
        }
    }
    uint32_t index = core->slot_free;
    struct core_slot *slot = &core->slots[index];
    core->slot_free = slot->next_free;
    slot->op = op;
    op->request = (uint64_t)slot->life << 32 | index;
    return 0;
}

static void slot_give(struct core *core, struct core_op *op)
{
    uint32_t index = (uint32_t)op->request;
    struct core_slot *slot = &core->slots[index];
    assert(slot->op == op);
    slot->op = NULL;
    slot->life++;
    if (slot->life == 0) { /* a request id is never 0 */
        slot->life = 1;
    }
    slot->next_free = core->slot_free;
    core->slot_free = index;
    op->request = 0;
}

static struct core_op *slot_find(struct core *core, uint64_t request)
{
    uint32_t index = (uint32_t)request;
    if (index >= core->slot_count || core->slots[index].life != (uint32_t)(request >> 32)) {
        return NULL;
    }
    return core->slots[index].op;
}

static uint32_t deadline_ms(const struct core_op *op, uint64_t now)
{
    if (op->call == NULL || op->call->deadline_ns <= now) {
        return 0;
    }
    uint64_t ms = (op->call->deadline_ns - now) / 1000000u;
    return ms == 0 ? 1 : ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

int core__send(struct core_node *node, struct core_op *op)
{
    struct core *core = node->core;
    assert(node->conn != NULL);
    assert(op->request == 0);
    int rv = slot_take(core, op);
    if (rv != 0) {
        return rv;
    }
    uint64_t now = env_now_ns(core->env);
    struct frame_header header = {
        .kind = op->kind, .request_id = op->request, .deadline_ms = deadline_ms(op, now)};
    struct slice part = slice_of(op->body, op->len);
    rv = rpc_send(node->conn, &header, &part, 1);
    if (rv != 0) {
        slot_give(core, op);
        return rv;
    }
    list_remove(&op->link);
    list_push_back(&node->inflight, &op->link);
    op->node = node;
    op->sent_ns = now;
    core->stats.sends++;
    core->stats.resends += op->sends > 0;
    op->sends++;
    op->unsettled++;
    if (op->session != NULL) {
        op->session->active_ns = now;
    }
    core__wake(core, now + (ATTEMPT_MS + op->wait_ms) * UINT64_C(1000000));
    return 0;
}

void core__unsend(struct core_op *op)
{
    if (op->request == 0) {
        return;
    }
    slot_give(op->node->core, op);
    list_remove(&op->link);
    op->node = NULL;
}

/* ---- callbacks of connections ---- */

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    struct core_node *node = arg;
    struct core *core = node->core;
    (void)hello;
    if (core->cluster_id != 0 && ok->cluster_id != 0 && ok->cluster_id != core->cluster_id) {
        return err_set(e, ERR_WRONGCLUSTER, "node %s belongs to another cluster", node->address);
    }
    node->conn = conn;
    node->goaway = false;
    node->failed = false;
    if (core->phase == CORE_CONNECTING) {
        core__bootstrap_ready(node);
    } else if (core->phase == CORE_READY) {
        core__shard_node_ready(core, node);
        core__admin_pump(core);
    }
    return 0;
}

static void violation(struct core_node *node, struct rpc_conn *conn, uint16_t kind)
{
    log_error("client", "a node broke the protocol", "node=%s kind=%s", node->address,
              message_name(kind));
    rpc_close(conn, ERR_PROTOCOL);
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body)
{
    struct core_node *node = arg;
    struct core *core = node->core;
    if (header->kind == KIND_GOAWAY) {
        node->goaway = true;
        node->goaway_ns = env_now_ns(core->env);
        log_info("client", "node goes away", "node=%s", node->address);
        return;
    }
    struct core_op *op = slot_find(core, header->request_id);
    if (op == NULL || op->node != node) {
        return; /* given up meanwhile */
    }
    if ((header->kind != KIND_ERROR && header->kind != (uint16_t)message_answer(op->kind)) ||
        message_check(header->kind, body) != 0) {
        violation(node, conn, header->kind);
        return;
    }
    core__unsend(op);
    core__op_answer(op, node, header->kind, body);
}

static void on_drain(void *arg, struct rpc_conn *conn)
{
    struct core_node *node = arg;
    (void)conn;
    if (node->core->phase == CORE_READY) {
        core__shard_node_ready(node->core, node);
    }
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct core_node *node = arg;
    struct core *core = node->core;
    bool was_ready = node->conn != NULL;
    (void)conn;
    node->conn = NULL;
    node->goaway = false;
    if (was_ready) {
        log_info("client", "connection lost", "node=%s reason=%s text=\"%s\"", node->address,
                 err_name(reason), text);
    }
    if (core->phase == CORE_CONNECTING) {
        core__bootstrap_failed(node, reason, text);
    }
    struct list lost;
    list_init(&lost);
    list_splice(&lost, &node->inflight);
    list_for_each_safe (it, next, &lost) {
        struct core_op *op = list_entry(it, struct core_op, link);
        core__unsend(op);
        core__op_lost(op, node, ERR_NOCONN, text);
    }
    if (core->phase == CORE_READY) {
        core__admin_lost(node, text);
        core__shard_node_lost(core, node, reason, text);
    }
}

static const struct rpc_cbs node_cbs = {
    .on_ready = on_ready,
    .on_frame = on_frame,
    .on_drain = on_drain,
    .on_close = on_close,
};

/* ---- nodes ---- */

struct core_node *core__node_new(struct core *core)
{
    struct core_node *node = mem_zalloc(sizeof *node);
    if (node != NULL) {
        node->core = core;
        list_init(&node->inflight);
    }
    return node;
}

void core__node_free(struct core_node *node)
{
    if (node == NULL) {
        return;
    }
    assert(list_empty(&node->inflight));
    if (node->link != NULL) {
        rpc_link_close(node->link);
    }
    mem_free(node);
}

int core__node_open(struct core_node *node)
{
    if (node->link != NULL) {
        return 0;
    }
    return rpc_link_open(node->core->env, node->address, node->number == 0 ? NULL : node->name,
                         RPC_LANE_CLIENT, node->core->self, &node_cbs, node, &node->link);
}

bool core__node_usable(const struct core_node *node)
{
    return node->conn != NULL && !node->goaway;
}
