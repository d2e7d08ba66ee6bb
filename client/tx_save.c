/* A transaction as one line of text, to go on with it in another process: hexadecimal digits, of
 * what follows, all numbers little-endian. (Objects that it allocated can't come along: their
 * pointers are promised to a session of this process.)
 *
 *   format u32 = 1, isolation u32, read_only u32, items_max u32, bytes_max u32, deadline_ms u32,
 *   heap u64 (0: of a directory), at u64, clock u64, reads u32, demands u32
 *   objects u32, each: ptr u64, version u64, flags u32, then its writes and its compares: count
 * u32, each: offset u64, length u32, bytes roots u32, each: name length u32, name, ptr u64, version
 * u64, desired u64, flags u32 directories u32, each: shard u32, version u64 */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define SAVE_FORMAT 1u

enum save_flag {
    SAVE_CHECKED = 1,
    SAVE_LIVE = 2,
    SAVE_FREED = 4,
    SAVE_WRITTEN = 8,
    SAVE_KNOWN = SAVE_CHECKED | SAVE_LIVE | SAVE_FREED | SAVE_WRITTEN
};

static uint64_t heap_mark(const struct cairn_heap *heap)
{
    return heap->core->id;
}

/* ---- saving: the first failure stays ---- */

struct writer {
    struct buf out;
    bool failed;
};

static void put_bytes(struct writer *w, const void *data, size_t len)
{
    w->failed = w->failed || (len > 0 && buf_append(&w->out, data, len) != 0);
}

static void put_u32(struct writer *w, uint32_t value)
{
    uint8_t bytes[4];
    store_u32(bytes, value);
    put_bytes(w, bytes, sizeof bytes);
}

static void put_u64(struct writer *w, uint64_t value)
{
    uint8_t bytes[8];
    store_u64(bytes, value);
    put_bytes(w, bytes, sizeof bytes);
}

static uint32_t length_of(const struct list *list)
{
    uint32_t count = 0;
    list_for_each (it, list) {
        count++;
    }
    return count;
}

static void put_ranges(struct writer *w, const struct list *ranges)
{
    put_u32(w, length_of(ranges));
    list_for_each (it, ranges) {
        const struct tx_range *range = list_entry(it, struct tx_range, link);
        put_u64(w, range->offset);
        put_u32(w, (uint32_t)range->bytes.len);
        put_bytes(w, range->bytes.data, range->bytes.len);
    }
}

static void put_object(struct writer *w, const struct tx_object *object)
{
    put_u64(w, object->ptr);
    put_u64(w, object->version);
    put_u32(w, (object->checked ? SAVE_CHECKED : 0) | (object->live ? SAVE_LIVE : 0) |
                   (object->freed ? SAVE_FREED : 0));
    put_ranges(w, &object->writes);
    put_ranges(w, &object->compares);
}

static void put_root(struct writer *w, const struct tx_root *root)
{
    put_u32(w, (uint32_t)root->name_len);
    put_bytes(w, root->name, root->name_len);
    put_u64(w, root->ptr);
    put_u64(w, root->version);
    put_u64(w, root->desired);
    put_u32(w, (root->checked ? SAVE_CHECKED : 0) | (root->written ? SAVE_WRITTEN : 0));
}

static void put_set(struct writer *w, const struct cairn_tx *tx)
{
    const struct tx_set *set = tx->set;
    put_u32(w, SAVE_FORMAT);
    put_u32(w, set->opts.isolation);
    put_u32(w, set->opts.read_only);
    put_u32(w, set->opts.items_max);
    put_u32(w, set->opts.bytes_max);
    put_u32(w, set->opts.deadline_ms);
    put_u64(w, heap_mark(tx->heap));
    put_u64(w, set->at);
    put_u64(w, set->clock);
    put_u32(w, set->reads);
    put_u32(w, set->demands);
    put_u32(w, length_of(&set->objects));
    list_for_each (it, &set->objects) {
        put_object(w, list_entry(it, struct tx_object, link));
    }
    put_u32(w, length_of(&set->roots));
    list_for_each (it, &set->roots) {
        put_root(w, list_entry(it, struct tx_root, link));
    }
    uint32_t checked = 0;
    list_for_each (it, &set->directories) {
        checked += list_entry(it, struct tx_directory, link)->checked;
    }
    put_u32(w, checked);
    list_for_each (it, &set->directories) {
        const struct tx_directory *directory = list_entry(it, struct tx_directory, link);
        if (!directory->checked) {
            continue;
        }
        put_u32(w, sdk__tx_shard_index(tx->heap, directory->shard));
        put_u64(w, directory->version);
    }
}

