/* A persistent list over the public calls: front insertion, removal anywhere, iteration.
 *
 * Any number of threads, programs and machines may use one list at once; a crash at any moment
 * leaves a list in which every element that was reported as pushed, and not as removed, is there
 * (Harris, "A Pragmatic Implementation of Non-Blocking Linked-Lists", DISC 2001; the mark lies
 * beside the link, and generations in pointers exclude ABA). A crash between two steps may leave
 * one node that nothing points at.
 *
 * A list is an object of its own, named by its pointer: store it in a root or in another object.
 * Every call returns 0 or CAIRN_E_*; after CAIRN_E_INDOUBT the element may or may not be in (or
 * out). thread: any */
#ifndef CAIRN_LIST_H
#define CAIRN_LIST_H

#include <cairn/cairn.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAIRN_LIST_DATA_BYTES_MAX (256u << 10)

/* Types of the containers' own objects: 16000 to 16015 are theirs. */
enum cairn_container_type {
    CAIRN_TYPE_LIST = 16000,
    CAIRN_TYPE_LIST_NODE = 16001,
    CAIRN_TYPE_HASH = 16002,
    CAIRN_TYPE_HASH_BUCKETS = 16003,
    CAIRN_TYPE_HASH_NODE = 16004,
    CAIRN_TYPE_BTREE = 16005,
    CAIRN_TYPE_BTREE_NODE = 16006
};

/* Every call on an object that isn't a list: INVAL, and the message says what it is; nothing is
 * changed. (The first call on each list by a heap's handle asks for its type.) */
CAIRN_API int cairn_list_new(cairn_heap *heap, cairn_ptr *list);
/* Frees the list and its nodes; nobody else may be using it. */
CAIRN_API int cairn_list_destroy(cairn_heap *heap, cairn_ptr list);

/* Copies len (0..CAIRN_LIST_DATA_BYTES_MAX) bytes into a new first element. node (may be NULL)
 * names it for cairn_list_remove(). TOOBIG, NOSPACE. */
CAIRN_API int cairn_list_push(cairn_heap *heap, cairn_ptr list, const void *data, size_t len,
                              cairn_ptr *node);
/* Takes the first element out: its bytes are copied to data (at most `size`), *len is how many it
 * has. CAIRN_E_NOTFOUND: empty. TOOBIG: more than `size`; it stays. */
CAIRN_API int cairn_list_pop(cairn_heap *heap, cairn_ptr list, void *data, size_t size,
                             size_t *len);
/* Takes one element out. CAIRN_E_NOTFOUND: it is out already. */
CAIRN_API int cairn_list_remove(cairn_heap *heap, cairn_ptr list, cairn_ptr node);
/* Calls cb for each element, first to last, until it returns non-zero (which is then returned).
 * Elements pushed or removed meanwhile may be seen or not; every other one is seen once, unless
 * so many were removed around the walk that it had to begin anew behind the elements seen:
 * CAIRN_E_CONFLICT. data: borrowed for the call. */
typedef int (*cairn_list_cb)(void *arg, cairn_ptr node, const void *data, size_t len);
CAIRN_API int cairn_list_each(cairn_heap *heap, cairn_ptr list, cairn_list_cb cb, void *arg);

#ifdef __cplusplus
}
#endif

#endif
