/* heap get, set, stats, map, check, defrag, shrink; checkpoint now: how a heap uses its space. */
#include <inttypes.h>
#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define COLUMNS(table) table, sizeof table / sizeof table[0]

#define STEP_BYTES   (1u << 20)
#define MAP_WIDTH    64u
#define LONG_WAIT_MS 600000u /* what reads whole images */

static uint64_t number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static void set_number(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

/* part / whole in 1/1000. */
static uint64_t permille(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : part > whole ? 1000 : part * 1000 / whole;
}

static void set_percent(json_t *object, const char *key, uint64_t value_permille)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64 ".%" PRIu64 " %%", value_permille / 10,
             value_permille % 10);
    json_object_set_new(object, key, json_string(text));
}

static void set_bytes(json_t *object, const char *key, uint64_t bytes)
{
    char text[32];
    cli_bytes(bytes, text);
    json_object_set_new(object, key, json_string(text));
}

/* ---- what the nodes say ---- */

/* NOTFOUND of the heap is the answer; other nodes that can't be asked are warned of. Exit code,
 * said already. */
static int judge_nodes(struct cli *cli, json_t *nodes, size_t *unreachable)
{
    json_t *node;
    size_t i;
    *unreachable = 0;
    json_array_foreach(nodes, i, node)
    {
        if (json_is_true(json_object_get(node, "reachable"))) {
            continue;
        }
        const char *error = json_string_value(json_object_get(node, "error"));
        if (json_integer_value(json_object_get(node, "code")) == CAIRN_E_NOTFOUND) {
            return cli_error(cli, CAIRN_E_NOTFOUND, "%s", error);
        }
        ++*unreachable;
        cli_warn(cli, "node %s: %s", json_string_value(json_object_get(node, "node")), error);
    }
    return 0;
}

/* How many shards a heap has, as any node knows the catalogue; 0: nobody says. */
static uint64_t shards_of(struct cli *cli, const char *heap)
{
    json_t *answer = NULL;
    json_t *row;
    size_t i;
    uint64_t count = 0;
    if (cli_ask(cli, NULL, "heaps", NULL, &answer) != 0) {
        return 0;
    }
    json_array_foreach(json_object_get(answer, "heaps"), i, row)
    {
        const char *name = json_string_value(json_object_get(row, "name"));
        count = name != NULL && strcmp(name, heap) == 0 ? number(row, "shard_count") : count;
    }
    json_decref(answer);
    return count;
}

/* Rows of leaders that must be all of the heap's: exit code, said already. 7 if there are none,
 * else a warning and *missing. */
static int judge_leaders(struct cli *cli, const char *heap, const json_t *rows, uint64_t *missing)
{
    uint64_t count = shards_of(cli, heap);
    uint64_t found = json_array_size(rows);
    *missing = count > found ? count - found : 0;
    if (found == 0) {
        return cli_error(cli, CAIRN_E_UNAVAILABLE,
                         "no shard of heap %s has a leader that answers: cairnctl shard ls %s, "
                         "cairnctl status",
                         heap, heap);
    }
    if (*missing > 0) {
        cli_warn(cli,
                 "%" PRIu64 " of %" PRIu64
                 " shards have no leader that answers, and are not in here: cairnctl shard ls %s",
                 *missing, count, heap);
    }
    return 0;
}

/* The shards of a heap as their leaders have them: rows of their statistics, with "shard", "uid",
 * "node", "image_bytes" and, if asked for, "classes"; in order of the index. *missing: shards
 * without a leader, warned of. */
