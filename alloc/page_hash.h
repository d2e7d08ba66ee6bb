/* The hash of a page: a sum over its 64 lines of 64 bytes, so that a line that changes costs its
 * hash before and its hash after, and no other line is read. It finds damage, and replicas that
 * differ; it doesn't hold against somebody who knows it and chooses bytes. Its values stand in
 * media and in digests: the functions never change (docs/heap-format.md). thread: any */
#ifndef CAIRN_ALLOC_PAGE_HASH_H
#define CAIRN_ALLOC_PAGE_HASH_H

#include <stdint.h>

/* page: its 4096 bytes, in lines as memory has them. */
uint64_t page_hash(const void *page);
/* The part of these lines: the sum of the parts of single lines; of all of them, page_hash(). */
uint64_t page_lines_hash(const void *page, uint64_t lines);
/* What a page with this hash adds to the arena's digest. */
uint64_t page_share(uint64_t page, uint64_t hash);

#endif
