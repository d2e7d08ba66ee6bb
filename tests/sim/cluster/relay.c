#include "sim/cluster/relay.h"

#include <inttypes.h>
#include <string.h>

#include "sim/cluster/cluster.h"
#include "sim/internal.h"

#define AGAIN_MS     50u
#define DOUBLE_EVERY 5u

static void write_next(struct relay *r);
static void rest(struct relay *r);

static uint64_t below(const struct relay *r, uint64_t limit)
{
    return env_random_u64(r->client->env) % limit;
}

static uint64_t ptr_of(const struct relay *r, uint64_t word)
{
    return r->client->cluster->relay_words[r->client->index][word];
}

static uint64_t words(const struct relay *r)
{
    return r->client->cluster->shard_count;
}

static bool is_double(uint64_t n)
{
    return n > 0 && n % DOUBLE_EVERY == 0;
}

static bool goes_to(uint64_t n, uint64_t word, uint64_t of)
{
    return n % of == word || (is_double(n) && (n + 1) % of == word);
}

uint64_t relay_write_after(const struct cluster *c, uint64_t ptr, uint64_t write)
{
    for (uint32_t r = 0; r < RELAYS; r++) {
        for (uint32_t word = 0; word < c->shard_count; word++) {
            if (c->relay_words[r][word] == ptr) {
                do {
                    write++;
                } while (!goes_to(write, word, c->shard_count));
                return write;
            }
        }
    }
    return 0;
}

/* What the word holds between write m and the next. */
static uint64_t word_after(const struct relay *r, uint64_t m, uint64_t word)
{
    while (m > 0 && !goes_to(m, word, words(r))) {
        m--;
    }
    return m;
}

/* Of reads and writes alike: what may be while faults go on, and of clocks that have jumped (see
 * accounts.c). */
static void excuse(struct relay *r, int err, const char *text, uint64_t called_ns)
{
    struct cluster *c = r->client->cluster;
    bool jumped = c->mode == MODE_CLOCK || c->mode == MODE_MIXED;
    bool expected = (err == ERR_TX_ABORTED && cluster_asks(c) != r->asks) ||
                    (jumped && (err == ERR_TX_ABORTED || err == ERR_TIMEOUT || err == ERR_INVAL ||
                                err == ERR_SNAPSHOT_TOO_OLD || err == ERR_BUSY));
    bool weather = cluster_weather(err) || err == ERR_TX_ABORTED || err == ERR_TX_UNDECIDED ||
                   err == ERR_TX_TOO_LATE;
    if (!expected && (!weather || c->tame || c->calm)) {
        cluster_fail(c, "client %u: relay: %s after %" PRIu64 " ms: %s%s", r->client->index,
                     err_name(err), (sim_now_ns(c->sim) - called_ns) / SIM_MS, text,
                     weather ? " (no fault excuses it)" : "");
    }
}

static bool submit(struct relay *r, struct core_call *call, int prepared, core_call_cb cb)
{
    if (prepared != 0) {
        cluster_fail(r->client->cluster, "client %u: the relay was refused: %s: %s",
                     r->client->index, err_name(prepared), call->text);
        return false;
    }
    call->cb = cb;
    core_call(r->client->core, call);
    return true;
}

/* ---- writing ---- */

static void learn(struct relay *r);

static void pause_over(struct env_timer *timer)
{
    struct relay *r = container_of(timer, struct relay, pause);
    if (r->known && !r->unsure) {
        write_next(r);
    } else {
        r->learned = 0;
        learn(r);
    }
}

static void again(struct relay *r)
{
    r->writing = false;
    r->pause.cb = pause_over;
    env_timer_start_in_ms(r->client->env, &r->pause, AGAIN_MS);
}

static void wrote(struct relay *r, uint64_t version)
{
    r->version[r->begun % words(r)] = version;
    if (is_double(r->begun)) {
        r->version[(r->begun + 1) % words(r)] = version;
    }
    r->done = r->begun;
    r->unsure = false;
    r->client->cluster->counts.relay_writes++;
}

/* The last write of one of the words that are being written now was of two shards: its outcome,
 * which its client knows, may be on its way to this one still. */
static bool follows_double(const struct relay *r)
{
    bool follows = is_double(word_after(r, r->done, r->begun % words(r)));
    return follows ||
           (is_double(r->begun) && is_double(word_after(r, r->done, (r->begun + 1) % words(r))));
}

