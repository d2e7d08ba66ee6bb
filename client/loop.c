/* The library thread: an event loop with a TLS identity, for one client or for several that share
 * it. It lives as long as one of them does. */
#include <signal.h>
#include <string.h>

#include "base/assert.h"
#include "base/env_uv.h"
#include "base/mem.h"
#include "client/sdk.h"
#include "rpc/tls.h"

#define DRAIN_MS   2u
#define DRAINS_MAX 1000u /* connections close within a second; the rest is patience */

static void count_sockets(uv_handle_t *handle, void *arg)
{
    *(uint32_t *)arg += handle->type == UV_TCP;
}

/* No client is left; connections still say goodbye. */
static void on_drain_timer(struct env_timer *timer)
{
    struct sdk_loop *loop = container_of(timer, struct sdk_loop, drain);
    uint32_t sockets = 0;
    uv_walk(env_uv_loop(loop->env), count_sockets, &sockets);
    if (sockets == 0 || ++loop->drains == DRAINS_MAX) {
        env_uv_stop(loop->env);
        return;
    }
    env_timer_start_in_ms(loop->env, timer, DRAIN_MS);
}

static void on_last_left(struct env_post *post)
{
    struct sdk_loop *loop = container_of(post, struct sdk_loop, left);
    env_timer_start_in_ms(loop->env, &loop->drain, 0);
}

static void *library_thread(void *arg)
{
    struct sdk_loop *loop = arg;
    env_uv_run(loop->env);
    return NULL;
}

/* A library has no business with the program's signals, so its thread takes none. */
static int thread_start(struct sdk_loop *loop)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rv = pthread_create(&loop->thread, NULL, library_thread, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rv == 0 ? 0 : sdk__fail(CAIRN_E_NOMEM, "the library thread could not be started");
}

static int identity_take(struct sdk_loop *loop, const char *cert_file)
{
    struct env_peer self = {0};
    int64_t not_after = 0;
    int rv = tls_self(loop->env, &self, &not_after);
    if (rv != 0) {
        return sdk__fail(rv, "%s: the certificate names no user", cert_file);
    }
    static_assert(sizeof loop->identity.name == sizeof self.name, "names have one length");
    memcpy(loop->identity.name, self.name, sizeof self.name);
    return 0;
}

int sdk__loop_open(const struct tls_opts *tls, struct sdk_loop **out)
{
    struct err_text e = {{0}};
    struct sdk_loop *loop = mem_zalloc(sizeof *loop);
    if (loop == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    loop->drain.cb = on_drain_timer;
    loop->left.cb = on_last_left;
    atomic_init(&loop->users, 1);
    int rv = env_uv_open(&loop->env);
    if (rv != 0) {
        mem_free(loop);
        return sdk__fail(rv, "no event loop: %s; %s", err_why(rv), sdk__next_step(rv));
    }
    rv = tls_attach(loop->env, tls, &e);
    if (rv != 0) {
        env_uv_close(loop->env);
        mem_free(loop);
        return sdk__fail(rv, "%s", e.text);
    }
    rv = identity_take(loop, tls->cert_file);
    rv = rv != 0 ? rv : thread_start(loop);
    if (rv != 0) {
        tls_detach(loop->env);
        env_uv_close(loop->env);
        mem_free(loop);
        return rv;
    }
    *out = loop;
    return 0;
}

void sdk__loop_join(struct sdk_loop *loop)
{
    atomic_fetch_add(&loop->users, 1);
}

void sdk__loop_leave(struct sdk_loop *loop)
{
    if (atomic_fetch_sub(&loop->users, 1) > 1) {
        return;
    }
    assert(!pthread_equal(pthread_self(), loop->thread)); /* it would wait for itself */
    env_post(loop->env, &loop->left);
    pthread_join(loop->thread, NULL);
    tls_detach(loop->env);
    env_uv_close(loop->env);
    mem_free(loop);
}
