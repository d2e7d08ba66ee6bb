/* The bytes of the arena: what stands at which offset (docs/heap-format.md). Media format only: no
 * function of the engine looks at an offset that isn't named here, and any change of a line is a
 * new HEAP_FORMAT or HEAP_ENGINE. */
#ifndef CAIRN_ALLOC_HEAP_LAYOUT_H
#define CAIRN_ALLOC_HEAP_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"

#define HEAP_MAGIC  0x315041454e524943ull /* "CIRNEAP1" */
#define HEAP_FORMAT 1u
#define HEAP_ENGINE 1u

#define PAGE_SHIFT     12
#define PAGE_BYTES     ((uint64_t)1 << PAGE_SHIFT)
#define HEAP_BYTES_MIN ((uint64_t)1 << 20)
#define HEAP_BYTES_MAX ((uint64_t)1 << 44)

/* ---- extents: 20-byte descriptors in a table of their own
 * --------------------------------------------------------- */

/* 256-byte granules up to 1 TiB; twice as large for each doubling beyond, so that a granule number
 * has 32 bits. */
#define GRANULE_SHIFT_MIN 8u
#define EXTENT_INDEX_BITS 30
#define EXTENT_INDEX_MASK (((uint32_t)1 << EXTENT_INDEX_BITS) - 1)

enum extent_state {
    EXTENT_UNUSED, /* the descriptor is in the list of spare ones: next */
    EXTENT_FREE,   /* a: next of its bin, b: previous of its bin */
    EXTENT_USED,   /* a: slot bits 0-31, b: slot bits 32-37, bit 6: internal (no slot) */
    EXTENT_SLAB,   /* a: offset of the first block, b: class, bit 6: internal */
};
#define EXTENT_INTERNAL ((uint32_t)1 << 6)

/* The size of an extent is the distance to its successor in address order, or to the end of the
 * data. */
struct extent {
    uint32_t at;         /* granules from the start of the data */
    uint32_t prev, next; /* in address order; 0: none */
    uint32_t a;
    uint32_t b; /* bits 30-31: enum extent_state */
};
static_assert(sizeof(struct extent) == 20, "media format");

/* Bins of free extents: below 16 granules one bin a size, then 16 bins for each doubling. */
#define BIN_ROWS    29
#define BIN_COLUMNS 16

/* ---- slabs
 * --------------------------------------------------------------------------------------------------------
 */

#define SLAB_BYTES_FIRST     ((uint64_t)16 << 10) /* the first slab of a class */
#define SLAB_BYTES           ((uint64_t)64 << 10)
#define SLAB_BLOCK_BYTES_MAX 4096u
#define SLAB_CLASSES         39u
#define SLAB_BLOCK_BITS      12

/* At the start of the slab's extent; the bitmap follows (bit set: block in use), then, 16-byte
 * aligned, the blocks. */
struct slab {
    uint32_t next, prev; /* extents: slabs of the class with a free block; 0: none */
    uint16_t blocks;
    uint16_t used;
    uint16_t hint; /* no word of the bitmap below it has a free block */
    uint16_t reserved;
    uint64_t map[];
};
static_assert(sizeof(struct slab) == 16, "media format");

struct slab_list {
    uint32_t head, tail;
    uint32_t slabs;   /* all of the class */
    uint32_t partial; /* of them in the list */
};

/* A place names a block: extent (30 bits), and for slabs the block's number above. 0: none. */
#define PLACE_BITS (EXTENT_INDEX_BITS + SLAB_BLOCK_BITS)

/* ---- slots
 * --------------------------------------------------------------------------------------------------------
 */

/* generation:14 | state:2 | place:48 (free: the next free entry of the page, 0: none). All zero:
 * never used. */
enum slot_state { SLOT_FREE, SLOT_LIVE, SLOT_RETIRED };
#define SLOT_GENERATION_MAX 16383u
#define SLOTS_PER_PAGE      512u
#define SLOT_FIRST          2u /* the first two entries of a page are its header */

