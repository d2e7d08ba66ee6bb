/* Numbers that need a walk over the whole heap must be the ones that the heap keeps, taken apart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/survey.h"
#include "base/mem.h"
#include "heap_driver.h"

static void types_add_up(void **state)
{
    (void)state;
    struct driver *d = malloc(sizeof *d);
    struct survey *s = malloc(sizeof *s);
    assert_non_null(d);
    assert_non_null(s);
    for (uint64_t seed = 1; seed <= 12; seed++) {
        /* No history: then every block of objects is a live one's or a spare. */
        driver_open(d, seed, 16 << 20, seed % 2 == 0 ? 0 : 12, 0, seed % 3 == 0 ? 3 << 20 : 5000);
        for (int i = 0; i < 500; i++) {
            driver_step(d);
        }
        const struct heap_header *hd = header(d->heap);
        if (hd->dead_count > 0) {
            driver_close(d);
            continue;
        }
        assert_int_equal(survey_types(d->heap, s), 0);
        assert_int_equal(s->objects, hd->object_count);
        assert_int_equal(s->object_bytes, hd->object_bytes);
        uint64_t count = 0;
        uint64_t bytes = 0;
        uint64_t blocks = 0;
        for (uint32_t i = 0; i < s->type_count; i++) {
            count += s->types[i].count;
            bytes += s->types[i].bytes;
            blocks += s->types[i].block_bytes;
            assert_true(i == 0 || s->types[i].bytes <= s->types[i - 1].bytes);
            assert_true(s->types[i].block_bytes > s->types[i].bytes);
        }
        assert_int_equal(count, hd->object_count);
        assert_int_equal(bytes, hd->object_bytes);
        uint64_t spare_bytes = 0;
        for (uint32_t class_number = 0; class_number < SPARE_CLASSES; class_number++) {
            spare_bytes += spares_of(d->heap, class_number)->count * class_bytes(class_number);
        }
        assert_int_equal(blocks + spare_bytes, hd->block_bytes[POOL_OBJECTS]);
        assert_true(s->slack_bytes < blocks - bytes);
        driver_close(d);
    }
    free(s);
    free(d);
}

/* More types than there is room for. */
static void many_types_end_in_one(void **state)
{
    (void)state;
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .bytes_max = 4 << 20};
    struct heap *heap = NULL;
    struct survey *s = malloc(sizeof *s);
    assert_non_null(s);
    assert_int_equal(heap_create(&opts, &heap), 0);
    heap_begin(heap, 1, 1, 1);
    for (uint32_t i = 0; i < SURVEY_TYPES_MAX + 100; i++) {
        uint64_t ptr = 0;
        assert_int_equal(heap_alloc(heap, heap_next_version(heap), 2000 - i, i * 3 % 1531,
                                    slice_of(NULL, 0), &ptr),
                         0);
    }
    heap_end(heap);
    assert_int_equal(survey_types(heap, s), 0);
    assert_int_equal(s->type_count, SURVEY_TYPES_MAX);
    assert_int_equal(s->types[0].type, 0);
    assert_int_equal(s->types[SURVEY_TYPES_MAX - 1].count, 101);
    for (long n = 0;; n++) {
        mem_fault(n, 1);
        int rv = survey_types(heap, s);
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        assert_int_equal(rv, hits > 0 ? ERR_NOMEM : 0);
        if (hits == 0) {
            break;
        }
    }
    heap_free(heap);
    free(s);
}

static void the_map_shows_what_is_used(void **state)
{
    (void)state;
    struct driver *d = malloc(sizeof *d);
    struct survey_cell cells[300];
    assert_non_null(d);
    driver_open(d, 3, 8 << 20, 0, 100, 30000);
    assert_int_equal(survey_map(d->heap, cells, 0), 0);
    for (int i = 0; i < 400; i++) {
        driver_step(d);
    }
    uint64_t used = header(d->heap)->used_granules << d->heap->regions.granule_shift;
    for (uint32_t count = 1; count <= 300; count += 23) {
        uint64_t bytes = survey_map(d->heap, cells, count);
        uint64_t sum = 0;
        uint32_t contents = 0;
        assert_true(bytes * count >= header(d->heap)->data_bytes);
        for (uint32_t i = 0; i < count; i++) {
            sum += cells[i].used_permille * bytes / 1000;
            contents |= 1u << cells[i].content;
            assert_true(cells[i].used_permille <= 1000);
            assert_true((cells[i].content == SURVEY_FREE) == (cells[i].used_permille == 0));
        }
        /* Each cell is rounded to a thousandth of it. */
        uint64_t error = bytes * count / 1000 + count;
        assert_true(sum <= used + error);
        assert_true(sum + error >= used);
        assert_true(count < 100 || (contents & 1u << SURVEY_SLAB) != 0);
        assert_true(count < 100 || (contents & 1u << SURVEY_EXTENT) != 0);
    }
    driver_close(d);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_add_up),
        cmocka_unit_test(many_types_end_in_one),
        cmocka_unit_test(the_map_shows_what_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
