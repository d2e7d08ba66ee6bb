/* Damage to a heap's bytes, one thing at a time, and taken back. */
#ifndef CAIRN_TESTS_UNIT_ALLOC_INJECTION_H
#define CAIRN_TESTS_UNIT_ALLOC_INJECTION_H

#include "alloc/engine.h"
#include "heap_driver.h"

#define INJECTION_EDITS_MAX 8

struct injection {
    struct heap *heap;
    struct driver *chance;
    size_t count;
    struct {
        uint8_t *at;
        uint8_t was;
    } edits[INJECTION_EDITS_MAX];
};

void injection_flip(struct injection *x, uint64_t address, uint64_t bit);
void injection_take_back(struct injection *x);

/* Does one damage of the kind, or says that this heap has nothing of the kind. */
struct injection_kind {
    const char *name;
    bool (*hit)(struct injection *x);
};
extern const struct injection_kind injection_kinds[];
extern const size_t injection_kind_count;

/* Where the pointer to a live object stands, in a root or in a field of a registered type; 0: none
 * was found. */
uint64_t injection_some_pointer(struct injection *x);

#endif
