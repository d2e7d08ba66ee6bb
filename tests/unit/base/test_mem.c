#include "tests/support/test.h"

#include "base/mem.h"

static void memory_is_usable_and_zeroed_where_promised(void **state)
{
    (void)state;
    uint8_t *a = mem_alloc(100);
    assert_non_null(a);
    memset(a, 1, 100);
    uint8_t *z = mem_zalloc(100);
    assert_non_null(z);
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(z[i], 0);
    }
    a = mem_realloc(a, 10000);
    assert_non_null(a);
    assert_int_equal(a[99], 1);
    mem_free(a);
    mem_free(z);
    mem_free(NULL);
}

static void aligned_memory_is_aligned(void **state)
{
    (void)state;
    for (size_t alignment = sizeof(void *); alignment <= 65536; alignment *= 2) {
        void *block = mem_aligned(alignment, 10);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % alignment, 0);
        mem_free(block);
    }
}

static void strdup_copies(void **state)
{
    (void)state;
    char text[] = "cairn";
    char *copy = mem_strdup(text);
    text[0] = 'x';
    assert_string_equal(copy, "cairn");
    mem_free(copy);
}

static void chosen_allocations_fail(void **state)
{
    (void)state;
    mem_fault(2, 2);
    bool failed[6];
    for (int i = 0; i < 6; i++) {
        void *block = mem_alloc(8);
        failed[i] = block == NULL;
        mem_free(block);
    }
    assert_int_equal(mem_fault_hits(), 2);
    mem_fault(0, 0);
    assert_false(failed[0] || failed[1] || failed[4] || failed[5]);
    assert_true(failed[2] && failed[3]);
    assert_int_equal(mem_fault_hits(), 2); /* switching off keeps the number */
}

static void what_is_held_neither_fails_nor_counts(void **state)
{
    (void)state;
    mem_fault(1, 1);
    assert_false(mem_fault_hold(true));
    for (int i = 0; i < 4; i++) {
        void *block = mem_alloc(8);
        assert_non_null(block);
        mem_free(block);
    }
    assert_true(mem_fault_hold(false));
    void *first = mem_alloc(8);
    assert_non_null(first);
    assert_null(mem_alloc(8));
    mem_free(first);
    mem_fault(0, 0);
}

static void every_function_can_fail(void **state)
{
    (void)state;
    void *block = mem_alloc(8);
    mem_fault(0, -1);
    bool all = mem_alloc(8) == NULL && mem_zalloc(8) == NULL && mem_aligned(64, 64) == NULL &&
               mem_strdup("x") == NULL && mem_realloc(block, 1000) == NULL;
    long hits = mem_fault_hits();
    mem_fault(0, 0);
    assert_true(all);
    assert_int_equal(hits, 5);
    memset(block, 7, 8); /* still ours */
    mem_free(block);
}

/* From and to any place in a line, and nothing around it. */
static void what_is_streamed_is_copied(void **state)
{
    (void)state;
    enum { ROOM = 512, MARGIN = 64 };
    uint8_t from[ROOM + MARGIN];
    uint8_t to[ROOM + 2 * MARGIN];
    for (size_t i = 0; i < sizeof from; i++) {
        from[i] = (uint8_t)(i * 7 + 1);
    }
    for (size_t at = 0; at < MARGIN; at += 3) {
        for (size_t bytes = 0; bytes <= ROOM; bytes += bytes < 140 ? 1 : 93) {
            for (int zeros = 0; zeros < 2; zeros++) {
                const uint8_t *source = zeros ? NULL : from + bytes % MARGIN;
                memset(to, 0xee, sizeof to);
                lines_stream(to + at, source, bytes);
                lines_settle();
                for (size_t i = 0; i < sizeof to; i++) {
                    bool inside = i >= at && i < at + bytes;
                    assert_int_equal(to[i], !inside ? 0xee : zeros ? 0 : source[i - at]);
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_streamed_is_copied),
        cmocka_unit_test(memory_is_usable_and_zeroed_where_promised),
        cmocka_unit_test(aligned_memory_is_aligned),
        cmocka_unit_test(strdup_copies),
        cmocka_unit_test(chosen_allocations_fail),
        cmocka_unit_test(what_is_held_neither_fails_nor_counts),
        cmocka_unit_test(every_function_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
