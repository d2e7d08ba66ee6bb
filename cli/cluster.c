/* status, node, shard, replica: what the nodes say of themselves. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"

#define COLUMNS(table) table, sizeof table / sizeof table[0]

static json_int_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* ---- status ---- */

struct overview {
    json_t *data; /* {"state", "cluster", "nodes": [...], "shards": n, ...} */
    json_t *rows; /* borrowed: data.nodes */
    bool healthy;
    char line[256];
};

/* What is wrong with a node that answers, in words; "" if nothing is. */
static void findings(json_t *answer, char out[160])
{
    int at = 0;
    json_int_t without = number(answer, "shards") - number(answer, "with_leader");
    out[0] = 0;
    if (strcmp(json_string_value(json_object_get(answer, "phase")), "running") != 0) {
        at += snprintf(out + at, 160 - (size_t)at, "not running; ");
    }
    if (number(answer, "failed") > 0) {
        at += snprintf(out + at, 160 - (size_t)at, "%lld shards failed; ",
                       (long long)number(answer, "failed"));
    }
    if (without > 0) {
        at += snprintf(out + at, 160 - (size_t)at, "%lld shards without leader; ",
                       (long long)without);
    }
    if (json_is_true(json_object_get(answer, "disk_full"))) {
        at += snprintf(out + at, 160 - (size_t)at, "disk full; ");
    }
    if (json_is_true(json_object_get(answer, "clock_off"))) {
        /* The offset says where the others are. */
        json_int_t ms = -number(answer, "clock_offset_ms");
        at += snprintf(out + at, 160 - (size_t)at, "clock off by %+lld ms; ", (long long)ms);
    }
    if (at > 0) {
        out[at - 2] = 0;
    }
}

/* HEALTHY: every node reachable and running, every shard has a leader that serves, none failed, no
 * disk full, no clock off. */
static int look(struct cli *cli, struct overview *out)
{
    json_t *nodes = NULL;
    json_t *row;
    size_t i;
    size_t reachable = 0;
    json_int_t shards = 0;
    json_int_t leading = 0;
    int alarms = 0;
    const char *cluster = "";
    const char *version = "";

    int rv = cli_ask_all(cli, "status", NULL, &nodes);
    if (rv != 0) {
        return rv;
    }
    json_array_foreach(nodes, i, row)
    {
        json_t *answer = json_object_get(row, "answer");
        if (answer == NULL) {
            alarms++;
            json_object_set_new(row, "phase", json_string("unreachable"));
            continue;
        }
        char arena[32];
        json_t *wal = json_object_get(answer, "wal");
        reachable++;
        cluster = json_string_value(json_object_get(answer, "cluster"));
        version = json_string_value(json_object_get(answer, "version"));
        if (number(answer, "shards") > shards) {
            shards = number(answer, "shards");
        }
        leading += number(answer, "leading");
        char text[160];
        findings(answer, text);
        alarms += text[0] != 0;
        json_object_set_new(row, "finding", json_string(text));
        cli_bytes((uint64_t)number(wal, "disk_bytes"), arena);
        json_object_set(row, "phase", json_object_get(answer, "phase"));
        json_object_set(row, "storage", json_object_get(answer, "storage"));
        json_object_set(row, "shards", json_object_get(answer, "shards"));
        json_object_set(row, "leading", json_object_get(answer, "leading"));
        json_object_set(row, "failed", json_object_get(answer, "failed"));
        json_object_set_new(row, "busy", json_integer(number(answer, "busy_permille") / 10));
        json_object_set_new(row, "log", json_string(arena));
        json_object_set(row, "sync_us_p99", json_object_get(wal, "sync_us_p99"));
    }
    /* Shards of a heap with fewer replicas than nodes stand on some nodes only, so that leaders may
     * outnumber them. */
    out->healthy =
        alarms == 0 && reachable == json_array_size(nodes) && leading >= shards && shards > 0;
    const char *state = out->healthy                             ? "HEALTHY"
                        : reachable * 2 > json_array_size(nodes) ? "DEGRADED"
                                                                 : "UNAVAILABLE";
    (void)snprintf(out->line, sizeof out->line,
                   "cluster %s   %s   %zu/%zu nodes   %lld shards led   %d alarms   v%s", cluster,
                   state, reachable, json_array_size(nodes), (long long)leading, alarms, version);
    out->data = json_pack("{s:s,s:s,s:i,s:i,s:I,s:i,s:o}", "state", state, "cluster", cluster,
                          "nodes_reachable", (int)reachable, "nodes_configured",
                          (int)json_array_size(nodes), "shards_led", leading, "alarms", alarms,
                          "nodes", nodes);
    out->rows = nodes;
    return 0;
}

