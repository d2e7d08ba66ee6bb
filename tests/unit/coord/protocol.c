#include "protocol.h"

#include <string.h>

#include "base/err.h"
#include "protocol_internal.h"

/* ---- participants: applied commands ----------------------------------------------------------
 */

static void mutate(const struct protocol *p, enum txn_state before, enum txn_event event, bool late,
                   struct txn_move *move)
{
    if (p->mutation == MUTATION_REFUSE_SAYS_NO && event == TXN_ON_REFUSE &&
        before == TXN_PREPARED) {
        move->answer = TXN_NO;
    } else if (p->mutation == MUTATION_NO_ISN_T_KEPT && before == TXN_NONE &&
               move->answer == TXN_NO) {
        move->next = TXN_NONE;
    } else if (p->mutation == MUTATION_CLOCK_ABORTS && before == TXN_PREPARED &&
               event == TXN_ON_CLOCK && late) {
        move->next = TXN_NONE;
    }
}

static enum txn_answer apply(const struct protocol *p, struct world *w, uint32_t part,
                             enum txn_event event, bool valid)
{
    struct participant *at = &w->parts[part];
    struct txn_conditions conditions = {
        .valid = valid,
        .late = at->late || (event == TXN_ON_FORGET && p->mutation == MUTATION_FORGET_EARLY),
        .forgettable = part != 0 || w->session != SESSION_ALIVE,
    };
    enum txn_state before = (enum txn_state)at->state;
    struct txn_move move = txn_step(before, event, &conditions);
    mutate(p, before, event, at->late, &move);
    at->state = (uint8_t)move.next;
    if (before != TXN_COMMITTED && move.next == TXN_COMMITTED) {
        w->violation = at->committed ? "applied twice" : w->violation;
        at->committed = true;
    }
    bool aborted = before == TXN_PREPARED && move.next == TXN_NONE;
    w->refused = w->refused || move.next == TXN_REFUSED || aborted;
    if (event == TXN_ON_COMMIT && move.answer != TXN_APPLIED) {
        w->violation = "a commit that can't be applied";
    }
    return move.answer;
}

/* What home's session says before the record is looked at. */
enum session_word { SESSION_SILENT, SESSION_SAYS_COMMITTED, SESSION_SAYS_ABORTED, SESSION_REFUSES };
static enum session_word ask_session(const struct world *w)
{
    if (w->ring != RING_NONE) {
        return w->ring == RING_COMMITTED ? SESSION_SAYS_COMMITTED : SESSION_SAYS_ABORTED;
    }
    return w->session != SESSION_ALIVE ? SESSION_REFUSES : SESSION_SILENT;
}

static void keep_result(struct world *w, enum ring_result result)
{
    if (w->session == SESSION_ALIVE && w->ring == RING_NONE) {
        w->ring = (uint8_t)result;
    }
}

/* PREPARE and ASK. */
static struct message vote(const struct protocol *p, struct world *w, const struct message *request,
                           bool valid)
{
    struct message answer = {.part = request->part, .from = request->from};
    bool prepares = request->kind == MSG_PREPARE;
    enum protocol_mutation blind =
        prepares ? MUTATION_PREPARE_SKIPS_SESSION : MUTATION_REFUSE_SKIPS_SESSION;
    enum session_word word =
        request->part == 0 && p->mutation != blind ? ask_session(w) : SESSION_SILENT;
    if (word == SESSION_SAYS_COMMITTED || word == SESSION_SAYS_ABORTED) {
        answer.kind = word == SESSION_SAYS_COMMITTED ? MSG_COMMITTED : MSG_NO;
        return answer;
    }
    switch (apply(p, w, request->part, prepares ? TXN_ON_PREPARE : TXN_ON_REFUSE,
                  valid && word != SESSION_REFUSES)) {
    case TXN_YES:
        answer.kind = MSG_YES;
        answer.flag = request->flag;
        break;
    case TXN_NO:
        answer.kind = MSG_NO;
        break;
    case TXN_LATE:
        answer.kind = MSG_LATE;
        answer.flag = word == SESSION_REFUSES && p->mutation != MUTATION_LATE_HIDES_SESSION;
        break;
    case TXN_WAS_COMMITTED:
        answer.kind = MSG_COMMITTED;
        break;
    case TXN_NO_VOTE:
    case TXN_APPLIED:
    case TXN_WRONG:
    default:
        w->violation = "a vote that is none";
        answer.kind = MSG_NONE;
        break;
    }
    return answer;
}

