/* heap get, heap set. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/space.h"

static void duration_text(uint64_t ms, char out[32])
{
    static const struct {
        uint64_t ms;
        const char *unit;
    } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (ms != 0 && ms % units[i].ms == 0) {
            (void)snprintf(out, 32, "%" PRIu64 "%s", ms / units[i].ms, units[i].unit);
            return;
        }
    }
    (void)snprintf(out, 32, "0");
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
    int code = space_ask_leaders(cli, name, false, &rows, &missing);
    if (code != 0) {
        return code;
    }
    json_array_foreach(rows, i, row)
    {
        same = same && (i == 0 || space_number(row, "retention_ms") == retention);
        retention = space_number(row, "retention_ms");
        bytes += space_number(row, "undo_bytes") + space_number(row, "dead_bytes");
    }
    duration_text(retention, text);
    (void)snprintf(line, sizeof line, "retention=%s%s   (history: %" PRIu64 " bytes)", text,
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
