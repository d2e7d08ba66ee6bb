#include "sim/cluster/watchers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/txn.h"
#include "sim/cluster/cluster.h"

#define WATCH_MS      400u
#define TYPE          7u
#define FROM_POINTER  52
#define DRAIN_SECONDS 20u

static uint64_t below(const struct client_host *client, uint64_t limit)
{
    return env_random_u64(client->env) % limit;
}

/* ---- what was seen ---- */

static struct watch_seen *seen_of(struct watcher *w, uint64_t ptr, const char *name)
{
    for (uint32_t i = 0; i < w->seen_count; i++) {
        struct watch_seen *s = &w->seen[i];
        if (s->ptr == ptr && strcmp(s->name, name) == 0) {
            return s;
        }
    }
    if (w->seen_count == WATCH_SEEN_MAX) {
        return NULL;
    }
    struct watch_seen *s = &w->seen[w->seen_count++];
    *s = (struct watch_seen){.ptr = ptr};
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    return s;
}

static void wrong(struct watcher *w, const struct watch_seen *s, const cairn_event *e,
                  const char *what)
{
    cluster_fail(w->client->cluster, "client %u: %s%016" PRIx64 " changed at %" PRIu64 ": %s",
                 w->client->index, s->name, s->ptr, e->version, what);
}

/* The words of relays are numbered: what comes next is known. */
static void check_word(struct watcher *w, const struct watch_seen *s, const cairn_event *e)
{
    uint64_t before;
    uint64_t after;
    if ((s->known & 0xff) != 0xff || e->offset != 0 || e->new_len != sizeof after) {
        return;
    }
    memcpy(&before, s->bytes, sizeof before);
    memcpy(&after, e->new_bytes, sizeof after);
    uint64_t next = relay_write_after(w->client->cluster, s->ptr, before);
    if (next != 0 && next != after) {
        wrong(w, s, e, "not the write that follows");
    }
}

static void check_before(struct watcher *w, const struct watch_seen *s, const cairn_event *e)
{
    const uint8_t *old = e->old_bytes;
    bool compared = false;
    for (uint64_t i = 0; i < e->old_len && e->offset + i < WATCH_SEEN_BYTES; i++) {
        uint64_t at = e->offset + i;
        bool known = (s->known >> at & 1) != 0;
        compared = compared || known;
        if (known && s->bytes[at] != old[i]) {
            wrong(w, s, e, "other bytes before it than the last change left");
            return;
        }
    }
    w->client->cluster->counts.values_seen += compared;
}

static void follow_write(struct watcher *w, struct watch_seen *s, const cairn_event *e)
{
    const uint8_t *new = e->new_bytes;
    if (e->old_bytes != NULL) {
        check_before(w, s, e);
    }
    if (new != NULL) {
        check_word(w, s, e);
    }
    for (uint64_t i = 0; i < e->len && e->offset + i < WATCH_SEEN_BYTES; i++) {
        uint64_t at = e->offset + i;
        s->known &= ~(UINT64_C(1) << at);
        if (new != NULL) {
            s->known |= UINT64_C(1) << at;
            s->bytes[at] = new[i];
        }
    }
}

static void follow(struct watcher *w, struct watch_seen *s, const cairn_event *e)
{
    switch (e->kind) {
    case CAIRN_EVENT_ROOT_SET:
    case CAIRN_EVENT_ROOT_DELETED:
        if (s->version != 0 && s->to != e->old_ptr.word) {
            wrong(w, s, e, "it led elsewhere than the last change said");
        }
        s->to = e->ptr.word;
        break;
    case CAIRN_EVENT_WRITTEN:
        follow_write(w, s, e);
        break;
    default:
        s->known = 0;
    }
}

/* Each change says which one came before it. */
static void saw(struct watcher *w, const cairn_event *e)
{
    struct cluster *c = w->client->cluster;
    c->counts.changes_seen++;
    if (e->order <= w->order[e->shard]) {
        cluster_fail(c, "client %u: shard %u sent change %" PRIx64 " behind %" PRIx64,
                     w->client->index, e->shard, e->order, w->order[e->shard]);
    }
    w->order[e->shard] = e->order;
    if (e->name == NULL && e->type != TYPE) {
        return;
    }
    struct watch_seen *s =
        seen_of(w, e->name == NULL ? e->ptr.word : 0, e->name == NULL ? "" : e->name);
    if (s == NULL) {
        return;
    }
    if (s->version != 0 && s->version != e->before) {
        cluster_fail(c,
                     "client %u: %s%016" PRIx64 " changed at %" PRIu64 " from %" PRIu64
                     ", and was last seen at %" PRIu64,
                     w->client->index, s->name, s->ptr, e->version, e->before, s->version);
    }
    /* A transaction may change an object several times, at its one version. */
    if (e->version < s->version || (e->version == s->version && e->before != e->version)) {
        cluster_fail(c, "client %u: %s%016" PRIx64 ": version %" PRIu64 " behind %" PRIu64,
                     w->client->index, s->name, s->ptr, e->version, s->version);
    }
    follow(w, s, e);
    s->version = e->version;
}

