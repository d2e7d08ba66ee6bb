/* A connection that is kept up: at most one attempt at a time, a pause that doubles between failed
 * ones, and jitter so that nodes that lost the same peer don't return in step. Failures are logged
 * when their cause changes, not each time. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/internal.h"

struct rpc_link {
    struct env *env;
    const struct rpc_identity *self;
    const struct rpc_cbs *cbs;
    void *arg;
    enum rpc_lane lane;
    struct rpc_conn *conn; /* NULL while waiting for the next attempt */
    struct env_timer retry;
    uint32_t backoff_ms;
    uint64_t ready_ns; /* since when this connection is ready; 0: it isn't */
    bool named;
    char address[ADDRESS_BYTES_MAX + 1];
    char expected_name[64];
    char cause[RPC_CAUSE_BYTES]; /* of the last failure logged */
};

static void attempt(struct rpc_link *l);

static void retry_later(struct rpc_link *l, int reason, const char *text)
{
    if (strncmp(l->cause, text, sizeof l->cause - 1) != 0) {
        (void)snprintf(l->cause, sizeof l->cause, "%s", text);
        log_warn("rpc", "no connection, trying again", "peer=%s name=%s error=%s cause=\"%s\"",
                 l->address, l->expected_name, err_name(reason), text);
    }
    /* Between half of the backoff and all of it. */
    uint64_t half_ns = (uint64_t)l->backoff_ms * 500000u;
    uint64_t wait_ns = half_ns + env_random_u64(l->env) % half_ns;
    l->backoff_ms *= 2;
    if (l->backoff_ms > LINK_BACKOFF_MAX_MS) {
        l->backoff_ms = LINK_BACKOFF_MAX_MS;
    }
    env_timer_start(l->env, &l->retry, env_now_ns(l->env) + wait_ns);
}

/* The owner may close the link in any of its callbacks: nothing here touches `l` after calling one.
 */
static int link_on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                         const struct msg_hello_ok *ok, struct err_text *e)
{
    struct rpc_link *l = arg;
    l->ready_ns = env_now_ns(l->env);
    if (l->cause[0] != '\0') {
        log_info("rpc", "connected again", "peer=%s name=%s", l->address, rpc_peer(conn)->name);
        l->cause[0] = '\0';
    }
    return l->cbs->on_ready == NULL ? 0 : l->cbs->on_ready(l->arg, conn, hello, ok, e);
}

static void link_on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                          struct slice body)
{
    struct rpc_link *l = arg;
    l->cbs->on_frame(l->arg, conn, header, body);
}

static void link_on_drain(void *arg, struct rpc_conn *conn)
{
    struct rpc_link *l = arg;
    if (l->cbs->on_drain != NULL) {
        l->cbs->on_drain(l->arg, conn);
    }
}

static void link_on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct rpc_link *l = arg;
    uint64_t now = env_now_ns(l->env);
    if (l->ready_ns != 0 && now - l->ready_ns >= LINK_STABLE_MS * UINT64_C(1000000)) {
        l->backoff_ms = LINK_BACKOFF_MS;
    }
    l->ready_ns = 0;
    l->conn = NULL;
    retry_later(l, reason, text);
    if (l->cbs->on_close != NULL) {
        l->cbs->on_close(l->arg, conn, reason, text);
    }
}

static const struct rpc_cbs link_cbs = {
    .on_ready = link_on_ready,
    .on_frame = link_on_frame,
    .on_drain = link_on_drain,
    .on_close = link_on_close,
};

static void attempt(struct rpc_link *l)
{
    int rv = rpc_connect(l->env, l->address, l->named ? l->expected_name : NULL, l->lane, l->self,
                         &link_cbs, l, &l->conn);
    if (rv != 0) {
        retry_later(l, rv, err_text_of(rv));
    }
}

static void on_retry(struct env_timer *timer)
{
    struct rpc_link *l = container_of(timer, struct rpc_link, retry);
    assert(l->conn == NULL);
    attempt(l);
}

int rpc_link_open(struct env *env, const char *address, const char *expected_name,
                  enum rpc_lane lane, const struct rpc_identity *self, const struct rpc_cbs *cbs,
                  void *arg, struct rpc_link **out)
{
    *out = NULL;
    if (strlen(address) > ADDRESS_BYTES_MAX ||
        (expected_name != NULL &&
         strlen(expected_name) >= sizeof(((struct rpc_link *)0)->expected_name))) {
        return ERR_INVAL;
    }
    struct rpc_link *l = mem_zalloc(sizeof *l);
    if (l == NULL) {
        return ERR_NOMEM;
    }
    l->env = env;
    l->self = self;
    l->cbs = cbs;
    l->arg = arg;
    l->lane = lane;
    l->backoff_ms = LINK_BACKOFF_MS;
    l->retry.cb = on_retry;
    l->named = expected_name != NULL;
    (void)snprintf(l->address, sizeof l->address, "%s", address);
    (void)snprintf(l->expected_name, sizeof l->expected_name, "%s", l->named ? expected_name : "");
    attempt(l);
    *out = l;
    return 0;
}

struct rpc_conn *rpc_link_conn(struct rpc_link *l)
{
    return l->conn != NULL && l->conn->state == CONN_READY ? l->conn : NULL;
}

void rpc_link_close(struct rpc_link *l)
{
    env_timer_stop(l->env, &l->retry);
    if (l->conn != NULL) {
        rpc__conn_orphan(l->conn);
        rpc_close(l->conn, ERR_CLOSED);
    }
    mem_free(l);
}
