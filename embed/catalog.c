/* Names of heaps. The catalogue is a small heap of its own, with a log and an image like the
 * others, so that creating and dropping are entries that survive like any write.
 *
 * A heap is made before the catalogue names it, and unmade after the catalogue has forgotten it. A
 * crash in between leaves files that nobody names; the next open removes them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "embed/internal.h"

/* ---- apply ---- */

static int create_apply(struct heap *heap, uint64_t version, const struct heap_command *c)
{
    struct slice value;
    struct catalog_entry entry = {
        .uid = c->ptr, .bytes_max = c->size, .created = version, .retention_ms = c->delta};
    uint64_t next = c->ptr + 1;
    if (heap_map_get(heap, HEAP_MAP_CATALOG, c->name, &value) == 0) {
        return ERR_EXISTS;
    }
    int rv = heap_map_put(heap, HEAP_MAP_CATALOG, c->name, slice_of(&entry, sizeof entry));
    if (rv == 0) {
        rv = heap_map_put(heap, HEAP_MAP_META,
                          slice_of(CATALOG_NEXT_UID, sizeof CATALOG_NEXT_UID - 1),
                          slice_of(&next, sizeof next));
    }
    return rv;
}

int embed__catalog_apply(struct heap *heap, uint64_t version, const struct record *record,
                         struct heap_outcome *out)
{
    int rv = record->kind == RECORD_HEAP_CREATE
                 ? create_apply(heap, version, &record->command)
                 : heap_map_delete(heap, HEAP_MAP_CATALOG, record->command.name);
    if (err_stops_replica(rv)) {
        return rv;
    }
    out->code = rv;
    return 0;
}

/* ---- open ---- */

static int catalog_entry_of(struct slice value, struct catalog_entry *out)
{
    if (value.len != sizeof *out) {
        return ERR_CORRUPT;
    }
    memcpy(out, value.data, sizeof *out);
    return out->uid >= HEAP_UID_FIRST && out->retention_ms <= RETENTION_MS_MAX ? 0 : ERR_CORRUPT;
}

static struct embedded_heap *find_uid(struct embedded *db, uint64_t uid)
{
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (h->uid == uid) {
            return h;
        }
    }
    return NULL;
}

static bool name_is_valid(struct slice name)
{
    const char *c = (const char *)name.data;
    for (size_t i = 0; i < name.len; i++) {
        bool word = (c[i] >= 'a' && c[i] <= 'z') || (c[i] >= '0' && c[i] <= '9');
        if (!word && (i == 0 || (c[i] != '-' && c[i] != '_'))) {
            return false;
        }
    }
    return name.len > 0 && name.len <= HEAP_NAME_BYTES_MAX;
}

static struct embedded_heap *find_name(struct embedded *db, struct slice name)
{
    list_for_each (it, &db->heaps) {
        struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (!h->dropped && h != db->catalog &&
            slice_equals(name, slice_of(h->name, strlen(h->name)))) {
            return h;
        }
    }
    return NULL;
}

/* The numbers below it have been given to heaps, or never will be. Malformed: none of them. */
static uint64_t catalog_next_uid(const struct embedded *db)
{
    struct slice value;
    int rv = heap_map_get(db->catalog->heap, HEAP_MAP_META,
                          slice_of(CATALOG_NEXT_UID, sizeof CATALOG_NEXT_UID - 1), &value);
    if (rv != 0) {
        return HEAP_UID_FIRST;
    }
    return value.len == 8 ? load_u64(value.data) : 0;
}

/* What a heap that the catalogue doesn't name has on the disk. The directory of one that the
 * catalogue never named stays, empty, until a later one is made: it keeps the number, of which the
 * log may hold records, from being used again. */
static void files_remove(struct embedded *db, uint64_t uid)
{
    char dir[EMBED_PATH_BYTES];
    if (embed__heap_path(db, uid, dir, NULL) != 0) {
        return;
    }
    if (uid < catalog_next_uid(db)) {
        (void)image_destroy(embed_env(db), dir); /* failing, at the next open again */
    } else {
        (void)image_clear(embed_env(db), dir);
    }
}

struct orphans {
    struct embedded *db;
    struct wal_log *log;
};

static void orphan_log(void *arg, struct wal_log *log)
{
    struct orphans *o = arg;
    uint64_t uid = wal_log_uid(log);
    if (find_uid(o->db, uid) == NULL) {
        o->log = log;
        if (uid >= o->db->next_uid) {
            o->db->next_uid = uid + 1; /* a number is never used twice */
        }
    }
}

