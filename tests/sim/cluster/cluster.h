/* A whole cluster in the simulated world: real nodes, real clients, faults, and what must hold. */
#ifndef CAIRN_TESTS_SIM_CLUSTER_H
#define CAIRN_TESTS_SIM_CLUSTER_H

#include "client/core.h"
#include "history/bank.h"
#include "node/node.h"
#include "replica/replica.h"
#include "sim/cluster/accounts.h"
#include "sim/cluster/in_doubt.h"
#include "sim/cluster/mortals.h"
#include "sim/cluster/relay.h"
#include "sim/cluster/transactions.h"
#include "sim/cluster/watchers.h"
#include "sim/history.h"
#include "sim/sim.h"

#define CLUSTER_NODES_MAX   5
#define CLUSTER_CLIENTS_MAX 8
#define CLUSTER_SHARDS_MAX  4
#define REGISTERS           8
#define COUNTERS            4
#define ROOTS               4
#define OWN_OBJECTS         24
#define SLOTS_PER_CLIENT    3

enum fault_mode {
    MODE_NONE,
    MODE_CRASH,
    MODE_PARTITION,
    MODE_DISK,
    MODE_FULL,
    MODE_CLOCK,
    MODE_ROLLING,
    MODE_WIPE,
    MODE_NETWORK,
    MODE_ALL_DOWN,
    MODE_BITROT,
    MODE_MIXED,
    MODE_COUNT
};
extern const char *const mode_names[MODE_COUNT];

struct cluster;

struct cluster_node {
    struct cluster *cluster;
    uint32_t number; /* from 1 */
    struct sim_host *host;
    struct env *env;   /* NULL: down */
    struct node *node; /* NULL: down */
    char name[16];
    uint64_t restart_ns;          /* when down: not before */
    bool stopping, wipe, refused; /* refused: it won't open (reported corruption) */
    bool stopped, start_failed, fatal;
    int err;
    char text[ERR_TEXT_BYTES];
    uint32_t election_ms;
    uint64_t starts, opened_ns;
    uint32_t failed_starts; /* in a row with a shard that failed */
};

/* An object that one client alone uses, and what must be in it. */
enum own_state { OWN_NONE, OWN_LIVE, OWN_FREED };
struct own {
    enum own_state state;
    bool busy;
    uint64_t ptr;
    uint32_t len;
    uint8_t *bytes;
    /* What it held after a change of this version; 0: nothing is remembered. */
    uint64_t old_version;
    uint32_t old_len;
    uint8_t *old_bytes;
};

struct client_host;
enum slot_job {
    JOB_IDLE,
    JOB_REGISTER,
    JOB_COUNTER,
    JOB_ROOT,
    JOB_OWN_ALLOC,
    JOB_OWN_READ,
    JOB_OWN_WRITE,
    JOB_OWN_RESIZE,
    JOB_OWN_FREE,
    JOB_OWN_STALE,
    JOB_OWN_OLD, /* read as it was at an older version */
    JOB_UPKEEP   /* compaction, trimming, another retention: nobody's data may change by it */
};
struct slot {
    struct client_host *client;
    struct core_call call;
    struct env_timer think;
    bool running;
    enum slot_job job;
    bool reader; /* only reads: it goes on where writes hang, at a leader that is none any more */
    bool is_read, is_cas;
    size_t op; /* in the history */
    struct own *own;
    uint32_t offset, len;
    uint8_t *buffer;
    uint64_t word, called_ns;
};

struct client_host {
    struct cluster *cluster;
    uint32_t index;
    struct sim_host *host;
    struct env *env;
    struct core *core;
    struct core_heap *heap;
    struct rpc_identity identity;
    bool ready, quiet, closed;
    struct slot slots[SLOTS_PER_CLIENT];
    struct own own[OWN_OBJECTS];
    struct tx_slot tx;
    struct watcher watcher;
    struct account_slot bank;
    struct relay relay;
    struct core_call setup;
    bool setup_running;
    uint64_t next_value;
};

struct mortal {
    struct client_host client;
    uint64_t until_ns; /* lives, or is dead */
};

