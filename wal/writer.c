/* Buffers, blocks and the two writes in flight.
 *
 *   wal__put        record -> fill buffer (a full one is closed and queued)
 *   wal__wake       -> flush_task at the end of the turn
 *   wal__flush      closes the fill buffer, starts writes while fewer than two are in flight
 *   write_start     small blocks: seal and submit, without a worker
 *   write_run       on a worker: seal, pwrite, sync
 *   write_done      in order of the log: places, durable position, notify_task; the next flush
 *                   behind that
 *
 * Where a block goes is settled when its buffer is closed: positions, offsets and the choice of the
 * block that opens a new segment follow from the order of appends alone, not from when writes
 * complete. The opening block must state every shard as it is at its end, which is exactly then. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "wal/internal.h"

/* ---- buffers
 * ------------------------------------------------------------------------------------------------------
 */

struct wal_buffer *wal__buffer_get(struct wal *wal, size_t bytes)
{
    struct wal_buffer *b;

    if (wal->reserving && !list_empty(&wal->reserved)) {
        b = list_entry(wal->reserved.next, struct wal_buffer, link);
        list_remove(&b->link);
        assert(b->capacity >= bytes);
    } else if (bytes <= wal->block_target && !list_empty(&wal->free_buffers)) {
        b = list_entry(wal->free_buffers.next, struct wal_buffer, link);
        list_remove(&b->link);
        wal->free_count--;
    } else {
        b = mem_zalloc(sizeof *b);
        if (b == NULL) {
            return NULL;
        }
        b->capacity =
            bytes < wal->block_target ? wal->block_target : wal__round_up(bytes, WAL_ALIGN);
        b->data = mem_aligned(WAL_ALIGN, b->capacity);
        if (b->data == NULL) {
            mem_free(b);
            return NULL;
        }
        list_init(&b->link);
    }
    b->used = WAL_BLOCK_HEAD_BYTES;
    b->records = 0;
    b->offset = 0;
    b->opening = false;
    b->position = b->position_end = wal->position;
    b->serial = 0;
    return b;
}

void wal__buffer_put(struct wal *wal, struct wal_buffer *b)
{
    if (b->capacity == wal->block_target && wal->free_count < WAL_BUFFERS_KEPT) {
        list_push_front(&wal->free_buffers, &b->link);
        wal->free_count++;
        return;
    }
    mem_free(b->data);
    mem_free(b);
}

void wal__buffer_add(struct wal_buffer *b, const struct wal_record *r)
{
    assert(b->used + wal__record_bytes(r->data.len) <= b->capacity);
    b->used += wal__record_pack(r, b->data + b->used);
    b->records++;
}

/* 0 is no serial. */
static uint32_t next_serial(struct wal *wal)
{
    wal->serial++;
    if (wal->serial == 0) {
        wal->serial = 1;
    }
    return wal->serial;
}

static bool buffer_fits(const struct wal *wal, const struct wal_buffer *b, size_t bytes)
{
    return b->used + bytes <= b->capacity &&
           (b->used + bytes <= wal->block_target || b->records == 0);
}

static bool fill_empty(const struct wal *wal)
{
    return wal->fill == NULL || wal->fill->records == 0;
}

/* ---- closing a buffer
 * --------------------------------------------------------------------------------------------- */

/* Commit hints ride along while there is room; the rest waits for the next block. */
static void put_hints(struct wal *wal, struct wal_buffer *b)
{
    size_t bytes = wal__record_bytes(0);

    if (wal->reserving) {
        return; /* the reservation knows nothing of them */
    }
    list_for_each_safe (it, next, &wal->hints) {
        struct wal_log *log = list_entry(it, struct wal_log, hint_link);
        struct wal_record r = {.kind = WAL_KIND_COMMIT, .uid = log->uid, .index = log->commit_hint};
        if (!buffer_fits(wal, b, bytes)) {
            break;
        }
        wal__buffer_add(b, &r);
        b->position_end += bytes;
        wal->position += bytes;
        wal->pending_bytes += bytes;
        list_remove(&log->hint_link);
    }
}

