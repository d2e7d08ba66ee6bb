/* Calls whose callers don't wait: how they gather, who writes them, and when. Argument "pmem": in
 * pmem mode, where nothing is written but all else holds. */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/test.h"

#include "base/env_file.h"
#include "base/log.h"
#include "embed/internal.h"

#define HEAP_BYTES ((uint64_t)4 << 20)

static enum embed_mode mode = EMBED_MODE_DISK;
static struct env_ops ops;
static struct env files = {&ops, 1};
static struct dir dir;
static struct embedded *db;
static struct embedded_heap *heap;
static uint64_t object;

/* ---- a disk that says who writes, and that can be held up ---- */

static int (*real_pwrite)(struct env_file *f, const void *data, size_t len, uint64_t offset);
static _Atomic bool held;
static _Atomic pthread_t writer; /* whose writes are counted */
static _Atomic int writes;

static int watched_pwrite(struct env_file *f, const void *data, size_t len, uint64_t offset)
{
    if (pthread_equal(pthread_self(), atomic_load(&writer))) {
        atomic_fetch_add(&writes, 1);
    }
    while (atomic_load(&held)) {
        (void)usleep(1000);
    }
    return real_pwrite(f, data, len, offset);
}

static void count_writes_of(pthread_t thread)
{
    atomic_store(&writer, thread);
    atomic_store(&writes, 0);
}

/* ---- calls ---- */

struct call {
    struct embedded_call call;
    _Atomic int settled;
    _Atomic bool done;
    bool wants_done;
    pthread_t thread; /* that called done() */
};

static bool on_settled(struct embedded_call *call)
{
    struct call *c = container_of(call, struct call, call);
    atomic_fetch_add(&c->settled, 1);
    return c->wants_done;
}

static void on_done(struct embedded_call *call)
{
    struct call *c = container_of(call, struct call, call);
    c->thread = pthread_self();
    atomic_store(&c->done, true);
}

static void submit_add(struct call *c)
{
    memset(c, 0, sizeof *c);
    c->call = (struct embedded_call){
        .request =
            &(const struct embedded_request){.op = EMBEDDED_ADD_U64, .ptr = object, .delta = 1},
        .settled = on_settled,
        .done = on_done};
    embed_submit(heap, &c->call);
}

static uint64_t value_now(void)
{
    uint64_t value = 0;
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_READ, .ptr = object, .out = &value, .size = sizeof value}};
    embed_run(heap, &call, 30000);
    assert_int_equal(call.err, 0);
    return value;
}

static uint64_t log_writes(void)
{
    struct wal_stats s = {0};
    inline_lock(&db->env);
    if (db->wal != NULL) {
        wal_stats(db->wal, &s);
    }
    inline_unlock(&db->env);
    return s.writes;
}

static int begin(void **state)
{
    (void)state;
    struct err_text e = {{0}};
    log_set_level(LOG_OFF);
    env_file_ops(&ops);
    real_pwrite = ops.file_pwrite;
    ops.file_pwrite = watched_pwrite;
    dir_open(&dir);
    struct embed_settings settings = {
        .mode = mode, .segment_bytes = 2u << 20, .log_bytes_max = 64u << 20};
    (void)dir_path(&dir, "db", settings.dir);
    count_writes_of(pthread_self());
    assert_int_equal(embed_open(&settings, &files, &db, &e), 0);
    assert_int_equal(embed_heap_create(db, slice_of("h", 1), HEAP_BYTES, 0, 30000, NULL), 0);
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &heap, NULL), 0);
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = 64}};
    embed_run(heap, &call, 30000);
    assert_int_equal(call.err, 0);
    object = call.value;
    return 0;
}

static int end(void **state)
{
    (void)state;
    embed_close(db);
    dir_close(&dir);
    return 0;
}

/* ---- who writes, and how often ---- */

