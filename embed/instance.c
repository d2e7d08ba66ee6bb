/* A directory: open, close, its two threads, and the latch.
 *
 * The library thread runs timers, callbacks and whatever of the log nobody waits for; the disk
 * thread writes checkpoints and prepares segments, which may take seconds and must hold up neither.
 * Both only help: a blocking call is served by its own thread. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/forks.h"
#include "base/log.h"
#include "base/mem.h"
#include "embed/internal.h"

#define BIRTH_TIMEOUT_MS 60000u

/* ---- fork: the child has the memory, but neither the threads nor the right to write ---- */

bool embed_is_foreign(const struct embedded *db)
{
    return forks_count() != db->forks;
}

/* ---- the latch ---- */

void embed__fail(struct embedded *db, int err, const char *format, ...)
{
    va_list args;
    if (db->failed != 0) {
        return;
    }
    db->failed = err == ERR_CORRUPT || err == ERR_VERSION ? ERR_CORRUPT : ERR_IO;
    int n = snprintf(db->fail_text, sizeof db->fail_text, "%s: stopped: ", db->settings.dir);
    if (n > 0 && n < (int)sizeof db->fail_text) {
        va_start(args, format);
        (void)vsnprintf(db->fail_text + n, sizeof db->fail_text - (size_t)n, format, args);
        va_end(args);
    }
    log_error("embed", "the directory is dead", "reason=\"%s\"", db->fail_text);
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        embed__fail_calls(h, ERR_INDOUBT, db->failed, db->fail_text);
        embed__watch_end(h, db->failed, db->fail_text);
    }
    inline_wake_all(&db->env);
}

static void on_durable(void *arg, uint64_t position)
{
    (void)position;
    embed__durable(arg);
}

static void on_log_failed(void *arg, int err, const char *text)
{
    embed__fail(arg, err, "%s", text);
}

static void on_pressure(void *arg, struct wal_log *log)
{
    struct embedded *db = arg;
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->log == log) {
            embed__checkpoint_want(h);
        }
    }
}

static void on_prepared(void *arg)
{
    struct embedded *db = arg;
    list_for_each (it, &db->heaps) {
        embed__go_on(list_entry(it, struct embedded_heap, link));
    }
    inline_wake_all(&db->env); /* who hasn't begun */
}

/* ---- threads ---- */

/* Callbacks, without the lock. False: there was nothing. */
static bool deliver(struct embedded *db)
{
    struct list calls;
    struct list posts;
    list_init(&calls);
    list_init(&posts);
    list_splice(&calls, &db->finished);
    list_splice(&posts, &db->posts);
    if (list_empty(&calls) && list_empty(&posts)) {
        return false;
    }
    inline_unlock(&db->env);
    while (!list_empty(&calls)) {
        struct embedded_call *call = list_entry(calls.next, struct embedded_call, link);
        list_remove(&call->link);
        call->done(call); /* may free it */
    }
    while (!list_empty(&posts)) {
        struct embedded_post *post = list_entry(posts.next, struct embedded_post, link);
        list_remove(&post->link);
        post->run(post);
    }
    inline_lock(&db->env);
    return true;
}

static void commit_incoming(struct embedded *db)
{
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        embed__pm_commit(h);
    }
}

static void *library_main(void *arg)
{
    struct embedded *db = arg;
    inline_lock(&db->env);
    for (;;) {
        uint64_t next = inline_timers(&db->env);
        if (db->mode == IMAGE_PMEM) {
            commit_incoming(db);
        }
        if (deliver(db) || (list_empty(&db->env.waiters) && inline_work(&db->env, INLINE_LOG))) {
            continue;
        }
        if (db->stopping) {
            break;
        }
        inline_library_sleep(&db->env, next);
    }
    inline_unlock(&db->env);
    return NULL;
}

static void *disk_main(void *arg)
{
    struct embedded *db = arg;
    embed__opening_help(db);
    inline_lock(&db->env);
    while (!db->stopping) {
        if (!inline_work(&db->env, INLINE_DISK)) {
            inline_disk_sleep(&db->env);
        }
    }
    inline_unlock(&db->env);
    return NULL;
}

static void threads_stop(struct embedded *db, bool library, bool disk)
{
    inline_lock(&db->env);
    db->stopping = true;
    (void)pthread_cond_signal(&db->env.library_wake);
    (void)pthread_cond_signal(&db->env.disk_wake);
    inline_unlock(&db->env);
    if (library) {
        (void)pthread_join(db->library, NULL);
    }
    if (disk) {
        (void)pthread_join(db->disk, NULL);
    }
}

/* The program's signals belong to the program's threads. */
static bool thread_start(struct embedded *db, pthread_t *thread, void *(*main)(void *arg),
                         const char *name)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(thread, NULL, main, db) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started) {
        (void)pthread_setname_np(*thread, name);
    }
    return started;
}

