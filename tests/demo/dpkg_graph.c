/* The machine's package database as a graph in a heap: loads it, or verifies a loaded one against
 * its input.
 *
 *   dpkg_graph load HEAP FILE     every package an object, every dependency an object with two
 * pointers, a root per package dpkg_graph verify HEAP FILE   reads everything back and compares;
 * exit 1 if anything is missing or different
 *
 * Prints progress on standard error ("load 1200/5321"), and one JSON line with the figures on
 * standard output. */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#include <cairn/cairn.h>

#define THREADS      16
#define TYPE_PACKAGE 1
#define TYPE_EDGE    2

struct package { /* in the heap */
    char name[96];
    char version[96];
    uint64_t installed_kib;
    uint32_t edge_count;
    uint32_t reserved;
    cairn_ptr first_edge;
};
struct edge { /* in the heap */
    cairn_ptr from, to, next;
    uint32_t kind; /* 1 Depends, 2 Pre-Depends, 3 Recommends */
    uint32_t reserved;
};

struct input_edge {
    size_t to;
    uint32_t kind;
};
struct input {
    struct package package;
    char *fields[3]; /* Depends, Pre-Depends, Recommends as they stand */
    struct input_edge *edges;
    size_t edge_count;
    cairn_ptr ptr;
};

static struct input *packages;
static size_t package_count, edge_total;
static cairn_heap *heap;
static atomic_size_t next_package, done_steps;
static size_t total_steps;
static atomic_ulong acknowledged, failed, worst_gap_ms, last_ack_ms;

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "dpkg_graph: %s: %s: %s\n", what, cairn_error_name(rv), cairn_errormsg());
        exit(1);
    }
}

/* ---- the input ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct input *)a)->package.name, ((const struct input *)b)->package.name);
}

static ssize_t find(const char *name, size_t len)
{
    size_t low = 0;
    size_t high = package_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strncmp(packages[middle].package.name, name, len);
        if (order == 0 && packages[middle].package.name[len] != 0) {
            order = 1;
        }
        if (order == 0) {
            return (ssize_t)middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return -1;
}

/* "libc6 (>= 2.34), default-mta | mail-transport-agent": of each group the first alternative that
 * is installed. */
static void add_edges(struct input *in, const char *field, uint32_t kind)
{
    for (const char *group = field; group != NULL && *group != 0;) {
        size_t group_len = strcspn(group, ",");
        const char *end = group + group_len;
        for (const char *at = group; at < end;) {
            at += strspn(at, " \t|");
            size_t len = strcspn(at, " \t,|(:");
            ssize_t to = at < end && len > 0 ? find(at, len) : -1;
            if (to >= 0) {
                in->edges = realloc(in->edges, (in->edge_count + 1) * sizeof *in->edges);
                in->edges[in->edge_count].to = (size_t)to;
                in->edges[in->edge_count].kind = kind;
                in->edge_count++;
                edge_total++;
                break;
            }
            at += strcspn(at, ",|");
            at += *at == '|' ? 1 : 0;
        }
        group = *end == ',' ? end + 1 : end;
    }
}

