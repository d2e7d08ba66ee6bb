#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/mem.h"
#include "replica/block.h"

static void what_was_given_back_last_is_given_out_first(void **state)
{
    (void)state;
    struct block_pool *pool = block_pool_new();
    assert_non_null(pool);
    struct entry_block *a = block_new(pool, 300);
    struct entry_block *b = block_new(pool, 100);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->capacity, b->capacity);
    assert_true(a->capacity >= 300);
    wal_block_ref(&a->block);
    wal_block_unref(&a->block);
    wal_block_unref(&a->block);
    wal_block_unref(&b->block);
    assert_ptr_equal(block_new(pool, 200), b);
    assert_int_equal(b->block.refs, 1);
    struct entry_block *other = block_new(pool, a->capacity + 1);
    assert_ptr_not_equal(other, a);
    assert_true(other->capacity > a->capacity);
    assert_ptr_equal(block_new(pool, 1), a);
    wal_block_unref(&a->block);
    wal_block_unref(&b->block);
    wal_block_unref(&other->block);
    block_pool_close(pool);
}

/* Large ones, and more than a few, go back to the system; so does what outlives the pool. Leaks and
 * uses after that are the sanitizer's to find. */
static void it_keeps_a_few_and_may_be_outlived(void **state)
{
    (void)state;
    enum { MANY = 200 };
    struct entry_block *all[MANY];
    struct block_pool *pool = block_pool_new();
    assert_non_null(pool);
    for (uint32_t i = 0; i < MANY; i++) {
        size_t bytes = (size_t)1 << i % 21;
        all[i] = block_new(pool, bytes);
        assert_non_null(all[i]);
        assert_true(all[i]->capacity >= bytes);
        memset(all[i]->data, 0xa5, all[i]->capacity);
    }
    for (uint32_t i = 0; i < MANY; i += 2) {
        wal_block_unref(&all[i]->block);
    }
    block_pool_close(pool);
    for (uint32_t i = 1; i < MANY; i += 2) {
        wal_block_unref(&all[i]->block);
    }
    block_pool_close(NULL);
}

static void memory_that_is_out_is_told(void **state)
{
    (void)state;
    struct block_pool *pool = block_pool_new();
    struct entry_block *a = block_new(pool, 10);
    wal_block_unref(&a->block);
    mem_fault(0, 1);
    assert_null(block_new(pool, 10)); /* what is kept doesn't hide a fault */
    mem_fault(0, 0);
    a = block_new(pool, 10);
    assert_non_null(a);
    wal_block_unref(&a->block);
    block_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_given_back_last_is_given_out_first),
        cmocka_unit_test(it_keeps_a_few_and_may_be_outlived),
        cmocka_unit_test(memory_that_is_out_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
