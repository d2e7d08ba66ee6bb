/* A transaction's set as the parts that its shards get. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "client/tx_set.h"

static int no_memory(void)
{
    return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
}

/* ---- items ---- */

struct item {
    enum txn_item_kind kind;
    enum txn_check_mode mode;
    uint64_t ptr, value;
    uint32_t type;
    struct slice name, bytes;
};

static int part_of(struct tx_parts *parts, struct cairn_heap *heap, struct core_shard *shard,
                   struct tx_part **out)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        if (parts->parts[i].shard == shard) {
            *out = &parts->parts[i];
            return 0;
        }
    }
    if (parts->count == TX_PARTICIPANTS_MAX) {
        return sdk__fail(CAIRN_E_LIMIT, "the transaction has more than %d shards: divide it",
                         TX_PARTICIPANTS_MAX);
    }
    struct tx_part *part = &parts->parts[parts->count];
    *part = (struct tx_part){.heap = heap, .shard = shard};
    uint8_t *header = buf_extend(&part->bytes, sizeof(struct txn_part_header));
    if (header == NULL) {
        return no_memory();
    }
    memset(header, 0, sizeof(struct txn_part_header));
    parts->count++;
    *out = part;
    return 0;
}

static int put(struct tx_parts *parts, struct cairn_heap *heap, struct core_shard *shard,
               const struct item *item)
{
    struct tx_part *part = NULL;
    int rv = part_of(parts, heap, shard, &part);
    if (rv != 0) {
        return rv;
    }
    uint8_t *at =
        buf_extend(&part->bytes, sizeof(struct txn_item) + item->name.len + item->bytes.len);
    if (at == NULL) {
        return no_memory();
    }
    memset(at, 0, sizeof(struct txn_item));
    at[0] = (uint8_t)item->kind;
    at[1] = (uint8_t)item->mode;
    store_u16(at + 2, (uint16_t)item->name.len);
    store_u32(at + 4, (uint32_t)item->bytes.len);
    store_u64(at + 8, item->ptr);
    store_u64(at + 16, item->value);
    store_u32(at + 24, item->type);
    if (item->name.len > 0) {
        memcpy(at + sizeof(struct txn_item), item->name.data, item->name.len);
    }
    if (item->bytes.len > 0) {
        memcpy(at + sizeof(struct txn_item) + item->name.len, item->bytes.data, item->bytes.len);
    }
    part->items++;
    part->writes = part->writes || item->kind >= TXN_ALLOC;
    store_u64(part->bytes.data, part->session);
    store_u32(part->bytes.data + 8, part->items);
    return 0;
}

static int put_object(struct tx_parts *parts, const struct tx_object *object, struct item item)
{
    item.ptr = object->ptr;
    return put(parts, object->heap, object->shard, &item);
}

static int put_root(struct tx_parts *parts, const struct tx_root *root, struct item item)
{
    item.name = slice_of(root->name, root->name_len);
    return put(parts, root->heap, root->shard, &item);
}

/* ---- checks: all of them before the first operation ---- */

static int put_checks(struct tx_parts *parts, const struct tx_object *object)
{
    int rv = 0;
    if (object->checked) {
        rv = put_object(parts, object,
                        (struct item){.kind = TXN_CHECK_OBJECT, .value = object->version});
    }
    if (rv == 0 && object->live && !object->born) {
        rv = put_object(parts, object, (struct item){.kind = TXN_CHECK_LIVE});
    }
    list_for_each (it, &object->compares) {
        const struct tx_range *range = list_entry(it, struct tx_range, link);
        if (rv == 0) {
            rv = put_object(parts, object,
                            (struct item){.kind = TXN_CHECK_BYTES,
                                          .value = range->offset,
                                          .bytes = slice_of(range->bytes.data, range->bytes.len)});
        }
    }
    return rv;
}

/* Snapshot level: who committed first, after the version that this transaction has seen, wins. */
static int put_unchanged(const struct tx_set *set, struct tx_parts *parts)
{
    int rv = 0;
    list_for_each (it, &set->objects) {
        const struct tx_object *object = list_entry(it, struct tx_object, link);
        bool changes = !object->born && (object->freed || !list_empty(&object->writes));
        if (rv == 0 && changes) {
            rv = put_object(
                parts, object,
                (struct item){.kind = TXN_CHECK_OBJECT, .mode = TXN_NOT_NEWER, .value = set->at});
        }
    }
    list_for_each (it, &set->roots) {
        const struct tx_root *root = list_entry(it, struct tx_root, link);
        if (rv == 0 && root->written) {
            rv = put_root(
                parts, root,
                (struct item){.kind = TXN_CHECK_ROOT, .mode = TXN_NOT_NEWER, .value = set->at});
        }
    }
    return rv;
}

