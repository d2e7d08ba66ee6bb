/* Pmem mode on a mapped file: PMEM_IS_PMEM_FORCE makes libpmem take the test's directory for
 * memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "alloc/engine.h"
#include "alloc/image_pmem.h"
#include "alloc/survey.h"
#include "base/env_uv.h"
#include "heap_driver.h"
#include "heap_model.h"
#include "pmem_power.h"
#include "support/dir.h"

#define UID 7

static struct env *env;
static struct dir dir;

static int open_image(const char *path, struct image **image, struct heap **heap,
                      struct err_text *e)
{
    struct image_opts opts = {.dir = path, .uid = UID, .mode = IMAGE_PMEM};
    return image_open(env, &opts, image, heap, e);
}

static struct heap *heap_new(void)
{
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 1 << 20};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static void commits_survive_reopening(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "a", path);
    struct model *m = malloc(sizeof *m);
    struct image *image = NULL;
    struct heap *first = NULL;
    assert_non_null(m);
    model_open(m, 3);
    assert_int_equal(open_image(path, &image, &first, NULL), 0);
    assert_null(first);
    struct heap *heaps[2] = {heap_new(), heap_new()};
    for (int i = 0; i < 2500; i++) {
        model_step(m, heaps, 2, 5000);
        if (i % 7 == 0) {
            assert_int_equal(image_commit(image, heaps[0]), 0);
        }
        if (i % 240 == 239) {
            assert_int_equal(image_commit(image, heaps[0]), 0);
            image_close(image);
            heap_free(heaps[0]);
            struct err_text e = {""};
            if (open_image(path, &image, &heaps[0], &e) != 0) {
                fail_msg("%s", e.text);
            }
        }
    }
    model_check(m, heaps[0]);
    model_equal(heaps[0], heaps[1]);
    image_close(image);
    heap_free(heaps[0]);
    heap_free(heaps[1]);
    model_close(m);
    free(m);
}

static void reopen(const char *path, struct image **image, struct heap **heap)
{
    struct err_text e = {""};
    image_close(*image);
    heap_free(*heap);
    if (open_image(path, image, heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

/* An opened heap's memory shows the file where nothing was written yet. */
static void an_opened_heap_shares_nothing_but_what_it_has_not_written(void **state)
{
    (void)state;
    enum { COUNT = 24, BYTES = 512 << 10 };
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "own", path);
    struct image *image = NULL;
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 64 << 20};
    struct heap *heaps[2] = {NULL, NULL}; /* reopened, and never closed */
    uint8_t *bytes = malloc(BYTES);
    uint64_t ptrs[2][COUNT];
    assert_non_null(bytes);
    assert_int_equal(open_image(path, &image, &heaps[0], NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(heap_create(&opts, &heaps[i]), 0);
        for (int n = 0; n < COUNT; n++) {
            memset(bytes, 'a' + n, BYTES);
            heap_begin(heaps[i], heap_index(heaps[i]) + 1, 1, 1);
            assert_int_equal(heap_alloc(heaps[i], heap_next_version(heaps[i]), BYTES, 0,
                                        slice_of(bytes, BYTES), &ptrs[i][n]),
                             0);
            heap_end(heaps[i]);
        }
    }
    assert_int_equal(image_commit(image, heaps[0]), 0);
    reopen(path, &image, &heaps[0]);
    assert_true(heap_arena(heaps[0])->mapped);
    model_equal(heaps[0], heaps[1]);

    /* What isn't committed stays in memory. */
    uint64_t index = heap_index(heaps[0]);
    heap_begin(heaps[0], index + 1, 1, 1);
    for (int n = 0; n < COUNT; n++) {
        assert_int_equal(heap_write(heaps[0], heap_next_version(heaps[0]), ptrs[0][n], 0,
                                    slice_of("changed", 7)),
                         0);
    }
    heap_end(heaps[0]);
    reopen(path, &image, &heaps[0]);
    assert_int_equal(heap_index(heaps[0]), index);
    model_equal(heaps[0], heaps[1]);

    /* What was freed, and its memory given back, doesn't show the file again. */
    for (int i = 0; i < 2; i++) {
        for (int n = 0; n < COUNT; n++) {
            heap_begin(heaps[i], heap_index(heaps[i]) + 1, 1, 1);
            assert_int_equal(heap_free_object(heaps[i], heap_next_version(heaps[i]), ptrs[i][n]),
                             0);
            heap_end(heaps[i]);
        }
        assert_true(heap_arena(heaps[i])->stale_count < COUNT * (BYTES >> PAGE_SHIFT) / 2);
        for (int n = 0; n < COUNT; n++) {
            heap_begin(heaps[i], heap_index(heaps[i]) + 1, 1, 1);
            assert_int_equal(heap_alloc(heaps[i], heap_next_version(heaps[i]), BYTES, 0,
                                        slice_of(NULL, 0), &ptrs[i][n]),
                             0);
            const uint8_t *got = NULL;
            uint64_t part = 0;
            assert_int_equal(heap_read(heaps[i], ptrs[i][n], 0, BYTES, &got, &part), 0);
            assert_int_equal(part, BYTES);
            for (size_t at = 0; at < BYTES; at++) {
                if (got[at] != 0) {
                    fail_msg("object %d, byte %zu: %u", n, at, got[at]);
                }
            }
            heap_end(heaps[i]);
        }
    }
    model_equal(heaps[0], heaps[1]);
    assert_int_equal(image_commit(image, heaps[0]), 0);
    reopen(path, &image, &heaps[0]);
    model_equal(heaps[0], heaps[1]);
    image_close(image);
    heap_free(heaps[0]);
    heap_free(heaps[1]);
    free(bytes);
}

