/* One user's command on a heap. */
#include "alloc/command.h"

#include <string.h>

#include "alloc/engine.h"
#include "alloc/intent.h"
#include "base/hlc.h"

/* ---- objects ---- */

static int apply_alloc(struct heap *h, uint64_t version, const struct heap_command *c,
                       struct heap_outcome *out)
{
    if (c->ptr == 0) {
        return heap_alloc(h, version, c->size, c->type, c->data, &out->value);
    }
    int rv = heap_alloc_leased(h, version, c->session, c->ptr, c->size, c->type, c->data);
    if (rv == 0) {
        out->value = c->ptr;
    }
    return rv;
}

static int conflict(const struct heap *h, uint64_t ptr, struct heap_outcome *out)
{
    struct heap_object object;
    int rv = heap_stat(h, ptr, &object);
    if (rv != 0) {
        return rv;
    }
    out->version = object.version;
    return ERR_CONFLICT;
}

/* *equal: do the object's bytes at `offset` equal `expected`? */
static int compare(const struct heap *h, uint64_t ptr, uint64_t offset, struct slice expected,
                   bool *equal)
{
    const uint8_t *bytes;
    uint64_t part;
    uint64_t done = 0;
    *equal = true;
    int rv = heap_read(h, ptr, offset, expected.len, &bytes, &part);
    while (rv == 0 && part > 0) {
        if (memcmp(bytes, expected.data + done, part) != 0) {
            *equal = false;
            return 0;
        }
        done += part;
        rv = heap_read(h, ptr, offset + done, expected.len - done, &bytes, &part);
    }
    return rv;
}

static int apply_compare_and_write(struct heap *h, uint64_t version, const struct heap_command *c,
                                   struct heap_outcome *out)
{
    if (c->expected.len != c->data.len) {
        return ERR_INVAL;
    }
    bool equal = false;
    int rv = compare(h, c->ptr, c->offset, c->expected, &equal);
    if (rv != 0) {
        return rv;
    }
    return equal ? heap_write(h, version, c->ptr, c->offset, c->data) : conflict(h, c->ptr, out);
}

static int apply_add_u64(struct heap *h, uint64_t version, const struct heap_command *c,
                         struct heap_outcome *out)
{
    uint8_t bytes[8];
    int rv = heap_copy(h, c->ptr, c->offset, bytes, sizeof bytes);
    if (rv != 0) {
        return rv;
    }
    uint64_t before = load_u64(bytes);
    store_u64(bytes, before + c->delta);
    rv = heap_write(h, version, c->ptr, c->offset, slice_of(bytes, sizeof bytes));
    if (rv == 0) {
        out->value = before;
    }
    return rv;
}

static int apply_write_if_version(struct heap *h, uint64_t version, const struct heap_command *c,
                                  struct heap_outcome *out)
{
    struct heap_object object;
    int rv = heap_stat(h, c->ptr, &object);
    if (rv != 0) {
        return rv;
    }
    if (object.version != c->if_version) {
        out->version = object.version;
        return ERR_CONFLICT;
    }
    return heap_write(h, version, c->ptr, c->offset, c->data);
}

/* ---- roots ---- */

/* May the name lead to `ptr` (0: go)? */
static int root_is_open(const struct heap *h, struct slice name, uint64_t ptr)
{
    struct root_record now;
    bool exists = heap_root_get(h, name, &now) == 0;
    return intent_check_root(h, name, exists != (ptr != 0));
}

static int apply_root_set(struct heap *h, uint64_t version, const struct heap_command *c)
{
    if (c->ptr == 0 || !heap_root_name_is_valid(c->name)) {
        return ERR_INVAL;
    }
    int rv = root_is_open(h, c->name, c->ptr);
    return rv == 0 ? root_change(h, version, c->name, c->ptr, false) : rv;
}

static int apply_root_compare_and_set(struct heap *h, uint64_t version,
                                      const struct heap_command *c, struct heap_outcome *out)
{
    if (!heap_root_name_is_valid(c->name)) {
        return ERR_INVAL;
    }
    int rv = root_is_open(h, c->name, c->ptr);
    if (rv != 0) {
        return rv;
    }
    struct root_record now;
    (void)heap_root_get(h, c->name, &now);
    if (now.ptr != c->expected_ptr) {
        out->version = now.version;
        out->value = now.ptr;
        return ERR_CONFLICT;
    }
    return root_change(h, version, c->name, c->ptr, false);
}

static int apply_root_delete(struct heap *h, uint64_t version, const struct heap_command *c,
                             struct heap_outcome *out)
{
    if (!heap_root_name_is_valid(c->name)) {
        return ERR_INVAL;
    }
    struct root_record now;
    int rv = root_is_open(h, c->name, 0);
    rv = rv == 0 ? heap_root_get(h, c->name, &now) : rv;
    if (rv != 0) {
        return rv;
    }
    out->value = now.ptr;
    return root_change(h, version, c->name, 0, false);
}

/* ---- transactions ---- */

static int apply_transact(struct heap *h, uint64_t version, const struct heap_command *c,
                          struct heap_outcome *out)
{
    struct txn_conflict conflict;
    int rv = txn_apply_one(h, version, c->data, &conflict);
    if (rv == ERR_CONFLICT) {
        out->value = conflict.what;
        out->version = conflict.version;
    }
    return rv;
}

/* Not further ahead of the entry than that: the clock would run away from time. */
#define CLOSE_AHEAD_MS 1000

static int apply_close(struct heap *h, const struct heap_command *c)
{
    uint64_t now = h->entry_time > heap_clock(h) ? h->entry_time : heap_clock(h);
    uint32_t keep_ms = c->count < TX_KEEP_MS ? c->count : TX_KEEP_MS;
    int rv = heap_close_at(h, c->if_version, now + hlc_from_ms(CLOSE_AHEAD_MS), keep_ms);
    return rv == 0 && c->if_version < heap_safepoint(h) ? ERR_SNAPSHOT_TOO_OLD : rv;
}

