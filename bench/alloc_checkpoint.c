/* What a checkpoint costs on this disk.
 *
 *   alloc_checkpoint checkpoint DIR     64 MiB of pages dirtied at random in a heap of 2 GiB (or an
 *                                       eighth of the memory): of each all bytes, then of as many a
 *                                       word. The time of a checkpoint beside that of writing the
 *                                       same in place, in a file as large that is in the page
 *                                       cache, and syncing once: by system calls, and through a
 *                                       shared mapping; and the floor: as many bytes as the
 *                                       checkpoint wrote in a row, around the page cache, in a
 *                                       new file, as a checkpoint does, and once more in the same:
 *                                       a virtual disk may have to find room for what is new
 *   alloc_checkpoint amplification DIR  bytes written to the disk per byte of dirty pages, and per
 *                                       byte that changed, over checkpoints of such pages in a heap
 *                                       of 400 MiB until the base was written anew twice, or 200
 *                                       times; then of 64 pages at a time
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
#define OBJECTS_MAX  524288u
#define OBJECTS_FEW  100000u
#define DIRTY        16384u
#define FEW          64u
#define PAGE         4096u

static struct env *env;
static struct image *image;
static struct heap *heap;
static uint64_t objects[OBJECTS_MAX];
static unsigned count;
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

/* Of each of so many objects so many bytes. */
static void dirty(unsigned pages, size_t bytes)
{
    static uint8_t value[OBJECT_BYTES];
    for (unsigned i = 0; i < pages; i++) {
        memset(value, (int)dice(), bytes);
        heap_begin(heap, heap_index(heap) + 1, 1, 0);
        check(heap_write(heap, heap_next_version(heap), objects[dice() % count], 0,
                         slice_of(value, bytes)),
              "write");
        heap_end(heap);
    }
}

static double ms_since(uint64_t start)
{
    return (double)(now_ns() - start) / 1e6;
}

/* Around the page cache, where that is to be had. */
static void write_in_a_row(int fd, uint64_t bytes)
{
    size_t piece = (size_t)1 << 20;
    void *data = NULL;
    check(posix_memalign(&data, PAGE, piece) == 0 ? 0 : ERR_NOMEM, "memory");
    memset(data, 0x5a, piece);
    for (uint64_t at = 0, len = 0; at < bytes; at += len) {
        len = bytes - at < piece ? bytes - at : piece;
        check(pwrite(fd, data, len, (off_t)at) == (ssize_t)len ? 0 : ERR_IO, "write");
    }
    check(fdatasync(fd) == 0 ? 0 : ERR_IO, "sync");
    free(data);
}

static int open_direct(const char *path)
{
    int fd = open(path, O_CREAT | O_RDWR | O_DIRECT, 0600);
    fd = fd >= 0 ? fd : open(path, O_CREAT | O_RDWR, 0600);
    check(fd >= 0 ? 0 : ERR_IO, "open");
    return fd;
}

/* A file with a page for each object, written, synced, and in the page cache. */
static int prepared(const char *path)
{
    static uint8_t piece[256 * PAGE];
    int fd = open_direct(path);
    write_in_a_row(fd, (uint64_t)count * PAGE);
    close(fd);
    fd = open(path, O_RDWR);
    check(fd >= 0 ? 0 : ERR_IO, "open");
    while (read(fd, piece, sizeof piece) > 0) {
    }
    return fd;
}

static double in_place_ms(int fd, uint64_t pages, size_t bytes)
{
    static uint8_t page[PAGE];
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < pages; i++) {
        off_t at = (off_t)(dice() % count * PAGE);
        check(pwrite(fd, page, bytes, at) == (ssize_t)bytes ? 0 : ERR_IO, "write");
    }
    check(fdatasync(fd) == 0 ? 0 : ERR_IO, "sync");
    return ms_since(start);
}

static double mapped_ms(int fd, uint64_t pages, size_t bytes)
{
    size_t all = (size_t)count * PAGE;
    uint8_t *map = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(map != MAP_FAILED ? 0 : ERR_NOMEM, "map");
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < pages; i++) {
        memset(map + dice() % count * PAGE, (int)i, bytes);
    }
    check(msync(map, all, MS_SYNC) == 0 ? 0 : ERR_IO, "sync");
    double ms = ms_since(start);
    munmap(map, all);
    return ms;
}

static double floor_ms(const char *path, uint64_t bytes)
{
    uint64_t start = now_ns();
    int fd = open_direct(path);
    write_in_a_row(fd, (bytes + PAGE - 1) / PAGE * PAGE);
    double ms = ms_since(start);
    close(fd);
    return ms;
}

