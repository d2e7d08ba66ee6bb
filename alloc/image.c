/* The durable home of a heap: opening, closing, superblocks, and which checkpoint is due.
 *
 * A checkpoint writes one new file: all present pages (a base) or what changed (a delta: pages, and
 * lines of pages in which few did), a table with a hash for each, and a footer; syncs it and the
 * directory; and then makes the superblock name it (image_checkpoint.c). A crash anywhere before
 * the superblock is durable leaves the old checkpoint, and after it the new one. When the deltas
 * have grown as large as the base, the next checkpoint writes a new base from memory: over time
 * that is one more write for each dirty page, and unlike folding deltas into a base in place it has
 * no state in between (docs/heap-format.md). When they are many before that, because little
 * changes, small ones become part of the next. */
#include "alloc/image.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "base/crc.h"
#include "base/mem.h"

#define DELTA_BYTES_MIN ((uint64_t)4 << 20)
#define DELTAS_MAX      48u
#define MERGE_DELTAS    16u    /* so many at least make a merge worth it */
#define MERGE_PAGES     65536u /* at most, of which the view will have a list */
#define MERGE_FEW       256u   /* pages that are written again whatever they are merged with */

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

/* Want of a descriptor or of space isn't the disk's failure. */
static int settle_error(int rv)
{
    return rv == ERR_NOMEM || rv == ERR_DISKFULL ? rv : ERR_IO;
}

/* What the page cache gave us of them may not be on the disk (E4). */
static int files_sync(const struct image *image, struct err_text *e)
{
    int rv = 0;
    for (uint32_t i = 0; i < image->super.file_count && rv == 0; i++) {
        char name[32];
        char path[IMAGE_PATH_BYTES];
        struct env_file *file = NULL;
        image_pages_name(image->super.files[i].sequence, name);
        rv = image_path(image->dir, name, path);
        if (rv == 0) {
            rv = env_file_open(image->env, path, ENV_OPEN_WRITE, &file);
        }
        if (rv == 0) {
            rv = env_file_sync(image->env, file);
            env_file_close(image->env, file);
        }
        if (rv != 0) {
            return err_set(e, settle_error(rv), "%s: can't be synced: %s", path, err_why(rv));
        }
    }
    return 0;
}

int image_settle(struct image *image, struct err_text *e)
{
    if (image->mode == IMAGE_PMEM) {
        return 0;
    }
    if (image->present) {
        int rv = files_sync(image, e);
        if (rv != 0) {
            return rv;
        }
        /* Both slots name the same files afterwards, and neither rests on the page cache. */
        image->super.sequence++;
        rv = env_dir_sync(image->env, image->dir);
        if (rv == 0) {
            rv = image_super_write(image->env, image->dir, &image->super);
        }
        if (rv != 0) {
            return err_set(e, settle_error(rv), "%s/super: can't be rewritten: %s", image->dir,
                           err_why(rv));
        }
    }
    image_sweep(image->env, image->dir, &image->super);
    return 0;
}

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
            (void)err_set(e, rv, "%s: can't be created: %s", opts->dir, err_why(rv));
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
    image->present = *heap != NULL;
    rv = opts->settle_later ? 0 : image_settle(image, e);
    if (rv != 0) {
        heap_free(*heap);
        *heap = NULL;
        goto err_after_alloc;
    }
    *out = image;
    return 0;

err_after_alloc:
    mem_free(image->dir);
    mem_free(image);
    return rv;
}

void image_close(struct image *image)
{
    if (image == NULL) {
        return;
    }
    if (image->run != NULL) {
        image_run_abandon(image->run);
    }
    image_pm_close(image);
    for (size_t i = 0; i < SUPER_FILES_MAX; i++) {
        buf_close(&image->parts[i]);
    }
    mem_free(image->dir);
    mem_free(image);
}

bool image_busy(const struct image *image)
{
    return image->run != NULL;
}

/* ---- checkpoints ---- */

static bool base_is_due(const struct image *image, const struct heap *heap)
{
    const struct super_block *s = &image->super;
    const struct arena *a = &heap->arena;
    uint64_t base = s->file_count == 0 ? 0 : s->files[0].bytes;
    uint64_t most = base > DELTA_BYTES_MIN ? base : DELTA_BYTES_MIN;
    uint64_t deltas = 0;
    for (uint32_t i = 1; i < s->file_count - image->gathered; i++) {
        deltas += s->files[i].bytes;
    }
    return s->file_count == 0 ||
           (deltas + a->dirty_count * PAGE_BYTES > most && deltas + view_delta_bytes(heap) > most);
}

/* The next checkpoint takes in the newest deltas, up to one that has more than it has by then:
 * so every page is written again a few times, and not with every merge. False: they aren't small
 * enough for that. */
static bool merge(struct image *image, struct heap *heap)
{
    struct arena *a = &heap->arena;
    uint64_t pages = a->dirty_count;
    uint32_t first = image->super.file_count;
    for (; first > 1; first--) {
        uint64_t next = image->parts[first - 1].len / sizeof(struct image_part);
        if (next == 0 || pages + next > MERGE_PAGES || (next > pages && next > MERGE_FEW)) {
            break;
        }
        pages += next;
    }
    if (image->super.file_count - first < MERGE_DELTAS) {
        return false;
    }
    for (uint32_t i = first; i < image->super.file_count; i++) {
        const struct image_part *parts = (const void *)image->parts[i].data;
        for (size_t k = 0; k < image->parts[i].len / sizeof *parts; k++) {
            arena_write_again(a, parts[k].page, parts[k].lines);
        }
    }
    image->gathered = image->super.file_count - first;
    return true;
}

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
        return image_run_pm(image, heap, replace, cb, arg);
    }
    bool base = replace || base_is_due(image, heap);
    if (!base && image->super.file_count - image->gathered > DELTAS_MAX) {
        base = !merge(image, heap);
    }
    return image_run_disk(image, heap, base, cb, arg);
}

int image_checkpoint(struct image *image, struct heap *heap, image_checkpoint_cb cb, void *arg)
{
    return checkpoint(image, heap, false, cb, arg);
}

int image_replace(struct image *image, struct heap *heap, image_checkpoint_cb cb, void *arg)
{
    return checkpoint(image, heap, true, cb, arg);
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

uint64_t image_checkpoint_bytes(const struct image *image, const struct heap *heap, uint64_t *more)
{
    struct heap_counts counts;
    struct image_stats stats;
    heap_get_counts(heap, &counts);
    image_get_stats(image, &stats);
    uint64_t dirty = counts.dirty_pages * HEAP_PAGE_BYTES;
    uint64_t present = counts.present_pages * HEAP_PAGE_BYTES;
    bool base = stats.delta_bytes + dirty > stats.base_bytes;
    *more = base && present > dirty ? present - dirty : 0;
    return dirty;
}

int image_clear(struct env *env, const char *dir)
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

int image_destroy(struct env *env, const char *dir)
{
    int rv = image_clear(env, dir);
    if (rv == 0) {
        rv = env_dir_remove(env, dir);
    }
    return rv == ERR_NOTFOUND || rv == ERR_EXISTS ? 0 : rv;
}
