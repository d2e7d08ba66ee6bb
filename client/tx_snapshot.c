/* One version for all that a transaction reads, on every shard of its heaps (ADR 0007 §8): TX_HOLD
 * asks for the clocks, and TX_CLOSE brings all of them to the greatest and has history kept from
 * there on. All shards, not only those that will be read: any of them may have the greatest version
 * of a commit that was answered before the first read.
 *
 * Strict: writers are held off between the two, so that no commit gets a smaller version while
 * another, that was answered before it began, gets a greater one. Nothing is left to be undone when
 * it fails: holds end by themselves. */
#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define SNAPSHOT_TRIES    3
#define SNAPSHOT_PAUSE_US 2000u

bool sdk__tx_sees_one_time(const struct tx_set *set)
{
    return set->strict || (set->opts.isolation == CAIRN_SNAPSHOT && set->opts.read_at == 0);
}

int sdk__tx_only_reads(struct tx_set *set)
{
    if (!set->strict) {
        return 0;
    }
    set->turned = true;
    return sdk__fail(CAIRN_E_CONFLICT, "a transaction that only read when it ran before does "
                                       "more: it runs again");
}

/* A shard, and what has been asked of it. */
struct place {
    struct cairn_heap *heap;
    uint32_t shard;
    uint64_t hold;
    struct cairn_future *future;
};

struct snapshot {
    struct tx_set *set;
    struct place *places;
    uint32_t count;
    uint64_t at; /* the greatest clock */
};

/* ---- which shards ---- */

static bool came_before(const struct tx_set *set, const struct cairn_tx *part)
{
    list_for_each (it, &set->parts) {
        const struct cairn_tx *other = list_entry(it, struct cairn_tx, link);
        if (other == part) {
            return false;
        }
        if (other->heap->core->id == part->heap->core->id) {
            return true;
        }
    }
    return false;
}

static int places_open(struct snapshot *s)
{
    uint32_t count = 0;
    list_for_each (it, &s->set->parts) {
        count += list_entry(it, struct cairn_tx, link)->heap->core->count;
    }
    s->places = mem_zalloc(count * sizeof *s->places);
    if (s->places == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    list_for_each (it, &s->set->parts) {
        const struct cairn_tx *part = list_entry(it, struct cairn_tx, link);
        uint32_t shards = came_before(s->set, part) ? 0 : part->heap->core->count;
        for (uint32_t i = 0; i < shards; i++) {
            s->places[s->count++] = (struct place){.heap = part->heap, .shard = i};
        }
    }
    return 0;
}

/* ---- all of them at a time ---- */

static int prepare_hold(const struct snapshot *s, const struct place *p, struct core_call *call)
{
    return core_prepare_tx_hold(call, p->heap->core, p->shard, s->set->strict ? TX_HOLD_MS_MAX : 0);
}

static int prepare_close(const struct snapshot *s, const struct place *p, struct core_call *call)
{
    return core_prepare_tx_close(call, p->heap->core, p->shard, s->at, p->hold, TX_KEEP_MS);
}

typedef int (*prepare_fn)(const struct snapshot *s, const struct place *p, struct core_call *call);

static int ask(const struct snapshot *s, struct place *p, prepare_fn prepare)
{
    uint32_t left = sdk__tx_left_ms(s->set);
    if (left == 0) {
        return sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
    }
    struct cairn_future *f = sdk__future_new(p->heap);
    if (f == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    f->call.timeout_ms = left;
    return sdk__future_start(f, prepare(s, p, &f->call), &p->future);
}

/* Waits for what was asked, whatever became of the others. The first failure is said. */
static int ask_some(struct snapshot *s, uint32_t first, uint32_t end, prepare_fn prepare)
{
    uint32_t asked = first;
    int rv = 0;
    while (rv == 0 && asked < end) {
        rv = ask(s, &s->places[asked], prepare);
        asked += rv == 0;
    }
    for (uint32_t i = first; i < asked; i++) {
        struct place *p = &s->places[i];
        assert(p->future != NULL); /* ask() said so */
        int waited = cairn_future_wait(p->future, UINT32_MAX);
        const struct core_call *call = &p->future->call;
        if (waited == 0 && call->err == 0) {
            s->at = call->version > s->at ? call->version : s->at;
            p->hold = call->value;
        } else if (rv == 0) {
            rv = waited != 0 ? waited : sdk__fail(call->err, "%s", call->text);
        }
        cairn_future_free(p->future);
        p->future = NULL;
    }
    return rv;
}

/* ---- finding the time ---- */

/* Writers are held off at one shard first: it is there that readers wait for their turn. Asked all
 * at once, many readers would hold some shards each while they wait for others, until the holds are
 * over, and none of them would ever get through. */
static int hold_all(struct snapshot *s)
{
    uint32_t first = s->set->strict ? 1 : 0;
    int rv = first == 0 ? 0 : ask_some(s, 0, first, prepare_hold);
    return rv == 0 ? ask_some(s, first, s->count, prepare_hold) : rv;
}

/* TX_UNDECIDED: a hold was over, or its leader gone. SNAPSHOT_TOO_OLD: a heap that kept no history
 * does so from now on. INVAL: the shards' clocks are more than a second apart. INDOUBT: it may have
 * been closed, which does no harm. */
static bool is_for_another_try(int err)
{
    return err == CAIRN_E_TX_UNDECIDED || err == CAIRN_E_SNAPSHOT_TOO_OLD || err == CAIRN_E_INVAL ||
           err == CAIRN_E_INDOUBT;
}

static int find(struct snapshot *s, uint64_t *at)
{
    int rv = 0;
    for (int tries = 0; tries < SNAPSHOT_TRIES; tries++) {
        if (tries > 0) {
            sdk__pause_us(SNAPSHOT_PAUSE_US << tries);
        }
        s->at = 0;
        rv = hold_all(s);
        *at = s->at; /* answers to the closing are of later clocks */
        rv = rv == 0 ? ask_some(s, 0, s->count, prepare_close) : rv;
        if (rv == 0 || !is_for_another_try(rv)) {
            return rv;
        }
    }
    s->set->unfound = true;
    return sdk__fail(CAIRN_E_BUSY,
                     "no version was found that all shards can show (the last reason: %s)",
                     cairn_error_name(rv));
}

int sdk__tx_find_time(struct cairn_tx *tx)
{
    struct tx_set *set = tx->set;
    struct snapshot s = {.set = set};
    uint64_t at = 0;
    if (set->at != 0 || !sdk__tx_sees_one_time(set)) {
        return 0;
    }
    int rv = places_open(&s);
    if (rv == 0) {
        rv = find(&s, &at);
    }
    if (rv == 0) {
        assert(at != 0);
        set->at = at;
    }
    mem_free(s.places);
    return rv;
}
