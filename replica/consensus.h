/* The facade over libraft 0.22.1 (replica/consensus*.c: nothing else knows that library).
 *
 * One `struct consensus` is one replica of one shard: a pure state machine. Events go in; each call
 * returns with what must be stored, sent and applied in `struct consensus_update`, borrowed until
 * the next event of any consensus that shares the workspace. It does no I/O, reads no clock, and is
 * not re-entrant. The guards against libraft's defects (docs/adr/0002) and the validation of every
 * received field live in here; messages from the network may hold anything.
 *
 * The caller's duties: (1) when hard_state_changed or entries/truncation are reported, hand them to
 * the log BEFORE anything else, and send the messages of this and later updates only once the log
 * position of the newest hard state is durable; (2) report durable entries by
 * consensus_persisted(); (3) apply min(commit_index, last stored); (4) after applying a committed
 * configuration entry call consensus_configuration_applied(). */
#ifndef CAIRN_REPLICA_CONSENSUS_H
#define CAIRN_REPLICA_CONSENSUS_H

#include "base/buf.h"
#include "base/limits.h"
#include "wal/wal.h"

struct consensus;

/* So many that others come first, and so few that a shard doesn't stay without a leader when its
 * reluctant replica is the only one that can win. */
#define ELECTIONS_HELD_BACK 8u

enum consensus_role { CONSENSUS_STANDBY, CONSENSUS_VOTER, CONSENSUS_SPARE };
enum consensus_state {
    CONSENSUS_UNAVAILABLE,
    CONSENSUS_FOLLOWER,
    CONSENSUS_CANDIDATE,
    CONSENSUS_LEADER
};
enum consensus_entry_type { ENTRY_COMMAND = 1, ENTRY_BARRIER = 2, ENTRY_CHANGE = 3 };

struct consensus_server {
    uint64_t id; /* never 0, never reused */
    enum consensus_role role;
};
struct consensus_config {
    struct consensus_server servers[NODES_MAX * 2];
    uint32_t count;
};

/* A message in our own form. Everything borrowed until the next event, as the update is. */
enum consensus_message_type {
    MSG_APPEND = 1,
    MSG_APPEND_RESULT,
    MSG_VOTE,
    MSG_VOTE_RESULT,
    MSG_SNAPSHOT,
    MSG_TIMEOUT_NOW
};
struct consensus_message {
    enum consensus_message_type type;
    uint64_t from, to; /* replica ids */
    uint64_t term;
    /* clang-format off */
    /* By type; unused fields are 0:
     *   APPEND         index/log_term = previous entry; commit; count entries. Out: the caller reads
     *                  them from its log at index + 1 .., and may send them as several messages.
     *                  In: `entries`, each with a block reference that the consensus takes over,
     *                  on error too.
     *   APPEND_RESULT  rejected, index = last log index, capacity, features
     *   VOTE           index/log_term = last log entry; flags: MSG_PRE_VOTE, MSG_DISRUPT
     *   VOTE_RESULT    flags: MSG_PRE_VOTE, MSG_GRANTED; capacity, features
     *   SNAPSHOT       index/log_term = last included entry; config + config_index; data = manifest.
     *                  Out: the caller fills all of these from its newest checkpoint.
     *   TIMEOUT_NOW    index/log_term = last log entry */
    /* clang-format on */
    uint64_t index, log_term, commit, rejected, config_index;
    uint32_t count;
    uint16_t flags, features, capacity;
    uint8_t version;
    struct wal_entry *entries;
    struct consensus_config config;
    struct slice data;
};
#define MSG_PRE_VOTE (1u << 0)
#define MSG_DISRUPT  (1u << 1)
#define MSG_GRANTED  (1u << 2)

struct consensus_update {
    bool hard_state_changed; /* term and/or vote: store both */
    bool state_changed;      /* leader <-> follower ..., see consensus_state() */
    bool commit_changed;
    uint64_t term, voted_for, commit_index;
    /* Entries to store: truncate the log from first_index on if it reaches there, then append
     * (entry_count > 0). Each block carries one reference for the caller (wal_log_append takes its
     * own). */
    uint64_t first_index;
    struct wal_entry *entries;
    size_t entry_count;
    struct consensus_message *messages;
    size_t message_count;
    /* A snapshot to install: fetch the pages that the manifest names, then call
     * consensus_snapshot_installed(). Until then consensus_installing() is true. NULL if none. */
    const struct consensus_message *install;
};

/* Memory that one event needs and the next one doesn't: the update and what it points to. The
 * replicas of many shards share one, on one thread, so that each finds it in the caches. */
struct consensus_workspace;
struct consensus_workspace *consensus_workspace_new(void); /* NULL: no memory */
void consensus_workspace_free(struct consensus_workspace *w);

struct consensus_opts {
    struct consensus_workspace *workspace; /* outlives the consensus; NULL: one of its own */
    uint64_t shard_uid;
    uint64_t id; /* own replica id */
    uint32_t election_ms, heartbeat_ms;
    uint32_t inflight_entries_max; /* 0: 4096 */
    uint32_t seed;                 /* different per shard and node */
};

/* What the log and the newest checkpoint hold at start. */
struct consensus_start {
    uint64_t now_ms;
    uint64_t term, voted_for;
    uint64_t snapshot_index, snapshot_term; /* of the image; 0 at birth */
    struct consensus_config config; /* committed configuration as of snapshot (count 0: none) */
    uint64_t config_index;
    uint64_t first_index;            /* of the first entry in `entries` */
    const struct wal_entry *entries; /* borrowed; all entries of the log after snapshot_index; only
                                        term, type and, for ENTRY_CHANGE, data are looked at */
    size_t entry_count;
};

