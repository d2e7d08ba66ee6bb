/* Those who wait for changes of one heap (alloc/events.h). Each has looked at everything up to
 * where the heap was then; what is applied later is looked at once for all of them, and a change
 * finds those that want it by its object or name.
 *
 *   waiters_add  ->  waiting, or looking (has more to look at than its share of a turn)
 *   waiters_take_*  moves some to a list of the caller's, who lets each look again: their cursors
 *                   say where. Until waiters_remove() they belong to the waiters, and count.
 *
 * Not durable; the owner of the heap sees to it that nobody else changes it meanwhile. */
#ifndef CAIRN_ALLOC_WAITERS_H
#define CAIRN_ALLOC_WAITERS_H

#include "alloc/events.h"
#include "base/list.h"

#define WAITERS_BUCKETS 64u

/* Owner's memory; `filter` (its name too) and `cursor` are valid as long as it waits. */
struct events_waiter {
    struct list link;
    struct events_filter filter;
    struct events_cursor cursor;
};
struct events_waiters {
    uint64_t seen; /* all who wait have looked up to here */
    uint32_t count;
    struct list keyed[WAITERS_BUCKETS]; /* by object or name */
    struct list broad;                  /* the others */
    struct list looking;
};

/* How long one may wait that asks for wait_ms: not so long that its token, which it has to go on
 * from if it is cut off, leaves the history meanwhile. */
uint64_t waiters_wait_ms(const struct heap *heap, uint64_t wait_ms);

void waiters_init(struct events_waiters *ws);
/* looking: else it has just looked at everything there is (events_next: ERR_NOTFOUND). */
void waiters_add(struct events_waiters *ws, const struct heap *heap, struct events_waiter *w,
                 bool looking);
void waiters_remove(struct events_waiters *ws, struct events_waiter *w);

/* Something was applied: those who want some of it. All, when history was cut short or switched
 * off: each learns what that means to it. */
void waiters_take_wanting(struct events_waiters *ws, const struct heap *heap, struct list *to);
/* Some of those that look, `max` at most. */
void waiters_take_looking(struct events_waiters *ws, uint32_t max, struct list *to);
/* Of those that wait, the ones for which `is` says so. */
void waiters_take_if(struct events_waiters *ws,
                     bool (*is)(const struct events_waiter *w, const void *arg), const void *arg,
                     struct list *to);
void waiters_take_all(struct events_waiters *ws, struct list *to);

/* What the records of its chain are found by; 0: they are in the queue of all. */
uint64_t waiters_key(const struct events_filter *filter);

#endif
