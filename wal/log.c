/* One shard's part of the log: its entries' places, what it promised, and the cache. */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "wal/internal.h"

/* ---- the table of logs
 * -------------------------------------------------------------------------------------------- */

static size_t slot_of(const struct wal *wal, uint64_t uid)
{
    return (size_t)(uid * 0x9e3779b97f4a7c15ull >> 32) & (wal->table_size - 1);
}

struct wal_log *wal_log_find(struct wal *wal, uint64_t uid)
{
    struct wal_log *log;

    if (wal->table_size == 0) {
        return NULL;
    }
    log = wal->table[slot_of(wal, uid)];
    while (log != NULL && log->uid != uid) {
        log = log->hash_next;
    }
    return log;
}

static int table_grow(struct wal *wal)
{
    size_t size = wal->table_size == 0 ? 16 : wal->table_size * 2;
    struct wal_log **table;

    if (wal->log_count < wal->table_size) {
        return 0;
    }
    table = mem_zalloc(size * sizeof *table);
    if (table == NULL) {
        return ERR_NOMEM;
    }
    mem_free(wal->table);
    wal->table = table;
    wal->table_size = size;
    list_for_each (it, &wal->logs) {
        struct wal_log *log = list_entry(it, struct wal_log, link);
        size_t slot = slot_of(wal, log->uid);
        log->hash_next = table[slot];
        table[slot] = log;
    }
    return 0;
}

void wal_log_each(struct wal *wal, void (*cb)(void *arg, struct wal_log *log), void *arg)
{
    list_for_each_safe (it, next, &wal->logs) {
        cb(arg, list_entry(it, struct wal_log, link));
    }
}

struct wal_log *wal__log_new(struct wal *wal, uint64_t uid, uint64_t prev_index, uint64_t prev_term)
{
    struct wal_log *log;
    size_t slot;

    if (table_grow(wal) != 0) {
        return NULL;
    }
    log = mem_zalloc(sizeof *log);
    if (log == NULL) {
        return NULL;
    }
    log->wal = wal;
    log->uid = uid;
    log->prev_index = prev_index;
    log->prev_term = prev_term;
    log->first = prev_index + 1;
    log->cached_first = prev_index + 1;
    log->durable_index = prev_index;
    log->applied_index = prev_index;
    list_init(&log->hint_link);
    list_init(&log->release_link);
    list_push_back(&wal->logs, &log->link);
    slot = slot_of(wal, uid);
    log->hash_next = wal->table[slot];
    wal->table[slot] = log;
    wal->log_count++;
    return log;
}

void wal__log_free(struct wal_log *log)
{
    struct wal *wal = log->wal;
    struct wal_log **at = &wal->table[slot_of(wal, log->uid)];

    while (*at != log) {
        at = &(*at)->hash_next;
    }
    *at = log->hash_next;
    wal__items_cut(log, log->first, wal->position);
    list_remove(&log->link);
    list_remove(&log->hint_link);
    list_remove(&log->release_link);
    wal->log_count--;
    mem_free(log->items);
    mem_free(log->gap);
    mem_free(log);
}

/* ---- items
 * --------------------------------------------------------------------------------------------------------
 */

struct wal_item *wal__item(const struct wal_log *log, uint64_t index)
{
    if (index < log->first || index - log->first >= log->count) {
        return NULL;
    }
    return &log->items[(log->head + (index - log->first)) & (log->capacity - 1)];
}

static int items_resize(struct wal_log *log, size_t capacity)
{
    struct wal_item *items = mem_alloc(capacity * sizeof *items);

    if (items == NULL) {
        return ERR_NOMEM;
    }
    for (uint64_t i = 0; i < log->count; i++) {
        items[i] = log->items[(log->head + i) & (log->capacity - 1)];
    }
    mem_free(log->items);
    log->items = items;
    log->capacity = capacity;
    log->head = 0;
    return 0;
}

int wal__items_reserve(struct wal_log *log, size_t more)
{
    size_t need = (size_t)log->count + more;
    size_t capacity = log->capacity == 0 ? 16 : log->capacity;

    if (need <= log->capacity) {
        return 0;
    }
    while (capacity < need) {
        capacity *= 2;
    }
    return items_resize(log, capacity);
}

/* What a release leaves empty is given back: a shard that is idle from then on would keep it. */
static void items_shrink(struct wal_log *log)
{
    if (log->capacity > WAL_ITEMS_KEPT && log->count < log->capacity / 8) {
        (void)items_resize(log, log->capacity / 4); /* without memory it stays as it is */
    }
}

