/* Transactions on one shard: parts, checks, what they do, and that a refused one does nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "base/hlc.h"
#include "heap_model.h"
#include "txn_part.h"

#define TEXT(text) slice_of(text, sizeof(text) - 1)
#define NOTHING    slice_of(NULL, 0)
#define SESSION    9

static struct heap *heap_new(uint64_t bytes_max, uint64_t retention_ms)
{
    struct heap_opts opts = {
        .uid = 7, .shard = 5, .bytes_max = bytes_max, .retention_ms = retention_ms};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    heap_begin(heap, 1, 1, hlc_from_ms(1000));
    return heap;
}

static void check(const struct heap *heap)
{
    struct err_text e = {""};
    if (heap_check(heap, &e) != 0) {
        fail_msg("%s", e.text);
    }
}

static void heap_done(struct heap *heap)
{
    heap_end(heap);
    check(heap);
    heap_free(heap);
}

static struct heap_outcome run(struct heap *heap, const struct part *p)
{
    struct heap_outcome out;
    struct heap_command c = {
        .kind = HEAP_COMMAND_TRANSACT, .session = SESSION, .data = part_slice(p)};
    assert_int_equal(heap_apply(heap, heap_next_version(heap), &c, &out), 0);
    return out;
}

static uint64_t alloc(struct heap *heap, struct slice data)
{
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(heap, heap_next_version(heap), data.len, 0, data, &ptr), 0);
    return ptr;
}

static void set_root(struct heap *heap, struct slice name, uint64_t ptr)
{
    struct heap_outcome out;
    struct heap_command c = {.kind = HEAP_COMMAND_ROOT_SET, .name = name, .ptr = ptr};
    assert_int_equal(heap_apply(heap, heap_next_version(heap), &c, &out), 0);
    assert_int_equal(out.code, 0);
}

static void assert_bytes(const struct heap *heap, uint64_t ptr, const char *text)
{
    char bytes[64];
    assert_int_equal(heap_copy(heap, ptr, 0, bytes, strlen(text)), 0);
    assert_memory_equal(bytes, text, strlen(text));
}

static uint64_t version_of(const struct heap *heap, uint64_t ptr)
{
    struct heap_object o;
    assert_int_equal(heap_stat(heap, ptr, &o), 0);
    return o.version;
}

/* ---- parts ---- */

static void a_part_is_complete_and_says_nothing_else(void **state)
{
    (void)state;
    struct part p;
    part_begin(&p, SESSION);
    assert_int_equal(txn_part_check(part_slice(&p), true), 0);
    part_check(&p, 5, 7, TXN_NOT_NEWER);
    part_check_bytes(&p, 5, 1, TEXT("abc"));
    part_check_root(&p, TEXT("name"), 0, TXN_EQUAL);
    part_check_directory(&p, 4);
    part_check_live(&p, 6);
    assert_int_equal(txn_part_check(part_slice(&p), true), 0);
    part_write(&p, 5, 0, TEXT("x"));
    assert_int_equal(txn_part_check(part_slice(&p), true), ERR_PROTOCOL);
    assert_int_equal(txn_part_check(part_slice(&p), false), 0);
    part_alloc(&p, 8, 100, TEXT("init"));
    part_free(&p, 8);
    part_root(&p, TEXT("name"), 8);
    part_root(&p, TEXT("name"), 0);
    assert_int_equal(txn_part_check(part_slice(&p), false), 0);
    for (size_t len = 0; len < p.len; len++) {
        assert_int_equal(txn_part_check(slice_of(p.bytes, len), false), ERR_PROTOCOL);
    }
    part_append(&p, "", 1);
    assert_int_equal(txn_part_check(part_slice(&p), false), ERR_PROTOCOL);
}

