/* What commands answer: codes, values, versions; and that a refused one changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "base/hlc.h"
#include "heap_model.h"
#include "support/fault.h"

#define TEXT(text) slice_of(text, sizeof(text) - 1)

static struct heap *heap_new(uint64_t retention_ms)
{
    struct heap_opts opts = {
        .uid = 7, .shard = 5, .bytes_max = 16 << 20, .retention_ms = retention_ms};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    heap_begin(heap, 1, 1, hlc_from_ms(1000));
    return heap;
}

static void heap_done(struct heap *heap)
{
    heap_end(heap);
    assert_int_equal(heap_check(heap, NULL), 0);
    heap_free(heap);
}

static struct heap_outcome apply(struct heap *heap, struct heap_command c)
{
    struct heap_outcome out;
    assert_int_equal(heap_apply(heap, heap_next_version(heap), &c, &out), 0);
    return out;
}

static uint64_t alloc(struct heap *heap, struct slice data)
{
    struct heap_outcome out = apply(
        heap, (struct heap_command){.kind = HEAP_COMMAND_ALLOC, .size = data.len, .data = data});
    assert_int_equal(out.code, 0);
    assert_true(out.value != 0);
    return out.value;
}

static void assert_bytes(struct heap *heap, uint64_t ptr, uint64_t offset, const char *text)
{
    char bytes[64];
    assert_int_equal(heap_copy(heap, ptr, offset, bytes, strlen(text)), 0);
    assert_memory_equal(bytes, text, strlen(text));
}

static void objects_live_by_commands(void **state)
{
    (void)state;
    struct heap *heap = heap_new(0);
    uint64_t ptr = alloc(heap, TEXT("hello"));
    struct heap_command c = {
        .kind = HEAP_COMMAND_WRITE, .ptr = ptr, .offset = 1, .data = TEXT("EL")};
    assert_int_equal(apply(heap, c).code, 0);
    assert_bytes(heap, ptr, 0, "hELlo");
    c.offset = 4;
    assert_int_equal(apply(heap, c).code, ERR_RANGE);
    c = (struct heap_command){.kind = HEAP_COMMAND_REALLOC, .ptr = ptr, .size = 3};
    assert_int_equal(apply(heap, c).code, 0);
    struct heap_object o;
    assert_int_equal(heap_stat(heap, ptr, &o), 0);
    assert_int_equal(o.size, 3);
    assert_int_equal(o.version, heap_clock(heap));
    c = (struct heap_command){.kind = HEAP_COMMAND_FREE, .ptr = ptr};
    assert_int_equal(apply(heap, c).code, 0);
    assert_int_equal(apply(heap, c).code, ERR_STALE);
    c = (struct heap_command){.kind = HEAP_COMMAND_KINDS};
    assert_int_equal(apply(heap, c).code, ERR_PROTOCOL);
    c = (struct heap_command){.kind = (enum heap_command_kind)0};
    assert_int_equal(apply(heap, c).code, ERR_PROTOCOL);
    heap_done(heap);
}

static void compare_and_write_compares_all_bytes(void **state)
{
    (void)state;
    struct heap *heap = heap_new(0);
    uint64_t ptr = alloc(heap, TEXT("hello"));
    uint64_t version = heap_clock(heap);
    struct heap_command c = {.kind = HEAP_COMMAND_COMPARE_AND_WRITE,
                             .ptr = ptr,
                             .offset = 1,
                             .expected = TEXT("ell"),
                             .data = TEXT("ELL")};
    struct heap_outcome out;
    c.expected = TEXT("elL");
    out = apply(heap, c);
    assert_int_equal(out.code, ERR_CONFLICT);
    assert_int_equal(out.version, version);
    assert_bytes(heap, ptr, 0, "hello");
    c.expected = TEXT("el");
    assert_int_equal(apply(heap, c).code, ERR_INVAL);
    c.expected = TEXT("ell");
    assert_int_equal(apply(heap, c).code, 0);
    assert_bytes(heap, ptr, 0, "hELLo");
    c.offset = 3;
    assert_int_equal(apply(heap, c).code, ERR_RANGE);
    c.offset = 0;
    c.expected = c.data = slice_of(NULL, 0);
    assert_int_equal(apply(heap, c).code, 0);
    c.ptr = 0;
    assert_int_equal(apply(heap, c).code, ERR_INVAL);

    /* Across the edge of two chunks. */
    c = (struct heap_command){.kind = HEAP_COMMAND_ALLOC, .size = 3 << 20};
    ptr = apply(heap, c).value;
    c = (struct heap_command){
        .kind = HEAP_COMMAND_WRITE, .ptr = ptr, .offset = (1 << 20) - 3, .data = TEXT("abcdef")};
    assert_int_equal(apply(heap, c).code, 0);
    c.kind = HEAP_COMMAND_COMPARE_AND_WRITE;
    c.data = TEXT("ABCDEF");
    c.expected = TEXT("abcdeg");
    assert_int_equal(apply(heap, c).code, ERR_CONFLICT);
    c.expected = TEXT("abcdef");
    assert_int_equal(apply(heap, c).code, 0);
    assert_bytes(heap, ptr, (1 << 20) - 3, "ABCDEF");
    c = (struct heap_command){
        .kind = HEAP_COMMAND_ADD_U64, .ptr = ptr, .offset = (2 << 20) - 5, .delta = 1000};
    out = apply(heap, c);
    assert_int_equal(out.value, 0);
    assert_int_equal(apply(heap, c).value, 1000);
    heap_done(heap);
}

