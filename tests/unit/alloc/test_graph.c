/* Following pointers on the server: order, depth, paths, flexible arrays, bounds, other shards. */
#include "alloc/graph.h"

#include "alloc/heap.h"
#include "support/test.h"

#define NAME(text) slice_of(text, sizeof(text) - 1)
#define NODE_TYPE  4u
#define ARRAY_TYPE 5u
#define OTHER      ((uint64_t)6 << (PTR_SLOT_BITS + PTR_GENERATION_BITS) | 77)

struct node {
    uint64_t value, left, right;
};

static struct heap *heap;
static uint64_t version;
static struct buf objects, frontier;
static uint64_t answered_at;

static void register_type(const struct heap_type *t)
{
    struct buf b = {0};
    assert_int_equal(heap_type_encode(t, &b), 0);
    assert_int_equal(heap_type_register(heap, ++version, t->number, slice_of(b.data, b.len)), 0);
    buf_close(&b);
}

static int setup(void **state)
{
    (void)state;
    static const struct heap_type node = {
        .number = NODE_TYPE,
        .size = sizeof(struct node),
        .name = {(const uint8_t *)"node", 4},
        .field_count = 3,
        .fields = {{{(const uint8_t *)"value", 5}, FIELD_U64, 0, 1, 0},
                   {{(const uint8_t *)"left", 4}, FIELD_PTR, 8, 1, NODE_TYPE},
                   {{(const uint8_t *)"right", 5}, FIELD_PTR, 16, 1, NODE_TYPE}}};
    static const struct heap_type array = {
        .number = ARRAY_TYPE,
        .size = 8,
        .name = {(const uint8_t *)"array", 5},
        .field_count = 2,
        .fields = {{{(const uint8_t *)"count", 5}, FIELD_U64, 0, 1, 0},
                   {{(const uint8_t *)"items", 5}, FIELD_PTR, 8, 0, 0}}};
    struct heap_opts opts = {
        .uid = 7, .heap_id = 3, .shard = 5, .bytes_max = 64 << 20, .retention_ms = 60000};
    assert_int_equal(heap_create(&opts, &heap), 0);
    heap_begin(heap, 1, 1, 1000);
    version = heap_next_version(heap);
    register_type(&node);
    register_type(&array);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    heap_free(heap);
    buf_close(&objects);
    buf_close(&frontier);
    return 0;
}

static uint64_t put(uint32_t type, const void *bytes, size_t len)
{
    uint64_t ptr = 0;
    version = heap_next_version(heap);
    assert_int_equal(heap_alloc(heap, version, len, type, slice_of(bytes, len), &ptr), 0);
    return ptr;
}

static uint64_t put_node(uint64_t value, uint64_t left, uint64_t right)
{
    struct node n = {value, left, right};
    return put(NODE_TYPE, &n, sizeof n);
}

static struct slice entry(uint8_t out[GRAPH_ENTRY_BYTES], uint64_t ptr, uint32_t depth)
{
    store_u64(out, ptr);
    store_u32(out + 8, depth);
    return slice_of(out, GRAPH_ENTRY_BYTES);
}

static int fetch_query(struct graph_query *q)
{
    buf_clear(&objects);
    buf_clear(&frontier);
    struct txn_name by;
    return graph_fetch(heap, q, &objects, &frontier, &answered_at, &by);
}

static int fetch(uint64_t start, uint32_t depth, const char *path)
{
    uint8_t list[GRAPH_ENTRY_BYTES];
    struct graph_query q = {.depth = depth,
                            .bytes_max = 1 << 20,
                            .path = slice_of(path, strlen(path)),
                            .starts = entry(list, start, 0)};
    return fetch_query(&q);
}

/* Entry `number` of the answer; its place of bytes. ptr 0: there are fewer. */
struct found {
    uint64_t ptr, version, size;
    uint32_t depth, len;
    const uint8_t *bytes;
};
static struct found object(uint32_t number)
{
    size_t at = 0;
    while (at < objects.len) {
        const uint8_t *p = objects.data + at;
        struct found f = {load_u64(p),      load_u64(p + 8),  load_u64(p + 16),
                          load_u32(p + 28), load_u32(p + 32), p + GRAPH_HEAD_BYTES};
        if (number-- == 0) {
            return f;
        }
        at += GRAPH_HEAD_BYTES + f.len;
    }
    return (struct found){.ptr = 0};
}

static uint32_t count(void)
{
    uint32_t n = 0;
    while (object(n).ptr != 0) {
        n++;
    }
    return n;
}

