/* A directory on this machine instead of a cluster (ADR 0006): "file://DIR".
 *
 * Calls are checked and encoded as for a cluster, on the caller's thread; here the request is
 * decoded again and handed to the embedded mode, whose table whoever links this library has given
 * us. What needs no node (sessions, numbers, routing) isn't there. */
#include "base/embedded.h"

#include <string.h>

#include "base/assert.h"
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

void sdk__embedded_heap_close(struct cairn_heap *heap)
{
    struct place *place = container_of(heap->core->shards[0], struct place, shard);
    core_heap_close(heap->core);
    mem_free(place);
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
    core->count = 1;
    core->shards[0] = &place->shard;
    call->opened = core;
    return 0;
}

/* A second step behind the creation: a crash in between leaves a heap that keeps no history. */
static int keep_history(struct cairn_client *client, struct slice name, uint64_t retention_ms,
                        struct err_text *e)
{
    struct embedded_heap *heap = NULL;
    struct embedded_call c = {.op = EMBEDDED_SET_RETENTION, .size = retention_ms};
    int rv = client->embedded->heap_open(client->db, name, &heap, e);
    if (rv == 0) {
        client->embedded->run(heap, &c, client->timeout_ms);
        rv = err_set(e, c.err, "%s", c.text == NULL ? "" : c.text);
    }
    return rv;
}

/* A heap here has one shard, whatever was asked for: its limit is that of all of them together. */
static int heap_create(struct cairn_client *client, struct core_call *call, struct slice body)
{
    struct msg_heap_create m;
    struct err_text e = {{0}};
    int rv = message_decode_heap_create(body, &m);
    assert(rv == 0 && m.shard_count > 0);
    if (m.shard_bytes_max > UINT64_MAX / m.shard_count) {
        return refuse(call, ERR_INVAL, "no heap is that large");
    }
    rv = client->embedded->heap_create(client->db, m.name, m.shard_bytes_max * m.shard_count, &e);
    if (rv == 0 && m.retention_ms != 0) {
        rv = keep_history(client, m.name, m.retention_ms, &e);
    }
    return refuse(call, rv, e.text);
}

static int admin(struct cairn_client *client, struct core_call *call, struct slice body)
{
    struct msg_admin m;
    int rv = message_decode_admin(body, &m);
    assert(rv == 0);
    if (!slice_equals(m.verb, slice_of("status", 6))) {
        return refuse(call, ERR_UNSUPPORTED, "a directory answers \"status\" only");
    }
    return refuse(call, client->embedded->status(client->db, &call->bytes), NULL);
}

/* False: it does concern one heap. */
static bool run_directory(struct cairn_client *client, struct core_call *call)
{
    struct slice body = slice_of(call->op->body, call->op->len);
    struct err_text e = {{0}};
    struct msg_heap_drop drop;
    struct msg_heap_open open;
    switch (call->kind) {
    case KIND_HEAP_CREATE:
        (void)heap_create(client, call, body);
        return true;
    case KIND_HEAP_DROP:
        (void)message_decode_heap_drop(body, &drop);
        (void)refuse(call, client->embedded->heap_drop(client->db, drop.name, &e), e.text);
        return true;
    case KIND_HEAP_OPEN:
        (void)message_decode_heap_open(body, &open);
        (void)heap_open(client, call, open.name);
        return true;
    case KIND_ADMIN:
        (void)admin(client, call, body);
        return true;
    default:
        return false;
    }
}

/* ---- requests as calls: we have encoded them, so that they decode ---- */

#define DECODE(name)                                                                               \
    struct msg_##name m;                                                                           \
    int rv = message_decode_##name(body, &m);                                                      \
    assert(rv == 0)

static void take_alloc(struct slice body, struct embedded_call *c)
{
    DECODE(alloc);
    c->op = EMBEDDED_ALLOC;
    c->size = m.size;
    c->type = m.type;
    c->data = m.init;
}

static void take_free(struct slice body, struct embedded_call *c)
{
    DECODE(free);
    c->op = EMBEDDED_FREE;
    c->ptr = m.ptr;
}

static void take_write(struct slice body, struct embedded_call *c)
{
    DECODE(write);
    c->op = EMBEDDED_WRITE;
    c->ptr = m.ptr;
    c->offset = m.offset;
    c->data = m.data;
}

static void take_compare_and_write(struct slice body, struct embedded_call *c)
{
    DECODE(compare_and_write);
    c->op = EMBEDDED_COMPARE_AND_WRITE;
    c->ptr = m.ptr;
    c->offset = m.offset;
    c->expected = m.expected;
    c->data = m.desired;
}

static void take_add(struct slice body, struct embedded_call *c)
{
    DECODE(add_u64);
    c->op = EMBEDDED_ADD_U64;
    c->ptr = m.ptr;
    c->offset = m.offset;
    c->delta = m.delta;
}

static void take_write_if_version(struct slice body, struct embedded_call *c)
{
    DECODE(write_if_version);
    c->op = EMBEDDED_WRITE_IF_VERSION;
    c->ptr = m.ptr;
    c->if_version = m.version;
    c->offset = m.offset;
    c->data = m.data;
}

static void take_root_set(struct slice body, struct embedded_call *c)
{
    DECODE(root_set);
    c->op = EMBEDDED_ROOT_SET;
    c->name = m.name;
    c->ptr = m.ptr;
}

static void take_root_compare_and_set(struct slice body, struct embedded_call *c)
{
    DECODE(root_compare_and_set);
    c->op = EMBEDDED_ROOT_COMPARE_AND_SET;
    c->name = m.name;
    c->expected_ptr = m.expected;
    c->ptr = m.desired;
}

