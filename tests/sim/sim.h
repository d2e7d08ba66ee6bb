/* The simulated world: one event queue, virtual time, and machines with disks, clocks and a
 * network.
 *
 * A *host* is a machine: a name, a disk, a wall clock. A *process* runs on a host and is a
 * `struct env`; it may die while the host's disk stays. Everything runs on one thread; all
 * randomness comes from the seed, so a seed reproduces a run exactly (sim_trace_hash).
 *
 * Code of a process runs in *turns*: what arrived (bytes, finished works, posts) and due timers
 * first, deferred tasks then, and what it wrote to connections leaves at the end. A turn costs
 * virtual time, and events that come meanwhile wait for the next turn, as with a real loop.
 *
 * A *nemesis* is code of the test outside of any process: it calls the fault functions below, from
 * sim_at() callbacks or between calls of sim_run_until(). */
#ifndef CAIRN_TESTS_SIM_SIM_H
#define CAIRN_TESTS_SIM_SIM_H

#include "base/env.h"

struct sim;
struct sim_host;

#define SIM_MS        ((uint64_t)1000000)
#define SIM_SECOND    ((uint64_t)1000000000)
#define SIM_HOSTS_MAX 24

/* ---- the world ---- */

struct sim *sim_new(uint64_t seed);
void sim_free(struct sim *sim); /* all processes freed before */
uint64_t sim_now_ns(const struct sim *sim);
uint64_t sim_random(struct sim *sim);                   /* the nemesis's own stream */
uint64_t sim_below(struct sim *sim, uint64_t limit);    /* 0 .. limit - 1 */
bool sim_chance(struct sim *sim, uint32_t per_million); /* true that often */
uint64_t sim_trace_hash(const struct sim *sim);         /* over all events so far */
uint64_t sim_events(const struct sim *sim);             /* run so far */
bool sim_step(struct sim *sim);                         /* false: nothing is left to happen */
void sim_run_until(struct sim *sim, uint64_t at_ns);
/* Calls cb outside of any process. */
void sim_at(struct sim *sim, uint64_t at_ns, void (*cb)(void *arg), void *arg);
/* The log's clock, for log_set_clock(log_clock, sim). */
unsigned long long sim_log_clock(void *sim);

/* ---- machines and processes ---- */

struct sim_host *sim_host_new(struct sim *sim, const char *name);
const char *sim_host_name(const struct sim_host *host);
/* Starts a process with the certificate {role, name}; the host has none. */
struct env *sim_proc_start(struct sim_host *host, enum env_role role, const char *name);
/* Runs cb(arg) as one turn of the process, now. */
void sim_proc_call(struct env *env, void (*cb)(void *arg), void *arg);
struct env *sim_host_proc(struct sim_host *host); /* NULL: none, or it is dead */
bool sim_proc_dead(const struct env *env);
/* The process dies at once: no callback comes any more, calls into its env do nothing, and the
 * owner frees what it has, then calls sim_proc_free(). SIGKILL leaves what it wrote in the page
 * cache; losing power drops, keeps or tears what wasn't synced, sector by sector. */
enum sim_death { SIM_SIGKILL, SIM_POWER_LOSS };
void sim_proc_kill(struct env *env, enum sim_death how);
/* It dies within its next `operations` changing file operations, in the middle of one; on_death
 * (if given) is called outside of any turn right after. */
void sim_proc_kill_in(struct env *env, enum sim_death how, uint32_t operations);
void sim_proc_on_death(struct env *env, void (*cb)(void *arg), void *arg);
/* Works are under way: what a real process waits for before it exits. */
bool sim_proc_busy(const struct env *env);
/* A live process must have stopped its timers, works, connections and listeners: it ends cleanly.
 */
void sim_proc_free(struct env *env);
/* SIGSTOP and SIGCONT: its sockets stay open, what arrives waits. */
void sim_proc_pause(struct env *env, bool paused);
bool sim_proc_paused(const struct env *env);
void sim_clock_jump(struct sim_host *host, int64_t us);
void sim_clock_drift(struct sim_host *host, int32_t parts_per_million);
/* From now on its process uses so many thousandths of a processor, as env_cpu_ns() tells; nothing
 * becomes slower by it. 0 at first. */
void sim_host_busy(struct sim_host *host, uint32_t permille);

/* ---- disks ---- */

struct sim_disk_stats {
    uint64_t writes, syncs, bytes, used;
    uint64_t torn_crashes; /* power losses that met unsynced data */
    uint64_t sectors_dropped, sectors_torn;
    uint64_t sync_errors, write_errors, full_errors, bits_flipped;
};
void sim_disk_get_stats(const struct sim_host *host, struct sim_disk_stats *out);
/* The next sync (or synchronous write) after `skip` others fails with IO. As on Linux, the pages
 * are clean afterwards: a later sync succeeds without having written them. */
void sim_disk_fail_sync(struct sim_host *host, uint32_t skip);
void sim_disk_fail_write(struct sim_host *host, uint32_t skip);
void sim_disk_heal(struct sim_host *host); /* armed failures that didn't come are taken back */
/* Room for `more` further bytes only; UINT64_MAX: no limit (the default, and 1 TiB free). */
void sim_disk_limit(struct sim_host *host, uint64_t more);
void sim_disk_slow(struct sim_host *host, uint32_t factor); /* 1: normal */
/* From now on no sync takes 5 to 65 ms, as one in 200 does otherwise. */
void sim_disk_steady(struct sim_host *host);
/* Flips one bit of synced data in a file whose path contains `part` (NULL: any): false if none. */
bool sim_disk_flip_bit(struct sim_host *host, const char *part);
void sim_disk_wipe(struct sim_host *host); /* no process runs there */
/* Path of the n-th file (sorted by path), NULL past the last; for looking. */
const char *sim_disk_file(const struct sim_host *host, size_t n);

/* ---- network ---- */

struct sim_net_stats {
    uint64_t connections, bytes, stalls, resets, refused, timeouts, blocked;
};
void sim_net_get_stats(const struct sim *sim, struct sim_net_stats *out);
/* From one host to another, one way; both ways are set separately. */
void sim_net_cut(struct sim_host *from, struct sim_host *to, bool cut);
void sim_net_heal(
    struct sim *sim); /* no cuts, no loss, default links; half-open connections stay */
/* Every segment is lost with this chance and comes 200 ms, 400 ms ... later. */
void sim_net_loss(struct sim *sim, uint32_t per_million);
void sim_net_link(struct sim_host *from, struct sim_host *to, uint64_t delay_ns, uint64_t jitter_ns,
                  uint64_t bytes_per_second);
/* Resets a random open connection (of that host, or any if NULL) in the middle of its data. */
bool sim_net_reset_one(struct sim *sim, struct sim_host *host);
bool sim_net_reset_between(struct sim_host *a, struct sim_host *b); /* false: there is none */
/* One end of a random connection vanishes without a word: the other end learns it when it sends. */
bool sim_net_half_open_one(struct sim *sim, struct sim_host *host);

/* What a killed process held is nobody's leak: what is allocated while this is on isn't looked for.
 * Where nobody is killed, everything is. */
void sim_ignore_leaks(bool on);

#endif
