/* Futures: a call's outcome, handed from the library thread to whoever asks.
 *
 * `state` is a set of bits that only grow; each side sets its own and learns from the value before
 * what the other has done, so that nobody needs a lock but those who sleep. After the library
 * thread has set FUTURE_READY it doesn't touch the future any more, unless a callback is set: the
 * owner may be freeing it already. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/sdk.h"

static struct sdk_stripe *stripe_of(struct cairn_client *client, const struct cairn_future *future)
{
    uintptr_t bits = (uintptr_t)future;
    return &client->stripes[(bits >> 6 ^ bits >> 12) % SDK_STRIPES];
}

static void destroy(struct cairn_future *future)
{
    if (future->set != NULL) {
        sdk__tx_settled(future);
    }
    if (future->call.bytes.data != NULL || future->data != NULL) {
        buf_close(&future->call.bytes);
        mem_free(future->data);
    }
    sdk__future_forget(future);
}

/* Runs the callback and then, if its owner has freed the future (perhaps in there), lets it go. */
static void callback_run(struct cairn_future *future)
{
    if ((atomic_load(&future->state) & FUTURE_FREED) == 0) {
        future->cb(future, future->arg);
    }
    unsigned before = atomic_fetch_or(&future->state, FUTURE_CALLED);
    if ((before & FUTURE_FREED) != 0) {
        destroy(future);
    }
}

static void on_done(struct core_call *call)
{
    struct cairn_future *future = container_of(call, struct cairn_future, call);
    struct sdk_stripe *stripe = stripe_of(future->client, future);
    sdk__explain(call);
    unsigned before = atomic_fetch_or(&future->state, FUTURE_READY);
    if ((before & FUTURE_WAITED) != 0) {
        pthread_mutex_lock(&stripe->lock);
        pthread_cond_broadcast(&stripe->wake);
        pthread_mutex_unlock(&stripe->lock);
    }
    if ((before & FUTURE_CALLBACK) != 0) {
        callback_run(future);
    } else if ((before & FUTURE_FREED) != 0) {
        destroy(future);
    }
}

/* Under the directory's lock: what wants to make calls of its own waits until it is let go. */
bool sdk__future_settled(struct cairn_future *future)
{
    unsigned before = atomic_fetch_or(&future->state, FUTURE_READY);
    if ((before & FUTURE_CALLBACK) != 0) {
        return true;
    }
    bool freed = (before & FUTURE_FREED) != 0;
    if (freed && future->set == NULL) {
        destroy(future);
        return false;
    }
    return freed;
}

void sdk__future_call(struct cairn_future *future)
{
    if ((atomic_load(&future->state) & FUTURE_CALLBACK) != 0) {
        callback_run(future);
    } else {
        destroy(future);
    }
}

static void on_submit(struct sdk_item *item)
{
    struct cairn_future *future = container_of(item, struct cairn_future, submit);
    core_call(future->client->core, &future->call);
}

static void on_callback(struct sdk_item *item)
{
    callback_run(container_of(item, struct cairn_future, callback));
}

void sdk__future_init(struct cairn_future *future, struct cairn_client *client)
{
    memset(future, 0, offsetof(struct cairn_future, request));
    core_call_init(&future->call, client->embedded != NULL ? &future->request : NULL);
    future->client = client;
    future->call.cb = on_done;
}

static void push_submit(struct cairn_future *future)
{
    if (sdk__is_foreign(future->client)) { /* of a directory: embedded.c */
        struct core_call *call = &future->call;
        core_call_discard(call);
        call->err = CAIRN_E_CLOSED;
        (void)snprintf(call->text, sizeof call->text, "%s",
                       "this process was forked from the one that connected: connect anew");
        call->cb(call);
        return;
    }
    future->submit.run = on_submit;
    sdk__push(future->client, &future->submit);
}

struct cairn_future *sdk__future_of(struct cairn_client *client)
{
    struct cairn_future *future = sdk__future_memory();
    if (future != NULL) {
        sdk__future_init(future, client);
    }
    return future;
}

struct cairn_future *sdk__future_new(struct cairn_heap *heap)
{
    return heap == NULL ? NULL : sdk__future_of(heap->client);
}

void sdk__future_ready(struct cairn_future *future)
{
    atomic_store(&future->state, FUTURE_READY);
}

