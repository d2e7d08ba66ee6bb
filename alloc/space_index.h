/* The index over the granule maps: for each part of the data the free granules at either end and
 * the longest run inside. A function of the maps alone, so that it needn't be in the arena: built
 * anew, it is what it was. Nobody but space.c includes this. */
#ifndef CAIRN_ALLOC_SPACE_INDEX_H
#define CAIRN_ALLOC_SPACE_INDEX_H

#include "alloc/engine.h"

#define INDEX_NONE UINT64_MAX

/* First granule of the lowest free run of at least `count`; INDEX_NONE. */
uint64_t index_find(const struct heap *h, uint64_t count);
/* First granule of a run that leaves little over. Sizes have kinds: every length below 64, then 16
 * per doubling, then all from 480 on. Among the runs that begin before granule `below`, rounded
 * down to 256, + 256: the lowest one of the same kind that is long enough, among the first
 * INDEX_LOOKS of the kind; else the lowest one of the next longer kind that there is. Otherwise,
 * and for the last kind: the lowest run of all that is long enough; INDEX_NONE. */
#define INDEX_LOOKS 16u
uint64_t index_find_best(const struct heap *h, uint64_t count, uint64_t below);
uint64_t index_longest(const struct heap *h);
/* Free granules at the end of the data. */
uint64_t index_tail(const struct heap *h);
/* Granules [from, end) of the maps have changed. from < end. */
void index_update(struct heap *h, uint64_t from, uint64_t end);
/* The data had `before` granules; the header says how many there are now. */
/* An update is near that begins at this granule: asks for what it will read. */
void index_prefetch(const struct heap *h, uint64_t granule);
void index_resize(struct heap *h, uint64_t before);

#endif
