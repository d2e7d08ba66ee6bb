/* The simulated environment keeps the promises of base/env.h, and breaks only what it may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sim/sim.h"

static char journal[4096];
static void note(const char *text)
{
    size_t n = strlen(journal);
    (void)snprintf(journal + n, sizeof journal - n, "%s ", text);
}

/* ---- one process ---- */

struct app {
    struct env *env;
    struct env_timer a, b;
    struct env_task task, again;
    struct env_work work, work2;
    struct env_post post;
    struct env_file *file;
    uint8_t block[4096];
    int rv;
};

static void a_fired(struct env_timer *t)
{
    (void)t;
    note("a");
}
static void b_fired(struct env_timer *t)
{
    struct app *app = list_entry(t, struct app, b);
    note("b");
    env_defer(app->env, &app->task);
    env_defer(app->env, &app->task);
}
static void task_ran(struct env_task *t)
{
    struct app *app = list_entry(t, struct app, task);
    note("task");
    env_defer(app->env, &app->again);
}
static void again_ran(struct env_task *t)
{
    (void)t;
    note("again");
}

static void timers_start(void *arg)
{
    struct app *app = arg;
    app->a.cb = a_fired;
    app->b.cb = b_fired;
    app->task.cb = task_ran;
    app->again.cb = again_ran;
    env_timer_start_in_ms(app->env, &app->a, 20);
    env_timer_start_in_ms(app->env, &app->b, 10);
    env_timer_start_in_ms(app->env, &app->a, 30); /* re-armed */
    note("started");
}

static void timers_fire_in_order_and_tasks_end_the_turn(void **state)
{
    (void)state;
    journal[0] = '\0';
    struct sim *sim = sim_new(1);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct app app = {.env = sim_proc_start(host, ENV_ROLE_NODE, "n1")};
    uint64_t t0 = sim_now_ns(sim);
    sim_proc_call(app.env, timers_start, &app);
    sim_run_until(sim, t0 + 15 * SIM_MS);
    assert_string_equal(journal, "started b task again ");
    sim_run_until(sim, t0 + 31 * SIM_MS);
    assert_string_equal(journal, "started b task again a ");
    sim_proc_free(app.env);
    sim_free(sim);
}

static void a_paused_process_does_nothing_until_it_goes_on(void **state)
{
    (void)state;
    journal[0] = '\0';
    struct sim *sim = sim_new(1);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct app app = {.env = sim_proc_start(host, ENV_ROLE_NODE, "n1")};
    sim_proc_call(app.env, timers_start, &app);
    sim_proc_pause(app.env, true);
    sim_run_until(sim, sim_now_ns(sim) + SIM_SECOND);
    assert_string_equal(journal, "started ");
    sim_proc_pause(app.env, false);
    sim_run_until(sim, sim_now_ns(sim) + SIM_MS);
    assert_string_equal(journal, "started b a task again ");
    sim_proc_free(app.env);
    sim_free(sim);
}

static void work_run(struct env_work *w)
{
    struct app *app = list_entry(w, struct app, work);
    note("run");
    app->rv = env_file_pwrite(app->env, app->file, app->block, sizeof app->block, 0);
    if (app->rv == 0) {
        app->rv = env_file_sync(app->env, app->file);
    }
}
static void work_done(struct env_work *w)
{
    (void)w;
    note("done");
}
static void work2_run(struct env_work *w)
{
    (void)w;
    note("run2");
}
static void post_came(struct env_post *p)
{
    (void)p;
    note("post");
}
static void work_start(void *arg)
{
    struct app *app = arg;
    assert_int_equal(env_dir_create(app->env, "/d"), 0);
    assert_int_equal(env_file_open(app->env, "/d/f", ENV_OPEN_WRITE | ENV_OPEN_CREATE, &app->file),
                     0);
    app->work = (struct env_work){.run = work_run, .done = work_done, .queue = ENV_QUEUE_LOG_0};
    app->work2 = (struct env_work){.run = work2_run, .done = work_done, .queue = ENV_QUEUE_LOG_0};
    app->post.cb = post_came;
    env_work(app->env, &app->work);
    env_work(app->env, &app->work2);
    env_post(app->env, &app->post);
    note("started");
}
static void file_done(void *arg)
{
    struct app *app = arg;
    env_file_close(app->env, app->file);
}

