/* The check of transactions: records and intents, in both directions. What is prepared has to stay
 * something that can be executed, whatever page it came from.
 *
 * Each target of each PREPARED part has its intent, and there are as many exclusive ones as such
 * targets. Of shared ones, which several parts may have, the sums of hashes of their keys are
 * compared: no marks are kept of what was seen. */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"
#include "alloc/command.h"
#include "alloc/txn_internal.h"
#include "base/hash.h"

#define CODE_MAX 0xffffu

struct tx_key {
    uint8_t bytes[1 + ROOT_NAME_BYTES_MAX];
};

static uint64_t number_at(const uint8_t *bytes)
{
    return __builtin_bswap64(load_u64(bytes));
}

static void fault(struct check *c, const uint8_t *name, const char *what)
{
    check_damage(c, "tx-record", "transaction %" PRIx64 ".%" PRIx64 ".%" PRIu64 ": %s",
                 number_at(name), number_at(name + 8), number_at(name + 16), what);
}

/* ---- a part ---- */

struct walk {
    struct check *c;
    const uint8_t *name; /* as in keys */
    uint64_t at;
    struct slice part;
};

/* An object or root as items [0, end) leave it, and what all items of the part do to it. */
struct mention {
    bool first; /* no item before `end` names it */
    bool there; /* an object */
    bool born;  /* it would be, by an item before `end` */
    uint64_t size;
    bool changes, sets, deletes;
    bool stays; /* a root: set by the last operation on it */
};

static bool names(const struct txn_item *item, struct slice name, uint64_t ptr, struct slice root)
{
    if (root.len > 0) {
        return name.len == root.len && memcmp(name.data, root.data, root.len) == 0;
    }
    return name.len == 0 && item->ptr == ptr && item->kind != TXN_CHECK_DIRECTORY;
}

static void mention_object(const struct check *c, uint64_t ptr, struct mention *m)
{
    struct checked_object o;
    uint64_t entry = check_slot_entry(c, ptr_slot(ptr));
    m->there = slot_word_state(entry) == SLOT_LIVE &&
               slot_word_generation(entry) == ptr_generation(ptr) &&
               ptr_shard(ptr) == c->hd->shard && check_object_get(c, ptr_slot(ptr), &o);
    m->size = m->there ? o.size : 0;
}

static struct mention mention_of(const struct walk *w, uint32_t end, uint64_t ptr,
                                 struct slice root)
{
    struct mention m = {.first = true};
    struct txn_part_header head;
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    if (root.len == 0) {
        mention_object(w->c, ptr, &m);
    }
    int rv = txn_part_open(w->part, &head, &cursor);
    for (uint32_t i = 0; rv == 0 && txn_part_next(&cursor, &item, &name, &bytes); i++) {
        if (!names(&item, name, ptr, root)) {
            continue;
        }
        m.changes = m.changes || item.kind >= TXN_ALLOC;
        m.sets = m.sets || item.kind == TXN_ROOT_SET;
        m.deletes = m.deletes || item.kind == TXN_ROOT_DELETE;
        m.stays = item.kind == TXN_ROOT_SET || (m.stays && item.kind != TXN_ROOT_DELETE);
        if (i >= end) {
            continue;
        }
        m.first = false;
        if (item.kind == TXN_ALLOC) {
            m.there = m.born = true;
            m.size = item.value;
        } else if (item.kind == TXN_FREE) {
            m.there = false;
        }
    }
    return m;
}

/* Can the operation be executed behind those before it? */
static bool operation_is_sound(struct walk *w, uint32_t i, const struct txn_item *item,
                               struct slice bytes)
{
    struct checked_object o;
    if (item->kind < TXN_ALLOC || item->kind >= TXN_ROOT_SET) {
        return true;
    }
    struct mention m = mention_of(w, i, item->ptr, slice_of(NULL, 0));
    if (item->kind != TXN_ALLOC) {
        return m.there && (item->kind == TXN_FREE ||
                           (item->value <= m.size && bytes.len <= m.size - item->value));
    }
    uint64_t entry = check_slot_entry(w->c, ptr_slot(item->ptr));
    w->c->unborn_wanted++;
    return !m.there && !m.born && slot_word_state(entry) == SLOT_PREPARED &&
           slot_word_generation(entry) == ptr_generation(item->ptr) &&
           ptr_shard(item->ptr) == w->c->hd->shard &&
           check_object_get(w->c, ptr_slot(item->ptr), &o) && o.size == item->value &&
           o.type == item->type;
}

