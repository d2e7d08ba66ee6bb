#include "unit/embed/fixture.h"

#include <unistd.h>

struct dir dir;
const char *mode = "disk";
cairn_client *client;
cairn_heap *heap;

bool on_cluster(void)
{
    return strcmp(mode, "cluster") == 0;
}

void must(int rv)
{
    if (rv != 0) {
        print_error("%s: %s\n", cairn_error_name(rv), cairn_errormsg());
    }
    assert_int_equal(rv, 0);
}

int open_client(cairn_client **out)
{
    char url[DIR_PATH_BYTES + 64];
    if (on_cluster()) {
        return cairn_connect(NULL, NULL, out);
    }
    (void)snprintf(url, sizeof url, "file://%s/db?mode=%s", dir.path, mode);
    return cairn_connect(url, NULL, out);
}

static char name[32];      /* of the newest heap */
static char main_name[32]; /* of `heap` */

const char *heap_name(void)
{
    return main_name;
}

void heap_new(uint32_t shards, cairn_heap **out)
{
    static int number;
    cairn_heap_opts opts;
    (void)snprintf(name, sizeof name, "tests%d-%ld", number++, (long)getpid());
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.bytes_max = 64u << 20;
    opts.shards = shards;
    must(cairn_heap_create(client, name, &opts));
    must(cairn_heap_open(client, name, out));
}

int fixture_fresh(void **state)
{
    (void)fixture_over(state);
    return fixture_begin(state);
}

int fixture_begin(void **state)
{
    (void)state;
    if (client != NULL) {
        return 0;
    }
    const char *shards = getenv("TX_SHARDS");
    dir_open(&dir);
    must(open_client(&client));
    heap_new(shards != NULL ? (uint32_t)strtoul(shards, NULL, 10) : 3, &heap);
    memcpy(main_name, name, sizeof name);
    return 0;
}

int fixture_end(void **state)
{
    return on_cluster() ? 0 : fixture_over(state);
}

int fixture_over(void **state)
{
    (void)state;
    if (client != NULL) {
        cairn_heap_close(heap);
        cairn_client_free(client);
        dir_close(&dir);
        client = NULL;
    }
    return 0;
}

cairn_ptr object(uint64_t value)
{
    cairn_ptr ptr;
    must(cairn_alloc_init(heap, 64, 0, &value, sizeof value, &ptr));
    return ptr;
}

uint64_t value_of(cairn_ptr ptr)
{
    uint64_t value = 0;
    must(cairn_read(heap, ptr, 0, &value, sizeof value, NULL));
    return value;
}

void put(cairn_ptr ptr, uint64_t value)
{
    must(cairn_write(heap, ptr, 0, &value, sizeof value));
}

void set(cairn_tx *tx, cairn_ptr ptr, uint64_t value)
{
    must(cairn_tx_write(tx, ptr, 0, &value, sizeof value));
}

uint64_t get(cairn_tx *tx, cairn_ptr ptr)
{
    uint64_t value = 0;
    must(cairn_tx_read(tx, ptr, 0, &value, sizeof value));
    return value;
}
