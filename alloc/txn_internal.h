/* A part on its way through validate, reserve and execute (txn_apply.c), and what txn_prepare.c and
 * intent.c add. Nobody outside alloc/ includes this. */
#ifndef CAIRN_ALLOC_TXN_INTERNAL_H
#define CAIRN_ALLOC_TXN_INTERNAL_H

#include "alloc/intent.h"
#include "alloc/txn.h"

enum target_state {
    TARGET_ABSENT, /* stale, or a name that isn't there */
    TARGET_UNBORN,
    TARGET_THERE,
};

/* One object or root that the part names. */
struct txn_target {
    uint64_t ptr; /* 0: the root `name` */
    struct slice name;
    uint64_t place;    /* of the object's block */
    uint64_t lease;    /* that its slot is of: UNBORN, and of no transaction yet; else 0 */
    uint64_t size;     /* of the object, behind the items looked at so far */
    uint64_t version;  /* before the transaction; 0: absent, unborn */
    uint64_t root;     /* where the name will lead; 0: it goes */
    uint64_t new_size; /* born: what is allocated */
    struct slice init;
    uint32_t type;
    int error;             /* ABSENT: ERR_INVAL, ERR_STALE, ERR_NOTFOUND */
    uint8_t before, state; /* enum target_state: before the transaction; behind the items so far */
    bool changes;          /* an operation names it */
    bool born;             /* this transaction allocates it */
    bool set, deleted;     /* a name that it sets, deletes; `root` is its last word */
};

#define TXN_PLAN_ROOM 1024u /* what a small transaction's plan takes, on the stack */

struct txn_plan {
    struct slice part;
    struct txn_part_header head;
    struct txn_target *targets; /* in order of first mention */
    uint32_t count;
    uint32_t mask;
    uint16_t *index; /* hash table of numbers + 1 */
    uint16_t *named; /* of each item: the number of its target */
    bool reads_directory, changes_directory;
    void *memory; /* NULL: `room` is enough */
    uint64_t room[TXN_PLAN_ROOM / sizeof(uint64_t)];
};

/* What the part names, as it is now: before validation, or (prepared) before the outcome.
 * ERR_NOMEM, ERR_PROTOCOL. */
int txn_plan_open(const struct heap *h, struct slice part, struct txn_plan *plan);
void txn_plan_close(struct txn_plan *plan);
/* Does everything hold, and can all be done but for room? 0; ERR_CONFLICT; ERR_TX_UNDECIDED with
 * *by: another's intent is in the way; another command's code. */
int txn_plan_validate(const struct heap *h, struct txn_plan *plan, struct txn_conflict *conflict,
                      struct txn_name *by);
/* Makes objects and placeholders. ERR_NOSPACE: nothing has changed. */
int txn_plan_reserve(struct heap *h, struct txn_plan *plan);
/* Takes them back; their slots go, with new generations. */
void txn_plan_release(struct heap *h, const struct txn_plan *plan);
/* It won't happen: slots leased for its objects go, or their leases would stay until the session
 * ends. */
void txn_plan_renounce(struct heap *h, const struct txn_plan *plan);
/* 0 or a fatal code. */
int txn_plan_execute(struct heap *h, uint64_t version, const struct txn_plan *plan);

/* intent.c */
/* What hasn't been born when its intent was taken has a block now. */
void intent_mark(struct heap *h, uint64_t ptr);
bool intent_find(const struct heap *h, uint64_t ptr, struct slice name, struct intent_record *out);
/* Would taking an intent of this mode conflict? *by: with whom, if it is a single one. */
bool intent_in_the_way(const struct heap *h, uint64_t ptr, struct slice name, enum intent_mode mode,
                       struct txn_name *by);

/* txn_prepare.c: the PREPARED one with the least prepare time. */
bool txn_oldest_prepared(const struct heap *h, struct txn_name *out);

#endif
