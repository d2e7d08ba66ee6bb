/* A directory on this machine instead of a cluster (ADR 0006): "file://DIR".
 *
 * Calls are checked as for a cluster, on the caller's thread; here the request, which nobody has
 * encoded, is handed to the embedded mode, whose table whoever links this library has given us.
 * What needs a node (sessions, numbers, routing) isn't there. */
#include "base/embedded.h"

#include <string.h>

#include "base/assert.h"
#include "base/hlc.h"
#include "base/mem.h"
#include "client/internal.h"
#include "client/sdk.h"

static const struct embedded_ops *embedded;

void sdk__embedded_use(const struct embedded_ops *ops)
{
    embedded = ops;
}

/* Where an opened heap's requests go: its only shard. */
struct place {
    struct core_shard shard;
    struct embedded_heap *heap;
    _Atomic uint32_t users; /* the open heap, and who has sdk__embedded_keep()t it */
};

static struct embedded_heap *heap_of(const struct core_call *call)
{
    return container_of(call->shard, struct place, shard)->heap;
}

/* ---- life ---- */

static void on_post(struct embedded_post *post)
{
    sdk__items_run(container_of(post, struct cairn_client, embedded_post));
}

int sdk__embedded_connect(const char *url, struct cairn_client *client)
{
    struct err_text e = {{0}};
    if (embedded == NULL) {
        return sdk__fail(CAIRN_E_UNSUPPORTED, "this program was built without the embedded mode");
    }
    client->embedded = embedded;
    client->embedded_post.run = on_post;
    int rv = embedded->open(url, &client->db, &e);
    return rv == 0 ? 0 : sdk__fail(rv, "%s", e.text);
}

void sdk__embedded_keep(struct core_shard *shard)
{
    atomic_fetch_add(&container_of(shard, struct place, shard)->users, 1);
}

void sdk__embedded_let_go(struct core_shard *shard)
{
    struct place *place = container_of(shard, struct place, shard);
    if (atomic_fetch_sub(&place->users, 1) == 1) {
        sdk__lease_pool_free(shard->pool);
        mem_free(place);
    }
}

void sdk__embedded_heap_close(struct cairn_heap *heap)
{
    struct core_shard *shard = heap->core->shards[0];
    sdk__lease_pool_return(shard);
    core_heap_close(heap->core);
    sdk__embedded_let_go(shard);
    mem_free(heap);
}

/* ---- what doesn't concern one heap ---- */

static int refuse(struct core_call *call, int err, const char *text)
{
    size_t len = text == NULL ? 0 : strnlen(text, sizeof call->text - 1);
    if (len > 0) {
        memcpy(call->text, text, len);
    }
    call->text[len] = '\0';
    call->err = err;
    return err;
}

static int heap_open(struct cairn_client *client, struct core_call *call, struct slice name)
{
    struct err_text e = {{0}};
    struct embedded_heap *heap = NULL;
    int rv = client->embedded->heap_open(client->db, name, &heap, &e);
    if (rv != 0) {
        return refuse(call, rv, e.text);
    }
    struct place *place = mem_zalloc(sizeof *place);
    struct core_heap *core = mem_zalloc(sizeof *core + sizeof(struct core_shard *));
    if (place == NULL || core == NULL) {
        mem_free(place);
        mem_free(core);
        return refuse(call, ERR_NOMEM, NULL);
    }
    place->heap = heap;
    place->users = 1;
    core->id = client->embedded->heap_mark(heap);
    core->count = 1;
    core->shards[0] = &place->shard;
    call->opened = core;
    return 0;
}

/* A heap here has one shard, whatever was asked for: its limit is that of all of them together. */
static int heap_create(struct cairn_client *client, struct core_call *call)
{
    const struct msg_heap_create *m = &call->request->heap_create;
    struct err_text e = {{0}};
    assert(m->shard_count > 0);
    if (m->shard_bytes_max > UINT64_MAX / m->shard_count) {
        return refuse(call, ERR_INVAL, "no heap is that large");
    }
    int rv = client->embedded->heap_create(client->db, m->name, m->shard_bytes_max * m->shard_count,
                                           m->retention_ms, client->timeout_ms, &e);
    return refuse(call, rv, e.text);
}

