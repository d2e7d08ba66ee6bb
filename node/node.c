#include "node/node.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/internal.h"

void node_config_init(struct node_config *config)
{
    memset(config, 0, sizeof *config);
    (void)snprintf(config->listen, sizeof config->listen, "0.0.0.0:7420");
    config->election_ms = 1000;
    config->heartbeat_ms = 100;
    config->leaders = REPLICA_LEADERS_AUTO;
    config->storage = NODE_STORAGE_AUTO;
    config->checkpoint_log_bytes = 8u << 20;
    config->log_bytes_max = 128u << 20;
    config->meta_bytes_max = 64u << 20;
    config->wal_segment_bytes = 16u << 20;
    config->wal_cache_bytes = 4u << 20;
    config->wal_disk_bytes_max = 1u << 30;
    config->wal_direct = true;
    config->shutdown_ms = 5000;
    config->log_level = LOG_INFO;
}

struct peer *node__peer(struct node *node, uint32_t number)
{
    for (uint32_t i = 0; i < node->peer_count; i++) {
        if (node->peers[i].config->number == number) {
            return &node->peers[i];
        }
    }
    return NULL;
}

void node__fatal(struct node *node, int err, const char *text)
{
    if (node->fatal) {
        return;
    }
    node->fatal = true;
    node->phase = NODE_FAILED;
    log_error("node", "stopped for good", "err=%s cause=\"%s\"", err_name(err), text);
    if (node->cbs != NULL && node->cbs->on_fatal != NULL) {
        node->cbs->on_fatal(node->arg, node, err, text);
    }
}

/* ---- from below ---- */

static void on_durable(void *arg, uint64_t position)
{
    struct node *node = arg;
    if (node->replica != NULL) {
        replica_log_durable(node->replica, position);
    }
}

static void on_log_failed(void *arg, int err, const char *text)
{
    struct node *node = arg;
    if (node->replica != NULL) {
        replica_log_failed(node->replica, err);
    }
    node__fatal(node, err, text);
}

static void on_log_pressure(void *arg, struct wal_log *log)
{
    struct node *node = arg;
    if (node->replica != NULL) {
        replica_log_pressure(node->replica, log);
    }
}

static void on_catalog(void *arg)
{
    (void)arg; /* read from the meta shard's arena whenever somebody asks */
}

static void on_leader(void *arg, struct shard *shard)
{
    struct shard_info info;
    shard_get_info(shard, &info);
    watch__applied(arg, shard, true);
    log_debug("node", "leader changed", "shard=%llu leader=%u term=%llu",
              (unsigned long long)info.uid, info.leader_node, (unsigned long long)info.term);
}

static void on_shard_failed(void *arg, struct shard *shard, int err, const char *text)
{
    struct shard_info info;
    shard_get_info(shard, &info);
    watch__applied(arg, shard, true);
    log_error("node", "a shard stopped serving here; its other replicas go on",
              "shard=%llu err=%s cause=\"%s\"", (unsigned long long)info.uid, err_name(err), text);
}

static void on_applied(void *arg, struct shard *shard, bool tx)
{
    struct node *node = arg;
    if (tx && node->coord != NULL) {
        coord_on_applied(node->coord, shard);
    }
    watch__applied(node, shard, false);
    if (node->turns != NULL) {
        turns_applied(node->turns);
    }
}

static uint64_t object_version(void *arg, uint64_t uid, uint64_t ptr)
{
    const struct node *node = arg;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, uid);
    struct shard_info info = {.failed = true};
    struct heap_object object;
    if (shard != NULL) {
        shard_get_info(shard, &info);
    }
    return info.failed || info.installing || heap_stat(shard_heap(shard), ptr, &object) != 0
               ? 0
               : object.version;
}

static const struct coord_cbs coord_table = {.peer_command = peers__command};

/* Before the replica goes: whoever waits for an outcome is told that it isn't known. */
static void close_waits(struct node *node)
{
    watch__close(node);
    struct coord *coord = node->coord;
    struct turns *turns = node->turns;
    node->coord = NULL;
    node->turns = NULL;
    turns_free(turns);
    if (coord != NULL) {
        coord_close(coord);
    }
}

