/* Extents against a plain array of granules and brute force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "base/mem.h"

#define EXTENTS  4096
#define GRANULES 65536

struct extent_model {
    uint64_t at, count;
    bool object;
};

struct space_model {
    uint64_t seed;
    struct heap *heap;
    uint8_t used[GRANULES];
    struct extent_model extents[EXTENTS];
    size_t count;
    uint64_t nospace;
};

static uint64_t dice(struct space_model *m)
{
    m->seed = m->seed * 6364136223846793005ull + 1442695040888963407ull;
    return m->seed >> 33;
}

static struct heap *heap_new(uint64_t bytes_max, uint32_t shift)
{
    struct heap_opts opts = {
        .uid = 7, .heap_id = 3, .bytes_max = bytes_max, .granule_shift = shift};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static struct space_model *model_new(uint64_t seed, uint64_t bytes_max, uint32_t shift)
{
    struct space_model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->seed = seed;
    m->heap = heap_new(bytes_max, shift);
    assert_true(m->heap->regions.granules_max <= GRANULES);
    return m;
}

static void model_free(struct space_model *m)
{
    heap_free(m->heap);
    free(m);
}

/* The lowest free run, found the slow way. */
static uint64_t lowest(const struct space_model *m, uint64_t count)
{
    uint64_t run = 0;
    for (uint64_t g = 0; g < space_granules(m->heap); g++) {
        run = m->used[g] != 0 ? 0 : run + 1;
        if (run == count) {
            return g + 1 - count;
        }
    }
    return UINT64_MAX;
}

/* Kinds of size, told off one by one. */
#define KIND_LAST 109u
static uint64_t kind(uint64_t count)
{
    uint64_t k = 0;
    uint64_t step = 1;
    for (uint64_t from = 1; from + step <= count && k < KIND_LAST; k++) {
        from += step;
        step = from >= 64 ? ((uint64_t)1 << (63 - __builtin_clzll(from))) / 16 : 1;
    }
    return k;
}

/* Where an extent goes: a run that leaves little over, low in the data; the slow way. */
static uint64_t place(const struct space_model *m, uint64_t count)
{
    const struct heap *heap = m->heap;
    uint64_t used = header(heap)->used_granules;
    uint64_t below = (used + used / 40) / 256 * 256 + 256;
    uint64_t best = UINT64_MAX;
    uint64_t best_kind = UINT64_MAX;
    uint64_t looks = 0;
    for (uint64_t at = 0, end; at < space_granules(heap) && at < below; at = end + 1) {
        end = at;
        while (end < space_granules(heap) && m->used[end] == 0) {
            end++;
        }
        uint64_t k = end > at ? kind(end - at) : 0;
        bool same = end > at && k == kind(count);
        if (same && ++looks > 16) {
            continue;
        }
        if (end - at >= count && k < best_kind) {
            best = at;
            best_kind = k;
        }
    }
    return best != UINT64_MAX && kind(count) != KIND_LAST ? best : lowest(m, count);
}

static uint64_t tail_start(const struct space_model *m)
{
    uint64_t g = space_granules(m->heap);
    while (g > 0 && m->used[g - 1] == 0) {
        g--;
    }
    return g;
}

static uint64_t granule_bytes(const struct space_model *m)
{
    return (uint64_t)1 << m->heap->regions.granule_shift;
}

static void fill(const struct space_model *m, uint64_t from, uint64_t count, int byte)
{
    memset(arena_write(&m->heap->arena, granule_address(m->heap, from), count * granule_bytes(m)),
           byte, count * granule_bytes(m));
}

static void must_be(const struct space_model *m, uint64_t from, uint64_t count, uint8_t byte)
{
    const uint8_t *bytes =
        arena_read(&m->heap->arena, granule_address(m->heap, from), count * granule_bytes(m));
    /* All are the first one, and that one is right. */
    uint64_t len = count * granule_bytes(m);
    if (bytes[0] != byte || memcmp(bytes, bytes + 1, len - 1) != 0) {
        fail_msg("granules from %llu on aren't all %u", (unsigned long long)from, byte);
    }
}

static uint8_t pattern_of(const struct extent_model *x)
{
    return (uint8_t)(x->at * 7 + 1) | 1;
}

