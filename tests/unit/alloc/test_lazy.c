/* An image that is opened before it is read: each page in turn is damaged on the disk, and a heap
 * that is in use meanwhile either answers as one that was never on a disk, or says that it can't go
 * on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/engine.h"
#include "alloc/events.h"
#include "alloc/image.h"
#include "alloc/image_layout.h"
#include "alloc/survey.h"
#include "alloc/txn.h"
#include "base/hlc.h"
#include "heap_driver.h"
#include "memdisk.h"
#include "txn_part.h"

#define BYTES_MAX    ((uint64_t)16 << 20)
#define COMMANDS     60
#define TABLE_BYTES  ((uint64_t)(5 << 20) / 2 + 100)
#define SESSION      77
#define OBJECTS_READ 512

struct setting {
    struct memdisk d;
    uint64_t uid;
    uint64_t ptrs[OBJECTS_READ];
    size_t count;
    uint64_t mark;
    struct heap *sound; /* what the image is, never changed */
};

struct tally {
    uint64_t refused, met, found, harmless;
};

static void answered(void *arg, const struct image_result *result)
{
    *(struct image_result *)arg = *result;
}

static int open_image(struct setting *s, struct image **image, struct heap **heap,
                      struct err_text *e)
{
    struct image_opts opts = {.dir = "/x", .uid = s->uid, .mode = IMAGE_DISK};
    return image_open(&s->d.env, &opts, image, heap, e);
}

static void checkpoint(struct setting *s, struct image *image, struct heap *heap)
{
    struct image_result result = {.err = -1};
    assert_int_equal(image_checkpoint(image, heap, answered, &result), 0);
    memdisk_run(&s->d, 1000000);
    assert_int_equal(result.err, 0);
}

/* Slabs and extents, history, leases, types, roots, a table whose end was cut off; a base and
 * deltas. */
static void setting_open(struct setting *s, uint64_t seed)
{
    struct driver driver;
    struct image *image = NULL;
    struct heap *none = NULL;
    struct heap_opts opts;
    memset(s, 0, sizeof *s);
    memdisk_open(&s->d);
    driver_open(&driver, seed, BYTES_MAX, 0, 150, 3000);
    heap_get_opts(driver.heap, &opts);
    s->uid = opts.uid;
    assert_int_equal(open_image(s, &image, &none, NULL), 0);
    for (int i = 0; i < 1200; i++) {
        driver_step(&driver);
        if (i % 400 == 399) {
            struct heap *h = driver.heap;
            uint64_t big = 0;
            heap_begin(h, heap_index(h) + 1, 1, hlc_from_ms(heap_index(h)));
            assert_int_equal(
                heap_alloc(h, heap_next_version(h), TABLE_BYTES, 0, slice_of("t", 1), &big), 0);
            assert_int_equal(
                heap_write(h, heap_next_version(h), big, TABLE_BYTES - 10, slice_of("the end", 7)),
                0);
            if (i > 800) {
                assert_int_equal(heap_realloc(h, heap_next_version(h), big, TABLE_BYTES - 200), 0);
            }
            s->ptrs[s->count++] = big;
            heap_end(h);
            checkpoint(s, image, h);
        }
    }
    for (size_t i = 0; i < driver.count && s->count < OBJECTS_READ; i++) {
        s->ptrs[s->count++] = driver.ptrs[i];
    }
    image_close(image);
    driver_close(&driver);
    assert_int_equal(image_read(&s->d.env, "/x", s->uid, IMAGE_DISK, &s->sound, NULL), 0);
}

static void setting_close(struct setting *s)
{
    heap_free(s->sound);
    memdisk_run(&s->d, 1000000);
    memdisk_close(&s->d);
}

/* ---- one command on two heaps ---- */

struct dice {
    uint64_t seed;
};

static uint64_t roll(struct dice *d, uint64_t end)
{
    d->seed = d->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (d->seed >> 33) % end;
}

