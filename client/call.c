/* Calls are checked and encoded here, on the caller's thread. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "client/internal.h"

#define POINTER_SHARD_SHIFT 52 /* shard:12 | generation:14 | slot:38 */

int core__refuse(struct core_call *call, int err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(call->text, sizeof call->text, format, args);
    va_end(args);
    call->err = err;
    return err;
}

static int no_memory(struct core_call *call)
{
    return core__refuse(call, ERR_NOMEM, "out of memory for a request");
}

int core__op_encode(struct core_call *call, uint16_t kind, size_t size, struct buf *body)
{
    call->op = core__op_new(kind, size);
    if (call->op == NULL) {
        return no_memory(call);
    }
    call->kind = kind;
    *body = (struct buf){.data = call->op->body, .capacity = size};
    return 0;
}

/* An encoder fails only when a field is out of bounds, which the callers have checked. */
int core__op_encoded(struct core_call *call, int rv, const struct buf *body)
{
    assert(rv == 0);
    assert(body->data == call->op->body && body->len == call->op->len);
    return 0;
}

/* What the caller has said is `len` bytes long. */
static int check_given(struct core_call *call, const void *bytes, size_t len, const char *name)
{
    return bytes != NULL || len == 0
               ? 0
               : core__refuse(call, ERR_INVAL, "%s is NULL: give a buffer of %zu bytes", name, len);
}

static int aim(struct core_call *call, struct core_heap *heap, uint64_t ptr)
{
    uint64_t index = ptr >> POINTER_SHARD_SHIFT;
    if (ptr == 0) {
        return core__refuse(call, ERR_INVAL, "the pointer is CAIRN_NULL");
    }
    if (index >= heap->count) {
        return core__refuse(
            call, ERR_INVAL,
            "the pointer is of shard %llu, and the heap has %u: is it another heap's?",
            (unsigned long long)index, heap->count);
    }
    call->heap = heap;
    call->target = ptr;
    call->shard = heap->shards[index];
    return 0;
}

static int aim_root(struct core_call *call, struct core_heap *heap, const char *name,
                    struct slice *out)
{
    size_t len = name == NULL ? 0 : strnlen(name, ROOT_NAME_BYTES_MAX + 1);
    if (len == 0 || len > ROOT_NAME_BYTES_MAX) {
        return core__refuse(call, ERR_INVAL, "a root's name has 1..%d bytes", ROOT_NAME_BYTES_MAX);
    }
    *out = slice_of(name, len);
    call->heap = heap;
    call->shard = heap->shards[core_heap_root_shard(heap, *out)];
    return 0;
}

static int check_range(struct core_call *call, uint64_t offset, size_t len)
{
    if (offset > OBJECT_BYTES_MAX || len > OBJECT_BYTES_MAX - offset) {
        return core__refuse(call, ERR_RANGE, "offset %llu + %zu bytes: no object is larger than %u",
                            (unsigned long long)offset, len, OBJECT_BYTES_MAX);
    }
    return 0;
}

static int check_write(struct core_call *call, uint64_t offset, struct slice data, const char *name)
{
    if (data.len == 0) {
        return core__refuse(call, ERR_INVAL, "nothing to write");
    }
    if (data.len > WRITE_BYTES_MAX) {
        return core__refuse(call, ERR_TOOBIG, "%zu bytes in one write; at most %u: write in pieces",
                            data.len, WRITE_BYTES_MAX);
    }
    int bad = check_given(call, data.data, data.len, name);
    return bad != 0 ? bad : check_range(call, offset, data.len);
}

/* ---- objects ---- */

static int check_size(struct core_call *call, uint64_t bytes)
{
    if (bytes == 0 || bytes > OBJECT_BYTES_MAX) {
        return core__refuse(call, bytes == 0 ? ERR_INVAL : ERR_TOOBIG,
                            "an object has 1..%u bytes, not %llu", OBJECT_BYTES_MAX,
                            (unsigned long long)bytes);
    }
    return 0;
}

int core_prepare_alloc(struct core_call *call, struct core_heap *heap, uint64_t bytes,
                       uint32_t type, struct slice init)
{
    int bad = check_size(call, bytes);
    if (bad != 0) {
        return bad;
    }
    if (init.len > bytes) {
        return core__refuse(call, ERR_RANGE, "%zu initial bytes for an object of %llu", init.len,
                            (unsigned long long)bytes);
    }
    if (init.len > WRITE_BYTES_MAX) {
        return core__refuse(call, ERR_TOOBIG, "%zu initial bytes; at most %u: write the rest",
                            init.len, WRITE_BYTES_MAX);
    }
    bad = check_given(call, init.data, init.len, "init");
    if (bad != 0) {
        return bad;
    }
    uint32_t turn = heap->count == 1
                        ? 0 /* a directory's heap: its threads share no line for nothing */
                        : atomic_fetch_add_explicit(&heap->next, 1, memory_order_relaxed);
    call->heap = heap;
    call->shard = heap->shards[turn % heap->count];
    int rv;
    CORE_PREPARE_OF(call, ALLOC, alloc, rv, .uid = call->shard->uid, .size = bytes, .type = type,
                    .init = init);
    return rv;
}

