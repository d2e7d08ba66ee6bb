/* What a transaction does to one shard, in three steps: validate only reads; reserve does what may
 * lack room, and can be taken back; execute can't fail (X7). A transaction of one shard takes them
 * at once, one of several reserves when it is prepared and executes when it is decided. */
#include <string.h>

#include "alloc/ahead.h"
#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/txn_internal.h"
#include "base/hash.h"
#include "base/mem.h"

/* ---- targets ---- */

static bool is_target(const struct txn_target *t, uint64_t ptr, struct slice name)
{
    return t->ptr == ptr && (ptr != 0 || (t->name.len == name.len &&
                                          memcmp(t->name.data, name.data, name.len) == 0));
}

/* Pointers come by the thousand, names don't. */
static uint64_t target_hash(uint64_t ptr, struct slice name)
{
    uint64_t bits = ptr * UINT64_C(0x9e3779b97f4a7c15);
    return ptr != 0 ? bits >> 32 ^ bits >> 48 : hash64(0, name.data, name.len);
}

static uint16_t *target_entry(const struct txn_plan *p, uint64_t ptr, struct slice name)
{
    uint64_t i = target_hash(ptr, name);
    while (p->index[i & p->mask] != 0 &&
           !is_target(&p->targets[p->index[i & p->mask] - 1], ptr, name)) {
        i++;
    }
    return &p->index[i & p->mask];
}

static void root_load(const struct heap *h, struct txn_target *t)
{
    struct root_record r;
    t->error = heap_root_get(h, t->name, &r);
    t->before = t->error == 0 ? TARGET_THERE : TARGET_ABSENT;
    t->root = t->set || t->deleted ? t->root : r.ptr;
    t->version = r.version;
}

static void object_target_load(const struct heap *h, struct txn_target *t)
{
    struct object_view o;
    uint64_t slot = ptr_slot(t->ptr);
    t->before = TARGET_ABSENT;
    t->error = ptr_shard(t->ptr) == header(h)->shard ? slot_load(h, slot) : ERR_INVAL;
    if (t->error != 0) {
        return;
    }
    uint64_t word = slot_peek(h, slot);
    enum slot_state state = slot_word_state(word);
    t->place = slot_word_place(word);
    bool names = slot_word_generation(word) == ptr_generation(t->ptr);
    if (names && (state == SLOT_LEASED || state == SLOT_PREPARED)) {
        t->before = TARGET_UNBORN;
        t->lease = state == SLOT_LEASED ? t->place : 0;
        if (state == SLOT_PREPARED) {
            (void)object_load_all(h, t->place); /* txn_plan_open() asks whether it could */
        }
        return;
    }
    t->error = names && state == SLOT_LIVE ? object_load(h, t->place) : ERR_STALE;
    if (t->error == 0) {
        object_decode(h, t->place, &o);
        t->before = TARGET_THERE;
        t->size = o.size;
        t->version = o.version;
    }
}

static bool is_check(const struct txn_item *item)
{
    return item->kind < TXN_ALLOC;
}

/* What is known of it without a look at the heap. */
static uint16_t plan_add(const struct heap *h, struct txn_plan *p, const struct txn_item *item,
                         struct slice name, struct slice bytes)
{
    bool root = name.len > 0;
    uint16_t *entry = target_entry(p, root ? 0 : item->ptr, name);
    if (*entry == 0) {
        struct txn_target *t = &p->targets[p->count++];
        *entry = (uint16_t)p->count;
        memset(t, 0, sizeof *t);
        t->ptr = root ? 0 : item->ptr;
        t->name = name;
        if (!root) {
            heap_foresee_slot(h, t->ptr);
        }
    }
    struct txn_target *t = &p->targets[*entry - 1];
    t->changes = t->changes || !is_check(item);
    if (item->kind == TXN_ALLOC && !t->born) {
        t->born = true;
        t->new_size = item->value;
        t->type = item->type;
        t->init = bytes;
    } else if (root && !is_check(item)) {
        t->set = t->set || item->kind == TXN_ROOT_SET;
        t->deleted = t->deleted || item->kind == TXN_ROOT_DELETE;
        t->root = item->kind == TXN_ROOT_SET ? item->ptr : 0;
    }
    return (uint16_t)(*entry - 1);
}

#define TARGETS_AHEAD 8u

static void targets_load(const struct heap *h, struct txn_plan *p)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct txn_target *t = &p->targets[i];
        for (; seen < p->count && seen < i + TARGETS_AHEAD; seen++) {
            if (p->targets[seen].ptr != 0) {
                heap_foresee_object(h, p->targets[seen].ptr);
            }
        }
        if (t->ptr != 0) {
            object_target_load(h, t);
        } else {
            root_load(h, t);
        }
        t->state = t->before;
        p->changes_directory = p->changes_directory || (t->set && t->before == TARGET_ABSENT) ||
                               (t->deleted && t->before == TARGET_THERE);
    }
}

