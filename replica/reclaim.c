/* Giving history back (rules X17, E22): a leader proposes to move the safepoint up to what its
 * clock and the heap's retention allow, and to free what lies below it. The steps are commands, so
 * that every replica frees the same records at the same index; one is under way at a time. */
#include "base/hlc.h"
#include "replica/internal.h"

#define RECLAIM_MS_MIN 1000u
#define RECLAIM_MS_MAX 60000u
#define RECLAIM_SHARE  64u /* history is kept longer than asked for by 1/64 of it */

static uint64_t interval_ms(uint64_t retention_ms)
{
    uint64_t ms = retention_ms / RECLAIM_SHARE;
    return ms < RECLAIM_MS_MIN ? RECLAIM_MS_MIN : ms > RECLAIM_MS_MAX ? RECLAIM_MS_MAX : ms;
}

static void on_reclaimed(struct shard_command *command, const struct command_result *result)
{
    struct shard *s = container_of(command, struct shard, reclaim);
    s->reclaiming = false;
    s->reclaim_again = result->err == 0 && result->code == 0 && result->value > 0;
    if (s->reclaim_again) {
        replica__turn(s);
    }
}

static void propose(struct shard *s)
{
    uint64_t kept = hlc_from_ms(heap_retention_ms(s->heap));
    uint64_t now = shard__stamp(s);
    struct msg_reclaim m = {.uid = s->uid,
                            .safepoint = now > kept ? now - kept : 0,
                            .records = HEAP_RECLAIM_RECORDS_MAX};
    struct buf *scratch = &s->r->scratch;
    buf_clear(scratch);
    s->reclaim.cb = on_reclaimed;
    s->reclaiming = message_encode_reclaim(&m, scratch) == 0 &&
                    shard__propose_for(s, KIND_RECLAIM, slice_of(scratch->data, scratch->len),
                                       &s->reclaim) == 0;
}

void reclaim_end_of_turn(struct shard *s)
{
    if (s->reclaim_again && !s->reclaiming && shard__leads(s) && s->serving) {
        s->reclaim_again = false;
        propose(s);
    }
}

void reclaim_tick(struct shard *s, uint64_t now_ms)
{
    /* The smallest interval first: what the heap wants is a page of its own for each shard, and
     * this runs in every tick. */
    uint64_t since_ms = now_ms - s->reclaim_ms;
    if (since_ms < RECLAIM_MS_MIN || !shard__leads(s) || !s->serving || s->reclaiming ||
        s->uid == SHARD_META || since_ms < interval_ms(heap_retention_ms(s->heap))) {
        return;
    }
    s->reclaim_ms = now_ms;
    struct heap_counts counts;
    heap_get_counts(s->heap, &counts);
    if (counts.undo_count > 0) {
        propose(s);
    }
}
