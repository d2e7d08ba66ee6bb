/* Cairn's engine (alloc/) by itself. Without a commit the volatile part of applying alone:
 * placement, slot, dirty marks, the bytes; called "commands", steps go through the log's encoding
 * and heap_apply() as well, as every replica runs them. With a commit: pmem mode, where it is one
 * drain of the micro-journal. What is committed together is one entry, as a replica's batch is: its
 * steps are known before it is applied, so that memory of the next ones is asked for while one is
 * (alloc/ahead.h), as replicas and the embedded mode do.
 * Disk mode is measured through the SDK (alloc_embedded.c), since there the log is what makes a
 * step durable. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/ahead.h"
#include "alloc/command.h"
#include "alloc/heap.h"
#include "alloc/image.h"
#include "base/env_uv.h"
#include "bench/alloc_driver.h"
#include "embed/record.h"

#define UID            7u
#define TABLE_BYTES    ((uint64_t)1 << 20)
#define TABLE_ENTRIES  (TABLE_BYTES / 8)
#define ENTRY_STEPS    64u /* in an entry where nothing is committed */
#define STEPS_MAX      1024u
#define COMMANDS_AHEAD 8u /* as embed/apply.c */
#define COMMANDS_READ  16u

static struct env *env;
static struct image *image;
static struct heap *heap;
static unsigned commit_every, pending;
static uint64_t index_next, table_object;
static bool in_entry;
static struct buf encoded;
static unsigned step_count; /* that are to be applied */
static void (*apply)(void);

static _Noreturn void fail(int rv, const char *what)
{
    fprintf(stderr, "cairn: %s: %s\n", what, err_text_of(rv));
    exit(1);
}

static inline void check(int rv, const char *what)
{
    if (__builtin_expect(rv != 0, 0)) {
        fail(rv, what);
    }
}

static inline uint64_t begin(void)
{
    if (!in_entry) {
        heap_begin(heap, ++index_next, 1, 0);
        in_entry = true;
    }
    return heap_next_version(heap);
}

