/* Following changes, and history that is kept for a while because somebody reads at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/events.h"
#include "alloc/txn.h"
#include "base/hlc.h"
#include "txn_part.h"

#define TEXT(text) slice_of(text, sizeof(text) - 1)

struct fixture {
    struct heap *heap;
    uint64_t index;
};

static void next_entry(struct fixture *f, uint64_t ms)
{
    heap_begin(f->heap, ++f->index, 1, hlc_from_ms(ms));
}

static void done(struct fixture *f)
{
    struct err_text e = {""};
    heap_end(f->heap);
    if (heap_check(f->heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void open_heap(struct fixture *f, uint64_t retention_ms)
{
    struct heap_opts opts = {
        .uid = 7, .shard = 5, .bytes_max = 16 << 20, .retention_ms = retention_ms};
    memset(f, 0, sizeof *f);
    assert_int_equal(heap_create(&opts, &f->heap), 0);
}

static struct heap_outcome apply(struct fixture *f, uint64_t ms, struct heap_command c)
{
    struct heap_outcome out;
    next_entry(f, ms);
    assert_int_equal(heap_apply(f->heap, heap_next_version(f->heap), &c, &out), 0);
    done(f);
    return out;
}

static const struct events_filter all = {.what = EVENTS_ALL};

/* Changes behind `order`, at most max. */
static int events_of(const struct fixture *f, const struct events_filter *filter, uint64_t order,
                     struct heap_event *out, size_t max, size_t *count)
{
    struct events_cursor cursor = {.order = order};
    int rv = 0;
    for (*count = 0; *count < max; *count += 1) {
        uint32_t budget = 1000;
        rv = events_next(f->heap, filter, &cursor, &budget, &out[*count]);
        if (rv != 0) {
            break;
        }
    }
    return rv == ERR_NOTFOUND ? 0 : rv;
}

static int events(const struct fixture *f, uint64_t order, struct heap_event *out, size_t max,
                  size_t *count)
{
    return events_of(f, &all, order, out, max, count);
}

static uint64_t alloc(struct fixture *f, uint64_t ms, struct slice data)
{
    return apply(f, ms,
                 (struct heap_command){
                     .kind = HEAP_COMMAND_ALLOC, .size = data.len, .type = 4, .data = data})
        .value;
}

