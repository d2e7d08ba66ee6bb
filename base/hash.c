#include "base/hash.h"

#include <xxhash.h>

uint64_t hash64(uint64_t seed, const void *data, size_t len)
{
    return XXH3_64bits_withSeed(data, len, seed);
}
