/* Outcomes of transactions wait for company. When they come to a shard, the client has its answer
 * and nobody needs them applied at once; an entry of their own would stand before the next prepare
 * in the log and on the disk, and cost as much as it. So they lie in the open batch, in their place
 * before everything that comes later, and go with the next command, after LAZY_MS, or when somebody
 * meets what they decide. */
#include "replica/internal.h"

#define LAZY_MS 4u /* up to twice as long: one timer for all shards */

static void lazy_run(struct env_timer *timer)
{
    struct replica *r = container_of(timer, struct replica, lazy);
    uint64_t now_ms = env_now_ms(r->env);
    while (!list_empty(&r->lazy_shards)) {
        struct shard *s = list_entry(r->lazy_shards.next, struct shard, lazy_link);
        if (now_ms - s->lazy_ms < LAZY_MS) {
            env_timer_start_in_ms(r->env, timer, LAZY_MS);
            return;
        }
        shard_hurry(s);
    }
}

void lazy_init(struct replica *r)
{
    list_init(&r->lazy_shards);
    r->lazy.cb = lazy_run;
}

void lazy_begin(struct shard *s)
{
    struct replica *r = s->r;
    if (!list_empty(&s->lazy_link)) {
        return;
    }
    s->lazy_ms = env_now_ms(r->env);
    list_push_back(&r->lazy_shards, &s->lazy_link);
    if (r->lazy.slot == 0) {
        env_timer_start_in_ms(r->env, &r->lazy, LAZY_MS);
    }
}

void lazy_end(struct shard *s)
{
    list_remove(&s->lazy_link);
}

void shard_hurry(struct shard *shard)
{
    struct batch *b = shard->open;
    if (b != NULL && b->count > 0 && b->lazy) {
        b->lazy = false;
        lazy_end(shard);
        replica__turn(shard);
    }
}
