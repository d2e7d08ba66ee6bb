/* Inside of wal/: the structures and who calls whom. Include only from wal/ and its tests. */
#ifndef CAIRN_WAL_INTERNAL_H
#define CAIRN_WAL_INTERNAL_H

#include "base/env.h"
#include "base/list.h"
#include "wal/wal.h"
#include "wal/wal_layout.h"

#define WAL_PATH_BYTES         1024
#define WAL_SPARES_MAX         3            /* files kept for recycling */
#define WAL_BUFFERS_KEPT       3            /* free buffers kept for reuse */
#define WAL_BLOCK_TARGET_BYTES (512u << 10) /* a block takes no further record beyond this */
#define WAL_PENDING_BYTES_MAX  (64u << 20)  /* appended and not yet durable; beyond: NOMEM */
#define WAL_PENDING_BYTES_SOFT (16u << 20)  /* beyond: no room */
#define WAL_SECOND_WRITE_BYTES (64u << 10)  /* waiting bytes worth a second write in flight */
#define WAL_SUBMIT_BYTES_MAX   (64u << 10)  /* a write up to here is begun by the loop itself */
#define WAL_ROOM_RESERVE_BYTES (16u << 20)
#define WAL_ITEMS_KEPT         2048u /* room for so many entries of a shard is never given back */
#define WAL_SILENCE_MS         50
#define WAL_TICK_MS            1000
#define WAL_TICK_FULL_MS       100 /* of a full log: its shards release it one after another */
#define WAL_RETRY_MS           10
#define WAL_RELOCATE_STEP      (256u << 10) /* bytes re-appended per step */
#define WAL_RELOCATE_SEGMENTS  4            /* fewer segments are never worth a relocation */
#define WAL_LATENCIES          1024

/* ---- segments: segment.c
 * ------------------------------------------------------------------------------------------ */

struct wal_segment {
    struct list link; /* in wal->segments, oldest first */
    struct wal_header header;
    struct env_file *file;
    uint64_t live;       /* entries whose only copy is here */
    uint64_t live_bytes; /* of their records */
    uint64_t release_at; /* what killed the last of them is durable from this position on */
    bool opened;         /* its opening block is durable */
};

/* Makes files on a worker: the next segment, or a spare one. */
#define WAL_WHY_BYTES 96
struct wal_prepare {
    struct env_work work;
    struct wal *wal;
    bool active;
    bool want_segment; /* else a spare */
    bool recycle;      /* from the spare file `spare_id`, which must be made first otherwise */
    uint64_t spare_id;
    struct wal_header header;
    struct env_file *file;
    bool spare_made; /* the spare file exists now (after a failure too) */
    int err;
    char why[WAL_WHY_BYTES];
};

void wal__segment_path(const char *dir, uint64_t sequence, char out[WAL_PATH_BYTES]);
void wal__spare_path(const char *dir, uint64_t id, char out[WAL_PATH_BYTES]);
/* Kind of a name in the directory: 's' segment, 'p' spare (both with *number), 0 something else. */
char wal__name_parse(const char *name, uint64_t *number);
/* Blocking; file functions only. thread: any */
int wal__spare_make(struct env *env, const char *dir, uint64_t id, uint64_t bytes);
/* From the spare file: header and, unless empty, an opening block, synced; then the segment's name,
 * which may replace another file. */
int wal__segment_make(struct env *env, const char *dir, uint64_t spare_id,
                      const struct wal_header *header, struct slice opening, bool direct,
                      struct env_file **out);
/* Starts making what is missing, unless it is being made or just failed. */
void wal__prepare_kick(struct wal *wal);
/* Releases what can go, oldest first. */
void wal__release(struct wal *wal);
/* The file of a released or unused segment becomes a spare, or goes. Never fails: what stays is
 * stale and harmless. */
void wal__retire_file(struct wal *wal, uint64_t sequence, bool same_size);

/* ---- one shard: log.c
 * --------------------------------------------------------------------------------------------- */

