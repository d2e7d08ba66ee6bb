/* What the files of the client's core share. Nobody outside client/ includes this. */
#ifndef CAIRN_CLIENT_INTERNAL_H
#define CAIRN_CLIENT_INTERNAL_H

#include <stdatomic.h>

#include "client/core.h"

#define ATTEMPT_MS      2000u /* a request unanswered for so long is asked of another node */
#define CONNECT_WAIT_MS 500u  /* a shard waits so long for the connection to its supposed leader */
#define SHUN_MS                                                                                    \
    200u /* a node that didn't serve is tried again only after the others had time to connect */
#define ENDPOINT_STAGGER_MS 200u /* the next endpoint is tried while the first keeps silent */
#define BACKOFF_FIRST_MS    10u  /* drawn from half of it to twice of it: 5..20 */
#define BACKOFF_MAX_MS      160u
#define READ_PIECES_MAX     8u  /* pieces of one large read in flight */
#define READ_RESTARTS_MAX   16u /* of a large read whose pieces met different versions */
#define CLOSE_MS            1000u
#define PARK_MS             5u /* a command waits so long for a transaction to be decided */
#define META_UID            1u

/* One request as it goes over the wire: encoded once, resent as it is. */
struct core_op {
    struct list link;             /* shard->ready, shard->waiting or node->inflight */
    struct list call_link;        /* call->ops */
    struct core_call *call;       /* NULL: internal, or a command that goes on in the background */
    struct core_shard *shard;     /* NULL: CLUSTER, ADMIN */
    struct core_session *session; /* of a numbered command once it has its number; of SESSION_* */
    struct core_node *node;       /* in flight there */
    uint64_t request;             /* id in flight, 0: not in flight */
    uint64_t sent_ns;
    uint32_t sends;
    uint32_t
        unsettled;  /* sends that may have taken effect: not answered, or answered ambiguously */
    uint32_t piece; /* READ: offset of its bytes in the call's buffer */
    uint32_t piece_len;
    uint16_t kind;
    uint32_t wait_ms; /* WATCH: the answer may take so much longer */
    bool numbered;    /* a command under a session's number, once it has one */
    bool named;       /* its number is known outside, and no other will do */
    bool reserves;    /* has a number for a commit to come, and is never sent */
    uint64_t seq;
    size_t len;
    uint8_t body[];
};

struct core_node {
    struct core *core;
    uint32_t number; /* 0: an endpoint whose node isn't known yet */
    uint32_t index;  /* in core->nodes or core->endpoints */
    char name[NODE_NAME_BYTES_MAX + 1];
    char address[ADDRESS_BYTES_MAX + 1];
    struct rpc_link *link; /* NULL: not wanted yet */
    struct rpc_conn *conn; /* NULL: not ready */
    struct list inflight;  /* ops, oldest first */
    bool goaway;
    uint64_t goaway_ns; /* since when */
    bool failed;        /* an endpoint: its last attempt failed */
    int failure;
};

struct core_shard {
    struct core *core;
    uint64_t uid;
    struct list ready;    /* ops that may be sent: reads, numbered commands, SESSION_* */
    struct list waiting;  /* commands without a number: no session yet, or its window is full */
    struct list reserved; /* ops that only have a number */
    struct list parked;   /* commands that met an undecided transaction, until park_timer */
    struct env_timer park_timer;
    _Atomic uint64_t session_id;       /* of the opened session, 0: none. thread: any */
    _Atomic(struct lease_pool *) pool; /* lease.c's; NULL: no slots were leased yet. thread: any */
    struct core_session *session;      /* new commands go there; NULL: none */
    struct core_node *leader;          /* supposed; NULL: any */
    uint32_t preferred;                /* node number, from HEAP_INFO */
    uint32_t rotor;                    /* index of the node tried last */
    uint32_t failures;                 /* in a row */
    uint32_t homeless;                 /* NOSHARD in a row */
    uint64_t retry_ns;                 /* nothing is sent before */
    uint64_t connect_until_ns;         /* waiting for the leader's connection; 0: not waiting */
    struct core_node *shunned;         /* didn't serve lately; NULL: none */
    uint64_t shunned_until_ns;
    struct env_timer timer;
    int last_err;
    char last_text[CORE_TEXT_BYTES];
};

