#include "cli/cli.h"

#include <inttypes.h>
#include <libsmartcols/libsmartcols.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>
#include <wctype.h>

/* ---- errors ---- */

int cli_exit_of(int code)
{
    switch (code) {
    case CAIRN_OK:
        return EXIT_OK;
    case CAIRN_E_INVAL:
    case CAIRN_E_CONFIG:
    case CAIRN_E_RANGE:
    case CAIRN_E_TOOBIG:
    case CAIRN_E_UNSUPPORTED:
        return EXIT_USAGE;
    case CAIRN_E_NOTFOUND:
    case CAIRN_E_SNAPSHOT_TOO_OLD:
        return EXIT_NOTFOUND;
    case CAIRN_E_CONFLICT:
    case CAIRN_E_EXISTS:
        return EXIT_CONFLICT;
    case CAIRN_E_DENIED:
    case CAIRN_E_UNAUTHENTICATED:
    case CAIRN_E_TLS:
        return EXIT_DENIED;
    case CAIRN_E_UNAVAILABLE:
    case CAIRN_E_NOCONN:
    case CAIRN_E_TIMEOUT:
    case CAIRN_E_INDOUBT:
    case CAIRN_E_NOTLEADER:
    case CAIRN_E_NOSHARD:
    case CAIRN_E_SHUTDOWN:
    case CAIRN_E_SESSION_EXPIRED:
    case CAIRN_E_TX_ABORTED: /* by a failure, or too late: nothing of it happened */
    case CAIRN_E_TX_TOO_LATE:
    case CAIRN_E_TX_UNDECIDED:
        return EXIT_UNAVAILABLE;
    case CAIRN_E_NOSPACE:
    case CAIRN_E_BUSY:
    case CAIRN_E_DISKFULL:
    case CAIRN_E_LIMIT:
        return EXIT_EXHAUSTED;
    case CAIRN_E_CORRUPT:
        return EXIT_INTEGRITY;
    case CAIRN_E_STALE:
        return EXIT_STALE;
    default:
        return EXIT_UNEXPECTED;
    }
}

int cli_range(struct cli *cli, uint64_t size, uint64_t *len)
{
    uint64_t rest = cli->offset < size ? size - cli->offset : 0;
    *len = cli->len_given ? cli->len : rest;
    if (cli->offset <= size && *len <= rest) {
        return 0;
    }
    return cli_error(cli, CAIRN_E_RANGE,
                     "the object has %" PRIu64 " bytes; asked for %" PRIu64 " from %" PRIu64, size,
                     *len, cli->offset);
}

json_t *cli_u64(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return json_string(text);
}

json_t *cli_ptr(cairn_ptr ptr)
{
    char text[CAIRN_PTR_TEXT_BYTES];
    cairn_ptr_format(ptr, text, sizeof text);
    return json_string(text);
}

json_t *cli_text(const char *text)
{
    json_t *out = json_string(text);
    if (out == NULL && text != NULL) {
        size_t len = 0;
        char *plain = malloc(strlen(text) * 4 + 1);
        for (; plain != NULL && *text != 0; text++) {
            unsigned char c = (unsigned char)*text;
            len += (size_t)snprintf(plain + len, 5, c < 0x80 ? "%c" : "\\x%02x", c);
        }
        out = plain == NULL ? NULL : json_stringn(plain, len);
        free(plain);
    }
    return out == NULL ? json_null() : out;
}

/* It makes a terminal show text in another order than it has. */
static bool turns_text(wchar_t c)
{
    return c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

void cli_print_plain(FILE *file, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        mbstate_t state;
        wchar_t c = 0;
        memset(&state, 0, sizeof state);
        size_t n = mbrtowc(&c, text, left, &state);
        bool valid = n > 0 && n <= left; /* not -1 or -2 */
        bool plain = valid && iswprint((wint_t)c) != 0 && !turns_text(c);
        n = valid ? n : 1;
        for (size_t i = 0; i < n; i++) {
            fprintf(file, plain ? "%c" : "\\x%02x", (unsigned char)text[i]);
        }
        text += n;
        left -= n;
    }
}

/* One line of text for people. */
static void print_note(const char *head, const char *text)
{
    fprintf(stderr, "cairnctl: %s: ", head);
    cli_print_plain(stderr, text);
    fputc('\n', stderr);
}

