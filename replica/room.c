/* Admission by disk space (rules E12): a leader takes new commands only while what it took already
 * can be checkpointed, since nothing but a checkpoint gives log segments back. A disk that fills up
 * beyond that point would stay full for good: no checkpoint for want of space, and no space for
 * want of a checkpoint.
 *
 * Asked for: all dirty pages, the largest base that is due (it stands beside the one it replaces;
 * one checkpoint runs at a time), and what the log wants for itself. A follower's disk doesn't
 * matter here: it can't refuse what the leader took; its log waits in memory and isn't acknowledged
 * (wal/README.md). */
#include "base/log.h"
#include "replica/internal.h"

#define LOOK_MS 1000u

void room_tick(struct replica *r, uint64_t now_ms)
{
    if (now_ms < r->room_look_ms) {
        return;
    }
    r->room_look_ms = now_ms + LOOK_MS;
    uint64_t dirty_all = 0;
    uint64_t more_max = 0;
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (s->failed || s->dropped || s->heap == NULL || s->image == NULL) {
            continue;
        }
        uint64_t more;
        dirty_all += image_checkpoint_bytes(s->image, s->heap, &more);
        if (s->checkpoint_running) {
            dirty_all += s->checkpoint_bytes; /* some of which is written by now */
        }
        more_max = more > more_max ? more : more_max;
    }
    struct replica_room *room = &r->room;
    bool was_tight = room->tight;
    room->needed_bytes = dirty_all + more_max + wal_room_bytes(r->wal);
    if (env_disk_free(r->env, r->dir, &room->free_bytes) != 0) {
        room->free_bytes = UINT64_MAX; /* not known: writing will tell */
    }
    room->tight = r->opts.mode == IMAGE_DISK && room->free_bytes < room->needed_bytes;
    if (room->tight != was_tight) {
        log_at(room->tight ? LOG_WARN : LOG_INFO, "replica",
               room->tight ? "disk space runs out: new work is refused"
                           : "there is disk space again",
               "free_bytes=%llu needed_bytes=%llu", (unsigned long long)room->free_bytes,
               (unsigned long long)room->needed_bytes);
    }
    if (!room->tight) {
        if (was_tight) {
            checkpoint_retry(r); /* those that found no space wait no longer than the space did */
        }
        return;
    }
    list_for_each (it, &r->shards) {
        struct shard *s = list_entry(it, struct shard, link);
        if (!s->failed && !s->dropped && s->applied > s->checkpoint_index) {
            checkpoint_want(s, false); /* while it fits: it gives log back */
        }
    }
}

bool replica_has_room(const struct replica *r)
{
    return !r->room.tight && wal_has_room(r->wal);
}

void replica_get_room(const struct replica *r, struct replica_room *out)
{
    *out = r->room;
}
