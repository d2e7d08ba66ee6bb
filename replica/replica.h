/* All shard replicas of one node: libraft glue, state machines, sessions, reads, checkpoints, page
 * transfer.
 *
 * A shard belongs to this reactor; nothing here locks. The node gives a table of functions for what
 * lies outside (sending to peers, answering bulk requests of others by rpc) and feeds in what
 * arrives. Everything that a shard must remember is in its arena or in the log.
 *
 * Replica ids (Raft server ids) are number << 8 | node and never reused: a node that lost its disk
 * comes back under a new one (E6). The meta shard has uid SHARD_META and exists on every node; it
 * holds the catalogue of heaps. */
#ifndef CAIRN_REPLICA_REPLICA_H
#define CAIRN_REPLICA_REPLICA_H

#include "alloc/heap.h"
#include "alloc/image.h"
#include "base/env.h"
#include "replica/consensus.h"
#include "rpc/message.h"
#include "wal/wal.h"

struct replica;
struct shard;

#define SHARD_META      1u
#define SHARD_UID_FIRST 16u

static inline uint32_t replica_id_node(uint64_t id)
{
    return (uint32_t)(id & 0xff);
}
static inline uint64_t replica_id_make(uint64_t number, uint32_t node)
{
    return number << 8 | node;
}

/* What lies outside. No function may call back into the replica from inside. */
struct replica_cbs {
    /* The items of one PEER_BATCH for a node; borrowed for the call. Dropped if it isn't connected.
     */
    void (*send)(void *arg, uint32_t node, struct slice items);
    /* What was sent to that node shall leave before this turn goes on with the node's own work.
     * Called from a task. May be NULL. */
    void (*flush)(void *arg, uint32_t node);
    /* A request on the bulk lane: exactly one replica_bulk_answer(token, ...) follows, in a later
     * turn. */
    void (*bulk_request)(void *arg, uint32_t node, uint16_t kind, struct slice body,
                         uint64_t token);
    /* The catalogue changed (meta shard applied something), or a shard's leader changed. */
    void (*on_catalog)(void *arg);
    void (*on_leader)(void *arg, struct shard *shard);
    /* Entries were applied here, leading or following; once per shard and turn, from inside of
     * apply: note it, and work in a task. tx: one of them was of a transaction. May be NULL. */
    void (*on_applied)(void *arg, struct shard *shard, bool tx);
    /* A shard stopped for good (I11): why, for the operator. The others go on. */
    void (*on_shard_failed)(void *arg, struct shard *shard, int err, const char *text);
};

/* Who shall lead: of each shard's members the first; of those that could, the one with the smallest
 * node number, which is one node for all shards; or one of the two as the load has it. */
enum replica_leaders { REPLICA_LEADERS_AUTO, REPLICA_LEADERS_SPREAD, REPLICA_LEADERS_GATHER };

struct replica_opts {
    struct env *env;
    struct wal *wal; /* opened by the node, whose on_durable/on_failed/on_pressure call the
                        functions below */
    const char *dir; /* shards live in dir/<uid in hex>/; copied */
    uint32_t node;   /* own number, 1.. */
    uint32_t nodes[NODES_MAX]; /* numbers of all nodes of the cluster */
    uint32_t node_count;
    uint64_t self_id; /* own replica id: replica_id_make(0, node) at founding */
    bool founding; /* the meta shard is born with the founding members; else an empty replica waits
                      to be added */
    uint64_t cluster_id;
    uint32_t election_ms, heartbeat_ms;
    enum replica_leaders leaders; /* the same on all nodes */
    uint64_t meta_bytes_max;      /* arena limit of the meta shard; 0: 64 MiB */
    enum image_mode mode;
    uint64_t checkpoint_log_bytes; /* checkpoint a shard after this many bytes of log; 0: 8 MiB */
    uint64_t log_bytes_max; /* of all shards: beyond it the one with most of it; 0: 128 MiB */
    const struct replica_cbs *cbs;
    void *arg;
};

/* Opens the meta shard and every shard that the log or the catalogue holds (blocking). ERR_CORRUPT
 * of one shard's image fails that shard alone. */
