/* The coordinator of a node: its life and its clocks. */
#include "coord/coord.h"

#include "base/mem.h"
#include "coord/internal.h"

static void on_task(struct env_task *task)
{
    struct coord *coord = container_of(task, struct coord, task);
    if (coord->look) {
        coord->look = false;
        coord__answer_late(coord);
        coord__look_waits(coord);
    }
}

void coord__arm(struct coord *coord)
{
    if (coord->tick.slot == 0) {
        env_timer_start_in_ms(coord->env, &coord->tick, COORD_TICK_MS);
    }
}

static void on_tick(struct env_timer *timer)
{
    struct coord *coord = container_of(timer, struct coord, tick);
    uint64_t now_ms = env_now_ms(coord->env);
    coord__tick_txs(coord, now_ms);
    coord__tick_waits(coord, now_ms);
    if (!list_empty(&coord->running) || !list_empty(&coord->waits)) {
        coord__arm(coord);
    }
}

static void on_scan(struct env_timer *timer)
{
    struct coord *coord = container_of(timer, struct coord, scan);
    env_timer_start_in_ms(coord->env, timer, COORD_SCAN_MS);
    coord__scan(coord);
    coord__tick_forgets(coord, env_now_ms(coord->env));
}

int coord_open(struct env *env, struct replica *replica, uint32_t node, const struct coord_cbs *cbs,
               void *arg, struct coord **out)
{
    struct coord *coord = mem_zalloc(sizeof *coord);
    *out = NULL;
    if (coord == NULL) {
        return ERR_NOMEM;
    }
    coord->env = env;
    coord->replica = replica;
    coord->node = node;
    coord->cbs = cbs;
    coord->arg = arg;
    for (uint32_t i = 0; i < COORD_BUCKETS; i++) {
        list_init(&coord->txs[i]);
        list_init(&coord->forgets[i]);
        list_init(&coord->sends[i]);
    }
    list_init(&coord->running);
    list_init(&coord->forgetting);
    list_init(&coord->waits);
    coord->task.cb = on_task;
    coord->tick.cb = on_tick;
    coord->scan.cb = on_scan;
    env_timer_start_in_ms(env, &coord->scan, COORD_SCAN_MS);
    *out = coord;
    return 0;
}

/* Requests to shards of this node are answered when the replica ends: to nobody. */
static void detach_sends(struct coord *coord)
{
    for (uint32_t i = 0; i < COORD_BUCKETS; i++) {
        list_for_each_safe (it, next, &coord->sends[i]) {
            struct coord_send *send = list_entry(it, struct coord_send, bucket);
            list_remove(it);
            send->coord = NULL;
            if (send->node != coord->node) {
                coord__send_free(send);
            }
        }
    }
}

void coord_close(struct coord *coord)
{
    env_timer_stop(coord->env, &coord->tick);
    env_timer_stop(coord->env, &coord->scan);
    coord__close_txs(coord);
    coord__close_waits(coord);
    coord__close_forgets(coord);
    detach_sends(coord);
    if (coord->task.queued) {
        list_remove(&coord->task.link);
        coord->task.queued = false;
    }
    buf_close(&coord->scratch);
    mem_free(coord);
}

void coord_on_applied(struct coord *coord, struct shard *shard)
{
    (void)shard;
    if (!list_empty(&coord->waits)) {
        coord->look = true;
        env_defer(coord->env, &coord->task);
    }
}

void coord_get_stats(const struct coord *coord, struct coord_stats *out)
{
    *out = coord->stats;
    out->waiting = 0;
    list_for_each (it, &coord->waits) {
        out->waiting++;
    }
}
