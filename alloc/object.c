/* Objects: a block with a header, or, above 1 MiB, a table of chunks (chunk.c). What is behind an
 * object in its block is zero, so that growing in place has nothing to clear. */
#include <string.h>

#include "alloc/small.h"

static inline void header_put(void *at, uint64_t block, const struct object_shape *shape,
                              const struct object_view *o)
{
    struct object_header *head = at;
    uint64_t flags =
        (o->flags & (OBJECT_HISTORY | OBJECT_INTENT)) | (shape->table ? OBJECT_TABLE : 0);
    uint64_t word = o->slot | flags << OBJECT_FLAGS_SHIFT;
    head->version = o->version;
    if (shape->head == sizeof *head) {
        uint64_t slack = block - shape->bytes;
        assert(slack <= OBJECT_SLACK_MAX);
        assert(o->type < OBJECT_NARROW_TYPES);
        head->word = word | slack << OBJECT_SLACK_SHIFT | (uint64_t)o->type << OBJECT_TYPE_SHIFT;
        return;
    }
    struct object_header_wide *wide = at;
    head->word = word | OBJECT_WIDE;
    wide->size = (uint32_t)o->size;
    wide->type = o->type;
    wide->reserved = 0;
}

void object_set_header(struct heap *h, uint64_t place, const struct object_shape *shape,
                       const struct object_view *o)
{
    header_put(arena_write(&h->arena, block_address(h, place), shape->head),
               shape->head == sizeof(struct object_header) ? block_bytes(h, place) : 0, shape, o);
}

void object_set_flag(struct heap *h, uint64_t place, enum object_flag flag, bool on)
{
    struct object_header *head =
        arena_write(&h->arena, block_address(h, place), sizeof(struct object_header));
    uint64_t bit = (uint64_t)flag << OBJECT_FLAGS_SHIFT;
    head->word = on ? head->word | bit : head->word & ~bit;
}

int object_find(const struct heap *h, uint64_t ptr, bool dead, uint64_t *place)
{
    if (ptr == 0 || ptr_shard(ptr) != header(h)->shard) {
        return ERR_INVAL;
    }
    int rv = slot_load(h, ptr_slot(ptr));
    if (rv != 0) {
        return rv;
    }
    uint64_t word = slot_peek(h, ptr_slot(ptr));
    enum slot_state state = slot_word_state(word);
    if (slot_word_generation(word) != ptr_generation(ptr) ||
        (state != SLOT_LIVE && (!dead || state != SLOT_DEAD))) {
        return ERR_STALE;
    }
    *place = slot_word_place(word);
    return object_load(h, *place);
}

/* ---- birth and end ---- */

static int table_fill(struct heap *h, const struct object_view *o)
{
    uint64_t chunks = object_chunks(o->size);
    uint64_t done = 0;
    int rv = 0;
    while (done < chunks) {
        uint64_t place = 0;
        rv = chunk_build(h, o->slot, done, object_chunk_bytes(o->size, done), &place);
        if (rv != 0) {
            break;
        }
        store_u64(arena_write(&h->arena, o->payload + done * 8, 8), place);
        done++;
    }
    while (rv != 0 && done > 0) {
        done--;
        chunk_drop(h, load_u64(arena_at(&h->arena, o->payload + done * 8)));
    }
    return rv;
}

int object_build(struct heap *h, const struct object_view *o, uint64_t *place)
{
    if (o->size > header(h)->bytes_max) {
        return ERR_NOSPACE; /* before a thousand chunks come and go */
    }
    struct object_shape shape = object_shape_of(o->size, o->type);
    int rv = block_alloc(h, POOL_OBJECTS, shape.bytes, place);
    if (rv != 0) {
        return rv;
    }
    object_set_header(h, *place, &shape, o);
    if (shape.table) {
        struct object_view table;
        object_decode(h, *place, &table);
        rv = table_fill(h, &table);
        if (rv != 0) {
            block_free(h, POOL_OBJECTS, *place);
        }
    }
    return rv;
}

static inline void drop(struct heap *h, uint64_t place, const struct object_view *o)
{
    if ((o->flags & OBJECT_TABLE) != 0) {
        uint64_t chunks = object_chunks(o->size);
        for (uint64_t i = 0; i < chunks; i++) {
            chunk_drop(h, object_chunk_at(h, o, i));
        }
    }
    block_free(h, POOL_OBJECTS, place);
}

