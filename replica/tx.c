/* Transactions in the state machine of a shard (ADR 0007 §6). What they do to objects is
 * alloc/txn.h's; here stands what the session of the client has to say. */
#include <string.h>

#include "alloc/txn.h"
#include "replica/internal.h"

/* Whose slots a part may use. */
static int part_session_check(const struct heap *heap, struct slice part, uint64_t owner)
{
    struct txn_part_header header;
    struct txn_cursor cursor;
    int rv = txn_part_open(part, &header, &cursor);
    if (rv != 0 || header.session == 0) {
        return rv;
    }
    return session_check(heap, header.session, owner);
}

int tx_commit_one(struct heap *heap, struct slice body, uint64_t version,
                  const struct session_record *session, struct command_result *result)
{
    struct msg_tx_commit_one m;
    struct txn_conflict conflict = {0};
    int rv = message_decode_tx_commit_one(body, &m);
    if (rv == 0) {
        rv = part_session_check(heap, m.part, session->owner);
    }
    if (rv == 0) {
        rv = txn_apply_one(heap, version, m.part, &conflict);
    }
    result->value = conflict.what;
    result->version = conflict.version;
    return rv;
}

static uint64_t part_work(struct slice part)
{
    struct txn_part_header header;
    struct txn_cursor cursor;
    struct txn_item item;
    struct slice name;
    struct slice bytes;
    uint64_t work = 0;
    if (txn_part_open(part, &header, &cursor) != 0) {
        return 0;
    }
    while (txn_part_next(&cursor, &item, &name, &bytes)) {
        work += item.kind == TXN_ALLOC ? 1 + (item.value >> 20) : 1;
    }
    return work;
}

uint64_t tx_work(struct slice body)
{
    struct msg_tx_commit_one m;
    return message_decode_tx_commit_one(body, &m) == 0 ? part_work(m.part) : 0;
}
