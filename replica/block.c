#include "replica/block.h"

#include <stdbool.h>

#include "base/assert.h"
#include "base/mem.h"

/* Sizes with what stands in front of the data; larger blocks are as large as was asked for. */
#define CLASS_BYTES_MIN 512u
#define CLASSES         4u
#define KEPT_MAX        64u /* of each */

struct block_pool {
    /* Not linked through the blocks, which nobody has touched for long: the one after the next can
     * be asked for while this one is filled. */
    struct entry_block *kept[CLASSES][KEPT_MAX];
    uint32_t kept_count[CLASSES];
    uint64_t out; /* blocks that are in use */
    bool closed;
};

static size_t class_capacity(unsigned class)
{
    return (CLASS_BYTES_MIN << class) - sizeof(struct entry_block);
}

/* CLASSES: none. */
static unsigned class_of(size_t bytes)
{
    unsigned class = 0;
    while (class < CLASSES && class_capacity(class) < bytes) {
        class ++;
    }
    return class;
}

static void drop_kept(struct block_pool *pool)
{
    for (unsigned i = 0; i < CLASSES; i++) {
        while (pool->kept_count[i] > 0) {
            mem_free(pool->kept[i][--pool->kept_count[i]]);
        }
    }
}

static void release(struct wal_block *block)
{
    struct entry_block *b = container_of(block, struct entry_block, block);
    struct block_pool *pool = b->pool;
    unsigned class = class_of(b->capacity);
    assert(pool->out > 0);
    pool->out--;
    if (pool->closed || class == CLASSES || pool->kept_count[class] == KEPT_MAX) {
        mem_free(b);
    } else {
        pool->kept[class][pool->kept_count[class]++] = b;
    }
    if (pool->closed && pool->out == 0) {
        mem_free(pool);
    }
}

struct block_pool *block_pool_new(void)
{
    return mem_zalloc(sizeof(struct block_pool));
}

void block_pool_close(struct block_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    drop_kept(pool);
    pool->closed = true;
    if (pool->out == 0) {
        mem_free(pool);
    }
}

struct entry_block *block_new(struct block_pool *pool, size_t bytes)
{
    unsigned class = class_of(bytes);
    struct entry_block *b = NULL;
    if (class < CLASSES && pool->kept_count[class] > 0 && !mem_fault_armed()) {
        uint32_t left = --pool->kept_count[class];
        b = pool->kept[class][left];
        if (left > 1) {
            lines_prefetch(pool->kept[class][left - 2], CLASS_BYTES_MIN);
        }
    } else {
        size_t capacity = class == CLASSES ? bytes : class_capacity(class);
        b = mem_alloc(sizeof *b + capacity);
        if (b == NULL) {
            return NULL;
        }
        b->capacity = capacity;
    }
    b->block = (struct wal_block){.refs = 1, .release = release};
    b->pool = pool;
    pool->out++;
    return b;
}
