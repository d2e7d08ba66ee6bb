/* What the files of replica/ share. Nobody outside includes this. */
#ifndef CAIRN_REPLICA_INTERNAL_H
#define CAIRN_REPLICA_INTERNAL_H

#include "base/assert.h"
#include "base/mem.h"
#include "replica/block.h"
#include "replica/fsm_layout.h"
#include "replica/replica.h"

#define SESSIONS_CURSOR_BYTES 9u

#define FILL_BYTES            ((uint64_t)2 << 20) /* of an opened image to load, a tick */
#define TICK_MS               20u /* one timer for all shards: elections, heartbeats, housekeeping */
#define HOUSEKEEPING_MS       1000u /* the slow part of it, per shard */
#define BATCHES_IN_FLIGHT_MAX 4u    /* entries submitted and not yet applied, when they come full */
#define BATCH_WORK_CLOSE      2048u /* a batch takes no more once it costs so much (fsm_work()) */
#define BATCHES_READY_MAX     16u /* full batches that wait for one of those places; beyond: BUSY */
#define SHARD_TABLE_SIZE      2048u /* buckets of uid -> shard */
#define PEER_ITEMS_BYTES_MAX  (FRAME_BYTES_MAX - 4096u)
#define APPEND_PAYLOAD_BYTES                                                                       \
    (1u << 20) /* entries of one message; at least one entry in any case                           \
                */
#define APPEND_TOTAL_BYTES_MAX                                                                     \
    (8u << 20)                /* entries sent for one message of consensus, split up               \
                               */
#define ENTRIES_OUT_MAX  256u /* entries of one message */
#define ENTRY_ITEM_BYTES 13u  /* of an entry in a payload, without its bytes: term, type, length */
#define HELD_BYTES_MAX   (8u << 20) /* messages of a shard that wait for its hard state */
#define APPLY_BYTES_PER_TURN                                                                       \
    (1u << 20) /* replay and catching up leave the loop to others after this much */
#define APPLY_BYTES_PER_WORK 512u   /* of that: what a chunk made or freed counts as */
#define PIN_IDLE_MS          30000u /* a view for receivers goes after this long without a request */
#define PIN_DONE_MS          3000u  /* ... or this long after a receiver got its last page */
#define INSTALL_TIMEOUT_MS   10000u /* no answer to a page request */
#define PAGES_PER_FETCH      240u   /* fits BULK_CHUNK_BYTES_MAX */

static_assert(PAGES_PER_FETCH * (HEAP_PAGE_BYTES + 8u) + 64u <= BULK_CHUNK_BYTES_MAX,
              "one bulk frame");

/* ---- peers
 * ---------------------------------------------------------------------------------------------------------
 */

struct peer {
    uint32_t node;
    struct buf out;    /* items of the next PEER_BATCH */
    uint64_t heard_ms; /* monotonic: newest batch from it; 0 never */
    bool wall_known;
    int64_t wall_offset_ms; /* its wall clock - ours */
    uint64_t wall_ms;       /* monotonic time of that sample */
    /* The same from an answer to a question of ours, so that its error is bounded: clock.c. */
    bool clock_known;
    int64_t clock_offset_ms;
    uint64_t clock_ms;
    /* How long it takes to store new entries, seen from here: thrifty.c. */
    struct {
        uint64_t uid, index; /* the shard's entry whose answer is timed; uid 0: none is */
        uint64_t sent_ns;
    } timed;
    uint64_t answer_ns; /* smoothed */
    uint16_t busy;      /* of its loop, in thousandths: leaders.c */
    uint64_t busy_ms;   /* monotonic: when it said so; 0 never */
    bool stopping;      /* said last; so is one that has stopped, until it speaks again */
};

/* Leaders that follow the load: leaders.c. */
struct leaders {
    bool spread;                /* what the meta shard's leader decided, or this node as that */
    uint64_t changed_ms;        /* monotonic: when this node last decided or was told so; 0 never */
    int32_t busy_16ths;         /* of a thousandth of a processor, by this node's loop, smoothed */
    uint64_t cpu_ns, sample_ms; /* of the last sample; 0: none */
};

/* ---- batches
 * -------------------------------------------------------------------------------------------------------
 */

/* Commands on their way into one entry, and who waits for them. */
/* Who says that a session is his. Looked into when the batch goes, for many commands together. */
struct claim {
    uint64_t session, owner; /* session 0: nothing is claimed */
};

