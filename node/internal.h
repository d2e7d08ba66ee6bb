/* Shared by the files of node/; see node/README.md for the reading order. */
#ifndef CAIRN_NODE_INTERNAL_H
#define CAIRN_NODE_INTERNAL_H

#include <jansson.h>

#include "alloc/listing.h"
#include "alloc/txn.h"
#include "alloc/waiters.h"
#include "base/limits.h"
#include "base/list.h"
#include "coord/coord.h"
#include "node/identity.h"
#include "node/node.h"
#include "node/turns.h"
#include "replica/replica.h"
#include "rpc/rpc.h"
#include "wal/wal.h"

#define NODE_SOFTWARE       "cairnd"
#define REQUEST_BODY_INLINE 320u
#define REQUESTS_LARGE_MAX  (64u << 20) /* bytes of larger bodies at a time; beyond: BUSY */

struct node;

/* Another node: our outgoing links to it, and what it last said of itself. */
struct peer {
    struct node *node;
    const struct node_config_peer *config;
    struct rpc_link *raft;
    struct rpc_link *bulk; /* opened with the first request */
    struct list bulk_waits;
    bool known; /* it answered HELLO at least once */
    uint64_t node_uid, cluster_id;
    uint8_t state;
    bool in_roster; /* of a member: the founding members include our identity */
    struct roster roster;
    uint64_t dropped; /* batches not sent: not connected or queue full */
};

/* One request on the bulk lane waiting for its answer. */
struct bulk_wait {
    struct list link;
    struct peer *peer;
    uint64_t token;
    uint64_t deadline_ns;
    uint16_t kind;
    bool sent;
    int err; /* set: failed, to be answered in the next turn */
    struct buf body;
};

/* One accepted connection. */
struct client {
    struct node *node;
    struct rpc_conn *conn;
    struct list link;
    struct list requests;
    uint32_t pending;
    uint32_t peer_number; /* of a node, else 0 */
    uint64_t owner;       /* hash of the user's name */
    uint32_t watches;     /* of the pending ones */
};

/* A WATCH that looks or waits (watch.c). */
struct watch {
    struct events_waiter waiter;
    uint64_t until_ns; /* then it is answered, also without changes */
    struct listing_share share;
};
/* Where the answer to one ended. */
struct watch_hint {
    uint64_t uid, key;
    struct events_cursor cursor;
};
#define WATCH_HINTS 256u
struct watch_shard;

/* A request whose answer is outstanding. */
struct request {
    union {
        struct shard_command command;
        struct shard_read read;
        struct coord_wait wait;
        struct watch watch;
        struct turn_wait turn;
    };
    struct watch_shard *watch_at; /* whose lists it is in, of a WATCH; NULL: none */
    struct txn_name by;           /* a read that returned ERR_TX_UNDECIDED: who is in its way */
    struct node *node;
    struct client *client; /* NULL: it has gone; nobody to answer */
    struct list link;      /* client's requests, or the free list */
    uint64_t uid;
    uint64_t request_id;
    uint64_t turn_ptr; /* a read that asked for its turn at this object; 0: none */
    bool turn_told;    /* and has been answered */
    uint16_t kind;
    struct slice body; /* inside, or in memory of its own when it is large */
    uint8_t *large;
    uint8_t inside[REQUEST_BODY_INLINE];
};

/* Users that have connected, by the hash that sessions keep. */
#define USERS_KNOWN_MAX 256u
struct user_name {
    uint64_t owner;
    char name[USER_NAME_BYTES_MAX + 1]; /* empty: a free place */
};

struct node {
    struct env *env;
    struct node_config config;
    const struct node_cbs *cbs;
    void *arg;
    enum node_phase phase;
    bool fatal;

    const struct node_config_peer *self_config;
    struct identity identity;
    struct rpc_identity self;
    uint8_t roster_bytes[ROSTER_BYTES_MAX];
    struct env_file *lock;

