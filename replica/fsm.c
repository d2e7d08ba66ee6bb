/* The state machine of a shard: what a command does to the arena. A pure function of the arena and
 * the entry (I2): no clock, no configuration, no result of a local allocation. A command that can't
 * be understood gets ERR_PROTOCOL, here as on every other replica. */
#include <string.h>

#include "alloc/ahead.h"
#include "alloc/command.h"
#include "replica/internal.h"

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

/* ---- objects, roots, types, upkeep: decoded here, done by the heap
 * ----------------------------------------------------------------------------------------------
 */

/* Reads a command's body into what the heap understands. ERR_PROTOCOL. */
static int decode(uint16_t kind, struct slice body, struct heap_command *c)
{
    union {
        struct msg_alloc alloc;
        struct msg_alloc_leased alloc_leased;
        struct msg_free free;
        struct msg_realloc realloc;
        struct msg_write write;
        struct msg_compare_and_write compare;
        struct msg_add_u64 add;
        struct msg_write_if_version versioned;
        struct msg_root_set root_set;
        struct msg_root_compare_and_set root_compare;
        struct msg_root_delete root_delete;
        struct msg_type_register type;
        struct msg_defrag defrag;
        struct msg_trim trim;
        struct msg_set_retention retention;
    } m;
    int rv;
    switch (kind) {
    case KIND_ALLOC:
        rv = message_decode_alloc(body, &m.alloc);
        *c = (struct heap_command){.kind = HEAP_COMMAND_ALLOC,
                                   .size = m.alloc.size,
                                   .type = m.alloc.type,
                                   .data = m.alloc.init};
        return rv;
    case KIND_ALLOC_LEASED:
        rv = message_decode_alloc_leased(body, &m.alloc_leased);
        *c = (struct heap_command){.kind = HEAP_COMMAND_ALLOC,
                                   .session = m.alloc_leased.session,
                                   .ptr = m.alloc_leased.ptr,
                                   .size = m.alloc_leased.size,
                                   .type = m.alloc_leased.type,
                                   .data = m.alloc_leased.init};
        return rv;
    case KIND_FREE:
        rv = message_decode_free(body, &m.free);
        *c = (struct heap_command){.kind = HEAP_COMMAND_FREE, .ptr = m.free.ptr};
        return rv;
    case KIND_REALLOC:
        rv = message_decode_realloc(body, &m.realloc);
        *c = (struct heap_command){
            .kind = HEAP_COMMAND_REALLOC, .ptr = m.realloc.ptr, .size = m.realloc.size};
        return rv;
    case KIND_WRITE:
        rv = message_decode_write(body, &m.write);
        *c = (struct heap_command){.kind = HEAP_COMMAND_WRITE,
                                   .ptr = m.write.ptr,
                                   .offset = m.write.offset,
                                   .data = m.write.data};
        return rv;
    case KIND_COMPARE_AND_WRITE:
        rv = message_decode_compare_and_write(body, &m.compare);
        *c = (struct heap_command){.kind = HEAP_COMMAND_COMPARE_AND_WRITE,
                                   .ptr = m.compare.ptr,
                                   .offset = m.compare.offset,
                                   .expected = m.compare.expected,
                                   .data = m.compare.desired};
        return rv;
    case KIND_ADD_U64:
        rv = message_decode_add_u64(body, &m.add);
        *c = (struct heap_command){.kind = HEAP_COMMAND_ADD_U64,
                                   .ptr = m.add.ptr,
                                   .offset = m.add.offset,
                                   .delta = m.add.delta};
        return rv;
    case KIND_WRITE_IF_VERSION:
        rv = message_decode_write_if_version(body, &m.versioned);
        *c = (struct heap_command){.kind = HEAP_COMMAND_WRITE_IF_VERSION,
                                   .ptr = m.versioned.ptr,
                                   .if_version = m.versioned.version,
                                   .offset = m.versioned.offset,
                                   .data = m.versioned.data};
        return rv;
    case KIND_ROOT_SET:
        rv = message_decode_root_set(body, &m.root_set);
        *c = (struct heap_command){
            .kind = HEAP_COMMAND_ROOT_SET, .name = m.root_set.name, .ptr = m.root_set.ptr};
        return rv;
    case KIND_ROOT_COMPARE_AND_SET:
        rv = message_decode_root_compare_and_set(body, &m.root_compare);
        *c = (struct heap_command){.kind = HEAP_COMMAND_ROOT_COMPARE_AND_SET,
                                   .name = m.root_compare.name,
                                   .expected_ptr = m.root_compare.expected,
                                   .ptr = m.root_compare.desired};
        return rv;
    case KIND_ROOT_DELETE:
        rv = message_decode_root_delete(body, &m.root_delete);
        *c = (struct heap_command){.kind = HEAP_COMMAND_ROOT_DELETE, .name = m.root_delete.name};
        return rv;
    case KIND_TYPE_REGISTER:
        rv = message_decode_type_register(body, &m.type);
        *c = (struct heap_command){
            .kind = HEAP_COMMAND_TYPE_REGISTER, .type = m.type.number, .data = m.type.descriptor};
        return rv;
    case KIND_DEFRAG:
        rv = message_decode_defrag(body, &m.defrag);
        *c = (struct heap_command){.kind = HEAP_COMMAND_DEFRAG, .count = m.defrag.bytes};
        return rv;
    case KIND_TRIM:
        rv = message_decode_trim(body, &m.trim);
        *c = (struct heap_command){.kind = HEAP_COMMAND_TRIM, .size = m.trim.bytes};
        return rv;
    case KIND_SET_RETENTION:
        rv = message_decode_set_retention(body, &m.retention);
        *c = (struct heap_command){.kind = HEAP_COMMAND_SET_RETENTION,
                                   .size = m.retention.retention_ms};
        return rv;
    default:
        return ERR_PROTOCOL;
    }
}

