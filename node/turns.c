#include "node/turns.h"

#include "base/assert.h"
#include "base/mem.h"

#define BUCKETS   1024u
#define NS_PER_US UINT64_C(1000)
#define SMOOTHING 8u /* how many turns the usual duration is the mean of, about */

/* An object somebody has a turn at. */
struct turn {
    struct list bucket;
    struct list link; /* turns->idle, longest ago first, or turns->busy: somebody waits */
    struct list waits;
    struct env_timer timer; /* of a busy one: the end of the turn */
    struct turns *turns;
    uint64_t uid, ptr;
    uint64_t version;  /* that the holder was told; 0: nothing yet */
    uint64_t since_ns; /* the holder's turn */
    uint64_t usual_ns;
    bool passed;
};

struct turns {
    struct env *env;
    turns_version_cb version;
    void *arg;
    struct env_task task;
    struct list buckets[BUCKETS];
    struct list idle, busy;
    uint32_t count;
    struct turns_stats stats;
};

static struct list *bucket_of(struct turns *t, uint64_t uid, uint64_t ptr)
{
    uint64_t hash = (uid * 31 + ptr) * UINT64_C(0x9E3779B97F4A7C15);
    return &t->buckets[hash >> 32 & (BUCKETS - 1)];
}

static struct turn *find(struct turns *t, uint64_t uid, uint64_t ptr)
{
    list_for_each (it, bucket_of(t, uid, ptr)) {
        struct turn *turn = list_entry(it, struct turn, bucket);
        if (turn->uid == uid && turn->ptr == ptr) {
            return turn;
        }
    }
    return NULL;
}

/* ---- whose turn ---- */

static uint64_t limit_ns(const struct turn *turn)
{
    uint64_t ns = turn->usual_ns * TURNS_TIMES;
    ns = ns < TURNS_US_MIN * NS_PER_US ? TURNS_US_MIN * NS_PER_US : ns;
    return ns > TURNS_US_MAX * NS_PER_US ? TURNS_US_MAX * NS_PER_US : ns;
}

static void learn(struct turn *turn, uint64_t ns)
{
    turn->usual_ns = turn->usual_ns - turn->usual_ns / SMOOTHING + ns / SMOOTHING;
}

/* Its holder has changed the object, or had the time to. */
static bool is_over(struct turn *turn, uint64_t now_ns)
{
    const struct turns *t = turn->turns;
    uint64_t taken = now_ns - turn->since_ns;
    if (turn->passed) {
        return true;
    }
    if (turn->version != 0 && t->version(t->arg, turn->uid, turn->ptr) != turn->version) {
        learn(turn, taken);
        return true;
    }
    return taken >= limit_ns(turn);
}

static void begin(struct turn *turn, uint64_t now_ns)
{
    turn->version = 0;
    turn->passed = false;
    turn->since_ns = now_ns;
}

static void arm(struct turn *turn)
{
    env_timer_start(turn->turns->env, &turn->timer, turn->since_ns + limit_ns(turn));
}

static void make_idle(struct turn *turn)
{
    env_timer_stop(turn->turns->env, &turn->timer);
    list_remove(&turn->link);
    list_push_back(&turn->turns->idle, &turn->link);
}

static void leave(struct turn_wait *wait)
{
    struct turns *t = wait->turns;
    env_timer_stop(t->env, &wait->timer);
    list_remove(&wait->link);
    t->stats.waiting--;
}

/* The first who waits has the turn. cb may take turns, tell and pass. */
static void hand_on(struct turn *turn, uint64_t now_ns)
{
    struct turn_wait *wait = list_entry(turn->waits.next, struct turn_wait, link);
    leave(wait);
    begin(turn, now_ns);
    if (list_empty(&turn->waits)) {
        make_idle(turn);
    } else {
        arm(turn);
    }
    turn->turns->stats.waited++;
    wait->cb(wait, 0);
}

static void look(struct env_task *task)
{
    struct turns *t = container_of(task, struct turns, task);
    struct list now;
    list_init(&now);
    list_splice(&now, &t->busy);
    uint64_t now_ns = env_now_ns(t->env);
    while (!list_empty(&now)) {
        struct turn *turn = list_entry(now.next, struct turn, link);
        list_remove(&turn->link);
        list_push_back(&t->busy, &turn->link);
        if (is_over(turn, now_ns)) {
            hand_on(turn, now_ns);
        }
    }
}

static void turn_expired(struct env_timer *timer)
{
    struct turn *turn = container_of(timer, struct turn, timer);
    turn->turns->stats.expired++;
    /* Perhaps too little time was given: little by little it gets more. */
    turn->usual_ns += turn->usual_ns / (4 * SMOOTHING);
    hand_on(turn, env_now_ns(turn->turns->env));
}

