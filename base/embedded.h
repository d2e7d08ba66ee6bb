/* The embedded mode as a table of functions: client/ calls it, embed/ implements it, and neither
 * knows the other (ADR 0006). One directory on this machine, several named heaps, one program.
 *
 * thread: any, for every function here. Blocking ones do the work on the caller's thread: whoever
 * comes first writes and syncs the log for all who wait. */
#ifndef CAIRN_BASE_EMBEDDED_H
#define CAIRN_BASE_EMBEDDED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/list.h"

struct embedded;       /* an open directory */
struct embedded_heap;  /* a heap in it; lives as long as the directory is open */
struct embedded_place; /* where a watch stands */
struct inline_waiter;

enum embedded_op {
    /* Commands: the numbers of enum heap_command_kind (alloc/command.h), and its fields. */
    EMBEDDED_ALLOC = 1,
    EMBEDDED_FREE,
    EMBEDDED_REALLOC,
    EMBEDDED_WRITE,
    EMBEDDED_COMPARE_AND_WRITE,
    EMBEDDED_ADD_U64,
    EMBEDDED_WRITE_IF_VERSION,
    EMBEDDED_ROOT_SET,
    EMBEDDED_ROOT_COMPARE_AND_SET,
    EMBEDDED_ROOT_DELETE,
    EMBEDDED_TYPE_REGISTER,
    EMBEDDED_LEASE,
    EMBEDDED_SET_RETENTION,
    EMBEDDED_RECLAIM,
    EMBEDDED_DEFRAG,
    EMBEDDED_TRIM,
    EMBEDDED_TRANSACT, /* data: a part (alloc/txn.h) */
    EMBEDDED_CLOSE,    /* if_version: readers at this one are kept for `count` milliseconds */
    /* Reads of what is durable. */
    EMBEDDED_READ = 64, /* ptr, offset, out: size bytes; if_version: as of then, 0: newest */
    EMBEDDED_STAT,      /* ptr; if_version: as of then, 0: newest */
    EMBEDDED_ROOT_GET,  /* name */
    /* Lists; bytes: entries as on the wire (docs/protocol.md). count: at most. */
    EMBEDDED_ROOT_LIST,   /* name: after this one. version: of the set of names */
    EMBEDDED_HISTORY,     /* ptr; offset: changes to skip. version: the safepoint */
    EMBEDDED_TYPE_LIST,   /* type: after this one */
    EMBEDDED_OBJECT_LIST, /* offset: slot to begin at; size: 0 all, else those of `type`. value:
                             where to go on, 0 at the end */
    EMBEDDED_LEASE_GET,   /* offset: number of the lease; bytes: pointers. value: whose session's */
    EMBEDDED_VALIDATE, /* data: a part with checks alone; CONFLICT: value, version as TRANSACT's */
    /* if_version: as of then, 0: newest; type: depth; count: bytes at most; name: path; data:
     * starts; expected: known. bytes: objects, then the frontier; value: length of the objects;
     * version: of all of it (alloc/graph.h). */
    EMBEDDED_FETCH = 73,
    EMBEDDED_CLOCK, /* version: the newest one */
    /* submit() alone; out: a struct embedded_watch. Finished when there are changes, or its time is
     * over. bytes: changes as in WATCH_RESULT; value: the token to go on from. */
    EMBEDDED_WATCH,
};

/* One watch: caller's memory, zeroed before the first call, borrowed until a call is finished, and
 * used for one at a time. */
struct embedded_watch {
    uint32_t what, from, type, max, bytes_max; /* as in WATCH (docs/protocol.md) */
    uint32_t wait_ms;
    bool values;
    uint64_t ptr, token, at;
    struct slice name;
    struct embedded_place *place; /* embed's, until watch_close() */
    char text[256];               /* why a call has failed */
};

/* What is asked for: op and what it needs, the rest 0. */
struct embedded_request {
    enum embedded_op op;
    uint32_t type, count;
    uint64_t session;
    uint64_t ptr, expected_ptr;
    uint64_t offset, size, delta, if_version;
    struct slice data, expected, name;
    void *out;
};

/* Caller's memory: zero it, set request (it and what it points at are borrowed until run() or
 * submit() returns; `out` until the call is finished), hand it over. Thousands may be in flight:
 * what a call needs no more once it is encoded isn't in it. */
