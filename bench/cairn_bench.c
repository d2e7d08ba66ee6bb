/* cairn-bench: load on a heap through the SDK, each client a cairn_client of its own, all of them
 * on one library thread (bench/fibers.h says why).
 *
 * put overwrites `bytes` of one of the client's own objects; get reads one (linearizable). txn
 * compares eight bytes of an object and writes it and another one of the same shard, all or
 * nothing; txn2 writes two objects of different shards. What it allocated it frees, so that each
 * run finds the heap as the one before did. --target: endpoints. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cairn/tx.h>

#include "bench/harness.h"

struct slot { /* one request in flight */
    struct bench_client *client;
    uint64_t started;
    unsigned object;
};

struct bench_client {
    unsigned id;
    cairn_client *client;
    cairn_heap *heap;
    cairn_ptr *objects;
    unsigned
        *partners; /* txn, txn2: the other object of a transaction, by the first one's number */
    uint8_t *payload;
    struct slot *slots;
};

static struct bench_opts opts;
static enum { PUT, GET, TXN, TXN2 } operation;
static cairn_client *sharer; /* the others use its library thread */
static atomic_uint running;  /* slots with a request in flight */

#define DRAIN_MS_MAX 5000u

static void die(const char *what)
{
    fprintf(stderr, "cairn-bench: %s: %s\n", what, cairn_errormsg());
    exit(1);
}

static void next(struct slot *slot);

static void ready(cairn_future *future, void *arg)
{
    struct slot *slot = arg;
    if (cairn_future_error(future) == 0) {
        bench_done(slot->client->id, slot->started, 1);
    } else {
        bench_failed(slot->client->id, cairn_future_errormsg(future));
    }
    cairn_future_free(future);
    next(slot);
}

static int transaction(struct bench_client *c, unsigned object, cairn_future **future)
{
    cairn_ptr first = c->objects[object];
    cairn_ptr second = c->objects[c->partners[object]];
    cairn_tx *tx = NULL;
    int rv = cairn_tx_begin(c->heap, NULL, &tx);
    if (rv == 0 && operation == TXN) {
        rv = cairn_tx_compare(tx, first, 0, c->payload, opts.bytes < 8 ? opts.bytes : 8);
    }
    rv = rv != 0 ? rv : cairn_tx_write(tx, first, 0, c->payload, opts.bytes);
    rv = rv != 0 ? rv : cairn_tx_write(tx, second, 0, c->payload, opts.bytes);
    if (rv != 0) {
        cairn_tx_abort(tx);
        return rv;
    }
    return cairn_tx_commit_async(tx, future);
}

static int start(struct bench_client *c, unsigned object, cairn_future **future)
{
    switch (operation) {
    case PUT:
        return cairn_write_async(c->heap, c->objects[object], 0, c->payload, opts.bytes, future);
    case GET:
        return cairn_read_async(c->heap, c->objects[object], 0, opts.bytes, future);
    case TXN:
    case TXN2:
        return transaction(c, object, future);
    }
    return CAIRN_E_INVAL;
}

static void next(struct slot *slot)
{
    struct bench_client *c = slot->client;
    cairn_future *future = NULL;
    if (bench_stopping()) {
        atomic_fetch_sub(&running, 1);
        return;
    }
    slot->object = (slot->object + opts.inflight) % opts.keys;
    slot->started = bench_now_ns();
    int rv = start(c, slot->object, &future);
    rv = rv != 0 ? rv : cairn_future_on_ready(future, ready, slot);
    if (rv != 0) {
        bench_failed(c->id, cairn_strerror(rv));
        atomic_fetch_sub(&running, 1);
    }
}

/* Which two objects a transaction is about: of one shard, or (txn2) of two. */
static void find_partners(struct bench_client *c)
{
    c->partners = calloc(opts.keys, sizeof *c->partners);
    for (unsigned i = 0; i < opts.keys; i++) {
        unsigned k = (i + 1) % opts.keys;
        while (k != i &&
               (c->objects[i].word >> 52 == c->objects[k].word >> 52) != (operation == TXN)) {
            k = (k + 1) % opts.keys;
        }
        if (k == i) {
            fprintf(stderr,
                    "cairn-bench: object %u of client %u has no partner: give more --keys\n", i,
                    c->id);
            exit(1);
        }
        c->partners[i] = k;
    }
}

static void *set_up(void *arg)
{
    struct bench_client *c = arg;
    cairn_client_opts co;
    cairn_client_opts_init(&co, sizeof co);
    if (c->id == 0) {
        co.ca_file = opts.ca;
        co.cert_file = opts.cert;
        co.key_file = opts.key;
    } else {
        co.thread_of = sharer;
    }
    co.inflight_max = opts.inflight < 16 ? 16 : opts.inflight;
    if (cairn_connect(opts.target, &co, &c->client) != 0 ||
        cairn_heap_open(c->client, opts.heap, &c->heap) != 0) {
        die("connect");
    }
    c->objects = calloc(opts.keys, sizeof *c->objects);
    c->payload = malloc(opts.bytes);
    c->slots = calloc(opts.inflight, sizeof *c->slots);
    memset(c->payload, 'x', opts.bytes);
    for (unsigned i = 0; i < opts.keys; i++) {
        if (cairn_alloc_init(c->heap, opts.bytes, 0, c->payload, opts.bytes, &c->objects[i]) != 0) {
            die("alloc");
        }
    }
    if (operation == TXN || operation == TXN2) {
        find_partners(c);
    }
    return NULL;
}

static void *clear(void *arg)
{
    struct bench_client *c = arg;
    for (unsigned i = 0; i < opts.keys; i++) {
        if (cairn_free(c->heap, c->objects[i]) != 0) {
            die("free");
        }
    }
    return NULL;
}

static void for_each_client(struct bench_client *clients, unsigned count, void *(*run)(void *))
{
    pthread_t threads[BENCH_CLIENTS_MAX];
    for (unsigned i = 0; i < count; i++) {
        bench_thread(&threads[i], run, &clients[i]);
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
}

int main(int argc, char **argv)
{
    static const char *const names[] = {
        [PUT] = "put", [GET] = "get", [TXN] = "txn", [TXN2] = "txn2", NULL};
    operation = bench_parse(argc, argv, names, &opts);
    struct bench_client *clients = calloc(opts.clients, sizeof *clients);
    for (unsigned i = 0; i < opts.clients; i++) {
        clients[i].id = i;
    }
    set_up(&clients[0]);
    sharer = clients[0].client;
    for_each_client(clients + 1, opts.clients - 1, set_up);
    atomic_store(&running, opts.clients * opts.inflight);
    for (unsigned i = 0; i < opts.clients; i++) {
        for (unsigned k = 0; k < opts.inflight; k++) {
            clients[i].slots[k].client = &clients[i];
            clients[i].slots[k].object = k % opts.keys;
            next(&clients[i].slots[k]);
        }
    }
    int rv = bench_window(&opts, "cairn");
    for (unsigned ms = 0; atomic_load(&running) > 0 && ms < DRAIN_MS_MAX; ms++) {
        (void)usleep(1000);
    }
    for_each_client(clients, opts.clients, clear);
    _exit(rv); /* the sessions expire */
}
