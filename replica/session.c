/* Sessions: exactly once, however often a command is retried (rules X18, X19, E22). */
#include <string.h>

#include "alloc/ahead.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "replica/fsm_layout.h"
#include "replica/internal.h"

#define SESSION_LEASE_MS_MIN 1000u
#define SESSION_LEASE_MS_MAX 3600000u
#define SESSION_SWEEP_MAX    64u /* sessions looked at in one go */

struct session_key {
    uint8_t bytes[SESSION_KEY_BYTES];
};
struct nonce_key {
    uint8_t bytes[SESSION_NONCE_KEY_BYTES];
};

/* Big-endian, so that the map's order is the order of ids. */
static struct slice key_of(uint64_t id, struct session_key *key)
{
    uint64_t big = __builtin_bswap64(id);
    key->bytes[0] = 's';
    memcpy(key->bytes + 1, &big, sizeof big);
    return slice_of(key->bytes, sizeof key->bytes);
}

static struct slice nonce_key_of(uint64_t owner, uint64_t nonce, struct nonce_key *key)
{
    key->bytes[0] = 'n';
    store_u64(key->bytes + 1, owner);
    store_u64(key->bytes + 9, nonce);
    return slice_of(key->bytes, sizeof key->bytes);
}

static size_t record_bytes(uint32_t window)
{
    return sizeof(struct session_record) + (size_t)window * sizeof(struct session_result);
}

static size_t result_offset(uint32_t place)
{
    return sizeof(struct session_record) + (size_t)place * sizeof(struct session_result);
}

static uint64_t seq_at(const uint8_t *value, uint32_t place)
{
    return load_u64(value + result_offset(place) + offsetof(struct session_result, seq));
}

/* The result of a number that isn't acknowledged; false: there is none. */
static bool result_get(const uint8_t *value, const struct session_record *record, uint64_t seq,
                       struct session_result *out)
{
    for (uint32_t i = 0; i < record->kept; i++) {
        if (seq_at(value, i) == seq) {
            memcpy(out, value + result_offset(i), sizeof *out);
            return true;
        }
    }
    memset(out, 0, sizeof *out);
    return false;
}

/* Where the next result goes. Numbers are less than a window above what is acknowledged, so there
 * is always a place; in a record that was received and lies, the last one. */
static uint32_t result_place(const uint8_t *value, struct session_record *record)
{
    while (record->kept > 0 && seq_at(value, record->kept - 1) <= record->acked) {
        record->kept--;
    }
    for (uint32_t i = 0; i < record->kept; i++) {
        if (seq_at(value, i) <= record->acked) {
            return i;
        }
    }
    if (record->kept < record->window) {
        record->kept++;
    }
    return record->kept - 1;
}

static bool record_get(const struct heap *heap, uint64_t id, struct session_record *out,
                       const uint8_t **value)
{
    struct session_key key;
    struct slice found;
    if (heap_map_get(heap, HEAP_MAP_SESSIONS, key_of(id, &key), &found) != 0 ||
        found.len < sizeof *out) {
        return false;
    }
    memcpy(out, found.data, sizeof *out);
    assert(found.len == record_bytes(out->window));
    *value = found.data;
    return true;
}

void session_ahead(const struct heap *heap, uint64_t id, unsigned step)
{
    struct session_key key;
    heap_map_ahead(heap, HEAP_MAP_SESSIONS, key_of(id, &key), step,
                   sizeof(struct session_record) + sizeof(struct session_result));
}

/* When the session was renewed last: by a command of its own, or because a leader's term began,
 * since what went by without a leader is nobody's fault. */
static uint64_t renewed_at(const struct session_record *s, const struct fsm_header *h)
{
    return s->renewed > h->term_stamp ? s->renewed : h->term_stamp;
}

static void record_put(struct heap *heap, const struct session_record *record)
{
    struct session_key key;
    uint8_t *at =
        heap_map_edit(heap, HEAP_MAP_SESSIONS, key_of(record->id, &key), 0, sizeof *record);
    assert(at != NULL);
    memcpy(at, record, sizeof *record);
}

static bool renew(struct session_record *s, uint64_t acked, uint64_t stamp)
{
    bool changed = s->renewed != stamp || acked > s->acked;
    s->renewed = stamp;
    s->acked = acked > s->acked ? acked : s->acked;
    return changed;
}

