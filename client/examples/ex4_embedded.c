/* 4. Embedded: durable objects in a directory, without a server. The gentlest start; the calls are
 * the same as with a cluster, and so is what 0 means: it is on disk.
 *
 * Keeps a list of notes: each run adds one and prints them all, the newest first.
 * ex4_embedded DIRECTORY [NOTE] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/cairn.h>

struct note {
    cairn_ptr next; /* a persistent pointer: 8 bytes, valid in every later run */
    char text[56];
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    char url[1024];
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [NOTE]\n", argv[0]);
        return 2;
    }
    (void)snprintf(url, sizeof url, "file://%s", argv[1]);
    must(cairn_connect(url, NULL, &client), "open the directory");
    int rv = cairn_heap_create(client, "notes", NULL);
    if (rv != CAIRN_E_EXISTS) { /* from an earlier run */
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "notes", &heap), "open the heap");

    cairn_ptr head; /* NOTFOUND leaves it CAIRN_NULL */
    rv = cairn_root_get(heap, "head", &head);
    if (rv != CAIRN_E_NOTFOUND) {
        must(rv, "find the list");
    }

    /* First the note, then the name that leads to it: a crash in between loses the note alone. */
    struct note note = {.next = head};
    (void)snprintf(note.text, sizeof note.text, "%s", argc > 2 ? argv[2] : "hello");
    cairn_ptr added;
    must(cairn_alloc_init(heap, sizeof note, 0, &note, sizeof note, &added), "write the note");
    must(cairn_root_compare_and_set(heap, "head", head, added), "link it");

    for (cairn_ptr at = added; !cairn_ptr_is_null(at); at = note.next) {
        must(cairn_read(heap, at, 0, &note, sizeof note, NULL), "read a note");
        printf("%s\n", note.text);
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
