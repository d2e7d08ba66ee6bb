/* The process is killed at random while threads write; the directory is opened again and compared
 * with what had been acknowledged. Argument "pmem": in pmem mode.
 *
 * Acknowledgements go into memory shared with the parent: each thread counts in an object of its
 * own, appends to a list, and overwrites an object with equal bytes. After the kill the counter is
 * what was acknowledged, or one more; the list has as many nodes; the bytes are equal. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/test.h"

#include "cairn/cairn.h"

enum {
    THREADS = 3,
    ROUNDS = 120,
    ROUND_US = 8000,
    PAIR_BYTES = 200,
    STEPS = 1000,     /* of a thread in one life, however fast the machine is */
    STEP_BYTES = 128, /* more than one takes */
    STEPS_BYTES = THREADS * ROUNDS * STEPS * STEP_BYTES,
    HEAP_BYTES = 64 << 20
};
_Static_assert(STEPS_BYTES < HEAP_BYTES, "there is room for all steps");

struct shared {
    _Atomic uint64_t acked[THREADS]; /* steps that were answered with 0 */
    _Atomic int opened;
    _Atomic int failed;
};

static struct shared *shared;
static struct dir dir;
static const char *query = "?mode=disk&checkpoint=65536";

struct node {
    cairn_ptr next;
    uint64_t number;
};

static int connect_dir(cairn_client **client, cairn_heap **heap)
{
    char url[DIR_PATH_BYTES + 64];
    (void)snprintf(url, sizeof url, "file://%s/db%s", dir.path, query);
    int rv = cairn_connect(url, NULL, client);
    if (rv != 0) {
        return rv;
    }
    cairn_heap_opts opts;
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.bytes_max = HEAP_BYTES;
    rv = cairn_heap_create(*client, "crash", &opts);
    return rv != 0 && rv != CAIRN_E_EXISTS ? rv : cairn_heap_open(*client, "crash", heap);
}

/* ---- the child ---- */

struct worker {
    cairn_heap *heap;
    unsigned number;
};

static int root_of(cairn_heap *heap, const char *what, unsigned number, size_t bytes,
                   cairn_ptr *ptr)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%s-%u", what, number);
    int rv = cairn_root_get(heap, name, ptr);
    if (rv == CAIRN_E_NOTFOUND && bytes > 0) {
        rv = cairn_alloc(heap, bytes, 0, ptr);
        rv = rv != 0 ? rv : cairn_root_set(heap, name, *ptr);
    }
    return rv;
}

static int step(cairn_heap *heap, unsigned number, cairn_ptr counter, cairn_ptr pair)
{
    char name[32];
    uint8_t bytes[PAIR_BYTES];
    struct node node = {.number = 0};
    cairn_ptr added;
    cairn_ptr head;
    (void)snprintf(name, sizeof name, "list-%u", number);
    int rv = cairn_root_get(heap, name, &head);
    if (rv != 0 && rv != CAIRN_E_NOTFOUND) {
        return rv;
    }
    rv = cairn_read(heap, counter, 0, &node.number, sizeof node.number, NULL);
    node.next = head;
    rv = rv != 0 ? rv : cairn_alloc_init(heap, sizeof node, 0, &node, sizeof node, &added);
    rv = rv != 0 ? rv : cairn_root_compare_and_set(heap, name, head, added);
    memset(bytes, (int)node.number, sizeof bytes);
    rv = rv != 0 ? rv : cairn_write(heap, pair, 0, bytes, sizeof bytes);
    /* The counter last: what it says has happened. */
    return rv != 0 ? rv : cairn_add_u64(heap, counter, 0, 1, NULL);
}

static void *work(void *arg)
{
    const struct worker *w = arg;
    cairn_ptr counter;
    cairn_ptr pair;
    int rv = root_of(w->heap, "counter", w->number, 8, &counter);
    rv = rv != 0 ? rv : root_of(w->heap, "pair", w->number, PAIR_BYTES, &pair);
    for (unsigned i = 0; rv == 0 && i < STEPS; i++) {
        rv = step(w->heap, w->number, counter, pair);
        if (rv == 0) {
            atomic_fetch_add(&shared->acked[w->number], 1);
        }
    }
    if (rv == 0) {
        for (;;) {
            (void)pause(); /* until it is killed */
        }
    }
    (void)fprintf(stderr, "a thread stopped: %s\n", cairn_errormsg());
    atomic_store(&shared->failed, rv);
    return NULL;
}

