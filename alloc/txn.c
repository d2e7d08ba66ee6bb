/* A transaction's part: its encoding, and the table of what a participant does. */
#include "alloc/txn.h"

#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"

/* ---- parts ---- */

enum {
    USES_PTR = 1,
    USES_VALUE = 2,
    USES_NAME = 4,
    USES_BYTES = 8,
    USES_MODE = 16,
    USES_TYPE = 32,
    IS_CHECK = 64
};

/* 0: no such kind. */
static unsigned uses(unsigned kind)
{
    static const unsigned of[] = {
        [TXN_CHECK_OBJECT] = IS_CHECK | USES_PTR | USES_VALUE | USES_MODE,
        [TXN_CHECK_ROOT] = IS_CHECK | USES_NAME | USES_VALUE | USES_MODE,
        [TXN_CHECK_DIRECTORY] = IS_CHECK | USES_VALUE | USES_MODE,
        [TXN_CHECK_BYTES] = IS_CHECK | USES_PTR | USES_VALUE | USES_BYTES,
        [TXN_CHECK_LIVE] = IS_CHECK | USES_PTR,
        [TXN_ALLOC] = USES_PTR | USES_VALUE | USES_TYPE | USES_BYTES,
        [TXN_FREE] = USES_PTR,
        [TXN_WRITE] = USES_PTR | USES_VALUE | USES_BYTES,
        [TXN_ROOT_SET] = USES_NAME | USES_PTR,
        [TXN_ROOT_DELETE] = USES_NAME,
    };
    return kind < sizeof of / sizeof of[0] ? of[kind] : 0;
}

int txn_part_open(struct slice part, struct txn_part_header *head, struct txn_cursor *cursor)
{
    memset(head, 0, sizeof *head);
    memset(cursor, 0, sizeof *cursor);
    if (part.len < sizeof *head) {
        return ERR_PROTOCOL;
    }
    memcpy(head, part.data, sizeof *head);
    if (head->items > TX_ITEMS_MAX || head->reserved != 0) {
        return ERR_PROTOCOL;
    }
    cursor->rest = slice_of(part.data + sizeof *head, part.len - sizeof *head);
    cursor->left = head->items;
    return 0;
}

static struct slice take(struct slice *rest, size_t len)
{
    struct slice out = slice_of(rest->data, len);
    *rest = slice_of(rest->data + len, rest->len - len);
    return out;
}

static bool item_is_valid(const struct txn_item *item, struct slice name)
{
    unsigned used = uses(item->kind);
    return used != 0 && item->reserved == 0 &&
           ((used & USES_PTR) != 0 ? item->ptr != 0 : item->ptr == 0) &&
           ((used & USES_VALUE) != 0 || item->value == 0) &&
           ((used & USES_TYPE) != 0 || item->type == 0) &&
           ((used & USES_BYTES) != 0 || item->len == 0) &&
           item->mode <= ((used & USES_MODE) != 0 ? TXN_NOT_NEWER : 0) &&
           ((used & USES_NAME) != 0 ? heap_root_name_is_valid(name) : name.len == 0);
}

bool txn_part_next(struct txn_cursor *cursor, struct txn_item *item, struct slice *name,
                   struct slice *bytes)
{
    if (cursor->failed || cursor->left == 0) {
        cursor->failed = cursor->failed || cursor->rest.len != 0;
        return false;
    }
    cursor->failed = true;
    if (cursor->rest.len < sizeof *item) {
        return false;
    }
    memcpy(item, take(&cursor->rest, sizeof *item).data, sizeof *item);
    if ((uint64_t)item->name_len + item->len > cursor->rest.len) {
        return false;
    }
    *name = take(&cursor->rest, item->name_len);
    *bytes = take(&cursor->rest, item->len);
    if (!item_is_valid(item, *name)) {
        return false;
    }
    cursor->left--;
    cursor->failed = false;
    return true;
}

int txn_part_check(struct slice part, bool checks_only)
{
    struct txn_part_header head;
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    int rv = txn_part_open(part, &head, &cursor);
    while (rv == 0 && txn_part_next(&cursor, &item, &name, &bytes)) {
        if (checks_only && (uses(item.kind) & IS_CHECK) == 0) {
            rv = ERR_PROTOCOL;
        }
    }
    return rv == 0 && cursor.failed ? ERR_PROTOCOL : rv;
}