int session_enter(struct heap *heap, const struct command_prefix *prefix, struct slice body,
                  uint16_t kind, const struct fsm_now *now, struct session_ticket *ticket,
                  struct command_result *result)
{
    const uint8_t *value;
    struct session_record *record = &ticket->record;
    ticket->found = false;
    /* Without the prefix: `acked` may differ in a retry, and the rest of it names what is compared.
     */
    ticket->digest =
        hash64(kind, body.data + COMMAND_PREFIX_BYTES, body.len - COMMAND_PREFIX_BYTES);
    if (!record_get(heap, prefix->session, record, &value)) {
        int rv = tombstone_answer(heap, prefix, ticket->digest, now, result);
        ticket->found = rv == 0;
        return rv;
    }
    bool changed = renew(record, prefix->acked, now->stamp);
    int rv = 0;
    if (prefix->seq <= record->acked) {
        rv = ERR_INVAL;
    } else if (prefix->seq > record->acked + record->window) {
        rv = ERR_LIMIT;
    } else {
        ticket->seq = prefix->seq;
        struct session_result stored;
        if (!result_get(value, record, prefix->seq, &stored)) {
            return 0; /* session_leave() writes the record too */
        }
        /* Digest 0: TX_SETTLE found nothing, so that nothing ever happens under this number. */
        if (stored.digest != ticket->digest && stored.digest != 0) {
            rv = ERR_PROTOCOL;
        } else {
            ticket->found = true;
            result->code = -(int)stored.code;
            result->version = stored.version;
            result->value = stored.value;
        }
    }
    if (changed) {
        record_put(heap, record);
    }
    return rv;
}

int session_leave(struct heap *heap, const struct session_ticket *ticket,
                  const struct command_result *result)
{
    assert(result->code <= 0);
    struct session_result stored = {
        .seq = ticket->seq,
        .digest = ticket->digest,
        .version = result->version,
        .value = result->value,
        .code = (uint32_t)-result->code,
    };
    struct session_key key;
    struct slice name = key_of(ticket->record.id, &key);
    struct session_record record = ticket->record;
    uint8_t *at = heap_map_edit(heap, HEAP_MAP_SESSIONS, name, 0, result_offset(1));
    if (at == NULL) {
        return ERR_CORRUPT; /* it was there when the command began */
    }
    /* The command may have left a result for another number (TX_SETTLE). */
    record.kept = load_u32(at + offsetof(struct session_record, kept));
    uint32_t place = result_place(at, &record);
    memcpy(at, &record, sizeof record);
    if (place > 0) {
        at = heap_map_edit(heap, HEAP_MAP_SESSIONS, name, result_offset(place), sizeof stored);
        assert(at != NULL);
        memcpy(at, &stored, sizeof stored);
    } else {
        memcpy(at + result_offset(0), &stored, sizeof stored);
    }
    return 0;
}

static void count_edit(struct heap *heap, int64_t delta)
{
    uint8_t *at = heap_fsm_edit(heap, offsetof(struct fsm_header, session_count), 8);
    store_u64(at, load_u64(at) + (uint64_t)delta);
}

int session_open(struct heap *heap, const struct msg_session_open *m, const struct fsm_now *now,
                 uint64_t *id)
{
    if (m->window == 0 || m->window > SESSION_WINDOW_MAX || m->lease_ms < SESSION_LEASE_MS_MIN ||
        m->lease_ms > SESSION_LEASE_MS_MAX) {
        return ERR_INVAL;
    }
    struct nonce_key nonce_key;
    struct slice by_nonce = nonce_key_of(m->owner, m->nonce, &nonce_key);
    struct slice found;
    if (heap_map_get(heap, HEAP_MAP_SESSIONS, by_nonce, &found) == 0) {
        *id = load_u64(found.data);
        return 0;
    }
    struct fsm_header h;
    fsm_header_get(heap, &h);
    if (h.session_count >= SESSIONS_PER_SHARD_MAX) {
        return ERR_LIMIT;
    }
    int rv = tombstone_drop_ended(heap, now);
    if (rv != 0) {
        return rv;
    }
    static const uint8_t
        zeros[sizeof(struct session_record) + SESSION_WINDOW_MAX * sizeof(struct session_result)];
    struct session_key key;
    rv = heap_map_put(heap, HEAP_MAP_SESSIONS, key_of(now->version, &key),
                      slice_of(zeros, record_bytes(m->window)));
    if (rv != 0) {
        return rv;
    }
    uint8_t id_bytes[8];
    store_u64(id_bytes, now->version);
    rv = heap_map_put(heap, HEAP_MAP_SESSIONS, by_nonce, slice_of(id_bytes, sizeof id_bytes));
    if (rv != 0) {
        (void)heap_map_delete(heap, HEAP_MAP_SESSIONS, key_of(now->version, &key));
        return rv;
    }
    struct session_record record = {
        .id = now->version,
        .nonce = m->nonce,
        .owner = m->owner,
        .opened = now->stamp,
        .renewed = now->stamp,
        .lease_ms = m->lease_ms,
        .window = m->window,
    };
    record_put(heap, &record);
    count_edit(heap, 1);
    *id = now->version;
    return 0;
}

