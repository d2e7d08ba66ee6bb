/* What the leader of a shard does for its set of replicas: brings the Raft configuration to what
 * the meta shard wants, one change at a time, and gives leadership to the preferred replica. */
#include <string.h>

#include "base/log.h"
#include "replica/internal.h"

#define VOTERS_OF_META_MAX    REPLICAS_MAX
#define PREFER_AFTER_MS       5000u
#define PREFER_BACKOFF_MS_MIN 10000u
#define PREFER_BACKOFF_MS_MAX 600000u
#define PREFER_LAG_MAX        256u /* entries in flight or kept back don't count as lagging */
#define CATCH_UP_RETRY_MS     2000u

struct wanted {
    uint64_t ids[NODES_MAX];
    uint32_t count;
    uint32_t voters; /* the first so many */
};

static bool wanted_get(const struct shard *s, struct wanted *out)
{
    const struct heap *meta = s->r->meta != NULL ? s->r->meta->heap : NULL;
    memset(out, 0, sizeof *out);
    if (meta == NULL) {
        return false;
    }
    if (s->uid == SHARD_META) {
        out->count = catalog_nodes(meta, out->ids);
        out->voters = out->count < VOTERS_OF_META_MAX ? out->count : VOTERS_OF_META_MAX;
        return out->count > 0;
    }
    struct catalog_place place;
    if (catalog_place_of(meta, s->uid, &place) != 0) {
        return false;
    }
    out->count = out->voters = place.count;
    memcpy(out->ids, place.members, place.count * sizeof place.members[0]);
    return true;
}

static int find(const struct consensus_config *config, uint64_t id)
{
    for (uint32_t i = 0; i < config->count; i++) {
        if (config->servers[i].id == id) {
            return (int)i;
        }
    }
    return -1;
}

static bool heard_lately(const struct shard *s, uint64_t id, uint64_t now_ms)
{
    if (id == s->self_id) {
        return true;
    }
    const struct peer *peer = replica__peer(s->r, replica_id_node(id));
    /* A node that came back under a new id is heard too, but nothing of the old id will ever match.
     */
    return peer != NULL && peer->heard_ms != 0 &&
           now_ms - peer->heard_ms <= 2 * (uint64_t)s->r->opts.election_ms &&
           consensus_match_index(s->consensus, id) > 0;
}

static bool quorum_is_healthy(const struct shard *s, const struct consensus_config *config,
                              uint64_t now_ms)
{
    uint32_t voters = 0;
    uint32_t heard = 0;
    for (uint32_t i = 0; i < config->count; i++) {
        if (config->servers[i].role == CONSENSUS_VOTER) {
            voters++;
            heard += heard_lately(s, config->servers[i].id, now_ms);
        }
    }
    return heard > voters / 2;
}

static void change(struct shard *s, const struct consensus_config *config, const char *what,
                   uint64_t id)
{
    struct consensus_update *update = NULL;
    int rv = consensus_submit_change(s->consensus, env_now_ms(s->r->env), config, &update);
    if (rv == 0) {
        log_info("replica", "membership changes", "shard=%llx change=%s node=%u replica=%llx",
                 (unsigned long long)s->uid, what, replica_id_node(id), (unsigned long long)id);
    }
    shard__handle(s, rv, update);
}

/* Returns true if something is under way. */
static bool promote(struct shard *s, struct consensus_config *config, uint32_t at, uint64_t now_ms)
{
    uint64_t id = config->servers[at].id;
    int status = consensus_catch_up_status(s->consensus, id);
    if (s->catch_up_id == id && status == 3) {
        s->catch_up_id = 0;
        config->servers[at].role = CONSENSUS_VOTER;
        change(s, config, "promote", id);
        return true;
    }
    if (s->catch_up_id == id && status == 1) {
        return true;
    }
    if (s->catch_up_id == id && now_ms - s->catch_up_ms < CATCH_UP_RETRY_MS) {
        return true;
    }
    struct consensus_update *update = NULL;
    int rv = consensus_catch_up(s->consensus, now_ms, id, &update);
    s->catch_up_id = id;
    s->catch_up_ms = now_ms;
    shard__handle(s, rv, update);
    return true;
}

