/* Older versions: what can be read, for how long, and what it costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/txn.h"
#include "base/hlc.h"

#define RETENTION_MS 1000u
#define NOTHING      slice_of(NULL, 0)

struct fixture {
    struct heap *heap;
    uint64_t index;
};

static void open_heap(struct fixture *f, uint64_t bytes_max, uint64_t retention_ms)
{
    struct heap_opts opts = {
        .uid = 7, .shard = 5, .bytes_max = bytes_max, .retention_ms = retention_ms};
    assert_int_equal(heap_create(&opts, &f->heap), 0);
    f->index = 0;
}

/* A new entry at a wall clock time; returns the version of its first command. */
static uint64_t at(struct fixture *f, uint64_t ms)
{
    heap_begin(f->heap, ++f->index, 1, hlc_from_ms(ms));
    uint64_t version = heap_next_version(f->heap);
    heap_end(f->heap);
    return version;
}

static void check(struct fixture *f)
{
    struct err_text e = {""};
    if (heap_check(f->heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void close_heap(struct fixture *f)
{
    check(f);
    heap_free(f->heap);
}

static void assert_text(struct fixture *f, uint64_t version, uint64_t ptr, const char *text)
{
    char bytes[100];
    struct heap_object o;
    assert_int_equal(heap_stat_at(f->heap, version, ptr, &o), 0);
    assert_int_equal(o.size, strlen(text));
    assert_int_equal(heap_read_at(f->heap, version, ptr, 0, bytes, o.size), 0);
    assert_memory_equal(bytes, text, o.size);
    assert_int_equal(heap_read_at(f->heap, version, ptr, 1, bytes, o.size), ERR_RANGE);
}

static void each_version_of_an_object_can_be_read(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptr = 0;
    struct heap_object o;
    open_heap(&f, 8 << 20, RETENTION_MS);
    uint64_t before = at(&f, 10);
    uint64_t born = at(&f, 20);
    assert_int_equal(heap_alloc(f.heap, born, 5, 1, slice_of("hello", 5), &ptr), 0);
    uint64_t written = at(&f, 30);
    assert_int_equal(heap_write(f.heap, written, ptr, 1, slice_of("EL", 2)), 0);
    uint64_t cut = at(&f, 40);
    assert_int_equal(heap_realloc(f.heap, cut, ptr, 2), 0);
    uint64_t grown = at(&f, 50);
    assert_int_equal(heap_realloc(f.heap, grown, ptr, 4), 0);
    uint64_t again = at(&f, 60);
    assert_int_equal(heap_write(f.heap, again, ptr, 2, slice_of("xy", 2)), 0);
    uint64_t freed = at(&f, 70);
    assert_int_equal(heap_free_object(f.heap, freed, ptr), 0);
    uint64_t end = at(&f, 80);

    assert_int_equal(heap_stat_at(f.heap, before, ptr, &o), ERR_NOTFOUND);
    assert_int_equal(heap_stat_at(f.heap, born - 1, ptr, &o), ERR_NOTFOUND);
    assert_text(&f, born, ptr, "hello");
    assert_text(&f, written - 1, ptr, "hello");
    assert_text(&f, written, ptr, "hELlo");
    assert_text(&f, cut, ptr, "hE");
    char bytes[4];
    assert_int_equal(heap_read_at(f.heap, grown, ptr, 0, bytes, 4), 0);
    assert_memory_equal(bytes, "hE\0\0", 4);
    assert_text(&f, again, ptr, "hExy");
    assert_text(&f, freed - 1, ptr, "hExy");
    assert_int_equal(heap_stat_at(f.heap, freed, ptr, &o), ERR_STALE);
    assert_int_equal(heap_stat_at(f.heap, end, ptr, &o), ERR_STALE);
    assert_int_equal(heap_read_at(f.heap, UINT64_MAX, ptr, 0, bytes, 1), ERR_STALE);
    /* To everybody else it has gone. */
    assert_int_equal(heap_stat(f.heap, ptr, &o), ERR_STALE);
    assert_int_equal(heap_free_object(f.heap, end, ptr), ERR_STALE);
    assert_int_equal(heap_realloc(f.heap, end, ptr, 1), ERR_STALE);
    size_t listed = 0;
    uint64_t next = 0;
    struct heap_object list[4];
    listed = heap_list_objects(f.heap, 0, list, 4, &next);
    assert_int_equal(listed, 0);
    assert_int_equal(header(f.heap)->dead_count, 1);

    struct heap_change c[8];
    size_t count = 0;
    assert_int_equal(heap_history(f.heap, ptr, 0, c, 8, &count), 0);
    assert_int_equal(count, 6);
    const struct heap_change want[] = {
        {freed, again, 0, 0, 0, UNDO_FREE, 0},   {again, grown, 4, 2, 2, UNDO_WRITE, 0},
        {grown, cut, 4, 2, 0, UNDO_RESIZE, 0},   {cut, written, 2, 2, 3, UNDO_RESIZE, 0},
        {written, born, 5, 1, 2, UNDO_WRITE, 0}, {born, 0, 5, 0, 0, UNDO_BIRTH, 0},
    };
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(c[i].version, want[i].version);
        assert_int_equal(c[i].before, want[i].before);
        assert_int_equal(c[i].size, want[i].size);
        assert_int_equal(c[i].offset, want[i].offset);
        assert_int_equal(c[i].len, want[i].len);
        assert_int_equal(c[i].kind, want[i].kind);
        assert_true(c[i].order != 0 && (i == 0 || c[i].order < c[i - 1].order));
    }
    assert_int_equal(heap_history(f.heap, ptr, 4, c, 1, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(c[0].version, written);
    close_heap(&f);
}

static void the_safepoint_follows_the_clock_and_never_goes_back(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t left = 0;
    uint64_t ptr = 0;
    struct heap_object o;
    open_heap(&f, 8 << 20, RETENTION_MS);
    uint64_t born = at(&f, 5000);
    assert_int_equal(heap_alloc(f.heap, born, 5, 1, slice_of("hello", 5), &ptr), 0);
    uint64_t written = at(&f, 5500);
    assert_int_equal(heap_write(f.heap, written, ptr, 0, slice_of("j", 1)), 0);
    assert_int_equal(heap_safepoint(f.heap), 0);
    heap_reclaim(f.heap, UINT64_MAX, 100, &left);
    assert_int_equal(heap_safepoint(f.heap), hlc_from_ms(4500));
    assert_int_equal(left, 0);
    (void)at(&f, 6200);
    heap_reclaim(f.heap, hlc_from_ms(4000), 100, &left);
    assert_int_equal(heap_safepoint(f.heap), hlc_from_ms(4500));
    heap_reclaim(f.heap, hlc_from_ms(5100), 100, &left);
    assert_int_equal(heap_safepoint(f.heap), hlc_from_ms(5100));
    assert_int_equal(header(f.heap)->undo_count, 1);
    assert_int_equal(heap_stat_at(f.heap, born, ptr, &o), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_read_at(f.heap, born, ptr, 0, NULL, 0), ERR_SNAPSHOT_TOO_OLD);
    assert_text(&f, hlc_from_ms(5100), ptr, "hello");
    struct heap_change c[3];
    size_t count = 0;
    assert_int_equal(heap_history(f.heap, ptr, 0, c, 3, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(c[0].kind, UNDO_WRITE);
    assert_int_equal(c[1].kind, 0);
    assert_int_equal(c[1].version, born);
    assert_int_equal(c[1].size, 5);
    (void)at(&f, 7000);
    heap_reclaim(f.heap, UINT64_MAX, 100, &left);
    assert_int_equal(heap_safepoint(f.heap), hlc_from_ms(6000));
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(heap_stat(f.heap, ptr, &o), 0);
    assert_int_equal(o.flags, 0);
    assert_int_equal(heap_map_count(f.heap, HEAP_MAP_UNDO), 0);
    close_heap(&f);
}

static void reclaiming_goes_in_bounded_steps(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptrs[300];
    uint64_t left = 0;
    open_heap(&f, 32 << 20, RETENTION_MS);
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(heap_alloc(f.heap, at(&f, 10), 100, 1, NOTHING, &ptrs[i]), 0);
    }
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(heap_free_object(f.heap, at(&f, 20), ptrs[i]), 0);
    }
    assert_int_equal(header(f.heap)->object_count, 0);
    assert_int_equal(header(f.heap)->dead_count, 300);
    assert_int_equal(header(f.heap)->dead_bytes, 30000);
    (void)at(&f, 20 + RETENTION_MS + 1);
    heap_reclaim(f.heap, UINT64_MAX, 0, &left);
    assert_int_equal(left, 600);
    for (uint64_t done = 0; left > 0; done += 7) {
        assert_int_equal(left, 600 - done);
        heap_reclaim(f.heap, UINT64_MAX, 7, &left);
        check(&f);
    }
    assert_int_equal(header(f.heap)->dead_count, 0);
    assert_int_equal(header(f.heap)->dead_bytes, 0);
    assert_int_equal(header(f.heap)->block_count[POOL_OBJECTS], 0);
    assert_int_equal(header(f.heap)->block_count[POOL_UNDO], 0);
    close_heap(&f);
}

/* The end of a large object is much work: a step counts its chunks. */
static void large_objects_end_one_at_a_time(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptrs[4];
    uint64_t left = 0;
    open_heap(&f, (uint64_t)256 << 20, RETENTION_MS);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(heap_alloc(f.heap, 0, 20 << 20, 1, NOTHING, &ptrs[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        uint64_t version = at(&f, 10);
        assert_int_equal(i % 2 == 0 ? heap_free_object(f.heap, version, ptrs[i])
                                    : heap_realloc(f.heap, version, ptrs[i], 5),
                         0);
    }
    (void)at(&f, 11 + RETENTION_MS);
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(header(f.heap)->undo_count, 4 - i);
        heap_reclaim(f.heap, UINT64_MAX, 10, &left);
        assert_int_equal(left, 3 - i);
    }
    assert_int_equal(header(f.heap)->chunk_count, 0);
    close_heap(&f);
}

static void without_retention_nothing_is_kept(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptr = 0;
    uint64_t left = 0;
    struct heap_object o;
    open_heap(&f, 8 << 20, 0);
    uint64_t born = at(&f, 10);
    assert_int_equal(heap_alloc(f.heap, born, 5, 1, slice_of("hello", 5), &ptr), 0);
    uint64_t written = at(&f, 20);
    assert_int_equal(heap_write(f.heap, written, ptr, 0, slice_of("j", 1)), 0);
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(heap_safepoint(f.heap), written);
    assert_int_equal(heap_stat_at(f.heap, written - 1, ptr, &o), ERR_SNAPSHOT_TOO_OLD);
    assert_text(&f, written, ptr, "jello");

    /* From now on, but not before. */
    uint64_t begun = at(&f, 30);
    assert_int_equal(heap_set_retention(f.heap, RETENTION_MS), 0);
    assert_int_equal(heap_safepoint(f.heap), begun);
    uint64_t second = at(&f, 40);
    assert_int_equal(heap_write(f.heap, second, ptr, 0, slice_of("c", 1)), 0);
    assert_text(&f, begun, ptr, "jello");
    assert_text(&f, second, ptr, "cello");

    /* Dropped: what is left of it goes in steps, and an object that has some of it waits. */
    uint64_t dropped = at(&f, 50);
    assert_int_equal(heap_set_retention(f.heap, 0), 0);
    assert_int_equal(heap_safepoint(f.heap), dropped);
    assert_int_equal(heap_stat_at(f.heap, begun, ptr, &o), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_free_object(f.heap, at(&f, 60), ptr), 0);
    assert_int_equal(heap_stat(f.heap, ptr, &o), ERR_STALE);
    assert_int_equal(header(f.heap)->undo_count, 2);
    check(&f);
    heap_reclaim(f.heap, UINT64_MAX, 10, &left);
    assert_int_equal(left, 0);
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(header(f.heap)->block_count[POOL_OBJECTS], 0);
    close_heap(&f);
}

/* 0: deletes it. */
static int set_root(struct fixture *f, uint64_t version, struct slice name, uint64_t ptr)
{
    struct heap_command c = {.kind = ptr != 0 ? HEAP_COMMAND_ROOT_SET : HEAP_COMMAND_ROOT_DELETE,
                             .name = name,
                             .ptr = ptr};
    struct heap_outcome out;
    int rv = heap_apply(f->heap, version, &c, &out);
    return rv != 0 ? rv : out.code;
}

static void without_retention_what_has_not_changed_since_is_known(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t old = 0;
    uint64_t fresh = 0;
    struct heap_object o;
    struct root_record root;
    struct slice name;
    struct slice r = slice_of("r", 1);
    open_heap(&f, 8 << 20, 0);
    assert_int_equal(heap_alloc(f.heap, at(&f, 10), 5, 1, slice_of("hello", 5), &old), 0);
    assert_int_equal(set_root(&f, at(&f, 20), r, old), 0);
    uint64_t then = at(&f, 30);
    assert_int_equal(heap_alloc(f.heap, at(&f, 40), 5, 1, slice_of("later", 5), &fresh), 0);
    assert_true(then < heap_safepoint(f.heap));

    assert_text(&f, then, old, "hello");
    assert_int_equal(heap_stat_at(f.heap, then, fresh, &o), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_root_get_at(f.heap, then, r, &root), 0);
    assert_int_equal(root.ptr, old);
    assert_int_equal(heap_root_get_at(f.heap, then, slice_of("s", 1), &root), ERR_NOTFOUND);
    assert_int_equal(heap_root_next_at(f.heap, then, NOTHING, &name, &root), 0);
    assert_true(slice_equals(name, r));

    /* Nobody knows what a freed object was, nor whether a name was there before names went. */
    assert_int_equal(set_root(&f, at(&f, 50), r, fresh), 0);
    assert_int_equal(heap_root_get_at(f.heap, then, r, &root), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_root_next_at(f.heap, then, NOTHING, &name, &root), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(set_root(&f, at(&f, 60), r, 0), 0);
    assert_int_equal(heap_root_get_at(f.heap, then, r, &root), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_root_get_at(f.heap, then, slice_of("s", 1), &root), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_free_object(f.heap, at(&f, 70), old), 0);
    assert_int_equal(heap_stat_at(f.heap, then, old, &o), ERR_SNAPSHOT_TOO_OLD);
    close_heap(&f);
}

static void a_change_that_the_safepoint_covers_leaves_no_record(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptr = 0;
    open_heap(&f, 8 << 20, RETENTION_MS);
    uint64_t version = at(&f, 10);
    assert_int_equal(heap_set_retention(f.heap, 0), 0);
    assert_int_equal(heap_set_retention(f.heap, 50), 0);
    assert_int_equal(heap_alloc(f.heap, version, 5, 1, NOTHING, &ptr), 0);
    assert_int_equal(header(f.heap)->undo_count, 0);
    assert_int_equal(heap_write(f.heap, at(&f, 11), ptr, 0, slice_of("x", 1)), 0);
    assert_int_equal(header(f.heap)->undo_count, 1);
    close_heap(&f);
}

/* The record of a write has its size, not the object's. */
static void undo_follows_the_write(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptr = 0;
    open_heap(&f, 64 << 20, RETENTION_MS);
    assert_int_equal(heap_alloc(f.heap, at(&f, 10), 20 << 20, 1, NOTHING, &ptr), 0);
    uint64_t before = header(f.heap)->undo_bytes;
    assert_int_equal(heap_write(f.heap, at(&f, 11), ptr, 7 << 20, slice_of("12345678", 8)), 0);
    assert_int_equal(header(f.heap)->undo_bytes - before, sizeof(struct undo_record) + 8);
    assert_true(header(f.heap)->block_bytes[POOL_UNDO] <= 256);
    close_heap(&f);
}

/* ---- sizes of all kinds, back and forth ---- */

static void fill(uint8_t *bytes, uint64_t len, uint64_t seed)
{
    for (uint64_t i = 0; i < len; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(seed >> 40);
    }
}

static void put(struct fixture *f, uint64_t version, uint64_t ptr, const uint8_t *bytes,
                uint64_t len)
{
    for (uint64_t done = 0; done < len; done += WRITE_BYTES_MAX) {
        uint64_t part = len - done < WRITE_BYTES_MAX ? len - done : WRITE_BYTES_MAX;
        assert_int_equal(heap_write(f->heap, version, ptr, done, slice_of(bytes + done, part)), 0);
    }
}

/* An object goes through sizes on both sides of every border, is written to at each, compacted in
 * between, and every state of it must come back byte for byte. */
static void history_survives_every_change_of_size(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {10,      900,           3 << 20,           1100,
                                     5 << 20, (1 << 20) + 1, 1 << 20,           2 << 20,
                                     2500000, 2097153,       3000000,           (3 << 20) - 1,
                                     50,      4 << 20,       7 << 20,           1 << 20,
                                     5000,    900000,        (1 << 20) + 70000, 60000,
                                     9 << 20};
    const size_t count = sizeof sizes / sizeof sizes[0];
    struct fixture f;
    uint64_t ptr = 0;
    uint64_t left = 0;
    uint64_t versions[2 * 21];
    uint8_t *past[2 * 21];
    open_heap(&f, (uint64_t)256 << 20, RETENTION_MS);
    assert_int_equal(heap_alloc(f.heap, at(&f, 1), sizes[0], 1, NOTHING, &ptr), 0);
    for (size_t i = 0; i < 2 * count; i++) {
        uint64_t size = sizes[i / 2];
        versions[i] = at(&f, 2 + i);
        past[i] = calloc(1, size);
        assert_non_null(past[i]);
        if (i % 2 == 0) {
            uint64_t keep = i == 0 ? 0 : sizes[i / 2 - 1] < size ? sizes[i / 2 - 1] : size;
            if (i > 0) {
                memcpy(past[i], past[i - 1], keep);
            }
            assert_int_equal(heap_realloc(f.heap, versions[i], ptr, size), 0);
        } else {
            fill(past[i], size, i);
            put(&f, versions[i], ptr, past[i], size);
        }
        struct heap_defrag step;
        assert_int_equal(heap_defrag(f.heap, 300000, &step), 0);
        check(&f);
    }
    uint64_t freed = at(&f, 100);
    assert_int_equal(heap_free_object(f.heap, freed, ptr), 0);
    uint8_t *bytes = malloc(9 << 20);
    assert_non_null(bytes);
    for (size_t gone = 0; gone <= 2 * count; gone++) {
        for (size_t i = gone; i < 2 * count; i += gone % 5 == 0 ? 1 : 8) {
            struct heap_object o;
            assert_int_equal(heap_stat_at(f.heap, versions[i], ptr, &o), 0);
            assert_int_equal(o.size, sizes[i / 2]);
            assert_int_equal(o.version, versions[i]);
            memset(bytes, 0xdd, o.size);
            assert_int_equal(heap_read_at(f.heap, versions[i], ptr, 0, bytes, o.size), 0);
            assert_memory_equal(bytes, past[i], o.size);
            uint64_t offset = o.size / 3;
            assert_int_equal(heap_read_at(f.heap, versions[i], ptr, offset, bytes, o.size / 2), 0);
            assert_memory_equal(bytes, past[i] + offset, o.size / 2);
        }
        if (gone < 2 * count) {
            (void)at(&f, 2 + gone + RETENTION_MS);
            heap_reclaim(f.heap, versions[gone], HEAP_RECLAIM_RECORDS_MAX, &left);
            check(&f);
        }
    }
    for (size_t i = 0; i < 2 * count; i++) {
        free(past[i]);
    }
    free(bytes);
    (void)at(&f, 101 + RETENTION_MS);
    do {
        heap_reclaim(f.heap, UINT64_MAX, 10, &left);
    } while (left > 0);
    assert_int_equal(header(f.heap)->chunk_count, 0);
    assert_int_equal(header(f.heap)->block_count[POOL_OBJECTS], 0);
    assert_int_equal(header(f.heap)->block_count[POOL_UNDO], 0);
    close_heap(&f);
}

/* ---- full heaps ---- */

static void no_room_for_the_record_means_no_change(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t ptr = 0;
    uint64_t filler = 0;
    uint64_t left = 0;
    uint8_t big[100000];
    memset(big, 1, sizeof big);
    open_heap(&f, 1 << 20, RETENTION_MS);
    uint64_t born = at(&f, 10);
    assert_int_equal(heap_alloc(f.heap, born, 100000, 1, slice_of("abc", 3), &ptr), 0);
    while (heap_alloc(f.heap, at(&f, 10), 50000, 1, NOTHING, &filler) == 0) {
    }
    uint64_t undo = header(f.heap)->undo_count;
    uint64_t version = heap_clock(f.heap);
    assert_int_equal(heap_write(f.heap, version, ptr, 0, slice_of(big, sizeof big)), ERR_NOSPACE);
    assert_int_equal(heap_realloc(f.heap, version, ptr, 100), ERR_NOSPACE);
    assert_int_equal(header(f.heap)->undo_count, undo);
    struct heap_object o;
    assert_int_equal(heap_stat(f.heap, ptr, &o), 0);
    assert_int_equal(o.version, born);
    assert_int_equal(o.size, 100000);
    check(&f);
    /* With the room that time gives back it works. */
    (void)at(&f, 20 + RETENTION_MS);
    assert_int_equal(heap_set_retention(f.heap, 0), 0);
    heap_reclaim(f.heap, UINT64_MAX, 1000, &left);
    assert_int_equal(heap_write(f.heap, at(&f, 2000), ptr, 0, slice_of(big, sizeof big)), 0);
    close_heap(&f);
}

/* Room for the new blocks of an object, to the byte, and none for the record. Changes of version 0
 * are covered by the safepoint: they leave no record. */
static void a_resize_without_room_for_its_record_is_taken_back(void **state)
{
    (void)state;
    static const uint64_t cases[][3] = {
        /* from, to, room */
        {2 << 20, 3 << 20, 1 << 20}, {1 << 20, (1 << 20) + 1, 1 << 20},
        {5000, 1 << 20, 1 << 20},    {3 << 20, 1 << 20, 1 << 20},
        {1 << 20, 5000, 5000},       {2 << 20, (2 << 20) - 9, 5000},
        {300, 5000, 5000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f;
        uint64_t ptr = 0;
        uint64_t hole = 0;
        uint64_t filler = 0;
        uint64_t small[60];
        open_heap(&f, 8 << 20, RETENTION_MS);
        assert_int_equal(heap_alloc(f.heap, 0, cases[i][0], 1, slice_of("abc", 3), &ptr), 0);
        assert_int_equal(heap_alloc(f.heap, 0, cases[i][2], 1, NOTHING, &hole), 0);
        for (size_t k = 0; k < 60; k++) {
            assert_int_equal(heap_alloc(f.heap, 0, 1 + k, 1, NOTHING, &small[k]), 0);
        }
        for (uint64_t size = 1 << 20; size > 0; size /= 2) {
            while (heap_alloc(f.heap, 0, size, 1, NOTHING, &filler) == 0) {
            }
        }
        while (heap_write(f.heap, at(&f, 10), small[0], 0, slice_of("x", 1)) == 0) {
        }
        while (heap_write(f.heap, at(&f, 10), small[0], 0, NOTHING) == 0) {
        }
        for (size_t k = 1; k < 60; k++) {
            assert_int_equal(heap_free_object(f.heap, 0, small[k]), 0);
        }
        assert_int_equal(heap_free_object(f.heap, 0, hole), 0);
        check(&f);
        struct heap_header was = *header(f.heap);
        assert_int_equal(heap_realloc(f.heap, at(&f, 20), ptr, cases[i][1]), ERR_NOSPACE);
        const struct heap_header *is = header(f.heap);
        assert_int_equal(is->chunk_count, was.chunk_count);
        assert_int_equal(is->object_bytes, was.object_bytes);
        assert_int_equal(is->undo_count, was.undo_count);
        assert_int_equal(is->used_granules, was.used_granules);
        assert_memory_equal(is->block_bytes, was.block_bytes, sizeof was.block_bytes);
        struct heap_object o;
        assert_int_equal(heap_stat(f.heap, ptr, &o), 0);
        assert_int_equal(o.size, cases[i][0]);
        assert_int_equal(o.version, 0);
        check(&f);
        /* It was the record: without one it works. */
        assert_int_equal(heap_realloc(f.heap, 0, ptr, cases[i][1]), 0);
        char bytes[3];
        assert_int_equal(heap_copy(f.heap, ptr, 0, bytes, 3), 0);
        assert_memory_equal(bytes, "abc", 3);
        close_heap(&f);
    }
}

/* Freeing needs a record, a record needs room: what was set aside breaks the circle. */
static void a_full_heap_with_history_can_be_emptied(void **state)
{
    (void)state;
    static uint64_t ptrs[40000];
    for (int compact = 0; compact < 2; compact++) {
        struct fixture f;
        size_t count = 0;
        uint64_t left = 0;
        uint64_t now = 1000;
        open_heap(&f, 1 << 20, 0);
        uint64_t first = at(&f, now);
        while (heap_alloc(f.heap, first, 40, 1, NOTHING, &ptrs[count]) == 0 && count < 20000) {
            count++;
        }
        assert_int_equal(heap_set_retention(f.heap, RETENTION_MS), ERR_NOSPACE);
        assert_int_equal(heap_retention_ms(f.heap), 0);
        uint64_t kept = 0;
        for (size_t i = 0; i < count; i++) { /* room for two slabs, wherever */
            if (i < 2000) {
                assert_int_equal(heap_free_object(f.heap, first, ptrs[i]), 0);
            } else {
                ptrs[kept++] = ptrs[i];
            }
        }
        assert_int_equal(heap_set_retention(f.heap, RETENTION_MS), 0);
        for (uint64_t size = 20000; size > 16; size /= 2) {
            while (kept < 40000 && heap_alloc(f.heap, first, size, 1, NOTHING, &ptrs[kept]) == 0) {
                kept++;
            }
        }
        struct heap_defrag step;
        if (compact != 0) {
            do {
                assert_int_equal(heap_defrag(f.heap, 1 << 20, &step), 0);
            } while (step.left);
        }
        uint64_t turns = 0;
        while (kept > 0) {
            uint64_t before = kept;
            while (kept > 0 && heap_free_object(f.heap, at(&f, now), ptrs[kept - 1]) == 0) {
                kept--;
            }
            assert_true(kept < before);
            assert_true(++turns < 1000);
            now += RETENTION_MS + 1;
            (void)at(&f, now);
            do {
                heap_reclaim(f.heap, UINT64_MAX, 1000, &left);
            } while (left > 0);
            if (turns % 10 == 0) {
                check(&f);
            }
        }
        assert_int_equal(header(f.heap)->object_count, 0);
        assert_int_equal(header(f.heap)->dead_count, 0);
        close_heap(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_version_of_an_object_can_be_read),
        cmocka_unit_test(the_safepoint_follows_the_clock_and_never_goes_back),
        cmocka_unit_test(reclaiming_goes_in_bounded_steps),
        cmocka_unit_test(large_objects_end_one_at_a_time),
        cmocka_unit_test(without_retention_nothing_is_kept),
        cmocka_unit_test(without_retention_what_has_not_changed_since_is_known),
        cmocka_unit_test(a_change_that_the_safepoint_covers_leaves_no_record),
        cmocka_unit_test(undo_follows_the_write),
        cmocka_unit_test(history_survives_every_change_of_size),
        cmocka_unit_test(no_room_for_the_record_means_no_change),
        cmocka_unit_test(a_resize_without_room_for_its_record_is_taken_back),
        cmocka_unit_test(a_full_heap_with_history_can_be_emptied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
