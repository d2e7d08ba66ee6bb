/* Simulated clients: the real client core under a load of registers, counters, roots and objects.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim/cluster/cluster.h"
#include "sim/internal.h"

#define FIRST_VALUE     0u
#define OWN_BYTES       6000u
#define RETENTION_MS    2000u
#define OBJECT_REGISTER 0u /* places of objects in the history */
#define OBJECT_COUNTER  100u
#define OBJECT_ROOT     200u

static void slot_next(struct slot *slot);

static uint64_t below(const struct client_host *client, uint64_t limit)
{
    return env_random_u64(client->env) % limit;
}

/* ---- coming up: connect, create and open the heap, make the shared objects ---- */

static void setup_failed(struct client_host *client, const char *what, const struct core_call *call)
{
    cluster_fail(client->cluster, "client %u: %s: %s: %s", client->index, what, err_name(call->err),
                 call->text);
}

static void submit(struct client_host *client, struct core_call *call, int prepared,
                   core_call_cb cb)
{
    if (prepared != 0) {
        cluster_fail(client->cluster, "client %u: a call was refused: %s: %s", client->index,
                     err_name(prepared), call->text);
        return;
    }
    call->cb = cb;
    if (call == &client->setup) {
        call->timeout_ms = 30000;
    }
    core_call(client->core, call);
}

static void heap_open(struct client_host *client);

static void heap_opened(struct core_call *call)
{
    struct client_host *client = container_of(call, struct client_host, setup);
    if (call->err == ERR_NOTFOUND) {
        heap_open(client); /* client 0 has not made it yet */
        return;
    }
    if (call->err != 0) {
        setup_failed(client, "opening the heap", call);
        return;
    }
    client->heap = call->opened;
    client->ready = true;
    client->setup_running = false;
}

static void heap_open(struct client_host *client)
{
    struct core_call *call = &client->setup;
    memset(call, 0, sizeof *call);
    client->setup_running = true;
    submit(client, call, core_prepare_heap_open(call, client->core, "h"), heap_opened);
}

static void heap_created(struct core_call *call)
{
    struct client_host *client = container_of(call, struct client_host, setup);
    if (call->err != 0 && call->err != ERR_EXISTS) {
        setup_failed(client, "creating the heap", call);
        return;
    }
    heap_open(client);
}

static void client_connected(void *arg, struct core *core, int err, const char *text)
{
    struct client_host *client = arg;
    (void)core;
    if (err != 0) {
        cluster_fail(client->cluster, "client %u can't connect: %s: %s", client->index,
                     err_name(err), text);
        return;
    }
    struct core_call *call = &client->setup;
    memset(call, 0, sizeof *call);
    if (client->index == 0) {
        client->setup_running = true;
        submit(client, call,
               core_prepare_heap_create(call, client->core, "h", client->cluster->shard_count, 3,
                                        32u << 20, RETENTION_MS),
               heap_created);
    } else {
        heap_open(client);
    }
}

static void client_open(void *arg)
{
    struct client_host *client = arg;
    char endpoints[256] = "cairn://";
    for (uint32_t i = 0; i < client->cluster->node_count; i++) {
        size_t n = strlen(endpoints);
        (void)snprintf(endpoints + n, sizeof endpoints - n, "%sn%u:7420", i == 0 ? "" : ",", i + 1);
    }
    struct core_opts opts = {.timeout_ms = client->cluster->tame ? 15000 : 5000, .lease_ms = 30000};
    struct err_text e = {""};
    int rv = core_open(client->env, endpoints, &client->identity, &opts, client_connected, client,
                       &client->core, &e);
    if (rv != 0) {
        cluster_fail(client->cluster, "client %u: %s: %s", client->index, err_name(rv), e.text);
    }
}

/* Objects are made by slot 0 of client 0, one after another. */
static uint64_t *object_place(struct cluster *c, uint32_t n)
{
    if (n < REGISTERS) {
        return &c->registers[n];
    }
    n -= REGISTERS;
    if (n < COUNTERS) {
        return &c->counters[n];
    }
    n -= COUNTERS;
    if (n < LISTS) {
        return &c->lists[n];
    }
    n -= LISTS;
    if (n < ACCOUNTS) {
        return &c->accounts[n];
    }
    n -= ACCOUNTS;
    if (n <
        RELAYS * RELAY_WORDS) { /* one after another: those of a relay are on different shards */
        return &c->relay_words[n / RELAY_WORDS][n % RELAY_WORDS];
    }
    n -= RELAYS * RELAY_WORDS;
    return n < ROOTS ? &c->root_values[n] : NULL;
}