/* One step towards what is wanted; true if one was taken or is under way. */
static bool reconcile(struct shard *s, uint64_t now_ms)
{
    struct wanted wanted;
    struct consensus_config config;
    if (!wanted_get(s, &wanted) || consensus_change_pending(s->consensus)) {
        return true;
    }
    consensus_get_config(s->consensus, &config);
    for (uint32_t i = 0; i < wanted.count; i++) {
        for (uint32_t k = 0; k < config.count; k++) {
            if (replica_id_node(config.servers[k].id) == replica_id_node(wanted.ids[i]) &&
                config.servers[k].id > wanted.ids[i]) {
                return true; /* our copy of the catalogue is behind */
            }
        }
    }
    if (!quorum_is_healthy(s, &config, now_ms)) {
        return false;
    }
    for (uint32_t i = 0; i < wanted.count; i++) {
        if (find(&config, wanted.ids[i]) < 0 && config.count < NODES_MAX * 2) {
            config.servers[config.count++] =
                (struct consensus_server){.id = wanted.ids[i], .role = CONSENSUS_STANDBY};
            change(s, &config, "add", wanted.ids[i]);
            return true;
        }
    }
    for (uint32_t i = 0; i < wanted.voters; i++) {
        int at = find(&config, wanted.ids[i]);
        if (at >= 0 && config.servers[at].role != CONSENSUS_VOTER) {
            return promote(s, &config, (uint32_t)at, now_ms);
        }
    }
    for (uint32_t k = 0; k < config.count; k++) {
        uint64_t id = config.servers[k].id;
        bool is_wanted = false;
        for (uint32_t i = 0; i < wanted.count; i++) {
            is_wanted = is_wanted || wanted.ids[i] == id;
        }
        if (is_wanted) {
            continue;
        }
        if (id == s->self_id) {
            (void)membership_hand_over(s);
            return true;
        }
        memmove(&config.servers[k], &config.servers[k + 1],
                (config.count - k - 1) * sizeof config.servers[0]);
        config.count--;
        change(s, &config, "remove", id);
        return true;
    }
    return false;
}

/* ---- leadership
 * ----------------------------------------------------------------------------------------------------
 */

static int transfer_to(struct shard *s, uint64_t id)
{
    struct consensus_update *update = NULL;
    batch_push(s); /* while leadership moves nothing goes into the log */
    thrifty_release(s);
    int rv = consensus_transfer(s->consensus, env_now_ms(s->r->env), id, &update);
    shard__handle(s, rv, update);
    return rv;
}

uint64_t membership_heir(struct shard *s)
{
    struct consensus_config config;
    uint64_t now_ms = env_now_ms(s->r->env);
    uint64_t best = 0;
    uint64_t best_match = 0;
    bool best_is_off = true;
    consensus_get_config(s->consensus, &config);
    for (uint32_t i = 0; i < config.count; i++) {
        uint64_t id = config.servers[i].id;
        if (config.servers[i].role != CONSENSUS_VOTER || id == s->self_id ||
            !heard_lately(s, id, now_ms) || !leaders_may_be_on(s->r, replica_id_node(id))) {
            continue;
        }
        uint64_t match = consensus_match_index(s->consensus, id);
        bool is_off = clock_is_off(s->r, replica_id_node(id));
        if (best == 0 || (best_is_off && !is_off) ||
            (best_is_off == is_off && match > best_match)) {
            best = id;
            best_match = match;
            best_is_off = is_off;
        }
    }
    return best;
}

int membership_hand_over(struct shard *s)
{
    uint64_t heir = membership_heir(s);
    return heir == 0 ? ERR_NOTFOUND : transfer_to(s, heir);
}

