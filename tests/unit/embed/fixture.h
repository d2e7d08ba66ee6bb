/* A client and a heap for tests of the SDK through the public header: on a directory of this
 * machine, or (mode "cluster") on the cluster that $CAIRN_ENDPOINTS names. */
#ifndef CAIRN_TESTS_UNIT_EMBED_FIXTURE_H
#define CAIRN_TESTS_UNIT_EMBED_FIXTURE_H

#include "support/dir.h"
#include "support/test.h"

#include "cairn/tx.h"

extern struct dir dir;       /* of the test that runs; the directory is "db" in it */
extern const char *mode;     /* "disk", "pmem" or "cluster" */
extern cairn_client *client; /* of the test that runs */
extern cairn_heap *heap;

bool on_cluster(void);
/* Prints what went wrong, if anything did, and fails. */
void must(int rv);
int open_client(cairn_client **out);
/* Another heap of `client`, of 64 MiB, under a name of its own. */
void heap_new(uint32_t shards, cairn_heap **out);
const char *heap_name(void); /* of `heap` */

/* Set-up and tear-down: a client with a heap of $TX_SHARDS (3) shards. On a cluster, where making
 * one takes elections, the tests of a program share it (fixture_over() is the group's tear-down),
 * but for those that begin with fixture_fresh(). */
int fixture_begin(void **state);
int fixture_fresh(void **state);
int fixture_end(void **state);
int fixture_over(void **state);

/* Objects of 64 bytes that begin with a number. */
cairn_ptr object(uint64_t value);
uint64_t value_of(cairn_ptr ptr);
void put(cairn_ptr ptr, uint64_t value);
/* The same in a transaction. */
void set(cairn_tx *tx, cairn_ptr ptr, uint64_t value);
uint64_t get(cairn_tx *tx, cairn_ptr ptr);

#endif
