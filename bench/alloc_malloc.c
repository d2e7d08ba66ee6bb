/* The volatile ceiling: whatever malloc this program is linked with (jemalloc). */
#include <jemalloc/jemalloc.h>
#include <stdlib.h>
#include <string.h>

#include "bench/alloc_driver.h"

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
    static const struct alloc_system system = {
        .name = "jemalloc",
        .open = start,
        .close = nothing,
        .alloc = take,
        .free = give,
        .update = update,
        .step = nothing,
        .footprint = footprint,
    };
    return alloc_driver_main(argc, argv, &system);
}
