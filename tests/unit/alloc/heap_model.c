#include "heap_model.h"

#include <string.h>

#include "alloc/engine.h"
#include "base/hlc.h"

uint64_t model_now;

const enum heap_map model_maps[2] = {HEAP_MAP_SESSIONS, HEAP_MAP_META};

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

static void past_free(struct model_past *p)
{
    while (p != NULL) {
        struct model_past *older = p->older;
        free(p->bytes);
        free(p);
        p = older;
    }
}

static void object_free(struct model_object *o)
{
    past_free(o->past);
    free(o->bytes);
}

void model_close(struct model *m)
{
    for (size_t i = 0; i < m->object_count; i++) {
        object_free(&m->objects[i]);
    }
    for (size_t i = 0; i < m->dead_count; i++) {
        object_free(&m->dead[i]);
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

static uint64_t object_size_random(struct model *m, uint64_t max)
{
    return below(m, 300) == 0 ? (1 << 20) - 100 + below(m, 5 << 20) : size_random(m, max);
}

/* Applies one command everywhere; all answers are the same. */
static struct heap_outcome apply(struct model *m, struct heap **heaps, size_t count,
                                 const struct heap_command *c)
{
    struct heap_outcome first;
    for (size_t i = 0; i < count; i++) {
        struct heap_outcome out;
        m->clock = heap_next_version(heaps[i]);
        MUST(heap_apply(heaps[i], m->clock, c, &out) == 0);
        MUST(i == 0 ||
             (out.code == first.code && out.version == first.version && out.value == first.value));
        first = out;
    }
    m->nospace += first.code == ERR_NOSPACE;
    MUST(first.code != ERR_NOSPACE || !spares_exist(heaps[0]) || c->size >= SLAB_BYTES);
    return first;
}

/* ---- objects ---- */

static bool keeps_history(const struct model *m)
{
    return m->retention_ms != 0 && m->clock > m->safepoint;
}

/* Before a change: remembers the object. */
static void remember(struct model *m, struct model_object *o)
{
    if (!keeps_history(m)) {
        return;
    }
    struct model_past *p = malloc(sizeof *p);
    MUST(p != NULL);
    *p = (struct model_past){o->past, m->clock, o->size, o->version, malloc(o->size)};
    MUST(p->bytes != NULL);
    memcpy(p->bytes, o->bytes, o->size);
    o->past = p;
}

static void object_born(struct model *m, uint64_t ptr, uint64_t size, uint32_t type, uint8_t *bytes)
{
    m->objects[m->object_count++] = (struct model_object){.ptr = ptr,
                                                          .size = size,
                                                          .version = m->clock,
                                                          .born = m->clock,
                                                          .type = type,
                                                          .bytes = bytes};
}

static void step_alloc(struct model *m, struct heap **heaps, size_t count, uint64_t size_max)
{
    uint64_t size = object_size_random(m, size_max);
    uint64_t init_len = below(m, size + 1);
    init_len = init_len < WRITE_BYTES_MAX ? init_len : WRITE_BYTES_MAX;
    uint8_t *bytes = calloc(1, size);
    MUST(bytes != NULL);
    fill(m, bytes, init_len);
    struct heap_command c = {.kind = HEAP_COMMAND_ALLOC,
                             .size = size,
                             .data = slice_of(bytes, init_len),
                             .type = below(m, 8) == 0 ? (uint32_t)model_random(m)
                                                      : (uint32_t)below(m, 100)};
    struct model_lease *l = &m->leases[below(m, MODEL_LEASES)];
    uint32_t which = 0;
    if (l->number != 0 && below(m, 3) == 0) {
        which = (uint32_t)below(m, l->count);
        c.session = l->session + 1;
        c.ptr = l->ptrs[which];
        MUST(apply(m, heaps, count, &c).code == ERR_STALE);
        c.session = l->session;
    }
    struct heap_outcome out = apply(m, heaps, count, &c);
    if (out.code != 0) {
        MUST(out.code == ERR_NOSPACE);
        free(bytes);
        return;
    }
    if (c.ptr != 0) {
        MUST(out.value == c.ptr);
        l->ptrs[which] = l->ptrs[--l->count];
        l->number = l->count == 0 ? 0 : l->number;
    }
    object_born(m, out.value, size, c.type, bytes);
}

static bool dead_is_due(const struct model *m, const struct model_object *o)
{
    return m->retention_ms == 0 || o->freed <= m->safepoint;
}

static void step_free(struct model *m, struct heap **heaps, size_t count)
{
    size_t at = below(m, m->object_count);
    struct model_object *o = &m->objects[at];
    struct heap_command c = {.kind = HEAP_COMMAND_FREE, .ptr = o->ptr};
    struct heap_outcome out = apply(m, heaps, count, &c);
    if (out.code == ERR_NOSPACE && m->nospace > 0) {
        return; /* no room for the undo record */
    }
    MUST(out.code == 0);
    m->stale[below(m, 64)] = o->ptr;
    remember(m, o);
    o->freed = m->clock;
    if (dead_is_due(m, o) || m->dead_count == MODEL_DEAD) {
        object_free(o);
    } else {
        m->dead[m->dead_count++] = *o;
    }
    *o = m->objects[--m->object_count];
}

static void step_write(struct model *m, struct heap **heaps, size_t count)
{
    struct model_object *o = &m->objects[below(m, m->object_count)];
    struct heap_command c = {.kind = HEAP_COMMAND_WRITE, .ptr = o->ptr};
    c.offset = below(m, o->size);
    uint64_t len = size_random(m, o->size - c.offset);
    len = len < WRITE_BYTES_MAX ? len : WRITE_BYTES_MAX;
    uint8_t *bytes = malloc(len + 8);
    MUST(bytes != NULL);
    fill(m, bytes, len);
    c.data = slice_of(bytes, len);
    uint64_t kind = below(m, 8);
    uint64_t before = 0;
    if (kind == 0) {
        c.kind = HEAP_COMMAND_COMPARE_AND_WRITE;
        c.expected = slice_of(o->bytes + c.offset, len);
    } else if (kind == 1 && o->size >= 8) {
        c.kind = HEAP_COMMAND_ADD_U64;
        c.offset = below(m, o->size - 7);
        c.delta = model_random(m);
        before = load_u64(o->bytes + c.offset);
        len = 8;
        store_u64(bytes, before + c.delta);
    } else if (kind == 2) {
        c.kind = HEAP_COMMAND_WRITE_IF_VERSION;
        c.if_version = o->version;
    }
    struct heap_outcome out = apply(m, heaps, count, &c);
    MUST(out.code == 0 || (out.code == ERR_NOSPACE && m->retention_ms != 0));
    if (out.code == 0) {
        MUST(out.value == before);
        remember(m, o);
        memcpy(o->bytes + c.offset, bytes, len);
        o->version = m->clock;
    }
    free(bytes);
}

static void step_realloc(struct model *m, struct heap **heaps, size_t count, uint64_t size_max)
{
    struct model_object *o = &m->objects[below(m, m->object_count)];
    uint64_t size;
    switch (below(m, 4)) {
    case 0:
        size = o->size + below(m, o->size > 100000 ? 2 << 20 : 500);
        break;
    case 1:
        size = o->size - below(m, o->size);
        break;
    default:
        size = object_size_random(m, size_max);
        break;
    }
    struct heap_command c = {.kind = HEAP_COMMAND_REALLOC, .ptr = o->ptr, .size = size};
    struct heap_outcome out = apply(m, heaps, count, &c);
    MUST(out.code == 0 || out.code == ERR_NOSPACE);
    if (out.code != 0) {
        return;
    }
    remember(m, o);
    o->bytes = realloc(o->bytes, size);
    MUST(o->bytes != NULL);
    if (size > o->size) {
        memset(o->bytes + o->size, 0, size - o->size);
    }
    o->size = size;
    o->version = m->clock;
}

/* ---- maps, roots, types ---- */

struct slice model_key(int map, size_t number, char out[64])
{
    size_t n = number * 7919 % MODEL_KEYS;
    return slice_of(out, (size_t)snprintf(out, 64, map == 0 ? "session/%zu" : "%zu", n));
}

static void step_map(struct model *m, struct heap **heaps, size_t count)
{
    char key[64];
    size_t number = below(m, MODEL_KEYS);
    int which = (int)below(m, 2);
    enum heap_map map = model_maps[which];
    struct slice k = model_key(which, number, key);
    struct model_value *v = &m->values[which][number];
    uint64_t kind = below(m, 4);
    if (kind == 0) {
        for (size_t i = 0; i < count; i++) {
            MUST(heap_map_delete(heaps[i], map, k) == (v->bytes == NULL ? ERR_NOTFOUND : 0));
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
            uint8_t *at = heap_map_edit(heaps[i], map, k, offset, len);
            MUST(at != NULL);
            memcpy(at, v->bytes + offset, len);
        }
        return;
    }
    size_t len = size_random(m, which == 0 ? 16 : below(m, 50) == 0 ? MAP_VALUE_BYTES_MAX : 9000);
    uint8_t *bytes = malloc(len);
    MUST(bytes != NULL);
    fill(m, bytes, len);
    int first = 0;
    for (size_t i = 0; i < count; i++) {
        int rv = heap_map_put(heaps[i], map, k, slice_of(bytes, len));
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

static void step_root(struct model *m, struct heap **heaps, size_t count)
{
    char name[32];
    struct root_record *r = &m->roots[below(m, MODEL_ROOTS)];
    int len = snprintf(name, sizeof name, "root %d", (int)(r - m->roots));
    struct heap_command c = {.name = slice_of(name, (size_t)len)};
    uint64_t ptr = m->object_count == 0 ? 99 : m->objects[below(m, m->object_count)].ptr;
    uint64_t before = r->ptr;
    uint64_t kind = below(m, 4);
    int want = 0;
    if (kind == 0) {
        c.kind = HEAP_COMMAND_ROOT_DELETE;
        ptr = 0;
        want = before == 0 ? ERR_NOTFOUND : 0;
    } else if (kind == 1) {
        c.kind = HEAP_COMMAND_ROOT_SET;
        c.ptr = ptr;
    } else {
        c.kind = HEAP_COMMAND_ROOT_COMPARE_AND_SET;
        ptr = kind == 2 ? ptr : 0;
        c.ptr = ptr;
        c.expected_ptr = before;
        if (below(m, 4) == 0) {
            c.expected_ptr++;
            want = ERR_CONFLICT;
        }
    }
    struct heap_outcome out = apply(m, heaps, count, &c);
    if (out.code == ERR_NOSPACE && (c.ptr != 0 || keeps_history(m))) {
        return; /* no room for the name or the undo record */
    }
    MUST(out.code == want);
    if (want == ERR_CONFLICT) {
        MUST(out.value == before && out.version == r->version);
    } else if (want == 0) {
        MUST(c.kind != HEAP_COMMAND_ROOT_DELETE || out.value == before);
        *r = ptr == 0 ? (struct root_record){0, 0} : (struct root_record){ptr, m->clock};
    }
}

int model_type(uint32_t number, uint32_t fields, struct buf *out)
{
    struct heap_type t = {.number = number, .size = fields * 8, .field_count = fields};
    char name[32];
    char names[TYPE_FIELDS_MAX][8];
    t.name = slice_of(name, (size_t)snprintf(name, sizeof name, "type-%u", number));
    for (uint32_t i = 0; i < fields; i++) {
        t.fields[i] =
            (struct heap_field){.name = slice_of(names[i], (size_t)snprintf(names[i], 8, "f%u", i)),
                                .kind = i % 2 == 0 ? FIELD_PTR : FIELD_U64,
                                .offset = i * 8,
                                .count = 1};
    }
    return heap_type_encode(&t, out);
}

static void step_type(struct model *m, struct heap **heaps, size_t count)
{
    uint32_t i = (uint32_t)below(m, MODEL_TYPES);
    uint32_t fields = m->type_fields[i] + (uint32_t)below(m, 3);
    fields = fields == 0 || fields > 40 ? 1 : fields;
    struct buf b = {0};
    MUST(model_type(i + 1, fields, &b) == 0);
    struct heap_command c = {
        .kind = HEAP_COMMAND_TYPE_REGISTER, .type = i + 1, .data = slice_of(b.data, b.len)};
    struct heap_outcome out = apply(m, heaps, count, &c);
    MUST(out.code == 0 || out.code == ERR_NOSPACE);
    if (out.code == 0 && fields > m->type_fields[i]) {
        m->type_fields[i] = fields;
    }
    buf_close(&b);
}

/* ---- leases, upkeep ---- */

static void step_lease(struct model *m, struct heap **heaps, size_t count)
{
    struct model_lease *l = &m->leases[below(m, MODEL_LEASES)];
    if (l->number != 0) {
        for (size_t i = 0; i < count; i++) {
            MUST(heap_lease_return(heaps[i], l->number) == 0);
            MUST(heap_lease_return(heaps[i], l->number) == ERR_NOTFOUND);
        }
        m->stale[below(m, 64)] = l->ptrs[0];
        l->number = 0;
        return;
    }
    struct heap_command c = {
        .kind = HEAP_COMMAND_LEASE, .session = below(m, 100), .count = 1 + (uint32_t)below(m, 40)};
    struct heap_outcome out = apply(m, heaps, count, &c);
    MUST(out.code == 0 || out.code == ERR_NOSPACE);
    if (out.code == 0) {
        l->number = out.value;
        l->session = c.session;
        uint64_t session;
        MUST(heap_lease_get(heaps[0], l->number, &session, l->ptrs, &l->count) == 0);
        MUST(session == c.session && l->count == c.count);
    }
}

/* Forgets what no reader may ask for any more. */
static void forget(struct model *m)
{
    size_t kept = 0;
    for (size_t i = 0; i < m->dead_count; i++) {
        if (dead_is_due(m, &m->dead[i])) {
            object_free(&m->dead[i]);
        } else {
            m->dead[kept++] = m->dead[i];
        }
    }
    m->dead_count = kept;
    for (size_t i = 0; i < m->object_count; i++) {
        struct model_past **p = &m->objects[i].past;
        while (*p != NULL && m->retention_ms != 0 && (*p)->until > m->safepoint) {
            p = &(*p)->older;
        }
        past_free(*p);
        *p = NULL;
    }
}

static void step_retention(struct model *m, struct heap **heaps, size_t count)
{
    static const uint64_t choices[] = {0, 10, 60, 400};
    struct heap_command c = {.kind = HEAP_COMMAND_SET_RETENTION, .size = choices[below(m, 4)]};
    struct heap_outcome out = apply(m, heaps, count, &c);
    if (out.code == ERR_NOSPACE && c.size != 0) {
        return;
    }
    MUST(out.code == 0);
    if (c.size == 0 || m->retention_ms == 0) {
        m->safepoint = m->clock;
    }
    m->retention_ms = c.size;
    forget(m);
}

static void step_reclaim(struct model *m, struct heap **heaps, size_t count)
{
    struct heap_command c = {
        .kind = HEAP_COMMAND_RECLAIM, .count = (uint32_t)below(m, 600), .if_version = UINT64_MAX};
    if (below(m, 3) == 0) {
        c.if_version = m->safepoint + below(m, m->clock + 2 - m->safepoint);
    }
    struct heap_outcome out = apply(m, heaps, count, &c);
    MUST(out.code == 0);
    uint64_t span = hlc_from_ms(m->retention_ms);
    uint64_t most = m->clock > span ? m->clock - span : 0;
    most = most < c.if_version ? most : c.if_version;
    m->safepoint = most > m->safepoint ? most : m->safepoint;
    forget(m);
}

static void step_upkeep(struct model *m, struct heap **heaps, size_t count)
{
    struct heap_command c = {.kind = HEAP_COMMAND_TRIM, .size = below(m, 4 << 20)};
    uint64_t dice = below(m, 100);
    if (dice < 2) {
        step_retention(m, heaps, count);
    } else if (dice < 50) {
        step_reclaim(m, heaps, count);
    } else if (dice < 95) {
        c.kind = HEAP_COMMAND_DEFRAG;
        c.count = (uint32_t)below(m, 200000);
        m->defrag_moved += apply(m, heaps, count, &c).value >> 1;
    } else {
        MUST(apply(m, heaps, count, &c).code == 0);
    }
}

/* ---- what must be refused ---- */

static void step_refused(struct model *m, struct heap **heaps, size_t count)
{
    uint64_t stale = m->stale[below(m, 64)];
    for (size_t i = 0; i < count; i++) {
        const uint8_t *bytes = NULL;
        uint64_t part = 0;
        int want = stale == 0 ? ERR_INVAL : ERR_STALE;
        MUST(heap_free_object(heaps[i], 1, stale) == want);
        MUST(heap_write(heaps[i], 1, stale, 0, slice_of("x", 1)) == want);
        MUST(heap_realloc(heaps[i], 1, stale, 1) == want);
        MUST(heap_read(heaps[i], stale, 0, 1, &bytes, &part) == want);
        MUST(heap_alloc_leased(heaps[i], 1, 0, stale, 1, 0, slice_of(NULL, 0)) == want);
        if (m->object_count > 0) {
            const struct model_object *o = &m->objects[0];
            MUST(heap_write(heaps[i], 1, o->ptr, o->size, slice_of("x", 1)) == ERR_RANGE);
            MUST(heap_read(heaps[i], o->ptr, 1, o->size, &bytes, &part) == ERR_RANGE);
            MUST(heap_realloc(heaps[i], 1, o->ptr, 0) == ERR_INVAL);
            MUST(heap_realloc(heaps[i], 1, o->ptr, OBJECT_BYTES_MAX + 1ull) == ERR_TOOBIG);
            MUST(heap_alloc_leased(heaps[i], 1, 0, o->ptr, 1, 0, slice_of(NULL, 0)) == ERR_STALE);
        }
    }
}

static void step_any(struct model *m, struct heap **heaps, size_t count, uint64_t size_max)
{
    /* The mood changes, so that the heap fills and empties. */
    uint64_t mood = m->index / 700 % 4;
    uint64_t dice = below(m, 100);
    uint64_t allocs = mood == 0 ? 50 : mood == 3 ? 12 : 30;
    if (dice < allocs && m->object_count < MODEL_OBJECTS) {
        step_alloc(m, heaps, count, size_max);
    } else if (dice < 60 && m->object_count > 0) {
        step_free(m, heaps, count);
    } else if (dice < 74 && m->object_count > 0) {
        step_write(m, heaps, count);
    } else if (dice < 82 && m->object_count > 0) {
        step_realloc(m, heaps, count, size_max);
    } else if (dice < 88) {
        step_map(m, heaps, count);
    } else if (dice < 91) {
        step_root(m, heaps, count);
    } else if (dice < 92) {
        step_type(m, heaps, count);
    } else if (dice < 94) {
        step_lease(m, heaps, count);
    } else if (dice < 97) {
        step_upkeep(m, heaps, count);
    } else {
        step_refused(m, heaps, count);
    }
}

void model_step(struct model *m, struct heap **heaps, size_t count, uint64_t size_max)
{
    m->index += 1 + below(m, 3);
    model_now = m->index;
    for (size_t i = 0; i < count; i++) {
        heap_begin(heaps[i], m->index, 1 + m->index / 1000, m->index << 14);
    }
    step_any(m, heaps, count, size_max);
    for (size_t i = 0; i < count; i++) {
        heap_end(heaps[i]);
    }
    if (m->clock > 0 && below(m, 4) == 0) {
        uint64_t oldest = m->retention_ms == 0 ? m->clock : m->safepoint;
        model_check_past(m, heaps[below(m, count)], oldest + below(m, m->clock + 1 - oldest));
    }
}