static void a_cut_at_any_fence_leaves_the_commit_before_or_after(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "b", path);
    for (long cut = 1; cut < 150; cut++) {
        struct image *image = NULL;
        struct heap *heap = NULL;
        struct model *m = malloc(sizeof *m);
        assert_non_null(m);
        model_open(m, (uint64_t)cut);
        assert_int_equal(open_image(path, &image, &heap, NULL), 0);
        assert_null(heap);
        heap = heap_new();
        power.lost = false;
        power.left = cut;
        power.seed = (uint64_t)cut;
        image_pm_set_ops(&power_recorder);
        uint64_t index[2] = {0};
        uint64_t digest[2] = {0};
        while (!power.lost) {
            for (int i = 0; i < 3; i++) {
                model_step(m, &heap, 1, 3000);
            }
            index[0] = index[1];
            digest[0] = digest[1];
            index[1] = heap_index(heap);
            digest[1] = heap_digest(heap);
            /* The cut may fall between the journal's drain and the home: stores behind it are then
             * lost. */
            assert_int_equal(image_commit(image, heap), 0);
            if (!power.lost && power_dice() % 40 == 0) {
                power_settle(false);
                power.lost = true;
                index[0] = index[1];
                digest[0] = digest[1];
            }
        }
        image_close(image);
        heap_free(heap);
        image_pm_set_ops(NULL);
        struct err_text e = {""};
        if (open_image(path, &image, &heap, &e) != 0) {
            fail_msg("cut %ld: %s", cut, e.text);
        }
        bool before = heap_index(heap) == index[0] && heap_digest(heap) == digest[0];
        bool after = heap_index(heap) == index[1] && heap_digest(heap) == digest[1];
        assert_true(before || after);
        image_close(image);
        heap_free(heap);
        assert_int_equal(image_destroy(env, path), 0);
        model_close(m);
        free(m);
    }
}

/* Commits of all sizes up to that of a half, so that the journal turns: after few commits, when the
 * other half is home only in part, or after many. */
