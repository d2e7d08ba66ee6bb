/* heap stats: by shard, by block class, by type. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/space.h"

int cli_answer_stats(struct cli *cli, const char *heap, json_t *rows)
{
    static const struct cli_column columns[] = {{"SHARD", "shard", true},
                                                {"LEADER", "node", false},
                                                {"OBJECTS", "objects", true},
                                                {"BYTES", "object_bytes", true},
                                                {"ALLOCATED", "allocated_bytes", true},
                                                {"SPARE", "spare_bytes", true},
                                                {"FREE", "free_bytes", true},
                                                {"LARGEST FREE", "largest_free_bytes", true},
                                                {"INTERNAL", "internal", true},
                                                {"EXTERNAL", "external", true},
                                                {"METADATA", "metadata", true},
                                                {"HISTORY", "undo_bytes", true},
                                                {"ARENA", "arena_bytes", true},
                                                {"LIMIT", "arena_bytes_max", true},
                                                {"ROOTS", "roots", true}};
    json_t *row;
    size_t i;
    uint64_t objects = 0;
    uint64_t bytes = 0;
    json_array_foreach(rows, i, row)
    {
        space_add_shares(row);
        objects += space_number(row, "objects");
        bytes += space_number(row, "object_bytes");
    }
    char line[192];
    (void)snprintf(line, sizeof line, "heap %s: %" PRIu64 " objects, %" PRIu64 " bytes", heap,
                   objects, bytes);
    cli_answer(cli,
               json_pack("{s:s,s:I,s:I,s:O}", "name", heap, "objects", (json_int_t)objects, "bytes",
                         (json_int_t)bytes, "shards", rows),
               rows, COLUMNS(columns), line);
    return EXIT_OK;
}

static int stats_by_shard(struct cli *cli, const char *heap)
{
    json_t *rows = NULL;
    uint64_t missing = 0;
    int code = space_ask_leaders(cli, heap, false, &rows, &missing);
    if (code == 0) {
        code = cli_answer_stats(cli, heap, rows);
        json_decref(rows);
    }
    return code == 0 && missing > 0 ? EXIT_FINDINGS : code;
}

/* Adds what two rows have in common. */
static void add_into(json_t *sum, const json_t *row, const char *const *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        space_set_number(sum, keys[i], space_number(sum, keys[i]) + space_number(row, keys[i]));
    }
}

/* Extents, block size 0, come last. */
static int by_block(const void *a, const void *b)
{
    uint64_t x = space_number(*(json_t *const *)a, "block_bytes") - 1;
    uint64_t y = space_number(*(json_t *const *)b, "block_bytes") - 1;
    return x < y ? -1 : x > y ? 1 : 0;
}

static int stats_by_class(struct cli *cli, const char *heap)
{
    static const struct cli_column columns[] = {
        {"BLOCK", "block", true},       {"BLOCKS", "blocks", true},
        {"SPARE", "spare", true},       {"BYTES", "bytes", true},
        {"SLABS", "slabs", true},       {"PARTIAL", "partial_slabs", true},
        {"CAPACITY", "capacity", true}, {"OCCUPANCY", "occupancy", true},
        {"ARENA", "arena_bytes", true}};
    static const char *const keys[] = {"blocks",        "spare",    "bytes",      "slabs",
                                       "partial_slabs", "capacity", "arena_bytes"};
    json_t *rows = NULL;
    json_t *row;
    json_t *class;
    size_t i;
    size_t k;
    uint64_t missing = 0;
    int code = space_ask_leaders(cli, heap, true, &rows, &missing);
    if (code != 0) {
        return code;
    }
    json_t *sums[64];
    size_t count = 0;
    json_array_foreach(rows, i, row)
    {
        json_array_foreach(json_object_get(row, "classes"), k, class)
        {
            size_t at = 0;
            while (at < count &&
                   space_number(sums[at], "block_bytes") != space_number(class, "block_bytes")) {
                at++;
            }
            if (at == sizeof sums / sizeof sums[0]) {
                continue;
            }
            if (at == count) {
                sums[count++] = json_pack("{s:I}", "block_bytes",
                                          (json_int_t)space_number(class, "block_bytes"));
            }
            add_into(sums[at], class, keys, sizeof keys / sizeof keys[0]);
        }
    }
    qsort(sums, count, sizeof(json_t *), by_block);
    json_t *list = json_array();
    for (i = 0; i < count; i++) {
        uint64_t block = space_number(sums[i], "block_bytes");
        json_array_append_new(list, sums[i]);
        if (block == 0) {
            json_object_set_new(sums[i], "block", json_string("extents"));
            json_object_set_new(sums[i], "occupancy", json_null());
            continue;
        }
        json_object_set_new(sums[i], "block", json_integer((json_int_t)block));
        space_set_percent(
            sums[i], "occupancy",
            space_permille(space_number(sums[i], "blocks"), space_number(sums[i], "capacity")));
    }
    json_decref(rows);
    cli_answer(cli, json_pack("{s:s,s:o}", "name", heap, "classes", list), list, COLUMNS(columns),
               NULL);
    return missing > 0 ? EXIT_FINDINGS : EXIT_OK;
}

