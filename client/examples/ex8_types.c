/* 8. Types and versions: describe a struct, so that tools see its fields; change an object, read it
 * as it was before, and visit all objects of the type. Makes a heap that keeps ten minutes of
 * history.
 *
 * CAIRN_ENDPOINTS, CAIRN_CA, CAIRN_CERT and CAIRN_KEY as in example 1.
 * ex8_types; then look: cairnctl type show accounts account; cairnctl obj show accounts/first */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <cairn/cairn.h>
#include <cairn/typed.h>

struct account {
    int64_t balance;
    cairn_ptr next;
    char name[32];
};
CAIRN_TYPE(account, CAIRN_I64(balance), CAIRN_PTR(next, account), CAIRN_CHARS(name));

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

static int print_change(void *arg, const cairn_change *change)
{
    (void)arg;
    printf("version %" PRIu64 ": %s\n", change->version,
           change->kind == CAIRN_CHANGE_BIRTH ? "born" : "written");
    return 0;
}

static int count_accounts(cairn_heap *heap)
{
    cairn_iter *iter;
    cairn_object object;
    int end = 0;
    int count = 0;
    must(cairn_iter_new(heap, CAIRN_TYPE_NUMBER(account), &iter), "iterate");
    for (;;) {
        must(cairn_iter_next(iter, &object, &end), "iterate");
        if (end) {
            break;
        }
        count++;
    }
    cairn_iter_free(iter);
    return count;
}

int main(int argc, char **argv)
{
    cairn_client *client;
    cairn_heap *heap;
    cairn_heap_opts opts;
    must(cairn_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    cairn_heap_opts_init(&opts, sizeof opts);
    opts.retention_ms = 600000;
    int rv = cairn_heap_create(client, "accounts", &opts);
    must(rv == CAIRN_E_EXISTS ? 0 : rv, "create");
    must(cairn_heap_open(client, "accounts", &heap), "open");
    must(cairn_type_register(heap, CAIRN_TYPE_OF(account)), "register");

    struct account account = {.balance = 100, .name = "alice"};
    struct account then;
    int64_t balance = 42;
    cairn_ptr ptr;
    cairn_object born;
    must(cairn_alloc_init(heap, sizeof account, CAIRN_TYPE_NUMBER(account), &account,
                          sizeof account, &ptr),
         "allocate");
    must(cairn_root_set(heap, "first", ptr), "name");
    must(cairn_stat(heap, ptr, &born), "stat");
    must(cairn_write_field(heap, ptr, struct account, balance, &balance), "write");
    must(cairn_read_at(heap, ptr, born.version, 0, &then, sizeof then, NULL), "read");
    printf("%s had %" PRId64 " and has %" PRId64 "\n", then.name, then.balance, balance);
    must(cairn_history(heap, ptr, print_change, NULL), "history");
    printf("accounts: %d\n", count_accounts(heap));
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
