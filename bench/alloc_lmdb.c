/* LMDB as a heap: an object is a record under a number, a commit is a synced transaction. */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/alloc_driver.h"

static MDB_env *env;
static MDB_txn *txn;
static MDB_dbi dbi;
static unsigned commit_every, pending;
static uint64_t next_key = 1;

static void check(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "lmdb: %s: %s\n", what, mdb_strerror(rv));
        exit(1);
    }
}

static void begin(void)
{
    if (txn == NULL) {
        check(mdb_txn_begin(env, NULL, 0, &txn), "begin");
    }
}

static void end(void)
{
    if (txn != NULL) {
        check(mdb_txn_commit(txn), "commit");
        txn = NULL;
    }
    pending = 0;
}

static void start(const char *dir, uint64_t capacity, unsigned commit, bool create)
{
    commit_every = commit;
    check(mdb_env_create(&env), "create");
    check(mdb_env_set_mapsize(env, capacity * 4), "map size");
    check(mdb_env_open(env, dir, 0, 0600), "open");
    begin();
    check(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY | (create ? MDB_CREATE : 0), &dbi), "dbi");
    if (!create) {
        MDB_stat stat;
        check(mdb_stat(txn, dbi, &stat), "stat");
        next_key = stat.ms_entries + 1;
    }
    end();
}

static void stop(void)
{
    end();
    mdb_env_close(env);
}

static void set_commit(unsigned steps)
{
    end();
    commit_every = steps;
}

static void put(uint64_t key, const void *fill, size_t bytes)
{
    MDB_val k = {sizeof key, &key};
    MDB_val v = {bytes, (void *)(uintptr_t)fill};
    begin();
    check(mdb_put(txn, dbi, &k, &v, 0), "put");
}

static uint64_t take(const void *fill, size_t bytes)
{
    put(next_key, fill, bytes);
    return next_key++;
}

static void give(uint64_t key)
{
    MDB_val k = {sizeof key, &key};
    begin();
    check(mdb_del(txn, dbi, &k, NULL), "del");
}

static void update(uint64_t key, const void *fill, size_t bytes)
{
    put(key, fill, bytes);
}

static void replace(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    uint64_t fresh = take(fill, bytes);
    give(table[i]);
    table[i] = fresh;
}

/* Links have the low keys: what comes is appended to the tree, which LMDB does best. */
#define OBJECTS_FROM (UINT64_C(1) << 32)

static void publish(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    next_key = next_key < OBJECTS_FROM ? OBJECTS_FROM : next_key;
    uint64_t fresh = take(fill, bytes);
    put(i + 1, &fresh, sizeof fresh);
    if (table[i] != 0) {
        give(table[i]);
    }
    table[i] = fresh;
}

static void step(void)
{
    if (++pending >= commit_every) {
        end();
    }
}

int main(int argc, char **argv)
{
    static const struct alloc_system system = {
        .name = "lmdb",
        .open = start,
        .close = stop,
        .commit_every = set_commit,
        .alloc = take,
        .free = give,
        .update = update,
        .replace = replace,
        .publish = publish,
        .step = step,
    };
    return alloc_driver_main(argc, argv, &system);
}
