/* Graph fetch through the public SDK beside a walk of the test's own over the same objects, on
 * whatever $CAIRN_ENDPOINTS (or the argument) names: a cluster, or a directory (file://...).
 *
 *   graph URL OBJECTS SEED       makes a heap and a random graph in it, and compares
 *   graph - OBJECTS SEED         the same in a cluster, on eight shards */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/cairn.h>
#include <cairn/graph.h>
#include <cairn/tx.h>

#define HEAP     "graph"
#define FAR      UINT32_MAX
#define POINTERS 6u /* of an object, at most */

struct vertex {
    uint64_t number;
    cairn_ptr left, right;
};
CAIRN_TYPE(vertex, CAIRN_U64(number), CAIRN_PTR(left, vertex), CAIRN_PTR(right, vertex));

struct fan {
    uint64_t number;
    cairn_ptr first;
};
/* As many pointers as the object has room for. */
static const cairn_field fan_fields[] = {{"number", CAIRN_FIELD_U64, 0, 1, 0, NULL},
                                         {"items", CAIRN_FIELD_PTR, 8, 0, 0, NULL}};
static const cairn_type fan_type = {"fan", 0, sizeof(struct fan), 2, fan_fields};

static cairn_client *client;
static cairn_heap *heap;
static uint32_t count;
static cairn_ptr *objects;
static bool *is_fan;
static uint32_t (*leads_to)[POINTERS]; /* count: nowhere */

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "graph: " __VA_ARGS__);                                                \
            fprintf(stderr, " (%s:%d)\n", __FILE__, __LINE__);                                     \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void must(int rv, const char *what)
{
    CHECK(rv == 0, "%s: %s: %s", what, cairn_error_name(rv), cairn_errormsg());
}

static uint64_t dice(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* ---- the graph ---- */

static void make_objects(uint64_t *seed)
{
    for (uint32_t i = 0; i < count; i++) {
        is_fan[i] = dice(seed) % 4 == 0;
        uint64_t bytes = is_fan[i] ? 8 + 8 * POINTERS : sizeof(struct vertex);
        uint32_t type = is_fan[i] ? cairn_type_number(&fan_type) : CAIRN_TYPE_NUMBER(vertex);
        must(cairn_alloc(heap, bytes, type, &objects[i]), "alloc");
    }
}

static void link_objects(uint64_t *seed)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t words[1 + POINTERS] = {i};
        uint32_t pointers = is_fan[i] ? POINTERS : 2;
        for (uint32_t k = 0; k < POINTERS; k++) {
            bool none = k >= pointers || dice(seed) % 3 == 0;
            leads_to[i][k] = none ? count : (uint32_t)(dice(seed) % count);
            words[1 + k] = none ? 0 : objects[leads_to[i][k]].word;
        }
        must(cairn_write(heap, objects[i], 0, words, 8 + 8 * (size_t)pointers), "write");
    }
}

static uint32_t number_of(cairn_ptr ptr)
{
    for (uint32_t i = 0; i < count; i++) {
        if (objects[i].word == ptr.word) {
            return i;
        }
    }
    return count;
}

/* ---- a walk of our own ---- */

/* Which pointers a hop follows: bit 0 left, bit 1 right, bit 2 all of a fan. */
static uint32_t followed(const char *path, uint32_t hop)
{
    static const char *const names[] = {"left", "right", "items"};
    if (path == NULL) {
        return 7;
    }
    for (const char *next = strchr(path, '.'); hop > 0 && next != NULL; hop--) {
        path = next + 1;
        next = strchr(path, '.');
    }
    for (uint32_t i = 0; i < 3; i++) {
        if (strncmp(path, names[i], strcspn(path, ".")) == 0) {
            return 1u << i;
        }
    }
    return 0;
}

static uint32_t expected_walk(uint32_t start, uint32_t depth, const char *path, uint32_t *depths)
{
    uint32_t *queue = calloc(count, sizeof *queue);
    uint32_t tail = 0;
    CHECK(queue != NULL, "memory");
    memset(depths, 0xff, count * sizeof *depths);
    depths[start] = 0;
    queue[tail++] = start;
    for (uint32_t head = 0; head < tail; head++) {
        uint32_t at = queue[head];
        uint32_t mask = followed(path, depths[at]);
        for (uint32_t k = 0; k < POINTERS && depths[at] < depth; k++) {
            uint32_t to = leads_to[at][k];
            bool named = is_fan[at] ? (mask & 4) != 0 : k < 2 && (mask >> k & 1) != 0;
            if (named && to != count && depths[to] == UINT32_MAX) {
                depths[to] = depths[at] + 1;
                queue[tail++] = to;
            }
        }
    }
    free(queue);
    return tail;
}

/* ---- comparing ---- */

static cairn_graph *fetch(uint32_t start, uint32_t depth, const char *path, uint64_t bytes_max,
                          uint64_t at)
{
    cairn_fetch_opts opts;
    cairn_graph *graph = NULL;
    cairn_fetch_opts_init(&opts, sizeof opts);
    opts.depth = depth;
    opts.path = path;
    opts.at = at;
    opts.bytes_max = bytes_max == 0 ? opts.bytes_max : bytes_max;
    must(cairn_fetch(heap, objects[start], &opts, &graph), "fetch");
    return graph;
}

