/* type; obj show: what objects hold, by the names of their fields. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define COLUMNS(table) table, sizeof table / sizeof table[0]

#define FIELDS_MAX     128u
#define SHOW_BYTES_MAX (4u << 20) /* of an object; fields beyond are left out */
#define SHOW_ELEMENTS  16u        /* of an array, as a table */

static const struct {
    const char *name;
    uint32_t bytes;
} kinds[] = {
    [CAIRN_FIELD_BYTES] = {"bytes", 1}, [CAIRN_FIELD_CHARS] = {"chars", 1},
    [CAIRN_FIELD_U8] = {"u8", 1},       [CAIRN_FIELD_U16] = {"u16", 2},
    [CAIRN_FIELD_U32] = {"u32", 4},     [CAIRN_FIELD_U64] = {"u64", 8},
    [CAIRN_FIELD_I8] = {"i8", 1},       [CAIRN_FIELD_I16] = {"i16", 2},
    [CAIRN_FIELD_I32] = {"i32", 4},     [CAIRN_FIELD_I64] = {"i64", 8},
    [CAIRN_FIELD_F32] = {"f32", 4},     [CAIRN_FIELD_F64] = {"f64", 8},
    [CAIRN_FIELD_PTR] = {"ptr", 8},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

static const char *kind_name(uint32_t kind)
{
    return kind > 0 && kind < KINDS ? kinds[kind].name : "?";
}

static int open_heap(struct cli *cli, const char *name, cairn_heap **heap)
{
    *heap = NULL;
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, name, heap);
    return rv == 0 ? 0 : cli_fail(cli, rv, name);
}

/* ---- type ls, type show ---- */

static json_t *field_row(const cairn_field *field)
{
    char kind[64];
    uint32_t bytes = field->kind < KINDS ? kinds[field->kind].bytes : 0;
    if (field->count == 0) {
        (void)snprintf(kind, sizeof kind, "%s[]", kind_name(field->kind));
    } else if (field->kind == CAIRN_FIELD_BYTES || field->kind == CAIRN_FIELD_CHARS ||
               field->count > 1) {
        (void)snprintf(kind, sizeof kind, "%s*%u", kind_name(field->kind), field->count);
    } else {
        (void)snprintf(kind, sizeof kind, "%s", kind_name(field->kind));
    }
    return json_pack("{s:o,s:s,s:s,s:I,s:I,s:I,s:I}", "name", cli_text(field->name), "type", kind,
                     "kind", kind_name(field->kind), "count", (json_int_t)field->count, "offset",
                     (json_int_t)field->offset, "bytes", (json_int_t)bytes * field->count, "target",
                     (json_int_t)field->target);
}

static int add_type(void *arg, const cairn_type *type, uint64_t version)
{
    json_t *list = arg;
    json_t *fields = json_array();
    char text[24];
    for (uint32_t i = 0; i < type->field_count; i++) {
        json_array_append_new(fields, field_row(&type->fields[i]));
    }
    (void)snprintf(text, sizeof text, "%" PRIu64, version);
    json_array_append_new(
        list, json_pack("{s:o,s:I,s:I,s:i,s:s,s:o}", "name", cli_text(type->name), "number",
                        (json_int_t)type->number, "size", (json_int_t)type->size, "field_count",
                        (int)type->field_count, "version", text, "fields", fields));
    return 0;
}

static int list_types(struct cli *cli, const char *heap_name, json_t **list)
{
    cairn_heap *heap;
    int code = open_heap(cli, heap_name, &heap);
    if (code != 0) {
        return code;
    }
    *list = json_array();
    int rv = cairn_type_list(heap, add_type, *list);
    cairn_heap_close(heap);
    if (rv != 0) {
        json_decref(*list);
        return cli_fail(cli, rv, "type ls");
    }
    return 0;
}

int verb_type_ls(struct cli *cli)
{
    static const struct cli_column columns[] = {{"TYPE", "number", true},
                                                {"NAME", "name", false},
                                                {"SIZE", "size", true},
                                                {"FIELDS", "field_count", true},
                                                {"VERSION", "version", true}};
    json_t *list = NULL;
    if (cli->argc != 1) {
        return cli_usage(cli, "type ls HEAP");
    }
    int code = list_types(cli, cli->argv[0], &list);
    if (code == 0) {
        cli_answer(cli, json_pack("{s:o}", "types", list), list, COLUMNS(columns), NULL);
    }
    return code;
}

