/* The whole log: open, close, and what happens once a second. */
#include "wal/wal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "wal/internal.h"

static void on_tick(struct env_timer *timer);
static void on_finish(struct env_timer *timer);

/* ---- open
 * ---------------------------------------------------------------------------------------------------------
 */

static uint64_t segment_bytes_of(const struct wal_opts *opts)
{
    uint64_t bytes = opts->segment_bytes == 0 ? 16u << 20 : opts->segment_bytes;

    if (bytes < WAL_SEGMENT_BYTES_MIN) {
        bytes = WAL_SEGMENT_BYTES_MIN;
    }
    if (bytes > WAL_SEGMENT_BYTES_MAX) {
        bytes = WAL_SEGMENT_BYTES_MAX;
    }
    return wal__round_up(bytes, WAL_ALIGN);
}

static struct wal *wal_new(struct env *env, const struct wal_opts *opts)
{
    struct wal *wal = mem_zalloc(sizeof *wal);

    if (wal == NULL) {
        return NULL;
    }
    wal->env = env;
    wal->opts = *opts;
    wal->dir = mem_strdup(opts->dir);
    if (wal->dir == NULL) {
        mem_free(wal);
        return NULL;
    }
    wal->opts.dir = wal->dir;
    if (wal->opts.cache_bytes == 0) {
        wal->opts.cache_bytes = 8u << 20;
    }
    if (wal->opts.submit_bytes_max == 0) {
        wal->opts.submit_bytes_max = WAL_SUBMIT_BYTES_MAX;
    }
    if (wal->opts.disk_bytes_max == 0) {
        wal->opts.disk_bytes_max = 1u << 30;
    }
    wal->segment_bytes = segment_bytes_of(opts);
    /* A block, the restated shards (a quarter of a segment at most) and the header fit into one
     * segment together. */
    wal->block_target = wal->segment_bytes / 8 < WAL_BLOCK_TARGET_BYTES ? wal->segment_bytes / 8
                                                                        : WAL_BLOCK_TARGET_BYTES;
    wal->block_target &= ~(size_t)(WAL_ALIGN - 1);
    wal->record_bytes_max = (wal->segment_bytes / 4 - WAL_HEADER_BYTES) & ~(uint64_t)7;
    list_init(&wal->logs);
    list_init(&wal->hints);
    list_init(&wal->releases);
    list_init(&wal->segments);
    wal__writer_init(wal);
    wal->tick_timer.cb = on_tick;
    wal->finish_timer.cb = on_finish;
    wal->disk_free_bytes = UINT64_MAX;
    return wal;
}

static void buffers_free(struct list *head)
{
    list_for_each_safe (it, next, head) {
        struct wal_buffer *b = list_entry(it, struct wal_buffer, link);
        list_remove(it);
        mem_free(b->data);
        mem_free(b);
    }
}

void wal__free(struct wal *wal)
{
    assert(wal->in_flight == 0);
    assert(!wal->prepare.active);
    list_for_each_safe (it, next, &wal->logs) {
        wal__log_free(list_entry(it, struct wal_log, link));
    }
    list_for_each_safe (it2, next2, &wal->segments) {
        struct wal_segment *s = list_entry(it2, struct wal_segment, link);
        list_remove(it2);
        env_file_close(wal->env, s->file);
        mem_free(s);
    }
    if (wal->next != NULL) {
        env_file_close(wal->env, wal->next->file);
        mem_free(wal->next);
    }
    if (wal->lock != NULL) {
        env_file_close(wal->env, wal->lock);
    }
    if (wal->fill != NULL) {
        mem_free(wal->fill->data);
        mem_free(wal->fill);
    }
    for (unsigned i = 0; i < 2; i++) {
        if (wal->writes[i].buffer != NULL) {
            mem_free(wal->writes[i].buffer->data);
            mem_free(wal->writes[i].buffer);
        }
    }
    if (wal->begin.buffer != NULL) {
        mem_free(wal->begin.buffer->data);
        mem_free(wal->begin.buffer);
    }
    if (wal->begin.file != NULL) {
        env_file_close(wal->env, wal->begin.file);
    }
    buffers_free(&wal->queue);
    buffers_free(&wal->free_buffers);
    mem_free(wal->table);
    mem_free(wal->dir);
    mem_free(wal);
}

