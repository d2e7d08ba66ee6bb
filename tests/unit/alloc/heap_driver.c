#include "heap_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "base/assert.h"
#include "base/hlc.h"

/* Type 1 has pointers in front, type 2 a flexible array of them, type 3 is too wide a number for a
 * narrow header. */
static const uint32_t type_numbers[DRIVER_TYPES] = {1, 2, 20000};
#define POINTERS 3u /* of type 1, from offset 8 on */

static void must(bool holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "heap_driver: %s\n", what);
        abort();
    }
}

uint64_t driver_random(struct driver *d)
{
    d->seed = d->seed * 6364136223846793005ull + 1442695040888963407ull;
    return d->seed >> 33;
}

static uint64_t below(struct driver *d, uint64_t end)
{
    return driver_random(d) % end;
}

static struct heap_field field(const char *name, enum heap_field_kind kind, uint32_t offset,
                               uint32_t count)
{
    return (struct heap_field){
        .name = slice_of(name, strlen(name)), .kind = kind, .offset = offset, .count = count};
}

static void types_register(struct driver *d)
{
    static const char *const names[DRIVER_TYPES] = {"node", "list", "far"};
    heap_begin(d->heap, 1, 1, 1);
    for (uint32_t i = 0; i < DRIVER_TYPES; i++) {
        struct heap_type *type = calloc(1, sizeof *type);
        struct buf bytes;
        buf_init(&bytes);
        must(type != NULL, "memory");
        type->number = type_numbers[i];
        type->name = slice_of(names[i], strlen(names[i]));
        type->size = 8;
        type->fields[type->field_count++] = field("id", FIELD_U64, 0, 1);
        if (i == 0) {
            type->size = 8 + POINTERS * 8;
            type->fields[type->field_count++] = field("next", FIELD_PTR, 8, POINTERS);
        } else if (i == 1) {
            type->fields[type->field_count++] = field("items", FIELD_PTR, 8, 0);
        }
        must(heap_type_encode(type, &bytes) == 0, "type encode");
        int rv = heap_type_register(d->heap, heap_next_version(d->heap), type->number,
                                    slice_of(bytes.data, bytes.len));
        must(rv == 0, "type register");
        buf_close(&bytes);
        free(type);
    }
    heap_end(d->heap);
}

void driver_open(struct driver *d, uint64_t seed, uint64_t bytes_max, uint32_t granule_shift,
                 uint64_t retention_ms, uint64_t size_max)
{
    struct heap_opts opts = {.uid = 7,
                             .heap_id = 3,
                             .shard = 5,
                             .bytes_max = bytes_max,
                             .granule_shift = granule_shift,
                             .retention_ms = retention_ms};
    memset(d, 0, sizeof *d);
    d->seed = seed;
    d->size_max = size_max;
    must(heap_create(&opts, &d->heap) == 0, "create");
    types_register(d);
}

void driver_close(struct driver *d)
{
    heap_free(d->heap);
    d->heap = NULL;
}

static void check_result(struct driver *d, int rv)
{
    if (rv == ERR_NOSPACE) {
        d->nospace++;
    } else if (rv != 0) {
        (void)fprintf(stderr, "heap_driver: %s\n", err_text_of(rv));
        abort();
    }
}

static uint64_t random_size(struct driver *d)
{
    switch (below(d, 8)) {
    case 0:
        return 1 + below(d, 16);
    case 1:
    case 2:
        return 1 + below(d, 300);
    case 3:
        return 900 + below(d, 300);
    case 4:
        return 3900 + below(d, 400);
    case 5:
        return 1 + below(d, 20000);
    default:
        return 1 + below(d, d->size_max);
    }
}

static uint64_t random_ptr(struct driver *d)
{
    return d->count == 0 ? 0 : d->ptrs[below(d, d->count)];
}

static uint32_t random_type(struct driver *d)
{
    return below(d, 3) == 0 ? 0 : type_numbers[below(d, DRIVER_TYPES)];
}

