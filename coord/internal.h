/* What the files of coord/ share. */
#ifndef CAIRN_COORD_INTERNAL_H
#define CAIRN_COORD_INTERNAL_H

#include "coord/coord.h"

#define COORD_BUCKETS     1024u
#define COORD_TICK_MS     20u  /* while there is something that may have to be sent again */
#define COORD_SCAN_MS     250u /* looking for what nobody brings to an end */
#define COORD_SCAN_MAX    512u /* committed records looked at in one go, per shard */
#define COORD_FORGETS_MAX TX_RECORDS_MAX
#define COORD_NAMES_MAX   64u /* of one TX_FORGET */

/* How to reach a shard's leader: what is known beside the local replica. */
struct coord_route {
    uint32_t hint; /* node, 0 none */
    uint32_t next; /* member to try */
};

/* The way to one participant. */
struct coord_leg {
    struct coord_route route;
    uint32_t in_flight; /* requests without an answer */
    uint32_t sent_to;   /* node */
    uint32_t tries;     /* without an answer that counts, in a row */
    uint64_t sent_ms;
    uint64_t since_ms; /* when its vote was asked for first */
    uint64_t retry_ms; /* 0: nothing to send again */
};

/* One transaction that is coordinated here. */
struct coord_tx {
    struct coord *coord;
    struct list bucket;  /* coord->txs */
    struct list link;    /* coord->running */
    struct list sends;   /* coord_send.owner_link */
    struct list waiters; /* shard_command.link: clients */
    struct txn_name name;
    uint64_t deadline, owner, digest, acked;
    uint64_t decided_ms; /* 0: not yet */
    struct coord_machine machine;
    uint64_t uids[TX_PARTICIPANTS_MAX];
    struct coord_leg legs[TX_PARTICIPANTS_MAX];
    struct slice parts[TX_PARTICIPANTS_MAX]; /* COORD_COMMIT: into body */
    uint8_t *body;
};

/* Done everywhere; its records may go when their deadline has passed. */
struct coord_forget {
    struct list bucket; /* coord->forgets */
    struct list link;   /* coord->forgetting */
    struct txn_name name;
    uint64_t due_ms; /* monotonic */
    uint64_t backoff_ms;
    uint32_t told, asked; /* bit per participant: has forgotten; an answer is outstanding */
    uint32_t count;
    uint64_t uids[];
};

/* A request on its way. It outlives what it was sent for, and (local ones) the coord too. */
struct coord_send {
    struct shard_command command;
    struct coord *coord;    /* NULL: closed */
    struct list bucket;     /* coord->sends, by token */
    struct list owner_link; /* its transaction's, or alone */
    struct coord_tx *tx;    /* NULL: it has gone, or this is a TX_FORGET */
    uint64_t token, uid;
    uint32_t part, fresh, node;
    uint16_t kind;
    uint32_t count; /* TX_FORGET */
    struct txn_name names[];
};

struct coord {
    struct env *env;
    struct replica *replica;
    uint32_t node;
    const struct coord_cbs *cbs;
    void *arg;

    struct list txs[COORD_BUCKETS];
    struct list running;
    struct list forgets[COORD_BUCKETS];
    struct list forgetting; /* about in the order of their time */
    uint32_t forget_count;
    struct list sends[COORD_BUCKETS];
    uint64_t token_last;

    struct list waits; /* coord_wait.link */
    bool look;         /* something was decided: waits, and clients that came late */
    struct env_task task;
    struct env_timer tick, scan;
    uint64_t forget_ms;     /* when TX_FORGET is sent next */
    struct txn_name cursor; /* of the scan through committed records */
    uint64_t cursor_uid;

    struct buf scratch;
    struct coord_stats stats;
};

static inline uint32_t coord__bucket(const struct txn_name *name)
{
    return (uint32_t)((name->session ^ name->seq * 0x9e3779b97f4a7c15ull ^ name->home << 7) %
                      COORD_BUCKETS);
}
static inline uint64_t coord__wall_ms(const struct coord *coord)
{
    return env_wall_us(coord->env) / 1000;
}

/* route.c */
/* The node to ask. ERR_NOSHARD: the shard was dropped. ERR_UNAVAILABLE: nobody is known. */
int coord__route(const struct coord *coord, uint64_t uid, const struct coord_route *route,
                 uint32_t *node);
/* A node could not help; leader: whom it named, 0 nobody. */
void coord__route_failed(struct coord_route *route, uint32_t leader);
/* Sends a command to the leader of send->uid. 0: coord__tx_answered() or coord__forget_answered()
 * follows. Otherwise the send is the caller's. */
int coord__send(struct coord *coord, struct coord_send *send, const struct coord_route *route,
                struct slice body);
struct coord_send *coord__send_new(struct coord *coord, uint32_t names);
void coord__send_free(struct coord_send *send);
bool coord__leads(struct shard *shard);

/* commit.c */
struct coord_tx *coord__find(const struct coord *coord, const struct txn_name *name);
/* Brings a transaction to an end by its record on a shard, COORD_RECOVER or COORD_FINISH, unless
 * somebody here does already. */
void coord__adopt(struct coord *coord, struct shard *shard, const struct txn_name *name,
                  enum coord_purpose purpose);
void coord__tx_answered(struct coord_send *send, int err, uint32_t leader,
                        const struct command_result *result);
void coord__tick_txs(struct coord *coord, uint64_t now_ms);
/* Clients that came when all was decided. */
void coord__answer_late(struct coord *coord);
void coord__close_txs(struct coord *coord);

/* resolve.c */
void coord__scan(struct coord *coord);
void coord__forget_later(struct coord *coord, const struct coord_tx *tx);
bool coord__forgets(const struct coord *coord, const struct txn_name *name);
void coord__forget_answered(struct coord_send *send, int err, const struct command_result *result);
void coord__tick_forgets(struct coord *coord, uint64_t now_ms);
void coord__close_forgets(struct coord *coord);

/* wait.c */
void coord__look_waits(struct coord *coord);
void coord__tick_waits(struct coord *coord, uint64_t now_ms);
void coord__close_waits(struct coord *coord);

/* coord.c */
void coord__arm(struct coord *coord); /* the tick, while there is something to do */

#endif
