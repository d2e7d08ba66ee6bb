/* A token, before it becomes text (base64url):
 *   format u8 = 1, what u8, shards u16, check u32 (of all but itself), heap u64, subject u64 (hash
 * of what is watched), at u64, then per shard: order u64 of the last change taken. It is the
 * program's, which may lose or mix up what it keeps: so it says what it belongs to. */
#include "client/watch_reader.h"

#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#define TOKEN_FORMAT     1u
#define TOKEN_HEAD_BYTES 32u
#define TOKEN_BYTES_MAX  (TOKEN_HEAD_BYTES + 8u * SHARDS_PER_HEAP_MAX)
#define CHANGE_HEAD      68u
#define CHANGE_ROOT      5u
#define CHANGE_BYTES_MAX (CHANGE_HEAD + ROOT_NAME_BYTES_MAX + 2u * WATCH_VALUE_BYTES_MAX)
#define FROM_TOKEN       1u
#define FROM_OLDEST      2u
#define SHARD_SHIFT      52
static_assert((TOKEN_BYTES_MAX + 2) / 3 * 4 < CAIRN_WATCH_TOKEN_BYTES, "a token fits");
static_assert(WATCH_CHANGES_MAX <= UINT32_MAX, "");

/* ---- tokens ---- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void text_of(const uint8_t *bytes, size_t len, char *out)
{
    uint32_t bits = 0;
    uint32_t count = 0;
    for (size_t i = 0; i < len; i++) {
        bits = bits << 8 | bytes[i];
        for (count += 8; count >= 6; count -= 6) {
            *out++ = digits[bits >> (count - 6) & 63];
        }
    }
    if (count > 0) {
        *out++ = digits[bits << (6 - count) & 63];
    }
    *out = '\0';
}

/* False: not of this alphabet, or too long, or no such text comes of any bytes. */
static bool bytes_of(const char *text, uint8_t *out, size_t max, size_t *len)
{
    uint32_t bits = 0;
    uint32_t count = 0;
    for (*len = 0; *text != '\0'; text++) {
        const char *digit = strchr(digits, *text);
        if (digit == NULL) {
            return false;
        }
        bits = bits << 6 | (uint32_t)(digit - digits);
        count += 6;
        if (count >= 8) {
            if (*len == max) {
                return false;
            }
            count -= 8;
            out[*len] = (uint8_t)(bits >> count);
            *len += 1;
        }
    }
    return count < 6 && (bits & ((1u << count) - 1)) == 0;
}

static uint64_t subject(const struct watch_reader *r)
{
    uint8_t bytes[12];
    store_u64(bytes, r->query.ptr);
    store_u32(bytes + 8, r->query.type);
    return hash64(hash64(r->query.what, bytes, sizeof bytes), r->query.name.data,
                  r->query.name.len);
}

static uint32_t check_of(const uint8_t *bytes, size_t len)
{
    return (uint32_t)hash64(hash64(0, bytes, 4), bytes + 8, len - 8);
}

void watch_reader_token(const struct watch_reader *r, char out[CAIRN_WATCH_TOKEN_BYTES])
{
    uint8_t bytes[TOKEN_BYTES_MAX];
    size_t len = TOKEN_HEAD_BYTES + 8u * r->count;
    bytes[0] = TOKEN_FORMAT;
    bytes[1] = r->query.what;
    store_u16(bytes + 2, (uint16_t)r->count);
    store_u64(bytes + 8, r->heap);
    store_u64(bytes + 16, subject(r));
    store_u64(bytes + 24, r->query.at);
    for (uint32_t i = 0; i < r->count; i++) {
        store_u64(bytes + TOKEN_HEAD_BYTES + 8u * i, r->sources[i].position);
    }
    store_u32(bytes + 4, check_of(bytes, len));
    text_of(bytes, len, out);
}

