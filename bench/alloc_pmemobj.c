/* libpmemobj: atomic allocations when each step is durable by itself, one transaction over several
 * steps else. `replace` is a transaction always, as there is no other way to publish and free at
 * once. The pointers lie in volatile memory, which costs it nothing; `replace` publishes in a table
 * of the pool. */
#include <libpmemobj.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/alloc_driver.h"

#define TABLE_ENTRIES (1u << 17) /* as many as alloc_engine.c has */

static PMEMobjpool *pool;
static uint64_t uuid;
static unsigned commit_every, pending;
static uint64_t highest, lowest;

struct root {
    PMEMoid published[TABLE_ENTRIES];
};
static struct root *root; /* not before it is needed: it would count as overhead */

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "libpmemobj: %s: %s\n", what, pmemobj_errormsg());
    exit(1);
}

static void begin(void)
{
    if (pmemobj_tx_stage() == TX_STAGE_NONE && pmemobj_tx_begin(pool, NULL, TX_PARAM_NONE) != 0) {
        fail("begin");
    }
}

static void end(void)
{
    if (pmemobj_tx_stage() == TX_STAGE_WORK) {
        pmemobj_tx_commit();
    }
    if (pmemobj_tx_stage() != TX_STAGE_NONE && pmemobj_tx_end() != 0) {
        fail("commit");
    }
    pending = 0;
}

static void start(const char *dir, uint64_t capacity, unsigned commit, bool create)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/pool", dir);
    commit_every = commit;
    pool = create ? pmemobj_create(path, "bench", capacity, 0600) : pmemobj_open(path, "bench");
    if (pool == NULL) {
        fail("open");
    }
    PMEMoid oid = pmemobj_root(pool, sizeof(PMEMoid));
    uuid = oid.pool_uuid_lo;
    lowest = oid.off;
}

static void stop(void)
{
    end();
    pmemobj_close(pool);
}

static void set_commit(unsigned steps)
{
    end();
    commit_every = steps;
}

static PMEMoid oid_of(uint64_t object)
{
    return (PMEMoid){uuid, object};
}

static void note(uint64_t object, size_t bytes)
{
    highest = object + bytes > highest ? object + bytes : highest;
    lowest = object < lowest ? object : lowest;
}

struct content {
    const void *fill;
    size_t bytes;
};

static int construct(PMEMobjpool *p, void *object, void *arg)
{
    const struct content *c = arg;
    pmemobj_memcpy_persist(p, object, c->fill, c->bytes);
    return 0;
}

static uint64_t take(const void *fill, size_t bytes)
{
    PMEMoid oid = OID_NULL;
    if (commit_every == 1) {
        struct content content = {fill, bytes};
        if (pmemobj_alloc(pool, &oid, bytes, 1, construct, &content) != 0) {
            return 0;
        }
    } else {
        begin();
        oid = pmemobj_tx_xalloc(bytes, 1, POBJ_XALLOC_NO_ABORT);
        if (OID_IS_NULL(oid)) {
            return 0;
        }
        memcpy(pmemobj_direct(oid), fill, bytes);
    }
    note(oid.off, bytes);
    return oid.off;
}

static void give(uint64_t object)
{
    PMEMoid oid = oid_of(object);
    if (commit_every == 1) {
        pmemobj_free(&oid);
        return;
    }
    begin();
    if (pmemobj_tx_free(oid) != 0) {
        fail("free");
    }
}

static void update(uint64_t object, const void *fill, size_t bytes)
{
    void *at = pmemobj_direct(oid_of(object));
    begin();
    if (pmemobj_tx_add_range_direct(at, bytes) != 0) {
        fail("add range");
    }
    memcpy(at, fill, bytes);
}

static void replace(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    if (root == NULL) {
        root = pmemobj_direct(pmemobj_root(pool, sizeof *root));
    }
    PMEMoid *published = &root->published[i % TABLE_ENTRIES];
    begin();
    PMEMoid oid = pmemobj_tx_alloc(bytes, 1);
    if (OID_IS_NULL(oid)) {
        fail("alloc");
    }
    memcpy(pmemobj_direct(oid), fill, bytes);
    if (pmemobj_tx_add_range_direct(published, sizeof oid) != 0) {
        fail("add range");
    }
    *published = oid;
    if (pmemobj_tx_free(oid_of(table[i])) != 0) {
        fail("free");
    }
    table[i] = oid.off;
}

static void step(void)
{
    if (++pending >= commit_every) {
        end();
    }
}

/* From the pool's first byte of heap to the end of the highest object ever: what a pool that could
 * shrink would still need at least. */
static uint64_t footprint(void)
{
    return highest - lowest;
}

int main(int argc, char **argv)
{
    static const struct alloc_system system = {
        .name = "libpmemobj",
        .open = start,
        .close = stop,
        .commit_every = set_commit,
        .alloc = take,
        .free = give,
        .update = update,
        .replace = replace,
        .step = step,
        .footprint = footprint,
    };
    return alloc_driver_main(argc, argv, &system);
}
