/* Watches through the public header: what is seen, from where, across openings, and how they end.
 * On a directory, and (with an argument "cluster") on the cluster that $CAIRN_ENDPOINTS names,
 * whose heap has $WATCH_SHARDS shards. Argument "pmem": a directory in pmem mode. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/test.h"

#include "cairn/tx.h"
#include "cairn/watch.h"

#define WAIT_MS    60000u
#define SHARDS_MAX 256u

static struct dir dir;
static const char *mode = "disk";
static char name[32]; /* of the heap */
static cairn_client *client;
static cairn_heap *heap;
static cairn_ptr object;

static void must(int rv)
{
    if (rv != 0) {
        print_error("%s: %s\n", cairn_error_name(rv), cairn_errormsg());
    }
    assert_int_equal(rv, 0);
}

static bool on_cluster(void)
{
    return strcmp(mode, "cluster") == 0;
}

static void open_again(void)
{
    char url[DIR_PATH_BYTES + 64];
    if (on_cluster()) {
        must(cairn_connect(NULL, NULL, &client));
        return;
    }
    (void)snprintf(url, sizeof url, "file://%s/db?mode=%s", dir.path, mode);
    must(cairn_connect(url, NULL, &client));
}

static void create(const char *heap_name, uint64_t retention_ms)
{
    cairn_heap_opts opts;
    const char *shards = getenv("WATCH_SHARDS");
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.shards = shards != NULL ? (uint32_t)strtoul(shards, NULL, 10) : 1;
    opts.bytes_max = 16u << 20;
    opts.retention_ms = retention_ms;
    must(cairn_heap_create(client, heap_name, &opts));
}

static int begin(void **state)
{
    (void)state;
    static int number;
    uint64_t zero = 0;
    dir_open(&dir);
    open_again();
    (void)snprintf(name, sizeof name, "w%d-%ld", number++, (long)getpid());
    create(name, 600000);
    must(cairn_heap_open(client, name, &heap));
    must(cairn_alloc_init(heap, sizeof zero, 7, &zero, sizeof zero, &object));
    return 0;
}

static int end(void **state)
{
    (void)state;
    cairn_heap_close(heap);
    cairn_client_free(client);
    dir_close(&dir);
    return 0;
}

static void reopen(void)
{
    cairn_heap_close(heap);
    cairn_client_free(client);
    open_again();
    must(cairn_heap_open(client, name, &heap));
}

static void write_value(uint64_t value)
{
    must(cairn_write(heap, object, 0, &value, sizeof value));
}

static cairn_watch_opts from(uint32_t where)
{
    cairn_watch_opts opts;
    cairn_watch_opts_init(&opts, sizeof opts);
    opts.from = where;
    opts.values = 1;
    return opts;
}

static cairn_watch *watch_from(uint32_t where)
{
    cairn_watch_opts opts = from(where);
    cairn_watch *w = NULL;
    must(cairn_watch_object(heap, object, &opts, &w));
    return w;
}

static cairn_watch *watch_on(const char *token)
{
    cairn_watch_opts opts = from(CAIRN_WATCH_TOKEN);
    cairn_watch *w = NULL;
    opts.token = token;
    must(cairn_watch_object(heap, object, &opts, &w));
    return w;
}

static const cairn_event *next(cairn_watch *w)
{
    const cairn_event *e = NULL;
    must(cairn_watch_next(w, WAIT_MS, &e));
    return e;
}

/* The next change writes `value`. */
static void sees(cairn_watch *w, uint64_t value)
{
    const cairn_event *e = next(w);
    uint64_t now = 0;
    assert_int_equal(e->kind, CAIRN_EVENT_WRITTEN);
    assert_int_equal(e->new_len, sizeof now);
    memcpy(&now, e->new_bytes, sizeof now);
    assert_int_equal(now, value);
}

static void sees_nothing(cairn_watch *w)
{
    const cairn_event *e;
    assert_int_equal(cairn_watch_next(w, 0, &e), CAIRN_E_TIMEOUT);
    assert_null(e);
}

/* ---- what is seen ---- */

