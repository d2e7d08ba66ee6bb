/* heap map, heap check, checkpoint now: a picture of images, their soundness, new ones. */
#include <inttypes.h>
#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/space.h"

#define MAP_WIDTH 64u

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
    uint64_t cell_bytes = space_number(row, "cell_bytes");
    size_t count = json_array_size(cells);
    char size[32];
    cli_bytes(cell_bytes, size);
    printf("shard %" PRIu64 " (%s, index %" PRIu64 "): %zu cells of %s\n",
           space_number(row, "shard"), json_string_value(json_object_get(row, "node")),
           space_number(row, "index"), count, size);
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
    int rv = space_await_leaders(cli, cli->argv[0]);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    int code = space_ask_images(
        cli, json_pack("{s:s,s:s,s:b}", "heap", cli->argv[0], "what", "map", "leading", 1), &rows,
        &unreachable);
    uint64_t missing = 0;
    if (code == 0) {
        code = space_judge_leaders(cli, cli->argv[0], rows, &missing);
    }
    if (code == 0) {
        cli_answer_map(cli, cli->argv[0], rows);
    }
    json_decref(rows);
    return code != 0 ? code : unreachable > 0 || missing > 0 ? EXIT_FINDINGS : EXIT_OK;
}

/* ---- heap check ---- */

/* Each shard's objects once, however many of its replicas were looked at. */
static uint64_t objects_of(const json_t *rows)
{
    uint64_t objects = 0;
    const json_t *row;
    const json_t *other;
    size_t i;
    size_t k;
    json_array_foreach(rows, i, row)
    {
        uint64_t most = space_number(row, "objects");
        bool first = true;
        json_array_foreach(rows, k, other)
        {
            if (json_equal(json_object_get(row, "uid"), json_object_get(other, "uid")) != 0) {
                first = first && k >= i;
                most =
                    space_number(other, "objects") > most ? space_number(other, "objects") : most;
            }
        }
        objects += first ? most : 0;
    }
    return objects;
}

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
    uint64_t objects = objects_of(rows);
    json_t *findings = json_array();
    json_array_foreach(rows, i, row)
    {
        if (json_object_get(row, "findings") == NULL) {
            continue;
        }
        checked++;
        damage += space_number(row, "damage");
        dangling += space_number(row, "dangling");
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
    (void)snprintf(line, sizeof line,
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
    int code = space_ask_images(cli, json_pack("{s:s,s:s}", "heap", cli->argv[0], "what", "check"),
                                &rows, &unreachable);
    if (code == 0) {
        code = cli_answer_check(cli, cli->argv[0], rows, unreachable);
        json_decref(rows);
    }
    return code;
}

/* ---- checkpoint now ---- */

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
    int code = space_checkpoint_all(cli, cli->argc == 1 ? cli->argv[0] : NULL, &rows, &failed);
    if (code != 0) {
        return code;
    }
    cli_answer(cli, json_pack("{s:o,s:i}", "replicas", rows, "failed", (int)failed), rows,
               COLUMNS(columns), NULL);
    return failed > 0 ? EXIT_FINDINGS : EXIT_OK;
}
