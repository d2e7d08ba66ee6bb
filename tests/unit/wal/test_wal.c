/* The log as its user sees it: positions, batches, reads, releases, space, failures. */
#include "support/fault.h"
#include "support/test.h"
#include "unit/wal/fixture.h"
#include "wal/internal.h"

static struct fixture *start(uint64_t seed)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    fixture_init(f, seed);
    return f;
}

static void finish(struct fixture *f)
{
    if (f->wal != NULL) {
        fixture_stop(f);
    }
    fixture_close(f);
    free(f);
}

static struct model_log *one_log(struct fixture *f)
{
    assert_true(model_create(&f->model, f->wal));
    for (int i = MODEL_LOGS_MAX; i-- > 0;) {
        if (f->model.logs[i].uid != 0) {
            return &f->model.logs[i];
        }
    }
    return NULL;
}

static void reopen_and_compare(struct fixture *f)
{
    uint64_t digest = f->model.digests[f->model.steps];

    fixture_must_open(f);
    assert_int_equal(model_digest_of(f->wal), digest);
}

static void a_turns_appends_become_one_write(void **state)
{
    struct fixture *f = start(1);
    struct model_log *l;
    struct wal_stats before, after;
    uint64_t position;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    mem_env_settle(&f->env);
    wal_stats(f->wal, &before);
    f->durable_calls = 0;
    for (int i = 0; i < 5; i++) {
        assert_true(model_append(&f->model, f->wal, l, 2));
    }
    position = wal_position(f->wal);
    assert_true(wal_durable_position(f->wal) < position);
    assert_int_equal(wal_log_durable_index(wal_log_find(f->wal, l->uid)), l->last_index - 10);
    mem_env_settle(&f->env);
    wal_stats(f->wal, &after);
    assert_int_equal(after.writes - before.writes, 1);
    assert_int_equal(f->durable_calls, 1);
    assert_int_equal(f->durable, position);
    assert_int_equal(wal_durable_position(f->wal), position);
    assert_int_equal(wal_log_durable_index(wal_log_find(f->wal, l->uid)), l->last_index);
    finish(f);
}

static void few_waiting_bytes_go_with_the_next_write(void **state)
{
    struct fixture *f = start(2);
    struct model_log *l;
    struct wal_stats s;
    uint64_t first;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 1));
    mem_env_tasks(&f->env); /* the first write starts: what made the log, and an entry */
    first = wal_position(f->wal);
    assert_true(model_append(&f->model, f->wal, l, 1));
    mem_env_tasks(&f->env);
    assert_true(model_append(&f->model, f->wal, l, 1));
    mem_env_tasks(&f->env);
    assert_int_equal(f->env.works_queued, 1 + 1); /* and the preparation of a segment */
    assert_true(mem_env_work_one(&f->env, ENV_QUEUE_LOG_0));
    assert_int_equal(wal_durable_position(f->wal), first);
    assert_true(mem_env_work_one(&f->env, ENV_QUEUE_LOG_1));
    assert_int_equal(wal_durable_position(f->wal), wal_position(f->wal));
    wal_stats(f->wal, &s);
    assert_int_equal(s.writes, 2);
    finish(f);
}

static void what_comes_behind_a_single_record_does_not_wait(void **state)
{
    struct fixture *f = start(2);
    struct model_log *l;
    struct wal_stats s;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    mem_env_tasks(&f->env); /* the first write starts: what made the log */
    for (int i = 0; i < 2; i++) {
        assert_true(model_append(&f->model, f->wal, l, 1));
        mem_env_tasks(&f->env);
        assert_int_equal(f->env.works_queued, 2 + 1); /* and the preparation of a segment */
    }
    mem_env_settle(&f->env);
    assert_int_equal(wal_durable_position(f->wal), wal_position(f->wal));
    wal_stats(f->wal, &s);
    assert_int_equal(s.writes, 3);
    finish(f);
}

