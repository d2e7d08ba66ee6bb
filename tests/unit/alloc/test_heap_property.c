/* Random commands against a model: contents, older versions, counters, structure; and what must
 * never make a difference to the bytes: reopening, views, checkpoints, the digest.
 *
 *   test_heap_property [--steps N] [--seed S]    N steps in all (default 250000), other seeds
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "heap_model.h"

static uint64_t all_steps = 250000;
static uint64_t first_seed = 1;

static struct heap *heap_new(uint64_t bytes_max, uint64_t seed)
{
    struct heap_opts opts = {.uid = 7,
                             .heap_id = 3,
                             .shard = 5,
                             .bytes_max = bytes_max,
                             .granule_shift = seed % 5 == 4 ? 12 : 0,
                             .retention_ms = seed % 2 == 0 ? 0 : 50};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static struct model *model_new(uint64_t seed)
{
    struct model *m = malloc(sizeof *m);
    assert_non_null(m);
    model_open(m, seed);
    m->retention_ms = seed % 2 == 0 ? 0 : 50; /* as heap_new() */
    return m;
}

static uint64_t run(uint64_t seed, uint64_t bytes_max, uint64_t size_max, uint64_t steps,
                    uint64_t every)
{
    struct model *m = model_new(seed);
    struct heap *heap = heap_new(bytes_max, seed);
    for (uint64_t i = 0; i < steps; i++) {
        model_step(m, &heap, 1, size_max);
        if (i % every == 0) {
            model_check(m, heap);
        }
    }
    model_check(m, heap);
    heap_free(heap);
    uint64_t nospace = m->nospace;
    print_message("seed %llu: %llu steps, %llu without space, %llu bytes moved, %llu older reads\n",
                  (unsigned long long)seed, (unsigned long long)steps, (unsigned long long)nospace,
                  (unsigned long long)m->defrag_moved, (unsigned long long)m->past_reads);
    model_close(m);
    free(m);
    return nospace;
}

static void contents_and_structure_match_a_model(void **state)
{
    (void)state;
    uint64_t steps = all_steps / 25;
    for (uint64_t i = 0; i < 8; i++) {
        (void)run(first_seed + i, (uint64_t)32 << 20, i % 2 == 0 ? 3000 : 30000, steps, 500);
    }
    for (uint64_t i = 0; i < 2; i++) {
        (void)run(first_seed + 77 + i, (uint64_t)256 << 20, 8 << 20, steps / 4, 300);
    }
}

static void a_full_heap_refuses_and_stays_sound(void **state)
{
    (void)state;
    uint64_t steps = all_steps / 40;
    for (uint64_t i = 0; i < 6; i++) {
        assert_true(run(first_seed + 100 + i, (uint64_t)1 << 20, 60000, steps, 300) > 100);
        (void)run(first_seed + 100 + i, (uint64_t)3 << 20, 90000, steps, 500);
    }
}

/* Things that happen on one replica and not on another. */
static void disturb(struct model *dice, struct heap **heap, struct view **held)
{
    switch (model_random(dice) % 200) {
    case 0: {
        if (*held != NULL) {
            view_close(*held);
            *held = NULL;
        }
        struct heap *copy = model_copy(*heap);
        heap_free(*heap);
        *heap = copy;
        break;
    }
    case 1:
        if (*held == NULL) {
            assert_int_equal(view_open(*heap, held), 0);
        }
        break;
    case 2:
        (void)heap_digest(*heap);
        break;
    case 3:
        if (*held != NULL) {
            view_close(*held);
            *held = NULL;
        }
        break;
    default:
        break;
    }
}

static void reopening_makes_no_difference(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + 8; seed++) {
        struct model *m = model_new(seed * 1000 + seed % 2);
        uint64_t bytes_max = seed % 4 == 0 ? (uint64_t)2 << 20 : (uint64_t)64 << 20;
        struct heap *heaps[2] = {heap_new(bytes_max, m->seed), heap_new(bytes_max, m->seed)};
        struct model dice = {.seed = seed};
        struct view *held = NULL;
        for (uint64_t i = 0; i < all_steps / 25; i++) {
            model_step(m, heaps, 2, seed % 3 == 0 ? 200000 : 5000);
            disturb(&dice, &heaps[0], &held);
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

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--steps") == 0) {
            all_steps = strtoull(argv[i + 1], NULL, 10);
        } else if (strcmp(argv[i], "--seed") == 0) {
            first_seed = strtoull(argv[i + 1], NULL, 10);
        }
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contents_and_structure_match_a_model),
        cmocka_unit_test(a_full_heap_refuses_and_stays_sound),
        cmocka_unit_test(reopening_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