static void object_make(void *arg);

static void object_made(struct core_call *call)
{
    struct client_host *client = container_of(call, struct client_host, setup);
    client->setup_running = false;
    if (call->err != 0) {
        setup_failed(client, "making an object", call);
        return;
    }
    *object_place(client->cluster, (uint32_t)client->next_value++) = call->value;
    object_make(client);
}

static void object_make(void *arg)
{
    struct client_host *client = arg;
    struct core_call *call = &client->setup;
    uint64_t *place = object_place(client->cluster, (uint32_t)client->next_value);
    if (place == NULL) {
        return;
    }
    struct cluster *c = client->cluster;
    bool list = place >= c->lists && place < c->lists + LISTS;
    bool account = place >= c->accounts && place < c->accounts + ACCOUNTS;
    int64_t balance = ACCOUNT_START;
    memset(call, 0, sizeof *call);
    client->setup_running = true;
    submit(client, call,
           core_prepare_alloc(call, client->heap, list ? LIST_BYTES : ACCOUNT_BYTES, 7,
                              slice_of(&balance, account ? sizeof balance : 0)),
           object_made);
}

bool clients_ready(const struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        if (!c->clients[i].ready) {
            return false;
        }
    }
    return c->root_values[ROOTS - 1] != 0;
}

void clients_start(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        struct client_host *client = &c->clients[i];
        char name[16];
        (void)snprintf(name, sizeof name, "u%u", i + 1);
        client->cluster = c;
        client->index = i;
        client->host = sim_host_new(c->sim, name);
        client->env = sim_proc_start(client->host, ENV_ROLE_USER, name);
        (void)snprintf(client->identity.name, sizeof client->identity.name, "%s", name);
        sim_proc_call(client->env, client_open, client);
    }
    uint64_t patience = sim_now_ns(c->sim) + 40 * SIM_SECOND;
    bool making = false;
    while (!c->bad && !clients_ready(c)) {
        cluster_run_ms(c, 20);
        if (c->clients[0].ready && !making) {
            making = true;
            sim_proc_call(c->clients[0].env, object_make, &c->clients[0]);
        }
        if (sim_now_ns(c->sim) > patience) {
            char why[256] = "";
            (void)cluster_settled(c, 0, why, sizeof why);
            cluster_fail(c, "the cluster isn't up after 40 s without a fault (%s)", why);
        }
    }
}

/* ---- the load ---- */

static void count(struct slot *slot, int err)
{
    struct cluster *c = slot->client->cluster;
    if (err == 0 || (err == ERR_STALE && slot->job == JOB_OWN_STALE)) {
        c->counts.ok++;
    } else if (err == ERR_CONFLICT) {
        c->counts.conflicts++;
    } else if (err == ERR_INDOUBT) {
        c->counts.unknown++;
    } else {
        c->counts.failed++;
    }
    bool expected =
        err == 0 || err == ERR_CONFLICT || (slot->job == JOB_OWN_STALE && err == ERR_STALE) ||
        (err == ERR_NOSPACE && (slot->job == JOB_OWN_ALLOC || slot->job == JOB_OWN_WRITE ||
                                slot->job == JOB_OWN_RESIZE)) ||
        (slot->job == JOB_OWN_OLD && err == ERR_SNAPSHOT_TOO_OLD);
    bool weather = cluster_weather(err);
    if (!expected && (!weather || c->tame || c->calm)) {
        cluster_fail(c, "client %u: job %d %s after %" PRIu64 " ms: %s%s", slot->client->index,
                     slot->job, err_name(err), (sim_now_ns(c->sim) - slot->called_ns) / SIM_MS,
                     slot->call.text, weather ? " (no fault excuses it)" : "");
    }
}

