/* Types as bytes: what CAIRN_TYPE describes, encoded for the wire, and back. The layout is struct
 * type_record of alloc/heap_layout.h, which this folder doesn't see: docs/heap-format.md. */
#include <string.h>

#include "base/mem.h"
#include "client/sdk.h"

#define TYPE_HEAD_BYTES  16u
#define FIELD_HEAD_BYTES 16u
#define FIELDS_MAX       128u
#define NAME_BYTES_MAX   63u
#define TYPES_PER_PAGE   256u
#define NUMBER_HASH_MIN  16384u /* below it, numbers are the user's */

static uint32_t number_of(const char *name)
{
    uint32_t hash = 2166136261u;
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    }
    hash &= 0x7fffffffu;
    return hash < NUMBER_HASH_MIN ? hash + NUMBER_HASH_MIN : hash;
}

uint32_t cairn_type_number(const cairn_type *type)
{
    if (type == NULL || (type->number == 0 && type->name == NULL)) {
        return 0;
    }
    return type->number != 0 ? type->number : number_of(type->name);
}

/* As the engine sees it (alloc/type.c): neither spaces nor control characters. */
static bool name_is_valid(const char *name)
{
    size_t len = name == NULL ? 0 : strnlen(name, NAME_BYTES_MAX + 1);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f) {
            return false;
        }
    }
    return len > 0 && len <= NAME_BYTES_MAX;
}

