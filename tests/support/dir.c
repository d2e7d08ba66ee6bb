#include "tests/support/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Noreturn static void die(const char *what, const char *path)
{
    (void)fprintf(stderr, "tests/support/dir: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

static const char *join(char out[DIR_PATH_BYTES], const char *path, const char *name)
{
    int len = snprintf(out, DIR_PATH_BYTES, "%s/%s", path, name);
    if (len < 0 || len >= DIR_PATH_BYTES) {
        errno = ENAMETOOLONG;
        die("path", path);
    }
    return out;
}

void dir_open(struct dir *d)
{
    const char *base = getenv("TMPDIR");
    (void)join(d->path, base == NULL || base[0] == '\0' ? "/tmp" : base, "cairn-test-XXXXXX");
    if (mkdtemp(d->path) == NULL) {
        die("mkdtemp", d->path);
    }
}

void dir_close(struct dir *d)
{
    dir_remove(d->path);
    d->path[0] = '\0';
}

const char *dir_path(const struct dir *d, const char *name, char out[DIR_PATH_BYTES])
{
    return join(out, d->path, name);
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0) {
        die("open", path);
    }
    return fd;
}

int64_t dir_file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

void dir_file_read(const char *path, uint64_t offset, void *data, uint64_t len)
{
    int fd = open_file(path, O_RDONLY);
    if (pread(fd, data, len, (off_t)offset) != (ssize_t)len) {
        die("read", path);
    }
    (void)close(fd);
}

void dir_file_write(const char *path, uint64_t offset, const void *data, uint64_t len)
{
    int fd = open_file(path, O_WRONLY | O_CREAT);
    if (pwrite(fd, data, len, (off_t)offset) != (ssize_t)len) {
        die("write", path);
    }
    (void)close(fd);
}

void dir_file_truncate(const char *path, uint64_t bytes)
{
    if (truncate(path, (off_t)bytes) != 0) {
        die("truncate", path);
    }
}

void dir_file_flip(const char *path, uint64_t offset, uint8_t mask)
{
    uint8_t byte = 0;
    dir_file_read(path, offset, &byte, 1);
    byte ^= mask;
    dir_file_write(path, offset, &byte, 1);
}

static void copy_file(const char *from, const char *to)
{
    int in = open_file(from, O_RDONLY);
    int out = open_file(to, O_WRONLY | O_CREAT | O_TRUNC);
    static char data[1 << 16];
    for (;;) {
        ssize_t n = read(in, data, sizeof data);
        if (n < 0 || (n > 0 && write(out, data, (size_t)n) != n)) {
            die("copy", from);
        }
        if (n == 0) {
            break;
        }
    }
    (void)close(in);
    (void)close(out);
}

/* Calls visit(path of the entry, name) for all that is in `path`; false when there is no such
 * directory. */
static int visit_all(const char *path, void (*visit)(void *arg, const char *path, const char *name),
                     void *arg)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return 0;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            char full[DIR_PATH_BYTES];
            visit(arg, join(full, path, entry->d_name), entry->d_name);
        }
    }
    (void)closedir(dir);
    return 1;
}

static int is_dir(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void copy_one(void *arg, const char *path, const char *name)
{
    char to[DIR_PATH_BYTES];
    (void)join(to, arg, name);
    if (!is_dir(path)) {
        copy_file(path, to);
        return;
    }
    if (mkdir(to, 0700) != 0) {
        die("mkdir", to);
    }
    dir_copy(path, to);
}

void dir_copy(const char *from, const char *to)
{
    if (!visit_all(from, copy_one, (void *)(uintptr_t)to)) {
        die("open", from);
    }
}

static void remove_one(void *arg, const char *path, const char *name)
{
    (void)arg;
    (void)name;
    if (is_dir(path)) {
        dir_remove(path);
    } else if (unlink(path) != 0) {
        die("unlink", path);
    }
}

void dir_remove(const char *path)
{
    if (visit_all(path, remove_one, NULL) && rmdir(path) != 0) {
        die("rmdir", path);
    }
}
