/* Pointers that are final before their objects exist: slots that a shard has promised to our
 * session with it, kept per shard for whoever allocates in a transaction. They go when the session
 * does.
 *
 * A lease is two requests: LEASE promises slots, LEASE_GET says which. More are asked for while
 * half of what was asked for last is there yet, and twice as many if that was within a second: so
 * who runs transactions in a row waits for none (in a directory leases are written with the
 * commits, in the same entries), and who allocates little holds little. The answers wait in futures
 * until somebody takes a pointer: nothing here runs by itself. */
#include <pthread.h>
#include <string.h>

#include "base/assert.h"
#include "base/limits.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define POOL_SLOTS_MIN 64u   /* asked for at a time: at first, and by who allocates little */
#define POOL_SLOTS_MAX 1024u /* as many as a transaction can allocate */
#define QUICK_NS       UINT64_C(1000000000)
#define SLOW_NS        UINT64_C(10000000000)

struct lease {
    struct list link;
    struct cairn_future *future; /* of LEASE, then of LEASE_GET; NULL: none is under way */
    uint64_t number;             /* 0: not known yet */
    uint64_t session;
    uint32_t asked, left;
    uint64_t ptrs[]; /* taken from the end: lowest slots first */
};

/* lock: of everything. While `fetching` somebody waits for a lease, without the lock: the pool is
 * empty and his alone, and the others wait for `fetched`. */
struct lease_pool {
    pthread_mutex_t lock;
    pthread_cond_t fetched;
    bool fetching;
    bool refused; /* what was asked for ahead: no more of that until somebody has waited */
    struct cairn_client *client;
    struct core_shard *shard;
    struct list here, coming; /* leases, oldest first */
    uint32_t left, expected;  /* their pointers */
    uint32_t slots;           /* asked for last */
    uint64_t asked_ns;
    uint64_t taken, taken_before; /* by the last rest */
};

static struct lease_pool *pool_new(struct cairn_client *client, struct core_shard *shard)
{
    struct lease_pool *pool = mem_zalloc(sizeof *pool);
    if (pool != NULL) {
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->fetched, NULL);
        pool->client = client;
        pool->shard = shard;
        list_init(&pool->here);
        list_init(&pool->coming);
        pool->slots = POOL_SLOTS_MIN;
    }
    return pool;
}

static void lease_drop(struct lease *lease)
{
    list_remove(&lease->link);
    cairn_future_free(lease->future);
    mem_free(lease);
}

void sdk__lease_pool_free(struct lease_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    list_splice(&pool->here, &pool->coming);
    list_for_each_safe (it, next, &pool->here) {
        lease_drop(list_entry(it, struct lease, link));
    }
    pthread_cond_destroy(&pool->fetched);
    pthread_mutex_destroy(&pool->lock);
    mem_free(pool);
}

static struct lease_pool *pool_of(struct cairn_client *client, struct core_shard *shard)
{
    struct lease_pool *pool = atomic_load(&shard->pool);
    if (pool == NULL) {
        struct lease_pool *fresh = pool_new(client, shard);
        if (fresh == NULL) {
            return NULL;
        }
        if (atomic_compare_exchange_strong(&shard->pool, &pool, fresh)) {
            return fresh;
        }
        sdk__lease_pool_free(fresh); /* somebody else was faster */
    }
    return pool;
}

static bool is_promised(const struct cairn_client *client, const struct core_shard *shard,
                        uint64_t session)
{
    return client->embedded != NULL || atomic_load(&shard->session_id) == session;
}

/* ---- a lease on its way ---- */

static struct lease *lease_new(uint32_t slots)
{
    struct lease *lease = mem_zalloc(sizeof *lease + slots * sizeof lease->ptrs[0]);
    if (lease != NULL) {
        lease->asked = slots;
        list_init(&lease->link);
    }
    return lease;
}

static void comes(struct lease_pool *pool, struct lease *lease)
{
    list_push_back(&pool->coming, &lease->link);
    pool->expected += lease->asked;
}

