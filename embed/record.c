/* Each command: kind u16, fields u16, then the fields whose bits are set, in the order of the bits:
 * numbers as they are, byte strings behind a u32 length. Fields that are 0 or empty aren't there:
 * a write of 8 bytes is 32 bytes in the log. */
#include "embed/record.h"

#include <string.h>

#include "base/assert.h"

enum field {
    FIELD_TYPE = 1 << 0,  /* u32 */
    FIELD_COUNT = 1 << 1, /* u32 */
    FIELD_SESSION = 1 << 2,
    FIELD_TARGET = 1 << 3,
    FIELD_EXPECTED_PTR = 1 << 4,
    FIELD_OFFSET = 1 << 5,
    FIELD_SIZE = 1 << 6,
    FIELD_DELTA = 1 << 7,
    FIELD_IF_VERSION = 1 << 8,
    FIELD_DATA = 1 << 9,
    FIELD_EXPECTED = 1 << 10,
    FIELD_NAME = 1 << 11,
    FIELDS_ALL = (1 << 12) - 1
};
#define U32_FIELDS   2u
#define U64_FIELDS   7u
#define BYTES_FIELDS 3u

/* The same order everywhere: by bit. */
struct fields {
    uint32_t u32s[U32_FIELDS];
    uint64_t u64s[U64_FIELDS];
    struct slice bytes[BYTES_FIELDS];
};

static void fields_of(const struct heap_command *c, struct fields *f)
{
    *f = (struct fields){
        .u32s = {c->type, c->count},
        .u64s = {c->session, c->ptr, c->expected_ptr, c->offset, c->size, c->delta, c->if_version},
        .bytes = {c->data, c->expected, c->name}};
}

static void fields_to(const struct fields *f, struct heap_command *c)
{
    c->type = f->u32s[0];
    c->count = f->u32s[1];
    c->session = f->u64s[0];
    c->ptr = f->u64s[1];
    c->expected_ptr = f->u64s[2];
    c->offset = f->u64s[3];
    c->size = f->u64s[4];
    c->delta = f->u64s[5];
    c->if_version = f->u64s[6];
    c->data = f->bytes[0];
    c->expected = f->bytes[1];
    c->name = f->bytes[2];
}

static size_t fields_bytes(const struct fields *f, uint16_t *mask)
{
    size_t bytes = 4;
    *mask = 0;
    for (unsigned i = 0; i < U32_FIELDS; i++) {
        *mask |= (uint16_t)((f->u32s[i] != 0) << i);
        bytes += f->u32s[i] != 0 ? 4 : 0;
    }
    for (unsigned i = 0; i < U64_FIELDS; i++) {
        *mask |= (uint16_t)((f->u64s[i] != 0) << (U32_FIELDS + i));
        bytes += f->u64s[i] != 0 ? 8 : 0;
    }
    for (unsigned i = 0; i < BYTES_FIELDS; i++) {
        *mask |= (uint16_t)((f->bytes[i].len != 0) << (U32_FIELDS + U64_FIELDS + i));
        bytes += f->bytes[i].len != 0 ? 4 + f->bytes[i].len : 0;
    }
    return bytes;
}

size_t record_bytes(const struct record *record)
{
    struct fields f;
    uint16_t mask;
    fields_of(&record->command, &f);
    return fields_bytes(&f, &mask);
}

int record_begin(struct buf *out)
{
    uint8_t *at = buf_extend(out, RECORD_HEADER_BYTES);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    memset(at, 0, RECORD_HEADER_BYTES);
    store_u16(at, RECORD_FORMAT);
    return 0;
}

int record_append(struct buf *out, const struct record *record)
{
    struct fields f;
    uint16_t mask;
    assert(out->len >= RECORD_HEADER_BYTES);
    fields_of(&record->command, &f);
    size_t bytes = fields_bytes(&f, &mask);
    if (bytes > COMMAND_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    uint8_t *at = buf_extend(out, bytes);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    store_u16(at, record->kind);
    store_u16(at + 2, mask);
    at += 4;
    for (unsigned i = 0; i < U32_FIELDS; i++) {
        if (f.u32s[i] != 0) {
            store_u32(at, f.u32s[i]);
            at += 4;
        }
    }
    for (unsigned i = 0; i < U64_FIELDS; i++) {
        if (f.u64s[i] != 0) {
            store_u64(at, f.u64s[i]);
            at += 8;
        }
    }
    for (unsigned i = 0; i < BYTES_FIELDS; i++) {
        if (f.bytes[i].len != 0) {
            store_u32(at, (uint32_t)f.bytes[i].len);
            memcpy(at + 4, f.bytes[i].data, f.bytes[i].len);
            at += 4 + f.bytes[i].len;
        }
    }
    assert(at == out->data + out->len);
    store_u32(out->data + 4, load_u32(out->data + 4) + 1);
    return 0;
}

void record_stamp(struct buf *out, uint64_t stamp)
{
    assert(out->len >= RECORD_HEADER_BYTES);
    store_u64(out->data + 8, stamp);
}

int record_read_open(struct record_reader *r, struct slice entry)
{
    r->at = cursor_of(entry);
    uint16_t format = cursor_u16(&r->at);
    uint16_t reserved = cursor_u16(&r->at);
    r->left = cursor_u32(&r->at);
    r->stamp = cursor_u64(&r->at);
    if (r->at.failed || reserved != 0) {
        return ERR_CORRUPT;
    }
    return format == RECORD_FORMAT ? 0 : ERR_VERSION;
}

static bool kind_is_known(uint16_t kind)
{
    return (kind > 0 && kind < HEAP_COMMAND_KINDS) ||
           (kind >= RECORD_HEAP_CREATE && kind < RECORD_KINDS);
}

int record_read(struct record_reader *r, struct record *out)
{
    struct fields f;
    memset(&f, 0, sizeof f);
    memset(out, 0, sizeof *out);
    if (r->left == 0) {
        return cursor_left(&r->at) == 0 ? ERR_NOTFOUND : ERR_CORRUPT;
    }
    r->left--;
    out->kind = cursor_u16(&r->at);
    uint16_t mask = cursor_u16(&r->at);
    if (r->at.failed || !kind_is_known(out->kind) || (mask & ~FIELDS_ALL) != 0) {
        return ERR_CORRUPT;
    }
    for (unsigned i = 0; i < U32_FIELDS; i++) {
        f.u32s[i] = (mask >> i & 1) != 0 ? cursor_u32(&r->at) : 0;
    }
    for (unsigned i = 0; i < U64_FIELDS; i++) {
        f.u64s[i] = (mask >> (U32_FIELDS + i) & 1) != 0 ? cursor_u64(&r->at) : 0;
    }
    for (unsigned i = 0; i < BYTES_FIELDS; i++) {
        if ((mask >> (U32_FIELDS + U64_FIELDS + i) & 1) != 0) {
            f.bytes[i] = cursor_bytes(&r->at, cursor_u32(&r->at));
        }
    }
    if (r->at.failed) {
        return ERR_CORRUPT;
    }
    fields_to(&f, &out->command);
    out->command.kind = out->kind < HEAP_COMMAND_KINDS ? (enum heap_command_kind)out->kind
                                                       : (enum heap_command_kind)0;
    return 0;
}
