/* Calls become entries, entries become durable, and then they are applied.
 *
 *   embed_run       checks, encodes into the heap's open batch (submit.c: those who don't wait)
 *   batch_next      batch -> log, when somebody wants it and no entry of the heap is on its way
 *   inline_work     one of those who wait writes and syncs the log for all (env_inline.c)
 *   embed__durable  entry -> arena, in log order, if that isn't done (ahead.c); outcomes to the
 *                   callers; the next batch
 *
 * Nothing is seen before it is durable (ahead.c), so a reader never sees what a crash would take
 * back.
 * Pmem mode knows no log: whoever has the lock applies what all callers have brought and commits it
 * with one drain. */
#include <stdio.h>
#include <string.h>

#include "alloc/ahead.h"
#include "base/assert.h"
#include "base/hlc.h"
#include "base/mem.h"
#include "embed/internal.h"

#define PM_BATCH_BYTES   ((size_t)256 << 10) /* a half of the journal holds many times of that */
#define PM_SLOTS_AHEAD   16u                 /* calls */
#define PM_OBJECTS_AHEAD 8u
#define BATCH_CALLS_MIN  8u
#define ROOM_POLL_NS     20000000u
#define SETTLE_POLL_NS   2000000u

/* ---- calls ---- */

static void record_of(const struct embedded_request *r, struct record *out)
{
    out->kind = (uint16_t)r->op;
    out->command = (struct heap_command){
        .kind = (unsigned)r->op < HEAP_COMMAND_KINDS ? (enum heap_command_kind)r->op
                                                     : (enum heap_command_kind)0,
        .type = r->type,
        .count = r->count,
        .session = r->session,
        .ptr = r->ptr,
        .expected_ptr = r->expected_ptr,
        .offset = r->offset,
        .size = r->size,
        .delta = r->delta,
        .if_version = r->if_version,
        .data = r->data,
        .expected = r->expected,
        .name = r->name,
    };
}

void embed__finish(struct embedded *db, struct embedded_call *call, int err, const char *text)
{
    assert(!call->finished);
    call->err = err;
    call->text = text;
    call->finished = true;
    if (call->copy != NULL) {
        mem_free(call->copy);
        call->copy = NULL;
    }
    for (struct inline_waiter *w = call->waiter; w != NULL; w = w->same) {
        inline_wake(w);
    }
    if (call->settled != NULL && !call->settled(call)) {
        return; /* its owner may have freed it */
    }
    if (call->done != NULL) {
        list_push_back(&db->finished, &call->link);
        embed__library_wake(db);
    }
}

void embed__library_wake(struct embedded *db)
{
    if (db->env.library_until_ns != 0) {
        (void)pthread_cond_signal(&db->env.library_wake);
    }
}

/* 0, or why no call on this heap can be served. */
int embed__admit(const struct embedded_heap *h, const char **text)
{
    const struct embedded *db = h->db;
    *text = NULL;
    if (db->failed != 0) {
        *text = db->fail_text;
        return db->failed;
    }
    if (db->closing) {
        *text = "the directory is being closed: open it again";
        return ERR_CANCELED;
    }
    if (h->dropped) {
        *text = "the heap was dropped: open another";
        return ERR_NOTFOUND;
    }
    return 0;
}

/* ---- batches ---- */

static void batch_release(struct wal_block *block)
{
    struct embed_batch *b = container_of(block, struct embed_batch, block);
    buf_close(&b->body);
    mem_free(b->calls);
    mem_free(b);
}

