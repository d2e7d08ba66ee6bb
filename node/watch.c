/* WATCH: a long poll for changes of a shard (alloc/events.h, ADR 0007 §10).
 *
 *   ReadIndex -> looking -> answered, when there is something
 *                  |  ^
 *                  |  `-- once a turn, while there is more to look at than fits into one
 *                  `----> waiting -> looking, when something that it wants was applied
 *                                 -> answered without changes, when its time is over
 *
 * Who waits, and what wakes whom, is alloc/waiters.h's. A request is all that a watch is: between
 * two of them the node knows nothing of it, but for a hint where the last one ended (a slow
 * consumer of a long history shouldn't have its place searched for each time). */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "node/internal.h"

#define LOOK_RECORDS   4096u /* in one turn, for one watch */
#define LOOKS_PER_TURN 16u   /* of one shard */
#define SWEEP_MS       500u  /* deadlines, and shards that are gone */

/* Those that wait for a shard. Made with the first, gone a moment after the last. */
struct watch_shard {
    struct list link; /* node->watched */
    uint64_t uid;
    bool applied; /* something new, not looked at yet */
    bool lost;    /* the leader may be another one */
    struct events_waiters waiters;
};

static struct request *request_of(struct list *link)
{
    return list_entry(link, struct request, watch.waiter.link);
}

/* ---- where one ended ---- */

static struct watch_hint *hint_of(struct node *node, uint64_t uid, uint64_t order, uint64_t key)
{
    uint64_t hash = (uid ^ key ^ order) * 0x9E3779B97F4A7C15u;
    return &node->watch_hints[(hash >> 32) % WATCH_HINTS];
}

static void hint_put(struct request *request)
{
    const struct events_cursor *c = &request->watch.waiter.cursor;
    uint64_t key = waiters_key(&request->watch.waiter.filter);
    if (c->place != 0 && c->place_order == c->order) {
        *hint_of(request->node, request->uid, c->order, key) =
            (struct watch_hint){.uid = request->uid, .key = key, .cursor = *c};
    }
}

static void hint_take(struct request *request)
{
    struct events_cursor *c = &request->watch.waiter.cursor;
    uint64_t key = waiters_key(&request->watch.waiter.filter);
    const struct watch_hint *hint = hint_of(request->node, request->uid, c->order, key);
    if (hint->uid == request->uid && hint->key == key && hint->cursor.order == c->order) {
        *c = hint->cursor;
    }
}

/* ---- the end of one ---- */

static void leave(struct request *request)
{
    if (request->watch_at != NULL) {
        waiters_remove(&request->watch_at->waiters, &request->watch.waiter);
        request->watch_at = NULL;
    }
}

static void end(struct request *request)
{
    leave(request);
    request->node->watches--;
    if (request->client != NULL) {
        request->client->watches--;
    }
    dispatch__end(request);
}

static void end_answered(struct request *request, const struct buf *changes)
{
    struct node *node = request->node;
    struct msg_watch_result out = {.token = request->watch.waiter.cursor.order,
                                   .changes = slice_of(changes->data, changes->len)};
    leave(request); /* the answer may close the connection, which forgets its watches */
    hint_put(request);
    buf_clear(&node->scratch);
    if (request->client != NULL && message_encode_watch_result(&out, &node->scratch) == 0) {
        dispatch__answer(request, KIND_WATCH_RESULT);
    }
    end(request);
}

static void end_refused(struct request *request, int err)
{
    char text[200];
    struct replica *replica = request->node->replica;
    struct shard *shard = replica == NULL ? NULL : replica_shard(replica, request->uid);
    leave(request); /* telling may close the connection, which forgets its watches */
    text[0] = 0;
    if (err == ERR_LIMIT) {
        (void)snprintf(text, sizeof text,
                       "too many watches: at most %u of a shard and of a connection, %u of a user",
                       WATCHES_PER_SHARD_MAX, WATCHES_PER_USER_MAX);
    } else if (shard != NULL && shard_heap(shard) != NULL) { /* else it could not be opened */
        events_explain(shard_heap(shard), err, text, sizeof text);
    }
    if (request->client != NULL) {
        dispatch__tell(request, err, text);
    }
    end(request);
}

/* ---- waiting ---- */

static struct watch_shard *shard_find(const struct node *node, uint64_t uid)
{
    list_for_each (it, &node->watched) {
        struct watch_shard *s = list_entry(it, struct watch_shard, link);
        if (s->uid == uid) {
            return s;
        }
    }
    return NULL;
}

static struct watch_shard *shard_take(struct node *node, uint64_t uid)
{
    struct watch_shard *s = shard_find(node, uid);
    if (s == NULL) {
        s = mem_zalloc(sizeof *s);
        if (s == NULL) {
            return NULL;
        }
        s->uid = uid;
        waiters_init(&s->waiters);
        list_push_back(&node->watched, &s->link);
    }
    if (node->watch_sweep.slot == 0) {
        env_timer_start_in_ms(node->env, &node->watch_sweep, SWEEP_MS);
    }
    return s;
}