static void changes_come_as_they_are_made(void **state)
{
    (void)state;
    cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
    cairn_watch *roots = NULL;
    cairn_watch *type = NULL;
    cairn_watch *all = NULL;
    cairn_ptr other;
    sees_nothing(w);
    must(cairn_watch_roots(heap, "user/", NULL, &roots));
    must(cairn_watch_type(heap, 9, NULL, &type));
    must(cairn_watch_heap(heap, NULL, &all));
    for (uint64_t i = 1; i <= 3; i++) {
        write_value(i);
        sees(w, i);
    }
    must(cairn_alloc(heap, 100, 9, &other));
    must(cairn_root_set(heap, "use", other));
    must(cairn_root_set(heap, "user/1", other));
    must(cairn_root_delete(heap, "user/1"));
    must(cairn_free(heap, other));
    const cairn_event *e = next(roots);
    assert_int_equal(e->kind, CAIRN_EVENT_ROOT_SET);
    assert_string_equal(e->name, "user/1");
    assert_true(cairn_ptr_equals(e->ptr, other));
    e = next(roots);
    assert_int_equal(e->kind, CAIRN_EVENT_ROOT_DELETED);
    assert_true(cairn_ptr_equals(e->old_ptr, other));
    assert_int_equal(next(type)->kind, CAIRN_EVENT_BORN);
    assert_int_equal(next(type)->kind, CAIRN_EVENT_FREED);
    uint64_t orders[SHARDS_MAX] = {0};
    for (int i = 0; i < 8; i++) {
        e = next(all);
        assert_true(e->order > orders[e->shard]);
        orders[e->shard] = e->order;
    }
    sees_nothing(all);
    sees_nothing(w);
    cairn_watch_free(w);
    cairn_watch_free(roots);
    cairn_watch_free(type);
    cairn_watch_free(all);
}

static void a_transaction_comes_as_one(void **state)
{
    (void)state;
    cairn_watch *all = NULL;
    cairn_tx *tx = NULL;
    cairn_ptr fresh;
    uint64_t value = 4;
    must(cairn_watch_heap(heap, NULL, &all));
    must(cairn_tx_begin(heap, NULL, &tx));
    must(cairn_tx_alloc(tx, 8, 7, &fresh));
    must(cairn_tx_write(tx, object, 0, &value, sizeof value));
    must(cairn_tx_root_set(tx, "fresh", fresh));
    sees_nothing(all);
    must(cairn_tx_commit(tx, NULL));
    uint64_t version = 0;
    int ends = 0;
    for (int i = 0; i < 3; i++) {
        const cairn_event *e = next(all);
        assert_true(version == 0 || e->version == version);
        version = e->version;
        ends += !e->more;
    }
    assert_true(ends <= (int)cairn_heap_shards(heap));
    sees_nothing(all);
    cairn_watch_free(all);
}

enum { WRITERS = 3, EACH = 300 };

static void *write_many(void *arg)
{
    uint64_t before;
    for (int i = 0; i < EACH; i++) {
        if (cairn_add_u64(heap, object, 0, 1, &before) != 0) {
            return arg;
        }
    }
    return NULL;
}

static void *see_many(void *arg)
{
    cairn_watch *w = arg;
    uint64_t last = 0;
    for (int i = 0; i < WRITERS * EACH; i++) {
        const cairn_event *e = NULL;
        uint64_t value;
        if (cairn_watch_next(w, WAIT_MS, &e) != 0 || (last != 0 && e->before != last)) {
            return arg;
        }
        if (e->new_len == sizeof value) { /* else too many newer ones to undo */
            memcpy(&value, e->new_bytes, sizeof value);
            if (value != (uint64_t)i + 1) {
                return arg;
            }
        }
        last = e->version;
    }
    return NULL;
}

static void threads_write_and_others_see_each_change_once(void **state)
{
    (void)state;
    enum { READERS = 3 };
    pthread_t writers[WRITERS];
    pthread_t readers[READERS];
    cairn_watch *watches[READERS];
    void *failed;
    for (int i = 0; i < READERS; i++) {
        watches[i] = watch_from(CAIRN_WATCH_NOW);
        assert_int_equal(pthread_create(&readers[i], NULL, see_many, watches[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_create(&writers[i], NULL, write_many, &heap), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i], &failed), 0);
        assert_null(failed);
    }
    for (int i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(readers[i], &failed), 0);
        assert_null(failed);
        sees_nothing(watches[i]);
        cairn_watch_free(watches[i]);
    }
}

