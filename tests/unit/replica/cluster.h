/* Three replicas in one process under virtual time, for tests of replica/: the simulated machines
 * of tests/sim, with a message carrier in place of rpc. Any failure of the harness itself aborts.
 */
#ifndef CAIRN_TESTS_UNIT_REPLICA_CLUSTER_H
#define CAIRN_TESTS_UNIT_REPLICA_CLUSTER_H

#include "replica/replica.h"
#include "sim/sim.h"

#define CLUSTER_NODES 3u
#define CLUSTER_OWNER 77u

struct cluster;

struct cluster_node {
    struct cluster *cluster;
    uint32_t number;
    struct sim_host *host;
    struct env *env; /* NULL: not running */
    struct wal *wal;
    struct replica *replica;
    uint64_t self_id;
    bool founding;
    bool cut;          /* nothing in, nothing out */
    uint64_t delay_ns; /* of what it sends, beside the cluster's */
    bool stopped;      /* replica_stop() was done */
    uint32_t shards_failed;
    int open_err; /* of the last start */
};

struct cluster {
    struct sim *sim;
    struct cluster_node nodes[CLUSTER_NODES];
    uint64_t checkpoint_log_bytes;
    uint32_t loss_per_million; /* of peer batches */
    uint64_t delay_ns;         /* of everything carried */
    uint32_t replicas;         /* of heaps that are created; 0: on all nodes */
};

void cluster_open(struct cluster *c, uint64_t seed, uint64_t checkpoint_log_bytes);
void cluster_close(struct cluster *c);
void cluster_run_ms(struct cluster *c, uint64_t ms);

void cluster_start(struct cluster *c, uint32_t node); /* 0.. */
/* 0, or why it can't be opened: it isn't running then. */
int cluster_try_start(struct cluster *c, uint32_t node);
void cluster_kill(struct cluster *c, uint32_t node, enum sim_death how);

/* A committed and applied command, wherever the leader is: asks again, with the same bytes, for up
 * to 30 s. */
struct command_result cluster_command(struct cluster *c, uint16_t kind, struct slice body);
/* Asks one node once: 0 or the code of shard_propose() or of the result's err. */
int cluster_command_at(struct cluster *c, uint32_t node, uint16_t kind, struct slice body,
                       struct command_result *result, uint64_t wait_ms);
/* A linearizable read at the leader, then what cb makes of its heap. */
typedef void (*cluster_look_cb)(void *arg, const struct heap *heap);
void cluster_read(struct cluster *c, uint64_t uid, cluster_look_cb cb, void *arg);
/* Starts a read at a node; *err is set when it was answered. */
int cluster_read_at(struct cluster *c, uint32_t node, uint64_t uid, uint64_t wait_ms, int *err);
/* The same for a version of the shard, at its leader; then cb, unless *err says why not. */
void cluster_read_version(struct cluster *c, uint64_t uid, uint64_t version, uint64_t wait_ms,
                          cluster_look_cb cb, void *arg, int *err);

/* Index of the node that leads and serves; waits for one. */
uint32_t cluster_leader(struct cluster *c, uint64_t uid);
struct shard_info cluster_info(struct cluster *c, uint32_t node,
                               uint64_t uid); /* uid 0: no such shard there */
/* Waits until all running nodes have applied the same index of the shard, then compares digests. */
void cluster_check_equal(struct cluster *c, uint64_t uid);

/* ---- a client ---- */

struct cluster_client {
    struct cluster *cluster;
    uint64_t uid, session, seq, acked;
};
struct command_result client_open(struct cluster_client *client, struct cluster *c, uint64_t uid,
                                  uint64_t nonce, uint32_t window, uint32_t lease_ms);
/* Sends the next command; results are acknowledged with the next one. */
uint64_t client_alloc(struct cluster_client *client, uint64_t size, struct slice init);
struct command_result client_add(struct cluster_client *client, uint64_t ptr, uint64_t delta);
/* Any command: its body as encoded; session and number are filled in. */
struct command_result client_command(struct cluster_client *client, uint16_t kind,
                                     struct buf *body);
struct command_result client_write(struct cluster_client *client, uint64_t ptr, uint64_t offset,
                                   struct slice data);
/* Creates a heap by a session of its own on the meta shard and returns the uid of its first shard,
 * opened wherever it belongs. */
uint64_t cluster_heap(struct cluster *c, const char *name, uint32_t shards, uint64_t bytes_max);
void cluster_heap_drop(struct cluster *c, const char *name);

#endif