static int ask_leaders(struct cli *cli, const char *heap, bool classes, json_t **rows,
                       uint64_t *missing)
{
    json_t *nodes = NULL;
    json_t *node;
    json_t *shard;
    size_t i;
    size_t k;
    size_t unreachable;
    *rows = NULL;
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, "shards",
                     json_pack("{s:s,s:b,s:b}", "heap", heap, "stats", 1, "classes", classes),
                     &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, heap);
    }
    int code = judge_nodes(cli, nodes, &unreachable);
    json_t *found[4096] = {0};
    size_t count = 0;
    json_array_foreach(nodes, i, node)
    {
        json_array_foreach(json_object_get(json_object_get(node, "answer"), "shards"), k, shard)
        {
            uint64_t index = number(shard, "shard");
            if (code != 0 || !json_is_true(json_object_get(shard, "serving")) || index >= 4096 ||
                found[index] != NULL) {
                continue;
            }
            json_t *row = json_deep_copy(json_object_get(shard, "stats"));
            json_object_set(row, "shard", json_object_get(shard, "shard"));
            json_object_set(row, "uid", json_object_get(shard, "uid"));
            json_object_set(row, "node", json_object_get(node, "node"));
            json_object_set(row, "image_bytes", json_object_get(shard, "image_bytes"));
            if (classes) {
                json_object_set(row, "classes", json_object_get(shard, "classes"));
            }
            found[index] = row;
            count = index + 1 > count ? index + 1 : count;
        }
    }
    json_decref(nodes);
    if (code != 0) {
        return code;
    }
    *rows = json_array();
    for (size_t s = 0; s < count; s++) {
        if (found[s] != NULL) {
            json_array_append_new(*rows, found[s]);
        }
    }
    code = judge_leaders(cli, heap, *rows, missing);
    if (code != 0) {
        json_decref(*rows);
        *rows = NULL;
    }
    return code;
}

/* Shares that people ask for, beside the numbers that they are made of:
 *   internal  of the blocks of objects, what wasn't asked for: headers and rounding
 *   external  of the free space, what the largest free run isn't
 *   metadata  of the arena */
static void add_shares(json_t *row)
{
    uint64_t blocks = number(row, "object_block_bytes");
    uint64_t used = number(row, "object_bytes") + number(row, "dead_bytes");
    uint64_t free_bytes = number(row, "free_bytes");
    uint64_t largest = number(row, "largest_free_bytes");
    uint64_t internal = permille(blocks > used ? blocks - used : 0, blocks);
    uint64_t external = permille(free_bytes > largest ? free_bytes - largest : 0, free_bytes);
    uint64_t metadata = permille(number(row, "metadata_bytes"), number(row, "arena_bytes"));
    set_number(row, "internal_permille", internal);
    set_number(row, "external_permille", external);
    set_number(row, "metadata_permille", metadata);
    set_percent(row, "internal", internal);
    set_percent(row, "external", external);
    set_percent(row, "metadata", metadata);
}

/* ---- heap stats ---- */

int cli_answer_stats(struct cli *cli, const char *heap, json_t *rows)
{
    static const struct cli_column columns[] = {{"SHARD", "shard", true},
                                                {"LEADER", "node", false},
                                                {"OBJECTS", "objects", true},
                                                {"BYTES", "object_bytes", true},
                                                {"ALLOCATED", "allocated_bytes", true},
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
        add_shares(row);
        objects += number(row, "objects");
        bytes += number(row, "object_bytes");
    }
    char line[192];
    snprintf(line, sizeof line, "heap %s: %" PRIu64 " objects, %" PRIu64 " bytes", heap, objects,
             bytes);
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
    int code = ask_leaders(cli, heap, false, &rows, &missing);
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
        set_number(sum, keys[i], number(sum, keys[i]) + number(row, keys[i]));
    }
}

/* Extents, block size 0, come last. */
static int by_block(const void *a, const void *b)
{
    uint64_t x = number(*(json_t *const *)a, "block_bytes") - 1;
    uint64_t y = number(*(json_t *const *)b, "block_bytes") - 1;
    return x < y ? -1 : x > y ? 1 : 0;
}

static int stats_by_class(struct cli *cli, const char *heap)
{
    static const struct cli_column columns[] = {
        {"BLOCK", "block", true},           {"BLOCKS", "blocks", true},
        {"BYTES", "bytes", true},           {"SLABS", "slabs", true},
        {"PARTIAL", "partial_slabs", true}, {"CAPACITY", "capacity", true},
        {"OCCUPANCY", "occupancy", true},   {"ARENA", "arena_bytes", true}};
    static const char *const keys[] = {"blocks",        "bytes",    "slabs",
                                       "partial_slabs", "capacity", "arena_bytes"};
    json_t *rows = NULL;
    json_t *row;
    json_t *class;
    size_t i;
    size_t k;
    uint64_t missing = 0;
    int code = ask_leaders(cli, heap, true, &rows, &missing);
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
            while (at < count && number(sums[at], "block_bytes") != number(class, "block_bytes")) {
                at++;
            }
            if (at == sizeof sums / sizeof sums[0]) {
                continue;
            }
            if (at == count) {
                sums[count++] =
                    json_pack("{s:I}", "block_bytes", (json_int_t)number(class, "block_bytes"));
            }
            add_into(sums[at], class, keys, sizeof keys / sizeof keys[0]);
        }
    }
    qsort(sums, count, sizeof(json_t *), by_block);
    json_t *list = json_array();
    for (i = 0; i < count; i++) {
        uint64_t block = number(sums[i], "block_bytes");
        json_array_append_new(list, sums[i]);
        if (block == 0) {
            json_object_set_new(sums[i], "block", json_string("extents"));
            json_object_set_new(sums[i], "occupancy", json_null());
            continue;
        }
        json_object_set_new(sums[i], "block", json_integer((json_int_t)block));
        set_percent(sums[i], "occupancy",
                    permille(number(sums[i], "blocks"), number(sums[i], "capacity")));
    }
    json_decref(rows);
    cli_answer(cli, json_pack("{s:s,s:o}", "name", heap, "classes", list), list, COLUMNS(columns),
               NULL);
    return missing > 0 ? EXIT_FINDINGS : EXIT_OK;
}

