/* The log of one reactor: one sequence of records on disk for all shards of the node.
 *
 * It stores entries, truncations, hard state and checkpoint marks per shard and never asks what an
 * entry means. Group commit: appends collect in a buffer during a turn of the loop and are written
 * and synced together, by at most two writes in flight. A *position* is the log's own monotonic
 * byte count; it is durable when everything before it is.
 *
 * All calls on the reactor's thread. Format, and how a torn tail is told from corruption:
 * docs/wal-format.md,
 * ../shared rules E1-E9. After a failed write or sync the log is dead (rules I11): on_failed is
 * called once, every later append returns ERR_IO, and the node stops. */
#ifndef CAIRN_WAL_WAL_H
#define CAIRN_WAL_WAL_H

#include "base/env.h"

#define WAL_DIR_BYTES_MAX 960u /* the name of a log's directory; a longer one is refused */

struct wal;
struct wal_log; /* one shard's part of it */

/* Reference-counted memory that entries point into; freed with `release` when the last reference
 * goes. */
struct wal_block {
    uint32_t refs;
    void (*release)(struct wal_block *block);
};
static inline void wal_block_ref(struct wal_block *b)
{
    b->refs++;
}
static inline void wal_block_unref(struct wal_block *b)
{
    if (--b->refs == 0) {
        b->release(b);
    }
}

struct wal_entry {
    uint64_t term;
    uint8_t type;            /* the replica's; 1..255 */
    struct slice data;       /* inside *block */
    struct wal_block *block; /* may be NULL only when data is empty */
};

struct wal_stats {
    uint64_t bytes_appended; /* payload of records */
    uint64_t bytes_written;  /* to the device, with padding */
    uint64_t writes, syncs;  /* since open */
    uint64_t records;
    uint64_t sync_ns_p50, sync_ns_p99; /* of the last 1024 writes (write + sync) */
    uint64_t segments, disk_bytes;     /* now */
    uint64_t cached_bytes;             /* entries kept in memory */
};

struct wal_opts {
    const char *dir;   /* created if missing; copied */
    uint64_t node_uid; /* stands in every segment header; a directory of another node is refused */
    uint64_t segment_bytes; /* 0: 16 MiB */
    uint64_t cache_bytes;   /* entries kept in memory for followers and apply; 0: 8 MiB. Entries not
                               yet durable or   not yet released by wal_log_applied() are kept
                               whatever   this says. */
    uint64_t disk_bytes_max; /* 0: 1 GiB. Above half of it `on_pressure` asks for checkpoints of
                                pinning shards. */
    bool direct;             /* open segments with ENV_OPEN_DIRECT */
    bool begin_later;        /* wal_open() is the first half: wal_begin(), wal_begun() follow */
    bool existing; /* there was a log: ERR_CORRUPT if no segment of it is there any more */
    size_t submit_bytes_max; /* what env_file_submit() is asked to write; 0: 64 KiB */
    /* Everything up to `position` is durable now. Called at most once per turn. */
    void (*on_durable)(void *arg, uint64_t position);
    /* The log is dead: err and one line for the operator. */
    void (*on_failed)(void *arg, int err, const char *text);
    /* `log` keeps old segments from being released: checkpoint it. Repeated at most once per second
     * per log. */
    void (*on_pressure)(void *arg, struct wal_log *log);
    /* May be NULL. A segment has been made: who waits because of wal_prepared() asks again. */
    void (*on_prepared)(void *arg);
    void *arg;
};

/* Opens or creates; replays what is there (blocking). On success every shard that stood in the log
 * has its wal_log. ERR_CORRUPT: damage below the synced position (text names segment and offset):
 * this node's log can't be trusted. ERR_LOCKED, ERR_VERSION, ERR_WRONGCLUSTER (another node_uid),
 * ERR_IO, ERR_DISKFULL, ERR_NOMEM. */
int wal_open(struct env *env, const struct wal_opts *opts, struct wal **out, struct err_text *e);
/* The second half of opening, for who has other things to do while the disk is at it: makes the
 * segment that is written from now on (blocking), with all that must not rest on the page cache.
 * Before it nothing that was read of the log is to be believed for good. thread: any; meanwhile the
 * log's own thread may read the log, but not change it. Errors as wal_open()'s; then, and instead
 * of it, only wal_abandon(). */
int wal_begin(struct wal *wal, struct err_text *e);
/* Once it was successful; on the log's own thread. From now on the log takes changes. ERR_NOMEM. */
int wal_begun(struct wal *wal);
/* Writes what is buffered and the clean-stop mark, then calls done (in a later turn; err as a
 * failed write). Frees. */
void wal_close(struct wal *wal, void (*done)(void *arg, int err), void *arg);
/* Frees at once without writing anything: after on_failed, and for tests of crashes. */
void wal_abandon(struct wal *wal);

uint64_t wal_position(const struct wal *wal);         /* end of what was appended */
uint64_t wal_durable_position(const struct wal *wal); /* end of what is durable */
/* A write of several records is under way: what is appended meanwhile goes with the next one. */
bool wal_gathers(const struct wal *wal);
/* on_durable comes in this turn. */
bool wal_has_news(const struct wal *wal);
void wal_stats(const struct wal *wal, struct wal_stats *out);
/* False while free disk space is below the reserve (two segments + 16 MiB) or disk_bytes_max is
 * reached: the leader answers BUSY instead of proposing. Re-evaluated every second. */
