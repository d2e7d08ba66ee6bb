/* A persistent ordered map over the public calls: keys of bytes, in bytewise order, to pointers.
 *
 * Nodes are never changed once they are linked: a change writes the path from the leaf to the root
 * anew and then moves the tree's one root pointer to it (shadowing; Rodeh, "B-trees, Shadowing,
 * and Clones", TOS 2008). So a crash at any moment leaves the old tree or the new one, readers take
 * no locks, and writers of one tree go one after another. A crash between two steps may leave nodes
 * that nothing points at.
 *
 * The objects that values point at are the caller's. Every call returns 0 or CAIRN_E_*; after
 * CAIRN_E_INDOUBT the change may or may not have happened. thread: any */
#ifndef CAIRN_BTREE_H
#define CAIRN_BTREE_H

#include <cairn/cairn.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAIRN_BTREE_KEY_BYTES_MAX 512u

/* Every call on an object that isn't such a tree: INVAL, and the message says what it is. */
CAIRN_API int cairn_btree_new(cairn_heap *heap, cairn_ptr *tree);
/* Frees the tree, not what its values point at; nobody else may be using it. */
CAIRN_API int cairn_btree_destroy(cairn_heap *heap, cairn_ptr tree);

/* key: 1..CAIRN_BTREE_KEY_BYTES_MAX bytes; value: not CAIRN_NULL. *previous (may be NULL): the
 * value that was replaced, or CAIRN_NULL. TOOBIG, INVAL, NOSPACE. */
CAIRN_API int cairn_btree_put(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                              cairn_ptr value, cairn_ptr *previous);
CAIRN_API int cairn_btree_get(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                              cairn_ptr *value); /* NOTFOUND */
/* *previous (may be NULL): the value that it had. NOTFOUND. */
CAIRN_API int cairn_btree_remove(cairn_heap *heap, cairn_ptr tree, const void *key, size_t key_len,
                                 cairn_ptr *previous);
/* Calls cb for the entries from `from` on (from_len 0: the first), in order, until it returns
 * non-zero (which is then returned). Entries that come or go meanwhile may be seen or not, every
 * other one is seen once. key: borrowed for the call. */
typedef int (*cairn_btree_cb)(void *arg, const void *key, size_t key_len, cairn_ptr value);
CAIRN_API int cairn_btree_each(cairn_heap *heap, cairn_ptr tree, const void *from, size_t from_len,
                               cairn_btree_cb cb, void *arg);

#ifdef __cplusplus
}
#endif

#endif
