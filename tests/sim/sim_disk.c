/* A disk in memory that knows what is written and what is synced, sector by sector.
 *
 * A file's bytes are those of the page cache; a sector that differs from what the device has keeps
 * the device's bytes beside it (`saved`). A sync forgets them, a power loss restores some of them.
 * A failed sync leaves the sectors LOST: the cache shows them, later syncs don't write them
 * (Rebello et al., ATC'20). Changes of names wait in `ops` until the directory is synced; a power
 * loss keeps any of them that don't depend on a dropped one. */
#include <stdio.h>
#include <string.h>

#include "sim/internal.h"

#define SECTOR_BYTES 512u
#define DIRECT_BYTES 4096u
#define WRITE_NS     12000u
#define SYNC_NS      150000u
#define READ_NS      6000u
#define FREE_DEFAULT (1ull << 40)

enum sector_state { SECTOR_CLEAN, SECTOR_DIRTY, SECTOR_LOST };

struct sim_inode {
    uint8_t *data;
    uint64_t size, capacity;
    uint64_t synced_size;
    uint8_t *state;  /* per sector */
    uint8_t **saved; /* per sector: the device's bytes; NULL when clean, or all zero */
    uint32_t *dirty; /* sectors that are not clean, in order of becoming so */
    size_t dirty_count, dirty_capacity;
    uint32_t names; /* entries, now and durable, and ops */
    uint32_t handles;
    struct sim_proc *locked;
};

enum op_kind { OP_LINK, OP_UNLINK, OP_RENAME };
struct sim_op {
    enum op_kind kind;
    char *path;
    char *to;                /* RENAME */
    struct sim_inode *inode; /* LINK, RENAME; NULL: a directory */
};

struct env_file {
    struct sim_proc *proc;
    struct sim_disk *disk;
    struct sim_inode *inode;
    struct list link;
    int flags;
    char path[200];
};

static uint64_t below(struct sim_disk *disk, uint64_t limit)
{
    return sim_below(disk->host->sim, limit);
}

/* ---- inodes ---- */

static void inode_unref(struct sim_disk *disk, struct sim_inode *inode)
{
    if (inode == NULL || inode->names > 0 || inode->handles > 0) {
        return;
    }
    disk->used -= inode->size;
    for (size_t i = 0; i < inode->dirty_count; i++) {
        mem_free(inode->saved[inode->dirty[i]]);
    }
    mem_free(inode->data);
    mem_free(inode->state);
    mem_free(inode->saved);
    mem_free(inode->dirty);
    mem_free(inode);
}

static void inode_reserve(struct sim_inode *inode, uint64_t bytes)
{
    if (bytes <= inode->capacity) {
        return;
    }
    uint64_t capacity = inode->capacity == 0 ? 4096 : inode->capacity;
    while (capacity < bytes) {
        capacity *= 2;
    }
    size_t old_sectors = inode->capacity / SECTOR_BYTES, sectors = capacity / SECTOR_BYTES;
    inode->data = sim__grow(inode->data, capacity);
    memset(inode->data + inode->capacity, 0, capacity - inode->capacity);
    inode->state = sim__grow(inode->state, sectors);
    memset(inode->state + old_sectors, 0, sectors - old_sectors);
    inode->saved = sim__grow(inode->saved, sectors * sizeof *inode->saved);
    memset(inode->saved + old_sectors, 0, (sectors - old_sectors) * sizeof *inode->saved);
    inode->capacity = capacity;
}