static void command_roll(const struct setting *s, struct dice *dice, struct part *part,
                         struct heap_command *c)
{
    static const uint8_t bytes[6000] = {7, 8, 9};
    static const enum heap_command_kind kinds[] = {
        HEAP_COMMAND_ALLOC,    HEAP_COMMAND_ALLOC,   HEAP_COMMAND_FREE,
        HEAP_COMMAND_FREE,     HEAP_COMMAND_REALLOC, HEAP_COMMAND_WRITE,
        HEAP_COMMAND_ADD_U64,  HEAP_COMMAND_LEASE,   HEAP_COMMAND_RECLAIM,
        HEAP_COMMAND_TRANSACT, HEAP_COMMAND_DEFRAG,  HEAP_COMMAND_COMPARE_AND_WRITE,
        HEAP_COMMAND_TRIM,     HEAP_COMMAND_ROOT_SET};
    *c = (struct heap_command){.kind = kinds[roll(dice, sizeof kinds / sizeof kinds[0])],
                               .ptr = s->ptrs[roll(dice, s->count)],
                               .offset = roll(dice, 20),
                               .size = 1 + roll(dice, 4000),
                               .delta = 3,
                               .session = SESSION,
                               .count = 20,
                               .name = slice_of("root", 4)};
    c->data = slice_of(bytes, 1 + roll(dice, 40));
    c->expected = slice_of(bytes, c->data.len);
    switch (c->kind) {
    case HEAP_COMMAND_ALLOC:
        c->ptr = 0;
        c->data.len = c->data.len < c->size ? c->data.len : c->size;
        break;
    case HEAP_COMMAND_RECLAIM:
        c->if_version = UINT64_MAX;
        break;
    case HEAP_COMMAND_DEFRAG:
        c->count = 1 + (uint32_t)roll(dice, 60000);
        break;
    case HEAP_COMMAND_TRANSACT:
        part_begin(part, SESSION);
        part_add(part, (struct txn_item){.kind = TXN_WRITE, .ptr = c->ptr}, slice_of(NULL, 0),
                 slice_of("x", 1));
        part_add(part, (struct txn_item){.kind = TXN_FREE, .ptr = s->ptrs[roll(dice, s->count)]},
                 slice_of(NULL, 0), slice_of(NULL, 0));
        c->data = part_slice(part);
        break;
    default:
        break;
    }
}

static int apply(struct heap *h, const struct heap_command *c, struct heap_outcome *out)
{
    uint64_t index = heap_index(h) + 1;
    heap_begin(h, index, 1, hlc_from_ms(index * 2));
    int rv = heap_apply(h, heap_next_version(h), c, out);
    heap_end(h);
    return rv;
}

/* False: the first one can't go on. */
static bool both_apply(const struct setting *s, struct dice *dice, struct heap *h,
                       struct heap *twin)
{
    static struct part part;
    const char *text;
    struct heap_command c;
    struct heap_outcome a;
    struct heap_outcome b;
    command_roll(s, dice, &part, &c);
    int rv = apply(h, &c, &a);
    assert_int_equal(rv, heap_damage(h, &text));
    if (rv != 0) {
        return false;
    }
    assert_int_equal(apply(twin, &c, &b), 0);
    assert_int_equal(a.code, b.code);
    assert_int_equal(a.value, b.value);
    assert_int_equal(a.version, b.version);
    return true;
}

static bool both_read(const struct setting *s, struct dice *dice, struct heap *h, struct heap *twin)
{
    static uint8_t a[OBJECT_CHUNK_BYTES];
    static uint8_t b[OBJECT_CHUNK_BYTES];
    const char *text;
    struct heap_object o;
    uint64_t ptr = s->ptrs[roll(dice, s->count)];
    bool past = roll(dice, 2) == 0;
    uint64_t at = heap_safepoint(twin) + roll(dice, 3);
    int want = past ? heap_stat_at(twin, at, ptr, &o) : heap_stat(twin, ptr, &o);
    uint64_t len = o.size < sizeof b ? o.size : sizeof b;
    uint64_t offset = want == 0 && o.size > len ? roll(dice, o.size - len) : 0;
    if (want == 0) {
        want = past ? heap_read_at(twin, at, ptr, offset, b, len)
                    : heap_copy(twin, ptr, offset, b, len);
    }
    memset(a, 0xa5, sizeof a);
    int rv = past ? heap_read_at(h, at, ptr, offset, a, len) : heap_copy(h, ptr, offset, a, len);
    if (heap_damage(h, &text) != 0) {
        assert_int_equal(rv, heap_damage(h, &text));
        return false;
    }
    assert_int_equal(rv, want);
    if (rv == 0) {
        assert_memory_equal(a, b, len);
    }
    return true;
}

