/* tx ls, tx stats: what the nodes know of transactions over several shards. */
#include <stdio.h>

#include "cli/cli.h"

static json_t *args_of(const struct cli *cli)
{
    return json_pack("{s:b}", "in_doubt", cli->in_doubt);
}

int verb_tx_ls(struct cli *cli)
{
    static const struct cli_column columns[] = {{"TRANSACTION", "transaction", false},
                                                {"SHARD", "uid", true},
                                                {"STATE", "state", false},
                                                {"AGE MS", "age_ms", true},
                                                {"SHARDS", "participants", true},
                                                {"VERSION", "version", true},
                                                {"LEADER", "node", false}};
    json_t *rows = NULL;
    size_t unreachable = 0;
    if (cli->argc != 0) {
        return cli_usage(cli, "tx ls [--in-doubt]");
    }
    int code = cli_collect(cli, "transactions", args_of(cli), "transactions", &rows, &unreachable);
    if (code == 0) {
        cli_answer(cli, json_pack("{s:o}", "transactions", rows), rows, columns,
                   sizeof columns / sizeof columns[0], NULL);
        code = unreachable > 0 ? EXIT_FINDINGS : EXIT_OK; /* an empty list may not be all */
    }
    return code;
}

int verb_tx_stats(struct cli *cli)
{
    static const struct cli_column columns[] = {{"NODE", "node", false},
                                                {"RUNNING", "running", true},
                                                {"COMMITTED", "committed", true},
                                                {"ABORTED", "aborted", true},
                                                {"CONFLICTS", "conflicts", true},
                                                {"TOO LATE", "too_late", true},
                                                {"RECOVERED", "recoveries", true},
                                                {"RESENT", "resends", true},
                                                {"READS WAITED", "reads_waited", true},
                                                {"TURNS WAITED", "turns_waited", true},
                                                {"TURNS EXPIRED", "turns_expired", true}};
    json_t *nodes = NULL;
    json_t *node;
    size_t i;
    if (cli->argc != 0) {
        return cli_usage(cli, "tx stats");
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, "transactions", json_pack("{s:b}", "in_doubt", 1), &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, "tx stats");
    }
    json_t *rows = json_array();
    json_array_foreach(nodes, i, node)
    {
        json_t *stats = json_object_get(json_object_get(node, "answer"), "stats");
        json_t *row = stats == NULL ? json_object() : json_copy(stats);
        json_object_set(row, "node", json_object_get(node, "node"));
        json_object_set(row, "reachable", json_object_get(node, "reachable"));
        json_array_append_new(rows, row);
    }
    json_decref(nodes);
    cli_answer(cli, json_pack("{s:o}", "nodes", rows), rows, columns,
               sizeof columns / sizeof columns[0], NULL);
    return EXIT_OK;
}
