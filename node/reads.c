/* What reads answer, from a shard's state that is known to be new enough: the way in and out is
 * dispatch.c's. */
#include <string.h>

#include "alloc/command.h"
#include "alloc/listing.h"
#include "base/assert.h"
#include "base/mem.h"
#include "node/internal.h"

static void send_parts(struct request *request, uint16_t kind, const struct slice *parts,
                       size_t count)
{
    struct frame_header header = {.kind = kind, .request_id = request->request_id};
    if (rpc_send(request->client->conn, &header, parts, count) != 0) {
        rpc_close(request->client->conn, ERR_BUSY);
    }
}

/* As it was: undo records are applied to a copy. */
static int read_object_at(struct request *request, const struct heap *heap,
                          const struct msg_read *m)
{
    struct node *node = request->node;
    struct heap_object object;
    int rv = heap_stat_at(heap, m->at, m->ptr, &object);
    if (rv != 0) {
        return rv;
    }
    buf_clear(&node->scratch);
    uint8_t *at = buf_extend(&node->scratch, 12 + (size_t)m->len);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    store_u64(at, object.version);
    store_u32(at + 8, m->len);
    rv = heap_read_at(heap, m->at, m->ptr, m->offset, at + 12, m->len);
    if (rv == 0) {
        dispatch__answer(request, KIND_READ_RESULT);
    }
    return rv;
}

/* Head, and the parts of an object's bytes: they may lie in as many chunks as they touch. */
#define READ_PARTS_MAX (2u + READ_BYTES_MAX / (1u << 20) + 1u)

static int read_object(struct request *request, const struct heap *heap)
{
    struct msg_read m;
    struct heap_object object;
    int rv = message_decode_read(request->body, &m);
    if (rv == 0 && m.len > READ_BYTES_MAX) {
        rv = ERR_TOOBIG;
    }
    if (rv == 0) {
        rv = tx__check_intent(request, heap, m.ptr, slice_of(NULL, 0), m.at);
    }
    if (rv == 0 && m.at != 0) {
        return read_object_at(request, heap, &m);
    }
    if (rv == 0) {
        rv = heap_stat(heap, m.ptr, &object);
    }
    if (rv != 0) {
        return rv;
    }
    /* The data goes from the arena to the connection's buffer, without a stop in between. */
    uint8_t head[12];
    store_u64(head, object.version);
    store_u32(head + 8, m.len);
    struct slice parts[READ_PARTS_MAX] = {slice_of(head, sizeof head)};
    size_t count = 1;
    uint64_t done = 0;
    do {
        const uint8_t *bytes = NULL;
        uint64_t part = 0;
        rv = heap_read(heap, m.ptr, m.offset + done, m.len - done, &bytes, &part);
        if (rv != 0) {
            return rv;
        }
        if (part > 0) {
            assert(count < READ_PARTS_MAX);
            parts[count++] = slice_of(bytes, part);
        }
        done += part;
    } while (done < m.len);
    if (request->turn_ptr != 0) {
        request->turn_told = true;
        turns_told(request->node->turns, request->uid, m.ptr, object.version);
    }
    send_parts(request, KIND_READ_RESULT, parts, count);
    return 0;
}

static int read_stat(struct request *request, const struct heap *heap)
{
    struct msg_stat m;
    struct heap_object object;
    int rv = message_decode_stat(request->body, &m);
    if (rv == 0) {
        rv = tx__check_intent(request, heap, m.ptr, slice_of(NULL, 0), m.at);
    }
    if (rv == 0) {
        rv = m.at != 0 ? heap_stat_at(heap, m.at, m.ptr, &object) : heap_stat(heap, m.ptr, &object);
    }
    if (rv != 0) {
        return rv;
    }
    struct msg_stat_result out = {
        .size = object.size, .version = object.version, .type = object.type, .flags = object.flags};
    buf_clear(&request->node->scratch);
    rv = message_encode_stat_result(&out, &request->node->scratch);
    if (rv == 0) {
        dispatch__answer(request, KIND_STAT_RESULT);
    }
    return rv;
}

/* A leased pointer is no stale one: who reads it should come again (rules X12). READ and STAT have
 * the pointer in the same place. */
static int not_yet(const struct request *request, const struct heap *heap, int err)
{
    if ((err == ERR_STALE || err == ERR_NOTFOUND) && request->body.len >= 16 &&
        heap_ptr_is_unborn(heap, load_u64(request->body.data + 8))) {
        return ERR_NOT_YET;
    }
    return err;
}