enum session_state { SESSION_OPENING, SESSION_OPENED, SESSION_DEAD };

struct core_session {
    struct core_shard *shard;
    enum session_state state;
    uint64_t id;
    uint64_t next_seq;  /* 1.. */
    uint64_t acked;     /* all numbers up to here are answered */
    uint64_t told;      /* the server knows of this much */
    uint32_t live;      /* ops that point here */
    uint64_t active_ns; /* last send or answer */
    bool keeping;       /* a keepalive is under way */
    bool leases;        /* slots are promised to it: it mustn't expire while they are wanted */
    struct env_timer keepalive;
    struct core_op *ring[]; /* by seq % inflight_max; NULL: answered */
};

struct core_heap {
    struct core *core;
    uint64_t id;
    uint32_t count;
    _Atomic uint32_t next; /* where the next object goes */
    struct core_shard *shards[];
};

/* Requests in flight by slot; an id is slot | life << 32, so that a late answer meets another life.
 */
struct core_slot {
    struct core_op *op;
    uint32_t life;
    uint32_t next_free;
};

enum core_phase { CORE_CONNECTING, CORE_READY, CORE_FAILED, CORE_CLOSING };

struct core {
    struct env *env;
    const struct rpc_identity *self;
    struct core_opts opts;
    uint64_t owner; /* hash of our name: whose the sessions are */
    enum core_phase phase;
    core_ready_cb ready_cb;
    void *ready_arg;
    struct env_timer open_timer; /* next endpoint */
    uint64_t open_deadline_ns;
    int open_err;
    char open_text[CORE_TEXT_BYTES];

    struct core_node *endpoints[ENDPOINTS_MAX];
    uint32_t endpoint_count, endpoints_started;
    struct core_node *nodes[NODES_MAX];
    uint32_t node_count;
    uint64_t cluster_id;

    struct core_slot *slots;
    uint32_t slot_count, slot_free;

    struct core_shard **shards;
    uint32_t shard_count, shard_capacity;
    struct core_shard *meta;

    struct list calls; /* unfinished, by deadline */
    uint32_t call_count;
    struct list finished;   /* calls whose cb is due */
    struct list admin;      /* ADMIN requests that wait for a connection */
    struct env_task task;   /* runs the callbacks */
    struct env_timer timer; /* deadlines and attempts */
    uint64_t timer_at_ns;   /* 0: not armed */

    void (*close_done)(void *arg);
    void *close_arg;
    uint32_t closing_sessions;
    struct env_timer close_timer;
    bool close_due, ready_due; /* for the task */

    uint64_t clock, clock_ns; /* greatest version seen, and when */

    struct core_stats stats;
};