/* ---- upkeep ---- */

static int apply_lease(struct heap *h, const struct heap_command *c, struct heap_outcome *out)
{
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    return heap_lease(h, c->session, c->count, &out->value, ptrs);
}

static int apply_defrag(struct heap *h, const struct heap_command *c, struct heap_outcome *out)
{
    struct heap_defrag step;
    int rv =
        heap_defrag(h, c->count < HEAP_DEFRAG_BYTES_MAX ? c->count : HEAP_DEFRAG_BYTES_MAX, &step);
    if (rv == 0) {
        out->value = step.bytes << 1 | step.left;
    }
    return rv;
}

static int apply(struct heap *h, uint64_t version, const struct heap_command *c,
                 struct heap_outcome *out)
{
    switch (c->kind) {
    case HEAP_COMMAND_ALLOC:
        return apply_alloc(h, version, c, out);
    case HEAP_COMMAND_FREE:
        return heap_free_object(h, version, c->ptr);
    case HEAP_COMMAND_REALLOC:
        return heap_realloc(h, version, c->ptr, c->size);
    case HEAP_COMMAND_WRITE:
        return heap_write(h, version, c->ptr, c->offset, c->data);
    case HEAP_COMMAND_COMPARE_AND_WRITE:
        return apply_compare_and_write(h, version, c, out);
    case HEAP_COMMAND_ADD_U64:
        return apply_add_u64(h, version, c, out);
    case HEAP_COMMAND_WRITE_IF_VERSION:
        return apply_write_if_version(h, version, c, out);
    case HEAP_COMMAND_ROOT_SET:
        return apply_root_set(h, version, c);
    case HEAP_COMMAND_ROOT_COMPARE_AND_SET:
        return apply_root_compare_and_set(h, version, c, out);
    case HEAP_COMMAND_ROOT_DELETE:
        return apply_root_delete(h, version, c, out);
    case HEAP_COMMAND_TYPE_REGISTER:
        return heap_type_register(h, version, c->type, c->data);
    case HEAP_COMMAND_LEASE:
        return apply_lease(h, c, out);
    case HEAP_COMMAND_SET_RETENTION:
        return heap_set_retention(h, c->size);
    case HEAP_COMMAND_RECLAIM:
        heap_reclaim(h, c->if_version, c->count, &out->value);
        return 0;
    case HEAP_COMMAND_DEFRAG:
        return apply_defrag(h, c, out);
    case HEAP_COMMAND_TRIM:
        out->value = heap_trim(h, c->size);
        return 0;
    case HEAP_COMMAND_TRANSACT:
        return apply_transact(h, version, c, out);
    case HEAP_COMMAND_CLOSE:
        return apply_close(h, c);
    case HEAP_COMMAND_KINDS:
    default:
        return ERR_PROTOCOL;
    }
}

/* Commands that change the object that `ptr` names. */
static bool changes_object(enum heap_command_kind kind)
{
    return kind >= HEAP_COMMAND_ALLOC && kind <= HEAP_COMMAND_WRITE_IF_VERSION;
}

static int answer(const struct heap *h, int rv, struct heap_outcome *out)
{
    if (h->arena.damage != 0) {
        rv = h->arena.damage; /* whatever it has done, it may have done with zeros */
    }
    if (err_stops_replica(rv)) {
        return rv;
    }
    out->code = rv;
    return 0;
}

/* Of space, at least. */
static uint64_t bytes_taken(const struct heap *h, const struct heap_command *c)
{
    struct heap_object object;
    if (c->kind == HEAP_COMMAND_REALLOC && heap_stat(h, c->ptr, &object) == 0) {
        return c->size > object.size ? c->size - object.size : 0;
    }
    return c->kind == HEAP_COMMAND_ALLOC ? c->size : 0;
}

/* What found no space has changed nothing, so it can be tried again. But a transaction has lost its
 * leases then; it has had the spares, if they could help. */
static __attribute__((noinline)) int answer_fully(struct heap *h, uint64_t version,
                                                  const struct heap_command *c, int rv,
                                                  struct heap_outcome *out)
{
    if (c->kind != HEAP_COMMAND_TRANSACT && spares_give_way(h, bytes_taken(h, c), &rv)) {
        rv = apply(h, version, c, out);
    }
    return answer(h, rv, out);
}

static __attribute__((noinline)) int
apply_any(struct heap *h, uint64_t version, const struct heap_command *c, struct heap_outcome *out)
{
    int rv = changes_object(c->kind) ? intent_check_object(h, c->ptr) : 0;
    rv = rv == 0 ? apply(h, version, c, out) : rv;
    if (rv == ERR_TX_UNDECIDED) {
        out->value = changes_object(c->kind) ? c->ptr : 0;
    }
    return answer_fully(h, version, c, rv, out);
}

int heap_apply(struct heap *heap, uint64_t version, const struct heap_command *command,
               struct heap_outcome *out)
{
    memset(out, 0, sizeof *out);
    if (header(heap)->maps[HEAP_MAP_TX].count == 0) { /* so there are no intents */
        if (command->kind == HEAP_COMMAND_FREE) {
            return answer(heap, heap_free_object(heap, version, command->ptr), out);
        }
        if (command->kind == HEAP_COMMAND_ALLOC && command->ptr == 0) {
            int rv =
                heap_alloc(heap, version, command->size, command->type, command->data, &out->value);
            return rv == ERR_NOSPACE ? answer_fully(heap, version, command, rv, out)
                                     : answer(heap, rv, out);
        }
    }
    return apply_any(heap, version, command, out);
}
