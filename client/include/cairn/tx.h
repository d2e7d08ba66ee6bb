/* Cairn: transactions. Several objects and roots, on any shards of a heap (or of two), change
 * together or not at all; readers see all of it or nothing (docs/transactions.md).
 *
 * A transaction keeps in memory what it has read (with versions) and what it wants to write; the
 * cluster learns of it at cairn_tx_commit(), which validates and applies it. There are no locks to
 * wait for: who comes second gets CAIRN_E_CONFLICT. cairn_tx_run() does the trying again.
 *
 * Threads: one thread at a time per transaction. Lifetime: the heap outlives its transactions.
 * Limits (answered with TOOBIG or LIMIT by the call that meets them): 1024 checks and operations,
 * 512 KiB encoded (120 KiB on each shard when there are several), 16 shards.
 */
#ifndef CAIRN_TX_H
#define CAIRN_TX_H

#include <cairn/cairn.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cairn_tx cairn_tx;

enum cairn_isolation {
    /* As if transactions ran one after another, in an order that agrees with real time. */
    CAIRN_SERIALIZABLE = 0,
    /* All reads are as of one version, which the first of them finds (BUSY: it could not); what it
     * changes must not have been changed since. Lasts as long as history is kept: 10 s, or the
     * heap's retention. SNAPSHOT_TOO_OLD */
    CAIRN_SNAPSHOT = 1,
    /* Each read sees what is committed; nothing is validated but cairn_tx_compare(). */
    CAIRN_READ_COMMITTED = 2
};

typedef struct cairn_tx_opts {
    size_t struct_size;   /* set by cairn_tx_opts_init() */
    uint32_t isolation;   /* enum cairn_isolation; default CAIRN_SERIALIZABLE */
    uint32_t deadline_ms; /* of the whole transaction, cairn_tx_run()'s retries included; default:
                             the client's timeout_ms. TIMEOUT */
    uint64_t read_at;     /* a version: read-only, as of then; default 0. SNAPSHOT_TOO_OLD */
    uint32_t read_only;   /* non-zero: writes are INVAL, and nothing is prepared anywhere */
    uint32_t items_max;   /* checks and operations, 1..1024; default 1024 */
    uint32_t bytes_max;   /* encoded, 1..512 KiB; default 512 KiB */
} cairn_tx_opts;
CAIRN_API void cairn_tx_opts_init(cairn_tx_opts *opts, size_t struct_size);

/* No round trip. opts NULL: defaults. *tx is given (ends with cairn_tx_commit, cairn_tx_abort or a
 * future of the former). */
CAIRN_API int cairn_tx_begin(cairn_heap *heap, const cairn_tx_opts *opts, cairn_tx **tx);
/* Another heap of the same client in the same transaction: *part is for calls on it, and ends with
 * tx. Not with a directory of this machine: UNSUPPORTED. At the snapshot level before the first
 * read: INVAL. */
CAIRN_API int cairn_tx_join(cairn_tx *tx, cairn_heap *heap, cairn_tx **part);

/* The pointer is final at once, and may be stored in other objects of the transaction; after an
 * abort it is soon STALE, for ever. A round trip only when the shard's lease of slots has run out.
 */
CAIRN_API int cairn_tx_alloc(cairn_tx *tx, uint64_t bytes, uint32_t type, cairn_ptr *ptr);
/* The same on the shard of `near`, so that the transaction has fewer shards. */
CAIRN_API int cairn_tx_alloc_near(cairn_tx *tx, cairn_ptr near_to, uint64_t bytes, uint32_t type,
                                  cairn_ptr *ptr);
CAIRN_API int cairn_tx_free(cairn_tx *tx, cairn_ptr ptr);
/* As the transaction has left it. STALE, RANGE; NOT_YET: promised to somebody, not allocated yet.
 */
CAIRN_API int cairn_tx_read(cairn_tx *tx, cairn_ptr ptr, uint64_t offset, void *data, size_t len);
CAIRN_API int cairn_tx_stat(cairn_tx *tx, cairn_ptr ptr, cairn_object *object);
/* Bytes are copied. */
CAIRN_API int cairn_tx_write(cairn_tx *tx, cairn_ptr ptr, uint64_t offset, const void *data,
                             size_t len);
/* The bytes must be these when the transaction commits, else CONFLICT; no round trip now. Of this
 * transaction's own writes: compared at once. */
CAIRN_API int cairn_tx_compare(cairn_tx *tx, cairn_ptr ptr, uint64_t offset, const void *expected,
                               size_t len);
/* The object's version must be this one when the transaction commits; of one that was read: at
 * once.
 */
CAIRN_API int cairn_tx_compare_version(cairn_tx *tx, cairn_ptr ptr, uint64_t version);
CAIRN_API int cairn_tx_root_get(cairn_tx *tx, const char *name, cairn_ptr *ptr); /* NOTFOUND */
/* ptr CAIRN_NULL: deletes it. */
CAIRN_API int cairn_tx_root_set(cairn_tx *tx, const char *name, cairn_ptr ptr);
/* All roots as the transaction has left them, shard by shard; validated as a set (no phantoms). */
CAIRN_API int cairn_tx_root_list(cairn_tx *tx, cairn_root_cb cb, void *arg);