static void a_cut_at_any_fence_is_survived_when_the_journal_turns(void **state)
{
    (void)state;
    enum { BIG = (4 << 20) - (128 << 10), OBJECTS = 40 };
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "turn", path);
    uint8_t *bytes = malloc(BIG);
    assert_non_null(bytes);
    uint32_t turns = 0;
    for (long cut = 1; cut < 60; cut++) {
        struct image *image = NULL;
        struct heap *heap = NULL;
        struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 16 << 20};
        uint64_t big = 0;
        uint64_t small[OBJECTS] = {0};
        uint64_t index = 0;
        uint64_t digest[2] = {0};
        assert_int_equal(open_image(path, &image, &heap, NULL), 0);
        assert_int_equal(heap_create(&opts, &heap), 0);
        heap_begin(heap, ++index, 1, 0);
        assert_int_equal(heap_alloc(heap, 1, BIG, 0, slice_of(NULL, 0), &big), 0);
        heap_end(heap);
        power.lost = false;
        power.left = cut;
        power.seed = (uint64_t)cut;
        image_pm_set_ops(&power_recorder);
        while (!power.lost) {
            heap_begin(heap, ++index, 1, 0);
            uint64_t len = power_dice() % 4 == 0 ? BIG : 1 + power_dice() % (BIG / 8);
            len = power_dice() % 3 == 0 ? len : 1 + len % 4096;
            memset(bytes, (int)power_dice() & 255, len);
            assert_int_equal(
                heap_write(heap, index, big, power_dice() % (BIG - len + 1), slice_of(bytes, len)),
                0);
            for (uint32_t i = 0; i < 5; i++) {
                uint64_t *at = &small[power_dice() % OBJECTS];
                if (*at != 0) {
                    assert_int_equal(heap_free_object(heap, index, *at), 0);
                    *at = 0;
                } else {
                    assert_int_equal(
                        heap_alloc(heap, index, 1 + power_dice() % 9000, 0, slice_of("abc", 1), at),
                        0);
                }
            }
            heap_end(heap);
            digest[0] = digest[1];
            digest[1] = heap_digest(heap);
            const struct image_pm *pm = image->pm;
            uint64_t half = pm != NULL ? pm->half : 0;
            assert_int_equal(image_commit(image, heap), 0);
            turns += image->pm->half != half;
            assert_true(pm == NULL || pm == image->pm); /* not a whole new file */
            if (!power.lost && power_dice() % 8 == 0) {
                power_settle(true); /* the home may have arrived, too */
            }
        }
        uint64_t last = heap_index(heap);
        image_close(image);
        heap_free(heap);
        image_pm_set_ops(NULL);
        struct err_text e = {""};
        if (open_image(path, &image, &heap, &e) != 0) {
            fail_msg("cut %ld: %s", cut, e.text);
        }
        assert_true(heap_index(heap) == last || heap_index(heap) == last - 1);
        assert_true(heap_digest(heap) == digest[heap_index(heap) == last]);
        image_close(image);
        heap_free(heap);
        assert_int_equal(image_destroy(env, path), 0);
    }
    assert_true(turns > 100);
    free(bytes);
}

/* The same with nothing between the commits that cools the pages, as the digest does: so they list
 * what they write as they do in use. The digest is that of a twin, which nobody commits. */
struct twins {
    struct heap *heaps[2];
    uint64_t small[64];
    uint64_t rows[40];
    uint64_t index;
    uint64_t writes_max; /* of rows, in a step */
};
enum { ROW = 4000 };

static void twins_open(struct twins *t)
{
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 16 << 20};
    memset(t, 0, sizeof *t);
    t->index = 1;
    t->writes_max = 60;
    for (size_t h = 0; h < 2; h++) {
        assert_int_equal(heap_create(&opts, &t->heaps[h]), 0);
        heap_begin(t->heaps[h], 1, 1, 0);
        for (size_t i = 0; i < 40; i++) {
            assert_int_equal(heap_alloc(t->heaps[h], 1, ROW, 0, slice_of(NULL, 0), &t->rows[i]), 0);
        }
        heap_end(t->heaps[h]);
    }
}