/* ---- the table ---- */

static struct txn_move move(enum txn_state next, enum txn_answer answer)
{
    return (struct txn_move){.next = next, .answer = answer};
}

static struct txn_move step_none(enum txn_event event, const struct txn_conditions *c)
{
    switch (event) {
    case TXN_ON_PREPARE:
        if (c->late) {
            return move(TXN_NONE, TXN_LATE);
        }
        return c->valid ? move(TXN_PREPARED, TXN_YES) : move(TXN_REFUSED, TXN_NO);
    case TXN_ON_REFUSE:
        return c->late ? move(TXN_NONE, TXN_LATE) : move(TXN_REFUSED, TXN_NO);
    case TXN_ON_ABORT:
        return move(c->late ? TXN_NONE : TXN_REFUSED, TXN_APPLIED);
    case TXN_ON_COMMIT: /* forgotten: all had applied it (X5) */
    case TXN_ON_FORGET:
    case TXN_ON_CLOCK:
        return move(TXN_NONE, TXN_APPLIED);
    case TXN_EVENTS:
    default:
        return move(TXN_NONE, TXN_WRONG);
    }
}

static struct txn_move step_prepared(enum txn_event event, const struct txn_conditions *c)
{
    switch (event) {
    case TXN_ON_PREPARE:
    case TXN_ON_REFUSE:
        return move(TXN_PREPARED, TXN_YES);
    case TXN_ON_COMMIT:
        return move(TXN_COMMITTED, TXN_APPLIED);
    case TXN_ON_ABORT:
        return move(c->late ? TXN_NONE : TXN_REFUSED, TXN_APPLIED);
    case TXN_ON_FORGET:
    case TXN_ON_CLOCK:
    case TXN_EVENTS:
    default:
        return move(TXN_PREPARED, TXN_WRONG);
    }
}

static struct txn_move step_committed(enum txn_event event, const struct txn_conditions *c)
{
    switch (event) {
    case TXN_ON_PREPARE:
    case TXN_ON_REFUSE:
        return move(TXN_COMMITTED, TXN_WAS_COMMITTED);
    case TXN_ON_COMMIT:
        return move(TXN_COMMITTED, TXN_APPLIED);
    case TXN_ON_FORGET:
        return c->late && c->forgettable ? move(TXN_NONE, TXN_APPLIED)
                                         : move(TXN_COMMITTED, TXN_NO_VOTE);
    case TXN_ON_ABORT:
    case TXN_ON_CLOCK:
    case TXN_EVENTS:
    default:
        return move(TXN_COMMITTED, TXN_WRONG);
    }
}

static struct txn_move step_refused(enum txn_event event, const struct txn_conditions *c)
{
    switch (event) {
    case TXN_ON_PREPARE:
    case TXN_ON_REFUSE:
        return move(TXN_REFUSED, TXN_NO);
    case TXN_ON_ABORT:
        return move(TXN_REFUSED, TXN_APPLIED);
    case TXN_ON_FORGET:
    case TXN_ON_CLOCK:
        return c->late ? move(TXN_NONE, TXN_APPLIED) : move(TXN_REFUSED, TXN_WRONG);
    case TXN_ON_COMMIT:
    case TXN_EVENTS:
    default:
        return move(TXN_REFUSED, TXN_WRONG);
    }
}

struct txn_move txn_step(enum txn_state state, enum txn_event event,
                         const struct txn_conditions *conditions)
{
    switch (state) {
    case TXN_NONE:
        return step_none(event, conditions);
    case TXN_PREPARED:
        return step_prepared(event, conditions);
    case TXN_COMMITTED:
        return step_committed(event, conditions);
    case TXN_REFUSED:
        return step_refused(event, conditions);
    case TXN_STATES:
    default:
        return move(state, TXN_WRONG);
    }
}

bool heap_ptr_is_unborn(const struct heap *heap, uint64_t ptr)
{
    if (ptr == 0 || ptr_shard(ptr) != header(heap)->shard) {
        return false;
    }
    uint64_t word = slot_get(heap, ptr_slot(ptr));
    enum slot_state state = slot_word_state(word);
    return (state == SLOT_LEASED || state == SLOT_PREPARED) &&
           slot_word_generation(word) == ptr_generation(ptr);
}
