/* The world's event queue, and clock, timers, tasks, posts and works of simulated processes. */
#include <stdio.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include "base/hash.h"
#include "base/log.h"
#include "sim/internal.h"

#define TURN_BASE_NS      4000u
#define TURN_PER_EVENT_NS 3000u
#define WALL_START_US     1700000000000000ull

/* ---- memory and randomness ---- */

void *sim__alloc(size_t bytes)
{
    bool held = mem_fault_hold(true);
    void *p = mem_zalloc(bytes);
    (void)mem_fault_hold(held);
    assert(p != NULL);
    return p;
}

void *sim__grow(void *block, size_t bytes)
{
    bool held = mem_fault_hold(true);
    void *p = mem_realloc(block, bytes);
    (void)mem_fault_hold(held);
    assert(p != NULL);
    return p;
}

char *sim__copy(const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(sim__alloc(bytes), text, bytes);
}

uint64_t sim__next(uint64_t *state)
{
    /* splitmix64 (Steele, Lea, Flood 2014): any state will do, also 0. */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_random(struct sim *sim)
{
    return sim__next(&sim->random);
}

uint64_t sim_below(struct sim *sim, uint64_t limit)
{
    assert(limit > 0);
    return sim__next(&sim->random) % limit;
}

bool sim_chance(struct sim *sim, uint32_t per_million)
{
    return sim_below(sim, 1000000) < per_million;
}

void sim__trace(struct sim *sim, uint64_t what, uint64_t a, uint64_t b)
{
    uint64_t words[4] = {sim->now_ns, what, a, b};
    sim->trace = hash64(sim->trace, words, sizeof words);
}

uint64_t sim_trace_hash(const struct sim *sim)
{
    return sim->trace;
}

/* ---- the queue: a binary heap by (time, order of scheduling) ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

static void queue_place(struct sim *sim, size_t at, struct sim_event *event)
{
    sim->queue[at] = event;
    event->slot = at + 1;
}

static void queue_up(struct sim *sim, size_t at)
{
    struct sim_event *event = sim->queue[at];
    while (at > 0 && event_before(event, sim->queue[(at - 1) / 2])) {
        queue_place(sim, at, sim->queue[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    queue_place(sim, at, event);
}

static void queue_down(struct sim *sim, size_t at)
{
    struct sim_event *event = sim->queue[at];
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= sim->queue_count) {
            break;
        }
        if (child + 1 < sim->queue_count &&
            event_before(sim->queue[child + 1], sim->queue[child])) {
            child++;
        }
        if (!event_before(sim->queue[child], event)) {
            break;
        }
        queue_place(sim, at, sim->queue[child]);
        at = child;
    }
    queue_place(sim, at, event);
}

static void queue_remove(struct sim *sim, struct sim_event *event)
{
    size_t at = event->slot - 1;
    assert(sim->queue[at] == event);
    event->slot = 0;
    struct sim_event *last = sim->queue[--sim->queue_count];
    if (last != event) {
        queue_place(sim, at, last);
        queue_up(sim, at);
        queue_down(sim, last->slot - 1);
    }
}

void sim__cancel(struct sim *sim, struct sim_event *event)
{
    if (event->slot != 0) {
        queue_remove(sim, event);
    }
    if (event->inbox) {
        event->inbox = false;
        list_remove(&event->link);
    }
}

void sim__schedule(struct sim *sim, struct sim_event *event, uint64_t at_ns)
{
    assert(event->cb != NULL);
    sim__cancel(sim, event);
    event->at_ns = at_ns < sim->now_ns ? sim->now_ns : at_ns;
    event->seq = ++sim->seq;
    if (sim->queue_count == sim->queue_capacity) {
        sim->queue_capacity = sim->queue_capacity == 0 ? 256 : sim->queue_capacity * 2;
        sim->queue = sim__grow(sim->queue, sim->queue_capacity * sizeof *sim->queue);
    }
    sim->queue[sim->queue_count++] = event;
    queue_up(sim, sim->queue_count - 1);
}

/* ---- turns ---- */

static void wake_schedule(struct sim_proc *proc)
{
    if (proc->dead || proc->paused || proc->in_turn || proc->wake.slot != 0) {
        return;
    }
    struct sim *sim = proc->sim;
    uint64_t at = proc->busy_until_ns > sim->now_ns ? proc->busy_until_ns : sim->now_ns;
    sim__schedule(sim, &proc->wake, at);
}

void sim__deliver(struct sim_event *event)
{
    struct sim_proc *proc = event->proc;
    assert(proc != NULL && !proc->dead);
    if (!event->inbox) {
        event->inbox = true;
        list_push_back(&proc->inbox, &event->link);
    }
    wake_schedule(proc);
}

static void timers_arm(struct sim_proc *proc)
{
    if (proc->dead) {
        return;
    }
    if (proc->timer_count == 0) {
        sim__cancel(proc->sim, &proc->timer_event);
    } else if (proc->timer_event.slot == 0 || proc->timer_event.at_ns != proc->timers[0]->at_ns) {
        sim__schedule(proc->sim, &proc->timer_event, proc->timers[0]->at_ns);
    }
}

static void death(struct sim_proc *proc, enum sim_death how);

static void timers_fire(struct sim_proc *proc)
{
    uint64_t now = proc->sim->now_ns;
    while (!proc->doomed && proc->timer_count > 0 && proc->timers[0]->at_ns <= now) {
        struct env_timer *timer = proc->timers[0];
        env_timer_stop(&proc->env, timer);
        timer->cb(timer);
    }
}

/* Runs what has come, due timers and deferred tasks; `cb` first, if given. */
static void turn(struct sim_proc *proc, void (*cb)(void *arg), void *arg)
{
    struct sim *sim = proc->sim;
    assert(!proc->dead && !proc->in_turn);
    uint64_t events = 0;
    if (log_level() != LOG_OFF) {
        log_set_tag(proc->name);
    }
    proc->in_turn = true;
    proc->cost_ns = 0;
    /* Only what is here now: what comes during the turn (conn_pause(false) ...) is for the next. */
    struct list batch;
    list_init(&batch);
    list_splice(&batch, &proc->inbox);
    if (cb != NULL) {
        cb(arg);
        events++;
    }
    while (!proc->doomed && !list_empty(&batch)) {
        struct sim_event *event = list_entry(batch.next, struct sim_event, link);
        event->inbox = false;
        list_remove(&event->link);
        events++;
        sim__trace(sim, 0x100u + event->tag, proc->host->index, events);
        event->cb(event);
    }
    list_splice(&proc->inbox, &batch); /* doomed: dropped below */
    timers_fire(proc);
    while (!proc->doomed && !list_empty(&proc->tasks)) {
        struct env_task *task = list_entry(proc->tasks.next, struct env_task, link);
        list_remove(&task->link);
        task->queued = false;
        task->cb(task);
    }
    if (!proc->doomed) {
        sim_net__turn_end(proc);
    }
    proc->in_turn = false;
    proc->busy_until_ns = sim->now_ns + TURN_BASE_NS + events * TURN_PER_EVENT_NS + proc->cost_ns;
    if (proc->doomed) {
        death(proc, proc->doom_how);
        return;
    }
    timers_arm(proc);
    if (!list_empty(&proc->inbox)) {
        wake_schedule(proc);
    }
}

static void on_wake(struct sim_event *event)
{
    struct sim_proc *proc = container_of(event, struct sim_proc, wake);
    turn(proc, NULL, NULL);
}

static void on_timers(struct sim_event *event)
{
    struct sim_proc *proc = container_of(event, struct sim_proc, timer_event);
    wake_schedule(proc); /* a paused process finds its timers due when it goes on */
}

void sim_proc_call(struct env *env, void (*cb)(void *arg), void *arg)
{
    turn(sim_proc_of(env), cb, arg);
}

/* ---- running ---- */

bool sim_step(struct sim *sim)
{
    if (sim->queue_count == 0) {
        return false;
    }
    struct sim_event *event = sim->queue[0];
    queue_remove(sim, event);
    assert(event->at_ns >= sim->now_ns);
    sim->now_ns = event->at_ns;
    sim->events++;
    sim__trace(sim, event->tag, event->proc != NULL ? event->proc->host->index : 99, sim->random);
    if (event->proc != NULL) {
        sim__deliver(event);
    } else {
        event->cb(event);
    }
    return true;
}

void sim_run_until(struct sim *sim, uint64_t at_ns)
{
    while (sim->queue_count > 0 && sim->queue[0]->at_ns <= at_ns) {
        (void)sim_step(sim);
    }
    if (sim->now_ns < at_ns) {
        sim->now_ns = at_ns;
    }
}

struct sim_at_call {
    struct sim_event event;
    struct sim *sim;
    struct list link;
    void (*cb)(void *arg);
    void *arg;
};

static void on_at(struct sim_event *event)
{
    struct sim_at_call *call = container_of(event, struct sim_at_call, event);
    void (*cb)(void *arg) = call->cb;
    void *arg = call->arg;
    list_remove(&call->link);
    mem_free(call);
    cb(arg);
}

void sim_at(struct sim *sim, uint64_t at_ns, void (*cb)(void *arg), void *arg)
{
    struct sim_at_call *call = sim__alloc(sizeof *call);
    call->sim = sim;
    call->cb = cb;
    call->arg = arg;
    call->event.cb = on_at;
    call->event.tag = 1;
    list_push_back(&sim->ats, &call->link);
    sim__schedule(sim, &call->event, at_ns);
}

uint64_t sim_now_ns(const struct sim *sim)
{
    return sim->now_ns;
}

uint64_t sim_events(const struct sim *sim)
{
    return sim->events;
}

unsigned long long sim_log_clock(void *sim)
{
    return WALL_START_US + ((struct sim *)sim)->now_ns / 1000u;
}

struct sim *sim_new(uint64_t seed)
{
    struct sim *sim = sim__alloc(sizeof *sim);
    sim->seed = seed;
    sim->random = seed ^ 0x5eed5eed5eed5eedu;
    (void)sim__next(&sim->random);
    sim->now_ns = SIM_SECOND; /* so that 0 is in the past */
    list_init(&sim->ats);
    sim_net__init(sim);
    return sim;
}

void sim_free(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->host_count; i++) {
        assert(sim->hosts[i]->proc == NULL);
    }
    sim_net__close(sim);
    list_for_each_safe (it, next, &sim->ats) {
        struct sim_at_call *call = list_entry(it, struct sim_at_call, link);
        sim__cancel(sim, &call->event);
        mem_free(call);
    }
    for (uint32_t i = 0; i < sim->host_count; i++) {
        sim_disk__close(&sim->hosts[i]->disk);
        mem_free(sim->hosts[i]);
    }
    assert(sim->queue_count == 0);
    mem_free(sim->queue);
    mem_free(sim);
}

