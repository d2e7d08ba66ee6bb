/* The check: heaps of all shapes are never accused, and whatever is damaged in one is found. Damage
 * is done to the arena's bytes directly, one thing at a time, and taken back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/page_hash.h"
#include "heap_driver.h"
#include "injection.h"

#define HEAPS      100
#define INJECTIONS 1000

struct findings {
    uint64_t damage, dangling;
    char code[32];
    char text[ERR_TEXT_BYTES]; /* the first of DAMAGE */
};

static void note(void *arg, enum heap_severity severity, const char *code, const char *text)
{
    struct findings *f = arg;
    if (severity == HEAP_FINDING_DANGLING) {
        f->dangling++;
    } else if (f->damage++ == 0) {
        (void)snprintf(f->code, sizeof f->code, "%s", code);
        (void)snprintf(f->text, sizeof f->text, "%s", text);
    }
}

static struct findings check_all(const struct heap *heap)
{
    struct findings f = {0};
    uint64_t damage = heap_check_all(heap, 100000, note, &f);
    assert_int_equal(damage, f.damage);
    return f;
}

/* Heaps of many shapes, by number. */
static void driver_open_some(struct driver *d, uint64_t seed)
{
    static const uint64_t sizes[] = {2, 4, 8, 24};
    static const uint32_t shifts[] = {0, 0, 10, 13, 16};
    static const uint64_t largest[] = {2000, 30000, 200000, (uint64_t)5 << 19};
    uint64_t bytes = sizes[seed % 4] << 20;
    driver_open(d, seed, bytes, shifts[seed % 5], seed % 3 == 0 ? 0 : seed % 3 * 200,
                largest[seed % 4]);
}

static void must_be_sound(const struct driver *d, uint64_t seed, int step)
{
    struct err_text e = {""};
    if (heap_check(d->heap, &e) != 0) {
        fail_msg("seed %" PRIu64 ", step %d: %s", seed, step, e.text);
    }
    struct findings f = check_all(d->heap);
    if (f.damage != 0 || f.dangling != driver_dangling(d)) {
        fail_msg("seed %" PRIu64 ", step %d: %" PRIu64 " %s %s, %" PRIu64 " dangling of %" PRIu64,
                 seed, step, f.damage, f.code, f.text, f.dangling, driver_dangling(d));
    }
}

static void healthy_heaps_are_never_accused(void **state)
{
    (void)state;
    uint64_t dangling = 0;
    uint64_t full = 0;
    struct driver *d = malloc(sizeof *d);
    assert_non_null(d);
    for (uint64_t seed = 1; seed <= HEAPS; seed++) {
        driver_open_some(d, seed);
        for (int i = 1; i <= 900; i++) {
            driver_step(d);
            if (i % 150 == 0) {
                must_be_sound(d, seed, i);
            }
        }
        dangling += driver_dangling(d);
        full += d->nospace > 0;
        driver_close(d);
    }
    print_message("%d heaps, %" PRIu64 " pointers dangle, %" PRIu64 " heaps were full\n", HEAPS,
                  dangling, full);
    assert_true(dangling > 100);
    assert_true(full > 10);
    free(d);
}

/* ---- damage ---- */

/* Both must see it; then it is taken back, and neither may. */
static bool inject(struct driver *d, struct driver *chance, size_t kind, uint64_t seed)
{
    struct injection x = {.heap = d->heap, .chance = chance};
    if (!injection_kinds[kind].hit(&x)) {
        return false;
    }
    assert_true(x.count > 0);
    struct err_text e = {""};
    int rv = heap_check(d->heap, &e);
    struct findings f = check_all(d->heap);
    if (rv != ERR_CORRUPT || f.damage == 0 || e.text[0] == '\0') {
        fail_msg("seed %" PRIu64 ", %s: %zu bytes changed, the first at %" PRIu64
                 ": not found (%d, %" PRIu64 ")",
                 seed, injection_kinds[kind].name, x.count,
                 (uint64_t)(x.edits[0].at - d->heap->arena.base), rv, f.damage);
    }
    injection_take_back(&x);
    return true;
}

