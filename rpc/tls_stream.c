/* One TLS connection: OpenSSL between two buffers, libuv outside of them.
 *
 * In: the socket is read into one buffer shared by all connections; OpenSSL takes records out of it
 * through our BIO, and the plaintext of all complete records goes up in one call. Out: plaintext
 * gathers in `out` during a turn; at its end (env_defer) it is encrypted into one shared buffer, at
 * most 16 KiB a record, and offered to the socket by one uv_try_write(). Only what the socket
 * doesn't take is copied and waits for uv_write(). */
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/tls_internal.h"

/* ---- the BIO: reads what the socket gave, writes to the shared buffer ---------------------------
 */

static int bio_read(BIO *bio, char *out, size_t len, size_t *done)
{
    struct env_conn *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    size_t have = (size_t)(c->in_end - c->in_at);
    if (have == 0) {
        BIO_set_retry_read(bio);
        *done = 0;
        return 0;
    }
    size_t n = have < len ? have : len;
    memcpy(out, c->in_at, n);
    c->in_at += n;
    *done = n;
    return 1;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *done)
{
    struct env_conn *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (buf_append(&c->tls->cipher, data, len) != 0) {
        *done = 0;
        return 0; /* without a retry flag: the call fails, and with it the connection */
    }
    *done = len;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD *tls__bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cairn");
    if (m != NULL) {
        (void)BIO_meth_set_read_ex(m, bio_read);
        (void)BIO_meth_set_write_ex(m, bio_write);
        (void)BIO_meth_set_ctrl(m, bio_ctrl);
        (void)BIO_meth_set_create(m, bio_create);
    }
    return m;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

void tls__stream_finish(struct env_conn *c)
{
    if (!c->tcp_closed || (c->dial != NULL && c->dial->resolving)) {
        return;
    }
    struct tls *t = c->tls;
    list_remove(&c->link);
    bool last = t->detached && list_empty(&t->conns);
    if (c->cbs != NULL) {
        c->cbs->on_close(c->arg, c, c->reason, c->cause);
    }
    if (c->dial != NULL) {
        uv_freeaddrinfo(c->dial->found);
        mem_free(c->dial);
    }
    SSL_free(c->ssl);
    buf_close(&c->stash);
    buf_close(&c->out);
    buf_close(&c->wire);
    buf_close(&c->wire_next);
    mem_free(c);
    if (last) {
        tls__free(t);
    }
}

static void on_tcp_closed(uv_handle_t *handle)
{
    struct env_conn *c = handle->data;
    c->tcp_closed = true;
    tls__stream_finish(c);
}

static void handshake_over(struct env_conn *c)
{
    if (c->listener != NULL) {
        assert(c->tls->handshake_count > 0);
        c->tls->handshake_count--;
        list_remove(&c->handshake_link);
        c->listener = NULL;
    }
}

void tls__stream_kill(struct env_conn *c, int reason, const char *text)
{
    if (c->state == STREAM_DEAD) {
        return;
    }
    assert(reason < 0);
    bool dialing = c->state == STREAM_DIALING;
    if (c->state != STREAM_DRAINING) { /* else the reason is there */
        c->reason = reason;
        if (text != NULL || c->cause[0] == '\0') {
            (void)snprintf(c->cause, sizeof c->cause, "%s",
                           text != NULL ? text : err_text_of(reason));
        }
    }
    c->state = STREAM_DEAD;
    handshake_over(c);
    env_timer_stop(c->tls->env, &c->timer);
    list_remove(&c->dirty_link);
    list_remove(&c->resumed_link);
    if (dialing && c->dial != NULL && c->dial->resolving) {
        (void)uv_cancel((uv_req_t *)&c->dial->resolve);
    }
    if (!uv_is_closing((uv_handle_t *)&c->tcp)) { /* between two addresses it is */
        uv_close((uv_handle_t *)&c->tcp, on_tcp_closed);
    }
}

void tls__log_refusal(const struct env_conn *c, const char *cause)
{
    log_warn("tls", "refusing a connection", "peer=%s cause=\"%s\"", c->peer.address, cause);
}

static void mark_dirty(struct env_conn *c)
{
    if (list_empty(&c->dirty_link)) {
        list_push_back(&c->tls->dirty, &c->dirty_link);
        env_defer(c->tls->env, &c->tls->flush);
    }
}

static void read_start(struct env_conn *c);

/* Last bytes (an alert, an ERROR frame) go out, then FIN; the peer's FIN or a second ends it.
 * Reading on meanwhile keeps the kernel from answering late bytes with a reset, which would take
 * our last words with it. */
static void drain(struct env_conn *c, int reason, const char *text)
{
    assert(c->state == STREAM_HANDSHAKE || c->state == STREAM_OPEN);
    c->reason = reason;
    (void)snprintf(c->cause, sizeof c->cause, "%s", text);
    c->state = STREAM_DRAINING;
    handshake_over(c);
    buf_close(&c->stash);
    list_remove(&c->resumed_link);
    env_timer_start_in_ms(c->tls->env, &c->timer, TLS_LINGER_MS);
    read_start(c);
    if (c->state == STREAM_DRAINING) {
        mark_dirty(c);
    }
}

/* ---- writing ------------------------------------------------------------------------------------
 */

/* The socket takes nothing any more. What the peer said before it went (an alert) may still be
 * there to read, and says more than EPIPE does. */
static void write_failed(struct env_conn *c, int uv)
{
    if (c->broken || c->state == STREAM_DEAD) {
        return;
    }
    c->broken = true;
    buf_close(&c->out);
    c->out_at = 0;
    if (c->state != STREAM_DRAINING && c->cause[0] == '\0') {
        (void)snprintf(c->cause, sizeof c->cause, "%s", uv_strerror(uv));
    }
    env_timer_start_in_ms(c->tls->env, &c->timer, TLS_LINGER_MS);
    c->paused = false;
    if (c->stash.len > 0 && list_empty(&c->resumed_link)) {
        list_push_back(&c->tls->resumed, &c->resumed_link);
        env_defer(c->tls->env, &c->tls->flush);
    }
    read_start(c);
}

static void step(struct env_conn *c);
static void wire_write(struct env_conn *c);

static void on_written(uv_write_t *write, int status)
{
    struct env_conn *c = write->handle->data;
    c->writing = false;
    if (c->state == STREAM_DEAD) {
        return;
    }
    if (status < 0) {
        write_failed(c, status);
        return;
    }
    if (c->wire.capacity > TLS_KEEP_BYTES) {
        buf_close(&c->wire);
    } else {
        buf_clear(&c->wire);
    }
    if (c->wire_next.len > 0) {
        struct buf empty = c->wire;
        c->wire = c->wire_next;
        c->wire_next = empty;
        wire_write(c);
    } else {
        step(c);
    }
}

static void wire_write(struct env_conn *c)
{
    uv_buf_t b = uv_buf_init((char *)c->wire.data, (unsigned)c->wire.len);
    int rv = uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written);
    c->writing = rv == 0;
    if (rv != 0) {
        write_failed(c, rv);
    }
}

