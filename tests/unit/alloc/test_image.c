/* The image in disk mode: on a recording disk cut at every point, on a failing one, and on the real
 * one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/image.h"
#include "alloc/survey.h"
#include "base/env_uv.h"
#include "base/mem.h"
#include "heap_model.h"
#include "memdisk.h"
#include "support/dir.h"
#include "support/fault.h"

#define UID 7

static struct heap *heap_new(uint64_t bytes_max)
{
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = bytes_max};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

struct answer {
    int calls;
    struct image_result result;
    struct env *stop; /* a real loop to stop */
};

static void answered(void *arg, const struct image_result *result)
{
    struct answer *a = arg;
    a->calls++;
    a->result = *result;
    if (a->stop != NULL) {
        env_uv_stop(a->stop);
    }
}

static int open_image(struct env *env, const char *dir, uint64_t mark, struct image **image,
                      struct heap **heap, struct err_text *e)
{
    struct image_opts opts = {.dir = dir, .uid = UID, .mode = IMAGE_DISK, .mark_sequence = mark};
    return image_open(env, &opts, image, heap, e);
}

/* One copy is checkpointed, closed and reopened at random moments; the other only ever applies. */
static void byte_equality(uint64_t seed, uint64_t bytes_max, uint64_t size_max)
{
    struct memdisk d;
    struct model *m = malloc(sizeof *m);
    struct model chance = {.seed = seed * 31};
    struct image *image = NULL;
    struct heap *none = NULL;
    struct answer a = {0};
    uint64_t reopened = 0;
    assert_non_null(m);
    model_open(m, seed);
    memdisk_open(&d);
    assert_int_equal(open_image(&d.env, "/x", 0, &image, &none, NULL), 0);
    assert_null(none);
    struct heap *heaps[2] = {heap_new(bytes_max), heap_new(bytes_max)};
    uint64_t mark = 0;
    for (int i = 0; i < 3000; i++) {
        model_step(m, heaps, 2, size_max);
        uint64_t roll = model_random(&chance) % 100;
        if (roll < 6 && !image_busy(image)) {
            assert_int_equal(image_checkpoint(image, heaps[0], answered, &a), 0);
        } else if (roll < 50) {
            memdisk_run(&d, 1);
        } else if (roll == 99) {
            memdisk_run(&d, 1000000);
            assert_false(image_busy(image));
            if (model_random(&chance) % 2 == 0) {
                image_gather(image, heaps[0]);
            }
            assert_int_equal(image_checkpoint(image, heaps[0], answered, &a), 0);
            memdisk_run(&d, 1000000);
            assert_int_equal(a.result.err, 0);
            assert_int_equal(a.result.index, heap_index(heaps[0]));
            mark = a.result.sequence;
            image_close(image);
            heap_free(heaps[0]);
            struct err_text e = {""};
            int rv = open_image(&d.env, "/x", mark, &image, &heaps[0], &e);
            if (rv != 0) {
                fail_msg("%d %s", rv, e.text);
            }
            reopened++;
        }
        assert_int_equal(a.result.err, 0);
    }
    assert_true(reopened > 5);
    memdisk_run(&d, 1000000);
    model_check(m, heaps[0]);
    model_check(m, heaps[1]);
    model_equal(heaps[0], heaps[1]);
    image_close(image);
    heap_free(heaps[0]);
    heap_free(heaps[1]);
    memdisk_close(&d);
    model_close(m);
    free(m);
}

static void a_checkpointed_and_reopened_heap_equals_one_never_closed(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        byte_equality(seed, seed % 2 == 0 ? (uint64_t)64 << 20 : (uint64_t)2 << 20,
                      seed == 4 ? 1 << 20 : 6000);
    }
}

/* ---- damage ---- */

