/* Every allocation and every file operation fails in turn, once and for ever: a clean error or
 * success, no leak, and what was durable before is there afterwards. */
#include "base/mem.h"
#include "support/fault.h"
#include "support/test.h"
#include "unit/wal/fixture.h"

#define OPERATIONS_MAX 3000

struct sweep {
    struct mem_env seed; /* the directory each run begins with */
    struct fixture f;
    struct fault fault;
    size_t base_steps; /* of the model that wrote the seed */
    struct model base;
    size_t durable;
    bool opened;
    bool use_memory;
};

static void operate(struct sweep *s)
{
    struct fixture *f = &s->f;

    for (int i = 0; i < 12; i++) {
        struct model_log *l = &f->model.logs[i % 2];
        struct wal_log *log = wal_log_find(f->wal, l->uid);
        (void)model_append(&f->model, f->wal, l, 12);
        (void)model_hard_state(&f->model, f->wal, l);
        if (i % 3 == 2) {
            (void)model_truncate(&f->model, f->wal, l, l->last_index);
            wal_log_applied(log, l->last_index);
            (void)model_checkpoint(&f->model, f->wal, l, l->last_index - 1);
            wal_log_set_commit_hint(log, l->last_index);
        }
        mem_env_settle(&f->env);
    }
    (void)model_create(&f->model, f->wal);
    mem_env_advance_ms(&f->env, 1200);
}

/* Opens, works, stops. Whatever happens, nothing may crash; the outcome is judged afterwards. */
static int scenario(void *arg)
{
    struct sweep *s = arg;
    struct fixture *f = &s->f;
    int rv;

    f->wal = NULL;
    f->failed = 0;
    f->durable = 0;
    s->opened = false;
    s->durable = 0;
    rv = wal_open(&s->fault.env, &f->opts, &f->wal, &f->error);
    if (rv != 0) {
        return rv;
    }
    s->opened = true;
    f->durable = wal_durable_position(f->wal);
    operate(s);
    s->durable = model_durable_steps(&f->model, f->durable);
    fixture_stop(f);
    return f->close_err;
}

static void reset(struct sweep *s)
{
    mem_env_copy(&s->f.env, &s->seed);
    s->f.env.now_ns = 1000000000u;
    s->f.env.random_state = 5;
    s->f.model = s->base;
}

static void judge(struct sweep *s, int rv)
{
    struct fixture *f = &s->f;
    long found;

    if (rv == 0) {
        s->durable = f->model.steps;
    }
    fault_off(&s->fault);
    mem_env_settle(&f->env);
    fixture_must_open(f);
    found = model_find(&f->model, model_digest_of(f->wal));
    assert_true(found >= (long)(s->opened ? s->durable : s->base_steps));
    fixture_abandon(f);
}

/* A directory with two segments and a tail above S. */
static void sweep_init(struct sweep *s)
{
    struct fixture *f = &s->f;

    memset(s, 0, sizeof *s);
    fixture_init(f, 5);
    mem_env_init(&s->seed, 6);
    f->opts.cache_bytes = 1;
    f->opts.direct = false;
    fixture_must_open(f);
    assert_true(model_create(&f->model, f->wal));
    assert_true(model_create(&f->model, f->wal));
    for (int i = 0; i < 12; i++) {
        assert_true(model_append(&f->model, f->wal, &f->model.logs[i % 2], 12));
        mem_env_settle(&f->env);
    }
    fixture_abandon(f);
    mem_env_copy(&s->seed, &f->env);
    s->base = f->model;
    s->base_steps = f->model.steps;
    fault_init(&s->fault, &f->env.env);
    fault_off(&s->fault);
}

static void sweep_close(struct sweep *s)
{
    mem_env_close(&s->seed);
    fixture_close(&s->f);
}

static void sweep_files(int err, long repeat, int mask, bool torn)
{
    struct sweep *s = calloc(1, sizeof *s);
    long n;

    sweep_init(s);
    s->fault.torn = torn;
    for (n = 0; n < OPERATIONS_MAX; n++) {
        int rv;
        reset(s);
        fault_file(&s->fault, n, repeat, err, mask);
        rv = scenario(s);
        if (s->fault.hits == 0) {
            assert_int_equal(rv, 0);
            break;
        }
        fault_off(&s->fault);
        judge(s, rv);
    }
    assert_true(n > 10);
    assert_true(n < OPERATIONS_MAX);
    sweep_close(s);
    free(s);
}

static void each_file_operation_may_fail_once(void **state)
{
    (void)state;
    sweep_files(ERR_IO, 1, FAULT_ALL, false);
}

static void each_file_operation_may_be_the_last_that_works(void **state)
{
    (void)state;
    sweep_files(ERR_IO, -1, FAULT_ALL, false);
}

static void each_write_may_be_torn(void **state)
{
    (void)state;
    sweep_files(ERR_IO, 1, FAULT_WRITE, true);
}

static void the_disk_may_be_full_at_each_change(void **state)
{
    (void)state;
    sweep_files(ERR_DISKFULL, 1, FAULT_CHANGES, false);
    sweep_files(ERR_DISKFULL, -1, FAULT_CHANGES, false);
}

static void sweep_memory(long repeat)
{
    struct sweep *s = calloc(1, sizeof *s);
    long n;

    sweep_init(s);
    for (n = 0; n < OPERATIONS_MAX; n++) {
        long hits;
        int rv;
        reset(s);
        mem_fault(n, repeat);
        rv = scenario(s);
        hits = mem_fault_hits();
        mem_fault(0, 0);
        if (hits == 0) {
            assert_int_equal(rv, 0);
            break;
        }
        judge(s, rv);
    }
    assert_true(n > 10);
    assert_true(n < OPERATIONS_MAX);
    sweep_close(s);
    free(s);
}

static void each_allocation_may_fail_once(void **state)
{
    (void)state;
    sweep_memory(1);
}

static void each_allocation_may_be_the_last_that_works(void **state)
{
    (void)state;
    sweep_memory(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_file_operation_may_fail_once),
        cmocka_unit_test(each_file_operation_may_be_the_last_that_works),
        cmocka_unit_test(each_write_may_be_torn),
        cmocka_unit_test(the_disk_may_be_full_at_each_change),
        cmocka_unit_test(each_allocation_may_fail_once),
        cmocka_unit_test(each_allocation_may_be_the_last_that_works),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
