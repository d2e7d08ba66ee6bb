/* <cairn/list.h>. The head is a node without data. Node X is removed by setting its mark (that is
 * the moment at which it is out), then by moving its predecessor's link past it; whoever does the
 * latter frees it. A marked node's link never changes again. */
#include "cairn/list.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/sdk.h"

struct list_node {
    cairn_ptr next;
    uint64_t removed;
};
#define WALKS_MAX 1000u /* restarts of one operation: more is not contention but damage */

static int check_data(const void *data, size_t len)
{
    if (data == NULL && len > 0) {
        return sdk__missing("data");
    }
    return len <= CAIRN_LIST_DATA_BYTES_MAX
               ? 0
               : sdk__fail(CAIRN_E_TOOBIG,
                           "an element of %zu bytes: at most %u; link larger objects", len,
                           CAIRN_LIST_DATA_BYTES_MAX);
}

static int check_list(cairn_heap *heap, cairn_ptr list)
{
    return sdk__container_check(heap, list, CAIRN_TYPE_LIST);
}

static int node_read(cairn_heap *heap, cairn_ptr ptr, struct list_node *out)
{
    return cairn_read(heap, ptr, 0, out, sizeof *out, NULL);
}

/* CONFLICT also when the node is gone: both mean "look again". */
static int node_move(cairn_heap *heap, cairn_ptr ptr, struct list_node from, struct list_node to)
{
    int rv = cairn_compare_and_write(heap, ptr, 0, &from, &to, sizeof from);
    return rv == CAIRN_E_STALE ? CAIRN_E_CONFLICT : rv;
}

int cairn_list_new(cairn_heap *heap, cairn_ptr *list)
{
    struct list_node head = {CAIRN_NULL, 0};
    if (list == NULL) {
        return sdk__missing("list");
    }
    return cairn_alloc_init(heap, sizeof head, CAIRN_TYPE_LIST, &head, sizeof head, list);
}

int cairn_list_destroy(cairn_heap *heap, cairn_ptr list)
{
    cairn_ptr at = list;
    int rv = check_list(heap, list);
    while (rv == 0 && !cairn_ptr_is_null(at)) {
        struct list_node node;
        rv = node_read(heap, at, &node);
        if (rv == 0) {
            rv = cairn_free(heap, at);
        }
        at = rv == 0 ? node.next : at;
    }
    return rv;
}

int cairn_list_push(cairn_heap *heap, cairn_ptr list, const void *data, size_t len, cairn_ptr *node)
{
    int rv = check_data(data, len);
    if (rv == 0) {
        rv = check_list(heap, list);
    }
    if (rv != 0) {
        return rv;
    }
    struct list_node head;
    rv = node_read(heap, list, &head);
    if (rv != 0) {
        return rv;
    }
    size_t bytes = sizeof head + len;
    uint8_t *image = mem_alloc(bytes);
    if (image == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory");
    }
    struct list_node fresh = {head.next, 0};
    memcpy(image, &fresh, sizeof fresh);
    if (len > 0) {
        memcpy(image + sizeof fresh, data, len);
    }
    cairn_ptr ptr;
    rv = cairn_alloc_init(heap, bytes, CAIRN_TYPE_LIST_NODE, image, bytes, &ptr);
    mem_free(image);
    if (rv != 0) {
        return rv;
    }
    for (;;) {
        struct list_node moved = {ptr, 0};
        rv = node_move(heap, list, head, moved);
        if (rv == 0) {
            if (node != NULL) {
                *node = ptr;
            }
            return 0;
        }
        if (rv != CAIRN_E_CONFLICT) {
            break;
        }
        rv = node_read(heap, list, &head);
        if (rv == 0) {
            rv = cairn_write(heap, ptr, 0, &head.next, sizeof head.next);
        }
        if (rv != 0) {
            break;
        }
    }
    if (!cairn_error_is(rv, CAIRN_ERROR_MAYBE_COMMITTED)) {
        (void)cairn_free(heap, ptr);
    }
    return rv;
}

/* Moves the link of `pred` (which reads *p) past the removed node that it points at, and frees
 * that. CONFLICT: look again. */
static int pass(cairn_heap *heap, cairn_ptr pred, struct list_node *p, struct list_node removed)
{
    struct list_node moved = {removed.next, 0};
    int rv = node_move(heap, pred, *p, moved);
    if (rv == 0) {
        cairn_ptr gone = p->next;
        *p = moved;
        rv = cairn_free(heap, gone);
        rv = rv == CAIRN_E_STALE ? 0 : rv;
    }
    return rv;
}

/* One step of a walk: *pred becomes the next node that is in the list and *p what it holds, and
 * *pred is null at the end. Removed nodes on the way are unlinked. CONFLICT: begin anew. */
static int advance(cairn_heap *heap, cairn_ptr *pred, struct list_node *p)
{
    while (!cairn_ptr_is_null(p->next)) {
        struct list_node n;
        int rv = node_read(heap, p->next, &n);
        if (rv == CAIRN_E_STALE) {
            /* It was unlinked since; then *pred has another link, or is out itself. */
            rv = node_read(heap, *pred, p);
            if (rv == CAIRN_E_STALE || (rv == 0 && p->removed != 0)) {
                return CAIRN_E_CONFLICT;
            }
            if (rv != 0) {
                return rv;
            }
            continue;
        }
        if (rv != 0) {
            return rv;
        }
        if (n.removed == 0) {
            *pred = p->next;
            *p = n;
            return 0;
        }
        rv = pass(heap, *pred, p, n);
        if (rv != 0) {
            return rv;
        }
    }
    *pred = CAIRN_NULL;
    return 0;
}

