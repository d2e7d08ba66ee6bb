/* Transactions through the public header: on a directory, and (with an argument "cluster") on the
 * cluster that $CAIRN_ENDPOINTS names, whose heap has several shards, so that most of these
 * transactions go over some of them. Argument "pmem": a directory in pmem mode. */
#include <pthread.h>
#include <unistd.h>

#include "unit/embed/fixture.h"

static cairn_tx *start(void)
{
    cairn_tx *tx = NULL;
    must(cairn_tx_begin(heap, NULL, &tx));
    return tx;
}

/* ---- what a transaction sees and leaves ---- */

static void all_of_it_happens_at_one_version(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(2);
    cairn_ptr fresh;
    uint64_t version = 0;
    cairn_tx *tx = start();
    must(cairn_tx_alloc(tx, 100, 7, &fresh));
    set(tx, fresh, 3);
    must(cairn_tx_write(tx, fresh, 40, "tail", 4));
    set(tx, a, 10);
    must(cairn_tx_free(tx, b));
    must(cairn_tx_root_set(tx, "fresh", fresh));
    must(cairn_tx_commit(tx, &version));
    assert_true(version != 0);
    cairn_object o;
    char tail[4];
    cairn_ptr found;
    must(cairn_stat(heap, fresh, &o));
    assert_int_equal(o.size, 100);
    assert_int_equal(o.type, 7);
    assert_int_equal(o.version, version);
    must(cairn_read(heap, fresh, 40, tail, 4, NULL));
    assert_memory_equal(tail, "tail", 4);
    assert_int_equal(value_of(fresh), 3);
    assert_int_equal(value_of(a), 10);
    must(cairn_stat(heap, a, &o));
    assert_int_equal(o.version, version);
    assert_int_equal(cairn_stat(heap, b, &o), CAIRN_E_STALE);
    must(cairn_root_get(heap, "fresh", &found));
    assert_true(cairn_ptr_equals(found, fresh));
}

static void it_reads_what_it_has_written(void **state)
{
    (void)state;
    cairn_ptr a = object(0x1111111111111111u);
    cairn_ptr gone = object(1);
    cairn_ptr fresh;
    cairn_tx *tx = start();
    uint8_t bytes[8];
    must(cairn_tx_write(tx, a, 2, "xy", 2));
    must(cairn_tx_write(tx, a, 4, "z", 1));  /* goes on from there */
    must(cairn_tx_write(tx, a, 3, "YZ", 2)); /* over both */
    must(cairn_tx_read(tx, a, 0, bytes, 8));
    assert_memory_equal(bytes, "\x11\x11xYZ\x11\x11\x11", 8);
    must(cairn_tx_alloc(tx, 16, 0, &fresh));
    must(cairn_tx_read(tx, fresh, 8, bytes, 8));
    assert_memory_equal(bytes, "\0\0\0\0\0\0\0\0", 8);
    assert_int_equal(cairn_tx_read(tx, fresh, 9, bytes, 8), CAIRN_E_RANGE);
    assert_int_equal(cairn_tx_write(tx, fresh, 9, bytes, 8), CAIRN_E_RANGE);
    must(cairn_tx_free(tx, gone));
    assert_int_equal(cairn_tx_read(tx, gone, 0, bytes, 8), CAIRN_E_STALE);
    assert_int_equal(cairn_tx_free(tx, gone), CAIRN_E_STALE);
    cairn_object o;
    must(cairn_tx_stat(tx, fresh, &o));
    assert_int_equal(o.size, 16);
    assert_int_equal(o.version, 0);
    assert_int_equal(value_of(a), 0x1111111111111111u); /* nobody else sees it yet */
    assert_int_equal(cairn_read(heap, fresh, 0, bytes, 8, NULL), CAIRN_E_NOT_YET);
    must(cairn_tx_commit(tx, NULL));
    must(cairn_read(heap, a, 0, bytes, 8, NULL));
    assert_memory_equal(bytes, "\x11\x11xYZ\x11\x11\x11", 8);
    must(cairn_read(heap, fresh, 0, bytes, 8, NULL));
}

