/* The bytes of the arena: what stands at which offset (docs/heap-format.md). Media format only: no
 * function of the engine looks at an offset that isn't named here, and any change of a line is a
 * new HEAP_FORMAT or HEAP_ENGINE. */
#ifndef CAIRN_ALLOC_HEAP_LAYOUT_H
#define CAIRN_ALLOC_HEAP_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"

#define HEAP_MAGIC  0x315041454e524943ull /* "CIRNEAP1" */
#define HEAP_FORMAT 8u
#define HEAP_ENGINE 10u

#define PAGE_SHIFT     12
#define PAGE_BYTES     ((uint64_t)1 << PAGE_SHIFT)
#define HEAP_BYTES_MIN ((uint64_t)1 << 20)
#define HEAP_BYTES_MAX ((uint64_t)1 << 44)

/* ---- space: two bits a granule ------------------------------------------------------------------
 *
 * An extent is a run of granules. Per granule:
 *   start used
 *     0    0    free
 *     1    1    first of an extent that holds an object or a chunk of one
 *     1    0    first of an extent that holds a slab, a map record or an undo record; its first
 *               four bytes are BLOCK_MAGIC_...
 *     0    1    a further granule of the extent before
 * An extent ends where another one starts or a free granule begins. Nothing else says where free
 * space is, so a placement is a function of the set of used extents alone (ADR 0005). */

/* 256-byte granules up to 1 TiB; twice as large for each doubling beyond, so that a granule number
 * has 32 bits. A heap may be made with larger ones. */
#define GRANULE_SHIFT_MIN 8u
#define GRANULE_SHIFT_MAX 16u

struct granules { /* of 64 granules, side by side: one cache line tells about 256 */
    uint64_t used;
    uint64_t start;
};
static_assert(sizeof(struct granules) == 16, "media format");

/* ---- blocks: what is handed out -------------------------------------------------------------- */

/* A place names a block: its offset in the data / 16 (40 bits), and above it 0 for an extent or the
 * class + 1 of its slab (6 bits). The whole plus 1, so that 0 is none:
 *   place = ((offset / 16) << 6 | (class + 1 or 0)) + 1. */
#define PLACE_UNIT       16u
#define PLACE_CLASS_BITS 6
#define PLACE_BITS       46

/* Blocks of different pools never share a slab. */
enum pool { POOL_OBJECTS, POOL_MAPS, POOL_UNDO, POOLS };

/* ---- slabs ----------------------------------------------------------------------------------- */

#define SLAB_BYTES_FIRST     ((uint64_t)16 << 10) /* the first slab of a class */
#define SLAB_BYTES           ((uint64_t)64 << 10)
#define SLAB_BLOCK_BYTES_MAX 4096u
#define SLAB_GRANULES_MAX    8u /* nor larger than so many granules */
#define SLAB_CLASSES         39u

/* First four bytes of everything that isn't an object. */
#define BLOCK_MAGIC_SLAB 0x42414c53u /* "SLAB" */
#define BLOCK_MAGIC_MAP  0x4e50414du /* "MAPN" */
#define BLOCK_MAGIC_UNDO 0x4f444e55u /* "UNDO" */

/* At the start of the slab's extent; the bitmap follows (bit set: block in use, or behind the last
 * one), then, 16-byte aligned, the blocks. */
struct slab {
    uint32_t magic;
    uint8_t class;
    uint8_t pool;
    uint16_t blocks;
    uint32_t next, prev; /* granule + 1: slabs of the class with a free block; 0: none */
    uint16_t used;
    uint16_t reserved0;
    uint32_t first; /* offset of the first block */
    uint32_t roomy; /* bit n: word n of the bitmap has a free block */
    uint32_t reserved1;
    uint64_t map[];
};
static_assert(sizeof(struct slab) == 32, "media format");
static_assert(SLAB_BYTES / 32 / 64 <= 32, "a bit for every word of a bitmap");

struct slab_list {
    uint32_t head, tail;
    uint32_t slabs;   /* all of the class */
    uint32_t partial; /* of them in the list */
    uint32_t current; /* blocks come from it until it is full: the head, or 0 */
};

/* ---- slots ----------------------------------------------------------------------------------- */

/* generation:14 | state:4 | place:46. All zero: never used.
 *   FREE     place: the next free entry of the page, 0 none
 *   LIVE     place of the object's block
 *   RETIRED  the generations are used up; place 0
 *   LEASED   promised to a session: place = number of the lease
 *   DEAD     freed, but older versions may still be read: place of the object's block
 *   PREPARED allocated by an undecided transaction: place of the block, whose version is 0
 *   SPARE    freed, and kept with its block for the next object: place of the block */
