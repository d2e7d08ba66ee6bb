#include "sim/cluster/accounts.h"

#include <inttypes.h>
#include <string.h>

#include "sim/cluster/cluster.h"
#include "sim/internal.h"

static void next(struct account_slot *slot);

static uint64_t below(const struct account_slot *slot, uint64_t limit)
{
    return env_random_u64(slot->client->env) % limit;
}

static void done(struct account_slot *slot)
{
    slot->client->cluster->counts.ok++;
    next(slot);
}

static bool is_at_one_time(const struct account_slot *slot)
{
    return slot->job == ACCOUNTS_SNAPSHOT || slot->job == ACCOUNTS_STRICT;
}

static void failed_with(struct account_slot *slot, int err, const char *text)
{
    struct cluster *c = slot->client->cluster;
    /* Of shards whose clocks jumped far apart one takes no deadline of the other's, and one that
     * is behind can't say what will have been at a time of the other's. A read that waits
     * for a commit for 250 ms has its participants asked, and it aborted: nothing of it happened.
     */
    bool jumped = c->mode == MODE_CLOCK || c->mode == MODE_MIXED;
    bool expected = err == ERR_CONFLICT ||
                    (slot->job == ACCOUNTS_PAST && err == ERR_SNAPSHOT_TOO_OLD) ||
                    (err == ERR_TX_ABORTED && cluster_asks(c) != slot->asks) ||
                    (jumped && (err == ERR_TX_ABORTED || err == ERR_TIMEOUT || err == ERR_INVAL ||
                                (slot->at != 0 && err == ERR_SNAPSHOT_TOO_OLD) ||
                                (is_at_one_time(slot) && err == ERR_BUSY)));
    bool weather = cluster_weather(err) || err == ERR_TX_ABORTED || err == ERR_TX_UNDECIDED ||
                   err == ERR_TX_TOO_LATE;
    if (err == ERR_CONFLICT) {
        c->counts.conflicts++;
    } else if (err == ERR_INDOUBT) {
        c->counts.unknown++;
    } else {
        c->counts.failed++;
    }
    if (!expected && (!weather || c->tame || c->calm)) {
        cluster_fail(c, "client %u: bank, job %d: %s after %" PRIu64 " ms: %s%s",
                     slot->client->index, slot->job, err_name(err),
                     (sim_now_ns(c->sim) - slot->called_ns) / SIM_MS, text,
                     weather ? " (no fault excuses it)" : "");
    }
    if (slot->final && ++slot->attempts == ACCOUNT_ATTEMPTS) {
        cluster_fail(c, "the bank can't be audited at the end: %s: %s", err_name(err), text);
    }
    next(slot);
}

static void failed(struct account_slot *slot, const struct core_call *call)
{
    failed_with(slot, call->err, call->text);
}

static bool submit(struct account_slot *slot, struct core_call *call, int prepared, core_call_cb cb)
{
    if (prepared != 0) {
        cluster_fail(slot->client->cluster, "client %u: the bank was refused: %s: %s",
                     slot->client->index, err_name(prepared), call->text);
        slot->job = ACCOUNTS_IDLE;
        return false;
    }
    call->cb = cb;
    core_call(slot->client->core, call);
    return true;
}

static struct account_slot *slot_of(struct core_call *call)
{
    return container_of(call, struct account_read, call)->slot;
}

/* True: all of those that were sent side by side are answered. */
static bool all_answered(struct account_slot *slot, struct core_call *call)
{
    if (call->err != 0 && slot->failed == NULL) {
        slot->failed = call;
    }
    return --slot->out == 0;
}

/* ---- parts ---- */

static struct tx_part *part_for(struct account_slot *slot, uint32_t shard)
{
    for (uint32_t i = 0; i < slot->parts; i++) {
        if (slot->part[i].shard == shard) {
            return &slot->part[i];
        }
    }
    assert(slot->parts < ACCOUNT_PARTS);
    part_begin(&slot->part[slot->parts], shard);
    return &slot->part[slot->parts++];
}