void object_drop(struct heap *h, uint64_t place)
{
    struct object_view o;
    object_decode(h, place, &o);
    drop(h, place, &o);
}

int object_size_check(uint64_t size, struct slice init)
{
    if (size == 0 || init.len > size) {
        return ERR_INVAL;
    }
    return size > OBJECT_BYTES_MAX ? ERR_TOOBIG : 0;
}

/* An object in a slab: each byte of the block is written once. */
static inline __attribute__((always_inline)) int build_small(struct heap *h,
                                                             const struct object_view *o,
                                                             const struct object_shape *shape,
                                                             struct slice init, uint64_t *place)
{
    int rv = block_alloc_small(h, POOL_OBJECTS, shape->bytes, place);
    if (rv != 0) {
        return rv;
    }
    uint64_t block = class_bytes(class_of(shape->bytes));
    uint8_t *at = arena_write(&h->arena, block_address(h, *place), block);
    header_put(at, block, shape, o);
    if (init.len > 0) {
        memcpy(at + shape->head, init.data, init.len);
    }
    uint64_t filled = shape->head + init.len;
    if (filled < block) {
        memset(at + filled, 0, block - filled);
    }
    return 0;
}

/* An object in an extent: so is each byte that is given. What isn't, but for the rest of a page,
 * isn't even there. */
static __attribute__((noinline)) int build_large(struct heap *h, const struct object_view *o,
                                                 const struct object_shape *shape,
                                                 struct slice init, uint64_t *place)
{
    int rv = block_alloc_large(h, POOL_OBJECTS, shape->bytes, shape->head + init.len, place);
    if (rv == 0) {
        struct object_header_wide head;
        assert(shape->head == sizeof head);
        header_put(&head, 0, shape, o);
        arena_fill(&h->arena, block_address(h, *place), slice_of(&head, sizeof head), init);
    }
    return rv;
}

static __attribute__((noinline)) int build_table(struct heap *h, struct object_view *o,
                                                 struct slice init, uint64_t *place)
{
    int rv = object_build(h, o, place);
    if (rv == 0 && init.len > 0) {
        object_decode(h, *place, o);
        object_put_bytes(h, o, 0, init.data, init.len);
    }
    return rv;
}

static inline __attribute__((always_inline)) int build_filled(struct heap *h, uint64_t version,
                                                              uint64_t slot, uint64_t size,
                                                              uint32_t type, struct slice init,
                                                              uint64_t *place)
{
    struct object_view o = {.size = size, .version = version, .slot = slot, .type = type};
    struct object_shape shape = object_shape_of(size, type);
    if (shape.table) {
        return build_table(h, &o, init, place);
    }
    return shape.bytes <= slab_block_bytes_max(h) ? build_small(h, &o, &shape, init, place)
                                                  : build_large(h, &o, &shape, init, place);
}

/* All of an allocation but the slot. */
static inline __attribute__((always_inline)) int object_create(struct heap *h, uint64_t version,
                                                               uint64_t slot, uint64_t size,
                                                               uint32_t type, struct slice init,
                                                               uint64_t *place)
{
    int rv = build_filled(h, version, slot, size, type, init, place);
    if (rv != 0) {
        return rv;
    }
    if (undo_is_kept(h, version)) {
        rv = undo_push(h, version, *place, UNDO_BIRTH, 0, 0);
        if (rv != 0) {
            object_drop(h, *place);
            return rv;
        }
    }
    struct heap_header *hd = header_counts(h);
    hd->object_count++;
    hd->object_bytes += size;
    return 0;
}

/* Header and bytes of a narrow object in a block, all of which is marked. room: of the block,
 * behind the header. */
static inline void small_fill(uint8_t *block, uint64_t room, uint64_t version, uint64_t slot,
                              uint64_t size, uint32_t type, struct slice init)
{
    struct object_header *o = (struct object_header *)(void *)block;
    o->version = version;
    o->word = slot | (room - size) << OBJECT_SLACK_SHIFT | (uint64_t)type << OBJECT_TYPE_SHIFT;
    block += SMALL_HEAD;
    if (init.len < room) {
        memset(block + init.len, 0, room - init.len);
    }
    if (init.len > 0) {
        memcpy(block, init.data, init.len);
    }
}

