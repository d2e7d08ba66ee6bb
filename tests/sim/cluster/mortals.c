#include "sim/cluster/mortals.h"

#include <stdio.h>
#include <string.h>

#include "sim/cluster/cluster.h"
#include "sim/internal.h"

#define TICK_NS            SIM_MS
#define LIFE_MS_MAX        4000u /* whatever it does then */
#define DOWN_MS_MAX        500u
#define DEATH_CHANCE       8u /* one in so many ticks of a commit */
#define COORDINATOR_CHANCE 4u

/* ---- coming up; whoever can't, for the weather, dies of old age ---- */

static void opened(struct core_call *call)
{
    struct client_host *client = container_of(call, struct client_host, setup);
    if (call->err != 0) {
        if (!cluster_weather(call->err)) {
            cluster_fail(client->cluster, "a mortal client can't open the heap: %s: %s",
                         err_name(call->err), call->text);
        }
        return;
    }
    client->heap = call->opened;
    client->ready = true;
    accounts_go(client);
}

static void connected(void *arg, struct core *core, int err, const char *text)
{
    struct client_host *client = arg;
    if (err != 0) {
        if (!cluster_weather(err)) {
            cluster_fail(client->cluster, "a mortal client can't connect: %s: %s", err_name(err),
                         text);
        }
        return;
    }
    int rv = core_prepare_heap_open(&client->setup, core, "h");
    assert(rv == 0);
    client->setup.cb = opened;
    core_call(core, &client->setup);
}

static void open_in_turn(void *arg)
{
    struct client_host *client = arg;
    char endpoints[32];
    struct core_opts opts = {.timeout_ms = 5000, .lease_ms = 30000};
    struct err_text e = {""};
    uint64_t node = 1 + env_random_u64(client->env) % client->cluster->node_count;
    (void)snprintf(endpoints, sizeof endpoints, "cairn://n%u:7420", (unsigned)node);
    int rv = core_open(client->env, endpoints, &client->identity, &opts, connected, client,
                       &client->core, &e);
    assert(rv == 0);
}

static void live(struct cluster *c, struct mortal *m)
{
    struct client_host *client = &m->client;
    struct sim_host *host = client->host;
    accounts_free(client);
    *client = (struct client_host){.cluster = c, .host = host, .index = CLUSTER_CLIENTS_MAX};
    (void)snprintf(client->identity.name, sizeof client->identity.name, "mortal");
    client->env = sim_proc_start(host, ENV_ROLE_USER, "mortal");
    m->until_ns = sim_now_ns(c->sim) + (1 + sim_below(c->sim, LIFE_MS_MAX)) * SIM_MS;
    sim_proc_call(client->env, open_in_turn, client);
}

/* What its core held is left behind: nothing frees a core without a turn. */
static void die(struct cluster *c, struct mortal *m)
{
    sim_proc_kill(m->client.env, SIM_SIGKILL);
    sim_proc_free(m->client.env);
    m->client.env = NULL;
    m->until_ns = sim_now_ns(c->sim) + (1 + sim_below(c->sim, DOWN_MS_MAX)) * SIM_MS;
}

/* Who coordinates the commit dies with the client: only other nodes can bring it to an end. */
static void kill_coordinator(struct cluster *c, uint64_t home)
{
    for (uint32_t i = 0; i < c->node_count; i++) {
        struct shard *shard = cluster_shard_on(&c->nodes[i], home);
        struct shard_info info = {0};
        if (shard != NULL) {
            shard_get_info(shard, &info);
        }
        if (info.state == CONSENSUS_LEADER && info.serving) {
            cluster_kill(&c->nodes[i], SIM_SIGKILL, 100 + sim_below(c->sim, DOWN_MS_MAX));
            return;
        }
    }
}

static void die_in_commit(struct cluster *c, struct mortal *m)
{
    bool crashes =
        c->faults && (c->mode == MODE_CRASH || c->mode == MODE_ALL_DOWN || c->mode == MODE_MIXED);
    uint64_t home = m->client.bank.home;
    c->counts.deaths++;
    die(c, m);
    if (crashes && sim_below(c->sim, COORDINATOR_CHANCE) == 0) {
        kill_coordinator(c, home);
    }
}

static void tick(void *arg)
{
    struct cluster *c = arg;
    uint64_t now = sim_now_ns(c->sim);
    bool any = false;
    for (uint32_t i = 0; i < MORTALS; i++) {
        struct mortal *m = &c->mortals[i];
        bool commits = m->client.env != NULL && m->client.bank.commits;
        if (m->client.env == NULL && c->faults && now >= m->until_ns) {
            live(c, m);
        } else if (commits && sim_below(c->sim, DEATH_CHANCE) == 0) {
            die_in_commit(c, m);
        } else if (m->client.env != NULL && now >= m->until_ns) {
            die(c, m);
        }
        any = any || m->client.env != NULL;
    }
    if (c->faults || any) {
        sim_at(c->sim, now + TICK_NS, tick, c);
    }
}

void mortals_start(struct cluster *c)
{
    for (uint32_t i = 0; i < MORTALS; i++) {
        c->mortals[i].client.host = sim_host_new(c->sim, i == 0 ? "m1" : "m2");
    }
    tick(c);
}

void mortals_free(struct cluster *c)
{
    for (uint32_t i = 0; i < MORTALS; i++) {
        struct client_host *client = &c->mortals[i].client;
        accounts_free(client);
        if (client->env != NULL) {
            sim_proc_kill(client->env, SIM_SIGKILL);
            sim_proc_free(client->env);
        }
    }
}
