/* Processes that append to lists in transactions and die in the middle of commits, for tests that
 * kill nodes under them; what they saw is judged by tests/history (judge.c).
 *
 *   lists HEAP DIR SECONDS PROCESSES THREADS      writes DIR/history-PROCESS-THREAD (record.h)
 *
 * Every transaction has one to four lists; it reads them, appends to some, and commits. A list
 * lives behind a root: of every second one the root's object is written in place, of the others
 * each append allocates a longer object, sets the root to it and frees the old one. Lists come out
 * of use as time goes on, and others take their place. A process lives for some seconds; then it
 * asks for a commit and kills itself while that is on its way, and another takes its place. In the
 * end a last process reads every list.
 *
 * Exit 0: everything could be read at the end; 1: not, or an error that nothing excuses. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cairn/cairn.h>
#include <cairn/tx.h>

#include "chaos/record.h"

#define PROCESSES_MAX 16u
#define THREADS_MAX   16u
#define KEYS_AT_ONCE  10u
#define KEYS_SECONDS  2u /* then others take their place */
#define TX_KEYS_MAX   4u
#define LIST_BYTES    (8u + 8u * RECORD_VALUES_MAX)
#define SETTLE_TRIES  20
#define FINAL_MS      60000u
#define NO_VERSION    0u

struct worker {
    pthread_t thread;
    unsigned process, id;
    struct record record;
    uint64_t state;        /* of the random numbers */
    uint64_t next_value;   /* distinct among all workers */
    uint64_t seen_version; /* of a commit of this worker */
    uint64_t committed;
};

struct list {
    uint64_t key;
    cairn_ptr ptr; /* where it is; null: nowhere yet */
    uint64_t count, values[RECORD_VALUES_MAX];
};

static cairn_heap *heap;
static cairn_client *client;
static bool snapshots; /* the library has the level */
static uint64_t started_ns;
static unsigned seconds;
static atomic_int stop, wrong;

static uint64_t below(struct worker *w, uint64_t limit)
{
    w->state ^= w->state << 13; /* xorshift64 (Marsaglia 2003) */
    w->state ^= w->state >> 7;
    w->state ^= w->state << 17;
    return (w->state >> 11) % limit;
}

static void sleep_us(uint64_t us)
{
    struct timespec ts = {(time_t)(us / 1000000u), (long)(us % 1000000u) * 1000};
    (void)nanosleep(&ts, NULL);
}

/* ---- lists ---- */

static void name_of(uint64_t key, char name[24])
{
    (void)snprintf(name, 24, "list-%" PRIu64, key);
}

static bool in_place(uint64_t key)
{
    return key % 2 == 0;
}

static int list_read(struct worker *w, cairn_tx *tx, struct list *list)
{
    uint64_t words[1 + RECORD_VALUES_MAX];
    char name[24];
    name_of(list->key, name);
    list->count = 0;
    list->ptr = CAIRN_NULL;
    int rv = cairn_tx_root_get(tx, name, &list->ptr);
    if (rv == CAIRN_E_NOTFOUND) {
        record_read(&w->record, list->key, list->values, 0);
        return 0;
    }
    cairn_object object;
    rv = rv != 0 ? rv : cairn_tx_stat(tx, list->ptr, &object);
    if (rv == 0 && (object.size < 8 || object.size > LIST_BYTES)) {
        fprintf(stderr, "lists: an object of %" PRIu64 " bytes\n", object.size);
        atomic_store(&wrong, 1);
        return CAIRN_E_CORRUPT;
    }
    rv = rv != 0 ? rv : cairn_tx_read(tx, list->ptr, 0, words, object.size);
    if (rv != 0) {
        return rv;
    }
    list->count = words[0] <= object.size / 8 - 1 ? words[0] : object.size / 8 - 1;
    memcpy(list->values, words + 1, list->count * 8);
    record_read(&w->record, list->key, list->values, list->count);
    return 0;
}

static int list_append(struct worker *w, cairn_tx *tx, struct list *list)
{
    char name[24];
    uint64_t words[1 + RECORD_VALUES_MAX];
    uint64_t value = w->next_value++;
    cairn_ptr old = list->ptr;
    int rv = 0;
    name_of(list->key, name);
    record_append(&w->record, list->key, value);
    list->values[list->count++] = value;
    if (in_place(list->key) && !cairn_ptr_is_null(old)) {
        rv = cairn_tx_write(tx, old, 0, &list->count, 8);
        return rv != 0 ? rv : cairn_tx_write(tx, old, 8 * list->count, &value, 8);
    }
    words[0] = list->count;
    memcpy(words + 1, list->values, list->count * 8);
    uint64_t bytes = in_place(list->key) ? LIST_BYTES : 8 + 8 * list->count;
    rv = cairn_tx_alloc(tx, bytes, 0, &list->ptr);
    rv = rv != 0 ? rv : cairn_tx_write(tx, list->ptr, 0, words, 8 + 8 * list->count);
    rv = rv != 0 ? rv : cairn_tx_root_set(tx, name, list->ptr);
    return rv != 0 || cairn_ptr_is_null(old) ? rv : cairn_tx_free(tx, old);
}

