/* One shard's heap: a deterministic persistent allocator over one arena.
 *
 * No threads, no clock, no network in here. Everything that a replica must agree on is in the
 * arena, byte for byte; the functions of section "apply" are pure functions of the arena and their
 * arguments. Placement replays: reopening one copy at any moment and not another leaves both equal
 * (heap-engine.md §3).
 *
 * All calls on the reactor's thread. Pointers into the arena that a call returns are borrowed until
 * the next call that changes this heap. Lack of local memory in apply is fatal to the replica (I2):
 * such calls return ERR_NOMEM, which is never a command's result; out-of-space (ERR_NOSPACE) is
 * decided by the replicated limit alone. */
#ifndef CAIRN_ALLOC_HEAP_H
#define CAIRN_ALLOC_HEAP_H

#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"

struct heap;
struct view;

#define HEAP_PAGE_BYTES 4096u

/* ---- pointers (E21)
 * -----------------------------------------------------------------------------------------------
 */

/* shard:12 | generation:14 | slot:38. Slot 0 is never used: the null pointer is 0. */
#define PTR_SLOT_BITS       38
#define PTR_GENERATION_BITS 14
static inline uint64_t ptr_make(uint32_t shard, uint32_t generation, uint64_t slot)
{
    return ((uint64_t)shard << (PTR_SLOT_BITS + PTR_GENERATION_BITS)) |
           ((uint64_t)generation << PTR_SLOT_BITS) | slot;
}
static inline uint32_t ptr_shard(uint64_t ptr)
{
    return (uint32_t)(ptr >> (PTR_SLOT_BITS + PTR_GENERATION_BITS));
}
static inline uint32_t ptr_generation(uint64_t ptr)
{
    return (uint32_t)(ptr >> PTR_SLOT_BITS) & ((1u << PTR_GENERATION_BITS) - 1);
}
static inline uint64_t ptr_slot(uint64_t ptr)
{
    return ptr & ((1ull << PTR_SLOT_BITS) - 1);
}

/* ---- life
 * ---------------------------------------------------------------------------------------------------------
 */

struct heap_opts {
    uint64_t uid;       /* the shard's, never reused */
    uint64_t heap_id;   /* of the heap that the shard belongs to, never reused */
    uint32_t shard;     /* index within the heap: stands in every pointer */
    uint64_t bytes_max; /* limit of the arena, all metadata included; multiple of HEAP_PAGE_BYTES,
                           >= 1 MiB */
};

/* An empty heap at index 0. Its bytes depend on opts alone. ERR_NOMEM, ERR_INVAL. */
int heap_create(const struct heap_opts *opts, struct heap **out);
/* All views closed before. */
void heap_free(struct heap *heap);
void heap_get_opts(const struct heap *heap, struct heap_opts *out);

/* ---- apply: one Raft entry at a time
 * ------------------------------------------------------------------------------ */

/* Opens the apply of entry `index` (> heap_index()), whose stamp is entry_time (HLC). Every entry
 * must be bracketed, also one that changes nothing. */
void heap_begin(struct heap *heap, uint64_t index, uint64_t term, uint64_t entry_time);
void heap_end(struct heap *heap);
uint64_t heap_index(const struct heap *heap); /* last entry begun */
uint64_t heap_term(const struct heap *heap);
uint64_t
heap_clock(const struct heap *heap); /* the shard clock: greatest version given so far (HLC) */
/* Advances the shard clock and returns the version of the next command: max(entry time, clock + 1)
 * (X6). */
uint64_t heap_next_version(struct heap *heap);

struct heap_object {
    uint64_t ptr;
    uint64_t size;    /* bytes, as asked for */
    uint64_t version; /* of the newest change */
    uint32_t type;    /* 0: untyped */
    uint32_t flags;
};

/* Allocates `size` (1..OBJECT_BYTES_MAX) zeroed bytes; the first init.len (<= size) are `init`.
 * ERR_NOSPACE, ERR_TOOBIG, ERR_INVAL (size 0, init longer), ERR_NOMEM (fatal). */
int heap_alloc(struct heap *heap, uint64_t version, uint64_t size, uint32_t type, struct slice init,
               uint64_t *ptr);
/* ERR_STALE for a pointer that was freed or never given; ERR_INVAL for null or another shard's. The
 * same codes for every call below that takes a ptr. */
int heap_free_object(struct heap *heap, uint64_t version, uint64_t ptr);
/* ERR_RANGE when [offset, offset + data.len) isn't inside the object. */
int heap_write(struct heap *heap, uint64_t version, uint64_t ptr, uint64_t offset,
               struct slice data);
/* The object's bytes [offset, offset + len), contiguous in memory. */
int heap_read(const struct heap *heap, uint64_t ptr, uint64_t offset, uint64_t len,
              const uint8_t **bytes);
int heap_stat(const struct heap *heap, uint64_t ptr, struct heap_object *out);

/* Objects in slot order from slot `from` on, at most `max`; *next: where to go on, 0 at the end. */
size_t heap_list_objects(const struct heap *heap, uint64_t from, struct heap_object *out,
                         size_t max, uint64_t *next);