/* ---- from where ---- */

static void a_token_and_a_version_hold_across_an_opening(void **state)
{
    (void)state;
    char token[CAIRN_WATCH_TOKEN_BYTES];
    char idle[CAIRN_WATCH_TOKEN_BYTES];
    cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
    must(cairn_watch_token(w, idle, sizeof idle));
    for (uint64_t i = 1; i <= 6; i++) {
        write_value(i);
    }
    sees(w, 1);
    sees(w, 2);
    must(cairn_watch_token(w, token, sizeof token));
    const cairn_event *e = next(w);
    uint64_t version = e->version; /* of 3 */
    cairn_watch_free(w);
    for (uint64_t opening = 0; opening < 3; opening++) {
        reopen();
        write_value(7 + opening);
        w = watch_on(token);
        for (uint64_t i = 3; i <= 7 + opening; i++) {
            sees(w, i);
        }
        sees_nothing(w);
        cairn_watch_free(w);
        w = watch_on(idle);
        sees(w, 1);
        cairn_watch_free(w);
        cairn_watch_opts opts = from(CAIRN_WATCH_VERSION);
        opts.version = version;
        must(cairn_watch_object(heap, object, &opts, &w));
        sees(w, 4);
        cairn_watch_free(w);
        w = watch_from(CAIRN_WATCH_OLDEST);
        assert_int_equal(next(w)->kind, CAIRN_EVENT_BORN);
        sees(w, 1);
        cairn_watch_free(w);
    }
}

/* More than an answer holds, and more records than are looked at in one go. */
static void a_long_history_is_read_to_its_end(void **state)
{
    (void)state;
    enum { COUNT = 12000 };
    cairn_ptr other;
    cairn_watch *w = NULL;
    cairn_watch_opts opts = from(CAIRN_WATCH_OLDEST);
    cairn_future *futures[100];
    must(cairn_alloc(heap, 8, 8, &other));
    for (int i = 0; i < COUNT / 100; i++) {
        for (int k = 0; k < 100; k++) {
            must(cairn_add_u64_async(heap, k == 0 ? object : other, 0, 1, &futures[k]));
        }
        for (int k = 0; k < 100; k++) {
            must(cairn_future_wait(futures[k], UINT32_MAX));
            must(cairn_future_error(futures[k]));
            cairn_future_free(futures[k]);
        }
    }
    must(cairn_watch_type(heap, 7, &opts, &w));
    assert_int_equal(next(w)->kind, CAIRN_EVENT_BORN);
    uint64_t last = 0;
    for (int i = 0; i < COUNT / 100; i++) {
        const cairn_event *e = next(w);
        assert_true(last == 0 || e->before == last);
        last = e->version;
    }
    write_value(77);
    sees(w, 77);
    cairn_watch_free(w);
    must(cairn_watch_type(heap, 8, &opts, &w));
    uint64_t before = 0;
    for (int i = 0; i < 1 + COUNT / 100 * 99; i++) {
        const cairn_event *e = next(w);
        assert_int_equal(e->before, before);
        before = e->version;
    }
    sees_nothing(w);
    cairn_watch_free(w);
}

