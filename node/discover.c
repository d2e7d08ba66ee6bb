/* A fresh disk finds out whether it founds the cluster, belongs to its founders, or replaces a lost
 * one (E6).
 *
 *   DISCOVERING --all peers fresh, or a member's roster has our uid--> RUNNING (founding)
 *   DISCOVERING --a member's roster hasn't our uid--> JOINING --RESULT of NODE_JOIN--> RUNNING (a
 * new replica id)
 *
 * Why it can't found twice: the roster is computed from the uids of all configured nodes, each
 * durable before it is told; a node whose disk was lost after any other became a member has a uid
 * that no member's roster holds. So every founder computes the same roster, and nobody else is born
 * with it. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "node/internal.h"

#define DISCOVER_AGAIN_MS 300u
#define JOIN_AGAIN_MS     500u

static void become_member(struct node *node, const struct roster *roster, uint64_t cluster_id,
                          uint64_t replica_id, bool founding)
{
    struct identity identity = node->identity;
    struct err_text e = {""};

    assert(identity.state == IDENTITY_FRESH);
    identity.state = IDENTITY_MEMBER;
    identity.roster = *roster;
    identity.cluster_id = cluster_id;
    identity.replica_id = replica_id;
    identity.founding = founding;
    env_timer_stop(node->env, &node->discover_timer);
    int rv = node__open_log(node, false, &e);
    if (rv == 0) {
        rv = identity_store(node->env, node->config.data_dir, &identity, &e);
    }
    if (rv == 0) {
        node->identity = identity;
        rv = node__start(node, &e);
    }
    if (rv != 0) {
        node__fatal(node, rv, e.text);
    }
}

static void send_join(struct node *node)
{
    struct msg_node_join join = {
        .uid = SHARD_META, .node = node->self_config->number, .node_uid = node->self.node_uid};
    struct buf command = {0};
    struct buf frame = {0};

    for (uint32_t tries = 0; tries < node->peer_count; tries++) {
        struct peer *peer = &node->peers[node->join_next++ % node->peer_count];
        struct rpc_conn *conn = peer->raft == NULL ? NULL : rpc_link_conn(peer->raft);
        if (conn == NULL || peer->state != IDENTITY_MEMBER) {
            continue;
        }
        if (message_encode_node_join(&join, &command) == 0) {
            struct msg_peer_command m = {.kind = KIND_NODE_JOIN,
                                         .body = slice_of(command.data, command.len)};
            if (message_encode_peer_command(&m, &frame) == 0) {
                struct frame_header header = {.kind = KIND_PEER_COMMAND, .request_id = 1};
                struct slice body = slice_of(frame.data, frame.len);
                rpc_send(conn, &header, &body, 1);
            }
        }
        break;
    }
    buf_close(&command);
    buf_close(&frame);
}

static void try_to_found(struct node *node)
{
    struct roster roster = {.count = 0};
    for (uint32_t i = 0; i < node->config.node_count; i++) {
        uint32_t number = node->config.nodes[i].number;
        uint64_t uid = node->self.node_uid;
        if (number != node->self_config->number) {
            struct peer *peer = node__peer(node, number);
            if (!peer->known || peer->state != IDENTITY_FRESH || peer->node_uid == 0) {
                return;
            }
            uid = peer->node_uid;
        }
        roster.nodes[roster.count].number = number;
        roster.nodes[roster.count].node_uid = uid;
        roster.count++;
    }
    uint64_t cluster_id = roster_cluster_id(&roster, node->config.cluster);
    log_info("node", "founding the cluster", "cluster=%s id=%016llx nodes=%u", node->config.cluster,
             (unsigned long long)cluster_id, roster.count);
    become_member(node, &roster, cluster_id, replica_id_make(0, node->self_config->number), true);
}

void discover__peer_spoke(struct node *node, struct peer *peer)
{
    if (node->phase != NODE_DISCOVERING) {
        return;
    }
    if (peer->state != IDENTITY_MEMBER || peer->cluster_id == 0) {
        try_to_found(node);
        return;
    }
    if (roster_uid(&peer->roster, node->self_config->number) == node->self.node_uid) {
        log_info("node", "joining the cluster as a founding member", "told_by=%s",
                 peer->config->name);
        become_member(node, &peer->roster, peer->cluster_id,
                      replica_id_make(0, node->self_config->number), true);
        return;
    }
    log_warn(
        "node", "the cluster exists already and this disk is new: rejoining under a new replica id",
        "told_by=%s cluster=%016llx", peer->config->name, (unsigned long long)peer->cluster_id);
    node->phase = NODE_JOINING;
    node->identity.roster = peer->roster; /* in memory; durable with the answer */
    node->identity.cluster_id = peer->cluster_id;
    env_timer_start_in_ms(node->env, &node->discover_timer, 1);
}

void discover__answer(struct node *node, struct peer *peer, const struct frame_header *header,
                      struct slice body)
{
    if (node->phase != NODE_JOINING) {
        return;
    }
    struct msg_result result;
    if (header->kind == KIND_RESULT && message_decode_result(body, &result) == 0 &&
        result.code == 0 && replica_id_node(result.value) == node->self_config->number) {
        struct roster roster = node->identity.roster;
        uint64_t cluster_id = node->identity.cluster_id;
        log_info("node", "rejoined", "told_by=%s replica=%llu", peer->config->name,
                 (unsigned long long)result.value);
        become_member(node, &roster, cluster_id, result.value, false);
        return;
    }
    struct msg_error error;
    if (header->kind == KIND_ERROR && message_decode_error(body, &error) == 0 &&
        error.leader_node != 0) {
        for (uint32_t i = 0; i < node->peer_count; i++) {
            if (node->peers[i].config->number == error.leader_node) {
                node->join_next = i;
                env_timer_start_in_ms(node->env, &node->discover_timer, 20);
            }
        }
    }
}

static void on_timer(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, discover_timer);
    if (node->phase == NODE_JOINING) {
        send_join(node);
        env_timer_start_in_ms(node->env, timer, JOIN_AGAIN_MS);
        return;
    }
    if (node->phase != NODE_DISCOVERING) {
        return;
    }
    /* What a peer said in its hello may be outdated: hang up, so that the link says hello again. */
    for (uint32_t i = 0; i < node->peer_count; i++) {
        struct rpc_conn *conn =
            node->peers[i].raft == NULL ? NULL : rpc_link_conn(node->peers[i].raft);
        if (conn != NULL) {
            rpc_close(conn, ERR_CLOSED);
        }
    }
    env_timer_start_in_ms(node->env, timer,
                          DISCOVER_AGAIN_MS + env_random_u64(node->env) % DISCOVER_AGAIN_MS);
}

void discover__begin(struct node *node)
{
    node->phase = NODE_DISCOVERING;
    node->discover_timer.cb = on_timer;
    log_info("node", "fresh data directory: asking the other nodes whether the cluster exists",
             "peers=%u", node->peer_count);
    if (node->peer_count == 0) {
        try_to_found(node);
        return;
    }
    env_timer_start_in_ms(node->env, &node->discover_timer, DISCOVER_AGAIN_MS);
}