static void works_of_a_queue_run_in_order_and_never_at_once(void **state)
{
    (void)state;
    journal[0] = '\0';
    struct sim *sim = sim_new(1);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct app app = {.env = sim_proc_start(host, ENV_ROLE_NODE, "n1")};
    sim_proc_call(app.env, work_start, &app);
    assert_string_equal(journal, "started ");
    while (sim_step(sim)) {
    }
    const char *run = strstr(journal, "run "), *run2 = strstr(journal, "run2 ");
    assert_true(run != NULL && run2 != NULL && run < run2);
    const char *done = strstr(journal, "done ");
    assert_true(done != NULL && done > run && strstr(done + 1, "done ") > run2);
    assert_non_null(strstr(journal, "post "));
    sim_proc_call(app.env, file_done, &app);
    sim_proc_free(app.env);
    sim_free(sim);
}

static void a_work_doesnt_survive_its_process(void **state)
{
    (void)state;
    journal[0] = '\0';
    struct sim *sim = sim_new(1);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct app app = {.env = sim_proc_start(host, ENV_ROLE_NODE, "n1")};
    sim_proc_call(app.env, work_start, &app);
    sim_proc_kill_in(app.env, SIM_POWER_LOSS, 1); /* writes, dies in the sync */
    while (sim_step(sim)) {
    }
    assert_non_null(strstr(journal, "run "));
    assert_null(strstr(journal, "run2 "));
    assert_null(strstr(journal, "done "));
    assert_true(sim_proc_dead(app.env));
    assert_int_equal(app.rv, ERR_IO);
    assert_null(sim_host_proc(host));
    env_timer_stop(app.env, &app.a);
    env_file_close(app.env, app.file);
    sim_proc_free(app.env);
    sim_free(sim);
}

static void the_wall_clock_drifts_and_jumps_and_time_does_not(void **state)
{
    (void)state;
    struct sim *sim = sim_new(1);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
    uint64_t wall = env_wall_us(env), now = env_now_ns(env);
    sim_clock_jump(host, -5000000);
    assert_int_equal(env_wall_us(env), wall - 5000000);
    sim_clock_drift(host, 1000);
    sim_run_until(sim, now + 10 * SIM_SECOND);
    assert_int_equal(env_wall_us(env), wall - 5000000 + 10010000);
    assert_int_equal(env_now_ns(env), now + 10 * SIM_SECOND);
    sim_proc_free(env);
    sim_free(sim);
}

/* ---- disk ---- */

static struct env_file *must_open(struct env *env, const char *path, int flags)
{
    struct env_file *f = NULL;
    assert_int_equal(env_file_open(env, path, flags, &f), 0);
    return f;
}

static void unsynced_bytes_may_be_lost_and_synced_ones_never(void **state)
{
    (void)state;
    uint32_t lost = 0, kept = 0, mixed = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct sim *sim = sim_new(seed);
        struct sim_host *host = sim_host_new(sim, "n1");
        struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
        assert_int_equal(env_dir_create(env, "/d"), 0);
        assert_int_equal(env_dir_sync(env, "/"), 0);
        struct env_file *f = must_open(env, "/d/f", ENV_OPEN_WRITE | ENV_OPEN_CREATE);
        uint8_t block[8192];
        memset(block, 1, sizeof block);
        assert_int_equal(env_file_pwrite(env, f, block, sizeof block, 0), 0);
        assert_int_equal(env_file_sync(env, f), 0);
        assert_int_equal(env_dir_sync(env, "/d"), 0);
        memset(block, 2, 4096);
        assert_int_equal(env_file_pwrite(env, f, block, 4096, 0), 0);
        sim_proc_kill(env, SIM_POWER_LOSS);
        env_file_close(env, f);
        sim_proc_free(env);
        env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
        f = must_open(env, "/d/f", ENV_OPEN_READ);
        assert_int_equal(env_file_pread(env, f, block, sizeof block, 0), 8192);
        uint32_t twos = 0;
        for (size_t i = 0; i < sizeof block; i++) {
            assert_true(block[i] == 1 || (block[i] == 2 && i < 4096));
            twos += block[i] == 2;
        }
        lost += twos == 0;
        kept += twos == 4096;
        mixed += twos > 0 && twos < 4096;
        env_file_close(env, f);
        sim_proc_free(env);
        sim_free(sim);
    }
    assert_true(lost > 10 && kept > 10 && mixed > 10);
}

