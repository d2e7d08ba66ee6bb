/* The transport entries of a real environment: listening, dialing, attaching. */
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/env_uv.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/tls_internal.h"

#define CROWDED_AGAIN_MS 1000u
#define BACKLOG          512
#define ACCEPTS_PER_TURN 32u
#define NO_MEMORY_MS     100u /* until a connection that found none is looked at again */

static struct tls *tls_of(struct env *env)
{
    return env_uv_transport(env);
}

/* "host:port", "[v6]:port", ":port". */
static int address_split(const char *address, char host[ADDRESS_BYTES_MAX + 1], char port[16])
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL || strlen(address) > ADDRESS_BYTES_MAX || strlen(colon + 1) == 0 ||
        strlen(colon + 1) > 5 || strspn(colon + 1, "0123456789") != strlen(colon + 1)) {
        return ERR_INVAL;
    }
    size_t len = (size_t)(colon - address);
    const char *from = address;
    if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
        from++;
        len -= 2;
    }
    memcpy(host, from, len);
    host[len] = '\0';
    (void)snprintf(port, 16, "%s", colon + 1);
    return 0;
}

static void address_print(const struct sockaddr *sa, char *out, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)sa;
        (void)uv_ip6_name(six, host, sizeof host);
        (void)snprintf(out, size, "[%s]:%u", host, ntohs(six->sin6_port));
    } else {
        const struct sockaddr_in *four = (const struct sockaddr_in *)sa;
        (void)uv_ip4_name(four, host, sizeof host);
        (void)snprintf(out, size, "%s:%u", host, ntohs(four->sin_port));
    }
}

/* ---- listening ----------------------------------------------------------------------------------
 */

/* Strangers who connect and say nothing mustn't keep out who has a certificate, and needs a few
 * milliseconds to show it: whoever has had the most time goes. Many may come in a second, and the
 * log has better uses for its room. */
static void end_oldest(struct tls *t)
{
    struct env_conn *oldest = list_entry(t->handshakes.next, struct env_conn, handshake_link);
    uint64_t now_ms = env_now_ms(t->env);
    t->crowded_count++;
    t->ended_count++;
    if (t->crowded_ms == 0 || now_ms - t->crowded_ms >= CROWDED_AGAIN_MS) {
        log_warn("tls", "too many connections that have not authenticated: the oldest are ended",
                 "at_most=%d ended=%llu peer=%s", HANDSHAKES_MAX,
                 (unsigned long long)t->crowded_count, oldest->peer.address);
        t->crowded_ms = now_ms;
        t->crowded_count = 0;
    }
    tls__stream_kill(oldest, ERR_BUSY, NULL);
}

static void on_connection(uv_stream_t *server, int status);

/* False: there is no memory for it, and it waits. */
static bool accept_one(struct env_listener *l)
{
    struct env_conn *c = tls__stream_new(l->tls, true);
    if (c == NULL) {
        log_warn("tls", "can't accept a connection", "cause=\"out of memory\"");
        return false;
    }
    int rv = uv_accept((uv_stream_t *)&l->tcp, (uv_stream_t *)&c->tcp);
    if (rv != 0) {
        log_warn("tls", "can't accept a connection", "cause=\"%s\"", uv_strerror(rv));
        tls__stream_kill(c, ERR_IO, NULL);
        (void)uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection); /* it may have been held */
        return true;
    }
    struct sockaddr_storage from = {0};
    int len = sizeof from;
    (void)uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&from, &len);
    address_print((const struct sockaddr *)&from, c->peer.address, sizeof c->peer.address);
    if (l->tls->handshake_count >= HANDSHAKES_MAX) {
        end_oldest(l->tls);
    }
    c->listener = l;
    l->tls->handshake_count++;
    list_push_back(&l->tls->handshakes, &c->handshake_link);
    tls__stream_start(c);
    return true;
}

/* libuv asks for one after the other until none is left: it goes on only behind uv_accept(). */
static void accept_or_hold(struct env_listener *l)
{
    uint32_t wait_ms = 0;
    l->held = l->accepted >= ACCEPTS_PER_TURN;
    if (!l->held) {
        l->accepted++;
        l->held = !accept_one(l);
        wait_ms = l->held ? NO_MEMORY_MS : 0;
    }
    if (l->again.slot == 0) {
        env_timer_start_in_ms(l->tls->env, &l->again, wait_ms);
    }
}

