/* What goes wrong, by mode and seed, and how it is taken back. */
#include <stdio.h>
#include <string.h>

#include "sim/cluster/cluster.h"
#include "sim/internal.h"

#define ELECTION_MS 1000u

static struct cluster_node *any_node(struct cluster *c)
{
    return &c->nodes[sim_below(c->sim, c->node_count)];
}

static uint32_t down(const struct cluster *c)
{
    return c->node_count - cluster_up(c);
}

struct leads {
    bool yes;
};

static void note_leads(void *arg, struct shard *shard)
{
    struct leads *leads = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    leads->yes = leads->yes || (info.state == CONSENSUS_LEADER && info.uid != SHARD_META);
}

/* A node that leads a shard with objects, if there is one: leaders are where faults hurt. */
static struct cluster_node *some_leader(struct cluster *c)
{
    struct cluster_node *n = any_node(c);
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *m = &c->nodes[(n->number - 1 + i) % c->node_count];
        struct replica *r = m->node == NULL ? NULL : node_replica(m->node);
        struct leads leads = {0};
        if (r != NULL) {
            replica_each_shard(r, note_leads, &leads);
        }
        if (leads.yes) {
            return m;
        }
    }
    return n;
}

static struct cluster_node *victim(struct cluster *c)
{
    return sim_below(c->sim, 2) == 0 ? some_leader(c) : any_node(c);
}

static uint64_t down_ms(struct cluster *c)
{
    return sim_below(c->sim, 3) == 0 ? 2000 + sim_below(c->sim, 4000)
                                     : 50 + sim_below(c->sim, 1500);
}

/* ---- single faults ---- */

static void crash(struct cluster *c)
{
    struct cluster_node *n = victim(c);
    if (n->env == NULL) {
        return;
    }
    enum sim_death how = sim_below(c->sim, 2) == 0 ? SIM_SIGKILL : SIM_POWER_LOSS;
    if (sim_below(c->sim, 3) == 0) {
        /* In the middle of what it does to its files. */
        uint32_t operations = (uint32_t)sim_below(c->sim, 40);
        cluster_say(c, "%s: dies in %u file operations", n->name, operations);
        n->restart_ns = sim_now_ns(c->sim) + down_ms(c) * SIM_MS;
        c->counts.crashes++;
        sim_proc_kill_in(n->env, how, operations);
        return;
    }
    cluster_kill(n, how, down_ms(c));
    if (sim_below(c->sim, 8) == 0) {
        cluster_kill(any_node(c), how, down_ms(c));
    }
}

/* What is on its way to the disk stays there long enough to be lost. */
static void slow_disks(struct cluster *c)
{
    uint32_t factor = sim_below(c->sim, 2) == 0 ? 1 : 60;
    for (uint32_t i = 0; i < c->node_count; i++) {
        sim_disk_slow(c->nodes[i].host, factor);
    }
}

static void all_down(struct cluster *c)
{
    uint64_t ms = 100 + sim_below(c->sim, 1000);
    for (uint32_t i = 0; i < c->node_count; i++) {
        cluster_kill(&c->nodes[i], sim_below(c->sim, 4) == 0 ? SIM_SIGKILL : SIM_POWER_LOSS,
                     ms + sim_below(c->sim, 500));
    }
}

static void cut(struct cluster *c, uint32_t a, uint32_t b, bool one_way)
{
    sim_net_cut(c->nodes[a].host, c->nodes[b].host, true);
    if (!one_way) {
        sim_net_cut(c->nodes[b].host, c->nodes[a].host, true);
    }
}

static void partition(struct cluster *c)
{
    uint32_t n = c->node_count, one = victim(c)->number - 1;
    c->counts.cuts++;
    switch (sim_below(c->sim, 6)) {
    case 0: /* one is alone */
    case 1: {
        bool clients = sim_below(c->sim, 2) == 0;
        cluster_say(c, "cut: n%u alone%s", one + 1, clients ? " with some clients" : "");
        for (uint32_t i = 0; i < n; i++) {
            if (i != one) {
                cut(c, one, i, false);
            }
        }
        /* Clients on both sides: an old leader that still answers some of them is seen to do so. */
        for (uint32_t i = 0; clients && i < c->client_count; i++) {
            bool inside = sim_below(c->sim, 2) == 0;
            for (uint32_t k = 0; k < n; k++) {
                if ((k == one) != inside) {
                    sim_net_cut(c->clients[i].host, c->nodes[k].host, true);
                    sim_net_cut(c->nodes[k].host, c->clients[i].host, true);
                    while (sim_net_reset_between(c->clients[i].host, c->nodes[k].host)) {
                    }
                }
            }
        }
        break;
    }
    case 2: /* a half each */
        cluster_say(c, "cut: halves");
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t k = 0; k < n; k++) {
                if (i < k && (i < n / 2) != (k < n / 2)) {
                    cut(c, (i + one) % n, (k + one) % n, false);
                }
            }
        }
        break;
    case 3: /* a ring: everybody misses one neighbour */
        cluster_say(c, "cut: n%u - n%u", one + 1, (one + 1) % n + 1);
        cut(c, one, (one + 1) % n, false);
        break;
    case 4:
        cluster_say(c, "cut: n%u speaks to nobody, but hears", one + 1);
        for (uint32_t i = 0; i < n; i++) {
            if (i != one) {
                cut(c, one, i, true);
            }
        }
        break;
    default: /* a bridge: all but one pair of sides meet only there */
        cluster_say(c, "cut: bridge at n%u", one + 1);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t k = i + 1; k < n; k++) {
                if (i != one && k != one && (i + k) % 2 == 1) {
                    cut(c, i, k, false);
                }
            }
        }
        break;
    }
}

