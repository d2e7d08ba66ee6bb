/* Which anomalies each isolation level lets happen, tried one by one through the SDK, on one shard
 * and over two (Berenson et al. 1995; Adya 1999; names as in Hermitage). Each is a fixed
 * interleaving of open transactions: it is "allowed" when all of them commit and what was seen
 * shows it, "prevented" otherwise. Prints the rows of the table of docs/transactions.md.
 *
 *   anomalies [--one-shard]     on the cluster or directory that $CAIRN_ENDPOINTS names */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cairn/tx.h>

static cairn_client *client;
static cairn_heap *heap;
static uint32_t level;
static cairn_ptr x, y; /* both 0 at the start of each */

static void must(int rv, const char *what)
{
    if (rv != 0) {
        (void)fprintf(stderr, "anomalies: %s: %s: %s\n", what, cairn_error_name(rv),
                      cairn_errormsg());
        exit(1);
    }
}

static cairn_tx *begin(void)
{
    cairn_tx_opts opts;
    cairn_tx *tx = NULL;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.isolation = level;
    must(cairn_tx_begin(heap, &opts, &tx), "begin");
    return tx;
}

/* False: refused with CONFLICT, the only way in which an anomaly may be prevented. */
static bool holds(int rv, const char *what)
{
    if (rv == CAIRN_E_CONFLICT) {
        return false;
    }
    must(rv, what);
    return true;
}

static bool get(cairn_tx *tx, cairn_ptr ptr, uint64_t *value)
{
    *value = UINT64_MAX;
    return holds(cairn_tx_read(tx, ptr, 0, value, sizeof *value), "read");
}

static void set(cairn_tx *tx, cairn_ptr ptr, uint64_t value)
{
    must(cairn_tx_write(tx, ptr, 0, &value, sizeof value), "write");
}

static bool commit(cairn_tx *tx)
{
    return holds(cairn_tx_commit(tx, NULL), "commit");
}

static uint64_t final(cairn_ptr ptr)
{
    uint64_t value = 0;
    must(cairn_read(heap, ptr, 0, &value, sizeof value, NULL), "final read");
    return value;
}

/* Another transaction, from begin to commit. */
static void write_both(uint64_t value)
{
    cairn_tx *tx = begin();
    set(tx, x, value);
    set(tx, y, value);
    must(cairn_tx_commit(tx, NULL), "commit of the other");
}

static void write_one(cairn_ptr ptr, uint64_t value)
{
    cairn_tx *tx = begin();
    set(tx, ptr, value);
    must(cairn_tx_commit(tx, NULL), "commit of the other");
}

/* ---- the anomalies: true when it happened ---- */

/* P0: two writers leave a mixture. */
static bool dirty_write(void)
{
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    set(a, x, 1);
    set(b, x, 2);
    set(b, y, 2);
    set(a, y, 1);
    (void)commit(a);
    (void)commit(b);
    return final(x) != final(y);
}

/* G1a: what was never committed is seen. */
static bool dirty_read(void)
{
    uint64_t seen;
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    set(a, x, 1);
    bool done = get(b, x, &seen);
    cairn_tx_abort(a);
    done = commit(b) && done;
    return done && seen == 1;
}

/* G1c: each sees what the other has written. */
static bool circular_flow(void)
{
    uint64_t in_a;
    uint64_t in_b;
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    set(a, x, 1);
    set(b, y, 1);
    bool done = get(a, y, &in_a);
    done = get(b, x, &in_b) && done;
    done = commit(a) && done;
    done = commit(b) && done;
    return done && in_a == 1 && in_b == 1;
}

/* P4: one of two increments is gone. */
static bool lost_update(void)
{
    uint64_t in_a;
    uint64_t in_b;
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    bool done = get(a, x, &in_a);
    done = get(b, x, &in_b) && done;
    set(a, x, in_a + 1);
    set(b, x, in_b + 1);
    done = commit(a) && done;
    done = commit(b) && done;
    return done && final(x) == 1;
}

/* P4 of a root: one deletes the name that the other gives a new object. */
static bool lost_root(void)
{
    cairn_ptr seen;
    cairn_ptr last;
    must(cairn_root_set(heap, "lost", x), "root");
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    bool done = holds(cairn_tx_root_get(a, "lost", &seen), "root");
    done = holds(cairn_tx_root_get(b, "lost", &seen), "root") && done;
    must(cairn_tx_root_set(a, "lost", CAIRN_NULL), "root");
    must(cairn_tx_root_set(b, "lost", y), "root");
    done = commit(a) && done;
    done = commit(b) && done;
    return done && cairn_root_get(heap, "lost", &last) == 0;
}

