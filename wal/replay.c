/* From blocks to state, and the new segment that every life begins with. */
#include <inttypes.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "wal/internal.h"

struct replay {
    struct wal *wal;
    const struct wal_scan *scan;
    struct wal_segment **segments; /* by number in the scan */
};

/* Where an entry's record stands. */
struct place {
    struct wal_segment *segment;
    uint32_t offset;
};

static void item_set(struct wal_item *item, const struct wal_record *r, const struct place *at)
{
    memset(item, 0, sizeof *item);
    item->term = r->term;
    item->type = r->type;
    item->len = (uint32_t)r->data.len;
    item->segment = at->segment; /* counted as live when all is read */
    item->offset = at->offset;
}

/* During replay segments count nothing yet, so cutting must not either. */
static void cut(struct wal_log *log, uint64_t index)
{
    if (index <= log->gap_last) {
        size_t kept = 0;
        for (size_t i = 0; i < log->gap_count; i++) {
            if (log->gap[i].index < index) {
                log->gap[kept++] = log->gap[i];
            }
        }
        log->gap_count = kept;
        log->gap_last = index - 1;
        log->gap_last_term = 0;
        log->first = index;
        log->count = 0;
    } else if (index < log->first + log->count) {
        log->count = index - log->first;
    }
}

static void reset(struct wal_log *log, uint64_t prev_index, uint64_t prev_term)
{
    log->prev_index = prev_index;
    log->prev_term = prev_term;
    log->first = prev_index + 1;
    log->count = 0;
    log->gap_last = prev_index;
    log->gap_count = 0;
}

static void release(struct wal_log *log, uint64_t index, uint64_t term)
{
    if (index <= log->prev_index) {
        return;
    }
    while (log->count > 0 && log->first <= index) {
        log->head = (log->head + 1) & (log->capacity - 1);
        log->first++;
        log->count--;
    }
    log->prev_index = index;
    log->prev_term = term;
    if (log->gap_last < index) {
        log->gap_last = index;
        log->gap_count = 0;
    }
    if (log->first <= index) {
        log->first = index + 1;
    }
}

static int gap_add(struct wal_log *log, const struct wal_record *r, const struct place *at)
{
    struct wal_gap_item *g;

    if (log->gap_count == log->gap_capacity) {
        size_t capacity = log->gap_capacity == 0 ? 16 : log->gap_capacity * 2;
        g = mem_realloc(log->gap, capacity * sizeof *g);
        if (g == NULL) {
            return ERR_NOMEM;
        }
        log->gap = g;
        log->gap_capacity = capacity;
    }
    g = &log->gap[log->gap_count++];
    g->index = r->index;
    item_set(&g->item, r, at);
    if (r->index == log->gap_last) {
        log->gap_last_term = r->term;
    }
    return 0;
}

static int replay_entry(struct wal_log *log, const struct wal_record *r, const struct place *at)
{
    struct wal_item *item;
    uint64_t last = wal_log_last_index(log);
    int rv;

    if (r->index <= log->prev_index) {
        return 0;
    }
    if (r->index > last + 1) {
        return ERR_CORRUPT;
    }
    if (r->index <= log->gap_last) {
        return gap_add(log, r, at);
    }
    item = wal__item(log, r->index);
    if (item != NULL && item->term == r->term) {
        item_set(item, r, at);
        return 0;
    }
    cut(log, r->index);
    rv = wal__items_reserve(log, 1);
    if (rv == 0) {
        item_set(wal__item_push(log), r, at);
    }
    return rv;
}

static int replay_checkpoint(struct wal_log *log, const struct wal_record *r)
{
    uint64_t keep_after;

    if (r->data.len != 16) {
        return ERR_CORRUPT;
    }
    keep_after = load_u64(r->data.data);
    if (keep_after > wal_log_last_index(log)) {
        return ERR_CORRUPT;
    }
    log->checkpoint_sequence = r->term;
    log->checkpoint_index = r->index;
    release(log, keep_after, load_u64(r->data.data + 8));
    return 0;
}

