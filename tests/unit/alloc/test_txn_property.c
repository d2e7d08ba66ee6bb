/* Money moves between objects: by transactions that are prepared and decided later, by such of one
 * shard, by new objects and by freed ones, among plain commands, compaction and reclaiming. The sum
 * is the same at every time that can be read; two heaps, one of which is taken up again from its
 * pages now and then, stay equal byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "base/hlc.h"
#include "heap_model.h"
#include "txn_part.h"

#define NOTHING   slice_of(NULL, 0)
#define SESSION   9
#define OWN       7
#define ACCOUNTS  24
#define PENDING   12
#define EVER      20000
#define MONEY     1000u
#define KEEP_MS   50
#define BYTES_MAX (2 << 20)

struct pending {
    struct txn_name name;
    uint64_t p;
    uint64_t deadline;
    uint64_t born, freed; /* accounts, if it commits */
};

struct world {
    struct heap *heaps[2];
    uint64_t seed, index, ms, seq;
    uint64_t start; /* all accounts are there */
    uint64_t accounts[ACCOUNTS * 2];
    size_t account_count;
    uint64_t ever[EVER]; /* every account that there was */
    size_t ever_count;
    struct pending pending[PENDING];
    size_t pending_count;
    struct txn_name decided[PENDING];
    size_t decided_count;
    uint64_t yes, no, commits, aborts, pasts, reopened;
};

static uint64_t chance(struct world *w, uint64_t n)
{
    w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (w->seed >> 33) % n;
}

static void account_add(struct world *w, uint64_t ptr)
{
    assert_true(w->account_count < ACCOUNTS * 2 && w->ever_count < EVER);
    w->accounts[w->account_count++] = ptr;
    w->ever[w->ever_count++] = ptr;
}

static void account_remove(struct world *w, uint64_t ptr)
{
    for (size_t i = 0; i < w->account_count; i++) {
        if (w->accounts[i] == ptr) {
            w->accounts[i] = w->accounts[--w->account_count];
            return;
        }
    }
    fail();
}

static struct heap_outcome apply(struct world *w, struct heap_command c)
{
    struct heap_outcome out[2];
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(heap_apply(w->heaps[i], heap_next_version(w->heaps[i]), &c, &out[i]), 0);
    }
    assert_memory_equal(&out[0], &out[1], sizeof out[0]);
    return out[0];
}

static uint64_t money_of(const struct world *w, uint64_t ptr)
{
    uint64_t money = 0;
    assert_int_equal(heap_copy(w->heaps[0], ptr, 0, &money, sizeof money), 0);
    return money;
}

static uint64_t version_of(const struct world *w, uint64_t ptr)
{
    struct heap_object o;
    assert_int_equal(heap_stat(w->heaps[0], ptr, &o), 0);
    return o.version;
}

static void put_money(struct part *p, uint64_t ptr, const uint64_t *money)
{
    part_write(p, ptr, 0, slice_of(money, sizeof *money));
}

/* A transfer, a split or a merge, and sometimes a name. */
static void part_make(struct world *w, struct part *p, struct pending *t)
{
    uint64_t a = w->accounts[chance(w, w->account_count)];
    uint64_t b = w->accounts[chance(w, w->account_count)];
    uint64_t have_a = money_of(w, a);
    uint64_t have_b = money_of(w, b);
    uint64_t amount = chance(w, have_a + 1);
    uint64_t kind = chance(w, 4);
    uint64_t left = have_a - amount;
    uint64_t more = have_b + amount;
    part_begin(p, SESSION);
    t->born = t->freed = 0;
    part_check(p, a, version_of(w, a), TXN_EQUAL);
    if (kind == 0 && w->account_count + w->pending_count < ACCOUNTS) {
        uint64_t ptrs[2];
        uint64_t lease = 0;
        for (size_t i = 0; i < 2; i++) {
            if (heap_lease(w->heaps[i], SESSION, 1, &lease, &ptrs[i]) != 0) {
                return;
            }
        }
        assert_int_equal(ptrs[0], ptrs[1]);
        put_money(p, a, &left);
        part_alloc(p, ptrs[0], 8 + chance(w, 3000), slice_of(&amount, sizeof amount));
        t->born = ptrs[0];
    } else if (a != b) {
        part_check(p, b, version_of(w, b), TXN_EQUAL);
        if (kind == 1 && w->account_count > 4 + w->pending_count) {
            more = have_a + have_b;
            part_free(p, a);
            t->freed = a;
        } else {
            put_money(p, a, &left);
        }
        put_money(p, b, &more);
    }
    char name[8];
    int len = snprintf(name, sizeof name, "n%u", (unsigned)chance(w, 6));
    struct slice root = slice_of(name, (size_t)len);
    switch (chance(w, 6)) {
    case 0:
        part_root(p, root, b);
        break;
    case 1:
        part_root(p, root, 0);
        break;
    case 2:
        part_check_directory(p, heap_directory_version(w->heaps[0]));
        break;
    default:
        break;
    }
}

