/* Who waits for changes of a heap (EMBEDDED_WATCH, alloc/waiters.h).
 *
 *   embed__watch          looks, on the caller's thread; finished when there is something
 *   embed__watch_applied  something was applied, by whichever thread: the library thread has a turn
 *   embed__watch_turn     looks again for those who want it, and those who have more to look at
 *   embed__watch_tick     and for those whose time is over
 *
 * A change is looked at when it is applied and durable: in disk mode a heap that is watched is
 * never ahead (ahead.c), and in
 * pmem mode the lock isn't let go in between. */
#include "alloc/listing.h"
#include "base/assert.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "base/mem.h"
#include "embed/internal.h"

#define LOOK_RECORDS   4096u /* for one of them, with the lock */
#define LOOKS_PER_TURN 16u
#define AHEAD_MS       1000u /* of the clock, as a cluster takes it */

/* Of one watch, from its first call until it is closed. */
struct embedded_place {
    struct events_waiter waiter;
    struct embedded_watch *watch;
    struct embedded_call *call;
    uint64_t until_ns;
    bool waits;
};

static struct embedded_place *place_of(struct list *link)
{
    return list_entry(link, struct embedded_place, waiter.link);
}

/* The library thread has a turn. */
static void arm(struct embedded *db)
{
    if (db->watch_turn.slot == 0) {
        env_timer_start(embed_env(db), &db->watch_turn, env_now_ns(embed_env(db)));
    }
}

/* ---- looking ---- */

static void refuse(struct embedded_heap *h, struct embedded_place *p, int err)
{
    const char *text = p->watch->text;
    events_explain(h->heap, err, p->watch->text, sizeof p->watch->text);
    if (h->db->failed != 0) {
        err = h->db->failed;
        text = h->db->fail_text;
    }
    embed__finish(h->db, p->call, err, text);
}

static void stay(struct embedded_heap *h, struct embedded_place *p, bool looking)
{
    waiters_add(&h->waiters, h->heap, &p->waiter, looking);
    p->waits = true;
    if (looking) {
        arm(h->db);
    }
}

static void look(struct embedded_heap *h, struct embedded_place *p)
{
    const struct listing_share share = {p->watch->max, p->watch->bytes_max, p->watch->values};
    int rv = listing_events(h->heap, &p->waiter.filter, &p->waiter.cursor, &share, LOOK_RECORDS,
                            &p->call->bytes);
    if (h->db->failed != 0 || embed__check_damage(h) != 0) {
        refuse(h, p, h->db->failed);
    } else if (rv == 0 || (rv == ERR_NOTFOUND && env_now_ns(embed_env(h->db)) >= p->until_ns)) {
        p->call->value = p->waiter.cursor.order;
        embed__finish(h->db, p->call, 0, NULL);
    } else if (rv == ERR_NOTFOUND || rv == ERR_BUSY) {
        stay(h, p, rv == ERR_BUSY);
    } else {
        refuse(h, p, rv);
    }
}

/* As a cluster's shards take it: a clock that is a little ahead is nobody's fault. */
static bool is_ahead(const struct embedded_heap *h, uint64_t version)
{
    uint64_t now_ms = env_wall_us(embed_env(h->db)) / 1000u;
    return version > heap_clock(h->heap) && version > hlc_from_ms(now_ms + AHEAD_MS);
}

static void begin(struct embedded_heap *h, struct embedded_place *p)
{
    const struct embedded_watch *w = p->watch;
    struct events_cursor kept = p->waiter.cursor;
    p->waiter.filter = (struct events_filter){.what = (enum events_what)w->what,
                                              .type = w->type,
                                              .ptr = w->ptr,
                                              .name = w->name,
                                              .at = w->at};
    p->until_ns =
        env_now_ns(embed_env(h->db)) + waiters_wait_ms(h->heap, w->wait_ms) * UINT64_C(1000000);
    if (w->from == EVENTS_OLDEST && is_ahead(h, w->at)) {
        embed__finish(h->db, p->call, ERR_INVAL,
                      "the version is more than a second in the future: watch from an earlier one");
        return;
    }
    if (h->waiters.count >= WATCHES_PER_SHARD_MAX) {
        embed__finish(h->db, p->call, ERR_LIMIT, "too many watches of one heap: free some");
        return;
    }
    int rv = events_begin(h->heap, &p->waiter.filter, (enum events_from)w->from, w->token,
                          &p->waiter.cursor);
    if (rv != 0) {
        refuse(h, p, rv);
        return;
    }
    if (w->from == EVENTS_NOW) {
        p->until_ns = 0; /* where that is, at once */
    } else if (w->from == EVENTS_TOKEN && kept.order == w->token) {
        p->waiter.cursor = kept;
    }
    look(h, p);
}

