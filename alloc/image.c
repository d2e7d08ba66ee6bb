/* The durable home of a heap: opening, closing, and the checkpoint in disk mode.
 *
 * A checkpoint writes one new file: all present pages (a base) or those that changed (a delta), a
 * table with a CRC for each, and a footer; syncs it and the directory; and then makes the
 * superblock name it. A crash anywhere before the superblock is durable leaves the old checkpoint,
 * and after it the new one. When the deltas have grown as large as the base, the next checkpoint
 * writes a new base from memory: over time that is one more write for each dirty page, and unlike
 * folding deltas into a base in place it has no state in between (docs/heap-format.md). */
#include "alloc/image.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "base/crc.h"
#include "base/mem.h"

#define DELTA_BYTES_MIN ((uint64_t)4 << 20)
#define DELTAS_MAX      48u

/* One checkpoint. Reactor: copies a piece, submits; worker: writes; and so on until the last piece.
 * Owned by the image, or by itself when the image was closed meanwhile. */
struct image_run {
    struct env_work work; /* first */
    struct env *env;
    struct image *image;  /* NULL: abandoned */
    pthread_mutex_t lock; /* guards `abandoned` and the worker's changes of the directory */
    bool abandoned;
    struct heap *heap;
    struct view *view; /* NULL: all copied */
    char *dir;
    bool base;
    image_checkpoint_cb cb;
    void *arg;
    uint64_t started_ns;
    bool steering; /* pages that opening reads come first */
    uint64_t next_page;

    /* The piece, filled by the reactor for the worker. */
    uint8_t *buffer;
    uint64_t pages[IMAGE_PIECE_PAGES];
    uint32_t count;
    bool last;

    /* The worker's. */
    struct env_file *file;
    uint64_t offset;
    struct buf table;
    struct buf gone;          /* entries of absent pages; the reactor's until the last piece */
    struct super_block super; /* to be */
    struct pages_footer footer;
    int err;
    bool fatal; /* durability is in doubt */
    struct image_result result;
};

int image_path(const char *dir, const char *name, char out[IMAGE_PATH_BYTES])
{
    int n = snprintf(out, IMAGE_PATH_BYTES, "%s/%s", dir, name);
    return n > 0 && n < IMAGE_PATH_BYTES ? 0 : ERR_INVAL;
}

void image_pages_name(uint64_t sequence, char out[32])
{
    (void)snprintf(out, 32, "pages-%016" PRIx64, sequence);
}

uint32_t image_crc(const void *block, size_t bytes)
{
    return crc32c(0, block, bytes - sizeof(uint32_t));
}