static struct slice intent_key(uint64_t ptr, struct slice root, struct tx_key *key)
{
    key->bytes[0] = root.len == 0 && ptr != 0 ? 'o' : 'r';
    if (key->bytes[0] == 'o') {
        store_u64(key->bytes + 1, __builtin_bswap64(ptr));
        return slice_of(key->bytes, 9);
    }
    if (root.len > 0) {
        memcpy(key->bytes + 1, root.data, root.len);
    }
    return slice_of(key->bytes, 1 + root.len);
}

static bool is_exclusive(const struct intent_record *r)
{
    return r->shared == 0 && r->changers == 0;
}

static bool intent_is_there(struct walk *w, uint64_t ptr, struct slice root, bool exclusive)
{
    struct tx_key key;
    struct map_record found;
    struct intent_record r;
    struct slice k = intent_key(ptr, root, &key);
    if (!check_map_find(w->c, HEAP_MAP_TX, k, &found) || found.value.len != sizeof r) {
        return false;
    }
    memcpy(&r, found.value.data, sizeof r);
    if (!exclusive) {
        w->c->shared_wanted += hash64(0, k.data, k.len);
        return r.shared > 0;
    }
    w->c->exclusive_wanted++;
    return is_exclusive(&r) && r.at == w->at && r.by.home == number_at(w->name) &&
           r.by.session == number_at(w->name + 8) && r.by.seq == number_at(w->name + 16);
}

/* What is there of a root's name, and what has to be: a placeholder, when the name will come. */
static bool root_is_sound(struct walk *w, struct slice root, const struct mention *m,
                          bool *changes_directory)
{
    struct map_record found;
    struct root_record r = {0, 0};
    bool any = check_map_find(w->c, HEAP_MAP_ROOTS, root, &found);
    if (any && found.value.len == sizeof r) {
        memcpy(&r, found.value.data, sizeof r);
    }
    bool there = r.ptr != 0;
    *changes_directory = *changes_directory || (m->sets && !there) || (m->deletes && there);
    if (there || !m->stays) {
        return there || !any;
    }
    w->c->placeholders_wanted++;
    return any;
}

static const char *part_fault(struct walk *w)
{
    struct txn_part_header head;
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    bool reads = false;
    bool changes = false;
    if (txn_part_check(w->part, false) != 0 || txn_part_open(w->part, &head, &cursor) != 0) {
        return "its part can't be read";
    }
    for (uint32_t i = 0; txn_part_next(&cursor, &item, &name, &bytes); i++) {
        if (item.kind == TXN_CHECK_DIRECTORY) {
            reads = true;
            continue;
        }
        if (!operation_is_sound(w, i, &item, bytes)) {
            return "its part can't be executed";
        }
        struct mention m = mention_of(w, i, item.ptr, name);
        if (m.first && !intent_is_there(w, item.ptr, name, m.changes)) {
            return "nothing holds what it names";
        }
        if (m.first && m.changes && name.len > 0 && !root_is_sound(w, name, &m, &changes)) {
            return "no room is kept for a name";
        }
    }
    w->c->changers_wanted += changes;
    if (reads && !intent_is_there(w, 0, slice_of(NULL, 0), false)) {
        return "nothing holds the names that it has listed";
    }
    return NULL;
}

/* ---- records ---- */

