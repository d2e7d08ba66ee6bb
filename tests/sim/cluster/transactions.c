/* Transactions of the simulated clients: each reads one to three lists, appends to some of them,
 * and commits, serializable or at the snapshot level, and some that only read do so as of one
 * version; what they saw and did goes into a history that must show what the levels promise. */
#include "sim/cluster/transactions.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "history/check.h"
#include "history/history.h"
#include "sim/cluster/cluster.h"
#include "sim/internal.h"

#define SETTLES_MAX    40u
#define SETTLE_WAIT_US 300000u

static void tx_next(struct tx_slot *slot, uint64_t us);

static uint64_t below(const struct tx_slot *slot, uint64_t limit)
{
    return env_random_u64(slot->client->env) % limit;
}

static uint64_t now_ns(const struct tx_slot *slot)
{
    return sim_now_ns(slot->client->cluster->sim);
}

struct txn_history *transactions_new(void)
{
    struct txn_limits limits = {
        .txns_max = 1u << 20, .ops_max = 1u << 22, .values_max = (size_t)1 << 27};
    struct txn_history *h = sim__alloc(sizeof *h);
    txn_history_init(h, limits);
    return h;
}

void transactions_free(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        for (uint32_t k = 0; k < TX_KEYS_MAX; k++) {
            part_close(&c->clients[i].tx.parts[k]);
        }
    }
    txn_history_close(c->transactions);
    mem_free(c->transactions);
    c->transactions = NULL;
}

/* ---- the end of one ---- */

static void excuse(struct tx_slot *slot, int err)
{
    struct cluster *c = slot->client->cluster;
    /* Of shards whose clocks jumped far apart one takes no deadline of the other's, and can't say
     * that it is as late as what was read there. A read that waits for a commit for
     * 250 ms has its participants asked, and it aborted: nothing of it happened. */
    bool jumped = c->mode == MODE_CLOCK || c->mode == MODE_MIXED;
    bool expected =
        err == ERR_CONFLICT || (err == ERR_TX_ABORTED && cluster_asks(c) != slot->asks) ||
        (jumped && (err == ERR_TX_ABORTED || (slot->step == TX_VALIDATING && err == ERR_TIMEOUT) ||
                    (slot->at_one_time && (err == ERR_BUSY || err == ERR_SNAPSHOT_TOO_OLD ||
                                           err == ERR_INVAL || err == ERR_TIMEOUT))));
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
        cluster_fail(c, "client %u: transaction, step %d: %s after %" PRIu64 " ms: %s%s",
                     slot->client->index, slot->step, err_name(err),
                     (now_ns(slot) - slot->called_ns) / SIM_MS,
                     slot->step == TX_FINDING ? slot->snapshot.text : slot->call.text,
                     weather ? " (no fault excuses it)" : "");
    }
}

static void tx_end(struct tx_slot *slot, enum txn_status status)
{
    struct cluster *c = slot->client->cluster;
    if (status == TXN_COMMITTED) {
        c->counts.ok++;
        c->counts.transactions++;
    }
    txn_history_end(c->transactions, slot->id, status, now_ns(slot));
    slot->step = TX_IDLE;
    if (!slot->final) {
        tx_next(slot, 1 + below(slot, (uint64_t)c->think_us * 4));
    } else if (slot->list[0] + 1 < LISTS) {
        slot->list[0]++;
        tx_next(slot, 1);
    } else {
        slot->final = false;
    }
}

static void tx_failed(struct tx_slot *slot, int err)
{
    excuse(slot, err);
    if (slot->final) {
        cluster_fail(slot->client->cluster, "a list can't be read at the end: %s", err_name(err));
    }
    tx_end(slot, TXN_ABORTED);
}

static void submit(struct tx_slot *slot, int prepared, core_call_cb cb)
{
    if (prepared != 0) {
        cluster_fail(slot->client->cluster, "client %u: a transaction was refused: %s: %s",
                     slot->client->index, err_name(prepared), slot->call.text);
        slot->step = TX_IDLE;
        return;
    }
    slot->call.cb = cb;
    core_call(slot->client->core, &slot->call);
}

/* ---- what became of it? ---- */

static void settle_start(struct env_timer *timer);

static void settled(struct core_call *call)
{
    struct tx_slot *slot = container_of(call, struct tx_slot, call);
    int err = call->err;
    if (err == 0) {
        tx_end(slot, TXN_COMMITTED);
    } else if (err == ERR_TX_ABORTED) {
        tx_end(slot, TXN_ABORTED);
    } else if (err == ERR_SESSION_EXPIRED || slot->settles >= SETTLES_MAX) {
        tx_end(slot, TXN_UNKNOWN);
    } else {
        slot->think.cb = settle_start;
        env_timer_start(slot->client->env, &slot->think,
                        env_now_ns(slot->client->env) + SETTLE_WAIT_US * 1000ull);
    }
}

