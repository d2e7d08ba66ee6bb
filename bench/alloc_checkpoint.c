/* What a checkpoint costs on this disk.
 *
 *   alloc_checkpoint checkpoint DIR     64 MiB of pages dirtied at random in a heap of 512 MiB: the
 *                                       time of a checkpoint beside that of writing the same pages
 *                                       in place, and syncing
 *   alloc_checkpoint amplification DIR  bytes written to the disk per dirty byte, over checkpoints
 *                                       of such pages until the base was written anew twice
 * Prints one JSON line. Options of the other workloads are ignored. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "alloc/image.h"
#include "base/env_uv.h"

#define OBJECT_BYTES ((uint64_t)4000) /* a block of 4 KiB */
#define OBJECTS      100000u
#define DIRTY        16384u

static struct env *env;
static struct image *image;
static struct heap *heap;
static uint64_t objects[OBJECTS];
static uint64_t seed = 1;
static struct image_result result;
static bool done;

static void check(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "alloc_checkpoint: %s: %s\n", what, err_text_of(rv));
        exit(1);
    }
}

static uint64_t dice(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 33;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void on_checkpoint(void *arg, const struct image_result *r)
{
    (void)arg;
    result = *r;
    done = true;
    env_uv_stop(env);
}

static void checkpoint(void)
{
    done = false;
    check(image_checkpoint(image, heap, on_checkpoint, NULL), "checkpoint");
    while (!done) {
        env_uv_run(env);
    }
    check(result.err, "checkpoint");
}

static void dirty(void)
{
    for (unsigned i = 0; i < DIRTY; i++) {
        uint64_t value = dice();
        heap_begin(heap, heap_index(heap) + 1, 1, 0);
        check(heap_write(heap, heap_next_version(heap), objects[dice() % OBJECTS], 0,
                         slice_of(&value, sizeof value)),
              "write");
        heap_end(heap);
    }
}

static double in_place_ms(const char *dir, uint64_t pages)
{
    static uint8_t page[4096];
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/in-place", dir);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    for (uint64_t i = 0; i < OBJECTS; i++) {
        check(pwrite(fd, page, sizeof page, (off_t)(i * sizeof page)) == sizeof page ? 0 : ERR_IO,
              "prepare");
    }
    check(fsync(fd) == 0 ? 0 : ERR_IO, "prepare");
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < pages; i++) {
        off_t at = (off_t)(dice() % OBJECTS * sizeof page);
        check(pwrite(fd, page, sizeof page, at) == sizeof page ? 0 : ERR_IO, "write");
    }
    check(fdatasync(fd) == 0 ? 0 : ERR_IO, "sync");
    double ms = (double)(now_ns() - start) / 1e6;
    close(fd);
    unlink(path);
    return ms;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: alloc_checkpoint checkpoint|amplification DIR\n");
        return 2;
    }
    struct image_opts opts = {.dir = argv[2], .uid = 7, .mode = IMAGE_DISK};
    struct heap_opts create = {.uid = 7, .heap_id = 1, .bytes_max = (uint64_t)1 << 30};
    check(env_uv_open(&env), "environment");
    check(image_open(env, &opts, &image, &heap, NULL), "open");
    check(heap_create(&create, &heap), "create");
    for (unsigned i = 0; i < OBJECTS; i++) {
        heap_begin(heap, i + 1, 1, 0);
        check(heap_alloc(heap, heap_next_version(heap), OBJECT_BYTES, 1, slice_of(NULL, 0),
                         &objects[i]),
              "alloc");
        heap_end(heap);
    }
    checkpoint();
    if (strcmp(argv[1], "checkpoint") == 0) {
        dirty();
        uint64_t start = now_ns();
        checkpoint();
        double ms = (double)(now_ns() - start) / 1e6;
        double in_place = in_place_ms(argv[2], result.pages_written);
        printf("{\"workload\":\"checkpoint\",\"pages\":%llu,\"ms\":%.2f,\"in_place_ms\":%.2f,"
               "\"ratio\":%.4f}\n",
               (unsigned long long)result.pages_written, ms, in_place, ms / in_place);
    } else {
        struct image_stats before;
        struct image_stats after;
        uint64_t pages = 0;
        unsigned bases = 0;
        uint64_t base = 0;
        image_get_stats(image, &before);
        for (unsigned i = 0; bases < 2 && i < 200; i++) {
            struct image_stats now;
            struct heap_stats stats;
            dirty();
            heap_get_stats(heap, &stats);
            pages += stats.dirty_pages;
            checkpoint();
            image_get_stats(image, &now);
            bases += now.delta_count == 0 && now.sequence != base;
            base = now.sequence;
        }
        image_get_stats(image, &after);
        printf("{\"workload\":\"amplification\",\"dirty_pages\":%llu,"
               "\"bytes_per_dirty_byte\":%.4f}\n",
               (unsigned long long)pages,
               (double)(after.bytes_written - before.bytes_written) / (double)(pages * 4096));
    }
    image_close(image);
    heap_free(heap);
    env_uv_close(env);
    return 0;
}
