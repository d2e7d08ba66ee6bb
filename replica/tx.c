/* Transactions in the state machine of a shard: commands of clients that touch this shard alone or
 * ask what became of one, and those of coordinators (ADR 0007 §6). What they do to objects, and
 * which votes they give, is alloc/txn.h's; here stands what the session of the client has to say.
 */
#include <string.h>

#include "alloc/txn.h"
#include "base/hlc.h"
#include "replica/internal.h"

#define SWEEP_MAX        8u /* refusals past their time that a command takes away */
#define FORGET_NAMES_MAX 64u
#define NAME_BYTES       24u

/* ---- one shard ---- */

/* Whose slots a part may use. */
static int part_session_check(const struct heap *heap, struct slice part, uint64_t owner)
{
    struct txn_part_header header;
    struct txn_cursor cursor;
    int rv = txn_part_open(part, &header, &cursor);
    if (rv != 0 || header.session == 0) {
        return rv;
    }
    return session_check(heap, header.session, owner);
}

int tx_commit_one(struct heap *heap, struct slice body, uint64_t version,
                  const struct session_record *session, struct command_result *result)
{
    struct msg_tx_commit_one m;
    struct txn_conflict conflict = {0};
    int rv = message_decode_tx_commit_one(body, &m);
    if (rv == 0) {
        rv = part_session_check(heap, m.part, session->owner);
    }
    if (rv == 0) {
        rv = txn_apply_one(heap, version, m.part, &conflict);
    }
    result->value = conflict.what;
    result->version = conflict.version;
    return rv;
}

static uint64_t part_work(struct slice part)
{
    struct txn_part_header header;
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    uint64_t work = 0;
    if (txn_part_open(part, &header, &cursor) != 0) {
        return 0;
    }
    while (txn_part_next(&cursor, &item, &name, &bytes)) {
        work += item.kind == TXN_ALLOC ? 1 + (item.value >> 20) : 1;
    }
    return work;
}

uint64_t tx_work(uint16_t kind, struct slice body)
{
    struct msg_tx_commit_one one;
    struct msg_tx_prepare prepare;
    if (kind == KIND_TX_COMMIT_ONE) {
        return message_decode_tx_commit_one(body, &one) == 0 ? part_work(one.part) : 0;
    }
    return message_decode_tx_prepare(body, &prepare) == 0 ? part_work(prepare.part) : 0;
}

/* ---- several shards ---- */

static void answer(struct command_result *result, const struct txn_result *out)
{
    result->code = out->code;
    result->value = (uint64_t)out->answer;
    result->version = out->answer == TXN_NO ? out->conflict.what : out->version;
}

/* What the ring or the tombstone of the home session says of a transaction that has no record, or
 * the record of a refusal (which doesn't keep why it was aborted): an answer, or *refuse, the code
 * with which a vote is refused. */
static bool session_answers(const struct heap *heap, const struct txn_name *name, uint64_t owner,
                            uint64_t digest, const struct fsm_now *now, struct txn_result *out,
                            int *refuse)
{
    struct session_result stored;
    switch (session_tx_look(heap, name->session, name->seq, owner, now, &stored, refuse)) {
    case SESSION_TX_KNOWN:
        break;
    case SESSION_TX_OPEN:
    case SESSION_TX_REFUSED:
    default:
        return false;
    }
    memset(out, 0, sizeof *out);
    if (stored.digest != 0 && stored.digest != digest) {
        out->answer = TXN_NO; /* another command's number: it stays that one's */
        out->code = ERR_PROTOCOL;
    } else if (stored.code == 0) {
        out->answer = TXN_WAS_COMMITTED;
        out->version = stored.version;
    } else {
        out->answer = TXN_NO;
        out->code = -(int)stored.code;
        out->conflict.what = stored.value;
        out->conflict.version = stored.version;
    }
    return true;
}

/* The number is another transaction's, and stays that one's: this one never happens. */
static void refuse_other(struct command_result *result)
{
    result->code = ERR_PROTOCOL;
    result->value = TXN_NO;
}

/* On the home shard: is there an answer already, beside what a record says? *known: there is a
 * record. Else *refuse is as session_answers() has it. */
static bool home_answers(const struct heap *heap, const struct txn_name *name, uint64_t owner,
                         uint64_t digest, const struct fsm_now *now, bool *known, int *refuse,
                         struct command_result *result)
{
    struct txn_record record;
    const uint64_t *uids;
    const uint64_t *times;
    struct txn_result out = {0};
    *known = txn_find(heap, name, &record, &uids, &times);
    if (*known && record.digest != digest) {
        refuse_other(result);
        return true;
    }
    if ((*known && record.state != TXN_REFUSED) ||
        !session_answers(heap, name, owner, digest, now, &out, refuse)) {
        return false;
    }
    answer(result, &out);
    return true;
}