static size_t opening_bytes(const struct wal *wal)
{
    return WAL_BLOCK_HEAD_BYTES + wal__record_bytes(0) +
           wal->log_count * wal__record_bytes(WAL_RESTATE_BYTES);
}

int wal__opening_make(struct wal *wal, uint64_t prev_valid, const struct wal_buffer *tail,
                      size_t more, struct wal_buffer **out)
{
    size_t tail_bytes = tail != NULL ? tail->used - WAL_BLOCK_HEAD_BYTES : 0;
    size_t bytes = opening_bytes(wal) + tail_bytes + more;
    struct wal_buffer *b = wal__buffer_get(wal, bytes);
    struct wal_record r = {.kind = WAL_KIND_OPENING, .index = prev_valid, .term = wal->log_count};

    *out = NULL;
    if (b == NULL) {
        return ERR_NOMEM;
    }
    wal__buffer_add(b, &r);
    list_for_each (it, &wal->logs) {
        const struct wal_log *log = list_entry(it, struct wal_log, link);
        struct wal_restate s;
        uint8_t data[WAL_RESTATE_BYTES];
        wal__restate_of(log, &s);
        wal__restate_pack(&s, data);
        r = (struct wal_record){
            .kind = WAL_KIND_RESTATE, .uid = log->uid, .data = slice_of(data, sizeof data)};
        wal__buffer_add(b, &r);
    }
    if (tail != NULL) {
        memcpy(b->data + b->used, tail->data + WAL_BLOCK_HEAD_BYTES, tail_bytes);
        b->used += tail_bytes;
        b->records += tail->records;
        b->position = tail->position;
        b->position_end = tail->position_end;
        b->serial = tail->serial;
    }
    b->opening = true;
    *out = b;
    return 0;
}

int wal__close_fill(struct wal *wal)
{
    struct wal_buffer *b = wal->fill;
    size_t padded;

    if (fill_empty(wal)) {
        return 0;
    }
    put_hints(wal, b);
    padded = wal__round_up(b->used, WAL_ALIGN);
    if (wal->next_opens || wal->plan_end + padded > wal->segment_bytes) {
        struct wal_buffer *opening;
        int rv = wal__opening_make(wal, wal->plan_end, b, 0, &opening);
        if (rv != 0) {
            return rv;
        }
        wal__buffer_put(wal, b);
        b = opening;
        padded = wal__round_up(b->used, WAL_ALIGN);
        wal->plan_end = WAL_HEADER_BYTES;
        wal->next_opens = false;
        assert(wal->plan_end + padded <=
               wal->segment_bytes); /* by the limits on records and shards */
    }
    b->offset = wal->plan_end;
    wal->plan_end += padded;
    list_push_back(&wal->queue, &b->link);
    wal->fill = NULL;
    return 0;
}

/* A block of `used` bytes takes that much at most, whatever is put behind them until it is closed.
 */
static uint64_t block_bytes_max(const struct wal *wal, size_t used)
{
    return wal__round_up(used > wal->block_target ? used : wal->block_target, WAL_ALIGN);
}

int wal_prepared(const struct wal *wal, size_t bytes)
{
    size_t record = wal__record_bytes(bytes);
    if (record > wal->record_bytes_max) {
        return 0; /* TOOBIG, at once */
    }
    bool joins = !fill_empty(wal) && buffer_fits(wal, wal->fill, record);
    uint64_t end = wal->plan_end;
    if (!fill_empty(wal)) {
        end += block_bytes_max(wal, wal->fill->used + (joins ? record : 0));
    }
    if (!joins) {
        end += block_bytes_max(wal, WAL_BLOCK_HEAD_BYTES + record);
    }
    unsigned segments = end > wal->segment_bytes ? 1 : 0;
    list_for_each (it, &wal->queue) {
        segments += list_entry(it, struct wal_buffer, link)->opening ? 1u : 0u;
    }
    if (segments <= (wal->next != NULL ? 1u : 0u)) {
        return 0;
    }
    return wal->no_space ? ERR_DISKFULL : ERR_BUSY;
}