/* 0: committed, on every shard, for ever; *version (may be NULL): of everything it changed.
 * CONFLICT: nothing happened; cairn_errormsg() says on what. INDOUBT: ask cairn_tx_outcome().
 * TX_TOO_LATE, TOOBIG, LIMIT, NOSPACE, STALE, RANGE, DENIED: nothing happened. tx ends in any case.
 */
CAIRN_API int cairn_tx_commit(cairn_tx *tx, uint64_t *version);
/* Ends tx in any case. cairn_future_get_u64(): the version. One that only read is sent like one
 * that writes. Pointers of one that fails go stale when the future is freed. */
CAIRN_API int cairn_tx_commit_async(cairn_tx *tx, cairn_future **future);
CAIRN_API void cairn_tx_abort(cairn_tx *tx); /* no round trip; NULL is allowed */

/* After CONFLICT: the pointer that conflicted, CAIRN_NULL if it was a root. Of the calling thread's
 * last cairn_tx_commit() or cairn_tx_run(). */
CAIRN_API cairn_ptr cairn_tx_conflict(void);

/* Runs fn in a transaction and commits it; again, in turn with others who want the same object or
 * else with backoff and jitter, while the outcome is CONFLICT, TX_TOO_LATE, TX_ABORTED or
 * TX_UNDECIDED, until the deadline. fn returns 0 to commit, else it is aborted and that is returned
 * (but for those, which try again). fn may run many times. One that only read, in vain, reads as of
 * one version the next time, which steady writers don't disturb (BUSY: none could be found until
 * the deadline). An unknown outcome is settled by itself, until the deadline; then INDOUBT. */
typedef int (*cairn_tx_fn)(cairn_tx *tx, void *arg);
CAIRN_API int cairn_tx_run(cairn_heap *heap, cairn_tx_fn fn, void *arg);
CAIRN_API int cairn_tx_run_opts(cairn_heap *heap, const cairn_tx_opts *opts, cairn_tx_fn fn,
                                void *arg);

/* Names a commit, for settling what became of it: fixed by cairn_tx_id_of(), which draws the
 * number, so that it can be stored before cairn_tx_commit() is called. */
typedef struct cairn_tx_id {
    uint64_t words[4]; /* home shard's uid, session, number, deadline */
} cairn_tx_id;
/* Ids and outcomes are a cluster's: UNSUPPORTED in a directory of this machine, where
 * cairn_tx_commit() tells. */
#define CAIRN_TX_ID_TEXT_BYTES 72
CAIRN_API int cairn_tx_id_of(cairn_tx *tx, cairn_tx_id *id);
CAIRN_API void cairn_tx_id_format(const cairn_tx_id *id, char *text, size_t size);
CAIRN_API int cairn_tx_id_parse(const char *text, cairn_tx_id *out);
enum cairn_tx_state {
    CAIRN_TX_UNKNOWN = 0, /* nobody knows any more: the session is gone */
    CAIRN_TX_COMMITTED = 1,
    CAIRN_TX_ABORTED = 2 /* and never will be committed: asking has made sure */
};
/* *version (may be NULL): of the commit. Waits for a decision. */
CAIRN_API int cairn_tx_outcome(cairn_client *client, const cairn_tx_id *id, uint32_t *state,
                               uint64_t *version);

/* What the transaction has read and wants to write, to go on with it in another process.
 * UNSUPPORTED when it has allocated: leases don't outlive their session. *bytes is given (free with
 * cairn_json_free). tx stays as it is. */
CAIRN_API int cairn_tx_save(cairn_tx *tx, char **bytes, size_t *len);
CAIRN_API int cairn_tx_load(cairn_heap *heap, const char *bytes, size_t len, cairn_tx **tx);

/* ---- pointers, in one step: one transaction each, retried like cairn_tx_run() -----------------
 */

/* The pointer at (owner, offset) becomes `desired` if it is `expected`, and `desired` is an object
 * (or null). CONFLICT, STALE. */
CAIRN_API int cairn_compare_and_link(cairn_heap *heap, cairn_ptr owner, uint64_t offset,
                                     cairn_ptr expected, cairn_ptr desired);
/* Exchanges two pointers, wherever they are. */
CAIRN_API int cairn_ptr_swap(cairn_heap *heap, cairn_ptr a, uint64_t a_offset, cairn_ptr b,
                             uint64_t b_offset);
/* Moves the first node of one owner's list to another's: the pointer at `from` gets the node's next
 * (at next_offset in the node), the node's next gets the pointer at `to`, which gets the node.
 * *node (may be NULL): the node. NOTFOUND: the pointer at `from` is null. */
CAIRN_API int cairn_ptr_move(cairn_heap *heap, cairn_ptr from, uint64_t from_offset, cairn_ptr to,
                             uint64_t to_offset, uint64_t next_offset, cairn_ptr *node);
/* Allocates, fills and links into (owner, offset), or does nothing. *ptr: the new object. With
 * next_offset < bytes the pointer that stood there goes into the new object at next_offset;
 * UINT64_MAX: it must be null (CONFLICT). */
CAIRN_API int cairn_alloc_into(cairn_heap *heap, cairn_ptr owner, uint64_t offset, uint64_t bytes,
                               uint32_t type, const void *init, size_t init_bytes,
                               uint64_t next_offset, cairn_ptr *ptr);

#ifdef __cplusplus
}
#endif

#endif
