/* tx show, tx trace: one transaction, as the shards remember it, and as their logs tell it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/tx.h>

#include "cli/cli.h"

struct name {
    uint64_t home, session, seq;
};

/* As tx ls prints it, or the id that the SDK and tx commit give. */
static bool name_parse(const char *text, struct name *out)
{
    cairn_tx_id id;
    int end = 0;
    if (cairn_tx_id_parse(text, &id) == 0) {
        *out = (struct name){id.words[0], id.words[1], id.words[2]};
        return true;
    }
    return strspn(text, "0123456789.") == strlen(text) &&
           sscanf(text, "%" SCNu64 ".%" SCNu64 ".%" SCNu64 "%n", &out->home, &out->session,
                  &out->seq, &end) == 3 &&
           text[end] == 0;
}

static json_t *args_of(const struct name *name, const json_t *uids, bool trace)
{
    json_t *args = json_pack("{s:o,s:o,s:o,s:b}", "home", cli_u64(name->home), "session",
                             cli_u64(name->session), "seq", cli_u64(name->seq), "trace", trace);
    if (uids != NULL) {
        json_object_set(args, "uids", (json_t *)uids);
    }
    return args;
}

/* The arrays of all nodes' answers under `key`, as one, each row with its node. */
static json_t *gather(const json_t *nodes, const char *key)
{
    json_t *rows = json_array();
    size_t i;
    size_t k;
    const json_t *node;
    json_t *row;
    json_array_foreach(nodes, i, node)
    {
        json_array_foreach(json_object_get(json_object_get(node, "answer"), key), k, row)
        {
            json_object_set(row, "node", json_object_get(node, "node"));
            json_array_append(rows, row);
        }
    }
    return rows;
}

static const json_t *row_of(const json_t *rows, const char *uid)
{
    size_t i;
    const json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "uid")), uid) == 0) {
            return row;
        }
    }
    return NULL;
}

/* Participants, as the first record says that has them; home alone if none does. */
static json_t *participants_of(const json_t *records, const struct name *name)
{
    size_t i;
    const json_t *row;
    json_array_foreach(records, i, row)
    {
        const json_t *uids = json_object_get(row, "participants");
        if (json_array_size(uids) > 0) {
            return json_deep_copy(uids);
        }
    }
    return json_pack("[o]", cli_u64(name->home));
}

/* Asks twice: who takes part is known by the first answers. *nodes is given. Exit code, said
 * already. */
