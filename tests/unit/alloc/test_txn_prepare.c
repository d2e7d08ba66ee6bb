/* Transactions of several shards, as one of them sees it: prepared, decided, remembered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/intent.h"
#include "base/hlc.h"
#include "heap_model.h"
#include "txn_part.h"

#define TEXT(text) slice_of(text, sizeof(text) - 1)
#define NOTHING    slice_of(NULL, 0)
#define SESSION    9
#define OWN        7 /* uid of the shard */
#define OTHER      8

struct fixture {
    struct heap *heap;
    uint64_t index;
    uint64_t seq;
    uint64_t participants[2];
};

static void begin(struct fixture *f, uint64_t ms)
{
    heap_begin(f->heap, ++f->index, 1, hlc_from_ms(ms));
}

static void open_heap(struct fixture *f, uint64_t retention_ms)
{
    struct heap_opts opts = {
        .uid = OWN, .shard = 5, .bytes_max = 16 << 20, .retention_ms = retention_ms};
    memset(f, 0, sizeof *f);
    f->participants[0] = OTHER;
    f->participants[1] = OWN;
    assert_int_equal(heap_create(&opts, &f->heap), 0);
    begin(f, 1000);
}

static void check(const struct fixture *f)
{
    struct err_text e = {""};
    if (heap_check(f->heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void next_entry(struct fixture *f, uint64_t ms)
{
    heap_end(f->heap);
    check(f);
    begin(f, ms);
}

static void close_heap(struct fixture *f)
{
    heap_end(f->heap);
    check(f);
    heap_free(f->heap);
}

static uint64_t alloc(struct fixture *f, struct slice data)
{
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(f->heap, heap_next_version(f->heap), data.len, 0, data, &ptr), 0);
    return ptr;
}

static struct heap_outcome apply(struct fixture *f, struct heap_command c)
{
    struct heap_outcome out;
    assert_int_equal(heap_apply(f->heap, heap_next_version(f->heap), &c, &out), 0);
    return out;
}

static struct txn_name name_of(const struct fixture *f)
{
    return (struct txn_name){.home = OTHER, .session = 3, .seq = f->seq};
}

#define DEADLINE hlc_from_ms(6000)

static struct txn_result prepare_as(struct fixture *f, const struct txn_name *name, uint64_t digest,
                                    const struct part *p, int refuse)
{
    struct txn_result out;
    struct txn_prepare prepare = {
        .name = *name,
        .deadline = DEADLINE,
        .owner = 1,
        .digest = digest,
        .participants = slice_of(f->participants, sizeof f->participants),
        .part = part_slice(p),
    };
    assert_int_equal(txn_apply_prepare(f->heap, heap_next_version(f->heap), &prepare, refuse, &out),
                     0);
    return out;
}

/* A new transaction with that part. */
static struct txn_result prepare(struct fixture *f, const struct part *p)
{
    f->seq++;
    struct txn_name name = name_of(f);
    return prepare_as(f, &name, 77, p, 0);
}

static struct txn_result commit_as(struct fixture *f, const struct txn_name *name, uint64_t other,
                                   uint64_t own)
{
    struct txn_result out;
    uint64_t times[2] = {other, own};
    bool committed = false;
    (void)heap_next_version(f->heap);
    assert_int_equal(
        txn_apply_commit(f->heap, name, 77, slice_of(times, sizeof times), &committed, &out), 0);
    return out;
}

static struct txn_result abort_as(struct fixture *f, const struct txn_name *name)
{
    struct txn_result out;
    (void)heap_next_version(f->heap);
    assert_int_equal(txn_apply_abort(f->heap, name, 77, DEADLINE, &out), 0);
    return out;
}

static struct txn_counts counts(const struct fixture *f)
{
    struct txn_counts out;
    txn_count(f->heap, &out);
    return out;
}

/* Records of the map that are of transactions. */
static uint32_t remembered(const struct fixture *f)
{
    struct slice key = NOTHING;
    struct slice value;
    uint32_t count = 0;
    while (heap_map_next(f->heap, HEAP_MAP_TX, key, &key, &value) == 0) {
        count += key.data[0] != 'h';
    }
    return count;
}

static void assert_bytes(const struct fixture *f, uint64_t ptr, const char *text)
{
    char bytes[64];
    assert_int_equal(heap_copy(f->heap, ptr, 0, bytes, strlen(text)), 0);
    assert_memory_equal(bytes, text, strlen(text));
}

/* A part that does one of everything. */
struct work {
    struct part part;
    uint64_t read, written, freed, born[2], lease;
};

static void work_make(struct fixture *f, struct work *w)
{
    w->read = alloc(f, TEXT("read"));
    w->written = alloc(f, TEXT("old"));
    w->freed = alloc(f, TEXT("gone"));
    assert_int_equal(heap_lease(f->heap, SESSION, 2, &w->lease, w->born), 0);
    struct heap_command c = {
        .kind = HEAP_COMMAND_ROOT_SET, .name = TEXT("deleted"), .ptr = w->read};
    assert_int_equal(apply(f, c).code, 0);
    c.name = TEXT("moved");
    assert_int_equal(apply(f, c).code, 0);
    struct heap_object o;
    assert_int_equal(heap_stat(f->heap, w->read, &o), 0);
    part_begin(&w->part, SESSION);
    part_check(&w->part, w->read, o.version, TXN_EQUAL);
    part_write(&w->part, w->written, 0, TEXT("new"));
    part_free(&w->part, w->freed);
    part_alloc(&w->part, w->born[0], 20, TEXT("hello"));
    part_write(&w->part, w->born[0], 5, TEXT(" you"));
    part_alloc(&w->part, w->born[1], 2 << 20, TEXT("large"));
    part_root(&w->part, TEXT("deleted"), 0);
    part_root(&w->part, TEXT("moved"), w->written);
    part_root(&w->part, TEXT("named"), w->born[0]);
}

static void assert_not_done(const struct fixture *f, const struct work *w)
{
    struct root_record r;
    struct heap_object o;
    assert_bytes(f, w->written, "old");
    assert_bytes(f, w->freed, "gone");
    assert_int_equal(heap_stat(f->heap, w->born[0], &o), ERR_STALE);
    assert_int_equal(heap_root_get(f->heap, TEXT("deleted"), &r), 0);
    assert_int_equal(heap_root_get(f->heap, TEXT("moved"), &r), 0);
    assert_int_equal(r.ptr, w->read);
    assert_int_equal(heap_root_get(f->heap, TEXT("named"), &r), ERR_NOTFOUND);
}

static void assert_done(const struct fixture *f, const struct work *w, uint64_t version)
{
    struct root_record r;
    struct heap_object o;
    assert_bytes(f, w->written, "new");
    assert_bytes(f, w->born[0], "hello you");
    assert_bytes(f, w->born[1], "large");
    assert_int_equal(heap_stat(f->heap, w->freed, &o), ERR_STALE);
    assert_int_equal(heap_stat(f->heap, w->born[1], &o), 0);
    assert_int_equal(o.version, version);
    assert_int_equal(heap_root_get(f->heap, TEXT("deleted"), &r), ERR_NOTFOUND);
    assert_int_equal(heap_root_get(f->heap, TEXT("moved"), &r), 0);
    assert_int_equal(r.ptr, w->written);
    assert_int_equal(r.version, version);
    assert_int_equal(heap_root_get(f->heap, TEXT("named"), &r), 0);
    assert_int_equal(header(f->heap)->roots_reserved, 0);
}

/* ---- tests ---- */

static void a_commit_does_what_was_prepared(void **state)
{
    (void)state;
    for (uint64_t retention_ms = 0; retention_ms < 100000; retention_ms += 60000) {
        struct fixture f;
        struct work w;
        open_heap(&f, retention_ms);
        work_make(&f, &w);
        uint64_t before = heap_clock(f.heap);
        struct txn_result r = prepare(&f, &w.part);
        assert_int_equal(r.answer, TXN_YES);
        uint64_t p = r.version;
        assert_int_equal(p, heap_clock(f.heap));
        assert_int_equal(counts(&f).prepared, 1);
        assert_int_equal(counts(&f).oldest_prepared_at, p);
        assert_not_done(&f, &w);
        assert_true(heap_ptr_is_unborn(f.heap, w.born[0]));
        next_entry(&f, 2000);
        /* Asked again: the same. */
        struct txn_name name = name_of(&f);
        r = prepare_as(&f, &name, 77, &w.part, 0);
        assert_int_equal(r.answer, TXN_YES);
        assert_int_equal(r.version, p);
        assert_int_equal(prepare_as(&f, &name, 78, &w.part, 0).code, ERR_PROTOCOL);
        assert_int_equal(commit_as(&f, &name, p + 5, p + 1).answer, TXN_WRONG);
        assert_not_done(&f, &w);
        r = commit_as(&f, &name, p + 5, p);
        assert_int_equal(r.answer, TXN_APPLIED);
        assert_int_equal(r.version, p + 5);
        assert_done(&f, &w, p + 5);
        assert_int_equal(counts(&f).prepared, 0);
        assert_int_equal(counts(&f).oldest_prepared_at, 0);
        assert_int_equal(counts(&f).committed, 1);
        next_entry(&f, 2000);
        r = commit_as(&f, &name, p + 5, p);
        assert_int_equal(r.answer, TXN_APPLIED);
        r = prepare_as(&f, &name, 77, &w.part, 0);
        assert_int_equal(r.answer, TXN_WAS_COMMITTED);
        assert_int_equal(r.version, p + 5);
        assert_int_equal(abort_as(&f, &name).answer, TXN_WRONG);
        assert_done(&f, &w, p + 5);
        if (retention_ms != 0) {
            char bytes[4];
            assert_int_equal(heap_read_at(f.heap, before, w.written, 0, bytes, 3), 0);
            assert_memory_equal(bytes, "old", 3);
            assert_int_equal(heap_read_at(f.heap, before, w.freed, 0, bytes, 4), 0);
            assert_int_equal(heap_read_at(f.heap, p + 4, w.written, 0, bytes, 3), 0);
            assert_memory_equal(bytes, "old", 3);
            assert_int_equal(heap_read_at(f.heap, p + 5, w.written, 0, bytes, 3), 0);
            assert_memory_equal(bytes, "new", 3);
        }
        struct txn_record record;
        const uint64_t *uids;
        const uint64_t *times;
        assert_true(txn_find(f.heap, &name, &record, &uids, &times));
        assert_int_equal(record.state, TXN_COMMITTED);
        assert_int_equal(record.committed_at, p + 5);
        assert_int_equal(record.participants, 2);
        assert_int_equal(uids[1], OWN);
        assert_int_equal(times[0], p + 5);
        assert_int_equal(times[1], p);
        /* Forgotten only when the deadline is over and home agrees. */
        struct txn_result forgot;
        assert_int_equal(txn_apply_forget(f.heap, &name, true, &forgot), 0);
        assert_int_equal(forgot.answer, TXN_NO_VOTE);
        next_entry(&f, 7000);
        (void)heap_next_version(f.heap);
        assert_int_equal(txn_apply_forget(f.heap, &name, false, &forgot), 0);
        assert_int_equal(forgot.answer, TXN_NO_VOTE);
        assert_int_equal(txn_apply_forget(f.heap, &name, true, &forgot), 0);
        assert_int_equal(forgot.answer, TXN_APPLIED);
        assert_int_equal(remembered(&f), 0);
        assert_int_equal(prepare_as(&f, &name, 77, &w.part, 0).answer, TXN_LATE);
        close_heap(&f);
    }
}

static void an_abort_does_nothing_and_is_remembered(void **state)
{
    (void)state;
    struct fixture f;
    struct work w;
    open_heap(&f, 1000);
    work_make(&f, &w);
    uint64_t objects = header(f.heap)->block_count[POOL_OBJECTS];
    assert_int_equal(prepare(&f, &w.part).answer, TXN_YES);
    struct txn_name name = name_of(&f);
    next_entry(&f, 2000);
    assert_int_equal(abort_as(&f, &name).answer, TXN_APPLIED);
    assert_not_done(&f, &w);
    assert_false(heap_ptr_is_unborn(f.heap, w.born[0]));
    assert_int_equal(header(f.heap)->block_count[POOL_OBJECTS], objects);
    assert_int_equal(header(f.heap)->roots_reserved, 0);
    next_entry(&f, 2000);
    struct txn_result r = prepare_as(&f, &name, 77, &w.part, 0);
    assert_int_equal(r.answer, TXN_NO);
    assert_int_equal(r.code, ERR_TX_ABORTED);
    uint64_t p = heap_clock(f.heap);
    assert_int_equal(commit_as(&f, &name, p, p).answer, TXN_WRONG);
    assert_int_equal(abort_as(&f, &name).answer, TXN_APPLIED);
    assert_int_equal(txn_sweep_refused(f.heap, 8), 0);
    assert_int_equal(counts(&f).refused, 1);
    next_entry(&f, 7000);
    (void)heap_next_version(f.heap);
    assert_int_equal(txn_sweep_refused(f.heap, 8), 0);
    assert_int_equal(counts(&f).refused, 0);
    assert_int_equal(remembered(&f), 0);
    r = prepare_as(&f, &name, 77, &w.part, 0);
    assert_int_equal(r.answer, TXN_LATE);
    assert_int_equal(r.code, ERR_TX_TOO_LATE);
    assert_int_equal(prepare_as(&f, &name, 77, &w.part, ERR_SESSION_EXPIRED).code,
                     ERR_SESSION_EXPIRED);
    assert_int_equal(abort_as(&f, &name).answer, TXN_APPLIED);
    assert_int_equal(remembered(&f), 0);
    close_heap(&f);
}

static void who_asks_first_refuses(void **state)
{
    (void)state;
    struct fixture f;
    struct work w;
    struct txn_result r;
    open_heap(&f, 0);
    work_make(&f, &w);
    f.seq++;
    struct txn_name name = name_of(&f);
    assert_int_equal(txn_apply_refuse(f.heap, &name, 77, DEADLINE, 0, &r), 0);
    assert_int_equal(r.answer, TXN_NO);
    assert_int_equal(r.code, ERR_TX_ABORTED);
    r = prepare_as(&f, &name, 77, &w.part, 0);
    assert_int_equal(r.answer, TXN_NO);
    assert_not_done(&f, &w);
    /* Prepared: who asks hears that. */
    r = prepare(&f, &w.part);
    assert_int_equal(r.answer, TXN_YES);
    uint64_t p = r.version;
    name = name_of(&f);
    assert_int_equal(txn_apply_refuse(f.heap, &name, 77, DEADLINE, 0, &r), 0);
    assert_int_equal(r.answer, TXN_YES);
    assert_int_equal(r.version, p);
    /* By the session layer, and with deadlines that nobody gives. */
    f.seq++;
    name = name_of(&f);
    assert_int_equal(prepare_as(&f, &name, 77, &w.part, ERR_SESSION_EXPIRED).code,
                     ERR_SESSION_EXPIRED);
    assert_int_equal(counts(&f).refused, 2);
    f.seq++;
    name = name_of(&f);
    assert_int_equal(txn_apply_refuse(f.heap, &name, 77, hlc_from_ms(100000), ERR_TX_ABORTED, &r),
                     0);
    assert_int_equal(r.answer, TXN_NO);
    assert_int_equal(r.code, ERR_TX_ABORTED);
    f.seq++;
    name = name_of(&f);
    assert_int_equal(txn_apply_refuse(f.heap, &name, 77, 1, 0, &r), 0);
    assert_int_equal(r.answer, TXN_LATE);
    assert_int_equal(r.code, ERR_TX_TOO_LATE);
    /* All are found, in order. */
    struct txn_name each = {0, 0, 0};
    struct txn_record record;
    uint32_t found = 0;
    while (txn_next(f.heap, &each, &record)) {
        assert_int_equal(each.seq, ++found);
        assert_int_equal(record.state, found == 2 ? TXN_PREPARED : TXN_REFUSED);
    }
    assert_int_equal(found, 4);
    close_heap(&f);
}

static void a_conflict_is_refused_and_remembered(void **state)
{
    (void)state;
    struct fixture f;
    struct work w;
    open_heap(&f, 0);
    work_make(&f, &w);
    part_check(&w.part, w.written, 1, TXN_EQUAL);
    struct txn_result r = prepare(&f, &w.part);
    struct heap_object o;
    assert_int_equal(heap_stat(f.heap, w.written, &o), 0);
    struct txn_name name = name_of(&f);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r.answer, TXN_NO);
        assert_int_equal(r.code, ERR_CONFLICT);
        assert_int_equal(r.conflict.what, w.written);
        assert_int_equal(r.conflict.version, o.version);
        r = prepare_as(&f, &name, 77, &w.part, 0);
    }
    assert_not_done(&f, &w);
    /* Its slots went back, with the lease. */
    assert_false(heap_ptr_is_unborn(f.heap, w.born[0]));
    assert_int_equal(header(f.heap)->leased_count, 0);
    /* Nobody's part. */
    f.participants[1] = OTHER + 1;
    assert_int_equal(prepare(&f, &w.part).code, ERR_PROTOCOL);
    close_heap(&f);
}

