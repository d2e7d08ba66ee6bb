/* An environment whose time is set by hand and whose connections are pairs of pipes in memory:
 * enough for rpc/ to run in, with every event under the test's control. Nothing happens but inside
 * fake_step() and fake_run(). */
#ifndef CAIRN_TESTS_RPC_FAKE_ENV_H
#define CAIRN_TESTS_RPC_FAKE_ENV_H

#include "base/env.h"

#define FAKE_TIMERS_MAX 64

struct fake_env {
    struct env env; /* first */
    uint64_t now_ns;
    uint64_t random;
    struct env_timer *timers[FAKE_TIMERS_MAX];
    size_t timer_count;
    struct list conns;
    struct env_listener *listener;
    struct env_peer server_peer; /* what a connecting side sees */
    struct env_peer client_peer; /* what the accepting side sees */
    size_t chunk_max;            /* bytes delivered at once; 0: all there are */
    bool connect_fails;          /* the next connections end with NOCONN */
    bool connect_hangs;          /* the next connections never open, and nothing tells */
    bool write_fails;            /* conn_write answers BUSY */
};

void fake_env_open(struct fake_env *f);
/* All connections are closed by their owners before. */
void fake_env_close(struct fake_env *f);
/* Delivers what is under way once; false: nothing was. */
bool fake_step(struct fake_env *f);
/* Steps until nothing is under way, then lets `ms` pass, firing timers in order, with steps between
 * them. */
void fake_run(struct fake_env *f, uint64_t ms);

/* A raw peer of the listener: the test itself speaks. NULL: refused. Its bytes are taken by the
 * next steps. */
struct env_conn *fake_raw(struct fake_env *f);
void fake_raw_send(struct env_conn *raw, const void *data, size_t len);
/* What the other side sent so far; borrowed. */
struct slice fake_raw_received(const struct env_conn *raw);
bool fake_raw_closed(const struct env_conn *raw); /* by the other side */
void fake_raw_close(struct env_conn *raw);        /* frees it */

#endif
