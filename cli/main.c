/* cairnctl: options, the table of verbs, help and completion. */
#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

const struct cli_verb cli_verbs[] = {
    {"status", "", verb_status, "[--wait healthy] [--timeout SECONDS]",
     "the cluster on one screen"},
    {"node", "ls", verb_node_ls, "", "the nodes, and which can be reached"},
    {"node", "storage", verb_node_storage, "", "storage mode, log and sync times of every node"},
    {"heap", "create", verb_heap_create,
     "NAME [--shards N] [--replicas N] [--size BYTES] [--retention 10m]", "create a heap"},
    {"heap", "ls", verb_heap_ls, "", "the heaps of the cluster"},
    {"heap", "rm", verb_heap_rm, "NAME [--yes] [--dry-run]", "remove a heap and all its objects"},
    {"heap", "get", verb_heap_get, "HEAP", "settings of a heap"},
    {"heap", "set", verb_heap_set, "HEAP retention=10m", "how far back versions can be read"},
    {"heap", "stats", verb_heap_stats, "HEAP [--by class|type] [--offline DATA_DIR [--shard UID]]",
     "objects, bytes, fragmentation and space of each shard"},
    {"heap", "map", verb_heap_map, "HEAP [--offline DATA_DIR [--shard UID]]",
     "a picture of how full which part of the arena is"},
    {"heap", "check", verb_heap_check, "HEAP [--offline DATA_DIR [--shard UID]]",
     "verify every structure of every replica; dangling pointers"},
    {"heap", "defrag", verb_heap_defrag, "HEAP", "move objects together"},
    {"heap", "shrink", verb_heap_shrink, "HEAP", "give free space at the end back"},
    {"type", "ls", verb_type_ls, "HEAP", "registered types"},
    {"type", "show", verb_type_show, "HEAP NAME|NUMBER", "the fields of one type"},
    {"type", "register", verb_type_register,
     "HEAP NAME FIELD:KIND[*COUNT][=TARGET][@OFFSET]... [--type N] [--size BYTES]",
     "describe a type, or extend it"},
    {"shard", "ls", verb_shard_ls, "[HEAP]",
     "every replica of every shard: state, leader, indexes"},
    {"replica", "check", verb_replica_check, "[HEAP] [--timeout SECONDS]",
     "are all replicas equal at one index?"},
    {"root", "ls", verb_root_ls, "HEAP [--at VERSION|TIME]", "names and what they point at"},
    {"root", "get", verb_root_get, "HEAP NAME [--at VERSION|TIME]", "the pointer of one name"},
    {"root", "set", verb_root_set, "HEAP NAME POINTER", "point a name at an object"},
    {"root", "rm", verb_root_rm, "HEAP NAME [--dry-run]", "remove a name (the object stays)"},
    {"obj", "alloc", verb_obj_alloc,
     "HEAP [--size BYTES] [--type NAME|N] [--data TEXT|--hex HEX|--file PATH]", "allocate"},
    {"obj", "read", verb_obj_read,
     "HEAP/ROOT|HEAP/POINTER [--off N] [--len N] [--file PATH] [--at VERSION|TIME]", "read bytes"},
    {"obj", "show", verb_obj_show, "HEAP/ROOT|HEAP/POINTER [--field NAME] [--at VERSION|TIME]",
     "the fields of an object by name"},
    {"obj", "history", verb_obj_history, "HEAP/ROOT|HEAP/POINTER [--limit N]",
     "what changed an object"},
    {"obj", "blame", verb_obj_blame, "HEAP/ROOT|HEAP/POINTER",
     "which change each byte of an object is of"},
    {"obj", "write", verb_obj_write,
     "HEAP/ROOT|HEAP/POINTER [--off N] --data TEXT|--hex HEX|--file PATH", "write bytes"},
    {"obj", "free", verb_obj_free, "HEAP/ROOT|HEAP/POINTER [--yes] [--dry-run]", "free an object"},
    {"obj", "stat", verb_obj_stat, "HEAP/ROOT|HEAP/POINTER [--at VERSION|TIME]",
     "size, type and version of an object"},
    {"obj", "realloc", verb_obj_realloc, "HEAP/ROOT|HEAP/POINTER BYTES",
     "change the size; the pointer stays"},
    {"obj", "rollback", verb_obj_rollback, "HEAP/ROOT|HEAP/POINTER --at VERSION|TIME",
     "give an object the bytes back that it had"},
    {"graph", "fetch", verb_graph_fetch,
     "HEAP/ROOT|HEAP/POINTER [--depth N] [--path FIELD.FIELD] [--size BYTES] [--at VERSION|TIME] "
     "[-o json|dot]",
     "an object and what its pointers lead to"},
    {"ptr", "decode", verb_ptr_decode, "POINTER|WORD", "take a pointer apart"},
    {"ptr", "swap", verb_ptr_swap, "HEAP ROOT|POINTER:OFFSET ROOT|POINTER:OFFSET",
     "exchange two pointers in one step"},
    {"tx", "begin", verb_tx_begin, "HEAP FILE [--isolation LEVEL] [--at VERSION|TIME]",
     "a transaction, kept in a file until it commits"},
    {"tx", "read", verb_tx_read, "FILE ROOT|POINTER [--off N] [--len N]", "read in a transaction"},
    {"tx", "write", verb_tx_write, "FILE ROOT|POINTER [--off N] --data TEXT|--hex HEX|--file PATH",
     "write in a transaction"},
    {"tx", "root-set", verb_tx_root_set, "FILE NAME POINTER",
     "set a name in a transaction; pointer 0 deletes it"},
    {"tx", "commit", verb_tx_commit, "FILE", "all of it, or nothing"},
    {"tx", "outcome", verb_tx_outcome, "ID", "what became of one; from then on it is known"},
    {"tx", "ls", verb_tx_ls, "[--in-doubt]",
     "what the shards remember of transactions over several"},
    {"tx", "show", verb_tx_show, "ID", "what each shard remembers of one, and why it is in doubt"},
    {"tx", "trace", verb_tx_trace, "ID", "what happened to one, step by step, from the logs"},
    {"tx", "stats", verb_tx_stats, "", "what every node has coordinated"},
    {"tx", "abort", verb_tx_abort, "FILE", "nothing of it"},
    {"watch", "", verb_watch,
     "HEAP [--object POINTER|--root NAME|--roots PREFIX|--type NAME|N] [--from "
     "TOKEN|VERSION|-10s|oldest] [--count N]",
     "changes as they happen, one line each"},
    {"checkpoint", "now", verb_checkpoint_now, "[HEAP]", "bring every replica's image up to date"},
    {"log", "dump", verb_log_dump, "--offline DATA_DIR [--shard UID] [--from INDEX] [--to INDEX]",
     "every record of a stopped node's log"},
    {"version", "", verb_version, "", "version of this program"},
    {"completion", "", verb_completion, "bash",
     "shell completion: source <(cairnctl completion bash)"},
};
const size_t cli_verb_count = sizeof cli_verbs / sizeof cli_verbs[0];