static void print_envelope(struct cli *cli, json_t *data, json_t *error)
{
    json_t *envelope = json_pack("{s:s,s:s,s:o,s:O,s:o}", "apiVersion", "cairn/v1", "kind",
                                 cli->kind != NULL ? cli->kind : "cairnctl", "data", data,
                                 "warnings", cli->warnings, "error", error);
    json_dumpf(envelope, stdout, JSON_INDENT(2));
    fputc('\n', stdout);
    json_decref(envelope);
}

static int say(struct cli *cli, int code, const char *text)
{
    if (cli->format == FORMAT_JSON) {
        print_envelope(cli, json_null(),
                       json_pack("{s:s,s:i,s:o}", "code", cairn_error_name(code), "number", code,
                                 "message", cli_text(text)));
    }
    print_note(cairn_error_name(code), text);
    return cli_exit_of(code);
}

int cli_error(struct cli *cli, int code, const char *format, ...)
{
    char text[768];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return say(cli, code, text);
}

int cli_fail(struct cli *cli, int code, const char *what)
{
    const char *why = cairn_errormsg();
    if (code == CAIRN_E_SNAPSHOT_TOO_OLD) {
        return cli_error(cli, code,
                         "%s: %s. `cairnctl obj history` says which versions of an object are kept "
                         "(`heap get HEAP`: for how long); `heap set HEAP retention=1h` keeps them "
                         "for longer from now on",
                         what, why[0] != 0 ? why : cairn_strerror(code));
    }
    char missing[160];
    int n = snprintf(missing, sizeof missing, "heap %s does not exist", what);
    if (code == CAIRN_E_NOTFOUND && strncmp(why, missing, (size_t)n) == 0) {
        return cli_error(cli, code, "%s; `cairnctl heap ls` lists those that do", missing);
    }
    static const char no_root[] = "there is no root ";
    if (code == CAIRN_E_NOTFOUND && strncmp(why, no_root, sizeof no_root - 1) == 0) {
        return cli_error(cli, code,
                         "%s: there is no root of that name; `cairnctl root ls HEAP` lists those "
                         "that there are",
                         what);
    }
    return cli_error(cli, code, "%s: %s", what, why[0] != 0 ? why : cairn_strerror(code));
}

int cli_usage(struct cli *cli, const char *usage)
{
    return cli_error(cli, CAIRN_E_INVAL, "usage: cairnctl %s", usage);
}

/* Appends it, unless it is there already. */
static bool add_once(json_t *list, json_t *text)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (json_equal(json_array_get(list, i), text)) {
            return false;
        }
    }
    return json_array_append(list, text) == 0;
}

void cli_warn(struct cli *cli, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_t *warning = cli_text(text);
    (void)add_once(cli->warnings, warning);
    if (add_once(cli->noted, warning)) { /* not by an earlier try */
        print_note("warning", text);
    }
    json_decref(warning);
}

/* ---- answers ---- */

/* What a cell shows; the caller frees it. */
static char *cell_text(const json_t *value)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return NULL;
    }
    if (json_is_string(value)) {
        cli_print_plain(out, json_string_value(value));
    } else if (json_is_integer(value)) {
        fprintf(out, "%lld", (long long)json_integer_value(value));
    } else {
        fputs(json_is_boolean(value) ? json_is_true(value) ? "yes" : "no" : "-", out);
    }
    return fclose(out) == 0 ? text : NULL;
}

static void print_table(const json_t *rows, const struct cli_column *columns, size_t count)
{
    struct libscols_table *table = scols_new_table();
    if (table == NULL) {
        return;
    }
    /* All is plain already; what the library would escape of it, it would count wrong. */
    scols_table_enable_noencoding(table, 1);
    for (size_t c = 0; c < count; c++) {
        scols_table_new_column(table, columns[c].title, 0, columns[c].right ? SCOLS_FL_RIGHT : 0);
    }
    for (size_t r = 0; r < json_array_size(rows); r++) {
        struct libscols_line *line = scols_table_new_line(table, NULL);
        for (size_t c = 0; line != NULL && c < count; c++) {
            char *text = cell_text(json_object_get(json_array_get(rows, r), columns[c].key));
            if (text == NULL || scols_line_refer_data(line, c, text) != 0) {
                free(text);
            }
        }
    }
    scols_print_table(table);
    scols_unref_table(table);
}

void cli_answer(struct cli *cli, json_t *data, const json_t *rows, const struct cli_column *columns,
                size_t count, const char *line)
{
    if (cli->format == FORMAT_JSON) {
        print_envelope(cli, data, json_null());
        return;
    }
    if (line != NULL) {
        cli_print_plain(stdout, line);
        putchar('\n');
    }
    if (rows != NULL) {
        print_table(rows, columns, count);
    }
    json_decref(data);
}

