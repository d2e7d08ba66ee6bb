/* Transactions in the arena of one shard: what a participant is asked to check and to do, and what
 * it remembers (ADR 0007). All of it is apply code: a pure function of arena and arguments.
 *
 *                 PREPARE, valid                    COMMIT
 *     NONE ----------------------> PREPARED --------------------> COMMITTED ---FORGET---> NONE
 *       \                              \
 *        \ PREPARE invalid, REFUSE      \ ABORT
 *         `---------> REFUSED <----------'    (only while clock <= deadline; later NONE says it)
 *                        `---- clock > deadline ----> NONE
 *
 * A record is REFUSED only until the deadline, since a later PREPARE is refused by the clock. A
 * COMMITTED one goes by FORGET alone, and not before the deadline, so that a late copy of its
 * PREPARE never finds an empty place (rules X2, X4, X8). */
#ifndef CAIRN_ALLOC_TXN_H
#define CAIRN_ALLOC_TXN_H

#include <string.h>

#include "alloc/heap.h"
#include "base/assert.h"
#include "base/txn_part.h"

/* ---- a part: what a transaction wants of one shard: base/txn_part.h
 * ------------------------------
 */

/* Reading a part: struct txn_item copied, slices into the part. */
struct txn_cursor {
    struct slice rest;
    uint32_t left;
    bool failed;
};
int txn_part_open(struct slice part, struct txn_part_header *head, struct txn_cursor *cursor);
/* False at the end, or (failed) at damage. */
bool txn_part_next(struct txn_cursor *cursor, struct txn_item *item, struct slice *name,
                   struct slice *bytes);
/* The next item of a part through which txn_part_next() has come to the end. */
static inline bool txn_part_again(struct txn_cursor *c, struct txn_item *item, struct slice *bytes)
{
    if (c->left == 0) {
        return false;
    }
    memcpy(item, c->rest.data, sizeof *item);
    size_t before = sizeof *item + item->name_len;
    *bytes = slice_of(c->rest.data + before, item->len);
    c->rest = slice_of(c->rest.data + before + item->len, c->rest.len - before - item->len);
    c->left--;
    return true;
}
/* 0, ERR_PROTOCOL. checks_only: TX_VALIDATE. */
int txn_part_check(struct slice part, bool checks_only);

/* What conflicts: as in RESULT.value, see TXN_CONFLICT_NAMED. */
struct txn_conflict {
    uint64_t what;
    uint64_t version; /* that it has now, 0 absent */
};

/* ---- names and states ------------------------------------------------------------------------ */

struct txn_name {
    uint64_t home, session, seq;
};
static inline bool txn_name_is(const struct txn_name *a, const struct txn_name *b)
{
    return a->home == b->home && a->session == b->session && a->seq == b->seq;
}

enum txn_state { TXN_NONE, TXN_PREPARED, TXN_COMMITTED, TXN_REFUSED, TXN_STATES };
enum txn_event {
    TXN_ON_PREPARE, /* `valid`: what validation and reservation say */
    TXN_ON_COMMIT,
    TXN_ON_ABORT,
    TXN_ON_REFUSE,
    TXN_ON_FORGET, /* `forgettable`: at home, the client has acknowledged, or its session is gone */
    TXN_ON_CLOCK,  /* sweep */
    TXN_EVENTS
};
/* RESULT.value of TX_PREPARE, TX_REFUSE, TX_DECIDE. */
enum txn_answer {
    TXN_NO_VOTE = 0,   /* nothing is known by this: no record could be made (LIMIT, NOSPACE) */
    TXN_YES,           /* prepared; version: prepare time */
    TXN_NO,            /* a refusal is recorded: for ever */
    TXN_LATE,          /* no record, and the clock has passed the deadline: it never will prepare;
                          but it may have committed, and been forgotten by all (ADR 0007 §5) */
    TXN_WAS_COMMITTED, /* committed here; version: commit time */
    TXN_APPLIED,       /* the outcome has been applied here, now or before */
    TXN_WRONG,         /* contradicts what is known here: never, and counted */
};
struct txn_conditions {
    bool valid;       /* TXN_ON_PREPARE */
    bool late;        /* applied clock > deadline */
    bool forgettable; /* TXN_ON_FORGET */
};
struct txn_move {
    enum txn_state next;
    enum txn_answer answer;
};
/* The whole table of a participant, ADR 0007 §4. Apply and the model checker call this, nothing
 * else decides. */
struct txn_move txn_step(enum txn_state state, enum txn_event event,
                         const struct txn_conditions *conditions);

/* ---- HEAP_MAP_TX ------------------------------------------------------------------------------
 *
 *   't' home session seq            -> struct txn_record, then uids u64[participants], then
 *                                      PREPARED: the part, and zeros up to 8 bytes a participant
 *                                      COMMITTED: prepare times u64[participants]
 *   'p' prepared_at home session seq -> a zero byte: one per PREPARED record
 *   'x' deadline home session seq    -> a zero byte: one per REFUSED record, for sweeping
 *   'o' pointer, 'r' name, 'r'       -> struct intent_record (alloc/intent.h)
 *   'h' name                         -> place u64 of the root's newest undo record
 *
 * Numbers in keys are big-endian. An abort turns 'p' into 'x' in place, and a record only shrinks:
 * neither outcome needs room. */
