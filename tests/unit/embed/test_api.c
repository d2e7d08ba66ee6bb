/* The SDK's contract on a directory, through the public header: what holds for a cluster holds
 * here. Argument "pmem": the same in pmem mode. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/embed/fixture.h"

static void heap_make(const char *name)
{
    cairn_heap_opts opts;
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.bytes_max = 16u << 20;
    must(cairn_heap_create(client, name, &opts));
}

static void reopen(void)
{
    cairn_heap_close(heap);
    cairn_client_free(client);
    must(open_client(&client));
    must(cairn_heap_open(client, "h", &heap));
}

static int begin(void **state)
{
    (void)state;
    dir_open(&dir);
    must(open_client(&client));
    heap_make("h");
    must(cairn_heap_open(client, "h", &heap));
    return 0;
}

/* ---- objects and roots ---- */

static void every_call_works(void **state)
{
    (void)state;
    cairn_ptr ptr;
    cairn_ptr found;
    cairn_object object;
    char text[8] = {0};
    uint64_t version = 0;
    uint64_t before = 0;
    assert_int_equal(cairn_heap_shards(heap), 1);
    must(cairn_alloc_init(heap, 64, 3, "hello", 6, &ptr));
    must(cairn_read(heap, ptr, 0, text, 6, &version));
    assert_string_equal(text, "hello");
    must(cairn_write(heap, ptr, 1, "a", 1));
    must(cairn_read(heap, ptr, 0, text, 6, NULL));
    assert_string_equal(text, "hallo");
    assert_int_equal(cairn_write_if_version(heap, ptr, version, 0, "x", 1), CAIRN_E_CONFLICT);
    must(cairn_stat(heap, ptr, &object));
    assert_true(object.version > version);
    assert_int_equal(object.size, 64);
    assert_int_equal(object.type, 3);
    must(cairn_write_if_version(heap, ptr, object.version, 0, "H", 1));
    assert_int_equal(cairn_compare_and_write(heap, ptr, 0, "x", "y", 1), CAIRN_E_CONFLICT);
    must(cairn_compare_and_write(heap, ptr, 0, "H", "y", 1));
    must(cairn_add_u64(heap, ptr, 56, 5, &before));
    assert_int_equal(before, 0);
    must(cairn_add_u64(heap, ptr, 56, 5, &before));
    assert_int_equal(before, 5);
    must(cairn_root_set(heap, "r", ptr));
    must(cairn_root_get(heap, "r", &found));
    assert_true(cairn_ptr_equals(found, ptr));
    assert_int_equal(cairn_root_compare_and_set(heap, "r", CAIRN_NULL, ptr), CAIRN_E_CONFLICT);
    must(cairn_root_compare_and_set(heap, "r", ptr, CAIRN_NULL));
    assert_int_equal(cairn_root_get(heap, "r", &found), CAIRN_E_NOTFOUND);
    assert_int_equal(cairn_root_delete(heap, "r"), CAIRN_E_NOTFOUND);
    must(cairn_free(heap, ptr));
    assert_int_equal(cairn_free(heap, ptr), CAIRN_E_STALE);
    assert_int_equal(cairn_read(heap, ptr, 0, text, 1, NULL), CAIRN_E_STALE);
    assert_int_equal(cairn_alloc(NULL, 1, 0, &ptr), CAIRN_E_INVAL);
}