/* Into one of its shard's lists. */
static void stay(struct request *request, const struct heap *heap, bool looking)
{
    struct node *node = request->node;
    struct watch_shard *s = shard_take(node, request->uid);
    if (s == NULL || s->waiters.count >= WATCHES_PER_SHARD_MAX) {
        end_refused(request, s == NULL ? ERR_NOMEM : ERR_LIMIT);
        return;
    }
    waiters_add(&s->waiters, heap, &request->watch.waiter, looking);
    request->watch_at = s;
    if (looking && node->watch_turn.slot == 0) {
        env_timer_start(node->env, &node->watch_turn, env_now_ns(node->env));
    }
}

/* It is in no list. */
static void look(struct request *request)
{
    struct node *node = request->node;
    struct watch *w = &request->watch;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, request->uid);
    struct buf changes = {0};
    assert(request->watch_at == NULL);
    if (shard == NULL) {
        end_refused(request, ERR_NOSHARD);
        return;
    }
    int rv = listing_events(shard_heap(shard), &w->waiter.filter, &w->waiter.cursor, &w->share,
                            LOOK_RECORDS, &changes);
    if (rv == 0 || (rv == ERR_NOTFOUND && env_now_ns(node->env) >= w->until_ns)) {
        end_answered(request, &changes);
    } else if (rv == ERR_NOTFOUND || rv == ERR_BUSY) {
        stay(request, shard_heap(shard), rv == ERR_BUSY);
    } else {
        end_refused(request, rv);
    }
    buf_close(&changes);
}

/* Each of them; ending one may close its connection, and take others of it away. */
static void look_again(struct list *taken)
{
    while (!list_empty(taken)) {
        struct request *request = request_of(taken->next);
        leave(request);
        look(request);
    }
}

/* ---- what is applied ---- */

static void end_all(struct watch_shard *s, int err)
{
    struct list all;
    list_init(&all);
    waiters_take_all(&s->waiters, &all);
    while (!list_empty(&all)) {
        end_refused(request_of(all.next), err);
    }
}

/* Why nobody may wait for the shard here; 0: they may. */
static int unfit(struct node *node, uint64_t uid, struct shard **shard)
{
    struct shard_info info;
    *shard = node->replica == NULL ? NULL : replica_shard(node->replica, uid);
    if (*shard == NULL) {
        return ERR_NOSHARD;
    }
    shard_get_info(*shard, &info);
    return info.failed ? ERR_IO : info.state != CONSENSUS_LEADER ? ERR_NOTLEADER : 0;
}

static void look_at_applied(struct node *node, struct watch_shard *s)
{
    struct shard *shard;
    struct list wanting;
    int err = unfit(node, s->uid, &shard);
    s->applied = s->lost = false;
    if (err != 0) {
        end_all(s, err);
        return;
    }
    list_init(&wanting);
    waiters_take_wanting(&s->waiters, shard_heap(shard), &wanting);
    look_again(&wanting);
}

static void on_task(struct env_task *task)
{
    struct node *node = container_of(task, struct node, watch_task);
    list_for_each (it, &node->watched) {
        struct watch_shard *s = list_entry(it, struct watch_shard, link);
        if (s->applied || s->lost) {
            look_at_applied(node, s);
        }
    }
}

/* Those whose search takes more than a turn. */
static void on_turn(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, watch_turn);
    list_for_each (it, &node->watched) {
        struct watch_shard *s = list_entry(it, struct watch_shard, link);
        struct list now;
        list_init(&now);
        waiters_take_looking(&s->waiters, LOOKS_PER_TURN, &now);
        look_again(&now);
        if (!list_empty(&s->waiters.looking) && timer->slot == 0) {
            env_timer_start(node->env, timer, env_now_ns(node->env));
        }
    }
}

static bool is_overdue(const struct events_waiter *waiter, const void *now)
{
    return container_of(waiter, struct watch, waiter)->until_ns <= *(const uint64_t *)now;
}

static void end_overdue(struct watch_shard *s, uint64_t now)
{
    struct list overdue;
    list_init(&overdue);
    waiters_take_if(&s->waiters, is_overdue, &now, &overdue);
    look_again(&overdue);
}

static void on_sweep(struct env_timer *timer)
{
    struct node *node = container_of(timer, struct node, watch_sweep);
    uint64_t now = env_now_ns(node->env);
    list_for_each_safe (it, next, &node->watched) {
        struct watch_shard *s = list_entry(it, struct watch_shard, link);
        struct shard *shard;
        int err = unfit(node, s->uid, &shard);
        if (err != 0) {
            end_all(s, err);
        }
        end_overdue(s, now);
        if (s->waiters.count == 0) {
            list_remove(&s->link);
            mem_free(s);
        }
    }
    if (!list_empty(&node->watched)) {
        env_timer_start_in_ms(node->env, timer, SWEEP_MS);
    }
}

