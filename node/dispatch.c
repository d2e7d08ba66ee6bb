/* Requests: who may ask, which shard answers, and the way of the answer back. */
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/hlc.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/internal.h"

#define REQUESTS_POOL_MAX 4096u
#define BUSY_RETRY_MS     20u

/* ---- requests ---- */

static struct request *request_new(struct client *client, const struct frame_header *header,
                                   uint64_t uid)
{
    struct node *node = client->node;
    struct request *request;
    if (!list_empty(&node->free_requests)) {
        request = list_entry(node->free_requests.next, struct request, link);
        list_remove(&request->link);
    } else {
        request = mem_alloc(sizeof *request);
        if (request == NULL) {
            return NULL;
        }
    }
    memset(request, 0, offsetof(struct request, inside));
    request->node = node;
    request->client = client;
    request->uid = uid;
    request->request_id = header->request_id;
    request->kind = header->kind;
    list_push_back(&client->requests, &request->link);
    client->pending++;
    node->requests_open++;
    return request;
}

static void request_free(struct request *request)
{
    struct node *node = request->node;
    if (request->client != NULL) {
        list_remove(&request->link);
        request->client->pending--;
    }
    if (request->turn_ptr != 0 && !request->turn_told && node->turns != NULL) {
        turns_pass(node->turns, request->uid, request->turn_ptr);
    }
    if (request->large != NULL) {
        node->large_bytes -= request->body.len;
        mem_free(request->large);
    }
    node->requests_open--;
    if (node->requests_open >= REQUESTS_POOL_MAX) {
        mem_free(request);
        return;
    }
    list_push_back(&node->free_requests, &request->link);
}

/* Keeps a copy of the body, for when it is served. */
static int request_keep(struct request *request, struct slice body)
{
    struct node *node = request->node;
    uint8_t *at = request->inside;
    if (body.len > REQUEST_BODY_INLINE) {
        if (node->large_bytes + body.len > REQUESTS_LARGE_MAX) {
            return ERR_BUSY;
        }
        at = request->large = mem_alloc(body.len);
        if (at == NULL) {
            return ERR_BUSY;
        }
        node->large_bytes += body.len;
    }
    memcpy(at, body.data, body.len);
    request->body = slice_of(at, body.len);
    return 0;
}

static uint32_t leader_of(struct shard *shard)
{
    struct shard_info info;
    if (shard == NULL) {
        return 0;
    }
    shard_get_info(shard, &info);
    return info.leader_node;
}

static const char *advice(int err)
{
    switch (err) {
    case ERR_NOTLEADER:
        return "ask the node that leads this shard";
    case ERR_BUSY:
        return "the shard is overloaded or changes its leader: ask again";
    case ERR_DISKFULL:
        return "the disk under this node's data directory is full: free space; it goes on by "
               "itself";
    case ERR_NOSHARD:
        return "no replica of this shard on this node: open the heap again";
    case ERR_SHUTDOWN:
        return "this node is stopping: ask another";
    case ERR_SESSION_EXPIRED:
        return "the session is unknown here or has expired: open a new one";
    default:
        return err_text_of(err);
    }
}

static void refuse(struct client *client, uint64_t request_id, int err, uint64_t uid,
                   struct shard *shard)
{
    client->node->refused++;
    uint32_t retry_ms = err == ERR_BUSY || err == ERR_DISKFULL ? BUSY_RETRY_MS : 0;
    uint32_t leader = err == ERR_NOTLEADER || err == ERR_UNAVAILABLE ? leader_of(shard) : 0;
    if (rpc_send_error(client->conn, request_id, err, uid, leader, retry_ms, advice(err)) != 0) {
        rpc_close(client->conn, ERR_BUSY);
    }
}

/* With a sentence; empty: what the code says. */
static void refuse_with(struct client *client, uint64_t request_id, int err, const char *text)
{
    client->node->refused++;
    if (rpc_send_error(client->conn, request_id, err, 0, 0, 0, text[0] != 0 ? text : advice(err)) !=
        0) {
        rpc_close(client->conn, ERR_BUSY);
    }
}

