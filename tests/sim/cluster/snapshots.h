/* One version for all shards, found as the SDK does it (ADR 0007 §8): TX_HOLD to all, TX_CLOSE to
 * all. */
#ifndef CAIRN_TESTS_SIM_SNAPSHOTS_H
#define CAIRN_TESTS_SIM_SNAPSHOTS_H

#include "client/core.h"

#define SNAPSHOT_SHARDS_MAX 8u
#define SNAPSHOT_TRIES      8u

struct client_host;
struct snapshot;
typedef void (*snapshot_cb)(struct snapshot *s, int err);

struct snapshot_call {
    struct core_call call;
    struct snapshot *snapshot;
    uint64_t hold;
};

/* Caller's memory, zeroed before the first use. */
struct snapshot {
    struct client_host *client;
    snapshot_cb cb;
    bool strict;
    struct snapshot_call calls[SNAPSHOT_SHARDS_MAX];
    struct env_timer pause;
    uint32_t out, tries, held;
    uint64_t at; /* what was found */
    uint64_t newest;
    int err;
    char text[CORE_TEXT_BYTES]; /* why not */
};

/* strict: above all that was answered before it, and in an order that agrees with real time. cb
 * comes once: 0, or why no version was found (BUSY: all tries were in vain). */
void snapshot_find(struct snapshot *s, struct client_host *client, bool strict, snapshot_cb cb);
void snapshot_stop(struct snapshot *s);

#endif
