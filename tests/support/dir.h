/* Temporary directories of tests: under $TMPDIR or /tmp, gone with dir_close(). Any failure aborts
 * the test program. */
#ifndef CAIRN_TESTS_SUPPORT_DIR_H
#define CAIRN_TESTS_SUPPORT_DIR_H

#include <stdint.h>

#define DIR_PATH_BYTES 512

struct dir {
    char path[DIR_PATH_BYTES];
};

void dir_open(struct dir *d);  /* a new, empty directory */
void dir_close(struct dir *d); /* removes it with all that is in it */
/* Writes "PATH/name" to out and returns out. */
const char *dir_path(const struct dir *d, const char *name, char out[DIR_PATH_BYTES]);

/* A file's bytes, for looking at and damaging files behind the code's back. */
int64_t dir_file_size(const char *path); /* -1: no such file */
void dir_file_read(const char *path, uint64_t offset, void *data, uint64_t len);
void dir_file_write(const char *path, uint64_t offset, const void *data,
                    uint64_t len); /* created when missing */
void dir_file_truncate(const char *path, uint64_t bytes);
void dir_file_flip(const char *path, uint64_t offset, uint8_t mask); /* byte ^= mask */
/* Copies the files and folders inside `from` into the existing directory `to`. */
void dir_copy(const char *from, const char *to);
void dir_remove(const char *path); /* a directory and all that is in it; missing is fine */

#endif