/* what: begins the keys. */
static void report_one(const char *what, size_t bytes, int beside, const char *path)
{
    dirty(DIRTY, bytes);
    uint64_t start = now_ns();
    checkpoint();
    double ms = ms_since(start);
    uint64_t pages = result.pages_written;
    size_t same = bytes < OBJECT_BYTES ? bytes : PAGE;
    double in_place = in_place_ms(beside, pages, same);
    double mapped = mapped_ms(beside, pages, same);
    double floor = floor_ms(path, result.bytes_written);
    double over = floor_ms(path, result.bytes_written);
    unlink(path);
    printf(",\"%s_pages\":%llu,\"%s_bytes\":%llu,\"%s_ms\":%.2f,\"%s_in_place_ms\":%.2f,"
           "\"%s_mapped_ms\":%.2f,\"%s_floor_ms\":%.2f,\"%s_over_ms\":%.2f,"
           "\"%s_of_in_place\":%.4f,\"%s_of_mapped\":%.4f,\"%s_of_floor\":%.4f,"
           "\"%s_over_of_mapped\":%.4f",
           what, (unsigned long long)pages, what, (unsigned long long)result.bytes_written, what,
           ms, what, in_place, what, mapped, what, floor, what, over, what, ms / in_place, what,
           ms / mapped, what, ms / floor, what, over / mapped);
}

static void report_checkpoint(const char *dir)
{
    char path[4096];
    char row[4096];
    (void)snprintf(path, sizeof path, "%s/beside", dir);
    (void)snprintf(row, sizeof row, "%s/row", dir);
    int beside = prepared(path);
    printf("{\"workload\":\"checkpoint\",\"heap_bytes\":%llu", (unsigned long long)count * PAGE);
    report_one("whole", OBJECT_BYTES, beside, row);
    report_one("word", sizeof(uint64_t), beside, row);
    printf("}\n");
    close(beside);
    unlink(path);
}

static void report_amplification(unsigned dirtied, size_t bytes, const char *what)
{
    struct image_stats before;
    struct image_stats after;
    uint64_t pages = 0;
    uint64_t changed = 0;
    unsigned bases = 0;
    uint64_t base = 0;
    image_get_stats(image, &before);
    for (unsigned i = 0; bases < 2 && i < 200; i++) {
        struct image_stats now;
        struct heap_stats stats;
        dirty(dirtied, bytes);
        changed += dirtied * bytes;
        heap_get_stats(heap, &stats);
        pages += stats.dirty_pages;
        checkpoint();
        image_get_stats(image, &now);
        bases += now.delta_count == 0 && now.sequence != base;
        base = now.sequence;
    }
    image_get_stats(image, &after);
    double written = (double)(after.bytes_written - before.bytes_written);
    printf(",\"%s_pages\":%llu,\"%s_per_dirty_byte\":%.4f,\"%s_per_changed_byte\":%.4f", what,
           (unsigned long long)pages, what, written / (double)(pages * PAGE), what,
           written / (double)changed);
}

static unsigned objects_in_memory(void)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t fit = memory / 8 / PAGE;
    return fit < OBJECTS_MAX ? (unsigned)fit : OBJECTS_MAX;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: alloc_checkpoint checkpoint|amplification DIR\n");
        return 2;
    }
    struct image_opts opts = {.dir = argv[2], .uid = 7, .mode = IMAGE_DISK};
    struct heap_opts create = {.uid = 7, .heap_id = 1, .bytes_max = (uint64_t)4 << 30};
    bool large = strcmp(argv[1], "checkpoint") == 0;
    count = large ? objects_in_memory() : OBJECTS_FEW;
    check(env_uv_open(&env), "environment");
    check(image_open(env, &opts, &image, &heap, NULL), "open");
    check(heap_create(&create, &heap), "create");
    for (unsigned i = 0; i < count; i++) {
        heap_begin(heap, i + 1, 1, 0);
        check(heap_alloc(heap, heap_next_version(heap), OBJECT_BYTES, 1, slice_of(NULL, 0),
                         &objects[i]),
              "alloc");
        heap_end(heap);
    }
    checkpoint();
    if (large) {
        report_checkpoint(argv[2]);
    } else {
        printf("{\"workload\":\"amplification\"");
        report_amplification(DIRTY, OBJECT_BYTES, "whole");
        report_amplification(DIRTY, sizeof(uint64_t), "word");
        report_amplification(FEW, sizeof(uint64_t), "few");
        printf("}\n");
    }
    image_close(image);
    heap_free(heap);
    env_uv_close(env);
    return 0;
}