static void prepare(struct world *w)
{
    if (w->pending_count == PENDING) {
        return;
    }
    struct part p;
    struct pending *t = &w->pending[w->pending_count];
    struct txn_result r[2];
    const uint64_t participants[] = {3, OWN, 5};
    part_make(w, &p, t);
    t->name = (struct txn_name){.home = 3, .session = 4, .seq = ++w->seq};
    t->deadline = hlc_from_ms(w->ms + chance(w, 100));
    struct txn_prepare prepare = {.name = t->name,
                                  .deadline = t->deadline,
                                  .digest = w->seq,
                                  .participants = slice_of(participants, sizeof participants),
                                  .part = part_slice(&p)};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(
            txn_apply_prepare(w->heaps[i], heap_next_version(w->heaps[i]), &prepare, 0, &r[i]), 0);
    }
    assert_memory_equal(&r[0], &r[1], sizeof r[0]);
    if (r[0].answer == TXN_YES) {
        t->p = r[0].version;
        w->pending_count++;
        w->yes++;
    } else {
        w->no++;
    }
}

static void decide(struct world *w)
{
    if (w->pending_count == 0) {
        return;
    }
    size_t which = chance(w, w->pending_count);
    struct pending t = w->pending[which];
    w->pending[which] = w->pending[--w->pending_count];
    bool commit = chance(w, 3) != 0;
    uint64_t times[3] = {t.p + chance(w, 3), t.p, t.p - chance(w, 3)};
    if (chance(w, 8) == 0) {
        times[2] = heap_clock(w->heaps[0]) + chance(w, 5);
    }
    for (size_t i = 0; i < 2; i++) {
        struct txn_result r;
        bool committed = false;
        (void)heap_next_version(w->heaps[i]);
        int rv = commit ? txn_apply_commit(w->heaps[i], &t.name, t.name.seq,
                                           slice_of(times, sizeof times), &committed, &r)
                        : txn_apply_abort(w->heaps[i], &t.name, t.name.seq, t.deadline, &r);
        assert_int_equal(rv, 0);
        assert_int_equal(r.answer, TXN_APPLIED);
    }
    w->commits += commit;
    w->aborts += !commit;
    if (commit && t.born != 0) {
        account_add(w, t.born);
    }
    if (commit && t.freed != 0) {
        account_remove(w, t.freed);
    }
    if (commit && w->decided_count < PENDING) {
        w->decided[w->decided_count++] = t.name;
    }
}

static void transact(struct world *w)
{
    struct part p;
    struct pending t;
    part_make(w, &p, &t);
    struct heap_outcome out =
        apply(w, (struct heap_command){.kind = HEAP_COMMAND_TRANSACT, .data = part_slice(&p)});
    if (out.code == 0 && t.born != 0) {
        account_add(w, t.born);
    }
    if (out.code == 0 && t.freed != 0) {
        account_remove(w, t.freed);
    }
}

static void forget(struct world *w)
{
    for (size_t i = 0; i < 2; i++) {
        (void)heap_next_version(w->heaps[i]);
        assert_int_equal(txn_sweep_refused(w->heaps[i], 4), 0);
    }
    if (w->decided_count == 0) {
        return;
    }
    struct txn_result r[2];
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(txn_apply_forget(w->heaps[i], &w->decided[0], true, &r[i]), 0);
    }
    assert_int_equal(r[0].answer, r[1].answer);
    if (r[0].answer == TXN_APPLIED) {
        w->decided[0] = w->decided[--w->decided_count];
    }
}

static void plain(struct world *w)
{
    uint64_t a = w->accounts[chance(w, w->account_count)];
    struct heap_command c = {.kind = HEAP_COMMAND_ADD_U64, .ptr = a};
    switch (chance(w, 5)) {
    case 0:
        c = (struct heap_command){
            .kind = HEAP_COMMAND_REALLOC, .ptr = a, .size = 8 + chance(w, 3000)};
        break;
    case 1:
        c = (struct heap_command){
            .kind = HEAP_COMMAND_RECLAIM, .if_version = UINT64_MAX, .count = 20};
        break;
    case 2:
        c = (struct heap_command){.kind = HEAP_COMMAND_DEFRAG, .count = 20000};
        break;
    case 3:
        c = (struct heap_command){
            .kind = HEAP_COMMAND_ROOT_SET, .name = slice_of("n1", 2), .ptr = a};
        break;
    default:
        break;
    }
    (void)apply(w, c);
}