static void durable_is_the_contiguous_prefix_when_the_second_write_is_first(void **state)
{
    struct fixture *f = start(3);
    struct model_log *l;

    (void)state;
    f->opts.segment_bytes = 1 << 20;
    f->model.entry_bytes_max = 16000;
    fixture_must_open(f);
    mem_env_settle(&f->env);
    l = one_log(f);
    mem_env_tasks(&f->env);
    for (int i = 0; i < 12; i++) {
        assert_true(model_append(&f->model, f->wal, l, 4));
    }
    mem_env_tasks(&f->env);
    assert_int_equal(f->env.works_queued, 2);
    f->durable = 0;
    assert_true(mem_env_work_one(&f->env, ENV_QUEUE_LOG_1));
    assert_int_equal(f->durable, 0);
    assert_true(mem_env_work_one(&f->env, ENV_QUEUE_LOG_0));
    assert_true(f->durable > 0);
    mem_env_settle(&f->env);
    assert_int_equal(f->durable, wal_position(f->wal));
    fixture_abandon(f);
    reopen_and_compare(f);
    finish(f);
}

static void a_completion_counts_only_for_the_copy_that_it_wrote(void **state)
{
    struct fixture *f = start(19);
    struct wal_entry e = {.term = 1, .type = 1};
    struct wal_log *log;

    (void)state;
    fixture_must_open(f);
    mem_env_settle(&f->env);
    assert_int_equal(wal_log_create(f->wal, 7, 0, 0, &log), 0);
    assert_int_equal(wal_log_append(log, 1, &e, 1, NULL), 0);
    mem_env_tasks(&f->env); /* in flight; now the same entry goes and comes again */
    assert_int_equal(wal_log_truncate(log, 1, NULL), 0);
    assert_int_equal(wal_log_append(log, 1, &e, 1, NULL), 0);
    mem_env_tasks(&f->env);
    assert_true(mem_env_work_one(&f->env, ENV_QUEUE_LOG_0));
    assert_int_equal(wal_log_durable_index(log), 0);
    mem_env_settle(&f->env);
    assert_int_equal(wal_log_durable_index(log), 1);
    finish(f);
}

static void state_of_every_kind_survives_a_restart(void **state)
{
    struct fixture *f = start(4);
    struct wal_log *log;
    struct model_log *l;
    uint64_t term, vote, sequence, index;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 9));
    assert_true(model_hard_state(&f->model, f->wal, l));
    assert_true(model_truncate(&f->model, f->wal, l, l->last_index - 2));
    assert_true(model_checkpoint(&f->model, f->wal, l, l->last_index - 3));
    wal_log_set_commit_hint(wal_log_find(f->wal, l->uid), l->last_index);
    assert_true(model_append(&f->model, f->wal, l, 2));
    fixture_stop(f);
    reopen_and_compare(f);
    log = wal_log_find(f->wal, l->uid);
    assert_non_null(log);
    assert_int_equal(wal_log_uid(log), l->uid);
    wal_log_hard_state(log, &term, &vote);
    assert_int_equal(term, l->term);
    assert_int_equal(vote, l->voted_for);
    wal_log_checkpoint(log, &sequence, &index);
    assert_int_equal(sequence, 1);
    assert_int_equal(index, l->checkpoint_index);
    assert_int_equal(wal_log_prev_index(log), l->prev_index);
    assert_int_equal(wal_log_prev_term(log), l->prev_term);
    assert_int_equal(wal_log_last_term(log), l->terms[l->last_index]);
    assert_int_equal(wal_log_commit_hint(log), l->last_index - 2);
    assert_int_equal(wal_log_durable_index(log), l->last_index);
    assert_null(wal_log_find(f->wal, 12345));
    finish(f);
}

