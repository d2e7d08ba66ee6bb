/* heap defrag, heap shrink: steps of the servers, and what they gained. */
#include <stdio.h>
#include <string.h>

#include "cli/space.h"

#define STEP_BYTES (1u << 20)

/* Before and after, shard by shard: `key` of the rows becomes key_before and key_after. */
static void pair_up(json_t *shards, const json_t *rows, const char *suffix)
{
    static const char *const keys[] = {"arena_bytes", "free_bytes",        "largest_free_bytes",
                                       "image_bytes", "external_permille", "allocated_bytes"};
    json_t *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        uint64_t index = space_number(row, "shard");
        space_add_shares(row);
        while (json_array_size(shards) <= index) {
            json_array_append_new(shards,
                                  json_pack("{s:I}", "shard", (json_int_t)json_array_size(shards)));
        }
        json_t *out = json_array_get(shards, index);
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
            char key[64];
            (void)snprintf(key, sizeof key, "%s_%s", keys[k], suffix);
            space_set_number(out, key, space_number(row, keys[k]));
            if (strcmp(keys[k], "external_permille") == 0) {
                (void)snprintf(key, sizeof key, "external_%s", suffix);
                space_set_percent(out, key, space_number(row, keys[k]));
            } else if (strcmp(keys[k], "arena_bytes") == 0) {
                (void)snprintf(key, sizeof key, "arena_%s", suffix);
                space_set_bytes(out, key, space_number(row, keys[k]));
            } else if (strcmp(keys[k], "image_bytes") == 0) {
                (void)snprintf(key, sizeof key, "files_%s", suffix);
                space_set_bytes(out, key, space_number(row, keys[k]));
            }
        }
    }
}

/* While others change the heap there may always be something to move: so many steps for its size.
 */
static uint64_t steps_max(const json_t *row)
{
    return 64 + 4 * (space_number(row, "arena_bytes_before") / STEP_BYTES);
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
    space_set_number(row, "moved_bytes", moved);
    space_set_bytes(row, "moved", moved);
    space_set_number(row, "steps", steps);
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
    space_set_number(row, "freed_bytes", total);
    space_set_bytes(row, "freed", total);
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
    int code = space_ask_leaders(cli, name, false, &rows, &missing);
    if (code == 0) {
        pair_up(shards, rows, suffix);
        json_decref(rows);
    }
    return code;
}

/* The work between two looks at the shards. Exit code, said already; *shards is given if it is 0.
 */
static int pass(struct cli *cli, int (*work)(cairn_heap *heap, uint32_t shard, json_t *row),
                bool checkpoint, json_t **shards, size_t *failed)
{
    const char *name = cli->argv[0];
    json_t *rows = NULL;
    *failed = 0;
    *shards = json_array();
    int code = before_and_after(cli, name, *shards, "before");
    if (code == 0) {
        code = each_shard(cli, name, *shards, work);
        cli_restart(cli);
    }
    if (code == 0 && checkpoint) {
        code = space_checkpoint_all(cli, name, &rows, failed);
        json_decref(code == 0 ? rows : NULL);
        cli_restart(cli);
    }
    if (code == 0) {
        code = before_and_after(cli, name, *shards, "after");
    }
    if (code != 0) {
        json_decref(*shards);
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
    json_t *shards = NULL;
    size_t failed = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "heap defrag HEAP");
    }
    int code = pass(cli, defrag_shard, false, &shards, &failed);
    if (code == 0) {
        cli_answer(cli, json_pack("{s:s,s:o}", "name", cli->argv[0], "shards", shards), shards,
                   COLUMNS(columns), NULL);
    }
    return code;
}

int verb_heap_shrink(struct cli *cli)
{
    static const struct cli_column columns[] = {{"SHARD", "shard", true},
                                                {"GIVEN BACK", "freed", true},
                                                {"ARENA BEFORE", "arena_before", true},
                                                {"AFTER", "arena_after", true},
                                                {"FILES BEFORE", "files_before", true},
                                                {"AFTER", "files_after", true}};
    json_t *shards = NULL;
    size_t failed = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "heap shrink HEAP");
    }
    int code = pass(cli, trim_shard, true, &shards, &failed); /* only the next image is smaller */
    if (code != 0) {
        return code;
    }
    cli_answer(cli, json_pack("{s:s,s:o}", "name", cli->argv[0], "shards", shards), shards,
               COLUMNS(columns), NULL);
    return failed > 0 ? EXIT_FINDINGS : EXIT_OK;
}