struct batch {
    struct list link; /* shard->ready, shard->in_flight or replica->batch_pool */
    struct entry_block *block;
    size_t len;
    uint32_t count;
    uint32_t work;                  /* see fsm_work() */
    uint64_t wave;                  /* counted in this one; 0: in none */
    bool lazy;                      /* nothing in it is waited for: see lazy.c */
    uint64_t index, term;           /* once submitted */
    struct shard_command **waiters; /* by ordinal; NULL: our own command */
    struct claim *claims;           /* by ordinal */
    uint32_t waiters_capacity;
    struct command_result *results;
};

/* ---- reads
 * ---------------------------------------------------------------------------------------------------------
 */

struct read_round {
    bool running;
    uint64_t seq, term, index;
    uint64_t started_ms, sent_ms;
    struct consensus_config config; /* as it was when the round began */
    uint32_t yes;                   /* bit per server of config */
    bool asked_all;
    struct list reads;
};

/* ---- snapshots
 * -----------------------------------------------------------------------------------------------------
 */

struct manifest {
    uint64_t uid, index, term, digest, page_count, bytes_max, view;
    uint32_t node; /* where the pages are */
};

/* Outgoing: a view that receivers fetch from. */
struct pin {
    struct view *view; /* NULL: none */
    struct manifest manifest;
    struct consensus_config config;
    uint64_t config_index;
    uint64_t used_ms;
    uint64_t done_ms; /* a receiver got everything; 0 */
};

enum install_step {
    INSTALL_NONE,
    INSTALL_OPENING,
    INSTALL_FETCHING,
    INSTALL_WAITING,
    INSTALL_WRITING
};
struct install {
    enum install_step step;
    struct manifest manifest;
    struct consensus_config config;
    uint64_t config_index;
    struct heap_receive *receive;
    struct heap *heap; /* complete, not yet durable */
    uint64_t view, next;
    uint64_t token; /* of the request in flight */
    uint64_t sent_ms;
};

/* ---- holds
 * ---------------------------------------------------------------------------------------------------------
 */

#define HOLDS_MAX      16u  /* of a shard at a time */
#define HOLD_CREDIT_MS 200u /* so much of a shard's time at once */
struct hold {
    uint64_t term, until_ms;
    uint32_t number;
};

/* ---- entries that leave later
 * ------------------------------------------------------------------------------------------
 */

/* Kept back for one server: entries index + 1 .., of a message in this term. */
#define LATE_MAX (REPLICAS_MAX - 1u) /* servers of a shard; more get theirs at once */
struct late {
    uint64_t to, term, index, log_term;
    uint32_t count; /* 0: nothing */
    uint8_t version;
};

/* ---- a shard
 * -------------------------------------------------------------------------------------------------------
 */

/* A position of the log and what is durable with it. */
struct persist_mark {
    uint64_t position, index, term;
};

/* First what every entry's way through here looks at, then what is seldom wanted: the shards of a
 * node together are larger than the caches. */
struct shard {
    struct replica *r;
    struct shard *hash_next;
    struct list link;         /* replica->shards */
    struct list turn_link;    /* replica->turn_shards, else alone */
    struct list wave_link;    /* replica->wave.waiting, else alone */
    struct list durable_link; /* replica->durable_shards while marks or messages wait, else alone */
    struct list apply_link;   /* replica->apply_shards, else alone */
    struct list lazy_link;    /* replica->lazy_shards while the open batch waits for company */
    struct list late_link;    /* replica->late_shards while entries are kept back, else alone */
    uint64_t uid, heap_id;
    uint32_t number; /* index in its heap */
    uint64_t self_id;
    char *dir;

    struct consensus *consensus; /* NULL only when failed at open */
    struct wal_log *log;
    struct image *image;
    struct heap *heap;

    bool failed;
    bool dropped; /* the catalogue has it no more: goes as soon as nothing is in progress */

    /* Output commit: messages wait for the hard state's position. */
    uint64_t hard_state_position;
    struct buf held; /* {node u32, length u32, item} each */
    struct persist_mark *marks;
    size_t marks_head, marks_count, marks_capacity;

