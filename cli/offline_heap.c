/* Offline: the images in a stopped node's data directory, or in an embedded one. What the log holds
 * beyond a checkpoint isn't in them. Reads, never changes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/survey.h"
#include "base/env_uv.h"
#include "cli/cli.h"
#include "replica/replica.h"

#define IMAGES_MAX   1024u
#define FINDINGS_MAX 1000u
#define CELLS        512u
#define DIR_BYTES    (OFFLINE_BYTES_MAX + 32) /* of an image: "/shards/", 16 digits */

struct image_found {
    char dir[DIR_BYTES];
    uint64_t uid;
};

struct walk {
    struct cli *cli;
    struct env *env;
    const char *parent;
    struct image_found *found;
    size_t count;
    json_t *rows;
    bool checking; /* then damage is a finding */
    bool embedded;
    json_t *names; /* type number -> name */
    size_t failed;
    int err; /* of the last failure */
    void (*look)(struct walk *walk, json_t *row, struct heap *heap);
};

static void add_image(void *arg, const char *name)
{
    struct walk *walk = arg;
    char *end;
    uint64_t uid = strtoull(name, &end, 16);
    const struct cli *cli = walk->cli;
    if (strlen(name) != 16 || *end != 0 || walk->count == IMAGES_MAX ||
        (cli->uid != 0 && cli->uid != uid)) {
        return;
    }
    struct image_found *found = &walk->found[walk->count++];
    found->uid = uid;
    (void)snprintf(found->dir, sizeof found->dir, "%s/%s", walk->parent, name);
}

/* The mode that wrote an image shows in its files. */
static enum image_mode mode_of(struct env *env, const char *dir)
{
    char path[DIR_BYTES + 16];
    struct env_file *file;
    (void)snprintf(path, sizeof path, "%s/image.pm", dir);
    if (env_file_open(env, path, ENV_OPEN_READ, &file) != 0) {
        return IMAGE_DISK;
    }
    env_file_close(env, file);
    return IMAGE_PMEM;
}

/* Not running: nobody else may have the directory's lock. */
static int check_stopped(struct walk *walk, const char *dir)
{
    char path[OFFLINE_BYTES_MAX + 8];
    struct env_file *file;
    (void)snprintf(path, sizeof path, "%s/lock", dir);
    if (env_file_open(walk->env, path, ENV_OPEN_WRITE, &file) != 0) {
        return 0; /* a copy of a directory has none */
    }
    int rv = env_file_lock(walk->env, file);
    env_file_close(walk->env, file);
    return rv == ERR_LOCKED ? rv : 0;
}

static void on_finding(void *arg, enum heap_severity severity, const char *code, const char *text)
{
    json_array_append_new(arg, json_pack("{s:s,s:s,s:o}", "severity",
                                         severity == HEAP_FINDING_DANGLING ? "dangling" : "damage",
                                         "code", code, "text", cli_text(text)));
}

static void add_findings(json_t *row, json_t *list, uint64_t damage)
{
    json_t *finding;
    size_t i;
    json_int_t dangling = 0;
    json_array_foreach(list, i, finding)
    {
        dangling +=
            strcmp(json_string_value(json_object_get(finding, "severity")), "dangling") == 0;
    }
    json_object_set_new(row, "damage", json_integer((json_int_t)damage));
    json_object_set_new(row, "dangling", json_integer(dangling));
    json_object_set_new(row, "findings", list);
}

/* An image that doesn't load, for this reason. */
static void check_damaged(struct walk *walk, const struct image_found *found, json_t *row,
                          const char *reason)
{
    json_t *list = json_array();
    uint64_t damage = 0;
    int rv = image_check(walk->env, found->dir, found->uid, mode_of(walk->env, found->dir),
                         FINDINGS_MAX, on_finding, list, &damage, NULL);
    if (rv != 0 || damage == 0) {
        on_finding(list, HEAP_FINDING_DAMAGE, "image", reason);
        damage = damage == 0 ? 1 : damage;
    }
    add_findings(row, list, damage);
    json_array_append_new(walk->rows, row);
}