static void orphan_image(void *arg, const char *name)
{
    struct embedded *db = arg;
    char again[17];
    uint64_t uid = 0;
    if (strlen(name) != 16 || sscanf(name, "%16" SCNx64, &uid) != 1) {
        return;
    }
    (void)snprintf(again, sizeof again, "%016" PRIx64, uid);
    if (strcmp(again, name) == 0 && find_uid(db, uid) == NULL) {
        files_remove(db, uid);
        if (uid >= db->next_uid) {
            db->next_uid = uid + 1;
        }
    }
}

static void orphans_remove(struct embedded *db)
{
    char dir[EMBED_PATH_BYTES];
    struct orphans o = {db, NULL};
    while (db->wal != NULL) {
        o.log = NULL;
        wal_log_each(db->wal, orphan_log, &o);
        if (o.log == NULL || wal_log_drop(o.log) != 0) {
            break;
        }
    }
    if (embed__path(db, "heaps", dir, NULL) == 0) {
        (void)env_dir_list(embed_env(db), dir, orphan_image, db);
    }
}

static int heaps_load(struct embedded *db, struct err_text *e)
{
    struct slice key;
    struct slice value;
    struct slice after = slice_of(NULL, 0);
    struct heap *heap = db->catalog->heap;
    while (heap_map_next(heap, HEAP_MAP_CATALOG, after, &key, &value) == 0) {
        struct catalog_entry entry;
        struct embedded_heap *h = NULL;
        if (!name_is_valid(key) || catalog_entry_of(value, &entry) != 0 ||
            find_uid(db, entry.uid) != NULL) {
            return err_set(e, ERR_CORRUPT, "%s: the catalogue has a malformed entry",
                           db->settings.dir);
        }
        int rv = embed__heap_load(db, &entry, key, false, &h, e);
        if (rv != 0) {
            return rv;
        }
        list_push_back(&db->heaps, &h->link);
        after = key;
    }
    return 0;
}

int embed__catalog_load(struct embedded *db, bool fresh, struct err_text *e)
{
    const struct catalog_entry self = {.uid = CATALOG_UID, .bytes_max = CATALOG_BYTES_MAX};
    int rv = embed__heap_load(db, &self, slice_of("", 0), fresh, &db->catalog, e);
    if (rv != 0) {
        return rv;
    }
    list_push_back(&db->heaps, &db->catalog->link);
    db->next_uid = catalog_next_uid(db);
    if (db->next_uid < HEAP_UID_FIRST) {
        return err_set(e, ERR_CORRUPT, "%s: the catalogue's counter is malformed",
                       db->settings.dir);
    }
    rv = heaps_load(db, e);
    if (rv == 0) {
        rv = embed__opening_wait(db, e);
    }
    if (rv == 0 && db->wal != NULL && !fresh) {
        rv = wal_begun(db->wal);
        rv = rv == 0 ? 0 : err_set(e, rv, "%s/log: %s", db->settings.dir, err_text_of(rv));
    }
    if (rv == 0) {
        orphans_remove(db);
    }
    return rv;
}

/* ---- create, drop, open ---- */

static int usable(const struct embedded *db, struct err_text *e)
{
    if (embed_is_foreign(db)) {
        return err_set(e, ERR_CLOSED, "this process was forked from the one that opened %s",
                       db->settings.dir);
    }
    if (db->failed != 0) {
        return err_set(e, db->failed, "%s", db->fail_text);
    }
    return db->closing ? err_set(e, ERR_CANCELED, "the directory is being closed: open it again")
                       : 0;
}

/* Never in doubt: of a heap that may be in the catalogue, nothing must be removed. */
static int catalog_run(struct embedded *db, enum record_kind kind, struct slice name,
                       const struct catalog_entry *entry, uint32_t timeout_ms, struct err_text *e)
{
    struct embedded_call call = {
        .request = &(const struct embedded_request){.op = (enum embedded_op)kind,
                                                    .name = name,
                                                    .ptr = entry->uid,
                                                    .size = entry->bytes_max,
                                                    .delta = entry->retention_ms}};
    embed__run_certain(db->catalog, &call, timeout_ms);
    return call.err == 0
               ? 0
               : err_set(e, call.err, "%s", call.text != NULL ? call.text : err_text_of(call.err));
}

/* With the lock: what heap_load() made goes again. */
static void unmake(struct embedded_heap *h)
{
    struct embedded *db = h->db;
    if (h->log != NULL && db->failed == 0) {
        (void)wal_log_drop(h->log);
    }
    h->log = NULL;
    image_close(h->image);
    h->image = NULL;
    heap_free(h->heap);
    h->heap = NULL;
    if (db->failed == 0) {
        files_remove(db, h->uid);
    }
}