bool wal_has_room(const struct wal *wal);
uint64_t wal_room_bytes(const struct wal *wal); /* that free disk space */
/* Has an entry of `bytes` its place in a segment that exists? 0: yes. BUSY: it would be behind one
 * that is being made; DISKFULL: that failed, and is tried again every second. Then an append is
 * taken all the same, but waits in memory: who must not leave a change in doubt waits before. */
int wal_prepared(const struct wal *wal, size_t bytes);
/* Why the newest attempt to make a segment failed; "": it didn't. */
const char *wal_prepare_error(const struct wal *wal);
/* Of an entry's data, at most: TOOBIG beyond. By the size of the segments. */
uint64_t wal_entry_bytes_max(const struct wal *wal);

/* ---- one shard's log
 * ---------------------------------------------------------------------------------------------- */

/* uid: never reused. NULL if the log holds nothing of it. */
struct wal_log *wal_log_find(struct wal *wal, uint64_t uid);
void wal_log_each(struct wal *wal, void (*cb)(void *arg, struct wal_log *log), void *arg);
/* A new, empty log: its first entry will have index prev_index + 1, the one before it has prev_term
 * (0, 0 at birth). */
int wal_log_create(struct wal *wal, uint64_t uid, uint64_t prev_index, uint64_t prev_term,
                   struct wal_log **out);
/* Forgets the shard for ever (its records are dead from this position on); frees `log`. */
int wal_log_drop(struct wal_log *log);

uint64_t wal_log_uid(const struct wal_log *log);
uint64_t
wal_log_prev_index(const struct wal_log *log); /* of the entry before the first; 0 at birth */
uint64_t wal_log_prev_term(const struct wal_log *log);
uint64_t wal_log_last_index(const struct wal_log *log); /* == prev_index when empty */
uint64_t wal_log_last_term(const struct wal_log *log);
uint64_t wal_log_term(const struct wal_log *log,
                      uint64_t index); /* 0 if the log doesn't hold it (prev_index: prev_term) */
uint64_t wal_log_durable_index(const struct wal_log *log); /* last entry that is durable */
void wal_log_hard_state(const struct wal_log *log, uint64_t *term, uint64_t *voted_for);
void wal_log_checkpoint(const struct wal_log *log, uint64_t *sequence,
                        uint64_t *index); /* last mark; 0, 0 if none */
uint64_t wal_log_commit_hint(
    const struct wal_log *log); /* a commit index known at some time before the crash; 0 */

/* Appends `count` entries with indexes first_index.. ; first_index must be last_index + 1. Entries'
 * blocks get one reference each. *position (may be NULL): where they end. ERR_IO (dead), ERR_NOMEM
 * (nothing appended). */
int wal_log_append(struct wal_log *log, uint64_t first_index, const struct wal_entry *entries,
                   size_t count, uint64_t *position);
/* Removes the entries from `index` on. */
int wal_log_truncate(struct wal_log *log, uint64_t index, uint64_t *position);
int wal_log_set_hard_state(struct wal_log *log, uint64_t term, uint64_t voted_for,
                           uint64_t *position);
/* Not synced for its own sake: rides along with the next write. */
void wal_log_set_commit_hint(struct wal_log *log, uint64_t index);
/* A checkpoint with this sequence covers everything up to `index` and is durable: records the mark,
 * and once that is durable itself releases entries <= keep_after (<= index; entries above it stay
 * readable for lagging followers). */
int wal_log_mark_checkpoint(struct wal_log *log, uint64_t sequence, uint64_t index,
                            uint64_t keep_after, uint64_t *position);
/* Drops all entries and starts anew behind an installed snapshot. */
int wal_log_restart(struct wal_log *log, uint64_t prev_index, uint64_t prev_term,
                    uint64_t *position);
/* Entries <= index were applied and may leave the memory cache. */
void wal_log_applied(struct wal_log *log, uint64_t index);

/* Entries from `index` on, at most `max` of them and at most `bytes_max` bytes (but at least one).
 * Each returned block carries a reference that the caller gives back with wal_block_unref(). Reads
 * the disk when they left the cache. *count 0: index is last_index + 1. ERR_NOTFOUND: released
 * already. ERR_CORRUPT/ERR_IO: as on_failed. */
int wal_log_read(struct wal_log *log, uint64_t index, struct wal_entry *out, size_t max,
                 size_t bytes_max, size_t *count);

/* Asks the caches for the log itself. */
void wal_log_ahead(const struct wal_log *log);
/* Then for its newest entry, and the place of the next one. */
void wal_tail_ahead(const struct wal_log *log);
/* Asks them for what wal_log_read() of this entry will read, a step (0 to 2) at a time, so that
 * those of several logs pass side by side. From step 2 on: the entry's bytes if they are in
 * memory, else nothing. */
struct slice wal_entry_ahead(const struct wal_log *log, uint64_t index, unsigned step);

/* Offline: prints every record of the log in `dir` through cb, in order, without changing anything.
 * Returns 0, ERR_INVAL (a longer name than WAL_DIR_BYTES_MAX), or ERR_CORRUPT after the last good
 * record. */
struct wal_dump_record {
    uint64_t segment, offset, uid, index, term;
    const char
        *kind; /* "entry", "truncate", "hard-state", "checkpoint", "create", "restart", "drop",
                  "commit", "mark", and of each segment's first block "opening", "restate" */
    uint8_t type;
    struct slice data;
};
int wal_dump(struct env *env, const char *dir,
             void (*cb)(void *arg, const struct wal_dump_record *record), void *arg,
             struct err_text *e);

#endif
