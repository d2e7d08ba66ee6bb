/* Transactions at work here: what the machine of each says is sent, what comes back is told to it.
 */
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "base/log.h"
#include "base/mem.h"
#include "coord/internal.h"

#define RETRY_MS_MIN   10u
#define BUSY_TRIES_MAX 2u /* doublings of that */

struct coord_tx *coord__find(const struct coord *coord, const struct txn_name *name)
{
    list_for_each (it, &coord->txs[coord__bucket(name)]) {
        struct coord_tx *tx = list_entry(it, struct coord_tx, bucket);
        if (txn_name_is(&tx->name, name)) {
            return tx;
        }
    }
    return NULL;
}

static struct coord_tx *tx_new(struct coord *coord, const struct txn_name *name)
{
    struct coord_tx *tx = mem_zalloc(sizeof *tx);
    if (tx == NULL) {
        return NULL;
    }
    tx->coord = coord;
    tx->name = *name;
    list_init(&tx->sends);
    list_init(&tx->waiters);
    list_push_back(&coord->txs[coord__bucket(name)], &tx->bucket);
    list_push_back(&coord->running, &tx->link);
    coord->stats.running++;
    coord__arm(coord);
    return tx;
}

static void answer_waiters(struct coord_tx *tx, const struct command_result *result)
{
    struct list waiters;
    list_init(&waiters);
    list_splice(&waiters, &tx->waiters);
    while (!list_empty(&waiters)) {
        struct shard_command *command = list_entry(waiters.next, struct shard_command, link);
        list_remove(&command->link);
        command->cb(command, result);
    }
}

static void tx_free(struct coord_tx *tx, int err)
{
    struct command_result none = {.err = err};
    list_remove(&tx->bucket);
    list_remove(&tx->link);
    tx->coord->stats.running--;
    list_for_each_safe (it, next, &tx->sends) {
        list_entry(it, struct coord_send, owner_link)->tx = NULL;
        list_remove(it);
    }
    answer_waiters(tx, &none);
    mem_free(tx->body);
    mem_free(tx);
}

/* ---- sending ---- */

static int encode_prepare(struct coord_tx *tx, uint32_t part, struct buf *out)
{
    uint8_t uids[TX_PARTICIPANTS_MAX * 8];
    for (uint32_t i = 0; i < tx->machine.count; i++) {
        store_u64(uids + i * 8u, tx->uids[i]);
    }
    struct msg_tx_prepare m = {.uid = tx->uids[part],
                               .home = tx->name.home,
                               .tx_session = tx->name.session,
                               .tx_seq = tx->name.seq,
                               .tx_acked = tx->acked,
                               .deadline = tx->deadline,
                               .owner = tx->owner,
                               .digest = tx->digest,
                               .participants = slice_of(uids, tx->machine.count * 8u),
                               .part = tx->parts[part]};
    return message_encode_tx_prepare(&m, out);
}

static int encode_refuse(struct coord_tx *tx, uint32_t part, struct buf *out)
{
    struct msg_tx_refuse m = {.uid = tx->uids[part],
                              .home = tx->name.home,
                              .tx_session = tx->name.session,
                              .tx_seq = tx->name.seq,
                              .deadline = tx->deadline,
                              .digest = tx->digest};
    return message_encode_tx_refuse(&m, out);
}

static int encode_decide(struct coord_tx *tx, uint32_t part, struct buf *out)
{
    const struct coord_machine *machine = &tx->machine;
    uint8_t times[TX_PARTICIPANTS_MAX * 8];
    struct msg_tx_decide m = {.uid = tx->uids[part],
                              .home = tx->name.home,
                              .tx_session = tx->name.session,
                              .tx_seq = tx->name.seq,
                              .deadline = tx->deadline,
                              .digest = tx->digest,
                              .commit = machine->state == COORD_COMMITTING};
    if (m.commit == 1) {
        for (uint32_t i = 0; i < machine->count; i++) {
            store_u64(times + i * 8u, machine->times[i]);
        }
        m.times = slice_of(times, machine->count * 8u);
    } else {
        m.code = (uint32_t)-machine->code;
        m.refused_by = tx->uids[machine->refused_by];
        m.conflict = machine->conflict;
        m.conflict_version = machine->conflict_version;
    }
    return message_encode_tx_decide(&m, out);
}