static void misuse_is_answered(void **state)
{
    struct fixture *f = start(5);
    struct model_log *l;
    struct wal_log *log, *other;
    struct wal_entry e = {.term = 1, .type = 1};
    struct wal_entry out;
    struct wal *second;
    size_t count;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 5));
    log = wal_log_find(f->wal, l->uid);
    assert_int_equal(wal_open(&f->env.env, &f->opts, &second, NULL), ERR_LOCKED);
    assert_int_equal(wal_log_create(f->wal, l->uid, 0, 0, &other), ERR_EXISTS);
    assert_int_equal(wal_log_create(f->wal, 0, 0, 0, &other), ERR_INVAL);
    assert_int_equal(wal_log_truncate(log, l->prev_index, NULL), ERR_INVAL);
    assert_int_equal(wal_log_truncate(log, l->last_index + 1, NULL), 0);
    assert_int_equal(wal_log_mark_checkpoint(log, 1, l->last_index, l->last_index + 1, NULL),
                     ERR_INVAL);
    assert_int_equal(wal_log_read(log, l->prev_index, &out, 1, 100, &count), ERR_NOTFOUND);
    assert_int_equal(wal_log_read(log, l->last_index + 1, &out, 1, 100, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(wal_log_term(log, l->last_index + 1), 0);
    assert_int_equal(wal_log_term(log, l->prev_index), l->prev_term);
    e.data.len = 64 << 10; /* more than a quarter of a segment; never looked at */
    e.data.data = (const uint8_t *)&e;
    e.block = (struct wal_block *)&out;
    assert_int_equal(wal_log_append(log, l->last_index + 1, &e, 1, NULL), ERR_TOOBIG);
    e.data = slice_of(NULL, 0);
    e.block = NULL;
    assert_int_equal(wal_log_append(log, l->last_index + 1, &e, 1, NULL), 0);
    assert_int_equal(wal_log_last_index(log), l->last_index + 1);
    assert_int_equal(wal_log_truncate(log, l->last_index + 1, NULL), 0);
    finish(f);
}

static void too_many_shards_for_a_segment_are_refused(void **state)
{
    struct fixture *f = start(6);
    struct wal_log *log;
    uint64_t uid = 1;
    int rv = 0;

    (void)state;
    fixture_must_open(f);
    while (rv == 0 && uid < 1000) {
        rv = wal_log_create(f->wal, uid++, 0, 0, &log);
    }
    assert_int_equal(rv, ERR_LIMIT);
    assert_true(uid > 100);
    fixture_stop(f);
    fixture_must_open(f);
    finish(f);
}

static void entries_that_left_the_cache_are_read_back_and_verified(void **state)
{
    struct fixture *f = start(7);
    struct model_log *l, *k;
    struct wal_log *log;
    struct wal_entry out[64];
    struct wal_stats s;
    size_t count;

    (void)state;
    f->opts.cache_bytes = 1;
    fixture_must_open(f);
    l = one_log(f);
    k = one_log(f);
    for (int i = 0; i < 20; i++) {
        assert_true(model_append(&f->model, f->wal, l, 3));
        assert_true(model_append(&f->model, f->wal, k, 1));
        wal_log_applied(wal_log_find(f->wal, l->uid), l->last_index);
        wal_log_applied(wal_log_find(f->wal, k->uid), k->last_index);
        mem_env_settle(&f->env);
    }
    wal_stats(f->wal, &s);
    assert_int_equal(s.cached_bytes, 0);
    assert_int_equal(model_digest_of(f->wal), f->model.digests[f->model.steps]);
    log = wal_log_find(f->wal, l->uid);
    /* Limits hold: at least one entry, at most max, and not beyond the bytes. */
    assert_int_equal(wal_log_read(log, l->prev_index + 1, out, 64, 1, &count), 0);
    assert_int_equal(count, 1);
    wal_block_unref(out[0].block);
    assert_int_equal(wal_log_read(log, l->prev_index + 1, out, 2, 1 << 20, &count), 0);
    assert_int_equal(count, 2);
    wal_block_unref(out[0].block);
    wal_block_unref(out[1].block);
    finish(f);
}

static void not_applied_entries_stay_in_the_cache(void **state)
{
    struct fixture *f = start(8);
    struct model_log *l;
    struct wal_stats s;

    (void)state;
    f->opts.cache_bytes = 1;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 12));
    mem_env_settle(&f->env);
    wal_stats(f->wal, &s);
    assert_true(s.cached_bytes > 0);
    finish(f);
}

static void damage_under_a_read_kills_the_log(void **state)
{
    struct fixture *f = start(9);
    struct model_log *l;
    struct wal_entry out;
    struct mem_inode *file;
    size_t count;

    (void)state;
    f->opts.cache_bytes = 1;
    f->model.entry_bytes_max = 900;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 12));
    mem_env_settle(&f->env);
    wal_log_applied(wal_log_find(f->wal, l->uid), l->last_index);
    assert_true(model_append(&f->model, f->wal, l, 1));
    mem_env_settle(&f->env);
    file = mem_env_file(&f->env, "/d/0000000000000001.log");
    assert_non_null(file);
    for (size_t at = 8192; at < file->bytes; at += 64) {
        file->data[at] ^= 1;
    }
    assert_int_equal(
        wal_log_read(wal_log_find(f->wal, l->uid), l->prev_index + 1, &out, 1, 1, &count),
        ERR_CORRUPT);
    assert_int_equal(f->fail_calls, 0); /* never from inside the call */
    mem_env_settle(&f->env);
    assert_int_equal(f->fail_calls, 1);
    assert_int_equal(f->failed, ERR_CORRUPT);
    assert_int_equal(wal_log_set_hard_state(wal_log_find(f->wal, l->uid), 1, 1, NULL), ERR_IO);
    fixture_abandon(f);
    finish(f);
}

