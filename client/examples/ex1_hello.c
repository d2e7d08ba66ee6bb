/* 1. Hello: connect, make a heap, put an object into it, give it a name, and read it back.
 *
 * Where the cluster is and who we are comes from the environment:
 *   CAIRN_ENDPOINTS=host:port,host:port  CAIRN_CA=ca.pem  CAIRN_CERT=me.pem  CAIRN_KEY=me.key
 * ex1_hello */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/cairn.h>

/* Every call returns 0 or a negative CAIRN_E_* code; cairn_errormsg() has a sentence about it. */
static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

int main(void)
{
    cairn_client *client = NULL;
    must(cairn_connect(NULL, NULL, &client), "connect");

    /* The heap may be there from an earlier run. */
    cairn_heap *heap = NULL;
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");

    /* When a call that changes something returns 0, a majority of replicas has it on disk. */
    const char text[] = "hello, cluster";
    cairn_ptr greeting;
    must(cairn_alloc(heap, sizeof text, 0, &greeting), "alloc");
    must(cairn_write(heap, greeting, 0, text, sizeof text), "write");

    /* A name makes the object findable after this program has ended. The previous run's object
     * loses its name, so that it must be freed: nobody else knows it. */
    cairn_ptr old;
    rv = cairn_root_get(heap, "greeting", &old);
    if (rv != CAIRN_E_NOTFOUND) {
        must(rv, "look for the root");
    }
    must(cairn_root_compare_and_set(heap, "greeting", old, greeting), "set the root");
    if (!cairn_ptr_is_null(old)) {
        must(cairn_free(heap, old), "free the old one");
    }

    /* Find it by its name, as another program would. */
    cairn_ptr found;
    cairn_object object;
    char copy[sizeof text];
    char pointer[CAIRN_PTR_TEXT_BYTES];
    must(cairn_root_get(heap, "greeting", &found), "get the root");
    must(cairn_stat(heap, found, &object), "stat");
    must(cairn_read(heap, found, 0, copy, sizeof copy, NULL), "read");
    cairn_ptr_format(found, pointer, sizeof pointer);
    printf("%s: %.*s (%llu bytes, version %llu)\n", pointer, (int)sizeof copy, copy,
           (unsigned long long)object.size, (unsigned long long)object.version);

    cairn_heap_close(heap);
    cairn_client_free(client);
    return memcmp(copy, text, sizeof text) == 0 ? 0 : 1;
}