static void retry_later(struct coord_leg *leg, uint64_t now_ms)
{
    uint64_t ms = (uint64_t)RETRY_MS_MIN << (leg->tries < 5 ? leg->tries : 5);
    leg->tries++;
    leg->retry_ms = now_ms + (ms < COORD_RESEND_MS ? ms : COORD_RESEND_MS);
}

/* A leader that takes nothing for the moment, as while its leadership moves or its disk is full, is
 * no silence: it is asked again until the deadline has passed. BUSY may be a reader's hold, which
 * is over soon: pauses that grow would meet one hold after the other. */
static void heard(struct coord_leg *leg, int err, uint64_t now_ms)
{
    if (err == ERR_BUSY || err == ERR_DISKFULL) {
        leg->since_ms = now_ms;
    }
    if (err == ERR_BUSY && leg->tries > BUSY_TRIES_MAX) {
        leg->tries = BUSY_TRIES_MAX;
    }
}

static void send_to(struct coord_tx *tx, uint32_t part, uint16_t kind)
{
    struct coord *coord = tx->coord;
    struct coord_leg *leg = &tx->legs[part];
    struct buf *body = &coord->scratch;
    struct coord_send *send = coord__send_new(coord, 0);
    uint64_t now_ms = env_now_ms(coord->env);
    int rv = ERR_NOMEM;
    if (leg->since_ms == 0) {
        leg->since_ms = now_ms;
    }
    if (send != NULL) {
        send->uid = tx->uids[part];
        send->part = part;
        send->kind = kind;
        send->fresh = tx->machine.fresh;
        buf_clear(body);
        rv = kind == KIND_TX_PREPARE  ? encode_prepare(tx, part, body)
             : kind == KIND_TX_REFUSE ? encode_refuse(tx, part, body)
                                      : encode_decide(tx, part, body);
        if (rv == 0) {
            rv = coord__send(coord, send, &leg->route, slice_of(body->data, body->len));
        }
    }
    coord->stats.asks += kind == KIND_TX_REFUSE;
    if (rv != 0) {
        if (send != NULL) {
            coord__send_free(send);
        }
        coord__route_failed(&leg->route, 0);
        heard(leg, rv, now_ms);
        retry_later(leg, now_ms);
        return;
    }
    send->tx = tx;
    list_push_back(&tx->sends, &send->owner_link);
    leg->in_flight++;
    leg->sent_to = send->node;
    leg->sent_ms = now_ms;
    leg->retry_ms = 0;
}

/* ---- deciding ---- */

static bool outcome_of(const struct coord_tx *tx, struct command_result *out)
{
    const struct coord_machine *m = &tx->machine;
    memset(out, 0, sizeof *out);
    if (m->commit_time != 0) {
        out->version = m->commit_time;
        return true;
    }
    if (m->code == 0) {
        return false;
    }
    if (m->purpose != COORD_COMMIT) {
        out->err = ERR_UNAVAILABLE; /* the client's own commit gets to know why */
        return true;
    }
    out->code = m->code;
    out->version = m->conflict_version;
    out->value = m->conflict;
    return true;
}

static void note_outcome(struct coord_tx *tx)
{
    struct coord_stats *stats = &tx->coord->stats;
    const struct coord_machine *m = &tx->machine;
    tx->decided_ms = env_now_ms(tx->coord->env);
    if (m->purpose != COORD_COMMIT) {
        return;
    }
    stats->committed += m->code == 0;
    stats->aborted += m->code != 0;
    stats->conflicts += m->code == ERR_CONFLICT;
    stats->too_late += m->code == ERR_TX_TOO_LATE;
}

/* The transaction may be gone afterwards. */
static void act(struct coord_tx *tx, const struct coord_actions *actions)
{
    struct command_result outcome;
    for (uint32_t i = 0; i < tx->machine.count; i++) {
        uint32_t bit = 1u << i;
        if ((actions->prepare & bit) != 0) {
            send_to(tx, i, KIND_TX_PREPARE);
        } else if ((actions->ask & bit) != 0) {
            send_to(tx, i, KIND_TX_REFUSE);
        } else if (((actions->commit | actions->abort) & bit) != 0) {
            send_to(tx, i, KIND_TX_DECIDE);
        }
    }
    if (actions->answer) {
        note_outcome(tx);
        if (outcome_of(tx, &outcome)) {
            answer_waiters(tx, &outcome);
        }
    }
    if (actions->forget) {
        coord__forget_later(tx->coord, tx);
    }
    if (tx->machine.state == COORD_DONE) {
        tx_free(tx, ERR_UNAVAILABLE);
    }
}

