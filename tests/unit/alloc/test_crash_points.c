/* Power losses: everything that an image does to its directory is recorded, and cut at every point
 * in every way. What is there afterwards must be the heap at exactly one index: that of the last
 * checkpoint that ended, or of the one that had begun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/image.h"
#include "heap_driver.h"
#include "memdisk.h"

#define UID             7
#define CHECKPOINTS_MAX 64
#define PAGES_ALL       6  /* so many open pages are tried in every combination */
#define SAMPLES         20 /* of combinations, when there are more */

struct known {
    uint64_t index, digest;
    size_t began, ended; /* operations of the log */
};

struct script {
    struct memdisk disk;
    struct known known[CHECKPOINTS_MAX];
    size_t count;
    uint64_t chance;
    uint64_t cases, nested;
};

static uint64_t dice(struct script *s)
{
    s->chance = s->chance * 6364136223846793005ull + 1442695040888963407ull;
    return s->chance >> 33;
}

static void answered(void *arg, const struct image_result *result)
{
    *(struct image_result *)arg = *result;
}

static int open_image(struct env *env, uint64_t mark, struct image **image, struct heap **heap,
                      struct err_text *e)
{
    struct image_opts opts = {.dir = "/x", .uid = UID, .mode = IMAGE_DISK, .mark_sequence = mark};
    return image_open(env, &opts, image, heap, e);
}

/* Random commands with checkpoints, some of which take in those before them, bases, replacements
 * and restarts between them. */
static void play(struct script *s, uint64_t seed, int steps)
{
    struct driver *d = malloc(sizeof *d);
    struct image *image = NULL;
    struct heap *none = NULL;
    assert_non_null(d);
    memset(s, 0, sizeof *s);
    s->chance = seed;
    memdisk_open(&s->disk);
    s->disk.recording = true;
    assert_int_equal(open_image(&s->disk.env, 0, &image, &none, NULL), 0);
    driver_open(d, seed, 1 << 20, 0, seed % 2 * 50, 3000);
    for (int i = 1; i <= steps; i++) {
        driver_step(d);
        bool reopen = i % 61 == 60;
        if (i % 9 == 0 || reopen) {
            struct image_result result = {.err = 1};
            struct known *k = &s->known[s->count++];
            k->index = heap_index(d->heap);
            k->digest = heap_digest(d->heap);
            k->began = s->disk.log_count;
            if (s->count % 3 == 2) {
                image_gather(image, d->heap);
            }
            int rv = s->count % 7 == 6 ? image_replace(image, d->heap, answered, &result)
                                       : image_checkpoint(image, d->heap, answered, &result);
            assert_int_equal(rv, 0);
            memdisk_run(&s->disk, 1000000);
            assert_int_equal(result.err, 0);
            assert_true(result.pages_written > 0 && result.pages_written <= result.pages_total);
            k->ended = s->disk.log_count;
        }
        if (reopen) {
            image_close(image);
            heap_free(d->heap);
            assert_int_equal(open_image(&s->disk.env, 0, &image, &d->heap, NULL), 0);
        }
    }
    image_close(image);
    driver_close(d);
    free(d);
}

static bool is_state(const struct known *k, const struct heap *heap, uint64_t digest)
{
    return heap != NULL && heap_index(heap) == k->index && digest == k->digest;
}

/* A second loss of power at any point of the recovery, whose operations begin at `from`, changes
 * nothing. */
static void cut_again(struct script *s, const struct memdisk *recovered, size_t from,
                      const struct heap *heap, uint64_t digest)
{
    for (size_t cut = from; cut <= recovered->log_count; cut++) {
        struct memdisk_open_ends ends = memdisk_open_ends(recovered, cut);
        assert_true(ends.pages <= PAGES_ALL);
        for (uint64_t kept = 0; kept < (uint64_t)1 << ends.pages; kept++) {
            for (size_t names = 0; names <= ends.names; names++) {
                struct memdisk after;
                struct image *image = NULL;
                struct heap *again = NULL;
                struct err_text e = {""};
                memdisk_cut_pages(recovered, cut, kept, names, &after);
                if (open_image(&after.env, 0, &image, &again, &e) != 0) {
                    fail_msg("recovery cut at %zu: %s", cut, e.text);
                }
                assert_non_null(again);
                assert_true(heap_index(again) == heap_index(heap) && heap_digest(again) == digest);
                image_close(image);
                heap_free(again);
                memdisk_close(&after);
                s->nested++;
            }
        }
    }
}

