/* Parts of transactions, encoded from the contract in base/txn_part.h and not by the SDK: two hands
 * on one format. */
#ifndef CAIRN_TESTS_SIM_PARTS_H
#define CAIRN_TESTS_SIM_PARTS_H

#include "base/txn_part.h"
#include "client/core.h"

/* What a transaction wants of one shard. Zeroed before its first use, kept for the next one. */
struct tx_part {
    uint32_t shard, items;
    struct buf bytes;
};

uint32_t parts_shard_of(uint64_t ptr);
void part_begin(struct tx_part *part, uint32_t shard);
void part_item(struct tx_part *part, enum txn_item_kind kind, uint64_t ptr, uint64_t value,
               const void *bytes, uint32_t len);
/* The object must not have changed after `at`. */
void part_unchanged(struct tx_part *part, uint64_t ptr, uint64_t at);
void part_close(struct tx_part *part);
/* One part is a TX_COMMIT_ONE; several, in any order, a TX_COMMIT by way of the one with the most
 * items (of several such: the shard with the smallest uid), whose uid is *home. */
int parts_prepare_commit(struct core_call *call, struct core_heap *heap,
                         const struct tx_part *parts, uint32_t count, uint64_t *home);

#endif
