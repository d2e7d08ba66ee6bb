/* The check of maps: the trees, what the engine's own records say, and (for a full check) whether
 * roots and pointer fields lead anywhere. */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"
#include "alloc/command.h"

static const char *map_name(uint32_t map)
{
    static const char *const names[HEAP_MAP_COUNT] = {"roots", "sessions", "catalog", "meta",
                                                      "undo",  "types",    "leases",  "tx"};
    return map < HEAP_MAP_COUNT ? names[map] : "?";
}

/* ---- trees ---- */

/* The record at a place, all of whose bytes are there. */
static const struct map_node *node_at(const struct check *c, uint32_t map, uint64_t place)
{
    struct block b;
    if (!check_block(c, place, POOL_MAPS, &b)) {
        return NULL;
    }
    const struct map_node *n = check_data(c, b.address, sizeof *n);
    if (n == NULL || n->magic != BLOCK_MAGIC_MAP || n->map != map || n->reserved != 0 ||
        n->key_len == 0 || n->key_len > MAP_KEY_BYTES_MAX || n->value_len > MAP_VALUE_BYTES_MAX) {
        return NULL;
    }
    uint64_t value_at = (sizeof *n + n->key_len + 7) & ~(uint64_t)7;
    if (value_at + n->value_len > b.bytes ||
        check_data(c, b.address, value_at + n->value_len) == NULL) {
        return NULL;
    }
    const uint8_t *key = (const uint8_t *)(n + 1);
    return check_is_zero(key + n->key_len, value_at - sizeof *n - n->key_len) ? n : NULL;
}

static struct slice key_of(const struct map_node *n)
{
    return slice_of(n + 1, n->key_len);
}

static struct slice value_of(const struct map_node *n)
{
    uint64_t at = (sizeof *n + n->key_len + 7) & ~(uint64_t)7;
    return slice_of((const uint8_t *)n + at, n->value_len);
}

