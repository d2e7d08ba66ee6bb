/* The table that client/ sees, and what is said to it in text: the address of a directory, and the
 * state of one. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "embed/internal.h"
#include "embed/table.h"

#define X(NAME) static_assert((int)EMBEDDED_##NAME == (int)HEAP_COMMAND_##NAME, #NAME);
X(ALLOC)
X(FREE)
X(REALLOC)
X(WRITE)
X(COMPARE_AND_WRITE)
X(ADD_U64)
X(WRITE_IF_VERSION)
X(ROOT_SET)
X(ROOT_COMPARE_AND_SET)
X(ROOT_DELETE)
X(TYPE_REGISTER)
X(LEASE)
X(SET_RETENTION)
X(RECLAIM)
X(DEFRAG)
X(TRIM)
X(TRANSACT)
X(CLOSE)
#undef X

/* ---- file://PATH?key=value&key=value ---- */

#define SCHEME            "file://"
#define SEGMENT_BYTES_MIN ((uint64_t)8 << 20) /* four of the largest entries */
#define SEGMENT_BYTES_MAX ((uint64_t)1 << 30)
#define LOG_BYTES_DEFAULT ((uint64_t)512 << 20)
#define LOG_SEGMENTS_MIN  4u
#define CHECKPOINT_MIN    ((uint64_t)64 << 10)
#define SETTING_BYTES_MAX 64u

static int number(const char *name, const char *value, uint64_t min, uint64_t max, uint64_t *out,
                  struct err_text *e)
{
    char *end = NULL;
    unsigned long long v = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || v < min || v > max) {
        return err_set(e, ERR_INVAL, "%s=%s: a number of bytes from %" PRIu64 " to %" PRIu64, name,
                       value, min, max);
    }
    *out = v;
    return 0;
}

static int setting(struct embed_settings *s, const char *name, const char *value,
                   struct err_text *e)
{
    if (strcmp(name, "mode") == 0) {
        if (strcmp(value, "auto") == 0) {
            s->mode = EMBED_MODE_AUTO;
        } else if (strcmp(value, "disk") == 0) {
            s->mode = EMBED_MODE_DISK;
        } else if (strcmp(value, "pmem") == 0) {
            s->mode = EMBED_MODE_PMEM;
        } else {
            return err_set(e, ERR_INVAL, "mode=%s: auto, disk or pmem", value);
        }
        return 0;
    }
    if (strcmp(name, "segment") == 0) {
        return number(name, value, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX, &s->segment_bytes, e);
    }
    if (strcmp(name, "log") == 0) {
        return number(name, value, LOG_SEGMENTS_MIN * SEGMENT_BYTES_MIN, UINT64_MAX / 2,
                      &s->log_bytes_max, e);
    }
    if (strcmp(name, "checkpoint") == 0) {
        return number(name, value, CHECKPOINT_MIN, UINT64_MAX / 2, &s->checkpoint_bytes, e);
    }
    return err_set(e, ERR_INVAL, "%s: no such setting (mode, segment, log, checkpoint)", name);
}

static int settings_parse(struct embed_settings *s, const char *at, struct err_text *e)
{
    while (*at != '\0') {
        char text[SETTING_BYTES_MAX];
        size_t len = strcspn(at, "&");
        if (len >= sizeof text) {
            return err_set(e, ERR_INVAL, "a setting of %zu bytes", len);
        }
        memcpy(text, at, len);
        text[len] = '\0';
        char *value = strchr(text, '=');
        if (value == NULL) {
            return err_set(e, ERR_INVAL, "%s: settings are name=value, with & between them", text);
        }
        *value++ = '\0';
        int rv = setting(s, text, value, e);
        if (rv != 0) {
            return rv;
        }
        at += at[len] == '&' ? len + 1 : len;
    }
    return 0;
}

