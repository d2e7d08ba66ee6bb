/* Pages of what a heap holds, as bytes: the lists inside HISTORY_RESULT, TYPE_LIST_RESULT and
 * OBJECT_LIST_RESULT (docs/protocol.md), for nodes and the embedded mode alike. Each takes a
 * bounded time and has a bounded length; who wants more comes again.
 *
 * out: entries are appended. ERR_NOMEM leaves some of them behind. */
#ifndef CAIRN_ALLOC_LISTING_H
#define CAIRN_ALLOC_LISTING_H

#include "alloc/events.h"

#define LISTING_CHANGES_MAX 256u
#define LISTING_TYPES_BYTES (256u << 10) /* no further type begins behind it */
#define LISTING_OBJECTS_MAX 1024u

/* At most min(max, LISTING_CHANGES_MAX) changes of an object, newest first, from the `skip`th on.
 * Errors of heap_history(). */
int listing_changes(const struct heap *heap, uint64_t ptr, uint64_t skip, uint32_t max,
                    struct buf *out, bool *more);
/* One type: number u32, version u64, length u32, descriptor. */
#define LISTING_TYPE_HEAD_BYTES 16u
int listing_type(const struct heap_type *type, struct buf *out);
/* At most `max` types with numbers above `after`. */
int listing_types(const struct heap *heap, uint32_t after, uint32_t max, struct buf *out,
                  bool *more);
/* Which objects: slots from `from` on; of one type or all. */
struct listing_filter {
    uint64_t from;
    uint32_t max; /* not 0 (ERR_INVAL); at most LISTING_OBJECTS_MAX count */
    bool typed;
    uint32_t type;
};
/* *next: where to go on, 0 at the end. */
int listing_objects(const struct heap *heap, const struct listing_filter *filter, struct buf *out,
                    uint64_t *next);
/* How much of the changes. */
struct listing_share {
    uint32_t max;       /* changes, WATCH_CHANGES_MAX at most */
    uint32_t bytes_max; /* none begins behind it, or behind WATCH_BYTES_MAX */
    bool values;
};
/* Changes behind the cursor, as WATCH_RESULT has them; looks at `budget` records at most. 0: some
 * came. Else nothing did: as events_next(), or ERR_INVAL (a share of 0), ERR_NOMEM. */
int listing_events(const struct heap *heap, const struct events_filter *filter,
                   struct events_cursor *cursor, const struct listing_share *share, uint32_t budget,
                   struct buf *out);

#endif