static int dir_lock(struct wal *wal, struct err_text *e)
{
    char path[WAL_PATH_BYTES];
    int rv = env_dir_create(wal->env, wal->dir);

    if (rv != 0 && rv != ERR_EXISTS) {
        return err_set(e, rv, "can't create %s: %s", wal->dir, err_why(rv));
    }
    (void)snprintf(path, sizeof path, "%s/lock", wal->dir);
    rv = env_file_open(wal->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &wal->lock);
    if (rv == ERR_EXISTS) {
        rv = env_file_open(wal->env, path, ENV_OPEN_WRITE, &wal->lock);
    }
    if (rv != 0) {
        return err_set(e, rv, "can't open %s: %s", path, err_why(rv));
    }
    rv = env_file_lock(wal->env, wal->lock);
    if (rv != 0) {
        err_set(e, rv, "the log in %s is in use by another process", wal->dir);
    }
    return rv;
}

/* A spare of the right size is kept; the others go (an interrupted preparation, another segment
 * size). */
static void spare_adopt(struct wal *wal, uint64_t id)
{
    char path[WAL_PATH_BYTES];
    struct env_file *file;
    int64_t bytes;

    if (id >= wal->spare_id_next) {
        wal->spare_id_next = id + 1;
    }
    wal__spare_path(wal->dir, id, path);
    if (env_file_open(wal->env, path, ENV_OPEN_READ, &file) != 0) {
        return;
    }
    bytes = env_file_size(wal->env, file);
    env_file_close(wal->env, file);
    if (bytes == (int64_t)wal->segment_bytes && wal->spare_count < WAL_SPARES_MAX) {
        wal->spares[wal->spare_count++] = id;
    } else {
        (void)env_file_unlink(wal->env, path);
    }
}

static void leftovers_adopt(struct wal *wal, const struct wal_scan *scan)
{
    for (size_t i = 0; i < scan->spare_count; i++) {
        spare_adopt(wal, scan->spares[i]);
    }
    /* Their sizes aren't known to be right; and the sequence of an unused one is needed for the new
     * segment. */
    for (size_t i = 0; i < scan->stale_count; i++) {
        wal__retire_file(wal, scan->stale[i], false);
    }
}

/* A segment that was prepared and not used goes: nobody may miss it. */
static int unused_gives_way(struct wal *wal, const struct wal_scan *scan, struct err_text *e)
{
    uint64_t last = scan->count > 0 ? scan->segments[scan->count - 1].header.sequence : 0;
    int rv = 0;

    wal->newest = scan->newest;
    wal->newest.node_uid = wal->opts.node_uid;
    if (wal->newest.sequence > last) {
        rv = wal__newest_write(wal->env, wal->dir, &wal->newest, last);
    }
    return rv == 0 ? 0 : err_set(e, rv, "can't write %s/newest: %s", wal->dir, err_why(rv));
}

static int recover(struct wal *wal, struct err_text *e)
{
    struct wal_scan scan;
    wal->begin.started_ns = env_now_ns(wal->env);
    int rv = wal__scan_open(&scan, wal->env, wal->dir, wal->opts.node_uid, e);

    if (rv == 0 && wal->opts.existing && scan.count == 0) {
        rv = err_set(e, ERR_CORRUPT, "the log in %s is gone: there is no segment of it", wal->dir);
    }
    if (rv != 0) {
        goto out;
    }
    if (scan.torn) {
        log_warn("wal", "torn tail cut off", "segment=%" PRIu64 " offset=%" PRIu64,
                 scan.segments[scan.count - 1].header.sequence,
                 scan.segments[scan.count - 1].valid_bytes);
    }
    rv = wal__replay(wal, &scan, e);
    if (rv != 0) {
        goto out;
    }
    rv = unused_gives_way(wal, &scan, e);
    if (rv != 0) {
        goto out;
    }
    leftovers_adopt(wal, &scan);
    rv = wal__begin_plan(wal, &scan, e);
out:
    wal__scan_close(&scan);
    return rv;
}

int wal_open(struct env *env, const struct wal_opts *opts, struct wal **out, struct err_text *e)
{
    struct wal *wal;
    int rv;

    *out = NULL;
    if (opts->dir == NULL || strlen(opts->dir) > WAL_DIR_BYTES_MAX) {
        return err_set(e, ERR_INVAL, "the log's directory has no name, or a too long one");
    }
    if (e != NULL) {
        e->text[0] = '\0';
    }
    wal = wal_new(env, opts);
    if (wal == NULL) {
        return ERR_NOMEM;
    }
    rv = dir_lock(wal, e);
    if (rv == 0) {
        rv = recover(wal, e);
    }
    if (rv == 0 && !opts->begin_later) {
        rv = wal_begin(wal, e);
        rv = rv == 0 ? wal_begun(wal) : rv;
    }
    if (rv != 0) {
        wal__free(wal);
        if (rv == ERR_NOMEM && e != NULL && e->text[0] == '\0') {
            err_set(e, rv, "no memory to open the log in %s", opts->dir);
        }
        return rv;
    }
    *out = wal;
    return 0;
}