/* One as large as the last one was is likely: its memory is taken at once. */
static struct embed_batch *batch_new(size_t bytes)
{
    struct embed_batch *b = mem_zalloc(sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    b->block.refs = 1;
    b->block.release = batch_release;
    list_init(&b->link);
    if (buf_reserve(&b->body, bytes) != 0 || record_begin(&b->body) != 0) {
        wal_block_unref(&b->block);
        return NULL;
    }
    return b;
}

static int batch_room(struct embed_batch *b)
{
    if (b->count < b->room) {
        return 0;
    }
    uint32_t room = b->room == 0 ? BATCH_CALLS_MIN : 2 * b->room;
    struct embedded_call **calls = mem_realloc(b->calls, room * sizeof(struct embedded_call *));
    if (calls == NULL) {
        return ERR_NOMEM;
    }
    b->calls = calls;
    b->room = room;
    return 0;
}

static void batch_fail(struct embedded *db, struct embed_batch *b, int err, const char *text)
{
    for (uint32_t i = 0; i < b->count; i++) {
        struct embedded_call *call = b->calls[i];
        b->calls[i] = NULL;
        if (call != NULL) {
            embed__finish(db, call, err, text);
        }
    }
}

static void calls_fail(struct embedded *db, struct list *calls, int err, const char *text)
{
    while (!list_empty(calls)) {
        struct embedded_call *call = list_entry(calls->next, struct embedded_call, link);
        list_remove(&call->link);
        embed__finish(db, call, err, text);
    }
}

static uint64_t stamp_next(struct embedded *db)
{
    uint64_t now = hlc_from_ms(env_wall_us(embed_env(db)) / 1000u);
    if (now > db->stamp) {
        db->stamp = now; /* a clock that jumps back stops the stamps, it doesn't turn them */
    }
    return db->stamp;
}

/* The heap's oldest batch becomes the next entry of its log. Not before there is a segment for it:
 * one that can't be made must not leave in doubt what can still be refused. */
static void batch_next(struct embedded_heap *h)
{
    while (h->flying == NULL && h->wanted && !list_empty(&h->waiting)) {
        struct embed_batch *b = list_entry(h->waiting.next, struct embed_batch, link);
        if (wal_prepared(h->db->wal, b->body.len) != 0) {
            return; /* embed__go_on() */
        }
        list_remove(&b->link);
        h->waiting_bytes -= b->body.len;
        record_stamp(&b->body, stamp_next(h->db));
        struct wal_entry entry = {.term = h->term,
                                  .type = RECORD_ENTRY_TYPE,
                                  .data = slice_of(b->body.data, b->body.len),
                                  .block = &b->block};
        uint64_t index = wal_log_last_index(h->log) + 1;
        int rv = wal_log_append(h->log, index, &entry, 1, NULL);
        if (rv != 0) { /* nothing was appended */
            batch_fail(h->db, b, rv, NULL);
            wal_block_unref(&b->block);
            continue;
        }
        b->index = index;
        h->entry_bytes = b->body.len;
        h->log_bytes += embed__log_bytes(b->body.len);
        h->flying = b;
        list_push_back(&h->db->flying, &h->flying_link);
        embed__ahead_plan(h);
    }
    h->wanted = h->wanted && !list_empty(&h->waiting);
}

void embed__want(struct embedded_heap *h)
{
    h->wanted = true;
    batch_next(h);
}

void embed__go_on(struct embedded_heap *h)
{
    if (h->wanted) {
        batch_next(h);
    }
}

/* The batch that takes the next command. NULL: no memory. */
static struct embed_batch *batch_open(struct embedded_heap *h)
{
    struct embed_batch *b = embed__batch_that_takes(h);
    if (b != NULL) {
        return b;
    }
    b = batch_new(h->entry_bytes);
    if (b != NULL) {
        list_push_back(&h->waiting, &b->link);
        h->waiting_bytes += b->body.len;
    }
    return b;
}

int embed__enqueue(struct embedded_heap *h, struct embedded_call *call)
{
    if (h->waiting_bytes > EMBED_WAITING_BYTES_MAX) {
        return ERR_BUSY;
    }
    struct embed_batch *b = batch_open(h);
    if (b == NULL) {
        return ERR_NOMEM;
    }
    size_t before = b->body.len;
    int rv = batch_room(b);
    rv = rv == 0 ? record_append(&b->body, call->request) : rv;
    h->waiting_bytes += b->body.len - before;
    if (rv != 0) {
        if (b->count == 0) {
            h->waiting_bytes -= b->body.len;
            list_remove(&b->link);
            wal_block_unref(&b->block);
        }
        return rv;
    }
    call->ordinal = b->count;
    call->batch = b;
    b->calls[b->count++] = call;
    return 0;
}

void embed__apply_failed(struct embedded_heap *h, uint64_t index, int err)
{
    const char *damage;
    embed__fail(h->db, err, "entry %llu of heap %llu can't be applied: %s",
                (unsigned long long)index, (unsigned long long)h->uid,
                heap_damage(h->heap, &damage) != 0 ? damage : err_text_of(err));
}

static void entry_done(struct embedded_heap *h, uint64_t index)
{
    wal_log_applied(h->log, index);
    embed__watch_applied(h);
    embed__held_read(h);
    batch_next(h);
    embed__checkpoint_consider(h);
    embed__room_consider(h);
    if (h->checkpoint_wanted) { /* it was to begin while the heap was ahead */
        embed__checkpoint_run(h->db);
    }
}

void embed__durable(struct embedded *db)
{
    list_for_each_safe (it, next, &db->flying) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, flying_link);
        struct embed_batch *b = h->flying;
        if (db->failed != 0) {
            return;
        }
        if (wal_log_durable_index(h->log) < b->index) {
            continue;
        }
        h->flying = NULL;
        list_remove(&h->flying_link);
        int rv = 0;
        if (b->applied) {
            embed__calls_finish(db, b);
        } else {
            rv = embed__apply(h, b->index, h->term, slice_of(b->body.data, b->body.len), b->calls,
                              true);
        }
        if (rv != 0) {
            batch_fail(db, b, ERR_INDOUBT, "the directory failed");
            embed__apply_failed(h, b->index, rv);
        } else {
            entry_done(h, b->index);
        }
        wal_block_unref(&b->block);
    }
}

