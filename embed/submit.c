/* Calls whose callers don't wait: they gather until somebody asks for one.
 *
 *   embed_submit   encodes into the heap's open batch, and wakes nobody
 *   embed_wait     the caller's thread makes the batch an entry, writes it and applies it (E25)
 *   embed_want     the library thread does: a callback was set, or the outcome asked for
 *   embed__linger  the library thread does, for what nobody has asked about for a moment
 *
 * So a thousand calls and a wait for each of them are one entry, one write and no switch of
 * threads. Were the first call written at once, it would be a write of its own, and the rest of the
 * thousand would wait for it. */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "embed/internal.h"

/* A moment: what nobody asks about begins to be written after one to two of them. While calls keep
 * coming the timer goes on by itself, so that submitting wakes the library thread once, not each
 * time. */
#define LINGER_NS 1000000u

static void linger_arm(struct embedded *db)
{
    db->submits++;
    if (db->linger.slot == 0) {
        env_timer_start(embed_env(db), &db->linger, env_now_ns(embed_env(db)) + LINGER_NS);
    }
}

void embed__linger(struct env_timer *timer)
{
    struct embedded *db = container_of(timer, struct embedded, linger);
    bool again = db->submits != db->submits_seen;
    db->submits_seen = db->submits;
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (list_empty(&h->waiting)) {
            continue;
        }
        struct embed_batch *oldest = list_entry(h->waiting.next, struct embed_batch, link);
        if (oldest->lingered) {
            embed__want(h);
        } else {
            oldest->lingered = again = true;
        }
    }
    if (again && db->failed == 0) {
        env_timer_start(embed_env(db), timer, env_now_ns(embed_env(db)) + LINGER_NS);
    }
}

/* ---- submitting ---- */

/* The request is the caller's only until submit() returns; a batch has what it needs of it, but
 * pmem mode encodes nothing. */
static int request_keep(struct embedded_call *call)
{
    const struct embedded_request *r = call->request;
    struct embedded_request *copy =
        mem_alloc(sizeof *copy + r->data.len + r->expected.len + r->name.len);
    if (copy == NULL) {
        return ERR_NOMEM;
    }
    *copy = *r;
    struct slice *slices[] = {&copy->data, &copy->expected, &copy->name};
    uint8_t *at = (uint8_t *)(copy + 1);
    for (size_t i = 0; i < sizeof slices / sizeof slices[0]; i++) {
        if (slices[i]->len > 0) {
            memcpy(at, slices[i]->data, slices[i]->len);
            slices[i]->data = at;
            at += slices[i]->len;
        }
    }
    call->copy = copy;
    call->request = copy;
    return 0;
}

static int submit_pmem(struct embedded_heap *h, struct embedded_call *call)
{
    int rv = request_keep(call);
    if (rv == 0) {
        embed__pm_incoming(h, call);
        linger_arm(h->db); /* the library thread commits whenever it wakes */
    }
    return rv;
}

static int submit_disk(struct embedded_heap *h, struct embedded_call *call, const char **text)
{
    struct embedded *db = h->db;
    if (embed__batch_that_takes(h) == NULL && !embed__has_room(db)) {
        return embed__lack_of_room(db, text);
    }
    int rv = embed__enqueue(h, call);
    if (rv == 0 && h->waiting_bytes >= BATCH_BYTES_CLOSE) {
        embed__want(h); /* enough: it is written while more arrives */
    } else if (rv == 0) {
        linger_arm(db);
    }
    return rv;
}

void embed__submit(struct embedded_heap *h, struct embedded_call *call)
{
    struct embedded *db = h->db;
    const char *text;
    assert(call->done != NULL);
    call->finished = false;
    call->heap = h;
    int rv = embed__admit(h, &text);
    if (rv == 0 && embed__is_read(call->request->op)) {
        if (!embed__is_ahead(h)) {
            embed__read(h, call);
            return;
        }
        rv = request_keep(call);
        if (rv == 0) {
            embed__hold(h, call);
            return;
        }
    }
    if (rv == 0) {
        rv = db->mode == IMAGE_PMEM ? submit_pmem(h, call) : submit_disk(h, call, &text);
    }
    if (rv != 0) {
        embed__finish(db, call, rv, text);
    }
}

void embed_submit(struct embedded_heap *h, struct embedded_call *call)
{
    inline_lock(&h->db->env);
    embed__submit(h, call);
    inline_unlock(&h->db->env);
}

/* ---- asking for the outcome ---- */

static bool is_flying(const struct embedded_call *call)
{
    return call->heap->flying != NULL && call->batch == call->heap->flying;
}

bool embed_wait(struct embedded *db, struct embedded_call *call, uint32_t timeout_ms)
{
    bool works = timeout_ms == UINT32_MAX; /* a write can't be left when the time has come */
    inline_lock(&db->env);
    uint64_t deadline = call->finished ? 0 : embed__deadline(db, timeout_ms);
    bool in_time = true;
    while (!call->finished && in_time) {
        if (db->mode == IMAGE_PMEM) {
            embed__pm_commit(call->heap);
        } else {
            if (!is_flying(call)) {
                embed__want(call->heap);
            }
            if (!works || !inline_work(&db->env, INLINE_LOG)) {
                in_time = embed__call_sleep(db, call, deadline, works);
            }
        }
    }
    bool finished = call->finished;
    inline_unlock(&db->env);
    return finished;
}

void embed_want(struct embedded *db, struct embedded_call *call)
{
    inline_lock(&db->env);
    if (!call->finished && db->mode == IMAGE_PMEM) {
        embed__library_wake(db);
    } else if (!call->finished && !is_flying(call)) {
        embed__want(call->heap);
    }
    inline_unlock(&db->env);
}