/* 'p' or 'x' and a time, of this transaction. */
static bool timed_key_is_there(const struct check *c, char kind, uint64_t time, const uint8_t *name)
{
    uint8_t key[TXN_TIMED_KEY_BYTES];
    struct map_record found;
    key[0] = (uint8_t)kind;
    store_u64(key + 1, __builtin_bswap64(time));
    memcpy(key + 9, name, TXN_KEY_BYTES - 1);
    return check_map_find(c, HEAP_MAP_TX, slice_of(key, sizeof key), &found);
}

static bool is_participant(const struct check *c, const uint8_t *uids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (load_u64(uids + (size_t)i * 8) == c->hd->uid) {
            return true;
        }
    }
    return false;
}

static void prepared(struct check *c, const uint8_t *name, const struct txn_record *r,
                     struct slice value)
{
    uint64_t uids = (uint64_t)r->participants * 8;
    uint64_t tail = r->part_bytes > uids ? r->part_bytes : uids;
    if (r->participants > TX_PARTICIPANTS_MAX || r->part_bytes > TX_PART_BYTES_MAX ||
        value.len != sizeof *r + uids + tail || r->prepared_at == 0 ||
        r->prepared_at > c->hd->clock || r->committed_at != 0 || r->code != 0 ||
        !is_participant(c, value.data + sizeof *r, r->participants) ||
        !timed_key_is_there(c, 'p', r->prepared_at, name)) {
        fault(c, name, "the record of its preparation makes no sense");
        return;
    }
    c->tx_oldest =
        c->tx_oldest == 0 || r->prepared_at < c->tx_oldest ? r->prepared_at : c->tx_oldest;
    struct walk w = {.c = c,
                     .name = name,
                     .at = r->prepared_at,
                     .part = slice_of(value.data + sizeof *r + uids, r->part_bytes)};
    const char *what = part_fault(&w);
    if (what != NULL) {
        fault(c, name, what);
    }
}

static void decided(struct check *c, const uint8_t *name, const struct txn_record *r,
                    struct slice value)
{
    uint64_t times = (uint64_t)r->participants * 16;
    bool sound = r->part_bytes == 0 && value.len == sizeof *r + times;
    if (r->state == TXN_COMMITTED) {
        sound = sound && r->participants > 0 && r->participants <= TX_PARTICIPANTS_MAX &&
                r->code == 0 && r->committed_at >= r->prepared_at &&
                r->committed_at <= c->hd->clock;
    } else {
        sound = sound && r->state == TXN_REFUSED && r->participants == 0 && r->prepared_at == 0 &&
                r->committed_at == 0 && r->code != 0 && r->code <= CODE_MAX &&
                timed_key_is_there(c, 'x', r->deadline, name);
    }
    if (!sound) {
        fault(c, name, "the record of its outcome makes no sense");
    }
}

static void record(struct check *c, struct slice key, struct slice value)
{
    struct txn_record r;
    if (key.len != TXN_KEY_BYTES || value.len < sizeof r) {
        check_damage(c, "tx-record", "a transaction's record of %zu and %zu bytes", key.len,
                     value.len);
        return;
    }
    memcpy(&r, value.data, sizeof r);
    if (r.state < TXN_STATES) {
        c->tx_states[r.state]++;
    }
    (r.state == TXN_PREPARED ? prepared : decided)(c, key.data + 1, &r, value);
}

/* Its record has such a state and time; each record looks for its key itself. */
static void timed_key(struct check *c, struct slice key, struct slice value)
{
    struct map_record found;
    struct txn_record r;
    if (key.len != TXN_TIMED_KEY_BYTES || value.len != 1 || value.data[0] != 0) {
        check_damage(c, "tx-record", "a transaction's time of %zu and %zu bytes", key.len,
                     value.len);
        return;
    }
    const uint8_t *name = key.data + 9;
    uint8_t k[TXN_KEY_BYTES];
    k[0] = 't';
    memcpy(k + 1, name, sizeof k - 1);
    memset(&r, 0, sizeof r);
    if (check_map_find(c, HEAP_MAP_TX, slice_of(k, sizeof k), &found) &&
        found.value.len >= sizeof r) {
        memcpy(&r, found.value.data, sizeof r);
    }
    uint64_t time = number_at(key.data + 1);
    if (key.data[0] == 'p' ? r.state != TXN_PREPARED || r.prepared_at != time
                           : r.state != TXN_REFUSED || r.deadline != time) {
        fault(c, name, "noted at a time that isn't its own");
    }
}