/* Comes no more. */
static void lease_leave(struct lease_pool *pool, struct lease *lease)
{
    list_remove(&lease->link);
    pool->expected -= lease->asked;
}

/* Without waiting. */
static int look(struct lease_pool *pool, struct lease *lease, uint32_t timeout_ms)
{
    struct cairn_future *f = sdk__future_of(pool->client);
    assert(lease->future == NULL);
    if (f == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for pointers");
    }
    f->call.timeout_ms = timeout_ms;
    return sdk__future_start(f, core_prepare_lease_get(&f->call, pool->shard, lease->number),
                             &lease->future);
}

static void arrive(struct lease_pool *pool, struct lease *lease, const struct core_call *call)
{
    struct cursor c = cursor_of(slice_of(call->bytes.data, call->bytes.len));
    uint32_t count = 0;
    while (cursor_left(&c) >= 8 && count < lease->asked) {
        lease->ptrs[count++] = cursor_u64(&c);
    }
    for (uint32_t i = 0; i < count / 2; i++) {
        uint64_t swapped = lease->ptrs[i];
        lease->ptrs[i] = lease->ptrs[count - 1 - i];
        lease->ptrs[count - 1 - i] = swapped;
    }
    lease->session = call->value;
    lease->left = count;
    lease_leave(pool, lease);
    list_push_back(&pool->here, &lease->link);
    pool->left += count;
}

static bool is_answered(const struct lease *lease)
{
    return lease->future != NULL && (atomic_load(&lease->future->state) & FUTURE_READY) != 0;
}

/* Of its answers. False: it comes no more, or is here. What LEASE_GET failed for is asked again by
 * who waits for it. */
static bool comes_on(struct lease_pool *pool, struct lease *lease)
{
    struct cairn_future *f = lease->future;
    bool given = lease->number != 0;
    bool lost = given ? f->call.err == CAIRN_E_NOTFOUND : f->call.err != 0;
    bool arrives = given && f->call.err == 0;
    lease->future = NULL;
    if (arrives) {
        arrive(pool, lease, &f->call);
    } else if (lost) { /* refused, or it went with its session */
        pool->refused = pool->refused || !given;
        lease_leave(pool, lease);
        mem_free(lease);
    } else if (!given) {
        lease->number = f->call.value;
        (void)look(pool, lease, 0);
    }
    cairn_future_free(f);
    return !arrives && !lost;
}

static void go_on(struct lease_pool *pool)
{
    list_for_each_safe (it, next, &pool->coming) {
        struct lease *lease = list_entry(it, struct lease, link);
        while (is_answered(lease) && comes_on(pool, lease)) {
        }
    }
}

/* ---- asking ---- */

/* Nothing that fails here is said: nobody waits for it. */
static bool ask_for(struct lease_pool *pool, uint32_t slots)
{
    struct lease *lease = lease_new(slots);
    if (lease == NULL) {
        return false;
    }
    struct cairn_future *f = sdk__future_of(pool->client);
    if (f == NULL || sdk__future_start(f, core_prepare_lease(&f->call, pool->shard, slots),
                                       &lease->future) != 0) {
        mem_free(lease);
        return false;
    }
    comes(pool, lease);
    return true;
}

static void ask_ahead(struct lease_pool *pool)
{
    if (pool->refused || pool->left + pool->expected > pool->slots / 2) {
        return;
    }
    uint64_t now = sdk__now_ns();
    uint64_t took = now - pool->asked_ns;
    pool->asked_ns = now;
    if (took < QUICK_NS && pool->slots < POOL_SLOTS_MAX) {
        pool->slots *= 2;
    } else if (took > SLOW_NS && pool->slots > POOL_SLOTS_MIN) {
        pool->slots /= 2;
    }
    uint32_t each = pool->slots < LEASE_SLOTS_MAX ? pool->slots : LEASE_SLOTS_MAX;
    for (uint32_t asked = 0; asked < pool->slots && ask_for(pool, each);) {
        asked += each;
    }
}