static void disk_with_checkpoints(struct memdisk *d, int checkpoints)
{
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct answer a = {0};
    struct model *m = malloc(sizeof *m);
    assert_non_null(m);
    model_open(m, 9);
    memdisk_open(d);
    assert_int_equal(open_image(&d->env, "/x", 0, &image, &heap, NULL), 0);
    heap = heap_new(1 << 20);
    for (int i = 0; i < checkpoints; i++) {
        for (int k = 0; k < 30; k++) {
            model_step(m, &heap, 1, 3000);
        }
        assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
        memdisk_run(d, 1000000);
        assert_int_equal(a.result.err, 0);
    }
    image_close(image);
    heap_free(heap);
    model_close(m);
    free(m);
}

/* Any bit of any file that the superblock names: the page or the part of the file is named too, at
 * once or when all is loaded. Nobody misses a page that a later file has, too. */
static void a_flipped_bit_in_the_pages_is_named(void **state)
{
    (void)state;
    struct memdisk d;
    struct model chance = {.seed = 17};
    uint64_t by_page = 0;
    uint64_t late = 0;
    uint64_t superseded = 0;
    struct heap *sound = NULL;
    disk_with_checkpoints(&d, 4);
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_DISK, &sound, NULL), 0);
    uint64_t digest = heap_digest(sound);
    heap_free(sound);
    for (int i = 0; i < 1000; i++) {
        uint64_t which = model_random(&chance) % 64;
        while (d.names[which].file < 0 || strncmp(d.names[which].name, "pages-", 6) != 0) {
            which = (which + 1) % 64;
        }
        struct memdisk_file *f = &d.files[d.names[which].file];
        size_t at = (size_t)model_random(&chance) % f->len;
        f->data[at] ^= (uint8_t)(1u << i % 8);
        struct image *image = NULL;
        struct heap *heap = NULL;
        struct err_text e = {""};
        bool look = i % 2 == 0;
        size_t works = d.log_count;
        int rv = look ? image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e)
                      : open_image(&d.env, "/x", 0, &image, &heap, &e);
        if (rv == 0) {
            assert_int_equal(heap_digest(heap), digest);
            rv = heap_load_all(heap, &e);
            late += rv != 0;
            assert_true(rv == 0 || !look);
            assert_int_equal(rv == 0 ? heap_check(heap, &e) : 0, 0);
        } else {
            assert_null(heap);
            assert_null(image);
            assert_int_equal(d.log_count, works);
        }
        heap_free(heap);
        image_close(image);
        if (rv == 0) {
            superseded++;
        } else if (rv != ERR_CORRUPT || strstr(e.text, d.names[which].name) == NULL) {
            fail_msg("%s, byte %zu: %d %s", d.names[which].name, at, rv, e.text);
        }
        by_page += strstr(e.text, ": page ") != NULL;
        f->data[at] ^= (uint8_t)(1u << i % 8);
    }
    assert_true(by_page + superseded > 700);
    assert_true(by_page > 50);
    assert_true(late > 0);
    memdisk_close(&d);
}

/* One slot may be damaged: then the other counts, unless the log knows of the first. */
static void a_flipped_bit_in_the_superblock_is_refused_or_harmless(void **state)
{
    (void)state;
    struct memdisk d;
    struct heap *heap = NULL;
    struct err_text e = {""};
    uint64_t refused = 0;
    disk_with_checkpoints(&d, 3);
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e), 0);
    uint64_t digest = heap_digest(heap);
    heap_free(heap);
    struct memdisk_file *f = memdisk_file(&d, "super");
    uint8_t before[8192];
    assert_int_equal(f->len, sizeof before);
    memcpy(before, f->data, sizeof before);
    uint64_t sequence = load_u64(before + 24);
    sequence = load_u64(before + 4096 + 24) > sequence ? load_u64(before + 4096 + 24) : sequence;
    for (size_t bit = 0; bit < sizeof before * 8; bit += 61) {
        struct image *image = NULL;
        f->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int rv = open_image(&d.env, "/x", sequence, &image, &heap, &e);
        bool newest = bit / 8 / 4096 == sequence % 2;
        if (rv == 0) {
            assert_false(newest);
            assert_int_equal(heap_digest(heap), digest);
            image_close(image);
            heap_free(heap);
        } else {
            assert_true(newest);
            assert_int_equal(rv, ERR_CORRUPT);
            assert_non_null(strstr(e.text, "super"));
            refused++;
        }
        memcpy(f->data, before, sizeof before);
    }
    assert_true(refused > 500);
    memdisk_close(&d);
}

