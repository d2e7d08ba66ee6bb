/* heap, root: the catalogue and the names in it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define COLUMNS(table) table, sizeof table / sizeof table[0]

int verb_heap_create(struct cli *cli)
{
    cairn_heap_opts opts;
    char size[32];
    char line[256];
    if (cli->argc != 1) {
        return cli_usage(cli, "heap create NAME [--shards N] [--replicas N] [--size BYTES] "
                              "[--retention 10m]");
    }
    cairn_heap_opts_init(&opts, sizeof opts);
    if (cli->retention != NULL && !cli_duration(cli->retention, &opts.retention_ms)) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" is no duration: 0, 500ms, 30s, 10m, 1h, 7d",
                         cli->retention);
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    opts.shards = cli->shards != 0 ? cli->shards : opts.shards;
    opts.replicas = cli->replicas;
    opts.bytes_max = cli->size_given ? cli->size : opts.bytes_max;
    rv = cairn_heap_create(cli->client, cli->argv[0], &opts);
    if (rv != 0) {
        char what[96];
        (void)snprintf(what, sizeof what, "heap create %.64s", cli->argv[0]);
        return cli_fail(cli, rv, what);
    }
    cli_bytes(opts.bytes_max / opts.shards, size);
    (void)snprintf(line, sizeof line, "heap %s created: %u shards of at most %s", cli->argv[0],
                   opts.shards, size);
    cli_answer(cli,
               json_pack("{s:s,s:i,s:I,s:I}", "name", cli->argv[0], "shards", (int)opts.shards,
                         "bytes_max", (json_int_t)opts.bytes_max, "retention_ms",
                         (json_int_t)opts.retention_ms),
               NULL, NULL, 0, line);
    return EXIT_OK;
}

/* The catalogue as the leader of the meta shard has applied it. */
static int ask_catalog(struct cli *cli, json_t **out)
{
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask(cli, NULL, "heaps", NULL, out);
    if (rv == 0) {
        char leader[64];
        (void)snprintf(leader, sizeof leader, "%s",
                       json_string_value(json_object_get(*out, "meta_leader")));
        if (leader[0] != 0) {
            json_decref(*out);
            rv = cli_ask(cli, leader, "heaps", NULL, out);
        }
    }
    return rv == 0 ? 0 : cli_fail(cli, rv, "heap ls");
}

int verb_heap_ls(struct cli *cli)
{
    static const struct cli_column columns[] = {{"HEAP", "name", false},
                                                {"ID", "id", true},
                                                {"SHARDS", "shard_count", true},
                                                {"REPLICAS", "replicas", true},
                                                {"SIZE PER SHARD", "size", true}};
    json_t *answer = NULL;
    json_t *row;
    size_t i;
    if (cli->argc != 0) {
        return cli_usage(cli, "heap ls");
    }
    int code = ask_catalog(cli, &answer);
    if (code != 0) {
        return code;
    }
    json_t *heaps = json_object_get(answer, "heaps");
    json_array_foreach(heaps, i, row)
    {
        char size[32];
        cli_bytes((uint64_t)json_integer_value(json_object_get(row, "shard_bytes_max")), size);
        json_object_set_new(row, "size", json_string(size));
    }
    cli_answer(cli, json_pack("{s:O}", "heaps", heaps), heaps, COLUMNS(columns), NULL);
    json_decref(answer);
    return EXIT_OK;
}

int verb_heap_rm(struct cli *cli)
{
    char question[160];
    char line[128];
    cairn_heap *heap = NULL;
    if (cli->argc != 1) {
        return cli_usage(cli, "heap rm NAME [--yes] [--dry-run]");
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, cli->argv[0], &heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    uint32_t shards = cairn_heap_shards(heap);
    cairn_heap_close(heap);
    if (!cli->dry_run) {
        (void)snprintf(question, sizeof question,
                       "Heap %s and all its objects will be gone for good.", cli->argv[0]);
        if (!cli_confirm(cli, question)) {
            return cli_error(cli, CAIRN_E_CANCELED, "heap %s was not removed", cli->argv[0]);
        }
        rv = cairn_heap_drop(cli->client, cli->argv[0]);
        if (rv != 0) {
            return cli_fail(cli, rv, cli->argv[0]);
        }
    }
    (void)snprintf(line, sizeof line, "heap %s %s: %u shards", cli->argv[0],
                   cli->dry_run ? "would be removed" : "removed", shards);
    cli_answer(cli,
               json_pack("{s:s,s:i,s:b}", "name", cli->argv[0], "shards", (int)shards, "removed",
                         !cli->dry_run),
               NULL, NULL, 0, line);
    return EXIT_OK;
}

/* ---- root ---- */

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

static json_t *root_row(const char *name, cairn_ptr ptr)
{
    char text[CAIRN_PTR_TEXT_BYTES];
    cairn_ptr_format(ptr, text, sizeof text);
    return json_pack("{s:o,s:s}", "name", cli_text(name), "pointer", text);
}

static int add_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    char text[24];
    json_t *row = root_row(name, ptr);
    (void)snprintf(text, sizeof text, "%" PRIu64, version);
    json_object_set_new(row, "version", json_string(text));
    json_array_append_new(arg, row);
    return 0;
}