static void every_damage_is_found(void **state)
{
    (void)state;
    uint64_t found[32] = {0};
    assert_true(injection_kind_count <= 32);
    uint64_t all = 0;
    struct driver *d = malloc(sizeof *d);
    struct driver chance = {.seed = 99};
    assert_non_null(d);
    for (uint64_t seed = 1; all < INJECTIONS; seed++) {
        assert_true(seed < 400);
        driver_open_some(d, seed * 7);
        for (int i = 0; i < 700; i++) {
            driver_step(d);
        }
        for (int i = 0; i < 40; i++) {
            size_t kind = (size_t)(driver_random(&chance) % injection_kind_count);
            bool hit = inject(d, &chance, kind, seed);
            found[kind] += hit;
            all += hit;
        }
        assert_int_equal(heap_check(d->heap, NULL), 0);
        driver_close(d);
    }
    for (size_t i = 0; i < injection_kind_count; i++) {
        print_message("%6" PRIu64 " %s\n", found[i], injection_kinds[i].name);
        assert_true(found[i] >= 10);
    }
    print_message("%" PRIu64 " injections, all found\n", all);
    free(d);
}

/* ---- what leads nowhere, and what it says ---- */

static void a_pointer_to_nothing_is_told_from_damage(void **state)
{
    (void)state;
    struct driver *d = malloc(sizeof *d);
    assert_non_null(d);
    driver_open(d, 5, 4 << 20, 0, 0, 3000);
    uint64_t nodes[3];
    heap_begin(d->heap, 2, 1, 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            heap_alloc(d->heap, heap_next_version(d->heap), 40, 1, slice_of(NULL, 0), &nodes[i]),
            0);
    }
    uint64_t foreign = ptr_make(6, 1, 12345); /* another shard's: not for us to judge */
    const uint64_t targets[3] = {nodes[1], nodes[2], foreign};
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(heap_write(d->heap, heap_next_version(d->heap), nodes[0], 8 + i * 8,
                                    slice_of(&targets[i], 8)),
                         0);
    }
    struct heap_command c = {
        .kind = HEAP_COMMAND_ROOT_SET, .name = slice_of("top", 3), .ptr = nodes[2]};
    struct heap_outcome out;
    assert_int_equal(heap_apply(d->heap, heap_next_version(d->heap), &c, &out), 0);
    heap_end(d->heap);
    struct findings f = check_all(d->heap);
    assert_int_equal(f.damage + f.dangling, 0);
    heap_begin(d->heap, 3, 1, 3);
    assert_int_equal(heap_free_object(d->heap, heap_next_version(d->heap), nodes[2]), 0);
    heap_end(d->heap);
    f = check_all(d->heap);
    assert_int_equal(f.damage, 0);
    assert_int_equal(f.dangling, 2); /* the root, and one field */
    assert_int_equal(heap_check(d->heap, NULL), 0);
    /* At most as many as were asked for. */
    f = (struct findings){0};
    assert_int_equal(heap_check_all(d->heap, 1, note, &f), 0);
    assert_int_equal(f.dangling, 1);
    driver_close(d);
    free(d);
}

static void every_dangling_pointer_is_found(void **state)
{
    (void)state;
    uint64_t tries = 0;
    uint64_t more = 0;
    struct driver *d = malloc(sizeof *d);
    struct driver chance = {.seed = 7};
    assert_non_null(d);
    for (uint64_t seed = 1; tries < 400; seed++) {
        driver_open_some(d, seed * 5);
        for (int i = 0; i < 500; i++) {
            driver_step(d);
        }
        uint64_t before = driver_dangling(d);
        struct injection x = {.heap = d->heap, .chance = &chance};
        for (int i = 0; i < 25; i++) {
            uint64_t address = injection_some_pointer(&x);
            if (address == 0) {
                continue;
            }
            injection_flip(&x, address,
                           driver_random(&chance) % (PTR_SLOT_BITS + PTR_GENERATION_BITS));
            struct findings f = check_all(d->heap);
            if (f.damage != 0 || f.dangling != driver_dangling(d)) {
                fail_msg("seed %" PRIu64 ": %s %s, %" PRIu64 " of %" PRIu64, seed, f.code, f.text,
                         f.dangling, driver_dangling(d));
            }
            more += f.dangling > before;
            tries++;
            injection_take_back(&x);
        }
        driver_close(d);
    }
    print_message("%" PRIu64 " pointers changed, %" PRIu64 " of them lead nowhere now\n", tries,
                  more);
    assert_true(more > 350);
    free(d);
}

