/* The seam to the world: clock, timers, randomness, worker threads, files and transport as function
 * tables.
 *
 * Two implementations exist: the real one (base/env_uv_*.c on libuv, with the transport of
 * rpc/tls.c on OpenSSL) and the simulated one (tests/sim/), in which one process runs a whole
 * cluster under virtual time. Nothing above base/ and rpc/tls.c may reach a clock, a random source,
 * a thread, a file or a socket by another way.
 *
 * A `struct env` belongs to one *reactor*: one thread with one event loop. Everything here is
 * called on that thread and calls back on it, unless a comment says otherwise. No callback ever
 * runs from inside the call that requested it. */
#ifndef CAIRN_BASE_ENV_H
#define CAIRN_BASE_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/list.h"

struct env;
struct env_file;
struct env_conn;
struct env_listener;

/* ---- timers
 * ------------------------------------------------------------------------------------------------------
 */

struct env_timer;
typedef void (*env_timer_cb)(struct env_timer *timer);
/* Caller's memory, embedded in what it belongs to; must be stopped before that goes. One-shot.
 * Zero-initialise, then set `cb`. The implementation keeps timers in one heap keyed by `at_ns`. */
struct env_timer {
    env_timer_cb cb;
    uint64_t at_ns;
    size_t slot; /* the implementation's: position in its heap + 1; 0 = not armed */
};

/* ---- deferred tasks: run once, at the end of the current turn of the loop, before it blocks
 * ------------------------ */

struct env_task;
typedef void (*env_task_cb)(struct env_task *task);
/* Caller's memory; zero-initialise, set `cb`. Deferring an already deferred task does nothing. A
 * task may defer tasks: they run in the same turn, after those already queued. This is where
 * batches are closed and buffers flushed. */
struct env_task {
    env_task_cb cb;
    struct list link;
    bool queued;
};

/* ---- posts: wake the reactor from another thread
 * ------------------------------------------------------------------ */

struct env_post;
typedef void (*env_post_cb)(struct env_post *post);
/* Caller's memory, valid until cb. */
struct env_post {
    env_post_cb cb;
    struct env_post *next;
};

/* ---- work: something that blocks, on a worker thread
 * ------------------------------------------------------------- */

struct env_work;
typedef void (*env_work_cb)(struct env_work *work);
/* Caller's memory, valid until `done`. `run` is called on a worker thread and may use only the file
 * functions below, crc32c/hash64/mem_* and the memory that the submitter gave it; `done` on the
 * reactor's thread, afterwards. Works of one `queue` run one after another in submission order;
 * works of different queues may run at the same time. In the simulator `run` executes at a later
 * virtual moment, or not at all when the node crashes first. */
struct env_work {
    env_work_cb run;
    env_work_cb done;
    uint32_t queue; /* ENV_QUEUE_* */
    struct list link;
};
enum env_queue {
    ENV_QUEUE_LOG_0, /* the log's two writes in flight */
    ENV_QUEUE_LOG_1,
    ENV_QUEUE_CHECKPOINT,
    ENV_QUEUE_MISC,
    ENV_QUEUE_COUNT
};

/* ---- files
 * --------------------------------------------------------------------------------------------------------
 */

enum env_open_flags {
    ENV_OPEN_READ = 1 << 0,
    ENV_OPEN_WRITE = 1 << 1,  /* implies reading */
    ENV_OPEN_CREATE = 1 << 2, /* it's an error (EXISTS) if the file is there */
    ENV_OPEN_DIRECT =
        1 << 3, /* bypass the page cache where the file system can (else ignored): offsets, lengths
                   and memory are then multiples of 4096, or the call fails with INVAL */
    ENV_OPEN_DSYNC =
        1 << 4, /* each write is durable (data and the size it needs) when it returns */
    ENV_OPEN_EXACT = 1 << 5, /* reads take from the disk what they ask for, and nothing ahead */
};

/* ---- transport: authenticated, ordered, reliable byte streams
 * ------------------------------------------------------ */

enum env_role { ENV_ROLE_NONE, ENV_ROLE_NODE, ENV_ROLE_USER };

/* Who is at the other end, from its certificate (SAN URI "cairn://node/NAME" or
 * "cairn://user/NAME"). */
struct env_peer {
    enum env_role role;
    char name[64];
    char address[128]; /* "host:port" it connects from, for the log */
};

/* Called on the reactor's thread. After on_close nothing is called and `conn` is gone; it comes
 * exactly once for each connection that was accepted or connected with success or without, and
 * never from inside a call on that connection. */