/* An answer's body is in node->scratch. A client that doesn't read its answers is cut off. */
static void answer_scratch(struct client *client, uint64_t request_id, uint16_t kind)
{
    struct node *node = client->node;
    struct frame_header header = {.kind = kind, .request_id = request_id};
    struct slice body = slice_of(node->scratch.data, node->scratch.len);
    if (rpc_send(client->conn, &header, &body, 1) != 0) {
        rpc_close(client->conn, ERR_BUSY);
    }
}

void dispatch__tell(struct request *request, int err, const char *text)
{
    struct replica *replica = request->node->replica;
    struct shard *shard = replica == NULL ? NULL : replica_shard(replica, request->uid);
    if (text[0] != 0) {
        refuse_with(request->client, request->request_id, err, text);
    } else {
        refuse(request->client, request->request_id, err, request->uid, shard);
    }
}

void dispatch__end(struct request *request)
{
    request_free(request);
}

void dispatch__answer(struct request *request, uint16_t kind)
{
    answer_scratch(request->client, request->request_id, kind);
}

/* ---- commands ---- */

void dispatch__command_done(struct request *request, const struct command_result *result)
{
    struct client *client = request->client;
    if (client == NULL) {
        request_free(request);
        return;
    }
    if (result->err != 0) {
        refuse(client, request->request_id, result->err, request->uid,
               request->node->replica == NULL
                   ? NULL
                   : replica_shard(request->node->replica, request->uid));
    } else {
        struct msg_result m = {
            .code = (uint32_t)-result->code, .version = result->version, .value = result->value};
        buf_clear(&request->node->scratch);
        if (message_encode_result(&m, &request->node->scratch) == 0) {
            answer_scratch(client, request->request_id, KIND_RESULT);
        }
    }
    request_free(request);
}

static void command_done(struct shard_command *command, const struct command_result *result)
{
    dispatch__command_done(container_of(command, struct request, command), result);
}

struct request *dispatch__begin(struct client *client, const struct frame_header *header,
                                uint64_t uid, struct shard **shard)
{
    *shard = replica_shard(client->node->replica, uid);
    if (*shard == NULL) {
        refuse(client, header->request_id, ERR_NOSHARD, uid, NULL);
        return NULL;
    }
    struct request *request = request_new(client, header, uid);
    if (request == NULL) {
        refuse(client, header->request_id, ERR_BUSY, uid, NULL);
    }
    return request;
}

struct request *dispatch__begin_command(struct client *client, const struct frame_header *header,
                                        struct slice body, struct shard **shard)
{
    struct command_prefix prefix;
    if (message_command_prefix(body, &prefix) != 0) {
        refuse(client, header->request_id, ERR_PROTOCOL, 0, NULL);
        return NULL;
    }
    client->node->commands++;
    return dispatch__begin(client, header, prefix.uid, shard);
}

void dispatch__refuse(struct request *request, int err)
{
    struct replica *replica = request->node->replica;
    if (request->client != NULL) {
        refuse(request->client, request->request_id, err, request->uid,
               replica == NULL ? NULL : replica_shard(replica, request->uid));
    }
    request_free(request);
}

static void propose(struct client *client, const struct frame_header *header, uint16_t kind,
                    struct slice body, uint64_t owner)
{
    struct shard *shard = NULL;
    struct request *request = dispatch__begin_command(client, header, body, &shard);
    if (request == NULL) {
        return;
    }
    request->command.cb = command_done;
    int rv = shard_propose(shard, kind, body, owner, &request->command);
    if (rv != 0) {
        dispatch__refuse(request, rv);
    }
}

/* ---- reads ---- */

static void wait_done(struct coord_wait *wait, int err);
static void turn_done(struct turn_wait *wait, int err);

