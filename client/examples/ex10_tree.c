/* 10. A binary search tree that outlives its program, and the machines it runs on.
 *
 *      ex10_tree [KEYS [THREADS [TARGET]]]
 *
 * Every insertion is one transaction: it walks down from the root, allocates a node (the pointer is
 * final at once) and links it. Two threads that want the same place conflict; one of them runs
 * again, and finds the other's node on its way. A crash leaves the node linked, or no node. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <cairn/tx.h>
#include <cairn/typed.h>

enum { THREADS_MAX = 32 };

typedef struct tree_node {
    uint64_t key;
    cairn_ptr left, right;
} tree_node;
CAIRN_TYPE(tree_node, CAIRN_U64(key), CAIRN_PTR(left, tree_node), CAIRN_PTR(right, tree_node));

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

struct insertion {
    uint64_t key;
    int is_new;
};

static int insert(cairn_tx *tx, void *arg)
{
    struct insertion *in = arg;
    const tree_node fresh = {.key = in->key};
    tree_node node;
    cairn_ptr at;
    cairn_ptr added;
    cairn_ptr above = CAIRN_NULL;
    int rv = cairn_tx_root_get(tx, "tree", &at);
    if (rv != 0 && rv != CAIRN_E_NOTFOUND) {
        return rv;
    }
    at = rv == CAIRN_E_NOTFOUND ? CAIRN_NULL : at;
    while (!cairn_ptr_is_null(at)) {
        rv = cairn_tx_read(tx, at, 0, &node, sizeof node);
        if (rv != 0) {
            return rv;
        }
        if (node.key == in->key) {
            in->is_new = 0;
            return 0;
        }
        above = at;
        at = in->key < node.key ? node.left : node.right;
    }
    in->is_new = 1;
    rv = cairn_tx_alloc(tx, sizeof fresh, CAIRN_TYPE_NUMBER(tree_node), &added);
    if (rv == 0) {
        rv = cairn_tx_write(tx, added, 0, &fresh, sizeof fresh);
    }
    if (rv != 0) {
        return rv;
    }
    if (cairn_ptr_is_null(above)) {
        return cairn_tx_root_set(tx, "tree", added);
    }
    size_t link = in->key < node.key ? offsetof(tree_node, left) : offsetof(tree_node, right);
    return cairn_tx_write(tx, above, link, &added, sizeof added);
}

struct gardener {
    cairn_heap *heap;
    pthread_t thread;
    uint64_t first, step, end;
    unsigned long added;
};

/* Keys in an order that keeps the tree flat enough: bits reversed. */
static uint64_t shuffled(uint64_t i)
{
    uint64_t key = 0;
    for (int bit = 0; bit < 32; bit++) {
        key = key << 1 | (i >> bit & 1);
    }
    return key;
}

static void *plant(void *arg)
{
    struct gardener *g = arg;
    for (uint64_t i = g->first; i < g->end; i += g->step) {
        struct insertion in = {.key = shuffled(i)};
        must(cairn_tx_run(g->heap, insert, &in), "insert");
        g->added += (unsigned long)in.is_new;
    }
    return NULL;
}

/* In order, by a stack of our own. Returns how many nodes there are; exits if one is out of place.
 */
static unsigned long walk(cairn_heap *heap, cairn_ptr root)
{
    tree_node stack[64];
    size_t depth = 0;
    unsigned long count = 0;
    uint64_t last = 0;
    cairn_ptr at = root;
    while (!cairn_ptr_is_null(at) || depth > 0) {
        while (!cairn_ptr_is_null(at)) {
            if (depth == sizeof stack / sizeof stack[0]) {
                fprintf(stderr, "the tree is deeper than it can be\n");
                exit(1);
            }
            must(cairn_read(heap, at, 0, &stack[depth], sizeof stack[depth], NULL), "read");
            at = stack[depth++].left;
        }
        const tree_node *node = &stack[--depth];
        if (count > 0 && node->key <= last) {
            fprintf(stderr, "key %llu behind %llu\n", (unsigned long long)node->key,
                    (unsigned long long)last);
            exit(1);
        }
        last = node->key;
        at = node->right;
        count++;
    }
    return count;
}

int main(int argc, char **argv)
{
    uint64_t keys = argc > 1 ? strtoull(argv[1], NULL, 10) : 200;
    uint64_t threads = argc > 2 ? strtoull(argv[2], NULL, 10) : 4;
    static struct gardener gardeners[THREADS_MAX];
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    cairn_ptr root;
    if (keys < 1 || keys > 1000000 || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: ex10_tree [KEYS [THREADS (1..%d) [TARGET]]]\n", THREADS_MAX);
        return 2;
    }
    must(cairn_connect(argc > 3 ? argv[3] : NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");
    must(cairn_type_register(heap, CAIRN_TYPE_OF(tree_node)), "describe the type");
    for (uint64_t i = 0; i < threads; i++) {
        gardeners[i] =
            (struct gardener){.heap = heap, .first = i + 1, .step = threads, .end = keys + 1};
        if (pthread_create(&gardeners[i].thread, NULL, plant, &gardeners[i]) != 0) {
            fprintf(stderr, "no thread could be started\n");
            return 1;
        }
    }
    unsigned long added = 0;
    for (uint64_t i = 0; i < threads; i++) {
        pthread_join(gardeners[i].thread, NULL);
        added += gardeners[i].added;
    }
    must(cairn_root_get(heap, "tree", &root), "find the tree");
    printf("%lu keys added, %lu in order\n", added, walk(heap, root));
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