    struct rpc_server *server;
    struct list clients;
    struct list free_requests;
    struct list jobs;   /* questions that take a while (inspect.c) */
    struct buf scratch; /* bodies of answers, one at a time */
    uint64_t requests_open;
    uint64_t large_bytes; /* of bodies that requests in progress have in memory of their own */
    uint64_t reads, commands, refused;

    struct list watched; /* shards that somebody waits for */
    uint64_t watches;    /* requests */
    struct env_task watch_task;
    struct env_timer watch_turn, watch_sweep;
    struct watch_hint watch_hints[WATCH_HINTS];

    struct peer peers[NODES_MAX];
    uint32_t peer_count;
    struct env_timer discover_timer;
    uint32_t join_next; /* the peer asked next for a new replica id */
    struct env_timer bulk_timer;
    struct env_task bulk_task;

    struct wal *wal;
    struct replica *replica;
    struct coord *coord; /* as long as there is a replica */
    struct turns *turns; /* the same */
    uint64_t opened_ns;
    enum image_mode mode;

    void (*stopped)(void *arg);
    void *stopped_arg;
    int stop_pending;

    struct user_name users[USERS_KNOWN_MAX]; /* a ring */
    uint32_t users_next;
};

/* node.c */
/* Is it the cluster of the configuration, by its name and the numbers of its nodes?
 * ERR_WRONGCLUSTER with a text that begins with whose roster it is. */
int node__check_roster(const struct node *node, const struct roster *roster, uint64_t cluster_id,
                       const char *whose, struct err_text *e);
/* A peer's: is it ours? ERR_VERSION. */
int node__check_engine(const struct node *node, const char *name, uint32_t engine,
                       struct err_text *e);
/* What the roster knows under another number than the configuration. ERR_WRONGCLUSTER. */
int node__check_number(const struct roster *roster, const char *name, uint32_t number,
                       uint64_t node_uid, struct err_text *e);
/* A member's log was there before: if it is gone, so is what this replica has promised (E6), and it
 * is refused. So whoever becomes one opens it first, `existing` false: there is a log, durably,
 * before the identity says that there is. */
int node__open_log(struct node *node, bool existing, struct err_text *e);
/* Identity is a member's: opens the log, unless that was done, and the shards. */
int node__start(struct node *node, struct err_text *e);
void node__fatal(struct node *node, int err, const char *text);
struct peer *node__peer(struct node *node, uint32_t number);

/* storage.c: sets node->mode. ERR_CONFIG: what was asked for can't be had here, or contradicts what
 * is stored. */
int node__choose_mode(struct node *node, struct err_text *e);

/* peers.c */
int peers__open(struct node *node, struct err_text *e);
void peers__close(struct node *node);
void peers__send(void *arg, uint32_t number, struct slice items);
void peers__flush(void *arg, uint32_t number);
/* coord_cbs.peer_command */
int peers__command(void *arg, uint32_t number, uint16_t kind, struct slice body, uint64_t token);
void peers__bulk_request(void *arg, uint32_t number, uint16_t kind, struct slice body,
                         uint64_t token);

/* discover.c */
void discover__begin(struct node *node);
void discover__peer_spoke(struct node *node, struct peer *peer);
/* A frame on the raft link while joining: RESULT or ERROR of our NODE_JOIN. */
void discover__answer(struct node *node, struct peer *peer, const struct frame_header *header,
                      struct slice body);

/* dispatch.c */
extern const struct rpc_cbs dispatch__cbs;
/* Requests in flight are answered to nobody from here on. */
void dispatch__forget_clients(struct node *node);
/* After the replica is gone, so that none is in flight. */
void dispatch__free_requests(struct node *node);

/* Answers a request that inspect__begin() took, with JSON (borrowed) or an error. */
void dispatch__answer_later(struct request *request, int err, const json_t *answer);

/* A command's outcome for whoever sent it. */
void dispatch__command_done(struct request *request, const struct command_result *result);
/* A request of its own for a shard that is here; NULL: refused, and told. */
struct request *dispatch__begin(struct client *client, const struct frame_header *header,
                                uint64_t uid, struct shard **shard);
