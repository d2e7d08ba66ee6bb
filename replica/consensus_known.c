/* What is known of a replica: no events. */
#include "base/assert.h"
#include "base/mem.h"
#include "replica/consensus_internal.h"

int consensus_catch_up_status(const struct consensus *c, uint64_t id)
{
    int status = RAFT_CATCH_UP_NONE;
    static_assert((int)RAFT_CATCH_UP_FINISHED == 3, "the header promises these numbers");
    if (id == c->caught_up_id && c->caught_up_term == c->raft.current_term &&
        c->raft.state == RAFT_LEADER) {
        return RAFT_CATCH_UP_FINISHED;
    }
    return raft_catch_up(&c->raft, id, &status) == 0 ? status : RAFT_CATCH_UP_NONE;
}

enum consensus_state consensus_state(const struct consensus *c)
{
    return c->dead ? CONSENSUS_UNAVAILABLE : (enum consensus_state)c->raft.state;
}

uint64_t consensus_term(const struct consensus *c)
{
    return c->raft.current_term;
}

uint64_t consensus_leader(const struct consensus *c)
{
    const struct raft *r = &c->raft;
    if (r->state == RAFT_LEADER) {
        return c->id;
    }
    /* libraft remembers the leader of an older term, so that it can refuse to disturb it. */
    bool known = r->state == RAFT_FOLLOWER && r->follower_state.current_leader.id != 0 &&
                 c->leader_term == r->current_term;
    return known ? c->leader_id : 0;
}

uint64_t consensus_commit_index(const struct consensus *c)
{
    /* While installing, libraft's index speaks of a log that isn't here yet. */
    return c->raft.snapshot.installing ? c->saved.commit_index : c->raft.commit_index;
}

uint64_t consensus_timeout_ms(const struct consensus *c)
{
    return raft_timeout(&c->raft);
}

bool consensus_installing(const struct consensus *c)
{
    return c->raft.snapshot.installing;
}

uint64_t consensus_transferee(const struct consensus *c)
{
    return raft_transferee(&c->raft);
}

uint64_t consensus_match_index(const struct consensus *c, uint64_t id)
{
    raft_index match = 0;
    return raft_match_index(&c->raft, id, &match) == 0 ? match : 0;
}

void consensus_get_config(const struct consensus *c, struct consensus_config *out)
{
    consensus__from_raft_config(&c->raft.configuration, out);
}

uint32_t consensus_server_count(const struct consensus *c)
{
    return c->raft.configuration.n;
}

struct consensus_server consensus_server_at(const struct consensus *c, uint32_t i)
{
    const struct raft_server *s = &c->raft.configuration.servers[i];
    return (struct consensus_server){.id = s->id, .role = (enum consensus_role)s->role};
}

bool consensus_change_pending(const struct consensus *c)
{
    return c->raft.configuration_uncommitted_index != 0;
}

void consensus_ahead(const struct consensus *c)
{
    lines_prefetch(c, offsetof(struct consensus, install));
}