static const struct replica_cbs replica_table = {
    .send = peers__send,
    .flush = peers__flush,
    .bulk_request = peers__bulk_request,
    .on_catalog = on_catalog,
    .on_leader = on_leader,
    .on_applied = on_applied,
    .on_shard_failed = on_shard_failed,
};

/* ---- life ---- */

int node__open_log(struct node *node, bool existing, struct err_text *e)
{
    char dir[PATH_BYTES_MAX + 16];
    assert(node->wal == NULL);
    (void)snprintf(dir, sizeof dir, "%s/wal", node->config.data_dir);
    struct wal_opts wal_opts = {
        .dir = dir,
        .node_uid = node->identity.node_uid,
        .segment_bytes = node->config.wal_segment_bytes,
        .cache_bytes = node->config.wal_cache_bytes,
        .disk_bytes_max = node->config.wal_disk_bytes_max,
        .direct = node->config.wal_direct,
        .existing = existing,
        .on_durable = on_durable,
        .on_failed = on_log_failed,
        .on_pressure = on_log_pressure,
        .arg = node,
    };
    return wal_open(node->env, &wal_opts, &node->wal, e);
}

int node__start(struct node *node, struct err_text *e)
{
    assert(node->identity.state == IDENTITY_MEMBER);
    assert(node->replica == NULL);
    char dir[PATH_BYTES_MAX + 16];
    int rv = node->wal == NULL ? node__open_log(node, true, e) : 0;
    if (rv != 0) {
        return rv;
    }
    node->self.cluster_id = node->identity.cluster_id;
    node->self.node_state = IDENTITY_MEMBER;
    node->self.roster =
        slice_of(node->roster_bytes, roster_encode(&node->identity.roster, node->roster_bytes));
    (void)snprintf(dir, sizeof dir, "%s/shards", node->config.data_dir);
    struct replica_opts opts = {
        .env = node->env,
        .wal = node->wal,
        .dir = dir,
        .node = node->self_config->number,
        .node_count = node->config.node_count,
        .self_id = node->identity.replica_id,
        .founding = node->identity.founding,
        .cluster_id = node->identity.cluster_id,
        .election_ms = node->config.election_ms,
        .heartbeat_ms = node->config.heartbeat_ms,
        .leaders = node->config.leaders,
        .meta_bytes_max = node->config.meta_bytes_max,
        .mode = node->mode,
        .checkpoint_log_bytes = node->config.checkpoint_log_bytes,
        .log_bytes_max = node->config.log_bytes_max,
        .cbs = &replica_table,
        .arg = node,
    };
    for (uint32_t i = 0; i < node->config.node_count; i++) {
        opts.nodes[i] = node->config.nodes[i].number;
    }
    rv = replica_open(&opts, &node->replica, e);
    if (rv == 0) {
        rv = coord_open(node->env, node->replica, opts.node, &coord_table, node, &node->coord);
        node->turns = rv == 0 ? turns_new(node->env, object_version, node) : NULL;
        rv = rv == 0 && node->turns == NULL ? ERR_NOMEM : rv;
        if (rv != 0) {
            close_waits(node);
            replica_free(node->replica);
            node->replica = NULL;
        }
    }
    if (rv != 0) {
        wal_abandon(node->wal);
        node->wal = NULL;
        return rv;
    }
    node->phase = NODE_RUNNING;
    log_info(
        "node", "running", "node=%s number=%u cluster=%016llx replica=%llu storage=%s",
        node->config.name, node->self_config->number, (unsigned long long)node->identity.cluster_id,
        (unsigned long long)node->identity.replica_id, node->mode == IMAGE_PMEM ? "pmem" : "disk");
    return 0;
}

static void count_name(void *arg, const char *name)
{
    (void)name;
    ++*(size_t *)arg;
}

/* No identity, and yet what only somebody with one makes: it was lost, and who is born anew here
 * would stand among another one's promises. */