int verb_version(struct cli *cli)
{
    char line[64];
    (void)snprintf(line, sizeof line, "cairnctl %s", cairn_version());
    cli_answer(cli, json_pack("{s:s}", "version", cairn_version()), NULL, NULL, 0, line);
    return EXIT_OK;
}

/* ---- options ---- */

enum {
    KEY_CA = 256,
    KEY_CERT,
    KEY_KEY,
    KEY_OFFLINE,
    KEY_WAIT,
    KEY_SHARDS,
    KEY_REPLICAS,
    KEY_SIZE,
    KEY_TYPE,
    KEY_DATA,
    KEY_HEX,
    KEY_FILE,
    KEY_OFF,
    KEY_LEN,
    KEY_YES,
    KEY_DRY_RUN,
    KEY_IN_DOUBT,
    KEY_TIMEOUT,
    KEY_FROM,
    KEY_TO,
    KEY_SHARD,
    KEY_AT,
    KEY_ISOLATION,
    KEY_BY,
    KEY_RETENTION,
    KEY_DEPTH,
    KEY_PATH,
    KEY_OBJECT,
    KEY_ROOT,
    KEY_ROOTS,
    KEY_COUNT,
    KEY_FIELD,
    KEY_LIMIT
};

static const struct argp_option option_table[] = {
    {"endpoints", 'e', "HOST:PORT,...", 0, "nodes to try ($CAIRN_ENDPOINTS)", 0},
    {"ca", KEY_CA, "FILE", 0, "certificate of the CA ($CAIRN_CA)", 0},
    {"cert", KEY_CERT, "FILE", 0, "own certificate ($CAIRN_CERT)", 0},
    {"key", KEY_KEY, "FILE", 0, "own key ($CAIRN_KEY)", 0},
    {"output", 'o', "table|json|dot", 0, "form of the answer; default table; dot: graph fetch", 0},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "give up after this long; default 30", 0},
    {"offline", KEY_OFFLINE, "DIR", 0,
     "work on the data directory of a stopped node (heap check, "
     "stats, map; log dump)",
     0},
    {"help", 'h', NULL, 0, "this text; behind a verb: about that verb", 0},
    {"yes", KEY_YES, NULL, 0, "don't ask", 1},
    {"dry-run", KEY_DRY_RUN, NULL, 0, "say what would be done", 1},
    {"in-doubt", KEY_IN_DOUBT, NULL, 0, "only transactions that aren't decided", 1},
    {"wait", KEY_WAIT, "STATE", 0, "wait for this state (healthy)", 1},
    {"shards", KEY_SHARDS, "N", 0, "shards of a new heap; default 4", 1},
    {"replicas", KEY_REPLICAS, "N", 0, "replicas of each shard; default 3", 1},
    {"size", KEY_SIZE, "BYTES", 0, "K, M, G and MiB are understood", 1},
    {"type", KEY_TYPE, "NAME|N", 0, "type of an object: as it is registered, or its number", 1},
    {"data", KEY_DATA, "TEXT", 0, "bytes, as text", 1},
    {"hex", KEY_HEX, "HEX", 0, "bytes, in hex", 1},
    {"file", KEY_FILE, "PATH", 0, "bytes, from or to a file; - is standard input or output", 1},
    {"off", KEY_OFF, "N", 0, "offset in the object", 1},
    {"len", KEY_LEN, "N", 0, "length", 1},
    {"at", KEY_AT, "VERSION|TIME", 0,
     "as it was then: a version, 2026-03-02T09:14:42Z, 09:14:42 (today, UTC), -10s, @now", 1},
    {"isolation", KEY_ISOLATION, "LEVEL", 0,
     "of a transaction: serializable (default), snapshot, read-committed", 1},
    {"by", KEY_BY, "class|type", 0, "what to add up", 1},
    {"retention", KEY_RETENTION, "DURATION", 0, "history of a new heap: 30s, 10m, 1h; default 0",
     1},
    {"depth", KEY_DEPTH, "N", 0, "pointers to follow, at most", 1},
    {"path", KEY_PATH, "FIELD.FIELD", 0, "follow only these fields, one per hop", 1},
    {"shard", KEY_SHARD, "UID", 0, "only this shard", 1},
    {"from", KEY_FROM, "INDEX|TOKEN|VERSION|-10s", 0,
     "log dump: from this log index on; watch: from then on", 1},
    {"object", KEY_OBJECT, "POINTER", 0, "watch this object", 1},
    {"root", KEY_ROOT, "NAME", 0, "watch this name", 1},
    {"roots", KEY_ROOTS, "PREFIX", 0, "watch names that begin so", 1},
    {"field", KEY_FIELD, "NAME", 0, "obj show: only this field", 1},
    {"limit", KEY_LIMIT, "N", 0, "obj history: only the newest N changes", 1},
    {"count", KEY_COUNT, "N", 0, "watch: end after so many changes", 1},
    {"to", KEY_TO, "INDEX", 0, "up to this log index", 1},
    {0}};