static int ask(struct cli *cli, const struct name *name, bool trace, json_t **nodes,
               json_t **participants)
{
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask_all_in(cli, cli_left_ms(cli) / 2 + 1, "transaction", args_of(name, NULL, false),
                        nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    json_t *records = gather(*nodes, "records");
    *participants = participants_of(records, name);
    json_decref(records);
    json_decref(*nodes);
    rv = cli_ask_all(cli, "transaction", args_of(name, *participants, trace), nodes);
    if (rv != 0) {
        json_decref(*participants);
        return cli_fail(cli, rv, cli->argv[0]);
    }
    size_t i;
    const json_t *node;
    json_array_foreach(*nodes, i, node)
    {
        if (!json_is_true(json_object_get(node, "reachable"))) {
            cli_warn(cli, "node %s can't be reached: %s",
                     json_string_value(json_object_get(node, "node")),
                     json_string_value(json_object_get(node, "error")));
        }
    }
    return 0;
}

static const char *text_of(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    return text == NULL ? "" : text;
}

/* Why it isn't decided, of one participant. */
static void add_reason(json_t *reasons, const char *uid, const char *what)
{
    char text[160];
    (void)snprintf(text, sizeof text, "shard %s: %s", uid, what);
    json_array_append_new(reasons, json_string(text));
}

/* A row for each participant, with and without a record; *in_doubt: one is prepared. */
static json_t *rows_of(const json_t *records, const json_t *participants, json_t *reasons,
                       bool *in_doubt, bool *known)
{
    json_t *rows = json_array();
    size_t i;
    const json_t *uid;
    json_array_foreach(participants, i, uid)
    {
        const char *text = json_string_value(uid);
        const json_t *record = row_of(records, text);
        const char *state = record == NULL ? "no leader answers" : text_of(record, "state");
        if (record == NULL) {
            json_array_append_new(rows, json_pack("{s:s,s:s}", "uid", text, "state", state));
            add_reason(reasons, text, "no leader answers");
            continue;
        }
        json_array_append(rows, (json_t *)record);
        *in_doubt = *in_doubt || strcmp(state, "in doubt") == 0;
        *known = *known || strcmp(state, "no record") != 0;
        if (strcmp(state, "no record") == 0) {
            add_reason(reasons, text, "it has not prepared, or has forgotten");
        } else if (strcmp(state, "committed") == 0) {
            add_reason(reasons, text, "has committed; the others are being told");
        } else if (strcmp(state, "refused") == 0) {
            add_reason(reasons, text, "has refused; the others are being told");
        }
    }
    return rows;
}

static json_t *data_of(const char *id, json_t *rows, json_t *work, json_t *reasons, bool in_doubt)
{
    if (in_doubt && json_array_size(work) == 0) {
        json_array_append_new(
            reasons, json_string("no node is at work on it: its shards' leaders look for such "
                                 "transactions and recover them after 2 s"));
    }
    if (!in_doubt) {
        json_array_clear(reasons);
    }
    return json_pack("{s:s,s:b,s:o,s:o,s:o}", "transaction", id, "in_doubt", in_doubt, "shards",
                     rows, "work", work, "reasons", reasons);
}

static void say_more(const json_t *work, const json_t *reasons)
{
    size_t i;
    size_t k;
    const json_t *row;
    const json_t *shard;
    json_array_foreach(work, i, row)
    {
        printf("%s on %s: %s:", text_of(row, "purpose"), text_of(row, "node"),
               text_of(row, "state"));
        json_array_foreach(json_object_get(row, "shards"), k, shard)
        {
            printf(" %s %s", text_of(shard, "uid"), text_of(shard, "vote"));
        }
        printf("\n");
    }
    json_array_foreach(reasons, i, row)
    {
        printf("in doubt: %s\n", json_string_value(row));
    }
}

/* Nobody who answers knows it. That is the truth only if all were asked whose it might be. Exit
 * code, said already; 0: they were. */
static int ask_for_silent(struct cli *cli, const struct name *name, const json_t *nodes,
                          const json_t *leaders)
{
    char home[24];
    size_t i;
    size_t unreachable = 0;
    const json_t *node;
    json_t *replicas = NULL;
    json_array_foreach(nodes, i, node)
    {
        if (!json_is_true(json_object_get(node, "reachable"))) {
            return cli_error(cli, CAIRN_E_UNAVAILABLE,
                             "nobody who answers knows transaction %s, and node %s doesn't answer: "
                             "cairnctl status",
                             cli->argv[0], json_string_value(json_object_get(node, "node")));
        }
    }
    (void)snprintf(home, sizeof home, "%" PRIu64, name->home);
    if (row_of(leaders, home) != NULL) {
        return 0;
    }
    int code = cli_collect(cli, "shards", json_object(), "shards", &replicas, &unreachable);
    if (code == 0 && row_of(replicas, home) != NULL) {
        code = cli_error(cli, CAIRN_E_UNAVAILABLE,
                         "shard %s, the home of transaction %s, has no leader now: "
                         "cairnctl shard ls",
                         home, cli->argv[0]);
    }
    json_decref(replicas);
    return code;
}

int verb_tx_show(struct cli *cli)
{
    static const struct cli_column columns[] = {{"SHARD", "uid", true},
                                                {"STATE", "state", false},
                                                {"AGE MS", "age_ms", true},
                                                {"ITEMS", "items", true},
                                                {"PREPARED", "prepared_at", true},
                                                {"COMMITTED", "committed_at", true},
                                                {"DEADLINE", "deadline", true},
                                                {"REASON", "reason", false},
                                                {"LEADER", "node", false}};
    struct name name;
    json_t *nodes = NULL;
    json_t *participants = NULL;
    if (cli->argc != 1 || !name_parse(cli->argv[0], &name)) {
        return cli_usage(cli, "tx show ID   (as tx ls or tx commit print it)");
    }
    int code = ask(cli, &name, false, &nodes, &participants);
    if (code != 0) {
        return code;
    }
    bool in_doubt = false;
    bool known = false;
    json_t *records = gather(nodes, "records");
    json_t *work = gather(nodes, "work");
    json_t *reasons = json_array();
    json_t *rows = rows_of(records, participants, reasons, &in_doubt, &known);
    bool found = known || json_array_size(work) > 0;
    code = found ? 0 : ask_for_silent(cli, &name, nodes, records);
    if (!found && code == 0) {
        code = cli_error(cli, CAIRN_E_NOTFOUND,
                         "no shard remembers transaction %s: records go about 5 s after the "
                         "outcome; `cairnctl tx outcome ID` asks its home, `cairnctl tx trace` "
                         "the logs",
                         cli->argv[0]);
    }
    json_decref(records);
    json_decref(participants);
    json_decref(nodes);
    if (code != 0) {
        json_decref(rows);
        json_decref(work);
        json_decref(reasons);
        return code;
    }
    json_t *data = json_incref(data_of(cli->argv[0], rows, work, reasons, in_doubt));
    cli_answer(cli, data, rows, columns, sizeof columns / sizeof columns[0], NULL);
    if (cli->format == FORMAT_TABLE) {
        say_more(work, reasons);
    }
    json_decref(data);
    return EXIT_OK;
}

/* ---- trace ---- */

static uint64_t number_of(const json_t *row, const char *key)
{
    return strtoull(text_of(row, key), NULL, 10);
}

/* By time; of one shard by place in its log, which time agrees with. */
static int by_stamp(const void *a, const void *b)
{
    const json_t *const *x = a;
    const json_t *const *y = b;
    uint64_t p = number_of(*x, "stamp");
    uint64_t q = number_of(*y, "stamp");
    if (p != q) {
        return p < q ? -1 : 1;
    }
    p = number_of(*x, "index");
    q = number_of(*y, "index");
    return p < q ? -1 : p > q ? 1 : 0;
}

static json_t *sorted(const json_t *steps)
{
    size_t count = json_array_size(steps);
    json_t *out = json_array();
    json_t **rows = calloc(count == 0 ? 1 : count, sizeof(json_t *));
    if (rows == NULL) {
        return out;
    }
    for (size_t i = 0; i < count; i++) {
        rows[i] = json_array_get(steps, i);
    }
    qsort(rows, count, sizeof(json_t *), by_stamp);
    for (size_t i = 0; i < count; i++) {
        json_object_set_new(rows[i], "time", cli_time(number_of(rows[i], "stamp")));
        json_array_append(out, rows[i]);
    }
    free(rows);
    return out;
}

int verb_tx_trace(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"TIME", "time", false},           {"SHARD", "uid", true},
        {"INDEX", "index", true},          {"TERM", "term", true},
        {"STEP", "step", false},           {"ITEMS", "items", true},
        {"VERSION", "committed_at", true}, {"REASON", "reason", false},
        {"LEADER", "node", false}};
    struct name name;
    json_t *nodes = NULL;
    json_t *participants = NULL;
    if (cli->argc != 1 || !name_parse(cli->argv[0], &name)) {
        return cli_usage(cli, "tx trace ID   (as tx ls or tx commit print it)");
    }
    int code = ask(cli, &name, true, &nodes, &participants);
    if (code != 0) {
        return code;
    }
    json_t *steps = gather(nodes, "steps");
    json_t *logs = gather(nodes, "logs");
    json_t *rows = sorted(steps);
    json_decref(steps);
    json_decref(participants);
    code = json_array_size(rows) > 0 ? 0 : ask_for_silent(cli, &name, nodes, logs);
    json_decref(nodes);
    size_t i;
    const json_t *log;
    json_array_foreach(logs, i, log)
    {
        if (text_of(log, "error")[0] != 0) {
            cli_warn(cli, "the log of shard %s can't be read: %s", text_of(log, "uid"),
                     text_of(log, "error"));
        }
    }
    if (json_array_size(rows) == 0) {
        json_decref(rows);
        json_decref(logs);
        return code != 0
                   ? code
                   : cli_error(
                         cli, CAIRN_E_NOTFOUND,
                         "no shard's log has anything of transaction %s any more: logs are cut "
                         "when checkpoints are made, and the newest 8192 entries are looked at",
                         cli->argv[0]);
    }
    cli_answer(cli,
               json_pack("{s:s,s:O,s:o}", "transaction", cli->argv[0], "steps", rows, "logs", logs),
               rows, columns, sizeof columns / sizeof columns[0], NULL);
    json_decref(rows);
    return EXIT_OK;
}