static void twins_step(struct twins *t)
{
    static uint8_t bytes[ROW];
    uint64_t dice[8];
    for (size_t i = 0; i < 8; i++) {
        dice[i] = power_dice();
    }
    memset(bytes, (int)dice[0] & 255, sizeof bytes);
    t->index++;
    uint64_t ptr[2] = {0};
    uint64_t *at = &t->small[dice[1] % 64];
    for (size_t h = 0; h < 2; h++) {
        struct heap *heap = t->heaps[h];
        heap_begin(heap, t->index, 1, 0);
        if (*at != 0) {
            assert_int_equal(heap_free_object(heap, t->index, *at), 0);
        } else {
            assert_int_equal(
                heap_alloc(heap, t->index, 1 + dice[2] % 90, 0, slice_of(bytes, 1), &ptr[h]), 0);
        }
        for (size_t i = 0; i < dice[3] % t->writes_max; i++) {
            uint64_t offset = dice[4] % 1000;
            assert_int_equal(heap_write(heap, t->index, t->rows[(dice[5] + i) % 40], offset,
                                        slice_of(bytes, 1 + dice[6] % (ROW - offset))),
                             0);
        }
        heap_end(heap);
    }
    assert_true(ptr[0] == ptr[1]);
    *at = ptr[0];
}

static void a_cut_is_survived_where_nothing_cools_the_pages(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "warm", path);
    uint32_t turns = 0;
    uint32_t commits = 0;
    uint32_t usual = 0;
    for (long cut = 3; cut < 500; cut += 1 + cut / 6) {
        struct image *image = NULL;
        struct heap *reopened = NULL;
        struct twins t;
        uint64_t digest[2] = {0};
        assert_int_equal(open_image(path, &image, &reopened, NULL), 0);
        twins_open(&t);
        power.lost = false;
        power.left = cut;
        power.seed = (uint64_t)cut;
        image_pm_set_ops(&power_recorder);
        while (!power.lost) {
            twins_step(&t);
            digest[0] = digest[1];
            digest[1] = heap_digest(t.heaps[1]);
            commits++;
            usual += t.heaps[0]->arena.tracked && pm_commit_is_usual(&t.heaps[0]->arena);
            uint64_t half = image->pm != NULL ? image->pm->half : 1;
            assert_int_equal(image_commit(image, t.heaps[0]), 0);
            turns += image->pm->half != half;
        }
        image_close(image);
        heap_free(t.heaps[0]);
        heap_free(t.heaps[1]);
        image_pm_set_ops(NULL);
        struct err_text e = {""};
        if (open_image(path, &image, &reopened, &e) != 0) {
            fail_msg("cut %ld: %s", cut, e.text);
        }
        assert_true(heap_index(reopened) == t.index || heap_index(reopened) == t.index - 1);
        assert_true(heap_digest(reopened) == digest[heap_index(reopened) == t.index]);
        image_close(image);
        heap_free(reopened);
        assert_int_equal(image_destroy(env, path), 0);
    }
    assert_true(turns > 10);
    assert_true(usual > commits / 2);
}

enum { WRITER_STEPS = 400000 };
struct writer {
    struct twins t;
    struct image *image;
    _Atomic uint64_t digests[WRITER_STEPS + 2];
    _Atomic bool enough;
};

static void *writer_run(void *arg)
{
    struct writer *w = arg;
    while (!w->enough && w->t.index <= WRITER_STEPS) {
        twins_step(&w->t);
        w->digests[w->t.index] = heap_digest(w->t.heaps[1]);
        assert_int_equal(image_commit(w->image, w->t.heaps[0]), 0);
    }
    return NULL;
}