static void old_forget(struct own *own)
{
    mem_free(own->old_bytes);
    own->old_bytes = NULL;
    own->old_version = 0;
}

static void own_forget(struct own *own)
{
    old_forget(own);
    mem_free(own->bytes);
    *own = (struct own){0};
}

/* The object holds own->bytes since a change of this version. Some of these moments are kept until
 * the history is too old for them, others make room for a newer one. */
static void own_remember(struct slot *slot, uint64_t version)
{
    struct own *own = slot->own;
    if (own->old_version != 0 && below(slot->client, 4) != 0) {
        return;
    }
    old_forget(own);
    own->old_bytes = sim__alloc(own->len);
    memcpy(own->old_bytes, own->bytes, own->len);
    own->old_len = own->len;
    own->old_version = version;
}

static void own_resize(struct own *own, uint32_t len)
{
    uint8_t *bytes = sim__alloc(len);
    memset(bytes, 0, len);
    memcpy(bytes, own->bytes, len < own->len ? len : own->len);
    mem_free(own->bytes);
    own->bytes = bytes;
    own->len = len;
}

static void own_done(struct slot *slot, int err)
{
    struct cluster *c = slot->client->cluster;
    struct own *own = slot->own;
    own->busy = false;
    switch (slot->job) {
    case JOB_OWN_ALLOC:
        if (err == 0) {
            own->state = OWN_LIVE;
            own->ptr = slot->call.value;
            own_remember(slot, slot->call.version);
        } else {
            own_forget(own);
        }
        break;
    case JOB_OWN_READ:
        if (err == 0 && memcmp(slot->buffer, own->bytes, own->len) != 0) {
            cluster_fail(c, "client %u: object %016" PRIx64 " of %u bytes holds other bytes",
                         slot->client->index, own->ptr, own->len);
        }
        break;
    case JOB_OWN_WRITE:
        if (err == 0) {
            memcpy(own->bytes + slot->offset, slot->buffer, slot->len);
            own_remember(slot, slot->call.version);
        } else if (err == ERR_INDOUBT) {
            own_forget(own); /* either; the object itself is left behind */
        }
        break;
    case JOB_OWN_RESIZE:
        if (err == 0) {
            own_resize(own, slot->len);
            own_remember(slot, slot->call.version);
        } else if (err == ERR_INDOUBT) {
            own_forget(own);
        }
        break;
    case JOB_OWN_OLD:
        if (err == 0 && (memcmp(slot->buffer, own->old_bytes, own->old_len) != 0 ||
                         slot->call.version != own->old_version)) {
            cluster_fail(c,
                         "client %u: object %016" PRIx64 " held other bytes at version %" PRIu64
                         " (answered: %" PRIu64 ")",
                         slot->client->index, own->ptr, own->old_version, slot->call.version);
        }
        if (err == ERR_SNAPSHOT_TOO_OLD) {
            old_forget(own);
        }
        break;
    case JOB_OWN_FREE:
        if (err == 0) {
            own->state = OWN_FREED;
        } else if (err == ERR_INDOUBT) {
            own_forget(own);
        }
        break;
    case JOB_OWN_STALE:
        if (err == 0) {
            cluster_fail(c, "client %u: freed object %016" PRIx64 " can be read",
                         slot->client->index, own->ptr);
        }
        if (err == ERR_STALE && below(slot->client, 2) == 0) {
            own_forget(own);
        }
        break;
    default:
        assert(false);
    }
}

static void slot_done(struct core_call *call)
{
    struct slot *slot = container_of(call, struct slot, call);
    struct cluster *c = slot->client->cluster;
    struct history *h = &c->history;
    int err = call->err;
    uint64_t now = sim_now_ns(c->sim);
    slot->running = false;
    if (slot->job == JOB_ROOT && slot->is_read && err == ERR_NOTFOUND) {
        err = 0; /* an answer like any other: nothing */
        call->value = 0;
    }
    count(slot, err);
    if (slot->job == JOB_REGISTER || slot->job == JOB_COUNTER || slot->job == JOB_ROOT) {
        if (slot->is_cas && (err == 0 || err == ERR_CONFLICT)) {
            history_return(h, slot->op, err == 0, now);
        } else if (err == 0) {
            bool shared = slot->is_read && slot->job != JOB_ROOT;
            uint64_t out = shared ? slot->word : call->value;
            history_return(h, slot->op, out, now);
        } else if (err != ERR_INDOUBT) {
            history_fail(h, slot->op);
        }
    } else if (slot->own != NULL) {
        own_done(slot, err);
    }
    call->bytes.len = 0;
    buf_close(&call->bytes);
    mem_free(slot->buffer);
    slot->buffer = NULL;
    slot->own = NULL;
    slot_next(slot);
}

