/* Files and directories of the real environment: plain blocking system calls, for any thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libpmem.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/env_file.h"
#include "base/hash.h"
#include "base/internal.h"
#include "base/mem.h"

#define DIRECT_BYTES 4096u
#define MACHINE_SEED 0x4341495243686f73ull
#define BOOT_SEED    0x43414952426f6f74ull

struct env_file {
    int fd;
    bool aligned; /* opened with ENV_OPEN_DIRECT: its rules hold, whatever the file system does */
    _Atomic bool direct; /* O_DIRECT is really set */
    bool submits;        /* with it and O_DSYNC, writes may be submitted: env_uv_submit.c */
    bool locked;
    size_t map_bytes; /* of the one mapping; 0 = none */
};

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

void env_file_standard(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDONLY); /* printing to it goes on failing; a child inherits it */
    } while ((fd >= 0 && fd <= STDERR_FILENO) || (fd < 0 && errno == EINTR));
    if (fd >= 0) {
        (void)close(fd);
    }
}

static int file_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    (void)env;
    *out = NULL;
    assert((flags & (ENV_OPEN_READ | ENV_OPEN_WRITE)) != 0);
    assert((flags & ENV_OPEN_CREATE) == 0 || (flags & ENV_OPEN_WRITE) != 0);
    struct env_file *f = mem_zalloc(sizeof *f);
    if (f == NULL) {
        return ERR_NOMEM;
    }
    int unix_flags = (flags & ENV_OPEN_WRITE) != 0 ? O_RDWR : O_RDONLY;
    unix_flags |= (flags & ENV_OPEN_CREATE) != 0 ? O_CREAT | O_EXCL : 0;
    unix_flags |= (flags & ENV_OPEN_DSYNC) != 0 ? O_DSYNC : 0;
    f->aligned = (flags & ENV_OPEN_DIRECT) != 0;
    f->direct = f->aligned;
    f->submits = (flags & ENV_OPEN_DSYNC) != 0;
    f->fd = open_retry(path, unix_flags | (f->direct ? O_DIRECT : 0), 0600);
    if (f->fd < 0 && f->direct && errno == EINVAL) {
        /* tmpfs and others. The refused open may have created the file all the same (Linux does it
         * in that order), and it was we who created it, as EEXIST would have come first: so without
         * O_EXCL. */
        f->direct = false;
        f->fd = open_retry(path, unix_flags & ~O_EXCL, 0600);
    }
    if (f->fd < 0) {
        int rv = err_from_errno(errno);
        mem_free(f);
        return rv;
    }
    if ((flags & ENV_OPEN_EXACT) != 0) {
        (void)posix_fadvise(f->fd, 0, 0,
                            POSIX_FADV_RANDOM); /* where that isn't heard, it is slow */
    }
    *out = f;
    return 0;
}

static void file_close(struct env_file *file)
{
    assert(file->map_bytes == 0);
    if (file->locked) {
        /* A child that was forked meanwhile has the open file too, and would keep the lock. */
        struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
        (void)fcntl(file->fd, F_OFD_SETLK, &lock);
    }
    (void)close(file->fd);
    mem_free(file);
}

static bool transfer_is_valid(const struct env_file *file, const void *data, size_t len,
                              uint64_t offset)
{
    if (offset > INT64_MAX || len > INT64_MAX - offset) {
        return false;
    }
    return !file->aligned || (((uintptr_t)data | len | offset) % DIRECT_BYTES) == 0;
}

/* Some file systems take O_DIRECT at open and refuse it at the first transfer. True: try again
 * without. */
static bool direct_dropped(struct env_file *file)
{
    if (errno != EINVAL || !file->direct) {
        return false;
    }
    int flags = fcntl(file->fd, F_GETFL);
    if (flags < 0 || fcntl(file->fd, F_SETFL, flags & ~O_DIRECT) != 0) {
        return false;
    }
    file->direct = false;
    return true;
}

static int64_t file_pread(struct env_file *file, void *data, size_t len, uint64_t offset)
{
    if (!transfer_is_valid(file, data, len, offset)) {
        return ERR_INVAL;
    }
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(file->fd, (uint8_t *)data + done, len - done, (off_t)(offset + done));
        if (n < 0) {
            if (errno == EINTR || direct_dropped(file)) {
                continue;
            }
            return err_from_errno(errno);
        }
        done += (size_t)n;
        /* A direct read that ends inside a block met the end of the file; going on from there would
         * be unaligned. */
        if (n == 0 || (file->direct && done % DIRECT_BYTES != 0)) {
            break;
        }
    }
    return (int64_t)done;
}

