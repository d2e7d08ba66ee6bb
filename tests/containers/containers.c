/* The persistent containers through the public SDK, on whatever $CAIRN_ENDPOINTS (or the argument)
 * names: a cluster, or a directory (file://...).
 *
 *   containers model URL STEPS SEED    one thread beside a plain model
 *   containers threads URL STEPS SEED  four threads on the same three containers
 *   containers writer URL 0|1          changes them for ever (even or odd keys: two may run), and
 *                                      prints each change that was acknowledged; meant to be killed
 *   containers verify URL FILE...      every change in the files (of writers that were killed) is
 *                                      there; the last one of each may or may not be */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cairn/btree.h>
#include <cairn/cairn.h>
#include <cairn/hash.h>
#include <cairn/list.h>

#define KEYS    600u
#define THREADS 4u

static cairn_client *client;
static cairn_heap *heap;
static cairn_ptr list, hash, tree;

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "containers: " __VA_ARGS__);                                           \
            fprintf(stderr, " (%s:%d)\n", __FILE__, __LINE__);                                     \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void must(int rv, const char *what)
{
    CHECK(rv == 0, "%s: %s: %s", what, cairn_error_name(rv), cairn_errormsg());
}

static uint64_t dice(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void root_open(const char *name, int (*make)(cairn_heap *, cairn_ptr *), cairn_ptr *out)
{
    int rv = cairn_root_get(heap, name, out);
    if (rv == CAIRN_E_NOTFOUND) {
        must(make(heap, out), name);
        rv = cairn_root_compare_and_set(heap, name, CAIRN_NULL, *out);
        if (rv == CAIRN_E_CONFLICT) {
            rv = cairn_root_get(heap, name, out);
        }
    }
    must(rv, name);
}

static void start(const char *url)
{
    must(cairn_connect(url[0] == '-' ? NULL : url, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "containers", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "containers", &heap), "open the heap");
    root_open("list", cairn_list_new, &list);
    root_open("hash", cairn_hash_new, &hash);
    root_open("tree", cairn_btree_new, &tree);
}

/* Any word that isn't null will do as a value: the containers don't look at them. */
static cairn_ptr value_of(uint64_t number)
{
    cairn_ptr ptr = {number};
    return ptr;
}

/* Short ones, long ones, with common prefixes. */
static size_t key_of(uint64_t number, char out[600])
{
    int n = snprintf(out, 600, "key-%05" PRIu64, number);
    size_t len = (size_t)n;
    if (number % 7 == 0) {
        memset(out + len, 'x', 30 + number % 400);
        len += 30 + number % 400;
    }
    return len;
}

/* ---- one thread beside a model ---- */

struct model {
    uint64_t map[2][KEYS]; /* hash, tree: value, 0 absent */
    uint64_t elements[4096];
    cairn_ptr nodes[4096];
    unsigned count;
};

static void step_map(struct model *m, unsigned which, uint64_t *seed)
{
    uint64_t number = dice(seed) % KEYS;
    uint64_t *want = &m->map[which][number];
    char key[600];
    size_t len = key_of(number, key);
    cairn_ptr got = CAIRN_NULL;
    int rv;
    switch (dice(seed) % 8) {
    case 0:
    case 1:
    case 2:
    case 3: {
        uint64_t value = dice(seed) | 1;
        rv = which == 0 ? cairn_hash_put(heap, hash, key, len, value_of(value), &got)
                        : cairn_btree_put(heap, tree, key, len, value_of(value), &got);
        must(rv, "put");
        CHECK(got.word == *want, "put of %s answers another value", key);
        *want = value;
        break;
    }
    case 4:
    case 5:
        rv = which == 0 ? cairn_hash_remove(heap, hash, key, len, &got)
                        : cairn_btree_remove(heap, tree, key, len, &got);
        CHECK(rv == (*want == 0 ? CAIRN_E_NOTFOUND : 0), "remove of %s: %s", key,
              cairn_error_name(rv));
        CHECK(got.word == *want || rv != 0, "remove of %s answers another value", key);
        *want = 0;
        break;
    default:
        rv = which == 0 ? cairn_hash_get(heap, hash, key, len, &got)
                        : cairn_btree_get(heap, tree, key, len, &got);
        CHECK(rv == (*want == 0 ? CAIRN_E_NOTFOUND : 0), "get of %s: %s", key,
              cairn_error_name(rv));
        CHECK(got.word == *want, "get of %s answers another value", key);
        break;
    }
}

static void step_list(struct model *m, uint64_t *seed)
{
    uint64_t value = dice(seed);
    uint64_t got = 0;
    size_t len = 0;
    unsigned kind = (unsigned)(dice(seed) % 4);
    if (kind < 2 && m->count < 4096) {
        must(cairn_list_push(heap, list, &value, sizeof value, &m->nodes[m->count]), "push");
        m->elements[m->count++] = value;
    } else if (kind == 2) {
        int rv = cairn_list_pop(heap, list, &got, sizeof got, &len);
        CHECK(rv == (m->count == 0 ? CAIRN_E_NOTFOUND : 0), "pop: %s", cairn_error_name(rv));
        if (rv == 0) {
            m->count--;
            CHECK(len == sizeof got && got == m->elements[m->count], "pop answers another element");
        }
    } else if (m->count > 0) {
        unsigned i = (unsigned)(dice(seed) % m->count);
        must(cairn_list_remove(heap, list, m->nodes[i]), "remove");
        CHECK(cairn_list_remove(heap, list, m->nodes[i]) == CAIRN_E_NOTFOUND, "removed twice");
        m->count--;
        memmove(&m->elements[i], &m->elements[i + 1], (m->count - i) * sizeof m->elements[0]);
        memmove(&m->nodes[i], &m->nodes[i + 1], (m->count - i) * sizeof m->nodes[0]);
    }
}

struct walk {
    const struct model *m;
    unsigned which, seen;
    size_t last_len;
    char last[600];
};

static int see_pair(void *arg, const void *key, size_t len, cairn_ptr value)
{
    struct walk *w = arg;
    char number[8] = "";
    CHECK(len >= 9, "a strange key");
    memcpy(number, (const char *)key + 4, 5);
    uint64_t want = w->m->map[w->which][strtoull(number, NULL, 10)];
    CHECK(value.word == want, "the walk sees another value of %.9s", (const char *)key);
    if (w->which == 1 && w->seen > 0) {
        size_t shorter = len < w->last_len ? len : w->last_len;
        int c = memcmp(w->last, key, shorter);
        CHECK(c < 0 || (c == 0 && w->last_len < len), "the walk is out of order");
    }
    memcpy(w->last, key, len);
    w->last_len = len;
    w->seen++;
    return 0;
}

static int see_element(void *arg, cairn_ptr node, const void *data, size_t len)
{
    struct walk *w = arg;
    CHECK(w->seen < w->m->count, "the list is too long");
    unsigned i = w->m->count - 1 - w->seen++;
    CHECK(cairn_ptr_equals(node, w->m->nodes[i]) && len == 8 &&
              memcmp(data, &w->m->elements[i], 8) == 0,
          "the list has another element");
    return 0;
}

static void model_check(const struct model *m)
{
    for (unsigned which = 0; which < 2; which++) {
        unsigned want = 0;
        for (unsigned i = 0; i < KEYS; i++) {
            want += m->map[which][i] != 0;
        }
        struct walk w = {.m = m, .which = which};
        must(which == 0 ? cairn_hash_each(heap, hash, see_pair, &w)
                        : cairn_btree_each(heap, tree, NULL, 0, see_pair, &w),
             "walk");
        CHECK(w.seen == want, "%s: %u entries instead of %u", which == 0 ? "hash" : "tree", w.seen,
              want);
    }
    struct walk w = {.m = m};
    must(cairn_list_each(heap, list, see_element, &w), "walk");
    CHECK(w.seen == m->count, "list: %u elements instead of %u", w.seen, m->count);
}

static void model_run(uint64_t steps, uint64_t seed)
{
    static struct model m;
    for (uint64_t i = 0; i < steps; i++) {
        unsigned which = (unsigned)(dice(&seed) % 3);
        if (which == 2) {
            step_list(&m, &seed);
        } else {
            step_map(&m, which, &seed);
        }
        if (i % 1000 == 999) {
            model_check(&m);
        }
    }
    model_check(&m);
    must(cairn_list_destroy(heap, list), "destroy");
    must(cairn_hash_destroy(heap, hash), "destroy");
    must(cairn_btree_destroy(heap, tree), "destroy");
    must(cairn_root_delete(heap, "list"), "root");
    must(cairn_root_delete(heap, "hash"), "root");
    must(cairn_root_delete(heap, "tree"), "root");
    printf("%" PRIu64 " steps, all as the model has it\n", steps);
}

/* ---- several threads: each owns some keys, all push and pop ---- */

struct worker {
    pthread_t thread;
    uint64_t seed, steps;
    unsigned id;
    uint64_t map[2][KEYS];
    uint64_t pushed, popped; /* sums */
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (uint64_t i = 0; i < w->steps; i++) {
        uint64_t number = dice(&w->seed) % (KEYS / THREADS) * THREADS + w->id;
        char key[600];
        size_t len = key_of(number, key);
        unsigned which = (unsigned)(dice(&w->seed) % 3);
        uint64_t value = dice(&w->seed) >> 8 | 1;
        cairn_ptr got = CAIRN_NULL;
        if (which == 2) {
            if (value % 3 != 0) {
                must(cairn_list_push(heap, list, &value, sizeof value, NULL), "push");
                w->pushed += value;
                continue;
            }
            size_t out = 0;
            int rv = cairn_list_pop(heap, list, &value, sizeof value, &out);
            CHECK(rv == 0 || rv == CAIRN_E_NOTFOUND, "pop: %s", cairn_error_name(rv));
            w->popped += rv == 0 ? value : 0;
        } else if (value % 3 != 0) {
            must(which == 0 ? cairn_hash_put(heap, hash, key, len, value_of(value), &got)
                            : cairn_btree_put(heap, tree, key, len, value_of(value), &got),
                 "put");
            CHECK(got.word == w->map[which][number], "put answers another value");
            w->map[which][number] = value;
        } else {
            int rv = which == 0 ? cairn_hash_remove(heap, hash, key, len, &got)
                                : cairn_btree_remove(heap, tree, key, len, &got);
            CHECK(rv == (w->map[which][number] == 0 ? CAIRN_E_NOTFOUND : 0), "remove: %s",
                  cairn_error_name(rv));
            w->map[which][number] = 0;
        }
    }
    return NULL;
}

static int sum_element(void *arg, cairn_ptr node, const void *data, size_t len)
{
    uint64_t value;
    (void)node;
    CHECK(len == sizeof value, "a strange element");
    memcpy(&value, data, sizeof value);
    *(uint64_t *)arg += value;
    return 0;
}

static void threads_run(uint64_t steps, uint64_t seed)
{
    static struct worker workers[THREADS];
    static struct model m;
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].id = i;
        workers[i].seed = seed * 100 + i;
        workers[i].steps = steps;
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0, "thread");
    }
    uint64_t sum = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        for (unsigned k = 0; k < KEYS; k++) {
            m.map[0][k] += workers[i].map[0][k];
            m.map[1][k] += workers[i].map[1][k];
        }
        sum += workers[i].pushed - workers[i].popped;
    }
    uint64_t left = 0;
    must(cairn_list_each(heap, list, sum_element, &left), "walk");
    CHECK(left == sum, "the list doesn't hold what was pushed and not popped");
    struct walk w = {.m = &m};
    must(cairn_hash_each(heap, hash, see_pair, &w), "walk");
    struct walk t = {.m = &m, .which = 1};
    must(cairn_btree_each(heap, tree, NULL, 0, see_pair, &t), "walk");
    unsigned want[2] = {0, 0};
    for (unsigned i = 0; i < KEYS; i++) {
        want[0] += m.map[0][i] != 0;
        want[1] += m.map[1][i] != 0;
    }
    CHECK(w.seen == want[0] && t.seen == want[1], "entries are missing");
    printf("%u threads x %" PRIu64 " steps: hash %u, tree %u entries, list sum as it must be\n",
           THREADS, steps, w.seen, t.seen);
}

