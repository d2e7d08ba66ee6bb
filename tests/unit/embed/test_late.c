/* Whose time comes while the disk is slow or full: what isn't in the log yet is taken back, and
 * nothing else is disturbed; what is on its way there is in doubt. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/test.h"

#include "base/env_file.h"
#include "base/log.h"
#include "base/mem.h"
#include "embed/internal.h"

#define HEAP_BYTES ((uint64_t)64 << 20)
#define LARGE      ((size_t)200 << 10)
#define WAIT_MS    60000u

static struct env_ops ops;
static struct env files = {&ops, 1};
static struct dir dir;
static struct embed_settings settings;
static struct embedded_heap *heap, *other, *third_heap;
static uint64_t object, other_object, third_object;

/* ---- a disk that can be held up, and be full ---- */

static int (*real_pwrite)(struct env_file *f, const void *data, size_t len, uint64_t offset);
static int (*real_open)(struct env *env, const char *path, int flags, struct env_file **out);
static int (*real_free)(struct env *env, const char *path, uint64_t *bytes);
static _Atomic bool opened, held, full;
static _Atomic int holding; /* writes */

static struct embedded *db;

static int watched_pwrite(struct env_file *f, const void *data, size_t len, uint64_t offset)
{
    bool log = atomic_load(&opened) &&
               !pthread_equal(pthread_self(), db->disk); /* not a segment that is being made */
    atomic_fetch_add(&holding, log ? 1 : 0);
    while (log && atomic_load(&held)) {
        (void)usleep(1000);
    }
    atomic_fetch_sub(&holding, log ? 1 : 0);
    return real_pwrite(f, data, len, offset);
}

static int watched_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    *out = NULL;
    return atomic_load(&full) && (flags & ENV_OPEN_CREATE) != 0 ? ERR_DISKFULL
                                                                : real_open(env, path, flags, out);
}

static int watched_free(struct env *env, const char *path, uint64_t *bytes)
{
    *bytes = 0;
    return atomic_load(&full) ? 0 : real_free(env, path, bytes);
}

static struct embedded_heap *new_heap(const char *name)
{
    struct embedded_heap *h = NULL;
    assert_int_equal(embed_heap_create(db, slice_of(name, 1), HEAP_BYTES, 0, 30000, NULL), 0);
    assert_int_equal(embed_heap_open(db, slice_of(name, 1), &h, NULL), 0);
    return h;
}

static uint64_t new_object(struct embedded_heap *h, uint64_t size)
{
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = size}};
    embed_run(h, &call, WAIT_MS);
    assert_int_equal(call.err, 0);
    return call.value;
}

static int begin(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    env_file_ops(&ops);
    real_pwrite = ops.file_pwrite;
    real_open = ops.file_open;
    real_free = ops.disk_free;
    ops.file_pwrite = watched_pwrite;
    ops.file_open = watched_open;
    ops.disk_free = watched_free;
    dir_open(&dir);
    settings = (struct embed_settings){.mode = EMBED_MODE_DISK,
                                       .segment_bytes = 2u << 20,
                                       .log_bytes_max = 64u << 20,
                                       .checkpoint_bytes = UINT64_C(1) << 40};
    (void)dir_path(&dir, "db", settings.dir);
    struct err_text e = {{0}};
    assert_int_equal(embed_open(&settings, &files, &db, &e), 0);
    atomic_store(&opened, true);
    heap = new_heap("h");
    other = new_heap("o");
    object = new_object(heap, LARGE);
    other_object = new_object(other, 64);
    return 0;
}

static int end(void **state)
{
    (void)state;
    atomic_store(&held, false);
    atomic_store(&full, false);
    atomic_store(&opened, false);
    embed_close(db);
    dir_close(&dir);
    return 0;
}

/* ---- calls ---- */

static uint64_t object_of(const struct embedded_heap *h)
{
    return h == heap ? object : h == other ? other_object : third_object;
}

struct add {
    struct embedded_request request;
    struct embedded_call call;
    struct embedded_heap *heap;
    uint32_t timeout_ms;
    pthread_t thread;
};

static void *run(void *arg)
{
    struct add *a = arg;
    embed_run(a->heap, &a->call, a->timeout_ms);
    return NULL;
}

