/* The seal of pmem mode: what a clean stop leaves is opened unread, damage anywhere in it is found,
 * and nothing but a clean stop leaves one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/image_pmem.h"
#include "alloc/survey.h"
#include "heap_model.h"
#include "memdisk.h"
#include "pmem_power.h"

#define UID       7
#define BYTES_MAX (((uint64_t)4 << 20) + 5 * PAGE_BYTES) /* no whole word of presence bits */

/* An image that is open, a model of its heap, and a heap that was never on media. */
struct setting {
    struct memdisk d;
    struct model m;
    struct image *image;
    struct heap *heaps[2];
};

/* The log says that there was a commit of this sequence. */
static int open_behind(struct setting *s, uint64_t mark_sequence, struct err_text *e)
{
    struct image_opts opts = {
        .dir = "/x", .uid = UID, .mode = IMAGE_PMEM, .mark_sequence = mark_sequence};
    s->image = NULL;
    return image_open(&s->d.env, &opts, &s->image, &s->heaps[0], e);
}

static int open_image(struct setting *s, struct err_text *e)
{
    return open_behind(s, 0, e);
}

static void steps(struct setting *s, int count)
{
    for (int i = 0; i < count; i++) {
        model_step(&s->m, s->heaps, 2, 5000);
        assert_int_equal(image_commit(s->image, s->heaps[0]), 0);
    }
}

static struct setting *setting_new(uint64_t seed)
{
    struct setting *s = calloc(1, sizeof *s);
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = BYTES_MAX};
    assert_non_null(s);
    memdisk_open(&s->d);
    model_open(&s->m, seed);
    assert_int_equal(open_image(s, NULL), 0);
    assert_null(s->heaps[0]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(heap_create(&opts, &s->heaps[i]), 0);
    }
    steps(s, 300);
    return s;
}

static void stop(struct setting *s, bool clean)
{
    if (clean) {
        image_seal(s->image, s->heaps[0]);
    }
    image_close(s->image);
    heap_free(s->heaps[0]);
    s->image = NULL;
    s->heaps[0] = NULL;
    memdisk_run(&s->d, 1000000);
}