int core_prepare_free(struct core_call *call, struct core_heap *heap, uint64_t ptr)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        CORE_PREPARE_OF(call, FREE, free, rv, .uid = call->shard->uid, .ptr = ptr);
    }
    return rv;
}

struct core_op *core__op_read(const struct core_call *call, size_t piece)
{
    size_t left = call->read.len - piece;
    struct msg_read m = {
        .uid = call->shard->uid,
        .ptr = call->read.ptr,
        .offset = call->read.offset + piece,
        .len = (uint32_t)(left < READ_BYTES_MAX ? left : READ_BYTES_MAX),
        .at = call->read.at,
        .turn = piece == 0 ? call->turn : 0,
    };
    struct core_op *op = core__op_new(KIND_READ, message_size_read(&m));
    if (op == NULL) {
        return NULL;
    }
    struct buf body = {.data = op->body, .capacity = op->len};
    int rv = message_encode_read(&m, &body);
    assert(rv == 0);
    op->piece = (uint32_t)piece;
    op->piece_len = m.len;
    return op;
}

int core_prepare_read_at(struct core_call *call, struct core_heap *heap, uint64_t ptr, uint64_t at,
                         uint64_t offset, void *data, size_t len)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        rv = check_range(call, offset, len);
    }
    if (rv == 0) {
        rv = check_given(call, data, len, "data");
    }
    if (rv != 0) {
        return rv;
    }
    call->kind = KIND_READ;
    memset(&call->read, 0, sizeof call->read);
    call->read.ptr = ptr;
    call->read.at = at;
    call->read.offset = offset;
    call->read.data = data;
    call->read.len = len;
    if (call->plain) {
        return 0;
    }
    call->op = core__op_read(call, 0);
    return call->op == NULL ? no_memory(call) : 0;
}

int core_prepare_read(struct core_call *call, struct core_heap *heap, uint64_t ptr, uint64_t offset,
                      void *data, size_t len)
{
    return core_prepare_read_at(call, heap, ptr, 0, offset, data, len);
}

int core_prepare_realloc(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                         uint64_t bytes)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        rv = check_size(call, bytes);
    }
    if (rv == 0) {
        struct msg_realloc m = {.uid = call->shard->uid, .ptr = ptr, .size = bytes};
        CORE_PREPARE(call, REALLOC, realloc, &m, rv);
    }
    return rv;
}

int core_prepare_write(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                       uint64_t offset, struct slice data)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        rv = check_write(call, offset, data, "data");
    }
    if (rv == 0) {
        CORE_PREPARE_OF(call, WRITE, write, rv, .uid = call->shard->uid, .ptr = ptr,
                        .offset = offset, .data = data);
    }
    return rv;
}

int core_prepare_compare_and_write(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                                   uint64_t offset, struct slice expected, struct slice desired)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        rv = check_write(call, offset, desired, "desired");
    }
    if (rv == 0) {
        rv = check_given(call, expected.data, expected.len, "expected");
    }
    if (rv == 0) {
        assert(expected.len == desired.len);
        struct msg_compare_and_write m = {.uid = call->shard->uid,
                                          .ptr = ptr,
                                          .offset = offset,
                                          .expected = expected,
                                          .desired = desired};
        CORE_PREPARE(call, COMPARE_AND_WRITE, compare_and_write, &m, rv);
    }
    return rv;
}

int core_prepare_write_if_version(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                                  uint64_t version, uint64_t offset, struct slice data)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        rv = check_write(call, offset, data, "data");
    }
    if (rv == 0) {
        struct msg_write_if_version m = {.uid = call->shard->uid,
                                         .ptr = ptr,
                                         .version = version,
                                         .offset = offset,
                                         .data = data};
        CORE_PREPARE(call, WRITE_IF_VERSION, write_if_version, &m, rv);
    }
    return rv;
}

int core_prepare_add_u64(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                         uint64_t offset, uint64_t delta)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        rv = check_range(call, offset, sizeof delta);
    }
    if (rv == 0) {
        struct msg_add_u64 m = {
            .uid = call->shard->uid, .ptr = ptr, .offset = offset, .delta = delta};
        CORE_PREPARE(call, ADD_U64, add_u64, &m, rv);
    }
    return rv;
}

