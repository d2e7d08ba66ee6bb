/* Entries that are applied while the disk writes them: until they are durable nobody sees them, and
 * if they never are, nobody ever does. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/test.h"

#include "base/env_file.h"
#include "base/log.h"
#include "embed/internal.h"

#define HEAP_BYTES ((uint64_t)4 << 20)
enum { COUNT = 8 }; /* calls in an entry that goes ahead */

static struct env_ops ops;
static struct env files = {&ops, 1};
static struct dir dir;
static struct embedded *db;
static struct embedded_heap *heap;
static uint64_t object;

/* ---- a disk that can be held up, and fail ---- */

static int (*real_pwrite)(struct env_file *f, const void *data, size_t len, uint64_t offset);
static _Atomic bool held, failing;

static int watched_pwrite(struct env_file *f, const void *data, size_t len, uint64_t offset)
{
    while (atomic_load(&held)) {
        (void)usleep(1000);
    }
    return atomic_load(&failing) ? ERR_IO : real_pwrite(f, data, len, offset);
}

static void open_db(void)
{
    struct err_text e = {{0}};
    struct embed_settings settings = {.mode = EMBED_MODE_DISK,
                                      .segment_bytes = 2u << 20,
                                      .log_bytes_max = 64u << 20,
                                      .ahead_calls_min = COUNT};
    (void)dir_path(&dir, "db", settings.dir);
    assert_int_equal(embed_open(&settings, &files, &db, &e), 0);
}

static void must(struct embedded_call *call)
{
    embed_run(heap, call, 30000);
    assert_int_equal(call->err, 0);
}

static int begin(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    env_file_ops(&ops);
    real_pwrite = ops.file_pwrite;
    ops.file_pwrite = watched_pwrite;
    atomic_store(&failing, false);
    dir_open(&dir);
    open_db();
    assert_int_equal(embed_heap_create(db, slice_of("h", 1), HEAP_BYTES, 0, 30000, NULL), 0);
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &heap, NULL), 0);
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = 64}};
    must(&call);
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

/* ---- calls ---- */

struct call {
    struct embedded_call call;
    _Atomic int settled;
};

static bool on_settled(struct embedded_call *call)
{
    atomic_fetch_add(&container_of(call, struct call, call)->settled, 1);
    return false;
}

static void never(struct embedded_call *call)
{
    (void)call;
    abort();
}

static void submit(struct call *c, const struct embedded_request *request)
{
    memset(c, 0, sizeof *c);
    c->call = (struct embedded_call){.request = request, .settled = on_settled, .done = never};
    embed_submit(heap, &c->call);
}

static struct call adds[COUNT];

static void *wait_for_adds(void *arg)
{
    (void)arg;
    for (int i = 0; i < COUNT; i++) {
        if (!embed_wait(db, &adds[i].call, UINT32_MAX)) {
            return adds;
        }
    }
    return NULL;
}

static pthread_t worker;

static void adds_submit(void)
{
    for (int i = 0; i < COUNT; i++) {
        submit(&adds[i],
               &(const struct embedded_request){.op = EMBEDDED_ADD_U64, .ptr = object, .delta = 1});
    }
    assert_int_equal(pthread_create(&worker, NULL, wait_for_adds, NULL), 0);
}

static bool is_ahead(void)
{
    inline_lock(&db->env);
    bool yes = embed__is_ahead(heap);
    inline_unlock(&db->env);
    return yes;
}

static void ahead_begin(void)
{
    atomic_store(&held, true);
    adds_submit();
    for (int i = 0; i < 5000 && !is_ahead(); i++) {
        (void)usleep(1000);
    }
    assert_true(is_ahead());
}

static void adds_end(int err)
{
    void *failed;
    atomic_store(&held, false);
    assert_int_equal(pthread_join(worker, &failed), 0);
    assert_null(failed);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(atomic_load(&adds[i].settled), 1);
        assert_int_equal(adds[i].call.err, err);
    }
}

static struct embedded_call value_read(uint64_t *value, uint32_t timeout_ms)
{
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_READ, .ptr = object, .out = value, .size = sizeof *value}};
    embed_run(heap, &call, timeout_ms);
    return call;
}

static uint64_t value_now(void)
{
    uint64_t value = 0;
    assert_int_equal(value_read(&value, 30000).err, 0);
    return value;
}

/* ---- what isn't durable isn't seen ---- */