int replica_open(const struct replica_opts *opts, struct replica **out, struct err_text *e);
/* Orderly: hands leadership over (at most timeout_ms), refuses new work, then done in a later turn.
 * The replica stays readable until replica_free(). */
void replica_stop(struct replica *r, uint32_t timeout_ms, void (*done)(void *arg), void *arg);
void replica_free(struct replica *r);

/* From the log's callbacks. */
void replica_log_durable(struct replica *r, uint64_t position);
void replica_log_failed(struct replica *r, int err);
void replica_log_pressure(struct replica *r, struct wal_log *log);

/* From the network. `node` is the verified sender. Malformed items are dropped and counted:
 * ERR_PROTOCOL. */
int replica_receive(struct replica *r, uint32_t node, struct slice items);
/* A bulk request of another node: appends the answer's body to *out and sets *kind; an error code
 * goes out as ERROR. */
int replica_bulk_serve(struct replica *r, uint32_t node, uint16_t kind, struct slice body,
                       uint16_t *answer_kind, struct buf *out);
void replica_bulk_answer(struct replica *r, uint64_t token, int err, uint16_t kind,
                         struct slice body);

/* ---- requests
 * ------------------------------------------------------------------------------------------------------
 */

struct shard *replica_shard(struct replica *r, uint64_t uid); /* NULL: none here */
void replica_each_shard(struct replica *r, void (*cb)(void *arg, struct shard *shard), void *arg);

/* A command's outcome as it was applied (code 0 or negative), or the reason why it wasn't known to
 * be applied: err NOTLEADER, UNAVAILABLE, BUSY, SHUTDOWN ... (the client asks again with the same
 * number). */
struct command_result {
    int err; /* 0: applied, see code */
    int code;
    uint64_t version;
    uint64_t value;
};
struct shard_command;
typedef void (*shard_command_cb)(struct shard_command *command,
                                 const struct command_result *result);
/* Caller's memory until cb, which comes exactly once and never from inside shard_propose. */
struct shard_command {
    shard_command_cb cb;
    void *arg;
    struct list link; /* the shard's */
};
/* kind: a COMMAND of rpc/message.def; body: as encoded by the client, copied into the shard's
 * current batch. owner: hash of the user's name from the certificate; the session must be that
 * owner's. Returns 0 (cb follows; SESSION_EXPIRED or DENIED are found when the batch goes), or at
 * once: NOTLEADER, BUSY, SESSION_EXPIRED, DENIED, PROTOCOL, TOOBIG, SHUTDOWN, DISKFULL (log has no
 * room), IO (shard failed). */
int shard_propose(struct shard *shard, uint16_t kind, struct slice body, uint64_t owner,
                  struct shard_command *command);

/* Linearizable read: cb(0) comes when the local arena may be read (quorum-confirmed ReadIndex, no
 * log write); inside cb the caller reads shard_heap(). */
struct shard_read;
typedef void (*shard_read_cb)(struct shard_read *read, int err);
struct shard_read {
    shard_read_cb cb;
    void *arg;
    uint64_t at; /* a version: cb comes when the shard clock has passed it, and every command up
                    to it is applied; INVAL if it is more than READ_AHEAD_MS ahead. 0: none */
    struct list link; /* the shard's */
};
#define READ_AHEAD_MS 1000u
/* TX_PREPARE, TX_DECIDE, TX_REFUSE, TX_FORGET for a coordinator, which has checked who asks. As
 * shard_propose(), but a hold stops only TX_PREPARE; results are delivered also for commands that
 * change nothing. */
int shard_propose_tx(struct shard *shard, uint16_t kind, struct slice body,
                     struct shard_command *command);
/* TX_DECIDE and TX_FORGET wait some milliseconds for something else to share an entry with, unless
 * they are hurried: somebody waits for what they do. They keep their place before what is proposed
 * later. */
void shard_hurry(struct shard *shard);
/* The stamp that an entry proposed now would get, at least; this node leads. */
uint64_t shard_now(struct shard *shard);
/* Would a sequenced command with this prefix be accepted? As shard_propose(). */
int shard_check_commit(const struct shard *shard, const struct command_prefix *prefix,
                       uint64_t owner);