static void errors_are_those_of_a_cluster(void **state)
{
    (void)state;
    static char big[CAIRN_WRITE_BYTES_MAX + 1];
    cairn_ptr ptr;
    cairn_heap *other = NULL;
    char byte;
    assert_int_equal(cairn_alloc(heap, 0, 0, &ptr), CAIRN_E_INVAL);
    assert_int_equal(cairn_alloc(heap, 32u << 20, 0, &ptr), CAIRN_E_NOSPACE);
    must(cairn_alloc(heap, 8, 0, &ptr));
    assert_int_equal(cairn_write(heap, ptr, 0, big, sizeof big), CAIRN_E_TOOBIG);
    assert_int_equal(cairn_write(heap, ptr, 8, "a", 1), CAIRN_E_RANGE);
    assert_int_equal(cairn_read(heap, ptr, 8, &byte, 1, NULL), CAIRN_E_RANGE);
    assert_int_equal(cairn_read(heap, CAIRN_NULL, 0, &byte, 1, NULL), CAIRN_E_INVAL);
    assert_int_equal(cairn_heap_open(client, "other", &other), CAIRN_E_NOTFOUND);
    assert_int_equal(cairn_heap_create(client, "Bad", NULL), CAIRN_E_INVAL);
    char *json = NULL;
    assert_int_equal(cairn_admin(client, NULL, "drain", NULL, &json), CAIRN_E_UNSUPPORTED);
    must(cairn_admin(client, NULL, "status", NULL, &json));
    assert_non_null(strstr(json, "\"state\":\"ok\""));
    assert_non_null(strstr(json, "\"name\":\"h\""));
    cairn_json_free(json);
    cairn_future *future = NULL;
    const void *bytes = NULL;
    size_t len = 0;
    must(cairn_admin_async(client, NULL, "status", NULL, 0, &future));
    must(cairn_future_wait(future, UINT32_MAX));
    must(cairn_future_get_bytes(future, &bytes, &len, NULL));
    assert_memory_equal(bytes, "{", 1);
    cairn_future_free(future);
}

static void a_large_object_is_read_whole(void **state)
{
    (void)state;
    enum { BYTES = 5u << 20 };
    uint8_t *data = malloc(BYTES);
    uint8_t *copy = malloc(BYTES);
    cairn_ptr ptr;
    for (size_t i = 0; i < BYTES; i++) {
        data[i] = (uint8_t)(i * 7 >> 3);
    }
    must(cairn_alloc(heap, BYTES, 0, &ptr));
    for (size_t at = 0; at < BYTES; at += CAIRN_WRITE_BYTES_MAX) {
        must(cairn_write(heap, ptr, at, data + at, CAIRN_WRITE_BYTES_MAX));
    }
    must(cairn_root_set(heap, "large", ptr));
    reopen();
    must(cairn_read(heap, ptr, 0, copy, BYTES, NULL));
    assert_memory_equal(data, copy, BYTES);
    free(data);
    free(copy);
}

static int collect(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)ptr;
    int *count = arg;
    char expected[32];
    (void)snprintf(expected, sizeof expected, "root-%05d", *count);
    assert_string_equal(name, expected);
    assert_true(version > 0);
    return ++*count == 900;
}

static void roots_are_listed_in_order(void **state)
{
    (void)state;
    cairn_ptr ptr;
    must(cairn_alloc(heap, 8, 0, &ptr));
    for (int i = 999; i >= 0; i--) {
        char name[32];
        cairn_future *f = NULL;
        (void)snprintf(name, sizeof name, "root-%05d", i);
        must(cairn_root_set_async(heap, name, ptr, &f));
        if (i == 0) {
            must(cairn_future_wait(f, UINT32_MAX));
        }
        cairn_future_free(f);
    }
    int count = 0;
    must(cairn_root_list(heap, collect, &count));
    assert_int_equal(count, 900);
}

/* ---- the directory ---- */

static void all_is_there_after_a_reopen(void **state)
{
    (void)state;
    cairn_ptr ptrs[100];
    for (uint64_t i = 0; i < 100; i++) {
        must(cairn_alloc_init(heap, 64, 0, &i, sizeof i, &ptrs[i]));
    }
    must(cairn_free(heap, ptrs[50]));
    must(cairn_root_set(heap, "first", ptrs[0]));
    for (int round = 0; round < 3; round++) {
        reopen();
        cairn_ptr found;
        must(cairn_root_get(heap, "first", &found));
        assert_true(cairn_ptr_equals(found, ptrs[0]));
        for (uint64_t i = 0; i < 100; i++) {
            uint64_t value = 0;
            int rv = cairn_read(heap, ptrs[i], 0, &value, sizeof value, NULL);
            assert_int_equal(rv, i == 50 ? CAIRN_E_STALE : 0);
            assert_int_equal(value, i == 50 ? 0 : i);
        }
    }
    cairn_object before;
    cairn_object after;
    must(cairn_stat(heap, ptrs[1], &before));
    must(cairn_write(heap, ptrs[1], 0, "x", 1));
    must(cairn_stat(heap, ptrs[1], &after));
    assert_true(after.version > before.version);
}

