/* The memory that an arena lies in: address space of the process, which becomes memory page by page
 * when it is touched.
 *
 * In a large arena a chunk is one page of the machine where it can be: an operation on an object
 * that nobody has used lately would wait for the page tables before it waits for the object, in a
 * virtual machine for two sets of them. A small arena must not cost megabytes, and stays in small
 * pages. Which pages are huge is no part of the state. */
#ifndef CAIRN_ALLOC_ARENA_MEMORY_H
#define CAIRN_ALLOC_ARENA_MEMORY_H

#include "alloc/arena.h"

#define CHUNK_SHIFT 21
#define CHUNK_PAGES ((uint64_t)1 << (CHUNK_SHIFT - PAGE_SHIFT))

/* Zeroed where it is touched; beginning with a chunk. NULL: no address space. accessible: all of it
 * now, or what arena_commit() names. */
void *arena_memory_reserve(size_t bytes, bool accessible);
void arena_memory_release(void *memory, size_t bytes);
/* Whole pages of the process that lie in there are given back. */
void arena_memory_forget(const void *memory, size_t bytes);
/* Whole pages of the process that lie in there are all going to be written. A hint. */
void arena_memory_touch(void *memory, size_t bytes);
/* Pages that are absent are given back. */
void arena_memory_give(struct arena *a, uint64_t page, uint64_t count);
/* Around a page that is loaded in the background, where each is loaded sooner or later. (Not around
 * one that is wanted: zeroing 2 MiB for it would make opening slow.) */
void arena_memory_fill(struct arena *a, uint64_t page);
void arena_memory_filled(struct arena *a, uint64_t page);
/* All of these pages will be filled at once: where they are a whole huge page, that costs nothing,
 * and saves 511 faults. */
void arena_memory_expect(struct arena *a, uint64_t page, uint64_t count);

#endif
