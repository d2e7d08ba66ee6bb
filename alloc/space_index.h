/* The index over the granule maps: for each part of the data the free granules at either end and
 * the longest run inside. A function of the maps alone, so that it needn't be in the arena: built
 * anew, it is what it was. Nobody but space.c includes this. */
#ifndef CAIRN_ALLOC_SPACE_INDEX_H
#define CAIRN_ALLOC_SPACE_INDEX_H

#include "alloc/engine.h"

#define INDEX_NONE UINT64_MAX

/* First granule of the lowest free run of at least `count`; INDEX_NONE. */
uint64_t index_find(const struct heap *h, uint64_t count);
uint64_t index_longest(const struct heap *h);
/* Free granules at the end of the data. */
uint64_t index_tail(const struct heap *h);
/* Granules [from, end) of the maps have changed. from < end. */
void index_update(struct heap *h, uint64_t from, uint64_t end);
/* The data had `before` granules; the header says how many there are now. */
void index_resize(struct heap *h, uint64_t before);

#endif