static json_t *find_type(const json_t *list, const char *name)
{
    json_t *type;
    size_t i;
    char *end = NULL;
    json_int_t number = (json_int_t)strtoull(name, &end, 10);
    bool by_number = *end == 0 && end != name;
    json_array_foreach(list, i, type)
    {
        if (strcmp(json_string_value(json_object_get(type, "name")), name) == 0 ||
            (by_number && json_integer_value(json_object_get(type, "number")) == number)) {
            return type;
        }
    }
    return NULL;
}

static int no_such_type(struct cli *cli, const char *heap, const char *name)
{
    return cli_error(
        cli, CAIRN_E_NOTFOUND,
        "type %s is not registered in heap %s; cairnctl type ls %s lists those that are", name,
        heap, heap);
}

int cli_take_type(struct cli *cli, const char *heap)
{
    json_t *list = NULL;
    if (cli->type_name == NULL) {
        return 0;
    }
    int code = list_types(cli, heap, &list);
    if (code == 0) {
        const json_t *type = find_type(list, cli->type_name);
        cli->type = (uint32_t)json_integer_value(json_object_get(type, "number"));
        code = type != NULL ? 0 : no_such_type(cli, heap, cli->type_name);
        json_decref(list);
    }
    return code;
}

int verb_type_show(struct cli *cli)
{
    static const struct cli_column columns[] = {{"FIELD", "name", false},
                                                {"KIND", "type", false},
                                                {"OFFSET", "offset", true},
                                                {"BYTES", "bytes", true},
                                                {"TARGET", "target_name", false}};
    json_t *list = NULL;
    json_t *field;
    size_t i;
    char line[192];
    if (cli->argc != 2) {
        return cli_usage(cli, "type show HEAP NAME|NUMBER");
    }
    int code = list_types(cli, cli->argv[0], &list);
    if (code != 0) {
        return code;
    }
    json_t *type = find_type(list, cli->argv[1]);
    if (type == NULL) {
        json_decref(list);
        return no_such_type(cli, cli->argv[0], cli->argv[1]);
    }
    json_array_foreach(json_object_get(type, "fields"), i, field)
    {
        char number[24];
        json_int_t target = json_integer_value(json_object_get(field, "target"));
        (void)snprintf(number, sizeof number, "%lld", (long long)target);
        json_t *of = target == 0 ? NULL : find_type(list, number);
        json_object_set_new(field, "target_name",
                            of != NULL    ? json_incref(json_object_get(of, "name"))
                            : target == 0 ? json_null()
                                          : json_string(number));
    }
    json_incref(type);
    json_decref(list);
    (void)snprintf(line, sizeof line, "type %s   number %lld   %lld bytes",
                   json_string_value(json_object_get(type, "name")),
                   (long long)json_integer_value(json_object_get(type, "number")),
                   (long long)json_integer_value(json_object_get(type, "size")));
    cli_answer(cli, type, json_object_get(type, "fields"), COLUMNS(columns), line);
    return EXIT_OK;
}

/* ---- type register ---- */

struct description {
    cairn_type type;
    cairn_field fields[FIELDS_MAX];
};

/* What stands behind a mark of a field; 0 or that it isn't a number, said already. */
static int parse_number(struct cli *cli, const char *field, const char *text, uint32_t *out)
{
    char *end = NULL;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != 0 || value > UINT32_MAX) {
        return cli_error(cli, CAIRN_E_INVAL, "field %s: \"%s\" must be a whole number below 2^32",
                         field, text);
    }
    *out = (uint32_t)value;
    return 0;
}

/* NAME:KIND[*COUNT][=TARGET][@OFFSET], taken apart in place. The offset follows from the field
 * before it as a C compiler would have it. */
