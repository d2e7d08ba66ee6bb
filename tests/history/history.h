/* What transactions did and saw: lists that only grow, as in Elle (Kingsbury & Alvaro, "Elle:
 * Inferring Isolation Anomalies from Experimental Observations", VLDB 2020).
 *
 * Each value is appended to a key at most once in a history, so that a list that was read names the
 * transactions behind it, in order. Recording is append-only: nothing is ever taken back.
 *
 * thread: one at a time; clients in several threads need a lock around every call. */
#ifndef CAIRN_TESTS_HISTORY_HISTORY_H
#define CAIRN_TESTS_HISTORY_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TXN_NEVER UINT64_MAX /* the end of a transaction that nobody heard of again */
#define TXN_NONE  UINT32_MAX /* no transaction: the history is full */

/* From weak to strong; what was asked for. */
enum txn_isolation { TXN_READ_COMMITTED, TXN_SNAPSHOT, TXN_SERIALIZABLE };

enum txn_status {
    TXN_UNKNOWN, /* running, or its outcome was never learnt */
    TXN_COMMITTED,
    TXN_ABORTED
};

struct txn_op {
    bool is_read;
    uint32_t next;  /* operation of the same transaction; TXN_NONE: the last */
    uint32_t count; /* read: values of the list */
    uint64_t key;
    uint64_t value; /* append: the value; read: where its list starts in txn_history.values */
};

struct txn {
    uint32_t process;
    enum txn_isolation isolation;
    enum txn_status status;
    bool at_older_version;      /* asked to read the past: recency isn't demanded of it */
    uint64_t start, end;        /* real time, any monotonic unit that all processes share */
    uint32_t first_op, last_op; /* TXN_NONE: no operation */
};

struct txn_limits {
    uint32_t txns_max, ops_max; /* below TXN_NONE */
    size_t values_max;          /* of all lists that were read, together */
};

struct txn_history {
    struct txn_limits limits;
    struct txn *txns; /* by id */
    struct txn_op *ops;
    uint64_t *values;
    uint32_t txn_count, op_count;
    size_t value_count;
    uint32_t txn_capacity, op_capacity;
    size_t value_capacity;
    bool full; /* something wasn't recorded; no verdict can be given */
};

/* An empty history. Memory grows by doubling up to the limits; running out of memory ends the test.
 */
void txn_history_init(struct txn_history *h, struct txn_limits limits);
void txn_history_close(struct txn_history *h);

/* A transaction begins: its id, counted from 0, or TXN_NONE when the history is full. Every call
 * below accepts TXN_NONE and then does nothing. `now` is taken before the request leaves. */
uint32_t txn_history_begin(struct txn_history *h, uint32_t process, enum txn_isolation isolation,
                           uint64_t now);
void txn_history_at_older_version(struct txn_history *h, uint32_t id);

/* The next operation of a running transaction, recorded when its result is known; an append before
 * anybody else can see it, so before commit is asked for. values: copied, the whole list as seen,
 * own appends included. False: full (txn_history.full), and the caller should stop. */
bool txn_history_append(struct txn_history *h, uint32_t id, uint64_t key, uint64_t value);
bool txn_history_read(struct txn_history *h, uint32_t id, uint64_t key, const uint64_t *values,
                      uint32_t count);

/* A running transaction ends, once; `now` is taken after the answer came. TXN_UNKNOWN: it may be
 * committed now, later or never. Aborted means known to have had no effect. */
void txn_history_end(struct txn_history *h, uint32_t id, enum txn_status status, uint64_t now);

#endif