/* What others may do to what a prepared transaction holds. */
static void intents_keep_others_away(void **state)
{
    (void)state;
    struct fixture f;
    struct work w;
    struct part p;
    struct txn_name by;
    open_heap(&f, 1000);
    work_make(&f, &w);
    struct txn_result r = prepare(&f, &w.part);
    assert_int_equal(r.answer, TXN_YES);
    struct txn_name first = name_of(&f);
    uint64_t at = r.version;
    next_entry(&f, 2000);
    const uint64_t held[] = {w.read, w.written, w.freed, w.born[0]};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++) {
        const struct heap_command commands[] = {
            {.kind = HEAP_COMMAND_FREE, .ptr = held[i]},
            {.kind = HEAP_COMMAND_REALLOC, .ptr = held[i], .size = 100},
            {.kind = HEAP_COMMAND_WRITE, .ptr = held[i], .data = TEXT("x")},
            {.kind = HEAP_COMMAND_COMPARE_AND_WRITE, .ptr = held[i]},
            {.kind = HEAP_COMMAND_ADD_U64, .ptr = held[i]},
            {.kind = HEAP_COMMAND_WRITE_IF_VERSION, .ptr = held[i]},
            {.kind = HEAP_COMMAND_ALLOC, .ptr = held[i], .session = SESSION, .size = 1},
        };
        for (size_t k = 0; k < sizeof commands / sizeof commands[0]; k++) {
            struct heap_outcome out = apply(&f, commands[k]);
            assert_int_equal(out.code, ERR_TX_UNDECIDED);
            assert_int_equal(out.value, held[i]);
        }
        /* Reading is for all, what is about to change has to be waited for. */
        bool exclusive = i > 0;
        assert_int_equal(intent_blocks_read(f.heap, held[i], NOTHING, 0, &by), exclusive);
        assert_int_equal(intent_blocks_read(f.heap, held[i], NOTHING, at, &by), exclusive);
        assert_false(intent_blocks_read(f.heap, held[i], NOTHING, at - 1, &by));
        part_begin(&p, SESSION);
        part_check_live(&p, held[i]);
        struct txn_conflict conflict;
        int rv = txn_validate(f.heap, part_slice(&p), &conflict, &by);
        assert_int_equal(rv, i == 0 ? 0 : i == 3 ? ERR_NOT_YET : ERR_TX_UNDECIDED);
        assert_true(rv != ERR_TX_UNDECIDED || txn_name_is(&by, &first));
        part_write(&p, held[i], 0, TEXT("x"));
        assert_int_equal(prepare(&f, &p).code, i == 3 ? ERR_NOT_YET : ERR_CONFLICT);
        struct heap_outcome out =
            apply(&f, (struct heap_command){.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)});
        assert_int_equal(out.code, i == 3 ? ERR_NOT_YET : ERR_CONFLICT);
    }
    const struct slice names[] = {TEXT("deleted"), TEXT("moved"), TEXT("named")};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct heap_command c = {.kind = HEAP_COMMAND_ROOT_SET, .name = names[i], .ptr = w.read};
        assert_int_equal(apply(&f, c).code, ERR_TX_UNDECIDED);
        c.kind = HEAP_COMMAND_ROOT_DELETE;
        assert_int_equal(apply(&f, c).code, ERR_TX_UNDECIDED);
        c.kind = HEAP_COMMAND_ROOT_COMPARE_AND_SET;
        assert_int_equal(apply(&f, c).code, ERR_TX_UNDECIDED);
        assert_true(intent_blocks_read(f.heap, 0, names[i], 0, &by));
        assert_true(txn_name_is(&by, &first));
        part_begin(&p, 0);
        part_root(&p, names[i], w.read);
        assert_int_equal(prepare(&f, &p).code, ERR_CONFLICT);
    }
    /* Others may make names; who lists them waits. */
    struct heap_command c = {.kind = HEAP_COMMAND_ROOT_SET, .name = TEXT("another"), .ptr = w.read};
    assert_int_equal(apply(&f, c).code, 0);
    assert_true(intent_blocks_read(f.heap, 0, NOTHING, 0, &by));
    assert_true(txn_name_is(&by, &first));
    part_begin(&p, 0);
    part_check_directory(&p, heap_directory_version(f.heap));
    assert_int_equal(prepare(&f, &p).code, ERR_CONFLICT);
    part_begin(&p, 0);
    part_root(&p, TEXT("a third"), w.read);
    assert_int_equal(prepare(&f, &p).answer, TXN_YES);
    struct txn_name third = name_of(&f);
    /* Two may read the same. */
    struct heap_object o;
    assert_int_equal(heap_stat(f.heap, w.read, &o), 0);
    part_begin(&p, 0);
    part_check(&p, w.read, o.version, TXN_EQUAL);
    assert_int_equal(prepare(&f, &p).answer, TXN_YES);
    struct txn_name second = name_of(&f);
    next_entry(&f, 2000);
    assert_int_equal(commit_as(&f, &first, at, at).answer, TXN_APPLIED);
    next_entry(&f, 2000);
    c = (struct heap_command){.kind = HEAP_COMMAND_WRITE, .ptr = w.read, .data = TEXT("x")};
    assert_int_equal(apply(&f, c).code, ERR_TX_UNDECIDED);
    assert_int_equal(abort_as(&f, &second).answer, TXN_APPLIED);
    assert_int_equal(apply(&f, c).code, 0);
    c.ptr = w.written;
    assert_int_equal(apply(&f, c).code, 0);
    assert_true(intent_blocks_read(f.heap, 0, NOTHING, 0, &by));
    assert_int_equal(abort_as(&f, &third).answer, TXN_APPLIED);
    assert_false(intent_blocks_read(f.heap, 0, NOTHING, 0, &by));
    close_heap(&f);
}

