/* What the load generators share: a closed-loop window over many clients, latencies, and what the
 * servers used meanwhile.
 *
 * A driver starts `clients` clients, each of which keeps `inflight` requests outstanding, and
 * reports each completion. The harness counts those inside the window and reads user + system CPU
 * time and resident memory of the server processes from /proc at its edges (whole process, 10 ms
 * granularity). Latency of a pipelined batch counts for each of its requests. */
#ifndef CAIRN_BENCH_HARNESS_H
#define CAIRN_BENCH_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#define BENCH_PIDS_MAX    16
#define BENCH_CLIENTS_MAX 512

struct bench_opts {
    const char *operation; /* "put", "get", "txn" or "txn2"; a driver may refuse one */
    unsigned clients, inflight, bytes;
    unsigned keys; /* per client */
    double warmup_s, seconds;
    long pids[BENCH_PIDS_MAX];
    unsigned pid_count;
    const char *target; /* the driver's: endpoints, or host:port */
    const char *ca, *cert, *key;
    const char *heap;
};

/* Parses "put|get|txn|txn2 --clients N --inflight K --bytes B --keys N --seconds S --warmup S
 * --pids A,B
 * --target T --ca F --cert F
 * --key F --heap H"; ends the process on nonsense. */
void bench_parse(int argc, char **argv, struct bench_opts *out);

uint64_t bench_now_ns(void);
/* One completion, by any thread. */
void bench_done(unsigned client, uint64_t started_ns, unsigned requests);
void bench_failed(unsigned client, const char *why);
bool bench_stopping(void);
/* Warm-up, window, stop, and one JSON line on standard output. Called by the main thread while
 * clients run. Returns the exit code: 1 if any request failed or none succeeded. */
int bench_window(const struct bench_opts *opts, const char *system);

#endif
