/* A disk that remembers operations in order and makes a prefix of them durable; a crash drops the
 * rest. */
#include "base/assert.h"
#include "base/mem.h"
#include "cluster.h"

#include <string.h>

static size_t alive;

struct payload {
    struct wal_block block;
    uint8_t bytes[];
};

static void payload_release(struct wal_block *block)
{
    alive--;
    mem_free(block);
}

struct wal_block *block_new(const void *data, size_t len, struct slice *out)
{
    struct payload *p = mem_alloc(sizeof *p + len);
    assert(p != NULL);
    p->block = (struct wal_block){.refs = 1, .release = payload_release};
    memcpy(p->bytes, data, len);
    *out = slice_of(p->bytes, len);
    alive++;
    return &p->block;
}

size_t blocks_alive(void)
{
    return alive;
}

static void ref(const struct wal_entry *e)
{
    if (e->block != NULL) {
        wal_block_ref(e->block);
    }
}

static void unref(const struct wal_entry *e)
{
    if (e->block != NULL) {
        wal_block_unref(e->block);
    }
}

uint64_t log_last(const struct entry_log *log)
{
    return log->prev_index + log->count;
}

struct entry *log_at(const struct entry_log *log, uint64_t index)
{
    if (index <= log->prev_index || index > log_last(log)) {
        return NULL;
    }
    return &log->entries[index - log->prev_index - 1];
}

uint64_t log_term(const struct entry_log *log, uint64_t index)
{
    const struct entry *e = log_at(log, index);
    if (e != NULL) {
        return e->e.term;
    }
    return index == log->prev_index ? log->prev_term : 0;
}

void log_append(struct entry_log *log, const struct wal_entry *e, uint64_t position)
{
    if (log->count == log->capacity) {
        log->capacity = log->capacity == 0 ? 64 : log->capacity * 2;
        log->entries = mem_realloc(log->entries, log->capacity * sizeof *log->entries);
        assert(log->entries != NULL);
    }
    ref(e);
    log->entries[log->count++] = (struct entry){.e = *e, .position = position};
}

void log_truncate(struct entry_log *log, uint64_t index)
{
    assert(index > log->prev_index);
    while (log_last(log) >= index) {
        unref(&log->entries[--log->count].e);
    }
}

void log_trim(struct entry_log *log, uint64_t index)
{
    if (index <= log->prev_index) {
        return;
    }
    assert(index <= log_last(log));
    size_t n = (size_t)(index - log->prev_index);
    log->prev_term = log_term(log, index);
    log->prev_index = index;
    for (size_t i = 0; i < n; i++) {
        unref(&log->entries[i].e);
    }
    memmove(log->entries, log->entries + n, (log->count - n) * sizeof *log->entries);
    log->count -= n;
}

void log_restart(struct entry_log *log, uint64_t prev_index, uint64_t prev_term)
{
    while (log->count > 0) {
        unref(&log->entries[--log->count].e);
    }
    log->prev_index = prev_index;
    log->prev_term = prev_term;
}

void log_copy(struct entry_log *to, const struct entry_log *from)
{
    log_restart(to, from->prev_index, from->prev_term);
    for (size_t i = 0; i < from->count; i++) {
        log_append(to, &from->entries[i].e, from->entries[i].position);
    }
}

void log_close(struct entry_log *log)
{
    log_restart(log, 0, 0);
    mem_free(log->entries);
    memset(log, 0, sizeof *log);
}

void disk_write(struct disk *d, const struct disk_op *op)
{
    if (d->op_count == d->op_capacity) {
        d->op_capacity = d->op_capacity == 0 ? 64 : d->op_capacity * 2;
        d->ops = mem_realloc(d->ops, d->op_capacity * sizeof *d->ops);
        assert(d->ops != NULL);
    }
    ref(&op->entry);
    d->ops[d->op_count++] = *op;
    d->position++;
}

static void apply(struct disk *d, const struct disk_op *op, uint64_t position)
{
    switch (op->kind) {
    case OP_HARD:
        assert(op->term >= d->term);
        d->term = op->term;
        d->vote = op->vote;
        break;
    case OP_TRUNCATE:
        log_truncate(&d->log, op->index);
        break;
    case OP_ENTRY:
        log_append(&d->log, &op->entry, position);
        break;
    case OP_RESTART:
        log_restart(&d->log, op->checkpoint.index, op->checkpoint.term);
        d->checkpoint = op->checkpoint;
        break;
    case OP_CHECKPOINT:
        if (op->checkpoint.index > d->checkpoint.index) {
            d->checkpoint = op->checkpoint;
        }
        if (op->index <= log_last(&d->log)) {
            log_trim(&d->log, op->index);
        }
        break;
    }
}

void disk_sync(struct disk *d, uint64_t position)
{
    assert(position <= d->position);
    size_t n = (size_t)(position - d->durable);
    if (n == 0) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        apply(d, &d->ops[i], d->durable + i + 1);
        unref(&d->ops[i].entry);
    }
    memmove(d->ops, d->ops + n, (d->op_count - n) * sizeof *d->ops);
    d->op_count -= n;
    d->durable = position;
}

void disk_crash(struct disk *d)
{
    for (size_t i = 0; i < d->op_count; i++) {
        unref(&d->ops[i].entry);
    }
    d->op_count = 0;
    d->position = d->durable;
}

void disk_close(struct disk *d)
{
    disk_crash(d);
    log_close(&d->log);
    mem_free(d->ops);
    memset(d, 0, sizeof *d);
}