static void a_cycle_is_walked_once_breadth_first(void **state)
{
    (void)state;
    uint64_t d = put_node(4, 0, 0);
    uint64_t c = put_node(3, d, 0);
    uint64_t b = put_node(2, d, 0);
    uint64_t a = put_node(1, b, c);
    assert_int_equal(heap_write(heap, ++version, d, 8, slice_of(&a, 8)), 0);
    assert_int_equal(fetch(a, UINT32_MAX, ""), 0);
    assert_int_equal(count(), 4);
    assert_int_equal(object(0).ptr, a);
    assert_int_equal(object(1).ptr, b);
    assert_int_equal(object(2).ptr, c);
    assert_int_equal(object(3).ptr, d);
    assert_int_equal(object(3).depth, 2);
    assert_int_equal(object(3).version, version);
    assert_int_equal(load_u64(object(3).bytes), 4);
    assert_int_equal(frontier.len, 0);
    assert_int_equal(answered_at, heap_clock(heap));
}

static void depth_limits_edges(void **state)
{
    (void)state;
    uint64_t c = put_node(3, OTHER, 0);
    uint64_t b = put_node(2, c, 0);
    uint64_t a = put_node(1, b, 0);
    assert_int_equal(fetch(a, 0, ""), 0);
    assert_int_equal(count(), 1);
    assert_int_equal(fetch(a, 2, ""), 0);
    assert_int_equal(count(), 3);
    assert_int_equal(frontier.len, 0);
    assert_int_equal(fetch(a, 3, ""), 0);
    assert_int_equal(frontier.len, GRAPH_ENTRY_BYTES);
    assert_int_equal(load_u64(frontier.data), OTHER);
    assert_int_equal(load_u32(frontier.data + 8), 3);
}

static void a_path_names_the_field_of_each_hop(void **state)
{
    (void)state;
    uint64_t d = put_node(4, 0, 0);
    uint64_t c = put_node(3, 0, d);
    uint64_t b = put_node(2, d, c);
    uint64_t a = put_node(1, b, d);
    assert_int_equal(fetch(a, UINT32_MAX, "left.right"), 0);
    assert_int_equal(count(), 4);
    assert_int_equal(object(1).ptr, b);
    assert_int_equal(object(2).ptr, c);
    assert_int_equal(object(3).ptr, d);
    assert_int_equal(object(3).depth, 3);
    assert_int_equal(fetch(a, UINT32_MAX, "right"), 0);
    assert_int_equal(count(), 2);
    assert_int_equal(fetch(a, UINT32_MAX, "value"), 0);
    assert_int_equal(count(), 1);
    assert_int_equal(fetch(a, UINT32_MAX, "left..right"), ERR_INVAL);
    assert_int_equal(fetch(a, UINT32_MAX, "left."), ERR_INVAL);
    assert_int_equal(fetch(a, UINT32_MAX, "."), ERR_INVAL);
}

static void a_flexible_array_leads_to_all_of_its_items(void **state)
{
    (void)state;
    uint64_t items[6] = {5};
    for (int i = 1; i < 6; i++) {
        items[i] = put_node((uint64_t)i, 0, 0);
    }
    uint64_t a = put(ARRAY_TYPE, items, sizeof items);
    uint64_t untyped = put(0, items, sizeof items);
    assert_int_equal(fetch(a, UINT32_MAX, ""), 0);
    assert_int_equal(count(), 6);
    assert_int_equal(object(5).ptr, items[5]);
    assert_int_equal(fetch(untyped, UINT32_MAX, ""), 0);
    assert_int_equal(count(), 1);
}

static void dangling_pointers_are_left_out(void **state)
{
    (void)state;
    uint64_t b = put_node(2, 0, 0);
    uint64_t a = put_node(1, b, ptr_make(5, 3, 1u << 20));
    assert_int_equal(heap_free_object(heap, ++version, b), 0);
    assert_int_equal(fetch(a, UINT32_MAX, ""), 0);
    assert_int_equal(count(), 1);
    assert_int_equal(fetch(b, UINT32_MAX, ""), 0);
    assert_int_equal(count(), 0);
}

static void what_is_promised_has_no_version(void **state)
{
    (void)state;
    uint64_t lease = 0;
    uint64_t ptrs[4];
    assert_int_equal(heap_lease(heap, 77, 4, &lease, ptrs), 0);
    uint64_t a = put_node(1, ptrs[2], 0);
    assert_int_equal(fetch(a, UINT32_MAX, ""), 0);
    assert_int_equal(count(), 2);
    assert_int_equal(object(1).ptr, ptrs[2]);
    assert_int_equal(object(1).version, 0);
    assert_int_equal(object(1).size, 0);
}

static void a_version_shows_the_graph_of_then(void **state)
{
    (void)state;
    uint64_t c = put_node(3, 0, 0);
    uint64_t b = put_node(2, 0, 0);
    uint64_t a = put_node(1, b, 0);
    uint64_t then = heap_clock(heap);
    version = heap_next_version(heap);
    assert_int_equal(heap_write(heap, version, a, 8, slice_of(&c, 8)), 0);
    assert_int_equal(heap_free_object(heap, heap_next_version(heap), b), 0);
    uint8_t list[GRAPH_ENTRY_BYTES];
    struct graph_query q = {.at = then, .depth = 9, .bytes_max = 4096, .starts = entry(list, a, 0)};
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(count(), 2);
    assert_int_equal(object(1).ptr, b);
    assert_int_equal(answered_at, then);
    q.at = 0;
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(object(1).ptr, c);
    assert_int_equal(heap_set_retention(heap, 0), 0);
    q.at = then;
    assert_int_equal(fetch_query(&q), ERR_SNAPSHOT_TOO_OLD);
}