struct message protocol__apply(const struct protocol *p, struct world *w,
                               const struct message *request, bool valid)
{
    struct message answer = {.kind = MSG_NONE, .part = request->part, .from = request->from};
    enum txn_answer said;
    switch (request->kind) {
    case MSG_PREPARE:
    case MSG_ASK:
        answer = vote(p, w, request, valid);
        break;
    case MSG_COMMIT:
        apply(p, w, request->part, TXN_ON_COMMIT, false);
        if (request->part == 0) {
            keep_result(w, RING_COMMITTED);
        }
        answer.kind = MSG_APPLIED;
        break;
    case MSG_ABORT: /* WRONG counts as applied */
        apply(p, w, request->part, TXN_ON_ABORT, false);
        if (request->part == 0) {
            keep_result(w, RING_ABORTED);
        }
        answer.kind = MSG_APPLIED;
        break;
    case MSG_FORGET:
        said = apply(p, w, request->part, TXN_ON_FORGET, false);
        answer.kind = said == TXN_APPLIED && request->part == 0 ? MSG_FORGOTTEN : MSG_NONE;
        break;
    case MSG_NONE:
    case MSG_YES:
    case MSG_NO:
    case MSG_LATE:
    case MSG_COMMITTED:
    case MSG_APPLIED:
    case MSG_FORGOTTEN:
    case MSG_KINDS:
    default:
        break;
    }
    return request->from == FROM_VANISHED ? (struct message){.kind = MSG_NONE} : answer;
}

void protocol__sweep(const struct protocol *p, struct world *w, uint32_t part)
{
    apply(p, w, part, TXN_ON_CLOCK, false);
}

/* ---- coordinators ----------------------------------------------------------------------------
 */

static uint64_t time_of(uint32_t part)
{
    return 10 + part;
}

/* `fresh` is 1 now; a request marked stale was sent before the last LATE, when it was less. What
 * the machine remembers beyond `parts` follows from them. */
static void machine_of(const struct protocol *p, const struct coordinator *c,
                       struct coord_machine *m)
{
    memset(m, 0, sizeof *m);
    m->count = p->count;
    m->purpose = (enum coord_purpose)c->purpose;
    m->state = (enum coord_state)c->state;
    m->fresh = 1;
    for (uint32_t i = 0; i < p->count; i++) {
        m->parts[i] = (enum coord_part)c->parts[i];
        bool refusing = c->parts[i] == COORD_PART_NO || c->parts[i] == COORD_PART_LATE ||
                        c->parts[i] == COORD_PART_APPLIED;
        bool timed = c->parts[i] == COORD_PART_YES || c->state == COORD_COMMITTING;
        m->times[i] = timed ? time_of(i) : 0;
        m->refused_by = c->state == COORD_ABORTING && refusing ? i : m->refused_by;
    }
    if (c->state == COORD_COMMITTING) {
        m->commit_time = time_of(p->count - 1);
    } else if (c->state == COORD_ABORTING) {
        m->code = c->unknown ? ERR_SESSION_EXPIRED : ERR_TX_TOO_LATE;
    }
}

static void send(const struct protocol *p, struct world *w, enum message_kind kind, uint32_t mask,
                 uint32_t slot)
{
    for (uint32_t i = 0; i < p->count; i++) {
        if ((mask >> i & 1) != 0) {
            bag_put(p, w,
                    (struct message){
                        .kind = kind, .part = (uint8_t)i, .from = (uint8_t)slot, .flag = false});
        }
    }
}

static void tell_client(const struct protocol *p, struct world *w, const struct coord_machine *m)
{
    if (m->purpose != COORD_COMMIT || w->client != CLIENT_WAITS) {
        return;
    }
    if (m->commit_time != 0) {
        w->violation =
            m->commit_time == time_of(p->count - 1) ? w->violation : "another commit time";
        w->client = CLIENT_COMMITTED;
    } else if (m->code != ERR_SESSION_EXPIRED) {
        w->client = CLIENT_ABORTED;
    }
}

