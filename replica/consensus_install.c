/* Snapshots: our own that let the log be trimmed, and the leader's that replace it. */
#include "base/assert.h"
#include "base/err.h"
#include "base/mem.h"
#include "replica/consensus_internal.h"

#include <limits.h>
#include <string.h>

/* ---- a checkpoint of our own
 * ------------------------------------------------------------------------- */

/* libraft takes no second snapshot of one index. Entries behind it that are released later would be
 * offered for ever to a follower that lacks them; and if no majority is without that one, no entry
 * is committed of which there could be a newer snapshot. So the trail is cut as it would have been
 * if the snapshot had been taken with fewer entries behind it. */
static void release(struct raft_trail *t, uint64_t index)
{
    while (t->front != t->back && t->records[t->front].index <= index) {
        t->front = (t->front + 1) % t->size;
    }
    if (index > t->offset) {
        t->offset = index;
    }
}

int consensus_snapshot_taken(struct consensus *c, uint64_t now_ms, uint64_t index, uint64_t term,
                             uint64_t trim_index, struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    struct raft *r = &c->raft;
    if (!r->snapshot.installing && index == r->trail.snapshot.index && trim_index <= index) {
        release(&r->trail, trim_index);
    }
    if (r->snapshot.installing || index <= r->trail.snapshot.index) {
        return consensus__finish(c, update); /* overtaken by one that came from the leader */
    }
    if (term == 0 || trim_index > index || index > r->commit_index ||
        consensus__trail_term(&r->trail, index) != term) {
        return ERR_INVAL;
    }
    uint64_t trailing = index - trim_index;
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_SNAPSHOT;
    event.snapshot.metadata.index = index;
    event.snapshot.metadata.term = term;
    /* No configuration: libraft takes one only when it is newer than the one it knows as committed,
     * and it can't be. */
    event.snapshot.metadata.configuration_index =
        r->configuration_committed_index < index ? r->configuration_committed_index : index;
    event.snapshot.trailing = trailing < UINT_MAX ? (unsigned)trailing : UINT_MAX;
    rv = consensus__step(c, &event, NULL, 0, NULL);
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}

/* ---- the leader's
 * ----------------------------------------------------------------------------------- */

/* libraft drops its log when the offer arrives, long before the pages are here, and has no event
 * for "it failed": a replica whose source died would claim an index that it doesn't have, and the
 * next leader would believe it. So the log's trail is kept aside meanwhile and put back. Our log on
 * disk isn't touched before the installation succeeds. */
static int save_log(struct consensus *c, struct saved_log *out)
{
    const struct raft *r = &c->raft;
    *out = (struct saved_log){
        .trail = r->trail, .last_stored = r->last_stored, .commit_index = r->commit_index};
    out->trail.records = NULL;
    if (r->trail.size > 0) {
        consensus__heap_enter(c);
        out->trail.records = raft_calloc(r->trail.size, sizeof *out->trail.records);
        consensus__heap_leave(c);
        memcpy((void *)out->trail.records, (const void *)r->trail.records,
               r->trail.size * sizeof *out->trail.records);
    }
    return c->dead ? ERR_NOMEM : 0;
}

void consensus__saved_log_close(struct saved_log *saved)
{
    raft_free(saved->trail.records);
    memset(saved, 0, sizeof *saved);
}

int consensus__receive_snapshot(struct consensus *c, const struct consensus_message *m)
{
    struct raft *r = &c->raft;
    struct saved_log saved;
    bool stale = m->term < r->current_term;
    memset(&saved, 0, sizeof saved);
    if (!stale) {
        if (r->snapshot.installing) {
            return 0; /* libraft would lose the memory; the leader offers it again */
        }
        if (m->index <= r->commit_index) {
            uint64_t term = consensus__trail_term(&r->trail, m->index);
            if (term != 0 && term != m->log_term) {
                return ERR_PROTOCOL; /* it would replace what is committed here */
            }
        }
        buf_clear(&c->install_data);
        int rv = buf_append(&c->install_data, m->data.data, m->data.len);
        if (rv == 0) {
            rv = save_log(c, &saved);
        }
        if (rv != 0) {
            consensus__saved_log_close(&saved);
            return rv;
        }
    }
    struct raft_message message;
    memset(&message, 0, sizeof message);
    char address[ADDRESS_BYTES];
    consensus__address(m->from, address);
    message.type = RAFT_INSTALL_SNAPSHOT;
    message.server_id = m->from;
    message.server_address = address;
    message.install_snapshot.version = m->version;
    message.install_snapshot.term = m->term;
    message.install_snapshot.last_index = m->index;
    message.install_snapshot.last_term = m->log_term;
    message.install_snapshot.conf_index = m->config_index;
    /* The manifest stays with us: libraft would only hand it back. */
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_RECEIVE;
    event.receive.message = &message;
    int rv = consensus__to_raft_config(c, &m->config, &message.install_snapshot.conf);
    if (rv == 0) {
        rv = consensus__step(c, &event, NULL, 0, NULL);
    }
    if (rv != 0 || stale || !r->snapshot.installing) {
        consensus__saved_log_close(&saved);
        return rv;
    }
    assert(c->saved.trail.records == NULL);
    c->saved = saved;
    c->install = *m;
    c->install.entries = NULL;
    c->install.data = slice_of(c->install_data.data, c->install_data.len);
    c->work->update.install = &c->install;
    return 0;
}

int consensus_snapshot_installed(struct consensus *c, uint64_t now_ms, bool ok,
                                 struct consensus_update **update)
{
    *update = NULL;
    int rv = consensus__begin(c, now_ms);
    if (rv != 0) {
        return rv;
    }
    struct raft *r = &c->raft;
    assert(r->snapshot.installing);
    assert(r->state == RAFT_FOLLOWER);
    if (!ok) {
        raft_configuration_close(&c->install_meta.configuration);
        raft_free(r->trail.records);
        r->trail = c->saved.trail;
        r->last_stored = c->saved.last_stored;
        r->commit_index = c->saved.commit_index;
        r->follower_state.match = 0; /* heartbeats moved it into the snapshot */
        r->snapshot.installing = false;
        memset(&c->saved, 0, sizeof c->saved);
        return consensus__finish(c, update);
    }
    struct raft_event event;
    memset(&event, 0, sizeof event);
    event.type = RAFT_PERSISTED_SNAPSHOT;
    event.persisted_snapshot.metadata = c->install_meta;
    event.persisted_snapshot.last = true;
    consensus__saved_log_close(&c->saved);
    rv = consensus__step(c, &event, NULL, 0, NULL);
    if (rv != 0) {
        return rv;
    }
    return consensus__finish(c, update);
}
