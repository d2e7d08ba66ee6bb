/* The power goes at any file operation: what was written and not synced is there, gone, or torn.
 * What had been acknowledged is there after the next open, and the heap is sound.
 *
 * The disk is the log's test disk (unit/wal/mem_env), which knows one thread: a lock is put around
 * each of its functions. */
#include <pthread.h>
#include <time.h>

#include "support/test.h"
#include "unit/wal/mem_env.h"

#include "base/log.h"
#include "embed/internal.h"

enum { LIVES = 200, COUNTERS = 12, OPS_MAX = 160, STEPS = 60 };

static struct mem_env disk;
/* Recursive: who lists a directory may remove what it lists. */
static pthread_mutex_t disk_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define LOCKED(type, expression)                                                                   \
    (void)pthread_mutex_lock(&disk_lock);                                                          \
    type rv = (expression);                                                                        \
    (void)pthread_mutex_unlock(&disk_lock);                                                        \
    return rv

static int op_open(struct env *env, const char *path, int flags, struct env_file **out)
{
    (void)env;
    LOCKED(int, env_file_open(&disk.env, path, flags, out));
}
static void op_close(struct env_file *file)
{
    (void)pthread_mutex_lock(&disk_lock);
    env_file_close(&disk.env, file);
    (void)pthread_mutex_unlock(&disk_lock);
}
static int64_t op_pread(struct env_file *file, void *data, size_t len, uint64_t offset)
{
    LOCKED(int64_t, env_file_pread(&disk.env, file, data, len, offset));
}
static int op_pwrite(struct env_file *file, const void *data, size_t len, uint64_t offset)
{
    LOCKED(int, env_file_pwrite(&disk.env, file, data, len, offset));
}
static int op_sync(struct env_file *file)
{
    LOCKED(int, env_file_sync(&disk.env, file));
}
static int64_t op_size(struct env_file *file)
{
    LOCKED(int64_t, env_file_size(&disk.env, file));
}
static int op_truncate(struct env_file *file, uint64_t bytes)
{
    (void)file;
    (void)bytes;
    return ERR_UNSUPPORTED; /* nothing here shortens a file */
}
static int op_lock(struct env_file *file)
{
    LOCKED(int, env_file_lock(&disk.env, file));
}
static int op_dir_create(struct env *env, const char *path)
{
    (void)env;
    LOCKED(int, env_dir_create(&disk.env, path));
}
static int op_dir_remove(struct env *env, const char *path)
{
    (void)env;
    LOCKED(int, env_dir_remove(&disk.env, path));
}
static int op_dir_sync(struct env *env, const char *path)
{
    (void)env;
    LOCKED(int, env_dir_sync(&disk.env, path));
}
static int op_dir_list(struct env *env, const char *path, void (*cb)(void *arg, const char *name),
                       void *arg)
{
    (void)env;
    LOCKED(int, env_dir_list(&disk.env, path, cb, arg));
}
static int op_rename(struct env *env, const char *from, const char *to)
{
    (void)env;
    LOCKED(int, env_file_rename(&disk.env, from, to));
}
static int op_unlink(struct env *env, const char *path)
{
    (void)env;
    LOCKED(int, env_file_unlink(&disk.env, path));
}
static int op_disk_free(struct env *env, const char *path, uint64_t *bytes)
{
    (void)env;
    LOCKED(int, env_disk_free(&disk.env, path, bytes));
}

static const struct env_ops locked_ops = {
    .file_open = op_open,
    .file_close = op_close,
    .file_pread = op_pread,
    .file_pwrite = op_pwrite,
    .file_sync = op_sync,
    .file_size = op_size,
    .file_truncate = op_truncate,
    .file_lock = op_lock,
    .dir_create = op_dir_create,
    .dir_remove = op_dir_remove,
    .dir_sync = op_dir_sync,
    .dir_list = op_dir_list,
    .file_rename = op_rename,
    .file_unlink = op_unlink,
    .disk_free = op_disk_free,
};
static struct env locked = {&locked_ops, 1};

/* ---- what must be there ---- */

