/* A part: what a transaction wants of one shard, as it travels and as it stands in the log. The SDK
 * writes it, the engine reads it (alloc/txn.h), and neither sees the other.
 *
 * struct txn_part_header, then `items` times struct txn_item with `name_len` and `len` bytes behind
 * it, without padding. Little-endian. Valid iff complete, nothing follows, items <= TX_ITEMS_MAX,
 * reserved fields are 0, kinds are known, and what a kind doesn't use is 0. All checks are made
 * against the state before the first operation; operations take effect in their order. */

#ifndef CAIRN_BASE_TXN_PART_H
#define CAIRN_BASE_TXN_PART_H

#include <assert.h>
#include <stdint.h>

struct txn_part_header {
    uint64_t session; /* on this shard: whose leased slots are used; 0: none */
    uint32_t items;
    uint32_t reserved;
};

enum txn_item_kind {
    TXN_CHECK_OBJECT = 1, /* ptr, value: version as read; 0: leased, unborn (X12) */
    TXN_CHECK_ROOT,       /* name, value: version as read; 0: absent */
    TXN_CHECK_DIRECTORY,  /* value: version of the set of names */
    TXN_CHECK_BYTES,      /* ptr, value: offset; bytes: what must stand there */
    TXN_CHECK_LIVE,       /* ptr: is an object, whatever its version */
    TXN_ALLOC = 16,       /* ptr: leased to header.session; value: size; type; bytes: init */
    TXN_FREE,             /* ptr */
    TXN_WRITE,            /* ptr, value: offset; bytes. Also on objects that this part allocates */
    TXN_ROOT_SET,         /* name, ptr (not 0) */
    TXN_ROOT_DELETE,      /* name; absent: nothing to do */
};
enum txn_check_mode {
    TXN_EQUAL,     /* the version is `value` */
    TXN_NOT_NEWER, /* the version is <= `value`: first committer wins (snapshot level) */
};

struct txn_item {
    uint8_t kind;
    uint8_t mode; /* of CHECK_OBJECT, CHECK_ROOT, CHECK_DIRECTORY */
    uint16_t name_len;
    uint32_t len;
    uint64_t ptr;
    uint64_t value;
    uint32_t type;
    uint32_t reserved;
};
static_assert(sizeof(struct txn_part_header) == 16, "on the wire");
static_assert(sizeof(struct txn_item) == 32, "on the wire");

/* What conflicts, in RESULT.value: a pointer (an object); or TXN_CONFLICT_NAMED | number of the
 * item in its part (a root, or the directory). Bit 63 is never set in a pointer: shards are fewer
 * than 2048. */
#define TXN_CONFLICT_NAMED ((uint64_t)1 << 63)

#endif
