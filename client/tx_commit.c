/* The end of transactions: sent to their shard, or to the shards by way of the home shard's leader;
 * and the loop that tries again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

static _Thread_local uint64_t last_conflict;

cairn_ptr cairn_tx_conflict(void)
{
    return (cairn_ptr){last_conflict};
}

/* ---- one commit ---- */

/* What it takes to ask what became of it. */
struct commit {
    uint64_t version;
    cairn_tx_id id; /* number 0: it was never sent */
    bool several;   /* shards */
};

static int conflict_fail(const struct tx_parts *parts, uint64_t what, uint64_t version)
{
    char text[CORE_TEXT_BYTES];
    last_conflict = sdk__tx_conflict_say(parts, what, version, text, sizeof text);
    return sdk__because(CAIRN_E_CONFLICT, "%s", text);
}

static int prepare(const struct tx_set *set, struct core_call *call, struct tx_parts *parts,
                   struct buf *joined)
{
    int rv = 0;
    if (set->home != NULL) {
        rv = sdk__tx_parts_home(parts, set->home_heap, set->home);
    } else {
        sdk__tx_parts_order(parts);
    }
    const struct tx_part *home = &parts->parts[0];
    uint32_t shard = sdk__tx_shard_index(home->heap, home->shard);
    if (rv == 0 && parts->count == 1) {
        return core_prepare_tx_commit_one(call, home->heap->core, shard,
                                          slice_of(home->bytes.data, home->bytes.len));
    }
    if (rv == 0) {
        rv = sdk__tx_parts_join(parts, joined);
    }
    return rv != 0 ? rv
                   : core_prepare_tx_commit(call, home->heap->core, shard, set->id.words[3],
                                            slice_of(joined->data, joined->len));
}

/* Did a lease go with its session since? Then STALE isn't the program's fault. */
static bool lost_a_lease(const struct tx_parts *parts)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        const struct tx_part *part = &parts->parts[i];
        if (part->session != 0 && part->heap->client->embedded == NULL &&
            atomic_load(&part->shard->session_id) != part->session) {
            return true;
        }
    }
    return false;
}

static int send(struct cairn_tx *tx, struct tx_parts *parts, struct commit *out)
{
    struct cairn_future f;
    struct buf joined = {0};
    sdk__future_init(&f, tx->heap->client);
    f.call.timeout_ms = sdk__tx_left_ms(tx->set);
    if (f.call.timeout_ms == 0) {
        return sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
    }
    int rv = prepare(tx->set, &f.call, parts, &joined);
    f.call.reserved = rv == 0 ? sdk__tx_take_number(tx->set) : NULL;
    rv = sdk__future_run(&f, rv);
    buf_close(&joined);
    out->version = rv == 0 ? f.call.version : 0;
    out->id = (cairn_tx_id){{parts->parts[0].shard->uid, f.call.session, f.call.seq, 0}};
    if (rv == CAIRN_E_CONFLICT) {
        return conflict_fail(parts, f.call.value, f.call.version);
    }
    if (rv == CAIRN_E_STALE && lost_a_lease(parts)) {
        return sdk__because(CAIRN_E_CONFLICT, "the session with a shard ended, and with it the "
                                              "promise of the pointers that were allocated");
    }
    return rv;
}

/* One request was answered as of one moment; more of them are asked about again. */
static int check(struct cairn_tx *tx, struct tx_parts *parts)
{
    uint64_t what = 0;
    uint64_t version = 0;
    if (parts->count == 0 || (tx->set->reads <= 1 && tx->set->demands == 0)) {
        return 0;
    }
    int rv = sdk__tx_validate(tx, parts, &what, &version);
    return rv == CAIRN_E_CONFLICT ? conflict_fail(parts, what, version) : rv;
}

static bool nothing_happened(int err)
{
    return err != 0 && !cairn_error_is(err, CAIRN_ERROR_MAYBE_COMMITTED) && err != CAIRN_E_CANCELED;
}

static int commit(struct cairn_tx *tx, struct commit *out)
{
    struct tx_parts parts;
    parts.count = 0;
    memset(out, 0, sizeof *out);
    last_conflict = 0;
    int rv = sdk__tx_parts_encode(tx->set, &parts);
    if (rv == 0) {
        rv = tx->set->writes && parts.count > 0 ? send(tx, &parts, out) : check(tx, &parts);
    }
    out->several = parts.count > 1;
    sdk__tx_parts_free(&parts);
    return rv;
}