/* P2: the same object read twice, with two values. */
static bool fuzzy_read(void)
{
    uint64_t first;
    uint64_t second;
    cairn_tx *a = begin();
    bool done = get(a, x, &first);
    write_both(1);
    done = get(a, x, &second) && done;
    done = commit(a) && done;
    return done && first != second;
}

static int count_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)name, (void)ptr, (void)version;
    (*(int *)arg)++;
    return 0;
}

/* P3, of roots: the same list twice, with another name in it. */
static bool phantom(void)
{
    static int number;
    char name[32];
    int first = 0;
    int second = 0;
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    bool done = holds(cairn_tx_root_list(a, count_root, &first), "list");
    for (int i = 0; i < 4; i++) { /* whatever shards they are of */
        (void)snprintf(name, sizeof name, "phantom-%d", number++);
        must(cairn_tx_root_set(b, name, x), "root");
    }
    must(cairn_tx_commit(b, NULL), "commit of the other");
    done = holds(cairn_tx_root_list(a, count_root, &second), "list") && done;
    done = commit(a) && done;
    return done && first != second;
}

/* A5A: of two that change together one is seen before, one after. */
static bool read_skew(void)
{
    uint64_t first;
    uint64_t second;
    cairn_tx *a = begin();
    bool done = get(a, x, &first);
    write_both(1);
    done = get(a, y, &second) && done;
    done = commit(a) && done;
    return done && first != second;
}

/* A5B: each decides by what the other changes. */
static bool write_skew(void)
{
    uint64_t seen;
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    bool done = get(a, x, &seen);
    done = get(a, y, &seen) && done;
    done = get(b, x, &seen) && done;
    done = get(b, y, &seen) && done;
    set(a, x, 1);
    set(b, y, 1);
    done = commit(a) && done;
    return commit(b) && done;
}

/* Two readers see two independent changes in different orders. */
static bool long_fork(void)
{
    uint64_t ax;
    uint64_t ay;
    uint64_t bx;
    uint64_t by;
    cairn_tx *a = begin();
    cairn_tx *b = begin();
    bool done = get(a, y, &ay);
    done = get(b, x, &bx) && done;
    write_one(x, 1);
    write_one(y, 1);
    done = get(a, x, &ax) && done;
    done = get(b, y, &by) && done;
    done = commit(a) && done;
    done = commit(b) && done;
    return done && ax == 1 && ay == 0 && bx == 0 && by == 1;
}

/* ---- all of them ---- */

static const struct {
    const char *name;
    bool (*happens)(void);
} anomalies[] = {
    {"dirty write (P0)", dirty_write},
    {"dirty read (G1a)", dirty_read},
    {"circular flow (G1c)", circular_flow},
    {"lost update (P4)", lost_update},
    {"lost update of a root (P4)", lost_root},
    {"fuzzy read (P2)", fuzzy_read},
    {"phantom root (P3)", phantom},
    {"read skew (A5A)", read_skew},
    {"write skew (A5B)", write_skew},
    {"long fork", long_fork},
};

static cairn_ptr object(uint32_t shard)
{
    uint64_t zero = 0;
    cairn_ptr ptr;
    do { /* they go round the shards */
        must(cairn_alloc_init(heap, 64, 0, &zero, sizeof zero, &ptr), "alloc");
    } while (ptr.word >> 52 != shard);
    return ptr;
}

static bool try(uint32_t isolation, uint32_t i, bool across)
{
    level = isolation;
    x = object(0);
    y = object(across ? 1 : 0);
    return anomalies[i].happens();
}

int main(int argc, char **argv)
{
    static const uint32_t levels[] = {CAIRN_SERIALIZABLE, CAIRN_SNAPSHOT, CAIRN_READ_COMMITTED};
    bool one_shard = argc > 1 && strcmp(argv[1], "--one-shard") == 0;
    char name[48];
    cairn_heap_opts opts;
    int differ = 0;
    must(cairn_connect(NULL, NULL, &client), "connect");
    (void)snprintf(name, sizeof name, "anomalies-%ld", (long)getpid());
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.shards = one_shard ? 1 : 2;
    opts.bytes_max = 32u << 20;
    must(cairn_heap_create(client, name, &opts), "heap");
    must(cairn_heap_open(client, name, &heap), "heap");
    for (uint32_t i = 0; i < sizeof anomalies / sizeof anomalies[0]; i++) {
        (void)printf("| %s |", anomalies[i].name);
        for (uint32_t k = 0; k < sizeof levels / sizeof levels[0]; k++) {
            bool on_one = try(levels[k], i, false);
            bool across = one_shard ? on_one : try(levels[k], i, true);
            differ += on_one != across;
            (void)printf(" %s |", on_one != across ? "differs" : on_one ? "allowed" : "prevented");
        }
        (void)printf("\n");
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    return differ == 0 ? 0 : 1;
}
