/* When an image is brought up to date, what of the log may go then (E9, E12), and what is done once
 * a second: giving history back, and loading what opening has left. One checkpoint at a time: they
 * share a device. */
#include "base/assert.h"
#include "base/hlc.h"
#include "base/log.h"
#include "embed/internal.h"

#define LOG_BYTES_MIN   ((uint64_t)16 << 20)
#define LOG_BYTES_MAX   ((uint64_t)64 << 20)
#define LOOK_AGAIN      ((uint64_t)1 << 20)
#define INTERVAL_MS     300000u
#define BACKOFF_MS      1000u
#define FILL_BYTES      ((uint64_t)128 << 20)
#define RETENTION_PARTS 16u /* history is reclaimed in steps of this part of what is kept */

static bool is_clean(const struct embedded_heap *h)
{
    return h->heap == NULL || heap_index(h->heap) == h->checkpoint_index;
}

void embed__checkpoint_want(struct embedded_heap *h)
{
    h->checkpoint_wanted = !is_clean(h);
    embed__checkpoint_run(h->db);
}

/* As much log as is dirty, so that what a checkpoint writes is at most what was written before. */
void embed__checkpoint_consider(struct embedded_heap *h)
{
    uint64_t fixed = h->db->settings.checkpoint_bytes;
    if (h->log_bytes < (fixed != 0 ? fixed : LOG_BYTES_MIN) || h->log_bytes < h->log_bytes_next) {
        return;
    }
    struct heap_counts counts;
    heap_get_counts(h->heap, &counts);
    if (fixed != 0 || h->log_bytes >= LOG_BYTES_MAX ||
        h->log_bytes >= counts.dirty_pages * HEAP_PAGE_BYTES) {
        embed__checkpoint_want(h);
    } else {
        h->log_bytes_next = h->log_bytes + LOOK_AGAIN;
    }
}

static void checkpoint_done(void *arg, const struct image_result *result)
{
    struct embedded_heap *h = arg;
    struct embedded *db = h->db;
    assert(db->checkpointing == h);
    db->checkpointing = NULL;
    h->checkpoint_ms = env_now_ms(embed_env(db));
    h->checkpoint_failed = result->err;
    if (db->failed != 0) {
        return;
    }
    if (result->err == 0) {
        int rv =
            wal_log_mark_checkpoint(h->log, result->sequence, result->index, result->index, NULL);
        h->checkpoint_index = result->index;
        if (rv != 0) {
            embed__fail(db, rv, "the log took no mark of a checkpoint: %s", err_text_of(rv));
            return;
        }
    } else if (result->err == ERR_DISKFULL || result->err == ERR_NOMEM || result->err == ERR_BUSY) {
        log_warn("embed", "a checkpoint failed, the one before stays", "heap=%s err=%s", h->name,
                 err_name(result->err));
        h->checkpoint_retry_ms = h->checkpoint_ms + BACKOFF_MS;
        h->checkpoint_wanted = !db->closing;
    } else {
        embed__fail(db, result->err, "a checkpoint of heap \"%s\" could not be written: %s",
                    h->name, err_text_of(result->err));
        return;
    }
    embed__room_look(db);
    embed__checkpoint_run(db);
}

static void start(struct embedded_heap *h)
{
    struct embedded *db = h->db;
    if (embed__is_ahead(h)) {
        return; /* an image is never ahead of the log: embed__durable() */
    }
    h->checkpoint_wanted = false;
    h->log_bytes_next = 0;
    if (is_clean(h) || h->dropped) {
        return;
    }
    if (db->closing) {
        image_gather(h->image, h->heap);
    }
    uint64_t more;
    uint64_t bytes = image_checkpoint_bytes(h->image, h->heap, &more);
    int rv = image_checkpoint(h->image, h->heap, checkpoint_done, h);
    h->checkpoint_failed = rv;
    if (rv == 0) {
        db->checkpointing = h;
        h->checkpoint_bytes = bytes + more;
        h->log_bytes = 0;
    } else if (rv == ERR_NOMEM || rv == ERR_BUSY || rv == ERR_DISKFULL) {
        h->checkpoint_retry_ms = env_now_ms(embed_env(db)) + BACKOFF_MS;
        h->checkpoint_wanted = !db->closing;
    } else {
        embed__fail(db, rv, "a checkpoint of heap \"%s\" could not be started: %s", h->name,
                    err_text_of(rv));
    }
}