struct wal_item *wal__item_push(struct wal_log *log)
{
    struct wal_item *item;

    assert(log->count < log->capacity);
    item = &log->items[(log->head + log->count) & (log->capacity - 1)];
    memset(item, 0, sizeof *item);
    log->count++;
    return item;
}

static void item_uncache(struct wal *wal, struct wal_item *item)
{
    if (item->block != NULL) {
        wal->cached_bytes -= item->len;
        wal_block_unref(item->block);
        item->block = NULL;
        item->data = NULL;
    }
}

static void item_leave(struct wal_item *item, uint64_t position)
{
    struct wal_segment *s = item->segment;

    if (s == NULL) {
        return;
    }
    assert(s->live > 0);
    s->live--;
    s->live_bytes -= wal__record_bytes(item->len);
    if (position > s->release_at) {
        s->release_at = position;
    }
    item->segment = NULL;
}

void wal__item_place(struct wal_item *item, struct wal_segment *segment, uint32_t offset,
                     uint64_t position)
{
    item_leave(item, position);
    item->segment = segment;
    item->offset = offset;
    segment->live++;
    segment->live_bytes += wal__record_bytes(item->len);
}

void wal__items_cut(struct wal_log *log, uint64_t index, uint64_t position)
{
    assert(index >= log->first);
    while (log->count > 0 && log->first + log->count > index) {
        struct wal_item *item = wal__item(log, log->first + log->count - 1);
        item_uncache(log->wal, item);
        item_leave(item, position);
        log->count--;
    }
    if (log->durable_index >= index) {
        log->durable_index = index - 1;
    }
    if (log->cached_first > index) {
        log->cached_first = index;
    }
}

void wal__items_release(struct wal_log *log, uint64_t index, uint64_t position)
{
    while (log->count > 0 && log->first <= index) {
        struct wal_item *item = wal__item(log, log->first);
        item_uncache(log->wal, item);
        item_leave(item, position);
        log->head = (log->head + 1) & (log->capacity - 1);
        log->count--;
        log->first++;
    }
    if (index > log->prev_index) {
        log->prev_index = index;
    }
    if (log->first <= log->prev_index) {
        log->first = log->prev_index + 1;
    }
    if (log->cached_first < log->first) {
        log->cached_first = log->first;
    }
    items_shrink(log);
}

/* A release that waits for its mark counts already: replay of the mark will do it. */
void wal__restate_of(const struct wal_log *log, struct wal_restate *out)
{
    bool releasing = !list_empty(&log->release_link);

    out->prev_index = releasing ? log->release_index : log->prev_index;
    out->prev_term = releasing ? log->release_term : log->prev_term;
    out->last_index = wal_log_last_index(log);
    out->last_term = wal_log_last_term(log);
    out->term = log->term;
    out->voted_for = log->voted_for;
    out->checkpoint_sequence = log->checkpoint_sequence;
    out->checkpoint_index = log->checkpoint_index;
    out->commit_hint = log->commit_hint;
}

/* ---- reading the state
 * -------------------------------------------------------------------------------------------- */

uint64_t wal_log_uid(const struct wal_log *log)
{
    return log->uid;
}

uint64_t wal_log_prev_index(const struct wal_log *log)
{
    return log->prev_index;
}

uint64_t wal_log_prev_term(const struct wal_log *log)
{
    return log->prev_term;
}

uint64_t wal_log_last_index(const struct wal_log *log)
{
    return log->first + log->count - 1;
}

uint64_t wal_log_last_term(const struct wal_log *log)
{
    if (log->count > 0) {
        return wal__item(log, log->first + log->count - 1)->term;
    }
    return log->gap_last > log->prev_index ? log->gap_last_term : log->prev_term;
}

uint64_t wal_log_term(const struct wal_log *log, uint64_t index)
{
    const struct wal_item *item = wal__item(log, index);

    if (item != NULL) {
        return item->term;
    }
    return index == log->prev_index ? log->prev_term : 0;
}

uint64_t wal_log_durable_index(const struct wal_log *log)
{
    return log->durable_index;
}

void wal_log_hard_state(const struct wal_log *log, uint64_t *term, uint64_t *voted_for)
{
    *term = log->term;
    *voted_for = log->voted_for;
}