static void checkpoints_release_segments_oldest_first_and_files_are_recycled(void **state)
{
    struct fixture *f = start(10);
    struct model_log *l;
    struct wal_stats s;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    for (int i = 0; i < 300; i++) {
        assert_true(model_append(&f->model, f->wal, l, 2));
        if (i % 10 == 9) {
            assert_true(model_checkpoint(&f->model, f->wal, l, l->last_index - 3));
        }
        mem_env_settle(&f->env);
        wal_stats(f->wal, &s);
        assert_true(s.segments <= 3);
        assert_true(s.disk_bytes <= 7 * (64 << 10));
    }
    assert_true(wal_position(f->wal) > 4 * (64 << 10));
    fixture_abandon(f);
    reopen_and_compare(f);
    finish(f);
}

static void a_release_waits_for_its_mark_to_be_durable(void **state)
{
    struct fixture *f = start(11);
    struct model_log *l;
    struct wal_log *log;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 8));
    mem_env_settle(&f->env);
    log = wal_log_find(f->wal, l->uid);
    assert_int_equal(wal_log_mark_checkpoint(log, 1, l->last_index, l->last_index, NULL), 0);
    assert_int_equal(wal_log_prev_index(log), l->prev_index);
    mem_env_settle(&f->env);
    assert_int_equal(wal_log_prev_index(log), l->last_index);
    assert_int_equal(wal_log_last_index(log), l->last_index);
    finish(f);
}

static void an_idle_shards_entries_move_out_of_the_way(void **state)
{
    struct fixture *f = start(12);
    struct model_log *idle, *busy;
    struct wal_stats s;

    (void)state;
    fixture_must_open(f);
    idle = one_log(f);
    assert_true(model_append(&f->model, f->wal, idle, 3));
    busy = one_log(f);
    for (int i = 0; i < 400; i++) {
        assert_true(model_append(&f->model, f->wal, busy, 2));
        if (i % 8 == 7) {
            assert_true(model_checkpoint(&f->model, f->wal, busy, busy->last_index));
        }
        mem_env_settle(&f->env);
    }
    wal_stats(f->wal, &s);
    assert_true(s.segments <= WAL_RELOCATE_SEGMENTS + 1);
    assert_int_equal(model_digest_of(f->wal), f->model.digests[f->model.steps]);
    fixture_abandon(f);
    reopen_and_compare(f);
    finish(f);
}

static void a_pinning_shard_is_asked_for_a_checkpoint(void **state)
{
    struct fixture *f = start(13);
    struct model_log *l;

    (void)state;
    f->opts.disk_bytes_max = 8 * (64 << 10);
    fixture_must_open(f);
    l = one_log(f);
    for (int i = 0; i < 200 && wal_has_room(f->wal); i++) {
        assert_true(model_append(&f->model, f->wal, l, 4));
        mem_env_settle(&f->env);
    }
    assert_false(wal_has_room(f->wal)); /* disk_bytes_max is reached */
    mem_env_advance_ms(&f->env, 3100);
    assert_true(f->pressure_calls >= 3);
    assert_true(f->pressure_calls <= 4);
    assert_true(model_checkpoint(&f->model, f->wal, l, l->last_index));
    mem_env_settle(&f->env);
    assert_true(wal_has_room(f->wal));
    finish(f);
}

/* The places of entries: many between two checkpoints, few behind one. */
static void a_table_that_was_large_is_given_back(void **state)
{
    struct fixture *f = start(19);
    struct wal_log *log;
    uint64_t last = 0;

    (void)state;
    fixture_must_open(f);
    assert_int_equal(wal_log_create(f->wal, 77, 0, 0, &log), 0);
    for (uint64_t round = 1; round <= 3; round++) {
        while (log->count < 20000) {
            struct wal_entry entries[16];
            for (size_t i = 0; i < 16; i++) {
                entries[i] = (struct wal_entry){.term = 1, .type = 1};
            }
            assert_int_equal(wal_log_append(log, last + 1, entries, 16, NULL), 0);
            last += 16;
            mem_env_settle(&f->env);
        }
        assert_true(log->capacity >= 20000);
        for (uint64_t i = 0; i < 3; i++) { /* a quarter of it remains each time */
            assert_int_equal(wal_log_mark_checkpoint(log, round * 3 + i, last, last - 20 + i, NULL),
                             0);
            mem_env_settle(&f->env);
        }
        assert_int_equal(log->count, 18);
        assert_int_equal(log->capacity, WAL_ITEMS_KEPT);
        assert_int_equal(wal_log_last_index(log), last);
        assert_int_equal(wal_log_term(log, last - 17), 1);
    }
    finish(f);
}

