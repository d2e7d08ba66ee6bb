/* Cairn's engine (alloc/) by itself: without a commit the apply path alone, as every replica runs
 * it; else pmem mode, where a commit is one drain of the micro-journal. Disk mode is measured
 * through the SDK (alloc_embedded.c), since there the log is what makes a step durable. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"
#include "alloc/image.h"
#include "base/env_uv.h"
#include "bench/alloc_driver.h"

#define UID           7u
#define TABLE_BYTES   ((uint64_t)1 << 20)
#define TABLE_ENTRIES (TABLE_BYTES / 8)

static struct env *env;
static struct image *image;
static struct heap *heap;
static unsigned commit_every, pending;
static uint64_t index_next, table_object;

static void check(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "cairn: %s: %s\n", what, err_text_of(rv));
        exit(1);
    }
}

static uint64_t begin(void)
{
    heap_begin(heap, ++index_next, 1, 0);
    return heap_next_version(heap);
}

static void commit(void)
{
    if (image != NULL) {
        check(image_commit(image, heap), "commit");
    }
    pending = 0;
}

static void start(const char *dir, uint64_t capacity, unsigned every, bool create)
{
    struct err_text text = {.text = ""};
    commit_every = every;
    if (every > 0) {
        struct image_opts opts = {.dir = dir, .uid = UID, .mode = IMAGE_PMEM};
        check(env_uv_open(&env), "environment");
        int rv = image_open(env, &opts, &image, &heap, &text);
        if (rv != 0) {
            fprintf(stderr, "cairn: %s\n", text.text);
            exit(1);
        }
    }
    if (create) {
        struct heap_opts opts = {.uid = UID, .heap_id = 1, .shard = 0, .bytes_max = capacity};
        check(heap_create(&opts, &heap), "create");
        commit();
    }
    index_next = heap_index(heap);
}

static void stop(void)
{
    commit();
    heap_free(heap);
    if (image != NULL) {
        image_close(image);
        env_uv_close(env);
    }
}

static uint64_t take(const void *fill, size_t bytes)
{
    uint64_t object = 0;
    uint64_t version = begin();
    int rv = heap_alloc(heap, version, bytes, 1, slice_of(fill, bytes), &object);
    heap_end(heap);
    if (rv != ERR_NOSPACE) {
        check(rv, "alloc");
    }
    return object;
}

static void give(uint64_t object)
{
    uint64_t version = begin();
    check(heap_free_object(heap, version, object), "free");
    heap_end(heap);
}

static void update(uint64_t object, const void *fill, size_t bytes)
{
    uint64_t version = begin();
    check(heap_write(heap, version, object, 0, slice_of(fill, bytes)), "write");
    heap_end(heap);
}

static void replace(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    uint64_t object = 0;
    uint64_t version = begin();
    if (table_object == 0) { /* not before it is needed: it would count as overhead */
        check(heap_alloc(heap, version, TABLE_BYTES, 1, slice_of(NULL, 0), &table_object), "table");
    }
    check(heap_alloc(heap, version, bytes, 1, slice_of(fill, bytes), &object), "alloc");
    check(heap_write(heap, version, table_object, i % TABLE_ENTRIES * 8,
                     slice_of(&object, sizeof object)),
          "publish");
    check(heap_free_object(heap, version, table[i]), "free");
    heap_end(heap);
    table[i] = object;
}

static void step(void)
{
    if (commit_every > 0 && ++pending >= commit_every) {
        commit();
    }
}

static uint64_t footprint(void)
{
    struct heap_stats stats;
    heap_get_stats(heap, &stats);
    return stats.arena_bytes;
}

static void compact(void)
{
    struct heap_defrag step = {.left = true};
    while (step.left) {
        (void)begin();
        check(heap_defrag(heap, HEAP_DEFRAG_BYTES_MAX, &step), "defrag");
        heap_end(heap);
    }
    (void)begin();
    while (heap_trim(heap, UINT64_MAX) > 0) {
    }
    heap_end(heap);
}

int main(int argc, char **argv)
{
    static const struct alloc_system system = {
        .name = "cairn",
        .open = start,
        .close = stop,
        .alloc = take,
        .free = give,
        .update = update,
        .replace = replace,
        .step = step,
        .footprint = footprint,
        .compact = compact,
    };
    return alloc_driver_main(argc, argv, &system);
}
