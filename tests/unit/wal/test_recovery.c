/* A log cut at every byte, and with every single byte flipped: recovery comes to a state that the
 * log went through, not older than what is known to have been synced, or it says that the log is
 * damaged. Never anything else. */
#include "support/test.h"

#include "base/crc.h"
#include "unit/wal/fixture.h"
#include "wal/internal.h"

/* What data/version-1.log holds, in the history that write_log() makes. */
#define WAL_GOLDEN_RECORDS 178
#define WAL_GOLDEN_STEP    168
#define PADDING_STEP       61 /* of the zeroes behind a block's records every so many bytes */

struct subject {
    struct fixture f;     /* wrote the log; its files are what is damaged */
    struct mem_env other; /* where the damaged copy is opened */
    struct wal_scan scan; /* of the undamaged log */
    size_t synced_steps;  /* steps that are in the log below S */
    long opened, refused;
};

/* Three segments, all kinds of records, five shards; the tail is longer than what is known to be
 * synced. */
static void write_log(struct fixture *f, bool clean)
{
    struct model *m = &f->model;

    fixture_must_open(f);
    for (int i = 0; i < 5; i++) {
        assert_true(model_create(m, f->wal));
    }
    for (int round = 0; round < 22; round++) {
        for (int i = 0; i < 5; i++) {
            struct model_log *l = &m->logs[i];
            if (l->uid == 0) {
                continue;
            }
            assert_true(model_append(m, f->wal, l, 1 + (size_t)(round + i) % 3));
            if ((round + i) % 7 == 3) {
                assert_true(model_hard_state(m, f->wal, l));
                assert_true(model_truncate(m, f->wal, l, l->last_index));
            }
            if ((round + i) % 9 == 4) {
                wal_log_set_commit_hint(wal_log_find(f->wal, l->uid), l->last_index - 1);
                assert_true(model_checkpoint(m, f->wal, l, l->prev_index + 1));
            }
        }
        if (round == 9) {
            assert_true(model_restart_log(m, f->wal, &m->logs[2]));
            assert_true(model_drop(m, f->wal, &m->logs[3]));
        }
        mem_env_settle(&f->env);
    }
    if (clean) {
        fixture_stop(f);
    } else {
        fixture_abandon(f);
    }
}

/* Another life, at whose end a checkpoint of every shard is newer than all its entries. */
static void write_log_of_dead(struct fixture *f)
{
    struct model *m = &f->model;

    fixture_must_open(f);
    for (int round = 0; round < 40; round++) {
        assert_true(model_append(m, f->wal, &m->logs[round % 3], 2));
        mem_env_settle(&f->env);
    }
    for (int i = 0; i < 5; i++) {
        struct model_log *l = &m->logs[i];
        assert_true(l->uid == 0 || model_checkpoint(m, f->wal, l, l->last_index));
    }
    fixture_stop(f);
}

static void subject_init_scan(struct subject *s)
{
    mem_env_init(&s->other, 43);
    for (uint64_t id = 0; id < 64; id++) { /* less to copy each time */
        char path[WAL_PATH_BYTES];
        wal__spare_path("/d", id, path);
        (void)env_file_unlink(&s->f.env.env, path);
    }
    assert_int_equal(wal__scan_open(&s->scan, &s->f.env.env, "/d", 77, NULL), 0);
}

static void subject_init(struct subject *s, bool clean)
{
    memset(s, 0, sizeof *s);
    fixture_init(&s->f, 42);
    s->f.model.entry_bytes_max = 400;
    write_log(&s->f, clean);
    subject_init_scan(s);
    assert_true(s->scan.count >= 2);
}

static void subject_init_dead(struct subject *s)
{
    memset(s, 0, sizeof *s);
    fixture_init(&s->f, 42);
    s->f.model.entry_bytes_max = 400;
    write_log(&s->f, true);
    write_log_of_dead(&s->f);
    subject_init_scan(s);
}

