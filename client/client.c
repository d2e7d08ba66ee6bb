/* The library thread, and what crosses over to it.
 *
 * Calls are encoded by their callers, pushed onto a lock-free list and taken all at once by the
 * library thread. Only the push onto an empty list wakes it, so thousands of calls cost one
 * wake-up. Everything else (core, connections, timers) belongs to the library thread alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/forks.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/sdk.h"
#include "rpc/tls.h"

/* ---- the list of things to do ---- */

void sdk__items_run(struct cairn_client *client)
{
    /* From here on a push posts again: env_post() has read what it needs of the post before. */
    struct sdk_item *newest = atomic_exchange(&client->items, NULL);
    struct sdk_item *oldest = NULL;
    while (newest != NULL) {
        struct sdk_item *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct sdk_item *item = oldest;
        oldest = item->next;
        item->run(item);
    }
}

static void on_post(struct env_post *post)
{
    sdk__items_run(container_of(post, struct cairn_client, post));
}

bool sdk__is_foreign(const struct cairn_client *client)
{
    return client->embedded != NULL ? client->embedded->is_foreign(client->db)
                                    : client->forks != forks_count();
}

void sdk__push(struct cairn_client *client, struct sdk_item *item)
{
    struct sdk_item *head = atomic_load_explicit(&client->items, memory_order_relaxed);
    do {
        item->next = head;
    } while (!atomic_compare_exchange_weak(&client->items, &head, item));
    if (head != NULL || sdk__is_foreign(client)) {
        return; /* a child's memory goes with it; nobody runs what it pushed */
    }
    if (client->embedded == NULL) {
        env_post(client->loop->env, &client->post);
    } else {
        client->embedded->post(client->db, &client->embedded_post);
    }
}

bool sdk__on_library_thread(const struct cairn_client *client)
{
    return client->embedded != NULL ? client->embedded->on_library_thread(client->db)
                                    : pthread_equal(pthread_self(), client->loop->thread) != 0;
}

/* ---- what happens on the library thread ---- */

/* Says to who waits in cairn_connect() or cairn_client_free() that it has happened. */
static void tell(struct cairn_client *client, bool *what, int err, const char *text)
{
    struct sdk_stripe *stripe = &client->stripes[0];
    pthread_mutex_lock(&stripe->lock);
    *what = true;
    client->ready_err = err;
    (void)snprintf(client->ready_text.text, sizeof client->ready_text.text, "%s", text);
    pthread_cond_broadcast(&stripe->wake);
    pthread_mutex_unlock(&stripe->lock);
}

static void wait_for(struct cairn_client *client, const bool *what)
{
    struct sdk_stripe *stripe = &client->stripes[0];
    pthread_mutex_lock(&stripe->lock);
    while (!*what) {
        pthread_cond_wait(&stripe->wake, &stripe->lock);
    }
    pthread_mutex_unlock(&stripe->lock);
}

static void on_ready(void *arg, struct core *core, int err, const char *text)
{
    (void)core;
    struct cairn_client *client = arg;
    tell(client, &client->ready, err, text);
}

static void on_open(struct sdk_item *item)
{
    struct cairn_client *client = container_of(item, struct cairn_client, open);
    struct err_text e = {{0}};
    int rv = core_open(client->loop->env, client->endpoints, &client->loop->identity,
                       &client->core_opts, on_ready, client, &client->core, &e);
    if (rv != 0) {
        tell(client, &client->ready, rv, e.text);
    }
}

static void on_core_closed(void *arg)
{
    struct cairn_client *client = arg;
    client->core = NULL;
    tell(client, &client->closed, 0, "");
}

static void on_close(struct sdk_item *item)
{
    struct cairn_client *client = container_of(item, struct cairn_client, close);
    core_close(client->core, on_core_closed, client);
}

/* ---- connecting ---- */

void cairn_client_opts_init(cairn_client_opts *opts, size_t struct_size)
{
    cairn_client_opts defaults = {
        .struct_size = struct_size,
        .timeout_ms = 30000,
        .inflight_max = 256,
        .lease_ms = 60000,
    };
    if (opts == NULL) {
        return;
    }
    memset(opts, 0, struct_size);
    memcpy(opts, &defaults, struct_size < sizeof defaults ? struct_size : sizeof defaults);
}

