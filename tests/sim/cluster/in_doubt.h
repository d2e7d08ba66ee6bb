/* Rule: a transaction is decided within 5 s, once all nodes are up, the network is whole and every
 * shard has a leader. Looked after every 50 ms of virtual time, on the shards' leaders, from the
 * beginning to the end. */
#ifndef CAIRN_TESTS_SIM_IN_DOUBT_H
#define CAIRN_TESTS_SIM_IN_DOUBT_H

#include <stdbool.h>
#include <stdint.h>

#define IN_DOUBT_MAX 512u /* watched at once; more wait for their turn */

struct cluster;

struct in_doubt_record {
    uint64_t uid;                /* the shard */
    uint64_t home, session, seq; /* its name */
    uint64_t since_ns;           /* seen first, by the world's clock: no node's clock is believed */
    bool there;
};

struct in_doubt {
    struct in_doubt_record records[IN_DOUBT_MAX];
    uint32_t count;
    uint64_t healed_ns; /* since when there is no excuse; 0: there is one */
    uint64_t longest_ns;
};

void in_doubt_start(struct cluster *c);

#endif