static void check_budget(const struct heap *heap)
{
    const struct heap_header *hd = header(heap);
    assert_true(space_bytes(heap) <= hd->bytes_max);
    assert_true(hd->data_bytes <= space_data_bytes_max(heap));
    assert_int_equal(hd->data_bytes % PAGE_BYTES, 0);
    assert_int_equal(hd->data_bytes & (((uint64_t)1 << heap->regions.granule_shift) - 1), 0);
}

static void step_alloc(struct space_model *m, uint64_t count_max)
{
    struct heap *heap = m->heap;
    uint64_t count = dice(m) % (dice(m) % 8 == 0 ? count_max : 20) + 1;
    bool object = dice(m) % 2 == 0;
    uint64_t bytes = count * granule_bytes(m) - dice(m) % granule_bytes(m);
    bool below = dice(m) % 4 == 0;
    uint64_t expected = below ? lowest(m, count) : place(m, count);
    uint64_t tail = tail_start(m);
    uint64_t data = header(heap)->data_bytes;
    uint64_t limit = dice(m) % (space_granules(heap) + 1);
    uint64_t at = 0;
    if (below) {
        bool fits = expected != UINT64_MAX && expected + count <= limit;
        assert_int_equal(extent_alloc_below(heap, object, bytes, limit, &at), fits);
        assert_int_equal(header(heap)->data_bytes, data);
        if (!fits) {
            return;
        }
    } else {
        int rv = extent_alloc(heap, object, bytes, &at);
        if (rv != 0) {
            assert_int_equal(rv, ERR_NOSPACE);
            assert_int_equal(expected, UINT64_MAX);
            assert_true((tail + count) * granule_bytes(m) > space_data_bytes_max(heap));
            assert_int_equal(header(heap)->data_bytes, data);
            m->nospace++;
            return;
        }
        if (expected == UINT64_MAX) {
            expected = tail;
            assert_true(header(heap)->data_bytes > data);
        } else {
            assert_int_equal(header(heap)->data_bytes, data);
        }
    }
    assert_int_equal(at, expected);
    must_be(m, at, count, 0);
    assert_true(m->count < EXTENTS);
    struct extent_model *x = &m->extents[m->count++];
    *x = (struct extent_model){.at = at, .count = count, .object = object};
    memset(m->used + at, 1, count);
    fill(m, at, count, pattern_of(x));
}

static void step_free(struct space_model *m)
{
    if (m->count == 0) {
        return;
    }
    struct extent_model *x = &m->extents[dice(m) % m->count];
    extent_free(m->heap, x->at);
    memset(m->used + x->at, 0, x->count);
    *x = m->extents[--m->count];
}

static void step_resize(struct space_model *m)
{
    if (m->count == 0) {
        return;
    }
    struct extent_model *x = &m->extents[dice(m) % m->count];
    uint64_t count = dice(m) % (2 * x->count) + 1;
    bool fits = x->at + count <= space_granules(m->heap);
    for (uint64_t g = x->at + x->count; fits && g < x->at + count; g++) {
        fits = m->used[g] == 0;
    }
    assert_int_equal(extent_resize(m->heap, x->at, count * granule_bytes(m)), fits);
    if (!fits) {
        return;
    }
    if (count > x->count) {
        must_be(m, x->at + x->count, count - x->count, 0);
        fill(m, x->at + x->count, count - x->count, pattern_of(x));
        memset(m->used + x->at + x->count, 1, count - x->count);
    } else {
        memset(m->used + x->at + count, 0, x->count - count);
    }
    x->count = count;
}

static void step_slide(struct space_model *m)
{
    uint64_t hole = 0;
    if (m->count == 0 || !extent_fits_below(m->heap, 1, tail_start(m), &hole)) {
        return;
    }
    uint64_t at = extent_next(m->heap, hole);
    for (size_t i = 0; i < m->count; i++) {
        struct extent_model *x = &m->extents[i];
        if (x->at == at) {
            uint64_t bytes = x->count * granule_bytes(m);
            const void *from = arena_at(&m->heap->arena, granule_address(m->heap, at));
            memmove(arena_write(&m->heap->arena, granule_address(m->heap, hole), bytes), from,
                    bytes);
            extent_slide(m->heap, at, hole);
            memset(m->used + at, 0, x->count);
            memset(m->used + hole, 1, x->count);
            x->at = hole;
            fill(m, x->at, x->count, pattern_of(x));
            return;
        }
    }
    fail_msg("no extent behind the hole");
}