/* Asks every node to look at the images of a heap; rows of all of them with "node". */
static int ask_images(struct cli *cli, json_t *args, json_t **rows, size_t *unreachable)
{
    json_t *nodes = NULL;
    json_t *node;
    json_t *shard;
    size_t i;
    size_t k;
    *rows = NULL;
    cli->timeout_ms = cli->timeout_given ? cli->timeout_ms : LONG_WAIT_MS;
    int rv = cli_connect(cli);
    if (rv != 0) {
        json_decref(args);
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, "inspect", args, &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, "inspect");
    }
    int code = judge_nodes(cli, nodes, unreachable);
    if (code != 0) {
        json_decref(nodes);
        return code;
    }
    *rows = json_array();
    json_array_foreach(nodes, i, node)
    {
        json_array_foreach(json_object_get(json_object_get(node, "answer"), "shards"), k, shard)
        {
            json_object_set(shard, "node", json_object_get(node, "node"));
            json_array_append(*rows, shard);
            const char *error = json_string_value(json_object_get(shard, "error"));
            if (error != NULL) {
                ++*unreachable;
                cli_warn(cli, "node %s, shard %s: %s",
                         json_string_value(json_object_get(node, "node")),
                         json_string_value(json_object_get(shard, "uid")), error);
            }
        }
    }
    json_decref(nodes);
    return 0;
}

