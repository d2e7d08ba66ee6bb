/* The marks beside the journal of the pmem mode: damage of a commit isn't taken for the end of the
 * journal, wherever it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/image_pmem.h"
#include "alloc/survey.h"
#include "memdisk.h"

#define UID         7
#define BYTES_MAX   ((uint64_t)1 << 20)
#define OBJECT      200000u
#define COMMITS_MAX 200u

/* An image after kill -9: its heap, and what the heap was at each commit. */
struct setting {
    struct memdisk d;
    struct image *image;
    struct heap *heap;
    uint64_t object;
    uint64_t digests[COMMITS_MAX + 1]; /* by index */
    uint64_t at[2][COMMITS_MAX];       /* where the commits of a half are in the file, in order */
    uint64_t count[2];
    uint64_t newest; /* half */
    struct image_pm pm;
    uint8_t *killed; /* the file */
    uint32_t opened;
    size_t bytes;
};

static int open_image(struct setting *s, struct err_text *e)
{
    struct image_opts opts = {.dir = "/x", .uid = UID, .mode = IMAGE_PMEM};
    s->image = NULL;
    s->heap = NULL;
    return image_open(&s->d.env, &opts, &s->image, &s->heap, e);
}

static void stop(struct setting *s)
{
    image_close(s->image);
    heap_free(s->heap);
    memdisk_run(&s->d, 1000000);
}

static uint8_t *file_of(struct setting *s)
{
    return memdisk_file(&s->d, "image.pm")->data;
}

static void commit(struct setting *s, size_t bytes)
{
    static uint8_t fill[OBJECT];
    uint64_t index = heap_index(s->heap) + 1;
    assert_true(index <= COMMITS_MAX);
    memset(fill, (int)index, bytes);
    heap_begin(s->heap, index, 1, 0);
    if (s->object == 0) {
        assert_int_equal(heap_alloc(s->heap, index, OBJECT, 0, slice_of(NULL, 0), &s->object), 0);
    }
    assert_int_equal(
        heap_write(s->heap, index, s->object, index * 64 % 1024, slice_of(fill, bytes)), 0);
    heap_end(s->heap);
    assert_int_equal(image_commit(s->image, s->heap), 0);
    s->digests[index] = heap_digest(s->heap);
}

static void journal_list(struct setting *s)
{
    for (uint64_t half = 0; half < 2; half++) {
        uint64_t sequence = 0;
        const struct pm_commit *c;
        for (uint64_t at = 0; (c = image_pm_commit_at(&s->pm, half, at, sequence)) != NULL;
             at += pm_commit_bytes(c->lines, c->places), sequence = c->sequence + 1) {
            s->at[half][s->count[half]++] = image_pm_half_at(half) + at;
        }
    }
}

/* The process is killed when the journal has turned that often and `more` further commits are
 * there. */
static struct setting *setting_new(int turns, int more)
{
    struct setting *s = calloc(1, sizeof *s);
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = BYTES_MAX};
    assert_non_null(s);
    memdisk_open(&s->d);
    assert_int_equal(open_image(s, NULL), 0);
    assert_int_equal(heap_create(&opts, &s->heap), 0);
    commit(s, 100);
    for (uint64_t half = s->image->pm->half; turns > 0; half = s->image->pm->half) {
        commit(s, OBJECT - 1024);
        turns -= s->image->pm->half != half;
    }
    for (int i = 0; i < more; i++) {
        commit(s, 100);
    }
    s->newest = s->image->pm->half;
    uint64_t index = heap_index(s->heap);
    stop(s);
    image_pm_layout(&s->pm, BYTES_MAX);
    s->pm.map = file_of(s);
    journal_list(s);
    s->bytes = memdisk_file(&s->d, "image.pm")->len;
    s->killed = malloc(s->bytes);
    assert_non_null(s->killed);
    memcpy(s->killed, file_of(s), s->bytes);
    s->digests[0] = index; /* the newest one's */
    return s;
}

static void setting_free(struct setting *s)
{
    memdisk_close(&s->d);
    free(s->killed);
    free(s);
}

/* Opens the file as it is now, and puts back the one that the killed process left. Returns the
 * index of what was opened, or 0. */
