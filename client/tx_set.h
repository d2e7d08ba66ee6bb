/* What a transaction has read and wants to do, and how that travels. Nobody outside client/
 * includes this. One thread at a time. */
#ifndef CAIRN_CLIENT_TX_SET_H
#define CAIRN_CLIENT_TX_SET_H

#include "base/list.h"
#include "base/txn_part.h"
#include "cairn/tx.h"
#include "client/internal.h"
#include "client/sdk.h"

/* ---- memory (tx_memory.c) ---- */

#define TX_MEMORY_BYTES_MAX 2048u /* at a time; alignment is 16 */
#define TX_BYTES_CLASS_MIN  32u
#define TX_BYTES_CLASSES    7u
static_assert(TX_BYTES_CLASS_MIN << (TX_BYTES_CLASSES - 1) == TX_MEMORY_BYTES_MAX,
              "the last class");

struct tx_block;
struct tx_memory {
    uint8_t *at, *end; /* of the newest block, or of what it began with */
    struct tx_block *blocks;
};
void sdk__tx_memory_init(struct tx_memory *m, void *room, size_t bytes);
void *sdk__tx_memory_take(struct tx_memory *m, size_t bytes); /* NULL: no memory */
void sdk__tx_memory_close(struct tx_memory *m);

/* Bytes that grow and come to an end before the others, which then have their place: however long a
 * transaction goes on, it keeps no more than it had at a time. */
struct tx_bytes {
    struct tx_memory memory;
    void *given[TX_BYTES_CLASSES];
    uint32_t large; /* buffers that are the allocator's */
};
int sdk__tx_bytes_reserve(struct tx_bytes *m, struct buf *b, size_t more); /* 0, NOMEM */
void sdk__tx_bytes_drop(struct tx_bytes *m, struct buf *b);

/* ---- the set ---- */

/* Bytes at an offset. Ranges of a list are in order, and neither overlap nor touch. */
struct tx_range {
    struct list link;
    uint64_t offset;
    struct buf bytes; /* set->bytes's */
};

struct tx_object {
    struct list link;       /* set->objects, in order of first mention */
    struct tx_object *next; /* in its bucket */
    struct cairn_heap *heap;
    struct core_shard *shard;
    uint64_t ptr;
    uint64_t version; /* that was read, 0: promised, not allocated yet */
    bool checked;     /* `version` must still be it at the commit */
    bool live;        /* must be an object then, whatever its version */
    bool born, freed; /* by this transaction */
    bool sized;       /* size, type and flags are known */
    uint64_t session; /* born: to which its slot was leased */
    uint64_t size;
    uint32_t type, flags;
    struct list writes;   /* tx_range */
    struct list compares; /* tx_range, as they came */
};

struct tx_root {
    struct list link;
    struct cairn_heap *heap;
    struct core_shard *shard;
    char name[ROOT_NAME_BYTES_MAX + 1];
    size_t name_len;
    uint64_t ptr, version; /* that were read; version 0: there is none */
    bool checked;
    bool written;
    uint64_t desired; /* written: 0 deletes it */
};

/* All names of a shard were listed. */
struct tx_directory {
    struct list link;
    struct cairn_heap *heap;
    struct core_shard *shard;
    uint64_t version;
    bool checked;
};

/* A transaction as one heap sees it. */
struct cairn_tx {
    struct tx_set *set;
    struct cairn_heap *heap;
    struct list link; /* set->parts */
};