/* Hands what OpenSSL wrote to the socket. Follows every call of OpenSSL that may write. */
static void wire_send(struct env_conn *c)
{
    struct buf *cipher = &c->tls->cipher;
    if (cipher->len == 0) {
        return;
    }
    size_t sent = 0;
    if (c->broken || c->state == STREAM_DEAD) {
        buf_clear(cipher);
        return;
    }
    if (!c->writing) {
        uv_buf_t b = uv_buf_init((char *)cipher->data, (unsigned)cipher->len);
        int n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
        if (n < 0 && n != UV_EAGAIN) {
            buf_clear(cipher);
            write_failed(c, n);
            return;
        }
        sent = n > 0 ? (size_t)n : 0;
    }
    if (sent < cipher->len) {
        struct buf *wait = c->writing ? &c->wire_next : &c->wire;
        bool stray = c->writing && wait->len + cipher->len > TLS_STRAY_BYTES;
        if (stray || buf_append(wait, cipher->data + sent, cipher->len - sent) != 0) {
            buf_clear(cipher);
            tls__stream_kill(c, stray ? ERR_BUSY : ERR_NOMEM, NULL);
            return;
        }
        if (!c->writing) {
            wire_write(c);
        }
    }
    buf_clear(cipher);
}

static void tls_failed(struct env_conn *c);

static void flush_out(struct env_conn *c)
{
    while (!c->writing && c->out_at < c->out.len && !c->broken) {
        size_t left = c->out.len - c->out_at;
        size_t n = left < TLS_FLUSH_BYTES ? left : TLS_FLUSH_BYTES;
        size_t done = 0;
        if (SSL_write_ex(c->ssl, c->out.data + c->out_at, n, &done) != 1) {
            tls_failed(c);
            return;
        }
        c->out_at += done;
        wire_send(c);
        if (c->state == STREAM_DEAD) {
            return;
        }
    }
    if (c->out_at < c->out.len) {
        return;
    }
    c->out_at = 0;
    if (c->out.capacity > TLS_KEEP_BYTES) {
        buf_close(&c->out);
    } else {
        buf_clear(&c->out);
    }
}