static void add_answers_what_was_there(void **state)
{
    (void)state;
    struct heap *heap = heap_new(0);
    uint64_t ptr = alloc(heap, TEXT("\xff\xff\xff\xff\xff\xff\xff\xff----"));
    struct heap_command c = {.kind = HEAP_COMMAND_ADD_U64, .ptr = ptr, .delta = 5};
    struct heap_outcome out = apply(heap, c);
    assert_int_equal(out.code, 0);
    assert_int_equal(out.value, UINT64_MAX);
    assert_int_equal(apply(heap, c).value, 4); /* it wraps */
    c.offset = 5;
    out = apply(heap, c);
    assert_int_equal(out.code, ERR_RANGE);
    assert_int_equal(out.value, 0);
    assert_bytes(heap, ptr, 8, "----");
    heap_done(heap);
}

static void write_if_version_knows_who_was_faster(void **state)
{
    (void)state;
    struct heap *heap = heap_new(0);
    uint64_t ptr = alloc(heap, TEXT("hello"));
    struct heap_command c = {.kind = HEAP_COMMAND_WRITE_IF_VERSION,
                             .ptr = ptr,
                             .if_version = heap_clock(heap),
                             .data = TEXT("J")};
    assert_int_equal(apply(heap, c).code, 0);
    uint64_t version = heap_clock(heap);
    struct heap_outcome out = apply(heap, c);
    assert_int_equal(out.code, ERR_CONFLICT);
    assert_int_equal(out.version, version);
    c.if_version = version;
    c.offset = 5;
    assert_int_equal(apply(heap, c).code, ERR_RANGE);
    c.ptr++;
    assert_int_equal(apply(heap, c).code, ERR_STALE);
    heap_done(heap);
}

