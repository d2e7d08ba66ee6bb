/* The log on real files, with real worker threads. WAL_BENCH=seconds makes it a measurement
 * (prints, checks nothing of time). */
#include "support/test.h"

#include <sys/resource.h>

#include "base/assert.h"
#include "base/env_uv.h"
#include "base/log.h"
#include "support/dir.h"
#include "wal/wal.h"

#define CLIENTS_MAX 1024

struct run {
    struct env *env;
    struct wal *wal;
    struct wal_log *logs[4];
    struct dir dir;
    struct wal_opts opts;
    struct wal_block block;
    uint8_t data[256];
    uint64_t waiting[CLIENTS_MAX]; /* position each client waits for */
    unsigned clients;
    uint64_t done, goal;
    struct env_timer timer;
    bool stopping;
    int close_err;
};

static void block_release(struct wal_block *block)
{
    (void)block;
}

static void on_closed(void *arg, int err)
{
    struct run *r = arg;

    r->close_err = err;
    env_uv_stop(r->env);
}

static void ask(struct run *r, unsigned client)
{
    struct wal_log *log = r->logs[client % 4];
    struct wal_entry e = {
        .term = 1, .type = 1, .data = slice_of(r->data, sizeof r->data), .block = &r->block};
    int rv = wal_log_append(log, wal_log_last_index(log) + 1, &e, 1, &r->waiting[client]);

    assert(rv == 0);
}

static void on_durable(void *arg, uint64_t position)
{
    struct run *r = arg;

    for (unsigned i = 0; i < r->clients; i++) {
        if (r->waiting[i] != 0 && r->waiting[i] <= position) {
            r->waiting[i] = 0;
            r->done++;
            if (r->done < r->goal && !r->stopping) {
                ask(r, i);
            }
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        uint64_t last = wal_log_durable_index(r->logs[i]);
        wal_log_applied(r->logs[i], last);
        if (last - wal_log_prev_index(r->logs[i]) > 20000) {
            (void)wal_log_mark_checkpoint(r->logs[i], last, last, last - 100, NULL);
        }
    }
    if ((r->done >= r->goal || r->stopping) && r->close_err == 1) {
        r->close_err = 2;
        wal_close(r->wal, on_closed, r);
    }
}

static void on_failed(void *arg, int err, const char *text)
{
    (void)arg;
    (void)fprintf(stderr, "%d %s\n", err, text);
    abort();
}

static void on_time(struct env_timer *timer)
{
    container_of(timer, struct run, timer)->stopping = true;
}

static struct run *run_new(void)
{
    struct run *r = calloc(1, sizeof *r);

    assert_non_null(r);
    log_set_level(LOG_WARN);
    dir_open(&r->dir);
    assert_int_equal(env_uv_open(&r->env), 0);
    r->opts.dir = r->dir.path;
    r->opts.node_uid = 5;
    r->opts.direct = true;
    r->opts.on_durable = on_durable;
    r->opts.on_failed = on_failed;
    r->opts.arg = r;
    r->block.refs = 1;
    r->block.release = block_release;
    r->timer.cb = on_time;
    return r;
}

static void run_free(struct run *r)
{
    env_uv_close(r->env);
    dir_close(&r->dir);
    free(r);
}

static void run_clients(struct run *r, unsigned clients, uint64_t goal)
{
    struct err_text e;

    assert_int_equal(wal_open(r->env, &r->opts, &r->wal, &e), 0);
    for (unsigned i = 0; i < 4; i++) {
        r->logs[i] = wal_log_find(r->wal, i + 1);
        if (r->logs[i] == NULL) {
            assert_int_equal(wal_log_create(r->wal, i + 1, 0, 0, &r->logs[i]), 0);
        }
    }
    r->clients = clients;
    r->done = 0;
    r->goal = goal;
    r->stopping = false;
    r->close_err = 1;
    for (unsigned i = 0; i < clients; i++) {
        ask(r, i);
    }
    env_uv_run(r->env);
    assert_int_equal(r->close_err, 0);
}

static void entries_written_by_real_threads_are_there_after_a_restart(void **state)
{
    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        struct run *r = run_new();
        uint64_t last = 0;

        r->opts.direct = direct;
        r->opts.segment_bytes = 256 << 10;
        run_clients(r, 16, 3000);
        run_clients(r, 16, 3000);
        assert_int_equal(wal_open(r->env, &r->opts, &r->wal, NULL), 0);
        for (uint64_t uid = 1; uid <= 4; uid++) {
            struct wal_log *log = wal_log_find(r->wal, uid);
            struct wal_entry out;
            size_t count;
            last += wal_log_last_index(log);
            assert_int_equal(wal_log_read(log, wal_log_last_index(log), &out, 1, 1, &count), 0);
            assert_int_equal(count, 1);
            assert_memory_equal(out.data.data, r->data, sizeof r->data);
            wal_block_unref(out.block);
        }
        assert_true(last >= 6000);
        r->close_err = 1;
        wal_close(r->wal, on_closed, r);
        env_uv_run(r->env);
        assert_int_equal(r->close_err, 0);
        run_free(r);
    }
}

static double cpu_us(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void bench(void **state)
{
    static const unsigned counts[] = {1, 8, 64, 1024};
    const char *seconds = getenv("WAL_BENCH");

    (void)state;
    if (seconds == NULL) {
        skip();
    }
    for (int direct = 0; direct < 2; direct++) {
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            struct run *r = run_new();
            uint64_t started;
            double cpu = cpu_us(), elapsed;

            r->opts.direct = direct;
            env_timer_start_in_ms(r->env, &r->timer, strtoull(seconds, NULL, 10) * 1000);
            started = env_now_ns(r->env);
            run_clients(r, counts[i], UINT64_MAX);
            elapsed = (double)(env_now_ns(r->env) - started) / 1e9;
            cpu = cpu_us() - cpu;
            (void)printf("direct %d clients %4u: %8.0f entries/s %6.2f us cpu/entry\n", direct,
                         counts[i], (double)r->done / elapsed, cpu / (double)r->done);
            run_free(r);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_written_by_real_threads_are_there_after_a_restart),
        cmocka_unit_test(bench),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
