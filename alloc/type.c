/* Types: what the fields of objects are, for everything that looks into them (pointers for the
 * collector and the check, names for people). The encoding comes from clients: nothing in it is
 * believed. */
#include <string.h>

#include "alloc/engine.h"

#define FIELD_HEAD_BYTES 16u
#define TYPES_PER_WORK   8u /* see heap_work() */

static const uint8_t kind_bytes[FIELD_KINDS] = {
    [FIELD_BYTES] = 1, [FIELD_CHARS] = 1, [FIELD_U8] = 1,  [FIELD_U16] = 2, [FIELD_U32] = 4,
    [FIELD_U64] = 8,   [FIELD_I8] = 1,    [FIELD_I16] = 2, [FIELD_I32] = 4, [FIELD_I64] = 8,
    [FIELD_F32] = 4,   [FIELD_F64] = 8,   [FIELD_PTR] = 8,
};

uint32_t heap_field_bytes(enum heap_field_kind kind)
{
    return (uint32_t)kind < FIELD_KINDS ? kind_bytes[kind] : 0;
}

/* ---- the encoding ---- */

/* Names go to terminals and into JSON. */
static bool name_is_valid(struct slice name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (name.data[i] <= ' ' || name.data[i] == 0x7f) {
            return false;
        }
    }
    return name.len > 0 && name.len <= TYPE_NAME_BYTES_MAX;
}

static bool decode_field(struct cursor *c, struct heap_field *f)
{
    uint8_t kind = cursor_u8(c);
    uint8_t name_len = cursor_u8(c);
    uint16_t reserved = cursor_u16(c);
    f->kind = (enum heap_field_kind)kind;
    f->offset = cursor_u32(c);
    f->count = cursor_u32(c);
    f->target = cursor_u32(c);
    f->name = cursor_bytes(c, name_len);
    return !c->failed && reserved == 0 && heap_field_bytes(f->kind) != 0 && name_is_valid(f->name);
}

int heap_type_decode(uint32_t number, struct slice bytes, struct heap_type *out)
{
    memset(out, 0, sizeof *out);
    struct cursor c = cursor_of(bytes);
    out->number = number;
    out->version = cursor_u64(&c);
    out->size = cursor_u32(&c);
    out->field_count = cursor_u16(&c);
    uint8_t name_len = cursor_u8(&c);
    uint8_t reserved = cursor_u8(&c);
    out->name = cursor_bytes(&c, name_len);
    if (c.failed || reserved != 0 || out->field_count > TYPE_FIELDS_MAX ||
        !name_is_valid(out->name)) {
        return ERR_PROTOCOL;
    }
    for (uint32_t i = 0; i < out->field_count; i++) {
        if (!decode_field(&c, &out->fields[i])) {
            return ERR_PROTOCOL;
        }
    }
    return cursor_left(&c) == 0 ? 0 : ERR_PROTOCOL;
}

int heap_type_encode(const struct heap_type *type, struct buf *out)
{
    if (type->field_count > TYPE_FIELDS_MAX || !name_is_valid(type->name)) {
        return ERR_INVAL;
    }
    struct type_record record = {.version = type->version,
                                 .size = type->size,
                                 .field_count = (uint16_t)type->field_count,
                                 .name_len = (uint8_t)type->name.len};
    int rv = buf_append(out, &record, sizeof record);
    if (rv == 0) {
        rv = buf_append(out, type->name.data, type->name.len);
    }
    for (uint32_t i = 0; i < type->field_count && rv == 0; i++) {
        const struct heap_field *f = &type->fields[i];
        if (!name_is_valid(f->name)) {
            return ERR_INVAL;
        }
        uint8_t head[FIELD_HEAD_BYTES] = {(uint8_t)f->kind, (uint8_t)f->name.len};
        store_u32(head + 4, f->offset);
        store_u32(head + 8, f->count);
        store_u32(head + 12, f->target);
        rv = buf_append(out, head, sizeof head);
        if (rv == 0) {
            rv = buf_append(out, f->name.data, f->name.len);
        }
    }
    return rv;
}

/* ---- registering ---- */

static uint64_t field_end(const struct heap_field *f)
{
    return f->offset + (uint64_t)f->count * heap_field_bytes(f->kind);
}

static bool fields_are_apart(const struct heap_field *a, const struct heap_field *b)
{
    if (a->count == 0 || b->count == 0) {
        /* A flexible array: nothing may come behind it. */
        const struct heap_field *flexible = a->count == 0 ? a : b;
        const struct heap_field *other = a->count == 0 ? b : a;
        return other->count != 0 && field_end(other) <= flexible->offset;
    }
    return field_end(a) <= b->offset || field_end(b) <= a->offset;
}