    uint64_t applied;
    uint64_t leader; /* replica id as last reported */
    bool leader_changed;
    bool apply_again; /* the turn's budget was used up */
    bool applied_tx;  /* commands of coordinators were, and the node hasn't been told */

    /* Leading. */
    bool serving;    /* an entry of our term is applied */
    bool needs_tick; /* elected: the first entry is still to be submitted */
    uint64_t lead_since_ms;
    uint64_t lead_term;
    uint64_t stamp_base, stamp_base_ms; /* HLC and monotonic time when the term began */
    uint64_t stamp_last;
    /* While time is ahead of the clocks: what it was, and when; else 0. */
    uint64_t slow_base_ms, slow_since_ms;

    struct batch *open;
    uint64_t lazy_ms; /* since when it waits for company */
    struct late late[LATE_MAX];
    uint64_t late_ms;      /* since when something is kept back */
    uint64_t late_open_ms; /* ... and something that wasn't committed then */
    uint64_t late_last;    /* the last entry of it */
    size_t late_bytes;     /* of entries, about */
    struct list ready;
    uint32_t ready_count;
    struct list in_flight;
    uint32_t in_flight_count;
    size_t batch_bytes; /* of the last ones: how much to allocate first */

    struct list reads;        /* not yet in a round */
    struct list reads_done;   /* confirmed, wait for apply */
    struct list reads_failed; /* cb due in this turn with reads_failed_err */
    struct list reads_ahead;  /* confirmed, wait until the shard clock has passed their version */
    uint64_t reads_done_index;
    bool reclaiming, reclaim_again;
    uint64_t held_from_ms, held_until_ms; /* holds that follow each other without a break */
    uint64_t hold_credit_ms;              /* time without holds that hasn't paid for any */

    /* Checkpoints. */
    bool log_is_shorter; /* than consensus believes, which isn't to be: checkpoint_heal() */
    uint64_t log_bytes, log_entries; /* applied since the last one */
    bool checkpoint_wanted, checkpoint_pressed, checkpoint_running;
    uint64_t checkpoint_bytes;                      /* that the running one writes */
    uint64_t checkpoint_index, checkpoint_sequence; /* newest durable one */
    uint64_t checkpoint_ms;                         /* when it ended */
    uint64_t checkpoint_retry_ms, checkpoint_backoff_ms;
    uint64_t keep_after; /* entries up to here were released */
    struct list checkpoint_waits;
    uint32_t image_holds; /* no checkpoint may start */

    struct install install;
    struct pin pin;

    struct read_round round;
    uint64_t read_seq;
    uint64_t read_voter; /* completed the last round; the next one asks it first */
    struct env_timer read_patience;
    uint64_t read_all_ms; /* until then rounds ask all: one that was asked did not answer */

    struct hold holds[HOLDS_MAX];
    uint32_t hold_last;

    /* Housekeeping of a leader. */
    uint64_t housekeeping_ms;
    uint8_t session_cursor[SESSIONS_CURSOR_BYTES];
    size_t session_cursor_len;
    struct shard_command reclaim; /* one step of giving history back, while `reclaiming` */
    uint64_t reclaim_ms;          /* when it was looked at last */
    uint64_t confirm_ms;          /* last CONFIRM to all */
    uint64_t catch_up_id, catch_up_ms;
    uint64_t prefer_ms, prefer_backoff_ms;
    uint64_t give_up_ms; /* no earlier than this again, for our clock's sake */
};

struct replica {
    struct env *env;
    struct wal *wal;
    struct replica_opts opts; /* dir is our copy */
    char *dir;
    const struct replica_cbs *cbs;
    void *arg;

    /* Of all shards. */
    struct consensus_workspace *consensus_work;
    struct block_pool *blocks;
    struct list batch_pool; /* those that were used last first */
    uint32_t batch_pool_count;

    struct list shards;
    struct shard *table[SHARD_TABLE_SIZE];
    uint32_t shard_count;
    struct shard *meta;

    struct peer peers[NODES_MAX];
    uint32_t peer_count;
    uint8_t peer_of[256]; /* node -> index + 1; 0 none */

