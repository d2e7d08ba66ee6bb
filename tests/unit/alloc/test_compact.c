/* Compaction: contents stay, it comes to an end, it is worth it, and it replays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"

#define OBJECTS 8000
#define KEYS    400

struct thing {
    uint64_t ptr; /* 0: not there */
    uint64_t size, version;
    uint8_t byte;
};

struct population {
    uint64_t seed;
    uint64_t index;
    struct heap *heap;
    uint8_t *scratch;
    struct thing things[OBJECTS];
    size_t count;
    uint32_t value_len[KEYS]; /* of a map; 0: not there */
};

static uint64_t dice(struct population *p)
{
    p->seed = p->seed * 6364136223846793005ull + 1442695040888963407ull;
    return p->seed >> 33;
}

static struct population *population_new(uint64_t seed, uint64_t bytes_max, uint32_t granule_shift,
                                         uint64_t retention_ms)
{
    struct heap_opts opts = {.uid = 7,
                             .heap_id = 3,
                             .shard = 5,
                             .bytes_max = bytes_max,
                             .granule_shift = granule_shift,
                             .retention_ms = retention_ms};
    struct population *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->scratch = malloc(OBJECT_CHUNK_BYTES * 8);
    assert_non_null(p->scratch);
    p->seed = seed;
    assert_int_equal(heap_create(&opts, &p->heap), 0);
    return p;
}

static void population_free(struct population *p)
{
    heap_free(p->heap);
    free(p->scratch);
    free(p);
}

static uint64_t begin(struct population *p)
{
    p->index++;
    heap_begin(p->heap, p->index, 1, p->index * 1000);
    return heap_next_version(p->heap);
}

static void add(struct population *p, uint64_t size)
{
    struct thing *t = &p->things[p->count];
    t->size = size;
    t->byte = (uint8_t)(p->count % 251 + 1);
    t->version = begin(p);
    memset(p->scratch, t->byte, size);
    assert_int_equal(
        heap_alloc(p->heap, t->version, size, (uint32_t)(p->count % 3) * 9000,
                   slice_of(p->scratch, size < OBJECT_CHUNK_BYTES ? size : OBJECT_CHUNK_BYTES),
                   &t->ptr),
        0);
    for (uint64_t at = OBJECT_CHUNK_BYTES; at < size; at += OBJECT_CHUNK_BYTES) {
        uint64_t len = size - at < OBJECT_CHUNK_BYTES ? size - at : OBJECT_CHUNK_BYTES;
        assert_int_equal(heap_write(p->heap, t->version, t->ptr, at, slice_of(p->scratch, len)), 0);
    }
    heap_end(p->heap);
    p->count++;
}

static void drop(struct population *p, size_t i)
{
    if (p->things[i].ptr != 0) {
        assert_int_equal(heap_free_object(p->heap, begin(p), p->things[i].ptr), 0);
        heap_end(p->heap);
        p->things[i].ptr = 0;
    }
}

/* 16 bytes to 64 KiB, each doubling as often as the others. */
static uint64_t mixed_size(struct population *p)
{
    uint64_t base = (uint64_t)16 << dice(p) % 12;
    return base + dice(p) % base;
}

static void put(struct population *p, size_t k, uint32_t len)
{
    char key[32];
    int key_len = snprintf(key, sizeof key, "key-%zu", k);
    memset(p->scratch, (int)(k % 250 + 1), len);
    (void)begin(p);
    assert_int_equal(heap_map_put(p->heap, HEAP_MAP_SESSIONS, slice_of(key, (size_t)key_len),
                                  slice_of(p->scratch, len)),
                     0);
    heap_end(p->heap);
    p->value_len[k] = len;
}

static void erase(struct population *p, size_t k)
{
    char key[32];
    int key_len = snprintf(key, sizeof key, "key-%zu", k);
    if (p->value_len[k] != 0) {
        (void)begin(p);
        assert_int_equal(
            heap_map_delete(p->heap, HEAP_MAP_SESSIONS, slice_of(key, (size_t)key_len)), 0);
        heap_end(p->heap);
        p->value_len[k] = 0;
    }
}

static void must_be_all(const uint8_t *bytes, uint64_t len, uint8_t byte)
{
    assert_int_equal(bytes[0], byte);
    assert_int_equal(memcmp(bytes, bytes + 1, len - 1), 0);
}