void wal_log_checkpoint(const struct wal_log *log, uint64_t *sequence, uint64_t *index)
{
    *sequence = log->checkpoint_sequence;
    *index = log->checkpoint_index;
}

uint64_t wal_log_commit_hint(const struct wal_log *log)
{
    return log->commit_hint;
}

/* ---- changing it
 * --------------------------------------------------------------------------------------------------
 */

static int put(struct wal *wal, const struct wal_record *r, uint64_t *position)
{
    int rv = wal__put(wal, r);

    if (position != NULL) {
        *position = wal->position;
    }
    if (rv == 0) {
        wal__wake(wal);
    }
    return rv;
}

int wal_log_create(struct wal *wal, uint64_t uid, uint64_t prev_index, uint64_t prev_term,
                   struct wal_log **out)
{
    struct wal_record r = {
        .kind = WAL_KIND_CREATE, .uid = uid, .index = prev_index, .term = prev_term};
    struct wal_log *log;
    int rv;

    *out = NULL;
    if (wal->failed != 0) {
        return ERR_IO;
    }
    if (uid == 0 || prev_index >= 1ull << 61) {
        return ERR_INVAL;
    }
    if (wal_log_find(wal, uid) != NULL) {
        return ERR_EXISTS;
    }
    /* Every segment's opening block restates all shards: they may take a quarter of it. */
    if ((wal->log_count + 2) * wal__record_bytes(WAL_RESTATE_BYTES) > wal->segment_bytes / 4) {
        return ERR_LIMIT;
    }
    log = wal__log_new(wal, uid, prev_index, prev_term);
    if (log == NULL) {
        return ERR_NOMEM;
    }
    /* The new log stays out of the list while its record is put: should that close a block which
     * opens a segment, the block doesn't hold the record and must not state the log. */
    list_remove(&log->link);
    wal->log_count--;
    rv = put(wal, &r, NULL);
    list_push_back(&wal->logs, &log->link);
    wal->log_count++;
    if (rv != 0) {
        wal__log_free(log);
        return rv;
    }
    *out = log;
    return 0;
}

int wal_log_drop(struct wal_log *log)
{
    struct wal_record r = {.kind = WAL_KIND_DROP, .uid = log->uid};
    int rv = put(log->wal, &r, NULL);

    if (rv == 0) {
        wal__log_free(log);
    }
    return rv;
}

int wal_log_append(struct wal_log *log, uint64_t first_index, const struct wal_entry *entries,
                   size_t count, uint64_t *position)
{
    struct wal *wal = log->wal;
    int rv = wal->failed != 0 ? ERR_IO : 0;

    if (position != NULL) {
        *position = wal->position;
    }
    assert(first_index == wal_log_last_index(log) + 1);
    if (rv == 0) {
        rv = wal__items_reserve(log, count);
    }
    if (rv == 0) {
        rv = wal__reserve(wal, entries, count);
    }
    if (rv != 0) {
        wal__unreserve(wal);
        return rv;
    }
    for (size_t i = 0; i < count; i++) {
        const struct wal_entry *e = &entries[i];
        struct wal_record r = {.kind = WAL_KIND_ENTRY,
                               .type = e->type,
                               .uid = log->uid,
                               .index = first_index + i,
                               .term = e->term,
                               .data = e->data};
        struct wal_item *item;

        assert(e->block != NULL || e->data.len == 0);
        rv = wal__put(wal, &r);
        assert(rv == 0); /* reserved */
        item = wal__item_push(log);
        item->term = e->term;
        item->type = e->type;
        item->len = (uint32_t)e->data.len;
        item->pending = wal->fill->serial;
        item->block = e->block;
        item->data = e->data.data;
        if (e->block != NULL) {
            wal_block_ref(e->block);
            wal->cached_bytes += item->len;
        }
    }
    wal__unreserve(wal);
    if (position != NULL) {
        *position = wal->position;
    }
    wal__wake(wal);
    return 0;
}

int wal_log_truncate(struct wal_log *log, uint64_t index, uint64_t *position)
{
    struct wal_record r = {.kind = WAL_KIND_TRUNCATE, .uid = log->uid, .index = index};
    uint64_t floor = list_empty(&log->release_link) ? log->prev_index : log->release_index;
    int rv;

    if (position != NULL) {
        *position = log->wal->position;
    }
    if (index <= floor) {
        return ERR_INVAL;
    }
    if (index > wal_log_last_index(log)) {
        return 0;
    }
    rv = put(log->wal, &r, position);
    if (rv == 0) {
        wal__items_cut(log, index, log->wal->position);
    }
    return rv;
}