int verb_completion(struct cli *cli)
{
    if (cli->argc != 1 || strcmp(cli->argv[0], "bash") != 0) {
        return cli_usage(cli, "completion bash");
    }
    printf("_cairnctl() {\n    local cur=${COMP_WORDS[COMP_CWORD]} words=() w i\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do w=${COMP_WORDS[i]}; [[ $w == -* ]] || "
           "words+=(\"$w\"); done\n"
           "    case \"${#words[@]}:${words[0]}:${words[1]}\" in\n    0:*) COMPREPLY=($(compgen -W "
           "\"");
    const char *last = "";
    for (size_t i = 0; i < cli_verb_count; i++) {
        if (strcmp(last, cli_verbs[i].noun) != 0) {
            printf("%s ", cli_verbs[i].noun);
        }
        last = cli_verbs[i].noun;
    }
    printf("\" -- \"$cur\")) ;;\n");
    for (size_t i = 0; i < cli_verb_count; i++) {
        if (cli_verbs[i].verb[0] == 0 ||
            (i > 0 && strcmp(cli_verbs[i - 1].noun, cli_verbs[i].noun) == 0)) {
            continue;
        }
        printf("    1:%s:*) COMPREPLY=($(compgen -W \"", cli_verbs[i].noun);
        for (size_t k = i; k < cli_verb_count && strcmp(cli_verbs[k].noun, cli_verbs[i].noun) == 0;
             k++) {
            printf("%s ", cli_verbs[k].verb);
        }
        printf("\" -- \"$cur\")) ;;\n");
    }
    printf(
        "    2:heap:[!cl]* | 2:heap:check | 2:type:* | 2:checkpoint:now | 2:shard:ls | 2:root:* | "
        "2:replica:check | 2:obj:alloc)\n"
        "        COMPREPLY=($(compgen -W \"$(cairnctl heap ls -o json 2>/dev/null |\n"
        "            sed -n 's/.*\"name\": \"\\([^\"]*\\)\".*/\\1/p')\" -- \"$cur\")) ;;\n"
        "    *) COMPREPLY=($(compgen -W \"");
    for (const struct argp_option *o = option_table; o->name != NULL; o++) {
        printf("--%s ", o->name);
    }
    printf("\" -- \"$cur\")) ;;\n    esac\n}\ncomplete -F _cairnctl cairnctl\n");
    return EXIT_OK;
}

