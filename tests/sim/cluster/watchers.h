/* Watches of the simulated clients: what each has seen of an object or a name must be every change
 * of it, once and in order, up to the last one; and each must begin with the bytes (or the pointer)
 * that the one before has left, the last one with what is there in the end. */
#ifndef CAIRN_TESTS_SIM_WATCHERS_H
#define CAIRN_TESTS_SIM_WATCHERS_H

#include "client/core.h"
#include "client/watch_reader.h"

#define WATCH_SHARDS     4
#define WATCH_SEEN_MAX   64
#define WATCH_NAME_MAX   16
#define WATCH_SEEN_BYTES 64 /* of an object, that are followed: bits of `known` */

struct client_host;
struct cluster;

struct watch_seen {
    uint64_t ptr; /* 0: a name */
    char name[WATCH_NAME_MAX];
    uint64_t version;
    uint64_t to;    /* a name: where it leads */
    uint64_t known; /* bytes of an object, of which changes have said what they are */
    uint8_t bytes[WATCH_SEEN_BYTES];
};
struct watcher;
struct watch_call {
    struct watcher *watcher;
    struct core_call call;
};
struct watcher {
    struct client_host *client;
    struct watch_reader *reader; /* NULL: to be opened */
    struct watch_call calls[WATCH_SHARDS];
    bool running[WATCH_SHARDS];
    bool renewing; /* it goes on from its token as another would, when the calls have ended */
    bool stopped;
    struct env_timer tick;
    uint64_t order[WATCH_SHARDS];
    struct watch_seen seen[WATCH_SEEN_MAX];
    uint32_t seen_count;
};

void watchers_go(struct client_host *client);
void watchers_stop(struct client_host *client);
void watchers_free(struct client_host *client);
/* After the last write: waits until all has been seen, or the cluster has failed. */
void watchers_check(struct cluster *c);

#endif