int shard_transfer_leadership(struct shard *shard, uint32_t node)
{
    struct consensus_config config;
    if (shard->failed) {
        return ERR_IO;
    }
    if (!shard__leads(shard)) {
        return ERR_NOTLEADER;
    }
    consensus_get_config(shard->consensus, &config);
    for (uint32_t i = 0; i < config.count; i++) {
        if (config.servers[i].role == CONSENSUS_VOTER &&
            replica_id_node(config.servers[i].id) == node) {
            if (node != shard->r->opts.node &&
                (clock_is_off(shard->r, node) || !leaders_may_be_on(shard->r, node))) {
                return ERR_UNAVAILABLE; /* it would not take it, or not keep it */
            }
            /* Stays away for a while even if it is the preferred one. */
            shard->prefer_ms = env_now_ms(shard->r->env) + PREFER_BACKOFF_MS_MIN;
            return config.servers[i].id == shard->self_id
                       ? 0
                       : transfer_to(shard, config.servers[i].id);
        }
    }
    return ERR_NOTFOUND;
}

/* Could take the shard over at once, or keep it. */
static bool could_lead(const struct shard *s, const struct consensus_config *config, uint64_t id,
                       uint64_t now_ms)
{
    int at = find(config, id);
    return at >= 0 && config->servers[at].role == CONSENSUS_VOTER &&
           !clock_is_off(s->r, replica_id_node(id)) &&
           leaders_may_be_on(s->r, replica_id_node(id)) &&
           (id == s->self_id || (heard_lately(s, id, now_ms) &&
                                 consensus_match_index(s->consensus, id) + PREFER_LAG_MAX >=
                                     wal_log_last_index(s->log)));
}

/* Who shall lead; 0: who does now (docs/adr/0009-leaders.md). Spread: each shard's first member.
 * Gathered: of its members that could, the one with the smallest node number, which is the same
 * node for all shards that have the same members. */
static uint64_t preferred(const struct shard *s, const struct catalog_place *place,
                          const struct consensus_config *config, uint64_t now_ms)
{
    uint64_t best = 0;
    uint32_t count = leaders_are_gathered(s->r) ? place->count : 1;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id = place->members[i];
        if (could_lead(s, config, id, now_ms) &&
            (best == 0 || replica_id_node(id) < replica_id_node(best))) {
            best = id;
        }
    }
    return best == s->self_id ? 0 : best;
}

/* Leadership moves to the preferred replica when that is up to date. Each attempt doubles the pause
 * before the next, so that a replica that can't hold it doesn't make it flap. */
static void prefer(struct shard *s, uint64_t now_ms)
{
    struct catalog_place place;
    if (s->uid == SHARD_META || s->r->meta == NULL || s->r->meta->heap == NULL || s->r->stopping ||
        now_ms - s->lead_since_ms < PREFER_AFTER_MS || now_ms < s->prefer_ms ||
        consensus_transferee(s->consensus) != 0 ||
        catalog_place_of(s->r->meta->heap, s->uid, &place) != 0) {
        return;
    }
    struct consensus_config config;
    consensus_get_config(s->consensus, &config);
    uint64_t id = preferred(s, &place, &config, now_ms);
    if (id == 0) {
        return;
    }
    uint64_t ms = s->prefer_backoff_ms * 2;
    s->prefer_backoff_ms = ms < PREFER_BACKOFF_MS_MIN   ? PREFER_BACKOFF_MS_MIN
                           : ms > PREFER_BACKOFF_MS_MAX ? PREFER_BACKOFF_MS_MAX
                                                        : ms;
    s->prefer_ms = now_ms + s->prefer_backoff_ms;
    (void)transfer_to(s, id);
}

void membership_tick(struct shard *s, uint64_t now_ms)
{
    if (now_ms - s->confirm_ms >= HOUSEKEEPING_MS) {
        read_send_confirm(s, 0); /* for the clocks */
    }
    if (!reconcile(s, now_ms) && shard__leads(s)) {
        prefer(s, now_ms);
    }
}
