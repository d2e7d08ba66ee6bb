/* Turns at objects that many transactions want to change (ADR 0007 §9). A read that asks for its
 * turn is answered when the one that was answered before it has changed the object, or has had
 * enough time to. It is advice: nothing holds anybody back who doesn't ask, no commit waits, and
 * all of it is volatile. One per node, on the reactor's thread. */
#ifndef CAIRN_NODE_TURNS_H
#define CAIRN_NODE_TURNS_H

#include "base/env.h"
#include "base/list.h"

#define TURNS_OBJECTS_MAX 4096u /* remembered; beyond: whoever asks has its turn */
#define TURNS_WAITING_MAX 4096u /* reads of all objects together; the same */
#define TURNS_WAIT_MS     500u  /* a read waits so long at most, then it is answered all the same */
/* How long a turn may take: what it usually takes, several times over, within these. */
#define TURNS_TIMES   4u
#define TURNS_US_MIN  2000u
#define TURNS_US_MAX  50000u
#define TURNS_US_INIT 2000u

struct turns;

/* The version of an object; 0: it can't be told. */
typedef uint64_t (*turns_version_cb)(void *arg, uint64_t uid, uint64_t ptr);

/* NULL: no memory. */
struct turns *turns_new(struct env *env, turns_version_cb version, void *arg);
/* Everyone who waits gets ERR_SHUTDOWN. NULL is allowed. */
void turns_free(struct turns *turns);

/* Caller's memory until cb, which comes exactly once, in a later turn of the loop: 0: answer now.
 */
struct turn_wait;
typedef void (*turn_wait_cb)(struct turn_wait *wait, int err);
struct turn_wait {
    turn_wait_cb cb;
    struct list link;
    struct env_timer timer;
    struct turns *turns;
    struct turn *turn;
    uint8_t tries;
};

/* True: it is this one's turn at once, and wait isn't used. tries: which one it is of a
 * transaction, from 1 on; who has tried more often goes first. */
bool turns_take(struct turns *turns, uint64_t uid, uint64_t ptr, uint8_t tries,
                struct turn_wait *wait);
/* Whose turn it is has been answered, with this version: his turn is over when there is another. */
void turns_told(struct turns *turns, uint64_t uid, uint64_t ptr, uint64_t version);
/* ... wasn't answered: the next one. */
void turns_pass(struct turns *turns, uint64_t uid, uint64_t ptr);
/* Objects may have changed. */
void turns_applied(struct turns *turns);

struct turns_stats {
    uint64_t taken;   /* at once */
    uint64_t waited;  /* until it was their turn */
    uint64_t expired; /* turns that ended without a change */
    uint64_t overdue; /* answered before it was their turn */
    uint32_t waiting; /* now */
};
void turns_get_stats(const struct turns *turns, struct turns_stats *out);

#endif