struct names {
    char text[256];
};

static int on_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    struct names *n = arg;
    (void)version;
    assert_false(cairn_ptr_is_null(ptr));
    (void)snprintf(n->text + strlen(n->text), sizeof n->text - strlen(n->text), "%s ", name);
    return 0;
}

static bool lists(const struct names *n, const char *name)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%s ", name);
    return strstr(n->text, text) != NULL;
}

static void roots_are_seen_as_the_transaction_leaves_them(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr found;
    struct names before = {{0}};
    struct names after = {{0}};
    must(cairn_root_set(heap, "old", a));
    must(cairn_root_set(heap, "stays", a));
    cairn_tx *tx = start();
    assert_int_equal(cairn_tx_root_get(tx, "new", &found), CAIRN_E_NOTFOUND);
    must(cairn_tx_root_set(tx, "new", a));
    must(cairn_tx_root_get(tx, "new", &found));
    assert_true(cairn_ptr_equals(found, a));
    must(cairn_tx_root_set(tx, "old", CAIRN_NULL));
    assert_int_equal(cairn_tx_root_get(tx, "old", &found), CAIRN_E_NOTFOUND);
    must(cairn_tx_root_list(tx, on_root, &before));
    assert_true(lists(&before, "new") && lists(&before, "stays") && !lists(&before, "old"));
    must(cairn_tx_commit(tx, NULL));
    must(cairn_root_list(heap, on_root, &after));
    assert_true(lists(&after, "new") && lists(&after, "stays") && !lists(&after, "old"));
}

static void an_aborted_one_leaves_nothing_and_its_pointers_go_stale(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr fresh;
    uint64_t value;
    cairn_tx *tx = start();
    must(cairn_tx_alloc(tx, 16, 0, &fresh));
    set(tx, a, 2);
    must(cairn_tx_root_set(tx, "never", fresh));
    cairn_tx_abort(tx);
    assert_int_equal(value_of(a), 1);
    cairn_ptr none;
    assert_int_equal(cairn_root_get(heap, "never", &none), CAIRN_E_NOTFOUND);
    int rv = CAIRN_E_NOT_YET;
    for (int i = 0; i < 500 && rv == CAIRN_E_NOT_YET; i++) { /* in the background */
        rv = cairn_read(heap, fresh, 0, &value, sizeof value, NULL);
        (void)object(1);
    }
    assert_int_equal(rv, CAIRN_E_STALE);
    cairn_tx_abort(NULL);
}

/* ---- conflicts ---- */

static void who_comes_second_gets_a_conflict(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_tx *tx = start();
    assert_int_equal(get(tx, a), 1);
    set(tx, b, 5);
    uint64_t other = 2;
    must(cairn_write(heap, a, 0, &other, sizeof other));
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    assert_true(cairn_ptr_equals(cairn_tx_conflict(), a));
    assert_non_null(strstr(cairn_errormsg(), "object"));
    assert_int_equal(value_of(b), 1);
    tx = start();
    assert_int_equal(get(tx, a), 2);
    must(cairn_write(heap, a, 0, &other, sizeof other));
    uint64_t again;
    assert_int_equal(cairn_tx_read(tx, a, 0, &again, sizeof again), CAIRN_E_CONFLICT);
    cairn_tx_abort(tx);
}

static void absence_is_something_that_was_read(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr found;
    struct names none = {{0}};
    cairn_tx *tx = start();
    must(cairn_tx_root_list(tx, on_root, &none)); /* of a heap that never had one */
    must(cairn_root_set(heap, "w", a));
    assert_int_equal(cairn_tx_root_list(tx, on_root, &none), CAIRN_E_CONFLICT);
    cairn_tx_abort(tx);
    tx = start();
    assert_int_equal(cairn_tx_root_get(tx, "x", &found), CAIRN_E_NOTFOUND);
    set(tx, a, 2);
    must(cairn_root_set(heap, "x", a));
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    assert_true(cairn_ptr_is_null(cairn_tx_conflict()));
    assert_non_null(strstr(cairn_errormsg(), "'x'"));
    struct names names = {{0}};
    tx = start();
    must(cairn_tx_root_list(tx, on_root, &names));
    set(tx, a, 3);
    must(cairn_root_set(heap, "y", a)); /* a phantom */
    assert_int_equal(cairn_tx_root_list(tx, on_root, &names), CAIRN_E_CONFLICT);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    assert_int_equal(value_of(a), 1);
}

