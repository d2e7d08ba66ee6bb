#include "bench/alloc_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TABLE_MAX       (1u << 21)
#define SIZE_MAX_MIXED  65536u
#define PREPARE_STEPS   1000u /* in a commit */
#define PUBLISH_STEPS   250u  /* the same of transaction, whose systems have limits */
#define LATENCY_BUCKETS 1024u /* 16 per doubling */
#define TURNS_AHEAD     8u

static const struct alloc_system *sys;
static uint64_t seed = 1;
static size_t size = 64;
static bool mixed;
static bool latency, rotate, publishes;
static unsigned turn;
static unsigned turns[TURNS_AHEAD]; /* whose turn comes next; a ring */
static unsigned turn_at;
static unsigned commit_steps; /* that become durable together */
static uint64_t steps_taken;
static uint64_t commits[TABLE_MAX]; /* in which one the object was exchanged last */
static unsigned live = 10000;
static uint64_t table[TABLE_MAX];
static uint32_t sizes[TABLE_MAX];
static uint8_t fill[SIZE_MAX_MIXED];
static uint64_t buckets[LATENCY_BUCKETS];

static uint64_t dice(void) /* splitmix64 */
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* 16 B to 64 KiB, each doubling as likely as any other. */
static size_t draw(void)
{
    if (!mixed) {
        return size;
    }
    unsigned log = 4 + (unsigned)(dice() % 12);
    return ((size_t)1 << log) + dice() % ((size_t)1 << log);
}

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sample(uint64_t ns)
{
    unsigned log = ns < 16 ? 4 : 63 - (unsigned)__builtin_clzll(ns);
    unsigned at = (log - 4) * 16 + (unsigned)(ns < 16 ? 0 : ns >> (log - 4) & 15);
    buckets[at < LATENCY_BUCKETS ? at : LATENCY_BUCKETS - 1]++;
}

static double percentile(double share)
{
    uint64_t all = 0;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        all += buckets[i];
    }
    uint64_t want = (uint64_t)((double)all * share);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        if (buckets[i] > want) {
            return (double)((16ull + i % 16) << (i / 16));
        }
        want -= buckets[i];
    }
    return 0;
}

static _Noreturn void out_of_space(void)
{
    fprintf(stderr, "%s: no space\n", sys->name);
    exit(1);
}

static void put(unsigned i)
{
    sizes[i] = (uint32_t)draw();
    table[i] = sys->alloc(fill, sizes[i]);
    if (table[i] == 0) {
        out_of_space();
    }
}

static void exchange(unsigned i)
{
    sizes[i] = (uint32_t)draw();
    sys->exchange(table, i, fill, sizes[i]);
}

/* commit: how many steps of what follows become durable together. */
static void prepare(unsigned commit)
{
    if (commit != 0) {
        sys->commit_every(publishes ? PUBLISH_STEPS : PREPARE_STEPS);
    }
    for (unsigned i = 0; i < live; i++) {
        if (publishes) {
            sys->publish(table, i, fill, size);
        } else if (sys->exchange != NULL) {
            exchange(i);
        } else {
            put(i);
        }
        sys->step();
    }
    if (sys->commit_every != NULL) {
        sys->commit_every(commit);
    }
}

static unsigned draw_any(void)
{
    return (unsigned)((dice() >> 32) * live >> 32);
}

static unsigned draw_turn(void)
{
    if (!rotate) {
        return draw_any();
    }
    unsigned i = turn;
    turn = turn + 1 < live ? turn + 1 : 0;
    return i;
}

/* The number is drawn some steps in advance, and what this driver keeps of it is asked for. A
 * program has at hand what it names, in all systems alike; with a million objects, to find it in
 * these tables took longer than half of what some systems take for a step. The object itself nobody
 * has asked for. */
static unsigned next_turn(void)
{
    unsigned i = turns[turn_at];
    unsigned drawn = draw_turn();
    turns[turn_at] = drawn;
    turn_at = (turn_at + 1) % TURNS_AHEAD;
    __builtin_prefetch(&table[drawn], 1);
    __builtin_prefetch(&sizes[drawn], 1);
    __builtin_prefetch(&commits[drawn], 1);
    return i;
}