static void network(struct cluster *c)
{
    c->counts.net_faults++;
    switch (sim_below(c->sim, 5)) {
    case 0:
        cluster_say(c, "net: loss");
        sim_net_loss(c->sim, (uint32_t)(10000 + sim_below(c->sim, 250000)));
        break;
    case 1:
    case 2:
        cluster_say(c, "net: resets");
        for (uint64_t i = 0; i < 1 + sim_below(c->sim, 6); i++) {
            (void)sim_net_reset_one(c->sim, NULL);
        }
        break;
    case 3:
        cluster_say(c, "net: half-open connections");
        for (uint64_t i = 0; i < 1 + sim_below(c->sim, 4); i++) {
            (void)sim_net_half_open_one(c->sim, NULL);
        }
        break;
    default: {
        struct cluster_node *a = victim(c), *b = any_node(c);
        cluster_say(c, "net: slow %s - %s", a->name, b->name);
        uint64_t delay = sim_below(c->sim, 400) * SIM_MS;
        sim_net_link(a->host, b->host, delay, delay / 2 + 1, 100000);
        sim_net_link(b->host, a->host, delay, delay / 2 + 1, 100000);
    }
    }
}

static void disk(struct cluster *c)
{
    struct cluster_node *n = victim(c);
    if (n->env == NULL) {
        return;
    }
    c->counts.disk_faults++;
    uint32_t skip = (uint32_t)sim_below(c->sim, 30);
    switch (sim_below(c->sim, 4)) {
    case 0:
    case 1:
        cluster_say(c, "%s: a sync will fail", n->name);
        sim_disk_fail_sync(n->host, skip);
        break;
    case 2:
        cluster_say(c, "%s: a write will fail", n->name);
        sim_disk_fail_write(n->host, skip);
        break;
    default:
        cluster_say(c, "%s: the disk is slow", n->name);
        sim_disk_slow(n->host, 100);
    }
    n->restart_ns = sim_now_ns(c->sim) + down_ms(c) * SIM_MS;
}

static void full(struct cluster *c)
{
    struct cluster_node *n = victim(c);
    uint64_t room = sim_below(c->sim, 3u << 20);
    cluster_say(c, "%s: %llu bytes left on the disk", n->name, (unsigned long long)room);
    sim_disk_limit(n->host, room);
    c->counts.full_windows++;
}

/* And how busy a node is, which is what leaders follow. */
static void clocks(struct cluster *c)
{
    struct cluster_node *n = any_node(c);
    c->counts.clock_jumps++;
    sim_host_busy(n->host, (uint32_t)sim_below(c->sim, 1001));
    if (sim_below(c->sim, 3) == 0 && n->env != NULL && down(c) == 0) {
        cluster_say(c, "%s: paused", n->name);
        c->counts.pauses++;
        sim_proc_pause(n->env, true);
        return;
    }
    int64_t us = (int64_t)sim_below(c->sim, 20000000) - 10000000;
    if (sim_below(c->sim, 4) == 0) {
        us *= 360; /* an hour */
    }
    cluster_say(c, "%s: clock jumps by %lld ms", n->name, (long long)us / 1000);
    sim_clock_jump(n->host, us);
    sim_clock_drift(n->host, (int32_t)sim_below(c->sim, 2000) - 1000);
}

/* Once a run, when nothing else is wrong: two lost disks of three are more than anybody survives.
 */
static void wipe(struct cluster *c)
{
    char why[256];
    if (c->wiped || down(c) != 0 || !cluster_settled(c, 100, why, sizeof why)) {
        return;
    }
    struct cluster_node *n = victim(c);
    c->wiped = true;
    n->wipe = true;
    cluster_kill(n, SIM_POWER_LOSS, down_ms(c));
}

