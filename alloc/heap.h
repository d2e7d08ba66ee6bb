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

/* ---- pointers (E21) -------------------------------------------------------------------------- */

/* shard:12 | generation:14 | slot:38. Slot 0 is never used: the null pointer is 0. */
#define PTR_SLOT_BITS       38
#define PTR_GENERATION_BITS 14
#define PTR_SHARD_BITS      12
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

/* ---- life ------------------------------------------------------------------------------------ */

struct heap_opts {
    uint64_t uid;       /* the shard's, never reused */
    uint64_t heap_id;   /* of the heap that the shard belongs to, never reused */
    uint32_t shard;     /* index within the heap: stands in every pointer */
    uint64_t bytes_max; /* limit of the arena, all metadata included; multiple of HEAP_PAGE_BYTES,
                           >= 1 MiB */
    uint32_t granule_shift; /* space is handed out in units of 1 << this; 0: as fits bytes_max */
    uint64_t retention_ms;  /* how far back versions can be read; 0: no history is kept */
};

/* An empty heap at index 0. Its bytes depend on opts alone. ERR_NOMEM, ERR_INVAL. */
int heap_create(const struct heap_opts *opts, struct heap **out);
/* All views closed before. */
void heap_free(struct heap *heap);
void heap_get_opts(const struct heap *heap, struct heap_opts *out);
/* 0; or why this copy of the heap can't go on: a page of its image couldn't be read, or has other
 * bytes than were written (ERR_CORRUPT, ERR_IO, ERR_NOMEM; *text says which). What calls have
 * returned since may be wrong, also where they had no way to say so: nobody gets an answer, and the
 * replica stops. */
int heap_damage(const struct heap *heap, const char **text);

/* ---- apply: one Raft entry at a time
 * ------------------------------------------------------------------------------ */

/* Opens the apply of entry `index` (> heap_index()), whose stamp is entry_time (HLC). Every entry
 * must be bracketed, also one that changes nothing. */
void heap_begin(struct heap *heap, uint64_t index, uint64_t term, uint64_t entry_time);
void heap_end(struct heap *heap);
uint64_t heap_uid(const struct heap *heap);
uint64_t heap_index(const struct heap *heap); /* last entry begun */
uint64_t heap_term(const struct heap *heap);
uint64_t
heap_clock(const struct heap *heap); /* the shard clock: greatest version given so far (HLC) */
/* What the commands have cost so far beyond their number: chunks made and freed, KiB moved, types
 * compared. A number of this process, for nothing but deciding when to go on. */
uint64_t heap_work(const struct heap *heap);
/* Advances the shard clock and returns the version of the next command: max(entry time, clock + 1)
 * (X6). */
uint64_t heap_next_version(struct heap *heap);

/* What a change took away is kept as undo records (E22) while a reader may still want it: when
 * retention_ms isn't 0. A change whose version the safepoint covers leaves none. Reserving the
 * record may give ERR_NOSPACE; then nothing has changed. */

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
/* Changes the size (1..OBJECT_BYTES_MAX); the pointer stays, bytes up to the smaller size too, new
 * ones are zero. In place where it fits, else at most OBJECT_CHUNK_BYTES are copied. ERR_NOSPACE,
 * ERR_TOOBIG, ERR_INVAL. */
int heap_realloc(struct heap *heap, uint64_t version, uint64_t ptr, uint64_t size);

/* The object's bytes from `offset` on: *part of them (1..len, unless len is 0) are contiguous in
 * memory at *bytes; ask again for the rest. Objects up to 1 MiB come in one part. ERR_RANGE when
 * [offset, offset + len) isn't inside the object. */
int heap_read(const struct heap *heap, uint64_t ptr, uint64_t offset, uint64_t len,
              const uint8_t **bytes, uint64_t *part);
/* The same, copied. */
int heap_copy(const struct heap *heap, uint64_t ptr, uint64_t offset, void *data, uint64_t len);
int heap_stat(const struct heap *heap, uint64_t ptr, struct heap_object *out);

