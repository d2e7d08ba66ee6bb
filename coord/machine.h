/* The coordinator of one transaction on several shards, as a pure function: an event comes in, what
 * to send comes out. coord/commit.c feeds it, and so does the model checker (tests/unit/coord),
 * together with txn_step() of alloc/txn.h; nothing else decides an outcome.
 *
 *   GATHERING ---every vote YES---> COMMITTING ---all APPLIED---> DONE
 *       |  `----one COMMITTED-----------------------------------> DONE (that shard will finish it)
 *       `-------one NO-----------> ABORTING -----all APPLIED----> DONE
 *
 * A participant that keeps silent is asked to refuse (ASK); what its log says then counts like a
 * vote (X3). The machine is volatile: it can be lost at any moment, and two may work on the same
 * transaction.
 *
 * LATE is what a shard says that has no record when its clock has passed the deadline: it refuses,
 * or all have committed and forgotten. Home forgets first, and not before the client knows; so when
 * home, asked again after that answer, is still prepared, it was a refusal. */
#ifndef CAIRN_COORD_MACHINE_H
#define CAIRN_COORD_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

enum coord_purpose {
    COORD_COMMIT,  /* a client waits; participant 0 is home */
    COORD_RECOVER, /* everybody is asked, nothing is prepared; nobody waits */
    COORD_FINISH   /* committed for certain, by these prepare times: until all have applied it */
};
enum coord_state { COORD_GATHERING, COORD_COMMITTING, COORD_ABORTING, COORD_DONE, COORD_STATES };

enum coord_part {
    COORD_PART_PREPARING, /* TX_PREPARE is or will be on its way; no vote yet */
    COORD_PART_ASKED,     /* TX_REFUSE is or will be on its way: no TX_PREPARE from here again */
    COORD_PART_YES,
    COORD_PART_NO,
    COORD_PART_LATE,    /* a refusal, if home's next word is "prepared" */
    COORD_PART_APPLIED, /* the outcome */
    COORD_PARTS
};

enum coord_event_kind {
    COORD_ON_YES,       /* part, time: p; fresh */
    COORD_ON_NO,        /* part, code, conflict: a logged refusal */
    COORD_ON_LATE,      /* part, code */
    COORD_ON_COMMITTED, /* part, time: ct */
    COORD_ON_SILENCE,   /* part: no vote in time, or an answer that is no vote, often enough */
    COORD_ON_RESEND,    /* part: connection or leader changed, or patience is over: again */
    COORD_ON_APPLIED,   /* part */
    COORD_EVENTS
};

struct coord_event {
    enum coord_event_kind kind;
    uint32_t part;
    uint32_t fresh; /* part 0, YES: machine.fresh when the request was sent that this answers */
    uint64_t time;
    int code; /* negative */
    uint64_t conflict, conflict_version;
};

struct coord_machine {
    enum coord_state state;
    enum coord_purpose purpose;
    uint32_t count;
    uint32_t fresh; /* grows with each LATE: what home said to earlier requests doesn't count */
    enum coord_part parts[TX_PARTICIPANTS_MAX];
    uint64_t times[TX_PARTICIPANTS_MAX];
    uint64_t commit_time; /* 0: not committed */
    uint32_t refused_by;  /* ABORTING: index */
    int code;             /* ABORTING: for the client, negative */
    uint64_t conflict, conflict_version;
};

/* What to do; bit i: participant i. */
struct coord_actions {
    uint32_t prepare, ask, commit, abort;
    bool answer; /* the outcome is certain: tell the client (once) */
    bool forget; /* all have applied: TX_FORGET to home, and when home has forgotten, to the others
                  */
};

/* times: `count` of them for COORD_FINISH, else NULL. */
void coord_machine_init(struct coord_machine *m, uint32_t count, enum coord_purpose purpose,
                        const uint64_t *times, struct coord_actions *out);
/* An event that doesn't fit the state (late, doubled) changes nothing. */
void coord_machine_step(struct coord_machine *m, const struct coord_event *event,
                        struct coord_actions *out);
/* The invariant, asserted behind every step: COMMITTING => every part is YES or APPLIED,
 * commit_time = max(times); ABORTING => parts[refused_by] was NO or LATE. */
bool coord_machine_is_sound(const struct coord_machine *m);

#endif