/* A spare's slot and block, if there is one. *out: what came of it. */
static bool alloc_spare(struct heap *heap, uint64_t version, uint64_t size, uint32_t type,
                        struct slice init, uint64_t *ptr, int *out)
{
    uint64_t slot = 0;
    uint64_t place = 0;
    if (size > SMALL_BYTES_MAX || type >= OBJECT_NARROW_TYPES) {
        return false;
    }
    uint32_t class_number = class_of(size + SMALL_HEAD);
    if (!spare_take(heap, class_number, &slot, &place, out)) {
        return false;
    }
    if (*out == 0) {
        uint64_t bytes = class_bytes(class_number);
        struct heap_header *hd = header_counts(heap);
        hd->object_count++;
        hd->object_bytes += size;
        small_fill(arena_write(&heap->arena, block_address(heap, place), bytes), bytes - SMALL_HEAD,
                   version, slot, size, type, init);
        *ptr = ptr_make(hd->shard, slot_word_generation(slot_peek(heap, slot)), slot);
    }
    return true;
}

static int alloc_new(struct heap *heap, uint64_t version, uint64_t size, uint32_t type,
                     struct slice init, uint64_t *ptr)
{
    uint64_t slot = 0;
    uint64_t place = 0;
    int rv = slot_prepare(heap, &slot);
    if (rv == 0) {
        rv = object_create(heap, version, slot, size, type, init, &place);
    }
    if (rv == 0) {
        *ptr = ptr_make(header(heap)->shard, slot_take(heap, slot, SLOT_LIVE, place), slot);
    }
    return rv;
}

static __attribute__((noinline)) int alloc_any(struct heap *heap, uint64_t version, uint64_t size,
                                               uint32_t type, struct slice init, uint64_t *ptr)
{
    *ptr = 0;
    int rv = object_size_check(size, init);
    if (rv != 0 || alloc_spare(heap, version, size, type, init, ptr, &rv)) {
        return rv;
    }
    return alloc_new(heap, version, size, type, init, ptr);
}

/* What the class's next object, in this slot and block, will change. In pmem mode nearly every
 * object comes here, and finds that all of it is armed and lies in a page each. */
static __attribute__((noinline)) void small_mark_lines(struct heap *h, const struct slab_cursor *c,
                                                       uint32_t block, const uint8_t *bytes,
                                                       uint64_t *entry)
{
    struct arena *a = &h->arena;
    uint64_t from = (uint64_t)(bytes - a->base);
    uint64_t last = from + c->bytes - 1;
    uint64_t slot = (uint64_t)((const uint8_t *)entry - a->base);
    uint64_t slab = (uint64_t)((const uint8_t *)c->slab - a->base);
    uint64_t map = slab_map_address(slab, block / 64);
    if (__builtin_expect(!arena_is_armed(a, slot >> PAGE_SHIFT) ||
                             !arena_is_armed(a, slab >> PAGE_SHIFT) ||
                             !arena_is_armed(a, from >> PAGE_SHIFT) ||
                             ((slab ^ map) | (from ^ last)) >> PAGE_SHIFT != 0,
                         0)) {
        slot_mark(h, entry);
        slab_mark_lines(h, slab, block / 64);
        (void)arena_write(a, from, c->bytes);
        return;
    }
    struct arena_marker m = arena_marker_of(a);
    arena_mark_armed(&m, slot >> PAGE_SHIFT, arena_line(slot) | SLOT_HEAD_LINE);
    arena_mark_armed(&m, slab >> PAGE_SHIFT, arena_line(slab) | arena_line(map));
    arena_mark_armed(&m, from >> PAGE_SHIFT, arena_lines(from, c->bytes));
    arena_marked(a, &m);
}

/* One test where all of it may be written. */
static inline void small_mark(struct heap *h, const struct slab_cursor *c, const uint8_t *bytes,
                              uint32_t block, uint64_t *entry)
{
    const uint64_t *lines = h->arena.lines;
    uint64_t from = (uint64_t)(bytes - h->arena.base);
    uint64_t at = (uint64_t)((const uint8_t *)entry - h->arena.base);
    uint64_t open = *c->lines_head & *c->lines_map & lines[at >> PAGE_SHIFT] &
                    lines[from >> PAGE_SHIFT] & lines[(from + c->bytes - 1) >> PAGE_SHIFT];
    if (__builtin_expect(open != PAGE_LINES_ALL, 0)) {
        small_mark_lines(h, c, block, bytes, entry);
    }
}