/* Objects in slot order from slot `from` on, at most `max`, and fewer (or none) where many slots
 * are free: a call takes bounded time. *next: where to go on, 0 at the end. */
size_t heap_list_objects(const struct heap *heap, uint64_t from, struct heap_object *out,
                         size_t max, uint64_t *next);

/* ---- older versions ---------------------------------------------------------------------------
 *
 * The state at `at` is what commands with versions <= at left behind. Answerable for at >=
 * heap_safepoint(); below: ERR_SNAPSHOT_TOO_OLD, but that a heap without retention answers for what
 * hasn't changed since. Freed objects stay readable (DEAD) until the safepoint passes the version
 * of their free. */

uint64_t heap_safepoint(const struct heap *heap);
uint64_t heap_retention_ms(const struct heap *heap);
/* ERR_NOTFOUND: not yet allocated then. ERR_STALE: freed by then (or long ago). */
int heap_stat_at(const struct heap *heap, uint64_t at, uint64_t ptr, struct heap_object *out);
/* Copies; ERR_RANGE by the size of then. */
int heap_read_at(const struct heap *heap, uint64_t at, uint64_t ptr, uint64_t offset, void *data,
                 uint64_t len);
/* The changes of one object, newest first, from the `skip`th on. */
struct heap_change {
    uint64_t version; /* of the change */
    uint64_t before;  /* the object's version before it; 0: it was born */
    uint64_t size;    /* after the change */
    uint64_t offset;  /* of what was overwritten */
    uint32_t len;
    uint32_t kind;  /* enum undo_kind of alloc/heap_layout.h; 0: older than the history */
    uint64_t order; /* as in undo_record: which entry it came in; 0: older than the history */
};
/* ERR_STALE when nothing of it is left. */
int heap_history(const struct heap *heap, uint64_t ptr, uint64_t skip, struct heap_change *out,
                 size_t max, size_t *count);

/* ---- apply: upkeep, each a logged command with a bounded step -------------------------------- */

/* Keeps history from now on, or drops it (0: the safepoint moves to the clock). ERR_NOSPACE: no
 * room to begin with; what is set aside here lets a heap that has become full still free objects.
 */
int heap_set_retention(struct heap *heap, uint64_t retention_ms);
/* Moves the safepoint up to min(safepoint, clock - retention), never back, and gives back up to
 * `records` undo records below it, with the freed objects they keep; a chunk of a large object
 * counts as a record. *left: at most so many are still to go, 0 none. */
#define HEAP_RECLAIM_RECORDS_MAX 1024u
void heap_reclaim(struct heap *heap, uint64_t safepoint, uint32_t records, uint64_t *left);
/* Moves blocks down into lower free space and out of sparse slabs, until about `bytes` have been
 * copied. Pointers stay valid; versions don't change. *left: another step would move something. */
#define HEAP_DEFRAG_BYTES_MAX (1u << 20)
struct heap_defrag {
    uint64_t blocks, bytes; /* moved in this step */
    uint64_t freed_bytes;   /* of the arena, given back at the tail in this step */
    bool left;
};
int heap_defrag(struct heap *heap, uint64_t bytes, struct heap_defrag *out);
/* Gives the free tail of the arena back, at most `bytes`. Returns how much. */
uint64_t heap_trim(struct heap *heap, uint64_t bytes);

/* ---- slot leases (E21, X20): final pointers before the object exists ------------------------- */

#define HEAP_LEASE_SLOTS_MAX LEASE_SLOTS_MAX
/* Leases up to `count` slots to a session; ptrs[i] are the pointers that they will be. *lease is
 * its number. ERR_NOSPACE, ERR_INVAL. */
int heap_lease(struct heap *heap, uint64_t session, uint32_t count, uint64_t *lease,
               uint64_t ptrs[]);
