/* The client's core: a state machine on an environment, without threads and without globals.
 *
 * It knows the cluster's nodes, finds the leader of each shard, keeps sessions, numbers commands
 * and resends them with their number until they are answered, so that each takes effect once.
 * libcairn runs it on a library thread; the simulator runs it under virtual time.
 *
 * All calls on the reactor's thread, except core_prepare_*() and core_call_discard(): any thread.
 * No callback runs from inside a call. */
#ifndef CAIRN_CLIENT_CORE_H
#define CAIRN_CLIENT_CORE_H

#include <stddef.h>
#include <string.h>

#include "base/env.h"
#include "base/limits.h"
#include "rpc/rpc.h"

struct core;
struct core_heap;
struct core_shard;
struct core_op;

#define CORE_CALLS_MAX  (1u << 20) /* unfinished calls of one client; beyond: BUSY */
#define CORE_TEXT_BYTES 256

struct core_opts {
    uint32_t timeout_ms; /* deadline of a call; 0: 30000 */
    uint32_t
        inflight_max;  /* numbered commands in flight per shard, 1..SESSION_WINDOW_MAX; 0: 256 */
    uint32_t lease_ms; /* 1000..3600000; 0: 60000 */
};

/* The cluster is known (err 0), or it could not be reached within timeout_ms: UNAVAILABLE, TLS,
 * UNAUTHENTICATED ...; only core_close() is allowed then. Once. */
typedef void (*core_ready_cb)(void *arg, struct core *core, int err, const char *text);
/* endpoints: "[cairn://]host:port,host:port", copied. self: name of our certificate, node_uid 0;
 * borrowed until the core is closed. ERR_INVAL (endpoints, with a text), ERR_NOMEM. */
int core_open(struct env *env, const char *endpoints, const struct rpc_identity *self,
              const struct core_opts *opts, core_ready_cb cb, void *arg, struct core **out,
              struct err_text *e);
/* Fails what is pending with CANCELED, ends the sessions (at most 1 s), closes the connections,
 * frees the core, calls done in a later turn. */
void core_close(struct core *core, void (*done)(void *arg), void *arg);

/* ---- calls
 * ----------------------------------------------------------------------------------------------------------
 */

struct core_call;
typedef void (*core_call_cb)(struct core_call *call);

/* A request as it is, for who has no wire to send it over; what it points at is borrowed. */
union core_request {
    struct msg_alloc alloc;
    struct msg_free free;
    struct msg_realloc realloc;
    struct msg_write write;
    struct msg_compare_and_write compare_and_write;
    struct msg_write_if_version write_if_version;
    struct msg_add_u64 add_u64;
    struct msg_stat stat;
    struct msg_history history;
    struct msg_type_register type_register;
    struct msg_type_list type_list;
    struct msg_object_list object_list;
    struct msg_fetch fetch;
    struct msg_watch watch;
    struct msg_set_retention set_retention;
    struct msg_defrag defrag;
    struct msg_trim trim;
    struct msg_root_get root_get;
    struct msg_root_set root_set;
    struct msg_root_compare_and_set root_compare_and_set;
    struct msg_root_delete root_delete;
    struct msg_root_list root_list;
    struct msg_lease lease;
    struct msg_lease_get lease_get;
    struct msg_tx_commit_one tx_commit_one;
    struct msg_tx_commit tx_commit;
    struct msg_tx_validate tx_validate;
    struct msg_tx_settle tx_settle;
    struct msg_tx_hold tx_hold;
    struct msg_tx_close tx_close;
    struct msg_heap_create heap_create;
    struct msg_heap_drop heap_drop;
    struct msg_heap_open heap_open;
    struct msg_admin admin;
};

/* Caller's memory: core_call_init() or zero it, core_prepare_*() it, set cb, hand it to
 * core_call(); not to be touched until cb. */
struct core_call {
    core_call_cb cb;
    uint32_t timeout_ms; /* 0: the core's */
    bool plain;          /* core_prepare_*() fills in *request instead of encoding it */
    uint8_t turn;        /* READ.turn, set before core_prepare_read_at() */
    uint16_t kind;

    int err;        /* outcome: 0 or negative */
    bool more;      /* ROOT_LIST, HISTORY, TYPE_LIST */
    uint64_t value; /* ALLOC, ROOT_GET: pointer; ADD_U64: the value before;
                       OBJECT_LIST: slot to go on at; WATCH: token; DEFRAG, TRIM: as in RESULT;
                       LEASE: its number; LEASE_GET: whose session's; TX_HOLD: the hold; else TX_*:
                       what conflicts */
    uint64_t
        version; /* READ, STAT, ROOT_GET; commands: of the change; ROOT_LIST: of the set of
                    names; TX_VALIDATE, CONFLICT: of what conflicts; TX_HOLD, TX_CLOSE: the clock */
    uint64_t session, seq; /* commands: their number, once they have one */
    struct buf bytes; /* ADMIN: JSON; ROOT_LIST, HISTORY, TYPE_LIST, OBJECT_LIST, LEASE_GET: entries
                         as on the wire; given (free with buf_close) */

