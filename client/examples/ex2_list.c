/* 2. A linked list that outlives the program: each run pushes three numbers and then walks the
 * whole list.
 *
 * A node is allocated and filled in one atomic step, its `next` pointing at the present head; then
 * the root moves to it by compare-and-set. Several programs may push at once: who comes second is
 * told so, and tries again. */
#include <stdio.h>
#include <stdlib.h>

#include <cairn/cairn.h>

enum { TYPE_NODE = 1 };
struct node {
    cairn_ptr next; /* pointers are stored as they are, and stay valid for ever */
    uint64_t value;
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

/* An absent root is an empty list. */
static cairn_ptr head_of(cairn_heap *heap)
{
    cairn_ptr head;
    int rv = cairn_root_get(heap, "list", &head);
    if (rv != CAIRN_E_NOTFOUND) {
        must(rv, "get the root");
    }
    return head;
}

static void push(cairn_heap *heap, uint64_t value)
{
    for (;;) {
        struct node node = {head_of(heap), value};
        cairn_ptr ptr;
        must(cairn_alloc_init(heap, sizeof node, TYPE_NODE, &node, sizeof node, &ptr), "alloc");
        int rv = cairn_root_compare_and_set(heap, "list", node.next, ptr);
        if (rv == 0) {
            return;
        }
        if (rv != CAIRN_E_CONFLICT) {
            must(rv, "move the root");
        }
        must(cairn_free(heap, ptr), "free"); /* another program was faster */
    }
}

int main(void)
{
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    must(cairn_connect(NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");

    for (uint64_t i = 1; i <= 3; i++) {
        push(heap, i * 11);
    }
    uint64_t length = 0;
    for (cairn_ptr at = head_of(heap); !cairn_ptr_is_null(at); length++) {
        struct node node;
        must(cairn_read(heap, at, 0, &node, sizeof node, NULL), "read");
        printf("%s%llu", length == 0 ? "" : " -> ", (unsigned long long)node.value);
        at = node.next;
    }
    printf("\n%llu nodes\n", (unsigned long long)length);
    cairn_heap_close(heap);
    cairn_client_free(client);
    return length >= 3 ? 0 : 1;
}