int session_keepalive(struct heap *heap, const struct command_prefix *prefix,
                      const struct fsm_now *now)
{
    struct session_record record;
    const uint8_t *value;
    if (!record_get(heap, prefix->session, &record, &value)) {
        return ERR_SESSION_EXPIRED;
    }
    if (renew(&record, prefix->acked, now->stamp)) {
        record_put(heap, &record);
    }
    return 0;
}

int session_close(struct heap *heap, uint64_t id)
{
    struct session_record record;
    const uint8_t *value;
    if (!record_get(heap, id, &record, &value)) {
        return ERR_SESSION_EXPIRED;
    }
    if (record.prepared > 0) {
        return ERR_BUSY; /* its slots and its ring are wanted yet (rules X19) */
    }
    struct nonce_key nonce_key;
    struct session_key key;
    int rv = lease_return_all(heap, id);
    if (rv == 0) {
        rv = heap_map_delete(heap, HEAP_MAP_SESSIONS,
                             nonce_key_of(record.owner, record.nonce, &nonce_key));
    }
    if (rv == 0) {
        rv = heap_map_delete(heap, HEAP_MAP_SESSIONS, key_of(id, &key));
    }
    count_edit(heap, -1);
    return rv;
}

const uint8_t *session_results(const struct heap *heap, const struct session_record *record)
{
    struct session_record same;
    const uint8_t *value = NULL;
    bool found = record_get(heap, record->id, &same, &value);
    assert(found);
    return value + sizeof same;
}

int session_expire(struct heap *heap, uint64_t id, uint64_t renewed,
                   const struct tombstone_bounds *bounds, const struct fsm_now *now)
{
    struct session_record record;
    const uint8_t *value;
    if (!record_get(heap, id, &record, &value)) {
        return ERR_NOTFOUND;
    }
    struct fsm_header h;
    fsm_header_get(heap, &h);
    /* Void if it was renewed since, by a command or by a new term, and while a transaction of it
     * is undecided. */
    if (record.prepared > 0 || record.renewed != renewed ||
        hlc_to_ms(now->stamp) < hlc_to_ms(renewed_at(&record, &h)) + record.lease_ms) {
        return ERR_CONFLICT;
    }
    if (bounds != NULL) {
        int rv = tombstone_drop_ended(heap, now);
        if (rv == 0) {
            rv = tombstone_put(heap, &record, bounds, now);
        }
        if (rv != 0) {
            return rv;
        }
    }
    return session_close(heap, id);
}

bool session_owner(const struct heap *heap, uint64_t id, uint64_t *owner)
{
    struct session_record record;
    struct tombstone_record t;
    const uint8_t *value;
    if (record_get(heap, id, &record, &value)) {
        *owner = record.owner;
        return true;
    }
    if (tombstone_find(heap, id, &t, &value)) {
        *owner = t.owner;
        return true;
    }
    return false;
}

/* Of one that has ended, too: it may be a retry, and applying it tells, and runs nothing. */
int session_check(const struct heap *heap, uint64_t id, uint64_t owner)
{
    uint64_t known;
    if (!session_owner(heap, id, &known)) {
        return ERR_SESSION_EXPIRED;
    }
    return known == owner ? 0 : ERR_DENIED;
}

/* ---- numbers of transactions over several shards, whose home this shard is ---- */