static void step(struct coord_tx *tx, const struct coord_event *event)
{
    struct coord_actions actions;
    coord_machine_step(&tx->machine, event, &actions);
    act(tx, &actions);
}

static void step_simple(struct coord_tx *tx, enum coord_event_kind kind, uint32_t part)
{
    struct coord_event event = {.kind = kind, .part = part};
    step(tx, &event);
}

/* ---- what comes back ---- */

/* False: it says nothing. */
static bool vote_of(const struct command_result *result, struct coord_event *event)
{
    switch (result->value) {
    case TXN_YES:
        event->kind = COORD_ON_YES;
        event->time = result->version;
        return result->version != 0;
    case TXN_NO:
        event->kind = COORD_ON_NO;
        event->code = result->code < 0 ? result->code : ERR_TX_ABORTED;
        event->conflict = result->version;
        return true;
    case TXN_LATE:
        event->kind = COORD_ON_LATE;
        event->code = result->code < 0 ? result->code : ERR_TX_TOO_LATE;
        return true;
    case TXN_WAS_COMMITTED:
        event->kind = COORD_ON_COMMITTED;
        event->time = result->version;
        return result->version != 0;
    default:
        return false;
    }
}

static bool applied_of(struct coord_tx *tx, const struct coord_send *send,
                       const struct command_result *result, struct coord_event *event)
{
    event->kind = COORD_ON_APPLIED;
    if (result->code == 0 && result->value == TXN_APPLIED) {
        return true;
    }
    if (result->value != TXN_WRONG) {
        return false;
    }
    tx->coord->stats.wrong++;
    log_warn("coord", "a shard knows another outcome of a transaction",
             "shard=%llu home=%llu session=%llu number=%llu", (unsigned long long)send->uid,
             (unsigned long long)tx->name.home, (unsigned long long)tx->name.session,
             (unsigned long long)tx->name.seq);
    return true;
}

void coord__tx_answered(struct coord_send *send, int err, uint32_t leader,
                        const struct command_result *result)
{
    struct coord_tx *tx = send->tx;
    if (tx == NULL) {
        return;
    }
    struct coord *coord = tx->coord;
    struct coord_leg *leg = &tx->legs[send->part];
    uint64_t now_ms = env_now_ms(coord->env);
    struct coord_event event = {.part = send->part, .fresh = send->fresh};
    list_remove(&send->owner_link);
    send->tx = NULL;
    leg->in_flight--;
    if (err != 0) {
        bool hinted = err == ERR_NOTLEADER && leader != 0 && leader != send->node;
        coord__route_failed(&leg->route, err == ERR_NOTLEADER ? leader : 0);
        heard(leg, err, now_ms);
        if (leg->retry_ms == 0 && leg->in_flight == 0) {
            retry_later(leg, now_ms);
            leg->retry_ms = hinted && leg->tries < 3 ? now_ms + 1 : leg->retry_ms;
        }
        return;
    }
    leg->route.hint = send->node;
    bool says = send->kind == KIND_TX_DECIDE ? applied_of(tx, send, result, &event)
                                             : vote_of(result, &event);
    if (!says) {
        if (leg->retry_ms == 0 && leg->in_flight == 0) {
            retry_later(leg, now_ms);
        }
        return;
    }
    leg->tries = 0;
    struct txn_name name = tx->name;
    step(tx, &event);
    if (event.kind == COORD_ON_COMMITTED && send->node == coord->node) {
        coord_finish(coord, send->uid, &name);
    }
}

/* ---- time ---- */

static bool owes(const struct coord_machine *m, uint32_t part)
{
    if (m->state == COORD_GATHERING) {
        return m->parts[part] == COORD_PART_PREPARING || m->parts[part] == COORD_PART_ASKED;
    }
    return m->state != COORD_DONE && m->parts[part] != COORD_PART_APPLIED;
}

/* A shard that was dropped with its heap says nothing any more, and never will prepare. */
static void part_is_gone(struct coord_tx *tx, uint32_t part)
{
    struct coord_event event = {.part = part,
                                .kind = tx->machine.state == COORD_GATHERING ? COORD_ON_LATE
                                                                             : COORD_ON_APPLIED,
                                .code = ERR_NOSHARD};
    step(tx, &event);
}