static void step_trim(struct space_model *m)
{
    uint64_t unit = granule_bytes(m) > PAGE_BYTES ? granule_bytes(m) : PAGE_BYTES;
    uint64_t data = header(m->heap)->data_bytes;
    uint64_t tail = (tail_start(m) * granule_bytes(m) + unit - 1) / unit * unit;
    uint64_t bytes = dice(m) % 2 == 0 ? UINT64_MAX : dice(m) % 300000;
    uint64_t want = data - tail < bytes ? data - tail : bytes / unit * unit;
    assert_int_equal(space_trim(m->heap, bytes), want);
    assert_int_equal(header(m->heap)->data_bytes, data - want);
}

/* Everything that can be asked about the space, and the pages that must be absent. */
static void model_check(const struct space_model *m)
{
    const struct heap *heap = m->heap;
    uint64_t total = space_granules(heap);
    uint64_t used = 0;
    uint64_t run = 0;
    uint64_t longest = 0;
    for (uint64_t g = 0; g < total; g++) {
        used += m->used[g];
        run = m->used[g] != 0 ? 0 : run + 1;
        longest = run > longest ? run : longest;
    }
    assert_int_equal(header(heap)->used_granules, used);
    assert_int_equal(space_used_between(heap, 0, total), used);
    assert_int_equal(space_largest_free(heap), longest);
    uint64_t last = UINT64_MAX;
    for (size_t i = 0; i < m->count; i++) {
        const struct extent_model *x = &m->extents[i];
        assert_int_equal(extent_granules(heap, x->at), x->count);
        assert_int_equal(extent_is_object(heap, x->at), x->object);
        assert_int_equal(extent_of(heap, x->at), x->at);
        assert_int_equal(extent_of(heap, x->at + x->count - 1), x->at);
        assert_int_equal(extent_next(heap, x->at), x->at);
        assert_int_equal(extent_last_before(heap, x->at + 1), x->at);
        must_be(m, x->at, x->count, pattern_of(x));
        last = last == UINT64_MAX || x->at > last ? x->at : last;
    }
    assert_int_equal(extent_last_before(heap, UINT64_MAX), last);
    size_t seen = 0;
    for (uint64_t g = extent_next(heap, 0); g < total; g = extent_next(heap, g + 1)) {
        seen++;
    }
    assert_int_equal(seen, m->count);
    uint64_t per_page = granule_bytes(m) < PAGE_BYTES ? PAGE_BYTES / granule_bytes(m) : 1;
    for (uint64_t g = 0; g < total; g += per_page) {
        uint64_t page = granule_address(heap, g) >> PAGE_SHIFT;
        if (space_used_between(heap, g, g + per_page) == 0) {
            assert_false(pageset_has(&heap->arena.present, page));
        }
    }
    uint64_t map_end = heap->regions.granules_at + (total + 63) / 64 * sizeof(struct granules);
    uint64_t page = pageset_next(&heap->arena.present, (map_end + PAGE_BYTES - 1) >> PAGE_SHIFT,
                                 heap->arena.pages);
    assert_true(page >= heap->regions.data_at >> PAGE_SHIFT);
    check_budget(heap);
}

static uint64_t run(uint64_t seed, uint64_t bytes_max, uint32_t shift, uint64_t count_max,
                    int steps)
{
    struct space_model *m = model_new(seed, bytes_max, shift);
    for (int i = 0; i < steps; i++) {
        uint64_t what = dice(m) % 100;
        bool grows = (i / 400) % 2 == 0;
        if (what < (grows ? 60u : 30u)) {
            step_alloc(m, count_max);
        } else if (what < 85) {
            step_free(m);
        } else if (what < 93) {
            step_resize(m);
        } else if (what < 95) {
            step_slide(m);
        } else if (what < 97) {
            step_trim(m);
        } else if (what < 99) {
            /* What the index was, it is again. */
            space_close(m->heap);
            assert_int_equal(space_open(m->heap), 0);
        } else if (i % 8 == 0) {
            model_check(m);
        }
    }
    model_check(m);
    while (m->count > 0) {
        step_free(m);
    }
    model_check(m);
    (void)space_trim(m->heap, UINT64_MAX);
    assert_int_equal(header(m->heap)->data_bytes, 0);
    assert_int_equal(m->heap->arena.present_count, 1);
    uint64_t nospace = m->nospace;
    model_free(m);
    return nospace;
}