static void look_at(struct walk *walk, const struct image_found *found)
{
    struct heap *heap = NULL;
    struct err_text e = {""};
    struct heap_opts opts;
    char uid[24];
    (void)snprintf(uid, sizeof uid, "%" PRIu64, found->uid);
    json_t *row =
        json_pack("{s:s,s:s,s:o}", "node", "(offline)", "uid", uid, "dir", cli_text(found->dir));
    int rv =
        image_read(walk->env, found->dir, found->uid, mode_of(walk->env, found->dir), &heap, &e);
    if (rv == ERR_NOTFOUND) {
        json_object_set_new(row, "shard", json_integer(0));
        json_object_set_new(row, "note", json_string("no checkpoint yet"));
        cli_warn(walk->cli, "shard %s has no checkpoint yet: all of it is in the log", uid);
        json_decref(row);
        return;
    }
    if (rv != 0) {
        walk->err = rv;
        json_object_set_new(row, "shard", json_integer(0));
        if (rv == ERR_CORRUPT && walk->checking) {
            check_damaged(walk, found, row, e.text);
            return;
        }
        walk->failed++;
        cli_warn(walk->cli, "shard %s: %s", uid, e.text[0] != 0 ? e.text : cairn_strerror(rv));
        json_decref(row);
        return;
    }
    heap_get_opts(heap, &opts);
    json_object_set_new(row, "heap_id", json_integer((json_int_t)opts.heap_id));
    json_object_set_new(row, "shard", json_integer(opts.shard));
    json_object_set_new(row, "index", json_integer((json_int_t)heap_index(heap)));
    walk->look(walk, row, heap);
    heap_free(heap);
    json_array_append_new(walk->rows, row);
}

/* Which heap a name is, from the catalogue's image: its id, or in an embedded directory its uid; 0
 * if it can't be told. */
static uint64_t heap_id_of(struct walk *walk, const char *parent, const char *name)
{
    char dir[DIR_BYTES];
    struct heap *heap = NULL;
    struct slice value;
    uint64_t id = 0;
    (void)snprintf(dir, sizeof dir, "%s/%016" PRIx64, parent, (uint64_t)SHARD_META);
    if (image_read(walk->env, dir, SHARD_META, mode_of(walk->env, dir), &heap, NULL) == 0) {
        if (heap_map_get(heap, HEAP_MAP_CATALOG, slice_of(name, strlen(name)), &value) == 0 &&
            value.len >= sizeof id) {
            memcpy(&id, value.data,
                   sizeof id); /* first of a node's record, and of an embedded one */
        }
        heap_free(heap);
    }
    return id;
}

static int by_uid(const void *a, const void *b)
{
    uint64_t x = ((const struct image_found *)a)->uid;
    uint64_t y = ((const struct image_found *)b)->uid;
    return x < y ? -1 : x > y ? 1 : 0;
}

/* Exit code, said already, or 0. */
static int walk_images(struct cli *cli, struct walk *walk, const char *usage)
{
    static const char *const below[] = {"/shards", "/heaps", ""};
    char parent[OFFLINE_BYTES_MAX + 8] = "";
    if (cli->argc > 1) {
        return cli_usage(cli, usage);
    }
    walk->cli = cli;
    walk->found = calloc(IMAGES_MAX, sizeof *walk->found);
    int rv = walk->found == NULL ? CAIRN_E_NOMEM : env_uv_open(&walk->env);
    if (rv == 0 && check_stopped(walk, cli->offline) != 0) {
        env_uv_close(walk->env);
        free(walk->found);
        return cli_error(cli, CAIRN_E_LOCKED,
                         "%s is in use: stop the process first, or leave --offline away",
                         cli->offline);
    }
    if (rv != 0) {
        free(walk->found);
        return cli_error(cli, rv, "%s", cairn_strerror(rv));
    }
    for (size_t i = 0; i < sizeof below / sizeof below[0] && walk->count == 0; i++) {
        (void)snprintf(parent, sizeof parent, "%s%s", cli->offline, below[i]);
        walk->parent = parent;
        walk->embedded = i == 1;
        (void)env_dir_list(walk->env, parent, add_image, walk);
    }
    qsort(walk->found, walk->count, sizeof walk->found[0], by_uid);
    walk->rows = json_array();
    uint64_t id = cli->argc == 1 ? heap_id_of(walk, parent, cli->argv[0]) : 0;
    int code = 0;
    if (walk->count == 0) {
        code = cli->uid == 0
                   ? cli_error(cli, CAIRN_E_NOTFOUND, "no images below %s", cli->offline)
                   : cli_error(cli, CAIRN_E_NOTFOUND, "no image of shard %" PRIu64 " below %s",
                               cli->uid, cli->offline);
    } else if (cli->argc == 1 && id == 0) {
        code =
            cli_error(cli, CAIRN_E_NOTFOUND,
                      "the catalogue in %s, as of its checkpoint, has no heap %s; without a name "
                      "all are taken",
                      cli->offline, cli->argv[0]);
    }
    for (size_t i = 0; code == 0 && i < walk->count; i++) {
        if (id != 0 && walk->found[i].uid == SHARD_META) {
            continue;
        }
        if (id != 0 && walk->embedded && walk->found[i].uid != id) {
            continue;
        }
        size_t before = json_array_size(walk->rows);
        look_at(walk, &walk->found[i]);
        const json_t *heap_id = json_object_get(json_array_get(walk->rows, before), "heap_id");
        if (id != 0 && !walk->embedded && heap_id != NULL &&
            (uint64_t)json_integer_value(heap_id) != id) {
            json_array_remove(walk->rows, before);
        }
    }
    env_uv_close(walk->env);
    free(walk->found);
    if (code == 0 && json_array_size(walk->rows) == 0 && walk->failed > 0) {
        code = cli_error(cli, walk->err, "no image could be read");
    }
    if (code != 0) {
        json_decref(walk->rows);
    }
    return code;
}

