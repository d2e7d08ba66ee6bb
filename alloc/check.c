/* heap_check(): every structure against every other. It trusts nothing, since it is also what
 * stands between a page from the disk or a peer and the engine: a heap that passes can't make any
 * later call leave its bounds, loop for ever or fail an assert.
 *
 * The steps, each on what the ones before have bounded: the header; which pages are there; granule
 * maps, extents and slabs (check_space.c); the slot table and by it all objects (check_slot.c,
 * check_object.c); maps (check_map.c) and with them each object's history, the queue of undo
 * records (check_undo.c); at last the header's counters against the recount. */
#include "alloc/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "base/mem.h"

/* ---- findings ---- */

__attribute__((format(printf, 4, 0))) static void finding(struct check *c,
                                                          enum heap_severity severity,
                                                          const char *code, const char *format,
                                                          va_list args)
{
    char text[ERR_TEXT_BYTES];
    if (c->stop) {
        return;
    }
    (void)vsnprintf(text, sizeof text, format, args);
    c->found++;
    c->damage += severity == HEAP_FINDING_DAMAGE;
    c->stop = c->found >= c->max;
    c->cb(c->arg, severity, code, text);
}

void check_damage(struct check *c, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding(c, HEAP_FINDING_DAMAGE, code, format, args);
    va_end(args);
}

void check_dangling(struct check *c, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding(c, HEAP_FINDING_DANGLING, code, format, args);
    va_end(args);
}

struct pointer_text check_pointer(const struct check *c, uint64_t generation, uint64_t slot)
{
    struct pointer_text out;
    (void)snprintf(out.text, sizeof out.text, "%u.%" PRIu64 ".%010" PRIx64, c->hd->shard,
                   generation, slot);
    return out;
}

/* ---- looking at bytes ---- */

const void *check_look(const struct check *c, uint64_t address)
{
    static const uint64_t zero[PAGE_BYTES / 8]; /* an absent page; its memory may have leftovers */
    return check_page_is_there(c, address) ? arena_at(&c->h->arena, address)
                                           : (const uint8_t *)zero + (address & (PAGE_BYTES - 1));
}

const void *check_data(const struct check *c, uint64_t address, uint64_t len)
{
    uint64_t end = c->h->regions.data_at + c->hd->data_bytes;
    if (address < c->h->regions.data_at || address > end || len > end - address) {
        return NULL;
    }
    for (uint64_t at = address & ~(PAGE_BYTES - 1); at < address + len; at += PAGE_BYTES) {
        if (!check_page_is_there(c, at)) {
            return NULL;
        }
    }
    return arena_at(&c->h->arena, address);
}

bool check_is_zero(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    for (; len > 0 && ((uintptr_t)p & 7) != 0; p++, len--) {
        if (*p != 0) {
            return false;
        }
    }
    for (; len >= 8; p += 8, len -= 8) {
        if (load_u64(p) != 0) {
            return false;
        }
    }
    for (; len > 0; p++, len--) {
        if (*p != 0) {
            return false;
        }
    }
    return true;
}

/* ---- header ---- */

int check_header(const struct heap *h, struct err_text *e)
{
    const struct heap_header *hd = header(h);
    const struct heap_regions *r = &h->regions;
    if (!pageset_has(&h->arena.present, 0) || hd->magic != HEAP_MAGIC) {
        return err_set(e, ERR_CORRUPT, "page 0 is not the header of a heap");
    }
    /* Another engine would go on in another way than the log's other replicas, or did (E16). */
    if (hd->format != HEAP_FORMAT || hd->engine != HEAP_ENGINE) {
        return err_set(e, ERR_VERSION, "heap format %u, engine %u; this program knows %u, %u",
                       hd->format, hd->engine, HEAP_FORMAT, HEAP_ENGINE);
    }
    if (hd->granule_shift != r->granule_shift || hd->shard >= 4096) {
        return err_set(e, ERR_CORRUPT, "page 0: fields don't fit the heap's limit");
    }
    uint64_t unit = (uint64_t)1 << r->granule_shift;
    unit = unit < PAGE_BYTES ? PAGE_BYTES : unit;
    if (hd->data_bytes > hd->bytes_max || hd->data_bytes % unit != 0 ||
        hd->data_bytes >> r->granule_shift > r->granules_max || r->data_at > r->end ||
        hd->data_bytes > r->end - r->data_at || hd->slot_pages > r->slot_pages_max ||
        hd->slot_frames > r->frames_max) {
        return err_set(e, ERR_CORRUPT, "page 0: a region is larger than its limit");
    }
    if (space_bytes(h) > hd->bytes_max) {
        return err_set(e, ERR_CORRUPT, "page 0: larger than its limit of %" PRIu64 " bytes",
                       hd->bytes_max);
    }
    return 0;
}