/* False: the transaction may be gone. */
static bool tick_leg(struct coord_tx *tx, uint32_t part, uint64_t now_ms)
{
    struct coord_leg *leg = &tx->legs[part];
    struct coord_machine *m = &tx->machine;
    uint32_t node = 0;
    if (!owes(m, part)) {
        return true;
    }
    if (m->state == COORD_GATHERING && m->parts[part] == COORD_PART_PREPARING &&
        leg->since_ms != 0 && now_ms - leg->since_ms >= COORD_PATIENCE_MS) {
        step_simple(tx, COORD_ON_SILENCE, part);
        return false;
    }
    int rv = coord__route(tx->coord, tx->uids[part], &leg->route, &node);
    if (rv == ERR_NOSHARD) {
        part_is_gone(tx, part);
        return false;
    }
    bool due = leg->retry_ms != 0 && now_ms >= leg->retry_ms;
    bool moved = leg->in_flight > 0 && now_ms - leg->sent_ms >= COORD_RESEND_MS && rv == 0 &&
                 node != leg->sent_to;
    bool silent = leg->in_flight > 0 && now_ms - leg->sent_ms >= COORD_PATIENCE_MS;
    /* The last answer was to an older request (a vote, say, that came behind BUSY to the outcome):
     * nothing is on its way, and nothing brings it up again. */
    bool idle = leg->in_flight == 0 && leg->retry_ms == 0;
    if (due || moved || silent || idle) {
        tx->coord->stats.resends++;
        step_simple(tx, COORD_ON_RESEND, part);
        return false;
    }
    return true;
}

void coord__tick_txs(struct coord *coord, uint64_t now_ms)
{
    list_for_each_safe (it, next, &coord->running) {
        struct coord_tx *tx = list_entry(it, struct coord_tx, link);
        /* One leg at a time: the next ones are looked at in a few milliseconds again. */
        for (uint32_t i = 0; i < tx->machine.count; i++) {
            if (!tick_leg(tx, i, now_ms)) {
                break;
            }
        }
    }
}

void coord__answer_late(struct coord *coord)
{
    struct command_result outcome;
    list_for_each_safe (it, next, &coord->running) {
        struct coord_tx *tx = list_entry(it, struct coord_tx, link);
        if (!list_empty(&tx->waiters) && tx->decided_ms != 0 && outcome_of(tx, &outcome)) {
            answer_waiters(tx, &outcome);
        }
    }
}

void coord__close_txs(struct coord *coord)
{
    while (!list_empty(&coord->running)) {
        tx_free(list_entry(coord->running.next, struct coord_tx, link), ERR_SHUTDOWN);
    }
}

/* ---- beginning ---- */

/* {uid, length, part} each. */
static int split_parts(struct coord_tx *tx, struct slice parts, uint32_t *count)
{
    struct cursor c = cursor_of(parts);
    *count = 0;
    while (!c.failed && cursor_left(&c) > 0) {
        uint64_t uid = cursor_u64(&c);
        struct slice part = cursor_bytes(&c, cursor_u32(&c));
        if (c.failed || *count == TX_PARTICIPANTS_MAX) {
            return ERR_PROTOCOL;
        }
        for (uint32_t i = 0; i < *count; i++) {
            if (tx->uids[i] == uid) {
                return ERR_PROTOCOL;
            }
        }
        if (part.len > TX_PART_BYTES_MAX) {
            return ERR_TOOBIG;
        }
        if (txn_part_check(part, false) != 0) {
            return ERR_PROTOCOL;
        }
        tx->uids[*count] = uid;
        tx->parts[(*count)++] = part;
    }
    return !c.failed && *count >= 2 && tx->uids[0] == tx->name.home ? 0 : ERR_PROTOCOL;
}

static int check_places(const struct coord *coord, const struct coord_tx *tx, uint32_t count)
{
    struct catalog_shard place;
    for (uint32_t i = 0; i < count; i++) {
        int rv = catalog_members(coord->replica, tx->uids[i], &place);
        if (rv != 0) {
            return rv == ERR_NOTFOUND ? ERR_INVAL : ERR_BUSY;
        }
    }
    return 0;
}