/* ---- a transaction ---- */

/* Most of the lists of now, some of those before, which nobody appends to for much longer. */
static uint64_t draw_key(struct worker *w)
{
    uint64_t age = (record_now_ns() - started_ns) / 1000000000u / KEYS_SECONDS;
    uint64_t back = below(w, 4) == 0 ? 1 : 0;
    uint64_t generation = age >= back ? age - back : 0;
    return generation * KEYS_AT_ONCE + below(w, KEYS_AT_ONCE);
}

static int fill(struct worker *w, cairn_tx *tx, bool writes)
{
    struct list lists[TX_KEYS_MAX];
    uint64_t count = 1 + below(w, TX_KEYS_MAX);
    for (uint64_t i = 0; i < count; i++) {
        bool again = true;
        while (again) {
            again = false;
            lists[i].key = draw_key(w);
            for (uint64_t k = 0; k < i; k++) {
                again = again || lists[k].key == lists[i].key;
            }
        }
        int rv = list_read(w, tx, &lists[i]);
        if (rv != 0) {
            return rv;
        }
    }
    for (uint64_t i = 0; i < count; i++) {
        if (!writes || lists[i].count == RECORD_VALUES_MAX || below(w, 3) == 0) {
            continue;
        }
        int rv = list_append(w, tx, &lists[i]);
        if (rv == 0 && below(w, 8) == 0) {
            rv = list_read(w, tx, &lists[i]); /* its own append included */
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

/* What a call may say while nodes die. */
static void excuse(const struct worker *w, int rv, const char *where)
{
    bool weather = cairn_error_is(rv, CAIRN_ERROR_RETRYABLE) ||
                   cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED) || rv == CAIRN_E_CONFLICT ||
                   rv == CAIRN_E_TX_ABORTED || rv == CAIRN_E_SNAPSHOT_TOO_OLD ||
                   rv == CAIRN_E_STALE || rv == CAIRN_E_NOT_YET || rv == CAIRN_E_CLOSED;
    if (!weather) {
        fprintf(stderr, "lists: process %u thread %u: %s: %s: %s\n", w->process, w->id, where,
                cairn_error_name(rv), cairn_errormsg());
        atomic_store(&wrong, 1);
    }
}

static char settle(struct worker *w, const cairn_tx_id *id)
{
    uint32_t state = CAIRN_TX_UNKNOWN;
    for (int i = 0; i < SETTLE_TRIES; i++) {
        int rv = cairn_tx_outcome(client, id, &state, NULL);
        if (rv == 0) {
            return state == CAIRN_TX_COMMITTED ? 'c' : state == CAIRN_TX_ABORTED ? 'a' : 'u';
        }
        excuse(w, rv, "cairn_tx_outcome");
        sleep_us(100000);
    }
    return 'u';
}

static char commit(struct worker *w, cairn_tx *tx, bool asks)
{
    cairn_tx_id id;
    uint64_t version = 0;
    int named = asks ? cairn_tx_id_of(tx, &id) : -1;
    int rv = cairn_tx_commit(tx, &version);
    if (rv == 0) {
        w->seen_version = version != 0 ? version : w->seen_version;
        w->committed++;
        return 'c';
    }
    excuse(w, rv, "cairn_tx_commit");
    if (!cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        return 'a';
    }
    return named == 0 ? settle(w, &id) : 'u';
}

/* dies: while its commit is on its way. */
static void transact(struct worker *w, bool dies)
{
    cairn_tx_opts opts;
    cairn_tx *tx;
    bool older = !dies && w->seen_version != NO_VERSION && below(w, 10) == 0;
    bool writes = !older && (dies || below(w, 4) != 0);
    bool snapshot = snapshots && !older && below(w, 4) == 0;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.deadline_ms = 200 + (uint32_t)below(w, 4000);
    opts.read_only = !writes && below(w, 2) == 0;
    opts.read_at = older ? w->seen_version : 0;
    opts.isolation = snapshot ? CAIRN_SNAPSHOT : CAIRN_SERIALIZABLE;
    record_begin(&w->record, older ? 'o' : snapshot ? 'i' : 's');
    int rv = cairn_tx_begin(heap, &opts, &tx);
    if (rv != 0) {
        excuse(w, rv, "cairn_tx_begin");
        record_end(&w->record, 'a');
        return;
    }
    rv = fill(w, tx, writes);
    if (rv != 0) {
        cairn_tx_abort(tx);
        excuse(w, rv, "in a transaction");
        record_end(&w->record, 'a');
        return;
    }
    if (dies) {
        cairn_future *future;
        (void)cairn_tx_commit_async(tx, &future);
        sleep_us(below(w, 4000));
        (void)kill(getpid(), SIGKILL);
    }
    record_end(&w->record, commit(w, tx, below(w, 2) == 0));
}

static void *work(void *arg)
{
    struct worker *w = arg;
    uint64_t dies_ns = record_now_ns() + (500 + below(w, 6000)) * 1000000u;
    while (!atomic_load(&stop) && !atomic_load(&wrong)) {
        transact(w, w->id == 0 && record_now_ns() > dies_ns);
    }
    return NULL;
}

/* ---- processes ---- */

static int open_heap(const char *name)
{
    cairn_client_opts opts;
    cairn_client_opts_init(&opts, sizeof opts);
    opts.timeout_ms = 30000;
    int rv = cairn_connect(NULL, &opts, &client);
    rv = rv != 0 ? rv : cairn_heap_open(client, name, &heap);
    if (rv != 0) {
        fprintf(stderr, "lists: %s: %s\n", cairn_error_name(rv), cairn_errormsg());
        return rv;
    }
    cairn_tx_opts tx_opts;
    cairn_tx *tx;
    cairn_tx_opts_init(&tx_opts, sizeof tx_opts);
    tx_opts.isolation = CAIRN_SNAPSHOT;
    snapshots = cairn_tx_begin(heap, &tx_opts, &tx) == 0;
    if (snapshots) {
        cairn_tx_abort(tx);
    }
    return 0;
}

static void worker_init(struct worker *w, const char *dir, unsigned process, unsigned id)
{
    *w = (struct worker){.process = process, .id = id};
    w->next_value = ((uint64_t)process * THREADS_MAX + id + 1) << 24;
    w->state = (record_now_ns() ^ (uint64_t)getpid() << 32) + id * 0x9e3779b97f4a7c15u + 1;
    record_open(&w->record, dir, process, id);
}

static int run(const char *name, const char *dir, unsigned process, unsigned threads)
{
    static struct worker workers[THREADS_MAX];
    if (open_heap(name) != 0) {
        return 1;
    }
    for (unsigned i = 0; i < threads; i++) {
        worker_init(&workers[i], dir, process, i);
        (void)pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    while (record_now_ns() < started_ns + seconds * 1000000000ull) {
        sleep_us(10000);
    }
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < threads; i++) {
        (void)pthread_join(workers[i].thread, NULL);
        record_close(&workers[i].record);
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    return atomic_load(&wrong);
}

/* Every list once more, so that no append went unseen. */
static int read_all(const char *name, const char *dir, unsigned process)
{
    static struct worker w;
    uint64_t keys = (seconds / KEYS_SECONDS + 1) * KEYS_AT_ONCE;
    if (open_heap(name) != 0) {
        return 1;
    }
    worker_init(&w, dir, process, 0);
    for (uint64_t key = 0; key < keys; key++) {
        cairn_tx_opts opts;
        cairn_tx *tx;
        cairn_tx_opts_init(&opts, sizeof opts);
        opts.deadline_ms = FINAL_MS;
        struct list list = {.key = key};
        record_begin(&w.record, 's');
        int rv = cairn_tx_begin(heap, &opts, &tx);
        rv = rv != 0 ? rv : list_read(&w, tx, &list);
        rv = rv != 0 ? rv : cairn_tx_commit(tx, NULL);
        record_end(&w.record, rv == 0 ? 'c' : 'a');
        if (rv != 0) {
            fprintf(stderr, "lists: list %" PRIu64 " can't be read: %s: %s\n", key,
                    cairn_error_name(rv), cairn_errormsg());
            return 1;
        }
    }
    record_close(&w.record);
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}

int main(int argc, char **argv)
{
    pid_t pids[PROCESSES_MAX];
    if (argc != 6 || atoi(argv[4]) < 1 || atoi(argv[4]) > (int)PROCESSES_MAX || atoi(argv[5]) < 1 ||
        atoi(argv[5]) > (int)THREADS_MAX) {
        fprintf(stderr, "usage: lists HEAP DIR SECONDS PROCESSES THREADS\n");
        return 2;
    }
    seconds = (unsigned)atoi(argv[3]);
    unsigned processes = (unsigned)atoi(argv[4]);
    unsigned next = 0;
    unsigned deaths = 0;
    unsigned left = processes;
    int rv = 0;
    started_ns = record_now_ns();
    for (unsigned i = 0; i < processes; i++, next++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            return run(argv[1], argv[2], next, (unsigned)atoi(argv[5]));
        }
    }
    while (left > 0) {
        int status = 0;
        pid_t pid = wait(&status);
        unsigned i = 0;
        while (i < processes && pids[i] != pid) {
            i++;
        }
        bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        if (killed && record_now_ns() < started_ns + seconds * 1000000000ull) {
            deaths++;
            pids[i] = fork();
            if (pids[i] == 0) {
                return run(argv[1], argv[2], next, (unsigned)atoi(argv[5]));
            }
            next++;
        } else {
            left--;
            rv = rv != 0 || killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0) ? rv : 1;
        }
    }
    printf("lists: %u processes, %u of them killed in a commit\n", next, deaths);
    (void)fflush(stdout);
    return rv != 0 ? rv : read_all(argv[1], argv[2], next);
}