static void a_full_disk_stalls_the_log_and_does_not_kill_it(void **state)
{
    struct fixture *f = start(14);
    struct model_log *l;
    size_t durable;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    mem_env_settle(&f->env);
    f->env.disk_bytes_max = 200 << 10; /* the three files that are there */
    for (int i = 0; i < 40; i++) {
        assert_true(model_append(&f->model, f->wal, l, 12));
        mem_env_settle(&f->env);
    }
    mem_env_advance_ms(&f->env, 1100);
    assert_false(wal_has_room(f->wal));
    assert_int_equal(f->fail_calls, 0);
    assert_true(wal_durable_position(f->wal) < wal_position(f->wal));
    durable = model_durable_steps(&f->model, f->durable);
    assert_true(durable > 20);
    f->env.disk_bytes_max = 0;
    mem_env_advance_ms(&f->env, 2500);
    assert_int_equal(wal_durable_position(f->wal), wal_position(f->wal));
    assert_true(wal_has_room(f->wal));
    fixture_stop(f);
    assert_int_equal(f->close_err, 0);
    reopen_and_compare(f);
    finish(f);
}

/* Who asks first leaves nothing in doubt: what has a place becomes durable, whatever the disk does.
 */
static void what_has_a_place_becomes_durable(void **state)
{
    struct fixture *f = start(18);
    struct model_log *l;
    int rv = 0;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    mem_env_settle(&f->env);
    f->env.disk_bytes_max = 200 << 10;                   /* the three files that are there */
    assert_int_equal(wal_prepared(f->wal, 1u << 30), 0); /* TOOBIG tells */
    for (int i = 0; i < 400; i++) {
        rv = wal_prepared(f->wal, 900 * 3);
        if (rv != 0) {
            break;
        }
        assert_true(model_append(&f->model, f->wal, l, 3));
        mem_env_settle(&f->env);
        assert_int_equal(wal_durable_position(f->wal), wal_position(f->wal));
    }
    assert_true(rv == ERR_BUSY || rv == ERR_DISKFULL);
    mem_env_advance_ms(&f->env, 1100);
    assert_int_equal(wal_prepared(f->wal, 900 * 3), ERR_DISKFULL);
    f->env.disk_bytes_max = 0;
    f->prepared_calls = 0;
    mem_env_advance_ms(&f->env, 2500);
    assert_int_equal(f->prepared_calls, 1);
    assert_int_equal(wal_prepared(f->wal, 900 * 3), 0);
    finish(f);
}

static void a_stop_on_a_full_disk_says_so(void **state)
{
    struct fixture *f = start(15);
    struct model_log *l;
    long found;
    size_t durable;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    f->env.disk_bytes_max = 1;
    for (int i = 0; i < 40; i++) {
        assert_true(model_append(&f->model, f->wal, l, 12));
        mem_env_settle(&f->env);
    }
    durable = model_durable_steps(&f->model, f->durable);
    fixture_stop(f);
    assert_int_equal(f->close_err, ERR_DISKFULL);
    f->env.disk_bytes_max = 0;
    fixture_must_open(f);
    found = model_find(&f->model, model_digest_of(f->wal));
    assert_true(found >= (long)durable);
    finish(f);
}

static void a_mark_follows_silence(void **state)
{
    struct fixture *f = start(16);
    struct model_log *l;
    struct wal_stats before, after;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 1));
    mem_env_settle(&f->env);
    wal_stats(f->wal, &before);
    mem_env_advance_ms(&f->env, 45);
    wal_stats(f->wal, &after);
    assert_int_equal(after.writes, before.writes);
    mem_env_advance_ms(&f->env, 60);
    wal_stats(f->wal, &after);
    assert_int_equal(after.writes, before.writes + 1);
    mem_env_advance_ms(&f->env, 5000);
    wal_stats(f->wal, &after);
    assert_int_equal(after.writes, before.writes + 1); /* once per silence */
    finish(f);
}