static int take_token(struct watch_reader *r, const char *token)
{
    uint8_t bytes[TOKEN_BYTES_MAX];
    size_t len = 0;
    if (token == NULL || !bytes_of(token, bytes, sizeof bytes, &len) ||
        len != TOKEN_HEAD_BYTES + 8u * r->count || bytes[0] != TOKEN_FORMAT ||
        bytes[1] != r->query.what || load_u16(bytes + 2) != r->count ||
        load_u32(bytes + 4) != check_of(bytes, len) || load_u64(bytes + 8) != r->heap ||
        load_u64(bytes + 16) != subject(r)) {
        return ERR_INVAL;
    }
    r->query.at = load_u64(bytes + 24);
    for (uint32_t i = 0; i < r->count; i++) {
        r->sources[i].position = load_u64(bytes + TOKEN_HEAD_BYTES + 8u * i);
    }
    return 0;
}

/* ---- life ---- */

/* What all sources have, and what was taken last, fits into bytes_max: each source has its part for
 * itself, so that none that is full keeps another one from being heard. An answer is as long as its
 * last change begins early enough. */
static uint32_t share_of(uint64_t bytes_max, uint32_t count)
{
    uint64_t share = bytes_max / (count + 1u);
    uint64_t most = WATCH_BYTES_MAX + CHANGE_BYTES_MAX;
    return (uint32_t)(share < most ? share : most);
}

uint64_t watch_reader_bytes_min(uint32_t count)
{
    return (count + 1u) * (uint64_t)(CHANGE_BYTES_MAX + 1u);
}

int watch_reader_new(const struct msg_watch *what, uint64_t heap, uint32_t shard, uint32_t count,
                     const cairn_watch_opts *opts, struct watch_reader **out)
{
    *out = NULL;
    assert(count > 0 && count <= SHARDS_PER_HEAP_MAX);
    assert(what->name.len <= ROOT_NAME_BYTES_MAX);
    assert(opts->bytes_max >= watch_reader_bytes_min(count));
    struct watch_reader *r = mem_zalloc(sizeof *r + count * sizeof r->sources[0]);
    if (r == NULL) {
        return ERR_NOMEM;
    }
    if (what->name.len > 0) {
        memcpy(r->name, what->name.data, what->name.len);
    }
    r->query = *what;
    r->query.name = slice_of(r->name, what->name.len);
    r->query.max = WATCH_CHANGES_MAX;
    r->share = share_of(opts->bytes_max, count);
    r->query.bytes_max = r->share - CHANGE_BYTES_MAX;
    r->query.values = opts->values != 0;
    r->heap = heap;
    r->count = count;
    for (uint32_t i = 0; i < count; i++) {
        r->sources[i].shard = shard + i;
    }
    int rv = 0;
    switch (opts->from) {
    case CAIRN_WATCH_NOW:
        break;
    case CAIRN_WATCH_TOKEN:
        r->query.from = FROM_TOKEN;
        rv = take_token(r, opts->token);
        break;
    case CAIRN_WATCH_VERSION:
        r->query.from = FROM_OLDEST;
        r->query.at = opts->version;
        rv = opts->version == 0 ? ERR_INVAL : 0;
        break;
    case CAIRN_WATCH_OLDEST:
        r->query.from = FROM_OLDEST;
        break;
    default:
        rv = ERR_INVAL;
    }
    if (rv != 0) {
        watch_reader_free(r);
        return rv;
    }
    *out = r;
    return 0;
}

void watch_reader_free(struct watch_reader *r)
{
    if (r == NULL) {
        return;
    }
    for (uint32_t i = 0; i < r->count; i++) {
        buf_close(&r->sources[i].changes);
    }
    buf_close(&r->spent);
    mem_free(r);
}

/* ---- asking and hearing ---- */

bool watch_reader_wants(const struct watch_reader *r, uint32_t i)
{
    return !r->sources[i].full;
}

struct msg_watch watch_reader_query(const struct watch_reader *r, uint32_t i)
{
    struct msg_watch m = r->query;
    m.from = r->sources[i].heard ? FROM_TOKEN : m.from;
    m.token = r->sources[i].position;
    return m;
}

/* The change at `at`: its length, or 0 when it isn't whole. */
static size_t change_bytes(const uint8_t *at, size_t left)
{
    if (left < CHANGE_HEAD) {
        return 0;
    }
    uint32_t before = load_u32(at + 60);
    uint32_t after = load_u32(at + 64);
    uint64_t len = CHANGE_HEAD + (uint64_t)load_u16(at + 58) + (before == UINT32_MAX ? 0 : before) +
                   (after == UINT32_MAX ? 0 : after);
    bool good = at[56] >= 1 && at[56] <= CHANGE_ROOT && at[57] <= 1 &&
                (at[56] == CHANGE_ROOT) == (load_u16(at + 58) > 0) &&
                load_u16(at + 58) <= ROOT_NAME_BYTES_MAX;
    return good && len <= left ? (size_t)len : 0;
}