/* Who has listed names keeps others from making any, and two that do both would miss each other. */
static void listing_and_making_names_exclude_each_other(void **state)
{
    (void)state;
    struct fixture f;
    struct part p;
    open_heap(&f, 0);
    uint64_t ptr = alloc(&f, TEXT("x"));
    part_begin(&p, 0);
    part_check_directory(&p, 0);
    part_root(&p, TEXT("a"), ptr);
    struct txn_result r = prepare(&f, &p);
    assert_int_equal(r.answer, TXN_YES);
    struct txn_name first = name_of(&f);
    part_begin(&p, 0);
    part_check_directory(&p, 0);
    part_root(&p, TEXT("b"), ptr);
    assert_int_equal(prepare(&f, &p).code, ERR_CONFLICT);
    part_begin(&p, 0);
    part_root(&p, TEXT("b"), ptr);
    assert_int_equal(prepare(&f, &p).code, ERR_CONFLICT);
    struct heap_command c = {.kind = HEAP_COMMAND_ROOT_SET, .name = TEXT("b"), .ptr = ptr};
    assert_int_equal(apply(&f, c).code, ERR_TX_UNDECIDED);
    next_entry(&f, 2000);
    assert_int_equal(commit_as(&f, &first, 0, r.version).answer, TXN_APPLIED);
    assert_int_equal(apply(&f, c).code, 0);
    close_heap(&f);
}

