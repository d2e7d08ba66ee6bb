/* The files: how a segment and a spare come into being, and when they go.
 *
 * A segment file gets its name only after its header is synced: a name NNN.log with a bad header is
 * damage, never an interrupted start. A file is made under a spare name, zero-filled and synced,
 * gets a header, is synced, renamed, and the directory is synced. A crash between any two steps
 * leaves a spare, or a segment without an opening block, which recovery turns into a spare again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "wal/internal.h"

#define ZERO_CHUNK_BYTES (1u << 20)

void wal__segment_path(const char *dir, uint64_t sequence, char out[WAL_PATH_BYTES])
{
    (void)snprintf(out, WAL_PATH_BYTES, "%s/%016" PRIx64 ".log", dir, sequence);
}

void wal__spare_path(const char *dir, uint64_t id, char out[WAL_PATH_BYTES])
{
    (void)snprintf(out, WAL_PATH_BYTES, "%s/spare-%016" PRIx64, dir, id);
}

static bool hex_parse(const char *text, uint64_t *out)
{
    uint64_t v = 0;

    for (int i = 0; i < 16; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9') {
            v = v << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return false;
        }
    }
    *out = v;
    return true;
}

char wal__name_parse(const char *name, uint64_t *number)
{
    *number = 0;
    if (strlen(name) == 20 && strcmp(name + 16, ".log") == 0 && hex_parse(name, number)) {
        return 's';
    }
    if (strlen(name) == 22 && strncmp(name, "spare-", 6) == 0 && hex_parse(name + 6, number)) {
        return 'p';
    }
    return 0;
}

/* Zero-filled, not only allocated: the first write into an unwritten extent changes metadata, which
 * every sync of the log would then pay for. */
int wal__spare_make(struct env *env, const char *dir, uint64_t id, uint64_t bytes)
{
    size_t chunk = bytes < ZERO_CHUNK_BYTES ? (size_t)bytes : ZERO_CHUNK_BYTES;
    char path[WAL_PATH_BYTES];
    struct env_file *file;
    uint8_t *zeroes;
    int rv;

    assert(bytes % WAL_ALIGN == 0);
    wal__spare_path(dir, id, path);
    zeroes = mem_aligned(WAL_ALIGN, chunk);
    if (zeroes == NULL) {
        return ERR_NOMEM;
    }
    memset(zeroes, 0, chunk);
    rv = env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    if (rv != 0) {
        goto out;
    }
    for (uint64_t at = 0; rv == 0 && at < bytes; at += chunk) {
        uint64_t len = bytes - at < chunk ? bytes - at : chunk;
        rv = env_file_pwrite(env, file, zeroes, (size_t)len, at);
    }
    if (rv == 0) {
        rv = env_file_sync(env, file);
    }
    env_file_close(env, file);
    if (rv != 0) {
        (void)env_file_unlink(env, path);
    }
out:
    mem_free(zeroes);
    return rv;
}

int wal__segment_make(struct env *env, const char *dir, uint64_t spare_id,
                      const struct wal_header *header, struct slice opening, bool direct,
                      struct env_file **out)
{
    char from[WAL_PATH_BYTES], to[WAL_PATH_BYTES];
    struct env_file *file = NULL;
    uint8_t *bytes;
    int rv;

