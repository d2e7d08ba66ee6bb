#include "unit/wal/mem_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"

struct env_file {
    struct mem_env *env;
    struct mem_inode *inode;
    bool locked, dsync;
};

static struct mem_env *of(struct env *env)
{
    return (struct mem_env *)env;
}

static void *must(void *p)
{
    assert(p != NULL);
    return p;
}

uint64_t mem_env_random(struct mem_env *m, uint64_t below)
{
    uint64_t z = (m->random_state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return below == 0 ? z : z % below;
}

/* ---- inodes and names
 * --------------------------------------------------------------------------------------------- */

static void writes_clear(struct mem_inode *i)
{
    for (size_t n = 0; n < i->write_count; n++) {
        free(i->writes[n].data);
    }
    i->write_count = 0;
}

static void inode_unref(struct mem_inode *i)
{
    if (--i->refs == 0) {
        writes_clear(i);
        free(i->writes);
        free(i->data);
        free(i->durable);
        free(i);
    }
}

static void inode_write(struct mem_inode *i, const void *data, size_t len, uint64_t offset)
{
    uint64_t end = offset + len;

    if (end > i->capacity) {
        i->capacity = end * 2;
        i->data = must(realloc(i->data, i->capacity));
    }
    if (end > i->bytes) {
        memset(i->data + i->bytes, 0, end - i->bytes);
        i->bytes = end;
    }
    if (len > 0) {
        memcpy(i->data + offset, data, len);
    }
}

static void inode_log_write(struct mem_inode *i, const void *data, size_t len, uint64_t offset)
{
    struct mem_write *w;

    if (i->write_count == i->write_capacity) {
        i->write_capacity = i->write_capacity * 2 + 8;
        i->writes = must(realloc(i->writes, i->write_capacity * sizeof *i->writes));
    }
    w = &i->writes[i->write_count++];
    w->offset = offset;
    w->len = len;
    w->data = must(malloc(len + 1));
    if (len > 0) {
        memcpy(w->data, data, len);
    }
}

static void inode_sync(struct mem_inode *i)
{
    writes_clear(i);
    i->durable = must(realloc(i->durable, i->bytes + 1));
    if (i->bytes > 0) {
        memcpy(i->durable, i->data, i->bytes);
    }
    i->durable_bytes = i->bytes;
}

/* One write durable by itself (O_DSYNC), other unsynced ones stay so. */
static void inode_sync_write(struct mem_inode *i, const void *data, size_t len, uint64_t offset)
{
    if (offset + len > i->durable_bytes) {
        i->durable = must(realloc(i->durable, offset + len));
        memset(i->durable + i->durable_bytes, 0, offset + len - i->durable_bytes);
        i->durable_bytes = offset + len;
    }
    memcpy(i->durable + offset, data, len);
}

static struct mem_name *name_find(struct mem_name *names, const char *path)
{
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (names[n].inode != NULL && strcmp(names[n].path, path) == 0) {
            return &names[n];
        }
    }
    return NULL;
}

static void name_add(struct mem_name *names, const char *path, struct mem_inode *inode)
{
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (names[n].inode == NULL) {
            (void)snprintf(names[n].path, sizeof names[n].path, "%s", path);
            names[n].inode = inode;
            inode->refs++;
            return;
        }
    }
    assert_failed(__FILE__, __LINE__, __func__, "too many files");
}

static void name_remove(struct mem_name *name)
{
    inode_unref(name->inode);
    name->inode = NULL;
}

static void names_clear(struct mem_name *names)
{
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (names[n].inode != NULL) {
            name_remove(&names[n]);
        }
    }
}

static void names_copy(struct mem_name *to, const struct mem_name *from)
{
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (from[n].inode != NULL) {
            from[n].inode->refs++;
        }
    }
    names_clear(to);
    memcpy(to, from, MEM_ENV_FILES_MAX * sizeof *to);
}

struct mem_inode *mem_env_file(struct mem_env *m, const char *path)
{
    struct mem_name *n = name_find(m->names, path);

    return n == NULL ? NULL : n->inode;
}

static bool dead(struct mem_env *m)
{
    m->ops++;
    return m->dies_at >= 0 && m->ops > m->dies_at;
}

static uint64_t disk_used(const struct mem_env *m)
{
    uint64_t used = 0;

    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        used += m->names[n].inode != NULL ? m->names[n].inode->bytes : 0;
    }
    return used;
}