static int read_root(struct request *request, const struct heap *heap)
{
    struct msg_root_get m;
    struct root_record root;
    int rv = message_decode_root_get(request->body, &m);
    if (rv == 0) {
        rv = tx__check_intent(request, heap, 0, m.name, m.at);
    }
    if (rv == 0) {
        rv = heap_root_get_at(heap, m.at, m.name, &root);
    }
    if (rv != 0) {
        return rv;
    }
    struct msg_root_result out = {.ptr = root.ptr, .version = root.version};
    buf_clear(&request->node->scratch);
    rv = message_encode_root_result(&out, &request->node->scratch);
    if (rv == 0) {
        dispatch__answer(request, KIND_ROOT_RESULT);
    }
    return rv;
}

#define ROOT_LIST_BYTES_MAX (256u << 10)

static int read_root_list(struct request *request, const struct heap *heap)
{
    struct msg_root_list m;
    int rv = message_decode_root_list(request->body, &m);
    if (rv == 0) {
        rv = tx__check_intent(request, heap, 0, slice_of(NULL, 0), m.at);
    }
    if (rv != 0) {
        return rv;
    }
    struct buf entries = {0};
    struct slice after = m.after;
    struct slice name;
    struct root_record root;
    uint32_t count = 0;
    uint8_t more = 0;
    while ((rv = heap_root_next_at(heap, m.at, after, &name, &root)) == 0) {
        if (count >= m.max || entries.len >= ROOT_LIST_BYTES_MAX) {
            more = 1;
            break;
        }
        uint8_t *at = buf_extend(&entries, 2 + name.len + 16);
        if (at == NULL) {
            rv = ERR_NOMEM;
            break;
        }
        store_u16(at, (uint16_t)name.len);
        memcpy(at + 2, name.data, name.len);
        store_u64(at + 2 + name.len, root.ptr);
        store_u64(at + 10 + name.len, root.version);
        after = name;
        count++;
    }
    rv = rv == ERR_NOTFOUND ? 0 : rv;
    if (rv == 0) {
        struct msg_root_list_result out = {.more = more,
                                           .directory = heap_directory_version(heap),
                                           .entries = slice_of(entries.data, entries.len)};
        buf_clear(&request->node->scratch);
        rv = message_encode_root_list_result(&out, &request->node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_ROOT_LIST_RESULT);
    }
    buf_close(&entries);
    return rv;
}

/* ---- history, types, leases, objects ---- */

static int read_history(struct request *request, const struct heap *heap)
{
    struct msg_history m;
    struct buf changes = {0};
    bool more = false;
    int rv = message_decode_history(request->body, &m);
    if (rv == 0) {
        rv = listing_changes(heap, m.ptr, m.skip, m.max, &changes, &more);
    }
    if (rv == 0) {
        struct msg_history_result out = {.more = more,
                                         .safepoint = heap_safepoint(heap),
                                         .changes = slice_of(changes.data, changes.len)};
        buf_clear(&request->node->scratch);
        rv = message_encode_history_result(&out, &request->node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_HISTORY_RESULT);
    }
    buf_close(&changes);
    return rv;
}

static int read_type_list(struct request *request, const struct heap *heap)
{
    struct msg_type_list m;
    struct buf types = {0};
    bool more = false;
    int rv = message_decode_type_list(request->body, &m);
    if (rv == 0) {
        rv = listing_types(heap, m.after, m.max, &types, &more);
    }
    if (rv == 0) {
        struct msg_type_list_result out = {.more = more, .types = slice_of(types.data, types.len)};
        buf_clear(&request->node->scratch);
        rv = message_encode_type_list_result(&out, &request->node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_TYPE_LIST_RESULT);
    }
    buf_close(&types);
    return rv;
}

static int read_type_get(struct request *request, const struct heap *heap)
{
    struct msg_type_get m;
    struct buf bytes = {0};
    struct heap_type *type = mem_alloc(sizeof *type);
    int rv = message_decode_type_get(request->body, &m);
    if (rv == 0) {
        rv = type == NULL ? ERR_NOMEM : heap_type_get(heap, m.number, type);
    }
    if (rv == 0) {
        rv = listing_type(type, &bytes);
    }
    if (rv == 0) {
        struct msg_type_info out = {.version = type->version,
                                    .descriptor = slice_of(bytes.data + LISTING_TYPE_HEAD_BYTES,
                                                           bytes.len - LISTING_TYPE_HEAD_BYTES)};
        buf_clear(&request->node->scratch);
        rv = message_encode_type_info(&out, &request->node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_TYPE_INFO);
    }
    buf_close(&bytes);
    mem_free(type);
    return rv;
}

static int read_lease(struct request *request, const struct heap *heap)
{
    struct msg_lease_get m;
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    uint8_t bytes[HEAP_LEASE_SLOTS_MAX * 8];
    uint32_t count = 0;
    struct msg_lease_info out = {0};
    int rv = message_decode_lease_get(request->body, &m);
    if (rv == 0) {
        rv = heap_lease_get(heap, m.lease, &out.session, ptrs, &count);
    }
    if (rv != 0) {
        return rv;
    }
    for (uint32_t i = 0; i < count; i++) {
        store_u64(bytes + i * 8u, ptrs[i]);
    }
    out.ptrs = slice_of(bytes, count * 8u);
    buf_clear(&request->node->scratch);
    rv = message_encode_lease_info(&out, &request->node->scratch);
    if (rv == 0) {
        dispatch__answer(request, KIND_LEASE_INFO);
    }
    return rv;
}