/* A program built against an older header has a shorter struct: the rest keeps its defaults. */
static int opts_take(cairn_client_opts *out, const cairn_client_opts *opts)
{
    cairn_client_opts_init(out, sizeof *out);
    if (opts == NULL) {
        return 0;
    }
    if (opts->struct_size < sizeof opts->struct_size || opts->struct_size > 4096) {
        return sdk__fail(CAIRN_E_INVAL, "set up the options with cairn_client_opts_init()");
    }
    memcpy(out, opts, opts->struct_size < sizeof *out ? opts->struct_size : sizeof *out);
    if (out->timeout_ms == 0 || out->inflight_max == 0 || out->inflight_max > SESSION_WINDOW_MAX ||
        out->lease_ms < 1000 || out->lease_ms > 3600000) {
        return sdk__fail(
            CAIRN_E_INVAL,
            "options: timeout_ms is at least 1, inflight_max 1..%d, lease_ms 1000..3600000",
            SESSION_WINDOW_MAX);
    }
    return 0;
}

static const char *or_env(const char *value, const char *name)
{
    if (value == NULL) {
        value = getenv(name);
    }
    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* The loop of a client's own. */
static int loop_open(const cairn_client_opts *opts, struct sdk_loop **out)
{
    struct tls_opts tls = {
        .ca_file = or_env(opts->ca_file, "CAIRN_CA"),
        .cert_file = or_env(opts->cert_file, "CAIRN_CERT"),
        .key_file = or_env(opts->key_file, "CAIRN_KEY"),
    };
    if (tls.ca_file == NULL || tls.cert_file == NULL || tls.key_file == NULL) {
        return sdk__fail(CAIRN_E_INVAL, "no %s file: give it in the options or in $%s",
                         tls.ca_file == NULL     ? "CA"
                         : tls.cert_file == NULL ? "certificate"
                                                 : "key",
                         tls.ca_file == NULL     ? "CAIRN_CA"
                         : tls.cert_file == NULL ? "CAIRN_CERT"
                                                 : "CAIRN_KEY");
    }
    return sdk__loop_open(&tls, out);
}

static int loop_share(const cairn_client_opts *opts, struct sdk_loop **out)
{
    if (sdk__is_foreign(opts->thread_of)) {
        return sdk__fail(CAIRN_E_CLOSED,
                         "thread_of: that client's thread is in this process's parent");
    }
    if (sdk__on_library_thread(opts->thread_of)) {
        return sdk__fail(CAIRN_E_INVAL,
                         "thread_of: a callback on that thread would wait for itself");
    }
    if (opts->thread_of->loop == NULL) {
        return sdk__fail(CAIRN_E_INVAL,
                         "thread_of: the client of a directory has no thread to share");
    }
    if (opts->ca_file != NULL || opts->cert_file != NULL || opts->key_file != NULL) {
        return sdk__fail(CAIRN_E_INVAL,
                         "thread_of: who shares a thread has that client's certificate; leave "
                         "ca_file, cert_file and key_file NULL");
    }
    *out = opts->thread_of->loop;
    sdk__loop_join(*out);
    return 0;
}

static void stripes_open(struct cairn_client *client)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < SDK_STRIPES; i++) {
        pthread_mutex_init(&client->stripes[i].lock, NULL);
        pthread_cond_init(&client->stripes[i].wake, &attr);
    }
    pthread_condattr_destroy(&attr);
}

static void stripes_close(struct cairn_client *client)
{
    for (uint32_t i = 0; i < SDK_STRIPES; i++) {
        pthread_cond_destroy(&client->stripes[i].wake);
        pthread_mutex_destroy(&client->stripes[i].lock);
    }
}

/* The core is closed, or was never opened. */
static void client_end(struct cairn_client *client)
{
    sdk__loop_leave(client->loop);
    stripes_close(client);
    sdk__future_spares_free();
    mem_free(client);
}