enum session_tx session_tx_look(const struct heap *heap, uint64_t session, uint64_t seq,
                                uint64_t owner, const struct fsm_now *now,
                                struct session_result *stored, int *code)
{
    struct session_record record;
    const uint8_t *value;
    memset(stored, 0, sizeof *stored);
    *code = 0;
    if (!record_get(heap, session, &record, &value)) {
        *code = ERR_SESSION_EXPIRED;
        return tombstone_result(heap, session, seq, now, stored) ? SESSION_TX_KNOWN
                                                                 : SESSION_TX_REFUSED;
    }
    if (owner != 0 && record.owner != owner) {
        *code = ERR_DENIED;
    } else if (seq <= record.acked) {
        *code = ERR_INVAL;
    } else if (seq > record.acked + record.window) {
        *code = ERR_LIMIT;
    } else {
        return result_get(value, &record, seq, stored) ? SESSION_TX_KNOWN : SESSION_TX_OPEN;
    }
    return SESSION_TX_REFUSED;
}

void session_tx_renew(struct heap *heap, uint64_t session, uint64_t acked,
                      const struct fsm_now *now)
{
    struct session_record record;
    const uint8_t *value;
    if (record_get(heap, session, &record, &value) && renew(&record, acked, now->stamp)) {
        record_put(heap, &record);
    }
}

void session_tx_count(struct heap *heap, uint64_t session, int delta)
{
    struct session_record record;
    const uint8_t *value;
    if (record_get(heap, session, &record, &value)) {
        record.prepared += (uint32_t)delta;
        record_put(heap, &record);
    }
}

void session_tx_keep(struct heap *heap, uint64_t session, uint64_t seq, uint64_t digest,
                     const struct command_result *result)
{
    struct session_record record;
    struct session_result stored;
    const uint8_t *value;
    if (!record_get(heap, session, &record, &value) || seq <= record.acked ||
        seq > record.acked + record.window) {
        return;
    }
    if (result_get(value, &record, seq, &stored)) {
        return;
    }
    stored = (struct session_result){.seq = seq,
                                     .digest = digest,
                                     .version = result->version,
                                     .value = result->value,
                                     .code = (uint32_t)-result->code};
    uint32_t place = result_place(value, &record);
    record_put(heap, &record);
    struct session_key key;
    uint8_t *at = heap_map_edit(heap, HEAP_MAP_SESSIONS, key_of(session, &key),
                                result_offset(place), sizeof stored);
    assert(at != NULL);
    memcpy(at, &stored, sizeof stored);
}

bool session_tx_is_over(const struct heap *heap, uint64_t session, uint64_t seq)
{
    struct session_record record;
    const uint8_t *value;
    return !record_get(heap, session, &record, &value) || seq <= record.acked;
}

void session_sweep(struct shard *s)
{
    struct fsm_header h;
    fsm_header_get(s->heap, &h);
    if (h.session_count == 0) {
        return;
    }
    uint64_t led_ms = env_now_ms(s->r->env) - s->lead_since_ms;
    uint64_t now_ms = hlc_to_ms(shard__stamp(s));
    for (uint32_t i = 0; i < SESSION_SWEEP_MAX; i++) {
        struct slice key;
        struct slice value;
        struct slice after = slice_of(s->session_cursor, s->session_cursor_len);
        /* 's' sorts behind 'n': begin there. */
        if (s->session_cursor_len == 0) {
            after = slice_of("s", 1);
        }
        if (heap_map_next(s->heap, HEAP_MAP_SESSIONS, after, &key, &value) != 0 ||
            key.len != SESSION_KEY_BYTES || key.data[0] != 's') {
            s->session_cursor_len = 0;
            return;
        }
        memcpy(s->session_cursor, key.data, key.len);
        s->session_cursor_len = key.len;
        struct session_record record;
        memcpy(&record, value.data, sizeof record);
        if (led_ms < record.lease_ms || record.prepared > 0 ||
            now_ms < hlc_to_ms(renewed_at(&record, &h)) + record.lease_ms) {
            continue;
        }
        struct msg_session_bury m = {
            .uid = s->uid,
            .expired = record.id,
            .renewed = record.renewed,
            .tombstones_max = TOMBSTONES_MAX,
            .results_max = TOMBSTONE_RESULTS_MAX,
            .keep_ms = TOMBSTONE_KEEP_MS,
        };
        struct buf *scratch = &s->r->scratch;
        buf_clear(scratch);
        if (message_encode_session_bury(&m, scratch) != 0 ||
            shard__propose_own(s, KIND_SESSION_BURY, slice_of(scratch->data, scratch->len)) != 0) {
            return;
        }
    }
}