static void check_all(struct population *p)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct thing *t = &p->things[i];
        struct heap_object o;
        if (t->ptr == 0) {
            continue;
        }
        assert_int_equal(heap_stat(p->heap, t->ptr, &o), 0);
        assert_int_equal(o.size, t->size);
        assert_int_equal(o.version, t->version);
        assert_int_equal(heap_copy(p->heap, t->ptr, 0, p->scratch, t->size), 0);
        must_be_all(p->scratch, t->size, t->byte);
    }
    for (size_t k = 0; k < KEYS; k++) {
        char key[32];
        int key_len = snprintf(key, sizeof key, "key-%zu", k);
        struct slice value;
        int rv = heap_map_get(p->heap, HEAP_MAP_SESSIONS, slice_of(key, (size_t)key_len), &value);
        assert_int_equal(rv, p->value_len[k] != 0 ? 0 : ERR_NOTFOUND);
        if (rv == 0) {
            assert_int_equal(value.len, p->value_len[k]);
            must_be_all(value.data, value.len, (uint8_t)(k % 250 + 1));
        }
    }
    struct err_text e = {""};
    if (heap_check(p->heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static struct heap_defrag step(struct population *p, uint64_t bytes)
{
    struct heap_defrag d;
    (void)begin(p);
    uint64_t before = space_bytes(p->heap);
    assert_int_equal(heap_defrag(p->heap, bytes, &d), 0);
    heap_end(p->heap);
    assert_int_equal(d.freed_bytes, before - space_bytes(p->heap));
    return d;
}

/* Until nothing moves; returns the number of steps. */
static uint64_t compact(struct population *p, uint64_t bytes, uint64_t steps_max)
{
    uint64_t steps = 0;
    for (struct heap_defrag d = {.left = true}; d.left; steps++) {
        assert_true(steps < steps_max);
        d = step(p, bytes);
        /* A block at least; not much more than asked for: the last one is a slab or a chunk. */
        assert_true(d.blocks > 0 || !d.left);
        assert_true(d.bytes <= bytes + OBJECT_CHUNK_BYTES + SLAB_BYTES);
        if (steps % 64 == 0) {
            check_all(p);
        }
    }
    struct heap_defrag d = step(p, bytes);
    assert_int_equal(d.blocks, 0);
    assert_false(d.left);
    check_all(p);
    return steps;
}

/* Of what the arena takes, how much is allocated, and how much was asked for, in 1/1000. */
static void utilisation(const struct heap *heap, uint64_t *allocated, uint64_t *asked)
{
    struct heap_stats s;
    heap_get_stats(heap, &s);
    *allocated = s.allocated_bytes * 1000 / s.arena_bytes;
    *asked = s.object_bytes * 1000 / s.arena_bytes;
}

static void a_half_freed_heap_becomes_dense(void **state)
{
    (void)state;
    struct population *p = population_new(1, (uint64_t)512 << 20, 0, 0);
    while (p->count < OBJECTS) {
        add(p, mixed_size(p));
    }
    for (size_t i = 0; i < OBJECTS; i++) {
        if (dice(p) % 2 == 0) {
            drop(p, i);
        }
    }
    uint64_t before[2];
    uint64_t after[2];
    uint64_t bytes = space_bytes(p->heap);
    utilisation(p->heap, &before[0], &before[1]);
    uint64_t steps = compact(p, 256 << 10, 5000);
    utilisation(p->heap, &after[0], &after[1]);
    printf("  half freed: %llu -> %llu KiB in %llu steps, %llu KiB moved; allocated %llu -> %llu, "
           "asked for %llu -> %llu permille\n",
           (unsigned long long)bytes >> 10, (unsigned long long)space_bytes(p->heap) >> 10,
           (unsigned long long)steps, (unsigned long long)header(p->heap)->moved_bytes >> 10,
           (unsigned long long)before[0], (unsigned long long)after[0],
           (unsigned long long)before[1], (unsigned long long)after[1]);
    assert_true(after[0] >= 980);
    assert_true(space_bytes(p->heap) < bytes * 6 / 10);
    /* What was moved isn't more than what is there. */
    assert_true(header(p->heap)->moved_bytes < space_bytes(p->heap) * 2);
    population_free(p);
}

/* Free runs that are all too small for what lies behind: objects, map records, chunks. */
static void small_holes_add_up(void **state)
{
    (void)state;
    struct population *p = population_new(2, (uint64_t)256 << 20, 0, 0);
    for (size_t i = 0; i < 600; i++) {
        add(p, 4500 + dice(p) % 500);
        if (i % 20 == 0) {
            add(p, 3 * OBJECT_CHUNK_BYTES / 2);
        } else if (i % 3 == 0) {
            put(p, i % KEYS, 20000);
        } else {
            add(p, 21000);
        }
        put(p, (i * 7 + 1) % KEYS, 100 + (uint32_t)(i % 5) * 60);
    }
    for (size_t i = 0; i < p->count; i++) {
        if (p->things[i].size < 5000) {
            drop(p, i);
        }
    }
    for (size_t k = 0; k < KEYS; k += 3) {
        erase(p, k);
    }
    (void)compact(p, 100 << 10, 5000);
    uint64_t allocated = 0;
    uint64_t asked = 0;
    utilisation(p->heap, &allocated, &asked);
    printf("  small holes: allocated %llu, asked for %llu permille\n",
           (unsigned long long)allocated, (unsigned long long)asked);
    assert_true(allocated >= 980);
    population_free(p);
}

static void sparse_slabs_are_poured_together(void **state)
{
    (void)state;
    struct population *p = population_new(3, (uint64_t)64 << 20, 0, 0);
    while (p->count < OBJECTS) {
        add(p, 100);
    }
    for (size_t k = 0; k < KEYS; k++) {
        put(p, k, 3000);
    }
    for (size_t i = 0; i < OBJECTS; i++) {
        if (dice(p) % 10 != 0) {
            drop(p, i);
        }
    }
    for (size_t k = 0; k < KEYS; k++) {
        if (k % 8 != 0) {
            erase(p, k);
        }
    }
    const struct slab_list *list = &header(p->heap)->slabs[POOL_OBJECTS][class_of(116)];
    assert_true(list->slabs > 8);
    (void)compact(p, 1, 10000); /* a block a step */
    assert_true(list->slabs <= 4);
    for (size_t i = 0; i < OBJECTS; i++) {
        drop(p, i);
    }
    for (size_t k = 0; k < KEYS; k++) {
        erase(p, k);
    }
    (void)compact(p, 1 << 20, 100);
    assert_int_equal(header(p->heap)->data_bytes, 0);
    population_free(p);
}

static void history_moves_along(void **state)
{
    (void)state;
    struct population *p = population_new(4, (uint64_t)256 << 20, 0, 3600 * 1000);
    for (size_t i = 0; i < 1500; i++) {
        add(p, i % 100 == 0 ? OBJECT_CHUNK_BYTES * 2 + 5000 : mixed_size(p) / 4 + 1);
    }
    uint64_t then = heap_clock(p->heap);
    struct thing *old = malloc(sizeof p->things);
    assert_non_null(old);
    memcpy(old, p->things, sizeof p->things);
    for (size_t i = 0; i < p->count; i++) {
        struct thing *t = &p->things[i];
        uint64_t version = begin(p);
        if (i % 3 == 0) {
            assert_int_equal(heap_free_object(p->heap, version, t->ptr), 0);
            t->ptr = 0;
        } else {
            uint64_t size = i % 5 == 0 ? t->size / 2 + 1 : t->size;
            t->byte ^= 1;
            t->version = version;
            if (size != t->size) {
                assert_int_equal(heap_realloc(p->heap, version, t->ptr, size), 0);
                t->size = size;
            }
            memset(p->scratch, t->byte, OBJECT_CHUNK_BYTES);
            for (uint64_t at = 0; at < size; at += OBJECT_CHUNK_BYTES) {
                uint64_t len = size - at < OBJECT_CHUNK_BYTES ? size - at : OBJECT_CHUNK_BYTES;
                assert_int_equal(
                    heap_write(p->heap, version, t->ptr, at, slice_of(p->scratch, len)), 0);
            }
        }
        heap_end(p->heap);
    }
    /* What was put behind everything and freed leaves nothing; what came first leaves holes. */
    uint64_t left = 0;
    (void)begin(p);
    heap_reclaim(p->heap, then / 2, 500, &left);
    heap_end(p->heap);
    (void)compact(p, 300 << 10, 5000);
    for (size_t i = 0; i < p->count; i++) {
        struct heap_object o;
        assert_int_equal(heap_stat_at(p->heap, then, old[i].ptr, &o), 0);
        assert_int_equal(o.size, old[i].size);
        assert_int_equal(heap_read_at(p->heap, then, old[i].ptr, 0, p->scratch, old[i].size), 0);
        must_be_all(p->scratch, old[i].size, old[i].byte);
    }
    /* And everything can still be given back. */
    (void)begin(p);
    heap_set_retention(p->heap, 0);
    heap_end(p->heap);
    do {
        (void)begin(p);
        heap_reclaim(p->heap, UINT64_MAX, 300, &left);
        heap_end(p->heap);
        (void)step(p, 50 << 10);
    } while (left != 0);
    (void)compact(p, 300 << 10, 5000);
    uint64_t allocated = 0;
    uint64_t asked = 0;
    utilisation(p->heap, &allocated, &asked);
    assert_true(allocated >= 960);
    assert_int_equal(header(p->heap)->undo_count, 0);
    free(old);
    population_free(p);
}

static void random_step(struct population *p)
{
    uint64_t what = dice(p) % 100;
    size_t i = p->count == 0 ? 0 : dice(p) % p->count;
    bool shrinks = p->index / 700 % 2 == 1;
    if (what < (shrinks ? 20u : 50u) && p->count < OBJECTS) {
        add(p, mixed_size(p));
    } else if (what < 70) {
        drop(p, i);
    } else if (what < 75) {
        put(p, dice(p) % KEYS, (uint32_t)(mixed_size(p) / 2));
    } else if (what < 80) {
        erase(p, dice(p) % KEYS);
    } else if (what < 90) {
        uint64_t left = 0;
        (void)begin(p);
        heap_reclaim(p->heap, p->index * 1000 - 100000, 20, &left);
        heap_end(p->heap);
    } else if (what < 98) {
        (void)step(p, dice(p) % (200 << 10));
    } else {
        (void)begin(p);
        (void)heap_trim(p->heap, dice(p) % (1 << 20));
        heap_end(p->heap);
    }
}

static void reopening_between_steps_makes_no_difference(void **state)
{
    (void)state;
    const uint32_t shifts[] = {0, 0, 12, 14, 15, 16};
    for (uint64_t seed = 1; seed <= sizeof shifts / sizeof shifts[0]; seed++) {
        uint64_t retention = seed % 2 == 0 ? 50 : 0;
        struct population *p[2];
        for (size_t k = 0; k < 2; k++) {
            p[k] = population_new(seed, (uint64_t)256 << 20, shifts[seed - 1], retention);
        }
        for (int i = 0; i < 2500; i++) {
            random_step(p[0]);
            random_step(p[1]);
            if (i % 11 == 0) {
                /* All that isn't in the arena. */
                struct heap *heap = p[1]->heap;
                space_close(heap);
                memset(&heap->room, 0, sizeof heap->room);
                assert_int_equal(space_open(heap), 0);
            }
            if (i % 500 == 0) {
                check_all(p[0]);
                assert_int_equal(heap_digest(p[0]->heap), heap_digest(p[1]->heap));
            }
        }
        check_all(p[0]);
        check_all(p[1]);
        const struct arena *a[2] = {heap_arena(p[0]->heap), heap_arena(p[1]->heap)};
        assert_int_equal(a[0]->present_count, a[1]->present_count);
        for (uint64_t page = 0;
             (page = pageset_next(&a[0]->present, page, a[0]->pages)) < a[0]->pages; page++) {
            assert_true(pageset_has(&a[1]->present, page));
            assert_memory_equal(arena_at(a[0], page << PAGE_SHIFT),
                                arena_at(a[1], page << PAGE_SHIFT), PAGE_BYTES);
        }
        population_free(p[0]);
        population_free(p[1]);
    }
}

/* A view taken before keeps what was there. */
static void a_view_does_not_see_it(void **state)
{
    (void)state;
    struct population *p = population_new(9, (uint64_t)64 << 20, 0, 0);
    while (p->count < 600) {
        add(p, mixed_size(p) / 4 + 1);
    }
    for (size_t i = 0; i < p->count; i += 2) {
        drop(p, i);
    }
    struct view *view = NULL;
    assert_int_equal(view_open(p->heap, &view), 0);
    uint64_t digest = heap_digest(p->heap);
    (void)compact(p, 64 << 10, 5000);
    assert_false(view_canceled(view));
    assert_int_equal(view_digest(view), digest);
    assert_true(heap_digest(p->heap) != digest);
    view_close(view);
    population_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_half_freed_heap_becomes_dense),
        cmocka_unit_test(small_holes_add_up),
        cmocka_unit_test(sparse_slabs_are_poured_together),
        cmocka_unit_test(history_moves_along),
        cmocka_unit_test(reopening_between_steps_makes_no_difference),
        cmocka_unit_test(a_view_does_not_see_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
