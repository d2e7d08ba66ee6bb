/* Every bound of the system in one place. A bound is answered with an error that names it, never
 * exceeded. */
#ifndef CAIRN_BASE_LIMITS_H
#define CAIRN_BASE_LIMITS_H

#define NODES_MAX           9    /* nodes of a cluster */
#define REPLICAS_MAX        5    /* voters of a shard */
#define SHARDS_PER_HEAP_MAX 256  /* shards of one heap (the pointer has room for 4096) */
#define SHARDS_PER_NODE_MAX 1024 /* replicas on one node */
#define HEAPS_MAX           256  /* heaps of a cluster */
#define SHARD_BYTES_MIN     ((uint64_t)1 << 20) /* limit of one shard */
#define SHARD_BYTES_MAX     ((uint64_t)1 << 40)
#define HEAPS_BYTES_MAX                                                                            \
    ((uint64_t)1 << 46)        /* limits of all heaps together: address space of a node */
#define HEAP_NAME_BYTES_MAX 63 /* [a-z0-9][a-z0-9_-]* */
#define NODE_NAME_BYTES_MAX 31 /* [a-z0-9][a-z0-9-]* */
#define USER_NAME_BYTES_MAX 63
#define ADDRESS_BYTES_MAX   127         /* "host:port" */
#define ROOT_NAME_BYTES_MAX 255         /* any bytes but NUL */
#define OBJECT_BYTES_MAX    (1u << 30)  /* one object */
#define TYPE_BYTES_MAX      (16u << 10) /* an encoded type */
#define WRITE_BYTES_MAX                                                                            \
    (512u << 10) /* payload of one write, compare-and-write or initialised alloc */
#define READ_BYTES_MAX                                                                             \
    (512u << 10) /* payload of one read answer; the SDK reads larger ranges in pieces */
#define COMMAND_BYTES_MAX                                                                          \
    (WRITE_BYTES_MAX * 2 + 4096) /* an encoded command: compare-and-write carries two payloads */
#define BATCH_BYTES_CLOSE                                                                          \
    (256u << 10) /* a batch takes no further command once it has this many bytes */
#define ENTRY_BYTES_MAX                                                                            \
    (COMMAND_BYTES_MAX + BATCH_BYTES_CLOSE + 64) /* a Raft entry = one batch                       \
                                                  */
#define FRAME_BYTES_MAX        (4u << 20) /* body of a frame on the client lane and the Raft lane */
#define BULK_CHUNK_BYTES_MAX   (1u << 20) /* pages in one bulk frame */
#define SESSIONS_PER_SHARD_MAX 4096
#define SESSION_WINDOW_MAX     1024         /* commands in flight of one session on one shard */
#define SESSION_LEASES_MAX     16           /* leases of slots of one session on one shard */
#define LEASE_SLOTS_MAX        256u         /* slots of one lease */
#define TX_PARTICIPANTS_MAX    16           /* shards of one transaction */
#define TX_ITEMS_MAX           1024         /* checks and operations of one transaction */
#define TX_BYTES_MAX           (512u << 10) /* its encoded parts, all shards together */
#define TX_PART_BYTES_MAX      (120u << 10) /* one shard's, when there are several: it is kept */
#define TX_PREPARED_MAX        4096         /* undecided transactions of a shard */
#define TX_RECORDS_MAX         65536        /* transactions that a shard remembers */
#define TX_DEADLINE_MS         5000         /* what the SDK gives a commit */
#define TX_DEADLINE_MS_MAX     60000        /* the furthest that a shard accepts */
#define TX_KEEP_MS             10000        /* history kept for readers at a time, at least */
#define TX_HOLD_MS_MAX         50           /* a shard takes no new writes for so long at most */
#define TX_COMMITS_PER_NODE    4096         /* that a node coordinates at a time; beyond: BUSY */
#define FETCH_OBJECTS_MAX      4096         /* objects in one answer of FETCH */
#define FETCH_BYTES_MAX        (2u << 20)   /* bytes of the objects in one answer of FETCH */
#define FETCH_LIST_BYTES_MAX   (256u << 10) /* pointers with which FETCH begins, or that it knows */
#define FETCH_PATH_BYTES_MAX   255          /* names of fields to follow */
#define WATCH_WAIT_MS_MAX      30000        /* a WATCH is answered after so long, also empty */
#define WATCH_CHANGES_MAX      1024         /* in one answer of WATCH */
#define WATCH_BYTES_MAX        (256u << 10) /* no further change begins behind it */
#define WATCH_VALUE_BYTES_MAX  4096         /* of one change, before or after it */
#define WATCHES_PER_SHARD_MAX  1024u        /* that wait at a time; beyond: LIMIT */
#define WATCHES_PER_CONN_MAX   1024u
#define WATCHES_PER_USER_MAX   4096u                       /* of one user on one node */
#define RETENTION_MS_MAX       (366ull * 24 * 3600 * 1000) /* of a heap's history */
#define CONNECTIONS_MAX        4096                        /* accepted connections of a node */
#define HANDSHAKES_MAX         256                         /* of them not yet authenticated */
#define CONN_QUEUE_BYTES_MAX                                                                       \
    (64u << 20)                     /* unsent bytes of one connection; beyond: closed as too slow */
#define REQUESTS_PER_CONN_MAX 16384 /* unanswered requests of one connection; beyond: BUSY */
#define ENDPOINTS_MAX         16

#endif