/* Unlinks removed nodes until `node` is gone. */
static int sweep(cairn_heap *heap, cairn_ptr list, cairn_ptr node)
{
    for (unsigned walk = 0; walk < WALKS_MAX; walk++) {
        cairn_ptr at = list;
        struct list_node p;
        int rv = node_read(heap, list, &p);
        while (rv == 0 && !cairn_ptr_is_null(at)) {
            bool here = cairn_ptr_equals(p.next, node);
            rv = advance(heap, &at, &p);
            if (rv == 0 && here) {
                return 0;
            }
        }
        if (rv != CAIRN_E_CONFLICT) {
            return rv;
        }
    }
    return 0; /* others are at it: one of them will pass it */
}

/* Marks a node as removed. NOTFOUND: somebody else did. */
static int mark(cairn_heap *heap, cairn_ptr node)
{
    for (;;) {
        struct list_node n;
        int rv = node_read(heap, node, &n);
        if (rv == CAIRN_E_STALE || (rv == 0 && n.removed != 0)) {
            return sdk__fail(CAIRN_E_NOTFOUND,
                             "the element is not in the list any more: somebody else has taken it");
        }
        if (rv != 0) {
            return rv;
        }
        struct list_node marked = {n.next, 1};
        rv = node_move(heap, node, n, marked);
        if (rv != CAIRN_E_CONFLICT) {
            return rv;
        }
    }
}

int cairn_list_remove(cairn_heap *heap, cairn_ptr list, cairn_ptr node)
{
    if (cairn_ptr_equals(list, node)) {
        return sdk__fail(CAIRN_E_INVAL, "the list itself is not an element of it");
    }
    int rv = check_list(heap, list);
    if (rv == 0) {
        rv = mark(heap, node);
    }
    if (rv == CAIRN_E_RANGE) { /* it is smaller than any element */
        rv = sdk__container_check(heap, node, CAIRN_TYPE_LIST_NODE);
        rv = rv != 0 ? rv
                     : sdk__fail(CAIRN_E_CORRUPT, "the element is cut off; %s",
                                 sdk__next_step(CAIRN_E_CORRUPT));
    }
    if (rv == 0) {
        /* It is out: whatever happens here, TIMEOUT ("nothing happened") would be a lie, and a
         * pop's caller would lose the element. The next walk unlinks what this one didn't. */
        (void)sweep(heap, list, node);
    }
    return rv;
}

/* Bytes behind the node's header. *data is given. */
static int data_read(cairn_heap *heap, cairn_ptr node, uint8_t **data, size_t *len)
{
    cairn_object object;
    *data = NULL;
    int rv = cairn_stat(heap, node, &object);
    if (rv != 0) {
        return rv;
    }
    if (object.size < sizeof(struct list_node)) {
        return sdk__fail(CAIRN_E_CORRUPT,
                         "the object is no element of a list; "
                         "%s",
                         sdk__next_step(CAIRN_E_CORRUPT));
    }
    *len = object.size - sizeof(struct list_node);
    *data = mem_alloc(*len + 1);
    if (*data == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory");
    }
    return *len == 0 ? 0 : cairn_read(heap, node, sizeof(struct list_node), *data, *len, NULL);
}

int cairn_list_pop(cairn_heap *heap, cairn_ptr list, void *data, size_t size, size_t *len)
{
    if (len == NULL || (data == NULL && size > 0)) {
        return sdk__missing(len == NULL ? "len" : "data");
    }
    int bad = check_list(heap, list);
    if (bad != 0) {
        return bad;
    }
    for (;;) {
        cairn_ptr at = list;
        struct list_node p;
        int rv = node_read(heap, list, &p);
        if (rv == 0) {
            rv = advance(heap, &at, &p);
        }
        if (rv == 0 && cairn_ptr_is_null(at)) {
            return sdk__fail(CAIRN_E_NOTFOUND,
                             "the list is empty: push something, or wait until somebody does");
        }
        uint8_t *bytes = NULL;
        if (rv == 0) {
            rv = data_read(heap, at, &bytes, len);
        }
        if (rv == 0 && *len > size) {
            rv = sdk__fail(CAIRN_E_TOOBIG,
                           "the element has %zu bytes, the buffer %zu: give a larger one", *len,
                           size);
        }
        if (rv == 0) {
            rv = cairn_list_remove(heap, list, at);
        }
        if (rv == 0 && *len > 0) {
            assert(bytes != NULL);
            assert(data != NULL); /* size isn't 0 */
            memcpy(data, bytes, *len);
        }
        mem_free(bytes);
        if (rv != CAIRN_E_STALE && rv != CAIRN_E_NOTFOUND && rv != CAIRN_E_CONFLICT) {
            return rv;
        }
    }
}

int cairn_list_each(cairn_heap *heap, cairn_ptr list, cairn_list_cb cb, void *arg)
{
    cairn_ptr at = list;
    struct list_node p;
    int rv = cb == NULL ? sdk__missing("cb") : check_list(heap, list);
    if (rv == 0) {
        rv = node_read(heap, list, &p);
    }
    while (rv == 0) {
        rv = advance(heap, &at, &p);
        if (rv != 0 || cairn_ptr_is_null(at)) {
            break;
        }
        uint8_t *data = NULL;
        size_t len = 0;
        rv = data_read(heap, at, &data, &len);
        if (rv == 0) {
            rv = cb(arg, at, data, len);
        } else if (rv == CAIRN_E_STALE) {
            rv = CAIRN_E_CONFLICT;
        }
        mem_free(data);
    }
    return rv == CAIRN_E_CONFLICT
               ? sdk__fail(rv, "the list changed too much while it was being walked: walk it again")
               : rv;
}
