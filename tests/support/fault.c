#include "tests/support/fault.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

/* The file functions of env_ops that take a file get no environment, so a file carries its own. */
struct env_file {
    struct fault *fault;
    struct env_file *inner;
};

static struct fault *fault_of(struct env *env)
{
    return (struct fault *)env;
}

/* Counts one operation; 0, or the error that it must fail with. */
static int fault_step(struct fault *f, int op)
{
    if ((f->mask & op) == 0) {
        return 0;
    }
    f->count++;
    if (atomic_fetch_sub(&f->left, 1) > 0) {
        return 0;
    }
    long repeat = f->repeat;
    do {
        if (repeat == 0) {
            return 0;
        }
    } while (repeat > 0 && !atomic_compare_exchange_weak(&f->repeat, &repeat, repeat - 1));
    f->hits++;
    f->last_op = op;
    return f->err;
}

static uint64_t op_now_ns(struct env *env)
{
    return env_now_ns(fault_of(env)->inner);
}
static uint64_t op_wall_us(struct env *env)
{
    return env_wall_us(fault_of(env)->inner);
}

static void op_random(struct env *env, void *out, size_t bytes)
{
    env_random(fault_of(env)->inner, out, bytes);
}

static void op_timer_start(struct env *env, struct env_timer *timer, uint64_t at_ns)
{
    env_timer_start(fault_of(env)->inner, timer, at_ns);
}

static void op_timer_stop(struct env *env, struct env_timer *timer)
{
    env_timer_stop(fault_of(env)->inner, timer);
}

static void op_defer(struct env *env, struct env_task *task)
{
    env_defer(fault_of(env)->inner, task);
}

static void op_post(struct env *env, struct env_post *post)
{
    env_post(fault_of(env)->inner, post);
}
static void op_work(struct env *env, struct env_work *work)
{
    env_work(fault_of(env)->inner, work);
}

static int op_file_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    struct fault *f = fault_of(env);
    *out = NULL;
    int rv = fault_step(f, FAULT_OPEN);
    if (rv != 0) {
        return rv;
    }
    struct env_file *file = mem_alloc(sizeof *file);
    if (file == NULL) {
        return ERR_NOMEM;
    }
    file->fault = f;
    rv = env_file_open(f->inner, path, flags, &file->inner);
    if (rv != 0) {
        mem_free(file);
        return rv;
    }
    *out = file;
    return 0;
}

static void op_file_close(struct env_file *file)
{
    env_file_close(file->fault->inner, file->inner);
    mem_free(file);
}

static int64_t op_file_pread(struct env_file *file, void *data, size_t len, uint64_t offset)
{
    int rv = fault_step(file->fault, FAULT_READ);
    return rv != 0 ? rv : env_file_pread(file->fault->inner, file->inner, data, len, offset);
}

static int op_file_pwrite(struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    int rv = fault_step(file->fault, FAULT_WRITE);
    if (rv == 0) {
        return env_file_pwrite(file->fault->inner, file->inner, data, len, offset);
    }
    if (file->fault->torn) {
        size_t half = len / 2 / 512 * 512;
        (void)env_file_pwrite(file->fault->inner, file->inner, data, half, offset);
    }
    return rv;
}

static int op_file_sync(struct env_file *file)
{
    int rv = fault_step(file->fault, FAULT_SYNC);
    return rv != 0 ? rv : env_file_sync(file->fault->inner, file->inner);
}

static int64_t op_file_size(struct env_file *file)
{
    int rv = fault_step(file->fault, FAULT_SIZE);
    return rv != 0 ? rv : env_file_size(file->fault->inner, file->inner);
}

static int op_file_truncate(struct env_file *file, uint64_t bytes)
{
    int rv = fault_step(file->fault, FAULT_TRUNCATE);
    return rv != 0 ? rv : env_file_truncate(file->fault->inner, file->inner, bytes);
}

static int op_file_lock(struct env_file *file)
{
    int rv = fault_step(file->fault, FAULT_LOCK);
    return rv != 0 ? rv : env_file_lock(file->fault->inner, file->inner);
}

static int op_file_map(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem)
{
    *out = NULL;
    *is_pmem = false;
    int rv = fault_step(file->fault, FAULT_MAP);
    return rv != 0 ? rv : env_file_map(file->fault->inner, file->inner, bytes, out, is_pmem);
}

static void op_file_unmap(struct env_file *file, void *map, uint64_t bytes)
{
    env_file_unmap(file->fault->inner, file->inner, map, bytes);
}

