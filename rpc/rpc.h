/* Framed connections over the environment's transport: hello, keepalive, limits, backpressure,
 * reconnecting links.
 *
 * All calls on the reactor's thread; no callback runs from inside a call on the same connection.
 * Frame header, 32 bytes, little-endian: body length u32, kind u16, flags u16, request id u64,
 * deadline ms u32 (relative, 0 none), reserved u32 (0), trace id u64. Limits are checked before
 * anything is allocated. */
#ifndef CAIRN_RPC_RPC_H
#define CAIRN_RPC_RPC_H

#include "base/env.h"
#include "base/limits.h"
#include "rpc/message.h"

#define RPC_WIRE_MAJOR     2u
#define RPC_WIRE_MINOR     0
#define FRAME_HEADER_BYTES 32u
#define RPC_PARTS_MAX      32u           /* slices of one rpc_send() */
#define RPC_SOFTWARE       "cairn 0.1.0" /* said in HELLO, for the peer's log */

struct frame_header {
    uint32_t length;
    uint16_t kind;
    uint16_t flags; /* 0 now */
    uint64_t request_id;
    uint32_t deadline_ms;
    uint64_t trace_id;
};

enum rpc_lane { RPC_LANE_CLIENT, RPC_LANE_RAFT, RPC_LANE_BULK };

/* What this process says of itself in HELLO / HELLO_OK; borrowed for the life of the rpc objects,
 * may change. */
struct rpc_identity {
    char name[64];
    uint64_t cluster_id; /* 0: not known yet */
    uint64_t node_uid;   /* 0: a user */
    uint8_t node_state;
    uint32_t engine; /* 0: a user */
    struct slice roster;
};

struct rpc_conn;

struct rpc_cbs {
    /* The hello exchange is done; `peer` as verified by certificate, `hello` (incoming) or `ok`
     * (outgoing) borrowed for the call, the other NULL. Returning non-zero refuses: ERROR{code,
     * text} is sent and the connection closed. */
    int (*on_ready)(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e);
    /* One frame; body borrowed for the call. PING/PONG/HELLO are handled inside. */
    void (*on_frame)(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body);
    void (*on_drain)(void *arg, struct rpc_conn *conn); /* may be NULL */
    /* Last callback; conn is gone afterwards. */
    void (*on_close)(void *arg, struct rpc_conn *conn, int reason, const char *text);
};

/* ---- connections
 * --------------------------------------------------------------------------------------------------
 */

/* Starts an outgoing connection. expected_name NULL: any node. */
int rpc_connect(struct env *env, const char *address, const char *expected_name, enum rpc_lane lane,
                const struct rpc_identity *self, const struct rpc_cbs *cbs, void *arg,
                struct rpc_conn **out);
/* Queues one frame: header (length is computed), then at most RPC_PARTS_MAX parts. 0, ERR_BUSY
 * (queue full), ERR_TOOBIG, ERR_NOMEM, ERR_CLOSED (not ready, or closing). Parts are copied before
 * return. An incoming connection that can't take a frame for want of room or memory is closed: its
 * client would wait for that answer. */
int rpc_send(struct rpc_conn *conn, const struct frame_header *header, const struct slice *parts,
             size_t count);
/* ERROR{-err, text} for a request. */
int rpc_send_error(struct rpc_conn *conn, uint64_t request_id, int err, uint64_t uid,
                   uint32_t leader_node, uint32_t retry_after_ms, const char *text);
/* What was sent leaves now and not at the end of the turn. From a task only. */
void rpc_flush(struct rpc_conn *conn);
void rpc_close(struct rpc_conn *conn, int reason);
const struct env_peer *rpc_peer(const struct rpc_conn *conn);
enum rpc_lane rpc_conn_lane(const struct rpc_conn *conn);
size_t rpc_queued(const struct rpc_conn *conn);
void rpc_pause(struct rpc_conn *conn, bool paused);
void rpc_set_data(struct rpc_conn *conn, void *data); /* the owner's */
void *rpc_data(const struct rpc_conn *conn);

/* ---- server
 * -------------------------------------------------------------------------------------------------------
 */

struct rpc_server;
struct rpc_server_stats {
    uint64_t accepted, refused, open, frames_in, frames_out, bytes_in, bytes_out, protocol_errors;
    uint64_t handshakes;       /* under way: nobody knows yet who that is */
    uint64_t handshakes_ended; /* before they were over, for newer ones to have their place */
};
/* Accepts connections on all lanes; the RAFT and BULK lanes are refused to users. cbs/arg as above,
 * for every accepted connection. */
int rpc_server_open(struct env *env, const char *address, const struct rpc_identity *self,
                    const struct rpc_cbs *cbs, void *arg, struct rpc_server **out,
                    struct err_text *e);
int rpc_server_port(const struct rpc_server *server);
void rpc_server_stats(const struct rpc_server *server, struct rpc_server_stats *out);
/* Stops listening; connections stay. */
void rpc_server_stop(struct rpc_server *server);
/* Closes all connections, then calls done in a later turn. Frees. */
void rpc_server_close(struct rpc_server *server, void (*done)(void *arg), void *arg);
void rpc_server_each(struct rpc_server *server, void (*cb)(void *arg, struct rpc_conn *conn),
                     void *arg);

/* ---- links: an outgoing connection that is kept up
 * ----------------------------------------------------------------- */

struct rpc_link;
/* Connects, and reconnects with exponential backoff (50 ms .. 2 s) and jitter, until closed. cbs
 * are those of each connection in turn; on_close comes for attempts that failed before on_ready,
 * too. Strings are copied. */
int rpc_link_open(struct env *env, const char *address, const char *expected_name,
                  enum rpc_lane lane, const struct rpc_identity *self, const struct rpc_cbs *cbs,
                  void *arg, struct rpc_link **out);
struct rpc_conn *rpc_link_conn(struct rpc_link *link); /* NULL while not ready */
void rpc_link_close(struct rpc_link *link);            /* no callback afterwards */

#endif
