/* The file functions of the real environment, for any other one that wants real files too (embed/,
 * which has no event loop). */
#ifndef CAIRN_BASE_ENV_FILE_H
#define CAIRN_BASE_ENV_FILE_H

#include "base/env.h"

/* Fills the table's file and directory entries. They look at no `struct env`. */
void env_file_ops(struct env_ops *ops);
/* Puts /dev/null where this process has no standard input, output or error. Before the first file
 * or connection is opened: it would take the place, and what the program prints would go into it.
 * thread: any */
void env_file_standard(void);
/* For env.host: a number that follows from /etc/machine-id; where that isn't there, as in most
 * containers, one that lasts until the machine starts again. 0: neither is known. */
uint64_t env_file_host(void);

/* Room for one write that is under way: zeroed before the first. */
struct env_file_write {
    unsigned long ctx;
    bool tried, open;
    size_t len;
};
/* Begins to write a file opened with ENV_OPEN_DIRECT and ENV_OPEN_DSYNC. The data is borrowed until
 * the end. False: write it in the ordinary way. */
bool env_file_write_begin(struct env_file_write *w, struct env_file *file, const void *data,
                          size_t len, uint64_t offset);
/* Waits until all of it is durable or has failed, with *err set. False: the file takes no such
 * writes; write it in the ordinary way. thread: any, one. */
bool env_file_write_end(struct env_file_write *w, int *err);
void env_file_write_close(struct env_file_write *w); /* none is under way */

#endif