int core_prepare_stat_at(struct core_call *call, struct core_heap *heap, uint64_t ptr, uint64_t at)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        struct msg_stat m = {.uid = call->shard->uid, .ptr = ptr, .at = at};
        CORE_PREPARE(call, STAT, stat, &m, rv);
    }
    return rv;
}

int core_prepare_stat(struct core_call *call, struct core_heap *heap, uint64_t ptr)
{
    return core_prepare_stat_at(call, heap, ptr, 0);
}

int core_prepare_history(struct core_call *call, struct core_heap *heap, uint64_t ptr,
                         uint64_t skip, uint32_t max)
{
    int rv = aim(call, heap, ptr);
    if (rv == 0) {
        struct msg_history m = {.uid = call->shard->uid, .ptr = ptr, .skip = skip, .max = max};
        CORE_PREPARE(call, HISTORY, history, &m, rv);
    }
    return rv;
}

/* ---- what is asked of each shard of a heap ---- */

int core__aim_shard(struct core_call *call, struct core_heap *heap, uint32_t shard)
{
    if (shard >= heap->count) {
        return core__refuse(call, ERR_INVAL, "shard %u of a heap of %u", shard, heap->count);
    }
    call->heap = heap;
    call->shard = heap->shards[shard];
    return 0;
}

int core_prepare_type_register(struct core_call *call, struct core_heap *heap, uint32_t shard,
                               uint32_t number, struct slice descriptor)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0 && descriptor.len > TYPE_BYTES_MAX) {
        rv = core__refuse(call, ERR_TOOBIG, "a type of %zu bytes; at most %u", descriptor.len,
                          TYPE_BYTES_MAX);
    }
    if (rv == 0) {
        struct msg_type_register m = {
            .uid = call->shard->uid, .number = number, .descriptor = descriptor};
        CORE_PREPARE(call, TYPE_REGISTER, type_register, &m, rv);
    }
    return rv;
}

int core_prepare_type_list(struct core_call *call, struct core_heap *heap, uint32_t shard,
                           uint32_t after, uint32_t max)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_type_list m = {.uid = call->shard->uid, .after = after, .max = max};
        CORE_PREPARE(call, TYPE_LIST, type_list, &m, rv);
    }
    return rv;
}

int core_prepare_object_list(struct core_call *call, struct core_heap *heap, uint32_t shard,
                             uint64_t from, uint32_t max, bool typed, uint32_t type)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_object_list m = {.uid = call->shard->uid,
                                    .from = from,
                                    .max = max,
                                    .typed = typed ? 1 : 0,
                                    .type = type};
        CORE_PREPARE(call, OBJECT_LIST, object_list, &m, rv);
    }
    return rv;
}

int core_prepare_fetch(struct core_call *call, struct core_heap *heap, uint32_t shard,
                       const struct msg_fetch *query)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0 && query->path.len > FETCH_PATH_BYTES_MAX) {
        rv = core__refuse(call, ERR_INVAL, "a path has at most %u bytes", FETCH_PATH_BYTES_MAX);
    }
    if (rv == 0) {
        struct msg_fetch m = *query;
        m.uid = call->shard->uid;
        CORE_PREPARE(call, FETCH, fetch, &m, rv);
    }
    return rv;
}

int core_prepare_watch(struct core_call *call, struct core_heap *heap, uint32_t shard,
                       const struct msg_watch *query)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_watch m = *query;
        m.uid = call->shard->uid;
        CORE_PREPARE(call, WATCH, watch, &m, rv);
    }
    if (rv == 0 && !call->plain) {
        call->op->wait_ms = query->wait_ms;
    }
    return rv;
}

int core_prepare_set_retention(struct core_call *call, struct core_heap *heap, uint32_t shard,
                               uint64_t retention_ms)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0 && retention_ms > RETENTION_MS_MAX) {
        rv = core__refuse(call, ERR_INVAL, "history is kept for at most %llu ms",
                          (unsigned long long)RETENTION_MS_MAX);
    }
    if (rv == 0) {
        struct msg_set_retention m = {.uid = call->shard->uid, .retention_ms = retention_ms};
        CORE_PREPARE(call, SET_RETENTION, set_retention, &m, rv);
    }
    return rv;
}

int core_prepare_defrag(struct core_call *call, struct core_heap *heap, uint32_t shard,
                        uint32_t bytes)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_defrag m = {.uid = call->shard->uid, .bytes = bytes};
        CORE_PREPARE(call, DEFRAG, defrag, &m, rv);
    }
    return rv;
}

