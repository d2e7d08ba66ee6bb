/* watch: changes as they happen, one line each. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cairn/watch.h>

#include "cli/cli.h"

#define POLL_MS 200u /* so soon it notices that it was interrupted */
#define USAGE                                                                                      \
    "watch HEAP [--object POINTER | --root NAME | --roots PREFIX | --type NAME|N] "                \
    "[--from TOKEN|VERSION|-10s|oldest] [--count N] [-o table|json]"

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static const char *const kinds[] = {"",     "write",    "resize",     "birth",
                                    "free", "root-set", "root-delete"};

/* Where to begin: digits are a version, "-10s" a time ago, the rest a token. */
static int take_from(struct cli *cli, cairn_watch_opts *opts)
{
    const char *from = cli->from_text;
    uint64_t ms = 0;
    struct timespec now;
    if (from == NULL) {
        return 0;
    }
    if (strcmp(from, "oldest") == 0) {
        opts->from = CAIRN_WATCH_OLDEST;
    } else if (from[0] == '-') {
        if (!cli_duration(from + 1, &ms)) {
            return cli_error(cli, CAIRN_E_INVAL, "--from: \"%s\" is no time ago like -10s", from);
        }
        clock_gettime(CLOCK_REALTIME, &now);
        uint64_t at = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
        opts->from = CAIRN_WATCH_VERSION;
        opts->version = (at > ms ? at - ms : 1) << 16;
    } else if (strspn(from, "0123456789") == strlen(from)) {
        opts->from = CAIRN_WATCH_VERSION;
        opts->version = cli->from;
    } else {
        opts->from = CAIRN_WATCH_TOKEN;
        opts->token = from;
    }
    return 0;
}

static int open_watch(struct cli *cli, cairn_heap *heap, const cairn_watch_opts *opts,
                      cairn_watch **watch)
{
    cairn_ptr ptr;
    if (cli->object != NULL) {
        if (cairn_ptr_parse(cli->object, &ptr) != 0) {
            return cairn_watch_object(heap, CAIRN_NULL, opts, watch); /* says that it is none */
        }
        return cairn_watch_object(heap, ptr, opts, watch);
    }
    if (cli->root != NULL) {
        return cairn_watch_root(heap, cli->root, opts, watch);
    }
    if (cli->roots != NULL) {
        return cairn_watch_roots(heap, cli->roots, opts, watch);
    }
    return cli->type_given ? cairn_watch_type(heap, cli->type, opts, watch)
                           : cairn_watch_heap(heap, opts, watch);
}

static void print_json(const cairn_event *e, const char *token)
{
    json_t *row =
        json_pack("{s:s,s:o,s:o,s:I,s:o,s:b,s:o}", "kind", kinds[e->kind], "version",
                  cli_u64(e->version), "before", cli_u64(e->before), "shard", (json_int_t)e->shard,
                  "order", cli_u64(e->order), "more", e->more, "pointer", cli_ptr(e->ptr));
    if (e->name != NULL) {
        json_object_set_new(row, "name", cli_text(e->name));
        json_object_set_new(row, "old_pointer", cli_ptr(e->old_ptr));
    } else {
        json_object_set_new(row, "type", json_integer((json_int_t)e->type));
        json_object_set_new(row, "size", json_integer((json_int_t)e->size));
        json_object_set_new(row, "offset", json_integer((json_int_t)e->offset));
        json_object_set_new(row, "length", json_integer((json_int_t)e->len));
    }
    json_object_set_new(row, "token", json_string(token));
    json_dumpf(row, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(row);
}

static void print_line(const cairn_event *e)
{
    char pointer[CAIRN_PTR_TEXT_BYTES];
    cairn_ptr_format(e->ptr, pointer, sizeof pointer);
    printf("%-20" PRIu64 " %5" PRIu32 "  %-11s  %-24s", e->version, e->shard, kinds[e->kind],
           cairn_ptr_is_null(e->ptr) ? "-" : pointer);
    if (e->name != NULL) {
        printf("  ");
        cli_print_plain(stdout, e->name);
        putchar('\n');
    } else if (e->kind == CAIRN_EVENT_WRITTEN) {
        printf("  %" PRIu32 " bytes at %" PRIu64 " of %" PRIu64 "\n", e->len, e->offset, e->size);
    } else if (e->kind == CAIRN_EVENT_FREED) {
        putchar('\n');
    } else {
        printf("  %" PRIu64 " bytes\n", e->size);
    }
}

/* The node says what there is to watch from. */
static int failed(struct cli *cli, int code)
{
    return cli_error(cli, code, "watch: %s", cairn_errormsg());
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until there were enough, it is interrupted, or the time given is over. */
static int follow(struct cli *cli, cairn_watch *watch)
{
    char token[CAIRN_WATCH_TOKEN_BYTES];
    uint64_t until = now_ms() + cli->timeout_ms;
    uint64_t seen = 0;
    int rv = 0;
    if (cli->format == FORMAT_TABLE) {
        printf("%-20s %5s  %-11s  %-24s\n", "VERSION", "SHARD", "CHANGE", "POINTER");
    }
    bool heard = fflush(stdout) == 0; /* else nobody reads on: main says so */
    while (rv == 0 && heard && !interrupted && (cli->count == 0 || seen < cli->count)) {
        const cairn_event *event;
        rv = cairn_watch_next(watch, POLL_MS, &event);
        if (rv == CAIRN_E_TIMEOUT) {
            rv = cli->timeout_given && now_ms() >= until ? rv : 0;
            continue;
        }
        if (rv != 0) {
            break;
        }
        seen++;
        if (cli->format == FORMAT_JSON) {
            (void)cairn_watch_token(watch, token, sizeof token);
            print_json(event, token);
        } else {
            print_line(event);
        }
        heard = fflush(stdout) == 0;
    }
    if (cairn_watch_token(watch, token, sizeof token) == 0) {
        (void)fprintf(stderr, "to go on: --from %s\n", token);
    }
    return rv == 0 ? 0 : failed(cli, rv);
}

int verb_watch(struct cli *cli)
{
    cairn_heap *heap = NULL;
    cairn_watch *watch = NULL;
    cairn_watch_opts opts;
    struct sigaction action = {.sa_handler = on_signal};
    int whats =
        (cli->object != NULL) + (cli->root != NULL) + (cli->roots != NULL) + cli->type_given;
    if (cli->argc != 1 || whats > 1) {
        return cli_usage(cli, USAGE);
    }
    cairn_watch_opts_init(&opts, sizeof opts);
    int code = take_from(cli, &opts);
    if (code != 0) {
        return code;
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    code = cli_take_type(cli, cli->argv[0]);
    if (code != 0) {
        return code;
    }
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    rv = cairn_heap_open(cli->client, cli->argv[0], &heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    rv = open_watch(cli, heap, &opts, &watch);
    code = rv != 0 ? failed(cli, rv) : follow(cli, watch);
    cairn_watch_free(watch);
    cairn_heap_close(heap);
    return code;
}
