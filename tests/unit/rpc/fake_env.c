#include "fake_env.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"

struct env_listener {
    struct fake_env *f;
    env_accept_cb cb;
    void *arg;
};

/* One end of a pair. An end whose owner is the test ("raw") has no cbs. */
struct env_conn {
    struct fake_env *f;
    struct env_conn *other; /* NULL once that end is gone */
    const struct env_conn_cbs *cbs;
    void *arg;
    struct env_peer peer;
    struct list link;
    struct buf in; /* on its way to this end */
    bool raw;
    bool opening; /* on_open is due */
    bool failing; /* the connection attempt fails */
    bool paused;
    bool closing;    /* by this end's owner */
    bool other_left; /* on_close is due once `in` is delivered */
    int reason;
};

static struct fake_env *fake_of(struct env *env)
{
    return (struct fake_env *)env;
}

/* ---- clock, timers ---- */

static uint64_t now_ns(struct env *env)
{
    return fake_of(env)->now_ns;
}

static uint64_t wall_us(struct env *env)
{
    return fake_of(env)->now_ns / 1000;
}

static void random_bytes(struct env *env, void *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        fake_of(env)->random = fake_of(env)->random * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)out)[i] = (uint8_t)(fake_of(env)->random >> 56);
    }
}

static void timer_stop(struct env *env, struct env_timer *timer)
{
    struct fake_env *f = fake_of(env);
    if (timer->slot != 0) {
        f->timers[timer->slot - 1] = f->timers[--f->timer_count];
        f->timers[timer->slot - 1]->slot = timer->slot;
        timer->slot = 0;
    }
}

static void timer_start(struct env *env, struct env_timer *timer, uint64_t at_ns)
{
    struct fake_env *f = fake_of(env);
    timer_stop(env, timer);
    assert(f->timer_count < FAKE_TIMERS_MAX);
    timer->at_ns = at_ns;
    f->timers[f->timer_count++] = timer;
    timer->slot = f->timer_count;
}

/* ---- transport ---- */

static struct env_conn *end_new(struct fake_env *f)
{
    struct env_conn *c = mem_zalloc(sizeof *c);
    if (c != NULL) {
        c->f = f;
        list_push_back(&f->conns, &c->link);
    }
    return c;
}

static void end_free(struct env_conn *c)
{
    if (c->other != NULL) {
        c->other->other = NULL;
        c->other->other_left = true;
    }
    list_remove(&c->link);
    buf_close(&c->in);
    mem_free(c);
}

/* The accepting end for `c`, or NULL. */
static struct env_conn *accept_for(struct env_conn *c)
{
    struct env_listener *l = c->f->listener;
    struct env_conn *s = l == NULL ? NULL : end_new(c->f);
    if (s == NULL) {
        return NULL;
    }
    s->peer = c->f->client_peer;
    if (l->cb(l->arg, s, &s->peer, &s->cbs, &s->arg) != 0) {
        list_remove(&s->link);
        mem_free(s);
        return NULL;
    }
    s->other = c;
    c->other = s;
    return s;
}

static int fake_listen(struct env *env, const char *address, env_accept_cb cb, void *arg,
                       struct env_listener **out, struct err_text *e)
{
    *out = mem_zalloc(sizeof **out);
    if (*out == NULL) {
        return err_set(e, ERR_NOMEM, "can't listen on %s", address);
    }
    **out = (struct env_listener){fake_of(env), cb, arg};
    fake_of(env)->listener = *out;
    return 0;
}

static void fake_listener_close(struct env_listener *l)
{
    l->f->listener = NULL;
    mem_free(l);
}

static int fake_listener_port(struct env_listener *l)
{
    (void)l;
    return 7;
}

static int fake_connect(struct env *env, const char *address, enum env_role expected_role,
                        const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                        struct env_conn **out)
{
    (void)expected_role;
    (void)expected_name;
    struct env_conn *c = end_new(fake_of(env));
    *out = c;
    if (c == NULL) {
        return ERR_NOMEM;
    }
    c->cbs = cbs;
    c->arg = arg;
    c->opening = true;
    (void)snprintf(c->peer.address, sizeof c->peer.address, "%s", address);
    return 0;
}

static int fake_write(struct env_conn *c, const struct slice *parts, size_t count)
{
    if (c->closing || c->other_left) {
        return ERR_CLOSED;
    }
    if (c->f->write_fails) {
        return ERR_BUSY;
    }
    size_t before = c->other->in.len;
    for (size_t i = 0; i < count; i++) {
        if (buf_append(&c->other->in, parts[i].data, parts[i].len) != 0) {
            c->other->in.len = before;
            return ERR_NOMEM;
        }
    }
    return 0;
}

static size_t fake_queued(const struct env_conn *c)
{
    return c->other == NULL ? 0 : c->other->in.len;
}

static void fake_pause(struct env_conn *c, bool paused)
{
    c->paused = paused;
}