#define TX_BUCKETS_FIRST 16u
#define TX_ROOM_OBJECTS  1024u /* of a small transaction: its objects, ... */
#define TX_ROOM_RANGES   512u  /* and what it writes */
struct tx_set {
    struct cairn_client *client;
    cairn_tx_opts opts;
    uint64_t deadline_ns; /* CLOCK_MONOTONIC */
    uint64_t at;          /* all is read as of then; 0: newest */
    bool strict;          /* only reads, as of a time that is found at the first of them */
    bool unfound;         /* no such time could be found: BUSY was said */
    bool turned;          /* strict, and did what it can't: CONFLICT was said */
    uint64_t clock;       /* greatest version read */
    uint32_t reads;       /* requests that what was read came with */
    uint32_t demands;     /* checks that nothing was read for */
    uint32_t items;       /* checks and operations so far */
    size_t size;          /* bytes that they will be, about */
    bool writes;          /* it changes something */
    bool allocated;       /* ever */
    bool unborn;          /* it has freed what it allocated */
    uint32_t tries;       /* of the same run, before this one */
    uint64_t first_read;  /* the object that was read first, 0: none */
    uint64_t turn;        /* the object that it has its turn at, 0: none */
    uint64_t turn_at;     /* the only one that it may have it at, 0: any */
    struct list objects, roots, directories;
    struct list parts;       /* struct cairn_tx, joined ones too */
    struct core_shard *kept; /* sdk__embedded_keep()t until the set is freed; NULL: none */
    /* Once the commit has its id: the number that it will be sent under, and where to. */
    struct tx_reserved *reserved;
    struct cairn_heap *home_heap;
    struct core_shard *home; /* NULL: not fixed yet */
    cairn_tx_id id;
    struct cairn_tx first; /* of its parts */
    /* Objects by their pointer: as many buckets as a power of two has, or all are full. */
    uint32_t object_count, bucket_count;
    struct tx_object **buckets;
    struct tx_memory memory; /* of objects, roots, directories */
    struct tx_bytes bytes;   /* of ranges, and what is in them */
    struct list ranges;      /* that can be had again */
    struct tx_object *buckets_first[TX_BUCKETS_FIRST];
    /* Not zeroed. */
    _Alignas(16) uint8_t room_objects[TX_ROOM_OBJECTS];
    _Alignas(16) uint8_t room_ranges[TX_ROOM_RANGES];
};

/* tx_set.c */
struct tx_set *sdk__tx_set_new(struct cairn_client *client); /* of no heap yet */
void sdk__tx_set_free(struct tx_set *set);
/* Nothing but the names of what it has to do with is needed any more: nobody looks at what its
 * objects write and compare. */
void sdk__tx_set_drop_bytes(struct tx_set *set);
int sdk__tx_name_compare(struct slice a, struct slice b); /* bytewise, as the shards list them */
/* Found or made; NULL: no memory. The pointer is of that shard. */
struct tx_object *sdk__tx_set_object(struct tx_set *set, struct cairn_heap *heap,
                                     struct core_shard *shard, uint64_t ptr);
struct tx_root *sdk__tx_set_root(struct tx_set *set, struct cairn_heap *heap,
                                 struct core_shard *shard, struct slice name);
struct tx_directory *sdk__tx_set_directory(struct tx_set *set, struct cairn_heap *heap,
                                           struct core_shard *shard);
/* Room for another item with so many bytes; 0, LIMIT, TOOBIG, said already. */
int sdk__tx_set_charge(struct tx_set *set, uint32_t items, size_t bytes);
void sdk__tx_set_refund(struct tx_set *set, uint32_t items, size_t bytes);
/* The version of an object was read, and counts at the commit. CONFLICT: another one was before. */
int sdk__tx_set_saw_object(struct tx_set *set, struct tx_object *object, uint64_t version);
int sdk__tx_set_saw_root(struct tx_set *set, struct tx_root *root, uint64_t version, uint64_t ptr);
int sdk__tx_set_saw_directory(struct tx_set *set, struct tx_directory *directory, uint64_t version);

/* What the object's own writes leave of a range; *all: they cover it. */
void sdk__tx_overlay(const struct tx_object *object, uint64_t offset, uint8_t *data, size_t len);
bool sdk__tx_covered(const struct tx_object *object, uint64_t offset, size_t len);
int sdk__tx_write_bytes(struct tx_set *set, struct tx_object *object, uint64_t offset,
                        struct slice data);
/* Against own writes at once (CONFLICT), the rest of the range at the commit. */
int sdk__tx_compare_bytes(struct tx_set *set, struct tx_object *object, uint64_t offset,
                          struct slice expected);
int sdk__tx_compare_later(struct tx_set *set, struct tx_object *object, uint64_t offset,
                          struct slice expected);
void sdk__tx_drop_writes(struct tx_set *set, struct tx_object *object);

/* tx_part.c: one shard's. */
struct tx_part {
    struct cairn_heap *heap;
    struct core_shard *shard;
    struct buf bytes;
    uint64_t session;
    uint32_t items;
    bool writes;
};
struct tx_parts {
    struct tx_part parts[TX_PARTICIPANTS_MAX];
    uint32_t count;
};
/* `count` is 0 before, and all of that that is set up. LIMIT, TOOBIG, NOMEM, CONFLICT (leases of
 * two sessions), said already; sdk__tx_parts_free() in any case. */