struct wal_item {
    uint64_t term;
    struct wal_block *block;     /* while cached */
    const uint8_t *data;         /* inside it */
    struct wal_segment *segment; /* where its newest durable copy is, or NULL */
    uint32_t offset;             /* of that record in the file */
    uint32_t len;
    uint32_t pending; /* serial of the buffer with a newer copy; 0 if none */
    uint8_t type;
};

/* A place found by replay for an index below what it has seen: the segments before were released.
 */
struct wal_gap_item {
    uint64_t index;
    struct wal_item item;
};

struct wal_log {
    struct wal *wal;
    struct list link; /* in wal->logs */
    struct wal_log *hash_next;
    uint64_t uid;
    uint64_t prev_index, prev_term;

    /* Items of the indexes first .. first + count - 1 in a ring. first == prev_index + 1 but during
     * replay, when indexes up to gap_last wait for their places in gap[]. */
    struct wal_item *items;
    size_t capacity; /* a power of two, or 0 */
    size_t head;
    uint64_t first;
    uint64_t count;
    uint64_t gap_last;
    uint64_t gap_last_term; /* 0: unknown */
    struct wal_gap_item *gap;
    size_t gap_count, gap_capacity;
    bool restated; /* by the opening block that replay is at */

    uint64_t durable_index;
    uint64_t applied_index;
    uint64_t cached_first; /* items from here on have their data in memory */

    uint64_t term, voted_for;
    uint64_t checkpoint_sequence, checkpoint_index;
    uint64_t commit_hint;
    struct list hint_link; /* in wal->hints while the hint isn't in a buffer */

    struct list release_link; /* in wal->releases while a checkpoint's release waits for its mark */
    uint64_t release_index, release_term, release_position;

    uint64_t pressure_at_ns;
};

struct wal_log *wal__log_new(struct wal *wal, uint64_t uid, uint64_t prev_index,
                             uint64_t prev_term);
void wal__log_free(struct wal_log *log); /* unlinks from everything */
struct wal_item *wal__item(const struct wal_log *log, uint64_t index);
int wal__items_reserve(struct wal_log *log, size_t more);
/* Appends one item at last_index + 1; room must be reserved. */
struct wal_item *wal__item_push(struct wal_log *log);
/* Drop the items from `index` on, or up to `index`; what killed them ends at `position`. */
void wal__items_cut(struct wal_log *log, uint64_t index, uint64_t position);
void wal__items_release(struct wal_log *log, uint64_t index, uint64_t position);
void wal__item_place(struct wal_item *item, struct wal_segment *segment, uint32_t offset,
                     uint64_t position);
void wal__restate_of(const struct wal_log *log, struct wal_restate *out);
/* Brings the cache under its limit as far as entries may go. */
void wal__cache_trim(struct wal *wal);
/* Reads one entry's data; *block carries a reference for the caller. ERR_CORRUPT, ERR_IO, ERR_NOMEM
 */
int wal__item_load(struct wal_log *log, uint64_t index, struct wal_block **block,
                   struct slice *data);
/* Re-appends live entries of the oldest segment, one step; true if more is left. */
bool wal__relocate(struct wal *wal);

/* ---- buffers and writes: writer.c
 * --------------------------------------------------------------------------------- */

struct wal_buffer {
    struct list link; /* in wal->queue or wal->free_buffers */
    uint8_t *data;    /* aligned; the records start at WAL_BLOCK_HEAD_BYTES */
    size_t capacity;
    size_t used;
    uint32_t records;
    uint32_t serial;
    uint64_t position, position_end;
    uint64_t offset; /* in its segment; set when closed */
    bool opening;
};

struct wal_write {
    struct env_work work;
    struct wal *wal;
    struct wal_buffer *buffer; /* NULL: idle */
    struct wal_segment *segment;
    struct wal_block_head head;
    size_t bytes;
    uint64_t started_ns;
    bool done;
    int err;
};