static void after_step(const struct protocol *p, struct world *w, uint32_t slot,
                       const struct coord_machine *m, const struct coord_actions *actions)
{
    struct coordinator *c = &w->slots[slot];
    c->mode = SLOT_MACHINE;
    c->purpose = (uint8_t)m->purpose;
    c->state = (uint8_t)m->state;
    for (uint32_t i = 0; i < p->count; i++) {
        c->parts[i] = (uint8_t)m->parts[i];
    }
    c->unknown = m->code == ERR_SESSION_EXPIRED;
    if (actions->answer) {
        tell_client(p, w, m);
    }
    send(p, w, MSG_PREPARE, actions->prepare, slot);
    send(p, w, MSG_ASK, actions->ask, slot);
    send(p, w, MSG_COMMIT, actions->commit, slot);
    send(p, w, MSG_ABORT, actions->abort, slot);
    if (m->state == COORD_DONE) {
        bag_vanish(w, slot);
        memset(c, 0, sizeof *c);
        c->mode = actions->forget ? SLOT_FORGETTING : SLOT_IDLE;
    }
}

void protocol__start(const struct protocol *p, struct world *w, uint32_t slot,
                     enum coord_purpose purpose)
{
    uint64_t times[PROTOCOL_PARTS_MAX];
    for (uint32_t i = 0; i < p->count; i++) {
        times[i] = time_of(i);
    }
    struct coord_machine m;
    struct coord_actions actions;
    coord_machine_init(&m, p->count, purpose, purpose == COORD_FINISH ? times : NULL, &actions);
    after_step(p, w, slot, &m, &actions);
}

void protocol__vanish(struct world *w, uint32_t slot)
{
    bag_vanish(w, slot);
    memset(&w->slots[slot], 0, sizeof w->slots[slot]);
}

void protocol__event(const struct protocol *p, struct world *w, uint32_t slot,
                     const struct coord_event *event)
{
    struct coord_machine m;
    struct coord_actions actions;
    machine_of(p, &w->slots[slot], &m);
    coord_machine_step(&m, event, &actions);
    if (m.fresh != 1) {
        bag_make_stale(w, slot);
    }
    after_step(p, w, slot, &m, &actions);
}

static enum message_kind owed(const struct coord_actions *actions)
{
    if (actions->prepare != 0) {
        return MSG_PREPARE;
    }
    if (actions->ask != 0) {
        return MSG_ASK;
    }
    if (actions->commit != 0) {
        return MSG_COMMIT;
    }
    return actions->abort != 0 ? MSG_ABORT : MSG_NONE;
}

bool protocol__exchange(const struct protocol *p, struct world *w, uint32_t slot, uint32_t part,
                        bool valid)
{
    struct coord_machine m;
    struct coord_actions actions;
    struct coord_event again = {.kind = COORD_ON_RESEND, .part = part};
    machine_of(p, &w->slots[slot], &m);
    coord_machine_step(&m, &again, &actions);
    struct message message = {
        .kind = (uint8_t)owed(&actions), .part = (uint8_t)part, .from = (uint8_t)slot};
    if (message.kind == MSG_NONE) {
        return false;
    }
    message = protocol__apply(p, w, &message, valid);
    protocol__answer(p, w, &message);
    return true;
}

/* What a slot hears. */
void protocol__answer(const struct protocol *p, struct world *w, const struct message *answer)
{
    struct coordinator *c = &w->slots[answer->from];
    if (answer->kind == MSG_FORGOTTEN) {
        c->home_forgot = c->mode == SLOT_FORGETTING;
        return;
    }
    if (c->mode != SLOT_MACHINE) {
        return;
    }
    struct coord_event event = {.part = answer->part, .fresh = 1};
    switch (answer->kind) {
    case MSG_YES:
        event.kind = COORD_ON_YES;
        event.time = time_of(answer->part);
        event.fresh = answer->flag && p->mutation != MUTATION_STALE_YES_COUNTS ? 0 : 1;
        break;
    case MSG_NO:
        event.kind = COORD_ON_NO;
        event.code = ERR_TX_TOO_LATE;
        break;
    case MSG_LATE:
        event.kind = p->mutation == MUTATION_LATE_IS_NO ? COORD_ON_NO : COORD_ON_LATE;
        event.code = answer->flag ? ERR_SESSION_EXPIRED : ERR_TX_TOO_LATE;
        break;
    case MSG_COMMITTED:
        event.kind = COORD_ON_COMMITTED;
        event.time = time_of(p->count - 1);
        break;
    case MSG_APPLIED:
        event.kind = COORD_ON_APPLIED;
        break;
    case MSG_NONE:
    case MSG_PREPARE:
    case MSG_ASK:
    case MSG_COMMIT:
    case MSG_ABORT:
    case MSG_FORGET:
    case MSG_FORGOTTEN:
    case MSG_KINDS:
    default:
        return;
    }
    protocol__event(p, w, answer->from, &event);
}