static void what_a_kind_does_not_use_is_zero(void **state)
{
    (void)state;
    static const struct txn_item bad[] = {
        {.kind = 0, .ptr = 5},
        {.kind = TXN_ROOT_DELETE + 1, .ptr = 5},
        {.kind = TXN_CHECK_LIVE + 1, .ptr = 5},
        {.kind = TXN_CHECK_OBJECT},
        {.kind = TXN_CHECK_OBJECT, .ptr = 5, .mode = TXN_NOT_NEWER + 1},
        {.kind = TXN_CHECK_OBJECT, .ptr = 5, .type = 1},
        {.kind = TXN_CHECK_OBJECT, .ptr = 5, .reserved = 1},
        {.kind = TXN_CHECK_LIVE, .ptr = 5, .value = 1},
        {.kind = TXN_CHECK_DIRECTORY, .ptr = 5},
        {.kind = TXN_FREE, .ptr = 5, .value = 1},
        {.kind = TXN_FREE, .ptr = 5, .mode = 1},
        {.kind = TXN_WRITE, .ptr = 5, .type = 1},
        {.kind = TXN_CHECK_ROOT},
        {.kind = TXN_ROOT_SET, .ptr = 5},
    };
    struct part p;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        part_begin(&p, 0);
        part_add(&p, bad[i], NOTHING, NOTHING);
        assert_int_equal(txn_part_check(part_slice(&p), false), ERR_PROTOCOL);
    }
    part_begin(&p, 0);
    part_add(&p, (struct txn_item){.kind = TXN_FREE, .ptr = 5}, TEXT("a"), NOTHING);
    assert_int_equal(txn_part_check(part_slice(&p), false), ERR_PROTOCOL);
    part_begin(&p, 0);
    part_add(&p, (struct txn_item){.kind = TXN_FREE, .ptr = 5}, NOTHING, TEXT("a"));
    assert_int_equal(txn_part_check(part_slice(&p), false), ERR_PROTOCOL);
    part_begin(&p, 0);
    part_root(&p, slice_of("a\0b", 3), 5);
    assert_int_equal(txn_part_check(part_slice(&p), false), ERR_PROTOCOL);
    part_begin(&p, 0);
    for (uint32_t i = 0; i < TX_ITEMS_MAX; i++) {
        part_free(&p, 5);
    }
    assert_int_equal(txn_part_check(part_slice(&p), false), 0);
    part_free(&p, 5);
    assert_int_equal(txn_part_check(part_slice(&p), false), ERR_PROTOCOL);
}

/* ---- checks ---- */

static void versions_are_compared(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 1000);
    struct part p;
    uint64_t ptr = alloc(heap, TEXT("hello"));
    uint64_t v = version_of(heap, ptr);
    static const struct {
        int64_t off;
        uint8_t mode;
        int code;
    } cases[] = {
        {0, TXN_EQUAL, 0},     {-1, TXN_EQUAL, ERR_CONFLICT},     {1, TXN_EQUAL, ERR_CONFLICT},
        {0, TXN_NOT_NEWER, 0}, {-1, TXN_NOT_NEWER, ERR_CONFLICT}, {1, TXN_NOT_NEWER, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        part_begin(&p, 0);
        part_check(&p, ptr, v + (uint64_t)cases[i].off, cases[i].mode);
        struct heap_outcome out = run(heap, &p);
        assert_int_equal(out.code, cases[i].code);
        assert_int_equal(out.value, cases[i].code != 0 ? ptr : 0);
        assert_int_equal(out.version, cases[i].code != 0 ? v : 0);
    }
    /* Of an object that is gone no version holds; of another shard's nothing is known. */
    assert_int_equal(heap_free_object(heap, heap_next_version(heap), ptr), 0);
    part_begin(&p, 0);
    part_check(&p, ptr, v, TXN_EQUAL);
    assert_int_equal(run(heap, &p).code, ERR_CONFLICT);
    part_begin(&p, 0);
    part_check(&p, ptr, UINT64_MAX, TXN_NOT_NEWER);
    assert_int_equal(run(heap, &p).code, ERR_CONFLICT);
    part_begin(&p, 0);
    part_check(&p, ptr_make(6, 1, 2), v, TXN_EQUAL);
    assert_int_equal(run(heap, &p).code, ERR_INVAL);
    heap_done(heap);
}