struct model {
    bool made; /* the heap's creation was acknowledged */
    uint64_t ptrs[COUNTERS];
    uint64_t values[COUNTERS]; /* acknowledged; 0: not allocated */
    bool doubt[COUNTERS];      /* one more may have happened */
    uint64_t acked;
};

static const struct embed_settings settings = {.dir = "db",
                                               .mode = EMBED_MODE_DISK,
                                               .segment_bytes = 1u << 20,
                                               .log_bytes_max = 16u << 20,
                                               .checkpoint_bytes = 64u << 10};

static int heap_of(struct embedded *db, struct model *m, struct embedded_heap **h)
{
    struct slice name = slice_of("h", 1);
    int rv = embed_heap_open(db, name, h, NULL);
    assert_true(rv == 0 || !m->made || db->failed != 0);
    if (rv == ERR_NOTFOUND) {
        rv = embed_heap_create(db, name, 2u << 20, 0, 30000, NULL);
        if (rv == 0) {
            m->made = true;
            rv = embed_heap_open(db, name, h, NULL);
        }
    }
    m->made = m->made || rv == 0;
    return rv;
}

/* ERR_IO: the power went before all was read. */
static int verify(struct embedded_heap *h, struct model *m)
{
    struct err_text e = {{0}};
    inline_lock(&h->db->env);
    int rv = heap_check(h->heap, &e);
    inline_unlock(&h->db->env);
    if (rv != 0) {
        assert_int_equal(rv, ERR_IO);
        return rv;
    }
    for (unsigned i = 0; i < COUNTERS; i++) {
        uint64_t value = 0;
        if (m->values[i] == 0) {
            /* Perhaps there, but then nobody was told where. */
            m->doubt[i] = false;
            continue;
        }
        struct embedded_call call = {
            .request = &(const struct embedded_request){
                .op = EMBEDDED_READ, .ptr = m->ptrs[i], .out = &value, .size = sizeof value}};
        embed_run(h, &call, 1000);
        assert_int_equal(call.err, 0);
        if (value != m->values[i]) {
            assert_true(m->doubt[i]);
            assert_int_equal(value, m->values[i] + 1);
        }
        m->values[i] = value;
        m->doubt[i] = false;
    }
    return 0;
}

static int step(struct embedded_heap *h, struct model *m)
{
    unsigned i = (unsigned)mem_env_random(&disk, COUNTERS);
    if (m->values[i] == 0) {
        static const uint64_t one = 1;
        struct embedded_call call = {
            .request = &(const struct embedded_request){.op = EMBEDDED_ALLOC,
                                                        .size = 8 + mem_env_random(&disk, 2000),
                                                        .data = slice_of(&one, sizeof one)}};
        embed_run(h, &call, 60000);
        if (call.err == 0) {
            m->ptrs[i] = call.value;
            m->values[i] = 1;
        }
        return call.err;
    }
    if (mem_env_random(&disk, 12) == 0) {
        struct embedded_call call = {
            .request = &(const struct embedded_request){.op = EMBEDDED_FREE, .ptr = m->ptrs[i]}};
        embed_run(h, &call, 60000);
        m->values[i] = 0; /* freed, or nothing is known of it */
        return call.err;
    }
    struct embedded_call call = {.request = &(const struct embedded_request){
                                     .op = EMBEDDED_ADD_U64, .ptr = m->ptrs[i], .delta = 1}};
    embed_run(h, &call, 60000);
    if (call.err == 0) {
        assert_int_equal(call.value, m->values[i]);
        m->values[i]++;
        m->acked++;
    } else {
        m->doubt[i] = true;
    }
    return call.err;
}