/* ---- what a process sees ---- */

static uint64_t env_now(struct env *env)
{
    return sim_proc_of(env)->sim->now_ns;
}

static uint64_t env_cpu(struct env *env)
{
    const struct sim_host *host = sim_proc_of(env)->host;
    return host->cpu_ns + (host->sim->now_ns - host->busy_from_ns) / 1000u * host->busy_permille;
}

static uint64_t env_wall(struct env *env)
{
    const struct sim_host *host = sim_proc_of(env)->host;
    uint64_t now = host->sim->now_ns;
    int64_t us = (int64_t)(now / 1000u) + host->wall_offset_us;
    int64_t drift_us = (int64_t)((now - host->wall_drift_from_ns) / 1000u);
    us += drift_us * host->wall_drift_ppm / 1000000;
    return WALL_START_US + (uint64_t)us;
}

static void env_random_bytes(struct env *env, void *out, size_t bytes)
{
    uint8_t *at = out;
    while (bytes > 0) {
        uint64_t word = sim__next(&sim_proc_of(env)->random);
        size_t n = bytes < sizeof word ? bytes : sizeof word;
        memcpy(at, &word, n);
        at += n;
        bytes -= n;
    }
}

static void timer_place(struct sim_proc *proc, size_t at, struct env_timer *timer)
{
    proc->timers[at] = timer;
    timer->slot = at + 1;
}

