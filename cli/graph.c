/* graph: an object and what its pointers lead to. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/graph.h>

#include "cli/cli.h"

#define COLUMNS(table) table, sizeof table / sizeof table[0]

/* Name and pointer fields of the registered types: {"NUMBER": {"name", "fields": [...]}}. */
static int add_type(void *arg, const cairn_type *type, uint64_t version)
{
    char number[16];
    json_t *fields = json_array();
    (void)version;
    for (uint32_t i = 0; i < type->field_count; i++) {
        const cairn_field *f = &type->fields[i];
        if (f->kind == CAIRN_FIELD_PTR) {
            json_array_append_new(fields,
                                  json_pack("{s:o,s:I,s:I}", "name", cli_text(f->name), "offset",
                                            (json_int_t)f->offset, "count", (json_int_t)f->count));
        }
    }
    (void)snprintf(number, sizeof number, "%" PRIu32, type->number);
    json_object_set_new(arg, number,
                        json_pack("{s:o,s:o}", "name", cli_text(type->name), "fields", fields));
    return 0;
}

static const json_t *type_of(const json_t *types, const cairn_node *node)
{
    char number[16];
    (void)snprintf(number, sizeof number, "%" PRIu32, node->object.type);
    return json_object_get(types, number);
}

/* The pointers of a node that aren't null: {"field", "to", "fetched"}. */
static json_t *pointers_of(const cairn_graph *graph, const cairn_node *node, const json_t *type)
{
    json_t *list = json_array();
    const json_t *field;
    size_t i;
    json_array_foreach(json_object_get(type, "fields"), i, field)
    {
        size_t offset = (size_t)json_integer_value(json_object_get(field, "offset"));
        size_t count = (size_t)json_integer_value(json_object_get(field, "count"));
        size_t room = node->len < offset ? 0 : (node->len - offset) / sizeof(cairn_ptr);
        count = count == 0 || count > room ? room : count;
        for (size_t k = 0; k < count; k++) {
            cairn_ptr to;
            cairn_node there;
            char text[CAIRN_PTR_TEXT_BYTES];
            memcpy(&to, (const uint8_t *)node->data + offset + k * sizeof to, sizeof to);
            if (cairn_ptr_is_null(to)) {
                continue;
            }
            cairn_ptr_format(to, text, sizeof text);
            json_array_append_new(
                list, json_pack("{s:O,s:s,s:b}", "field", json_object_get(field, "name"), "to",
                                text, "fetched", cairn_graph_find(graph, to, &there) == 0));
        }
    }
    return list;
}

static json_t *row_of(const cairn_graph *graph, const cairn_node *node, const json_t *types)
{
    const json_t *type = type_of(types, node);
    const json_t *name = json_object_get(type, "name");
    char pointer[CAIRN_PTR_TEXT_BYTES];
    char version[24];
    json_t *pointers = pointers_of(graph, node, type);
    cairn_ptr_format(node->object.ptr, pointer, sizeof pointer);
    (void)snprintf(version, sizeof version, "%" PRIu64, node->object.version);
    return json_pack("{s:s,s:I,s:I,s:O?,s:I,s:I,s:s,s:I,s:o}", "pointer", pointer, "depth",
                     (json_int_t)node->depth, "type", (json_int_t)node->object.type, "type_name",
                     name, "size", (json_int_t)node->object.size, "length", (json_int_t)node->len,
                     "version", version, "pointer_count", (json_int_t)json_array_size(pointers),
                     "pointers", pointers);
}

/* Of a DOT string: what names may hold besides letters is escaped. */
static void print_escaped(const char *text)
{
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\') {
            putchar('\\');
        }
        putchar(*text);
    }
}

static void print_quoted(const char *text)
{
    putchar('"');
    print_escaped(text);
    putchar('"');
}

static void print_dot(const json_t *rows)
{
    const json_t *row;
    const json_t *edge;
    size_t i;
    size_t k;
    printf("digraph graph_ {\n  node [shape=box];\n");
    json_array_foreach(rows, i, row)
    {
        const char *pointer = json_string_value(json_object_get(row, "pointer"));
        const char *name = json_string_value(json_object_get(row, "type_name"));
        printf("  ");
        print_quoted(pointer);
        printf(" [label=\"");
        print_escaped(name == NULL ? "untyped" : name);
        printf(" %s\"];\n", pointer);
        json_array_foreach(json_object_get(row, "pointers"), k, edge)
        {
            bool fetched = json_is_true(json_object_get(edge, "fetched"));
            printf("  ");
            print_quoted(pointer);
            printf(" -> ");
            print_quoted(json_string_value(json_object_get(edge, "to")));
            printf(" [label=");
            print_quoted(json_string_value(json_object_get(edge, "field")));
            printf("%s];\n", fetched ? "" : ", style=dashed");
        }
    }
    printf("}\n");
}

static void answer(struct cli *cli, const cairn_graph *graph, const json_t *types)
{
    static const struct cli_column columns[] = {
        {"DEPTH", "depth", true},     {"POINTER", "pointer", false},
        {"TYPE", "type_name", false}, {"SIZE", "size", true},
        {"VERSION", "version", true}, {"POINTERS", "pointer_count", true}};
    json_t *rows = json_array();
    cairn_node node;
    bool partial = cairn_graph_is_partial(graph) != 0;
    for (uint64_t i = 0; i < cairn_graph_count(graph); i++) {
        if (cairn_graph_get(graph, i, &node) == 0) {
            json_array_append_new(rows, row_of(graph, &node, types));
        }
    }
    if (partial) {
        cli_warn(cli, "the graph is larger than what was asked for: some of it is missing");
    }
    if (cli->format == FORMAT_DOT) {
        print_dot(rows);
        json_decref(rows);
        return;
    }
    cli_answer(cli,
               json_pack("{s:o,s:I,s:b}", "objects", rows, "count",
                         (json_int_t)json_array_size(rows), "partial", partial),
               rows, COLUMNS(columns), NULL);
}

int verb_graph_fetch(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr start;
    cairn_fetch_opts opts;
    cairn_graph *graph = NULL;
    if (cli->argc != 1) {
        return cli_usage(cli, "graph fetch HEAP/ROOT|HEAP/POINTER [--depth N] [--path FIELD.FIELD] "
                              "[--size BYTES] [--at VERSION|TIME] [-o json|dot]");
    }
    cairn_fetch_opts_init(&opts, sizeof opts);
    int code = cli_version(cli, &opts.at);
    if (code == 0) {
        code = cli_object_at(cli, cli->argv[0], opts.at, &heap, &start);
    }
    if (code != 0) {
        return code;
    }
    opts.depth = cli->depth_given ? cli->depth : opts.depth;
    opts.path = cli->path;
    opts.bytes_max = cli->size_given ? cli->size : opts.bytes_max;
    json_t *types = json_object();
    int rv = cairn_type_list(heap, add_type, types);
    if (rv == 0) {
        rv = cairn_fetch(heap, start, &opts, &graph);
    }
    if (rv != 0) {
        code = cli_fail(cli, rv, cli->argv[0]);
    } else {
        answer(cli, graph, types);
    }
    json_decref(types);
    cairn_graph_free(graph);
    cairn_heap_close(heap);
    return code;
}
