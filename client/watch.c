/* Watches: per shard one request at a time, which waits on its node for changes; of a directory one
 * call, which waits in it.
 *
 *   library thread   asks shards that have nothing left to take, and hears their answers
 *   the program's    takes changes, says when a shard has nothing left, sleeps in between
 *
 * Both meet in the reader, under `lock`. Routing, resending and changes of leader are the core's;
 * a request carries the token to go on from, so that asking again, whomever, misses and doubles
 * nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/sdk.h"
#include "client/watch_reader.h"

#define WATCH_POLL_MS 5000u

struct watch_ask {
    struct cairn_watch *watch;
    struct core_call call;
    bool running;
    bool opened; /* it has been answered once */
};
/* What is asked of a directory, by the only ask. */
struct watch_direct {
    struct embedded_call call;
    struct embedded_request request;
    struct embedded_watch watch;
};

struct cairn_watch {
    struct cairn_heap *heap;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct watch_reader *reader;
    cairn_event event;
    int err; /* it has ended; with a text */
    char text[CORE_TEXT_BYTES];
    uint32_t unopened;           /* shards that haven't answered yet */
    struct cairn_future *wanted; /* ready when there is something; NULL: none */
    struct sdk_item pump, close;
    bool pumping; /* `pump` is on its way */

    /* The library thread's. */
    bool closed;
    uint32_t running;
    struct watch_direct direct;
    struct watch_ask asks[];
};

static void pump(struct cairn_watch *w);