/* ---- killed writers ---- */

/* "+NUMBER VALUE 0" before a change is sent, "=NUMBER VALUE END" when it is acknowledged. A value
 * is the time at which it was sent, END that of the answer: so a later writer's values are larger
 * also when it starts in the same second, and what two writers did at once may have come in any
 * order. */
static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void writer(uint64_t odd)
{
    uint64_t seed = now_ns();
    for (;;) {
        uint64_t value = now_ns();
        uint64_t number = dice(&seed) % (KEYS / 2) * 2 + odd % 2;
        char key[600];
        size_t len = key_of(number, key);
        printf("+%" PRIu64 " %" PRIu64 " 0\n", number, value);
        fflush(stdout);
        must(cairn_hash_put(heap, hash, key, len, value_of(value), NULL), "put");
        must(cairn_btree_put(heap, tree, key, len, value_of(value), NULL), "put");
        uint64_t pair[2] = {number, value};
        must(cairn_list_push(heap, list, pair, sizeof pair, NULL), "push");
        printf("=%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", number, value, now_ns());
        fflush(stdout);
    }
}

static int see_pushed(void *arg, cairn_ptr node, const void *data, size_t len)
{
    uint64_t(*pushed)[2] = arg;
    uint64_t pair[2];
    (void)node;
    CHECK(len == sizeof pair, "a strange element");
    memcpy(pair, data, sizeof pair);
    CHECK(pair[0] < KEYS, "a strange element");
    if (pair[1] > pushed[pair[0]][0]) {
        pushed[pair[0]][0] = pair[1];
    }
    pushed[pair[0]][1]++;
    return 0;
}

