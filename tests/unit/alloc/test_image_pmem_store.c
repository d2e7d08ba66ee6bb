/* What a commit stores in the file is the same on processors with and without wide registers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "alloc/engine.h"
#include "alloc/image_pmem.h"
#include "base/env_uv.h"
#include "support/dir.h"

#define UID     7
#define PAGES   6
#define LINES   64
#define COMMITS (8u * LINES) /* the journal turns */

static struct env *env;
static struct dir dir;

/* Commits of a few lines, of more than eight in a page, of whole pages, and of such that are new.
 */
static void commit_lines_of_pages(const char *path)
{
    struct image_opts at = {.dir = path, .uid = UID, .mode = IMAGE_PMEM};
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 1 << 20};
    struct image *image = NULL;
    struct heap *heap = NULL;
    uint64_t ptr = 0;
    assert_int_equal(image_open(env, &at, &image, &heap, NULL), 0);
    assert_int_equal(heap_create(&opts, &heap), 0);
    for (uint64_t n = 0; n < COMMITS; n++) {
        heap_begin(heap, n + 1, 1, 1);
        if (ptr == 0) {
            assert_int_equal(heap_alloc(heap, heap_next_version(heap), PAGES * PAGE_BYTES, 1,
                                        slice_of("first", 5), &ptr),
                             0);
        }
        for (uint64_t page = 0; page < PAGES - 1; page++) {
            for (uint64_t k = 0; k <= n % LINES; k++) {
                uint64_t line = (page + k * 5) % LINES;
                assert_int_equal(heap_write(heap, heap_next_version(heap), ptr,
                                            page * PAGE_BYTES + line * LINE_BYTES,
                                            slice_of(&n, sizeof n)),
                                 0);
            }
        }
        heap_end(heap);
        assert_int_equal(image_commit(image, heap), 0);
    }
    image_close(image);
    heap_free(heap);
}

static uint8_t *image_bytes(const char *path, size_t *len)
{
    char file[DIR_PATH_BYTES * 2];
    (void)snprintf(file, sizeof file, "%s/image.pm", path);
    *len = (size_t)dir_file_size(file);
    uint8_t *bytes = malloc(*len);
    assert_non_null(bytes);
    dir_file_read(file, 0, bytes, *len);
    return bytes;
}

static void commits_are_the_same_bytes_however_wide_registers_are(void **state)
{
    (void)state;
    static const char *const names[2] = {"wide", "narrow"};
    uint8_t *bytes[2] = {NULL, NULL};
    size_t len[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        char path[DIR_PATH_BYTES];
        dir_path(&dir, names[i], path);
        image_pm_set_narrow(i == 1);
        commit_lines_of_pages(path);
        image_pm_set_narrow(false);
        bytes[i] = image_bytes(path, &len[i]);
    }
    assert_int_equal(len[0], len[1]);
    assert_memory_equal(bytes[0], bytes[1], len[0]);
    free(bytes[0]);
    free(bytes[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_are_the_same_bytes_however_wide_registers_are),
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