const char *wal_prepare_error(const struct wal *wal)
{
    return wal->no_space ? wal->no_space_why : "";
}

static int reserve_one(struct wal *wal, struct list *got, size_t bytes)
{
    struct wal_buffer *b = wal__buffer_get(wal, bytes);

    if (b == NULL) {
        return ERR_NOMEM;
    }
    list_push_back(got, &b->link);
    return 0;
}

/* Goes through the motions of wal__put and wal__close_fill with numbers only. */
int wal__reserve(struct wal *wal, const struct wal_entry *entries, size_t count)
{
    size_t used = wal->fill != NULL ? wal->fill->used : 0;
    size_t capacity = wal->fill != NULL ? wal->fill->capacity : 0;
    bool empty = fill_empty(wal);
    uint64_t plan_end = wal->plan_end;
    size_t total = 0;
    struct list got;
    int rv = 0;

    list_init(&got);
    for (size_t i = 0; rv == 0 && i < count; i++) {
        size_t bytes = wal__record_bytes(entries[i].data.len);
        total += bytes;
        if (entries[i].data.len > wal->record_bytes_max || bytes > wal->record_bytes_max) {
            rv = ERR_TOOBIG;
        } else if (wal->pending_bytes + total > WAL_PENDING_BYTES_MAX) {
            rv = ERR_NOMEM;
        } else if (used + bytes <= capacity && (used + bytes <= wal->block_target || empty)) {
            used += bytes;
            empty = false;
        } else {
            if (!empty) {
                size_t padded = wal__round_up(used, WAL_ALIGN);
                if (plan_end + padded > wal->segment_bytes) {
                    padded = opening_bytes(wal) + used - WAL_BLOCK_HEAD_BYTES;
                    rv = reserve_one(wal, &got, padded);
                    padded = wal__round_up(padded, WAL_ALIGN);
                    plan_end = WAL_HEADER_BYTES;
                }
                plan_end += padded;
            }
            used = WAL_BLOCK_HEAD_BYTES + bytes;
            capacity =
                used < wal->block_target ? wal->block_target : wal__round_up(used, WAL_ALIGN);
            empty = false;
            if (rv == 0) {
                rv = reserve_one(wal, &got, used);
            }
        }
    }
    list_splice(&wal->reserved, &got);
    wal->reserving = rv == 0;
    return rv;
}

void wal__unreserve(struct wal *wal)
{
    wal->reserving = false;
    while (!list_empty(&wal->reserved)) {
        struct wal_buffer *b = list_entry(wal->reserved.next, struct wal_buffer, link);
        list_remove(&b->link);
        wal__buffer_put(wal, b);
    }
}

int wal__put(struct wal *wal, const struct wal_record *r)
{
    size_t bytes = wal__record_bytes(r->data.len);
    int rv;

    assert(r->kind != WAL_KIND_OPENING);
    assert(r->kind != WAL_KIND_RESTATE);
    if (wal->failed != 0 || wal->clean_marked) {
        return ERR_IO; /* nothing is behind the mark of an orderly end (scan.c) */
    }
    if (bytes > wal->record_bytes_max) {
        return ERR_TOOBIG;
    }
    if (wal->pending_bytes + bytes > WAL_PENDING_BYTES_MAX) {
        return ERR_NOMEM;
    }
    if (wal->fill != NULL && !buffer_fits(wal, wal->fill, bytes)) {
        if (wal->fill->records > 0) {
            rv = wal__close_fill(wal);
            if (rv != 0) {
                return rv;
            }
        } else {
            wal__buffer_put(wal, wal->fill);
            wal->fill = NULL;
        }
    }
    if (wal->fill == NULL) {
        wal->fill = wal__buffer_get(wal, WAL_BLOCK_HEAD_BYTES + bytes);
        if (wal->fill == NULL) {
            return ERR_NOMEM;
        }
        wal->fill->serial = next_serial(wal);
    }
    wal__buffer_add(wal->fill, r);
    wal->pending_bytes += bytes;
    wal->position += bytes;
    wal->fill->position_end = wal->position;
    wal->stats.bytes_appended += r->data.len;
    wal->stats.records++;
    wal->marked = r->kind == WAL_KIND_MARK;
    return 0;
}