static void heaps_have_names(void **state)
{
    (void)state;
    cairn_heap *a = NULL;
    cairn_heap *b = NULL;
    cairn_ptr ptr;
    heap_make("a");
    heap_make("b");
    assert_int_equal(cairn_heap_create(client, "a", NULL), CAIRN_E_EXISTS);
    must(cairn_heap_open(client, "a", &a));
    must(cairn_heap_open(client, "b", &b));
    must(cairn_alloc_init(a, 8, 0, "in a", 5, &ptr));
    must(cairn_root_set(a, "r", ptr));
    assert_int_equal(cairn_root_get(b, "r", &ptr), CAIRN_E_NOTFOUND);
    must(cairn_heap_drop(client, "b"));
    assert_int_equal(cairn_heap_drop(client, "b"), CAIRN_E_NOTFOUND);
    assert_int_equal(cairn_alloc(b, 8, 0, &ptr), CAIRN_E_NOTFOUND);
    cairn_heap_close(b);
    heap_make("b"); /* another one under the old name */
    must(cairn_heap_open(client, "b", &b));
    assert_int_equal(cairn_root_get(b, "r", &ptr), CAIRN_E_NOTFOUND);
    cairn_heap_close(a);
    cairn_heap_close(b);
    reopen();
    must(cairn_heap_open(client, "a", &a));
    must(cairn_root_get(a, "r", &ptr));
    cairn_heap_close(a);
}

static const char *heap_dir(int uid, const char *file, char path[DIR_PATH_BYTES])
{
    char name[64];
    (void)snprintf(name, sizeof name, "db/heaps/%016x/%s", uid, file);
    return dir_path(&dir, name, path);
}

static bool is_there(int uid)
{
    char path[DIR_PATH_BYTES];
    return access(heap_dir(uid, "", path), F_OK) == 0;
}

static void a_dropped_heap_leaves_nothing(void **state)
{
    (void)state;
    assert_true(is_there(2)); /* the suite's own */
    for (int uid = 3; uid < 23; uid++) {
        heap_make("short-lived");
        assert_true(is_there(uid));
        must(cairn_heap_drop(client, "short-lived"));
        assert_false(is_there(uid));
    }
}

/* As a crash in the middle of a drop leaves them, and one in the middle of a creation. */
static void what_a_crash_left_of_a_heap_goes_when_it_is_opened(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    heap_make("short-lived");
    must(cairn_heap_drop(client, "short-lived"));
    cairn_heap_close(heap);
    cairn_client_free(client);
    assert_int_equal(mkdir(heap_dir(3, "", path), 0700), 0);
    dir_file_write(heap_dir(3, "pages-0000000000000001", path), 0, "x", 1);
    assert_int_equal(mkdir(heap_dir(4, "", path), 0700), 0);
    dir_file_write(heap_dir(4, "super", path), 0, "x", 1);
    dir_file_write(heap_dir(4, "image.pm", path), 0, "x", 1);
    must(open_client(&client));
    must(cairn_heap_open(client, "h", &heap));
    assert_false(is_there(3));
    assert_int_equal(dir_file_size(heap_dir(4, "super", path)), -1);
    assert_int_equal(dir_file_size(heap_dir(4, "image.pm", path)), -1);
    heap_make("next");
    assert_true(is_there(5)); /* 4 may be in the log */
    reopen();
    assert_false(is_there(4));
    assert_true(is_there(5));
}

static int connect_to(const char *format)
{
    char url[DIR_PATH_BYTES + 64];
    cairn_client *c = NULL;
    (void)snprintf(url, sizeof url, format, dir.path);
    int rv = cairn_connect(url, NULL, &c);
    assert_null(c);
    return rv;
}

static void wrong_addresses_are_refused(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    assert_int_equal(connect_to("file:%s/x"), CAIRN_E_INVAL);
    assert_int_equal(connect_to("file://relative"), CAIRN_E_INVAL);
    assert_int_equal(connect_to("file://%s/x?mode=fast"), CAIRN_E_INVAL);
    assert_int_equal(connect_to("file://%s/x?colour=red"), CAIRN_E_INVAL);
    assert_int_equal(connect_to("file://%s/x?segment=12"), CAIRN_E_INVAL);
    assert_int_equal(connect_to("file://%s/no/such/dir"), CAIRN_E_NOTFOUND);
    assert_int_equal(connect_to("file:///proc/self/x"), CAIRN_E_NOTFOUND);
    dir_file_write(dir_path(&dir, "letter", path), 0, "x", 1);
    assert_int_equal(connect_to("file://%s"), CAIRN_E_INVAL); /* somebody else's directory */
    assert_non_null(strstr(cairn_errormsg(), "empty directory"));
}

