/* Outgoing links to the other nodes: one for consensus, one for bulk pages (so that pages never
 * delay a heartbeat). */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/internal.h"

#define BULK_TIMEOUT_MS 15000u

/* ---- the raft lane ---- */

static int raft_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                      const struct msg_hello_ok *ok, struct err_text *e)
{
    struct peer *peer = arg;
    struct node *node = peer->node;
    (void)conn;
    (void)hello;
    assert(ok != NULL);
    if (node__check_engine(node, peer->config->name, ok->engine, e) != 0) {
        return ERR_VERSION;
    }
    if (ok->cluster_id != 0 && node->self.cluster_id != 0 &&
        ok->cluster_id != node->self.cluster_id) {
        return err_set(e, ERR_WRONGCLUSTER, "%s belongs to cluster %016llx, this node to %016llx",
                       peer->config->name, (unsigned long long)ok->cluster_id,
                       (unsigned long long)node->self.cluster_id);
    }
    struct roster roster = {0};
    if (ok->roster.len > 0 && roster_decode(ok->roster, &roster) != 0) {
        return err_set(e, ERR_PROTOCOL, "%s sent an invalid roster", peer->config->name);
    }
    /* (Whoever is new would join it, and be refused with its own directory ever after.) */
    int rv = ok->cluster_id == 0
                 ? 0
                 : node__check_roster(node, &roster, ok->cluster_id, peer->config->name, e);
    if (rv == 0) {
        rv = node__check_number(&roster, peer->config->name, peer->config->number, ok->node_uid, e);
    }
    if (rv != 0) {
        return rv;
    }
    if (!peer->known) {
        log_info("node", "peer connected", "peer=%s address=%s", peer->config->name,
                 peer->config->address);
    }
    peer->known = true;
    peer->node_uid = ok->node_uid;
    peer->cluster_id = ok->cluster_id;
    peer->state = ok->node_state;
    peer->roster = roster;
    discover__peer_spoke(node, peer);
    return 0;
}

/* Tokens of coordinators are told from other request ids by this bit. */
#define COMMAND_TOKEN ((uint64_t)1 << 63)

static void command_answered(struct peer *peer, const struct frame_header *header,
                             struct slice body)
{
    struct coord *coord = peer->node->coord;
    uint64_t token = header->request_id & ~COMMAND_TOKEN;
    struct command_result result = {.err = ERR_PROTOCOL};
    uint32_t leader = 0;
    struct msg_result done;
    struct msg_error error;
    if (header->kind == KIND_RESULT && message_decode_result(body, &done) == 0 &&
        done.code < 1000) {
        result = (struct command_result){
            .code = -(int)done.code, .version = done.version, .value = done.value};
    } else if (header->kind == KIND_ERROR && message_decode_error(body, &error) == 0 &&
               error.code > 0 && error.code < 1000) {
        result.err = -(int)error.code;
        leader = error.leader_node;
    }
    if (coord != NULL) {
        coord_answer(coord, token, result.err, leader, &result);
    }
}

static void raft_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                       struct slice body)
{
    struct peer *peer = arg;
    (void)conn;
    if ((header->request_id & COMMAND_TOKEN) != 0) {
        command_answered(peer, header, body);
    } else if (header->kind == KIND_RESULT || header->kind == KIND_ERROR) {
        discover__answer(peer->node, peer, header, body);
    }
}

static void raft_closed(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct peer *peer = arg;
    (void)conn;
    if (peer->node->phase == NODE_RUNNING) {
        log_info("node", "peer disconnected", "peer=%s reason=%s cause=\"%s\"", peer->config->name,
                 err_name(reason), text);
    }
    peer->known = false;
    if (peer->node->coord != NULL) {
        coord_peer_lost(peer->node->coord, peer->config->number);
    }
}

static const struct rpc_cbs raft_cbs = {
    .on_ready = raft_ready, .on_frame = raft_frame, .on_close = raft_closed};

