/* Everything that can happen next in the protocol's world. */
#include "base/err.h"
#include "protocol_internal.h"

struct finder {
    const struct protocol *p;
    const struct world *from;
    protocol_move_cb cb;
    void *arg;
};

static void found(const struct finder *f, const char *what, uint32_t detail,
                  const struct world *next)
{
    f->cb(f->arg, what, detail, next);
}

/* A message comes, and may come again; a PREPARE may be valid or not. */
static void deliver(const struct finder *f, uint32_t i, bool again, bool valid)
{
    struct world w = *f->from;
    struct message m = again ? bag_get(&w, i) : bag_take(&w, i);
    if (m.kind >= MSG_YES) {
        protocol__answer(f->p, &w, &m);
    } else {
        bag_put(f->p, &w, protocol__apply(f->p, &w, &m, valid));
    }
    const char *what = again ? "deliver, and keep a copy" : "deliver";
    found(f, valid ? what : "deliver, not valid", f->from->bag[i], &w);
}

static void of_network(const struct finder *f)
{
    for (uint32_t i = 0; i < f->from->bag_count; i++) {
        struct world w = *f->from;
        struct message m = bag_take(&w, i);
        found(f, "lose", f->from->bag[i], &w);
        for (int again = 0; again < 2; again++) {
            deliver(f, i, again != 0, true);
            if (m.kind == MSG_PREPARE) {
                deliver(f, i, again != 0, false);
            }
        }
    }
}

static void of_machine(const struct finder *f, uint32_t slot)
{
    for (uint32_t i = 0; i < f->p->count; i++) {
        struct world w = *f->from;
        struct coord_event again = {.kind = COORD_ON_RESEND, .part = i};
        protocol__event(f->p, &w, slot, &again);
        found(f, "send again", i, &w);

        w = *f->from;
        if (protocol__exchange(f->p, &w, slot, i, true)) {
            found(f, "ask and hear", i, &w);
            w = *f->from;
            protocol__exchange(f->p, &w, slot, i, false);
            found(f, "ask and hear (not valid)", i, &w);
        }

        struct coord_event silence = {.kind = COORD_ON_SILENCE, .part = i};
        if (f->p->mutation == MUTATION_ABORT_WITHOUT_NO) {
            silence.kind = COORD_ON_NO;
            silence.code = ERR_TX_TOO_LATE;
        }
        w = *f->from;
        protocol__event(f->p, &w, slot, &silence);
        found(f, "silence", i, &w);
    }
}

/* Home first; the others when home has forgotten. */
static void of_forgetting(const struct finder *f, uint32_t slot)
{
    for (uint32_t i = 0; i < f->p->count; i++) {
        struct message forget = {.kind = MSG_FORGET, .part = (uint8_t)i, .from = (uint8_t)slot};
        struct world w = *f->from;
        if (i != 0) {
            forget.from = FROM_VANISHED; /* nobody waits for their answers */
        }
        if ((i == 0) == w.slots[slot].home_forgot) {
            continue;
        }
        bag_put(f->p, &w, forget);
        found(f, "send FORGET", i, &w);
        w = *f->from;
        forget = protocol__apply(f->p, &w, &forget, false);
        if (forget.kind != MSG_NONE) {
            protocol__answer(f->p, &w, &forget);
        }
        found(f, "forget at once", i, &w);
    }
}

static void of_coordinators(const struct finder *f)
{
    static const enum coord_purpose purposes[2][2] = {{COORD_COMMIT, COORD_COMMIT},
                                                      {COORD_RECOVER, COORD_FINISH}};
    for (uint32_t slot = 0; slot < 2; slot++) {
        struct world w = *f->from;
        if (w.slots[slot].mode != SLOT_IDLE) {
            protocol__vanish(&w, slot);
            found(f, "vanish", slot, &w);
        }
        if (f->from->slots[slot].mode == SLOT_MACHINE) {
            of_machine(f, slot);
        } else if (f->from->slots[slot].mode == SLOT_FORGETTING) {
            of_forgetting(f, slot);
        } else {
            bool prepared = slot == 0;
            bool committed = false;
            for (uint32_t i = 0; i < f->p->count; i++) {
                prepared = prepared || w.parts[i].state == TXN_PREPARED;
                committed = committed || (slot == 1 && w.parts[i].state == TXN_COMMITTED);
            }
            if (prepared) {
                protocol__start(f->p, &w, slot, purposes[slot][0]);
                found(f, slot == 0 ? "the client's commit comes" : "recovery begins", slot, &w);
            }
            w = *f->from;
            if (committed) {
                protocol__start(f->p, &w, slot, purposes[slot][1]);
                found(f, "finishing begins", slot, &w);
            }
        }
    }
}

static void of_time(const struct finder *f)
{
    for (uint32_t i = 0; i < f->p->count; i++) {
        struct world w = *f->from;
        if (!w.parts[i].late) {
            w.parts[i].late = true;
            found(f, "clock passes the deadline", i, &w);
        } else {
            protocol__sweep(f->p, &w, i);
            found(f, "sweep", i, &w);
        }
    }
    struct world w = *f->from;
    if (w.session == SESSION_ALIVE && w.parts[0].state != TXN_PREPARED) {
        w.session = SESSION_TOMBSTONE;
        found(f, "session expires", 0, &w);
    } else if (w.session == SESSION_TOMBSTONE) {
        w.session = SESSION_OVER;
        w.ring = RING_NONE;
        found(f, "tombstone goes", 0, &w);
    }
}

/* It may acknowledge also what it doesn't know: it gave up, or knows by settling. */
static void of_client(const struct finder *f)
{
    struct world w = *f->from;
    if (w.session == SESSION_ALIVE) {
        w.session = SESSION_OVER;
        w.ring = RING_NONE;
        found(f, "client acknowledges", 0, &w);
    }
    if (f->from->client == CLIENT_WAITS) {
        w = *f->from;
        protocol__settle(f->p, &w);
        found(f, "client settles", 0, &w);
    }
}

void protocol_moves(const struct protocol *p, const struct world *w, protocol_move_cb cb, void *arg)
{
    struct finder f = {.p = p, .from = w, .cb = cb, .arg = arg};
    of_network(&f);
    of_coordinators(&f);
    of_time(&f);
    of_client(&f);
}