static void timer_up(struct sim_proc *proc, size_t at)
{
    struct env_timer *timer = proc->timers[at];
    while (at > 0 && timer->at_ns < proc->timers[(at - 1) / 2]->at_ns) {
        timer_place(proc, at, proc->timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    timer_place(proc, at, timer);
}

static void timer_down(struct sim_proc *proc, size_t at)
{
    struct env_timer *timer = proc->timers[at];
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= proc->timer_count) {
            break;
        }
        if (child + 1 < proc->timer_count &&
            proc->timers[child + 1]->at_ns < proc->timers[child]->at_ns) {
            child++;
        }
        if (proc->timers[child]->at_ns >= timer->at_ns) {
            break;
        }
        timer_place(proc, at, proc->timers[child]);
        at = child;
    }
    timer_place(proc, at, timer);
}

static void env_stop_timer(struct env *env, struct env_timer *timer)
{
    struct sim_proc *proc = sim_proc_of(env);
    if (proc->dead || timer->slot == 0) {
        timer->slot = 0;
        return;
    }
    assert(!proc->in_worker);
    size_t at = timer->slot - 1;
    assert(at < proc->timer_count && proc->timers[at] == timer);
    timer->slot = 0;
    struct env_timer *last = proc->timers[--proc->timer_count];
    if (last != timer) {
        timer_place(proc, at, last);
        timer_up(proc, at);
        timer_down(proc, last->slot - 1);
    }
    if (!proc->in_turn) {
        timers_arm(proc);
    }
}