static int replay_record(struct replay *p, const struct wal_record *r, const struct place *at)
{
    struct wal_log *log = wal_log_find(p->wal, r->uid);

    switch (r->kind) {
    case WAL_KIND_MARK:
    case WAL_KIND_OPENING:
    case WAL_KIND_RESTATE:
        return 0;
    case WAL_KIND_CREATE:
        if (log != NULL || r->uid == 0 || r->index >= 1ull << 61) {
            return ERR_CORRUPT;
        }
        log = wal__log_new(p->wal, r->uid, r->index, r->term);
        if (log == NULL) {
            return ERR_NOMEM;
        }
        log->gap_last = r->index;
        return 0;
    default:
        break;
    }
    if (log == NULL) {
        return ERR_CORRUPT;
    }
    switch (r->kind) {
    case WAL_KIND_ENTRY:
        return replay_entry(log, r, at);
    case WAL_KIND_TRUNCATE:
        if (r->index <= log->prev_index) {
            return ERR_CORRUPT;
        }
        cut(log, r->index);
        return 0;
    case WAL_KIND_HARD_STATE:
        log->term = r->term;
        log->voted_for = r->index;
        return 0;
    case WAL_KIND_CHECKPOINT:
        return replay_checkpoint(log, r);
    case WAL_KIND_RESTART:
        if (r->index >= 1ull << 61) {
            return ERR_CORRUPT;
        }
        reset(log, r->index, r->term);
        return 0;
    case WAL_KIND_DROP:
        log->count = 0;
        wal__log_free(log);
        return 0;
    case WAL_KIND_COMMIT:
        if (r->index > log->commit_hint) {
            log->commit_hint = r->index;
        }
        return 0;
    default:
        return ERR_CORRUPT;
    }
}

static void restate_set(struct wal_log *log, const struct wal_restate *s)
{
    log->term = s->term;
    log->voted_for = s->voted_for;
    log->checkpoint_sequence = s->checkpoint_sequence;
    log->checkpoint_index = s->checkpoint_index;
    log->commit_hint = s->commit_hint;
}

/* The log begins here: a RESTATE is all that is known, and its entries' places are still to come.
 */
static int restate_adopt(struct wal *wal, const struct wal_record *r)
{
    struct wal_restate s;
    struct wal_log *log;
    int rv = wal__restate_unpack(r->data, &s);

    if (rv != 0 || r->uid == 0 || wal_log_find(wal, r->uid) != NULL) {
        return ERR_CORRUPT;
    }
    log = wal__log_new(wal, r->uid, s.prev_index, s.prev_term);
    if (log == NULL) {
        return ERR_NOMEM;
    }
    log->gap_last = s.last_index;
    log->gap_last_term = s.last_term;
    log->first = s.last_index + 1;
    restate_set(log, &s);
    return 0;
}

/* A recovery cut the log at S and wrote what it had read behind S into its opening block: entries
 * as such, everything else as the state it led to. Entries that are missing now follow in this
 * block. */
static int restate_replace(struct wal *wal, const struct wal_record *r)
{
    struct wal_log *log = wal_log_find(wal, r->uid);
    struct wal_restate s;

    if (wal__restate_unpack(r->data, &s) != 0 || r->uid == 0) {
        return ERR_CORRUPT;
    }
    if (log == NULL) {
        log = wal__log_new(wal, r->uid, s.prev_index, s.prev_term);
        if (log == NULL) {
            return ERR_NOMEM;
        }
        log->gap_last = s.prev_index;
    } else if (s.prev_index < log->prev_index) {
        reset(log, s.prev_index, s.prev_term);
    } else {
        release(log, s.prev_index, s.prev_term);
        log->prev_term = s.prev_term;
        cut(log, s.last_index + 1);
    }
    restate_set(log, &s);
    log->restated = true;
    return 0;
}

