/* What an entry does to a heap, and what it answers, is the same on every replica, whoever built
 * the program and when; what changes either is another engine (rules E16). So a log that was
 * recorded once leads to what it led to then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "base/hash.h"
#include "txn_part.h"

/* Where a change is meant: raise HEAP_ENGINE, and put here what the failure prints. */
#define GOLDEN_ENGINE 10u
static const struct {
    uint64_t retention_ms, digest, answers;
} golden[] = {
    {0, UINT64_C(0x3d1e778971554ee8), UINT64_C(0xd5ef4e199c62a783)},
    {50, UINT64_C(0xebe73dc843ac3975), UINT64_C(0x4fa4fea5d72dbc67)},
};

#define UID     7u
#define SESSION 9u
#define ENTRIES 6000u
#define LIVE    4000u
#define NAMES   8u

struct run {
    struct heap *heap;
    uint64_t random, answers, stamp, seq, lease[64];
    uint32_t leased;
    uint64_t live[LIVE]; /* freed ones, too: they answer STALE */
    uint32_t count;
};

static uint64_t below(struct run *r, uint64_t limit)
{
    r->random = r->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (r->random >> 33) % limit;
}

static void note(struct run *r, const void *bytes, size_t len)
{
    r->answers = hash64(r->answers, bytes, len);
}

static struct heap_outcome apply(struct run *r, struct heap_command c)
{
    struct heap_outcome out;
    assert_int_equal(heap_apply(r->heap, heap_next_version(r->heap), &c, &out), 0);
    uint64_t words[] = {(uint64_t)(int64_t)out.code, out.version, out.value};
    note(r, words, sizeof words);
    return out;
}

static uint64_t any(struct run *r)
{
    return r->count == 0 ? 1 : r->live[below(r, r->count)];
}

static struct slice name_of(struct run *r)
{
    static const char names[NAMES][8] = {"a", "bb", "ccc", "dddd", "e", "f", "gg", "hhhhhhh"};
    const char *name = names[below(r, NAMES)];
    return slice_of(name, strlen(name));
}

static uint64_t size_of(struct run *r)
{
    static const uint64_t most[] = {64, 1000, 5000, 70000, 300000, 3 << 20, 100 << 20};
    return 1 + below(r, most[below(r, 64) == 0 ? 6 : below(r, 32) == 0 ? 5 : below(r, 5)]);
}

static struct slice some_bytes(struct run *r, uint64_t max)
{
    static uint8_t bytes[512];
    size_t len = (size_t)below(r, max < sizeof bytes ? max + 1 : sizeof bytes);
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)below(r, 256);
    }
    return slice_of(bytes, len);
}

static void remember(struct run *r, uint64_t ptr)
{
    r->live[r->count < LIVE ? r->count++ : below(r, LIVE)] = ptr;
}

static uint64_t leased(struct run *r)
{
    if (r->leased == 0) {
        uint64_t number = 0;
        int rv = heap_lease(r->heap, SESSION, 64, &number, r->lease);
        note(r, &number, sizeof number);
        r->leased = rv == 0 ? 64 : 0;
    }
    return r->leased > 0 ? r->lease[--r->leased] : 1;
}

static void part_make(struct run *r, struct part *p)
{
    part_begin(p, SESSION);
    for (uint64_t i = below(r, 6); i > 0; i--) {
        uint64_t ptr = leased(r);
        uint64_t size = 1 + below(r, 2000);
        part_alloc(p, ptr, size, some_bytes(r, size));
        remember(r, ptr);
    }
    for (uint64_t i = below(r, 4); i > 0; i--) {
        static const struct slice none;
        struct txn_item item = {.kind = below(r, 2) == 0 ? TXN_FREE : TXN_WRITE, .ptr = any(r)};
        part_add(p, item, none, item.kind == TXN_FREE ? none : some_bytes(r, 8));
    }
    if (below(r, 3) == 0) {
        struct txn_item item = {.kind = TXN_ROOT_SET, .ptr = any(r)};
        part_add(p, item, name_of(r), slice_of(NULL, 0));
    }
}

