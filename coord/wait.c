/* Reads that met a transaction which is being decided: they wait for it, and push it on when that
 * takes long (rules X11). */
#include "coord/internal.h"

static bool is_over(const struct coord_wait *wait, const struct heap *heap)
{
    struct txn_record record;
    const uint64_t *uids;
    const uint64_t *times;
    if (wait->by.home == 0) {
        return !txn_prepared_outside(heap, wait->first_uid, wait->shards, wait->by.seq);
    }
    return !txn_find(heap, &wait->by, &record, &uids, &times) || record.state != TXN_PREPARED;
}

static void end(struct coord_wait *wait, int err)
{
    list_remove(&wait->link);
    wait->cb(wait, err);
}

static void begin(struct coord *coord, struct shard *shard, struct coord_wait *wait)
{
    struct shard_info info;
    shard_get_info(shard, &info);
    wait->uid = info.uid;
    wait->since_ms = env_now_ms(coord->env);
    wait->pushed = false;
    list_push_back(&coord->waits, &wait->link);
    shard_hurry(shard);
    coord->stats.reads_waited++;
    coord->look = true;
    env_defer(coord->env, &coord->task);
    coord__arm(coord);
}

void coord_wait(struct coord *coord, struct shard *shard, const struct txn_name *by,
                struct coord_wait *wait)
{
    wait->by = *by;
    begin(coord, shard, wait);
}

/* by.seq: the time before which it was prepared. */
void coord_wait_outside(struct coord *coord, struct shard *shard, struct coord_wait *wait)
{
    struct shard_info info;
    struct catalog_shard place;
    shard_get_info(shard, &info);
    wait->by = (struct txn_name){.seq = heap_clock(shard_heap(shard))};
    bool known = catalog_members(coord->replica, info.uid, &place) == 0;
    wait->first_uid = known ? place.heap_first : info.uid;
    wait->shards = known ? place.heap_shards : 1;
    begin(coord, shard, wait);
}

bool coord_is_awaited(const struct coord *coord, uint64_t uid)
{
    list_for_each (it, &coord->waits) {
        if (list_entry(it, struct coord_wait, link)->uid == uid) {
            return true;
        }
    }
    return false;
}

/* A callback may begin to wait again: only those that are here now are looked at. */
void coord__look_waits(struct coord *coord)
{
    struct list now;
    list_init(&now);
    list_splice(&now, &coord->waits);
    while (!list_empty(&now)) {
        struct coord_wait *wait = list_entry(now.next, struct coord_wait, link);
        struct shard *shard = replica_shard(coord->replica, wait->uid);
        struct shard_info info = {.failed = true};
        if (shard != NULL) {
            shard_get_info(shard, &info);
        }
        if (info.failed || info.installing) {
            end(wait, ERR_UNAVAILABLE);
        } else if (is_over(wait, shard_heap(shard))) {
            end(wait, 0);
        } else {
            list_remove(&wait->link);
            list_push_back(&coord->waits, &wait->link);
        }
    }
}

static void push(struct coord *coord, const struct coord_wait *wait)
{
    struct txn_name name = {0};
    struct txn_record record;
    struct shard *shard = replica_shard(coord->replica, wait->uid);
    if (wait->by.home != 0) {
        coord_push(coord, wait->uid, &wait->by);
        return;
    }
    while (shard != NULL && txn_next(shard_heap(shard), &name, &record)) {
        if (record.state == TXN_PREPARED && record.prepared_at <= wait->by.seq) {
            coord_push(coord, wait->uid, &name);
        }
    }
}

void coord__tick_waits(struct coord *coord, uint64_t now_ms)
{
    struct list over;
    list_init(&over);
    list_for_each_safe (it, next, &coord->waits) {
        struct coord_wait *wait = list_entry(it, struct coord_wait, link);
        if (now_ms - wait->since_ms >= COORD_READ_MS) {
            list_remove(it);
            list_push_back(&over, it);
        } else if (now_ms - wait->since_ms >= COORD_PUSH_MS && !wait->pushed) {
            wait->pushed = true;
            push(coord, wait);
        }
    }
    while (!list_empty(&over)) {
        end(list_entry(over.next, struct coord_wait, link), ERR_BUSY);
    }
}

void coord__close_waits(struct coord *coord)
{
    while (!list_empty(&coord->waits)) {
        end(list_entry(coord->waits.next, struct coord_wait, link), ERR_SHUTDOWN);
    }
}
