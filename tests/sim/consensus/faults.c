/* What goes wrong, and the operator who replaces replicas meanwhile. */
#include "base/assert.h"
#include "base/err.h"
#include "cluster.h"

#include <string.h>

void faults_draw(struct cluster *cl)
{
    struct rng *r = &cl->rng;
    struct profile *p = &cl->profile;
    p->replicas = rng_chance(r, 600) ? 3 : 5;
    p->loss = (uint32_t)(rng_chance(r, 500) ? rng_below(r, 300) : rng_below(r, 30));
    p->duplicate = (uint32_t)rng_below(r, 300);
    p->reorder = (uint32_t)rng_below(r, 600);
    p->delay_ms_max = (uint32_t)rng_between(r, 2, 80);
    p->crash = (uint32_t)rng_below(r, 120);
    p->pause = (uint32_t)rng_below(r, 60);
    p->partition = (uint32_t)rng_below(r, 120);
    p->slow_disk = (uint32_t)rng_below(r, 150);
    p->transfer = (uint32_t)rng_below(r, 100);
    p->checkpoint = (uint32_t)rng_below(r, 400);
    p->install_fail = (uint32_t)rng_below(r, 500);
    p->member = (uint32_t)(rng_chance(r, 600) ? rng_below(r, 1000) : 0);
    p->wipe = (uint32_t)rng_below(r, 400);
    p->submit_ms = (uint32_t)rng_between(r, 3, 40);
    p->batch_max = (uint32_t)rng_between(r, 1, 64);
    p->apply_durable_only = rng_chance(r, 500);
}

static struct node *random_node(struct cluster *cl)
{
    return &cl->nodes[rng_below(&cl->rng, cl->node_count)];
}

static void cut_both(struct cluster *cl, uint32_t a, uint32_t b)
{
    cl->cut[a][b] = cl->cut[b][a] = true;
}

static void partition(struct cluster *cl)
{
    cl->stats.partitions++;
    cl->heal_at = cl->now + rng_between(&cl->rng, 20, 600);
    uint32_t n = cl->node_count;
    uint64_t side = rng_next(&cl->rng);
    struct node *leader = cluster_leader(cl);
    switch (rng_below(&cl->rng, 5)) {
    case 0: /* two halves */
        for (uint32_t a = 0; a < n; a++) {
            for (uint32_t b = 0; b < a; b++) {
                if (((side >> a) & 1) != ((side >> b) & 1)) {
                    cut_both(cl, a, b);
                }
            }
        }
        break;
    case 1: /* one alone, most often the leader */
    {
        uint32_t x =
            (uint32_t)((leader != NULL && rng_chance(&cl->rng, 700) ? leader : random_node(cl)) -
                       cl->nodes);
        for (uint32_t b = 0; b < n; b++) {
            cut_both(cl, x, b);
        }
        break;
    }
    case 2: /* one way: one hears nobody, or nobody hears it */
    {
        uint32_t x = (uint32_t)(random_node(cl) - cl->nodes);
        for (uint32_t b = 0; b < n; b++) {
            if (side & 1) {
                cl->cut[x][b] = true;
            } else {
                cl->cut[b][x] = true;
            }
        }
        break;
    }
    case 3: /* single links */
        for (uint32_t i = 0; i < n; i++) {
            cl->cut[rng_below(&cl->rng, n)][rng_below(&cl->rng, n)] = true;
        }
        break;
    default: /* a ring: everyone sees its neighbours only */
        for (uint32_t a = 0; a < n; a++) {
            for (uint32_t b = 0; b < a; b++) {
                if (a - b != 1 && a - b != n - 1) {
                    cut_both(cl, a, b);
                }
            }
        }
        break;
    }
    trace(cl, "partition");
}

void faults_step(struct cluster *cl)
{
    struct rng *r = &cl->rng;
    const struct profile *p = &cl->profile;
    if (cl->heal_at <= cl->now) {
        memset(cl->cut, 0, sizeof cl->cut);
        cl->heal_at = UINT64_MAX;
        trace(cl, "network healed");
    } else if (cl->heal_at == UINT64_MAX && rng_chance(r, p->partition)) {
        partition(cl);
    }
    if (rng_chance(r, p->crash)) {
        struct node *n = random_node(cl);
        if (n->alive) {
            cl->stats.crashes++;
            node_crash(cl, n);
        }
        if (rng_chance(r, 50)) { /* the power goes */
            for (uint32_t i = 0; i < cl->node_count; i++) {
                if (cl->nodes[i].alive) {
                    cl->stats.crashes++;
                    node_crash(cl, &cl->nodes[i]);
                }
            }
        }
    }
    for (uint32_t i = 0; i < cl->node_count; i++) {
        struct node *n = &cl->nodes[i];
        if (!n->alive && !n->wiped && rng_chance(r, 200)) {
            node_start(cl, n);
        }
        if (n->alive && rng_chance(r, p->checkpoint)) {
            node_checkpoint(cl, n);
        }
    }
    struct node *n = random_node(cl);
    if (rng_chance(r, p->slow_disk)) {
        n->disk_ms_max =
            (uint32_t)(rng_chance(r, 300) ? rng_between(r, 50, 500) : rng_between(r, 0, 20));
    }
    if (n->alive && rng_chance(r, p->pause)) {
        n->paused_until = cl->now + rng_between(r, 10, 400);
    }
    struct node *leader = cluster_leader(cl);
    if (leader != NULL && rng_chance(r, p->transfer)) {
        struct consensus_update *u;
        uint64_t to = rng_chance(r, 300) ? 0 : random_node(cl)->id;
        int rv = consensus_transfer(leader->c, cl->now, to, &u);
        if (rv == 0) {
            cl->stats.transfers++;
            trace(cl, "%llu hands over to %llu", (unsigned long long)leader->id,
                  (unsigned long long)to);
            node_update(cl, leader, u);
        }
    }
}