static void compare_node(const cairn_graph *graph, uint64_t n, uint32_t depth,
                         const uint32_t *depths)
{
    cairn_node node;
    cairn_node found;
    must(cairn_graph_get(graph, n, &node), "get");
    uint32_t i = number_of(node.object.ptr);
    CHECK(i < count && depths[i] != UINT32_MAX, "node %" PRIu64 " isn't on the way", n);
    /* Without a limit a way over other shards may be longer than the shortest. */
    CHECK(depth == FAR ? node.depth >= depths[i] : node.depth == depths[i],
          "object %u: depth %u instead of %u", i, node.depth, depths[i]);
    CHECK(((uintptr_t)node.data & 7) == 0, "object %u lies crooked", i);
    const uint64_t *words = node.data;
    CHECK(node.len == node.object.size && words[0] == i, "object %u: another's bytes", i);
    for (uint32_t k = 0; 1 + k < node.len / 8; k++) {
        uint32_t to = leads_to[i][k];
        CHECK(words[1 + k] == (to == count ? 0 : objects[to].word), "object %u: pointer %u", i, k);
    }
    must(cairn_graph_find(graph, node.object.ptr, &found), "find");
    CHECK(found.data == node.data, "found another");
}

/* Its first name must be a pointer of the start's type, unless nothing is followed anyway. */
static bool is_good_path(uint32_t start, uint32_t depth, const char *path)
{
    uint32_t mask = followed(path, 0);
    return depth == 0 || (is_fan[start] ? (mask & 4) != 0 : (mask & 3) != 0);
}

static void compare_refused(uint32_t start, uint32_t depth, const char *path)
{
    cairn_fetch_opts opts;
    cairn_graph *graph = NULL;
    cairn_fetch_opts_init(&opts, sizeof opts);
    opts.depth = depth;
    opts.path = path;
    CHECK(cairn_fetch(heap, objects[start], &opts, &graph) == CAIRN_E_INVAL, "path %s of object %u",
          path, start);
}

static void compare(uint32_t start, uint32_t depth, const char *path, uint32_t *depths)
{
    if (!is_good_path(start, depth, path)) {
        compare_refused(start, depth, path);
        return;
    }
    uint32_t want = expected_walk(start, depth, path, depths);
    cairn_graph *graph = fetch(start, depth, path, 0, 0);
    CHECK(!cairn_graph_is_partial(graph), "partial");
    if (path == NULL || cairn_heap_shards(heap) == 1) {
        CHECK(cairn_graph_count(graph) == want, "%" PRIu64 " objects instead of %u",
              cairn_graph_count(graph), want);
        for (uint64_t n = 0; n < want; n++) {
            compare_node(graph, n, depth, depths);
        }
    }
    /* With a path another walk along it, over a shard where it was longer, may lead elsewhere. */
    for (uint32_t i = 0; i < count; i++) {
        cairn_node node;
        CHECK(depths[i] == UINT32_MAX || cairn_graph_find(graph, objects[i], &node) == 0,
              "object %u is missing", i);
    }
    cairn_node first;
    must(cairn_graph_get(graph, 0, &first), "get");
    CHECK(first.object.ptr.word == objects[start].word && first.depth == 0, "not the start");
    CHECK(cairn_graph_get(graph, cairn_graph_count(graph), &first) == CAIRN_E_INVAL, "beyond");
    cairn_graph_free(graph);
}

static void compare_partial(uint32_t start, uint32_t *depths)
{
    uint32_t want = expected_walk(start, FAR, NULL, depths);
    if (want < 20) {
        return;
    }
    cairn_graph *graph = fetch(start, FAR, NULL, 300, 0);
    cairn_node node;
    uint64_t bytes = 0;
    for (uint64_t n = 0; cairn_graph_get(graph, n, &node) == 0; n++) {
        bytes += node.len;
    }
    CHECK(cairn_graph_is_partial(graph), "not partial");
    CHECK(bytes <= 300 && bytes > 0, "%" PRIu64 " bytes of 300", bytes);
    cairn_graph_free(graph);
}

/* As it was before one object's pointers went, and that object itself. */
static void compare_older(uint32_t *depths)
{
    uint32_t start = 0;
    cairn_object now;
    while (expected_walk(start, FAR, NULL, depths) < 20) {
        start++;
        CHECK(start < count, "a graph without edges");
    }
    uint32_t want = expected_walk(start, FAR, NULL, depths);
    uint64_t then = 0;
    for (uint32_t i = 0; i < count; i++) { /* the greatest version there is */
        must(cairn_stat(heap, objects[i], &now), "stat");
        then = now.version > then ? now.version : then;
    }
    uint64_t zero[2] = {0, 0};
    uint32_t victim = is_fan[start] ? (start + 1) % count : start;
    while (is_fan[victim]) {
        victim = (victim + 1) % count;
    }
    must(cairn_write(heap, objects[victim], 8, zero, sizeof zero), "write");
    cairn_graph *graph = fetch(start, FAR, NULL, 0, then);
    CHECK(cairn_graph_count(graph) == want, "then: %" PRIu64 " objects instead of %u",
          cairn_graph_count(graph), want);
    cairn_graph_free(graph);
    leads_to[victim][0] = count;
    leads_to[victim][1] = count;
    compare(start, FAR, NULL, depths);
    compare(victim, FAR, NULL, depths);
}