static void settle_start(struct env_timer *timer)
{
    struct tx_slot *slot = container_of(timer, struct tx_slot, think);
    memset(&slot->call, 0, sizeof slot->call);
    slot->settles++;
    submit(slot,
           core_prepare_tx_settle(&slot->call, slot->client->core, slot->home_uid, slot->tx_session,
                                  slot->tx_seq),
           settled);
}

static void committed(struct core_call *call)
{
    struct tx_slot *slot = container_of(call, struct tx_slot, call);
    if (call->err == 0) {
        tx_end(slot, TXN_COMMITTED);
    } else if (call->err != ERR_INDOUBT) {
        tx_failed(slot, call->err);
    } else {
        excuse(slot, call->err);
        slot->step = TX_SETTLING;
        slot->tx_session = call->session;
        slot->tx_seq = call->seq;
        slot->settles = 0;
        if (call->seq == 0) {
            tx_end(slot, TXN_UNKNOWN);
        } else {
            settle_start(&slot->think);
        }
    }
}

/* ---- parts ---- */

static uint32_t shard_of(const struct tx_slot *slot, uint32_t key)
{
    return parts_shard_of(slot->client->cluster->lists[slot->list[key]]);
}

/* What the transaction wants of one shard. At the snapshot level the first committer wins; else all
 * that was read must still be so. */
static void part(struct tx_slot *slot, uint32_t shard, bool checks_only, struct tx_part *out)
{
    part_begin(out, shard);
    for (uint32_t k = 0; k < slot->count; k++) {
        uint64_t ptr = slot->client->cluster->lists[slot->list[k]];
        if (shard_of(slot, k) == shard && slot->at_snapshot) {
            if (slot->append[k]) {
                part_unchanged(out, ptr, slot->snapshot.at);
            }
        } else if (shard_of(slot, k) == shard) {
            part_item(out, TXN_CHECK_OBJECT, ptr, slot->version[k], NULL, 0);
        }
    }
    for (uint32_t k = 0; k < slot->count && !checks_only; k++) {
        uint64_t ptr = slot->client->cluster->lists[slot->list[k]];
        if (shard_of(slot, k) == shard && slot->append[k]) {
            uint64_t count = slot->words[k][0] + 1;
            part_item(out, TXN_WRITE, ptr, 0, &count, 8);
            part_item(out, TXN_WRITE, ptr, 8 * count, &slot->value[k], 8);
        }
    }
}

/* Shards of the transaction, each once. What a snapshot has only read concerns nobody. */
static uint32_t shards(const struct tx_slot *slot, uint32_t out[TX_KEYS_MAX])
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < slot->count; k++) {
        uint32_t shard = shard_of(slot, k);
        bool known = slot->at_snapshot && !slot->append[k];
        for (uint32_t i = 0; i < count; i++) {
            known = known || out[i] == shard;
        }
        if (!known) {
            out[count++] = shard;
        }
    }
    return count;
}

static void validate(struct tx_slot *slot);

static void validated(struct core_call *call)
{
    struct tx_slot *slot = container_of(call, struct tx_slot, call);
    if (call->err != 0) {
        tx_failed(slot, call->err);
        return;
    }
    slot->at++;
    validate(slot);
}

/* A read-only transaction: was all of it so at one time? */
static void validate(struct tx_slot *slot)
{
    uint32_t of[TX_KEYS_MAX];
    uint32_t count = shards(slot, of);
    uint64_t clock = 0;
    if (slot->at_one_time || slot->count == 1 || slot->at == count) {
        tx_end(slot, TXN_COMMITTED);
        return;
    }
    for (uint32_t k = 0; k < slot->count; k++) {
        clock = slot->version[k] > clock ? slot->version[k] : clock;
    }
    slot->step = TX_VALIDATING;
    memset(&slot->call, 0, sizeof slot->call);
    part(slot, of[slot->at], true, &slot->parts[0]);
    submit(slot,
           core_prepare_tx_validate(&slot->call, slot->client->heap, of[slot->at], clock,
                                    slice_of(slot->parts[0].bytes.data, slot->parts[0].bytes.len)),
           validated);
}

static void tx_commit(struct tx_slot *slot)
{
    uint32_t of[TX_KEYS_MAX];
    uint32_t count = shards(slot, of);
    slot->step = TX_COMMITTING;
    slot->called_ns = now_ns(slot);
    slot->asks = cluster_asks(slot->client->cluster);
    memset(&slot->call, 0, sizeof slot->call);
    for (uint32_t i = 0; i < count; i++) {
        part(slot, of[i], false, &slot->parts[i]);
    }
    submit(
        slot,
        parts_prepare_commit(&slot->call, slot->client->heap, slot->parts, count, &slot->home_uid),
        committed);
}

/* ---- reading ---- */

static void read_next(struct tx_slot *slot);