static int name_type(void *arg, const cairn_type *type, uint64_t version)
{
    json_t *names = arg;
    char key[16];
    (void)version;
    snprintf(key, sizeof key, "%u", type->number);
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
    uint64_t x = number(*(json_t *const *)a, "bytes");
    uint64_t y = number(*(json_t *const *)b, "bytes");
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
            while (at < count && number(sums[at], "type") != number(type, "type")) {
                at++;
            }
            if (at == 2048) {
                continue;
            }
            if (at == count) {
                sums[count++] = json_pack("{s:I}", "type", (json_int_t)number(type, "type"));
            }
            add_into(sums[at], type, keys, sizeof keys / sizeof keys[0]);
        }
    }
    qsort(sums, count, sizeof(json_t *), by_bytes);
    json_t *list = json_array();
    for (i = 0; i < count; i++) {
        char key[16];
        uint64_t bytes = number(sums[i], "bytes");
        uint64_t blocks = number(sums[i], "block_bytes");
        snprintf(key, sizeof key, "%u", (unsigned)number(sums[i], "type"));
        const char *name = json_string_value(json_object_get(names, key));
        json_object_set_new(sums[i], "name",
                            json_string(name != NULL                   ? name
                                        : number(sums[i], "type") == 0 ? "(untyped)"
                                                                       : "(not registered)"));
        set_percent(sums[i], "internal", permille(blocks > bytes ? blocks - bytes : 0, blocks));
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
    int code =
        ask_images(cli, json_pack("{s:s,s:s,s:b}", "heap", heap, "what", "types", "leading", 1),
                   &rows, &unreachable);
    if (code != 0) {
        return code;
    }
    uint64_t missing = 0;
    code = judge_leaders(cli, heap, rows, &missing);
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

/* ---- heap map ---- */

static void print_cell(char content, unsigned percent, bool utf8, bool color)
{
    static const char *const blocks[] = {" ", "\u2591", "\u2592", "\u2593", "\u2588"};
    static const char *const plain[] = {" ", ".", ":", "+", "#"};
    unsigned level = percent == 0 ? 0 : percent >= 95 ? 4 : 1 + percent / 34;
    const char *paint = content == 's' ? "\033[36m" : content == 'i' ? "\033[33m" : "";
    const char *glyph = percent == 0 ? (utf8 ? "\u00b7" : "_") : (utf8 ? blocks : plain)[level];
    if (color && paint[0] != 0) {
        printf("%s%s\033[0m", paint, glyph);
    } else {
        fputs(glyph, stdout);
    }
}

static void print_map(const json_t *row)
{
    bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    bool color = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    json_t *cells = json_object_get(row, "cells");
    uint64_t cell_bytes = number(row, "cell_bytes");
    size_t count = json_array_size(cells);
    char size[32];
    cli_bytes(cell_bytes, size);
    printf("shard %" PRIu64 " (%s, index %" PRIu64 "): %zu cells of %s\n", number(row, "shard"),
           json_string_value(json_object_get(row, "node")), number(row, "index"), count, size);
    for (size_t i = 0; i < count; i += MAP_WIDTH) {
        cli_bytes(cell_bytes * i, size);
        printf("%12s  ", size);
        for (size_t k = i; k < i + MAP_WIDTH && k < count; k++) {
            const char *cell = json_string_value(json_array_get(cells, k));
            cell = cell == NULL || cell[0] == 0 ? "?" : cell;
            print_cell(cell[0], (unsigned)strtoul(cell + 1, NULL, 10), utf8, color);
        }
        putchar('\n');
    }
}

void cli_answer_map(struct cli *cli, const char *heap, json_t *rows)
{
    json_t *row;
    size_t i;
    if (cli->format == FORMAT_TABLE) {
        json_array_foreach(rows, i, row)
        {
            if (json_object_get(row, "cells") != NULL) {
                print_map(row);
            }
        }
        printf("each character: share in use, from %s to %s; %s\n",
               strcmp(nl_langinfo(CODESET), "UTF-8") == 0 ? "\u00b7 (free)" : "_ (free)",
               strcmp(nl_langinfo(CODESET), "UTF-8") == 0 ? "\u2588 (full)" : "# (full)",
               "cyan: slabs of small objects, yellow: history and maps");
        return;
    }
    cli_answer(cli, json_pack("{s:s,s:O}", "name", heap, "shards", rows), NULL, NULL, 0, NULL);
}

int verb_heap_map(struct cli *cli)
{
    json_t *rows = NULL;
    size_t unreachable = 0;
    if (cli->offline != NULL) {
        return offline_heap_map(cli);
    }
    if (cli->argc != 1) {
        return cli_usage(cli, "heap map HEAP");
    }
    int code = ask_images(
        cli, json_pack("{s:s,s:s,s:b}", "heap", cli->argv[0], "what", "map", "leading", 1), &rows,
        &unreachable);
    uint64_t missing = 0;
    if (code == 0) {
        code = judge_leaders(cli, cli->argv[0], rows, &missing);
    }
    if (code == 0) {
        cli_answer_map(cli, cli->argv[0], rows);
    }
    json_decref(rows);
    return code != 0 ? code : unreachable > 0 || missing > 0 ? EXIT_FINDINGS : EXIT_OK;
}

/* ---- heap check ---- */

int cli_answer_check(struct cli *cli, const char *heap, json_t *rows, size_t unchecked)
{
    static const struct cli_column columns[] = {{"NODE", "node", false},
                                                {"SHARD", "shard", true},
                                                {"SEVERITY", "severity", false},
                                                {"FINDING", "code", false},
                                                {"WHAT", "text", false}};
    json_t *row;
    json_t *finding;
    size_t i;
    size_t k;
    size_t checked = 0;
    uint64_t damage = 0;
    uint64_t dangling = 0;
    uint64_t objects = 0;
    json_t *findings = json_array();
    json_array_foreach(rows, i, row)
    {
        if (json_object_get(row, "findings") == NULL) {
            continue;
        }
        checked++;
        damage += number(row, "damage");
        dangling += number(row, "dangling");
        objects += number(row, "objects");
        json_array_foreach(json_object_get(row, "findings"), k, finding)
        {
            json_t *copy = json_deep_copy(finding);
            json_object_set(copy, "node", json_object_get(row, "node"));
            json_object_set(copy, "shard", json_object_get(row, "shard"));
            json_array_append_new(findings, copy);
        }
        json_object_del(row, "findings");
    }
    char line[224];
    snprintf(line, sizeof line,
             "heap %s: %zu images checked, %" PRIu64 " objects: %" PRIu64 " damaged, %" PRIu64
             " dangling%s",
             heap, checked, objects, damage, dangling,
             unchecked > 0 ? "; not all could be checked" : "");
    cli_answer(cli,
               json_pack("{s:s,s:I,s:I,s:i,s:O,s:o}", "name", heap, "damage", (json_int_t)damage,
                         "dangling", (json_int_t)dangling, "unchecked", (int)unchecked, "images",
                         rows, "findings", findings),
               json_array_size(findings) > 0 ? findings : NULL, COLUMNS(columns), line);
    return damage > 0 ? EXIT_INTEGRITY : dangling > 0 || unchecked > 0 ? EXIT_FINDINGS : EXIT_OK;
}

int verb_heap_check(struct cli *cli)
{
    json_t *rows = NULL;
    size_t unreachable = 0;
    if (cli->offline != NULL) {
        return offline_heap_check(cli);
    }
    if (cli->argc != 1) {
        return cli_usage(cli, "heap check HEAP");
    }
    int code = ask_images(cli, json_pack("{s:s,s:s}", "heap", cli->argv[0], "what", "check"), &rows,
                          &unreachable);
    if (code == 0) {
        code = cli_answer_check(cli, cli->argv[0], rows, unreachable);
        json_decref(rows);
    }
    return code;
}

/* ---- checkpoint now ---- */

/* Every replica that is asked, as rows; exit code, said already. */
static int checkpoint_all(struct cli *cli, const char *heap, json_t **rows, size_t *failed)
{
    json_t *nodes = NULL;
    json_t *node;
    json_t *shard;
    size_t i;
    size_t k;
    int rv = cli_ask_all(cli, "checkpoint",
                         heap != NULL ? json_pack("{s:s}", "heap", heap) : json_object(), &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, "checkpoint now");
    }
    int code = judge_nodes(cli, nodes, failed);
    *rows = json_array();
    json_array_foreach(nodes, i, node)
    {
        json_array_foreach(json_object_get(json_object_get(node, "answer"), "shards"), k, shard)
        {
            json_object_set(shard, "node", json_object_get(node, "node"));
            *failed += json_object_get(shard, "error") != NULL;
            json_array_append(*rows, shard);
        }
    }
    json_decref(nodes);
    if (code != 0) {
        json_decref(*rows);
    }
    return code;
}

