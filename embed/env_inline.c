#include "embed/env_inline.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/assert.h"
#include "base/env_file.h"

static struct inline_env *inline_of(struct env *env)
{
    return (struct inline_env *)env;
}

/* ---- clock and randomness ---- */

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    int rv = clock_gettime(id, &t);
    assert(rv == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t op_now_ns(struct env *env)
{
    (void)env;
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t op_wall_us(struct env *env)
{
    (void)env;
    return clock_ns(CLOCK_REALTIME) / 1000u;
}

static void op_random(struct env *env, void *out, size_t bytes)
{
    (void)env;
    uint8_t *at = out;
    while (bytes > 0) {
        ssize_t n = getrandom(at, bytes, 0);
        assert(n > 0 || errno == EINTR);
        at += n > 0 ? n : 0;
        bytes -= n > 0 ? (size_t)n : 0;
    }
}

/* ---- timers ---- */

static void op_timer_stop(struct env *env, struct env_timer *timer)
{
    struct inline_env *e = inline_of(env);
    if (timer->slot != 0) {
        e->timers[timer->slot - 1] = NULL;
        timer->slot = 0;
    }
}

static void op_timer_start(struct env *env, struct env_timer *timer, uint64_t at_ns)
{
    struct inline_env *e = inline_of(env);
    assert(timer->cb != NULL);
    size_t i = timer->slot != 0 ? timer->slot - 1 : 0;
    while (timer->slot == 0 && e->timers[i] != NULL) {
        i++;
        assert(i < INLINE_TIMERS_MAX); /* the log has five, the directory three */
    }
    e->timers[i] = timer;
    timer->slot = i + 1;
    timer->at_ns = at_ns;
    if (at_ns < e->library_until_ns) {
        (void)pthread_cond_signal(&e->library_wake);
    }
}

uint64_t inline_timers(struct inline_env *e)
{
    uint64_t now = op_now_ns(&e->env);
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < INLINE_TIMERS_MAX; i++) {
        struct env_timer *timer = e->timers[i];
        if (timer != NULL && timer->at_ns <= now) {
            op_timer_stop(&e->env, timer);
            timer->cb(timer);
        }
    }
    inline_turn_end(e);
    for (size_t i = 0; i < INLINE_TIMERS_MAX; i++) {
        if (e->timers[i] != NULL && e->timers[i]->at_ns < next) {
            next = e->timers[i]->at_ns;
        }
    }
    return next;
}

/* ---- tasks and works ---- */

static void op_defer(struct env *env, struct env_task *task)
{
    struct inline_env *e = inline_of(env);
    assert(task->cb != NULL);
    if (!task->queued) {
        task->queued = true;
        list_push_back(&e->tasks, &task->link);
    }
}

static void op_post(struct env *env, struct env_post *post)
{
    (void)env;
    (void)post;
    assert(false); /* neither the log nor an image has another thread to post from */
}

static void due_set(struct inline_env *e, unsigned q)
{
    bool due = !e->running[q] && !list_empty(&e->works[q]);
    e->due = (e->due & ~(1u << q)) | (due ? 1u << q : 0);
}

static void op_work(struct env *env, struct env_work *work)
{
    struct inline_env *e = inline_of(env);
    assert(work->queue < ENV_QUEUE_COUNT);
    assert(work->run != NULL && work->done != NULL);
    e->works_out++;
    list_push_back(&e->works[work->queue], &work->link);
    due_set(e, work->queue);
}

_Static_assert(ENV_QUEUE_LOG_1 == ENV_QUEUE_LOG_0 + 1, "the log's queues are neighbours");

static struct inline_write *write_of(struct inline_env *e, const struct env_work *work)
{
    return &e->writes[work->queue - ENV_QUEUE_LOG_0];
}

/* Where there is nothing else to do meanwhile, one blocking call costs less than two. */
static bool op_file_submit(struct env *env, struct env_work *work, struct env_file *file,
                           const void *data, size_t len, uint64_t offset, int *err)
{
    struct inline_env *e = inline_of(env);
    if (!e->meanwhile_due) {
        return false;
    }
    struct inline_write *w = write_of(e, work);
    assert(w->work == NULL);
    w->work = work;
    w->file = file;
    w->data = data;
    w->len = len;
    w->offset = offset;
    w->err = err;
    op_work(env, work);
    return true;
}

void inline_turn_end(struct inline_env *e)
{
    while (!list_empty(&e->tasks)) {
        struct env_task *task = list_entry(e->tasks.next, struct env_task, link);
        list_remove(&task->link);
        task->queued = false;
        task->cb(task);
    }
}

static void meanwhile_run(struct inline_env *e)
{
    if (e->meanwhile_due) {
        e->meanwhile_due = false;
        e->meanwhile(e);
    }
}

/* Without the lock, but for what is done meanwhile. */
static void write_run(struct inline_env *e, struct inline_write *w)
{
    struct env_work *work = w->work;
    bool begun = env_file_write_begin(&w->begun, w->file, w->data, w->len, w->offset);
    inline_lock(e);
    meanwhile_run(e);
    inline_unlock(e);
    if (!begun || !env_file_write_end(&w->begun, w->err)) {
        work->run(work);
    }
    w->work = NULL;
}

/* Lets the lock go, and takes it again. */
static void work_run(struct inline_env *e, struct env_work *work)
{
    bool log = (INLINE_LOG >> work->queue & 1u) != 0;
    bool submitted = log && write_of(e, work)->work == work;
    if (log && !submitted) {
        meanwhile_run(e); /* it takes no longer before than while the disk is at it */
    }
    inline_unlock(e);
    if (submitted) {
        write_run(e, write_of(e, work));
    } else {
        work->run(work);
    }
    inline_lock(e);
}

bool inline_work(struct inline_env *e, unsigned mask)
{
    inline_turn_end(e); /* what this turn has appended is a work only now */
    if ((e->due & mask) == 0) {
        return false;
    }
    unsigned q = (unsigned)__builtin_ctz(e->due & mask);
    struct env_work *work = list_entry(e->works[q].next, struct env_work, link);
    list_remove(&work->link);
    e->running[q] = true;
    due_set(e, q);
    work_run(e, work);
    e->running[q] = false;
    due_set(e, q);
    assert(e->works_out > 0);
    e->works_out--;
    work->done(work);
    inline_turn_end(e);
    return true;
}

/* Whoever waits for the log takes its next work; only when nobody does, the library thread. */
static void call_workers(struct inline_env *e)
{
    if ((e->due & INLINE_LOG) != 0) {
        if (!list_empty(&e->waiters)) {
            inline_wake(list_entry(e->waiters.next, struct inline_waiter, link));
        } else if (e->library_until_ns != 0) {
            (void)pthread_cond_signal(&e->library_wake);
        }
    }
    if (e->disk_sleeps && (e->due & INLINE_DISK) != 0) {
        (void)pthread_cond_signal(&e->disk_wake);
    }
}

void inline_unlock(struct inline_env *e)
{
    inline_turn_end(e);
    call_workers(e);
    (void)pthread_mutex_unlock(&e->lock);
}

/* ---- sleeping ---- */

static void cond_open(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond, &attr);
    (void)pthread_condattr_destroy(&attr);
}