int core_prepare_trim(struct core_call *call, struct core_heap *heap, uint32_t shard,
                      uint64_t bytes)
{
    int rv = core__aim_shard(call, heap, shard);
    if (rv == 0) {
        struct msg_trim m = {.uid = call->shard->uid, .bytes = bytes};
        CORE_PREPARE(call, TRIM, trim, &m, rv);
    }
    return rv;
}

/* ---- roots ---- */

uint32_t core_heap_root_shard(const struct core_heap *heap, struct slice name)
{
    return (uint32_t)(hash64(0, name.data, name.len) % heap->count);
}

int core_prepare_root_get_at(struct core_call *call, struct core_heap *heap, const char *name,
                             uint64_t at)
{
    struct msg_root_get m = {.at = at};
    int rv = aim_root(call, heap, name, &m.name);
    if (rv == 0) {
        m.uid = call->shard->uid;
        CORE_PREPARE(call, ROOT_GET, root_get, &m, rv);
    }
    return rv;
}

int core_prepare_root_get(struct core_call *call, struct core_heap *heap, const char *name)
{
    return core_prepare_root_get_at(call, heap, name, 0);
}

/* A root may point at an object of any shard of its heap. */
static int check_target(struct core_call *call, const struct core_heap *heap, uint64_t ptr)
{
    if (ptr >> POINTER_SHARD_SHIFT >= heap->count) {
        return core__refuse(call, ERR_INVAL, "the pointer is of no shard of this heap");
    }
    return 0;
}

int core_prepare_root_set(struct core_call *call, struct core_heap *heap, const char *name,
                          uint64_t ptr)
{
    struct msg_root_set m = {.ptr = ptr};
    int rv = aim_root(call, heap, name, &m.name);
    if (rv == 0 && ptr == 0) {
        rv = core__refuse(call, ERR_INVAL, "a root can't point at CAIRN_NULL: delete it");
    }
    if (rv == 0) {
        rv = check_target(call, heap, ptr);
    }
    if (rv == 0) {
        m.uid = call->shard->uid;
        CORE_PREPARE(call, ROOT_SET, root_set, &m, rv);
    }
    return rv;
}

int core_prepare_root_compare_and_set(struct core_call *call, struct core_heap *heap,
                                      const char *name, uint64_t expected, uint64_t desired)
{
    struct msg_root_compare_and_set m = {.expected = expected, .desired = desired};
    int rv = aim_root(call, heap, name, &m.name);
    if (rv == 0) {
        rv = check_target(call, heap, desired);
    }
    if (rv == 0) {
        m.uid = call->shard->uid;
        CORE_PREPARE(call, ROOT_COMPARE_AND_SET, root_compare_and_set, &m, rv);
    }
    return rv;
}

int core_prepare_root_delete(struct core_call *call, struct core_heap *heap, const char *name)
{
    struct msg_root_delete m = {0};
    int rv = aim_root(call, heap, name, &m.name);
    if (rv == 0) {
        m.uid = call->shard->uid;
        CORE_PREPARE(call, ROOT_DELETE, root_delete, &m, rv);
    }
    return rv;
}

int core_prepare_root_list_at(struct core_call *call, struct core_heap *heap, uint32_t shard,
                              uint64_t at, struct slice after, uint32_t max)
{
    assert(shard < heap->count);
    if (after.len > ROOT_NAME_BYTES_MAX) {
        return core__refuse(call, ERR_INVAL, "a root's name has 1..%d bytes", ROOT_NAME_BYTES_MAX);
    }
    call->heap = heap;
    call->shard = heap->shards[shard];
    struct msg_root_list m = {.uid = call->shard->uid, .at = at, .max = max, .after = after};
    int rv;
    CORE_PREPARE(call, ROOT_LIST, root_list, &m, rv);
    return rv;
}

int core_prepare_root_list(struct core_call *call, struct core_heap *heap, uint32_t shard,
                           struct slice after, uint32_t max)
{
    return core_prepare_root_list_at(call, heap, shard, 0, after, max);
}

int core_prepare_probe(struct core_call *call, struct core_heap *heap, uint32_t shard)
{
    /* A list of at most one root: asks nothing of the heap but that a leader answers. */
    return core_prepare_root_list(call, heap, shard, slice_of(NULL, 0), 1);
}

/* ---- heaps ---- */

