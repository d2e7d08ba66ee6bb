/* How a request gets to the leader of a shard, here or on another node, and its answer back. */
#include "base/assert.h"
#include "base/mem.h"
#include "coord/internal.h"

bool coord__leads(struct shard *shard)
{
    struct shard_info info;
    shard_get_info(shard, &info);
    return info.serving && !info.failed;
}

int coord__route(const struct coord *coord, uint64_t uid, const struct coord_route *route,
                 uint32_t *node)
{
    struct shard *shard = replica_shard(coord->replica, uid);
    struct catalog_shard place;
    if (shard != NULL) {
        struct shard_info info;
        shard_get_info(shard, &info);
        *node = info.failed ? 0 : info.leader_node;
        if (*node != 0) {
            return 0;
        }
    }
    *node = route->hint;
    if (*node != 0) {
        return 0;
    }
    int rv = catalog_members(coord->replica, uid, &place);
    if (rv != 0 || place.count == 0) {
        return rv == ERR_NOTFOUND ? ERR_NOSHARD : ERR_UNAVAILABLE;
    }
    for (uint32_t i = 0; i < place.count; i++) {
        *node = replica_id_node(place.members[(route->next + i) % place.count]);
        if (*node != coord->node) {
            return 0;
        }
    }
    return ERR_UNAVAILABLE;
}

void coord__route_failed(struct coord_route *route, uint32_t leader)
{
    route->hint = leader;
    route->next += leader == 0;
}

struct coord_send *coord__send_new(struct coord *coord, uint32_t names)
{
    struct coord_send *send = mem_zalloc(sizeof *send + names * sizeof send->names[0]);
    if (send != NULL) {
        send->coord = coord;
        send->token = ++coord->token_last;
        list_init(&send->bucket);
        list_init(&send->owner_link);
    }
    return send;
}

void coord__send_free(struct coord_send *send)
{
    list_remove(&send->bucket);
    list_remove(&send->owner_link);
    mem_free(send);
}

static void answered(struct coord_send *send, int err, uint32_t leader,
                     const struct command_result *result)
{
    list_remove(&send->bucket);
    if (send->kind == KIND_TX_FORGET) {
        coord__forget_answered(send, err, result);
    } else {
        coord__tx_answered(send, err, leader, result);
    }
    coord__send_free(send);
}

static void local_done(struct shard_command *command, const struct command_result *result)
{
    struct coord_send *send = container_of(command, struct coord_send, command);
    if (send->coord == NULL) {
        coord__send_free(send);
        return;
    }
    answered(send, result->err, 0, result);
}

static struct coord_send *send_find(const struct coord *coord, uint64_t token)
{
    list_for_each (it, &coord->sends[token % COORD_BUCKETS]) {
        struct coord_send *send = list_entry(it, struct coord_send, bucket);
        if (send->token == token) {
            return send;
        }
    }
    return NULL;
}

void coord_answer(struct coord *coord, uint64_t token, int err, uint32_t leader,
                  const struct command_result *result)
{
    struct coord_send *send = send_find(coord, token);
    if (send != NULL && send->node != coord->node) {
        answered(send, err, leader, result);
    }
}

void coord_peer_lost(struct coord *coord, uint32_t node)
{
    struct list lost;
    list_init(&lost);
    for (uint32_t i = 0; i < COORD_BUCKETS; i++) {
        list_for_each_safe (it, next, &coord->sends[i]) {
            if (list_entry(it, struct coord_send, bucket)->node == node) {
                list_remove(it);
                list_push_back(&lost, it);
            }
        }
    }
    struct command_result none = {.err = ERR_NOCONN};
    while (!list_empty(&lost)) {
        answered(list_entry(lost.next, struct coord_send, bucket), ERR_NOCONN, 0, &none);
    }
}

int coord__send(struct coord *coord, struct coord_send *send, const struct coord_route *route,
                struct slice body)
{
    int rv = coord__route(coord, send->uid, route, &send->node);
    if (rv != 0) {
        return rv;
    }
    if (send->node == coord->node) {
        struct shard *shard = replica_shard(coord->replica, send->uid);
        send->command.cb = local_done;
        rv =
            shard == NULL ? ERR_NOSHARD : shard_propose_tx(shard, send->kind, body, &send->command);
        rv = rv == ERR_NOSHARD ? ERR_UNAVAILABLE : rv; /* the catalogue says what was dropped */
        if (rv == 0 && coord_is_awaited(coord, send->uid)) {
            shard_hurry(shard);
        }
    } else {
        rv = coord->cbs->peer_command(coord->arg, send->node, send->kind, body, send->token);
    }
    if (rv == 0) {
        list_push_back(&coord->sends[send->token % COORD_BUCKETS], &send->bucket);
    }
    return rv;
}
