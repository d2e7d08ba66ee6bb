/* Random commands against a model: contents, counters, structure; and what must never make a
 * difference to the bytes: reopening, views, checkpoints, the digest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "heap_model.h"

static struct heap *heap_new(uint64_t bytes_max)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .shard = 5, .bytes_max = bytes_max};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static uint64_t run(uint64_t seed, uint64_t bytes_max, uint64_t size_max, int steps, int every)
{
    struct model *m = malloc(sizeof *m);
    assert_non_null(m);
    model_open(m, seed);
    struct heap *heap = heap_new(bytes_max);
    for (int i = 0; i < steps; i++) {
        model_step(m, &heap, 1, size_max);
        if (i % every == 0) {
            model_check(m, heap);
        }
    }
    model_check(m, heap);
    heap_free(heap);
    uint64_t nospace = m->nospace;
    model_close(m);
    free(m);
    return nospace;
}

static void contents_and_structure_match_a_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        (void)run(seed, (uint64_t)32 << 20, 30000, 4000, 200);
    }
    (void)run(77, (uint64_t)256 << 20, 8 << 20, 1500, 150);
}

static void a_full_heap_refuses_and_stays_sound(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 106; seed++) {
        assert_true(run(seed, (uint64_t)1 << 20, 60000, 4000, 100) > 100);
        (void)run(seed, (uint64_t)3 << 20, 90000, 6000, 300);
    }
}

/* One copy is reopened at random moments, the other never; views come and go on it, and digests are
 * asked for. */
static void reopening_makes_no_difference(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct model *m = malloc(sizeof *m);
        assert_non_null(m);
        model_open(m, seed * 1000);
        uint64_t bytes_max = seed % 2 == 0 ? (uint64_t)2 << 20 : (uint64_t)64 << 20;
        struct heap *heaps[2] = {heap_new(bytes_max), heap_new(bytes_max)};
        struct model dice;
        dice.seed = seed;
        struct view *held = NULL;
        for (int i = 0; i < 4000; i++) {
            model_step(m, heaps, 2, seed % 3 == 0 ? 200000 : 5000);
            switch (model_random(&dice) % 100) {
            case 0: {
                if (held != NULL) {
                    view_close(held);
                    held = NULL;
                }
                struct heap *copy = model_copy(heaps[0]);
                heap_free(heaps[0]);
                heaps[0] = copy;
                break;
            }
            case 1:
                if (held == NULL) {
                    assert_int_equal(view_open(heaps[0], &held), 0);
                }
                break;
            case 2:
                (void)heap_digest(heaps[0]);
                break;
            case 3:
                if (held != NULL) {
                    view_close(held);
                    held = NULL;
                }
                break;
            default:
                break;
            }
        }
        if (held != NULL) {
            view_close(held);
        }
        model_check(m, heaps[0]);
        model_check(m, heaps[1]);
        model_equal(heaps[0], heaps[1]);
        heap_free(heaps[0]);
        heap_free(heaps[1]);
        model_close(m);
        free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contents_and_structure_match_a_model),
        cmocka_unit_test(a_full_heap_refuses_and_stays_sound),
        cmocka_unit_test(reopening_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