/* What was read, as checks: one part for each shard concerned. */
static void checks(struct account_slot *slot)
{
    slot->parts = 0;
    for (uint32_t i = 0; i < slot->count; i++) {
        uint64_t ptr = slot->client->cluster->accounts[slot->account[i]];
        part_item(part_for(slot, parts_shard_of(ptr)), TXN_CHECK_OBJECT, ptr, slot->version[i],
                  NULL, 0);
    }
}

/* ---- transfers ---- */

static void transferred(struct core_call *call)
{
    struct account_slot *slot = container_of(call, struct account_slot, call);
    slot->commits = false;
    if (call->err != 0) {
        failed(slot, call);
        return;
    }
    slot->client->cluster->counts.transactions++;
    slot->seen = slot->seen != 0 && call->version > slot->seen ? call->version : slot->seen;
    done(slot);
}

static void transfer(struct account_slot *slot)
{
    checks(slot);
    slot->amount = (int64_t)below(slot, (uint64_t)slot->balance[0] + 1);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t ptr = slot->client->cluster->accounts[slot->account[i]];
        int64_t left = slot->balance[i] + (i == 0 ? -slot->amount : slot->amount);
        part_item(part_for(slot, parts_shard_of(ptr)), TXN_WRITE, ptr, 0, &left, sizeof left);
    }
    memset(&slot->call, 0, sizeof slot->call);
    slot->commits = true;
    (void)submit(
        slot, &slot->call,
        parts_prepare_commit(&slot->call, slot->client->heap, slot->part, slot->parts, &slot->home),
        transferred);
}

/* ---- audits ---- */

static void audited(struct account_slot *slot)
{
    struct cluster *c = slot->client->cluster;
    int64_t by_account[ACCOUNTS];
    for (uint32_t i = 0; i < ACCOUNTS; i++) {
        by_account[slot->account[i]] = slot->balance[i];
    }
    if (!bank_audit(&c->bank, sim_now_ns(c->sim) / SIM_MS, by_account, ACCOUNTS)) {
        cluster_fail(c, "client %u, bank%s: %s", slot->client->index,
                     slot->job == ACCOUNTS_PAST     ? " in the past"
                     : slot->job == ACCOUNTS_STRICT ? " at one time, strict"
                     : is_at_one_time(slot)         ? " at one time"
                                                    : "",
                     c->bank.first_wrong);
    }
    c->counts.past_audits += slot->job == ACCOUNTS_PAST;
    c->counts.at_one_time += is_at_one_time(slot);
    slot->final = false;
    done(slot);
}

static void validated(struct core_call *call)
{
    struct account_slot *slot = slot_of(call);
    if (all_answered(slot, call)) {
        if (slot->failed != NULL) {
            failed(slot, slot->failed);
        } else {
            audited(slot);
        }
    }
}

static void validate(struct account_slot *slot)
{
    uint64_t clock = 0;
    checks(slot);
    for (uint32_t i = 0; i < slot->count; i++) {
        clock = slot->version[i] > clock ? slot->version[i] : clock;
    }
    slot->out = slot->parts;
    slot->failed = NULL;
    for (uint32_t i = 0; i < slot->parts; i++) {
        struct slice part = slice_of(slot->part[i].bytes.data, slot->part[i].bytes.len);
        memset(&slot->reads[i].call, 0, sizeof slot->reads[i].call);
        if (!submit(slot, &slot->reads[i].call,
                    core_prepare_tx_validate(&slot->reads[i].call, slot->client->heap,
                                             slot->part[i].shard, clock, part),
                    validated)) {
            return;
        }
    }
}

/* ---- reading ---- */

static void was_read(struct core_call *call)
{
    struct account_slot *slot = slot_of(call);
    if (!all_answered(slot, call)) {
        return;
    }
    if (slot->failed != NULL) {
        failed(slot, slot->failed);
        return;
    }
    for (uint32_t i = 0; i < slot->count; i++) {
        slot->version[i] = slot->reads[i].call.version;
    }
    for (uint32_t i = 0; i < slot->count && (slot->seen != 0 || slot->count == ACCOUNTS); i++) {
        slot->seen = slot->version[i] > slot->seen ? slot->version[i] : slot->seen;
    }
    if (slot->job == ACCOUNTS_TRANSFER) {
        transfer(slot);
    } else if (slot->job == ACCOUNTS_AUDIT && !slot->final) {
        validate(slot);
    } else {
        audited(slot);
    }
}