static void roots_are_set_compared_and_deleted(void **state)
{
    (void)state;
    struct heap *heap = heap_new(0);
    struct heap_command set = {.kind = HEAP_COMMAND_ROOT_SET, .name = TEXT("main"), .ptr = 77};
    struct heap_command cas = {
        .kind = HEAP_COMMAND_ROOT_COMPARE_AND_SET, .name = TEXT("main"), .ptr = 78};
    struct heap_command del = {.kind = HEAP_COMMAND_ROOT_DELETE, .name = TEXT("main")};
    struct root_record r;
    struct heap_outcome out;
    assert_int_equal(apply(heap, del).code, ERR_NOTFOUND);
    assert_int_equal(apply(heap, set).code, 0);
    uint64_t version = heap_clock(heap);
    out = apply(heap, cas); /* must not exist */
    assert_int_equal(out.code, ERR_CONFLICT);
    assert_int_equal(out.value, 77);
    assert_int_equal(out.version, version);
    cas.expected_ptr = 77;
    assert_int_equal(apply(heap, cas).code, 0);
    assert_int_equal(heap_root_get(heap, TEXT("main"), &r), 0);
    assert_int_equal(r.ptr, 78);
    assert_int_equal(r.version, heap_clock(heap));
    cas.expected_ptr = 78;
    cas.ptr = 0; /* delete */
    assert_int_equal(apply(heap, cas).code, 0);
    assert_int_equal(heap_root_get(heap, TEXT("main"), &r), ERR_NOTFOUND);
    assert_int_equal(r.ptr, 0);
    cas.expected_ptr = 0;
    assert_int_equal(apply(heap, cas).code, 0); /* nothing where nothing was */
    assert_int_equal(apply(heap, set).code, 0);
    out = apply(heap, del);
    assert_int_equal(out.code, 0);
    assert_int_equal(out.value, 77);

    char name[ROOT_NAME_BYTES_MAX + 1];
    memset(name, 'n', sizeof name);
    const struct slice bad[] = {slice_of("", 0), slice_of("a\0b", 3), slice_of(name, sizeof name)};
    for (size_t i = 0; i < 3; i++) {
        set.name = cas.name = del.name = bad[i];
        assert_int_equal(apply(heap, set).code, ERR_INVAL);
        assert_int_equal(apply(heap, cas).code, ERR_INVAL);
        assert_int_equal(apply(heap, del).code, ERR_INVAL);
        assert_false(heap_root_name_is_valid(bad[i]));
    }
    set.name = slice_of(name, ROOT_NAME_BYTES_MAX);
    assert_int_equal(apply(heap, set).code, 0);
    set.ptr = 0;
    assert_int_equal(apply(heap, set).code, ERR_INVAL);
    heap_done(heap);
}

static void leases_types_and_upkeep_are_commands(void **state)
{
    (void)state;
    struct heap *heap = heap_new(100);
    struct heap_command c = {.kind = HEAP_COMMAND_LEASE, .session = 9, .count = 4};
    struct heap_outcome out = apply(heap, c);
    assert_int_equal(out.code, 0);
    uint64_t session = 0;
    uint32_t count = 0;
    uint64_t ptrs[4];
    assert_int_equal(heap_lease_get(heap, out.value, &session, ptrs, &count), 0);
    assert_int_equal(count, 4);
    c.count = 0;
    assert_int_equal(apply(heap, c).code, ERR_INVAL);
    c = (struct heap_command){
        .kind = HEAP_COMMAND_ALLOC, .session = 9, .ptr = ptrs[2], .size = 6, .data = TEXT("final")};
    assert_int_equal(apply(heap, c).value, ptrs[2]);
    assert_bytes(heap, ptrs[2], 0, "final");
    assert_int_equal(apply(heap, c).code, ERR_STALE);
    assert_int_equal(apply(heap, c).value, 0);

    struct buf b = {0};
    assert_int_equal(model_type(3, 4, &b), 0);
    c = (struct heap_command){
        .kind = HEAP_COMMAND_TYPE_REGISTER, .type = 3, .data = slice_of(b.data, b.len)};
    assert_int_equal(apply(heap, c).code, 0);
    c.type = 4;
    assert_int_equal(apply(heap, c).code, ERR_CONFLICT);
    buf_close(&b);

    c = (struct heap_command){.kind = HEAP_COMMAND_FREE, .ptr = ptrs[2]};
    assert_int_equal(apply(heap, c).code, 0);
    heap_end(heap);
    heap_begin(heap, 2, 1, hlc_from_ms(2000));
    c = (struct heap_command){.kind = HEAP_COMMAND_RECLAIM, .if_version = UINT64_MAX, .count = 1};
    assert_int_equal(apply(heap, c).value, 1);
    assert_int_equal(apply(heap, c).value, 0);
    assert_int_equal(hlc_to_ms(heap_safepoint(heap)), 1900);
    c = (struct heap_command){.kind = HEAP_COMMAND_SET_RETENTION, .size = 500};
    assert_int_equal(apply(heap, c).code, 0);
    assert_int_equal(heap_retention_ms(heap), 500);
    c = (struct heap_command){.kind = HEAP_COMMAND_DEFRAG, .count = UINT32_MAX};
    assert_int_equal(apply(heap, c).code, 0);
    uint64_t bytes = heap_page_count(heap);
    c = (struct heap_command){.kind = HEAP_COMMAND_TRIM, .size = UINT64_MAX};
    out = apply(heap, c);
    assert_int_equal(out.value, (bytes - heap_page_count(heap)) << PAGE_SHIFT);
    heap_done(heap);
}

