/* Received messages, field by field. libraft is built without its asserts: whatever gets past here
 * and breaks its contract is silent corruption. Nothing here depends on the replica's state except
 * its own id. */
#include "base/err.h"
#include "replica/consensus_internal.h"

/* The versions that libraft 0.22.1 writes. Lower ones switch checks off in its handlers. */
static const uint8_t versions[] = {
    [MSG_APPEND] = 0,      [MSG_APPEND_RESULT] = 2, [MSG_VOTE] = 2,
    [MSG_VOTE_RESULT] = 2, [MSG_SNAPSHOT] = 0,      [MSG_TIMEOUT_NOW] = 0,
};

static bool number_ok(uint64_t n)
{
    return n <= NUMBER_MAX;
}

/* An (index, term) pair that names an entry of the sender's log, or nothing (0, 0). */
static bool position_ok(const struct consensus_message *m)
{
    return (m->index == 0) == (m->log_term == 0) && m->log_term <= m->term;
}

static bool entries_ok(const struct consensus_message *m)
{
    if (m->count > RECEIVED_ENTRIES_MAX || (m->count > 0) != (m->entries != NULL)) {
        return false;
    }
    uint64_t term = m->log_term > 0 ? m->log_term : 1;
    for (uint32_t i = 0; i < m->count; i++) {
        const struct wal_entry *e = &m->entries[i];
        if (e->term < term || e->term > m->term) {
            return false;
        }
        term = e->term;
        if (e->data.len > ENTRY_BYTES_MAX || (e->data.len > 0 && e->block == NULL)) {
            return false;
        }
        struct consensus_config config;
        switch (e->type) {
        case ENTRY_COMMAND:
        case ENTRY_BARRIER:
            break;
        case ENTRY_CHANGE:
            if (consensus_config_decode(e->data, &config) != 0) {
                return false;
            }
            break;
        default:
            return false;
        }
    }
    return true;
}

static bool body_ok(const struct consensus_message *m)
{
    switch (m->type) {
    case MSG_APPEND:
        return position_ok(m) && entries_ok(m) && m->flags == 0;
    case MSG_APPEND_RESULT:
        return m->flags == 0;
    case MSG_VOTE:
        return position_ok(m) && (m->flags & ~(MSG_PRE_VOTE | MSG_DISRUPT)) == 0;
    case MSG_VOTE_RESULT:
        return (m->flags & ~(MSG_PRE_VOTE | MSG_GRANTED)) == 0;
    case MSG_SNAPSHOT:
        return m->index > 0 && position_ok(m) && m->config_index > 0 &&
               m->config_index <= m->index && consensus__config_valid(&m->config) &&
               m->data.len <= MANIFEST_BYTES_MAX;
    case MSG_TIMEOUT_NOW:
        return position_ok(m) && m->flags == 0;
    }
    return false;
}

int consensus__check_message(const struct consensus *c, const struct consensus_message *m)
{
    if ((unsigned)m->type < MSG_APPEND || (unsigned)m->type > MSG_TIMEOUT_NOW) {
        return ERR_PROTOCOL;
    }
    if (m->version != versions[m->type] || m->to != c->id || m->from == 0 || m->from == c->id) {
        return ERR_PROTOCOL;
    }
    if (m->term == 0 || !number_ok(m->term) || !number_ok(m->index) || !number_ok(m->log_term) ||
        !number_ok(m->commit) || !number_ok(m->rejected)) {
        return ERR_PROTOCOL;
    }
    if (m->type != MSG_APPEND && (m->count != 0 || m->entries != NULL)) {
        return ERR_PROTOCOL;
    }
    return body_ok(m) ? 0 : ERR_PROTOCOL;
}
