/* Bytes of the log on disk: the only file, with record.c, that knows an offset. docs/wal-format.md
 * is the same in prose.
 *
 *   segment file  = header (4096 bytes) block block ... rest
 *   block         = head (64 bytes) record record ... zeroes to the next multiple of 4096
 *   record        = head (40 bytes) data zeroes to the next multiple of 8
 *
 * The *address* of a byte is its segment's base plus its offset in the file: one number over all
 * segments. */
#ifndef CAIRN_WAL_WAL_LAYOUT_H
#define CAIRN_WAL_WAL_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define WAL_VERSION             1u
#define WAL_ALIGN               4096u
#define WAL_HEADER_BYTES        4096u
#define WAL_BLOCK_HEAD_BYTES    64u
#define WAL_RECORD_HEAD_BYTES   40u
#define WAL_RESTATE_BYTES       72u /* data of a RESTATE record */
#define WAL_SEGMENT_BYTES_MIN   (64u << 10)
#define WAL_SEGMENT_BYTES_MAX   (1u << 30)
#define WAL_BLOCK_FLAG_OPENING  1u /* first block of its segment */
#define WAL_BLOCK_FLAG_RECOVERY 2u /* and the first of its life: its RESTATEs replace what was */
#define WAL_RECORD_TYPE_CLEAN   1u /* type of a MARK: written by a clean stop */

enum wal_kind {
    WAL_KIND_ENTRY = 1,      /* index, term, type, data */
    WAL_KIND_TRUNCATE = 2,   /* index: the first one removed */
    WAL_KIND_HARD_STATE = 3, /* term; index: voted for */
    WAL_KIND_CHECKPOINT = 4, /* term: sequence; index; data: keep_after u64, its term u64 */
    WAL_KIND_CREATE = 5,     /* index, term: of the entry before the first */
    WAL_KIND_RESTART = 6,    /* likewise */
    WAL_KIND_DROP = 7,       /* no fields */
    WAL_KIND_COMMIT = 8,     /* index: known to be committed */
    WAL_KIND_MARK = 9,       /* uid 0; carries nothing but its block's synced_to */
    WAL_KIND_OPENING = 10,   /* uid 0; index: valid bytes of the segment before; term: number of
                                RESTATEs that follow */
    WAL_KIND_RESTATE = 11,   /* data: struct wal_restate */
};

struct wal_header {
    uint64_t sequence; /* 1, 2, ... without holes */
    uint64_t salt;     /* random, of this life of the file */
    uint64_t base;     /* address of the file's first byte */
    uint64_t bytes;    /* of the file */
    uint64_t node_uid;
};

/* Which segment is the newest there is: a file of two slots of WAL_ALIGN bytes, written in turn. */
#define WAL_NEWEST_BYTES   (2 * WAL_ALIGN)
#define WAL_NEWEST_VERSION 1u
struct wal_newest {
    uint64_t generation; /* grows with every write; 0: nothing is known */
    uint64_t sequence;
    uint64_t node_uid;
};

struct wal_block_head {
    uint32_t bytes; /* head and records, before padding */
    uint32_t records;
    uint64_t synced_to; /* address up to which everything was durable when this block was sealed */
    uint64_t position;  /* the log's position before and after this block's records */
    uint64_t position_end;
    uint32_t flags;
};

struct wal_record {
    enum wal_kind kind;
    uint8_t type;
    uint64_t uid;
    uint64_t index;
    uint64_t term;
    struct slice data; /* borrowed */
};

/* What one shard's part of the log amounts to at the end of the block that holds it. */
struct wal_restate {
    uint64_t prev_index, prev_term;
    uint64_t last_index, last_term;
    uint64_t term, voted_for;
    uint64_t checkpoint_sequence, checkpoint_index;
    uint64_t commit_hint;
};

static inline size_t wal__round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) & ~(to - 1);
}
static inline size_t wal__record_bytes(size_t data_bytes)
{
    return WAL_RECORD_HEAD_BYTES + wal__round_up(data_bytes, 8);
}

/* All of record.c. thread: any */

/* out: WAL_HEADER_BYTES, every byte is set. */
void wal__header_pack(const struct wal_header *h, uint8_t *out);
/* ERR_CORRUPT (magic, checksum or a field out of its range), ERR_VERSION. */
int wal__header_unpack(const uint8_t *in, struct wal_header *out);

/* out: WAL_ALIGN bytes, every one is set. */
void wal__newest_pack(const struct wal_newest *n, uint8_t *out);
/* The younger one of the valid slots; generation 0: there is none. in: WAL_NEWEST_BYTES */
void wal__newest_unpack(const uint8_t *in, struct wal_newest *out);

/* Writes the record at `out` and returns its bytes. data may be given in r->data (copied). */
size_t wal__record_pack(const struct wal_record *r, uint8_t *out);
/* The record at the front of `in`: *bytes is its length. ERR_CORRUPT when it isn't one. */
int wal__record_unpack(struct slice in, struct wal_record *out, size_t *bytes);
/* Kind, uid, index and term of a record that this process packed itself; returns its bytes. */
size_t wal__record_peek(const uint8_t *in, struct wal_record *out);

void wal__restate_pack(const struct wal_restate *s, uint8_t *out);
int wal__restate_unpack(struct slice in, struct wal_restate *out);

/* Fills the head of the block in `block`, whose records stand already, zeroes the padding and
 * computes the checksum. Returns the padded length; the memory must reach as far. */
size_t wal__block_seal(uint8_t *block, const struct wal_block_head *head,
                       const struct wal_header *segment, uint64_t offset);
/* Does something stand there that this life of the file has begun to write? */
bool wal__block_begun(struct slice in, const struct wal_header *segment);
/* Is there a valid block of this segment at `offset`? `in` is the file from there on. */
bool wal__block_check(struct slice in, const struct wal_header *segment, uint64_t offset,
                      struct wal_block_head *out);

#endif
