/* Simulated nodes: each runs the real node core over its environment. */
#include "sim/cluster/cluster.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc/heap.h"
#include "alloc/txn.h"
#include "base/log.h"
#include "node/internal.h"
#include "sim/internal.h"

const char *const mode_names[MODE_COUNT] = {"none",    "crash",    "partition", "disk",
                                            "full",    "clock",    "rolling",   "wipe",
                                            "network", "all-down", "bitrot",    "mixed"};

static void supervise(void *arg);

void cluster_fail(struct cluster *c, const char *format, ...)
{
    if (c->bad) {
        return;
    }
    c->bad = true;
    int n = snprintf(c->why, sizeof c->why, "at %" PRIu64 " ms: ", sim_now_ns(c->sim) / SIM_MS);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(c->why + n, sizeof c->why - (size_t)n, format, args);
    va_end(args);
}

void cluster_say(struct cluster *c, const char *format, ...)
{
    if (!c->verbose) {
        return;
    }
    char line[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    (void)fprintf(stderr, "%9.3f %s\n", (double)sim_now_ns(c->sim) / 1e9, line);
}

/* ---- a node's life ---- */

static void on_fatal(void *arg, struct node *node, int err, const char *text)
{
    struct cluster_node *n = arg;
    struct cluster *c = n->cluster;
    (void)node;
    n->fatal = true;
    n->err = err;
    (void)snprintf(n->text, sizeof n->text, "%s", text);
    c->counts.fatal++;
    cluster_say(c, "%s: fatal %s: %s", n->name, err_name(err), text);
    /* The process says so and exits; the supervisor starts it again. */
    sim_proc_kill(n->env, SIM_SIGKILL);
}

/* What a node counted, before it goes. */
static void note_counters(struct cluster_node *n)
{
    struct replica *r = n->node == NULL ? NULL : node_replica(n->node);
    if (r != NULL) {
        struct replica_counters counters;
        replica_get_counters(r, &counters);
        n->cluster->counts.snapshots += counters.snapshots_installed;
        n->cluster->counts.elections += counters.elections;
    }
}

static const struct node_cbs node_cbs = {.on_fatal = on_fatal};

/* Outside of any turn: the process is dead, its memory goes. */
static void on_death(void *arg)
{
    struct cluster_node *n = arg;
    struct cluster *c = n->cluster;
    cluster_say(c, "%s: dead", n->name);
    if (n->node != NULL) {
        note_counters(n);
        node_free(n->node);
        n->node = NULL;
    }
    struct env *env = n->env;
    n->env = NULL;
    n->stopping = n->stopped = n->start_failed = false;
    sim_proc_free(env);
    uint64_t soonest = sim_now_ns(c->sim) + 50 * SIM_MS;
    if (n->restart_ns < soonest) {
        n->restart_ns = soonest + sim_below(c->sim, 1000 * SIM_MS);
    }
}

static void open_in_turn(void *arg)
{
    struct cluster_node *n = arg;
    struct err_text e = {""};
    struct node_config config = n->cluster->config;
    (void)snprintf(config.name, sizeof config.name, "%s", n->name);
    (void)snprintf(config.listen, sizeof config.listen, "%s:7420", n->name);
    config.election_ms = n->election_ms;
    struct node *node = NULL;
    int rv = node_open(n->env, &config, &node_cbs, n, &node, &e);
    n->node = node;
    n->err = rv;
    if (rv != 0) {
        assert(node == NULL);
        (void)snprintf(n->text, sizeof n->text, "%s", e.text);
        n->start_failed = true;
        sim_proc_kill(n->env, SIM_SIGKILL);
    }
}

static void node_start(struct cluster_node *n)
{
    struct cluster *c = n->cluster;
    assert(n->env == NULL && n->node == NULL);
    if (n->wipe) {
        n->wipe = false;
        sim_disk_wipe(n->host);
        c->counts.wipes++;
        n->refused = false;
        cluster_say(c, "%s: disk wiped", n->name);
    }
    n->starts++;
    n->fatal = false;
    n->err = 0;
    n->opened_ns = sim_now_ns(c->sim);
    cluster_say(c, "%s: start", n->name);
    n->env = sim_proc_start(n->host, ENV_ROLE_NODE, n->name);
    sim_proc_on_death(n->env, on_death, n);
    sim_proc_call(n->env, open_in_turn, n);
    if (n->env != NULL || n->err == 0) {
        return; /* it runs, or it died on the way by our own hand */
    }
    cluster_say(c, "%s: doesn't start: %s: %s", n->name, err_name(n->err), n->text);
    if (n->err == ERR_CORRUPT) {
        c->counts.refused++;
        if (c->mode != MODE_BITROT) {
            cluster_fail(c, "%s reports corruption that nobody made: %s", n->name, n->text);
        }
        n->wipe = true; /* what the operator does, with the others intact */
    } else if (n->err != ERR_IO && n->err != ERR_DISKFULL) {
        cluster_fail(c, "%s doesn't start: %s: %s", n->name, err_name(n->err), n->text);
    }
}

void cluster_kill(struct cluster_node *n, enum sim_death how, uint64_t down_ms)
{
    struct cluster *c = n->cluster;
    if (n->env == NULL) {
        return;
    }
    cluster_say(c, "%s: %s", n->name, how == SIM_SIGKILL ? "killed" : "power lost");
    n->restart_ns = sim_now_ns(c->sim) + down_ms * SIM_MS;
    if (how == SIM_SIGKILL) {
        c->counts.crashes++;
    } else {
        c->counts.power_losses++;
    }
    sim_proc_kill(n->env, how);
}

static void stopped_in_turn(void *arg)
{
    struct cluster_node *n = arg;
    n->stopped = true;
}

static void stop_in_turn(void *arg)
{
    struct cluster_node *n = arg;
    node_stop(n->node, stopped_in_turn, n);
}

void cluster_stop(struct cluster_node *n, uint64_t down_ms)
{
    struct cluster *c = n->cluster;
    if (n->node == NULL || n->stopping) {
        return;
    }
    cluster_say(c, "%s: stop", n->name);
    n->stopping = true;
    n->restart_ns = down_ms;
    c->counts.stops++;
    sim_proc_call(n->env, stop_in_turn, n);
}

static void node_stopped(struct cluster_node *n)
{
    struct cluster *c = n->cluster;
    if (n->node != NULL) {
        cluster_say(c, "%s: stopped", n->name);
        note_counters(n);
        node_free(n->node);
        n->node = NULL;
    }
    if (sim_proc_busy(n->env)) {
        return; /* a checkpoint that nobody waits for still writes */
    }
    struct env *env = n->env;
    n->env = NULL;
    n->stopping = n->stopped = false;
    n->restart_ns = sim_now_ns(c->sim) + n->restart_ns * SIM_MS;
    sim_proc_free(env);
}

static void note_failed(void *arg, struct shard *shard)
{
    struct shard_info info;
    shard_get_info(shard, &info);
    *(bool *)arg = *(bool *)arg || info.failed;
}

/* What an operator does about a shard that stopped for good: a restart, which is enough after a
 * disk that failed once; a new disk if it stays, which only damage on the old one excuses. */
static void tend(struct cluster_node *n)
{
    struct cluster *c = n->cluster;
    bool failed = false;
    if (n->node == NULL || n->stopping || node_replica(n->node) == NULL) {
        return;
    }
    replica_each_shard(node_replica(n->node), note_failed, &failed);
    if (!failed) {
        n->failed_starts = sim_now_ns(c->sim) > n->opened_ns + SIM_SECOND ? 0 : n->failed_starts;
        return;
    }
    c->counts.shards_failed++;
    cluster_say(c, "%s: a shard failed", n->name);
    if (++n->failed_starts > 1) {
        if (c->mode != MODE_BITROT) {
            cluster_fail(c, "%s: a shard is damaged after a restart, and nobody damaged it",
                         n->name);
            return;
        }
        n->wipe = true;
    }
    n->restart_ns = sim_now_ns(c->sim) + 300 * SIM_MS;
    sim_proc_kill(n->env, SIM_SIGKILL);
}

/* What an init system does: every 20 ms. */
static void supervise(void *arg)
{
    struct cluster *c = arg;
    uint64_t now = sim_now_ns(c->sim);
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *n = &c->nodes[i];
        tend(n);
        if (n->env != NULL && n->stopped) {
            node_stopped(n);
        } else if (n->env == NULL && n->restart_ns <= now && !c->closing) {
            c->counts.restarts++;
            node_start(n);
        }
    }
    sim_at(c->sim, now + 20 * SIM_MS, supervise, c);
}

