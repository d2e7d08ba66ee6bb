/* Directories that can't be opened as they are, each with its own text; and pmem mode without
 * memory or space. The mappings of this test say that they are persistent. */
#include <pthread.h>

#include "support/dir.h"
#include "support/test.h"

#include "base/crc.h"
#include "base/env_file.h"
#include "base/log.h"
#include "base/mem.h"
#include "embed/internal.h"
#include "unit/alloc/txn_part.h"

#define HEAP_BYTES ((uint64_t)8 << 20)

static struct env_ops ops;
static struct env files = {&ops, 1};
static struct dir dir;
static struct embed_settings settings;
static struct embedded *db;
static struct embedded_heap *heap;

static int (*real_map)(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem);

static int pmem_map(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem)
{
    int rv = real_map(file, bytes, out, is_pmem);
    *is_pmem = rv == 0;
    return rv;
}

static int volatile_map(struct env_file *file, uint64_t bytes, void **out, bool *is_pmem)
{
    int rv = real_map(file, bytes, out, is_pmem);
    *is_pmem = false;
    return rv;
}

static int begin(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    env_file_ops(&ops);
    real_map = ops.file_map;
    ops.file_map = pmem_map;
    dir_open(&dir);
    settings = (struct embed_settings){
        .mode = EMBED_MODE_DISK, .segment_bytes = 2u << 20, .log_bytes_max = 64u << 20};
    (void)dir_path(&dir, "db", settings.dir);
    return 0;
}

static int end(void **state)
{
    (void)state;
    dir_close(&dir);
    return 0;
}

static void open_db(void)
{
    struct err_text e = {{0}};
    int rv = embed_open(&settings, &files, &db, &e);
    if (rv != 0) {
        print_error("%s\n", e.text);
    }
    assert_int_equal(rv, 0);
    rv = embed_heap_create(db, slice_of("h", 1), HEAP_BYTES, 0, 30000, NULL);
    assert_true(rv == 0 || rv == ERR_EXISTS);
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &heap, NULL), 0);
}

static void refused(int err, const char *text)
{
    struct embedded *none = NULL;
    struct err_text e = {{0}};
    assert_int_equal(embed_open(&settings, &files, &none, &e), err);
    assert_null(none);
    if (strstr(e.text, text) == NULL) {
        print_error("\"%s\" isn't in \"%s\"\n", text, e.text);
        fail();
    }
}

static struct embedded_call run(const struct embedded_request *request)
{
    struct embedded_call call = {.request = request};
    embed_run(heap, &call, 30000);
    return call;
}

static uint64_t alloc(uint64_t size)
{
    struct embedded_call call =
        run(&(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = size});
    assert_int_equal(call.err, 0);
    return call.value;
}

/* ---- DIR/instance ---- */

static void identity_change(void (*change)(struct identity_block *block))
{
    char path[DIR_PATH_BYTES];
    struct identity_block block;
    (void)dir_path(&dir, "db/instance", path);
    dir_file_read(path, 0, &block, sizeof block);
    change(&block);
    block.crc = crc32c(0, &block, offsetof(struct identity_block, crc));
    dir_file_write(path, 0, &block, sizeof block);
}

static void newer(struct identity_block *block)
{
    block->format++;
}

static void older(struct identity_block *block)
{
    block->format--;
}

static void strange(struct identity_block *block)
{
    block->mode = 9;
}

static void not_strange(struct identity_block *block)
{
    block->mode = IDENTITY_DISK;
}

static void an_identity_of_another_time_is_refused(void **state)
{
    (void)state;
    open_db();
    embed_close(db);
    identity_change(newer);
    refused(ERR_VERSION, "this program knows");
    identity_change(older);
    identity_change(strange);
    refused(ERR_CORRUPT, "fields out of bounds");
    identity_change(not_strange);
    open_db();
    embed_close(db);
}

