/* Memory of entries: what leaders write commands into and followers receive them in. Most blocks
 * are small and live until the log forgets them, so what is given back is kept, a few of each size,
 * and given out again, the newest first. thread: one. */
#ifndef CAIRN_REPLICA_BLOCK_H
#define CAIRN_REPLICA_BLOCK_H

#include "wal/wal.h"

struct block_pool;

struct entry_block {
    struct wal_block block; /* first */
    struct block_pool *pool;
    size_t capacity;
    uint8_t data[];
};

struct block_pool *block_pool_new(void); /* NULL: no memory */
/* Blocks may outlive it. NULL is allowed. */
void block_pool_close(struct block_pool *pool);
/* A block with room for `bytes` bytes at least and one reference; NULL: no memory. */
struct entry_block *block_new(struct block_pool *pool, size_t bytes);

#endif
