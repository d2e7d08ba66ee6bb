/* Transactions: their life, and what is done in them before they commit. */
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define POINTER_SHARD_SHIFT 52 /* shard:12 | generation:14 | slot:38 */

/* ---- life ---- */

void cairn_tx_opts_init(cairn_tx_opts *opts, size_t struct_size)
{
    cairn_tx_opts defaults = {.struct_size = struct_size,
                              .isolation = CAIRN_SERIALIZABLE,
                              .items_max = TX_ITEMS_MAX,
                              .bytes_max = TX_BYTES_MAX};
    if (opts == NULL) {
        return;
    }
    memset(opts, 0, struct_size);
    memcpy(opts, &defaults, struct_size < sizeof defaults ? struct_size : sizeof defaults);
}

static int opts_take(cairn_tx_opts *out, const cairn_tx_opts *opts)
{
    cairn_tx_opts_init(out, sizeof *out);
    if (opts == NULL) {
        return 0;
    }
    if (opts->struct_size < sizeof opts->struct_size || opts->struct_size > 4096) {
        return sdk__fail(CAIRN_E_INVAL, "set up the options with cairn_tx_opts_init()");
    }
    memcpy(out, opts, opts->struct_size < sizeof *out ? opts->struct_size : sizeof *out);
    if (out->isolation > CAIRN_READ_COMMITTED || out->items_max == 0 ||
        out->items_max > TX_ITEMS_MAX || out->bytes_max == 0 || out->bytes_max > TX_BYTES_MAX) {
        return sdk__fail(CAIRN_E_INVAL,
                         "options: an isolation level, items_max 1..%d, bytes_max 1..%u",
                         TX_ITEMS_MAX, TX_BYTES_MAX);
    }
    out->read_only = out->read_only != 0 || out->read_at != 0;
    return 0;
}