static void subject_close(struct subject *s)
{
    wal__scan_close(&s->scan);
    mem_env_close(&s->other);
    fixture_close(&s->f);
}

/* Opens the damaged copy. Returns the step it came to, or -1 if it is refused as damaged. */
static long outcome(struct subject *s)
{
    struct wal_opts opts = s->f.opts;
    struct err_text e;
    struct wal *wal;
    uint64_t digest;
    long found;
    int rv;

    opts.on_durable = NULL;
    opts.on_failed = NULL;
    opts.on_pressure = NULL;
    e.text[0] = '\0';
    rv = wal_open(&s->other.env, &opts, &wal, &e);
    if (rv != 0) {
        assert_int_equal(rv, ERR_CORRUPT);
        assert_true(e.text[0] != '\0');
        s->refused++;
        return -1;
    }
    digest = model_digest_of(wal);
    found = model_find(&s->f.model, digest);
    if (found < 0) {
        fail_msg("recovered to a state that never was");
    }
    wal_abandon(wal);
    mem_env_drop_works(&s->other);
    s->opened++;
    return found;
}

/* Once more: recovery of what recovery left comes to the same state. */
static void again(struct subject *s, long found)
{
    assert_int_equal(outcome(s), found);
}

static struct mem_inode *copy_of(struct subject *s, size_t segment)
{
    char path[WAL_PATH_BYTES];
    struct mem_inode *file;

    mem_env_copy(&s->other, &s->f.env);
    wal__segment_path("/d", s->scan.segments[segment].header.sequence, path);
    file = mem_env_file(&s->other, path);
    assert_non_null(file);
    return file;
}

/* Number of steps whose records stand before this offset of the last segment, as an undamaged
 * prefix. */
static long steps_before(struct subject *s, uint64_t offset)
{
    struct wal_found *last = &s->scan.segments[s->scan.count - 1];
    char path[WAL_PATH_BYTES];
    struct mem_inode *file;
    struct wal_block_head head;
    uint64_t at = WAL_HEADER_BYTES, position = 0;

    wal__segment_path("/d", last->header.sequence, path);
    file = mem_env_file(&s->f.env, path);
    while (
        wal__block_check(slice_of(file->data + at, file->bytes - at), &last->header, at, &head) &&
        at + wal__round_up(head.bytes, WAL_ALIGN) <= offset) {
        position = head.position_end;
        at += wal__round_up(head.bytes, WAL_ALIGN);
    }
    return (long)model_durable_steps(&s->f.model, position);
}

/* A cut also takes away what was known to be synced behind it. */
static void judge(struct subject *s, size_t segment, uint64_t offset, bool cut)
{
    const struct wal_found *g = &s->scan.segments[segment];
    bool last = segment == s->scan.count - 1;
    long found = outcome(s);

    if (!last) {
        /* Below the next segment's opening block everything was synced; behind the end nothing
         * matters. */
        assert_true(offset < g->valid_bytes ? found == -1 : found == (long)s->f.model.steps);
    } else if (offset < WAL_HEADER_BYTES) {
        assert_int_equal(found, -1);
    } else if (!cut &&
               g->header.base + offset / WAL_ALIGN * WAL_ALIGN + WAL_ALIGN <= s->scan.synced_to) {
        assert_int_equal(found, -1);
    } else if (offset >= g->valid_bytes) {
        assert_int_equal(found, (long)s->f.model.steps);
    } else {
        assert_true(found >= steps_before(s, offset));
    }
    if (found >= 0 && offset % 16 == 0) {
        again(s, found);
    }
}

/* Offsets worth trying: each byte of a block's records, some of its padding. */
static uint64_t next_offset(const struct mem_inode *file, uint64_t offset)
{
    offset++;
    return offset < file->bytes && file->data[offset] == 0 && offset % WAL_ALIGN > 600
               ? offset + PADDING_STEP
               : offset;
}