/* Of the first so many changes that are on record. */
static size_t count_events(const struct heap *h, uint32_t budget)
{
    static const struct events_filter all = {.what = EVENTS_ALL};
    struct events_cursor cursor = {.order = header(h)->history_from};
    struct heap_event event;
    size_t count = 0;
    while (events_next(h, &all, &cursor, &budget, &event) == 0) {
        count++;
    }
    return count;
}

/* Every way of looking that isn't a read of one object: what it says counts only without damage. */
static bool look_around(struct heap *h, struct heap *twin)
{
    static struct heap_class_stats classes[2][HEAP_CLASSES];
    static struct heap_object objects[2][64];
    uint64_t next[2];
    size_t counts[2];
    size_t events_found[2];
    const char *text;
    struct heap *heaps[2] = {h, twin};
    for (int i = 0; i < 2; i++) {
        counts[i] = heap_list_objects(heaps[i], 0, objects[i], 64, &next[i]);
        heap_get_class_stats(heaps[i], classes[i]);
        events_found[i] = count_events(heaps[i], 16);
    }
    if (heap_damage(h, &text) != 0) {
        return false;
    }
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(objects[0], objects[1], counts[0] * sizeof objects[0][0]);
    assert_memory_equal(classes[0], classes[1], sizeof classes[0]);
    assert_int_equal(events_found[0], events_found[1]);
    return true;
}

/* ---- pages ---- */

static void pages_equal(struct heap *a, struct heap *b)
{
    assert_int_equal(heap_digest(a), heap_digest(b));
    struct view *views[2];
    assert_int_equal(view_open(a, &views[0]), 0);
    assert_int_equal(view_open(b, &views[1]), 0);
    assert_int_equal(view_page_count(views[0]), view_page_count(views[1]));
    for (uint64_t p = 0; p < view_page_count(views[0]); p++) {
        const uint8_t *x = view_page(views[0], p);
        const uint8_t *y = view_page(views[1], p);
        assert_true((x == NULL) == (y == NULL));
        assert_true(x == NULL || memcmp(x, y, HEAP_PAGE_BYTES) == 0);
    }
    view_close(views[0]);
    view_close(views[1]);
}

/* The view shows what the heap was when it was opened, unless a page is damaged. */
static void view_is_sound(const struct setting *s, struct view *view)
{
    struct view *sound = NULL;
    assert_int_equal(view_open(s->sound, &sound), 0);
    for (uint64_t p = 0; p < view_page_count(sound) && !view_canceled(view); p++) {
        const uint8_t *x = view_page(view, p);
        const uint8_t *y = view_page(sound, p);
        if (view_canceled(view)) {
            break;
        }
        assert_true((x == NULL) == (y == NULL));
        assert_true(x == NULL || memcmp(x, y, HEAP_PAGE_BYTES) == 0);
    }
    view_close(sound);
}

static bool fill(struct setting *s, struct heap *h, uint64_t bytes)
{
    const char *text;
    bool left = image_fill(h, bytes);
    memdisk_run(&s->d, 1000000);
    return left && heap_damage(h, &text) == 0;
}

/* ---- the tests ---- */

