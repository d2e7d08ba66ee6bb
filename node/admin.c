/* What an operator asks a node (ADMIN): answered from this node's own state, as JSON. Pointers,
 * ids, versions and other 64-bit numbers that JSON readers would round are strings. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/internal.h"

#ifndef CAIRN_VERSION
#define CAIRN_VERSION "0.1.0"
#endif

static json_t *text_u64(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return json_string(text);
}

static json_t *text_hex(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%016" PRIx64, value);
    return json_string(text);
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static const char *phase_name(enum node_phase phase)
{
    static const char *const names[] = {"discovering", "joining", "running", "stopping", "failed"};
    return names[phase];
}

static const char *state_name(const struct shard_info *info)
{
    if (info->failed) {
        return "failed";
    }
    if (info->installing) {
        return "installing";
    }
    switch (info->state) {
    case CONSENSUS_LEADER:
        return "leader";
    case CONSENSUS_CANDIDATE:
        return "candidate";
    case CONSENSUS_FOLLOWER:
        return "follower";
    default:
        return "unavailable";
    }
}

static const char *node_name(const struct node *node, uint32_t number_)
{
    for (uint32_t i = 0; i < node->config.node_count; i++) {
        if (node->config.nodes[i].number == number_) {
            return node->config.nodes[i].name;
        }
    }
    return "";
}

/* Why a verb gave no answer. */
struct answer_error {
    int err;
    struct err_text text;
};

/* ---- node ---- */

static json_t *wal_json(const struct wal *wal, bool has_room)
{
    struct wal_stats s;
    wal_stats(wal, &s);
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:b}", "records", number(s.records),
                     "bytes_appended", number(s.bytes_appended), "bytes_written",
                     number(s.bytes_written), "writes", number(s.writes), "syncs", number(s.syncs),
                     "sync_us_p50", number(s.sync_ns_p50 / 1000), "sync_us_p99",
                     number(s.sync_ns_p99 / 1000), "segments", number(s.segments), "disk_bytes",
                     number(s.disk_bytes), "cached_bytes", number(s.cached_bytes), "has_room",
                     has_room);
}

static const char *leaders_name(enum replica_leaders leaders)
{
    static const char *const names[] = {"auto", "spread", "gather"};
    return names[leaders];
}

static json_t *status(struct node *node, json_t *args, struct answer_error *e)
{
    struct node_health h;
    (void)args;
    (void)e;
    node_get_health(node, &h);
    json_t *peers = json_array();
    for (uint32_t i = 0; i < node->config.node_count; i++) {
        const struct node_config_peer *p = &node->config.nodes[i];
        struct peer *peer = node__peer(node, p->number);
        bool connected = peer == NULL || (peer->raft != NULL && rpc_link_conn(peer->raft) != NULL);
        json_array_append_new(peers, json_pack("{s:s,s:i,s:s,s:b,s:b}", "name", p->name, "number",
                                               (int)p->number, "address", p->address, "self",
                                               peer == NULL, "connected", connected));
    }
    json_t *out = json_pack(
        "{s:s,s:i,s:s,s:o,s:s,s:s,s:i,s:s,s:s,s:b,s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:b,s:b,"
        "s:I,s:o}",
        "node", node->config.name, "number", (int)node->self_config->number, "cluster",
        node->config.cluster, "cluster_id", text_hex(node->self.cluster_id), "phase",
        phase_name(node->phase), "version", CAIRN_VERSION, "wire", RPC_WIRE_MAJOR, "storage",
        node->mode == IMAGE_PMEM ? "pmem" : "disk", "leaders", leaders_name(node->config.leaders),
        "gathered", h.load.gathered, "busy_permille", (int)h.load.busy_permille, "uptime_ms",
        number((env_now_ns(node->env) - node->opened_ns) / 1000000), "shards", number(h.shards),
        "leading", number(h.shards_leading), "with_leader", number(h.shards_with_leader), "failed",
        number(h.shards_failed), "connections", number(h.connections), "watches", number(h.watches),
        "commands", number(h.commands), "reads", number(h.reads), "disk_full", h.disk_full,
        "clock_off", h.clock.off, "clock_offset_ms", (json_int_t)h.clock.offset_ms, "peers", peers);
    if (out != NULL && node->wal != NULL) {
        json_object_set_new(out, "wal", wal_json(node->wal, !h.disk_full));
    }
    if (out != NULL && node->replica != NULL) {
        struct replica_counters c;
        replica_get_counters(node->replica, &c);
        json_object_set_new(out, "disk_free_bytes",
                            h.room.free_bytes <= INT64_MAX ? number(h.room.free_bytes)
                                                           : json_null());
        json_object_set_new(out, "disk_needed_bytes", number(h.room.needed_bytes));
        json_object_set_new(
            out, "replica",
            json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "commands", number(c.commands),
                      "batches", number(c.batches), "reads", number(c.reads), "read_batches",
                      number(c.read_batches), "elections", number(c.elections), "snapshots_sent",
                      number(c.snapshots_sent), "snapshots_installed",
                      number(c.snapshots_installed), "malformed", number(c.malformed)));
    }
    return out;
}

