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

static int fetch(struct cairn_heap *heap, uint32_t shard, uint32_t timeout_ms, uint64_t *session,
                 uint64_t ptrs[LEASE_SLOTS], uint32_t *count)
{
    struct cairn_future f;
    *count = 0;
    sdk__future_init(&f, heap->client);
    f.call.timeout_ms = timeout_ms;
    int rv = sdk__future_run(&f, core_prepare_lease(&f.call, heap->core, shard, LEASE_SLOTS));
    if (rv != 0) {
        return rv;
    }
    uint64_t lease = f.call.value;
    sdk__future_init(&f, heap->client);
    f.call.timeout_ms = timeout_ms;
    rv = sdk__future_run(&f, core_prepare_lease_get(&f.call, heap->core, shard, lease));
    struct cursor c = cursor_of(slice_of(f.call.bytes.data, f.call.bytes.len));
    while (rv == 0 && cursor_left(&c) >= 8 && *count < LEASE_SLOTS) {
        ptrs[(*count)++] = cursor_u64(&c);
    }
    *session = f.call.value;
    buf_close(&f.call.bytes);
    return rv;
}

/* Is what it has still promised? */
static bool is_good(const struct cairn_heap *heap, const struct core_shard *shard,
                    const struct lease_pool *pool)
{
    return pool->left > 0 &&
           (heap->client->embedded != NULL || atomic_load(&shard->session_id) == pool->session);
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
    while (rv == 0 && !is_good(heap, shard, pool)) {
        if (pool->fetching) {
            pthread_cond_wait(&pool->fetched, &pool->lock);
            continue;
        }
        uint64_t fresh[LEASE_SLOTS];
        uint64_t owner = 0;
        uint32_t count = 0;
        pool->fetching = true;
        pthread_mutex_unlock(&pool->lock);
        rv = fetch(heap, shard_index, timeout_ms, &owner, fresh, &count);
        pthread_mutex_lock(&pool->lock);
        pool->fetching = false;
        pool->session = owner;
        pool->left = 0;
        while (rv == 0 && pool->left < count) { /* taken from the end: lowest slots first */
            pool->ptrs[pool->left] = fresh[count - 1 - pool->left];
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

static void burn(struct tx_parts *parts)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        struct tx_part *part = &parts->parts[i];
        struct cairn_future *f = sdk__future_new(part->heap);
        struct cairn_future *started = NULL;
        if (f != NULL) { /* without memory, or when the answer is no, the lease's end does it */
            (void)sdk__future_start(
                f,
                core_prepare_tx_commit_one(&f->call, part->heap->core,
                                           sdk__tx_shard_index(part->heap, part->shard),
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
        bool promised = object->heap->client->embedded != NULL ||
                        atomic_load(&object->shard->session_id) == object->session;
        if (object->born && promised && (all || object->freed) &&
            sdk__tx_parts_burn(parts, object) == 0 &&
            (singly || parts->parts[0].items >= TX_ITEMS_MAX)) {
            burn(parts);
        }
    }
    burn(parts);
    mem_free(parts);
}