struct env_conn_cbs {
    /* Outgoing connections only: the stream is ready and the peer verified. (Failure is reported by
     * on_close alone.) */
    void (*on_open)(void *arg, struct env_conn *conn);
    void (*on_data)(void *arg, struct env_conn *conn, const uint8_t *data,
                    size_t len); /* borrowed for the call */
    /* The unsent bytes fell to a quarter of CONN_QUEUE_BYTES_MAX or below after having been above.
     * May be NULL. */
    void (*on_drain)(void *arg, struct env_conn *conn);
    /* reason: ERR_CLOSED (orderly), ERR_NOCONN, ERR_TLS, ERR_UNAUTHENTICATED, ERR_IO, ERR_TIMEOUT,
     * ERR_BUSY (queue overflow), or what was given to env_conn_close(). text: one line for the log,
     * borrowed for the call. */
    void (*on_close)(void *arg, struct env_conn *conn, int reason, const char *text);
};

/* A new, verified incoming connection: set *cbs and *arg and return 0, or return an error code to
 * refuse it. */
typedef int (*env_accept_cb)(void *arg, struct env_conn *conn, const struct env_peer *peer,
                             const struct env_conn_cbs **cbs, void **cb_arg);

struct env_listener_stats {
    uint64_t waiting; /* accepted, and not authenticated yet */
    uint64_t ended;   /* since it listens: of those, for newer ones to have their place */
};

/* ---- the table
 * ----------------------------------------------------------------------------------------------------
 */

struct env_ops {
    uint64_t (*now_ns)(struct env *env);
    uint64_t (*wall_us)(struct env *env);
    uint64_t (*cpu_ns)(struct env *env); /* NULL: not told */
    void (*random)(struct env *env, void *out, size_t bytes);
    void (*timer_start)(struct env *env, struct env_timer *timer, uint64_t at_ns);
    void (*timer_stop)(struct env *env, struct env_timer *timer);
    void (*defer)(struct env *env, struct env_task *task);
    void (*post)(struct env *env, struct env_post *post);
    void (*work)(struct env *env, struct env_work *work);

    int (*file_open)(struct env *env, const char *path, int flags, struct env_file **out);
    void (*file_close)(struct env_file *file);
    int64_t (*file_pread)(struct env_file *file, void *data, size_t len, uint64_t offset);
    int (*file_pwrite)(struct env_file *file, const void *data, size_t len, uint64_t offset);
    int (*file_sync)(struct env_file *file);
    /* NULL: not here. */
    bool (*file_submit)(struct env *env, struct env_work *work, struct env_file *file,
                        const void *data, size_t len, uint64_t offset, int *err);
    int64_t (*file_size)(struct env_file *file);
    int (*file_truncate)(struct env_file *file, uint64_t bytes);
    int (*file_lock)(struct env_file *file);
    int (*file_map)(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem);
    void (*file_unmap)(struct env_file *file, void *map, uint64_t bytes);
    void (*file_ahead)(struct env_file *file, uint64_t offset, uint64_t bytes); /* NULL: not here */
    /* NULL: not here. */
    int (*file_map_private)(struct env_file *file, void *at, uint64_t bytes, uint64_t offset);

    int (*dir_create)(struct env *env, const char *path);
    int (*dir_remove)(struct env *env, const char *path);
    int (*dir_sync)(struct env *env, const char *path);
    int (*dir_list)(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                    void *arg);
    int (*file_rename)(struct env *env, const char *from, const char *to);
    int (*file_unlink)(struct env *env, const char *path);
    int (*disk_free)(struct env *env, const char *path, uint64_t *bytes);

    int (*listen)(struct env *env, const char *address, env_accept_cb cb, void *arg,
                  struct env_listener **out, struct err_text *e);
    void (*listener_close)(struct env_listener *listener);
    int (*listener_port)(struct env_listener *listener);
    /* NULL: every connection is authenticated when it comes. */
    void (*listener_stats)(const struct env_listener *listener, struct env_listener_stats *out);
    int (*connect)(struct env *env, const char *address, enum env_role expected_role,
                   const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                   struct env_conn **out);
    int (*conn_write)(struct env_conn *conn, const struct slice *parts, size_t count);
    size_t (*conn_queued)(const struct env_conn *conn);
    void (*conn_flush)(struct env_conn *conn); /* NULL: nothing waits for the end of the turn */
    void (*conn_pause)(struct env_conn *conn, bool paused);
    void (*conn_close)(struct env_conn *conn, int reason);
    const struct env_peer *(*conn_peer)(const struct env_conn *conn);
};

/* The implementation's struct starts with this one. */
struct env {
    const struct env_ops *ops;
    uint64_t host; /* which machine or node this is, not for others to know; 0: unknown */
};

/* ---- the calls
 * ----------------------------------------------------------------------------------------------------
 */

/* Monotonic time, nanoseconds from an arbitrary start; constant within a turn of the loop is
 * allowed, backwards never. */