    /* The core's. */
    struct core_shard *shard;
    struct core_op *op;       /* the prepared one, until core_call(); the reserved one, given */
    struct core_op *reserved; /* TX_COMMIT, TX_COMMIT_ONE: whose number it gets; taken */

    /* Not zeroed from here on: large, and set by who prepares what needs it; text no further than
     * its first byte. */
    char text[CORE_TEXT_BYTES];  /* outcome: why, when err isn't 0 */
    union core_request *request; /* of a plain call: memory for it, set before it is prepared */
    struct {                     /* READ */
        uint64_t ptr, at, offset, version;
        uint8_t *data;
        size_t len, next, done;
        uint32_t out, restarts;
        bool versioned;
    } read;
    char node[NODE_NAME_BYTES_MAX + 1]; /* ADMIN */

    /* Zeroed, but for a plain call, which has no use for it. */
    uint64_t size;            /* STAT */
    uint32_t type, flags;     /* STAT */
    struct core_heap *opened; /* HEAP_OPEN: given (free with core_heap_close) */
    struct core *core;
    struct core_heap *heap;
    uint64_t target;      /* STAT: the pointer */
    uint64_t uid;         /* TX_SETTLE: of the shard, which isn't looked up yet */
    struct list link;     /* by deadline, or among the finished */
    struct list ops;      /* its requests */
    uint64_t deadline_ns; /* 0: not submitted */
    bool finished;
};

/* request: of a plain call, which is prepared and handed over before anything else happens to it;
 * NULL: another one. Most of what a program has in flight is plain, and thousands at a time: what
 * those need lies together, and nothing else of them is touched. */
static inline void core_call_init(struct core_call *call, union core_request *request)
{
    memset(call, 0, offsetof(struct core_call, text));
    call->text[0] = '\0';
    call->plain = request != NULL;
    call->request = request;
    if (request == NULL) {
        memset(&call->size, 0, sizeof *call - offsetof(struct core_call, size));
    }
}

/* Check the arguments and encode the request (bytes are copied, except where a read's result goes;
 * a plain call borrows them).
 * 0; INVAL, TOOBIG, RANGE (with call->text), NOMEM: nothing kept. heap: borrowed until core_call().
 * thread: any */
int core_prepare_alloc(struct core_call *call, struct core_heap *heap, uint64_t bytes,
                       uint32_t type, struct slice init);
int core_prepare_free(struct core_call *call, struct core_heap *heap, uint64_t ptr);
/* data: len bytes, borrowed until cb */
int core_prepare_read(struct core_call *call, struct core_heap *heap, uint64_t ptr, uint64_t offset,
                      void *data, size_t len);
int core_prepare_write(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                       uint64_t offset, struct slice data);
int core_prepare_compare_and_write(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                                   uint64_t offset, struct slice expected, struct slice desired);
int core_prepare_write_if_version(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                                  uint64_t version, uint64_t offset, struct slice data);
int core_prepare_add_u64(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                         uint64_t offset, uint64_t delta);
int core_prepare_stat(struct core_call *call, struct core_heap *heap, uint64_t ptr);
/* As they were at version `at`; 0: now. */
int core_prepare_read_at(struct core_call *call, struct core_heap *heap, uint64_t ptr, uint64_t at,
                         uint64_t offset, void *data, size_t len);
int core_prepare_stat_at(struct core_call *call, struct core_heap *heap, uint64_t ptr, uint64_t at);
int core_prepare_realloc(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                         uint64_t bytes);
int core_prepare_history(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                         uint64_t skip, uint32_t max);
/* Of one shard: what concerns all of a heap is asked of each. */
int core_prepare_type_register(struct core_call *call, struct core_heap *heap, uint32_t shard,
                               uint32_t number, struct slice descriptor);
int core_prepare_type_list(struct core_call *call, struct core_heap *heap, uint32_t shard,
                           uint32_t after, uint32_t max);
int core_prepare_object_list(struct core_call *call, struct core_heap *heap, uint32_t shard,
                             uint64_t from, uint32_t max, bool typed, uint32_t type);
/* query: without uid. bytes: the answer's objects, and behind them its frontier; value: how long
 * the first are; version: of all of it. */
int core_prepare_fetch(struct core_call *call, struct core_heap *heap, uint32_t shard,
                       const struct msg_fetch *query);
/* query: without uid. bytes: changes as in WATCH_RESULT; value: the token to go on from. LIMIT
 * isn't tried again. */
int core_prepare_watch(struct core_call *call, struct core_heap *heap, uint32_t shard,
                       const struct msg_watch *query);
int core_prepare_set_retention(struct core_call *call, struct core_heap *heap, uint32_t shard,
                               uint64_t retention_ms);
int core_prepare_defrag(struct core_call *call, struct core_heap *heap, uint32_t shard,
                        uint32_t bytes);