void wal__wake(struct wal *wal)
{
    if (!wal->flush_task.queued) {
        env_defer(wal->env, &wal->flush_task);
    }
}

bool wal_gathers(const struct wal *wal)
{
    return wal->in_flight > 0 && wal->writes[wal->oldest_write].head.records > 1;
}

bool wal_has_news(const struct wal *wal)
{
    return wal->notify_task.queued;
}

/* The next write begins behind what the owner does with the news, so that its messages leave before
 * and what it appends is part of the write. */
static void flush_behind(struct wal *wal)
{
    wal->flush_is_behind = true;
    wal__wake(wal);
}

/* ---- failing
 * ------------------------------------------------------------------------------------------------------
 */

void wal__fail(struct wal *wal, int err, const char *format, ...)
{
    va_list args;

    if (wal->failed != 0) {
        return;
    }
    wal->failed = err;
    va_start(args, format);
    (void)vsnprintf(wal->fail_text.text, sizeof wal->fail_text.text, format, args);
    va_end(args);
    env_defer(wal->env, &wal->notify_task);
}

/* ---- writing
 * ------------------------------------------------------------------------------------------------------
 */

static void write_run(struct env_work *work)
{
    struct wal_write *w = container_of(work, struct wal_write, work);
    struct wal *wal = w->wal;
    struct wal_buffer *b = w->buffer;

    (void)wal__block_seal(b->data, &w->head, &w->segment->header, b->offset);
    w->err = env_file_pwrite(wal->env, w->segment->file, b->data, w->bytes, b->offset);
    if (w->err == 0 && !wal->opts.direct) {
        w->err = env_file_sync(wal->env, w->segment->file);
    }
}

void wal__buffer_placed(struct wal *wal, const struct wal_buffer *b, struct wal_segment *segment)
{
    struct wal_log *log = NULL;
    size_t at = WAL_BLOCK_HEAD_BYTES;

    while (at < b->used) {
        struct wal_record r;
        struct wal_item *item;
        size_t bytes;
        size_t record_at = at;

        bytes = wal__record_peek(b->data + at, &r);
        at += bytes;
        if (r.kind != WAL_KIND_ENTRY) {
            continue;
        }
        if (log == NULL || log->uid != r.uid) {
            log = wal_log_find(wal, r.uid);
        }
        if (log == NULL) {
            continue;
        }
        /* Truncated, replaced or appended once more since: then this copy counts for nothing (its
         * buffer's serial stands for the position, which index and term alone don't determine). */
        item = wal__item(log, r.index);
        if (item == NULL || item->pending != b->serial || item->term != r.term) {
            continue;
        }
        wal__item_place(item, segment, (uint32_t)(b->offset + record_at), b->position_end);
        item->pending = 0;
        if (r.index > log->durable_index) {
            log->durable_index = r.index;
        }
    }
}

static void finish_releases(struct wal *wal)
{
    list_for_each_safe (it, next, &wal->releases) {
        struct wal_log *log = list_entry(it, struct wal_log, release_link);
        if (log->release_position <= wal->durable_position) {
            list_remove(&log->release_link);
            wal__items_release(log, log->release_index, log->release_position);
            log->prev_term = log->release_term;
        }
    }
}

static void write_complete(struct wal *wal, struct wal_write *w)
{
    struct wal_buffer *b = w->buffer;
    uint64_t now = env_now_ns(wal->env);

    assert(w->head.position == wal->durable_position);
    wal->durable_position = w->head.position_end;
    wal->synced_to = w->segment->header.base + b->offset + w->bytes;
    if (b->opening) {
        w->segment->opened = true;
    }
    wal->pending_bytes -= (size_t)(w->head.position_end - w->head.position);
    wal->stats.writes++;
    wal->stats.syncs++;
    wal->stats.bytes_written += w->bytes;
    wal->latencies[wal->latency_count++ % WAL_LATENCIES] = now - w->started_ns;
    wal->busy_at_ns = now;
    wal__buffer_placed(wal, b, w->segment);
    wal__buffer_put(wal, b);
    w->buffer = NULL;
    w->done = false;
}

