/* Transactions that see one version of everything: the snapshot level, and readers that steady
 * writers can't keep from getting through. Through the public header, in a directory, or (argument
 * "cluster") on the cluster that $CAIRN_ENDPOINTS names, on $TX_SHARDS shards. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "unit/embed/fixture.h"

#include "cairn/graph.h"

static cairn_tx *start(void)
{
    cairn_tx *tx = NULL;
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.isolation = CAIRN_SNAPSHOT;
    must(cairn_tx_begin(heap, &opts, &tx));
    return tx;
}

/* ---- what a snapshot sees ---- */

static int count_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)name, (void)ptr, (void)version;
    (*(int *)arg)++;
    return 0;
}

static void all_reads_are_of_the_moment_of_the_first(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_ptr c = object(1);
    cairn_ptr found;
    cairn_object o;
    must(cairn_root_set(heap, "stays", a));
    must(cairn_root_set(heap, "goes", b));
    put(a, 2);
    cairn_tx *tx = start();
    assert_int_equal(get(tx, a), 2); /* what was answered before is in it */
    put(a, 3);
    put(b, 3);
    must(cairn_free(heap, c));
    must(cairn_root_set(heap, "comes", a));
    must(cairn_root_set(heap, "stays", b));
    must(cairn_root_delete(heap, "goes"));
    assert_int_equal(get(tx, a), 2);
    assert_int_equal(get(tx, b), 1);
    assert_int_equal(get(tx, c), 1);
    must(cairn_tx_stat(tx, c, &o));
    assert_int_equal(o.size, 64);
    must(cairn_tx_root_get(tx, "stays", &found));
    assert_true(cairn_ptr_equals(found, a));
    must(cairn_tx_root_get(tx, "goes", &found));
    assert_int_equal(cairn_tx_root_get(tx, "comes", &found), CAIRN_E_NOTFOUND);
    int names = 0;
    must(cairn_tx_root_list(tx, count_root, &names));
    assert_int_equal(names, 2);
    cairn_graph *graph = NULL;
    cairn_node node;
    must(cairn_tx_fetch(tx, b, NULL, &graph));
    must(cairn_graph_get(graph, 0, &node));
    assert_int_equal(*(const uint64_t *)node.data, 1);
    cairn_graph_free(graph);
    /* Its own writes it sees, over the old bytes. */
    cairn_ptr fresh;
    uint64_t word = 9;
    must(cairn_tx_alloc(tx, 16, 0, &fresh));
    set(tx, fresh, 5);
    assert_int_equal(get(tx, fresh), 5);
    must(cairn_tx_root_set(tx, "mine", fresh));
    must(cairn_tx_root_get(tx, "mine", &found));
    cairn_ptr d = object(1);
    must(cairn_tx_commit(tx, NULL));
    tx = start();
    must(cairn_tx_write(tx, d, 8, &word, sizeof word));
    assert_int_equal(get(tx, d), 1);
    must(cairn_tx_commit(tx, NULL));
    must(cairn_read(heap, d, 8, &word, sizeof word, NULL));
    assert_int_equal(word, 9);
    assert_int_equal(value_of(fresh), 5);
}

/* ---- who comes first ---- */

static void conflicts(cairn_tx *tx, cairn_ptr with)
{
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    assert_true(cairn_ptr_equals(cairn_tx_conflict(), with));
}

static void who_committed_first_wins(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_ptr c = object(1);
    /* An object: written, freed, without having been read. */
    cairn_tx *tx = start();
    assert_int_equal(get(tx, b), 1);
    put(a, 2);
    set(tx, a, 3);
    conflicts(tx, a);
    assert_int_equal(value_of(a), 2);
    tx = start();
    assert_int_equal(get(tx, b), 1);
    put(a, 4);
    must(cairn_tx_free(tx, a));
    conflicts(tx, a);
    tx = start();
    assert_int_equal(get(tx, b), 1);
    must(cairn_free(heap, c));
    set(tx, c, 3);
    conflicts(tx, c);
    /* A root: set, deleted, in whatever order. */
    must(cairn_root_set(heap, "r", a));
    tx = start();
    assert_int_equal(get(tx, b), 1);
    must(cairn_root_set(heap, "r", b));
    must(cairn_tx_root_set(tx, "r", a));
    conflicts(tx, CAIRN_NULL);
    tx = start();
    assert_int_equal(get(tx, b), 1);
    must(cairn_root_delete(heap, "r"));
    must(cairn_tx_root_set(tx, "r", a));
    conflicts(tx, CAIRN_NULL);
    /* What was only read may have changed since: write skew. */
    tx = start();
    assert_int_equal(get(tx, b), 1);
    put(b, 2);
    set(tx, a, get(tx, b) + 10);
    must(cairn_tx_commit(tx, NULL));
    assert_int_equal(value_of(a), 11);
    /* Unless it is asked for. */
    tx = start();
    uint64_t two = 2;
    assert_int_equal(get(tx, b), 2);
    put(b, 3);
    must(cairn_tx_compare(tx, b, 0, &two, sizeof two));
    set(tx, a, 12);
    conflicts(tx, b);
    /* Nothing was read, so nothing was seen that could have changed. */
    tx = start();
    set(tx, a, 13);
    put(a, 14);
    must(cairn_tx_commit(tx, NULL));
    assert_int_equal(value_of(a), 13);
}