bool embed_on_library_thread(const struct embedded *db)
{
    return pthread_equal(pthread_self(), db->library) != 0;
}

void embed_post(struct embedded *db, struct embedded_post *post)
{
    inline_lock(&db->env);
    list_push_back(&db->posts, &post->link);
    embed__library_wake(db);
    inline_unlock(&db->env);
}

/* ---- open ---- */

static int dir_lock(struct embedded *db, struct err_text *e)
{
    struct env *env = embed_env(db);
    char path[EMBED_PATH_BYTES];
    int rv = env_dir_create(env, db->settings.dir);
    if (rv != 0 && rv != ERR_EXISTS) {
        return err_set(e, rv, "%s: can't be created: %s", db->settings.dir,
                       rv == ERR_NOTFOUND ? "the directory that it is to be in doesn't exist"
                                          : err_why(rv));
    }
    rv = embed__path(db, "lock", path, e);
    if (rv != 0) {
        return rv;
    }
    rv = env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &db->lock_file);
    if (rv == ERR_EXISTS) {
        rv = env_file_open(env, path, ENV_OPEN_WRITE, &db->lock_file);
    }
    if (rv != 0) {
        return err_set(e, rv, "%s: can't be opened: %s", path, err_why(rv));
    }
    rv = env_file_lock(env, db->lock_file);
    return rv == 0 ? 0
                   : err_set(e, rv, "%s: %s", db->settings.dir,
                             rv == ERR_LOCKED ? "is open already, here or in another process"
                                              : err_why(rv));
}

static int log_open(struct embedded *db, bool fresh, struct err_text *e)
{
    char dir[EMBED_PATH_BYTES];
    struct wal_opts opts = {.dir = dir,
                            .node_uid = db->uid,
                            .segment_bytes = db->settings.segment_bytes,
                            .cache_bytes = 1u << 20, /* nobody reads entries again */
                            .disk_bytes_max = db->settings.log_bytes_max,
                            .direct = true,
                            .begin_later = !fresh,
                            .submit_bytes_max = EMBED_SUBMIT_BYTES_MAX,
                            .on_durable = on_durable,
                            .on_failed = on_log_failed,
                            .on_pressure = on_pressure,
                            .on_prepared = on_prepared,
                            .arg = db};
    if (db->mode == IMAGE_PMEM) {
        return 0;
    }
    int rv = embed__path(db, "log", dir, e);
    if (rv == 0) {
        rv = wal_open(embed_env(db), &opts, &db->wal, e);
    }
    if (rv == 0 && !fresh) {
        embed__opening_log(db);
    }
    return rv;
}

/* The catalogue's log is durable before the directory is called complete: from then on, its absence
 * is damage. */
static int finish_birth(struct embedded *db, struct err_text *e)
{
    if (db->mode == IMAGE_DISK) {
        struct embedded_call call = {.request =
                                         &(const struct embedded_request){.op = EMBEDDED_RECLAIM}};
        embed_run(db->catalog, &call, BIRTH_TIMEOUT_MS);
        if (call.err != 0) {
            return err_set(e, call.err, "%s: the first write failed: %s", db->settings.dir,
                           call.text != NULL ? call.text : err_text_of(call.err));
        }
    }
    return embed__identity_complete(db, e);
}

static int open_files(struct embedded *db, bool *fresh, struct err_text *e)
{
    char dir[EMBED_PATH_BYTES];
    int rv = dir_lock(db, e);
    if (rv == 0) {
        rv = embed__identify(db, fresh, e);
    }
    if (rv == 0) {
        rv = embed__path(db, "heaps", dir, e);
    }
    if (rv == 0) {
        rv = env_dir_create(embed_env(db), dir);
        bool made = rv == 0;
        rv = rv == ERR_EXISTS ? 0 : rv;
        if (rv == 0 &&
            (made || *fresh)) { /* else it was synced before the directory was complete */
            rv = env_dir_sync(embed_env(db), db->settings.dir);
        }
        if (rv != 0) {
            return err_set(e, rv, "%s: can't be created: %s", dir, err_why(rv));
        }
    }
    if (rv == 0) {
        rv = log_open(db, *fresh, e);
    }
    return rv != 0 ? rv : embed__catalog_load(db, *fresh, e);
}

/* Without its threads, and with nothing of it in use. */
static void db_free(struct embedded *db)
{
    inline_lock(&db->env);
    env_timer_stop(embed_env(db), &db->tick);
    env_timer_stop(embed_env(db), &db->linger);
    env_timer_stop(embed_env(db), &db->watch_turn);
    if (db->wal != NULL) {
        wal_abandon(db->wal);
        db->wal = NULL;
    }
    list_for_each_safe (it, next, &db->heaps) {
        list_remove(it);
        embed__heap_free(list_entry(it, struct embedded_heap, link));
    }
    inline_drain(&db->env); /* works of the log and of checkpoints that were given up */
    (void)pthread_mutex_unlock(&db->env.lock);
    if (db->lock_file != NULL) {
        env_file_close(embed_env(db), db->lock_file);
    }
    embed__opening_close(db);
    (void)pthread_mutex_destroy(&db->directory);
    inline_close(&db->env);
    mem_free(db);
}