uint32_t cluster_up(const struct cluster *c)
{
    uint32_t up = 0;
    for (uint32_t i = 0; i < c->node_count; i++) {
        const struct cluster_node *n = &c->nodes[i];
        up += n->node != NULL && !n->stopping && !sim_proc_paused(n->env) ? 1 : 0;
    }
    return up;
}

/* All at once, orderly: an end that must come by itself, and leave nothing. */
void cluster_end(struct cluster *c)
{
    c->closing = true;
    for (uint32_t i = 0; i < c->node_count; i++) {
        cluster_stop(&c->nodes[i], 0);
    }
    uint64_t until = sim_now_ns(c->sim) + 15 * SIM_SECOND;
    for (bool open = true; open && !c->bad;) {
        cluster_run_ms(c, 20);
        open = false;
        for (uint32_t i = 0; i < c->node_count; i++) {
            open = open || c->nodes[i].env != NULL;
        }
        if (open && sim_now_ns(c->sim) > until) {
            cluster_fail(c, "a node doesn't stop within 15 s");
        }
    }
}

void cluster_run_ms(struct cluster *c, uint64_t ms)
{
    uint64_t until = sim_now_ns(c->sim) + ms * SIM_MS;
    while (!c->bad && sim_now_ns(c->sim) < until) {
        uint64_t step = sim_now_ns(c->sim) + 10 * SIM_MS;
        sim_run_until(c->sim, step < until ? step : until);
    }
}