/* The file appears with a valid slot in it, so that one without is damage and not a crash. */
static int super_create(struct env *env, const char *dir, const struct super_block *super)
{
    char path[IMAGE_PATH_BYTES];
    char fresh[IMAGE_PATH_BYTES];
    struct env_file *file = NULL;
    int rv = image_path(dir, "super", path);
    if (rv == 0) {
        rv = image_path(dir, "super.tmp", fresh);
    }
    if (rv != 0) {
        return rv;
    }
    (void)env_file_unlink(env, fresh);
    rv = env_file_open(env, fresh, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    if (rv != 0) {
        return rv;
    }
    static const uint8_t zero[IMAGE_BLOCK_BYTES];
    for (uint64_t slot = 0; slot < 2 && rv == 0; slot++) {
        rv = env_file_pwrite(env, file, slot == super->sequence % 2 ? (const void *)super : zero,
                             IMAGE_BLOCK_BYTES, slot * IMAGE_BLOCK_BYTES);
    }
    if (rv == 0) {
        rv = env_file_sync(env, file);
    }
    env_file_close(env, file);
    if (rv == 0) {
        rv = env_file_rename(env, fresh, path);
    }
    if (rv == 0) {
        rv = env_dir_sync(env, dir);
    }
    return rv;
}

int image_super_write(struct env *env, const char *dir, struct super_block *super)
{
    char path[IMAGE_PATH_BYTES];
    struct env_file *file = NULL;
    image_super_sign(env, super);
    int rv = image_path(dir, "super", path);
    if (rv == 0) {
        rv = env_file_open(env, path, ENV_OPEN_WRITE, &file);
    }
    if (rv == ERR_NOTFOUND) {
        return super_create(env, dir, super);
    }
    if (rv != 0) {
        return rv;
    }
    rv = env_file_pwrite(env, file, super, sizeof *super, super->sequence % 2 * IMAGE_BLOCK_BYTES);
    if (rv == 0) {
        rv = env_file_sync(env, file);
    }
    env_file_close(env, file);
    return rv;
}

/* ---- open and close ---- */

int image_open(struct env *env, const struct image_opts *opts, struct image **out,
               struct heap **heap, struct err_text *e)
{
    *out = NULL;
    *heap = NULL;
    struct image *image = mem_zalloc(sizeof *image);
    if (image == NULL) {
        return ERR_NOMEM;
    }
    image->env = env;
    image->uid = opts->uid;
    image->mode = opts->mode;
    image->mark_sequence = opts->mark_sequence;
    image->dir = mem_strdup(opts->dir);
    int rv = image->dir == NULL ? ERR_NOMEM : 0;
    if (rv == 0) {
        rv = env_dir_create(env, opts->dir);
        rv = rv == ERR_EXISTS ? 0 : rv;
        if (rv != 0) {
            (void)err_set(e, rv, "%s: can't be created: %s", opts->dir, err_text_of(rv));
        }
    }
    if (rv != 0) {
        goto err_after_alloc;
    }
    if (image->mode == IMAGE_PMEM) {
        rv = image_pm_open(image, heap, e);
        if (rv != 0) {
            goto err_after_alloc;
        }
        *out = image;
        return 0;
    }
    rv = image_load(image, heap, e);
    if (rv != 0) {
        goto err_after_alloc;
    }
    if (*heap != NULL) {
        /* Both slots name the same files afterwards, and neither rests on the page cache. */
        image->super.sequence++;
        rv = env_dir_sync(env, image->dir);
        if (rv == 0) {
            rv = image_super_write(env, image->dir, &image->super);
        }
        if (rv != 0) {
            rv =
                err_set(e, ERR_IO, "%s/super: can't be rewritten: %s", image->dir, err_text_of(rv));
            heap_free(*heap);
            *heap = NULL;
            goto err_after_alloc;
        }
        image->present = true;
    }
    image_sweep(env, image->dir, &image->super);
    *out = image;
    return 0;

err_after_alloc:
    mem_free(image->dir);
    mem_free(image);
    return rv;
}

static void run_free(struct image_run *run)
{
    if (run->view != NULL) {
        view_close(run->view);
    }
    if (run->file != NULL) {
        env_file_close(run->env, run->file);
    }
    (void)pthread_mutex_destroy(&run->lock);
    buf_close(&run->table);
    buf_close(&run->gone);
    mem_free(run->buffer);
    mem_free(run->dir);
    mem_free(run);
}

void image_close(struct image *image)
{
    if (image == NULL) {
        return;
    }
    if (image->run != NULL) {
        /* The worker still has it; it frees itself when that is done. */
        struct image_run *run = image->run;
        if (run->view != NULL) {
            view_close(run->view);
            run->view = NULL;
        }
        run->image = NULL;
        /* A flip that has begun is waited for: then the directory is nobody's. */
        (void)pthread_mutex_lock(&run->lock);
        run->abandoned = true;
        (void)pthread_mutex_unlock(&run->lock);
    }
    image_pm_close(image);
    mem_free(image->dir);
    mem_free(image);
}

bool image_busy(const struct image *image)
{
    return image->run != NULL;
}

/* ---- the worker's side of a checkpoint ---- */

static int run_create(struct image_run *run)
{
    char name[32];
    char path[IMAGE_PATH_BYTES];
    image_pages_name(run->footer.sequence, name);
    int rv = image_path(run->dir, name, path);
    if (rv != 0) {
        return rv;
    }
    (void)env_file_unlink(run->env, path); /* left by one that failed */
    rv = env_file_open(run->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &run->file);
    if (rv != 0) {
        return rv;
    }
    struct pages_head head;
    memset(&head, 0, sizeof head);
    head.magic = PAGES_MAGIC;
    head.format = IMAGE_FORMAT;
    head.uid = run->footer.uid;
    head.sequence = run->footer.sequence;
    head.bytes_max = run->super.bytes_max;
    head.crc = image_crc(&head, sizeof head);
    rv = env_file_pwrite(run->env, run->file, &head, sizeof head, 0);
    run->offset = sizeof head;
    return rv;
}

static int run_append(struct image_run *run, const void *data, size_t len)
{
    int rv = env_file_pwrite(run->env, run->file, data, len, run->offset);
    run->offset += rv == 0 ? len : 0;
    return rv;
}

static int run_piece(struct image_run *run)
{
    for (uint32_t i = 0; i < run->count; i++) {
        struct pages_entry entry = {.page = run->pages[i]};
        entry.hash = arena_page_hash(entry.page, run->buffer + i * PAGE_BYTES);
        int rv = buf_append(&run->table, &entry, sizeof entry);
        if (rv != 0) {
            return rv;
        }
    }
    run->footer.present += run->count;
    return run->count == 0 ? 0 : run_append(run, run->buffer, run->count * PAGE_BYTES);
}

static int run_seal(struct image_run *run)
{
    int rv = run->gone.len == 0 ? 0 : buf_append(&run->table, run->gone.data, run->gone.len);
    if (rv == 0 && run->table.len > 0) {
        rv = run_append(run, run->table.data, run->table.len);
    }
    if (rv != 0) {
        return rv;
    }
    run->footer.magic = FOOTER_MAGIC;
    run->footer.gone = run->gone.len / sizeof(struct pages_entry);
    run->footer.table_crc = run->table.len == 0 ? 0 : crc32c(0, run->table.data, run->table.len);
    run->footer.crc = image_crc(&run->footer, sizeof run->footer);
    rv = run_append(run, &run->footer, sizeof run->footer);
    if (rv != 0) {
        return rv;
    }
    rv = env_file_sync(run->env, run->file);
    /* Also "no space" is final here: what the kernel had taken is lost. */
    run->fatal = rv != 0;
    return rv;
}

static int run_flip(struct image_run *run)
{
    bool first = run->super.sequence == 1;
    struct super_file *own = &run->super.files[run->super.file_count++];
    own->sequence = run->footer.sequence;
    own->bytes = run->offset;
    own->footer_crc = run->footer.crc;
    own->reserved = 0;
    int rv = env_dir_sync(run->env, run->dir);
    if (rv == 0) {
        rv = image_super_write(run->env, run->dir, &run->super);
    }
    if (rv == 0 && run->base) {
        /* The old files may go once no slot names them. */
        run->super.sequence++;
        rv = image_super_write(run->env, run->dir, &run->super);
        if (rv == 0) {
            image_sweep(run->env, run->dir, &run->super);
        }
    }
    run->fatal = rv != 0 && !(rv == ERR_DISKFULL && first);
    return rv;
}

static void run_discard(struct image_run *run)
{
    char name[32];
    char path[IMAGE_PATH_BYTES];
    image_pages_name(run->footer.sequence, name);
    if (image_path(run->dir, name, path) == 0) {
        (void)env_file_unlink(run->env, path);
    }
}

/* The directory is only touched while the image is open: afterwards it may belong to the next one.
 */
static void run_finish(struct image_run *run)
{
    (void)pthread_mutex_lock(&run->lock);
    if (run->abandoned) {
        run->err = ERR_CANCELED;
    } else if (run->err == 0) {
        run->err = run_flip(run);
    } else if (!run->fatal) {
        run_discard(run);
    }
    (void)pthread_mutex_unlock(&run->lock);
}

static int run_start(struct image_run *run)
{
    (void)pthread_mutex_lock(&run->lock);
    int rv = run->abandoned ? ERR_CANCELED : run_create(run);
    (void)pthread_mutex_unlock(&run->lock);
    return rv;
}

static void run_work(struct env_work *work)
{
    struct image_run *run = (struct image_run *)work;
    if (run->err == 0 && run->file == NULL) {
        run->err = run_start(run);
    }
    if (run->err == 0) {
        run->err = run_piece(run);
    }
    if (run->err == 0 && run->last) {
        run->err = run_seal(run);
    }
    if (run->file != NULL && (run->last || run->err != 0)) {
        env_file_close(run->env, run->file);
        run->file = NULL;
    }
    if (run->err != 0 || run->last) {
        run_finish(run);
    }
}

/* ---- the reactor's side ---- */

static void run_done(struct env_work *work);

static int gone_collect(struct image_run *run)
{
    if (run->base) {
        return 0;
    }
    uint64_t pages = run->view->arena->pages;
    for (uint64_t p = 0; (p = view_next_gone(run->view, p)) < pages; p++) {
        struct pages_entry entry = {.page = p | PAGES_GONE};
        int rv = buf_append(&run->gone, &entry, sizeof entry);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

#define LOOK_PAGES 4096u /* in one turn, for those that come first */

/* The next page to copy; view_page_count(): none, or (steering) not yet. What steers every call
 * comes first, so that opening finds it in one place. Which pages these are may change meanwhile:
 * where they lie is a matter of speed alone. */
static uint64_t run_next(struct image_run *run, uint32_t *looks)
{
    uint64_t end = view_page_count(run->view);
    uint64_t page = view_next_present(run->view, run->next_page);
    while (run->steering) {
        if (page >= end) {
            run->steering = false;
            page = view_next_present(run->view, 0);
        } else if (heap_page_steers(run->heap, page)) {
            break;
        } else if (++*looks == LOOK_PAGES) {
            run->next_page = page + 1;
            return end;
        } else {
            page = view_next_present(run->view, page + 1);
        }
    }
    return page;
}

/* Fills the next piece. The view is closed with the last one. */
static void run_copy(struct image_run *run)
{
    struct view *view = run->view;
    uint32_t looks = 0;
    run->count = 0;
    while (run->count < IMAGE_PIECE_PAGES) {
        uint64_t page = run_next(run, &looks);
        if (page >= view_page_count(view)) {
            run->last = !run->steering;
            break;
        }
        view_hash_page(view, page);
        const uint8_t *bytes = view_page(view, page);
        if (bytes == NULL) {
            break; /* canceled */
        }
        memcpy(run->buffer + run->count * PAGE_BYTES, bytes, PAGE_BYTES);
        run->pages[run->count++] = page;
        view_thaw(view, page);
        run->next_page = page + 1;
    }
    if (run->last) {
        run->footer.digest = view_digest(view);
        run->super.digest = run->footer.digest;
        run->err = gone_collect(run);
    }
    if (view_canceled(view)) {
        run->err = ERR_NOMEM; /* what its copies would have needed */
    }
    if (run->err != 0) {
        run->last = true;
    }
}

static void run_submit(struct image_run *run)
{
    run_copy(run);
    run->work.run = run_work;
    run->work.done = run_done;
    run->work.queue = ENV_QUEUE_CHECKPOINT;
    env_work(run->env, &run->work);
}

static void run_end(struct image_run *run)
{
    struct image *image = run->image;
    struct image_result *r = &run->result;
    if (run->err == 0) {
        image->super = run->super;
        image->present = true;
        image->checkpoints++;
        image->bytes_written += run->offset;
    } else {
        if (run->view != NULL) {
            view_restore_dirty(run->view);
        }
        if (run->fatal ||
            (run->err != ERR_DISKFULL && run->err != ERR_NOMEM && run->err != ERR_CANCELED)) {
            image->dead = true;
        }
    }
    r->err = run->err;
    r->sequence = image->super.sequence;
    r->index = run->super.index;
    r->term = run->super.term;
    r->pages_written = run->footer.present;
    r->bytes_written = run->offset;
    r->duration_ns = env_now_ns(run->env) - run->started_ns;
    image->run = NULL;
    image_checkpoint_cb cb = run->cb;
    void *arg = run->arg;
    struct image_result result = *r;
    run_free(run);
    cb(arg, &result);
}

static void run_done(struct env_work *work)
{
    struct image_run *run = (struct image_run *)work;
    if (run->image == NULL) {
        run_free(run);
    } else if (run->err != 0 || run->last) {
        run_end(run);
    } else {
        run_submit(run);
    }
}

static bool base_is_due(const struct image *image, const struct heap *heap)
{
    const struct super_block *s = &image->super;
    uint64_t base = s->file_count == 0 ? 0 : s->files[0].bytes;
    uint64_t deltas = 0;
    for (uint32_t i = 1; i < s->file_count; i++) {
        deltas += s->files[i].bytes;
    }
    deltas += heap->arena.dirty_count * PAGE_BYTES;
    return s->file_count == 0 || s->file_count > DELTAS_MAX ||
           deltas > (base > DELTA_BYTES_MIN ? base : DELTA_BYTES_MIN);
}

static int run_new(struct image *image, struct heap *heap, bool base, image_checkpoint_cb cb,
                   void *arg)
{
    struct image_run *run = mem_zalloc(sizeof *run);
    if (run == NULL) {
        return ERR_NOMEM;
    }
    (void)pthread_mutex_init(&run->lock, NULL);
    run->env = image->env;
    run->dir = mem_strdup(image->dir);
    run->buffer = mem_alloc(IMAGE_PIECE_PAGES * PAGE_BYTES);
    int rv = run->dir == NULL || run->buffer == NULL ? ERR_NOMEM : 0;
    if (rv == 0) {
        rv = view_open_checkpoint(heap, base, &run->view);
    }
    if (rv != 0) {
        run_free(run);
        return rv;
    }
    run->image = image;
    run->heap = heap;
    run->base = base;
    run->steering = true;
    run->cb = cb;
    run->arg = arg;
    run->started_ns = env_now_ns(image->env);
    run->super = image->super;
    run->super.file_count = base ? 0 : image->super.file_count;
    if (base) {
        memset(run->super.files, 0, sizeof run->super.files);
    }
    run->super.uid = image->uid;
    run->super.sequence++;
    run->super.index = view_index(run->view);
    run->super.term = view_term(run->view);
    run->super.bytes_max = header(heap)->bytes_max;
    run->footer.uid = image->uid;
    run->footer.sequence = run->super.sequence;
    run->footer.index = run->super.index;
    run->footer.term = run->super.term;
    run->result.pages_total = heap->arena.present_count;
    image->run = run;
    run_submit(run);
    return 0;
}

static int pm_checkpoint(struct image *image, struct heap *heap, bool replace,
                         image_checkpoint_cb cb, void *arg);

static int checkpoint(struct image *image, struct heap *heap, bool replace, image_checkpoint_cb cb,
                      void *arg)
{
    assert(!heap->in_entry);
    if (image->dead) {
        return ERR_IO;
    }
    if (image->run != NULL) {
        return ERR_BUSY;
    }
    assert(header(heap)->uid == image->uid);
    if (image->mode == IMAGE_PMEM) {
        return pm_checkpoint(image, heap, replace, cb, arg);
    }
    return run_new(image, heap, replace || base_is_due(image, heap), cb, arg);
}

int image_checkpoint(struct image *image, struct heap *heap, image_checkpoint_cb cb, void *arg)
{
    return checkpoint(image, heap, false, cb, arg);
}

int image_replace(struct image *image, struct heap *heap, image_checkpoint_cb cb, void *arg)
{
    return checkpoint(image, heap, true, cb, arg);
}

/* ---- pmem mode: the same calls ---- */

static void nothing(struct env_work *work)
{
    (void)work;
}

/* A commit is synchronous; only its answer comes later, as the contract says. */
static int pm_checkpoint(struct image *image, struct heap *heap, bool replace,
                         image_checkpoint_cb cb, void *arg)
{
    struct image_run *run = mem_zalloc(sizeof *run);
    if (run == NULL) {
        return ERR_NOMEM;
    }
    (void)pthread_mutex_init(&run->lock, NULL);
    run->env = image->env;
    run->image = image;
    run->heap = heap;
    run->cb = cb;
    run->arg = arg;
    run->started_ns = env_now_ns(image->env);
    run->last = true;
    uint64_t before = image->bytes_written;
    run->err = replace ? image_pm_replace(image, heap) : image_pm_commit(image, heap);
    run->footer.present = run->err == 0 ? image->pm_pages : 0;
    run->result.pages_total = heap->arena.present_count;
    image->checkpoints += run->err == 0;
    run->offset = image->bytes_written - before;
    image->bytes_written = before;
    run->super = image->super;
    run->fatal = image->dead;
    image->run = run;
    run->work.run = nothing;
    run->work.done = run_done;
    run->work.queue = ENV_QUEUE_CHECKPOINT;
    env_work(run->env, &run->work);
    return 0;
}

int image_commit(struct image *image, struct heap *heap)
{
    assert(!heap->in_entry);
    if (image->dead) {
        return ERR_IO;
    }
    if (image->mode != IMAGE_PMEM) {
        return ERR_UNSUPPORTED;
    }
    return image_pm_commit(image, heap);
}

/* ---- numbers, and the end ---- */

void image_get_stats(const struct image *image, struct image_stats *out)
{
    memset(out, 0, sizeof *out);
    out->mode = image->mode;
    if (image->present) {
        out->sequence = image->super.sequence;
        out->index = image->super.index;
        out->term = image->super.term;
    }
    for (uint32_t i = 0; i < image->super.file_count; i++) {
        *(i == 0 ? &out->base_bytes : &out->delta_bytes) += image->super.files[i].bytes;
    }
    out->delta_count = image->super.file_count > 1 ? image->super.file_count - 1 : 0;
    out->checkpoints = image->checkpoints;
    out->bytes_written = image->bytes_written;
}

int image_destroy(struct env *env, const char *dir)
{
    static const struct super_block none;
    static const char *const names[] = {"super", "image.pm"};
    /* The superblock first: what is left of a crash in between is then no image, and swept. */
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[IMAGE_PATH_BYTES];
        int rv = image_path(dir, names[i], path);
        if (rv == 0) {
            rv = env_file_unlink(env, path);
        }
        if (rv != 0 && rv != ERR_NOTFOUND) {
            return rv;
        }
    }
    int rv = env_dir_sync(env, dir);
    if (rv != 0) {
        return rv == ERR_NOTFOUND ? 0 : rv;
    }
    image_sweep(env, dir, &none);
    return env_dir_sync(env, dir);
}
