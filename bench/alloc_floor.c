/* What a durable commit costs at least: one write of 4 KiB into a file that has its blocks already,
 * past the page cache and synced (O_DIRECT, O_DSYNC). Prints one JSON line.
 * usage: alloc_floor WORKLOAD DIR [--seconds S]; what the other programs know is ignored. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK      4096u
#define FILE_BYTES ((off_t)64 << 20)

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Filled once, as the log's segments are. */
static void fill(const char *path, const void *block)
{
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    for (off_t at = 0; fd >= 0 && at < FILE_BYTES; at += BLOCK) {
        if (pwrite(fd, block, BLOCK, at) != BLOCK) {
            fail(path);
        }
    }
    if (fd < 0 || fsync(fd) != 0) {
        fail(path);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    double seconds = 1;
    char path[4096];
    if (argc < 3) {
        fprintf(stderr, "usage: alloc_floor WORKLOAD DIR [--seconds S]\n");
        return 2;
    }
    for (int i = 3; i + 1 < argc; i++) {
        seconds = strcmp(argv[i], "--seconds") == 0 ? atof(argv[i + 1]) : seconds;
    }
    (void)snprintf(path, sizeof path, "%s/floor", argv[2]);
    void *block = aligned_alloc(BLOCK, BLOCK);
    if (block == NULL) {
        fail("memory");
    }
    memset(block, 0x5a, BLOCK);
    fill(path, block);
    int fd = open(path, O_WRONLY | O_DIRECT | O_DSYNC);
    if (fd < 0) {
        fail(path);
    }
    uint64_t start = now_ns();
    uint64_t deadline = start + (uint64_t)(seconds * 1e9);
    uint64_t done = 0;
    while (now_ns() < deadline) {
        if (pwrite(fd, block, BLOCK, (off_t)(done * BLOCK % (uint64_t)FILE_BYTES)) != BLOCK) {
            fail(path);
        }
        done++;
    }
    printf("{\"system\":\"kernel\",\"workload\":\"write\",\"steps\":%llu,\"ns_per_step\":%.1f}\n",
           (unsigned long long)done, (double)(now_ns() - start) / (double)done);
    close(fd);
    unlink(path);
    free(block);
    return 0;
}