/* Without repeats, and with this shard among them. */
static bool participants_are_sound(uint64_t uid, struct slice uids)
{
    bool here = false;
    if (uids.len % 8 != 0 || uids.len / 8 < 2 || uids.len / 8 > TX_PARTICIPANTS_MAX) {
        return false;
    }
    for (size_t i = 0; i < uids.len; i += 8) {
        uint64_t a = load_u64(uids.data + i);
        here = here || a == uid;
        for (size_t k = 0; k < i; k += 8) {
            if (load_u64(uids.data + k) == a) {
                return false;
            }
        }
    }
    return here;
}

static int apply_prepare(struct heap *heap, uint64_t uid, struct slice body,
                         const struct fsm_now *now, struct command_result *result)
{
    struct msg_tx_prepare m;
    struct txn_result out = {0};
    bool known = false;
    int refuse = 0;
    int rv = message_decode_tx_prepare(body, &m);
    if (rv != 0 || !participants_are_sound(uid, m.participants) ||
        load_u64(m.participants.data) != m.home || txn_part_check(m.part, false) != 0) {
        result->code = ERR_PROTOCOL;
        return 0;
    }
    struct txn_prepare prepare = {.name = {m.home, m.tx_session, m.tx_seq},
                                  .deadline = m.deadline,
                                  .owner = m.owner,
                                  .digest = m.digest,
                                  .participants = m.participants,
                                  .part = m.part};
    bool home = m.home == uid;
    if (home) {
        session_tx_renew(heap, m.tx_session, m.tx_acked, now);
        if (home_answers(heap, &prepare.name, m.owner, m.digest, now, &known, &refuse, result)) {
            return 0;
        }
    }
    if (refuse == 0) {
        refuse = part_session_check(heap, m.part, m.owner);
    }
    rv = txn_apply_prepare(heap, now->version, &prepare, refuse, &out);
    if (rv != 0) {
        return rv;
    }
    if (home && !known && out.answer == TXN_YES) {
        session_tx_count(heap, m.tx_session, 1);
    }
    answer(result, &out);
    return 0;
}

static int apply_refuse(struct heap *heap, uint64_t uid, struct slice body,
                        const struct fsm_now *now, struct command_result *result)
{
    struct msg_tx_refuse m;
    struct txn_result out = {0};
    bool known = false;
    int refuse = 0;
    if (message_decode_tx_refuse(body, &m) != 0) {
        result->code = ERR_PROTOCOL;
        return 0;
    }
    struct txn_name name = {m.home, m.tx_session, m.tx_seq};
    if (m.home == uid && home_answers(heap, &name, 0, m.digest, now, &known, &refuse, result)) {
        return 0;
    }
    int rv = txn_apply_refuse(heap, &name, m.digest, m.deadline,
                              refuse != 0 ? refuse : ERR_TX_ABORTED, &out);
    answer(result, &out);
    return rv;
}

static bool is_participant(uint64_t uid, const uint64_t *uids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (load_u64(&uids[i]) == uid) {
            return true;
        }
    }
    return false;
}

static uint64_t greatest(struct slice times)
{
    uint64_t ct = 0;
    for (size_t i = 0; i + 8 <= times.len; i += 8) {
        uint64_t t = load_u64(times.data + i);
        ct = t > ct ? t : ct;
    }
    return ct;
}

static int apply_decide(struct heap *heap, uint64_t uid, struct slice body,
                        struct command_result *result)
{
    struct msg_tx_decide m;
    struct txn_record record = {0};
    const uint64_t *uids = NULL;
    const uint64_t *times = NULL;
    struct txn_result out = {0};
    if (message_decode_tx_decide(body, &m) != 0 || m.commit > 1 ||
        (m.commit == 0 && (m.code == 0 || m.code >= 1000)) ||
        (m.commit == 1 && (m.times.len == 0 || m.times.len % 8 != 0))) {
        result->code = ERR_PROTOCOL;
        return 0;
    }
    struct txn_name name = {m.home, m.tx_session, m.tx_seq};
    bool known = txn_find(heap, &name, &record, &uids, &times);
    bool prepared = known && record.state == TXN_PREPARED && record.digest == m.digest;
    bool misfit = m.commit == 1 ? m.times.len != 8u * (size_t)record.participants
                                : !is_participant(m.refused_by, uids, record.participants);
    if (prepared && misfit) {
        result->code = ERR_PROTOCOL;
        return 0;
    }
    bool done = false;
    struct command_result outcome = {0};
    int rv;
    if (m.commit == 1) {
        outcome.version = greatest(m.times);
        rv = txn_apply_commit(heap, &name, m.digest, m.times, &done, &out);
    } else {
        outcome.code = -(int)m.code;
        outcome.value = m.conflict;
        outcome.version = m.conflict_version;
        rv = txn_apply_abort(heap, &name, m.digest, m.deadline, &out);
        done = prepared && out.answer == TXN_APPLIED;
    }
    if (rv == 0 && m.home == uid) {
        if (done) {
            session_tx_count(heap, name.session, -1);
        }
        if (out.answer == TXN_APPLIED && (!known || record.digest == m.digest)) {
            session_tx_keep(heap, name.session, name.seq, m.digest, &outcome);
        }
    }
    answer(result, &out);
    return rv;
}

