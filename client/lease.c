/* Pointers that are final before their objects exist: slots that a shard has promised to our
 * session with it, kept per shard for whoever allocates in a transaction. They go when the session
 * does. */
#include <pthread.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define LEASE_SLOTS 64u

/* lock: of everything; whoever fetches does it without, and the others wait for `fetched`. */
struct lease_pool {
    pthread_mutex_t lock;
    pthread_cond_t fetched;
    bool fetching;
    uint64_t unseen; /* the fetcher's: a lease whose pointers aren't known yet; 0: none */
    uint64_t session;
    uint32_t left;
    uint64_t ptrs[LEASE_SLOTS];
};

static struct lease_pool *pool_new(void)
{
    struct lease_pool *pool = mem_zalloc(sizeof *pool);
    if (pool != NULL) {
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->fetched, NULL);
    }
    return pool;
}

void sdk__lease_pool_free(struct lease_pool *pool)
{
    if (pool != NULL) {
        pthread_cond_destroy(&pool->fetched);
        pthread_mutex_destroy(&pool->lock);
        mem_free(pool);
    }
}

static struct lease_pool *pool_of(struct core_shard *shard)
{
    struct lease_pool *pool = atomic_load(&shard->pool);
    if (pool == NULL) {
        struct lease_pool *fresh = pool_new();
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

/* What a lease promises. */
struct promise {
    uint64_t session;
    uint32_t count;
    uint64_t ptrs[LEASE_SLOTS];
};

static int lease(struct cairn_heap *heap, uint32_t shard, uint32_t timeout_ms, uint64_t *number)
{
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    f.call.timeout_ms = timeout_ms;
    int rv = sdk__future_run(&f, core_prepare_lease(&f.call, heap->core, shard, LEASE_SLOTS));
    *number = rv == 0 ? f.call.value : 0;
    return rv;
}

static int look(struct cairn_heap *heap, uint32_t shard, uint32_t timeout_ms, uint64_t number,
                struct promise *out)
{
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    f.call.timeout_ms = timeout_ms;
    int rv = sdk__future_run(&f, core_prepare_lease_get(&f.call, heap->core, shard, number));
    struct cursor c = cursor_of(slice_of(f.call.bytes.data, f.call.bytes.len));
    out->count = 0;
    out->session = f.call.value;
    while (rv == 0 && cursor_left(&c) >= 8 && out->count < LEASE_SLOTS) {
        out->ptrs[out->count++] = cursor_u64(&c);
    }
    buf_close(&f.call.bytes);
    return rv;
}

/* *unseen: a lease that was given before, and never looked at; 0: none. */
static int fetch(struct cairn_heap *heap, uint32_t shard, uint32_t timeout_ms, uint64_t *unseen,
                 struct promise *out)
{
    int rv = *unseen == 0 ? CAIRN_E_NOTFOUND : look(heap, shard, timeout_ms, *unseen, out);
    if (rv == CAIRN_E_NOTFOUND) { /* it went with its session */
        rv = lease(heap, shard, timeout_ms, unseen);
        rv = rv != 0 ? rv : look(heap, shard, timeout_ms, *unseen, out);
    }
    if (rv == 0) {
        *unseen = 0;
    }
    return rv;
}

static bool is_promised(const struct cairn_client *client, const struct core_shard *shard,
                        uint64_t session)
{
    return client->embedded != NULL || atomic_load(&shard->session_id) == session;
}

int sdk__lease_take(struct cairn_heap *heap, uint32_t shard_index, uint32_t timeout_ms,
                    uint64_t *ptr, uint64_t *session)
{
    struct core_shard *shard = heap->core->shards[shard_index];
    struct lease_pool *pool = pool_of(shard);
    int rv = pool == NULL ? sdk__fail(CAIRN_E_NOMEM, "out of memory for pointers") : 0;
    if (rv != 0) {
        return rv;
    }
    pthread_mutex_lock(&pool->lock);
    while (rv == 0 && !(pool->left > 0 && is_promised(heap->client, shard, pool->session))) {
        if (pool->fetching) {
            pthread_cond_wait(&pool->fetched, &pool->lock);
            continue;
        }
        struct promise fresh = {0};
        pool->fetching = true;
        pthread_mutex_unlock(&pool->lock);
        rv = fetch(heap, shard_index, timeout_ms, &pool->unseen, &fresh);
        pthread_mutex_lock(&pool->lock);
        pool->fetching = false;
        pool->session = fresh.session;
        pool->left = 0;
        while (rv == 0 && pool->left < fresh.count) { /* taken from the end: lowest slots first */
            pool->ptrs[pool->left] = fresh.ptrs[fresh.count - 1 - pool->left];
            pool->left++;
        }
        pthread_cond_broadcast(&pool->fetched);
    }
    if (rv == 0) {
        *ptr = pool->ptrs[--pool->left];
        *session = pool->session;
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

void sdk__lease_pool_return(struct cairn_client *client, struct core_shard *shard)
{
    struct lease_pool *pool = atomic_load(&shard->pool);
    struct tx_parts *parts = pool == NULL ? NULL : mem_zalloc(sizeof *parts);
    if (parts == NULL) {
        return;
    }
    while (pool->left > 0) {
        struct tx_object object = {
            .shard = shard, .ptr = pool->ptrs[--pool->left], .session = pool->session};
        (void)sdk__tx_parts_burn(parts, &object);
    }
    burn(client, parts);
    mem_free(parts);
}
