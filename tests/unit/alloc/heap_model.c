#include "heap_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "%s:%d: %s (index %" PRIu64 ")\n", __FILE__, __LINE__,           \
                          #condition, model_now);                                                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t model_now;

uint64_t model_random(struct model *m)
{
    /* splitmix64 */
    uint64_t z = m->seed += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static uint64_t below(struct model *m, uint64_t bound)
{
    return model_random(m) % bound;
}

void model_open(struct model *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->seed = seed;
}

void model_close(struct model *m)
{
    for (size_t i = 0; i < m->object_count; i++) {
        free(m->objects[i].bytes);
    }
    for (size_t i = 0; i < 2 * MODEL_KEYS; i++) {
        free(m->values[i / MODEL_KEYS][i % MODEL_KEYS].bytes);
    }
}

static void fill(struct model *m, uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i += 8) {
        uint64_t r = model_random(m);
        memcpy(bytes + i, &r, len - i < 8 ? len - i : 8);
    }
}

/* Sizes of all kinds, small ones more often. */
static uint64_t size_random(struct model *m, uint64_t max)
{
    uint64_t bits = 1 + below(m, 64 - (uint64_t)__builtin_clzll(max));
    uint64_t size = 1 + below(m, (uint64_t)1 << bits);
    return size < max ? size : max;
}

static void step_alloc(struct model *m, struct heap **heaps, size_t count, uint64_t size_max)
{
    uint64_t size = size_random(m, size_max);
    uint32_t type = below(m, 8) == 0 ? (uint32_t)model_random(m) : (uint32_t)below(m, 100);
    uint64_t init_len = below(m, size + 1);
    init_len = init_len < WRITE_BYTES_MAX ? init_len : WRITE_BYTES_MAX;
    uint8_t *bytes = calloc(1, size);
    MUST(bytes != NULL);
    fill(m, bytes, init_len);
    int first = 0;
    uint64_t ptr = 0;
    uint64_t version = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t got = 0;
        version = heap_next_version(heaps[i]);
        int rv = heap_alloc(heaps[i], version, size, type, slice_of(bytes, init_len), &got);
        MUST(rv == 0 || rv == ERR_NOSPACE);
        MUST(i == 0 || (rv == first && got == ptr));
        first = rv;
        ptr = got;
    }
    if (first != 0) {
        m->nospace++;
        free(bytes);
        return;
    }
    m->objects[m->object_count++] = (struct model_object){ptr, size, version, type, bytes};
}

static void step_free(struct model *m, struct heap **heaps, size_t count)
{
    size_t at = below(m, m->object_count);
    struct model_object *o = &m->objects[at];
    for (size_t i = 0; i < count; i++) {
        MUST(heap_free_object(heaps[i], heap_next_version(heaps[i]), o->ptr) == 0);
    }
    m->stale[below(m, 64)] = o->ptr;
    free(o->bytes);
    *o = m->objects[--m->object_count];
}

static void step_write(struct model *m, struct heap **heaps, size_t count)
{
    struct model_object *o = &m->objects[below(m, m->object_count)];
    uint64_t offset = below(m, o->size);
    uint64_t len = size_random(m, o->size - offset);
    len = len < WRITE_BYTES_MAX ? len : WRITE_BYTES_MAX;
    fill(m, o->bytes + offset, len);
    for (size_t i = 0; i < count; i++) {
        o->version = heap_next_version(heaps[i]);
        MUST(heap_write(heaps[i], o->version, o->ptr, offset, slice_of(o->bytes + offset, len)) ==
             0);
    }
}

static size_t key_of(int map, size_t number, char out[64])
{
    return (size_t)snprintf(out, 64, map == 0 ? "root/%zu" : "%zu", number * 7919 % MODEL_KEYS);
}