enum slot_state {
    SLOT_FREE,
    SLOT_LIVE,
    SLOT_RETIRED,
    SLOT_LEASED,
    SLOT_DEAD,
    SLOT_PREPARED,
    SLOT_SPARE,
    SLOT_STATES
};
#define SLOT_STATE_BITS     4
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

/* ---- objects --------------------------------------------------------------------------------- */

/* word: slot:38 | wide:1 | slack:6 | type:14 | flags:5. slack: bytes of the block behind the
 * object (narrow ones only). */
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
#define OBJECT_SLACK_SHIFT      39
#define OBJECT_TYPE_SHIFT       45
#define OBJECT_FLAGS_SHIFT      59

enum object_flag {
    OBJECT_TABLE = 1,   /* wide; the payload is a table: the place of each chunk, u64 each */
    OBJECT_CHUNK = 2,   /* this block is a chunk; the slot is its object's */
    OBJECT_HISTORY = 4, /* HEAP_MAP_UNDO has its newest undo record */
    OBJECT_INTENT = 8,  /* HEAP_MAP_TX has an intent on it */
};

/* Objects above OBJECT_CHUNK_BYTES are tables of chunks of that size, each a block of its own with
 * an object_header; the last one has just what is left. So no command copies more than that. A
 * chunk's word is slot and OBJECT_CHUNK, nothing else (neither wide nor slack, whatever its block):
 * how long it is follows from its object's size and its number. */
#define OBJECT_CHUNK_BYTES ((uint64_t)1 << 20)

/* A chunk's `version` is its number and above it the place of the undo record that has it since it
 * was cut off; 0: its object's table has it. So who moves a chunk finds what names it in one look:
 * a history may keep a great many chunks of one number. */
#define CHUNK_KEEPER_SHIFT 16
#define CHUNK_NUMBER_MASK  (((uint64_t)1 << CHUNK_KEEPER_SHIFT) - 1)
static_assert(PLACE_BITS + CHUNK_KEEPER_SHIFT <= 64, "a place has room");

/* ---- page 1: spares
 * ------------------------------------------------------------------------------
 *
 * What comes and goes takes the same slot and block again and again: of each class of narrow
 * objects the last few that were freed keep both, the slot with its next generation, the block with
 * the bytes it had. Freeing and allocating then change a line each here, and neither slabs nor the
 * lists of free slots. */
#define SPARES_AT     PAGE_BYTES
#define SPARES_MAX    7u
#define SPARE_CLASSES 31u /* blocks of up to OBJECT_NARROW_BYTES_MAX */
struct spares {
    uint64_t count;
    uint64_t slots[SPARES_MAX]; /* of them that many, the newest last; then zeros */
};
static_assert(sizeof(struct spares) == 64, "media format: a line of a class");
/* None are made where more of the limit is in use than all but 1 / SPARES_SHARE. */
#define SPARES_SHARE 8u

/* ---- undo: what a change took away (rules X17, E22) ------------------------------------------ */

enum undo_kind {
    UNDO_WRITE = 1, /* bytes of [offset, offset + len) */
    UNDO_RESIZE, /* size before; with the bytes and chunks that were cut off (offset: new size) */
    UNDO_BIRTH,  /* before this the object didn't exist */
    UNDO_FREE,   /* the object was freed: its block and slot go when this is reclaimed */
    UNDO_ROOT,   /* a root: slot 0; size, offset: where it led before and after; its name follows */
};
/* In a block of POOL_UNDO; `len` bytes follow, then, at the next multiple of 8, u64 places of the
 * `chunks` chunks that a table lost. They belong to the record until it is reclaimed: the table of
 * their slot doesn't have them any more. The first is number object_chunks(offset). */
struct undo_record {
    uint32_t magic;
    uint32_t kind;
    uint64_t at;         /* version of the change: readers before it need this record */
    uint64_t before;     /* the object's version before */
    uint64_t slot;       /* whose */
    uint64_t older;      /* place: the object's next older record; 0: none */
    uint64_t newer;      /* place: the object's next newer record; 0: this is the newest */
    uint64_t next, prev; /* places, in order of apply, over all objects: the queue */
    uint64_t size;       /* the object's size before */
    uint64_t offset;
    uint32_t len;
    uint32_t chunks;
    uint64_t order; /* log index << 16 | number of the change in its entry: grows along the queue,
                       which `at` need not do (a commit's may be older than the clock) */
};
static_assert(sizeof(struct undo_record) == 96, "media format");
#define ORDER_INDEX_SHIFT 16

