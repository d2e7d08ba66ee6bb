/* fuzz_consensus [--seed N] [--count N] [--verbose]: runs seeds N, N + 1, ... and demands safety at
 * every step and, once the faults stop, that the cluster comes back. Same seed, same run. */
#include "base/assert.h"
#include "cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FAULTS_MS   8000
#define RECOVERY_MS (40 * ELECTION_MS)

/* Faults drawn in all runs together: what never happened wasn't tested. */
static struct stats total;
static uint64_t stuck, recovery_max;

static uint64_t target; /* an index: everyone must get there */
static size_t acked_before;

static bool majority_left(struct cluster *cl, const struct node *n)
{
    struct consensus_config config;
    uint32_t voters = 0, left = 0;
    consensus_get_config(n->c, &config);
    for (uint32_t i = 0; i < config.count; i++) {
        if (config.servers[i].role == CONSENSUS_VOTER) {
            voters++;
            left += cluster_node(cl, config.servers[i].id)->alive;
        }
    }
    return config.count == 0 || left > voters / 2;
}

static bool recovered(struct cluster *cl)
{
    if (target == 0) {
        if (cl->acked_count == acked_before) {
            return false;
        }
        target = cl->acked[cl->acked_count - 1].index;
    }
    struct node *leader = cluster_leader(cl);
    if (leader == NULL) {
        return false;
    }
    struct consensus_config config;
    consensus_get_config(leader->c, &config);
    for (uint32_t i = 0; i < config.count; i++) {
        const struct node *n = cluster_node(cl, config.servers[i].id);
        if (!n->wiped && n->applied < target) {
            return false;
        }
    }
    return !consensus_change_pending(leader->c);
}

static uint64_t run(uint64_t seed, bool verbose)
{
    static struct cluster cl;
    cluster_open(&cl, seed, verbose);
    cluster_run(&cl, cl.now + FAULTS_MS, NULL);
    faults_stop(&cl);
    target = 0;
    acked_before = cl.acked_count;
    uint64_t from = cl.now;
    if (!cluster_run(&cl, cl.now + RECOVERY_MS, recovered)) {
        bool possible = true;
        for (uint32_t i = 0; i < cl.node_count; i++) {
            possible = possible && (!cl.nodes[i].alive || cl.nodes[i].disk.term == 0 ||
                                    consensus_state(cl.nodes[i].c) == CONSENSUS_UNAVAILABLE ||
                                    majority_left(&cl, &cl.nodes[i]));
        }
        if (possible) {
            violation(&cl, "no recovery within %d ms (target %llu)", RECOVERY_MS,
                      (unsigned long long)target);
        }
        stuck++; /* too many disks were lost: nothing to demand */
        printf("seed %llu: no majority left\n", (unsigned long long)seed);
    } else if (cl.now - from > recovery_max) {
        recovery_max = cl.now - from;
    }
    cluster_check_end(&cl);
    const struct stats *s = &cl.stats;
    for (size_t i = 0; i < sizeof *s / sizeof(uint64_t); i++) {
        uint64_t a, b;
        memcpy(&a, (uint8_t *)&total + i * 8, 8);
        memcpy(&b, (const uint8_t *)s + i * 8, 8);
        a += b;
        memcpy((uint8_t *)&total + i * 8, &a, 8);
    }
    if (verbose) {
        printf("seed %llu: trace %016llx, acked %llu, recovered after %llu ms\n",
               (unsigned long long)seed, (unsigned long long)cl.trace, (unsigned long long)s->acked,
               (unsigned long long)(cl.now - from));
    }
    uint64_t trace_hash = cl.trace;
    cluster_close(&cl);
    return trace_hash;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, count = 1;
    bool verbose = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[++i], NULL, 0);
        } else if (i + 1 < argc && strcmp(argv[i], "--count") == 0) {
            count = strtoull(argv[++i], NULL, 0);
        } else {
            fprintf(stderr, "usage: fuzz_consensus [--seed N] [--count N] [--verbose]\n");
            return 2;
        }
    }
    clock_t begin = clock();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t hash = run(seed + i, verbose);
        if (i % 100 == 0 && run(seed + i, false) != hash) {
            fprintf(stderr, "seed %llu ran differently the second time\n",
                    (unsigned long long)(seed + i));
            return 1;
        }
    }
    printf("seeds %llu..%llu: 0 violations, %llu without a majority left, recovery max %llu ms, "
           "%.1f s\n",
           (unsigned long long)seed, (unsigned long long)(seed + count - 1),
           (unsigned long long)stuck, (unsigned long long)recovery_max,
           (double)(clock() - begin) / CLOCKS_PER_SEC);
    printf("packets %llu submitted %llu acked %llu elections %llu crashes %llu partitions %llu "
           "transfers %llu checkpoints %llu installs %llu failed installs %llu changes %llu "
           "wipes %llu truncations %llu\n",
           (unsigned long long)total.packets, (unsigned long long)total.submitted,
           (unsigned long long)total.acked, (unsigned long long)total.elections,
           (unsigned long long)total.crashes, (unsigned long long)total.partitions,
           (unsigned long long)total.transfers, (unsigned long long)total.checkpoints,
           (unsigned long long)total.installs, (unsigned long long)total.installs_failed,
           (unsigned long long)total.changes, (unsigned long long)total.wipes,
           (unsigned long long)total.truncations);
    return 0;
}
