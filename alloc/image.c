/* Interim durable image: complete checkpoints, alternating between two files; replaced by the delta format of image.h. */
#include <stdio.h>
#include <string.h>

#include "alloc/image.h"
#include "base/assert.h"
#include "base/crc.h"
#include "base/mem.h"

#define MAGIC 0x31474d494e524143ull
#define CHUNK_PAGES 64u
#define RECORD (8u + HEAP_PAGE_BYTES)

/* file: header page {magic, uid, sequence, index, term, digest, page_count, bytes_max, pages, crc of pages, crc of header}
 * written and synced last; then records {page u64, bytes}. */
struct image {
    struct env *env;
    char dir[1024];
    uint64_t uid;
    bool busy, dead;
    struct image_stats stats;
    struct view *view;
    struct env_file *file;
    struct env_work work;
    uint8_t *buffer;
    size_t buffer_len;
    uint64_t next, at, pages, digest, page_count, bytes_max;
    uint32_t crc;
    int step, rv;
    struct image_result result;
    uint64_t started;
    image_checkpoint_cb cb;
    void *arg;
};

static void path_of(const struct image *im, uint64_t sequence, char out[1100])
{
    snprintf(out, 1100, "%s/full-%llu", im->dir, (unsigned long long)(sequence & 1));
}

static int load_one(struct env *env, const char *path, uint64_t uid, uint64_t *sequence, uint64_t *index, uint64_t *term,
                    struct heap **heap)
{
    struct env_file *f = NULL;
    uint8_t h[HEAP_PAGE_BYTES];
    *heap = NULL;
    if (env_file_open(env, path, ENV_OPEN_READ, &f) != 0) {
        return ERR_NOTFOUND;
    }
    int rv = ERR_CORRUPT;
    struct heap_receive *r = NULL;
    if (env_file_pread(env, f, h, sizeof h, 0) == (int64_t)sizeof h && load_u64(h) == MAGIC &&
        load_u32(h + 88) == crc32c(0, h, 88) && load_u64(h + 8) == uid) {
        uint64_t pages = load_u64(h + 64);
        uint32_t crc = 0;
        rv = heap_receive_open(load_u64(h + 48), load_u64(h + 56), &r);
        for (uint64_t i = 0; rv == 0 && i < pages; i++) {
            uint8_t rec[RECORD];
            if (env_file_pread(env, f, rec, RECORD, HEAP_PAGE_BYTES + i * RECORD) != RECORD) {
                rv = ERR_CORRUPT;
                break;
            }
            crc = crc32c(crc, rec, RECORD);
            rv = heap_receive_page(r, load_u64(rec), rec + 8);
        }
        if (rv == 0 && crc != load_u32(h + 72)) {
            rv = ERR_CORRUPT;
        }
        if (rv == 0) {
            rv = heap_receive_finish(r, uid, load_u64(h + 24), load_u64(h + 32), load_u64(h + 40), heap);
        } else if (r != NULL) {
            heap_receive_cancel(r);
        }
        *sequence = load_u64(h + 16);
        *index = load_u64(h + 24);
        *term = load_u64(h + 32);
    }
    env_file_close(env, f);
    return rv;
}

int image_open(struct env *env, const struct image_opts *opts, struct image **out, struct heap **heap, struct err_text *e)
{
    struct image *im = mem_zalloc(sizeof *im);
    *heap = NULL;
    *out = NULL;
    if (im == NULL) {
        return ERR_NOMEM;
    }
    im->env = env;
    im->uid = opts->uid;
    im->stats.mode = opts->mode;
    snprintf(im->dir, sizeof im->dir, "%s", opts->dir);
    int rv = env_dir_create(env, im->dir);
    if (rv != 0 && rv != ERR_EXISTS) {
        mem_free(im);
        return err_set(e, rv, "%s", opts->dir);
    }
    for (uint64_t i = 0; i < 2; i++) {
        char path[1100];
        uint64_t s, x, t;
        struct heap *h;
        path_of(im, i, path);
        if (load_one(env, path, im->uid, &s, &x, &t, &h) == 0) {
            if (*heap == NULL || s > im->stats.sequence) {
                if (*heap != NULL) {
                    heap_free(*heap);
                }
                *heap = h;
                im->stats.sequence = s;
                im->stats.index = x;
                im->stats.term = t;
            } else {
                heap_free(h);
            }
        }
    }
    if (im->stats.sequence < opts->mark_sequence) {
        if (*heap != NULL) {
            heap_free(*heap);
            *heap = NULL;
        }
        mem_free(im);
        return err_set(e, ERR_CORRUPT, "%s: older than the log's mark", opts->dir);
    }
    *out = im;
    return 0;
}

void image_close(struct image *im)
{
    if (im->view != NULL) {
        view_close(im->view);
    }
    if (im->file != NULL) {
        env_file_close(im->env, im->file);
    }
    mem_free(im->buffer);
    mem_free(im);
}

