/* Cairn on a disk, through the SDK on a directory (file://): the log makes a step durable. A commit
 * of many steps is many calls in flight, which the log writes together, or one transaction. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/cairn.h>
#include <cairn/tx.h>

#include "bench/alloc_driver.h"

#define FLIGHT_MAX  4096u
#define TABLE_SLOTS 512u /* pointers in one object of the table that transactions link in */
#define TABLES_MAX  4096u

static cairn_client *client;
static cairn_heap *heap;
static cairn_future *flight[FLIGHT_MAX];
static uint64_t *targets[FLIGHT_MAX]; /* where the allocated pointer goes */
static unsigned flying, commit_every, pending;
static cairn_tx *tx; /* the open one; NULL: none */
static cairn_ptr tables[TABLES_MAX];

static void check(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "cairn: %s: %s\n", what, cairn_errormsg());
        exit(1);
    }
}

static void start(const char *dir, uint64_t capacity, unsigned commit, bool create)
{
    char url[4096];
    cairn_heap_opts opts;
    (void)snprintf(url, sizeof url, "file://%s", dir);
    commit_every = commit;
    check(cairn_connect(url, NULL, &client), "connect");
    if (create) {
        cairn_heap_opts_init(&opts, sizeof opts);
        opts.shards = 1;
        opts.bytes_max = capacity;
        check(cairn_heap_create(client, "bench", &opts), "create");
    }
    check(cairn_heap_open(client, "bench", &heap), "open");
}

static void land(void)
{
    if (tx != NULL) {
        check(cairn_tx_commit(tx, NULL), "commit");
        tx = NULL;
    }
    for (unsigned i = 0; i < flying; i++) {
        check(cairn_future_wait(flight[i], UINT32_MAX), "wait");
        check(cairn_future_error(flight[i]), "call");
        if (targets[i] != NULL) {
            cairn_ptr ptr;
            check(cairn_future_get_ptr(flight[i], &ptr), "pointer");
            *targets[i] = ptr.word;
        }
        cairn_future_free(flight[i]);
    }
    flying = 0;
    pending = 0;
}

static void stop(void)
{
    land();
    cairn_heap_close(heap);
    cairn_client_free(client);
}

static void set_commit(unsigned steps)
{
    land();
    commit_every = steps;
}

static uint64_t take(const void *fill, size_t bytes)
{
    cairn_ptr ptr;
    int rv = cairn_alloc_init(heap, bytes, 1, fill, bytes, &ptr);
    if (rv == CAIRN_E_NOSPACE) {
        return 0;
    }
    check(rv, "alloc");
    return ptr.word;
}

static void give(uint64_t object)
{
    check(cairn_free(heap, (cairn_ptr){object}), "free");
}

static void update(uint64_t object, const void *fill, size_t bytes)
{
    check(cairn_write(heap, (cairn_ptr){object}, 0, fill, bytes), "write");
}

static void exchange(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    if (flying + 2 > FLIGHT_MAX) {
        land();
    }
    if (table[i] != 0) {
        targets[flying] = NULL;
        check(cairn_free_async(heap, (cairn_ptr){table[i]}, &flight[flying++]), "free");
    }
    targets[flying] = &table[i];
    check(cairn_alloc_init_async(heap, bytes, 1, fill, bytes, &flight[flying++]), "alloc");
}

static void publish(uint64_t *table, unsigned i, const void *fill, size_t bytes)
{
    cairn_ptr ptr;
    cairn_ptr *linked = &tables[i / TABLE_SLOTS];
    if (linked->word == 0) {
        check(cairn_alloc(heap, TABLE_SLOTS * sizeof ptr, 1, linked), "alloc");
    }
    if (tx == NULL) {
        check(cairn_tx_begin(heap, NULL, &tx), "begin");
    }
    if (table[i] != 0) {
        check(cairn_tx_free(tx, (cairn_ptr){table[i]}), "free");
    }
    check(cairn_tx_alloc(tx, bytes, 1, &ptr), "alloc");
    check(cairn_tx_write(tx, ptr, 0, fill, bytes), "write");
    check(cairn_tx_write(tx, *linked, i % TABLE_SLOTS * sizeof ptr, &ptr, sizeof ptr), "link");
    table[i] = ptr.word;
}

static void step(void)
{
    if (++pending >= commit_every) {
        land();
    }
}

int main(int argc, char **argv)
{
    static const struct alloc_system system = {
        .name = "cairn",
        .open = start,
        .close = stop,
        .commit_every = set_commit,
        .alloc = take,
        .free = give,
        .update = update,
        .exchange = exchange,
        .publish = publish,
        .step = step,
    };
    return alloc_driver_main(argc, argv, &system);
}