/* Targets, index and numbers for as many items as the part claims to have. */
static int plan_room(struct txn_plan *p)
{
    uint32_t size = 2;
    while (size < p->head.items * 2) {
        size *= 2;
    }
    size_t targets = p->head.items * sizeof *p->targets;
    size_t bytes = targets + (size + p->head.items) * sizeof(uint16_t);
    p->memory = bytes <= sizeof p->room ? NULL : mem_alloc(bytes);
    if (p->memory == NULL && bytes > sizeof p->room) {
        return ERR_NOMEM;
    }
    uint8_t *at = p->memory != NULL ? p->memory : p->room;
    p->targets = (struct txn_target *)(void *)at;
    p->index = (uint16_t *)(void *)(at + targets);
    p->mask = size - 1;
    p->named = p->index + size;
    memset(p->index, 0, size * sizeof *p->index);
    return 0;
}

int txn_plan_open(const struct heap *h, struct slice part, struct txn_plan *plan)
{
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    memset(plan, 0, offsetof(struct txn_plan, room));
    plan->part = part;
    int rv = txn_part_open(part, &plan->head, &cursor);
    rv = rv == 0 ? plan_room(plan) : rv;
    if (rv != 0) {
        return rv;
    }
    for (uint32_t i = 0; txn_part_next(&cursor, &item, &name, &bytes); i++) {
        if (item.kind == TXN_CHECK_DIRECTORY) {
            plan->reads_directory = true;
        } else {
            plan->named[i] = plan_add(h, plan, &item, name, bytes);
        }
    }
    if (!cursor.failed) {
        targets_load(h, plan);
    }
    if (cursor.failed || h->arena.damage != 0) {
        txn_plan_close(plan);
        return h->arena.damage != 0 ? h->arena.damage : ERR_PROTOCOL;
    }
    return 0;
}

void txn_plan_close(struct txn_plan *plan)
{
    mem_free(plan->memory);
    plan->memory = NULL;
    plan->targets = NULL;
}

/* ---- validate ---- */

struct validation {
    const struct heap *h;
    const struct txn_plan *plan;
    struct txn_conflict *conflict;
    struct txn_name *by;
    bool intents;   /* somebody has some */
    uint64_t lease; /* whose session has been compared; 0: none */
};

static int version_check(const struct txn_item *item, uint64_t version)
{
    bool holds = item->mode == TXN_EQUAL ? version == item->value : version <= item->value;
    return holds ? 0 : ERR_CONFLICT;
}

/* Comparing bytes in place, part by part. */
static int bytes_check(const struct heap *h, const struct txn_item *item, struct slice expected)
{
    const uint8_t *bytes = NULL;
    uint64_t part = 0;
    uint64_t done = 0;
    int rv = heap_read(h, item->ptr, item->value, expected.len, &bytes, &part);
    while (rv == 0 && part > 0) {
        if (memcmp(bytes, expected.data + done, part) != 0) {
            return ERR_CONFLICT;
        }
        done += part;
        rv = heap_read(h, item->ptr, item->value + done, expected.len - done, &bytes, &part);
    }
    return rv;
}

/* Why an object that must be there isn't; 0: it is. */
static int there(const struct txn_target *t, uint8_t state)
{
    if (state == TARGET_THERE) {
        return 0;
    }
    return state == TARGET_UNBORN ? ERR_NOT_YET : t->error != 0 ? t->error : ERR_STALE;
}

/* Checks are of the state before the first operation. */
static int check_holds(const struct validation *v, const struct txn_item *item,
                       const struct txn_target *t, struct slice bytes)
{
    int rv = 0;
    switch (item->kind) {
    case TXN_CHECK_OBJECT:
        if (t->before == TARGET_ABSENT) {
            return t->error == ERR_INVAL ? ERR_INVAL : ERR_CONFLICT;
        }
        return version_check(item, t->version);
    case TXN_CHECK_ROOT:
        return version_check(item, item->mode == TXN_NOT_NEWER && t->before == TARGET_ABSENT
                                       ? root_changed_at(v->h, t->name)
                                       : t->version);
    case TXN_CHECK_BYTES:
        rv = there(t, t->before);
        return rv == 0 ? bytes_check(v->h, item, bytes) : rv;
    case TXN_CHECK_LIVE:
    default:
        return there(t, t->before);
    }
}

