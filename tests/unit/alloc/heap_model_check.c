/* Comparing a heap with the model, with another heap, and with itself after a transfer. */
#include <string.h>

#include "heap_model.h"

static void check_bytes(const struct heap *heap, const struct model_object *o)
{
    uint64_t done = 0;
    while (done < o->size) {
        const uint8_t *bytes = NULL;
        uint64_t part = 0;
        MUST(heap_read(heap, o->ptr, done, o->size - done, &bytes, &part) == 0);
        MUST(part > 0 && part <= o->size - done);
        MUST(o->size > 1 << 20 || part == o->size);
        MUST(memcmp(bytes, o->bytes + done, part) == 0);
        done += part;
    }
}

static void check_objects(const struct model *m, const struct heap *heap)
{
    uint64_t total = 0;
    for (size_t i = 0; i < m->object_count; i++) {
        const struct model_object *o = &m->objects[i];
        struct heap_object stat;
        MUST(heap_stat(heap, o->ptr, &stat) == 0);
        MUST(stat.size == o->size && stat.type == o->type && stat.version == o->version);
        check_bytes(heap, o);
        total += o->size;
    }
    struct heap_stats s;
    heap_get_stats(heap, &s);
    MUST(s.object_count == m->object_count && s.object_bytes == total);
    MUST(s.arena_bytes <= s.arena_bytes_max);
    MUST(s.dead_count >= m->dead_count); /* those that a bounded step left behind too */
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
}