static void every_flipped_byte_is_a_tear_or_reported(void **state)
{
    struct subject *s = calloc(1, sizeof *s);

    (void)state;
    subject_init(s, false);
    for (size_t i = 0; i < s->scan.count; i++) {
        uint64_t end = s->scan.segments[i].valid_bytes + 2 * WAL_ALIGN;
        /* Of older segments a sample: the rule for them is simpler, and there are many. */
        uint64_t step = i + 1 < s->scan.count ? 37 : 0;
        for (uint64_t at = 0; at < end;) {
            struct mem_inode *file = copy_of(s, i);
            uint64_t next = next_offset(file, at) + step;
            if (at >= file->bytes) {
                break;
            }
            file->data[at] ^= (uint8_t)(1u << (at % 8));
            judge(s, i, at, false);
            at = next;
        }
    }
    assert_true(s->opened > 100);
    assert_true(s->refused > 100);
    subject_close(s);
    free(s);
}

static void every_prefix_is_a_tear_or_reported(void **state)
{
    struct subject *s = calloc(1, sizeof *s);

    (void)state;
    subject_init(s, false);
    for (size_t i = 0; i < s->scan.count; i++) {
        uint64_t end = s->scan.segments[i].valid_bytes + WAL_ALIGN;
        uint64_t step = i + 1 < s->scan.count ? 37 : 0;
        for (uint64_t at = 0; at < end;) {
            struct mem_inode *file = copy_of(s, i);
            uint64_t next = next_offset(file, at) + step;
            if (at >= file->bytes) {
                break;
            }
            file->bytes = at;
            judge(s, i, at, true);
            at = next;
        }
    }
    assert_true(s->opened > 100);
    assert_true(s->refused > 100);
    subject_close(s);
    free(s);
}

static void all_damage_is_reported(struct subject *s)
{
    size_t last;
    uint64_t mark;

    last = s->scan.count - 1;
    mark = s->scan.segments[last].valid_bytes - WAL_ALIGN; /* the mark block, which says so */
    assert_int_equal(s->scan.synced_to, s->scan.segments[last].header.base + mark);
    for (uint64_t at = 0; at < mark; at += 17) {
        struct mem_inode *file = copy_of(s, last);
        file->data[at] ^= 0x10;
        assert_int_equal(outcome(s), -1);
    }
    /* Without its mark the log is still whole. */
    copy_of(s, last)->data[mark + 20] ^= 1;
    assert_int_equal(outcome(s), (long)s->f.model.steps);
}

static void after_a_clean_stop_all_damage_is_reported(void **state)
{
    struct subject *s = calloc(1, sizeof *s);

    (void)state;
    subject_init(s, true);
    all_damage_is_reported(s);
    subject_close(s);
    free(s);
}

/* Nothing that was written before is read again, and what is left for opening is as safe. */
static void a_clean_stop_with_nothing_alive_leaves_one_short_segment(void **state)
{
    struct subject *s = calloc(1, sizeof *s);

    (void)state;
    subject_init_dead(s);
    assert_int_equal(s->scan.count, 1);
    assert_int_equal(s->scan.segments[0].valid_bytes, WAL_HEADER_BYTES + 2 * WAL_ALIGN);
    all_damage_is_reported(s);
    subject_close(s);
    free(s);
}

static void a_missing_segment_is_reported(void **state)
{
    struct subject *s = calloc(1, sizeof *s);

    (void)state;
    subject_init(s, false);
    for (size_t i = 0; i + 1 < s->scan.count; i++) {
        char path[WAL_PATH_BYTES];
        mem_env_copy(&s->other, &s->f.env);
        wal__segment_path("/d", s->scan.segments[i].header.sequence, path);
        assert_int_equal(env_file_unlink(&s->other.env, path), 0);
        assert_int_equal(outcome(s), -1);
    }
    subject_close(s);
    free(s);
}