static void what_is_no_place_is_refused(void **state)
{
    (void)state;
    char token[CAIRN_WATCH_TOKEN_BYTES];
    char other_token[CAIRN_WATCH_TOKEN_BYTES];
    char other_name[48];
    cairn_heap *other = NULL;
    (void)snprintf(other_name, sizeof other_name, "%s-other", name);
    cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
    cairn_watch_opts opts = from(CAIRN_WATCH_TOKEN);
    opts.token = token;
    must(cairn_watch_token(w, token, sizeof token));
    cairn_watch_free(w);
    assert_int_equal(cairn_watch_root(heap, "r", &opts, &w), CAIRN_E_INVAL);
    assert_null(w);
    /* Another heap, and one of the same name after this one. */
    create(other_name, 600000);
    must(cairn_heap_open(client, other_name, &other));
    must(cairn_alloc(other, 8, 0, &object));
    assert_int_equal(cairn_watch_object(other, object, &opts, &w), CAIRN_E_INVAL);
    opts.from = CAIRN_WATCH_NOW;
    must(cairn_watch_heap(other, &opts, &w));
    must(cairn_watch_token(w, other_token, sizeof other_token));
    cairn_watch_free(w);
    cairn_heap_close(other);
    must(cairn_heap_drop(client, other_name));
    create(other_name, 0);
    must(cairn_heap_open(client, other_name, &other));
    opts.from = CAIRN_WATCH_TOKEN;
    opts.token = other_token;
    assert_int_equal(cairn_watch_heap(other, &opts, &w), CAIRN_E_INVAL);
    assert_int_equal(cairn_watch_heap(other, NULL, &w), CAIRN_E_UNSUPPORTED);
    must(cairn_heap_set_retention(other, 600000));
    opts.from = CAIRN_WATCH_VERSION;
    opts.version = 1;
    assert_int_equal(cairn_watch_heap(other, &opts, &w), CAIRN_E_SNAPSHOT_TOO_OLD);
    assert_non_null(strstr(cairn_errormsg(), "the oldest version"));
    opts.version = ((uint64_t)time(NULL) + 60) * 1000 << 16;
    assert_int_equal(cairn_watch_heap(other, &opts, &w), CAIRN_E_INVAL);
    opts.version = 0;
    assert_int_equal(cairn_watch_heap(other, &opts, &w), CAIRN_E_INVAL);
    cairn_heap_close(other);
}

/* Who stayed away for too long is told, who waits isn't left behind. */
static void history_that_is_gone_is_no_gap(void **state)
{
    (void)state;
    char token[CAIRN_WATCH_TOKEN_BYTES];
    cairn_watch *waits = watch_from(CAIRN_WATCH_NOW);
    cairn_watch *away = watch_from(CAIRN_WATCH_NOW);
    cairn_watch *w;
    must(cairn_watch_token(away, token, sizeof token));
    cairn_watch_free(away);
    write_value(1);
    must(cairn_heap_set_retention(heap, 0));
    write_value(2);
    must(cairn_heap_set_retention(heap, 600000));
    write_value(3);
    cairn_watch_opts opts = from(CAIRN_WATCH_TOKEN);
    opts.token = token;
    assert_int_equal(cairn_watch_object(heap, object, &opts, &w), CAIRN_E_SNAPSHOT_TOO_OLD);
    const cairn_event *e;
    int rv;
    while ((rv = cairn_watch_next(waits, WAIT_MS, &e)) == 0) {
    }
    assert_true(rv == CAIRN_E_SNAPSHOT_TOO_OLD || rv == CAIRN_E_UNSUPPORTED);
    assert_int_equal(cairn_watch_next(waits, WAIT_MS, &e), rv); /* again */
    cairn_watch_free(waits);
}

/* ---- how they end ---- */

static void an_idle_watch_keeps_up_with_the_history(void **state)
{
    (void)state;
    cairn_watch *w = NULL;
    must(cairn_heap_set_retention(heap, 3000));
    must(cairn_watch_root(heap, "never", NULL, &w));
    for (int i = 0; i < 100; i++) { /* all of it is given back meanwhile */
        const cairn_event *e;
        write_value((uint64_t)i);
        assert_int_equal(cairn_watch_next(w, 100, &e), CAIRN_E_TIMEOUT);
    }
    must(cairn_root_set(heap, "never", object));
    assert_string_equal(next(w)->name, "never");
    cairn_watch_free(w);
}

static void a_dropped_heap_ends_its_watches(void **state)
{
    (void)state;
    const cairn_event *e;
    cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
    cairn_watch *full = watch_from(CAIRN_WATCH_NOW);
    write_value(1);
    sees(w, 1);
    must(cairn_heap_drop(client, name));
    assert_int_equal(cairn_watch_next(w, WAIT_MS, &e), CAIRN_E_NOSHARD);
    sees(full, 1); /* what came before comes before */
    assert_int_equal(cairn_watch_next(full, WAIT_MS, &e), CAIRN_E_NOSHARD);
    cairn_watch_free(w);
    cairn_watch_free(full);
}