static void prepared(struct run *r)
{
    static struct part p;
    struct txn_result out;
    uint64_t participants[] = {UID, UID + 1};
    part_make(r, &p);
    struct txn_prepare prepare = {.name = {.home = UID, .session = SESSION, .seq = ++r->seq},
                                  .deadline = heap_clock(r->heap) + 1000,
                                  .digest = r->seq,
                                  .participants = slice_of(participants, sizeof participants),
                                  .part = part_slice(&p)};
    uint64_t version = heap_next_version(r->heap);
    assert_int_equal(txn_apply_prepare(r->heap, version, &prepare, 0, &out), 0);
    note(r, &out.answer, sizeof out.answer);
    if (out.answer == TXN_YES && below(r, 3) != 0) {
        uint64_t times[] = {out.version, out.version + below(r, 100)};
        bool committed = false;
        assert_int_equal(txn_apply_commit(r->heap, &prepare.name, prepare.digest,
                                          slice_of(times, sizeof times), &committed, &out),
                         0);
        assert_true(committed);
    } else if (out.answer == TXN_YES) {
        assert_int_equal(txn_apply_abort(r->heap, &prepare.name, prepare.digest, 0, &out), 0);
    }
    note(r, &out.answer, sizeof out.answer);
    assert_int_equal(txn_sweep_refused(r->heap, 4), 0);
}

static void one_shard(struct run *r)
{
    static struct part p;
    part_make(r, &p);
    (void)apply(r, (struct heap_command){.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)});
}

static void alloc(struct run *r)
{
    uint64_t size = size_of(r);
    struct heap_command c = {.kind = HEAP_COMMAND_ALLOC,
                             .size = size,
                             .type = (uint32_t)below(r, 40000),
                             .data = some_bytes(r, size)};
    if (below(r, 8) == 0) {
        c.ptr = leased(r);
        c.session = SESSION;
    }
    struct heap_outcome out = apply(r, c);
    if (out.code == 0) {
        remember(r, out.value);
    }
}

static void change(struct run *r)
{
    static const enum heap_command_kind kinds[] = {
        HEAP_COMMAND_FREE,        HEAP_COMMAND_FREE,     HEAP_COMMAND_FREE,
        HEAP_COMMAND_REALLOC,     HEAP_COMMAND_WRITE,    HEAP_COMMAND_WRITE_IF_VERSION,
        HEAP_COMMAND_ADD_U64,     HEAP_COMMAND_ROOT_SET, HEAP_COMMAND_ROOT_COMPARE_AND_SET,
        HEAP_COMMAND_ROOT_DELETE, HEAP_COMMAND_DEFRAG,   HEAP_COMMAND_TRIM,
        HEAP_COMMAND_RECLAIM,
    };
    struct heap_command c = {.kind = kinds[below(r, sizeof kinds / sizeof kinds[0])],
                             .ptr = any(r),
                             .expected_ptr = below(r, 2) == 0 ? 0 : any(r),
                             .offset = below(r, 64),
                             .size = size_of(r),
                             .count = (uint32_t)below(r, 200000),
                             .name = name_of(r)};
    if (c.kind == HEAP_COMMAND_RECLAIM) {
        c.if_version = heap_clock(r->heap) - below(r, 1000);
    } else if (c.kind == HEAP_COMMAND_WRITE || c.kind == HEAP_COMMAND_WRITE_IF_VERSION) {
        c.data = some_bytes(r, 256);
        c.if_version = below(r, 1000);
    }
    (void)apply(r, c);
}

static uint64_t play(uint64_t retention_ms, uint64_t *answers)
{
    static struct run run;
    struct heap_opts opts = {
        .uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 24 << 20, .retention_ms = retention_ms};
    struct err_text e = {""};
    memset(&run, 0, sizeof run);
    run.random = 1;
    assert_int_equal(heap_create(&opts, &run.heap), 0);
    for (uint64_t index = 1; index <= ENTRIES; index++) {
        run.stamp += below(&run, 100) << 16;
        heap_begin(run.heap, index, 1 + index / 1000, run.stamp);
        for (uint64_t n = 1 + below(&run, 8); n > 0; n--) {
            uint64_t what = below(&run, 20);
            (what == 0 ? prepared : what == 1 ? one_shard : what < 9 ? alloc : change)(&run);
        }
        heap_end(run.heap);
    }
    if (heap_check(run.heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
    uint64_t digest = heap_digest(run.heap);
    *answers = run.answers;
    heap_free(run.heap);
    return digest;
}

static void a_recorded_log_leads_where_it_did(void **state)
{
    (void)state;
    assert_int_equal(GOLDEN_ENGINE, HEAP_ENGINE);
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        uint64_t answers = 0;
        uint64_t digest = play(golden[i].retention_ms, &answers);
        if (digest != golden[i].digest || answers != golden[i].answers) {
            print_message("{%llu, UINT64_C(0x%016llx), UINT64_C(0x%016llx)},\n",
                          (unsigned long long)golden[i].retention_ms, (unsigned long long)digest,
                          (unsigned long long)answers);
        }
    }
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        uint64_t answers = 0;
        assert_int_equal(play(golden[i].retention_ms, &answers), golden[i].digest);
        assert_int_equal(answers, golden[i].answers);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_recorded_log_leads_where_it_did)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