static void changes_come_in_log_order(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e[8];
    size_t count = 9;
    open_heap(&f, 1000);
    uint64_t start = heap_order(f.heap);
    assert_int_equal(events(&f, start, e, 8, &count), 0);
    assert_int_equal(count, 0);
    uint64_t ptr = alloc(&f, 1000, TEXT("hello"));
    uint64_t born = heap_clock(f.heap);
    struct heap_command c = {
        .kind = HEAP_COMMAND_WRITE, .ptr = ptr, .offset = 1, .data = TEXT("EL")};
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_REALLOC, .ptr = ptr, .size = 2};
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_FREE, .ptr = ptr};
    (void)apply(&f, 1000, c);
    assert_int_equal(events(&f, start, e, 8, &count), 0);
    assert_int_equal(count, 4);
    static const struct {
        uint32_t kind, size, offset, len;
    } want[] = {
        {UNDO_BIRTH, 5, 0, 0}, {UNDO_WRITE, 5, 1, 2}, {UNDO_RESIZE, 2, 2, 3}, {UNDO_FREE, 0, 0, 0}};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(e[i].kind, want[i].kind);
        assert_int_equal(e[i].size, want[i].size);
        assert_int_equal(e[i].offset, want[i].offset);
        assert_int_equal(e[i].len, want[i].len);
        assert_int_equal(e[i].ptr, ptr);
        assert_int_equal(e[i].type, 4);
        assert_int_equal(e[i].version, born + i);
        assert_int_equal(e[i].before, i == 0 ? 0 : born + i - 1);
        assert_int_equal(e[i].order >> ORDER_INDEX_SHIFT, i + 1);
    }
    assert_int_equal(e[3].order, heap_order(f.heap));
    /* Piece by piece. */
    assert_int_equal(events(&f, start, e, 1, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(events(&f, e[0].order, e, 8, &count), 0);
    assert_int_equal(count, 3);
    assert_int_equal(e[0].kind, UNDO_WRITE);
    /* What is reclaimed can't be followed, what is left can. */
    uint64_t second = e[0].order;
    next_entry(&f, 3000);
    (void)heap_next_version(f.heap);
    uint64_t left = 0;
    heap_reclaim(f.heap, UINT64_MAX, 2, &left);
    done(&f);
    assert_int_equal(events(&f, start, e, 8, &count), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(events(&f, second, e, 8, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(e[0].kind, UNDO_RESIZE);
    heap_free(f.heap);
}

static void without_history_nothing_can_be_followed(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e;
    size_t count = 0;
    open_heap(&f, 0);
    assert_int_equal(events(&f, heap_order(f.heap), &e, 1, &count), ERR_UNSUPPORTED);
    uint64_t ptr = alloc(&f, 1000, TEXT("hello"));
    struct heap_command c = {.kind = HEAP_COMMAND_SET_RETENTION, .size = 1000};
    (void)apply(&f, 1000, c);
    uint64_t start = heap_order(f.heap);
    c = (struct heap_command){.kind = HEAP_COMMAND_WRITE, .ptr = ptr, .data = TEXT("x")};
    (void)apply(&f, 1000, c);
    assert_int_equal(events(&f, start, &e, 1, &count), 0);
    assert_int_equal(count, 1);
    uint64_t seen_all = heap_order(f.heap);
    /* A pause in the history is a gap for all who stood before it. */
    c = (struct heap_command){.kind = HEAP_COMMAND_SET_RETENTION, .size = 0};
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_WRITE, .ptr = ptr, .data = TEXT("y")};
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_SET_RETENTION, .size = 1000};
    (void)apply(&f, 1000, c);
    assert_int_equal(events(&f, start, &e, 1, &count), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(events(&f, seen_all, &e, 1, &count), ERR_SNAPSHOT_TOO_OLD);
    heap_free(f.heap);
}

/* A commit that is older than all that can be read leaves no record: who follows must know. */
static void an_unrecorded_change_is_a_gap(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e;
    struct part p;
    struct txn_result r;
    size_t count = 0;
    const uint64_t uid = 7;
    open_heap(&f, 100);
    uint64_t ptr = alloc(&f, 1000, TEXT("hello"));
    part_begin(&p, 0);
    part_write(&p, ptr, 0, TEXT("HE"));
    struct txn_prepare prepare = {.name = {1, 2, 3},
                                  .deadline = hlc_from_ms(2000),
                                  .participants = slice_of(&uid, sizeof uid),
                                  .part = part_slice(&p)};
    next_entry(&f, 1000);
    assert_int_equal(txn_apply_prepare(f.heap, heap_next_version(f.heap), &prepare, 0, &r), 0);
    done(&f);
    uint64_t at = r.version;
    uint64_t left = 0;
    next_entry(&f, 5000);
    (void)heap_next_version(f.heap);
    heap_reclaim(f.heap, UINT64_MAX, 100, &left);
    done(&f);
    uint64_t start = heap_order(f.heap);
    next_entry(&f, 5000);
    bool committed = false;
    assert_int_equal(
        txn_apply_commit(f.heap, &prepare.name, 0, slice_of(&at, sizeof at), &committed, &r), 0);
    done(&f);
    assert_true(committed);
    assert_int_equal(events(&f, start, &e, 1, &count), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(events(&f, heap_order(f.heap), &e, 1, &count), 0);
    heap_free(f.heap);
}

static void roots_have_a_past(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e[8];
    struct root_record r;
    struct slice name;
    size_t count = 0;
    open_heap(&f, 1000);
    uint64_t a = alloc(&f, 1000, TEXT("a"));
    uint64_t b = alloc(&f, 1000, TEXT("b"));
    uint64_t start = heap_order(f.heap);
    uint64_t before = heap_clock(f.heap);
    struct heap_command c = {.kind = HEAP_COMMAND_ROOT_SET, .name = TEXT("root"), .ptr = a};
    (void)apply(&f, 1000, c);
    c.ptr = b;
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_ROOT_DELETE, .name = TEXT("root")};
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_ROOT_SET, .name = TEXT("other"), .ptr = a};
    (void)apply(&f, 1000, c);
    assert_int_equal(heap_root_get_at(f.heap, before, TEXT("root"), &r), ERR_NOTFOUND);
    assert_int_equal(heap_root_get_at(f.heap, before + 1, TEXT("root"), &r), 0);
    assert_int_equal(r.ptr, a);
    assert_int_equal(r.version, before + 1);
    assert_int_equal(heap_root_get_at(f.heap, before + 2, TEXT("root"), &r), 0);
    assert_int_equal(r.ptr, b);
    assert_int_equal(heap_root_get_at(f.heap, before + 3, TEXT("root"), &r), ERR_NOTFOUND);
    assert_int_equal(heap_root_next_at(f.heap, before, slice_of(NULL, 0), &name, &r), ERR_NOTFOUND);
    assert_int_equal(heap_root_next_at(f.heap, before + 2, slice_of(NULL, 0), &name, &r), 0);
    assert_int_equal(name.len, 4);
    assert_int_equal(r.ptr, b);
    assert_int_equal(heap_root_next_at(f.heap, before + 2, name, &name, &r), ERR_NOTFOUND);
    assert_int_equal(heap_root_next_at(f.heap, 0, slice_of(NULL, 0), &name, &r), 0);
    assert_int_equal(name.len, 5);
    /* First committer wins: the name was deleted behind that time. */
    struct part p;
    part_begin(&p, 0);
    part_check_root(&p, TEXT("root"), before + 2, TXN_NOT_NEWER);
    c = (struct heap_command){.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)};
    assert_int_equal(apply(&f, 1000, c).code, ERR_CONFLICT);
    part_begin(&p, 0);
    part_check_root(&p, TEXT("root"), before + 3, TXN_NOT_NEWER);
    c.data = part_slice(&p);
    assert_int_equal(apply(&f, 1000, c).code, 0);
    assert_int_equal(events(&f, start, e, 8, &count), 0);
    assert_int_equal(count, 4);
    const uint64_t after[] = {a, b, 0, a};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(e[i].kind, UNDO_ROOT);
        assert_int_equal(e[i].ptr, after[i]);
        assert_int_equal(e[i].name.len, i < 3 ? 4 : 5);
    }
    assert_int_equal(e[1].offset, a);
    assert_int_equal(e[2].offset, b);
    assert_int_equal(e[2].before, before + 2);
    /* Records move and go. */
    next_entry(&f, 1000);
    struct heap_defrag d = {.left = true};
    while (d.left) {
        assert_int_equal(heap_defrag(f.heap, 1 << 20, &d), 0);
    }
    done(&f);
    for (uint32_t i = 0; i < 6; i++) {
        c = (struct heap_command){
            .kind = HEAP_COMMAND_RECLAIM, .if_version = UINT64_MAX, .count = 1};
        (void)apply(&f, 9000, c);
    }
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(heap_map_count(f.heap, HEAP_MAP_TX), 0);
    heap_free(f.heap);
}