static void register_start(struct slot *slot)
{
    struct client_host *client = slot->client;
    struct cluster *c = client->cluster;
    uint32_t r = (uint32_t)below(client, REGISTERS);
    uint64_t ptr = c->registers[r], kind = slot->reader ? 0 : below(client, 10);
    uint64_t now = sim_now_ns(c->sim);
    uint64_t value = (uint64_t)(client->index + 1) << 48 | ++client->next_value;
    int rv;
    if (kind < 5) {
        slot->is_read = true;
        slot->op =
            history_call(&c->history, client->index, OBJECT_REGISTER + r, HISTORY_READ, 0, 0, now);
        rv = core_prepare_read(&slot->call, client->heap, ptr, 0, &slot->word, 8);
    } else if (kind < 8) {
        slot->op = history_call(&c->history, client->index, OBJECT_REGISTER + r, HISTORY_WRITE,
                                value, 0, now);
        rv = core_prepare_write(&slot->call, client->heap, ptr, 0, slice_of(&value, 8));
    } else {
        slot->is_cas = true;
        uint64_t expected = slot->word; /* what this slot read last, perhaps of another one */
        slot->op = history_call(&c->history, client->index, OBJECT_REGISTER + r, HISTORY_CAS,
                                expected, value, now);
        rv = core_prepare_compare_and_write(&slot->call, client->heap, ptr, 0,
                                            slice_of(&expected, 8), slice_of(&value, 8));
    }
    submit(client, &slot->call, rv, slot_done);
}

static void counter_start(struct slot *slot)
{
    struct client_host *client = slot->client;
    struct cluster *c = client->cluster;
    uint32_t k = (uint32_t)below(client, COUNTERS);
    uint64_t ptr = c->counters[k], now = sim_now_ns(c->sim);
    int rv;
    if (slot->reader || below(client, 4) == 0) {
        slot->is_read = true;
        slot->op =
            history_call(&c->history, client->index, OBJECT_COUNTER + k, HISTORY_READ, 0, 0, now);
        rv = core_prepare_read(&slot->call, client->heap, ptr, 16, &slot->word, 8);
    } else {
        slot->op =
            history_call(&c->history, client->index, OBJECT_COUNTER + k, HISTORY_ADD, 0, 0, now);
        rv = core_prepare_add_u64(&slot->call, client->heap, ptr, 16, 1);
    }
    submit(client, &slot->call, rv, slot_done);
}

static void root_start(struct slot *slot)
{
    struct client_host *client = slot->client;
    struct cluster *c = client->cluster;
    uint32_t r = (uint32_t)below(client, ROOTS);
    uint64_t now = sim_now_ns(c->sim), kind = slot->reader ? 0 : below(client, 10);
    uint64_t value = c->root_values[below(client, ROOTS)];
    char name[16];
    (void)snprintf(name, sizeof name, "root-%u", r);
    int rv;
    if (kind < 5) {
        slot->is_read = true;
        slot->op =
            history_call(&c->history, client->index, OBJECT_ROOT + r, HISTORY_READ, 0, 0, now);
        rv = core_prepare_root_get(&slot->call, client->heap, name);
    } else if (kind < 8) {
        slot->op =
            history_call(&c->history, client->index, OBJECT_ROOT + r, HISTORY_WRITE, value, 0, now);
        rv = core_prepare_root_set(&slot->call, client->heap, name, value);
    } else {
        slot->is_cas = true;
        uint64_t expected = below(client, 3) == 0 ? 0 : c->root_values[below(client, ROOTS)];
        slot->op = history_call(&c->history, client->index, OBJECT_ROOT + r, HISTORY_CAS, expected,
                                value, now);
        rv = core_prepare_root_compare_and_set(&slot->call, client->heap, name, expected, value);
    }
    submit(client, &slot->call, rv, slot_done);
}