/* The log goes on here: what replay has found must be what the writer knew. */
static int restate_compare(struct wal *wal, const struct wal_record *r)
{
    struct wal_log *log = wal_log_find(wal, r->uid);
    struct wal_restate said, found;
    int rv = wal__restate_unpack(r->data, &said);

    if (rv != 0 || log == NULL) {
        return ERR_CORRUPT;
    }
    wal__restate_of(log, &found);
    if (found.last_term == 0 && log->gap_last == said.last_index) {
        found.last_term = said.last_term; /* of an entry whose place is still to come */
        log->gap_last_term = said.last_term;
    }
    if (found.commit_hint < said.commit_hint) {
        log->commit_hint = said.commit_hint; /* hints may wait for room in a block */
    }
    found.commit_hint = said.commit_hint;
    return memcmp(&said, &found, sizeof said) == 0 ? 0 : ERR_CORRUPT;
}

typedef int (*record_cb)(struct replay *p, const struct wal_record *r, const struct place *at);

static int each_record(struct replay *p, struct slice records, const struct place *start,
                       record_cb cb)
{
    struct place at = *start;

    while (records.len > 0) {
        struct wal_record r;
        size_t bytes;
        int rv = wal__record_unpack(records, &r, &bytes);
        if (rv == 0) {
            rv = cb(p, &r, &at);
        }
        if (rv != 0) {
            return rv;
        }
        records.data += bytes;
        records.len -= bytes;
        at.offset += (uint32_t)bytes;
    }
    return 0;
}

static int adopt_cb(struct replay *p, const struct wal_record *r, const struct place *at)
{
    (void)at;
    return r->kind == WAL_KIND_RESTATE ? restate_adopt(p->wal, r) : 0;
}

static int replace_cb(struct replay *p, const struct wal_record *r, const struct place *at)
{
    (void)at;
    return r->kind == WAL_KIND_RESTATE ? restate_replace(p->wal, r) : 0;
}

static int replay_recovery(struct replay *p, struct slice records, const struct place *at)
{
    int rv;

    list_for_each (it, &p->wal->logs) {
        list_entry(it, struct wal_log, link)->restated = false;
    }
    rv = each_record(p, records, at, replace_cb);
    list_for_each_safe (it2, next, &p->wal->logs) {
        struct wal_log *log = list_entry(it2, struct wal_log, link);
        if (rv == 0 && !log->restated) { /* dropped behind S */
            log->count = 0;
            wal__log_free(log);
        }
    }
    return rv == 0 ? each_record(p, records, at, replay_record) : rv;
}

/* The block's own records lead to the state that its RESTATEs give. Only the entries among them
 * that are alive at its end matter, and of several with one index the last one is it. */
static int place_cb(struct replay *p, const struct wal_record *r, const struct place *at)
{
    struct wal_log *log;

    if (r->kind != WAL_KIND_ENTRY) {
        return 0;
    }
    log = wal_log_find(p->wal, r->uid);
    if (log == NULL || r->index <= log->prev_index || r->index > log->gap_last) {
        return 0;
    }
    return gap_add(log, r, at);
}

static int compare_cb(struct replay *p, const struct wal_record *r, const struct place *at)
{
    (void)at;
    if (r->kind == WAL_KIND_OPENING) {
        return r->term == p->wal->log_count ? 0 : ERR_CORRUPT;
    }
    return r->kind == WAL_KIND_RESTATE ? restate_compare(p->wal, r) : 0;
}