/* ---- one object, one name, some of them ---- */

static uint64_t write_at(struct fixture *f, uint64_t ms, uint64_t ptr, uint64_t offset,
                         struct slice data)
{
    struct heap_command c = {
        .kind = HEAP_COMMAND_WRITE, .ptr = ptr, .offset = offset, .data = data};
    assert_int_equal(apply(f, ms, c).code, 0);
    return heap_clock(f->heap);
}

static void root_set(struct fixture *f, struct slice name, uint64_t ptr)
{
    struct heap_command c = {.kind = HEAP_COMMAND_ROOT_SET, .name = name, .ptr = ptr};
    assert_int_equal(apply(f, 1000, c).code, 0);
}

static void filters_pass_what_they_name(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e[16];
    size_t count = 0;
    open_heap(&f, 1000);
    uint64_t a = alloc(&f, 1000, TEXT("a"));
    struct heap_command other = {
        .kind = HEAP_COMMAND_ALLOC, .size = 1, .type = 9, .data = TEXT("b")};
    uint64_t b = apply(&f, 1000, other).value;
    root_set(&f, TEXT("user/1"), a);
    uint64_t middle = write_at(&f, 1000, a, 0, TEXT("x"));
    root_set(&f, TEXT("user/2"), b);
    root_set(&f, TEXT("use"), b);
    (void)write_at(&f, 1000, b, 0, TEXT("y"));
    (void)write_at(&f, 1000, a, 0, TEXT("z"));
    const struct {
        struct events_filter filter;
        size_t count;
    } cases[] = {
        {{.what = EVENTS_ALL}, 8},
        {{.what = EVENTS_OBJECT, .ptr = a}, 3},
        {{.what = EVENTS_OBJECT, .ptr = a, .at = middle}, 1},
        {{.what = EVENTS_OBJECT, .ptr = b}, 2},
        {{.what = EVENTS_TYPE, .type = 9}, 2},
        {{.what = EVENTS_TYPE, .type = 8}, 0},
        {{.what = EVENTS_ROOT, .name = TEXT("use")}, 1},
        {{.what = EVENTS_ROOT, .name = TEXT("nothing")}, 0},
        {{.what = EVENTS_ROOTS, .name = TEXT("user/")}, 2},
        {{.what = EVENTS_ROOTS}, 3},
        {{.what = EVENTS_ALL, .at = middle}, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t before = 0;
        assert_int_equal(events_of(&f, &cases[i].filter, 0, e, 16, &count), 0);
        assert_int_equal(count, cases[i].count);
        for (size_t k = 0; k < count; k++) {
            assert_true(e[k].order > before);
            assert_true(events_match(&cases[i].filter, &e[k]));
            before = e[k].order;
        }
    }
    /* Where one has come to is where one goes on, whatever the list. */
    struct events_filter mine = {.what = EVENTS_OBJECT, .ptr = a};
    struct events_cursor cursor = {0};
    uint32_t budget = 100;
    while (events_next(f.heap, &mine, &cursor, &budget, e) == 0) {
    }
    assert_int_equal(cursor.order, heap_order(f.heap));
    uint64_t last = write_at(&f, 1000, a, 0, TEXT("!"));
    assert_int_equal(events_next(f.heap, &mine, &cursor, &budget, e), 0);
    assert_int_equal(e[0].version, last);
    /* Ahead of the heap: of another one. */
    cursor = (struct events_cursor){.order = heap_order(f.heap) + 1};
    assert_int_equal(events_next(f.heap, &mine, &cursor, &budget, e), ERR_INVAL);
    heap_free(f.heap);
}

static void what_is_gone_for_good_is_stale(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e[4];
    size_t count = 0;
    uint64_t left = 0;
    open_heap(&f, 1000);
    uint64_t a = alloc(&f, 1000, TEXT("a"));
    struct events_filter mine = {.what = EVENTS_OBJECT, .ptr = a};
    struct heap_command c = {.kind = HEAP_COMMAND_FREE, .ptr = a};
    (void)apply(&f, 1000, c);
    assert_int_equal(events_of(&f, &mine, 0, e, 4, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(e[1].kind, UNDO_FREE);
    next_entry(&f, 9000);
    (void)heap_next_version(f.heap);
    heap_reclaim(f.heap, UINT64_MAX, 100, &left);
    done(&f);
    assert_int_equal(events_of(&f, &mine, heap_order(f.heap), e, 4, &count), ERR_STALE);
    assert_int_equal(events_of(&f, &mine, 0, e, 4, &count), ERR_SNAPSHOT_TOO_OLD);
    /* By version: what is gone is not newer than the safepoint. */
    uint64_t at = 0;
    assert_int_equal(events_oldest(f.heap, &at), heap_order(f.heap));
    struct events_filter later = {.what = EVENTS_ALL, .at = at};
    assert_int_equal(events_of(&f, &later, 0, e, 4, &count), 0);
    assert_int_equal(count, 0);
    later.at--;
    assert_int_equal(events_of(&f, &later, 0, e, 4, &count), ERR_SNAPSHOT_TOO_OLD);
    heap_free(f.heap);
}

/* A slow follower pays for each change once, a little at a time, though blocks move meanwhile. */
static void a_budget_only_delays(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e;
    open_heap(&f, 100000);
    uint64_t ptr[40];
    uint64_t steps = 0;
    for (size_t i = 0; i < 40; i++) {
        ptr[i] = alloc(&f, 1000, TEXT("some bytes"));
    }
    for (size_t i = 0; i < 400; i++) {
        (void)write_at(&f, 1000, ptr[i % 40], 0, TEXT("some"));
    }
    const struct events_filter filters[] = {{.what = EVENTS_ALL},
                                            {.what = EVENTS_OBJECT, .ptr = ptr[7]},
                                            {.what = EVENTS_TYPE, .type = 4, .at = 1}};
    const size_t want[] = {440, 11, 440};
    for (size_t k = 0; k < 3; k++) {
        struct events_cursor cursor = {0};
        uint64_t order = 0;
        size_t found = 0;
        for (int rv = 0; rv != ERR_NOTFOUND;) {
            uint32_t budget = 7;
            rv = events_next(f.heap, &filters[k], &cursor, &budget, &e);
            steps += 7 - budget;
            if (rv == 0) {
                assert_true(e.order > order);
                order = e.order;
                found++;
            } else {
                assert_true(rv == ERR_BUSY || rv == ERR_NOTFOUND);
            }
            if (steps % 16 == 0) {
                struct heap_defrag d = {0};
                next_entry(&f, 1000);
                assert_int_equal(heap_defrag(f.heap, 4096, &d), 0);
                done(&f);
            }
        }
        assert_int_equal(found, want[k]);
    }
    heap_free(f.heap);
}

static void changes_of_a_transaction_stand_together(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e[8];
    struct part p;
    size_t count = 0;
    open_heap(&f, 1000);
    uint64_t a = alloc(&f, 1000, TEXT("a"));
    uint64_t b = alloc(&f, 1000, TEXT("b"));
    uint64_t start = heap_order(f.heap);
    part_begin(&p, 0);
    part_write(&p, a, 0, TEXT("A"));
    part_write(&p, b, 0, TEXT("B"));
    struct heap_command c = {.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)};
    assert_int_equal(apply(&f, 1000, c).code, 0);
    (void)write_at(&f, 1000, a, 0, TEXT("c"));
    assert_int_equal(events(&f, start, e, 8, &count), 0);
    assert_int_equal(count, 3);
    assert_int_equal(e[0].version, e[1].version);
    assert_true(events_more(f.heap, &all, &e[0]));
    assert_false(events_more(f.heap, &all, &e[1]));
    assert_false(events_more(f.heap, &all, &e[2]));
    struct events_filter mine = {.what = EVENTS_OBJECT, .ptr = a};
    assert_false(events_more(f.heap, &mine, &e[0]));
    heap_free(f.heap);
}

static void check_values(const struct fixture *f, const struct heap_event *e, const char *before,
                         const char *after)
{
    struct buf out = {0};
    uint32_t before_len = 0;
    uint32_t after_len = 0;
    assert_int_equal(events_values(f->heap, e, 16, &out, &before_len, &after_len), 0);
    assert_int_equal(before_len, before == NULL ? UINT32_MAX : strlen(before));
    assert_int_equal(after_len, after == NULL ? UINT32_MAX : strlen(after));
    size_t first = before == NULL ? 0 : strlen(before);
    if (before != NULL && first > 0) {
        assert_memory_equal(out.data, before, first);
    }
    if (after != NULL && after[0] != 0) {
        assert_memory_equal(out.data + first, after, strlen(after));
    }
    buf_close(&out);
}

static void values_are_those_of_the_change(void **state)
{
    (void)state;
    struct fixture f;
    struct heap_event e[64];
    size_t count = 0;
    open_heap(&f, 1000);
    uint64_t a = alloc(&f, 1000, TEXT("hello"));
    (void)write_at(&f, 1000, a, 1, TEXT("EL"));
    (void)write_at(&f, 1000, a, 0, TEXT("JU"));
    struct heap_command c = {.kind = HEAP_COMMAND_REALLOC, .ptr = a, .size = 3};
    (void)apply(&f, 1000, c);
    c.size = 20;
    (void)apply(&f, 1000, c);
    (void)write_at(&f, 1000, a, 3, TEXT("long enough to be"));
    c = (struct heap_command){.kind = HEAP_COMMAND_REALLOC, .ptr = a, .size = 4};
    (void)apply(&f, 1000, c);
    c = (struct heap_command){.kind = HEAP_COMMAND_FREE, .ptr = a};
    (void)apply(&f, 1000, c);
    assert_int_equal(events(&f, 0, e, 64, &count), 0);
    assert_int_equal(count, 8);
    check_values(&f, &e[0], NULL, "hello");
    check_values(&f, &e[1], "el", "EL");
    check_values(&f, &e[2], "hE", "JU");
    check_values(&f, &e[3], "lo", NULL);
    check_values(&f, &e[4], "", NULL);
    check_values(&f, &e[5], NULL, NULL); /* longer than asked for */
    check_values(&f, &e[6], "ong enough to be", NULL);
    check_values(&f, &e[7], "JULl", NULL);
    /* Behind too many newer changes it isn't cheap any more. */
    uint64_t b = alloc(&f, 1000, TEXT("b"));
    uint64_t start = heap_order(f.heap);
    for (int i = 0; i < 66; i++) {
        (void)write_at(&f, 1000, b, 0, TEXT("x"));
    }
    assert_int_equal(events(&f, start, e, 2, &count), 0);
    check_values(&f, &e[0], NULL, NULL);
    check_values(&f, &e[1], "x", "x");
    heap_free(f.heap);
}

/* ---- history on demand ---- */

static void a_time_that_is_closed_can_be_read_for_a_while(void **state)
{
    (void)state;
    struct fixture f;
    char bytes[5];
    open_heap(&f, 0);
    uint64_t ptr = alloc(&f, 1000, TEXT("hello"));
    uint64_t at = hlc_from_ms(1500);
    struct heap_command close = {.kind = HEAP_COMMAND_CLOSE, .if_version = at, .count = TX_KEEP_MS};
    /* Nobody moves the clock far. */
    close.if_version = hlc_from_ms(2500);
    assert_int_equal(apply(&f, 1000, close).code, ERR_INVAL);
    close.if_version = at;
    assert_int_equal(apply(&f, 1000, close).code, 0);
    assert_int_equal(heap_clock(f.heap), at);
    struct heap_command c = {.kind = HEAP_COMMAND_WRITE, .ptr = ptr, .data = TEXT("HELLO")};
    (void)apply(&f, 1000, c);
    assert_true(heap_clock(f.heap) > at);
    assert_int_equal(heap_read_at(f.heap, at, ptr, 0, bytes, 5), 0);
    assert_memory_equal(bytes, "hello", 5);
    assert_int_equal(heap_read_at(f.heap, at - 1, ptr, 0, bytes, 5), ERR_SNAPSHOT_TOO_OLD);
    /* Reclaiming leaves it alone, and switching the heap's own history on and off does, too. */
    c = (struct heap_command){.kind = HEAP_COMMAND_RECLAIM, .if_version = UINT64_MAX, .count = 100};
    (void)apply(&f, 9000, c);
    struct heap_command set = {.kind = HEAP_COMMAND_SET_RETENTION, .size = 5};
    (void)apply(&f, 9000, set);
    (void)apply(&f, 9000, c);
    set.size = 0;
    (void)apply(&f, 9000, set);
    assert_int_equal(heap_read_at(f.heap, at, ptr, 0, bytes, 5), 0);
    assert_memory_equal(bytes, "hello", 5);
    /* A later reader keeps it for longer. */
    close.if_version = hlc_from_ms(9000);
    assert_int_equal(apply(&f, 9000, close).code, 0);
    (void)apply(&f, 13000, c);
    assert_int_equal(heap_read_at(f.heap, hlc_from_ms(9000), ptr, 0, bytes, 5), 0);
    /* Then it ends: nothing is kept, and writes leave no records. */
    (void)apply(&f, 19001, c);
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(header(f.heap)->keep_until, 0);
    c = (struct heap_command){.kind = HEAP_COMMAND_WRITE, .ptr = ptr, .data = TEXT("x")};
    (void)apply(&f, 19002, c);
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(heap_read_at(f.heap, hlc_from_ms(9000), ptr, 0, bytes, 5),
                     ERR_SNAPSHOT_TOO_OLD);
    heap_free(f.heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_come_in_log_order),
        cmocka_unit_test(without_history_nothing_can_be_followed),
        cmocka_unit_test(an_unrecorded_change_is_a_gap),
        cmocka_unit_test(roots_have_a_past),
        cmocka_unit_test(filters_pass_what_they_name),
        cmocka_unit_test(what_is_gone_for_good_is_stale),
        cmocka_unit_test(a_budget_only_delays),
        cmocka_unit_test(changes_of_a_transaction_stand_together),
        cmocka_unit_test(values_are_those_of_the_change),
        cmocka_unit_test(a_time_that_is_closed_can_be_read_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