/* What is seen is some commit, as a whole. */
static void looking_copes_with_commits_meanwhile(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "looked", path);
    struct heap *none = NULL;
    struct writer *w = calloc(1, sizeof *w);
    assert_non_null(w);
    assert_int_equal(open_image(path, &w->image, &none, NULL), 0);
    twins_open(&w->t);
    w->t.writes_max = 2;
    w->digests[1] = heap_digest(w->t.heaps[1]);
    assert_int_equal(image_commit(w->image, w->t.heaps[0]), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, writer_run, w), 0);
    uint64_t last = 0;
    for (uint32_t changes = 0; changes < 6;) {
        struct heap *seen = NULL;
        struct err_text e = {""};
        int rv = image_read(env, path, UID, IMAGE_PMEM, &seen, &e);
        if (rv == ERR_BUSY) {
            continue;
        }
        if (rv != 0) {
            fail_msg("%d: %s", rv, e.text);
        }
        uint64_t index = heap_index(seen);
        assert_true(index >= last);
        assert_true(heap_digest(seen) == w->digests[index]);
        changes += index != last;
        last = index;
        heap_free(seen);
        assert_true(last <= WRITER_STEPS);
    }
    w->enough = true;
    assert_int_equal(pthread_join(thread, NULL), 0);
    image_close(w->image);
    heap_free(w->t.heaps[0]);
    heap_free(w->t.heaps[1]);
    assert_int_equal(image_destroy(env, path), 0);
    free(w);
}

/* Where the n-th commit of the second half begins in the file; the first half has the one that made
 * the file. */
static long commit_at(FILE *file, int n)
{
    long at = 4096 + (long)PM_HALF_BYTES;
    struct pm_commit c;
    for (int i = 0;; i++) {
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        assert_int_equal(fread(&c, sizeof c, 1, file), 1);
        if (i == n) {
            return at;
        }
        assert_true(c.magic == PM_COMMIT_MAGIC);
        at += (long)pm_commit_bytes(c.lines, c.places);
    }
}

/* What was committed behind it must not be forgotten in silence. */
static void a_damaged_commit_before_others_is_noticed(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    char name[DIR_PATH_BYTES + 16];
    struct image *image = NULL;
    struct heap *none = NULL;
    struct twins t;
    dir_path(&dir, "flipped", path);
    (void)snprintf(name, sizeof name, "%s/image.pm", path);
    assert_int_equal(open_image(path, &image, &none, NULL), 0);
    twins_open(&t);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(image_commit(image, t.heaps[0]), 0);
        twins_step(&t);
    }
    image_close(image);
    FILE *file = fopen(name, "r+b");
    assert_non_null(file);
    for (int n = 0; n < 5; n++) {
        long at = commit_at(file, n) + (long)sizeof(struct pm_commit) + 1;
        uint8_t byte;
        for (int twice = 0; twice < 2; twice++) {
            assert_int_equal(fseek(file, at, SEEK_SET), 0);
            assert_int_equal(fread(&byte, 1, 1, file), 1);
            byte ^= 4;
            assert_int_equal(fseek(file, at, SEEK_SET), 0);
            assert_int_equal(fwrite(&byte, 1, 1, file), 1);
            assert_int_equal(fflush(file), 0);
            if (twice == 0) {
                struct err_text e = {""};
                struct heap *heap = NULL;
                assert_int_equal(open_image(path, &image, &heap, &e), ERR_CORRUPT);
                assert_non_null(strstr(e.text, "in the journal is damaged"));
            }
        }
    }
    assert_int_equal(fclose(file), 0);
    struct heap *heap = NULL;
    assert_int_equal(open_image(path, &image, &heap, NULL), 0);
    image_close(image);
    heap_free(heap);
    heap_free(t.heaps[0]);
    heap_free(t.heaps[1]);
    assert_int_equal(image_destroy(env, path), 0);
}