/* False: the time has passed. */
static bool cond_sleep(struct inline_env *e, pthread_cond_t *cond, uint64_t until_ns)
{
    if (until_ns == UINT64_MAX) {
        (void)pthread_cond_wait(cond, &e->lock);
        return true;
    }
    struct timespec at = {.tv_sec = (time_t)(until_ns / 1000000000u),
                          .tv_nsec = (long)(until_ns % 1000000000u)};
    return pthread_cond_timedwait(cond, &e->lock, &at) != ETIMEDOUT;
}

bool inline_sleep(struct inline_env *e, struct inline_waiter *waiter, uint64_t deadline_ns)
{
    inline_turn_end(e);
    call_workers(e);
    cond_open(&waiter->wake);
    bool in_time = cond_sleep(e, &waiter->wake, deadline_ns);
    (void)pthread_cond_destroy(&waiter->wake);
    return in_time;
}

bool inline_wait(struct inline_env *e, struct inline_waiter *waiter, uint64_t deadline_ns)
{
    inline_turn_end(e);
    call_workers(e); /* before it counts as one of them */
    cond_open(&waiter->wake);
    list_push_back(&e->waiters, &waiter->link);
    bool in_time = cond_sleep(e, &waiter->wake, deadline_ns);
    list_remove(&waiter->link);
    (void)pthread_cond_destroy(&waiter->wake);
    return in_time;
}

void inline_wake(struct inline_waiter *waiter)
{
    (void)pthread_cond_signal(&waiter->wake);
}

void inline_wake_all(struct inline_env *e)
{
    list_for_each (it, &e->waiters) {
        inline_wake(list_entry(it, struct inline_waiter, link));
    }
}

void inline_library_sleep(struct inline_env *e, uint64_t until_ns)
{
    inline_turn_end(e);
    if ((e->due & INLINE_LOG) != 0 && list_empty(&e->waiters)) {
        return;
    }
    call_workers(e);
    e->library_until_ns = until_ns;
    (void)cond_sleep(e, &e->library_wake, until_ns);
    e->library_until_ns = 0;
}