static int apply_forget(struct heap *heap, uint64_t uid, struct slice body,
                        struct command_result *result)
{
    struct msg_tx_forget m;
    if (message_decode_tx_forget(body, &m) != 0 || m.names.len % NAME_BYTES != 0 ||
        m.names.len > FORGET_NAMES_MAX * NAME_BYTES) {
        result->code = ERR_PROTOCOL;
        return 0;
    }
    int rv = 0;
    for (size_t i = 0; rv == 0 && i < m.names.len / NAME_BYTES; i++) {
        const uint8_t *at = m.names.data + i * NAME_BYTES;
        struct txn_name name = {load_u64(at), load_u64(at + 8), load_u64(at + 16)};
        struct txn_result out = {0};
        bool forgettable = name.home != uid || session_tx_is_over(heap, name.session, name.seq);
        rv = txn_apply_forget(heap, &name, forgettable, &out);
        result->value |= (uint64_t)(out.answer != TXN_APPLIED) << i;
    }
    return rv;
}

int tx_apply(struct heap *heap, uint64_t uid, uint16_t kind, struct slice body,
             const struct fsm_now *now, struct command_result *result)
{
    int rv = 0;
    switch (kind) {
    case KIND_TX_PREPARE:
        rv = apply_prepare(heap, uid, body, now, result);
        break;
    case KIND_TX_REFUSE:
        rv = apply_refuse(heap, uid, body, now, result);
        break;
    case KIND_TX_DECIDE:
        rv = apply_decide(heap, uid, body, result);
        break;
    default:
        assert(kind == KIND_TX_FORGET);
        rv = apply_forget(heap, uid, body, result);
        break;
    }
    if (rv == 0) {
        rv = txn_sweep_refused(heap, SWEEP_MAX);
    }
    assert(rv == 0 || err_stops_replica(rv));
    return rv;
}

/* ---- readers at one version ---- */

int tx_close(struct heap *heap, struct slice body, const struct fsm_now *now,
             struct command_result *result)
{
    struct msg_tx_close m;
    int rv = message_decode_tx_close(body, &m);
    if (rv == 0 && m.keep_ms > TX_KEEP_MS) {
        rv = ERR_INVAL;
    }
    if (rv == 0) {
        rv = heap_close_at(heap, m.at, now->version + hlc_from_ms(READ_AHEAD_MS), m.keep_ms);
    }
    if (rv == 0 && m.at < heap_safepoint(heap)) {
        rv = ERR_SNAPSHOT_TOO_OLD; /* from now on it is kept: the next version will do */
    }
    result->version = heap_clock(heap);
    return rv;
}

/* ---- what became of it? ---- */

int tx_settle(struct heap *heap, struct slice body, const struct fsm_now *now,
              const struct session_record *session, struct command_result *result)
{
    struct msg_tx_settle m;
    struct session_result stored;
    struct txn_record record;
    const uint64_t *uids;
    const uint64_t *times;
    int rv = message_decode_tx_settle(body, &m);
    if (rv == 0) {
        rv = session_check(heap, m.tx_session, session->owner);
    }
    if (rv != 0) {
        return rv;
    }
    struct txn_name name = {m.uid, m.tx_session, m.tx_seq};
    if (txn_find(heap, &name, &record, &uids, &times)) {
        result->version = record.state == TXN_COMMITTED ? record.committed_at : 0;
        return record.state == TXN_COMMITTED  ? 0
               : record.state == TXN_PREPARED ? ERR_TX_UNDECIDED
                                              : ERR_TX_ABORTED;
    }
    int code = 0;
    switch (session_tx_look(heap, m.tx_session, m.tx_seq, 0, now, &stored, &code)) {
    case SESSION_TX_KNOWN:
        result->version = stored.code == 0 ? stored.version : 0;
        return stored.code == 0 ? 0 : ERR_TX_ABORTED;
    case SESSION_TX_OPEN:
        break;
    case SESSION_TX_REFUSED:
    default:
        return ERR_SESSION_EXPIRED; /* it may have been, and is forgotten */
    }
    struct command_result never = {.code = ERR_TX_ABORTED};
    session_tx_keep(heap, m.tx_session, m.tx_seq, 0, &never);
    return ERR_TX_ABORTED;
}