static int admin(struct cairn_client *client, struct core_call *call)
{
    if (!slice_equals(call->request->admin.verb, slice_of("status", 6))) {
        return refuse(call, ERR_UNSUPPORTED, "a directory answers \"status\" only");
    }
    return refuse(call, client->embedded->status(client->db, &call->bytes), NULL);
}

/* False: it does concern one heap. */
static bool run_directory(struct cairn_client *client, struct core_call *call)
{
    struct err_text e = {{0}};
    switch (call->kind) {
    case KIND_HEAP_CREATE:
        (void)heap_create(client, call);
        return true;
    case KIND_HEAP_DROP:
        (void)refuse(call,
                     client->embedded->heap_drop(client->db, call->request->heap_drop.name,
                                                 client->timeout_ms, &e),
                     e.text);
        return true;
    case KIND_HEAP_OPEN:
        (void)heap_open(client, call, call->request->heap_open.name);
        return true;
    case KIND_ADMIN:
        (void)admin(client, call);
        return true;
    default:
        return false;
    }
}

/* ---- requests as calls ---- */

static void take_alloc(const union core_request *r, struct embedded_request *c)
{
    const struct msg_alloc *m = &r->alloc;
    c->op = EMBEDDED_ALLOC;
    c->size = m->size;
    c->type = m->type;
    c->data = slice_of(m->init.data, m->init.len);
}

static void take_free(const union core_request *r, struct embedded_request *c)
{
    const struct msg_free *m = &r->free;
    c->op = EMBEDDED_FREE;
    c->ptr = m->ptr;
}

static void take_write(const union core_request *r, struct embedded_request *c)
{
    const struct msg_write *m = &r->write;
    c->op = EMBEDDED_WRITE;
    c->ptr = m->ptr;
    c->offset = m->offset;
    c->data = m->data;
}

static void take_compare_and_write(const union core_request *r, struct embedded_request *c)
{
    const struct msg_compare_and_write *m = &r->compare_and_write;
    c->op = EMBEDDED_COMPARE_AND_WRITE;
    c->ptr = m->ptr;
    c->offset = m->offset;
    c->expected = m->expected;
    c->data = m->desired;
}

static void take_add(const union core_request *r, struct embedded_request *c)
{
    const struct msg_add_u64 *m = &r->add_u64;
    c->op = EMBEDDED_ADD_U64;
    c->ptr = m->ptr;
    c->offset = m->offset;
    c->delta = m->delta;
}

static void take_write_if_version(const union core_request *r, struct embedded_request *c)
{
    const struct msg_write_if_version *m = &r->write_if_version;
    c->op = EMBEDDED_WRITE_IF_VERSION;
    c->ptr = m->ptr;
    c->if_version = m->version;
    c->offset = m->offset;
    c->data = m->data;
}

static void take_root_set(const union core_request *r, struct embedded_request *c)
{
    const struct msg_root_set *m = &r->root_set;
    c->op = EMBEDDED_ROOT_SET;
    c->name = m->name;
    c->ptr = m->ptr;
}

static void take_root_compare_and_set(const union core_request *r, struct embedded_request *c)
{
    const struct msg_root_compare_and_set *m = &r->root_compare_and_set;
    c->op = EMBEDDED_ROOT_COMPARE_AND_SET;
    c->name = m->name;
    c->expected_ptr = m->expected;
    c->ptr = m->desired;
}

static void take_root_delete(const union core_request *r, struct embedded_request *c)
{
    const struct msg_root_delete *m = &r->root_delete;
    c->op = EMBEDDED_ROOT_DELETE;
    c->name = m->name;
}

static void take_stat(const union core_request *r, struct embedded_request *c)
{
    const struct msg_stat *m = &r->stat;
    c->op = EMBEDDED_STAT;
    c->ptr = m->ptr;
    c->if_version = m->at;
}

static void take_root_get(const union core_request *r, struct embedded_request *c)
{
    const struct msg_root_get *m = &r->root_get;
    c->op = EMBEDDED_ROOT_GET;
    c->name = m->name;
    c->if_version = m->at;
}

static void take_root_list(const union core_request *r, struct embedded_request *c)
{
    const struct msg_root_list *m = &r->root_list;
    c->op = EMBEDDED_ROOT_LIST;
    c->name = m->after;
    c->if_version = m->at;
    c->count = m->max;
}

static void take_realloc(const union core_request *r, struct embedded_request *c)
{
    const struct msg_realloc *m = &r->realloc;
    c->op = EMBEDDED_REALLOC;
    c->ptr = m->ptr;
    c->size = m->size;
}

