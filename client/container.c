/* Is it the container that the caller takes it for? Objects keep their type for life, and a pointer
 * never becomes another object's: a heap's handle remembers whom it has asked about, so that only
 * the first call on a container costs a request more. */
#include <stdio.h>

#include "base/assert.h"
#include "cairn/list.h"
#include "client/sdk.h"

static const char *name_of(uint32_t type)
{
    switch (type) {
    case 0:
        return "an untyped object";
    case CAIRN_TYPE_LIST:
        return "a list";
    case CAIRN_TYPE_LIST_NODE:
        return "an element of a list";
    case CAIRN_TYPE_HASH:
        return "a hash map";
    case CAIRN_TYPE_HASH_BUCKETS:
    case CAIRN_TYPE_HASH_NODE:
        return "a part of a hash map";
    case CAIRN_TYPE_BTREE:
        return "a B-tree";
    case CAIRN_TYPE_BTREE_NODE:
        return "a part of a B-tree";
    default:
        return "an object of another type";
    }
}

int sdk__container_check(cairn_heap *heap, cairn_ptr ptr, uint32_t type)
{
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    uint32_t kind = type - CAIRN_TYPE_LIST;
    assert(kind < SDK_CONTAINER_TYPES);
    uint64_t hash = ptr.word * UINT64_C(0x9E3779B97F4A7C15) >> 32;
    _Atomic uint64_t *known = &heap->containers[kind][hash % SDK_CONTAINERS];
    if (atomic_load_explicit(known, memory_order_relaxed) == ptr.word && ptr.word != 0) {
        return 0;
    }
    cairn_object object;
    int rv = cairn_stat(heap, ptr, &object);
    if (rv == 0 && object.type != type) {
        char text[CAIRN_PTR_TEXT_BYTES];
        cairn_ptr_format(ptr, text, sizeof text);
        return sdk__fail(CAIRN_E_INVAL,
                         "%s is %s (type %u), not %s (type %u): pass the pointer of one", text,
                         name_of(object.type), object.type, name_of(type), type);
    }
    if (rv == 0) {
        atomic_store_explicit(known, ptr.word, memory_order_relaxed);
    }
    return rv;
}