static int parse_field(struct cli *cli, char *text, struct description *d)
{
    cairn_field *field = &d->fields[d->type.field_count];
    char *kind = strchr(text, ':');
    char *at = kind == NULL ? NULL : strchr(kind, '@');
    char *target = kind == NULL ? NULL : strchr(kind, '=');
    char *count = kind == NULL ? NULL : strchr(kind, '*');
    char *const marks[] = {kind, at, target, count};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (marks[i] != NULL) {
            *marks[i] = 0;
        }
    }
    field->name = text;
    for (uint32_t i = 1; kind != NULL && i < KINDS; i++) {
        field->kind = strcmp(kind + 1, kinds[i].name) == 0 ? i : field->kind;
    }
    if (kind == NULL || text[0] == 0 || field->kind == 0 || (target != NULL && target[1] == 0)) {
        return cli_error(cli, CAIRN_E_INVAL,
                         "\"%s\" must be NAME:KIND[*COUNT][=TARGET][@OFFSET]; kinds are bytes, "
                         "chars, u8 to u64, i8 to i64, f32, f64, ptr",
                         text);
    }
    uint32_t bytes = kinds[field->kind].bytes;
    int code = 0;
    field->count = 1;
    field->offset = (d->type.size + bytes - 1) / bytes * bytes;
    if (count != NULL) {
        code = parse_number(cli, text, count + 1, &field->count);
    }
    if (code == 0 && at != NULL) {
        code = parse_number(cli, text, at + 1, &field->offset);
    }
    if (code == 0 && target != NULL && isdigit((unsigned char)target[1])) {
        code = parse_number(cli, text, target + 1, &field->target);
    } else {
        field->target_name = target == NULL ? NULL : target + 1;
    }
    if (code != 0) {
        return code;
    }
    for (uint32_t i = 0; i < d->type.field_count; i++) {
        if (strcmp(d->fields[i].name, text) == 0) {
            return cli_error(cli, CAIRN_E_INVAL, "field %s is there twice", text);
        }
    }
    uint64_t end = (uint64_t)field->offset + (uint64_t)bytes * field->count;
    if (end > CAIRN_OBJECT_BYTES_MAX) {
        return cli_error(cli, CAIRN_E_INVAL, "field %s ends beyond the largest object", text);
    }
    d->type.size = end > d->type.size ? (uint32_t)end : d->type.size;
    d->type.field_count++;
    return 0;
}

int verb_type_register(struct cli *cli)
{
    cairn_heap *heap = NULL;
    struct description d = {.type = {.number = cli->type, .fields = d.fields}};
    char line[192];
    uint32_t align = 1;
    if (cli->argc < 3 || cli->argc - 2 > (int)FIELDS_MAX) {
        return cli_usage(cli, "type register HEAP NAME FIELD:KIND[*COUNT][=TARGET][@OFFSET]... "
                              "[--type NUMBER] [--size BYTES]");
    }
    if (cli->type_name != NULL) {
        return cli_error(cli, CAIRN_E_INVAL, "--type: the number of the new type, not \"%s\"",
                         cli->type_name);
    }
    d.type.name = cli->argv[1];
    for (int i = 2; i < cli->argc; i++) {
        int code = parse_field(cli, cli->argv[i], &d);
        if (code != 0) {
            return code;
        }
        uint32_t bytes = kinds[d.fields[i - 2].kind].bytes;
        align = bytes > align ? bytes : align;
    }
    if (cli->size_given && (cli->size < d.type.size || cli->size > CAIRN_OBJECT_BYTES_MAX)) {
        return cli_error(cli, CAIRN_E_INVAL,
                         "--size %" PRIu64 ": the fields end at %u, and an object has at most %u",
                         cli->size, d.type.size, CAIRN_OBJECT_BYTES_MAX);
    }
    d.type.size = cli->size_given ? (uint32_t)cli->size : (d.type.size + align - 1) / align * align;
    int code = open_heap(cli, cli->argv[0], &heap);
    if (code != 0) {
        return code;
    }
    int rv = cairn_type_register(heap, &d.type);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[1]);
    }
    (void)snprintf(line, sizeof line, "type %s registered: number %u, %u bytes, %u fields",
                   d.type.name, cairn_type_number(&d.type), d.type.size, d.type.field_count);
    cli_answer(cli,
               json_pack("{s:o,s:I,s:I,s:i}", "name", cli_text(d.type.name), "number",
                         (json_int_t)cairn_type_number(&d.type), "size", (json_int_t)d.type.size,
                         "field_count", (int)d.type.field_count),
               NULL, NULL, 0, line);
    return EXIT_OK;
}

/* ---- obj show ---- */

static uint64_t load(const uint8_t *bytes, uint32_t len)
{
    uint64_t value = 0;
    for (uint32_t i = len; i > 0; i--) {
        value = value << 8 | bytes[i - 1];
    }
    return value;
}

