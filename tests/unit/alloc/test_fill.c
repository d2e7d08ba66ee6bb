/* New objects in a large arena, whose bytes are written past the caches: they are what they would
 * be otherwise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"

#define LARGE_BYTES ((uint64_t)72 << 20)
#define OBJECT_MAX  ((uint64_t)96 << 10)
#define OBJECTS     8192u
#define STEPS       3000u

static uint64_t seed;

static uint64_t dice(uint64_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (seed >> 33) % below;
}

struct pair {
    struct heap *past, *plain; /* the second one as in pmem mode, which has all in the caches */
    uint64_t index;
    uint64_t bytes;
    uint64_t ptrs[OBJECTS], sizes[OBJECTS], lens[OBJECTS];
    bool streamed;
};

static struct heap *heap_new(void)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .shard = 5, .bytes_max = (uint64_t)1 << 30};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static void pair_open(struct pair *p)
{
    memset(p, 0, sizeof *p);
    seed = 1;
    p->past = heap_new();
    p->plain = heap_new();
    arena_committed(&p->plain->arena);
    arena_track(&p->plain->arena);
}

static void pair_close(struct pair *p)
{
    assert_int_equal(heap_check(p->past, NULL), 0);
    heap_free(p->past);
    heap_free(p->plain);
}

static void pair_begin(struct pair *p)
{
    p->index++;
    heap_begin(p->past, p->index, 1, 0);
    heap_begin(p->plain, p->index, 1, 0);
}

static void pair_end(struct pair *p)
{
    assert_false(p->plain->arena.streamed);
    heap_end(p->past);
    heap_end(p->plain);
    assert_false(p->past->arena.streamed);
    arena_committed(&p->plain->arena);
}

/* Bytes that say which object they are of, and where in it. */
static void bytes_make(uint64_t ptr, uint8_t *bytes, uint64_t len)
{
    for (uint64_t at = 0; at < len; at++) {
        bytes[at] = (uint8_t)(ptr * 31 + at * 7 + (at >> 8) + 1);
    }
}

static void put(struct pair *p, uint32_t i, uint64_t size, uint64_t len)
{
    static uint8_t bytes[OBJECT_MAX];
    uint64_t other = 0;
    uint64_t version = heap_next_version(p->past);
    assert_true(heap_next_version(p->plain) == version);
    bytes_make(i, bytes, len);
    assert_int_equal(heap_alloc(p->past, version, size, 1, slice_of(bytes, len), &p->ptrs[i]), 0);
    assert_int_equal(heap_alloc(p->plain, version, size, 1, slice_of(bytes, len), &other), 0);
    assert_true(other == p->ptrs[i]);
    p->streamed |= p->past->arena.streamed;
    p->sizes[i] = size;
    p->lens[i] = len;
    p->bytes += size;
}

static void drop(struct pair *p, uint32_t i)
{
    assert_int_equal(heap_free_object(p->past, heap_next_version(p->past), p->ptrs[i]), 0);
    assert_int_equal(heap_free_object(p->plain, heap_next_version(p->plain), p->ptrs[i]), 0);
    p->bytes -= p->sizes[i];
    p->ptrs[i] = 0;
}

/* Most objects are given all of their bytes, some a part, or none. */
static void put_any(struct pair *p, uint32_t i)
{
    uint64_t size = 1 + dice(dice(4) == 0 ? OBJECT_MAX : 12000);
    put(p, i, size, dice(4) == 0 ? dice(size + 1) : size);
}

static void must_be_right(const struct pair *p, uint32_t i)
{
    static uint8_t bytes[OBJECT_MAX], want[OBJECT_MAX];
    memset(want, 0, p->sizes[i]);
    bytes_make(i, want, p->lens[i]);
    assert_int_equal(heap_copy(p->past, p->ptrs[i], 0, bytes, p->sizes[i]), 0);
    assert_memory_equal(bytes, want, p->sizes[i]);
}

static uint32_t fill_up(struct pair *p)
{
    uint32_t count = 0;
    for (; p->bytes < LARGE_BYTES; count++) {
        assert_true(count < OBJECTS);
        pair_begin(p);
        put_any(p, count);
        pair_end(p);
    }
    return count;
}

static void objects_are_the_same_past_the_caches(void **state)
{
    static struct pair p;
    (void)state;
    pair_open(&p);
    uint32_t count = fill_up(&p);
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t i = (uint32_t)dice(count);
        pair_begin(&p);
        drop(&p, i);
        put_any(&p, i);
        must_be_right(&p, i);
        pair_end(&p);
    }
    for (uint32_t i = 0; i < count; i++) {
        must_be_right(&p, i);
    }
    assert_true(p.streamed);
    assert_true(arena_digest(&p.past->arena) == arena_digest(&p.plain->arena));
    pair_close(&p);
}

static void memory_that_one_object_leaves_to_the_next_stays_in_the_caches(void **state)
{
    static struct pair p;
    (void)state;
    pair_open(&p);
    uint32_t last = fill_up(&p);
    bool streamed[4];
    for (uint32_t round = 0; round < 4; round++) {
        pair_begin(&p);
        put(&p, last, OBJECT_MAX, OBJECT_MAX);
        streamed[round] = p.past->arena.streamed;
        drop(&p, last);
        pair_end(&p);
    }
    assert_true(streamed[0]);
    assert_false(streamed[2]);
    assert_false(streamed[3]);
    pair_close(&p);
}

static void small_arenas_are_in_the_caches(void **state)
{
    static struct pair p;
    (void)state;
    pair_open(&p);
    while (p.past->arena.present_count < ((uint64_t)48 << 20 >> PAGE_SHIFT)) {
        pair_begin(&p);
        put(&p, 0, OBJECT_MAX, OBJECT_MAX);
        pair_end(&p);
    }
    assert_false(p.streamed);
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_the_same_past_the_caches),
        cmocka_unit_test(memory_that_one_object_leaves_to_the_next_stays_in_the_caches),
        cmocka_unit_test(small_arenas_are_in_the_caches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
