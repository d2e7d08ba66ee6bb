/* Whether this node's wall clock agrees with those of the others (rules E18, X16).
 *
 * Stamps are bounded by the voters' median clock (batch.c), so that a clock that is off breaks
 * nothing; but a leader that has one makes stamps that lag or press against the bound. It hands its
 * shards to others, leaves elections to them for a while (consensus_set_reluctant) and says so to
 * the operator. The shards stay available in any case: who can't find a better leader goes on
 * leading.
 *
 * Every node asks all others once a second. A clock counts as off only if more than half of all
 * nodes are beyond the bound on the same side of it; a node that didn't answer lately counts as
 * agreeing. So at least one node is never off, and a node alone never is. */
#include "base/log.h"
#include "replica/internal.h"

#define ASK_MS        1000u
#define ROUND_MS_MAX  500u  /* the error of a sample is half of this at most */
#define SAMPLE_MS_MAX 5000u /* older ones say nothing */
#define GIVE_UP_MS    5000u /* between two attempts to hand one shard over */

static bool sample_of(const struct replica *r, uint32_t node, int64_t *offset_ms)
{
    *offset_ms = 0;
    for (uint32_t i = 0; i < r->peer_count; i++) {
        const struct peer *p = &r->peers[i];
        if (p->node == node) {
            *offset_ms = p->clock_offset_ms;
            return p->clock_known && env_now_ms(r->env) - p->clock_ms <= SAMPLE_MS_MAX;
        }
    }
    return node == r->opts.node;
}

/* How far a majority of all nodes is ahead of a node (or behind: negative) at least. */
static int64_t majority_offset(const struct replica *r, uint32_t node)
{
    int64_t sorted[NODES_MAX + 1] = {0};
    int64_t own;
    uint32_t count = 0;
    if (!sample_of(r, node, &own)) {
        return 0;
    }
    for (uint32_t i = 0; i <= r->peer_count; i++) {
        uint32_t other = i < r->peer_count ? r->peers[i].node : r->opts.node;
        int64_t theirs;
        int64_t offset = sample_of(r, other, &theirs) ? theirs - own : 0;
        uint32_t at = count++;
        while (at > 0 && sorted[at - 1] > offset) {
            sorted[at] = sorted[at - 1];
            at--;
        }
        sorted[at] = offset;
    }
    uint32_t quorum = count / 2 + 1;
    int64_t ahead = sorted[count - quorum];
    int64_t behind = sorted[quorum - 1];
    return ahead > 0 ? ahead : behind < 0 ? behind : 0;
}

bool clock_is_off(const struct replica *r, uint32_t node)
{
    int64_t ms = majority_offset(r, node);
    return ms > CLOCK_OK_MS || ms < -CLOCK_OK_MS;
}

void clock_on_answer(struct replica *r, uint32_t node, uint64_t asked_ms, uint64_t wall_ms)
{
    struct peer *peer = replica__peer(r, node);
    uint64_t now_ms = env_now_ms(r->env);
    if (peer == NULL || asked_ms > now_ms || now_ms - asked_ms > ROUND_MS_MAX) {
        return;
    }
    /* It looked at its clock somewhere between question and answer. */
    int64_t then_ms = (int64_t)(env_wall_us(r->env) / 1000) - (int64_t)(now_ms - asked_ms) / 2;
    peer->clock_known = true;
    peer->clock_offset_ms = (int64_t)wall_ms - then_ms;
    peer->clock_ms = now_ms;
}

static void judge(struct replica *r)
{
    struct replica_clock *clock = &r->clock;
    clock->offset_ms = majority_offset(r, r->opts.node);
    int64_t ms = clock->offset_ms < 0 ? -clock->offset_ms : clock->offset_ms;
    if (!clock->off && ms > CLOCK_OFF_MS) {
        clock->off = true;
        log_warn("replica", "this node's clock is off: it leads no shards until it is set right",
                 "majority_ahead_ms=%lld", (long long)clock->offset_ms);
    } else if (clock->off && ms <= CLOCK_OK_MS) {
        clock->off = false;
        log_info("replica", "this node's clock agrees with the others' again",
                 "majority_ahead_ms=%lld", (long long)clock->offset_ms);
    }
}

/* Not while it stops: then all shards are handed over anyway. */
static void give_up(struct shard *s, uint64_t now_ms)
{
    if (s->failed || s->dropped || !shard__leads(s) || now_ms < s->give_up_ms ||
        consensus_transferee(s->consensus) != 0) {
        return;
    }
    uint64_t heir = membership_heir(s);
    if (heir == 0 || clock_is_off(s->r, replica_id_node(heir))) {
        return; /* nobody would be better */
    }
    s->give_up_ms = now_ms + GIVE_UP_MS;
    if (membership_hand_over(s) == 0) {
        log_info("replica", "leadership is given up because of the clock", "shard=%llx node=%u",
                 (unsigned long long)s->uid, replica_id_node(heir));
    }
}

void clock_tick(struct replica *r, uint64_t now_ms)
{
    struct shard *meta = r->meta;
    if (now_ms >= r->clock_ask_ms && meta != NULL && !meta->failed) {
        r->clock_ask_ms = now_ms + ASK_MS;
        read_ask_clocks(meta, now_ms);
    }
    judge(r);
    if (!r->clock.off || r->stopping) {
        return;
    }
    list_for_each (it, &r->shards) {
        give_up(list_entry(it, struct shard, link), now_ms);
    }
}

void replica_get_clock(const struct replica *r, struct replica_clock *out)
{
    *out = r->clock;
}