/* A commit comes late: the shard's clock is far ahead of it by then. */
static void a_commit_may_be_older_than_the_clock(void **state)
{
    (void)state;
    struct fixture f;
    struct part p;
    char bytes[4];
    open_heap(&f, 60000);
    uint64_t a = alloc(&f, TEXT("aaa"));
    uint64_t b = alloc(&f, TEXT("bbb"));
    part_begin(&p, 0);
    part_write(&p, a, 0, TEXT("AAA"));
    struct txn_result r = prepare(&f, &p);
    assert_int_equal(r.answer, TXN_YES);
    struct txn_name name = name_of(&f);
    next_entry(&f, 3000);
    struct heap_command c = {.kind = HEAP_COMMAND_WRITE, .ptr = b, .data = TEXT("BBB")};
    assert_int_equal(apply(&f, c).code, 0);
    uint64_t later = heap_clock(f.heap);
    next_entry(&f, 3000);
    uint64_t ct = r.version + 10;
    assert_int_equal(commit_as(&f, &name, ct, r.version).answer, TXN_APPLIED);
    next_entry(&f, 3000);
    assert_int_equal(heap_read_at(f.heap, ct - 1, a, 0, bytes, 3), 0);
    assert_memory_equal(bytes, "aaa", 3);
    assert_int_equal(heap_read_at(f.heap, ct, a, 0, bytes, 3), 0);
    assert_memory_equal(bytes, "AAA", 3);
    assert_int_equal(heap_read_at(f.heap, later - 1, b, 0, bytes, 3), 0);
    assert_memory_equal(bytes, "bbb", 3);
    /* One that is ahead of the clock moves it. */
    part_begin(&p, 0);
    part_write(&p, a, 0, TEXT("aAa"));
    r = prepare(&f, &p);
    name = name_of(&f);
    next_entry(&f, 3000);
    ct = hlc_from_ms(5000);
    assert_int_equal(commit_as(&f, &name, ct, r.version).answer, TXN_APPLIED);
    assert_int_equal(heap_clock(f.heap), ct);
    next_entry(&f, 100000);
    (void)heap_next_version(f.heap);
    uint64_t left = 0;
    heap_reclaim(f.heap, UINT64_MAX, 1000, &left);
    assert_int_equal(header(f.heap)->undo_count, 0);
    close_heap(&f);
}

