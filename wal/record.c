#include "wal/wal_layout.h"

#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "base/err.h"

#define HEADER_MAGIC 0x4c41574e52494143ull /* "CAIRNWAL" */
#define BLOCK_MAGIC  0x4b425743u           /* "CWBK" */

enum header_offset {
    HEADER_MAGIC_AT = 0,
    HEADER_CRC_AT = 8,
    HEADER_VERSION_AT = 12,
    HEADER_SEQUENCE_AT = 16,
    HEADER_SALT_AT = 24,
    HEADER_BASE_AT = 32,
    HEADER_BYTES_AT = 40,
    HEADER_NODE_AT = 48,
};

#define NEWEST_MAGIC 0x545345574e4c4157ull /* "WALNEWST" */

enum newest_offset {
    NEWEST_MAGIC_AT = 0,
    NEWEST_CRC_AT = 8,
    NEWEST_VERSION_AT = 12,
    NEWEST_GENERATION_AT = 16,
    NEWEST_SEQUENCE_AT = 24,
    NEWEST_NODE_AT = 32,
};

enum block_offset {
    BLOCK_CRC_AT = 0,
    BLOCK_MAGIC_AT = 4,
    BLOCK_BYTES_AT = 8,
    BLOCK_RECORDS_AT = 12,
    BLOCK_SALT_AT = 16,
    BLOCK_ADDRESS_AT = 24,
    BLOCK_SYNCED_AT = 32,
    BLOCK_POSITION_AT = 40,
    BLOCK_POSITION_END_AT = 48,
    BLOCK_FLAGS_AT = 56,
    BLOCK_RESERVED_AT = 60,
};

enum record_offset {
    RECORD_CRC_AT = 0,
    RECORD_LEN_AT = 4,
    RECORD_KIND_AT = 8,
    RECORD_TYPE_AT = 9,
    RECORD_RESERVED_AT = 10, /* six bytes */
    RECORD_UID_AT = 16,
    RECORD_INDEX_AT = 24,
    RECORD_TERM_AT = 32,
};

static_assert(BLOCK_RESERVED_AT + 4 == WAL_BLOCK_HEAD_BYTES, "the head of a block");
static_assert(RECORD_TERM_AT + 8 == WAL_RECORD_HEAD_BYTES, "the head of a record");
static_assert(sizeof(struct wal_restate) == WAL_RESTATE_BYTES, "nine words");

void wal__header_pack(const struct wal_header *h, uint8_t *out)
{
    memset(out, 0, WAL_HEADER_BYTES);
    store_u64(out + HEADER_MAGIC_AT, HEADER_MAGIC);
    store_u32(out + HEADER_VERSION_AT, WAL_VERSION);
    store_u64(out + HEADER_SEQUENCE_AT, h->sequence);
    store_u64(out + HEADER_SALT_AT, h->salt);
    store_u64(out + HEADER_BASE_AT, h->base);
    store_u64(out + HEADER_BYTES_AT, h->bytes);
    store_u64(out + HEADER_NODE_AT, h->node_uid);
    store_u32(out + HEADER_CRC_AT,
              crc32c(0, out + HEADER_VERSION_AT, WAL_HEADER_BYTES - HEADER_VERSION_AT));
}

static uint32_t newest_crc(const uint8_t *slot)
{
    return crc32c(0, slot + NEWEST_VERSION_AT, WAL_ALIGN - NEWEST_VERSION_AT);
}

void wal__newest_pack(const struct wal_newest *n, uint8_t *out)
{
    memset(out, 0, WAL_ALIGN);
    store_u64(out + NEWEST_MAGIC_AT, NEWEST_MAGIC);
    store_u32(out + NEWEST_VERSION_AT, WAL_NEWEST_VERSION);
    store_u64(out + NEWEST_GENERATION_AT, n->generation);
    store_u64(out + NEWEST_SEQUENCE_AT, n->sequence);
    store_u64(out + NEWEST_NODE_AT, n->node_uid);
    store_u32(out + NEWEST_CRC_AT, newest_crc(out));
}