/* Whose turn it is. An object that this commit has made isn't exchanged by it once more: it may be
 * under way yet. That goes for every system, so that all do the same. */
static unsigned victim(void)
{
    unsigned i = next_turn();
    if (commit_steps > 1) {
        uint64_t commit = steps_taken++ / commit_steps + 1;
        while (commits[i] == commit) {
            i = draw_any();
        }
        commits[i] = commit;
    }
    return i;
}

static void step_alloc_free(void)
{
    unsigned i = victim();
    if (sys->exchange != NULL && !latency) {
        exchange(i);
        sys->step();
        return;
    }
    sys->free(table[i]);
    uint64_t start = latency ? clock_ns(CLOCK_MONOTONIC) : 0;
    put(i);
    if (latency) {
        sample(clock_ns(CLOCK_MONOTONIC) - start);
    }
    sys->step();
}

static void step_update(void)
{
    unsigned i = next_turn();
    sys->update(table[i], fill, sizes[i]);
    sys->step();
}

static void step_replace(void)
{
    unsigned i = next_turn();
    sys->replace(table, i, fill, size);
    sys->step();
}

static void step_transaction(void)
{
    sys->publish(table, victim(), fill, size);
    sys->step();
}

static void run(const char *workload, unsigned commit, uint64_t steps, double seconds,
                void (*step)(void))
{
    prepare(commit);
    commit_steps = commit < live ? commit : 0;
    for (unsigned i = 0; i < TURNS_AHEAD; i++) {
        turns[i] = draw_turn();
    }
    uint64_t wall = clock_ns(CLOCK_MONOTONIC);
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t deadline = wall + (uint64_t)(seconds * 1e9);
    uint64_t done = 0;
    while (done < steps) {
        step();
        done++;
        if (done % 64 == 0 && clock_ns(CLOCK_MONOTONIC) > deadline) {
            break;
        }
    }
    wall = clock_ns(CLOCK_MONOTONIC) - wall;
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"system\":\"%s\",\"workload\":\"%s\",\"bytes\":%zu,\"mixed\":%s,\"commit\":%u,"
           "\"steps\":%llu,\"ns_per_step\":%.1f,\"cpu_ns_per_step\":%.1f,\"p50_ns\":%.0f,"
           "\"p999_ns\":%.0f}\n",
           sys->name, workload, size, mixed ? "true" : "false", commit, (unsigned long long)done,
           (double)wall / (double)done, (double)cpu / (double)done, latency ? percentile(0.5) : 0,
           latency ? percentile(0.999) : 0);
}

/* Half of what fits stays alive while objects of mixed sizes come and go. */
static void utilisation(uint64_t capacity, uint64_t steps)
{
    uint64_t bytes = 0;
    unsigned count = 0;
    mixed = true;
    while (count < TABLE_MAX && bytes < capacity / 2) {
        put(count);
        bytes += sizes[count++];
        sys->step();
    }
    for (uint64_t s = 0; s < steps; s++) {
        unsigned i = (unsigned)(dice() % count);
        sys->free(table[i]);
        bytes -= sizes[i];
        put(i);
        bytes += sizes[i];
        sys->step();
    }
    double before = (double)bytes / (double)sys->footprint();
    double after = before;
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (sys->compact != NULL) {
        sys->compact();
        after = (double)bytes / (double)sys->footprint();
    }
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"system\":\"%s\",\"workload\":\"utilisation\",\"live_bytes\":%llu,"
           "\"utilisation\":%.4f,\"compacted\":%.4f,\"compact_ms\":%.1f}\n",
           sys->name, (unsigned long long)bytes, before, after, (double)cpu / 1e6);
}

static void fill_up(uint64_t capacity)
{
    uint64_t bytes = 0;
    unsigned count = 0;
    double first = 0;
    double worst = 1;
    mixed = true;
    for (unsigned round = 0; round < 8; round++) {
        while (count < TABLE_MAX) {
            size_t want = draw();
            uint64_t object = sys->alloc(fill, want);
            sys->step();
            if (object == 0) {
                break;
            }
            table[count] = object;
            sizes[count++] = (uint32_t)want;
            bytes += want;
        }
        double share = (double)bytes / (double)capacity;
        first = round == 0 ? share : first;
        worst = share < worst ? share : worst;
        for (unsigned i = 0; i < count;) {
            if (dice() % 2 == 0) {
                i++;
                continue;
            }
            sys->free(table[i]);
            sys->step();
            bytes -= sizes[i];
            table[i] = table[--count];
            sizes[i] = sizes[count];
        }
    }
    printf("{\"system\":\"%s\",\"workload\":\"fill\",\"first\":%.4f,\"worst\":%.4f}\n", sys->name,
           first, worst);
}