static void fake_close(struct env_conn *c, int reason)
{
    if (!c->closing) {
        c->closing = true;
        c->reason = reason;
    }
}

static const struct env_peer *fake_peer(const struct env_conn *c)
{
    return &c->peer;
}

static bool end_open(struct env_conn *c)
{
    c->opening = false;
    if (c->f->connect_fails || accept_for(c) == NULL) {
        c->other_left = true;
        c->failing = true;
        return true;
    }
    char address[sizeof c->peer.address];
    memcpy(address, c->peer.address, sizeof address);
    c->peer = c->f->server_peer;
    memcpy(c->peer.address, address, sizeof address);
    c->cbs->on_open(c->arg, c);
    return true;
}

static bool end_step(struct env_conn *c)
{
    if (c->raw) {
        return false;
    }
    if (c->closing) {
        c->cbs->on_close(c->arg, c, c->reason, "closed");
        end_free(c);
        return true;
    }
    if (c->opening) {
        return !c->f->connect_hangs && end_open(c);
    }
    if (c->in.len > 0 && !c->paused) {
        size_t max = c->f->chunk_max;
        size_t n = max != 0 && max < c->in.len ? max : c->in.len;
        uint8_t *copy =
            mem_alloc(n); /* of its own size, so that the sanitizer sees a read past the end */
        if (copy == NULL) {
            c->closing = true;
            c->reason = ERR_NOMEM;
            return true;
        }
        memcpy(copy, c->in.data, n);
        buf_consume(&c->in, n);
        c->cbs->on_data(c->arg, c, copy, n);
        mem_free(copy);
        return true;
    }
    if (c->other_left && c->in.len == 0) {
        c->cbs->on_close(c->arg, c, c->failing ? ERR_NOCONN : ERR_CLOSED, "the other end left");
        end_free(c);
        return true;
    }
    return false;
}

bool fake_step(struct fake_env *f)
{
    bool any = false;
    /* Callbacks may add and, for their own end only, remove; an end added now waits for the next
     * step. */
    for (struct list *it = f->conns.next; it != &f->conns;) {
        struct env_conn *c = list_entry(it, struct env_conn, link);
        it = it->next;
        any = end_step(c) || any;
    }
    return any;
}

static struct env_timer *timer_next(struct fake_env *f)
{
    struct env_timer *first = NULL;
    for (size_t i = 0; i < f->timer_count; i++) {
        if (first == NULL || f->timers[i]->at_ns < first->at_ns) {
            first = f->timers[i];
        }
    }
    return first;
}

void fake_run(struct fake_env *f, uint64_t ms)
{
    uint64_t end = f->now_ns + ms * 1000000u;
    for (;;) {
        while (fake_step(f)) {
        }
        struct env_timer *t = timer_next(f);
        if (t == NULL || t->at_ns > end) {
            break;
        }
        f->now_ns = t->at_ns > f->now_ns ? t->at_ns : f->now_ns;
        timer_stop(&f->env, t);
        t->cb(t);
    }
    f->now_ns = end;
}

struct env_conn *fake_raw(struct fake_env *f)
{
    struct env_conn *raw = end_new(f);
    if (raw == NULL) {
        return NULL;
    }
    raw->raw = true;
    if (accept_for(raw) == NULL) {
        end_free(raw);
        return NULL;
    }
    return raw;
}

void fake_raw_send(struct env_conn *raw, const void *data, size_t len)
{
    struct slice part = slice_of(data, len);
    (void)fake_write(raw, &part, 1);
}

struct slice fake_raw_received(const struct env_conn *raw)
{
    return slice_of(raw->in.data, raw->in.len);
}

bool fake_raw_closed(const struct env_conn *raw)
{
    return raw->other_left;
}

void fake_raw_close(struct env_conn *raw)
{
    end_free(raw);
}

void fake_env_open(struct fake_env *f)
{
    static const struct env_ops ops = {
        .now_ns = now_ns,
        .wall_us = wall_us,
        .random = random_bytes,
        .timer_start = timer_start,
        .timer_stop = timer_stop,
        .listen = fake_listen,
        .listener_close = fake_listener_close,
        .listener_port = fake_listener_port,
        .connect = fake_connect,
        .conn_write = fake_write,
        .conn_queued = fake_queued,
        .conn_pause = fake_pause,
        .conn_close = fake_close,
        .conn_peer = fake_peer,
    };
    *f = (struct fake_env){.now_ns = 1000000000, .random = 42};
    f->env.ops = &ops;
    list_init(&f->conns);
    f->server_peer = (struct env_peer){ENV_ROLE_NODE, "n1", "n1:1"};
    f->client_peer = (struct env_peer){ENV_ROLE_USER, "alice", "client:2"};
}

void fake_env_close(struct fake_env *f)
{
    assert(list_empty(&f->conns));
    assert(f->timer_count == 0);
    assert(f->listener == NULL);
}
