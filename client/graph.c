/* Graphs: which shard is asked next, and what has come so far. Each shard walks as far as it can by
 * itself (alloc/graph.h); what leads elsewhere comes back and is asked there.
 *
 *   a pointer:   WAITING --asked--> ASKED --answered--> HERE (a node of the graph), UNBORN or GONE
 *                   ^                 |
 *                   `---the answer was full
 *
 * A pointer that is reached by fewer edges than before waits again when the depth is limited, since
 * what lies behind it may now be within the limit, or with a path, whose names go by the number of
 * edges. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "cairn/graph.h"
#include "client/graph_path.h"
#include "client/sdk.h"
#include "client/tx_set.h"

#define ENTRY_BYTES        12u /* pointer u64, depth u32 */
#define HEAD_BYTES         36u /* of an object, in front of its bytes */
#define ENTRIES_MAX        (FETCH_LIST_BYTES_MAX / ENTRY_BYTES)
#define BYTES_DEFAULT      (UINT64_C(64) << 20)
#define POINTER_SHARD_BITS 52

enum place_state { WAITING, ASKED, HERE, UNBORN, GONE };

/* A pointer that was seen. ptr 0: a free place of the table. */
struct place {
    uint64_t ptr;
    uint32_t depth;
    uint32_t node; /* HERE: its number; as long as pointers are followed, its number + 1 */
    enum place_state state;
};

/* The objects' bytes of one answer, each where a struct may lie; its nodes point into them. */
struct answer {
    struct answer *next;
    uint64_t used;
    uint8_t bytes[];
};
#define ALIGNMENT 8u
static_assert(offsetof(struct answer, bytes) % ALIGNMENT == 0, "the first object's place");
static_assert(HEAD_BYTES >= ALIGNMENT, "what heads leave is enough to align by");

struct cairn_graph {
    cairn_node *nodes; /* by depth, when the walk is over */
    uint64_t count, capacity;
    struct place *places; /* open addressing; capacity is a power of two */
    uint64_t place_count, place_capacity;
    struct answer *answers;
    uint64_t bytes;
    bool partial;
};

struct walk {
    struct cairn_heap *heap;
    struct cairn_tx *tx; /* NULL: none */
    const struct cairn_fetch_opts *opts;
    struct cairn_graph *graph;
    uint32_t shard; /* that is asked */
    struct buf starts, known;
};

void cairn_fetch_opts_init(cairn_fetch_opts *opts, size_t struct_size)
{
    cairn_fetch_opts all = {
        .struct_size = struct_size, .depth = UINT32_MAX, .bytes_max = BYTES_DEFAULT};
    if (opts == NULL) {
        return;
    }
    memset(opts, 0, struct_size);
    memcpy(opts, &all, struct_size < sizeof all ? struct_size : sizeof all);
}

/* ---- pointers seen ---- */

static struct place *place_of(const struct cairn_graph *g, uint64_t ptr)
{
    uint64_t mask = g->place_capacity - 1;
    for (uint64_t i = (ptr * 0x9E3779B97F4A7C15u) >> 20 & mask;; i = (i + 1) & mask) {
        if (g->places[i].ptr == ptr || g->places[i].ptr == 0) {
            return &g->places[i];
        }
    }
}

static int places_grow(struct cairn_graph *g)
{
    struct cairn_graph more = {.place_capacity =
                                   g->place_capacity == 0 ? 256 : g->place_capacity * 2};
    more.places = mem_zalloc(more.place_capacity * sizeof *more.places);
    if (more.places == NULL) {
        return CAIRN_E_NOMEM;
    }
    for (uint64_t i = 0; i < g->place_capacity; i++) {
        if (g->places[i].ptr != 0) {
            *place_of(&more, g->places[i].ptr) = g->places[i];
        }
    }
    mem_free(g->places);
    g->places = more.places;
    g->place_capacity = more.place_capacity;
    return 0;
}