/* cb comes when all that was accepted before is applied. As shard_propose(). */
int shard_barrier(struct shard *shard, struct shard_command *command);
/* From now on shard_propose() and TX_PREPARE are BUSY, for hold_ms (<= TX_HOLD_MS_MAX) or until
 * TX_CLOSE with this hold is proposed: what comes later has later versions. Holds overlap, but no
 * more than half of the time is held. *hold: its name (term and number). BUSY: too many are held;
 * NOTLEADER. */
int shard_hold(struct shard *shard, uint32_t hold_ms, uint64_t *hold);
/* Is it still held, in the same term? */
bool shard_holds(const struct shard *shard, uint64_t hold);
int shard_read_index(struct shard *shard,
                     struct shard_read *read); /* 0, or NOTLEADER, BUSY, SHUTDOWN, IO */

/* ---- looking
 * -------------------------------------------------------------------------------------------------------
 */

const struct heap *shard_heap(const struct shard *shard);
/* Has something that was read from the heap just now been damaged on the disk? Then the replica
 * stops here, and what was read counts for nothing. 0, ERR_CORRUPT, ERR_IO, ERR_NOMEM. */
int shard_check_damage(struct shard *shard);
/* Digest at the current applied index (*index). */
uint64_t shard_digest(struct shard *shard, uint64_t *index);

struct shard_info {
    uint64_t uid, heap_id;
    uint32_t shard; /* index in its heap */
    uint64_t replica_id;
    enum consensus_state state;
    uint32_t leader_node; /* 0 unknown */
    bool failed, installing;
    bool serving;    /* leads and has applied an entry of its term */
    uint64_t led_ms; /* for so long, serving or not yet; 0: another one does */
    uint64_t term, last_index, commit_index, applied_index, first_index;
    uint64_t checkpoint_index, checkpoint_sequence;
    uint64_t sessions;
    struct consensus_config config;
};
void shard_get_info(const struct shard *shard, struct shard_info *out);

/* What the log of a shard still says of one transaction, for operators. Of a transaction on this
 * shard alone the name is {uid, session, number} of its TX_COMMIT_ONE. */
enum shard_tx_what {
    SHARD_TX_PREPARE,
    SHARD_TX_COMMIT,
    SHARD_TX_ABORT,
    SHARD_TX_REFUSE,
    SHARD_TX_FORGET,
    SHARD_TX_SETTLE,
    SHARD_TX_COMMIT_ONE
};
struct txn_name;
struct shard_tx_step {
    uint64_t index, term, stamp; /* of the entry */
    enum shard_tx_what what;
    uint32_t items;        /* PREPARE, COMMIT_ONE */
    int code;              /* ABORT */
    uint64_t committed_at; /* COMMIT */
};
typedef void (*shard_tx_step_cb)(void *arg, const struct shard_tx_step *step);
#define SHARD_TRACE_ENTRIES_MAX 8192u /* the newest applied ones */
/* In log order, of so much of the log's end as 8 MiB are; cb runs inside. *from: the first entry
 * that was looked at. ERR_IO, ERR_CORRUPT: the log can't be read. */
int shard_trace_tx(struct shard *shard, const struct txn_name *name, uint64_t *from,
                   shard_tx_step_cb cb, void *arg);

/* Who made a change of an object. */
struct shard_writer {
    uint64_t version;      /* of the change */
    uint16_t kind;         /* of the command; 0: one of several of the session */
    uint64_t home;         /* uid of the shard that the session is on */
    uint64_t session, seq; /* 0: not known */
    uint64_t owner;        /* hash of the user's name; 0: not known */
};
/* Of each record of the object's history, newest first; the last one may be older than it. *from:
 * the first entry of the log that was looked at. As heap_history(), or as shard_trace_tx(). */
int shard_writers(struct shard *shard, uint64_t ptr, struct shard_writer *out, size_t max,
                  size_t *count, uint64_t *from);