static void a_range_beyond_the_end_is_a_size_that_was_read(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    uint64_t value;
    cairn_tx *tx = start();
    assert_int_equal(cairn_tx_read(tx, a, 64, &value, 8), CAIRN_E_RANGE);
    set(tx, b, 2);
    must(cairn_realloc(heap, a, 128));
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
}

static void compares_hold_at_the_commit(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    uint64_t one = 1;
    uint64_t two = 2;
    cairn_object o;
    cairn_tx *tx = start();
    must(cairn_tx_compare(tx, a, 0, &one, sizeof one));
    set(tx, b, 2);
    must(cairn_tx_commit(tx, NULL));
    tx = start();
    must(cairn_tx_compare(tx, a, 0, &two, sizeof two));
    set(tx, b, 3);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    tx = start(); /* own writes at once, the rest at the commit */
    set(tx, a, 7);
    assert_int_equal(cairn_tx_compare(tx, a, 0, &one, sizeof one), CAIRN_E_CONFLICT);
    uint64_t mixed[2] = {7, 0};
    must(cairn_tx_compare(tx, a, 0, mixed, sizeof mixed));
    must(cairn_stat(heap, b, &o));
    must(cairn_tx_compare_version(tx, b, o.version));
    must(cairn_tx_commit(tx, NULL));
    tx = start();
    must(cairn_tx_compare_version(tx, b, o.version + 1));
    set(tx, a, 8);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    assert_int_equal(value_of(a), 7);
    tx = start(); /* also of one that writes nothing */
    must(cairn_tx_compare(tx, a, 0, &two, sizeof two));
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
}

static void one_that_only_read_is_asked_about_in_the_end(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    uint64_t version = 99;
    cairn_tx *tx = start();
    must(cairn_tx_commit(tx, &version)); /* nothing at all */
    assert_int_equal(version, 0);
    tx = start();
    (void)get(tx, a);
    (void)get(tx, b);
    must(cairn_tx_commit(tx, NULL));
    tx = start();
    (void)get(tx, a);
    uint64_t two = 2;
    must(cairn_write(heap, a, 0, &two, sizeof two));
    (void)get(tx, b);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
    assert_true(cairn_ptr_equals(cairn_tx_conflict(), a));
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.read_only = 1;
    must(cairn_tx_begin(heap, &opts, &tx));
    assert_int_equal(cairn_tx_write(tx, a, 0, &two, sizeof two), CAIRN_E_INVAL);
    assert_int_equal(cairn_tx_root_set(tx, "r", a), CAIRN_E_INVAL);
    must(cairn_tx_commit(tx, NULL));
}

static void read_committed_validates_compares_alone(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_tx_opts opts;
    cairn_tx *tx = NULL;
    uint64_t two = 2;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.isolation = CAIRN_READ_COMMITTED;
    must(cairn_tx_begin(heap, &opts, &tx));
    assert_int_equal(get(tx, a), 1);
    must(cairn_write(heap, a, 0, &two, sizeof two));
    assert_int_equal(get(tx, a), 2);
    set(tx, b, 5);
    must(cairn_tx_commit(tx, NULL));
    assert_int_equal(value_of(b), 5);
    must(cairn_tx_begin(heap, &opts, &tx));
    must(cairn_tx_compare(tx, a, 0, &two, sizeof two));
    must(cairn_write(heap, a, 0, &(uint64_t){3}, sizeof two));
    set(tx, b, 6);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT);
}

static void what_cannot_be_done_undoes_all_of_it(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_tx *tx = start();
    set(tx, a, 2);
    must(cairn_tx_write(tx, b, 60, "too far", 7)); /* the size isn't known here */
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_RANGE);
    must(cairn_free(heap, b));
    tx = start();
    set(tx, a, 2);
    set(tx, b, 2);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_STALE);
    assert_int_equal(value_of(a), 1);
}

