/* What tls.c (transport), tls_stream.c (one connection) and tls_cert.c (certificates) share. Nobody
 * else includes this. */
#ifndef CAIRN_RPC_TLS_INTERNAL_H
#define CAIRN_RPC_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <uv.h>

#include "base/env.h"
#include "base/limits.h"
#include "rpc/tls.h"

#define TLS_HANDSHAKE_MS 5000u
#define TLS_LINGER_MS    1000u /* how long a closing connection may take to say its last bytes */
#define TLS_INPUT_BYTES  (64u << 10) /* read from a socket at once */
#define TLS_RECORD_BYTES (16u << 10) /* plaintext of one record at most */
#define TLS_FLUSH_BYTES                                                                            \
    (256u << 10)                    /* plaintext encrypted before the socket is asked to take it   \
                                     */
#define TLS_KEEP_BYTES  (16u << 10) /* an empty output buffer larger than this is freed */
#define TLS_STRAY_BYTES (64u << 10) /* handshake output waiting for a socket that takes nothing */
#define TLS_CAUSE_BYTES 320u

struct tls {
    struct env *env;
    uv_loop_t *loop;
    char *ca_file;
    char *cert_file;
    char *key_file;
    SSL_CTX *ctx; /* for both directions */
    struct env_peer self;
    int64_t not_after;
    BIO_METHOD *bio;
    struct list conns;
    struct list dirty;   /* connections with something to send, or to close */
    struct list resumed; /* connections whose reader came back */
    struct env_task flush;
    size_t listeners;
    struct list handshakes; /* incoming, not yet authenticated, oldest first */
    size_t handshake_count;
    uint64_t crowded_ms;    /* when that there are too many was said last; 0: never */
    uint64_t crowded_count; /* ended for it since */
    uint64_t ended_count;   /* ever */
    bool sigpipe_blocked;
    bool detached;     /* goes with the last refused connection */
    struct buf cipher; /* what the OpenSSL call under way wrote */
    uint8_t input[TLS_INPUT_BYTES];
    uint8_t plain[TLS_INPUT_BYTES + TLS_RECORD_BYTES];
};

struct env_listener {
    uv_tcp_t tcp;
    struct tls *tls;
    env_accept_cb cb;
    void *arg;
    int port;
    uint32_t accepted;      /* in this turn */
    bool held;              /* one more is there, and it and what is behind it wait */
    struct env_timer again; /* the next turn has begun; or, without memory, a moment has passed */
};

/* Moves: DIALING -> HANDSHAKE -> OPEN -> DRAINING -> DEAD; HANDSHAKE -> DRAINING when it fails; any
 * -> DEAD. */
enum stream_state {
    STREAM_DIALING,
    STREAM_HANDSHAKE,
    STREAM_OPEN,
    STREAM_DRAINING, /* last bytes go out; what comes in is thrown away */
    STREAM_DEAD,     /* uv_close() was called */
};

/* An outgoing connection until it is connected. */
struct dial {
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    struct addrinfo *found;
    struct addrinfo *next; /* to try */
    bool resolving;
    char host[ADDRESS_BYTES_MAX + 1];
    char port[16];
};

struct env_conn {
    uv_tcp_t tcp;
    struct tls *tls;
    SSL *ssl;
    struct list link;
    struct list dirty_link;
    struct list resumed_link;
    const struct env_conn_cbs *cbs; /* NULL: incoming, not accepted */
    void *arg;
    struct env_listener *listener; /* incoming, until accepted */
    struct list handshake_link;    /* so long, too */
    struct dial *dial;             /* outgoing, until connected */
    enum stream_state state;
    enum env_role expected_role;
    bool incoming;
    bool paused;
    bool reading;
    bool writing;   /* uv_write() of `wire` is under way */
    bool above;     /* more than a quarter of the queue's limit was queued */
    bool broken;    /* the socket takes nothing any more; what it still holds for us is read */
    bool tls_sound; /* the session can still be used to say goodbye */
    bool fin;       /* uv_shutdown() was called */
    bool tcp_closed;
    const uint8_t *in_at; /* ciphertext for OpenSSL to read */
    const uint8_t *in_end;
    struct buf stash; /* ciphertext left over when the reader paused */
    struct buf out;   /* plaintext; sent up to out_at */
    size_t out_at;
    struct buf wire;      /* ciphertext the socket didn't take at once */
    struct buf wire_next; /* more of it while `wire` is under way */
    uv_write_t write;
    uv_shutdown_t shut;
    struct env_timer timer;
    int reason;
    char expected_name[64]; /* "": any */
    struct env_peer peer;
    char cause[TLS_CAUSE_BYTES];
};

/* tls_cert.c */
/* A context from the files, and who we are. */
int tls__context(struct tls *t, SSL_CTX **ctx, struct env_peer *self, int64_t *not_after,
                 struct err_text *e);
/* The text for the error that OpenSSL's last call left on this thread's queue; empties the queue.
 */
void tls__cause(struct env_conn *c, char *out, size_t size);
/* True if that error is the peer's word that it refuses our certificate. Doesn't empty the queue.
 */
bool tls__cause_is_our_certificate(void);

/* tls_stream.c */
BIO_METHOD *tls__bio_method(void);
struct env_conn *tls__stream_new(struct tls *t, bool incoming);
/* Connected: starts the handshake. */
void tls__stream_start(struct env_conn *c);
/* Closes at once; on_close follows. text NULL: the code's. The first text stays. */
void tls__stream_kill(struct env_conn *c, int reason, const char *text);
/* One line in the log about a connection that was not accepted. */
void tls__log_refusal(const struct env_conn *c, const char *cause);
void tls__free(struct tls *t);
/* tls.c: TCP is closed while dialing: try the next address. */
void tls__dial_next(struct env_conn *c);

void tls__on_flush(struct env_task *task);
int tls__conn_write(struct env_conn *c, const struct slice *parts, size_t count);
size_t tls__conn_queued(const struct env_conn *c);
void tls__conn_flush(struct env_conn *c);
void tls__conn_pause(struct env_conn *c, bool paused);
void tls__conn_close(struct env_conn *c, int reason);
const struct env_peer *tls__conn_peer(const struct env_conn *c);
/* Frees when nothing of libuv is under way any more. */
void tls__stream_finish(struct env_conn *c);

#endif
