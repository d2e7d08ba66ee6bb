/* Holds: a leader takes no new writes for a few milliseconds, so that a reader finds one version
 * above all that was answered before it began, on many shards (rules X13). Volatile, and of one
 * term: a hold that was lost is found out by TX_CLOSE. */
#include "replica/internal.h"

static uint64_t name_of(const struct shard *s, uint32_t number)
{
    return s->lead_term << 32 | number;
}

bool hold_is_on(const struct shard *s)
{
    uint64_t now_ms = env_now_ms(s->r->env);
    for (uint32_t i = 0; i < HOLDS_MAX && now_ms < s->held_until_ms; i++) {
        if (s->holds[i].until_ms > now_ms && s->holds[i].term == s->lead_term) {
            return true;
        }
    }
    return false;
}

static const struct hold *find(const struct shard *s, uint64_t name)
{
    uint64_t now_ms = env_now_ms(s->r->env);
    for (uint32_t i = 0; i < HOLDS_MAX; i++) {
        const struct hold *h = &s->holds[i];
        if (h->until_ms > now_ms && h->term == s->lead_term && name_of(s, h->number) == name) {
            return h;
        }
    }
    return NULL;
}

/* Readers share holds, and have no more than half of the time: a run of holds that follow each
 * other is paid for with time in which there were none. None joins a run that has lasted as long as
 * one may be, so that no writer waits for longer than two of them. */
static bool may_begin(struct shard *s, uint64_t now_ms)
{
    if (hold_is_on(s)) {
        return now_ms - s->held_from_ms < TX_HOLD_MS_MAX;
    }
    if (s->held_until_ms > now_ms) {
        s->held_until_ms = now_ms; /* of another term */
    }
    uint64_t paid = s->hold_credit_ms + (now_ms - s->held_until_ms);
    uint64_t spent = s->held_until_ms - s->held_from_ms;
    uint64_t left = paid > spent ? paid - spent : 0;
    s->hold_credit_ms = left < HOLD_CREDIT_MS ? left : HOLD_CREDIT_MS;
    s->held_from_ms = s->held_until_ms = now_ms;
    return s->hold_credit_ms >= TX_HOLD_MS_MAX;
}

int shard_hold(struct shard *shard, uint32_t hold_ms, uint64_t *hold)
{
    uint64_t now_ms = env_now_ms(shard->r->env);
    assert(hold_ms <= TX_HOLD_MS_MAX);
    *hold = 0;
    if (!shard__leads(shard)) {
        return ERR_NOTLEADER; /* BUSY would have the reader ask here again */
    }
    if (!may_begin(shard, now_ms)) {
        return ERR_BUSY;
    }
    for (uint32_t i = 0; i < HOLDS_MAX; i++) {
        struct hold *h = &shard->holds[i];
        if (h->until_ms <= now_ms || h->term != shard->lead_term) {
            h->term = shard->lead_term;
            h->number = ++shard->hold_last;
            h->until_ms = now_ms + hold_ms;
            shard->held_until_ms =
                h->until_ms > shard->held_until_ms ? h->until_ms : shard->held_until_ms;
            *hold = name_of(shard, h->number);
            return 0;
        }
    }
    return ERR_BUSY;
}

bool shard_holds(const struct shard *shard, uint64_t hold)
{
    return shard__leads(shard) && find(shard, hold) != NULL;
}

void hold_end(struct shard *s, uint64_t name)
{
    struct hold *h = (struct hold *)find(s, name);
    if (h == NULL) {
        return;
    }
    h->until_ms = 0;
    if (!hold_is_on(s)) {
        s->held_until_ms = env_now_ms(s->r->env);
    }
}
