/* A workload whose outcome can be checked to the last operation, for tests that kill nodes under
 * it.
 *
 *   counters HEAP SECONDS THREADS     runs, then reads everything back and compares
 *
 * Each thread owns a counter (fetch-and-add: a lost acknowledged addition or a doubled one shows in
 * the sum, and every returned "before" must be new), a register with a sequence number (a read must
 * return the newest acknowledged write), a list that it pushes unique objects to (alloc +
 * compare-and-set of a root), and it frees every second object (a second use must be STALE). Prints
 * one JSON line; exit 1 on any anomaly, 3 if nothing succeeded. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cairn/cairn.h>

#define THREADS_MAX      64
#define FAILED_MAX_SHOWN 10

struct node { /* in the heap */
    uint64_t owner, number;
    cairn_ptr next;
};

struct worker {
    pthread_t thread;
    unsigned id;
    cairn_ptr counter, reg;
    uint64_t added, added_unknown; /* acknowledged, and possibly done, additions */
    uint64_t written,
        written_unknown; /* newest acknowledged value; newest value possibly written after it */
    uint64_t pushed;
    uint64_t ok, unknown, failed;
    uint64_t worst_ms;
};

static cairn_heap *heap;
static atomic_int stop;
static atomic_ulong anomalies;

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void anomaly(const struct worker *w, const char *what, uint64_t got, uint64_t low,
                    uint64_t high)
{
    if (atomic_fetch_add(&anomalies, 1) < FAILED_MAX_SHOWN) {
        fprintf(stderr,
                "ANOMALY thread %u: %s: got %" PRIu64 ", expected %" PRIu64 "..%" PRIu64 "\n",
                w->id, what, got, low, high);
    }
}

/* Counts an outcome; true if it is known to have happened. */
static int settle(struct worker *w, int rv, uint64_t started)
{
    uint64_t took = now_ms() - started;
    w->worst_ms = took > w->worst_ms ? took : w->worst_ms;
    if (rv == 0) {
        w->ok++;
        return 1;
    }
    if (cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        w->unknown++;
    } else {
        w->failed++;
        if (w->failed <= 3) {
            fprintf(stderr, "thread %u: %s: %s\n", w->id, cairn_error_name(rv), cairn_errormsg());
        }
    }
    return 0;
}

static void add(struct worker *w)
{
    uint64_t before = 0;
    uint64_t start = now_ms();
    int rv = cairn_add_u64(heap, w->counter, 0, 1, &before);
    if (settle(w, rv, start)) {
        if (before < w->added || before > w->added + w->added_unknown) {
            anomaly(w, "the value before an addition", before, w->added,
                    w->added + w->added_unknown);
        }
        w->added++;
    } else if (cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        w->added_unknown++;
    }
}

static void write_register(struct worker *w)
{
    uint64_t value = (w->written > w->written_unknown ? w->written : w->written_unknown) + 1;
    uint64_t start = now_ms();
    int rv = cairn_write(heap, w->reg, 0, &value, sizeof value);
    if (settle(w, rv, start)) {
        w->written = value;
        w->written_unknown =
            0; /* exactly once and in order of completion: nothing older can come after this */
    } else if (cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        w->written_unknown = value;
    }
}

static void read_register(struct worker *w)
{
    uint64_t value = 0;
    uint64_t start = now_ms();
    int rv = cairn_read(heap, w->reg, 0, &value, sizeof value, NULL);
    if (settle(w, rv, start) && value != w->written &&
        (w->written_unknown == 0 || value > w->written_unknown)) {
        anomaly(w, "a read of the register", value, w->written,
                w->written_unknown > w->written ? w->written_unknown : w->written);
    }
}

/* Pushes an object to the thread's list, or allocates one, frees it, and uses it again. */
static void push(struct worker *w)
{
    char name[32];
    cairn_ptr head = CAIRN_NULL;
    cairn_ptr ptr;
    (void)snprintf(name, sizeof name, "list-%u", w->id);
    uint64_t start = now_ms();
    int rv = cairn_root_get(heap, name, &head);
    if (rv != 0 && rv != CAIRN_E_NOTFOUND) {
        settle(w, rv, start);
        return;
    }
    struct node node = {w->id, w->pushed, head};
    rv = cairn_alloc_init(heap, sizeof node, 1, &node, sizeof node, &ptr);
    if (!settle(w, rv, start)) {
        return; /* at worst an object that nobody points at */
    }
    start = now_ms();
    rv = cairn_root_compare_and_set(heap, name, head, ptr);
    if (settle(w, rv, start)) {
        w->pushed++;
        return;
    }
    if (rv == CAIRN_E_CONFLICT) {
        anomaly(w, "conflict on a root of one's own", 0, 0, 0);
    } else if (cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        cairn_ptr now = CAIRN_NULL;
        while (cairn_root_get(heap, name, &now) != 0 && !atomic_load(&stop)) {
        }
        w->pushed += cairn_ptr_equals(now, ptr) ? 1 : 0;
    }
}

