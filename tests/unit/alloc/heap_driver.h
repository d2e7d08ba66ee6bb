/* Random use of a heap by every call that changes one: to make heaps of all shapes. It knows which
 * objects are alive and where pointers lead, not what bytes say (heap_model.h does that). */
#ifndef CAIRN_TESTS_UNIT_ALLOC_HEAP_DRIVER_H
#define CAIRN_TESTS_UNIT_ALLOC_HEAP_DRIVER_H

#include "alloc/heap.h"

#define DRIVER_OBJECTS 1024
#define DRIVER_LEASES  16
#define DRIVER_ROOTS   64
#define DRIVER_TYPES   3

struct driver {
    struct heap *heap;
    uint64_t seed;
    uint64_t size_max;
    uint64_t ptrs[DRIVER_OBJECTS];
    size_t count;
    struct {
        uint64_t lease, session;
    } leases[DRIVER_LEASES];
    size_t lease_count;
    uint64_t nospace;
};

uint64_t driver_random(struct driver *d);
/* A new heap with registered types. granule_shift 0: the default. */
void driver_open(struct driver *d, uint64_t seed, uint64_t bytes_max, uint32_t granule_shift,
                 uint64_t retention_ms, uint64_t size_max);
void driver_close(struct driver *d);
/* One entry with one random command. */
void driver_step(struct driver *d);
/* Roots and pointer fields that lead to no live object, counted by the public calls alone. */
uint64_t driver_dangling(const struct driver *d);

#endif
