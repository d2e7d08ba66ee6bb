/* Where an opened image's pages come from: one by one when they are wanted, and in the background
 * all others, each compared with its hash. A patched page is read where its whole copy is, and then
 * its patches, each compared with its own. A file is opened for a read and stays open for further
 * ones; the files that the superblock named are there as long as a page is unloaded, since a
 * checkpoint that replaces some has loaded all that is in them. So does what replaces the file of
 * the pmem mode, where a page at home stays as it is until it was written in the arena, and hence
 * loaded. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "alloc/page_hash.h"
#include "base/mem.h"

#define FILL_PAGES 64u /* 256 KiB: what the reactor copies in one turn */
#define FILES_OPEN 8u  /* at once */

/* A file is in the place that its number gives. */
struct reader {
    int flags; /* with which they are opened */
    struct env_file *files[FILES_OPEN];
    uint32_t numbers[FILES_OPEN];
};

struct image_source {
    struct env_work work; /* first: a piece of the background's */
    struct arena_source source;
    struct env *env;
    char *dir;
    enum image_mode mode;
    uint64_t sequences[SUPER_FILES_MAX];
    struct buf patches; /* struct image_patch, which homes name; never changes */
    struct reader near; /* the reactor's */
    struct reader far;  /* the worker's */
    struct arena *arena;
    bool busy;       /* a worker has the piece */
    bool closed;     /* the arena is gone, or needs nothing more */
    uint64_t budget; /* pages still to read in this round */

    /* The piece: filled by the reactor, read by the worker. */
    uint32_t count;
    uint64_t pages[FILL_PAGES];
    uint64_t homes[FILL_PAGES];
    uint64_t hashes[FILL_PAGES];
    int errors[FILL_PAGES];
    uint8_t *buffer;
};

static struct image_source *source_of(struct arena_source *source)
{
    return (struct image_source *)(void *)((uint8_t *)source -
                                           offsetof(struct image_source, source));
}

static void file_name(const struct image_source *s, uint64_t number, char out[32])
{
    if (s->mode == IMAGE_PMEM) {
        (void)snprintf(out, 32, "image.pm");
    } else {
        image_pages_name(s->sequences[number], out);
    }
}

static int reader_open(const struct image_source *s, struct reader *r, uint32_t number,
                       struct env_file **file)
{
    char name[32];
    char path[IMAGE_PATH_BYTES];
    uint32_t place = number % FILES_OPEN;
    *file = r->files[place];
    if (*file != NULL && r->numbers[place] == number) {
        return 0;
    }
    if (*file != NULL) {
        env_file_close(s->env, *file);
        r->files[place] = NULL;
    }
    file_name(s, number, name);
    int rv = image_path(s->dir, name, path);
    if (rv == 0) {
        rv = env_file_open(s->env, path, r->flags, file);
    }
    if (rv == 0) {
        r->files[place] = *file;
        r->numbers[place] = number;
    }
    return rv;
}

static int read_file(const struct image_source *s, struct reader *r, uint64_t home, void *bytes,
                     uint64_t len)
{
    struct env_file *file = NULL;
    int rv = reader_open(s, r, (uint32_t)(home & HOME_FILE_MASK), &file);
    if (rv != 0) {
        return rv == ERR_NOTFOUND ? ERR_CORRUPT : rv == ERR_NOMEM ? rv : ERR_IO;
    }
    int64_t n = env_file_pread(s->env, file, bytes, len, home & ~HOME_FILE_MASK);
    if (n < 0) {
        return ERR_IO;
    }
    return (uint64_t)n == len ? 0 : ERR_CORRUPT;
}

/* at: of the place that gave an error. */
static int read_patched(const struct image_source *s, struct reader *r, uint64_t home,
                        uint8_t *bytes, uint64_t *at)
{
    const struct image_patch *patches[PAGE_BYTES / LINE_BYTES];
    uint8_t lines[PAGE_BYTES];
    uint32_t count = 0;
    for (; (home & HOME_PATCHED) != 0; home = patches[count++]->below) {
        assert(count < PAGE_BYTES / LINE_BYTES);
        patches[count] = image_patch_of(&s->patches, home);
    }
    *at = home;
    int rv = read_file(s, r, home, bytes, PAGE_BYTES);
    while (rv == 0 && count > 0) {
        const struct image_patch *p = patches[--count];
        *at = p->at;
        rv = read_file(s, r, p->at, lines, image_patch_bytes(p->what.lines));
        if (rv == 0 && !image_patch_apply(&p->what, lines, bytes)) {
            rv = ERR_CORRUPT;
        }
    }
    *at = rv == 0 ? home : *at;
    return rv;
}

static int read_pages(const struct image_source *s, struct reader *r, uint64_t home, uint64_t count,
                      void *bytes)
{
    uint64_t at = 0;
    if ((home & HOME_PATCHED) == 0) {
        return read_file(s, r, home, bytes, count * PAGE_BYTES);
    }
    assert(count == 1);
    return read_patched(s, r, home, bytes, &at);
}

/* ---- for the arena ---- */

