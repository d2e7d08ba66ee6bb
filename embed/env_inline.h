/* An environment without a loop: the log and the images believe they run on one reactor's thread,
 * and that thread is whoever holds the lock.
 *
 * A *turn* is a stretch of holding it. inline_turn_end() runs what was deferred, and must come
 * before the lock is let go. Works wait in their queues until a thread takes them: those of the log
 * any thread that waits for its own call (inline_work()), so that a lone writer syncs by itself and
 * switches no thread; what nobody waits for, the library thread. */
#ifndef CAIRN_EMBED_ENV_INLINE_H
#define CAIRN_EMBED_ENV_INLINE_H

#include <pthread.h>

#include "base/env.h"
#include "base/env_file.h"

#define INLINE_TIMERS_MAX 16u

#define INLINE_LOG  (1u << ENV_QUEUE_LOG_0 | 1u << ENV_QUEUE_LOG_1)
#define INLINE_DISK (1u << ENV_QUEUE_CHECKPOINT | 1u << ENV_QUEUE_MISC)

/* A thread that waits; in its frame. */
struct inline_waiter {
    struct list link;
    pthread_cond_t wake;
    struct inline_waiter *same; /* the owner's: another one that waits for the same thing */
};

/* A write of the log that needs no thread while the disk is at it. */
struct inline_write {
    struct env_work *work; /* NULL: none */
    struct env_file *file;
    const void *data;
    size_t len;
    uint64_t offset;
    int *err;
    struct env_file_write begun;
};

struct inline_env {
    struct env env; /* first */
    struct env_ops ops;
    struct env *files; /* whose file functions are used */
    pthread_mutex_t lock;
    struct list tasks;
    struct env_timer *timers[INLINE_TIMERS_MAX];
    struct list works[ENV_QUEUE_COUNT]; /* not yet started */
    bool running[ENV_QUEUE_COUNT];
    unsigned due;     /* bit by queue: there is a work, and nobody runs one of it */
    size_t works_out; /* submitted, not yet done */
    struct list waiters;
    /* What the thread that writes the log does while the disk is at it; with the lock, once,
     * wherever somebody has set `meanwhile_due`. */
    void (*meanwhile)(struct inline_env *e);
    bool meanwhile_due;
    struct inline_write writes[2]; /* by queue of the log */
    /* The threads of the directory sleep on these. */
    pthread_cond_t library_wake, disk_wake;
    uint64_t library_until_ns; /* when it wakes by itself; 0: it is awake */
    bool disk_sleeps;
};

/* files: NULL: the real ones. Borrowed. */
void inline_open(struct inline_env *e, struct env *files);
void inline_close(struct inline_env *e); /* no works, no timers, no waiters */

static inline void inline_lock(struct inline_env *e)
{
    (void)pthread_mutex_lock(&e->lock);
}
/* Ends the turn, sees to it that somebody takes the works that are due, and lets the lock go. */
void inline_unlock(struct inline_env *e);

/* ---- with the lock held ---- */

void inline_turn_end(struct inline_env *e);
/* Runs one work of the queues in `mask`, without the lock while it blocks. False: there is none
 * that nobody runs. */
bool inline_work(struct inline_env *e, unsigned mask);
/* Sleeps until woken, or until `deadline_ns` (UINT64_MAX: never); false: that has passed. Woken, it
 * tries inline_work(): it counts among those who take works of the log. */
bool inline_wait(struct inline_env *e, struct inline_waiter *waiter, uint64_t deadline_ns);
/* The same for one that only sleeps, and is woken by nobody but inline_wake(). */
bool inline_sleep(struct inline_env *e, struct inline_waiter *waiter, uint64_t deadline_ns);
void inline_wake(struct inline_waiter *waiter);
void inline_wake_all(struct inline_env *e);
/* Runs the timers that are due; returns when the next one is (UINT64_MAX: none is armed). */
uint64_t inline_timers(struct inline_env *e);
/* The library thread's sleep, and the disk thread's. */
void inline_library_sleep(struct inline_env *e, uint64_t until_ns);
void inline_disk_sleep(struct inline_env *e);
/* Runs all works on this thread and waits for those of others, until none is left. */
void inline_drain(struct inline_env *e);

#endif