int verb_root_ls(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"NAME", "name", false}, {"POINTER", "pointer", false}, {"VERSION", "version", true}};
    cairn_heap *heap;
    cairn_tx *tx = NULL;
    uint64_t at = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "root ls HEAP [--at VERSION|TIME]");
    }
    int code = cli_version(cli, &at);
    if (code == 0) {
        code = open_heap(cli, cli->argv[0], &heap);
    }
    if (code != 0) {
        return code;
    }
    json_t *rows = json_array();
    int rv = at != 0 ? cli_tx_at(heap, at, &tx) : cairn_root_list(heap, add_root, rows);
    if (rv == 0 && at != 0) {
        rv = cairn_tx_root_list(tx, add_root, rows);
    }
    cairn_tx_abort(tx);
    cairn_heap_close(heap);
    if (rv != 0) {
        json_decref(rows);
        return cli_fail(cli, rv, "root ls");
    }
    cli_answer(cli, json_pack("{s:o}", "roots", rows), rows, COLUMNS(columns), NULL);
    return EXIT_OK;
}

int verb_root_get(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr = CAIRN_NULL;
    char text[CAIRN_PTR_TEXT_BYTES];
    uint64_t at = 0;
    if (cli->argc != 2) {
        return cli_usage(cli, "root get HEAP NAME [--at VERSION|TIME]");
    }
    int code = cli_version(cli, &at);
    if (code == 0) {
        code = open_heap(cli, cli->argv[0], &heap);
    }
    if (code != 0) {
        return code;
    }
    int rv = cli_root_at(heap, cli->argv[1], at, &ptr);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[1]);
    }
    cairn_ptr_format(ptr, text, sizeof text);
    cli_answer(cli, root_row(cli->argv[1], ptr), NULL, NULL, 0, text);
    return EXIT_OK;
}

int verb_root_set(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr;
    if (cli->argc != 3) {
        return cli_usage(cli, "root set HEAP NAME POINTER");
    }
    if (cairn_ptr_parse(cli->argv[2], &ptr) != 0) {
        return cli_error(cli, CAIRN_E_INVAL,
                         "\"%s\" is not a pointer: shard.generation.slot, as in 2.1.0000000041",
                         cli->argv[2]);
    }
    int code = open_heap(cli, cli->argv[0], &heap);
    if (code != 0) {
        return code;
    }
    int rv = cairn_root_set(heap, cli->argv[1], ptr);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[1]);
    }
    cli_answer(cli, root_row(cli->argv[1], ptr), NULL, NULL, 0, "set");
    return EXIT_OK;
}

int verb_root_rm(struct cli *cli)
{
    cairn_heap *heap;
    if (cli->argc != 2) {
        return cli_usage(cli, "root rm HEAP NAME [--dry-run]");
    }
    int code = open_heap(cli, cli->argv[0], &heap);
    if (code != 0) {
        return code;
    }
    cairn_ptr ptr = CAIRN_NULL;
    int rv = cairn_root_get(heap, cli->argv[1], &ptr);
    if (rv == 0 && !cli->dry_run) {
        /* Only the root that was looked at: somebody may have pointed it elsewhere meanwhile. */
        rv = cairn_root_compare_and_set(heap, cli->argv[1], ptr, CAIRN_NULL);
    }
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[1]);
    }
    cli_answer(cli, root_row(cli->argv[1], ptr), NULL, NULL, 0,
               cli->dry_run ? "would be removed (the object stays)" : "removed (the object stays)");
    return EXIT_OK;
}