int wal_log_set_hard_state(struct wal_log *log, uint64_t term, uint64_t voted_for,
                           uint64_t *position)
{
    struct wal_record r = {
        .kind = WAL_KIND_HARD_STATE, .uid = log->uid, .index = voted_for, .term = term};
    int rv = put(log->wal, &r, position);

    if (rv == 0) {
        log->term = term;
        log->voted_for = voted_for;
    }
    return rv;
}

void wal_log_set_commit_hint(struct wal_log *log, uint64_t index)
{
    if (index <= log->commit_hint) {
        return;
    }
    log->commit_hint = index;
    if (list_empty(&log->hint_link)) {
        list_push_back(&log->wal->hints, &log->hint_link);
    }
}

int wal_log_mark_checkpoint(struct wal_log *log, uint64_t sequence, uint64_t index,
                            uint64_t keep_after, uint64_t *position)
{
    uint64_t floor = list_empty(&log->release_link) ? log->prev_index : log->release_index;
    uint64_t floor_term = list_empty(&log->release_link) ? log->prev_term : log->release_term;
    uint64_t keep_term = keep_after <= floor ? floor_term : wal_log_term(log, keep_after);
    uint8_t data[16];
    struct wal_record r = {.kind = WAL_KIND_CHECKPOINT,
                           .uid = log->uid,
                           .index = index,
                           .term = sequence,
                           .data = slice_of(data, sizeof data)};
    int rv;

    if (position != NULL) {
        *position = log->wal->position;
    }
    if (keep_after > index || keep_after > wal_log_last_index(log)) {
        return ERR_INVAL;
    }
    if (keep_after < floor) {
        keep_after = floor;
    }
    store_u64(data, keep_after);
    store_u64(data + 8, keep_term);
    rv = put(log->wal, &r, position);
    if (rv != 0) {
        return rv;
    }
    log->checkpoint_sequence = sequence;
    log->checkpoint_index = index;
    if (keep_after > floor) {
        log->release_index = keep_after;
        log->release_term = keep_term;
        log->release_position = log->wal->position;
        if (list_empty(&log->release_link)) {
            list_push_back(&log->wal->releases, &log->release_link);
        }
    }
    return 0;
}

int wal_log_restart(struct wal_log *log, uint64_t prev_index, uint64_t prev_term,
                    uint64_t *position)
{
    struct wal_record r = {
        .kind = WAL_KIND_RESTART, .uid = log->uid, .index = prev_index, .term = prev_term};
    int rv;

    if (prev_index >= 1ull << 61) {
        return ERR_INVAL;
    }
    rv = put(log->wal, &r, position);
    if (rv != 0) {
        return rv;
    }
    wal__items_cut(log, log->first, log->wal->position);
    list_remove(&log->release_link);
    log->prev_index = prev_index;
    log->prev_term = prev_term;
    log->first = log->cached_first = prev_index + 1;
    log->durable_index = prev_index;
    log->applied_index = prev_index;
    return 0;
}

/* ---- cache and reads
 * ---------------------------------------------------------------------------------------------- */

void wal_log_applied(struct wal_log *log, uint64_t index)
{
    if (index > log->applied_index) {
        log->applied_index = index;
    }
}

/* Takes turns between the logs, a slice of the oldest entries of each, until the limit holds or
 * nothing may go. */
void wal__cache_trim(struct wal *wal)
{
    size_t idle = 0;

    while (wal->cached_bytes > wal->opts.cache_bytes && idle < wal->log_count) {
        struct wal_log *log = list_entry(wal->logs.next, struct wal_log, link);
        uint64_t to =
            log->applied_index < log->durable_index ? log->applied_index : log->durable_index;
        uint64_t freed = 0;

        list_remove(&log->link);
        list_push_back(&wal->logs, &log->link);
        while (log->cached_first <= to && freed < (64u << 10)) {
            struct wal_item *item = wal__item(log, log->cached_first);
            if (item == NULL) {
                break;
            }
            freed += item->len + 1;
            item_uncache(wal, item);
            log->cached_first++;
        }
        idle = freed > 0 ? 0 : idle + 1;
    }
}

/* What was read from a segment at once; entries point into it. */
struct read_block {
    struct wal_block block; /* first */
    uint8_t *bytes;
};