static void extents_match_a_model(void **state)
{
    (void)state;
    uint64_t nospace = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        nospace += run(seed, (uint64_t)1 << 20, 0, 300, 3000);
        (void)run(seed + 10, (uint64_t)4 << 20, 0, 1500, 2000);
        (void)run(seed + 20, (uint64_t)16 << 20, 0, 5000, 1500);
        (void)run(seed + 30, (uint64_t)8 << 20, 12, 200, 1500);
        (void)run(seed + 40, (uint64_t)32 << 20, 14, 200, 1000);
        (void)run(seed + 50, (uint64_t)32 << 20, 16, 50, 1000);
    }
    assert_true(nospace > 30);
}

/* The index of a copy that is opened at random moments leads to the same places as one that grew.
 */
static void reopening_makes_no_difference(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct space_model *m[2] = {model_new(seed, (uint64_t)8 << 20, 0),
                                    model_new(seed, (uint64_t)8 << 20, 0)};
        for (int i = 0; i < 2000; i++) {
            for (int k = 0; k < 2; k++) {
                uint64_t what = dice(m[k]) % 10;
                if (what < 5) {
                    step_alloc(m[k], 900);
                } else if (what < 9) {
                    step_free(m[k]);
                } else {
                    step_trim(m[k]);
                }
            }
            if (i % 7 == 0) {
                space_close(m[1]->heap);
                assert_int_equal(space_open(m[1]->heap), 0);
            }
        }
        assert_int_equal(heap_digest(m[0]->heap), heap_digest(m[1]->heap));
        model_free(m[0]);
        model_free(m[1]);
    }
}

static void regions_follow_from_the_limit(void **state)
{
    (void)state;
    struct heap_regions r;
    heap_regions_of((uint64_t)1 << 40, 0, &r);
    assert_int_equal(r.granule_shift, 8);
    heap_regions_of((uint64_t)1 << 41, 0, &r);
    assert_int_equal(r.granule_shift, 9);
    heap_regions_of((uint64_t)1 << 40, 14, &r);
    assert_int_equal(r.granules_max, (uint64_t)1 << 26);
    assert_true(r.directory_at < r.granules_at && r.granules_at < r.frames_at);
    assert_true(r.frames_at < r.data_at && r.end - r.data_at == (uint64_t)1 << 40);
    assert_true(heap_granule_shift_is_valid((uint64_t)1 << 20, 0));
    assert_true(heap_granule_shift_is_valid((uint64_t)1 << 20, 8));
    assert_true(heap_granule_shift_is_valid((uint64_t)1 << 20, 16));
    assert_false(heap_granule_shift_is_valid((uint64_t)1 << 20, 7));
    assert_false(heap_granule_shift_is_valid((uint64_t)1 << 20, 17));
    assert_false(heap_granule_shift_is_valid((uint64_t)1 << 44, 9));
}

/* Header page, one page of maps, and the rest is data: to the last page. */
static void a_heap_can_be_filled_to_its_limit(void **state)
{
    (void)state;
    const uint64_t sizes[] = {(uint64_t)1 << 20, (uint64_t)5 << 20, ((uint64_t)9 << 20) + 4096};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct heap *heap = heap_new(sizes[i], 0);
        uint64_t most = space_data_bytes_max(heap);
        uint64_t at = 0;
        assert_int_equal(extent_alloc(heap, true, most + 1, &at), ERR_NOSPACE);
        assert_int_equal(header(heap)->data_bytes, 0);
        assert_int_equal(extent_alloc(heap, true, most, &at), 0);
        assert_int_equal(at, 0);
        assert_true(sizes[i] - space_bytes(heap) < PAGE_BYTES);
        assert_int_equal(extent_alloc(heap, true, 1, &at), ERR_NOSPACE);
        assert_int_equal(space_take_pages(heap, 1), ERR_NOSPACE);
        assert_false(extent_resize(heap, 0, most + 1));
        /* A free tail pays for metadata, but not with more than it has. */
        assert_true(extent_resize(heap, 0, most - 3 * PAGE_BYTES));
        assert_int_equal(space_take_pages(heap, 4), ERR_NOSPACE);
        assert_int_equal(header(heap)->data_bytes, most);
        assert_int_equal(space_take_pages(heap, 2), 0);
        assert_true(space_bytes(heap) + 2 * PAGE_BYTES <= sizes[i]);
        heap_free(heap);
    }
}

/* A step is a 4096th, at least 64 KiB; of a longer tail one stays. Trimming takes the maps' pages
 * along. */