static void write_done(struct env_work *work)
{
    struct wal_write *w = container_of(work, struct wal_write, work);
    struct wal *wal = w->wal;

    w->done = true;
    if (wal->abandoned) {
        wal->in_flight--;
        wal__finish_step(wal);
        return;
    }
    if (w->err != 0) {
        char path[WAL_PATH_BYTES];
        wal__segment_path(wal->dir, w->segment->header.sequence, path);
        wal__fail(
            wal, w->err == ERR_CORRUPT ? ERR_IO : w->err,
            "writing or syncing %zu bytes at %llu of %s failed: %s; nothing that was not synced "
            "before counts",
            w->bytes, (unsigned long long)w->buffer->offset, path, err_text_of(w->err));
    }
    /* Durable is the contiguous prefix: the second write waits for the first. */
    while (wal->in_flight > 0 && wal->writes[wal->oldest_write].done) {
        struct wal_write *first = &wal->writes[wal->oldest_write];
        wal->oldest_write ^= 1;
        wal->in_flight--;
        if (wal->failed == 0) {
            write_complete(wal, first);
        } else {
            wal__buffer_put(wal, first->buffer);
            first->buffer = NULL;
            first->done = false;
        }
    }
    if (wal->failed == 0) {
        finish_releases(wal);
        wal__release(wal);
        env_defer(wal->env, &wal->notify_task);
        flush_behind(wal);
        if (wal->relocating) {
            wal->relocating = wal__relocate(wal);
        }
    }
    if (wal->failed == 0 && wal->in_flight == 0 && !wal->marked && wal->silence_timer.slot == 0 &&
        !wal->closing) {
        env_timer_start_in_ms(wal->env, &wal->silence_timer, WAL_SILENCE_MS);
    }
    if (wal->closing) {
        wal__finish_step(wal);
    }
}

static void write_start(struct wal *wal, struct wal_buffer *b)
{
    struct wal_write *w = &wal->writes[wal->oldest_write ^ (wal->in_flight > 0 ? 1 : 0)];

    assert(w->buffer == NULL);
    assert(wal->in_flight < 2);
    w->buffer = b;
    w->segment = wal->current;
    w->head.bytes = (uint32_t)b->used;
    w->head.records = b->records;
    w->head.synced_to = wal->synced_to;
    w->head.position = b->position;
    w->head.position_end = b->position_end;
    w->head.flags = b->opening ? WAL_BLOCK_FLAG_OPENING : 0;
    w->bytes = wal__round_up(b->used, WAL_ALIGN);
    w->started_ns = env_now_ns(wal->env);
    w->done = false;
    w->err = 0;
    wal->in_flight++;
    /* The usual block is small: sealing and submitting it here costs less than waking a worker. */
    if (wal->opts.direct && w->bytes <= wal->opts.submit_bytes_max) {
        (void)wal__block_seal(b->data, &w->head, &w->segment->header, b->offset);
        if (env_file_submit(wal->env, &w->work, w->segment->file, b->data, w->bytes, b->offset,
                            &w->err)) {
            return;
        }
    }
    env_work(wal->env, &w->work);
}

/* The segment for an opening block becomes the current one, as soon as it exists and the old one is
 * synced: the opening block says that everything before it was. */
static bool rotate(struct wal *wal)
{
    if (wal->in_flight > 0) {
        return false;
    }
    if (wal->next == NULL) {
        wal__prepare_kick(wal);
        return false;
    }
    list_push_back(&wal->segments, &wal->next->link);
    wal->segment_count++;
    wal->current = wal->next;
    wal->next = NULL;
    if (!wal->closing) { /* else when there is a block for it */
        wal__prepare_kick(wal);
    }
    if (!wal->relocating) {
        wal->relocating = wal__relocate(wal);
    }
    return true;
}

