/* Timers: one binary heap of all timers of the reactor, driven by one uv_timer. A heap of our own
 * and not a uv_timer for each, because a struct env_timer must be the same in the simulator, and
 * because thousands of shards re-arm theirs in every turn: here that is one sift, and the loop's
 * own timer moves at most once a turn. */
#include <sys/mman.h>

#include "base/assert.h"
#include "base/internal.h"

static void timer_put(struct env_uv *e, size_t i, struct env_timer *timer)
{
    e->timers[i] = timer;
    timer->slot = i + 1;
}

static void timer_sift_up(struct env_uv *e, size_t i)
{
    struct env_timer *timer = e->timers[i];
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (e->timers[parent]->at_ns <= timer->at_ns) {
            break;
        }
        timer_put(e, i, e->timers[parent]);
        i = parent;
    }
    timer_put(e, i, timer);
}

static void timer_sift_down(struct env_uv *e, size_t i)
{
    struct env_timer *timer = e->timers[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= e->timers_count) {
            break;
        }
        if (child + 1 < e->timers_count && e->timers[child + 1]->at_ns < e->timers[child]->at_ns) {
            child++;
        }
        if (timer->at_ns <= e->timers[child]->at_ns) {
            break;
        }
        timer_put(e, i, e->timers[child]);
        i = child;
    }
    timer_put(e, i, timer);
}

/* Puts the timer at `i` where its time belongs. */
static void timer_move(struct env_uv *e, size_t i)
{
    if (i > 0 && e->timers[(i - 1) / 2]->at_ns > e->timers[i]->at_ns) {
        timer_sift_up(e, i);
    } else {
        timer_sift_down(e, i);
    }
}

void env_uv__timer_start(struct env *env, struct env_timer *timer, uint64_t at_ns)
{
    struct env_uv *e = env_uv_of(env);
    assert(timer->cb != NULL);
    /* A time in the past becomes "just after now": while timers fire, now stands still, so that a
     * timer that always arms itself in the past fires once a turn and can't keep the loop from its
     * other work. */
    uint64_t now = env_uv__now_ns(env);
    timer->at_ns = at_ns > now ? at_ns : now + 1;
    if (timer->slot == 0) {
        assert(e->timers_count < TIMERS_MAX);
        e->timers_count++;
        timer_put(e, e->timers_count - 1, timer);
        timer_sift_up(e, e->timers_count - 1);
    } else {
        assert(timer->slot <= e->timers_count);
        assert(e->timers[timer->slot - 1] == timer);
        timer_move(e, timer->slot - 1);
    }
}

void env_uv__timer_stop(struct env *env, struct env_timer *timer)
{
    struct env_uv *e = env_uv_of(env);
    if (timer->slot == 0) {
        return;
    }
    size_t i = timer->slot - 1;
    assert(i < e->timers_count);
    assert(e->timers[i] == timer);
    timer->slot = 0;
    e->timers_count--;
    if (i != e->timers_count) {
        timer_put(e, i, e->timers[e->timers_count]);
        timer_move(e, i);
    }
}

static void timers_fire(uv_timer_t *handle)
{
    struct env_uv *e = handle->data;
    e->timer_armed_ms = 0;
    uint64_t now = env_uv__now_ns(&e->env);
    while (e->timers_count > 0 && e->timers[0]->at_ns <= now) {
        struct env_timer *timer = e->timers[0];
        env_uv__timer_stop(&e->env, timer);
        timer->cb(timer);
    }
}

void env_uv__timers_arm(struct env_uv *e)
{
    if (e->timers_count == 0) {
        /* Left armed it costs one idle wake-up; stopping it here and arming it again each turn
         * would cost more. */
        return;
    }
    uint64_t at_ms = (e->timers[0]->at_ns + 999999u) / 1000000u;
    if (e->timer_armed_ms != 0 && e->timer_armed_ms <= at_ms) {
        return; /* fires early, finds nothing due and is armed again */
    }
    /* uv_now() and uv_hrtime() count from the same start, so that the difference needs no clock of
     * its own. */
    uint64_t loop_ms = uv_now(&e->loop);
    int rv = uv_timer_start(&e->timer, timers_fire, at_ms > loop_ms ? at_ms - loop_ms : 0, 0);
    assert(rv == 0);
    e->timer_armed_ms = at_ms;
}

int env_uv__timers_open(struct env_uv *e)
{
    void *map = mmap(NULL, TIMERS_MAX * sizeof(struct env_timer *), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return ERR_NOMEM;
    }
    e->timers = map;
    return 0;
}

void env_uv__timers_close(struct env_uv *e)
{
    (void)munmap(e->timers, TIMERS_MAX * sizeof(struct env_timer *));
    e->timers = NULL;
}