int cairn_tx_save(cairn_tx *tx, char **bytes, size_t *len)
{
    static const char digits[] = "0123456789abcdef";
    struct writer w = {.failed = false};
    if (tx == NULL || bytes == NULL || len == NULL) {
        return sdk__missing(tx == NULL ? "tx" : bytes == NULL ? "bytes" : "len");
    }
    *bytes = NULL;
    *len = 0;
    if (tx->set->allocated || tx->set->reserved != NULL || length_of(&tx->set->parts) > 1) {
        return sdk__fail(CAIRN_E_UNSUPPORTED,
                         "a transaction that has allocated, joined a heap or got its id can't go "
                         "on in another process");
    }
    put_set(&w, tx);
    char *text = w.failed ? NULL : mem_alloc(w.out.len * 2 + 1);
    if (text != NULL) {
        for (size_t i = 0; i < w.out.len; i++) {
            text[i * 2] = digits[w.out.data[i] >> 4];
            text[i * 2 + 1] = digits[w.out.data[i] & 15];
        }
        text[w.out.len * 2] = '\0';
        *bytes = text;
        *len = w.out.len * 2;
    }
    buf_close(&w.out);
    return text != NULL ? 0 : sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
}

/* ---- loading: what comes may be anything ---- */

static int damaged(void)
{
    return sdk__fail(CAIRN_E_INVAL, "not what cairn_tx_save() gave");
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int bytes_of(const char *text, size_t len, struct buf *out)
{
    if (len % 2 != 0 || len == 0) {
        return damaged();
    }
    uint8_t *at = buf_extend(out, len / 2);
    if (at == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    for (size_t i = 0; i < len / 2; i++) {
        int high = digit_of(text[i * 2]);
        int low = digit_of(text[i * 2 + 1]);
        if (high < 0 || low < 0) {
            return damaged();
        }
        at[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static int get_ranges(struct cairn_tx *tx, struct cursor *c, struct tx_object *object, bool writes)
{
    uint32_t count = cursor_u32(c);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset = cursor_u64(c);
        struct slice bytes = cursor_bytes(c, cursor_u32(c));
        if (c->failed || bytes.len == 0 || offset > CAIRN_OBJECT_BYTES_MAX ||
            bytes.len > CAIRN_OBJECT_BYTES_MAX - offset) {
            return damaged();
        }
        int rv = writes ? sdk__tx_write_bytes(tx->set, object, offset, bytes)
                        : sdk__tx_compare_later(tx->set, object, offset, bytes);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int get_object(struct cairn_tx *tx, struct cursor *c)
{
    struct tx_object *object = NULL;
    cairn_ptr ptr = {cursor_u64(c)};
    uint64_t version = cursor_u64(c);
    uint32_t flags = cursor_u32(c);
    if (c->failed || (flags & ~(uint32_t)SAVE_KNOWN) != 0) {
        return damaged();
    }
    int rv = sdk__tx_object_of(tx, ptr, &object);
    if (rv == 0) {
        rv = get_ranges(tx, c, object, true);
    }
    if (rv == 0) {
        rv = get_ranges(tx, c, object, false);
    }
    uint32_t items = (uint32_t)__builtin_popcount(flags);
    if (rv == 0) {
        rv = sdk__tx_set_charge(tx->set, items, 0);
    }
    if (rv == 0) {
        object->version = version;
        object->checked = (flags & SAVE_CHECKED) != 0;
        object->live = (flags & SAVE_LIVE) != 0;
        object->freed = (flags & SAVE_FREED) != 0;
        tx->set->writes = tx->set->writes || object->freed;
    }
    return rv;
}

static int get_root(struct cairn_tx *tx, struct cursor *c)
{
    struct tx_root *root = NULL;
    char name[ROOT_NAME_BYTES_MAX + 1];
    struct slice bytes = cursor_bytes(c, cursor_u32(c));
    uint64_t ptr = cursor_u64(c);
    uint64_t version = cursor_u64(c);
    uint64_t desired = cursor_u64(c);
    uint32_t flags = cursor_u32(c);
    if (c->failed || bytes.len == 0 || bytes.len > ROOT_NAME_BYTES_MAX ||
        memchr(bytes.data, 0, bytes.len) != NULL || (flags & ~(uint32_t)SAVE_KNOWN) != 0) {
        return damaged();
    }
    memcpy(name, bytes.data, bytes.len);
    name[bytes.len] = '\0';
    int rv = sdk__tx_root_of(tx, name, &root);
    if (rv == 0 && (flags & SAVE_WRITTEN) != 0) {
        rv = cairn_tx_root_set(tx, name, (cairn_ptr){desired});
    }
    if (rv == 0 && (flags & SAVE_CHECKED) != 0) {
        rv = sdk__tx_set_saw_root(tx->set, root, version, ptr);
    }
    return rv;
}

static int get_directory(struct cairn_tx *tx, struct cursor *c)
{
    uint32_t shard = cursor_u32(c);
    uint64_t version = cursor_u64(c);
    if (c->failed || shard >= tx->heap->core->count) {
        return damaged();
    }
    struct tx_directory *directory =
        sdk__tx_set_directory(tx->set, tx->heap, tx->heap->core->shards[shard]);
    return directory != NULL ? sdk__tx_set_saw_directory(tx->set, directory, version)
                             : sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
}

static int get_all(struct cairn_tx *tx, struct cursor *c,
                   int (*get)(struct cairn_tx *tx, struct cursor *c))
{
    uint32_t count = cursor_u32(c);
    int rv = 0;
    for (uint32_t i = 0; rv == 0 && i < count; i++) {
        rv = get(tx, c);
    }
    return rv != 0 ? rv : c->failed ? damaged() : 0;
}

static int get_set(struct cairn_heap *heap, struct cursor *c, cairn_tx **out)
{
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    uint32_t format = cursor_u32(c);
    opts.isolation = cursor_u32(c);
    uint32_t read_only = cursor_u32(c);
    opts.items_max = cursor_u32(c);
    opts.bytes_max = cursor_u32(c);
    opts.deadline_ms = cursor_u32(c);
    uint64_t mark = cursor_u64(c);
    uint64_t read_at = cursor_u64(c);
    uint64_t clock = cursor_u64(c);
    uint32_t reads = cursor_u32(c);
    uint32_t demands = cursor_u32(c);
    if (c->failed || format != SAVE_FORMAT) {
        return damaged();
    }
    if (mark != heap_mark(heap)) {
        return sdk__fail(CAIRN_E_INVAL, "the transaction is of another heap");
    }
    int rv = cairn_tx_begin(heap, &opts, out);
    if (rv == 0) {
        rv = get_all(*out, c, get_object);
    }
    if (rv == 0) {
        rv = get_all(*out, c, get_root);
    }
    if (rv == 0) {
        rv = get_all(*out, c, get_directory);
    }
    if (rv == 0 && cursor_left(c) > 0) {
        rv = damaged();
    }
    if (rv == 0) {
        struct tx_set *set = (*out)->set;
        set->opts.read_only = read_only != 0; /* only now: what it wrote before has been put back */
        set->at = read_at;
        set->clock = clock;
        set->reads = reads;
        set->demands = demands;
    }
    return rv;
}

int cairn_tx_load(cairn_heap *heap, const char *bytes, size_t len, cairn_tx **tx)
{
    struct buf binary = {0};
    if (tx == NULL) {
        return sdk__missing("tx");
    }
    *tx = NULL;
    if (heap == NULL || bytes == NULL) {
        return sdk__missing(heap == NULL ? "heap" : "bytes");
    }
    int rv = bytes_of(bytes, len, &binary);
    if (rv == 0) {
        struct cursor c = cursor_of(slice_of(binary.data, binary.len));
        rv = get_set(heap, &c, tx);
    }
    buf_close(&binary);
    if (rv != 0) {
        cairn_tx_abort(*tx);
        *tx = NULL;
    }
    return rv;
}
