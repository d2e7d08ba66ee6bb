/* Pointers that were promised to a transaction which comes to nothing: their slots go back, so that
 * they are stale (and not "not yet") from then on. Through the public header, in a directory or on
 * a cluster. */
#include <pthread.h>
#include <unistd.h>

#include "unit/embed/fixture.h"

static cairn_tx *start(void)
{
    cairn_tx *tx = NULL;
    must(cairn_tx_begin(heap, NULL, &tx));
    return tx;
}

static int look(cairn_heap *h, cairn_ptr ptr)
{
    uint64_t value;
    return cairn_read(h, ptr, 0, &value, sizeof value, NULL);
}

/* In the background, but soon. */
static void goes_back(cairn_heap *h, cairn_ptr ptr)
{
    int rv = look(h, ptr);
    for (int i = 0; i < 500 && rv == CAIRN_E_NOT_YET; i++) {
        (void)usleep(10000);
        rv = look(h, ptr);
    }
    assert_int_equal(rv, CAIRN_E_STALE);
}

/* A transaction that allocates and can't be committed, over one shard or over two. */
static cairn_tx *doomed(cairn_ptr seen, cairn_ptr ptrs[2])
{
    cairn_tx *tx = start();
    (void)get(tx, seen);
    must(cairn_tx_alloc_near(tx, seen, 64, 0, &ptrs[0]));
    must(cairn_tx_alloc(tx, 64, 0, &ptrs[1]));
    set(tx, ptrs[0], 7);
    put(seen, value_of(seen) + 1);
    return tx;
}

static void of_a_commit_that_fails(void **state)
{
    (void)state;
    cairn_ptr seen = object(1);
    for (int i = 0; i < 4; i++) { /* cairn_tx_alloc() goes from shard to shard */
        cairn_ptr ptrs[2];
        assert_int_equal(cairn_tx_commit(doomed(seen, ptrs), NULL), CAIRN_E_CONFLICT);
        goes_back(heap, ptrs[0]);
        goes_back(heap, ptrs[1]);
    }
}

static void of_a_commit_that_fails_without_being_waited_for(void **state)
{
    (void)state;
    cairn_ptr seen = object(1);
    for (int i = 0; i < 4; i++) {
        cairn_ptr ptrs[2];
        cairn_future *f = NULL;
        must(cairn_tx_commit_async(doomed(seen, ptrs), &f));
        must(cairn_future_wait(f, UINT32_MAX));
        assert_int_equal(cairn_future_error(f), CAIRN_E_CONFLICT);
        cairn_future_free(f);
        goes_back(heap, ptrs[0]);
        goes_back(heap, ptrs[1]);
    }
}

static void of_a_commit_whose_future_is_freed_before(void **state)
{
    (void)state;
    cairn_ptr seen = object(1);
    for (int i = 0; i < 4; i++) {
        cairn_ptr ptrs[2];
        cairn_future *f = NULL;
        must(cairn_tx_commit_async(doomed(seen, ptrs), &f));
        cairn_future_free(f);
        goes_back(heap, ptrs[0]);
        goes_back(heap, ptrs[1]);
    }
}

/* The heap's handle is closed at once, too. */
static void of_a_commit_that_outlives_its_heap(void **state)
{
    (void)state;
    cairn_heap *mine = heap;
    cairn_heap *other = NULL;
    cairn_ptr ptrs[2];
    cairn_future *f = NULL;
    heap_new(1, &other);
    heap = other;
    must(cairn_tx_commit_async(doomed(object(1), ptrs), &f));
    cairn_future_free(f);
    cairn_heap_close(other);
    heap = mine;
}

static void freed_by_the_transaction_itself(void **state)
{
    (void)state;
    for (int async = 0; async < 2; async++) {
        cairn_ptr kept;
        cairn_ptr freed;
        cairn_future *f = NULL;
        cairn_tx *tx = start();
        must(cairn_tx_alloc(tx, 64, 0, &kept));
        must(cairn_tx_alloc(tx, 64, 0, &freed));
        must(cairn_tx_free(tx, freed));
        set(tx, kept, 3);
        if (async) {
            must(cairn_tx_commit_async(tx, &f));
            must(cairn_future_wait(f, UINT32_MAX));
            must(cairn_future_error(f));
            cairn_future_free(f);
        } else {
            must(cairn_tx_commit(tx, NULL));
        }
        goes_back(heap, freed);
        assert_int_equal(value_of(kept), 3);
    }
}

/* What the handle still has, and what the program has forgotten, ends with the client: another one
 * finds it stale. */
static cairn_tx *forgotten; /* reachable: it is the program's leak, not the library's */

static void of_one_that_is_neither_committed_nor_aborted(void **state)
{
    (void)state;
    cairn_client *other = NULL;
    cairn_heap *theirs = NULL;
    cairn_ptr ptr;
    if (!on_cluster()) {
        skip(); /* the directory is open once */
    }
    must(open_client(&other));
    must(cairn_heap_open(other, heap_name(), &theirs));
    must(cairn_tx_begin(theirs, NULL, &forgotten));
    must(cairn_tx_alloc(forgotten, 64, 0, &ptr));
    assert_int_equal(look(heap, ptr), CAIRN_E_NOT_YET);
    cairn_heap_close(theirs);
    cairn_client_free(other);
    goes_back(heap, ptr);
}

static void of_one_that_is_aborted_and_what_nobody_has_taken(void **state)
{
    (void)state;
    static cairn_ptr taken[1000]; /* many leases */
    cairn_tx *tx = start();
    for (uint32_t i = 0; i < 1000; i++) {
        must(cairn_tx_alloc(tx, 64, 0, &taken[i]));
    }
    assert_int_equal(look(heap, taken[0]), CAIRN_E_NOT_YET);
    cairn_tx_abort(tx);
    for (uint32_t i = 0; i < 1000; i++) {
        goes_back(heap, taken[i]);
    }
}

/* ---- many threads, one pool ---- */

#define THREADS 4u
#define EACH    100u
#define ROUNDS  8u

static void *allocate(void *arg)
{
    cairn_ptr *ptrs = arg;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        cairn_tx *tx = start();
        for (uint32_t i = 0; i < EACH; i++) {
            cairn_ptr *ptr = &ptrs[round * EACH + i];
            must(cairn_tx_alloc(tx, 64, 0, ptr));
            set(tx, *ptr, ptr->word);
        }
        must(cairn_tx_commit(tx, NULL));
    }
    return NULL;
}

/* Twice, and one of the commits would find its pointer stale; or its object has two owners. */
static void are_given_once(void **state)
{
    (void)state;
    static cairn_ptr ptrs[THREADS][ROUNDS * EACH];
    pthread_t threads[THREADS];
    for (uint32_t t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_create(&threads[t], NULL, allocate, ptrs[t]), 0);
    }
    for (uint32_t t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
    }
    for (uint32_t t = 0; t < THREADS; t++) {
        for (uint32_t i = 0; i < ROUNDS * EACH; i++) {
            assert_int_equal(value_of(ptrs[t][i]), ptrs[t][i].word);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        mode = argv[1];
    }
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_begin, fixture_end)
    const struct CMUnitTest tests[] = {
        TEST(of_a_commit_that_fails),
        TEST(of_a_commit_that_fails_without_being_waited_for),
        TEST(of_a_commit_whose_future_is_freed_before),
        TEST(of_a_commit_that_outlives_its_heap),
        TEST(freed_by_the_transaction_itself),
        TEST(of_one_that_is_neither_committed_nor_aborted),
        TEST(of_one_that_is_aborted_and_what_nobody_has_taken),
        TEST(are_given_once),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_over);
}