/* The file is read as it is, also when the newest commit is only in the journal. */
static void looking_replays_the_journal_in_memory(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "look", path);
    struct driver *d = malloc(sizeof *d);
    struct image *image = NULL;
    struct heap *none = NULL;
    struct err_text e = {""};
    assert_non_null(d);
    assert_int_equal(image_read(env, path, UID, IMAGE_PMEM, &none, &e), ERR_NOTFOUND);
    assert_int_equal(open_image(path, &image, &none, NULL), 0);
    driver_open(d, 11, 1 << 20, 0, 100, 3000);
    assert_int_equal(image_commit(image, d->heap), 0);
    power.seed = 5;
    for (int i = 0; i < 60; i++) {
        for (int k = 0; k < 10; k++) {
            driver_step(d);
        }
        /* Of the stores behind the fence, those to the home, some are lost. */
        power.lost = false;
        power.left = 1000;
        image_pm_set_ops(&power_recorder);
        assert_int_equal(image_commit(image, d->heap), 0);
        power_settle(i % 2 == 0);
        image_pm_set_ops(NULL);
        struct heap *seen = NULL;
        if (image_read(env, path, UID, IMAGE_PMEM, &seen, &e) != 0) {
            fail_msg("%s", e.text);
        }
        assert_int_equal(heap_index(seen), heap_index(d->heap));
        assert_true(heap_digest(seen) == heap_digest(d->heap));
        heap_free(seen);
        if (i % 2 != 0) { /* the mapping is as after a loss of power */
            image_close(image);
            heap_free(d->heap);
            assert_int_equal(open_image(path, &image, &d->heap, &e), 0);
        }
    }
    image_close(image);
    driver_close(d);
    assert_int_equal(image_destroy(env, path), 0);
    free(d);
}

static void counted(void *arg, const struct image_result *result)
{
    *(struct image_result *)arg = *result;
    env_uv_stop(env);
}

/* Its answer is under way for a turn of the loop, and apply doesn't wait for it. */
static void commits_go_on_while_a_checkpoint_is_answered(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "between", path);
    struct driver *d = malloc(sizeof *d);
    struct image *image = NULL;
    struct heap *none = NULL;
    struct err_text e = {""};
    struct image_result result = {.err = 1};
    assert_non_null(d);
    assert_int_equal(open_image(path, &image, &none, NULL), 0);
    driver_open(d, 23, 1 << 20, 0, 100, 3000);
    assert_int_equal(image_commit(image, d->heap), 0);
    driver_step(d);
    assert_int_equal(image_checkpoint(image, d->heap, counted, &result), 0);
    uint64_t index = heap_index(d->heap);
    for (int i = 0; i < 3; i++) {
        driver_step(d);
        assert_int_equal(image_commit(image, d->heap), 0);
    }
    env_uv_run(env);
    assert_int_equal(result.err, 0);
    assert_int_equal(result.index, index);
    driver_step(d);
    assert_int_equal(image_commit(image, d->heap), 0);
    struct image_stats stats;
    image_get_stats(image, &stats);
    assert_int_equal(stats.sequence, result.sequence + 4);
    assert_int_equal(stats.index, heap_index(d->heap));
    assert_int_equal(stats.checkpoints, 1);
    struct heap *seen = NULL;
    assert_int_equal(image_read(env, path, UID, IMAGE_PMEM, &seen, &e), 0);
    assert_int_equal(heap_index(seen), heap_index(d->heap));
    assert_true(heap_digest(seen) == heap_digest(d->heap));
    heap_free(seen);
    image_close(image);
    driver_close(d);
    assert_int_equal(image_destroy(env, path), 0);
    free(d);
}