static void take_type_register(const union core_request *r, struct embedded_request *c)
{
    const struct msg_type_register *m = &r->type_register;
    c->op = EMBEDDED_TYPE_REGISTER;
    c->type = m->number;
    c->data = m->descriptor;
}

static void take_type_list(const union core_request *r, struct embedded_request *c)
{
    const struct msg_type_list *m = &r->type_list;
    c->op = EMBEDDED_TYPE_LIST;
    c->type = m->after;
    c->count = m->max;
}

static void take_history(const union core_request *r, struct embedded_request *c)
{
    const struct msg_history *m = &r->history;
    c->op = EMBEDDED_HISTORY;
    c->ptr = m->ptr;
    c->offset = m->skip;
    c->count = m->max;
}

static void take_object_list(const union core_request *r, struct embedded_request *c)
{
    const struct msg_object_list *m = &r->object_list;
    c->op = EMBEDDED_OBJECT_LIST;
    c->offset = m->from;
    c->count = m->max;
    c->size = m->typed;
    c->type = m->type;
}

static void take_fetch(const union core_request *r, struct embedded_request *c)
{
    const struct msg_fetch *m = &r->fetch;
    c->op = EMBEDDED_FETCH;
    c->if_version = m->at;
    c->type = m->depth;
    c->count = m->bytes_max;
    c->name = m->path;
    c->data = m->starts;
    c->expected = m->known;
}

static void take_set_retention(const union core_request *r, struct embedded_request *c)
{
    const struct msg_set_retention *m = &r->set_retention;
    c->op = EMBEDDED_SET_RETENTION;
    c->size = m->retention_ms;
}

static void take_defrag(const union core_request *r, struct embedded_request *c)
{
    const struct msg_defrag *m = &r->defrag;
    c->op = EMBEDDED_DEFRAG;
    c->count = m->bytes;
}

static void take_trim(const union core_request *r, struct embedded_request *c)
{
    const struct msg_trim *m = &r->trim;
    c->op = EMBEDDED_TRIM;
    c->size = m->bytes;
}

#define SESSION_HERE 1u /* whose the leases are: a directory has one program */

static void take_lease(const union core_request *r, struct embedded_request *c)
{
    const struct msg_lease *m = &r->lease;
    c->op = EMBEDDED_LEASE;
    c->session = SESSION_HERE;
    c->count = m->count;
}

static void take_lease_get(const union core_request *r, struct embedded_request *c)
{
    const struct msg_lease_get *m = &r->lease_get;
    c->op = EMBEDDED_LEASE_GET;
    c->offset = m->lease;
}

static void take_tx_commit_one(const union core_request *r, struct embedded_request *c)
{
    const struct msg_tx_commit_one *m = &r->tx_commit_one;
    c->op = EMBEDDED_TRANSACT;
    c->data = m->part;
}

static void take_tx_validate(const union core_request *r, struct embedded_request *c)
{
    const struct msg_tx_validate *m = &r->tx_validate;
    c->op = EMBEDDED_VALIDATE;
    c->data = m->part;
}

static void take_tx_hold(const union core_request *r, struct embedded_request *c)
{
    (void)r;
    c->op = EMBEDDED_CLOCK;
}

static void take_tx_close(const union core_request *r, struct embedded_request *c)
{
    const struct msg_tx_close *m = &r->tx_close;
    c->op = EMBEDDED_CLOSE;
    c->if_version = m->at;
    c->count = m->keep_ms;
}

