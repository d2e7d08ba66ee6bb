/* What conn.c, server.c and link.c share. Nobody outside rpc/ includes this. */
#ifndef CAIRN_RPC_INTERNAL_H
#define CAIRN_RPC_INTERNAL_H

#include "rpc/rpc.h"

#define HELLO_TIMEOUT_MS 5000u
#define KEEPALIVE_MS     2000u /* of silence: then a PING goes out */
#define SILENCE_MAX_MS   6000u /* without a byte from the peer: closed */
/* The same between nodes on the raft lane: what was sent into a connection that has died is sent
 * again over the next one, and shards and transactions wait for that. */
#define RAFT_KEEPALIVE_MS   500u
#define RAFT_SILENCE_MAX_MS 2000u
#define INPUT_KEEP_BYTES    4096u /* an empty input buffer larger than this is freed */
#define RPC_CAUSE_BYTES     288u
#define LINK_BACKOFF_MS     50u
#define LINK_BACKOFF_MAX_MS 2000u
#define LINK_STABLE_MS      1000u /* up for this long: the backoff starts anew */

/* Moves: CONNECTING -> HELLO -> READY -> CLOSING, and from each straight to CLOSING. */
enum conn_state {
    CONN_CONNECTING, /* outgoing: no stream yet */
    CONN_HELLO,      /* outgoing: HELLO sent; incoming: waiting for it */
    CONN_READY,
    CONN_CLOSING, /* nothing is delivered any more but on_close */
};

struct rpc_conn {
    struct env *env;
    struct env_conn *stream;
    const struct rpc_identity *self;
    const struct rpc_cbs *cbs;
    void *arg;
    void *data;
    struct rpc_server *server; /* incoming only */
    struct list link;          /* in the server's list */
    enum conn_state state;
    enum rpc_lane lane;
    bool paused;        /* by the owner */
    bool stream_paused; /* the stream follows once the stash is delivered */
    bool stash;         /* `input` holds frames that came before a pause took effect */
    bool in_ready;      /* inside on_ready: what is sent now waits in `early` for HELLO_OK */
    struct buf input;   /* a frame that hasn't arrived completely, or the stash */
    struct buf early;
    struct env_timer timer;      /* hello, then keepalive */
    struct env_timer resume;     /* delivers the stash */
    uint64_t heard_ns;           /* when the last byte came */
    uint64_t pinged_ns;          /* when the last PING went */
    char cause[RPC_CAUSE_BYTES]; /* why we close, for on_close; "": the transport knows */
};

struct rpc_server {
    struct env *env;
    const struct rpc_identity *self;
    const struct rpc_cbs *cbs;
    void *arg;
    struct env_listener *listener; /* NULL once stopped */
    struct list conns;
    struct rpc_server_stats stats;
    struct env_timer closed; /* calls done */
    void (*done)(void *arg);
    void *done_arg;
    bool closing;
};

extern const struct env_conn_cbs rpc__stream_cbs;

/* A new incoming connection in state HELLO; NULL: out of memory. */
struct rpc_conn *rpc__conn_accept(struct rpc_server *server, struct env_conn *stream);
/* The owner wants no callback any more. */
void rpc__conn_orphan(struct rpc_conn *conn);
/* The server's bookkeeping when a connection is gone. */
void rpc__server_forget(struct rpc_server *server, struct rpc_conn *conn);
/* A peer's text made fit for a log line: what doesn't print becomes '?'. */
void rpc__text_copy(char *out, size_t size, struct slice text);

#endif
