/* The state machine of a shard: what a command does to the arena. A pure function of the arena and
 * the entry (I2): no clock, no configuration, no result of a local allocation. A command that can't
 * be understood gets ERR_PROTOCOL, here as on every other replica. */
#include <string.h>

#include "replica/internal.h"

/* What no command's result may be: the replica is broken, or out of memory, and must stop (I2). */
static bool is_fatal(int rv)
{
    return rv == ERR_NOMEM || rv == ERR_CORRUPT || rv == ERR_IO;
}

void fsm_header_get(const struct heap *heap, struct fsm_header *out)
{
    memcpy(out, heap_fsm(heap), sizeof *out);
}

void fsm_config(const struct heap *heap, struct consensus_config *out, uint64_t *index)
{
    struct fsm_header h;
    fsm_header_get(heap, &h);
    memset(out, 0, sizeof *out);
    out->count = h.config_count;
    for (uint32_t i = 0; i < h.config_count; i++) {
        out->servers[i].id = h.servers[i].id;
        out->servers[i].role = (enum consensus_role)h.servers[i].role;
    }
    *index = h.config_index;
}

/* ---- objects
 * -------------------------------------------------------------------------------------------------------
 */

static int conflict(struct heap *heap, uint64_t ptr, struct command_result *result)
{
    struct heap_object object;
    int rv = heap_stat(heap, ptr, &object);
    if (rv != 0) {
        return rv;
    }
    result->version = object.version;
    return ERR_CONFLICT;
}

static int apply_alloc(struct heap *heap, struct slice body, uint64_t version,
                       struct command_result *result)
{
    struct msg_alloc m;
    int rv = message_decode_alloc(body, &m);
    return rv != 0 ? rv : heap_alloc(heap, version, m.size, m.type, m.init, &result->value);
}

static int apply_free(struct heap *heap, struct slice body, uint64_t version)
{
    struct msg_free m;
    int rv = message_decode_free(body, &m);
    return rv != 0 ? rv : heap_free_object(heap, version, m.ptr);
}

static int apply_write(struct heap *heap, struct slice body, uint64_t version)
{
    struct msg_write m;
    int rv = message_decode_write(body, &m);
    return rv != 0 ? rv : heap_write(heap, version, m.ptr, m.offset, m.data);
}

static int apply_compare_and_write(struct heap *heap, struct slice body, uint64_t version,
                                   struct command_result *result)
{
    struct msg_compare_and_write m;
    int rv = message_decode_compare_and_write(body, &m);
    if (rv != 0) {
        return rv;
    }
    if (m.expected.len != m.desired.len) {
        return ERR_INVAL;
    }
    const uint8_t *bytes;
    rv = heap_read(heap, m.ptr, m.offset, m.expected.len, &bytes);
    if (rv != 0) {
        return rv;
    }
    if (m.expected.len > 0 && memcmp(bytes, m.expected.data, m.expected.len) != 0) {
        return conflict(heap, m.ptr, result);
    }
    return heap_write(heap, version, m.ptr, m.offset, m.desired);
}

static int apply_add_u64(struct heap *heap, struct slice body, uint64_t version,
                         struct command_result *result)
{
    struct msg_add_u64 m;
    int rv = message_decode_add_u64(body, &m);
    if (rv != 0) {
        return rv;
    }
    const uint8_t *bytes;
    rv = heap_read(heap, m.ptr, m.offset, 8, &bytes);
    if (rv != 0) {
        return rv;
    }
    result->value = load_u64(bytes);
    uint8_t sum[8];
    store_u64(sum, result->value + m.delta);
    return heap_write(heap, version, m.ptr, m.offset, slice_of(sum, sizeof sum));
}

static int apply_write_if_version(struct heap *heap, struct slice body, uint64_t version,
                                  struct command_result *result)
{
    struct msg_write_if_version m;
    int rv = message_decode_write_if_version(body, &m);
    if (rv != 0) {
        return rv;
    }
    struct heap_object object;
    rv = heap_stat(heap, m.ptr, &object);
    if (rv != 0) {
        return rv;
    }
    if (object.version != m.version) {
        result->version = object.version;
        return ERR_CONFLICT;
    }
    return heap_write(heap, version, m.ptr, m.offset, m.data);
}

/* ---- roots
 * ---------------------------------------------------------------------------------------------------------
 */

static bool root_name_is_valid(struct slice name)
{
    return name.len > 0 && name.len <= ROOT_NAME_BYTES_MAX &&
           memchr(name.data, 0, name.len) == NULL;
}

static int root_get(const struct heap *heap, struct slice name, struct root_record *out)
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

static int root_put(struct heap *heap, struct slice name, uint64_t ptr, uint64_t version)
{
    struct root_record record = {.ptr = ptr, .version = version};
    return heap_map_put(heap, HEAP_MAP_ROOTS, name, slice_of(&record, sizeof record));
}