/* The slots of a lease that are still unused: for whoever asks again. ERR_NOTFOUND. */
int heap_lease_get(const struct heap *heap, uint64_t lease, uint64_t *session, uint64_t ptrs[],
                   uint32_t *count);
/* heap_alloc() at a leased pointer. ERR_STALE: not leased to this session (any more). */
int heap_alloc_leased(struct heap *heap, uint64_t version, uint64_t session, uint64_t ptr,
                      uint64_t size, uint32_t type, struct slice init);
/* Unused slots of a lease go back, each with a new generation. ERR_NOTFOUND. */
int heap_lease_return(struct heap *heap, uint64_t lease);

/* ---- types ----------------------------------------------------------------------------------- */

enum heap_field_kind {
    FIELD_BYTES = 1, /* opaque */
    FIELD_CHARS,     /* text, NUL-padded */
    FIELD_U8,
    FIELD_U16,
    FIELD_U32,
    FIELD_U64,
    FIELD_I8,
    FIELD_I16,
    FIELD_I32,
    FIELD_I64,
    FIELD_F32,
    FIELD_F64,
    FIELD_PTR, /* a cairn_ptr; target: type number, 0 any */
    FIELD_KINDS
};
#define TYPE_FIELDS_MAX     128u
#define TYPE_NAME_BYTES_MAX 63u
uint32_t heap_field_bytes(enum heap_field_kind kind); /* of one element; 0: no such kind */

struct heap_field {
    struct slice name;
    enum heap_field_kind kind;
    uint32_t offset;
    uint32_t count; /* elements; bytes for BYTES and CHARS; 0: a flexible array, last field only */
    uint32_t target;
};
struct heap_type {
    uint32_t number; /* 1.. */
    uint32_t size;   /* of the struct; objects may be larger (a flexible array of the last field) */
    struct slice name;
    uint32_t field_count;
    struct heap_field fields[TYPE_FIELDS_MAX];
    uint64_t version; /* out: of the registration */
};
/* The encoding that travels and is stored: struct type_record of alloc/heap_layout.h and what
 * follows it (version 0 on the way). ERR_PROTOCOL. Names point into `bytes`. */
int heap_type_decode(uint32_t number, struct slice bytes, struct heap_type *out);
int heap_type_encode(const struct heap_type *type, struct buf *out);
/* Registers a type, or checks it against the registered one: the same name, size and known fields
 * where they were; new fields may be added where none was, and the size may grow. An older form of
 * the registered type (some of its fields, no larger) is accepted too and changes nothing: programs
 * of two releases run side by side. 0; ERR_CONFLICT: not compatible, or the name belongs to another
 * number. ERR_INVAL: fields overlap or leave the struct. ERR_LIMIT: HEAP_TYPES_MAX are registered.
 * ERR_PROTOCOL, ERR_NOSPACE. */
#define HEAP_TYPES_MAX 4096u
int heap_type_register(struct heap *heap, uint64_t version, uint32_t number, struct slice bytes);
int heap_type_get(const struct heap *heap, uint32_t number, struct heap_type *out);
/* The next type behind `after` (0: the first). ERR_NOTFOUND at the end. */
int heap_type_next(const struct heap *heap, uint32_t after, struct heap_type *out);

/* ---- maps: small persistent tables inside the arena (heap-engine.md §7)
 * ------------------------------------------- */

enum heap_map {
    HEAP_MAP_ROOTS,
    HEAP_MAP_SESSIONS,
    HEAP_MAP_CATALOG,
    HEAP_MAP_META,
    HEAP_MAP_UNDO,
    HEAP_MAP_TYPES,
    HEAP_MAP_LEASES,
    HEAP_MAP_TX, /* alloc/txn.h */
    HEAP_MAP_COUNT = 8
};
#define MAP_KEY_BYTES_MAX   256u
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
uint8_t *heap_fsm_edit(struct heap *heap, size_t at, size_t len); /* from `at` on; marked dirty */