    *out = NULL;
    wal__spare_path(dir, spare_id, from);
    wal__segment_path(dir, header->sequence, to);
    bytes = mem_aligned(WAL_ALIGN, WAL_HEADER_BYTES + opening.len);
    if (bytes == NULL) {
        return ERR_NOMEM;
    }
    wal__header_pack(header, bytes);
    if (opening.len > 0) {
        memcpy(bytes + WAL_HEADER_BYTES, opening.data, opening.len);
    }
    /* First of all the spare's own name: were the rename that made a spare of an old segment lost
     * after this, a crash would show that segment with a strange header. */
    rv = env_dir_sync(env, dir);
    if (rv != 0) {
        goto out;
    }
    rv = env_file_open(env, from, ENV_OPEN_WRITE | (direct ? ENV_OPEN_DIRECT | ENV_OPEN_DSYNC : 0),
                       &file);
    if (rv != 0) {
        goto out;
    }
    rv = env_file_pwrite(env, file, bytes, WAL_HEADER_BYTES + opening.len, 0);
    if (rv == 0) { /* with all that a life before has written to it */
        rv = env_file_sync(env, file);
    }
    if (rv == 0) {
        rv = env_file_rename(env, from, to);
    }
    if (rv == 0) {
        rv = env_dir_sync(env, dir);
    }
    if (rv != 0) {
        env_file_close(env, file);
        file = NULL;
    }
out:
    mem_free(bytes);
    *out = file;
    return rv;
}

struct wal_segment *wal__segment_new(struct wal *wal, const struct wal_header *header,
                                     struct env_file *file)
{
    struct wal_segment *s = mem_zalloc(sizeof *s);

    (void)wal;
    if (s != NULL) {
        list_init(&s->link);
        s->header = *header;
        s->file = file;
    }
    return s;
}

/* ---- ahead of need, on a worker
 * ----------------------------------------------------------------------------------- */

static void prepare_run(struct env_work *work)
{
    struct wal_prepare *p = container_of(work, struct wal_prepare, work);
    struct wal *wal = p->wal;

    p->err = 0;
    if (!p->recycle) {
        p->err = wal__spare_make(wal->env, wal->dir, p->spare_id, wal->segment_bytes);
        p->spare_made = p->err == 0;
    }
    if (p->err == 0 && p->want_segment) {
        p->err = wal__segment_make(wal->env, wal->dir, p->spare_id, &p->header, slice_of(NULL, 0),
                                   wal->opts.direct, &p->file);
        if (p->err == 0) {
            p->err = wal__newest_write(wal->env, wal->dir, &wal->newest, p->header.sequence);
        }
    }
    if (p->err != 0) {
        (void)snprintf(p->why, sizeof p->why, "%s", err_why(p->err));
    }
}

/* Released segments may have taken the places meanwhile. */
static void spare_keep(struct wal *wal, uint64_t id)
{
    char path[WAL_PATH_BYTES];

    if (wal->spare_count < WAL_SPARES_MAX) {
        wal->spares[wal->spare_count++] = id;
        return;
    }
    wal__spare_path(wal->dir, id, path);
    (void)env_file_unlink(wal->env, path);
}

static void prepare_failed(struct wal *wal)
{
    struct wal_prepare *p = &wal->prepare;

    wal->retry_at_ns = env_now_ns(wal->env) + WAL_TICK_MS * 1000000ull;
    if (!wal->no_space) {
        log_warn("wal", "can't prepare a segment, trying again every second",
                 "error=%s reason=\"%s\" bytes=%llu dir=%s", err_name(p->err), p->why,
                 (unsigned long long)wal->segment_bytes, wal->dir);
    }
    wal->no_space = true;
    (void)snprintf(wal->no_space_why, sizeof wal->no_space_why, "%s",
                   p->why[0] != '\0' ? p->why : err_text_of(p->err));
    /* A segment that failed half way: its header's salt must not be used again, so the next try
     * draws a new one and renames over whatever name the file has by now. */
    if (p->want_segment && (p->spare_made || p->recycle)) {
        char path[WAL_PATH_BYTES];
        wal__spare_path(wal->dir, p->spare_id, path);
        (void)env_file_unlink(wal->env, path);
    }
}