/* Waits for what a lease has under way. */
static int wait_for(struct lease_pool *pool, struct lease *lease, uint32_t timeout_ms)
{
    uint32_t limit = timeout_ms;
    if (lease->future == NULL) {
        int rv = look(pool, lease, timeout_ms);
        if (rv != 0) {
            return rv;
        }
        limit = UINT32_MAX; /* the call has its deadline */
    }
    struct cairn_future *f = lease->future;
    assert(f != NULL);
    int rv = cairn_future_wait(f, limit);
    if (rv == CAIRN_E_TIMEOUT) {
        return sdk__fail(rv, "the shard hasn't promised pointers for new objects in time");
    }
    int err = rv == 0 && lease->number != 0 ? f->call.err : 0;
    if (err != 0 && err != CAIRN_E_NOTFOUND) {
        return sdk__fail(err, "%s", f->call.text);
    }
    return rv;
}

static int ask_now(struct lease_pool *pool, uint32_t timeout_ms)
{
    struct lease *lease = lease_new(POOL_SLOTS_MIN);
    if (lease == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for pointers");
    }
    struct cairn_future f;
    sdk__future_init(&f, pool->client);
    f.call.timeout_ms = timeout_ms;
    int rv = sdk__future_run(&f, core_prepare_lease(&f.call, pool->shard, lease->asked));
    if (rv != 0) {
        mem_free(lease);
        return rv;
    }
    lease->number = f.call.value;
    comes(pool, lease);
    pool->slots = pool->refused ? POOL_SLOTS_MIN : pool->slots;
    pool->refused = false;
    pool->asked_ns = sdk__now_ns();
    return wait_for(pool, lease, timeout_ms);
}

/* The pool is empty. 0: look again. */
static int fetch(struct lease_pool *pool, uint32_t timeout_ms)
{
    struct lease *first =
        list_empty(&pool->coming) ? NULL : list_entry(pool->coming.next, struct lease, link);
    pool->fetching = true;
    pthread_mutex_unlock(&pool->lock);
    int rv = first == NULL ? ask_now(pool, timeout_ms) : wait_for(pool, first, timeout_ms);
    pthread_mutex_lock(&pool->lock);
    pool->fetching = false;
    pthread_cond_broadcast(&pool->fetched);
    return rv;
}

/* ---- taking ---- */

/* The oldest lease with pointers. Those of an older session go. */
static struct lease *first_here(struct lease_pool *pool)
{
    while (!list_empty(&pool->here)) {
        struct lease *lease = list_entry(pool->here.next, struct lease, link);
        if (lease->left > 0 && is_promised(pool->client, pool->shard, lease->session)) {
            return lease;
        }
        pool->left -= lease->left;
        lease_drop(lease);
    }
    return NULL;
}

static uint64_t pointer_of(struct lease_pool *pool, struct lease *lease)
{
    assert(lease->left > 0);
    pool->left--;
    return lease->ptrs[--lease->left];
}

/* NULL: there is none, and *rv is why. */
static struct lease *lease_with_pointers(struct lease_pool *pool, uint32_t timeout_ms, int *rv)
{
    *rv = 0;
    while (*rv == 0) {
        if (!pool->fetching) {
            go_on(pool);
            struct lease *lease = first_here(pool);
            if (lease != NULL) {
                return lease;
            }
            *rv = fetch(pool, timeout_ms);
        } else if (sdk__on_library_thread(pool->client)) {
            *rv = sdk__fail(CAIRN_E_INVAL, "in a callback pointers can't be waited for");
        } else {
            pthread_cond_wait(&pool->fetched, &pool->lock);
        }
    }
    return NULL;
}

