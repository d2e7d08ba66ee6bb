/* What the files of the check share (check.c: the order of the steps). Nobody else includes this.
 *
 * No function here believes a number that another step hasn't bounded, or that this one doesn't
 * bound itself: the steps also run on behind a finding. */
#ifndef CAIRN_ALLOC_CHECK_H
#define CAIRN_ALLOC_CHECK_H

#include "alloc/engine.h"

/* A slab that was verified: where its blocks are, all of whose pages are there. */
struct checked_slab {
    const uint64_t *map;
    uint64_t blocks_at; /* of the data */
    uint32_t bytes;     /* of its blocks */
    uint32_t reciprocal;
    uint32_t class;
    uint32_t block_bytes;
};
#define CHECKED_SLABS 256u /* remembered */

struct check {
    const struct heap *h;
    const struct heap_header *hd;
    heap_finding_cb cb;
    void *arg;
    uint64_t max; /* findings wanted */
    uint64_t found;
    uint64_t damage; /* of them DAMAGE */
    bool stop;       /* enough was found */

    uint64_t granules;         /* of the data */
    struct checked_slab *near; /* of POOL_OBJECTS, by where they lie; NULL: not to be used */
    /* The recount. */
    uint64_t blocks[POOLS], bytes[POOLS];
    uint64_t slabs[POOLS][SLAB_CLASSES], partial[POOLS][SLAB_CLASSES];
    uint64_t live, live_bytes, dead, dead_bytes;
    uint64_t chunks;
    uint64_t histories; /* objects with OBJECT_HISTORY */
    uint64_t leased, leases_left;
    uint64_t roots_reserved; /* placeholders */
    uint64_t unborn;         /* blocks of PREPARED slots */
    uint64_t spares;         /* of SPARE slots */
    uint64_t held;           /* objects with OBJECT_INTENT */
    /* Transactions: records by state; and what their parts want of the rest. */
    uint64_t tx_states[4];
    uint64_t tx_oldest;
    uint64_t unborn_wanted, placeholders_wanted, held_wanted;
    uint64_t exclusive, exclusive_wanted; /* intents */
    uint64_t shared, shared_wanted;       /* sums of hashes */
    uint64_t changers, changers_wanted;
    uint64_t map_nodes;
    uint64_t queued, queued_frees, queued_bytes; /* undo records in the queue */
    uint64_t chained;                            /* and in objects' chains */
};

__attribute__((format(printf, 3, 4))) void check_damage(struct check *c, const char *code,
                                                        const char *format, ...);
__attribute__((format(printf, 3, 4))) void check_dangling(struct check *c, const char *code,
                                                          const char *format, ...);

/* Two counts of one thing: what was found, and what the header or the other side says. */
void check_count(struct check *c, const char *what, uint64_t found, uint64_t counted);

/* "SHARD.GENERATION.SLOT", as everywhere where a pointer is shown. */
struct pointer_text {
    char text[40];
};
struct pointer_text check_pointer(const struct check *c, uint64_t generation, uint64_t slot);

static inline bool check_page_is_there(const struct check *c, uint64_t address)
{
    return pageset_has(&c->h->arena.present, address >> PAGE_SHIFT);
}
/* Bytes of a page that may be absent, up to the page's end. In a region's used part. */
const void *check_look(const struct check *c, uint64_t address);
/* Bytes in the data, all of whose pages are present; NULL when they aren't, or out of bounds. */
const void *check_data(const struct check *c, uint64_t address, uint64_t len);
bool check_is_zero(const void *bytes, size_t len);

/* ---- check.c ----------------------------------------------------------------------------------
 */

/* What everything else is bounded by. 0, ERR_CORRUPT, ERR_VERSION. */
int check_header(const struct heap *h, struct err_text *e);
/* What the regions use: header, slot directory, granule maps, slot frames, data. */
struct page_range {
    uint64_t first, count;
};
#define CHECK_REGIONS 5
void check_regions(const struct heap *h, struct page_range out[CHECK_REGIONS]);
/* The first present page that lies in none of them; 0: there is none. */
uint64_t check_page_outside(const struct heap *h);

/* ---- check_space.c ----------------------------------------------------------------------------
 */

void check_space(struct check *c); /* granule maps, extents, slabs, their lists */

struct block {
    uint64_t place;
    uint64_t address, bytes;
    uint64_t granule; /* of the extent, or of the slab */
    uint32_t class;   /* PLACE_NO_CLASS: an extent */
};
/* Is `place` the name of a block of this pool that is in use? A block has just one such name. */
bool check_block(const struct check *c, uint64_t place, enum pool pool, struct block *out);
/* The same for a small block of POOL_OBJECTS in a heap without damage, and quick where the last
 * ones lay near. 0: ask check_block(). Else its address; all its pages are there. */
uint64_t check_block_near(struct check *c, uint64_t place, uint32_t *bytes);
/* Every block in use of a pool, in address order. */
typedef void (*check_block_cb)(struct check *c, const struct block *block);
void check_each_block(struct check *c, enum pool pool, check_block_cb cb);

/* ---- check_slot.c, check_object.c -------------------------------------------------------------
 */

void check_slots(struct check *c); /* the table, and by it all objects */
/* A slot's entry; 0 when there is none. Bounded whatever the directory says. */
uint64_t check_slot_entry(const struct check *c, uint64_t slot);

struct checked_object {
    struct block block;
    uint64_t version;
    uint64_t size;
    uint32_t type;
    uint32_t flags;
};
/* The object of a LIVE or DEAD slot as it stands in its block, its chunks left out. */
bool check_object_get(const struct check *c, uint64_t slot, struct checked_object *out);
/* Verifies the object of a slot, and counts it. */
void check_object(struct check *c, uint64_t slot, uint64_t entry);
/* Places of the chunks of a table; NULL: it has none, or they aren't there. */
const uint64_t *check_table(const struct check *c, const struct checked_object *o);
/* Is this the chunk with that number, of that size, of the slot's object, that an undo record (or,
 * keeper 0, the table) has? */
bool check_chunk(const struct check *c, uint64_t place, uint64_t slot, uint64_t number,
                 uint64_t keeper, uint64_t size);
/* Names the blocks of POOL_OBJECTS that no slot owns. */
void check_lost_objects(struct check *c);

/* ---- check_map.c ------------------------------------------------------------------------------
 */

void check_maps(struct check *c);
struct map_record {
    struct slice key, value;
    uint64_t place;
};
/* A record by its key, in a tree that may be anything. */
bool check_map_find(const struct check *c, enum heap_map map, struct slice key,
                    struct map_record *out);
void check_lost_records(struct check *c); /* names the blocks of POOL_MAPS in no tree */
void check_dangling_all(
    struct check *c); /* roots and pointer fields; only when nothing is damaged */

/* ---- check_txn.c ------------------------------------------------------------------------------
 */

void check_txn_record(struct check *c, struct slice key, struct slice value); /* of HEAP_MAP_TX */
void check_txns(struct check *c); /* behind all of them: the sums */

/* ---- check_undo.c -----------------------------------------------------------------------------
 */

void check_undo_queue(struct check *c);
/* The record of HEAP_MAP_UNDO of one slot, and the chain behind it. */
void check_undo_chain(struct check *c, uint64_t slot, uint64_t newest);
/* The record 'h' of HEAP_MAP_TX of one name, and the chain behind it. */
void check_undo_root_chain(struct check *c, struct slice name, uint64_t newest);
bool check_undo_has_chunk(const struct check *c, uint64_t keeper, uint64_t slot, uint64_t place);
void check_lost_undo(struct check *c);

#endif