static void promised_objects_have_version_0(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 0);
    struct part p;
    uint64_t lease = 0;
    uint64_t ptr = 0;
    assert_int_equal(heap_lease(heap, SESSION, 1, &lease, &ptr), 0);
    assert_true(heap_ptr_is_unborn(heap, ptr));
    part_begin(&p, SESSION);
    part_check(&p, ptr, 0, TXN_EQUAL);
    assert_int_equal(run(heap, &p).code, 0);
    part_check_live(&p, ptr);
    assert_int_equal(run(heap, &p).code, ERR_NOT_YET);
    part_begin(&p, SESSION);
    part_write(&p, ptr, 0, TEXT("x"));
    assert_int_equal(run(heap, &p).code, ERR_NOT_YET);
    part_begin(&p, SESSION);
    part_check(&p, ptr, 0, TXN_EQUAL);
    part_alloc(&p, ptr, 5, TEXT("hello"));
    assert_int_equal(run(heap, &p).code, 0);
    assert_false(heap_ptr_is_unborn(heap, ptr));
    part_begin(&p, SESSION);
    part_check(&p, ptr, 0, TXN_EQUAL);
    assert_int_equal(run(heap, &p).code, ERR_CONFLICT);
    heap_done(heap);
}

static void roots_and_their_directory_are_compared(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 0);
    struct part p;
    uint64_t ptr = alloc(heap, TEXT("hello"));
    part_begin(&p, 0);
    part_check_root(&p, TEXT("a"), 0, TXN_EQUAL);
    part_check_directory(&p, 0);
    part_root(&p, TEXT("a"), ptr);
    assert_int_equal(run(heap, &p).code, 0);
    uint64_t v = heap_clock(heap);
    assert_int_equal(heap_directory_version(heap), v);
    struct heap_outcome out = run(heap, &p);
    assert_int_equal(out.code, ERR_CONFLICT);
    assert_int_equal(out.value, TXN_CONFLICT_NAMED | 0);
    assert_int_equal(out.version, v);
    part_begin(&p, 0);
    part_check_root(&p, TEXT("a"), v, TXN_EQUAL);
    part_check_directory(&p, 0);
    out = run(heap, &p);
    assert_int_equal(out.code, ERR_CONFLICT);
    assert_int_equal(out.value, TXN_CONFLICT_NAMED | 1);
    assert_int_equal(out.version, v);
    /* Moving a name isn't one for the directory, a name that comes or goes is. */
    set_root(heap, TEXT("a"), ptr);
    assert_int_equal(heap_directory_version(heap), v);
    part_begin(&p, 0);
    part_check_directory(&p, v);
    part_root(&p, TEXT("a"), 0);
    part_root(&p, TEXT("not there"), 0);
    assert_int_equal(run(heap, &p).code, 0);
    assert_int_equal(heap_directory_version(heap), heap_clock(heap));
    struct root_record r;
    assert_int_equal(heap_root_get(heap, TEXT("a"), &r), ERR_NOTFOUND);
    set_root(heap, TEXT("b"), ptr);
    assert_int_equal(heap_directory_version(heap), heap_clock(heap));
    heap_done(heap);
}

static void bytes_are_compared(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 0);
    struct part p;
    uint64_t ptr = alloc(heap, TEXT("hello"));
    part_begin(&p, 0);
    part_check_bytes(&p, ptr, 1, TEXT("ell"));
    part_write(&p, ptr, 0, TEXT("J"));
    assert_int_equal(run(heap, &p).code, 0);
    assert_bytes(heap, ptr, "Jello");
    part_begin(&p, 0);
    part_check_bytes(&p, ptr, 1, TEXT("elL"));
    struct heap_outcome out = run(heap, &p);
    assert_int_equal(out.code, ERR_CONFLICT);
    assert_int_equal(out.version, version_of(heap, ptr));
    part_begin(&p, 0);
    part_check_bytes(&p, ptr, 3, TEXT("lo!"));
    assert_int_equal(run(heap, &p).code, ERR_RANGE);
    heap_done(heap);
}

/* ---- operations ---- */