int sdk__tx_parts_encode(const struct tx_set *set, struct tx_parts *out);
/* The home shard comes first: the one with most items, then the smallest uid. */
void sdk__tx_parts_order(struct tx_parts *parts);
/* That one comes first, with a part of its own even if there is nothing to do. LIMIT, NOMEM. */
int sdk__tx_parts_home(struct tx_parts *parts, struct cairn_heap *heap, struct core_shard *shard);
/* {uid, length, part} each, as TX_COMMIT wants them. */
int sdk__tx_parts_join(const struct tx_parts *parts, struct buf *out);
void sdk__tx_parts_free(struct tx_parts *parts);
/* Adds: the object is allocated, in a transaction that is refused: so its slot goes back, and
 * nothing else happens. */
int sdk__tx_parts_burn(struct tx_parts *parts, const struct tx_object *object);
/* What the number in a conflict means: a sentence, and the pointer (0: a name). */
uint64_t sdk__tx_conflict_say(const struct tx_parts *parts, uint64_t what, uint64_t version,
                              char *text, size_t size);

/* tx.c */
uint64_t sdk__now_ns(void);
uint32_t sdk__tx_left_ms(const struct tx_set *set); /* until its deadline; 0: it has passed */
/* The same, and cheaper, but some milliseconds more while there are many. */
uint32_t sdk__tx_left_ms_about(const struct tx_set *set);
uint32_t sdk__tx_shard_index(const struct cairn_heap *heap, const struct core_shard *shard);
/* The shard of a pointer; INVAL, said already. */
int sdk__tx_aim(const struct cairn_heap *heap, uint64_t ptr, struct core_shard **out);
/* `desired` must be an object when the transaction commits. */
int sdk__tx_check_live(struct cairn_tx *tx, cairn_ptr ptr);

/* tx_snapshot.c */
/* All that it reads is as of one time, which the first read finds. */
bool sdk__tx_sees_one_time(const struct tx_set *set);
/* Before anything is read: finds that time. 0 also when there is nothing to find. BUSY
 * (set->unfound), TIMEOUT, NOMEM ..., said already. */
int sdk__tx_find_time(struct cairn_tx *tx);
/* Refuses what a strict transaction can't do (set->turned): CONFLICT, so that it runs again. */
int sdk__tx_only_reads(struct tx_set *set);

/* tx_read.c */
/* What the set has of it. INVAL, NOMEM, STALE (freed by the transaction), said already. */
int sdk__tx_object_of(struct cairn_tx *tx, cairn_ptr ptr, struct tx_object **out);
int sdk__tx_root_of(struct cairn_tx *tx, const char *name, struct tx_root **out);
/* Asks the shards whether the checks hold. CONFLICT with what is in the way. */
int sdk__tx_validate(struct cairn_tx *tx, struct tx_parts *parts, uint64_t *what,
                     uint64_t *version);

void sdk__pause_us(uint64_t us);
#define SDK_TX_SETTLE_PAUSE_US 5000u

/* contention.c: at most one turn per transaction, so that none waits while others wait for it. */
/* What READ.turn is to be: the object is wanted much, and likely to be changed. */
uint8_t sdk__turn_of_read(struct tx_set *set, const struct tx_object *object);
/* Waits for the turn at set->turn_at before anything else. */
int sdk__turn_wait(struct cairn_tx *tx);
/* Before the commit: a turn that was taken for nothing isn't taken the next time. */
void sdk__turn_end(const struct tx_set *set);
/* The commit found that the object (0: none) had changed. True: a turn at it would help. */
bool sdk__turn_conflict(const struct tx_set *set, uint64_t ptr);
/* How long to wait after so many tries. */
uint64_t sdk__backoff_us(uint32_t tries);

/* tx_id.c */
void sdk__tx_release(struct tx_set *set); /* the number won't be used; if it has one */
struct core_op *sdk__tx_take_number(struct tx_set *set); /* for the commit; NULL: it has none */
/* 0: committed; TX_ABORTED, TX_UNDECIDED, SESSION_EXPIRED (nobody knows, or our session is gone).
 */
int sdk__tx_settle(struct cairn_client *client, const cairn_tx_id *id, uint32_t left_ms,
                   uint64_t *version);

/* lease.c: a pointer that is promised to *session of the shard. */
int sdk__lease_take(struct cairn_heap *heap, uint32_t shard, uint32_t timeout_ms, uint64_t *ptr,
                    uint64_t *session);
/* The pointers of objects that won't be born stop being promised: they are stale from now on, and
 * the leases that they are of can end. In the background; the heap may be closed. all: else only
 * those that were freed. singly: shards may have done so with some of them already. */
void sdk__lease_burn_unused(const struct tx_set *set, bool all, bool singly);

#endif
