/* Three whole nodes in the simulated world, and a client that speaks frames: for tests of what a
 * node does with transactions. Any failure of the harness itself aborts. */
#ifndef CAIRN_TESTS_UNIT_COORD_WORLD_H
#define CAIRN_TESTS_UNIT_COORD_WORLD_H

#include "alloc/txn.h"
#include "node/node.h"
#include "replica/replica.h"
#include "rpc/rpc.h"
#include "sim/sim.h"

#define WORLD_NODES   3u
#define WORLD_SHARDS  3u
#define WORLD_ANSWERS 1100u

struct world;

struct world_node {
    struct world *world;
    uint32_t number;
    char name[8];
    struct sim_host *host;
    struct env *env;       /* NULL: down */
    struct node *node;     /* NULL: down */
    struct rpc_conn *conn; /* the client's; NULL: none */
    bool ready;
    bool stopped;
};

struct answer {
    uint64_t id; /* 0: free */
    bool done;
    uint16_t kind; /* RESULT, ERROR or what the read gives; 0: the connection was lost */
    uint32_t node;
    struct buf body;
};

struct world {
    struct sim *sim;
    struct node_config config;
    struct world_node nodes[WORLD_NODES];
    struct sim_host *client_host;
    struct env *client;
    struct rpc_identity identity;
    uint64_t id_last;
    struct answer answers[WORLD_ANSWERS];
    /* The heap "h" and a session on each of its shards. */
    uint64_t uids[WORLD_SHARDS];
    uint64_t sessions[WORLD_SHARDS];
    uint64_t seqs[WORLD_SHARDS];
    /* what a turn of the client sends */
    uint32_t to;
    struct frame_header header;
    struct slice body;
    int sent;
};

void world_open(struct world *w, uint64_t seed);
void world_close(struct world *w);
void world_run_ms(struct world *w, uint64_t ms);
void world_start(struct world *w, uint32_t node);
void world_kill(struct world *w, uint32_t node);

/* Index of the node that leads and serves; waits for one. */
uint32_t world_leader(struct world *w, uint64_t uid);
const struct heap *world_heap(struct world *w, uint32_t node, uint64_t uid);
/* Sends a request to a node. NULL: no connection. */
struct answer *world_send(struct world *w, uint32_t node, uint16_t kind, struct slice body);
/* Waits for it, at most so long. False: no answer. */
bool world_wait(struct world *w, struct answer *a, uint64_t ms);
void world_answer_free(struct answer *a);
/* A command at its shard's leader, again and again until it is applied; body: freed. */
struct msg_result world_command(struct world *w, uint64_t uid, uint16_t kind, struct buf *body);
/* A read at the leader: *kind and a body that the caller frees; asked again after ERROR{NOTLEADER,
 * BUSY, ...}. With ERROR: *err. */
struct buf world_read(struct world *w, uint64_t uid, uint16_t kind, struct buf *body, int *err);
/* An object of 8 bytes on a shard. */
uint64_t world_alloc(struct world *w, uint32_t shard, uint64_t value);
uint64_t world_value(struct world *w, uint32_t shard, uint64_t ptr, uint64_t *version);
/* What all replicas say once they agree: nothing prepared, committed, refused. */
void world_settle(struct world *w, uint64_t ms);

#endif