/* Is it promised to the session? Of a lease's slots each is, if one is. */
static int promise_holds(struct validation *v, const struct txn_target *t)
{
    if (t->lease != 0 && t->lease == v->lease) {
        return 0;
    }
    int rv = lease_find_slot(v->h, v->plan->head.session, t->ptr);
    v->lease = rv == 0 ? t->lease : v->lease;
    return rv;
}

static int operation_fits(struct validation *v, const struct txn_item *item, struct txn_target *t,
                          struct slice bytes)
{
    int rv = 0;
    switch (item->kind) {
    case TXN_ALLOC:
        rv = object_size_check(item->value, bytes);
        if (rv == 0 && t->state != TARGET_UNBORN) {
            rv = t->error == ERR_INVAL ? ERR_INVAL : ERR_STALE;
        }
        rv = rv == 0 ? promise_holds(v, t) : rv;
        if (rv == 0) {
            t->state = TARGET_THERE;
            t->size = item->value;
        }
        return rv;
    case TXN_FREE:
        rv = there(t, t->state);
        t->state = rv == 0 ? TARGET_ABSENT : t->state;
        return rv;
    case TXN_WRITE:
        rv = there(t, t->state);
        if (rv == 0 && (item->value > t->size || bytes.len > t->size - item->value)) {
            rv = ERR_RANGE;
        }
        return rv;
    default:
        return 0; /* a root can be whatever it was */
    }
}

static int directory_holds(const struct validation *v, const struct txn_item *item)
{
    int rv = version_check(item, header(v->h)->directory);
    if (rv != 0) {
        v->conflict->version = header(v->h)->directory;
    } else if (intent_in_the_way(v->h, 0, slice_of(NULL, 0), INTENT_SHARED, v->by)) {
        (void)txn_oldest_prepared(v->h, v->by);
        rv = ERR_TX_UNDECIDED;
    }
    return rv;
}

static int item_holds(struct validation *v, const struct txn_item *item, struct txn_target *t,
                      struct slice bytes)
{
    int rv = is_check(item) ? check_holds(v, item, t, bytes) : operation_fits(v, item, t, bytes);
    if (rv == 0 && v->intents &&
        intent_in_the_way(v->h, t->ptr, t->name, is_check(item) ? INTENT_SHARED : INTENT_EXCLUSIVE,
                          v->by)) {
        rv = ERR_TX_UNDECIDED;
    }
    if (rv != 0) {
        v->conflict->version = t->version;
    }
    return rv;
}

int txn_plan_validate(const struct heap *h, struct txn_plan *plan, struct txn_conflict *conflict,
                      struct txn_name *by)
{
    struct validation v = {.h = h,
                           .plan = plan,
                           .conflict = conflict,
                           .by = by,
                           .intents = heap_map_count(h, HEAP_MAP_TX) > 0};
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice bytes;
    memset(conflict, 0, sizeof *conflict);
    memset(by, 0, sizeof *by);
    int rv = txn_part_open(plan->part, &plan->head, &cursor);
    assert(rv == 0);
    for (uint32_t i = 0; txn_part_again(&cursor, &item, &bytes); i++) {
        rv = item.kind == TXN_CHECK_DIRECTORY
                 ? directory_holds(&v, &item)
                 : item_holds(&v, &item, &plan->targets[plan->named[i]], bytes);
        if (rv != 0) {
            conflict->what =
                item.ptr != 0 && item.name_len == 0 ? item.ptr : TXN_CONFLICT_NAMED | i;
            return rv;
        }
    }
    if (plan->changes_directory && intent_in_the_way(h, 0, slice_of(NULL, 0), INTENT_CHANGER, by)) {
        conflict->what = TXN_CONFLICT_NAMED;
        conflict->version = header(h)->directory;
        return ERR_TX_UNDECIDED;
    }
    return 0;
}

int txn_validate(const struct heap *heap, struct slice part, struct txn_conflict *conflict,
                 struct txn_name *by)
{
    struct txn_plan plan;
    memset(conflict, 0, sizeof *conflict);
    memset(by, 0, sizeof *by);
    int rv = txn_part_check(part, true);
    rv = rv == 0 ? txn_plan_open(heap, part, &plan) : rv;
    if (rv == 0) {
        rv = txn_plan_validate(heap, &plan, conflict, by);
        txn_plan_close(&plan);
    }
    return rv;
}

/* ---- reserve ---- */

/* Does the name need a placeholder, so that giving it can't fail? */
static bool is_new_name(const struct txn_target *t)
{
    return t->ptr == 0 && t->before == TARGET_ABSENT && t->root != 0;
}

/* Objects and placeholders of the first targets go; slots aren't touched. */
static void unreserve(struct heap *h, const struct txn_plan *plan, uint32_t end)
{
    for (uint32_t i = end; i > 0; i--) {
        const struct txn_target *t = &plan->targets[i - 1];
        if (t->born) {
            object_drop(h, t->place);
        } else if (is_new_name(t)) {
            root_release(h, t->name);
        }
    }
}

