/* A persistent hash map over the public calls: keys of bytes to pointers.
 *
 * Any number of threads, programs and machines may use one map at once; a crash at any moment
 * leaves a map with every entry that was reported as put. It grows with its content without ever
 * moving an entry (Shalev and Shavit, "Split-Ordered Lists", JACM 2006: one list in the order of
 * bit-reversed hashes, and shortcuts into it). A crash between two steps may leave one node that
 * nothing points at.
 *
 * The objects that values point at are the caller's. Every call returns 0 or CAIRN_E_*; after
 * CAIRN_E_INDOUBT the change may or may not have happened. thread: any */
#ifndef CAIRN_HASH_H
#define CAIRN_HASH_H

#include <cairn/cairn.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAIRN_HASH_KEY_BYTES_MAX 1024u

/* Every call on an object that isn't such a map: INVAL, and the message says what it is. */
CAIRN_API int cairn_hash_new(cairn_heap *heap, cairn_ptr *hash);
/* Frees the map, not what its values point at; nobody else may be using it. */
CAIRN_API int cairn_hash_destroy(cairn_heap *heap, cairn_ptr hash);

/* key: 1..CAIRN_HASH_KEY_BYTES_MAX bytes; value: not CAIRN_NULL. *previous (may be NULL): the value
 * that was replaced, or CAIRN_NULL. TOOBIG, INVAL, NOSPACE. */
CAIRN_API int cairn_hash_put(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len,
                             cairn_ptr value, cairn_ptr *previous);
CAIRN_API int cairn_hash_get(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len,
                             cairn_ptr *value); /* NOTFOUND */
/* *previous (may be NULL): the value that it had. NOTFOUND. */
CAIRN_API int cairn_hash_remove(cairn_heap *heap, cairn_ptr hash, const void *key, size_t key_len,
                                cairn_ptr *previous);
/* Calls cb for each entry, in no particular order, until it returns non-zero (which is then
 * returned). Entries that come or go meanwhile may be seen or not, every other one is seen once.
 * key: borrowed for the call. */
typedef int (*cairn_hash_cb)(void *arg, const void *key, size_t key_len, cairn_ptr value);
CAIRN_API int cairn_hash_each(cairn_heap *heap, cairn_ptr hash, cairn_hash_cb cb, void *arg);

#ifdef __cplusplus
}
#endif

#endif