int verb_status(struct cli *cli)
{
    static const struct cli_column columns[] = {{"NODE", "node", false},
                                                {"ADDRESS", "address", false},
                                                {"STATE", "phase", false},
                                                {"SHARDS", "shards", true},
                                                {"LEADS", "leading", true},
                                                {"BUSY %", "busy", true},
                                                {"FAILED", "failed", true},
                                                {"LOG", "log", true},
                                                {"SYNC p99 us", "sync_us_p99", true},
                                                {"STORAGE", "storage", false},
                                                {"FINDING", "finding", false}};
    struct overview view = {0};
    if (cli->wait != NULL && !cli->timeout_given) {
        cli->timeout_ms = 60000;
    }
    if (cli->argc != 0 || (cli->wait != NULL && strcmp(cli->wait, "healthy") != 0)) {
        return cli_usage(cli, "status [--wait healthy] [--timeout SECONDS]");
    }
    int rv = cli_connect(cli);
    while (rv == 0) {
        rv = look(cli, &view);
        if (cli->wait == NULL || (rv == 0 && view.healthy)) {
            break;
        }
        if (cli_is_over(cli)) {
            if (rv == 0) {
                json_decref(view.data);
            }
            return cli_error(cli, CAIRN_E_TIMEOUT, "not healthy in time: %s",
                             rv == 0 ? view.line : cairn_errormsg());
        }
        if (rv == 0) {
            json_decref(view.data);
        }
        nanosleep(&(struct timespec){0, 200000000}, NULL);
        rv = 0;
    }
    if (rv != 0) {
        return cli->client == NULL ? cli_exit_of(rv) : cli_fail(cli, rv, "status");
    }
    cli_answer(cli, view.data, view.rows, COLUMNS(columns), view.line);
    return view.healthy ? EXIT_OK : EXIT_FINDINGS;
}

/* ---- node ---- */

int verb_node_ls(struct cli *cli)
{
    static const struct cli_column columns[] = {{"NODE", "node", false},
                                                {"ADDRESS", "address", false},
                                                {"REACHABLE", "reachable", false},
                                                {"ERROR", "error", false}};
    json_t *nodes = NULL;
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, "status", NULL, &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, "node ls");
    }
    cli_answer(cli, json_pack("{s:o}", "nodes", nodes), nodes, COLUMNS(columns), NULL);
    return EXIT_OK;
}

int verb_node_storage(struct cli *cli)
{
    static const struct cli_column columns[] = {{"NODE", "node", false},
                                                {"STORAGE", "storage", false},
                                                {"SYNC p50 us", "sync_us_p50", true},
                                                {"SYNC p99 us", "sync_us_p99", true},
                                                {"LOG WRITES", "writes", true},
                                                {"LOG BYTES", "bytes_written", true},
                                                {"SEGMENTS", "segments", true},
                                                {"FREE", "free", true},
                                                {"NEEDED", "needed", true},
                                                {"ROOM", "has_room", false}};
    json_t *nodes = NULL;
    json_t *row;
    size_t i;
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, "status", NULL, &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, "node storage");
    }
    json_array_foreach(nodes, i, row)
    {
        json_t *answer = json_object_get(row, "answer");
        if (answer != NULL) {
            json_object_set(row, "storage", json_object_get(answer, "storage"));
            json_object_update(row, json_object_get(answer, "wal"));
            char text[32];
            cli_bytes((uint64_t)number(answer, "disk_free_bytes"), text);
            json_object_set_new(row, "free", json_string(text));
            cli_bytes((uint64_t)number(answer, "disk_needed_bytes"), text);
            json_object_set_new(row, "needed", json_string(text));
        }
    }
    cli_answer(cli, json_pack("{s:o}", "nodes", nodes), nodes, COLUMNS(columns), NULL);
    return EXIT_OK;
}

/* ---- shard ---- */

static json_t *shard_args(struct cli *cli, bool digest)
{
    json_t *args = json_object();
    if (cli->argc > 0) {
        json_object_set_new(args, "heap", json_string(cli->argv[0]));
    }
    json_object_set_new(args, "digest", json_boolean(digest));
    return args;
}

/* One row per replica. Exit code, said already. */
static int collect_shards(struct cli *cli, bool digest, json_t **rows, size_t *unreachable)
{
    return cli_collect(cli, "shards", shard_args(cli, digest), "shards", rows, unreachable);
}

