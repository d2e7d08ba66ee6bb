/* Who made an object's changes. Undo records say in which entry a change came (their order), and
 * the shard's log, as long as it is kept, what stands in that entry: commands with their sessions,
 * and when sessions were opened whose they are. Nothing is kept for this, and nothing is guessed:
 * where an entry leaves more than one possibility, the change has no writer. */
#include <string.h>

#include "alloc/heap_layout.h"
#include "alloc/txn.h"
#include "base/hlc.h"
#include "replica/internal.h"

#define COMMANDS_MAX 64u /* of one entry that may be meant */
#define OPENS_MAX    1024u
#define PREPARES_MAX 256u
/* A session's id is the version of its opening. The n-th command of an entry gets the entry's stamp
 * + n; or more, where the shard's clock was ahead of that: by no more than this (rules X14, X16).
 */
#define CLOCK_AHEAD_MS 2000u

/* A command that may have changed the object. */
struct candidate {
    struct shard_writer writer; /* version 0: not known from the command */
    bool births;                /* allocates, nobody knows where */
    bool bears;                 /* allocates this one, whose slot was leased */
};

struct opening {
    uint64_t version; /* the least that it can have been */
    uint64_t owner;
};

struct prepare {
    struct txn_name name;
    uint64_t owner;
};

struct look {
    uint64_t uid, ptr;
    const struct heap_change *changes; /* newest first */
    struct shard_writer *writers;      /* as many */
    size_t count;
    struct candidate candidates[COMMANDS_MAX];
    uint32_t candidate_count;
    bool overflow;
    struct opening opens[OPENS_MAX]; /* a ring */
    uint64_t open_count;
    struct prepare prepares[PREPARES_MAX]; /* a ring */
    uint64_t prepare_count;
};

/* ---- what a command touches ---- */

static bool part_touches(struct slice part, uint64_t ptr, bool *bears)
{
    struct txn_part_header head;
    struct txn_cursor items;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    if (txn_part_open(part, &head, &items) != 0) {
        return false;
    }
    bool touches = false;
    while (txn_part_next(&items, &item, &name, &bytes)) {
        bool alloc = item.kind == TXN_ALLOC;
        if ((alloc || item.kind == TXN_FREE || item.kind == TXN_WRITE) && item.ptr == ptr) {
            touches = true;
            *bears = *bears || alloc;
        }
    }
    return touches;
}

static void add_candidate(struct look *l, uint16_t kind, bool bears,
                          const struct shard_writer *writer)
{
    if (l->candidate_count == COMMANDS_MAX) {
        l->overflow = true;
        return;
    }
    struct candidate *c = &l->candidates[l->candidate_count++];
    *c = (struct candidate){.writer = *writer, .births = kind == KIND_ALLOC, .bears = bears};
    c->writer.kind = kind;
}

static void gather_decision(struct look *l, struct slice body)
{
    struct msg_tx_decide m;
    if (message_decode_tx_decide(body, &m) != 0 || m.commit != 1) {
        return;
    }
    struct shard_writer w = {.home = m.home, .session = m.tx_session, .seq = m.tx_seq};
    for (size_t at = 0; at + 8 <= m.times.len; at += 8) {
        uint64_t time = load_u64(m.times.data + at);
        w.version = time > w.version ? time : w.version;
    }
    uint64_t known = l->prepare_count < PREPARES_MAX ? l->prepare_count : PREPARES_MAX;
    for (uint64_t i = 0; i < known; i++) {
        const struct prepare *p = &l->prepares[i];
        if (p->name.home == w.home && p->name.session == w.session && p->name.seq == w.seq) {
            w.owner = p->owner;
            add_candidate(l, KIND_TX_DECIDE, false, &w);
            return;
        }
    }
}

static void gather(struct look *l, uint16_t kind, struct slice body)
{
    struct command_prefix prefix;
    struct msg_tx_commit_one one;
    if (kind == KIND_TX_DECIDE) {
        gather_decision(l, body);
        return;
    }
    bool touches = kind == KIND_ALLOC || fsm_object_of(kind, body) == l->ptr;
    bool bears = kind == KIND_ALLOC_LEASED;
    if (kind == KIND_TX_COMMIT_ONE) {
        touches =
            message_decode_tx_commit_one(body, &one) == 0 && part_touches(one.part, l->ptr, &bears);
    }
    if (touches && message_command_prefix(body, &prefix) == 0) {
        struct shard_writer w = {.home = l->uid, .session = prefix.session, .seq = prefix.seq};
        add_candidate(l, kind, bears, &w);
    }
}

/* What explains later entries. */
static void note(struct look *l, uint16_t kind, uint64_t version, struct slice body)
{
    struct msg_session_open open;
    struct msg_tx_prepare prepare;
    bool bears = false;
    if (kind == KIND_SESSION_OPEN && message_decode_session_open(body, &open) == 0) {
        l->opens[l->open_count++ % OPENS_MAX] = (struct opening){version, open.owner};
    } else if (kind == KIND_TX_PREPARE && message_decode_tx_prepare(body, &prepare) == 0 &&
               part_touches(prepare.part, l->ptr, &bears)) {
        l->prepares[l->prepare_count++ % PREPARES_MAX] =
            (struct prepare){{prepare.home, prepare.tx_session, prepare.tx_seq}, prepare.owner};
    }
}

/* ---- which of an entry's commands made which of its changes ---- */

static bool is_of(const struct look *l, size_t i, uint64_t index)
{
    return l->changes[i].order >> ORDER_INDEX_SHIFT == index;
}

