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
    if (rv != 0) {
        dispatch__refuse(request, rv);
    }
}
