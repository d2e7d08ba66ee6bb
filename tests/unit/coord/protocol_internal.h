/* Between protocol.c (what happens), protocol_moves.c (what can happen) and protocol_state.c (how
 * it is written down). */
#ifndef CAIRN_TESTS_COORD_PROTOCOL_INTERNAL_H
#define CAIRN_TESTS_COORD_PROTOCOL_INTERNAL_H

#include "protocol.h"

enum message_kind {
    MSG_NONE,
    MSG_PREPARE, /* flag: sent before the coordinator's last LATE (stale) */
    MSG_ASK,     /* flag: stale */
    MSG_COMMIT,
    MSG_ABORT,
    MSG_FORGET,
    MSG_YES, /* from here on answers; flag: stale */
    MSG_NO,
    MSG_LATE, /* flag: the session is gone, or has acknowledged: nobody knows */
    MSG_COMMITTED,
    MSG_APPLIED,
    MSG_FORGOTTEN, /* by home */
    MSG_KINDS
};
#define FROM_VANISHED 2u /* the coordinator that asked is no more: nobody hears the answer */

struct message {
    uint8_t kind, part, from;
    bool flag;
};

struct message protocol__apply(const struct protocol *p, struct world *w,
                               const struct message *request, bool valid);
void protocol__answer(const struct protocol *p, struct world *w, const struct message *answer);
void protocol__event(const struct protocol *p, struct world *w, uint32_t slot,
                     const struct coord_event *event);
void protocol__start(const struct protocol *p, struct world *w, uint32_t slot,
                     enum coord_purpose purpose);
/* One request of a machine and its answer, at once. False: it owes this one nothing. */
bool protocol__exchange(const struct protocol *p, struct world *w, uint32_t slot, uint32_t part,
                        bool valid);
void protocol__vanish(struct world *w, uint32_t slot);
void protocol__sweep(const struct protocol *p, struct world *w, uint32_t part);
void protocol__settle(const struct protocol *p, struct world *w);

/* False: the network is full, which counts as lost. One that is in flight already is one. */
bool bag_put(const struct protocol *p, struct world *w, struct message message);
struct message bag_get(const struct world *w, uint32_t i);
struct message bag_take(struct world *w, uint32_t i);
/* The votes that a slot would hear. */
void bag_drop_votes(struct world *w, uint32_t slot);
/* The slot's machine is no more; its requests go on as a vanished one's. */
void bag_vanish(struct world *w, uint32_t slot);
/* Requests to home and its YES were from before. */
void bag_make_stale(struct world *w, uint32_t slot);

#endif
