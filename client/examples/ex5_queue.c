/* 5. A queue of jobs that outlives its programs: <cairn/list.h>.
 *
 * Push and pop are atomic and exactly-once: run this program many times at once, and kill some of
 * them; no job is lost or done twice. (Last in, first out: a stack, to be exact.) */
#include <stdio.h>
#include <stdlib.h>

#include <cairn/list.h>

struct job {
    uint32_t number;
    char what[28];
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

/* The list under this root; made by who comes first. */
static cairn_ptr list_of(cairn_heap *heap, const char *name)
{
    cairn_ptr list;
    int rv = cairn_root_get(heap, name, &list);
    if (rv == CAIRN_E_NOTFOUND) {
        must(cairn_list_new(heap, &list), "make the list");
        rv = cairn_root_compare_and_set(heap, name, CAIRN_NULL, list);
        if (rv == CAIRN_E_CONFLICT) { /* another program was faster */
            must(cairn_list_destroy(heap, list), "free the list");
            rv = cairn_root_get(heap, name, &list);
        }
    }
    must(rv, "find the list");
    return list;
}

int main(int argc, char **argv)
{
    cairn_client *client = NULL;
    cairn_heap *heap = NULL;
    must(cairn_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "examples", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "examples", &heap), "open the heap");
    cairn_ptr jobs = list_of(heap, "jobs");

    for (uint32_t i = 1; i <= 3; i++) {
        struct job job = {.number = i};
        (void)snprintf(job.what, sizeof job.what, "sweep room %u", i);
        must(cairn_list_push(heap, jobs, &job, sizeof job, NULL), "push");
    }
    int done = 0;
    struct job job;
    size_t len;
    while ((rv = cairn_list_pop(heap, jobs, &job, sizeof job, &len)) == 0) {
        printf("job %u: %s\n", job.number, job.what);
        done++;
    }
    if (rv != CAIRN_E_NOTFOUND) {
        must(rv, "pop");
    }
    printf("took %d jobs\n", done);
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