/* How often the library thread has slept, by what the kernel counts. */
static long library_sleeps(void)
{
    DIR *tasks = opendir("/proc/self/task");
    long sleeps = -1;
    assert_non_null(tasks);
    for (struct dirent *d = readdir(tasks); d != NULL; d = readdir(tasks)) {
        char path[300];
        char line[128];
        bool ours = false;
        (void)snprintf(path, sizeof path, "/proc/self/task/%s/status", d->d_name);
        FILE *f = fopen(path, "re");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            ours = ours || strcmp(line, "Name:\tcairn-library\n") == 0;
            if (ours && strncmp(line, "voluntary_ctxt_switches:", 24) == 0) {
                sleeps = strtol(line + 24, NULL, 10);
            }
        }
        if (f != NULL) {
            (void)fclose(f);
        }
    }
    (void)closedir(tasks);
    assert_true(sleeps >= 0);
    return sleeps;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void a_lone_thread_wakes_nobody(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    count_writes_of(pthread_self());
    long before = library_sleeps();
    uint64_t begun_ms = now_ms();
    for (int i = 0; i < COUNT; i++) {
        struct embedded_call call = {.request = &(const struct embedded_request){
                                         .op = EMBEDDED_ADD_U64, .ptr = object, .delta = 1}};
        embed_run(heap, &call, 30000);
        assert_int_equal(call.err, 0);
    }
    /* Its timers wake it, the log's look for silence every 50 ms: on a slow disk, that is often. */
    uint64_t took_ms = now_ms() - begun_ms;
    assert_true(library_sleeps() - before < COUNT / 4 + (long)(took_ms / 25));
    assert_true(mode == EMBED_MODE_PMEM || atomic_load(&writes) >= COUNT);
}

static void calls_that_are_waited_for_are_written_together(void **state)
{
    (void)state;
    enum { ROUNDS = 20, COUNT = 100 };
    static struct call calls[COUNT];
    count_writes_of(db->library);
    uint64_t before = log_writes();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++) {
            submit_add(&calls[i]);
        }
        for (int i = 0; i < COUNT; i++) {
            assert_true(embed_wait(db, &calls[i].call, UINT32_MAX));
            assert_int_equal(calls[i].call.err, 0);
            assert_int_equal(calls[i].call.value, round * COUNT + i);
            assert_int_equal(atomic_load(&calls[i].settled), 1);
            assert_false(atomic_load(&calls[i].done));
        }
    }
    /* One a round by this thread; more only if it was kept from running for a moment. */
    assert_true(log_writes() - before < ROUNDS + ROUNDS / 2);
    assert_true(atomic_load(&writes) < ROUNDS / 2);
    assert_int_equal(value_now(), ROUNDS * COUNT);
}

static void a_long_row_is_written_while_it_grows(void **state)
{
    (void)state;
    enum { COUNT = 64, BYTES = 16384 };
    static struct call calls[COUNT];
    static uint8_t bytes[BYTES];
    struct embedded_call alloc = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = BYTES}};
    embed_run(heap, &alloc, 30000);
    assert_int_equal(alloc.err, 0);
    uint64_t before = log_writes();
    for (int i = 0; i < COUNT; i++) {
        memset(bytes, i, sizeof bytes);
        memset(&calls[i], 0, sizeof calls[i]);
        calls[i].call = (struct embedded_call){
            .request = &(const struct embedded_request){.op = EMBEDDED_WRITE,
                                                        .ptr = alloc.value,
                                                        .data = slice_of(bytes, sizeof bytes)},
            .settled = on_settled,
            .done = on_done};
        embed_submit(heap, &calls[i].call);
        memset(bytes, 0xee, sizeof bytes); /* the call has its own copy */
    }
    for (int i = 0; i < COUNT; i++) {
        assert_true(embed_wait(db, &calls[i].call, UINT32_MAX));
        assert_int_equal(calls[i].call.err, 0);
    }
    if (mode == EMBED_MODE_DISK) {
        assert_true(log_writes() - before >= COUNT * BYTES / (BATCH_BYTES_CLOSE + BYTES) - 1);
    }
    struct embedded_call read = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_READ, .ptr = alloc.value, .out = bytes, .size = sizeof bytes}};
    embed_run(heap, &read, 30000);
    assert_int_equal(read.err, 0);
    for (int i = 0; i < BYTES; i++) {
        assert_int_equal(bytes[i], COUNT - 1);
    }
}

/* ---- what nobody waits for ---- */