/* 64-bit numbers and pointers as text: JSON readers would round them. */
static json_t *element(uint32_t kind, const uint8_t *bytes)
{
    char text[CAIRN_PTR_TEXT_BYTES + 24];
    uint32_t len = kinds[kind].bytes;
    uint64_t word = load(bytes, len);
    float single;
    double real;
    switch (kind) {
    case CAIRN_FIELD_I8:
        return json_integer((int8_t)word);
    case CAIRN_FIELD_I16:
        return json_integer((int16_t)word);
    case CAIRN_FIELD_I32:
        return json_integer((int32_t)word);
    case CAIRN_FIELD_I64:
        (void)snprintf(text, sizeof text, "%" PRId64, (int64_t)word);
        return json_string(text);
    case CAIRN_FIELD_U64:
        (void)snprintf(text, sizeof text, "%" PRIu64, word);
        return json_string(text);
    case CAIRN_FIELD_F32:
        memcpy(&single, bytes, sizeof single);
        (void)snprintf(text, sizeof text, "%.9g", (double)single);
        return json_string(text);
    case CAIRN_FIELD_F64:
        memcpy(&real, bytes, sizeof real);
        (void)snprintf(text, sizeof text, "%.17g", real);
        return json_string(text);
    case CAIRN_FIELD_PTR:
        cairn_ptr_format((cairn_ptr){word}, text, sizeof text);
        return json_string(word == 0 ? "null" : text);
    default:
        return json_integer((json_int_t)word);
    }
}

static json_t *text_value(const uint8_t *bytes, uint32_t count)
{
    size_t len = strnlen((const char *)bytes, count);
    json_t *text = json_stringn((const char *)bytes, len);
    if (text == NULL) { /* not UTF-8 */
        char *plain = malloc(len + 1);
        for (size_t i = 0; plain != NULL && i < len; i++) {
            plain[i] = (char)(bytes[i] < 0x80 && isprint(bytes[i]) ? bytes[i] : '?');
        }
        text = plain == NULL ? NULL : json_stringn(plain, len);
        free(plain);
    }
    return text == NULL ? json_null() : text;
}

static json_t *hex_value(const uint8_t *bytes, uint32_t count)
{
    char *hex = malloc((size_t)count * 2 + 1);
    for (uint32_t i = 0; hex != NULL && i < count; i++) {
        (void)snprintf(hex + (size_t)i * 2, 3, "%02x", bytes[i]);
    }
    json_t *value = hex == NULL ? json_null() : json_string(count == 0 ? "" : hex);
    free(hex);
    return value;
}

static json_t *field_value(const cairn_field *field, const uint8_t *bytes, size_t len)
{
    uint32_t each = field->kind < KINDS ? kinds[field->kind].bytes : 0;
    if (each == 0 || (uint64_t)field->offset + (uint64_t)each * field->count > len) {
        return json_null(); /* the object is shorter than the type, as it is now */
    }
    const uint8_t *at = bytes + field->offset;
    if (field->kind == CAIRN_FIELD_CHARS) {
        return text_value(at, field->count);
    }
    if (field->kind == CAIRN_FIELD_BYTES) {
        return hex_value(at, field->count);
    }
    if (field->count == 1) {
        return element(field->kind, at);
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < field->count; i++) {
        json_array_append_new(list, element(field->kind, at + (size_t)i * each));
    }
    return list;
}

/* A value as one cell. */
static json_t *cell_of(const json_t *value)
{
    char out[300] = "";
    size_t len = 0;
    if (!json_is_array(value)) {
        return json_copy((json_t *)value);
    }
    for (size_t i = 0; i < json_array_size(value) && i < SHOW_ELEMENTS && len + 48 < sizeof out;
         i++) {
        const json_t *v = json_array_get(value, i);
        len += (size_t)(json_is_string(v)
                            ? snprintf(out + len, sizeof out - len, "%s%.40s", i == 0 ? "" : " ",
                                       json_string_value(v))
                            : snprintf(out + len, sizeof out - len, "%s%lld", i == 0 ? "" : " ",
                                       (long long)json_integer_value(v)));
    }
    if (json_array_size(value) > SHOW_ELEMENTS) {
        (void)snprintf(out + len, sizeof out - len, " ...");
    }
    return json_string(out);
}

struct show {
    uint32_t number;
    const uint8_t *bytes;
    size_t len;
    const char *field; /* only this one; NULL: all */
    char *name;
    json_t *fields;
};