/* ---- asking ---- */

static void pump(struct watcher *w);

static bool is_running(const struct watcher *w)
{
    bool running = false;
    for (uint32_t i = 0; i < WATCH_SHARDS; i++) {
        running = running || w->running[i];
    }
    return running;
}

/* The history doesn't reach back to where it stands: whoever follows must know, and begins anew. */
static void lose(struct watcher *w)
{
    w->client->cluster->counts.watch_gaps++;
    w->seen_count = 0;
    watch_reader_free(w->reader);
    w->reader = NULL;
    w->renewing = false;
}

static void on_answer(struct core_call *call)
{
    struct watch_call *of = container_of(call, struct watch_call, call);
    struct watcher *w = of->watcher;
    struct cluster *c = w->client->cluster;
    uint32_t i = (uint32_t)(of - w->calls);
    w->running[i] = false;
    if (w->stopped || w->reader == NULL) {
        buf_close(&call->bytes);
        return;
    }
    int err = call->err;
    if (err == 0) {
        err = watch_reader_hear(w->reader, i, call->value, &call->bytes);
    }
    buf_close(&call->bytes);
    if (err == ERR_SNAPSHOT_TOO_OLD || err == ERR_UNSUPPORTED) {
        lose(w);
    } else if (err != 0 && !cluster_weather(err)) {
        cluster_fail(c, "client %u: a watch ended with %s: %s", w->client->index, err_name(err),
                     call->text);
    }
    pump(w);
}

static void pump(struct watcher *w)
{
    if (w->reader == NULL || w->renewing || w->stopped || w->client->cluster->bad) {
        return;
    }
    for (uint32_t i = 0; i < w->reader->count; i++) {
        struct core_call *call = &w->calls[i].call;
        if (w->running[i] || !watch_reader_wants(w->reader, i)) {
            continue;
        }
        struct msg_watch query = watch_reader_query(w->reader, i);
        memset(call, 0, sizeof *call);
        query.wait_ms = WATCH_MS;
        call->cb = on_answer;
        w->calls[i].watcher = w;
        int rv = core_prepare_watch(call, w->client->heap, w->reader->sources[i].shard, &query);
        if (rv != 0) {
            cluster_fail(w->client->cluster, "a watch was refused: %s", err_name(rv));
            return;
        }
        w->running[i] = true;
        core_call(w->client->core, call);
    }
}

/* ---- opening ---- */

static void open_watch(struct watcher *w, const char *token)
{
    struct client_host *client = w->client;
    struct cluster *c = client->cluster;
    uint32_t shards = core_heap_shards(client->heap);
    uint32_t shard = 0;
    struct msg_watch what = {.what = WATCH_ALL};
    cairn_watch_opts opts;
    memset(&opts, 0, sizeof opts);
    opts.from = token != NULL ? CAIRN_WATCH_TOKEN : CAIRN_WATCH_NOW;
    opts.token = token;
    opts.values = client->index % 4 != 1;
    opts.bytes_max = watch_reader_bytes_min(shards) + below(client, 1u << 20);
    switch (client->index % 4) {
    case 0:
        what.what = WATCH_OBJECT;
        what.ptr = c->registers[client->index % REGISTERS];
        shard = (uint32_t)(what.ptr >> FROM_POINTER);
        shards = 1;
        break;
    case 1:
        what.what = WATCH_TYPE;
        what.type = TYPE;
        break;
    case 2:
        what.what = WATCH_ROOTS;
        what.name = slice_of("root-", 5);
        break;
    default:
        break;
    }
    int rv = watch_reader_new(&what, core_heap_id(client->heap), shard, shards, &opts, &w->reader);
    if (rv != 0) {
        cluster_fail(c, "client %u: a watch doesn't open%s: %s", client->index,
                     token != NULL ? " from its own token" : "", err_name(rv));
    }
}

/* As another process would, that knows nothing but the token. */
static void renew(struct watcher *w)
{
    char token[CAIRN_WATCH_TOKEN_BYTES];
    watch_reader_token(w->reader, token);
    watch_reader_free(w->reader);
    w->reader = NULL;
    w->renewing = false;
    w->client->cluster->counts.watch_resumes++;
    open_watch(w, token);
}

static void on_tick(struct env_timer *timer)
{
    struct watcher *w = container_of(timer, struct watcher, tick);
    struct client_host *client = w->client;
    cairn_event event;
    uint32_t emptied;
    if (w->stopped || client->cluster->bad) {
        return;
    }
    if (w->renewing && !is_running(w)) {
        renew(w);
    }
    if (w->reader == NULL && !is_running(w)) {
        open_watch(w, NULL);
    }
    /* Some of them slowly, and never in step with what comes. */
    for (uint64_t n = 1 + below(client, 64);
         w->reader != NULL && n > 0 && watch_reader_next(w->reader, &event, &emptied); n--) {
        saw(w, &event);
    }
    if (w->reader != NULL && !client->cluster->closing && below(client, 60) == 0) {
        bool heard = true; /* before that its token is no place yet */
        for (uint32_t i = 0; i < w->reader->count; i++) {
            heard = heard && w->reader->sources[i].heard;
        }
        w->renewing = heard;
    }
    pump(w);
    env_timer_start_in_ms(client->env, timer, 1 + below(client, 100));
}