void embed__checkpoint_run(struct embedded *db)
{
    uint64_t now_ms = env_now_ms(embed_env(db));
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (db->checkpointing != NULL || db->failed != 0 || db->mode == IMAGE_PMEM) {
            return;
        }
        if (h->checkpoint_wanted && (now_ms >= h->checkpoint_retry_ms || db->closing)) {
            start(h);
        }
    }
}

void embed__checkpoint_all(struct embedded *db)
{
    assert(db->closing);
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        h->checkpoint_wanted = !is_clean(h);
    }
    embed__checkpoint_run(db);
    list_for_each (it2, &db->heaps) {
        embed__heap_settle(list_entry(it2, struct embedded_heap, link));
    }
    while (db->checkpointing != NULL && db->failed == 0) { /* of a heap that came before */
        embed__heap_settle(db->checkpointing);
    }
}

/* ---- pages that are loaded after opening ---- */

int embed__check_damage(struct embedded_heap *h)
{
    const char *text;
    int rv = heap_damage(h->heap, &text);
    if (rv != 0) {
        embed__fail(h->db, rv, "%s", text);
    }
    return rv;
}

/* What nobody has wanted yet, one heap after the other. */
static void fill(struct embedded *db)
{
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->heap != NULL && (embed__check_damage(h) != 0 || image_fill(h->heap, FILL_BYTES))) {
            return;
        }
    }
}

/* ---- once a second ---- */

static void upkeep_done(struct embedded_call *call)
{
    struct embedded_heap *h = container_of(call, struct embedded_heap, upkeep);
    inline_lock(&h->db->env);
    if (call->err == 0 && call->value > 0 && !h->db->closing) {
        embed__submit(h, call);
    } else {
        h->upkeep_busy = false;
    }
    inline_unlock(&h->db->env);
}

static const struct embedded_request reclaim = {
    .op = EMBEDDED_RECLAIM, .if_version = UINT64_MAX, .count = HEAP_RECLAIM_RECORDS_MAX};

/* Gives back history that nobody may read any more. */
static void upkeep(struct embedded_heap *h)
{
    if (h->upkeep_busy || h->dropped || h->db->closing || h->db->failed != 0) {
        return;
    }
    uint64_t retention_ms = heap_retention_ms(h->heap);
    uint64_t now_ms = env_wall_us(embed_env(h->db)) / 1000u;
    uint64_t safe_ms = hlc_to_ms(heap_safepoint(h->heap));
    struct heap_counts counts;
    /* Without retention (any more) all that is left goes, and the clock doesn't say when. */
    if (retention_ms != 0 && (now_ms < retention_ms ||
                              now_ms - retention_ms < safe_ms + retention_ms / RETENTION_PARTS)) {
        return;
    }
    heap_get_counts(h->heap, &counts);
    if (counts.undo_count == 0) {
        return;
    }
    h->upkeep = (struct embedded_call){.request = &reclaim, .done = upkeep_done};
    h->upkeep_busy = true;
    embed__submit(h, &h->upkeep);
}

void embed__tick(struct env_timer *timer)
{
    struct embedded *db = container_of(timer, struct embedded, tick);
    uint64_t now_ms = env_now_ms(embed_env(db));
    if (db->closing || db->failed != 0) {
        return;
    }
    env_timer_start_in_ms(embed_env(db), timer, EMBED_TICK_MS);
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->heap == NULL) {
            continue;
        }
        if (h->log != NULL) {
            embed__give_up(h);
        }
        upkeep(h);
        embed__watch_tick(h);
        if (db->mode == IMAGE_DISK && !is_clean(h) && now_ms - h->checkpoint_ms >= INTERVAL_MS) {
            h->checkpoint_wanted = true;
        }
    }
    fill(db);
    embed__room_look(db);
    embed__checkpoint_run(db);
}
