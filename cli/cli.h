/* cairnctl: shared by its files. One file per noun; every verb is a function of a table in main.c.
 *
 * Rules (exit codes, envelope, what goes where): docs/cli.md. stdout is data, stderr is for people.
 */
#ifndef CAIRN_CLI_CLI_H
#define CAIRN_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cairn/tx.h>

enum cli_exit {
    EXIT_OK = 0,
    EXIT_UNEXPECTED = 1,
    EXIT_USAGE = 2,
    EXIT_NOTFOUND = 3,
    EXIT_CONFLICT = 4,
    EXIT_FINDINGS = 5,
    EXIT_DENIED = 6,
    EXIT_UNAVAILABLE = 7,
    EXIT_EXHAUSTED = 8,
    EXIT_INTEGRITY = 9,
    EXIT_STALE = 10
};

#define OFFLINE_BYTES_MAX 956 /* --offline DIR: no longer one has a log that can be opened */

enum cli_format { FORMAT_TABLE, FORMAT_JSON, FORMAT_DOT };

struct cli {
    const char *endpoints, *ca, *cert, *key;
    enum cli_format format;
    uint32_t timeout_ms;
    bool timeout_given;
    const char *offline;
    bool yes, dry_run, in_doubt;
    /* options of verbs; NULL or 0: not given */
    const char *wait, *data, *hex, *file, *by, *at, *isolation, *retention;
    uint64_t size, offset, len, from, to, uid;
    bool size_given, len_given, to_given, depth_given;
    uint32_t shards, replicas, type, depth;
    const char *path;
    const char *from_text, *object, *root, *roots; /* watch */
    const char *field;                             /* obj show */
    uint64_t count, limit;                         /* limit 0: all */
    bool type_given;
    const char *type_name; /* --type said so; cli_take_type() */

    const char *kind; /* "noun.verb", of the envelope */
    int argc;         /* what stands behind noun and verb */
    char **argv;

    cairn_client *client;
    uint64_t until_ms; /* monotonic: the end of the verb's time; 0: it hasn't begun */
    json_t *warnings;
    json_t *noted; /* warnings that were printed, also those that a later try took back */
};

/* ---- cli.c ---- */

/* Connects at the first call, with which the verb's time begins. 0 or CAIRN_E_*, said already. */
int cli_connect(struct cli *cli);
/* What is left of timeout_ms, at least 1. */
uint32_t cli_left_ms(struct cli *cli);
/* Is too little left for asking everybody once more? */
bool cli_is_over(struct cli *cli);
/* It begins anew: a person was asked, or there was work of many calls, each with a time of its own.
 */
void cli_restart(struct cli *cli);
/* Says the SDK's last failure (on stderr, or in the envelope) and returns the exit code for it.
 * what: "heap create bank". */
