/* Transactions over several shards on one node: commits that it coordinates, recovery of those
 * that nobody brings to an end, reads that wait for a decision, forgetting. One per node, on the
 * reactor's thread. All of its state is volatile; what must last is in the participants' arenas
 * (ADR 0007). */
#ifndef CAIRN_COORD_COORD_H
#define CAIRN_COORD_COORD_H

#include "alloc/txn.h"
#include "base/env.h"
#include "coord/machine.h"
#include "replica/replica.h"

struct coord;

#define COORD_PATIENCE_MS 1000u /* no vote for so long: ask it to refuse */
#define COORD_RESEND_MS   300u  /* the same request again, to whoever leads now */
#define COORD_ORPHAN_MS   1500u /* a prepared record without a machine here: recover it */
#define COORD_HEIR_MS     500u /* ... at home, after its coordinator led; clients come again first */
#define COORD_PUSH_MS     250u  /* ... when a read waits for it */
#define COORD_READ_MS     2000u /* a read waits so long for a decision; then BUSY */
#define COORD_FORGET_MS   500u  /* TX_FORGET is sent in batches, so often */

struct coord_cbs {
    /* PEER_COMMAND to another node over its raft link. 0: coord_answer(token) follows in a later
     * turn, or coord_peer_lost(). ERR_NOCONN, ERR_BUSY: it wasn't sent. body: borrowed for the
     * call. token: below 1 << 63. */
    int (*peer_command)(void *arg, uint32_t node, uint16_t kind, struct slice body, uint64_t token);
};

int coord_open(struct env *env, struct replica *replica, uint32_t node, const struct coord_cbs *cbs,
               void *arg, struct coord **out);
/* Everyone who waits gets SHUTDOWN (a commit: its outcome is unknown to the client). */
void coord_close(struct coord *coord);

/* The answer to cbs.peer_command: err 0 with the result, or why there is none. leader: with
 * NOTLEADER, the node that leads, 0 unknown. */
void coord_answer(struct coord *coord, uint64_t token, int err, uint32_t leader,
                  const struct command_result *result);
/* The connection to a node was lost: what was sent to it and isn't answered never will be. */
void coord_peer_lost(struct coord *coord, uint32_t node);
/* From replica_cbs.on_applied: something that was applied on this shard concerns transactions. */
void coord_on_applied(struct coord *coord, struct shard *shard);

/* TX_COMMIT. body: copied. cb comes exactly once, in a later turn: err 0 with code, version, value
 * as RESULT has them; else why it isn't known (the client sends it again). 0, or at once: NOSHARD,
 * NOTLEADER, BUSY, PROTOCOL, TOOBIG, SESSION_EXPIRED, DENIED. */
int coord_commit(struct coord *coord, struct slice body, uint64_t owner,
                 struct shard_command *command);

/* A read that met an undecided transaction. Caller's memory until cb, which comes exactly once: 0
 * when that transaction is decided here (look again), ERR_BUSY after COORD_READ_MS, ERR_SHUTDOWN.
 */
struct coord_wait;
typedef void (*coord_wait_cb)(struct coord_wait *wait, int err);
struct coord_wait {
    coord_wait_cb cb;
    void *arg;
    struct list link; /* coord's */
    uint64_t uid;
    struct txn_name by;
    uint64_t first_uid; /* of the shards that don't matter, when `by` is none */
    uint32_t shards;
    uint64_t since_ms;
    bool pushed;
};
void coord_wait(struct coord *coord, struct shard *shard, const struct txn_name *by,
                struct coord_wait *wait);
/* Somebody waits for something that is to be decided on this shard. */
bool coord_is_awaited(const struct coord *coord, uint64_t uid);
/* TX_HOLD: all that is prepared on the shard now and has a participant in another heap, whose
 * clock the asker may not know. wait->by is not used. */
void coord_wait_outside(struct coord *coord, struct shard *shard, struct coord_wait *wait);
/* Begins to recover one now. */
void coord_push(struct coord *coord, uint64_t uid, const struct txn_name *name);
/* A shard led here has told somebody that it has committed one already: it tells all the others. */
void coord_finish(struct coord *coord, uint64_t uid, const struct txn_name *name);

/* A transaction that is at work on this node, for operators. False: it isn't. */
struct coord_view {
    enum coord_purpose purpose;
    enum coord_state state;
    uint32_t count;
    uint64_t uids[TX_PARTICIPANTS_MAX];
    enum coord_part parts[TX_PARTICIPANTS_MAX];
    uint32_t tries[TX_PARTICIPANTS_MAX]; /* in a row, without an answer that counts */
};
bool coord_look(const struct coord *coord, const struct txn_name *name, struct coord_view *out);

struct coord_stats {
    uint64_t commits, committed, aborted, conflicts, too_late; /* coordinated here */
    uint64_t recoveries, asks, resends, reads_waited, forgotten, wrong;
    uint32_t running, waiting;
};
void coord_get_stats(const struct coord *coord, struct coord_stats *out);

#endif