/* ---- heaps ---- */

struct heaps_walk {
    struct node *node;
    json_t *list;
};

static void add_heap(void *arg, const struct catalog_heap *heap)
{
    struct heaps_walk *walk = arg;
    json_t *shards = json_array();
    for (uint32_t i = 0; i < heap->shard_count; i++) {
        struct catalog_shard shard;
        if (catalog_shard_of(walk->node->replica, slice_of(heap->name, strlen(heap->name)), i,
                             &shard) != 0) {
            continue;
        }
        json_t *members = json_array();
        for (uint32_t k = 0; k < shard.count; k++) {
            json_array_append_new(
                members, json_string(node_name(walk->node, replica_id_node(shard.members[k]))));
        }
        json_array_append_new(shards, json_pack("{s:o,s:i,s:o}", "uid", text_u64(shard.uid),
                                                "shard", (int)i, "replicas", members));
    }
    json_array_append_new(walk->list,
                          json_pack("{s:s,s:o,s:i,s:i,s:o,s:o,s:o,s:o}", "name", heap->name, "id",
                                    text_u64(heap->heap_id), "shard_count", (int)heap->shard_count,
                                    "replicas", (int)heap->replicas, "shard_bytes_max",
                                    number(heap->shard_bytes_max), "retention_ms",
                                    number(heap->retention_ms), "created", text_u64(heap->created),
                                    "shards", shards));
}

static json_t *heaps(struct node *node, json_t *args, struct answer_error *e)
{
    (void)args;
    if (node->replica == NULL) {
        e->err = err_set(&e->text, ERR_UNAVAILABLE, "this node is %s", phase_name(node->phase));
        return NULL;
    }
    struct heaps_walk walk = {node, json_array()};
    catalog_each(node->replica, add_heap, &walk);
    struct shard_info info = {0};
    struct shard *meta = replica_shard(node->replica, SHARD_META);
    if (meta != NULL) {
        shard_get_info(meta, &info);
    }
    return json_pack("{s:o,s:o,s:s}", "heaps", walk.list, "index", number(info.applied_index),
                     "meta_leader", node_name(node, info.leader_node));
}

/* ---- shards ---- */

static void add_stat(void *arg, const char *name, uint64_t value)
{
    json_object_set_new(arg, name, number(value));
}

static json_t *heap_stats_json(const struct heap *heap)
{
    struct heap_stats s;
    json_t *out = json_object();
    heap_get_stats(heap, &s);
    heap_stats_each(&s, add_stat, out);
    json_object_set_new(out, "safepoint", text_u64(s.safepoint));
    json_object_set_new(out, "clock", text_u64(heap_clock(heap)));
    return out;
}

