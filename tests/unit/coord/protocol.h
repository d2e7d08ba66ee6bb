/* The commit protocol as a closed world that a model checker can walk: the real
 * coord_machine_step() and txn_step(), and around them a network that loses, doubles and reorders,
 * clocks that pass the deadline, a client that comes again, a session that expires.
 *
 * What is modelled by hand is what replica/tx.c adds at home (ADR 0007 §6): the session's result,
 * what the client has acknowledged, expiry, settling. One transaction; participant 0 is home.
 * Two coordinators: slot 0 commits, for the client; slot 1 recovers or finishes. Either can vanish
 * at any moment and begin anew; what a vanished one has sent stays in the network. */
#ifndef CAIRN_TESTS_COORD_PROTOCOL_H
#define CAIRN_TESTS_COORD_PROTOCOL_H

#include "alloc/txn.h"
#include "coord/machine.h"

#define PROTOCOL_PARTS_MAX 3u
#define PROTOCOL_BAG_MAX   8u

/* Rules broken on purpose: the checker must see each. */
enum protocol_mutation {
    MUTATION_NONE,
    MUTATION_FORGET_EARLY,          /* a participant forgets before the deadline */
    MUTATION_ABORT_WITHOUT_NO,      /* silence aborts */
    MUTATION_REFUSE_SAYS_NO,        /* TX_REFUSE answers NO, the record stays PREPARED */
    MUTATION_LATE_IS_NO,            /* a participant's LATE aborts without home's word */
    MUTATION_STALE_YES_COUNTS,      /* home's word may be older than the LATE */
    MUTATION_NO_ISN_T_KEPT,         /* a vote NO leaves no record */
    MUTATION_CLOCK_ABORTS,          /* a prepared participant gives up at the deadline */
    MUTATION_LATE_HIDES_SESSION,    /* LATE of a home whose session is over says TX_TOO_LATE */
    MUTATION_REFUSE_SKIPS_SESSION,  /* TX_REFUSE at home doesn't look at the session */
    MUTATION_PREPARE_SKIPS_SESSION, /* TX_PREPARE at home doesn't look at the session */
    MUTATION_SETTLE_KEEPS_NOTHING,  /* settling doesn't fill the number */
    MUTATIONS
};

enum slot_mode { SLOT_IDLE, SLOT_MACHINE, SLOT_FORGETTING };
enum ring_result { RING_NONE, RING_COMMITTED, RING_ABORTED };
/* TOMBSTONE: expired, and keeps the result. OVER: the client has acknowledged the number, or the
 * session and its tombstone are gone: to this transaction it is the same. */
enum session_life { SESSION_ALIVE, SESSION_TOMBSTONE, SESSION_OVER };
enum client_view { CLIENT_WAITS, CLIENT_COMMITTED, CLIENT_ABORTED };

struct participant {
    uint8_t state; /* enum txn_state */
    bool late;
    bool committed; /* ghost: has executed the commit, ever */
};

struct coordinator {
    uint8_t mode; /* enum slot_mode */
    uint8_t purpose, state;
    uint8_t parts[PROTOCOL_PARTS_MAX];
    bool unknown;     /* ABORTING: the code says that nobody knows */
    bool home_forgot; /* FORGETTING: home has answered */
};

struct world {
    struct participant parts[PROTOCOL_PARTS_MAX];
    struct coordinator slots[2];
    bool refused; /* ghost: somebody's log has said no, ever */
    uint8_t ring, session, client;
    uint8_t bag_count;
    uint8_t bag[PROTOCOL_BAG_MAX]; /* messages in flight: a set, sorted */
    const char *violation;         /* a move that must not be */
};

struct protocol {
    uint32_t count;   /* participants, 2..PROTOCOL_PARTS_MAX */
    uint32_t bag_max; /* messages in flight */
    enum protocol_mutation mutation;
};

struct world_key {
    uint64_t state, bag;
};

void protocol_init(struct world *w);
/* Participants that aren't home are alike: the lesser of the two ways to name them. */
struct world_key protocol_key(const struct protocol *p, const struct world *w);
void protocol_unpack(const struct protocol *p, struct world_key key, struct world *w);

/* Every move that is possible in *w. The callback must not change *next. */
typedef void (*protocol_move_cb)(void *arg, const char *what, uint32_t detail,
                                 const struct world *next);
void protocol_moves(const struct protocol *p, const struct world *w, protocol_move_cb cb,
                    void *arg);
/* NULL, or what is wrong with this state. */
const char *protocol_violation(const struct protocol *p, const struct world *w);
/* Can it still come to an end? NULL, or why not: (1) the coordinators that are there, by sending
 * again, without any message that is in flight; (2) a recovery alone, all else having vanished;
 * and then nothing is left in any arena. */
const char *protocol_stuck(const struct protocol *p, const struct world *w);
void protocol_print(const struct protocol *p, const struct world *w);

#endif