    struct env_task turn;
    struct list turn_shards;
    struct {
        uint64_t number;    /* never 0 */
        uint32_t in_flight; /* batches of it that haven't come back */
        uint32_t most;      /* the largest in_flight since it was 0 */
        uint32_t before;    /* the same of the wave just before, 0: there was none */
        uint64_t begun_ms;  /* when the last batch of it went */
        bool overdue;       /* those that wait go in the next turn */
        bool open;          /* batches may go in this turn */
        struct list waiting;
        struct env_timer timer;
    } wave;
    struct list durable_shards;
    bool gathering;           /* news of many shards is being taken in ... */
    struct list apply_shards; /* ... and these apply behind it */
    struct list lazy_shards;
    struct env_timer lazy;
    struct list late_shards; /* longest ago first */
    struct env_timer late;
    struct env_timer tick;
    struct env_timer again; /* work left over for the next turn */

    bool meta_changed; /* tell the node, and look for shards to open or drop */
    bool reconcile;    /* more of that is left */
    bool dirs_cleaned;
    bool any_dropped;
    bool opening; /* replica_open() hasn't returned */
    uint64_t token_last;
    struct shard *checkpointing; /* one at a time */
    bool checkpoints_wanted;

    struct leaders leaders;
    struct replica_clock clock;
    uint64_t clock_ask_ms; /* when the others are asked next */
    struct replica_room room;
    uint64_t room_look_ms; /* when the disk is looked at next */

    bool stopping, stopped;
    uint64_t stop_deadline_ms;
    void (*stop_done)(void *arg);
    void *stop_arg;

    /* Of the message being sent. Not on the stack, which the compiler clears. */
    struct wal_entry entries_out[ENTRIES_OUT_MAX];
    struct wal_entry *entries_in; /* of a received message; grows */
    size_t entries_in_capacity;
    struct buf scratch;

    struct replica_counters counters;
};

/* ---- replica.c
 * -----------------------------------------------------------------------------------------------------
 */

void replica__turn(struct shard *s); /* look at this shard at the end of the turn */
struct peer *replica__peer(struct replica *r, uint32_t node);
/* Puts an item of a shard into a peer's batch, or holds it until the shard's hard state is durable.
 */
void replica__send(struct shard *s, uint32_t node, struct slice item);
/* The buffer to append an item for `node` to; NULL: unknown node. Room for `bytes` is made by
 * flushing. */
struct buf *replica__out(struct replica *r, uint32_t node, size_t bytes);
/* Shard table. */
void replica__add(struct replica *r, struct shard *s);
void replica__remove(struct replica *r, struct shard *s);
/* Opens shards of this node that the catalogue has and drops those it has no more; a few at a time.
 */
void replica__reconcile(struct replica *r);

/* ---- shard.c
 * -------------------------------------------------------------------------------------------------------
 */

struct shard_open_opts {
    uint64_t uid, heap_id;
    uint32_t number;
    uint64_t bytes_max, retention_ms;
    bool birth_allowed; /* nothing of it may be here yet */
    bool founder;       /* with these members, and we write the first entry */
    const struct consensus_config *founders;
};
/* ERR_NOTFOUND: nothing here and birth isn't allowed. On other errors the shard exists, failed,
 * unless *out is NULL. */
int shard__open(struct replica *r, const struct shard_open_opts *opts, struct shard **out,
                struct err_text *e);
void shard__free(struct shard *s);
void shard__fail(struct shard *s, int err, const char *text);
/* What consensus answered to an event: does all that follows from it. err from the event; update
 * NULL with an error. */
void shard__handle(struct shard *s, int err, struct consensus_update *update);
/* Applies and answers what may be by now. */
void shard__catch_up(struct shard *s);
/* Only the storing, sending and noting part of it, without applying. */
void shard__absorb(struct shard *s, int err, struct consensus_update *update);
void shard__tick(struct shard *s, uint64_t now_ms);
void shard__durable(struct shard *s, uint64_t position);
void shard__end_of_turn(struct shard *s);
/* A command of our own (session = 0, seq = 0, or a TICK): nobody waits. */
int shard__propose_own(struct shard *s, uint16_t kind, struct slice body);
/* The same, with somebody who wants the outcome; 0: the callback follows. */
int shard__propose_for(struct shard *s, uint16_t kind, struct slice body,
                       struct shard_command *command);
int shard__propose_tick(struct shard *s); /* an entry that only moves the clock */
bool shard__leads(const struct shard *s);
/* Entries out of the log, as several messages if there are many; each stands on its own. */
void shard__send_append(struct shard *s, const struct consensus_message *message);
/* Answers everyone who waits for a command or a read. */
void shard__refuse_waiters(struct shard *s, int err);
bool shard__hard_state_is_durable(const struct shard *s);

