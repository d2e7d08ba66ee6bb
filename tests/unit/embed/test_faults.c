/* What the disk may do to a directory: fail, fill up, lose bytes. The program lives in any case,
 * and nothing is guessed. */
#include <errno.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include "support/dir.h"
#include "support/fault.h"
#include "support/test.h"

#include "base/env_file.h"
#include "base/log.h"
#include "base/mem.h"
#include "embed/internal.h"

#define HEAP_BYTES ((uint64_t)4 << 20)

static struct env_ops real_ops;
static struct env real = {&real_ops, 1};
static struct fault fault;
static struct dir dir;
static struct embed_settings settings;

static int begin(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    env_file_ops(&real_ops);
    fault_init(&fault, &real);
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

static struct embedded *must_open(void)
{
    struct embedded *db = NULL;
    struct err_text e = {{0}};
    int rv = embed_open(&settings, &fault.env, &db, &e);
    if (rv != 0) {
        print_error("%s: %s\n", err_name(rv), e.text);
    }
    assert_int_equal(rv, 0);
    return db;
}

static struct embedded_heap *must_heap(struct embedded *db)
{
    struct embedded_heap *h = NULL;
    struct slice name = slice_of("h", 1);
    int rv = embed_heap_create(db, name, HEAP_BYTES, 0, 30000, NULL);
    assert_true(rv == 0 || rv == ERR_EXISTS);
    assert_int_equal(embed_heap_open(db, name, &h, NULL), 0);
    return h;
}

static int alloc_value(struct embedded_heap *h, uint64_t value, uint64_t *ptr)
{
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_ALLOC, .size = 64, .data = slice_of(&value, sizeof value)}};
    embed_run(h, &call, 30000);
    *ptr = call.value;
    return call.err;
}

static int read_value(struct embedded_heap *h, uint64_t ptr, uint64_t *value)
{
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_READ, .ptr = ptr, .out = value, .size = sizeof *value}};
    embed_run(h, &call, 30000);
    return call.err;
}

/* ---- failures ---- */

static void a_failed_sync_latches_the_directory(void **state)
{
    (void)state;
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    uint64_t first;
    uint64_t second;
    uint64_t value = 0;
    assert_int_equal(alloc_value(h, 7, &first), 0);
    fault_file(&fault, 0, -1, ERR_IO, FAULT_WRITE | FAULT_SYNC);
    assert_int_equal(alloc_value(h, 8, &second), ERR_INDOUBT);
    fault_off(&fault); /* the disk is well again, and it doesn't matter */
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = 64}};
    embed_run(h, &call, 30000);
    assert_int_equal(call.err, ERR_IO);
    assert_non_null(strstr(call.text, settings.dir));
    assert_int_equal(read_value(h, first, &value), ERR_IO);
    struct err_text e = {{0}};
    assert_int_equal(embed_heap_create(db, slice_of("x", 1), HEAP_BYTES, 0, 30000, &e), ERR_IO);
    assert_non_null(strstr(e.text, "stopped"));
    embed_close(db);
    db = must_open();
    h = must_heap(db);
    assert_int_equal(read_value(h, first, &value), 0);
    assert_int_equal(value, 7);
    assert_int_equal(alloc_value(h, 9, &second), 0);
    embed_close(db);
}

static int write_block(struct embedded_heap *h, uint64_t ptr)
{
    static uint8_t bytes[256 << 10];
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_WRITE, .ptr = ptr, .data = slice_of(bytes, sizeof bytes)}};
    embed_run(h, &call, 50);
    return call.err;
}

/* A process without a descriptor to spare, say: nothing waits for ever, and nothing is in doubt. */
static void without_a_new_segment_no_change_of_the_catalogue_waits_for_ever(void **state)
{
    (void)state;
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    struct err_text e = {{0}};
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = 256 << 10}};
    embed_run(h, &call, 30000);
    assert_int_equal(call.err, 0);
    fault_file(&fault, 0, -1, ERR_NOMEM, FAULT_OPEN);
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < 100; i++) {
        rv = write_block(h, call.value);
    }
    assert_int_equal(rv, ERR_TIMEOUT);
    assert_int_equal(embed_heap_drop(db, slice_of("h", 1), 50, &e), ERR_TIMEOUT);
    assert_non_null(strstr(e.text, "no new segment of the log can be made: "));
    fault_off(&fault);
    assert_int_equal(embed_heap_drop(db, slice_of("h", 1), 30000, &e), 0);
    embed_close(db);
}