static void count_ready(cairn_future *future, void *arg)
{
    (void)future;
    atomic_fetch_add((_Atomic int *)arg, 1);
}

static void a_future_tells_when_there_is_something(void **state)
{
    (void)state;
    _Atomic int called = 0;
    cairn_future *f = NULL;
    cairn_future *second = NULL;
    cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
    must(cairn_watch_ready_async(w, &f));
    assert_int_equal(cairn_watch_ready_async(w, &second), CAIRN_E_INVAL);
    assert_int_equal(cairn_future_wait(f, 0), CAIRN_E_TIMEOUT);
    assert_int_equal(cairn_future_wait(f, 20), CAIRN_E_TIMEOUT);
    write_value(1);
    must(cairn_future_wait(f, WAIT_MS));
    must(cairn_future_error(f));
    cairn_future_free(f);
    sees(w, 1);
    must(cairn_watch_ready_async(w, &f));
    must(cairn_future_on_ready(f, count_ready, &called));
    assert_int_equal(atomic_load(&called), 0);
    write_value(2);
    for (int i = 0; i < 5000 && atomic_load(&called) == 0; i++) {
        (void)usleep(1000);
    }
    assert_int_equal(atomic_load(&called), 1);
    cairn_future_free(f);
    sees(w, 2);
    must(cairn_watch_ready_async(w, &f)); /* closing tells, too */
    cairn_watch_free(w);
    must(cairn_future_wait(f, WAIT_MS));
    assert_int_equal(cairn_future_error(f), CAIRN_E_CANCELED);
    cairn_future_free(f);
}

static void closing_the_directory_needs_no_watch_to_end_first(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
        write_value((uint64_t)i);
        cairn_watch_free(w); /* with a call that waits, or has been answered */
        reopen();
    }
}

static void many_watch_and_more_are_refused(void **state)
{
    (void)state;
    enum { MANY = 1024 };
    static cairn_watch *watches[MANY];
    cairn_watch *w = NULL;
    const cairn_event *e;
    for (int i = 0; i < MANY; i++) {
        watches[i] = watch_from(CAIRN_WATCH_NOW);
    }
    int rv = 0; /* each is counted from the moment that it waits */
    for (int i = 0; i < 5000 && rv == 0; i++) {
        rv = cairn_watch_heap(heap, NULL, &w);
        cairn_watch_free(rv == 0 ? w : NULL);
        (void)usleep(1000);
    }
    assert_int_equal(rv, CAIRN_E_LIMIT);
    write_value(5);
    for (int i = 0; i < MANY; i++) {
        sees(watches[i], 5);
        assert_int_equal(cairn_watch_next(watches[i], 0, &e), CAIRN_E_TIMEOUT);
        cairn_watch_free(watches[i]);
    }
}

/* Closed by threads that haven't opened them, with calls under way, while changes come. */
static _Atomic bool stop;

static void *write_on(void *arg)
{
    uint64_t before;
    (void)arg;
    for (uint32_t i = 1; !atomic_load(&stop); i++) {
        must(cairn_add_u64(heap, object, 0, 1, &before));
        if (i % 16 == 0) {
            (void)usleep(10000); /* the heap keeps all of this history */
        }
    }
    return NULL;
}

static void *close_it(void *arg)
{
    cairn_watch_free(arg);
    return NULL;
}

static void watches_come_and_go_while_others_write(void **state)
{
    (void)state;
    pthread_t writer;
    pthread_t closer;
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&writer, NULL, write_on, NULL), 0);
    for (int i = 0; i < 100; i++) {
        const cairn_event *e;
        cairn_future *f = NULL;
        cairn_watch *w = watch_from(i % 3 == 0 ? CAIRN_WATCH_OLDEST : CAIRN_WATCH_NOW);
        int taken = 0;
        while (taken < i % 5) {
            int rv = cairn_watch_next(w, 100, &e);
            assert_true(rv == 0 || rv == CAIRN_E_TIMEOUT);
            taken += rv == 0;
        }
        if (i % 2 == 0) {
            must(cairn_watch_ready_async(w, &f));
        }
        assert_int_equal(pthread_create(&closer, NULL, close_it, w), 0);
        if (f != NULL) {
            must(cairn_future_wait(f, WAIT_MS));
            assert_true(cairn_future_error(f) == 0 || cairn_future_error(f) == CAIRN_E_CANCELED);
            cairn_future_free(f);
        }
        assert_int_equal(pthread_join(closer, NULL), 0);
    }
    atomic_store(&stop, true);
    assert_int_equal(pthread_join(writer, NULL), 0);
}