/* Between the fetch and the commit an object of the graph changes, or none does. */
static void fetch_in_transaction(bool disturbed)
{
    cairn_tx *tx = NULL;
    cairn_graph *graph = NULL;
    cairn_fetch_opts opts;
    cairn_node last;
    cairn_ptr mark;
    uint64_t number = 7;
    cairn_fetch_opts_init(&opts, sizeof opts);
    opts.depth = 2;
    must(cairn_alloc(heap, 8, 0, &mark), "alloc");
    must(cairn_tx_begin(heap, NULL, &tx), "begin");
    opts.at = 1;
    CHECK(cairn_tx_fetch(tx, objects[0], &opts, &graph) == CAIRN_E_INVAL, "another time");
    opts.at = 0;
    must(cairn_tx_fetch(tx, objects[0], &opts, &graph), "fetch in a transaction");
    must(cairn_graph_get(graph, cairn_graph_count(graph) - 1, &last), "get");
    if (disturbed) {
        must(cairn_write(heap, last.object.ptr, 0, last.data, 8), "write");
    }
    must(cairn_tx_write(tx, mark, 0, &number, sizeof number), "write in a transaction");
    int rv = cairn_tx_commit(tx, NULL);
    CHECK(rv == (disturbed ? CAIRN_E_CONFLICT : 0), "commit: %d %s", rv, cairn_errormsg());
    cairn_graph_free(graph);
}

static void refuse(void)
{
    cairn_ptr freed;
    cairn_graph *graph = NULL;
    cairn_fetch_opts opts;
    cairn_fetch_opts_init(&opts, sizeof opts);
    must(cairn_alloc(heap, 8, 0, &freed), "alloc");
    must(cairn_free(heap, freed), "free");
    CHECK(cairn_fetch(heap, freed, NULL, &graph) == CAIRN_E_STALE, "a freed start");
    CHECK(cairn_fetch(heap, CAIRN_NULL, NULL, &graph) == CAIRN_E_INVAL, "a null start");
    opts.path = "left..right";
    CHECK(cairn_fetch(heap, objects[0], &opts, &graph) == CAIRN_E_INVAL, "a path with a gap");
    opts.path = NULL;
    opts.at = 1;
    int rv = cairn_fetch(heap, objects[0], &opts, &graph);
    CHECK(rv == CAIRN_E_SNAPSHOT_TOO_OLD || rv == CAIRN_E_STALE, "before all: %d", rv);
    CHECK(graph == NULL, "a graph beside an error");
}

int main(int argc, char **argv)
{
    static const char *const paths[] = {NULL, "left", "right.left", "items.left.right", "number"};
    cairn_heap_opts opts;
    if (argc != 4) {
        fprintf(stderr, "graph URL OBJECTS SEED\n");
        return 2;
    }
    uint64_t seed = strtoull(argv[3], NULL, 10);
    count = (uint32_t)strtoul(argv[2], NULL, 10);
    objects = calloc(count, sizeof *objects);
    is_fan = calloc(count, sizeof *is_fan);
    leads_to = calloc(count, sizeof *leads_to);
    uint32_t *depths = calloc(count, sizeof *depths);
    CHECK(objects != NULL && is_fan != NULL && leads_to != NULL && depths != NULL, "memory");

    must(cairn_connect(strcmp(argv[1], "-") == 0 ? NULL : argv[1], NULL, &client), "connect");
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.retention_ms = 600000;
    opts.shards = strcmp(argv[1], "-") == 0 ? 8 : 1;
    must(cairn_heap_create(client, HEAP, &opts), "create");
    must(cairn_heap_open(client, HEAP, &heap), "open");
    must(cairn_type_register(heap, CAIRN_TYPE_OF(vertex)), "register");
    must(cairn_type_register(heap, &fan_type), "register");
    make_objects(&seed);
    link_objects(&seed);

    for (uint32_t i = 0; i < 12; i++) {
        uint32_t start = (uint32_t)(dice(&seed) % count);
        for (uint32_t k = 0; k < 5; k++) {
            compare(start, i == 0 ? FAR : i - 1, paths[k], depths);
        }
        compare(start, FAR, NULL, depths);
        compare_partial(start, depths);
    }
    fetch_in_transaction(false);
    fetch_in_transaction(true);
    compare_older(depths);
    refuse();
    must(cairn_root_set(heap, "start", objects[0]), "root");
    printf("%u objects, graphs as expected\n", count);
    cairn_heap_close(heap);
    cairn_client_free(client);
    free(objects);
    free(is_fan);
    free(leads_to);
    free(depths);
    return 0;
}