static void read_block_release(struct wal_block *block)
{
    struct read_block *b = container_of(block, struct read_block, block);

    mem_free(b->bytes);
    mem_free(b);
}

static int read_span(struct wal *wal, const struct wal_segment *segment, uint64_t from, uint64_t to,
                     struct read_block **out)
{
    uint64_t start = from & ~(uint64_t)(WAL_ALIGN - 1);
    size_t bytes = wal__round_up((size_t)(to - start), WAL_ALIGN);
    struct read_block *b = mem_zalloc(sizeof *b);
    int64_t n;

    *out = NULL;
    if (b == NULL) {
        return ERR_NOMEM;
    }
    b->bytes = mem_aligned(WAL_ALIGN, bytes);
    if (b->bytes == NULL) {
        mem_free(b);
        return ERR_NOMEM;
    }
    b->block.refs = 1;
    b->block.release = read_block_release;
    n = env_file_pread(wal->env, segment->file, b->bytes, bytes, start);
    if (n < 0 || (uint64_t)n < to - start) {
        wal_block_unref(&b->block);
        return n < 0 ? (int)n : ERR_CORRUPT;
    }
    *out = b;
    return 0;
}

static int read_failed(struct wal *wal, int rv, const struct wal_log *log, uint64_t index)
{
    if (rv != ERR_NOMEM) {
        rv = rv == ERR_CORRUPT ? ERR_CORRUPT : ERR_IO;
        wal__fail(wal, rv, "entry %llu of shard %016llx can't be read back from the log: %s",
                  (unsigned long long)index, (unsigned long long)log->uid, err_text_of(rv));
    }
    return rv;
}

/* Entries from `index` on that stand near each other in one segment, with one read. */
static int read_disk(struct wal_log *log, uint64_t index, struct wal_entry *out, size_t max,
                     size_t bytes_max, size_t *count)
{
    const struct wal_item *item = wal__item(log, index);
    struct wal_segment *segment = item->segment;
    uint64_t from = item->offset;
    uint64_t start = from & ~(uint64_t)(WAL_ALIGN - 1);
    uint64_t to = from + wal__record_bytes(item->len);
    size_t data = item->len;
    size_t n = 1;
    struct read_block *b;
    int rv;

    while (n < max && index + n < log->cached_first) {
        const struct wal_item *more = wal__item(log, index + n);
        uint64_t end;
        if (more == NULL || more->segment != segment || more->offset < to ||
            data + more->len > bytes_max) {
            break;
        }
        end = more->offset + wal__record_bytes(more->len);
        /* Other shards' records in between are read for nothing: no more than twice what is wanted.
         */
        if (end - from > (1u << 20) && end - from > 2 * (data + more->len)) {
            break;
        }
        to = end;
        data += more->len;
        n++;
    }
    assert(segment != NULL); /* only durable entries leave the cache */
    rv = read_span(log->wal, segment, from, to, &b);
    if (rv != 0) {
        return read_failed(log->wal, rv, log, index);
    }
    for (size_t i = 0; i < n; i++) {
        const struct wal_item *it = wal__item(log, index + i);
        struct wal_record r;
        size_t bytes;
        rv = wal__record_unpack(
            slice_of(b->bytes + (it->offset - start), (size_t)(to - it->offset)), &r, &bytes);
        if (rv != 0 || r.kind != WAL_KIND_ENTRY || r.uid != log->uid || r.index != index + i ||
            r.term != it->term || r.data.len != it->len) {
            while (i-- > 0) {
                wal_block_unref(&b->block);
            }
            wal_block_unref(&b->block);
            return read_failed(log->wal, ERR_CORRUPT, log, index);
        }
        out[i].term = r.term;
        out[i].type = r.type;
        out[i].data = r.data;
        out[i].block = &b->block;
        wal_block_ref(&b->block);
    }
    wal_block_unref(&b->block);
    *count = n;
    return 0;
}

int wal_log_read(struct wal_log *log, uint64_t index, struct wal_entry *out, size_t max,
                 size_t bytes_max, size_t *count)
{
    size_t bytes = 0;

    *count = 0;
    if (index <= log->prev_index) {
        return ERR_NOTFOUND;
    }
    if (index > wal_log_last_index(log) || max == 0) {
        return 0;
    }
    if (log->wal->failed == ERR_CORRUPT) {
        return ERR_CORRUPT;
    }
    if (index < log->cached_first) {
        return read_disk(log, index, out, max, bytes_max, count);
    }
    while (*count < max && index <= wal_log_last_index(log)) {
        const struct wal_item *item = wal__item(log, index);
        struct wal_entry *e = &out[*count];
        if (*count > 0 && bytes + item->len > bytes_max) {
            break;
        }
        e->term = item->term;
        e->type = item->type;
        e->data = slice_of(item->data, item->len);
        e->block = item->block;
        if (e->block != NULL) {
            wal_block_ref(e->block);
        }
        bytes += item->len;
        index++;
        (*count)++;
    }
    return 0;
}