void cluster_open(struct cluster *c, uint64_t seed, enum fault_mode mode, bool verbose)
{
    memset(c, 0, sizeof *c);
    c->sim = sim_new(seed);
    c->transactions = transactions_new();
    bank_init(&c->bank, ACCOUNTS, ACCOUNTS_TOTAL);
    c->seed = seed;
    c->mode = mode;
    c->verbose = verbose;
    c->tame = mode == MODE_NONE || mode == MODE_ROLLING;
    c->node_count = sim_below(c->sim, 5) == 0 ? 5 : 3;
    c->client_count = 3 + (uint32_t)sim_below(c->sim, 4);
    c->shard_count = 2 + (uint32_t)sim_below(c->sim, CLUSTER_SHARDS_MAX - 1);
    c->think_us = 4000 + (uint32_t)sim_below(c->sim, 40000);
    log_set_clock(sim_log_clock, c->sim);
    struct node_config *config = &c->config;
    node_config_init(config);
    (void)snprintf(config->cluster, sizeof config->cluster, "sim");
    (void)snprintf(config->data_dir, sizeof config->data_dir, "/data");
    config->node_count = c->node_count;
    config->storage = NODE_STORAGE_DISK;
    config->checkpoint_log_bytes = 32768u << sim_below(c->sim, 5);
    config->wal_segment_bytes = 131072u << sim_below(c->sim, 3);
    config->wal_cache_bytes = 65536u << sim_below(c->sim, 4);
    /* Small enough that logs are cut short and laggards need a snapshot, in most runs. */
    config->wal_disk_bytes_max = config->wal_segment_bytes * (8 + sim_below(c->sim, 24));
    config->meta_bytes_max = 4u << 20;
    config->wal_direct = sim_below(c->sim, 2) == 0;
    config->leaders = (enum replica_leaders)sim_below(c->sim, REPLICA_LEADERS_GATHER + 1);
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *n = &c->nodes[i];
        n->cluster = c;
        n->number = i + 1;
        (void)snprintf(n->name, sizeof n->name, "n%u", i + 1);
        n->host = sim_host_new(c->sim, n->name);
        /* Safety doesn't rest on timeouts: a leader that gives up late must not be believed. */
        n->election_ms = sim_below(c->sim, 4) == 0 ? 3000 : 1000;
        sim_clock_jump(n->host, (int64_t)sim_below(c->sim, 20000) - 10000);
        config->nodes[i].number = i + 1;
        (void)snprintf(config->nodes[i].name, sizeof config->nodes[i].name, "%s", n->name);
        (void)snprintf(config->nodes[i].address, sizeof config->nodes[i].address, "%s:7420",
                       n->name);
    }
    for (uint32_t i = 0; i < c->node_count; i++) {
        node_start(&c->nodes[i]);
    }
    supervise(c);
    in_doubt_start(c);
}

