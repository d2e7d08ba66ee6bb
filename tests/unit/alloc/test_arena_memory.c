/* A large arena in huge pages: its bytes are what was written, and what is dropped is given back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/arena_memory.h"
#include "alloc/page_hash.h"

#define PAGES      ((uint64_t)96 << 20 >> PAGE_SHIFT)
#define ROOM_PAGES (2 * PAGES)
#define STEP       16u /* pages that the arena grows by */

static void grow(struct arena *a, uint64_t from, uint64_t end)
{
    for (uint64_t page = from; page < end; page++) {
        if (page % STEP == 0) {
            assert_int_equal(arena_commit(a, page << PAGE_SHIFT, STEP << PAGE_SHIFT), 0);
        }
        uint64_t *at = arena_write(a, page << PAGE_SHIFT, PAGE_BYTES);
        at[0] = page + 1;
        at[511] = ~page;
    }
}

static void expect(struct arena *a, uint64_t from, uint64_t end)
{
    for (uint64_t page = from; page < end; page++) {
        const uint64_t *at = arena_at(a, page << PAGE_SHIFT);
        assert_true(at[0] == page + 1);
        assert_true(at[511] == ~page);
    }
}

static uint64_t huge_chunks(const struct arena *a)
{
    uint64_t count = 0;
    for (uint64_t chunk = 0; chunk < a->pages / CHUNK_PAGES; chunk++) {
        count += a->huge[chunk / 64] >> (chunk % 64) & 1;
    }
    return count;
}

/* Of the arena, as the kernel counts it. */
static uint64_t resident_bytes(const struct arena *a)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    assert_non_null(f);
    uintptr_t from = (uintptr_t)a->base;
    uintptr_t end = from + (uintptr_t)(a->pages << PAGE_SHIFT);
    bool inside = false;
    uint64_t kib = 0;
    char line[512];
    while (fgets(line, sizeof line, f) != NULL) {
        char *rest = NULL;
        uintptr_t at = (uintptr_t)strtoull(line, &rest, 16);
        if (*rest == '-') {
            inside = at >= from && at < end;
        } else if (inside && strncmp(line, "Rss:", 4) == 0) {
            kib += strtoull(line + 4, NULL, 10);
        }
    }
    (void)fclose(f);
    return kib << 10;
}

static void a_large_arena_has_huge_pages_with_the_same_bytes(void **state)
{
    struct arena a;
    (void)state;
    assert_int_equal(arena_open(&a, ROOM_PAGES), 0);
    assert_int_equal((uintptr_t)a.base % (CHUNK_PAGES << PAGE_SHIFT), 0);
    uint64_t small = PAGES / 2;
    grow(&a, 0, small);
    assert_int_equal(huge_chunks(&a), 0);
    grow(&a, small, PAGES);
    if (huge_chunks(&a) == 0) {
        arena_close(&a);
        skip(); /* a kernel without them */
    }
    /* What it had before follows by the time when half as much again has come. */
    assert_int_equal(huge_chunks(&a), PAGES / CHUNK_PAGES);
    expect(&a, 0, PAGES);
    assert_true(resident_bytes(&a) <= PAGES << PAGE_SHIFT);
    arena_close(&a);
}

static void memory_of_dropped_pages_is_given_back_from_huge_pages(void **state)
{
    struct arena a;
    (void)state;
    assert_int_equal(arena_open(&a, ROOM_PAGES), 0);
    grow(&a, 0, PAGES);
    /* All but one page of the upper half, and every other one of a part of the lower. */
    uint64_t half = PAGES / 2;
    arena_drop(&a, half + 1, half - 1);
    for (uint64_t page = 0; page < half / 2; page += 2) {
        arena_drop(&a, page, 1);
    }
    uint64_t present = a.present_count + a.stale_count;
    assert_true(present < PAGES - half / 2);
    assert_true(resident_bytes(&a) <= present << PAGE_SHIFT);
    for (uint64_t page = 1; page < half / 2; page += 2) {
        expect(&a, page, page + 1);
    }
    expect(&a, half / 2, half + 1);
    /* And is zero when it is used again. */
    for (uint64_t page = half + 1; page < PAGES; page++) {
        const uint64_t *at = arena_write(&a, page << PAGE_SHIFT, 8);
        assert_true(at[0] == 0);
        assert_true(at[511] == 0);
    }
    grow(&a, 0, PAGES + CHUNK_PAGES);
    expect(&a, 0, PAGES + CHUNK_PAGES);
    arena_close(&a);
}

static void a_region_that_begins_stays_in_small_pages(void **state)
{
    struct arena a;
    (void)state;
    assert_int_equal(arena_open(&a, ROOM_PAGES), 0);
    grow(&a, 0, PAGES);
    uint64_t before = resident_bytes(&a);
    uint64_t far = PAGES + 4 * CHUNK_PAGES;
    grow(&a, far, far + 1);
    assert_int_equal(resident_bytes(&a) - before, PAGE_BYTES);
    arena_close(&a);
}

/* ---- loading: page p has the bytes that grow() writes there, its home is its address ---- */

static void page_make(uint64_t page, uint64_t *bytes)
{
    memset(bytes, 0, PAGE_BYTES);
    bytes[0] = page + 1;
    bytes[511] = ~page;
}

static int source_read(struct arena_source *source, uint64_t home, uint64_t count, void *bytes)
{
    (void)source;
    for (uint64_t i = 0; i < count; i++) {
        page_make((home >> PAGE_SHIFT) + i, (uint64_t *)bytes + i * 512);
    }
    return 0;
}

static void source_close(struct arena_source *source)
{
    (void)source;
}

static void what_is_loaded_in_the_background_lies_in_huge_pages(void **state)
{
    struct arena_source source = {.read = source_read, .close = source_close};
    struct arena a;
    uint64_t bytes[512];
    (void)state;
    assert_int_equal(arena_open(&a, ROOM_PAGES), 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        page_make(page, bytes);
        arena_load_later(&a, page, page_hash(bytes), page << PAGE_SHIFT);
    }
    arena_source_set(&a, &source);
    /* What is wanted early doesn't bring 2 MiB. */
    uint64_t wanted = 3 * CHUNK_PAGES + 7;
    assert_int_equal(arena_load_now(&a, wanted << PAGE_SHIFT, 1), 0);
    assert_int_equal(huge_chunks(&a), 0);
    assert_true(resident_bytes(&a) < CHUNK_PAGES << PAGE_SHIFT);
    for (uint64_t page = 0; page < PAGES; page++) {
        page_make(page, bytes);
        arena_load_give(&a, page, 0, bytes);
    }
    assert_int_equal(a.unloaded_count, 0);
    expect(&a, 0, PAGES);
    assert_true(resident_bytes(&a) <= PAGES << PAGE_SHIFT);
    if (huge_chunks(&a) != 0) {
        assert_int_equal(huge_chunks(&a), PAGES / CHUNK_PAGES);
    }
    arena_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_large_arena_has_huge_pages_with_the_same_bytes),
        cmocka_unit_test(memory_of_dropped_pages_is_given_back_from_huge_pages),
        cmocka_unit_test(what_is_loaded_in_the_background_lies_in_huge_pages),
        cmocka_unit_test(a_region_that_begins_stays_in_small_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
