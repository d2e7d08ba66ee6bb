/* What has changed, in log order: the queue of undo records is the log of changes, in the arena,
 * the same on every replica and after a restart. */
#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn.h"

uint64_t heap_order(const struct heap *heap)
{
    return header(heap)->last_order;
}

/* The object's size behind the change that a record undoes. */
static uint64_t size_after(const struct heap *h, const struct undo_record *r,
                           const struct object_view *o)
{
    if (r->kind == UNDO_FREE) {
        return 0;
    }
    return r->newer != 0 ? undo_get(h, r->newer)->size : o->size;
}

static int describe_load(const struct heap *h, const struct undo_record *r)
{
    int rv = r->kind == UNDO_ROOT ? 0 : slot_load(h, r->slot);
    return rv == 0 && r->kind != UNDO_ROOT ? object_load(h, slot_word_place(slot_get(h, r->slot)))
                                           : rv;
}

static void describe(const struct heap *h, const struct undo_record *r, struct heap_event *out)
{
    memset(out, 0, sizeof *out);
    out->order = r->order;
    out->version = r->at;
    out->before = r->before;
    out->kind = r->kind;
    if (r->kind == UNDO_ROOT) {
        out->ptr = r->offset;
        out->name = undo_root_name(r);
        return;
    }
    struct object_view o;
    uint64_t word = slot_get(h, r->slot);
    object_decode(h, slot_word_place(word), &o);
    out->ptr = ptr_make(header(h)->shard, slot_word_generation(word), r->slot);
    out->offset = r->offset;
    out->size = size_after(h, r, &o);
    out->len = r->kind == UNDO_RESIZE ? (uint32_t)(r->size - r->offset) : r->len;
    out->type = o.type;
}

int heap_events(const struct heap *heap, uint64_t order, struct heap_event *out, size_t max,
                size_t *count)
{
    const struct heap_header *hd = header(heap);
    *count = 0;
    if (!history_is_kept(heap)) {
        return ERR_UNSUPPORTED;
    }
    if (order < hd->history_from) {
        return ERR_SNAPSHOT_TOO_OLD;
    }
    uint64_t first = 0;
    for (uint64_t i = hd->undo_tail; i != 0 && undo_get(heap, i)->order > order;) {
        first = i;
        i = undo_get(heap, i)->prev;
    }
    for (; first != 0 && *count < max; first = undo_get(heap, first)->next) {
        int rv = describe_load(heap, undo_get(heap, first));
        if (rv != 0) {
            return rv;
        }
        describe(heap, undo_get(heap, first), &out[*count]);
        *count += 1;
    }
    return 0;
}