static void a_sigkill_keeps_the_page_cache(void **state)
{
    (void)state;
    struct sim *sim = sim_new(3);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
    assert_int_equal(env_dir_create(env, "/d"), 0);
    struct env_file *f = must_open(env, "/d/f", ENV_OPEN_WRITE | ENV_OPEN_CREATE);
    assert_int_equal(env_file_lock(env, f), 0);
    assert_int_equal(env_file_pwrite(env, f, "abc", 3, 0), 0);
    sim_proc_kill(env, SIM_SIGKILL);
    env_file_close(env, f);
    sim_proc_free(env);
    env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
    f = must_open(env, "/d/f", ENV_OPEN_READ);
    assert_int_equal(env_file_lock(env, f), 0);
    char text[8] = "";
    assert_int_equal(env_file_pread(env, f, text, sizeof text, 0), 3);
    assert_string_equal(text, "abc");
    env_file_close(env, f);
    sim_proc_free(env);
    sim_free(sim);
}

struct remover {
    struct env *env;
    uint32_t count;
};

static void remove_it(void *arg, const char *name)
{
    struct remover *r = arg;
    char path[64];
    (void)snprintf(path, sizeof path, "/d/%s", name);
    assert_int_equal(env_file_unlink(r->env, path), 0);
    r->count++;
}

static bool is_there(struct env *env, const char *path)
{
    struct env_file *f = NULL;
    if (env_file_open(env, path, ENV_OPEN_READ, &f) != 0) {
        return false;
    }
    env_file_close(env, f);
    return true;
}

static void directories_go_when_they_are_empty(void **state)
{
    (void)state;
    uint32_t there = 0, gone = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct sim *sim = sim_new(seed);
        struct sim_host *host = sim_host_new(sim, "n1");
        struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
        struct remover r = {.env = env};
        assert_int_equal(env_dir_remove(env, "/d"), ERR_NOTFOUND);
        assert_int_equal(env_dir_create(env, "/d"), 0);
        assert_int_equal(env_dir_sync(env, "/"), 0);
        for (uint32_t i = 0; i < 3; i++) {
            char path[8];
            (void)snprintf(path, sizeof path, "/d/%u", i);
            env_file_close(env, must_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE));
        }
        assert_int_equal(env_dir_sync(env, "/d"), 0);
        assert_int_equal(env_dir_remove(env, "/d"), ERR_EXISTS);
        assert_int_equal(env_dir_list(env, "/d", remove_it, &r), 0);
        assert_int_equal(r.count, 3);
        assert_int_equal(env_dir_remove(env, "/d/"), 0);
        assert_int_equal(env_dir_list(env, "/d", remove_it, &r), ERR_NOTFOUND);
        sim_proc_kill(env, SIM_POWER_LOSS);
        sim_proc_free(env);
        env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
        bool left = env_dir_create(env, "/d") == ERR_EXISTS;
        for (uint32_t i = 0; i < 3; i++) {
            char path[8];
            (void)snprintf(path, sizeof path, "/d/%u", i);
            assert_true(left || !is_there(env, path));
        }
        there += left;
        gone += !left;
        sim_proc_free(env);
        sim_free(sim);
    }
    assert_true(there > 10 && gone > 10);
}