static bool waits_for_turn(struct request *request)
{
    struct node *node = request->node;
    uint64_t ptr = 0;
    uint8_t tries = reads__wanted_turn(request->kind, request->body, &ptr);
    if (tries == 0 || ptr == 0 || request->turn_ptr != 0 || node->turns == NULL) {
        return false;
    }
    request->turn_ptr = ptr;
    request->turn.cb = turn_done;
    return !turns_take(node->turns, request->uid, ptr, tries, &request->turn);
}

static void read_refuse(const struct request *request, int err, struct shard *shard)
{
    char text[ERR_TEXT_BYTES];
    if (err != ERR_SNAPSHOT_TOO_OLD || shard == NULL) {
        refuse(request->client, request->request_id, err, request->uid, shard);
        return;
    }
    const struct heap *heap = shard_heap(shard);
    hlc_say_oldest(heap_safepoint(heap), heap_retention_ms(heap), text, sizeof text);
    refuse_with(request->client, request->request_id, err, text);
}

/* Confirmed, or what it waited for is decided: the state is at least as new as when it was asked
 * for. */
static void read_serve(struct request *request, int err)
{
    struct node *node = request->node;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, request->uid);
    if (request->client != NULL && err == 0) {
        if (waits_for_turn(request)) {
            return;
        }
        err = shard == NULL ? ERR_NOSHARD : reads__answer(request, shard_heap(shard));
        if (err_stops_replica(err) && shard_check_damage(shard) != 0) {
            err = ERR_UNAVAILABLE; /* another replica knows */
        }
        if (err == ERR_TX_UNDECIDED) {
            request->wait.cb = wait_done;
            coord_wait(node->coord, shard, &request->by, &request->wait);
            return;
        }
    }
    if (request->client != NULL && err != 0) {
        read_refuse(request, err, shard);
    }
    request_free(request);
}

static void wait_done(struct coord_wait *wait, int err)
{
    read_serve(container_of(wait, struct request, wait), err);
}

/* It has waited for others to apply something: the shard may not be what it was. */
static void turn_done(struct turn_wait *wait, int err)
{
    struct request *request = container_of(wait, struct request, turn);
    struct node *node = request->node;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, request->uid);
    struct shard_info info = {.failed = true};
    if (shard != NULL) {
        shard_get_info(shard, &info);
    }
    if (err == 0 && (info.failed || info.installing)) {
        err = ERR_UNAVAILABLE;
    }
    read_serve(request, err);
}

static void read_done(struct shard_read *read, int err)
{
    struct request *request = container_of(read, struct request, read);
    if (err == ERR_INVAL && request->kind == KIND_TX_VALIDATE) {
        err = ERR_BUSY; /* it was read on a shard whose clock is far ahead: this one comes after */
    }
    if (request->client != NULL && err == ERR_INVAL) {
        /* The one thing about a read that its shard finds wrong. */
        refuse_with(request->client, request->request_id, err,
                    "the version is more than a second in the future");
        request_free(request);
        return;
    }
    read_serve(request, err);
}

/* Every read's body begins with the shard's uid. */
static void start_read(struct client *client, const struct frame_header *header, struct slice body)
{
    struct node *node = client->node;
    /* What may be long has a bound of its own in message.def. */
    bool may_be_long = header->kind == KIND_TX_VALIDATE || header->kind == KIND_FETCH;
    if (body.len < 8 || (body.len > REQUEST_BODY_INLINE && !may_be_long)) {
        refuse(client, header->request_id, ERR_PROTOCOL, 0, NULL);
        return;
    }
    uint64_t uid = load_u64(body.data);
    struct shard *shard = replica_shard(node->replica, uid);
    if (shard == NULL || (header->kind == KIND_HEAP_OPEN) != (uid == SHARD_META)) {
        refuse(client, header->request_id, shard == NULL ? ERR_NOSHARD : ERR_INVAL, uid, NULL);
        return;
    }
    struct request *request = request_new(client, header, uid);
    if (request == NULL) {
        refuse(client, header->request_id, ERR_BUSY, uid, NULL);
        return;
    }
    request->read.cb = read_done;
    request->read.at = reads__wanted_version(header->kind, body);
    node->reads++;
    int rv = request_keep(request, body);
    if (rv == 0) {
        rv = shard_read_index(shard, &request->read);
    }
    if (rv != 0) {
        refuse(client, header->request_id, rv, uid, shard);
        request_free(request);
    }
}