static void own_start(struct slot *slot)
{
    struct client_host *client = slot->client;
    struct own *own = &client->own[below(client, OWN_OBJECTS)];
    uint64_t kind = below(client, 12);
    slot->own = NULL;
    if (own->busy) {
        slot_next(slot);
        return;
    }
    own->busy = true;
    slot->own = own;
    int rv;
    if (own->state == OWN_NONE) {
        slot->job = JOB_OWN_ALLOC;
        own->len = 1 + (uint32_t)below(client, below(client, 4) == 0 ? OWN_BYTES * 4 : OWN_BYTES);
        own->bytes = sim__alloc(own->len);
        uint32_t init = (uint32_t)below(client, own->len + 1);
        env_random(client->env, own->bytes, init);
        rv = core_prepare_alloc(&slot->call, client->heap, own->len, 1, slice_of(own->bytes, init));
    } else if (own->old_version != 0 && below(client, 4) == 0) {
        slot->job = JOB_OWN_OLD; /* of freed ones, too */
        slot->buffer = sim__alloc(own->old_len);
        rv = core_prepare_read_at(&slot->call, client->heap, own->ptr, own->old_version, 0,
                                  slot->buffer, own->old_len);
    } else if (own->state == OWN_FREED) {
        slot->job = JOB_OWN_STALE;
        slot->buffer = sim__alloc(1);
        rv = core_prepare_read(&slot->call, client->heap, own->ptr, 0, slot->buffer, 1);
    } else if (kind < 4) {
        slot->job = JOB_OWN_READ;
        slot->buffer = sim__alloc(own->len);
        rv = core_prepare_read(&slot->call, client->heap, own->ptr, 0, slot->buffer, own->len);
    } else if (kind < 8) {
        slot->job = JOB_OWN_WRITE;
        slot->offset = (uint32_t)below(client, own->len);
        slot->len = 1 + (uint32_t)below(client, own->len - slot->offset);
        slot->buffer = sim__alloc(slot->len);
        env_random(client->env, slot->buffer, slot->len);
        rv = core_prepare_write(&slot->call, client->heap, own->ptr, slot->offset,
                                slice_of(slot->buffer, slot->len));
    } else if (kind < 10) {
        slot->job = JOB_OWN_RESIZE;
        slot->len = 1 + (uint32_t)below(client, OWN_BYTES);
        rv = core_prepare_realloc(&slot->call, client->heap, own->ptr, slot->len);
    } else {
        slot->job = JOB_OWN_FREE;
        rv = core_prepare_free(&slot->call, client->heap, own->ptr);
    }
    submit(client, &slot->call, rv, slot_done);
}

static void upkeep_start(struct slot *slot)
{
    struct client_host *client = slot->client;
    uint32_t shard = (uint32_t)below(client, core_heap_shards(client->heap));
    uint64_t kind = below(client, 10);
    int rv;
    if (kind < 6) {
        rv = core_prepare_defrag(&slot->call, client->heap, shard,
                                 1 + (uint32_t)below(client, 256u << 10));
    } else if (kind < 9) {
        rv = core_prepare_trim(&slot->call, client->heap, shard, 1 + below(client, 1u << 20));
    } else {
        rv = core_prepare_set_retention(&slot->call, client->heap, shard,
                                        below(client, 2 * RETENTION_MS));
    }
    submit(client, &slot->call, rv, slot_done);
}

static void slot_start(struct env_timer *timer)
{
    struct slot *slot = container_of(timer, struct slot, think);
    struct client_host *client = slot->client;
    if (client->quiet) {
        return;
    }
    memset(&slot->call, 0, sizeof slot->call);
    slot->is_read = slot->is_cas = false;
    slot->own = NULL;
    slot->called_ns = sim_now_ns(client->cluster->sim);
    slot->running = true;
    uint64_t kind = below(client, slot->reader ? 7 : 10);
    if (!slot->reader && below(client, 30) == 0) {
        slot->job = JOB_UPKEEP;
        upkeep_start(slot);
    } else if (kind < 4) {
        slot->job = JOB_REGISTER;
        register_start(slot);
    } else if (kind < 6) {
        slot->job = JOB_COUNTER;
        counter_start(slot);
    } else if (kind < 7) {
        slot->job = JOB_ROOT;
        root_start(slot);
    } else {
        slot->job = JOB_IDLE;
        own_start(slot);
    }
}

