/* A cluster of replicas of one shard under virtual time: replica/consensus.h over a simulated disk
 * and network, one thread, no clock, everything drawn from one seed. cluster.c runs it, faults.c
 * breaks it, disk.c remembers.
 *
 * A violation prints the seed and what was seen, and aborts the program. */
#ifndef CAIRN_TESTS_SIM_CONSENSUS_CLUSTER_H
#define CAIRN_TESTS_SIM_CONSENSUS_CLUSTER_H

#include "replica/consensus.h"

#define NODES_OF_RUN_MAX 12 /* replicas that ever existed in one run */
#define ELECTION_MS      150
#define HEARTBEAT_MS     30

struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* 0 .. n - 1 */
bool rng_chance(struct rng *r, uint32_t per_mille);
uint64_t rng_between(struct rng *r, uint64_t low, uint64_t high); /* inclusive */

/* ---- disk.c: one replica's log, what of it is durable, and its checkpoint
 * ------------------------------- */

struct checkpoint {
    uint64_t index, term, hash; /* of the state machine at index */
    uint64_t config_index;
    struct consensus_config config;
};

struct entry {
    struct wal_entry e; /* holds a reference */
    uint64_t position;  /* where it ends in the disk's sequence */
};

struct entry_log {
    uint64_t prev_index, prev_term;
    struct entry *entries;
    size_t count, capacity;
};

enum disk_op_kind { OP_HARD, OP_TRUNCATE, OP_ENTRY, OP_RESTART, OP_CHECKPOINT };
struct disk_op {
    enum disk_op_kind kind;
    uint64_t term, vote, index; /* index: of the truncation or the trim */
    struct wal_entry entry;
    struct checkpoint checkpoint;
};

struct disk {
    /* durable */
    struct entry_log log;
    uint64_t term, vote;
    struct checkpoint checkpoint;
    /* written, not yet durable */
    struct disk_op *ops;
    size_t op_count, op_capacity;
    uint64_t position; /* ops ever written */
    uint64_t durable;  /* of them durable */
};

struct wal_block *block_new(const void *data, size_t len, struct slice *out);
size_t blocks_alive(void);

uint64_t log_last(const struct entry_log *log);
uint64_t log_term(const struct entry_log *log,
                  uint64_t index); /* 0: not there; prev_index: prev_term */
struct entry *log_at(const struct entry_log *log, uint64_t index);
void log_append(struct entry_log *log, const struct wal_entry *e,
                uint64_t position); /* takes a reference */
void log_truncate(struct entry_log *log, uint64_t index);
void log_trim(struct entry_log *log, uint64_t index); /* drops entries <= index */
void log_restart(struct entry_log *log, uint64_t prev_index, uint64_t prev_term);
void log_copy(struct entry_log *to, const struct entry_log *from);
void log_close(struct entry_log *log);

void disk_write(struct disk *d,
                const struct disk_op *op); /* takes a reference of an entry's block */
void disk_sync(struct disk *d, uint64_t position);
void disk_crash(struct disk *d); /* forgets what isn't durable */
void disk_close(struct disk *d);

/* ---- the cluster
 * --------------------------------------------------------------------------------------- */

struct held_message { /* waits for the hard state before it to be durable */
    struct consensus_message m;
    uint64_t position;
};

struct node {
    uint64_t id;
    bool alive;
    bool wiped; /* its disk is lost: gone for ever */
    uint32_t starts;
    struct consensus *c;
    struct disk disk;
    struct entry_log log; /* what the running replica sees */
    struct checkpoint checkpoint;
    uint64_t hard_position;
    uint64_t sync_done_at, sync_position; /* a sync under way; 0: none */
    struct held_message *held;
    size_t held_count, held_capacity;
    /* state machine */
    uint64_t applied, applied_term, hash;
    struct consensus_config config;
    uint64_t config_index;
    uint64_t commit;
    /* an installation under way */
    struct checkpoint incoming;
    uint64_t install_done_at;     /* 0: none; pages arrive then */
    uint64_t install_position;    /* 0: none; the log is restarted, durable at that position */
    uint64_t checkpoint_position; /* 0: none; a checkpoint is being written */
    uint64_t checkpoint_trim;
    struct checkpoint checkpoint_writing;
    bool applying;
    bool wants_barrier;
    uint32_t disk_ms_max; /* slowness of this disk now */
    uint64_t paused_until;
};

struct packet {
    uint64_t at, order;
    struct consensus_message m; /* owns its entries (with references) and data */
};

struct chosen { /* what was applied at an index, by whom first */
    uint64_t term, hash;
    uint64_t known_term; /* of that replica then: it was committed in this term or before */
    uint64_t command;
    uint8_t type;
};

struct ack {
    uint64_t index, term, command;
};

struct profile {                       /* drawn once per seed */
    uint32_t replicas;                 /* 3 or 5 */
    uint32_t loss, duplicate, reorder; /* per mille */
    uint32_t delay_ms_max;
    uint32_t crash, partition, slow_disk, transfer, checkpoint, install_fail, member, wipe, pause;
    uint32_t submit_ms; /* mean time between submissions */
    uint32_t batch_max; /* entries per message when the caller splits them */
    bool apply_durable_only;
};

struct stats {
    uint64_t packets, submitted, acked, elections, crashes, partitions, transfers, checkpoints,
        installs, installs_failed, changes, wipes, truncations, ticks;
};

struct cluster {
    struct consensus_workspace *work; /* of all nodes, as a node's shards share one */
    uint64_t seed, now;
    struct rng rng;
    struct profile profile;
    struct node nodes[NODES_OF_RUN_MAX];
    uint32_t node_count;
    bool faults; /* while false, the network and the disks behave */
    bool cut[NODES_OF_RUN_MAX][NODES_OF_RUN_MAX];
    uint64_t heal_at;
    uint64_t next_submit, next_fault, next_admin;
    struct packet **packets; /* heap by (at, order) */
    size_t packet_count, packet_capacity;
    uint64_t order;
    struct chosen *chosen; /* index 1 at [1] */
    size_t chosen_count, chosen_capacity;
    struct ack *pending, *acked;
    size_t pending_count, pending_capacity, acked_count, acked_capacity;
    uint64_t *leaders; /* by term */
    size_t leaders_capacity;
    uint64_t command;
    struct stats stats;
    uint64_t trace; /* hash of everything that happened */
    bool verbose;
};

void cluster_open(struct cluster *cl, uint64_t seed, bool verbose);
void cluster_close(struct cluster *cl);
/* Runs until `until` or, when not NULL, until done(cl). True if done. */
bool cluster_run(struct cluster *cl, uint64_t until, bool (*done)(struct cluster *cl));
void cluster_check_end(struct cluster *cl);

struct node *cluster_node(struct cluster *cl, uint64_t id);
struct node *cluster_leader(struct cluster *cl); /* the live leader of the highest term, or NULL */
void node_start(struct cluster *cl, struct node *n);
void node_crash(struct cluster *cl, struct node *n);
struct node *node_create(struct cluster *cl, uint64_t id);
void node_update(struct cluster *cl, struct node *n, struct consensus_update *u);
void node_submit(struct cluster *cl, struct node *n);
void node_checkpoint(struct cluster *cl, struct node *n);
_Noreturn void violation(struct cluster *cl, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void trace(struct cluster *cl, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* faults.c */
void faults_draw(struct cluster *cl);
void faults_step(struct cluster *cl); /* something bad, perhaps */
void faults_stop(struct cluster *cl); /* everything is healed and started again */
void admin_step(struct cluster *cl);  /* changes of membership, one step at a time */

#endif
