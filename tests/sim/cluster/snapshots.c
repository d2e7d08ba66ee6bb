#include "sim/cluster/snapshots.h"

#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "sim/cluster/cluster.h"

#define PAUSE_US 3000u

static void hold_all(struct snapshot *s);

static void again(struct env_timer *timer)
{
    hold_all(container_of(timer, struct snapshot, pause));
}

/* True: all of those that were sent side by side are answered. The first failure is kept. */
static bool all_answered(struct snapshot *s, const struct core_call *call)
{
    if (call->err != 0 && s->err == 0) {
        s->err = call->err;
        (void)snprintf(s->text, sizeof s->text, "%s", call->text);
    }
    return --s->out == 0;
}

static bool is_for_another_try(int err)
{
    return err == ERR_TX_UNDECIDED || err == ERR_SNAPSHOT_TOO_OLD || err == ERR_INVAL ||
           err == ERR_INDOUBT;
}

static void closed(struct core_call *call)
{
    struct snapshot *s = container_of(call, struct snapshot_call, call)->snapshot;
    if (!all_answered(s, call)) {
        return;
    }
    if (s->err == 0 || !is_for_another_try(s->err)) {
        s->cb(s, s->err);
    } else if (++s->tries == SNAPSHOT_TRIES) {
        s->cb(s, ERR_BUSY);
    } else {
        s->pause.cb = again;
        env_timer_start(s->client->env, &s->pause,
                        env_now_ns(s->client->env) + (uint64_t)PAUSE_US * s->tries * 1000);
    }
}

static void send(struct snapshot *s, uint32_t shard, int prepared, core_call_cb cb)
{
    struct core_call *call = &s->calls[shard].call;
    if (prepared != 0) {
        cluster_fail(s->client->cluster, "client %u: a snapshot was refused: %s: %s",
                     s->client->index, err_name(prepared), call->text);
        return;
    }
    call->cb = cb;
    core_call(s->client->core, call);
}

static void close_all(struct snapshot *s)
{
    struct core_heap *heap = s->client->heap;
    s->at = s->newest;
    s->out = core_heap_shards(heap);
    for (uint32_t i = 0; i < core_heap_shards(heap); i++) {
        struct snapshot_call *c = &s->calls[i];
        memset(&c->call, 0, sizeof c->call);
        send(s, i, core_prepare_tx_close(&c->call, heap, i, s->at, c->hold, TX_KEEP_MS), closed);
    }
}

static void hold_from(struct snapshot *s, uint32_t first, uint32_t end);

static void held(struct core_call *call)
{
    struct snapshot_call *c = container_of(call, struct snapshot_call, call);
    struct snapshot *s = c->snapshot;
    c->hold = call->value;
    s->newest = call->err == 0 && call->version > s->newest ? call->version : s->newest;
    if (!all_answered(s, call)) {
        return;
    }
    if (s->err != 0) {
        s->cb(s, s->err);
    } else if (s->held == core_heap_shards(s->client->heap)) {
        close_all(s);
    } else {
        hold_from(s, s->held, core_heap_shards(s->client->heap));
    }
}

static void hold_from(struct snapshot *s, uint32_t first, uint32_t end)
{
    struct core_heap *heap = s->client->heap;
    s->out = end - first;
    s->held = end;
    for (uint32_t i = first; i < end; i++) {
        struct snapshot_call *c = &s->calls[i];
        memset(&c->call, 0, sizeof c->call);
        c->snapshot = s;
        send(s, i, core_prepare_tx_hold(&c->call, heap, i, s->strict ? TX_HOLD_MS_MAX : 0), held);
    }
}

/* The first shard alone, as the SDK does it: it is where readers keep each other out, and not the
 * writers of all others meanwhile. */
static void hold_all(struct snapshot *s)
{
    uint32_t shards = core_heap_shards(s->client->heap);
    assert(shards <= SNAPSHOT_SHARDS_MAX);
    s->newest = 0;
    s->err = 0;
    hold_from(s, 0, s->strict ? 1 : shards);
}

void snapshot_find(struct snapshot *s, struct client_host *client, bool strict, snapshot_cb cb)
{
    s->client = client;
    s->strict = strict;
    s->cb = cb;
    s->tries = 0;
    s->text[0] = '\0';
    hold_all(s);
}

void snapshot_stop(struct snapshot *s)
{
    if (s->client != NULL) {
        env_timer_stop(s->client->env, &s->pause);
    }
}
