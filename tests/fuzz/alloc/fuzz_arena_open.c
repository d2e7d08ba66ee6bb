/* Hostile pages: a sound heap is damaged word by word as the input says, received, and, when it is
 * accepted, used. It must be refused or pass heap_check before and after; never crash. The digest
 * is the sender's own, so it protects nothing. */
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"

#define BYTES_MAX ((uint64_t)2 << 20)

static struct heap *victim;
static uint64_t pages[64];
static size_t page_count;

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void setup(void)
{
    struct heap_opts opts = {.uid = 1, .heap_id = 2, .shard = 3, .bytes_max = BYTES_MAX};
    must(heap_create(&opts, &victim) == 0);
    uint64_t ptrs[120];
    heap_begin(victim, 5, 1, 10);
    for (uint64_t i = 0; i < 120; i++) {
        must(heap_alloc(victim, i + 1, 1 + i * 131 % 700 + (i % 9 == 0) * 6000, 1,
                        slice_of("abc", 1), &ptrs[i]) == 0);
        must(heap_map_put(victim, (enum heap_map)(i % 3), slice_of(&i, 8), slice_of(&ptrs[i], 8)) ==
             0);
    }
    for (uint64_t i = 0; i < 120; i += 4) {
        must(heap_free_object(victim, 200, ptrs[i]) == 0);
    }
    heap_end(victim);
    must(heap_check(victim, NULL) == 0);
    const struct arena *a = &victim->arena;
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        if (page_count < sizeof pages / sizeof pages[0]) {
            pages[page_count++] = p;
        }
    }
}

/* What a replica would do with it. */
static void use(struct heap *heap)
{
    struct heap_object list[64];
    uint64_t next = 0;
    must(heap_check(heap, NULL) == 0);
    if (heap_index(heap) == UINT64_MAX) {
        return;
    }
    size_t count = heap_list_objects(heap, 0, list, 64, &next);
    heap_begin(heap, heap_index(heap) + 1, 1, 1);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *bytes = NULL;
        must(heap_read(heap, list[i].ptr, 0, list[i].size, &bytes) == 0);
        must(heap_write(heap, 1, list[i].ptr, 0, slice_of("x", 1)) == 0);
        if (i % 2 == 0) {
            must(heap_free_object(heap, 1, list[i].ptr) == 0);
        }
    }
    for (uint64_t i = 0; i < 40; i++) {
        uint64_t ptr = 0;
        (void)heap_alloc(heap, 1, 1 + i * 401 % 9000, 0, slice_of("y", 1), &ptr);
        (void)heap_map_put(heap, (enum heap_map)(i % 8), slice_of(&i, 8), slice_of("value", i % 5));
        uint64_t key = i * 3;
        (void)heap_map_delete(heap, (enum heap_map)(i % 3), slice_of(&key, 8));
    }
    heap_end(heap);
    must(heap_check(heap, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (victim == NULL) {
        setup();
    }
    struct cursor c = cursor_of(slice_of(data, size));
    static uint8_t copy[64][4096];
    for (size_t i = 0; i < page_count; i++) {
        memcpy(copy[i], victim->arena.base + pages[i] * PAGE_BYTES, PAGE_BYTES);
    }
    uint8_t dropped = cursor_u8(&c);
    while (cursor_left(&c) >= 7) {
        uint8_t page = cursor_u8(&c);
        uint16_t at = cursor_u16(&c);
        uint32_t value = cursor_u32(&c);
        uint8_t *word = copy[page % page_count] + (at & 0xffc);
        store_u32(word, (at & 1) != 0 ? load_u32(word) + (uint32_t)(int8_t)value : value);
    }
    struct heap_receive *r = NULL;
    must(heap_receive_open(heap_page_count(victim), BYTES_MAX, &r) == 0);
    uint64_t digest = 0;
    for (size_t i = 0; i < page_count; i++) {
        if (dropped != 0 && i == dropped % page_count) {
            continue;
        }
        must(heap_receive_page(r, pages[i], copy[i]) == 0);
        digest += arena_page_hash(pages[i], copy[i]);
    }
    struct heap *heap = NULL;
    uint64_t index = load_u64(copy[0] + offsetof(struct heap_header, index));
    uint64_t term = load_u64(copy[0] + offsetof(struct heap_header, term));
    uint64_t uid = load_u64(copy[0] + offsetof(struct heap_header, uid));
    if (heap_receive_finish(r, uid, index, term, digest, &heap) == 0) {
        use(heap);
        heap_free(heap);
    }
    return 0;
}