static int begin_commit(struct coord *coord, struct shard *shard, struct slice body,
                        const struct txn_name *name, const struct command_prefix *prefix,
                        uint64_t owner, struct shard_command *command)
{
    struct msg_tx_commit m = {0};
    uint32_t count = 0;
    struct coord_actions actions;
    if (coord->stats.running >= TX_COMMITS_PER_NODE) {
        return ERR_BUSY;
    }
    struct coord_tx *tx = tx_new(coord, name);
    if (tx == NULL) {
        return ERR_BUSY;
    }
    int rv = ERR_BUSY;
    tx->body = mem_alloc(body.len);
    if (tx->body != NULL) {
        memcpy(tx->body, body.data, body.len);
        rv = message_decode_tx_commit(slice_of(tx->body, body.len), &m);
    }
    if (rv == 0) {
        rv = split_parts(tx, m.parts, &count);
    }
    if (rv == 0 && hlc_to_ms(m.deadline) > hlc_to_ms(shard_now(shard)) + TX_DEADLINE_MS_MAX) {
        rv = ERR_TX_ABORTED; /* clocks have jumped apart, or somebody makes deadlines up */
    }
    if (rv == 0) {
        rv = check_places(coord, tx, count);
    }
    if (rv != 0) {
        tx_free(tx, rv);
        return rv;
    }
    tx->deadline = m.deadline;
    tx->owner = owner;
    tx->acked = prefix->acked;
    tx->digest =
        hash64(KIND_TX_COMMIT, body.data + COMMAND_PREFIX_BYTES, body.len - COMMAND_PREFIX_BYTES);
    list_push_back(&tx->waiters, &command->link);
    coord->stats.commits++;
    coord_machine_init(&tx->machine, count, COORD_COMMIT, NULL, &actions);
    act(tx, &actions);
    return 0;
}

int coord_commit(struct coord *coord, struct slice body, uint64_t owner,
                 struct shard_command *command)
{
    struct command_prefix prefix;
    if (body.len > COMMAND_BYTES_MAX) {
        return ERR_TOOBIG;
    }
    if (message_command_prefix(body, &prefix) != 0 || prefix.uid == SHARD_META) {
        return ERR_PROTOCOL;
    }
    struct shard *shard = replica_shard(coord->replica, prefix.uid);
    if (shard == NULL) {
        return ERR_NOSHARD;
    }
    int rv = shard_check_commit(shard, &prefix, owner);
    if (rv != 0) {
        return rv;
    }
    struct txn_name name = {prefix.uid, prefix.session, prefix.seq};
    struct coord_tx *tx = coord__find(coord, &name);
    if (tx == NULL) {
        return begin_commit(coord, shard, body, &name, &prefix, owner, command);
    }
    if (tx->digest !=
        hash64(KIND_TX_COMMIT, body.data + COMMAND_PREFIX_BYTES, body.len - COMMAND_PREFIX_BYTES)) {
        return ERR_PROTOCOL;
    }
    list_push_back(&tx->waiters, &command->link);
    if (tx->decided_ms != 0) {
        coord->look = true;
        env_defer(coord->env, &coord->task);
    }
    return 0;
}

void coord__adopt(struct coord *coord, struct shard *shard, const struct txn_name *name,
                  enum coord_purpose purpose)
{
    struct txn_record record;
    const uint64_t *uids;
    const uint64_t *prepared;
    uint64_t times[TX_PARTICIPANTS_MAX];
    struct coord_actions actions;
    enum txn_state wanted = purpose == COORD_RECOVER ? TXN_PREPARED : TXN_COMMITTED;
    if (coord__find(coord, name) != NULL || coord->stats.running >= TX_COMMITS_PER_NODE ||
        !txn_find(shard_heap(shard), name, &record, &uids, &prepared) || record.state != wanted ||
        record.participants > TX_PARTICIPANTS_MAX) {
        return;
    }
    struct coord_tx *tx = tx_new(coord, name);
    if (tx == NULL) {
        return;
    }
    memcpy(tx->uids, uids, record.participants * 8u);
    if (purpose == COORD_FINISH) {
        memcpy(times, prepared, record.participants * 8u);
    }
    tx->deadline = record.deadline;
    tx->owner = record.owner;
    tx->digest = record.digest;
    coord->stats.recoveries++;
    coord_machine_init(&tx->machine, record.participants, purpose,
                       purpose == COORD_FINISH ? times : NULL, &actions);
    act(tx, &actions);
}