static int cluster_open(const char *endpoints, const cairn_client_opts *opts, cairn_client **out)
{
    struct cairn_client *client = mem_zalloc(sizeof *client);
    if (client == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    client->forks = forks_count();
    client->post.cb = on_post;
    client->open.run = on_open;
    client->close.run = on_close;
    client->timeout_ms = opts->timeout_ms;
    client->endpoints = endpoints;
    client->core_opts = (struct core_opts){.timeout_ms = opts->timeout_ms,
                                           .inflight_max = opts->inflight_max,
                                           .lease_ms = opts->lease_ms};
    int rv =
        opts->thread_of != NULL ? loop_share(opts, &client->loop) : loop_open(opts, &client->loop);
    if (rv != 0) {
        mem_free(client);
        return rv;
    }
    stripes_open(client);
    sdk__push(client, &client->open);
    wait_for(client, &client->ready);
    client->endpoints = NULL; /* the caller's */
    if (client->core == NULL) {
        rv = sdk__fail(client->ready_err, "%s", client->ready_text.text);
        client_end(client);
        return rv;
    }
    if (client->ready_err != 0) {
        rv = sdk__fail(client->ready_err, "can't connect to %s: %s", endpoints,
                       client->ready_text.text);
        cairn_client_free(client);
        return rv;
    }
    *out = client;
    return 0;
}

/* "file:..." is a directory on this machine. */
static int directory_open(const char *url, const cairn_client_opts *opts, cairn_client **out)
{
    struct cairn_client *client = mem_zalloc(sizeof *client);
    if (client == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    client->timeout_ms = opts->timeout_ms;
    int rv = sdk__embedded_connect(url, client);
    if (rv != 0) {
        mem_free(client);
        return rv;
    }
    stripes_open(client);
    *out = client;
    return 0;
}

static void directory_close(struct cairn_client *client)
{
    if (!sdk__is_foreign(client)) { /* else its memory goes with the process */
        client->embedded->close(client->db);
        stripes_close(client);
        sdk__future_spares_free();
        mem_free(client);
    }
}

static _Atomic bool log_wanted;

int cairn_connect(const char *endpoints, const cairn_client_opts *opts, cairn_client **out)
{
    if (out == NULL) {
        return sdk__missing("client");
    }
    *out = NULL;
    cairn_client_opts taken;
    int rv = opts_take(&taken, opts);
    if (rv != 0) {
        return rv;
    }
    endpoints = or_env(endpoints, "CAIRN_ENDPOINTS");
    if (endpoints == NULL) {
        return sdk__fail(CAIRN_E_INVAL, "no endpoints: give host:port or set $CAIRN_ENDPOINTS");
    }
    if (!atomic_load(&log_wanted)) {
        log_set_level(LOG_OFF);
    }
    if (strncmp(endpoints, "file:", 5) == 0) {
        return taken.thread_of != NULL
                   ? sdk__fail(CAIRN_E_INVAL, "thread_of: a directory needs no library thread")
                   : directory_open(endpoints, &taken, out);
    }
    return cluster_open(endpoints, &taken, out);
}

void cairn_client_free(cairn_client *client)
{
    if (client == NULL) {
        return;
    }
    assert(!sdk__on_library_thread(client)); /* it would wait for itself */
    if (client->embedded != NULL) {
        directory_close(client);
        return;
    }
    if (sdk__is_foreign(client)) {
        return; /* its thread and its connections are the parent's */
    }
    sdk__push(client, &client->close);
    wait_for(client, &client->closed);
    client_end(client);
}

/* ---- log ---- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static cairn_log_cb log_cb;
static void *log_arg;

static void on_log(void *arg, enum log_level level, const char *line)
{
    (void)arg;
    pthread_mutex_lock(&log_lock);
    cairn_log_cb cb = log_cb;
    void *cb_arg = log_arg;
    pthread_mutex_unlock(&log_lock);
    if (cb != NULL) {
        cb(cb_arg, (int)level, line);
    }
}

void cairn_set_log(cairn_log_cb cb, void *arg)
{
    pthread_mutex_lock(&log_lock);
    log_cb = cb;
    log_arg = arg;
    pthread_mutex_unlock(&log_lock);
    atomic_store(&log_wanted, cb != NULL);
    if (cb != NULL) {
        log_set_sink(on_log, NULL);
    }
    log_set_level(cb != NULL ? LOG_DEBUG : LOG_OFF);
}