static void limits_are_told_by_the_call_that_meets_them(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_tx_opts opts;
    cairn_tx *tx = NULL;
    uint8_t bytes[256] = {0};
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.items_max = 2;
    opts.bytes_max = 300;
    must(cairn_tx_begin(heap, &opts, &tx));
    must(cairn_tx_write(tx, a, 0, bytes, 8));
    must(cairn_tx_write(tx, a, 16, bytes, 8));
    assert_int_equal(cairn_tx_write(tx, a, 32, bytes, 8), CAIRN_E_LIMIT);
    must(cairn_tx_write(tx, a, 8, bytes, 8)); /* both become one */
    must(cairn_tx_write(tx, a, 32, bytes, 8));
    assert_int_equal(cairn_tx_write(tx, a, 40, bytes, 250), CAIRN_E_TOOBIG);
    must(cairn_tx_commit(tx, NULL));
    opts.items_max = 0;
    assert_int_equal(cairn_tx_begin(heap, &opts, &tx), CAIRN_E_INVAL);
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.deadline_ms = 1;
    must(cairn_tx_begin(heap, &opts, &tx));
    usleep(3000);
    assert_int_equal(cairn_tx_read(tx, a, 0, bytes, 8), CAIRN_E_TIMEOUT);
    must(cairn_tx_write(tx, a, 0, bytes, 8));
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_TIMEOUT);
}

/* ---- running ---- */

#define THREADS 4
#define TURNS   40

static cairn_ptr accounts[3];

static int transfer(cairn_tx *tx, void *arg)
{
    unsigned *turn = arg;
    unsigned from = *turn % 3;
    unsigned to = (*turn + 1) % 3;
    uint64_t a;
    uint64_t b;
    int rv = cairn_tx_read(tx, accounts[from], 0, &a, sizeof a);
    if (rv == 0) {
        rv = cairn_tx_read(tx, accounts[to], 0, &b, sizeof b);
    }
    if (rv != 0) {
        return rv;
    }
    a--;
    b++;
    rv = cairn_tx_write(tx, accounts[from], 0, &a, sizeof a);
    return rv != 0 ? rv : cairn_tx_write(tx, accounts[to], 0, &b, sizeof b);
}

static void *transfers(void *arg)
{
    unsigned first = *(unsigned *)arg;
    for (unsigned i = 0; i < TURNS; i++) {
        unsigned turn = first + i;
        int rv = cairn_tx_run(heap, transfer, &turn);
        if (rv != 0) {
            print_error("%s: %s\n", cairn_error_name(rv), cairn_errormsg());
            return arg;
        }
    }
    return NULL;
}

static int total(cairn_tx *tx, void *arg)
{
    uint64_t *sum = arg;
    *sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t value;
        int rv = cairn_tx_read(tx, accounts[i], 0, &value, sizeof value);
        if (rv != 0) {
            return rv;
        }
        *sum += value;
    }
    return 0;
}