static void take_root_delete(struct slice body, struct embedded_call *c)
{
    DECODE(root_delete);
    c->op = EMBEDDED_ROOT_DELETE;
    c->name = m.name;
}

static void take_stat(struct slice body, struct embedded_call *c)
{
    DECODE(stat);
    c->op = EMBEDDED_STAT;
    c->ptr = m.ptr;
    c->if_version = m.at;
}

static void take_root_get(struct slice body, struct embedded_call *c)
{
    DECODE(root_get);
    c->op = EMBEDDED_ROOT_GET;
    c->name = m.name;
}

static void take_root_list(struct slice body, struct embedded_call *c)
{
    DECODE(root_list);
    c->op = EMBEDDED_ROOT_LIST;
    c->name = m.after;
    c->count = m.max;
}

static void take_realloc(struct slice body, struct embedded_call *c)
{
    DECODE(realloc);
    c->op = EMBEDDED_REALLOC;
    c->ptr = m.ptr;
    c->size = m.size;
}

static void take_type_register(struct slice body, struct embedded_call *c)
{
    DECODE(type_register);
    c->op = EMBEDDED_TYPE_REGISTER;
    c->type = m.number;
    c->data = m.descriptor;
}

static void take_type_list(struct slice body, struct embedded_call *c)
{
    DECODE(type_list);
    c->op = EMBEDDED_TYPE_LIST;
    c->type = m.after;
    c->count = m.max;
}

static void take_history(struct slice body, struct embedded_call *c)
{
    DECODE(history);
    c->op = EMBEDDED_HISTORY;
    c->ptr = m.ptr;
    c->offset = m.skip;
    c->count = m.max;
}

static void take_object_list(struct slice body, struct embedded_call *c)
{
    DECODE(object_list);
    c->op = EMBEDDED_OBJECT_LIST;
    c->offset = m.from;
    c->count = m.max;
    c->size = m.typed;
    c->type = m.type;
}

static void take_set_retention(struct slice body, struct embedded_call *c)
{
    DECODE(set_retention);
    c->op = EMBEDDED_SET_RETENTION;
    c->size = m.retention_ms;
}

static void take_defrag(struct slice body, struct embedded_call *c)
{
    DECODE(defrag);
    c->op = EMBEDDED_DEFRAG;
    c->count = m.bytes;
}

static void take_trim(struct slice body, struct embedded_call *c)
{
    DECODE(trim);
    c->op = EMBEDDED_TRIM;
    c->size = m.bytes;
}

static bool take(const struct core_call *call, struct embedded_call *c)
{
    static const struct {
        uint16_t kind;
        void (*take)(struct slice body, struct embedded_call *c);
    } table[] = {
        {KIND_ALLOC, take_alloc},
        {KIND_FREE, take_free},
        {KIND_WRITE, take_write},
        {KIND_COMPARE_AND_WRITE, take_compare_and_write},
        {KIND_ADD_U64, take_add},
        {KIND_WRITE_IF_VERSION, take_write_if_version},
        {KIND_ROOT_SET, take_root_set},
        {KIND_ROOT_COMPARE_AND_SET, take_root_compare_and_set},
        {KIND_ROOT_DELETE, take_root_delete},
        {KIND_STAT, take_stat},
        {KIND_ROOT_GET, take_root_get},
        {KIND_ROOT_LIST, take_root_list},
        {KIND_REALLOC, take_realloc},
        {KIND_TYPE_REGISTER, take_type_register},
        {KIND_TYPE_LIST, take_type_list},
        {KIND_HISTORY, take_history},
        {KIND_OBJECT_LIST, take_object_list},
        {KIND_SET_RETENTION, take_set_retention},
        {KIND_DEFRAG, take_defrag},
        {KIND_TRIM, take_trim},
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
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].kind == call->kind) {
            table[i].take(slice_of(call->op->body, call->op->len), c);
            return true;
        }
    }
    return false;
}

static void give(struct core_call *call, struct embedded_call *c)
{
    (void)refuse(call, c->err, c->text);
    call->value = c->value;
    call->version = c->version;
    call->size = c->object_size;
    call->type = c->object_type;
    call->flags = c->object_flags;
    call->more = c->more;
    call->bytes = c->bytes;
}

/* ---- the two ways to run one ---- */

static void drop_request(struct core_call *call)
{
    core__op_free(call->op);
    call->op = NULL;
}

void sdk__embedded_run(struct cairn_future *future)
{
    struct cairn_client *client = future->client;
    struct core_call *call = &future->call;
    if (!run_directory(client, call)) {
        if (take(call, &future->direct)) {
            client->embedded->run(heap_of(call), &future->direct, client->timeout_ms);
            give(call, &future->direct);
        } else {
            (void)refuse(call, ERR_UNSUPPORTED, "not in the embedded mode");
        }
    }
    drop_request(call);
    atomic_store(&future->state, FUTURE_READY);
}

static void on_done(struct embedded_call *direct)
{
    struct cairn_future *future = container_of(direct, struct cairn_future, direct);
    give(&future->call, direct);
    drop_request(&future->call);
    future->call.cb(&future->call);
}

void sdk__embedded_submit(struct cairn_future *future)
{
    struct cairn_client *client = future->client;
    struct core_call *call = &future->call;
    bool known = take(call, &future->direct);
    if (known && !client->embedded->is_foreign(client->db)) {
        future->direct.done = on_done;
        client->embedded->submit(heap_of(call), &future->direct);
        return;
    }
    (void)refuse(call, known ? ERR_CLOSED : ERR_UNSUPPORTED,
                 known ? "this process was forked from the one that opened the directory"
                       : "not in the embedded mode");
    drop_request(call);
    call->cb(call);
}