static void a_missing_newest_segment_is_reported_if_the_next_was_prepared(void **state)
{
    struct subject *s = calloc(1, sizeof *s);
    size_t last;
    char path[WAL_PATH_BYTES];

    (void)state;
    subject_init(s, false);
    last = s->scan.count - 1;
    wal__segment_path("/d", s->scan.segments[last].header.sequence + 1, path);
    assert_non_null(mem_env_file(&s->f.env, path));
    mem_env_copy(&s->other, &s->f.env);
    wal__segment_path("/d", s->scan.segments[last].header.sequence, path);
    assert_int_equal(env_file_unlink(&s->other.env, path), 0);
    assert_int_equal(outcome(s), -1);
    subject_close(s);
    free(s);
}

/* Wherever it ends between the halves of opening, or the power goes, nothing is lost. */
static void the_second_half_of_opening_may_come_later(void **state)
{
    struct fixture f;
    uint64_t digest;

    (void)state;
    fixture_init(&f, 43);
    write_log(&f, false);
    for (int halves = 0; halves < 4; halves++) {
        f.opts.begin_later = false;
        fixture_must_open(&f);
        digest = model_digest_of(f.wal);
        fixture_abandon(&f);
        f.opts.begin_later = true;
        fixture_must_open(&f);
        assert_int_equal(model_digest_of(f.wal), digest);
        if (halves > 0) {
            assert_int_equal(wal_begin(f.wal, &f.error), 0);
        }
        if (halves > 1) {
            assert_int_equal(wal_begun(f.wal), 0);
            assert_int_equal(model_digest_of(f.wal), digest);
        }
        if (halves == 3) {
            fixture_stop(&f);
        } else {
            fixture_abandon(&f);
        }
        mem_env_power_cut(&f.env, MEM_CUT_NOTHING);
        f.opts.begin_later = false;
        fixture_must_open(&f);
        assert_int_equal(model_digest_of(f.wal), digest);
        fixture_abandon(&f);
    }
    fixture_close(&f);
}

static void another_nodes_log_and_another_version_are_refused(void **state)
{
    struct subject *s = calloc(1, sizeof *s);
    struct wal_opts opts;
    struct wal *wal;
    struct mem_inode *file;
    struct err_text e = {{0}};
    uint8_t *data;

    (void)state;
    subject_init(s, false);
    mem_env_copy(&s->other, &s->f.env);
    opts = s->f.opts;
    opts.node_uid = 78;
    assert_int_equal(wal_open(&s->other.env, &opts, &wal, &e), ERR_WRONGCLUSTER);
    assert_non_null(strstr(e.text, "belongs to node"));

    file = copy_of(s, 0);
    data = file->data;
    store_u32(data + 12, WAL_VERSION + 1);
    store_u32(data + 8, crc32c(0, data + 12, WAL_HEADER_BYTES - 12));
    opts.node_uid = 77;
    assert_int_equal(wal_open(&s->other.env, &opts, &wal, &e), ERR_VERSION);
    subject_close(s);
    free(s);
}

/* Who had a log and finds none has lost it, and with it what stood in it: that isn't to begin anew.
 */
static void a_log_that_is_gone_is_told_from_a_new_one(void **state)
{
    struct fixture f;
    struct mem_env empty;
    struct wal_opts opts;
    struct wal *wal = NULL;
    struct err_text e = {{0}};

    (void)state;
    fixture_init(&f, 1);
    opts = f.opts;
    opts.existing = true;
    mem_env_init(&empty, 1);
    assert_int_equal(wal_open(&empty.env, &opts, &wal, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "is gone"));
    assert_null(wal);
    /* Nothing was made that would look like a log the next time. */
    assert_int_equal(wal_open(&empty.env, &opts, &wal, &e), ERR_CORRUPT);
    opts.existing = false;
    assert_int_equal(wal_open(&empty.env, &opts, &wal, &e), 0);
    wal_abandon(wal);
    mem_env_drop_works(&empty);
    opts.existing = true;
    assert_int_equal(wal_open(&empty.env, &opts, &wal, &e), 0);
    wal_abandon(wal);
    mem_env_drop_works(&empty);
    mem_env_close(&empty);
    fixture_close(&f);
}

