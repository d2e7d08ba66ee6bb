/* The file functions of the real environment, for any other one that wants real files too (embed/,
 * which has no event loop). */
#ifndef CAIRN_BASE_ENV_FILE_H
#define CAIRN_BASE_ENV_FILE_H

#include "base/env.h"

/* Fills the table's file and directory entries. They look at no `struct env`. */
void env_file_ops(struct env_ops *ops);
/* For env.host: a number that follows from /etc/machine-id; 0 when that isn't there. */
uint64_t env_file_host(void);

#endif