/* Who is in a hurry to open is so with his first write, too: the next segment is made behind it. */
#define FIRST_TICK_MS 3

int wal_begun(struct wal *wal)
{
    struct env *env = wal->env;
    int rv = wal__begin_adopt(wal);

    if (rv != 0) {
        return rv;
    }
    wal__release(wal);
    wal->busy_at_ns = env_now_ns(env);
    log_info("wal", "log opened",
             "segments=%" PRIu64 " shards=%zu position=%" PRIu64 " ms=%" PRIu64, wal->segment_count,
             wal->log_count, wal->position, (wal->busy_at_ns - wal->begin.started_ns) / 1000000u);
    env_timer_start_in_ms(env, &wal->silence_timer, WAL_SILENCE_MS);
    (void)env_disk_free(env, wal->dir, &wal->disk_free_bytes);
    if (wal->opts.begin_later) {
        env_timer_start_in_ms(env, &wal->tick_timer, FIRST_TICK_MS);
    } else {
        env_timer_start_in_ms(env, &wal->tick_timer, WAL_TICK_MS);
        wal__prepare_kick(wal);
    }
    return 0;
}

/* ---- close
 * --------------------------------------------------------------------------------------------------------
 */

static void task_cancel(struct env_task *task)
{
    if (task->queued) {
        list_remove(&task->link);
        task->queued = false;
    }
}

static void quiet(struct wal *wal)
{
    task_cancel(&wal->flush_task);
    task_cancel(&wal->notify_task);
    env_timer_stop(wal->env, &wal->silence_timer);
    env_timer_stop(wal->env, &wal->tick_timer);
    env_timer_stop(wal->env, &wal->retry_timer);
    env_timer_stop(wal->env, &wal->finish_timer);
}

#define READ_AGAIN_BYTES ((uint64_t)16 << 10) /* that opening may as well read */

/* Opening reads all of the log. When nothing in it is alive, a segment that says so is left for it,
 * and the others go. */
static bool is_all_dead(const struct wal *wal)
{
    list_for_each (it, &wal->segments) {
        if (list_entry(it, struct wal_segment, link)->live > 0) {
            return false;
        }
    }
    return wal->next != NULL && wal->plan_end > READ_AGAIN_BYTES;
}

/* The last block; before it, where that pays, the one that opens a segment, which it then lays
 * claim to. */
static void put_last(struct wal *wal)
{
    struct wal_record mark = {.kind = WAL_KIND_MARK, .type = WAL_RECORD_TYPE_CLEAN};

    wal->next_opens = is_all_dead(wal);
    if (wal->next_opens) {
        mark.type = 0;
        wal->next_opens = wal__put(wal, &mark) == 0;
    } else {
        wal->clean_marked = wal__put(wal, &mark) == 0;
    }
    wal__flush(wal);
}

void wal__finish_step(struct wal *wal)
{
    void (*done)(void *arg, int err) = wal->close_cb;
    void *arg = wal->close_arg;
    int err;

    if (wal->in_flight > 0 || wal->prepare.active) {
        return;
    }
    if (wal->abandoned) {
        wal__free(wal);
        return;
    }
    assert(wal->closing);
    if (wal->failed == 0) {
        wal__flush(wal);
        if (wal->in_flight == 0 && list_empty(&wal->queue) && !wal->clean_marked &&
            (wal->fill == NULL || wal->fill->records == 0)) {
            put_last(wal);
        }
        if (wal->in_flight > 0 || wal->prepare.active) {
            return;
        }
    }
    /* Nothing more can be written when no segment is left; what was durable is. */
    err = wal->failed;
    if (err == 0 && wal->durable_position != wal->position) {
        err = ERR_DISKFULL;
    }
    if (err == 0 && wal->next != NULL) {
        /* As a spare: opening would read all of it, to find that it wasn't used. */
        struct wal_segment *next = wal->next;
        wal->next = NULL;
        env_file_close(wal->env, next->file);
        if (wal__newest_write(wal->env, wal->dir, &wal->newest, next->header.sequence - 1) == 0) {
            wal__retire_file(wal, next->header.sequence, true);
        }
        mem_free(next);
    }
    quiet(wal);
    wal__free(wal);
    done(arg, err);
}

static void on_finish(struct env_timer *timer)
{
    wal__finish_step(container_of(timer, struct wal, finish_timer));
}

