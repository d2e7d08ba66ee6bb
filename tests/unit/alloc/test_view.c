#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/page_hash.h"
#include "base/mem.h"

struct frozen {
    struct view *view;
    uint8_t *bytes; /* of the present pages, one after another */
    uint64_t digest;
};

static struct heap *heap_new(uint64_t bytes_max)
{
    struct heap_opts opts = {.uid = 7, .heap_id = 3, .shard = 5, .bytes_max = bytes_max};
    struct heap *heap = NULL;
    assert_int_equal(heap_create(&opts, &heap), 0);
    return heap;
}

static void freeze(struct heap *heap, struct frozen *f, bool digest)
{
    f->digest = digest ? heap_digest(heap) : 0;
    assert_int_equal(view_open(heap, &f->view), 0);
    f->bytes = malloc(heap->arena.present_count * 4096);
    assert_non_null(f->bytes);
    uint8_t *at = f->bytes;
    for (uint64_t p = 0; p < view_page_count(f->view); p++) {
        const uint8_t *page = view_page(f->view, p);
        if (page != NULL) {
            memcpy(at, page, 4096);
            at += 4096;
        }
    }
}

static void thaw(struct frozen *f, bool digest)
{
    const uint8_t *at = f->bytes;
    uint64_t sum = 0;
    for (uint64_t p = 0; p < view_page_count(f->view); p++) {
        const uint8_t *page = view_page(f->view, p);
        if (page != NULL) {
            assert_memory_equal(at, page, 4096);
            sum += page_share(p, page_hash(page));
            at += 4096;
        }
    }
    assert_int_equal(view_digest(f->view), sum);
    assert_true(!digest || sum == f->digest);
    view_close(f->view);
    free(f->bytes);
}

static uint64_t seed;
static uint64_t dice(uint64_t bound)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (seed >> 33) % bound;
}

static void views_stay_what_they_were(void **state)
{
    (void)state;
    for (seed = 1; seed < 6; seed++) {
        uint64_t start = seed;
        struct heap *heap = heap_new(64 << 20);
        struct frozen frozen[VIEWS_MAX];
        bool with_digest[VIEWS_MAX];
        size_t count = 0;
        uint64_t ptrs[64] = {0};
        uint8_t junk[5000];
        for (uint64_t i = 1; i < 3000; i++) {
            heap_begin(heap, i, 1, i);
            uint64_t at = dice(64);
            memset(junk, (int)i, sizeof junk);
            if (ptrs[at] == 0) {
                (void)heap_alloc(heap, i, 1 + dice(200000), 0, slice_of(junk, 1), &ptrs[at]);
            } else if (dice(3) == 0) {
                assert_int_equal(heap_free_object(heap, i, ptrs[at]), 0);
                ptrs[at] = 0;
            } else {
                struct heap_object o;
                assert_int_equal(heap_stat(heap, ptrs[at], &o), 0);
                uint64_t from = dice(o.size);
                uint64_t len = o.size - from < sizeof junk ? o.size - from : sizeof junk;
                assert_int_equal(heap_write(heap, i, ptrs[at], from, slice_of(junk, len)), 0);
                const uint8_t *bytes = NULL;
                uint64_t part = 0;
                assert_int_equal(heap_read(heap, ptrs[at], 0, o.size, &bytes, &part), 0);
            }
            heap_end(heap);
            if (dice(40) == 0 && count < VIEWS_MAX) {
                with_digest[count] = dice(2) == 0;
                freeze(heap, &frozen[count], with_digest[count]);
                count++;
            }
            if (dice(60) == 0 && count > 0) {
                size_t gone = dice(count);
                thaw(&frozen[gone], with_digest[gone]);
                count--;
                frozen[gone] = frozen[count];
                with_digest[gone] = with_digest[count];
            }
        }
        while (count > 0) {
            count--;
            thaw(&frozen[count], with_digest[count]);
        }
        assert_int_equal(heap_check(heap, NULL), 0);
        heap_free(heap);
        seed = start;
    }
}

static void too_many_views_are_refused(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    struct view *views[VIEWS_MAX];
    struct view *more = NULL;
    for (size_t i = 0; i < VIEWS_MAX; i++) {
        assert_int_equal(view_open(heap, &views[i]), 0);
    }
    assert_int_equal(view_open(heap, &more), ERR_BUSY);
    assert_null(more);
    for (size_t i = 0; i < VIEWS_MAX; i++) {
        view_close(views[i]);
    }
    heap_free(heap);
}

