/* obj blame: which change each byte of an object is of, as far as its history goes, and who made
 * it, as far as the shard's log goes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* A range of bytes and the change that wrote it last. */
struct piece {
    uint64_t begin, end, version;
    uint32_t kind; /* enum cairn_change_kind */
};

/* Pieces are found newest change first; what is unclaimed waits for older ones. */
struct blame {
    struct piece *done, *open;
    size_t done_count, done_capacity, open_count, open_capacity;
    bool failed;
};

static void push(struct blame *b, struct piece **list, size_t *count, size_t *capacity,
                 struct piece piece)
{
    if (piece.begin >= piece.end || b->failed) {
        return;
    }
    if (*count == *capacity) {
        size_t more = *capacity == 0 ? 16 : *capacity * 2;
        struct piece *bigger = realloc(*list, more * sizeof **list);
        if (bigger == NULL) {
            b->failed = true;
            return;
        }
        *list = bigger;
        *capacity = more;
    }
    (*list)[(*count)++] = piece;
}

/* What of [begin, end) nobody newer has written is this change's. */
static void claim(struct blame *b, uint64_t begin, uint64_t end, const cairn_change *change)
{
    struct piece *open = b->open;
    size_t count = b->open_count;
    b->open = NULL;
    b->open_count = b->open_capacity = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t from = open[i].begin > begin ? open[i].begin : begin;
        uint64_t to = open[i].end < end ? open[i].end : end;
        if (from >= to) {
            push(b, &b->open, &b->open_count, &b->open_capacity, open[i]);
            continue;
        }
        push(b, &b->done, &b->done_count, &b->done_capacity,
             (struct piece){from, to, change->version, change->kind});
        push(b, &b->open, &b->open_count, &b->open_capacity,
             (struct piece){open[i].begin, from, 0, 0});
        push(b, &b->open, &b->open_count, &b->open_capacity, (struct piece){to, open[i].end, 0, 0});
    }
    free(open);
}

static int add_change(void *arg, const cairn_change *change)
{
    struct blame *b = arg;
    switch (change->kind) {
    case CAIRN_CHANGE_WRITE:
        claim(b, change->offset, change->offset + change->len, change);
        break;
    case CAIRN_CHANGE_RESIZE:
        claim(b, change->offset, change->size, change); /* grown: zeros from the old end on */
        break;
    case CAIRN_CHANGE_BIRTH:
    case CAIRN_CHANGE_UNKNOWN:
        claim(b, 0, UINT64_MAX, change);
        break;
    default:
        break;
    }
    return b->failed || b->open_count == 0;
}

static int by_begin(const void *a, const void *b)
{
    const struct piece *x = a;
    const struct piece *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin ? 1 : 0;
}

/* ---- who ---- */

/* What the shard's leader says, by version; empty when nobody says anything. */
static json_t *writers_of(struct cli *cli, const char *what, cairn_ptr ptr)
{
    char heap[64];
    json_t *nodes = NULL;
    json_t *writers = json_object();
    size_t i;
    size_t k;
    const json_t *node;
    json_t *writer;
    bool served = false;
    (void)snprintf(heap, sizeof heap, "%.*s", (int)strcspn(what, "/"), what);
    json_t *args = json_pack("{s:s,s:o}", "heap", heap, "ptr", cli_u64(ptr.word));
    int rv = cli_ask_all(cli, "writers", args, &nodes);
    json_array_foreach(nodes, i, node)
    {
        const json_t *answer = json_object_get(node, "answer");
        served = served || json_is_true(json_object_get(answer, "serving"));
        json_array_foreach(json_object_get(answer, "writers"), k, writer)
        {
            json_object_set(writers, json_string_value(json_object_get(writer, "version")), writer);
        }
    }
    json_decref(nodes);
    if (rv != 0 || !served) {
        cli_warn(cli, "nobody could say who made the changes: %s",
                 rv != 0 ? cairn_errormsg() : "no node that answers leads the shard");
    }
    return writers;
}

/* The user's name; else the hash that the session keeps of it. */
static json_t *user_of(const json_t *writer)
{
    char text[32];
    const char *name = json_string_value(json_object_get(writer, "user"));
    const char *owner = json_string_value(json_object_get(writer, "owner"));
    if (name == NULL && owner != NULL) {
        (void)snprintf(text, sizeof text, "#%s", owner);
        name = text;
    }
    return json_string(name != NULL ? name : "");
}

static void add_writers(json_t *rows, const json_t *writers)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        json_t *writer =
            json_object_get(writers, json_string_value(json_object_get(row, "version")));
        json_object_set_new(row, "user", user_of(writer));
        json_object_set(row, "writer", writer != NULL ? writer : json_null());
    }
}

/* ---- what ---- */

static json_t *rows_of(struct blame *b)
{
    static const char *const kinds[] = {"(older)", "write", "resize", "birth", "free"};
    json_t *rows = json_array();
    if (b->done_count > 0) { /* of an object that isn't yet, there is nothing */
        qsort(b->done, b->done_count, sizeof *b->done, by_begin);
    }
    for (size_t i = 0; i < b->done_count; i++) {
        const struct piece *p = &b->done[i];
        json_array_append_new(
            rows, json_pack("{s:I,s:I,s:s,s:o,s:o}", "offset", (json_int_t)p->begin, "length",
                            (json_int_t)(p->end - p->begin), "kind", kinds[p->kind], "version",
                            cli_u64(p->version), "time", cli_time(p->version)));
    }
    return rows;
}

int verb_obj_blame(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"OFFSET", "offset", true}, {"BYTES", "length", true},    {"CHANGE", "kind", false},
        {"USER", "user", false},    {"VERSION", "version", true}, {"TIME", "time", false}};
    cairn_heap *heap;
    cairn_ptr ptr;
    cairn_object object;
    struct blame b = {0};
    if (cli->argc != 1) {
        return cli_usage(cli, "obj blame HEAP/ROOT|HEAP/POINTER");
    }
    int code = cli_object(cli, cli->argv[0], &heap, &ptr);
    if (code != 0) {
        return code;
    }
    int rv = cairn_stat(heap, ptr, &object);
    if (rv == 0) {
        push(&b, &b.open, &b.open_count, &b.open_capacity, (struct piece){0, object.size, 0, 0});
        rv = cairn_history(heap, ptr, add_change, &b);
    }
    cairn_heap_close(heap);
    if (rv == 0 && !b.failed) {
        cairn_change older = {.version = object.version};
        while (b.open != NULL && b.open_count > 0) { /* in a heap that keeps no history */
            claim(&b, b.open[0].begin, b.open[0].end, &older);
        }
    }
    json_t *rows = rows_of(&b);
    json_t *writers = rv == 0 ? writers_of(cli, cli->argv[0], ptr) : NULL;
    add_writers(rows, writers);
    json_decref(writers);
    free(b.done);
    free(b.open);
    if (rv != 0 || b.failed) {
        json_decref(rows);
        return rv != 0 ? cli_fail(cli, rv, cli->argv[0])
                       : cli_error(cli, CAIRN_E_NOMEM, "out of memory");
    }
    cli_answer(cli, json_pack("{s:o,s:o}", "pointer", cli_ptr(ptr), "ranges", rows), rows, columns,
               sizeof columns / sizeof columns[0], NULL);
    return EXIT_OK;
}
