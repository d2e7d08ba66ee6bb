/* Shared by the files of the simulated environment. */
#ifndef CAIRN_TESTS_SIM_INTERNAL_H
#define CAIRN_TESTS_SIM_INTERNAL_H

#include "base/assert.h"
#include "base/mem.h"
#include "sim/sim.h"

struct sim_proc;

/* Something that happens at a moment: caller's memory, zero-initialised. With `proc` it is handed
 * to that process and runs within one of its turns; without, it runs outside of any. */
struct sim_event {
    void (*cb)(struct sim_event *event);
    struct sim_proc *proc;
    uint64_t at_ns, seq;
    size_t slot;      /* position in the queue + 1; 0: not queued */
    struct list link; /* the process's inbox */
    bool inbox;
    uint8_t tag; /* into the trace */
};

struct sim_link {
    bool cut;
    uint64_t delay_ns, jitter_ns, bytes_per_second;
    uint64_t busy_until_ns;
};

struct sim_inode;
struct sim_entry {
    char *path;
    struct sim_inode *inode; /* NULL: a directory */
};
struct sim_names {
    struct sim_entry *entries; /* sorted by path */
    size_t count, capacity;
};
struct sim_op; /* a change of names that no directory sync made durable yet */

struct sim_disk {
    struct sim_host *host;
    struct sim_names now, durable;
    struct sim_op *ops;
    size_t op_count, op_capacity;
    uint64_t used, limit; /* limit UINT64_MAX: none */
    uint32_t slow;
    bool steady;
    bool fail_sync, fail_write;
    uint32_t fail_sync_skip, fail_write_skip;
    struct sim_disk_stats stats;
};

struct sim_host {
    struct sim *sim;
    uint32_t index;
    char name[64];
    int64_t wall_offset_us;
    int32_t wall_drift_ppm;
    uint64_t wall_drift_from_ns;
    uint32_t busy_permille;
    uint64_t cpu_ns, busy_from_ns; /* used until then */
    uint64_t incarnations;
    struct sim_disk disk;
    struct sim_proc *proc; /* alive */
    bool off;              /* lost power and hasn't started again: it answers nothing */
};

struct sim_worker {
    struct list works;
    struct sim_event event;
    bool running;
};

struct sim_proc {
    struct env env; /* first */
    struct sim *sim;
    struct sim_host *host;
    enum env_role role;
    char name[64];
    uint64_t random;
    bool dead, paused, in_turn, in_worker, doomed;
    enum sim_death doom_how;
    bool doom_armed;
    uint32_t doom_operations;
    void (*on_death)(void *arg);
    void *on_death_arg;
    struct env_timer **timers; /* heap */
    size_t timer_count, timer_capacity;
    struct sim_event timer_event;
    struct list tasks;
    struct list inbox;
    struct sim_event wake;
    uint64_t busy_until_ns;
    uint64_t cost_ns; /* of the file operations of the current turn or work */
    struct sim_worker workers[ENV_QUEUE_COUNT];
    struct list works_done; /* struct sim_done */
    struct list files;
    struct list conns; /* struct env_conn */
    struct list listeners;
    uint64_t posts_pending;
};

struct sim {
    uint64_t seed, random, now_ns, seq, events, trace;
    struct sim_event **queue; /* heap */
    size_t queue_count, queue_capacity;
    struct sim_host *hosts[SIM_HOSTS_MAX];
    uint32_t host_count;
    struct list ats; /* struct sim_at_call */
    struct sim_link links[SIM_HOSTS_MAX][SIM_HOSTS_MAX];
    uint32_t loss_per_million;
    struct list conns; /* struct sim_conn, all */
    uint64_t conn_count;
    struct sim_net_stats net;
};

static inline struct sim_proc *sim_proc_of(const struct env *env)
{
    return (struct sim_proc *)(uintptr_t)env;
}

/* Memory of the simulator itself: never fails, zeroed. */
void *sim__alloc(size_t bytes);
void *sim__grow(void *block, size_t bytes);
char *sim__copy(const char *text);
uint64_t sim__next(uint64_t *state); /* splitmix64 */
void sim__trace(struct sim *sim, uint64_t what, uint64_t a, uint64_t b);

void sim__schedule(struct sim *sim, struct sim_event *event, uint64_t at_ns); /* re-schedules too */
void sim__cancel(struct sim *sim, struct sim_event *event);
/* Into the process's inbox now; its next turn runs it. */
void sim__deliver(struct sim_event *event);

/* sim_disk.c */
void sim_disk__init(struct sim_disk *disk, struct sim_host *host);
void sim_disk__close(struct sim_disk *disk);
void sim_disk__ops(struct env_ops *ops);
void sim_disk__proc_died(struct sim_proc *proc, enum sim_death how);
void sim_disk__proc_freed(struct sim_proc *proc);
/* sim_net.c */
void sim_net__init(struct sim *sim);
void sim_net__close(struct sim *sim);
void sim_net__ops(struct env_ops *ops);
void sim_net__host_added(struct sim_host *host);
void sim_net__turn_end(struct sim_proc *proc);
void sim_net__proc_died(struct sim_proc *proc, enum sim_death how);
void sim_net__proc_freed(struct sim_proc *proc);

#endif
