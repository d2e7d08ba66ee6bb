/* What a checkpoint costs on this disk.
 *
 *   alloc_checkpoint checkpoint DIR     64 MiB of pages dirtied at random in a heap of 512 MiB: the
 *                                       time of a checkpoint beside that of writing as many pages
 *                                       in place and syncing once, by system calls and through a
 *                                       shared mapping; and the floor: as many bytes in a row,
 *                                       around the page cache
 *   alloc_checkpoint amplification DIR  bytes written to the disk per dirty byte, over checkpoints
 *                                       of such pages until the base was written anew twice
 * Prints one JSON line. Options of the other workloads are ignored. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "alloc/image.h"
#include "base/env_uv.h"

#define OBJECT_BYTES ((uint64_t)4000) /* a block of 4 KiB */
#define OBJECTS      100000u
#define DIRTY        16384u
#define PAGE         4096u

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

static double ms_since(uint64_t start)
{
    return (double)(now_ns() - start) / 1e6;
}

/* A file with room for all objects, written and synced. */
static int prepared(const char *path)
{
    static uint8_t page[PAGE];
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    for (uint64_t i = 0; i < OBJECTS; i++) {
        check(pwrite(fd, page, PAGE, (off_t)(i * PAGE)) == PAGE ? 0 : ERR_IO, "prepare");
    }
    check(fsync(fd) == 0 ? 0 : ERR_IO, "prepare");
    return fd;
}

static double in_place_ms(const char *path, uint64_t pages)
{
    static uint8_t page[PAGE];
    int fd = prepared(path);
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < pages; i++) {
        off_t at = (off_t)(dice() % OBJECTS * PAGE);
        check(pwrite(fd, page, PAGE, at) == PAGE ? 0 : ERR_IO, "write");
    }
    check(fdatasync(fd) == 0 ? 0 : ERR_IO, "sync");
    double ms = ms_since(start);
    close(fd);
    unlink(path);
    return ms;
}

static double mapped_ms(const char *path, uint64_t pages)
{
    size_t bytes = (size_t)OBJECTS * PAGE;
    int fd = prepared(path);
    uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(map != MAP_FAILED ? 0 : ERR_NOMEM, "map");
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < pages; i++) {
        memset(map + dice() % OBJECTS * PAGE, (int)i, PAGE);
    }
    check(msync(map, bytes, MS_SYNC) == 0 ? 0 : ERR_IO, "sync");
    double ms = ms_since(start);
    munmap(map, bytes);
    close(fd);
    unlink(path);
    return ms;
}

/* Where O_DIRECT isn't to be had, through the page cache. */
static double sequential_ms(const char *path, uint64_t pages)
{
    size_t piece = (size_t)1 << 20;
    void *bytes = NULL;
    check(posix_memalign(&bytes, PAGE, piece) == 0 ? 0 : ERR_NOMEM, "memory");
    memset(bytes, 0x5a, piece);
    uint64_t start = now_ns();
    int fd = open(path, O_CREAT | O_RDWR | O_DIRECT, 0600);
    fd = fd >= 0 ? fd : open(path, O_CREAT | O_RDWR, 0600);
    for (uint64_t at = 0, len = 0; at < pages * PAGE; at += len) {
        len = pages * PAGE - at < piece ? pages * PAGE - at : piece;
        check(pwrite(fd, bytes, len, (off_t)at) == (ssize_t)len ? 0 : ERR_IO, "write");
    }
    check(fdatasync(fd) == 0 ? 0 : ERR_IO, "sync");
    double ms = ms_since(start);
    close(fd);
    unlink(path);
    free(bytes);
    return ms;
}

static void report_checkpoint(const char *dir)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/beside", dir);
    dirty();
    uint64_t start = now_ns();
    checkpoint();
    double ms = ms_since(start);
    uint64_t pages = result.pages_written;
    double in_place = in_place_ms(path, pages);
    double mapped = mapped_ms(path, pages);
    double floor = sequential_ms(path, pages);
    printf("{\"workload\":\"checkpoint\",\"pages\":%llu,\"ms\":%.2f,\"in_place_ms\":%.2f,"
           "\"mapped_ms\":%.2f,\"floor_ms\":%.2f,\"of_in_place\":%.4f,\"of_mapped\":%.4f,"
           "\"of_floor\":%.4f,\"floor_of_in_place\":%.4f}\n",
           (unsigned long long)pages, ms, in_place, mapped, floor, ms / in_place, ms / mapped,
           ms / floor, floor / in_place);
}

static void report_amplification(void)
{
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
           (double)(after.bytes_written - before.bytes_written) / (double)(pages * PAGE));
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
        report_checkpoint(argv[2]);
    } else {
        report_amplification();
    }
    image_close(image);
    heap_free(heap);
    env_uv_close(env);
    return 0;
}