/* Compaction moves what is prepared, and a copy of the pages goes on like the original. */
static void prepared_objects_move_and_are_copied(void **state)
{
    (void)state;
    struct fixture f;
    struct work w;
    uint64_t fillers[200];
    open_heap(&f, 1000);
    for (size_t i = 0; i < 200; i++) {
        assert_int_equal(
            heap_alloc(f.heap, heap_next_version(f.heap), 20 + i * 40, 0, NOTHING, &fillers[i]), 0);
    }
    work_make(&f, &w);
    struct txn_result r = prepare(&f, &w.part);
    assert_int_equal(r.answer, TXN_YES);
    for (size_t i = 0; i < 200; i++) {
        assert_int_equal(heap_free_object(f.heap, heap_next_version(f.heap), fillers[i]), 0);
    }
    next_entry(&f, 3000);
    (void)heap_next_version(f.heap);
    uint64_t left = 0;
    heap_reclaim(f.heap, UINT64_MAX, 1000, &left);
    next_entry(&f, 3000);
    struct heap_defrag d = {.left = true};
    while (d.left) {
        assert_int_equal(heap_defrag(f.heap, 1 << 20, &d), 0);
    }
    assert_true(header(f.heap)->moved_blocks > 0);
    heap_end(f.heap);
    check(&f);
    struct fixture g = f;
    g.heap = model_copy(f.heap);
    struct txn_name name = name_of(&f);
    begin(&f, 3000);
    begin(&g, 3000);
    assert_int_equal(commit_as(&f, &name, r.version, r.version).answer, TXN_APPLIED);
    assert_int_equal(commit_as(&g, &name, r.version, r.version).answer, TXN_APPLIED);
    assert_done(&f, &w, r.version);
    heap_end(f.heap);
    heap_end(g.heap);
    model_equal(f.heap, g.heap);
    check(&f);
    heap_free(f.heap);
    heap_free(g.heap);
}