/* ---- files
 * --------------------------------------------------------------------------------------------------------
 */

static int file_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    struct mem_env *m = of(env);
    struct mem_name *name = name_find(m->names, path);
    struct mem_inode *inode;

    *out = NULL;
    if (dead(m)) {
        return ERR_IO;
    }
    if ((flags & ENV_OPEN_CREATE) != 0) {
        if (name != NULL) {
            return ERR_EXISTS;
        }
        inode = must(calloc(1, sizeof *inode));
        name_add(m->names, path, inode);
    } else if (name == NULL) {
        return ERR_NOTFOUND;
    } else {
        inode = name->inode;
    }
    *out = must(calloc(1, sizeof **out));
    (*out)->env = m;
    (*out)->inode = inode;
    (*out)->dsync = (flags & ENV_OPEN_DSYNC) != 0;
    inode->refs++;
    m->handles++;
    return 0;
}

static void file_close(struct env_file *file)
{
    if (file->locked) {
        file->inode->locked = false;
    }
    file->env->handles--;
    inode_unref(file->inode);
    free(file);
}

static int64_t file_pread(struct env_file *file, void *data, size_t len, uint64_t offset)
{
    struct mem_inode *i = file->inode;

    if (dead(file->env)) {
        return ERR_IO;
    }
    if (offset >= i->bytes) {
        return 0;
    }
    if (len > i->bytes - offset) {
        len = (size_t)(i->bytes - offset);
    }
    memcpy(data, i->data + offset, len);
    return (int64_t)len;
}

static int file_pwrite(struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    struct mem_env *m = file->env;
    uint64_t grows = offset + len > file->inode->bytes ? offset + len - file->inode->bytes : 0;
    bool dies = dead(m);

    if (!dies && grows > 0 && m->disk_bytes_max != 0 && disk_used(m) + grows > m->disk_bytes_max) {
        return ERR_DISKFULL;
    }
    if (dies && m->ops > m->dies_at + 1) {
        return ERR_IO;
    }
    /* The write during which the machine dies was under way. */
    inode_write(file->inode, data, len, offset);
    inode_log_write(file->inode, data, len, offset);
    if (dies) {
        return ERR_IO;
    }
    if (file->dsync) {
        inode_sync_write(file->inode, data, len, offset);
    }
    return 0;
}

static int file_sync(struct env_file *file)
{
    if (dead(file->env)) {
        return ERR_IO;
    }
    inode_sync(file->inode);
    return 0;
}

static int64_t file_size(struct env_file *file)
{
    return dead(file->env) ? ERR_IO : (int64_t)file->inode->bytes;
}

static int file_lock(struct env_file *file)
{
    if (dead(file->env)) {
        return ERR_IO;
    }
    if (file->inode->locked) {
        return ERR_LOCKED;
    }
    file->inode->locked = file->locked = true;
    return 0;
}

static int dir_create(struct env *env, const char *path)
{
    struct mem_env *m = of(env);

    (void)path;
    if (dead(m)) {
        return ERR_IO;
    }
    if (m->dir_made) {
        return ERR_EXISTS;
    }
    m->dir_made = true;
    return 0;
}

static int dir_remove(struct env *env, const char *path)
{
    struct mem_env *m = of(env);

    (void)path;
    if (dead(m)) {
        return ERR_IO;
    }
    if (!m->dir_made) {
        return ERR_NOTFOUND;
    }
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (m->names[n].inode != NULL) {
            return ERR_EXISTS;
        }
    }
    m->dir_made = false;
    return 0;
}

static int dir_sync(struct env *env, const char *path)
{
    struct mem_env *m = of(env);

    (void)path;
    if (dead(m)) {
        return ERR_IO;
    }
    names_copy(m->durable_names, m->names);
    return 0;
}

static int dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                    void *arg)
{
    struct mem_env *m = of(env);
    size_t len = strlen(path);

    if (dead(m)) {
        return ERR_IO;
    }
    if (!m->dir_made) {
        return ERR_NOTFOUND;
    }
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (m->names[n].inode != NULL && strncmp(m->names[n].path, path, len) == 0 &&
            m->names[n].path[len] == '/') {
            cb(arg, m->names[n].path + len + 1);
        }
    }
    return 0;
}

