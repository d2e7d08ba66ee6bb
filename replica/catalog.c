/* The catalogue of heaps and the table of nodes, in the meta shard's arena. Everything that a
 * decision needs lies there too: no replica's own configuration may decide where a shard goes (I2).
 */
#include <stdio.h>
#include <string.h>

#include "replica/internal.h"

#define REPLICAS_DEFAULT 3u

static const char counters_key[] = "counters";
static const char node_prefix[] = "node/";

static struct slice text_slice(const char *text)
{
    return slice_of(text, strlen(text));
}

static struct slice node_key(uint32_t node, char key[16])
{
    (void)snprintf(key, 16, "%s%03u", node_prefix, node);
    return text_slice(key);
}

/* ---- records
 * -------------------------------------------------------------------------------------------------------
 */

static void counters_get(const struct heap *heap, struct meta_counters *out)
{
    struct slice value;
    if (heap_map_get(heap, HEAP_MAP_META, text_slice(counters_key), &value) == 0) {
        memcpy(out, value.data, sizeof *out);
    } else {
        out->next_uid = SHARD_UID_FIRST;
        out->next_heap_id = 1;
    }
}

static int counters_put(struct heap *heap, const struct meta_counters *counters)
{
    return heap_map_put(heap, HEAP_MAP_META, text_slice(counters_key),
                        slice_of(counters, sizeof *counters));
}

static int node_get(const struct heap *heap, uint32_t node, struct node_record *out)
{
    char key[16];
    struct slice value;
    int rv = heap_map_get(heap, HEAP_MAP_META, node_key(node, key), &value);
    if (rv == 0) {
        memcpy(out, value.data, sizeof *out);
    }
    return rv;
}

static int node_put(struct heap *heap, const struct node_record *record)
{
    char key[16];
    return heap_map_put(heap, HEAP_MAP_META, node_key(record->node, key),
                        slice_of(record, sizeof *record));
}

uint32_t catalog_nodes(const struct heap *meta, uint64_t ids[NODES_MAX])
{
    uint32_t count = 0;
    struct slice after = text_slice(node_prefix);
    struct slice key;
    struct slice value;
    while (count < NODES_MAX && heap_map_next(meta, HEAP_MAP_META, after, &key, &value) == 0) {
        if (key.len < sizeof node_prefix - 1 ||
            memcmp(key.data, node_prefix, sizeof node_prefix - 1) != 0) {
            break;
        }
        struct node_record record;
        memcpy(&record, value.data, sizeof record);
        ids[count++] = record.replica_id;
        after = key;
    }
    return count;
}

static void shard_record_get(struct slice value, uint32_t i, struct catalog_shard_record *out)
{
    memcpy(out, value.data + sizeof(struct catalog_record) + (size_t)i * sizeof *out, sizeof *out);
}

static void record_get(struct slice value, struct catalog_record *out)
{
    memcpy(out, value.data, sizeof *out);
    assert(value.len ==
           sizeof *out + (size_t)out->shard_count * sizeof(struct catalog_shard_record));
}

static bool heap_is_sound(struct slice name, struct slice value)
{
    struct catalog_record record;
    if (name.len > HEAP_NAME_BYTES_MAX || value.len < sizeof record) {
        return false;
    }
    memcpy(&record, value.data, sizeof record);
    if (record.shard_count > SHARDS_PER_HEAP_MAX ||
        value.len != sizeof record + record.shard_count * sizeof(struct catalog_shard_record)) {
        return false;
    }
    for (uint32_t i = 0; i < record.shard_count; i++) {
        struct catalog_shard_record shard;
        shard_record_get(value, i, &shard);
        if (shard.count == 0 || shard.count > REPLICAS_MAX) {
            return false;
        }
    }
    return true;
}

bool catalog_is_sound(const struct heap *heap)
{
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(heap, HEAP_MAP_CATALOG, key, &key, &value) == 0) {
        if (!heap_is_sound(key, value)) {
            return false;
        }
    }
    key = slice_of(NULL, 0);
    while (heap_map_next(heap, HEAP_MAP_META, key, &key, &value) == 0) {
        bool node = key.len >= sizeof node_prefix - 1 &&
                    memcmp(key.data, node_prefix, sizeof node_prefix - 1) == 0;
        if (value.len != (node ? sizeof(struct node_record) : sizeof(struct meta_counters))) {
            return false;
        }
    }
    return true;
}

/* ---- commands
 * ------------------------------------------------------------------------------------------------------
 */

