/* The identity file: what was stored is loaded, damage is found, a crash leaves the old or the new
 * one. */
#include <unistd.h>

#include "base/env_uv.h"
#include "node/identity.h"
#include "support/dir.h"
#include "support/fault.h"
#include "support/test.h"

#define IDENTITY_BYTES 256

static struct dir dir;
static struct env *env;
static struct err_text e;

static int setup(void **state)
{
    (void)state;
    dir_open(&dir);
    memset(&e, 0, sizeof e);
    return env_uv_open(&env);
}

static int teardown(void **state)
{
    (void)state;
    env_uv_close(env);
    dir_close(&dir);
    return 0;
}

static struct identity member(void)
{
    struct identity id = {.state = IDENTITY_MEMBER,
                          .number = 2,
                          .node_uid = 0x1122334455667788,
                          .cluster_id = 0xaabbccddeeff0011,
                          .replica_id = 77,
                          .founding = true};
    id.roster.count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        id.roster.nodes[i].number = i + 1;
        id.roster.nodes[i].node_uid = 1000 + i;
    }
    return id;
}

static void equal(const struct identity *a, const struct identity *b)
{
    assert_int_equal(a->state, b->state);
    assert_int_equal(a->number, b->number);
    assert_int_equal(a->node_uid, b->node_uid);
    assert_int_equal(a->cluster_id, b->cluster_id);
    assert_int_equal(a->replica_id, b->replica_id);
    assert_int_equal(a->founding, b->founding);
    assert_int_equal(a->roster.count, b->roster.count);
    for (uint32_t i = 0; i < a->roster.count; i++) {
        assert_int_equal(a->roster.nodes[i].number, b->roster.nodes[i].number);
        assert_int_equal(a->roster.nodes[i].node_uid, b->roster.nodes[i].node_uid);
    }
}

static void what_is_stored_is_loaded(void **state)
{
    (void)state;
    struct identity fresh = {.number = 3, .node_uid = 5};
    struct identity full = member();
    struct identity out;
    full.roster.count = NODES_MAX;
    for (uint32_t i = 0; i < NODES_MAX; i++) {
        full.roster.nodes[i].number = 255 - i;
        full.roster.nodes[i].node_uid = UINT64_MAX - i;
    }
    const struct identity *cases[] = {&fresh, &full};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(identity_store(env, dir.path, cases[i], &e), 0);
        assert_int_equal(identity_load(env, dir.path, &out, &e), 0);
        equal(cases[i], &out);
    }
}

static void an_empty_directory_has_none(void **state)
{
    (void)state;
    struct identity out;
    assert_int_equal(identity_load(env, dir.path, &out, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "identity"));
}

static void damage_at_any_byte_is_found(void **state)
{
    (void)state;
    struct identity id = member();
    struct identity out;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "identity", path);
    assert_int_equal(identity_store(env, dir.path, &id, &e), 0);
    assert_int_equal(dir_file_size(path), IDENTITY_BYTES);
    for (uint64_t at = 0; at < IDENTITY_BYTES; at++) {
        for (uint8_t bit = 0; bit < 8; bit++) {
            dir_file_flip(path, at, (uint8_t)(1u << bit));
            assert_int_equal(identity_load(env, dir.path, &out, &e), ERR_CORRUPT);
            assert_non_null(strstr(e.text, "is damaged"));
            dir_file_flip(path, at, (uint8_t)(1u << bit));
        }
    }
    assert_int_equal(identity_load(env, dir.path, &out, &e), 0);
    equal(&id, &out);
}

static void a_file_cut_anywhere_is_found(void **state)
{
    (void)state;
    struct identity id = member();
    struct identity out;
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "identity", path);
    assert_int_equal(identity_store(env, dir.path, &id, &e), 0);
    for (uint64_t bytes = IDENTITY_BYTES; bytes-- > 0;) {
        dir_file_truncate(path, bytes);
        assert_int_equal(identity_load(env, dir.path, &out, &e), ERR_CORRUPT);
    }
}

/* What a crash between creating identity.new and renaming it leaves: the old identity counts, and
 * the next store isn't hindered. */