static void a_failed_write_or_sync_is_final(void **state)
{
    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        for (int sync = 0; sync < 2 - direct; sync++) {
            struct fixture *f = start(17);
            struct fault fault;
            struct model_log *l;
            size_t durable;
            long found;

            fault_init(&fault, &f->env.env);
            fault_off(&fault);
            f->opts.direct = direct;
            assert_int_equal(wal_open(&fault.env, &f->opts, &f->wal, &f->error), 0);
            f->model.digests[0] = model_digest_of(f->wal);
            l = one_log(f);
            assert_true(model_append(&f->model, f->wal, l, 3));
            mem_env_settle(&f->env);
            durable = model_durable_steps(&f->model, f->durable);
            assert_int_equal(durable, 4);
            assert_true(model_append(&f->model, f->wal, l, 3));
            fault_file(&fault, 0, 1, ERR_IO, sync ? FAULT_SYNC : FAULT_WRITE);
            mem_env_settle(&f->env);
            assert_int_equal(fault.hits, 1);
            assert_int_equal(f->fail_calls, 1);
            assert_int_equal(f->failed, ERR_IO);
            assert_false(wal_has_room(f->wal));
            assert_false(model_append(&f->model, f->wal, l, 1));
            assert_false(model_hard_state(&f->model, f->wal, l));
            mem_env_advance_ms(&f->env, 3000);
            assert_int_equal(f->fail_calls, 1);
            assert_int_equal(model_durable_steps(&f->model, f->durable), durable);
            if (direct) {
                fixture_abandon(f);
            } else {
                fixture_stop(f);
                assert_int_equal(f->close_err, ERR_IO);
            }
            fixture_must_open(f);
            found = model_find(&f->model, model_digest_of(f->wal));
            assert_true(found >= (long)durable);
            finish(f);
        }
    }
}

static void many_recoveries_in_a_row_do_not_grow_the_log(void **state)
{
    struct fixture *f = start(18);
    struct model_log *l;
    struct wal_stats s;

    (void)state;
    fixture_must_open(f);
    l = one_log(f);
    assert_true(model_append(&f->model, f->wal, l, 12));
    mem_env_settle(&f->env);
    for (int i = 0; i < 40; i++) {
        fixture_abandon(f);
        reopen_and_compare(f);
        mem_env_advance_ms(&f->env, 1100);
    }
    wal_stats(f->wal, &s);
    assert_true(s.segments <= WAL_RELOCATE_SEGMENTS + 1);
    finish(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turns_appends_become_one_write),
        cmocka_unit_test(few_waiting_bytes_go_with_the_next_write),
        cmocka_unit_test(what_comes_behind_a_single_record_does_not_wait),
        cmocka_unit_test(durable_is_the_contiguous_prefix_when_the_second_write_is_first),
        cmocka_unit_test(a_completion_counts_only_for_the_copy_that_it_wrote),
        cmocka_unit_test(state_of_every_kind_survives_a_restart),
        cmocka_unit_test(misuse_is_answered),
        cmocka_unit_test(too_many_shards_for_a_segment_are_refused),
        cmocka_unit_test(entries_that_left_the_cache_are_read_back_and_verified),
        cmocka_unit_test(not_applied_entries_stay_in_the_cache),
        cmocka_unit_test(damage_under_a_read_kills_the_log),
        cmocka_unit_test(checkpoints_release_segments_oldest_first_and_files_are_recycled),
        cmocka_unit_test(a_release_waits_for_its_mark_to_be_durable),
        cmocka_unit_test(an_idle_shards_entries_move_out_of_the_way),
        cmocka_unit_test(a_pinning_shard_is_asked_for_a_checkpoint),
        cmocka_unit_test(a_table_that_was_large_is_given_back),
        cmocka_unit_test(a_full_disk_stalls_the_log_and_does_not_kill_it),
        cmocka_unit_test(what_has_a_place_becomes_durable),
        cmocka_unit_test(a_stop_on_a_full_disk_says_so),
        cmocka_unit_test(a_mark_follows_silence),
        cmocka_unit_test(a_failed_write_or_sync_is_final),
        cmocka_unit_test(many_recoveries_in_a_row_do_not_grow_the_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