int catalog_founded(struct heap *heap, const struct consensus_config *config)
{
    for (uint32_t i = 0; i < config->count; i++) {
        uint64_t id = config->servers[i].id;
        struct node_record record = {.replica_id = id, .node = replica_id_node(id)};
        int rv = node_put(heap, &record);
        if (rv != 0) {
            return rv;
        }
    }
    struct meta_counters counters;
    counters_get(heap, &counters);
    return counters_put(heap, &counters);
}

static bool name_is_valid(struct slice name)
{
    if (name.len == 0 || name.len > HEAP_NAME_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || (c != '_' && c != '-'))) {
            return false;
        }
    }
    return true;
}

struct load {
    uint64_t ids[NODES_MAX];
    uint32_t shards[NODES_MAX];
    uint32_t count;
};

static bool load_add(void *arg, const struct catalog_place *place)
{
    struct load *load = arg;
    for (uint32_t k = 0; k < place->count; k++) {
        for (uint32_t n = 0; n < load->count; n++) {
            load->shards[n] += replica_id_node(place->members[k]) == replica_id_node(load->ids[n]);
        }
    }
    return true;
}

/* The limits of all heaps together. Each is address space from the start on every node with a
 * replica. */
static uint64_t bytes_promised(const struct heap *heap)
{
    uint64_t sum = 0;
    struct catalog_record record;
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(heap, HEAP_MAP_CATALOG, key, &key, &value) == 0) {
        record_get(value, &record);
        sum += record.shard_bytes_max * record.shard_count;
    }
    return sum;
}

