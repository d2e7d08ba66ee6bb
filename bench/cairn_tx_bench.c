/* Transactions that get in each other's way, and lists that are followed: a thread and a
 * cairn_client of its own per client, blocking calls as a program makes them.
 *
 * rmw: cairn_tx_run() that reads a number, adds one and writes it back; the object is drawn from a
 * set of --keys that all clients share, with --theta as a Zipf distribution. transfer: two of them,
 * one gives to the other. walk: a list of --keys nodes of --bytes, by one read per node. graph: the
 * same list by cairn_fetch(). */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cairn/graph.h>

#include "bench/harness.h"

struct bench_client {
    unsigned id;
    cairn_client *client;
    cairn_heap *heap;
    uint64_t random;
    cairn_ptr from, to; /* of the transaction that runs */
    unsigned tries;
};

static struct bench_opts opts;
static enum { RMW, TRANSFER, WALK, GRAPH } operation;
static cairn_ptr *objects; /* everybody's */
static double *chances;    /* that one of the first i + 1 objects is drawn */

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "cairn_tx_bench: %s: %s\n", what, cairn_errormsg());
        _exit(1);
    }
}

/* ---- drawing ---- */

static void weigh(void)
{
    double sum = 0;
    chances = calloc(opts.keys, sizeof *chances);
    for (unsigned i = 0; i < opts.keys; i++) {
        sum += 1 / pow(i + 1, opts.theta);
        chances[i] = sum;
    }
    for (unsigned i = 0; i < opts.keys; i++) {
        chances[i] /= sum;
    }
}

static cairn_ptr draw(struct bench_client *c)
{
    c->random ^= c->random >> 12; /* xorshift64* */
    c->random ^= c->random << 25;
    c->random ^= c->random >> 27;
    double at = (double)(c->random * UINT64_C(0x2545F4914F6CDD1D) >> 11) / 9007199254740992.0;
    unsigned low = 0;
    unsigned high = opts.keys - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (chances[middle] > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return objects[low];
}

/* ---- transactions ---- */

static int add(cairn_tx *tx, cairn_ptr ptr, uint64_t amount)
{
    uint64_t value = 0;
    int rv = cairn_tx_read(tx, ptr, 0, &value, sizeof value);
    value += amount;
    return rv != 0 ? rv : cairn_tx_write(tx, ptr, 0, &value, sizeof value);
}

static int rmw(cairn_tx *tx, void *arg)
{
    struct bench_client *c = arg;
    c->tries++;
    return add(tx, c->from, 1);
}

static int transfer(cairn_tx *tx, void *arg)
{
    struct bench_client *c = arg;
    c->tries++;
    int rv = add(tx, c->from, UINT64_MAX);
    return rv != 0 ? rv : add(tx, c->to, 1);
}

static int transact(struct bench_client *c)
{
    c->tries = 0;
    c->from = c->to = draw(c);
    while (operation == TRANSFER && c->to.word == c->from.word) {
        c->to = draw(c);
    }
    int rv = cairn_tx_run(c->heap, operation == RMW ? rmw : transfer, c);
    if (c->tries > 0) {
        bench_retried(c->id, c->tries - 1);
    }
    return rv;
}

/* ---- lists ---- */

static int walk(struct bench_client *c)
{
    uint8_t *node = malloc(opts.bytes);
    cairn_ptr at = objects[0];
    unsigned seen = 0;
    int rv = 0;
    for (; rv == 0 && at.word != 0; seen++) {
        rv = cairn_read(c->heap, at, 0, node, opts.bytes, NULL);
        memcpy(&at, node, sizeof at);
    }
    free(node);
    return rv != 0 || seen == opts.keys ? rv : CAIRN_E_INVAL;
}

static int fetch(struct bench_client *c)
{
    cairn_graph *graph = NULL;
    int rv = cairn_fetch(c->heap, objects[0], NULL, &graph);
    if (rv == 0) {
        rv = cairn_graph_count(graph) == opts.keys ? 0 : CAIRN_E_INVAL;
        cairn_graph_free(graph);
    }
    return rv;
}

/* ---- all of them ---- */

static void *connect_one(void *arg)
{
    struct bench_client *c = arg;
    cairn_client_opts co;
    cairn_client_opts_init(&co, sizeof co);
    co.ca_file = opts.ca;
    co.cert_file = opts.cert;
    co.key_file = opts.key;
    must(cairn_connect(opts.target, &co, &c->client), "connect");
    must(cairn_heap_open(c->client, opts.heap, &c->heap), "open the heap");
    return NULL;
}

/* The first word of each object leads to the next one, if that is what will be asked for. */
static void make_objects(const struct bench_client *c)
{
    static const cairn_field fields[] = {{.name = "next", .kind = CAIRN_FIELD_PTR, .count = 1}};
    bool list = operation == WALK || operation == GRAPH;
    cairn_type type = {
        .name = "bench_node", .size = opts.bytes, .fields = fields, .field_count = 1};
    uint8_t *bytes = calloc(1, opts.bytes);
    must(list ? cairn_type_register(c->heap, &type) : 0, "register the type");
    objects = calloc(opts.keys, sizeof *objects);
    for (unsigned i = opts.keys; i-- > 0;) {
        if (list && i + 1 < opts.keys) {
            memcpy(bytes, &objects[i + 1], sizeof objects[i + 1]);
        }
        must(cairn_alloc_init(c->heap, opts.bytes, list ? cairn_type_number(&type) : 0, bytes,
                              opts.bytes, &objects[i]),
             "alloc");
    }
    free(bytes);
}

static void *run(void *arg)
{
    struct bench_client *c = arg;
    while (!bench_stopping()) {
        uint64_t started = bench_now_ns();
        int rv = operation == WALK ? walk(c) : operation == GRAPH ? fetch(c) : transact(c);
        if (rv != 0 && !bench_stopping()) {
            bench_failed(c->id, cairn_errormsg());
        } else if (rv == 0) {
            bench_done(c->id, started, 1);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {
        [RMW] = "rmw", [TRANSFER] = "transfer", [WALK] = "walk", [GRAPH] = "graph", NULL};
    operation = bench_parse(argc, argv, names, &opts);
    if (operation == TRANSFER && opts.keys < 2) {
        fprintf(stderr, "cairn_tx_bench: a transfer is between two --keys\n");
        return 2;
    }
    struct bench_client *clients = calloc(opts.clients, sizeof *clients);
    pthread_t *threads = calloc(opts.clients, sizeof *threads);
    for (unsigned i = 0; i < opts.clients; i++) {
        clients[i].id = i;
        clients[i].random = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
        bench_thread(&threads[i], connect_one, &clients[i]);
    }
    for (unsigned i = 0; i < opts.clients; i++) {
        pthread_join(threads[i], NULL);
    }
    weigh();
    make_objects(&clients[0]);
    for (unsigned i = 0; i < opts.clients; i++) {
        bench_thread(&threads[i], run, &clients[i]);
    }
    /* What still runs would only be waited for: the process ends, its sessions expire. */
    _exit(bench_window(&opts, "cairn"));
}