void cluster_close(struct cluster *c)
{
    for (uint32_t i = 0; i < c->node_count; i++) {
        if (c->nodes[i].env != NULL) {
            sim_proc_kill(c->nodes[i].env, SIM_SIGKILL); /* on_death frees */
        }
    }
    mortals_free(c);
    clients_free(c);
    log_set_clock(NULL, NULL);
    sim_free(c->sim);
    history_close(&c->history);
    transactions_free(c);
}

/* ---- replicas compared ---- */

static void note_shard(void *arg, struct shard *shard)
{
    struct shard_uids *out = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->uids[i] == info.uid) {
            return;
        }
    }
    if (out->count < sizeof out->uids / sizeof out->uids[0]) {
        out->uids[out->count++] = info.uid;
    }
}

struct shard *cluster_shard_on(const struct cluster_node *n, uint64_t uid)
{
    struct replica *r = n->node == NULL ? NULL : node_replica(n->node);
    return r == NULL ? NULL : replica_shard(r, uid);
}

void cluster_shards(struct cluster *c, struct shard_uids *out)
{
    out->count = 0;
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *n = &c->nodes[i];
        if (n->node != NULL && node_replica(n->node) != NULL) {
            replica_each_shard(node_replica(n->node), note_shard, out);
        }
    }
}

/* Every shard has one leader, and every member of its configuration applied the log but for the
 * last `lag` entries. */
bool cluster_settled(struct cluster *c, uint64_t lag, char *why, size_t why_bytes)
{
    struct shard_uids v;
    cluster_shards(c, &v);
    if (v.count < 1 + c->shard_count) {
        (void)snprintf(why, why_bytes, "only %u shards are anywhere", v.count);
        return false;
    }
    for (uint32_t s = 0; s < v.count; s++) {
        struct shard_info leader = {0};
        uint32_t leaders = 0;
        for (uint32_t i = 0; i < c->node_count; i++) {
            struct shard *shard = cluster_shard_on(&c->nodes[i], v.uids[s]);
            struct shard_info info;
            if (shard != NULL) {
                shard_get_info(shard, &info);
                if (info.state == CONSENSUS_LEADER && info.serving) {
                    leaders++;
                    leader = info;
                }
            }
        }
        if (leaders != 1) {
            (void)snprintf(why, why_bytes, "shard %" PRIu64 " has %u leaders that serve", v.uids[s],
                           leaders);
            return false;
        }
        uint32_t members = 0, voters = 0;
        for (uint32_t m = 0; m < leader.config.count; m++) {
            const struct consensus_server *server = &leader.config.servers[m];
            uint32_t node = replica_id_node(server->id);
            struct shard *shard = node >= 1 && node <= c->node_count
                                      ? cluster_shard_on(&c->nodes[node - 1], v.uids[s])
                                      : NULL;
            struct shard_info info = {0};
            if (shard != NULL) {
                shard_get_info(shard, &info);
            }
            if (info.replica_id != server->id || info.failed || info.installing ||
                info.applied_index + lag < leader.last_index ||
                leader.applied_index + lag < leader.last_index) {
                (void)snprintf(why, why_bytes,
                               "shard %" PRIu64 ": member %" PRIx64 " on n%u: id %" PRIx64
                               " failed %d installing %d applied %" PRIu64 " of %" PRIu64,
                               v.uids[s], server->id, node, info.replica_id, info.failed,
                               info.installing, info.applied_index, leader.last_index);
                return false;
            }
            members++;
            voters += server->role == CONSENSUS_VOTER ? 1 : 0;
        }
        uint32_t wanted = v.uids[s] == SHARD_META ? c->node_count : 3;
        if (voters != wanted || members != wanted) {
            (void)snprintf(why, why_bytes,
                           "shard %" PRIu64 " has %u members, %u of them voters, not %u", v.uids[s],
                           members, voters, wanted);
            return false;
        }
        struct txn_counts undecided = {0};
        txn_count(shard_heap(cluster_shard_on(&c->nodes[leader.leader_node - 1], v.uids[s])),
                  &undecided);
        if (undecided.prepared > 0) {
            (void)snprintf(why, why_bytes, "shard %" PRIu64 " has %u undecided transactions",
                           v.uids[s], undecided.prepared);
            return false;
        }
    }
    return true;
}

