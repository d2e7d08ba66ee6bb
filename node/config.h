/* The configuration of cairnd: a YAML file, each value of which the environment can override.
 *
 * raft.election_ms in the file is CAIRND_RAFT_ELECTION_MS in the environment; nodes is
 * CAIRND_NODES="n1=host:port,n2=...", numbered in that order. An example with every key:
 * deploy/cairnd.yaml; the table: docs/operations.md. */
#ifndef CAIRN_NODE_CONFIG_H
#define CAIRN_NODE_CONFIG_H

#include "node/node.h"

/* Reads `path` (NULL: environment and defaults alone), applies the environment, validates.
 * ERR_CONFIG with a text that names file, key, value and what is expected; ERR_NOTFOUND. Called
 * before there is a reactor. */
int config_load(const char *path, struct node_config *out, struct err_text *e);
/* Logs a warning for each CAIRND_* variable of the environment that no key has: a slip of the pen.
 */
void config_warn(void);

#endif
