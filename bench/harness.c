#include "bench/harness.h"

#include <dirent.h>
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
    uint64_t failed, retried;
    uint32_t histogram[64 * STEPS];
};

static struct per_client *clients;
static unsigned client_count;
static atomic_int phase; /* 0 warm-up, 1 window, 2 stopping */
static atomic_flag complained = ATOMIC_FLAG_INIT;

static void usage(const char *const *operations)
{
    fputs("usage: ", stderr);
    for (size_t i = 0; operations[i] != NULL; i++) {
        fprintf(stderr, "%s%s", i > 0 ? "|" : "", operations[i]);
    }
    fprintf(stderr, " --target T --ca F --cert F --key F [--clients N] [--inflight K] [--bytes B] "
                    "[--keys N] [--theta X]\n"
                    "       [--seconds S] [--warmup S] [--pids A,B,...] [--heap H]\n");
    exit(2);
}

static unsigned operation_of(const char *name, const char *const *operations)
{
    unsigned i = 0;
    while (operations[i] != NULL && strcmp(operations[i], name) != 0) {
        i++;
    }
    if (operations[i] == NULL) {
        usage(operations);
    }
    return i;
}

unsigned bench_parse(int argc, char **argv, const char *const *operations, struct bench_opts *out)
{
    *out = (struct bench_opts){.clients = 1,
                               .inflight = 1,
                               .bytes = 256,
                               .keys = 64,
                               .warmup_s = 1,
                               .seconds = 5,
                               .heap = "bench"};
    unsigned operation = operation_of(argc > 1 ? argv[1] : "", operations);
    out->operation = operations[operation];
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
        } else if (strcmp(name, "--theta") == 0) {
            out->theta = atof(value);
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
            usage(operations);
        }
    }
    if (argc % 2 != 0 || out->clients < 1 || out->clients > BENCH_CLIENTS_MAX ||
        out->inflight < 1 || out->bytes < 8 || out->keys < 1 || out->target == NULL) {
        usage(operations);
    }
    client_count = out->clients;
    clients = aligned_alloc(64, client_count * sizeof *clients);
    if (clients == NULL) {
        exit(1);
    }
    memset(clients, 0, client_count * sizeof *clients);
    return operation;
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

void bench_thread(pthread_t *thread, void *(*run)(void *arg), void *arg)
{
    if (pthread_create(thread, NULL, run, arg) != 0) {
        fprintf(stderr, "bench: no thread could be started\n");
        exit(1);
    }
}

void bench_retried(unsigned client, unsigned times)
{
    if (atomic_load_explicit(&phase, memory_order_relaxed) == 1) {
        clients[client].retried += times;
    }
}

bool bench_stopping(void)
{
    return atomic_load_explicit(&phase, memory_order_relaxed) == 2;
}

struct process {
    long parent;
    unsigned long ticks;  /* user + system, its own */
    unsigned long reaped; /* of its children that have ended */
};

static bool process_read(const char *pid, struct process *out)
{
    char path[64];
    char text[1024];
    unsigned long t[4] = {0};
    (void)snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    size_t n = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[n] = 0;
    const char *at = strrchr(text, ')');
    if (at == NULL || sscanf(at + 2, "%*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu",
                             &out->parent, &t[0], &t[1], &t[2], &t[3]) != 5) {
        return false;
    }
    out->ticks = t[0] + t[1];
    out->reaped = t[2] + t[3];
    return true;
}

/* User + system time of the servers and their children, those that have ended included,
 * microseconds. */
static double cpu_us(const struct bench_opts *opts)
{
    unsigned long ticks = 0;
    DIR *dir = opts->pid_count > 0 ? opendir("/proc") : NULL;
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        struct process p;
        long pid = atol(entry->d_name);
        if (pid <= 0 || !process_read(entry->d_name, &p)) {
            continue;
        }
        for (unsigned i = 0; i < opts->pid_count; i++) {
            ticks += opts->pids[i] == pid ? p.ticks + p.reaped : 0;
            ticks += opts->pids[i] == p.parent ? p.ticks : 0;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return (double)ticks * 1e6 / (double)sysconf(_SC_CLK_TCK);
}

static double rss_mib(long pid)
{
    char path[64];
    unsigned long pages = 0;
    (void)snprintf(path, sizeof path, "/proc/%ld/statm", pid);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%*u %lu", &pages) != 1) {
            pages = 0;
        }
        (void)fclose(file);
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
    uint64_t retried = 0;
    uint64_t least = UINT64_MAX;
    double rss = 0;

    sleep_s(opts->warmup_s);
    double cpu = -cpu_us(opts);
    uint64_t from = bench_now_ns();
    atomic_store(&phase, 1);
    sleep_s(opts->seconds);
    atomic_store(&phase, 2);
    double elapsed = (double)(bench_now_ns() - from) / 1e9;
    cpu += cpu_us(opts);
    for (unsigned i = 0; i < opts->pid_count; i++) {
        rss += rss_mib(opts->pids[i]);
    }
    sleep_s(0.1);
    for (unsigned c = 0; c < client_count; c++) {
        done += clients[c].done;
        failed += clients[c].failed;
        retried += clients[c].retried;
        least = clients[c].done < least ? clients[c].done : least;
        for (unsigned b = 0; b < 64 * STEPS; b++) {
            sum[b] += clients[c].histogram[b];
        }
    }
    printf("{\"system\":\"%s\",\"operation\":\"%s\",\"clients\":%u,\"inflight\":%u,\"bytes\":%u,"
           "\"seconds\":%.3f,"
           "\"operations\":%llu,\"failed\":%llu,\"ops_per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"server_cpu_us_per_op\":%.3f,\"rss_mib\":%.1f,\"retries_per_op\":%.3f,\"worst_share\":"
           "%.3f}\n",
           system, opts->operation, opts->clients, opts->inflight, opts->bytes, elapsed,
           (unsigned long long)done, (unsigned long long)failed, (double)done / elapsed,
           percentile_us(sum, done, 0.5), percentile_us(sum, done, 0.99),
           done == 0 ? 0.0 : cpu / (double)done, rss,
           done == 0 ? 0.0 : (double)retried / (double)done,
           done == 0 ? 0.0 : (double)least * client_count / (double)done);
    fflush(stdout);
    return failed > 0 || done == 0 ? 1 : 0;
}