/* However little room there is: a prepare happens or leaves only its refusal, and what is prepared
 * can be decided either way. */
static void decisions_need_no_room(void **state)
{
    (void)state;
    static uint64_t fillers[8192];
    uint32_t yes = 0;
    uint32_t no = 0;
    uint32_t silent = 0;
    for (uint32_t holes = 0; yes < 4; holes++) {
        struct fixture f;
        struct work w;
        uint32_t count = 0;
        open_heap(&f, 60000);
        work_make(&f, &w);
        while (heap_alloc(f.heap, 0, 8000, 0, NOTHING, &fillers[count]) == 0) {
            count++;
        }
        for (uint64_t size = 4096; size > 0; size /= 2) {
            uint64_t ptr = 0;
            while (heap_alloc(f.heap, 0, size, 0, NOTHING, &ptr) == 0) {
            }
        }
        for (uint64_t i = 0;; i++) {
            char key[300];
            memset(key, 'k', sizeof key);
            store_u64(key, i);
            size_t value = 1 + i % 3 * 40;
            if (heap_map_put(f.heap, HEAP_MAP_META, slice_of(key, 8), slice_of(key, value)) != 0) {
                break;
            }
        }
        while (heap_write(f.heap, heap_next_version(f.heap), w.read, 0, TEXT("read")) == 0) {
        }
        struct heap_object o;
        assert_int_equal(heap_stat(f.heap, w.read, &o), 0);
        /* The check of the part is of what is read now. */
        struct txn_item item;
        memcpy(&item, w.part.bytes + sizeof(struct txn_part_header), sizeof item);
        item.value = o.version;
        memcpy(w.part.bytes + sizeof(struct txn_part_header), &item, sizeof item);
        uint32_t need = holes < 8 ? holes : 250 + holes;
        for (uint32_t i = 0; i < need && i < count; i++) {
            assert_int_equal(heap_free_object(f.heap, 0, fillers[i]), 0);
        }
        heap_end(f.heap);
        check(&f);
        begin(&f, 1000);
        struct txn_result r = prepare(&f, &w.part);
        struct txn_name name = name_of(&f);
        if (r.answer == TXN_YES) {
            yes++;
            heap_end(f.heap);
            check(&f);
            struct fixture g = f;
            g.heap = model_copy(f.heap);
            begin(&f, 1000);
            begin(&g, 1000);
            assert_int_equal(commit_as(&f, &name, r.version, r.version).answer, TXN_APPLIED);
            assert_done(&f, &w, r.version);
            assert_int_equal(abort_as(&g, &name).answer, TXN_APPLIED);
            assert_not_done(&g, &w);
            close_heap(&g);
        } else {
            assert_int_equal(r.code, ERR_NOSPACE);
            assert_true(r.answer == TXN_NO || r.answer == TXN_NO_VOTE);
            no += r.answer == TXN_NO;
            silent += r.answer == TXN_NO_VOTE;
            assert_int_equal(counts(&f).refused, r.answer == TXN_NO);
            assert_int_equal(header(f.heap)->roots_reserved, 0);
            assert_not_done(&f, &w);
        }
        close_heap(&f);
    }
    assert_true(no > 0);
    assert_true(silent > 0);
}

