/* The cluster's life: events in order of virtual time, and after each what must hold. */
#include "cluster.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEVER UINT64_MAX

uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
    return n == 0 ? 0 : rng_next(r) % n;
}

bool rng_chance(struct rng *r, uint32_t per_mille)
{
    return rng_below(r, 1000) < per_mille;
}

uint64_t rng_between(struct rng *r, uint64_t low, uint64_t high)
{
    return low + rng_below(r, high - low + 1);
}

static void say(struct cluster *cl, FILE *f, const char *format, va_list args)
{
    fprintf(f, "%6llu ", (unsigned long long)cl->now);
    vfprintf(f, format, args);
    fputc('\n', f);
}

void trace(struct cluster *cl, const char *format, ...)
{
    if (cl->verbose) {
        va_list args;
        va_start(args, format);
        say(cl, stdout, format, args);
        va_end(args);
    }
}

void violation(struct cluster *cl, const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fprintf(stderr, "VIOLATION, replay with --seed %llu --verbose:\n",
            (unsigned long long)cl->seed);
    va_start(args, format);
    say(cl, stderr, format, args);
    va_end(args);
    for (uint32_t i = 0; i < cl->node_count; i++) {
        struct node *n = &cl->nodes[i];
        fprintf(stderr, "  %llu %s", (unsigned long long)n->id,
                n->wiped   ? "wiped"
                : n->alive ? ""
                           : "down");
        if (n->alive) {
            fprintf(stderr,
                    "state %d term %llu leader %llu log %llu..%llu commit %llu applied %llu%s%s",
                    (int)consensus_state(n->c), (unsigned long long)consensus_term(n->c),
                    (unsigned long long)consensus_leader(n->c),
                    (unsigned long long)n->log.prev_index, (unsigned long long)log_last(&n->log),
                    (unsigned long long)n->commit, (unsigned long long)n->applied,
                    consensus_installing(n->c) ? " installing" : "",
                    consensus_change_pending(n->c) ? " changing" : "");
            struct consensus_config config;
            consensus_get_config(n->c, &config);
            for (uint32_t j = 0; j < config.count; j++) {
                fprintf(stderr, " %llu%s", (unsigned long long)config.servers[j].id,
                        config.servers[j].role == CONSENSUS_VOTER ? "V" : "S");
            }
        }
        fputc('\n', stderr);
    }
    exit(1);
}

static void mix(struct cluster *cl, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t words[5] = {cl->trace, cl->now, a, b, c};
    cl->trace = hash64(0, words, sizeof words);
}

static void *grown(void *array, size_t *capacity, size_t want, size_t bytes)
{
    if (want <= *capacity) {
        return array;
    }
    size_t n = *capacity == 0 ? 64 : *capacity;
    while (n < want) {
        n *= 2;
    }
    array = mem_realloc(array, n * bytes);
    assert(array != NULL);
    memset((uint8_t *)array + *capacity * bytes, 0, (n - *capacity) * bytes);
    *capacity = n;
    return array;
}

struct node *cluster_node(struct cluster *cl, uint64_t id)
{
    for (uint32_t i = 0; i < cl->node_count; i++) {
        if (cl->nodes[i].id == id) {
            return &cl->nodes[i];
        }
    }
    return NULL;
}

struct node *cluster_leader(struct cluster *cl)
{
    struct node *best = NULL;
    for (uint32_t i = 0; i < cl->node_count; i++) {
        struct node *n = &cl->nodes[i];
        if (n->alive && consensus_state(n->c) == CONSENSUS_LEADER &&
            (best == NULL || consensus_term(n->c) > consensus_term(best->c))) {
            best = n;
        }
    }
    return best;
}

/* ---- network
 * -------------------------------------------------------------------------------------------- */

/* A message that owns what it points to. */
static void message_copy(struct consensus_message *to, const struct consensus_message *from)
{
    *to = *from;
    if (from->count > 0 && from->entries != NULL) {
        to->entries = mem_alloc(from->count * sizeof *to->entries);
        assert(to->entries != NULL);
        memcpy(to->entries, from->entries, from->count * sizeof *to->entries);
        for (uint32_t i = 0; i < from->count; i++) {
            if (to->entries[i].block != NULL) {
                wal_block_ref(to->entries[i].block);
            }
        }
    }
    if (from->data.len > 0) {
        uint8_t *data = mem_alloc(from->data.len);
        assert(data != NULL);
        memcpy(data, from->data.data, from->data.len);
        to->data.data = data;
    }
}