static void names_are_durable_only_with_their_directory(void **state)
{
    (void)state;
    uint32_t there = 0, gone = 0;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct sim *sim = sim_new(seed);
        struct sim_host *host = sim_host_new(sim, "n1");
        struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
        assert_int_equal(env_dir_create(env, "/d"), 0);
        assert_int_equal(env_dir_sync(env, "/"), 0);
        struct env_file *f = must_open(env, "/d/old", ENV_OPEN_WRITE | ENV_OPEN_CREATE);
        assert_int_equal(env_file_pwrite(env, f, "x", 1, 0), 0);
        assert_int_equal(env_file_sync(env, f), 0);
        env_file_close(env, f);
        assert_int_equal(env_dir_sync(env, "/d"), 0);
        assert_int_equal(env_file_rename(env, "/d/old", "/d/new"), 0);
        f = must_open(env, "/d/more", ENV_OPEN_WRITE | ENV_OPEN_CREATE | ENV_OPEN_DSYNC);
        assert_int_equal(env_file_pwrite(env, f, "y", 1, 0), 0);
        env_file_close(env, f);
        sim_proc_kill(env, SIM_POWER_LOSS);
        sim_proc_free(env);
        env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
        int old = env_file_open(env, "/d/old", ENV_OPEN_READ, &f);
        if (old == 0) {
            env_file_close(env, f);
        }
        int new = env_file_open(env, "/d/new", ENV_OPEN_READ, &f);
        if (new == 0) {
            env_file_close(env, f);
        }
        assert_true((old == 0) != (new == 0)); /* a rename is atomic */
        int more = env_file_open(env, "/d/more", ENV_OPEN_READ, &f);
        if (more == 0) {
            char c = 0;
            assert_int_equal(env_file_pread(env, f, &c, 1, 0), 1);
            assert_int_equal(c, 'y'); /* the write was synchronous, whatever became of the name */
            env_file_close(env, f);
        }
        there += more == 0;
        gone += more != 0;
        sim_proc_free(env);
        sim_free(sim);
    }
    assert_true(there > 10 && gone > 10);
}

static void a_failed_sync_loses_the_pages_for_good(void **state)
{
    (void)state;
    struct sim *sim = sim_new(5);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
    assert_int_equal(env_dir_create(env, "/d"), 0);
    assert_int_equal(env_dir_sync(env, "/"), 0);
    struct env_file *f = must_open(env, "/d/f", ENV_OPEN_WRITE | ENV_OPEN_CREATE);
    assert_int_equal(env_dir_sync(env, "/d"), 0);
    assert_int_equal(env_file_pwrite(env, f, "old", 3, 0), 0);
    assert_int_equal(env_file_sync(env, f), 0);
    assert_int_equal(env_file_pwrite(env, f, "new", 3, 0), 0);
    sim_disk_fail_sync(host, 0);
    assert_int_equal(env_file_sync(env, f), ERR_IO);
    assert_int_equal(env_file_sync(env, f), 0); /* and it seems to be fine */
    char text[8] = "";
    assert_int_equal(env_file_pread(env, f, text, sizeof text, 0), 3);
    assert_string_equal(text, "new");
    sim_proc_kill(env, SIM_POWER_LOSS);
    env_file_close(env, f);
    sim_proc_free(env);
    env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
    f = must_open(env, "/d/f", ENV_OPEN_READ);
    assert_int_equal(env_file_pread(env, f, text, sizeof text, 0), 3);
    assert_string_equal(text, "old");
    env_file_close(env, f);
    sim_proc_free(env);
    sim_free(sim);
}

static void a_full_disk_refuses_growth_alone(void **state)
{
    (void)state;
    struct sim *sim = sim_new(5);
    struct sim_host *host = sim_host_new(sim, "n1");
    struct env *env = sim_proc_start(host, ENV_ROLE_NODE, "n1");
    assert_int_equal(env_dir_create(env, "/d"), 0);
    struct env_file *f = must_open(env, "/d/f", ENV_OPEN_WRITE | ENV_OPEN_CREATE);
    uint8_t block[4096] = {0};
    assert_int_equal(env_file_pwrite(env, f, block, sizeof block, 0), 0);
    sim_disk_limit(host, 100);
    assert_int_equal(env_file_pwrite(env, f, block, sizeof block, 4096), ERR_DISKFULL);
    assert_int_equal(env_file_pwrite(env, f, block, sizeof block, 0), 0);
    uint64_t bytes = 1;
    assert_int_equal(env_disk_free(env, "/d", &bytes), 0);
    assert_int_equal(bytes, 100);
    struct env_file *g = NULL;
    assert_int_equal(env_file_open(env, "/d/g", ENV_OPEN_WRITE | ENV_OPEN_CREATE, &g),
                     ERR_DISKFULL);
    sim_disk_limit(host, UINT64_MAX);
    assert_int_equal(env_file_pwrite(env, f, block, sizeof block, 4096), 0);
    env_file_close(env, f);
    sim_proc_free(env);
    sim_free(sim);
}

