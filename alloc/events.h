/* What has changed, in the order in which it was applied: for those who follow a heap (watch).
 *
 * The undo records are the log of changes: in the arena, the same on every replica and after a
 * restart, and kept as long as the heap's retention says. A change's place in it is its `order`,
 * log index << 16 | ordinal in the entry. What is prepared and undecided has no record, so nobody
 * sees it; the changes of a transaction stand together, with one version. Versions along one object
 * or name grow; from one to another they needn't (ADR 0007 §3). */
#ifndef CAIRN_ALLOC_EVENTS_H
#define CAIRN_ALLOC_EVENTS_H

#include "alloc/heap.h"

enum events_what {
    EVENTS_OBJECT = 1, /* one object */
    EVENTS_ROOT,       /* one name */
    EVENTS_ROOTS,      /* names that begin so; an empty one: all */
    EVENTS_TYPE,       /* objects of a type */
    EVENTS_ALL,        /* objects and names */
    EVENTS_WHATS
};
struct events_filter {
    enum events_what what;
    uint32_t type;
    uint64_t ptr;
    struct slice name;
    uint64_t at; /* only changes with a greater version; 0: all */
};

struct heap_event {
    uint64_t order;
    uint64_t version; /* of the change */
    uint64_t before;  /* the object's or name's version before; 0: it didn't exist */
    uint64_t ptr;     /* the object; UNDO_ROOT: where the name leads now, 0 nowhere */
    uint64_t offset;  /* of what was overwritten or cut off; UNDO_ROOT: where it led before */
    uint64_t size;    /* of the object behind the change; UNDO_FREE: 0 */
    uint32_t len;     /* bytes overwritten or cut off */
    uint32_t type;
    uint32_t kind;     /* enum undo_kind */
    struct slice name; /* UNDO_ROOT; in the arena */
    uint64_t record;   /* place, for events_values() */
};

/* How far somebody has come; not durable. Everything up to `order` was looked at; the rest makes
 * going on cheap, and is checked before it is used, however the heap changed meanwhile. */
struct events_cursor {
    uint64_t order;
    uint64_t place, place_order; /* the last record looked at; 0: not known */
    uint64_t walk, walk_order;   /* where the search for the next one has come to; 0: not begun */
    uint64_t moved;              /* the heap's count of moved blocks, as of these */
};

/* Where somebody begins to follow; the numbers of WATCH (docs/protocol.md). */
enum events_from { EVENTS_NOW, EVENTS_TOKEN, EVENTS_OLDEST, EVENTS_FROMS };

/* token: EVENTS_TOKEN: the order to go on behind, which events_next() checks. ERR_UNSUPPORTED: the
 * heap has no retention; ERR_SNAPSHOT_TOO_OLD: EVENTS_OLDEST with the filter's `at`, and changes
 * with greater versions are gone. */
int events_begin(const struct heap *heap, const struct events_filter *filter, enum events_from from,
                 uint64_t token, struct events_cursor *cursor);
/* What an operator or a program can do about an error of these; empty: the code says it all. */
void events_explain(const struct heap *heap, int err, char *text, size_t bytes);

/* The next change behind the cursor that passes the filter.
 *
 * budget  of records looked at; grows smaller
 *
 * Returns 0 with *out and the cursor at it; ERR_NOTFOUND: there is none (yet), the cursor is at
 * heap_order(); ERR_BUSY: the budget is used up, go on with another; ERR_SNAPSHOT_TOO_OLD: changes
 * behind the cursor are gone; ERR_INVAL: the cursor is ahead of the heap, so of another one;
 * ERR_UNSUPPORTED: the heap has no retention; ERR_STALE: the object is gone, and nothing can change
 * it any more. */
int events_next(const struct heap *heap, const struct events_filter *filter,
                struct events_cursor *cursor, uint32_t *budget, struct heap_event *out);
/* Would the filter pass it? `at` isn't looked at. */
bool events_match(const struct events_filter *filter, const struct heap_event *event);
/* Does a change that the filter passes follow `event` in its entry, with its version: a further one
 * of its transaction? */
bool events_more(const struct heap *heap, const struct events_filter *filter,
                 const struct heap_event *event);

/* Bytes of the range that a change has touched, before and behind it: of a write its range, of a
 * birth and of a free the object, of a cut what was cut off. Appended to *out, before first;
 * *before_len, *after_len: UINT32_MAX when there are none, or more than `max`, or too many newer
 * changes to undo. ERR_NOMEM. */
int events_values(const struct heap *heap, const struct heap_event *event, uint32_t max,
                  struct buf *out, uint32_t *before_len, uint32_t *after_len);

uint64_t heap_order(const struct heap *heap); /* of the newest change */
/* The oldest order that can be followed from, and the least version that can be given as `at`. */
uint64_t events_oldest(const struct heap *heap, uint64_t *at);

#endif