static json_t *class_stats_json(const struct heap *heap)
{
    struct heap_class_stats classes[HEAP_CLASSES];
    json_t *out = json_array();
    heap_get_class_stats(heap, classes);
    for (size_t i = 0; i < HEAP_CLASSES; i++) {
        const struct heap_class_stats *c = &classes[i];
        if (c->blocks == 0 && c->slabs == 0) {
            continue;
        }
        json_array_append_new(
            out, json_pack("{s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "block_bytes",
                           (json_int_t)c->block_bytes, "slabs", number(c->slabs), "partial_slabs",
                           number(c->partial_slabs), "blocks", number(c->blocks), "spare",
                           number(c->spare), "capacity", number(c->capacity), "bytes",
                           number(c->bytes), "arena_bytes", number(c->arena_bytes)));
    }
    return out;
}

struct shards_walk {
    struct node *node;
    json_t *list;
    bool digest, stats, classes;
    uint64_t heap_id; /* 0: all */
};

static void add_shard(void *arg, struct shard *shard)
{
    struct shards_walk *walk = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    if (walk->heap_id != 0 && info.heap_id != walk->heap_id) {
        return;
    }
    uint32_t voters = 0;
    for (uint32_t i = 0; i < info.config.count; i++) {
        voters += info.config.servers[i].role == CONSENSUS_VOTER ? 1 : 0;
    }
    json_t *out = json_pack(
        "{s:o,s:o,s:i,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:i,s:b}", "uid", text_u64(info.uid),
        "heap_id", text_u64(info.heap_id), "shard", (int)info.shard, "state", state_name(&info),
        "leader", node_name(walk->node, info.leader_node), "term", number(info.term), "last_index",
        number(info.last_index), "commit_index", number(info.commit_index), "applied_index",
        number(info.applied_index), "first_index", number(info.first_index), "checkpoint_index",
        number(info.checkpoint_index), "sessions", number(info.sessions), "voters", (int)voters,
        "serving", info.serving);
    if (walk->digest && !info.failed && !info.installing && shard_heap(shard) != NULL) {
        uint64_t index = 0;
        uint64_t digest = shard_digest(shard, &index);
        json_object_set_new(out, "digest", text_hex(digest));
        json_object_set_new(out, "digest_index", number(index));
    }
    if (walk->stats && !info.failed && shard_heap(shard) != NULL) {
        struct image_stats image;
        json_object_set_new(out, "stats", heap_stats_json(shard_heap(shard)));
        shard_get_image_stats(shard, &image);
        json_object_set_new(out, "image_bytes", number(image.base_bytes + image.delta_bytes));
    }
    if (walk->classes && info.serving && shard_heap(shard) != NULL) {
        json_object_set_new(out, "classes", class_stats_json(shard_heap(shard)));
    }
    json_array_append_new(walk->list, out);
}

static json_t *shards(struct node *node, json_t *args, struct answer_error *e)
{
    struct shards_walk walk = {.node = node};
    if (node->replica == NULL) {
        e->err = err_set(&e->text, ERR_UNAVAILABLE, "this node is %s", phase_name(node->phase));
        return NULL;
    }
    walk.digest = json_is_true(json_object_get(args, "digest"));
    walk.stats = json_is_true(json_object_get(args, "stats"));
    walk.classes = json_is_true(json_object_get(args, "classes"));
    const char *heap_name = json_string_value(json_object_get(args, "heap"));
    if (heap_name != NULL) {
        struct catalog_heap heap;
        if (catalog_find(node->replica, slice_of(heap_name, strlen(heap_name)), &heap) != 0) {
            e->err = err_set(&e->text, ERR_NOTFOUND,
                             "heap %s does not exist; `cairnctl heap ls` lists those that do",
                             heap_name);
            return NULL;
        }
        walk.heap_id = heap.heap_id;
    }
    walk.list = json_array();
    replica_each_shard(node->replica, add_shard, &walk);
    return json_pack("{s:s,s:o}", "node", node->config.name, "shards", walk.list);
}

/* ---- actions ---- */

static struct shard *named_shard(struct node *node, json_t *args, struct answer_error *e)
{
    const char *text = json_string_value(json_object_get(args, "uid"));
    uint64_t uid = 0;
    if (node->replica == NULL || text == NULL || sscanf(text, "%" SCNu64, &uid) != 1) {
        e->err = err_set(&e->text, ERR_INVAL, "args need a shard: {\"uid\": \"17\"}");
        return NULL;
    }
    struct shard *shard = replica_shard(node->replica, uid);
    if (shard == NULL) {
        e->err = err_set(&e->text, ERR_NOSHARD, "no replica of shard %s on this node", text);
    }
    return shard;
}

