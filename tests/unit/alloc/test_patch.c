/* Patches: of a page in which little has changed, a checkpoint writes the lines that did. Whatever
 * happens to a page between checkpoints, what is read is what it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "alloc/survey.h"
#include "memdisk.h"
#include "support/fault.h"

#define UID       7
#define BYTES_MAX ((uint64_t)4 << 20)
#define OBJECTS   64u
#define OBJECT    4000u /* a page for each */
#define LINES     (PAGE_BYTES / LINE_BYTES)

struct setting {
    struct memdisk d;
    struct fault f;
    struct image *image;
    struct heap *heap;
    uint64_t ptrs[OBJECTS];
    struct image_result result;
    uint64_t seed;
};

static uint64_t dice(struct setting *s, uint64_t end)
{
    s->seed = s->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (s->seed >> 33) % end;
}

static void answered(void *arg, const struct image_result *result)
{
    *(struct image_result *)arg = *result;
}

static int checkpoint(struct setting *s)
{
    s->result.err = -1;
    assert_int_equal(image_checkpoint(s->image, s->heap, answered, &s->result), 0);
    memdisk_run(&s->d, 1000000);
    return s->result.err;
}

static void reopen(struct setting *s)
{
    struct image_opts opts = {.dir = "/x", .uid = UID, .mode = IMAGE_DISK};
    image_close(s->image);
    heap_free(s->heap);
    assert_int_equal(image_open(&s->f.env, &opts, &s->image, &s->heap, NULL), 0);
}

static void begin(struct setting *s)
{
    heap_begin(s->heap, heap_index(s->heap) + 1, 1, heap_index(s->heap) + 1);
}

static void setting_open(struct setting *s, uint64_t seed)
{
    struct heap_opts create = {.uid = UID, .heap_id = 1, .bytes_max = BYTES_MAX};
    memset(s, 0, sizeof *s);
    s->seed = seed;
    memdisk_open(&s->d);
    fault_init(&s->f, &s->d.env);
    reopen(s);
    assert_null(s->heap);
    assert_int_equal(heap_create(&create, &s->heap), 0);
    begin(s);
    for (unsigned i = 0; i < OBJECTS; i++) {
        assert_int_equal(heap_alloc(s->heap, heap_next_version(s->heap), OBJECT, 1,
                                    slice_of(NULL, 0), &s->ptrs[i]),
                         0);
    }
    heap_end(s->heap);
    assert_int_equal(checkpoint(s), 0);
}

static void setting_close(struct setting *s)
{
    image_close(s->image);
    heap_free(s->heap);
    memdisk_close(&s->d);
}

static void change(struct setting *s, unsigned object, uint64_t offset)
{
    uint64_t value = dice(s, UINT64_MAX);
    begin(s);
    assert_int_equal(heap_write(s->heap, heap_next_version(s->heap), s->ptrs[object], offset,
                                slice_of(&value, sizeof value)),
                     0);
    heap_end(s->heap);
}

/* What is on the disk, read page by page, is the heap. */
static void disk_is_heap(struct setting *s)
{
    struct heap *again = NULL;
    struct err_text e = {""};
    if (image_read(&s->d.env, "/x", UID, IMAGE_DISK, &again, &e) != 0) {
        fail_msg("%s", e.text);
    }
    assert_true(heap_digest(again) == heap_digest(s->heap));
    const struct arena *a = &s->heap->arena;
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        assert_true(again->arena.patched[p] == a->patched[p]);
        assert_true(__builtin_popcountll(a->patched[p]) <= PATCH_LINES_MAX);
    }
    heap_free(again);
}

/* ---- the tests ---- */

