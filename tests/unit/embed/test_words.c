/* What is said when a call fails: which object or name, the cause, and what to do next. The same on
 * a directory (disk and pmem) and on a cluster. */
#include "unit/embed/fixture.h"

#include "cairn/btree.h"
#include "cairn/graph.h"
#include "cairn/hash.h"
#include "cairn/list.h"

static void says(const char *message, const char *words)
{
    if (strstr(message, words) == NULL) {
        fail_msg("'%s' doesn't say '%s'", message, words);
    }
}

/* A failure with this code, the object, the cause and what to do next. ptr CAIRN_NULL: none. */
static void failed(int rv, int code, cairn_ptr ptr, const char *cause, const char *next)
{
    char text[CAIRN_PTR_TEXT_BYTES];
    cairn_ptr_format(ptr, text, sizeof text);
    assert_int_equal(rv, code);
    says(cairn_errormsg(), cairn_ptr_is_null(ptr) ? "" : text);
    says(cairn_errormsg(), cause);
    says(cairn_errormsg(), next);
}

static void calls_on_objects(void **state)
{
    (void)state;
    char bytes[128];
    cairn_object found;
    cairn_ptr ptr = object(7);
    must(cairn_stat(heap, ptr, &found));
    put(ptr, 8);
    failed(cairn_read(heap, ptr, 60, bytes, 8, NULL), CAIRN_E_RANGE, ptr, "beyond the end",
           "ask for the object's size");
    failed(cairn_write(heap, ptr, 64, "a", 1), CAIRN_E_RANGE, ptr, "beyond the end",
           "ask for the object's size");
    failed(cairn_compare_and_write(heap, ptr, 0, "x", "y", 1), CAIRN_E_CONFLICT, ptr,
           "not those that were expected", "read again");
    failed(cairn_write_if_version(heap, ptr, found.version, 0, "y", 1), CAIRN_E_CONFLICT, ptr,
           "changed since that version", "read again");
    failed(cairn_alloc(heap, 70u << 20, 0, &(cairn_ptr){0}), CAIRN_E_NOSPACE, CAIRN_NULL, "no room",
           "free something");
    must(cairn_free(heap, ptr));
    failed(cairn_free(heap, ptr), CAIRN_E_STALE, ptr, "was freed", "forget the pointer");
    failed(cairn_stat(heap, ptr, &found), CAIRN_E_STALE, ptr, "was freed", "forget the pointer");
    assert_int_equal(value_of(object(9)), 9);
}

static void calls_on_names(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_ptr out;
    cairn_heap *other = NULL;
    cairn_tx *tx = NULL;
    failed(cairn_root_get(heap, "nobody", &out), CAIRN_E_NOTFOUND, CAIRN_NULL,
           "no root of that name", "list what there is");
    failed(cairn_root_delete(heap, "nobody"), CAIRN_E_NOTFOUND, CAIRN_NULL, "no root of that name",
           "list what there is");
    failed(cairn_root_compare_and_set(heap, "nobody", ptr, ptr), CAIRN_E_CONFLICT, CAIRN_NULL,
           "doesn't point where", "read again");
    must(cairn_tx_begin(heap, NULL, &tx));
    failed(cairn_tx_root_get(tx, "nobody", &out), CAIRN_E_NOTFOUND, CAIRN_NULL, "no root 'nobody'",
           "list what there is");
    cairn_tx_abort(tx);
    failed(cairn_heap_open(client, "nosuch", &other), CAIRN_E_NOTFOUND, CAIRN_NULL,
           "heap nosuch does not exist", "create it");
    failed(cairn_heap_create(client, heap_name(), NULL), CAIRN_E_EXISTS, CAIRN_NULL,
           "exists already", "choose another name");
}

static void futures_say_the_same(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_future *f = NULL;
    must(cairn_compare_and_write_async(heap, ptr, 0, "x", "y", 1, &f));
    must(cairn_future_wait(f, UINT32_MAX));
    assert_int_equal(cairn_future_error(f), CAIRN_E_CONFLICT);
    says(cairn_future_errormsg(f), "not those that were expected");
    says(cairn_future_errormsg(f), "read again");
    cairn_future_free(f);
}

static void transactions_say_what_conflicts(void **state)
{
    (void)state;
    cairn_ptr ptr = object(7);
    cairn_tx *tx = NULL;
    must(cairn_tx_begin(heap, NULL, &tx));
    (void)get(tx, ptr);
    set(tx, ptr, 8);
    put(ptr, 9);
    failed(cairn_tx_commit(tx, NULL), CAIRN_E_CONFLICT, ptr, "not as the transaction wants it",
           "read again");
}