static int check_nothing_is_here(struct node *node, struct err_text *e)
{
    static const char *const made[] = {"wal", "shards"};
    char path[PATH_BYTES_MAX + 16];
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        size_t count = 0;
        (void)snprintf(path, sizeof path, "%s/%s", node->config.data_dir, made[i]);
        if (env_dir_list(node->env, path, count_name, &count) == 0 && count > 0) {
            return err_set(e, ERR_CORRUPT,
                           "%s has no identity file, but %s: bring the file back, or move the "
                           "data directory away and start with an empty one: the node rejoins and "
                           "is filled by its peers",
                           node->config.data_dir, path);
        }
    }
    return 0;
}

int node__check_roster(const struct node *node, const struct roster *roster, uint64_t cluster_id,
                       const char *whose, struct err_text *e)
{
    const struct node_config *config = &node->config;
    if (cluster_id != roster_cluster_id(roster, config->cluster)) {
        return err_set(e, ERR_WRONGCLUSTER,
                       "%s belongs to a cluster of another name than \"%s\" (its id is %016llx): "
                       "correct `cluster` or data_dir",
                       whose, config->cluster, (unsigned long long)cluster_id);
    }
    bool same = roster->count == config->node_count;
    for (uint32_t i = 0; i < config->node_count; i++) {
        same = same && roster_uid(roster, config->nodes[i].number) != 0;
    }
    return same ? 0
                : err_set(e, ERR_WRONGCLUSTER,
                          "%s belongs to a cluster of %u nodes, of which `nodes` must name all, by "
                          "their numbers, and no others",
                          whose, roster->count);
}

int node__check_engine(const struct node *node, const char *name, uint32_t engine,
                       struct err_text *e)
{
    if (engine == node->self.engine) {
        return 0;
    }
    return err_set(
        e, ERR_VERSION,
        "%s has engine %u.%u, this node %u.%u, and replicas of two engines would not stay "
        "equal: run the same release on all nodes",
        name, engine >> 16, engine & 0xffff, node->self.engine >> 16, node->self.engine & 0xffff);
}

int node__check_number(const struct roster *roster, const char *name, uint32_t number,
                       uint64_t node_uid, struct err_text *e)
{
    for (uint32_t i = 0; i < roster->count; i++) {
        if (roster->nodes[i].node_uid == node_uid && roster->nodes[i].number != number) {
            return err_set(e, ERR_WRONGCLUSTER,
                           "%s has number %u in its cluster, and %u here: correct `nodes`", name,
                           roster->nodes[i].number, number);
        }
    }
    return 0;
}

/* A data directory under the configuration of another node, or of another cluster. */
static int check_identity(const struct node *node, struct err_text *e)
{
    const struct identity *id = &node->identity;
    const char *dir = node->config.data_dir;
    if (id->number != node->self_config->number) {
        return err_set(e, ERR_CONFIG,
                       "%s belongs to node number %u, but the configuration says that %s is number "
                       "%u: correct `nodes` or data_dir",
                       dir, id->number, node->config.name, node->self_config->number);
    }
    return id->state == IDENTITY_MEMBER &&
                   node__check_roster(node, &id->roster, id->cluster_id, dir, e) != 0
               ? ERR_CONFIG
               : 0;
}