/* core.c */
void core__clock_saw(struct core *core, uint64_t version);
uint64_t core__clock_after(const struct core *core, uint32_t ms); /* an estimate */
void core__call_finish(struct core_call *call, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void core__wake(struct core *core, uint64_t at_ns); /* the timer fires then at the latest */
struct core_node *core__node(struct core *core, uint32_t number); /* NULL: unknown */
struct core_shard *core__shard(struct core *core, uint64_t uid,
                               uint32_t preferred); /* found or made; NULL: no memory */
void core__bootstrap_ready(struct core_node *endpoint);
void core__bootstrap_failed(struct core_node *endpoint, int reason, const char *text);
void core__bootstrap_answer(struct core_node *endpoint, struct core_op *op, uint16_t kind,
                            struct slice body);
void core__session_closed(struct core *core);
void core__admin_pump(struct core *core);
void core__admin_lost(struct core_node *node, const char *text); /* its connection failed */

/* link.c: nodes' connections, requests in flight */
struct core_node *core__node_new(struct core *core);
void core__node_free(struct core_node *node);
int core__node_open(struct core_node *node); /* starts connecting, unless it is under way */
bool core__node_usable(const struct core_node *node);
int core__send(struct core_node *node, struct core_op *op);
/* Takes an op out of the air (its answer, if one comes, will be dropped). */
void core__unsend(struct core_op *op);

/* shard.c: routing */
void core__shard_pump(struct core_shard *shard);
void core__shard_requeue(struct core_op *op); /* to be sent again */
void core__shard_park(struct core_op *op);    /* without a number: tries again after a moment */
/* `from` didn't serve the shard: ask another node, or the one with number `hint`, after a while. */
void core__shard_bounce(struct core_shard *shard, struct core_node *from, int err, uint32_t hint,
                        uint32_t retry_after_ms, const char *text);
void core__shard_served(struct core_shard *shard, struct core_node *from);
void core__shard_node_ready(struct core *core, struct core_node *node);
void core__shard_node_lost(struct core *core, struct core_node *node, int reason, const char *text);
void core__shard_free(struct core_shard *shard);

/* session.c */
int core__session_start(struct core_shard *shard);
bool core__session_room(const struct core_session *session);
void core__session_number(struct core_session *session, struct core_op *op);
/* op gets the number of `reserved`, which goes. False: the session is gone, and with it the number.
 */
bool core__session_adopt(struct core_op *reserved, struct core_op *op);
/* The number of op will not be sent again: it counts as answered. */
void core__session_settle(struct core_op *op);
void core__session_died(struct core_session *session);
void core__session_drop(struct core_op *op); /* a SESSION_* request goes; its session may */
/* result: NULL when err came as ERROR */
void core__session_answer(struct core_op *op, const struct msg_result *result, int err,
                          const char *text);
int core__session_close(struct core_session *session); /* 0: an answer is awaited */
void core__session_free(struct core_session *session);

/* lease.c */
struct lease_pool;
void sdk__lease_pool_free(struct lease_pool *pool); /* NULL is allowed */
/* From time to time, on the library thread: what hasn't been used for so long is given back. */
void sdk__lease_pool_rest(struct core_shard *shard);

/* call.c: for those who encode requests. Sets the call's text and returns err. */
int core__refuse(struct core_call *call, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int core__op_encode(struct core_call *call, uint16_t kind, size_t size, struct buf *body);
int core__op_encoded(struct core_call *call, int rv, const struct buf *body);
int core__aim_shard(struct core_call *call, struct core_heap *heap, uint32_t shard);
/* Encodes message m of type `name` into a new request of the call, or leaves it plain. */
#define CORE_PREPARE(call, KIND, name, m, rv)                                                      \
    do {                                                                                           \
        struct buf body_;                                                                          \
        if ((call)->plain) {                                                                       \
            (call)->kind = KIND_##KIND;                                                            \
            (call)->request->name = *(m);                                                          \
            (rv) = 0;                                                                              \
            break;                                                                                 \
        }                                                                                          \
        (rv) = core__op_encode((call), KIND_##KIND, message_size_##name(m), &body_);               \
        if ((rv) == 0) {                                                                           \
            (rv) = core__op_encoded((call), message_encode_##name((m), &body_), &body_);           \
        }                                                                                          \
    } while (0)

/* The same from the message's fields. A plain one is filled in where it stays: copied from where it
 * was made, it would be read in larger pieces than it was just written in, which processors wait
 * for. */
#define CORE_PREPARE_OF(call, KIND, name, rv, ...)                                                 \
    do {                                                                                           \
        if ((call)->plain) {                                                                       \
            (call)->kind = KIND_##KIND;                                                            \
            (call)->request->name = (struct msg_##name){__VA_ARGS__};                              \
            (rv) = 0;                                                                              \
        } else {                                                                                   \
            const struct msg_##name m_ = {__VA_ARGS__};                                            \
            CORE_PREPARE(call, KIND, name, &m_, rv);                                               \
        }                                                                                          \
    } while (0)

/* op.c: encoding and answers */
struct core_op *core__op_new(uint16_t kind, size_t len);
struct core_op *core__op_read(const struct core_call *call, size_t piece);
void core__op_free(struct core_op *op);             /* out of every list and table first */
bool core__op_is_command(const struct core_op *op); /* numbered under a session */
void core__op_answer(struct core_op *op, struct core_node *node, uint16_t kind, struct slice body);
/* No connection, no answer in time: try elsewhere. */
void core__op_lost(struct core_op *op, struct core_node *node, int reason, const char *text);
int core__read_pump(struct core_call *call); /* queues further pieces; an error finished the call */

#endif
