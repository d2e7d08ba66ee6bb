/* What the verbs of space share: asking leaders and images, and shares of what they say. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/space.h"

#define AWAIT_MS 1000u /* a transfer takes milliseconds, an election is not waited for */

uint64_t space_number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

void space_set_number(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

uint64_t space_permille(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : part > whole ? 1000 : part * 1000 / whole;
}

void space_set_percent(json_t *object, const char *key, uint64_t value_permille)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64 ".%" PRIu64 " %%", value_permille / 10,
                   value_permille % 10);
    json_object_set_new(object, key, json_string(text));
}

void space_set_bytes(json_t *object, const char *key, uint64_t bytes)
{
    char text[32];
    cli_bytes(bytes, text);
    json_object_set_new(object, key, json_string(text));
}

int space_judge_nodes(struct cli *cli, json_t *nodes, size_t *unreachable)
{
    json_t *node;
    size_t i;
    *unreachable = 0;
    const char *unknown = cli_nobody_knows(nodes);
    if (unknown != NULL) {
        return cli_error(cli, CAIRN_E_NOTFOUND, "%s", unknown);
    }
    json_array_foreach(nodes, i, node)
    {
        if (json_is_true(json_object_get(node, "reachable"))) {
            continue;
        }
        const char *error = json_string_value(json_object_get(node, "error"));
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
        count = name != NULL && strcmp(name, heap) == 0 ? space_number(row, "shard_count") : count;
    }
    json_decref(answer);
    return count;
}

static uint64_t shards_led(struct cli *cli, const char *heap)
{
    static bool led[SPACE_SHARDS_MAX];
    json_t *nodes = NULL;
    json_t *node;
    json_t *shard;
    size_t i;
    size_t k;
    uint64_t count = 0;
    memset(led, 0, sizeof led);
    if (cli_ask_all_in(cli, AWAIT_MS, "shards", json_pack("{s:s}", "heap", heap), &nodes) != 0) {
        return 0;
    }
    json_array_foreach(nodes, i, node)
    {
        json_array_foreach(json_object_get(json_object_get(node, "answer"), "shards"), k, shard)
        {
            uint64_t index = space_number(shard, "shard");
            if (json_is_true(json_object_get(shard, "serving")) && index < SPACE_SHARDS_MAX &&
                !led[index]) {
                led[index] = true;
                count++;
            }
        }
    }
    json_decref(nodes);
    return count;
}

int space_await_leaders(struct cli *cli, const char *heap)
{
    int rv = cli_connect(cli);
    if (rv != 0) {
        return rv;
    }
    uint64_t count = shards_of(cli, heap);
    uint32_t began = cli_left_ms(cli);
    while (shards_led(cli, heap) < count && !cli_is_over(cli) &&
           began - cli_left_ms(cli) < AWAIT_MS) {
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
    return 0;
}

int space_judge_leaders(struct cli *cli, const char *heap, const json_t *rows, uint64_t *missing)
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

int space_ask_leaders(struct cli *cli, const char *heap, bool classes, json_t **rows,
                      uint64_t *missing)
{
    json_t *nodes = NULL;
    json_t *node;
    json_t *shard;
    size_t i;
    size_t k;
    size_t unreachable;
    *rows = NULL;
    int rv = space_await_leaders(cli, heap);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, "shards",
                     json_pack("{s:s,s:b,s:b}", "heap", heap, "stats", 1, "classes", classes),
                     &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, heap);
    }
    int code = space_judge_nodes(cli, nodes, &unreachable);
    json_t *found[SPACE_SHARDS_MAX] = {0};
    size_t count = 0;
    json_array_foreach(nodes, i, node)
    {
        json_array_foreach(json_object_get(json_object_get(node, "answer"), "shards"), k, shard)
        {
            uint64_t index = space_number(shard, "shard");
            if (code != 0 || !json_is_true(json_object_get(shard, "serving")) ||
                index >= SPACE_SHARDS_MAX || found[index] != NULL) {
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
    code = space_judge_leaders(cli, heap, *rows, missing);
    if (code != 0) {
        json_decref(*rows);
        *rows = NULL;
    }
    return code;
}

void space_add_shares(json_t *row)
{
    uint64_t blocks = space_number(row, "object_block_bytes");
    uint64_t spare = space_number(row, "spare_bytes");
    uint64_t used = space_number(row, "object_bytes") + space_number(row, "dead_bytes");
    blocks -= spare < blocks ? spare : blocks; /* nobody's inside: they are as good as free */
    uint64_t free_bytes = space_number(row, "free_bytes");
    uint64_t largest = space_number(row, "largest_free_bytes");
    uint64_t internal = space_permille(blocks > used ? blocks - used : 0, blocks);
    uint64_t external = space_permille(free_bytes > largest ? free_bytes - largest : 0, free_bytes);
    uint64_t metadata =
        space_permille(space_number(row, "metadata_bytes"), space_number(row, "arena_bytes"));
    space_set_number(row, "internal_permille", internal);
    space_set_number(row, "external_permille", external);
    space_set_number(row, "metadata_permille", metadata);
    space_set_percent(row, "internal", internal);
    space_set_percent(row, "external", external);
    space_set_percent(row, "metadata", metadata);
}

int space_ask_images(struct cli *cli, json_t *args, json_t **rows, size_t *unreachable)
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
    int code = space_judge_nodes(cli, nodes, unreachable);
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

int space_checkpoint_all(struct cli *cli, const char *heap, json_t **rows, size_t *failed)
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
    int code = space_judge_nodes(cli, nodes, failed);
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
