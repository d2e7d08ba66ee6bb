/* Intents: what an undecided transaction has promised not to find changed, and what it is about to
 * change (rules X10, X11). Records of HEAP_MAP_TX; an object with one has OBJECT_INTENT in its
 * header, so that nobody else looks it up.
 *
 *   shared      by those who only read it: others may read and prepare reads, not write
 *   exclusive   by who writes, frees, sets, deletes or allocates it: nobody else may do anything,
 *               and readers wait
 *   directory   key 'r' alone: `shared` those who have listed names, `changers` those who make or
 *               delete one; changers don't disturb each other
 */
#ifndef CAIRN_ALLOC_INTENT_H
#define CAIRN_ALLOC_INTENT_H

#include "alloc/txn.h"

/* Valid iff shared + changers > 0 and `by` is zero, or shared = changers = 0 and `by` names a
 * PREPARED record; changers > 0 only in the directory's. */
struct intent_record {
    struct txn_name by; /* exclusive: whose; else zero */
    uint64_t at;        /* exclusive: its prepare time; else 0 */
    uint32_t shared;
    uint32_t changers;
};
static_assert(sizeof(struct intent_record) == 40, "media format");

enum intent_mode { INTENT_SHARED, INTENT_EXCLUSIVE, INTENT_CHANGER };

/* ptr 0 and an empty name: the directory. Takes one; validation has found that no other's is in the
 * way. ERR_NOSPACE, ERR_NOMEM. A transaction that lists names and changes them is both shared and a
 * changer: two such would miss each other's names. */
int intent_take(struct heap *heap, uint64_t ptr, struct slice name, enum intent_mode mode,
                const struct txn_name *by, uint64_t at);
void intent_drop(struct heap *heap, uint64_t ptr, struct slice name, enum intent_mode mode);

/* May a command that isn't of a transaction change it? 0, ERR_TX_UNDECIDED. One test of a flag when
 * there is none. creates: the name comes or goes. */
int intent_check_object(const struct heap *heap, uint64_t ptr);
int intent_check_root(const struct heap *heap, struct slice name, bool creates);

/* Must a read at `at` (0: newest) wait? True with whom for: an exclusive intent with p <= at. For
 * the directory (empty name, ptr 0): any changer; *by is then the oldest prepared transaction. */
bool intent_blocks_read(const struct heap *heap, uint64_t ptr, struct slice name, uint64_t at,
                        struct txn_name *by);

#endif