/* ---- maps: AVL trees of records -------------------------------------------------------------- */

/* In a block of POOL_MAPS. Key behind the header, value behind the key at the next multiple of 8.
 */
struct map_node {
    uint32_t magic;
    uint16_t key_len;
    uint8_t height; /* 1: a leaf */
    uint8_t map;
    uint32_t value_len;
    uint32_t reserved;
    uint64_t left, right; /* places */
};
static_assert(sizeof(struct map_node) == 32, "media format");
#define MAP_HEIGHT_MAX 48

struct map_root {
    uint64_t root; /* place */
    uint64_t count;
};

/* HEAP_MAP_UNDO: slot, u64 big-endian -> place u64 of the newest undo record.
 * HEAP_MAP_TYPES: number, u32 big-endian -> struct type_record + fields + names (alloc/type.c).
 * HEAP_MAP_LEASES: lease number, u64 big-endian -> struct lease_record + slots u64[count]. */
struct lease_record {
    uint64_t session;
    uint32_t count; /* slots of the lease, used or not */
    uint32_t left;  /* of them still LEASED */
};
static_assert(sizeof(struct lease_record) == 16, "media format");

struct type_record {
    uint64_t version; /* of the registration */
    uint32_t size;
    uint16_t field_count;
    uint8_t name_len;
    uint8_t reserved;
    /* then the name; then per field: kind u8, name_len u8, reserved u16, offset u32, count u32,
     * target u32 (type number, for pointers), name */
};
static_assert(sizeof(struct type_record) == 16, "media format");

/* ---- page 0 ---------------------------------------------------------------------------------- */

struct heap_header {
    uint64_t magic;
    uint32_t format;
    uint32_t engine;
    uint64_t uid, heap_id;
    uint32_t shard;
    uint32_t granule_shift;
    uint64_t bytes_max;
    uint64_t data_bytes;    /* the data ends here; a multiple of the page and the granule */
    uint64_t used_granules; /* of used extents */

    /* Two lines, what nearly every entry changes: pmem mode writes few others of this page. */
    uint64_t index, term, clock;
    uint64_t object_count, object_bytes; /* live ones, as asked for */
    uint64_t block_bytes[POOLS];
    uint64_t block_count[POOLS]; /* blocks in use */
    uint64_t chunk_count; /* blocks of POOL_OBJECTS that are chunks, those of undo records too */
    uint64_t dead_count, dead_bytes; /* freed, still readable at older versions */

    uint32_t slot_frames; /* ever used */
    /* list of empty frames (number + 1; the link is the frame's first word) */
    uint32_t slot_frame_free;
    uint32_t slot_frame_free_count;
    uint32_t slot_pages;                       /* ever used */
    uint32_t slot_retired;                     /* pages that left the table */
    uint32_t slot_current;                     /* page + 1 */
    uint32_t slot_queue_head, slot_queue_tail; /* page + 1 */
    uint32_t slot_queue_count;
    uint32_t reserved0;

    uint64_t retention_ms;           /* how far back versions can be read; 0: no history is kept */
    uint64_t safepoint;              /* versions below it may be gone; never moves back */
    uint64_t undo_head, undo_tail;   /* places: oldest, newest */
    uint64_t undo_count, undo_bytes; /* bytes: records with what follows them, without rounding */
    uint64_t lease_next;             /* number of the next lease; the first is 1 */
    uint64_t leased_count;
    uint64_t moved_blocks, moved_bytes; /* by compaction, ever */

    uint64_t directory;    /* version of the set of roots' names */
    uint64_t last_order;   /* of the newest change */
    uint64_t history_from; /* order: what is behind it has its undo records, until reclaimed */
    uint64_t keep_until;   /* clock up to which history is kept for readers; 0: none */
    uint64_t tx_oldest;    /* least prepare time of a PREPARED record; 0: none */
    uint32_t tx_prepared, tx_committed, tx_refused; /* records of HEAP_MAP_TX */
    uint32_t roots_reserved;                        /* placeholders among the roots */

    struct map_root maps[8];
    struct slab_list slabs[POOLS][40];
    uint8_t fsm[512]; /* what every entry changes of it is one line */
};
static_assert(sizeof(struct heap_header) <= 4096, "media format: one page");
static_assert(offsetof(struct heap_header, index) == 64, "media format");
static_assert(offsetof(struct heap_header, fsm) % 64 == 0, "media format");

#endif
