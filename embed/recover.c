/* One heap at open: its image, and the entries of the log behind it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "embed/internal.h"

#define REPLAY_ENTRIES 16u
#define REPLAY_BYTES   ((size_t)4 << 20)

void embed__heap_free(struct embedded_heap *h)
{
    if (h == NULL) {
        return;
    }
    image_close(h->image); /* and with it an unfinished checkpoint's view */
    if (h->heap != NULL) {
        heap_free(h->heap);
    }
    (void)pthread_mutex_destroy(&h->incoming_lock);
    mem_free(h);
}

static struct embedded_heap *heap_new(struct embedded *db, uint64_t uid, struct slice name)
{
    struct embedded_heap *h = mem_zalloc(sizeof *h);
    if (h != NULL) {
        assert(name.len < sizeof h->name);
        h->db = db;
        h->uid = uid;
        memcpy(h->name, name.data, name.len);
        list_init(&h->link);
        list_init(&h->flying_link);
        list_init(&h->waiting);
        list_init(&h->held);
        list_init(&h->incoming);
        waiters_init(&h->waiters);
        (void)pthread_mutex_init(&h->incoming_lock, NULL);
        h->checkpoint_ms = env_now_ms(embed_env(db));
    }
    return h;
}

static int log_find(struct embedded_heap *h, bool fresh, uint64_t *mark_sequence,
                    struct err_text *e)
{
    struct embedded *db = h->db;
    uint64_t mark_index = 0;
    *mark_sequence = 0;
    if (db->mode == IMAGE_PMEM) {
        return 0;
    }
    h->log = wal_log_find(db->wal, h->uid);
    if (h->log == NULL && !fresh) {
        return err_set(e, ERR_CORRUPT, "%s/log: knows nothing of heap %016" PRIx64,
                       db->settings.dir, h->uid);
    }
    if (h->log == NULL) {
        int rv = wal_log_create(db->wal, h->uid, 0, 0, &h->log);
        if (rv != 0) {
            return err_set(e, rv, "%s/log: takes no new heap: %s", db->settings.dir,
                           err_text_of(rv));
        }
    }
    wal_log_checkpoint(h->log, mark_sequence, &mark_index);
    return 0;
}

static int heap_born(struct embedded_heap *h, const struct catalog_entry *entry, bool fresh,
                     struct err_text *e)
{
    struct embedded *db = h->db;
    struct heap_opts opts = {.uid = h->uid,
                             .heap_id = h->uid,
                             .bytes_max = entry->bytes_max,
                             .retention_ms = entry->retention_ms};
    if (db->mode == IMAGE_PMEM && !fresh) {
        return err_set(e, ERR_CORRUPT, "%s/heaps/%016" PRIx64 ": the image is missing",
                       db->settings.dir, h->uid);
    }
    int rv = heap_create(&opts, &h->heap);
    if (rv != 0) {
        return err_set(e, rv, "a heap of %" PRIu64 " bytes can't be made: %s", entry->bytes_max,
                       err_text_of(rv));
    }
    if (db->mode == IMAGE_PMEM) {
        rv = image_commit(h->image, h->heap);
        if (rv != 0) {
            return err_set(e, rv, "%s/heaps/%016" PRIx64 ": can't be written: %s", db->settings.dir,
                           h->uid, err_text_of(rv));
        }
    }
    return 0;
}

/* The log must continue exactly where the image ends (E7). */
static int log_fits(const struct embedded_heap *h, struct err_text *e)
{
    uint64_t index = heap_index(h->heap);
    uint64_t prev = wal_log_prev_index(h->log);
    uint64_t last = wal_log_last_index(h->log);
    if (prev > index || last < index) {
        return err_set(e, ERR_CORRUPT,
                       "%s: heap %016" PRIx64 " has an image of entry %" PRIu64
                       ", but the log holds %" PRIu64 "..%" PRIu64,
                       h->db->settings.dir, h->uid, index, prev + 1, last);
    }
    if (wal_log_term(h->log, index) != heap_term(h->heap)) {
        return err_set(e, ERR_CORRUPT,
                       "%s: heap %016" PRIx64 ": entry %" PRIu64
                       " of the log isn't the one that the image was made of",
                       h->db->settings.dir, h->uid, index);
    }
    return 0;
}