/* What the log may hold, whoever wrote it: bounds that the heap's contract leaves to its caller. */
static int check_bounds(const struct heap_command *c)
{
    switch (c->kind) {
    case HEAP_COMMAND_ALLOC:
        return c->session != 0 && c->ptr == 0 ? ERR_INVAL : 0;
    case HEAP_COMMAND_DEFRAG:
        return c->count == 0 || c->count > HEAP_DEFRAG_BYTES_MAX ? ERR_INVAL : 0;
    case HEAP_COMMAND_SET_RETENTION:
        return c->size > RETENTION_MS_MAX ? ERR_INVAL : 0;
    default:
        return 0;
    }
}

static int apply_object(struct heap *heap, uint16_t kind, struct slice body, uint64_t version,
                        struct command_result *result)
{
    struct heap_command command;
    struct heap_outcome outcome = {.code = 0};
    int rv = decode(kind, body, &command);
    if (rv == 0) {
        rv = check_bounds(&command);
    }
    if (rv == 0) {
        rv = heap_apply(heap, version, &command, &outcome);
    }
    if (rv != 0) {
        return rv;
    }
    result->version = outcome.version;
    result->value = outcome.value;
    return outcome.code;
}

static int apply_lease(struct heap *heap, struct slice body, uint64_t version,
                       struct command_result *result)
{
    struct msg_lease m;
    int rv = message_decode_lease(body, &m);
    return rv != 0 ? rv : lease_take(heap, m.session, version, m.count, &result->value);
}