static int key_order(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

bool check_map_find(const struct check *c, enum heap_map map, struct slice key,
                    struct map_record *out)
{
    uint64_t place = c->hd->maps[map].root;
    for (uint32_t depth = 0; place != 0 && depth < MAP_HEIGHT_MAX; depth++) {
        const struct map_node *n = node_at(c, map, place);
        if (n == NULL) {
            return false;
        }
        int order = key_order(key, key_of(n));
        if (order == 0) {
            out->key = key_of(n);
            out->value = value_of(n);
            out->place = place;
            return true;
        }
        place = order < 0 ? n->left : n->right;
    }
    return false;
}

typedef void (*record_cb)(struct check *c, struct slice key, struct slice value);

struct tree {
    struct check *c;
    uint32_t map;
    record_cb cb; /* may be NULL */
    uint64_t count;
};

static void tree_fault(struct tree *t, const char *code, uint64_t place, const char *what)
{
    check_damage(t->c, code, "map %s, record at offset %" PRIu64 " of the data: %s",
                 map_name(t->map), place == 0 ? 0 : place_offset(place), what);
}

/* Every node has a key strictly between those of `low` and `high`: none can come twice. Returns
 * the height. */
static uint32_t check_tree(struct tree *t, uint64_t place, const struct map_node *low,
                           const struct map_node *high, uint32_t depth)
{
    if (place == 0 || t->c->stop) {
        return 0;
    }
    const struct map_node *n = depth >= MAP_HEIGHT_MAX ? NULL : node_at(t->c, t->map, place);
    if (n == NULL) {
        tree_fault(t, "map-link", place, "no such record; all below it is lost");
        return 0;
    }
    if ((low != NULL && key_order(key_of(low), key_of(n)) >= 0) ||
        (high != NULL && key_order(key_of(n), key_of(high)) >= 0)) {
        tree_fault(t, "map-order", place, "its key is out of order; it can't be found");
        return 0; /* below it the same records may come again */
    }
    t->count++;
    if (t->cb != NULL) {
        t->cb(t->c, key_of(n), value_of(n));
    }
    uint32_t left = check_tree(t, n->left, low, n, depth + 1);
    uint32_t right = check_tree(t, n->right, n, high, depth + 1);
    uint32_t tall = (left > right ? left : right) + 1;
    if (!t->c->stop && (n->height != tall || left > right + 1 || right > left + 1)) {
        tree_fault(t, "map-balance", place, "the tree is out of balance there");
    }
    return tall;
}

/* ---- what the engine's own records say ---- */

/* Pointer and version are both 0 in a placeholder, and only there. */
static void root_target(struct check *c, struct slice key, struct slice value)
{
    struct root_record r;
    memcpy(&r, value.data, sizeof r);
    if ((r.ptr == 0) != (r.version == 0) || r.version > c->hd->clock) {
        check_damage(c, "root-record", "root \"%.*s\": its version makes no sense", (int)key.len,
                     (const char *)key.data);
    }
    c->roots_reserved += r.ptr == 0;
}

static void root_record(struct check *c, struct slice key, struct slice value)
{
    if (value.len != sizeof(struct root_record)) {
        check_damage(c, "root-record", "root \"%.*s\": its record has %zu bytes, not %zu",
                     (int)key.len, (const char *)key.data, value.len, sizeof(struct root_record));
    } else if (!heap_root_name_is_valid(key)) {
        check_damage(c, "root-record", "root \"%.*s\": not a name that a root can have",
                     (int)key.len, (const char *)key.data);
    } else {
        root_target(c, key, value);
    }
}

static void undo_entry(struct check *c, struct slice key, struct slice value)
{
    if (key.len != 8 || value.len != 8) {
        check_damage(c, "undo-map", "map undo: a record of %zu and %zu bytes", key.len, value.len);
        return;
    }
    check_undo_chain(c, __builtin_bswap64(load_u64(key.data)), load_u64(value.data));
}

static bool fields_are_inside(const struct heap_type *t)
{
    for (uint32_t i = 0; i < t->field_count; i++) {
        const struct heap_field *f = &t->fields[i];
        if (f->offset + (uint64_t)f->count * heap_field_bytes(f->kind) > t->size) {
            return false;
        }
    }
    return t->size > 0 && t->size <= OBJECT_BYTES_MAX;
}

static void type_record(struct check *c, struct slice key, struct slice value)
{
    struct heap_type type;
    uint32_t number = key.len == 4 ? __builtin_bswap32(load_u32(key.data)) : 0;
    if (number == 0 || heap_type_decode(number, value, &type) != 0 || !fields_are_inside(&type)) {
        check_damage(c, "type-record",
                     "type %u: its record makes no sense; its fields can't be shown", number);
    }
}

static void lease_record(struct check *c, struct slice key, struct slice value)
{
    struct lease_record r;
    uint64_t number = key.len == 8 ? __builtin_bswap64(load_u64(key.data)) : 0;
    if (key.len != 8 || value.len < sizeof r) {
        check_damage(c, "lease-record", "lease %" PRIu64 ": a record of %zu and %zu bytes", number,
                     key.len, value.len);
        return;
    }
    memcpy(&r, value.data, sizeof r);
    if (number == 0 || number >= c->hd->lease_next || r.count == 0 ||
        r.count > HEAP_LEASE_SLOTS_MAX || value.len != sizeof r + (uint64_t)r.count * 8 ||
        r.left == 0 || r.left > r.count) {
        check_damage(c, "lease-record",
                     "lease %" PRIu64 ": %u slots, %u of them left, in %zu bytes", number, r.count,
                     r.left, value.len);
        return;
    }
    uint32_t left = 0;
    for (uint32_t i = 0; i < r.count; i++) {
        uint64_t entry = check_slot_entry(c, load_u64(value.data + sizeof r + (size_t)i * 8));
        left += slot_word_state(entry) == SLOT_LEASED && slot_word_place(entry) == number;
    }
    if (left != r.left) {
        check_damage(c, "lease-record",
                     "lease %" PRIu64 ": %u of its slots are leased, it counts %u", number, left,
                     r.left);
    }
    c->leases_left += r.left;
}

void check_maps(struct check *c)
{
    static const record_cb records[HEAP_MAP_COUNT] = {[HEAP_MAP_ROOTS] = root_record,
                                                      [HEAP_MAP_UNDO] = undo_entry,
                                                      [HEAP_MAP_TYPES] = type_record,
                                                      [HEAP_MAP_LEASES] = lease_record,
                                                      [HEAP_MAP_TX] = check_txn_record};
    for (uint32_t map = 0; map < HEAP_MAP_COUNT && !c->stop; map++) {
        struct tree t = {.c = c, .map = map, .cb = records[map]};
        (void)check_tree(&t, c->hd->maps[map].root, NULL, NULL, 0);
        if (!c->stop && t.count != c->hd->maps[map].count) {
            check_damage(c, "map-count", "map %s: %" PRIu64 " records, counted as %" PRIu64,
                         map_name(map), t.count, c->hd->maps[map].count);
        }
        c->map_nodes += t.count;
    }
}

static void map_block(struct check *c, const struct block *b)
{
    const struct map_node *n = check_data(c, b->address, sizeof *n);
    struct map_record r;
    bool reached = n != NULL && n->map < HEAP_MAP_COUNT && node_at(c, n->map, b->place) != NULL &&
                   check_map_find(c, (enum heap_map)n->map, key_of(n), &r) && r.place == b->place;
    if (!reached) {
        check_damage(c, "block-lost",
                     "block at offset %" PRIu64 " of the data (page %" PRIu64 "), %" PRIu64
                     " bytes: in use, but no map has it; the space is lost",
                     place_offset(b->place), b->address >> PAGE_SHIFT, b->bytes);
    }
}

void check_lost_records(struct check *c)
{
    check_each_block(c, POOL_MAPS, map_block);
}

/* ---- dangling pointers ---- */

static bool leads_nowhere(const struct check *c, uint64_t ptr)
{
    if (ptr == 0 || ptr_shard(ptr) != c->hd->shard) {
        return false; /* null, or another shard's: it can't be told here */
    }
    uint64_t entry = check_slot_entry(c, ptr_slot(ptr));
    return slot_word_state(entry) != SLOT_LIVE ||
           slot_word_generation(entry) != ptr_generation(ptr);
}

static void dangling_root(struct check *c, struct slice key, struct slice value)
{
    struct root_record r;
    memcpy(&r, value.data, sizeof r);
    if (leads_nowhere(c, r.ptr)) {
        check_dangling(c, "dangling-root",
                       "root \"%.*s\" points at %s, which isn't a live object; who follows it gets "
                       "STALE",
                       (int)key.len, (const char *)key.data,
                       check_pointer(c, ptr_generation(r.ptr), ptr_slot(r.ptr)).text);
    }
}

static void dangling_field(struct check *c, const struct heap_object *o,
                           const struct heap_type *type, const struct heap_field *field)
{
    bool flexible = field->count == 0;
    for (uint64_t i = 0; (flexible || i < field->count) && !c->stop; i++) {
        uint64_t at = field->offset + i * 8;
        uint64_t ptr = 0;
        if (at + 8 > o->size || heap_copy(c->h, o->ptr, at, &ptr, 8) != 0) {
            return;
        }
        if (leads_nowhere(c, ptr)) {
            check_dangling(c, "dangling-field",
                           "object %s, field %.*s.%.*s[%" PRIu64 "] (offset %" PRIu64
                           ") points at %s, which "
                           "isn't a live object",
                           check_pointer(c, ptr_generation(o->ptr), ptr_slot(o->ptr)).text,
                           (int)type->name.len, (const char *)type->name.data, (int)field->name.len,
                           (const char *)field->name.data, i, at,
                           check_pointer(c, ptr_generation(ptr), ptr_slot(ptr)).text);
        }
    }
}

static void dangling_fields(struct check *c)
{
    struct heap_type type = {.number = 0}; /* the last one looked up; objects come in runs */
    bool known = false;
    struct heap_object list[64];
    uint64_t from = 0;
    do {
        size_t count = heap_list_objects(c->h, from, list, 64, &from);
        for (size_t i = 0; i < count && !c->stop; i++) {
            if (list[i].type == 0) {
                continue;
            }
            if (list[i].type != type.number) {
                known = heap_type_get(c->h, list[i].type, &type) == 0;
                type.number = list[i].type;
            }
            for (uint32_t f = 0; known && f < type.field_count; f++) {
                if (type.fields[f].kind == FIELD_PTR) {
                    dangling_field(c, &list[i], &type, &type.fields[f]);
                }
            }
        }
    } while (from != 0 && !c->stop);
}

void check_dangling_all(struct check *c)
{
    struct tree t = {.c = c, .map = HEAP_MAP_ROOTS, .cb = dangling_root};
    (void)check_tree(&t, c->hd->maps[HEAP_MAP_ROOTS].root, NULL, NULL, 0);
    if (!c->stop) {
        dangling_fields(c);
    }
}
