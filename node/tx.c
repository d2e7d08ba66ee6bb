/* What transactions ask of a node: commits to coordinate, votes and outcomes for coordinators of
 * other nodes, reads beside commands, and what they make reads wait for. */
#include <string.h>

#include "alloc/intent.h"
#include "node/internal.h"

int tx__check_intent(struct request *request, const struct heap *heap, uint64_t ptr,
                     struct slice name, uint64_t at)
{
    return intent_blocks_read(heap, ptr, name, at, &request->by) ? ERR_TX_UNDECIDED : 0;
}

int tx__validate(struct request *request, const struct heap *heap)
{
    struct msg_tx_validate m;
    struct txn_conflict conflict = {0};
    int rv = message_decode_tx_validate(request->body, &m);
    if (rv == 0) {
        rv = txn_part_check(m.part, true);
    }
    if (rv == 0) {
        rv = txn_validate(heap, m.part, &conflict, &request->by);
    }
    if (rv != 0 && rv != ERR_CONFLICT) {
        return rv;
    }
    struct msg_tx_validated out = {.valid = rv == 0,
                                   .clock = heap_clock(heap),
                                   .conflict = conflict.what,
                                   .version = conflict.version};
    buf_clear(&request->node->scratch);
    rv = message_encode_tx_validated(&out, &request->node->scratch);
    if (rv == 0) {
        dispatch__answer(request, KIND_TX_VALIDATED);
    }
    return rv;
}

/* ---- readers of one version on many shards ---- */

/* Nothing is open that another heap takes part in. request->by.seq: the hold, 0 none. */
static void hold_decided(struct coord_wait *wait, int err)
{
    struct request *request = container_of(wait, struct request, wait);
    struct node *node = request->node;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, request->uid);
    if (err != 0 || shard == NULL) {
        dispatch__refuse(request, err != 0 ? err : ERR_NOSHARD);
        return;
    }
    struct msg_tx_held out = {.clock = heap_clock(shard_heap(shard)), .hold = request->by.seq};
    buf_clear(&node->scratch);
    if (request->client != NULL && message_encode_tx_held(&out, &node->scratch) == 0) {
        dispatch__answer(request, KIND_TX_HELD);
    }
    dispatch__end(request);
}

static void hold_wait(struct request *request, int err)
{
    struct node *node = request->node;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, request->uid);
    if (err != 0 || shard == NULL) {
        dispatch__refuse(request, err != 0 ? err : ERR_NOSHARD);
        return;
    }
    request->wait.cb = hold_decided;
    coord_wait_outside(node->coord, shard, &request->wait);
}

static void hold_confirmed(struct shard_read *read, int err)
{
    hold_wait(container_of(read, struct request, read), err);
}

static void hold_reached(struct shard_command *command, const struct command_result *result)
{
    hold_wait(container_of(command, struct request, command), result->err);
}

/* With a hold everything that was accepted before it must be applied, not only committed: it may
 * get a version above those that other shards give meanwhile. */
void tx__hold(struct client *client, const struct frame_header *header, struct slice body)
{
    struct msg_tx_hold m = {0};
    struct shard *shard = NULL;
    int rv = message_decode_tx_hold(body, &m);
    struct request *request = dispatch__begin(client, header, m.uid, &shard);
    if (request == NULL) {
        return;
    }
    if (rv == 0 && m.hold_ms > TX_HOLD_MS_MAX) {
        rv = ERR_INVAL;
    }
    if (rv == 0 && m.hold_ms == 0) {
        request->read.cb = hold_confirmed;
        rv = shard_read_index(shard, &request->read);
    } else if (rv == 0) {
        request->command.cb = hold_reached;
        rv = shard_hold(shard, m.hold_ms, &request->by.seq);
        rv = rv == 0 ? shard_barrier(shard, &request->command) : rv;
    }
    if (rv != 0) {
        dispatch__refuse(request, rv);
    }
}

/* ---- several shards ---- */

static void commit_done(struct shard_command *command, const struct command_result *result)
{
    dispatch__command_done(container_of(command, struct request, command), result);
}

void tx__commit(struct client *client, const struct frame_header *header, struct slice body)
{
    struct shard *shard = NULL;
    struct request *request = dispatch__begin_command(client, header, body, &shard);
    if (request == NULL) {
        return;
    }
    request->command.cb = commit_done;
    int rv = coord_commit(client->node->coord, body, client->owner, &request->command);
    if (rv != 0) {
        dispatch__refuse(request, rv);
    }
}

/* Of TX_PREPARE and TX_REFUSE alike: what comes behind the prefix. */
static struct txn_name name_in(struct slice body)
{
    const uint8_t *at = body.data + COMMAND_PREFIX_BYTES;
    return (struct txn_name){load_u64(at), load_u64(at + 8), load_u64(at + 16)};
}

/* A shard that says it has committed one sees to it that the others do. */
static void vote_done(struct shard_command *command, const struct command_result *result)
{
    struct request *request = container_of(command, struct request, command);
    struct node *node = request->node;
    bool finish = result->err == 0 && result->value == TXN_WAS_COMMITTED;
    struct txn_name name = request->by;
    uint64_t uid = request->uid;
    dispatch__command_done(request, result);
    if (finish && node->coord != NULL) {
        coord_finish(node->coord, uid, &name);
    }
}

void tx__peer_command(struct client *client, const struct frame_header *header, uint16_t kind,
                      struct slice body)
{
    struct shard *shard = NULL;
    struct request *request = dispatch__begin_command(client, header, body, &shard);
    if (request == NULL) {
        return;
    }
    bool vote = kind == KIND_TX_PREPARE || kind == KIND_TX_REFUSE;
    request->command.cb = vote ? vote_done : commit_done;
    int rv = message_check(kind, body);
    if (rv == 0) {
        request->by = vote ? name_in(body) : request->by;
        rv = shard_propose_tx(shard, kind, body, &request->command);
    }
    if (rv == 0 && coord_is_awaited(client->node->coord, request->uid)) {
        shard_hurry(shard);
    }
    if (rv != 0) {
        dispatch__refuse(request, rv);
    }
}