static void step_map(struct model *m, struct heap **heaps, size_t count)
{
    char key[64];
    size_t number = below(m, MODEL_KEYS);
    int map = (int)below(m, 2);
    struct slice k = slice_of(key, key_of(map, number, key));
    struct model_value *v = &m->values[map][number];
    uint64_t kind = below(m, 4);
    if (kind == 0) {
        for (size_t i = 0; i < count; i++) {
            MUST(heap_map_delete(heaps[i], (enum heap_map)map, k) ==
                 (v->bytes == NULL ? ERR_NOTFOUND : 0));
        }
        free(v->bytes);
        v->bytes = NULL;
        return;
    }
    if (kind == 1 && v->bytes != NULL) {
        uint64_t offset = below(m, v->len);
        uint64_t len = 1 + below(m, v->len - offset);
        fill(m, v->bytes + offset, len);
        for (size_t i = 0; i < count; i++) {
            uint8_t *at = heap_map_edit(heaps[i], (enum heap_map)map, k, offset, len);
            MUST(at != NULL);
            memcpy(at, v->bytes + offset, len);
        }
        return;
    }
    size_t len = size_random(m, map == 0 ? 16 : below(m, 50) == 0 ? MAP_VALUE_BYTES_MAX : 9000);
    uint8_t *bytes = malloc(len);
    MUST(bytes != NULL);
    fill(m, bytes, len);
    int first = 0;
    for (size_t i = 0; i < count; i++) {
        int rv = heap_map_put(heaps[i], (enum heap_map)map, k, slice_of(bytes, len));
        MUST(rv == 0 || rv == ERR_NOSPACE);
        MUST(i == 0 || rv == first);
        first = rv;
    }
    if (first != 0) {
        m->nospace++;
        free(bytes);
        return;
    }
    free(v->bytes);
    v->bytes = bytes;
    v->len = len;
}

static void step_refused(struct model *m, struct heap **heaps, size_t count)
{
    uint64_t stale = m->stale[below(m, 64)];
    for (size_t i = 0; i < count; i++) {
        const uint8_t *bytes = NULL;
        int want = stale == 0 ? ERR_INVAL : ERR_STALE;
        MUST(heap_free_object(heaps[i], 1, stale) == want);
        MUST(heap_write(heaps[i], 1, stale, 0, slice_of("x", 1)) == want);
        MUST(heap_read(heaps[i], stale, 0, 1, &bytes) == want);
        if (m->object_count > 0) {
            const struct model_object *o = &m->objects[0];
            MUST(heap_write(heaps[i], 1, o->ptr, o->size, slice_of("x", 1)) == ERR_RANGE);
            MUST(heap_read(heaps[i], o->ptr, 1, o->size, &bytes) == ERR_RANGE);
        }
    }
}

void model_step(struct model *m, struct heap **heaps, size_t count, uint64_t size_max)
{
    m->index += 1 + below(m, 3);
    model_now = m->index;
    for (size_t i = 0; i < count; i++) {
        heap_begin(heaps[i], m->index, 1 + m->index / 1000, m->index * 10);
    }
    /* The mood changes, so that the heap fills and empties. */
    uint64_t mood = m->index / 700 % 4;
    uint64_t dice = below(m, 100);
    uint64_t allocs = mood == 0 ? 60 : mood == 3 ? 15 : 35;
    if (dice < allocs && m->object_count < MODEL_OBJECTS) {
        step_alloc(m, heaps, count, size_max);
    } else if (dice < 70 && m->object_count > 0) {
        step_free(m, heaps, count);
    } else if (dice < 85 && m->object_count > 0) {
        step_write(m, heaps, count);
    } else if (dice < 97) {
        step_map(m, heaps, count);
    } else {
        step_refused(m, heaps, count);
    }
    for (size_t i = 0; i < count; i++) {
        heap_end(heaps[i]);
    }
}