/* Objects of types with pointers begin without any. */
static struct slice random_init(struct driver *d, uint32_t type, uint64_t size)
{
    static uint8_t junk[4096];
    uint64_t most = type == 1 || type == 2 ? 8 : sizeof junk;
    most = most < size ? most : size;
    memset(junk, (int)below(d, 256), sizeof junk);
    return slice_of(junk, (size_t)below(d, most + 1));
}

static void remember(struct driver *d, int rv, uint64_t ptr)
{
    check_result(d, rv);
    if (rv == 0) {
        d->ptrs[d->count++] = ptr;
    }
}

static void step_alloc(struct driver *d, uint64_t version)
{
    if (d->count == DRIVER_OBJECTS) {
        return;
    }
    uint64_t size = random_size(d);
    uint32_t type = random_type(d);
    uint64_t ptr = 0;
    int rv = heap_alloc(d->heap, version, size, type, random_init(d, type, size), &ptr);
    remember(d, rv, ptr);
}

static void step_free(struct driver *d, uint64_t version)
{
    if (d->count == 0) {
        return;
    }
    size_t at = (size_t)below(d, d->count);
    int rv = heap_free_object(d->heap, version, d->ptrs[at]);
    check_result(d, rv);
    if (rv == 0) {
        d->ptrs[at] = d->ptrs[--d->count];
    }
}

static void step_write(struct driver *d, uint64_t version)
{
    static uint8_t junk[8192];
    struct heap_object o;
    uint64_t ptr = random_ptr(d);
    if (ptr == 0 || heap_stat(d->heap, ptr, &o) != 0) {
        return;
    }
    if (o.type == 1 || o.type == 2) { /* a pointer field, and what it leads to */
        uint64_t items = o.size < 16 ? 0 : (o.size - 8) / 8;
        uint64_t target = random_ptr(d);
        if (items > 0) {
            uint64_t item = below(d, o.type == 1 && items > POINTERS ? POINTERS : items);
            check_result(d, heap_write(d->heap, version, ptr, 8 + item * 8, slice_of(&target, 8)));
        }
        return;
    }
    uint64_t from = below(d, o.size);
    uint64_t len = o.size - from < sizeof junk ? o.size - from : sizeof junk;
    memset(junk, (int)below(d, 256), sizeof junk);
    check_result(d, heap_write(d->heap, version, ptr, from, slice_of(junk, len)));
}

static void step_realloc(struct driver *d, uint64_t version)
{
    uint64_t ptr = random_ptr(d);
    if (ptr != 0) {
        check_result(d, heap_realloc(d->heap, version, ptr, random_size(d)));
    }
}

static void step_root(struct driver *d, uint64_t version)
{
    char name[32];
    int len = snprintf(name, sizeof name, "root-%u", (unsigned)below(d, DRIVER_ROOTS));
    bool set = below(d, 3) != 0;
    struct heap_command c = {.kind = set ? HEAP_COMMAND_ROOT_SET : HEAP_COMMAND_ROOT_DELETE,
                             .name = slice_of(name, (size_t)len),
                             .ptr = random_ptr(d)};
    struct heap_outcome out;
    if (set && c.ptr == 0) {
        return;
    }
    must(heap_apply(d->heap, version, &c, &out) == 0, "root");
    must(out.code == 0 || out.code == ERR_NOTFOUND || out.code == ERR_NOSPACE, "root's answer");
}