int core_prepare_trim(struct core_call *call, struct core_heap *heap, uint32_t shard,
                      uint64_t bytes);
int core_prepare_root_get(struct core_call *call, struct core_heap *heap, const char *name);
int core_prepare_root_get_at(struct core_call *call, struct core_heap *heap, const char *name,
                             uint64_t at);
int core_prepare_root_set(struct core_call *call, struct core_heap *heap, const char *name,
                          uint64_t ptr);
int core_prepare_root_compare_and_set(struct core_call *call, struct core_heap *heap,
                                      const char *name, uint64_t expected, uint64_t desired);
int core_prepare_root_delete(struct core_call *call, struct core_heap *heap, const char *name);
int core_prepare_root_list(struct core_call *call, struct core_heap *heap, uint32_t shard,
                           struct slice after, uint32_t max);
int core_prepare_root_list_at(struct core_call *call, struct core_heap *heap, uint32_t shard,
                              uint64_t at, struct slice after, uint32_t max);
/* Transactions (ADR 0007 §9). Parts as base/txn_part.h describes them; parts: as in TX_COMMIT, the
 * first one is the shard's own. Deadline 0: set when the command gets its number. */
/* Without a heap, which may be closed: shards stay until the core is. */
int core_prepare_lease(struct core_call *call, struct core_shard *shard, uint32_t slots);
int core_prepare_lease_get(struct core_call *call, struct core_shard *shard, uint64_t lease);
int core_prepare_tx_commit_one(struct core_call *call, struct core_heap *heap, uint32_t shard,
                               struct slice part);
/* The same without the heap. */
int core_prepare_tx_commit_on(struct core_call *call, struct core_shard *shard, struct slice part);
int core_prepare_tx_commit(struct core_call *call, struct core_heap *heap, uint32_t shard,
                           uint64_t deadline, struct slice parts);
/* err CONFLICT: it doesn't hold (any more). */
int core_prepare_tx_validate(struct core_call *call, struct core_heap *heap, uint32_t shard,
                             uint64_t clock, struct slice part);
/* version: the shard's clock, once all that was prepared is decided; value: names the hold, that
 * keeps new writes waiting for hold_ms at most. hold_ms 0: there is none, and value is 0. */
int core_prepare_tx_hold(struct core_call *call, struct core_heap *heap, uint32_t shard,
                         uint32_t hold_ms);
/* Ends the hold, and keeps what readers at version `at` need for keep_ms. err TX_UNDECIDED: the
 * hold was over; SNAPSHOT_TOO_OLD: history begins behind `at`; INVAL: `at` is too far ahead. */
int core_prepare_tx_close(struct core_call *call, struct core_heap *heap, uint32_t shard,
                          uint64_t at, uint64_t hold, uint32_t keep_ms);
/* Of a transaction whose home is the shard `uid`, which any heap may have. */
int core_prepare_tx_settle(struct core_call *call, struct core *core, uint64_t uid,
                           uint64_t session, uint64_t seq);
/* Draws the number of a commit to come: call->session, seq, value: its deadline, and op, which is
 * given: it goes into `reserved` of the commit's call, or to core_tx_release(). */
int core_prepare_tx_reserve(struct core_call *call, struct core_heap *heap, uint32_t shard);
void core_tx_release(struct core_op *reserved);
/* Is the shard served? A linearizable read that needs no object; err 0 once it is. */
int core_prepare_probe(struct core_call *call, struct core_heap *heap, uint32_t shard);
/* Only the catalogue's entry: probe the shards to know that they serve. */
int core_prepare_heap_create(struct core_call *call, struct core *core, const char *name,
                             uint32_t shards, uint32_t replicas, uint64_t shard_bytes_max,
                             uint64_t retention_ms);
int core_prepare_heap_drop(struct core_call *call, struct core *core, const char *name);
int core_prepare_heap_open(struct core_call *call, struct core *core, const char *name);
/* node NULL: any */
int core_prepare_admin(struct core_call *call, struct core *core, const char *node,
                       const char *verb, struct slice args);
/* Frees what a prepared call holds that was never handed over. thread: any */
void core_call_discard(struct core_call *call);

/* cb follows, exactly once, in this turn at the earliest. */
void core_call(struct core *core, struct core_call *call);
/* Ends a call with `err` now (INDOUBT if it is a command that may have taken effect; it then goes
 * on in the background). */
void core_call_cancel(struct core_call *call, int err);

uint32_t core_heap_shards(const struct core_heap *heap); /* thread: any */
uint64_t core_heap_id(const struct core_heap *heap);     /* thread: any */
/* The shard that a root's name belongs to. thread: any */
uint32_t core_heap_root_shard(const struct core_heap *heap, struct slice name);
void core_heap_close(
    struct core_heap *heap); /* no call on it prepared and not handed over; NULL is allowed */

struct core_stats {
    uint64_t calls, sends, resends, bounces, sessions_opened, in_background;
};
void core_get_stats(const struct core *core, struct core_stats *out);

#endif