int embed_url_parse(const char *url, struct embed_settings *s, struct err_text *e)
{
    memset(s, 0, sizeof *s);
    s->segment_bytes = SEGMENT_BYTES_MIN;
    s->log_bytes_max = LOG_BYTES_DEFAULT;
    if (strncmp(url, SCHEME, sizeof SCHEME - 1) != 0) {
        return err_set(e, ERR_INVAL, "%s: not of the form file:///directory", url);
    }
    const char *path = url + sizeof SCHEME - 1;
    size_t len = strcspn(path, "?");
    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    if (len == 0 || len > sizeof s->dir - 64 || (path[0] != '/' && path[0] != '.')) {
        return err_set(e, ERR_INVAL,
                       "%s: the directory must be absolute (file:///dir) or begin with a dot "
                       "(file://./dir)",
                       url);
    }
    memcpy(s->dir, path, len);
    const char *query = strchr(path, '?');
    int rv = query == NULL ? 0 : settings_parse(s, query + 1, e);
    if (rv == 0 && s->log_bytes_max < LOG_SEGMENTS_MIN * s->segment_bytes) {
        rv = err_set(e, ERR_INVAL, "log must be at least %u times segment", LOG_SEGMENTS_MIN);
    }
    return rv;
}

static int table_open(const char *url, struct embedded **out, struct err_text *e)
{
    struct embed_settings settings;
    int rv = embed_url_parse(url, &settings, e);
    return rv != 0 ? rv : embed_open(&settings, NULL, out, e);
}

/* ---- status ---- */

static int print(struct buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int print(struct buf *out, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    assert(n >= 0 && n < (int)sizeof text);
    return buf_append(out, text, (size_t)n);
}

static int status_heap(const struct embedded_heap *h, bool first, struct buf *out)
{
    struct heap_stats s;
    heap_get_stats(h->heap, &s);
    return print(
        out,
        "%s{\"name\":\"%s\",\"uid\":%" PRIu64 ",\"index\":%" PRIu64 ",\"checkpoint_index\":%" PRIu64
        ",\"objects\":%" PRIu64 ",\"object_bytes\":%" PRIu64 ",\"arena_bytes\":%" PRIu64
        ",\"arena_bytes_max\":%" PRIu64 ",\"free_bytes\":%" PRIu64 ",\"roots\":%" PRIu64
        ",\"undo_bytes\":%" PRIu64 "}",
        first ? "" : ",", h->name, h->uid, heap_index(h->heap), h->checkpoint_index, s.object_count,
        s.object_bytes, s.arena_bytes, s.arena_bytes_max, s.free_bytes, s.root_count, s.undo_bytes);
}

static int status_log(const struct embedded *db, struct buf *out)
{
    struct wal_stats s;
    if (db->wal == NULL) {
        return 0;
    }
    wal_stats(db->wal, &s);
    return print(out,
                 "\"log\":{\"writes\":%" PRIu64 ",\"bytes_written\":%" PRIu64
                 ",\"records\":%" PRIu64 ",\"sync_us_p50\":%" PRIu64 ",\"sync_us_p99\":%" PRIu64
                 ",\"disk_bytes\":%" PRIu64 "},",
                 s.writes, s.bytes_written, s.records, s.sync_ns_p50 / 1000, s.sync_ns_p99 / 1000,
                 s.disk_bytes);
}

static int table_status(struct embedded *db, struct buf *out)
{
    if (embed_is_foreign(db)) {
        return ERR_CLOSED;
    }
    bool first = true;
    inline_lock(&db->env);
    int rv = print(out, "{\"mode\":\"%s\",\"state\":\"%s\",",
                   db->mode == IMAGE_PMEM ? "pmem" : "disk", db->failed != 0 ? "failed" : "ok");
    if (rv == 0) {
        rv = status_log(db, out);
    }
    if (rv == 0) {
        rv = print(out, "\"heaps\":[");
    }
    list_for_each (it, &db->heaps) {
        const struct embedded_heap *h = list_entry(it, struct embedded_heap, link);
        if (rv == 0 && h != db->catalog && !h->dropped) {
            rv = status_heap(h, first, out);
            first = false;
        }
    }
    if (rv == 0) {
        rv = print(out, "]}");
    }
    inline_unlock(&db->env);
    return rv;
}

const struct embedded_ops embed_table = {
    .open = table_open,
    .close = embed_close,
    .heap_create = embed_heap_create,
    .heap_drop = embed_heap_drop,
    .heap_open = embed_heap_open,
    .run = embed_run,
    .submit = embed_submit,
    .wait = embed_wait,
    .want = embed_want,
    .watch_close = embed_watch_close,
    .heap_mark = embed_heap_mark,
    .post = embed_post,
    .on_library_thread = embed_on_library_thread,
    .is_foreign = embed_is_foreign,
    .status = table_status,
};