static bool all_zero(const uint8_t *p, size_t len)
{
    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* The sector is about to change in the cache: remember what the device has. */
static void sector_touch(struct sim_inode *inode, uint64_t sector)
{
    if (inode->state[sector] != SECTOR_CLEAN) {
        inode->state[sector] = SECTOR_DIRTY; /* a lost one, written again, is like any other */
        return;
    }
    inode->state[sector] = SECTOR_DIRTY;
    const uint8_t *bytes = inode->data + sector * SECTOR_BYTES;
    if (!all_zero(bytes, SECTOR_BYTES)) {
        inode->saved[sector] = sim__alloc(SECTOR_BYTES);
        memcpy(inode->saved[sector], bytes, SECTOR_BYTES);
    }
    if (inode->dirty_count == inode->dirty_capacity) {
        inode->dirty_capacity = inode->dirty_capacity == 0 ? 64 : inode->dirty_capacity * 2;
        inode->dirty = sim__grow(inode->dirty, inode->dirty_capacity * sizeof *inode->dirty);
    }
    inode->dirty[inode->dirty_count++] = (uint32_t)sector;
}

static void inode_write(struct sim_disk *disk, struct sim_inode *inode, const uint8_t *data,
                        size_t len, uint64_t offset)
{
    if (len == 0) {
        return;
    }
    inode_reserve(inode, (offset + len + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES);
    for (uint64_t s = offset / SECTOR_BYTES; s <= (offset + len - 1) / SECTOR_BYTES; s++) {
        sector_touch(inode, s);
    }
    memcpy(inode->data + offset, data, len);
    if (offset + len > inode->size) {
        disk->used += offset + len - inode->size;
        inode->size = offset + len;
    }
}

static void inode_resize(struct sim_disk *disk, struct sim_inode *inode, uint64_t size)
{
    inode_reserve(inode, (size + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES);
    if (size < inode->size) {
        for (uint64_t s = size / SECTOR_BYTES; s * SECTOR_BYTES < inode->size; s++) {
            sector_touch(inode, s);
        }
        memset(inode->data + size, 0, inode->size - size);
    }
    disk->used += size;
    disk->used -= inode->size;
    inode->size = size;
}

static void sector_settle(struct sim_inode *inode, uint32_t sector)
{
    mem_free(inode->saved[sector]);
    inode->saved[sector] = NULL;
    inode->state[sector] = SECTOR_CLEAN;
}

static void inode_sync(struct sim_inode *inode)
{
    size_t kept = 0;
    for (size_t i = 0; i < inode->dirty_count; i++) {
        uint32_t s = inode->dirty[i];
        if (inode->state[s] == SECTOR_LOST) {
            inode->dirty[kept++] = s;
        } else {
            sector_settle(inode, s);
        }
    }
    inode->dirty_count = kept;
    inode->synced_size = inode->size;
}

static void inode_sync_failed(struct sim_inode *inode)
{
    for (size_t i = 0; i < inode->dirty_count; i++) {
        inode->state[inode->dirty[i]] = SECTOR_LOST;
    }
}

/* Power is lost. mode 0: nothing unsynced survives; 1: all; 2: any sector may; 3: the older ones.
 */
static void inode_power_loss(struct sim_disk *disk, struct sim_inode *inode, int mode)
{
    size_t cut = mode == 3 ? (size_t)below(disk, inode->dirty_count + 1) : 0;
    disk->stats.torn_crashes += inode->dirty_count > 0 ? 1 : 0;
    for (size_t i = 0; i < inode->dirty_count; i++) {
        uint32_t s = inode->dirty[i];
        uint8_t *now = inode->data + (uint64_t)s * SECTOR_BYTES;
        bool keep = mode == 1 || (mode == 2 && below(disk, 2) == 0) || (mode == 3 && i < cut);
        if (inode->state[s] == SECTOR_LOST || !keep) {
            static const uint8_t zero[SECTOR_BYTES];
            const uint8_t *old = inode->saved[s] != NULL ? inode->saved[s] : zero;
            size_t from = 0;
            if (inode->state[s] != SECTOR_LOST && mode >= 2 && below(disk, 16) == 0) {
                from = (size_t)below(disk, SECTOR_BYTES); /* torn: its first bytes are new */
                disk->stats.sectors_torn++;
            }
            memcpy(now + from, old + from, SECTOR_BYTES - from);
            disk->stats.sectors_dropped++;
        }
        sector_settle(inode, s);
    }
    inode->dirty_count = 0;
    uint64_t size = inode->synced_size;
    if (mode == 1 || (mode >= 2 && below(disk, 2) == 0)) {
        size = inode->size;
    }
    disk->used += size;
    disk->used -= inode->size;
    inode->size = size;
    inode_reserve(inode, (size + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES);
    if (size < inode->capacity) {
        memset(inode->data + size, 0, inode->capacity - size);
    }
    inode->synced_size = size;
}

/* ---- names ---- */

static size_t names_find(const struct sim_names *names, const char *path, bool *found)
{
    size_t low = 0, high = names->count;
    *found = false;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c = strcmp(names->entries[mid].path, path);
        if (c == 0) {
            *found = true;
            return mid;
        }
        if (c < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static struct sim_entry *names_get(const struct sim_names *names, const char *path)
{
    bool found;
    size_t at = names_find(names, path, &found);
    return found ? &names->entries[at] : NULL;
}

static void names_remove(struct sim_disk *disk, struct sim_names *names, const char *path)
{
    bool found;
    size_t at = names_find(names, path, &found);
    if (!found) {
        return;
    }
    assert(names->entries != NULL);
    struct sim_entry entry = names->entries[at];
    names->count--;
    memmove(&names->entries[at], &names->entries[at + 1],
            (names->count - at) * sizeof *names->entries);
    mem_free(entry.path);
    if (entry.inode != NULL) {
        entry.inode->names--;
        inode_unref(disk, entry.inode);
    }
}

static void names_set(struct sim_disk *disk, struct sim_names *names, const char *path,
                      struct sim_inode *inode)
{
    if (inode != NULL) {
        inode->names++; /* before the old one goes: it may be the same */
    }
    names_remove(disk, names, path);
    bool found;
    size_t at = names_find(names, path, &found);
    if (names->count == names->capacity) {
        names->capacity = names->capacity == 0 ? 32 : names->capacity * 2;
        names->entries = sim__grow(names->entries, names->capacity * sizeof *names->entries);
    }
    assert(names->entries != NULL);
    memmove(&names->entries[at + 1], &names->entries[at],
            (names->count - at) * sizeof *names->entries);
    names->count++;
    names->entries[at].path = sim__copy(path);
    names->entries[at].inode = inode;
}

static void names_clear(struct sim_disk *disk, struct sim_names *names)
{
    while (names->count > 0) {
        names_remove(disk, names, names->entries[names->count - 1].path);
    }
}

static void op_apply(struct sim_disk *disk, const struct sim_op *op)
{
    if (op->kind == OP_LINK) {
        names_set(disk, &disk->durable, op->path, op->inode);
    } else if (op->kind == OP_UNLINK) {
        names_remove(disk, &disk->durable, op->path);
    } else {
        names_remove(disk, &disk->durable, op->path);
        names_set(disk, &disk->durable, op->to, op->inode);
    }
}

static void op_close(struct sim_disk *disk, struct sim_op *op)
{
    if (op->inode != NULL) {
        op->inode->names--;
        inode_unref(disk, op->inode);
    }
    mem_free(op->path);
    mem_free(op->to);
}

static void op_add(struct sim_disk *disk, enum op_kind kind, const char *path, const char *to,
                   struct sim_inode *inode)
{
    if (disk->op_count == disk->op_capacity) {
        disk->op_capacity = disk->op_capacity == 0 ? 32 : disk->op_capacity * 2;
        disk->ops = sim__grow(disk->ops, disk->op_capacity * sizeof *disk->ops);
    }
    struct sim_op *op = &disk->ops[disk->op_count++];
    op->kind = kind;
    op->path = sim__copy(path);
    op->to = to == NULL ? NULL : sim__copy(to);
    op->inode = inode;
    if (inode != NULL) {
        inode->names++;
    }
}

static bool is_in(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    while (n > 0 && dir[n - 1] == '/') {
        n--;
    }
    return path != NULL && strncmp(path, dir, n) == 0 && path[n] == '/' &&
           strchr(path + n + 1, '/') == NULL;
}

static bool op_touches(const struct sim_op *op, const char *path)
{
    return path != NULL &&
           (strcmp(op->path, path) == 0 || (op->to != NULL && strcmp(op->to, path) == 0));
}

/* A directory goes only when it is empty: not before what was in it has gone. */
static bool removes_around(const struct sim_op *op, const struct sim_op *before)
{
    return op->kind == OP_UNLINK && (is_in(before->path, op->path) || is_in(before->to, op->path));
}

/* Any of the changes may have reached the device, but none that builds on one that hasn't. */
static void names_power_loss(struct sim_disk *disk, int mode)
{
    bool dropped[4096] = {false};
    assert(disk->op_count <= sizeof dropped);
    for (size_t i = 0; i < disk->op_count; i++) {
        const struct sim_op *op = &disk->ops[i];
        bool keep = mode == 1 || (mode >= 2 && below(disk, 2) == 0);
        for (size_t j = 0; keep && j < i; j++) {
            if (dropped[j] &&
                (op_touches(&disk->ops[j], op->path) || op_touches(&disk->ops[j], op->to) ||
                 is_in(op->path, disk->ops[j].path) || removes_around(op, &disk->ops[j]))) {
                keep = false;
            }
        }
        dropped[i] = !keep;
        if (keep) {
            op_apply(disk, op);
        }
    }
    for (size_t i = 0; i < disk->op_count; i++) {
        op_close(disk, &disk->ops[i]);
    }
    disk->op_count = 0;
    names_clear(disk, &disk->now);
    for (size_t i = 0; i < disk->durable.count; i++) {
        names_set(disk, &disk->now, disk->durable.entries[i].path, disk->durable.entries[i].inode);
    }
}

/* ---- costs, faults, death ---- */

static void cost(struct sim_proc *proc, uint64_t ns)
{
    proc->cost_ns += ns * proc->host->disk.slow;
}

/* Every operation that changes something passes here: false if the process dies before it. */
static bool alive(struct sim_proc *proc)
{
    if (proc->dead || proc->doomed) {
        return false;
    }
    if (proc->doom_armed) {
        if (proc->doom_operations == 0) {
            proc->doomed = true;
            return false;
        }
        proc->doom_operations--;
    }
    return true;
}

static bool strikes(bool *armed, uint32_t *skip)
{
    if (!*armed) {
        return false;
    }
    if (*skip > 0) {
        (*skip)--;
        return false;
    }
    *armed = false;
    return true;
}

static bool has_room(const struct sim_disk *disk, uint64_t more)
{
    return disk->limit == UINT64_MAX || disk->used + more <= disk->limit;
}

void sim_disk__init(struct sim_disk *disk, struct sim_host *host)
{
    disk->host = host;
    disk->limit = UINT64_MAX;
    disk->slow = 1;
}

void sim_disk__close(struct sim_disk *disk)
{
    sim_disk_wipe(disk->host);
    mem_free(disk->now.entries);
    mem_free(disk->durable.entries);
    mem_free(disk->ops);
}

void sim_disk_wipe(struct sim_host *host)
{
    struct sim_disk *disk = &host->disk;
    assert(host->proc == NULL);
    for (size_t i = 0; i < disk->op_count; i++) {
        op_close(disk, &disk->ops[i]);
    }
    disk->op_count = 0;
    names_clear(disk, &disk->now);
    names_clear(disk, &disk->durable);
}

void sim_disk__proc_died(struct sim_proc *proc, enum sim_death how)
{
    struct sim_disk *disk = &proc->host->disk;
    list_for_each (it, &proc->files) {
        struct env_file *file = list_entry(it, struct env_file, link);
        if (file->inode->locked == proc) {
            file->inode->locked = NULL;
        }
    }
    if (how != SIM_POWER_LOSS) {
        return;
    }
    int mode = (int)below(disk, 4);
    names_power_loss(disk, mode);
    for (size_t i = 0; i < disk->now.count; i++) {
        struct sim_inode *inode = disk->now.entries[i].inode;
        if (inode != NULL) {
            inode_power_loss(disk, inode, mode);
        }
    }
}

void sim_disk__proc_freed(struct sim_proc *proc)
{
    list_for_each_safe (it, next, &proc->files) {
        env_file_close(&proc->env, list_entry(it, struct env_file, link));
    }
}

/* ---- what a process calls ---- */

static int file_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    *out = NULL;
    assert((flags & (ENV_OPEN_READ | ENV_OPEN_WRITE)) != 0);
    if (proc->dead || proc->doomed) {
        return ERR_IO;
    }
    cost(proc, 3000);
    struct sim_entry *entry = names_get(&disk->now, path);
    struct sim_inode *inode;
    if ((flags & ENV_OPEN_CREATE) != 0) {
        if (entry != NULL) {
            return ERR_EXISTS;
        }
        char parent[256];
        (void)snprintf(parent, sizeof parent, "%s", path);
        char *slash = strrchr(parent, '/');
        if (slash != NULL && slash != parent) {
            *slash = '\0';
            if (names_get(&disk->now, parent) == NULL) {
                return ERR_NOTFOUND;
            }
        }
        if (!alive(proc)) {
            return ERR_IO;
        }
        if (!has_room(disk, 4096)) {
            disk->stats.full_errors++;
            return ERR_DISKFULL;
        }
        inode = sim__alloc(sizeof *inode);
        inode->handles = 1; /* so that it lives while its names come */
        names_set(disk, &disk->now, path, inode);
        op_add(disk, OP_LINK, path, NULL, inode);
    } else if (entry == NULL) {
        return ERR_NOTFOUND;
    } else if (entry->inode == NULL) {
        return ERR_IO;
    } else {
        inode = entry->inode;
        inode->handles++;
    }
    struct env_file *file = sim__alloc(sizeof *file);
    file->proc = proc;
    file->disk = disk;
    file->inode = inode;
    file->flags = flags;
    (void)snprintf(file->path, sizeof file->path, "%s", path);
    list_push_back(&proc->files, &file->link);
    *out = file;
    return 0;
}

static void file_close(struct env_file *file)
{
    if (file->inode->locked == file->proc) {
        file->inode->locked = NULL;
    }
    list_remove(&file->link);
    file->inode->handles--;
    inode_unref(file->disk, file->inode);
    mem_free(file);
}

static bool is_aligned(const struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    return (file->flags & ENV_OPEN_DIRECT) == 0 ||
           (((uintptr_t)data | len | offset) % DIRECT_BYTES) == 0;
}

static int64_t file_pread(struct env_file *file, void *data, size_t len, uint64_t offset)
{
    const struct sim_inode *inode = file->inode;
    if (file->proc->dead || file->proc->doomed) {
        return ERR_IO;
    }
    if (!is_aligned(file, data, len, offset)) {
        return ERR_INVAL;
    }
    cost(file->proc, READ_NS + len / 4);
    if (offset >= inode->size) {
        return 0;
    }
    size_t n = len < inode->size - offset ? len : (size_t)(inode->size - offset);
    memcpy(data, inode->data + offset, n);
    return (int64_t)n;
}

static uint64_t sync_ns(struct sim_disk *disk)
{
    uint64_t ns = SYNC_NS + below(disk, SYNC_NS);
    if (!disk->steady && below(disk, 200) == 0) {
        ns += 5000000 + below(disk, 60000000); /* a neighbour is busy */
    }
    return ns;
}

static int do_sync(struct env_file *file)
{
    struct sim_disk *disk = file->disk;
    cost(file->proc, sync_ns(disk));
    disk->stats.syncs++;
    if (strikes(&disk->fail_sync, &disk->fail_sync_skip)) {
        disk->stats.sync_errors++;
        inode_sync_failed(file->inode);
        return ERR_IO;
    }
    inode_sync(file->inode);
    return 0;
}

static int file_pwrite(struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    struct sim_disk *disk = file->disk;
    struct sim_inode *inode = file->inode;
    assert((file->flags & ENV_OPEN_WRITE) != 0);
    if (file->proc->dead || file->proc->doomed) {
        return ERR_IO;
    }
    if (!is_aligned(file, data, len, offset)) {
        return ERR_INVAL;
    }
    if (!alive(file->proc) || strikes(&disk->fail_write, &disk->fail_write_skip)) {
        /* In the middle of it. */
        size_t part = (size_t)below(disk, len / SECTOR_BYTES + 1) * SECTOR_BYTES;
        inode_write(disk, inode, data, part, offset);
        disk->stats.write_errors += file->proc->doomed ? 0 : 1;
        return ERR_IO;
    }
    uint64_t end = offset + len;
    if (end > inode->size && !has_room(disk, end - inode->size)) {
        disk->stats.full_errors++;
        return ERR_DISKFULL;
    }
    cost(file->proc, WRITE_NS + len);
    disk->stats.writes++;
    disk->stats.bytes += len;
    inode_write(disk, inode, data, len, offset);
    if ((file->flags & ENV_OPEN_DSYNC) == 0) {
        return 0;
    }
    /* Synchronous writes settle only their own bytes; settling the file's is what a device under a
     * journal does, and what nobody may rely on: so sector by sector. */
    if (disk->fail_sync && disk->fail_sync_skip == 0) {
        return do_sync(file);
    }
    uint64_t first = offset / SECTOR_BYTES, last = len == 0 ? first : (end - 1) / SECTOR_BYTES;
    size_t kept = 0;
    for (size_t i = 0; i < inode->dirty_count; i++) {
        uint32_t s = inode->dirty[i];
        if (s >= first && s <= last && inode->state[s] == SECTOR_DIRTY) {
            sector_settle(inode, s);
        } else {
            inode->dirty[kept++] = s;
        }
    }
    inode->dirty_count = kept;
    if (end > inode->synced_size) {
        inode->synced_size = end;
    }
    if (disk->fail_sync) {
        disk->fail_sync_skip--;
    }
    disk->stats.syncs++;
    cost(file->proc, sync_ns(disk));
    return 0;
}

static int file_sync(struct env_file *file)
{
    if (file->proc->dead || file->proc->doomed || !alive(file->proc)) {
        return ERR_IO;
    }
    return do_sync(file);
}

static int64_t file_size(struct env_file *file)
{
    return file->proc->dead || file->proc->doomed ? ERR_IO : (int64_t)file->inode->size;
}

static int file_truncate(struct env_file *file, uint64_t bytes)
{
    if (file->proc->dead || file->proc->doomed || !alive(file->proc)) {
        return ERR_IO;
    }
    if (bytes > file->inode->size && !has_room(file->disk, bytes - file->inode->size)) {
        file->disk->stats.full_errors++;
        return ERR_DISKFULL;
    }
    cost(file->proc, WRITE_NS);
    inode_resize(file->disk, file->inode, bytes);
    return 0;
}

static int file_lock(struct env_file *file)
{
    struct sim_proc *holder = file->inode->locked;
    if (holder != NULL && holder != file->proc) {
        return ERR_LOCKED;
    }
    file->inode->locked = file->proc;
    return 0;
}

static int file_map(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem)
{
    (void)file;
    (void)bytes;
    *out = NULL;
    *is_pmem = false;
    return ERR_UNSUPPORTED;
}

static void file_unmap(struct env_file *file, void *map, uint64_t bytes)
{
    (void)file;
    (void)bytes;
    assert(map == NULL);
}

static void path_trim(const char *path, char out[256])
{
    int n = snprintf(out, 256, "%s", path);
    assert(n > 0 && n < 256);
    while (n > 1 && out[n - 1] == '/') {
        out[--n] = '\0';
    }
}

static int dir_create(struct env *env, const char *path)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    char name[256];
    path_trim(path, name);
    if (names_get(&disk->now, name) != NULL) {
        return ERR_EXISTS;
    }
    if (proc->dead || proc->doomed || !alive(proc)) {
        return ERR_IO;
    }
    if (!has_room(disk, 4096)) {
        disk->stats.full_errors++;
        return ERR_DISKFULL;
    }
    names_set(disk, &disk->now, name, NULL);
    op_add(disk, OP_LINK, name, NULL, NULL);
    return 0;
}

static bool is_empty(const struct sim_names *names, const char *dir)
{
    for (size_t i = 0; i < names->count; i++) {
        if (is_in(names->entries[i].path, dir)) {
            return false;
        }
    }
    return true;
}

static int dir_remove(struct env *env, const char *path)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    char name[256];
    path_trim(path, name);
    const struct sim_entry *entry = names_get(&disk->now, name);
    if (entry == NULL || entry->inode != NULL) {
        return entry == NULL ? ERR_NOTFOUND : ERR_IO;
    }
    if (!is_empty(&disk->now, name)) {
        return ERR_EXISTS;
    }
    if (proc->dead || proc->doomed || !alive(proc)) {
        return ERR_IO;
    }
    op_add(disk, OP_UNLINK, name, NULL, NULL);
    names_remove(disk, &disk->now, name);
    return 0;
}

static int dir_sync(struct env *env, const char *path)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    if (proc->dead || proc->doomed || !alive(proc)) {
        return ERR_IO;
    }
    cost(proc, SYNC_NS);
    size_t kept = 0;
    for (size_t i = 0; i < disk->op_count; i++) {
        struct sim_op op = disk->ops[i];
        if (is_in(op.path, path) || is_in(op.to, path)) {
            op_apply(disk, &op);
            op_close(disk, &op);
        } else {
            disk->ops[kept++] = op;
        }
    }
    disk->op_count = kept;
    return 0;
}

static int dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                    void *arg)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    char name[256];
    path_trim(path, name);
    if (proc->dead || proc->doomed) {
        return ERR_IO;
    }
    if (names_get(&disk->now, name) == NULL) {
        return ERR_NOTFOUND;
    }
    cost(proc, READ_NS);
    /* All of the names first: what is called may remove some. */
    size_t count = 0;
    char **found = sim__alloc((disk->now.count + 1) * sizeof *found);
    for (size_t i = 0; i < disk->now.count; i++) {
        const char *entry = disk->now.entries[i].path;
        if (is_in(entry, name)) {
            found[count++] = sim__copy(strrchr(entry, '/') + 1);
        }
    }
    for (size_t i = 0; i < count; i++) {
        cb(arg, found[i]);
        mem_free(found[i]);
    }
    mem_free(found);
    return 0;
}

