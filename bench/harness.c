#include "bench/harness.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Log-linear histogram: 64 powers of two, 32 steps each (3 % resolution). */
#define STEPS 32u
struct per_client {
    _Alignas(64) uint64_t done;
    uint64_t failed;
    uint32_t histogram[64 * STEPS];
};

static struct per_client *clients;
static unsigned client_count;
static atomic_int phase; /* 0 warm-up, 1 window, 2 stopping */
static atomic_flag complained = ATOMIC_FLAG_INIT;

static void usage(void)
{
    fprintf(stderr,
            "usage: put|get|txn|txn2 --target T --ca F --cert F --key F [--clients N] [--inflight "
            "K] [--bytes B] [--keys N]\n"
            "       [--seconds S] [--warmup S] [--pids A,B,...] [--heap H]\n");
    exit(2);
}

void bench_parse(int argc, char **argv, struct bench_opts *out)
{
    *out = (struct bench_opts){.clients = 1,
                               .inflight = 1,
                               .bytes = 256,
                               .keys = 64,
                               .warmup_s = 1,
                               .seconds = 5,
                               .heap = "bench"};
    static const char *const operations[] = {"put", "get", "txn", "txn2"};
    bool known = false;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        known = known || (argc > 1 && strcmp(argv[1], operations[i]) == 0);
    }
    if (!known) {
        usage();
    }
    out->operation = argv[1];
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        const char *name = argv[i];
        if (strcmp(name, "--clients") == 0) {
            out->clients = (unsigned)atoi(value);
        } else if (strcmp(name, "--inflight") == 0) {
            out->inflight = (unsigned)atoi(value);
        } else if (strcmp(name, "--bytes") == 0) {
            out->bytes = (unsigned)atoi(value);
        } else if (strcmp(name, "--keys") == 0) {
            out->keys = (unsigned)atoi(value);
        } else if (strcmp(name, "--seconds") == 0) {
            out->seconds = atof(value);
        } else if (strcmp(name, "--warmup") == 0) {
            out->warmup_s = atof(value);
        } else if (strcmp(name, "--target") == 0) {
            out->target = value;
        } else if (strcmp(name, "--ca") == 0) {
            out->ca = value;
        } else if (strcmp(name, "--cert") == 0) {
            out->cert = value;
        } else if (strcmp(name, "--key") == 0) {
            out->key = value;
        } else if (strcmp(name, "--heap") == 0) {
            out->heap = value;
        } else if (strcmp(name, "--pids") == 0) {
            char *rest = NULL;
            char *copy = strdup(value);
            for (char *at = strtok_r(copy, ",", &rest);
                 at != NULL && out->pid_count < BENCH_PIDS_MAX; at = strtok_r(NULL, ",", &rest)) {
                out->pids[out->pid_count++] = atol(at);
            }
            free(copy);
        } else {
            usage();
        }
    }
    if (argc % 2 != 0 || out->clients < 1 || out->clients > BENCH_CLIENTS_MAX ||
        out->inflight < 1 || out->bytes < 8 || out->keys < 1 || out->target == NULL) {
        usage();
    }
    client_count = out->clients;
    clients = aligned_alloc(64, client_count * sizeof *clients);
    if (clients == NULL) {
        exit(1);
    }
    memset(clients, 0, client_count * sizeof *clients);
}

uint64_t bench_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static unsigned bucket_of(uint64_t ns)
{
    if (ns < STEPS) {
        return (unsigned)ns;
    }
    unsigned power = 63u - (unsigned)__builtin_clzll(ns);
    return (power - 4) * STEPS + (unsigned)((ns >> (power - 5)) & (STEPS - 1));
}

static uint64_t value_of(unsigned bucket)
{
    if (bucket < 2 * STEPS) {
        return bucket;
    }
    unsigned power = bucket / STEPS + 4;
    return (1ull << power) + ((uint64_t)(bucket % STEPS) << (power - 5));
}

void bench_done(unsigned client, uint64_t started_ns, unsigned requests)
{
    if (atomic_load_explicit(&phase, memory_order_relaxed) != 1) {
        return;
    }
    struct per_client *c = &clients[client];
    c->done += requests;
    c->histogram[bucket_of(bench_now_ns() - started_ns)] += requests;
}

void bench_failed(unsigned client, const char *why)
{
    clients[client].failed++;
    if (!atomic_flag_test_and_set(&complained)) {
        fprintf(stderr, "bench: %s\n", why);
    }
}

bool bench_stopping(void)
{
    return atomic_load_explicit(&phase, memory_order_relaxed) == 2;
}

/* User + system time of a process, microseconds. */
static double cpu_us(long pid)
{
    char path[64];
    char text[1024];
    unsigned long user = 0;
    unsigned long system = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        size_t n = fread(text, 1, sizeof text - 1, file);
        text[n] = 0;
        const char *at = strrchr(text, ')');
        if (at != NULL) {
            sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
        }
        fclose(file);
    }
    return (double)(user + system) * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

static double rss_mib(long pid)
{
    char path[64];
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%ld/statm", pid);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%*u %lu", &pages) != 1) {
            pages = 0;
        }
        fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576.0;
}

static void sleep_s(double seconds)
{
    struct timespec ts = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&ts, NULL);
}

static double percentile_us(const uint64_t *sum, uint64_t total, double p)
{
    uint64_t seen = 0;
    for (unsigned b = 0; b < 64 * STEPS; b++) {
        seen += sum[b];
        if ((double)seen >= (double)total * p && seen > 0) {
            return (double)value_of(b) / 1000.0;
        }
    }
    return 0;
}

int bench_window(const struct bench_opts *opts, const char *system)
{
    static uint64_t sum[64 * STEPS];
    uint64_t done = 0;
    uint64_t failed = 0;
    double cpu = 0;
    double rss = 0;

    sleep_s(opts->warmup_s);
    for (unsigned i = 0; i < opts->pid_count; i++) {
        cpu -= cpu_us(opts->pids[i]);
    }
    uint64_t from = bench_now_ns();
    atomic_store(&phase, 1);
    sleep_s(opts->seconds);
    atomic_store(&phase, 2);
    double elapsed = (double)(bench_now_ns() - from) / 1e9;
    for (unsigned i = 0; i < opts->pid_count; i++) {
        cpu += cpu_us(opts->pids[i]);
        rss += rss_mib(opts->pids[i]);
    }
    sleep_s(0.1);
    for (unsigned c = 0; c < client_count; c++) {
        done += clients[c].done;
        failed += clients[c].failed;
        for (unsigned b = 0; b < 64 * STEPS; b++) {
            sum[b] += clients[c].histogram[b];
        }
    }
    printf("{\"system\":\"%s\",\"operation\":\"%s\",\"clients\":%u,\"inflight\":%u,\"bytes\":%u,"
           "\"seconds\":%.3f,"
           "\"operations\":%llu,\"failed\":%llu,\"ops_per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"server_cpu_us_per_op\":%.3f,\"rss_mib\":%.1f}\n",
           system, opts->operation, opts->clients, opts->inflight, opts->bytes, elapsed,
           (unsigned long long)done, (unsigned long long)failed, (double)done / elapsed,
           percentile_us(sum, done, 0.5), percentile_us(sum, done, 0.99),
           done == 0 ? 0.0 : cpu / (double)done, rss);
    fflush(stdout);
    return failed > 0 || done == 0 ? 1 : 0;
}
