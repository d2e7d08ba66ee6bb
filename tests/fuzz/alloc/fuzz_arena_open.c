/* Hostile pages: a sound heap is damaged word by word as the input says, received, and, when it is
 * accepted, used by every call there is. It must be refused or pass heap_check before and after;
 * never crash. The digest is the sender's own, so it protects nothing. */
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/page_hash.h"
#include "base/hash.h"
#include "heap_driver.h"

#define BYTES_MAX      ((uint64_t)8 << 20)
#define PAGES_MAX      1024u
#define METADATA_PAGES 7u /* header, spares, directory, granule maps, slots */

static struct driver victim;
static uint64_t pages[PAGES_MAX];
static size_t page_count;
static uint8_t copy[PAGES_MAX][4096];

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* Small and large objects, tables of chunks and what history keeps of them, leases, types, roots.
 */
static void setup(void)
{
    uint64_t ptr = 0;
    driver_open(&victim, 12, BYTES_MAX, 0, 5000, 6000);
    for (int i = 0; i < 200; i++) {
        driver_step(&victim);
    }
    struct heap *h = victim.heap;
    heap_begin(h, heap_index(h) + 1, 1, 1);
    must(heap_set_retention(h, 5000) == 0);
    must(heap_alloc(h, heap_next_version(h), (3 << 20) + 100, 1, slice_of("abc", 3), &ptr) == 0);
    must(heap_realloc(h, heap_next_version(h), ptr, (1 << 20) + 5000) == 0);
    must(heap_realloc(h, heap_next_version(h), ptr, (2 << 20) + 5000) == 0);
    heap_end(h);
    must(heap_check(h, NULL) == 0);
    must(h->arena.present_count > METADATA_PAGES);
    const struct arena *a = &h->arena;
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        must(page_count < PAGES_MAX);
        pages[page_count++] = p;
    }
}

/* What a replica would do with it. */
static void use(struct heap *heap, uint64_t seed)
{
    static struct driver d;
    struct heap_object list[64];
    uint64_t next = 0;
    must(heap_check(heap, NULL) == 0);
    memset(&d, 0, sizeof d);
    d.heap = heap;
    d.seed = seed;
    d.size_max = 9000;
    d.count = heap_list_objects(heap, 0, list, 64, &next);
    for (size_t i = 0; i < d.count; i++) {
        struct heap_change changes[8];
        size_t count = 0;
        uint8_t bytes[64];
        uint64_t at = heap_safepoint(heap);
        struct heap_object then;
        d.ptrs[i] = list[i].ptr;
        must(heap_history(heap, list[i].ptr, 0, changes, 8, &count) == 0);
        if (heap_stat_at(heap, at, list[i].ptr, &then) == 0) {
            uint64_t len = then.size < sizeof bytes ? then.size : sizeof bytes;
            must(heap_read_at(heap, at, list[i].ptr, then.size - len, bytes, len) == 0);
        }
    }
    if (heap_index(heap) < UINT64_MAX >> 20) { /* the driver makes times of it */
        for (int i = 0; i < 50; i++) {
            driver_step(&d);
        }
    }
    must(heap_check(heap, NULL) == 0);
    heap_free(heap);
}

/* A word is replaced, or changed by a little, or by a bit. */
static void damage(struct cursor *c)
{
    uint16_t page = cursor_u16(c);
    uint16_t where = cursor_u16(c);
    uint32_t value = cursor_u32(c);
    /* The metadata comes first, and is what matters most. */
    size_t among = (page & 1) != 0 ? METADATA_PAGES : page_count;
    uint8_t *word = copy[(page >> 1) % among] + (where & 0xffc);
    switch (where & 3) {
    case 0:
        store_u32(word, value);
        break;
    case 1:
        store_u32(word, load_u32(word) + (uint32_t)(int8_t)value);
        break;
    default:
        store_u32(word, load_u32(word) ^ (uint32_t)1 << (value & 31));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (victim.heap == NULL) {
        setup();
    }
    struct cursor c = cursor_of(slice_of(data, size));
    for (size_t i = 0; i < page_count; i++) {
        memcpy(copy[i], victim.heap->arena.base + pages[i] * PAGE_BYTES, PAGE_BYTES);
    }
    uint8_t dropped = cursor_u8(&c);
    uint8_t seed = cursor_u8(&c);
    if (cursor_left(&c) < 8) { /* the fuzzer begins with short inputs: they shall hit too */
        uint64_t hash = hash64(seed, data, size);
        struct cursor one = cursor_of(slice_of(&hash, sizeof hash));
        damage(&one);
    }
    while (cursor_left(&c) >= 8) {
        damage(&c);
    }
    struct heap_receive *r = NULL;
    must(heap_receive_open(heap_page_count(victim.heap), BYTES_MAX, &r) == 0);
    uint64_t digest = 0;
    for (size_t i = 0; i < page_count; i++) {
        if (dropped != 0 && i == dropped % page_count) {
            continue;
        }
        must(heap_receive_page(r, pages[i], copy[i]) == 0);
        digest += page_share(pages[i], page_hash(copy[i]));
    }
    struct heap *heap = NULL;
    uint64_t index = load_u64(copy[0] + offsetof(struct heap_header, index));
    uint64_t term = load_u64(copy[0] + offsetof(struct heap_header, term));
    uint64_t uid = load_u64(copy[0] + offsetof(struct heap_header, uid));
    if (heap_receive_finish(r, uid, index, term, digest, &heap) == 0) {
        use(heap, seed);
    }
    return 0;
}