void embed__heap_settle(struct embedded_heap *h)
{
    struct embedded *db = h->db;
    for (;;) {
        struct inline_waiter waiter;
        if (db->mode == IMAGE_PMEM) {
            embed__pm_commit(h);
        }
        embed__want(h);
        embed__give_up(h);
        if (h->flying == NULL && list_empty(&h->waiting) && db->checkpointing != h &&
            !h->upkeep_busy) {
            return;
        }
        if (!inline_work(&db->env, INLINE_LOG | INLINE_DISK)) {
            (void)inline_wait(&db->env, &waiter, env_now_ns(embed_env(db)) + SETTLE_POLL_NS);
        }
    }
}

void embed__fail_calls(struct embedded_heap *h, int flying, int waiting, const char *text)
{
    if (h->flying != NULL) {
        batch_fail(h->db, h->flying, flying, text);
        wal_block_unref(&h->flying->block);
        h->flying = NULL;
        list_remove(&h->flying_link);
    }
    while (!list_empty(&h->waiting)) {
        struct embed_batch *b = list_entry(h->waiting.next, struct embed_batch, link);
        list_remove(&b->link);
        batch_fail(h->db, b, waiting, text);
        wal_block_unref(&b->block);
    }
    h->waiting_bytes = 0;
    h->wanted = false;
    embed__held_end(h, waiting, text);
}

void embed__give_up(struct embedded_heap *h)
{
    const char *text;
    embed__go_on(h);
    if (!h->wanted || h->flying != NULL || list_empty(&h->waiting)) {
        return;
    }
    struct embed_batch *b = list_entry(h->waiting.next, struct embed_batch, link);
    if (wal_prepared(h->db->wal, b->body.len) == ERR_DISKFULL &&
        embed__lack_of_room(h->db, &text) == ERR_DISKFULL) {
        embed__fail_calls(h, 0, ERR_DISKFULL, text);
    }
}

/* ---- pmem mode ---- */

void embed__pm_incoming(struct embedded_heap *h, struct embedded_call *call)
{
    (void)pthread_mutex_lock(&h->incoming_lock);
    list_push_back(&h->incoming, &call->link);
    (void)pthread_mutex_unlock(&h->incoming_lock);
}

/* Asks the memory for what `count` calls from `at` on will read; returns the one behind them. */
static struct list *pm_foresee(struct embedded_heap *h, struct list *calls, struct list *at,
                               uint32_t count, void (*ask)(const struct heap *heap, uint64_t ptr))
{
    for (; count > 0 && at != calls; count--, at = at->next) {
        uint64_t ptr = list_entry(at, struct embedded_call, link)->request->ptr;
        if (ptr != 0) {
            ask(h->heap, ptr);
        }
    }
    return at;
}