/* ---- containers ---- */

static int any_node(void *arg, cairn_ptr node, const void *data, size_t len)
{
    (void)arg;
    (void)node;
    (void)data;
    (void)len;
    return 0;
}

static int any_entry(void *arg, const void *key, size_t key_len, cairn_ptr value)
{
    (void)arg;
    (void)key;
    (void)key_len;
    (void)value;
    return 0;
}

static void no_list(cairn_ptr ptr, const char *what)
{
    char bytes[8];
    size_t len;
    failed(cairn_list_push(heap, ptr, "a", 1, NULL), CAIRN_E_INVAL, ptr, what,
           "a list (type 16000)");
    failed(cairn_list_pop(heap, ptr, bytes, 8, &len), CAIRN_E_INVAL, ptr, what, "not a list");
    failed(cairn_list_each(heap, ptr, any_node, NULL), CAIRN_E_INVAL, ptr, what, "not a list");
    failed(cairn_list_remove(heap, ptr, CAIRN_NULL), CAIRN_E_INVAL, ptr, what, "not a list");
    failed(cairn_list_destroy(heap, ptr), CAIRN_E_INVAL, ptr, what, "not a list");
}

static void no_hash(cairn_ptr ptr, const char *what)
{
    cairn_ptr value = ptr;
    failed(cairn_hash_put(heap, ptr, "a", 1, value, NULL), CAIRN_E_INVAL, ptr, what,
           "a hash map (type 16002)");
    failed(cairn_hash_get(heap, ptr, "a", 1, &value), CAIRN_E_INVAL, ptr, what, "not a hash map");
    failed(cairn_hash_remove(heap, ptr, "a", 1, NULL), CAIRN_E_INVAL, ptr, what, "not a hash map");
    failed(cairn_hash_each(heap, ptr, any_entry, NULL), CAIRN_E_INVAL, ptr, what, "not a hash map");
    failed(cairn_hash_destroy(heap, ptr), CAIRN_E_INVAL, ptr, what, "not a hash map");
}

static void no_tree(cairn_ptr ptr, const char *what)
{
    cairn_ptr value = ptr;
    failed(cairn_btree_put(heap, ptr, "a", 1, value, NULL), CAIRN_E_INVAL, ptr, what,
           "a B-tree (type 16005)");
    failed(cairn_btree_get(heap, ptr, "a", 1, &value), CAIRN_E_INVAL, ptr, what, "not a B-tree");
    failed(cairn_btree_remove(heap, ptr, "a", 1, NULL), CAIRN_E_INVAL, ptr, what, "not a B-tree");
    failed(cairn_btree_each(heap, ptr, NULL, 0, any_entry, NULL), CAIRN_E_INVAL, ptr, what,
           "not a B-tree");
    failed(cairn_btree_destroy(heap, ptr), CAIRN_E_INVAL, ptr, what, "not a B-tree");
}

static void containers_of_another_kind_are_refused_and_stay_whole(void **state)
{
    (void)state;
    cairn_ptr list;
    cairn_ptr hash;
    cairn_ptr tree;
    cairn_ptr found;
    cairn_ptr small;
    cairn_ptr large = object(7); /* as large as a list's head, and with zeroes where its mark is */
    must(cairn_alloc(heap, 4, 0, &small));
    must(cairn_list_new(heap, &list));
    must(cairn_hash_new(heap, &hash));
    must(cairn_btree_new(heap, &tree));
    no_list(hash, "a hash map");
    no_list(tree, "a B-tree");
    no_list(large, "an untyped object");
    no_list(small, "an untyped object");
    no_hash(list, "a list");
    no_hash(tree, "a B-tree");
    no_hash(large, "an untyped object");
    no_tree(list, "a list");
    no_tree(hash, "a hash map");
    no_tree(small, "an untyped object");
    assert_int_equal(cairn_list_remove(heap, list, small), CAIRN_E_INVAL);
    says(cairn_errormsg(), "an element of a list");
    assert_int_equal(value_of(large), 7);
    must(cairn_list_push(heap, list, "a", 1, NULL));
    must(cairn_hash_put(heap, hash, "a", 1, large, NULL));
    must(cairn_hash_get(heap, hash, "a", 1, &found));
    must(cairn_btree_put(heap, tree, "a", 1, large, NULL));
    must(cairn_btree_get(heap, tree, "a", 1, &found));
    assert_true(cairn_ptr_equals(found, large));
    must(cairn_list_destroy(heap, list));
    assert_int_equal(cairn_list_push(heap, list, "a", 1, NULL), CAIRN_E_STALE);
}