/* Adds one record to the fill buffer. `counts`: it moves the position. ERR_NOMEM, ERR_TOOBIG */
int wal__put(struct wal *wal, const struct wal_record *r);
/* After a put for which somebody waits: flush at the end of the turn. */
void wal__wake(struct wal *wal);
/* Gets the buffers that putting these entries will take, so that wal__put can't fail on the way;
 * afterwards, whatever the outcome, wal__unreserve(). ERR_NOMEM, ERR_TOOBIG */
int wal__reserve(struct wal *wal, const struct wal_entry *entries, size_t count);
void wal__unreserve(struct wal *wal);
int wal__close_fill(struct wal *wal);
/* A free buffer of at least `bytes`, or NULL. */
struct wal_buffer *wal__buffer_get(struct wal *wal, size_t bytes);
void wal__buffer_put(struct wal *wal, struct wal_buffer *b);
/* Builds the opening block of a segment in a buffer of its own: OPENING, every shard's RESTATE,
 * then `tail`'s records with room for `more` bytes. Takes over the tail's serial and positions (it
 * may be NULL). */
int wal__opening_make(struct wal *wal, uint64_t prev_valid, const struct wal_buffer *tail,
                      size_t more, struct wal_buffer **out);
/* Appends a record to a buffer that has room for it. */
void wal__buffer_add(struct wal_buffer *b, const struct wal_record *r);
/* What stands in b is durable in `segment`: gives its entries their places. */
void wal__buffer_placed(struct wal *wal, const struct wal_buffer *b, struct wal_segment *segment);
void wal__flush(struct wal *wal);
/* The log is dead from now on; the owner hears of it in the next turn. Later failures are ignored.
 */