/* One entry: as many of `calls` as fit move to `applied`, with their outcomes. What they read is
 * asked for as in apply.c. */
static int pm_apply(struct embedded_heap *h, struct list *calls, struct list *applied)
{
    size_t bytes = 0;
    int rv = 0;
    struct list *second = calls->next->next;
    struct list *slots = pm_foresee(h, calls, second, PM_SLOTS_AHEAD, heap_foresee_slot);
    struct list *objects = pm_foresee(h, calls, second, PM_OBJECTS_AHEAD, heap_foresee_object);
    heap_begin(h->heap, heap_index(h->heap) + 1, h->term, stamp_next(h->db));
    while (rv == 0 && !list_empty(calls) && bytes < PM_BATCH_BYTES) {
        struct embedded_call *call = list_entry(calls->next, struct embedded_call, link);
        struct record record;
        struct heap_outcome outcome;
        list_remove(&call->link);
        list_push_back(applied, &call->link);
        record_of(call->request, &record);
        bytes += record_bytes(call->request);
        slots = pm_foresee(h, calls, slots, 1, heap_foresee_slot);
        objects = pm_foresee(h, calls, objects, 1, heap_foresee_object);
        uint64_t version = heap_next_version(h->heap);
        rv = embed__apply_one(h, version, &record, &outcome);
        embed__settle(call, &outcome, version);
    }
    heap_end(h->heap);
    return rv;
}

void embed__pm_commit(struct embedded_heap *h)
{
    struct list calls;
    list_init(&calls);
    (void)pthread_mutex_lock(&h->incoming_lock);
    list_splice(&calls, &h->incoming);
    (void)pthread_mutex_unlock(&h->incoming_lock);
    while (!list_empty(&calls)) {
        struct list applied;
        list_init(&applied);
        const char *text;
        int rv = embed__admit(h, &text);
        if (rv != 0) {
            calls_fail(h->db, &calls, rv, text);
            return;
        }
        rv = pm_apply(h, &calls, &applied);
        if (rv == 0) {
            rv = image_commit(h->image, h->heap);
        }
        if (rv != 0) {
            /* The arena is ahead of what is durable, and there is no way back to it. */
            embed__fail(h->db, rv, "commit %llu of heap %llu failed: %s",
                        (unsigned long long)heap_index(h->heap), (unsigned long long)h->uid,
                        err_text_of(rv));
            calls_fail(h->db, &applied, ERR_INDOUBT, h->db->fail_text);
        } else {
            embed__watch_applied(h);
        }
        while (!list_empty(&applied)) {
            struct embedded_call *call = list_entry(applied.next, struct embedded_call, link);
            list_remove(&call->link);
            embed__finish(h->db, call, call->err, NULL);
        }
    }
}

/* ---- who waits ---- */

uint64_t embed__deadline(struct embedded *db, uint32_t timeout_ms)
{
    return timeout_ms == UINT32_MAX ? UINT64_MAX
                                    : env_now_ns(embed_env(db)) + timeout_ms * UINT64_C(1000000);
}

/* A log that has outrun its checkpoints is waited for, and a segment that is being made; a full
 * disk isn't. */
static int room_wait(struct embedded_heap *h, const struct embedded_request *r, uint32_t timeout_ms,
                     const char **text)
{
    size_t bytes =
        RECORD_HEADER_BYTES + RECORD_FIXED_BYTES_MAX + r->data.len + r->expected.len + r->name.len;
    struct embedded *db = h->db;
    uint64_t deadline = embed__deadline(db, timeout_ms);
    *text = NULL;
    while (!embed__has_room(db) || wal_prepared(db->wal, bytes) != 0) {
        struct inline_waiter waiter;
        uint64_t poll = env_now_ns(embed_env(db)) + ROOM_POLL_NS;
        int rv = embed__lack_of_room(db, text);
        if (rv != ERR_BUSY) {
            return rv;
        }
        if (poll > deadline) {
            return ERR_TIMEOUT; /* nothing has happened */
        }
        if (db->checkpointing == NULL && !wal_has_room(db->wal)) {
            embed__checkpoint_want(h);
        }
        if (!inline_work(&db->env, INLINE_LOG)) {
            (void)inline_wait(&db->env, &waiter, poll);
        }
    }
    *text = NULL;
    return 0;
}