static int slice_order(struct slice a, struct slice b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len == 0 ? 0 : memcmp(a.data, b.data, len);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

void model_check(const struct model *m, const struct heap *heap)
{
    struct err_text e = {""};
    if (heap_check(heap, &e) != 0) {
        (void)fprintf(stderr, "heap_check: %s\n", e.text);
    }
    MUST(heap_check(heap, NULL) == 0);
    MUST(heap_index(heap) == m->index);
    uint64_t total = 0;
    for (size_t i = 0; i < m->object_count; i++) {
        const struct model_object *o = &m->objects[i];
        struct heap_object stat;
        MUST(heap_stat(heap, o->ptr, &stat) == 0);
        MUST(stat.size == o->size && stat.type == o->type && stat.version == o->version);
        const uint8_t *bytes = NULL;
        MUST(heap_read(heap, o->ptr, 0, o->size, &bytes) == 0);
        MUST(memcmp(bytes, o->bytes, o->size) == 0);
        total += o->size;
    }
    struct heap_stats s;
    heap_get_stats(heap, &s);
    MUST(s.object_count == m->object_count && s.object_bytes == total);
    MUST(s.arena_bytes <= s.arena_bytes_max);
    struct heap_object *list = calloc(m->object_count + 1, sizeof *list);
    MUST(list != NULL);
    uint64_t next = 0;
    size_t listed = 0;
    do {
        listed += heap_list_objects(
            heap, next, list + listed,
            1 + m->object_count - listed < 100 ? 1 + m->object_count - listed : 100, &next);
    } while (next != 0);
    MUST(listed == m->object_count);
    free(list);
    for (int map = 0; map < 2; map++) {
        size_t count = 0;
        for (size_t i = 0; i < MODEL_KEYS; i++) {
            char key[64];
            struct slice value;
            const struct model_value *v = &m->values[map][i];
            int rv =
                heap_map_get(heap, (enum heap_map)map, slice_of(key, key_of(map, i, key)), &value);
            MUST(rv == (v->bytes == NULL ? ERR_NOTFOUND : 0));
            if (v->bytes != NULL) {
                MUST(value.len == v->len && memcmp(value.data, v->bytes, v->len) == 0);
                count++;
            }
        }
        MUST(heap_map_count(heap, (enum heap_map)map) == count);
        struct slice after = slice_of(NULL, 0);
        struct slice key;
        struct slice value;
        while (heap_map_next(heap, (enum heap_map)map, after, &key, &value) == 0) {
            MUST(slice_order(after, key) < 0);
            after = key;
            count--;
        }
        MUST(count == 0);
    }
}

void model_equal(struct heap *a, struct heap *b)
{
    MUST(heap_digest(a) == heap_digest(b));
    struct view *x = NULL;
    struct view *y = NULL;
    MUST(view_open(a, &x) == 0 && view_open(b, &y) == 0);
    MUST(view_page_count(x) == view_page_count(y));
    MUST(view_digest(x) == view_digest(y));
    for (uint64_t p = 0; p < view_page_count(x); p++) {
        const uint8_t *left = view_page(x, p);
        const uint8_t *right = view_page(y, p);
        MUST((left == NULL) == (right == NULL));
        if (left != NULL && memcmp(left, right, HEAP_PAGE_BYTES) != 0) {
            for (uint64_t i = 0; i < HEAP_PAGE_BYTES; i++) {
                if (left[i] != right[i]) {
                    (void)fprintf(stderr, "page %" PRIu64 " differs at %" PRIu64 "\n", p, i);
                    abort();
                }
            }
        }
    }
    view_close(x);
    view_close(y);
}

struct heap *model_copy(struct heap *heap)
{
    struct heap_opts opts;
    heap_get_opts(heap, &opts);
    struct view *view = NULL;
    struct heap_receive *r = NULL;
    struct heap *copy = NULL;
    MUST(view_open(heap, &view) == 0);
    MUST(heap_receive_open(view_page_count(view), opts.bytes_max, &r) == 0);
    for (uint64_t p = 0; p < view_page_count(view); p++) {
        const uint8_t *bytes = view_page(view, p);
        if (bytes != NULL) {
            MUST(heap_receive_page(r, p, bytes) == 0);
        }
    }
    MUST(heap_receive_finish(r, opts.uid, view_index(view), view_term(view), view_digest(view),
                             &copy) == 0);
    view_close(view);
    return copy;
}