void inline_disk_sleep(struct inline_env *e)
{
    inline_turn_end(e);
    if ((e->due & INLINE_DISK) != 0) {
        return;
    }
    call_workers(e);
    e->disk_sleeps = true;
    (void)cond_sleep(e, &e->disk_wake, UINT64_MAX);
    e->disk_sleeps = false;
}

void inline_drain(struct inline_env *e)
{
    struct inline_waiter waiter;
    inline_turn_end(e);
    while (e->works_out > 0) {
        if (!inline_work(e, INLINE_LOG | INLINE_DISK)) {
            /* Another thread is at it. It wakes nobody, and this is the end: look again soon. */
            (void)inline_wait(e, &waiter, op_now_ns(&e->env) + 1000000u);
        }
    }
}

/* ---- files: those of another environment ---- */

static int op_file_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    return env_file_open(inline_of(env)->files, path, flags, out);
}
static int op_dir_create(struct env *env, const char *path)
{
    return env_dir_create(inline_of(env)->files, path);
}
static int op_dir_remove(struct env *env, const char *path)
{
    return env_dir_remove(inline_of(env)->files, path);
}
static int op_dir_sync(struct env *env, const char *path)
{
    return env_dir_sync(inline_of(env)->files, path);
}
static int op_dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                       void *arg)
{
    return env_dir_list(inline_of(env)->files, path, cb, arg);
}
static int op_file_rename(struct env *env, const char *from, const char *to)
{
    return env_file_rename(inline_of(env)->files, from, to);
}
static int op_file_unlink(struct env *env, const char *path)
{
    return env_file_unlink(inline_of(env)->files, path);
}
static int op_disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    return env_disk_free(inline_of(env)->files, path, bytes);
}

static void forward_files(struct env_ops *ops, const struct env_ops *files)
{
    ops->file_open = op_file_open;
    ops->file_close = files->file_close;
    ops->file_pread = files->file_pread;
    ops->file_pwrite = files->file_pwrite;
    ops->file_sync = files->file_sync;
    ops->file_size = files->file_size;
    ops->file_truncate = files->file_truncate;
    ops->file_lock = files->file_lock;
    ops->file_map = files->file_map;
    ops->file_unmap = files->file_unmap;
    ops->file_ahead = files->file_ahead;
    ops->file_map_private = files->file_map_private;
    ops->dir_create = op_dir_create;
    ops->dir_remove = op_dir_remove;
    ops->dir_sync = op_dir_sync;
    ops->dir_list = op_dir_list;
    ops->file_rename = op_file_rename;
    ops->file_unlink = op_file_unlink;
    ops->disk_free = op_disk_free;
}

/* ---- life ---- */

void inline_open(struct inline_env *e, struct env *files)
{
    memset(e, 0, sizeof *e);
    e->env.ops = &e->ops;
    e->ops.now_ns = op_now_ns;
    e->ops.wall_us = op_wall_us;
    e->ops.random = op_random;
    e->ops.timer_start = op_timer_start;
    e->ops.timer_stop = op_timer_stop;
    e->ops.defer = op_defer;
    e->ops.post = op_post;
    e->ops.work = op_work;
    if (files == NULL) {
        env_file_standard();
        env_file_ops(&e->ops); /* they ask for no environment */
        e->ops.file_submit = op_file_submit;
        e->env.host = env_file_host();
    } else {
        e->files = files;
        forward_files(&e->ops, files->ops);
        e->env.host = files->host;
    }
    list_init(&e->tasks);
    list_init(&e->waiters);
    for (unsigned q = 0; q < ENV_QUEUE_COUNT; q++) {
        list_init(&e->works[q]);
    }
    (void)pthread_mutex_init(&e->lock, NULL);
    cond_open(&e->library_wake);
    cond_open(&e->disk_wake);
}

void inline_close(struct inline_env *e)
{
    assert(e->works_out == 0);
    assert(list_empty(&e->tasks));
    assert(list_empty(&e->waiters));
    for (size_t i = 0; i < INLINE_TIMERS_MAX; i++) {
        assert(e->timers[i] == NULL);
    }
    for (size_t i = 0; i < 2; i++) {
        env_file_write_close(&e->writes[i].begun);
    }
    (void)pthread_cond_destroy(&e->disk_wake);
    (void)pthread_cond_destroy(&e->library_wake);
    (void)pthread_mutex_destroy(&e->lock);
}
