/* The check of objects: what a slot's place leads to.
 *
 * No marks are kept of which block was seen. A block names its owner (slot; chunks their number
 * too, and the undo record that has them) and a place names just one block, so two slots can't own
 * one block; and as many are owned as are in use, so none is lost. Only when the numbers differ are
 * the blocks gone through to say which. */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"

static bool header_get(const struct check *c, const struct block *b, struct object_header_wide *out,
                       uint32_t *head)
{
    const struct object_header *o = check_data(c, b->address, sizeof *o);
    if (o == NULL) {
        return false;
    }
    memset(out, 0, sizeof *out);
    *head = (o->word & OBJECT_WIDE) != 0 ? sizeof(struct object_header_wide)
                                         : sizeof(struct object_header);
    const void *all = check_data(c, b->address, *head);
    if (all == NULL) {
        return false;
    }
    memcpy(out, all, *head);
    return true;
}

/* Decodes without believing. False: the words contradict each other or the block. */
static bool object_get(const struct check *c, const struct block *b, struct checked_object *out,
                       uint64_t *slot, uint32_t *head)
{
    struct object_header_wide o;
    if (!header_get(c, b, &o, head)) {
        return false;
    }
    uint64_t word = o.narrow.word;
    uint32_t slack = (uint32_t)(word >> OBJECT_SLACK_SHIFT) & 63;
    uint32_t type = (uint32_t)(word >> OBJECT_TYPE_SHIFT) & (OBJECT_NARROW_TYPES - 1);
    *slot = word & (((uint64_t)1 << PTR_SLOT_BITS) - 1);
    out->block = *b;
    out->version = o.narrow.version;
    out->flags = (uint32_t)(word >> OBJECT_FLAGS_SHIFT);
    if ((word & OBJECT_WIDE) != 0) {
        out->size = o.size;
        out->type = o.type;
        return o.reserved == 0 && slack == 0 && type == 0;
    }
    out->type = type;
    out->size = b->bytes - *head - slack; /* of a block that is too small: a huge number */
    return b->bytes <= OBJECT_NARROW_BYTES_MAX;
}

static uint64_t stored_bytes(const struct checked_object *o)
{
    return (o->flags & OBJECT_TABLE) != 0 ? object_chunks(o->size) * sizeof(uint64_t) : o->size;
}

static bool fits(const struct checked_object *o, uint32_t head)
{
    uint64_t stored = stored_bytes(o);
    return o->size > 0 && o->size <= OBJECT_BYTES_MAX && o->block.bytes >= head &&
           stored <= o->block.bytes - head;
}

bool check_object_get(const struct check *c, uint64_t slot, struct checked_object *out)
{
    uint64_t entry = check_slot_entry(c, slot);
    enum slot_state state = slot_word_state(entry);
    struct block b;
    uint64_t named = 0;
    uint32_t head = 0;
    return (state == SLOT_LIVE || state == SLOT_DEAD || state == SLOT_PREPARED) &&
           check_block(c, slot_word_place(entry), POOL_OBJECTS, &b) &&
           object_get(c, &b, out, &named, &head) && named == slot && fits(out, head);
}

/* Bytes behind the contents of a block are zero (E13): a later growth in place shows them. */
static bool rest_is_zero(const struct check *c, const struct block *b, uint64_t used)
{
    uint64_t at = b->address + used;
    uint64_t end = b->address + b->bytes;
    while (at < end) {
        uint64_t stop = (at | (PAGE_BYTES - 1)) + 1;
        stop = stop < end ? stop : end;
        if (!check_is_zero(check_look(c, at), (size_t)(stop - at))) {
            return false;
        }
        at = stop;
    }
    return true;
}

/* Slot, number and keeper of the chunk that the block says it is. */
static bool chunk_get(const struct check *c, const struct block *b, uint64_t *slot,
                      uint64_t *number, uint64_t *keeper)
{
    const struct object_header *o = check_data(c, b->address, sizeof *o);
    if (o == NULL || o->word >> PTR_SLOT_BITS != (uint64_t)OBJECT_CHUNK
                                                     << (OBJECT_FLAGS_SHIFT - PTR_SLOT_BITS)) {
        return false;
    }
    *slot = o->word & (((uint64_t)1 << PTR_SLOT_BITS) - 1);
    *number = o->version & CHUNK_NUMBER_MASK;
    *keeper = o->version >> CHUNK_KEEPER_SHIFT;
    return true;
}

