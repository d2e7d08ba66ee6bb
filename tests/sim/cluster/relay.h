/* One client writes words one after another, each when the one before is answered: word n goes to
 * shard n modulo the number of shards, every few of them to two shards at once. So whoever reads
 * all words as of one time, in an order that agrees with real time, sees what is there after some n
 * writes and before the next, and not fewer than were answered before it began. Nobody else writes
 * these words: a write that is refused was refused because of a reader. */
#ifndef CAIRN_TESTS_SIM_RELAY_H
#define CAIRN_TESTS_SIM_RELAY_H

#include "client/core.h"
#include "sim/cluster/parts.h"
#include "sim/cluster/snapshots.h"

#define RELAYS      3u /* clients that have one */
#define RELAY_WORDS 4u /* as many as there may be shards */

struct client_host;
struct cluster;
struct relay;

struct relay_read {
    struct core_call call;
    struct relay *relay;
};

enum relay_look { RELAY_REST, RELAY_FIND, RELAY_READ, RELAY_VALIDATE };

struct relay {
    struct client_host *client;
    /* The writer. */
    struct core_call write;
    struct env_timer pause;
    struct tx_part part[2], check;
    uint64_t version[RELAY_WORDS];
    uint64_t home;
    uint64_t word;        /* that is written, or was read to learn its version */
    uint64_t begun, done; /* writes */
    uint64_t asks, called_ns;
    bool writing; /* or learning */
    bool known;   /* the versions of all words */
    bool unsure;  /* whether write `begun` has happened */
    uint32_t learned;
    /* The reader of the same words. */
    enum relay_look look;
    bool strict;
    struct env_timer think;
    struct snapshot snapshot;
    struct relay_read reads[RELAY_WORDS];
    uint64_t seen[RELAY_WORDS], seen_version[RELAY_WORDS];
    uint64_t floor; /* writes that were answered when it began */
    uint32_t out;
    const struct core_call *failed;
    uint64_t look_ns;
};

/* The write of the relay's word at ptr that follows another; 0: that is no such word. */
uint64_t relay_write_after(const struct cluster *c, uint64_t ptr, uint64_t write);
void relay_go(struct client_host *client);
bool relay_idle(const struct client_host *client);
void relay_stop(struct client_host *client);
void relay_free(struct client_host *client);

#endif