/* ---- numbers --------------------------------------------------------------------------------- */

struct heap_stats {
    uint64_t arena_bytes, arena_bytes_max; /* size now, limit */
    uint64_t object_count, object_bytes;   /* live objects, payload as asked for */
    uint64_t allocated_bytes;              /* with headers and rounding; history and maps, too */
    /* Of that, objects: live ones, those that history keeps, and spares, which were freed and keep
     * their blocks for the next ones. */
    uint64_t object_block_bytes;
    uint64_t spare_count, spare_bytes; /* blocks */
    uint64_t free_bytes, largest_free_bytes;
    /* Metadata: what isn't an object. Space: header, slot directory and table, granule maps.
     * Objects: headers of objects and slabs, tables of chunks. */
    uint64_t metadata_space_bytes, metadata_object_bytes;
    uint64_t root_count, session_count, type_count;
    uint64_t dead_count, dead_bytes; /* freed objects that history keeps */
    uint64_t undo_count, undo_bytes;
    uint64_t retention_ms, safepoint;
    uint64_t leased_slots, retired_slots;
    uint64_t moved_blocks, moved_bytes; /* by compaction, ever */
    uint64_t dirty_pages, present_pages;
};
/* Looks at every slab and at all of the granule maps: for when somebody asks. */
void heap_get_stats(const struct heap *heap, struct heap_stats *out);
/* The numbers of *s (not the safepoint, which is a version) under the names that answers have for
 * them. */
typedef void (*heap_stat_cb)(void *arg, const char *name, uint64_t value);
void heap_stats_each(const struct heap_stats *s, heap_stat_cb cb, void *arg);
/* The few of them that upkeep looks at again and again. */
struct heap_counts {
    uint64_t dirty_pages, present_pages;
    uint64_t undo_count;
};
void heap_get_counts(const struct heap *heap, struct heap_counts *out);

/* Order-independent sum of page hashes at heap_index() (E19): equal on two replicas at one index
 * iff (but for 2^-64) all present pages are. Costs time in proportion to pages changed since the
 * last call. */
uint64_t heap_digest(struct heap *heap);

/* By size class of slabs (0..HEAP_CLASSES - 2), and all extents together (the last). */
#define HEAP_CLASSES 40u
struct heap_class_stats {
    uint32_t block_bytes; /* 0: extents */
    uint64_t slabs, partial_slabs;
    uint64_t blocks;      /* objects and internal ones, in use, and the spare ones */
    uint64_t spare;       /* of them */
    uint64_t capacity;    /* blocks that the slabs have room for */
    uint64_t bytes;       /* of the blocks in use */
    uint64_t arena_bytes; /* of the slabs or extents */
};
/* From the heap's own counters and slab lists: time in proportion to the number of slabs. */
void heap_get_class_stats(const struct heap *heap, struct heap_class_stats out[HEAP_CLASSES]);

/* Verifies every structural invariant: granule maps, slabs, slots, objects, undo, types, leases,
 * maps, counters against a recount. 0, or ERR_CORRUPT with the first finding in *e. It trusts
 * nothing: a heap that passes can't make a later call leave its bounds. Slow. */
int heap_check(const struct heap *heap, struct err_text *e);

/* Findings of a full check, one at a time: where, what is wrong, and what follows from it. `code`
 * is a stable word ("slot-place", "dangling-root" ...; docs/operations.md). */
enum heap_severity { HEAP_FINDING_DAMAGE, HEAP_FINDING_DANGLING };
typedef void (*heap_finding_cb)(void *arg, enum heap_severity severity, const char *code,
                                const char *text);
/* All findings, as far as they can be told apart (at most `max`); also pointer fields of registered
 * types and roots that point at no live object of this shard. Returns how many of DAMAGE. */
uint64_t heap_check_all(const struct heap *heap, uint64_t max, heap_finding_cb cb, void *arg);

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