/* ---- what this node knows by itself ---- */

static void answer_cluster(struct client *client, const struct frame_header *header)
{
    struct node *node = client->node;
    uint8_t bytes[NODES_MAX * (4 + 2 + sizeof node->config.nodes[0].name + 2 +
                               sizeof node->config.nodes[0].address)];
    size_t at = 0;
    for (uint32_t i = 0; i < node->config.node_count; i++) {
        const struct node_config_peer *p = &node->config.nodes[i];
        size_t name = strlen(p->name);
        size_t address = strlen(p->address);
        store_u32(bytes + at, p->number);
        store_u16(bytes + at + 4, (uint16_t)name);
        memcpy(bytes + at + 6, p->name, name);
        at += 6 + name;
        store_u16(bytes + at, (uint16_t)address);
        memcpy(bytes + at + 2, p->address, address);
        at += 2 + address;
    }
    struct shard *meta = node->replica == NULL ? NULL : replica_shard(node->replica, SHARD_META);
    struct msg_cluster_info m = {.cluster_id = node->self.cluster_id,
                                 .self = node->self_config->number,
                                 .meta_leader = leader_of(meta),
                                 .nodes = slice_of(bytes, at)};
    buf_clear(&node->scratch);
    if (message_encode_cluster_info(&m, &node->scratch) == 0) {
        answer_scratch(client, header->request_id, KIND_CLUSTER_INFO);
    }
}

static int answer_json(struct client *client, uint64_t request_id, const struct buf *json)
{
    struct node *node = client->node;
    struct msg_admin_result out = {.json = slice_of(json->data, json->len)};
    if (json->len > FRAME_BYTES_MAX - 64) {
        return ERR_TOOBIG; /* told, where a frame that can't be sent closes the connection */
    }
    buf_clear(&node->scratch);
    int rv = message_encode_admin_result(&out, &node->scratch);
    if (rv == 0) {
        answer_scratch(client, request_id, KIND_ADMIN_RESULT);
    }
    return rv;
}

void dispatch__answer_later(struct request *request, int err, const json_t *answer)
{
    struct client *client = request->client;
    struct buf json = {0};
    if (client != NULL) {
        if (err == 0) {
            err = admin__dump(answer, &json);
        }
        if (err == 0) {
            err = answer_json(client, request->request_id, &json);
        }
        if (err != 0) {
            refuse_with(client, request->request_id, err, "");
        }
    }
    buf_close(&json);
    request_free(request);
}

static void begin_admin(struct client *client, const struct frame_header *header, bool inspect,
                        const struct msg_admin *m)
{
    struct err_text e = {""};
    json_t *args = NULL;
    int rv = admin__args(m->verb, m->args, &args, &e);
    struct request *request =
        rv == 0 && client->pending < REQUESTS_PER_CONN_MAX ? request_new(client, header, 0) : NULL;
    if (rv == 0 && request == NULL) {
        rv = ERR_BUSY;
    }
    if (rv == 0) {
        rv = inspect__begin(client->node, request, inspect, args, &e);
        if (rv != 0) {
            request_free(request);
        }
    }
    json_decref(args);
    if (rv != 0) {
        refuse_with(client, header->request_id, rv, e.text);
    }
}

static void answer_admin(struct client *client, const struct frame_header *header,
                         struct slice body)
{
    struct node *node = client->node;
    struct msg_admin m;
    struct buf json = {0};
    struct err_text e = {""};
    bool inspect = false;
    int rv = message_decode_admin(body, &m);
    if (rv == 0 && admin__takes_time(m.verb, &inspect)) {
        begin_admin(client, header, inspect, &m);
        return;
    }
    if (rv == 0) {
        rv = admin__answer(node, m.verb, m.args, &json, &e);
    }
    if (rv == 0) {
        rv = answer_json(client, header->request_id, &json);
    }
    buf_close(&json);
    if (rv != 0) {
        refuse_with(client, header->request_id, rv, e.text);
    }
}

