/* The read and write set of a transaction, in memory. */
#include "client/tx_set.h"

#include <string.h>

#include "base/assert.h"
#include "base/mem.h"

struct tx_set *sdk__tx_set_new(struct cairn_client *client)
{
    struct tx_set *set = mem_alloc(sizeof *set);
    if (set != NULL) {
        memset(set, 0, offsetof(struct tx_set, room_objects));
        set->client = client;
        set->buckets = set->buckets_first;
        set->bucket_count = TX_BUCKETS_FIRST;
        sdk__tx_memory_init(&set->memory, set->room_objects, sizeof set->room_objects);
        sdk__tx_memory_init(&set->bytes.memory, set->room_ranges, sizeof set->room_ranges);
        list_init(&set->objects);
        list_init(&set->roots);
        list_init(&set->directories);
        list_init(&set->parts);
        list_init(&set->ranges);
    }
    return set;
}

static void bytes_drop(struct tx_set *set, struct list *ranges)
{
    list_for_each (it, ranges) {
        sdk__tx_bytes_drop(&set->bytes, &list_entry(it, struct tx_range, link)->bytes);
    }
}

void sdk__tx_set_drop_bytes(struct tx_set *set)
{
    for (struct list *it = set->objects.next; set->bytes.large > 0; it = it->next) {
        assert(it != &set->objects);
        bytes_drop(set, &list_entry(it, struct tx_object, link)->writes);
        bytes_drop(set, &list_entry(it, struct tx_object, link)->compares);
    }
    sdk__tx_memory_close(&set->bytes.memory);
}

void sdk__tx_set_free(struct tx_set *set)
{
    sdk__tx_release(set);
    sdk__tx_set_drop_bytes(set);
    if (set->kept != NULL) {
        sdk__embedded_let_go(set->kept);
    }
    list_for_each_safe (it, next, &set->parts) {
        if (it != &set->first.link) {
            mem_free(list_entry(it, struct cairn_tx, link));
        }
    }
    if (set->buckets != set->buckets_first) {
        mem_free(set->buckets);
    }
    sdk__tx_memory_close(&set->memory);
    mem_free(set);
}

