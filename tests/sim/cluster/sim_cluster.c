/* Whole clusters under virtual time, one per seed: real nodes and clients, simulated machines.
 *
 *   sim_cluster [--seed N] [--seeds|--count COUNT] [--seconds S] [--mode NAME] [--verbose] [--log
 * LEVEL]
 *
 * Each run: start, load without faults, load under the faults of its mode (seed by seed another
 * one), faults end, every shard must serve within 10 election timeouts, load on, then all replicas
 * must become equal, everything is read once more, and the histories are checked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "sim/cluster/cluster.h"

/* What a killed process held is nobody's leak. Where nobody is killed, ASAN_OPTIONS=detect_leaks=1.
 */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

#define RECOVER_MS       (10 * 1000u)
#define RECOVER_CLOCK_MS (20 * 1000u)
#define SETTLE_MS        (40 * 1000u)

struct run {
    uint64_t seed, seconds;
    enum fault_mode mode;
    bool verbose;
    uint64_t trace, ok;
};

static void recover(struct cluster *c)
{
    /* Nodes that were down just now, or replay, get their time to be up at all. */
    uint64_t until = sim_now_ns(c->sim) + 5 * SIM_SECOND;
    while (!c->bad && cluster_up(c) < c->node_count && sim_now_ns(c->sim) < until) {
        cluster_run_ms(c, 20);
    }
    /* Nodes whose clocks are off leave elections to others for eight election timeouts, also where
     * the only one whose clock is right lacks an entry and can't win. */
    bool jumped = c->mode == MODE_CLOCK || c->mode == MODE_MIXED;
    cluster_run_ms(c, jumped ? RECOVER_CLOCK_MS : RECOVER_MS);
    c->calm = true; /* what fails from here on has no excuse */
    cluster_say(c, "calm");
    uint64_t before = c->counts.ok;
    cluster_run_ms(c, 2000);
    if (!c->bad && c->counts.ok == before) {
        cluster_fail(c, "nothing succeeds after the faults have ended");
    }
}

/* Calls of before the calm may still fail for reasons of then: they end before it counts. */
static void settle(struct cluster *c)
{
    clients_quiet(c);
    uint64_t until = sim_now_ns(c->sim) + SETTLE_MS * SIM_MS;
    char why[300] = "clients still wait for answers";
    while (!c->bad && sim_now_ns(c->sim) < until) {
        if (clients_idle(c) && cluster_settled(c, 0, why, sizeof why)) {
            return;
        }
        cluster_run_ms(c, 50);
    }
    cluster_fail(c, "not settled %u s after the last operation: %s", SETTLE_MS / 1000, why);
}

static void finish(struct cluster *c)
{
    cluster_check_replicas(c);
    if (!c->bad) {
        clients_final_reads(c);
    }
    uint64_t until = sim_now_ns(c->sim) + 20 * SIM_SECOND;
    while (!c->bad && !clients_idle(c)) {
        cluster_run_ms(c, 20);
        if (sim_now_ns(c->sim) > until) {
            cluster_fail(c, "the last reads don't end");
        }
    }
    clients_check(c);
    if (!c->bad) {
        watchers_check(c);
    }
    if (!c->bad) {
        clients_stop(c);
    }
    if (!c->bad) {
        cluster_end(c);
    }
    if (!c->bad && c->counts.ok == 0) {
        cluster_fail(c, "nothing succeeded: this proves nothing");
    }
    if (!c->bad && c->tame && c->counts.at_one_time == 0) {
        cluster_fail(c, "nothing was read at one time: this proves nothing of snapshots");
    }
    if (!c->bad && c->tame && c->counts.relay_reads == 0) {
        cluster_fail(c, "no relay was read: this proves nothing of strict reads");
    }
    if (!c->bad && c->mode != MODE_NONE && nemesis_applied(c) == 0) {
        cluster_fail(c, "no fault was applied: this proves nothing");
    }
}