uint64_t sdk__now_ns(void)
{
    struct timespec at = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

uint32_t sdk__tx_left_ms(const struct tx_set *set)
{
    uint64_t now = sdk__now_ns();
    uint64_t left = set->deadline_ns > now ? (set->deadline_ns - now + 999999) / 1000000u : 0;
    return left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
}

/* Coarse clocks are behind by a tick, of which there are 100 a second or more. */
#define COARSE_NS 20000000u

uint32_t sdk__tx_left_ms_about(const struct tx_set *set)
{
    struct timespec at = {0};
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &at);
    uint64_t now = (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
    uint64_t left = set->deadline_ns > now ? set->deadline_ns - now : 0;
    return left > COARSE_NS && left / 1000000u < UINT32_MAX ? (uint32_t)(left / 1000000u)
                                                            : sdk__tx_left_ms(set);
}

static struct cairn_tx *part_new(struct tx_set *set, struct cairn_heap *heap)
{
    struct cairn_tx *tx = set->first.set == NULL ? &set->first : mem_zalloc(sizeof *tx);
    if (tx != NULL) {
        tx->set = set;
        tx->heap = heap;
        list_push_back(&set->parts, &tx->link);
    }
    return tx;
}

int cairn_tx_begin(cairn_heap *heap, const cairn_tx_opts *opts, cairn_tx **out)
{
    if (out == NULL) {
        return sdk__missing("tx");
    }
    *out = NULL;
    cairn_tx_opts taken;
    if (heap == NULL) {
        return sdk__missing("heap");
    }
    int rv = opts_take(&taken, opts);
    if (rv != 0) {
        return rv;
    }
    struct tx_set *set = sdk__tx_set_new(heap->client);
    if (set == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    set->opts = taken;
    set->at = taken.read_at;
    uint32_t ms = taken.deadline_ms != 0 ? taken.deadline_ms : heap->client->timeout_ms;
    set->deadline_ns = sdk__now_ns() + ms * UINT64_C(1000000);
    *out = part_new(set, heap);
    return 0;
}

int cairn_tx_join(cairn_tx *tx, cairn_heap *heap, cairn_tx **part)
{
    if (part == NULL) {
        return sdk__missing("part");
    }
    *part = NULL;
    if (tx == NULL || heap == NULL) {
        return sdk__missing(tx == NULL ? "tx" : "heap");
    }
    if (heap->client != tx->heap->client) {
        return sdk__fail(CAIRN_E_INVAL, "a transaction is of one client");
    }
    if (heap->client->embedded != NULL) {
        return sdk__fail(CAIRN_E_UNSUPPORTED, "in a directory a transaction has one heap");
    }
    if (sdk__tx_sees_one_time(tx->set) && tx->set->at != 0) {
        int rv = sdk__tx_only_reads(tx->set);
        return rv != 0 ? rv
                       : sdk__fail(CAIRN_E_INVAL,
                                   "the first read has fixed the version of the heaps that "
                                   "the transaction had then: join before it");
    }
    *part = part_new(tx->set, heap);
    return *part != NULL ? 0 : sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
}

void cairn_tx_abort(cairn_tx *tx)
{
    if (tx != NULL) {
        if (tx->set->allocated) {
            sdk__lease_burn_unused(tx->set, true, false);
        }
        sdk__tx_set_free(tx->set);
    }
}

/* ---- aiming ---- */

uint32_t sdk__tx_shard_index(const struct cairn_heap *heap, const struct core_shard *shard)
{
    uint32_t i = 0;
    while (i < heap->core->count && heap->core->shards[i] != shard) {
        i++;
    }
    assert(i < heap->core->count);
    return i;
}

int sdk__tx_aim(const struct cairn_heap *heap, uint64_t ptr, struct core_shard **out)
{
    uint64_t index = ptr >> POINTER_SHARD_SHIFT;
    if (ptr == 0) {
        return sdk__fail(CAIRN_E_INVAL, "the pointer is CAIRN_NULL");
    }
    if (index >= heap->core->count) {
        return sdk__fail(CAIRN_E_INVAL,
                         "the pointer is of shard %llu, and the heap has %u: is it another heap's?",
                         (unsigned long long)index, heap->core->count);
    }
    *out = heap->core->shards[index];
    return 0;
}

static int may_write(const struct cairn_tx *tx)
{
    if (tx == NULL) {
        return sdk__missing("tx");
    }
    return tx->set->opts.read_only == 0 ? sdk__tx_only_reads(tx->set)
                                        : sdk__fail(CAIRN_E_INVAL, "the transaction only reads");
}

/* Only where the transaction knows the size; else the commit tells. */
static int check_range(const struct tx_object *object, uint64_t offset, size_t len)
{
    uint64_t limit = object->sized ? object->size : CAIRN_OBJECT_BYTES_MAX;
    return offset <= limit && len <= limit - offset
               ? 0
               : sdk__fail(CAIRN_E_RANGE, "offset %llu + %zu bytes: beyond the end of the object",
                           (unsigned long long)offset, len);
}

/* ---- objects ---- */

static int alloc_on(struct cairn_tx *tx, uint32_t shard, uint64_t bytes, uint32_t type,
                    cairn_ptr *ptr)
{
    struct tx_set *set = tx->set;
    int rv = may_write(tx);
    if (rv == 0 && (bytes == 0 || bytes > CAIRN_OBJECT_BYTES_MAX)) {
        rv = sdk__fail(bytes == 0 ? CAIRN_E_INVAL : CAIRN_E_TOOBIG,
                       "an object has 1..%u bytes, not %llu", CAIRN_OBJECT_BYTES_MAX,
                       (unsigned long long)bytes);
    }
    if (rv == 0) {
        rv = sdk__tx_set_charge(set, 1, 0);
    }
    if (rv != 0) {
        return rv;
    }
    uint64_t word = 0;
    uint64_t session = 0;
    uint32_t left = sdk__tx_left_ms_about(set);
    rv = left == 0 ? sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed")
                   : sdk__lease_take(tx->heap, shard, left, &word, &session);
    struct tx_object *object =
        rv != 0 ? NULL : sdk__tx_set_object(set, tx->heap, tx->heap->core->shards[shard], word);
    if (rv == 0 && object == NULL) {
        rv = sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    if (object == NULL) {
        sdk__tx_set_refund(set, 1, 0);
        return rv;
    }
    object->born = object->sized = true;
    object->session = session;
    object->size = bytes;
    object->type = type;
    set->writes = set->allocated = true;
    ptr->word = word;
    return 0;
}

int cairn_tx_alloc(cairn_tx *tx, uint64_t bytes, uint32_t type, cairn_ptr *ptr)
{
    if (tx == NULL || ptr == NULL) {
        return sdk__missing(tx == NULL ? "tx" : "ptr");
    }
    *ptr = CAIRN_NULL;
    struct core_heap *core = tx->heap->core;
    uint32_t turn = atomic_fetch_add_explicit(&core->next, 1, memory_order_relaxed);
    return alloc_on(tx, turn % core->count, bytes, type, ptr);
}

int cairn_tx_alloc_near(cairn_tx *tx, cairn_ptr near_to, uint64_t bytes, uint32_t type,
                        cairn_ptr *ptr)
{
    struct core_shard *shard = NULL;
    if (tx == NULL || ptr == NULL) {
        return sdk__missing(tx == NULL ? "tx" : "ptr");
    }
    *ptr = CAIRN_NULL;
    int rv = sdk__tx_aim(tx->heap, near_to.word, &shard);
    return rv != 0 ? rv : alloc_on(tx, sdk__tx_shard_index(tx->heap, shard), bytes, type, ptr);
}

int cairn_tx_free(cairn_tx *tx, cairn_ptr ptr)
{
    struct tx_object *object = NULL;
    int rv = may_write(tx);
    if (rv == 0) {
        rv = sdk__tx_object_of(tx, ptr, &object);
    }
    if (rv == 0 && !object->born) { /* whose allocation was counted */
        rv = sdk__tx_set_charge(tx->set, 1, 0);
    }
    if (rv == 0) {
        sdk__tx_drop_writes(tx->set, object);
        object->freed = true;
        tx->set->writes = true;
        tx->set->unborn = tx->set->unborn || object->born;
    }
    return rv;
}

int cairn_tx_write(cairn_tx *tx, cairn_ptr ptr, uint64_t offset, const void *data, size_t len)
{
    struct tx_object *object = NULL;
    int rv = may_write(tx);
    if (rv == 0 && len == 0) {
        rv = sdk__fail(CAIRN_E_INVAL, "nothing to write");
    }
    if (rv == 0) {
        rv = sdk__tx_object_of(tx, ptr, &object);
    }
    if (rv == 0) {
        rv = check_range(object, offset, len);
    }
    if (rv == 0 && data == NULL) {
        rv = sdk__missing("data");
    }
    return rv != 0 ? rv : sdk__tx_write_bytes(tx->set, object, offset, slice_of(data, len));
}

int cairn_tx_compare(cairn_tx *tx, cairn_ptr ptr, uint64_t offset, const void *expected, size_t len)
{
    struct tx_object *object = NULL;
    if (tx == NULL || (expected == NULL && len > 0)) {
        return sdk__missing(tx == NULL ? "tx" : "expected");
    }
    int rv = sdk__tx_only_reads(tx->set);
    if (rv == 0) {
        rv = sdk__tx_object_of(tx, ptr, &object);
    }
    if (rv == 0) {
        rv = check_range(object, offset, len);
    }
    if (rv != 0 || len == 0) {
        return rv;
    }
    if (!object->born) {
        return sdk__tx_compare_bytes(tx->set, object, offset, slice_of(expected, len));
    }
    uint8_t *now = mem_zalloc(len);
    if (now == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    sdk__tx_overlay(object, offset, now, len);
    bool same = memcmp(now, expected, len) == 0;
    mem_free(now);
    return same ? 0
                : sdk__because(CAIRN_E_CONFLICT, "the transaction itself has written other bytes");
}

int cairn_tx_compare_version(cairn_tx *tx, cairn_ptr ptr, uint64_t version)
{
    struct tx_object *object = NULL;
    if (tx == NULL) {
        return sdk__missing("tx");
    }
    int rv = sdk__tx_only_reads(tx->set);
    if (rv == 0) {
        rv = sdk__tx_object_of(tx, ptr, &object);
    }
    if (rv == 0 && (object->born || (object->checked && object->version != version))) {
        rv = sdk__because(CAIRN_E_CONFLICT, "the object has another version");
    }
    if (rv != 0 || object->checked) {
        return rv;
    }
    rv = sdk__tx_set_charge(tx->set, 1, 0);
    if (rv == 0) {
        object->version = version;
        object->checked = true;
        tx->set->demands++;
    }
    return rv;
}

int sdk__tx_check_live(struct cairn_tx *tx, cairn_ptr ptr)
{
    struct tx_object *object = NULL;
    int rv = sdk__tx_object_of(tx, ptr, &object);
    if (rv != 0 || object->born || object->live) {
        return rv;
    }
    rv = sdk__tx_set_charge(tx->set, 1, 0);
    object->live = rv == 0;
    tx->set->demands++;
    return rv;
}

/* ---- roots ---- */

int cairn_tx_root_set(cairn_tx *tx, const char *name, cairn_ptr ptr)
{
    struct tx_root *root = NULL;
    int rv = may_write(tx);
    if (rv == 0) {
        rv = sdk__tx_root_of(tx, name, &root);
    }
    if (rv == 0 && ptr.word >> POINTER_SHARD_SHIFT >= tx->heap->core->count) {
        rv = sdk__fail(CAIRN_E_INVAL, "the pointer is of no shard of this heap");
    }
    if (rv == 0 && !root->written) {
        rv = sdk__tx_set_charge(tx->set, 1, root->name_len);
    }
    if (rv == 0) {
        root->written = tx->set->writes = true;
        root->desired = ptr.word;
    }
    return rv;
}