int sdk__tx_name_compare(struct slice a, struct slice b)
{
    size_t common = a.len < b.len ? a.len : b.len;
    int order = common == 0 ? 0 : memcmp(a.data, b.data, common);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

/* ---- what it has to do with ---- */

static struct tx_object **bucket_of(const struct tx_set *set, uint64_t ptr)
{
    uint64_t bits = ptr * UINT64_C(0x9e3779b97f4a7c15);
    return &set->buckets[(bits >> 40) & (set->bucket_count - 1)];
}

static void object_hang(const struct tx_set *set, struct tx_object *object)
{
    struct tx_object **bucket = bucket_of(set, object->ptr);
    object->next = *bucket;
    *bucket = object;
}

/* Without memory it is slower, and that is all. */
static void buckets_grow(struct tx_set *set)
{
    uint32_t count = set->bucket_count * 4;
    struct tx_object **buckets = mem_zalloc(count * sizeof *buckets);
    if (buckets == NULL) {
        return;
    }
    if (set->buckets != set->buckets_first) {
        mem_free(set->buckets);
    }
    set->buckets = buckets;
    set->bucket_count = count;
    list_for_each (it, &set->objects) {
        object_hang(set, list_entry(it, struct tx_object, link));
    }
}

struct tx_object *sdk__tx_set_object(struct tx_set *set, struct cairn_heap *heap,
                                     struct core_shard *shard, uint64_t ptr)
{
    for (struct tx_object *object = *bucket_of(set, ptr); object != NULL; object = object->next) {
        if (object->ptr == ptr && object->shard == shard) {
            return object;
        }
    }
    struct tx_object *object = sdk__tx_memory_take(&set->memory, sizeof *object);
    if (object == NULL) {
        return NULL;
    }
    *object = (struct tx_object){.heap = heap, .shard = shard, .ptr = ptr};
    list_init(&object->writes);
    list_init(&object->compares);
    if (set->object_count == set->bucket_count) {
        buckets_grow(set);
    }
    list_push_back(&set->objects, &object->link);
    object_hang(set, object);
    set->object_count++;
    return object;
}

struct tx_root *sdk__tx_set_root(struct tx_set *set, struct cairn_heap *heap,
                                 struct core_shard *shard, struct slice name)
{
    assert(name.len <= ROOT_NAME_BYTES_MAX);
    list_for_each (it, &set->roots) {
        struct tx_root *root = list_entry(it, struct tx_root, link);
        if (root->shard == shard && slice_equals(slice_of(root->name, root->name_len), name)) {
            return root;
        }
    }
    struct tx_root *root = sdk__tx_memory_take(&set->memory, sizeof *root);
    if (root != NULL) {
        *root = (struct tx_root){.heap = heap, .shard = shard};
        memcpy(root->name, name.data, name.len);
        root->name_len = name.len;
        list_push_back(&set->roots, &root->link);
    }
    return root;
}

struct tx_directory *sdk__tx_set_directory(struct tx_set *set, struct cairn_heap *heap,
                                           struct core_shard *shard)
{
    list_for_each (it, &set->directories) {
        struct tx_directory *directory = list_entry(it, struct tx_directory, link);
        if (directory->shard == shard) {
            return directory;
        }
    }
    struct tx_directory *directory = sdk__tx_memory_take(&set->memory, sizeof *directory);
    if (directory != NULL) {
        *directory = (struct tx_directory){.heap = heap, .shard = shard};
        list_push_back(&set->directories, &directory->link);
    }
    return directory;
}

int sdk__tx_set_charge(struct tx_set *set, uint32_t items, size_t bytes)
{
    size_t more = items * sizeof(struct txn_item) + bytes;
    if (items > set->opts.items_max - set->items) {
        return sdk__fail(CAIRN_E_LIMIT,
                         "the transaction has %u checks and operations already: divide it",
                         set->items);
    }
    if (more > set->opts.bytes_max || set->size > set->opts.bytes_max - more) {
        return sdk__because(CAIRN_E_TOOBIG, "the transaction would have more than %u bytes",
                            set->opts.bytes_max);
    }
    set->items += items;
    set->size += more;
    return 0;
}

void sdk__tx_set_refund(struct tx_set *set, uint32_t items, size_t bytes)
{
    assert(set->items >= items);
    assert(set->size >= items * sizeof(struct txn_item) + bytes);
    set->items -= items;
    set->size -= items * sizeof(struct txn_item) + bytes;
}

/* ---- what was read ---- */

static void saw(struct tx_set *set, uint64_t version)
{
    set->clock = version > set->clock ? version : set->clock;
}

/* Reads at a time need no checks, and those of read committed get none. */
static bool counts(const struct tx_set *set)
{
    return set->at == 0 && set->opts.isolation == CAIRN_SERIALIZABLE;
}

int sdk__tx_set_saw_object(struct tx_set *set, struct tx_object *object, uint64_t version)
{
    saw(set, version);
    if (object->checked) {
        return object->version == version
                   ? 0
                   : sdk__because(CAIRN_E_CONFLICT, "the object has changed since it was read");
    }
    if (!counts(set)) {
        return 0;
    }
    int rv = sdk__tx_set_charge(set, 1, 0);
    if (rv == 0) {
        object->version = version;
        object->checked = true;
    }
    return rv;
}

int sdk__tx_set_saw_root(struct tx_set *set, struct tx_root *root, uint64_t version, uint64_t ptr)
{
    saw(set, version);
    if (root->checked) {
        return root->version == version
                   ? 0
                   : sdk__because(CAIRN_E_CONFLICT, "root '%.64s' has changed since it was read",
                                  root->name);
    }
    root->version = version;
    root->ptr = ptr;
    if (!counts(set)) {
        return 0;
    }
    int rv = sdk__tx_set_charge(set, 1, root->name_len);
    root->checked = rv == 0;
    return rv;
}

int sdk__tx_set_saw_directory(struct tx_set *set, struct tx_directory *directory, uint64_t version)
{
    saw(set, version);
    if (!counts(set)) {
        return 0;
    }
    if (directory->checked) { /* version 0, too: no name ever came or went */
        return directory->version == version
                   ? 0
                   : sdk__because(CAIRN_E_CONFLICT,
                                  "the set of roots has changed since it was read");
    }
    int rv = sdk__tx_set_charge(set, 1, 0);
    if (rv == 0) {
        directory->version = version;
        directory->checked = true;
    }
    return rv;
}

/* ---- own writes ---- */

static uint64_t end_of(const struct tx_range *range)
{
    return range->offset + range->bytes.len;
}

static struct tx_range *range_of(struct list *it)
{
    return list_entry(it, struct tx_range, link);
}

/* Empty, and of no list; NULL: no memory. */
static struct tx_range *range_new(struct tx_set *set, uint64_t offset)
{
    struct tx_range *range;
    if (list_empty(&set->ranges)) {
        range = sdk__tx_memory_take(&set->bytes.memory, sizeof *range);
    } else {
        range = range_of(set->ranges.next);
        list_remove(&range->link);
    }
    if (range != NULL) {
        *range = (struct tx_range){.offset = offset};
    }
    return range;
}

static void range_free(struct tx_set *set, struct tx_range *range)
{
    sdk__tx_bytes_drop(&set->bytes, &range->bytes);
    list_push_front(&set->ranges, &range->link);
}

void sdk__tx_overlay(const struct tx_object *object, uint64_t offset, uint8_t *data, size_t len)
{
    list_for_each (it, &object->writes) {
        const struct tx_range *range = range_of(it);
        uint64_t from = range->offset > offset ? range->offset : offset;
        uint64_t to = end_of(range) < offset + len ? end_of(range) : offset + len;
        if (from < to) {
            memcpy(data + (from - offset), range->bytes.data + (from - range->offset), to - from);
        }
    }
}

bool sdk__tx_covered(const struct tx_object *object, uint64_t offset, size_t len)
{
    list_for_each (it, &object->writes) { /* those that touch are one */
        const struct tx_range *range = range_of(it);
        if (range->offset <= offset && offset + len <= end_of(range)) {
            return true;
        }
    }
    return false;
}

/* The range that the new bytes continue or overlap, or a new one in its place. */
static int range_open(struct tx_set *set, struct tx_object *object, uint64_t offset,
                      struct tx_range **out)
{
    struct list *at = object->writes.next;
    while (at != &object->writes && end_of(range_of(at)) < offset) {
        at = at->next;
    }
    if (at != &object->writes && range_of(at)->offset <= offset) {
        *out = range_of(at);
        return 0;
    }
    int rv = sdk__tx_set_charge(set, 1, 0);
    if (rv != 0) {
        return rv;
    }
    struct tx_range *range = range_new(set, offset);
    if (range == NULL) {
        sdk__tx_set_refund(set, 1, 0);
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    list_push_back(at, &range->link); /* in front of it */
    *out = range;
    return 0;
}

static void range_close(struct tx_set *set, struct tx_range *range)
{
    sdk__tx_set_refund(set, 1, range->bytes.len);
    list_remove(&range->link);
    range_free(set, range);
}

int sdk__tx_write_bytes(struct tx_set *set, struct tx_object *object, uint64_t offset,
                        struct slice data)
{
    uint64_t end = offset + data.len;
    struct tx_range *range = NULL;
    int rv = range_open(set, object, offset, &range);
    if (range == NULL) {
        return rv;
    }
    /* What it will be in the end, so that nothing fails halfway. */
    uint64_t last = end_of(range) > end ? end_of(range) : end;
    for (struct list *it = range->link.next; it != &object->writes; it = it->next) {
        if (range_of(it)->offset > end) {
            break;
        }
        last = end_of(range_of(it)) > last ? end_of(range_of(it)) : last;
    }
    size_t grown = (size_t)(last - range->offset) - range->bytes.len;
    rv = sdk__tx_set_charge(set, 0, grown);
    if (rv == 0 && sdk__tx_bytes_reserve(&set->bytes, &range->bytes, grown) != 0) {
        sdk__tx_set_refund(set, 0, grown);
        rv = sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    if (rv != 0) {
        if (range->bytes.len == 0) {
            range_close(set, range);
        }
        return rv;
    }
    while (range->link.next != &object->writes && range_of(range->link.next)->offset <= end) {
        struct tx_range *next = range_of(range->link.next);
        size_t have = (size_t)(next->offset - range->offset);
        if (range->bytes.len < have + next->bytes.len) {
            range->bytes.len = have + next->bytes.len;
        }
        memcpy(range->bytes.data + have, next->bytes.data, next->bytes.len);
        range_close(set, next);
    }
    range->bytes.len = (size_t)(last - range->offset);
    memcpy(range->bytes.data + (offset - range->offset), data.data, data.len);
    set->writes = true;
    return 0;
}

void sdk__tx_drop_writes(struct tx_set *set, struct tx_object *object)
{
    while (!list_empty(&object->writes)) {
        range_close(set, range_of(object->writes.next));
    }
}

/* ---- compares ---- */

int sdk__tx_compare_later(struct tx_set *set, struct tx_object *object, uint64_t offset,
                          struct slice expected)
{
    if (expected.len == 0) {
        return 0;
    }
    int rv = sdk__tx_set_charge(set, 1, expected.len);
    if (rv != 0) {
        return rv;
    }
    struct tx_range *range = range_new(set, offset);
    if (range == NULL || sdk__tx_bytes_reserve(&set->bytes, &range->bytes, expected.len) != 0) {
        if (range != NULL) {
            range_free(set, range);
        }
        sdk__tx_set_refund(set, 1, expected.len);
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    (void)buf_append(&range->bytes, expected.data, expected.len); /* for which there is room */
    list_push_back(&object->compares, &range->link);
    set->demands++;
    return 0;
}

int sdk__tx_compare_bytes(struct tx_set *set, struct tx_object *object, uint64_t offset,
                          struct slice expected)
{
    uint64_t at = offset;
    uint64_t end = offset + expected.len;
    list_for_each (it, &object->writes) {
        const struct tx_range *range = range_of(it);
        uint64_t from = range->offset > at ? range->offset : at;
        uint64_t to = end_of(range) < end ? end_of(range) : end;
        if (from >= to) {
            continue;
        }
        if (memcmp(range->bytes.data + (from - range->offset), expected.data + (from - offset),
                   to - from) != 0) {
            return sdk__because(CAIRN_E_CONFLICT, "the transaction itself has written other bytes");
        }
        int rv = sdk__tx_compare_later(
            set, object, at, slice_of(expected.data + (at - offset), (size_t)(from - at)));
        if (rv != 0) {
            return rv;
        }
        at = to;
    }
    return sdk__tx_compare_later(set, object, at,
                                 slice_of(expected.data + (at - offset), (size_t)(end - at)));
}