/* The sum as of `at` (0: now). */
static uint64_t sum(const struct world *w, uint64_t at)
{
    uint64_t total = 0;
    for (size_t i = 0; i < w->ever_count; i++) {
        uint64_t money = 0;
        int rv = at == 0 ? heap_copy(w->heaps[0], w->ever[i], 0, &money, sizeof money)
                         : heap_read_at(w->heaps[0], at, w->ever[i], 0, &money, sizeof money);
        assert_true(rv == 0 || rv == ERR_STALE || rv == ERR_NOTFOUND);
        total += rv == 0 ? money : 0;
    }
    return total;
}

static void look(struct world *w)
{
    assert_int_equal(sum(w, 0), ACCOUNTS / 2 * MONEY);
    struct txn_counts c;
    txn_count(w->heaps[0], &c);
    assert_int_equal(c.prepared, w->pending_count);
    uint64_t from = heap_safepoint(w->heaps[0]);
    from = from > w->start ? from : w->start;
    uint64_t to = heap_clock(w->heaps[0]);
    for (size_t i = 0; i < w->pending_count; i++) {
        assert_true(c.oldest_prepared_at <= w->pending[i].p);
        to = w->pending[i].p - 1 < to ? w->pending[i].p - 1 : to;
    }
    for (uint32_t i = 0; i < 3 && to >= from && w->ever_count < 400; i++) {
        assert_int_equal(sum(w, from + chance(w, to - from + 1)), ACCOUNTS / 2 * MONEY);
        w->pasts++;
    }
}

static void reopen(struct world *w)
{
    struct err_text e = {""};
    if (heap_check(w->heaps[0], &e) != 0) {
        fail_msg("%s", e.text);
    }
    model_equal(w->heaps[0], w->heaps[1]);
    struct heap *copy = model_copy(w->heaps[1]);
    heap_free(w->heaps[1]);
    w->heaps[1] = copy;
    w->reopened++;
    /* What nobody can read any more need not be asked for. */
    size_t kept = 0;
    for (size_t i = 0; i < w->ever_count; i++) {
        struct heap_change newest;
        size_t any = 0;
        if (heap_history(w->heaps[0], w->ever[i], 0, &newest, 1, &any) == 0) {
            w->ever[kept++] = w->ever[i];
        }
    }
    w->ever_count = kept;
}

static void step(struct world *w)
{
    w->index++;
    w->ms += chance(w, 3);
    for (size_t i = 0; i < 2; i++) {
        heap_begin(w->heaps[i], w->index, 1, hlc_from_ms(w->ms));
    }
    uint64_t kind = chance(w, 10);
    if (kind < 3) {
        prepare(w);
    } else if (kind < 6) {
        decide(w);
    } else if (kind < 7) {
        transact(w);
    } else if (kind < 8) {
        forget(w);
    } else {
        plain(w);
    }
    for (size_t i = 0; i < 2; i++) {
        heap_end(w->heaps[i]);
    }
}

static void money_is_neither_made_nor_lost(void **state)
{
    (void)state;
    static struct world w;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        memset(&w, 0, sizeof w);
        w.seed = seed;
        w.ms = 1000;
        w.index = 1;
        struct heap_opts opts = {
            .uid = OWN, .shard = 5, .bytes_max = BYTES_MAX, .retention_ms = KEEP_MS};
        for (size_t i = 0; i < 2; i++) {
            assert_int_equal(heap_create(&opts, &w.heaps[i]), 0);
            heap_begin(w.heaps[i], 1, 1, hlc_from_ms(w.ms));
        }
        uint64_t money = MONEY;
        for (size_t i = 0; i < ACCOUNTS / 2; i++) {
            account_add(&w, apply(&w, (struct heap_command){.kind = HEAP_COMMAND_ALLOC,
                                                            .size = 8,
                                                            .data = slice_of(&money, 8)})
                                .value);
        }
        w.start = heap_clock(w.heaps[0]);
        heap_end(w.heaps[0]);
        heap_end(w.heaps[1]);
        for (uint32_t i = 1; i <= 4000; i++) {
            step(&w);
            if (i % 7 == 0) {
                look(&w);
            }
            if (i % 61 == 0) {
                reopen(&w);
            }
        }
        assert_true(w.yes > 200 && w.no > 50 && w.commits > 100 && w.aborts > 50 && w.pasts > 300);
        reopen(&w);
        heap_free(w.heaps[0]);
        heap_free(w.heaps[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(money_is_neither_made_nor_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