/* ---- network: a process that echoes, one that asks ---- */

struct talker {
    struct env *env;
    struct env_listener *listener;
    struct env_conn *conn;
    uint64_t got, sent, opened, closed, hash;
    int reason;
    bool paused;
    struct env_timer timer;
};

static void echo_data(void *arg, struct env_conn *conn, const uint8_t *data, size_t len)
{
    struct talker *t = arg;
    struct slice part = slice_of(data, len);
    t->got += len;
    (void)env_conn_write(t->env, conn, &part, 1);
}
static void ask_open(void *arg, struct env_conn *conn)
{
    struct talker *t = arg;
    t->opened++;
    assert_string_equal(env_conn_peer(t->env, conn)->name, "n1");
}
static void ask_data(void *arg, struct env_conn *conn, const uint8_t *data, size_t len)
{
    struct talker *t = arg;
    (void)conn;
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(data[i], (uint8_t)((t->got + i) * 7 % 251)); /* in order, nothing twice */
    }
    t->got += len;
}
static void talk_close(void *arg, struct env_conn *conn, int reason, const char *text)
{
    struct talker *t = arg;
    (void)conn;
    (void)text;
    t->closed++;
    t->reason = reason;
    t->conn = NULL;
}
static const struct env_conn_cbs echo_cbs = {.on_data = echo_data, .on_close = talk_close};
static const struct env_conn_cbs ask_cbs = {
    .on_open = ask_open, .on_data = ask_data, .on_close = talk_close};

static int echo_accept(void *arg, struct env_conn *conn, const struct env_peer *peer,
                       const struct env_conn_cbs **cbs, void **cb_arg)
{
    struct talker *t = arg;
    assert_int_equal(peer->role, ENV_ROLE_USER);
    t->opened++;
    t->conn = conn;
    *cbs = &echo_cbs;
    *cb_arg = t;
    return 0;
}
static void echo_start(void *arg)
{
    struct talker *t = arg;
    assert_int_equal(env_listen(t->env, "n1:7420", echo_accept, t, &t->listener, NULL), 0);
    assert_int_equal(env_listener_port(t->env, t->listener), 7420);
}
static void echo_stop(void *arg)
{
    struct talker *t = arg;
    env_listener_close(t->env, t->listener);
}
static void ask_start(void *arg)
{
    struct talker *t = arg;
    assert_int_equal(env_connect(t->env, "n1:7420", ENV_ROLE_NODE, "n1", &ask_cbs, t, &t->conn), 0);
}
static void ask_more(struct env_timer *timer)
{
    struct talker *t = list_entry(timer, struct talker, timer);
    if (t->conn == NULL) {
        return;
    }
    uint8_t bytes[3000];
    size_t n = 1 + env_random_u64(t->env) % sizeof bytes;
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (uint8_t)((t->sent + i) * 7 % 251);
    }
    struct slice parts[2] = {slice_of(bytes, n / 2), slice_of(bytes + n / 2, n - n / 2)};
    if (env_conn_write(t->env, t->conn, parts, 2) == 0) {
        t->sent += n;
    }
    env_timer_start_in_ms(t->env, timer, 1);
}
static void ask_begin(void *arg)
{
    struct talker *t = arg;
    t->timer.cb = ask_more;
    env_timer_start_in_ms(t->env, &t->timer, 1);
}
static void ask_end(void *arg)
{
    struct talker *t = arg;
    env_timer_stop(t->env, &t->timer);
    if (t->conn != NULL) {
        env_conn_close(t->env, t->conn, ERR_CANCELED);
    }
}

