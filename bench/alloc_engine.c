/* Cairn's engine (alloc/) by itself. Without a commit the volatile part of applying alone:
 * placement, slot, dirty marks, the bytes; called "commands", steps go through the log's encoding
 * and heap_apply() as well, as every replica runs them. With a commit: pmem mode, where it is one
 * drain of the micro-journal. What is committed together is one entry, as a replica's batch is.
 * Disk mode is measured through the SDK (alloc_embedded.c), since there the log is what makes a
 * step durable. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/heap.h"
#include "alloc/image.h"
#include "base/env_uv.h"
#include "bench/alloc_driver.h"
#include "embed/record.h"

#define UID           7u
#define TABLE_BYTES   ((uint64_t)1 << 20)
#define TABLE_ENTRIES (TABLE_BYTES / 8)
#define ENTRY_STEPS   64u /* in an entry where nothing is committed */

static struct env *env;
static struct image *image;
static struct heap *heap;
static unsigned commit_every, pending;
static uint64_t index_next, table_object;
static bool in_entry;
static struct buf encoded;

static void check(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "cairn: %s: %s\n", what, err_text_of(rv));
        exit(1);
    }
}

static uint64_t begin(void)
{
    if (!in_entry) {
        heap_begin(heap, ++index_next, 1, 0);
        in_entry = true;
    }
    return heap_next_version(heap);
}

static void commit(void)
{
    if (in_entry) {
        heap_end(heap);
        in_entry = false;
    }
    if (image != NULL) {
        check(image_commit(image, heap), "commit");
    }
    pending = 0;
}

static void start(const char *dir, uint64_t capacity, unsigned every, bool create)
{
    struct err_text text = {.text = ""};
    commit_every = every;
    if (every > 0) {
        struct image_opts opts = {.dir = dir, .uid = UID, .mode = IMAGE_PMEM};
        check(env_uv_open(&env), "environment");
        int rv = image_open(env, &opts, &image, &heap, &text);
        if (rv != 0) {
            fprintf(stderr, "cairn: %s\n", text.text);
            exit(1);
        }
    }
    if (create) {
        struct heap_opts opts = {.uid = UID, .heap_id = 1, .shard = 0, .bytes_max = capacity};
        check(heap_create(&opts, &heap), "create");
        commit();
    }
    index_next = heap_index(heap);
}

static void stop(void)
{
    commit();
    if (image != NULL) {
        image_seal(image, heap);
    }
    heap_free(heap);
    if (image != NULL) {
        image_close(image);
        env_uv_close(env);
    }
}

static void set_commit(unsigned steps)
{
    commit();
    commit_every = steps;
}

static uint64_t take(const void *fill, size_t bytes)
{
    uint64_t object = 0;
    uint64_t version = begin();
    int rv = heap_alloc(heap, version, bytes, 1, slice_of(fill, bytes), &object);
    if (rv != ERR_NOSPACE) {
        check(rv, "alloc");
    }
    return object;
}

static void give(uint64_t object)
{
    uint64_t version = begin();
    check(heap_free_object(heap, version, object), "free");
}

/* ---- whole commands: encoded, read, applied ---- */

static uint64_t apply_encoded(const struct heap_command *command)
{
    struct record record = {.kind = (uint16_t)command->kind, .command = *command};
    struct record_reader reader;
    struct heap_outcome outcome;
    buf_clear(&encoded);
    check(record_begin(&encoded), "encode");
    check(record_append(&encoded, &record), "encode");
    check(record_read_open(&reader, slice_of(encoded.data, encoded.len)), "decode");
    check(record_read(&reader, &record), "decode");
    check(heap_apply(heap, begin(), &record.command, &outcome), "apply");
    if (outcome.code != ERR_NOSPACE) {
        check(outcome.code, "command");
    }
    return outcome.value;
}

static uint64_t take_command(const void *fill, size_t bytes)
{
    return apply_encoded(&(const struct heap_command){
        .kind = HEAP_COMMAND_ALLOC, .size = bytes, .type = 1, .data = slice_of(fill, bytes)});
}

static void give_command(uint64_t object)
{
    (void)apply_encoded(&(const struct heap_command){.kind = HEAP_COMMAND_FREE, .ptr = object});
}

/* ---- further workloads ---- */

static void update(uint64_t object, const void *fill, size_t bytes)
{
    uint64_t version = begin();
    check(heap_write(heap, version, object, 0, slice_of(fill, bytes)), "write");
}

static void replace(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    uint64_t object = 0;
    uint64_t version = begin();
    if (table_object == 0) { /* not before it is needed: it would count as overhead */
        check(heap_alloc(heap, version, TABLE_BYTES, 1, slice_of(NULL, 0), &table_object), "table");
    }
    check(heap_alloc(heap, version, bytes, 1, slice_of(fill, bytes), &object), "alloc");
    check(heap_write(heap, version, table_object, i % TABLE_ENTRIES * 8,
                     slice_of(&object, sizeof object)),
          "publish");
    check(heap_free_object(heap, version, table[i]), "free");
    table[i] = object;
}

static void step(void)
{
    if (++pending >= (commit_every > 0 ? commit_every : ENTRY_STEPS)) {
        commit();
    }
}

static uint64_t footprint(void)
{
    struct heap_stats stats;
    heap_get_stats(heap, &stats);
    return stats.arena_bytes;
}

static void compact(void)
{
    commit();
    struct heap_defrag step = {.left = true};
    while (step.left) {
        (void)begin();
        check(heap_defrag(heap, HEAP_DEFRAG_BYTES_MAX, &step), "defrag");
        commit();
    }
    (void)begin();
    while (heap_trim(heap, UINT64_MAX) > 0) {
    }
    commit();
}

int main(int argc, char **argv)
{
    struct alloc_system system = {
        .name = "cairn",
        .open = start,
        .close = stop,
        .commit_every = set_commit,
        .alloc = take,
        .free = give,
        .update = update,
        .replace = replace,
        .step = step,
        .footprint = footprint,
        .compact = compact,
    };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--commands") == 0) { /* the driver passes over it */
            system.alloc = take_command;
            system.free = give_command;
        }
    }
    return alloc_driver_main(argc, argv, &system);
}