struct key_state {
    uint64_t acknowledged; /* the latest that was */
    uint64_t times;
    cairn_ptr got[2]; /* in the hash and in the tree */
    bool sent[2];     /* somebody put that */
    uint64_t end[2];  /* when it was acknowledged; 0: it wasn't */
};
static struct key_state states[KEYS];

static void each_line(const char *file,
                      void (*see)(char sign, struct key_state *s, uint64_t value, uint64_t end))
{
    FILE *f = fopen(file, "r");
    CHECK(f != NULL, "%s: can't be read", file);
    char line[128];
    while (fgets(line, sizeof line, f) != NULL) {
        char sign;
        uint64_t number;
        uint64_t value;
        uint64_t end;
        /* Not the line that was being written when it was killed. */
        if (strchr(line, '\n') != NULL &&
            sscanf(line, "%c%" SCNu64 " %" SCNu64 " %" SCNu64, &sign, &number, &value, &end) == 4) {
            CHECK(number < KEYS, "%s: not a writer's", file);
            see(sign, &states[number], value, end);
        }
    }
    (void)fclose(f);
}

static void see_acknowledged(char sign, struct key_state *s, uint64_t value, uint64_t end)
{
    (void)end;
    if (sign == '=') {
        s->times++;
        s->acknowledged = value > s->acknowledged ? value : s->acknowledged;
    }
}