static void no_money_is_made_or_lost(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    unsigned firsts[THREADS];
    uint64_t sum;
    for (int i = 0; i < 3; i++) {
        accounts[i] = object(1000);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        firsts[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, transfers, &firsts[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        must(cairn_tx_run(heap, total, &sum));
        assert_int_equal(sum, 3000);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failed = NULL;
        (void)pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    must(cairn_tx_run(heap, total, &sum));
    assert_int_equal(sum, 3000);
}

static int gives_up(cairn_tx *tx, void *arg)
{
    (void)cairn_tx_write(tx, *(cairn_ptr *)arg, 0, "x", 1);
    return CAIRN_E_EXISTS;
}

static int conflicts(cairn_tx *tx, void *arg)
{
    int *runs = arg;
    (void)tx;
    (*runs)++;
    return CAIRN_E_CONFLICT;
}

static void running_ends_by_itself(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_tx_opts opts;
    int runs = 0;
    assert_int_equal(cairn_tx_run(heap, gives_up, &a), CAIRN_E_EXISTS);
    assert_int_equal(value_of(a), 1);
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.deadline_ms = 100;
    assert_int_equal(cairn_tx_run_opts(heap, &opts, conflicts, &runs), CAIRN_E_CONFLICT);
    assert_true(runs > 3);
}

static int allocates_and_conflicts(cairn_tx *tx, void *arg)
{
    int *left = arg;
    cairn_ptr ptr;
    int rv = cairn_tx_alloc(tx, 32, 0, &ptr);
    return rv != 0 ? rv : (*left)-- > 0 ? CAIRN_E_CONFLICT : 0;
}

/* Each try loses a pointer: the leases must come to an end all the same. */
static void pointers_of_lost_tries_go_back(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        int left = 50;
        must(cairn_tx_run(heap, allocates_and_conflicts, &left));
    }
}

static void commits_can_be_waited_for(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_future *f = NULL;
    uint64_t version = 0;
    cairn_tx *tx = start();
    set(tx, a, 2);
    must(cairn_tx_commit_async(tx, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    must(cairn_future_error(f));
    must(cairn_future_get_u64(f, &version));
    assert_true(version != 0);
    cairn_future_free(f);
    assert_int_equal(value_of(a), 2);
    tx = start();
    (void)get(tx, a);
    must(cairn_write(heap, a, 0, &(uint64_t){3}, 8));
    must(cairn_tx_commit_async(tx, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    assert_int_equal(cairn_future_error(f), CAIRN_E_CONFLICT);
    cairn_future_free(f);
    tx = start();
    must(cairn_tx_commit_async(tx, &f)); /* nothing to do */
    must(cairn_future_get_u64(f, &version));
    cairn_future_free(f);
}

/* ---- pointers ---- */

struct node {
    cairn_ptr next;
    uint64_t value;
};

static cairn_ptr node(uint64_t value, cairn_ptr next)
{
    struct node n = {next, value};
    cairn_ptr ptr;
    must(cairn_alloc_init(heap, sizeof n, 0, &n, sizeof n, &ptr));
    return ptr;
}

static cairn_ptr next_of(cairn_ptr ptr)
{
    cairn_ptr next;
    must(cairn_read(heap, ptr, 0, &next, sizeof next, NULL));
    return next;
}

static void pointers_change_in_one_step(void **state)
{
    (void)state;
    cairn_ptr x = node(1, CAIRN_NULL);
    cairn_ptr y = node(2, CAIRN_NULL);
    cairn_ptr a = node(0, x);
    cairn_ptr b = node(0, y);
    must(cairn_ptr_swap(heap, a, 0, b, 0));
    assert_true(cairn_ptr_equals(next_of(a), y) && cairn_ptr_equals(next_of(b), x));
    assert_int_equal(cairn_ptr_swap(heap, a, 0, a, 4), CAIRN_E_INVAL);
    must(cairn_ptr_swap(heap, a, 0, a, 0));
    assert_true(cairn_ptr_equals(next_of(a), y));
    must(cairn_compare_and_link(heap, a, 0, y, x));
    assert_true(cairn_ptr_equals(next_of(a), x));
    assert_int_equal(cairn_compare_and_link(heap, a, 0, y, b), CAIRN_E_CONFLICT);
    must(cairn_compare_and_link(heap, a, 0, x, CAIRN_NULL));
    cairn_ptr gone = node(9, CAIRN_NULL);
    must(cairn_free(heap, gone));
    assert_int_equal(cairn_compare_and_link(heap, a, 0, CAIRN_NULL, gone), CAIRN_E_STALE);
    assert_true(cairn_ptr_is_null(next_of(a)));
}

static void nodes_move_between_lists(void **state)
{
    (void)state;
    cairn_ptr second = node(2, CAIRN_NULL);
    cairn_ptr first = node(1, second);
    cairn_ptr a = node(0, first);
    cairn_ptr b = node(0, CAIRN_NULL);
    cairn_ptr moved;
    must(cairn_ptr_move(heap, a, 0, b, 0, 0, &moved));
    assert_true(cairn_ptr_equals(moved, first));
    assert_true(cairn_ptr_equals(next_of(a), second) && cairn_ptr_equals(next_of(b), first));
    must(cairn_ptr_move(heap, a, 0, b, 0, 0, NULL));
    assert_true(cairn_ptr_equals(next_of(b), second) && cairn_ptr_equals(next_of(second), first));
    assert_true(cairn_ptr_is_null(next_of(a)));
    assert_int_equal(cairn_ptr_move(heap, a, 0, b, 0, 0, &moved), CAIRN_E_NOTFOUND);
    must(cairn_ptr_move(heap, b, 0, b, 0, 0, &moved)); /* to where it was */
    assert_true(cairn_ptr_equals(next_of(b), second) && cairn_ptr_equals(next_of(second), first));
}

static void objects_are_born_linked(void **state)
{
    (void)state;
    cairn_ptr head = node(0, CAIRN_NULL);
    struct node n = {CAIRN_NULL, 5};
    cairn_ptr first;
    cairn_ptr second;
    must(cairn_alloc_into(heap, head, 0, sizeof n, 3, &n, sizeof n, UINT64_MAX, &first));
    assert_true(cairn_ptr_equals(next_of(head), first));
    assert_int_equal(
        cairn_alloc_into(heap, head, 0, sizeof n, 3, &n, sizeof n, UINT64_MAX, &second),
        CAIRN_E_CONFLICT);
    must(cairn_alloc_into(heap, head, 0, sizeof n, 3, &n, sizeof n, 0, &second));
    assert_true(cairn_ptr_equals(next_of(head), second));
    assert_true(cairn_ptr_equals(next_of(second), first));
    must(cairn_read(heap, second, 0, &n, sizeof n, NULL));
    assert_int_equal(n.value, 5);
}

/* ---- ids, and going on elsewhere ---- */

static void ids_are_text_and_back(void **state)
{
    (void)state;
    cairn_tx_id id = {{1, UINT64_MAX, 0x0123456789abcdefu, 42}};
    cairn_tx_id back;
    char text[CAIRN_TX_ID_TEXT_BYTES];
    cairn_tx_id_format(&id, text, sizeof text);
    assert_int_equal(strlen(text), 67);
    must(cairn_tx_id_parse(text, &back));
    assert_memory_equal(&back, &id, sizeof id);
    assert_int_equal(cairn_tx_id_parse("1.2.3.4", &back), CAIRN_E_INVAL);
    assert_int_equal(cairn_tx_id_parse(NULL, &back), CAIRN_E_INVAL);
    text[20] = 'x';
    assert_int_equal(cairn_tx_id_parse(text, &back), CAIRN_E_INVAL);
}

static uint32_t outcome(const cairn_tx_id *id, uint64_t *version)
{
    uint32_t tx_state = 99;
    must(cairn_tx_outcome(client, id, &tx_state, version));
    return tx_state;
}

static void what_became_of_a_commit_can_be_asked(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_tx_id id;
    cairn_tx_id again;
    uint64_t version = 0;
    uint64_t found = 0;
    uint32_t tx_state;
    cairn_tx *tx = start();
    if (!on_cluster()) {
        assert_int_equal(cairn_tx_id_of(tx, &id), CAIRN_E_UNSUPPORTED);
        assert_int_equal(cairn_tx_outcome(client, &id, &tx_state, &found), CAIRN_E_UNSUPPORTED);
        cairn_tx_abort(tx);
        return;
    }
    set(tx, a, 2);
    must(cairn_tx_id_of(tx, &id));
    set(tx, b, 2); /* its home stays what it was */
    must(cairn_tx_id_of(tx, &again));
    assert_memory_equal(&again, &id, sizeof id);
    must(cairn_tx_commit(tx, &version));
    assert_int_equal(value_of(a) + value_of(b), 4);
    assert_int_equal(outcome(&id, &found), CAIRN_TX_COMMITTED);
    assert_int_equal(found, version);
    tx = start(); /* its home has no part of its own */
    must(cairn_tx_id_of(tx, &id));
    set(tx, a, 3);
    set(tx, b, 3);
    must(cairn_tx_commit(tx, NULL));
    assert_int_equal(value_of(a) + value_of(b), 6);
    tx = start(); /* who asks first makes sure that it never will be */
    set(tx, a, 4);
    set(tx, b, 4);
    must(cairn_tx_id_of(tx, &id));
    assert_int_equal(outcome(&id, &found), CAIRN_TX_ABORTED);
    assert_int_equal(cairn_tx_commit(tx, NULL), CAIRN_E_TX_ABORTED);
    assert_int_equal(value_of(a) + value_of(b), 6);
    tx = start();
    set(tx, a, 5);
    must(cairn_tx_id_of(tx, &id));
    cairn_tx_abort(tx);
    assert_int_not_equal(outcome(&id, &found), CAIRN_TX_COMMITTED);
    id.words[1]++; /* nobody's session */
    assert_int_equal(outcome(&id, &found), CAIRN_TX_UNKNOWN);
}

static void it_goes_on_where_it_was_saved(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_ptr b = object(1);
    cairn_ptr c = object(1);
    cairn_ptr found;
    uint64_t one = 1;
    char *text = NULL;
    size_t len = 0;
    cairn_tx *tx = start();
    cairn_tx *other = NULL;
    assert_int_equal(get(tx, a), 1);
    set(tx, b, 2);
    must(cairn_tx_write(tx, b, 16, "later", 5));
    must(cairn_tx_compare(tx, c, 0, &one, sizeof one));
    must(cairn_tx_root_set(tx, "saved", b));
    assert_int_equal(cairn_tx_root_get(tx, "none", &found), CAIRN_E_NOTFOUND);
    must(cairn_tx_save(tx, &text, &len));
    assert_int_equal(strlen(text), len);
    cairn_tx_abort(tx);
    must(cairn_tx_load(heap, text, len, &tx));
    must(cairn_tx_load(heap, text, len, &other));
    assert_int_equal(get(tx, b), 2);
    must(cairn_tx_commit(tx, NULL));
    assert_int_equal(value_of(b), 2);
    must(cairn_root_get(heap, "saved", &found));
    assert_true(cairn_ptr_equals(found, b));
    must(cairn_write(heap, a, 0, &(uint64_t){9}, sizeof one));
    assert_int_equal(cairn_tx_commit(other, NULL), CAIRN_E_CONFLICT); /* the read of a counts */
    for (size_t cut = 0; cut < len; cut += 2) { /* nothing that is damaged is taken */
        assert_int_equal(cairn_tx_load(heap, text, cut, &tx), CAIRN_E_INVAL);
    }
    text[1] = 'x';
    assert_int_equal(cairn_tx_load(heap, text, len, &tx), CAIRN_E_INVAL);
    cairn_json_free(text);
    tx = start();
    must(cairn_tx_alloc(tx, 8, 0, &found));
    assert_int_equal(cairn_tx_save(tx, &text, &len), CAIRN_E_UNSUPPORTED);
    cairn_tx_abort(tx);
}

static void one_can_read_as_of_a_version(void **state)
{
    (void)state;
    must(cairn_heap_set_retention(heap, 60000));
    cairn_ptr a = object(1);
    cairn_object before;
    cairn_tx_opts opts;
    cairn_tx *tx = NULL;
    uint64_t one = 1;
    uint64_t two = 2;
    /* A root, the object, the root again: on shards of their own, so with time in between. */
    cairn_ptr b = object(7);
    cairn_ptr was;
    must(cairn_root_set(heap, "past", a));
    (void)usleep(20000);
    must(cairn_write(heap, a, 0, &one, sizeof one));
    must(cairn_stat(heap, a, &before));
    (void)usleep(20000);
    must(cairn_root_set(heap, "past", b));
    must(cairn_write(heap, a, 0, &two, sizeof two));
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.read_at = before.version;
    must(cairn_tx_begin(heap, &opts, &tx));
    assert_int_equal(get(tx, a), 1);
    must(cairn_tx_root_get(tx, "past", &was));
    assert_true(cairn_ptr_equals(was, a));
    assert_int_equal(cairn_tx_write(tx, a, 0, &two, sizeof two), CAIRN_E_INVAL);
    assert_int_equal(cairn_tx_root_get(tx, "not yet there", &a), CAIRN_E_NOTFOUND);
    must(cairn_tx_commit(tx, NULL));
}

static void what_is_too_old_says_what_there_is(void **state)
{
    (void)state;
    cairn_ptr a = object(1);
    cairn_object before;
    cairn_tx_opts opts;
    cairn_tx *tx = NULL;
    uint64_t value;
    must(cairn_stat(heap, a, &before));
    put(a, 2);
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.read_at = before.version;
    must(cairn_tx_begin(heap, &opts, &tx));
    assert_int_equal(cairn_tx_read(tx, a, 0, &value, sizeof value), CAIRN_E_SNAPSHOT_TOO_OLD);
    const char *oldest = strstr(cairn_errormsg(), "the oldest that can be read of this shard is ");
    assert_non_null(oldest);
    assert_non_null(strstr(oldest, "keeps no history"));
    opts.read_at = strtoull(oldest + strcspn(oldest, "0123456789"), NULL, 10);
    cairn_tx_abort(tx);
    assert_true(opts.read_at > before.version);
    must(cairn_tx_begin(heap, &opts, &tx));
    assert_int_equal(get(tx, a), 2);
    must(cairn_tx_commit(tx, NULL));
}

static void two_heaps_change_together(void **state)
{
    (void)state;
    cairn_tx *part = NULL;
    cairn_heap *second = NULL;
    cairn_heap_opts opts;
    char name[32];
    cairn_tx *tx = start();
    if (!on_cluster()) {
        assert_int_equal(cairn_tx_join(tx, heap, &part), CAIRN_E_UNSUPPORTED);
        cairn_tx_abort(tx);
        return;
    }
    (void)snprintf(name, sizeof name, "second-%ld", (long)getpid());
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.shards = 1;
    opts.bytes_max = 16u << 20;
    must(cairn_heap_create(client, name, &opts));
    must(cairn_heap_open(client, name, &second));
    cairn_ptr a = object(1);
    cairn_ptr b;
    uint64_t value = 1;
    must(cairn_alloc_init(second, 8, 0, &value, sizeof value, &b));
    must(cairn_tx_join(tx, second, &part));
    set(tx, a, get(part, b) + 1);
    set(part, b, 7);
    must(cairn_tx_commit(tx, NULL));
    assert_int_equal(value_of(a), 2);
    must(cairn_read(second, b, 0, &value, sizeof value, NULL));
    assert_int_equal(value, 7);
    cairn_heap_close(second);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        mode = argv[1];
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_of_it_happens_at_one_version, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(it_reads_what_it_has_written, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(roots_are_seen_as_the_transaction_leaves_them,
                                        fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(an_aborted_one_leaves_nothing_and_its_pointers_go_stale,
                                        fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(who_comes_second_gets_a_conflict, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(absence_is_something_that_was_read, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(a_range_beyond_the_end_is_a_size_that_was_read,
                                        fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(compares_hold_at_the_commit, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(one_that_only_read_is_asked_about_in_the_end, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(read_committed_validates_compares_alone, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(what_cannot_be_done_undoes_all_of_it, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(limits_are_told_by_the_call_that_meets_them, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(no_money_is_made_or_lost, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(running_ends_by_itself, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(pointers_of_lost_tries_go_back, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(commits_can_be_waited_for, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(pointers_change_in_one_step, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(nodes_move_between_lists, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(objects_are_born_linked, fixture_begin, fixture_end),
        cmocka_unit_test(ids_are_text_and_back),
        cmocka_unit_test_setup_teardown(what_became_of_a_commit_can_be_asked, fixture_begin,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(it_goes_on_where_it_was_saved, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(one_can_read_as_of_a_version, fixture_begin, fixture_end),
        cmocka_unit_test_setup_teardown(what_is_too_old_says_what_there_is, fixture_fresh,
                                        fixture_end),
        cmocka_unit_test_setup_teardown(two_heaps_change_together, fixture_begin, fixture_end),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_over);
}