static void try(struct script *s, uint64_t seed, size_t cut, uint64_t kept, size_t names)
{
    struct memdisk after;
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct err_text e = {""};
    memdisk_cut_pages(&s->disk, cut, kept, names, &after);
    bool twice = s->cases % 200 == 0;
    if (twice) {
        memdisk_record(&after);
    }
    size_t from = after.log_count;
    int rv = open_image(&after.env, 0, &image, &heap, &e);
    size_t last = s->count;
    for (size_t k = 0; k < s->count && s->known[k].ended <= cut; k++) {
        last = k;
    }
    size_t next = last == s->count ? 0 : last + 1;
    uint64_t digest = rv != 0 || heap == NULL ? 0 : heap_digest(heap);
    bool good =
        rv == 0 && (last == s->count ? heap == NULL : is_state(&s->known[last], heap, digest));
    if (rv == 0 && !good && next < s->count && s->known[next].began < cut) {
        good = is_state(&s->known[next], heap, digest);
    }
    if (!good) {
        fail_msg("seed %" PRIu64 ", cut at %zu, pages %" PRIx64
                 ", names %zu: %d %s, index %" PRIu64,
                 seed, cut, kept, names, rv, e.text, heap == NULL ? 0 : heap_index(heap));
    }
    if (twice && heap != NULL) {
        cut_again(s, &after, from, heap, digest);
    }
    image_close(image);
    heap_free(heap);
    memdisk_close(&after);
    s->cases++;
}

static void cut_at(struct script *s, uint64_t seed, size_t cut)
{
    struct memdisk_open_ends ends = memdisk_open_ends(&s->disk, cut);
    if (ends.pages <= PAGES_ALL) {
        for (uint64_t kept = 0; kept < (uint64_t)1 << ends.pages; kept++) {
            for (size_t names = 0; names <= ends.names; names++) {
                try(s, seed, cut, kept, names);
            }
        }
        return;
    }
    try(s, seed, cut, 0, 0);
    try(s, seed, cut, ~(uint64_t)0, ends.names);
    for (int i = 0; i < SAMPLES; i++) {
        uint64_t kept = dice(s) << 32 ^ dice(s);
        try(s, seed, cut, i % 3 == 0 ? kept & kept << 7 : kept, dice(s) % (ends.names + 1));
    }
}

static void any_loss_of_power_leaves_exactly_one_checkpoint(void **state)
{
    (void)state;
    uint64_t cases = 0;
    uint64_t nested = 0;
    struct script *s = malloc(sizeof *s);
    assert_non_null(s);
    for (uint64_t seed = 1; seed <= 12; seed++) {
        play(s, seed, 200);
        for (size_t cut = 0; cut <= s->disk.log_count; cut++) {
            cut_at(s, seed, cut);
        }
        cases += s->cases;
        nested += s->nested;
        memdisk_close(&s->disk);
    }
    print_message("%" PRIu64 " losses of power, and %" PRIu64 " more while recovering\n", cases,
                  nested);
    assert_true(cases >= 10000);
    assert_true(nested > 100);
    free(s);
}

/* Sectors of a page may arrive by themselves. */
static void torn_pages_are_recognised(void **state)
{
    (void)state;
    struct script *s = malloc(sizeof *s);
    assert_non_null(s);
    play(s, 77, 120);
    for (size_t cut = 0; cut <= s->disk.log_count; cut++) {
        for (uint64_t i = 0; i < 3; i++) {
            struct memdisk after;
            struct image *image = NULL;
            struct heap *heap = NULL;
            struct err_text e = {""};
            memdisk_cut(&s->disk, cut, LOSS_TORN, 1000 * cut + i, &after);
            if (open_image(&after.env, 0, &image, &heap, &e) != 0) {
                fail_msg("cut at %zu: %s", cut, e.text);
            }
            size_t found = s->count;
            uint64_t digest = heap == NULL ? 0 : heap_digest(heap);
            for (size_t k = 0; k < s->count; k++) {
                found = is_state(&s->known[k], heap, digest) ? k : found;
            }
            assert_true(heap == NULL ? s->known[0].ended > cut : found < s->count);
            assert_true(found + 1 >= s->count || s->known[found + 1].ended > cut);
            image_close(image);
            heap_free(heap);
            memdisk_close(&after);
        }
    }
    memdisk_close(&s->disk);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_loss_of_power_leaves_exactly_one_checkpoint),
        cmocka_unit_test(torn_pages_are_recognised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