static int apply_reclaim(struct heap *heap, struct slice body, struct command_result *result)
{
    struct msg_reclaim m;
    int rv = message_decode_reclaim(body, &m);
    if (rv == 0 && (m.records == 0 || m.records > HEAP_RECLAIM_RECORDS_MAX)) {
        rv = ERR_INVAL;
    }
    if (rv == 0) {
        heap_reclaim(heap, m.safepoint, m.records, &result->value);
    }
    return rv;
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
    CLASS_TX,      /* of a coordinator: without a session, told apart by the transaction's name */
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
    case KIND_REALLOC:
    case KIND_TYPE_REGISTER:
    case KIND_LEASE:
    case KIND_DEFRAG:
    case KIND_TRIM:
    case KIND_SET_RETENTION:
    case KIND_ALLOC_LEASED:
    case KIND_TX_COMMIT_ONE:
    case KIND_TX_SETTLE:
    case KIND_TX_CLOSE:
        return CLASS_OBJECT;
    case KIND_TX_PREPARE:
    case KIND_TX_DECIDE:
    case KIND_TX_REFUSE:
    case KIND_TX_FORGET:
        return CLASS_TX;
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
    case KIND_RECLAIM:
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
    if (class == CLASS_FREE || class == CLASS_TX) {
        bool plain = prefix->session == 0 && prefix->seq == 0;
        return plain && (class == CLASS_FREE || uid != SHARD_META) ? 0 : ERR_PROTOCOL;
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

static uint64_t chunks_of(const struct heap *heap, uint64_t ptr)
{
    struct heap_object object;
    return heap_stat(heap, ptr, &object) == 0 ? object.size >> 20 : 0;
}

uint32_t fsm_work(const struct heap *heap, uint16_t kind, struct slice body)
{
    struct heap_command c;
    uint64_t work = 0;
    switch (kind) {
    case KIND_ALLOC:
    case KIND_ALLOC_LEASED:
        work = decode(kind, body, &c) == 0 ? c.size >> 20 : 0;
        break;
    case KIND_FREE:
        work = decode(kind, body, &c) == 0 ? chunks_of(heap, c.ptr) : 0;
        break;
    case KIND_REALLOC:
        work = decode(kind, body, &c) == 0 ? (c.size >> 20) + chunks_of(heap, c.ptr) : 0;
        break;
    case KIND_DEFRAG:
        work = decode(kind, body, &c) == 0 ? c.count >> 10 : 0;
        break;
    case KIND_TYPE_REGISTER:
        work = heap_map_count(heap, HEAP_MAP_TYPES) / 8;
        break;
    case KIND_RECLAIM:
        work = HEAP_RECLAIM_RECORDS_MAX;
        break;
    case KIND_TX_COMMIT_ONE:
    case KIND_TX_PREPARE:
    case KIND_TX_DECIDE:
        work = tx_work(kind, body);
        break;
    default:
        break;
    }
    return work < FSM_WORK_MAX ? (uint32_t)work : FSM_WORK_MAX;
}

static int apply_sequenced(struct heap *heap, uint16_t kind, struct slice body,
                           const struct fsm_now *now, const struct session_ticket *ticket,
                           struct command_result *result, int *fatal)
{
    uint64_t version = now->version;
    switch (kind) {
    case KIND_LEASE:
        return apply_lease(heap, body, version, result);
    case KIND_TX_COMMIT_ONE:
        return tx_commit_one(heap, body, version, &ticket->record, result);
    case KIND_TX_CLOSE:
        return tx_close(heap, body, now, result);
    case KIND_TX_SETTLE:
        return tx_settle(heap, body, now, &ticket->record, result);
    case KIND_HEAP_CREATE:
        return apply_heap_create(heap, body, version, result, fatal);
    case KIND_HEAP_DROP:
        return apply_heap_drop(heap, body, result, fatal);
    default:
        return apply_object(heap, kind, body, version, result);
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
    case KIND_RECLAIM:
        return apply_reclaim(heap, body, result);
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
    } else if (rv != ERR_CONFLICT && rv != ERR_TX_UNDECIDED) {
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
        return fatal != 0 ? fatal : err_stops_replica(rv) ? rv : 0;
    }
    if (class == CLASS_TX) {
        return tx_apply(heap, uid, kind, body, &now, result);
    }
    struct session_ticket ticket;
    rv = session_enter(heap, &prefix, body, kind, &now, &ticket, result);
    if (rv != 0) {
        settle(result, rv, now.version);
        return err_stops_replica(rv) ? rv : 0;
    }
    if (ticket.found) {
        return 0;
    }
    rv = apply_sequenced(heap, kind, body, &now, &ticket, result, &fatal);
    if (fatal != 0 || err_stops_replica(rv)) {
        return fatal != 0 ? fatal : rv;
    }
    /* TX_SETTLE tells of another command's version, TX_CLOSE of the clock. */
    bool own = kind != KIND_TX_SETTLE && kind != KIND_TX_CLOSE;
    settle(result, rv, own ? now.version : result->version);
    return session_leave(heap, &ticket, result);
}

/* ---- one entry
 * -----------------------------------------------------------------------------------------------------
 */

/* The stamp that counts: never behind one that was applied before. */
static uint64_t stamp_entry(struct heap *heap, uint64_t term, uint64_t stamp)
{
    uint8_t *at = heap_fsm_edit(heap, 0, offsetof(struct fsm_header, servers));
    uint64_t before = load_u64(at + offsetof(struct fsm_header, stamp));
    if (stamp < before) {
        stamp = before;
    }
    store_u32(at + offsetof(struct fsm_header, format), FSM_FORMAT);
    store_u64(at + offsetof(struct fsm_header, stamp), stamp);
    if (load_u64(at + offsetof(struct fsm_header, term)) != term) {
        store_u64(at + offsetof(struct fsm_header, term), term);
        store_u64(at + offsetof(struct fsm_header, term_stamp), stamp);
    }
    return stamp;
}

uint64_t fsm_object_of(uint16_t kind, struct slice body)
{
    switch (kind) {
    case KIND_ALLOC_LEASED:
    case KIND_FREE:
    case KIND_REALLOC:
    case KIND_WRITE:
    case KIND_COMPARE_AND_WRITE:
    case KIND_ADD_U64:
    case KIND_WRITE_IF_VERSION: /* each begins with the pointer */
        return body.len < COMMAND_PREFIX_BYTES + 8 ? 0 : load_u64(body.data + COMMAND_PREFIX_BYTES);
    default:
        return 0;
    }
}

/* Runs two commands ahead of those that are applied. */
struct scout {
    struct cursor at;
    uint64_t next; /* the object of the one behind the one to be applied */
};

static void scout_step(struct scout *s, const struct heap *heap)
{
    heap_foresee_object(heap, s->next);
    uint16_t kind = cursor_u16(&s->at);
    (void)cursor_u16(&s->at);
    struct slice body = cursor_bytes(&s->at, cursor_u32(&s->at));
    s->next = s->at.failed ? 0 : fsm_object_of(kind, body);
    heap_foresee_slot(heap, s->next);
}

static int apply_batch(struct heap *heap, uint64_t uid, const struct wal_entry *entry,
                       struct command_result *results, uint32_t results_max,
                       struct fsm_effects *effects)
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
    struct command_result unwanted = {0};
    struct scout scout = {.at = c};
    scout_step(&scout, heap);
    scout_step(&scout, heap);
    for (uint32_t i = 0; i < count; i++) {
        scout_step(&scout, heap);
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
            effects->meta_changed = true;
        }
        effects->tx = effects->tx || class_of(kind) == CLASS_TX;
    }
    return 0;
}