static void use_one(struct setting *s, struct dice *dice, const char *file, struct tally *tally)
{
    struct image *image = NULL;
    struct heap *h = NULL;
    struct heap *twin = NULL;
    struct view *view = NULL;
    struct err_text e = {""};
    const char *text;
    int rv = open_image(s, &image, &h, &e);
    if (rv != 0) {
        assert_int_equal(rv, ERR_CORRUPT);
        assert_non_null(strstr(e.text, file));
        tally->refused++;
        return;
    }
    if (roll(dice, 3) == 0) {
        assert_int_equal(view_open(h, &view), 0);
    }
    /* The pages of a heap that was never on a disk. */
    struct view *all = NULL;
    struct heap_receive *r = NULL;
    assert_int_equal(view_open(s->sound, &all), 0);
    assert_int_equal(heap_receive_open(view_page_count(all), BYTES_MAX, &r), 0);
    for (uint64_t p = 0; p < view_page_count(all); p++) {
        const uint8_t *bytes = view_page(all, p);
        assert_int_equal(bytes == NULL ? 0 : heap_receive_page(r, p, bytes), 0);
    }
    assert_int_equal(
        heap_receive_finish(r, s->uid, view_index(all), view_term(all), view_digest(all), &twin),
        0);
    view_close(all);
    bool goes_on = true;
    for (int i = 0; i < COMMANDS && goes_on; i++) {
        goes_on = both_apply(s, dice, h, twin) && both_read(s, dice, h, twin);
        if (goes_on && roll(dice, 12) == 0) {
            (void)fill(s, h, 4 * HEAP_PAGE_BYTES);
        }
    }
    goes_on = goes_on && heap_damage(h, &text) == 0 && (roll(dice, 4) != 0 || look_around(h, twin));
    if (view != NULL) {
        view_is_sound(s, view);
        view_close(view);
    }
    bool met = !goes_on;
    while (goes_on && fill(s, h, (uint64_t)1 << 20)) {
    }
    rv = heap_damage(h, &text);
    if (rv != 0) {
        assert_int_equal(rv, ERR_CORRUPT);
        assert_non_null(strstr(text, file));
        assert_int_equal(heap_check(h, &e), ERR_CORRUPT);
        *(met ? &tally->met : &tally->found) += 1;
    } else {
        assert_null(h->arena.source);
        assert_int_equal(heap_check(h, &e), 0);
        pages_equal(h, twin);
        tally->harmless++; /* another file has the page, or a command overwrote all of it */
    }
    heap_free(twin);
    image_close(image);
    heap_free(h);
}

static void damage_and_use(struct setting *s, struct dice *dice, const char *file, uint8_t *at,
                           struct tally *tally)
{
    uint8_t bit = (uint8_t)(1u << roll(dice, 8));
    *at ^= bit;
    use_one(s, dice, file, tally);
    *at ^= bit;
}

static void damage_of_any_page_or_patch_is_met_or_found(void **state)
{
    (void)state;
    static struct setting s;
    struct tally tally = {0};
    uint64_t all_lines = 0;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct dice dice = {seed};
        setting_open(&s, seed);
        for (int which = 0; which < 64; which++) {
            const char *name = s.d.names[which].name;
            if (s.d.names[which].file < 0 || strncmp(name, "pages-", 6) != 0) {
                continue;
            }
            struct memdisk_file *f = &s.d.files[s.d.names[which].file];
            struct pages_footer *footer =
                (struct pages_footer *)(void *)(f->data + f->len - sizeof *footer);
            uint64_t pages = load_u64(&footer->present);
            uint64_t lines = load_u64(&footer->patch_lines);
            for (uint64_t i = 0; i < pages; i++) {
                uint8_t *at = f->data + (1 + i) * HEAP_PAGE_BYTES + roll(&dice, HEAP_PAGE_BYTES);
                damage_and_use(&s, &dice, name, at, &tally);
            }
            for (uint64_t i = 0; i < lines; i += 1 + roll(&dice, 3)) {
                uint8_t *at = f->data + (1 + pages) * HEAP_PAGE_BYTES + i * PATCH_LINE_BYTES +
                              roll(&dice, PATCH_LINE_BYTES);
                damage_and_use(&s, &dice, name, at, &tally);
            }
            all_lines += lines;
        }
        setting_close(&s);
    }
    (void)printf("%" PRIu64 " refused at opening, %" PRIu64 " met, %" PRIu64
                 " found in the background, %" PRIu64 " harmless\n",
                 tally.refused, tally.met, tally.found, tally.harmless);
    assert_true(all_lines > 50);
    assert_true(tally.met > 50);
    assert_true(tally.found > 20);
    assert_true(tally.refused > 20);
}

/* A machine believes what it has written itself. What it was given it checks first. */
static void a_foreign_image_is_checked_at_once(void **state)
{
    (void)state;
    static struct setting s;
    struct image *image = NULL;
    struct heap *h = NULL;
    struct err_text e = {""};
    setting_open(&s, 3);
    assert_int_equal(open_image(&s, &image, &h, &e), 0);
    assert_non_null(h->arena.source);
    (void)header_counts_edit(h);
    ((struct heap_header *)(void *)h->arena.base)->object_count++;
    checkpoint(&s, image, h);
    image_close(image);
    heap_free(h);
    s.d.env.host++;
    assert_int_equal(open_image(&s, &image, &h, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "live objects"));
    s.d.env.host = 0; /* a machine that doesn't know who it is trusts nobody */
    assert_int_equal(open_image(&s, &image, &h, &e), ERR_CORRUPT);
    s.d.env.host = 1;
    assert_int_equal(open_image(&s, &image, &h, &e), 0);
    header_counts_edit(h)->object_count--;
    checkpoint(&s, image, h);
    image_close(image);
    heap_free(h);
    s.d.env.host = 2;
    assert_int_equal(open_image(&s, &image, &h, &e), 0);
    assert_null(h->arena.source); /* all of it was read */
    image_close(image);
    heap_free(h);
    assert_int_equal(open_image(&s, &image, &h, &e), 0);
    assert_non_null(h->arena.source); /* and from now on it is its own */
    image_close(image);
    heap_free(h);
    setting_close(&s);
}