static const char *title(const struct cli *cli)
{
    return cli->argc == 1 ? cli->argv[0] : "(all)";
}

/* ---- check ---- */

static void look_check(struct walk *walk, json_t *row, struct heap *heap)
{
    struct heap_stats stats;
    json_t *list = json_array();
    (void)walk;
    heap_get_stats(heap, &stats);
    uint64_t damage = heap_check_all(heap, FINDINGS_MAX, on_finding, list);
    json_object_set_new(row, "objects", json_integer((json_int_t)stats.object_count));
    add_findings(row, list, damage);
}

int offline_heap_check(struct cli *cli)
{
    struct walk walk = {.look = look_check, .checking = true};
    int code = walk_images(cli, &walk, "--offline DIR heap check [HEAP] [--shard UID]");
    if (code == 0) {
        code = cli_answer_check(cli, title(cli), walk.rows, walk.failed);
        json_decref(walk.rows);
    }
    return code;
}

/* ---- stats ---- */

static void add_stat(void *arg, const char *name, uint64_t value)
{
    json_object_set_new(arg, name, json_integer((json_int_t)value));
}

static void look_stats(struct walk *walk, json_t *row, struct heap *heap)
{
    struct heap_stats s;
    (void)walk;
    heap_get_stats(heap, &s);
    heap_stats_each(&s, add_stat, row);
}

static json_t *name_text(struct slice name)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%.*s", (int)name.len, (const char *)name.data);
    return cli_text(text);
}

static void look_types(struct walk *walk, json_t *row, struct heap *heap)
{
    struct survey *survey = calloc(1, sizeof *survey);
    struct heap_type *type = calloc(1, sizeof *type);
    json_t *list = json_array();
    if (survey != NULL && survey_types(heap, survey) == 0) {
        for (uint32_t i = 0; i < survey->type_count; i++) {
            const struct survey_type *t = &survey->types[i];
            json_array_append_new(list, json_pack("{s:I,s:I,s:I,s:I}", "type", (json_int_t)t->type,
                                                  "objects", (json_int_t)t->count, "bytes",
                                                  (json_int_t)t->bytes, "block_bytes",
                                                  (json_int_t)t->block_bytes));
        }
    }
    uint32_t after = 0;
    while (type != NULL && heap_type_next(heap, after, type) == 0) {
        char key[16];
        after = type->number;
        (void)snprintf(key, sizeof key, "%u", after);
        json_object_set_new(walk->names, key, name_text(type->name));
    }
    free(type);
    free(survey);
    json_object_set_new(row, "types", list);
}

int offline_heap_stats(struct cli *cli)
{
    static const char usage[] = "--offline DIR heap stats [HEAP] [--by type] [--shard UID]";
    bool by_type = cli->by != NULL && strcmp(cli->by, "type") == 0;
    if (cli->by != NULL && !by_type) {
        return cli_usage(cli, usage);
    }
    struct walk walk = {.look = by_type ? look_types : look_stats, .names = json_object()};
    int code = walk_images(cli, &walk, usage);
    if (code == 0) {
        code = by_type ? cli_answer_types(cli, title(cli), walk.rows, walk.names)
                       : cli_answer_stats(cli, title(cli), walk.rows);
        json_decref(walk.rows);
        code = code == 0 && walk.failed > 0 ? EXIT_FINDINGS : code;
    }
    json_decref(walk.names);
    return code;
}

/* ---- map ---- */

static void look_map(struct walk *walk, json_t *row, struct heap *heap)
{
    static const char contents[] = "fsei";
    struct survey_cell cells[CELLS];
    json_t *list = json_array();
    (void)walk;
    uint64_t bytes = survey_map(heap, cells, CELLS);
    for (uint32_t i = 0; i < CELLS; i++) {
        char text[8];
        (void)snprintf(text, sizeof text, "%c%u", contents[cells[i].content & 3u],
                       (cells[i].used_permille + 9u) / 10u);
        json_array_append_new(list, json_string(text));
    }
    json_object_set_new(row, "cell_bytes", json_integer((json_int_t)bytes));
    json_object_set_new(row, "cells", list);
}

int offline_heap_map(struct cli *cli)
{
    struct walk walk = {.look = look_map};
    int code = walk_images(cli, &walk, "--offline DIR heap map [HEAP] [--shard UID]");
    if (code == 0) {
        cli_answer_map(cli, title(cli), walk.rows);
        json_decref(walk.rows);
        code = walk.failed > 0 ? EXIT_FINDINGS : EXIT_OK;
    }
    return code;
}