static void damage_is_reported_and_not_guessed_at(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    cairn_ptr ptr;
    cairn_client *c = NULL;
    must(cairn_alloc(heap, 64, 0, &ptr));
    cairn_heap_close(heap);
    cairn_client_free(client);
    dir_file_flip(dir_path(&dir, "db/instance", path), 20, 1);
    assert_int_equal(open_client(&c), CAIRN_E_CORRUPT);
    assert_non_null(strstr(cairn_errormsg(), "instance"));
    dir_file_flip(path, 20, 1);
    must(open_client(&client));
    must(cairn_heap_open(client, "h", &heap));
}

/* ---- other processes ---- */

static void the_directory_is_open_once(void **state)
{
    (void)state;
    cairn_client *second = NULL;
    assert_int_equal(open_client(&second), CAIRN_E_LOCKED);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(open_client(&second) == CAIRN_E_LOCKED ? 0 : 1);
    }
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static int child_of_fork(cairn_ptr ptr)
{
    cairn_future *f = NULL;
    cairn_heap *other = NULL;
    uint64_t value;
    char *json = NULL;
    if (cairn_add_u64(heap, ptr, 0, 1, &value) != CAIRN_E_CLOSED ||
        cairn_read(heap, ptr, 0, &value, 8, NULL) != CAIRN_E_CLOSED ||
        cairn_heap_open(client, "h", &other) != CAIRN_E_CLOSED ||
        cairn_heap_create(client, "x", NULL) != CAIRN_E_CLOSED ||
        cairn_heap_drop(client, "h") != CAIRN_E_CLOSED ||
        cairn_admin(client, NULL, "status", NULL, &json) != CAIRN_E_CLOSED) {
        return 1;
    }
    if (cairn_add_u64_async(heap, ptr, 0, 1, &f) != 0 || cairn_future_wait(f, 1000) != 0 ||
        cairn_future_error(f) != CAIRN_E_CLOSED) {
        return 2;
    }
    cairn_future_free(f);
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}

static void a_forked_child_is_refused_and_harmless(void **state)
{
    (void)state;
    cairn_ptr ptr;
    uint64_t before = 9;
    must(cairn_alloc(heap, 8, 0, &ptr));
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            _exit(child_of_fork(ptr));
        }
        must(cairn_add_u64(heap, ptr, 0, 1, &before));
        int status = 1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    assert_int_equal(before, 19);
}

static void a_child_that_lives_on_holds_no_lock(void **state)
{
    (void)state;
    int pipes[2];
    char byte;
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(pipes[1]);
        _exit(read(pipes[0], &byte, 1) == 0 ? 0 : 1);
    }
    (void)close(pipes[0]);
    reopen();
    (void)close(pipes[1]);
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- futures ---- */

static void thousands_of_calls_are_in_flight_from_one_thread(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static cairn_future *futures[COUNT];
    cairn_ptr ptr;
    uint64_t value;
    must(cairn_alloc(heap, 64, 0, &ptr));
    for (int i = 0; i < COUNT; i++) {
        must(cairn_add_u64_async(heap, ptr, 0, 1, &futures[i]));
    }
    for (int i = 0; i < COUNT; i++) {
        must(cairn_future_wait(futures[i], UINT32_MAX));
        must(cairn_future_error(futures[i]));
        must(cairn_future_get_u64(futures[i], &value));
        cairn_future_free(futures[i]);
    }
    must(cairn_read(heap, ptr, 0, &value, sizeof value, NULL));
    assert_int_equal(value, COUNT);
}

struct seen {
    pthread_t thread;
    _Atomic int count;
    int blocking;
};

static void on_ready(cairn_future *future, void *arg)
{
    struct seen *seen = arg;
    cairn_ptr ptr;
    seen->thread = pthread_self();
    seen->blocking = cairn_alloc(heap, 8, 0, &ptr);
    cairn_future_free(future);
    atomic_fetch_add(&seen->count, 1);
}

static void await(struct seen *seen, int count)
{
    while (atomic_load(&seen->count) < count) {
        (void)usleep(1000);
    }
}