static int op_read(struct arena_source *source, uint64_t home, uint64_t count, void *bytes)
{
    struct image_source *s = source_of(source);
    return read_pages(s, &s->near, home, count, bytes);
}

/* When every patch has its hash, and the page doesn't, it is the whole copy that is damaged. */
static void op_describe(struct arena_source *source, uint64_t page, uint64_t home, int err,
                        struct err_text *out)
{
    struct image_source *s = source_of(source);
    char name[32];
    if ((home & HOME_PATCHED) != 0) {
        uint8_t bytes[PAGE_BYTES];
        (void)read_patched(s, &s->near, home, bytes, &home);
    }
    file_name(s, home & HOME_FILE_MASK, name);
    (void)err_set(out, err, "%s/%s: page %" PRIu64 " %s", s->dir, name, page,
                  err == ERR_CORRUPT ? "is damaged" : err_text_of(err));
}

static void reader_close(const struct image_source *s, struct reader *r)
{
    for (size_t i = 0; i < FILES_OPEN; i++) {
        if (r->files[i] != NULL) {
            env_file_close(s->env, r->files[i]);
            r->files[i] = NULL;
        }
    }
}

static void source_free(struct image_source *s)
{
    reader_close(s, &s->near);
    reader_close(s, &s->far);
    buf_close(&s->patches);
    mem_free(s->buffer);
    mem_free(s->dir);
    mem_free(s);
}

static void op_close(struct arena_source *source)
{
    struct image_source *s = source_of(source);
    s->closed = true;
    if (!s->busy) {
        source_free(s);
    }
}

int image_source_open(const struct image *image, struct arena *arena, struct buf *patches)
{
    struct image_source *s = mem_zalloc(sizeof *s);
    if (s == NULL) {
        return ERR_NOMEM;
    }
    s->source = (struct arena_source){.read = op_read, .describe = op_describe, .close = op_close};
    s->env = image->env;
    s->near.flags = ENV_OPEN_READ | ENV_OPEN_EXACT;
    s->far.flags = ENV_OPEN_READ;
    s->mode = image->mode;
    s->dir = mem_strdup(image->dir);
    s->buffer = mem_alloc((size_t)FILL_PAGES * PAGE_BYTES);
    if (s->dir == NULL || s->buffer == NULL) {
        source_free(s);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < image->super.file_count; i++) {
        s->sequences[i] = image->super.files[i].sequence;
    }
    if (patches != NULL) {
        s->patches = *patches;
        buf_init(patches);
    }
    arena_source_set(arena, &s->source);
    return 0;
}

void image_source_opened(struct arena *arena)
{
    if (arena->source != NULL) {
        struct image_source *s = source_of(arena->source);
        reader_close(s, &s->near);
        s->near.flags = ENV_OPEN_READ;
    }
}

/* ---- the background ---- */

static void fill_run(struct env_work *work)
{
    struct image_source *s = (struct image_source *)work;
    for (uint32_t i = 0, run = 0; i < s->count; i += run) {
        for (run = 1; i + run < s->count && s->homes[i + run] == s->homes[i] + run * PAGE_BYTES;) {
            run++;
        }
        int rv = read_pages(s, &s->far, s->homes[i], run, s->buffer + (size_t)i * PAGE_BYTES);
        for (uint32_t k = i; k < i + run; k++) {
            bool same = rv == 0 && page_hash(s->buffer + (size_t)k * PAGE_BYTES) == s->hashes[k];
            s->errors[k] = rv != 0 ? rv : same ? 0 : ERR_CORRUPT;
        }
    }
}

static void fill_done(struct env_work *work);

static void fill_next(struct image_source *s)
{
    const struct arena *a = s->arena;
    uint64_t page = 0;
    for (s->count = 0; s->count < FILL_PAGES && s->count < s->budget; s->count++, page++) {
        page = pageset_next(&a->unloaded, page, a->pages);
        if (page >= a->pages) {
            break;
        }
        s->pages[s->count] = page;
        s->homes[s->count] = a->home[page];
        s->hashes[s->count] = a->hash[page];
    }
    s->budget -= s->count;
    if (s->count > 0) {
        s->busy = true;
        s->work.run = fill_run;
        s->work.done = fill_done;
        s->work.queue = ENV_QUEUE_MISC;
        env_work(s->env, &s->work);
    }
}

static void fill_done(struct env_work *work)
{
    struct image_source *s = (struct image_source *)work;
    for (uint32_t i = 0; i < s->count && !s->closed; i++) {
        arena_load_give(s->arena, s->pages[i], s->errors[i], s->buffer + (size_t)i * PAGE_BYTES);
    }
    s->busy = false;
    if (s->closed) {
        source_free(s);
    } else if (s->arena->damage == 0) {
        fill_next(s);
    }
}

bool image_fill(struct heap *heap, uint64_t bytes)
{
    struct arena *a = &heap->arena;
    if (a->source == NULL || a->damage != 0) {
        return false;
    }
    struct image_source *s = source_of(a->source);
    s->arena = a;
    s->budget = bytes / PAGE_BYTES;
    if (!s->busy) {
        fill_next(s);
    }
    return true;
}
