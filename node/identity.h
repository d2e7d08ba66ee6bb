/* Who this data directory is: written once when the node is fresh, once more when it becomes a
 * member (E6).
 *
 * A random node_uid tells a disk from its predecessor: a node that lost its disk has another uid
 * and must ask for a new replica id. The roster (the founding members' uids) decides who may be
 * born with the cluster. File: "identity" in the data directory, replaced atomically; format in
 * identity.c. */
#ifndef CAIRN_NODE_IDENTITY_H
#define CAIRN_NODE_IDENTITY_H

#include "base/env.h"
#include "base/limits.h"

enum identity_state { IDENTITY_FRESH = 0, IDENTITY_MEMBER = 1 };

struct roster {
    uint32_t count;
    struct {
        uint32_t number;
        uint64_t node_uid;
    } nodes[NODES_MAX];
};
#define ROSTER_BYTES_MAX (4 + 12 * NODES_MAX)

struct identity {
    enum identity_state state;
    uint32_t number;     /* of the node, as configured when the file was made */
    uint64_t node_uid;   /* never 0 */
    uint64_t cluster_id; /* 0 while fresh */
    uint64_t replica_id; /* 0 while fresh */
    bool founding;       /* replica_id is the one given by the roster */
    struct roster roster;
};

/* ERR_NOTFOUND, ERR_CORRUPT, ERR_VERSION, ERR_IO, ... with a text. */
int identity_load(struct env *env, const char *dir, struct identity *out, struct err_text *e);
/* Durable when it returns 0. */
int identity_store(struct env *env, const char *dir, const struct identity *identity,
                   struct err_text *e);

/* As in HELLO_OK. */
size_t roster_encode(const struct roster *roster, uint8_t out[ROSTER_BYTES_MAX]);
int roster_decode(struct slice bytes, struct roster *out); /* ERR_PROTOCOL */
/* 0 if the number isn't in it. */
uint64_t roster_uid(const struct roster *roster, uint32_t number);
/* The id that all founding members compute: from the cluster's name and the roster in order of
 * numbers. Never 0. */
uint64_t roster_cluster_id(const struct roster *roster, const char *cluster_name);

#endif