static int file_pwrite(struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    if (!transfer_is_valid(file, data, len, offset)) {
        return ERR_INVAL;
    }
    size_t done = 0;
    while (done < len) {
        ssize_t n =
            pwrite(file->fd, (const uint8_t *)data + done, len - done, (off_t)(offset + done));
        if (n < 0) {
            if (errno == EINTR || direct_dropped(file)) {
                continue;
            }
            return errno == EFBIG ? ERR_DISKFULL : err_from_errno(errno);
        }
        if (n == 0) {
            return ERR_IO;
        }
        done += (size_t)n;
        if (file->direct && done < len) {
            done -= done % DIRECT_BYTES; /* the rest of a block cut short is written again with its
                                            whole block */
        }
    }
    return 0;
}

int env_uv__file_submits(const struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    return file->submits && file->direct && transfer_is_valid(file, data, len, offset) ? file->fd
                                                                                       : -1;
}

void env_uv__file_submits_never(struct env_file *file)
{
    file->submits = false;
}

static int file_sync(struct env_file *file)
{
    int rv;
    do {
        rv = fdatasync(file->fd);
    } while (rv != 0 && errno == EINTR);
    return rv == 0 ? 0 : err_from_errno(errno);
}

static int64_t file_size(struct env_file *file)
{
    struct stat st;
    if (fstat(file->fd, &st) != 0) {
        return err_from_errno(errno);
    }
    return (int64_t)st.st_size;
}

static int file_truncate(struct env_file *file, uint64_t bytes)
{
    if (bytes > INT64_MAX) {
        return ERR_INVAL;
    }
    int rv;
    do {
        rv = ftruncate(file->fd, (off_t)bytes);
    } while (rv != 0 && errno == EINTR);
    if (rv == 0) {
        return 0;
    }
    return errno == EFBIG ? ERR_DISKFULL : err_from_errno(errno);
}

static int file_lock(struct env_file *file)
{
    /* A lock of the open file, not of the process: closing another descriptor of the same file
     * doesn't lose it. */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int rv;
    do {
        rv = fcntl(file->fd, F_OFD_SETLK, &lock);
    } while (rv != 0 && errno == EINTR);
    if (rv == 0) {
        file->locked = true;
        return 0;
    }
    return errno == EAGAIN || errno == EACCES ? ERR_LOCKED : err_from_errno(errno);
}

/* Stores reach what the file is made of without a page cache in between. PMEM_IS_PMEM_FORCE makes
 * libpmem say so of anything. */
static bool is_memory(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)) {
        return true; /* what tests use; a restart of the machine loses it */
    }
    void *map =
        mmap(NULL, DIRECT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
    if (map == MAP_FAILED) {
        return false;
    }
    (void)munmap(map, DIRECT_BYTES);
    return true;
}

static int file_map(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem)
{
    *out = NULL;
    *is_pmem = false;
    assert(file->map_bytes == 0);
    if (bytes == 0 || bytes > INT64_MAX) {
        return ERR_INVAL;
    }
    int64_t size = file_size(file);
    if (size < 0) {
        return (int)size;
    }
    if ((uint64_t)size < bytes) {
        /* Really allocated: a store to a hole on a full disk would be a SIGBUS. */
        int rv = posix_fallocate(file->fd, 0, (off_t)bytes);
        if (rv != 0) {
            return rv == EFBIG ? ERR_DISKFULL : err_from_errno(rv);
        }
    }
    /* libpmem wants a path; this one still names our file when it was renamed since. */
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
    size_t mapped = 0;
    int pmem = 0;
    void *map = pmem_map_file(path, 0, 0, 0, &mapped, &pmem);
    if (map == NULL) {
        return err_from_errno(errno);
    }
    assert(mapped >= bytes);
    if (pmem != 0 && !is_memory(file->fd)) {
        (void)pmem_unmap(map, mapped);
        return ERR_CONFIG;
    }
    file->map_bytes = mapped;
    *out = map;
    *is_pmem = pmem != 0;
    return 0;
}

static void file_unmap(struct env_file *file, void *map, uint64_t bytes)
{
    assert(bytes <= file->map_bytes);
    int rv = pmem_unmap(map, file->map_bytes);
    assert(rv == 0);
    file->map_bytes = 0;
}

static int file_map_private(struct env_file *file, void *at, uint64_t bytes, uint64_t offset)
{
    void *map = mmap(at, (size_t)bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file->fd, (off_t)offset);
    return map == at ? 0 : err_from_errno(errno);
}