void cli_bytes(uint64_t bytes, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    uint64_t whole = bytes;
    uint64_t tenths = 0;
    size_t unit = 0;
    while (whole >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        tenths = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit++;
    }
    if (unit == 0) {
        (void)snprintf(out, 32, "%llu B", (unsigned long long)whole);
    } else {
        (void)snprintf(out, 32, "%llu.%llu %s", (unsigned long long)whole,
                       (unsigned long long)tenths, units[unit]);
    }
}

/* ---- the cluster ---- */

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void cli_restart(struct cli *cli)
{
    cli->until_ms = now_ms() + cli->timeout_ms;
}

/* What isn't spent on nodes that are silent. */
static uint32_t rest_of(uint32_t ms)
{
    return ms / 8 < 2000 ? ms / 8 : 2000;
}

bool cli_is_over(struct cli *cli)
{
    return cli_left_ms(cli) <= rest_of(cli->timeout_ms);
}

uint32_t cli_left_ms(struct cli *cli)
{
    uint64_t now = now_ms();
    return now < cli->until_ms ? (uint32_t)(cli->until_ms - now) : 1;
}

int cli_connect(struct cli *cli)
{
    cairn_client_opts opts;
    if (cli->client != NULL) {
        return 0;
    }
    cli_restart(cli);
    cairn_client_opts_init(&opts, sizeof opts);
    opts.ca_file = cli->ca;
    opts.cert_file = cli->cert;
    opts.key_file = cli->key;
    opts.timeout_ms = cli->timeout_ms;
    int rv = cairn_connect(cli->endpoints, &opts, &cli->client);
    if (rv != 0) {
        /* A missing certificate file is no missing heap or root: 3 would mislead scripts. */
        rv = rv == CAIRN_E_NOTFOUND ? CAIRN_E_CONFIG : rv;
        cli_fail(cli, rv, "connect");
    }
    return rv;
}

/* What a node has answered, or why not: 0 or CAIRN_E_*. Takes the future. */
static int answer_of(int started, cairn_future *future, json_t **out)
{
    const void *bytes = NULL;
    size_t len = 0;
    *out = NULL;
    int rv = started == 0 ? cairn_future_wait(future, UINT32_MAX) : started;
    rv = rv == 0 ? cairn_future_get_bytes(future, &bytes, &len, NULL) : rv;
    if (rv == 0) {
        *out = json_loadb(bytes, len, 0, NULL);
        rv = *out == NULL ? CAIRN_E_PROTOCOL : 0;
    }
    cairn_future_free(future);
    return rv;
}

int cli_ask(struct cli *cli, const char *node, const char *verb, json_t *args, json_t **out)
{
    cairn_future *future = NULL;
    char *text = args == NULL ? NULL : json_dumps(args, JSON_COMPACT);
    int rv = cairn_admin_async(cli->client, node, verb, text, cli_left_ms(cli), &future);
    free(text);
    return answer_of(rv, future, out);
}

static json_t *row_of(const json_t *peer, int started, cairn_future *future)
{
    json_t *answer = NULL;
    int rv = answer_of(started, future, &answer);
    json_t *row = json_pack("{s:O,s:O,s:b}", "node", json_object_get(peer, "name"), "address",
                            json_object_get(peer, "address"), "reachable", rv == 0);
    if (rv == 0) {
        json_object_set_new(row, "answer", answer);
    } else {
        json_object_set_new(row, "error", cli_text(cairn_errormsg()));
        json_object_set_new(row, "code", json_integer(rv));
    }
    return row;
}

#define NODES_MAX 64 /* at once */

int cli_ask_all_in(struct cli *cli, uint32_t timeout_ms, const char *verb, json_t *args,
                   json_t **out)
{
    json_t *status = NULL;
    cairn_future *futures[NODES_MAX];
    int started[NODES_MAX];
    *out = NULL;
    int rv = cli_ask(cli, NULL, "status", NULL, &status);
    if (rv == 0) {
        const json_t *peers = json_object_get(status, "peers");
        char *text = args == NULL ? NULL : json_dumps(args, JSON_COMPACT);
        size_t count = json_array_size(peers);
        *out = json_array();
        for (size_t from = 0; from < count; from += NODES_MAX) {
            size_t end = count - from < NODES_MAX ? count : from + NODES_MAX;
            for (size_t i = from; i < end; i++) {
                const char *name =
                    json_string_value(json_object_get(json_array_get(peers, i), "name"));
                futures[i - from] = NULL;
                started[i - from] = cairn_admin_async(cli->client, name, verb, text, timeout_ms,
                                                      &futures[i - from]);
            }
            for (size_t i = from; i < end; i++) {
                json_array_append_new(
                    *out, row_of(json_array_get(peers, i), started[i - from], futures[i - from]));
            }
        }
        free(text);
        json_decref(status);
    }
    json_decref(args);
    return rv;
}

