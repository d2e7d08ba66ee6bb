/* Shared by consensus.c and its siblings consensus_*.c, the only files that see <raft.h>. */
#ifndef CAIRN_REPLICA_CONSENSUS_INTERNAL_H
#define CAIRN_REPLICA_CONSENSUS_INTERNAL_H

#include "replica/consensus.h"

#include <raft.h>

/* What may be freed by whom, which fields are uninitialised when, and the guards were all read in
 * this one version. */
#if RAFT_VERSION_NUMBER != 2201
#error                                                                                             \
    "replica/consensus*.c is written against libraft 0.22.1: read docs/adr/0002 before changing the version"
#endif

/* Terms and indexes above this are refused, so that no sum with a count can wrap. */
#define NUMBER_MAX ((uint64_t)1 << 60)
/* A manifest, not the pages. */
#define MANIFEST_BYTES_MAX       (16u << 10)
#define INFLIGHT_ENTRIES_DEFAULT 4096
/* Entries of one received APPEND: a peer of ours never sends more than its in-flight limit. */
#define RECEIVED_ENTRIES_MAX (64u << 10)
/* "1f2e3d4c5b6a7988": libraft wants an address per server and we have none, so it is the id in hex.
 */
#define ADDRESS_BYTES 17

/* libraft forgets its log the moment it is offered a snapshot; this is what brings it back when the
 * installation fails. `records` is a copy on libraft's heap. */
struct saved_log {
    struct raft_trail trail;
    raft_index last_stored;
    raft_index commit_index;
};

struct consensus_workspace {
    struct consensus_update update;
    size_t entries_capacity, messages_capacity;
    struct raft_entry *scratch; /* entries as libraft sees them */
    size_t scratch_capacity;
    struct raft_message *queue; /* libraft's messages of one step */
    unsigned queue_capacity;
};

struct consensus {
    struct raft raft;
    struct consensus_workspace *work;
    uint64_t shard_uid;
    uint64_t id;
    uint64_t now;
    bool started;
    bool dead; /* libraft met an allocation failure: its state can't be trusted any more */

    /* What the caller was told last; an update reports the difference, so nothing gets lost with an
     * event that failed. */
    uint64_t told_term, told_vote, told_commit;
    enum consensus_state told_state;

    uint64_t leader_id, leader_term;       /* who sent APPEND or SNAPSHOT in that term */
    uint64_t caught_up_id, caught_up_term; /* a server that needed no catching up */
    bool reluctant;                        /* see consensus_set_reluctant() */
    uint32_t held_back;                    /* timeouts that passed so since a leader was heard */
    bool stale_request; /* the message being received has a lower term than ours */

    bool own_work;
    struct consensus_message install;
    struct buf install_data;
    struct raft_snapshot_metadata
        install_meta; /* owns its configuration while raft.snapshot.installing */
    struct saved_log saved;
};

/* consensus_heap.c: libraft's allocations. Between enter and leave they are charged to `c`. */
void consensus__heap_setup(void);
void consensus__heap_enter(struct consensus *c);
void consensus__heap_leave(struct consensus *c);
/* The `batch` of every entry that libraft sees. */
void *consensus__batch(struct consensus *c);

/* consensus_config.c, without libraft */
void consensus__address(uint64_t id, char out[ADDRESS_BYTES]);
bool consensus__config_valid(const struct consensus_config *config);
uint32_t consensus__voters(const struct consensus_config *config);
/* Makes *next an edit of `now` (same order, a new server last). ERR_INVAL unless exactly one server
 * differs. */
int consensus__config_edit(const struct consensus_config *now, struct consensus_config *next);

/* consensus_check.c: 0 or ERR_PROTOCOL; looks at the message alone. */
int consensus__check_message(const struct consensus *c, const struct consensus_message *m);

/* consensus.c */
int consensus__begin(struct consensus *c, uint64_t now_ms);
int consensus__reserve_entries(struct consensus *c, size_t more);
int consensus__reserve_scratch(struct consensus *c, size_t count);
/* Runs one event. `source` are the entries that the workspace's scratch stands for; those that are
 * to be stored move into the update and *taken is how many (the last ones of source; may be NULL).
 */
int consensus__step(struct consensus *c, struct raft_event *event, const struct wal_entry *source,
                    size_t source_count, size_t *taken);
int consensus__finish(struct consensus *c, struct consensus_update **update);
int consensus__to_raft_config(struct consensus *c, const struct consensus_config *config,
                              struct raft_configuration *out);
void consensus__from_raft_config(const struct raft_configuration *config,
                                 struct consensus_config *out);
uint64_t consensus__trail_last(const struct raft_trail *t);
uint64_t consensus__trail_term(const struct raft_trail *t, uint64_t index); /* 0: not in it */
void consensus__entry_for_raft(struct consensus *c, const struct wal_entry *entry,
                               struct raft_entry *out);

/* consensus_install.c */
int consensus__receive_snapshot(struct consensus *c, const struct consensus_message *m);
void consensus__saved_log_close(struct saved_log *saved);

#endif