/* A new node between two: all of it carries one version. */
static void operations_take_effect_together(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 1000);
    struct part p;
    uint64_t lease = 0;
    uint64_t ptrs[3];
    uint64_t old = alloc(heap, TEXT("old"));
    uint64_t gone = alloc(heap, TEXT("gone"));
    set_root(heap, TEXT("name"), gone);
    uint64_t before = heap_clock(heap);
    assert_int_equal(heap_lease(heap, SESSION, 3, &lease, ptrs), 0);
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[0], 12, TEXT("hello"));
    part_write(&p, ptrs[0], 5, TEXT(" you"));
    part_write(&p, old, 0, TEXT("OLD"));
    part_free(&p, gone);
    part_root(&p, TEXT("name"), 0);
    part_root(&p, TEXT("new"), ptrs[0]);
    part_alloc(&p, ptrs[1], 3 << 20, TEXT("large"));
    assert_int_equal(run(heap, &p).code, 0);
    uint64_t v = heap_clock(heap);
    assert_int_equal(version_of(heap, ptrs[0]), v);
    assert_int_equal(version_of(heap, ptrs[1]), v);
    assert_int_equal(version_of(heap, old), v);
    assert_bytes(heap, ptrs[0], "hello you");
    assert_bytes(heap, ptrs[1], "large");
    assert_bytes(heap, old, "OLD");
    struct heap_object o;
    assert_int_equal(heap_stat(heap, gone, &o), ERR_STALE);
    struct root_record r;
    assert_int_equal(heap_root_get(heap, TEXT("name"), &r), ERR_NOTFOUND);
    assert_int_equal(heap_root_get(heap, TEXT("new"), &r), 0);
    assert_int_equal(r.ptr, ptrs[0]);
    assert_int_equal(r.version, v);
    assert_int_equal(header(heap)->roots_reserved, 0);
    /* The rest of the lease is still there, and the past as well. */
    uint64_t session = 0;
    uint32_t left = 0;
    uint64_t rest[3];
    assert_int_equal(heap_lease_get(heap, lease, &session, rest, &left), 0);
    assert_int_equal(left, 1);
    assert_int_equal(rest[0], ptrs[2]);
    char bytes[4];
    assert_int_equal(heap_read_at(heap, before, old, 0, bytes, 3), 0);
    assert_memory_equal(bytes, "old", 3);
    assert_int_equal(heap_read_at(heap, before, gone, 0, bytes, 4), 0);
    assert_memory_equal(bytes, "gone", 4);
    assert_int_equal(heap_read_at(heap, before, ptrs[0], 0, bytes, 3), ERR_NOTFOUND);
    heap_done(heap);
}

static void operations_see_those_before_them(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 0);
    struct part p;
    uint64_t lease = 0;
    uint64_t ptrs[3];
    uint64_t ptr = alloc(heap, TEXT("hello"));
    assert_int_equal(heap_lease(heap, SESSION, 3, &lease, ptrs), 0);
    part_begin(&p, SESSION);
    part_free(&p, ptr);
    part_write(&p, ptr, 0, TEXT("x"));
    assert_int_equal(run(heap, &p).code, ERR_STALE);
    part_begin(&p, SESSION);
    part_free(&p, ptr);
    part_free(&p, ptr);
    assert_int_equal(run(heap, &p).code, ERR_STALE);
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[0], 5, NOTHING);
    part_write(&p, ptrs[0], 3, TEXT("xyz"));
    assert_int_equal(run(heap, &p).code, ERR_RANGE);
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[1], 5, NOTHING);
    part_alloc(&p, ptrs[1], 5, NOTHING);
    assert_int_equal(run(heap, &p).code, ERR_STALE);
    assert_bytes(heap, ptr, "hello");
    /* Born and gone at once; set, deleted and set again. */
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[2], 5, NOTHING);
    part_write(&p, ptrs[2], 0, TEXT("xyz"));
    part_free(&p, ptrs[2]);
    part_root(&p, TEXT("a"), ptr);
    part_root(&p, TEXT("a"), 0);
    part_root(&p, TEXT("a"), ptr);
    part_root(&p, TEXT("b"), ptr);
    part_root(&p, TEXT("b"), 0);
    assert_int_equal(run(heap, &p).code, 0);
    struct root_record r;
    assert_int_equal(heap_root_get(heap, TEXT("a"), &r), 0);
    assert_int_equal(heap_root_get(heap, TEXT("b"), &r), ERR_NOTFOUND);
    struct heap_object o;
    assert_int_equal(heap_stat(heap, ptrs[2], &o), ERR_STALE);
    assert_int_equal(header(heap)->object_count, 1);
    heap_done(heap);
}

