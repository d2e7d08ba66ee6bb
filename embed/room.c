/* Admission by disk space (rules E12), in disk mode: changes are taken only while what was taken
 * already can be checkpointed, since nothing but a checkpoint gives segments of the log back. A
 * disk that fills up beyond that point would stay full for good: no checkpoint for want of space,
 * no space for want of a checkpoint; and as each opening needs a segment, the directory could in
 * the end not even be opened.
 *
 * Asked for: all dirty pages, the largest base that is due (one checkpoint runs at a time), and
 * what the log wants for itself. Looked at once a second, and whenever LOOK_PAGES more are dirty.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "embed/internal.h"

#define LOOK_PAGES ((uint64_t)1024)
#define MIB        ((uint64_t)1 << 20)

static uint64_t dirty_pages(const struct embedded_heap *h)
{
    struct heap_counts counts;
    heap_get_counts(h->heap, &counts);
    return counts.dirty_pages;
}

void embed__room_look(struct embedded *db)
{
    uint64_t needed = 0;
    uint64_t more_max = 0;
    if (db->mode != IMAGE_DISK || db->wal == NULL || db->failed != 0) {
        return;
    }
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->heap == NULL || h->image == NULL || h->dropped) {
            continue;
        }
        uint64_t more;
        needed += image_checkpoint_bytes(h->image, h->heap, &more);
        needed += db->checkpointing == h ? h->checkpoint_bytes : 0; /* some of which is written */
        more_max = more > more_max ? more : more_max;
        h->room_pages_next = dirty_pages(h) + LOOK_PAGES;
    }
    bool was_tight = db->tight;
    db->needed_bytes = needed + more_max + wal_room_bytes(db->wal);
    if (env_disk_free(embed_env(db), db->settings.dir, &db->free_bytes) != 0) {
        db->free_bytes = UINT64_MAX; /* not known: writing will tell */
    }
    db->tight = db->free_bytes < db->needed_bytes;
    if (db->tight != was_tight) {
        log_at(db->tight ? LOG_WARN : LOG_INFO, "embed",
               db->tight ? "disk space runs out: changes are refused" : "there is disk space again",
               "free_bytes=%" PRIu64 " needed_bytes=%" PRIu64 " dir=%s", db->free_bytes,
               db->needed_bytes, db->settings.dir);
    }
    if (!db->tight || db->closing) {
        return;
    }
    list_for_each (it2, &db->heaps) { /* while it fits: it gives log back */
        struct embedded_heap *h = list_entry(it2, struct embedded_heap, link);
        if (h->heap != NULL && !h->dropped && h->checkpoint_index != heap_index(h->heap)) {
            h->checkpoint_wanted = true;
        }
    }
}

void embed__room_consider(struct embedded_heap *h)
{
    if (!h->db->tight && dirty_pages(h) >= h->room_pages_next) {
        embed__room_look(h->db);
    }
}

bool embed__has_room(const struct embedded *db)
{
    return !db->tight && wal_has_room(db->wal);
}

/* Checkpoints that are to make room, and can be begun. */
static bool is_being_made(const struct embedded *db)
{
    if (db->checkpointing != NULL) {
        return true;
    }
    list_for_each (it, &db->heaps) {
        const struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->checkpoint_wanted && h->checkpoint_failed == 0) {
            return true;
        }
    }
    return false;
}

/* Why the log takes nothing now: BUSY passes when checkpoints have caught up. */
int embed__lack_of_room(struct embedded *db, const char **text)
{
    static _Thread_local char words[ERR_TEXT_BYTES]; /* copied by who gets it, on this thread */
    uint64_t free_bytes;
    if (db->failed != 0) {
        *text = db->fail_text;
        return db->failed;
    }
    if (db->wal == NULL) {
        *text = "the log is closed";
        return ERR_BUSY;
    }
    if (env_disk_free(embed_env(db), db->settings.dir, &free_bytes) != 0) {
        free_bytes = UINT64_MAX;
    }
    uint64_t needed = db->tight ? db->needed_bytes : wal_room_bytes(db->wal);
    if (free_bytes < needed && !(db->tight && is_being_made(db))) {
        (void)snprintf(words, sizeof words,
                       "the disk is full: %.300s is to have %" PRIu64
                       " MiB free for its log and its "
                       "next checkpoint, and has %" PRIu64 "; free some space",
                       db->settings.dir, (needed + MIB - 1) / MIB, free_bytes / MIB);
        *text = words;
        return ERR_DISKFULL;
    }
    const char *why = wal_prepare_error(db->wal);
    if (why[0] != '\0') {
        (void)snprintf(words, sizeof words, "no new segment of the log can be made: %s", why);
        *text = words;
        return ERR_BUSY;
    }
    *text = db->tight ? "the disk is almost full: a checkpoint is to make room"
                      : "the log is as long as it may be, and waits for a checkpoint: try again";
    return ERR_BUSY;
}