/* ---- damage ---- */

/* A flipped bit in what is remembered: the check finds it, or whatever is decided does no harm. */
static void try_damage(struct fixture *f, const struct txn_name *name, uint64_t p, uint32_t *found)
{
    if (heap_check(f->heap, NULL) != 0) {
        *found += 1;
        return;
    }
    for (int outcome = 0; outcome < 2; outcome++) {
        struct fixture g = *f;
        struct txn_result r;
        uint64_t times[2] = {p, p};
        bool committed = false;
        g.heap = model_copy(f->heap);
        begin(&g, 2000);
        (void)heap_next_version(g.heap);
        if (outcome == 0) {
            assert_int_equal(
                txn_apply_commit(g.heap, name, 77, slice_of(times, sizeof times), &committed, &r),
                0);
        } else {
            assert_int_equal(txn_apply_abort(g.heap, name, 77, DEADLINE, &r), 0);
        }
        close_heap(&g);
    }
}

static void damage_is_found_or_harmless(void **state)
{
    (void)state;
    struct fixture f;
    struct work w;
    struct part p;
    open_heap(&f, 0);
    work_make(&f, &w);
    assert_int_equal(prepare(&f, &w.part).answer, TXN_YES);
    uint64_t at = heap_clock(f.heap);
    struct txn_name name = name_of(&f);
    part_begin(&p, SESSION);
    part_check_live(&p, w.read);
    part_root(&p, TEXT("fourth"), w.read);
    assert_int_equal(prepare(&f, &p).answer, TXN_YES);
    assert_int_equal(prepare(&f, &p).answer, TXN_NO);
    part_begin(&p, SESSION);
    part_check_live(&p, w.read);
    struct txn_result r = prepare(&f, &p);
    struct txn_name third = name_of(&f);
    assert_int_equal(commit_as(&f, &third, r.version, r.version).answer, TXN_APPLIED);
    heap_end(f.heap);
    check(&f);
    struct slice key = NOTHING;
    struct slice value;
    uint32_t bits = 0;
    uint32_t found = 0;
    while (heap_map_next(f.heap, HEAP_MAP_TX, key, &key, &value) == 0) {
        /* Key and value stand in one record, the value behind the key. */
        uint64_t address = (uint64_t)(key.data - f.heap->arena.base);
        size_t len = (size_t)(value.data - key.data) + value.len;
        for (size_t bit = 0; bit < len * 8; bit++, bits++) {
            uint8_t flip = (uint8_t)(1u << bit % 8);
            *(uint8_t *)arena_write(&f.heap->arena, address + bit / 8, 1) ^= flip;
            try_damage(&f, &name, at, &found);
            *(uint8_t *)arena_write(&f.heap->arena, address + bit / 8, 1) ^= flip;
        }
    }
    assert_true(bits > 5000);
    assert_true(found > bits / 2);
    check(&f);
    heap_free(f.heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_does_what_was_prepared),
        cmocka_unit_test(an_abort_does_nothing_and_is_remembered),
        cmocka_unit_test(who_asks_first_refuses),
        cmocka_unit_test(a_conflict_is_refused_and_remembered),
        cmocka_unit_test(intents_keep_others_away),
        cmocka_unit_test(listing_and_making_names_exclude_each_other),
        cmocka_unit_test(a_commit_may_be_older_than_the_clock),
        cmocka_unit_test(prepared_objects_move_and_are_copied),
        cmocka_unit_test(decisions_need_no_room),
        cmocka_unit_test(damage_is_found_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