bool check_chunk(const struct check *c, uint64_t place, uint64_t slot, uint64_t number,
                 uint64_t keeper, uint64_t size)
{
    struct block b;
    uint64_t its_slot = 0;
    uint64_t its_number = 0;
    uint64_t its_keeper = 0;
    uint64_t used = sizeof(struct object_header) + size;
    return check_block(c, place, POOL_OBJECTS, &b) &&
           chunk_get(c, &b, &its_slot, &its_number, &its_keeper) && its_slot == slot &&
           its_number == number && its_keeper == keeper && used <= b.bytes &&
           rest_is_zero(c, &b, used);
}

const uint64_t *check_table(const struct check *c, const struct checked_object *o)
{
    return (o->flags & OBJECT_TABLE) == 0
               ? NULL
               : check_data(c, o->block.address + sizeof(struct object_header_wide),
                            object_chunks(o->size) * sizeof(uint64_t));
}

static void check_table_chunks(struct check *c, uint64_t slot, uint64_t generation,
                               const struct checked_object *o)
{
    const uint64_t *table = check_table(c, o);
    if (table == NULL) {
        check_damage(c, "object-chunk", "object %s: its table of chunks isn't there",
                     check_pointer(c, generation, slot).text);
        return;
    }
    uint64_t count = object_chunks(o->size);
    for (uint64_t i = 0; i < count && !c->stop; i++) {
        if (!check_chunk(c, table[i], slot, i, 0, object_chunk_bytes(o->size, i))) {
            check_damage(c, "object-chunk",
                         "object %s: chunk %" PRIu64 " of %" PRIu64
                         " isn't where its table says; its bytes from %" PRIu64 " on are lost",
                         check_pointer(c, generation, slot).text, i, count, i * OBJECT_CHUNK_BYTES);
        }
    }
    c->chunks += count;
}

/* What is wrong with the words of the header, or NULL. */
static const char *header_fault(const struct checked_object *o, uint32_t head,
                                enum slot_state state)
{
    bool table = (o->flags & OBJECT_TABLE) != 0;
    bool wide = head == sizeof(struct object_header_wide);
    if ((o->flags & ~(uint32_t)(OBJECT_TABLE | OBJECT_HISTORY | OBJECT_INTENT)) != 0) {
        return "unknown flags";
    }
    if (table != (o->size > OBJECT_CHUNK_BYTES) || (table && !wide)) {
        return "its size and its table of chunks contradict each other";
    }
    if (wide && !table && o->block.bytes <= OBJECT_NARROW_BYTES_MAX &&
        o->type < OBJECT_NARROW_TYPES) {
        return "a wide header where a narrow one belongs";
    }
    if (state == SLOT_DEAD && (o->flags & OBJECT_INTENT) != 0) {
        return "freed, but held by a transaction";
    }
    if (state == SLOT_PREPARED &&
        (o->version != 0 || (o->flags & OBJECT_HISTORY) != 0 || (o->flags & OBJECT_INTENT) == 0)) {
        return "not born yet, but it has a past, or nobody holds it";
    }
    if (state == SLOT_SPARE && (wide || o->flags != 0)) {
        return "freed, and kept for the next object, but not as a small one";
    }
    if (state == SLOT_DEAD && (o->flags & OBJECT_HISTORY) == 0) {
        return "freed, but without the history that would reclaim it";
    }
    return NULL;
}

/* Most objects: small, alive, and nothing wrong. False: the long way says. */
static bool is_plain(struct check *c, uint64_t slot, uint64_t entry)
{
    uint32_t bytes = 0;
    uint64_t address = check_block_near(c, slot_word_place(entry), &bytes);
    if (address == 0 || bytes > OBJECT_NARROW_BYTES_MAX || slot_word_state(entry) != SLOT_LIVE) {
        return false;
    }
    const struct object_header *o = (const struct object_header *)arena_at(&c->h->arena, address);
    uint64_t free_bits = (uint64_t)OBJECT_SLACK_MAX << OBJECT_SLACK_SHIFT |
                         (uint64_t)(OBJECT_NARROW_TYPES - 1) << OBJECT_TYPE_SHIFT |
                         (uint64_t)OBJECT_HISTORY << OBJECT_FLAGS_SHIFT;
    uint32_t slack = (uint32_t)(o->word >> OBJECT_SLACK_SHIFT) & OBJECT_SLACK_MAX;
    if ((o->word & ~free_bits) != slot || sizeof *o + slack >= bytes ||
        !check_is_zero((const uint8_t *)o + bytes - slack, slack)) {
        return false;
    }
    c->histories += (o->word >> OBJECT_FLAGS_SHIFT & OBJECT_HISTORY) != 0;
    c->live++;
    c->live_bytes += bytes - sizeof *o - slack;
    return true;
}