static void wait_expired(struct env_timer *timer)
{
    struct turn_wait *wait = container_of(timer, struct turn_wait, timer);
    struct turn *turn = wait->turn;
    leave(wait);
    if (list_empty(&turn->waits)) {
        make_idle(turn);
    }
    turn->turns->stats.overdue++;
    wait->cb(wait, 0);
}

/* ---- asking ---- */

static void forget(struct turn *turn)
{
    assert(list_empty(&turn->waits));
    list_remove(&turn->bucket);
    list_remove(&turn->link);
    turn->turns->count--;
    mem_free(turn);
}

static struct turn *remember(struct turns *t, uint64_t uid, uint64_t ptr)
{
    if (t->count == TURNS_OBJECTS_MAX && !list_empty(&t->idle)) {
        forget(list_entry(t->idle.next, struct turn, link));
    }
    struct turn *turn = t->count == TURNS_OBJECTS_MAX ? NULL : mem_zalloc(sizeof *turn);
    if (turn == NULL) {
        return NULL;
    }
    list_init(&turn->waits);
    turn->timer.cb = turn_expired;
    turn->turns = t;
    turn->uid = uid;
    turn->ptr = ptr;
    turn->usual_ns = TURNS_US_INIT * NS_PER_US;
    list_push_back(bucket_of(t, uid, ptr), &turn->bucket);
    list_push_back(&t->idle, &turn->link);
    t->count++;
    return turn;
}

/* Behind those who have tried as often. */
static void queue(struct turn *turn, struct turn_wait *wait)
{
    struct list *before = turn->waits.next;
    while (before != &turn->waits &&
           list_entry(before, struct turn_wait, link)->tries >= wait->tries) {
        before = before->next;
    }
    list_push_back(before, &wait->link);
}

bool turns_take(struct turns *t, uint64_t uid, uint64_t ptr, uint8_t tries, struct turn_wait *wait)
{
    uint64_t now_ns = env_now_ns(t->env);
    struct turn *turn = find(t, uid, ptr);
    bool idle = turn == NULL || list_empty(&turn->waits);
    bool fresh = turn == NULL;
    if (fresh) {
        turn = remember(t, uid, ptr);
    }
    if (turn == NULL || t->stats.waiting == TURNS_WAITING_MAX) {
        t->stats.taken++;
        return true;
    }
    if (idle && (fresh || is_over(turn, now_ns))) {
        begin(turn, now_ns);
        list_remove(&turn->link);
        list_push_back(&t->idle, &turn->link);
        t->stats.taken++;
        return true;
    }
    wait->timer = (struct env_timer){.cb = wait_expired};
    wait->turns = t;
    wait->turn = turn;
    wait->tries = tries;
    queue(turn, wait);
    t->stats.waiting++;
    env_timer_start_in_ms(t->env, &wait->timer, TURNS_WAIT_MS);
    if (idle) {
        list_remove(&turn->link);
        list_push_back(&t->busy, &turn->link);
        arm(turn);
    }
    return false;
}

void turns_told(struct turns *t, uint64_t uid, uint64_t ptr, uint64_t version)
{
    struct turn *turn = find(t, uid, ptr);
    if (turn != NULL && turn->version == 0) {
        turn->version = version;
    }
}

void turns_pass(struct turns *t, uint64_t uid, uint64_t ptr)
{
    struct turn *turn = find(t, uid, ptr);
    if (turn != NULL && turn->version == 0) {
        turn->passed = true;
        env_defer(t->env, &t->task);
    }
}

void turns_applied(struct turns *t)
{
    if (!list_empty(&t->busy)) {
        env_defer(t->env, &t->task);
    }
}

void turns_get_stats(const struct turns *t, struct turns_stats *out)
{
    *out = t->stats;
}

/* ---- life ---- */

struct turns *turns_new(struct env *env, turns_version_cb version, void *arg)
{
    struct turns *t = mem_zalloc(sizeof *t);
    if (t != NULL) {
        t->env = env;
        t->version = version;
        t->arg = arg;
        t->task.cb = look;
        list_init(&t->idle);
        list_init(&t->busy);
        for (uint32_t i = 0; i < BUCKETS; i++) {
            list_init(&t->buckets[i]);
        }
    }
    return t;
}

void turns_free(struct turns *t)
{
    if (t == NULL) {
        return;
    }
    while (!list_empty(&t->busy)) {
        struct turn *turn = list_entry(t->busy.next, struct turn, link);
        while (!list_empty(&turn->waits)) {
            struct turn_wait *wait = list_entry(turn->waits.next, struct turn_wait, link);
            leave(wait);
            wait->cb(wait, ERR_SHUTDOWN);
        }
        make_idle(turn);
    }
    while (!list_empty(&t->idle)) {
        forget(list_entry(t->idle.next, struct turn, link));
    }
    if (t->task.queued) {
        list_remove(&t->task.link);
    }
    mem_free(t);
}