static void add_begin(struct add *a, struct embedded_heap *h, uint64_t delta, uint32_t timeout_ms)
{
    *a = (struct add){.request = {.op = EMBEDDED_ADD_U64, .ptr = object_of(h), .delta = delta},
                      .heap = h,
                      .timeout_ms = timeout_ms};
    a->call.request = &a->request;
    assert_int_equal(pthread_create(&a->thread, NULL, run, a), 0);
}

static int add_end(struct add *a)
{
    assert_int_equal(pthread_join(a->thread, NULL), 0);
    assert_true(a->call.finished);
    return a->call.err;
}

static uint64_t value_of(struct embedded_heap *h)
{
    uint64_t value = 0;
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_READ, .ptr = object_of(h), .out = &value, .size = sizeof value}};
    embed_run(h, &call, WAIT_MS);
    assert_int_equal(call.err, 0);
    return value;
}

/* The newest batch of the heap that waits. */
static uint32_t waiting(struct embedded_heap *h)
{
    inline_lock(&db->env);
    const struct embed_batch *b = embed__batch_that_takes(h);
    uint32_t count = b == NULL ? 0 : b->count;
    inline_unlock(&db->env);
    return count;
}

static void until(bool (*is)(uint64_t n), uint64_t n)
{
    for (int i = 0; i < 10000 && !is(n); i++) {
        (void)usleep(1000);
    }
    assert_true(is(n));
}

static bool are_waiting(uint64_t count)
{
    return waiting(heap) == count;
}

static bool are_holding(uint64_t count)
{
    return (uint64_t)atomic_load(&holding) == count;
}

/* An entry of the heap is being written, and will be for a while. */
static void write_begin(struct add *a, struct embedded_heap *h)
{
    atomic_store(&held, true);
    add_begin(a, h, 1, WAIT_MS);
    until(are_holding, 1);
}

/* ---- the time comes ---- */

static void who_leaves_a_batch_takes_his_command_back_and_no_other(void **state)
{
    (void)state;
    static struct add first, before, late, after;
    write_begin(&first, heap);
    add_begin(&before, heap, 10, WAIT_MS);
    until(are_waiting, 1);
    add_begin(&late, heap, 100, 300);
    until(are_waiting, 2);
    add_begin(&after, heap, 1000, WAIT_MS);
    until(are_waiting, 3);
    assert_int_equal(add_end(&late), ERR_TIMEOUT);
    assert_int_equal(waiting(heap), 2);
    atomic_store(&held, false);
    assert_int_equal(add_end(&first), 0);
    assert_int_equal(add_end(&before), 0);
    assert_int_equal(add_end(&after), 0);
    assert_int_equal(before.call.value, 1);
    assert_int_equal(after.call.value, 11); /* each has its own outcome */
    assert_int_equal(value_of(heap), 1011);
}

static void who_leaves_alone_leaves_nothing(void **state)
{
    (void)state;
    static struct add first, late;
    write_begin(&first, heap);
    add_begin(&late, heap, 100, 50);
    assert_int_equal(add_end(&late), ERR_TIMEOUT);
    inline_lock(&db->env);
    bool none = list_empty(&heap->waiting);
    size_t bytes = heap->waiting_bytes;
    inline_unlock(&db->env);
    assert_true(none);
    assert_int_equal(bytes, 0);
    atomic_store(&held, false);
    assert_int_equal(add_end(&first), 0);
    assert_int_equal(value_of(heap), 1);
    assert_int_equal(new_object(heap, 8) != 0, 1);
}

/* It is in the log, behind two writes that others are at. */
static void who_leaves_what_is_in_the_log_is_in_doubt(void **state)
{
    (void)state;
    static struct add first, third, second, late;
    third_heap = new_heap("t");
    third_object = new_object(third_heap, 64);
    write_begin(&first, other);
    add_begin(&third, third_heap, 1, WAIT_MS);
    until(are_holding, 2);
    add_begin(&late, heap, 100, 200);
    int rv = add_end(&late);
    assert_int_equal(rv, ERR_INDOUBT);
    add_begin(&second, heap, 1000, WAIT_MS);
    atomic_store(&held, false);
    assert_int_equal(add_end(&first), 0);
    assert_int_equal(add_end(&third), 0);
    assert_int_equal(add_end(&second), 0);
    assert_int_equal(second.call.value, 100); /* here it did happen */
    assert_int_equal(value_of(heap), 1100);
}

/* ---- the disk is full ---- */

enum { COUNT = 64 };
static struct embedded_call calls[COUNT];
static uint8_t bytes[COUNT][LARGE];

