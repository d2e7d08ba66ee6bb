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

size_t record_bytes(const struct embedded_request *r)
{
    const uint64_t numbers[] = {r->session, r->ptr,   r->expected_ptr, r->offset,
                                r->size,    r->delta, r->if_version};
    const size_t lengths[] = {r->data.len, r->expected.len, r->name.len};
    size_t bytes = 4u + (r->type != 0 ? 4u : 0u) + (r->count != 0 ? 4u : 0u);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        bytes += numbers[i] != 0 ? 8 : 0;
    }
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        bytes += lengths[i] != 0 ? 4 + lengths[i] : 0;
    }
    return bytes;
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

static uint8_t *put_u32(uint8_t *at, unsigned *mask, enum field field, uint32_t value)
{
    if (value == 0) {
        return at;
    }
    *mask |= (unsigned)field;
    store_u32(at, value);
    return at + 4;
}

static uint8_t *put_u64(uint8_t *at, unsigned *mask, enum field field, uint64_t value)
{
    if (value == 0) {
        return at;
    }
    *mask |= (unsigned)field;
    store_u64(at, value);
    return at + 8;
}

static uint8_t *put_bytes(uint8_t *at, unsigned *mask, enum field field, struct slice bytes)
{
    if (bytes.len == 0) {
        return at;
    }
    *mask |= (unsigned)field;
    store_u32(at, (uint32_t)bytes.len);
    memcpy(at + 4, bytes.data, bytes.len);
    return at + 4 + bytes.len;
}

/* Most commands have few fields: those that most lack are asked for together. */
static uint8_t *fields_put(uint8_t *at, unsigned *mask, const struct embedded_request *r)
{
    at = put_u32(at, mask, FIELD_TYPE, r->type);
    if ((r->count | r->session) != 0) {
        at = put_u32(at, mask, FIELD_COUNT, r->count);
        at = put_u64(at, mask, FIELD_SESSION, r->session);
    }
    at = put_u64(at, mask, FIELD_TARGET, r->ptr);
    if ((r->expected_ptr | r->offset) != 0) {
        at = put_u64(at, mask, FIELD_EXPECTED_PTR, r->expected_ptr);
        at = put_u64(at, mask, FIELD_OFFSET, r->offset);
    }
    at = put_u64(at, mask, FIELD_SIZE, r->size);
    if ((r->delta | r->if_version) != 0) {
        at = put_u64(at, mask, FIELD_DELTA, r->delta);
        at = put_u64(at, mask, FIELD_IF_VERSION, r->if_version);
    }
    at = put_bytes(at, mask, FIELD_DATA, r->data);
    if ((r->expected.len | r->name.len) != 0) {
        at = put_bytes(at, mask, FIELD_EXPECTED, r->expected);
        at = put_bytes(at, mask, FIELD_NAME, r->name);
    }
    return at;
}