int catalog_heap_create(struct heap *heap, const struct msg_heap_create *m, uint64_t version,
                        uint64_t *id, int *fatal)
{
    *fatal = 0;
    if (!name_is_valid(m->name) || m->shard_count == 0 || m->shard_count > SHARDS_PER_HEAP_MAX ||
        m->replicas > REPLICAS_MAX || m->shard_bytes_max < SHARD_BYTES_MIN ||
        m->shard_bytes_max > SHARD_BYTES_MAX || m->retention_ms > RETENTION_MS_MAX) {
        return ERR_INVAL;
    }
    struct slice found;
    if (heap_map_get(heap, HEAP_MAP_CATALOG, m->name, &found) == 0) {
        return ERR_EXISTS;
    }
    struct load load = {.count = 0};
    load.count = catalog_nodes(heap, load.ids);
    uint32_t nodes = load.count;
    uint32_t replicas = m->replicas != 0           ? m->replicas
                        : nodes < REPLICAS_DEFAULT ? nodes
                                                   : REPLICAS_DEFAULT;
    if (nodes == 0 || replicas > nodes) {
        return ERR_INVAL;
    }
    if (heap_map_count(heap, HEAP_MAP_CATALOG) >= HEAPS_MAX) {
        return ERR_LIMIT;
    }
    if (m->shard_bytes_max * m->shard_count + bytes_promised(heap) > HEAPS_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    catalog_places(heap, load_add, &load);

    size_t bytes = sizeof(struct catalog_record) +
                   (size_t)m->shard_count * sizeof(struct catalog_shard_record);
    uint8_t *value = mem_zalloc(bytes);
    if (value == NULL) {
        *fatal = ERR_NOMEM;
        return ERR_NOMEM;
    }
    struct meta_counters counters;
    counters_get(heap, &counters);
    struct catalog_record record = {
        .heap_id = counters.next_heap_id,
        .shard_bytes_max =
            (m->shard_bytes_max + HEAP_PAGE_BYTES - 1) / HEAP_PAGE_BYTES * HEAP_PAGE_BYTES,
        .created = version,
        .retention_ms = m->retention_ms,
        .shard_count = m->shard_count,
        .replicas = replicas,
    };
    memcpy(value, &record, sizeof record);
    int rv = 0;
    for (uint32_t i = 0; i < m->shard_count && rv == 0; i++) {
        struct catalog_shard_record shard = {.uid = counters.next_uid + i, .count = replicas};
        for (uint32_t k = 0; k < replicas; k++) {
            uint32_t n = (i + k) % nodes;
            shard.members[k] = load.ids[n];
            shard.founders[k] = load.ids[n];
            /* One place is the meta shard's. */
            rv = ++load.shards[n] > SHARDS_PER_NODE_MAX - 1 ? ERR_LIMIT : rv;
        }
        memcpy(value + sizeof record + (size_t)i * sizeof shard, &shard, sizeof shard);
    }
    if (rv == 0) {
        rv = heap_map_put(heap, HEAP_MAP_CATALOG, m->name, slice_of(value, bytes));
    }
    mem_free(value);
    if (rv != 0) {
        *fatal = rv == ERR_NOMEM ? rv : 0;
        return rv;
    }
    *id = counters.next_heap_id++;
    counters.next_uid += m->shard_count;
    *fatal =
        counters_put(heap, &counters); /* the value is there already: replacing it needs no space */
    return *fatal;
}

int catalog_heap_drop(struct heap *heap, const struct msg_heap_drop *m, uint64_t *id, int *fatal)
{
    *fatal = 0;
    struct slice value;
    if (m->name.len == 0 || heap_map_get(heap, HEAP_MAP_CATALOG, m->name, &value) != 0) {
        return ERR_NOTFOUND;
    }
    struct catalog_record record;
    record_get(value, &record);
    *id = record.heap_id;
    *fatal = heap_map_delete(heap, HEAP_MAP_CATALOG, m->name);
    return *fatal;
}

/* Puts the node's new replica id in place of the old one in every shard of one heap. */
static int members_replace(struct heap *heap, struct slice name, uint32_t node, uint64_t id)
{
    struct slice value;
    if (heap_map_get(heap, HEAP_MAP_CATALOG, name, &value) != 0) {
        return ERR_CORRUPT;
    }
    struct catalog_record record;
    record_get(value, &record);
    for (uint32_t i = 0; i < record.shard_count; i++) {
        struct catalog_shard_record shard;
        if (heap_map_get(heap, HEAP_MAP_CATALOG, name, &value) != 0) {
            return ERR_CORRUPT;
        }
        shard_record_get(value, i, &shard);
        for (uint32_t k = 0; k < shard.count; k++) {
            if (replica_id_node(shard.members[k]) != node) {
                continue;
            }
            shard.members[k] = id;
            uint8_t *at = heap_map_edit(heap, HEAP_MAP_CATALOG, name,
                                        sizeof record + (size_t)i * sizeof shard, sizeof shard);
            if (at == NULL) {
                return ERR_CORRUPT;
            }
            memcpy(at, &shard, sizeof shard);
        }
    }
    return 0;
}

int catalog_node_join(struct heap *heap, const struct msg_node_join *m, uint64_t *id, int *fatal)
{
    *fatal = 0;
    struct node_record record;
    if (m->node_uid == 0) {
        return ERR_INVAL;
    }
    if (node_get(heap, m->node, &record) != 0) {
        return ERR_NOTFOUND;
    }
    *id = record.replica_id;
    if (record.node_uid == m->node_uid) {
        return 0;
    }
    record.node_uid = m->node_uid;
    record.replica_id = replica_id_make((record.replica_id >> 8) + 1, m->node);
    *id = record.replica_id;
    *fatal = node_put(heap, &record);
    uint8_t name[HEAP_NAME_BYTES_MAX];
    struct slice after = slice_of(NULL, 0);
    struct slice key;
    struct slice value;
    while (*fatal == 0 && heap_map_next(heap, HEAP_MAP_CATALOG, after, &key, &value) == 0) {
        assert(key.len <= sizeof name);
        memcpy(name, key.data, key.len); /* an edit below may move the key */
        after = slice_of(name, key.len);
        *fatal = members_replace(heap, after, m->node, record.replica_id);
    }
    return *fatal;
}

/* ---- looking
 * -------------------------------------------------------------------------------------------------------
 */

static bool places_of(struct slice value, bool (*cb)(void *arg, const struct catalog_place *place),
                      void *arg)
{
    struct catalog_record record;
    record_get(value, &record);
    for (uint32_t i = 0; i < record.shard_count; i++) {
        struct catalog_shard_record shard;
        shard_record_get(value, i, &shard);
        struct catalog_place place = {
            .uid = shard.uid,
            .heap_id = record.heap_id,
            .shard_bytes_max = record.shard_bytes_max,
            .retention_ms = record.retention_ms,
            .number = i,
            .count = shard.count,
        };
        memcpy(place.members, shard.members, sizeof place.members);
        memcpy(place.founders, shard.founders, sizeof place.founders);
        if (!cb(arg, &place)) {
            return false;
        }
    }
    return true;
}

void catalog_places(const struct heap *meta,
                    bool (*cb)(void *arg, const struct catalog_place *place), void *arg)
{
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(meta, HEAP_MAP_CATALOG, key, &key, &value) == 0) {
        if (!places_of(value, cb, arg)) {
            return;
        }
    }
}

