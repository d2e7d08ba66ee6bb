/* When a shard's image is brought up to date, and what of the log may go then (rules E8, E9, E12).
 * One checkpoint at a time on this node's device. */
#include <string.h>

#include "base/log.h"
#include "replica/internal.h"

#define CHECKPOINT_LOG_BYTES_DEFAULT ((uint64_t)8 << 20)
#define LOG_BYTES_MAX_DEFAULT        ((uint64_t)128 << 20)
#define CHECKPOINT_INTERVAL_MS       300000u
#define KEEP_ENTRIES_MAX             1024u /* for followers that lag a little */
#define KEEP_BYTES_MAX               ((uint64_t)4 << 20)
#define BACKOFF_MS_MIN               1000u
#define BACKOFF_MS_MAX               60000u

static uint64_t log_bytes_limit(const struct shard *s)
{
    uint64_t limit = s->r->opts.checkpoint_log_bytes;
    return limit != 0 ? limit : CHECKPOINT_LOG_BYTES_DEFAULT;
}

bool checkpoint_possible(const struct shard *s)
{
    return !s->failed && !s->dropped && s->install.step == INSTALL_NONE && s->heap != NULL &&
           s->applied > 0 && wal_log_durable_index(s->log) >= s->applied &&
           shard__hard_state_is_durable(s);
}

void checkpoint_want(struct shard *s, bool pressed)
{
    s->checkpoint_wanted = true;
    s->checkpoint_pressed = s->checkpoint_pressed || pressed;
    s->r->checkpoints_wanted = true;
}

/* Entries up to here may be released. */
static uint64_t keep_after(const struct shard *s, uint64_t index, bool pressed)
{
    uint64_t keep = index;
    if (!pressed) {
        uint64_t mean = s->log_entries > 0 ? s->log_bytes / s->log_entries + 1 : 256;
        uint64_t window =
            KEEP_BYTES_MAX / mean < KEEP_ENTRIES_MAX ? KEEP_BYTES_MAX / mean : KEEP_ENTRIES_MAX;
        keep = index > window ? index - window : 0;
    }
    if (s->pin.view != NULL && s->pin.manifest.index < keep) {
        keep = s->pin.manifest.index; /* its receivers go on from there */
    }
    return keep > s->keep_after ? keep : s->keep_after;
}

/* The image is durable at `index`: tells the log and consensus. */
static void mark(struct shard *s, uint64_t sequence, uint64_t index, uint64_t term)
{
    uint64_t keep = keep_after(s, index, s->checkpoint_pressed);
    int rv = wal_log_mark_checkpoint(s->log, sequence, index, keep, NULL);
    if (rv != 0) {
        shard__fail(s, rv, "the log took no mark");
        return;
    }
    s->log_is_shorter = false; /* consensus is told below what the log has released */
    s->keep_after = keep;
    s->checkpoint_index = index;
    s->checkpoint_sequence = sequence;
    s->log_bytes = 0;
    s->log_entries = 0;
    s->checkpoint_wanted = false;
    s->checkpoint_pressed = false;
    s->checkpoint_ms = env_now_ms(s->r->env);
    s->checkpoint_backoff_ms = 0;
    struct consensus_update *update = NULL;
    rv = consensus_snapshot_taken(s->consensus, env_now_ms(s->r->env), index, term, keep, &update);
    shard__handle(s, rv, update);
}

static void back_off(struct shard *s)
{
    uint64_t ms = s->checkpoint_backoff_ms * 2;
    s->checkpoint_backoff_ms = ms < BACKOFF_MS_MIN   ? BACKOFF_MS_MIN
                               : ms > BACKOFF_MS_MAX ? BACKOFF_MS_MAX
                                                     : ms;
    s->checkpoint_retry_ms = env_now_ms(s->r->env) + s->checkpoint_backoff_ms;
}

void checkpoint_retry(struct replica *r)
{
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        s->checkpoint_backoff_ms = 0;
        s->checkpoint_retry_ms = 0;
    }
}

/* ---- who waits for one ---- */

static void waits_answer(struct shard *s, const struct image_result *result, uint64_t index,
                         int err)
{
    struct list due;
    list_init(&due);
    list_for_each_safe (it, next, &s->checkpoint_waits) {
        struct shard_checkpoint_wait *wait = list_entry(it, struct shard_checkpoint_wait, link);
        if (err == 0 && wait->index > index) {
            continue; /* what was running began before it was asked for */
        }
        list_remove(&wait->link);
        list_push_back(&due, &wait->link);
    }
    while (!list_empty(&due)) {
        struct shard_checkpoint_wait *wait =
            list_entry(due.next, struct shard_checkpoint_wait, link);
        list_remove(&wait->link);
        if (err == 0) {
            wait->index = index;
        }
        if (err == 0 && result != NULL) {
            wait->pages_written = result->pages_written;
            wait->pages_total = result->pages_total;
            wait->bytes_written = result->bytes_written;
        } else if (err == 0) {
            struct heap_counts counts;
            heap_get_counts(s->heap, &counts);
            wait->pages_total = counts.present_pages;
        }
        wait->cb(wait, err);
    }
    if (!list_empty(&s->checkpoint_waits)) {
        checkpoint_want(s, false);
    }
}

void checkpoint_refuse(struct shard *s, int err)
{
    waits_answer(s, NULL, 0, err);
}