static int op_dir_create(struct env *env, const char *path)
{
    int rv = fault_step(fault_of(env), FAULT_DIR);
    return rv != 0 ? rv : env_dir_create(fault_of(env)->inner, path);
}

static int op_dir_remove(struct env *env, const char *path)
{
    int rv = fault_step(fault_of(env), FAULT_DIR);
    return rv != 0 ? rv : env_dir_remove(fault_of(env)->inner, path);
}

static int op_dir_sync(struct env *env, const char *path)
{
    int rv = fault_step(fault_of(env), FAULT_DIR);
    return rv != 0 ? rv : env_dir_sync(fault_of(env)->inner, path);
}

static int op_dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                       void *arg)
{
    int rv = fault_step(fault_of(env), FAULT_DIR);
    return rv != 0 ? rv : env_dir_list(fault_of(env)->inner, path, cb, arg);
}

static int op_file_rename(struct env *env, const char *from, const char *to)
{
    int rv = fault_step(fault_of(env), FAULT_RENAME);
    return rv != 0 ? rv : env_file_rename(fault_of(env)->inner, from, to);
}

static int op_file_unlink(struct env *env, const char *path)
{
    int rv = fault_step(fault_of(env), FAULT_UNLINK);
    return rv != 0 ? rv : env_file_unlink(fault_of(env)->inner, path);
}

static int op_disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    *bytes = 0;
    int rv = fault_step(fault_of(env), FAULT_DISK_FREE);
    return rv != 0 ? rv : env_disk_free(fault_of(env)->inner, path, bytes);
}

static int op_listen(struct env *env, const char *address, env_accept_cb cb, void *arg,
                     struct env_listener **out, struct err_text *e)
{
    return env_listen(fault_of(env)->inner, address, cb, arg, out, e);
}

static int op_connect(struct env *env, const char *address, enum env_role expected_role,
                      const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                      struct env_conn **out)
{
    return env_connect(fault_of(env)->inner, address, expected_role, expected_name, cbs, arg, out);
}

void fault_init(struct fault *f, struct env *inner)
{
    memset(f, 0, sizeof *f);
    f->inner = inner;
    f->ops = *inner->ops; /* of the transport, what takes no environment is taken over as it is */
    f->ops.now_ns = op_now_ns;
    f->ops.wall_us = op_wall_us;
    f->ops.random = op_random;
    f->ops.timer_start = op_timer_start;
    f->ops.timer_stop = op_timer_stop;
    f->ops.defer = op_defer;
    f->ops.post = op_post;
    f->ops.work = op_work;
    f->ops.file_open = op_file_open;
    f->ops.file_close = op_file_close;
    f->ops.file_pread = op_file_pread;
    f->ops.file_pwrite = op_file_pwrite;
    f->ops.file_sync = op_file_sync;
    f->ops.file_submit = NULL; /* so that every write comes through here */
    f->ops.file_size = op_file_size;
    f->ops.file_truncate = op_file_truncate;
    f->ops.file_lock = op_file_lock;
    f->ops.file_map = op_file_map;
    f->ops.file_unmap = op_file_unmap;
    f->ops.dir_create = op_dir_create;
    f->ops.dir_remove = op_dir_remove;
    f->ops.dir_sync = op_dir_sync;
    f->ops.dir_list = op_dir_list;
    f->ops.file_rename = op_file_rename;
    f->ops.file_unlink = op_file_unlink;
    f->ops.disk_free = op_disk_free;
    f->ops.listen = op_listen;
    f->ops.connect = op_connect;
    f->env.ops = &f->ops;
    f->mask = FAULT_ALL;
}

void fault_file(struct fault *f, long after, long repeat, int err, int mask)
{
    assert(after >= 0);
    assert(err < 0);
    f->left = after;
    f->repeat = repeat;
    f->err = err;
    f->mask = mask;
    f->count = 0;
    f->hits = 0;
    f->last_op = 0;
}

void fault_off(struct fault *f)
{
    f->repeat = 0;
    f->mask = FAULT_ALL;
    f->count = 0;
}

long fault_memory_sweep(int (*scenario)(void *arg), void (*check)(void *arg, int rv), void *arg,
                        long repeat, long max)
{
    for (long n = 0;; n++) {
        assert(n <= max);
        mem_fault(n, repeat);
        int rv = scenario(arg);
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        if (hits == 0) {
            assert(rv == 0);
            return n;
        }
        check(arg, rv);
    }
}