static int apply_root_set(struct heap *heap, struct slice body, uint64_t version)
{
    struct msg_root_set m;
    int rv = message_decode_root_set(body, &m);
    if (rv != 0) {
        return rv;
    }
    return m.ptr == 0 || !root_name_is_valid(m.name) ? ERR_INVAL
                                                     : root_put(heap, m.name, m.ptr, version);
}

static int apply_root_compare_and_set(struct heap *heap, struct slice body, uint64_t version,
                                      struct command_result *result)
{
    struct msg_root_compare_and_set m;
    int rv = message_decode_root_compare_and_set(body, &m);
    if (rv != 0) {
        return rv;
    }
    if (!root_name_is_valid(m.name)) {
        return ERR_INVAL;
    }
    struct root_record now;
    bool exists = root_get(heap, m.name, &now) == 0;
    if (now.ptr != m.expected) {
        result->version = now.version;
        result->value = now.ptr;
        return ERR_CONFLICT;
    }
    if (m.desired != 0) {
        return root_put(heap, m.name, m.desired, version);
    }
    return exists ? heap_map_delete(heap, HEAP_MAP_ROOTS, m.name) : 0;
}

static int apply_root_delete(struct heap *heap, struct slice body, struct command_result *result)
{
    struct msg_root_delete m;
    int rv = message_decode_root_delete(body, &m);
    if (rv != 0) {
        return rv;
    }
    if (!root_name_is_valid(m.name)) {
        return ERR_INVAL;
    }
    struct root_record now;
    rv = root_get(heap, m.name, &now);
    if (rv != 0) {
        return rv;
    }
    result->value = now.ptr;
    return heap_map_delete(heap, HEAP_MAP_ROOTS, m.name);
}

/* ---- the meta shard
 * ------------------------------------------------------------------------------------------------
 */

static int apply_heap_create(struct heap *heap, struct slice body, uint64_t version,
                             struct command_result *result, int *fatal)
{
    struct msg_heap_create m;
    int rv = message_decode_heap_create(body, &m);
    return rv != 0 ? rv : catalog_heap_create(heap, &m, version, &result->value, fatal);
}

static int apply_heap_drop(struct heap *heap, struct slice body, struct command_result *result,
                           int *fatal)
{
    struct msg_heap_drop m;
    int rv = message_decode_heap_drop(body, &m);
    return rv != 0 ? rv : catalog_heap_drop(heap, &m, &result->value, fatal);
}

static int apply_node_join(struct heap *heap, struct slice body, struct command_result *result,
                           int *fatal)
{
    struct msg_node_join m;
    int rv = message_decode_node_join(body, &m);
    return rv != 0 ? rv : catalog_node_join(heap, &m, &result->value, fatal);
}

/* ---- one command
 * ---------------------------------------------------------------------------------------------------
 */

enum command_class {
    CLASS_NONE,
    CLASS_OBJECT,  /* sequenced, of a data shard */
    CLASS_META,    /* sequenced, of the meta shard */
    CLASS_SESSION, /* of a session, not sequenced */
    CLASS_FREE,    /* without a session */
};

static enum command_class class_of(uint16_t kind)
{
    switch (kind) {
    case KIND_ALLOC:
    case KIND_FREE:
    case KIND_WRITE:
    case KIND_COMPARE_AND_WRITE:
    case KIND_ADD_U64:
    case KIND_WRITE_IF_VERSION:
    case KIND_ROOT_SET:
    case KIND_ROOT_COMPARE_AND_SET:
    case KIND_ROOT_DELETE:
        return CLASS_OBJECT;
    case KIND_HEAP_CREATE:
    case KIND_HEAP_DROP:
        return CLASS_META;
    case KIND_SESSION_KEEPALIVE:
    case KIND_SESSION_CLOSE:
        return CLASS_SESSION;
    case KIND_SESSION_OPEN:
    case KIND_SESSION_EXPIRE:
    case KIND_SESSION_BURY:
    case KIND_NODE_JOIN:
    case KIND_TICK:
        return CLASS_FREE;
    default:
        return CLASS_NONE;
    }
}

static int check_prefix(uint64_t uid, enum command_class class, const struct command_prefix *prefix)
{
    if (class == CLASS_NONE || prefix->uid != uid) {
        return ERR_PROTOCOL;
    }
    if (class == CLASS_FREE) {
        return prefix->session == 0 && prefix->seq == 0 ? 0 : ERR_PROTOCOL;
    }
    if (prefix->session == 0) {
        return ERR_PROTOCOL;
    }
    if (class == CLASS_SESSION) {
        return prefix->seq == 0 ? 0 : ERR_PROTOCOL;
    }
    if (prefix->seq == 0 || prefix->acked >= prefix->seq) {
        return ERR_PROTOCOL;
    }
    return (class == CLASS_META) == (uid == SHARD_META) ? 0 : ERR_INVAL;
}