static bool take(const struct core_call *call, struct embedded_request *c)
{
    static void (*const table[KIND_LIMIT])(const union core_request *r,
                                           struct embedded_request *c) = {
        [KIND_ALLOC] = take_alloc,
        [KIND_FREE] = take_free,
        [KIND_WRITE] = take_write,
        [KIND_COMPARE_AND_WRITE] = take_compare_and_write,
        [KIND_ADD_U64] = take_add,
        [KIND_WRITE_IF_VERSION] = take_write_if_version,
        [KIND_ROOT_SET] = take_root_set,
        [KIND_ROOT_COMPARE_AND_SET] = take_root_compare_and_set,
        [KIND_ROOT_DELETE] = take_root_delete,
        [KIND_STAT] = take_stat,
        [KIND_ROOT_GET] = take_root_get,
        [KIND_ROOT_LIST] = take_root_list,
        [KIND_REALLOC] = take_realloc,
        [KIND_TYPE_REGISTER] = take_type_register,
        [KIND_TYPE_LIST] = take_type_list,
        [KIND_HISTORY] = take_history,
        [KIND_OBJECT_LIST] = take_object_list,
        [KIND_FETCH] = take_fetch,
        [KIND_SET_RETENTION] = take_set_retention,
        [KIND_DEFRAG] = take_defrag,
        [KIND_TRIM] = take_trim,
        [KIND_LEASE] = take_lease,
        [KIND_LEASE_GET] = take_lease_get,
        [KIND_TX_COMMIT_ONE] = take_tx_commit_one,
        [KIND_TX_VALIDATE] = take_tx_validate,
        [KIND_TX_HOLD] = take_tx_hold,
        [KIND_TX_CLOSE] = take_tx_close,
    };
    memset(c, 0, sizeof *c);
    if (call->kind == KIND_READ) { /* in one piece: nothing has to travel */
        c->op = EMBEDDED_READ;
        c->ptr = call->read.ptr;
        c->offset = call->read.offset;
        c->if_version = call->read.at;
        c->size = call->read.len;
        c->out = call->read.data;
        return true;
    }
    if (table[call->kind] == NULL) {
        return false;
    }
    table[call->kind](call->request, c);
    return true;
}

static void give(struct core_call *call, struct embedded_call *c)
{
    call->err = c->err;
    if (c->err == ERR_SNAPSHOT_TOO_OLD && c->text == NULL) {
        hlc_say_oldest(c->version, c->value, call->text, sizeof call->text);
    } else if (c->err != 0) {
        (void)refuse(call, c->err, c->text);
        sdk__explain(call);
    }
    call->value = c->value;
    call->version = c->version;
    if (!message_is_command(call->kind)) {
        call->size = c->object_size;
        call->type = c->object_type;
        call->flags = c->object_flags;
        call->more = c->more;
        call->bytes = c->bytes;
    }
}

/* ---- the two ways to run one ---- */

/* Its memory was the request's until now. */
static void direct_begin(struct cairn_future *future, const struct embedded_request *request)
{
    memset(&future->direct, 0, sizeof future->direct);
    future->direct.request = request;
}

void sdk__embedded_run(struct cairn_future *future)
{
    struct cairn_client *client = future->client;
    struct core_call *call = &future->call;
    if (!run_directory(client, call)) {
        struct embedded_request request;
        if (take(call, &request)) {
            direct_begin(future, &request);
            client->embedded->run(heap_of(call), &future->direct, client->timeout_ms);
            give(call, &future->direct);
        } else {
            (void)refuse(call, ERR_UNSUPPORTED, "not in the embedded mode");
        }
    }
    atomic_store(&future->state, FUTURE_READY);
}

static bool on_settled(struct embedded_call *direct)
{
    struct cairn_future *future = container_of(direct, struct cairn_future, direct);
    give(&future->call, direct);
    return sdk__future_settled(future);
}

static void on_done(struct embedded_call *direct)
{
    sdk__future_call(container_of(direct, struct cairn_future, direct));
}

bool sdk__embedded_wait(struct cairn_future *future, uint32_t timeout_ms)
{
    return future->client->embedded->wait(future->client->db, &future->direct, timeout_ms);
}

void sdk__embedded_want(struct cairn_future *future)
{
    future->client->embedded->want(future->client->db, &future->direct);
}

void sdk__embedded_submit(struct cairn_future *future)
{
    struct cairn_client *client = future->client;
    struct core_call *call = &future->call;
    struct embedded_request request;
    bool known = take(call, &request);
    if (known && !client->embedded->is_foreign(client->db)) {
        direct_begin(future, &request);
        future->direct.settled = on_settled;
        future->direct.done = on_done;
        client->embedded->submit(heap_of(call), &future->direct);
        return;
    }
    (void)refuse(call, known ? ERR_CLOSED : ERR_UNSUPPORTED,
                 known ? "this process was forked from the one that opened the directory"
                       : "not in the embedded mode");
    call->cb(call);
}

void sdk__embedded_watch(struct cairn_heap *heap, struct embedded_call *call)
{
    struct place *place = container_of(heap->core->shards[0], struct place, shard);
    heap->client->embedded->submit(place->heap, call);
}