/* ---- looking only ---- */

static void looking_changes_nothing(void **state)
{
    (void)state;
    struct memdisk d;
    struct heap *heap = NULL;
    struct image *image = NULL;
    struct err_text e = {""};
    memdisk_open(&d);
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "/x"));
    memdisk_close(&d);
    disk_with_checkpoints(&d, 3);
    memdisk_record(&d);
    size_t before = d.log_count;
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e), 0);
    uint64_t digest = heap_digest(heap);
    heap_free(heap);
    assert_int_equal(image_read(&d.env, "/x", UID + 1, IMAGE_DISK, &heap, &e), ERR_WRONGCLUSTER);
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_PMEM, &heap, &e), ERR_UNSUPPORTED);
    assert_int_equal(d.log_count, before);
    /* Also while somebody has it open. */
    struct heap *own = NULL;
    assert_int_equal(open_image(&d.env, "/x", 0, &image, &own, &e), 0);
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e), 0);
    assert_int_equal(heap_digest(heap), digest);
    heap_free(heap);
    heap_free(own);
    image_close(image);
    memdisk_close(&d);
}

static void first_finding(void *arg, enum heap_severity severity, const char *code,
                          const char *text)
{
    char *to = arg;
    if (severity == HEAP_FINDING_DAMAGE && to[0] == '\0') {
        (void)snprintf(to, 128, "%s: %s", code, text);
    }
}

/* A fault before the checksums were made: every page is as it was written, but the heap is wrong.
 */
static void damage_below_the_checksums_is_found_too(void **state)
{
    (void)state;
    struct memdisk d;
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct answer a = {0};
    struct err_text e = {""};
    char found[128] = "";
    uint64_t damage = 0;
    memdisk_open(&d);
    assert_int_equal(open_image(&d.env, "/x", 0, &image, &heap, NULL), 0);
    heap = heap_new(1 << 20);
    heap_begin(heap, 1, 1, 1);
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(heap, 1, 100, 0, slice_of("abc", 3), &ptr), 0);
    heap_end(heap);
    header_edit(heap)->object_count++;
    assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
    memdisk_run(&d, 1000);
    assert_int_equal(a.result.err, 0);
    image_close(image);
    heap_free(heap);
    assert_int_equal(image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e), ERR_CORRUPT);
    assert_null(heap);
    assert_int_equal(
        image_check(&d.env, "/x", UID, IMAGE_DISK, 10, first_finding, found, &damage, &e), 0);
    assert_int_equal(damage, 1);
    assert_non_null(strstr(found, "count: live objects"));
    memdisk_close(&d);
}

/* The first half of opening only reads; the second leaves nothing to the page cache. */
static void settling_may_come_later(void **state)
{
    (void)state;
    struct memdisk d;
    disk_with_checkpoints(&d, 3);
    struct image_opts opts = {.dir = "/x", .uid = UID, .mode = IMAGE_DISK, .settle_later = true};
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct image_stats before;
    struct image_stats after;
    size_t synced[MEMDISK_FILES] = {0};
    memdisk_record(&d);
    size_t begun = d.log_count;
    assert_int_equal(image_open(&d.env, &opts, &image, &heap, NULL), 0);
    image_get_stats(image, &before);
    assert_int_equal(heap_check(heap, NULL), 0);
    assert_int_equal(d.log_count, begun);
    assert_int_equal(image_settle(image, NULL), 0);
    image_get_stats(image, &after);
    assert_int_equal(after.sequence, before.sequence + 1);
    size_t names = 0;
    for (size_t i = begun; i < d.log_count; i++) {
        if (d.log[i].kind == MD_SYNC) {
            synced[d.log[i].file]++;
        }
        names += d.log[i].kind == MD_DIRSYNC;
    }
    assert_int_equal(names, 1);
    for (size_t i = 0; i < sizeof d.names / sizeof d.names[0]; i++) {
        assert_true(d.names[i].file < 0 || synced[d.names[i].file] == 1);
    }
    image_close(image);
    heap_free(heap);
    assert_int_equal(open_image(&d.env, "/x", after.sequence, &image, &heap, NULL), 0);
    image_close(image);
    heap_free(heap);
    memdisk_close(&d);
}