void peers__send(void *arg, uint32_t number, struct slice items)
{
    struct node *node = arg;
    struct peer *peer = node__peer(node, number);
    struct rpc_conn *conn = peer == NULL || peer->raft == NULL ? NULL : rpc_link_conn(peer->raft);
    if (conn == NULL) {
        if (peer != NULL) {
            peer->dropped++;
        }
        return;
    }
    /* PEER_BATCH has one field, so its body is the length and the items as they are: no copy before
     * the socket's. */
    uint8_t length[4];
    store_u32(length, (uint32_t)items.len);
    struct slice parts[2] = {slice_of(length, sizeof length), items};
    struct frame_header header = {.kind = KIND_PEER_BATCH};
    if (rpc_send(conn, &header, parts, 2) != 0) {
        peer->dropped++;
    }
}

void peers__flush(void *arg, uint32_t number)
{
    struct peer *peer = node__peer(arg, number);
    struct rpc_conn *conn = peer == NULL || peer->raft == NULL ? NULL : rpc_link_conn(peer->raft);
    if (conn != NULL) {
        rpc_flush(conn);
    }
}

int peers__command(void *arg, uint32_t number, uint16_t kind, struct slice body, uint64_t token)
{
    struct node *node = arg;
    struct peer *peer = node__peer(node, number);
    struct rpc_conn *conn = peer == NULL || peer->raft == NULL ? NULL : rpc_link_conn(peer->raft);
    if (conn == NULL) {
        return ERR_NOCONN;
    }
    /* PEER_COMMAND: kind, length, and the command as it is. */
    uint8_t head[6];
    store_u16(head, kind);
    store_u32(head + 2, (uint32_t)body.len);
    struct slice parts[2] = {slice_of(head, sizeof head), body};
    struct frame_header header = {.kind = KIND_PEER_COMMAND, .request_id = token | COMMAND_TOKEN};
    return rpc_send(conn, &header, parts, 2) == 0 ? 0 : ERR_BUSY;
}

/* ---- the bulk lane ---- */

static void bulk_finish(struct bulk_wait *wait, int err, uint16_t kind, struct slice body)
{
    struct node *node = wait->peer->node;
    uint64_t token = wait->token;
    list_remove(&wait->link);
    buf_close(&wait->body);
    mem_free(wait);
    if (node->replica != NULL) {
        replica_bulk_answer(node->replica, token, err, kind, body);
    }
}

static void bulk_fail_all(struct peer *peer, int err)
{
    list_for_each_safe (it, next, &peer->bulk_waits) {
        bulk_finish(list_entry(it, struct bulk_wait, link), err, 0, slice_of(NULL, 0));
    }
}

static void bulk_send(struct peer *peer, struct bulk_wait *wait)
{
    struct rpc_conn *conn = rpc_link_conn(peer->bulk);
    if (conn == NULL || wait->sent) {
        return;
    }
    struct frame_header header = {.kind = wait->kind, .request_id = wait->token};
    struct slice body = slice_of(wait->body.data, wait->body.len);
    if (rpc_send(conn, &header, &body, 1) == 0) {
        wait->sent = true;
    }
}

static int bulk_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                      const struct msg_hello_ok *ok, struct err_text *e)
{
    struct peer *peer = arg;
    (void)conn;
    (void)hello;
    if (ok->cluster_id != peer->node->self.cluster_id) {
        return err_set(e, ERR_WRONGCLUSTER, "%s belongs to another cluster", peer->config->name);
    }
    if (node__check_engine(peer->node, peer->config->name, ok->engine, e) != 0) {
        return ERR_VERSION;
    }
    env_defer(peer->node->env, &peer->node->bulk_task);
    return 0;
}

static void bulk_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                       struct slice body)
{
    struct peer *peer = arg;
    (void)conn;
    list_for_each_safe (it, next, &peer->bulk_waits) {
        struct bulk_wait *wait = list_entry(it, struct bulk_wait, link);
        if (wait->token != header->request_id || !wait->sent) {
            continue;
        }
        struct msg_error error;
        if (header->kind != KIND_ERROR) {
            bulk_finish(wait, 0, header->kind, body);
        } else if (message_decode_error(body, &error) == 0 && error.code > 0 && error.code < 1000) {
            bulk_finish(wait, -(int)error.code, 0, slice_of(NULL, 0));
        } else {
            bulk_finish(wait, ERR_PROTOCOL, 0, slice_of(NULL, 0));
        }
        return;
    }
}