static void commit(void)
{
    if (step_count > 0) {
        apply();
    }
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

static inline uint64_t take_now(const void *fill, size_t bytes)
{
    uint64_t object = 0;
    uint64_t version = begin();
    int rv = heap_alloc(heap, version, bytes, 1, slice_of(fill, bytes), &object);
    if (rv != ERR_NOSPACE) {
        check(rv, "alloc");
    }
    return object;
}

static uint64_t take(const void *fill, size_t bytes)
{
    return take_now(fill, bytes);
}

static inline void give_now(uint64_t object)
{
    uint64_t version = begin();
    check(heap_free_object(heap, version, object), "free");
}

static void give(uint64_t object)
{
    give_now(object);
}

/* ---- an entry's steps: known in advance, so that memory is asked for ---- */

#define SLOT_AHEAD   12u /* steps */
#define OBJECT_AHEAD 4u
#define NOWHERE      UINT32_MAX

struct step {
    uint64_t *place; /* in the driver's table, PENDING until the step is done */
    uint64_t object; /* that goes; 0: none */
    const void *fill;
    size_t bytes;
    uint32_t entry; /* of the heap's table, where the new object is published; or NOWHERE */
};
#define PENDING 1u
static struct step steps[STEPS_MAX];

static void publish_now(uint32_t entry, uint64_t object)
{
    uint64_t version = begin();
    check(heap_write(heap, version, table_object, (uint64_t)entry * 8,
                     slice_of(&object, sizeof object)),
          "publish");
}

/* The slots of the first steps are asked for before the first one begins, their objects, which the
 * slots say, when that has made its new one, if there is anything to be done by then. */
static void apply_step(unsigned i)
{
    const struct step *s = &steps[i];
    if (s->entry == NOWHERE) {
        if (s->object != 0) {
            give_now(s->object);
        }
        *s->place = take_now(s->fill, s->bytes);
        return;
    }
    uint64_t object = take_now(s->fill, s->bytes);
    if (i == 0) {
        for (unsigned j = 0; j < step_count && j < OBJECT_AHEAD; j++) {
            heap_foresee_object(heap, steps[j].object);
        }
    }
    publish_now(s->entry, object);
    give_now(s->object);
    *s->place = object;
}

static void apply_steps(void)
{
    for (unsigned i = 0; i < step_count && i < SLOT_AHEAD; i++) {
        heap_foresee_slot(heap, steps[i].object);
    }
    for (unsigned i = 0; i < step_count; i++) {
        if (i + SLOT_AHEAD < step_count) {
            heap_foresee_slot(heap, steps[i + SLOT_AHEAD].object);
        }
        if (i + OBJECT_AHEAD < step_count) {
            heap_foresee_object(heap, steps[i + OBJECT_AHEAD].object);
        }
        apply_step(i);
    }
    step_count = 0;
}

static void step_add(uint64_t *table, unsigned i, const void *fill, size_t bytes, uint32_t entry)
{
    if (table[i] == PENDING || step_count == STEPS_MAX) {
        apply_steps();
    }
    steps[step_count++] = (struct step){&table[i], table[i], fill, bytes, entry};
    table[i] = PENDING;
}

static void exchange(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    step_add(table, i, fill, bytes, NOWHERE);
}

static void replace(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    if (table_object == 0) { /* not before it is needed: it would count as overhead */
        check(heap_alloc(heap, begin(), TABLE_BYTES, 1, slice_of(NULL, 0), &table_object), "table");
    }
    step_add(table, i, fill, bytes, i % TABLE_ENTRIES);
}

/* ---- whole commands: encoded, read, applied ---- */

/* As an entry is applied everywhere: each command is read some before it is its turn. */
static void apply_encoded(void)
{
    struct record records[COMMANDS_READ];
    struct record_reader reader;
    struct heap_outcome outcome;
    unsigned read = 0;
    check(record_read_open(&reader, slice_of(encoded.data, encoded.len)), "decode");
    for (unsigned i = 0, done = 0;; i++) {
        while (read <= i + COMMANDS_AHEAD &&
               record_read(&reader, &records[read % COMMANDS_READ]) == 0) {
            heap_foresee_slot(heap, records[read++ % COMMANDS_READ].command.ptr);
        }
        if (i == read) {
            break;
        }
        if (i + COMMANDS_AHEAD / 2 < read) {
            heap_foresee_object(heap,
                                records[(i + COMMANDS_AHEAD / 2) % COMMANDS_READ].command.ptr);
        }
        const struct heap_command *c = &records[i % COMMANDS_READ].command;
        check(heap_apply(heap, begin(), c, &outcome), "apply");
        check(outcome.code, "command");
        if (c->kind == HEAP_COMMAND_ALLOC) {
            *steps[done++].place = outcome.value;
        }
    }
    step_count = 0;
    buf_clear(&encoded);
}

static void exchange_commands(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    if (table[i] == PENDING || step_count == STEPS_MAX) {
        apply_encoded();
    }
    if (encoded.len == 0) {
        check(record_begin(&encoded), "encode");
    }
    if (table[i] != 0) {
        const struct embedded_request r = {.op = EMBEDDED_FREE, .ptr = table[i]};
        check(record_append(&encoded, &r), "encode");
    }
    const struct embedded_request r = {
        .op = EMBEDDED_ALLOC, .size = bytes, .type = 1, .data = slice_of(fill, bytes)};
    check(record_append(&encoded, &r), "encode");
    steps[step_count++] = (struct step){.place = &table[i]};
    table[i] = PENDING;
}

/* ---- further workloads ---- */

static void update(uint64_t object, const void *fill, size_t bytes)
{
    uint64_t version = begin();
    check(heap_write(heap, version, object, 0, slice_of(fill, bytes)), "write");
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
        .exchange = exchange,
        .step = step,
        .footprint = footprint,
        .compact = compact,
    };
    apply = apply_steps;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--commands") == 0) { /* the driver passes over it */
            system.exchange = exchange_commands;
            apply = apply_encoded;
        }
    }
    return alloc_driver_main(argc, argv, &system);
}