struct pair {
    struct sim *sim;
    struct sim_host *n1, *c1;
    struct talker server, client;
};
static void pair_open(struct pair *p, uint64_t seed)
{
    memset(p, 0, sizeof *p);
    p->sim = sim_new(seed);
    p->n1 = sim_host_new(p->sim, "n1");
    p->c1 = sim_host_new(p->sim, "c1");
    p->server.env = sim_proc_start(p->n1, ENV_ROLE_NODE, "n1");
    p->client.env = sim_proc_start(p->c1, ENV_ROLE_USER, "u1");
    sim_proc_call(p->server.env, echo_start, &p->server);
    sim_proc_call(p->client.env, ask_start, &p->client);
}
static void pair_run(struct pair *p, uint64_t ms)
{
    sim_run_until(p->sim, sim_now_ns(p->sim) + ms * SIM_MS);
}
static void pair_close(struct pair *p)
{
    if (!sim_proc_dead(p->client.env)) {
        sim_proc_call(p->client.env, ask_end, &p->client);
        pair_run(p, 3000);
    }
    if (!sim_proc_dead(p->server.env)) {
        sim_proc_call(p->server.env, echo_stop, &p->server);
    }
    sim_proc_free(p->client.env);
    sim_proc_free(p->server.env);
    sim_free(p->sim);
}

static void bytes_come_back_in_order_through_a_bad_network(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct pair p;
        pair_open(&p, seed);
        pair_run(&p, 10);
        assert_int_equal(p.client.opened, 1);
        assert_int_equal(p.server.opened, 1);
        sim_proc_call(p.client.env, ask_begin, &p.client);
        sim_net_loss(p.sim, 100000);
        pair_run(&p, 1000);
        sim_net_cut(p.c1, p.n1, true);
        pair_run(&p, 3000);
        uint64_t got = p.client.got;
        pair_run(&p, 1000);
        assert_int_equal(p.client.got, got);
        sim_net_heal(p.sim);
        pair_run(&p, 8000);
        env_timer_stop(p.client.env, &p.client.timer);
        pair_run(&p, 1000);
        assert_int_equal(p.client.closed, 0);
        assert_true(p.client.sent > 1000);
        assert_int_equal(p.client.got, p.client.sent);
        pair_close(&p);
        assert_int_equal(p.client.closed, 1);
        assert_int_equal(p.client.reason, ERR_CANCELED);
        assert_int_equal(p.server.closed, 1);
        assert_int_equal(p.server.reason, ERR_CLOSED);
    }
}

static void a_cut_that_lasts_breaks_connections(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, 1);
    pair_run(&p, 10);
    sim_proc_call(p.client.env, ask_begin, &p.client);
    pair_run(&p, 100);
    sim_net_cut(p.c1, p.n1, true);
    pair_run(&p, 30000);
    assert_int_equal(p.client.reason, ERR_TIMEOUT);
    assert_int_equal(p.server.closed, 0); /* half open: it has nothing to send */
    pair_close(&p);
}

static void death_is_told_by_the_kernel_and_power_loss_is_not(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, 1);
    pair_run(&p, 10);
    sim_proc_kill(p.server.env, SIM_SIGKILL);
    pair_run(&p, 10);
    assert_int_equal(p.client.reason, ERR_IO);
    pair_close(&p);

    pair_open(&p, 2);
    pair_run(&p, 10);
    sim_proc_kill(p.server.env, SIM_POWER_LOSS);
    pair_run(&p, 60000);
    assert_int_equal(p.client.closed, 0);
    sim_proc_call(p.client.env, ask_begin, &p.client);
    pair_run(&p, 1000);
    assert_int_equal(p.client.closed, 0);
    sim_proc_free(p.server.env); /* the machine is back and knows nothing */
    p.server.env = sim_proc_start(p.n1, ENV_ROLE_NODE, "n1");
    sim_proc_call(p.server.env, echo_start, &p.server);
    pair_run(&p, 10000);
    assert_int_equal(p.client.closed, 1);
    assert_int_equal(p.client.reason, ERR_IO);
    pair_close(&p);
}