/* Several records of one version are of one command. */
static bool begins(const struct look *l, size_t i)
{
    return i + 1 == l->count || l->changes[i + 1].version != l->changes[i].version;
}

static void settle_version(struct look *l, uint64_t version, const struct shard_writer *writer)
{
    for (size_t i = 0; i < l->count; i++) {
        if (l->changes[i].version == version) {
            l->writers[i] = *writer;
            l->writers[i].version = version;
        }
    }
}

static bool is_birth(const struct look *l, uint64_t version)
{
    for (size_t i = 0; i < l->count; i++) {
        if (l->changes[i].version == version && l->changes[i].kind == UNDO_BIRTH) {
            return true;
        }
    }
    return false;
}

/* Decisions say which version they are of. */
static bool settle_decided(struct look *l, uint64_t version)
{
    for (uint32_t k = 0; k < l->candidate_count; k++) {
        if (l->candidates[k].writer.version == version) {
            settle_version(l, version, &l->candidates[k].writer);
            return true;
        }
    }
    return false;
}

/* The n-th of those that may be meant, if there are `changes` of them; or what all have in common.
 */
static void settle_plain(struct look *l, uint64_t version, uint32_t n, uint32_t changes,
                         bool by_alloc)
{
    const struct shard_writer *first = NULL;
    const struct shard_writer *meant = NULL;
    uint32_t count = 0;
    bool same = true;
    for (uint32_t k = 0; k < l->candidate_count; k++) {
        const struct candidate *c = &l->candidates[k];
        if (c->births != by_alloc || c->writer.version != 0) {
            continue;
        }
        first = first == NULL ? &c->writer : first;
        meant = count == n ? &c->writer : meant;
        same = same && c->writer.session == first->session;
        count++;
    }
    if (count == changes && meant != NULL) {
        settle_version(l, version, meant);
    } else if (first != NULL && same) {
        struct shard_writer some = {.home = l->uid, .session = first->session};
        settle_version(l, version, &some);
    }
}

static bool is_borne(const struct look *l)
{
    for (uint32_t k = 0; k < l->candidate_count; k++) {
        if (l->candidates[k].bears) {
            return true;
        }
    }
    return false;
}

static void settle_entry(struct look *l, uint64_t index)
{
    uint64_t versions[COMMANDS_MAX]; /* oldest first */
    uint32_t count = 0;
    uint64_t birth = 0;
    for (size_t i = l->count; i-- > 0 && !l->overflow;) {
        uint64_t version = l->changes[i].version;
        if (!is_of(l, i, index) || !begins(l, i) || settle_decided(l, version)) {
            continue;
        }
        if (is_birth(l, version) && !is_borne(l)) {
            birth = version;
        } else if (count < COMMANDS_MAX) {
            versions[count++] = version;
        }
    }
    if (birth != 0) {
        settle_plain(l, birth, 0, 1, true);
    }
    for (uint32_t n = 0; n < count; n++) {
        settle_plain(l, versions[n], n, count, false);
    }
}

/* ---- the log ---- */

static void look_at(void *arg, uint64_t index, const struct wal_entry *entry)
{
    struct look *l = arg;
    struct entry_commands commands;
    uint16_t kind;
    struct slice body;
    bool wanted = false;
    if (!entry_commands_open(&commands, entry)) {
        return;
    }
    for (size_t i = 0; i < l->count && !wanted; i++) {
        wanted = is_of(l, i, index);
    }
    l->candidate_count = 0;
    l->overflow = false;
    for (uint32_t i = 0; entry_commands_next(&commands, &kind, &body); i++) {
        note(l, kind, commands.stamp + i, body);
        if (wanted) {
            gather(l, kind, body);
        }
    }
    if (wanted) {
        settle_entry(l, index);
    }
}

/* 0: nobody can tell. */
static uint64_t owner_of(const struct look *l, const struct heap *heap, uint64_t session)
{
    uint64_t known = l->open_count < OPENS_MAX ? l->open_count : OPENS_MAX;
    uint64_t owner = 0;
    bool one_owner = true;
    if (session_owner(heap, session, &owner)) {
        return owner;
    }
    for (uint64_t i = 0; i < known; i++) {
        const struct opening *o = &l->opens[i];
        if (o->version == session) {
            return o->owner;
        }
        if (o->version < session && session - o->version <= hlc_from_ms(CLOCK_AHEAD_MS)) {
            one_owner = one_owner && (owner == 0 || owner == o->owner);
            owner = o->owner;
        }
    }
    return one_owner ? owner : 0;
}

int shard_writers(struct shard *shard, uint64_t ptr, struct shard_writer *out, size_t max,
                  size_t *count, uint64_t *from)
{
    struct heap_change *changes = mem_alloc(max * sizeof *changes);
    struct look *l = mem_zalloc(sizeof *l);
    *count = 0;
    *from = 0;
    int rv = changes == NULL || l == NULL ? ERR_NOMEM
                                          : heap_history(shard->heap, ptr, 0, changes, max, count);
    if (rv == 0) {
        for (size_t i = 0; i < *count; i++) {
            out[i] = (struct shard_writer){.version = changes[i].version};
        }
        l->uid = shard->uid;
        l->ptr = ptr;
        l->changes = changes;
        l->writers = out;
        l->count = *count;
        rv = log_scan(shard, from, look_at, l);
    }
    for (size_t i = 0; rv == 0 && i < *count; i++) {
        if (out[i].session != 0 && out[i].owner == 0) {
            out[i].owner = owner_of(l, shard->heap, out[i].session);
        }
    }
    mem_free(changes);
    mem_free(l);
    return rv;
}