static void on_again(struct env_timer *timer)
{
    struct env_listener *l = container_of(timer, struct env_listener, again);
    l->accepted = 0;
    if (l->held) {
        accept_or_hold(l);
    }
}

/* Who connects without end mustn't keep the loop from its shards: so many in a turn. */
static void on_connection(uv_stream_t *server, int status)
{
    if (status < 0) {
        log_warn("tls", "can't accept a connection", "cause=\"%s\"", uv_strerror(status));
        return;
    }
    accept_or_hold(server->data);
}

static void on_listener_closed(uv_handle_t *handle)
{
    mem_free(handle->data);
}

static int listener_bind(struct env_listener *l, const char *host, const char *port, int *uv)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host[0] == '\0' ? "0.0.0.0" : host, port, &hints, &found) != 0) {
        *uv = UV_EAI_NONAME;
        return ERR_NOTFOUND;
    }
    *uv = uv_tcp_bind(&l->tcp, found->ai_addr, 0);
    freeaddrinfo(found);
    if (*uv == 0) {
        *uv = uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection);
    }
    if (*uv != 0) {
        return *uv == UV_EADDRINUSE ? ERR_LOCKED : err_from_errno(-*uv);
    }
    struct sockaddr_storage at = {0};
    int len = sizeof at;
    *uv = uv_tcp_getsockname(&l->tcp, (struct sockaddr *)&at, &len);
    l->port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                             : ((struct sockaddr_in *)&at)->sin_port);
    return 0;
}

static int tls_listen(struct env *env, const char *address, env_accept_cb cb, void *arg,
                      struct env_listener **out, struct err_text *e)
{
    struct tls *t = tls_of(env);
    char host[ADDRESS_BYTES_MAX + 1];
    char port[16];
    *out = NULL;
    if (address_split(address, host, port) != 0) {
        return err_set(e, ERR_INVAL, "can't listen on '%s': not of the form host:port", address);
    }
    if (t->self.role != ENV_ROLE_NODE) {
        return err_set(e, ERR_TLS, "can't listen on %s: %s is not a node's certificate", address,
                       t->cert_file);
    }
    struct env_listener *l = mem_zalloc(sizeof *l);
    if (l == NULL || uv_tcp_init(t->loop, &l->tcp) != 0) {
        mem_free(l);
        return err_set(e, ERR_NOMEM, "can't listen on %s: out of memory", address);
    }
    l->tls = t;
    l->cb = cb;
    l->arg = arg;
    l->again.cb = on_again;
    l->tcp.data = l;
    int uv = 0;
    int rv = listener_bind(l, host, port, &uv);
    if (rv != 0) {
        uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
        return err_set(e, rv, "can't listen on %s: %s", address, uv_strerror(uv));
    }
    t->listeners++;
    *out = l;
    return 0;
}

static void tls_listener_close(struct env_listener *l)
{
    list_for_each_safe (it, next, &l->tls->conns) {
        struct env_conn *c = list_entry(it, struct env_conn, link);
        if (c->listener == l) {
            tls__stream_kill(c, ERR_SHUTDOWN, NULL);
        }
    }
    l->tls->listeners--;
    env_timer_stop(l->tls->env, &l->again);
    uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
}

static int tls_listener_port(struct env_listener *l)
{
    return l->port;
}

static void tls_listener_stats(const struct env_listener *l, struct env_listener_stats *out)
{
    out->waiting = l->tls->handshake_count;
    out->ended = l->tls->ended_count;
}

/* ---- dialing ------------------------------------------------------------------------------------
 */

static void on_connected(uv_connect_t *connect, int status)
{
    struct env_conn *c = connect->handle->data;
    if (c->state == STREAM_DEAD) {
        return;
    }
    if (status == 0) {
        tls__stream_start(c);
        return;
    }
    (void)snprintf(c->cause, sizeof c->cause, "can't connect to %.127s: %s", c->peer.address,
                   uv_strerror(status));
    tls__dial_next(c);
}