static void connecting_fails_as_it_must(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, 1);
    sim_proc_call(p.server.env, echo_stop, &p.server); /* before the request arrives */
    pair_run(&p, 100);
    assert_int_equal(p.client.reason, ERR_NOCONN);
    sim_proc_call(p.server.env, echo_start, &p.server);
    sim_net_cut(p.n1, p.c1, true);
    sim_proc_call(p.client.env, ask_start, &p.client);
    pair_run(&p, 7000);
    assert_int_equal(p.client.reason, ERR_TIMEOUT);
    sim_net_heal(p.sim);
    struct env_conn *conn = NULL;
    assert_int_equal(
        env_connect(p.client.env, "n1:7420", ENV_ROLE_NODE, "n2", &ask_cbs, &p.client, &conn), 0);
    pair_run(&p, 100);
    assert_int_equal(p.client.reason, ERR_TLS);
    assert_int_equal(p.client.opened, 0);
    pair_close(&p);
}

static void resets_and_half_open_connections_are_noticed(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct pair p;
        pair_open(&p, seed);
        pair_run(&p, 10);
        sim_proc_call(p.client.env, ask_begin, &p.client);
        pair_run(&p, 100);
        assert_true(seed % 2 == 0 ? sim_net_reset_one(p.sim, NULL)
                                  : sim_net_half_open_one(p.sim, p.n1));
        pair_run(&p, 2000);
        assert_int_equal(p.client.closed, 1);
        assert_int_equal(p.client.reason, ERR_IO);
        pair_close(&p);
    }
}

static void backpressure_reaches_the_sender(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, 1);
    pair_run(&p, 10);
    env_conn_pause(p.client.env, p.client.conn, true);
    sim_proc_call(p.client.env, ask_begin, &p.client);
    pair_run(&p, 2000);
    assert_int_equal(p.client.got, 0);
    assert_true(env_conn_queued(p.server.env, p.server.conn) > 0);
    env_timer_stop(p.client.env, &p.client.timer);
    env_conn_pause(p.client.env, p.client.conn, false);
    pair_run(&p, 2000);
    assert_int_equal(p.client.got, p.client.sent);
    pair_close(&p);
}

static uint64_t trace_of(uint64_t seed)
{
    struct pair p;
    pair_open(&p, seed);
    pair_run(&p, 10);
    sim_proc_call(p.client.env, ask_begin, &p.client);
    sim_net_loss(p.sim, 50000);
    pair_run(&p, 500);
    (void)sim_net_reset_one(p.sim, NULL);
    pair_run(&p, 500);
    uint64_t hash = sim_trace_hash(p.sim);
    pair_close(&p);
    return hash;
}

static void a_seed_is_a_history(void **state)
{
    (void)state;
    assert_true(trace_of(7) == trace_of(7));
    assert_true(trace_of(7) != trace_of(8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_and_tasks_end_the_turn),
        cmocka_unit_test(a_paused_process_does_nothing_until_it_goes_on),
        cmocka_unit_test(works_of_a_queue_run_in_order_and_never_at_once),
        cmocka_unit_test(a_work_doesnt_survive_its_process),
        cmocka_unit_test(the_wall_clock_drifts_and_jumps_and_time_does_not),
        cmocka_unit_test(unsynced_bytes_may_be_lost_and_synced_ones_never),
        cmocka_unit_test(a_sigkill_keeps_the_page_cache),
        cmocka_unit_test(directories_go_when_they_are_empty),
        cmocka_unit_test(names_are_durable_only_with_their_directory),
        cmocka_unit_test(a_failed_sync_loses_the_pages_for_good),
        cmocka_unit_test(a_full_disk_refuses_growth_alone),
        cmocka_unit_test(bytes_come_back_in_order_through_a_bad_network),
        cmocka_unit_test(a_cut_that_lasts_breaks_connections),
        cmocka_unit_test(death_is_told_by_the_kernel_and_power_loss_is_not),
        cmocka_unit_test(connecting_fails_as_it_must),
        cmocka_unit_test(resets_and_half_open_connections_are_noticed),
        cmocka_unit_test(backpressure_reaches_the_sender),
        cmocka_unit_test(a_seed_is_a_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