struct words {
    struct cli *cli;
    char *words[160];
    int count;
    const struct argp_option *given[64]; /* options of verbs */
    size_t given_count;
    bool help;
    char problem[256]; /* the first thing wrong with the arguments; empty: none */
};

static void problem(struct argp_state *state, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void problem(struct argp_state *state, const char *format, ...)
{
    struct words *words = state->input;
    va_list args;
    if (words->problem[0] == 0) {
        va_start(args, format);
        vsnprintf(words->problem, sizeof words->problem, format, args);
        va_end(args);
    }
}

static uint64_t number(struct argp_state *state, const char *text, const char *name, uint64_t max)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (*end != 0) {
        const char *units = "KMGT";
        const char *unit = strchr(units, toupper((unsigned char)*end));
        shift = unit == NULL ? 0 : 10 * (unsigned)(unit - units + 1);
        end += unit == NULL ? 0 : strncmp(end + 1, "iB", 2) == 0 ? 3 : 1;
    }
    if (!isdigit((unsigned char)text[0]) || *end != 0 || errno != 0 || value > max >> shift) {
        problem(state, "--%s: \"%s\" must be a whole number of at most %llu", name, text,
                (unsigned long long)max);
    }
    return (uint64_t)value << shift;
}

/* Options of group 0 are for all verbs, and consent hurts none. */
static void note_given(struct words *words, int key)
{
    for (const struct argp_option *o = option_table; o->name != NULL; o++) {
        if (o->key == key && o->group != 0 && key != KEY_YES &&
            words->given_count < sizeof words->given / sizeof words->given[0]) {
            words->given[words->given_count++] = o;
        }
    }
}

/* Options whose text is taken as it is. */
static const struct {
    int key;
    size_t field;
} text_options[] = {
    {'e', offsetof(struct cli, endpoints)},           {KEY_CA, offsetof(struct cli, ca)},
    {KEY_CERT, offsetof(struct cli, cert)},           {KEY_KEY, offsetof(struct cli, key)},
    {KEY_OFFLINE, offsetof(struct cli, offline)},     {KEY_WAIT, offsetof(struct cli, wait)},
    {KEY_DATA, offsetof(struct cli, data)},           {KEY_HEX, offsetof(struct cli, hex)},
    {KEY_FILE, offsetof(struct cli, file)},           {KEY_AT, offsetof(struct cli, at)},
    {KEY_ISOLATION, offsetof(struct cli, isolation)}, {KEY_OBJECT, offsetof(struct cli, object)},
    {KEY_ROOT, offsetof(struct cli, root)},           {KEY_ROOTS, offsetof(struct cli, roots)},
    {KEY_FIELD, offsetof(struct cli, field)},         {KEY_BY, offsetof(struct cli, by)},
    {KEY_RETENTION, offsetof(struct cli, retention)}, {KEY_PATH, offsetof(struct cli, path)},
};