static int on_block(void *arg, const struct wal_scan *scan, size_t segment, uint64_t offset,
                    const struct wal_block_head *head, struct slice records)
{
    struct replay *p = arg;
    bool opening = (head->flags & WAL_BLOCK_FLAG_OPENING) != 0;
    struct place at = {p->segments[segment], (uint32_t)offset + WAL_BLOCK_HEAD_BYTES};
    int rv;

    (void)scan;
    if (opening != (offset == WAL_HEADER_BYTES)) {
        return ERR_CORRUPT;
    }
    if (opening && segment == 0) {
        rv = each_record(p, records, &at, adopt_cb);
        if (rv == 0) {
            rv = each_record(p, records, &at, place_cb);
        }
    } else if (opening && (head->flags & WAL_BLOCK_FLAG_RECOVERY) != 0) {
        rv = replay_recovery(p, records, &at);
    } else {
        rv = each_record(p, records, &at, replay_record);
    }
    if (rv == 0 && opening) {
        rv = each_record(p, records, &at, compare_cb);
    }
    return rv;
}

/* Puts the gap's places in front of the items: every index must have one by now. */
static int gap_close(struct wal_log *log)
{
    uint64_t missing = log->gap_last > log->prev_index ? log->gap_last - log->prev_index : 0;
    struct wal_item *items;
    size_t capacity = 16;

    if (missing > log->gap_count) {
        return ERR_CORRUPT;
    }
    if (missing > 0) {
        while (capacity < missing + log->count) {
            capacity *= 2;
        }
        items = mem_zalloc(capacity * sizeof *items);
        if (items == NULL) {
            return ERR_NOMEM;
        }
        for (uint64_t i = 0; i < log->count; i++) {
            items[missing + i] = log->items[(log->head + i) & (log->capacity - 1)];
        }
        mem_free(log->items);
        log->items = items;
        log->capacity = capacity;
        log->head = 0;
        log->first = log->prev_index + 1;
        log->count += missing;
        for (size_t i = 0; i < log->gap_count; i++) {
            if (log->gap[i].index >= log->first) {
                items[log->gap[i].index - log->first] = log->gap[i].item;
            }
        }
    }
    mem_free(log->gap);
    log->gap = NULL;
    log->gap_count = log->gap_capacity = 0;
    log->gap_last = 0;
    assert(log->first == log->prev_index + 1);
    for (uint64_t i = 0; i < log->count; i++) {
        if (wal__item(log, log->first + i)->segment == NULL) {
            return ERR_CORRUPT;
        }
    }
    return 0;
}

static int finish(struct wal *wal, struct err_text *e)
{
    list_for_each (it, &wal->logs) {
        struct wal_log *log = list_entry(it, struct wal_log, link);
        int rv = gap_close(log);
        if (rv == ERR_CORRUPT) {
            err_set(e, rv,
                    "entries of shard %016" PRIx64
                    " are missing in %s: a segment of the log is gone",
                    log->uid, wal->dir);
        }
        if (rv != 0) {
            return rv;
        }
    }
    list_for_each (it, &wal->logs) {
        struct wal_log *log = list_entry(it, struct wal_log, link);
        for (uint64_t i = log->first; i < log->first + log->count; i++) {
            struct wal_item *item = wal__item(log, i);
            struct wal_segment *s = item->segment;
            item->segment = NULL;
            wal__item_place(item, s, item->offset, 0);
        }
        log->durable_index = log->first + log->count - 1;
        log->cached_first = log->first + log->count;
        log->applied_index = log->prev_index;
    }
    return 0;
}

int wal__replay(struct wal *wal, struct wal_scan *scan, struct err_text *e)
{
    struct replay p = {.wal = wal, .scan = scan};
    int rv = 0;

    p.segments = mem_zalloc((scan->count + 1) * sizeof(struct wal_segment *));
    if (p.segments == NULL) {
        return ERR_NOMEM;
    }
    for (size_t i = 0; rv == 0 && i < scan->count; i++) {
        char path[WAL_PATH_BYTES];
        struct env_file *file;
        struct wal_segment *s;

        wal__segment_path(wal->dir, scan->segments[i].header.sequence, path);
        rv = env_file_open(wal->env, path, ENV_OPEN_READ, &file);
        if (rv != 0) {
            err_set(e, rv, "can't open %s: %s", path, err_why(rv));
            break;
        }
        s = wal__segment_new(wal, &scan->segments[i].header, file);
        if (s == NULL) {
            env_file_close(wal->env, file);
            rv = ERR_NOMEM;
            break;
        }
        s->opened = true;
        list_push_back(&wal->segments, &s->link);
        wal->segment_count++;
        p.segments[i] = s;
    }
    if (rv == 0) {
        rv = wal__scan_blocks(scan, on_block, &p, e);
    }
    mem_free(p.segments);
    if (rv == 0) {
        rv = finish(wal, e);
    }
    /* What a failed replay leaves behind isn't counted in segments: forget it without accounts. */
    if (rv != 0) {
        list_for_each (it, &wal->logs) {
            struct wal_log *log = list_entry(it, struct wal_log, link);
            log->count = 0;
        }
    }
    return rv;
}