/* ---- home's session --------------------------------------------------------------------------
 */

void protocol__settle(const struct protocol *p, struct world *w)
{
    uint8_t record = w->parts[0].state;
    if (w->ring != RING_NONE) {
        w->client = w->ring == RING_COMMITTED ? CLIENT_COMMITTED : CLIENT_ABORTED;
    } else if (record == TXN_COMMITTED) {
        w->client = CLIENT_COMMITTED;
    } else if (record == TXN_REFUSED) {
        w->client = CLIENT_ABORTED;
    } else if (record == TXN_NONE && w->session == SESSION_ALIVE) {
        w->client = CLIENT_ABORTED;
        if (p->mutation != MUTATION_SETTLE_KEEPS_NOTHING) {
            w->ring = RING_ABORTED;
        }
    }
}

/* ---- what must hold --------------------------------------------------------------------------
 */

const char *protocol_violation(const struct protocol *p, const struct world *w)
{
    bool committed = false;
    bool prepared = false;
    bool forgotten = false;
    bool all_bound = true;
    for (uint32_t i = 0; i < p->count; i++) {
        const struct participant *at = &w->parts[i];
        committed = committed || at->committed;
        prepared = prepared || at->state == TXN_PREPARED;
        forgotten = forgotten || (at->committed && at->state == TXN_NONE);
        all_bound = all_bound && (at->committed || at->state == TXN_PREPARED);
    }
    if (w->violation != NULL) {
        return w->violation;
    }
    if (committed && w->refused) {
        return "one has committed, another refused or aborted";
    }
    if (committed && !all_bound) {
        return "one has committed, another isn't prepared";
    }
    if (w->client == CLIENT_COMMITTED && !all_bound) {
        return "the client was told of a commit that isn't certain";
    }
    if (w->client == CLIENT_ABORTED && committed) {
        return "the client was told of an abort, but it has committed";
    }
    if (forgotten && prepared) {
        return "one has forgotten the commit that another waits for";
    }
    return NULL;
}

/* Without a network: a machine sends what it owes, and hears the answer at once. */
static bool drive(const struct protocol *p, struct world *w, uint32_t slot)
{
    w->bag_count = 0;
    for (uint32_t turn = 0; w->slots[slot].mode == SLOT_MACHINE && turn < 4 * p->count; turn++) {
        protocol__exchange(p, w, slot, turn % p->count, true);
        w->bag_count = 0;
    }
    return w->slots[slot].mode != SLOT_MACHINE;
}

static bool any_is(const struct protocol *p, const struct world *w, enum txn_state state)
{
    for (uint32_t i = 0; i < p->count; i++) {
        if (w->parts[i].state == state) {
            return true;
        }
    }
    return false;
}

static const char *recover_alone(const struct protocol *p, struct world *w)
{
    protocol__vanish(w, 0);
    protocol__vanish(w, 1);
    w->bag_count = 0;
    if (any_is(p, w, TXN_PREPARED)) {
        protocol__start(p, w, 1, COORD_RECOVER);
        if (!drive(p, w, 1)) {
            return "recovery doesn't end";
        }
    }
    if (any_is(p, w, TXN_COMMITTED)) {
        protocol__start(p, w, 1, COORD_FINISH);
        if (!drive(p, w, 1)) {
            return "finishing doesn't end";
        }
    }
    if (any_is(p, w, TXN_PREPARED)) {
        return "somebody stays prepared";
    }
    w->session = SESSION_OVER;
    for (uint32_t i = 0; i < p->count; i++) {
        w->parts[i].late = true;
        apply(p, w, i, TXN_ON_FORGET, false);
        apply(p, w, i, TXN_ON_CLOCK, false);
        if (w->parts[i].state != TXN_NONE) {
            return "a record stays for ever";
        }
    }
    return protocol_violation(p, w);
}

const char *protocol_stuck(const struct protocol *p, const struct world *w)
{
    struct world copy = *w;
    for (uint32_t slot = 0; slot < 2; slot++) {
        if (!drive(p, &copy, slot)) {
            return "a coordinator doesn't end";
        }
        const char *wrong = protocol_violation(p, &copy);
        if (wrong != NULL) {
            return wrong;
        }
    }
    copy = *w;
    return recover_alone(p, &copy);
}