bool embed__call_sleep(struct embedded *db, struct embedded_call *call, uint64_t deadline_ns,
                       bool works)
{
    struct inline_waiter waiter = {.same = call->waiter};
    /* cppcheck-suppress autoVariables; it is taken out below */
    call->waiter = &waiter;
    bool in_time = works ? inline_wait(&db->env, &waiter, deadline_ns)
                         : inline_sleep(&db->env, &waiter, deadline_ns);
    struct inline_waiter **at = &call->waiter;
    while (*at != &waiter) {
        at = &(*at)->same;
    }
    *at = waiter.same;
    return in_time;
}

/* Its time has come. What is in the log already may happen yet, the rest is taken back. */
static void call_leaves(struct embedded_heap *h, struct embedded_call *call)
{
    struct embed_batch *b = call->batch;
    if (embed__is_read(call->request->op)) {
        list_remove(&call->link);
        embed__finish(h->db, call, ERR_TIMEOUT,
                      "the disk didn't answer in time; nothing has happened: try again");
        return;
    }
    if (b == h->flying) {
        b->calls[call->ordinal] = NULL;
        embed__finish(h->db, call, ERR_INDOUBT,
                      "the disk didn't answer in time: read, and find out whether it has happened");
        return;
    }
    h->waiting_bytes -= b->body.len;
    record_cut(&b->body, call->ordinal);
    h->waiting_bytes += b->body.len;
    b->count--;
    for (uint32_t i = call->ordinal; i < b->count; i++) {
        b->calls[i] = b->calls[i + 1];
        b->calls[i]->ordinal = i;
    }
    if (b->count == 0) {
        h->waiting_bytes -= b->body.len;
        list_remove(&b->link);
        wal_block_unref(&b->block);
    }
    embed__finish(h->db, call, ERR_TIMEOUT,
                  "the log had no place for it in time; nothing has happened: try again");
}

static void wait_finished(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms,
                          bool certain)
{
    struct embedded *db = h->db;
    uint64_t deadline = 0;
    while (!call->finished) {
        if (inline_work(&db->env, INLINE_LOG)) {
            continue;
        }
        if (deadline == 0) {
            deadline = embed__deadline(db, timeout_ms);
        }
        if (embed__call_sleep(db, call, deadline, true) || call->finished) {
            continue;
        }
        if (certain && call->batch == h->flying) {
            deadline = UINT64_MAX; /* the disk has it */
        } else {
            call_leaves(h, call);
        }
    }
}

static void run(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms,
                bool certain)
{
    struct embedded *db = h->db;
    const char *text;
    assert(call->done == NULL);
    call->finished = false;
    if (embed_is_foreign(db)) {
        call->err = ERR_CLOSED;
        call->text = "this process was forked from the one that opened the directory: open it here";
        call->finished = true;
        return;
    }
    bool pmem = db->mode == IMAGE_PMEM && !embed__is_read(call->request->op);
    if (pmem) {
        embed__pm_incoming(h, call);
    }
    inline_lock(&db->env);
    if (pmem) {
        if (!call->finished) {
            embed__pm_commit(h); /* this call, and those that came while the lock was taken */
        }
        assert(call->finished);
    } else {
        int rv = embed__admit(h, &text);
        if (rv == 0 && embed__is_read(call->request->op)) {
            if (embed__is_ahead(h)) {
                embed__hold(h, call);
            } else {
                embed__read(h, call);
            }
        } else {
            if (rv == 0) {
                rv = room_wait(h, call->request, timeout_ms, &text);
            }
            if (rv == 0) {
                rv = embed__admit(h, &text);
            }
            if (rv == 0) {
                rv = embed__enqueue(h, call);
            }
            if (rv == 0) {
                embed__want(h);
            } else {
                embed__finish(db, call, rv, text);
            }
        }
        wait_finished(h, call, timeout_ms, certain);
    }
    inline_unlock(&db->env);
}

void embed_run(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms)
{
    run(h, call, timeout_ms, false);
}

void embed__run_certain(struct embedded_heap *h, struct embedded_call *call, uint32_t timeout_ms)
{
    run(h, call, timeout_ms, true);
}
