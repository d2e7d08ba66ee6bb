/* An entry is applied while the disk writes it, by the thread that waits for the disk.
 *
 *   embed__ahead_plan  an entry was appended: is it worth it?
 *   embed__ahead       while the disk is at it (env_inline.c): entry -> arena, outcomes into the
 * calls embed__durable     (commit.c) finishes the calls, and lets those read who came meanwhile
 *
 * Until the entry is durable nothing of it is seen: no call is finished, reads are held, no
 * checkpoint begins, and a heap that somebody watches is never ahead. If the write fails, the arena
 * is ahead of the log for good; then the directory is dead, and nothing is read or written any more
 * (I11).
 *
 * A short entry isn't worth it: to begin a write and to wait for it is slower than one blocking
 * call, by more than it takes to apply some hundred commands.
 *
 * A read that is held waits for the disk, which it otherwise never does. So a heap whose readers
 * come while it is written to is left alone for a while: its entries are applied when they are
 * durable. */
#include "base/assert.h"
#include "embed/internal.h"

#define PAUSE_ENTRIES 1024u /* when a read had to be held */

static bool may_go_ahead(const struct embedded_heap *h)
{
    const struct embed_batch *b = h->flying;
    return !b->applied && b->count >= h->db->ahead_calls_min && b->index >= h->ahead_from &&
           h->waiters.count == 0 && h != h->db->catalog;
}

void embed__ahead_plan(struct embedded_heap *h)
{
    if (may_go_ahead(h)) {
        h->db->env.meanwhile_due = true;
    }
}

void embed__ahead(struct inline_env *env)
{
    struct embedded *db = container_of(env, struct embedded, env);
    list_for_each_safe (it, next, &db->flying) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, flying_link);
        struct embed_batch *b = h->flying;
        if (db->failed != 0) {
            return;
        }
        if (may_go_ahead(h)) {
            b->applied = true;
            int rv = embed__apply(h, b->index, h->term, slice_of(b->body.data, b->body.len),
                                  b->calls, false);
            if (rv != 0) {
                embed__apply_failed(h, b->index, rv);
            }
        }
    }
}

/* ---- reads ---- */

void embed__hold(struct embedded_heap *h, struct embedded_call *call)
{
    assert(embed__is_ahead(h));
    h->ahead_from = h->flying->index + PAUSE_ENTRIES;
    list_push_back(&h->held, &call->link);
}

static struct embedded_call *held_take(struct embedded_heap *h)
{
    struct embedded_call *call = list_entry(h->held.next, struct embedded_call, link);
    list_remove(&call->link);
    return call;
}

void embed__held_read(struct embedded_heap *h)
{
    assert(!embed__is_ahead(h));
    while (!list_empty(&h->held)) {
        struct embedded_call *call = held_take(h);
        const char *text;
        int rv = embed__admit(h, &text);
        if (rv == 0) {
            embed__read(h, call);
        } else {
            embed__finish(h->db, call, rv, text);
        }
    }
}

void embed__held_end(struct embedded_heap *h, int err, const char *text)
{
    while (!list_empty(&h->held)) {
        embed__finish(h->db, held_take(h), err, text);
    }
}

struct embedded_call *embed__held_watch(struct embedded *db, const struct embedded_watch *watch)
{
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        list_for_each (at, &h->held) {
            struct embedded_call *call = list_entry(at, struct embedded_call, link);
            if (call->request->op == EMBEDDED_WATCH && call->request->out == watch) {
                return call;
            }
        }
    }
    return NULL;
}