static void start(struct setting *s)
{
    struct err_text e = {""};
    if (open_image(s, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void setting_free(struct setting *s)
{
    stop(s, false);
    heap_free(s->heaps[1]);
    model_close(&s->m);
    memdisk_close(&s->d);
    free(s);
}

static struct memdisk_file *file_of(struct setting *s)
{
    return memdisk_file(&s->d, "image.pm");
}

static uint64_t seal_magic(struct setting *s)
{
    struct image_pm pm;
    image_pm_layout(&pm, BYTES_MAX);
    return load_u64(file_of(s)->data + pm.seal_at);
}

static bool was_checked(struct setting *s)
{
    return heap_arena(s->heaps[0])->unloaded_count == 0;
}

static void what_a_clean_stop_leaves_is_opened_unread(void **state)
{
    (void)state;
    struct setting *s = setting_new(1);
    stop(s, true);
    for (int round = 0; round < 40; round++) {
        assert_true(seal_magic(s) == PM_SEAL_MAGIC);
        start(s);
        assert_false(was_checked(s));
        switch (round % 4) {
        case 0: /* nothing at all */
            assert_int_equal(heap_index(s->heaps[0]), heap_index(s->heaps[1]));
            break;
        case 1: /* reading doesn't break it */
            model_check(&s->m, s->heaps[0]);
            assert_true(seal_magic(s) == PM_SEAL_MAGIC);
            break;
        case 2: /* a few changes, with most pages unread */
            steps(s, 1 + round / 4);
            assert_int_equal(seal_magic(s), 0);
            break;
        case 3: /* changes while the others are read in the background */
            for (int i = 0; i < 60; i++) {
                (void)image_fill(s->heaps[0], PAGE_BYTES);
                steps(s, 1);
                memdisk_run(&s->d, 1);
            }
            break;
        }
        stop(s, true);
    }
    start(s);
    model_equal(s->heaps[0], s->heaps[1]);
    setting_free(s);
}

static void what_does_not_fit_the_journal_is_written_with_pages_unread(void **state)
{
    (void)state;
    struct setting *s = setting_new(2);
    stop(s, true);
    start(s);
    assert_false(was_checked(s));
    assert_int_equal(image_pm_replace(s->image, s->heaps[0]), 0);
    assert_int_equal(seal_magic(s), 0);
    stop(s, false);
    start(s);
    assert_true(was_checked(s));
    model_equal(s->heaps[0], s->heaps[1]);
    setting_free(s);
}

static void only_what_is_committed_is_sealed(void **state)
{
    (void)state;
    struct setting *s = setting_new(3);
    struct heap *one = s->heaps[0];
    heap_begin(one, heap_index(one) + 1, 1, 1);
    uint64_t ptr;
    assert_int_equal(heap_alloc(one, heap_next_version(one), 100, 0, slice_of("x", 1), &ptr), 0);
    heap_end(one);
    stop(s, true);
    assert_int_equal(seal_magic(s), 0);
    start(s);
    assert_true(was_checked(s));
    model_equal(s->heaps[0], s->heaps[1]);
    setting_free(s);
}

/* What another machine wrote, or one that doesn't say which it is, is read and checked as a whole.
 */
static void a_foreign_seal_vouches_for_bytes_alone(void **state)
{
    (void)state;
    struct setting *s = setting_new(4);
    static const uint64_t hosts[] = {1, 2, 0, 0, 1, 0};
    for (size_t i = 1; i < sizeof hosts / sizeof hosts[0]; i++) {
        s->d.env.host = hosts[i - 1];
        steps(s, 1);
        stop(s, true);
        s->d.env.host = hosts[i];
        start(s);
        assert_true(was_checked(s));
        model_equal(s->heaps[0], s->heaps[1]);
    }
    setting_free(s);
}

/* Opening says it, or the page that is asked for, and looking does always. */
static void must_be_found(struct setting *s, uint64_t at, bool at_opening)
{
    struct memdisk_file *f = file_of(s);
    uint8_t bit = (uint8_t)(1u << at % 8);
    struct err_text e = {""};
    struct heap *seen = NULL;
    uint64_t damage = 0;
    f->data[at] ^= bit;
    if (image_read(&s->d.env, "/x", UID, IMAGE_PMEM, &seen, &e) != ERR_CORRUPT) {
        fail_msg("byte %" PRIu64 ": looking finds nothing", at);
    }
    assert_int_equal(image_check(&s->d.env, "/x", UID, IMAGE_PMEM, 10, NULL, NULL, &damage, &e),
                     ERR_CORRUPT);
    int rv = open_image(s, &e);
    if (rv == 0 && !at_opening) {
        rv = heap_load_all(s->heaps[0], &e);
        const char *text;
        assert_int_equal(heap_damage(s->heaps[0], &text), rv);
        /* Nothing goes on from there. */
        heap_begin(s->heaps[0], heap_index(s->heaps[0]) + 1, 1, 1);
        heap_end(s->heaps[0]);
        assert_int_equal(image_commit(s->image, s->heaps[0]), rv);
        assert_int_equal(seal_magic(s), PM_SEAL_MAGIC);
        stop(s, true);
    }
    if (rv != ERR_CORRUPT) {
        fail_msg("byte %" PRIu64 ": %s", at, rv == 0 ? "nothing is found" : e.text);
    }
    f->data[at] ^= bit;
}

static void a_flipped_bit_anywhere_is_found(void **state)
{
    (void)state;
    struct setting *s = setting_new(5);
    struct image_pm pm;
    image_pm_layout(&pm, BYTES_MAX);
    uint64_t present = heap_arena(s->heaps[0])->present_count;
    stop(s, true);
    for (uint64_t at = 0; at < sizeof(struct pm_seal); at++) {
        must_be_found(s, pm.seal_at + at, true);
    }
    uint64_t pages = 0;
    for (uint64_t page = 0; page < pm.pages; page++) {
        if (page % 8 == 0) {
            must_be_found(s, pm.presence_at + page / 8, true);
        }
        if ((file_of(s)->data[pm.presence_at + page / 8] >> page % 8 & 1) == 0) {
            continue;
        }
        pages++;
        must_be_found(s, pm.hashes_at + page * 8 + model_random(&s->m) % 8, true);
        must_be_found(s, pm.pages_at + page * PAGE_BYTES + model_random(&s->m) % PAGE_BYTES, false);
    }
    assert_int_equal(pages, present);
    start(s); /* all of it was undone */
    model_equal(s->heaps[0], s->heaps[1]);
    setting_free(s);
}

/* A bit behind the last page, in the word that it shares with pages. */
static void a_page_that_cannot_be_is_found(void **state)
{
    (void)state;
    struct setting *s = setting_new(6);
    struct image_pm pm;
    image_pm_layout(&pm, BYTES_MAX);
    assert_int_not_equal(pm.pages % 64, 0);
    stop(s, true);
    for (uint64_t page = (pm.pages + 7) / 8 * 8; page < (pm.pages + 63) / 64 * 64; page += 8) {
        must_be_found(s, pm.presence_at + page / 8, true);
    }
    start(s);
    setting_free(s);
}

/* An older file that was put back is whole, and wrong. */
static void a_seal_that_is_older_than_the_log_says_is_refused(void **state)
{
    (void)state;
    struct setting *s = setting_new(7);
    struct err_text e = {""};
    struct image_stats stats;
    image_get_stats(s->image, &stats);
    stop(s, true);
    assert_int_equal(open_behind(s, stats.sequence + 1, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "is older than"));
    assert_int_equal(open_behind(s, stats.sequence, &e), 0);
    model_equal(s->heaps[0], s->heaps[1]);
    setting_free(s);
}

/* Its sums are right: nothing but this one number is. */
static void a_seal_that_names_no_half_of_the_journal_is_refused(void **state)
{
    (void)state;
    struct setting *s = setting_new(8);
    struct image_pm pm;
    struct pm_seal seal;
    struct err_text e = {""};
    image_pm_layout(&pm, BYTES_MAX);
    stop(s, true);
    memcpy(&seal, file_of(s)->data + pm.seal_at, sizeof seal);
    for (uint32_t half = 2; half != 0; half *= 2) {
        struct pm_seal bad = seal;
        bad.half = half;
        bad.crc = image_pm_seal_crc(&bad);
        memcpy(file_of(s)->data + pm.seal_at, &bad, sizeof bad);
        assert_int_equal(open_image(s, &e), ERR_CORRUPT);
    }
    memcpy(file_of(s)->data + pm.seal_at, &seal, sizeof seal);
    start(s);
    setting_free(s);
}

/* Of a foreign image opening compares each page: the check of structures doesn't see what objects
 * hold. */
static void damage_in_a_foreign_image_is_found_by_opening(void **state)
{
    (void)state;
    struct setting *s = setting_new(9);
    struct image_pm pm;
    struct err_text e = {""};
    image_pm_layout(&pm, BYTES_MAX);
    s->d.env.host = 1;
    steps(s, 1);
    stop(s, true);
    s->d.env.host = 2;
    uint8_t *data = file_of(s)->data;
    for (uint64_t page = 0; page < pm.pages; page++) {
        if ((data[pm.presence_at + page / 8] >> page % 8 & 1) != 0) {
            uint64_t at = pm.pages_at + page * PAGE_BYTES + model_random(&s->m) % PAGE_BYTES;
            data[at] ^= 1;
            assert_int_equal(open_image(s, &e), ERR_CORRUPT);
            data[at] ^= 1;
        }
    }
    start(s);
    model_equal(s->heaps[0], s->heaps[1]);
    setting_free(s);
}

/* The power goes at each fence in turn, in commits, in a stop, and in what comes after it. */
static void a_cut_at_any_fence_leaves_a_seal_that_is_true_or_none(void **state)
{
    (void)state;
    uint64_t sealed = 0;
    uint64_t broken = 0;
    for (long cut = 0; cut < 160; cut++) {
        struct setting *s = setting_new(100 + (uint64_t)cut);
        uint64_t index[2] = {heap_index(s->heaps[1]), heap_index(s->heaps[1])};
        uint64_t digest[2] = {heap_digest(s->heaps[1]), heap_digest(s->heaps[1])};
        power.lost = false;
        power.left = cut % 80;
        power.seed = (uint64_t)cut;
        image_pm_set_ops(&power_recorder);
        for (uint64_t i = 0; !power.lost; i++) {
            if (i % 3 != 2) {
                model_step(&s->m, s->heaps, 2, 5000);
                index[0] = index[1];
                digest[0] = digest[1];
                index[1] = heap_index(s->heaps[1]);
                digest[1] = heap_digest(s->heaps[1]);
                assert_int_equal(image_commit(s->image, s->heaps[0]), 0);
                continue;
            }
            image_seal(s->image, s->heaps[0]);
            if (!power.lost && cut % 2 == 0) {
                stop(s, false);
                start(s);
            }
        }
        stop(s, false);
        image_pm_set_ops(NULL);
        sealed += seal_magic(s) != 0;
        broken += seal_magic(s) == 0;
        start(s);
        uint64_t at = heap_index(s->heaps[0]);
        assert_true(at == index[0] || at == index[1]);
        assert_true(heap_load_all(s->heaps[0], NULL) == 0);
        assert_true(heap_digest(s->heaps[0]) == digest[at == index[1]]);
        assert_int_equal(heap_check(s->heaps[0], NULL), 0);
        setting_free(s);
    }
    assert_true(sealed > 5 && broken > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_clean_stop_leaves_is_opened_unread),
        cmocka_unit_test(what_does_not_fit_the_journal_is_written_with_pages_unread),
        cmocka_unit_test(only_what_is_committed_is_sealed),
        cmocka_unit_test(a_foreign_seal_vouches_for_bytes_alone),
        cmocka_unit_test(a_flipped_bit_anywhere_is_found),
        cmocka_unit_test(a_page_that_cannot_be_is_found),
        cmocka_unit_test(a_seal_that_is_older_than_the_log_says_is_refused),
        cmocka_unit_test(a_seal_that_names_no_half_of_the_journal_is_refused),
        cmocka_unit_test(damage_in_a_foreign_image_is_found_by_opening),
        cmocka_unit_test(a_cut_at_any_fence_leaves_a_seal_that_is_true_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