/* ---- batch.c
 * -------------------------------------------------------------------------------------------------------
 */

/* Would the open batch go now, if waves allow? */
bool batch_is_due(const struct shard *s);
void batch_end_of_turn(struct shard *s);
void batch_tick(struct shard *s); /* batches that wait for a place in the log */
void batch_push(struct shard *s);
void batch_refuse(struct shard *s, int err); /* whoever waits gets err */
void batch_close(struct shard *s);           /* nobody may wait any more */
void batch_pool_close(struct replica *r);    /* frees what all shards have given back */
void shard__apply(struct shard *s);
/* How many entries it may apply now. */
uint64_t shard__apply_due(const struct shard *s);
/* HLC of an entry submitted now. */
uint64_t shard__stamp(struct shard *s);

/* ---- ahead.c
 * ---------------------------------------------------------------------------------------------------------
 */

/* What these shards will apply next, asked for before any of them does. */
#define AHEAD_SHARDS_MAX 32u
void ahead_apply(struct shard *const *shards, uint32_t count);
/* What the first of a turn's shards will look at whose open batch is due. */
void ahead_submit(const struct list *shards);
/* The shards that items of a received batch are for: before they are looked at. */
void ahead_receive(struct replica *r, struct slice items);

/* ---- wave.c
 * ---------------------------------------------------------------------------------------------------------
 */

void wave_init(struct replica *r);
void wave_close(struct replica *r);
void wave_turn(struct replica *r); /* a pass over the shards of this turn begins */
/* May the shard's open batch go now? No: the shard is looked at again when it may. */
bool wave_take(struct shard *s);
void wave_sent(struct replica *r, struct batch *b);   /* it goes */
void wave_landed(struct replica *r, struct batch *b); /* applied, or given up; any batch */
void wave_written(struct replica *r);                 /* the log may be free again */

/* ---- hold.c
 * ---------------------------------------------------------------------------------------------------------
 */

bool hold_is_on(const struct shard *s);
void hold_end(struct shard *s, uint64_t name);

/* ---- lazy.c
 * ---------------------------------------------------------------------------------------------------------
 */

void lazy_init(struct replica *r);
void lazy_begin(struct shard *s); /* the open batch waits for company */
void lazy_end(struct shard *s);   /* it has some, or has gone */

/* ---- thrifty.c
 * -----------------------------------------------------------------------------------------------------
 */

void thrifty_init(struct replica *r);
void thrifty_close(struct replica *r);
/* Keeps a message of this update back, if others are enough for its entries. */
bool thrifty_keep(struct shard *s, const struct consensus_update *u,
                  const struct consensus_message *m);
void thrifty_release_to(struct shard *s, uint64_t to); /* what is kept back leaves */
void thrifty_release(struct shard *s);
void thrifty_forget(struct shard *s); /* it doesn't lead any more */
/* How fast a server is: entries up to the index left for it; it answered. */
void thrifty_sent(struct shard *s, uint64_t to, uint64_t index);
void thrifty_answered(struct shard *s, uint64_t from);

/* ---- fsm.c
 * ---------------------------------------------------------------------------------------------------------
 */

/* What the replica wants to know of an entry; set, never cleared. */
struct fsm_effects {
    bool meta_changed; /* the catalogue may have changed */
    bool tx;           /* there was a command of a coordinator */
};
/* Applies one entry. results: room for as many as the entry has commands (results_max), or NULL
 * when nobody waits. 0, or an error that is fatal to the replica. */
int fsm_apply(struct heap *heap, uint64_t index, const struct wal_entry *entry,
              struct command_result *results, uint32_t results_max, struct fsm_effects *effects);
/* What applying the command will cost in chunks of large objects, KiB moved and the like, about;
 * at most FSM_WORK_MAX. 0: as little as most. */
#define FSM_WORK_MAX 2048u
uint32_t fsm_work(const struct heap *heap, uint16_t kind, struct slice body);
/* The object that a plain command is on; 0: it is on none, or allocates where nobody knows yet. */
uint64_t fsm_object_of(uint16_t kind, struct slice body);
/* Checks that a command may stand in an entry of this shard. 0, ERR_PROTOCOL, ERR_INVAL. */
int fsm_validate(uint64_t uid, uint16_t kind, struct slice body, struct command_prefix *prefix);
/* What the replica keeps in a heap that passed heap_check() is what it would have written: no call
 * here leaves its bounds or fails an assert because of it. ERR_CORRUPT. */