static int reserve_target(struct heap *h, struct txn_target *t)
{
    if (is_new_name(t)) {
        return root_reserve(h, t->name);
    }
    if (!t->born) {
        return 0;
    }
    uint64_t slot = ptr_slot(t->ptr);
    int rv = object_reserve(h, slot, t->new_size, t->type, t->init, &t->place);
    if (spares_give_way(h, t->new_size, &rv)) { /* here: behind this one the leases of all go */
        rv = object_reserve(h, slot, t->new_size, t->type, t->init, &t->place);
    }
    return rv;
}

/* Slots of a lease are taken behind each other, by nearly everybody. */
static void leases_leave(struct heap *h, const struct txn_plan *plan)
{
    uint64_t lease = 0;
    uint32_t slots = 0;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct txn_target *t = &plan->targets[i];
        if (!t->born) {
            continue;
        }
        if (slots > 0 && t->lease != lease) {
            lease_forget_slots(h, lease, slots);
            slots = 0;
        }
        lease = t->lease;
        slots++;
    }
    if (slots > 0) {
        lease_forget_slots(h, lease, slots);
    }
}

/* Their slots are LEASED still, but of no lease any more. */
static int reserve(struct heap *h, struct txn_plan *plan)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        int rv = reserve_target(h, &plan->targets[i]);
        if (rv != 0) {
            unreserve(h, plan, i);
            return rv;
        }
    }
    leases_leave(h, plan);
    return 0;
}

int txn_plan_reserve(struct heap *h, struct txn_plan *plan)
{
    int rv = reserve(h, plan);
    for (uint32_t i = 0; rv == 0 && i < plan->count; i++) {
        const struct txn_target *t = &plan->targets[i];
        if (t->born) {
            slot_set(h, ptr_slot(t->ptr), SLOT_PREPARED, t->place);
        }
    }
    return rv;
}

void txn_plan_release(struct heap *h, const struct txn_plan *plan)
{
    unreserve(h, plan, plan->count);
    for (uint32_t i = 0; i < plan->count; i++) {
        if (plan->targets[i].born) {
            slot_release(h, ptr_slot(plan->targets[i].ptr));
        }
    }
}

/* ---- execute ---- */

static int execute_item(struct heap *h, uint64_t version, const struct txn_item *item,
                        struct txn_target *t, struct slice bytes)
{
    switch (item->kind) {
    case TXN_ALLOC:
        slot_set(h, ptr_slot(t->ptr), SLOT_LIVE, t->place);
        return object_birth(h, version, t->place);
    case TXN_FREE:
        return object_end(h, version, t->place);
    case TXN_WRITE:
        return object_overwrite(h, version, t->place, item->value, bytes);
    default:
        return 0; /* checks; roots follow */
    }
}

int txn_plan_execute(struct heap *h, uint64_t version, const struct txn_plan *plan)
{
    struct txn_part_header head;
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice bytes;
    int rv = txn_part_open(plan->part, &head, &cursor);
    for (uint32_t i = 0; rv == 0 && txn_part_again(&cursor, &item, &bytes); i++) {
        if (!is_check(&item) && item.name_len == 0) {
            rv = execute_item(h, version, &item, &plan->targets[plan->named[i]], bytes);
        }
    }
    for (uint32_t i = 0; rv == 0 && i < plan->count; i++) {
        const struct txn_target *t = &plan->targets[i];
        if (t->ptr == 0 && t->changes) {
            rv = root_change(h, version, t->name, t->root, true);
        }
    }
    return rv;
}

void txn_plan_renounce(struct heap *h, const struct txn_plan *plan)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct txn_target *t = &plan->targets[i];
        if (t->born && lease_find_slot(h, plan->head.session, t->ptr) == 0) {
            lease_drop_slot(h, ptr_slot(t->ptr));
        }
    }
}

int txn_apply_one(struct heap *heap, uint64_t version, struct slice part,
                  struct txn_conflict *conflict)
{
    struct txn_plan plan;
    struct txn_name by;
    memset(conflict, 0, sizeof *conflict);
    int rv = txn_plan_open(heap, part, &plan);
    if (rv != 0) {
        return rv;
    }
    rv = txn_plan_validate(heap, &plan, conflict, &by);
    if (rv == 0) {
        rv = reserve(heap, &plan);
    }
    if (rv == 0) {
        rv = txn_plan_execute(heap, version, &plan);
    } else {
        txn_plan_renounce(heap, &plan);
    }
    txn_plan_close(&plan);
    return rv == ERR_TX_UNDECIDED ? ERR_CONFLICT : rv;
}