static inline uint64_t env_now_ns(struct env *env)
{
    return env->ops->now_ns(env);
}
static inline uint64_t env_now_ms(struct env *env)
{
    return env->ops->now_ns(env) / 1000000u;
}
/* Wall clock, microseconds since 1970. May jump. */
static inline uint64_t env_wall_us(struct env *env)
{
    return env->ops->wall_us(env);
}
/* Processor time that the reactor's thread has used so far, as seen from there; 0: not told here.
 * For judging load, never for what must replay. */
static inline uint64_t env_cpu_ns(struct env *env)
{
    return env->ops->cpu_ns == NULL ? 0 : env->ops->cpu_ns(env);
}
static inline void env_random(struct env *env, void *out, size_t bytes)
{
    env->ops->random(env, out, bytes);
}
static inline uint64_t env_random_u64(struct env *env)
{
    uint64_t v;
    env->ops->random(env, &v, sizeof v);
    return v;
}
/* (Re-)arms; a time in the past fires in the next turn. Stopping an unarmed timer does nothing. */
static inline void env_timer_start(struct env *env, struct env_timer *t, uint64_t at_ns)
{
    env->ops->timer_start(env, t, at_ns);
}
static inline void env_timer_start_in_ms(struct env *env, struct env_timer *t, uint64_t ms)
{
    env->ops->timer_start(env, t, env->ops->now_ns(env) + ms * 1000000u);
}
static inline void env_timer_stop(struct env *env, struct env_timer *t)
{
    env->ops->timer_stop(env, t);
}
static inline void env_defer(struct env *env, struct env_task *task)
{
    env->ops->defer(env, task);
}
/* thread: any */
static inline void env_post(struct env *env, struct env_post *post)
{
    env->ops->post(env, post);
}
static inline void env_work(struct env *env, struct env_work *work)
{
    env->ops->work(env, work);
}

/* Files. All block. thread: any (one file: one thread at a time for writes; reads at any time).
 * Paths are NUL-terminated. Errors: NOTFOUND, EXISTS, DENIED, DISKFULL, NOMEM, IO. A failed sync is
 * final for that file: the caller must not trust anything written to it since the last good one. */
static inline int env_file_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    return env->ops->file_open(env, path, flags, out);
}
static inline void env_file_close(struct env *env, struct env_file *f)
{
    env->ops->file_close(f);
}
/* Bytes read (fewer than len only at the end of the file), or a negative error. */
static inline int64_t env_file_pread(struct env *env, struct env_file *f, void *data, size_t len,
                                     uint64_t offset)
{
    return env->ops->file_pread(f, data, len, offset);
}
/* Writes all of it (short writes and EINTR are retried inside), or fails; on failure any part may
 * be written. */
static inline int env_file_pwrite(struct env *env, struct env_file *f, const void *data, size_t len,
                                  uint64_t offset)
{
    return env->ops->file_pwrite(f, data, len, offset);
}
static inline int env_file_sync(struct env *env, struct env_file *f)
{
    return env->ops->file_sync(f);
} /* fdatasync */
/* Starts to write a file opened with ENV_OPEN_DIRECT and ENV_OPEN_DSYNC without blocking and
 * without a worker. thread: the reactor's. Data and *err are borrowed until work->done.
 *
 * True: work->done follows when all of it is durable or has failed, with *err set. If it turns out
 * meanwhile that this can't be done without blocking, it is as though env_work() had been called
 * instead: work->run does everything. False: can't be done at all, or not now; call env_work(). */
static inline bool env_file_submit(struct env *env, struct env_work *work, struct env_file *f,
                                   const void *data, size_t len, uint64_t offset, int *err)
{
    return env->ops->file_submit != NULL &&
           env->ops->file_submit(env, work, f, data, len, offset, err);
}
/* These bytes are going to be read: begins to fetch them, if that goes without waiting. A hint. */
static inline void env_file_ahead(struct env *env, struct env_file *f, uint64_t offset,
                                  uint64_t bytes)
{
    if (env->ops->file_ahead != NULL) {
        env->ops->file_ahead(f, offset, bytes);
    }
}
static inline int64_t env_file_size(struct env *env, struct env_file *f)
{
    return env->ops->file_size(f);
}
static inline int env_file_truncate(struct env *env, struct env_file *f, uint64_t bytes)
{
    return env->ops->file_truncate(f, bytes);
}
/* An exclusive advisory lock for the life of the file handle; ERR_LOCKED if another process holds
 * it. */
static inline int env_file_lock(struct env *env, struct env_file *f)
{
    return env->ops->file_lock(f);
}
/* Maps the file shared through libpmem (for pmem mode only); *is_pmem: stores can be made durable
 * from user space. ERR_CONFIG: PMEM_IS_PMEM_FORCE says so, but the file is neither on tmpfs nor on
 * persistent memory. The simulator answers ERR_UNSUPPORTED. */