static json_t *transfer(struct node *node, json_t *args, struct answer_error *e)
{
    struct shard *shard = named_shard(node, args, e);
    const char *to = json_string_value(json_object_get(args, "to"));
    if (shard == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; to != NULL && i < node->config.node_count; i++) {
        if (strcmp(node->config.nodes[i].name, to) == 0) {
            int rv = shard_transfer_leadership(shard, node->config.nodes[i].number);
            if (rv != 0) {
                e->err = err_set(&e->text, rv, "transfer: %s", err_text_of(rv));
                return NULL;
            }
            return json_pack("{s:b}", "started", 1);
        }
    }
    e->err = err_set(&e->text, ERR_INVAL, "args need the node to lead: {\"to\": \"n2\"}");
    return NULL;
}

static json_t *transactions(struct node *node, json_t *args, struct answer_error *e)
{
    (void)e; /* out of memory, as it begins */
    return admin__transactions(node, args);
}

static json_t *writers(struct node *node, json_t *args, struct answer_error *e)
{
    return admin__writers(node, args, &e->err, &e->text);
}

static json_t *transaction(struct node *node, json_t *args, struct answer_error *e)
{
    json_t *answer = admin__transaction(node, args);
    if (answer == NULL) {
        e->err = err_set(&e->text, ERR_INVAL,
                         "args need a transaction: {\"home\": \"16\", \"session\": \"1\", "
                         "\"seq\": \"1\"}");
    }
    return answer;
}

static const struct {
    const char *verb;
    json_t *(*answer)(struct node *node, json_t *args, struct answer_error *e);
} verbs[] = {
    {"status", status},           {"heaps", heaps},
    {"shards", shards},           {"transactions", transactions},
    {"transaction", transaction}, {"transfer", transfer},
    {"writers", writers},
};

/* ---- verbs whose answer comes later ---- */

bool admin__takes_time(struct slice verb, bool *inspect)
{
    *inspect = slice_equals(verb, slice_of("inspect", 7));
    return *inspect || slice_equals(verb, slice_of("checkpoint", 10));
}

static int append(const char *bytes, size_t len, void *arg)
{
    return buf_append(arg, bytes, len) == 0 ? 0 : -1;
}

int admin__dump(const json_t *answer, struct buf *out)
{
    return json_dump_callback(answer, append, out, JSON_COMPACT) == 0 ? 0 : ERR_NOMEM;
}

int admin__args(struct slice verb, struct slice args, json_t **out, struct err_text *e)
{
    *out = NULL;
    if (args.len == 0) {
        return 0;
    }
    json_error_t why;
    *out = json_loadb((const char *)args.data, args.len, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return err_set(e, ERR_INVAL, "args of %.*s must be a JSON object: %s",
                       (int)(verb.len < 63 ? verb.len : 63), (const char *)verb.data, why.text);
    }
    return 0;
}

int admin__answer(struct node *node, struct slice verb, struct slice args, struct buf *out,
                  struct err_text *e)
{
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (!slice_equals(verb, slice_of(verbs[i].verb, strlen(verbs[i].verb)))) {
            continue;
        }
        json_t *in = NULL;
        int rv = admin__args(verb, args, &in, e);
        if (rv != 0) {
            return rv;
        }
        struct answer_error local = {ERR_NOMEM, {"out of memory"}};
        json_t *answer = verbs[i].answer(node, in, &local);
        json_decref(in);
        if (answer == NULL) {
            return err_set(e, local.err, "%s", local.text.text);
        }
        rv = admin__dump(answer, out);
        json_decref(answer);
        return rv;
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "unknown verb \"%.*s\"; this node answers status, heaps, shards, checkpoint, "
                   "inspect, transactions, transaction, transfer, writers",
                   (int)(verb.len < 63 ? verb.len : 63), verb.data);
}
