#include "rpc/message.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* ---- decoding: a cursor whose failure sticks, so that generated code needs no branch per field
 * ---- */

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

static inline bool reader_need(struct reader *r, size_t len)
{
    if ((size_t)(r->end - r->at) < len) {
        r->failed = true;
        r->at = r->end;
        return false;
    }
    return true;
}

#define DEFINE_GET(bits)                                                                           \
    static inline uint##bits##_t get_u##bits(struct reader *r)                                     \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        if (!reader_need(r, sizeof v)) {                                                           \
            return 0;                                                                              \
        }                                                                                          \
        memcpy(&v, r->at, sizeof v);                                                               \
        r->at += sizeof v;                                                                         \
        return v;                                                                                  \
    }
DEFINE_GET(8)
DEFINE_GET(16)
DEFINE_GET(32)
DEFINE_GET(64)
#undef DEFINE_GET

static inline struct slice get_slice(struct reader *r, size_t len, size_t max)
{
    if (len > max) {
        r->failed = true;
        r->at = r->end;
    }
    if (r->failed || !reader_need(r, len)) {
        return slice_of(NULL, 0);
    }
    struct slice s = slice_of(r->at, len);
    r->at += len;
    return s;
}

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    int message_decode_##name(struct slice body, struct msg_##name *out)                           \
    {                                                                                              \
        /* An empty body may come as NULL, which must not meet pointer arithmetic. */              \
        static const uint8_t nothing[1] = {0};                                                     \
        const uint8_t *start = body.len == 0 ? nothing : body.data;                                \
        struct reader r = {start, start + body.len, false};                                        \
        memset(out, 0, sizeof *out);
#define U8(name, doc)         out->name = get_u8(&r);
#define U16(name, doc)        out->name = get_u16(&r);
#define U32(name, doc)        out->name = get_u32(&r);
#define U64(name, doc)        out->name = get_u64(&r);
#define STR(name, max, doc)   out->name = get_slice(&r, get_u16(&r), max);
#define BYTES(name, max, doc) out->name = get_slice(&r, get_u32(&r), max);
#define END(name)                                                                                  \
    if (r.failed || r.at != r.end) {                                                               \
        memset(out, 0, sizeof *out);                                                               \
        return ERR_PROTOCOL;                                                                       \
    }                                                                                              \
    return 0;                                                                                      \
    }
#include "rpc/message.def"

/* ---- sizes ---- */

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    size_t message_size_##name(const struct msg_##name *m)                                         \
    {                                                                                              \
        size_t size = 0;                                                                           \
        (void)m;
#define U8(name, doc)         size += 1;
#define U16(name, doc)        size += 2;
#define U32(name, doc)        size += 4;
#define U64(name, doc)        size += 8;
#define STR(name, max, doc)   size += 2 + m->name.len;
#define BYTES(name, max, doc) size += 4 + m->name.len;
#define END(name)                                                                                  \
    return size;                                                                                   \
    }
#include "rpc/message.def"

/* ---- encoding: bounds first, then one extension of the buffer, then stores ---- */

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    static bool bounds_##name(const struct msg_##name *m)                                          \
    {                                                                                              \
        bool ok = true;                                                                            \
        (void)m;
#define STR(name, max, doc)                                                                        \
    static_assert((max) <= UINT16_MAX, "the length of a STR is a u16");                            \
    ok = ok && m->name.len <= (max);
#define BYTES(name, max, doc) ok = ok && m->name.len <= (max);
#define END(name)                                                                                  \
    return ok && message_size_##name(m) <= FRAME_BYTES_MAX;                                        \
    }
#include "rpc/message.def"

#define DEFINE_PUT(bits)                                                                           \
    static inline uint8_t *put_u##bits(uint8_t *at, uint##bits##_t v)                              \
    {                                                                                              \
        memcpy(at, &v, sizeof v);                                                                  \
        return at + sizeof v;                                                                      \
    }
DEFINE_PUT(8)
DEFINE_PUT(16)
DEFINE_PUT(32)
DEFINE_PUT(64)
#undef DEFINE_PUT

static inline uint8_t *put_slice(uint8_t *at, struct slice s)
{
    if (s.len > 0) {
        memcpy(at, s.data, s.len);
    }
    return at + s.len;
}

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    int message_encode_##name(const struct msg_##name *m, struct buf *out)                         \
    {                                                                                              \
        if (!bounds_##name(m)) {                                                                   \
            return ERR_TOOBIG;                                                                     \
        }                                                                                          \
        size_t size = message_size_##name(m);                                                      \
        if (size == 0) {                                                                           \
            return 0;                                                                              \
        }                                                                                          \
        uint8_t *at = buf_extend(out, size);                                                       \
        if (at == NULL) {                                                                          \
            return ERR_NOMEM;                                                                      \
        }
#define U8(name, doc)       at = put_u8(at, m->name);
#define U16(name, doc)      at = put_u16(at, m->name);
#define U32(name, doc)      at = put_u32(at, m->name);
#define U64(name, doc)      at = put_u64(at, m->name);
#define STR(name, max, doc) at = put_slice(put_u16(at, (uint16_t)m->name.len), m->name);
#define BYTES(name, max, doc)                                                                      \
    static_assert((max) <= FRAME_BYTES_MAX, "a field fits into a frame");                          \
    at = put_slice(put_u32(at, (uint32_t)m->name.len), m->name);
#define END(name)                                                                                  \
    assert(at == out->data + out->len);                                                            \
    return 0;                                                                                      \
    }