static void what_has_no_room_is_in_the_frontier(void **state)
{
    (void)state;
    uint64_t c = put_node(3, 0, 0);
    uint64_t b = put_node(2, c, 0);
    uint64_t a = put_node(1, b, OTHER);
    uint8_t list[GRAPH_ENTRY_BYTES];
    struct graph_query q = {.depth = 9, .bytes_max = 47, .starts = entry(list, a, 3)};
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(count(), 1);
    assert_int_equal(object(0).depth, 3);
    assert_int_equal(frontier.len, 2 * GRAPH_ENTRY_BYTES);
    assert_int_equal(load_u64(frontier.data), OTHER);
    assert_int_equal(load_u64(frontier.data + GRAPH_ENTRY_BYTES), b);
    assert_int_equal(load_u32(frontier.data + GRAPH_ENTRY_BYTES + 8), 4);
    /* An object that never has room is cut off, and nothing behind the cut is followed. */
    q.bytes_max = 16;
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(object(0).len, 16);
    assert_int_equal(object(0).size, sizeof(struct node));
    assert_int_equal(frontier.len, GRAPH_ENTRY_BYTES);
    assert_int_equal(load_u64(frontier.data), b);
    q.bytes_max = 0;
    assert_int_equal(fetch_query(&q), ERR_INVAL);
}

static void what_is_known_is_not_fetched_unless_it_is_nearer(void **state)
{
    (void)state;
    uint64_t c = put_node(3, 0, 0);
    uint64_t b = put_node(2, c, 0);
    uint64_t a = put_node(1, b, 0);
    uint8_t list[GRAPH_ENTRY_BYTES];
    uint8_t known[GRAPH_ENTRY_BYTES];
    struct graph_query q = {
        .depth = 9, .bytes_max = 4096, .starts = entry(list, a, 1), .known = entry(known, b, 2)};
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(count(), 1);
    q.known = entry(known, b, 3);
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(count(), 3);
    assert_int_equal(object(2).depth, 3);
    q.known = slice_of(known, 11);
    assert_int_equal(fetch_query(&q), ERR_PROTOCOL);
    q.known = entry(known, 0, 3);
    assert_int_equal(fetch_query(&q), ERR_INVAL);
}

/* Two starts, the deeper one given first: an object that both reach counts from the nearer one. */
static void starts_are_taken_by_depth(void **state)
{
    (void)state;
    uint64_t c = put_node(3, 0, 0);
    uint64_t far = put_node(2, c, 0);
    uint64_t near = put_node(1, c, far);
    uint8_t list[2 * GRAPH_ENTRY_BYTES];
    entry(list, far, 7);
    entry(list + GRAPH_ENTRY_BYTES, near, 2);
    struct graph_query q = {.depth = 9, .bytes_max = 4096, .starts = slice_of(list, sizeof list)};
    assert_int_equal(fetch_query(&q), 0);
    assert_int_equal(count(), 3);
    assert_int_equal(object(0).ptr, near);
    assert_int_equal(object(1).depth, 3);
    assert_int_equal(object(2).ptr, far);
    assert_int_equal(object(2).depth, 3);
}

static void an_answer_is_bounded(void **state)
{
    (void)state;
    size_t bytes = 8 * (1 + 60000);
    uint64_t *items = calloc(1, bytes);
    assert_non_null(items);
    uint64_t last = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        last = put_node(i, last, 0);
    }
    assert_int_equal(fetch(last, UINT32_MAX, ""), 0);
    assert_int_equal(count(), FETCH_OBJECTS_MAX);
    assert_int_equal(frontier.len, GRAPH_ENTRY_BYTES);
    for (uint32_t i = 1; i <= 60000; i++) {
        items[i] = OTHER + i;
    }
    uint64_t array = put(ARRAY_TYPE, items, bytes);
    assert_int_equal(fetch(array, UINT32_MAX, ""), 0);
    assert_true(frontier.len <= FETCH_LIST_BYTES_MAX * 2);
    assert_true(frontier.len > FETCH_LIST_BYTES_MAX);
    assert_true(object(0).len < bytes);
    free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_cycle_is_walked_once_breadth_first, setup, teardown),
        cmocka_unit_test_setup_teardown(depth_limits_edges, setup, teardown),
        cmocka_unit_test_setup_teardown(a_path_names_the_field_of_each_hop, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flexible_array_leads_to_all_of_its_items, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(dangling_pointers_are_left_out, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_promised_has_no_version, setup, teardown),
        cmocka_unit_test_setup_teardown(a_version_shows_the_graph_of_then, setup, teardown),
        cmocka_unit_test_setup_teardown(what_has_no_room_is_in_the_frontier, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_known_is_not_fetched_unless_it_is_nearer, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(starts_are_taken_by_depth, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_is_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