static int name_type(void *arg, const cairn_type *type, uint64_t version)
{
    json_t *names = arg;
    char key[16];
    (void)version;
    (void)snprintf(key, sizeof key, "%u", type->number);
    json_object_set_new(names, key, cli_text(type->name));
    return 0;
}

static json_t *type_names(struct cli *cli, const char *heap_name)
{
    cairn_heap *heap = NULL;
    json_t *names = json_object();
    if (cairn_heap_open(cli->client, heap_name, &heap) == 0) {
        (void)cairn_type_list(heap, name_type, names);
        cairn_heap_close(heap);
    }
    return names;
}

static int by_bytes(const void *a, const void *b)
{
    uint64_t x = space_number(*(json_t *const *)a, "bytes");
    uint64_t y = space_number(*(json_t *const *)b, "bytes");
    return x < y ? 1 : x > y ? -1 : 0;
}

int cli_answer_types(struct cli *cli, const char *heap, const json_t *rows, const json_t *names)
{
    static const struct cli_column columns[] = {{"TYPE", "type", true},
                                                {"NAME", "name", false},
                                                {"OBJECTS", "objects", true},
                                                {"BYTES", "bytes", true},
                                                {"ALLOCATED", "block_bytes", true},
                                                {"INTERNAL", "internal", true}};
    static const char *const keys[] = {"objects", "bytes", "block_bytes"};
    json_t *sums[2048] = {0};
    size_t count = 0;
    json_t *row;
    json_t *type;
    size_t i;
    size_t k;
    json_array_foreach(rows, i, row)
    {
        json_array_foreach(json_object_get(row, "types"), k, type)
        {
            size_t at = 0;
            while (at < count && space_number(sums[at], "type") != space_number(type, "type")) {
                at++;
            }
            if (at == 2048) {
                continue;
            }
            if (at == count) {
                sums[count++] = json_pack("{s:I}", "type", (json_int_t)space_number(type, "type"));
            }
            add_into(sums[at], type, keys, sizeof keys / sizeof keys[0]);
        }
    }
    qsort(sums, count, sizeof(json_t *), by_bytes);
    json_t *list = json_array();
    for (i = 0; i < count; i++) {
        char key[16];
        uint64_t bytes = space_number(sums[i], "bytes");
        uint64_t blocks = space_number(sums[i], "block_bytes");
        (void)snprintf(key, sizeof key, "%u", (unsigned)space_number(sums[i], "type"));
        const char *name = json_string_value(json_object_get(names, key));
        json_object_set_new(sums[i], "name",
                            json_string(name != NULL                         ? name
                                        : space_number(sums[i], "type") == 0 ? "(untyped)"
                                                                             : "(not registered)"));
        space_set_percent(sums[i], "internal",
                          space_permille(blocks > bytes ? blocks - bytes : 0, blocks));
        json_array_append_new(list, sums[i]);
    }
    cli_answer(cli, json_pack("{s:s,s:o}", "name", heap, "types", list), list, COLUMNS(columns),
               NULL);
    return EXIT_OK;
}

static int stats_by_type(struct cli *cli, const char *heap)
{
    json_t *rows = NULL;
    size_t unreachable = 0;
    int rv = space_await_leaders(cli, heap);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    int code = space_ask_images(
        cli, json_pack("{s:s,s:s,s:b}", "heap", heap, "what", "types", "leading", 1), &rows,
        &unreachable);
    if (code != 0) {
        return code;
    }
    uint64_t missing = 0;
    code = space_judge_leaders(cli, heap, rows, &missing);
    if (code != 0) {
        json_decref(rows);
        return code;
    }
    json_t *names = type_names(cli, heap);
    code = cli_answer_types(cli, heap, rows, names);
    json_decref(names);
    json_decref(rows);
    return unreachable > 0 || missing > 0 ? EXIT_FINDINGS : code;
}

int verb_heap_stats(struct cli *cli)
{
    static const char usage[] = "heap stats HEAP [--by class|type]";
    if (cli->offline != NULL) {
        return offline_heap_stats(cli);
    }
    if (cli->argc != 1) {
        return cli_usage(cli, usage);
    }
    if (cli->by == NULL) {
        return stats_by_shard(cli, cli->argv[0]);
    }
    if (strcmp(cli->by, "class") == 0) {
        return stats_by_class(cli, cli->argv[0]);
    }
    return strcmp(cli->by, "type") == 0 ? stats_by_type(cli, cli->argv[0]) : cli_usage(cli, usage);
}