void wal__fail(struct wal *wal, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void wal__writer_init(struct wal *wal);
/* Goes on with closing, or frees an abandoned log, when nothing is under way any more. */
void wal__finish_step(struct wal *wal);

/* ---- which segment is the newest: newest.c
 * ---------------------------------------------------------------------------------- */

/* generation 0: nobody has said. */
int wal__newest_read(struct env *env, const char *dir, struct wal_newest *out);
/* Synced, and in *newest. Also when that says so already: what was read may have stood in the page
 * cache only. After an error *newest is as it was, and what is on disk is that or `sequence`. */
int wal__newest_write(struct env *env, const char *dir, struct wal_newest *newest,
                      uint64_t sequence);

/* ---- reading a directory: scan.c
 * ---------------------------------------------------------------------------------- */

struct wal_found {
    struct wal_header header;
    uint64_t file_bytes;
    uint64_t prev_valid;  /* what its opening block says of the segment before */
    uint64_t valid_bytes; /* offset up to which its blocks stand */
};

struct wal_scan {
    struct env *env;
    const char *dir;
    struct wal_found *segments; /* the used ones, oldest first */
    size_t count;
    uint64_t *stale; /* sequences of files that belong to no log: unused, or released and not
                        renamed for ever */
    size_t stale_count;
    uint64_t *spares;
    size_t spare_count;
    struct wal_newest newest;
    uint64_t synced_to; /* S */
    uint64_t position;
    bool torn;      /* an incomplete block stands behind the last valid one */
    uint8_t *image; /* of segment number image_of, image_bytes long */
    size_t image_of, image_bytes;
    bool image_valid;
};

/* A valid block: `records` are its bytes behind the head. Return an error to stop. */
typedef int (*wal_block_cb)(void *arg, const struct wal_scan *scan, size_t segment, uint64_t offset,
                            const struct wal_block_head *head, struct slice records);

/* Finds the segments of the log in `dir`, S, and where the log ends. Changes nothing. close it in
 * any case. */
int wal__scan_open(struct wal_scan *scan, struct env *env, const char *dir, uint64_t node_uid,
                   struct err_text *e);
/* Every block in order. After it the image of the last segment is still in memory. */
int wal__scan_blocks(struct wal_scan *scan, wal_block_cb cb, void *arg, struct err_text *e);
void wal__scan_close(struct wal_scan *scan);

/* ---- replay.c
 * -----------------------------------------------------------------------------------------------------
 */

/* Fills wal->logs and wal->segments from the scan. */
int wal__replay(struct wal *wal, struct wal_scan *scan, struct err_text *e);
/* The new segment that wal_begin() makes, in wal->begin: header, opening block with everything at
 * or above S. */
int wal__begin_plan(struct wal *wal, struct wal_scan *scan, struct err_text *e);
/* Makes it the current one, instead of the last one or behind it. ERR_NOMEM. */
int wal__begin_adopt(struct wal *wal);

/* ---- the whole
 * ----------------------------------------------------------------------------------------------------
 */

/* The segment that opening makes. wal_begin()'s, as long as that runs. */
struct wal_begin {
    struct wal_header header;
    struct wal_buffer *buffer; /* its opening block; NULL: there is nothing to be made */
    size_t padded;             /* that block's bytes */
    uint64_t spare;            /* of which it is made */
    bool makes_spare;          /* there is none */
    bool replaces;             /* it takes the last one's place */
    struct env_file *file;     /* NULL: it isn't made */
    uint64_t started_ns;
};

struct wal {
    struct env *env;
    struct wal_opts opts;
    char *dir;
    struct env_file *lock;
    uint64_t segment_bytes;
    size_t block_target;
    size_t record_bytes_max;

    struct wal_log **table;
    size_t table_size; /* a power of two */
    size_t log_count;
    struct list logs;
    struct list hints;
    struct list releases;

    struct list segments;        /* oldest first; the last one is the current one */
    struct wal_segment *current; /* takes the blocks */
    struct wal_segment *next;    /* prepared, empty */
    uint64_t segment_count;
    struct wal_newest newest; /* the preparation's, while there is one under way; wal_begin()'s */
    struct wal_begin begin;
    uint64_t spares[WAL_SPARES_MAX];
    size_t spare_count;
    uint64_t spare_id_next;
    struct wal_prepare prepare;
    bool no_space; /* the last preparation failed */
    char no_space_why[WAL_WHY_BYTES];
    uint64_t retry_at_ns;     /* the next may start */
    uint64_t disk_free_bytes; /* as of the last tick */

    uint64_t position;
    uint64_t durable_position;
    uint64_t notified_position;
    uint64_t synced_to;
    uint32_t serial;
    struct wal_buffer *fill;
    struct list queue; /* closed buffers, oldest first */
    struct list free_buffers;
    size_t free_count;
    struct list reserved; /* buffers for an append under way, in the order in which it takes them */
    bool reserving;
    size_t pending_bytes; /* in fill, queue and writes */
    uint64_t plan_end;    /* where the next closed buffer goes in the segment it will find */

    struct wal_write writes[2];
    unsigned in_flight;
    unsigned oldest_write;
    struct env_task flush_task;
    bool flush_is_behind; /* once more to the end of the turn */
    struct env_task notify_task;
    struct env_timer silence_timer;
    struct env_timer tick_timer;
    struct env_timer retry_timer;
    struct env_timer finish_timer;
    uint64_t busy_at_ns; /* last activity */
    bool marked;         /* the last record is a mark */
    bool relocating;

    uint64_t cached_bytes;
    int failed;
    bool fail_reported;
    struct err_text fail_text;
    bool closing;
    bool clean_marked;
    bool next_opens; /* the next block that is closed opens a segment, however much room is left */
    bool abandoned;
    void (*close_cb)(void *arg, int err);
    void *close_arg;

    struct wal_stats stats;
    uint64_t latencies[WAL_LATENCIES];
    size_t latency_count;
};

struct wal_segment *wal__segment_new(struct wal *wal, const struct wal_header *header,
                                     struct env_file *file);
void wal__free(struct wal *wal);

#endif
