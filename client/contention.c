/* What transactions do about others that want the same objects: they remember which ones are wanted
 * much, and ask for their turn at them; else they wait a while that grows and then shrinks. */
#include <string.h>
#include <time.h>

#include "client/tx_set.h"

#define NS_PER_MS UINT64_C(1000000)

/* ---- objects that conflicts were about lately ---- */

#define HOT_FIRST_MS 50u
#define HOT_LAST_MS  5000u

static struct sdk_hot *place_of(struct cairn_heap *heap, uint64_t ptr)
{
    return &heap->hot[(ptr * UINT64_C(0x9E3779B97F4A7C15)) >> 32 & (SDK_HOT_OBJECTS - 1)];
}

/* Threads may disturb each other here: then a read asks for a turn in vain, or doesn't ask. */
static void hot_add(struct cairn_heap *heap, uint64_t ptr)
{
    struct sdk_hot *place = place_of(heap, ptr);
    uint64_t now = sdk__now_ns();
    uint32_t ms = atomic_load(&place->ms);
    uint64_t until = atomic_load(&place->until_ns);
    bool again = atomic_load(&place->ptr) == ptr && now < until + 4 * ms * NS_PER_MS;
    ms = !again ? HOT_FIRST_MS : ms < HOT_LAST_MS / 2 ? ms * 2 : HOT_LAST_MS;
    atomic_store(&place->ptr, ptr);
    atomic_store(&place->ms, ms);
    atomic_store(&place->until_ns, now + ms * NS_PER_MS);
}

static bool hot_is(struct cairn_heap *heap, uint64_t ptr)
{
    struct sdk_hot *place = place_of(heap, ptr);
    return atomic_load(&place->ptr) == ptr && sdk__now_ns() < atomic_load(&place->until_ns);
}

static void hot_drop(struct cairn_heap *heap, uint64_t ptr)
{
    struct sdk_hot *place = place_of(heap, ptr);
    if (atomic_load(&place->ptr) == ptr) {
        atomic_store(&place->until_ns, 0);
        atomic_store(&place->ms, 0);
    }
}

/* ---- turns ---- */

static bool takes_turns(const struct tx_set *set, const struct cairn_heap *heap)
{
    return set->at == 0 && set->opts.read_only == 0 && heap->client->embedded == NULL &&
           set->opts.isolation != CAIRN_READ_COMMITTED && set->turn == 0;
}

static uint8_t take_turn(struct tx_set *set, uint64_t ptr)
{
    set->turn = ptr;
    return set->tries < UINT8_MAX ? (uint8_t)(set->tries + 1) : UINT8_MAX;
}

uint8_t sdk__turn_of_read(struct tx_set *set, const struct tx_object *object)
{
    if (set->first_read == 0) {
        set->first_read = object->ptr;
    }
    return takes_turns(set, object->heap) && !object->checked &&
                   (set->turn_at == 0 || set->turn_at == object->ptr) &&
                   hot_is(object->heap, object->ptr)
               ? take_turn(set, object->ptr)
               : 0;
}

int sdk__turn_wait(struct cairn_tx *tx)
{
    uint64_t ptr = tx->set->turn_at;
    uint8_t byte;
    struct cairn_future f;
    if (!takes_turns(tx->set, tx->heap) || !hot_is(tx->heap, ptr)) {
        return 0;
    }
    sdk__future_init(&f, tx->heap->client);
    f.call.timeout_ms = sdk__tx_left_ms(tx->set);
    if (f.call.timeout_ms == 0) {
        return sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
    }
    f.call.turn = take_turn(tx->set, ptr);
    int rv = core_prepare_read_at(&f.call, tx->heap->core, ptr, 0, 0, &byte, sizeof byte);
    return sdk__future_run(&f, rv);
}

static const struct tx_object *object_of(const struct tx_set *set, uint64_t ptr)
{
    list_for_each (it, &set->objects) {
        const struct tx_object *object = list_entry(it, struct tx_object, link);
        if (object->ptr == ptr) {
            return object;
        }
    }
    return NULL;
}

static bool changes(const struct tx_object *object)
{
    return object->freed || !list_empty(&object->writes);
}

void sdk__turn_end(const struct tx_set *set)
{
    const struct tx_object *object = set->turn == 0 ? NULL : object_of(set, set->turn);
    if (object != NULL && !changes(object)) {
        hot_drop(object->heap, object->ptr);
    }
}

bool sdk__turn_conflict(const struct tx_set *set, uint64_t ptr)
{
    const struct tx_object *object = ptr == 0 ? NULL : object_of(set, ptr);
    if (object == NULL || !changes(object)) {
        return false;
    }
    hot_add(object->heap, ptr);
    return true;
}

/* ---- backoff ---- */

#define BACKOFF_FIRST_US  1000u
#define BACKOFF_DOUBLINGS 6u /* up to 64 ms */
#define CONFLICTS_PATIENT 4u /* later ones wait less and less, so that nobody starves */

/* xorshift64* of this thread; only the spread matters. */
static uint64_t random_next(void)
{
    static _Thread_local uint64_t state;
    if (state == 0) {
        struct timespec t = {0};
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        state = (uint64_t)(uintptr_t)&state ^ (uint64_t)t.tv_nsec << 20 ^ (uint64_t)t.tv_sec;
        state |= 1;
    }
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(0x2545F4914F6CDD1D);
}

uint64_t sdk__backoff_us(uint32_t tries)
{
    uint64_t us = (uint64_t)BACKOFF_FIRST_US
                  << (tries < BACKOFF_DOUBLINGS ? tries : BACKOFF_DOUBLINGS);
    if (tries > CONFLICTS_PATIENT) {
        uint32_t older = tries - CONFLICTS_PATIENT;
        us >>= older < 10 ? older : 10;
    }
    us = us < BACKOFF_FIRST_US / 4 ? BACKOFF_FIRST_US / 4 : us;
    return us / 2 + random_next() % us;
}