static uint64_t opened(struct setting *s)
{
    struct err_text e = {""};
    struct heap *seen = NULL;
    bool looked = s->opened++ % 16 == 0; /* which reads all of the journal */
    int found = looked ? image_read(&s->d.env, "/x", UID, IMAGE_PMEM, &seen, &e) : 0;
    int rv = open_image(s, &e);
    assert_true(!looked || found == rv);
    if (rv != 0) {
        assert_int_equal(rv, ERR_CORRUPT);
        assert_non_null(strstr(e.text, "damaged"));
        return 0;
    }
    uint64_t index = heap_index(s->heap);
    assert_true(heap_digest(s->heap) == s->digests[index]);
    if (looked) {
        assert_true(heap_index(seen) == index && heap_digest(seen) == s->digests[index]);
        heap_free(seen);
    }
    stop(s);
    memcpy(file_of(s), s->killed, s->bytes);
    return index;
}

/* Each bit of the head in turn, and some of what it stands for. */
static void must_be_noticed(struct setting *s, uint64_t at)
{
    const struct pm_commit *c = (const void *)(s->killed + at);
    uint64_t bits = pm_commit_bytes(c->lines, c->places) * 8;
    uint64_t step = bits / 100 + 1;
    for (uint64_t bit = 0; bit < bits; bit += bit < sizeof *c * 8 ? 1 : step) {
        file_of(s)[at + bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (opened(s) != 0) {
            fail_msg("bit %" PRIu64 " of the commit at %" PRIu64 " wasn't noticed", bit, at);
        }
        file_of(s)[at + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void a_flipped_bit_of_any_commit_is_noticed(void **state)
{
    (void)state;
    struct setting *s = setting_new(0, 12);
    uint64_t count = s->count[s->newest];
    assert_true(count == 12);
    must_be_noticed(s, s->at[s->newest][0]);
    must_be_noticed(s, s->at[s->newest][count / 2]);
    must_be_noticed(s, s->at[s->newest][count - 2]);
    must_be_noticed(s, s->at[s->newest][count - 1]);
    assert_int_equal(opened(s), s->digests[0]);
    setting_free(s);
}

/* The lines of that half aren't all home. */
static void a_flipped_bit_in_the_older_half_is_noticed(void **state)
{
    (void)state;
    struct setting *s = setting_new(2, 3);
    uint64_t older = s->newest ^ 1;
    uint64_t count = s->count[older];
    assert_true(count > 3 && s->count[s->newest] > 3);
    must_be_noticed(s, s->at[older][0]);
    must_be_noticed(s, s->at[older][count / 2]);
    must_be_noticed(s, s->at[older][count - 1]);
    must_be_noticed(s, s->at[s->newest][0]);
    assert_int_equal(opened(s), s->digests[0]);
    setting_free(s);
}

/* It may not be there after a loss of power: then the newest commit is as one that was never
 * drained, and nothing before it is touched. */
static void without_its_mark_the_newest_commit_is_cut_off_alone(void **state)
{
    (void)state;
    struct setting *s = setting_new(0, 12);
    uint64_t at = s->at[s->newest][s->count[s->newest] - 1];
    uint8_t *marks = s->killed + s->pm.marks_at;
    store_u64(marks, load_u64(marks) - 1);
    memcpy(file_of(s), s->killed, s->bytes);
    assert_int_equal(opened(s), s->digests[0]); /* undamaged it counts */
    for (uint64_t bit = 0; bit < sizeof(struct pm_commit) * 8; bit += 3) {
        file_of(s)[at + bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(opened(s), s->digests[0] - 1);
    }
    must_be_noticed(s, s->at[s->newest][s->count[s->newest] - 2]);
    setting_free(s);
}

static void a_flipped_bit_of_a_mark_loses_nothing(void **state)
{
    (void)state;
    struct setting *s = setting_new(2, 3);
    uint32_t refused = 0;
    for (uint64_t bit = 0; bit < sizeof(struct pm_marks) * 8; bit++) {
        uint8_t *byte = file_of(s) + s->pm.marks_at + bit / 8;
        *byte ^= (uint8_t)(1u << bit % 8);
        uint64_t index = opened(s);
        assert_true(index == 0 || index == s->digests[0]);
        refused += index == 0;
        if (index == 0) {
            *byte ^= (uint8_t)(1u << bit % 8);
        }
    }
    assert_true(refused > 1000); /* all but those that make a mark smaller */
    setting_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_of_any_commit_is_noticed),
        cmocka_unit_test(a_flipped_bit_in_the_older_half_is_noticed),
        cmocka_unit_test(without_its_mark_the_newest_commit_is_cut_off_alone),
        cmocka_unit_test(a_flipped_bit_of_a_mark_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