static void see_got(char sign, struct key_state *s, uint64_t value, uint64_t end)
{
    for (unsigned which = 0; which < 2; which++) {
        if (s->got[which].word == value) {
            s->sent[which] = true;
            s->end[which] = sign == '=' ? end : s->end[which];
        }
    }
}

static void verify(int count, char **files)
{
    static uint64_t pushed[KEYS][2];
    uint64_t changes = 0;
    for (int i = 0; i < count; i++) {
        each_line(files[i], see_acknowledged);
    }
    for (unsigned i = 0; i < KEYS; i++) {
        struct key_state *s = &states[i];
        char key[600];
        size_t len = key_of(i, key);
        int rv[2] = {cairn_hash_get(heap, hash, key, len, &s->got[0]),
                     cairn_btree_get(heap, tree, key, len, &s->got[1])};
        for (unsigned which = 0; which < 2; which++) {
            CHECK(rv[which] == 0 || (rv[which] == CAIRN_E_NOTFOUND && s->acknowledged == 0),
                  "key %u is lost", i);
            s->got[which] = rv[which] == 0 ? s->got[which] : CAIRN_NULL;
        }
        changes += s->times;
    }
    for (int i = 0; i < count; i++) {
        each_line(files[i], see_got);
    }
    must(cairn_list_each(heap, list, see_pushed, pushed), "walk");
    for (unsigned i = 0; i < KEYS; i++) {
        const struct key_state *s = &states[i];
        for (unsigned which = 0; which < 2; which++) {
            CHECK(cairn_ptr_is_null(s->got[which]) || s->sent[which],
                  "key %u has a value that nobody put", i);
            /* Nobody began after that and was acknowledged. */
            CHECK(s->end[which] == 0 || s->end[which] >= s->acknowledged,
                  "key %u lost its last value", i);
        }
        CHECK(pushed[i][0] >= s->acknowledged && pushed[i][1] >= s->times, "an element is lost");
    }
    printf("%" PRIu64 " acknowledged changes, none lost\n", changes);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: containers model|threads|writer|verify URL|- ...\n");
        return 2;
    }
    start(argv[2]);
    uint64_t steps = argc > 3 ? strtoull(argv[3], NULL, 10) : 1000;
    uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    if (strcmp(argv[1], "model") == 0) {
        model_run(steps, seed);
    } else if (strcmp(argv[1], "threads") == 0) {
        threads_run(steps, seed);
    } else if (strcmp(argv[1], "writer") == 0) {
        writer(steps);
    } else if (strcmp(argv[1], "verify") == 0) {
        verify(argc - 3, argv + 3);
    }
    cairn_heap_close(heap);
    cairn_client_free(client);
    return 0;
}
