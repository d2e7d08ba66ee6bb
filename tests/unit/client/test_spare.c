/* Memory of futures that were freed: it serves the next ones, of any thread, each once. */
#include <pthread.h>
#include <string.h>

#include "support/test.h"

#include "base/mem.h"
#include "client/sdk.h"

static void freed_memory_serves_the_next_future(void **state)
{
    (void)state;
    struct cairn_future *first = sdk__future_memory();
    assert_non_null(first);
    sdk__future_forget(first);
    struct cairn_future *again = sdk__future_memory();
    assert_ptr_equal(again, first);
    sdk__future_forget(again);
    sdk__future_spares_free();
}

static void a_fault_is_met_whatever_was_freed(void **state)
{
    (void)state;
    sdk__future_forget(sdk__future_memory());
    mem_fault(0, 1);
    struct cairn_future *none = sdk__future_memory();
    mem_fault(0, 0);
    assert_null(none);
    sdk__future_spares_free();
}

#define THREADS 4u
#define ROUNDS  20000u
#define HELD    16u

/* What it holds stays as it has left it. */
static void *hold_and_forget(void *arg)
{
    struct cairn_future *held[HELD] = {NULL};
    uintptr_t wrong = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct cairn_future **at = &held[i * 7 % HELD];
        if (*at != NULL) {
            wrong += (*at)->arg != arg;
            sdk__future_forget(*at);
        }
        *at = sdk__future_memory();
        if (*at == NULL) {
            return (void *)1;
        }
        memset(*at, 0, sizeof **at);
        (*at)->arg = arg;
    }
    for (uint32_t i = 0; i < HELD; i++) {
        wrong += held[i]->arg != arg;
        sdk__future_forget(held[i]);
    }
    return (void *)wrong;
}

static void threads_never_get_the_same_memory(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    uint32_t names[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, hold_and_forget, &names[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
    }
    sdk__future_spares_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(freed_memory_serves_the_next_future),
        cmocka_unit_test(a_fault_is_met_whatever_was_freed),
        cmocka_unit_test(threads_never_get_the_same_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