/* Little is read before the first call: the point of it all. */
static void opening_reads_little(void **state)
{
    (void)state;
    static struct setting s;
    struct image *image = NULL;
    struct heap *h = NULL;
    setting_open(&s, 4);
    assert_int_equal(open_image(&s, &image, &h, NULL), 0);
    uint64_t all = h->arena.present_count;
    assert_true(h->arena.unloaded_count > all / 2);
    while (fill(&s, h, 16 * HEAP_PAGE_BYTES)) {
    }
    assert_int_equal(h->arena.unloaded_count, 0);
    pages_equal(h, s.sound);
    image_close(image);
    heap_free(h);
    /* A base written meanwhile is whole. */
    assert_int_equal(open_image(&s, &image, &h, NULL), 0);
    struct image_result result = {.err = -1};
    heap_begin(h, heap_index(h) + 1, 1, 1);
    heap_end(h);
    assert_int_equal(image_replace(image, h, answered, &result), 0);
    (void)image_fill(h, 1 << 20);
    memdisk_run(&s.d, 1000000);
    assert_int_equal(result.err, 0);
    struct heap *again = NULL;
    assert_int_equal(image_read(&s.d.env, "/x", s.uid, IMAGE_DISK, &again, NULL), 0);
    pages_equal(h, again);
    heap_free(again);
    image_close(image);
    heap_free(h);
    setting_close(&s);
}

/* Small deltas go into the last one, whatever of them has been read. */
static void deltas_are_gathered_unread(void **state)
{
    (void)state;
    static struct setting s;
    struct image *image = NULL;
    struct heap *h = NULL;
    struct image_stats stats;
    setting_open(&s, 5);
    for (int round = 0; round < 40; round++) {
        assert_int_equal(open_image(&s, &image, &h, NULL), 0);
        uint64_t unread = h->arena.unloaded_count;
        uint64_t ptr = 0;
        heap_begin(h, heap_index(h) + 1, 1, 1);
        assert_int_equal(heap_alloc(h, heap_next_version(h), 100 + (uint64_t)round * 100, 0,
                                    slice_of("g", 1), &ptr),
                         0);
        heap_end(h);
        if (round % 4 == 1) {
            (void)image_fill(h, 16 * HEAP_PAGE_BYTES);
        }
        image_get_stats(image, &stats);
        uint64_t before = stats.delta_count;
        uint64_t bytes = stats.delta_bytes;
        if (round % 4 >= 2) {
            image_gather(image, h);
        }
        checkpoint(&s, image, h);
        image_get_stats(image, &stats);
        if (round % 4 >= 2 && stats.delta_count != 0 && bytes < 1 << 19) {
            assert_int_equal(stats.delta_count, 1);
        } else if (round % 4 < 2 && stats.delta_count != 0) {
            assert_int_equal(stats.delta_count, before + 1);
        }
        struct heap *again = NULL;
        assert_int_equal(image_read(&s.d.env, "/x", s.uid, IMAGE_DISK, &again, NULL), 0);
        assert_true(heap_digest(again) == heap_digest(h));
        heap_free(again);
        assert_int_equal(heap_load_all(h, NULL), 0);
        assert_int_equal(heap_check(h, NULL), 0);
        assert_true(round > 0 || unread > 0);
        image_close(image);
        heap_free(h);
    }
    setting_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_of_any_page_or_patch_is_met_or_found),
        cmocka_unit_test(a_foreign_image_is_checked_at_once),
        cmocka_unit_test(opening_reads_little),
        cmocka_unit_test(deltas_are_gathered_unread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
