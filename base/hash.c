#include "base/hash.h"

#include <xxhash.h>

/* The library may know vectors of this machine that our compiler mustn't count on. */
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#define XXH_DISPATCH_DISABLE_REPLACE
#include <xxh_x86dispatch.h>
#define HASH_LONG XXH3_64bits_withSeed_dispatch
#else
#define HASH_LONG XXH3_64bits_withSeed
#endif

#define SHORT_BYTES 240 /* up to here no vectors are used */

uint64_t hash64(uint64_t seed, const void *data, size_t len)
{
    return len <= SHORT_BYTES ? XXH3_64bits_withSeed(data, len, seed) : HASH_LONG(data, len, seed);
}
