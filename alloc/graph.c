#include "alloc/graph.h"

#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/intent.h"
#include "base/mem.h"

#define FRONTIER_MAX (FETCH_LIST_BYTES_MAX * 2 / GRAPH_ENTRY_BYTES)

/* A pointer and over how many edges it was reached. */
struct reached {
    uint64_t ptr;
    uint32_t depth;
};

/* Grows to hold what it is asked to. */
struct queue {
    struct reached *entries;
    uint32_t head, count, capacity; /* head: those before it have been taken */
};

/* The fewest edges to each pointer seen: open addressing, ptr 0 is empty. */
struct visited {
    struct reached *places;
    uint32_t used, capacity; /* a power of two */
};

struct walk {
    const struct heap *heap;
    const struct graph_query *query;
    struct queue starts; /* by depth */
    struct queue queue;  /* by depth, too: each is put one edge behind what was taken last */
    struct visited visited;
    struct heap_type *type; /* the one looked up last; number 0: none */
    struct buf *objects, *frontier;
    struct txn_name *by;
    uint64_t at;
    uint32_t bytes_max, bytes, object_count;
    uint32_t pointers; /* in the queue and in the frontier */
    bool full;
};

/* ---- sets of pointers ---- */

static int queue_put(struct queue *q, struct reached r)
{
    if (q->count == q->capacity) {
        uint32_t capacity = q->capacity == 0 ? 64 : q->capacity * 2;
        struct reached *entries = mem_realloc(q->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            return ERR_NOMEM;
        }
        q->entries = entries;
        q->capacity = capacity;
    }
    q->entries[q->count++] = r;
    return 0;
}

static struct reached *place_of(const struct visited *v, uint64_t ptr)
{
    uint64_t hash = ptr * 0x9E3779B97F4A7C15u;
    for (uint32_t i = (uint32_t)(hash >> 32) & (v->capacity - 1);;
         i = (i + 1) & (v->capacity - 1)) {
        if (v->places[i].ptr == ptr || v->places[i].ptr == 0) {
            return &v->places[i];
        }
    }
}

static int visited_grow(struct visited *v)
{
    struct visited more = {.used = v->used, .capacity = v->capacity == 0 ? 256 : v->capacity * 2};
    more.places = mem_zalloc(more.capacity * sizeof *more.places);
    if (more.places == NULL) {
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < v->capacity; i++) {
        if (v->places[i].ptr != 0) {
            *place_of(&more, v->places[i].ptr) = v->places[i];
        }
    }
    mem_free(v->places);
    *v = more;
    return 0;
}

/* *news: it wasn't reached before, or over more edges. */
static int visit(struct visited *v, struct reached r, bool *news)
{
    if (2 * (v->used + 1) > v->capacity) {
        int rv = visited_grow(v);
        if (rv != 0) {
            return rv;
        }
    }
    struct reached *place = place_of(v, r.ptr);
    *news = place->ptr == 0 || r.depth < place->depth;
    if (*news) {
        v->used += place->ptr == 0;
        *place = r;
    }
    return 0;
}

/* ---- what is asked for ---- */

