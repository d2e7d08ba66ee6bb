#include "unit/wal/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"

/* ---- entries: their bytes follow from shard, index and term
 * ------------------------------------------------------- */

struct test_block {
    struct wal_block block;
    uint8_t data[];
};

static void test_block_release(struct wal_block *block)
{
    free(container_of(block, struct test_block, block));
}

static size_t entry_bytes(uint64_t uid, uint64_t index, uint64_t term, size_t max)
{
    uint64_t key[3] = {uid, index, term};

    return max == 0 ? 0 : (size_t)(hash64(7, key, sizeof key) % max);
}

static void entry_fill(uint8_t *out, size_t len, uint64_t uid, uint64_t index, uint64_t term)
{
    for (size_t i = 0; i < len; i++) {
        out[i] = (uint8_t)(uid * 31 + index * 7 + term * 13 + i);
    }
}

static struct wal_entry entry_make(uint64_t uid, uint64_t index, uint64_t term, size_t max)
{
    size_t len = entry_bytes(uid, index, term, max);
    struct test_block *b = malloc(sizeof *b + len + 1);

    assert(b != NULL);
    b->block.refs = 1;
    b->block.release = test_block_release;
    entry_fill(b->data, len, uid, index, term);
    return (struct wal_entry){
        .term = term, .type = 1, .data = slice_of(b->data, len), .block = &b->block};
}

/* ---- digests
 * ------------------------------------------------------------------------------------------------------
 */

static uint64_t digest_log(const struct model_log *l)
{
    uint64_t words[8] = {l->uid,  l->prev_index, l->prev_term,           l->last_index,
                         l->term, l->voted_for,  l->checkpoint_sequence, l->checkpoint_index};
    uint64_t h = hash64(1, words, sizeof words);

    return hash64(h, &l->terms[l->prev_index + 1],
                  (size_t)(l->last_index - l->prev_index) * sizeof l->terms[0]);
}

/* A sum, so that the order of shards doesn't matter. */
static uint64_t digest_model(const struct model *m)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < MODEL_LOGS_MAX; i++) {
        sum += m->logs[i].uid != 0 ? digest_log(&m->logs[i]) : 0;
    }
    return sum;
}

static void step_done(struct model *m, struct wal *wal)
{
    m->steps++;
    assert(m->steps < MODEL_STEPS_MAX);
    m->digests[m->steps] = digest_model(m);
    m->positions[m->steps] = wal_position(wal);
}

struct reading {
    uint64_t sum;
    struct model *model; /* or NULL */
    size_t count;
};

static void read_log(void *arg, struct wal_log *log)
{
    struct reading *r = arg;
    struct model_log *l = calloc(1, sizeof *l);
    uint64_t index;

    assert(l != NULL);
    l->uid = wal_log_uid(log);
    l->prev_index = wal_log_prev_index(log);
    l->prev_term = wal_log_prev_term(log);
    l->last_index = wal_log_last_index(log);
    assert(l->last_index < MODEL_ENTRIES_MAX);
    wal_log_hard_state(log, &l->term, &l->voted_for);
    wal_log_checkpoint(log, &l->checkpoint_sequence, &l->checkpoint_index);
    for (index = l->prev_index + 1; index <= l->last_index;) {
        struct wal_entry e[16];
        size_t count;
        int rv = wal_log_read(log, index, e, 16, 1 << 20, &count);
        assert(rv == 0);
        assert(count > 0);
        for (size_t i = 0; i < count; i++, index++) {
            uint8_t *expected = malloc(e[i].data.len + 1);
            assert(expected != NULL);
            entry_fill(expected, e[i].data.len, l->uid, index, e[i].term);
            assert(e[i].type == 1);
            assert(e[i].term == wal_log_term(log, index));
            assert(e[i].data.len == 0 || memcmp(expected, e[i].data.data, e[i].data.len) == 0);
            free(expected);
            l->terms[index] = e[i].term;
            if (e[i].block != NULL) {
                wal_block_unref(e[i].block);
            }
        }
    }
    r->sum += digest_log(l);
    if (r->model != NULL) {
        assert(r->count < MODEL_LOGS_MAX);
        r->model->logs[r->count++] = *l;
        if (l->uid >= r->model->next_uid) {
            r->model->next_uid = l->uid + 1;
        }
    }
    free(l);
}

uint64_t model_digest_of(struct wal *wal)
{
    struct reading r = {0};

    wal_log_each(wal, read_log, &r);
    return r.sum;
}

long model_find(const struct model *m, uint64_t digest)
{
    for (size_t i = m->steps + 1; i > 0; i--) {
        if (m->digests[i - 1] == digest) {
            return (long)i - 1;
        }
    }
    return -1;
}

size_t model_durable_steps(const struct model *m, uint64_t position)
{
    size_t n = 0;

    while (n < m->steps && m->positions[n + 1] <= position) {
        n++;
    }
    return n;
}

void model_init(struct model *m, size_t entry_bytes_max)
{
    memset(m, 0, sizeof *m);
    m->next_uid = 100;
    m->next_term = 1;
    m->entry_bytes_max = entry_bytes_max;
}

void model_restart(struct model *m, struct wal *wal)
{
    struct reading r = {.model = m};

    memset(m->logs, 0, sizeof m->logs);
    wal_log_each(wal, read_log, &r);
    m->steps = 0;
    m->digests[0] = digest_model(m);
    m->positions[0] = wal_position(wal);
    m->next_term++;
}