/* ---- the new segment
 * ---------------------------------------------------------------------------------------------- */

/* Entries at or above S came out of the page cache and may not be on the disk: they are written
 * again, in the opening block itself, so that the new segment counts from the moment at which all
 * of it is there and not before. */
static bool must_repeat(const struct wal_scan *scan, const struct wal_item *item)
{
    return item->segment->header.base + item->offset >= scan->synced_to;
}

static size_t repeat_bytes(const struct wal *wal, const struct wal_scan *scan)
{
    size_t bytes = 0;

    list_for_each (it, &wal->logs) {
        const struct wal_log *log = list_entry(it, struct wal_log, link);
        for (uint64_t i = log->first + log->count; i > log->first; i--) {
            const struct wal_item *item = wal__item(log, i - 1);
            bytes += must_repeat(scan, item) ? wal__record_bytes(item->len) : 0;
        }
    }
    return bytes;
}

static int repeat(struct wal *wal, struct wal_scan *scan, struct wal_buffer *b)
{
    list_for_each (it, &wal->logs) {
        struct wal_log *log = list_entry(it, struct wal_log, link);
        for (uint64_t i = log->first; i < log->first + log->count; i++) {
            struct wal_item *item = wal__item(log, i);
            struct wal_record r;
            size_t bytes;
            if (!must_repeat(scan, item)) {
                continue;
            }
            assert(scan->image_valid);
            if (item->segment->header.sequence != scan->segments[scan->image_of].header.sequence ||
                item->offset >= scan->image_bytes ||
                wal__record_unpack(
                    slice_of(scan->image + item->offset, scan->image_bytes - item->offset), &r,
                    &bytes) != 0) {
                return ERR_CORRUPT;
            }
            wal__buffer_add(b, &r);
            item->pending = b->serial;
        }
    }
    return 0;
}

static size_t begin_seal(struct wal *wal, const struct wal_header *header, struct wal_buffer *b)
{
    struct wal_block_head head = {
        .bytes = (uint32_t)b->used,
        .records = b->records,
        .synced_to = wal->synced_to,
        .position = wal->position,
        .position_end = wal->position,
        .flags = WAL_BLOCK_FLAG_OPENING | WAL_BLOCK_FLAG_RECOVERY,
    };

    b->offset = WAL_HEADER_BYTES;
    return wal__block_seal(b->data, &head, header, b->offset);
}

/* What the new segment is to the last one.
 *
 * Usually its successor, which states that the last one is valid up to S: not up to where it was
 * readable, as what stands between may be in the page cache only, and its loss by a power cut
 * tomorrow is no damage. But if the last one's opening block itself stands above S, nothing in it
 * can be relied on; all of it is repeated, and the new file takes its sequence and, by the rename,
 * its place. */
static uint64_t begin_header(const struct wal *wal, const struct wal_scan *scan,
                             struct wal_header *header, bool *replaces)
{
    const struct wal_found *last = scan->count > 0 ? &scan->segments[scan->count - 1] : NULL;