int watch_reader_hear(struct watch_reader *r, uint32_t i, uint64_t token, struct buf *changes)
{
    struct watch_source *s = &r->sources[i];
    uint64_t order = s->position;
    uint64_t first = 0;
    size_t at = 0;
    assert(!s->full);
    if (changes->len > r->share) {
        return ERR_PROTOCOL;
    }
    for (size_t len; at < changes->len; at += len) {
        const uint8_t *c = changes->data + at;
        len = change_bytes(c, changes->len - at);
        bool right = len > 0 && load_u64(c) > order &&
                     (c[56] == CHANGE_ROOT || load_u64(c + 24) >> SHARD_SHIFT == s->shard);
        if (!right) {
            return ERR_PROTOCOL;
        }
        order = load_u64(c);
        first = first == 0 ? order : first;
    }
    if (token < order) {
        return ERR_PROTOCOL;
    }
    /* Where it begins is known now, also for a token that nothing was taken of yet. */
    if (!s->heard && s->position == 0) {
        s->position = first == 0 ? token : first - 1;
    }
    s->heard = true;
    s->next = token;
    s->taken = 0;
    s->full = changes->len > 0;
    if (s->full) {
        buf_shrink(changes);
        s->changes = *changes;
        *changes = (struct buf){0};
    }
    if (!s->full) {
        s->position = token;
    }
    return 0;
}

/* ---- taking ---- */

bool watch_reader_has(const struct watch_reader *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        if (r->sources[i].full && r->sources[i].taken < r->sources[i].changes.len) {
            return true;
        }
    }
    return false;
}

static void describe(struct watch_reader *r, const struct watch_source *s, const uint8_t *at,
                     cairn_event *out)
{
    uint16_t name = load_u16(at + 58);
    uint32_t before = load_u32(at + 60);
    uint32_t after = load_u32(at + 64);
    const uint8_t *bytes = at + CHANGE_HEAD + name;
    *out = (cairn_event){.kind = at[56],
                         .shard = s->shard,
                         .order = load_u64(at),
                         .version = load_u64(at + 8),
                         .before = load_u64(at + 16),
                         .ptr = {load_u64(at + 24)},
                         .more = at[57]};
    if (out->kind == CHANGE_ROOT) {
        memcpy(r->event_name, at + CHANGE_HEAD, name);
        r->event_name[name] = '\0';
        out->name = r->event_name;
        out->old_ptr.word = load_u64(at + 32);
        out->kind = out->ptr.word == 0 ? CAIRN_EVENT_ROOT_DELETED : CAIRN_EVENT_ROOT_SET;
        return;
    }
    out->offset = load_u64(at + 32);
    out->size = load_u64(at + 40);
    out->len = load_u32(at + 48);
    out->type = load_u32(at + 52);
    if (before != UINT32_MAX) {
        out->old_bytes = bytes;
        out->old_len = before;
        bytes += before;
    }
    if (after != UINT32_MAX) {
        out->new_bytes = bytes;
        out->new_len = after;
    }
}

bool watch_reader_next(struct watch_reader *r, cairn_event *out, uint32_t *emptied)
{
    *emptied = UINT32_MAX;
    buf_close(&r->spent);
    for (uint32_t k = 0; k < r->count; k++) {
        struct watch_source *s = &r->sources[(r->turn + k) % r->count];
        if (!s->full) {
            continue;
        }
        const uint8_t *at = s->changes.data + s->taken;
        s->taken += change_bytes(at, s->changes.len - s->taken);
        r->turn = (r->turn + k) % r->count; /* a shard's answer is taken in one go */
        s->position = load_u64(at);
        describe(r, s, at, out);
        if (s->taken == s->changes.len) {
            s->position = s->next;
            s->full = false;
            r->spent = s->changes; /* for `out` */
            s->changes = (struct buf){0};
            r->turn = (r->turn + 1) % r->count;
            *emptied = s->shard;
        }
        return true;
    }
    return false;
}