static void what_nobody_asks_about_is_done_soon(void **state)
{
    (void)state;
    static struct call c;
    submit_add(&c);
    for (int i = 0; i < 5000 && atomic_load(&c.settled) == 0; i++) {
        (void)usleep(1000);
    }
    assert_int_equal(atomic_load(&c.settled), 1);
    assert_int_equal(value_now(), 1);
}

static void a_wanted_call_is_done_by_the_library_thread(void **state)
{
    (void)state;
    static struct call c;
    memset(&c, 0, sizeof c);
    c.wants_done = true;
    c.call = (struct embedded_call){
        .request =
            &(const struct embedded_request){.op = EMBEDDED_ADD_U64, .ptr = object, .delta = 1},
        .settled = on_settled,
        .done = on_done};
    embed_submit(heap, &c.call);
    embed_want(db, &c.call);
    for (int i = 0; i < 5000 && !atomic_load(&c.done); i++) {
        (void)usleep(1000);
    }
    assert_true(atomic_load(&c.done));
    assert_true(pthread_equal(c.thread, db->library));
}

static void closing_finishes_what_was_submitted(void **state)
{
    (void)state;
    enum { COUNT = 20 };
    static struct call calls[COUNT];
    for (int i = 0; i < COUNT; i++) {
        submit_add(&calls[i]);
    }
    end(NULL);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(atomic_load(&calls[i].settled), 1);
        assert_int_equal(calls[i].call.err, 0);
    }
    begin(NULL);
}

/* ---- several who wait ---- */

static void a_wait_with_a_limit_ends_in_time(void **state)
{
    (void)state;
    static struct call c;
    struct timespec from;
    struct timespec to;
    if (mode == EMBED_MODE_PMEM) {
        skip();
    }
    atomic_store(&held, true);
    submit_add(&c);
    (void)clock_gettime(CLOCK_MONOTONIC, &from);
    assert_false(embed_wait(db, &c.call, 20));
    (void)clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 >= 19);
    assert_int_equal(atomic_load(&c.settled), 0);
    atomic_store(&held, false);
    assert_true(embed_wait(db, &c.call, 30000));
    assert_int_equal(c.call.err, 0);
    assert_int_equal(value_now(), 1);
}

static void *wait_for_it(void *arg)
{
    struct call *c = arg;
    return embed_wait(db, &c->call, UINT32_MAX) ? arg : NULL;
}

static void several_threads_wait_for_one_call(void **state)
{
    (void)state;
    enum { THREADS = 4, ROUNDS = 50 };
    static struct call c;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        void *waited;
        submit_add(&c);
        for (int i = 0; i < THREADS; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, wait_for_it, &c), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            assert_int_equal(pthread_join(threads[i], &waited), 0);
            assert_ptr_equal(waited, &c);
        }
        assert_int_equal(c.call.value, round);
    }
}

static void *submit_and_wait(void *arg)
{
    enum { ROUNDS = 60, FLIGHT = 5 };
    struct call calls[FLIGHT];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < FLIGHT; i++) {
            submit_add(&calls[i]);
        }
        for (int i = FLIGHT - 1; i >= 0; i--) {
            /* Some work themselves, some only sleep. */
            if (!embed_wait(db, &calls[i].call, round % 3 == 0 ? 60000 : UINT32_MAX) ||
                calls[i].call.err != 0) {
                return arg;
            }
        }
    }
    return NULL;
}

static void threads_share_the_writes(void **state)
{
    (void)state;
    enum { THREADS = 6, EACH = 60 * 5 };
    pthread_t threads[THREADS];
    void *failed;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, submit_and_wait, &heap), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(value_now(), THREADS * EACH);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "pmem") == 0) {
        mode = EMBED_MODE_PMEM;
    }
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(a_lone_thread_wakes_nobody),
        TEST(calls_that_are_waited_for_are_written_together),
        TEST(a_long_row_is_written_while_it_grows),
        TEST(what_nobody_asks_about_is_done_soon),
        TEST(a_wanted_call_is_done_by_the_library_thread),
        TEST(closing_finishes_what_was_submitted),
        TEST(a_wait_with_a_limit_ends_in_time),
        TEST(several_threads_wait_for_one_call),
        TEST(threads_share_the_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
