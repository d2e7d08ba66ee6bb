#include "memdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define SECTOR 512u
#define PAGE   4096u

struct env_file {
    struct memdisk *disk;
    int file;
};

static struct memdisk *disk_of(struct env *env)
{
    return (struct memdisk *)env;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static int name_find(const struct memdisk *d, const char *name)
{
    for (int i = 0; i < 64; i++) {
        if (d->names[i].file >= 0 && strcmp(d->names[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static void name_add(struct memdisk *d, const char *name, int file)
{
    for (int i = 0; i < 64; i++) {
        if (d->names[i].file < 0) {
            (void)snprintf(d->names[i].name, sizeof d->names[i].name, "%s", name);
            d->names[i].file = file;
            return;
        }
    }
    abort();
}

static void record(struct memdisk *d, enum memdisk_op_kind kind, int file, uint64_t offset,
                   const void *bytes, size_t len, const char *name, const char *to)
{
    if (!d->recording) {
        return;
    }
    if (d->log_count == d->log_capacity) {
        d->log_capacity = d->log_capacity * 2 + 64;
        d->log = realloc(d->log, d->log_capacity * sizeof *d->log);
        assert(d->log != NULL);
    }
    struct memdisk_op *op = &d->log[d->log_count++];
    memset(op, 0, sizeof *op);
    op->kind = kind;
    op->file = file;
    op->offset = offset;
    op->len = len;
    if (len > 0) {
        op->bytes = malloc(len);
        assert(op->bytes != NULL);
        memcpy(op->bytes, bytes, len);
    }
    (void)snprintf(op->name, sizeof op->name, "%s", name == NULL ? "" : name);
    (void)snprintf(op->to, sizeof op->to, "%s", to == NULL ? "" : to);
}

#define MAP_ALIGNMENT ((size_t)4096)

static void file_put(struct memdisk_file *f, uint64_t offset, const void *bytes, size_t len)
{
    size_t end = (size_t)offset + len;
    if (len == 0) {
        return;
    }
    if (end > f->capacity) {
        size_t capacity = (end * 2 + MAP_ALIGNMENT - 1) / MAP_ALIGNMENT * MAP_ALIGNMENT;
        uint8_t *data = aligned_alloc(MAP_ALIGNMENT, capacity); /* stores of whole lines need it */
        assert(data != NULL);
        memset(data, 0, capacity);
        if (f->len > 0) {
            memcpy(data, f->data, f->len);
        }
        free(f->data);
        f->data = data;
        f->capacity = capacity;
    }
    memcpy(f->data + offset, bytes, len);
    f->len = end > f->len ? end : f->len;
}

/* ---- the table ---- */

static uint64_t md_now(struct env *env)
{
    return disk_of(env)->now += 1000;
}

static void md_work(struct env *env, struct env_work *work)
{
    list_push_back(&disk_of(env)->works, &work->link);
}

static int md_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    struct memdisk *d = disk_of(env);
    int at = name_find(d, base_name(path));
    *out = NULL;
    if ((flags & ENV_OPEN_CREATE) != 0) {
        if (at >= 0) {
            return ERR_EXISTS;
        }
        assert(d->file_count < MEMDISK_FILES);
        name_add(d, base_name(path), d->file_count);
        record(d, MD_CREATE, d->file_count, 0, NULL, 0, base_name(path), NULL);
        d->file_count++;
        at = name_find(d, base_name(path));
    }
    if (at < 0) {
        return ERR_NOTFOUND;
    }
    struct env_file *f = malloc(sizeof *f);
    assert(f != NULL);
    f->disk = d;
    f->file = d->names[at].file;
    *out = f;
    return 0;
}

static void md_file_close(struct env_file *f)
{
    free(f);
}

static int64_t md_pread(struct env_file *f, void *data, size_t len, uint64_t offset)
{
    const struct memdisk_file *file = &f->disk->files[f->file];
    if (offset >= file->len) {
        return 0;
    }
    size_t n = file->len - offset < len ? file->len - (size_t)offset : len;
    memcpy(data, file->data + offset, n);
    return (int64_t)n;
}

static int md_pwrite(struct env_file *f, const void *data, size_t len, uint64_t offset)
{
    file_put(&f->disk->files[f->file], offset, data, len);
    record(f->disk, MD_WRITE, f->file, offset, data, len, NULL, NULL);
    return 0;
}

static int md_sync(struct env_file *f)
{
    record(f->disk, MD_SYNC, f->file, 0, NULL, 0, NULL, NULL);
    return 0;
}

static int64_t md_size(struct env_file *f)
{
    return (int64_t)f->disk->files[f->file].len;
}

/* The file itself: changes of it are not recorded. */
static int md_map(struct env_file *f, uint64_t bytes, void **out, bool *is_pmem)
{
    struct memdisk_file *file = &f->disk->files[f->file];
    if (file->len < bytes) {
        file_put(file, bytes - 1, "", 1);
    }
    *out = file->data;
    *is_pmem = true;
    return 0;
}

static void md_unmap(struct env_file *f, void *map, uint64_t bytes)
{
    assert(map == f->disk->files[f->file].data && bytes <= f->disk->files[f->file].len);
}

static int md_dir_create(struct env *env, const char *path)
{
    (void)env;
    (void)path;
    return ERR_EXISTS;
}

static int md_dir_remove(struct env *env, const char *path)
{
    (void)path;
    const struct memdisk *d = disk_of(env);
    for (int i = 0; i < 64; i++) {
        if (d->names[i].file >= 0) {
            return ERR_EXISTS;
        }
    }
    return 0;
}

static int md_dir_sync(struct env *env, const char *path)
{
    (void)path;
    record(disk_of(env), MD_DIRSYNC, -1, 0, NULL, 0, NULL, NULL);
    return 0;
}

static int md_dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                       void *arg)
{
    (void)path;
    struct memdisk *d = disk_of(env);
    for (int i = 0; i < 64; i++) {
        if (d->names[i].file >= 0) {
            char name[64];
            memcpy(name, d->names[i].name, sizeof name);
            cb(arg, name);
        }
    }
    return 0;
}

static int md_rename(struct env *env, const char *from, const char *to)
{
    struct memdisk *d = disk_of(env);
    int at = name_find(d, base_name(from));
    if (at < 0) {
        return ERR_NOTFOUND;
    }
    int over = name_find(d, base_name(to));
    if (over >= 0) {
        d->names[over].file = -1;
    }
    record(d, MD_RENAME, -1, 0, NULL, 0, base_name(from), base_name(to));
    (void)snprintf(d->names[at].name, sizeof d->names[at].name, "%s", base_name(to));
    return 0;
}

static int md_unlink(struct env *env, const char *path)
{
    struct memdisk *d = disk_of(env);
    int at = name_find(d, base_name(path));
    if (at < 0) {
        return ERR_NOTFOUND;
    }
    record(d, MD_UNLINK, -1, 0, NULL, 0, base_name(path), NULL);
    d->names[at].file = -1;
    return 0;
}

void memdisk_open(struct memdisk *d)
{
    memset(d, 0, sizeof *d);
    d->ops = (struct env_ops){
        .now_ns = md_now,
        .work = md_work,
        .file_open = md_open,
        .file_close = md_file_close,
        .file_pread = md_pread,
        .file_pwrite = md_pwrite,
        .file_sync = md_sync,
        .file_size = md_size,
        .file_map = md_map,
        .file_unmap = md_unmap,
        .dir_create = md_dir_create,
        .dir_remove = md_dir_remove,
        .dir_sync = md_dir_sync,
        .dir_list = md_dir_list,
        .file_rename = md_rename,
        .file_unlink = md_unlink,
    };
    d->env.ops = &d->ops;
    d->env.host = 1;
    list_init(&d->works);
    for (int i = 0; i < 64; i++) {
        d->names[i].file = -1;
    }
}

void memdisk_close(struct memdisk *d)
{
    assert(list_empty(&d->works));
    for (int i = 0; i < d->file_count; i++) {
        free(d->files[i].data);
    }
    for (size_t i = 0; i < d->log_count; i++) {
        free(d->log[i].bytes);
    }
    free(d->log);
}

void memdisk_run(struct memdisk *d, long max)
{
    while (!list_empty(&d->works) && max-- > 0) {
        struct env_work *work = list_entry(d->works.next, struct env_work, link);
        list_remove(&work->link);
        work->run(work);
        work->done(work);
    }
}

struct memdisk_file *memdisk_file(struct memdisk *d, const char *name)
{
    int at = name_find(d, name);
    return at < 0 ? NULL : &d->files[d->names[at].file];
}

/* ---- power loss ---- */

static uint64_t dice(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

static void write_lost(struct memdisk_file *f, const struct memdisk_op *op, enum memdisk_loss loss,
                       uint64_t *seed)
{
    if (loss == LOSS_DROP) {
        return;
    }
    if (loss == LOSS_KEEP) {
        file_put(f, op->offset, op->bytes, op->len);
        return;
    }
    for (size_t at = 0; at < op->len; at += SECTOR) {
        size_t n = op->len - at < SECTOR ? op->len - at : SECTOR;
        if (dice(seed) % 2 == 0) {
            file_put(f, op->offset + at, op->bytes + at, n);
        }
    }
}

static void name_apply(struct memdisk *out, const struct memdisk_op *op)
{
    int at = name_find(out, op->name);
    if (op->kind == MD_CREATE) {
        if (at >= 0) {
            out->names[at].file = -1;
        }
        name_add(out, op->name, op->file);
    } else if (op->kind == MD_UNLINK && at >= 0) {
        out->names[at].file = -1;
    } else if (op->kind == MD_RENAME && at >= 0) {
        int over = name_find(out, op->to);
        if (over >= 0) {
            out->names[over].file = -1;
        }
        (void)snprintf(out->names[at].name, sizeof out->names[at].name, "%s", op->to);
    }
}

void memdisk_cut(const struct memdisk *d, size_t ops, enum memdisk_loss loss, uint64_t seed,
                 struct memdisk *out)
{
    assert(ops <= d->log_count);
    memdisk_open(out);
    out->file_count = d->file_count;
    size_t synced[MEMDISK_FILES] = {0};
    size_t names_synced = 0;
    for (size_t i = 0; i < ops; i++) {
        if (d->log[i].kind == MD_SYNC) {
            synced[d->log[i].file] = i;
        } else if (d->log[i].kind == MD_DIRSYNC) {
            names_synced = i;
        }
    }
    bool names_go_on = true;
    for (size_t i = 0; i < ops; i++) {
        const struct memdisk_op *op = &d->log[i];
        if (op->kind == MD_WRITE) {
            write_lost(&out->files[op->file], op, i < synced[op->file] ? LOSS_KEEP : loss, &seed);
        } else if (op->kind != MD_SYNC && op->kind != MD_DIRSYNC) {
            /* A journaling file system keeps the order of names. */
            if (i >= names_synced &&
                (loss == LOSS_DROP || (loss == LOSS_TORN && dice(&seed) % 3 == 0))) {
                names_go_on = false;
            }
            if (names_go_on) {
                name_apply(out, op);
            }
        }
    }
}

/* For each file the last operation that synced it, and the last that synced the names. */
struct synced {
    size_t files[MEMDISK_FILES];
    size_t names;
};

static void synced_find(const struct memdisk *d, size_t ops, struct synced *s)
{
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < ops; i++) {
        if (d->log[i].kind == MD_SYNC) {
            s->files[d->log[i].file] = i;
        } else if (d->log[i].kind == MD_DIRSYNC) {
            s->names = i;
        }
    }
}

static bool is_name(const struct memdisk_op *op)
{
    return op->kind == MD_CREATE || op->kind == MD_RENAME || op->kind == MD_UNLINK;
}

struct memdisk_open_ends memdisk_open_ends(const struct memdisk *d, size_t ops)
{
    struct memdisk_open_ends ends = {0, 0};
    struct synced s;
    synced_find(d, ops, &s);
    for (size_t i = 0; i < ops; i++) {
        const struct memdisk_op *op = &d->log[i];
        if (op->kind == MD_WRITE && i >= s.files[op->file]) {
            ends.pages += (op->len + PAGE - 1) / PAGE;
        } else if (is_name(op) && i >= s.names) {
            ends.names++;
        }
    }
    return ends;
}

void memdisk_cut_pages(const struct memdisk *d, size_t ops, uint64_t kept, size_t names,
                       struct memdisk *out)
{
    assert(ops <= d->log_count);
    struct synced s;
    size_t page = 0;
    memdisk_open(out);
    out->file_count = d->file_count;
    synced_find(d, ops, &s);
    for (size_t i = 0; i < ops; i++) {
        const struct memdisk_op *op = &d->log[i];
        if (op->kind == MD_WRITE && i < s.files[op->file]) {
            file_put(&out->files[op->file], op->offset, op->bytes, op->len);
        } else if (op->kind == MD_WRITE) {
            for (size_t at = 0; at < op->len; at += PAGE, page++) {
                size_t n = op->len - at < PAGE ? op->len - at : PAGE;
                if ((kept >> (page & 63) & 1) != 0) {
                    file_put(&out->files[op->file], op->offset + at, op->bytes + at, n);
                }
            }
        } else if (is_name(op) && (i < s.names || names > 0)) {
            names -= i >= s.names;
            name_apply(out, op);
        }
    }
}

void memdisk_record(struct memdisk *d)
{
    d->recording = true;
    for (int i = 0; i < 64; i++) {
        int file = d->names[i].file;
        if (file >= 0) {
            record(d, MD_CREATE, file, 0, NULL, 0, d->names[i].name, NULL);
            record(d, MD_WRITE, file, 0, d->files[file].data, d->files[file].len, NULL, NULL);
            record(d, MD_SYNC, file, 0, NULL, 0, NULL, NULL);
        }
    }
    record(d, MD_DIRSYNC, -1, 0, NULL, 0, NULL, NULL);
}