int sdk__future_start(struct cairn_future *future, int prepared, struct cairn_future **out)
{
    if (out == NULL && prepared == 0) {
        prepared = sdk__missing("future");
    } else if (prepared != 0 && future != NULL) {
        (void)sdk__fail(prepared, "%s", future->call.text);
    } else if (prepared == CAIRN_E_NOMEM) {
        (void)sdk__fail(prepared, "%s", "");
    }
    if (out != NULL) {
        *out = NULL;
    }
    if (prepared != 0) {
        if (future != NULL) {
            core_call_discard(&future->call);
            destroy(future);
        }
        return prepared;
    }
    *out = future;
    if (future->client->embedded != NULL) {
        sdk__embedded_submit(future);
        return 0;
    }
    push_submit(future);
    return 0;
}

int sdk__future_run(struct cairn_future *future, int prepared)
{
    if (prepared != 0) {
        core_call_discard(&future->call);
        return sdk__fail(prepared, "%s", future->call.text);
    }
    if (sdk__on_library_thread(future->client)) {
        core_call_discard(&future->call);
        if (future->call.reserved != NULL) {
            core_tx_release(future->call.reserved);
        }
        return sdk__fail(CAIRN_E_INVAL, "a blocking call in a callback: use the _async form there");
    }
    if (future->client->embedded != NULL) {
        sdk__embedded_run(future);
    } else {
        push_submit(future);
        int rv = cairn_future_wait(future, UINT32_MAX);
        assert(rv == 0);
    }
    return future->call.err == 0 ? 0 : sdk__fail(future->call.err, "%s", future->call.text);
}

/* ---- waiting ---- */

static bool is_ready(const struct cairn_future *future)
{
    return (atomic_load(&future->state) & FUTURE_READY) != 0;
}

struct timespec sdk_time_after(uint32_t ms)
{
    struct timespec at = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)(ms / 1000);
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_nsec -= 1000000000;
        at.tv_sec++;
    }
    return at;
}

/* The library thread wakes it. False: the time has passed. */
static bool stripe_wait(struct cairn_future *future, uint32_t timeout_ms)
{
    struct timespec until = sdk_time_after(timeout_ms);
    struct sdk_stripe *stripe = stripe_of(future->client, future);
    int rv = 0;
    pthread_mutex_lock(&stripe->lock);
    atomic_fetch_or(&future->state, FUTURE_WAITED);
    while (!is_ready(future) && rv != ETIMEDOUT) {
        if (timeout_ms == UINT32_MAX) {
            pthread_cond_wait(&stripe->wake, &stripe->lock);
        } else {
            rv = pthread_cond_timedwait(&stripe->wake, &stripe->lock, &until);
        }
    }
    pthread_mutex_unlock(&stripe->lock);
    return is_ready(future);
}

/* It is a call that a directory has. A watch's future (watch.c) is none. */
static bool is_direct(const struct cairn_future *future)
{
    return future->client->embedded != NULL && future->call.kind != KIND_WATCH;
}

int cairn_future_wait(cairn_future *future, uint32_t timeout_ms)
{
    if (future == NULL) {
        return sdk__missing("future");
    }
    if (is_ready(future)) {
        return 0;
    }
    bool embedded = is_direct(future);
    if (sdk__is_foreign(future->client)) {
        return sdk__because(CAIRN_E_CLOSED, "the call belongs to this process's parent");
    }
    if (timeout_ms == 0) {
        if (embedded) {
            sdk__embedded_want(future);
        }
        return sdk__fail(CAIRN_E_TIMEOUT, "the call is still under way: wait for it again");
    }
    if (sdk__on_library_thread(future->client)) {
        return sdk__fail(CAIRN_E_INVAL, "waiting in a callback would wait for ever");
    }
    bool in_time =
        embedded ? sdk__embedded_wait(future, timeout_ms) : stripe_wait(future, timeout_ms);
    return in_time ? 0
                   : sdk__fail(CAIRN_E_TIMEOUT,
                               "the call is still under way after %u ms: wait for it again",
                               timeout_ms);
}
int cairn_future_on_ready(cairn_future *future, cairn_future_cb cb, void *arg)
{
    if (future == NULL || cb == NULL) {
        return sdk__missing(future == NULL ? "future" : "cb");
    }
    if ((atomic_load(&future->state) & FUTURE_CALLBACK) != 0) {
        return sdk__fail(CAIRN_E_INVAL, "a future has one callback");
    }
    if (is_direct(future) && !is_ready(future) && !sdk__is_foreign(future->client)) {
        sdk__embedded_want(future); /* the future is still ours alone */
    }
    future->cb = cb;
    future->arg = arg;
    unsigned before = atomic_fetch_or(&future->state, FUTURE_CALLBACK);
    if ((before & FUTURE_READY) != 0) {
        future->callback.run = on_callback;
        sdk__push(future->client, &future->callback);
    }
    return 0;
}

