/* What stays of a session that expired: the results that its client hasn't acknowledged, so that a
 * late retry is answered with what happened (rules X19). It never runs anything: a number that
 * isn't found here gets SESSION_EXPIRED, as if there were no tombstone, and it never ran under this
 * session or its result is gone; which of the two isn't known to anybody.
 *
 * Bounded in number, in results and in time by the shard's clock. The bounds stand in the entry
 * that ends the session (E19), so that changing them changes no old log. The oldest go first. */
#include <string.h>

#include "base/hlc.h"
#include "replica/internal.h"

#define DROPS_MAX 8u /* of those past their time, by one command */

struct tombstone_key {
    uint8_t bytes[TOMBSTONE_KEY_BYTES];
};
struct tombstone_id_key {
    uint8_t bytes[TOMBSTONE_ID_KEY_BYTES];
};

/* Big-endian, so that the map's order is the order in which they end. */
static struct slice key_of(uint64_t until, uint64_t id, struct tombstone_key *key)
{
    uint64_t big[2] = {__builtin_bswap64(until), __builtin_bswap64(id)};
    key->bytes[0] = 't';
    memcpy(key->bytes + 1, big, sizeof big);
    return slice_of(key->bytes, sizeof key->bytes);
}

static struct slice id_key_of(uint64_t id, struct tombstone_id_key *key)
{
    key->bytes[0] = 'u';
    store_u64(key->bytes + 1, id);
    return slice_of(key->bytes, sizeof key->bytes);
}

static void count_edit(struct heap *heap, int64_t tombstones, int64_t results)
{
    uint8_t *count = heap_fsm_edit(heap, offsetof(struct fsm_header, tombstone_count), 8);
    store_u64(count, load_u64(count) + (uint64_t)tombstones);
    count = heap_fsm_edit(heap, offsetof(struct fsm_header, tombstone_results), 8);
    store_u64(count, load_u64(count) + (uint64_t)results);
}

/* Pages that were received may hold anything. */
static bool decode(struct slice value, struct tombstone_record *out)
{
    if (value.len < sizeof *out) {
        return false;
    }
    memcpy(out, value.data, sizeof *out);
    return (value.len - sizeof *out) / sizeof(struct session_result) >= out->count;
}

bool tombstone_find(const struct heap *heap, uint64_t id, struct tombstone_record *out,
                    const uint8_t **results)
{
    struct tombstone_id_key id_key;
    struct tombstone_key key;
    struct slice found;
    if (heap_map_get(heap, HEAP_MAP_SESSIONS, id_key_of(id, &id_key), &found) != 0 ||
        found.len < sizeof(uint64_t)) {
        return false;
    }
    uint64_t until = load_u64(found.data);
    if (heap_map_get(heap, HEAP_MAP_SESSIONS, key_of(until, id, &key), &found) != 0 ||
        !decode(found, out)) {
        return false;
    }
    *results = found.data + sizeof *out;
    return true;
}

/* The one that ends first. */
static bool oldest(const struct heap *heap, struct tombstone_record *out)
{
    struct slice key;
    struct slice value;
    if (heap_map_next(heap, HEAP_MAP_SESSIONS, slice_of("t", 1), &key, &value) != 0 ||
        key.len != TOMBSTONE_KEY_BYTES) {
        return false;
    }
    return decode(value, out);
}

static int drop(struct heap *heap, const struct tombstone_record *t)
{
    struct tombstone_id_key id_key;
    struct tombstone_key key;
    int rv = heap_map_delete(heap, HEAP_MAP_SESSIONS, id_key_of(t->id, &id_key));
    if (rv == 0) {
        rv = heap_map_delete(heap, HEAP_MAP_SESSIONS, key_of(t->until, t->id, &key));
    }
    count_edit(heap, -1, -(int64_t)t->count);
    return rv;
}

int tombstone_drop_ended(struct heap *heap, const struct fsm_now *now)
{
    struct tombstone_record t;
    int rv = 0;
    for (uint32_t i = 0; rv == 0 && i < DROPS_MAX && oldest(heap, &t) && t.until <= now->stamp;
         i++) {
        rv = drop(heap, &t);
    }
    return rv;
}

static bool is_kept(const struct session_record *record, const struct session_result *result)
{
    return result->seq > record->acked;
}