static bool take_text(struct cli *cli, int key, const char *text)
{
    for (size_t i = 0; i < sizeof text_options / sizeof text_options[0]; i++) {
        if (text_options[i].key == key) {
            *(const char **)((char *)cli + text_options[i].field) = text;
            return true;
        }
    }
    return false;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct words *words = state->input;
    struct cli *cli = words->cli;
    note_given(words, key);
    if (take_text(cli, key, arg)) {
        return 0;
    }
    switch (key) {
    case 'h':
        words->help = true;
        return 0;
    case 'o':
        if (strcmp(arg, "table") != 0 && strcmp(arg, "json") != 0 && strcmp(arg, "dot") != 0) {
            problem(state, "--output: \"%s\" must be table, json or dot", arg);
        }
        cli->format = strcmp(arg, "json") == 0  ? FORMAT_JSON
                      : strcmp(arg, "dot") == 0 ? FORMAT_DOT
                                                : FORMAT_TABLE;
        return 0;
    case KEY_TIMEOUT: {
        char text[32];
        size_t len = strlen(arg);
        (void)snprintf(text, sizeof text, "%.*s", (int)(len - (len > 0 && arg[len - 1] == 's')),
                       arg);
        cli->timeout_ms = (uint32_t)(number(state, text, "timeout", 86400) * 1000);
        if (cli->timeout_ms == 0) {
            problem(state, "--timeout: at least a second");
        }
        cli->timeout_given = true;
        return 0;
    }
    case KEY_YES:
        cli->yes = true;
        return 0;
    case KEY_DRY_RUN:
        cli->dry_run = true;
        return 0;
    case KEY_IN_DOUBT:
        cli->in_doubt = true;
        return 0;
    case KEY_SHARDS:
        cli->shards = (uint32_t)number(state, arg, "shards", 4096);
        if (cli->shards == 0) { /* which would be: as many as the default has */
            problem(state, "--shards: at least one");
        }
        return 0;
    case KEY_REPLICAS:
        cli->replicas = (uint32_t)number(state, arg, "replicas", 255);
        if (cli->replicas == 0) {
            problem(state, "--replicas: at least one");
        }
        return 0;
    case KEY_SIZE:
        cli->size = number(state, arg, "size", 1ull << 48);
        cli->size_given = true;
        return 0;
    case KEY_TYPE:
        if (isalpha((unsigned char)arg[0]) || arg[0] == '_') {
            cli->type_name = arg;
        } else {
            cli->type = (uint32_t)number(state, arg, "type", UINT32_MAX);
        }
        cli->type_given = true;
        return 0;
    case KEY_OFF:
        cli->offset = number(state, arg, "off", 1ull << 48);
        return 0;
    case KEY_LEN:
        cli->len = number(state, arg, "len", 1ull << 48);
        cli->len_given = true;
        return 0;
    case KEY_LIMIT:
        cli->limit = number(state, arg, "limit", UINT64_MAX);
        return 0;
    case KEY_COUNT:
        cli->count = number(state, arg, "count", UINT64_MAX);
        return 0;
    case KEY_DEPTH:
        cli->depth = (uint32_t)number(state, arg, "depth", UINT32_MAX);
        cli->depth_given = true;
        return 0;
    case KEY_SHARD:
        cli->uid = number(state, arg, "shard", UINT64_MAX);
        return 0;
    case KEY_FROM:
        cli->from_text = arg;
        cli->from = strspn(arg, "0123456789") == strlen(arg)
                        ? number(state, arg, "from", UINT64_MAX)
                        : UINT64_MAX; /* not an index */
        return 0;
    case KEY_TO:
        cli->to = number(state, arg, "to", UINT64_MAX);
        cli->to_given = true;
        return 0;
    case ARGP_KEY_ARG:
        if (words->count == (int)(sizeof words->words / sizeof words->words[0])) {
            problem(state, "too many arguments");
            return 0;
        }
        words->words[words->count++] = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The list of verbs stands before the options in --help. */
static char *help_text(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_PRE_DOC) {
        return (char *)text;
    }
    char *out = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&out, &size);
    if (stream == NULL) {
        return NULL;
    }
    fprintf(stream, "The command line of a Cairn cluster.\n\nVerbs:\n");
    for (size_t i = 0; i < cli_verb_count; i++) {
        char left[24];
        (void)snprintf(left, sizeof left, "%s %s", cli_verbs[i].noun, cli_verbs[i].verb);
        fprintf(stream, "  %-16s %s\n", left, cli_verbs[i].help);
    }
    fprintf(stream, "\nOptions:");
    if (fclose(stream) != 0) { /* no memory for all of it */
        free(out);
        return NULL;
    }
    return out;
}