static inline int env_file_map(struct env *env, struct env_file *f, uint64_t bytes, void **out,
                               bool *is_pmem)
{
    return env->ops->file_map(f, bytes, out, is_pmem);
}
static inline void env_file_unmap(struct env *env, struct env_file *f, void *map, uint64_t bytes)
{
    env->ops->file_unmap(f, map, bytes);
}
/* Puts the file's bytes in place of the caller's own mapping at `at`, all in whole pages: a page
 * written there is the caller's from then on; one that wasn't still shows what the file has. At
 * any error the memory is as it was. ERR_UNSUPPORTED. */
static inline int env_file_map_private(struct env *env, struct env_file *f, void *at,
                                       uint64_t bytes, uint64_t offset)
{
    return env->ops->file_map_private == NULL ? ERR_UNSUPPORTED
                                              : env->ops->file_map_private(f, at, bytes, offset);
}
static inline int env_dir_create(struct env *env, const char *path)
{
    return env->ops->dir_create(env, path);
} /* mode 0700; on a real disk it is durable in its parent then. EXISTS */
/* Only an empty one; durable with its parent's sync. EXISTS: something is in it; NOTFOUND. */
static inline int env_dir_remove(struct env *env, const char *path)
{
    return env->ops->dir_remove(env, path);
}
static inline int env_dir_sync(struct env *env, const char *path)
{
    return env->ops->dir_sync(env, path);
}
/* Calls cb for every name but "." and ".."; order unspecified. cb may remove the name it is given.
 */
static inline int env_dir_list(struct env *env, const char *path,
                               void (*cb)(void *arg, const char *name), void *arg)
{
    return env->ops->dir_list(env, path, cb, arg);
}
static inline int env_file_rename(struct env *env, const char *from, const char *to)
{
    return env->ops->file_rename(env, from, to);
}
static inline int env_file_unlink(struct env *env, const char *path)
{
    return env->ops->file_unlink(env, path);
}
static inline int env_disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    return env->ops->disk_free(env, path, bytes);
}

/* Transport. address is "host:port" (listening: port 0 picks a free one). */
static inline int env_listen(struct env *env, const char *address, env_accept_cb cb, void *arg,
                             struct env_listener **out, struct err_text *e)
{
    return env->ops->listen(env, address, cb, arg, out, e);
}
static inline void env_listener_close(struct env *env, struct env_listener *l)
{
    env->ops->listener_close(l);
}
static inline int env_listener_port(struct env *env, struct env_listener *l)
{
    return env->ops->listener_port(l);
}
static inline void env_listener_stats(struct env *env, const struct env_listener *l,
                                      struct env_listener_stats *out)
{
    *out = (struct env_listener_stats){.waiting = 0};
    if (env->ops->listener_stats != NULL) {
        env->ops->listener_stats(l, out);
    }
}
/* Starts connecting; the peer must present a certificate of expected_role and, unless expected_name
 * is NULL, that name. Returns 0 with *out set (on_open or on_close follows) or an error at once (no
 * callback). */
static inline int env_connect(struct env *env, const char *address, enum env_role expected_role,
                              const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                              struct env_conn **out)
{
    return env->ops->connect(env, address, expected_role, expected_name, cbs, arg, out);
}
/* Queues a copy of the parts, in order; they leave at the end of the turn, as few TLS records as
 * will hold them. 0, or ERR_BUSY (queue above CONN_QUEUE_BYTES_MAX: nothing queued), ERR_NOMEM,
 * ERR_CLOSED. */
static inline int env_conn_write(struct env *env, struct env_conn *c, const struct slice *parts,
                                 size_t count)
{
    return env->ops->conn_write(c, parts, count);
}
/* What was written leaves now and not at the end of the turn: for what others wait for while this
 * node goes on with its own part. From a task only, not from inside a connection's callback. */
static inline void env_conn_flush(struct env *env, struct env_conn *c)
{
    if (env->ops->conn_flush != NULL) {
        env->ops->conn_flush(c);
    }
}
static inline size_t env_conn_queued(struct env *env, const struct env_conn *c)
{
    return env->ops->conn_queued(c);
}
/* While paused on_data isn't called (backpressure to the sender). */
static inline void env_conn_pause(struct env *env, struct env_conn *c, bool paused)
{
    env->ops->conn_pause(c, paused);
}
/* on_close follows in a later turn with `reason`; queued bytes are still sent if that goes within a
 * second. */
static inline void env_conn_close(struct env *env, struct env_conn *c, int reason)
{
    env->ops->conn_close(c, reason);
}
/* Borrowed for the connection's life; role NONE before on_open. */
static inline const struct env_peer *env_conn_peer(struct env *env, const struct env_conn *c)
{
    return env->ops->conn_peer(c);
}

#endif
