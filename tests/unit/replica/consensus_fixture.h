/* One replica under test, id 1; the others (2, 3, ...) are played by the test. Functions abort the
 * test on surprise. */
#ifndef CAIRN_TESTS_UNIT_REPLICA_CONSENSUS_FIXTURE_H
#define CAIRN_TESTS_UNIT_REPLICA_CONSENSUS_FIXTURE_H

#include "support/test.h"

#include "base/err.h"
#include "base/mem.h"
#include "replica/consensus.h"

#define ELECTION_MS  100
#define HEARTBEAT_MS 20

struct fixture {
    struct consensus *c;
    struct consensus_update *u; /* of the last call that succeeded */
    uint64_t now;
    struct consensus_config config;
    struct wal_entry
        log[64]; /* what the replica started with and was told to store since; [0] is index 1 */
    uint64_t first, last; /* indexes held; the log is empty when last < first */
    struct buf config_bytes;
};

/* Blocks handed out by block() and not yet released. */
extern size_t blocks_alive;
struct wal_block *block(const char *text, struct slice *out);
struct wal_entry entry(uint64_t term, const char *text); /* a command, with one reference */
struct wal_entry change_entry(uint64_t term, const struct consensus_config *config);

/* voters 1..n, then standbys up to `servers` */
struct consensus_config config_of(uint32_t voters, uint32_t servers);

/* Opens with voters 1..n at term 1 and a log of `entries` entries: the configuration and commands
 * of term 1. */
void fixture_open(struct fixture *f, uint32_t voters, uint64_t entries);
void fixture_open_config(struct fixture *f, struct consensus_config config, uint64_t entries);
void fixture_open_empty(struct fixture *f);
void fixture_close(struct fixture *f); /* and nothing is left */

int receive(struct fixture *f,
            struct consensus_message m); /* takes over the entries' references; keeps the log */
void must_receive(struct fixture *f, struct consensus_message m);
void tick(struct fixture *f, uint64_t ms);
void persist(struct fixture *f); /* all that was to be stored */
int submit(struct fixture *f, const char *text);
/* The only message in the last update of this type (to anyone), or NULL. */
const struct consensus_message *sent(const struct fixture *f, enum consensus_message_type type);
const struct consensus_message *sent_to(const struct fixture *f, enum consensus_message_type type,
                                        uint64_t to);

/* Makes it leader by the votes of replica 2 (and 3 with five voters), which also match its log up
 * to an entry of its own term, so that this is committed. The others were not heard of. */
void become_leader(struct fixture *f);

struct consensus_message append(const struct fixture *f, uint64_t from, uint64_t term,
                                uint64_t index, uint64_t log_term, uint64_t commit);
struct consensus_message append_result(const struct fixture *f, uint64_t from, uint64_t index,
                                       uint64_t rejected);

#endif