static void message_close(struct consensus_message *m, bool entries_taken)
{
    for (uint32_t i = 0; !entries_taken && i < m->count; i++) {
        if (m->entries[i].block != NULL) {
            wal_block_unref(m->entries[i].block);
        }
    }
    mem_free(m->entries);
    mem_free((void *)(uintptr_t)m->data.data);
}

static bool earlier(const struct packet *a, const struct packet *b)
{
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

static void packet_push(struct cluster *cl, struct packet *p)
{
    cl->packets = grown(cl->packets, &cl->packet_capacity, cl->packet_count + 1, sizeof p);
    size_t i = cl->packet_count++;
    while (i > 0 && earlier(p, cl->packets[(i - 1) / 2])) {
        cl->packets[i] = cl->packets[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    cl->packets[i] = p;
}

static struct packet *packet_pop(struct cluster *cl)
{
    struct packet *top = cl->packets[0];
    struct packet *last = cl->packets[--cl->packet_count];
    size_t i = 0;
    for (;;) {
        size_t child = i * 2 + 1;
        if (child >= cl->packet_count) {
            break;
        }
        if (child + 1 < cl->packet_count && earlier(cl->packets[child + 1], cl->packets[child])) {
            child++;
        }
        if (!earlier(cl->packets[child], last)) {
            break;
        }
        cl->packets[i] = cl->packets[child];
        i = child;
    }
    if (cl->packet_count > 0) {
        cl->packets[i] = last;
    }
    return top;
}

static void network_send(struct cluster *cl, const struct consensus_message *m)
{
    const struct profile *p = &cl->profile;
    int copies = 1;
    if (cl->faults) {
        copies = rng_chance(&cl->rng, p->loss) ? 0 : rng_chance(&cl->rng, p->duplicate) ? 2 : 1;
    }
    for (int i = 0; i < copies; i++) {
        struct packet *k = mem_zalloc(sizeof *k);
        assert(k != NULL);
        message_copy(&k->m, m);
        uint64_t delay = 1 + rng_below(&cl->rng, 2);
        if (cl->faults && rng_chance(&cl->rng, p->reorder)) {
            delay += rng_below(&cl->rng, p->delay_ms_max);
            if (rng_chance(&cl->rng, 30)) {
                delay += rng_below(&cl->rng, 10 * (uint64_t)p->delay_ms_max); /* from another age */
            }
        }
        k->at = cl->now + delay;
        k->order = cl->order++;
        packet_push(cl, k);
    }
}

static void deliver(struct cluster *cl, struct packet *k)
{
    struct node *to = cluster_node(cl, k->m.to);
    struct node *from = cluster_node(cl, k->m.from);
    assert(from != NULL);
    if (to == NULL || !to->alive || cl->cut[from - cl->nodes][to - cl->nodes]) {
        message_close(&k->m, false);
        mem_free(k);
        return;
    }
    if (to->paused_until > cl->now) {
        k->at = to->paused_until;
        packet_push(cl, k);
        return;
    }
    cl->stats.packets++;
    mix(cl, k->m.from << 32 | k->m.to, k->m.term << 8 | (uint64_t)k->m.type, k->m.index);
    trace(cl,
          "%llu -> %llu type %d term %llu index %llu/%llu commit %llu rejected %llu count %u flags "
          "%x",
          (unsigned long long)k->m.from, (unsigned long long)k->m.to, (int)k->m.type,
          (unsigned long long)k->m.term, (unsigned long long)k->m.index,
          (unsigned long long)k->m.log_term, (unsigned long long)k->m.commit,
          (unsigned long long)k->m.rejected, k->m.count, k->m.flags);
    struct consensus_update *u;
    int rv = consensus_receive(to->c, cl->now, &k->m, &u);
    if (rv != 0) {
        violation(cl, "%llu refuses an honest message of type %d from %llu: %s",
                  (unsigned long long)to->id, (int)k->m.type, (unsigned long long)k->m.from,
                  err_name(rv));
    }
    message_close(&k->m, true);
    mem_free(k);
    node_update(cl, to, u);
}

/* A message is sent once the hard state before it is durable. */
static void hold(struct cluster *cl, struct node *n, const struct consensus_message *m)
{
    if (n->hard_position <= n->disk.durable) {
        network_send(cl, m);
        return;
    }
    n->held = grown(n->held, &n->held_capacity, n->held_count + 1, sizeof *n->held);
    struct held_message *h = &n->held[n->held_count++];
    message_copy(&h->m, m);
    h->position = n->hard_position;
}

static void release_held(struct cluster *cl, struct node *n)
{
    size_t done = 0;
    while (done < n->held_count && n->held[done].position <= n->disk.durable) {
        network_send(cl, &n->held[done].m);
        message_close(&n->held[done].m, false);
        done++;
    }
    if (done == 0) {
        return;
    }
    memmove(n->held, n->held + done, (n->held_count - done) * sizeof *n->held);
    n->held_count -= done;
}

static void send_append(struct cluster *cl, struct node *n, struct consensus_message *m)
{
    if (m->count == 0) {
        hold(cl, n, m);
        return;
    }
    uint64_t index = m->index + 1, left = m->count;
    if (index + left - 1 > log_last(&n->log) || log_at(&n->log, index) == NULL) {
        violation(cl, "%llu must send entries %llu.. which its log doesn't hold",
                  (unsigned long long)n->id, (unsigned long long)index);
    }
    struct wal_entry batch[64];
    while (left > 0) {
        struct consensus_message part = *m;
        part.index = index - 1;
        part.log_term = log_term(&n->log, index - 1);
        if (part.index == m->index) {
            part.log_term = m->log_term;
        }
        part.count = (uint32_t)(left < cl->profile.batch_max ? left : cl->profile.batch_max);
        for (uint32_t i = 0; i < part.count; i++) {
            batch[i] = log_at(&n->log, index + i)->e;
        }
        part.entries = batch;
        hold(cl, n, &part);
        index += part.count;
        left -= part.count;
    }
}

static void send_snapshot(struct cluster *cl, struct node *n, struct consensus_message *m)
{
    if (n->checkpoint.index < m->index) {
        violation(cl, "%llu must send a snapshot at %llu, newest is %llu",
                  (unsigned long long)n->id, (unsigned long long)m->index,
                  (unsigned long long)n->checkpoint.index);
    }
    m->index = n->checkpoint.index;
    m->log_term = n->checkpoint.term;
    m->config = n->checkpoint.config;
    m->config_index = n->checkpoint.config_index;
    m->data = slice_of(&n->checkpoint, sizeof n->checkpoint);
    hold(cl, n, m);
}

/* ---- a replica
 * --------------------------------------------------------------------------------------------- */

static void schedule_sync(struct cluster *cl, struct node *n)
{
    if (n->sync_done_at == 0 && n->disk.position > n->disk.durable) {
        n->sync_position = n->disk.position;
        n->sync_done_at = cl->now + 1 + rng_below(&cl->rng, cl->faults ? n->disk_ms_max + 1u : 2);
    }
}

static uint64_t entry_command(const struct wal_entry *e)
{
    return e->type == ENTRY_COMMAND && e->data.len == 8 ? load_u64(e->data.data) : 0;
}

static void choose(struct cluster *cl, struct node *n, uint64_t index, const struct wal_entry *e)
{
    uint64_t words[4] = {n->hash, index, e->term, e->type};
    uint64_t hash = hash64(hash64(0, words, sizeof words), e->data.data, e->data.len);
    if (index < cl->chosen_count) {
        const struct chosen *x = &cl->chosen[index];
        if (x->term != e->term || x->hash != hash) {
            violation(cl, "%llu applies another entry at %llu: term %llu, chosen was term %llu",
                      (unsigned long long)n->id, (unsigned long long)index,
                      (unsigned long long)e->term, (unsigned long long)x->term);
        }
    } else {
        cl->chosen = grown(cl->chosen, &cl->chosen_capacity, index + 1, sizeof *cl->chosen);
        assert(index == (cl->chosen_count == 0 ? 1 : cl->chosen_count));
        cl->chosen[index] = (struct chosen){.term = e->term,
                                            .hash = hash,
                                            .command = entry_command(e),
                                            .type = e->type,
                                            .known_term = consensus_term(n->c)};
        cl->chosen_count = index + 1;
        for (size_t i = 0; i < cl->pending_count;) {
            struct ack *a = &cl->pending[i];
            if (a->index > index) {
                i++;
                continue;
            }
            if (a->index == index && a->term == e->term) {
                if (a->command != entry_command(e)) {
                    violation(cl, "entry %llu of term %llu isn't the command that was submitted",
                              (unsigned long long)index, (unsigned long long)e->term);
                }
                cl->acked =
                    grown(cl->acked, &cl->acked_capacity, cl->acked_count + 1, sizeof *cl->acked);
                cl->acked[cl->acked_count++] = *a;
                cl->stats.acked++;
            }
            *a = cl->pending[--cl->pending_count];
        }
    }
    n->hash = hash;
    n->applied = index;
    n->applied_term = e->term;
}

static void apply(struct cluster *cl, struct node *n)
{
    if (n->applying) {
        return;
    }
    n->applying = true;
    for (;;) {
        uint64_t limit = n->commit;
        if (log_last(&n->log) < limit) {
            limit = log_last(&n->log);
        }
        if (n->install_position != 0 || n->applied >= limit) {
            break;
        }
        struct entry *e = log_at(&n->log, n->applied + 1);
        if (e == NULL) {
            violation(cl, "%llu can't apply %llu: it isn't in its log", (unsigned long long)n->id,
                      (unsigned long long)n->applied + 1);
        }
        if (cl->profile.apply_durable_only && e->position > n->disk.durable) {
            break;
        }
        choose(cl, n, n->applied + 1, &e->e);
        if (e->e.type == ENTRY_CHANGE) {
            struct consensus_update *u;
            int rv = consensus_config_decode(e->e.data, &n->config);
            assert(rv == 0);
            n->config_index = n->applied;
            rv = consensus_configuration_applied(n->c, cl->now, n->applied, e->e.data, &u);
            assert(rv == 0);
            node_update(cl, n, u);
        }
    }
    n->applying = false;
}

static void check_leader(struct cluster *cl, struct node *n)
{
    uint64_t term = consensus_term(n->c);
    cl->stats.elections++;
    trace(cl, "%llu leads term %llu", (unsigned long long)n->id, (unsigned long long)term);
    cl->leaders = grown(cl->leaders, &cl->leaders_capacity, term + 1, sizeof *cl->leaders);
    if (cl->leaders[term] != 0) {
        violation(cl, "two leaders in term %llu: %llu and %llu", (unsigned long long)term,
                  (unsigned long long)cl->leaders[term], (unsigned long long)n->id);
    }
    cl->leaders[term] = n->id;
    for (uint64_t i = n->log.prev_index + 1; i < cl->chosen_count; i++) {
        /* Only what was committed in a lower term must be here: an old vote may arrive late. */
        if (cl->chosen[i].known_term < term && log_term(&n->log, i) != cl->chosen[i].term) {
            violation(cl, "leader %llu of term %llu lacks the committed entry %llu",
                      (unsigned long long)n->id, (unsigned long long)term, (unsigned long long)i);
        }
    }
    n->wants_barrier = true;
}

static void store(struct cluster *cl, struct node *n, struct consensus_update *u)
{
    if (u->hard_state_changed) {
        struct disk_op op = {.kind = OP_HARD, .term = u->term, .vote = u->voted_for};
        disk_write(&n->disk, &op);
        n->hard_position = n->disk.position;
    }
    if (u->entry_count == 0) {
        return;
    }
    if (u->first_index <= log_last(&n->log)) {
        cl->stats.truncations++;
        trace(cl, "%llu truncates at %llu", (unsigned long long)n->id,
              (unsigned long long)u->first_index);
        if (u->first_index <= n->applied || u->first_index <= n->commit ||
            u->first_index <= n->log.prev_index) {
            violation(cl, "%llu truncates at %llu what is committed", (unsigned long long)n->id,
                      (unsigned long long)u->first_index);
        }
        struct disk_op op = {.kind = OP_TRUNCATE, .index = u->first_index};
        disk_write(&n->disk, &op);
        log_truncate(&n->log, u->first_index);
    }
    if (u->first_index != log_last(&n->log) + 1) {
        violation(cl, "%llu appends at %llu behind %llu", (unsigned long long)n->id,
                  (unsigned long long)u->first_index, (unsigned long long)log_last(&n->log));
    }
    for (size_t i = 0; i < u->entry_count; i++) {
        struct disk_op op = {.kind = OP_ENTRY, .entry = u->entries[i]};
        disk_write(&n->disk, &op);
        log_append(&n->log, &u->entries[i], n->disk.position);
        if (u->entries[i].block != NULL) {
            wal_block_unref(u->entries[i].block);
        }
    }
}

void node_update(struct cluster *cl, struct node *n, struct consensus_update *u)
{
    bool lead = u->state_changed && consensus_state(n->c) == CONSENSUS_LEADER;
    store(cl, n, u);
    for (size_t i = 0; i < u->message_count; i++) {
        struct consensus_message m = u->messages[i];
        if (m.type == MSG_APPEND) {
            send_append(cl, n, &m);
        } else if (m.type == MSG_SNAPSHOT) {
            send_snapshot(cl, n, &m);
        } else {
            hold(cl, n, &m);
        }
    }
    if (u->install != NULL) {
        assert(u->install->data.len == sizeof n->incoming);
        memcpy(&n->incoming, u->install->data.data, sizeof n->incoming);
        assert(n->incoming.index == u->install->index);
        n->install_done_at = cl->now + rng_between(&cl->rng, 1, cl->faults ? 200 : 20);
        trace(cl, "%llu installs a snapshot at %llu", (unsigned long long)n->id,
              (unsigned long long)n->incoming.index);
    }
    n->commit = u->commit_index;
    if (lead) {
        check_leader(cl, n);
    }
    apply(cl, n);
    schedule_sync(cl, n);
    if (!n->applying && n->wants_barrier) {
        n->wants_barrier = false;
        if (consensus_state(n->c) == CONSENSUS_LEADER) {
            struct consensus_update *next;
            int rv = consensus_submit(n->c, cl->now, ENTRY_BARRIER, slice_of(NULL, 0), NULL, &next);
            if (rv == 0) {
                node_update(cl, n, next);
            }
        }
    }
}

void node_submit(struct cluster *cl, struct node *n)
{
    uint64_t command = ++cl->command;
    struct slice data;
    struct wal_block *block = block_new(&command, sizeof command, &data);
    struct consensus_update *u;
    int rv = consensus_submit(n->c, cl->now, ENTRY_COMMAND, data, block, &u);
    if (rv != 0) {
        assert(rv == ERR_NOTLEADER || rv == ERR_BUSY);
        return;
    }
    cl->stats.submitted++;
    cl->pending =
        grown(cl->pending, &cl->pending_capacity, cl->pending_count + 1, sizeof *cl->pending);
    cl->pending[cl->pending_count++] =
        (struct ack){.index = u->first_index, .term = u->term, .command = command};
    node_update(cl, n, u);
}

void node_checkpoint(struct cluster *cl, struct node *n)
{
    struct entry *e = log_at(&n->log, n->applied);
    if (n->checkpoint_position != 0 || n->applied <= n->checkpoint.index ||
        consensus_installing(n->c) || e == NULL || e->position > n->disk.durable) {
        return;
    }
    struct disk_op op = {.kind = OP_CHECKPOINT};
    op.checkpoint = (struct checkpoint){.index = n->applied,
                                        .term = n->applied_term,
                                        .hash = n->hash,
                                        .config = n->config,
                                        .config_index = n->config_index};
    uint64_t keep = rng_chance(&cl->rng, 500) ? 0 : rng_below(&cl->rng, 20);
    op.index = n->applied > keep ? n->applied - keep : 0;
    if (op.index < n->log.prev_index) {
        op.index = n->log.prev_index;
    }
    disk_write(&n->disk, &op);
    n->checkpoint_writing = op.checkpoint;
    n->checkpoint_trim = op.index;
    n->checkpoint_position = n->disk.position;
    schedule_sync(cl, n);
}

static void check_state(struct cluster *cl, const struct node *n, const struct checkpoint *k)
{
    if (k->index >= cl->chosen_count || cl->chosen[k->index].hash != k->hash) {
        violation(cl, "%llu holds another state at %llu", (unsigned long long)n->id,
                  (unsigned long long)k->index);
    }
}

static void finish_sync(struct cluster *cl, struct node *n)
{
    struct consensus_update *u;
    int rv;
    n->sync_done_at = 0;
    disk_sync(&n->disk, n->sync_position);
    release_held(cl, n);
    if (n->install_position != 0 && n->install_position <= n->disk.durable) {
        const struct checkpoint *k = &n->incoming;
        check_state(cl, n, k);
        n->install_position = 0;
        n->checkpoint = *k;
        n->applied = k->index;
        n->applied_term = k->term;
        n->hash = k->hash;
        n->config = k->config;
        n->config_index = k->config_index;
        cl->stats.installs++;
        rv = consensus_snapshot_installed(n->c, cl->now, true, &u);
        assert(rv == 0);
        node_update(cl, n, u);
    }
    if (n->checkpoint_position != 0 && n->checkpoint_position <= n->disk.durable) {
        n->checkpoint_position = 0;
        if (n->checkpoint_writing.index > n->checkpoint.index && n->install_position == 0) {
            n->checkpoint = n->checkpoint_writing;
            cl->stats.checkpoints++;
            rv = consensus_snapshot_taken(n->c, cl->now, n->checkpoint.index, n->checkpoint.term,
                                          n->checkpoint_trim, &u);
            assert(rv == 0);
            log_trim(&n->log, n->checkpoint_trim);
            node_update(cl, n, u);
        }
    }
    size_t durable = n->log.count;
    while (durable > 0 && n->log.entries[durable - 1].position > n->disk.durable) {
        durable--;
    }
    if (durable > 0) {
        rv = consensus_persisted(n->c, cl->now, n->log.prev_index + durable,
                                 n->log.entries[durable - 1].e.term, &u);
        assert(rv == 0);
        node_update(cl, n, u);
    }
    apply(cl, n);
    schedule_sync(cl, n);
}

static void finish_install(struct cluster *cl, struct node *n)
{
    n->install_done_at = 0;
    struct consensus_update *u;
    if (cl->faults && rng_chance(&cl->rng, cl->profile.install_fail)) {
        cl->stats.installs_failed++;
        int rv = consensus_snapshot_installed(n->c, cl->now, false, &u);
        assert(rv == 0);
        node_update(cl, n, u);
        return;
    }
    if (n->incoming.index <= n->applied) {
        violation(cl, "%llu installs a snapshot at %llu, applied is %llu",
                  (unsigned long long)n->id, (unsigned long long)n->incoming.index,
                  (unsigned long long)n->applied);
    }
    struct disk_op op = {.kind = OP_RESTART, .checkpoint = n->incoming};
    disk_write(&n->disk, &op);
    log_restart(&n->log, n->incoming.index, n->incoming.term);
    n->install_position = n->disk.position;
    schedule_sync(cl, n);
}

void node_start(struct cluster *cl, struct node *n)
{
    assert(!n->alive && !n->wiped);
    struct consensus_opts opts = {.workspace = cl->work,
                                  .shard_uid = 7,
                                  .id = n->id,
                                  .election_ms = ELECTION_MS,
                                  .heartbeat_ms = HEARTBEAT_MS,
                                  .inflight_entries_max = 32,
                                  .seed = (uint32_t)rng_next(&cl->rng)};
    int rv = consensus_open(&opts, &n->c);
    assert(rv == 0);
    log_copy(&n->log, &n->disk.log);
    n->checkpoint = n->disk.checkpoint;
    n->applied = n->checkpoint.index;
    n->applied_term = n->checkpoint.term;
    n->hash = n->checkpoint.hash;
    n->config = n->checkpoint.config;
    n->config_index = n->checkpoint.config_index;
    n->commit = 0;
    n->hard_position = n->disk.durable;
    n->starts++;
    n->alive = true;
    struct wal_entry *entries = mem_zalloc((n->log.count + 1) * sizeof *entries);
    assert(entries != NULL);
    for (size_t i = 0; i < n->log.count; i++) {
        entries[i] = n->log.entries[i].e;
    }
    struct consensus_start start = {.now_ms = cl->now,
                                    .term = n->disk.term,
                                    .voted_for = n->disk.vote,
                                    .snapshot_index = n->checkpoint.index,
                                    .snapshot_term = n->checkpoint.term,
                                    .config = n->checkpoint.config,
                                    .config_index = n->checkpoint.config_index,
                                    .first_index = n->log.prev_index + 1,
                                    .entries = entries,
                                    .entry_count = n->log.count};
    struct consensus_update *u;
    rv = consensus_start(n->c, &start, &u);
    assert(rv == 0);
    mem_free(entries);
    trace(cl, "%llu starts: term %llu, log %llu..%llu, checkpoint %llu", (unsigned long long)n->id,
          (unsigned long long)n->disk.term, (unsigned long long)n->log.prev_index,
          (unsigned long long)log_last(&n->log), (unsigned long long)n->checkpoint.index);
    node_update(cl, n, u);
}

void node_crash(struct cluster *cl, struct node *n)
{
    assert(n->alive);
    trace(cl, "%llu crashes", (unsigned long long)n->id);
    /* The disk may have got further than it had said. */
    disk_sync(&n->disk, rng_between(&cl->rng, n->disk.durable, n->disk.position));
    disk_crash(&n->disk);
    for (size_t i = 0; i < n->held_count; i++) {
        message_close(&n->held[i].m, false);
    }
    n->held_count = 0;
    consensus_free(n->c);
    n->c = NULL;
    n->alive = false;
    n->applying = n->wants_barrier = false;
    n->sync_done_at = n->install_done_at = n->install_position = n->checkpoint_position = 0;
    n->paused_until = 0;
    log_restart(&n->log, 0, 0);
}

struct node *node_create(struct cluster *cl, uint64_t id)
{
    assert(cl->node_count < NODES_OF_RUN_MAX);
    struct node *n = &cl->nodes[cl->node_count++];
    n->id = id;
    n->disk_ms_max = 3;
    return n;
}

/* ---- the run
 * --------------------------------------------------------------------------------------------- */

void cluster_open(struct cluster *cl, uint64_t seed, bool verbose)
{
    memset(cl, 0, sizeof *cl);
    cl->seed = seed;
    cl->rng.state = seed * 0x2545f4914f6cdd1du;
    cl->verbose = verbose;
    cl->work = consensus_workspace_new();
    assert(cl->work != NULL);
    cl->now = 1000;
    cl->faults = true;
    faults_draw(cl);
    struct consensus_config config = {.count = cl->profile.replicas};
    for (uint32_t i = 0; i < config.count; i++) {
        config.servers[i] = (struct consensus_server){.id = 101 + i, .role = CONSENSUS_VOTER};
    }
    struct buf bytes;
    buf_init(&bytes);
    int rv = consensus_config_encode(&config, &bytes);
    assert(rv == 0);
    for (uint32_t i = 0; i < config.count; i++) {
        struct node *n = node_create(cl, config.servers[i].id);
        struct disk_op hard = {.kind = OP_HARD, .term = 1};
        struct disk_op born = {.kind = OP_ENTRY, .entry = {.term = 1, .type = ENTRY_CHANGE}};
        born.entry.block = block_new(bytes.data, bytes.len, &born.entry.data);
        disk_write(&n->disk, &hard);
        disk_write(&n->disk, &born);
        wal_block_unref(born.entry.block);
        disk_sync(&n->disk, n->disk.position);
        node_start(cl, n);
    }
    buf_close(&bytes);
    cl->next_submit = cl->next_fault = cl->next_admin = cl->now;
    cl->heal_at = NEVER;
}

void cluster_close(struct cluster *cl)
{
    for (uint32_t i = 0; i < cl->node_count; i++) {
        struct node *n = &cl->nodes[i];
        if (n->alive) {
            node_crash(cl, n);
        }
        disk_close(&n->disk);
        log_close(&n->log);
        mem_free(n->held);
    }
    for (size_t i = 0; i < cl->packet_count; i++) {
        message_close(&cl->packets[i]->m, false);
        mem_free(cl->packets[i]);
    }
    consensus_workspace_free(cl->work);
    mem_free(cl->packets);
    mem_free(cl->chosen);
    mem_free(cl->pending);
    mem_free(cl->acked);
    mem_free(cl->leaders);
    if (blocks_alive() != 0) {
        violation(cl, "%zu blocks are still referenced", blocks_alive());
    }
}

static uint64_t earliest(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t node_due(const struct node *n)
{
    uint64_t at = consensus_timeout_ms(n->c);
    if (n->sync_done_at != 0) {
        at = earliest(at, n->sync_done_at);
    }
    if (n->install_done_at != 0) {
        at = earliest(at, n->install_done_at);
    }
    return at < n->paused_until ? n->paused_until : at;
}

static void node_run(struct cluster *cl, struct node *n)
{
    if (n->sync_done_at != 0 && n->sync_done_at <= cl->now) {
        finish_sync(cl, n);
    }
    if (n->install_done_at != 0 && n->install_done_at <= cl->now) {
        finish_install(cl, n);
    }
    if (consensus_timeout_ms(n->c) <= cl->now) {
        struct consensus_update *u;
        cl->stats.ticks++;
        int rv = consensus_tick(n->c, cl->now, &u);
        assert(rv == 0);
        node_update(cl, n, u);
    }
}

bool cluster_run(struct cluster *cl, uint64_t until, bool (*done)(struct cluster *cl))
{
    while (cl->now < until) {
        if (done != NULL && done(cl)) {
            return true;
        }
        uint64_t next = earliest(until, cl->next_submit);
        if (cl->faults) {
            next = earliest(next, earliest(cl->next_fault, cl->next_admin));
        }
        if (cl->packet_count > 0) {
            next = earliest(next, cl->packets[0]->at);
        }
        for (uint32_t i = 0; i < cl->node_count; i++) {
            if (cl->nodes[i].alive) {
                next = earliest(next, node_due(&cl->nodes[i]));
            }
        }
        if (next <= cl->now) {
            next = cl->now; /* something is due still */
        }
        cl->now = next;
        while (cl->packet_count > 0 && cl->packets[0]->at <= cl->now) {
            deliver(cl, packet_pop(cl));
        }
        for (uint32_t i = 0; i < cl->node_count; i++) {
            if (cl->nodes[i].alive && node_due(&cl->nodes[i]) <= cl->now) {
                node_run(cl, &cl->nodes[i]);
            }
        }
        if (cl->next_submit <= cl->now) {
            cl->next_submit = cl->now + 1 + rng_below(&cl->rng, 2 * cl->profile.submit_ms);
            uint64_t burst = rng_chance(&cl->rng, 100) ? rng_between(&cl->rng, 2, 20) : 1;
            for (uint32_t i = 0; i < cl->node_count; i++) {
                struct node *n = &cl->nodes[i]; /* whoever believes that it leads */
                if (n->alive && n->paused_until <= cl->now &&
                    consensus_state(n->c) == CONSENSUS_LEADER) {
                    for (uint64_t k = 0; k < burst; k++) {
                        node_submit(cl, n);
                    }
                }
            }
        }
        if (cl->faults && cl->next_fault <= cl->now) {
            cl->next_fault = cl->now + rng_between(&cl->rng, 5, 60);
            faults_step(cl);
        }
        if (cl->faults && cl->next_admin <= cl->now) {
            cl->next_admin = cl->now + rng_between(&cl->rng, 10, 120);
            admin_step(cl);
        }
    }
    return done == NULL || done(cl);
}

void cluster_check_end(struct cluster *cl)
{
    for (size_t i = 0; i < cl->acked_count; i++) {
        const struct ack *a = &cl->acked[i];
        if (a->index >= cl->chosen_count || cl->chosen[a->index].command != a->command) {
            violation(cl, "acknowledged command %llu at %llu is lost",
                      (unsigned long long)a->command, (unsigned long long)a->index);
        }
    }
    for (uint32_t i = 0; i < cl->node_count; i++) {
        const struct node *n = &cl->nodes[i];
        if (n->alive && n->applied > 0 && cl->chosen[n->applied].hash != n->hash) {
            violation(cl, "%llu ends in another state", (unsigned long long)n->id);
        }
    }
}