static void only_the_own_lease_gives_pointers(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 0);
    struct part p;
    uint64_t lease = 0;
    uint64_t ptrs[4];
    assert_int_equal(heap_lease(heap, SESSION, 4, &lease, ptrs), 0);
    part_begin(&p, SESSION + 1);
    part_alloc(&p, ptrs[0], 5, NOTHING);
    assert_int_equal(run(heap, &p).code, ERR_STALE);
    assert_true(heap_ptr_is_unborn(heap, ptrs[0]));
    /* What wasn't born never will be: the slot goes back. */
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[1], 0, NOTHING);
    assert_int_equal(run(heap, &p).code, ERR_INVAL);
    assert_false(heap_ptr_is_unborn(heap, ptrs[1]));
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[2], OBJECT_BYTES_MAX + 1ull, NOTHING);
    assert_int_equal(run(heap, &p).code, ERR_TOOBIG);
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[3], 2, TEXT("abc"));
    assert_int_equal(run(heap, &p).code, ERR_INVAL);
    assert_int_equal(header(heap)->leased_count, 1);
    assert_int_equal(heap_lease_return(heap, lease), 0);
    part_begin(&p, SESSION);
    part_alloc(&p, ptrs[0], 5, NOTHING);
    assert_int_equal(run(heap, &p).code, ERR_STALE);
    heap_done(heap);
}

/* ---- all or nothing ---- */

/* Whatever item fails, as whichever of the part: nothing has changed but the clock, and the slot
 * that was leased for it. */
static void a_failing_item_fails_all(void **state)
{
    (void)state;
    for (uint32_t failing = 0; failing < 7; failing++) {
        for (uint32_t place = 0; place < 6; place++) {
            struct heap *heap = heap_new(16 << 20, 1000);
            struct part p;
            uint64_t lease = 0;
            uint64_t ptrs[2];
            uint64_t a = alloc(heap, TEXT("aaaa"));
            uint64_t b = alloc(heap, TEXT("bbbb"));
            uint64_t stale = alloc(heap, TEXT("cccc"));
            set_root(heap, TEXT("root"), a);
            assert_int_equal(heap_free_object(heap, heap_next_version(heap), stale), 0);
            assert_int_equal(heap_lease(heap, SESSION, 2, &lease, ptrs), 0);
            part_begin(&p, SESSION);
            for (uint32_t i = 0; i < 6; i++) {
                if (i == place) {
                    switch (failing) {
                    case 0:
                        part_check(&p, b, 1, TXN_EQUAL);
                        break;
                    case 1:
                        part_check_root(&p, TEXT("root"), 1, TXN_EQUAL);
                        break;
                    case 2:
                        part_check_directory(&p, 1);
                        break;
                    case 3:
                        part_check_bytes(&p, b, 0, TEXT("bbbx"));
                        break;
                    case 4:
                        part_write(&p, b, 2, TEXT("xyz"));
                        break;
                    case 5:
                        part_free(&p, stale);
                        break;
                    default:
                        part_alloc(&p, stale, 5, NOTHING);
                        break;
                    }
                }
                switch (i) {
                case 0:
                    part_alloc(&p, ptrs[0], 100, TEXT("new"));
                    break;
                case 1:
                    part_write(&p, a, 0, TEXT("AA"));
                    break;
                case 2:
                    part_root(&p, TEXT("root"), 0);
                    break;
                case 3:
                    part_root(&p, TEXT("other"), ptrs[0]);
                    break;
                default:
                    part_write(&p, ptrs[0], i, TEXT("x"));
                    break;
                }
            }
            heap_end(heap);
            struct heap *copy = model_copy(heap);
            heap_begin(heap, 2, 1, hlc_from_ms(1000));
            heap_begin(copy, 2, 1, hlc_from_ms(1000));
            assert_int_not_equal(run(heap, &p).code, 0);
            (void)heap_next_version(copy);
            lease_drop_slot(copy, ptr_slot(ptrs[0])); /* given back: it never will be born */
            heap_end(copy);
            heap_end(heap);
            model_equal(heap, copy);
            heap_free(copy);
            check(heap);
            heap_free(heap);
        }
    }
}