static bool on_settled(struct embedded_call *call)
{
    (void)call;
    return false;
}

static void never(struct embedded_call *call)
{
    (void)call;
    abort();
}

static void what_waits_while_the_disk_is_full_never_happened(void **state)
{
    (void)state;
    static struct add first;
    write_begin(&first, heap);
    for (int i = 0; i < COUNT; i++) {
        memset(bytes[i], i + 1, LARGE);
        struct embedded_request request = {
            .op = EMBEDDED_WRITE, .ptr = object, .data = slice_of(bytes[i], LARGE)};
        calls[i] =
            (struct embedded_call){.request = &request, .settled = on_settled, .done = never};
        embed_submit(heap, &calls[i]);
    }
    atomic_store(&full, true);
    atomic_store(&held, false);
    assert_int_equal(add_end(&first), 0);
    int written = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true(embed_wait(db, &calls[i], WAIT_MS));
        assert_true(calls[i].err == 0 || calls[i].err == ERR_DISKFULL);
        assert_true(calls[i].err != 0 || written == i); /* no hole */
        written += calls[i].err == 0;
        if (calls[i].err != 0) {
            assert_non_null(strstr(calls[i].text, "full"));
        }
    }
    assert_in_range(written, 1, COUNT - 1);
    assert_int_equal(value_of(heap) & 0xff, written);
    assert_int_equal(heap->waiting_bytes, 0);
    atomic_store(&full, false);
    int rv = ERR_DISKFULL;
    for (int i = 0; i < 1000 && rv == ERR_DISKFULL; i++) { /* room is looked for once a second */
        static struct add again;
        add_begin(&again, heap, 1, WAIT_MS);
        rv = add_end(&again);
        (void)usleep(10000);
    }
    assert_int_equal(rv, 0);
    assert_int_equal(value_of(heap) & 0xff, written + 1);
}

/* ---- checkpoints ---- */

static bool is_checkpointed(uint64_t from)
{
    inline_lock(&db->env);
    bool yes = heap->checkpoint_index >= from && db->checkpointing == NULL;
    inline_unlock(&db->env);
    return yes;
}

static void a_checkpoint_that_cant_start_is_tried_again(void **state)
{
    (void)state;
    inline_lock(&db->env);
    uint64_t index = heap_index(heap->heap);
    mem_fault(0, -1);
    embed__checkpoint_want(heap);
    long hits = mem_fault_hits();
    mem_fault(0, 0);
    bool runs = db->checkpointing != NULL;
    bool wanted = heap->checkpoint_wanted;
    inline_unlock(&db->env);
    assert_true(hits > 0);
    assert_false(runs);
    assert_true(wanted);
    until(is_checkpointed, index);
    assert_int_equal(db->failed, 0);
}

/* What an idle heap has in the oldest segment holds up the whole log, and nothing of its own asks
 * for a checkpoint. */
static void a_log_as_long_as_it_may_be_checkpoints_who_is_oldest_in_it(void **state)
{
    (void)state;
    atomic_store(&opened, false);
    embed_close(db);
    settings.log_bytes_max = 16u << 20;
    assert_int_equal(embed_open(&settings, &files, &db, NULL), 0);
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &heap, NULL), 0);
    assert_int_equal(embed_heap_open(db, slice_of("o", 1), &other, NULL), 0);
    static struct add one;
    add_begin(&one, heap, 1, WAIT_MS);
    assert_int_equal(add_end(&one), 0);
    uint64_t index = heap_index(heap->heap);
    assert_true(heap->checkpoint_index < index);
    uint64_t large = new_object(other, LARGE);
    for (int i = 0; i < 4 * 16 * 5; i++) {
        struct embedded_call call = {
            .request = &(const struct embedded_request){
                .op = EMBEDDED_WRITE, .ptr = large, .data = slice_of(bytes[0], LARGE)}};
        embed_run(other, &call, WAIT_MS);
        assert_int_equal(call.err, 0);
    }
    assert_true(is_checkpointed(index));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(who_leaves_a_batch_takes_his_command_back_and_no_other),
        TEST(who_leaves_alone_leaves_nothing),
        TEST(who_leaves_what_is_in_the_log_is_in_doubt),
        TEST(what_waits_while_the_disk_is_full_never_happened),
        TEST(a_checkpoint_that_cant_start_is_tried_again),
        TEST(a_log_as_long_as_it_may_be_checkpoints_who_is_oldest_in_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