static bool run_one(struct run *run)
{
    static struct cluster c;
    struct timespec t0, t1;
    (void)clock_gettime(CLOCK_MONOTONIC, &t0);
    cluster_open(&c, run->seed, run->mode, run->verbose);
    clients_start(&c);
    if (!c.bad) {
        clients_go(&c);
        cluster_run_ms(&c, 1000);
        nemesis_start(&c, 0);
        if (!c.tame) {
            mortals_start(&c);
        }
        cluster_run_ms(&c, run->seconds * 1000);
        nemesis_end(&c);
        recover(&c);
    }
    if (!c.bad) {
        settle(&c);
    }
    if (!c.bad) {
        finish(&c);
    }
    if (c.bad && run->verbose) {
        cluster_dump(&c);
    }
    run->trace = sim_trace_hash(c.sim);
    run->ok = c.counts.ok;
    const struct cluster_counts *k = &c.counts;
    struct sim_net_stats net;
    sim_net_get_stats(c.sim, &net);
    (void)clock_gettime(CLOCK_MONOTONIC, &t1);
    double took = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
    uint64_t events = sim_events(c.sim);
    uint64_t virtual_ms = sim_now_ns(c.sim) / SIM_MS;
    bool bad = c.bad;
    printf("%s seed %" PRIu64 " %s n%u s%u: ops ok %" PRIu64 " tx %" PRIu64 " deaths %" PRIu64
           " audits %" PRIu64 "+%" PRIu64 " at one time %" PRIu64 " doubt %" PRIu64
           " ms conflict %" PRIu64 " failed %" PRIu64 " unknown %" PRIu64 "; kills %" PRIu64
           " power %" PRIu64 " pauses %" PRIu64 " stops %" PRIu64 " wipes %" PRIu64 " cuts %" PRIu64
           " net %" PRIu64 " disk %" PRIu64 " full %" PRIu64 " clock %" PRIu64 " bits %" PRIu64
           " fatal %" PRIu64 " shards failed %" PRIu64 " refused %" PRIu64 " installs %" PRIu64
           "; %.1f s virtual, %" PRIu64 " events, %.2f s, trace %016" PRIx64 "\n",
           bad ? "FAIL" : "ok  ", run->seed, mode_names[run->mode], c.node_count, c.shard_count,
           k->ok, k->transactions, k->deaths, c.bank.audits - k->past_audits, k->past_audits,
           k->at_one_time, c.in_doubt.longest_ns / SIM_MS, k->conflicts, k->failed, k->unknown,
           k->crashes, k->power_losses, k->pauses, k->stops, k->wipes, k->cuts, k->net_faults,
           k->disk_faults, k->full_windows, k->clock_jumps, k->bit_flips, k->fatal,
           k->shards_failed, k->refused, k->snapshots, (double)virtual_ms / 1000, events, took,
           run->trace);
    printf("     watches saw %" PRIu64 " changes and %" PRIu64
           " values, went on from a token %" PRIu64 " times, fell behind the history %" PRIu64
           " times; relays wrote %" PRIu64 " words and were read %" PRIu64 " times\n",
           k->changes_seen, k->values_seen, k->watch_resumes, k->watch_gaps, k->relay_writes,
           k->relay_reads);
    if (bad) {
        printf("     %s\n     replay: sim_cluster --seed %" PRIu64 " --mode %s --seconds %" PRIu64
               " --verbose\n",
               c.why, run->seed, mode_names[run->mode], run->seconds);
    }
    (void)fflush(stdout);
    cluster_close(&c);
    return !bad;
}

static int usage(void)
{
    (void)fprintf(stderr, "usage: sim_cluster [--seed N] [--seeds|--count COUNT] [--seconds S] "
                          "[--mode NAME] [--verbose] [--log 0..4] [--twice]\n");
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 1, seconds = 20;
    int mode = -1;
    bool verbose = false, twice = false;
    enum log_level level = LOG_OFF;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
            continue;
        }
        if (strcmp(argv[i], "--twice") == 0) {
            twice = true;
            continue;
        }
        i++;
        if (strcmp(argv[i - 1], "--seed") == 0) {
            seed = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i - 1], "--seeds") == 0 || strcmp(argv[i - 1], "--count") == 0) {
            seeds = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i - 1], "--seconds") == 0) {
            seconds = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i - 1], "--log") == 0) {
            level = (enum log_level)strtol(value, NULL, 10);
        } else if (strcmp(argv[i - 1], "--mode") == 0) {
            for (mode = 0; mode < MODE_COUNT && strcmp(mode_names[mode], value) != 0; mode++) {
            }
            if (mode == MODE_COUNT) {
                return usage();
            }
        } else {
            return usage();
        }
    }
    log_set_level(level);
    uint64_t failed = 0, ok = 0;
    for (uint64_t s = seed; s < seed + seeds; s++) {
        struct run run = {.seed = s, .seconds = seconds, .verbose = verbose};
        run.mode = mode >= 0 ? (enum fault_mode)mode : (enum fault_mode)(s % MODE_COUNT);
        bool good = run_one(&run);
        if (good && (twice || s == seed)) {
            uint64_t trace = run.trace;
            good = run_one(&run);
            if (good && run.trace != trace) {
                printf("FAIL seed %" PRIu64 ": the second run took another course\n", s);
                good = false;
            }
        }
        failed += good ? 0 : 1;
        ok += run.ok;
    }
    printf("%" PRIu64 " seeds, %" PRIu64 " failed, %" PRIu64 " operations succeeded\n", seeds,
           failed, ok);
    return failed == 0 ? 0 : 1;
}