static void what_the_log_knows_better_is_refused(void **state)
{
    (void)state;
    struct memdisk d;
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct err_text e = {""};
    disk_with_checkpoints(&d, 2);
    assert_int_equal(open_image(&d.env, "/x", 1000, &image, &heap, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "older"));
    struct image_opts other = {.dir = "/x", .uid = UID + 1};
    assert_int_equal(image_open(&d.env, &other, &image, &heap, &e), ERR_WRONGCLUSTER);
    assert_int_equal(image_destroy(&d.env, "/x"), 0);
    for (int i = 0; i < 64; i++) {
        assert_true(d.names[i].file < 0);
    }
    assert_int_equal(open_image(&d.env, "/x", 1, &image, &heap, &e), ERR_CORRUPT);
    assert_int_equal(open_image(&d.env, "/x", 0, &image, &heap, &e), 0);
    assert_null(heap);
    image_close(image);
    memdisk_close(&d);
}

/* ---- faults ---- */

/* Every file operation of a checkpoint fails in turn: the old checkpoint stays, or the new one is
 * there. */
static void every_file_operation_may_fail(void **state)
{
    (void)state;
    const int errors[] = {ERR_IO, ERR_DISKFULL};
    for (size_t which = 0; which < 2; which++) {
        for (int earlier = 0; earlier < 2; earlier++) {
            for (long n = 0;; n++) {
                struct memdisk d;
                struct fault f;
                struct image *image = NULL;
                struct heap *heap = NULL;
                struct answer a = {0};
                memdisk_open(&d);
                fault_init(&f, &d.env);
                assert_int_equal(open_image(&f.env, "/x", 0, &image, &heap, NULL), 0);
                heap = heap_new(1 << 20);
                heap_begin(heap, 1, 1, 1);
                heap_end(heap);
                if (earlier != 0) {
                    assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
                    memdisk_run(&d, 1000);
                    assert_int_equal(a.result.err, 0);
                }
                heap_begin(heap, 2, 1, 1);
                heap_end(heap);
                fault_file(&f, n, 1, errors[which], FAULT_CHANGES | FAULT_OPEN);
                assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
                memdisk_run(&d, 1000);
                long hits = f.hits;
                int op = f.last_op;
                fault_off(&f);
                assert_int_equal(a.calls, 1 + earlier);
                if (a.result.err != 0) {
                    assert_true(hits > 0);
                    int again = image_checkpoint(image, heap, answered, &a);
                    if (again == 0) {
                        assert_int_equal(errors[which], ERR_DISKFULL);
                        memdisk_run(&d, 1000);
                        assert_int_equal(a.result.err, 0);
                    } else {
                        assert_int_equal(again, ERR_IO);
                    }
                    assert_true(op != FAULT_SYNC || again == ERR_IO ||
                                (earlier == 0 && errors[which] == ERR_DISKFULL));
                }
                uint64_t index = a.result.err == 0 ? 2 : 0;
                image_close(image);
                heap_free(heap);
                assert_int_equal(open_image(&d.env, "/x", 0, &image, &heap, NULL), 0);
                if (index == 2) {
                    assert_int_equal(heap_index(heap), 2);
                } else {
                    assert_true(heap == NULL ? earlier == 0 : heap_index(heap) <= 2);
                }
                image_close(image);
                heap_free(heap);
                memdisk_close(&d);
                if (hits == 0) {
                    break;
                }
            }
        }
    }
}