/* The first `count` of all accounts in a random order. */
static void choose(struct account_slot *slot, uint32_t count)
{
    slot->count = count;
    for (uint32_t i = 0; i < ACCOUNTS; i++) {
        slot->account[i] = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t other = i + (uint32_t)below(slot, ACCOUNTS - i);
        uint32_t account = slot->account[other];
        slot->account[other] = slot->account[i];
        slot->account[i] = account;
    }
}

static void read_all(struct account_slot *slot)
{
    struct client_host *client = slot->client;
    slot->out = slot->count;
    slot->failed = NULL;
    for (uint32_t i = 0; i < slot->count; i++) {
        memset(&slot->reads[i].call, 0, sizeof slot->reads[i].call);
        if (!submit(slot, &slot->reads[i].call,
                    core_prepare_read_at(&slot->reads[i].call, client->heap,
                                         client->cluster->accounts[slot->account[i]], slot->at, 0,
                                         &slot->balance[i], sizeof slot->balance[i]),
                    was_read)) {
            return;
        }
    }
}

static void found(struct snapshot *s, int err)
{
    struct account_slot *slot = container_of(s, struct account_slot, snapshot);
    if (err != 0) {
        failed_with(slot, err, s->text);
        return;
    }
    slot->at = s->at;
    read_all(slot);
}

static enum account_job draw(struct account_slot *slot)
{
    uint64_t dice = slot->final ? 0 : below(slot, 12);
    return dice == 0                      ? ACCOUNTS_AUDIT
           : dice == 1                    ? ACCOUNTS_SNAPSHOT
           : dice == 2                    ? ACCOUNTS_STRICT
           : dice == 3 && slot->seen != 0 ? ACCOUNTS_PAST
                                          : ACCOUNTS_TRANSFER;
}

static void start(struct env_timer *timer)
{
    struct account_slot *slot = container_of(timer, struct account_slot, think);
    struct client_host *client = slot->client;
    if (client->quiet && !slot->final) {
        return;
    }
    slot->job = draw(slot);
    choose(slot, slot->job == ACCOUNTS_TRANSFER ? 2 : ACCOUNTS);
    slot->at = slot->job == ACCOUNTS_PAST ? slot->seen : 0;
    slot->called_ns = sim_now_ns(client->cluster->sim);
    slot->asks = cluster_asks(client->cluster);
    if (is_at_one_time(slot)) {
        snapshot_find(&slot->snapshot, client, slot->job == ACCOUNTS_STRICT, found);
    } else {
        read_all(slot);
    }
}

static void next(struct account_slot *slot)
{
    struct client_host *client = slot->client;
    slot->job = ACCOUNTS_IDLE;
    if (client->quiet && !slot->final) {
        return;
    }
    uint64_t us = 1 + below(slot, (uint64_t)client->cluster->think_us * 12);
    slot->think.cb = start;
    env_timer_start(client->env, &slot->think, env_now_ns(client->env) + us * 1000);
}

/* ---- from outside ---- */

void accounts_go(struct client_host *client)
{
    client->bank.client = client;
    for (uint32_t i = 0; i < ACCOUNTS; i++) {
        client->bank.reads[i].slot = &client->bank;
    }
    next(&client->bank);
}

void accounts_final(struct client_host *client)
{
    client->bank.final = true;
    next(&client->bank);
}

bool accounts_idle(const struct client_host *client)
{
    return client->bank.job == ACCOUNTS_IDLE && !client->bank.final;
}

void accounts_stop(struct client_host *client)
{
    env_timer_stop(client->env, &client->bank.think);
    snapshot_stop(&client->bank.snapshot);
}

void accounts_free(struct client_host *client)
{
    for (uint32_t i = 0; i < ACCOUNT_PARTS; i++) {
        part_close(&client->bank.part[i]);
    }
}

void accounts_check(struct cluster *c)
{
    if (!bank_holds(&c->bank)) {
        cluster_fail(c, "the bank: %s",
                     c->bank.audits == 0 ? "was never audited" : c->bank.first_wrong);
    }
}