void embed__watch(struct embedded_heap *h, struct embedded_call *call)
{
    struct embedded_watch *w = call->request->out;
    assert(call->done != NULL); /* nobody's thread waits for changes */
    if (w->place == NULL) {
        w->place = mem_zalloc(sizeof *w->place);
    }
    if (w->place == NULL) {
        embed__finish(h->db, call, ERR_NOMEM, NULL);
        return;
    }
    assert(!w->place->waits);
    call->heap = h;
    w->place->watch = w;
    w->place->call = call;
    begin(h, w->place);
}

/* ---- who is woken ---- */

static void leave(struct embedded_heap *h, struct embedded_place *p)
{
    assert(p->waits);
    waiters_remove(&h->waiters, &p->waiter);
    p->waits = false;
}

void embed__watch_applied(struct embedded_heap *h)
{
    if (h->waiters.count > 0) {
        h->watch_due = true;
        arm(h->db);
    }
}

static bool is_overdue(const struct events_waiter *waiter, const void *now_ns)
{
    return container_of(waiter, struct embedded_place, waiter)->until_ns <=
           *(const uint64_t *)now_ns;
}

static void look_again(struct embedded_heap *h, struct list *taken)
{
    while (!list_empty(taken)) {
        struct embedded_place *p = place_of(taken->next);
        leave(h, p);
        look(h, p);
    }
}

static void turn_of(struct embedded_heap *h)
{
    struct list taken;
    list_init(&taken);
    if (h->watch_due) {
        h->watch_due = false;
        waiters_take_wanting(&h->waiters, h->heap, &taken);
    }
    waiters_take_looking(&h->waiters, LOOKS_PER_TURN, &taken);
    look_again(h, &taken);
    if (!list_empty(&h->waiters.looking)) {
        arm(h->db);
    }
}

void embed__watch_turn(struct env_timer *timer)
{
    struct embedded *db = container_of(timer, struct embedded, watch_turn);
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->waiters.count > 0 && db->failed == 0) {
            turn_of(h);
        }
    }
}

void embed__watch_tick(struct embedded_heap *h)
{
    struct list taken;
    uint64_t now_ns = env_now_ns(embed_env(h->db));
    list_init(&taken);
    waiters_take_if(&h->waiters, is_overdue, &now_ns, &taken);
    look_again(h, &taken);
}

void embed__watch_end(struct embedded_heap *h, int err, const char *text)
{
    struct list all;
    list_init(&all);
    waiters_take_all(&h->waiters, &all);
    while (!list_empty(&all)) {
        struct embedded_place *p = place_of(all.next);
        leave(h, p);
        embed__finish(h->db, p->call, err, text);
    }
}

void embed_watch_close(struct embedded *db, struct embedded_watch *watch)
{
    struct embedded_place *p = watch->place;
    inline_lock(&db->env);
    struct embedded_call *held = embed__held_watch(db, watch);
    if (held != NULL) {
        list_remove(&held->link);
        embed__finish(db, held, ERR_CANCELED, NULL);
    }
    if (p != NULL && p->waits) {
        leave(p->call->heap, p);
        embed__finish(db, p->call, ERR_CANCELED, NULL);
    }
    inline_unlock(&db->env);
    mem_free(p);
    watch->place = NULL;
}

uint64_t embed_heap_mark(const struct embedded_heap *h)
{
    return hash64(h->db->uid, &h->uid, sizeof h->uid);
}
