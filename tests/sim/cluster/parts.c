#include "sim/cluster/parts.h"

#include <string.h>

#include "base/assert.h"
#include "client/internal.h"

#define SHARD_SHIFT 52
#define PART_HEAD   12u /* uid u64, bytes u32 */

static uint8_t *room(struct buf *b, size_t bytes)
{
    uint8_t *at = buf_extend(b, bytes);
    assert(at != NULL);
    memset(at, 0, bytes);
    return at;
}

uint32_t parts_shard_of(uint64_t ptr)
{
    return (uint32_t)(ptr >> SHARD_SHIFT);
}

void part_begin(struct tx_part *part, uint32_t shard)
{
    buf_clear(&part->bytes);
    part->shard = shard;
    part->items = 0;
    (void)room(&part->bytes, sizeof(struct txn_part_header));
}

void part_item(struct tx_part *part, enum txn_item_kind kind, uint64_t ptr, uint64_t value,
               const void *bytes, uint32_t len)
{
    uint8_t *at = room(&part->bytes, sizeof(struct txn_item) + len);
    at[0] = (uint8_t)kind;
    store_u32(at + 4, len);
    store_u64(at + 8, ptr);
    store_u64(at + 16, value);
    if (len > 0) {
        memcpy(at + sizeof(struct txn_item), bytes, len);
    }
    part->items++;
    store_u32(part->bytes.data + 8, part->items);
}

void part_unchanged(struct tx_part *part, uint64_t ptr, uint64_t at)
{
    size_t place = part->bytes.len;
    part_item(part, TXN_CHECK_OBJECT, ptr, at, NULL, 0);
    part->bytes.data[place + 1] = TXN_NOT_NEWER;
}

void part_close(struct tx_part *part)
{
    buf_close(&part->bytes);
}

int parts_prepare_commit(struct core_call *call, struct core_heap *heap,
                         const struct tx_part *parts, uint32_t count, uint64_t *home)
{
    uint32_t first = 0;
    for (uint32_t i = 1; i < count; i++) {
        uint64_t uid = heap->shards[parts[i].shard]->uid;
        if (parts[i].items > parts[first].items ||
            (parts[i].items == parts[first].items && uid < heap->shards[parts[first].shard]->uid)) {
            first = i;
        }
    }
    *home = heap->shards[parts[first].shard]->uid;
    if (count == 1) {
        return core_prepare_tx_commit_one(call, heap, parts[0].shard,
                                          slice_of(parts[0].bytes.data, parts[0].bytes.len));
    }
    struct buf body = {0};
    for (uint32_t n = 0; n < count; n++) {
        const struct tx_part *p = &parts[n == 0 ? first : n <= first ? n - 1 : n];
        uint8_t *at = room(&body, PART_HEAD + p->bytes.len);
        store_u64(at, heap->shards[p->shard]->uid);
        store_u32(at + 8, (uint32_t)p->bytes.len);
        memcpy(at + PART_HEAD, p->bytes.data, p->bytes.len);
    }
    int rv =
        core_prepare_tx_commit(call, heap, parts[first].shard, 0, slice_of(body.data, body.len));
    buf_close(&body);
    return rv;
}