/* Any patches on each other, with what needn't be read left out. */
static void patches_lie_on_each_other(void **state)
{
    (void)state;
    struct setting s = {.seed = 1};
    for (int round = 0; round < 300; round++) {
        struct buf patches;
        static uint8_t kept[40][PAGE_BYTES];
        uint8_t page[PAGE_BYTES];
        uint8_t base[PAGE_BYTES];
        uint64_t home = image_home(3, 5 * PAGE_BYTES);
        buf_init(&patches);
        memset(base, round, sizeof base);
        memcpy(page, base, sizeof page);
        uint64_t count = 1 + dice(&s, 40);
        for (uint64_t i = 0; i < count; i++) {
            struct pages_patch what;
            uint64_t lines = 0;
            for (uint64_t n = 1 + dice(&s, 6); n > 0; n--) {
                uint64_t line = dice(&s, LINES);
                lines |= (uint64_t)1 << line;
                memset(page + line * LINE_BYTES, (int)dice(&s, 256), LINE_BYTES);
            }
            assert_int_equal(image_patch_make(lines, page, &what, kept[i]),
                             image_patch_bytes(lines));
            assert_int_equal(image_patch_add(&patches, &what, i, &home), 0);
        }
        const struct image_patch *chain[LINES];
        uint64_t covered = 0;
        size_t links = 0;
        for (; (home & HOME_PATCHED) != 0; home = chain[links++]->below) {
            chain[links] = image_patch_of(&patches, home);
            assert_true((chain[links]->what.lines & ~covered) != 0);
            covered |= chain[links]->what.lines;
        }
        assert_true(home == image_home(3, 5 * PAGE_BYTES));
        while (links-- > 0) {
            assert_true(image_patch_apply(&chain[links]->what, kept[chain[links]->at], base));
        }
        assert_memory_equal(base, page, PAGE_BYTES);
        kept[0][0] ^= 1;
        assert_false(
            image_patch_apply(&image_patch_of(&patches, HOME_PATCHED)->what, kept[0], base));
        buf_close(&patches);
    }
}

static void little_is_written_for_little(void **state)
{
    (void)state;
    static struct setting s;
    setting_open(&s, 2);
    for (unsigned i = 0; i < OBJECTS; i++) {
        change(&s, i, 8 * dice(&s, OBJECT / 8));
    }
    assert_int_equal(checkpoint(&s), 0);
    assert_int_equal(s.result.pages_written, OBJECTS + 1); /* and the header */
    /* Head, the header's page, of each object at most the lines of its version and the word; table,
     * footer. */
    assert_true(s.result.bytes_written <=
                (2 + (2 * OBJECTS * LINE_BYTES + PAGE_BYTES - 1) / PAGE_BYTES + 2) * PAGE_BYTES);
    disk_is_heap(&s);
    for (unsigned line = 0; line < PATCH_LINES_MAX + 2; line++) {
        change(&s, 0, 40 + line * LINE_BYTES);
    }
    assert_int_equal(checkpoint(&s), 0);
    assert_int_equal(s.result.pages_written, 2);
    assert_int_equal(s.result.bytes_written, 5 * PAGE_BYTES); /* two whole pages */
    disk_is_heap(&s);
    setting_close(&s);
}

/* A page is written whole before too many patches lie on it, and never where they cover each other.
 */
static void patches_stay_few(void **state)
{
    (void)state;
    static struct setting s;
    setting_open(&s, 3);
    uint64_t whole = 0;
    for (unsigned round = 0; round < 40; round++) {
        change(&s, 1, 8);
        change(&s, 2, 8 + round % 62 * LINE_BYTES);
        assert_int_equal(checkpoint(&s), 0);
        const struct arena *a = &s.heap->arena;
        uint64_t most = 0;
        uint64_t patched = 0;
        for (uint64_t p = 0; p < a->pages; p++) {
            uint64_t lines = (uint64_t)__builtin_popcountll(a->patched[p]);
            most = lines > most ? lines : most;
            patched += lines != 0;
        }
        struct image_stats stats;
        image_get_stats(s.image, &stats);
        if (stats.delta_count > 0) {
            assert_in_range(most, 1, 16);
            whole += patched == 1; /* of the two the one whose patch is always the same */
        }
        disk_is_heap(&s);
    }
    assert_in_range(whole, 1, 4);
    setting_close(&s);
}

static void step(struct setting *s)
{
    unsigned object = (unsigned)dice(s, OBJECTS);
    begin(s);
    uint64_t version = heap_next_version(s->heap);
    if (dice(s, 12) == 0) { /* its page may become absent, and present again */
        uint64_t size = dice(s, 2) == 0 ? OBJECT : 1 + dice(s, 2 * OBJECT);
        assert_int_equal(heap_free_object(s->heap, version, s->ptrs[object]), 0);
        if (dice(s, 2) == 0) {
            heap_end(s->heap);
            (void)heap_digest(s->heap);
            begin(s);
            version = heap_next_version(s->heap);
        }
        assert_int_equal(heap_alloc(s->heap, version, size < 64 ? 64 : size, 1, slice_of(NULL, 0),
                                    &s->ptrs[object]),
                         0);
    }
    struct heap_object o;
    assert_int_equal(heap_stat(s->heap, s->ptrs[object], &o), 0);
    uint64_t value = dice(s, UINT64_MAX);
    assert_int_equal(heap_write(s->heap, version, s->ptrs[object], dice(s, o.size - 8),
                                slice_of(&value, sizeof value)),
                     0);
    heap_end(s->heap);
}