static void on_redial(uv_handle_t *handle)
{
    struct env_conn *c = handle->data;
    if (c->state == STREAM_DEAD || uv_tcp_init(c->tls->loop, &c->tcp) != 0) {
        c->state = STREAM_DEAD;
        c->reason = c->reason != 0 ? c->reason : ERR_NOMEM;
        c->tcp_closed = true;
        env_timer_stop(c->tls->env, &c->timer);
        tls__stream_finish(c);
        return;
    }
    c->tcp.data = c;
    struct addrinfo *ai = c->dial->next;
    c->dial->next = ai->ai_next;
    int rv = uv_tcp_connect(&c->dial->connect, &c->tcp, ai->ai_addr, on_connected);
    if (rv != 0) {
        (void)snprintf(c->cause, sizeof c->cause, "can't connect to %.127s: %s", c->peer.address,
                       uv_strerror(rv));
        tls__dial_next(c);
    }
}

/* Each address needs a fresh socket, so the handle goes round through uv_close(). */
void tls__dial_next(struct env_conn *c)
{
    if (c->dial->next == NULL) {
        tls__stream_kill(c, ERR_NOCONN, NULL);
        return;
    }
    uv_close((uv_handle_t *)&c->tcp, on_redial);
}

static void on_resolved(uv_getaddrinfo_t *resolve, int status, struct addrinfo *found)
{
    struct env_conn *c = resolve->data;
    c->dial->resolving = false;
    c->dial->found = found;
    c->dial->next = found;
    if (c->state == STREAM_DEAD) {
        tls__stream_finish(c);
        return;
    }
    if (status != 0) {
        (void)snprintf(c->cause, sizeof c->cause, "can't resolve %.127s: %s", c->dial->host,
                       uv_strerror(status));
        tls__stream_kill(c, ERR_NOCONN, NULL);
        return;
    }
    tls__dial_next(c);
}

static int tls_connect(struct env *env, const char *address, enum env_role expected_role,
                       const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                       struct env_conn **out)
{
    struct tls *t = tls_of(env);
    *out = NULL;
    struct dial *d = mem_zalloc(sizeof *d);
    if (d == NULL) {
        return ERR_NOMEM;
    }
    if (address_split(address, d->host, d->port) != 0 || d->host[0] == '\0' ||
        (expected_name != NULL && strlen(expected_name) >= sizeof((*out)->expected_name))) {
        mem_free(d);
        return ERR_INVAL;
    }
    struct env_conn *c = tls__stream_new(t, false);
    if (c == NULL) {
        mem_free(d);
        return ERR_NOMEM;
    }
    c->dial = d;
    c->expected_role = expected_role;
    (void)snprintf(c->expected_name, sizeof c->expected_name, "%s",
                   expected_name != NULL ? expected_name : "");
    (void)snprintf(c->peer.address, sizeof c->peer.address, "%s", address);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    d->resolve.data = c;
    d->resolving = true;
    /* Numeric addresses go the same way: the resolver answers them without asking anybody. */
    int rv = uv_getaddrinfo(t->loop, &d->resolve, on_resolved, d->host, d->port, &hints);
    if (rv != 0) {
        d->resolving = false;
        tls__stream_kill(c, ERR_NOCONN, uv_strerror(rv)); /* cbs not set: nobody is told */
        return rv == UV_ENOMEM ? ERR_NOMEM : ERR_NOCONN;
    }
    c->cbs = cbs;
    c->arg = arg;
    env_timer_start_in_ms(env, &c->timer, TLS_HANDSHAKE_MS);
    *out = c;
    return 0;
}

/* ---- life ---------------------------------------------------------------------------------------
 */

void tls__free(struct tls *t)
{
    SSL_CTX_free(t->ctx);
    BIO_meth_free(t->bio);
    buf_close(&t->cipher);
    mem_free(t->ca_file);
    mem_free(t->cert_file);
    mem_free(t->key_file);
    mem_free(t);
}