static int put_all_checks(const struct tx_set *set, struct tx_parts *parts)
{
    bool snapshot = set->opts.isolation == CAIRN_SNAPSHOT && set->at != 0;
    int rv = snapshot ? put_unchanged(set, parts) : 0;
    list_for_each (it, &set->objects) {
        if (rv == 0) {
            rv = put_checks(parts, list_entry(it, struct tx_object, link));
        }
    }
    list_for_each (it, &set->roots) {
        const struct tx_root *root = list_entry(it, struct tx_root, link);
        if (rv == 0 && root->checked) {
            rv = put_root(parts, root,
                          (struct item){.kind = TXN_CHECK_ROOT, .value = root->version});
        }
    }
    list_for_each (it, &set->directories) {
        const struct tx_directory *directory = list_entry(it, struct tx_directory, link);
        if (rv == 0 && directory->checked) {
            struct item item = {.kind = TXN_CHECK_DIRECTORY, .value = directory->version};
            rv = put(parts, directory->heap, directory->shard, &item);
        }
    }
    return rv;
}

/* ---- operations ---- */

static int put_alloc(struct tx_parts *parts, const struct tx_object *object, struct slice init)
{
    struct tx_part *part = NULL;
    int rv = part_of(parts, object->heap, object->shard, &part);
    if (rv != 0) {
        return rv;
    }
    if (part->session != 0 && part->session != object->session) {
        return sdk__because(CAIRN_E_CONFLICT, "the session with a shard ended, and with it the "
                                              "promise of the pointers that were allocated");
    }
    part->session = object->session;
    return put_object(
        parts, object,
        (struct item){
            .kind = TXN_ALLOC, .value = object->size, .type = object->type, .bytes = init});
}

/* What was born and freed was never there. */
static int put_operations(struct tx_parts *parts, const struct tx_object *object)
{
    if (object->freed) {
        return object->born ? 0 : put_object(parts, object, (struct item){.kind = TXN_FREE});
    }
    struct list *at = object->writes.next;
    int rv = 0;
    if (object->born) {
        struct slice init = {0};
        if (at != &object->writes && list_entry(at, struct tx_range, link)->offset == 0) {
            const struct buf *bytes = &list_entry(at, struct tx_range, link)->bytes;
            init = slice_of(bytes->data, bytes->len);
            at = at->next;
        }
        rv = put_alloc(parts, object, init);
    }
    for (; rv == 0 && at != &object->writes; at = at->next) {
        const struct tx_range *range = list_entry(at, struct tx_range, link);
        rv = put_object(parts, object,
                        (struct item){.kind = TXN_WRITE,
                                      .value = range->offset,
                                      .bytes = slice_of(range->bytes.data, range->bytes.len)});
    }
    return rv;
}

static int put_all_operations(const struct tx_set *set, struct tx_parts *parts)
{
    int rv = 0;
    list_for_each (it, &set->objects) {
        if (rv == 0) {
            rv = put_operations(parts, list_entry(it, struct tx_object, link));
        }
    }
    list_for_each (it, &set->roots) {
        const struct tx_root *root = list_entry(it, struct tx_root, link);
        if (rv == 0 && root->written) {
            struct item item = {.kind = root->desired == 0 ? TXN_ROOT_DELETE : TXN_ROOT_SET,
                                .ptr = root->desired};
            rv = put_root(parts, root, item);
        }
    }
    return rv;
}

int sdk__tx_parts_burn(struct tx_parts *parts, const struct tx_object *object)
{
    struct tx_object empty = {.heap = object->heap,
                              .shard = object->shard,
                              .ptr = object->ptr,
                              .session = object->session,
                              .size = 1};
    struct tx_part *part = NULL;
    int rv = part_of(parts, object->heap, object->shard, &part);
    if (rv == 0 && part->items == 0) { /* which no object has */
        rv =
            put_object(parts, &empty, (struct item){.kind = TXN_CHECK_OBJECT, .value = UINT64_MAX});
    }
    return rv != 0 ? rv : put_alloc(parts, &empty, slice_of(NULL, 0));
}