int verb_checkpoint_now(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"SHARD", "uid", true},           {"INDEX IN HEAP", "shard", true},
        {"NODE", "node", false},          {"AT INDEX", "index", true},
        {"PAGES", "pages_written", true}, {"OF", "pages_total", true},
        {"BYTES", "bytes_written", true}, {"ERROR", "error", false}};
    json_t *rows = NULL;
    size_t failed = 0;
    if (cli->argc > 1) {
        return cli_usage(cli, "checkpoint now [HEAP]");
    }
    cli->timeout_ms = cli->timeout_given ? cli->timeout_ms : LONG_WAIT_MS;
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    int code = checkpoint_all(cli, cli->argc == 1 ? cli->argv[0] : NULL, &rows, &failed);
    if (code != 0) {
        return code;
    }
    cli_answer(cli, json_pack("{s:o,s:i}", "replicas", rows, "failed", (int)failed), rows,
               COLUMNS(columns), NULL);
    return failed > 0 ? EXIT_FINDINGS : EXIT_OK;
}

/* ---- heap defrag, heap shrink ---- */

/* Before and after, shard by shard: `key` of the rows becomes key_before and key_after. */
static void pair_up(json_t *shards, const json_t *rows, const char *suffix)
{
    static const char *const keys[] = {"arena_bytes", "free_bytes",        "largest_free_bytes",
                                       "image_bytes", "external_permille", "allocated_bytes"};
    json_t *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        uint64_t index = number(row, "shard");
        add_shares(row);
        while (json_array_size(shards) <= index) {
            json_array_append_new(shards,
                                  json_pack("{s:I}", "shard", (json_int_t)json_array_size(shards)));
        }
        json_t *out = json_array_get(shards, index);
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
            char key[64];
            snprintf(key, sizeof key, "%s_%s", keys[k], suffix);
            set_number(out, key, number(row, keys[k]));
            if (strcmp(keys[k], "external_permille") == 0) {
                snprintf(key, sizeof key, "external_%s", suffix);
                set_percent(out, key, number(row, keys[k]));
            } else if (strcmp(keys[k], "arena_bytes") == 0) {
                snprintf(key, sizeof key, "arena_%s", suffix);
                set_bytes(out, key, number(row, keys[k]));
            } else if (strcmp(keys[k], "image_bytes") == 0) {
                snprintf(key, sizeof key, "files_%s", suffix);
                set_bytes(out, key, number(row, keys[k]));
            }
        }
    }
}