void wal_log_ahead(const struct wal_log *log)
{
    lines_prefetch(log, sizeof *log);
}

void wal_tail_ahead(const struct wal_log *log)
{
    if (log->capacity > 0) {
        const struct wal_item *last =
            &log->items[(log->head + log->count - 1) & (log->capacity - 1)];
        const struct wal_item *next = &log->items[(log->head + log->count) & (log->capacity - 1)];
        lines_prefetch(last, 1);
        lines_prefetch(next, sizeof *next);
    }
}

struct slice wal_entry_ahead(const struct wal_log *log, uint64_t index, unsigned step)
{
    const struct wal_item *item = wal__item(log, index);

    if (item == NULL || step == 0) {
        __builtin_prefetch(item);
        return slice_of(NULL, 0);
    }
    if (step == 1 && item->data != NULL) {
        __builtin_prefetch(item->block);
        __builtin_prefetch(item->data);
        __builtin_prefetch(item->data + 64);
    }
    return step < 2 || item->data == NULL ? slice_of(NULL, 0) : slice_of(item->data, item->len);
}

int wal__item_load(struct wal_log *log, uint64_t index, struct wal_block **block,
                   struct slice *data)
{
    struct wal_entry e;
    size_t count;
    int rv = wal_log_read(log, index, &e, 1, 0, &count);

    *block = NULL;
    *data = slice_of(NULL, 0);
    if (rv == 0) {
        assert(count == 1);
        *block = e.block;
        *data = e.data;
    }
    return rv;
}

/* ---- relocation
 * ---------------------------------------------------------------------------------------------------
 */

/* Re-appends an entry where it is; its old place counts until the new copy is durable. */
static int relocate_one(struct wal_log *log, uint64_t index, uint32_t *bytes)
{
    struct wal_item *item = wal__item(log, index);
    struct wal_record r = {.kind = WAL_KIND_ENTRY,
                           .type = item->type,
                           .uid = log->uid,
                           .index = index,
                           .term = item->term};
    struct wal_block *block;
    int rv = wal__item_load(log, index, &block, &r.data);

    *bytes = (uint32_t)wal__record_bytes(item->len);
    if (rv == 0) {
        rv = wal__put(log->wal, &r);
        if (block != NULL) {
            wal_block_unref(block);
        }
    }
    if (rv == 0) {
        item->pending = log->wal->fill->serial;
    }
    return rv;
}

/* The oldest segment is worth emptying when little in it is alive: an idle shard's last entries
 * would otherwise keep every younger segment. Under pressure half a segment is little. */
static bool relocate_wanted(const struct wal *wal, const struct wal_segment *oldest)
{
    uint64_t used = wal->segment_count * wal->segment_bytes;
    uint64_t share = used > wal->opts.disk_bytes_max / 4 * 3 ? 2 : 8;

    return wal->segment_count >= WAL_RELOCATE_SEGMENTS && oldest->live > 0 &&
           oldest->live_bytes <= oldest->header.bytes / share;
}

bool wal__relocate(struct wal *wal)
{
    const struct wal_segment *oldest = list_entry(wal->segments.next, struct wal_segment, link);
    uint64_t done = 0;

    if (wal->failed != 0 || wal->closing || !relocate_wanted(wal, oldest)) {
        return false;
    }
    list_for_each (it, &wal->logs) {
        struct wal_log *log = list_entry(it, struct wal_log, link);
        for (uint64_t i = log->first; i < log->first + log->count; i++) {
            const struct wal_item *item = wal__item(log, i);
            uint32_t bytes;
            if (item->segment != oldest || item->pending != 0) {
                continue;
            }
            if (relocate_one(log, i, &bytes) != 0) {
                return true; /* no memory now; the next step tries again */
            }
            done += bytes;
            if (done >= WAL_RELOCATE_STEP) {
                wal__wake(wal);
                return true;
            }
        }
    }
    if (done > 0) {
        wal__wake(wal);
    }
    return false;
}