static void env_start_timer(struct env *env, struct env_timer *timer, uint64_t at_ns)
{
    struct sim_proc *proc = sim_proc_of(env);
    assert(timer->cb != NULL);
    env_stop_timer(env, timer);
    if (proc->dead) {
        return;
    }
    /* Never this turn, and time must go on even if somebody re-arms for the past for ever. */
    uint64_t soonest = proc->sim->now_ns + 1000u;
    timer->at_ns = at_ns < soonest ? soonest : at_ns;
    if (proc->timer_count == proc->timer_capacity) {
        proc->timer_capacity = proc->timer_capacity == 0 ? 32 : proc->timer_capacity * 2;
        proc->timers = sim__grow(proc->timers, proc->timer_capacity * sizeof(void *));
    }
    proc->timers[proc->timer_count++] = timer;
    timer_up(proc, proc->timer_count - 1);
    if (!proc->in_turn) {
        timers_arm(proc);
    }
}

static void env_defer_task(struct env *env, struct env_task *task)
{
    struct sim_proc *proc = sim_proc_of(env);
    assert(task->cb != NULL && !proc->in_worker);
    if (proc->dead || task->queued) {
        return;
    }
    /* Outside of a turn nobody would run it: the real loop would, before it blocks. */
    assert(proc->in_turn);
    task->queued = true;
    list_push_back(&proc->tasks, &task->link);
}

struct sim_post {
    struct sim_event event;
    struct env_post *post;
};

static void on_post(struct sim_event *event)
{
    struct sim_post *p = container_of(event, struct sim_post, event);
    struct env_post *post = p->post;
    event->proc->posts_pending--;
    mem_free(p);
    post->cb(post);
}

static void env_post_call(struct env *env, struct env_post *post)
{
    struct sim_proc *proc = sim_proc_of(env);
    if (proc->dead) {
        return;
    }
    struct sim_post *p = sim__alloc(sizeof *p);
    p->event.cb = on_post;
    p->event.proc = proc;
    p->event.tag = 2;
    p->post = post;
    proc->posts_pending++;
    sim__deliver(&p->event);
}

/* ---- workers ---- */

struct sim_done {
    struct sim_event event;
    struct env_work *work;
    struct list link; /* proc->works_done */
};

/* Half of the time that a work takes passes before it touches a file, half after it: what it writes
 * is neither on the disk at once, nor reported as soon as it is. */
static void worker_next(struct sim_proc *proc, struct sim_worker *worker, uint64_t at_ns)
{
    if (proc->dead || proc->paused || list_empty(&worker->works) || worker->event.slot != 0) {
        return;
    }
    uint64_t wait_ns = sim__next(&proc->sim->random) % 300000u * proc->host->disk.slow;
    sim__schedule(proc->sim, &worker->event, at_ns + 3000u + wait_ns);
}

static void on_work_done(struct sim_event *event)
{
    struct sim_done *done = container_of(event, struct sim_done, event);
    struct env_work *work = done->work;
    list_remove(&done->link);
    mem_free(done);
    work->done(work);
}

static void on_work_run(struct sim_event *event)
{
    struct sim_worker *worker = container_of(event, struct sim_worker, event);
    struct env_work *work = list_entry(worker->works.next, struct env_work, link);
    struct sim_proc *proc = container_of(worker - work->queue, struct sim_proc, workers[0]);
    assert(!proc->dead);
    list_remove(&work->link);
    uint64_t turn_cost = proc->cost_ns;
    proc->cost_ns = 0;
    proc->in_worker = true;
    work->run(work);
    proc->in_worker = false;
    uint64_t cost = proc->cost_ns / 2 + 2000u;
    proc->cost_ns = turn_cost;
    sim__trace(proc->sim, 0x300, work->queue, cost);
    if (proc->doomed) {
        death(proc, proc->doom_how);
        return;
    }
    struct sim_done *done = sim__alloc(sizeof *done);
    done->event.cb = on_work_done;
    done->event.proc = proc;
    done->event.tag = 3;
    done->work = work;
    list_push_back(&proc->works_done, &done->link);
    sim__schedule(proc->sim, &done->event, proc->sim->now_ns + cost);
    worker_next(proc, worker, proc->sim->now_ns + cost);
}