/* While others change the heap there may always be something to move: so many steps for its size.
 */
static uint64_t steps_max(const json_t *row)
{
    return 64 + 4 * (number(row, "arena_bytes_before") / STEP_BYTES);
}

static int defrag_shard(cairn_heap *heap, uint32_t shard, json_t *row)
{
    uint64_t moved = 0;
    uint64_t steps = 0;
    int more = 1;
    int rv = 0;
    while (rv == 0 && more != 0 && steps < steps_max(row)) {
        uint64_t bytes = 0;
        rv = cairn_heap_defrag(heap, shard, STEP_BYTES, &bytes, &more);
        moved += bytes;
        steps++;
    }
    set_number(row, "moved_bytes", moved);
    set_bytes(row, "moved", moved);
    set_number(row, "steps", steps);
    json_object_set_new(row, "done", json_boolean(more == 0));
    return rv;
}

static int trim_shard(cairn_heap *heap, uint32_t shard, json_t *row)
{
    uint64_t freed = 0;
    uint64_t total = 0;
    int rv;
    do {
        rv = cairn_heap_trim(heap, shard, UINT64_MAX, &freed);
        total += freed;
    } while (rv == 0 && freed > 0);
    set_number(row, "freed_bytes", total);
    set_bytes(row, "freed", total);
    return rv;
}

static int each_shard(struct cli *cli, const char *name, json_t *shards,
                      int (*work)(cairn_heap *heap, uint32_t shard, json_t *row))
{
    cairn_heap *heap = NULL;
    int rv = cairn_heap_open(cli->client, name, &heap);
    for (uint32_t i = 0; rv == 0 && i < cairn_heap_shards(heap); i++) {
        if (i >= json_array_size(shards)) { /* without a leader a moment ago */
            json_array_append_new(shards, json_pack("{s:I}", "shard", (json_int_t)i));
        }
        rv = work(heap, i, json_array_get(shards, i));
    }
    cairn_heap_close(heap);
    return rv == 0 ? 0 : cli_fail(cli, rv, name);
}

static int before_and_after(struct cli *cli, const char *name, json_t *shards, const char *suffix)
{
    json_t *rows = NULL;
    uint64_t missing = 0;
    int code = ask_leaders(cli, name, false, &rows, &missing);
    if (code == 0) {
        pair_up(shards, rows, suffix);
        json_decref(rows);
    }
    return code;
}

int verb_heap_defrag(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"SHARD", "shard", true},          {"MOVED", "moved", true},
        {"STEPS", "steps", true},          {"EXTERNAL BEFORE", "external_before", true},
        {"AFTER", "external_after", true}, {"ARENA BEFORE", "arena_before", true},
        {"AFTER", "arena_after", true},    {"DONE", "done", false}};
    if (cli->argc != 1) {
        return cli_usage(cli, "heap defrag HEAP");
    }
    json_t *shards = json_array();
    int code = before_and_after(cli, cli->argv[0], shards, "before");
    if (code == 0) {
        code = each_shard(cli, cli->argv[0], shards, defrag_shard);
    }
    if (code == 0) {
        code = before_and_after(cli, cli->argv[0], shards, "after");
    }
    if (code != 0) {
        json_decref(shards);
        return code;
    }
    cli_answer(cli, json_pack("{s:s,s:o}", "name", cli->argv[0], "shards", shards), shards,
               COLUMNS(columns), NULL);
    return EXIT_OK;
}