static void file_ahead(struct env_file *file, uint64_t offset, uint64_t bytes)
{
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

static int dir_remove(struct env *env, const char *path)
{
    (void)env;
    if (rmdir(path) == 0) {
        return 0;
    }
    return errno == ENOTEMPTY ? ERR_EXISTS : err_from_errno(errno);
}

static int dir_sync(struct env *env, const char *path)
{
    (void)env;
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) {
        return err_from_errno(errno);
    }
    int rv;
    do {
        rv = fsync(fd);
    } while (rv != 0 && errno == EINTR);
    rv = rv == 0 ? 0 : err_from_errno(errno);
    (void)close(fd);
    return rv;
}

/* "/a/b/" is in "/a", "b" in ".". */
static int parent_of(const char *path, char out[PATH_MAX])
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    while (len > 0 && path[len - 1] != '/') {
        len--;
    }
    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    if (len >= PATH_MAX) {
        return ERR_INVAL;
    }
    memcpy(out, len == 0 ? "." : path, len == 0 ? 1 : len);
    out[len == 0 ? 1 : len] = '\0';
    return 0;
}

/* Who may add to a directory need not be allowed to read it, and what can't be read can't be synced
 * by itself. */
static int dir_create(struct env *env, const char *path)
{
    char parent[PATH_MAX];
    int rv = parent_of(path, parent);
    if (rv != 0) {
        return rv;
    }
    if (mkdir(path, 0700) != 0) {
        return err_from_errno(errno);
    }
    rv = dir_sync(env, parent);
    if (rv == ERR_DENIED) {
        int fd = open_retry(path, O_RDONLY | O_DIRECTORY, 0);
        rv = fd >= 0 && syncfs(fd) == 0 ? 0 : err_from_errno(errno);
        if (fd >= 0) {
            (void)close(fd);
        }
    }
    if (rv != 0) {
        (void)rmdir(path); /* the next attempt finds none, and syncs it */
    }
    return rv;
}

static int dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                    void *arg)
{
    (void)env;
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return err_from_errno(errno);
    }
    int rv = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            rv = errno == 0 ? 0 : err_from_errno(errno);
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            cb(arg, entry->d_name);
        }
    }
    (void)closedir(dir);
    return rv;
}

static int file_rename(struct env *env, const char *from, const char *to)
{
    (void)env;
    return rename(from, to) == 0 ? 0 : err_from_errno(errno);
}

static int file_unlink(struct env *env, const char *path)
{
    (void)env;
    return unlink(path) == 0 ? 0 : err_from_errno(errno);
}

static int disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    (void)env;
    *bytes = 0;
    struct statvfs st;
    int rv;
    do {
        rv = statvfs(path, &st);
    } while (rv != 0 && errno == EINTR);
    if (rv != 0) {
        return err_from_errno(errno);
    }
    *bytes = (uint64_t)st.f_bavail * (uint64_t)st.f_frsize;
    return 0;
}

/* What stands in the first line: 32 hexadecimal digits, not all of them 0, and hyphens. Image
 * builders leave other things there. 0: no such file, or no such line. */
static uint64_t id_of(const char *path, uint64_t seed)
{
    char text[64];
    char digits[32];
    size_t count = 0;
    bool zero = true;
    int fd = open_retry(path, O_RDONLY, 0);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text);
    (void)close(fd);
    for (ssize_t i = 0; i < n && text[i] != '\n'; i++) {
        bool digit = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (digit && count < sizeof digits) {
            zero = zero && text[i] == '0';
            digits[count++] = text[i];
        } else if (digit || text[i] != '-') {
            return 0;
        }
    }
    return count == sizeof digits && !zero ? hash64(seed, digits, sizeof digits) : 0;
}

uint64_t env_uv__host_by(const char *machine_id, const char *boot_id)
{
    uint64_t host = id_of(machine_id, MACHINE_SEED); /* it is secret: machine-id(5) */
    return host != 0 ? host : id_of(boot_id, BOOT_SEED);
}

uint64_t env_file_host(void)
{
    return env_uv__host_by("/etc/machine-id", "/proc/sys/kernel/random/boot_id");
}

void env_file_ops(struct env_ops *ops)
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
    ops->file_ahead = file_ahead;
    ops->file_map_private = file_map_private;
    ops->dir_create = dir_create;
    ops->dir_remove = dir_remove;
    ops->dir_sync = dir_sync;
    ops->dir_list = dir_list;
    ops->file_rename = file_rename;
    ops->file_unlink = file_unlink;
    ops->disk_free = disk_free;
}