static void child(void)
{
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    int rv = connect_dir(&client, &heap);
    if (rv != 0) {
        (void)fprintf(stderr, "can't open: %s\n", cairn_errormsg());
        atomic_store(&shared->failed, rv);
        _exit(1);
    }
    atomic_store(&shared->opened, 1);
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){heap, i};
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0) {
            _exit(1);
        }
    }
    for (unsigned i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    _exit(1);
}

/* ---- the parent ---- */

static void check_list(cairn_heap *heap, unsigned number, uint64_t counted)
{
    cairn_ptr at;
    int rv = root_of(heap, "list", number, 0, &at);
    uint64_t expected = counted; /* or one more: its step didn't come to the counter */
    uint64_t length = 0;
    assert_true(rv == 0 || (rv == CAIRN_E_NOTFOUND && counted == 0));
    uint64_t last = UINT64_MAX;
    while (!cairn_ptr_is_null(at)) {
        struct node node;
        assert_int_equal(cairn_read(heap, at, 0, &node, sizeof node, NULL), 0);
        assert_true(node.number <= last); /* equal: a step that was begun twice */
        if (node.number != last) {
            length++;
        }
        last = node.number;
        at = node.next;
    }
    assert_true(length == expected || length == expected + 1);
    assert_true(length == 0 || last == 0);
}

/* Each of the `kills` since the last look may have left one step that was done and not answered. */
static void check(cairn_heap *heap, unsigned kills)
{
    for (unsigned i = 0; i < THREADS; i++) {
        cairn_ptr ptr;
        uint64_t counted = 0;
        uint64_t acked = atomic_load(&shared->acked[i]);
        int rv = root_of(heap, "counter", i, 0, &ptr);
        assert_true(rv == 0 || (rv == CAIRN_E_NOTFOUND && acked == 0));
        if (rv == 0) {
            assert_int_equal(cairn_read(heap, ptr, 0, &counted, sizeof counted, NULL), 0);
        }
        if (counted < acked || counted > acked + kills) {
            print_error("thread %u: %llu acknowledged, %llu found\n", i, (unsigned long long)acked,
                        (unsigned long long)counted);
        }
        assert_true(counted >= acked && counted <= acked + kills);
        atomic_store(&shared->acked[i], counted);
        check_list(heap, i, counted);
        uint8_t bytes[PAIR_BYTES] = {0};
        if (root_of(heap, "pair", i, 0, &ptr) == 0) {
            assert_int_equal(cairn_read(heap, ptr, 0, bytes, sizeof bytes, NULL), 0);
            for (size_t k = 1; k < sizeof bytes; k++) {
                assert_int_equal(bytes[k], bytes[0]);
            }
        }
    }
}

static void round_of(unsigned *seed)
{
    atomic_store(&shared->opened, 0);
    pid_t pid = fork();
    if (pid == 0) {
        child();
    }
    bool early = (unsigned)rand_r(seed) % 4 == 0; /* while it opens, perhaps */
    while (!early && !atomic_load(&shared->opened) && !atomic_load(&shared->failed)) {
        (void)usleep(200);
    }
    (void)usleep((unsigned)rand_r(seed) % (2 * ROUND_US));
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(atomic_load(&shared->failed), 0);
}

static void a_killed_process_loses_nothing_acknowledged(void **state)
{
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    dir_open(&dir);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    for (unsigned round = 0, kills = 0; round < ROUNDS; round++) {
        round_of(&seed);
        kills++;
        if (round % 3 != 0) {
            continue; /* the next child recovers by itself, and goes on */
        }
        cairn_client *client = NULL;
        cairn_heap *heap = NULL;
        int rv = connect_dir(&client, &heap);
        if (rv != 0) {
            print_error("round %u: %s\n", round, cairn_errormsg());
        }
        assert_int_equal(rv, 0);
        check(heap, kills);
        kills = 0;
        cairn_heap_close(heap);
        cairn_client_free(client);
    }
    uint64_t total = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        total += atomic_load(&shared->acked[i]);
    }
    print_message("%u kills, %llu steps acknowledged\n", (unsigned)ROUNDS,
                  (unsigned long long)total);
    assert_true(total > 0);
    (void)munmap(shared, sizeof *shared);
    dir_close(&dir);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "pmem") == 0) {
        query = "?mode=pmem";
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_process_loses_nothing_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