struct catalog_heap {
    char name[HEAP_NAME_BYTES_MAX + 1];
    uint64_t heap_id, shard_bytes_max, retention_ms;
    uint32_t shard_count, replicas;
    uint64_t created; /* version */
};
struct catalog_shard {
    uint64_t uid;
    uint64_t heap_first; /* uid of its heap's first shard: those of a heap follow each other */
    uint32_t heap_shards;
    uint32_t count;
    uint64_t members[REPLICAS_MAX]; /* replica ids; the first is the preferred leader */
};
/* From the meta shard's arena as applied here. ERR_NOTFOUND. */
int catalog_find(const struct replica *r, struct slice name, struct catalog_heap *out);
int catalog_shard_of(const struct replica *r, struct slice name, uint32_t index,
                     struct catalog_shard *out);
/* Where a shard is, by its uid. ERR_NOTFOUND: it was dropped. ERR_UNAVAILABLE: not known here yet.
 */
int catalog_members(const struct replica *r, uint64_t uid, struct catalog_shard *out);
void catalog_each(const struct replica *r, void (*cb)(void *arg, const struct catalog_heap *heap),
                  void *arg);

/* How this node's wall clock stands to those of the others (rules E18, X16). A node whose clock is
 * off gives up the leadership of its shards, leaves elections to the others and takes no
 * leadership. */
struct replica_clock {
    bool off;          /* set beyond CLOCK_OFF_MS, cleared within CLOCK_OK_MS */
    int64_t offset_ms; /* a majority of all nodes is at least this far ahead (or behind: negative);
                          0 when it can't be told */
};
#define CLOCK_OFF_MS 1000
#define CLOCK_OK_MS  500
void replica_get_clock(const struct replica *r, struct replica_clock *out);

struct replica_load {
    uint32_t busy_permille; /* of one processor, by the reactor's thread; smoothed over about 8 s */
    bool gathered; /* what leaders are drawn to now: one node, or each shard's first member */
};
/* What an entry does to a shard, and what it answers: the same on all of its replicas, or they fall
 * apart. So nodes with another engine are strangers (rules E16). */
uint32_t replica_engine(void);
void replica_get_load(const struct replica *r, struct replica_load *out);

/* Disk space, as of the last second (rules E12): below what is needed shard_propose() answers
 * DISKFULL; reads and what is under way go on. */
struct replica_room {
    bool tight;
    uint64_t free_bytes;   /* of the file system that holds the shards; UINT64_MAX: not known */
    uint64_t needed_bytes; /* to checkpoint all that was accepted, and for the log */
};
void replica_get_room(const struct replica *r, struct replica_room *out);
bool replica_has_room(const struct replica *r); /* the log's own limits hold too */

int shard_checkpoint(struct shard *shard); /* starts one now; ERR_BUSY */
/* Makes what is applied now durable in the image, in its turn: cb comes exactly once, in a later
 * turn, with 0 and what the checkpoint wrote (nothing, if the image was up to date), or why it
 * could not be: DISKFULL, IO, NOSHARD (dropped), SHUTDOWN. Caller's memory until then. */
struct shard_checkpoint_wait;
typedef void (*shard_checkpoint_cb)(struct shard_checkpoint_wait *wait, int err);
struct shard_checkpoint_wait {
    shard_checkpoint_cb cb;
    void *arg;
    struct list link; /* the shard's */
    uint64_t index;   /* at least this is durable then */
    uint64_t pages_written, pages_total, bytes_written;
};
void shard_checkpoint_for(struct shard *shard, struct shard_checkpoint_wait *wait);
/* No checkpoint begins while somebody holds the image: its files stay as they are, for a reader.
 * Each hold is released once; the shard may be gone by then (found by its uid). */
void shard_hold_image(struct shard *shard, bool hold);
const char *shard_dir(const struct shard *shard); /* of the image; borrowed while it lives */
void shard_get_image_stats(const struct shard *shard, struct image_stats *out);
/* ERR_NOTLEADER, ERR_NOTFOUND (no voter there), ERR_UNAVAILABLE (that node's clock is off), BUSY.
 */
int shard_transfer_leadership(struct shard *shard, uint32_t node);

struct replica_counters {
    uint64_t commands, batches, reads, read_batches, elections, snapshots_sent, snapshots_installed,
        malformed;
};
void replica_get_counters(const struct replica *r, struct replica_counters *out);

#endif
