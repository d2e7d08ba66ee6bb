/* What the files of the embedded mode share. Nobody outside embed/ and its tests includes this. */
#ifndef CAIRN_EMBED_INTERNAL_H
#define CAIRN_EMBED_INTERNAL_H

#include <pthread.h>

#include "alloc/command.h"
#include "alloc/image.h"
#include "alloc/waiters.h"
#include "base/embedded.h"
#include "base/limits.h"
#include "embed/env_inline.h"
#include "embed/layout.h"
#include "embed/record.h"
#include "wal/wal.h"

#define EMBED_PATH_BYTES        1024u
#define EMBED_WAITING_BYTES_MAX ((size_t)64 << 20) /* of one heap, not yet in the log */
#define EMBED_TICK_MS           1000u
#define EMBED_AHEAD_CALLS_MIN   512u
#define EMBED_SUBMIT_BYTES_MAX  ((size_t)1 << 20) /* of a block of the log: any */

enum embed_mode { EMBED_MODE_AUTO, EMBED_MODE_DISK, EMBED_MODE_PMEM };

struct embed_settings {
    char dir[EMBED_PATH_BYTES];
    enum embed_mode mode;
    uint64_t segment_bytes;
    uint64_t log_bytes_max;
    uint64_t checkpoint_bytes; /* of log since the last one; 0: as fits what is dirty */
    uint32_t ahead_calls_min;  /* in an entry that is applied while it is written; 0: 512 */
};

/* A part of opening that blocks, and needs nothing but files. */
struct embedded_job {
    struct list link;
    void (*run)(struct embedded_job *job); /* any thread */
    int err;
    struct err_text text;
};

/* Between the thread that opens and the disk thread, which has nothing else to do by then. */
struct embedded_opening {
    pthread_mutex_t lock;
    pthread_cond_t news; /* a job, the end of one, or of opening */
    struct list jobs;    /* that nobody has begun */
    unsigned running;
    bool over;
    int err; /* of the first that failed */
    struct err_text text;
    struct embedded_job ask, log;
};

/* Commands that go into one entry of the log. Freed by the log, which keeps it as long as it wants
 * the bytes. */
struct embed_batch {
    struct wal_block block;       /* first */
    struct list link;             /* in heap->waiting */
    struct embedded_call **calls; /* by ordinal; NULL: its caller's deadline has passed */
    uint32_t count, room;
    struct buf body;
    bool applied;   /* and not yet durable: ahead.c */
    bool lingered;  /* it was here a moment ago, and nobody wanted it */
    uint64_t index; /* once appended */
};

struct embedded_heap {
    struct embedded *db;
    struct list link; /* in db->heaps */
    uint64_t uid;
    char name[HEAP_NAME_BYTES_MAX + 1];
    bool dropped;
    struct heap *heap;
    struct image *image;
    struct embedded_job settle;
    uint64_t term; /* of this life: entries of another life have another one */

    /* Disk mode: one entry of a heap is on its way; what arrives meanwhile is the next. */
    struct wal_log *log;
    struct embed_batch *flying;
    struct list flying_link; /* in db->flying */
    struct list waiting;     /* batches */
    size_t waiting_bytes;
    size_t entry_bytes;        /* of the last entry */
    struct list held;          /* reads: until what is applied is durable */
    uint64_t ahead_from;       /* no entry before this one is applied before it is durable */
    bool wanted;               /* somebody wants what waits */
    uint64_t log_bytes;        /* appended since the last checkpoint began */
    uint64_t log_bytes_next;   /* when to look again whether one is due */
    uint64_t checkpoint_index; /* of the newest one; 0: none */
    bool checkpoint_wanted;
    int checkpoint_failed;     /* the last one's error, if it is to be tried again */
    uint64_t checkpoint_bytes; /* what the one that runs writes, at most */
    uint64_t room_pages_next;  /* so many dirty pages: look at the disk's space again */
    uint64_t checkpoint_ms;    /* when the last one ended, or the heap was opened */
    uint64_t checkpoint_retry_ms;

    /* Pmem mode: calls that whoever has the lock next commits together. */
    pthread_mutex_t incoming_lock; /* nothing is taken while it is held */
    struct list incoming;

    struct embedded_call upkeep; /* a RECLAIM under way */
    bool upkeep_busy;

    struct events_waiters waiters;
    bool watch_due; /* something was applied that they haven't looked at */
};

struct embedded {
    struct inline_env env; /* first; its lock guards everything here that changes after open */
    struct embed_settings settings;
    enum image_mode mode;
    uint64_t uid;
    struct env_file *lock_file;
    struct wal *wal; /* NULL in pmem mode */
    bool wal_closed;
    uint64_t stamp; /* of the newest entry */
    uint32_t ahead_calls_min;
    unsigned forks; /* how many there had been when this was opened */

    struct embedded_heap *catalog;
    struct list heaps;         /* all: the catalogue is the first */
    pthread_mutex_t directory; /* held while heaps are created, dropped, opened; before the lock */
    uint64_t next_uid;         /* guarded by it */

