#include "alloc/waiters.h"

#include "alloc/heap_layout.h"
#include "base/assert.h"
#include "base/hash.h"

#define RETENTION_PARTS 4u
#define WAIT_MS_MIN     100u /* nobody shall ask all the time */

uint64_t waiters_wait_ms(const struct heap *heap, uint64_t wait_ms)
{
    uint64_t most = heap_retention_ms(heap) / RETENTION_PARTS;
    most = most < WAIT_MS_MIN ? WAIT_MS_MIN : most;
    return wait_ms < most ? wait_ms : most;
}

void waiters_init(struct events_waiters *ws)
{
    *ws = (struct events_waiters){0};
    for (size_t i = 0; i < WAITERS_BUCKETS; i++) {
        list_init(&ws->keyed[i]);
    }
    list_init(&ws->broad);
    list_init(&ws->looking);
}

static bool is_keyed(const struct events_filter *filter)
{
    return filter->what == EVENTS_OBJECT || filter->what == EVENTS_ROOT;
}

uint64_t waiters_key(const struct events_filter *filter)
{
    switch (filter->what) {
    case EVENTS_OBJECT:
        return hash64(EVENTS_OBJECT, &filter->ptr, sizeof filter->ptr);
    case EVENTS_ROOT:
        return hash64(EVENTS_ROOT, filter->name.data, filter->name.len);
    case EVENTS_ROOTS:
    case EVENTS_TYPE:
    case EVENTS_ALL:
    case EVENTS_WHATS:
    default:
        return 0;
    }
}

static struct list *place_of(struct events_waiters *ws, const struct events_filter *filter)
{
    return is_keyed(filter) ? &ws->keyed[waiters_key(filter) % WAITERS_BUCKETS] : &ws->broad;
}

void waiters_add(struct events_waiters *ws, const struct heap *heap, struct events_waiter *w,
                 bool looking)
{
    /* While anybody is here, `seen` is behind or at where the heap is, so that who comes later has
     * looked further. With nobody it may be any place; who only looks is far behind this one. */
    ws->seen = ws->count == 0 ? heap_order(heap) : ws->seen;
    assert(looking || w->cursor.order >= ws->seen);
    list_push_back(looking ? &ws->looking : place_of(ws, &w->filter), &w->link);
    ws->count++;
}

void waiters_remove(struct events_waiters *ws, struct events_waiter *w)
{
    assert(ws->count > 0);
    list_remove(&w->link);
    ws->count--;
}

/* ---- taking ---- */

/* Everything up to `order` was looked at for it. The last record of its own chain that it has seen
 * is still that; the last one of the queue isn't. */
static void saw(struct events_waiter *w, uint64_t order)
{
    struct events_cursor *c = &w->cursor;
    if (c->order < order) {
        c->order = order;
        c->place = is_keyed(&w->filter) ? c->place : 0;
    }
}

static void take(struct events_waiters *ws, struct events_waiter *w, struct list *to)
{
    saw(w, ws->seen);
    list_remove(&w->link);
    list_push_back(to, &w->link);
}

static void take_wanting(struct events_waiters *ws, struct list *from,
                         const struct heap_event *event, struct list *to)
{
    list_for_each_safe (it, next, from) {
        struct events_waiter *w = list_entry(it, struct events_waiter, link);
        if (events_match(&w->filter, event)) {
            take(ws, w, to);
        }
    }
}

static void take_waiting(struct events_waiters *ws, struct list *from,
                         bool (*is)(const struct events_waiter *w, const void *arg),
                         const void *arg, struct list *to)
{
    list_for_each_safe (it, next, from) {
        struct events_waiter *w = list_entry(it, struct events_waiter, link);
        if (is == NULL || is(w, arg)) {
            take(ws, w, to);
        }
    }
}

void waiters_take_if(struct events_waiters *ws,
                     bool (*is)(const struct events_waiter *w, const void *arg), const void *arg,
                     struct list *to)
{
    for (size_t i = 0; i < WAITERS_BUCKETS; i++) {
        take_waiting(ws, &ws->keyed[i], is, arg, to);
    }
    take_waiting(ws, &ws->broad, is, arg, to);
}

void waiters_take_wanting(struct events_waiters *ws, const struct heap *heap, struct list *to)
{
    static const struct events_filter everything = {.what = EVENTS_ALL};
    struct events_cursor cursor = {.order = ws->seen};
    struct heap_event event;
    uint32_t budget = UINT32_MAX; /* applied since the last time: so it is work in proportion */
    int rv;
    while ((rv = events_next(heap, &everything, &cursor, &budget, &event)) == 0) {
        struct events_filter one = {.what = event.kind == UNDO_ROOT ? EVENTS_ROOT : EVENTS_OBJECT,
                                    .ptr = event.ptr,
                                    .name = event.name};
        take_wanting(ws, place_of(ws, &one), &event, to);
        take_wanting(ws, &ws->broad, &event, to);
    }
    if (rv != ERR_NOTFOUND) {
        waiters_take_if(ws, NULL, NULL, to);
    }
    ws->seen = heap_order(heap);
}

void waiters_take_looking(struct events_waiters *ws, uint32_t max, struct list *to)
{
    for (; max > 0 && !list_empty(&ws->looking); max--) {
        struct list *first = ws->looking.next;
        list_remove(first);
        list_push_back(to, first);
    }
}

void waiters_take_all(struct events_waiters *ws, struct list *to)
{
    waiters_take_if(ws, NULL, NULL, to);
    waiters_take_looking(ws, UINT32_MAX, to);
}
