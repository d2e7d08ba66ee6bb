/* Paths of graphs (graph.c). Nobody outside client/ includes this. */
#ifndef CAIRN_CLIENT_GRAPH_PATH_H
#define CAIRN_CLIENT_GRAPH_PATH_H

#include "cairn/graph.h"
#include "client/sdk.h"

/* Of a walk that is over: nodes in breadth-first order, none left out. INVAL: nothing was followed
 * for a name, and it is no pointer of the start's type, or, behind the first, of no type of the
 * heap; the message names it, and the type of what was found there. Else what asking for the types
 * has said. */
int sdk__path_check(struct cairn_heap *heap, const char *path, uint32_t depth_max,
                    const cairn_node *nodes, uint64_t count);

#endif