static void a_snapshot_goes_on_where_it_was_saved(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_ptr found;
    cairn_tx *again = NULL;
    char *text = NULL;
    size_t len = 0;
    cairn_tx *tx = start();
    assert_int_equal(get(tx, a), 1);
    set(tx, b, 7);
    must(cairn_tx_root_set(tx, "saved", b));
    put(a, 2);
    must(cairn_tx_save(tx, &text, &len));
    cairn_tx_abort(tx);
    must(cairn_tx_load(heap, text, len, &again));
    assert_int_equal(get(again, a), 1);
    assert_int_equal(get(again, b), 7);
    must(cairn_tx_root_get(again, "saved", &found));
    must(cairn_tx_commit(again, NULL));
    assert_int_equal(value_of(b), 7);
    /* First committer wins there, too. */
    must(cairn_tx_load(heap, text, len, &again));
    assert_int_equal(cairn_tx_commit(again, NULL), CAIRN_E_CONFLICT);
    cairn_json_free(text);
}

static void the_checks_of_writes_count(void **state)
{
    (void)state;
    cairn_ptr first = object(0);
    cairn_tx *tx = start();
    assert_int_equal(get(tx, first), 0);
    for (uint32_t i = 0; i < 600; i++) {
        set(tx, object(0), i);
    }
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_LIMIT);
}

static void two_heaps_are_seen_at_one_version(void **state)
{
    (void)state;
    cairn_heap *second = NULL;
    cairn_tx *part = NULL;
    cairn_ptr b;
    uint64_t one = 1;
    uint64_t two = 2;
    if (!on_cluster()) {
        skip();
    }
    heap_new(2, &second);
    cairn_ptr a = object(1);
    must(cairn_alloc_init(second, 64, 0, &one, sizeof one, &b));
    cairn_tx *tx = start();
    must(cairn_tx_join(tx, second, &part));
    assert_int_equal(get(tx, a), 1);
    must(cairn_write(second, b, 0, &two, sizeof two));
    assert_int_equal(get(part, b), 1);
    set(tx, a, 5);
    must(cairn_tx_commit(tx, NULL));
    /* What the two write together is seen together, however the snapshots lie. */
    for (uint64_t i = 10; i < 30; i++) {
        cairn_tx *writer = NULL;
        cairn_tx *writes_too = NULL;
        must(cairn_tx_begin(heap, NULL, &writer));
        must(cairn_tx_join(writer, second, &writes_too));
        set(writer, a, i);
        set(writes_too, b, i);
        must(cairn_tx_commit(writer, NULL));
        tx = start();
        must(cairn_tx_join(tx, second, &part));
        assert_int_equal(get(part, b), i);
        assert_int_equal(get(tx, a), i);
        must(cairn_tx_commit(tx, NULL));
    }
    tx = start();
    assert_int_equal(get(tx, a), 29);
    assert_int_equal(cairn_tx_join(tx, second, &part), CAIRN_E_INVAL);
    cairn_tx_abort(tx);
    cairn_heap_close(second);
}

/* ---- under steady writers ---- */

#define PAIRS 4
#define TOTAL (PAIRS * 2 * 100)
#define BURST 20 /* transfers of each pair for a read: all of them are kept, as history */

struct steady {
    cairn_ptr accounts[PAIRS * 2];
    atomic_bool stop;
    atomic_uint transfers[PAIRS];
    atomic_uint allowed; /* of each pair, however fast the machine is */
    atomic_int failed;   /* the first error of a writer */
};

struct writer {
    struct steady *steady;
    uint32_t pair; /* of accounts that nobody else changes */
    uint64_t number;
};

static int transfer(cairn_tx *tx, void *arg)
{
    struct writer *w = arg;
    uint64_t in_a = w->number % 200;
    uint64_t in_b = 200 - in_a;
    int rv = cairn_tx_write(tx, w->steady->accounts[w->pair * 2], 0, &in_a, sizeof in_a);
    return rv != 0
               ? rv
               : cairn_tx_write(tx, w->steady->accounts[w->pair * 2 + 1], 0, &in_b, sizeof in_b);
}

static void *transfers(void *arg)
{
    struct writer *w = arg;
    struct steady *s = w->steady;
    while (!atomic_load(&s->stop)) {
        if (atomic_load(&s->transfers[w->pair]) >= atomic_load(&s->allowed)) {
            (void)usleep(100);
            continue;
        }
        w->number++;
        int rv = cairn_tx_run(heap, transfer, w);
        if (rv != 0) {
            int none = 0;
            print_error("transfer: %s: %s\n", cairn_error_name(rv), cairn_errormsg());
            (void)atomic_compare_exchange_strong(&s->failed, &none, rv);
            return NULL;
        }
        atomic_fetch_add(&s->transfers[w->pair], 1);
    }
    return NULL;
}