static void lack_of_memory_is_clean(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        struct memdisk d;
        struct image *image = NULL;
        struct heap *heap = NULL;
        struct answer a = {0};
        disk_with_checkpoints(&d, 2);
        mem_fault(n, 1);
        int rv = open_image(&d.env, "/x", 0, &image, &heap, NULL);
        if (rv == 0) {
            rv = image_checkpoint(image, heap, answered, &a);
        }
        if (rv == 0) {
            memdisk_run(&d, 1000);
            rv = a.result.err;
        }
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        assert_true(rv == 0 || rv == ERR_NOMEM);
        if (image != NULL) {
            assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
            memdisk_run(&d, 1000);
            assert_int_equal(a.result.err, 0);
            image_close(image);
            heap_free(heap);
        }
        memdisk_close(&d);
        if (hits == 0) {
            assert_int_equal(rv, 0);
            break;
        }
    }
}

static void closing_in_the_middle_abandons(void **state)
{
    (void)state;
    for (long works = 0; works < 4; works++) {
        struct memdisk d;
        struct image *image = NULL;
        struct heap *heap = NULL;
        struct answer a = {0};
        memdisk_open(&d);
        assert_int_equal(open_image(&d.env, "/x", 0, &image, &heap, NULL), 0);
        heap = heap_new(8 << 20);
        uint64_t ptr = 0;
        uint8_t *junk = calloc(1, 400000);
        heap_begin(heap, 1, 1, 1);
        assert_int_equal(heap_alloc(heap, 1, 400000, 0, slice_of(junk, 400000), &ptr), 0);
        heap_end(heap);
        free(junk);
        assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
        assert_int_equal(image_checkpoint(image, heap, answered, &a), ERR_BUSY);
        memdisk_run(&d, works);
        bool ended = a.calls == 1;
        image_close(image);
        heap_free(heap);
        memdisk_run(&d, 1000);
        assert_int_equal(a.calls, ended);
        assert_int_equal(open_image(&d.env, "/x", 0, &image, &heap, NULL), 0);
        assert_true((heap != NULL) == ended);
        image_close(image);
        heap_free(heap);
        memdisk_close(&d);
    }
}

/* ---- the real disk ---- */

static void the_real_disk_keeps_it_too(void **state)
{
    (void)state;
    struct dir dir;
    struct env *env = NULL;
    char path[DIR_PATH_BYTES];
    dir_open(&dir);
    dir_path(&dir, "shard", path);
    assert_int_equal(env_uv_open(&env), 0);
    struct model *m = malloc(sizeof *m);
    assert_non_null(m);
    model_open(m, 4);
    struct answer a = {.stop = env};
    struct image *image = NULL;
    struct heap *heap = NULL;
    assert_int_equal(open_image(env, path, 0, &image, &heap, NULL), 0);
    assert_null(heap);
    heap = heap_new(16 << 20);
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < 150; i++) {
            model_step(m, &heap, 1, 20000);
        }
        assert_int_equal(image_checkpoint(image, heap, answered, &a), 0);
        env_uv_run(env);
        assert_int_equal(a.calls, round + 1);
        assert_int_equal(a.result.err, 0);
        struct image_stats s;
        image_get_stats(image, &s);
        assert_int_equal(s.index, m->index);
        assert_int_equal(s.sequence, a.result.sequence);
        if (round % 3 == 2) {
            image_close(image);
            heap_free(heap);
            assert_int_equal(open_image(env, path, a.result.sequence, &image, &heap, NULL), 0);
            model_check(m, heap);
        }
    }
    image_close(image);
    heap_free(heap);
    assert_int_equal(image_destroy(env, path), 0);
    env_uv_close(env);
    dir_close(&dir);
    model_close(m);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpointed_and_reopened_heap_equals_one_never_closed),
        cmocka_unit_test(a_flipped_bit_in_the_pages_is_named),
        cmocka_unit_test(a_flipped_bit_in_the_superblock_is_refused_or_harmless),
        cmocka_unit_test(looking_changes_nothing),
        cmocka_unit_test(damage_below_the_checksums_is_found_too),
        cmocka_unit_test(settling_may_come_later),
        cmocka_unit_test(what_the_log_knows_better_is_refused),
        cmocka_unit_test(every_file_operation_may_fail),
        cmocka_unit_test(lack_of_memory_is_clean),
        cmocka_unit_test(closing_in_the_middle_abandons),
        cmocka_unit_test(the_real_disk_keeps_it_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