static int file_rename(struct env *env, const char *from, const char *to)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    struct sim_entry *entry = names_get(&disk->now, from);
    if (entry == NULL) {
        return ERR_NOTFOUND;
    }
    if (proc->dead || proc->doomed || !alive(proc)) {
        return ERR_IO;
    }
    struct sim_inode *inode = entry->inode;
    assert(inode != NULL); /* directories aren't renamed here */
    op_add(disk, OP_RENAME, from, to, inode);
    names_remove(disk, &disk->now, from);
    names_set(disk, &disk->now, to, inode);
    return 0;
}

static int file_unlink(struct env *env, const char *path)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim_disk *disk = &proc->host->disk;
    const struct sim_entry *entry = names_get(&disk->now, path);
    if (entry == NULL) {
        return ERR_NOTFOUND;
    }
    if (proc->dead || proc->doomed || !alive(proc)) {
        return ERR_IO;
    }
    op_add(disk, OP_UNLINK, path, NULL, NULL);
    names_remove(disk, &disk->now, path);
    return 0;
}

static int disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    const struct sim_disk *disk = &sim_proc_of(env)->host->disk;
    (void)path;
    if (disk->limit == UINT64_MAX) {
        *bytes = FREE_DEFAULT;
    } else {
        *bytes = disk->limit > disk->used ? disk->limit - disk->used : 0;
    }
    return 0;
}

