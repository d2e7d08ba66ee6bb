#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/internal.h"

static int on_accept(void *arg, struct env_conn *stream, const struct env_peer *peer,
                     const struct env_conn_cbs **cbs, void **cb_arg)
{
    struct rpc_server *s = arg;
    int rv = 0;
    struct rpc_conn *c = NULL;
    if (s->closing) {
        rv = ERR_SHUTDOWN;
    } else if (s->stats.open >= CONNECTIONS_MAX) {
        rv = ERR_BUSY;
    } else {
        c = rpc__conn_accept(s, stream);
        rv = c == NULL ? ERR_NOMEM : 0;
    }
    if (rv != 0) {
        s->stats.refused++;
        log_warn("rpc", "refusing a connection", "peer=%s name=%s error=%s open=%llu limit=%d",
                 peer->address, peer->name, err_name(rv), (unsigned long long)s->stats.open,
                 CONNECTIONS_MAX);
        return rv;
    }
    list_push_back(&s->conns, &c->link);
    s->stats.accepted++;
    s->stats.open++;
    *cbs = &rpc__stream_cbs;
    *cb_arg = c;
    return 0;
}

static void on_closed(struct env_timer *timer)
{
    struct rpc_server *s = container_of(timer, struct rpc_server, closed);
    void (*done)(void *arg) = s->done;
    void *arg = s->done_arg;
    assert(list_empty(&s->conns));
    mem_free(s);
    if (done != NULL) {
        done(arg);
    }
}

void rpc__server_forget(struct rpc_server *s, struct rpc_conn *c)
{
    list_remove(&c->link);
    assert(s->stats.open > 0);
    s->stats.open--;
    if (s->closing && list_empty(&s->conns)) {
        env_timer_start(s->env, &s->closed, env_now_ns(s->env));
    }
}

int rpc_server_open(struct env *env, const char *address, const struct rpc_identity *self,
                    const struct rpc_cbs *cbs, void *arg, struct rpc_server **out,
                    struct err_text *e)
{
    *out = NULL;
    struct rpc_server *s = mem_zalloc(sizeof *s);
    if (s == NULL) {
        return err_set(e, ERR_NOMEM, "can't listen on %s: out of memory", address);
    }
    s->env = env;
    s->self = self;
    s->cbs = cbs;
    s->arg = arg;
    s->closed.cb = on_closed;
    list_init(&s->conns);
    int rv = env_listen(env, address, on_accept, s, &s->listener, e);
    if (rv != 0) {
        mem_free(s);
        return rv;
    }
    *out = s;
    return 0;
}

int rpc_server_port(const struct rpc_server *s)
{
    return s->listener == NULL ? ERR_CLOSED : env_listener_port(s->env, s->listener);
}

void rpc_server_stats(const struct rpc_server *s, struct rpc_server_stats *out)
{
    *out = s->stats;
    if (s->listener != NULL) {
        struct env_listener_stats stats;
        env_listener_stats(s->env, s->listener, &stats);
        out->handshakes = stats.waiting;
        out->handshakes_ended = stats.ended;
    }
}

void rpc_server_stop(struct rpc_server *s)
{
    if (s->listener != NULL) {
        env_listener_close(s->env, s->listener);
        s->listener = NULL;
    }
}

void rpc_server_close(struct rpc_server *s, void (*done)(void *arg), void *arg)
{
    assert(!s->closing);
    rpc_server_stop(s);
    s->closing = true;
    s->done = done;
    s->done_arg = arg;
    list_for_each_safe (it, next, &s->conns) {
        rpc_close(list_entry(it, struct rpc_conn, link), ERR_SHUTDOWN);
    }
    if (list_empty(&s->conns)) {
        env_timer_start(s->env, &s->closed, env_now_ns(s->env));
    }
}

void rpc_server_each(struct rpc_server *s, void (*cb)(void *arg, struct rpc_conn *conn), void *arg)
{
    list_for_each_safe (it, next, &s->conns) {
        struct rpc_conn *c = list_entry(it, struct rpc_conn, link);
        if (c->state == CONN_READY) {
            cb(arg, c);
        }
    }
}