/* ---- operations
 * ---------------------------------------------------------------------------------------------------
 */

bool model_create(struct model *m, struct wal *wal)
{
    struct wal_log *real;

    for (size_t i = 0; i < MODEL_LOGS_MAX; i++) {
        struct model_log *l = &m->logs[i];
        if (l->uid != 0) {
            continue;
        }
        if (wal_log_create(wal, m->next_uid, m->next_uid % 5, m->next_uid % 5 != 0, &real) != 0) {
            return false;
        }
        memset(l, 0, sizeof *l);
        l->uid = m->next_uid++;
        l->prev_index = l->last_index = l->uid % 5;
        l->prev_term = l->uid % 5 != 0;
        step_done(m, wal);
        return true;
    }
    return true;
}

bool model_append(struct model *m, struct wal *wal, struct model_log *l, size_t count)
{
    struct wal_entry entries[16];
    struct wal_log *real = wal_log_find(wal, l->uid);
    uint64_t before = wal_position(wal), position;
    int rv;

    assert(count <= 16);
    if (l->last_index + count >= MODEL_ENTRIES_MAX - 1) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        entries[i] = entry_make(l->uid, l->last_index + 1 + i, m->next_term, m->entry_bytes_max);
    }
    rv = wal_log_append(real, l->last_index + 1, entries, count, &position);
    if (rv == 0) {
        /* One step an entry: a crash may come between any two. */
        for (size_t i = 0; i < count; i++) {
            l->terms[++l->last_index] = m->next_term;
            step_done(m, wal);
            before += 40 + (entries[i].data.len + 7) / 8 * 8;
            m->positions[m->steps] = before;
        }
    }
    /* Hints that rode along stand somewhere between; counting them for the last entries is the safe
     * side. */
    for (size_t i = 0; rv == 0 && i < count; i++) {
        m->positions[m->steps - i] = position;
    }
    for (size_t i = 0; i < count; i++) {
        wal_block_unref(entries[i].block);
    }
    return rv == 0;
}

bool model_truncate(struct model *m, struct wal *wal, struct model_log *l, uint64_t index)
{
    if (index <= l->prev_index || index > l->last_index) {
        return true;
    }
    if (wal_log_truncate(wal_log_find(wal, l->uid), index, NULL) != 0) {
        return false;
    }
    l->last_index = index - 1;
    m->next_term++;
    step_done(m, wal);
    return true;
}

bool model_hard_state(struct model *m, struct wal *wal, struct model_log *l)
{
    m->next_term++;
    if (wal_log_set_hard_state(wal_log_find(wal, l->uid), m->next_term, m->next_term % 3, NULL) !=
        0) {
        return false;
    }
    l->term = m->next_term;
    l->voted_for = m->next_term % 3;
    step_done(m, wal);
    return true;
}

bool model_checkpoint(struct model *m, struct wal *wal, struct model_log *l, uint64_t keep_after)
{
    if (keep_after < l->prev_index || keep_after > l->last_index) {
        return true;
    }
    if (wal_log_mark_checkpoint(wal_log_find(wal, l->uid), l->checkpoint_sequence + 1,
                                l->last_index, keep_after, NULL) != 0) {
        return false;
    }
    l->checkpoint_sequence++;
    l->checkpoint_index = l->last_index;
    if (keep_after > l->prev_index) {
        l->prev_term = l->terms[keep_after];
        l->prev_index = keep_after;
    }
    step_done(m, wal);
    return true;
}

bool model_restart_log(struct model *m, struct wal *wal, struct model_log *l)
{
    uint64_t index = l->last_index + 3;

    if (index >= MODEL_ENTRIES_MAX - 1) {
        return true;
    }
    if (wal_log_restart(wal_log_find(wal, l->uid), index, m->next_term, NULL) != 0) {
        return false;
    }
    l->prev_index = l->last_index = index;
    l->prev_term = m->next_term;
    step_done(m, wal);
    return true;
}

bool model_drop(struct model *m, struct wal *wal, struct model_log *l)
{
    if (wal_log_drop(wal_log_find(wal, l->uid)) != 0) {
        return false;
    }
    l->uid = 0;
    step_done(m, wal);
    return true;
}

bool model_step(struct model *m, struct wal *wal, struct mem_env *env)
{
    struct model_log *l = &m->logs[mem_env_random(env, MODEL_LOGS_MAX)];
    uint64_t dice = mem_env_random(env, 100);
    struct wal_log *real;

    if (l->uid == 0) {
        return dice < 50 ? model_create(m, wal) : true;
    }
    real = wal_log_find(wal, l->uid);
    assert(real != NULL);
    if (dice < 60) {
        return model_append(m, wal, l, 1 + mem_env_random(env, dice < 10 ? 12 : 3));
    }
    if (dice < 70) {
        uint64_t span = l->last_index - l->prev_index;
        return model_truncate(m, wal, l,
                              l->last_index + 1 - mem_env_random(env, (span > 5 ? 5 : span) + 1));
    }
    if (dice < 80) {
        return model_hard_state(m, wal, l);
    }
    if (dice < 90) {
        uint64_t span = l->last_index - l->prev_index;
        wal_log_applied(real, l->last_index);
        return model_checkpoint(m, wal, l, l->prev_index + mem_env_random(env, span + 1));
    }
    if (dice < 96) {
        wal_log_set_commit_hint(real, l->last_index);
        return true;
    }
    return dice < 99 ? model_restart_log(m, wal, l) : model_drop(m, wal, l);
}