int record_append(struct buf *out, const struct embedded_request *r)
{
    size_t payload = r->data.len + r->expected.len + r->name.len;
    unsigned mask = 0;
    assert(out->len >= RECORD_HEADER_BYTES);
    if (payload > COMMAND_BYTES_MAX - RECORD_FIXED_BYTES_MAX &&
        record_bytes(r) > COMMAND_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    if (out->capacity - out->len < RECORD_FIXED_BYTES_MAX + payload &&
        buf_reserve(out, RECORD_FIXED_BYTES_MAX + payload) != 0) {
        return ERR_NOMEM;
    }
    uint8_t *start = out->data + out->len;
    const uint8_t *end = fields_put(start + 4, &mask, r);
    store_u16(start, (uint16_t)r->op);
    store_u16(start + 2, (uint16_t)mask);
    out->len += (size_t)(end - start);
    assert(out->len <= out->capacity);
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

/* A field that is there. NULL: the entry ends before it does, or did earlier. */
static const uint8_t *get_u32(const uint8_t *at, const uint8_t *end, uint32_t *out)
{
    if (at == NULL || end - at < 4) {
        return NULL;
    }
    *out = load_u32(at);
    return at + 4;
}

static const uint8_t *get_u64(const uint8_t *at, const uint8_t *end, uint64_t *out)
{
    if (at == NULL || end - at < 8) {
        return NULL;
    }
    *out = load_u64(at);
    return at + 8;
}

static const uint8_t *get_bytes(const uint8_t *at, const uint8_t *end, struct slice *out)
{
    uint32_t len = 0;
    at = get_u32(at, end, &len);
    if (at == NULL || (size_t)(end - at) < len) {
        return NULL;
    }
    *out = slice_of(at, len);
    return at + len;
}

static const uint8_t *fields_read(const uint8_t *at, const uint8_t *end, unsigned mask,
                                  struct heap_command *c)
{
    at = (mask & FIELD_TYPE) != 0 ? get_u32(at, end, &c->type) : at;
    if ((mask & (FIELD_COUNT | FIELD_SESSION)) != 0) {
        at = (mask & FIELD_COUNT) != 0 ? get_u32(at, end, &c->count) : at;
        at = (mask & FIELD_SESSION) != 0 ? get_u64(at, end, &c->session) : at;
    }
    at = (mask & FIELD_TARGET) != 0 ? get_u64(at, end, &c->ptr) : at;
    if ((mask & (FIELD_EXPECTED_PTR | FIELD_OFFSET)) != 0) {
        at = (mask & FIELD_EXPECTED_PTR) != 0 ? get_u64(at, end, &c->expected_ptr) : at;
        at = (mask & FIELD_OFFSET) != 0 ? get_u64(at, end, &c->offset) : at;
    }
    at = (mask & FIELD_SIZE) != 0 ? get_u64(at, end, &c->size) : at;
    if ((mask & (FIELD_DELTA | FIELD_IF_VERSION)) != 0) {
        at = (mask & FIELD_DELTA) != 0 ? get_u64(at, end, &c->delta) : at;
        at = (mask & FIELD_IF_VERSION) != 0 ? get_u64(at, end, &c->if_version) : at;
    }
    at = (mask & FIELD_DATA) != 0 ? get_bytes(at, end, &c->data) : at;
    if ((mask & (FIELD_EXPECTED | FIELD_NAME)) != 0) {
        at = (mask & FIELD_EXPECTED) != 0 ? get_bytes(at, end, &c->expected) : at;
        at = (mask & FIELD_NAME) != 0 ? get_bytes(at, end, &c->name) : at;
    }
    return at;
}

int record_read(struct record_reader *r, struct record *out)
{
    const uint8_t *at = r->at.at;
    const uint8_t *end = r->at.end;
    if (r->left == 0) {
        return at == end ? ERR_NOTFOUND : ERR_CORRUPT;
    }
    if (end - at < 4) {
        return ERR_CORRUPT;
    }
    uint16_t kind = load_u16(at);
    unsigned mask = load_u16(at + 2);
    if (!kind_is_known(kind) || (mask & ~(unsigned)FIELDS_ALL) != 0) {
        return ERR_CORRUPT;
    }
    /* In halves: each is a few stores, where the whole is a loop. */
    memset(out, 0, sizeof *out / 2);
    memset((uint8_t *)out + sizeof *out / 2, 0, sizeof *out / 2);
    at = fields_read(at + 4, end, mask, &out->command);
    if (at == NULL) {
        return ERR_CORRUPT;
    }
    r->at.at = at;
    r->left--;
    out->kind = kind;
    out->command.kind =
        kind < HEAP_COMMAND_KINDS ? (enum heap_command_kind)kind : (enum heap_command_kind)0;
    return 0;
}

void record_cut(struct buf *out, uint32_t ordinal)
{
    struct record_reader reader;
    struct record record;
    int rv = record_read_open(&reader, slice_of(out->data, out->len));
    for (uint32_t i = 0; rv == 0 && i < ordinal; i++) {
        rv = record_read(&reader, &record);
    }
    size_t from = (size_t)(reader.at.at - out->data);
    rv = rv == 0 ? record_read(&reader, &record) : rv;
    assert(rv == 0); /* it was appended */
    size_t to = (size_t)(reader.at.at - out->data);
    memmove(out->data + from, out->data + to, out->len - to);
    out->len -= to - from;
    store_u32(out->data + 4, load_u32(out->data + 4) - 1);
}