int verb_heap_shrink(struct cli *cli)
{
    static const struct cli_column columns[] = {{"SHARD", "shard", true},
                                                {"GIVEN BACK", "freed", true},
                                                {"ARENA BEFORE", "arena_before", true},
                                                {"AFTER", "arena_after", true},
                                                {"FILES BEFORE", "files_before", true},
                                                {"AFTER", "files_after", true}};
    json_t *rows = NULL;
    size_t failed = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "heap shrink HEAP");
    }
    json_t *shards = json_array();
    int code = before_and_after(cli, cli->argv[0], shards, "before");
    if (code == 0) {
        code = each_shard(cli, cli->argv[0], shards, trim_shard);
    }
    if (code == 0) {
        /* Only the next image is smaller. */
        code = checkpoint_all(cli, cli->argv[0], &rows, &failed);
        json_decref(code == 0 ? rows : NULL);
    }
    if (code == 0) {
        code = before_and_after(cli, cli->argv[0], shards, "after");
    }
    if (code != 0) {
        json_decref(shards);
        return code;
    }
    cli_answer(cli, json_pack("{s:s,s:o}", "name", cli->argv[0], "shards", shards), shards,
               COLUMNS(columns), NULL);
    return failed > 0 ? EXIT_FINDINGS : EXIT_OK;
}

/* ---- heap get, heap set ---- */

static void duration_text(uint64_t ms, char out[32])
{
    static const struct {
        uint64_t ms;
        const char *unit;
    } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (ms != 0 && ms % units[i].ms == 0) {
            snprintf(out, 32, "%" PRIu64 "%s", ms / units[i].ms, units[i].unit);
            return;
        }
    }
    snprintf(out, 32, "0");
}

bool cli_duration(const char *text, uint64_t *ms)
{
    char *end = NULL;
    unsigned long long value = strtoull(text, &end, 10);
    uint64_t unit = strcmp(end, "") == 0 && value == 0 ? 1
                    : strcmp(end, "ms") == 0           ? 1
                    : strcmp(end, "s") == 0            ? 1000
                    : strcmp(end, "m") == 0            ? 60000
                    : strcmp(end, "h") == 0            ? 3600000
                    : strcmp(end, "d") == 0            ? 86400000
                                                       : 0;
    if (end == text || text[0] == '-' || unit == 0 || value > UINT64_MAX / unit) {
        return false;
    }
    *ms = value * unit;
    return true;
}

static int show_settings(struct cli *cli, const char *name)
{
    json_t *rows = NULL;
    json_t *row;
    size_t i;
    char text[32];
    char line[192];
    uint64_t retention = 0;
    uint64_t bytes = 0;
    bool same = true;
    uint64_t missing = 0;
    int code = ask_leaders(cli, name, false, &rows, &missing);
    if (code != 0) {
        return code;
    }
    json_array_foreach(rows, i, row)
    {
        same = same && (i == 0 || number(row, "retention_ms") == retention);
        retention = number(row, "retention_ms");
        bytes += number(row, "undo_bytes") + number(row, "dead_bytes");
    }
    duration_text(retention, text);
    snprintf(line, sizeof line, "retention=%s%s   (history: %" PRIu64 " bytes)", text,
             same ? "" : " (not on all shards: set it again)", bytes);
    cli_answer(cli,
               json_pack("{s:s,s:I,s:s,s:b,s:I}", "name", name, "retention_ms",
                         (json_int_t)retention, "retention", text, "uniform", same, "history_bytes",
                         (json_int_t)bytes),
               NULL, NULL, 0, line);
    json_decref(rows);
    return same && missing == 0 ? EXIT_OK : EXIT_FINDINGS;
}

int verb_heap_get(struct cli *cli)
{
    return cli->argc == 1 ? show_settings(cli, cli->argv[0]) : cli_usage(cli, "heap get HEAP");
}

int verb_heap_set(struct cli *cli)
{
    static const char key[] = "retention=";
    uint64_t ms = 0;
    cairn_heap *heap = NULL;
    if (cli->argc != 2 || strncmp(cli->argv[1], key, sizeof key - 1) != 0) {
        return cli_usage(cli, "heap set HEAP retention=0|30s|10m|1h|7d");
    }
    if (!cli_duration(cli->argv[1] + sizeof key - 1, &ms)) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" is no duration: 0, 500ms, 30s, 10m, 1h, 7d",
                         cli->argv[1] + sizeof key - 1);
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, cli->argv[0], &heap);
    if (rv == 0) {
        rv = cairn_heap_set_retention(heap, ms);
    }
    cairn_heap_close(heap);
    return rv != 0 ? cli_fail(cli, rv, cli->argv[0]) : show_settings(cli, cli->argv[0]);
}
