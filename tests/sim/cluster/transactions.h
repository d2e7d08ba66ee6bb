/* Transactions of the simulated clients: lists that only grow, on all shards, as the checker in
 * tests/history wants them. */
#ifndef CAIRN_TESTS_SIM_TRANSACTIONS_H
#define CAIRN_TESTS_SIM_TRANSACTIONS_H

#include "client/core.h"
#include "sim/cluster/parts.h"
#include "sim/cluster/snapshots.h"

#define LISTS           6
#define LIST_VALUES_MAX 500u
#define LIST_BYTES      (8u + 8u * LIST_VALUES_MAX) /* how many, then they */
#define TX_KEYS_MAX     3

struct client_host;
struct cluster;
struct txn_history;

enum tx_step { TX_IDLE, TX_FINDING, TX_READING, TX_VALIDATING, TX_COMMITTING, TX_SETTLING };
struct tx_slot {
    struct client_host *client;
    struct core_call call;
    struct env_timer think;
    enum tx_step step;
    bool final;       /* reads every list once, one after another */
    bool at_snapshot; /* of that level; else serializable */
    bool at_one_time; /* all reads are as of a version that is found first */
    struct snapshot snapshot;
    bool append[TX_KEYS_MAX];
    uint32_t list[TX_KEYS_MAX];
    uint32_t count, at; /* keys; which one is being read, or which part validated */
    uint64_t version[TX_KEYS_MAX];
    uint64_t words[TX_KEYS_MAX][LIST_VALUES_MAX + 1];
    uint64_t value[TX_KEYS_MAX]; /* appended */
    struct tx_part parts[TX_KEYS_MAX];
    uint64_t tx_session, tx_seq, home_uid;
    uint32_t id; /* in the history */
    uint32_t settles;
    uint64_t called_ns;
    uint64_t asks; /* cluster_asks() when it was committed */
};

struct txn_history *transactions_new(void);
void transactions_free(struct cluster *c);
void transactions_go(struct client_host *client);
/* Client 0: every list once more, in a transaction each. */
void transactions_final(struct client_host *client);
bool transactions_idle(const struct client_host *client);
void transactions_stop(struct client_host *client);
/* Every transaction has what its level promises: strictly serializable, or a snapshot. */
void transactions_check(struct cluster *c);

#endif
