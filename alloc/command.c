/* One user's command on a heap. */
#include "alloc/command.h"

#include <string.h>

#include "alloc/engine.h"

/* What no command's result may be: the replica is broken, or out of memory, and must stop (I2). */
static bool is_fatal(int rv)
{
    return rv == ERR_NOMEM || rv == ERR_CORRUPT || rv == ERR_IO;
}

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
    if (rv == 0) {
        assert(value.len == sizeof *out);
        memcpy(out, value.data, sizeof *out);
    }
    return rv;
}

static int root_put(struct heap *h, struct slice name, uint64_t ptr, uint64_t version)
{
    struct root_record record = {.ptr = ptr, .version = version};
    return heap_map_put(h, HEAP_MAP_ROOTS, name, slice_of(&record, sizeof record));
}

static int apply_root_set(struct heap *h, uint64_t version, const struct heap_command *c)
{
    return c->ptr == 0 || !heap_root_name_is_valid(c->name) ? ERR_INVAL
                                                            : root_put(h, c->name, c->ptr, version);
}

static int apply_root_compare_and_set(struct heap *h, uint64_t version,
                                      const struct heap_command *c, struct heap_outcome *out)
{
    if (!heap_root_name_is_valid(c->name)) {
        return ERR_INVAL;
    }
    struct root_record now;
    bool exists = heap_root_get(h, c->name, &now) == 0;
    if (now.ptr != c->expected_ptr) {
        out->version = now.version;
        out->value = now.ptr;
        return ERR_CONFLICT;
    }
    if (c->ptr != 0) {
        return root_put(h, c->name, c->ptr, version);
    }
    return exists ? heap_map_delete(h, HEAP_MAP_ROOTS, c->name) : 0;
}

static int apply_root_delete(struct heap *h, const struct heap_command *c, struct heap_outcome *out)
{
    if (!heap_root_name_is_valid(c->name)) {
        return ERR_INVAL;
    }
    struct root_record now;
    int rv = heap_root_get(h, c->name, &now);
    if (rv != 0) {
        return rv;
    }
    out->value = now.ptr;
    return heap_map_delete(h, HEAP_MAP_ROOTS, c->name);
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
        return apply_root_delete(h, c, out);
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
    case HEAP_COMMAND_KINDS:
    default:
        return ERR_PROTOCOL;
    }
}

int heap_apply(struct heap *heap, uint64_t version, const struct heap_command *command,
               struct heap_outcome *out)
{
    memset(out, 0, sizeof *out);
    int rv = apply(heap, version, command, out);
    if (is_fatal(rv)) {
        return rv;
    }
    out->code = rv;
    return 0;
}