static void was_read(struct core_call *call)
{
    struct tx_slot *slot = container_of(call, struct tx_slot, call);
    struct cluster *c = slot->client->cluster;
    uint32_t k = slot->at;
    if (call->err != 0) {
        tx_failed(slot, call->err);
        return;
    }
    uint64_t count = slot->words[k][0];
    if (count > LIST_VALUES_MAX) {
        cluster_fail(c, "client %u: list %u holds %" PRIu64 " values", slot->client->index,
                     slot->list[k], count);
        tx_end(slot, TXN_ABORTED);
        return;
    }
    slot->version[k] = call->version;
    slot->append[k] = slot->append[k] && count < LIST_VALUES_MAX;
    (void)txn_history_read(c->transactions, slot->id, slot->list[k], slot->words[k] + 1,
                           (uint32_t)count);
    slot->at++;
    read_next(slot);
}

static void read_next(struct tx_slot *slot)
{
    struct client_host *client = slot->client;
    struct cluster *c = client->cluster;
    if (slot->at < slot->count) {
        memset(&slot->call, 0, sizeof slot->call);
        slot->called_ns = now_ns(slot);
        submit(slot,
               core_prepare_read_at(&slot->call, client->heap, c->lists[slot->list[slot->at]],
                                    slot->at_one_time ? slot->snapshot.at : 0, 0,
                                    slot->words[slot->at], LIST_BYTES),
               was_read);
        return;
    }
    bool writes = false;
    for (uint32_t k = 0; k < slot->count; k++) {
        if (slot->append[k]) {
            slot->value[k] = (uint64_t)(client->index + 1) << 48 | ++client->next_value;
            (void)txn_history_append(c->transactions, slot->id, slot->list[k], slot->value[k]);
            writes = true;
        }
    }
    slot->at = 0;
    if (writes) {
        tx_commit(slot);
    } else {
        validate(slot);
    }
}

static void found(struct snapshot *s, int err)
{
    struct tx_slot *slot = container_of(s, struct tx_slot, snapshot);
    if (err != 0) {
        tx_failed(slot, err);
        return;
    }
    slot->client->cluster->counts.at_one_time++;
    slot->step = TX_READING;
    read_next(slot);
}

static void tx_start(struct env_timer *timer)
{
    struct tx_slot *slot = container_of(timer, struct tx_slot, think);
    struct client_host *client = slot->client;
    if (client->quiet && !slot->final) {
        return;
    }
    slot->step = TX_READING;
    slot->at = 0;
    slot->count = slot->final ? 1 : 1 + (uint32_t)below(slot, TX_KEYS_MAX);
    bool reads_only = slot->final || below(slot, 4) == 0;
    for (uint32_t k = 0; k < slot->count && !slot->final; k++) {
        bool again = true;
        while (again) {
            slot->list[k] = (uint32_t)below(slot, LISTS);
            again = false;
            for (uint32_t i = 0; i < k; i++) {
                again = again || slot->list[i] == slot->list[k];
            }
        }
    }
    for (uint32_t k = 0; k < slot->count; k++) {
        slot->append[k] = !reads_only && below(slot, 3) != 0;
    }
    slot->at_snapshot = !slot->final && below(slot, 4) == 0;
    slot->at_one_time = slot->at_snapshot || (!slot->final && reads_only && below(slot, 2) == 0);
    slot->id = txn_history_begin(client->cluster->transactions, client->index,
                                 slot->at_snapshot ? TXN_SNAPSHOT : TXN_SERIALIZABLE, now_ns(slot));
    if (slot->at_one_time) {
        slot->step = TX_FINDING;
        slot->called_ns = now_ns(slot);
        snapshot_find(&slot->snapshot, client, !slot->at_snapshot, found);
    } else {
        read_next(slot);
    }
}

static void tx_next(struct tx_slot *slot, uint64_t us)
{
    slot->step = TX_IDLE;
    slot->think.cb = tx_start;
    env_timer_start(slot->client->env, &slot->think, env_now_ns(slot->client->env) + us * 1000);
}

/* ---- from outside ---- */

void transactions_go(struct client_host *client)
{
    client->tx.client = client;
    tx_next(&client->tx, 1 + below(&client->tx, (uint64_t)client->cluster->think_us * 2));
}

void transactions_final(struct client_host *client)
{
    client->tx.final = true;
    client->tx.list[0] = 0;
    tx_next(&client->tx, 1);
}

bool transactions_idle(const struct client_host *client)
{
    return client->tx.step == TX_IDLE && !client->tx.final;
}

void transactions_stop(struct client_host *client)
{
    env_timer_stop(client->env, &client->tx.think);
    snapshot_stop(&client->tx.snapshot);
}

void transactions_check(struct cluster *c)
{
    static struct txn_verdict v;
    txn_check(c->transactions, TXN_LEVEL_STRICT, &v);
    if (v.outcome == TXN_NO_VERDICT) {
        cluster_fail(c, "the history of transactions says nothing");
    }
    for (uint32_t i = 0; i < v.findings && v.outcome == TXN_VIOLATION; i++) {
        if (!v.finding[i].allowed) {
            cluster_fail(c, "transactions: %s", v.finding[i].text);
        }
    }
}