static int open_data_dir(struct node *node, struct err_text *e)
{
    const char *dir = node->config.data_dir;
    char path[PATH_BYTES_MAX + 16];
    int rv = env_dir_create(node->env, dir);
    if (rv != 0 && rv != ERR_EXISTS) {
        return err_set(e, rv,
                       "data_dir %s can't be made: %s; what it lies in must be a directory that "
                       "cairnd may write to",
                       dir, err_why(rv));
    }
    (void)snprintf(path, sizeof path, "%s/lock", dir);
    rv = env_file_open(node->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &node->lock);
    if (rv == ERR_EXISTS) {
        rv = env_file_open(node->env, path, ENV_OPEN_WRITE, &node->lock);
    }
    if (rv != 0) {
        return err_set(e, rv, "%s: %s; is %s a directory that cairnd may write to?", path,
                       err_why(rv), dir);
    }
    rv = env_file_lock(node->env, node->lock);
    if (rv != 0) {
        return err_set(e, rv, "%s: %s%s", dir, err_text_of(rv),
                       rv == ERR_LOCKED ? "; is another cairnd running on this data directory?"
                                        : "");
    }
    struct err_text why = {""};
    rv = identity_load(node->env, dir, &node->identity, &why);
    if (rv == ERR_NOTFOUND) {
        struct identity *id = &node->identity;
        rv = check_nothing_is_here(node, e);
        if (rv != 0) {
            return rv;
        }
        memset(id, 0, sizeof *id);
        id->number = node->self_config->number;
        do {
            id->node_uid = env_random_u64(node->env);
        } while (id->node_uid == 0);
        return identity_store(node->env, dir, id, e);
    }
    if (rv != 0) {
        return err_set(e, rv, "%s", why.text);
    }
    return check_identity(node, e);
}

