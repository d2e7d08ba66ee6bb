/* CRC32C (Castagnoli, RFC 3720) by ISA-L. */
#ifndef CAIRN_BASE_CRC_H
#define CAIRN_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* crc32c(0, "123456789", 9) == 0xe3069283. Chainable: crc32c(crc32c(0, a), b) == crc32c(0, a || b).
 * thread: any */
uint32_t crc32c(uint32_t seed, const void *data, size_t len);

#endif