static int show_type(void *arg, const cairn_type *type, uint64_t version)
{
    struct show *show = arg;
    (void)version;
    if (type->number != show->number) {
        return 0;
    }
    show->name = strdup(type->name);
    for (uint32_t i = 0; i < type->field_count; i++) {
        if (show->field != NULL && strcmp(show->field, type->fields[i].name) != 0) {
            continue;
        }
        json_t *row = field_row(&type->fields[i]);
        json_t *value = field_value(&type->fields[i], show->bytes, show->len);
        json_object_set_new(row, "shown", cell_of(value));
        json_object_set_new(row, "value", value);
        json_array_append_new(show->fields, row);
    }
    return 1;
}

/* The only field's value, for a script to take. number: room for one that is no text. */
static const char *only_value(const json_t *fields, char number[24])
{
    const json_t *shown = json_object_get(json_array_get(fields, 0), "shown");
    if (json_is_string(shown)) {
        return json_string_value(shown);
    }
    (void)snprintf(number, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(shown));
    return number;
}

int verb_obj_show(struct cli *cli)
{
    static const struct cli_column columns[] = {{"FIELD", "name", false},
                                                {"KIND", "type", false},
                                                {"OFFSET", "offset", true},
                                                {"VALUE", "shown", false}};
    cairn_heap *heap;
    cairn_ptr ptr;
    cairn_object object;
    uint64_t at = 0;
    char text[CAIRN_PTR_TEXT_BYTES];
    char version[24];
    char line[224];
    if (cli->argc != 1) {
        return cli_usage(cli, "obj show HEAP/ROOT|HEAP/POINTER [--field NAME] [--at VERSION|TIME]");
    }
    int code = cli_version(cli, &at);
    if (code == 0) {
        code = cli_object_at(cli, cli->argv[0], at, &heap, &ptr);
    }
    if (code != 0) {
        return code;
    }
    int rv = cairn_stat_at(heap, ptr, at, &object);
    size_t len = rv != 0 ? 0 : object.size < SHOW_BYTES_MAX ? (size_t)object.size : SHOW_BYTES_MAX;
    uint8_t *bytes = malloc(len + 1);
    struct show show = {.number = object.type, .bytes = bytes, .len = len, .field = cli->field};
    show.fields = json_array();
    if (rv == 0) {
        rv = bytes == NULL ? CAIRN_E_NOMEM
                           : cairn_read_at(heap, ptr, at, 0, bytes, len, &object.version);
    }
    if (rv == 0 && object.type != 0) {
        rv = cairn_type_list(heap, show_type, &show);
    }
    cairn_heap_close(heap);
    free(bytes);
    if (rv != 0) {
        json_decref(show.fields);
        free(show.name);
        return cli_fail(cli, rv, cli->argv[0]);
    }
    if (cli->field != NULL && json_array_size(show.fields) == 0) {
        code = cli_error(cli, CAIRN_E_NOTFOUND, "%s: %s has no field %s", cli->argv[0],
                         show.name == NULL ? "an object without a registered type" : show.name,
                         cli->field);
        json_decref(show.fields);
        free(show.name);
        return code;
    }
    if (show.name == NULL) {
        cli_warn(cli, object.type == 0
                          ? "the object has no type: obj read shows its bytes"
                          : "its type is not registered: obj read shows its bytes, type register "
                            "describes them");
    }
    cairn_ptr_format(ptr, text, sizeof text);
    (void)snprintf(version, sizeof version, "%" PRIu64, object.version);
    (void)snprintf(line, sizeof line, "pointer %s   type %s (%u)   size %" PRIu64 "   version %s",
                   text, show.name == NULL ? "-" : show.name, object.type, object.size, version);
    json_t *data =
        json_pack("{s:s,s:I,s:I,s:s,s:o}", "pointer", text, "type_number", (json_int_t)object.type,
                  "size", (json_int_t)object.size, "version", version, "fields", show.fields);
    json_object_set_new(data, "type", show.name == NULL ? json_null() : cli_text(show.name));
    bool all = cli->field == NULL;
    const json_t *rows = all && json_array_size(show.fields) > 0 ? show.fields : NULL;
    cli_answer(cli, data, rows, COLUMNS(columns), all ? line : only_value(show.fields, version));
    free(show.name);
    return EXIT_OK;
}