/* Opens, makes a heap, writes, closes; what was acknowledged stands in *acked. */
static int scenario(uint64_t ptrs[8], unsigned *acked)
{
    struct embedded *db = NULL;
    struct embedded_heap *h = NULL;
    int rv = embed_open(&settings, &fault.env, &db, NULL);
    if (rv != 0) {
        return rv;
    }
    rv = embed_heap_create(db, slice_of("h", 1), HEAP_BYTES, 0, 30000, NULL);
    rv = rv == ERR_EXISTS ? 0 : rv;
    if (rv == 0) {
        rv = embed_heap_open(db, slice_of("h", 1), &h, NULL);
    }
    while (rv == 0 && *acked < 8) {
        rv = alloc_value(h, *acked + 1, &ptrs[*acked]);
        *acked += rv == 0;
    }
    embed_close(db);
    return rv;
}

static void any_operation_may_fail(void **state)
{
    (void)state;
    long runs = 0;
    for (long n = 0;; n++, runs++) {
        uint64_t ptrs[8];
        unsigned acked = 0;
        dir_remove(settings.dir);
        fault_file(&fault, n, 1, n % 2 == 0 ? ERR_IO : ERR_DISKFULL, FAULT_ALL & ~FAULT_DISK_FREE);
        int rv = scenario(ptrs, &acked);
        fault_off(&fault);
        if (fault.hits == 0) {
            assert_int_equal(rv, 0);
            assert_int_equal(acked, 8);
            break;
        }
        struct embedded *db = must_open();
        struct embedded_heap *h = must_heap(db);
        for (unsigned i = 0; i < acked; i++) {
            uint64_t value = 0;
            assert_int_equal(read_value(h, ptrs[i], &value), 0);
            assert_int_equal(value, i + 1);
        }
        embed_close(db);
    }
    assert_true(runs > 40);
}

#define OPENING_SYNCS                                                                              \
    6 /* the log's segment, its newest; of two heaps, a pages file and the superblock */

/* Parts of opening are done by another thread: it waits for them, and for what they say. */
static void no_sync_of_opening_may_fail(void **state)
{
    (void)state;
    uint64_t ptr;
    uint64_t value = 0;
    struct err_text e;
    struct embedded *db = must_open();
    assert_int_equal(alloc_value(must_heap(db), 7, &ptr), 0);
    embed_close(db);
    for (long n = 0; n < OPENING_SYNCS; n++) {
        e.text[0] = '\0';
        fault_file(&fault, n, 1, ERR_IO, FAULT_SYNC);
        assert_int_equal(embed_open(&settings, &fault.env, &db, &e), ERR_IO);
        fault_off(&fault);
        assert_null(db);
        assert_int_equal(fault.hits, 1);
        assert_non_null(strstr(e.text, settings.dir));
    }
    db = must_open();
    assert_int_equal(read_value(must_heap(db), ptr, &value), 0);
    assert_int_equal(value, 7);
    embed_close(db);
}

static void any_operation_of_opening_may_fail(void **state)
{
    (void)state;
    uint64_t ptr;
    long runs = 0;
    struct embedded *db = must_open();
    assert_int_equal(alloc_value(must_heap(db), 7, &ptr), 0);
    embed_close(db);
    for (bool hit = true; hit; runs++) {
        uint64_t value = 0;
        fault_file(&fault, runs, 1, ERR_IO, FAULT_ALL);
        int rv = embed_open(&settings, &fault.env, &db, NULL);
        hit = fault.hits > 0;
        fault_off(&fault);
        assert_true(rv == 0 || hit);
        if (rv != 0) {
            assert_null(db);
            db = must_open();
        }
        struct embedded_heap *h = NULL;
        assert_int_equal(embed_heap_open(db, slice_of("h", 1), &h, NULL), 0);
        assert_int_equal(read_value(h, ptr, &value), 0);
        assert_int_equal(value, 7);
        if (runs % 2 == 0) {
            embed_close(db);
        } else {
            embed_abandon(db);
        }
    }
    assert_true(runs > 30);
}

static void memory_may_run_out(void **state)
{
    (void)state;
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    uint64_t ptr;
    uint64_t value = 0;
    unsigned refused = 0;
    for (long n = 0; db->failed == 0; n++) {
        mem_fault(n, 1);
        int rv = alloc_value(h, 5, &ptr);
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        assert_true(rv == 0 || rv == ERR_NOMEM || rv == ERR_INDOUBT);
        refused += rv != 0;
        if (rv == 0) {
            assert_int_equal(read_value(h, ptr, &value), 0);
            assert_int_equal(value, 5);
        }
        if (hits == 0) {
            break;
        }
    }
    assert_true(refused > 0);
    embed_close(db);
    db = must_open(); /* also if an apply had lacked memory, which latches */
    assert_int_equal(alloc_value(must_heap(db), 6, &ptr), 0);
    embed_close(db);
}