static void written(struct core_call *call)
{
    struct relay *r = container_of(call, struct relay, write);
    r->writing = false;
    if (call->err == 0) {
        wrote(r, call->version);
        write_next(r);
        return;
    }
    /* Only this client writes here, and may stand in its own way. */
    if (call->err == ERR_CONFLICT && !r->unsure && !follows_double(r)) {
        cluster_fail(r->client->cluster,
                     "client %u: a reader stood in the way of write %" PRIu64 ": %s",
                     r->client->index, r->begun, call->text);
    }
    if (call->err != ERR_CONFLICT) {
        excuse(r, call->err, call->text, r->called_ns);
    }
    r->unsure = true;
    again(r);
}

static void add_word(struct relay *r, struct tx_part *part, uint64_t word)
{
    uint64_t ptr = ptr_of(r, word);
    part_begin(part, parts_shard_of(ptr));
    part_item(part, TXN_CHECK_OBJECT, ptr, r->version[word], NULL, 0);
    part_item(part, TXN_WRITE, ptr, 0, &r->begun, sizeof r->begun);
}

/* While somebody looks. The same number again, until it is certain that it was written: each
 * attempt wants the versions from before it, so that it happens once. */
static void write_next(struct relay *r)
{
    if (r->writing || r->client->quiet || (r->look == RELAY_REST && !r->unsure)) {
        return;
    }
    r->begun = r->done + 1;
    r->writing = true;
    r->called_ns = sim_now_ns(r->client->cluster->sim);
    r->asks = cluster_asks(r->client->cluster);
    add_word(r, &r->part[0], r->begun % words(r));
    if (is_double(r->begun)) {
        add_word(r, &r->part[1], (r->begun + 1) % words(r));
    }
    memset(&r->write, 0, sizeof r->write);
    (void)submit(r, &r->write,
                 parts_prepare_commit(&r->write, r->client->heap, r->part,
                                      is_double(r->begun) ? 2 : 1, &r->home),
                 written);
}

static void learned(struct core_call *call)
{
    struct relay *r = container_of(call, struct relay, write);
    r->writing = false;
    if (call->err != 0) {
        excuse(r, call->err, call->text, r->called_ns);
        again(r);
        return;
    }
    r->version[r->learned] = call->version;
    if (r->unsure && r->learned == r->begun % words(r) && r->word == r->begun) {
        wrote(r, call->version);
    }
    r->learned++;
    learn(r);
}

/* All words' versions, and whether the last write has happened. */
static void learn(struct relay *r)
{
    if (r->writing || r->client->quiet) {
        return;
    }
    if (r->learned == words(r)) {
        r->known = true;
        write_next(r);
        return;
    }
    r->writing = true;
    r->called_ns = sim_now_ns(r->client->cluster->sim);
    memset(&r->write, 0, sizeof r->write);
    (void)submit(r, &r->write,
                 core_prepare_read(&r->write, r->client->heap, ptr_of(r, r->learned), 0, &r->word,
                                   sizeof r->word),
                 learned);
}

/* ---- reading ---- */

static void check(struct relay *r)
{
    struct cluster *c = r->client->cluster;
    uint64_t m = 0;
    for (uint64_t w = 0; w < words(r); w++) {
        m = r->seen[w] > m ? r->seen[w] : m;
    }
    c->counts.relay_reads++;
    if (m < r->floor || m > r->begun) {
        cluster_fail(c,
                     "client %u: a %s read saw write %" PRIu64 " as the last one, and %" PRIu64
                     " were answered before it began, %" PRIu64 " begun when it ended",
                     r->client->index, r->strict ? "strict" : "validated", m, r->floor, r->begun);
    }
    for (uint64_t w = 0; w < words(r); w++) {
        if (r->seen[w] != word_after(r, m, w)) {
            cluster_fail(c,
                         "client %u: a %s read saw write %" PRIu64 ", but %" PRIu64
                         " in word %" PRIu64 " instead of %" PRIu64 ", which was answered before",
                         r->client->index, r->strict ? "strict" : "validated", m, r->seen[w], w,
                         word_after(r, m, w));
        }
    }
}

/* True: all of those that were sent side by side are answered. */
static bool all_answered(struct relay *r, const struct core_call *call)
{
    if (call->err != 0 && r->failed == NULL) {
        r->failed = call;
    }
    return --r->out == 0;
}

static struct relay *relay_of(struct core_call *call)
{
    return container_of(call, struct relay_read, call)->relay;
}