/* Something leads there. */
static int reach(struct walk *w, uint64_t ptr, uint32_t depth)
{
    struct cairn_graph *g = w->graph;
    if (ptr == 0 || ptr >> POINTER_SHARD_BITS >= core_heap_shards(w->heap->core)) {
        return 0; /* dangling: of no shard */
    }
    if (2 * (g->place_count + 1) > g->place_capacity) {
        int rv = places_grow(g);
        if (rv != 0) {
            return rv;
        }
    }
    struct place *place = place_of(g, ptr);
    bool news = place->ptr == 0;
    bool nearer = !news && depth < place->depth;
    if (news) {
        g->place_count++;
        *place = (struct place){.ptr = ptr, .depth = depth, .state = WAITING};
    } else if (nearer && (w->opts->depth != UINT32_MAX || w->opts->path != NULL)) {
        place->depth = depth;
        place->state = WAITING;
    } else if (place->state == ASKED) {
        place->state = WAITING; /* it came back: the answer was full */
    }
    return 0;
}

/* ---- an answer ---- */

static int node_add(struct cairn_graph *g, const cairn_node *node, uint32_t *number)
{
    if (g->count == g->capacity) {
        uint64_t capacity = g->capacity == 0 ? 64 : g->capacity * 2;
        cairn_node *nodes =
            capacity > UINT32_MAX ? NULL : mem_realloc(g->nodes, capacity * sizeof *nodes);
        if (nodes == NULL) {
            return CAIRN_E_NOMEM;
        }
        g->nodes = nodes;
        g->capacity = capacity;
    }
    *number = (uint32_t)g->count;
    g->nodes[g->count++] = *node;
    return 0;
}