static int read_object_list(struct request *request, const struct heap *heap)
{
    struct msg_object_list m;
    struct buf found = {0};
    uint64_t next = 0;
    int rv = message_decode_object_list(request->body, &m);
    if (rv == 0) {
        struct listing_filter filter = {
            .from = m.from, .max = m.max, .typed = m.typed != 0, .type = m.type};
        rv = listing_objects(heap, &filter, &found, &next);
    }
    if (rv == 0) {
        struct msg_object_list_result out = {.next = next,
                                             .objects = slice_of(found.data, found.len)};
        buf_clear(&request->node->scratch);
        rv = message_encode_object_list_result(&out, &request->node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_OBJECT_LIST_RESULT);
    }
    buf_close(&found);
    return rv;
}

static int read_heap_open(struct request *request)
{
    struct node *node = request->node;
    struct msg_heap_open m;
    struct catalog_heap heap;
    uint8_t *shards = NULL;
    int rv = message_decode_heap_open(request->body, &m);
    if (rv == 0) {
        rv = catalog_find(node->replica, m.name, &heap);
    }
    if (rv != 0) {
        return rv;
    }
    assert(heap.shard_count <= SHARDS_PER_HEAP_MAX);
    size_t bytes = heap.shard_count * 12u;
    shards = mem_alloc(bytes);
    if (shards == NULL) {
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; rv == 0 && i < heap.shard_count; i++) {
        struct catalog_shard shard;
        rv = catalog_shard_of(node->replica, m.name, i, &shard);
        if (rv == 0) {
            store_u64(shards + i * 12u, shard.uid);
            store_u32(shards + i * 12u + 8, replica_id_node(shard.members[0]));
        }
    }
    if (rv == 0) {
        struct msg_heap_info out = {.heap_id = heap.heap_id,
                                    .shard_bytes_max = heap.shard_bytes_max,
                                    .shards = slice_of(shards, bytes)};
        buf_clear(&node->scratch);
        rv = message_encode_heap_info(&out, &node->scratch);
    }
    if (rv == 0) {
        dispatch__answer(request, KIND_HEAP_INFO);
    }
    mem_free(shards);
    return rv;
}

int reads__answer(struct request *request, const struct heap *heap)
{
    switch (request->kind) {
    case KIND_READ:
        return not_yet(request, heap, read_object(request, heap));
    case KIND_STAT:
        return not_yet(request, heap, read_stat(request, heap));
    case KIND_ROOT_GET:
        return read_root(request, heap);
    case KIND_ROOT_LIST:
        return read_root_list(request, heap);
    case KIND_HISTORY:
        return read_history(request, heap);
    case KIND_TYPE_LIST:
        return read_type_list(request, heap);
    case KIND_TYPE_GET:
        return read_type_get(request, heap);
    case KIND_LEASE_GET:
        return read_lease(request, heap);
    case KIND_OBJECT_LIST:
        return read_object_list(request, heap);
    case KIND_TX_VALIDATE:
        return tx__validate(request, heap);
    case KIND_FETCH:
        return fetch__answer(request, heap);
    default:
        assert(request->kind == KIND_HEAP_OPEN);
        return read_heap_open(request);
    }
}

uint8_t reads__wanted_turn(uint16_t kind, struct slice body, uint64_t *ptr)
{
    struct msg_read read;
    if (kind != KIND_READ || message_decode_read(body, &read) != 0 || read.at != 0) {
        return 0;
    }
    *ptr = read.ptr;
    return read.turn;
}

uint64_t reads__wanted_version(uint16_t kind, struct slice body)
{
    struct msg_read read;
    struct msg_stat stat;
    struct msg_root_get root;
    struct msg_root_list list;
    struct msg_tx_validate validate;
    struct msg_fetch fetch;
    if (kind == KIND_READ && message_decode_read(body, &read) == 0) {
        return read.at;
    }
    if (kind == KIND_STAT && message_decode_stat(body, &stat) == 0) {
        return stat.at;
    }
    if (kind == KIND_ROOT_GET && message_decode_root_get(body, &root) == 0) {
        return root.at;
    }
    if (kind == KIND_ROOT_LIST && message_decode_root_list(body, &list) == 0) {
        return list.at;
    }
    if (kind == KIND_FETCH && message_decode_fetch(body, &fetch) == 0) {
        return fetch.at;
    }
    if (kind == KIND_TX_VALIDATE && message_decode_tx_validate(body, &validate) == 0) {
        return validate.clock;
    }
    return 0;
}
