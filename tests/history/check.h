/* Which anomalies a history of transactions shows (history.h), and whether its levels allow them.
 *
 * As in Elle (Kingsbury & Alvaro, VLDB 2020): the longest list that was seen of a key is its
 * version order; from it follow write-write, write-read and read-write (anti-dependency) edges
 * between committed transactions, and every cycle of edges is an anomaly of Adya, Liskov & O'Neil
 * ("Generalized Isolation Level Definitions", ICDE 2000). Three rules of our own:
 *
 * - A transaction of unknown outcome counts as committed when another one that counts saw a value
 *   of it. What aborted transactions read is not judged.
 * - A committed append that no list shows comes after the longest list of its key: else the list
 *   would show it. So a lost update is a cycle as soon as somebody reads the key afterwards.
 * - Levels mix. Each transaction is held to the weaker of what it asked for and of what the caller
 *   demands: a serializable one has one place in the order; a snapshot one has two, its reads
 * before its commit, so a cycle is allowed exactly if it enters and leaves a snapshot transaction
 * by read-write edges (write skew; Fekete et al., "Making Snapshot Isolation Serializable", TODS
 *   2005), and none of its read-write edges counts for real time (causal reverse); of a read
 * committed one the read-write edges count for nothing. */
#ifndef CAIRN_TESTS_HISTORY_CHECK_H
#define CAIRN_TESTS_HISTORY_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "history/history.h"

/* The strongest promise to check; TXN_LEVEL_STRICT is serializable and real-time order. */
enum txn_level {
    TXN_LEVEL_READ_COMMITTED,
    TXN_LEVEL_SNAPSHOT,
    TXN_LEVEL_SERIALIZABLE,
    TXN_LEVEL_STRICT
};

/*  name                what was seen                                              allowed at
 *  garbage             a value that nobody appended                               -
 *  duplicate append    a value twice in a list                                    -
 *  incompatible order  two lists of a key, neither a prefix of the other          -
 *  lost append         committed, in no list, though a transaction that began     read committed
 * (1) after its end read the key internal            own appends missing, or seen before they were
 * made         - G1a                 a value of an aborted transaction                          -
 *  G1b                 a list that ends in the middle of another transaction      -
 *  G0                  a cycle of write-write edges                               -
 *  G1c                 ... and write-read edges                                   -
 *  G-single            ... and one read-write edge (read skew, lost update)       read committed
 *  G-nonadjacent       ... and several, never two in a row (long fork)            read committed
 *  G2                  ... two in a row (write skew)                              read committed,
 *                                                                                 snapshot
 *  real time           a cycle with real-time edges: not strictly serializable    all but strict
 *
 *  (1) a read-modify-write at read committed may overwrite it; so, if one appended to that key. Of
 *      the stronger levels it is demanded that reads with no older version asked for don't miss
 *      for ever what had ended before they began. */
enum txn_anomaly {
    TXN_GARBAGE,
    TXN_DUPLICATE,
    TXN_INCOMPATIBLE,
    TXN_LOST,
    TXN_INTERNAL,
    TXN_G1A,
    TXN_G1B,
    TXN_G0,
    TXN_G1C,
    TXN_G_SINGLE,
    TXN_G_NONADJACENT,
    TXN_G2,
    TXN_REAL_TIME,
    TXN_ANOMALY_COUNT
};

#define TXN_FINDINGS_MAX 32
#define TXN_TEXT_MAX     512

enum txn_outcome {
    TXN_OK,        /* nothing that isn't allowed */
    TXN_VIOLATION, /* something that isn't allowed */
    TXN_NO_VERDICT /* nothing was committed, no committed read, or the history overflowed */
};

struct txn_finding {
    enum txn_anomaly anomaly;
    bool allowed;
    char text[TXN_TEXT_MAX]; /* "G-single: T3(p1) -rw(k7)-> T5(p2) -ww(k7)-> T3(p1)" */
};

struct txn_verdict {
    enum txn_outcome outcome;
    uint32_t found[TXN_ANOMALY_COUNT];     /* allowed or not */
    uint32_t forbidden[TXN_ANOMALY_COUNT]; /* not allowed */
    uint32_t counted;                      /* transactions that count as committed */
    uint32_t edges;                        /* of the dependency graph, real time included */
    uint32_t findings;                     /* the first ones, at most TXN_FINDINGS_MAX */
    struct txn_finding finding[TXN_FINDINGS_MAX];
};

const char *txn_anomaly_name(enum txn_anomaly anomaly);

/* Judges a history. Transactions that still run count as unknown. Of each strongly connected set of
 * transactions one cycle is reported, a shortest one: of the weakest class that is forbidden, else
 * of the weakest. In a set of many thousand the search is cut short: its cycle may be longer, and a
 * G-single be called G-nonadjacent, which the same levels forbid. Time and memory are linear in the
 * history as long as there are no cycles. Two appends of one value to one key break the contract of
 * history.h and end the test. */
void txn_check(const struct txn_history *h, enum txn_level level, struct txn_verdict *out);

#endif