static void check_reserved(struct check *c)
{
    const struct heap_header *hd = c->hd;
    bool zero = hd->reserved0 == 0 && check_is_zero(hd + 1, PAGE_BYTES - sizeof *hd);
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        zero = zero &&
               check_is_zero(&hd->slabs[pool][SLAB_CLASSES],
                             sizeof hd->slabs[pool] - SLAB_CLASSES * sizeof hd->slabs[pool][0]);
    }
    if (!zero) {
        check_damage(c, "header-reserved", "page 0: reserved bytes aren't zero");
    }
    if (hd->safepoint > hd->clock) {
        check_damage(c, "header-field",
                     "page 0: the safepoint is ahead of the clock; no version could be read");
    }
    if (hd->lease_next == 0 || hd->lease_next >> (PLACE_BITS - 1) != 0 ||
        hd->clock > UINT64_MAX / 2 || hd->last_order >> ORDER_INDEX_SHIFT > hd->index ||
        hd->history_from > hd->last_order) {
        check_damage(c, "header-field", "page 0: a number that only goes up is at its end");
    }
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
}

void check_regions(const struct heap *h, struct page_range out[CHECK_REGIONS])
{
    const struct heap_regions *r = &h->regions;
    const struct heap_header *hd = header(h);
    uint64_t words = ((hd->data_bytes >> r->granule_shift) + 63) / 64;
    out[0] = (struct page_range){0, r->directory_at >> PAGE_SHIFT};
    out[1] = (struct page_range){r->directory_at >> PAGE_SHIFT,
                                 pages_of((uint64_t)hd->slot_pages * sizeof(uint32_t))};
    out[2] = (struct page_range){r->granules_at >> PAGE_SHIFT,
                                 pages_of(words * sizeof(struct granules))};
    out[3] = (struct page_range){r->frames_at >> PAGE_SHIFT, hd->slot_frames};
    out[4] = (struct page_range){r->data_at >> PAGE_SHIFT, hd->data_bytes >> PAGE_SHIFT};
}

uint64_t check_page_outside(const struct heap *h)
{
    struct page_range ranges[CHECK_REGIONS];
    const struct arena *a = &h->arena;
    check_regions(h, ranges);
    uint64_t page = 0;
    for (size_t i = 0; i < CHECK_REGIONS; i++) {
        page = pageset_next(&a->present, page, a->pages);
        if (page < ranges[i].first) {
            return page;
        }
        page = ranges[i].first + ranges[i].count;
    }
    page = pageset_next(&a->present, page, a->pages);
    return page < a->pages ? page : 0;
}

/* Present pages lie in what the regions use. */
static void check_present(struct check *c)
{
    const struct arena *a = &c->h->arena;
    struct page_range ranges[CHECK_REGIONS];
    check_regions(c->h, ranges);
    size_t range = 0;
    uint64_t count = 0;
    for (uint64_t page = 0; (page = pageset_next(&a->present, page, a->pages)) < a->pages; page++) {
        while (range + 1 < CHECK_REGIONS && page >= ranges[range + 1].first) {
            range++;
        }
        if (page >= ranges[range].first + ranges[range].count) {
            check_damage(c, "page-outside",
                         "page %" PRIu64 " is present, but no region reaches there", page);
        }
        if (c->stop) {
            return;
        }
        count++;
    }
    if (count != a->present_count) {
        check_damage(c, "page-count", "%" PRIu64 " pages are present, counted as %" PRIu64, count,
                     a->present_count);
    }
}

/* ---- counters ---- */

void check_count(struct check *c, const char *what, uint64_t found, uint64_t counted)
{
    if (found != counted && !c->stop) {
        check_damage(c, "count", "%s: %" PRIu64 ", the header counts %" PRIu64, what, found,
                     counted);
    }
}