static void reopen(const char *dir, uint64_t capacity, bool create)
{
    if (create) {
        sys->open(dir, capacity, PREPARE_STEPS, true);
        live = 1000000;
        prepare(PREPARE_STEPS);
        sys->close();
        return;
    }
    uint64_t wall = clock_ns(CLOCK_MONOTONIC);
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    sys->open(dir, capacity, 1, false);
    if (sys->alloc(fill, size) == 0) {
        out_of_space();
    }
    sys->step();
    wall = clock_ns(CLOCK_MONOTONIC) - wall;
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"system\":\"%s\",\"workload\":\"reopen\",\"ms\":%.3f,\"cpu_ms\":%.3f}\n", sys->name,
           (double)wall / 1e6, (double)cpu / 1e6);
    sys->close();
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: PROGRAM WORKLOAD DIR [--size N|mixed] [--commit N] [--steps N] [--seconds S] "
            "[--capacity BYTES] [--live N] [--latency] [--rotate] [--prepare]\n"
            "WORKLOAD: alloc_free update replace transaction utilisation fill reopen\n");
    exit(2);
}

int alloc_driver_main(int argc, char **argv, const struct alloc_system *system)
{
    sys = system;
    if (argc < 3) {
        usage();
    }
    const char *workload = argv[1];
    const char *dir = argv[2];
    unsigned commit = 1;
    uint64_t steps = 10000000;
    double seconds = 1;
    uint64_t capacity = (uint64_t)512 << 20;
    bool create = false;
    for (int i = 3; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--latency") == 0) {
            latency = true;
            continue;
        }
        if (strcmp(argv[i], "--rotate") == 0) {
            rotate = true; /* the oldest object instead of a random one */
            continue;
        }
        if (strcmp(argv[i], "--commands") == 0 || strcmp(argv[i], "--copy") == 0) {
            continue; /* alloc_engine's, alloc_malloc's */
        }
        if (strcmp(argv[i], "--prepare") == 0) {
            create = true;
            continue;
        }
        i++;
        if (strcmp(argv[i - 1], "--size") == 0) {
            mixed = strcmp(value, "mixed") == 0;
            size = mixed ? 0 : (size_t)atol(value);
        } else if (strcmp(argv[i - 1], "--commit") == 0) {
            commit = (unsigned)atol(value);
        } else if (strcmp(argv[i - 1], "--steps") == 0) {
            steps = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i - 1], "--seconds") == 0) {
            seconds = atof(value);
        } else if (strcmp(argv[i - 1], "--capacity") == 0) {
            capacity = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i - 1], "--live") == 0) {
            live = (unsigned)atol(value);
        } else {
            usage();
        }
    }
    if (live == 0 || live > TABLE_MAX || size > SIZE_MAX_MIXED) {
        usage();
    }
    memset(fill, 0x5a, sizeof fill);
    if (strcmp(workload, "reopen") == 0) {
        reopen(dir, capacity, create);
        return 0;
    }
    sys->open(dir, capacity, commit, true);
    if (strcmp(workload, "alloc_free") == 0) {
        run(workload, commit, steps, seconds, step_alloc_free);
    } else if (strcmp(workload, "update") == 0) {
        run(workload, commit, steps, seconds, step_update);
    } else if (strcmp(workload, "replace") == 0 && sys->replace != NULL) {
        run(workload, commit, steps, seconds, step_replace);
    } else if (strcmp(workload, "transaction") == 0 && sys->publish != NULL) {
        publishes = true;
        run(workload, commit, steps, seconds, step_transaction);
    } else if (strcmp(workload, "utilisation") == 0 && sys->footprint != NULL) {
        utilisation(capacity, steps);
    } else if (strcmp(workload, "fill") == 0) {
        fill_up(capacity);
    } else {
        usage();
    }
    sys->close();
    return 0;
}
