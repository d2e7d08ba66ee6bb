/* Chunks: the parts of an object above 1 MiB, a block each, which its table names. */
#include "alloc/engine.h"

uint64_t object_chunk_at(const struct heap *h, const struct object_view *o, uint64_t chunk)
{
    assert((o->flags & OBJECT_TABLE) != 0);
    return load_u64(arena_at(&h->arena, o->payload + chunk * sizeof(uint64_t)));
}

void chunk_set_header(struct heap *h, uint64_t place, uint64_t slot, uint64_t number)
{
    struct object_header *head = arena_write(&h->arena, block_address(h, place), sizeof *head);
    head->version = number;
    head->word = slot | (uint64_t)OBJECT_CHUNK << OBJECT_FLAGS_SHIFT;
}

int chunk_build(struct heap *h, uint64_t slot, uint64_t number, uint64_t bytes, uint64_t *place)
{
    int rv = block_alloc(h, POOL_OBJECTS, sizeof(struct object_header) + bytes, place);
    if (rv == 0) {
        chunk_set_header(h, *place, slot, number);
        header_edit(h)->chunk_count++;
        h->work++;
    }
    return rv;
}

void chunk_drop(struct heap *h, uint64_t place)
{
    block_free(h, POOL_OBJECTS, place);
    header_edit(h)->chunk_count--;
    h->work++;
}

void chunk_set_keeper(struct heap *h, uint64_t place, uint64_t keeper)
{
    struct object_header *head = arena_write(&h->arena, block_address(h, place), sizeof *head);
    head->version = (head->version & CHUNK_NUMBER_MASK) | keeper << CHUNK_KEEPER_SHIFT;
}

void chunk_moved(struct heap *h, uint64_t from, uint64_t to)
{
    const struct object_header *chunk = arena_at(&h->arena, block_address(h, to));
    uint64_t number = chunk->version & CHUNK_NUMBER_MASK;
    uint64_t keeper = chunk->version >> CHUNK_KEEPER_SHIFT;
    uint64_t address;
    if (keeper != 0) {
        address = undo_chunk_address(h, keeper, number);
    } else {
        struct object_view o;
        object_decode(h, slot_word_place(slot_get(h, chunk->word & OBJECT_SLOT_MASK)), &o);
        assert((o.flags & OBJECT_TABLE) != 0);
        assert(number < object_chunks(o.size));
        address = o.payload + number * 8;
    }
    assert(load_u64(arena_at(&h->arena, address)) == from);
    store_u64(arena_write(&h->arena, address, 8), to);
}