/* A small object in a plain heap, where its class has no spare. */
static __attribute__((noinline)) int alloc_small(struct heap *heap, uint64_t version, uint64_t size,
                                                 uint32_t type, struct slice init, uint64_t *ptr)
{
    struct slot_at at;
    uint64_t slot = slot_next(heap, &at);
    if (__builtin_expect(at.page == NULL, 0)) {
        return alloc_any(heap, version, size, type, init, ptr);
    }
    uint32_t class_number = slab_class_narrow[(size + SMALL_HEAD + 15) / 16];
    const struct slab_cursor *c = &heap->cursors[class_number];
    if (__builtin_expect(c->slab == NULL, 0)) {
        int rv = cursor_open(heap, class_number);
        if (rv != 0) {
            return alloc_any(heap, version, size, type, init, ptr);
        }
    }
    uint32_t block = slab_next(c->slab);
    uint64_t offset = block * c->bytes;
    uint64_t place = c->place + (offset / PLACE_UNIT << PLACE_CLASS_BITS);
    uint8_t *bytes = c->blocks + offset;
    small_mark(heap, c, bytes, block, at.entry);
    slab_bind(heap, c->slab, POOL_OBJECTS, class_number, block);
    struct heap_header *hd = header_counts(heap);
    hd->object_count++;
    hd->object_bytes += size;
    *ptr = ptr_make(hd->shard, slot_bind(&at, SLOT_LIVE, place), slot);
    small_fill(bytes, c->bytes - SMALL_HEAD, version, slot, size, type, init);
    if (__builtin_expect(c->slab->roomy == 0, 0)) {
        slab_is_full(heap, c->slab);
    } else { /* where the next one will be: likely to be far away */
        const uint8_t *next = c->blocks + slab_next(c->slab) * c->bytes;
        __builtin_prefetch(next, 1);
        __builtin_prefetch(next + c->bytes - 1, 1);
        __builtin_prefetch((const uint64_t *)(const void *)at.page + at.page->head, 1);
    }
    return 0;
}

/* What taking or leaving a spare changes but for the block; or what all of it does. */
static __attribute__((noinline)) void spare_mark_lines(struct heap *h, uint32_t class_number,
                                                       const uint64_t *entry, uint64_t block,
                                                       uint64_t bytes)
{
    (void)spares_edit(h, class_number);
    slot_mark_word(h, entry);
    if (bytes != 0) {
        (void)arena_write(&h->arena, block, bytes);
    }
}

int heap_alloc(struct heap *heap, uint64_t version, uint64_t size, uint32_t type, struct slice init,
               uint64_t *ptr)
{
    if (size - 1 >= SMALL_BYTES_MAX || init.len > size || type >= OBJECT_NARROW_TYPES ||
        !heap_is_plain(heap)) {
        return alloc_any(heap, version, size, type, init, ptr);
    }
    uint32_t class_number = slab_class_narrow[(size + SMALL_HEAD + 15) / 16];
    struct spares *k = spares_of(heap, class_number);
    uint64_t count = k->count - 1;
    if (count == UINT64_MAX) {
        return alloc_small(heap, version, size, type, init, ptr);
    }
    uint64_t slot = k->slots[count];
    uint64_t *entry = slot_entry(heap, slot);
    uint64_t word = *entry;
    uint64_t bytes = slab_classes[class_number].bytes;
    uint64_t at = block_address(heap, slot_word_place(word));
    const uint64_t *lines = heap->arena.lines;
    uint64_t open = lines[SPARES_AT >> PAGE_SHIFT] & lines[slot_page_of(heap, entry)] &
                    lines[at >> PAGE_SHIFT] & lines[(at + bytes - 1) >> PAGE_SHIFT];
    if (__builtin_expect(open != PAGE_LINES_ALL, 0)) {
        spare_mark_lines(heap, class_number, entry, at, bytes);
    }
    spare_pop(k, count, entry, word);
    struct heap_header *hd = header_counts(heap);
    hd->object_count++;
    hd->object_bytes += size;
    *ptr = ptr_make(hd->shard, slot_word_generation(word), slot);
    small_fill(heap->arena.base + at, bytes - SMALL_HEAD, version, slot, size, type, init);
    return 0;
}