int cli_ask_all(struct cli *cli, const char *verb, json_t *args, json_t **out)
{
    uint32_t left = cli_left_ms(cli);
    return cli_ask_all_in(cli, left - rest_of(left), verb, args, out);
}

const char *cli_nobody_knows(const json_t *nodes)
{
    const char *text = NULL;
    json_t *node;
    size_t i;
    json_array_foreach(nodes, i, node)
    {
        if (json_is_true(json_object_get(node, "reachable"))) {
            return NULL;
        }
        if (json_integer_value(json_object_get(node, "code")) == CAIRN_E_NOTFOUND) {
            text = json_string_value(json_object_get(node, "error"));
        }
    }
    return text;
}

int cli_collect(struct cli *cli, const char *verb, json_t *args, const char *key, json_t **rows,
                size_t *unreachable)
{
    json_t *nodes = NULL;
    json_t *node;
    json_t *row;
    size_t i;
    size_t k;
    int rv = cli_connect(cli);
    if (rv != 0) {
        json_decref(args);
        return cli_exit_of(rv);
    }
    rv = cli_ask_all(cli, verb, args, &nodes);
    if (rv != 0) {
        return cli_fail(cli, rv, verb);
    }
    const char *unknown = cli_nobody_knows(nodes);
    if (unknown != NULL) {
        int code = cli_error(cli, CAIRN_E_NOTFOUND, "%s", unknown);
        json_decref(nodes);
        return code;
    }
    *rows = json_array();
    *unreachable = 0;
    json_array_foreach(nodes, i, node)
    {
        if (!json_is_true(json_object_get(node, "reachable"))) {
            bool behind = json_integer_value(json_object_get(node, "code")) == CAIRN_E_NOTFOUND;
            (*unreachable)++;
            cli_warn(cli, "node %s %s: %s", json_string_value(json_object_get(node, "node")),
                     behind ? "doesn't know it" : "can't be reached",
                     json_string_value(json_object_get(node, "error")));
            continue;
        }
        json_array_foreach(json_object_get(json_object_get(node, "answer"), key), k, row)
        {
            json_object_set(row, "node", json_object_get(node, "node"));
            json_array_append(*rows, row);
        }
    }
    json_decref(nodes);
    return 0;
}

int cli_tx_at(cairn_heap *heap, uint64_t at, cairn_tx **tx)
{
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.read_at = at;
    return cairn_tx_begin(heap, &opts, tx);
}

int cli_root_at(cairn_heap *heap, const char *name, uint64_t at, cairn_ptr *ptr)
{
    cairn_tx *tx = NULL;
    if (at == 0) {
        return cairn_root_get(heap, name, ptr);
    }
    int rv = cli_tx_at(heap, at, &tx);
    if (rv == 0) {
        rv = cairn_tx_root_get(tx, name, ptr);
        cairn_tx_abort(tx);
    }
    return rv;
}

int cli_object(struct cli *cli, const char *text, cairn_heap **heap, cairn_ptr *ptr)
{
    return cli_object_at(cli, text, 0, heap, ptr);
}

int cli_object_at(struct cli *cli, const char *text, uint64_t at, cairn_heap **heap, cairn_ptr *ptr)
{
    char name[128];
    const char *slash = strchr(text, '/');
    *heap = NULL;
    if (slash == NULL || slash == text || slash[1] == 0 || (size_t)(slash - text) >= sizeof name) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" must be HEAP/ROOT or HEAP/POINTER", text);
    }
    memcpy(name, text, (size_t)(slash - text));
    name[slash - text] = 0;
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, name, heap);
    if (rv != 0) {
        return cli_fail(cli, rv, name);
    }
    if (cairn_ptr_parse(slash + 1, ptr) == 0) {
        return 0;
    }
    rv = cli_root_at(*heap, slash + 1, at, ptr);
    if (rv != 0) {
        if (rv == CAIRN_E_NOTFOUND && at != 0) {
            cli_error(cli, rv, "%s: there was no such root then: name the object by its pointer",
                      text);
        } else {
            cli_fail(cli, rv, text);
        }
        cairn_heap_close(*heap);
        *heap = NULL;
        return cli_exit_of(rv);
    }
    return 0;
}
