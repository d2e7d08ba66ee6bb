/* When the open batches of a node's shards become entries: together, in waves.
 *
 * One shard collects while its entry is in flight, so that its batches grow with the load. Commands
 * that are spread over many shards find none of theirs in flight, and each would go at once, by
 * itself: a message, a record of TLS, a log write and a waking on every node for one or two
 * commands. So the shards collect together: while a wave is in flight, what arrives waits, and all
 * that waits goes in one turn, as one message for each peer and one log write. The turn is one in
 * which the log is free to write: behind a write of several records a wave would wait there, and
 * the message that tells the others of that write's end has room for it. Waves of a few batches
 * don't make others wait, unless there was a large one just before.
 *
 * Batches of one wave mostly come back in one message, since they travelled in one. What doesn't
 * come back within WAVE_MS (no quorum, a slow disk) is counted no longer, so that a shard in
 * trouble can't hold up the others, and what is far away is pipelined. Full batches neither wait
 * nor count. */
#include "replica/internal.h"

#define WAVE_BATCHES 4u /* few at a time have nothing to gain from waiting for each other */
#define WAVE_MS      5u

static bool is_free(const struct replica *r)
{
    if (wal_gathers(r->wal)) {
        return false;
    }
    bool few = r->wave.most < WAVE_BATCHES && r->wave.before < WAVE_BATCHES;
    return r->wave.in_flight == 0 || few;
}

static void release(struct replica *r)
{
    while (!list_empty(&r->wave.waiting)) {
        struct shard *s = list_entry(r->wave.waiting.next, struct shard, wave_link);
        list_remove(&s->wave_link);
        replica__turn(s);
    }
}

/* Armed by one wave it looks at the one that is under way now, so that waves cost no timer. */
static void on_timer(struct env_timer *timer)
{
    struct replica *r = container_of(timer, struct replica, wave.timer);
    uint64_t age_ms = env_now_ms(r->env) - r->wave.begun_ms;
    if (list_empty(&r->wave.waiting)) {
        return;
    }
    if (age_ms < WAVE_MS) {
        env_timer_start_in_ms(r->env, timer, WAVE_MS - age_ms);
        return;
    }
    r->wave.number++;
    r->wave.in_flight = 0;
    r->wave.overdue = true;
    release(r);
}

void wave_init(struct replica *r)
{
    r->wave.number = 1;
    r->wave.timer.cb = on_timer;
    list_init(&r->wave.waiting);
}

void wave_close(struct replica *r)
{
    env_timer_stop(r->env, &r->wave.timer);
}

void wave_turn(struct replica *r)
{
    r->wave.open = r->wave.overdue || is_free(r);
    r->wave.overdue = false;
}

bool wave_take(struct shard *s)
{
    struct replica *r = s->r;
    if (r->wave.open) {
        return true;
    }
    if (list_empty(&s->wave_link)) {
        list_push_back(&r->wave.waiting, &s->wave_link);
    }
    if (r->wave.timer.slot == 0) {
        env_timer_start_in_ms(r->env, &r->wave.timer, WAVE_MS);
    }
    return false;
}

void wave_sent(struct replica *r, struct batch *b)
{
    uint64_t now_ms = env_now_ms(r->env);
    b->wave = r->wave.number;
    if (r->wave.in_flight == 0) {
        r->wave.before = now_ms - r->wave.begun_ms < WAVE_MS ? r->wave.most : 0;
        r->wave.most = 0;
    }
    r->wave.in_flight++;
    if (r->wave.in_flight > r->wave.most) {
        r->wave.most = r->wave.in_flight;
    }
    r->wave.begun_ms = now_ms;
}

void wave_landed(struct replica *r, struct batch *b)
{
    if (b->wave != r->wave.number) {
        return; /* a full one, or one that took too long */
    }
    b->wave = 0;
    assert(r->wave.in_flight > 0);
    r->wave.in_flight--;
    wave_written(r);
}

void wave_written(struct replica *r)
{
    if (is_free(r)) {
        release(r);
    }
}
