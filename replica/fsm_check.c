/* Whether what the replica keeps in a heap is what it would have written itself. The heap checks
 * its own structures (heap_check()); keys and values of the replica's maps are just bytes to it.
 * Pages that come from a peer, or from a disk that lost its mind behind good checksums, may hold
 * anything: all that the other files here read without asking is asked here, once. */
#include <string.h>

#include "alloc/txn.h"
#include "replica/internal.h"

struct sessions {
    uint64_t sessions, nonces;
    uint64_t tombstones, ids, results;
    uint64_t prepared;
};

static bool header_is_sound(const struct heap *heap)
{
    struct fsm_header h;
    fsm_header_get(heap, &h);
    if (heap_index(heap) == 0) {
        return h.format == 0 && h.config_count == 0;
    }
    if (h.format != FSM_FORMAT || h.config_count == 0 || h.config_count > NODES_MAX * 2) {
        return false;
    }
    uint32_t voters = 0;
    for (uint32_t i = 0; i < h.config_count; i++) {
        if (h.servers[i].id == 0 || h.servers[i].role > CONSENSUS_SPARE) {
            return false;
        }
        voters += h.servers[i].role == CONSENSUS_VOTER;
        for (uint32_t k = 0; k < i; k++) {
            if (h.servers[k].id == h.servers[i].id) {
                return false;
            }
        }
    }
    return voters > 0;
}

/* ---- sessions ---- */

static uint64_t big_at(const uint8_t *bytes)
{
    return __builtin_bswap64(load_u64(bytes));
}

/* Whoever opens a session twice is told its id by the other record. */
static bool session_is_sound(const struct heap *heap, struct slice key, struct slice value)
{
    struct session_record record;
    if (value.len < sizeof record) {
        return false;
    }
    memcpy(&record, value.data, sizeof record);
    uint8_t nonce[SESSION_NONCE_KEY_BYTES] = {'n'};
    store_u64(nonce + 1, record.owner);
    store_u64(nonce + 9, record.nonce);
    struct slice id;
    return record.id == big_at(key.data + 1) && record.window > 0 &&
           record.window <= SESSION_WINDOW_MAX && record.kept <= record.window &&
           value.len == sizeof record + (size_t)record.window * sizeof(struct session_result) &&
           heap_map_get(heap, HEAP_MAP_SESSIONS, slice_of(nonce, sizeof nonce), &id) == 0 &&
           id.len == sizeof record.id && load_u64(id.data) == record.id;
}

static bool tombstone_is_sound(const struct heap *heap, struct slice key, struct slice value,
                               uint32_t *count)
{
    struct tombstone_record t;
    if (value.len < sizeof t) {
        return false;
    }
    memcpy(&t, value.data, sizeof t);
    *count = t.count;
    uint8_t name[TOMBSTONE_ID_KEY_BYTES] = {'u'};
    store_u64(name + 1, t.id);
    struct slice until;
    return t.until == big_at(key.data + 1) && t.id == big_at(key.data + 9) &&
           t.count <= SESSION_WINDOW_MAX &&
           value.len == sizeof t + (size_t)t.count * sizeof(struct session_result) &&
           heap_map_get(heap, HEAP_MAP_SESSIONS, slice_of(name, sizeof name), &until) == 0 &&
           until.len == sizeof t.until && load_u64(until.data) == t.until;
}

static bool record_is_sound(const struct heap *heap, struct slice key, struct slice value,
                            struct sessions *s)
{
    uint32_t count = 0;
    switch (key.data[0]) {
    case 's':
        s->sessions++;
        if (key.len != SESSION_KEY_BYTES || !session_is_sound(heap, key, value)) {
            return false;
        }
        s->prepared += load_u32(value.data + offsetof(struct session_record, prepared));
        return true;
    case 'n':
        s->nonces++;
        return key.len == SESSION_NONCE_KEY_BYTES && value.len == sizeof(uint64_t);
    case 't':
        s->tombstones++;
        if (key.len != TOMBSTONE_KEY_BYTES || !tombstone_is_sound(heap, key, value, &count)) {
            return false;
        }
        s->results += count;
        return true;
    case 'u':
        s->ids++;
        return key.len == TOMBSTONE_ID_KEY_BYTES && value.len == sizeof(uint64_t);
    case 'l':
        return key.len == SESSION_LEASE_KEY_BYTES;
    default:
        return false;
    }
}

/* Undecided transactions that are numbered in sessions of this shard. */
static uint64_t prepared_at_home(const struct heap *heap)
{
    struct heap_opts opts;
    struct txn_name name = {0};
    struct txn_record record;
    uint64_t count = 0;
    heap_get_opts(heap, &opts);
    while (txn_next(heap, &name, &record)) {
        count += name.home == opts.uid && record.state == TXN_PREPARED;
    }
    return count;
}

/* Records point at each other one to one, so that equal numbers mean that none is left over. */
static bool sessions_are_sound(const struct heap *heap)
{
    struct sessions s = {0};
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(heap, HEAP_MAP_SESSIONS, key, &key, &value) == 0) {
        if (!record_is_sound(heap, key, value, &s)) {
            return false;
        }
    }
    struct fsm_header h;
    fsm_header_get(heap, &h);
    return s.prepared == prepared_at_home(heap) && s.sessions == h.session_count &&
           s.nonces == s.sessions && s.tombstones == h.tombstone_count && s.ids == s.tombstones &&
           s.results == h.tombstone_results;
}

int fsm_check(const struct heap *heap)
{
    return header_is_sound(heap) && sessions_are_sound(heap) && catalog_is_sound(heap)
               ? 0
               : ERR_CORRUPT;
}
