#include "base/crc.h"

#include <isa-l/crc.h>

/* ISA-L's lengths are ints; pieces of this size keep far away from the sign. */
#define CRC_PIECE_BYTES_MAX ((size_t)1 << 30)

uint32_t crc32c(uint32_t seed, const void *data, size_t len)
{
    /* crc32_iscsi() leaves out the complement before and after that RFC 3720 asks for; with both
     * done here a result is a valid seed. It takes a pointer to non-const bytes but only reads
     * them. */
    uint32_t crc = ~seed;
    unsigned char *at = (unsigned char *)(uintptr_t)data;
    while (len > 0) {
        size_t piece = len < CRC_PIECE_BYTES_MAX ? len : CRC_PIECE_BYTES_MAX;
        crc = crc32_iscsi(at, (int)piece, crc);
        at += piece;
        len -= piece;
    }
    return ~crc;
}