/* The newest answer has room for it. */
static const void *keep_bytes(struct cairn_graph *g, const uint8_t *bytes, size_t len)
{
    uint8_t *at = g->answers->bytes + g->answers->used;
    if (len > 0) {
        memcpy(at, bytes, len);
    }
    g->answers->used += (len + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    return at;
}

static int take_object(struct walk *w, struct cursor *c)
{
    struct cairn_graph *g = w->graph;
    cairn_node node = {.object.ptr.word = cursor_u64(c)};
    node.object.version = cursor_u64(c);
    node.object.size = cursor_u64(c);
    node.object.type = cursor_u32(c);
    node.depth = cursor_u32(c);
    node.len = cursor_u32(c);
    struct slice bytes = cursor_bytes(c, node.len);
    uint64_t ptr = node.object.ptr.word;
    if (c->failed || ptr >> POINTER_SHARD_BITS != w->shard || node.len > node.object.size) {
        return CAIRN_E_PROTOCOL;
    }
    int rv = reach(w, ptr, node.depth);
    if (rv != 0) {
        return rv;
    }
    struct place *place = place_of(g, ptr);
    g->partial = g->partial || node.len < node.object.size;
    if (place->state == HERE || place->depth < node.depth) {
        return 0; /* known, but there was no room to say so; or it waits, and is nearer */
    }
    if (node.object.version == 0) {
        place->state = UNBORN; /* promised to somebody, not allocated yet */
        return 0;
    }
    node.data = keep_bytes(g, bytes.data, bytes.len);
    if (place->node != 0) { /* again, by fewer edges */
        g->nodes[place->node - 1] = node;
    } else {
        uint32_t number = 0;
        rv = node_add(g, &node, &number);
        g->bytes += rv == 0 ? node.len : 0;
        place->node = number + 1;
    }
    place->state = HERE;
    return rv;
}

static int take_answer(struct walk *w, struct slice objects, struct slice frontier)
{
    struct cursor c = cursor_of(objects);
    int rv = 0;
    bool progress = false; /* the nearest start is always answered */
    while (rv == 0 && cursor_left(&c) > 0) {
        rv = take_object(w, &c);
    }
    c = cursor_of(frontier);
    while (rv == 0 && cursor_left(&c) > 0) {
        uint64_t ptr = cursor_u64(&c);
        uint32_t depth = cursor_u32(&c);
        rv = c.failed ? CAIRN_E_PROTOCOL : reach(w, ptr, depth);
    }
    for (size_t i = 0; rv == 0 && i < w->starts.len; i += ENTRY_BYTES) {
        struct place *place = place_of(w->graph, load_u64(w->starts.data + i));
        progress = progress || place->state != WAITING;
        place->state = place->state == ASKED ? GONE : place->state;
    }
    return rv == 0 && !progress ? CAIRN_E_PROTOCOL : rv;
}

/* ---- asking ---- */

/* The nearest pointer that waits says which shard. False: none waits. */
static bool choose_shard(struct walk *w)
{
    const struct cairn_graph *g = w->graph;
    const struct place *nearest = NULL;
    for (uint64_t i = 0; i < g->place_capacity; i++) {
        const struct place *p = &g->places[i];
        if (p->ptr != 0 && p->state == WAITING && (nearest == NULL || p->depth < nearest->depth)) {
            nearest = p;
        }
    }
    w->shard = nearest == NULL ? 0 : (uint32_t)(nearest->ptr >> POINTER_SHARD_BITS);
    return nearest != NULL;
}

static int put_entry(struct buf *list, const struct place *p)
{
    uint8_t *at = buf_extend(list, ENTRY_BYTES);
    if (at == NULL) {
        return CAIRN_E_NOMEM;
    }
    store_u64(at, p->ptr);
    store_u32(at + 8, p->depth);
    return 0;
}

/* What waits there, and what has come from there. Where the lists are full the rest of the first
 * waits on, and of the second may come again. */
static int gather(struct walk *w)
{
    struct cairn_graph *g = w->graph;
    int rv = 0;
    buf_clear(&w->starts);
    buf_clear(&w->known);
    for (uint64_t i = 0; rv == 0 && i < g->place_capacity; i++) {
        struct place *p = &g->places[i];
        if (p->ptr == 0 || p->ptr >> POINTER_SHARD_BITS != w->shard) {
            continue;
        }
        if (p->state == WAITING && w->starts.len < ENTRIES_MAX * ENTRY_BYTES) {
            rv = put_entry(&w->starts, p);
            p->state = ASKED;
        } else if (p->state == HERE && w->known.len < ENTRIES_MAX * ENTRY_BYTES) {
            rv = put_entry(&w->known, p);
        }
    }
    return rv;
}

/* objects: how long they are; the frontier stands behind them. */
static int hear(struct walk *w, struct slice bytes, uint64_t objects)
{
    assert(objects <= bytes.len);
    struct answer *answer = mem_alloc(sizeof *answer + objects + ALIGNMENT);
    if (answer == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    answer->used = 0;
    answer->next = w->graph->answers;
    w->graph->answers = answer;
    struct cursor c = cursor_of(bytes);
    struct slice first = cursor_bytes(&c, objects);
    int rv = take_answer(w, first, cursor_bytes(&c, bytes.len - objects));
    if (rv != 0) {
        (void)sdk__fail(rv, "%s", rv == CAIRN_E_PROTOCOL ? "a node sent a malformed graph" : "");
    }
    return rv;
}

static int ask(struct walk *w)
{
    struct cairn_graph *g = w->graph;
    uint64_t room = w->opts->bytes_max - g->bytes;
    struct msg_fetch query = {.at = w->opts->at,
                              .depth = w->opts->depth,
                              .bytes_max =
                                  room < FETCH_BYTES_MAX ? (uint32_t)room : FETCH_BYTES_MAX,
                              .starts = slice_of(w->starts.data, w->starts.len),
                              .known = slice_of(w->known.data, w->known.len)};
    const char *path = w->opts->path == NULL ? "" : w->opts->path;
    query.path = slice_of(path, strlen(path));
    struct cairn_future f;
    sdk__future_init(&f, w->heap->client);
    if (w->tx != NULL) {
        w->tx->set->reads++;
        f.call.timeout_ms = sdk__tx_left_ms(w->tx->set);
        if (f.call.timeout_ms == 0) {
            return sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
        }
    }
    int rv = sdk__future_run(&f, core_prepare_fetch(&f.call, w->heap->core, w->shard, &query));
    if (rv == 0) {
        rv = hear(w, slice_of(f.call.bytes.data, f.call.bytes.len), f.call.value);
    }
    buf_close(&f.call.bytes);
    return rv;
}

static int by_depth(const void *a, const void *b)
{
    const cairn_node *x = a;
    const cairn_node *y = b;
    if (x->depth != y->depth) {
        return x->depth < y->depth ? -1 : 1;
    }
    return (x->object.ptr.word > y->object.ptr.word) - (x->object.ptr.word < y->object.ptr.word);
}

static int walk(struct walk *w, cairn_ptr start)
{
    struct cairn_graph *g = w->graph;
    int rv = reach(w, start.word, 0) != 0 ? sdk__fail(CAIRN_E_NOMEM, "%s", "") : 0;
    while (rv == 0 && choose_shard(w)) {
        if (g->bytes >= w->opts->bytes_max) {
            g->partial = true;
            break;
        }
        rv = gather(w) != 0 ? sdk__fail(CAIRN_E_NOMEM, "%s", "") : ask(w);
    }
    if (rv == 0 && place_of(g, start.word)->state == GONE) {
        rv = sdk__because(CAIRN_E_STALE, "the start of the graph is freed, or was never allocated");
    }
    if (rv == 0 && place_of(g, start.word)->state == UNBORN) {
        rv = sdk__because(CAIRN_E_NOT_YET, "the start of the graph is not allocated yet");
    }
    if (rv != 0) {
        return rv;
    }
    qsort(g->nodes, g->count, sizeof g->nodes[0], by_depth);
    for (uint64_t i = 0; i < g->count; i++) {
        place_of(g, g->nodes[i].object.ptr.word)->node = (uint32_t)i;
    }
    return 0;
}

/* What was seen counts at the transaction's commit. */
static int remember(struct walk *w)
{
    const struct cairn_graph *g = w->graph;
    for (uint64_t i = 0; i < g->place_capacity; i++) {
        const struct place *p = &g->places[i];
        struct core_shard *shard = NULL;
        if (p->ptr == 0 || (p->state != HERE && p->state != UNBORN)) {
            continue;
        }
        int rv = sdk__tx_aim(w->heap, p->ptr, &shard);
        if (rv != 0) {
            return rv;
        }
        struct tx_object *object = sdk__tx_set_object(w->tx->set, w->heap, shard, p->ptr);
        if (object == NULL) {
            return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
        }
        if (!object->born) {
            rv = sdk__tx_set_saw_object(w->tx->set, object,
                                        p->state == HERE ? g->nodes[p->node].object.version : 0);
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int fetch(struct walk *w, cairn_ptr start, cairn_graph **graph)
{
    if (cairn_ptr_is_null(start) ||
        start.word >> POINTER_SHARD_BITS >= core_heap_shards(w->heap->core)) {
        return sdk__fail(CAIRN_E_INVAL, "the start of the graph is no pointer of this heap");
    }
    if (w->opts->bytes_max == 0) {
        return sdk__fail(CAIRN_E_INVAL, "bytes_max of a graph is 0");
    }
    w->graph = mem_zalloc(sizeof *w->graph);
    if (w->graph == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    int rv = walk(w, start);
    buf_close(&w->starts);
    buf_close(&w->known);
    if (rv == 0 && w->opts->path != NULL && w->opts->path[0] != '\0' && !w->graph->partial) {
        rv = sdk__path_check(w->heap, w->opts->path, w->opts->depth, w->graph->nodes,
                             w->graph->count);
    }
    if (rv == 0 && w->tx != NULL) {
        rv = remember(w);
    }
    if (rv != 0) {
        cairn_graph_free(w->graph);
        return rv;
    }
    *graph = w->graph;
    return 0;
}

static int take_opts(const cairn_fetch_opts *opts, cairn_fetch_opts *taken)
{
    cairn_fetch_opts_init(taken, sizeof *taken);
    if (opts == NULL) {
        return 0;
    }
    if (opts->struct_size < sizeof opts->struct_size || opts->struct_size > 4096) {
        return sdk__fail(CAIRN_E_INVAL, "set up the options with cairn_fetch_opts_init()");
    }
    memcpy(taken, opts, opts->struct_size < sizeof *taken ? opts->struct_size : sizeof *taken);
    return 0;
}

int cairn_fetch(cairn_heap *heap, cairn_ptr start, const cairn_fetch_opts *opts,
                cairn_graph **graph)
{
    cairn_fetch_opts taken;
    if (graph == NULL) {
        return sdk__missing("graph");
    }
    *graph = NULL;
    int rv = heap == NULL ? sdk__missing("heap") : take_opts(opts, &taken);
    if (rv != 0) {
        return rv;
    }
    struct walk w = {.heap = heap, .opts = &taken};
    return fetch(&w, start, graph);
}

int cairn_tx_fetch(cairn_tx *tx, cairn_ptr start, const cairn_fetch_opts *opts, cairn_graph **graph)
{
    cairn_fetch_opts taken;
    if (graph == NULL) {
        return sdk__missing("graph");
    }
    *graph = NULL;
    int rv = tx == NULL ? sdk__missing("tx") : take_opts(opts, &taken);
    if (rv == 0 && taken.at != 0) {
        rv = sdk__fail(CAIRN_E_INVAL, "a transaction has its own time: opts.at must be 0");
    }
    if (rv == 0) {
        rv = sdk__tx_find_time(tx);
    }
    if (rv != 0) {
        return rv;
    }
    taken.at = tx->set->at;
    struct walk w = {.heap = tx->heap, .tx = tx, .opts = &taken};
    return fetch(&w, start, graph);
}

/* ---- looking ---- */

uint64_t cairn_graph_count(const cairn_graph *graph)
{
    return graph == NULL ? 0 : graph->count;
}

int cairn_graph_is_partial(const cairn_graph *graph)
{
    return graph != NULL && graph->partial;
}

int cairn_graph_get(const cairn_graph *graph, uint64_t number, cairn_node *node)
{
    if (graph == NULL || node == NULL) {
        return sdk__missing(graph == NULL ? "graph" : "node");
    }
    memset(node, 0, sizeof *node);
    if (number >= graph->count) {
        return sdk__fail(CAIRN_E_INVAL, "node %llu of a graph of %llu", (unsigned long long)number,
                         (unsigned long long)graph->count);
    }
    *node = graph->nodes[number];
    return 0;
}

int cairn_graph_find(const cairn_graph *graph, cairn_ptr ptr, cairn_node *node)
{
    if (graph == NULL || node == NULL) {
        return sdk__missing(graph == NULL ? "graph" : "node");
    }
    memset(node, 0, sizeof *node);
    const struct place *place = cairn_ptr_is_null(ptr) ? NULL : place_of(graph, ptr.word);
    if (place == NULL || place->state != HERE) {
        return sdk__fail(CAIRN_E_NOTFOUND,
                         "the pointer is not in the graph: fetch from elsewhere, or deeper");
    }
    *node = graph->nodes[place->node];
    return 0;
}

void cairn_graph_free(cairn_graph *graph)
{
    if (graph == NULL) {
        return;
    }
    while (graph->answers != NULL) {
        struct answer *answer = graph->answers;
        graph->answers = answer->next;
        mem_free(answer);
    }
    mem_free(graph->places);
    mem_free(graph->nodes);
    mem_free(graph);
}