static void a_mode_is_for_ever(void **state)
{
    (void)state;
    open_db();
    embed_close(db);
    settings.mode = EMBED_MODE_PMEM;
    refused(ERR_INVAL, "was made in disk mode");
    dir_remove(settings.dir);
    open_db();
    embed_close(db);
    settings.mode = EMBED_MODE_DISK;
    refused(ERR_INVAL, "was made in pmem mode");
}

static void pmem_mode_needs_pmem(void **state)
{
    (void)state;
    ops.file_map = volatile_map;
    settings.mode = EMBED_MODE_PMEM;
    refused(ERR_UNSUPPORTED, "use mode=disk");
}

/* ---- an image and its log ---- */

static void copy(const char *from, const char *to)
{
    char a[DIR_PATH_BYTES];
    char b[DIR_PATH_BYTES];
    struct env_ops real;
    struct env env = {&real, 1};
    env_file_ops(&real);
    (void)dir_path(&dir, to, b);
    dir_remove(b);
    assert_int_equal(env_dir_create(&env, b), 0);
    dir_copy(dir_path(&dir, from, a), b);
}

static void checkpoint(void)
{
    inline_lock(&db->env);
    embed__checkpoint_want(heap);
    embed__heap_settle(heap);
    uint64_t at = heap->checkpoint_index;
    uint64_t index = heap_index(heap->heap);
    inline_unlock(&db->env);
    assert_int_equal(at, index);
}

static void an_image_ahead_of_its_log_is_refused(void **state)
{
    (void)state;
    open_db();
    (void)alloc(64);
    embed_close(db);
    copy("db", "before");
    open_db();
    (void)alloc(64);
    embed_close(db);
    copy("db/heaps/0000000000000002", "image");
    copy("before", "db");
    copy("image", "db/heaps/0000000000000002");
    refused(ERR_CORRUPT, "has an image of entry");
}

/* Two lives went on from the same state; the image is of one, the log of the other. */
static void an_image_of_another_life_is_refused(void **state)
{
    (void)state;
    open_db();
    (void)alloc(64);
    embed_close(db);
    copy("db", "before");
    open_db();
    (void)alloc(64);
    checkpoint();
    (void)alloc(64);
    embed_close(db);
    copy("db/heaps/0000000000000002", "image");
    copy("before", "db");
    open_db();
    (void)alloc(64);
    embed_close(db);
    open_db();
    (void)alloc(64);
    embed_abandon(db);
    copy("image", "db/heaps/0000000000000002");
    refused(ERR_CORRUPT, "isn't the one that the image was made of");
}

static void a_missing_image_in_pmem_mode_is_refused(void **state)
{
    (void)state;
    settings.mode = EMBED_MODE_PMEM;
    open_db();
    (void)alloc(64);
    embed_close(db);
    copy("db/heaps/0000000000000002", "image");
    char path[DIR_PATH_BYTES];
    dir_remove(dir_path(&dir, "db/heaps/0000000000000002", path));
    refused(ERR_CORRUPT, "the image is missing");
    copy("image", "db/heaps/0000000000000002");
    open_db();
    embed_close(db);
}

/* ---- memory that runs out ---- */

/* A transaction, of which each allocation fails in turn: the plan of it is made when it is applied.
 */