static struct embedded *db_new(const struct embed_settings *settings, struct env *files)
{
    struct embedded *db = mem_zalloc(sizeof *db);
    if (db == NULL) {
        return NULL;
    }
    inline_open(&db->env, files);
    db->env.meanwhile = embed__ahead;
    db->settings = *settings;
    db->ahead_calls_min =
        settings->ahead_calls_min != 0 ? settings->ahead_calls_min : EMBED_AHEAD_CALLS_MIN;
    db->forks = forks_count();
    db->tick.cb = embed__tick;
    db->linger.cb = embed__linger;
    db->watch_turn.cb = embed__watch_turn;
    list_init(&db->heaps);
    list_init(&db->flying);
    list_init(&db->finished);
    list_init(&db->posts);
    (void)pthread_mutex_init(&db->directory, NULL);
    embed__opening_begin(db);
    return db;
}

/* With both threads when it returns 0, and with none else. */
static int open_with_threads(struct embedded *db, bool *fresh, struct err_text *e)
{
    bool library = false;
    bool disk = thread_start(db, &db->disk, disk_main, "cairn-disk");
    int rv = disk ? 0 : ERR_NOMEM;
    if (rv == 0) {
        embed__opening_ask(db);
        inline_lock(&db->env);
        rv = open_files(db, fresh, e);
        embed__opening_end(db);
        env_timer_start_in_ms(embed_env(db), &db->tick, EMBED_TICK_MS);
        inline_unlock(&db->env);
        if (rv != 0) {
            threads_stop(db, false, true);
            return rv;
        }
        library = thread_start(db, &db->library, library_main, "cairn-library");
    }
    if (!library) {
        threads_stop(db, false, disk);
        return err_set(e, ERR_NOMEM, "%s: no threads can be started", db->settings.dir);
    }
    return 0;
}

int embed_open(const struct embed_settings *settings, struct env *files, struct embedded **out,
               struct err_text *e)
{
    bool fresh = false;
    *out = NULL;
    struct embedded *db = db_new(settings, files);
    if (db == NULL) {
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    int rv = open_with_threads(db, &fresh, e);
    if (rv != 0) {
        db_free(db);
        return rv;
    }
    if (fresh) {
        rv = finish_birth(db, e);
        if (rv != 0) {
            embed_abandon(db);
            return rv;
        }
    }
    embed__leases_close(db); /* nobody else has the directory yet */
    *out = db;
    return 0;
}

/* ---- close ---- */

static void on_log_closed(void *arg, int err)
{
    struct embedded *db = arg;
    db->wal = NULL;
    db->wal_closed = true;
    if (err != 0) {
        log_warn("embed", "the log could not be closed cleanly", "err=%s", err_name(err));
    }
    inline_wake_all(&db->env);
}

static void log_close(struct embedded *db)
{
    if (db->wal == NULL || db->failed != 0) {
        return; /* db_free() abandons it */
    }
    wal_close(db->wal, on_log_closed, db);
    while (!db->wal_closed) {
        struct inline_waiter waiter;
        (void)inline_timers(&db->env);
        if (!db->wal_closed && !inline_work(&db->env, INLINE_LOG | INLINE_DISK)) {
            (void)inline_wait(&db->env, &waiter, env_now_ns(embed_env(db)) + 1000000u);
        }
    }
}

void embed_close(struct embedded *db)
{
    if (db == NULL || embed_is_foreign(db)) {
        return; /* what a child has of it goes with the child */
    }
    assert(!embed_on_library_thread(db));
    (void)pthread_mutex_lock(&db->directory);
    inline_lock(&db->env);
    if (db->mode == IMAGE_PMEM) {
        commit_incoming(db); /* as disk mode writes what was submitted before */
    }
    db->closing = true;
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        embed__watch_end(h, ERR_CANCELED, "the directory is being closed");
        embed__heap_settle(h);
    }
    if (db->failed == 0 && db->mode == IMAGE_DISK) {
        embed__checkpoint_all(db);
    }
    list_for_each (it2, &db->heaps) {
        struct embedded_heap *h = list_entry(it2, struct embedded_heap, link);
        if (db->failed == 0 && h->heap != NULL) {
            image_seal(h->image, h->heap);
        }
    }
    log_close(db);
    inline_unlock(&db->env);
    (void)pthread_mutex_unlock(&db->directory);
    threads_stop(db, true, true);
    db_free(db);
}

void embed_abandon(struct embedded *db)
{
    inline_lock(&db->env);
    embed__fail(db, ERR_CANCELED, "abandoned");
    inline_unlock(&db->env);
    threads_stop(db, true, true);
    db_free(db);
}