static int file_rename(struct env *env, const char *from, const char *to)
{
    struct mem_env *m = of(env);
    struct mem_name *old = name_find(m->names, from);
    struct mem_name *over = name_find(m->names, to);

    if (dead(m)) {
        return ERR_IO;
    }
    if (old == NULL) {
        return ERR_NOTFOUND;
    }
    if (over != NULL) {
        name_remove(over);
    }
    (void)snprintf(old->path, sizeof old->path, "%s", to);
    return 0;
}

static int file_unlink(struct env *env, const char *path)
{
    struct mem_env *m = of(env);
    struct mem_name *name = name_find(m->names, path);

    if (dead(m)) {
        return ERR_IO;
    }
    if (name == NULL) {
        return ERR_NOTFOUND;
    }
    name_remove(name);
    return 0;
}

static int disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    struct mem_env *m = of(env);

    (void)path;
    *bytes = 1ull << 40;
    if (dead(m)) {
        return ERR_IO;
    }
    if (m->disk_bytes_max != 0) {
        uint64_t used = disk_used(m);
        *bytes = used < m->disk_bytes_max ? m->disk_bytes_max - used : 0;
    }
    return 0;
}

/* ---- time and tasks
 * -----------------------------------------------------------------------------------------------
 */

static uint64_t now_ns(struct env *env)
{
    return of(env)->now_ns;
}

static void random_bytes(struct env *env, void *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        ((uint8_t *)out)[i] = (uint8_t)mem_env_random(of(env), 256);
    }
}

static void timer_stop(struct env *env, struct env_timer *t)
{
    struct mem_env *m = of(env);

    if (t->slot != 0) {
        assert(m->timers[t->slot - 1] == t);
        m->timers[t->slot - 1] = NULL;
        t->slot = 0;
    }
}

static void timer_start(struct env *env, struct env_timer *t, uint64_t at_ns)
{
    struct mem_env *m = of(env);

    timer_stop(env, t);
    t->at_ns = at_ns;
    for (size_t n = 0; n < MEM_ENV_TIMERS_MAX; n++) {
        if (m->timers[n] == NULL) {
            m->timers[n] = t;
            t->slot = n + 1;
            return;
        }
    }
    assert_failed(__FILE__, __LINE__, __func__, "too many timers");
}

static void defer(struct env *env, struct env_task *task)
{
    if (!task->queued) {
        task->queued = true;
        list_push_back(&of(env)->tasks, &task->link);
    }
}

static void work(struct env *env, struct env_work *w)
{
    struct mem_env *m = of(env);

    list_push_back(&m->works[w->queue], &w->link);
    m->works_queued++;
}

void mem_env_tasks(struct mem_env *m)
{
    while (!list_empty(&m->tasks)) {
        struct env_task *task = list_entry(m->tasks.next, struct env_task, link);
        list_remove(&task->link);
        task->queued = false;
        task->cb(task);
    }
}

bool mem_env_work_one(struct mem_env *m, unsigned queue)
{
    struct env_work *w;

    mem_env_tasks(m);
    if (list_empty(&m->works[queue])) {
        return false;
    }
    w = list_entry(m->works[queue].next, struct env_work, link);
    list_remove(&w->link);
    m->works_queued--;
    w->run(w);
    w->done(w);
    mem_env_tasks(m);
    return true;
}

static struct env_timer *timer_next(const struct mem_env *m)
{
    struct env_timer *next = NULL;

    for (size_t n = 0; n < MEM_ENV_TIMERS_MAX; n++) {
        if (m->timers[n] != NULL && (next == NULL || m->timers[n]->at_ns < next->at_ns)) {
            next = m->timers[n];
        }
    }
    return next;
}

void mem_env_settle(struct mem_env *m)
{
    bool any = true;

    while (any) {
        struct env_timer *t;
        any = false;
        mem_env_tasks(m);
        for (unsigned q = 0; q < ENV_QUEUE_COUNT; q++) {
            any |= mem_env_work_one(m, q);
        }
        t = timer_next(m);
        if (t != NULL && t->at_ns <= m->now_ns) {
            timer_stop(&m->env, t);
            t->cb(t);
            any = true;
        }
    }
}