static void env_submit_work(struct env *env, struct env_work *work)
{
    struct sim_proc *proc = sim_proc_of(env);
    assert(work->run != NULL && work->done != NULL && work->queue < ENV_QUEUE_COUNT);
    assert(!proc->in_worker);
    if (proc->dead) {
        return;
    }
    struct sim_worker *worker = &proc->workers[work->queue];
    list_push_back(&worker->works, &work->link);
    worker_next(proc, worker, proc->sim->now_ns);
}

/* ---- life ---- */

static const struct env_ops *table(void)
{
    static struct env_ops ops;
    if (ops.now_ns == NULL) {
        ops.wall_us = env_wall;
        ops.cpu_ns = env_cpu;
        ops.random = env_random_bytes;
        ops.timer_start = env_start_timer;
        ops.timer_stop = env_stop_timer;
        ops.defer = env_defer_task;
        ops.post = env_post_call;
        ops.work = env_submit_work;
        sim_disk__ops(&ops);
        sim_net__ops(&ops);
        ops.now_ns = env_now;
    }
    return &ops;
}

struct sim_host *sim_host_new(struct sim *sim, const char *name)
{
    assert(sim->host_count < SIM_HOSTS_MAX);
    struct sim_host *host = sim__alloc(sizeof *host);
    host->sim = sim;
    host->index = sim->host_count;
    (void)snprintf(host->name, sizeof host->name, "%s", name);
    sim->hosts[sim->host_count++] = host;
    sim_disk__init(&host->disk, host);
    sim_net__host_added(host);
    return host;
}

const char *sim_host_name(const struct sim_host *host)
{
    return host->name;
}

struct env *sim_host_proc(struct sim_host *host)
{
    return host->proc == NULL ? NULL : &host->proc->env;
}

struct env *sim_proc_start(struct sim_host *host, enum env_role role, const char *name)
{
    assert(host->proc == NULL);
    struct sim_proc *proc = sim__alloc(sizeof *proc);
    proc->env.ops = table();
    proc->env.host = host->index + 1;
    proc->sim = host->sim;
    proc->host = host;
    proc->role = role;
    (void)snprintf(proc->name, sizeof proc->name, "%s", name);
    host->incarnations++;
    host->off = false;
    uint64_t key[3] = {host->sim->seed, host->index, host->incarnations};
    proc->random = hash64(1, key, sizeof key);
    proc->timer_event.cb = on_timers;
    proc->timer_event.tag = 4;
    proc->wake.cb = on_wake;
    proc->wake.tag = 5;
    list_init(&proc->tasks);
    list_init(&proc->inbox);
    list_init(&proc->works_done);
    list_init(&proc->files);
    list_init(&proc->conns);
    list_init(&proc->listeners);
    for (int i = 0; i < ENV_QUEUE_COUNT; i++) {
        list_init(&proc->workers[i].works);
        proc->workers[i].event.cb = on_work_run;
        proc->workers[i].event.tag = 6;
    }
    host->proc = proc;
    sim__trace(host->sim, 0x400, host->index, host->incarnations);
    return &proc->env;
}

static void proc_halt(struct sim_proc *proc)
{
    struct sim *sim = proc->sim;
    proc->dead = true;
    proc->host->proc = NULL;
    sim__cancel(sim, &proc->timer_event);
    sim__cancel(sim, &proc->wake);
    for (int i = 0; i < ENV_QUEUE_COUNT; i++) {
        sim__cancel(sim, &proc->workers[i].event);
    }
    list_for_each_safe (it, next, &proc->works_done) {
        struct sim_done *done = list_entry(it, struct sim_done, link);
        sim__cancel(sim, &done->event);
        list_remove(&done->link);
        mem_free(done);
    }
    list_for_each_safe (it, next, &proc->inbox) {
        struct sim_event *event = list_entry(it, struct sim_event, link);
        sim__cancel(sim, event);
        if (event->cb == on_post) {
            mem_free(container_of(event, struct sim_post, event));
        }
    }
}