/* ---- damage ---- */

static int open_error(struct err_text *e)
{
    struct embedded *db = NULL;
    int rv = embed_open(&settings, &fault.env, &db, e);
    assert_null(db);
    return rv;
}

static void fill(unsigned count, uint64_t *last)
{
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(alloc_value(h, i, last), 0);
    }
    embed_abandon(db); /* as if killed: no checkpoint */
}

static void damage_in_the_log_is_an_error(void **state)
{
    (void)state;
    uint64_t last;
    char path[DIR_PATH_BYTES];
    char name[128];
    fill(64, &last);
    /* Whichever the segment is: the tenth block of it is acknowledged, and not the last. */
    for (unsigned number = 1; number < 16; number++) {
        (void)snprintf(name, sizeof name, "db/log/%016x.log", number);
        if (dir_file_size(dir_path(&dir, name, path)) > 0) {
            dir_file_flip(path, 4096 + 4096 * 8 + 100, 0x10);
        }
    }
    struct err_text e = {{0}};
    assert_int_equal(open_error(&e), ERR_CORRUPT);
    assert_true(e.text[0] != '\0');
}

static void a_missing_image_is_an_error(void **state)
{
    (void)state;
    uint64_t ptr;
    char path[DIR_PATH_BYTES];
    struct embedded *db = must_open();
    assert_int_equal(alloc_value(must_heap(db), 1, &ptr), 0);
    embed_close(db); /* with a checkpoint */
    assert_int_equal(unlink(dir_path(&dir, "db/heaps/0000000000000002/super", path)), 0);
    struct err_text e = {{0}};
    assert_int_equal(open_error(&e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "0000000000000002"));
}

static void a_missing_log_is_an_error(void **state)
{
    (void)state;
    uint64_t last;
    char path[DIR_PATH_BYTES];
    fill(4, &last);
    dir_remove(dir_path(&dir, "db/log", path));
    struct err_text e = {{0}};
    assert_int_equal(open_error(&e), ERR_CORRUPT);
}

#define VALUES 400u

static bool has_failed(struct embedded *db)
{
    inline_lock(&db->env);
    bool failed = db->failed != 0;
    inline_unlock(&db->env);
    return failed;
}

/* True: a value was read that can't be, or the directory can't be opened, and that was said. Else
 * all are right, and the disk thread has a few seconds to come upon the page, if it is asked to. */
static bool damage_is_said(const uint64_t ptrs[VALUES], bool wait)
{
    struct embedded *db = NULL;
    struct embedded_heap *h = NULL;
    struct err_text e = {{0}};
    bool said = false;
    int rv = embed_open(&settings, &fault.env, &db, &e);
    if (rv != 0) {
        assert_int_equal(rv, ERR_CORRUPT);
        assert_non_null(strstr(e.text, "pages-"));
        return true;
    }
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &h, NULL), 0);
    for (uint64_t i = 0; i < VALUES; i++) {
        uint64_t value = UINT64_MAX;
        rv = read_value(h, ptrs[i], &value);
        said = said || rv != 0;
        assert_int_equal(rv, said ? ERR_CORRUPT : 0); /* and nothing is answered any more */
        assert_true(rv != 0 || value == i);
    }
    for (unsigned ms = 0; wait && !said && ms < 20000; ms += 20) {
        (void)usleep(20000);
        said = has_failed(db);
    }
    if (said) {
        uint64_t ptr;
        assert_int_equal(alloc_value(h, 1, &ptr), ERR_CORRUPT);
        assert_non_null(strstr(db->fail_text, "is damaged"));
    }
    embed_close(db);
    return said;
}