void sim_disk__ops(struct env_ops *ops)
{
    ops->file_open = file_open;
    ops->file_close = file_close;
    ops->file_pread = file_pread;
    ops->file_pwrite = file_pwrite;
    ops->file_sync = file_sync;
    ops->file_size = file_size;
    ops->file_truncate = file_truncate;
    ops->file_lock = file_lock;
    ops->file_map = file_map;
    ops->file_unmap = file_unmap;
    ops->dir_create = dir_create;
    ops->dir_remove = dir_remove;
    ops->dir_sync = dir_sync;
    ops->dir_list = dir_list;
    ops->file_rename = file_rename;
    ops->file_unlink = file_unlink;
    ops->disk_free = disk_free;
}

/* ---- what a nemesis calls ---- */

void sim_disk_get_stats(const struct sim_host *host, struct sim_disk_stats *out)
{
    *out = host->disk.stats;
    out->used = host->disk.used;
}

void sim_disk_fail_sync(struct sim_host *host, uint32_t skip)
{
    host->disk.fail_sync = true;
    host->disk.fail_sync_skip = skip;
}

void sim_disk_fail_write(struct sim_host *host, uint32_t skip)
{
    host->disk.fail_write = true;
    host->disk.fail_write_skip = skip;
}

void sim_disk_heal(struct sim_host *host)
{
    host->disk.fail_sync = host->disk.fail_write = false;
    host->disk.limit = UINT64_MAX;
    host->disk.slow = 1;
}