static void callbacks_run_on_the_library_thread(void **state)
{
    (void)state;
    struct seen seen = {.blocking = 1};
    cairn_future *f = NULL;
    must(cairn_alloc_async(heap, 8, 0, &f)); /* set at once */
    must(cairn_future_on_ready(f, on_ready, &seen));
    await(&seen, 1);
    assert_false(pthread_equal(seen.thread, pthread_self()));
    assert_int_equal(seen.blocking, CAIRN_E_INVAL);
    must(cairn_alloc_async(heap, 8, 0, &f)); /* set when it is ready */
    must(cairn_future_wait(f, UINT32_MAX));
    must(cairn_future_on_ready(f, on_ready, &seen));
    await(&seen, 2);
    assert_false(pthread_equal(seen.thread, pthread_self()));
}

static void results_belong_to_their_futures(void **state)
{
    (void)state;
    cairn_ptr ptr;
    cairn_future *f = NULL;
    const void *data = NULL;
    size_t len = 0;
    uint64_t version = 0;
    cairn_object object;
    must(cairn_alloc_init(heap, 16, 7, "abc", 4, &ptr));
    must(cairn_read_async(heap, ptr, 0, 4, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    must(cairn_future_get_bytes(f, &data, &len, &version));
    assert_string_equal(data, "abc");
    assert_int_equal(len, 4);
    assert_true(version > 0);
    cairn_future_free(f);
    must(cairn_stat_async(heap, ptr, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    must(cairn_future_get_object(f, &object));
    assert_int_equal(object.type, 7);
    cairn_future_free(f);
    must(cairn_free_async(heap, ptr, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    cairn_future_free(f);
    must(cairn_free_async(heap, ptr, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    assert_int_equal(cairn_future_error(f), CAIRN_E_STALE);
    cairn_future_free(f);
}

static void pending_calls_end_when_the_client_is_freed(void **state)
{
    (void)state;
    enum { COUNT = 100 };
    cairn_future *futures[COUNT];
    cairn_ptr ptr;
    must(cairn_alloc(heap, 8, 0, &ptr));
    for (int i = 0; i < COUNT; i++) {
        must(cairn_add_u64_async(heap, ptr, 0, 1, &futures[i]));
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    uint64_t done = 0;
    for (int i = 0; i < COUNT; i++) {
        int rv = cairn_future_error(futures[i]);
        assert_true(rv == 0 || rv == CAIRN_E_CANCELED);
        done += rv == 0;
        cairn_future_free(futures[i]);
    }
    must(open_client(&client));
    must(cairn_heap_open(client, "h", &heap));
    uint64_t value = 0;
    must(cairn_read(heap, ptr, 0, &value, sizeof value, NULL));
    assert_int_equal(value, done);
}

/* ---- threads ---- */

struct worker {
    pthread_t thread;
    cairn_ptr counter;
    unsigned seed;
    int failures;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    cairn_ptr own[32] = {{0}};
    uint64_t values[32] = {0};
    for (uint64_t i = 1; i <= 600; i++) {
        unsigned slot = (unsigned)rand_r(&w->seed) % 32;
        uint64_t value = 0;
        int rv = 0;
        if (cairn_ptr_is_null(own[slot])) {
            rv = cairn_alloc_init(heap, 16 + (i * 97) % 3000, 0, &i, sizeof i, &own[slot]);
            values[slot] = i;
        } else if (i % 3 == 0) {
            rv = cairn_free(heap, own[slot]);
            own[slot] = CAIRN_NULL;
        } else {
            rv = cairn_read(heap, own[slot], 0, &value, sizeof value, NULL);
            w->failures += value != values[slot];
        }
        w->failures += rv != 0;
        w->failures += cairn_add_u64(heap, w->counter, 0, 1, NULL) != 0;
    }
    for (unsigned slot = 0; slot < 32; slot++) {
        w->failures += !cairn_ptr_is_null(own[slot]) && cairn_free(heap, own[slot]) != 0;
    }
    return NULL;
}

static void threads_share_a_heap(void **state)
{
    (void)state;
    struct worker workers[4];
    cairn_ptr counter;
    uint64_t value = 0;
    must(cairn_alloc(heap, 8, 0, &counter));
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){.counter = counter, .seed = i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
        assert_int_equal(workers[i].failures, 0);
    }
    reopen();
    must(cairn_read(heap, counter, 0, &value, sizeof value, NULL));
    assert_int_equal(value, 4 * 600);
}

static void heaps_come_and_go_beside_others(void **state)
{
    (void)state;
    struct worker workers[2];
    cairn_ptr counter;
    cairn_ptr ptr;
    uint64_t value = 0;
    must(cairn_alloc(heap, 8, 0, &counter));
    for (unsigned i = 0; i < 2; i++) {
        workers[i] = (struct worker){.counter = counter, .seed = i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 12; i++) {
        cairn_heap *other = NULL;
        cairn_future *f = NULL;
        heap_make("other");
        must(cairn_heap_open(client, "other", &other));
        must(cairn_alloc(other, 100, 0, &ptr));
        must(cairn_write_async(other, ptr, 0, "x", 1, &f)); /* still on its way, perhaps */
        must(cairn_heap_drop(client, "other"));
        must(cairn_future_wait(f, UINT32_MAX));
        assert_true(cairn_future_error(f) == 0 || cairn_future_error(f) == CAIRN_E_NOTFOUND);
        cairn_future_free(f);
        cairn_heap_close(other);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
        assert_int_equal(workers[i].failures, 0);
    }
    must(cairn_read(heap, counter, 0, &value, sizeof value, NULL));
    assert_int_equal(value, 2 * 600);
}

static void files_take_no_standard_stream(void **state)
{
    char other[DIR_PATH_BYTES + 64];
    struct cairn_client *second = NULL;
    struct stat st;
    (void)state;
    (void)snprintf(other, sizeof other, "file://%s/second?mode=%s", dir.path, mode);
    cairn_heap_close(heap);
    cairn_client_free(client); /* its threads open files, too, and not only in connect */
    int kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
    (void)close(STDERR_FILENO);
    int rv = cairn_connect(other, NULL, &second);
    bool device = fstat(STDERR_FILENO, &st) == 0 && S_ISCHR(st.st_mode);
    cairn_client_free(second);
    assert_int_equal(dup2(kept, STDERR_FILENO), STDERR_FILENO);
    (void)close(kept);
    must(rv);
    assert_true(device); /* else what the program prints would go into the log */
    must(open_client(&client));
    must(cairn_heap_open(client, "h", &heap));
}

static void history_goes_when_it_is_no_longer_wanted(void **state)
{
    (void)state;
    const uint64_t bytes = 10u << 20; /* of 16 MiB: there is room for one */
    cairn_ptr ptr;
    must(cairn_heap_set_retention(heap, 3600000));
    must(cairn_alloc(heap, bytes, 0, &ptr));
    must(cairn_free(heap, ptr));
    assert_int_equal(cairn_alloc(heap, bytes, 0, &ptr), CAIRN_E_NOSPACE);
    must(cairn_heap_set_retention(heap, 0));
    int rv = CAIRN_E_NOSPACE;
    for (int i = 0; i < 3000 && rv == CAIRN_E_NOSPACE; i++) {
        (void)usleep(10000);
        rv = cairn_alloc(heap, bytes, 0, &ptr);
    }
    must(rv);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "pmem") == 0) {
        mode = "pmem";
    }
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, fixture_end)
    const struct CMUnitTest tests[] = {
        TEST(every_call_works),
        TEST(errors_are_those_of_a_cluster),
        TEST(a_large_object_is_read_whole),
        TEST(roots_are_listed_in_order),
        TEST(all_is_there_after_a_reopen),
        TEST(heaps_have_names),
        TEST(a_dropped_heap_leaves_nothing),
        TEST(what_a_crash_left_of_a_heap_goes_when_it_is_opened),
        TEST(wrong_addresses_are_refused),
        TEST(damage_is_reported_and_not_guessed_at),
        TEST(the_directory_is_open_once),
        TEST(a_forked_child_is_refused_and_harmless),
        TEST(a_child_that_lives_on_holds_no_lock),
        TEST(thousands_of_calls_are_in_flight_from_one_thread),
        TEST(callbacks_run_on_the_library_thread),
        TEST(results_belong_to_their_futures),
        TEST(pending_calls_end_when_the_client_is_freed),
        TEST(threads_share_a_heap),
        TEST(heaps_come_and_go_beside_others),
        TEST(files_take_no_standard_stream),
        TEST(history_goes_when_it_is_no_longer_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