static void bulk_closed(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    (void)conn;
    (void)reason;
    (void)text;
    bulk_fail_all(arg, ERR_NOCONN);
}

static const struct rpc_cbs bulk_cbs = {
    .on_ready = bulk_ready, .on_frame = bulk_frame, .on_close = bulk_closed};

/* Sends what waits for a connection, and fails what could not even be queued. */
static void bulk_turn(struct env_task *task)
{
    struct node *node = container_of(task, struct node, bulk_task);
    for (uint32_t i = 0; i < node->peer_count; i++) {
        struct peer *peer = &node->peers[i];
        list_for_each_safe (it, next, &peer->bulk_waits) {
            struct bulk_wait *wait = list_entry(it, struct bulk_wait, link);
            if (wait->err != 0) {
                bulk_finish(wait, wait->err, 0, slice_of(NULL, 0));
            } else if (peer->bulk != NULL) {
                bulk_send(peer, wait);
            }
        }
    }
}

static void bulk_tick(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, bulk_timer);
    uint64_t now = env_now_ns(node->env);
    bool waiting = false;
    for (uint32_t i = 0; i < node->peer_count; i++) {
        list_for_each_safe (it, next, &node->peers[i].bulk_waits) {
            struct bulk_wait *wait = list_entry(it, struct bulk_wait, link);
            if (now >= wait->deadline_ns) {
                bulk_finish(wait, ERR_TIMEOUT, 0, slice_of(NULL, 0));
            } else {
                waiting = true;
            }
        }
    }
    if (waiting) {
        env_timer_start_in_ms(node->env, &node->bulk_timer, 1000);
    }
}

void peers__bulk_request(void *arg, uint32_t number, uint16_t kind, struct slice body,
                         uint64_t token)
{
    struct node *node = arg;
    struct peer *peer = node__peer(node, number);
    struct bulk_wait *wait = mem_zalloc(sizeof *wait);
    if (peer == NULL || wait == NULL) {
        /* Neither can be answered in a later turn; the replica's own timeout takes it from here. */
        log_warn("node", "bulk request dropped", "node=%u cause=%s", number,
                 peer == NULL ? "unknown node" : "memory");
        mem_free(wait);
        return;
    }
    wait->peer = peer;
    wait->token = token;
    wait->kind = kind;
    wait->deadline_ns = env_now_ns(node->env) + BULK_TIMEOUT_MS * 1000000ull;
    list_push_back(&peer->bulk_waits, &wait->link);
    wait->err = buf_append(&wait->body, body.data, body.len);
    if (wait->err == 0 && peer->bulk == NULL) {
        wait->err = rpc_link_open(node->env, peer->config->address, peer->config->name,
                                  RPC_LANE_BULK, &node->self, &bulk_cbs, peer, &peer->bulk);
    }
    env_defer(node->env, &node->bulk_task);
    if (node->bulk_timer.slot == 0) {
        env_timer_start_in_ms(node->env, &node->bulk_timer, 1000);
    }
}

/* ---- all of them ---- */

int peers__open(struct node *node, struct err_text *e)
{
    node->bulk_task.cb = bulk_turn;
    node->bulk_timer.cb = bulk_tick;
    for (uint32_t i = 0; i < node->peer_count; i++) {
        struct peer *peer = &node->peers[i];
        int rv = rpc_link_open(node->env, peer->config->address, peer->config->name, RPC_LANE_RAFT,
                               &node->self, &raft_cbs, peer, &peer->raft);
        if (rv != 0) {
            return err_set(e, rv, "link to %s at %s: %s", peer->config->name, peer->config->address,
                           err_text_of(rv));
        }
    }
    return 0;
}

void peers__close(struct node *node)
{
    env_timer_stop(node->env, &node->bulk_timer);
    for (uint32_t i = 0; i < node->peer_count; i++) {
        struct peer *peer = &node->peers[i];
        if (peer->raft != NULL) {
            rpc_link_close(peer->raft);
            peer->raft = NULL;
        }
        if (peer->bulk != NULL) {
            rpc_link_close(peer->bulk);
            peer->bulk = NULL;
        }
        bulk_fail_all(peer, ERR_SHUTDOWN);
    }
}