/* Slot pages are numbered for ever; a directory maps the number to the frame that holds the page
 * now. */
struct slot_page {
    uint16_t free_count; /* entries in the list at `head`, plus those never used */
    uint16_t head;       /* LIFO; 0: none */
    uint16_t fresh;      /* from here on never used */
    uint16_t retired;
    uint32_t next; /* bits 0-29: page behind this one in the queue; bit 31: in the queue */
    uint32_t page; /* own number */
};
static_assert(sizeof(struct slot_page) == SLOT_FIRST * 8, "media format");
#define SLOT_PAGE_QUEUED ((uint32_t)1 << 31)
#define SLOT_PAGE_REUSE  128u /* so many free entries put a page in the queue */
#define SLOT_PAGES_MAX   ((uint32_t)1 << 29)

/* ---- objects
 * ------------------------------------------------------------------------------------------------------
 */

/* word: slot:38 | wide:1 | slack:6 | type:14 | flags:5. slack: bytes of the block behind the
 * object. */
struct object_header {
    uint64_t version;
    uint64_t word;
};
/* Blocks above 1 KiB, and types of 16384 and above. */
struct object_header_wide {
    struct object_header narrow;
    uint32_t size;
    uint32_t type;
    uint64_t reserved;
};
static_assert(sizeof(struct object_header) == 16, "media format");
static_assert(sizeof(struct object_header_wide) == 32, "media format");
#define OBJECT_NARROW_BYTES_MAX 1024u /* block */
#define OBJECT_NARROW_TYPES     16384u
#define OBJECT_WIDE             ((uint64_t)1 << 38)

/* ---- maps: AVL trees of records
 * -------------------------------------------------------------------------------------- */

/* Key behind the header, value behind the key at the next multiple of 8. */
struct map_node {
    uint64_t left, right; /* places */
    uint32_t value_len;
    uint16_t key_len;
    uint8_t height; /* 1: a leaf */
    uint8_t map;
};
static_assert(sizeof(struct map_node) == 24, "media format");
#define MAP_HEIGHT_MAX 48

struct map_root {
    uint64_t root; /* place */
    uint64_t count;
};

/* ---- page 0
 * ---------------------------------------------------------------------------------------------------------
 */

struct heap_header {
    uint64_t magic;
    uint32_t format;
    uint32_t engine;
    uint64_t uid, heap_id;
    uint32_t shard;
    uint32_t granule_shift;
    uint64_t bytes_max;
    uint64_t index, term, clock;

    uint64_t data_bytes;    /* the data ends here */
    uint64_t free_granules; /* of free extents */
    uint32_t extent_count;  /* descriptors ever used, number 0 included */
    uint32_t extent_spare;  /* list of unused ones */
    uint32_t extent_spare_count;
    uint32_t extent_first, extent_last;

    uint32_t slot_frames; /* ever used */
    uint32_t
        slot_frame_free; /* list of empty frames (number + 1; the link is the frame's first word) */
    uint32_t slot_frame_free_count;
    uint32_t slot_pages;                       /* ever used */
    uint32_t slot_retired;                     /* pages that left the table */
    uint32_t slot_current;                     /* page + 1 */
    uint32_t slot_queue_head, slot_queue_tail; /* page + 1 */
    uint32_t slot_queue_count;

    uint64_t object_count, object_bytes; /* as asked for */
    uint64_t block_count[2];             /* blocks in use: objects, internal */
    uint64_t block_bytes[2];

    struct map_root maps[8];
    struct slab_list slabs[2][40];
    uint32_t bin_rows; /* bit: the row has a free extent */
    uint16_t bin_columns[BIN_ROWS];
    uint16_t bin_pad;
    uint32_t bins[BIN_ROWS][BIN_COLUMNS];
    uint8_t fsm[512];
};
static_assert(sizeof(struct heap_header) <= 4096, "media format: one page");
static_assert(offsetof(struct heap_header, index) == 48, "media format");
static_assert(offsetof(struct heap_header, fsm) % 8 == 0,
              "the replica keeps 64-bit fields in there");

#endif