static void read_input(const char *path)
{
    static const char *const keys[3] = {"Depends: ", "Pre-Depends: ", "Recommends: "};
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t size = 0;
    size_t capacity = 0;
    struct input now = {.package = {.name = ""}};
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    for (;;) {
        ssize_t n = getline(&line, &size, file);
        if (n > 0 && line[n - 1] == '\n') {
            line[--n] = 0;
        }
        if (n <= 0) { /* an empty line ends a package */
            if (now.package.name[0] != 0) {
                if (package_count == capacity) {
                    capacity = capacity == 0 ? 1024 : capacity * 2;
                    packages = realloc(packages, capacity * sizeof *packages);
                }
                packages[package_count++] = now;
            }
            memset(&now, 0, sizeof now);
            if (n < 0) {
                break;
            }
            continue;
        }
        if (strncmp(line, "Package: ", 9) == 0) {
            (void)snprintf(now.package.name, sizeof now.package.name, "%s", line + 9);
        } else if (strncmp(line, "Version: ", 9) == 0) {
            (void)snprintf(now.package.version, sizeof now.package.version, "%s", line + 9);
        } else if (strncmp(line, "Installed-Size: ", 16) == 0) {
            now.package.installed_kib = strtoull(line + 16, NULL, 10);
        }
        for (size_t k = 0; k < 3; k++) {
            if (strncmp(line, keys[k], strlen(keys[k])) == 0) {
                now.fields[k] = strdup(line + strlen(keys[k]));
            }
        }
    }
    free(line);
    (void)fclose(file);
    qsort(packages, package_count, sizeof *packages, by_name);
    /* A package installed for two architectures stands there twice: keep the first. */
    size_t kept = 0;
    for (size_t i = 0; i < package_count; i++) {
        if (kept == 0 || by_name(&packages[kept - 1], &packages[i]) != 0) {
            packages[kept++] = packages[i];
        }
    }
    package_count = kept;
    for (size_t i = 0; i < package_count; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            add_edges(&packages[i], packages[i].fields[k], k + 1);
        }
        packages[i].package.edge_count = (uint32_t)packages[i].edge_count;
    }
}

/* ---- loading ---- */

static void acked(const char *what)
{
    uint64_t now = now_ms();
    uint64_t gap = now - atomic_exchange(&last_ack_ms, now);
    unsigned long worst = atomic_load(&worst_gap_ms);
    while (gap < 1u << 30 && gap > worst &&
           !atomic_compare_exchange_weak(&worst_gap_ms, &worst, gap)) {
    }
    atomic_fetch_add(&acknowledged, 1);
    size_t done = atomic_fetch_add(&done_steps, 1) + 1;
    if (done % 100 == 0 || done == total_steps) {
        fprintf(stderr, "%s %zu/%zu\n", what, done, total_steps);
    }
}

static void *load_packages(void *arg)
{
    (void)arg;
    for (size_t i; (i = atomic_fetch_add(&next_package, 1)) < package_count;) {
        struct input *in = &packages[i];
        must(cairn_alloc_init(heap, sizeof in->package, TYPE_PACKAGE, &in->package,
                              sizeof in->package, &in->ptr),
             in->package.name);
        acked("load");
        must(cairn_root_set(heap, in->package.name, in->ptr), in->package.name);
        acked("load");
    }
    return NULL;
}

static void *load_edges(void *arg)
{
    (void)arg;
    for (size_t i; (i = atomic_fetch_add(&next_package, 1)) < package_count;) {
        struct input *in = &packages[i];
        cairn_ptr first = CAIRN_NULL;
        for (size_t k = in->edge_count; k-- > 0;) {
            struct edge edge = {.from = in->ptr,
                                .to = packages[in->edges[k].to].ptr,
                                .next = first,
                                .kind = in->edges[k].kind};
            must(cairn_alloc_init(heap, sizeof edge, TYPE_EDGE, &edge, sizeof edge, &first),
                 in->package.name);
            acked("load");
        }
        if (in->edge_count > 0) {
            /* Nobody else may have linked edges here: a doubled effect would show as a conflict. */
            must(cairn_compare_and_write(heap, in->ptr, offsetof(struct package, first_edge),
                                         &CAIRN_NULL, &first, sizeof first),
                 in->package.name);
            acked("load");
        }
    }
    return NULL;
}

/* ---- verifying ---- */

static void differs(const char *name, const char *what)
{
    fprintf(stderr, "dpkg_graph: %s: %s\n", name, what);
    atomic_fetch_add(&failed, 1);
}

