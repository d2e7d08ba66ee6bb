/* Memory of a transaction: cut off blocks one after the other, and given back with them. A thousand
 * objects and ranges that all go at once needn't each be the allocator's. */
#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define BLOCK_BYTES_FIRST 4096u
#define BLOCK_BYTES_MAX   (32u << 10)
#define ALIGN             16u

struct tx_block {
    struct tx_block *next;
    size_t bytes;
};
static_assert(sizeof(struct tx_block) % ALIGN == 0, "what follows is aligned");

void sdk__tx_memory_init(struct tx_memory *m, void *room, size_t bytes)
{
    m->at = room;
    m->end = m->at + bytes;
    m->blocks = NULL;
}

static bool block_add(struct tx_memory *m)
{
    size_t bytes = m->blocks == NULL ? BLOCK_BYTES_FIRST : m->blocks->bytes * 2;
    bytes = bytes < BLOCK_BYTES_MAX ? bytes : BLOCK_BYTES_MAX;
    struct tx_block *block = mem_alloc(bytes);
    if (block != NULL) {
        *block = (struct tx_block){.next = m->blocks, .bytes = bytes};
        m->blocks = block;
        m->at = (uint8_t *)(block + 1);
        m->end = (uint8_t *)block + bytes;
    }
    return block != NULL;
}

void *sdk__tx_memory_take(struct tx_memory *m, size_t bytes)
{
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    assert(bytes <= TX_MEMORY_BYTES_MAX);
    if (bytes > (size_t)(m->end - m->at) && !block_add(m)) {
        return NULL;
    }
    uint8_t *out = m->at;
    m->at += bytes;
    return out;
}

void sdk__tx_memory_close(struct tx_memory *m)
{
    while (m->blocks != NULL) {
        struct tx_block *block = m->blocks;
        m->blocks = block->next;
        mem_free(block);
    }
    m->at = m->end = NULL;
}

/* ---- bytes that grow: of sizes that are powers of two, given back to the next ones of their size
 */

static uint32_t class_of(size_t bytes)
{
    return bytes <= TX_BYTES_CLASS_MIN
               ? 0
               : 32 - (uint32_t)__builtin_clz((uint32_t)(bytes - 1) / TX_BYTES_CLASS_MIN);
}

static size_t class_bytes(uint32_t class_number)
{
    return (size_t)TX_BYTES_CLASS_MIN << class_number;
}

static uint8_t *small_take(struct tx_bytes *m, uint32_t class_number)
{
    void **given = m->given[class_number];
    if (given == NULL) {
        return sdk__tx_memory_take(&m->memory, class_bytes(class_number));
    }
    m->given[class_number] = *given;
    return (uint8_t *)given;
}

static bool is_large(const struct buf *b)
{
    return b->capacity > TX_MEMORY_BYTES_MAX;
}

void sdk__tx_bytes_drop(struct tx_bytes *m, struct buf *b)
{
    if (is_large(b)) {
        m->large--;
        buf_close(b);
    } else if (b->data != NULL) {
        void **given = (void **)(void *)b->data;
        uint32_t class_number = class_of(b->capacity);
        *given = m->given[class_number];
        m->given[class_number] = given;
        buf_init(b);
    }
}

int sdk__tx_bytes_reserve(struct tx_bytes *m, struct buf *b, size_t more)
{
    if (more <= b->capacity - b->len || is_large(b)) {
        return buf_reserve(b, more);
    }
    struct buf grown = {.len = 0};
    if (b->len + more > TX_MEMORY_BYTES_MAX) {
        int rv = buf_reserve(&grown, b->len + more);
        if (rv != 0) {
            return rv;
        }
        m->large++;
    } else {
        uint32_t class_number = class_of(b->len + more);
        grown.data = small_take(m, class_number);
        grown.capacity = class_bytes(class_number);
        if (grown.data == NULL) {
            return ERR_NOMEM;
        }
    }
    if (b->len > 0) {
        memcpy(grown.data, b->data, b->len);
    }
    grown.len = b->len;
    sdk__tx_bytes_drop(m, b);
    *b = grown;
    return 0;
}