static void death(struct sim_proc *proc, enum sim_death how)
{
    struct sim *sim = proc->sim;
    assert(!proc->dead && !proc->in_turn && !proc->in_worker);
    sim__trace(sim, 0x401, proc->host->index, how);
    proc_halt(proc);
    proc->host->off = how == SIM_POWER_LOSS;
    sim_net__proc_died(proc, how);
    sim_disk__proc_died(proc, how);
    if (proc->on_death != NULL) {
        proc->on_death(proc->on_death_arg);
    }
}

void sim_proc_kill(struct env *env, enum sim_death how)
{
    struct sim_proc *proc = sim_proc_of(env);
    if (proc->dead) {
        return;
    }
    if (proc->in_turn || proc->in_worker) {
        proc->doomed = true;
        proc->doom_how = how;
        return;
    }
    death(proc, how);
}

void sim_proc_kill_in(struct env *env, enum sim_death how, uint32_t operations)
{
    struct sim_proc *proc = sim_proc_of(env);
    proc->doom_armed = true;
    proc->doom_how = how;
    proc->doom_operations = operations;
}

void sim_proc_on_death(struct env *env, void (*cb)(void *arg), void *arg)
{
    sim_proc_of(env)->on_death = cb;
    sim_proc_of(env)->on_death_arg = arg;
}

bool sim_proc_dead(const struct env *env)
{
    return sim_proc_of(env)->dead;
}

void sim_proc_pause(struct env *env, bool paused)
{
    struct sim_proc *proc = sim_proc_of(env);
    if (proc->dead || proc->paused == paused) {
        return;
    }
    proc->paused = paused;
    sim__trace(proc->sim, 0x402, proc->host->index, paused);
    if (paused) {
        sim__cancel(proc->sim, &proc->wake);
        for (int i = 0; i < ENV_QUEUE_COUNT; i++) {
            sim__cancel(proc->sim, &proc->workers[i].event);
        }
        return;
    }
    for (int i = 0; i < ENV_QUEUE_COUNT; i++) {
        worker_next(proc, &proc->workers[i], proc->sim->now_ns + 1000u);
    }
    wake_schedule(proc);
}

bool sim_proc_paused(const struct env *env)
{
    return sim_proc_of(env)->paused;
}

bool sim_proc_busy(const struct env *env)
{
    const struct sim_proc *proc = sim_proc_of(env);
    bool busy = !list_empty(&proc->works_done);
    for (int i = 0; i < ENV_QUEUE_COUNT; i++) {
        busy = busy || !list_empty(&proc->workers[i].works);
    }
    return busy && !proc->dead;
}

void sim_proc_free(struct env *env)
{
    struct sim_proc *proc = sim_proc_of(env);
    assert(!proc->in_turn && !proc->in_worker);
    if (!proc->dead) {
        /* An orderly end leaves nothing that could still call back. */
        assert(proc->timer_count == 0);
        assert(list_empty(&proc->tasks));
        assert(proc->posts_pending == 0);
        assert(list_empty(&proc->works_done));
        for (int i = 0; i < ENV_QUEUE_COUNT; i++) {
            assert(list_empty(&proc->workers[i].works));
        }
        assert(list_empty(&proc->listeners));
        proc_halt(proc);
        sim_net__proc_died(proc, SIM_SIGKILL);
    }
    sim_net__proc_freed(proc);
    sim_disk__proc_freed(proc);
    mem_free(proc->timers);
    mem_free(proc);
}

void sim_clock_jump(struct sim_host *host, int64_t us)
{
    host->wall_offset_us += us;
}

void sim_host_busy(struct sim_host *host, uint32_t permille)
{
    uint64_t now = host->sim->now_ns;
    host->cpu_ns += (now - host->busy_from_ns) / 1000u * host->busy_permille;
    host->busy_from_ns = now;
    host->busy_permille = permille;
}

void sim_clock_drift(struct sim_host *host, int32_t parts_per_million)
{
    uint64_t now = host->sim->now_ns;
    int64_t elapsed_us = (int64_t)((now - host->wall_drift_from_ns) / 1000u);
    host->wall_offset_us += elapsed_us * host->wall_drift_ppm / 1000000;
    host->wall_drift_from_ns = now;
    host->wall_drift_ppm = parts_per_million;
}

void sim_ignore_leaks(bool on)
{
#if defined(__SANITIZE_ADDRESS__)
    if (on) {
        __lsan_disable();
    } else {
        __lsan_enable();
    }
#else
    (void)on;
#endif
}
