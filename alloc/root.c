/* Roots: names that lead to objects. A name that a prepared transaction is about to give has a
 * placeholder, a record that points nowhere, so that giving it can't fail; nobody sees it. */
#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/txn.h"

bool heap_root_name_is_valid(struct slice name)
{
    return name.len > 0 && name.len <= ROOT_NAME_BYTES_MAX &&
           memchr(name.data, 0, name.len) == NULL;
}

int heap_root_get(const struct heap *heap, struct slice name, struct root_record *out)
{
    struct slice value;
    memset(out, 0, sizeof *out);
    int rv = heap_map_get(heap, HEAP_MAP_ROOTS, name, &value);
    if (rv != 0) {
        return rv;
    }
    assert(value.len == sizeof *out);
    memcpy(out, value.data, sizeof *out);
    return out->ptr != 0 ? 0 : ERR_NOTFOUND;
}

int heap_root_get_at(const struct heap *heap, uint64_t at, struct slice name,
                     struct root_record *out)
{
    return at == 0 ? heap_root_get(heap, name, out) : ERR_UNSUPPORTED;
}

int heap_root_next_at(const struct heap *heap, uint64_t at, struct slice after, struct slice *name,
                      struct root_record *out)
{
    struct slice value;
    memset(out, 0, sizeof *out);
    if (at != 0) {
        return ERR_UNSUPPORTED;
    }
    int rv = heap_map_next(heap, HEAP_MAP_ROOTS, after, name, &value);
    while (rv == 0) {
        memcpy(out, value.data, sizeof *out);
        if (out->ptr != 0) {
            return 0;
        }
        rv = heap_map_next(heap, HEAP_MAP_ROOTS, *name, name, &value);
    }
    return rv;
}

uint64_t heap_directory_version(const struct heap *heap)
{
    return header(heap)->directory;
}

static int root_put(struct heap *h, struct slice name, uint64_t ptr, uint64_t version)
{
    struct root_record record = {.ptr = ptr, .version = version};
    return heap_map_put(h, HEAP_MAP_ROOTS, name, slice_of(&record, sizeof record));
}

/* A name came or went. */
static void directory_moved(struct heap *h, uint64_t version)
{
    struct heap_header *hd = header_edit(h);
    hd->directory = version > hd->directory ? version : hd->directory + 1;
}

int root_reserve(struct heap *h, struct slice name)
{
    int rv = root_put(h, name, 0, 0);
    if (rv == 0) {
        header_edit(h)->roots_reserved++;
    }
    return rv;
}

void root_release(struct heap *h, struct slice name)
{
    int rv = heap_map_delete(h, HEAP_MAP_ROOTS, name);
    assert(rv == 0);
    header_edit(h)->roots_reserved--;
}

int root_change(struct heap *h, uint64_t version, struct slice name, uint64_t ptr)
{
    struct root_record now;
    bool exists = heap_root_get(h, name, &now) == 0;
    struct slice value;
    bool reserved = !exists && heap_map_get(h, HEAP_MAP_ROOTS, name, &value) == 0;
    if (ptr == 0 && !exists) {
        return 0;
    }
    int rv = ptr != 0 ? root_put(h, name, ptr, version) : heap_map_delete(h, HEAP_MAP_ROOTS, name);
    if (rv != 0) {
        return rv;
    }
    header_edit(h)->roots_reserved -= reserved;
    if (exists != (ptr != 0)) {
        directory_moved(h, version);
    }
    return 0;
}
