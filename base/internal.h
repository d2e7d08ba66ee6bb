/* What the files of the real environment (env_uv_*.c) share. Nobody outside base/ includes this. */
#ifndef CAIRN_BASE_INTERNAL_H
#define CAIRN_BASE_INTERNAL_H

#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/env.h"
#include "base/env_uv.h"

/* Timers of one reactor that can be armed at once. Their heap is reserved as address space at open
 * and gets memory page by page, so that arming a timer can't fail. */
#define TIMERS_MAX ((size_t)1 << 20)

/* One queue of env_work(): a thread of its own, so that waking it is one futex and its order is the
 * queue's. */
struct env_uv_queue {
    struct env_uv *env;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the two below */
    pthread_cond_t wake;
    struct list works; /* not yet started */
    bool stopping;
};

/* Writes of env_file_submit() under way at once; more are for the workers. */
#define ENV_UV_SUBMITS 4

struct env_uv_submit {
    struct env_work *work; /* NULL: free */
    struct env_file *file;
    size_t len;
    int *err;
};

struct env_uv {
    struct env env; /* first: see env.h */
    struct env_ops ops;
    void *transport;

    uv_loop_t loop;
    uv_timer_t timer;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_poll_t wake_poll;
    int wake_fd; /* an eventfd that wakes the loop; completed submissions write to it as well */
    _Atomic bool woken; /* it was written to, and the loop hasn't looked since */
    pthread_t thread;   /* that runs the loop */
    _Atomic bool running;
    _Atomic bool stopping;

    /* The clock is read at most twice a turn: after the poll, and before timers fire. */
    uint64_t now_ns;
    bool now_valid;

    struct env_timer **timers; /* a binary heap, the earliest at 0 */
    size_t timers_count;
    uint64_t timer_armed_ms; /* when `timer` fires, in uv_now()'s milliseconds; 0 = not armed */

    struct list tasks;

    /* From other threads. Lock order: nothing is taken while this one is held. */
    pthread_mutex_t lock;
    struct env_post *posts; /* newest first */
    bool posts_own;         /* some are from the loop's own thread, which needs no waking */
    struct list works_done;

    struct env_uv_queue queues[ENV_QUEUE_COUNT];
    size_t works_out; /* submitted, `done` not yet called; loop thread only */

    aio_context_t aio;
    bool aio_tried, aio_open;
    struct env_uv_submit submits[ENV_UV_SUBMITS];
    size_t submits_out;
};

static inline struct env_uv *env_uv_of(struct env *env)
{
    return (struct env_uv *)env;
}

/* env_file_host() by these files. */
uint64_t env_uv__host_by(const char *machine_id, const char *boot_id);

/* env_uv_timer.c */
int env_uv__timers_open(struct env_uv *e);
void env_uv__timers_close(struct env_uv *e);
void env_uv__timer_start(struct env *env, struct env_timer *timer, uint64_t at_ns);
void env_uv__timer_stop(struct env *env, struct env_timer *timer);
void env_uv__timers_arm(
    struct env_uv *e); /* sets the one uv_timer to the earliest; before each poll */

/* env_uv_work.c */
int env_uv__queues_open(struct env_uv *e);
void env_uv__queues_close(struct env_uv *e);
void env_uv__work(struct env *env, struct env_work *work);
void env_uv__queue_push(struct env_uv *e, struct env_work *work); /* counted in works_out before */
void env_uv__works_finish(struct env_uv *e); /* calls `done` of what the workers have finished */

/* env_uv_loop.c */
uint64_t env_uv__now_ns(struct env *env);
void env_uv__wake(struct env_uv *e); /* thread: any */

/* env_uv_submit.c */
void env_uv__submits_close(struct env_uv *e);
bool env_uv__submit(struct env *env, struct env_work *work, struct env_file *file, const void *data,
                    size_t len, uint64_t offset, int *err);
void env_uv__submits_finish(struct env_uv *e); /* after each waking */

/* env_uv_file.c */
/* The descriptor if such a write may be submitted (O_DIRECT and O_DSYNC are in force, all is
 * aligned), else -1. */
int env_uv__file_submits(const struct env_file *file, const void *data, size_t len,
                         uint64_t offset);
/* Its file system can't. */
void env_uv__file_submits_never(struct env_file *file);

#endif
