/* FETCH: a graph of one shard's objects (alloc/graph.h), as an answer. */
#include "alloc/graph.h"
#include "node/internal.h"

int fetch__answer(struct request *request, const struct heap *heap)
{
    struct msg_fetch m;
    struct buf objects = {0};
    struct buf frontier = {0};
    struct msg_fetch_result out = {0};
    int rv = message_decode_fetch(request->body, &m);
    if (rv == 0) {
        struct graph_query query = {.at = m.at,
                                    .depth = m.depth,
                                    .bytes_max = m.bytes_max,
                                    .path = m.path,
                                    .starts = m.starts,
                                    .known = m.known};
        rv = graph_fetch(heap, &query, &objects, &frontier, &out.at, &request->by);
    }
    if (rv == 0) {
        out.objects = slice_of(objects.data, objects.len);
        out.frontier = slice_of(frontier.data, frontier.len);
        buf_clear(&request->node->scratch);
        rv = message_encode_fetch_result(&out, &request->node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_FETCH_RESULT);
    }
    buf_close(&objects);
    buf_close(&frontier);
    return rv;
}