static void answer_peer_command(struct client *client, const struct frame_header *header,
                                struct slice body)
{
    struct msg_peer_command m;
    struct msg_node_join join;
    int rv = message_decode_peer_command(body, &m);
    if (rv == 0 && (m.kind == KIND_TX_PREPARE || m.kind == KIND_TX_DECIDE ||
                    m.kind == KIND_TX_REFUSE || m.kind == KIND_TX_FORGET)) {
        tx__peer_command(client, header, m.kind, m.body);
        return;
    }
    if (rv != 0 || m.kind != KIND_NODE_JOIN || message_decode_node_join(m.body, &join) != 0 ||
        join.uid != SHARD_META || join.session != 0 || join.node != client->peer_number) {
        refuse(client, header->request_id, ERR_PROTOCOL, 0, NULL);
        return;
    }
    propose(client, header, m.kind, m.body, 0);
}

/* ---- frames ---- */

static void client_frame(struct client *client, const struct frame_header *header,
                         struct slice body)
{
    struct node *node = client->node;
    if (header->kind == KIND_CLUSTER) {
        answer_cluster(client, header);
        return;
    }
    if (header->kind == KIND_ADMIN) {
        answer_admin(client, header, body);
        return;
    }
    if (node->phase != NODE_RUNNING || node->replica == NULL) {
        refuse(client, header->request_id,
               node->phase == NODE_STOPPING ? ERR_SHUTDOWN : ERR_UNAVAILABLE, 0, NULL);
        return;
    }
    if (client->pending >= REQUESTS_PER_CONN_MAX) {
        refuse(client, header->request_id, ERR_BUSY, 0, NULL);
        return;
    }
    switch (header->kind) {
    case KIND_READ:
    case KIND_STAT:
    case KIND_ROOT_GET:
    case KIND_ROOT_LIST:
    case KIND_HISTORY:
    case KIND_TYPE_LIST:
    case KIND_TYPE_GET:
    case KIND_LEASE_GET:
    case KIND_OBJECT_LIST:
    case KIND_HEAP_OPEN:
    case KIND_TX_VALIDATE:
    case KIND_FETCH:
        start_read(client, header, body);
        return;
    case KIND_TX_COMMIT:
        tx__commit(client, header, body);
        return;
    case KIND_TX_HOLD:
        tx__hold(client, header, body);
        return;
    case KIND_WATCH:
        watch__begin(client, header, body);
        return;
    case KIND_SESSION_EXPIRE:
    case KIND_SESSION_BURY:
    case KIND_NODE_JOIN:
    case KIND_TICK:
    case KIND_RECLAIM:
    case KIND_TX_PREPARE:
    case KIND_TX_DECIDE:
    case KIND_TX_REFUSE:
    case KIND_TX_FORGET:
        refuse(client, header->request_id, ERR_DENIED, 0, NULL);
        return;
    default:
        if (message_is_command(header->kind)) {
            propose(client, header, header->kind, body, client->owner);
            return;
        }
        refuse(client, header->request_id, ERR_PROTOCOL, 0, NULL);
    }
}