/* ---- intents ---- */

/* Is the intent's object marked, and is it one that can be held so? */
static bool object_is_marked(struct check *c, uint64_t ptr, bool exclusive)
{
    struct checked_object o;
    uint64_t entry = check_slot_entry(c, ptr_slot(ptr));
    enum slot_state state = slot_word_state(entry);
    if (ptr_shard(ptr) != c->hd->shard || slot_word_generation(entry) != ptr_generation(ptr) ||
        (state != SLOT_LIVE && state != SLOT_PREPARED)) {
        return !exclusive; /* who read that it isn't born yet holds that */
    }
    c->held_wanted++;
    return check_object_get(c, ptr_slot(ptr), &o) && (o.flags & OBJECT_INTENT) != 0;
}

static void intent(struct check *c, struct slice key, struct slice value)
{
    struct intent_record r;
    bool directory = key.data[0] == 'r' && key.len == 1;
    struct slice name = slice_of(key.data + 1, key.len - 1);
    bool sound = value.len == sizeof r &&
                 (key.data[0] == 'o' ? key.len == 9 : directory || heap_root_name_is_valid(name));
    if (sound) {
        memcpy(&r, value.data, sizeof r);
        bool exclusive = is_exclusive(&r);
        sound = (exclusive || (r.at == 0 && check_is_zero(&r.by, sizeof r.by))) &&
                (directory ? !exclusive : r.changers == 0) &&
                (key.data[0] != 'o' || object_is_marked(c, number_at(key.data + 1), exclusive));
        c->exclusive += exclusive;
        c->shared += r.shared * hash64(0, key.data, key.len);
        c->changers += r.changers;
    }
    if (!sound) {
        check_damage(c, "tx-intent",
                     "an intent of %zu and %zu bytes makes no sense; what it is on couldn't be "
                     "changed any more",
                     key.len, value.len);
    }
}

static void root_history(struct check *c, struct slice key, struct slice value)
{
    struct slice name = slice_of(key.data + 1, key.len - 1);
    if (value.len != sizeof(uint64_t) || !heap_root_name_is_valid(name)) {
        check_damage(c, "undo-map", "a root's history of %zu and %zu bytes", key.len, value.len);
        return;
    }
    check_undo_root_chain(c, name, load_u64(value.data));
}

void check_txn_record(struct check *c, struct slice key, struct slice value)
{
    switch (key.data[0]) {
    case 't':
        record(c, key, value);
        break;
    case 'p':
    case 'x':
        timed_key(c, key, value);
        break;
    case 'o':
    case 'r':
        intent(c, key, value);
        break;
    case 'h':
        root_history(c, key, value);
        break;
    default:
        check_damage(c, "tx-record", "an unknown record of transactions");
        break;
    }
}

void check_txns(struct check *c)
{
    const struct heap_header *hd = c->hd;
    check_count(c, "prepared transactions", c->tx_states[TXN_PREPARED], hd->tx_prepared);
    check_count(c, "committed transactions", c->tx_states[TXN_COMMITTED], hd->tx_committed);
    check_count(c, "refused transactions", c->tx_states[TXN_REFUSED], hd->tx_refused);
    check_count(c, "the oldest prepare time", c->tx_oldest, hd->tx_oldest);
    check_count(c, "unborn objects of transactions", c->unborn_wanted, c->unborn);
    check_count(c, "names kept for transactions", c->placeholders_wanted, c->roots_reserved);
    check_count(c, "objects held by transactions", c->held_wanted, c->held);
    check_count(c, "exclusive intents", c->exclusive, c->exclusive_wanted);
    check_count(c, "changers of the set of names", c->changers, c->changers_wanted);
    check_count(c, "shared intents (by hash)", c->shared, c->shared_wanted);
}