static void bitrot(struct cluster *c)
{
    char why[256];
    if (c->wiped || down(c) != 0 || !cluster_settled(c, 100, why, sizeof why)) {
        return;
    }
    struct cluster_node *n = any_node(c);
    c->wiped = true; /* one damaged node a run */
    cluster_kill(n, SIM_POWER_LOSS, down_ms(c));
    for (uint64_t i = 0; i < 1 + sim_below(c->sim, 20); i++) {
        c->counts.bit_flips += sim_disk_flip_bit(n->host, NULL) ? 1 : 0;
    }
    cluster_say(c, "%s: bits flipped", n->name);
}

/* Takes back what lasts; nodes that are down come back by themselves. */
static void soothe(struct cluster *c)
{
    sim_net_heal(c->sim);
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *n = &c->nodes[i];
        sim_disk_heal(n->host);
        if (n->env != NULL && sim_proc_paused(n->env)) {
            sim_proc_pause(n->env, false);
        }
    }
}

/* One node after another, each only when the cluster is well again: what an upgrade does. */
static void rolling(struct cluster *c)
{
    char why[256];
    if (down(c) == 0 && cluster_settled(c, 100, why, sizeof why)) {
        cluster_stop(&c->nodes[c->nemesis_step++ % c->node_count], 100 + sim_below(c->sim, 700));
    }
}

static void strike(struct cluster *c)
{
    switch (c->mode) {
    case MODE_NONE:
        break;
    case MODE_CRASH:
        crash(c);
        break;
    case MODE_PARTITION:
        partition(c);
        break;
    case MODE_DISK:
        disk(c);
        break;
    case MODE_FULL:
        full(c);
        break;
    case MODE_CLOCK:
        clocks(c);
        break;
    case MODE_ROLLING:
        rolling(c);
        break;
    case MODE_WIPE:
        if (!c->wiped) {
            wipe(c);
        } else if (sim_below(c->sim, 2) == 0) {
            crash(c);
        }
        break;
    case MODE_NETWORK:
        network(c);
        break;
    case MODE_ALL_DOWN:
        all_down(c);
        break;
    case MODE_BITROT:
        bitrot(c);
        break;
    default:
        switch (sim_below(c->sim, 9)) {
        case 0:
        case 1:
            crash(c);
            break;
        case 2:
        case 3:
            partition(c);
            break;
        case 4:
            disk(c);
            break;
        case 5:
            full(c);
            break;
        case 6:
            clocks(c);
            break;
        case 7:
            wipe(c);
            break;
        default:
            network(c);
        }
    }
}

/* Strikes, lets it last, soothes, lets it recover; and again. */
static void nemesis(void *arg)
{
    struct cluster *c = arg;
    if (!c->faults) {
        return;
    }
    uint64_t now = sim_now_ns(c->sim), next;
    bool rest =
        c->mode == MODE_ROLLING || c->mode == MODE_BITROT || (c->mode == MODE_WIPE && !c->wiped);
    if (rest) {
        strike(c);
        next = now + 300 * SIM_MS;
    } else if (c->nemesis_step++ % 3 != 2) {
        strike(c);
        next = now + (200 + sim_below(c->sim, 3000)) * SIM_MS;
    } else {
        soothe(c);
        if (c->mode == MODE_CRASH || c->mode == MODE_ALL_DOWN) {
            slow_disks(c);
        }
        next = now + (200 + sim_below(c->sim, 3 * ELECTION_MS)) * SIM_MS;
    }
    sim_at(c->sim, next, nemesis, c);
}

void nemesis_start(struct cluster *c, uint64_t until_ns)
{
    c->faults = true;
    c->faults_end_ns = until_ns;
    sim_at(c->sim, sim_now_ns(c->sim) + 500 * SIM_MS, nemesis, c);
}

void nemesis_end(struct cluster *c)
{
    c->faults = false;
    cluster_say(c, "faults end");
    soothe(c);
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *n = &c->nodes[i];
        if (n->env == NULL && n->restart_ns > sim_now_ns(c->sim) + 200 * SIM_MS) {
            n->restart_ns = sim_now_ns(c->sim) + 200 * SIM_MS;
        }
        if (n->env != NULL) {
            sim_proc_kill_in(n->env, SIM_SIGKILL, UINT32_MAX); /* takes back an armed one */
        }
    }
}

uint64_t nemesis_applied(const struct cluster *c)
{
    const struct cluster_counts *k = &c->counts;
    struct sim_net_stats net;
    sim_net_get_stats(c->sim, &net);
    return k->crashes + k->power_losses + k->pauses + k->wipes + k->stops +
           (k->cuts > 0 ? net.blocked : 0) + k->net_faults + k->disk_faults + k->full_windows +
           k->clock_jumps + k->bit_flips;
}