void sim_disk_limit(struct sim_host *host, uint64_t more)
{
    host->disk.limit = more == UINT64_MAX ? UINT64_MAX : host->disk.used + more;
}

void sim_disk_slow(struct sim_host *host, uint32_t factor)
{
    assert(factor > 0);
    host->disk.slow = factor;
}

void sim_disk_steady(struct sim_host *host)
{
    host->disk.steady = true;
}

bool sim_disk_flip_bit(struct sim_host *host, const char *part)
{
    struct sim_disk *disk = &host->disk;
    for (int tries = 0; tries < 200 && disk->now.count > 0; tries++) {
        const struct sim_entry *entry = &disk->now.entries[below(disk, disk->now.count)];
        struct sim_inode *inode = entry->inode;
        if (inode == NULL || inode->size == 0 ||
            (part != NULL && strstr(entry->path, part) == NULL)) {
            continue;
        }
        uint64_t at = below(disk, inode->size);
        if (inode->state[at / SECTOR_BYTES] != SECTOR_CLEAN) {
            continue;
        }
        inode->data[at] ^= (uint8_t)(1u << below(disk, 8));
        disk->stats.bits_flipped++;
        return true;
    }
    return false;
}

const char *sim_disk_file(const struct sim_host *host, size_t n)
{
    return n < host->disk.now.count ? host->disk.now.entries[n].path : NULL;
}