int tls_attach(struct env *env, const struct tls_opts *opts, struct err_text *e)
{
    struct tls *t = mem_zalloc(sizeof *t);
    if (t == NULL) {
        return err_set(e, ERR_NOMEM, "out of memory for TLS");
    }
    t->env = env;
    t->loop = env_uv_loop(env);
    t->ca_file = mem_strdup(opts->ca_file);
    t->cert_file = mem_strdup(opts->cert_file);
    t->key_file = mem_strdup(opts->key_file);
    t->bio = tls__bio_method();
    t->flush.cb = tls__on_flush;
    list_init(&t->conns);
    list_init(&t->handshakes);
    list_init(&t->dirty);
    list_init(&t->resumed);
    int rv = ERR_NOMEM;
    if (t->ca_file == NULL || t->cert_file == NULL || t->key_file == NULL || t->bio == NULL) {
        (void)err_set(e, ERR_NOMEM, "out of memory for TLS");
    } else {
        rv = tls__context(t, &t->ctx, &t->self, &t->not_after, e);
    }
    if (rv != 0) {
        tls__free(t);
        return rv;
    }
    struct env_ops *ops = env_uv_ops(env);
    ops->listen = tls_listen;
    ops->listener_close = tls_listener_close;
    ops->listener_port = tls_listener_port;
    ops->listener_stats = tls_listener_stats;
    ops->connect = tls_connect;
    ops->conn_write = tls__conn_write;
    ops->conn_queued = tls__conn_queued;
    ops->conn_flush = tls__conn_flush;
    ops->conn_pause = tls__conn_pause;
    ops->conn_close = tls__conn_close;
    ops->conn_peer = tls__conn_peer;
    env_uv_set_transport(env, t);
    return 0;
}

int tls_reload(struct env *env, struct err_text *e)
{
    struct tls *t = tls_of(env);
    SSL_CTX *ctx = NULL;
    struct env_peer self = {.role = ENV_ROLE_NONE};
    int64_t not_after = 0;
    int rv = tls__context(t, &ctx, &self, &not_after, e);
    if (rv != 0) {
        return rv;
    }
    if (self.role != t->self.role || strcmp(self.name, t->self.name) != 0) {
        SSL_CTX_free(ctx);
        return err_set(e, ERR_TLS, "%s is now the certificate of '%s', not of '%s'", t->cert_file,
                       self.name, t->self.name);
    }
    SSL_CTX_free(t->ctx); /* connections hold references of their own */
    t->ctx = ctx;
    t->not_after = not_after;
    return 0;
}

int tls_self(struct env *env, struct env_peer *out, int64_t *not_after)
{
    struct tls *t = tls_of(env);
    if (t == NULL) {
        return ERR_UNSUPPORTED;
    }
    *out = t->self;
    if (not_after != NULL) {
        *not_after = t->not_after;
    }
    return 0;
}

uint64_t tls_secret(struct env *env)
{
    static const char purpose[] = "cairn: who wrote an image";
    const struct tls *t = tls_of(env);
    EVP_PKEY *key = t == NULL ? NULL : SSL_CTX_get0_privatekey(t->ctx);
    unsigned char *bytes = NULL;
    int len = key == NULL ? -1 : i2d_PrivateKey(key, &bytes);
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned int mac_len = 0;
    if (len > 0 && HMAC(EVP_sha256(), bytes, len, (const unsigned char *)purpose,
                        sizeof purpose - 1, mac, &mac_len) == NULL) {
        mac_len = 0;
    }
    OPENSSL_clear_free(bytes, len > 0 ? (size_t)len : 0);
    ERR_clear_error();
    return mac_len >= 8 ? load_u64(mac) : 0;
}

void tls_detach(struct env *env)
{
    struct tls *t = tls_of(env);
    assert(t->listeners == 0);
    env_uv_set_transport(env, NULL);
    t->detached = true;
    /* Refused connections, and those that their owners have closed, may still be saying goodbye.
     * Their handles end with the loop; who waits to be told hears of it now. */
    list_for_each_safe (it, next, &t->conns) {
        struct env_conn *c = list_entry(it, struct env_conn, link);
        const struct env_conn_cbs *cbs = c->cbs;
        assert(cbs == NULL || c->state == STREAM_DRAINING || c->state == STREAM_DEAD);
        c->cbs = NULL;
        tls__stream_kill(c, ERR_SHUTDOWN, NULL);
        if (cbs != NULL) {
            cbs->on_close(c->arg, c, c->reason, c->cause);
        }
    }
    if (list_empty(&t->conns)) {
        tls__free(t);
    }
}