static int replay(struct embedded_heap *h, struct err_text *e)
{
    struct wal_entry entries[REPLAY_ENTRIES];
    uint64_t index = heap_index(h->heap) + 1;
    uint64_t last = wal_log_last_index(h->log);
    int rv = 0;
    while (rv == 0 && index <= last) {
        size_t count = 0;
        rv = wal_log_read(h->log, index, entries, REPLAY_ENTRIES, REPLAY_BYTES, &count);
        if (rv == 0 && count == 0) {
            rv = ERR_CORRUPT;
        }
        for (size_t i = 0; i < count; i++) {
            const struct wal_entry *entry = &entries[i];
            if (rv == 0 && entry->type != RECORD_ENTRY_TYPE) {
                rv = ERR_VERSION;
            }
            if (rv == 0) {
                rv = embed__apply(h, index, entry->term, entry->data, NULL, false);
                h->log_bytes += embed__log_bytes(entry->data.len);
                index += rv == 0;
            }
            if (entry->block != NULL) {
                wal_block_unref(entry->block);
            }
        }
    }
    if (rv != 0) {
        const char *damage;
        return err_set(e, rv,
                       "%s/log: entry %" PRIu64 " of heap %016" PRIx64 " can't be applied: %s",
                       h->db->settings.dir, index, h->uid,
                       heap_damage(h->heap, &damage) != 0 ? damage : err_text_of(rv));
    }
    wal_log_applied(h->log, last);
    return 0;
}

int embed__heap_load(struct embedded *db, const struct catalog_entry *entry, struct slice name,
                     bool fresh, struct embedded_heap **out, struct err_text *e)
{
    char dir[EMBED_PATH_BYTES];
    struct image_opts opts = {
        .dir = dir, .uid = entry->uid, .mode = db->mode, .settle_later = !fresh};
    struct embedded_heap *h = heap_new(db, entry->uid, name);
    *out = NULL;
    if (h == NULL) {
        return err_set(e, ERR_NOMEM, "out of memory for a heap");
    }
    int rv = embed__heap_path(db, entry->uid, dir, e);
    if (rv == 0) {
        rv = log_find(h, fresh, &opts.mark_sequence, e);
    }
    if (rv == 0) {
        rv = image_open(embed_env(db), &opts, &h->image, &h->heap, e);
    }
    if (rv == 0 && h->heap == NULL) {
        rv = heap_born(h, entry, fresh, e);
    }
    if (rv == 0 && db->mode == IMAGE_DISK) {
        rv = log_fits(h, e);
    }
    if (rv == 0 && db->mode == IMAGE_DISK) {
        struct image_stats stats;
        image_get_stats(h->image, &stats);
        h->checkpoint_index = stats.index;
        rv = replay(h, e);
    }
    if (rv != 0) {
        embed__heap_free(h);
        if (rv == ERR_NOMEM && e != NULL && e->text[0] == '\0') {
            err_set(e, rv,
                    "no memory for heap \"%.*s\": its limit of %" PRIu64
                    " MiB, and some more, is taken as address space (see ulimit -v)",
                    (int)name.len, (const char *)name.data, entry->bytes_max >> 20);
        }
        return rv;
    }
    h->term = heap_term(h->heap) + 1;
    if (db->mode == IMAGE_DISK && wal_log_last_term(h->log) >= h->term) {
        h->term = wal_log_last_term(h->log) + 1;
    }
    if (heap_clock(h->heap) > db->stamp) {
        db->stamp = heap_clock(h->heap);
    }
    if (!fresh) {
        embed__opening_settle(h);
    }
    *out = h;
    return 0;
}

/* ---- leases of a life that is over ---- */

#define LEASES_PER_STEP   16u   /* of HEAP_LEASE_SLOTS_MAX slots at most */
#define LEASES_TIMEOUT_MS 5000u /* opening isn't held up for longer by a log without a place */

int embed__leases_apply(struct heap *heap, uint32_t count, struct heap_outcome *out)
{
    struct slice key;
    struct slice value;
    for (; count > 0 && heap_map_next(heap, HEAP_MAP_LEASES, slice_of(NULL, 0), &key, &value) == 0;
         count--) {
        if (key.len != 8) {
            return ERR_CORRUPT;
        }
        int rv = heap_lease_return(heap, __builtin_bswap64(load_u64(key.data)));
        if (rv != 0) {
            return rv == ERR_NOMEM ? rv : ERR_CORRUPT;
        }
    }
    out->value = heap_map_count(heap, HEAP_MAP_LEASES);
    return 0;
}

void embed__leases_close(struct embedded *db)
{
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        inline_lock(&db->env);
        struct embedded_call call = {.value = heap_map_count(h->heap, HEAP_MAP_LEASES)};
        inline_unlock(&db->env);
        while (call.err == 0 && call.value > 0) {
            call = (struct embedded_call){
                .request = &(const struct embedded_request){
                    .op = (enum embedded_op)RECORD_LEASES_RETURN, .count = LEASES_PER_STEP}};
            embed_run(h, &call, LEASES_TIMEOUT_MS);
        }
        if (call.err != 0) { /* a full disk, say: the next open tries again */
            log_warn("embed", "old leases stay", "heap=%s err=%s", h->name, err_name(call.err));
        }
    }
}