/* ---- maps: small persistent tables inside the arena (heap-engine.md §7)
 * ------------------------------------------- */

enum heap_map {
    HEAP_MAP_ROOTS,
    HEAP_MAP_SESSIONS,
    HEAP_MAP_CATALOG,
    HEAP_MAP_META,
    HEAP_MAP_COUNT = 8
};
#define MAP_KEY_BYTES_MAX   255u
#define MAP_VALUE_BYTES_MAX (128u << 10)

/* Value of a key, in place. ERR_NOTFOUND. */
int heap_map_get(const struct heap *heap, enum heap_map map, struct slice key, struct slice *value);
/* Inserts or replaces. ERR_NOSPACE, ERR_TOOBIG, ERR_INVAL (empty key), ERR_NOMEM. Equal to what a
 * fresh insert would leave only in meaning: the placement depends on history, which is the same on
 * all replicas. */
int heap_map_put(struct heap *heap, enum heap_map map, struct slice key, struct slice value);
/* A writable part [offset, offset + len) of an existing value, marked dirty. NULL if absent or out
 * of range. */
uint8_t *heap_map_edit(struct heap *heap, enum heap_map map, struct slice key, uint64_t offset,
                       uint64_t len);
int heap_map_delete(struct heap *heap, enum heap_map map, struct slice key); /* ERR_NOTFOUND */
uint64_t heap_map_count(const struct heap *heap, enum heap_map map);
/* Next entry in bytewise key order after `after` (empty: the first). ERR_NOTFOUND at the end. */
int heap_map_next(const struct heap *heap, enum heap_map map, struct slice after, struct slice *key,
                  struct slice *value);

/* ---- small fixed state of the replica's state machine, in the arena's header page
 * --------------------------------- */

#define HEAP_FSM_BYTES 512u
/* Zeroed at birth; layout is the replica's (replica/fsm_layout.h). */
const uint8_t *heap_fsm(const struct heap *heap);
uint8_t *heap_fsm_edit(struct heap *heap); /* marked dirty */

/* ---- numbers
 * ------------------------------------------------------------------------------------------------------
 */

struct heap_stats {
    uint64_t arena_bytes, arena_bytes_max; /* size now, limit */
    uint64_t object_count, object_bytes;   /* live objects, payload as asked for */
    uint64_t allocated_bytes;              /* with headers and rounding */
    uint64_t free_bytes, largest_free_bytes;
    uint64_t metadata_bytes; /* slot table, descriptors, bitmaps, headers of objects */
    uint64_t root_count, session_count;
    uint64_t dirty_pages, present_pages;
};
void heap_get_stats(const struct heap *heap, struct heap_stats *out);

/* Order-independent sum of page hashes at heap_index() (E19): equal on two replicas at one index
 * iff (but for 2^-64) all present pages are. Costs time in proportion to pages changed since the
 * last call. */
uint64_t heap_digest(struct heap *heap);

/* Verifies every structural invariant: extents, descriptors, bitmaps, slots, maps, counters against
 * a recount. 0, or ERR_CORRUPT with the first finding in *e. Slow; for tests and `heap check`. */
int heap_check(const struct heap *heap, struct err_text *e);

/* ---- views: the arena at one index, while apply goes on (E11)
 * ------------------------------------------------------ */

/* The view of the whole arena as of now (not between heap_begin and heap_end). Changing a page
 * afterwards first copies it for the view. ERR_NOMEM; ERR_BUSY when VIEWS_MAX are open. */
#define VIEWS_MAX 8
int view_open(struct heap *heap, struct view **out);
void view_close(struct view *view);
uint64_t view_index(const struct view *view);
uint64_t view_term(const struct view *view);
uint64_t view_digest(struct view *view);
uint64_t
view_page_count(const struct view *view); /* pages of address space; absent ones included */
/* Borrowed until view_close or the next change of the heap; NULL: the page is absent (all zeros,
 * not stored, not sent). */
const uint8_t *view_page(struct view *view, uint64_t page);
const struct heap *view_heap_header(
    const struct view *view); /* reserved for `heap check` on a view; may be NULL now */
/* True when the view lost its pages because the copies reached their cap: abandon it. */
bool view_canceled(const struct view *view);

/* ---- receiving a heap page by page (replica transfer)
 * -------------------------------------------------------------- */

struct heap_receive;
int heap_receive_open(uint64_t page_count, uint64_t bytes_max, struct heap_receive **out);
/* Copies one page; any order, repeats allowed. ERR_RANGE. */
int heap_receive_page(struct heap_receive *r, uint64_t page, const void *bytes);
/* Validates header, uid, index, term, structure bounds and digest and turns the pages into a heap.
 * r is freed in any case. ERR_CORRUPT, ERR_VERSION. */
int heap_receive_finish(struct heap_receive *r, uint64_t uid, uint64_t index, uint64_t term,
                        uint64_t digest, struct heap **out);
void heap_receive_cancel(struct heap_receive *r);

#endif
