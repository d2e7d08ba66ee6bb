#include "coord/machine.h"

#include <string.h>

#include "base/assert.h"
#include "base/err.h"

static uint32_t all_of(const struct coord_machine *m)
{
    return (uint32_t)((1ull << m->count) - 1);
}

static bool all_are(const struct coord_machine *m, enum coord_part part)
{
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->parts[i] != part) {
            return false;
        }
    }
    return true;
}

bool coord_machine_is_sound(const struct coord_machine *m)
{
    uint64_t greatest = 0;
    bool prepared = true;
    for (uint32_t i = 0; i < m->count; i++) {
        prepared = prepared &&
                   (m->parts[i] == COORD_PART_YES || m->parts[i] == COORD_PART_APPLIED) &&
                   m->times[i] != 0;
        greatest = m->times[i] > greatest ? m->times[i] : greatest;
    }
    enum coord_part refuser = m->parts[m->refused_by];
    switch (m->state) {
    case COORD_GATHERING:
        return m->commit_time == 0 && m->code == 0;
    case COORD_COMMITTING:
        return prepared && m->commit_time == greatest && m->code == 0;
    case COORD_ABORTING:
        return m->code != 0 && m->commit_time == 0 &&
               (refuser == COORD_PART_NO || refuser == COORD_PART_LATE ||
                refuser == COORD_PART_APPLIED);
    case COORD_DONE:
        return (m->commit_time == 0) == (m->code != 0);
    case COORD_STATES:
    default:
        return false;
    }
}

static void commit(struct coord_machine *m, struct coord_actions *out)
{
    for (uint32_t i = 0; i < m->count; i++) {
        m->commit_time = m->times[i] > m->commit_time ? m->times[i] : m->commit_time;
    }
    m->state = COORD_COMMITTING;
    out->commit = all_of(m);
    out->answer = true;
}

static void refuse(struct coord_machine *m, uint32_t part, int code, struct coord_actions *out)
{
    m->state = COORD_ABORTING;
    m->refused_by = part;
    m->code = code;
    out->abort = all_of(m);
    out->answer = true;
}

void coord_machine_init(struct coord_machine *m, uint32_t count, enum coord_purpose purpose,
                        const uint64_t *times, struct coord_actions *out)
{
    assert(count > 0);
    assert(count <= TX_PARTICIPANTS_MAX);
    assert((times != NULL) == (purpose == COORD_FINISH));
    memset(m, 0, sizeof *m);
    memset(out, 0, sizeof *out);
    m->count = count;
    m->purpose = purpose;
    for (uint32_t i = 0; i < count; i++) {
        m->parts[i] = COORD_PART_PREPARING;
        if (purpose == COORD_RECOVER) {
            m->parts[i] = COORD_PART_ASKED;
        } else if (times != NULL) {
            m->parts[i] = COORD_PART_YES;
            m->times[i] = times[i];
        }
    }
    if (purpose == COORD_FINISH) {
        commit(m, out);
    } else if (purpose == COORD_RECOVER) {
        out->ask = all_of(m);
    } else {
        out->prepare = all_of(m);
    }
    assert(coord_machine_is_sound(m));
}

static void on_yes(struct coord_machine *m, const struct coord_event *e, struct coord_actions *out)
{
    if (m->state != COORD_GATHERING || (e->part == 0 && e->fresh != m->fresh)) {
        return;
    }
    m->parts[e->part] = COORD_PART_YES;
    m->times[e->part] = e->time;
    for (uint32_t i = 1; i < m->count && e->part == 0; i++) {
        if (m->parts[i] == COORD_PART_LATE) {
            refuse(m, i, ERR_TX_TOO_LATE, out);
            return;
        }
    }
    if (all_are(m, COORD_PART_YES)) {
        commit(m, out);
    }
}

static void on_no(struct coord_machine *m, const struct coord_event *e, struct coord_actions *out)
{
    if (m->state != COORD_GATHERING) {
        return;
    }
    m->parts[e->part] = COORD_PART_NO;
    m->conflict = e->conflict;
    m->conflict_version = e->conflict_version;
    refuse(m, e->part, e->code, out);
}

static void on_late(struct coord_machine *m, const struct coord_event *e, struct coord_actions *out)
{
    if (m->state != COORD_GATHERING) {
        return;
    }
    if (e->part == 0 || m->purpose == COORD_RECOVER) {
        /* Home remembers as long as the client may ask. And a recovery answers nobody: where all
         * have forgotten, an abort finds nothing to undo. */
        on_no(m, e, out);
        return;
    }
    m->parts[e->part] = COORD_PART_LATE;
    m->fresh++;
    if (m->parts[0] == COORD_PART_YES) {
        m->parts[0] = COORD_PART_PREPARING;
    }
    out->prepare = m->parts[0] == COORD_PART_PREPARING;
    out->ask = m->parts[0] == COORD_PART_ASKED;
}

/* Its own shard brings the others to an end. */
static void on_committed(struct coord_machine *m, const struct coord_event *e,
                         struct coord_actions *out)
{
    if (m->state == COORD_GATHERING) {
        m->state = COORD_DONE;
        m->commit_time = e->time;
        out->answer = true;
    }
}

static void on_silence(struct coord_machine *m, uint32_t part, struct coord_actions *out)
{
    if (m->state == COORD_GATHERING && m->parts[part] == COORD_PART_PREPARING) {
        m->parts[part] = COORD_PART_ASKED;
        out->ask = 1u << part;
    }
}

static void on_resend(const struct coord_machine *m, uint32_t part, struct coord_actions *out)
{
    uint32_t bit = 1u << part;
    if (m->parts[part] == COORD_PART_APPLIED) {
        return;
    }
    switch (m->state) {
    case COORD_GATHERING:
        out->prepare = m->parts[part] == COORD_PART_PREPARING ? bit : 0;
        out->ask = m->parts[part] == COORD_PART_ASKED ? bit : 0;
        break;
    case COORD_COMMITTING:
        out->commit = bit;
        break;
    case COORD_ABORTING:
        out->abort = bit;
        break;
    case COORD_DONE:
    case COORD_STATES:
    default:
        break;
    }
}

static void on_applied(struct coord_machine *m, uint32_t part, struct coord_actions *out)
{
    if (m->state != COORD_COMMITTING && m->state != COORD_ABORTING) {
        return;
    }
    m->parts[part] = COORD_PART_APPLIED;
    if (all_are(m, COORD_PART_APPLIED)) {
        m->state = COORD_DONE;
        out->forget = true;
    }
}

void coord_machine_step(struct coord_machine *m, const struct coord_event *event,
                        struct coord_actions *out)
{
    memset(out, 0, sizeof *out);
    assert(event->part < m->count);
    switch (event->kind) {
    case COORD_ON_YES:
        assert(event->time != 0);
        on_yes(m, event, out);
        break;
    case COORD_ON_NO:
        assert(event->code != 0);
        on_no(m, event, out);
        break;
    case COORD_ON_LATE:
        assert(event->code != 0);
        on_late(m, event, out);
        break;
    case COORD_ON_COMMITTED:
        assert(event->time != 0);
        on_committed(m, event, out);
        break;
    case COORD_ON_SILENCE:
        on_silence(m, event->part, out);
        break;
    case COORD_ON_RESEND:
        on_resend(m, event->part, out);
        break;
    case COORD_ON_APPLIED:
        on_applied(m, event->part, out);
        break;
    case COORD_EVENTS:
    default:
        break;
    }
    assert(coord_machine_is_sound(m));
}
