/* Random operations on a heap, mirrored in a plain model that knows every byte that must be there.
 */
#ifndef CAIRN_TESTS_UNIT_ALLOC_HEAP_MODEL_H
#define CAIRN_TESTS_UNIT_ALLOC_HEAP_MODEL_H

#include "alloc/heap.h"

#define MODEL_OBJECTS 4096
#define MODEL_KEYS    512

struct model_object {
    uint64_t ptr;
    uint64_t size;
    uint64_t version;
    uint32_t type;
    uint8_t *bytes;
};

struct model_value {
    uint8_t *bytes; /* NULL: absent */
    size_t len;
};

struct model {
    uint64_t seed;
    uint64_t index;
    uint64_t stale[64]; /* pointers freed lately */
    struct model_object objects[MODEL_OBJECTS];
    size_t object_count;
    struct model_value values[2][MODEL_KEYS]; /* roots, sessions */
    uint64_t nospace;
};

uint64_t model_random(struct model *m);
void model_open(struct model *m, uint64_t seed);
void model_close(struct model *m);
/* One entry with one random command, applied to `count` heaps, which must all answer alike, and to
 * the model. */
void model_step(struct model *m, struct heap **heaps, size_t count, uint64_t size_max);
/* Every object, value and counter of the heap is what the model says. */
void model_check(const struct model *m, const struct heap *heap);
/* The same pages with the same bytes, and equal digests. */
void model_equal(struct heap *a, struct heap *b);
/* A second heap made of the pages of the first, as a transfer does it. */
struct heap *model_copy(struct heap *heap);

#endif