static void free_twice(struct worker *w)
{
    cairn_ptr ptr;
    uint64_t value;
    uint64_t start = now_ms();
    int rv = cairn_alloc(heap, 64, 2, &ptr);
    if (!settle(w, rv, start)) {
        return;
    }
    start = now_ms();
    rv = cairn_free(heap, ptr);
    if (!settle(w, rv, start)) {
        return;
    }
    rv = cairn_read(heap, ptr, 0, &value, sizeof value, NULL);
    if (rv == 0) {
        anomaly(w, "a freed object could be read", value, 0, 0);
    }
    rv = cairn_free(heap, ptr);
    if (rv == 0) {
        anomaly(w, "an object was freed twice", 0, 0, 0);
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (uint64_t i = 0; !atomic_load(&stop); i++) {
        add(w);
        write_register(w);
        read_register(w);
        if (i % 4 == 0) {
            push(w);
        }
        if (i % 8 == 0) {
            free_twice(w);
        }
    }
    return NULL;
}

static void verify(struct worker *w)
{
    uint64_t value = 0;
    char name[32];
    cairn_ptr at = CAIRN_NULL;
    int rv = cairn_read(heap, w->counter, 0, &value, sizeof value, NULL);
    if (rv != 0 || value < w->added || value > w->added + w->added_unknown) {
        anomaly(w, rv != 0 ? cairn_errormsg() : "the counter at the end", value, w->added,
                w->added + w->added_unknown);
    }
    rv = cairn_read(heap, w->reg, 0, &value, sizeof value, NULL);
    if (rv != 0 || (value != w->written && value != w->written_unknown)) {
        anomaly(w, rv != 0 ? cairn_errormsg() : "the register at the end", value, w->written,
                w->written_unknown);
    }
    (void)snprintf(name, sizeof name, "list-%u", w->id);
    rv = cairn_root_get(heap, name, &at);
    for (uint64_t left = rv == 0 ? w->pushed : 0; left > 0; left--) {
        struct node node;
        if (cairn_ptr_is_null(at) || cairn_read(heap, at, 0, &node, sizeof node, NULL) != 0 ||
            node.owner != w->id || node.number != left - 1) {
            anomaly(w, "an element of the list is missing or wrong", left, 0, w->pushed);
            break;
        }
        at = node.next;
    }
    if (rv != 0 && w->pushed > 0) {
        anomaly(w, "the list is gone", 0, w->pushed, w->pushed);
    } else if (rv == 0 && !cairn_ptr_is_null(at)) {
        anomaly(w, "the list is longer than what was pushed", 0, w->pushed, w->pushed);
    }
}

int main(int argc, char **argv)
{
    static struct worker workers[THREADS_MAX];
    cairn_client *client;
    cairn_client_opts opts;
    uint64_t ok = 0;
    uint64_t unknown = 0;
    uint64_t failed = 0;
    uint64_t worst = 0;
    if (argc != 4 || atoi(argv[3]) < 1 || atoi(argv[3]) > THREADS_MAX) {
        fprintf(stderr, "usage: counters HEAP SECONDS THREADS\n");
        return 2;
    }
    unsigned threads = (unsigned)atoi(argv[3]);
    cairn_client_opts_init(&opts, sizeof opts);
    opts.timeout_ms = 60000;
    int rv = cairn_connect(NULL, &opts, &client);
    rv = rv != 0 ? rv : cairn_heap_open(client, argv[1], &heap);
    for (unsigned i = 0; rv == 0 && i < threads; i++) {
        workers[i].id = i;
        rv = cairn_alloc(heap, 8, 0, &workers[i].counter);
        rv = rv != 0 ? rv : cairn_alloc(heap, 8, 0, &workers[i].reg);
    }
    if (rv != 0) {
        fprintf(stderr, "counters: %s: %s\n", cairn_error_name(rv), cairn_errormsg());
        return 2;
    }
    for (unsigned i = 0; i < threads; i++) {
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            fprintf(stderr, "counters: no thread could be started\n");
            return 2;
        }
    }
    nanosleep(&(struct timespec){atoi(argv[2]), 0}, NULL);
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        ok += workers[i].ok;
        unknown += workers[i].unknown;
        failed += workers[i].failed;
        worst = workers[i].worst_ms > worst ? workers[i].worst_ms : worst;
    }
    for (unsigned i = 0; i < threads; i++) {
        verify(&workers[i]);
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    printf("{\"ok\":%" PRIu64 ",\"unknown\":%" PRIu64 ",\"failed\":%" PRIu64
           ",\"anomalies\":%lu,\"worst_ms\":%" PRIu64 "}\n",
           ok, unknown, failed, atomic_load(&anomalies), worst);
    return atomic_load(&anomalies) > 0 ? 1 : ok == 0 ? 3 : 0;
}
