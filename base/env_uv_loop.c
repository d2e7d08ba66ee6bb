/* The loop, the clock, deferred tasks and posts of the real environment.
 *
 * A turn of libuv's loop is: timers, prepare, poll (blocks; sockets, posts and finished works are
 * called), check. Deferred tasks run at prepare, which is the last thing before the loop blocks,
 * and at check, right behind what the poll produced: answers to requests that arrived in one poll
 * leave before the next turn begins. */
#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/env_file.h"
#include "base/internal.h"
#include "base/mem.h"

uint64_t env_uv__now_ns(struct env *env)
{
    struct env_uv *e = env_uv_of(env);
    /* Outside the loop (recovery at start takes its time) no turn ends, so nothing may be kept. */
    if (!e->now_valid) {
        e->now_ns = uv_hrtime();
        e->now_valid = e->running;
    }
    return e->now_ns;
}

static uint64_t wall_us(struct env *env)
{
    (void)env;
    struct timespec ts = {0};
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static uint64_t cpu_ns(struct env *env)
{
    (void)env;
    struct timespec ts = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* No pool: after a fork two processes would draw the same keys from it. */
static void random_bytes(struct env *env, void *out, size_t bytes)
{
    (void)env;
    uint8_t *at = out;
    while (bytes > 0) {
        ssize_t n = getrandom(at, bytes, 0);
        if (n < 0) {
            assert(errno ==
                   EINTR); /* Linux has it since 3.17, and it fails for no other reason here */
            continue;
        }
        at += n;
        bytes -= (size_t)n;
    }
}

static void defer(struct env *env, struct env_task *task)
{
    struct env_uv *e = env_uv_of(env);
    assert(task->cb != NULL);
    if (!task->queued) {
        task->queued = true;
        list_push_back(&e->tasks, &task->link);
    }
}

static void tasks_run(struct env_uv *e)
{
    while (!list_empty(&e->tasks)) {
        struct env_task *task = list_entry(e->tasks.next, struct env_task, link);
        list_remove(&task->link);
        task->queued = false;
        task->cb(task);
    }
}

static void posts_run(struct env_uv *e);

/* Once a pass, so that a post that posts itself again can't keep the loop from its sockets. */
static void posts_run_own(struct env_uv *e)
{
    if (e->posts_own) {
        posts_run(e);
    }
}

static void on_prepare(uv_prepare_t *handle)
{
    struct env_uv *e = handle->data;
    posts_run_own(e);
    tasks_run(e);
    if (e->posts_own) { /* from one of these tasks: the poll mustn't block */
        env_uv__wake(e);
    }
    env_uv__timers_arm(e);
    e->now_valid = false; /* the poll may last */
}

static void on_check(uv_check_t *handle)
{
    struct env_uv *e = handle->data;
    posts_run_own(e);
    tasks_run(e);
    e->now_valid = false; /* so that timers aren't judged by a time from before this turn's work */
    if (e->stopping) {
        uv_stop(&e->loop);
    }
}

/* An eventfd of our own and not uv_async_send(): there the loop that was woken spins until the
 * waking thread has come back from its write(), which takes just as long as the write wakes us
 * fast. */
void env_uv__wake(struct env_uv *e)
{
    if (!atomic_exchange(&e->woken, true)) {
        uint64_t one = 1;
        ssize_t n;
        do {
            n = write(e->wake_fd, &one, sizeof one);
        } while (n < 0 && errno == EINTR);
        assert(n == (ssize_t)sizeof one || errno == EAGAIN); /* full: it is readable for sure */
    }
}

static void post(struct env *env, struct env_post *p)
{
    struct env_uv *e = env_uv_of(env);
    assert(p->cb != NULL);
    bool own = e->running && pthread_equal(pthread_self(), e->thread) != 0;
    pthread_mutex_lock(&e->lock);
    p->next = e->posts;
    e->posts = p;
    if (own) {
        e->posts_own = true;
    } else {
        /* Inside the lock: once the loop has the post, its callback may lead to env_uv_close(). */
        env_uv__wake(e);
    }
    pthread_mutex_unlock(&e->lock);
}

static void posts_run(struct env_uv *e)
{
    pthread_mutex_lock(&e->lock);
    struct env_post *newest = e->posts;
    e->posts = NULL;
    e->posts_own = false;
    pthread_mutex_unlock(&e->lock);
    struct env_post *oldest = NULL;
    while (newest != NULL) {
        struct env_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct env_post *p = oldest;
        oldest = p->next; /* before the callback, which may free it or post it again */
        p->cb(p);
    }
}

static void on_wake(uv_poll_t *handle, int status, int events)
{
    struct env_uv *e = handle->data;
    uint64_t count;
    (void)status;
    (void)events;
    ssize_t n = read(e->wake_fd, &count, sizeof count);
    (void)n; /* nothing there: then there is nothing to do, which is found out just as fast */
    /* Before looking: what is added from here on wakes again. */
    (void)atomic_exchange(&e->woken, false);
    env_uv__submits_finish(e);
    env_uv__works_finish(e);
    posts_run(e);
}

/* ---- the transport's entries until it is attached ---- */

static int no_listen(struct env *env, const char *address, env_accept_cb cb, void *arg,
                     struct env_listener **out, struct err_text *e)
{
    (void)env;
    (void)cb;
    (void)arg;
    *out = NULL;
    return err_set(e, ERR_UNSUPPORTED, "can't listen on %s: no transport is attached", address);
}

static int no_connect(struct env *env, const char *address, enum env_role expected_role,
                      const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                      struct env_conn **out)
{
    (void)env;
    (void)address;
    (void)expected_role;
    (void)expected_name;
    (void)cbs;
    (void)arg;
    *out = NULL;
    return ERR_UNSUPPORTED;
}

static void no_listener_close(struct env_listener *listener)
{
    assert(listener == NULL);
}

static int no_listener_port(struct env_listener *listener)
{
    (void)listener;
    return ERR_UNSUPPORTED;
}

static int no_conn_write(struct env_conn *conn, const struct slice *parts, size_t count)
{
    (void)conn;
    (void)parts;
    (void)count;
    return ERR_UNSUPPORTED;
}

static size_t no_conn_queued(const struct env_conn *conn)
{
    (void)conn;
    return 0;
}

static void no_conn_pause(struct env_conn *conn, bool paused)
{
    (void)paused;
    assert(conn == NULL);
}

static void no_conn_close(struct env_conn *conn, int reason)
{
    (void)reason;
    assert(conn == NULL);
}

static const struct env_peer *no_conn_peer(const struct env_conn *conn)
{
    static const struct env_peer nobody = {.role = ENV_ROLE_NONE};
    (void)conn;
    return &nobody;
}

static void ops_fill(struct env_ops *ops)
{
    *ops = (struct env_ops){
        .now_ns = env_uv__now_ns,
        .wall_us = wall_us,
        .cpu_ns = cpu_ns,
        .random = random_bytes,
        .timer_start = env_uv__timer_start,
        .timer_stop = env_uv__timer_stop,
        .defer = defer,
        .post = post,
        .work = env_uv__work,
        .file_submit = env_uv__submit,
        .listen = no_listen,
        .listener_close = no_listener_close,
        .listener_port = no_listener_port,
        .connect = no_connect,
        .conn_write = no_conn_write,
        .conn_queued = no_conn_queued,
        .conn_pause = no_conn_pause,
        .conn_close = no_conn_close,
        .conn_peer = no_conn_peer,
    };
    env_file_ops(ops);
}

/* ---- life ---- */

/* Starts the loop's four handles. uv_*_init() of these can only fail for the poll. */
static int handles_open(struct env_uv *e)
{
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->wake_fd < 0) {
        return ERR_IO;
    }
    if (uv_poll_init(&e->loop, &e->wake_poll, e->wake_fd) != 0) {
        (void)close(e->wake_fd);
        return ERR_IO;
    }
    (void)uv_timer_init(&e->loop, &e->timer);
    (void)uv_prepare_init(&e->loop, &e->prepare);
    (void)uv_check_init(&e->loop, &e->check);
    e->wake_poll.data = e->timer.data = e->prepare.data = e->check.data = e;
    (void)uv_prepare_start(&e->prepare, on_prepare);
    (void)uv_check_start(&e->check, on_check);
    (void)uv_poll_start(&e->wake_poll, UV_READABLE, on_wake);
    return 0;
}

static void handles_close(struct env_uv *e)
{
    uv_close((uv_handle_t *)&e->check, NULL);
    uv_close((uv_handle_t *)&e->prepare, NULL);
    uv_close((uv_handle_t *)&e->timer, NULL);
    uv_close((uv_handle_t *)&e->wake_poll, NULL);
    (void)uv_run(&e->loop, UV_RUN_DEFAULT);
    (void)close(e->wake_fd);
}

int env_uv_open(struct env **out)
{
    *out = NULL;
    struct env_uv *e = mem_zalloc(sizeof *e);
    if (e == NULL) {
        return ERR_NOMEM;
    }
    env_file_standard();
    ops_fill(&e->ops);
    e->env.ops = &e->ops;
    e->env.host = env_file_host();
    list_init(&e->tasks);
    list_init(&e->works_done);
    int rv = env_uv__timers_open(e);
    if (rv != 0) {
        goto err_after_alloc;
    }
    pthread_mutex_init(&e->lock, NULL);
    int uv = uv_loop_init(&e->loop);
    if (uv != 0) {
        rv = uv == UV_ENOMEM ? ERR_NOMEM : ERR_IO;
        goto err_after_timers;
    }
    rv = handles_open(e);
    if (rv != 0) {
        goto err_after_loop;
    }
    rv = env_uv__queues_open(e);
    if (rv != 0) {
        goto err_after_handles;
    }
    *out = &e->env;
    return 0;
err_after_handles:
    handles_close(e);
err_after_loop:
    (void)uv_loop_close(&e->loop);
err_after_timers:
    pthread_mutex_destroy(&e->lock);
    env_uv__timers_close(e);
err_after_alloc:
    mem_free(e);
    assert(rv != 0);
    return rv;
}

void env_uv_run(struct env *env)
{
    struct env_uv *e = env_uv_of(env);
    assert(!e->running);
    /* libuv writes to sockets without MSG_NOSIGNAL: a peer that hangs up must not kill the process.
     * Blocked for this thread, not ignored: inside a host program the handler isn't ours to set. */
    sigset_t pipe_signal;
    (void)sigemptyset(&pipe_signal);
    (void)sigaddset(&pipe_signal, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
    e->thread = pthread_self();
    e->running = true;
    e->now_valid = false;
    (void)uv_run(&e->loop, UV_RUN_DEFAULT);
    e->stopping = false;
    e->running = false;
    e->now_valid = false;
}

void env_uv_stop(struct env *env)
{
    struct env_uv *e = env_uv_of(env);
    e->stopping = true;
    env_uv__wake(e); /* the check after the poll that this ends sees the flag */
}

void env_uv_close(struct env *env)
{
    struct env_uv *e = env_uv_of(env);
    assert(!e->running);
    assert(e->timers_count == 0);
    env_uv__queues_close(e);
    env_uv__submits_close(e);
    handles_close(e);
    int rv = uv_loop_close(&e->loop);
    assert(rv == 0); /* else a connection or a listener is still open */
    pthread_mutex_destroy(&e->lock);
    env_uv__timers_close(e);
    mem_free(e);
}

uv_loop_t *env_uv_loop(struct env *env)
{
    return &env_uv_of(env)->loop;
}

struct env_ops *env_uv_ops(struct env *env)
{
    return &env_uv_of(env)->ops;
}

void env_uv_set_transport(struct env *env, void *transport)
{
    env_uv_of(env)->transport = transport;
}

void *env_uv_transport(struct env *env)
{
    return env_uv_of(env)->transport;
}