static void on_shut(uv_shutdown_t *shut, int status)
{
    (void)shut;
    (void)status; /* the peer's FIN or the timer ends it in any case */
}

static void drain_step(struct env_conn *c)
{
    if (c->tls_sound) {
        flush_out(c);
    }
    if (c->state != STREAM_DRAINING || c->writing || c->fin) {
        return;
    }
    if (c->broken) {
        tls__stream_kill(c, c->reason, NULL);
        return;
    }
    if (c->tls_sound) {
        (void)SSL_shutdown(c->ssl); /* the close_notify alert; its answer is not awaited */
        ERR_clear_error();
        wire_send(c);
        if (c->state != STREAM_DRAINING) {
            return;
        }
    }
    c->fin = true;
    if (uv_shutdown(&c->shut, (uv_stream_t *)&c->tcp, on_shut) != 0) {
        tls__stream_kill(c, c->reason, NULL);
    }
}

static void step(struct env_conn *c)
{
    if (c->state == STREAM_DRAINING) {
        drain_step(c);
    } else if (c->state == STREAM_OPEN) {
        flush_out(c);
        if (c->state == STREAM_OPEN && c->above &&
            tls__conn_queued(c) <= CONN_QUEUE_BYTES_MAX / 4) {
            c->above = false;
            if (c->cbs->on_drain != NULL) {
                c->cbs->on_drain(c->arg, c);
            }
        }
    }
}

int tls__conn_write(struct env_conn *c, const struct slice *parts, size_t count)
{
    if (c->state != STREAM_OPEN) {
        return ERR_CLOSED;
    }
    if (c->broken) {
        return 0; /* lost on the way; on_close is near */
    }
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        len += parts[i].len;
    }
    size_t queued = tls__conn_queued(c);
    if (queued + len > CONN_QUEUE_BYTES_MAX) {
        return ERR_BUSY;
    }
    if (c->out_at > 0) { /* a partly sent rest: make room at its front */
        buf_consume(&c->out, c->out_at);
        c->out_at = 0;
    }
    uint8_t *at = len == 0 ? NULL : buf_extend(&c->out, len);
    if (at == NULL) {
        return len == 0 ? 0 : ERR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        if (parts[i].len > 0) {
            memcpy(at, parts[i].data, parts[i].len);
            at += parts[i].len;
        }
    }
    if (queued + len > CONN_QUEUE_BYTES_MAX / 4) {
        c->above = true;
    }
    if (!c->writing) { /* else its end goes on */
        mark_dirty(c);
    }
    return 0;
}

/* It stays in the list of the turn's end, which finds nothing to send then and does the rest. */
void tls__conn_flush(struct env_conn *c)
{
    assert(c->tls->cipher.len == 0); /* no call of OpenSSL is under way */
    if (c->state == STREAM_OPEN) {
        flush_out(c);
    }
}