/* ---- hostile arenas ---- */

static bool opened(const struct heap *victim, const uint8_t *pages, struct heap **out)
{
    struct heap_receive *r = NULL;
    const struct arena *a = &victim->arena;
    uint64_t digest = 0;
    const uint8_t *at_page = pages;
    assert_int_equal(heap_receive_open(heap_page_count(victim), header(victim)->bytes_max, &r), 0);
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        assert_int_equal(heap_receive_page(r, p, at_page), 0);
        digest += page_share(p, page_hash(at_page));
        at_page += PAGE_BYTES;
    }
    const struct heap_header *hd = (const struct heap_header *)(const void *)pages;
    return heap_receive_finish(r, hd->uid, hd->index, hd->term, digest, out) == 0;
}

/* Bytes are changed behind the checksum. What is let pass is used like any other heap. */
static void what_passes_the_check_can_be_used(void **state)
{
    (void)state;
    struct driver *d = malloc(sizeof *d);
    struct driver *use = malloc(sizeof *use);
    uint64_t passed = 0;
    uint64_t refused = 0;
    assert_non_null(d);
    assert_non_null(use);
    for (uint64_t seed = 1; seed <= 12; seed++) {
        driver_open(d, seed, 4 << 20, seed % 2 == 0 ? 0 : 12, seed % 3 * 100, 9000);
        for (int i = 0; i < 500; i++) {
            driver_step(d);
        }
        const struct arena *a = &d->heap->arena;
        size_t count = (size_t)a->present_count;
        uint8_t *pages = malloc(count * PAGE_BYTES);
        assert_non_null(pages);
        for (int round = 0; round < 60; round++) {
            size_t n = 0;
            for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
                memcpy(pages + n++ * PAGE_BYTES, a->base + (p << PAGE_SHIFT), PAGE_BYTES);
            }
            assert_int_equal(n, count);
            uint64_t bytes = 1 + driver_random(d) % 3;
            for (uint64_t i = 0; i < bytes; i++) {
                /* Most often in the metadata, which comes first. */
                uint64_t pool = driver_random(d) % 4 == 0 ? count : count < 8 ? count : 8;
                pages[driver_random(d) % (pool * PAGE_BYTES)] ^=
                    (uint8_t)(1u << driver_random(d) % 8);
            }
            memset(use, 0, sizeof *use);
            if (!opened(d->heap, pages, &use->heap)) {
                refused++;
                continue;
            }
            passed++;
            use->seed = seed * 1000 + (uint64_t)round;
            use->size_max = 20000;
            struct heap_object list[64];
            uint64_t next = 0;
            use->count = heap_list_objects(use->heap, 0, list, 64, &next);
            for (size_t i = 0; i < use->count; i++) {
                use->ptrs[i] = list[i].ptr;
            }
            if (heap_index(use->heap) < UINT64_MAX >> 20) {
                for (int i = 0; i < 150; i++) {
                    driver_step(use);
                }
            }
            assert_int_equal(heap_check(use->heap, NULL), 0);
            driver_close(use);
        }
        free(pages);
        driver_close(d);
    }
    print_message("%" PRIu64 " refused, %" PRIu64 " used\n", refused, passed);
    assert_true(refused > 100);
    assert_true(passed > 20);
    free(use);
    free(d);
}