static void bulk_frame(struct client *client, const struct frame_header *header, struct slice body)
{
    struct node *node = client->node;
    uint16_t kind = 0;
    if (node->phase != NODE_RUNNING || node->replica == NULL) {
        refuse(client, header->request_id, ERR_UNAVAILABLE, 0, NULL);
        return;
    }
    buf_clear(&node->scratch);
    int rv = replica_bulk_serve(node->replica, client->peer_number, header->kind, body, &kind,
                                &node->scratch);
    if (rv != 0) {
        refuse(client, header->request_id, rv, 0, NULL);
        return;
    }
    answer_scratch(client, header->request_id, kind);
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body)
{
    struct node *node = arg;
    struct client *client = rpc_data(conn);
    if (client == NULL) {
        return; /* forgotten while the node stops */
    }
    switch (rpc_conn_lane(conn)) {
    case RPC_LANE_CLIENT:
        client_frame(client, header, body);
        return;
    case RPC_LANE_BULK:
        bulk_frame(client, header, body);
        return;
    case RPC_LANE_RAFT:
        if (node->replica == NULL) {
            return;
        }
        if (header->kind == KIND_PEER_COMMAND) {
            answer_peer_command(client, header, body);
            return;
        }
        struct msg_peer_batch m;
        int rv =
            header->kind != KIND_PEER_BATCH ? ERR_PROTOCOL : message_decode_peer_batch(body, &m);
        if (rv == 0) {
            rv = replica_receive(node->replica, client->peer_number, m.items);
        }
        if (rv != 0) {
            log_warn("node", "malformed consensus traffic dropped", "peer=%s kind=%u err=%s",
                     rpc_peer(conn)->name, header->kind, err_name(rv));
        }
    }
}

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    struct node *node = arg;
    const struct env_peer *who = rpc_peer(conn);
    uint32_t number = 0;
    (void)ok;
    assert(hello != NULL);
    if (hello->cluster_id != 0 && node->self.cluster_id != 0 &&
        hello->cluster_id != node->self.cluster_id) {
        return err_set(
            e, ERR_WRONGCLUSTER, "this node belongs to cluster %016llx, the connection to %016llx",
            (unsigned long long)node->self.cluster_id, (unsigned long long)hello->cluster_id);
    }
    if (rpc_conn_lane(conn) != RPC_LANE_CLIENT) {
        for (uint32_t i = 0; i < node->peer_count; i++) {
            if (who->role == ENV_ROLE_NODE && strcmp(node->peers[i].config->name, who->name) == 0) {
                number = node->peers[i].config->number;
            }
        }
        if (number == 0) {
            return err_set(e, ERR_DENIED,
                           "%s is not a node of this cluster: `nodes` in this node's configuration "
                           "names all of them",
                           who->name);
        }
        int rv = node__check_engine(node, who->name, hello->engine, e);
        if (rv == 0) {
            rv = node__check_number(&node->identity.roster, who->name, number, hello->node_uid, e);
        }
        if (rv != 0) {
            return rv;
        }
    }
    struct client *client = mem_zalloc(sizeof *client);
    if (client == NULL) {
        return err_set(e, ERR_BUSY, "out of memory");
    }
    client->node = node;
    client->conn = conn;
    client->peer_number = number;
    client->owner = hash64(0, who->name, strlen(who->name));
    users__note(node, client->owner, who->name);
    list_init(&client->requests);
    list_push_back(&node->clients, &client->link);
    rpc_set_data(conn, client);
    return 0;
}

static void client_forget(struct client *client)
{
    list_for_each_safe (it, next, &client->requests) {
        struct request *request = list_entry(it, struct request, link);
        list_remove(&request->link);
        request->client = NULL;
        if (request->kind == KIND_WATCH) {
            watch__forget(request);
        }
    }
    list_remove(&client->link);
    rpc_set_data(client->conn, NULL);
    mem_free(client);
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    (void)arg;
    struct client *client = rpc_data(conn);
    log_debug("node", "connection closed", "peer=%s reason=%s cause=\"%s\"", rpc_peer(conn)->name,
              err_name(reason), text);
    if (client != NULL) {
        client_forget(client);
    }
}

const struct rpc_cbs dispatch__cbs = {
    .on_ready = on_ready, .on_frame = on_frame, .on_close = on_close};

void dispatch__forget_clients(struct node *node)
{
    list_for_each_safe (it, next, &node->clients) {
        client_forget(list_entry(it, struct client, link));
    }
}

void dispatch__free_requests(struct node *node)
{
    list_for_each_safe (it, next, &node->free_requests) {
        struct request *request = list_entry(it, struct request, link);
        list_remove(&request->link);
        mem_free(request);
    }
}