static void a_damaged_page_is_never_answered_from(void **state)
{
    (void)state;
    uint64_t ptrs[VALUES];
    char path[DIR_PATH_BYTES];
    char pages[DIR_PATH_BYTES] = "";
    char name[128];
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    for (uint64_t i = 0; i < VALUES; i++) {
        assert_int_equal(alloc_value(h, i, &ptrs[i]), 0);
    }
    embed_close(db);
    int64_t bytes = 0;
    for (unsigned number = 1; number < 32; number++) {
        (void)snprintf(name, sizeof name, "db/heaps/0000000000000002/pages-%016x", number);
        int64_t have = dir_file_size(dir_path(&dir, name, path));
        if (have > bytes) {
            bytes = have;
            memcpy(pages, path, sizeof pages);
        }
    }
    assert_true(bytes > 8 * (int64_t)HEAP_PAGE_BYTES);
    assert_false(damage_is_said(ptrs, false)); /* nothing is damaged yet */
    unsigned said = 0;
    bool waited = false;
    for (int64_t at = HEAP_PAGE_BYTES; at < bytes - 2 * (int64_t)HEAP_PAGE_BYTES;
         at += HEAP_PAGE_BYTES) {
        dir_file_flip(pages, (uint64_t)at + 1000, 4);
        bool now = damage_is_said(ptrs, false);
        if (!now && !waited) {
            waited = true;
            now = damage_is_said(ptrs, true); /* of a page that a later file doesn't have */
        }
        said += now;
        dir_file_flip(pages, (uint64_t)at + 1000, 4);
    }
    assert_true(said > 4);
    assert_false(damage_is_said(ptrs, false));
}

/* ---- a full disk ---- */

static void fill_disk(const char *path, uint64_t leave)
{
    static uint8_t block[65536];
    struct env_file *file = NULL;
    uint64_t at = 0;
    uint64_t left = UINT64_MAX;
    assert_int_equal(env_file_open(&real, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file), 0);
    while (env_disk_free(&real, dir.path, &left) == 0 && left > leave + sizeof block) {
        assert_int_equal(env_file_pwrite(&real, file, block, sizeof block, at), 0);
        at += sizeof block;
    }
    env_file_close(&real, file);
}

static int write_much(struct embedded_heap *h, uint64_t ptr, uint32_t timeout_ms)
{
    static uint8_t bytes[64u << 10];
    struct embedded_call call = {
        .request = &(const struct embedded_request){
            .op = EMBEDDED_WRITE, .ptr = ptr, .data = slice_of(bytes, sizeof bytes)}};
    embed_run(h, &call, timeout_ms);
    return call.err;
}

/* There is space on the disk: nobody is told to free some. Nothing has happened, and it passes. */
static void a_log_without_checkpoints_is_no_full_disk(void **state)
{
    (void)state;
    settings.log_bytes_max = 8u << 20;
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = 64u << 10}};
    embed_run(h, &call, 30000);
    assert_int_equal(call.err, 0);
    fault_file(&fault, 0, -1, ERR_DISKFULL, FAULT_OPEN); /* of checkpoints */
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < 1000; i++) {
        rv = write_much(h, call.value, 300);
    }
    assert_int_equal(rv, ERR_TIMEOUT);
    fault_off(&fault);
    for (unsigned tries = 0; tries < 50 && rv != 0; tries++) {
        rv = write_much(h, call.value, 300);
    }
    assert_int_equal(rv, 0);
    embed_close(db);
}

static void a_full_disk_refuses_and_goes_on(void **state)
{
    (void)state;
    char path[DIR_PATH_BYTES];
    uint64_t ptr;
    uint64_t value = 0;
    if (mount("tmpfs", dir.path, "tmpfs", 0, "size=64m") != 0) {
        print_message("skipped: can't mount (%s)\n", strerror(errno));
        skip();
    }
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    assert_int_equal(alloc_value(h, 1, &ptr), 0);
    fill_disk(dir_path(&dir, "filler", path), 1u << 20);
    int rv = 0;
    unsigned more = 0;
    for (; rv == 0 && more < 200000; more++) { /* the log has some space ahead */
        rv = alloc_value(h, 2, &(uint64_t){0});
    }
    assert_true(rv == ERR_DISKFULL || rv == ERR_NOSPACE);
    assert_int_equal(read_value(h, ptr, &value), 0);
    assert_int_equal(value, 1);
    assert_int_equal(unlink(path), 0);
    struct embedded_call drop = {
        .request = &(const struct embedded_request){.op = EMBEDDED_FREE, .ptr = ptr}};
    for (unsigned tries = 0; tries < 50; tries++) { /* room is looked for once a second */
        drop = (struct embedded_call){
            .request = &(const struct embedded_request){.op = EMBEDDED_FREE, .ptr = ptr}};
        embed_run(h, &drop, 30000);
        if (drop.err == 0) {
            break;
        }
        assert_int_equal(drop.err, ERR_DISKFULL);
        (void)usleep(100000);
    }
    assert_int_equal(drop.err, 0);
    embed_close(db);
    assert_int_equal(umount(dir.path), 0);
}