/* What a test of room looks at. */
struct shape {
    uint64_t objects, object_bytes, dead, chunks, leased, roots, leases, reserved, directory;
    uint64_t blocks[POOLS];
};

static struct shape shape_of(const struct heap *heap)
{
    const struct heap_header *hd = header(heap);
    struct shape s;
    memset(&s, 0, sizeof s);
    s.objects = hd->object_count;
    s.object_bytes = hd->object_bytes;
    s.dead = hd->dead_count;
    s.chunks = hd->chunk_count;
    s.leased = hd->leased_count;
    s.roots = hd->maps[HEAP_MAP_ROOTS].count;
    s.leases = hd->maps[HEAP_MAP_LEASES].count;
    s.reserved = hd->roots_reserved;
    s.directory = hd->directory;
    memcpy(s.blocks, hd->block_count, sizeof s.blocks);
    return s;
}

/* A full heap in which `holes` pages become free again. */
static struct heap *heap_full(uint64_t retention_ms, uint32_t holes, uint64_t ptrs[4],
                              uint64_t *old, uint64_t *large)
{
    static uint64_t fillers[4096];
    struct heap *heap = heap_new(6 << 20, retention_ms);
    uint64_t lease = 0;
    uint64_t ptr = 0;
    uint32_t count = 0;
    assert_int_equal(heap_lease(heap, SESSION, 4, &lease, ptrs), 0);
    *old = alloc(heap, TEXT("old"));
    assert_int_equal(heap_alloc(heap, 0, 5000, 0, NOTHING, large), 0);
    while (heap_alloc(heap, 0, 8000, 0, NOTHING, &ptr) == 0) {
        fillers[count++] = ptr;
    }
    for (uint64_t size = 4096; size > 0; size /= 2) {
        while (heap_alloc(heap, 0, size, 0, NOTHING, &ptr) == 0) {
        }
    }
    /* Room of every kind is gone, that for roots and for undo records too. */
    for (uint32_t i = 0;; i++) {
        char name[32];
        int len = snprintf(name, sizeof name, "filler %u", i);
        struct heap_command c = {
            .kind = HEAP_COMMAND_ROOT_SET, .name = slice_of(name, (size_t)len), .ptr = *old};
        struct heap_outcome out;
        assert_int_equal(heap_apply(heap, heap_next_version(heap), &c, &out), 0);
        if (out.code != 0) {
            assert_int_equal(out.code, ERR_NOSPACE);
            break;
        }
    }
    while (retention_ms != 0 &&
           heap_write(heap, heap_next_version(heap), *old, 0, TEXT("old")) == 0) {
    }
    for (uint32_t i = 0; i < holes; i++) {
        assert_int_equal(heap_free_object(heap, 0, fillers[i]), 0);
    }
    return heap;
}