void shard_checkpoint_for(struct shard *shard, struct shard_checkpoint_wait *wait)
{
    wait->index = shard->applied;
    wait->pages_written = wait->pages_total = wait->bytes_written = 0;
    list_push_back(&shard->checkpoint_waits, &wait->link);
    checkpoint_want(shard, false); /* the next tick looks, so that cb never comes from in here */
}

void shard_hold_image(struct shard *shard, bool hold)
{
    assert(hold || shard->image_holds > 0);
    shard->image_holds += hold ? 1 : (uint32_t)-1;
}

const char *shard_dir(const struct shard *shard)
{
    return shard->dir;
}

void shard_get_image_stats(const struct shard *shard, struct image_stats *out)
{
    memset(out, 0, sizeof *out);
    if (shard->image != NULL) {
        image_get_stats(shard->image, out);
    }
}

static void checkpoint_done(void *arg, const struct image_result *result)
{
    struct shard *s = arg;
    s->checkpoint_running = false;
    if (s->r->checkpointing == s) {
        s->r->checkpointing = NULL;
    }
    if (s->failed || s->dropped) {
        return;
    }
    if (result->err == 0) {
        mark(s, result->sequence, result->index, result->term);
        if (!s->failed) {
            waits_answer(s, result, result->index, 0);
        }
    } else if (result->err == ERR_DISKFULL || result->err == ERR_BUSY || result->err == ERR_NOMEM) {
        log_warn("replica", "a checkpoint failed, the one before stays", "shard=%llx err=%s",
                 (unsigned long long)s->uid, err_name(result->err));
        back_off(s);
        if (result->err != ERR_BUSY) {
            checkpoint_refuse(s, result->err);
        }
    } else {
        shard__fail(s, result->err, "a checkpoint could not be written");
    }
    checkpoint_run(s->r);
}

static int start(struct shard *s)
{
    if (!checkpoint_possible(s) || image_busy(s->image) || s->image_holds > 0) {
        return ERR_BUSY;
    }
    if (s->applied == s->checkpoint_index) {
        /* Nothing new; under pressure the tail that is kept for laggards goes. */
        struct image_stats stats;
        image_get_stats(s->image, &stats);
        if (s->checkpoint_pressed && s->keep_after < s->applied) {
            mark(s, s->checkpoint_sequence, s->applied, stats.term);
        }
        s->checkpoint_wanted = false;
        s->checkpoint_pressed = false;
        waits_answer(s, NULL, s->applied, 0);
        return 0;
    }
    uint64_t more;
    uint64_t bytes = image_checkpoint_bytes(s->image, s->heap, &more);
    int rv = image_checkpoint(s->image, s->heap, checkpoint_done, s);
    if (rv == 0) {
        s->checkpoint_bytes = bytes + more;
        s->checkpoint_running = true;
        s->r->checkpointing = s;
    } else if (rv == ERR_BUSY || rv == ERR_NOMEM || rv == ERR_DISKFULL) {
        back_off(s);
        if (rv != ERR_BUSY) {
            checkpoint_refuse(s, rv);
        }
    } else {
        shard__fail(s, rv, "a checkpoint could not be started");
    }
    return rv;
}

void checkpoint_run(struct replica *r)
{
    uint64_t now_ms = env_now_ms(r->env);
    bool wanted = false;
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (r->checkpointing != NULL || r->stopped) {
            return;
        }
        if (s->checkpoint_wanted && now_ms >= s->checkpoint_retry_ms) {
            (void)start(s);
        }
        wanted = wanted || (s->checkpoint_wanted && !s->failed);
    }
    r->checkpoints_wanted = wanted;
}

void checkpoint_tick(struct shard *s, uint64_t now_ms)
{
    if (s->log_bytes >= log_bytes_limit(s) ||
        (s->applied > s->checkpoint_index && now_ms - s->checkpoint_ms >= CHECKPOINT_INTERVAL_MS)) {
        checkpoint_want(s, false);
    }
}

/* All shards together: what is behind the checkpoints is replayed after a crash, stays on the disk,
 * and the place of each entry is kept in memory. One at a time, since only one runs. */
void checkpoint_bound(struct replica *r, uint64_t now_ms)
{
    uint64_t limit = r->opts.log_bytes_max != 0 ? r->opts.log_bytes_max : LOG_BYTES_MAX_DEFAULT;
    uint64_t sum = 0;
    struct shard *largest = NULL;
    if (r->checkpointing != NULL) {
        return;
    }
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (s->failed || s->dropped) {
            continue;
        }
        if (s->checkpoint_wanted && now_ms >= s->checkpoint_retry_ms && s->image_holds == 0 &&
            checkpoint_possible(s)) {
            return; /* that one first */
        }
        sum += s->log_bytes;
        if (!s->checkpoint_wanted && (largest == NULL || s->log_bytes > largest->log_bytes)) {
            largest = s;
        }
    }
    if (sum > limit && largest != NULL) {
        checkpoint_want(largest, false);
    }
}

void checkpoint_heal(struct shard *s)
{
    if (!s->log_is_shorter) {
        return;
    }
    checkpoint_want(s, false);
    if (s->applied == s->checkpoint_index) {
        (void)shard__propose_tick(s); /* there must be something newer to take a snapshot of */
    }
}

int shard_checkpoint(struct shard *shard)
{
    if (shard->failed) {
        return ERR_IO;
    }
    checkpoint_want(shard, false);
    if (shard->r->checkpointing != NULL || shard->checkpoint_running) {
        return ERR_BUSY;
    }
    return start(shard);
}
