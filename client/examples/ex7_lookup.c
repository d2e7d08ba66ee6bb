/* 7. Objects by key: <cairn/hash.h>. A counter per word, shared by all programs that run this.
 *
 * The map holds pointers; what they point at is the program's own, and here it is counted with an
 * atomic addition. Who comes first puts the counter in; who comes second finds it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/hash.h>

enum { TYPE_COUNTER = 2 };

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

static uint64_t count(cairn_heap *heap, cairn_ptr words, const char *word)
{
    cairn_ptr counter;
    uint64_t before = 0;
    int rv = cairn_hash_get(heap, words, word, strlen(word), &counter);
    if (rv == CAIRN_E_NOTFOUND) {
        must(cairn_alloc(heap, sizeof before, TYPE_COUNTER, &counter), "alloc");
        rv = cairn_hash_put(heap, words, word, strlen(word), counter, NULL);
    }
    must(rv, "look up");
    must(cairn_add_u64(heap, counter, 0, 1, &before), "count");
    return before + 1;
}

int main(int argc, char **argv)
{
    static const char *const text[] = {"stone", "on", "stone", "on", "stone"};
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    cairn_ptr words;
    uint64_t seen = 0;
    must(cairn_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");
    rv = cairn_root_get(heap, "words", &words);
    if (rv == CAIRN_E_NOTFOUND) {
        must(cairn_hash_new(heap, &words), "make the map");
        rv = cairn_root_compare_and_set(heap, "words", CAIRN_NULL, words);
    }
    must(rv, "find the map");

    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        seen = count(heap, words, text[i]);
        printf("%s %llu\n", text[i], (unsigned long long)seen);
    }
    uint64_t runs = seen / 3; /* "stone" comes three times in each */
    printf("seen %llu time%s: all of it\n", (unsigned long long)runs, runs == 1 ? "" : "s");
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