/* Growing such a block in place can't be taken back: heap_realloc() relies on it. */
static void an_extent_as_small_as_a_slabs_block_is_refused(void **state)
{
    (void)state;
    struct heap *h = NULL;
    struct heap_opts opts = {.uid = 1, .heap_id = 1, .bytes_max = 1 << 20};
    uint64_t ptr = 0;
    assert_int_equal(heap_create(&opts, &h), 0);
    heap_begin(h, 1, 1, 1);
    assert_int_equal(
        heap_alloc(h, heap_next_version(h), 5000, OBJECT_NARROW_TYPES, slice_of(NULL, 0), &ptr), 0);
    heap_end(h);
    assert_int_equal(heap_check(h, NULL), 0);
    uint64_t place = slot_word_place(slot_get(h, ptr_slot(ptr)));
    uint64_t before = block_bytes(h, place);
    assert_true(extent_resize(h, place_granule(h, place), 256));
    struct object_header_wide *o =
        arena_write(&h->arena, block_address(h, place), sizeof(struct object_header_wide));
    o->size = 100;
    header_edit(h)->object_bytes = 100;
    header_edit(h)->block_bytes[POOL_OBJECTS] -= before - block_bytes(h, place);
    assert_int_equal(heap_check(h, NULL), ERR_CORRUPT);
    assert_string_equal(check_all(h).code, "extent-size");
    heap_free(h);
}

/* The trees hold, and what stands in them can't be: each kind is found, and found under its name.
 */
static void a_record_that_cant_be_is_found(void **state)
{
    (void)state;
    const uint64_t later[2] = {(uint64_t)1 << 32 | 1, UINT64_MAX};
    const uint64_t half[2] = {0, 1};
    const struct {
        enum heap_map map;
        struct slice key, value;
        const char *code, *text;
    } wrong[] = {
        {HEAP_MAP_ROOTS, slice_of("r", 1), slice_of(later, 8), "root-record", "has 8 bytes"},
        {HEAP_MAP_ROOTS, slice_of("r", 1), slice_of(later, 16), "root-record", "version"},
        {HEAP_MAP_ROOTS, slice_of("r", 1), slice_of(half, 16), "root-record", "version"},
        {HEAP_MAP_ROOTS, slice_of("a\0b", 3), slice_of(half, 16), "root-record", "not a name"},
        {HEAP_MAP_UNDO, slice_of("12345678", 8), slice_of(half, 4), "undo-map", "8 and 4 bytes"},
        {HEAP_MAP_UNDO, slice_of("1234", 4), slice_of(half, 8), "undo-map", "4 and 8 bytes"},
        {HEAP_MAP_LEASES, slice_of("1234", 4), slice_of(half, 16), "lease-record", "4 and"},
        {HEAP_MAP_LEASES, slice_of("12345678", 8), slice_of(half, 4), "lease-record", "8 and 4"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct heap *h = NULL;
        struct heap_opts opts = {.uid = 1, .heap_id = 1, .bytes_max = 1 << 20};
        assert_int_equal(heap_create(&opts, &h), 0);
        heap_begin(h, 1, 1, 1);
        assert_int_equal(heap_map_put(h, wrong[i].map, wrong[i].key, wrong[i].value), 0);
        heap_end(h);
        struct findings f = check_all(h);
        assert_true(f.damage > 0);
        assert_string_equal(f.code, wrong[i].code);
        if (strstr(f.text, wrong[i].text) == NULL) {
            fail_msg("\"%s\" isn't in \"%s\"", wrong[i].text, f.text);
        }
        heap_free(h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(healthy_heaps_are_never_accused),
        cmocka_unit_test(every_damage_is_found),
        cmocka_unit_test(a_pointer_to_nothing_is_told_from_damage),
        cmocka_unit_test(every_dangling_pointer_is_found),
        cmocka_unit_test(what_passes_the_check_can_be_used),
        cmocka_unit_test(an_extent_as_small_as_a_slabs_block_is_refused),
        cmocka_unit_test(a_record_that_cant_be_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
