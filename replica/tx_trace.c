/* What a shard's log still says of one transaction. */
#include <string.h>

#include "alloc/txn.h"
#include "replica/internal.h"

struct trace {
    const struct txn_name *name;
    uint64_t uid;
    shard_tx_step_cb cb;
    void *arg;
};

static bool is_named(const struct trace *t, uint64_t home, uint64_t session, uint64_t seq)
{
    return t->name->home == home && t->name->session == session && t->name->seq == seq;
}

static bool forgets(const struct trace *t, struct slice body)
{
    struct msg_tx_forget m;
    if (message_decode_tx_forget(body, &m) != 0) {
        return false;
    }
    for (size_t at = 0; at + 24 <= m.names.len; at += 24) {
        const uint8_t *p = m.names.data + at;
        if (is_named(t, load_u64(p), load_u64(p + 8), load_u64(p + 16))) {
            return true;
        }
    }
    return false;
}

/* Is the command of this transaction? Fills in what it says. */
static bool is_step(const struct trace *t, uint16_t kind, struct slice body,
                    struct shard_tx_step *step)
{
    struct msg_tx_prepare prepare;
    struct msg_tx_decide decide;
    struct msg_tx_refuse refuse;
    struct msg_tx_settle settle;
    struct msg_tx_commit_one one;
    struct command_prefix prefix;
    struct txn_part_header head;
    struct txn_cursor items;
    switch (kind) {
    case KIND_TX_PREPARE:
        if (message_decode_tx_prepare(body, &prepare) != 0 ||
            !is_named(t, prepare.home, prepare.tx_session, prepare.tx_seq)) {
            return false;
        }
        step->what = SHARD_TX_PREPARE;
        step->items = txn_part_open(prepare.part, &head, &items) == 0 ? head.items : 0;
        return true;
    case KIND_TX_DECIDE:
        if (message_decode_tx_decide(body, &decide) != 0 ||
            !is_named(t, decide.home, decide.tx_session, decide.tx_seq)) {
            return false;
        }
        step->what = decide.commit == 1 ? SHARD_TX_COMMIT : SHARD_TX_ABORT;
        step->code = decide.commit == 1 ? 0 : -(int)decide.code;
        for (size_t at = 0; at + 8 <= decide.times.len; at += 8) {
            uint64_t time = load_u64(decide.times.data + at);
            step->committed_at = time > step->committed_at ? time : step->committed_at;
        }
        return true;
    case KIND_TX_REFUSE:
        step->what = SHARD_TX_REFUSE;
        return message_decode_tx_refuse(body, &refuse) == 0 &&
               is_named(t, refuse.home, refuse.tx_session, refuse.tx_seq);
    case KIND_TX_FORGET:
        step->what = SHARD_TX_FORGET;
        return forgets(t, body);
    case KIND_TX_SETTLE:
        step->what = SHARD_TX_SETTLE;
        return message_decode_tx_settle(body, &settle) == 0 &&
               is_named(t, t->uid, settle.tx_session, settle.tx_seq);
    case KIND_TX_COMMIT_ONE:
        if (message_decode_tx_commit_one(body, &one) != 0 ||
            message_command_prefix(body, &prefix) != 0 ||
            !is_named(t, t->uid, prefix.session, prefix.seq)) {
            return false;
        }
        step->what = SHARD_TX_COMMIT_ONE;
        step->items = txn_part_open(one.part, &head, &items) == 0 ? head.items : 0;
        return true;
    default:
        return false;
    }
}

static void look_at(void *arg, uint64_t index, const struct wal_entry *entry)
{
    const struct trace *t = arg;
    struct entry_commands commands;
    uint16_t kind;
    struct slice body;
    if (!entry_commands_open(&commands, entry)) {
        return;
    }
    while (entry_commands_next(&commands, &kind, &body)) {
        struct shard_tx_step step = {.index = index, .term = entry->term, .stamp = commands.stamp};
        if (is_step(t, kind, body, &step)) {
            t->cb(t->arg, &step);
        }
    }
}

int shard_trace_tx(struct shard *shard, const struct txn_name *name, uint64_t *from,
                   shard_tx_step_cb cb, void *arg)
{
    struct trace t = {name, shard->uid, cb, arg};
    return log_scan(shard, from, look_at, &t);
}