static void dump_shard(void *arg, struct shard *shard)
{
    static const char *const states[] = {"unavailable", "follower", "candidate", "leader"};
    struct shard_info info;
    (void)arg;
    shard_get_info(shard, &info);
    (void)fprintf(stderr,
                  "     shard %-3" PRIu64 " id %" PRIx64 " %s of n%u term %" PRIu64 " log %" PRIu64
                  "..%" PRIu64 " commit %" PRIu64 " applied %" PRIu64 " checkpoint %" PRIu64
                  "%s%s%s members",
                  info.uid, info.replica_id, states[info.state], info.leader_node, info.term,
                  info.first_index, info.last_index, info.commit_index, info.applied_index,
                  info.checkpoint_index, info.serving ? " serving" : "",
                  info.failed ? " FAILED" : "", info.installing ? " installing" : "");
    for (uint32_t i = 0; i < info.config.count; i++) {
        (void)fprintf(stderr, " %" PRIx64 "%s", info.config.servers[i].id,
                      info.config.servers[i].role == CONSENSUS_VOTER ? "" : "-");
    }
    (void)fprintf(stderr, "\n");
}

void cluster_dump(struct cluster *c)
{
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct cluster_node *n = &c->nodes[i];
        struct node_health health = {0};
        struct sim_disk_stats disk;
        sim_disk_get_stats(n->host, &disk);
        if (n->node != NULL) {
            node_get_health(n->node, &health);
        }
        (void)fprintf(stderr,
                      "  %s: %s phase %d connections %" PRIu64 "%s, disk used %" PRIu64 "\n",
                      n->name, n->env == NULL ? "down" : "up", health.phase, health.connections,
                      health.disk_full ? " DISK FULL" : "", disk.used);
        if (n->node != NULL && node_replica(n->node) != NULL) {
            replica_each_shard(node_replica(n->node), dump_shard, NULL);
        }
    }
}

void cluster_check_replicas(struct cluster *c)
{
    struct shard_uids v;
    cluster_shards(c, &v);
    for (uint32_t s = 0; s < v.count; s++) {
        uint64_t digest = 0, index = 0;
        uint32_t first = 0;
        for (uint32_t i = 0; i < c->node_count; i++) {
            struct shard *shard = cluster_shard_on(&c->nodes[i], v.uids[s]);
            if (shard == NULL) {
                continue;
            }
            uint64_t at = 0, d = shard_digest(shard, &at);
            struct err_text e = {""};
            int rv = heap_check(shard_heap(shard), &e);
            if (rv != 0) {
                cluster_fail(c, "shard %" PRIu64 " on n%u is damaged: %s", v.uids[s], i + 1,
                             e.text);
            }
            if (first == 0) {
                first = i + 1;
                digest = d;
                index = at;
            } else if (d != digest || at != index) {
                cluster_fail(c,
                             "shard %" PRIu64 " differs: n%u at %" PRIu64 " %016" PRIx64
                             ", n%u at %" PRIu64 " %016" PRIx64,
                             v.uids[s], first, index, digest, i + 1, at, d);
            }
        }
    }
}

uint64_t cluster_asks(const struct cluster *c)
{
    uint64_t asks = 0;
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct coord_stats stats = {0};
        if (c->nodes[i].node != NULL && c->nodes[i].node->coord != NULL) {
            coord_get_stats(c->nodes[i].node->coord, &stats);
        }
        asks += stats.asks;
    }
    return asks;
}
