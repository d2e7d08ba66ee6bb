/* A log in memory with its model, its callbacks and the usual ways to end it. */
#ifndef CAIRN_TESTS_UNIT_WAL_FIXTURE_H
#define CAIRN_TESTS_UNIT_WAL_FIXTURE_H

#include "unit/wal/model.h"

struct fixture {
    struct mem_env env;
    struct model model;
    struct wal *wal;
    struct wal_opts opts;
    struct err_text error;
    uint64_t durable; /* as reported */
    int failed, fail_calls;
    int durable_calls;
    int pressure_calls;
    int prepared_calls;
    int close_calls, close_err;
};

void fixture_init(struct fixture *f,
                  uint64_t seed);    /* segments of 64 KiB, entries up to 900 bytes */
int fixture_open(struct fixture *f); /* f->wal, or an error */
void fixture_must_open(struct fixture *f);
void fixture_abandon(struct fixture *f); /* as a crash of the process: nothing more is written */
void fixture_stop(struct fixture *f);    /* a clean stop */
void fixture_close(struct fixture *f);

#endif