static void a_crash_before_the_rename_leaves_the_old_one(void **state)
{
    (void)state;
    struct identity old = {.number = 2, .node_uid = 9};
    struct identity id = member();
    struct identity out;
    char path[DIR_PATH_BYTES];
    assert_int_equal(identity_store(env, dir.path, &old, &e), 0);
    dir_path(&dir, "identity.new", path);
    dir_file_write(path, 0, "half of it", 10);
    assert_int_equal(identity_load(env, dir.path, &out, &e), 0);
    equal(&old, &out);
    assert_int_equal(identity_store(env, dir.path, &id, &e), 0);
    assert_int_equal(identity_load(env, dir.path, &out, &e), 0);
    equal(&id, &out);
    assert_int_equal(dir_file_size(path), -1);
}

/* Every file operation fails in turn: an error, or the new identity; never anything else. */
static void a_failing_operation_leaves_the_old_or_the_new_one(void **state)
{
    (void)state;
    struct fault f;
    struct identity out;
    long runs = 0;
    fault_init(&f, env);
    for (long n = 0;; n++) {
        struct identity old = {.number = 2, .node_uid = 9};
        struct identity id = member();
        assert_int_equal(identity_store(env, dir.path, &old, &e), 0);
        fault_file(&f, n, 1, ERR_IO, FAULT_ALL);
        int rv = identity_store(&f.env, dir.path, &id, &e);
        fault_off(&f);
        assert_int_equal(identity_load(env, dir.path, &out, &e), 0);
        if (f.hits == 0) {
            assert_int_equal(rv, 0);
            equal(&id, &out);
            break;
        }
        runs++;
        assert_int_equal(rv, ERR_IO);
        assert_non_null(strstr(e.text, "identity"));
        equal(out.node_uid == 9 ? &old : &id, &out);
    }
    assert_true(runs >= 6); /* unlink, open, write, sync, rename, directory */
}

static void a_failing_read_is_not_a_missing_file(void **state)
{
    (void)state;
    struct fault f;
    struct identity id = member();
    struct identity out;
    assert_int_equal(identity_store(env, dir.path, &id, &e), 0);
    fault_init(&f, env);
    for (long n = 0; n < 2; n++) {
        fault_file(&f, n, 1, ERR_IO, FAULT_OPEN | FAULT_READ);
        assert_int_equal(identity_load(&f.env, dir.path, &out, &e), ERR_IO);
        fault_off(&f);
    }
}

static void rosters_of_strangers_are_checked(void **state)
{
    (void)state;
    struct identity id = member();
    struct roster out;
    uint8_t bytes[ROSTER_BYTES_MAX];
    size_t len = roster_encode(&id.roster, bytes);
    assert_int_equal(len, 4 + 3 * 12);
    assert_int_equal(roster_decode(slice_of(bytes, len), &out), 0);
    assert_int_equal(out.count, 3);
    assert_int_equal(roster_uid(&out, 2), 1001);
    assert_int_equal(roster_uid(&out, 4), 0);
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_equal(roster_decode(slice_of(bytes, cut), &out), ERR_PROTOCOL);
    }
    bytes[0] = NODES_MAX + 1;
    assert_int_equal(roster_decode(slice_of(bytes, sizeof bytes), &out), ERR_PROTOCOL);
    bytes[0] = 3;
    memset(bytes + 4, 0, 4); /* number 0 */
    assert_int_equal(roster_decode(slice_of(bytes, len), &out), ERR_PROTOCOL);
}

static void the_cluster_id_depends_on_name_and_members_but_not_on_their_order(void **state)
{
    (void)state;
    struct roster a = member().roster;
    struct roster b = a;
    b.nodes[0] = a.nodes[2];
    b.nodes[2] = a.nodes[0];
    uint64_t id = roster_cluster_id(&a, "prod");
    assert_true(id != 0);
    assert_int_equal(roster_cluster_id(&b, "prod"), id);
    assert_int_not_equal(roster_cluster_id(&a, "test"), id);
    b.nodes[1].node_uid++;
    assert_int_not_equal(roster_cluster_id(&b, "prod"), id);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_stored_is_loaded),
        TEST(an_empty_directory_has_none),
        TEST(damage_at_any_byte_is_found),
        TEST(a_file_cut_anywhere_is_found),
        TEST(a_crash_before_the_rename_leaves_the_old_one),
        TEST(a_failing_operation_leaves_the_old_or_the_new_one),
        TEST(a_failing_read_is_not_a_missing_file),
        TEST(rosters_of_strangers_are_checked),
        TEST(the_cluster_id_depends_on_name_and_members_but_not_on_their_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