static int encode_field(const cairn_type *type, const cairn_field *field, struct buf *out)
{
    if (!name_is_valid(field->name)) {
        return sdk__fail(CAIRN_E_INVAL,
                         "type %s: a field's name has 1..%u bytes without spaces and control "
                         "characters",
                         type->name, NAME_BYTES_MAX);
    }
    if (field->kind < CAIRN_FIELD_BYTES || field->kind > CAIRN_FIELD_PTR) {
        return sdk__fail(CAIRN_E_INVAL, "type %s: field %s has no such kind", type->name,
                         field->name);
    }
    size_t len = strlen(field->name);
    uint8_t *at = buf_extend(out, FIELD_HEAD_BYTES + len);
    if (at == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    uint32_t target = field->target;
    if (target == 0 && field->target_name != NULL) {
        target = number_of(field->target_name);
    }
    at[0] = (uint8_t)field->kind;
    at[1] = (uint8_t)len;
    store_u16(at + 2, 0);
    store_u32(at + 4, field->offset);
    store_u32(at + 8, field->count);
    store_u32(at + 12, field->kind == CAIRN_FIELD_PTR ? target : 0);
    memcpy(at + FIELD_HEAD_BYTES, field->name, len);
    return 0;
}

int sdk__type_encode(const cairn_type *type, struct buf *out)
{
    if (type == NULL || !name_is_valid(type->name)) {
        return sdk__fail(CAIRN_E_INVAL,
                         "a type's name has 1..%u bytes without spaces and control "
                         "characters",
                         NAME_BYTES_MAX);
    }
    if (type->field_count > FIELDS_MAX || (type->field_count > 0 && type->fields == NULL)) {
        return sdk__fail(CAIRN_E_INVAL, "type %s: %u fields; at most %u", type->name,
                         type->field_count, FIELDS_MAX);
    }
    size_t len = strlen(type->name);
    uint8_t *at = buf_extend(out, TYPE_HEAD_BYTES + len);
    if (at == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    store_u64(at, 0);
    store_u32(at + 8, type->size);
    store_u16(at + 12, (uint16_t)type->field_count);
    at[14] = (uint8_t)len;
    at[15] = 0;
    memcpy(at + TYPE_HEAD_BYTES, type->name, len);
    int rv = 0;
    for (uint32_t i = 0; rv == 0 && i < type->field_count; i++) {
        rv = encode_field(type, &type->fields[i], out);
    }
    return rv;
}

/* ---- back ---- */

/* A type and what it points at. */
struct decoded {
    cairn_type type;
    cairn_field fields[FIELDS_MAX];
    char names[FIELDS_MAX + 1][NAME_BYTES_MAX + 1];
};

static bool take_name(struct cursor *c, size_t len, char out[NAME_BYTES_MAX + 1])
{
    struct slice name = cursor_bytes(c, len);
    if (c->failed || len == 0 || len > NAME_BYTES_MAX) {
        return false;
    }
    memcpy(out, name.data, len);
    out[len] = '\0';
    return true;
}

static bool decode(uint32_t number, struct slice bytes, struct decoded *out)
{
    struct cursor c = cursor_of(bytes);
    memset(out, 0, sizeof *out);
    (void)cursor_u64(&c);
    out->type.number = number;
    out->type.size = cursor_u32(&c);
    out->type.field_count = cursor_u16(&c);
    uint8_t name_len = cursor_u8(&c);
    (void)cursor_u8(&c);
    out->type.name = out->names[FIELDS_MAX];
    out->type.fields = out->fields;
    if (!take_name(&c, name_len, out->names[FIELDS_MAX]) || out->type.field_count > FIELDS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < out->type.field_count; i++) {
        cairn_field *field = &out->fields[i];
        field->kind = cursor_u8(&c);
        name_len = cursor_u8(&c);
        (void)cursor_u16(&c);
        field->offset = cursor_u32(&c);
        field->count = cursor_u32(&c);
        field->target = cursor_u32(&c);
        field->name = out->names[i];
        if (!take_name(&c, name_len, out->names[i])) {
            return false;
        }
    }
    return cursor_left(&c) == 0;
}

/* ---- calls ---- */

int cairn_type_register(cairn_heap *heap, const cairn_type *type)
{
    struct buf bytes = {0};
    if (heap == NULL || type == NULL) {
        return sdk__missing(heap == NULL ? "heap" : "type");
    }
    int rv = sdk__type_encode(type, &bytes);
    for (uint32_t i = 0; rv == 0 && i < core_heap_shards(heap->core); i++) {
        struct cairn_future f;
        sdk__future_init(&f, heap->client);
        rv = sdk__future_run(&f, core_prepare_type_register(&f.call, heap->core, i,
                                                            cairn_type_number(type),
                                                            slice_of(bytes.data, bytes.len)));
        if (rv == CAIRN_E_CONFLICT) {
            rv = sdk__fail(rv,
                           "type %s (%u) doesn't agree with what is registered: a field moved or "
                           "changed its kind, the struct became smaller, or name or number are "
                           "another type's",
                           type->name, cairn_type_number(type));
        } else if (rv == CAIRN_E_INVAL) {
            rv = sdk__fail(rv,
                           "type %s: fields overlap, have the same name or end beyond its %u bytes",
                           type->name, type->size);
        }
    }
    buf_close(&bytes);
    return rv;
}

static int show_page(struct slice types, struct decoded *decoded, uint32_t *last, bool *stopped,
                     cairn_type_cb cb, void *arg)
{
    struct cursor c = cursor_of(types);
    while (cursor_left(&c) > 0 && !*stopped) {
        *last = cursor_u32(&c);
        uint64_t version = cursor_u64(&c);
        struct slice bytes = cursor_bytes(&c, cursor_u32(&c));
        if (c.failed || !decode(*last, bytes, decoded)) {
            return sdk__because(CAIRN_E_PROTOCOL, "a node sent a malformed list of types");
        }
        *stopped = cb(arg, &decoded->type, version) != 0;
    }
    return 0;
}

int cairn_type_list(cairn_heap *heap, cairn_type_cb cb, void *arg)
{
    if (heap == NULL || cb == NULL) {
        return sdk__missing(heap == NULL ? "heap" : "cb");
    }
    struct decoded *decoded = mem_alloc(sizeof *decoded);
    if (decoded == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    uint32_t last = 0;
    bool more = true;
    bool stopped = false;
    int rv = 0;
    while (rv == 0 && more && !stopped) {
        struct cairn_future f;
        sdk__future_init(&f, heap->client);
        rv = sdk__future_run(&f,
                             core_prepare_type_list(&f.call, heap->core, 0, last, TYPES_PER_PAGE));
        more = f.call.more && f.call.bytes.len > 0;
        if (rv == 0) {
            rv = show_page(slice_of(f.call.bytes.data, f.call.bytes.len), decoded, &last, &stopped,
                           cb, arg);
        }
        buf_close(&f.call.bytes);
    }
    mem_free(decoded);
    return rv;
}