int sdk__lease_take(struct cairn_heap *heap, uint32_t shard_index, uint32_t timeout_ms,
                    uint64_t *ptr, uint64_t *session)
{
    int rv;
    struct lease_pool *pool = pool_of(heap->client, heap->core->shards[shard_index]);
    if (pool == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for pointers");
    }
    pthread_mutex_lock(&pool->lock);
    struct lease *lease = lease_with_pointers(pool, timeout_ms, &rv);
    if (lease != NULL) {
        *ptr = pointer_of(pool, lease);
        *session = lease->session;
        pool->taken++;
        ask_ahead(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return rv;
}

/* ---- pointers that nobody will use ---- */

static void burn(struct cairn_client *client, struct tx_parts *parts)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        struct tx_part *part = &parts->parts[i];
        struct cairn_future *f = sdk__future_of(client);
        struct cairn_future *started = NULL;
        if (f != NULL) { /* without memory, or when the answer is no, the lease's end does it */
            (void)sdk__future_start(
                f,
                core_prepare_tx_commit_on(&f->call, part->shard,
                                          slice_of(part->bytes.data, part->bytes.len)),
                &started);
            cairn_future_free(started);
        }
    }
    sdk__tx_parts_free(parts);
    memset(parts, 0, sizeof *parts);
}

void sdk__lease_burn_unused(const struct tx_set *set, bool all, bool singly)
{
    struct tx_parts *parts = mem_zalloc(sizeof *parts);
    if (parts == NULL) {
        return;
    }
    list_for_each (it, &set->objects) {
        const struct tx_object *object = list_entry(it, struct tx_object, link);
        if (object->born && (all || object->freed) &&
            is_promised(set->client, object->shard, object->session) &&
            sdk__tx_parts_burn(parts, object) == 0 &&
            (singly || parts->parts[0].items >= TX_ITEMS_MAX)) {
            burn(set->client, parts);
        }
    }
    burn(set->client, parts);
    mem_free(parts);
}

/* The pool's oldest pointers, all but `keep`. */
static void give_back(struct lease_pool *pool, uint32_t keep)
{
    struct lease *lease;
    struct tx_parts *parts = mem_zalloc(sizeof *parts);
    if (parts == NULL) {
        return;
    }
    while (pool->left > keep && (lease = first_here(pool)) != NULL) {
        struct tx_object object = {
            .shard = pool->shard, .ptr = pointer_of(pool, lease), .session = lease->session};
        (void)sdk__tx_parts_burn(parts, &object);
        if (parts->parts[0].items >= TX_ITEMS_MAX) {
            burn(pool->client, parts);
        }
    }
    burn(pool->client, parts);
    mem_free(parts);
}

void sdk__lease_pool_rest(struct core_shard *shard)
{
    struct lease_pool *pool = atomic_load(&shard->pool);
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    if (!pool->fetching) {
        go_on(pool);
        if (pool->taken == pool->taken_before) {
            pool->slots = POOL_SLOTS_MIN;
            give_back(pool, POOL_SLOTS_MIN);
        }
        pool->taken_before = pool->taken;
    }
    pthread_mutex_unlock(&pool->lock);
}

static void return_all(struct lease_pool *pool);

static void on_late(cairn_future *f, void *arg)
{
    (void)f;
    return_all(arg);
}

/* What is asked for must be here before it can be given back. On the library thread, which can't
 * wait. */
static void return_all(struct lease_pool *pool)
{
    go_on(pool);
    list_for_each_safe (it, next, &pool->coming) {
        struct lease *lease = list_entry(it, struct lease, link);
        if (lease->future == NULL) {
            lease_leave(pool, lease);
            mem_free(lease);
        } else if ((atomic_load(&lease->future->state) & FUTURE_CALLBACK) == 0) {
            (void)cairn_future_on_ready(lease->future, on_late, pool);
        }
    }
    give_back(pool, 0);
    if (list_empty(&pool->coming)) {
        sdk__embedded_let_go(pool->shard);
    }
}

void sdk__lease_pool_return(struct core_shard *shard)
{
    struct lease_pool *pool = atomic_load(&shard->pool);
    if (pool != NULL) {
        sdk__embedded_keep(shard);
        return_all(pool);
    }
}