/* ---- from outside ---- */

void watch__open(struct node *node)
{
    list_init(&node->watched);
    node->watch_task.cb = on_task;
    node->watch_turn.cb = on_turn;
    node->watch_sweep.cb = on_sweep;
}

void watch__close(struct node *node)
{
    env_timer_stop(node->env, &node->watch_turn);
    env_timer_stop(node->env, &node->watch_sweep);
    list_for_each_safe (it, next, &node->watched) {
        struct watch_shard *s = list_entry(it, struct watch_shard, link);
        end_all(s, ERR_SHUTDOWN);
        assert(s->waiters.count == 0);
        list_remove(&s->link);
        mem_free(s);
    }
}

void watch__applied(struct node *node, struct shard *shard, bool lost)
{
    if (list_empty(&node->watched)) {
        return;
    }
    struct shard_info info;
    shard_get_info(shard, &info);
    struct watch_shard *s = shard_find(node, info.uid);
    if (s != NULL && s->waiters.count > 0) {
        s->applied = s->applied || !lost;
        s->lost = s->lost || lost;
        env_defer(node->env, &node->watch_task);
    }
}

void watch__forget(struct request *request)
{
    if (request->watch_at != NULL) {
        end(request);
    }
}

/* ---- the beginning ---- */

static uint32_t of_user(const struct node *node, uint64_t owner)
{
    uint32_t count = 0;
    list_for_each (it, &node->clients) {
        const struct client *client = list_entry(it, struct client, link);
        count += client->owner == owner ? client->watches : 0;
    }
    return count;
}

static int check(const struct msg_watch *m, struct slice body)
{
    bool good = body.len <= REQUEST_BODY_INLINE && m->uid != SHARD_META && m->from < EVENTS_FROMS &&
                m->what >= EVENTS_OBJECT && m->what < EVENTS_WHATS && m->max > 0 &&
                m->bytes_max > 0 && m->wait_ms <= WATCH_WAIT_MS_MAX;
    return good ? 0 : ERR_PROTOCOL;
}

static void confirmed(struct shard_read *read, int err)
{
    struct request *request = container_of(read, struct request, read);
    struct node *node = request->node;
    struct shard *shard = node->replica == NULL ? NULL : replica_shard(node->replica, request->uid);
    struct msg_watch m;
    if (err == 0 && shard == NULL) {
        err = ERR_NOSHARD;
    }
    if (err == ERR_INVAL && request->client != NULL) {
        dispatch__tell(request, err, "the version is more than a second in the future");
    } else if (err != 0 && request->client != NULL) {
        dispatch__tell(request, err, "");
    }
    if (err != 0 || request->client == NULL) {
        end(request);
        return;
    }
    int rv = message_decode_watch(request->body, &m);
    assert(rv == 0); /* as when it came */
    request->watch = (struct watch){.waiter = {.filter = {.what = (enum events_what)m.what,
                                                          .type = m.type,
                                                          .ptr = m.ptr,
                                                          .name = m.name,
                                                          .at = m.at}},
                                    .until_ns = env_now_ns(node->env) +
                                                waiters_wait_ms(shard_heap(shard), m.wait_ms) *
                                                    UINT64_C(1000000),
                                    .share = {m.max, m.bytes_max, m.values != 0}};
    rv = events_begin(shard_heap(shard), &request->watch.waiter.filter, (enum events_from)m.from,
                      m.token, &request->watch.waiter.cursor);
    if (rv != 0) {
        end_refused(request, rv);
        return;
    }
    if (m.from == EVENTS_NOW) {
        request->watch.until_ns = 0; /* where that is, at once */
    } else if (m.from == EVENTS_TOKEN) {
        hint_take(request);
    }
    look(request);
}

void watch__begin(struct client *client, const struct frame_header *header, struct slice body)
{
    struct node *node = client->node;
    struct msg_watch m = {0};
    struct shard *shard = NULL;
    int rv = message_decode_watch(body, &m);
    struct request *request = dispatch__begin(client, header, m.uid, &shard);
    if (request == NULL) {
        return;
    }
    node->watches++;
    client->watches++;
    if (rv == 0) {
        rv = check(&m, body);
    }
    if (rv == 0 && (client->watches > WATCHES_PER_CONN_MAX ||
                    of_user(node, client->owner) > WATCHES_PER_USER_MAX)) {
        rv = ERR_LIMIT;
    }
    if (rv != 0) {
        end_refused(request, rv);
        return;
    }
    memcpy(request->inside, body.data, body.len);
    request->body = slice_of(request->inside, body.len);
    request->read.cb = confirmed;
    request->read.at = m.from == EVENTS_TOKEN ? 0 : m.at;
    rv = shard_read_index(shard, &request->read);
    if (rv != 0) {
        end_refused(request, rv);
    }
}
