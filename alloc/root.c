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
    int rv = heap_root_get(heap, name, out);
    if (at == 0) {
        return rv;
    }
    enum history_known known = history_known(heap, at);
    uint64_t changed = rv == 0 ? out->version : header(heap)->directory;
    if (known == HISTORY_GONE || (known == HISTORY_UNCHANGED && changed > at)) {
        return ERR_SNAPSHOT_TOO_OLD;
    }
    for (uint64_t place = undo_newest_root(heap, name); place != 0;) {
        const struct undo_record *r = undo_get(heap, place);
        if (r->at <= at) {
            break;
        }
        out->ptr = r->size;
        out->version = r->before;
        place = r->older;
    }
    return out->ptr != 0 ? 0 : ERR_NOTFOUND;
}

uint64_t root_changed_at(const struct heap *h, struct slice name)
{
    uint64_t place = undo_newest_root(h, name);
    return place != 0 ? undo_get(h, place)->at : 0;
}

static int name_order(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

/* The next name that is there, or (past) that a record of history has. */
static bool next_name(const struct heap *h, bool past, struct slice after, struct slice *name)
{
    uint8_t key[1 + ROOT_NAME_BYTES_MAX];
    struct slice found;
    struct slice value;
    bool any = heap_map_next(h, HEAP_MAP_ROOTS, after, name, &value) == 0;
    if (!past) {
        return any;
    }
    key[0] = 'h';
    if (after.len > 0) {
        memcpy(key + 1, after.data, after.len);
    }
    if (heap_map_next(h, HEAP_MAP_TX, slice_of(key, 1 + after.len), &found, &value) != 0 ||
        found.data[0] != 'h') {
        return any;
    }
    found = slice_of(found.data + 1, found.len - 1);
    if (!any || name_order(found, *name) < 0) {
        *name = found;
    }
    return true;
}

int heap_root_next_at(const struct heap *heap, uint64_t at, struct slice after, struct slice *name,
                      struct root_record *out)
{
    memset(out, 0, sizeof *out);
    if (after.len > ROOT_NAME_BYTES_MAX) {
        return ERR_INVAL;
    }
    enum history_known known = at == 0 ? HISTORY_KEPT : history_known(heap, at);
    if (known == HISTORY_GONE || (known == HISTORY_UNCHANGED && header(heap)->directory > at)) {
        return ERR_SNAPSHOT_TOO_OLD;
    }
    int rv = ERR_NOTFOUND;
    while (rv == ERR_NOTFOUND && next_name(heap, at != 0, after, name)) {
        rv = heap_root_get_at(heap, at, *name, out);
        after = *name;
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

/* History has what the name led to. */
static int record_change(struct heap *h, uint64_t version, struct slice name,
                         const struct root_record *now, uint64_t ptr, bool must)
{
    if (!undo_is_kept(h, version)) {
        history_skips(h);
        return 0;
    }
    int rv = undo_push_root(h, version, name, now->version, now->ptr, ptr);
    if (rv == ERR_NOSPACE && must) {
        history_gives_way(h);
        rv = 0;
    }
    return rv;
}

int root_change(struct heap *h, uint64_t version, struct slice name, uint64_t ptr, bool must)
{
    struct root_record now;
    struct slice value;
    bool exists = heap_root_get(h, name, &now) == 0;
    bool reserved = !exists && heap_map_get(h, HEAP_MAP_ROOTS, name, &value) == 0;
    if (ptr == 0 && !exists) {
        return 0;
    }
    int rv = !exists && !reserved ? root_reserve(h, name) : 0;
    if (rv != 0) {
        return rv;
    }
    rv = record_change(h, version, name, &now, ptr, must);
    if (rv != 0) {
        if (!exists && !reserved) {
            root_release(h, name);
        }
        return rv;
    }
    rv = ptr != 0 ? root_put(h, name, ptr, version) : heap_map_delete(h, HEAP_MAP_ROOTS, name);
    assert(rv == 0); /* in place */
    header_edit(h)->roots_reserved -= !exists;
    if (exists != (ptr != 0)) {
        directory_moved(h, version);
    }
    return 0;
}
