/* What a user's command does to a heap: one structure, applied by the replicas' state machine
 * (replica/fsm.c, which decodes it from a message) and by the embedded mode (embed/, from its log).
 * A pure function of the arena and the command. */
#ifndef CAIRN_ALLOC_COMMAND_H
#define CAIRN_ALLOC_COMMAND_H

#include "alloc/heap.h"

enum heap_command_kind {
    HEAP_COMMAND_ALLOC = 1, /* size, type, data; with session and ptr: at a leased pointer */
    HEAP_COMMAND_FREE,
    HEAP_COMMAND_REALLOC, /* size */
    HEAP_COMMAND_WRITE,
    HEAP_COMMAND_COMPARE_AND_WRITE,    /* expected, data: of one length */
    HEAP_COMMAND_ADD_U64,              /* delta */
    HEAP_COMMAND_WRITE_IF_VERSION,     /* if_version */
    HEAP_COMMAND_ROOT_SET,             /* name, ptr */
    HEAP_COMMAND_ROOT_COMPARE_AND_SET, /* name, expected_ptr (0: must not exist), ptr (0: delete) */
    HEAP_COMMAND_ROOT_DELETE,          /* name */
    HEAP_COMMAND_TYPE_REGISTER,        /* type: number, data: as heap_type_encode() makes it */
    HEAP_COMMAND_LEASE,                /* session, count */
    HEAP_COMMAND_SET_RETENTION,        /* size: milliseconds */
    HEAP_COMMAND_RECLAIM,              /* safepoint: if_version; count: records */
    HEAP_COMMAND_DEFRAG,               /* count: bytes */
    HEAP_COMMAND_TRIM,                 /* size: bytes */
    HEAP_COMMAND_TRANSACT,             /* data: a part (alloc/txn.h) */
    HEAP_COMMAND_CLOSE, /* if_version: time; count: milliseconds to keep it. SNAPSHOT_TOO_OLD: it
                           is kept from a later time on */
    HEAP_COMMAND_KINDS
};

struct heap_command {
    enum heap_command_kind kind;
    uint32_t type;
    uint32_t count;
    uint64_t session;
    uint64_t ptr, expected_ptr;
    uint64_t offset, size, delta, if_version;
    struct slice data, expected, name; /* borrowed for the call */
};

struct heap_outcome {
    /* 0 or an ERR_* of the command itself. */
    int code;
    /* CONFLICT: of the object or root as it is (TRANSACT: of what conflicts). Else the caller's
     * business. */
    uint64_t version;
    /* ALLOC: pointer. ADD_U64: the value before. ROOT_COMPARE_AND_SET with CONFLICT: where it
     * points. ROOT_DELETE: where it pointed. LEASE: number of the lease. RECLAIM: records left.
     * DEFRAG: bytes moved << 1 | is there more. TRIM: bytes given back. TRANSACT with CONFLICT:
     * what conflicts (struct txn_conflict). TX_UNDECIDED: the pointer, 0 a root. */
    uint64_t value;
};

/* Returns a fatal error (NOMEM, CORRUPT: the replica must stop), or 0 with *out. */
int heap_apply(struct heap *heap, uint64_t version, const struct heap_command *command,
               struct heap_outcome *out);

/* Roots. ERR_NOTFOUND. */
struct root_record {
    uint64_t ptr;
    uint64_t version;
};
bool heap_root_name_is_valid(struct slice name);
int heap_root_get(const struct heap *heap, struct slice name, struct root_record *out);

#endif