int heap_alloc_leased(struct heap *heap, uint64_t version, uint64_t session, uint64_t ptr,
                      uint64_t size, uint32_t type, struct slice init)
{
    int rv = object_size_check(size, init);
    uint64_t place = 0;
    if (rv == 0) {
        rv = lease_find_slot(heap, session, ptr);
    }
    if (rv == 0) {
        rv = object_create(heap, version, ptr_slot(ptr), size, type, init, &place);
    }
    if (rv == 0) {
        lease_use_slot(heap, ptr_slot(ptr), SLOT_LIVE, place);
    }
    return rv;
}

static __attribute__((noinline)) int free_any(struct heap *heap, uint64_t version, uint64_t ptr)
{
    uint64_t place = 0;
    int rv = object_find(heap, ptr, false, &place);
    if (rv == 0) {
        rv = object_load_all(heap, place);
    }
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(heap, place, &o);
    /* An object with records outlives its free also when this one needn't be recorded: they name
     * its slot. */
    bool dead = undo_is_kept(heap, version) || (o.flags & OBJECT_HISTORY) != 0;
    if (dead) {
        rv = undo_push(heap, version, place, UNDO_FREE, 0, 0);
        if (rv != 0) {
            return rv;
        }
        object_set_version(heap, place, version);
        slot_set(heap, o.slot, SLOT_DEAD, place);
    } else if (spare_fits(heap, place, slot_peek(heap, o.slot),
                          arena_at(&heap->arena, block_address(heap, place)))) {
        spare_put(heap, o.slot, place);
    } else {
        slot_release(heap, o.slot);
        drop(heap, place, &o);
    }
    struct heap_header *hd = header_counts(heap);
    hd->object_count--;
    hd->object_bytes -= o.size;
    if (dead) {
        hd->dead_count++;
        hd->dead_bytes += o.size;
    }
    return 0;
}

/* A small object, whose slot has this word; its slot and its block go. */
static __attribute__((noinline)) void free_small(struct heap *heap, struct slot_at at,
                                                 uint64_t word)
{
    uint64_t place = slot_word_place(word);
    struct block_at b = block_locate(heap, place);
    slot_and_slab_mark(heap, at.entry, &b);
    slot_unbind(heap, &at, word);
    block_give(heap, POOL_OBJECTS, place, b);
}

int heap_free_object(struct heap *heap, uint64_t version, uint64_t ptr)
{
    if (!heap_is_plain(heap) || ptr_shard(ptr) != header(heap)->shard) {
        return free_any(heap, version, ptr);
    }
    struct slot_at at = slot_locate(heap, ptr_slot(ptr));
    if (__builtin_expect(at.page == NULL, 0) ||
        !slot_word_is(*at.entry, ptr_generation(ptr), SLOT_LIVE)) {
        return free_any(heap, version, ptr);
    }
    uint64_t word = *at.entry;
    uint64_t place = slot_word_place(word);
    const struct object_header *o =
        (const struct object_header *)arena_at(&heap->arena, block_address(heap, place));
    uint32_t class_number = place_class(place);
    if (class_number >= SPARE_CLASSES || !object_is_plain(o)) {
        return free_any(heap, version, ptr);
    }
    uint64_t slack = o->word >> OBJECT_SLACK_SHIFT & OBJECT_SLACK_MAX;
    struct heap_header *hd = header_counts(heap);
    hd->object_count--;
    hd->object_bytes -= slab_classes[class_number].bytes - SMALL_HEAD - slack;
    if (!spare_has_room(heap, class_number, word)) {
        free_small(heap, at, word);
        return 0;
    }
    const uint64_t *lines = heap->arena.lines;
    uint64_t open = lines[SPARES_AT >> PAGE_SHIFT] & lines[slot_page_of(heap, at.entry)];
    if (__builtin_expect(open != PAGE_LINES_ALL, 0)) {
        spare_mark_lines(heap, class_number, at.entry, 0, 0);
    }
    spare_push(spares_of(heap, class_number), ptr_slot(ptr), at.entry, word);
    return 0;
}