static void without_room_nothing_happens(void **state)
{
    (void)state;
    for (uint64_t retention_ms = 0; retention_ms <= 1000; retention_ms += 1000) {
        uint32_t refused = 0;
        for (uint32_t holes = 0;; holes++) {
            struct part p;
            uint64_t ptrs[4];
            uint64_t old = 0;
            uint64_t large = 0;
            struct heap *heap = heap_full(retention_ms, holes, ptrs, &old, &large);
            struct shape before = shape_of(heap);
            part_begin(&p, SESSION);
            part_write(&p, old, 0, TEXT("OLD"));
            part_root(&p, TEXT("a rather long name that needs a class of its own in the end"), old);
            for (uint32_t i = 0; i < 4; i++) {
                part_alloc(&p, ptrs[i], 300 + i * 3000, TEXT("init"));
            }
            part_root(&p, TEXT("b"), ptrs[0]);
            part_free(&p, large);
            int code = run(heap, &p).code;
            struct shape after = shape_of(heap);
            if (code == 0) {
                assert_bytes(heap, old, "OLD");
                assert_int_equal(after.objects, before.objects + 3);
                heap_done(heap);
                assert_true(refused > 4);
                break;
            }
            assert_int_equal(code, ERR_NOSPACE);
            before.leased = before.leases = 0; /* its slots went back, and so the lease */
            before.blocks[POOL_MAPS]--;
            assert_memory_equal(&before, &after, sizeof before);
            assert_bytes(heap, old, "old");
            refused++;
            heap_done(heap);
        }
    }
}

/* Only undo records lack room: the transaction wins, what was before is forgotten. */
static void history_gives_way_to_a_transaction(void **state)
{
    (void)state;
    struct part p;
    uint64_t ptrs[4];
    uint64_t old = 0;
    uint64_t large = 0;
    struct heap *heap = heap_full(1000, 0, ptrs, &old, &large);
    uint64_t before = heap_clock(heap);
    assert_true(heap_safepoint(heap) < before);
    part_begin(&p, SESSION);
    part_write(&p, large, 0, TEXT("a change too large to record"));
    part_write(&p, old, 0, TEXT("OLD"));
    part_free(&p, old);
    assert_int_equal(run(heap, &p).code, 0);
    assert_int_equal(heap_safepoint(heap), heap_clock(heap));
    assert_bytes(heap, large, "a change too large");
    char bytes[4];
    assert_int_equal(heap_read_at(heap, before, old, 0, bytes, 3), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(heap_read_at(heap, heap_clock(heap), old, 0, bytes, 3), ERR_STALE);
    heap_end(heap);
    check(heap);
    /* What the records keep can be reclaimed, the freed object with them. */
    heap_begin(heap, 2, 1, hlc_from_ms(5000));
    (void)heap_next_version(heap);
    uint64_t left = 1;
    while (left != 0) {
        heap_reclaim(heap, UINT64_MAX, 100, &left);
        check(heap);
    }
    assert_int_equal(header(heap)->undo_count, 0);
    assert_int_equal(header(heap)->dead_count, 0);
    heap_done(heap);
}

/* A part of any shape from a peer: no bounds are left. Flipped bits of a valid one do for that. */
static void damaged_parts_do_no_harm(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20, 1000);
    uint64_t lease = 0;
    uint64_t ptrs[64];
    uint64_t a = alloc(heap, TEXT("aaaa"));
    assert_int_equal(heap_lease(heap, SESSION, 64, &lease, ptrs), 0);
    uint32_t done = 0;
    for (uint32_t bit = 0;; bit++) {
        struct part p;
        part_begin(&p, SESSION);
        part_check(&p, a, UINT64_MAX, TXN_NOT_NEWER);
        part_alloc(&p, ptrs[done % 64], 40, TEXT("new"));
        part_write(&p, a, 1, TEXT("xx"));
        part_root(&p, TEXT("root"), a);
        if (bit == p.len * 8) {
            break;
        }
        p.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        done += run(heap, &p).code == 0;
    }
    assert_true(done > 0);
    heap_done(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_is_complete_and_says_nothing_else),
        cmocka_unit_test(what_a_kind_does_not_use_is_zero),
        cmocka_unit_test(versions_are_compared),
        cmocka_unit_test(promised_objects_have_version_0),
        cmocka_unit_test(roots_and_their_directory_are_compared),
        cmocka_unit_test(bytes_are_compared),
        cmocka_unit_test(operations_take_effect_together),
        cmocka_unit_test(operations_see_those_before_them),
        cmocka_unit_test(only_the_own_lease_gives_pointers),
        cmocka_unit_test(a_failing_item_fails_all),
        cmocka_unit_test(without_room_nothing_happens),
        cmocka_unit_test(history_gives_way_to_a_transaction),
        cmocka_unit_test(damaged_parts_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