int fsm_check(const struct heap *heap);
void fsm_header_get(const struct heap *heap, struct fsm_header *out);
void fsm_config(const struct heap *heap, struct consensus_config *out, uint64_t *index);

/* ---- session.c
 * -----------------------------------------------------------------------------------------------------
 */

struct fsm_now {
    uint64_t stamp;   /* effective, of the entry */
    uint64_t version; /* of the command */
};
struct session_ticket {
    struct session_record record; /* as it will be */
    uint64_t seq, digest;
    bool found; /* *result is the stored one: nothing is executed */
};
/* Before executing a sequenced command: 0 (execute, then session_leave; or found), or a code that
 * is the result. Renews. */
int session_enter(struct heap *heap, const struct command_prefix *prefix, struct slice body,
                  uint16_t kind, const struct fsm_now *now, struct session_ticket *ticket,
                  struct command_result *result);
/* Afterwards: keeps the result. Returns a fatal error or 0. */
int session_leave(struct heap *heap, const struct session_ticket *ticket,
                  const struct command_result *result);
int session_open(struct heap *heap, const struct msg_session_open *m, const struct fsm_now *now,
                 uint64_t *id);
int session_keepalive(struct heap *heap, const struct command_prefix *prefix,
                      const struct fsm_now *now);
int session_close(struct heap *heap, uint64_t id);
/* Ends a session unless it was renewed since; ERR_NOTFOUND, ERR_CONFLICT. bounds NULL: nothing of
 * it stays. */
struct tombstone_bounds {
    uint32_t tombstones_max, results_max, keep_ms;
};
int session_expire(struct heap *heap, uint64_t id, uint64_t renewed,
                   const struct tombstone_bounds *bounds, const struct fsm_now *now);
/* The `window` results of a session that exists. */
const uint8_t *session_results(const struct heap *heap, const struct session_record *record);
/* A session and where its next result goes: as heap_map_ahead(). */
void session_ahead(const struct heap *heap, uint64_t id, unsigned step);
/* 0, ERR_SESSION_EXPIRED, or ERR_DENIED (another owner's). */
int session_check(const struct heap *heap, uint64_t id, uint64_t owner);
bool session_owner(const struct heap *heap, uint64_t id, uint64_t *owner); /* false: not known */
/* Looks at a few sessions of a led shard and proposes to end what has expired. */
void session_sweep(struct shard *s);

/* A transaction over several shards is numbered in a session of its home shard. What that session
 * knows of the number: */
enum session_tx {
    SESSION_TX_OPEN,  /* nothing: it may still happen */
    SESSION_TX_KNOWN, /* *stored is how it ended; digest 0: somebody settled that it won't happen */
    SESSION_TX_REFUSED, /* it can't happen any more, or must not: *code says why */
};
/* owner 0: anybody's. Reads only. */
enum session_tx session_tx_look(const struct heap *heap, uint64_t session, uint64_t seq,
                                uint64_t owner, const struct fsm_now *now,
                                struct session_result *stored, int *code);
/* The client's commit is a command of its session: renews, acknowledges. */
void session_tx_renew(struct heap *heap, uint64_t session, uint64_t acked,
                      const struct fsm_now *now);
/* One more (or less) that is prepared: a session doesn't end while there are some. */
void session_tx_count(struct heap *heap, uint64_t session, int delta);
/* Keeps how it ended, if nothing else stands there and the client may still ask. */
void session_tx_keep(struct heap *heap, uint64_t session, uint64_t seq, uint64_t digest,
                     const struct command_result *result);
/* Nobody will ask for it any more, or a tombstone has it. */
bool session_tx_is_over(const struct heap *heap, uint64_t session, uint64_t seq);

/* ---- tx.c
 * -------------------------------------------------------------------------------------------------------
 */

/* CLASS_TX: a coordinator's command. A fatal error or 0. */
int tx_apply(struct heap *heap, uint64_t uid, uint16_t kind, struct slice body,
             const struct fsm_now *now, struct command_result *result);