/* ---- paths ---- */

struct person {
    cairn_ptr spouse;
    cairn_ptr home;
    uint64_t age;
};
CAIRN_TYPE(person, CAIRN_PTR(spouse, person), CAIRN_PTR(home, house), CAIRN_U64(age));
struct house {
    uint64_t number;
};
CAIRN_TYPE(house, CAIRN_U64(number));

static cairn_ptr person(cairn_ptr spouse, cairn_ptr home)
{
    cairn_ptr ptr;
    const struct person p = {spouse, home, 30};
    must(cairn_alloc_init(heap, sizeof p, CAIRN_TYPE_NUMBER(person), &p, sizeof p, &ptr));
    return ptr;
}

static int fetch(cairn_ptr start, const char *path, uint32_t depth, uint64_t *count)
{
    cairn_graph *graph = NULL;
    cairn_fetch_opts opts;
    cairn_fetch_opts_init(&opts, sizeof opts);
    opts.path = path;
    opts.depth = depth;
    int rv = cairn_fetch(heap, start, &opts, &graph);
    *count = cairn_graph_count(graph);
    cairn_graph_free(graph);
    return rv;
}

static void a_path_names_fields_that_there_are(void **state)
{
    (void)state;
    uint64_t count;
    cairn_ptr home;
    cairn_ptr untyped = object(7);
    must(cairn_type_register(heap, CAIRN_TYPE_OF(person)));
    must(cairn_type_register(heap, CAIRN_TYPE_OF(house)));
    must(cairn_alloc(heap, sizeof(struct house), CAIRN_TYPE_NUMBER(house), &home));
    cairn_ptr lone = person(CAIRN_NULL, home);
    cairn_ptr pair = person(lone, CAIRN_NULL);
    failed(fetch(lone, "wife", UINT32_MAX, &count), CAIRN_E_INVAL, lone, "'wife'", "type person");
    failed(fetch(lone, "age", UINT32_MAX, &count), CAIRN_E_INVAL, lone, "'age'", "no pointer");
    failed(fetch(pair, "spouse.wife", UINT32_MAX, &count), CAIRN_E_INVAL, lone, "'wife'",
           "type person");
    failed(fetch(pair, "spouse.home.door", UINT32_MAX, &count), CAIRN_E_INVAL, home, "'door'",
           "type house");
    failed(fetch(untyped, "next", UINT32_MAX, &count), CAIRN_E_INVAL, untyped, "'next'",
           "isn't registered");
    assert_int_equal(count, 0);
    cairn_tx *tx = NULL;
    cairn_graph *graph = NULL;
    cairn_fetch_opts opts;
    cairn_fetch_opts_init(&opts, sizeof opts);
    opts.path = "wife";
    must(cairn_tx_begin(heap, NULL, &tx));
    failed(cairn_tx_fetch(tx, lone, &opts, &graph), CAIRN_E_INVAL, lone, "'wife'", "type person");
    cairn_tx_abort(tx);
    for (int again = 0; again < 2; again++) {            /* asked, and remembered */
        must(fetch(lone, "spouse", UINT32_MAX, &count)); /* null: nothing to follow */
        assert_int_equal(count, 1);
        must(fetch(pair, "spouse", UINT32_MAX, &count));
        assert_int_equal(count, 2);
    }
    must(fetch(lone, "home", UINT32_MAX, &count)); /* houses have none: the path's end */
    assert_int_equal(count, 2);
    must(fetch(pair, "spouse.home", UINT32_MAX, &count));
    assert_int_equal(count, 3);
    must(fetch(pair, "spouse.home.door", 2, &count)); /* not so far */
    assert_int_equal(count, 3);
}

int main(int argc, char **argv)
{
    mode = argc > 1 ? argv[1] : "disk";
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_begin, fixture_end)
    const struct CMUnitTest tests[] = {
        TEST(calls_on_objects),
        TEST(calls_on_names),
        TEST(futures_say_the_same),
        TEST(transactions_say_what_conflicts),
        TEST(containers_of_another_kind_are_refused_and_stay_whole),
        TEST(a_path_names_fields_that_there_are),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_over);
}
