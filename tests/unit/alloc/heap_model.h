/* Random operations on a heap, mirrored in a plain model that knows every byte that must be there,
 * now and at every older version that may be asked for. */
#ifndef CAIRN_TESTS_UNIT_ALLOC_HEAP_MODEL_H
#define CAIRN_TESTS_UNIT_ALLOC_HEAP_MODEL_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "alloc/command.h"

#define MODEL_OBJECTS 4096
#define MODEL_DEAD    4096
#define MODEL_KEYS    512
#define MODEL_ROOTS   64
#define MODEL_TYPES   12
#define MODEL_LEASES  8

/* What an object was before the change at version `until`. */
struct model_past {
    struct model_past *older;
    uint64_t until;
    uint64_t size, version;
    uint8_t *bytes;
};

struct model_object {
    uint64_t ptr;
    uint64_t size;
    uint64_t version;
    uint64_t born, freed; /* versions; freed 0: alive */
    uint32_t type;
    uint8_t *bytes;
    struct model_past *past; /* newest first */
};

struct model_value {
    uint8_t *bytes; /* NULL: absent */
    size_t len;
};

struct model_lease {
    uint64_t number; /* 0: none */
    uint64_t session;
    uint32_t count; /* pointers left */
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
};

struct model {
    uint64_t seed;
    uint64_t index;
    uint64_t stale[64]; /* pointers freed lately */
    struct model_object objects[MODEL_OBJECTS];
    size_t object_count;
    struct model_object dead[MODEL_DEAD]; /* freed, but readable at older versions */
    size_t dead_count;
    struct model_value values[2][MODEL_KEYS]; /* sessions, meta */
    struct root_record roots[MODEL_ROOTS];    /* ptr 0: absent */
    uint32_t type_fields[MODEL_TYPES];        /* 0: not registered */
    struct model_lease leases[MODEL_LEASES];
    uint64_t retention_ms, safepoint, clock;
    uint64_t nospace, defrag_moved, past_reads;
};

uint64_t model_random(struct model *m);
void model_open(struct model *m, uint64_t seed);
void model_close(struct model *m);
/* One entry with one random command, applied to `count` heaps, which must all answer alike, and to
 * the model. Objects up to size_max, and now and then one of several MiB. */
void model_step(struct model *m, struct heap **heaps, size_t count, uint64_t size_max);
/* Every object, value and counter of the heap is what the model says. */
void model_check(const struct model *m, const struct heap *heap);
/* What the heap says of one version is what the model remembers. */
void model_check_past(struct model *m, const struct heap *heap, uint64_t at);
/* The same pages with the same bytes, and equal digests. */
void model_equal(struct heap *a, struct heap *b);
/* A second heap made of the pages of the first, as a transfer does it. */
struct heap *model_copy(struct heap *heap);

/* ---- for the files of the model ---- */

extern uint64_t model_now; /* index of the entry, for messages */

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "%s:%d: %s (index %" PRIu64 ")\n", __FILE__, __LINE__,           \
                          #condition, model_now);                                                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct slice model_key(int map, size_t number, char out[64]);
extern const enum heap_map model_maps[2];
/* A type that grows by fields. */
int model_type(uint32_t number, uint32_t fields, struct buf *out);

#endif
