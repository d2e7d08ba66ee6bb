/* The test tools are tested too: a fault that never fires would make every sweep pass. */
#include "tests/support/test.h"

#include "base/env_uv.h"
#include "base/mem.h"
#include "tests/support/dir.h"
#include "tests/support/fault.h"

static struct env *env;
static struct dir dir;
static struct fault f;
static char path[DIR_PATH_BYTES];

static int setup(void **state)
{
    (void)state;
    dir_open(&dir);
    (void)dir_path(&dir, "file", path);
    if (env_uv_open(&env) != 0) {
        return -1;
    }
    fault_init(&f, env);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    env_uv_close(env);
    dir_close(&dir);
    return 0;
}

/* Five operations: open, write, sync, size, unlink. */
static int scenario(void)
{
    struct env_file *file;
    int rv = env_file_open(&f.env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    if (rv != 0) {
        return rv;
    }
    rv = env_file_pwrite(&f.env, file, "abc", 3, 0);
    if (rv == 0) {
        rv = env_file_sync(&f.env, file);
    }
    if (rv == 0) {
        int64_t size = env_file_size(&f.env, file);
        rv = size < 0 ? (int)size : 0;
    }
    env_file_close(&f.env, file);
    if (rv == 0) {
        rv = env_file_unlink(&f.env, path);
    }
    return rv;
}

static void sweep_meets_every_operation(void **state)
{
    (void)state;
    static const int expected[] = {FAULT_OPEN, FAULT_WRITE, FAULT_SYNC, FAULT_SIZE, FAULT_UNLINK};
    long n = 0;
    for (;; n++) {
        fault_file(&f, n, 1, ERR_DISKFULL, FAULT_ALL);
        int rv = scenario();
        fault_off(&f);
        (void)env_file_unlink(env, path);
        if (f.hits == 0) {
            assert_int_equal(rv, 0);
            break;
        }
        assert_int_equal(rv, ERR_DISKFULL);
        assert_int_equal(f.last_op, expected[n]);
    }
    assert_int_equal(n, 5);
}

static void mask_chooses_and_repeat_goes_on(void **state)
{
    (void)state;
    fault_file(&f, 0, -1, ERR_IO, FAULT_SYNC);
    assert_int_equal(scenario(), ERR_IO);
    assert_int_equal(env_file_unlink(&f.env, path), 0);
    assert_int_equal(scenario(), ERR_IO);
    assert_int_equal(env_file_unlink(&f.env, path), 0);
    assert_int_equal(f.hits, 2);
    assert_int_equal(f.count, 2);
    fault_off(&f);
    assert_int_equal(scenario(), 0);
    assert_int_equal(f.count, 5);
}

static void torn_write_leaves_the_first_half(void **state)
{
    (void)state;
    struct env_file *file;
    uint8_t data[4096];
    memset(data, 7, sizeof data);
    assert_int_equal(env_file_open(&f.env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file), 0);
    f.torn = true;
    fault_file(&f, 0, 1, ERR_IO, FAULT_WRITE);
    assert_int_equal(env_file_pwrite(&f.env, file, data, sizeof data, 0), ERR_IO);
    assert_int_equal(env_file_size(&f.env, file), 2048);
    env_file_close(&f.env, file);
}

static int memory_scenario(void *arg)
{
    (void)arg;
    void *a = mem_alloc(10);
    if (a == NULL) {
        return ERR_NOMEM;
    }
    void *b = mem_zalloc(10);
    if (b == NULL) {
        mem_free(a);
        return ERR_NOMEM;
    }
    mem_free(b);
    mem_free(a);
    return 0;
}

static void memory_check(void *arg, int rv)
{
    (*(long *)arg)++;
    assert_int_equal(rv, ERR_NOMEM);
}

static void memory_sweep_fails_each_allocation(void **state)
{
    (void)state;
    long checks = 0;
    assert_int_equal(fault_memory_sweep(memory_scenario, memory_check, &checks, 1, 100), 2);
    assert_int_equal(fault_memory_sweep(memory_scenario, memory_check, &checks, -1, 100), 2);
    assert_int_equal(checks, 4);
}

static void copied_directory_is_the_same(void **state)
{
    (void)state;
    char from[DIR_PATH_BYTES];
    char inner[DIR_PATH_BYTES + 8];
    char to[DIR_PATH_BYTES];
    (void)dir_path(&dir, "from", from);
    (void)dir_path(&dir, "to", to);
    assert_int_equal(env_dir_create(env, from), 0);
    assert_int_equal(env_dir_create(env, to), 0);
    (void)snprintf(inner, sizeof inner, "%.*s/sub", DIR_PATH_BYTES - 8, from);
    assert_int_equal(env_dir_create(env, inner), 0);
    (void)snprintf(inner, sizeof inner, "%.*s/sub/x", DIR_PATH_BYTES - 8, from);
    dir_file_write(inner, 0, "abc", 3);
    dir_file_flip(inner, 1, 1);
    dir_copy(from, to);
    (void)snprintf(inner, sizeof inner, "%.*s/sub/x", DIR_PATH_BYTES - 8, to);
    char data[3];
    dir_file_read(inner, 0, data, 3);
    assert_memory_equal(data, "acc", 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sweep_meets_every_operation, setup, teardown),
        cmocka_unit_test_setup_teardown(mask_chooses_and_repeat_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(torn_write_leaves_the_first_half, setup, teardown),
        cmocka_unit_test(memory_sweep_fails_each_allocation),
        cmocka_unit_test_setup_teardown(copied_directory_is_the_same, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