/* With room for a change or two of each shard: nothing is lost, and no shard is forgotten. */
static void little_room_loses_nothing(void **state)
{
    (void)state;
    enum { OBJECTS = 12, ROUNDS = 15, BYTES = 3000 };
    uint32_t shards = cairn_heap_shards(heap);
    cairn_watch_opts opts = from(CAIRN_WATCH_NOW);
    cairn_watch *w = NULL;
    cairn_ptr ptrs[OBJECTS];
    uint64_t last[OBJECTS] = {0};
    static uint8_t bytes[BYTES];
    opts.bytes_max = 1000;
    assert_int_equal(cairn_watch_type(heap, 9, &opts, &w), CAIRN_E_INVAL);
    assert_non_null(strstr(cairn_errormsg(), "bytes_max"));
    opts.bytes_max = (shards + 1) * 8600u;
    must(cairn_watch_type(heap, 9, &opts, &w));
    for (int i = 0; i < OBJECTS; i++) {
        must(cairn_alloc(heap, BYTES, 9, &ptrs[i]));
    }
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < OBJECTS; i++) {
            memset(bytes, round, sizeof bytes);
            must(cairn_write(heap, ptrs[i], 0, bytes, sizeof bytes));
        }
    }
    for (int n = 0; n < OBJECTS * (ROUNDS + 1); n++) {
        const cairn_event *e = next(w);
        int i = 0;
        while (!cairn_ptr_equals(ptrs[i], e->ptr)) {
            i++;
            assert_true(i < OBJECTS);
        }
        assert_int_equal(e->before, last[i]);
        last[i] = e->version;
    }
    sees_nothing(w);
    cairn_watch_free(w);
}

static int child_of_fork(cairn_watch *w)
{
    char token[CAIRN_WATCH_TOKEN_BYTES];
    const cairn_event *e;
    cairn_future *f;
    cairn_watch *mine;
    bool refused = cairn_watch_next(w, 0, &e) == CAIRN_E_CLOSED &&
                   cairn_watch_token(w, token, sizeof token) == CAIRN_E_CLOSED &&
                   cairn_watch_ready_async(w, &f) == CAIRN_E_CLOSED &&
                   cairn_watch_heap(heap, NULL, &mine) == CAIRN_E_CLOSED;
    cairn_watch_free(w);
    return refused ? 0 : 1;
}

static void a_forked_child_has_no_watches(void **state)
{
    (void)state;
    if (on_cluster()) { /* its connections are nobody's but the parent's */
        skip();
    }
    cairn_watch *w = watch_from(CAIRN_WATCH_NOW);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(child_of_fork(w));
    }
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    write_value(3);
    sees(w, 3);
    cairn_watch_free(w);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        mode = argv[1];
    }
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(changes_come_as_they_are_made),
        TEST(a_transaction_comes_as_one),
        TEST(threads_write_and_others_see_each_change_once),
        TEST(a_token_and_a_version_hold_across_an_opening),
        TEST(a_long_history_is_read_to_its_end),
        TEST(what_is_no_place_is_refused),
        TEST(history_that_is_gone_is_no_gap),
        TEST(an_idle_watch_keeps_up_with_the_history),
        TEST(a_dropped_heap_ends_its_watches),
        TEST(a_future_tells_when_there_is_something),
        TEST(closing_the_directory_needs_no_watch_to_end_first),
        TEST(many_watch_and_more_are_refused),
        TEST(watches_come_and_go_while_others_write),
        TEST(little_room_loses_nothing),
        TEST(a_forked_child_has_no_watches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
