/* Asking ahead for the memory that commands are about to read. In a large heap, or where many
 * shards take turns, nothing of it is in a cache, and one thing leads to the next: slot, block,
 * maps.
 *
 * Where many shards take turns, each look-up of theirs is a chain of misses in the caches and the
 * TLB: heap, directory, slot, object; places, node, value. Whoever knows several look-ups in
 * advance takes one step of all of them, then the next, so that the misses pass side by side.
 * Nothing here changes anything or fails, and what was asked for in vain costs nothing but that. */
#ifndef CAIRN_ALLOC_AHEAD_H
#define CAIRN_ALLOC_AHEAD_H

#include "alloc/heap.h"

#define HEAP_AHEAD_STEPS 5u

/* What every command of the heap reads: two steps, 0 and 1. */
void heap_ahead(const struct heap *heap, unsigned step);
/* An object that will be read or written: steps 2 to 4, behind those of the heap. */
void heap_object_ahead(const struct heap *heap, uint64_t ptr, unsigned step);
/* The first `len` bytes of a key's value, likewise, if where they are is known without a search. */
void heap_map_ahead(const struct heap *heap, enum heap_map map, struct slice key, unsigned step,
                    size_t len);

/* Within an entry: a command on object `ptr` will be applied soon, but not as the next one. First
 * for its slot, and one command later, when that is near, for what it names. Any number will do for
 * a pointer. */
void heap_foresee_slot(const struct heap *heap, uint64_t ptr);
void heap_foresee_object(const struct heap *heap, uint64_t ptr);

#endif