#include "rpc/message.def"

/* ---- commands ---- */

#define COMMAND(NAME, name, number, lane, doc)                                                     \
    static_assert(offsetof(struct msg_##name, uid) == offsetof(struct command_prefix, uid) &&      \
                      offsetof(struct msg_##name, acked) ==                                        \
                          offsetof(struct command_prefix, acked),                                  \
                  "the prefix comes first");
#include "rpc/message.def"
static_assert(sizeof(struct command_prefix) == COMMAND_PREFIX_BYTES, "as on the wire");

int message_command_prefix(struct slice body, struct command_prefix *out)
{
    if (body.len < COMMAND_PREFIX_BYTES) {
        memset(out, 0, sizeof *out);
        return ERR_PROTOCOL;
    }
    memcpy(out, body.data, COMMAND_PREFIX_BYTES);
    return 0;
}

void message_patch_command(uint8_t *body, const struct command_prefix *prefix)
{
    memcpy(body, prefix, COMMAND_PREFIX_BYTES);
}

/* ---- the table ---- */

struct message_info {
    const char *name;
    uint8_t lane;
    uint8_t answer;
    bool is_command;
};

static const struct message_info infos[KIND_LIMIT] = {
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    [number] = {#NAME, MESSAGE_LANE_##lane, KIND_##answer, false},
#define COMMAND(NAME, name, number, lane, doc)                                                     \
    [number] = {#NAME, MESSAGE_LANE_##lane, KIND_RESULT, true},
#include "rpc/message.def"
};

static const struct message_info *info_of(uint16_t kind)
{
    return kind < KIND_LIMIT && infos[kind].name != NULL ? &infos[kind] : NULL;
}

const char *message_name(uint16_t kind)
{
    const struct message_info *info = info_of(kind);
    return info != NULL ? info->name : "UNKNOWN";
}

bool message_known(uint16_t kind)
{
    return info_of(kind) != NULL;
}

enum message_lane message_lane(uint16_t kind)
{
    const struct message_info *info = info_of(kind);
    return info != NULL ? (enum message_lane)info->lane : MESSAGE_LANE_ANY;
}

enum message_kind message_answer(uint16_t kind)
{
    const struct message_info *info = info_of(kind);
    return info != NULL ? (enum message_kind)info->answer : KIND_NONE;
}

bool message_is_command(uint16_t kind)
{
    const struct message_info *info = info_of(kind);
    return info != NULL && info->is_command;
}

/* ---- printing ---- */

#define PRINT_BYTES_MAX 48 /* of one field; the rest is an ellipsis */

struct printer {
    char *out;
    size_t size;
    size_t len;
    bool first;
};

__attribute__((format(printf, 2, 3))) static void print(struct printer *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(p->out + p->len, p->size - p->len, format, args);
    va_end(args);
    if (n > 0) {
        p->len += (size_t)n;
    }
    if (p->len >= p->size) {
        p->len = p->size - 1; /* cut: further text finds no room */
    }
}

static void print_number(struct printer *p, const char *name, uint64_t v)
{
    print(p, "%s%s=%llu", p->first ? "" : " ", name, (unsigned long long)v);
    p->first = false;
}

static void print_slice(struct printer *p, const char *name, struct slice s)
{
    print(p, "%s%s[%zu]=\"", p->first ? "" : " ", name, s.len);
    p->first = false;
    for (size_t i = 0; i < s.len && i < PRINT_BYTES_MAX; i++) {
        uint8_t c = s.data[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            print(p, "%c", c);
        } else {
            print(p, "\\x%02x", c);
        }
    }
    print(p, s.len > PRINT_BYTES_MAX ? "\"..." : "\"");
}

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    static int print_##name(struct slice body, struct printer *p)                                  \
    {                                                                                              \
        struct msg_##name m;                                                                       \
        (void)p;                                                                                   \
        if (message_decode_##name(body, &m) != 0) {                                                \
            return ERR_PROTOCOL;                                                                   \
        }
#define U8(name, doc)         print_number(p, #name, m.name);
#define U16(name, doc)        print_number(p, #name, m.name);
#define U32(name, doc)        print_number(p, #name, m.name);
#define U64(name, doc)        print_number(p, #name, m.name);
#define STR(name, max, doc)   print_slice(p, #name, m.name);
#define BYTES(name, max, doc) print_slice(p, #name, m.name);
#define END(name)                                                                                  \
    return 0;                                                                                      \
    }
#include "rpc/message.def"

int message_print(uint16_t kind, struct slice body, char *out, size_t size)
{
    assert(size > 0);
    struct printer p = {out, size, 0, true};
    out[0] = '\0';
    print(&p, "%s{", message_name(kind));
    int rv = ERR_PROTOCOL;
    switch (kind) {
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    case number:                                                                                   \
        rv = print_##name(body, &p);                                                               \
        break;
#include "rpc/message.def"
    default:
        break;
    }
    if (rv != 0) {
        print(&p, "kind=%u, %s, %zu bytes", kind, message_known(kind) ? "malformed" : "unknown",
              body.len);
    }
    print(&p, "}");
    return rv;
}

int message_check(uint16_t kind, struct slice body)
{
    switch (kind) {
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    case number: {                                                                                 \
        struct msg_##name m;                                                                       \
        return message_decode_##name(body, &m);                                                    \
    }
#include "rpc/message.def"
    default:
        return ERR_PROTOCOL;
    }
}