void mem_env_advance_ms(struct mem_env *m, uint64_t ms)
{
    uint64_t end = m->now_ns + ms * 1000000u;

    for (;;) {
        struct env_timer *t;
        mem_env_settle(m);
        t = timer_next(m);
        if (t == NULL || t->at_ns > end) {
            break;
        }
        m->now_ns = t->at_ns > m->now_ns ? t->at_ns : m->now_ns;
    }
    m->now_ns = end;
}

void mem_env_drop_works(struct mem_env *m)
{
    long dies_at = m->dies_at;

    m->dies_at = 0; /* whatever they still do fails */
    for (unsigned q = 0; q < ENV_QUEUE_COUNT; q++) {
        while (mem_env_work_one(m, q)) {
        }
    }
    m->dies_at = dies_at;
}

/* ---- power
 * --------------------------------------------------------------------------------------------------------
 */

static void inode_cut(struct mem_env *m, struct mem_inode *i, enum mem_cut cut)
{
    i->data = must(realloc(i->data, i->durable_bytes + 1));
    i->capacity = i->durable_bytes + 1;
    i->bytes = i->durable_bytes;
    if (i->bytes > 0) {
        memcpy(i->data, i->durable, i->bytes);
    }
    for (size_t n = 0; cut != MEM_CUT_NOTHING && n < i->write_count; n++) {
        const struct mem_write *w = &i->writes[n];
        uint64_t fate = mem_env_random(m, 4);
        if (cut == MEM_CUT_ALL || fate == 0) {
            inode_write(i, w->data, w->len, w->offset);
        } else if (fate < 3) { /* each sector for itself */
            for (size_t at = 0; at < w->len; at += 512) {
                if (mem_env_random(m, 2) == 0) {
                    size_t len = w->len - at < 512 ? w->len - at : 512;
                    inode_write(i, w->data + at, len, w->offset + at);
                }
            }
        }
    }
    inode_sync(i);
}

void mem_env_power_cut(struct mem_env *m, enum mem_cut cut)
{
    bool keep_names = cut == MEM_CUT_ALL || (cut == MEM_CUT_RANDOM && mem_env_random(m, 2) == 0);

    assert(m->handles == 0);
    mem_env_drop_works(m);
    if (keep_names) {
        names_copy(m->durable_names, m->names);
    } else {
        names_copy(m->names, m->durable_names);
    }
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        if (m->names[n].inode != NULL) {
            inode_cut(m, m->names[n].inode, cut);
        }
    }
    m->dies_at = -1;
}

/* ---- life
 * ---------------------------------------------------------------------------------------------------------
 */

static const struct env_ops ops = {
    .now_ns = now_ns,
    .random = random_bytes,
    .timer_start = timer_start,
    .timer_stop = timer_stop,
    .defer = defer,
    .work = work,
    .file_open = file_open,
    .file_close = file_close,
    .file_pread = file_pread,
    .file_pwrite = file_pwrite,
    .file_sync = file_sync,
    .file_size = file_size,
    .file_lock = file_lock,
    .dir_create = dir_create,
    .dir_remove = dir_remove,
    .dir_sync = dir_sync,
    .dir_list = dir_list,
    .file_rename = file_rename,
    .file_unlink = file_unlink,
    .disk_free = disk_free,
};

void mem_env_init(struct mem_env *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->env.ops = &ops;
    m->now_ns = 1000000000u;
    m->random_state = seed;
    m->dies_at = -1;
    list_init(&m->tasks);
    for (unsigned q = 0; q < ENV_QUEUE_COUNT; q++) {
        list_init(&m->works[q]);
    }
}

void mem_env_close(struct mem_env *m)
{
    assert(m->handles == 0);
    assert(m->works_queued == 0);
    assert(timer_next(m) == NULL);
    assert(list_empty(&m->tasks));
    names_clear(m->names);
    names_clear(m->durable_names);
}

void mem_env_copy(struct mem_env *to, const struct mem_env *from)
{
    names_clear(to->names);
    names_clear(to->durable_names);
    to->dir_made = from->dir_made;
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        const struct mem_inode *i = from->names[n].inode;
        if (i != NULL) {
            struct mem_inode *copy = must(calloc(1, sizeof *copy));
            copy->data = must(malloc(i->bytes + 1));
            copy->bytes = copy->capacity = i->bytes;
            if (i->bytes > 0) {
                memcpy(copy->data, i->data, i->bytes);
            }
            name_add(to->names, from->names[n].path, copy);
        }
    }
    names_copy(to->durable_names, to->names);
}