    int failed; /* latched: what every call gets from now on */
    char fail_text[ERR_TEXT_BYTES];
    bool closing;

    struct list flying; /* heaps with an entry on its way */
    struct embedded_heap *checkpointing;
    bool tight; /* less space is free than is needed to checkpoint what was taken */
    uint64_t needed_bytes, free_bytes; /* as room.c found them last */
    struct env_timer tick;
    struct env_timer linger;
    struct env_timer watch_turn;
    uint64_t submits, submits_seen; /* by the linger timer */

    pthread_t library, disk;
    struct embedded_opening opening;
    bool stopping;
    struct list finished; /* calls whose done() is due */
    struct list posts;
};

/* What an entry takes of the device: it is written in whole blocks. */
static inline uint64_t embed__log_bytes(size_t len)
{
    return (len + 4096u) / 4096u * 4096u;
}

static inline struct env *embed_env(struct embedded *db)
{
    return &db->env.env;
}

/* ---- instance.c ---- */

/* files: whose file functions are used; NULL: the real ones. */
int embed_open(const struct embed_settings *settings, struct env *files, struct embedded **out,
               struct err_text *e);
void embed_close(struct embedded *db);
/* As after a crash of the process: nothing more is written. For tests. */
void embed_abandon(struct embedded *db);
bool embed_is_foreign(const struct embedded *db); /* thread: any, without the lock */
bool embed_on_library_thread(const struct embedded *db);
void embed_post(struct embedded *db, struct embedded_post *post);
/* The directory is dead: durability was lost, or an entry couldn't be applied. With the lock. */
void embed__fail(struct embedded *db, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- opening.c: what the disk thread does of opening ---- */

void embed__opening_begin(struct embedded *db);
void embed__opening_close(struct embedded *db);
/* Jobs: the images are asked for, the log gets its new segment, an image is settled. */
void embed__opening_ask(struct embedded *db);
void embed__opening_log(struct embedded *db);
void embed__opening_settle(struct embedded_heap *h);
/* Until all are done, of which this thread takes some. The error of the first that failed. */
int embed__opening_wait(struct embedded *db, struct err_text *e);
/* What nobody has begun isn't done any more, and embed__opening_help() returns. */
void embed__opening_end(struct embedded *db);
void embed__opening_help(struct embedded *db); /* the disk thread */

/* ---- table.c ---- */

int embed_url_parse(const char *url, struct embed_settings *out, struct err_text *e);

/* ---- identity.c: who the directory is, and its one mode ---- */

int embed__path(const struct embedded *db, const char *name, char out[EMBED_PATH_BYTES],
                struct err_text *e);
int embed__heap_path(const struct embedded *db, uint64_t uid, char out[EMBED_PATH_BYTES],
                     struct err_text *e);
/* Reads DIR/instance, or begins a new directory. *fresh: it isn't complete yet. */
int embed__identify(struct embedded *db, bool *fresh, struct err_text *e);
int embed__identity_complete(struct embedded *db, struct err_text *e);

/* ---- commit.c: calls, entries, group commit ---- */

void embed_run(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms);
/* A change that must not be in doubt: only for a place in the log it waits no longer than that. */
void embed__run_certain(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms);
/* With the lock. */
int embed__admit(const struct embedded_heap *h, const char **text);
int embed__enqueue(struct embedded_heap *h, struct embedded_call *call);
/* NULL: the next command opens one. */
static inline struct embed_batch *embed__batch_that_takes(const struct embedded_heap *h)
{
    struct embed_batch *last =
        list_empty(&h->waiting) ? NULL : list_entry(h->waiting.prev, struct embed_batch, link);
    return last == NULL || last->body.len >= BATCH_BYTES_CLOSE ? NULL : last;
}
/* What waits becomes entries, one behind the other. */
void embed__want(struct embedded_heap *h);
/* As far as the log's segments reach by now. */
void embed__go_on(struct embedded_heap *h);
/* What waits for a segment that can't be made ends: DISKFULL, nothing has happened. */
void embed__give_up(struct embedded_heap *h);
void embed__library_wake(struct embedded *db);
uint64_t embed__deadline(struct embedded *db, uint32_t timeout_ms);
/* Until woken; works: as one who takes works of the log. False: the time has passed. */
bool embed__call_sleep(struct embedded *db, struct embedded_call *call, uint64_t deadline_ns,
                       bool works);
void embed__finish(struct embedded *db, struct embedded_call *call, int err, const char *text);
void embed__durable(struct embedded *db);
void embed__apply_failed(struct embedded_heap *h, uint64_t index, int err);
void embed__pm_incoming(struct embedded_heap *h, struct embedded_call *call);
void embed__pm_commit(struct embedded_heap *h);
/* Works until nothing of the heap is on its way: no call, no checkpoint. */
void embed__heap_settle(struct embedded_heap *h);
void embed__fail_calls(struct embedded_heap *h, int flying, int waiting, const char *text);

/* ---- apply.c ---- */

/* calls: by ordinal, those without one NULL; NULL: none has one. They get their outcomes; finish:
 * and are finished. */
int embed__apply(struct embedded_heap *h, uint64_t index, uint64_t term, struct slice entry,
                 struct embedded_call **calls, bool finish);
/* Those that have their outcomes. */
void embed__calls_finish(struct embedded *db, struct embed_batch *b);
int embed__apply_one(struct embedded_heap *h, uint64_t version, const struct record *record,
                     struct heap_outcome *out);
void embed__settle(struct embedded_call *call, const struct heap_outcome *outcome,
                   uint64_t version);

/* ---- ahead.c: an entry is applied while the disk writes it ---- */

/* What is applied may not be durable: nobody may see it. */
static inline bool embed__is_ahead(const struct embedded_heap *h)
{
    return h->flying != NULL && h->flying->applied;
}
void embed__ahead_plan(struct embedded_heap *h); /* for the entry that has been appended */
void embed__ahead(struct inline_env *env);
/* A read that has come too early. Its request stays until it is finished. */
void embed__hold(struct embedded_heap *h, struct embedded_call *call);
void embed__held_read(struct embedded_heap *h); /* what is applied is durable */
void embed__held_end(struct embedded_heap *h, int err, const char *text);
/* NULL: its call isn't held. */
struct embedded_call *embed__held_watch(struct embedded *db, const struct embedded_watch *watch);

/* ---- submit.c ---- */

void embed_submit(struct embedded_heap *h, struct embedded_call *call);
void embed__submit(struct embedded_heap *h, struct embedded_call *call); /* with the lock */
bool embed_wait(struct embedded *db, struct embedded_call *call, uint32_t timeout_ms);
void embed_want(struct embedded *db, struct embedded_call *call);
void embed__linger(struct env_timer *timer);

/* ---- checkpoint.c ---- */

/* A page that couldn't be loaded is the end of the directory. 0, or what it is. */
int embed__check_damage(struct embedded_heap *h);

/* ---- read.c ---- */

bool embed__is_read(enum embedded_op op);
void embed__read(struct embedded_heap *h, struct embedded_call *call);

/* ---- watch.c ---- */

void embed__watch(struct embedded_heap *h, struct embedded_call *call);
void embed__watch_applied(struct embedded_heap *h); /* and durable */
void embed__watch_turn(struct env_timer *timer);
void embed__watch_tick(struct embedded_heap *h);
/* All that wait. */
void embed__watch_end(struct embedded_heap *h, int err, const char *text);
void embed_watch_close(struct embedded *db, struct embedded_watch *watch);
uint64_t embed_heap_mark(const struct embedded_heap *h);

/* ---- catalog.c ---- */

int embed_heap_create(struct embedded *db, struct slice name, uint64_t bytes_max,
                      uint64_t retention_ms, uint32_t timeout_ms, struct err_text *e);
int embed_heap_drop(struct embedded *db, struct slice name, uint32_t timeout_ms,
                    struct err_text *e);
int embed_heap_open(struct embedded *db, struct slice name, struct embedded_heap **out,
                    struct err_text *e);
/* Commands of the catalogue, in apply. A fatal error, or 0 with *out. */
int embed__catalog_apply(struct heap *heap, uint64_t version, const struct record *record,
                         struct heap_outcome *out);
/* Opens what the catalogue names, and removes what it doesn't. */
int embed__catalog_load(struct embedded *db, bool fresh, struct err_text *e);

/* ---- recover.c ---- */

/* Opens a heap that exists: image, then the log behind it; without an image it is born as the entry
 * says. fresh: may be born now; else its image is settled by embed__opening_wait(). */
int embed__heap_load(struct embedded *db, const struct catalog_entry *entry, struct slice name,
                     bool fresh, struct embedded_heap **out, struct err_text *e);
void embed__heap_free(struct embedded_heap *h); /* its log is not touched */

/* Whoever leased slots is gone with the process (E25): gives them all back, in logged steps. */
void embed__leases_close(struct embedded *db);
int embed__leases_apply(struct heap *heap, uint32_t count, struct heap_outcome *out);

/* ---- checkpoint.c ---- */

void embed__checkpoint_consider(struct embedded_heap *h); /* after an apply */
void embed__checkpoint_want(struct embedded_heap *h);
void embed__checkpoint_run(struct embedded *db);
void embed__tick(struct env_timer *timer);
/* Waits until every heap is checkpointed, or can't be. */
void embed__checkpoint_all(struct embedded *db);

/* ---- room.c: whether the disk has space ---- */

void embed__room_look(struct embedded *db);         /* once a second, and after a checkpoint */
void embed__room_consider(struct embedded_heap *h); /* after an apply */
bool embed__has_room(const struct embedded *db);    /* disk mode: changes are taken */
int embed__lack_of_room(struct embedded *db, const char **text); /* DISKFULL, or BUSY: it passes */

#endif
