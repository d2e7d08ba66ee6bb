/* Space management alone, at the size of a large heap: 1 TiB in granules of 16 KiB, up to ten
 * million records of 100 KiB on average and 5 MiB at most. Extents and slots are those of the
 * engine; the records have no bytes: a header would touch a page of each, and a machine would need
 * a terabyte. So what is measured is finding, marking and giving back, and what they cost in
 * metadata.
 *
 *   cairn-bench-population [RECORDS [OPERATIONS]]
 *
 * At 10^3, 10^4 ... records: nanoseconds (of CPU) of an allocation while filling up to there; of a
 * free and of an allocation when a random record goes and another one, of another size, comes. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "alloc/ahead.h"
#include "alloc/engine.h"

#define HEAP_BYTES        ((uint64_t)1 << 40)
#define GRANULE_SHIFT     14
#define RECORD_BYTES_MEAN (100u << 10) /* as allocated, in whole granules */
#define RECORD_BYTES_MAX  (5u << 20)
#define SCALE_BYTES       94000.0 /* of the exponential distribution that has this mean */

struct bench {
    struct heap *heap;
    uint64_t *slots; /* of the records */
    uint64_t count;
    uint64_t seed;
    uint64_t asked, refused; /* bytes; allocations */
};

static uint64_t dice(struct bench *b)
{
    b->seed ^= b->seed << 13;
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return b->seed;
}

static double now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* so that neighbours don't count */
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint64_t record_bytes(struct bench *b)
{
    double u = ((double)(dice(b) >> 11) + 1) / 9007199254740993.0;
    double bytes = -SCALE_BYTES * log(u);
    return bytes < 1 ? 1 : bytes > RECORD_BYTES_MAX ? RECORD_BYTES_MAX : (uint64_t)bytes;
}

/* False: no space. */
static bool record_add(struct bench *b, uint64_t bytes)
{
    uint64_t slot = 0;
    uint64_t granule = 0;
    if (slot_prepare(b->heap, &slot) != 0 || extent_alloc(b->heap, true, bytes, &granule) != 0) {
        b->refused++;
        return false;
    }
    (void)slot_take(b->heap, slot, SLOT_LIVE, place_make(granule << GRANULE_SHIFT, PLACE_NO_CLASS));
    b->slots[b->count++] = slot;
    b->asked += bytes;
    return true;
}

static uint64_t granule_of(const struct bench *b, uint64_t slot)
{
    return place_granule(b->heap, slot_word_place(slot_get(b->heap, slot)));
}

/* As applying an entry does it (alloc/ahead.h). */
static void foresee(const struct bench *b, const uint64_t *slots, uint64_t i, uint64_t count)
{
    if (i + 2 < count) {
        heap_foresee_slot(b->heap, slots[i + 2]);
    }
    if (i + 1 < count) {
        extent_prefetch(b->heap, granule_of(b, slots[i + 1]));
    }
}

static void record_drop(struct bench *b, uint64_t slot)
{
    extent_free(b->heap, granule_of(b, slot));
    slot_release(b->heap, slot);
}

/* A random record leaves the table. */
static uint64_t record_pick(struct bench *b)
{
    uint64_t i = dice(b) % b->count;
    uint64_t slot = b->slots[i];
    b->slots[i] = b->slots[--b->count];
    return slot;
}