static unsigned memory_runs_out(const char *text)
{
    unsigned latched = 0;
    for (long n = 0;; n++) {
        dir_remove(settings.dir);
        open_db();
        static struct part part;
        uint64_t first = alloc(64);
        uint64_t ones = UINT64_MAX;
        part_begin(&part, 0);
        for (int i = 0; i < 32; i++) { /* so many that their plan isn't on the stack */
            part_write(&part, first, 0, slice_of(&ones, sizeof ones));
        }
        mem_fault(n, 1);
        struct embedded_call call = run(
            &(const struct embedded_request){.op = EMBEDDED_TRANSACT, .data = part_slice(&part)});
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        assert_true(call.err == 0 || call.err == ERR_NOMEM || call.err == ERR_INDOUBT);
        if (db->failed != 0) {
            latched++;
            assert_int_equal(call.err, ERR_INDOUBT);
            assert_non_null(strstr(db->fail_text, text));
        }
        embed_close(db);
        open_db();
        uint64_t value = 7;
        assert_int_equal(
            run(&(const struct embedded_request){
                    .op = EMBEDDED_READ, .ptr = first, .out = &value, .size = sizeof value})
                .err,
            0);
        assert_true(value == 0 || value == ones);
        assert_true(call.err == ERR_INDOUBT || value == (call.err == 0 ? ones : 0));
        assert_int_equal(heap_check(heap->heap, &(struct err_text){{0}}), 0);
        embed_close(db);
        if (hits == 0) {
            assert_int_equal(call.err, 0);
            return latched;
        }
    }
}

static void an_entry_that_finds_no_memory_ends_the_directory(void **state)
{
    (void)state;
    assert_true(memory_runs_out("can't be applied") > 0);
}

static void a_commit_that_finds_no_memory_ends_the_directory(void **state)
{
    (void)state;
    settings.mode = EMBED_MODE_PMEM;
    assert_true(memory_runs_out("failed") > 0);
}

/* ---- lists ---- */

static void lists_hold_what_there_is(void **state)
{
    (void)state;
    open_db();
    uint64_t ptr = alloc(64);
    assert_int_equal(
        run(&(const struct embedded_request){.op = EMBEDDED_SET_RETENTION, .size = 60000}).err, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(
            run(&(const struct embedded_request){.op = EMBEDDED_ADD_U64, .ptr = ptr, .delta = 1})
                .err,
            0);
    }
    struct embedded_call all =
        run(&(const struct embedded_request){.op = EMBEDDED_HISTORY, .ptr = ptr, .count = 100});
    struct embedded_call some =
        run(&(const struct embedded_request){.op = EMBEDDED_HISTORY, .ptr = ptr, .count = 1});
    assert_int_equal(all.err, 0);
    assert_int_equal(some.err, 0);
    assert_false(all.more);
    assert_true(some.more);
    assert_int_equal(all.bytes.len % some.bytes.len, 0);
    assert_int_equal(all.bytes.len / some.bytes.len, 4); /* and its birth, or three and this */
    buf_close(&all.bytes);
    buf_close(&some.bytes);

    struct embedded_call objects =
        run(&(const struct embedded_request){.op = EMBEDDED_OBJECT_LIST, .count = 100});
    assert_int_equal(objects.err, 0);
    assert_int_equal(objects.value, 0);
    size_t one = objects.bytes.len;
    assert_true(one > 0);
    buf_close(&objects.bytes);
    (void)alloc(64);
    objects = run(&(const struct embedded_request){.op = EMBEDDED_OBJECT_LIST, .count = 100});
    assert_int_equal(objects.bytes.len, 2 * one);
    buf_close(&objects.bytes);
    objects = run(&(const struct embedded_request){
        .op = EMBEDDED_OBJECT_LIST, .count = 100, .size = 1, .type = 77});
    assert_int_equal(objects.bytes.len, 0); /* none of that type */
    buf_close(&objects.bytes);
    struct embedded_call types =
        run(&(const struct embedded_request){.op = EMBEDDED_TYPE_LIST, .count = 100});
    assert_int_equal(types.err, 0);
    assert_false(types.more);
    assert_int_equal(types.bytes.len, 0);
    embed_close(db);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(an_identity_of_another_time_is_refused),
        TEST(a_mode_is_for_ever),
        TEST(pmem_mode_needs_pmem),
        TEST(an_image_ahead_of_its_log_is_refused),
        TEST(an_image_of_another_life_is_refused),
        TEST(a_missing_image_in_pmem_mode_is_refused),
        TEST(an_entry_that_finds_no_memory_ends_the_directory),
        TEST(a_commit_that_finds_no_memory_ends_the_directory),
        TEST(lists_hold_what_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