void wal__flush(struct wal *wal)
{
    while (wal->failed == 0 && !wal->abandoned && wal->in_flight < 2) {
        struct wal_buffer *b;

        if (list_empty(&wal->queue)) {
            if (fill_empty(wal)) {
                return;
            }
            /* Under load a few waiting bytes go with the next write, which starts when this one
             * completes: fewer syncs and fewer wake-ups for the same work. While a single record is
             * being written there is no load, and waiting would only make the second one late: of
             * the two shards of a transaction, say. */
            if (wal_gathers(wal) && wal->fill->used < WAL_SECOND_WRITE_BYTES &&
                wal->fill->used < wal->block_target / 2) {
                return;
            }
            if (wal__close_fill(wal) != 0) {
                env_timer_start_in_ms(wal->env, &wal->retry_timer, WAL_RETRY_MS);
                return;
            }
        }
        b = list_entry(wal->queue.next, struct wal_buffer, link);
        if (b->opening && !rotate(wal)) {
            return;
        }
        list_remove(&b->link);
        write_start(wal, b);
    }
}

/* ---- tasks and timers
 * --------------------------------------------------------------------------------------------- */

static void on_flush(struct env_task *task)
{
    struct wal *wal = container_of(task, struct wal, flush_task);

    if (wal->flush_is_behind) {
        wal->flush_is_behind = false;
        wal__wake(wal);
        return;
    }
    wal__flush(wal);
}

/* One callback per run and nothing behind it: the owner may abandon the log inside. */
static void on_notify(struct env_task *task)
{
    struct wal *wal = container_of(task, struct wal, notify_task);

    if (wal->durable_position != wal->notified_position) {
        if (wal->failed != 0 && !wal->fail_reported) {
            env_defer(wal->env, &wal->notify_task);
        }
        wal->notified_position = wal->durable_position;
        wal__cache_trim(wal);
        flush_behind(wal);
        if (wal->opts.on_durable != NULL && !wal->closing) {
            wal->opts.on_durable(wal->opts.arg, wal->durable_position);
        }
        return;
    }
    if (wal->failed != 0 && !wal->fail_reported) {
        wal->fail_reported = true;
        log_error("wal", "the log is dead", "error=%s reason=\"%s\"", err_name(wal->failed),
                  wal->fail_text.text);
        if (wal->opts.on_failed != NULL && !wal->closing) {
            wal->opts.on_failed(wal->opts.arg, wal->failed, wal->fail_text.text);
        }
    }
}

static void on_retry(struct env_timer *timer)
{
    wal__flush(container_of(timer, struct wal, retry_timer));
}

/* One timer for all silences: it looks back and waits for the rest. */
static void on_silence(struct env_timer *timer)
{
    struct wal *wal = container_of(timer, struct wal, silence_timer);
    uint64_t at = wal->busy_at_ns + WAL_SILENCE_MS * 1000000ull;
    struct wal_record r = {.kind = WAL_KIND_MARK};

    if (wal->failed != 0 || wal->closing || wal->marked) {
        return;
    }
    if (wal->in_flight > 0 || !list_empty(&wal->queue) || !fill_empty(wal)) {
        return; /* the completion arms it again */
    }
    if (at > env_now_ns(wal->env)) {
        env_timer_start(wal->env, &wal->silence_timer, at);
        return;
    }
    if (wal__put(wal, &r) == 0) {
        wal__flush(wal);
    } else {
        env_timer_start_in_ms(wal->env, &wal->silence_timer, WAL_SILENCE_MS);
    }
}

void wal__writer_init(struct wal *wal)
{
    for (unsigned i = 0; i < 2; i++) {
        struct wal_write *w = &wal->writes[i];
        w->wal = wal;
        w->work.run = write_run;
        w->work.done = write_done;
        w->work.queue = i == 0 ? ENV_QUEUE_LOG_0 : ENV_QUEUE_LOG_1;
    }
    list_init(&wal->queue);
    list_init(&wal->free_buffers);
    list_init(&wal->reserved);
    wal->flush_task.cb = on_flush;
    wal->notify_task.cb = on_notify;
    wal->retry_timer.cb = on_retry;
    wal->silence_timer.cb = on_silence;
}
