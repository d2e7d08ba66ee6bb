/* The power goes at any file operation, again and again, and what was reported durable is there
 * each time. */
#include "support/test.h"
#include "unit/wal/fixture.h"

static void print_seed(uint64_t seed, const char *what)
{
    (void)fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, what);
}

/* Some turns of a life: random operations, works of either queue completing in any order, time
 * passing. */
static void live(struct fixture *f, size_t turns)
{
    for (size_t i = 0; i < turns && f->fail_calls == 0; i++) {
        size_t steps = (size_t)mem_env_random(&f->env, 6);
        for (size_t s = 0; s < steps; s++) {
            (void)model_step(&f->model, f->wal, &f->env);
        }
        mem_env_tasks(&f->env);
        for (uint64_t n = mem_env_random(&f->env, 4); n > 0; n--) {
            (void)mem_env_work_one(&f->env, (unsigned)mem_env_random(&f->env, ENV_QUEUE_COUNT));
        }
        if (mem_env_random(&f->env, 20) == 0) {
            mem_env_advance_ms(&f->env, mem_env_random(&f->env, 120));
        }
    }
}

/* Opens with the machine dying again during recovery, a few times, before it succeeds. */
static void recover(struct fixture *f, uint64_t seed)
{
    for (int tries = 0; tries < 3 && mem_env_random(&f->env, 2) == 0; tries++) {
        f->env.dies_at = f->env.ops + (long)mem_env_random(&f->env, 60);
        if (fixture_open(f) == 0) {
            fixture_abandon(f);
        } else if (strstr(f->error.text, "damaged") != NULL ||
                   strstr(f->error.text, "missing") != NULL) {
            print_seed(seed, f->error.text);
            fail();
        }
        if (mem_env_random(&f->env, 2) == 0) {
            mem_env_power_cut(&f->env, (enum mem_cut)mem_env_random(&f->env, 3));
        }
    }
    f->env.dies_at = -1;
    fixture_must_open(f);
}

static void one_seed(uint64_t seed)
{
    struct fixture *f = calloc(1, sizeof *f);
    long found;

    assert_non_null(f);
    fixture_init(f, seed);
    f->opts.direct = seed % 2 == 0;
    f->opts.cache_bytes = seed % 3 == 0 ? 1 : 64 << 10;
    fixture_must_open(f);
    for (int life = 0; life < 10; life++) {
        size_t durable;
        if (life > 0) {
            model_restart(&f->model, f->wal);
        } else {
            f->model.digests[0] = model_digest_of(f->wal);
        }
        if (mem_env_random(&f->env, 3) != 0) {
            f->env.dies_at = f->env.ops + (long)mem_env_random(&f->env, 400);
        }
        live(f, (size_t)mem_env_random(&f->env, mem_env_random(&f->env, 2) == 0 ? 100 : 5));
        durable = model_durable_steps(&f->model, f->durable);
        fixture_abandon(f);
        /* Or only the process dies: what wasn't synced is read back, and may be lost by the next
         * power cut. */
        if (mem_env_random(&f->env, 2) == 0) {
            mem_env_power_cut(&f->env, (enum mem_cut)mem_env_random(&f->env, 3));
        }
        recover(f, seed);
        found = model_find(&f->model, model_digest_of(f->wal));
        if (found < (long)durable) {
            print_seed(seed, "acknowledged records are lost, or the state never was");
            (void)fprintf(stderr, "life %d durable %zu of %zu, found %ld\n", life, durable,
                          f->model.steps, found);
        }
        assert_true(found >= (long)durable);
    }
    fixture_stop(f);
    assert_int_equal(f->close_err, 0);
    fixture_close(f);
    free(f);
}

static void power_loss_at_any_operation_loses_nothing_durable(void **state)
{
    const char *seed = getenv("WAL_SEED");
    const char *count = getenv("WAL_SEEDS");
    unsigned long n = count != NULL ? strtoul(count, NULL, 10) : 150;

    (void)state;
    if (seed != NULL) {
        one_seed(strtoull(seed, NULL, 10));
        return;
    }
    for (uint64_t i = 1; i <= n; i++) {
        one_seed(i);
    }
}

/* One life, stopped in an orderly way; the power goes `k` operations into that. Says if it did. */
static bool stop_cut_at(long k, enum mem_cut cut)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fixture_init(f, 5);
    fixture_must_open(f);
    f->model.digests[0] = model_digest_of(f->wal);
    for (int i = 0; i < 40; i++) {
        (void)model_step(&f->model, f->wal, &f->env);
        mem_env_settle(&f->env);
    }
    size_t durable = model_durable_steps(&f->model, f->durable);
    f->env.dies_at = f->env.ops + k;
    fixture_stop(f);
    bool died = f->env.ops > f->env.dies_at;
    f->env.dies_at = -1;
    mem_env_power_cut(&f->env, cut);
    fixture_must_open(f);
    assert_true(model_find(&f->model, model_digest_of(f->wal)) >= (long)durable);
    fixture_stop(f);
    fixture_close(f);
    free(f);
    return died;
}

/* The segment that was prepared gives way then, and nobody misses it. */
static void power_loss_at_any_operation_of_a_clean_stop_loses_nothing(void **state)
{
    (void)state;
    for (int cut = 0; cut < 3; cut++) {
        long k = 0;
        while (stop_cut_at(k, (enum mem_cut)cut)) {
            k++;
        }
        assert_true(k > 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_loss_at_any_operation_loses_nothing_durable),
        cmocka_unit_test(power_loss_at_any_operation_of_a_clean_stop_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