    memset(header, 0, sizeof *header);
    header->sequence = 1;
    header->bytes = wal->segment_bytes;
    header->node_uid = wal->opts.node_uid;
    header->salt = env_random_u64(wal->env);
    *replaces = false;
    if (last == NULL) {
        return 0;
    }
    if (scan->synced_to <= last->header.base + WAL_HEADER_BYTES) {
        *replaces = true;
        header->sequence = last->header.sequence;
        header->base = last->header.base;
        return last->prev_valid;
    }
    header->sequence = last->header.sequence + 1;
    header->base = last->header.base + last->header.bytes;
    return scan->synced_to - last->header.base;
}

int wal__begin_plan(struct wal *wal, struct wal_scan *scan, struct err_text *e)
{
    struct wal_begin *begin = &wal->begin;
    struct wal_buffer *b;
    int rv;

    uint64_t prev_valid = begin_header(wal, scan, &begin->header, &begin->replaces);
    wal->position = wal->durable_position = wal->notified_position = scan->position;
    wal->synced_to = scan->synced_to;
    rv = wal__opening_make(wal, prev_valid, NULL, repeat_bytes(wal, scan), &b);
    if (rv != 0) {
        return rv;
    }
    begin->buffer = b;
    b->serial = wal->serial = 1;
    rv = repeat(wal, scan, b);
    if (rv != 0) {
        return rv;
    }
    begin->padded = wal__round_up(b->used, WAL_ALIGN);
    if (WAL_HEADER_BYTES + begin->padded > wal->segment_bytes) {
        return err_set(e, ERR_CONFIG,
                       "log segments of %" PRIu64 " bytes are too small for this log: at least %zu",
                       wal->segment_bytes, 4 * begin->padded);
    }
    begin->padded = begin_seal(wal, &begin->header, b);
    begin->makes_spare = wal->spare_count == 0;
    begin->spare = begin->makes_spare ? wal->spare_id_next++ : wal->spares[--wal->spare_count];
    return 0;
}

/* A spare one if there is any, for there may be no room for another. The opening block is synced
 * before the file gets its name. */
int wal_begin(struct wal *wal, struct err_text *e)
{
    struct wal_begin *begin = &wal->begin;
    struct slice opening = slice_of(begin->buffer->data, begin->padded);
    int rv = 0;

    assert(begin->file == NULL);
    if (begin->makes_spare) {
        rv = wal__spare_make(wal->env, wal->dir, begin->spare, wal->segment_bytes);
    }
    if (rv == 0) {
        rv = wal__segment_make(wal->env, wal->dir, begin->spare, &begin->header, opening,
                               wal->opts.direct, &begin->file);
    }
    if (rv != 0) {
        return err_set(e, rv, "can't make a log segment of %" PRIu64 " bytes in %s: %s",
                       wal->segment_bytes, wal->dir, err_why(rv));
    }
    rv = wal__newest_write(wal->env, wal->dir, &wal->newest, begin->header.sequence);
    return rv == 0 ? 0 : err_set(e, rv, "can't write %s/newest: %s", wal->dir, err_why(rv));
}

int wal__begin_adopt(struct wal *wal)
{
    struct wal_begin *begin = &wal->begin;
    struct wal_segment *old = list_entry(wal->segments.prev, struct wal_segment, link);
    struct wal_segment *s = wal__segment_new(wal, &begin->header, begin->file);

    assert(begin->file != NULL);
    if (s == NULL) {
        return ERR_NOMEM;
    }
    begin->file = NULL;
    list_push_back(&wal->segments, &s->link);
    wal->segment_count++;
    wal->current = s;
    s->opened = true;
    wal__buffer_placed(wal, begin->buffer, s);
    if (begin->replaces) { /* the last one; else it is behind it */
        assert(old->live == 0);
        list_remove(&old->link);
        wal->segment_count--;
        env_file_close(wal->env, old->file);
        mem_free(old);
    }
    wal->plan_end = WAL_HEADER_BYTES + begin->padded;
    wal->synced_to = begin->header.base + wal->plan_end;
    wal__buffer_put(wal, begin->buffer);
    begin->buffer = NULL;
    return 0;
}
