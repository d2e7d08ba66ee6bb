/* 64-bit hashing by xxHash (XXH3). Its values stand in media and in digests: the function never
 * changes. */
#ifndef CAIRN_BASE_HASH_H
#define CAIRN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(uint64_t seed, const void *data, size_t len); /* thread: any */

#endif