int node_open(struct env *env, const struct node_config *config, const struct node_cbs *cbs,
              void *arg, struct node **out, struct err_text *e)
{
    *out = NULL;
    int rv = node_config_validate(config, e);
    if (rv != 0) {
        return rv;
    }
    struct node *node = mem_zalloc(sizeof *node);
    if (node == NULL) {
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    node->env = env;
    node->config = *config;
    node->cbs = cbs;
    node->arg = arg;
    node->opened_ns = env_now_ns(env);
    list_init(&node->clients);
    list_init(&node->free_requests);
    list_init(&node->jobs);
    watch__open(node);
    for (uint32_t i = 0; i < node->config.node_count; i++) {
        const struct node_config_peer *p = &node->config.nodes[i];
        if (strcmp(p->name, node->config.name) == 0) {
            node->self_config = p;
        } else {
            node->peers[node->peer_count].node = node;
            node->peers[node->peer_count].config = p;
            list_init(&node->peers[node->peer_count].bulk_waits);
            node->peer_count++;
        }
    }
    assert(node->self_config != NULL);

    rv = open_data_dir(node, e);
    if (rv == 0) {
        rv = node__choose_mode(node, e); /* before it takes part in founding a cluster */
    }
    if (rv != 0) {
        goto err_after_alloc;
    }
    memcpy(node->self.name, node->config.name, sizeof node->config.name);
    node->self.node_uid = node->identity.node_uid;
    node->self.engine = replica_engine();
    node->self.node_state = (uint8_t)node->identity.state;
    if (node->identity.state == IDENTITY_MEMBER) {
        rv = node__start(node, e);
        if (rv != 0) {
            goto err_after_alloc;
        }
    }
    rv = rpc_server_open(env, node->config.listen, &node->self, &dispatch__cbs, node, &node->server,
                         e);
    if (rv != 0) {
        goto err_after_start;
    }
    rv = peers__open(node, e);
    if (rv != 0) {
        goto err_after_start;
    }
    if (node->identity.state == IDENTITY_FRESH) {
        discover__begin(node);
    }
    *out = node;
    return 0;

err_after_start:
err_after_alloc:
    assert(rv != 0);
    node_free(node);
    return rv;
}

/* ---- stopping: shards hand over, the log closes, then connections ---- */

static void server_closed(void *arg)
{
    struct node *node = arg;
    node->server = NULL;
    node->stopped(node->stopped_arg);
}

static void log_closed(void *arg, int err)
{
    struct node *node = arg;
    node->wal = NULL;
    if (err != 0) {
        log_error("node", "the log did not close cleanly", "err=%s", err_name(err));
    }
    dispatch__forget_clients(node);
    peers__close(node);
    rpc_server_close(node->server, server_closed, node);
}

static void replica_stopped(void *arg)
{
    struct node *node = arg;
    close_waits(node);
    replica_free(node->replica);
    node->replica = NULL;
    inspect__abandon(node);
    wal_close(node->wal, log_closed, node);
}

static void say_goaway(void *arg, struct rpc_conn *conn)
{
    struct node *node = arg;
    if (rpc_conn_lane(conn) != RPC_LANE_CLIENT || rpc_data(conn) == NULL) {
        return;
    }
    struct msg_goaway m = {.grace_ms = node->config.shutdown_ms};
    struct frame_header header = {.kind = KIND_GOAWAY};
    buf_clear(&node->scratch);
    if (message_encode_goaway(&m, &node->scratch) == 0) {
        struct slice body = slice_of(node->scratch.data, node->scratch.len);
        rpc_send(conn, &header, &body, 1);
    }
}

void node_stop(struct node *node, void (*done)(void *arg), void *arg)
{
    assert(node->stopped == NULL);
    node->stopped = done;
    node->stopped_arg = arg;
    env_timer_stop(node->env, &node->discover_timer);
    enum node_phase was = node->phase;
    node->phase = NODE_STOPPING;
    rpc_server_each(node->server, say_goaway, node);
    if (was == NODE_RUNNING && node->replica != NULL) {
        log_info("node", "stopping: handing leadership over", "at_most_ms=%u",
                 node->config.shutdown_ms);
        replica_stop(node->replica, node->config.shutdown_ms, replica_stopped, node);
        return;
    }
    close_waits(node);
    if (node->replica != NULL) {
        replica_free(node->replica);
        node->replica = NULL;
    }
    inspect__abandon(node);
    if (node->wal != NULL) {
        wal_abandon(node->wal);
        node->wal = NULL;
    }
    dispatch__forget_clients(node);
    peers__close(node);
    rpc_server_close(node->server, server_closed, node);
}

void node_free(struct node *node)
{
    if (node == NULL) {
        return;
    }
    env_timer_stop(node->env, &node->discover_timer);
    peers__close(node);
    dispatch__forget_clients(node);
    if (node->server != NULL) {
        rpc_server_stop(node->server);
    }
    close_waits(node);
    if (node->replica != NULL) {
        replica_free(node->replica);
        node->replica = NULL;
    }
    inspect__abandon(node);
    if (node->wal != NULL) {
        wal_abandon(node->wal);
    }
    dispatch__free_requests(node);
    if (node->lock != NULL) {
        env_file_close(node->env, node->lock);
    }
    buf_close(&node->scratch);
    mem_free(node);
}

enum node_phase node_phase(const struct node *node)
{
    return node->phase;
}

struct replica *node_replica(struct node *node)
{
    return node->replica;
}

int node_port(const struct node *node)
{
    return rpc_server_port(node->server);
}

static void count_shard(void *arg, struct shard *shard)
{
    struct node_health *h = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    h->shards++;
    h->shards_leading += info.serving ? 1 : 0;
    h->shards_with_leader += info.leader_node != 0 ? 1 : 0;
    h->shards_failed += info.failed ? 1 : 0;
}

void node_get_health(struct node *node, struct node_health *out)
{
    memset(out, 0, sizeof *out);
    out->phase = node->phase;
    out->commands = node->commands;
    out->reads = node->reads;
    out->watches = node->watches;
    if (node->replica != NULL) {
        struct replica_counters counters;
        replica_get_counters(node->replica, &counters);
        out->batches = counters.batches;
        replica_get_clock(node->replica, &out->clock);
        replica_get_load(node->replica, &out->load);
        replica_get_room(node->replica, &out->room);
        replica_each_shard(node->replica, count_shard, out);
    }
    if (node->wal != NULL) {
        struct wal_stats stats;
        wal_stats(node->wal, &stats);
        out->wal_writes = stats.writes;
        out->wal_bytes = stats.bytes_written;
        out->wal_sync_ns_p99 = stats.sync_ns_p99;
        out->disk_full = !wal_has_room(node->wal) || out->room.tight;
    }
    if (node->server != NULL) {
        struct rpc_server_stats stats;
        rpc_server_stats(node->server, &stats);
        out->connections = stats.open;
        out->handshakes = stats.handshakes;
        out->handshakes_ended = stats.handshakes_ended;
    }
}