static void step_lease(struct driver *d, uint64_t version)
{
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    if (d->lease_count < DRIVER_LEASES && below(d, 2) == 0) {
        uint64_t lease = 0;
        uint64_t session = 1 + below(d, 5);
        int rv = heap_lease(d->heap, session, (uint32_t)(1 + below(d, 40)), &lease, ptrs);
        check_result(d, rv);
        if (rv == 0) {
            d->leases[d->lease_count].lease = lease;
            d->leases[d->lease_count++].session = session;
        }
        return;
    }
    if (d->lease_count == 0) {
        return;
    }
    size_t at = (size_t)below(d, d->lease_count);
    uint64_t session = 0;
    uint32_t left = 0;
    int rv = heap_lease_get(d->heap, d->leases[at].lease, &session, ptrs, &left);
    if (rv == 0 && below(d, 4) == 0) {
        rv = heap_lease_return(d->heap, d->leases[at].lease);
        left = 0;
    }
    if (rv != 0 || left == 0) { /* used up, or returned just now */
        d->leases[at] = d->leases[--d->lease_count];
        return;
    }
    if (d->count < DRIVER_OBJECTS) {
        uint64_t ptr = ptrs[below(d, left)];
        uint64_t size = random_size(d);
        uint32_t type = random_type(d);
        remember(d,
                 heap_alloc_leased(d->heap, version, session, ptr, size, type,
                                   random_init(d, type, size)),
                 ptr);
    }
}

static void step_upkeep(struct driver *d)
{
    uint64_t left = 0;
    struct heap_defrag out;
    switch (below(d, 8)) {
    case 0:
    case 1:
    case 2:
        heap_reclaim(d->heap, UINT64_MAX, (uint32_t)below(d, 100), &left);
        break;
    case 3:
    case 4:
    case 5:
        must(heap_defrag(d->heap, below(d, HEAP_DEFRAG_BYTES_MAX), &out) == 0, "defrag");
        break;
    case 6:
        (void)heap_trim(d->heap, below(d, 1 << 20));
        break;
    default:
        if (below(d, 6) == 0) {
            check_result(d, heap_set_retention(d->heap, below(d, 3) * 100));
        }
        break;
    }
}

void driver_step(struct driver *d)
{
    /* A millisecond and a bit an entry, so that history ages. */
    uint64_t index = heap_index(d->heap) + 1;
    heap_begin(d->heap, index, 1, hlc_from_ms(index + below(d, 3)));
    uint64_t version = heap_next_version(d->heap);
    uint64_t roll = below(d, 100);
    if (roll < 30) {
        step_alloc(d, version);
    } else if (roll < 50) {
        step_free(d, version);
    } else if (roll < 68) {
        step_write(d, version);
    } else if (roll < 80) {
        step_realloc(d, version);
    } else if (roll < 87) {
        step_root(d, version);
    } else if (roll < 93) {
        step_lease(d, version);
    } else {
        step_upkeep(d);
    }
    heap_end(d->heap);
}

/* ---- what must dangle ---- */

/* ERR_INVAL: null, or what is left of a pointer that a shrink cut in two: not this shard's. */
static bool dangles(const struct driver *d, uint64_t ptr)
{
    struct heap_object o;
    return heap_stat(d->heap, ptr, &o) == ERR_STALE;
}

uint64_t driver_dangling(const struct driver *d)
{
    uint64_t count = 0;
    struct slice key = slice_of(NULL, 0);
    struct slice value;
    while (heap_map_next(d->heap, HEAP_MAP_ROOTS, key, &key, &value) == 0) {
        struct root_record r;
        memcpy(&r, value.data, sizeof r);
        count += dangles(d, r.ptr);
    }
    for (size_t i = 0; i < d->count; i++) {
        struct heap_object o;
        must(heap_stat(d->heap, d->ptrs[i], &o) == 0, "an object is gone");
        uint64_t items = o.type == 1 ? POINTERS : o.type == 2 ? UINT64_MAX : 0;
        for (uint64_t k = 0; k < items && 16 + k * 8 <= o.size; k++) {
            uint64_t ptr = 0;
            must(heap_copy(d->heap, d->ptrs[i], 8 + k * 8, &ptr, 8) == 0, "copy");
            count += dangles(d, ptr);
        }
    }
    return count;
}