static void *verify_packages(void *arg)
{
    (void)arg;
    for (size_t i; (i = atomic_fetch_add(&next_package, 1)) < package_count;) {
        struct input *in = &packages[i];
        struct package got;
        cairn_object object;
        int rv = cairn_root_get(heap, in->package.name, &in->ptr);
        rv = rv != 0 ? rv : cairn_stat(heap, in->ptr, &object);
        rv = rv != 0 ? rv : cairn_read(heap, in->ptr, 0, &got, sizeof got, NULL);
        if (rv != 0) {
            differs(in->package.name, cairn_errormsg());
        } else if (object.type != TYPE_PACKAGE || object.size != sizeof got ||
                   memcmp(&got, &in->package, offsetof(struct package, first_edge)) != 0) {
            differs(in->package.name, "the package differs from the input");
        } else {
            in->package.first_edge = got.first_edge;
        }
        acked("verify");
    }
    return NULL;
}

static void *verify_edges(void *arg)
{
    (void)arg;
    for (size_t i; (i = atomic_fetch_add(&next_package, 1)) < package_count;) {
        struct input *in = &packages[i];
        cairn_ptr at = in->package.first_edge;
        for (size_t k = 0; k < in->edge_count; k++) {
            struct edge edge;
            if (cairn_ptr_is_null(at) || cairn_read(heap, at, 0, &edge, sizeof edge, NULL) != 0) {
                differs(in->package.name, "an edge is missing");
                break;
            }
            if (!cairn_ptr_equals(edge.from, in->ptr) || edge.kind != in->edges[k].kind ||
                !cairn_ptr_equals(edge.to, packages[in->edges[k].to].ptr)) {
                differs(in->package.name, "an edge differs from the input");
            }
            at = edge.next;
            acked("verify");
        }
        if (in->edge_count > 0 && !cairn_ptr_is_null(at)) {
            differs(in->package.name, "there are more edges than in the input");
        }
    }
    return NULL;
}

static int count_root(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)ptr;
    (void)version;
    if (find(name, strlen(name)) < 0) {
        differs(name, "a root that is not in the input");
    }
    ++*(size_t *)arg;
    return 0;
}

static void run(void *(*work)(void *))
{
    pthread_t threads[THREADS];
    atomic_store(&next_package, 0);
    for (int i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, work, NULL) != 0) {
            fprintf(stderr, "no thread could be started\n");
            exit(1);
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

int main(int argc, char **argv)
{
    cairn_client *client;
    cairn_client_opts opts;
    size_t roots = 0;
    if (argc != 4 || (strcmp(argv[1], "load") != 0 && strcmp(argv[1], "verify") != 0)) {
        fprintf(stderr, "usage: dpkg_graph load|verify HEAP FILE\n");
        return 2;
    }
    int load = strcmp(argv[1], "load") == 0;
    read_input(argv[3]);
    total_steps = load ? 2 * package_count + edge_total : package_count + edge_total;
    for (size_t i = 0; load && i < package_count; i++) {
        total_steps += packages[i].edge_count > 0 ? 1 : 0;
    }
    cairn_client_opts_init(&opts, sizeof opts);
    opts.timeout_ms = 60000;
    must(cairn_connect(NULL, &opts, &client), "connect");
    must(cairn_heap_open(client, argv[2], &heap), argv[2]);
    uint64_t start = now_ms();
    atomic_store(&last_ack_ms, start);
    run(load ? load_packages : verify_packages);
    run(load ? load_edges : verify_edges);
    uint64_t elapsed = now_ms() - start;
    if (!load) {
        must(cairn_root_list(heap, count_root, &roots), "root list");
        if (roots != package_count) {
            differs(argv[2], "the number of roots differs from the input");
        }
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    printf("{\"packages\":%zu,\"edges\":%zu,\"objects\":%zu,\"%s\":%lu,\"failed\":%lu,\"longest_"
           "gap_ms\":%lu,"
           "\"elapsed_ms\":%llu}\n",
           package_count, edge_total, package_count + edge_total, load ? "acknowledged" : "read",
           atomic_load(&acknowledged), atomic_load(&failed), atomic_load(&worst_gap_ms),
           (unsigned long long)elapsed);
    return atomic_load(&failed) == 0 ? 0 : 1;
}
