/* A node: the wiring of log, replica and rpc behind one listening address, and what answers
 * requests.
 *
 * Runs on any environment: in cairnd on the real one, in tests/sim/ many of them in one process. No
 * globals. All calls on the reactor's thread. */
#ifndef CAIRN_NODE_NODE_H
#define CAIRN_NODE_NODE_H

#include "base/env.h"
#include "base/limits.h"
#include "replica/replica.h"

struct node;

#define PATH_BYTES_MAX 1023

enum node_storage { NODE_STORAGE_AUTO, NODE_STORAGE_DISK, NODE_STORAGE_PMEM };

struct node_config_peer {
    uint32_t number; /* 1..255, never changes for a name */
    char name[NODE_NAME_BYTES_MAX + 1];
    char address[ADDRESS_BYTES_MAX + 1]; /* where nodes and clients reach it */
};

/* Validated by node/config.c, or filled by a test; node_config_init() sets the defaults. */
struct node_config {
    char cluster[64];
    char name[NODE_NAME_BYTES_MAX + 1]; /* own; stands in `nodes` */
    char data_dir[PATH_BYTES_MAX + 1];
    char listen[ADDRESS_BYTES_MAX + 1];
    char http[ADDRESS_BYTES_MAX + 1]; /* health and metrics; empty: none */
    char ca_file[PATH_BYTES_MAX + 1], cert_file[PATH_BYTES_MAX + 1], key_file[PATH_BYTES_MAX + 1];
    struct node_config_peer nodes[NODES_MAX];
    uint32_t node_count;
    uint32_t election_ms, heartbeat_ms; /* 1000, 100 */
    enum replica_leaders leaders;       /* auto */
    enum node_storage storage;          /* auto: pmem if the data directory is on it, else disk */
    uint64_t checkpoint_log_bytes;      /* 8 MiB */
    uint64_t log_bytes_max;             /* 128 MiB, of all shards */
    uint64_t meta_bytes_max;            /* 64 MiB */
    uint64_t wal_segment_bytes;         /* 16 MiB */
    uint64_t wal_cache_bytes;           /* 4 MiB */
    uint64_t wal_disk_bytes_max;        /* 1 GiB */
    bool wal_direct;                    /* true */
    uint32_t shutdown_ms;               /* handing over at most this long; 5000 */
    int log_level;                      /* enum log_level */
    bool log_json;
};
void node_config_init(struct node_config *config);
/* 0, or ERR_CONFIG with what, where and what to do in *e. */
int node_config_validate(const struct node_config *config, struct err_text *e);

/* Phase of life; see node/README.md for the transitions. */
enum node_phase {
    NODE_DISCOVERING, /* fresh disk: asking the peers whether a cluster exists */
    NODE_JOINING,     /* fresh disk, and one does: asking for a new replica id */
    NODE_RUNNING,
    NODE_STOPPING,
    NODE_FAILED /* the log died: nothing is served */
};

struct node_cbs {
    /* The node can't go on (failed log, foreign cluster, ...): the process should say so and exit.
     * Once. */
    void (*on_fatal)(void *arg, struct node *node, int err, const char *text);
};

/* Opens the data directory (creating it), replays the log and starts to listen and to connect.
 * Blocking while it replays. The config is copied. */
int node_open(struct env *env, const struct node_config *config, const struct node_cbs *cbs,
              void *arg, struct node **out, struct err_text *e);
/* Graceful: GOAWAY to clients, leadership handed over, log closed with its clean mark; done in a
 * later turn, then node_free(). */
void node_stop(struct node *node, void (*done)(void *arg), void *arg);
/* Frees at once: after node_stop's done, or when the (simulated) process is dead and its
 * environment with it, so that no callback can come any more. */
void node_free(struct node *node);

enum node_phase node_phase(const struct node *node);
struct replica *node_replica(struct node *node); /* NULL before NODE_RUNNING */
int node_port(const struct node *node); /* where it listens (port 0 in the config picks one) */

/* What health, readiness and metrics are made from; filled on the reactor. */
struct node_health {
    enum node_phase phase;
    uint32_t shards, shards_leading, shards_with_leader, shards_failed;
    uint64_t commands, reads, batches, wal_writes, wal_bytes, wal_sync_ns_p99;
    uint64_t connections, watches;
    uint64_t handshakes, handshakes_ended; /* struct rpc_server_stats */
    bool disk_full;
    struct replica_clock clock;
    struct replica_load load;
    struct replica_room room;
};
void node_get_health(struct node *node, struct node_health *out);

#endif
