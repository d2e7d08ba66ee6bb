/* What the load generators share: a closed-loop window over many clients, latencies, and what the
 * servers used meanwhile.
 *
 * A driver starts `clients` clients, each of which keeps `inflight` requests outstanding, and
 * reports each completion. The harness counts those inside the window and reads user + system CPU
 * time (of children, too) and resident memory of the server processes from /proc at its edges
 * (whole processes, 10 ms granularity). Latency of a pipelined batch counts for each of its
 * requests. */
#ifndef CAIRN_BENCH_HARNESS_H
#define CAIRN_BENCH_HARNESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_PIDS_MAX    16
#define BENCH_CLIENTS_MAX 512

struct bench_opts {
    const char *operation; /* one of the driver's */
    unsigned clients, inflight, bytes;
    unsigned keys; /* per client, or of all together */
    double theta;  /* of the Zipf distribution that keys are drawn from; 0: uniform */
    double warmup_s, seconds;
    long pids[BENCH_PIDS_MAX];
    unsigned pid_count;
    const char *target; /* the driver's: endpoints, or host:port */
    const char *ca, *cert, *key;
    const char *heap;
};

/* Parses "OPERATION --clients N --inflight K --bytes B --keys N --theta X --seconds S --warmup S
 * --pids A,B --target T --ca F --cert F --key F --heap H"; ends the process on nonsense. Returns
 * the number of the operation in the list, which ends with NULL. */
unsigned bench_parse(int argc, char **argv, const char *const *operations, struct bench_opts *out);

uint64_t bench_now_ns(void);
/* Started, or the process ends: what is left of a bench would measure something else. */
void bench_thread(pthread_t *thread, void *(*run)(void *arg), void *arg);
/* One completion, by any thread. */
void bench_done(unsigned client, uint64_t started_ns, unsigned requests);
void bench_failed(unsigned client, const char *why);
/* An attempt that had to be made again; they are told per operation. */
void bench_retried(unsigned client, unsigned times);
bool bench_stopping(void);
/* Warm-up, window, stop, and one JSON line on standard output; worst_share: what the client with
 * the fewest operations did of the mean. Called by the main thread while
 * clients run. Returns the exit code: 1 if any request failed or none succeeded. */
int bench_window(const struct bench_opts *opts, const char *system);

#endif