void wal__newest_unpack(const uint8_t *in, struct wal_newest *out)
{
    memset(out, 0, sizeof *out);
    for (const uint8_t *slot = in; slot < in + WAL_NEWEST_BYTES; slot += WAL_ALIGN) {
        if (load_u64(slot + NEWEST_MAGIC_AT) == NEWEST_MAGIC &&
            load_u32(slot + NEWEST_CRC_AT) == newest_crc(slot) &&
            load_u32(slot + NEWEST_VERSION_AT) == WAL_NEWEST_VERSION &&
            load_u64(slot + NEWEST_GENERATION_AT) > out->generation) {
            out->generation = load_u64(slot + NEWEST_GENERATION_AT);
            out->sequence = load_u64(slot + NEWEST_SEQUENCE_AT);
            out->node_uid = load_u64(slot + NEWEST_NODE_AT);
        }
    }
}

int wal__header_unpack(const uint8_t *in, struct wal_header *out)
{
    memset(out, 0, sizeof *out);
    if (load_u64(in + HEADER_MAGIC_AT) != HEADER_MAGIC ||
        load_u32(in + HEADER_CRC_AT) !=
            crc32c(0, in + HEADER_VERSION_AT, WAL_HEADER_BYTES - HEADER_VERSION_AT)) {
        return ERR_CORRUPT;
    }
    if (load_u32(in + HEADER_VERSION_AT) != WAL_VERSION) {
        return ERR_VERSION;
    }
    out->sequence = load_u64(in + HEADER_SEQUENCE_AT);
    out->salt = load_u64(in + HEADER_SALT_AT);
    out->base = load_u64(in + HEADER_BASE_AT);
    out->bytes = load_u64(in + HEADER_BYTES_AT);
    out->node_uid = load_u64(in + HEADER_NODE_AT);
    /* The upper bounds keep every sum of addresses below 2^64. */
    if (out->sequence == 0 || out->sequence >= 1ull << 32 || out->base >= 1ull << 62 ||
        out->bytes < WAL_SEGMENT_BYTES_MIN || out->bytes > WAL_SEGMENT_BYTES_MAX ||
        out->bytes % WAL_ALIGN != 0 || out->base % WAL_ALIGN != 0) {
        return ERR_CORRUPT;
    }
    return 0;
}

size_t wal__record_pack(const struct wal_record *r, uint8_t *out)
{
    size_t bytes = wal__record_bytes(r->data.len);
    size_t end = WAL_RECORD_HEAD_BYTES + r->data.len;

    assert(r->data.len <= UINT32_MAX);
    memset(out + RECORD_LEN_AT, 0, 12);
    store_u32(out + RECORD_LEN_AT, (uint32_t)r->data.len);
    out[RECORD_KIND_AT] = (uint8_t)r->kind;
    out[RECORD_TYPE_AT] = r->type;
    store_u64(out + RECORD_UID_AT, r->uid);
    store_u64(out + RECORD_INDEX_AT, r->index);
    store_u64(out + RECORD_TERM_AT, r->term);
    if (r->data.len > 0) {
        memcpy(out + WAL_RECORD_HEAD_BYTES, r->data.data, r->data.len);
    }
    memset(out + end, 0, bytes - end);
    store_u32(out + RECORD_CRC_AT, crc32c(0, out + RECORD_LEN_AT, end - RECORD_LEN_AT));
    return bytes;
}

int wal__record_unpack(struct slice in, struct wal_record *out, size_t *bytes)
{
    size_t len;

    memset(out, 0, sizeof *out);
    *bytes = 0;
    if (in.len < WAL_RECORD_HEAD_BYTES) {
        return ERR_CORRUPT;
    }
    len = load_u32(in.data + RECORD_LEN_AT);
    if (len > in.len || wal__record_bytes(len) > in.len) {
        return ERR_CORRUPT;
    }
    if (load_u32(in.data + RECORD_CRC_AT) !=
        crc32c(0, in.data + RECORD_LEN_AT, WAL_RECORD_HEAD_BYTES + len - RECORD_LEN_AT)) {
        return ERR_CORRUPT;
    }
    if (in.data[RECORD_KIND_AT] < WAL_KIND_ENTRY || in.data[RECORD_KIND_AT] > WAL_KIND_RESTATE ||
        load_u16(in.data + RECORD_RESERVED_AT) != 0 ||
        load_u32(in.data + RECORD_RESERVED_AT + 2) != 0) {
        return ERR_CORRUPT;
    }
    out->kind = (enum wal_kind)in.data[RECORD_KIND_AT];
    out->type = in.data[RECORD_TYPE_AT];
    out->uid = load_u64(in.data + RECORD_UID_AT);
    out->index = load_u64(in.data + RECORD_INDEX_AT);
    out->term = load_u64(in.data + RECORD_TERM_AT);
    out->data = slice_of(in.data + WAL_RECORD_HEAD_BYTES, len);
    *bytes = wal__record_bytes(len);
    return 0;
}