static int create(struct embedded *db, struct slice name, struct catalog_entry *entry,
                  uint32_t timeout_ms, struct err_text *e)
{
    struct embedded_heap *h = NULL;
    inline_lock(&db->env);
    int rv = usable(db, e);
    if (rv == 0 && find_name(db, name) != NULL) {
        rv = err_set(e, ERR_EXISTS, "a heap of this name is there already");
    }
    if (rv == 0 && heap_map_count(db->catalog->heap, HEAP_MAP_CATALOG) >= HEAPS_MAX) {
        rv = err_set(e, ERR_LIMIT, "a directory holds %d heaps at most: drop one", HEAPS_MAX);
    }
    if (rv == 0) {
        entry->uid = db->next_uid++;
        rv = embed__heap_load(db, entry, name, true, &h, e);
    }
    inline_unlock(&db->env);
    if (rv != 0) {
        return rv;
    }
    rv = catalog_run(db, RECORD_HEAP_CREATE, name, entry, timeout_ms, e);
    inline_lock(&db->env);
    if (rv == 0) {
        list_push_back(&db->heaps, &h->link);
    } else {
        unmake(h);
        embed__heap_free(h);
    }
    inline_unlock(&db->env);
    return rv;
}

int embed_heap_create(struct embedded *db, struct slice name, uint64_t bytes_max,
                      uint64_t retention_ms, uint32_t timeout_ms, struct err_text *e)
{
    struct catalog_entry entry = {.retention_ms = retention_ms};
    if (embed_is_foreign(db)) {
        return usable(db, e);
    }
    if (retention_ms > RETENTION_MS_MAX) {
        return err_set(e, ERR_INVAL, "history is kept for at most %llu ms", RETENTION_MS_MAX);
    }
    if (bytes_max > UINT64_MAX - HEAP_PAGE_BYTES) {
        return err_set(e, ERR_INVAL, "no heap is that large: give a smaller limit");
    }
    bytes_max = (bytes_max + HEAP_PAGE_BYTES - 1) / HEAP_PAGE_BYTES * HEAP_PAGE_BYTES;
    if (bytes_max < (UINT64_C(1) << 20)) {
        return err_set(e, ERR_INVAL, "a heap has at least 1 MiB: give a larger limit");
    }
    entry.bytes_max = bytes_max;
    (void)pthread_mutex_lock(&db->directory);
    int rv = create(db, name, &entry, timeout_ms, e);
    (void)pthread_mutex_unlock(&db->directory);
    return rv;
}

static int find(struct embedded *db, struct slice name, struct embedded_heap **out,
                struct err_text *e)
{
    inline_lock(&db->env);
    int rv = usable(db, e);
    *out = rv == 0 ? find_name(db, name) : NULL;
    if (rv == 0 && *out == NULL) {
        rv = err_set(e, ERR_NOTFOUND, "no heap of this name");
    }
    inline_unlock(&db->env);
    return rv;
}

static int drop(struct embedded *db, struct slice name, uint32_t timeout_ms, struct err_text *e)
{
    struct embedded_heap *h = NULL;
    const struct catalog_entry none = {0};
    int rv = find(db, name, &h, e);
    if (rv == 0) {
        rv = catalog_run(db, RECORD_HEAP_DROP, name, &none, timeout_ms, e);
    }
    if (rv != 0) {
        return rv;
    }
    assert(h != NULL);
    inline_lock(&db->env);
    h->dropped = true; /* its struct stays for those who have it open */
    embed__heap_settle(h);
    embed__watch_end(h, ERR_NOTFOUND, "the heap was dropped");
    unmake(h);
    inline_unlock(&db->env);
    return 0;
}

int embed_heap_drop(struct embedded *db, struct slice name, uint32_t timeout_ms, struct err_text *e)
{
    if (embed_is_foreign(db)) {
        return usable(db, e);
    }
    (void)pthread_mutex_lock(&db->directory);
    int rv = drop(db, name, timeout_ms, e);
    (void)pthread_mutex_unlock(&db->directory);
    return rv;
}

int embed_heap_open(struct embedded *db, struct slice name, struct embedded_heap **out,
                    struct err_text *e)
{
    *out = NULL;
    if (embed_is_foreign(db)) {
        return usable(db, e);
    }
    (void)pthread_mutex_lock(&db->directory);
    int rv = find(db, name, out, e);
    (void)pthread_mutex_unlock(&db->directory);
    return rv;
}