int sdk__tx_parts_encode(const struct tx_set *set, struct tx_parts *out)
{
    int rv = put_all_checks(set, out);
    if (rv == 0) {
        rv = put_all_operations(set, out);
    }
    size_t bytes = 0;
    uint32_t items = 0;
    for (uint32_t i = 0; rv == 0 && i < out->count; i++) {
        size_t len = out->parts[i].bytes.len;
        bytes += len + 12;
        items += out->parts[i].items;
        if (out->count > 1 && len > TX_PART_BYTES_MAX) {
            rv =
                sdk__fail(CAIRN_E_TOOBIG, "%zu bytes for one of several shards; at most %u on each",
                          len, TX_PART_BYTES_MAX);
        } else if (bytes > TX_BYTES_MAX) {
            rv = sdk__because(CAIRN_E_TOOBIG, "a transaction of more than %u bytes", TX_BYTES_MAX);
        } else if (items > TX_ITEMS_MAX) {
            rv =
                sdk__because(CAIRN_E_LIMIT,
                             "with a check for each that it changes, the transaction has more than "
                             "%d checks and operations",
                             TX_ITEMS_MAX);
        }
    }
    return rv;
}

static void home_is(struct tx_parts *parts, uint32_t home)
{
    struct tx_part first = parts->parts[0];
    parts->parts[0] = parts->parts[home];
    parts->parts[home] = first;
}

int sdk__tx_parts_home(struct tx_parts *parts, struct cairn_heap *heap, struct core_shard *shard)
{
    struct tx_part *part = NULL;
    int rv = part_of(parts, heap, shard, &part);
    if (rv == 0) {
        home_is(parts, (uint32_t)(part - parts->parts));
    }
    return rv;
}

void sdk__tx_parts_order(struct tx_parts *parts)
{
    uint32_t home = 0;
    for (uint32_t i = 1; i < parts->count; i++) {
        const struct tx_part *a = &parts->parts[i];
        const struct tx_part *b = &parts->parts[home];
        if (a->items > b->items || (a->items == b->items && a->shard->uid < b->shard->uid)) {
            home = i;
        }
    }
    home_is(parts, home);
}

int sdk__tx_parts_join(const struct tx_parts *parts, struct buf *out)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        const struct tx_part *part = &parts->parts[i];
        uint8_t prefix[12];
        store_u64(prefix, part->shard->uid);
        store_u32(prefix + 8, (uint32_t)part->bytes.len);
        if (buf_append(out, prefix, sizeof prefix) != 0 ||
            buf_append(out, part->bytes.data, part->bytes.len) != 0) {
            return no_memory();
        }
    }
    return 0;
}

void sdk__tx_parts_free(struct tx_parts *parts)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        buf_close(&parts->parts[i].bytes);
    }
}

/* ---- conflicts ---- */

/* The name in item `number`, if that is of a root. */
static bool name_in(const struct tx_part *part, uint64_t number, struct slice *name)
{
    struct cursor c = cursor_of(slice_of(part->bytes.data, part->bytes.len));
    (void)cursor_bytes(&c, sizeof(struct txn_part_header));
    for (uint64_t i = 0; i < part->items; i++) {
        struct slice item = cursor_bytes(&c, sizeof(struct txn_item));
        assert(!c.failed);
        *name = cursor_bytes(&c, load_u16(item.data + 2));
        (void)cursor_bytes(&c, load_u32(item.data + 4));
        if (i == number) {
            return name->len > 0;
        }
    }
    return false;
}

uint64_t sdk__tx_conflict_say(const struct tx_parts *parts, uint64_t what, uint64_t version,
                              char *text, size_t size)
{
    if ((what & TXN_CONFLICT_NAMED) == 0) {
        char ptr[CAIRN_PTR_TEXT_BYTES];
        cairn_ptr_format((cairn_ptr){what}, ptr, sizeof ptr);
        (void)snprintf(text, size,
                       "object %s is not as the transaction wants it (version %" PRIu64 " now)",
                       ptr, version);
        return what;
    }
    struct slice name = {0};
    /* Which shard of several it was isn't known: then it is named only where one could be meant. */
    uint32_t candidates = 0;
    struct slice found = {0};
    for (uint32_t i = 0; i < parts->count; i++) {
        if (name_in(&parts->parts[i], what & ~TXN_CONFLICT_NAMED, &found)) {
            name = found;
            candidates++;
        }
    }
    if (candidates == 1) {
        (void)snprintf(text, size, "root '%.*s' is not as the transaction wants it", (int)name.len,
                       (const char *)name.data);
    } else {
        (void)snprintf(text, size, "a root, or the set of roots, has changed");
    }
    return 0;
}