int catalog_place_of(const struct heap *meta, uint64_t uid, struct catalog_place *out)
{
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(meta, HEAP_MAP_CATALOG, key, &key, &value) == 0) {
        struct catalog_record record;
        struct catalog_shard_record first;
        record_get(value, &record);
        shard_record_get(value, 0, &first);
        /* The uids of a heap follow each other. */
        if (uid < first.uid || uid - first.uid >= record.shard_count) {
            continue;
        }
        struct catalog_shard_record shard;
        shard_record_get(value, (uint32_t)(uid - first.uid), &shard);
        assert(shard.uid == uid);
        out->uid = uid;
        out->heap_id = record.heap_id;
        out->shard_bytes_max = record.shard_bytes_max;
        out->retention_ms = record.retention_ms;
        out->number = (uint32_t)(uid - first.uid);
        out->heap_shards = record.shard_count;
        out->count = shard.count;
        memcpy(out->members, shard.members, sizeof out->members);
        memcpy(out->founders, shard.founders, sizeof out->founders);
        return 0;
    }
    return ERR_NOTFOUND;
}

uint64_t catalog_next_uid(const struct heap *meta)
{
    struct meta_counters counters;
    counters_get(meta, &counters);
    return counters.next_uid;
}

static void heap_describe(struct slice name, struct slice value, struct catalog_heap *out)
{
    struct catalog_record record;
    record_get(value, &record);
    memset(out, 0, sizeof *out);
    assert(name.len <= HEAP_NAME_BYTES_MAX);
    memcpy(out->name, name.data, name.len);
    out->heap_id = record.heap_id;
    out->shard_bytes_max = record.shard_bytes_max;
    out->retention_ms = record.retention_ms;
    out->shard_count = record.shard_count;
    out->replicas = record.replicas;
    out->created = record.created;
}

static const struct heap *meta_heap(const struct replica *r)
{
    return r->meta != NULL ? r->meta->heap : NULL;
}

int catalog_find(const struct replica *r, struct slice name, struct catalog_heap *out)
{
    const struct heap *meta = meta_heap(r);
    struct slice value;
    if (meta == NULL || name.len == 0 || name.len > HEAP_NAME_BYTES_MAX ||
        heap_map_get(meta, HEAP_MAP_CATALOG, name, &value) != 0) {
        return ERR_NOTFOUND;
    }
    heap_describe(name, value, out);
    return 0;
}

int catalog_shard_of(const struct replica *r, struct slice name, uint32_t index,
                     struct catalog_shard *out)
{
    const struct heap *meta = meta_heap(r);
    struct slice value;
    if (meta == NULL || name.len == 0 || name.len > HEAP_NAME_BYTES_MAX ||
        heap_map_get(meta, HEAP_MAP_CATALOG, name, &value) != 0) {
        return ERR_NOTFOUND;
    }
    struct catalog_record record;
    record_get(value, &record);
    if (index >= record.shard_count) {
        return ERR_NOTFOUND;
    }
    struct catalog_shard_record shard;
    shard_record_get(value, index, &shard);
    out->uid = shard.uid;
    out->heap_first = shard.uid - index;
    out->heap_shards = record.shard_count;
    out->count = shard.count;
    memcpy(out->members, shard.members, sizeof out->members);
    return 0;
}

int catalog_members(const struct replica *r, uint64_t uid, struct catalog_shard *out)
{
    const struct heap *meta = meta_heap(r);
    struct catalog_place place;
    if (meta == NULL) {
        return ERR_UNAVAILABLE;
    }
    if (catalog_place_of(meta, uid, &place) != 0) {
        /* Uids are given in order, and never again. */
        return uid < catalog_next_uid(meta) ? ERR_NOTFOUND : ERR_UNAVAILABLE;
    }
    out->uid = uid;
    out->heap_first = uid - place.number;
    out->heap_shards = place.heap_shards;
    out->count = place.count;
    memcpy(out->members, place.members, sizeof out->members);
    return 0;
}

void catalog_each(const struct replica *r, void (*cb)(void *arg, const struct catalog_heap *heap),
                  void *arg)
{
    const struct heap *meta = meta_heap(r);
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (meta != NULL && heap_map_next(meta, HEAP_MAP_CATALOG, key, &key, &value) == 0) {
        struct catalog_heap heap;
        heap_describe(key, value, &heap);
        cb(arg, &heap);
    }
}