int cli_fail(struct cli *cli, int code, const char *what);
/* The same with a sentence of our own. */
int cli_error(struct cli *cli, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int cli_usage(struct cli *cli, const char *usage);
int cli_exit_of(int code);
void cli_warn(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string of bytes that needn't be UTF-8, as names are: then "\\xff" stands for what isn't.
 */
json_t *cli_text(const char *text);
/* For a terminal: "\\xff" stands for bytes that aren't text, that steer one, or that it can't show.
 */
void cli_print_plain(FILE *file, const char *text);
/* Versions, ids and pointers are strings: a JSON number keeps 53 bits in many a reader. */
json_t *cli_u64(uint64_t value);
json_t *cli_ptr(cairn_ptr ptr);
/* A version as a time, which --at takes: "2026-03-02T09:14:42.050Z". obj.c. */
json_t *cli_time(uint64_t version);

/* One column of a table: a title, and the key of the row's object that it shows. */
struct cli_column {
    const char *title, *key;
    bool right;
};
/* Prints the answer and takes data: in json the envelope; as a table `rows` (borrowed, an array
 * inside data) with columns, or, when rows is NULL, `line` if that isn't NULL. */
void cli_answer(struct cli *cli, json_t *data, const json_t *rows, const struct cli_column *columns,
                size_t count, const char *line);
/* Asks one node (NULL: any); *out is given. Exit code 0 or CAIRN_E_* (not said). This and the
 * others that ask keep to the verb's time. */
int cli_ask(struct cli *cli, const char *node, const char *verb, json_t *args, json_t **out);
/* A row per configured node: {"node", "reachable", "answer": {...} or "error"}. Takes args; *out is
 * given. All are asked at once; who is silent takes the verb's time but for a little, in which the
 * others can be asked something else. */
int cli_ask_all(struct cli *cli, const char *verb, json_t *args, json_t **out);
/* The same, within so much time. */
int cli_ask_all_in(struct cli *cli, uint32_t timeout_ms, const char *verb, json_t *args,
                   json_t **out);
/* NULL: a node answers, or none says that there is no such thing. Else what it says (in nodes, as
 * of cli_ask_all). One that is behind, or has no catalogue, mustn't be believed against the others.
 */
const char *cli_nobody_knows(const json_t *nodes);
/* Asks all nodes; *rows (given): the elements of the array `key` of their answers, each with
 * "node". *unreachable: how many didn't answer, said as warnings. Takes args. Exit code, said
 * already. */
int cli_collect(struct cli *cli, const char *verb, json_t *args, const char *key, json_t **rows,
                size_t *unreachable);
/* "12.5 MiB" */
void cli_bytes(uint64_t bytes, char out[32]);
/* HEAP/ROOT or HEAP/POINTER: opens the heap, finds the pointer. Exit code; failure is said already.
 */
int cli_object(struct cli *cli, const char *text, cairn_heap **heap, cairn_ptr *ptr);
/* The same, with the root as it was at a version; 0: now. */
int cli_object_at(struct cli *cli, const char *text, uint64_t at, cairn_heap **heap,
                  cairn_ptr *ptr);
/* --data, --hex or --file: *bytes is given (free). *len 0 and *bytes NULL when none was given. Exit
 * code, said already. */
int cli_payload(struct cli *cli, void **bytes, size_t *len);
/* --off and --len of an object of `size` bytes; without --len up to its end. Exit code, said
 * already. */
int cli_range(struct cli *cli, uint64_t size, uint64_t *len);
/* Prints bytes of an object, from --off on: as a dump, or in hex. obj.c. */
void cli_answer_bytes(struct cli *cli, cairn_ptr ptr, uint64_t version, const uint8_t *bytes,
                      size_t len);
bool cli_confirm(struct cli *cli, const char *question);
/* --at: a version in decimal, or a time, with or without @ before it: 2026-03-02T09:14:42Z,
 * 2026-03-02T10:14:42+01:00, 09:14:42.050 of today in UTC, -10s, @now; 0 when it wasn't given. Exit
 * code, said already. */
int cli_version(struct cli *cli, uint64_t *version);
/* A root as of a version; 0: now. 0 or CAIRN_E_*, not said. */
int cli_root_at(cairn_heap *heap, const char *name, uint64_t at, cairn_ptr *ptr);
/* A transaction that reads as of a version; 0: the newest of everything. */
int cli_tx_at(cairn_heap *heap, uint64_t at, cairn_tx **tx);
/* "0", "500ms", "30s", "10m", "1h", "7d". */
bool cli_duration(const char *text, uint64_t *ms);

/* ---- stats.c, check.c: answers that online and offline verbs share; rows as a node's `inspect`
 * has them, each with "node" ---- */

int cli_answer_stats(struct cli *cli, const char *heap, json_t *rows);
int cli_answer_check(struct cli *cli, const char *heap, json_t *rows, size_t unchecked);
int cli_answer_types(struct cli *cli, const char *heap, const json_t *rows, const json_t *names);
void cli_answer_map(struct cli *cli, const char *heap, json_t *rows);

/* ---- verbs ---- */

int verb_status(struct cli *cli);
int verb_watch(struct cli *cli);
int verb_heap_create(struct cli *cli);
int verb_heap_ls(struct cli *cli);
int verb_heap_rm(struct cli *cli);
int verb_heap_stats(struct cli *cli);
int verb_heap_get(struct cli *cli);
int verb_heap_set(struct cli *cli);
int verb_heap_map(struct cli *cli);
int verb_heap_check(struct cli *cli);
int verb_heap_defrag(struct cli *cli);
int verb_heap_shrink(struct cli *cli);
int verb_checkpoint_now(struct cli *cli);
/* --type as a name: cli->type is what the heap calls so. An exit code, said already, or 0. */
int cli_take_type(struct cli *cli, const char *heap);
int verb_type_ls(struct cli *cli);
int verb_type_show(struct cli *cli);
int verb_type_register(struct cli *cli);
int verb_shard_ls(struct cli *cli);
int verb_replica_check(struct cli *cli);
int verb_node_ls(struct cli *cli);
int verb_node_storage(struct cli *cli);
int verb_root_ls(struct cli *cli);
int verb_root_get(struct cli *cli);
int verb_root_set(struct cli *cli);
int verb_root_rm(struct cli *cli);
int verb_obj_alloc(struct cli *cli);
int verb_obj_read(struct cli *cli);
int verb_obj_write(struct cli *cli);
int verb_obj_free(struct cli *cli);
int verb_obj_stat(struct cli *cli);
int verb_obj_show(struct cli *cli);
int verb_obj_history(struct cli *cli);
int verb_obj_blame(struct cli *cli);
int verb_obj_realloc(struct cli *cli);
int verb_graph_fetch(struct cli *cli);
int verb_obj_rollback(struct cli *cli);
int verb_ptr_decode(struct cli *cli);
int verb_ptr_swap(struct cli *cli);
int verb_tx_begin(struct cli *cli);
int verb_tx_read(struct cli *cli);
int verb_tx_write(struct cli *cli);
int verb_tx_root_set(struct cli *cli);
int verb_tx_commit(struct cli *cli);
int verb_tx_outcome(struct cli *cli);
int verb_tx_ls(struct cli *cli);
int verb_tx_show(struct cli *cli);
int verb_tx_trace(struct cli *cli);
int verb_tx_stats(struct cli *cli);
int verb_tx_abort(struct cli *cli);
int verb_log_dump(struct cli *cli);
int verb_version(struct cli *cli);
int verb_completion(struct cli *cli);
/* The verbs above with --offline DIR (offline_heap.c). */
int offline_heap_check(struct cli *cli);
int offline_heap_stats(struct cli *cli);
int offline_heap_map(struct cli *cli);

/* The table of verbs, for help and completion. */
struct cli_verb {
    const char *noun, *verb; /* verb "": the noun stands alone */
    int (*run)(struct cli *cli);
    const char *arguments, *help;
};
extern const struct cli_verb cli_verbs[];
extern const size_t cli_verb_count;

#endif