struct embedded_call {
    const struct embedded_request *request;
    /* submit(): called once, by whichever thread finished the call and with the directory's lock
     * held: takes the outcome along, and calls nothing of the table. False: the call isn't touched
     * any more (it may be gone). NULL stands for true. */
    bool (*settled)(struct embedded_call *call);
    /* submit(): called once if settled() said so, on the library thread, with no lock held. */
    void (*done)(struct embedded_call *call);

    /* embed's */
    struct list link;
    struct embedded_heap *heap;   /* of a submitted one */
    struct inline_waiter *waiter; /* those who sleep until it is finished */
    void *batch;                  /* where it is encoded */
    void *copy;                   /* of the request, where nothing is encoded */
    uint32_t ordinal;             /* in its entry */
    bool finished;

    /* The outcome: 0 or ERR_*, and why. INDOUBT: a failure of the disk, or the deadline, came while
     * the change was being written; it may or may not be there after the next open. */
    int err;
    const char *text;     /* static, or the directory's; NULL: the code says it all */
    uint64_t value;       /* ALLOC, ROOT_GET: pointer; ADD_U64: the value before; as heap_outcome;
                             SNAPSHOT_TOO_OLD of a read: the heap's retention, version: its oldest */
    uint64_t version;     /* commands: of the change; READ, STAT, ROOT_GET: of what was read */
    uint64_t object_size; /* STAT */
    uint32_t object_type, object_flags;
    bool more;        /* lists */
    struct buf bytes; /* lists; given (free with buf_close) */
};

/* Something to run on the library thread, with no lock held; caller's memory until then. */
struct embedded_post {
    void (*run)(struct embedded_post *post);
    struct list link;
};

struct embedded_ops {
    /* url: "file://PATH" with "?mode=auto|disk|pmem" and other settings (docs/embedded.md).
     * ERR_LOCKED (in use), ERR_INVAL, ERR_CORRUPT, ERR_VERSION, ERR_UNSUPPORTED, ERR_DISKFULL ...;
     * the text says what and where. */
    int (*open)(const char *url, struct embedded **out, struct err_text *e);
    /* Finishes what is pending, takes a checkpoint, closes everything. In a child of the process
     * that opened it: does nothing. */
    void (*close)(struct embedded *db);
    /* In one step: it is there with its retention (0: no history), or isn't there.
     * ERR_EXISTS, ERR_INVAL, ERR_LIMIT, ERR_DISKFULL, ERR_NOMEM, ERR_IO; TIMEOUT: for timeout_ms
     * the log had no place for it, and nothing has happened. */
    int (*heap_create)(struct embedded *db, struct slice name, uint64_t bytes_max,
                       uint64_t retention_ms, uint32_t timeout_ms, struct err_text *e);
    int (*heap_drop)(struct embedded *db, struct slice name, uint32_t timeout_ms,
                     struct err_text *e);
    int (*heap_open)(struct embedded *db, struct slice name, struct embedded_heap **out,
                     struct err_text *e);
    /* Returns when the call is finished. timeout_ms: how long it waits for others at most. */
    void (*run)(struct embedded_heap *heap, struct embedded_call *call, uint32_t timeout_ms);
    /* Doesn't wait. What is submitted gathers until somebody asks for it with wait() or want(), or
     * there is enough for a write; else the library thread goes on with it after a moment. */
    void (*submit)(struct embedded_heap *heap, struct embedded_call *call);
    /* Until a submitted call is finished: without a limit (UINT32_MAX) the caller's thread works as
     * in run(). False: the time has passed. */
    bool (*wait)(struct embedded *db, struct embedded_call *call, uint32_t timeout_ms);
    /* Somebody wants the outcome, but not to wait: the library thread goes on with it now. */
    void (*want)(struct embedded *db, struct embedded_call *call);
    /* If one of its calls waits, that is finished with CANCELED. No call may follow. */
    void (*watch_close)(struct embedded *db, struct embedded_watch *watch);
    /* Tells a heap from all others, of any directory, also later ones of its name. */
    uint64_t (*heap_mark)(const struct embedded_heap *heap);
    void (*post)(struct embedded *db, struct embedded_post *post);
    bool (*on_library_thread)(const struct embedded *db);
    /* True in a child of the process that opened it: nothing works there. */
    bool (*is_foreign)(const struct embedded *db);
    /* One JSON object about the directory and its heaps. */
    int (*status)(struct embedded *db, struct buf *json);
};

#endif
