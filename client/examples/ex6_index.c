/* 6. Objects in order of a key: <cairn/btree.h>.
 *
 * The tree maps bytes to pointers and keeps them sorted. Readers never wait, and a crash at any
 * moment leaves the tree as it was before or after a change. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/btree.h>

enum { TYPE_CITY = 1 };
struct city {
    char name[24];
    uint64_t people;
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

static void put(cairn_heap *heap, cairn_ptr tree, const char *name, uint64_t people)
{
    struct city city = {.people = people};
    cairn_ptr ptr;
    cairn_ptr before;
    (void)snprintf(city.name, sizeof city.name, "%s", name);
    must(cairn_alloc_init(heap, sizeof city, TYPE_CITY, &city, sizeof city, &ptr), "alloc");
    must(cairn_btree_put(heap, tree, name, strlen(name), ptr, &before), "put");
    if (!cairn_ptr_is_null(before)) {
        must(cairn_free(heap, before), "free"); /* the entry's old object is ours */
    }
}

static int show(void *arg, const void *key, size_t key_len, cairn_ptr value)
{
    struct city city;
    must(cairn_read(arg, value, 0, &city, sizeof city, NULL), "read");
    printf(" %.*s (%llu)", (int)key_len, (const char *)key, (unsigned long long)city.people);
    return 0;
}

int main(int argc, char **argv)
{
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    cairn_ptr tree;
    must(cairn_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");
    rv = cairn_root_get(heap, "cities", &tree);
    if (rv == CAIRN_E_NOTFOUND) {
        must(cairn_btree_new(heap, &tree), "make the tree");
        rv = cairn_root_compare_and_set(heap, "cities", CAIRN_NULL, tree);
    }
    must(rv, "find the tree");

    put(heap, tree, "oslo", 709000);
    put(heap, tree, "lima", 10090000);
    put(heap, tree, "quito", 1763000);
    printf("in order:");
    must(cairn_btree_each(heap, tree, NULL, 0, show, heap), "walk");
    printf("\nfrom \"m\" on:");
    must(cairn_btree_each(heap, tree, "m", 1, show, heap), "walk");
    printf("\n");
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
