/* Cairn: following pointers on the server, and being told of changes. */
#ifndef CAIRN_GRAPH_H
#define CAIRN_GRAPH_H

#include <cairn/tx.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- graph fetch: one request per shard visited instead of one per hop ------------------------
 */

typedef struct cairn_graph cairn_graph;
typedef struct cairn_fetch_opts {
    size_t struct_size; /* set by cairn_fetch_opts_init() */
    uint32_t depth;     /* pointers to follow from the start; default UINT32_MAX */
    uint64_t bytes_max; /* of all objects; default 64 MiB. Reached: the graph says it is partial */
    uint64_t at;        /* a version; default 0: newest, each answer of a shard for itself */
    const char *path;   /* names of pointer fields, dot-separated: one per hop, the last one for
                           all further ones; default NULL: all pointer fields. INVAL: a name is
                           empty */
} cairn_fetch_opts;
CAIRN_API void cairn_fetch_opts_init(cairn_fetch_opts *opts, size_t struct_size);

/* Breadth first from `start` along the pointer fields of registered types, each object once. *graph
 * is given (free with cairn_graph_free). STALE: the start. SNAPSHOT_TOO_OLD. Dangling pointers are
 * left out; of an object of more than 2 MiB the first 2 MiB come, and the graph is partial. */
CAIRN_API int cairn_fetch(cairn_heap *heap, cairn_ptr start, const cairn_fetch_opts *opts,
                          cairn_graph **graph);
/* The same in a transaction: at its time, or validated at its commit; its own writes are not in it.
 */
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

/* ---- watch ------------------------------------------------------------------------------------
 */

typedef struct cairn_watch cairn_watch;
enum cairn_watch_what {
    CAIRN_WATCH_OBJECT = 1,
    CAIRN_WATCH_ROOT = 2,
    CAIRN_WATCH_TYPE = 3,
    CAIRN_WATCH_ALL = 4
};
#define CAIRN_CHANGE_ROOT 5 /* besides enum cairn_change_kind */
typedef struct cairn_event {
    uint32_t shard;
    uint32_t kind;    /* enum cairn_change_kind, or CAIRN_CHANGE_ROOT */
    uint64_t token;   /* of this shard */
    uint64_t version; /* of the change: read at it to see what it left behind */
    uint64_t before;
    cairn_ptr ptr; /* the object; of a root: where it points now */
    uint64_t offset, size;
    uint32_t len, type;
    const char *name; /* of a root, else NULL; valid until the next call */
} cairn_event;

/* Needs a heap that keeps history: UNSUPPORTED. Events come in the order in which each shard
 * applied them, none twice, none left out; from `version` on (0: from now). ptr, name, type: by
 * `what`. */
CAIRN_API int cairn_watch_new(cairn_heap *heap, uint32_t what, cairn_ptr ptr, const char *name,
                              uint32_t type, uint64_t version, cairn_watch **watch);
/* From where another watch (of the same kind, in whatever process) stood. */
CAIRN_API int cairn_watch_resume(cairn_heap *heap, uint32_t what, cairn_ptr ptr, const char *name,
                                 uint32_t type, const char *token, cairn_watch **watch);
/* Waits for the next event. TIMEOUT; SNAPSHOT_TOO_OLD: events are gone, read what there is and
 * begin anew. */
CAIRN_API int cairn_watch_next(cairn_watch *watch, uint32_t timeout_ms, cairn_event *event);
/* Where it stands, behind the last event that cairn_watch_next() gave: one line of text, given
 * (free with cairn_json_free). */
CAIRN_API int cairn_watch_token(const cairn_watch *watch, char **token);
CAIRN_API void cairn_watch_free(cairn_watch *watch); /* NULL is allowed */

#ifdef __cplusplus
}
#endif

#endif
