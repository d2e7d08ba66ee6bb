#include "unit/wal/fixture.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"

static void on_durable(void *arg, uint64_t position)
{
    struct fixture *f = arg;

    assert(position > f->durable || f->durable == 0);
    f->durable = position;
    f->durable_calls++;
}

static void on_failed(void *arg, int err, const char *text)
{
    struct fixture *f = arg;

    assert(text[0] != '\0');
    f->failed = err;
    f->fail_calls++;
}

static void on_prepared(void *arg)
{
    struct fixture *f = arg;

    f->prepared_calls++;
}

static void on_pressure(void *arg, struct wal_log *log)
{
    struct fixture *f = arg;

    assert(log != NULL);
    f->pressure_calls++;
}

void fixture_init(struct fixture *f, uint64_t seed)
{
    log_set_level(LOG_OFF);
    memset(f, 0, sizeof *f);
    mem_env_init(&f->env, seed);
    model_init(&f->model, 900);
    f->opts.dir = "/d";
    f->opts.node_uid = 77;
    f->opts.segment_bytes = 64 << 10;
    f->opts.direct = true;
    f->opts.on_durable = on_durable;
    f->opts.on_failed = on_failed;
    f->opts.on_pressure = on_pressure;
    f->opts.on_prepared = on_prepared;
    f->opts.arg = f;
}

int fixture_open(struct fixture *f)
{
    int rv;

    f->durable = 0;
    f->failed = f->fail_calls = 0;
    f->error.text[0] = '\0';
    rv = wal_open(&f->env.env, &f->opts, &f->wal, &f->error);
    if (rv == 0) {
        f->durable = wal_durable_position(f->wal);
        assert(f->durable == wal_position(f->wal));
    }
    return rv;
}

void fixture_must_open(struct fixture *f)
{
    int rv = fixture_open(f);

    if (rv != 0) {
        (void)fprintf(stderr, "wal_open: %s: %s\n", err_name(rv), f->error.text);
    }
    assert(rv == 0);
}

void fixture_abandon(struct fixture *f)
{
    wal_abandon(f->wal);
    f->wal = NULL;
    mem_env_drop_works(&f->env);
}

static void on_closed(void *arg, int err)
{
    struct fixture *f = arg;

    f->close_calls++;
    f->close_err = err;
}

void fixture_stop(struct fixture *f)
{
    f->close_calls = 0;
    wal_close(f->wal, on_closed, f);
    assert(f->close_calls == 0);
    mem_env_settle(&f->env);
    assert(f->close_calls == 1);
    f->wal = NULL;
}

void fixture_close(struct fixture *f)
{
    mem_env_close(&f->env);
}