static const struct argp arguments = {
    option_table,
    parse_option,
    "NOUN VERB [ARGUMENT...]",
    "The command line of a Cairn cluster.\vExit codes: 0 ok, 1 unexpected, 2 usage, 3 not "
    "found, 4 conflict, 5 findings, 6 denied, 7 unavailable, 8 exhausted, 9 integrity, "
    "10 stale pointer.",
    NULL,
    help_text,
    NULL};

static const struct cli_verb *find_verb(const char *noun, const char *verb)
{
    for (size_t i = 0; i < cli_verb_count; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0 &&
            (cli_verbs[i].verb[0] == 0 || (verb != NULL && strcmp(cli_verbs[i].verb, verb) == 0))) {
            return &cli_verbs[i];
        }
    }
    return NULL;
}

static bool takes_offline(const struct cli_verb *verb)
{
    return verb->run == verb_heap_check || verb->run == verb_heap_stats ||
           verb->run == verb_heap_map || verb->run == verb_log_dump;
}

/* The verb's line names the options that it takes. */
static bool takes(const struct cli_verb *verb, const char *option)
{
    size_t len = strlen(option);
    for (const char *at = verb->arguments; (at = strstr(at, "--")) != NULL; at++) {
        if (strncmp(at + 2, option, len) == 0 && strchr(" ]", at[2 + len]) != NULL) {
            return true;
        }
    }
    return false;
}

/* One that it doesn't take; NULL: none. To leave it out of account would be to do something else
 * than what was asked for: the real thing, where --dry-run was given. */
static const char *stray_option(const struct words *words, const struct cli_verb *verb)
{
    for (size_t i = 0; i < words->given_count; i++) {
        if (!takes(verb, words->given[i]->name)) {
            return words->given[i]->name;
        }
    }
    return NULL;
}

/* The arguments were not understood, so that the option may not have been reached. */
static bool asks_for_json(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "-ojson") == 0 || strcmp(argv[i], "--output=json") == 0 ||
            ((strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0) &&
             strcmp(next, "json") == 0)) {
            return true;
        }
    }
    return false;
}

/* VERB --help: its own line and the options that it takes. */
static void print_verb_help(const struct cli_verb *verb)
{
    const char *gap = verb->verb[0] == 0 ? "" : " ";
    printf("Usage: cairnctl %s%s%s%s%s\n%s.\n", verb->noun, gap, verb->verb,
           verb->arguments[0] == 0 ? "" : " ", verb->arguments, verb->help);
    const char *head = "\n";
    for (const struct argp_option *o = option_table; o->name != NULL; o++) {
        if (o->group != 0 && takes(verb, o->name)) {
            char left[64];
            (void)snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg == NULL ? "" : "=",
                           o->arg == NULL ? "" : o->arg);
            printf("%s  %-22s %s\n", head, left, o->doc);
            head = "";
        }
    }
    printf("\nOf every verb: -e, --ca, --cert, --key, -o, --timeout; `cairnctl --help` says what "
           "they are.\n");
}

static int not_a_verb(struct cli *cli, const char *noun, const char *verb)
{
    char verbs[256] = "";
    size_t len = 0;
    for (size_t i = 0; i < cli_verb_count && len < sizeof verbs; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0) {
            len += (size_t)snprintf(verbs + len, sizeof verbs - len, "%s%s", len == 0 ? "" : ", ",
                                    cli_verbs[i].verb);
        }
    }
    if (noun[0] == 0) {
        return cli_error(
            cli, CAIRN_E_INVAL,
            "give a noun and a verb, as in `cairnctl heap ls`; cairnctl --help lists them");
    }
    if (len > 0) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s%s%s\" is not a verb; those of %s: %s", noun,
                         verb[0] == 0 ? "" : " ", verb, noun, verbs);
    }
    return cli_error(cli, CAIRN_E_INVAL, "\"%s%s%s\" is not a verb; cairnctl --help lists them",
                     noun, verb[0] == 0 ? "" : " ", verb);
}