static void check_counters(struct check *c)
{
    static const char *const pools[POOLS] = {"blocks of objects", "blocks of maps",
                                             "blocks of undo records"};
    const struct heap_header *hd = c->hd;
    for (uint32_t pool = 0; pool < POOLS; pool++) {
        check_count(c, pools[pool], c->blocks[pool], hd->block_count[pool]);
        check_count(c, "their bytes", c->bytes[pool], hd->block_bytes[pool]);
    }
    check_count(c, "live objects", c->live, hd->object_count);
    check_count(c, "bytes of live objects", c->live_bytes, hd->object_bytes);
    check_count(c, "freed objects kept for history", c->dead, hd->dead_count);
    check_count(c, "bytes of freed objects", c->dead_bytes, hd->dead_bytes);
    check_count(c, "chunks", c->chunks, hd->chunk_count);
    check_count(c, "leased slots", c->leased, hd->leased_count);
    check_count(c, "leased slots in leases", c->leases_left, c->leased);
    check_count(c, "undo records", c->queued, hd->undo_count);
    check_count(c, "bytes of undo records", c->queued_bytes, hd->undo_bytes);
    check_count(c, "undo records in objects' chains", c->chained, c->queued);
    check_count(c, "records of freed objects", c->queued_frees, c->dead);
    check_count(c, "placeholders of roots", c->roots_reserved, hd->roots_reserved);
    check_count(c, "objects with a history", c->histories, hd->maps[HEAP_MAP_UNDO].count);
}

/* Each owner owns another block (see check_object.c): equal numbers mean that all are owned. */
static void check_owners(struct check *c)
{
    if (c->live + c->dead + c->unborn + c->spares + c->chunks != c->blocks[POOL_OBJECTS] ||
        c->damage > 0) {
        check_lost_objects(c);
    }
    if (!c->stop && (c->map_nodes != c->blocks[POOL_MAPS] || c->damage > 0)) {
        check_lost_records(c);
    }
    if (!c->stop && (c->queued != c->blocks[POOL_UNDO] || c->damage > 0)) {
        check_lost_undo(c);
    }
    check_count(c, "blocks that objects have",
                c->live + c->dead + c->unborn + c->spares + c->chunks, c->blocks[POOL_OBJECTS]);
    check_count(c, "blocks that maps have", c->map_nodes, c->blocks[POOL_MAPS]);
    check_count(c, "blocks that the undo queue has", c->queued, c->blocks[POOL_UNDO]);
}

static void check_all(struct check *c)
{
    struct checked_slab near[CHECKED_SLABS];
    static void (*const steps[])(struct check *) = {
        check_reserved, check_present,    check_space,  check_slots,   check_maps,
        check_txns,     check_undo_queue, check_owners, check_counters};
    c->hd = header(c->h);
    c->granules = c->hd->data_bytes >> c->h->regions.granule_shift;
    memset(near, 0, sizeof near);
    c->near = near;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && !c->stop; i++) {
        steps[i](c);
    }
    c->near = NULL;
}

static void first_finding(void *arg, enum heap_severity severity, const char *code,
                          const char *text)
{
    (void)severity;
    (void)err_set(arg, ERR_CORRUPT, "heap: %s (%s)", text, code);
}

int heap_check(const struct heap *heap, struct err_text *e)
{
    struct check c = {.h = heap, .cb = first_finding, .arg = e, .max = 1};
    int rv = heap_load_all(heap, e);
    if (rv == 0) {
        rv = check_header(heap, e);
    }
    if (rv != 0) {
        return rv;
    }
    check_all(&c);
    return c.damage > 0 ? ERR_CORRUPT : 0;
}

uint64_t heap_check_all(const struct heap *heap, uint64_t max, heap_finding_cb cb, void *arg)
{
    struct check c = {.h = heap, .cb = cb, .arg = arg, .max = max};
    struct err_text e = {""};
    if (max == 0) {
        return 0;
    }
    if (heap_load_all(heap, &e) != 0) {
        cb(arg, HEAP_FINDING_DAMAGE, "page-checksum", e.text);
        return 1;
    }
    if (check_header(heap, &e) != 0) {
        cb(arg, HEAP_FINDING_DAMAGE, "header-field", e.text);
        return 1;
    }
    check_all(&c);
    /* Only a sound heap may be walked by the engine's own calls. */
    if (c.damage == 0 && !c.stop) {
        check_dangling_all(&c);
    }
    return c.damage;
}