static uint32_t count_kept(const struct session_record *record, const uint8_t *results)
{
    struct session_result result;
    uint32_t count = 0;
    for (uint32_t i = 0; i < record->window; i++) {
        memcpy(&result, results + (size_t)i * sizeof result, sizeof result);
        count += is_kept(record, &result);
    }
    return count;
}

/* Room within the bounds; false: it alone is too much. */
static int make_room(struct heap *heap, uint32_t count, const struct tombstone_bounds *bounds,
                     bool *fits)
{
    struct tombstone_record t;
    int rv = 0;
    *fits = bounds->tombstones_max > 0 && count <= bounds->results_max;
    while (rv == 0 && *fits) {
        struct fsm_header h;
        fsm_header_get(heap, &h);
        if ((h.tombstone_count < bounds->tombstones_max &&
             h.tombstone_results + count <= bounds->results_max) ||
            !oldest(heap, &t)) {
            break;
        }
        rv = drop(heap, &t);
    }
    return rv;
}

int tombstone_put(struct heap *heap, const struct session_record *record,
                  const struct tombstone_bounds *bounds, const struct fsm_now *now)
{
    static const uint8_t
        zeros[sizeof(struct tombstone_record) + SESSION_WINDOW_MAX * sizeof(struct session_result)];
    const uint8_t *results = session_results(heap, record);
    uint32_t count = count_kept(record, results);
    bool fits;
    if (count == 0) {
        return 0;
    }
    int rv = make_room(heap, count, bounds, &fits);
    if (rv != 0 || !fits) {
        return rv;
    }
    struct tombstone_record t = {
        .id = record->id,
        .owner = record->owner,
        .until = hlc_from_ms(hlc_to_ms(now->stamp) + bounds->keep_ms),
        .count = count,
    };
    struct tombstone_id_key id_key;
    struct tombstone_key key;
    struct slice name = key_of(t.until, t.id, &key);
    size_t bytes = sizeof t + count * sizeof(struct session_result);
    rv = heap_map_put(heap, HEAP_MAP_SESSIONS, name, slice_of(zeros, bytes));
    if (rv != 0) {
        return rv == ERR_NOSPACE ? 0 : rv; /* it goes without, on all replicas alike */
    }
    uint8_t until[8];
    store_u64(until, t.until);
    rv = heap_map_put(heap, HEAP_MAP_SESSIONS, id_key_of(t.id, &id_key),
                      slice_of(until, sizeof until));
    if (rv != 0) {
        int undone = heap_map_delete(heap, HEAP_MAP_SESSIONS, name);
        return rv == ERR_NOSPACE ? undone : rv;
    }
    count_edit(heap, 1, count);
    uint8_t *at = heap_map_edit(heap, HEAP_MAP_SESSIONS, name, 0, bytes);
    if (at == NULL) {
        return ERR_CORRUPT; /* it was put above */
    }
    memcpy(at, &t, sizeof t);
    at += sizeof t;
    results = session_results(heap, record); /* the map may have moved it */
    for (uint32_t i = 0; i < record->window; i++) {
        struct session_result result;
        memcpy(&result, results + (size_t)i * sizeof result, sizeof result);
        if (is_kept(record, &result)) {
            memcpy(at, &result, sizeof result);
            at += sizeof result;
        }
    }
    return 0;
}

bool tombstone_result(const struct heap *heap, uint64_t session, uint64_t seq,
                      const struct fsm_now *now, struct session_result *out)
{
    struct tombstone_record t;
    const uint8_t *results;
    if (!tombstone_find(heap, session, &t, &results) || t.until <= now->stamp) {
        return false;
    }
    for (uint32_t i = 0; i < t.count; i++) {
        memcpy(out, results + (size_t)i * sizeof *out, sizeof *out);
        if (out->seq == seq) {
            return true;
        }
    }
    return false;
}

int tombstone_answer(const struct heap *heap, const struct command_prefix *prefix, uint64_t digest,
                     const struct fsm_now *now, struct command_result *result)
{
    struct session_result stored;
    if (!tombstone_result(heap, prefix->session, prefix->seq, now, &stored)) {
        return ERR_SESSION_EXPIRED;
    }
    if (stored.digest != digest && stored.digest != 0) {
        return ERR_PROTOCOL;
    }
    result->code = -(int)stored.code;
    result->version = stored.version;
    result->value = stored.value;
    return 0;
}