static bool type_is_sound(const struct heap_type *t)
{
    if (t->size == 0 || t->size > OBJECT_BYTES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < t->field_count; i++) {
        const struct heap_field *f = &t->fields[i];
        if (field_end(f) > t->size || (f->target != 0 && f->kind != FIELD_PTR)) {
            return false;
        }
        for (uint32_t k = 0; k < i; k++) {
            if (!fields_are_apart(f, &t->fields[k]) || slice_equals(f->name, t->fields[k].name)) {
                return false;
            }
        }
    }
    return true;
}

static bool has_field(const struct heap_type *t, const struct heap_field *f)
{
    for (uint32_t i = 0; i < t->field_count; i++) {
        const struct heap_field *own = &t->fields[i];
        if (slice_equals(own->name, f->name)) {
            return own->kind == f->kind && own->offset == f->offset && own->count == f->count &&
                   own->target == f->target;
        }
    }
    return false;
}

/* Is `old` what `new` was before fields were added? The fields of `new` don't overlap, so what was
 * added lies where nothing was. */
static bool extends(const struct heap_type *new, const struct heap_type *old)
{
    bool yes = new->size >= old->size &&new->field_count >= old->field_count;
    for (uint32_t i = 0; i < old->field_count && yes; i++) {
        yes = has_field(new, &old->fields[i]);
    }
    return yes;
}

struct type_key {
    uint8_t bytes[4];
};

static struct slice key_of(uint32_t number, struct type_key *key)
{
    store_u32(key->bytes, __builtin_bswap32(number));
    return slice_of(key->bytes, sizeof key->bytes);
}

static bool name_is_taken(struct heap *h, struct slice name)
{
    h->work += heap_map_count(h, HEAP_MAP_TYPES) / TYPES_PER_WORK;
    struct slice after = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(h, HEAP_MAP_TYPES, after, &after, &value) == 0) {
        const struct type_record *record = (const struct type_record *)(const void *)value.data;
        if (slice_equals(name, slice_of(record + 1, record->name_len))) {
            return true;
        }
    }
    return false;
}

/* May the type be stored? *same: it needn't be. */
static int compare_known(struct heap *h, const struct heap_type *type, bool *same)
{
    *same = false;
    struct heap_type known;
    if (heap_type_get(h, type->number, &known) != 0) {
        if (name_is_taken(h, type->name)) {
            return ERR_CONFLICT;
        }
        return heap_map_count(h, HEAP_MAP_TYPES) < HEAP_TYPES_MAX ? 0 : ERR_LIMIT;
    }
    if (!slice_equals(type->name, known.name)) {
        return ERR_CONFLICT;
    }
    *same = extends(&known, type);
    return *same || extends(type, &known) ? 0 : ERR_CONFLICT;
}

int heap_type_register(struct heap *heap, uint64_t version, uint32_t number, struct slice bytes)
{
    struct heap_type type;
    int rv = heap_type_decode(number, bytes, &type);
    if (rv != 0) {
        return rv;
    }
    if (type.version != 0) {
        return ERR_PROTOCOL;
    }
    if (number == 0 || !type_is_sound(&type)) {
        return ERR_INVAL;
    }
    bool same = false;
    rv = compare_known(heap, &type, &same);
    if (rv != 0 || same) {
        return rv;
    }
    struct type_key key;
    struct slice k = key_of(number, &key);
    rv = heap_map_put(heap, HEAP_MAP_TYPES, k, bytes);
    if (rv == 0) {
        store_u64(heap_map_edit(heap, HEAP_MAP_TYPES, k, 0, sizeof version), version);
    }
    return rv;
}

int heap_type_get(const struct heap *heap, uint32_t number, struct heap_type *out)
{
    struct type_key key;
    struct slice value;
    int rv = heap_map_get(heap, HEAP_MAP_TYPES, key_of(number, &key), &value);
    if (rv == 0) {
        rv = heap_type_decode(number, value, out);
        assert(rv == 0);
    }
    return rv;
}

int heap_type_next(const struct heap *heap, uint32_t after, struct heap_type *out)
{
    struct type_key from;
    struct slice key;
    struct slice value;
    int rv = heap_map_next(heap, HEAP_MAP_TYPES, key_of(after, &from), &key, &value);
    if (rv == 0) {
        rv = heap_type_decode(__builtin_bswap32(load_u32(key.data)), value, out);
        assert(rv == 0);
    }
    return rv;
}
