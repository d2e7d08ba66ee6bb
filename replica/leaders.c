/* Whether leaders are gathered or spread when they follow the load (placement.leaders: auto,
 * docs/adr/0009-leaders.md).
 *
 * Once a second every node tells all others how busy its loop is, with the question about their
 * clocks (clock.c). Who leads the meta shard decides for all, so that no two leaders draw the same
 * shard to and fro, and says so in the same message:
 *
 *   gathered --one loop is busy--> spread --all loops together do little--> gathered
 *
 * Between the two bounds nothing changes, and for a while after a change neither: moving costs an
 * election for each shard, and work that shows as load. A cluster begins gathered. A new leader of
 * the meta shard goes on from what it was told last, and when; nothing of it is durable. */
#include "base/log.h"
#include "replica/internal.h"

#define SAMPLE_MS   1000u
#define SMOOTH      8u   /* samples that weigh, about */
#define SPREAD_BUSY 750u /* thousandths of a processor, of any node: more spreads */
#define GATHER_BUSY 400u /* of all nodes together: less gathers */
#define SETTLE_MS   60000u
#define WORD_MS_MAX 5000u /* older words say nothing */

static void sample(struct replica *r, uint64_t now_ms)
{
    struct leaders *l = &r->leaders;
    uint64_t cpu_ns = env_cpu_ns(r->env);
    uint64_t ms = now_ms - l->sample_ms;
    if (l->sample_ms != 0 && ms > 0) {
        uint64_t busy = (cpu_ns - l->cpu_ns) / (ms * 1000u);
        int64_t step = (int64_t)(busy > 1000u ? 1000u : busy) * 16 - l->busy_16ths;
        l->busy_16ths += (int32_t)(step / (int64_t)SMOOTH);
    }
    l->cpu_ns = cpu_ns;
    l->sample_ms = now_ms;
}

uint16_t leaders_busy(const struct replica *r)
{
    return (uint16_t)(r->leaders.busy_16ths / 16);
}

static void decide(struct replica *r, uint64_t now_ms)
{
    struct leaders *l = &r->leaders;
    uint32_t most = leaders_busy(r);
    uint32_t all = most;
    for (uint32_t i = 0; i < r->peer_count; i++) {
        const struct peer *p = &r->peers[i];
        if (p->busy_ms == 0 || now_ms - p->busy_ms > WORD_MS_MAX) {
            continue;
        }
        most = p->busy > most ? p->busy : most;
        all += p->busy;
    }
    bool spread = l->spread ? all >= GATHER_BUSY : most > SPREAD_BUSY;
    if (spread == l->spread || (l->changed_ms != 0 && now_ms - l->changed_ms < SETTLE_MS)) {
        return;
    }
    l->spread = spread;
    l->changed_ms = now_ms;
    log_info("replica",
             spread ? "leaders are spread over the nodes: one of these is busy"
                    : "leaders are gathered: the nodes do little",
             "busiest_permille=%u all_permille=%u", most, all);
}

void leaders_tick(struct replica *r, uint64_t now_ms)
{
    if (now_ms - r->leaders.sample_ms < SAMPLE_MS) {
        return;
    }
    sample(r, now_ms);
    if (r->opts.leaders == REPLICA_LEADERS_AUTO && r->meta != NULL && !r->meta->failed &&
        shard__leads(r->meta)) {
        decide(r, now_ms);
    }
}

void leaders_on_word(struct replica *r, uint32_t node, uint16_t busy, bool spread, bool stopping)
{
    struct peer *peer = replica__peer(r, node);
    if (peer == NULL) {
        return;
    }
    peer->stopping = stopping;
    peer->busy = busy;
    peer->busy_ms = env_now_ms(r->env);
    if (r->meta != NULL && !r->meta->failed && !shard__leads(r->meta) &&
        replica_id_node(consensus_leader(r->meta->consensus)) == node) {
        /* Should this node lead the meta shard next, it lets the change settle as well. */
        r->leaders.changed_ms = spread != r->leaders.spread ? peer->busy_ms : r->leaders.changed_ms;
        r->leaders.spread = spread;
    }
}

bool leaders_may_be_on(struct replica *r, uint32_t node)
{
    const struct peer *peer = replica__peer(r, node);
    return peer != NULL ? !peer->stopping : !r->stopping;
}

bool leaders_are_gathered(const struct replica *r)
{
    return r->opts.leaders == REPLICA_LEADERS_GATHER ||
           (r->opts.leaders == REPLICA_LEADERS_AUTO && !r->leaders.spread);
}

void replica_get_load(const struct replica *r, struct replica_load *out)
{
    out->busy_permille = leaders_busy(r);
    out->gathered = leaders_are_gathered(r);
}