static void slot_next(struct slot *slot)
{
    struct client_host *client = slot->client;
    slot->running = false;
    slot->think.cb = slot_start;
    uint64_t us = 1 + below(client, client->cluster->think_us * 2);
    env_timer_start(client->env, &slot->think, env_now_ns(client->env) + us * 1000);
}

static void client_go(void *arg)
{
    struct client_host *client = arg;
    client->quiet = false;
    client->next_value = 0;
    for (int i = 0; i < SLOTS_PER_CLIENT; i++) {
        client->slots[i].client = client;
        client->slots[i].reader = i == 0;
        slot_next(&client->slots[i]);
    }
    transactions_go(client);
    watchers_go(client);
    accounts_go(client);
    relay_go(client);
}

void clients_go(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count && !c->bad; i++) {
        sim_proc_call(c->clients[i].env, client_go, &c->clients[i]);
    }
}

void clients_quiet(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        c->clients[i].quiet = true;
    }
}

bool clients_idle(const struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        const struct client_host *client = &c->clients[i];
        for (int s = 0; s < SLOTS_PER_CLIENT; s++) {
            if (client->slots[s].running) {
                return false;
            }
        }
        if (client->setup_running || !transactions_idle(client) || !accounts_idle(client) ||
            !relay_idle(client)) {
            return false;
        }
    }
    return true;
}

/* ---- the end: everything is read once more ---- */

static void final_next(struct slot *slot);

static void final_done(struct core_call *call)
{
    struct slot *slot = container_of(call, struct slot, call);
    struct cluster *c = slot->client->cluster;
    int err = call->err;
    bool root = slot->job == JOB_ROOT, none = root && err == ERR_NOTFOUND;
    if (!none) {
        count(slot, err);
    }
    if (slot->own != NULL) {
        own_done(slot, err);
    } else if (err == 0 || none) {
        uint64_t out = none ? 0 : root ? call->value : slot->word;
        history_return(&c->history, slot->op, out, sim_now_ns(c->sim));
    } else {
        history_fail(&c->history, slot->op);
    }
    mem_free(slot->buffer);
    slot->buffer = NULL;
    slot->own = NULL;
    slot->offset++;
    final_next(slot);
}

/* slot->offset counts: registers, counters, roots, then own objects. */
static void final_next(struct slot *slot)
{
    struct client_host *client = slot->client;
    struct cluster *c = client->cluster;
    uint64_t now = sim_now_ns(c->sim);
    uint32_t n = slot->offset;
    int rv;
    memset(&slot->call, 0, sizeof slot->call);
    slot->called_ns = now;
    slot->own = NULL;
    slot->is_read = true;
    slot->is_cas = false;
    slot->running = true;
    if (n < REGISTERS + COUNTERS) {
        bool reg = n < REGISTERS;
        uint32_t object = reg ? OBJECT_REGISTER + n : OBJECT_COUNTER + n - REGISTERS;
        slot->job = reg ? JOB_REGISTER : JOB_COUNTER;
        slot->op = history_call(&c->history, client->index, object, HISTORY_READ, 0, 0, now);
        rv = core_prepare_read(&slot->call, client->heap,
                               reg ? c->registers[n] : c->counters[n - REGISTERS], reg ? 0 : 16,
                               &slot->word, 8);
    } else if (n < REGISTERS + COUNTERS + ROOTS) {
        char name[16];
        n -= REGISTERS + COUNTERS;
        (void)snprintf(name, sizeof name, "root-%u", n);
        slot->job = JOB_ROOT;
        slot->op =
            history_call(&c->history, client->index, OBJECT_ROOT + n, HISTORY_READ, 0, 0, now);
        rv = core_prepare_root_get(&slot->call, client->heap, name);
    } else {
        n -= REGISTERS + COUNTERS + ROOTS;
        while (n < OWN_OBJECTS && client->own[n].state == OWN_NONE) {
            n++;
            slot->offset++;
        }
        if (n >= OWN_OBJECTS) {
            slot->running = false;
            return;
        }
        slot->own = &client->own[n];
        bool live = slot->own->state == OWN_LIVE;
        uint32_t len = live ? slot->own->len : 1;
        slot->job = live ? JOB_OWN_READ : JOB_OWN_STALE;
        slot->buffer = sim__alloc(len);
        rv = core_prepare_read(&slot->call, client->heap, slot->own->ptr, 0, slot->buffer, len);
    }
    submit(client, &slot->call, rv, final_done);
}