static void the_oldest_view_goes_at_the_cap(void **state)
{
    (void)state;
    struct heap *heap = heap_new(16 << 20);
    uint64_t ptr = 0;
    uint8_t junk[4096] = {1};
    heap_begin(heap, 1, 1, 1);
    assert_int_equal(heap_alloc(heap, 1, 1 << 20, 0, slice_of(NULL, 0), &ptr), 0);
    for (uint64_t at = 0; at < 1 << 20; at += 4096) {
        assert_int_equal(heap_write(heap, 1, ptr, at, slice_of(junk, 4096)), 0);
    }
    heap_end(heap);
    heap->arena.copy_max = 100;
    struct view *old = NULL;
    struct view *young = NULL;
    assert_int_equal(view_open(heap, &old), 0);
    heap_begin(heap, 2, 1, 1);
    for (uint64_t at = 0; at < 80 * 4096; at += 4096) {
        assert_int_equal(heap_write(heap, 1, ptr, at, slice_of(junk, 4096)), 0);
    }
    heap_end(heap);
    assert_int_equal(view_open(heap, &young), 0);
    heap_begin(heap, 3, 1, 1);
    for (uint64_t at = 0; at < 80 * 4096; at += 4096) {
        assert_int_equal(heap_write(heap, 1, ptr, at, slice_of(junk, 4096)), 0);
    }
    heap_end(heap);
    assert_true(view_canceled(old));
    assert_null(view_page(old, 0));
    assert_false(view_canceled(young));
    assert_non_null(view_page(young, 0));
    view_close(young);
    view_close(old);
    heap_free(heap);
}

static void lack_of_memory_cancels_views_only(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    struct view *view = NULL;
    for (long n = 0; n < 2; n++) {
        mem_fault(n, 1);
        assert_int_equal(view_open(heap, &view), ERR_NOMEM);
        mem_fault(0, 0);
        assert_null(view);
    }
    assert_int_equal(view_open(heap, &view), 0);
    mem_fault(0, -1);
    heap_begin(heap, 1, 1, 1);
    heap_end(heap);
    mem_fault(0, 0);
    assert_true(view_canceled(view));
    view_close(view);
    heap_free(heap);
}

static void received_pages_must_add_up(void **state)
{
    (void)state;
    struct heap *heap = heap_new(1 << 20);
    heap_begin(heap, 3, 2, 1);
    uint64_t ptr = 0;
    assert_int_equal(heap_alloc(heap, 1, 5000, 0, slice_of("abc", 3), &ptr), 0);
    heap_end(heap);
    struct view *view = NULL;
    assert_int_equal(view_open(heap, &view), 0);
    for (int damage = 0; damage < 7; damage++) {
        struct heap_receive *r = NULL;
        struct heap *copy = NULL;
        assert_int_equal(heap_receive_open(view_page_count(view), 1 << 20, &r), 0);
        assert_int_equal(heap_receive_page(r, view_page_count(view), view_page(view, 0)),
                         ERR_RANGE);
        for (uint64_t p = 0; p < view_page_count(view); p++) {
            const uint8_t *page = view_page(view, p);
            if (page != NULL && (damage != 1 || p != 0)) {
                assert_int_equal(heap_receive_page(r, p, page), 0);
            }
        }
        uint64_t digest =
            view_digest(view) - (damage == 1 ? page_share(0, heap->arena.hash[0]) : 0);
        int rv = heap_receive_finish(r, 7 + (damage == 2), 3 + (damage == 3), 2 + (damage == 4),
                                     digest + (damage == 5), &copy);
        if (damage == 0 || damage == 6) {
            assert_int_equal(rv, 0);
            const uint8_t *bytes = NULL;
            uint64_t part = 0;
            assert_int_equal(heap_read(copy, ptr, 0, 3, &bytes, &part), 0);
            assert_int_equal(part, 3);
            assert_memory_equal(bytes, "abc", 3);
            assert_int_equal(heap_digest(copy), digest);
            heap_free(copy);
        } else {
            assert_int_equal(rv, ERR_CORRUPT);
            assert_null(copy);
        }
    }
    struct heap_receive *r = NULL;
    assert_int_equal(heap_receive_open(1, 1 << 20, &r), ERR_INVAL);
    assert_int_equal(heap_receive_open(view_page_count(view), 12345, &r), ERR_INVAL);
    assert_null(r);
    view_close(view);
    heap_free(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_stay_what_they_were),
        cmocka_unit_test(too_many_views_are_refused),
        cmocka_unit_test(the_oldest_view_goes_at_the_cap),
        cmocka_unit_test(lack_of_memory_cancels_views_only),
        cmocka_unit_test(received_pages_must_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
