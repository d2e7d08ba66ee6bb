/* Bytes of an embedded directory that neither the log nor the images know: its identity, and the
 * catalogue's records. docs/embedded.md. */
#ifndef CAIRN_EMBED_LAYOUT_H
#define CAIRN_EMBED_LAYOUT_H

#include <stdint.h>

#include "base/assert.h"

#define IDENTITY_MAGIC  UINT64_C(0x31444d454e524943) /* "CIRNEMD1" */
#define IDENTITY_FORMAT 2u

enum identity_mode { IDENTITY_DISK = 1, IDENTITY_PMEM = 2 };
/* MAKING: a crash interrupted the first open. Nothing was ever promised, so what is missing is made
 * again; in a COMPLETE directory it is damage. */
enum identity_state { IDENTITY_MAKING = 1, IDENTITY_COMPLETE = 2 };

/* DIR/instance */
struct identity_block {
    uint64_t magic;
    uint32_t format;
    uint32_t mode;
    uint64_t uid; /* random; stands in every segment of the log */
    uint32_t state;
    uint8_t reserved[4096 - 28 - 4];
    uint32_t crc; /* CRC32C of all before */
};
static_assert(sizeof(struct identity_block) == 4096, "media format");

/* HEAP_MAP_CATALOG of the heap with uid 1: name -> this. */
struct catalog_entry {
    uint64_t uid;
    uint64_t bytes_max;
    uint64_t created;      /* version */
    uint64_t retention_ms; /* that the heap was born with; what holds now, the heap itself knows */
};
static_assert(sizeof(struct catalog_entry) == 32, "media format");

/* HEAP_MAP_META of the same: "next_uid" -> u64. */
#define CATALOG_NEXT_UID "next_uid"

#define CATALOG_UID       1u
#define CATALOG_BYTES_MAX (UINT64_C(4) << 20)
#define HEAP_UID_FIRST    2u

#endif