/* Changes, views, digests, checkpoints that succeed, fail, gather, replace, go on meanwhile;
 * reopening, with pages read or not. */
static void what_is_read_is_what_was(void **state)
{
    (void)state;
    static struct setting s;
    uint64_t small = 0;
    uint64_t failed = 0;
    for (uint64_t seed = 10; seed < 14; seed++) {
        struct view *view = NULL;
        setting_open(&s, seed);
        for (int round = 0; round < 400; round++) {
            for (uint64_t n = 1 + dice(&s, 12); n > 0; n--) {
                step(&s);
                if (dice(&s, 16) == 0) {
                    (void)heap_digest(s.heap);
                }
                if (view == NULL && dice(&s, 16) == 0) {
                    assert_int_equal(view_open(s.heap, &view), 0);
                }
            }
            if (view != NULL && dice(&s, 3) == 0) {
                view_close(view);
                view = NULL;
            }
            uint64_t how = dice(&s, 10);
            if (how == 0) {
                fault_file(&s.f, 0, 1, ERR_DISKFULL, FAULT_WRITE);
                assert_int_equal(checkpoint(&s), ERR_DISKFULL);
                fault_off(&s.f);
                failed++;
                continue; /* what it would have written is written by the next one */
            }
            if (how == 1) {
                image_gather(s.image, s.heap);
            }
            s.result.err = -1;
            assert_int_equal(
                (how == 2 ? image_replace : image_checkpoint)(s.image, s.heap, answered, &s.result),
                0);
            uint64_t digest = heap_digest(s.heap);
            for (uint64_t n = dice(&s, 4); n > 0; n--) {
                memdisk_run(&s.d, 1);
                step(&s);
            }
            memdisk_run(&s.d, 1000000);
            assert_int_equal(s.result.err, 0);
            small += s.result.bytes_written < s.result.pages_written * PAGE_BYTES;
            struct heap *again = NULL;
            assert_int_equal(image_read(&s.d.env, "/x", UID, IMAGE_DISK, &again, NULL), 0);
            assert_true(heap_digest(again) == digest);
            heap_free(again);
            if (dice(&s, 8) == 0 && view == NULL) {
                assert_int_equal(checkpoint(&s), 0);
                disk_is_heap(&s);
                digest = heap_digest(s.heap);
                reopen(&s);
                assert_true(heap_digest(s.heap) == digest);
                if (dice(&s, 2) == 0) {
                    assert_int_equal(heap_load_all(s.heap, NULL), 0);
                    assert_int_equal(heap_check(s.heap, NULL), 0);
                }
            }
        }
        if (view != NULL) {
            view_close(view);
        }
        setting_close(&s);
    }
    assert_true(small > 300);
    assert_true(failed > 20);
}

/* Where little changes, the base isn't written again for the number of deltas alone. */
static void small_deltas_become_one(void **state)
{
    (void)state;
    static struct setting s;
    unsigned merges = 0;
    unsigned failed = 0;
    setting_open(&s, 5);
    uint64_t base = s.image->super.files[0].sequence;
    for (int round = 0; round < 300; round++) {
        uint32_t files = s.image->super.file_count;
        for (uint64_t n = 1 + dice(&s, 4); n > 0; n--) {
            step(&s);
        }
        if (files == 49 && dice(&s, 2) == 0) {
            fault_file(&s.f, 0, 1, ERR_DISKFULL, FAULT_WRITE);
            assert_int_equal(checkpoint(&s), ERR_DISKFULL);
            fault_off(&s.f);
            failed++;
            step(&s);
        }
        assert_int_equal(checkpoint(&s), 0);
        assert_int_equal(s.image->super.files[0].sequence, base);
        assert_in_range(s.image->super.file_count, 2, 49);
        bool merged = s.image->super.file_count < files;
        merges += merged;
        if (merged || round % 20 == 0) {
            disk_is_heap(&s);
        }
        if (merged && merges == 4) { /* what deltas have that were there before isn't known */
            uint64_t digest = heap_digest(s.heap);
            reopen(&s);
            assert_true(heap_digest(s.heap) == digest);
        }
    }
    assert_in_range(merges, 5, 30);
    assert_in_range(failed, 1, 30);
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patches_lie_on_each_other), cmocka_unit_test(little_is_written_for_little),
        cmocka_unit_test(patches_stay_few),          cmocka_unit_test(small_deltas_become_one),
        cmocka_unit_test(what_is_read_is_what_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