/* With its outcome, behind which nothing is done with it any more. */
static void end(struct tx_set *set, int err, bool several)
{
    bool nothing = nothing_happened(err);
    if (set->allocated && (nothing || set->unborn)) {
        sdk__lease_burn_unused(set, nothing, several);
    }
    sdk__tx_set_free(set);
}

int cairn_tx_commit(cairn_tx *tx, uint64_t *version)
{
    struct commit done;
    if (tx == NULL) {
        return sdk__missing("tx");
    }
    int rv = commit(tx, &done);
    if (version != NULL) {
        *version = done.version;
    }
    end(tx->set, rv, done.several);
    return rv;
}

/* ---- without waiting ---- */

static int prepare_async(struct cairn_tx *tx, struct cairn_future *f, struct tx_parts *parts)
{
    struct buf joined = {0};
    uint32_t left = sdk__tx_left_ms(tx->set);
    if (f == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    if (left == 0) {
        return sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
    }
    int rv = sdk__tx_parts_encode(tx->set, parts);
    if (rv != 0) {
        return rv;
    }
    if (parts->count == 0) {
        f->call.kind = KIND_TX_COMMIT_ONE;
        sdk__future_ready(f);
        return 0;
    }
    f->call.timeout_ms = left;
    rv = prepare(tx->set, &f->call, parts, &joined);
    buf_close(&joined);
    if (rv != 0) {
        core_call_discard(&f->call);
        return f->call.text[0] != '\0' ? sdk__fail(rv, "%s", f->call.text) : rv;
    }
    f->call.reserved = sdk__tx_take_number(tx->set);
    return 0;
}

/* Until the outcome is known, its set knows which pointers may have to be given back. */
static void keep_set(struct cairn_tx *tx, struct cairn_future *f)
{
    sdk__tx_set_drop_bytes(tx->set);
    if (tx->set->client->embedded != NULL) {
        tx->set->kept = tx->heap->core->shards[0];
        sdk__embedded_keep(tx->set->kept);
    }
    f->set = tx->set;
}

void sdk__tx_settled(struct cairn_future *f)
{
    end(f->set, f->call.err, f->call.kind == KIND_TX_COMMIT);
}

/* One that only reads is sent like one that writes: it is as valid, though the log knows of it. */
int cairn_tx_commit_async(cairn_tx *tx, cairn_future **future)
{
    if (tx == NULL || future == NULL) {
        cairn_tx_abort(tx); /* it ends in any case */
        return sdk__missing(tx == NULL ? "tx" : "future");
    }
    struct tx_set *set = tx->set;
    struct tx_parts parts;
    struct cairn_future *f = sdk__future_new(tx->heap);
    parts.count = 0;
    *future = NULL;
    int rv = prepare_async(tx, f, &parts);
    if (rv == 0 && set->allocated) {
        keep_set(tx, f);
        set = NULL;
    }
    if (rv == 0 && parts.count > 0) {
        rv = sdk__future_start(f, 0, future);
        assert(rv == 0);
    } else if (rv == 0) {
        *future = f;
    } else {
        mem_free(f); /* nothing is known of it yet */
    }
    sdk__tx_parts_free(&parts);
    if (set != NULL) {
        end(set, rv, false);
    }
    return rv;
}

/* ---- trying again ---- */

void sdk__pause_us(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000u),
                         .tv_nsec = (long)(us % 1000000u) * 1000};
    (void)nanosleep(&t, NULL);
}

/* Nobody knows yet whether it committed: asks its home until that is known, or the time is over. */
static int settle(struct cairn_client *client, const struct tx_set *set, struct commit *c)
{
    uint32_t left;
    int rv = CAIRN_E_TX_UNDECIDED;
    while (client->embedded == NULL && c->id.words[2] != 0 && rv == CAIRN_E_TX_UNDECIDED &&
           (left = sdk__tx_left_ms(set)) > 0) {
        rv = sdk__tx_settle(client, &c->id, left, &c->version);
        if (rv == 0 || rv == CAIRN_E_TX_ABORTED) {
            return rv;
        }
        sdk__pause_us(SDK_TX_SETTLE_PAUSE_US);
    }
    return sdk__because(CAIRN_E_INDOUBT, "whether the transaction was committed is not known");
}