static int apply_change(struct heap *heap, uint64_t uid, uint64_t index,
                        const struct wal_entry *entry, struct fsm_effects *effects)
{
    struct consensus_config config;
    int rv = consensus_config_decode(entry->data, &config);
    if (rv != 0) {
        return ERR_CORRUPT; /* consensus accepts none that can't be decoded */
    }
    struct fsm_header h;
    uint8_t *at = heap_fsm_edit(heap, 0, sizeof h);
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
        effects->meta_changed = true;
        return catalog_founded(heap, &config);
    }
    return 0;
}

int fsm_apply(struct heap *heap, uint64_t index, const struct wal_entry *entry,
              struct command_result *results, uint32_t results_max, struct fsm_effects *effects)
{
    uint64_t stamp = 0;
    if (entry->type == ENTRY_COMMAND && entry->data.len >= ENTRY_HEADER_BYTES) {
        stamp = load_u64(entry->data.data + 8);
    }
    heap_begin(heap, index, entry->term, stamp);
    int rv = 0;
    if (entry->type == ENTRY_COMMAND) {
        rv = apply_batch(heap, heap_uid(heap), entry, results, results_max, effects);
    } else if (entry->type == ENTRY_CHANGE) {
        rv = apply_change(heap, heap_uid(heap), index, entry, effects);
    }
    heap_end(heap);
    return rv;
}