static void prepare_done(struct env_work *work)
{
    struct wal_prepare *p = container_of(work, struct wal_prepare, work);
    struct wal *wal = p->wal;
    bool made = false;

    p->active = false;
    if (wal->abandoned) {
        if (p->file != NULL) {
            env_file_close(wal->env, p->file);
            p->file = NULL;
        }
        wal__finish_step(wal);
        return;
    }
    if (p->err == 0 && p->want_segment) {
        wal->next = wal__segment_new(wal, &p->header, p->file);
        if (wal->next == NULL) {
            env_file_close(wal->env, p->file);
            p->err = ERR_NOMEM;
        }
        p->file = NULL;
        made = p->err == 0;
    } else if (p->err == 0) {
        spare_keep(wal, p->spare_id);
    }
    if (p->err != 0) {
        if (p->file != NULL) { /* it has its name, and the next try takes that */
            env_file_close(wal->env, p->file);
            p->file = NULL;
        }
        prepare_failed(wal);
    } else {
        if (wal->no_space) {
            log_info("wal", "segments can be prepared again", "dir=%s", wal->dir);
        }
        wal->no_space = false;
        wal__flush(wal);
        wal__prepare_kick(wal);
    }
    if (wal->closing) {
        wal__finish_step(wal);
    } else if (made && wal->opts.on_prepared != NULL) {
        wal->opts.on_prepared(wal->opts.arg);
    }
}

void wal__prepare_kick(struct wal *wal)
{
    struct wal_prepare *p = &wal->prepare;

    if (wal->next != NULL && wal->spare_count > 0) {
        /* A retired segment filled the place of the one that couldn't be made. */
        wal->no_space = false;
    }
    if (p->active || wal->failed != 0 || wal->current == NULL ||
        (wal->closing && (wal->next != NULL || list_empty(&wal->queue))) ||
        (wal->next != NULL && wal->spare_count > 0) ||
        (wal->no_space && env_now_ns(wal->env) < wal->retry_at_ns)) {
        return;
    }
    memset(p, 0, sizeof *p);
    p->wal = wal;
    p->want_segment = wal->next == NULL;
    if (p->want_segment && wal->spare_count > 0) {
        p->recycle = true;
        p->spare_id = wal->spares[--wal->spare_count];
    } else {
        p->spare_id = wal->spare_id_next++;
    }
    p->header.sequence = wal->current->header.sequence + 1;
    p->header.base = wal->current->header.base + wal->current->header.bytes;
    p->header.bytes = wal->segment_bytes;
    p->header.node_uid = wal->opts.node_uid;
    p->header.salt = env_random_u64(wal->env);
    p->active = true;
    p->work.run = prepare_run;
    p->work.done = prepare_done;
    p->work.queue = ENV_QUEUE_MISC;
    env_work(wal->env, &p->work);
}

/* ---- release
 * ------------------------------------------------------------------------------------------------------
 */

void wal__retire_file(struct wal *wal, uint64_t sequence, bool same_size)
{
    char from[WAL_PATH_BYTES], to[WAL_PATH_BYTES];

    wal__segment_path(wal->dir, sequence, from);
    if (same_size && wal->spare_count < WAL_SPARES_MAX) {
        uint64_t id = wal->spare_id_next++;
        wal__spare_path(wal->dir, id, to);
        if (env_file_rename(wal->env, from, to) == 0) {
            wal->spares[wal->spare_count++] = id;
            return;
        }
    }
    (void)env_file_unlink(wal->env, from);
}

void wal__release(struct wal *wal)
{
    while (wal->failed == 0) {
        struct wal_segment *oldest = list_entry(wal->segments.next, struct wal_segment, link);
        struct wal_segment *second = list_entry(oldest->link.next, struct wal_segment, link);

        /* The state of every shard stands in the next segment's opening block: that one must be
         * durable. */
        if (oldest == wal->current || !second->opened || oldest->live > 0 ||
            oldest->release_at > wal->durable_position) {
            return;
        }
        list_remove(&oldest->link);
        wal->segment_count--;
        env_file_close(wal->env, oldest->file);
        wal__retire_file(wal, oldest->header.sequence, oldest->header.bytes == wal->segment_bytes);
        mem_free(oldest);
    }
}
