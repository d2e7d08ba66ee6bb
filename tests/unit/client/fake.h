/* A cluster of three nodes that are nothing but rpc servers and one shared, simple model of what
 * shards do: sessions, numbers, a counter per shard. Tests say who leads and what goes wrong. Under
 * the simulator's virtual time. */
#ifndef CAIRN_TESTS_UNIT_CLIENT_FAKE_H
#define CAIRN_TESTS_UNIT_CLIENT_FAKE_H

#include "client/core.h"
#include "sim/sim.h"

#define FAKE_NODES    3u
#define FAKE_SHARDS   4u
#define FAKE_UID(i)   (16u + (i))
#define FAKE_SEQS     4096u
#define FAKE_SEEN     8192u
#define FAKE_SESSIONS 64u

/* A command as it arrived. */
struct fake_seen {
    uint32_t node;
    uint16_t kind;
    uint64_t uid, session, seq, acked, hash; /* hash: of the whole body */
};

struct fake_session {
    uint64_t uid, nonce, acked;
    bool expired, closed;
    bool applied[FAKE_SEQS];
    uint64_t result[FAKE_SEQS];
};

struct fake_held {
    struct rpc_conn *conn;
    uint64_t request;
    struct msg_result result;
};

struct fake_node {
    struct fake *fake;
    uint32_t number;
    char name[8];
    struct sim_host *host;
    struct env *env;
    struct rpc_server *server;
    struct rpc_identity identity;
    uint64_t requests;
};

struct fake {
    struct sim *sim;
    struct fake_node nodes[FAKE_NODES];
    struct sim_host *client_host;
    struct env *env; /* the client's */
    struct rpc_identity identity;
    struct core *core;
    struct core_heap *heap;
    int open_err;
    bool opened, closed;
    char open_text[CORE_TEXT_BYTES];

    /* What the nodes do. */
    uint32_t leader;           /* number, 0: nobody */
    bool hints;                /* NOTLEADER names the leader */
    bool silent;               /* commands are applied but not answered */
    bool hold;                 /* the same, but the answers are kept for fake_release() */
    uint32_t drop_per_million; /* an answer is lost with its connection */
    int refuse;                /* commands get this ERROR */
    uint32_t refuse_times;
    uint32_t retry_after_ms;
    uint32_t undecided;    /* so many commands find an undecided transaction in their way */
    bool garbage;          /* answers are of the wrong kind */
    bool late_notleader;   /* a command is applied, and NOTLEADER answered once */
    uint32_t read_changes; /* the version moves with so many of the next reads */
    uint64_t read_version;

    /* What they saw. */
    uint64_t counters[FAKE_SHARDS + 1]; /* the last one: the meta shard's */
    struct fake_session sessions[FAKE_SESSIONS];
    uint32_t session_count;
    struct fake_seen seen[FAKE_SEEN];
    uint32_t seen_count;
    struct fake_held held[1024];
    uint32_t held_count;
    uint32_t keepalives, closes;
    char admin_node[8];
};

/* The nodes run and node 1 leads. */
void fake_open(struct fake *f, uint64_t seed);
void fake_node_start(struct fake_node *node);
void fake_node_kill(struct fake_node *node);
/* Opens a core to endpoints (NULL: all nodes) and waits for the outcome. */
int fake_connect(struct fake *f, const char *endpoints, const struct core_opts *opts);
int fake_heap_open(struct fake *f);
void fake_run(struct fake *f, uint64_t ms);
/* Runs until *flag is set, at most so long in virtual time: false if it isn't. */
bool fake_run_until(struct fake *f, const bool *flag, uint64_t ms);
/* Closes the core; returns when it is gone. */
void fake_core_close(struct fake *f);
void fake_close(struct fake *f);
/* Sends the held answer number i (in order of arrival); all of them. */
void fake_release(struct fake *f, uint32_t i);
void fake_release_all(struct fake *f);
void fake_expire_sessions(struct fake *f);
void fake_goaway(struct fake_node *node);

/* A call with a flag. */
struct fake_call {
    struct core_call call;
    struct fake *fake;
    bool done;
};
void fake_submit(struct fake *f, struct fake_call *c); /* prepared before */
void fake_add(struct fake *f, struct fake_call *c,
              uint32_t shard);                      /* adds 1 to the shard's counter */
int fake_wait(struct fake *f, struct fake_call *c); /* its outcome; fails the test after 200 s */
uint64_t fake_ptr(uint32_t shard);

#endif