struct audit {
    struct steady *steady;
    uint64_t total;
    uint32_t tries;
};

static uint32_t transfers_of(struct steady *s, uint32_t pair)
{
    return atomic_load(&s->transfers[pair]);
}

/* The second transfer that ends from now on began later, too. */
static void wait_for_a_transfer(struct steady *s, uint32_t pair)
{
    uint32_t before = transfers_of(s, pair);
    atomic_fetch_add(&s->allowed, 2);
    while (transfers_of(s, pair) - before < 2 && atomic_load(&s->failed) == 0) {
        (void)usleep(500);
    }
}

static int audit(cairn_tx *tx, void *arg)
{
    struct audit *a = arg;
    a->total = 0;
    a->tries++;
    for (uint32_t i = 0; i < PAIRS * 2; i++) {
        uint64_t value = 0;
        atomic_fetch_add(&a->steady->allowed, BURST);
        int rv = cairn_tx_read(tx, a->steady->accounts[i], 0, &value, sizeof value);
        if (rv != 0) {
            return rv;
        }
        a->total += value;
        if (a->tries == 1) {
            wait_for_a_transfer(a->steady, i / 2); /* it isn't valid any more */
        }
        (void)usleep(3000);
    }
    return 0;
}

static void steady_begin(struct steady *s, struct writer *w, pthread_t *threads)
{
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < PAIRS * 2; i++) {
        s->accounts[i] = object(100);
    }
    for (uint32_t i = 0; i < PAIRS; i++) {
        w[i] = (struct writer){.steady = s, .pair = i};
        assert_int_equal(pthread_create(&threads[i], NULL, transfers, &w[i]), 0);
    }
}

static void steady_end(struct steady *s, pthread_t *threads)
{
    atomic_store(&s->stop, true);
    for (uint32_t i = 0; i < PAIRS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(atomic_load(&s->failed), 0);
}

static void long_readers_and_writers_get_through(void **state)
{
    (void)state;
    static struct steady s;
    struct writer w[PAIRS];
    pthread_t threads[PAIRS];
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.deadline_ms = 8000;
    uint32_t again = 0;
    steady_begin(&s, w, threads);
    for (int i = 0; i < 20; i++) {
        struct audit a = {.steady = &s};
        opts.read_only = i % 2 == 0;
        must(cairn_tx_run_opts(heap, &opts, audit, &a));
        assert_int_equal(a.total, TOTAL);
        again += a.tries > 1;
    }
    assert_int_equal(again, 20);
    steady_end(&s, threads);
}

static void snapshots_and_writers_get_through(void **state)
{
    (void)state;
    static struct steady s;
    struct writer w[PAIRS];
    pthread_t threads[PAIRS];
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.isolation = CAIRN_SNAPSHOT;
    steady_begin(&s, w, threads);
    for (int i = 0; i < 20; i++) {
        struct audit a = {.steady = &s};
        must(cairn_tx_run_opts(heap, &opts, audit, &a));
        assert_int_equal(a.total, TOTAL);
    }
    steady_end(&s, threads);
}

/* ---- one that reads first, and then does more ---- */

struct turn {
    cairn_ptr a, b;
    uint32_t tries;
    bool compares;
};

static int read_then_write(cairn_tx *tx, void *arg)
{
    struct turn *t = arg;
    uint64_t seen[2];
    t->tries++;
    int rv = cairn_tx_read(tx, t->a, 0, &seen[0], sizeof seen[0]);
    if (rv == 0 && t->tries == 1) {
        put(t->a, 2); /* makes this try invalid */
    }
    rv = rv != 0 ? rv : cairn_tx_read(tx, t->b, 0, &seen[1], sizeof seen[1]);
    if (rv != 0 || t->tries == 1) {
        return rv;
    }
    if (t->compares) {
        return cairn_tx_compare(tx, t->b, 0, &seen[1], sizeof seen[1]);
    }
    seen[0] += seen[1];
    return cairn_tx_write(tx, t->b, 0, &seen[0], sizeof seen[0]);
}

static void a_reader_may_turn_out_to_write(void **state)
{
    (void)state;
    struct turn t = {.a = object(1), .b = object(1)};
    must(cairn_tx_run(heap, read_then_write, &t));
    assert_int_equal(t.tries, 3); /* newest versions, one version, newest versions */
    assert_int_equal(value_of(t.b), 3);
    t.tries = 0;
    t.compares = true;
    put(t.a, 1);
    must(cairn_tx_run(heap, read_then_write, &t));
    assert_int_equal(t.tries, 3);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        mode = argv[1];
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_reads_are_of_the_moment_of_the_first, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(who_committed_first_wins, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(a_snapshot_goes_on_where_it_was_saved, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(the_checks_of_writes_count, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(two_heaps_are_seen_at_one_version, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(long_readers_and_writers_get_through, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(snapshots_and_writers_get_through, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(a_reader_may_turn_out_to_write, fixture_begin, fixture_end),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_over);
}