static void nothing_is_finished_or_read_before_it_is_durable(void **state)
{
    (void)state;
    static struct call read;
    static uint64_t later;
    uint64_t value = 77;
    ahead_begin();
    inline_lock(&db->env); /* it is there, for those who have no business with it */
    uint64_t inside = 0;
    int rv = heap_copy(heap->heap, object, 0, &inside, sizeof inside);
    inline_unlock(&db->env);
    assert_int_equal(rv, 0);
    assert_int_equal(inside, COUNT);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(atomic_load(&adds[i].settled), 0);
    }
    assert_int_equal(value_read(&value, 20).err, ERR_TIMEOUT);
    assert_int_equal(value, 77);
    submit(&read, &(const struct embedded_request){
                      .op = EMBEDDED_READ, .ptr = object, .out = &later, .size = sizeof later});
    (void)usleep(5000);
    assert_int_equal(atomic_load(&read.settled), 0);
    adds_end(0);
    assert_true(embed_wait(db, &read.call, 30000));
    assert_int_equal(read.call.err, 0);
    assert_int_equal(later, COUNT);
    assert_int_equal(value_now(), COUNT);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(adds[i].call.value, i);
    }
}

static void what_never_becomes_durable_is_never_seen(void **state)
{
    (void)state;
    static struct call read;
    static uint64_t value = 77;
    ahead_begin();
    submit(&read, &(const struct embedded_request){
                      .op = EMBEDDED_READ, .ptr = object, .out = &value, .size = sizeof value});
    atomic_store(&failing, true);
    adds_end(ERR_INDOUBT);
    assert_true(embed_wait(db, &read.call, 30000));
    assert_int_equal(read.call.err, ERR_IO);
    assert_int_equal(value_read(&value, 30000).err, ERR_IO);
    assert_int_equal(value, 77);
    embed_close(db); /* writes no checkpoint of it */
    atomic_store(&failing, false);
    open_db();
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &heap, NULL), 0);
    assert_int_equal(value_now(), 0);
}

static void a_checkpoint_waits(void **state)
{
    (void)state;
    ahead_begin();
    inline_lock(&db->env);
    embed__checkpoint_want(heap);
    assert_null(db->checkpointing);
    assert_true(heap->checkpoint_wanted);
    inline_unlock(&db->env);
    adds_end(0);
    inline_lock(&db->env);
    assert_false(heap->checkpoint_wanted);
    embed__heap_settle(heap);
    assert_int_equal(heap->checkpoint_index, heap_index(heap->heap));
    inline_unlock(&db->env);
}

/* ---- who is left alone ---- */

static void a_heap_with_readers_is_left_alone(void **state)
{
    (void)state;
    uint64_t value;
    ahead_begin();
    assert_int_equal(value_read(&value, 1).err, ERR_TIMEOUT);
    adds_end(0);
    atomic_store(&held, true);
    adds_submit();
    for (int i = 0; i < 20; i++) {
        (void)usleep(1000);
        assert_false(is_ahead());
        assert_int_equal(value_now(), COUNT); /* reads don't wait for the disk */
    }
    adds_end(0);
    assert_int_equal(value_now(), 2 * COUNT);
}

static struct embedded_watch watch;

static void watch_submit(struct call *c, enum events_from from, uint64_t token)
{
    watch.what = EVENTS_OBJECT;
    watch.ptr = object;
    watch.from = from;
    watch.token = token;
    watch.max = 16;
    watch.bytes_max = 4096;
    watch.wait_ms = 20000;
    submit(c, &(const struct embedded_request){.op = EMBEDDED_WATCH, .out = &watch});
}

static void a_watched_heap_is_left_alone(void **state)
{
    (void)state;
    static struct call c;
    memset(&watch, 0, sizeof watch);
    must(&(struct embedded_call){
        .request = &(const struct embedded_request){.op = EMBEDDED_SET_RETENTION, .size = 60000}});
    watch_submit(&c, EVENTS_NOW, 0);
    assert_true(embed_wait(db, &c.call, 30000));
    assert_int_equal(c.call.err, 0);
    watch_submit(&c, EVENTS_TOKEN, c.call.value);
    assert_int_equal(heap->waiters.count, 1);
    atomic_store(&held, true);
    adds_submit();
    for (int i = 0; i < 20; i++) {
        (void)usleep(1000);
        assert_false(is_ahead());
        assert_int_equal(atomic_load(&c.settled), 0);
    }
    adds_end(0);
    assert_true(embed_wait(db, &c.call, 30000));
    assert_int_equal(c.call.err, 0);
    assert_true(c.call.bytes.len > 0);
    buf_close(&c.call.bytes);
    embed_watch_close(db, &watch);
}

static void a_watch_that_comes_too_early_can_be_closed(void **state)
{
    (void)state;
    static struct call c;
    memset(&watch, 0, sizeof watch);
    ahead_begin();
    watch_submit(&c, EVENTS_NOW, 0);
    assert_int_equal(atomic_load(&c.settled), 0);
    embed_watch_close(db, &watch);
    assert_int_equal(atomic_load(&c.settled), 1);
    assert_int_equal(c.call.err, ERR_CANCELED);
    adds_end(0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_finished_or_read_before_it_is_durable),
        TEST(what_never_becomes_durable_is_never_seen),
        TEST(a_checkpoint_waits),
        TEST(a_heap_with_readers_is_left_alone),
        TEST(a_watched_heap_is_left_alone),
        TEST(a_watch_that_comes_too_early_can_be_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