static int finish(struct cli *cli, int code)
{
    cairn_client_free(cli->client);
    json_decref(cli->warnings);
    json_decref(cli->noted);
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && code == EXIT_OK) {
        fprintf(stderr, "cairnctl: standard output can't be written\n");
        code = EXIT_UNEXPECTED;
    }
    return code;
}

int main(int argc, char **argv)
{
    struct cli cli = {.timeout_ms = 30000, .warnings = json_array(), .noted = json_array()};
    struct words words = {.cli = &cli};
    char kind[64];

    setlocale(LC_CTYPE, ""); /* names in UTF-8 are printed as they are */
    /* What argp says itself (an unknown option) goes to stderr; the answer in json is ours. */
    if (argp_parse(&arguments, argc, argv, ARGP_NO_EXIT | ARGP_NO_HELP, NULL, &words) != 0 &&
        words.problem[0] == 0) {
        (void)snprintf(words.problem, sizeof words.problem,
                       "an option is unknown or has no value; cairnctl --help lists them");
    }
    if (words.help &&
        (words.problem[0] != 0 || words.count == 0 ||
         find_verb(words.words[0], words.count > 1 ? words.words[1] : NULL) == NULL)) {
        argp_help(&arguments, stdout, ARGP_HELP_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC, "cairnctl");
        return finish(&cli, EXIT_OK);
    }
    if (words.problem[0] != 0) {
        if (asks_for_json(argc, argv)) {
            cli.format = FORMAT_JSON;
        }
        return finish(&cli, cli_error(&cli, CAIRN_E_INVAL, "%s", words.problem));
    }
    const struct cli_verb *verb =
        words.count == 0 ? NULL
                         : find_verb(words.words[0], words.count > 1 ? words.words[1] : NULL);
    if (verb == NULL) {
        const char *noun = words.count > 0 ? words.words[0] : "";
        return finish(&cli, not_a_verb(&cli, noun, words.count > 1 ? words.words[1] : ""));
    }
    if (words.help) {
        print_verb_help(verb);
        return finish(&cli, EXIT_OK);
    }
    int skip = verb->verb[0] == 0 ? 1 : 2;
    (void)snprintf(kind, sizeof kind, "%s%s%s", verb->noun, skip == 2 ? "." : "", verb->verb);
    cli.kind = kind;
    cli.argc = words.count - skip;
    cli.argv = words.words + skip;
    if (cli.offline != NULL && !takes_offline(verb)) {
        /* It would be done to the cluster, and not to what was named. */
        return finish(&cli, cli_error(&cli, CAIRN_E_INVAL,
                                      "--offline is for heap check, heap stats, heap map and log "
                                      "dump; %s %s asks a cluster",
                                      verb->noun, verb->verb));
    }
    if (cli.offline != NULL && strlen(cli.offline) > OFFLINE_BYTES_MAX) {
        return finish(&cli, cli_error(&cli, CAIRN_E_INVAL,
                                      "--offline DIR: a data directory has a name of at most %d "
                                      "bytes, not %zu; from inside it `.` will do",
                                      OFFLINE_BYTES_MAX, strlen(cli.offline)));
    }
    if (cli.uid != 0 && cli.offline == NULL) {
        return finish(&cli, cli_error(&cli, CAIRN_E_INVAL, "--shard goes with --offline"));
    }
    const char *stray = stray_option(&words, verb);
    if (stray != NULL) {
        return finish(&cli,
                      cli_error(&cli, CAIRN_E_INVAL, "--%s is none of its options: %s%s%s%s%s",
                                stray, verb->noun, skip == 2 ? " " : "", verb->verb,
                                verb->arguments[0] == 0 ? "" : " ", verb->arguments));
    }
    if (cli.format == FORMAT_DOT && verb->run != verb_graph_fetch) {
        cli.format = FORMAT_TABLE;
        return finish(&cli, cli_error(&cli, CAIRN_E_INVAL, "-o dot is for graph fetch"));
    }
    return finish(&cli, verb->run(&cli));
}