static int take_list(struct walk *w, struct slice list, struct queue *into)
{
    if (list.len % GRAPH_ENTRY_BYTES != 0 || list.len > FETCH_LIST_BYTES_MAX) {
        return ERR_PROTOCOL;
    }
    for (size_t i = 0; i < list.len; i += GRAPH_ENTRY_BYTES) {
        struct reached r = {load_u64(list.data + i), load_u32(list.data + i + 8)};
        bool news = false;
        int rv = r.ptr == 0 ? ERR_INVAL : visit(&w->visited, r, &news);
        if (rv == 0 && into != NULL && news) {
            rv = queue_put(into, r);
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int by_depth(const void *a, const void *b)
{
    const struct reached *x = a;
    const struct reached *y = b;
    if (x->depth != y->depth) {
        return x->depth < y->depth ? -1 : 1;
    }
    return (x->ptr > y->ptr) - (x->ptr < y->ptr);
}

static bool path_is_valid(struct slice path)
{
    bool named = false; /* since the last full stop */
    for (size_t i = 0; i < path.len; i++) {
        if (path.data[i] == '.' && !named) {
            return false;
        }
        named = path.data[i] != '.';
    }
    return path.len == 0 || named;
}

/* The name that the edge behind `depth` edges must have. */
static struct slice edge_name(struct slice path, uint32_t depth)
{
    struct slice rest = path;
    for (;; depth--) {
        const uint8_t *stop = memchr(rest.data, '.', rest.len);
        size_t len = stop == NULL ? rest.len : (size_t)(stop - rest.data);
        if (depth == 0 || stop == NULL) {
            return slice_of(rest.data, len);
        }
        rest = slice_of(stop + 1, rest.len - len - 1);
    }
}

/* ---- one object ---- */

static int put_frontier(struct walk *w, struct reached r)
{
    uint8_t *at = buf_extend(w->frontier, GRAPH_ENTRY_BYTES);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    store_u64(at, r.ptr);
    store_u32(at + 8, r.depth);
    return 0;
}

static int reach(struct walk *w, struct reached r)
{
    bool news = false;
    int rv = visit(&w->visited, r, &news);
    if (rv != 0 || !news) {
        return rv;
    }
    w->pointers++;
    return ptr_shard(r.ptr) == header(w->heap)->shard ? queue_put(&w->queue, r)
                                                      : put_frontier(w, r);
}

static const struct heap_type *type_of(struct walk *w, uint32_t number)
{
    if (number == 0) {
        return NULL;
    }
    if (w->type->number != number && heap_type_get(w->heap, number, w->type) != 0) {
        w->type->number = 0;
        return NULL;
    }
    return w->type;
}

/* How many pointers of a field lie in an object's first `len` bytes. */
static uint32_t pointers_in(const struct heap_field *f, uint64_t len)
{
    if (f->kind != FIELD_PTR || f->offset >= len) {
        return 0;
    }
    uint64_t room = (len - f->offset) / 8;
    return f->count != 0 && f->count < room ? f->count : (uint32_t)room;
}

static bool is_followed(const struct walk *w, const struct heap_field *f, uint32_t depth)
{
    return f->kind == FIELD_PTR &&
           (w->query->path.len == 0 || slice_equals(f->name, edge_name(w->query->path, depth)));
}

/* How many of the object's first `len` bytes can be given, so that all pointers in them have room.
 */
static uint64_t bytes_with_room(const struct walk *w, const struct heap_type *type,
                                struct reached from, uint64_t len)
{
    uint32_t room = FRONTIER_MAX - w->pointers;
    for (uint32_t i = 0; i < type->field_count; i++) {
        const struct heap_field *f = &type->fields[i];
        uint32_t count = is_followed(w, f, from.depth) ? pointers_in(f, len) : 0;
        if (count > room) {
            len = f->offset + (uint64_t)room * 8;
        }
        room -= count > room ? room : count;
    }
    return len;
}

static int follow(struct walk *w, const struct heap_type *type, struct reached from,
                  const uint8_t *bytes, uint64_t len)
{
    int rv = 0;
    for (uint32_t i = 0; i < type->field_count; i++) {
        const struct heap_field *f = &type->fields[i];
        uint32_t count = is_followed(w, f, from.depth) ? pointers_in(f, len) : 0;
        for (uint32_t k = 0; k < count && rv == 0; k++) {
            struct reached to = {load_u64(bytes + f->offset + (size_t)k * 8), from.depth + 1};
            rv = to.ptr == 0 ? 0 : reach(w, to);
        }
    }
    return rv;
}

static int read_bytes(const struct walk *w, uint64_t ptr, uint8_t *out, uint64_t len)
{
    if (len == 0) {
        return 0;
    }
    return w->query->at == 0 ? heap_copy(w->heap, ptr, 0, out, len)
                             : heap_read_at(w->heap, w->at, ptr, 0, out, len);
}

static uint8_t *put_object(struct walk *w, struct reached r, const struct heap_object *o,
                           uint64_t len)
{
    uint8_t *at = buf_extend(w->objects, GRAPH_HEAD_BYTES + (size_t)len);
    if (at == NULL) {
        return NULL;
    }
    store_u64(at, r.ptr);
    store_u64(at + 8, o->version);
    store_u64(at + 16, o->size);
    store_u32(at + 24, o->type);
    store_u32(at + 28, r.depth);
    store_u32(at + 32, (uint32_t)len);
    w->bytes += (uint32_t)len;
    w->object_count++;
    w->pointers--;
    return at + GRAPH_HEAD_BYTES;
}

/* A transaction that saw that it isn't there yet has to say so (rules X12). */
static int take_missing(struct walk *w, struct reached r)
{
    static const struct heap_object unborn = {.version = 0};
    if (w->query->at != 0 || !heap_ptr_is_unborn(w->heap, r.ptr)) {
        return 0; /* dangling, or not there then */
    }
    return put_object(w, r, &unborn, 0) == NULL ? ERR_NOMEM : 0;
}

/* Puts it into the answer; w->full: it found no room there. */
static int take(struct walk *w, struct reached r)
{
    struct heap_object o;
    int rv =
        w->query->at == 0 ? heap_stat(w->heap, r.ptr, &o) : heap_stat_at(w->heap, w->at, r.ptr, &o);
    if (rv == ERR_STALE || rv == ERR_NOTFOUND || rv == ERR_INVAL) {
        return take_missing(w, r);
    }
    if (rv != 0) {
        return rv;
    }
    const struct heap_type *type = r.depth < w->query->depth ? type_of(w, o.type) : NULL;
    uint64_t len = o.size < w->bytes_max - w->bytes ? o.size : w->bytes_max - w->bytes;
    len = type == NULL ? len : bytes_with_room(w, type, r, len);
    if (len < o.size && w->object_count > 0) {
        w->full = true; /* the next answer has more room */
        return 0;
    }
    uint8_t *at = put_object(w, r, &o, len);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    rv = read_bytes(w, r.ptr, at, len);
    if (rv == 0 && type != NULL) {
        rv = follow(w, type, r, at, len);
    }
    return rv;
}

/* ---- the walk ---- */

/* The one with the fewest edges. False: none is left. */
static bool next(struct walk *w, struct reached *out)
{
    struct queue *q = &w->queue;
    struct queue *s = &w->starts;
    if (q->head == q->count && s->head == s->count) {
        return false;
    }
    bool start = q->head == q->count ||
                 (s->head < s->count && s->entries[s->head].depth <= q->entries[q->head].depth);
    *out = start ? s->entries[s->head++] : q->entries[q->head++];
    return true;
}

static int walk(struct walk *w)
{
    struct reached r;
    int rv = 0;
    while (rv == 0 && next(w, &r)) {
        if (place_of(&w->visited, r.ptr)->depth < r.depth) {
            continue; /* reached over fewer edges meanwhile */
        }
        bool here = ptr_shard(r.ptr) == header(w->heap)->shard;
        w->full = w->full || w->object_count == FETCH_OBJECTS_MAX;
        if (here && !w->full) {
            rv = take(w, r);
        }
        if (rv == 0 && (!here || w->full)) {
            rv = put_frontier(w, r);
        }
    }
    return rv;
}

int graph_fetch(const struct heap *heap, const struct graph_query *query, struct buf *objects,
                struct buf *frontier, uint64_t *at, struct txn_name *by)
{
    struct walk w = {.heap = heap,
                     .query = query,
                     .objects = objects,
                     .frontier = frontier,
                     .by = by,
                     .at = query->at != 0 ? query->at : heap_clock(heap),
                     .bytes_max = query->bytes_max};
    w.bytes_max = w.bytes_max < FETCH_BYTES_MAX ? w.bytes_max : FETCH_BYTES_MAX;
    if (!path_is_valid(query->path) || query->bytes_max == 0) {
        return ERR_INVAL;
    }
    if (query->at != 0 && history_known(heap, query->at) == HISTORY_GONE) {
        return ERR_SNAPSHOT_TOO_OLD;
    }
    *at = w.at;
    w.type = mem_zalloc(sizeof *w.type);
    int rv = w.type == NULL ? ERR_NOMEM : visited_grow(&w.visited);
    if (rv == 0) {
        rv = take_list(&w, query->known, NULL);
    }
    if (rv == 0) {
        rv = take_list(&w, query->starts, &w.starts);
    }
    if (rv == 0) {
        w.pointers = w.starts.count;
        if (w.starts.count > 0) {
            qsort(w.starts.entries, w.starts.count, sizeof w.starts.entries[0], by_depth);
        }
        rv = walk(&w);
    }
    rv = rv == 0 ? heap->arena.damage : rv;
    mem_free(w.type);
    mem_free(w.starts.entries);
    mem_free(w.queue.entries);
    mem_free(w.visited.places);
    return rv;
}