/* Changes are refused while all that was taken can still be checkpointed: so the log always gets
 * shorter again, and the directory, of which each opening needs a new segment, can be opened. */
static void a_disk_that_filled_up_can_be_opened_again_and_again(void **state)
{
    (void)state;
    enum { BIG = 64u << 10, LIVES = 12 };
    unsigned made = 0;
    int rv = 0;
    settings.checkpoint_bytes = 64u << 20; /* none before the disk is full */
    if (mount("tmpfs", dir.path, "tmpfs", 0, "size=64m") != 0) {
        print_message("skipped: can't mount (%s)\n", strerror(errno));
        skip();
    }
    struct embedded *db = must_open();
    struct embedded_heap *h = NULL;
    assert_int_equal(embed_heap_create(db, slice_of("h", 1), 256u << 20, 0, 30000, NULL), 0);
    assert_int_equal(embed_heap_open(db, slice_of("h", 1), &h, NULL), 0);
    for (; rv == 0 && made < 10000; made++) { /* each its own pages: all of them are dirty */
        struct embedded_call call = {
            .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC, .size = BIG}};
        embed_run(h, &call, 30000);
        rv = call.err == 0 ? write_much(h, call.value, 30000) : call.err;
    }
    assert_int_equal(rv, ERR_DISKFULL);
    assert_true(made > 64);
    for (int life = 0; life < LIVES; life++) {
        embed_close(db);
        db = must_open();
        h = must_heap(db);
    }
    struct wal_stats stats;
    wal_stats(db->wal, &stats); /* as opening found it: nothing else has begun */
    assert_true(stats.segments <= 3);
    embed_close(db);
    assert_int_equal(umount(dir.path), 0);
}

/* ---- what a life leaves ---- */

static void leases_end_with_the_process(void **state)
{
    (void)state;
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    struct heap_stats stats;
    for (unsigned i = 0; i < 40; i++) {
        struct embedded_call call = {.request = &(const struct embedded_request){
                                         .op = EMBEDDED_LEASE, .session = 1 + i, .count = 16}};
        embed_run(h, &call, 30000);
        assert_int_equal(call.err, 0);
    }
    heap_get_stats(h->heap, &stats);
    assert_int_equal(stats.leased_slots, 40 * 16);
    embed_abandon(db);
    db = must_open();
    h = must_heap(db);
    heap_get_stats(h->heap, &stats);
    assert_int_equal(stats.leased_slots, 0);
    assert_int_equal(heap_check(h->heap, &(struct err_text){{0}}), 0);
    embed_close(db);
}

static void old_history_is_given_back(void **state)
{
    (void)state;
    struct embedded *db = must_open();
    struct embedded_heap *h = must_heap(db);
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = EMBEDDED_SET_RETENTION, .size = 200}};
    struct heap_stats stats;
    uint64_t ptr;
    embed_run(h, &call, 30000);
    assert_int_equal(call.err, 0);
    assert_int_equal(alloc_value(h, 1, &ptr), 0);
    for (unsigned i = 0; i < 50; i++) {
        call = (struct embedded_call){.request = &(const struct embedded_request){
                                          .op = EMBEDDED_ADD_U64, .ptr = ptr, .delta = 1}};
        embed_run(h, &call, 30000);
        assert_int_equal(call.err, 0);
    }
    heap_get_stats(h->heap, &stats); /* nobody else changes it */
    assert_true(stats.undo_count >= 50);
    for (unsigned tries = 0; tries < 100 && stats.undo_count > 0; tries++) {
        (void)usleep(50000);
        inline_lock(&db->env);
        heap_get_stats(h->heap, &stats);
        inline_unlock(&db->env);
    }
    assert_int_equal(stats.undo_count, 0);
    embed_close(db);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(a_failed_sync_latches_the_directory),
        TEST(without_a_new_segment_no_change_of_the_catalogue_waits_for_ever),
        TEST(any_operation_may_fail),
        TEST(no_sync_of_opening_may_fail),
        TEST(any_operation_of_opening_may_fail),
        TEST(memory_may_run_out),
        TEST(damage_in_the_log_is_an_error),
        TEST(a_missing_image_is_an_error),
        TEST(a_damaged_page_is_never_answered_from),
        TEST(a_missing_log_is_an_error),
        TEST(a_log_without_checkpoints_is_no_full_disk),
        TEST(a_full_disk_refuses_and_goes_on),
        TEST(a_disk_that_filled_up_can_be_opened_again_and_again),
        TEST(leases_end_with_the_process),
        TEST(old_history_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
