/* 11. Hearing of changes: <cairn/watch.h>. A ticker: one thread changes a price and the name that
 * says which price is the day's; another one hears of every change, once and in order.
 *
 *      ex11_watch [TARGET]
 *
 * Half-way the listener forgets all but a token, as a program does that ends and starts again. What
 * changes while nobody listens is in the heap's history: it is heard of later, and nothing twice.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/watch.h>

enum { CHANGES = 10 };

struct market {
    cairn_heap *heap;
    cairn_ptr price; /* an object of 8 bytes */
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

static void *trade(void *arg)
{
    const struct market *m = arg;
    for (uint64_t price = 1; price <= CHANGES; price++) {
        must(cairn_write(m->heap, m->price, 0, &price, sizeof price), "change the price");
        if (price == CHANGES / 2) {
            must(cairn_root_set(m->heap, "price-of-the-day", m->price), "set the root");
        }
    }
    must(cairn_root_delete(m->heap, "price-of-the-day"), "delete the root");
    return NULL;
}

/* Each change says which version was there before it: so the listener can tell that it has missed
 * none. */
static uint64_t hear_price(cairn_watch *watch, uint64_t last)
{
    const cairn_event *e; /* the watch's memory, until the next call */
    uint64_t price[2] = {0, 0};
    must(cairn_watch_next(watch, 30000, &e), "wait for a change of the price");
    if (last != 0 && e->before != last) {
        fprintf(stderr, "a change was missed\n");
        exit(1);
    }
    if (e->old_len == sizeof price[0] && e->new_len == sizeof price[1]) {
        memcpy(&price[0], e->old_bytes, sizeof price[0]);
        memcpy(&price[1], e->new_bytes, sizeof price[1]);
    }
    printf("price %llu -> %llu\n", (unsigned long long)price[0], (unsigned long long)price[1]);
    return e->version;
}

static void hear_root(cairn_watch *watch)
{
    const cairn_event *e;
    must(cairn_watch_next(watch, 30000, &e), "wait for a change of the root");
    printf("%s %s\n", e->name, e->kind == CAIRN_EVENT_ROOT_SET ? "set" : "deleted");
}

int main(int argc, char **argv)
{
    char token[CAIRN_WATCH_TOKEN_BYTES];
    const uint64_t zero = 0;
    struct market m;
    cairn_client *client = NULL;
    cairn_heap_opts heap_opts;
    cairn_watch_opts opts;
    cairn_watch *price;
    cairn_watch *root;
    pthread_t trader;
    uint64_t last = 0;
    must(cairn_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    cairn_heap_opts_init(&heap_opts, sizeof heap_opts);
    heap_opts.retention_ms = 600000; /* so long a listener may stay away */
    int rv = cairn_heap_create(client, "ticker", &heap_opts);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "ticker", &m.heap), "open the heap");
    must(cairn_alloc_init(m.heap, sizeof zero, 0, &zero, sizeof zero, &m.price), "alloc");

    cairn_watch_opts_init(&opts, sizeof opts);
    opts.values = 1;
    must(cairn_watch_object(m.heap, m.price, &opts, &price), "watch the price");
    must(cairn_watch_root(m.heap, "price-of-the-day", NULL, &root), "watch the root");
    if (pthread_create(&trader, NULL, trade, &m) != 0) {
        fprintf(stderr, "no thread could be started\n");
        return 1;
    }
    for (int i = 0; i < CHANGES / 2; i++) {
        last = hear_price(price, last);
    }
    must(cairn_watch_token(price, token, sizeof token), "where it stands");
    cairn_watch_free(price);

    pthread_join(trader, NULL); /* meanwhile nobody listens */
    printf("going on from a token of %zu bytes\n", strlen(token));
    opts.from = CAIRN_WATCH_TOKEN;
    opts.token = token;
    must(cairn_watch_object(m.heap, m.price, &opts, &price), "go on");
    for (int i = CHANGES / 2; i < CHANGES; i++) {
        last = hear_price(price, last);
    }
    hear_root(root);
    hear_root(root);
    cairn_watch_free(price);
    cairn_watch_free(root);
    must(cairn_free(m.heap, m.price), "free");
    cairn_heap_close(m.heap);
    cairn_client_free(client);
    return 0;
}