/* The same for a command. */
struct request *dispatch__begin_command(struct client *client, const struct frame_header *header,
                                        struct slice body, struct shard **shard);
/* Tells why not, and ends it. */
void dispatch__refuse(struct request *request, int err);
/* Tells why not (an empty text: what the code says), and doesn't end it. */
void dispatch__tell(struct request *request, int err, const char *text);
/* It has been answered. */
void dispatch__end(struct request *request);
/* The answer's body is in node->scratch. */
void dispatch__answer(struct request *request, uint16_t kind);

/* reads.c: 0 when it has answered, or why not. */
int reads__answer(struct request *request, const struct heap *heap);
/* The version that a read wants the shard at, 0: none. A malformed body is told when it is served.
 */
uint64_t reads__wanted_version(uint16_t kind, struct slice body);
/* Does it ask for its turn at an object? 0: no; else for the how-maniest time. */
uint8_t reads__wanted_turn(uint16_t kind, struct slice body, uint64_t *ptr);

/* tx.c: reads that transactions make, and reads that they disturb. As the others of reads.c: 0
 * when it has answered, or why not. */
int tx__validate(struct request *request, const struct heap *heap);
/* 0, or ERR_TX_UNDECIDED with request->by: what was found at `at` (0: now) is about to change.
 * name: of a root; ptr 0 and no name: the directory. */
int tx__check_intent(struct request *request, const struct heap *heap, uint64_t ptr,
                     struct slice name, uint64_t at);
/* TX_HOLD. */
void tx__hold(struct client *client, const struct frame_header *header, struct slice body);
/* TX_COMMIT of a client. */
void tx__commit(struct client *client, const struct frame_header *header, struct slice body);
/* TX_PREPARE, TX_DECIDE, TX_REFUSE, TX_FORGET of another node. */
void tx__peer_command(struct client *client, const struct frame_header *header, uint16_t kind,
                      struct slice body);

/* fetch.c: answers FETCH; as the others of reads.c. */
int fetch__answer(struct request *request, const struct heap *heap);

/* watch.c */
void watch__open(struct node *node);
void watch__close(struct node *node); /* before the replica goes: all that wait get SHUTDOWN */
void watch__begin(struct client *client, const struct frame_header *header, struct slice body);
/* From replica_cbs: something was applied, or (lost) the shard may have another leader. */
void watch__applied(struct node *node, struct shard *shard, bool lost);
/* Its client has gone: frees it, unless somebody else's callback will. */
void watch__forget(struct request *request);

/* inspect.c: begins a question that takes a while. 0: dispatch__answer_later(request) follows,
 * perhaps from inside of this call. Otherwise the request stays the caller's. */
int inspect__begin(struct node *node, struct request *request, bool inspect, json_t *args,
                   struct err_text *e);
/* The replica is gone: nobody waits any more. */
void inspect__abandon(struct node *node);

/* admin_tx.c: {"in_doubt": true}: only those that are undecided. NULL: out of memory. */
json_t *admin__transactions(struct node *node, const json_t *args);
/* NULL: args name none, or memory is short. */
json_t *admin__transaction(struct node *node, const json_t *args);
/* NULL: *err, with a text. */
json_t *admin__writers(struct node *node, const json_t *args, int *err, struct err_text *e);
void users__note(struct node *node, uint64_t owner, const char *name);
const char *users__name(const struct node *node, uint64_t owner); /* NULL: not met */
/* admin.c: appends the JSON text of an answer to *out, or returns an error with a text. */
int admin__answer(struct node *node, struct slice verb, struct slice args, struct buf *out,
                  struct err_text *e);
/* Is this a verb whose answer comes later, by inspect__begin(..., *inspect, ...)? */
bool admin__takes_time(struct slice verb, bool *inspect);
/* The arguments of a verb: *out is given, NULL if there are none. ERR_INVAL. */
int admin__args(struct slice verb, struct slice args, json_t **out, struct err_text *e);
int admin__dump(const json_t *answer, struct buf *out);

#endif
