/* Following pointers: objects of this shard, and what the pointer fields of their registered types
 * lead to, breadth first, at one version (FETCH, for nodes and the embedded mode alike). */
#ifndef CAIRN_ALLOC_GRAPH_H
#define CAIRN_ALLOC_GRAPH_H

#include "alloc/txn.h"

#define GRAPH_ENTRY_BYTES 12u /* of starts, known and frontier: pointer u64, depth u32 */
#define GRAPH_HEAD_BYTES  36u /* of an object in the answer, in front of its bytes */

struct graph_query {
    uint64_t at;        /* a version; 0: newest */
    uint32_t depth;     /* edges from a start, at most */
    uint32_t bytes_max; /* of the objects' bytes; no more than FETCH_BYTES_MAX counts */
    struct slice path; /* names of fields, dot-separated, one per edge, the last one for all further
                          ones; empty: all pointer fields */
    struct slice starts;
    struct slice known; /* not fetched again, unless fewer edges lead there */
};

/* Objects in order of depth, each once, by the fewest edges; those that don't exist (then) are left
 * out, but (newest) what is promised and not allocated yet comes with version 0. What is on other
 * shards, or found no room in the answer, is in the frontier. The first object may be cut off
 * (length < size); nothing behind the cut is followed.
 *
 * objects, frontier: appended, as in FETCH_RESULT. *at: the version of all of it.
 *
 * ERR_PROTOCOL; ERR_INVAL: no room for a byte, a null pointer, or a path with an empty name;
 * ERR_SNAPSHOT_TOO_OLD; ERR_NOMEM; ERR_TX_UNDECIDED: an object on the way is about to change, and
 * *by says by whom. What was appended then is no answer. Bounded: FETCH_OBJECTS_MAX objects. */
int graph_fetch(const struct heap *heap, const struct graph_query *query, struct buf *objects,
                struct buf *frontier, uint64_t *at, struct txn_name *by);

#endif