static void data_grows_in_steps_and_shrinks(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)4 << 30, 0);
    uint64_t at = 0;
    assert_int_equal(extent_alloc(heap, false, 5, &at), 0);
    assert_int_equal(header(heap)->data_bytes, (uint64_t)64 << 10);
    assert_int_equal(extent_alloc(heap, true, (uint64_t)1 << 30, &at), 0);
    assert_int_equal(at, 1);
    uint64_t data = header(heap)->data_bytes;
    assert_int_equal(data, ((uint64_t)1 << 30) + PAGE_BYTES);
    assert_int_equal(extent_alloc(heap, true, (uint64_t)1 << 17, &at), 0);
    uint64_t step = ((uint64_t)1 << 18) + PAGE_BYTES;
    assert_int_equal(header(heap)->data_bytes, data + step);
    uint64_t full = space_bytes(heap);
    extent_free(heap, at);
    assert_int_equal(header(heap)->data_bytes, data + step);
    extent_free(heap, 1);
    assert_int_equal(header(heap)->data_bytes, PAGE_BYTES + step);
    assert_true(full - space_bytes(heap) >= (uint64_t)1 << 30);
    assert_int_equal(space_trim(heap, 5000), PAGE_BYTES);
    assert_int_equal(space_trim(heap, UINT64_MAX), step - PAGE_BYTES);
    assert_int_equal(header(heap)->data_bytes, PAGE_BYTES);
    extent_free(heap, 0);
    assert_int_equal(space_trim(heap, UINT64_MAX), PAGE_BYTES);
    assert_int_equal(space_trim(heap, UINT64_MAX), 0);
    assert_int_equal(space_bytes(heap), 2 * PAGE_BYTES); /* header and spares */
    heap_free(heap);
}

/* Best fit: the hole that leaves least, the lowest of equal ones, and none far above what the
 * extents need, while there is another. */
static void a_place_leaves_little_over(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)64 << 20, 0);
    const uint64_t holes[] = {300, 40, 20, 40, 18, 17};
    uint64_t at[6] = {0};
    uint64_t wall = 0;
    assert_int_equal(extent_alloc(heap, true, 10000 << 8, &wall), 0);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(extent_alloc(heap, true, holes[i] << 8, &at[i]), 0);
        assert_int_equal(extent_alloc(heap, true, 256, &wall), 0);
    }
    for (size_t i = 0; i < 6; i++) {
        extent_free(heap, at[i]);
    }
    (void)space_trim(heap, UINT64_MAX);
    const uint64_t asked[] = {17, 39, 39, 18, 19, 256};
    const size_t hole[] = {5, 1, 3, 4, 2, 0};
    for (size_t i = 0; i < 6; i++) {
        uint64_t got = 0;
        assert_int_equal(extent_alloc(heap, true, asked[i] << 8, &got), 0);
        assert_int_equal(got, at[hole[i]]);
    }
    heap_free(heap);
    /* 100 of 4000 granules are used below, so the hole that fits exactly is too high. */
    heap = heap_new((uint64_t)64 << 20, 0);
    assert_int_equal(extent_alloc(heap, true, 100 << 8, &wall), 0);
    assert_int_equal(extent_alloc(heap, true, 3900 << 8, &at[0]), 0);
    assert_int_equal(extent_alloc(heap, true, 256, &wall), 0);
    assert_int_equal(extent_alloc(heap, true, 20 << 8, &at[1]), 0);
    assert_int_equal(extent_alloc(heap, true, 256, &wall), 0);
    extent_free(heap, at[0]);
    extent_free(heap, at[1]);
    assert_int_equal(extent_alloc(heap, true, 20 << 8, &at[2]), 0);
    assert_int_equal(at[2], at[0]);
    heap_free(heap);
}

static void opening_needs_memory(void **state)
{
    (void)state;
    struct heap *heap = heap_new((uint64_t)1 << 20, 0);
    space_close(heap);
    mem_fault(0, 1);
    assert_int_equal(space_open(heap), ERR_NOMEM);
    mem_fault(0, 0);
    assert_int_equal(space_open(heap), 0);
    heap_free(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regions_follow_from_the_limit),
        cmocka_unit_test(a_heap_can_be_filled_to_its_limit),
        cmocka_unit_test(data_grows_in_steps_and_shrinks),
        cmocka_unit_test(a_place_leaves_little_over),
        cmocka_unit_test(opening_needs_memory),
        cmocka_unit_test(extents_match_a_model),
        cmocka_unit_test(reopening_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
