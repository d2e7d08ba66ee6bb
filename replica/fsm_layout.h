/* What the replica keeps in the arena beside objects: the fixed header of the state machine,
 * session records, the catalogue and the node table. All little-endian, all padding zero; only
 * fsm.c, fsm_check.c, session.c, lease.c, tombstone.c and catalog.c know these offsets. A change of
 * anything here is a new FSM_FORMAT (rules E16). */
#ifndef CAIRN_REPLICA_FSM_LAYOUT_H
#define CAIRN_REPLICA_FSM_LAYOUT_H

#include "alloc/heap.h"
#include "base/assert.h"

#define FSM_FORMAT 4u

/* ---- heap_fsm(): one per shard
 * ------------------------------------------------------------------------------------- */

struct fsm_server {
    uint64_t id;
    uint64_t role;
};
struct fsm_header {
    uint32_t format; /* 0: nothing was applied yet */
    uint32_t config_count;
    uint64_t config_index; /* of the entry that held the configuration below */
    uint64_t term;         /* of the newest entry with a stamp ... */
    uint64_t term_stamp;   /* ... and the stamp of the first such entry: every session counts as
                              renewed then */
    uint64_t stamp;        /* of the newest entry, never less than one before */
    uint64_t session_count;
    struct fsm_server servers[NODES_MAX * 2]; /* the newest applied configuration */
    uint64_t tombstone_count;
    uint64_t tombstone_results; /* of all of them */
};
static_assert(sizeof(struct fsm_header) == 64 + 16 * NODES_MAX * 2, "no padding");
static_assert(sizeof(struct fsm_header) <= HEAP_FSM_BYTES, "fits");

/* ---- HEAP_MAP_SESSIONS
 * ---------------------------------------------------------------------------------------------- */

/* Keys: 's' + id, big-endian -> session_record and `window` results; 'n' + owner + nonce -> id;
 * 't' + until + id, both big-endian -> tombstone_record and `count` results; 'u' + id -> until;
 * 'l' + session id + number of a lease, both big-endian -> nothing but a zero byte. */
#define SESSION_KEY_BYTES       9u
#define SESSION_NONCE_KEY_BYTES 17u
#define SESSION_LEASE_KEY_BYTES 17u

struct session_record {
    uint64_t id;
    uint64_t nonce;
    uint64_t owner;
    uint64_t opened; /* stamp */
    uint64_t
        renewed;    /* stamp of the newest entry with a command of this session: the renewal mark */
    uint64_t acked; /* the client has all results up to this number */
    uint32_t lease_ms;
    uint32_t window;
    uint32_t prepared; /* transactions of its numbers that are undecided here: it can't end */
    uint32_t kept;     /* places of results from which on there is none that isn't acknowledged */
};
static_assert(sizeof(struct session_record) == 64, "no padding");

/* Lies in the first place whose number is acknowledged, so that a session with few commands in
 * flight has all it needs in a line or two behind its record. No number that isn't acknowledged is
 * there twice. */
struct session_result {
    uint64_t seq; /* 0: none */
    uint64_t digest;
    uint64_t version;
    uint64_t value;
    uint32_t code; /* positive ERR_* number */
    uint32_t reserved;
};
static_assert(sizeof(struct session_result) == 40, "no padding");
static_assert(sizeof(struct session_record) + SESSION_WINDOW_MAX * sizeof(struct session_result) <=
                  MAP_VALUE_BYTES_MAX,
              "a session is one value");

#define TOMBSTONE_KEY_BYTES    17u
#define TOMBSTONE_ID_KEY_BYTES 9u

/* A session that expired, and its results that weren't acknowledged, in the order of their places.
 */
struct tombstone_record {
    uint64_t id; /* the session's */
    uint64_t owner;
    uint64_t until; /* stamp: from then on it is as if it weren't there, and goes with the next
                       session that is opened or ends */
    uint32_t count;
    uint32_t reserved;
};
static_assert(sizeof(struct tombstone_record) == 32, "no padding");
static_assert(sizeof(struct tombstone_record) +
                      SESSION_WINDOW_MAX * sizeof(struct session_result) <=
                  MAP_VALUE_BYTES_MAX,
              "a tombstone is one value");
/* What a leader asks for with SESSION_BURY; 320 KiB of results at most. Beyond, the oldest go, and
 * their late retries are INDOUBT. */
#define TOMBSTONES_MAX        256u
#define TOMBSTONE_RESULTS_MAX 8192u
#define TOMBSTONE_KEEP_MS     600000u
static_assert(TOMBSTONE_RESULTS_MAX >= SESSION_WINDOW_MAX, "any session fits");

/* ---- HEAP_MAP_CATALOG (meta shard): name -> catalog_record and shard_count catalog_member_records
 * ------------------- */

struct catalog_record {
    uint64_t heap_id;
    uint64_t shard_bytes_max;
    uint64_t created;      /* version */
    uint64_t retention_ms; /* that its shards are born with; later it is each shard's own */
    uint32_t shard_count;
    uint32_t replicas;
};
static_assert(sizeof(struct catalog_record) == 40, "no padding");

struct catalog_shard_record {
    uint64_t uid;
    uint32_t count;
    uint32_t reserved;
    uint64_t members[REPLICAS_MAX];  /* as wanted now; the first is the preferred leader */
    uint64_t founders[REPLICAS_MAX]; /* at birth: they write the first entry, others are filled */
};
static_assert(sizeof(struct catalog_shard_record) == 16 + 16 * REPLICAS_MAX, "no padding");
static_assert(sizeof(struct catalog_record) +
                      SHARDS_PER_HEAP_MAX * sizeof(struct catalog_shard_record) <=
                  MAP_VALUE_BYTES_MAX,
              "a heap is one value");

/* ---- HEAP_MAP_META (meta shard): "counters" -> meta_counters, "node/NNN" -> node_record
 * ------------------------------ */

struct meta_counters {
    uint64_t next_uid;
    uint64_t next_heap_id;
};
static_assert(sizeof(struct meta_counters) == 16, "no padding");

struct node_record {
    uint64_t replica_id;
    uint64_t node_uid; /* 0: a founding member that never changed its identity */
    uint32_t node;
    uint32_t reserved;
};
static_assert(sizeof(struct node_record) == 24, "no padding");

/* ---- a Raft entry of type ENTRY_COMMAND
 * ----------------------------------------------------------------------------- */

#define ENTRY_FORMAT               1u
#define ENTRY_HEADER_BYTES         16u /* format u16, flags u16 (0), count u32, stamp u64 (HLC) */
#define ENTRY_COMMAND_HEADER_BYTES 8u  /* kind u16, 0 u16, length u32; then the body */

#endif