size_t tls__conn_queued(const struct env_conn *c)
{
    return c->out.len - c->out_at + c->wire.len + c->wire_next.len;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

/* A call of OpenSSL failed for good: the alert it wrote goes out, then the end. */
static void tls_failed(struct env_conn *c)
{
    char cause[TLS_CAUSE_BYTES];
    bool ours = tls__cause_is_our_certificate();
    tls__cause(c, cause, sizeof cause);
    c->tls_sound = false;
    wire_send(c);
    if (c->state == STREAM_DEAD) {
        return;
    }
    if (c->incoming && c->cbs == NULL && c->state == STREAM_HANDSHAKE) {
        tls__log_refusal(c, cause);
    }
    if (c->state == STREAM_DRAINING) {
        tls__stream_kill(c, c->reason, NULL);
    } else {
        drain(c, ours && !c->incoming ? ERR_UNAUTHENTICATED : ERR_TLS, cause);
    }
}

static void established(struct env_conn *c)
{
    struct env_listener *l = c->listener;
    handshake_over(c);
    c->state = STREAM_OPEN;
    c->tls_sound = true;
    c->cause[0] = '\0';
    env_timer_stop(c->tls->env, &c->timer);
    if (!c->incoming) {
        c->cbs->on_open(c->arg, c);
        return;
    }
    const struct env_conn_cbs *cbs = NULL;
    void *arg = NULL;
    int rv = l->cb(l->arg, c, &c->peer, &cbs, &arg);
    if (rv != 0) {
        drain(c, rv, err_text_of(rv));
        return;
    }
    assert(cbs != NULL);
    c->cbs = cbs;
    c->arg = arg;
}

static void handshake(struct env_conn *c)
{
    int rv = SSL_do_handshake(c->ssl);
    if (rv == 1) {
        wire_send(c);
        if (c->state == STREAM_HANDSHAKE) {
            established(c);
        }
        return;
    }
    if (SSL_get_error(c->ssl, rv) == SSL_ERROR_WANT_READ) {
        wire_send(c);
        return;
    }
    tls_failed(c);
}

/* Decrypts all that is complete, up to a buffer's worth. Returns the bytes in tls->plain; *over: no
 * more now; *error: OpenSSL's, or SSL_ERROR_NONE. */
static size_t decrypt(struct env_conn *c, bool *over, int *error)
{
    struct tls *t = c->tls;
    size_t n = 0;
    *over = false;
    *error = SSL_ERROR_NONE;
    /* Whole records only: there is always room for one. */
    while (n <= TLS_INPUT_BYTES) {
        if (c->in_at == c->in_end && SSL_pending(c->ssl) == 0) {
            *over = true;
            break;
        }
        size_t done = 0;
        int rv = SSL_read_ex(c->ssl, t->plain + n, sizeof t->plain - n, &done);
        if (rv != 1) {
            *over = true;
            *error = SSL_get_error(c->ssl, rv);
            break;
        }
        n += done;
    }
    return n;
}

static void pump(struct env_conn *c)
{
    bool over = false;
    while (!over && c->state == STREAM_OPEN && !c->paused) {
        int error;
        size_t n = decrypt(c, &over, &error);
        if (n > 0) {
            c->cbs->on_data(c->arg, c, c->tls->plain, n);
        }
        if (error == SSL_ERROR_NONE || error == SSL_ERROR_WANT_READ) {
            continue;
        }
        if (error == SSL_ERROR_ZERO_RETURN) {
            if (c->state == STREAM_OPEN) {
                tls__stream_kill(c, ERR_CLOSED, "closed by the peer");
            }
            return;
        }
        if (c->state == STREAM_OPEN) {
            tls_failed(c);
        }
        ERR_clear_error();
        return;
    }
    if (c->tls->cipher.len > 0) { /* OpenSSL's own business while reading */
        wire_send(c);
    }
}

/* Gives `data` to the session: handshake, then records. What a pause leaves over is stashed. */
static void take_in(struct env_conn *c, const uint8_t *data, size_t len)
{
    c->in_at = data;
    c->in_end = data + len;
    if (c->state == STREAM_HANDSHAKE) {
        handshake(c);
    }
    if (c->state == STREAM_OPEN) {
        pump(c);
    }
    size_t left = (size_t)(c->in_end - c->in_at);
    const uint8_t *at = c->in_at;
    c->in_at = c->in_end = NULL;
    if (c->state == STREAM_OPEN && left > 0 && buf_append(&c->stash, at, left) != 0) {
        tls__stream_kill(c, ERR_NOMEM, NULL);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct env_conn *c = handle->data;
    (void)suggested;
    *out = uv_buf_init((char *)c->tls->input, sizeof c->tls->input);
}

static void on_end(struct env_conn *c, int uv)
{
    if (c->state == STREAM_HANDSHAKE && c->incoming) {
        if (SSL_get_state(c->ssl) == TLS_ST_BEFORE && uv == UV_EOF) {
            log_debug("tls", "connection closed before it began", "peer=%s", c->peer.address);
        } else {
            tls__log_refusal(c, "closed by the peer during the TLS handshake");
        }
    }
    if (c->state == STREAM_HANDSHAKE) {
        /* Who refuses our certificate says so in an alert. This may be a node that ends, or one
         * with too many at its door: to be tried again. */
        tls__stream_kill(c, ERR_NOCONN, "closed by the peer during the TLS handshake");
    } else if (uv == UV_EOF && !c->broken) {
        tls__stream_kill(c, ERR_CLOSED, "closed by the peer");
    } else {
        tls__stream_kill(c, ERR_NOCONN, c->cause[0] != '\0' ? NULL : uv_strerror(uv));
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct env_conn *c = stream->data;
    if (n == 0 || c->state == STREAM_DEAD) {
        return;
    }
    if (n < 0) {
        on_end(c, (int)n);
        return;
    }
    if (c->state == STREAM_HANDSHAKE || c->state == STREAM_OPEN) {
        if (c->stash.len > 0) { /* a resume waits for the end of the turn: keep the order */
            if (buf_append(&c->stash, b->base, (size_t)n) != 0) {
                tls__stream_kill(c, ERR_NOMEM, NULL);
            }
            return;
        }
        take_in(c, (const uint8_t *)b->base, (size_t)n);
    }
}

static void read_start(struct env_conn *c)
{
    if (c->reading) {
        return;
    }
    int rv = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    c->reading = rv == 0;
    if (rv != 0) {
        tls__stream_kill(c, ERR_NOCONN, uv_strerror(rv));
    }
}

void tls__conn_pause(struct env_conn *c, bool paused)
{
    if (c->state != STREAM_OPEN || c->paused == paused || c->broken) {
        return;
    }
    c->paused = paused;
    if (paused) {
        (void)uv_read_stop((uv_stream_t *)&c->tcp);
        c->reading = false;
        list_remove(&c->resumed_link);
    } else {
        list_push_back(&c->tls->resumed, &c->resumed_link);
        env_defer(c->tls->env, &c->tls->flush);
    }
}

static void resume(struct env_conn *c)
{
    struct buf stash = c->stash;
    buf_init(&c->stash);
    if (stash.len > 0) {
        take_in(c, stash.data, stash.len);
    }
    buf_close(&stash);
    if (c->state == STREAM_OPEN && !c->paused) {
        read_start(c);
    }
}

/* ---- the turn's end, timers, calls --------------------------------------------------------------
 */

/* libuv writes with a plain write(), and a peer that went away must not kill the process. Blocked
 * for the loop's own thread only: a library does not change what its program does with signals. */
static void sigpipe_block(struct tls *t)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    t->sigpipe_blocked = true;
}

void tls__on_flush(struct env_task *task)
{
    struct tls *t = container_of(task, struct tls, flush);
    while (!list_empty(&t->resumed)) {
        struct env_conn *c = list_entry(t->resumed.next, struct env_conn, resumed_link);
        list_remove(&c->resumed_link);
        resume(c);
    }
    while (!list_empty(&t->dirty)) {
        struct env_conn *c = list_entry(t->dirty.next, struct env_conn, dirty_link);
        list_remove(&c->dirty_link);
        step(c);
    }
}

static void on_timer(struct env_timer *timer)
{
    struct env_conn *c = container_of(timer, struct env_conn, timer);
    if (c->state == STREAM_DIALING) {
        tls__stream_kill(c, ERR_TIMEOUT, "no connection within 5 s");
    } else if (c->state == STREAM_HANDSHAKE) {
        if (c->incoming) {
            tls__log_refusal(c, "no TLS handshake within 5 s");
        }
        tls__stream_kill(c, ERR_TIMEOUT, "no TLS handshake within 5 s");
    } else {
        tls__stream_kill(c, ERR_NOCONN, NULL);
    }
}

void tls__conn_close(struct env_conn *c, int reason)
{
    if (c->state == STREAM_DRAINING || c->state == STREAM_DEAD) {
        return;
    }
    if (c->state == STREAM_OPEN && !c->broken) {
        drain(c, reason, err_text_of(reason));
    } else {
        tls__stream_kill(c, reason, err_text_of(reason));
    }
}

const struct env_peer *tls__conn_peer(const struct env_conn *c)
{
    return &c->peer;
}

/* ---- the beginning ------------------------------------------------------------------------------
 */

struct env_conn *tls__stream_new(struct tls *t, bool incoming)
{
    struct env_conn *c = mem_zalloc(sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    c->tls = t;
    c->incoming = incoming;
    c->timer.cb = on_timer;
    c->state = STREAM_DIALING;
    list_init(&c->dirty_link);
    list_init(&c->resumed_link);
    list_init(&c->handshake_link);
    if (uv_tcp_init(t->loop, &c->tcp) != 0) {
        mem_free(c);
        return NULL;
    }
    c->tcp.data = c;
    list_push_back(&t->conns, &c->link);
    return c;
}

void tls__stream_start(struct env_conn *c)
{
    struct tls *t = c->tls;
    if (!t->sigpipe_blocked) {
        sigpipe_block(t);
    }
    c->state = STREAM_HANDSHAKE;
    (void)uv_tcp_nodelay(&c->tcp, 1);
    c->ssl = SSL_new(t->ctx);
    BIO *bio = c->ssl == NULL ? NULL : BIO_new(t->bio);
    if (bio == NULL) {
        ERR_clear_error();
        tls__stream_kill(c, ERR_NOMEM, "out of memory for a TLS session");
        return;
    }
    BIO_set_data(bio, c);
    SSL_set_bio(c->ssl, bio, bio);
    (void)SSL_set_app_data(c->ssl, c);
    env_timer_start_in_ms(t->env, &c->timer, TLS_HANDSHAKE_MS);
    if (c->incoming) {
        SSL_set_accept_state(c->ssl);
    } else {
        SSL_set_connect_state(c->ssl);
        handshake(c);
    }
    if (c->state == STREAM_HANDSHAKE) {
        read_start(c);
    }
}