static bool is_for_another_try(int err)
{
    return err == CAIRN_E_CONFLICT || err == CAIRN_E_TX_TOO_LATE || err == CAIRN_E_TX_UNDECIDED ||
           err == CAIRN_E_TX_ABORTED;
}

/* It has only read, newest versions, and they didn't fit together: the next try reads what was so
 * at one time, which steady writers can't make invalid. */
static bool wants_one_time(const struct tx_set *set, int err)
{
    if (set->strict) {
        return !set->turned;
    }
    return err == CAIRN_E_CONFLICT && set->opts.isolation == CAIRN_SERIALIZABLE &&
           set->opts.read_at == 0 && set->reads > 0 && set->demands == 0 && !set->writes;
}

/* What the tries of a run know of each other. */
struct run {
    uint32_t tries;
    uint64_t deadline_ns; /* of all tries together */
    bool strict;          /* how the next try is to be */
    bool again;           /* should there be one? */
    uint64_t turn_at;     /* as in tx_set */
    bool turn_first;      /* to wait for before anything else */
};

/* An object that is read first is asked for together with the turn at it, but not in a snapshot. */
static void learn(struct run *run, const struct tx_set *set)
{
    bool helps = sdk__turn_conflict(set, last_conflict);
    run->turn_at = helps ? last_conflict : 0;
    run->turn_first = set->first_read != last_conflict || set->at != 0;
}

static int run_once(struct cairn_heap *heap, const cairn_tx_opts *opts, struct run *run,
                    cairn_tx_fn fn, void *arg)
{
    cairn_tx *tx = NULL;
    struct commit done;
    int rv = cairn_tx_begin(heap, opts, &tx);
    run->again = false;
    if (rv != 0) {
        return rv;
    }
    tx->set->deadline_ns = run->deadline_ns;
    tx->set->strict = run->strict;
    tx->set->tries = run->tries;
    tx->set->turn_at = run->turn_at;
    if (run->turn_at != 0 && run->turn_first) {
        (void)sdk__turn_wait(tx); /* what is wrong with it, fn will find out */
    }
    run->turn_at = 0;
    last_conflict = 0;
    rv = fn(tx, arg);
    bool runs = rv == 0;
    if (runs) {
        sdk__turn_end(tx->set);
        rv = commit(tx, &done);
    }
    if (runs && rv == CAIRN_E_INDOUBT) {
        rv = settle(heap->client, tx->set, &done);
    }
    if (runs && rv == CAIRN_E_CONFLICT) {
        learn(run, tx->set);
    }
    run->strict = wants_one_time(tx->set, rv);
    run->again = is_for_another_try(rv) || (rv == CAIRN_E_BUSY && tx->set->unfound);
    if (runs) { /* settled, perhaps: shards may have given pointers back themselves */
        end(tx->set, rv, done.several);
    } else {
        cairn_tx_abort(tx);
    }
    return rv;
}

#define TRIES_AT_ONCE 16u

int cairn_tx_run_opts(cairn_heap *heap, const cairn_tx_opts *opts, cairn_tx_fn fn, void *arg)
{
    cairn_tx *probe = NULL;
    if (fn == NULL) {
        return sdk__missing("fn");
    }
    int rv = cairn_tx_begin(heap, opts, &probe); /* whose deadline is that of the whole run */
    if (rv != 0) {
        return rv;
    }
    struct run run = {.deadline_ns = probe->set->deadline_ns};
    for (;; run.tries++) {
        rv = run_once(heap, opts, &run, fn, arg);
        uint64_t left_us = (uint64_t)sdk__tx_left_ms(probe->set) * 1000u;
        /* Who waits for a turn needn't wait before. */
        bool at_once = run.turn_at != 0 && run.tries < TRIES_AT_ONCE;
        uint64_t wait_us = at_once ? 0 : sdk__backoff_us(run.tries);
        if (!run.again || wait_us >= left_us) {
            break;
        }
        if (wait_us > 0) {
            sdk__pause_us(wait_us);
        }
    }
    sdk__tx_set_free(probe->set);
    return rv;
}

int cairn_tx_run(cairn_heap *heap, cairn_tx_fn fn, void *arg)
{
    return cairn_tx_run_opts(heap, NULL, fn, arg);
}