/* One life, until the power goes or it has had its steps. */
static void live(struct model *m, bool dies)
{
    struct embedded *db = NULL;
    struct embedded_heap *h = NULL;
    struct err_text e = {{0}};
    if (dies) {
        disk.dies_at = disk.ops + (long)mem_env_random(&disk, OPS_MAX);
    }
    struct embed_settings s = settings;
    s.ahead_calls_min = mem_env_random(&disk, 2) == 0 ? 1 : 0;
    int rv = embed_open(&s, &locked, &db, &e);
    if (rv != 0) {
        if (!dies || rv == ERR_CORRUPT) {
            print_error("%s: %s\n", err_name(rv), e.text);
        }
        assert_true(dies);
        assert_int_not_equal(rv, ERR_CORRUPT);
        return;
    }
    rv = heap_of(db, m, &h);
    if (rv == 0) {
        rv = verify(h, m);
    }
    for (unsigned i = 0; rv == 0 && i < STEPS; i++) {
        rv = step(h, m);
    }
    assert_true(rv == 0 || dies);
    if (mem_env_random(&disk, 2) == 0) {
        embed_close(db);
    } else {
        embed_abandon(db);
    }
}

static void the_power_may_go_at_any_operation(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    uint64_t seed = (uint64_t)time(NULL);
    struct model m = {0};
    print_message("seed %llu\n", (unsigned long long)seed);
    mem_env_init(&disk, seed);
    for (unsigned i = 0; i < LIVES; i++) {
        static const enum mem_cut cuts[] = {MEM_CUT_NOTHING, MEM_CUT_ALL, MEM_CUT_RANDOM,
                                            MEM_CUT_RANDOM};
        live(&m, i % 4 != 3);
        disk.dies_at = -1;
        mem_env_power_cut(&disk, cuts[mem_env_random(&disk, 4)]);
    }
    live(&m, false);
    print_message("%u power cuts, %llu steps acknowledged\n", (unsigned)LIVES,
                  (unsigned long long)m.acked);
    assert_true(m.acked > LIVES);
    mem_env_close(&disk);
}

/* ---- a heap that is to keep history ---- */

enum { HOUR_MS = 3600000, CREATE_OPS_MIN = 3 };

/* After the power cut: is the heap there? Then it keeps history. */
static bool born_whole(void)
{
    struct embedded *db = NULL;
    struct embedded_heap *h = NULL;
    struct err_text e = {{0}};
    int rv = embed_open(&settings, &locked, &db, &e);
    if (rv != 0) {
        print_error("%s: %s\n", err_name(rv), e.text);
    }
    assert_int_equal(rv, 0);
    rv = embed_heap_open(db, slice_of("h", 1), &h, NULL);
    assert_true(rv == 0 || rv == ERR_NOTFOUND);
    if (rv == 0) {
        inline_lock(&db->env);
        assert_int_equal(heap_retention_ms(h->heap), HOUR_MS);
        inline_unlock(&db->env);
    }
    embed_close(db);
    return rv == 0;
}

/* The power goes at the nth operation of a creation; false: it had fewer. */
static bool create_until(long n, enum mem_cut cut)
{
    struct embedded *db = NULL;
    mem_env_init(&disk, (uint64_t)n + 1);
    assert_int_equal(embed_open(&settings, &locked, &db, NULL), 0);
    disk.dies_at = disk.ops + n;
    int rv = embed_heap_create(db, slice_of("h", 1), 2u << 20, HOUR_MS, 30000, NULL);
    bool died = disk.ops > disk.dies_at;
    embed_abandon(db);
    disk.dies_at = -1;
    mem_env_power_cut(&disk, cut);
    bool there = born_whole();
    assert_true(there || rv != 0);
    if (there) { /* and so it stays: from the log, and from the checkpoint of the close before */
        assert_true(born_whole());
    }
    mem_env_close(&disk);
    return died;
}

static void a_heap_is_born_with_its_history_or_not_at_all(void **state)
{
    (void)state;
    static const enum mem_cut cuts[] = {MEM_CUT_NOTHING, MEM_CUT_ALL, MEM_CUT_RANDOM};
    log_set_level(LOG_OFF);
    for (unsigned i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        long n = 0;
        while (create_until(n, cuts[i])) {
            n++;
        }
        assert_true(n >= CREATE_OPS_MIN);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_power_may_go_at_any_operation),
        cmocka_unit_test(a_heap_is_born_with_its_history_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