size_t wal__record_peek(const uint8_t *in, struct wal_record *out)
{
    memset(out, 0, sizeof *out);
    out->kind = (enum wal_kind)in[RECORD_KIND_AT];
    out->uid = load_u64(in + RECORD_UID_AT);
    out->index = load_u64(in + RECORD_INDEX_AT);
    out->term = load_u64(in + RECORD_TERM_AT);
    return wal__record_bytes(load_u32(in + RECORD_LEN_AT));
}

void wal__restate_pack(const struct wal_restate *s, uint8_t *out)
{
    memcpy(out, s,
           sizeof *s); /* little-endian machine, no padding: base/buf.h and the assert above */
}

int wal__restate_unpack(struct slice in, struct wal_restate *out)
{
    if (in.len != WAL_RESTATE_BYTES) {
        return ERR_CORRUPT;
    }
    memcpy(out, in.data, sizeof *out);
    if (out->last_index < out->prev_index || out->last_index >= 1ull << 62) {
        return ERR_CORRUPT;
    }
    return 0;
}

static uint32_t block_crc(const uint8_t *block, size_t padded, const struct wal_header *segment,
                          uint64_t offset)
{
    uint64_t seed[3] = {segment->salt, segment->sequence, offset};

    return crc32c(crc32c(0, seed, sizeof seed), block + BLOCK_MAGIC_AT, padded - BLOCK_MAGIC_AT);
}

size_t wal__block_seal(uint8_t *block, const struct wal_block_head *head,
                       const struct wal_header *segment, uint64_t offset)
{
    size_t padded = wal__round_up(head->bytes, WAL_ALIGN);

    assert(head->bytes >= WAL_BLOCK_HEAD_BYTES);
    assert(offset % WAL_ALIGN == 0);
    assert(offset + padded <= segment->bytes);
    store_u32(block + BLOCK_MAGIC_AT, BLOCK_MAGIC);
    store_u32(block + BLOCK_BYTES_AT, head->bytes);
    store_u32(block + BLOCK_RECORDS_AT, head->records);
    store_u64(block + BLOCK_SALT_AT, segment->salt);
    store_u64(block + BLOCK_ADDRESS_AT, segment->base + offset);
    store_u64(block + BLOCK_SYNCED_AT, head->synced_to);
    store_u64(block + BLOCK_POSITION_AT, head->position);
    store_u64(block + BLOCK_POSITION_END_AT, head->position_end);
    store_u32(block + BLOCK_FLAGS_AT, head->flags);
    store_u32(block + BLOCK_RESERVED_AT, 0);
    memset(block + head->bytes, 0, padded - head->bytes);
    store_u32(block + BLOCK_CRC_AT, block_crc(block, padded, segment, offset));
    return padded;
}

bool wal__block_begun(struct slice in, const struct wal_header *segment)
{
    return in.len >= WAL_BLOCK_HEAD_BYTES && load_u64(in.data + BLOCK_SALT_AT) == segment->salt;
}

bool wal__block_check(struct slice in, const struct wal_header *segment, uint64_t offset,
                      struct wal_block_head *out)
{
    size_t padded;

    memset(out, 0, sizeof *out);
    if (in.len < WAL_ALIGN || load_u32(in.data + BLOCK_MAGIC_AT) != BLOCK_MAGIC ||
        load_u64(in.data + BLOCK_SALT_AT) != segment->salt ||
        load_u64(in.data + BLOCK_ADDRESS_AT) != segment->base + offset) {
        return false;
    }
    out->bytes = load_u32(in.data + BLOCK_BYTES_AT);
    padded = wal__round_up(out->bytes, WAL_ALIGN);
    if (out->bytes < WAL_BLOCK_HEAD_BYTES || padded > in.len ||
        load_u32(in.data + BLOCK_CRC_AT) != block_crc(in.data, padded, segment, offset)) {
        return false;
    }
    out->records = load_u32(in.data + BLOCK_RECORDS_AT);
    out->synced_to = load_u64(in.data + BLOCK_SYNCED_AT);
    out->position = load_u64(in.data + BLOCK_POSITION_AT);
    out->position_end = load_u64(in.data + BLOCK_POSITION_END_AT);
    out->flags = load_u32(in.data + BLOCK_FLAGS_AT);
    return true;
}