int consensus_open(const struct consensus_opts *opts, struct consensus **out);
void consensus_free(struct consensus *c);

/* Every event returns 0 with *update set, or an error and no update:
 * ERR_NOTLEADER, ERR_BUSY (submit while transferring, a change while one is pending), ERR_PROTOCOL
 * (a received message that breaks the contract: drop it), ERR_INVAL (the caller's argument can't
 * be), ERR_NOMEM (before libraft was asked: nothing happened; inside it: the replica is dead as
 * after a crash, its state is CONSENSUS_UNAVAILABLE and every further event fails the same way
 * until it is freed and opened anew). now_ms is monotonic.
 *
 * consensus_start: once. A new shard's log is born with an ENTRY_CHANGE at index 1 in term 1, and
 * hard state term 1, the same on every first voter; a replica that is to be added later starts
 * empty (all 0). ERR_INVAL: contradicts itself. */
int consensus_start(struct consensus *c, const struct consensus_start *start,
                    struct consensus_update **update);
int consensus_receive(struct consensus *c, uint64_t now_ms, struct consensus_message *message,
                      struct consensus_update **update);
int consensus_tick(struct consensus *c, uint64_t now_ms, struct consensus_update **update);
/* A reluctant replica leaves elections to the others: it lets ELECTIONS_HELD_BACK timeouts pass
 * without a leader before it campaigns, and takes no leadership that is handed to it. Each attempt
 * of a candidate that lacks entries of this replica counts for half of them. It votes as before. No
 * event; false at first. */
void consensus_set_reluctant(struct consensus *c, bool reluctant);
/* Entries up to index (with this term at it) are durable in our own log as it is now: after a
 * truncation that isn't durable yet, only what lies before it (wal_log_durable_index). A position
 * that isn't in the log any more with that term, or isn't news, is ignored (update with nothing in
 * it). */
int consensus_persisted(struct consensus *c, uint64_t now_ms, uint64_t index, uint64_t term,
                        struct consensus_update **update);
/* One new entry in the leader's term; `data` lies in *block, one reference of which is taken over,
 * on error too. */
int consensus_submit(struct consensus *c, uint64_t now_ms, enum consensus_entry_type type,
                     struct slice data, struct wal_block *block, struct consensus_update **update);
/* `config` differs from the newest one in exactly one server: added, removed, or its role changed
 * (else ERR_INVAL). ERR_BUSY until an entry of the leader's own term is committed. */
int consensus_submit_change(struct consensus *c, uint64_t now_ms,
                            const struct consensus_config *config,
                            struct consensus_update **update);
/* A committed ENTRY_CHANGE at `index` was applied. */
int consensus_configuration_applied(struct consensus *c, uint64_t now_ms, uint64_t index,
                                    struct slice data, struct consensus_update **update);
/* Our own checkpoint at index is durable; entries up to trim_index may go from raft's view of the
 * log. Once more at the same index: more of them went. */
int consensus_snapshot_taken(struct consensus *c, uint64_t now_ms, uint64_t index, uint64_t term,
                             uint64_t trim_index, struct consensus_update **update);
/* The snapshot of update->install is durable here and the log was restarted behind it. ok false: it
 * failed, the log is as it was before (and must be), and the leader will offer it again. */
int consensus_snapshot_installed(struct consensus *c, uint64_t now_ms, bool ok,
                                 struct consensus_update **update);
/* to 0: the voter that is furthest. */
int consensus_transfer(struct consensus *c, uint64_t now_ms, uint64_t to,
                       struct consensus_update **update);
/* Before a standby becomes a voter. One at a time: ERR_BUSY. */
int consensus_catch_up(struct consensus *c, uint64_t now_ms, uint64_t id,
                       struct consensus_update **update);
/* 0 none, 1 running, 2 aborted, 3 finished. */
int consensus_catch_up_status(const struct consensus *c, uint64_t id);

enum consensus_state consensus_state(const struct consensus *c);
uint64_t consensus_term(const struct consensus *c);
uint64_t
consensus_leader(const struct consensus *c); /* replica id, 0 if unknown; own id when leading */
uint64_t consensus_commit_index(const struct consensus *c);
uint64_t consensus_timeout_ms(const struct consensus *c); /* when consensus_tick() is due */
bool consensus_installing(const struct consensus *c);
uint64_t consensus_transferee(const struct consensus *c); /* 0 if no transfer is under way */
uint64_t consensus_match_index(const struct consensus *c,
                               uint64_t id); /* leader only; 0 if unknown */
void consensus_get_config(const struct consensus *c,
                          struct consensus_config *out); /* newest, committed or not */
/* The same, one server after the other. */
uint32_t consensus_server_count(const struct consensus *c);
struct consensus_server consensus_server_at(const struct consensus *c, uint32_t i);
bool consensus_change_pending(const struct consensus *c);
bool consensus_sole_voter(const struct consensus *c); /* nobody else votes */

/* The bytes of an ENTRY_CHANGE. ERR_PROTOCOL on anything but a valid configuration. */
int consensus_config_decode(struct slice data, struct consensus_config *out);
int consensus_config_encode(const struct consensus_config *config, struct buf *out);

/* Asks the caches for it. */
void consensus_ahead(const struct consensus *c);

#endif