/* Sequenced: a result or a fatal error. session: the one whose command it is. */
int tx_commit_one(struct heap *heap, struct slice body, uint64_t version,
                  const struct session_record *session, struct command_result *result);
int tx_close(struct heap *heap, struct slice body, const struct fsm_now *now,
             struct command_result *result);
int tx_settle(struct heap *heap, struct slice body, const struct fsm_now *now,
              const struct session_record *session, struct command_result *result);
/* As fsm_work(). */
uint64_t tx_work(uint16_t kind, struct slice body);

/* ---- tombstone.c
 * ---------------------------------------------------------------------------------------------------
 */

/* The session is about to go. Returns a fatal error or 0. */
int tombstone_put(struct heap *heap, const struct session_record *record,
                  const struct tombstone_bounds *bounds, const struct fsm_now *now);
/* Some of those past their time. Returns a fatal error or 0. */
int tombstone_drop_ended(struct heap *heap, const struct fsm_now *now);
bool tombstone_find(const struct heap *heap, uint64_t id, struct tombstone_record *out,
                    const uint8_t **results);
/* What it kept of a number. */
bool tombstone_result(const struct heap *heap, uint64_t session, uint64_t seq,
                      const struct fsm_now *now, struct session_result *out);
/* A command of a session that doesn't exist: 0 with its stored result, ERR_PROTOCOL (the number was
 * another command's), else ERR_SESSION_EXPIRED. */
int tombstone_answer(const struct heap *heap, const struct command_prefix *prefix, uint64_t digest,
                     const struct fsm_now *now, struct command_result *result);
/* ---- lease.c
 * -------------------------------------------------------------------------------------------------------
 */

/* LEASE: slots for a session, noted with it. A result, or a fatal error. */
int lease_take(struct heap *heap, uint64_t session, uint64_t version, uint32_t count,
               uint64_t *lease);
/* The session ends: at most SESSION_LEASES_MAX leases go back. */
int lease_return_all(struct heap *heap, uint64_t session);

/* ---- reclaim.c
 * -----------------------------------------------------------------------------------------------------
 */

/* A leader's: proposes to give back history that nobody may read any more, one bounded step at a
 * time. */
void reclaim_tick(struct shard *s, uint64_t now_ms);
void reclaim_end_of_turn(struct shard *s);

/* ---- catalog.c
 * -----------------------------------------------------------------------------------------------------
 */

/* Result of a command, or (with *fatal) an error that stops the replica. */
/* See fsm_check(). */
bool catalog_is_sound(const struct heap *heap);
int catalog_founded(struct heap *heap, const struct consensus_config *config);
int catalog_heap_create(struct heap *heap, const struct msg_heap_create *m, uint64_t version,
                        uint64_t *id, int *fatal);
int catalog_heap_drop(struct heap *heap, const struct msg_heap_drop *m, uint64_t *id, int *fatal);
int catalog_node_join(struct heap *heap, const struct msg_node_join *m, uint64_t *id, int *fatal);
/* Every shard of every heap; stops when cb returns false. */
struct catalog_place {
    uint64_t uid, heap_id, shard_bytes_max, retention_ms;
    uint32_t number; /* in its heap */
    uint32_t heap_shards;
    uint32_t count;
    uint64_t members[REPLICAS_MAX], founders[REPLICAS_MAX];
};
void catalog_places(const struct heap *meta,
                    bool (*cb)(void *arg, const struct catalog_place *place), void *arg);
int catalog_place_of(const struct heap *meta, uint64_t uid, struct catalog_place *out);
uint64_t catalog_next_uid(const struct heap *meta);
/* Replica ids of the nodes, in order of their numbers; returns the count. */
uint32_t catalog_nodes(const struct heap *meta, uint64_t ids[NODES_MAX]);

/* ---- read_index.c
 * --------------------------------------------------------------------------------------------------
 */

void read_end_of_turn(struct shard *s);
void read_serve(struct shard *s); /* after apply */
void read_refuse(struct shard *s, int err);
void read_tick(struct shard *s, uint64_t now_ms);
/* Asks all voters for their clocks and whether we still lead. */
void read_send_confirm(struct shard *s, uint64_t seq);
void read_on_patience(struct env_timer *timer);
/* Asks all nodes of the meta shard for their clocks, nothing else. */
void read_ask_clocks(struct shard *meta, uint64_t now_ms);
int read_on_confirm(struct replica *r, uint32_t node, struct slice body);
int read_on_confirm_result(struct replica *r, uint32_t node, struct slice body);

