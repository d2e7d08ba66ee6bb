/* Does a fetch's path name fields that there are? Otherwise a misspelt name would be a graph that
 * ends there, without a word.
 *
 * The first name must be a pointer of the start's type. Behind it a path may come by objects of
 * several types, of which some end it: there a name must be a pointer of any type of the heap. Only
 * where nothing was followed is there anything to ask, and what was found once is remembered with
 * the heap's handle: types only grow. */
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "client/graph_path.h"

struct question {
    struct cairn_heap *heap;
    const cairn_object *first; /* of those at the name's depth */
    uint32_t type_wanted;      /* its own, or CAIRN_TYPE_ANY */
    struct slice name;
    bool found;
    char type[64]; /* the name of the first one's */
};

static uint64_t mark_of(uint32_t type, struct slice name)
{
    return hash64(type, name.data, name.len) | 1;
}

static _Atomic uint64_t *place_of(struct cairn_heap *heap, uint64_t mark)
{
    return &heap->fields[mark >> 32 & (SDK_FIELDS - 1)];
}

static bool is_remembered(const struct question *q)
{
    uint64_t mark = mark_of(q->type_wanted, q->name);
    return atomic_load_explicit(place_of(q->heap, mark), memory_order_relaxed) == mark;
}

static bool has_field(const cairn_type *type, struct slice name)
{
    for (uint32_t i = 0; i < type->field_count; i++) {
        const cairn_field *f = &type->fields[i];
        if (f->kind == CAIRN_FIELD_PTR && slice_equals(name, slice_of(f->name, strlen(f->name)))) {
            return true;
        }
    }
    return false;
}

static int look(void *arg, const cairn_type *type, uint64_t version)
{
    struct question *q = arg;
    (void)version;
    if (type->number == q->first->type) {
        size_t len = strnlen(type->name, sizeof q->type - 1);
        memcpy(q->type, type->name, len);
        q->type[len] = '\0';
    }
    bool wanted = q->type_wanted == CAIRN_TYPE_ANY || q->type_wanted == type->number;
    if (wanted && has_field(type, q->name)) {
        uint64_t mark = mark_of(q->type_wanted, q->name);
        atomic_store_explicit(place_of(q->heap, mark), mark, memory_order_relaxed);
        q->found = true;
    }
    return q->found;
}

static int no_field(const struct question *q)
{
    char ptr[CAIRN_PTR_TEXT_BYTES];
    const cairn_object *first = q->first;
    cairn_ptr_format(first->ptr, ptr, sizeof ptr);
    if (q->type[0] == '\0') {
        return sdk__fail(CAIRN_E_INVAL,
                         "the path names the field '%.*s', but the type of object %s (%u%s) isn't "
                         "registered: register it with its fields",
                         (int)q->name.len, (const char *)q->name.data, ptr, first->type,
                         first->type == 0 ? ", untyped" : "");
    }
    return sdk__fail(CAIRN_E_INVAL,
                     "the path names the field '%.*s', but type %s of object %s has no pointer of "
                     "that name: name one of its pointers",
                     (int)q->name.len, (const char *)q->name.data, q->type, ptr);
}

/* How many nodes stand at that depth, from `from` on. */
static uint64_t count_at(const cairn_node *nodes, uint64_t count, uint64_t from, uint32_t depth)
{
    uint64_t to = from;
    while (to < count && nodes[to].depth == depth) {
        to++;
    }
    return to - from;
}

int sdk__path_check(struct cairn_heap *heap, const char *path, uint32_t depth_max,
                    const cairn_node *nodes, uint64_t count)
{
    uint64_t from = 0;
    uint32_t depth = 0;
    assert(count > 0 && nodes[0].depth == 0); /* the start */
    for (const char *name = path; depth < depth_max; depth++) {
        size_t len = strcspn(name, ".");
        struct question q = {.heap = heap,
                             .first = &nodes[from].object,
                             .type_wanted = depth == 0 ? nodes[0].object.type : CAIRN_TYPE_ANY,
                             .name = slice_of(name, len)};
        from += count_at(nodes, count, from, depth);
        bool followed = from < count; /* to the next depth */
        if (!followed && !is_remembered(&q)) {
            int rv = cairn_type_list(heap, look, &q);
            return rv != 0 || q.found ? rv : no_field(&q);
        }
        if (!followed || name[len] == '\0') {
            break;
        }
        name += len + 1;
    }
    return 0;
}