bool image_busy(const struct image *im) { return im->busy; }

static void run(struct env_work *w)
{
    struct image *im = container_of(w, struct image, work);
    if (im->step == 0) {
        char path[1100];
        path_of(im, im->result.sequence, path);
        env_file_unlink(im->env, path);
        im->rv = env_file_open(im->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &im->file);
    }
    if (im->rv == 0 && im->buffer_len > 0) {
        im->rv = env_file_pwrite(im->env, im->file, im->buffer, im->buffer_len, im->at);
        im->crc = crc32c(im->crc, im->buffer, im->buffer_len);
    }
    if (im->rv == 0 && im->step == 2) {
        uint8_t h[HEAP_PAGE_BYTES] = {0};
        store_u64(h, MAGIC);
        store_u64(h + 8, im->uid);
        store_u64(h + 16, im->result.sequence);
        store_u64(h + 24, im->result.index);
        store_u64(h + 32, im->result.term);
        store_u64(h + 40, im->digest);
        store_u64(h + 48, im->page_count);
        store_u64(h + 56, im->bytes_max);
        store_u64(h + 64, im->pages);
        store_u32(h + 72, im->crc);
        store_u32(h + 88, crc32c(0, h, 88));
        im->rv = env_file_sync(im->env, im->file);
        im->rv = im->rv ? im->rv : env_file_pwrite(im->env, im->file, h, sizeof h, 0);
        im->rv = im->rv ? im->rv : env_file_sync(im->env, im->file);
        im->rv = im->rv ? im->rv : env_dir_sync(im->env, im->dir);
    }
}

static void fill(struct image *im)
{
    im->at += im->buffer_len;
    im->buffer_len = 0;
    while (im->next < im->page_count && im->buffer_len < CHUNK_PAGES * RECORD) {
        const uint8_t *page = view_page(im->view, im->next);
        if (page != NULL) {
            store_u64(im->buffer + im->buffer_len, im->next);
            memcpy(im->buffer + im->buffer_len + 8, page, HEAP_PAGE_BYTES);
            im->buffer_len += RECORD;
            im->pages++;
        }
        im->next++;
    }
}

static void done(struct env_work *w)
{
    struct image *im = container_of(w, struct image, work);
    if (im->rv == 0 && im->step != 2) {
        fill(im);
        im->step = im->next == im->page_count ? 2 : 1;
        env_work(im->env, &im->work);
        return;
    }
    if (im->view != NULL) {
        view_close(im->view);
        im->view = NULL;
    }
    if (im->file != NULL) {
        env_file_close(im->env, im->file);
        im->file = NULL;
    }
    im->busy = false;
    im->result.err = im->rv;
    im->result.pages_written = im->result.pages_total = im->pages;
    im->result.bytes_written = im->at;
    im->result.duration_ns = env_now_ns(im->env) - im->started;
    if (im->rv == 0) {
        im->stats.sequence = im->result.sequence;
        im->stats.index = im->result.index;
        im->stats.term = im->result.term;
        im->stats.checkpoints++;
    }
    im->cb(im->arg, &im->result);
}

int image_checkpoint(struct image *im, struct heap *heap, image_checkpoint_cb cb, void *arg)
{
    if (im->busy) {
        return ERR_BUSY;
    }
    int rv = view_open(heap, &im->view);
    if (rv != 0) {
        return rv;
    }
    if (im->buffer == NULL) {
        im->buffer = mem_alloc(CHUNK_PAGES * RECORD);
    }
    struct heap_opts o;
    heap_get_opts(heap, &o);
    im->busy = true;
    im->cb = cb;
    im->arg = arg;
    im->started = env_now_ns(im->env);
    memset(&im->result, 0, sizeof im->result);
    im->result.sequence = im->stats.sequence + 1;
    im->result.index = view_index(im->view);
    im->result.term = view_term(im->view);
    im->digest = view_digest(im->view);
    im->page_count = view_page_count(im->view);
    im->bytes_max = o.bytes_max;
    im->next = 0;
    im->pages = 0;
    im->crc = 0;
    im->at = HEAP_PAGE_BYTES;
    im->buffer_len = 0;
    im->step = 0;
    im->rv = 0;
    im->work.run = run;
    im->work.done = done;
    im->work.queue = ENV_QUEUE_CHECKPOINT;
    env_work(im->env, &im->work);
    return 0;
}

int image_replace(struct image *im, struct heap *heap, image_checkpoint_cb cb, void *arg)
{
    return image_checkpoint(im, heap, cb, arg);
}
int image_commit(struct image *im, struct heap *heap)
{
    (void)im;
    (void)heap;
    return ERR_UNSUPPORTED;
}
void image_get_stats(const struct image *im, struct image_stats *out) { *out = im->stats; }
int image_destroy(struct env *env, const char *dir)
{
    char path[1100];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/full-%d", dir, i);
        env_file_unlink(env, path);
    }
    return 0;
}