/* ---- clock.c
 * -------------------------------------------------------------------------------------------------------
 */

void clock_tick(struct replica *r, uint64_t now_ms);
/* A node's answer to our question of `asked_ms`. */
void clock_on_answer(struct replica *r, uint32_t node, uint64_t asked_ms, uint64_t wall_ms);
/* Whether leadership should stay away from a node, as far as is known here. */
bool clock_is_off(const struct replica *r, uint32_t node);

/* ---- leaders.c
 * -----------------------------------------------------------------------------------------------------
 */

void leaders_tick(struct replica *r, uint64_t now_ms);
/* What a node said of its load, of its end, and, as the meta shard's leader, of where leaders shall
 * be. */
void leaders_on_word(struct replica *r, uint32_t node, uint16_t busy, bool spread, bool stopping);
bool leaders_may_be_on(struct replica *r, uint32_t node); /* it doesn't stop, as far as is known */
uint16_t leaders_busy(const struct replica *r);           /* this node's loop, thousandths */
bool leaders_are_gathered(const struct replica *r);

/* ---- room.c
 * --------------------------------------------------------------------------------------------------------
 */

void room_tick(struct replica *r, uint64_t now_ms);

/* ---- checkpoint.c
 * --------------------------------------------------------------------------------------------------
 */

void checkpoint_want(struct shard *s, bool pressed);
/* Space has come back: no checkpoint waits on because there was none. */
void checkpoint_retry(struct replica *r);
/* Starts the next one that is due and possible. */
void checkpoint_run(struct replica *r);
void checkpoint_tick(struct shard *s, uint64_t now_ms);
void checkpoint_bound(struct replica *r, uint64_t now_ms); /* the log of all shards */
/* A leader's: makes consensus learn what the log released, so that it offers a snapshot instead. */
void checkpoint_heal(struct shard *s);
void checkpoint_refuse(struct shard *s, int err); /* whoever waits for one gets err */
/* Entry heap_index() and the hard state are durable here. */
bool checkpoint_possible(const struct shard *s);

/* ---- transfer.c
 * ----------------------------------------------------------------------------------------------------
 */

/* Fills a SNAPSHOT message. ERR_BUSY: can't now. */
int transfer_fill(struct shard *s, struct consensus_message *m, struct buf *data);
void transfer_install(struct shard *s, const struct consensus_message *m);
void transfer_answer(struct shard *s, uint64_t token, int err, uint16_t kind, struct slice body);
int transfer_serve(struct replica *r, uint32_t node, uint16_t kind, struct slice body,
                   uint16_t *answer_kind, struct buf *out);
void transfer_tick(struct shard *s, uint64_t now_ms);
/* Gives everything back; before the heap goes. */
void transfer_cancel(struct shard *s);
int manifest_decode(struct slice data, struct manifest *out);
int manifest_encode(const struct manifest *m, struct buf *out);

/* ---- membership.c
 * --------------------------------------------------------------------------------------------------
 */

/* Slow part of a leader's tick. */
void membership_tick(struct shard *s, uint64_t now_ms);
/* Hands leadership to the most caught-up voter that was heard lately. ERR_NOTFOUND: there is none.
 */
int membership_hand_over(struct shard *s);
uint64_t membership_heir(struct shard *s); /* who that would be, 0 nobody */

/* ---- log_scan.c -----------------------------------------------------------------------------
 */

/* The commands of an entry, one after another. open: false, it isn't one of commands. */
struct entry_commands {
    struct cursor at;
    uint32_t left;
    uint64_t stamp;
};
bool entry_commands_open(struct entry_commands *c, const struct wal_entry *entry);
bool entry_commands_next(struct entry_commands *c, uint16_t *kind, struct slice *body);
typedef void (*log_scan_cb)(void *arg, uint64_t index, const struct wal_entry *entry);
/* The newest applied entries that the log still has, oldest first: at most SHARD_TRACE_ENTRIES_MAX,
 * and 8 MiB. *from: the first of them. ERR_IO, ERR_CORRUPT: the log can't be read. */
int log_scan(struct shard *shard, uint64_t *from, log_scan_cb cb, void *arg);

#endif
