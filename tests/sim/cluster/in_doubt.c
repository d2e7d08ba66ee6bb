#include "sim/cluster/in_doubt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/txn.h"
#include "coord/coord.h"
#include "node/internal.h"
#include "sim/cluster/cluster.h"
#include "sim/internal.h"

#define LOOK_NS  (50 * SIM_MS)
#define LIMIT_NS (5 * SIM_SECOND)
#define SAY_NS   (500 * SIM_MS)

static struct in_doubt_record *record_of(struct in_doubt *d, uint64_t uid,
                                         const struct txn_name *name)
{
    for (uint32_t i = 0; i < d->count; i++) {
        struct in_doubt_record *r = &d->records[i];
        if (r->uid == uid && r->home == name->home && r->session == name->session &&
            r->seq == name->seq) {
            return r;
        }
    }
    return NULL;
}

/* For whoever replays a run: who works on it, and what it waits for. */
static void say(struct cluster *c, uint64_t uid, const struct txn_name *name, uint64_t age_ns)
{
    static const char *const purposes[] = {"commits", "recovers", "finishes"};
    static const char *const states[] = {"gathering", "committing", "aborting", "done"};
    static const char parts[] = "paynl+"; /* enum coord_part */
    cluster_say(
        c, "shard %" PRIu64 ": %" PRIu64 ".%" PRIu64 ".%" PRIu64 " in doubt for %" PRIu64 " ms",
        uid, name->home, name->session, name->seq, age_ns / SIM_MS);
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct coord_view view;
        char text[TX_PARTICIPANTS_MAX * 32] = "";
        struct node *node = c->nodes[i].node;
        if (node == NULL || node->coord == NULL || !coord_look(node->coord, name, &view)) {
            continue;
        }
        for (uint32_t k = 0; k < view.count; k++) {
            size_t len = strlen(text);
            (void)snprintf(text + len, sizeof text - len, " %" PRIu64 "%c(%u)", view.uids[k],
                           parts[view.parts[k]], view.tries[k]);
        }
        cluster_say(c, "   %s %s it, %s:%s", c->nodes[i].name, purposes[view.purpose],
                    states[view.state], text);
    }
}

static void look_at(struct cluster *c, uint64_t uid, const struct txn_name *name)
{
    struct in_doubt *d = &c->in_doubt;
    uint64_t now = sim_now_ns(c->sim);
    struct in_doubt_record *r = record_of(d, uid, name);
    if (r == NULL) {
        if (d->count < IN_DOUBT_MAX) {
            d->records[d->count++] = (struct in_doubt_record){.uid = uid,
                                                              .home = name->home,
                                                              .session = name->session,
                                                              .seq = name->seq,
                                                              .since_ns = now,
                                                              .there = true};
        }
        return;
    }
    r->there = true;
    if (d->healed_ns == 0) {
        return;
    }
    uint64_t age = now - (r->since_ns > d->healed_ns ? r->since_ns : d->healed_ns);
    d->longest_ns = age > d->longest_ns ? age : d->longest_ns;
    if (c->verbose && age >= SAY_NS && age % SAY_NS < LOOK_NS) {
        say(c, uid, name, age);
    }
    if (age > LIMIT_NS) {
        cluster_fail(c,
                     "shard %" PRIu64 ": transaction %" PRIu64 ".%" PRIu64 ".%" PRIu64
                     " is in doubt %" PRIu64 " ms after all was well",
                     uid, name->home, name->session, name->seq, age / SIM_MS);
    }
}

/* False: nobody leads the shard. */
static bool look_at_leader(struct cluster *c, uint64_t uid)
{
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct shard *shard = cluster_shard_on(&c->nodes[i], uid);
        struct shard_info info = {0};
        if (shard != NULL) {
            shard_get_info(shard, &info);
        }
        if (info.state != CONSENSUS_LEADER || !info.serving || info.failed) {
            continue;
        }
        struct txn_name name = {0, 0, 0};
        struct txn_record record;
        struct txn_counts counts;
        txn_count(shard_heap(shard), &counts);
        while (counts.prepared > 0 && txn_next(shard_heap(shard), &name, &record)) {
            if (record.state == TXN_PREPARED) {
                look_at(c, uid, &name);
            }
        }
        return true;
    }
    return false;
}

static void look(void *arg)
{
    struct cluster *c = arg;
    struct in_doubt *d = &c->in_doubt;
    uint64_t now = sim_now_ns(c->sim);
    if (c->closing) {
        return;
    }
    for (uint32_t i = 0; i < d->count; i++) {
        d->records[i].there = false;
    }
    struct shard_uids shards;
    cluster_shards(c, &shards);
    bool served = true;
    for (uint32_t s = 0; s < shards.count; s++) {
        served = look_at_leader(c, shards.uids[s]) && served;
    }
    if (c->faults || cluster_up(c) < c->node_count || !served) {
        d->healed_ns = 0;
    } else if (d->healed_ns == 0) {
        d->healed_ns = now;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < d->count; i++) {
        if (d->records[i].there) {
            d->records[kept++] = d->records[i];
        }
    }
    d->count = kept;
    sim_at(c->sim, now + LOOK_NS, look, c);
}

void in_doubt_start(struct cluster *c)
{
    look(c);
}
