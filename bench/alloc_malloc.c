/* The volatile ceiling: whatever malloc this program is linked with (jemalloc). With --copy what
 * any such program can't avoid: the bytes are copied to any place of as much memory as the objects
 * of the mixed workload take together. */
#include <jemalloc/jemalloc.h>
#include <stdlib.h>
#include <string.h>

#include "bench/alloc_driver.h"

#define COPY_BYTES ((size_t)80 << 20)
#define COPY_MAX   ((size_t)64 << 10) /* the largest object */

static uint8_t *copies; /* --copy */

static void nothing(void) {}

static void start(const char *dir, uint64_t capacity, unsigned commit, bool create)
{
    (void)dir, (void)capacity, (void)commit, (void)create;
}

static uint64_t take(const void *fill, size_t bytes)
{
    void *object = malloc(bytes); /* NOLINT: the library under measurement */
    if (object != NULL) {
        memcpy(object, fill, bytes);
    }
    return (uint64_t)(uintptr_t)object;
}

static uint64_t take_copy(const void *fill, size_t bytes)
{
    static uint64_t dice = 1;
    dice = dice * 6364136223846793005ull + 1442695040888963407ull;
    uint8_t *at = copies + (dice >> 33) % ((COPY_BYTES - COPY_MAX) / 64) * 64;
    memcpy(at, fill, bytes);
    return (uint64_t)(uintptr_t)at;
}

static void give_copy(uint64_t object)
{
    (void)object;
}

static void give(uint64_t object)
{
    free((void *)(uintptr_t)object); /* NOLINT: the library under measurement */
}

static void update(uint64_t object, const void *fill, size_t bytes)
{
    memcpy((void *)(uintptr_t)object, fill, bytes);
}

static uint64_t footprint(void)
{
    uint64_t epoch = 1;
    size_t resident = 0;
    size_t size = sizeof epoch;
    (void)mallctl("epoch", &epoch, &size, &epoch, size);
    size = sizeof resident;
    return mallctl("stats.active", &resident, &size, NULL, 0) == 0 ? resident : 0;
}

int main(int argc, char **argv)
{
    struct alloc_system system = {
        .name = "jemalloc",
        .open = start,
        .close = nothing,
        .alloc = take,
        .free = give,
        .update = update,
        .step = nothing,
        .footprint = footprint,
    };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--copy") == 0) { /* the driver passes over it */
            copies = malloc(COPY_BYTES);      /* NOLINT */
            if (copies == NULL) {
                return 1;
            }
            memset(copies, 1, COPY_BYTES);
            system.name = "copying alone";
            system.alloc = take_copy;
            system.free = give_copy;
        }
    }
    return alloc_driver_main(argc, argv, &system);
}