static void looked(struct relay *r, int err, const char *text)
{
    if (err == 0) {
        check(r);
    } else if (err != ERR_CONFLICT) {
        excuse(r, err, text, r->look_ns);
    }
    rest(r);
}

static void validated(struct core_call *call)
{
    struct relay *r = relay_of(call);
    if (all_answered(r, call)) {
        looked(r, r->failed == NULL ? 0 : r->failed->err, r->failed == NULL ? "" : r->failed->text);
    }
}

static void validate(struct relay *r)
{
    uint64_t clock = 0;
    for (uint64_t w = 0; w < words(r); w++) {
        clock = r->reads[w].call.version > clock ? r->reads[w].call.version : clock;
        r->seen_version[w] = r->reads[w].call.version;
    }
    r->look = RELAY_VALIDATE;
    r->out = (uint32_t)words(r);
    r->failed = NULL;
    for (uint64_t w = 0; w < words(r); w++) {
        struct core_call *call = &r->reads[w].call;
        uint32_t shard = parts_shard_of(ptr_of(r, w));
        part_begin(&r->check, shard);
        part_item(&r->check, TXN_CHECK_OBJECT, ptr_of(r, w), r->seen_version[w], NULL, 0);
        memset(call, 0, sizeof *call);
        if (!submit(r, call,
                    core_prepare_tx_validate(call, r->client->heap, shard, clock,
                                             slice_of(r->check.bytes.data, r->check.bytes.len)),
                    validated)) {
            return;
        }
    }
}

static void was_read(struct core_call *call)
{
    struct relay *r = relay_of(call);
    if (!all_answered(r, call)) {
        return;
    }
    if (r->failed != NULL || r->strict) {
        looked(r, r->failed == NULL ? 0 : r->failed->err, r->failed == NULL ? "" : r->failed->text);
    } else {
        validate(r);
    }
}

static void read_all(struct relay *r, uint64_t at)
{
    r->look = RELAY_READ;
    r->out = (uint32_t)words(r);
    r->failed = NULL;
    for (uint64_t w = 0; w < words(r); w++) {
        struct core_call *call = &r->reads[w].call;
        memset(call, 0, sizeof *call);
        if (!submit(r, call,
                    core_prepare_read_at(call, r->client->heap, ptr_of(r, w), at, 0, &r->seen[w],
                                         sizeof r->seen[w]),
                    was_read)) {
            return;
        }
    }
}

static void found(struct snapshot *s, int err)
{
    struct relay *r = container_of(s, struct relay, snapshot);
    if (err != 0) {
        looked(r, err, s->text);
    } else {
        read_all(r, s->at);
    }
}

static void look(struct env_timer *timer)
{
    struct relay *r = container_of(timer, struct relay, think);
    if (r->client->quiet) {
        return;
    }
    r->strict = below(r, 2) == 0;
    r->look = RELAY_FIND;
    r->look_ns = sim_now_ns(r->client->cluster->sim);
    r->floor = r->done;
    if (r->known && !r->unsure) {
        write_next(r);
    }
    if (r->strict) {
        snapshot_find(&r->snapshot, r->client, true, found);
    } else {
        read_all(r, 0);
    }
}

static void rest(struct relay *r)
{
    struct client_host *client = r->client;
    r->look = RELAY_REST;
    if (client->quiet) {
        return;
    }
    uint64_t us = 1 + below(r, (uint64_t)client->cluster->think_us * 12);
    r->think.cb = look;
    env_timer_start(client->env, &r->think, env_now_ns(client->env) + us * 1000);
}

/* ---- from outside ---- */

void relay_go(struct client_host *client)
{
    struct relay *r = &client->relay;
    if (client->index >= RELAYS) {
        return;
    }
    r->client = client;
    for (uint32_t w = 0; w < RELAY_WORDS; w++) {
        r->reads[w].relay = r;
    }
    learn(r);
    rest(r);
}

bool relay_idle(const struct client_host *client)
{
    return !client->relay.writing && client->relay.look == RELAY_REST;
}

void relay_stop(struct client_host *client)
{
    if (client->relay.client != NULL) {
        env_timer_stop(client->env, &client->relay.pause);
        env_timer_stop(client->env, &client->relay.think);
        snapshot_stop(&client->relay.snapshot);
    }
}

void relay_free(struct client_host *client)
{
    part_close(&client->relay.part[0]);
    part_close(&client->relay.part[1]);
    part_close(&client->relay.check);
}
