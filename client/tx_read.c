/* What a transaction reads: from the shards, with what it has written laid over, and remembered
 * with versions; and the question at the end of one that only read whether all of it still holds.
 */
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define ROOTS_PER_PAGE 256u

/* From here on tx->set->at is what it will be. */
static int future_open(struct cairn_tx *tx, struct cairn_future *f)
{
    int rv = sdk__tx_find_time(tx);
    if (rv != 0) {
        return rv;
    }
    sdk__future_init(f, tx->heap->client);
    f->call.timeout_ms = sdk__tx_left_ms(tx->set);
    return f->call.timeout_ms != 0
               ? 0
               : sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
}

int sdk__tx_object_of(struct cairn_tx *tx, cairn_ptr ptr, struct tx_object **out)
{
    struct core_shard *shard = NULL;
    int rv = sdk__tx_aim(tx->heap, ptr.word, &shard);
    if (rv != 0) {
        return rv;
    }
    *out = sdk__tx_set_object(tx->set, tx->heap, shard, ptr.word);
    if (*out == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    return (*out)->freed
               ? sdk__because(CAIRN_E_STALE, "the transaction itself has freed the object")
               : 0;
}

/* The failure of a read is something that was read, too: NOT_YET counts at the commit. STALE does
 * not: it stays so. */
static int failed(struct cairn_tx *tx, struct tx_object *object, int err)
{
    char text[CORE_TEXT_BYTES];
    if (err != CAIRN_E_NOT_YET) {
        return err;
    }
    size_t len = strnlen(cairn_errormsg(), sizeof text - 1);
    memcpy(text, cairn_errormsg(), len);
    text[len] = '\0';
    int rv = sdk__tx_set_saw_object(tx->set, object, 0);
    return rv != 0 ? rv : sdk__fail(err, "%s", text);
}

/* ---- objects ---- */

static int stat_fetch(struct cairn_tx *tx, struct tx_object *object, struct cairn_object *out)
{
    struct cairn_future f;
    memset(out, 0, sizeof *out);
    int rv = future_open(tx, &f);
    if (rv != 0) {
        return rv;
    }
    rv = sdk__future_run(
        &f, core_prepare_stat_at(&f.call, object->heap->core, object->ptr, tx->set->at));
    tx->set->reads++;
    if (rv != 0) {
        return failed(tx, object, rv);
    }
    rv = cairn_future_get_object(&f, out);
    assert(rv == 0);
    return sdk__tx_set_saw_object(tx->set, object, out->version);
}

int cairn_tx_stat(cairn_tx *tx, cairn_ptr ptr, cairn_object *out)
{
    struct tx_object *object = NULL;
    if (tx == NULL || out == NULL) {
        return sdk__missing(tx == NULL ? "tx" : "object");
    }
    memset(out, 0, sizeof *out);
    int rv = sdk__tx_object_of(tx, ptr, &object);
    if (rv != 0) {
        return rv;
    }
    if (object->born) {
        *out = (cairn_object){.ptr = ptr, .size = object->size, .type = object->type};
        return 0;
    }
    cairn_object found;
    rv = stat_fetch(tx, object, &found);
    if (rv == 0) {
        *out = found;
        object->sized = object->checked; /* else another call may see another size */
        object->size = found.size;
    }
    return rv;
}

/* The bytes as they are on the shard. RANGE is a statement about the size, which has a version. */
static int bytes_fetch(struct cairn_tx *tx, struct tx_object *object, uint64_t offset, void *data,
                       size_t len)
{
    for (;;) {
        struct cairn_future f;
        int rv = future_open(tx, &f);
        if (rv != 0) {
            return rv;
        }
        f.call.turn = sdk__turn_of_read(tx->set, object);
        rv = sdk__future_run(&f, core_prepare_read_at(&f.call, object->heap->core, object->ptr,
                                                      tx->set->at, offset, data, len));
        tx->set->reads++;
        if (rv == 0) {
            return sdk__tx_set_saw_object(tx->set, object, f.call.version);
        }
        if (rv != CAIRN_E_RANGE) {
            return failed(tx, object, rv);
        }
        cairn_object found;
        rv = stat_fetch(tx, object, &found);
        if (rv != 0) {
            return rv;
        }
        if (offset > found.size || len > found.size - offset) {
            return sdk__because(CAIRN_E_RANGE, "offset %llu + %zu bytes of an object of %llu",
                                (unsigned long long)offset, len, (unsigned long long)found.size);
        }
    }
}

int cairn_tx_read(cairn_tx *tx, cairn_ptr ptr, uint64_t offset, void *data, size_t len)
{
    struct tx_object *object = NULL;
    if (tx == NULL || (data == NULL && len > 0)) {
        return sdk__missing(tx == NULL ? "tx" : "data");
    }
    int rv = sdk__tx_object_of(tx, ptr, &object);
    if (rv != 0) {
        return rv;
    }
    if (object->sized && (offset > object->size || len > object->size - offset)) {
        return sdk__because(CAIRN_E_RANGE, "offset %llu + %zu bytes of an object of %llu",
                            (unsigned long long)offset, len, (unsigned long long)object->size);
    }
    if (object->born && len > 0) {
        memset(data, 0, len);
    } else if (len == 0 || !sdk__tx_covered(object, offset, len)) {
        rv = bytes_fetch(tx, object, offset, data, len);
    }
    if (rv == 0) {
        sdk__tx_overlay(object, offset, data, len);
    }
    return rv;
}

/* ---- roots ---- */

int sdk__tx_root_of(struct cairn_tx *tx, const char *name, struct tx_root **out)
{
    size_t len = name == NULL ? 0 : strnlen(name, ROOT_NAME_BYTES_MAX + 1);
    if (len == 0 || len > ROOT_NAME_BYTES_MAX) {
        return sdk__fail(CAIRN_E_INVAL, "a root's name has 1..%d bytes", ROOT_NAME_BYTES_MAX);
    }
    struct slice slice = slice_of(name, len);
    struct core_heap *core = tx->heap->core;
    *out =
        sdk__tx_set_root(tx->set, tx->heap, core->shards[core_heap_root_shard(core, slice)], slice);
    return *out != NULL ? 0 : sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
}

static int no_root(const char *name)
{
    return sdk__because(CAIRN_E_NOTFOUND, "there is no root '%.64s'", name);
}

int cairn_tx_root_get(cairn_tx *tx, const char *name, cairn_ptr *ptr)
{
    struct tx_root *root = NULL;
    if (tx == NULL || ptr == NULL) {
        return sdk__missing(tx == NULL ? "tx" : "ptr");
    }
    *ptr = CAIRN_NULL;
    int rv = sdk__tx_root_of(tx, name, &root);
    if (rv != 0) {
        return rv;
    }
    assert(root != NULL);
    if (root->written) {
        ptr->word = root->desired;
        return root->desired != 0 ? 0 : no_root(name);
    }
    struct cairn_future f;
    rv = future_open(tx, &f);
    if (rv != 0) {
        return rv;
    }
    rv = sdk__future_run(
        &f, core_prepare_root_get_at(&f.call, tx->heap->core, root->name, tx->set->at));
    tx->set->reads++;
    if (rv != 0 && rv != CAIRN_E_NOTFOUND) {
        return rv;
    }
    bool found = rv == 0;
    rv = sdk__tx_set_saw_root(tx->set, root, found ? f.call.version : 0, found ? f.call.value : 0);
    if (rv != 0) {
        return rv;
    }
    if (!found) {
        return no_root(name);
    }
    ptr->word = f.call.value;
    return 0;
}

/* One shard's names into the set, where cairn_tx_root_list() finds them in order. */
struct listing {
    struct cairn_tx *tx;
    struct core_shard *shard;
    cairn_root_cb cb;
    void *arg;
    bool stopped;
    char last[ROOT_NAME_BYTES_MAX + 1];
    size_t last_len;
};

/* Names that the transaction has given itself, between the last one shown and `before` (NULL: the
 * end), in bytewise order. */
static const struct tx_root *own_next(const struct listing *l, struct slice after,
                                      struct slice before)
{
    const struct tx_root *best = NULL;
    list_for_each (it, &l->tx->set->roots) {
        const struct tx_root *root = list_entry(it, struct tx_root, link);
        struct slice name = slice_of(root->name, root->name_len);
        bool wanted = root->shard == l->shard && root->written && root->desired != 0 &&
                      sdk__tx_name_compare(name, after) > 0 &&
                      (before.data == NULL || sdk__tx_name_compare(name, before) < 0);
        if (wanted && (best == NULL ||
                       sdk__tx_name_compare(name, slice_of(best->name, best->name_len)) < 0)) {
            best = root;
        }
    }
    return best;
}

static void show_own(struct listing *l, struct slice before)
{
    struct slice after = slice_of(l->last, l->last_len);
    const struct tx_root *root;
    while (!l->stopped && (root = own_next(l, after, before)) != NULL) {
        l->stopped = l->cb(l->arg, root->name, (cairn_ptr){root->desired}, 0) != 0;
        after = slice_of(root->name, root->name_len);
    }
}

static int show_page(struct listing *l, struct slice entries)
{
    struct cursor c = cursor_of(entries);
    while (cursor_left(&c) > 0 && !l->stopped) {
        struct slice name = cursor_bytes(&c, cursor_u16(&c));
        uint64_t ptr = cursor_u64(&c);
        uint64_t version = cursor_u64(&c);
        if (c.failed || name.len == 0 || name.len > ROOT_NAME_BYTES_MAX) {
            return sdk__because(CAIRN_E_PROTOCOL, "a node sent a malformed list of roots");
        }
        struct tx_root *root = sdk__tx_set_root(l->tx->set, l->tx->heap, l->shard, name);
        if (root == NULL) {
            return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
        }
        int rv = sdk__tx_set_saw_root(l->tx->set, root, version, ptr);
        if (rv != 0) {
            return rv;
        }
        show_own(l, name);
        memcpy(l->last, name.data, name.len);
        l->last_len = name.len;
        l->last[name.len] = '\0';
        uint64_t now = root->written ? root->desired : ptr;
        if (now != 0 && !l->stopped) {
            l->stopped = l->cb(l->arg, l->last, (cairn_ptr){now}, root->written ? 0 : version) != 0;
        }
    }
    return 0;
}

static int list_shard(struct listing *l, uint32_t shard)
{
    struct cairn_tx *tx = l->tx;
    struct tx_directory *directory = sdk__tx_set_directory(tx->set, tx->heap, l->shard);
    if (directory == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    bool more = true;
    l->last_len = 0;
    while (more && !l->stopped) {
        struct cairn_future f;
        int rv = future_open(tx, &f);
        if (rv != 0) {
            return rv;
        }
        rv = sdk__future_run(
            &f, core_prepare_root_list_at(&f.call, tx->heap->core, shard, tx->set->at,
                                          slice_of(l->last, l->last_len), ROOTS_PER_PAGE));
        tx->set->reads++;
        if (rv == 0) {
            rv = sdk__tx_set_saw_directory(tx->set, directory, f.call.version);
        }
        if (rv == 0) {
            rv = show_page(l, slice_of(f.call.bytes.data, f.call.bytes.len));
        }
        more = f.call.more && f.call.bytes.len > 0;
        buf_close(&f.call.bytes);
        if (rv != 0) {
            return rv;
        }
    }
    show_own(l, slice_of(NULL, 0));
    return 0;
}

int cairn_tx_root_list(cairn_tx *tx, cairn_root_cb cb, void *arg)
{
    struct listing l = {.tx = tx, .cb = cb, .arg = arg};
    int rv = tx == NULL || cb == NULL ? sdk__missing(tx == NULL ? "tx" : "cb") : 0;
    for (uint32_t i = 0; rv == 0 && !l.stopped && i < tx->heap->core->count; i++) {
        l.shard = tx->heap->core->shards[i];
        rv = list_shard(&l, i);
    }
    return rv;
}

/* ---- does it still hold? ---- */

/* All parts at once: if each holds when its shard answers, all of them held at the moment of the
 * last read, which lay before. `clock` makes a shard that lags wait for what others have shown. */
int sdk__tx_validate(struct cairn_tx *tx, struct tx_parts *parts, uint64_t *what, uint64_t *version)
{
    struct cairn_future *futures[TX_PARTICIPANTS_MAX] = {NULL};
    uint32_t started = 0;
    int rv = 0;
    uint32_t left = sdk__tx_left_ms(tx->set);
    if (left == 0) {
        return sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed");
    }
    for (; rv == 0 && started < parts->count; started++) {
        struct tx_part *part = &parts->parts[started];
        struct cairn_future *f = sdk__future_new(part->heap);
        if (f == NULL) {
            rv = sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
            break;
        }
        f->call.timeout_ms = left;
        rv = sdk__future_start(
            f,
            core_prepare_tx_validate(&f->call, part->heap->core,
                                     sdk__tx_shard_index(part->heap, part->shard), tx->set->clock,
                                     slice_of(part->bytes.data, part->bytes.len)),
            &futures[started]);
    }
    for (uint32_t i = 0; i < started; i++) {
        if (futures[i] == NULL) {
            continue;
        }
        int waited = cairn_future_wait(futures[i], UINT32_MAX);
        int err = waited != 0 ? waited : futures[i]->call.err;
        if (rv == 0 && err != 0) {
            *what = futures[i]->call.value;
            *version = futures[i]->call.version;
            rv = waited != 0 ? waited : sdk__fail(err, "%s", futures[i]->call.text);
        }
        cairn_future_free(futures[i]);
    }
    return rv;
}