/* ---- for transactions ---- */

int object_reserve(struct heap *h, uint64_t slot, uint64_t size, uint32_t type, struct slice init,
                   uint64_t *place)
{
    return build_filled(h, 0, slot, size, type, init, place);
}

/* As undo_push(), but history gives way where there is no room for it. */
static int record_change(struct heap *h, uint64_t version, uint64_t place, enum undo_kind kind,
                         uint64_t offset, uint64_t len)
{
    if (!undo_is_kept(h, version)) {
        history_skips(h);
        return 0;
    }
    int rv = undo_push(h, version, place, kind, offset, len);
    if (rv == ERR_NOSPACE) {
        history_gives_way(h);
        rv = 0;
    }
    return rv;
}

int object_birth(struct heap *h, uint64_t version, uint64_t place)
{
    int rv = record_change(h, version, place, UNDO_BIRTH, 0, 0);
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(h, place, &o);
    object_set_version(h, place, version);
    struct heap_header *hd = header_counts(h);
    hd->object_count++;
    hd->object_bytes += o.size;
    return 0;
}

int object_overwrite(struct heap *h, uint64_t version, uint64_t place, uint64_t offset,
                     struct slice data)
{
    struct object_view o;
    int rv = record_change(h, version, place, UNDO_WRITE, offset, data.len);
    if (rv == 0) {
        object_decode(h, place, &o);
        object_set_version(h, place, version);
        object_put_bytes(h, &o, offset, data.data, data.len);
    }
    return rv;
}

int object_end(struct heap *h, uint64_t version, uint64_t place)
{
    int rv = object_load_all(h, place);
    if (rv == 0) {
        rv = record_change(h, version, place, UNDO_FREE, 0, 0);
    }
    if (rv != 0) {
        return rv;
    }
    struct object_view o;
    object_decode(h, place, &o);
    struct heap_header *hd = header_counts(h);
    hd->object_count--;
    hd->object_bytes -= o.size;
    if ((o.flags & OBJECT_HISTORY) == 0) {
        slot_release(h, o.slot);
        drop(h, place, &o);
        return 0;
    }
    /* Its records name its slot, so it outlives its free. */
    if (!undo_is_kept(h, version)) {
        undo_turn_into_free(h, place);
    }
    object_set_version(h, place, version);
    slot_set(h, o.slot, SLOT_DEAD, place);
    hd->dead_count++;
    hd->dead_bytes += o.size;
    return 0;
}

/* ---- what there is ---- */

static void object_describe(const struct heap *h, uint64_t ptr, uint64_t place,
                            struct heap_object *out)
{
    struct object_view o;
    object_decode(h, place, &o);
    out->ptr = ptr;
    out->size = o.size;
    out->version = o.version;
    out->type = o.type;
    out->flags = o.flags;
}

int heap_stat(const struct heap *heap, uint64_t ptr, struct heap_object *out)
{
    memset(out, 0, sizeof *out);
    uint64_t place = 0;
    int rv = object_find(heap, ptr, false, &place);
    if (rv == 0) {
        object_describe(heap, ptr, place, out);
    }
    return rv;
}

#define LIST_LOOKS_MAX 16384u /* slots of one call: most may be free */

size_t heap_list_objects(const struct heap *heap, uint64_t from, struct heap_object *out,
                         size_t max, uint64_t *next)
{
    const struct heap_header *hd = header(heap);
    uint64_t end = (uint64_t)hd->slot_pages * SLOTS_PER_PAGE;
    size_t count = 0;
    uint64_t slot = from;
    for (uint32_t looked = 0; slot < end && count < max && looked < LIST_LOOKS_MAX; looked++) {
        if (slot_frame(heap, slot / SLOTS_PER_PAGE) < 0) {
            slot = (slot / SLOTS_PER_PAGE + 1) * SLOTS_PER_PAGE;
            continue;
        }
        uint64_t word = slot_get(heap, slot);
        if (slot_word_state(word) == SLOT_LIVE) {
            if (object_load(heap, slot_word_place(word)) != 0) {
                break;
            }
            object_describe(heap, ptr_make(hd->shard, slot_word_generation(word), slot),
                            slot_word_place(word), &out[count]);
            count++;
        }
        slot++;
    }
    *next = slot < end ? slot : 0;
    return count;
}