static int heap_name(struct core_call *call, struct core *core, const char *name, struct slice *out)
{
    size_t len = name == NULL ? 0 : strnlen(name, HEAP_NAME_BYTES_MAX + 1);
    bool good = len > 0 && len <= HEAP_NAME_BYTES_MAX && name[0] != '_' && name[0] != '-';
    for (size_t i = 0; good && i < len; i++) {
        char c = name[i];
        good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    }
    if (!good) {
        return core__refuse(call, ERR_INVAL,
                            "a heap's name is [a-z0-9][a-z0-9_-]*, at most %d bytes",
                            HEAP_NAME_BYTES_MAX);
    }
    call->shard = core != NULL ? core->meta : NULL; /* a directory has neither */
    *out = slice_of(name, len);
    return 0;
}

int core_prepare_heap_create(struct core_call *call, struct core *core, const char *name,
                             uint32_t shards, uint32_t replicas, uint64_t shard_bytes_max,
                             uint64_t retention_ms)
{
    struct msg_heap_create m = {.uid = META_UID,
                                .shard_bytes_max = shard_bytes_max,
                                .retention_ms = retention_ms,
                                .shard_count = shards,
                                .replicas = replicas};
    if (shards == 0 || shards > SHARDS_PER_HEAP_MAX) {
        return core__refuse(call, ERR_INVAL, "a heap has 1..%d shards, not %u", SHARDS_PER_HEAP_MAX,
                            shards);
    }
    if (replicas > REPLICAS_MAX) {
        return core__refuse(call, ERR_INVAL, "a shard has at most %d replicas, not %u",
                            REPLICAS_MAX, replicas);
    }
    if (core != NULL && (shard_bytes_max < SHARD_BYTES_MIN || shard_bytes_max > SHARD_BYTES_MAX)) {
        return core__refuse(
            call, ERR_INVAL,
            "the heap's bytes make shards of %llu bytes each, but a shard has from %llu to %llu",
            (unsigned long long)shard_bytes_max, (unsigned long long)SHARD_BYTES_MIN,
            (unsigned long long)SHARD_BYTES_MAX);
    }
    if (retention_ms > RETENTION_MS_MAX) {
        return core__refuse(call, ERR_INVAL, "history is kept for at most %llu ms",
                            (unsigned long long)RETENTION_MS_MAX);
    }
    int rv = heap_name(call, core, name, &m.name);
    if (rv == 0) {
        CORE_PREPARE(call, HEAP_CREATE, heap_create, &m, rv);
    }
    return rv;
}

int core_prepare_heap_drop(struct core_call *call, struct core *core, const char *name)
{
    struct msg_heap_drop m = {.uid = META_UID};
    int rv = heap_name(call, core, name, &m.name);
    if (rv == 0) {
        CORE_PREPARE(call, HEAP_DROP, heap_drop, &m, rv);
    }
    return rv;
}

int core_prepare_heap_open(struct core_call *call, struct core *core, const char *name)
{
    struct msg_heap_open m = {.uid = META_UID};
    int rv = heap_name(call, core, name, &m.name);
    if (rv == 0) {
        CORE_PREPARE(call, HEAP_OPEN, heap_open, &m, rv);
    }
    return rv;
}

uint32_t core_heap_shards(const struct core_heap *heap)
{
    return heap->count;
}

uint64_t core_heap_id(const struct core_heap *heap)
{
    return heap->id;
}

void core_heap_close(struct core_heap *heap)
{
    mem_free(heap); /* its shards stay with the core: they may have sessions */
}

/* ---- operators ---- */

int core_prepare_admin(struct core_call *call, struct core *core, const char *node,
                       const char *verb, struct slice args)
{
    (void)core;
    struct msg_admin m = {.args = args};
    size_t node_len = node == NULL ? 0 : strnlen(node, NODE_NAME_BYTES_MAX + 1);
    size_t verb_len = verb == NULL ? 0 : strnlen(verb, 64);
    if (verb_len == 0 || verb_len > 63) {
        return core__refuse(call, ERR_INVAL, "a verb has 1..63 bytes");
    }
    if (args.len > 65536) {
        return core__refuse(call, ERR_TOOBIG, "arguments of %zu bytes; at most 65536", args.len);
    }
    if (node_len > NODE_NAME_BYTES_MAX) {
        return core__refuse(call, ERR_INVAL, "a node's name has at most %d bytes",
                            NODE_NAME_BYTES_MAX);
    }
    m.verb = slice_of(verb, verb_len);
    if (node_len > 0) {
        memcpy(call->node, node, node_len);
    }
    call->node[node_len] = '\0';
    int rv;
    CORE_PREPARE(call, ADMIN, admin, &m, rv);
    return rv;
}

void core_call_discard(struct core_call *call)
{
    core__op_free(call->op);
    call->op = NULL;
    buf_close(&call->bytes);
}