int fsm_validate(uint64_t uid, uint16_t kind, struct slice body, struct command_prefix *prefix)
{
    if (message_command_prefix(body, prefix) != 0) {
        return ERR_PROTOCOL;
    }
    int rv = check_prefix(uid, class_of(kind), prefix);
    if (rv == 0 && kind == KIND_NODE_JOIN && uid != SHARD_META) {
        rv = ERR_INVAL;
    }
    return rv != 0 ? rv : message_check(kind, body);
}

static int apply_sequenced(struct heap *heap, uint16_t kind, struct slice body, uint64_t version,
                           struct command_result *result, int *fatal)
{
    switch (kind) {
    case KIND_ALLOC:
        return apply_alloc(heap, body, version, result);
    case KIND_FREE:
        return apply_free(heap, body, version);
    case KIND_WRITE:
        return apply_write(heap, body, version);
    case KIND_COMPARE_AND_WRITE:
        return apply_compare_and_write(heap, body, version, result);
    case KIND_ADD_U64:
        return apply_add_u64(heap, body, version, result);
    case KIND_WRITE_IF_VERSION:
        return apply_write_if_version(heap, body, version, result);
    case KIND_ROOT_SET:
        return apply_root_set(heap, body, version);
    case KIND_ROOT_COMPARE_AND_SET:
        return apply_root_compare_and_set(heap, body, version, result);
    case KIND_ROOT_DELETE:
        return apply_root_delete(heap, body, result);
    case KIND_HEAP_CREATE:
        return apply_heap_create(heap, body, version, result, fatal);
    case KIND_HEAP_DROP:
        return apply_heap_drop(heap, body, result, fatal);
    default:
        return ERR_PROTOCOL;
    }
}

static int apply_unsequenced(struct heap *heap, uint64_t uid, uint16_t kind, struct slice body,
                             const struct command_prefix *prefix, const struct fsm_now *now,
                             struct command_result *result, int *fatal)
{
    struct msg_session_open open;
    struct msg_session_expire expire;
    struct msg_session_bury bury;
    struct tombstone_bounds bounds;
    switch (kind) {
    case KIND_SESSION_OPEN:
        if (message_decode_session_open(body, &open) != 0) {
            return ERR_PROTOCOL;
        }
        return session_open(heap, &open, now, &result->value);
    case KIND_SESSION_KEEPALIVE:
        return message_check(kind, body) != 0 ? ERR_PROTOCOL : session_keepalive(heap, prefix, now);
    case KIND_SESSION_CLOSE:
        return message_check(kind, body) != 0 ? ERR_PROTOCOL : session_close(heap, prefix->session);
    case KIND_SESSION_EXPIRE:
        if (message_decode_session_expire(body, &expire) != 0) {
            return ERR_PROTOCOL;
        }
        return session_expire(heap, expire.expired, expire.renewed, NULL, now);
    case KIND_SESSION_BURY:
        if (message_decode_session_bury(body, &bury) != 0) {
            return ERR_PROTOCOL;
        }
        bounds.tombstones_max = bury.tombstones_max;
        bounds.results_max = bury.results_max;
        bounds.keep_ms = bury.keep_ms;
        return session_expire(heap, bury.expired, bury.renewed, &bounds, now);
    case KIND_NODE_JOIN:
        return uid != SHARD_META ? ERR_INVAL : apply_node_join(heap, body, result, fatal);
    case KIND_TICK:
        return message_check(kind, body);
    default:
        return ERR_PROTOCOL;
    }
}

static void settle(struct command_result *result, int rv, uint64_t version)
{
    result->code = rv;
    if (rv == 0) {
        result->version = version;
    } else if (rv != ERR_CONFLICT) {
        result->version = 0;
        result->value = 0;
    }
}

/* Returns a fatal error or 0. */
static int apply_command(struct heap *heap, uint64_t uid, uint16_t kind, struct slice body,
                         uint64_t stamp, struct command_result *result)
{
    struct command_prefix prefix;
    struct fsm_now now = {.stamp = stamp, .version = heap_next_version(heap)};
    enum command_class class = class_of(kind);
    int fatal = 0;
    memset(result, 0, sizeof *result);
    int rv = message_command_prefix(body, &prefix);
    if (rv == 0) {
        rv = check_prefix(uid, class, &prefix);
    }
    if (rv != 0) {
        settle(result, rv, now.version);
        return 0;
    }
    if (class == CLASS_SESSION || class == CLASS_FREE) {
        rv = apply_unsequenced(heap, uid, kind, body, &prefix, &now, result, &fatal);
        settle(result, rv, now.version);
        return fatal != 0 ? fatal : is_fatal(rv) ? rv : 0;
    }
    struct session_ticket ticket;
    rv = session_enter(heap, &prefix, body, kind, &now, &ticket, result);
    if (rv != 0) {
        settle(result, rv, now.version);
        return is_fatal(rv) ? rv : 0;
    }
    if (ticket.found) {
        return 0;
    }
    rv = apply_sequenced(heap, kind, body, now.version, result, &fatal);
    if (fatal != 0 || is_fatal(rv)) {
        return fatal != 0 ? fatal : rv;
    }
    settle(result, rv, now.version);
    return session_leave(heap, &ticket, result);
}

