/* 3. Ten thousand calls in flight from one thread.
 *
 * x_async() returns at once with a future. The library numbers the calls and resends them when a
 * leader changes, so each increment below takes effect exactly once, whatever happens to the nodes
 * meanwhile. */
#include <stdio.h>
#include <stdlib.h>

#include <cairn/cairn.h>

enum { COUNT = 10000, COUNTERS = 64 };

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

/* Waits for a future; its outcome is the call's. */
static void finish(cairn_future *future, const char *what)
{
    must(cairn_future_wait(future, UINT32_MAX), "wait");
    int rv = cairn_future_error(future);
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_future_errormsg(future), cairn_error_name(rv));
        exit(1);
    }
}

int main(void)
{
    static cairn_future *futures[COUNT];
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    must(cairn_connect(NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");

    cairn_ptr counters[COUNTERS];
    for (int i = 0; i < COUNTERS; i++) {
        must(cairn_alloc_async(heap, sizeof(uint64_t), 0, &futures[i]), "alloc");
    }
    for (int i = 0; i < COUNTERS; i++) {
        finish(futures[i], "alloc");
        must(cairn_future_get_ptr(futures[i], &counters[i]), "pointer");
        cairn_future_free(futures[i]);
    }

    for (int i = 0; i < COUNT; i++) {
        must(cairn_add_u64_async(heap, counters[i % COUNTERS], 0, 1, &futures[i]), "add");
    }
    for (int i = 0; i < COUNT; i++) {
        finish(futures[i], "add");
        cairn_future_free(futures[i]);
    }

    uint64_t sum = 0;
    for (int i = 0; i < COUNTERS; i++) {
        uint64_t value;
        must(cairn_read(heap, counters[i], 0, &value, sizeof value, NULL), "read");
        must(cairn_free(heap, counters[i]), "free");
        sum += value;
    }
    printf("%d increments in flight, sum %llu\n", COUNT, (unsigned long long)sum);

    cairn_heap_close(heap);
    cairn_client_free(client);
    return sum == COUNT ? 0 : 1;
}
