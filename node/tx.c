/* What transactions ask of a shard beside commands, and what they make reads wait for. */
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