static void client_final(void *arg)
{
    struct client_host *client = arg;
    client->slots[0].offset = 0;
    final_next(&client->slots[0]);
    if (client->index == 0) {
        transactions_final(client);
        accounts_final(client);
    }
}

void clients_final_reads(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count && !c->bad; i++) {
        sim_proc_call(c->clients[i].env, client_final, &c->clients[i]);
    }
}

void clients_check(struct cluster *c)
{
    for (uint32_t i = 0; i < REGISTERS + COUNTERS + ROOTS && !c->bad; i++) {
        char why[400] = "";
        enum history_verdict v;
        if (i < REGISTERS) {
            v = history_check_register(&c->history, OBJECT_REGISTER + i, FIRST_VALUE, why,
                                       sizeof why);
        } else if (i < REGISTERS + COUNTERS) {
            v = history_check_counter(&c->history, OBJECT_COUNTER + i - REGISTERS, why, sizeof why);
        } else {
            v = history_check_register(&c->history, OBJECT_ROOT + i - REGISTERS - COUNTERS,
                                       FIRST_VALUE, why, sizeof why);
        }
        if (v != HISTORY_OK) {
            cluster_fail(c, "%s: %s", v == HISTORY_GAVE_UP ? "undecided" : "not linearizable", why);
        }
    }
    if (!c->bad) {
        transactions_check(c);
        accounts_check(c);
    }
}

/* ---- the end of the clients ---- */

static void client_closed(void *arg)
{
    struct client_host *client = arg;
    client->core = NULL;
    client->closed = true;
}

static void client_close(void *arg)
{
    struct client_host *client = arg;
    for (int i = 0; i < SLOTS_PER_CLIENT; i++) {
        env_timer_stop(client->env, &client->slots[i].think);
    }
    transactions_stop(client);
    watchers_stop(client);
    accounts_stop(client);
    relay_stop(client);
    if (client->heap != NULL) {
        core_heap_close(client->heap);
        client->heap = NULL;
    }
    core_close(client->core, client_closed, client);
}

/* Orderly, with a cluster that works: it must end by itself and leave nothing behind. */
void clients_stop(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        sim_proc_call(c->clients[i].env, client_close, &c->clients[i]);
    }
    uint64_t until = sim_now_ns(c->sim) + 5 * SIM_SECOND;
    for (bool open = true; open && !c->bad;) {
        cluster_run_ms(c, 20);
        open = false;
        for (uint32_t i = 0; i < c->client_count; i++) {
            open = open || !c->clients[i].closed;
        }
        if (open && sim_now_ns(c->sim) > until) {
            cluster_fail(c, "a client doesn't close within 5 s");
        }
    }
}

/* Whatever state they are in. A failed run keeps what a killed client's core holds: there is no
 * call that frees it without a turn. */
void clients_free(struct cluster *c)
{
    for (uint32_t i = 0; i < c->client_count; i++) {
        struct client_host *client = &c->clients[i];
        accounts_free(client);
        relay_free(client);
        watchers_free(client);
        if (client->env == NULL) {
            continue;
        }
        if (!client->closed) {
            sim_proc_kill(client->env, SIM_SIGKILL);
        }
        sim_proc_free(client->env);
        for (int o = 0; o < OWN_OBJECTS; o++) {
            mem_free(client->own[o].bytes);
            mem_free(client->own[o].old_bytes);
        }
        for (int s = 0; s < SLOTS_PER_CLIENT; s++) {
            mem_free(client->slots[s].buffer);
        }
    }
}