struct cluster_counts {
    uint64_t changes_seen, values_seen, watch_gaps, watch_resumes;
    uint64_t relay_writes, relay_reads;
    uint64_t ok, failed, unknown, conflicts, transactions, past_audits, at_one_time, deaths;
    uint64_t crashes, power_losses, pauses, restarts, wipes, stops;
    uint64_t cuts, net_faults, disk_faults, full_windows, clock_jumps, bit_flips;
    uint64_t fatal, refused, snapshots, shards_failed, elections;
};

struct cluster {
    struct sim *sim;
    uint64_t seed;
    enum fault_mode mode;
    bool verbose, tame; /* tame: no operation may fail */
    uint32_t node_count, client_count, shard_count;
    struct cluster_node nodes[CLUSTER_NODES_MAX];
    struct client_host clients[CLUSTER_CLIENTS_MAX];
    struct mortal mortals[MORTALS];
    struct node_config config;
    uint64_t registers[REGISTERS], counters[COUNTERS], root_values[ROOTS], lists[LISTS];
    uint64_t accounts[ACCOUNTS], relay_words[RELAYS][RELAY_WORDS];
    bool faults; /* they go on */
    uint64_t faults_end_ns, nemesis_at_ns;
    uint32_t nemesis_step;
    bool wiped, closing;
    bool calm; /* calm: faults are over, operations must succeed again */
    uint32_t think_us;
    struct history history;
    struct txn_history *transactions;
    struct bank bank;
    struct in_doubt in_doubt;
    struct cluster_counts counts;
    bool bad;
    char why[768];
};

/* The first reason why a run failed is kept. */
void cluster_fail(struct cluster *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cluster_say(struct cluster *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* How often nodes that are up have asked participants of a transaction to refuse it: what aborts a
 * commit that nobody else stood in the way of. A node's death changes it, too. */
uint64_t cluster_asks(const struct cluster *c);
/* What an operation may fail with while faults go on. */
static inline bool cluster_weather(int err)
{
    return err == ERR_INDOUBT || err == ERR_TIMEOUT || err == ERR_UNAVAILABLE || err == ERR_BUSY ||
           err == ERR_NOTLEADER || err == ERR_NOCONN || err == ERR_SHUTDOWN || err == ERR_LIMIT ||
           err == ERR_SESSION_EXPIRED || err == ERR_DISKFULL || err == ERR_NOSHARD || err == ERR_IO;
}

/* cluster.c */
void cluster_open(struct cluster *c, uint64_t seed, enum fault_mode mode, bool verbose);
void cluster_close(struct cluster *c);
void cluster_run_ms(struct cluster *c, uint64_t ms);
void cluster_kill(struct cluster_node *n, enum sim_death how, uint64_t down_ms);
void cluster_stop(struct cluster_node *n, uint64_t down_ms); /* orderly */
void cluster_end(struct cluster *c);
uint32_t cluster_up(const struct cluster *c);
bool cluster_settled(struct cluster *c, uint64_t lag, char *why, size_t why_bytes);
void cluster_dump(struct cluster *c); /* all that can be seen, on standard error */
/* All shards that any node has, each once. */
struct shard_uids {
    uint64_t uids[64];
    uint32_t count;
};
void cluster_shards(struct cluster *c, struct shard_uids *out);
/* NULL: the node is down, or has none. */
struct shard *cluster_shard_on(const struct cluster_node *n, uint64_t uid);
/* Every replica of every shard is equal, and sound inside. */
void cluster_check_replicas(struct cluster *c);

/* workload.c */
void clients_start(struct cluster *c);
bool clients_ready(const struct cluster *c);
void clients_go(struct cluster *c);    /* they work until told to stop */
void clients_quiet(struct cluster *c); /* no new operations */
bool clients_idle(const struct cluster *c);
void clients_final_reads(struct cluster *c);
void clients_stop(struct cluster *c);
void clients_free(struct cluster *c);
void clients_check(struct cluster *c);

/* nemesis.c */
void nemesis_start(struct cluster *c, uint64_t until_ns);
void nemesis_end(struct cluster *c); /* all faults are taken back, all nodes started */
uint64_t nemesis_applied(const struct cluster *c);

#endif
