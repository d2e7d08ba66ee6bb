/* Byte slices, growing byte buffers and little-endian cursors. No function here keeps a pointer it
 * was given. */
#ifndef CAIRN_BASE_BUF_H
#define CAIRN_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A borrowed range of bytes. `data` may be NULL only when `len` is 0. */
struct slice {
    const uint8_t *data;
    size_t len;
};

static inline struct slice slice_of(const void *data, size_t len)
{
    struct slice s = {(const uint8_t *)data, len};
    return s;
}
bool slice_equals(struct slice a, struct slice b);

/* A buffer that grows. Zero-initialise or buf_init(); buf_close() frees. */
struct buf {
    uint8_t *data;
    size_t len;
    size_t capacity;
};

void buf_init(struct buf *b);
void buf_close(struct buf *b);
void buf_clear(struct buf *b);
void buf_shrink(struct buf *b);
/* to what is in it, if there is memory for that */ /* len = 0, keeps the memory */
int buf_reserve(struct buf *b, size_t more);        /* room for `more` bytes: 0 or ERR_NOMEM */
int buf_append(struct buf *b, const void *data,
               size_t len);                     /* copied; 0 or ERR_NOMEM (nothing appended) */
uint8_t *buf_extend(struct buf *b, size_t len); /* len uninitialised bytes at the end, or NULL */
void buf_consume(struct buf *b, size_t len);    /* drop the first len bytes (moves the rest) */

/* Reading cursor over hostile bytes: after the first short read `failed` stays set and every get
 * returns 0/empty. */
struct cursor {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

struct cursor cursor_of(struct slice s);
size_t cursor_left(const struct cursor *c);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
struct slice cursor_bytes(struct cursor *c, size_t len); /* borrowed from the input */

/* Unaligned little-endian loads and stores. */
static inline uint16_t load_u16(const void *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t load_u32(const void *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t load_u64(const void *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline void store_u16(void *p, uint16_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}
static inline void store_u32(void *p, uint32_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}
static inline void store_u64(void *p, uint64_t v)
{
    __builtin_memcpy(p, &v, sizeof v);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Cairn's formats are little-endian and so must the machine be"
#endif

#endif