/* ---- one entry
 * -----------------------------------------------------------------------------------------------------
 */

/* The stamp that counts: never behind one that was applied before. */
static uint64_t stamp_entry(struct heap *heap, uint64_t term, uint64_t stamp)
{
    struct fsm_header h;
    fsm_header_get(heap, &h);
    if (stamp < h.stamp) {
        stamp = h.stamp;
    }
    uint8_t *at = heap_fsm_edit(heap);
    store_u32(at + offsetof(struct fsm_header, format), FSM_FORMAT);
    store_u64(at + offsetof(struct fsm_header, stamp), stamp);
    if (h.term != term) {
        store_u64(at + offsetof(struct fsm_header, term), term);
        store_u64(at + offsetof(struct fsm_header, term_stamp), stamp);
    }
    return stamp;
}

static int apply_batch(struct heap *heap, uint64_t uid, const struct wal_entry *entry,
                       struct command_result *results, uint32_t results_max, bool *meta_changed)
{
    struct cursor c = cursor_of(entry->data);
    uint16_t format = cursor_u16(&c);
    uint16_t flags = cursor_u16(&c);
    uint32_t count = cursor_u32(&c);
    uint64_t stamp = cursor_u64(&c);
    if (c.failed || format != ENTRY_FORMAT || flags != 0) {
        return 0; /* nobody proposes such an entry; here it does nothing, as everywhere */
    }
    stamp = stamp_entry(heap, entry->term, stamp);
    struct command_result unwanted;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t kind = cursor_u16(&c);
        uint16_t zero = cursor_u16(&c);
        struct slice body = cursor_bytes(&c, cursor_u32(&c));
        if (c.failed || zero != 0) {
            return 0;
        }
        struct command_result *result = i < results_max ? &results[i] : &unwanted;
        int rv = apply_command(heap, uid, kind, body, stamp, result);
        if (rv != 0) {
            return rv;
        }
        if (uid == SHARD_META && result->code == 0 &&
            (kind == KIND_HEAP_CREATE || kind == KIND_HEAP_DROP || kind == KIND_NODE_JOIN)) {
            *meta_changed = true;
        }
    }
    return 0;
}

static int apply_change(struct heap *heap, uint64_t uid, uint64_t index,
                        const struct wal_entry *entry, bool *meta_changed)
{
    struct consensus_config config;
    int rv = consensus_config_decode(entry->data, &config);
    if (rv != 0) {
        return ERR_CORRUPT; /* consensus accepts none that can't be decoded */
    }
    uint8_t *at = heap_fsm_edit(heap);
    struct fsm_header h;
    memcpy(&h, at, sizeof h);
    h.format = FSM_FORMAT;
    h.config_index = index;
    h.config_count = config.count;
    memset(h.servers, 0, sizeof h.servers);
    for (uint32_t i = 0; i < config.count; i++) {
        h.servers[i].id = config.servers[i].id;
        h.servers[i].role = (uint64_t)config.servers[i].role;
    }
    memcpy(at, &h, sizeof h);
    if (uid == SHARD_META && index == 1) {
        *meta_changed = true;
        return catalog_founded(heap, &config);
    }
    return 0;
}

int fsm_apply(struct heap *heap, uint64_t index, const struct wal_entry *entry,
              struct command_result *results, uint32_t results_max, bool *meta_changed)
{
    struct heap_opts opts;
    heap_get_opts(heap, &opts);
    uint64_t stamp = 0;
    if (entry->type == ENTRY_COMMAND && entry->data.len >= ENTRY_HEADER_BYTES) {
        stamp = load_u64(entry->data.data + 8);
    }
    heap_begin(heap, index, entry->term, stamp);
    int rv = 0;
    if (entry->type == ENTRY_COMMAND) {
        rv = apply_batch(heap, opts.uid, entry, results, results_max, meta_changed);
    } else if (entry->type == ENTRY_CHANGE) {
        rv = apply_change(heap, opts.uid, index, entry, meta_changed);
    }
    heap_end(heap);
    return rv;
}
