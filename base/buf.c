#include "base/buf.h"

#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/mem.h"

#define BUF_CAPACITY_MIN 64

bool slice_equals(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

void buf_init(struct buf *b)
{
    b->data = NULL;
    b->len = 0;
    b->capacity = 0;
}

void buf_close(struct buf *b)
{
    mem_free(b->data);
    buf_init(b);
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

void buf_shrink(struct buf *b)
{
    size_t capacity = b->len == 0 ? 1 : b->len;
    uint8_t *data = capacity >= b->capacity ? NULL : mem_realloc(b->data, capacity);
    if (data != NULL) {
        b->data = data;
        b->capacity = capacity;
    }
}

int buf_reserve(struct buf *b, size_t more)
{
    assert(b->len <= b->capacity);
    if (more <= b->capacity - b->len) {
        return 0;
    }
    if (more > SIZE_MAX / 2 - b->len) {
        return ERR_NOMEM;
    }
    size_t needed = b->len + more;
    size_t capacity = b->capacity < BUF_CAPACITY_MIN ? BUF_CAPACITY_MIN : b->capacity;
    while (capacity < needed) {
        capacity *= 2;
    }
    uint8_t *data = mem_realloc(b->data, capacity);
    if (data == NULL) {
        return ERR_NOMEM;
    }
    b->data = data;
    b->capacity = capacity;
    return 0;
}

int buf_append(struct buf *b, const void *data, size_t len)
{
    if (len == 0) {
        return 0;
    }
    uint8_t *at = buf_extend(b, len);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    memcpy(at, data, len);
    return 0;
}

uint8_t *buf_extend(struct buf *b, size_t len)
{
    /* At least one byte of room, so that extending by nothing gives a pointer too: NULL means one
     * thing. */
    if (buf_reserve(b, len == 0 ? 1 : len) != 0) {
        return NULL;
    }
    uint8_t *at = b->data + b->len;
    b->len += len;
    return at;
}

void buf_consume(struct buf *b, size_t len)
{
    assert(len <= b->len);
    b->len -= len;
    if (len > 0 && b->len > 0) {
        memmove(b->data, b->data + len, b->len);
    }
}

struct cursor cursor_of(struct slice s)
{
    struct cursor c = {s.data, s.len == 0 ? s.data : s.data + s.len, false};
    return c;
}

size_t cursor_left(const struct cursor *c)
{
    return c->failed ? 0 : (size_t)(c->end - c->at);
}

/* The next `len` bytes, or NULL (and the cursor failed). */
static const uint8_t *cursor_take(struct cursor *c, size_t len)
{
    if (c->failed || len > (size_t)(c->end - c->at)) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *at = c->at;
    c->at += len;
    return at;
}

uint8_t cursor_u8(struct cursor *c)
{
    const uint8_t *at = cursor_take(c, 1);
    return at == NULL ? 0 : *at;
}

uint16_t cursor_u16(struct cursor *c)
{
    const uint8_t *at = cursor_take(c, 2);
    return at == NULL ? 0 : load_u16(at);
}

uint32_t cursor_u32(struct cursor *c)
{
    const uint8_t *at = cursor_take(c, 4);
    return at == NULL ? 0 : load_u32(at);
}

uint64_t cursor_u64(struct cursor *c)
{
    const uint8_t *at = cursor_take(c, 8);
    return at == NULL ? 0 : load_u64(at);
}

struct slice cursor_bytes(struct cursor *c, size_t len)
{
    if (len == 0 && !c->failed) {
        return slice_of(c->at, 0); /* c->at may be NULL here: an empty input has no bytes to take */
    }
    const uint8_t *at = cursor_take(c, len);
    return at == NULL ? slice_of(NULL, 0) : slice_of(at, len);
}