void wal_close(struct wal *wal, void (*done)(void *arg, int err), void *arg)
{
    assert(!wal->closing);
    assert(!wal->abandoned);
    wal->closing = true;
    wal->close_cb = done;
    wal->close_arg = arg;
    quiet(wal);
    env_timer_start(wal->env, &wal->finish_timer, env_now_ns(wal->env));
}

void wal_abandon(struct wal *wal)
{
    assert(!wal->abandoned);
    wal->abandoned = true;
    wal->closing = false;
    quiet(wal);
    for (unsigned i = 0; i < 2; i++) {
        if (wal->writes[i].done) { /* it was waiting for the one before it */
            wal->writes[i].done = false;
            wal->in_flight--;
        }
    }
    wal__finish_step(wal);
}

/* ---- state
 * --------------------------------------------------------------------------------------------------------
 */

uint64_t wal_position(const struct wal *wal)
{
    return wal->position;
}

uint64_t wal_durable_position(const struct wal *wal)
{
    return wal->durable_position;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = load_u64(a), y = load_u64(b);

    return x < y ? -1 : x > y;
}

void wal_stats(const struct wal *wal, struct wal_stats *out)
{
    uint64_t sorted[WAL_LATENCIES];
    size_t n = wal->latency_count < WAL_LATENCIES ? wal->latency_count : WAL_LATENCIES;

    *out = wal->stats;
    if (n > 0) {
        memcpy(sorted, wal->latencies, n * sizeof sorted[0]);
        qsort(sorted, n, sizeof sorted[0], compare_u64);
        out->sync_ns_p50 = sorted[n / 2];
        out->sync_ns_p99 = sorted[n * 99 / 100];
    }
    out->segments = wal->segment_count;
    out->disk_bytes =
        (wal->segment_count + wal->spare_count + (wal->next != NULL ? 1 : 0)) * wal->segment_bytes;
    out->cached_bytes = wal->cached_bytes;
}

uint64_t wal_entry_bytes_max(const struct wal *wal)
{
    return wal->record_bytes_max - wal__record_bytes(0);
}

uint64_t wal_room_bytes(const struct wal *wal)
{
    return 2 * wal->segment_bytes + WAL_ROOM_RESERVE_BYTES;
}

static bool is_full(const struct wal *wal)
{
    return (wal->segment_count + 1) * wal->segment_bytes > wal->opts.disk_bytes_max;
}

bool wal_has_room(const struct wal *wal)
{
    return wal->failed == 0 && !wal->closing && !wal->no_space &&
           wal->pending_bytes <= WAL_PENDING_BYTES_SOFT && !is_full(wal) &&
           wal->disk_free_bytes >= wal_room_bytes(wal);
}

/* ---- once a second, and more often while a full log keeps writers waiting
 * ------------------------------------------------------------------------------------------------
 */

static bool pins(const struct wal_log *log, const struct wal_segment *segment)
{
    for (uint64_t i = log->first; i < log->first + log->count; i++) {
        if (wal__item(log, i)->segment == segment) {
            return true;
        }
    }
    return false;
}

static void ask_for_checkpoints(struct wal *wal)
{
    const struct wal_segment *oldest = list_entry(wal->segments.next, struct wal_segment, link);
    uint64_t now = env_now_ns(wal->env);

    if (wal->opts.on_pressure == NULL || oldest == wal->current ||
        wal->segment_count * wal->segment_bytes <= wal->opts.disk_bytes_max / 2) {
        return;
    }
    list_for_each_safe (it, next, &wal->logs) {
        struct wal_log *log = list_entry(it, struct wal_log, link);
        if ((log->pressure_at_ns == 0 || now - log->pressure_at_ns >= 1000000000u) &&
            pins(log, oldest)) {
            log->pressure_at_ns = now;
            wal->opts.on_pressure(wal->opts.arg, log);
        }
    }
}

static void on_tick(struct env_timer *timer)
{
    struct wal *wal = container_of(timer, struct wal, tick_timer);

    if (wal->failed != 0) {
        return;
    }
    env_timer_start_in_ms(wal->env, &wal->tick_timer,
                          is_full(wal) ? WAL_TICK_FULL_MS : WAL_TICK_MS);
    if (env_disk_free(wal->env, wal->dir, &wal->disk_free_bytes) != 0) {
        wal->disk_free_bytes = UINT64_MAX; /* not known: the preparation of segments will tell */
    }
    wal__prepare_kick(wal);
    if (!wal->relocating) {
        wal->relocating = wal__relocate(wal);
    }
    wal__flush(wal);
    ask_for_checkpoints(wal);
}