static int slice_order(struct slice a, struct slice b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len == 0 ? 0 : memcmp(a.data, b.data, len);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static void check_maps(const struct model *m, const struct heap *heap)
{
    for (int which = 0; which < 2; which++) {
        size_t count = 0;
        for (size_t i = 0; i < MODEL_KEYS; i++) {
            char key[64];
            struct slice value;
            const struct model_value *v = &m->values[which][i];
            int rv = heap_map_get(heap, model_maps[which], model_key(which, i, key), &value);
            MUST(rv == (v->bytes == NULL ? ERR_NOTFOUND : 0));
            if (v->bytes != NULL) {
                MUST(value.len == v->len && memcmp(value.data, v->bytes, v->len) == 0);
                count++;
            }
        }
        MUST(heap_map_count(heap, model_maps[which]) == count);
        struct slice after = slice_of(NULL, 0);
        struct slice key;
        struct slice value;
        while (heap_map_next(heap, model_maps[which], after, &key, &value) == 0) {
            MUST(slice_order(after, key) < 0);
            after = key;
            count--;
        }
        MUST(count == 0);
    }
}

static void check_roots_and_types(const struct model *m, const struct heap *heap)
{
    for (size_t i = 0; i < MODEL_ROOTS; i++) {
        char name[32];
        int len = snprintf(name, sizeof name, "root %zu", i);
        struct root_record r;
        int rv = heap_root_get(heap, slice_of(name, (size_t)len), &r);
        MUST(rv == (m->roots[i].ptr == 0 ? ERR_NOTFOUND : 0));
        MUST(r.ptr == m->roots[i].ptr && r.version == m->roots[i].version);
    }
    for (uint32_t i = 0; i < MODEL_TYPES; i++) {
        struct heap_type t;
        int rv = heap_type_get(heap, i + 1, &t);
        MUST(rv == (m->type_fields[i] == 0 ? ERR_NOTFOUND : 0));
        MUST(rv != 0 || t.field_count == m->type_fields[i]);
    }
}

static void check_leases(const struct model *m, const struct heap *heap)
{
    uint64_t leased = 0;
    for (size_t i = 0; i < MODEL_LEASES; i++) {
        const struct model_lease *l = &m->leases[i];
        uint64_t session = 0;
        uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
        uint32_t count = 0;
        if (l->number == 0) {
            continue;
        }
        MUST(heap_lease_get(heap, l->number, &session, ptrs, &count) == 0);
        MUST(session == l->session && count == l->count);
        leased += count;
        struct heap_object o;
        MUST(heap_stat(heap, ptrs[0], &o) == ERR_STALE);
        MUST(heap_stat_at(heap, heap_clock(heap), ptrs[0], &o) == ERR_NOTFOUND);
    }
    struct heap_stats s;
    heap_get_stats(heap, &s);
    MUST(s.leased_slots == leased);
}

void model_check(const struct model *m, const struct heap *heap)
{
    struct err_text e = {""};
    if (heap_check(heap, &e) != 0) {
        (void)fprintf(stderr, "heap_check: %s\n", e.text);
    }
    MUST(heap_check(heap, NULL) == 0);
    MUST(heap_index(heap) == m->index);
    MUST(heap_safepoint(heap) == (m->retention_ms == 0 ? heap_clock(heap) : m->safepoint));
    check_objects(m, heap);
    check_maps(m, heap);
    check_roots_and_types(m, heap);
    check_leases(m, heap);
}

/* ---- older versions ---- */

static void check_object_at(struct model *m, const struct heap *heap, const struct model_object *o,
                            uint64_t at)
{
    struct heap_object stat;
    int want = at < o->born ? ERR_NOTFOUND : o->freed != 0 && at >= o->freed ? ERR_STALE : 0;
    MUST(heap_stat_at(heap, at, o->ptr, &stat) == want);
    m->past_reads++;
    if (want != 0) {
        return;
    }
    uint64_t size = o->size;
    uint64_t version = o->version;
    const uint8_t *bytes = o->bytes;
    for (const struct model_past *p = o->past; p != NULL && p->until > at; p = p->older) {
        size = p->size;
        version = p->version;
        bytes = p->bytes;
    }
    MUST(stat.size == size && stat.version == version && stat.type == o->type);
    uint64_t offset = model_random(m) % size;
    uint64_t len = 1 + model_random(m) % (size - offset);
    if (model_random(m) % 4 == 0) {
        offset = 0;
        len = size;
    }
    uint8_t *got = malloc(len);
    MUST(got != NULL);
    memset(got, 0xee, len);
    MUST(heap_read_at(heap, at, o->ptr, offset, got, len) == 0);
    MUST(memcmp(got, bytes + offset, len) == 0);
    free(got);
    MUST(heap_read_at(heap, at, o->ptr, size, &size, 1) == ERR_RANGE);
}

/* The history names every change that the model remembers. */
static void check_history(const struct model *m, const struct heap *heap,
                          const struct model_object *o)
{
    struct heap_change changes[64];
    size_t count = 0;
    MUST(heap_history(heap, o->ptr, 0, changes, 64, &count) == 0);
    size_t i = 0;
    uint64_t size = o->freed != 0 ? 0 : o->size;
    for (const struct model_past *p = o->past; p != NULL && i < count; p = p->older, i++) {
        if (m->retention_ms == 0 || p->until <= m->safepoint) {
            break;
        }
        MUST(changes[i].version == p->until && changes[i].before == p->version);
        MUST(changes[i].kind != 0 && changes[i].size == size);
        size = p->size;
    }
    MUST(i == count || changes[i].size == size);
}

/* Of some objects the one with the longest past: most have none. */
static const struct model_object *pick(struct model *m, const struct model_object *list,
                                       size_t count)
{
    const struct model_object *best = NULL;
    size_t most = 0;
    for (int tries = 0; tries < 6; tries++) {
        const struct model_object *o = &list[model_random(m) % count];
        size_t length = 0;
        for (const struct model_past *p = o->past; p != NULL; p = p->older) {
            length += o->size > 1 << 20 || p->size > 1 << 20 ? 5 : 1;
        }
        if (best == NULL || length > most) {
            best = o;
            most = length;
        }
    }
    return best;
}

/* `at` and the moments around one of the object's changes. */
static void check_around(struct model *m, const struct heap *heap, const struct model_object *o,
                         uint64_t at)
{
    check_object_at(m, heap, o, at);
    check_history(m, heap, o);
    uint64_t changes[3] = {o->born, o->freed, 0};
    for (const struct model_past *p = o->past; p != NULL; p = p->older) {
        changes[2] = changes[2] == 0 || model_random(m) % 3 != 0 ? p->until : changes[2];
    }
    uint64_t change = changes[model_random(m) % 3];
    if (change > heap_safepoint(heap)) {
        check_object_at(m, heap, o, change);
        check_object_at(m, heap, o, change - 1);
    }
}

/* Nothing is known, unless no history is wanted and the object is as it was then. */
static void check_before_the_safepoint(struct model *m, const struct heap *heap,
                                       const struct model_object *o)
{
    struct heap_object stat;
    uint64_t safepoint = heap_safepoint(heap);
    if (safepoint == 0) {
        return;
    }
    uint64_t span = safepoint > o->born ? safepoint - o->born : 1;
    uint64_t at = safepoint - 1 - model_random(m) % span;
    if (m->retention_ms == 0 && o->version <= at) {
        check_object_at(m, heap, o, at);
    } else {
        MUST(heap_stat_at(heap, at, o->ptr, &stat) == ERR_SNAPSHOT_TOO_OLD);
    }
}

void model_check_past(struct model *m, const struct heap *heap, uint64_t at)
{
    struct heap_object stat;
    uint64_t safepoint = heap_safepoint(heap);
    MUST(safepoint == (m->retention_ms == 0 ? m->clock : m->safepoint));
    if (m->object_count > 0) {
        const struct model_object *o = pick(m, m->objects, m->object_count);
        check_around(m, heap, o, at);
        check_before_the_safepoint(m, heap, o);
    }
    if (m->dead_count > 0) {
        const struct model_object *o = pick(m, m->dead, m->dead_count);
        check_around(m, heap, o, at);
        MUST(heap_stat(heap, o->ptr, &stat) == ERR_STALE);
    }
}

/* ---- whole heaps ---- */

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
