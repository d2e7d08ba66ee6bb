#include "unit/client/tx_scenario.h"

static int begin(struct tx_scenario *s, uint32_t isolation, cairn_tx **tx)
{
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.isolation = isolation;
    return cairn_tx_begin(s->heap, &opts, tx);
}

/* The first failure ends it. */
static int end(cairn_tx *tx, int rv)
{
    if (rv == 0) {
        return cairn_tx_commit(tx, NULL);
    }
    cairn_tx_abort(tx);
    return rv;
}

static int change(struct tx_scenario *s, cairn_tx *tx)
{
    uint64_t value = 0;
    cairn_ptr fresh = CAIRN_NULL;
    cairn_ptr gone = CAIRN_NULL;
    cairn_object object;
    int rv = cairn_tx_read(tx, s->a, 0, &value, sizeof value);
    rv = rv != 0 ? rv : cairn_tx_stat(tx, s->b, &object);
    rv = rv != 0 ? rv : cairn_tx_compare(tx, s->a, 8, "\0\0\0\0", 4);
    rv = rv != 0 ? rv : cairn_tx_compare_version(tx, s->b, object.version);
    rv = rv != 0 ? rv : cairn_tx_alloc_near(tx, s->b, 64, 0, &fresh);
    rv = rv != 0 ? rv : cairn_tx_alloc(tx, 64, 0, &gone);
    rv = rv != 0 ? rv : cairn_tx_write(tx, fresh, 16, "later", 5);
    rv = rv != 0 ? rv : cairn_tx_write(tx, fresh, 0, &value, sizeof value);
    rv = rv != 0 ? rv : cairn_tx_compare(tx, fresh, 16, "later", 5);
    rv = rv != 0 ? rv : cairn_tx_write(tx, s->a, 40, "apart", 5);
    rv = rv != 0 ? rv : cairn_tx_write(tx, s->a, 46, "apart", 5);
    rv = rv != 0 ? rv : cairn_tx_write(tx, s->a, 44, "between", 7);
    rv = rv != 0 ? rv : cairn_tx_write(tx, s->b, 0, &value, sizeof value);
    rv = rv != 0 ? rv : cairn_tx_free(tx, gone);
    rv = rv != 0 ? rv : cairn_tx_root_set(tx, "fresh", fresh);
    return rv;
}

int tx_scenario_commit(void *arg)
{
    struct tx_scenario *s = arg;
    cairn_tx *tx = NULL;
    cairn_tx *part = NULL;
    cairn_tx_id id;
    uint64_t value = 0;
    int rv = begin(s, CAIRN_SERIALIZABLE, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = change(s, tx);
    if (rv == 0 && s->other != NULL) {
        rv = cairn_tx_join(tx, s->other, &part);
        rv = rv != 0 ? rv : cairn_tx_read(part, s->a, 0, &value, sizeof value);
        rv = rv != 0 ? rv : cairn_tx_id_of(tx, &id);
    }
    return end(tx, rv);
}

static int seen(void *arg, const char *name, cairn_ptr ptr, uint64_t version)
{
    (void)arg, (void)name, (void)ptr, (void)version;
    return 0;
}

int tx_scenario_read(void *arg)
{
    struct tx_scenario *s = arg;
    cairn_tx *tx = NULL;
    cairn_ptr ptr;
    uint64_t value = 0;
    int rv = begin(s, CAIRN_SERIALIZABLE, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = cairn_tx_read(tx, s->a, 0, &value, sizeof value);
    rv = rv != 0 ? rv : cairn_tx_read(tx, s->b, 0, &value, sizeof value);
    if (rv == 0) {
        rv = cairn_tx_root_get(tx, "nothing", &ptr);
        rv = rv == CAIRN_E_NOTFOUND ? 0 : rv;
    }
    rv = rv != 0 ? rv : cairn_tx_root_list(tx, seen, NULL);
    return end(tx, rv);
}

int tx_scenario_snapshot(void *arg)
{
    struct tx_scenario *s = arg;
    cairn_tx *tx = NULL;
    uint64_t value = 0;
    int rv = begin(s, CAIRN_SNAPSHOT, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = cairn_tx_read(tx, s->a, 0, &value, sizeof value);
    value++;
    rv = rv != 0 ? rv : cairn_tx_write(tx, s->b, 0, &value, sizeof value);
    return end(tx, rv);
}

static int async(struct tx_scenario *s, int wait)
{
    cairn_tx *tx = NULL;
    cairn_future *f = NULL;
    int rv = begin(s, CAIRN_SERIALIZABLE, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = change(s, tx);
    if (rv != 0) {
        cairn_tx_abort(tx);
        return rv;
    }
    rv = cairn_tx_commit_async(tx, &f);
    if (rv == 0 && wait) {
        rv = cairn_future_wait(f, UINT32_MAX);
        rv = rv != 0 ? rv : cairn_future_error(f);
    }
    cairn_future_free(f);
    return rv;
}

int tx_scenario_async(void *arg)
{
    int rv = async(arg, 1);
    return rv != 0 ? rv : async(arg, 0);
}

int tx_scenario_abort(void *arg)
{
    struct tx_scenario *s = arg;
    cairn_tx *tx = NULL;
    int rv = begin(s, CAIRN_SERIALIZABLE, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = change(s, tx);
    cairn_tx_abort(tx);
    return rv;
}

int tx_scenario_save(void *arg)
{
    struct tx_scenario *s = arg;
    cairn_tx *tx = NULL;
    cairn_tx *loaded = NULL;
    char *bytes = NULL;
    size_t len = 0;
    uint64_t value = 0;
    int rv = begin(s, CAIRN_SERIALIZABLE, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = cairn_tx_read(tx, s->a, 0, &value, sizeof value);
    rv = rv != 0 ? rv : cairn_tx_compare(tx, s->b, 8, "\0\0\0\0", 4);
    rv = rv != 0 ? rv : cairn_tx_write(tx, s->b, 0, &value, sizeof value);
    rv = rv != 0 ? rv : cairn_tx_root_set(tx, "saved", s->a);
    rv = rv != 0 ? rv : cairn_tx_save(tx, &bytes, &len);
    rv = rv != 0 ? rv : cairn_tx_load(s->heap, bytes, len, &loaded);
    cairn_tx_abort(tx);
    cairn_json_free(bytes);
    return rv != 0 ? rv : cairn_tx_commit(loaded, NULL);
}

int tx_scenario_pointers(void *arg)
{
    struct tx_scenario *s = arg;
    cairn_ptr ptr;
    int rv = cairn_ptr_swap(s->heap, s->a, 24, s->b, 24);
    rv = rv != 0 ? rv : cairn_alloc_into(s->heap, s->a, 32, 64, 0, "init", 4, 8, &ptr);
    return rv != 0 ? rv : cairn_compare_and_link(s->heap, s->b, 24, CAIRN_NULL, CAIRN_NULL);
}