static void churn(struct bench *b, uint64_t operations, double *free_ns, double *alloc_ns)
{
    /* In groups, so that the clock isn't what is measured; nor is the table of all records. */
    enum { GROUP = 256 };
    *free_ns = *alloc_ns = 0;
    for (uint64_t done = 0; done < operations; done += GROUP) {
        uint64_t sizes[GROUP];
        uint64_t slots[GROUP];
        uint64_t gone = 0;
        while (gone < GROUP && b->count > 0) {
            slots[gone++] = record_pick(b);
        }
        double at = now_ns();
        for (uint64_t i = 0; i < gone; i++) {
            foresee(b, slots, i, gone);
            record_drop(b, slots[i]);
        }
        *free_ns += now_ns() - at;
        for (uint64_t i = 0; i < gone; i++) {
            sizes[i] = record_bytes(b);
        }
        at = now_ns();
        for (uint64_t i = 0; i < gone; i++) {
            (void)record_add(b, sizes[i]);
        }
        *alloc_ns += now_ns() - at;
    }
    *free_ns /= (double)operations;
    *alloc_ns /= (double)operations;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static void report(const struct bench *b, double fill_ns, double free_ns, double alloc_ns)
{
    const struct heap *h = b->heap;
    const struct heap_header *hd = header(h);
    uint64_t used = hd->used_granules << GRANULE_SHIFT;
    uint64_t slots = (uint64_t)hd->slot_frames * PAGE_BYTES;
    uint64_t maps = space_bytes(h) - hd->data_bytes - slots;
    uint64_t index = space_index_bytes(h);
    printf("%9" PRIu64 " %8.0f %8.0f %8.0f %9.2f %9.2f %9.2f %9.2f %7.2f %8.2f %8.2f %8" PRIu64
           "\n",
           b->count, fill_ns, alloc_ns, free_ns, (double)maps / 1e6, (double)index / 1e6,
           (double)slots / 1e6, (double)(maps + index + slots) / 1e6,
           (double)(maps + index + slots) / (double)b->count, percent(used, hd->data_bytes),
           percent(used, HEAP_BYTES), b->refused);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    uint64_t records = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000;
    uint64_t operations = argc > 2 ? strtoull(argv[2], NULL, 10) : 200000;
    struct bench b = {.seed = 88172645463325252ull};
    struct heap_opts opts = {
        .uid = 1, .heap_id = 1, .bytes_max = HEAP_BYTES, .granule_shift = GRANULE_SHIFT};
    b.slots = calloc(records + 1, sizeof *b.slots);
    if (b.slots == NULL || heap_create(&opts, &b.heap) != 0) {
        (void)fprintf(stderr, "not enough memory or address space\n");
        return 1;
    }
    printf("1 TiB, granules of 16 KiB, records of %u KiB on average (in whole granules), 5 MiB at "
           "most.\nExtents and slots only: no record has a header or bytes, no page of theirs is "
           "touched.\nMetadata in MB (10^6): space = header, slot directory, granule maps; index "
           "= local memory above the maps;\nslots at 8 bytes each. used/data: of the data as it "
           "is; fill: of the 1 TiB.\n\n",
           RECORD_BYTES_MEAN >> 10);
    printf("%9s %8s %8s %8s %9s %9s %9s %9s %7s %8s %8s %8s\n", "records", "fill ns", "alloc ns",
           "free ns", "space MB", "index MB", "slots MB", "all MB", "B/rec", "used/data", "fill %",
           "refused");
    for (uint64_t target = 1000;; target *= 10) {
        target = target < records ? target : records;
        uint64_t from = b.count;
        double at = now_ns();
        while (b.count < target && record_add(&b, record_bytes(&b))) {
        }
        double fill_ns = (now_ns() - at) / (double)(b.count - from + 1);
        double free_ns = 0;
        double alloc_ns = 0;
        churn(&b, operations, &free_ns, &alloc_ns);
        report(&b, fill_ns, free_ns, alloc_ns);
        if (target == records) {
            break;
        }
    }
    /* Where the next one doesn't fit any more, after all that churn. */
    uint64_t refused = b.refused;
    while (b.count < records * 2 && b.refused == refused) {
        uint64_t *more = realloc(b.slots, (b.count + 2) * sizeof *b.slots);
        if (more == NULL) {
            break;
        }
        b.slots = more;
        (void)record_add(&b, record_bytes(&b));
    }
    printf("\nfirst refusal: %" PRIu64 " records, %.2f %% of the 1 TiB allocated\n", b.count,
           percent(header(b.heap)->used_granules << GRANULE_SHIFT, HEAP_BYTES));
    heap_free(b.heap);
    free(b.slots);
    return 0;
}
