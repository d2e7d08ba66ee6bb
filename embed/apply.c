/* An entry's commands, one by one, into the arena; outcomes into the calls that brought them.
 *
 * What is read later is asked of the memory now: the slots of commands some way ahead, nearer ones'
 * objects, and the calls that get outcomes. A thousand commands on objects of a large heap would
 * wait for memory a thousand times, one after the other. */
#include <string.h>

#include "alloc/ahead.h"
#include "base/mem.h"
#include "embed/internal.h"

#define RECORDS_AHEAD  8u
#define OBJECTS_AHEAD  4u
#define CALLS_AHEAD    8u
#define CALLS_FINISHED 32u /* together */

struct ahead {
    struct record_reader reader;
    struct record records[16]; /* those from `taken` to `read`, each at its number modulo 16 */
    uint32_t read, seen, taken;
    int end; /* why there is none behind them */
};
_Static_assert(RECORDS_AHEAD < 16 && OBJECTS_AHEAD <= RECORDS_AHEAD, "it holds them");

static struct record *ahead_at(struct ahead *a, uint32_t number)
{
    return &a->records[number % 16];
}

static const struct record *ahead_next(struct ahead *a, const struct heap *heap)
{
    while (a->end == 0 && a->read <= a->taken + RECORDS_AHEAD) {
        struct record *r = ahead_at(a, a->read);
        a->end = record_read(&a->reader, r);
        if (a->end == 0) {
            a->read++;
            if (r->command.ptr != 0) {
                heap_foresee_slot(heap, r->command.ptr);
            }
        }
    }
    for (; a->seen < a->read && a->seen <= a->taken + OBJECTS_AHEAD; a->seen++) {
        uint64_t ptr = ahead_at(a, a->seen)->command.ptr;
        if (ptr != 0) {
            heap_foresee_object(heap, ptr);
        }
    }
    return a->taken == a->read ? NULL : ahead_at(a, a->taken++);
}

int embed__apply_one(struct embedded_heap *h, uint64_t version, const struct record *record,
                     struct heap_outcome *out)
{
    memset(out, 0, sizeof *out);
    switch (record->kind) {
    case RECORD_HEAP_CREATE:
    case RECORD_HEAP_DROP:
        return h->uid != CATALOG_UID ? ERR_CORRUPT
                                     : embed__catalog_apply(h->heap, version, record, out);
    case RECORD_LEASES_RETURN:
        return embed__leases_apply(h->heap, record->command.count, out);
    default:
        return heap_apply(h->heap, version, &record->command, out);
    }
}

void embed__settle(struct embedded_call *call, const struct heap_outcome *outcome, uint64_t version)
{
    call->err = outcome->code;
    call->value = outcome->value;
    call->version = outcome->code == 0 ? version : outcome->version;
}

/* A call, and what its owner keeps behind it for the outcome. */
static void call_foresee(const struct embedded_call *call)
{
    if (call != NULL) {
        lines_prefetch(call, sizeof *call + 64);
    }
}

/* Those from *from to `to`, which have their outcomes. Handing over one is an atomic operation, and
 * waits until all that was stored before has reached the cache, the arena's new bytes above all:
 * that is waited for once for many. */
static void calls_finish(struct embedded *db, struct embedded_call **calls, uint32_t *from,
                         uint32_t to)
{
    for (; *from < to; ++*from) {
        struct embedded_call *call = calls[*from];
        calls[*from] = NULL;
        if (call != NULL) {
            embed__finish(db, call, call->err, NULL);
        }
    }
}

void embed__calls_finish(struct embedded *db, struct embed_batch *b)
{
    for (uint32_t i = 0; i < b->count; i++) {
        struct embedded_call *call = b->calls[i];
        if (i + CALLS_AHEAD < b->count) {
            call_foresee(b->calls[i + CALLS_AHEAD]);
        }
        b->calls[i] = NULL;
        if (call != NULL) {
            embed__finish(db, call, call->err, NULL);
        }
    }
}

int embed__apply(struct embedded_heap *h, uint64_t index, uint64_t term, struct slice entry,
                 struct embedded_call **calls, bool finish)
{
    struct ahead ahead;
    const struct record *record;
    struct heap_outcome outcome;
    const char *damage;
    ahead.read = ahead.seen = ahead.taken = 0;
    ahead.end = 0;
    int rv = record_read_open(&ahead.reader, entry);
    if (rv != 0) {
        return rv;
    }
    uint32_t count = calls == NULL ? 0 : ahead.reader.left;
    for (uint32_t i = 0; i < count && i < CALLS_AHEAD; i++) {
        call_foresee(calls[i]);
    }
    uint32_t finished = 0;
    uint32_t i = 0;
    heap_begin(h->heap, index, term, ahead.reader.stamp);
    for (; (record = ahead_next(&ahead, h->heap)) != NULL; i++) {
        uint64_t version = heap_next_version(h->heap);
        if (finish && i < count && i - finished == CALLS_FINISHED) {
            calls_finish(h->db, calls, &finished, i);
        }
        if (i + CALLS_AHEAD < count) {
            call_foresee(calls[i + CALLS_AHEAD]);
        }
        rv = embed__apply_one(h, version, record, &outcome);
        if (rv == 0) {
            rv = heap_damage(h->heap, &damage);
        }
        if (rv != 0) {
            break;
        }
        if (i < count && calls[i] != NULL) {
            embed__settle(calls[i], &outcome, version);
        }
    }
    if (finish) {
        calls_finish(h->db, calls, &finished, i < count ? i : count);
    }
    heap_end(h->heap);
    return rv != 0 ? rv : ahead.end == ERR_NOTFOUND ? 0 : ahead.end;
}
