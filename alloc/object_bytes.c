/* Bytes of objects: reading and writing them, whether they are in one piece or in chunks. */
#include <string.h>

#include "alloc/small.h"

/* Address of the byte at `offset` < size, and how many are contiguous from there on. */
static uint64_t object_part(const struct heap *h, const struct object_view *o, uint64_t offset,
                            uint64_t *address)
{
    assert(offset < o->size);
    if ((o->flags & OBJECT_TABLE) == 0) {
        *address = o->payload + offset;
        return o->size - offset;
    }
    uint64_t chunk = offset / OBJECT_CHUNK_BYTES;
    uint64_t inside = offset % OBJECT_CHUNK_BYTES;
    *address =
        block_address(h, object_chunk_at(h, o, chunk)) + sizeof(struct object_header) + inside;
    return object_chunk_bytes(o->size, chunk) - inside;
}

void object_get_bytes(const struct heap *h, const struct object_view *o, uint64_t offset,
                      void *data, uint64_t len)
{
    uint8_t *to = data;
    while (len > 0) {
        uint64_t address = 0;
        uint64_t part = object_part(h, o, offset, &address);
        part = part < len ? part : len;
        memcpy(to, heap_bytes(h, address, part), part);
        to += part;
        offset += part;
        len -= part;
    }
}

void object_put_bytes(struct heap *h, const struct object_view *o, uint64_t offset,
                      const void *data, uint64_t len)
{
    const uint8_t *from = data;
    while (len > 0) {
        uint64_t address = 0;
        uint64_t part = object_part(h, o, offset, &address);
        part = part < len ? part : len;
        memcpy(arena_overwrite(&h->arena, address, part), from, part);
        from += part;
        offset += part;
        len -= part;
    }
}

/* ---- for users ---- */

static int find_range(const struct heap *h, uint64_t ptr, uint64_t offset, uint64_t len,
                      uint64_t *place, struct object_view *o)
{
    int rv = object_find(h, ptr, false, place);
    if (rv != 0) {
        return rv;
    }
    object_decode(h, *place, o);
    return offset > o->size || len > o->size - offset ? ERR_RANGE : 0;
}

static __attribute__((noinline)) int write_any(struct heap *heap, uint64_t version, uint64_t ptr,
                                               uint64_t offset, struct slice data)
{
    uint64_t place = 0;
    struct object_view o;
    int rv = find_range(heap, ptr, offset, data.len, &place, &o);
    if (rv == 0 && undo_is_kept(heap, version)) {
        rv = undo_push(heap, version, place, UNDO_WRITE, offset, data.len);
    }
    if (rv != 0) {
        return rv;
    }
    object_set_version(heap, place, version);
    object_put_bytes(heap, &o, offset, data.data, data.len);
    return 0;
}

/* Size and head of an object whose bytes are behind its header. False: they aren't. */
static inline bool object_is_one_piece(const struct object_header *o, uint64_t place,
                                       uint64_t *size, uint64_t *head)
{
    if (__builtin_expect((o->word & (uint64_t)OBJECT_TABLE << OBJECT_FLAGS_SHIFT) != 0, 0)) {
        return false;
    }
    if ((o->word & OBJECT_WIDE) != 0) {
        *head = sizeof(struct object_header_wide);
        *size = ((const struct object_header_wide *)o)->size;
        return true;
    }
    *head = SMALL_HEAD;
    *size = class_bytes(place_class(place)) - SMALL_HEAD -
            (o->word >> OBJECT_SLACK_SHIFT & OBJECT_SLACK_MAX);
    return true;
}

int heap_write(struct heap *heap, uint64_t version, uint64_t ptr, uint64_t offset,
               struct slice data)
{
    uint64_t size = 0;
    uint64_t head = 0;
    if (!heap_is_plain(heap) || ptr_shard(ptr) != header(heap)->shard || data.len == 0) {
        return write_any(heap, version, ptr, offset, data);
    }
    struct slot_at at = slot_locate(heap, ptr_slot(ptr));
    if (__builtin_expect(at.page == NULL, 0) ||
        !slot_word_is(*at.entry, ptr_generation(ptr), SLOT_LIVE)) {
        return write_any(heap, version, ptr, offset, data);
    }
    uint64_t place = slot_word_place(*at.entry);
    uint64_t address = block_address(heap, place);
    const struct object_header *o = (const struct object_header *)arena_at(&heap->arena, address);
    if (!object_is_one_piece(o, place, &size, &head)) {
        return write_any(heap, version, ptr, offset, data);
    }
    if (offset > size || data.len > size - offset) {
        return ERR_RANGE;
    }
    object_set_version(heap, place, version);
    uint8_t *to = arena_overwrite(&heap->arena, address + head + offset, data.len);
    if (data.len == sizeof(uint64_t)) { /* a pointer, as most writes are: no call */
        memcpy(to, data.data, sizeof(uint64_t));
    } else {
        memcpy(to, data.data, data.len);
    }
    return 0;
}

int heap_read(const struct heap *heap, uint64_t ptr, uint64_t offset, uint64_t len,
              const uint8_t **bytes, uint64_t *part)
{
    *bytes = NULL;
    *part = 0;
    uint64_t place = 0;
    struct object_view o;
    int rv = find_range(heap, ptr, offset, len, &place, &o);
    if (rv != 0) {
        return rv;
    }
    uint64_t address = o.payload;
    if (len > 0) {
        uint64_t most = object_part(heap, &o, offset, &address);
        *part = most < len ? most : len;
    }
    *bytes = heap_bytes(heap, address, *part);
    return heap_load(heap, address, *part);
}

int heap_copy(const struct heap *heap, uint64_t ptr, uint64_t offset, void *data, uint64_t len)
{
    uint64_t place = 0;
    struct object_view o;
    int rv = find_range(heap, ptr, offset, len, &place, &o);
    if (rv == 0) {
        object_get_bytes(heap, &o, offset, data, len);
        rv = heap->arena.damage;
    }
    return rv;
}
