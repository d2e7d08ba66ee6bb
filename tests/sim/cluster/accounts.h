/* The bank of the simulated clients: accounts on all shards, transfers between any two of them, and
 * audits that read all and must see the same total whatever goes on. */
#ifndef CAIRN_TESTS_SIM_ACCOUNTS_H
#define CAIRN_TESTS_SIM_ACCOUNTS_H

#include "client/core.h"
#include "sim/cluster/parts.h"
#include "sim/cluster/snapshots.h"

#define ACCOUNTS         8u
#define ACCOUNT_BYTES    64u
#define ACCOUNT_START    100
#define ACCOUNTS_TOTAL   ((int64_t)ACCOUNTS * ACCOUNT_START)
#define ACCOUNT_PARTS    8u /* no fewer than a heap has shards */
#define ACCOUNT_ATTEMPTS 5u /* of the last audit */

struct client_host;
struct cluster;

enum account_job {
    ACCOUNTS_IDLE,
    ACCOUNTS_TRANSFER, /* two accounts are read and written */
    ACCOUNTS_AUDIT,    /* all are read, and validated to have been so at one time */
    ACCOUNTS_SNAPSHOT, /* all are read as of one version that was found for it */
    ACCOUNTS_STRICT,   /* the same, with the writers held off while it is found */
    ACCOUNTS_PAST      /* all are read as of a version that this client has seen somewhere */
};

struct account_slot;
struct account_read {
    struct core_call call;
    struct account_slot *slot;
};

struct account_slot {
    struct client_host *client;
    struct core_call call;               /* commit */
    struct account_read reads[ACCOUNTS]; /* side by side; and validations, one for each shard */
    struct env_timer think;
    enum account_job job;
    struct snapshot snapshot;
    bool final;   /* the last audit */
    bool commits; /* a transfer is on its way */
    uint32_t account[ACCOUNTS], count;
    int64_t balance[ACCOUNTS], amount;
    uint64_t version[ACCOUNTS];
    uint64_t at;   /* of when; 0: newest */
    uint64_t seen; /* newest version that was met since all accounts were; 0: they haven't been */
    uint32_t out, parts, attempts; /* calls that aren't answered yet; shards concerned */
    struct core_call *failed;      /* the first of them */
    struct tx_part part[ACCOUNT_PARTS];
    uint64_t home, called_ns;
    uint64_t asks; /* cluster_asks() then */
};

void accounts_go(struct client_host *client);
/* Client 0: the last audit. Nobody else does anything, so it needs no validation, which shards
 * whose clocks have jumped far apart couldn't give. */
void accounts_final(struct client_host *client);
bool accounts_idle(const struct client_host *client);
void accounts_stop(struct client_host *client);
void accounts_free(struct client_host *client);
/* There were audits, and all saw the total; or the cluster has failed. */
void accounts_check(struct cluster *c);

#endif
