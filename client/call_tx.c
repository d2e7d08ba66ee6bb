/* Requests of transactions are checked and encoded here, on the caller's thread. */
#include <string.h>

#include "client/internal.h"

int core_prepare_lease(struct core_call *call, struct core_shard *shard, uint32_t slots)
{
    int rv = 0;
    struct msg_lease m = {.uid = shard->uid, .count = slots};
    call->shard = shard;
    CORE_PREPARE(call, LEASE, lease, &m, rv);
    return rv;
}

int core_prepare_lease_get(struct core_call *call, struct core_shard *shard, uint64_t lease)
{
    int rv = 0;
    struct msg_lease_get m = {.uid = shard->uid, .lease = lease};
    call->shard = shard;
    CORE_PREPARE(call, LEASE_GET, lease_get, &m, rv);
    return rv;
}

static int check_bytes(struct core_call *call, struct slice bytes)
{
    if (bytes.len > TX_BYTES_MAX) {
        return core__refuse(call, ERR_TOOBIG, "a transaction of %zu bytes; at most %u", bytes.len,
                            TX_BYTES_MAX);
    }
    return 0;
}

int core_prepare_tx_commit_on(struct core_call *call, struct core_shard *shard, struct slice part)
{
    int rv = check_bytes(call, part);
    if (rv == 0) {
        struct msg_tx_commit_one m = {.uid = shard->uid, .part = part};
        call->shard = shard;
        CORE_PREPARE(call, TX_COMMIT_ONE, tx_commit_one, &m, rv);
    }
    return rv;
}

int core_prepare_tx_commit_one(struct core_call *call, struct core_heap *heap, uint32_t shard,
                               struct slice part)
{
    int rv = core__aim_shard(call, heap, shard);
    return rv != 0 ? rv : core_prepare_tx_commit_on(call, call->shard, part);
}

int core_prepare_tx_commit(struct core_call *call, struct core_heap *heap, uint32_t shard,
                           uint64_t deadline, struct slice parts)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        rv = check_bytes(call, parts);
    }
    if (rv == 0) {
        struct msg_tx_commit m = {.uid = call->shard->uid, .deadline = deadline, .parts = parts};
        CORE_PREPARE(call, TX_COMMIT, tx_commit, &m, rv);
    }
    return rv;
}

int core_prepare_tx_validate(struct core_call *call, struct core_heap *heap, uint32_t shard,
                             uint64_t clock, struct slice part)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        rv = check_bytes(call, part);
    }
    if (rv == 0) {
        struct msg_tx_validate m = {.uid = call->shard->uid, .clock = clock, .part = part};
        CORE_PREPARE(call, TX_VALIDATE, tx_validate, &m, rv);
    }
    return rv;
}

int core_prepare_tx_hold(struct core_call *call, struct core_heap *heap, uint32_t shard,
                         uint32_t hold_ms)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_tx_hold m = {.uid = call->shard->uid, .hold_ms = hold_ms};
        CORE_PREPARE(call, TX_HOLD, tx_hold, &m, rv);
    }
    return rv;
}

int core_prepare_tx_close(struct core_call *call, struct core_heap *heap, uint32_t shard,
                          uint64_t at, uint64_t hold, uint32_t keep_ms)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_tx_close m = {
            .uid = call->shard->uid, .at = at, .hold = hold, .keep_ms = keep_ms};
        CORE_PREPARE(call, TX_CLOSE, tx_close, &m, rv);
    }
    return rv;
}

int core_prepare_tx_reserve(struct core_call *call, struct core_heap *heap, uint32_t shard)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct buf body;
        rv = core__op_encode(call, KIND_TX_COMMIT, COMMAND_PREFIX_BYTES + sizeof(uint64_t), &body);
    }
    if (rv == 0) {
        memset(call->op->body, 0, call->op->len); /* it is never sent */
        call->op->reserves = true;
    }
    return rv;
}

int core_prepare_tx_settle(struct core_call *call, struct core *core, uint64_t uid,
                           uint64_t session, uint64_t seq)
{
    (void)core;
    struct msg_tx_settle m = {.uid = uid, .tx_session = session, .tx_seq = seq};
    int rv;
    call->uid = uid;
    CORE_PREPARE(call, TX_SETTLE, tx_settle, &m, rv);
    return rv;
}