void faults_stop(struct cluster *cl)
{
    cl->faults = false;
    memset(cl->cut, 0, sizeof cl->cut);
    for (uint32_t i = 0; i < cl->node_count; i++) {
        struct node *n = &cl->nodes[i];
        n->paused_until = 0;
        if (!n->alive && !n->wiped) {
            node_start(cl, n);
        }
    }
    trace(cl, "all faults stop");
}

/* ---- membership
 * ------------------------------------------------------------------------------------------ */

static void change(struct cluster *cl, struct node *leader, const struct consensus_config *config)
{
    struct consensus_update *u;
    int rv = consensus_submit_change(leader->c, cl->now, config, &u);
    assert(rv == 0 || rv == ERR_BUSY || rv == ERR_NOTLEADER);
    if (rv == 0) {
        cl->stats.changes++;
        trace(cl, "%llu changes the configuration to %u servers", (unsigned long long)leader->id,
              config->count);
        node_update(cl, leader, u);
    }
}

static void remove_server(struct consensus_config *config, uint32_t at)
{
    config->servers[at] = config->servers[--config->count];
}

static void add_replica(struct cluster *cl, struct node *leader, struct consensus_config *config)
{
    if (cl->node_count == NODES_OF_RUN_MAX) {
        return;
    }
    struct node *n = node_create(cl, 101 + cl->node_count);
    node_start(cl, n);
    config->servers[config->count++] =
        (struct consensus_server){.id = n->id, .role = CONSENSUS_STANDBY};
    change(cl, leader, config);
}

/* A standby is caught up and promoted; one that is gone, removed. */
static void mind_standby(struct cluster *cl, struct node *leader, struct consensus_config *config,
                         uint32_t at)
{
    uint64_t id = config->servers[at].id;
    if (cluster_node(cl, id)->wiped) {
        remove_server(config, at);
        change(cl, leader, config);
        return;
    }
    struct consensus_update *u;
    switch (consensus_catch_up_status(leader->c, id)) {
    case 3:
        config->servers[at].role = CONSENSUS_VOTER;
        change(cl, leader, config);
        break;
    case 1:
        break;
    default:
        if (consensus_catch_up(leader->c, cl->now, id, &u) == 0) {
            node_update(cl, leader, u);
        }
        break;
    }
}

/* Whether losing one more disk for ever leaves a majority whatever happens next: everyone whose log
 * counts votes in the full configuration and nobody knows of another one. */
static bool may_wipe(struct cluster *cl, struct node *leader, const struct consensus_config *config)
{
    if (cl->chosen_count < 2 ||
        cl->chosen[cl->chosen_count - 1].term != consensus_term(leader->c) ||
        consensus_change_pending(leader->c)) {
        return false;
    }
    for (uint32_t i = 0; i < config->count; i++) {
        struct node *n = cluster_node(cl, config->servers[i].id);
        if (config->servers[i].role != CONSENSUS_VOTER || !n->alive ||
            consensus_change_pending(n->c)) {
            return false;
        }
    }
    return config->count == cl->profile.replicas;
}

void admin_step(struct cluster *cl)
{
    struct node *leader = cluster_leader(cl);
    if (leader == NULL || !rng_chance(&cl->rng, cl->profile.member) ||
        leader->paused_until > cl->now) {
        return;
    }
    struct consensus_config config;
    uint32_t voters = 0, wiped = UINT32_MAX, standby = UINT32_MAX;
    consensus_get_config(leader->c, &config);
    for (uint32_t i = 0; i < config.count; i++) {
        bool voter = config.servers[i].role == CONSENSUS_VOTER;
        voters += voter;
        if (!voter) {
            standby = i;
        } else if (cluster_node(cl, config.servers[i].id)->wiped) {
            wiped = i;
        }
    }
    if (standby != UINT32_MAX) {
        mind_standby(cl, leader, &config, standby);
    } else if (voters > cl->profile.replicas) {
        remove_server(&config,
                      wiped != UINT32_MAX ? wiped : (uint32_t)rng_below(&cl->rng, config.count));
        change(cl, leader, &config);
    } else if (wiped != UINT32_MAX) {
        add_replica(cl, leader, &config);
    } else if (may_wipe(cl, leader, &config) && cl->node_count < NODES_OF_RUN_MAX &&
               rng_chance(&cl->rng, cl->profile.wipe)) {
        struct node *n = cluster_node(cl, config.servers[rng_below(&cl->rng, config.count)].id);
        cl->stats.wipes++;
        node_crash(cl, n);
        n->wiped = true;
        trace(cl, "%llu loses its disk", (unsigned long long)n->id);
    } else if (rng_chance(&cl->rng, 300)) {
        add_replica(cl, leader, &config);
    } else if (rng_chance(&cl->rng, 200)) {
        config.servers[rng_below(&cl->rng, config.count)].role = CONSENSUS_STANDBY;
        change(cl, leader, &config);
    }
}