void watchers_go(struct client_host *client)
{
    struct watcher *w = &client->watcher;
    w->client = client;
    w->tick.cb = on_tick;
    env_timer_start_in_ms(client->env, &w->tick, 1);
}

void watchers_stop(struct client_host *client)
{
    client->watcher.stopped = true;
    if (client->watcher.client != NULL) {
        env_timer_stop(client->env, &client->watcher.tick);
    }
}

void watchers_free(struct client_host *client)
{
    watch_reader_free(client->watcher.reader);
    client->watcher.reader = NULL;
}

/* ---- the end ---- */

struct find {
    uint32_t shard;
    const struct heap *heap;
};

static void find_heap(void *arg, struct shard *shard)
{
    struct find *find = arg;
    struct shard_info info;
    shard_get_info(shard, &info);
    if (info.uid >= SHARD_UID_FIRST && info.shard == find->shard && info.serving) {
        find->heap = shard_heap(shard);
    }
}

/* As it is; version 0: nobody can tell. */
static void look_up(struct cluster *c, const struct watcher *w, const struct watch_seen *s,
                    struct watch_seen *out)
{
    struct slice name = slice_of(s->name, strlen(s->name));
    struct find find = {.shard = s->ptr != 0 ? (uint32_t)(s->ptr >> FROM_POINTER)
                                             : core_heap_root_shard(w->client->heap, name)};
    struct heap_object object;
    struct root_record root;
    *out = (struct watch_seen){.ptr = s->ptr};
    for (uint32_t i = 0; i < c->node_count && find.heap == NULL; i++) {
        struct node *node = c->nodes[i].node;
        if (node != NULL && node_replica(node) != NULL) {
            replica_each_shard(node_replica(node), find_heap, &find);
        }
    }
    if (find.heap == NULL) {
        return;
    }
    if (s->ptr == 0 && heap_root_get_at(find.heap, 0, name, &root) == 0) {
        out->version = root.version;
        out->to = root.ptr;
    }
    if (s->ptr != 0 && heap_stat(find.heap, s->ptr, &object) == 0) {
        out->version = object.version;
        uint64_t len = object.size < WATCH_SEEN_BYTES ? object.size : WATCH_SEEN_BYTES;
        (void)heap_copy(find.heap, s->ptr, 0, out->bytes, len);
    }
}

static bool is_same(const struct watch_seen *s, const struct watch_seen *is)
{
    if (s->ptr == 0) {
        return s->to == is->to;
    }
    for (uint32_t i = 0; i < WATCH_SEEN_BYTES; i++) {
        if ((s->known >> i & 1) != 0 && s->bytes[i] != is->bytes[i]) {
            return false;
        }
    }
    return true;
}

static bool is_behind(struct cluster *c, const struct watcher *w, char *why, size_t bytes)
{
    for (uint32_t i = 0; i < w->seen_count; i++) {
        const struct watch_seen *s = &w->seen[i];
        struct watch_seen is;
        look_up(c, w, s, &is);
        if (is.version != s->version) {
            (void)snprintf(why, bytes,
                           "client %u has seen %s%016" PRIx64 " up to %" PRIu64
                           ", and it changed at %" PRIu64,
                           w->client->index, s->name, s->ptr, s->version, is.version);
            return true;
        }
        if (!is_same(s, &is)) {
            cluster_fail(c,
                         "client %u: %s%016" PRIx64 " is not what the change at %" PRIu64 " left",
                         w->client->index, s->name, s->ptr, s->version);
        }
    }
    return false;
}

void watchers_check(struct cluster *c)
{
    uint64_t until = sim_now_ns(c->sim) + DRAIN_SECONDS * SIM_SECOND;
    char why[200] = "";
    for (bool behind = true; behind && !c->bad;) {
        behind = false;
        for (uint32_t i = 0; i < c->client_count && !behind; i++) {
            behind = is_behind(c, &c->clients[i].watcher, why, sizeof why);
        }
        if (behind && sim_now_ns(c->sim) > until) {
            cluster_fail(c, "%s", why);
        }
        if (behind) {
            cluster_run_ms(c, 50);
        }
    }
    if (!c->bad && c->counts.changes_seen == 0) {
        cluster_fail(c, "no watch has seen anything: this proves nothing");
    }
    if (!c->bad && c->tame && c->counts.values_seen == 0) {
        cluster_fail(c, "no watch has seen a value change: this proves nothing of them");
    }
}