/* ---- memory that fails ---- */

struct sweep {
    struct heap *heap;
    struct heap *made;
};

/* Everything that may ask for memory: birth, commands that grow the arena, a view, a transfer. */
static int scenario(void *arg)
{
    struct sweep *s = arg;
    struct heap_opts opts = {.uid = 7, .shard = 5, .bytes_max = 16 << 20, .retention_ms = 50};
    struct view *view = NULL;
    struct heap_receive *r = NULL;
    int rv = heap_create(&opts, &s->heap);
    if (rv != 0) {
        return rv;
    }
    struct heap_command c = {.kind = HEAP_COMMAND_ALLOC, .size = 3 << 20};
    struct heap_outcome out;
    heap_begin(s->heap, 1, 1, 1);
    rv = heap_apply(s->heap, heap_next_version(s->heap), &c, &out);
    heap_end(s->heap);
    if (rv == 0) {
        rv = view_open(s->heap, &view);
    }
    if (rv == 0) {
        rv = heap_receive_open(view_page_count(view), opts.bytes_max, &r);
    }
    for (uint64_t p = 0; rv == 0 && p < view_page_count(view); p++) {
        const uint8_t *bytes = view_page(view, p);
        rv = bytes == NULL ? 0 : heap_receive_page(r, p, bytes);
    }
    if (rv == 0) {
        rv = heap_receive_finish(r, 7, 1, 1, view_digest(view), &s->made);
        r = NULL;
    }
    heap_receive_cancel(r);
    if (view != NULL) {
        view_close(view);
    }
    return rv;
}

static void check(void *arg, int rv)
{
    struct sweep *s = arg;
    assert_true(rv == 0 || rv == ERR_NOMEM);
    if (s->heap != NULL) {
        assert_int_equal(heap_check(s->heap, NULL), 0);
    }
    heap_free(s->heap);
    heap_free(s->made);
    *s = (struct sweep){NULL, NULL};
}

static void a_lack_of_memory_is_always_clean(void **state)
{
    (void)state;
    struct sweep s = {NULL, NULL};
    assert_true(fault_memory_sweep(scenario, check, &s, 1, 10000) > 3);
    heap_free(s.heap);
    heap_free(s.made);
    s = (struct sweep){NULL, NULL};
    assert_true(fault_memory_sweep(scenario, check, &s, -1, 10000) > 3);
    heap_free(s.heap);
    heap_free(s.made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_live_by_commands),
        cmocka_unit_test(compare_and_write_compares_all_bytes),
        cmocka_unit_test(add_answers_what_was_there),
        cmocka_unit_test(write_if_version_knows_who_was_faster),
        cmocka_unit_test(roots_are_set_compared_and_deleted),
        cmocka_unit_test(leases_types_and_upkeep_are_commands),
        cmocka_unit_test(a_lack_of_memory_is_always_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