int verb_shard_ls(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"SHARD", "uid", true},       {"HEAP", "heap_id", true},
        {"INDEX", "shard", true},     {"NODE", "node", false},
        {"STATE", "state", false},    {"LEADER", "leader", false},
        {"TERM", "term", true},       {"APPLIED", "applied_index", true},
        {"LAST", "last_index", true}, {"CHECKPOINT", "checkpoint_index", true},
        {"VOTERS", "voters", true},   {"SESSIONS", "sessions", true}};
    json_t *rows = NULL;
    size_t unreachable = 0;
    if (cli->argc > 1) {
        return cli_usage(cli, "shard ls [HEAP]");
    }
    int code = collect_shards(cli, false, &rows, &unreachable);
    if (code == 0) {
        cli_answer(cli, json_pack("{s:o}", "replicas", rows), rows, COLUMNS(columns), NULL);
    }
    return code;
}

/* ---- replica check: equal digests at equal indexes ---- */

static json_t *judge(json_t *rows, size_t *pending, size_t *different)
{
    json_t *shards = json_object();
    json_t *row;
    size_t i;
    const char *uid;
    *pending = 0;
    *different = 0;
    json_array_foreach(rows, i, row)
    {
        uid = json_string_value(json_object_get(row, "uid"));
        json_t *shard = json_object_get(shards, uid);
        if (shard == NULL) {
            shard = json_pack(
                "{s:s,s:O,s:O,s:O,s:i,s:i,s:s}", "uid", uid, "shard", json_object_get(row, "shard"),
                "digest",
                json_object_get(row, "digest") ? json_object_get(row, "digest") : json_null(),
                "index",
                json_object_get(row, "digest_index") ? json_object_get(row, "digest_index")
                                                     : json_null(),
                "voters", (int)number(row, "voters"), "replicas", 0, "verdict", "equal");
            json_object_set_new(shards, uid, shard);
        }
        json_object_set_new(shard, "replicas", json_integer(number(shard, "replicas") + 1));
        if (!json_equal(json_object_get(row, "digest_index"), json_object_get(shard, "index"))) {
            json_object_set_new(shard, "verdict", json_string("moving"));
        } else if (!json_equal(json_object_get(row, "digest"), json_object_get(shard, "digest"))) {
            json_object_set_new(shard, "verdict", json_string("DIFFERENT"));
        }
    }
    json_t *list = json_array();
    json_object_foreach(shards, uid, row)
    {
        const char *verdict = json_string_value(json_object_get(row, "verdict"));
        if (strcmp(verdict, "equal") == 0 && (json_is_null(json_object_get(row, "digest")) ||
                                              number(row, "replicas") < number(row, "voters"))) {
            json_object_set_new(row, "verdict", json_string("incomplete"));
            verdict = "incomplete";
        }
        *different += strcmp(verdict, "DIFFERENT") == 0;
        *pending += strcmp(verdict, "moving") == 0 || strcmp(verdict, "incomplete") == 0;
        json_array_append(list, row);
    }
    json_decref(shards);
    return list;
}

int verb_replica_check(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"SHARD", "uid", true},         {"INDEX IN HEAP", "shard", true},
        {"REPLICAS", "replicas", true}, {"AT INDEX", "index", true},
        {"DIGEST", "digest", false},    {"VERDICT", "verdict", false}};
    cli->timeout_ms = cli->timeout_given ? cli->timeout_ms : 10000;
    if (cli->argc > 1) {
        return cli_usage(cli, "replica check [HEAP] [--timeout SECONDS]");
    }
    for (;;) {
        json_t *rows = NULL;
        size_t unreachable = 0;
        size_t pending = 0;
        size_t different = 0;
        int code = collect_shards(cli, true, &rows, &unreachable);
        if (code != 0) {
            return code;
        }
        json_t *list = judge(rows, &pending, &different);
        json_decref(rows);
        /* Replicas move on while they are asked one after another: ask again until all stand at one
         * index. */
        if (different == 0 && (pending > 0 || unreachable > 0) && !cli_is_over(cli)) {
            json_decref(list);
            json_array_clear(cli->warnings);
            nanosleep(&(struct timespec){0, 100000000}, NULL);
            continue;
        }
        size_t total = json_array_size(list);
        char line[160];
        (void)snprintf(line, sizeof line, "%zu/%zu shards: all replicas equal%s",
                       total - pending - different, total,
                       different > 0 ? "; DIVERGENCE FOUND"
                       : pending > 0 ? "; the rest could not be compared in time"
                                     : "");
        cli_answer(cli,
                   json_pack("{s:o,s:i,s:i}", "shards", list, "different", (int)different,
                             "pending", (int)pending),
                   list, COLUMNS(columns), line);
        return different > 0                    ? EXIT_INTEGRITY
               : pending > 0 || unreachable > 0 ? EXIT_FINDINGS
                                                : EXIT_OK;
    }
}