static void a_checkpoint_says_what_it_wrote(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "count", path);
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct image_result r = {.err = 1};
    assert_int_equal(open_image(path, &image, &heap, NULL), 0);
    heap = heap_new();
    for (uint64_t i = 1; i <= 3; i++) {
        uint64_t ptr = 0;
        heap_begin(heap, i, 1, i);
        assert_int_equal(heap_alloc(heap, heap_next_version(heap), 200, 0, slice_of("x", 1), &ptr),
                         0);
        heap_end(heap);
        assert_int_equal(image_checkpoint(image, heap, counted, &r), 0);
        env_uv_run(env);
        assert_int_equal(r.err, 0);
        assert_int_equal(r.index, i);
        assert_int_equal(r.pages_total, heap->arena.present_count);
        assert_true(r.pages_written > 0 && r.pages_written <= r.pages_total);
    }
    assert_true(r.pages_written < r.pages_total); /* the header, the slots and one block */
    image_close(image);
    heap_free(heap);
    assert_int_equal(image_destroy(env, path), 0);
}

static void what_is_not_memory_is_refused(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "c", path);
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct err_text e = {""};
    assert_int_equal(open_image(path, &image, &heap, &e), 0);
    heap = heap_new();
    heap_begin(heap, 1, 1, 1);
    heap_end(heap);
    assert_int_equal(image_commit(image, heap), 0);
    image_close(image);
    heap_free(heap);
    /* A disk-mode image in the same place isn't mixed up with it. */
    struct image_opts disk = {.dir = path, .uid = UID, .mode = IMAGE_DISK};
    assert_int_equal(image_open(env, &disk, &image, &heap, &e), ERR_UNSUPPORTED);
    char file[DIR_PATH_BYTES * 2];
    (void)snprintf(file, sizeof file, "%s/image.pm", path);
    dir_file_flip(file, 8, 1);
    assert_int_equal(open_image(path, &image, &heap, &e), ERR_CORRUPT);
    dir_file_flip(file, 8, 1);
    for (uint64_t at = 4096 + 4; at < 4096 + 2 * PM_HALF_BYTES; at += PM_HALF_BYTES) {
        dir_file_flip(file, at, 1);
    }
    assert_int_equal(open_image(path, &image, &heap, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "neither half"));
}

static void memory_that_is_only_said_to_be_some_is_refused(void **state)
{
    (void)state;
    char path[] = "./pmem.XXXXXX";
    char file[64];
    struct statfs fs;
    assert_non_null(mkdtemp(path));
    (void)snprintf(file, sizeof file, "%s/f", path);
    struct env_file *f = NULL;
    void *map = NULL;
    bool is_pmem = false;
    assert_int_equal(env_file_open(env, file, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &f), 0);
    int rv = env_file_map(env, f, 4096, &map, &is_pmem);
    env_file_close(env, f);
    (void)unlink(file);
    assert_int_equal(statfs(path, &fs), 0);
    (void)rmdir(path);
    if (fs.f_type == TMPFS_MAGIC) {
        skip(); /* the build tree is on one */
    }
    assert_int_equal(rv, ERR_CONFIG);
    assert_false(is_pmem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_survive_reopening),
        cmocka_unit_test(an_opened_heap_shares_nothing_but_what_it_has_not_written),
        cmocka_unit_test(a_cut_at_any_fence_leaves_the_commit_before_or_after),
        cmocka_unit_test(a_cut_at_any_fence_is_survived_when_the_journal_turns),
        cmocka_unit_test(a_cut_is_survived_where_nothing_cools_the_pages),
        cmocka_unit_test(a_damaged_commit_before_others_is_noticed),
        cmocka_unit_test(looking_replays_the_journal_in_memory),
        cmocka_unit_test(looking_copes_with_commits_meanwhile),
        cmocka_unit_test(commits_go_on_while_a_checkpoint_is_answered),
        cmocka_unit_test(a_checkpoint_says_what_it_wrote),
        cmocka_unit_test(what_is_not_memory_is_refused),
        cmocka_unit_test(memory_that_is_only_said_to_be_some_is_refused),
    };
    (void)setenv("PMEM_IS_PMEM_FORCE", "1", 1);
    dir_open(&dir);
    if (env_uv_open(&env) != 0) {
        return 1;
    }
    int rv = cmocka_run_group_tests(tests, NULL, NULL);
    env_uv_close(env);
    dir_close(&dir);
    return rv;
}