void check_object(struct check *c, uint64_t slot, uint64_t entry)
{
    if (is_plain(c, slot, entry)) {
        return;
    }
    uint64_t generation = slot_word_generation(entry);
    uint64_t place = slot_word_place(entry);
    enum slot_state state = slot_word_state(entry);
    struct block b;
    struct checked_object o;
    uint64_t named = 0;
    uint32_t head = 0;
    if (!check_block(c, place, POOL_OBJECTS, &b)) {
        check_damage(c, "slot-place",
                     "object %s: its place (offset %" PRIu64
                     " of the data) is no block in use; the object is lost",
                     check_pointer(c, generation, slot).text, place == 0 ? 0 : place_offset(place));
        return;
    }
    if (!object_get(c, &b, &o, &named, &head) || named != slot || !fits(&o, head)) {
        check_damage(c, "object-header",
                     "object %s: the block at offset %" PRIu64 " (page %" PRIu64
                     ") isn't its, or its header is damaged; the object is lost",
                     check_pointer(c, generation, slot).text, place_offset(place),
                     b.address >> PAGE_SHIFT);
        return;
    }
    const char *fault = header_fault(&o, head, state);
    if (fault != NULL) {
        check_damage(c, "object-header", "object %s (page %" PRIu64 "): %s",
                     check_pointer(c, generation, slot).text, b.address >> PAGE_SHIFT, fault);
        return;
    }
    if (!rest_is_zero(c, &b, head + stored_bytes(&o))) {
        check_damage(c, "object-slack",
                     "object %s (page %" PRIu64 "): bytes behind its end aren't zero; growing it "
                     "would show them",
                     check_pointer(c, generation, slot).text, b.address >> PAGE_SHIFT);
    }
    if ((o.flags & OBJECT_TABLE) != 0) {
        check_table_chunks(c, slot, generation, &o);
    }
    c->histories += (o.flags & OBJECT_HISTORY) != 0;
    c->held += (o.flags & OBJECT_INTENT) != 0;
    if (state == SLOT_PREPARED || state == SLOT_SPARE) {
        *(state == SLOT_SPARE ? &c->spares : &c->unborn) += 1;
        return;
    }
    *(state == SLOT_DEAD ? &c->dead : &c->live) += 1;
    *(state == SLOT_DEAD ? &c->dead_bytes : &c->live_bytes) += o.size;
}

/* ---- blocks without an owner ---- */

/* Does the table, or the undo record that it names, have this chunk? */
static bool chunk_is_owned(const struct check *c, uint64_t place, uint64_t slot, uint64_t number,
                           uint64_t keeper)
{
    struct checked_object owner;
    if (keeper != 0) {
        return check_undo_has_chunk(c, keeper, slot, place);
    }
    if (!check_object_get(c, slot, &owner)) {
        return false;
    }
    const uint64_t *table = check_table(c, &owner);
    return table != NULL && number < object_chunks(owner.size) && table[number] == place;
}

static void object_block(struct check *c, const struct block *b)
{
    struct checked_object o;
    uint64_t slot = 0;
    uint64_t number = 0;
    uint64_t keeper = 0;
    uint32_t head = 0;
    bool owned = false;
    if (chunk_get(c, b, &slot, &number, &keeper)) {
        owned = chunk_is_owned(c, b->place, slot, number, keeper);
    } else if (object_get(c, b, &o, &slot, &head)) {
        uint64_t entry = check_slot_entry(c, slot);
        enum slot_state state = slot_word_state(entry);
        owned = (state == SLOT_LIVE || state == SLOT_DEAD || state == SLOT_PREPARED ||
                 state == SLOT_SPARE) &&
                slot_word_place(entry) == b->place;
    }
    if (!owned) {
        check_damage(c, "block-lost",
                     "block at offset %" PRIu64 " of the data (page %" PRIu64 "), %" PRIu64
                     " bytes: in use, but no object has it; the space is lost",
                     place_offset(b->place), b->address >> PAGE_SHIFT, b->bytes);
    }
}

void check_lost_objects(struct check *c)
{
    check_each_block(c, POOL_OBJECTS, object_block);
}
