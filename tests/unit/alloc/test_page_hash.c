#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "alloc/heap_layout.h"
#include "alloc/page_hash.h"

#define WORDS (PAGE_BYTES / 8)

static uint64_t page[WORDS];
static uint64_t seed;

static uint64_t dice(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed ^ seed >> 33;
}

static void page_make(uint64_t s)
{
    seed = s;
    for (size_t i = 0; i < WORDS; i++) {
        page[i] = dice();
    }
}

/* Whatever instructions the machine has for whole pages. */
static void a_page_is_the_sum_of_its_lines(void **state)
{
    (void)state;
    for (uint64_t s = 0; s < 200; s++) {
        page_make(s);
        if (s == 0) {
            memset(page, 0, sizeof page);
        }
        uint64_t mask = dice();
        uint64_t sum = 0;
        for (uint32_t line = 0; line < 64; line++) {
            sum += page_lines_hash(page, (uint64_t)1 << line);
        }
        assert_int_equal(page_hash(page), sum);
        assert_int_equal(page_lines_hash(page, UINT64_MAX), sum);
        assert_int_equal(page_lines_hash(page, 0), 0);
        assert_int_equal(page_lines_hash(page, mask) + page_lines_hash(page, ~mask), sum);
    }
}

/* On media for ever. */
static void its_values_are_what_they_were(void **state)
{
    (void)state;
    memset(page, 0, sizeof page);
    assert_int_equal(page_hash(page), 0x390e8a0da8629234ull);
    page_make(1);
    assert_int_equal(page_hash(page), 0xd1843815c91116f3ull);
    assert_int_equal(page_lines_hash(page, (uint64_t)1 << 63), 0x4373b0c2bd549953ull);
    assert_int_equal(page_share(7, page_hash(page)), 0x9740bae58684568bull);
}

static void every_bit_counts(void **state)
{
    (void)state;
    static const uint64_t fills[] = {0, UINT64_MAX};
    for (uint64_t s = 0; s < 4; s++) {
        page_make(s);
        if (s < 2) {
            memset(page, (int)(fills[s] & 0xff), sizeof page);
        }
        uint64_t before = page_hash(page);
        for (size_t bit = 0; bit < WORDS * 64; bit++) {
            page[bit / 64] ^= (uint64_t)1 << bit % 64;
            assert_true(page_hash(page) != before);
            page[bit / 64] ^= (uint64_t)1 << bit % 64;
        }
    }
}

/* Also in a page of zeros, where only places and values tell. */
static void what_changes_places_is_seen(void **state)
{
    (void)state;
    for (uint64_t value = 1; value != 0 && value < (uint64_t)1 << 62; value *= 3) {
        uint64_t seen[WORDS];
        for (size_t i = 0; i < WORDS; i++) {
            memset(page, 0, sizeof page);
            page[i] = value;
            seen[i] = page_hash(page);
            for (size_t k = 0; k < i; k++) {
                assert_true(seen[k] != seen[i]);
            }
        }
    }
    page_make(9);
    uint64_t before = page_hash(page);
    for (size_t i = 0; i < WORDS; i++) {
        size_t k = dice() % WORDS;
        uint64_t a = page[i];
        uint64_t b = page[k];
        page[i] = b;
        page[k] = a;
        assert_true(a == b || page_hash(page) != before);
        page[i] = a;
        page[k] = b;
    }
}

static void pages_that_change_places_are_seen(void **state)
{
    (void)state;
    for (uint64_t s = 0; s < 1000; s++) {
        seed = s;
        uint64_t hashes[2] = {dice(), dice()};
        uint64_t pages[2] = {dice() >> 36, dice() >> 36};
        assert_true(page_share(pages[0], hashes[0]) + page_share(pages[1], hashes[1]) !=
                    page_share(pages[0], hashes[1]) + page_share(pages[1], hashes[0]));
        assert_true(page_share(pages[0], hashes[0]) != page_share(pages[1], hashes[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_is_the_sum_of_its_lines),
        cmocka_unit_test(its_values_are_what_they_were),
        cmocka_unit_test(every_bit_counts),
        cmocka_unit_test(what_changes_places_is_seen),
        cmocka_unit_test(pages_that_change_places_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