struct txn_record {
    uint64_t deadline;
    uint64_t prepared_at;  /* p; REFUSED: 0 */
    uint64_t committed_at; /* ct; COMMITTED only */
    uint64_t owner;
    uint64_t digest;
    uint64_t conflict, conflict_version; /* REFUSED: for whoever asks again */
    uint32_t code;                       /* REFUSED: positive ERR_* number */
    uint32_t state;                      /* enum txn_state, never NONE */
    uint32_t participants;
    uint32_t part_bytes;
};
static_assert(sizeof(struct txn_record) == 72, "media format");
#define TXN_KEY_BYTES       25u
#define TXN_TIMED_KEY_BYTES 33u /* 'p', 'x' */

/* ---- apply ------------------------------------------------------------------------------------
 */

/* A whole transaction on this shard alone, at `version`. 0 or a command's code (CONFLICT with
 * *conflict, STALE, NOT_YET, RANGE, NOSPACE, TOOBIG, INVAL, PROTOCOL): then nothing has changed,
 * but that the slots leased for its objects have gone back. Or a fatal code. */
int txn_apply_one(struct heap *heap, uint64_t version, struct slice part,
                  struct txn_conflict *conflict);

struct txn_prepare {
    struct txn_name name;
    uint64_t deadline, owner, digest;
    struct slice participants; /* uid u64 each */
    struct slice part;
};
struct txn_result {
    enum txn_answer answer;
    int code;         /* NO, NO_VOTE: why */
    uint64_t version; /* YES: p; WAS_COMMITTED: ct */
    struct txn_conflict conflict;
};
/* refuse: 0, or the code with which the session layer already refuses (SESSION_EXPIRED, ...).
 * version: of the command; becomes p. Each returns a fatal code or 0. */
int txn_apply_prepare(struct heap *heap, uint64_t version, const struct txn_prepare *prepare,
                      int refuse, struct txn_result *out);
/* times: prepare times in the order of the record's participants. Sets clock >= ct. *committed: it
 * was PREPARED before. Cannot fail but fatally (X7). */
int txn_apply_commit(struct heap *heap, const struct txn_name *name, uint64_t digest,
                     struct slice times, bool *committed, struct txn_result *out);
int txn_apply_abort(struct heap *heap, const struct txn_name *name, uint64_t digest,
                    uint64_t deadline, struct txn_result *out);
int txn_apply_refuse(struct heap *heap, const struct txn_name *name, uint64_t digest,
                     uint64_t deadline, int code, struct txn_result *out);
int txn_apply_forget(struct heap *heap, const struct txn_name *name, bool forgettable,
                     struct txn_result *out);
/* Up to `max` REFUSED records whose deadline the clock has passed go. Every TX command calls it
 * with 8. */
int txn_sweep_refused(struct heap *heap, uint32_t max);

/* Moves the clock to `at`, and keeps history from it on for keep_ms more, also in a heap without
 * retention (then from the clock on). ERR_INVAL when at > limit. */
int heap_close_at(struct heap *heap, uint64_t at, uint64_t limit, uint32_t keep_ms);
/* clock = max(clock, at) */
void heap_clock_advance(struct heap *heap, uint64_t at);

/* Is something PREPARED, not later than `until`, with a participant that isn't one of the `shards`
 * shards from `first_uid` on? */
bool txn_prepared_outside(const struct heap *heap, uint64_t first_uid, uint32_t shards,
                          uint64_t until);

/* ---- looking ----------------------------------------------------------------------------------
 */

/* Does the part (checks only) hold now, and has nobody a write intent on what it names? 0,
 * ERR_CONFLICT with *conflict; ERR_TX_UNDECIDED with *by. */
int txn_validate(const struct heap *heap, struct slice part, struct txn_conflict *conflict,
                 struct txn_name *by);
/* participants, and (COMMITTED) their prepare times, `out->participants` each; into the arena. */
bool txn_find(const struct heap *heap, const struct txn_name *name, struct txn_record *out,
              const uint64_t **participants, const uint64_t **times);
/* The next record behind *name in key order ({0}: the first). False at the end. */
bool txn_next(const struct heap *heap, struct txn_name *name, struct txn_record *out);
struct txn_counts {
    uint32_t prepared, committed, refused;
    uint64_t oldest_prepared_at; /* 0: none */
};
void txn_count(const struct heap *heap, struct txn_counts *out); /* kept in the header: O(1) */
uint64_t heap_directory_version(const struct heap *heap);
/* Roots as of `at`, as far back as objects. ERR_NOTFOUND, ERR_SNAPSHOT_TOO_OLD. */
struct root_record;
int heap_root_get_at(const struct heap *heap, uint64_t at, struct slice name,
                     struct root_record *out);
/* The next name in bytewise order that existed at `at` (0: now). name: valid until the heap
 * changes. */
int heap_root_next_at(const struct heap *heap, uint64_t at, struct slice after, struct slice *name,
                      struct root_record *out);
/* Promised, and not yet born: who reads it gets NOT_YET (X12). */
bool heap_ptr_is_unborn(const struct heap *heap, uint64_t ptr);

#endif
