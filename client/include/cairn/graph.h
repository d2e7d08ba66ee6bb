/* Cairn: following pointers on the server, with one request per shard visited instead of one per
 * hop. */
#ifndef CAIRN_GRAPH_H
#define CAIRN_GRAPH_H

#include <cairn/tx.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cairn_graph cairn_graph;
typedef struct cairn_fetch_opts {
    size_t struct_size; /* set by cairn_fetch_opts_init() */
    uint32_t depth;     /* pointers to follow from the start; default UINT32_MAX */
    uint64_t bytes_max; /* of all objects; default 64 MiB. Reached: the graph says it is partial */
    uint64_t at;        /* a version; default 0: newest, each answer of a shard for itself */
    const char *path;   /* names of pointer fields, dot-separated: one per hop, the last one for
                           all further ones; default NULL: all pointer fields. INVAL: a name is
                           empty; the first one is no pointer of the start's type, or a further one
                           of no type of the heap (the message names field and type) */
} cairn_fetch_opts;
CAIRN_API void cairn_fetch_opts_init(cairn_fetch_opts *opts, size_t struct_size);

/* Breadth first from `start` along the pointer fields of registered types, each object once. opts
 * NULL: defaults. *graph is given (free with cairn_graph_free). STALE, NOT_YET: the start.
 * SNAPSHOT_TOO_OLD. Dangling pointers are left out; of an object of more than 2 MiB the first 2 MiB
 * come, and the graph is partial. */
CAIRN_API int cairn_fetch(cairn_heap *heap, cairn_ptr start, const cairn_fetch_opts *opts,
                          cairn_graph **graph);
/* The same in a transaction: as of its time, or each object counts as read at its commit (CONFLICT
 * when it has changed since; LIMIT: more than the transaction may remember). What the transaction
 * itself has written isn't in it. NOT_YET: the start is promised, and not allocated yet. */
CAIRN_API int cairn_tx_fetch(cairn_tx *tx, cairn_ptr start, const cairn_fetch_opts *opts,
                             cairn_graph **graph);
CAIRN_API uint64_t cairn_graph_count(const cairn_graph *graph);
CAIRN_API int cairn_graph_is_partial(const cairn_graph *graph);
typedef struct cairn_node {
    cairn_object object;
    uint32_t depth;   /* pointers followed; the fewest, if opts.depth or opts.path was set */
    const void *data; /* the graph's own; object.size bytes, or the first `len` of them; at an
                         address divisible by 8 */
    size_t len;
} cairn_node;
/* In breadth-first order, number 0 is the start. INVAL beyond the end. */
CAIRN_API int cairn_graph_get(const cairn_graph *graph, uint64_t number, cairn_node *node);
CAIRN_API int cairn_graph_find(const cairn_graph *graph, cairn_ptr ptr, cairn_node *node);
CAIRN_API void cairn_graph_free(cairn_graph *graph); /* NULL is allowed */

#ifdef __cplusplus
}
#endif

#endif