static void destroy(struct cairn_watch *w)
{
    watch_reader_free(w->reader);
    (void)pthread_cond_destroy(&w->wake);
    (void)pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

/* ---- the library thread ---- */

static void end(struct cairn_watch *w, int err, const char *text)
{
    if (w->err == 0) {
        w->err = err;
        (void)snprintf(w->text, sizeof w->text, "%s", text);
    }
}

/* With the lock, which is let go. */
static void tell(struct cairn_watch *w)
{
    struct cairn_future *ready = NULL;
    if (w->err != 0 || watch_reader_has(w->reader)) {
        ready = w->wanted;
        w->wanted = NULL;
    }
    (void)pthread_cond_broadcast(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
    if (ready != NULL) {
        ready->call.cb(&ready->call);
    }
}

/* Moments that pass: the shard is asked again, as long as it takes. */
static bool passes(int err)
{
    return err == ERR_TIMEOUT || err == ERR_UNAVAILABLE || err == ERR_BUSY;
}

static void answered(struct watch_ask *ask, int err, uint64_t token, struct buf *changes,
                     const char *text)
{
    struct cairn_watch *w = ask->watch;
    uint32_t i = (uint32_t)(ask - w->asks);
    ask->running = false;
    w->running--;
    if (w->closed) {
        buf_close(changes);
        if (w->running == 0) {
            destroy(w);
        }
        return;
    }
    (void)pthread_mutex_lock(&w->lock);
    if (err == 0) {
        err = watch_reader_hear(w->reader, i, token, changes);
        if (err != 0) {
            end(w, err, "a node sent malformed changes");
        }
    } else if (!ask->opened || !passes(err)) {
        end(w, err, text);
    }
    buf_close(changes);
    if (!ask->opened) {
        ask->opened = true;
        w->unopened--;
    }
    tell(w);
    pump(w);
}

static void on_answer(struct core_call *call)
{
    answered(container_of(call, struct watch_ask, call), call->err, call->value, &call->bytes,
             call->text);
}

static void on_direct(struct embedded_call *call)
{
    struct cairn_watch *w = container_of(call, struct cairn_watch, direct.call);
    int err = call->err == ERR_NOTFOUND ? ERR_NOSHARD : call->err; /* as in a cluster */
    answered(&w->asks[0], err, call->value, &call->bytes,
             call->text != NULL && call->text[0] != '\0' ? call->text : err_text_of(err));
}

static void ask_directory(struct cairn_watch *w)
{
    struct watch_direct *d = &w->direct;
    struct msg_watch query = watch_reader_query(w->reader, 0);
    d->watch.what = query.what;
    d->watch.from = query.from;
    d->watch.type = query.type;
    d->watch.max = query.max;
    d->watch.bytes_max = query.bytes_max;
    d->watch.wait_ms = w->asks[0].opened ? WATCH_POLL_MS : 0;
    d->watch.values = query.values != 0;
    d->watch.ptr = query.ptr;
    d->watch.token = query.token;
    d->watch.at = query.at;
    d->watch.name = query.name;
    d->request = (struct embedded_request){.op = EMBEDDED_WATCH, .out = &d->watch};
    d->call = (struct embedded_call){.request = &d->request, .done = on_direct};
    w->asks[0].running = true;
    w->running++;
    sdk__embedded_watch(w->heap, &d->call);
}

static void ask_shard(struct cairn_watch *w, uint32_t i)
{
    struct watch_ask *ask = &w->asks[i];
    struct msg_watch query = watch_reader_query(w->reader, i);
    if (w->heap->client->embedded != NULL) {
        ask_directory(w);
        return;
    }
    core_call_init(&ask->call, NULL);
    query.wait_ms = ask->opened ? WATCH_POLL_MS : 0;
    ask->call.cb = on_answer;
    ask->call.timeout_ms = w->heap->client->timeout_ms + query.wait_ms;
    int rv = core_prepare_watch(&ask->call, w->heap->core, w->reader->sources[i].shard, &query);
    if (rv != 0) {
        core_call_discard(&ask->call);
        (void)pthread_mutex_lock(&w->lock);
        end(w, rv, ask->call.text);
        tell(w);
        return;
    }
    ask->running = true;
    w->running++;
    core_call(w->heap->client->core, &ask->call);
}

static void pump(struct cairn_watch *w)
{
    for (uint32_t i = 0; i < w->reader->count; i++) {
        (void)pthread_mutex_lock(&w->lock);
        bool wants = w->err == 0 && !w->asks[i].running && watch_reader_wants(w->reader, i);
        (void)pthread_mutex_unlock(&w->lock);
        if (wants) {
            ask_shard(w, i);
        }
    }
}

static void on_pump(struct sdk_item *item)
{
    struct cairn_watch *w = container_of(item, struct cairn_watch, pump);
    (void)pthread_mutex_lock(&w->lock);
    w->pumping = false;
    (void)pthread_mutex_unlock(&w->lock);
    pump(w);
}

/* Behind every pump that was on its way. */
static void on_close(struct sdk_item *item)
{
    struct cairn_watch *w = container_of(item, struct cairn_watch, close);
    struct cairn_client *client = w->heap->client;
    w->closed = true;
    if (w->wanted != NULL) {
        w->wanted->call.err = CAIRN_E_CANCELED;
        w->wanted->call.cb(&w->wanted->call);
    }
    if (client->embedded != NULL) {
        client->embedded->watch_close(client->db, &w->direct.watch);
    }
    if (w->running == 0) {
        destroy(w);
        return;
    }
    for (uint32_t i = 0; client->embedded == NULL && i < w->reader->count; i++) {
        if (w->asks[i].running) {
            core_call_cancel(&w->asks[i].call, CAIRN_E_CANCELED);
        }
    }
}

/* ---- opening ---- */

void cairn_watch_opts_init(cairn_watch_opts *opts, size_t struct_size)
{
    cairn_watch_opts all = {
        .struct_size = struct_size, .from = CAIRN_WATCH_NOW, .bytes_max = 16u << 20};
    if (opts == NULL) {
        return;
    }
    memset(opts, 0, struct_size);
    memcpy(opts, &all, struct_size < sizeof all ? struct_size : sizeof all);
}

/* With the lock. */
static void push_pump(struct cairn_watch *w)
{
    if (!w->pumping) {
        w->pumping = true;
        sdk__push(w->heap->client, &w->pump);
    }
}

static struct cairn_watch *watch_new(struct cairn_heap *heap, struct watch_reader *reader)
{
    struct cairn_watch *w = mem_zalloc(sizeof *w + reader->count * sizeof w->asks[0]);
    pthread_condattr_t monotonic;
    if (w == NULL) {
        return NULL;
    }
    w->heap = heap;
    w->reader = reader;
    w->unopened = reader->count;
    w->pump.run = on_pump;
    w->close.run = on_close;
    for (uint32_t i = 0; i < reader->count; i++) {
        w->asks[i].watch = w;
    }
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&w->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    return w;
}

/* Its lock may be held by a thread that this process doesn't have. */
static int foreign(void)
{
    return sdk__because(CAIRN_E_CLOSED, "the watch belongs to this process's parent");
}

static int open_watch(struct cairn_heap *heap, const struct msg_watch *what, uint32_t shard,
                      uint32_t count, const cairn_watch_opts *opts, cairn_watch **watch)
{
    cairn_watch_opts taken;
    struct watch_reader *reader = NULL;
    cairn_watch_opts_init(&taken, sizeof taken);
    if (opts != NULL &&
        (opts->struct_size < sizeof opts->struct_size || opts->struct_size > 4096)) {
        return sdk__fail(CAIRN_E_INVAL, "set up the options with cairn_watch_opts_init()");
    }
    if (opts != NULL) {
        memcpy(&taken, opts, opts->struct_size < sizeof taken ? opts->struct_size : sizeof taken);
    }
    if (sdk__is_foreign(heap->client)) {
        return foreign();
    }
    if (sdk__on_library_thread(heap->client)) {
        return sdk__fail(CAIRN_E_INVAL, "a watch can't be opened in a callback");
    }
    if (taken.bytes_max < watch_reader_bytes_min(count)) {
        return sdk__fail(CAIRN_E_INVAL, "a watch of %u shards needs bytes_max of %llu or more",
                         count, (unsigned long long)watch_reader_bytes_min(count));
    }
    int rv = watch_reader_new(what, core_heap_id(heap->core), shard, count, &taken, &reader);
    if (rv != 0) {
        return sdk__fail(rv, "%s",
                         rv != CAIRN_E_INVAL ? ""
                         : taken.from == CAIRN_WATCH_TOKEN
                             ? "the token is none, or of another watch or heap"
                             : "a watch begins at a token, a version that isn't 0, now, or the "
                               "oldest change");
    }
    struct cairn_watch *w = watch_new(heap, reader);
    if (w == NULL) {
        watch_reader_free(reader);
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    (void)pthread_mutex_lock(&w->lock);
    push_pump(w);
    while (w->unopened > 0 && w->err == 0) {
        (void)pthread_cond_wait(&w->wake, &w->lock);
    }
    rv = w->err == 0 ? 0 : sdk__fail(w->err, "%s", w->text);
    (void)pthread_mutex_unlock(&w->lock);
    if (rv != 0) {
        cairn_watch_free(w);
        return rv;
    }
    *watch = w;
    return 0;
}

/* What every way to open one needs. */
static int check_open(const struct cairn_heap *heap, cairn_watch **watch)
{
    if (watch == NULL) {
        return sdk__missing("watch");
    }
    *watch = NULL;
    return heap != NULL ? 0 : sdk__missing("heap");
}

#define POINTER_SHARD_SHIFT 52 /* shard:12 | generation:14 | slot:38 */

int cairn_watch_object(cairn_heap *heap, cairn_ptr ptr, const cairn_watch_opts *opts,
                       cairn_watch **watch)
{
    struct msg_watch what = {.what = WATCH_OBJECT, .ptr = ptr.word};
    int bad = check_open(heap, watch);
    if (bad != 0) {
        return bad;
    }
    uint64_t shard = ptr.word >> POINTER_SHARD_SHIFT;
    if (cairn_ptr_is_null(ptr) || shard >= core_heap_shards(heap->core)) {
        return sdk__fail(CAIRN_E_INVAL, "no pointer of this heap");
    }
    return open_watch(heap, &what, (uint32_t)shard, 1, opts, watch);
}

static int name_of(const char *text, size_t min, struct slice *name)
{
    size_t len = text == NULL ? 0 : strnlen(text, ROOT_NAME_BYTES_MAX + 1);
    if (text == NULL || len < min || len > ROOT_NAME_BYTES_MAX) {
        return sdk__fail(CAIRN_E_INVAL, "a root's name has 1..%d bytes", ROOT_NAME_BYTES_MAX);
    }
    *name = slice_of(text, len);
    return 0;
}

int cairn_watch_root(cairn_heap *heap, const char *name, const cairn_watch_opts *opts,
                     cairn_watch **watch)
{
    struct msg_watch what = {.what = WATCH_ROOT};
    int rv = check_open(heap, watch);
    if (rv == 0) {
        rv = name_of(name, 1, &what.name);
    }
    return rv != 0 ? rv
                   : open_watch(heap, &what, core_heap_root_shard(heap->core, what.name), 1, opts,
                                watch);
}

static int open_all(struct cairn_heap *heap, const struct msg_watch *what,
                    const cairn_watch_opts *opts, cairn_watch **watch)
{
    return open_watch(heap, what, 0, core_heap_shards(heap->core), opts, watch);
}

int cairn_watch_roots(cairn_heap *heap, const char *prefix, const cairn_watch_opts *opts,
                      cairn_watch **watch)
{
    struct msg_watch what = {.what = WATCH_ROOTS};
    int rv = check_open(heap, watch);
    if (rv == 0) {
        rv = name_of(prefix, 0, &what.name);
    }
    return rv != 0 ? rv : open_all(heap, &what, opts, watch);
}

int cairn_watch_type(cairn_heap *heap, uint32_t type, const cairn_watch_opts *opts,
                     cairn_watch **watch)
{
    struct msg_watch what = {.what = WATCH_TYPE, .type = type};
    int rv = check_open(heap, watch);
    return rv != 0 ? rv : open_all(heap, &what, opts, watch);
}

int cairn_watch_heap(cairn_heap *heap, const cairn_watch_opts *opts, cairn_watch **watch)
{
    struct msg_watch what = {.what = WATCH_ALL};
    int rv = check_open(heap, watch);
    return rv != 0 ? rv : open_all(heap, &what, opts, watch);
}

/* ---- taking ---- */

int cairn_watch_next(cairn_watch *watch, uint32_t timeout_ms, const cairn_event **event)
{
    struct timespec until = sdk_time_after(timeout_ms);
    uint32_t emptied = UINT32_MAX;
    int rv = 0;
    if (watch == NULL || event == NULL) {
        return sdk__missing(watch == NULL ? "watch" : "event");
    }
    *event = NULL;
    if (sdk__is_foreign(watch->heap->client)) {
        return foreign();
    }
    if (timeout_ms != 0 && sdk__on_library_thread(watch->heap->client)) {
        return sdk__fail(CAIRN_E_INVAL, "waiting in a callback would wait for ever");
    }
    (void)pthread_mutex_lock(&watch->lock);
    while (watch->err == 0 && !watch_reader_has(watch->reader) && timeout_ms != 0 &&
           rv != ETIMEDOUT) {
        rv = timeout_ms == UINT32_MAX ? pthread_cond_wait(&watch->wake, &watch->lock)
                                      : pthread_cond_timedwait(&watch->wake, &watch->lock, &until);
    }
    if (watch_reader_next(watch->reader, &watch->event, &emptied)) {
        *event = &watch->event; /* also when it has ended: what came before comes before */
        rv = 0;
    } else {
        rv = watch->err != 0 ? watch->err : CAIRN_E_TIMEOUT;
        if (watch->err != 0) {
            (void)sdk__fail(rv, "%s", watch->text);
        } else {
            (void)sdk__fail(rv, "no change came within %" PRIu32 " ms", timeout_ms);
        }
    }
    if (emptied != UINT32_MAX) {
        push_pump(watch);
    }
    (void)pthread_mutex_unlock(&watch->lock);
    return rv;
}

int cairn_watch_ready_async(cairn_watch *watch, cairn_future **future)
{
    if (watch == NULL || future == NULL) {
        return sdk__missing(watch == NULL ? "watch" : "future");
    }
    *future = NULL;
    if (sdk__is_foreign(watch->heap->client)) {
        return foreign();
    }
    struct cairn_future *f = sdk__future_new(watch->heap);
    if (f == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "%s", "");
    }
    f->call.kind = KIND_WATCH;
    (void)pthread_mutex_lock(&watch->lock);
    bool busy = watch->wanted != NULL;
    if (!busy && (watch->err != 0 || watch_reader_has(watch->reader))) {
        sdk__future_ready(f);
    } else if (!busy) {
        watch->wanted = f;
    }
    (void)pthread_mutex_unlock(&watch->lock);
    if (busy) {
        sdk__future_ready(f);
        cairn_future_free(f);
        return sdk__fail(CAIRN_E_INVAL, "a watch has one future at a time");
    }
    *future = f;
    return 0;
}

int cairn_watch_token(cairn_watch *watch, char *token, size_t bytes)
{
    char text[CAIRN_WATCH_TOKEN_BYTES];
    if (watch == NULL || token == NULL) {
        return sdk__missing(watch == NULL ? "watch" : "token");
    }
    if (sdk__is_foreign(watch->heap->client)) {
        return foreign();
    }
    (void)pthread_mutex_lock(&watch->lock);
    watch_reader_token(watch->reader, text);
    (void)pthread_mutex_unlock(&watch->lock);
    size_t len = strlen(text) + 1;
    if (bytes < len) {
        return sdk__fail(CAIRN_E_RANGE, "the token has %zu bytes: give a buffer of %u", len,
                         CAIRN_WATCH_TOKEN_BYTES);
    }
    memcpy(token, text, len);
    return 0;
}

void cairn_watch_free(cairn_watch *watch)
{
    if (watch != NULL && !sdk__is_foreign(watch->heap->client)) {
        sdk__push(watch->heap->client, &watch->close);
    }
}