void cairn_future_free(cairn_future *future)
{
    if (future == NULL) {
        return;
    }
    unsigned before = atomic_load(&future->state);
    if ((before & (FUTURE_READY | FUTURE_CALLBACK)) == FUTURE_READY) {
        destroy(future); /* nobody else has it any more */
        return;
    }
    before = atomic_fetch_or(&future->state, FUTURE_FREED);
    bool calling = (before & FUTURE_CALLBACK) != 0 && (before & FUTURE_CALLED) == 0;
    if ((before & FUTURE_READY) != 0 && !calling) {
        destroy(future);
    }
}

/* ---- results ---- */

int cairn_future_error(const cairn_future *future)
{
    if (future == NULL) {
        return sdk__missing("future");
    }
    if (!is_ready(future)) {
        return sdk__fail(CAIRN_E_INVAL, "the future isn't ready: wait for it first");
    }
    return future->call.err;
}

const char *cairn_future_errormsg(const cairn_future *future)
{
    return future != NULL && is_ready(future) ? future->call.text : "";
}

/* 0 if the future is ready, succeeded, and is of that kind. */
static int check(const struct cairn_future *future, bool right_kind)
{
    if (!is_ready(future)) {
        return sdk__fail(CAIRN_E_INVAL, "the future isn't ready: wait for it first");
    }
    if (!right_kind) {
        return sdk__fail(CAIRN_E_INVAL, "the call has no such result");
    }
    return future->call.err == 0 ? 0 : sdk__fail(future->call.err, "%s", future->call.text);
}

int cairn_future_get_ptr(const cairn_future *future, cairn_ptr *ptr)
{
    if (future == NULL || ptr == NULL) {
        return sdk__missing(future == NULL ? "future" : "ptr");
    }
    uint16_t kind = future->call.kind;
    int rv = check(future, kind == KIND_ALLOC || kind == KIND_ROOT_GET);
    ptr->word = rv == 0 ? future->call.value : 0;
    return rv;
}

int cairn_future_get_u64(const cairn_future *future, uint64_t *value)
{
    if (future == NULL || value == NULL) {
        return sdk__missing(future == NULL ? "future" : "value");
    }
    uint16_t kind = future->call.kind;
    bool commit = kind == KIND_TX_COMMIT_ONE || kind == KIND_TX_COMMIT;
    int rv = check(future, kind == KIND_ADD_U64 || commit);
    *value = rv != 0 ? 0 : commit ? future->call.version : future->call.value;
    return rv;
}

int cairn_future_get_bytes(const cairn_future *future, const void **data, size_t *len,
                           uint64_t *version)
{
    if (future == NULL || data == NULL || len == NULL) {
        return sdk__missing(future == NULL ? "future" : data == NULL ? "data" : "len");
    }
    bool answer = future->call.kind == KIND_ADMIN;
    int rv = check(future, answer || future->call.kind == KIND_READ);
    *data = rv != 0 ? NULL : answer ? future->call.bytes.data : future->data;
    *len = rv != 0 ? 0 : answer ? future->call.bytes.len : future->call.read.len;
    if (version != NULL) {
        *version = rv == 0 ? future->call.version : 0;
    }
    return rv;
}

int cairn_future_get_object(const cairn_future *future, cairn_object *object)
{
    if (future == NULL || object == NULL) {
        return sdk__missing(future == NULL ? "future" : "object");
    }
    const struct core_call *call = &future->call;
    int rv = check(future, call->kind == KIND_STAT);
    memset(object, 0, sizeof *object);
    if (rv == 0) {
        *object = (cairn_object){.ptr = {call->target},
                                 .size = call->size,
                                 .version = call->version,
                                 .type = call->type,
                                 .flags = call->flags};
    }
    return rv;
}