struct dumped {
    size_t count;
    uint64_t last_offset;
    unsigned kinds;
};

static void on_dump(void *arg, const struct wal_dump_record *r)
{
    static const char *const names[] = {"entry",  "truncate", "hard-state", "checkpoint",
                                        "create", "restart",  "drop",       "commit",
                                        "mark",   "opening",  "restate"};
    struct dumped *d = arg;

    d->count++;
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        d->kinds |= strcmp(names[i], r->kind) == 0 ? 1u << i : 0;
    }
}

static void dump_shows_every_kind_and_changes_nothing(void **state)
{
    struct subject *s = calloc(1, sizeof *s);
    struct dumped all = {0}, some = {0};
    long ops;

    (void)state;
    subject_init(s, true);
    mem_env_copy(&s->other, &s->f.env);
    ops = s->other.handles;
    assert_int_equal(wal_dump(&s->other.env, "/d", on_dump, &all, NULL), 0);
    assert_int_equal(s->other.handles, ops);
    assert_int_equal(all.kinds, (1u << 11) - 1);
    for (size_t n = 0; n < MEM_ENV_FILES_MAX; n++) {
        struct mem_inode *i = s->other.names[n].inode;
        assert_true(i == NULL || i->write_count == 0);
    }
    char longest[WAL_DIR_BYTES_MAX + 2];
    struct err_text e = {""};
    memset(longest, 'd', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(wal_dump(&s->other.env, longest, on_dump, &some, &e), ERR_INVAL);
    assert_non_null(strstr(e.text, "at most 960 bytes"));
    copy_of(s, 1)->data[WAL_HEADER_BYTES + 2 * WAL_ALIGN + 100] ^= 1;
    assert_int_equal(wal_dump(&s->other.env, "/d", on_dump, &some, NULL), ERR_CORRUPT);
    assert_true(some.count > 10);
    assert_true(some.count < all.count);
    subject_close(s);
    free(s);
}

/* Whatever way it ended: with the next one prepared, or stopped and all of it written. */
static void missing_newest_segments_are_reported(void **state)
{
    (void)state;
    for (int way = 0; way < 3; way++) {
        struct subject *s = calloc(1, sizeof *s);
        struct dumped left = {0};
        char path[WAL_PATH_BYTES];
        if (way == 2) {
            subject_init_dead(s);
        } else {
            subject_init(s, way == 1);
        }
        mem_env_copy(&s->other, &s->f.env);
        uint64_t last = s->scan.segments[s->scan.count - 1].header.sequence;
        for (uint64_t sequence = last; sequence <= last + 1; sequence++) {
            wal__segment_path("/d", sequence, path);
            (void)env_file_unlink(&s->other.env, path);
        }
        assert_int_equal(outcome(s), -1);
        assert_int_equal(wal_dump(&s->other.env, "/d", on_dump, &left, NULL), ERR_CORRUPT);
        assert_true(left.count > 10 || s->scan.count == 1); /* what is there is shown */
        /* All of them: a log that never was would do. */
        for (size_t i = 0; i < s->scan.count; i++) {
            wal__segment_path("/d", s->scan.segments[i].header.sequence, path);
            (void)env_file_unlink(&s->other.env, path);
        }
        assert_int_equal(outcome(s), -1);
        subject_close(s);
        free(s);
    }
}

/* Torn while it is written, or of a directory that had none: the one before it, or nothing, is what
 * is known, and no log is refused for that. */
static void a_torn_word_of_the_newest_segment_refuses_nothing(void **state)
{
    struct subject *s = calloc(1, sizeof *s);

    (void)state;
    subject_init(s, false);
    mem_env_copy(&s->other, &s->f.env);
    long whole = outcome(s);
    assert_true(whole >= 0);
    for (unsigned slots = 1; slots <= 3; slots++) {
        mem_env_copy(&s->other, &s->f.env);
        struct mem_inode *file = mem_env_file(&s->other, "/d/newest");
        assert_non_null(file);
        for (unsigned i = 0; i < 2; i++) {
            if ((slots >> i & 1) != 0) {
                file->data[i * WAL_ALIGN + WAL_ALIGN - 1] ^= 1;
            }
        }
        assert_int_equal(outcome(s), whole);
    }
    mem_env_copy(&s->other, &s->f.env);
    assert_int_equal(env_file_unlink(&s->other.env, "/d/newest"), 0);
    assert_int_equal(outcome(s), whole);
    assert_non_null(mem_env_file(&s->other, "/d/newest"));
    subject_close(s);
    free(s);
}

/* WAL_GOLDEN_WRITE=path makes the recorded file anew: only for a new version of the format. */
static void golden_write(struct subject *s, const char *path)
{
    const struct wal_found *first = &s->scan.segments[0];
    struct mem_inode *file = copy_of(s, 0);
    FILE *out = fopen(path, "wb");

    assert_non_null(out);
    assert_int_equal(first->header.sequence, 1);
    assert_int_equal(fwrite(file->data, 1, first->valid_bytes, out), first->valid_bytes);
    assert_int_equal(fclose(out), 0);
}

static void a_recorded_file_of_version_1_opens_for_ever(void **state)
{
    struct subject *s = calloc(1, sizeof *s);
    static uint8_t bytes[64 << 10];
    struct mem_inode *file;
    struct dumped d = {0};
    FILE *in;
    size_t len;

    (void)state;
    subject_init(s, false);
    if (getenv("WAL_GOLDEN_WRITE") != NULL) {
        golden_write(s, getenv("WAL_GOLDEN_WRITE"));
    }
    in = fopen(WAL_TEST_DATA "/version-1.log", "rb");
    assert_non_null(in);
    len = fread(bytes, 1, sizeof bytes, in);
    assert_int_equal(fclose(in), 0);
    file = copy_of(s, 0);
    memcpy(file->data, bytes, len);
    file->bytes = len;
    for (uint64_t i = 2; i < 64; i++) { /* the prepared one too */
        char path[WAL_PATH_BYTES];
        wal__segment_path("/d", i, path);
        (void)env_file_unlink(&s->other.env, path);
    }
    (void)env_file_unlink(&s->other.env, "/d/newest"); /* there was none */
    assert_int_equal(wal_dump(&s->other.env, "/d", on_dump, &d, NULL), 0);
    assert_int_equal(d.count, WAL_GOLDEN_RECORDS);
    assert_int_equal(outcome(s), WAL_GOLDEN_STEP);
    subject_close(s);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flipped_byte_is_a_tear_or_reported),
        cmocka_unit_test(every_prefix_is_a_tear_or_reported),
        cmocka_unit_test(after_a_clean_stop_all_damage_is_reported),
        cmocka_unit_test(a_clean_stop_with_nothing_alive_leaves_one_short_segment),
        cmocka_unit_test(a_missing_segment_is_reported),
        cmocka_unit_test(a_missing_newest_segment_is_reported_if_the_next_was_prepared),
        cmocka_unit_test(missing_newest_segments_are_reported),
        cmocka_unit_test(a_torn_word_of_the_newest_segment_refuses_nothing),
        cmocka_unit_test(the_second_half_of_opening_may_come_later),
        cmocka_unit_test(another_nodes_log_and_another_version_are_refused),
        cmocka_unit_test(a_log_that_is_gone_is_told_from_a_new_one),
        cmocka_unit_test(dump_shows_every_kind_and_changes_nothing),
        cmocka_unit_test(a_recorded_file_of_version_1_opens_for_ever),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
