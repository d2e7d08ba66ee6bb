/* Reading an image, to go on with it or only to look at it. Every block has a checksum and every
 * number a bound. The tables say where each page is and what its hash is; its bytes are read when
 * they are wanted (image_source.c). The arena that results is checked as a whole, unless this
 * machine has written it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "base/crc.h"
#include "base/hash.h"
#include "base/mem.h"

static int read_exactly(struct env *env, struct env_file *file, void *data, size_t len,
                        uint64_t offset)
{
    int64_t n = env_file_pread(env, file, data, len, offset);
    if (n < 0) {
        return (int)n;
    }
    return (size_t)n == len ? 0 : ERR_CORRUPT;
}

static bool super_is_valid(const struct super_block *s)
{
    return s->magic == SUPER_MAGIC && s->crc == image_crc(s, sizeof *s);
}

/* The newest valid slot. ERR_NOTFOUND: no image. */
static int super_read(struct image *image, struct err_text *e)
{
    char path[IMAGE_PATH_BYTES];
    struct env_file *file = NULL;
    int rv = image_path(image->dir, "super", path);
    if (rv == 0) {
        rv = env_file_open(image->env, path, ENV_OPEN_READ, &file);
    }
    if (rv != 0) {
        return rv;
    }
    struct super_block *slots = mem_zalloc(2 * sizeof *slots);
    if (slots == NULL) {
        env_file_close(image->env, file);
        return ERR_NOMEM;
    }
    int64_t n = env_file_pread(image->env, file, slots, 2 * sizeof *slots, 0);
    env_file_close(image->env, file);
    const struct super_block *best = NULL;
    for (int i = 0; i < 2; i++) {
        if (n >= 0 && super_is_valid(&slots[i]) &&
            (best == NULL || slots[i].sequence > best->sequence)) {
            best = &slots[i];
        }
    }
    if (n < 0) {
        rv = err_set(e, (int)n, "%s: can't be read", path);
    } else if (best == NULL) {
        rv = err_set(e, ERR_CORRUPT, "%s: neither slot is a valid superblock", path);
    } else {
        image->super = *best;
        rv = 0;
    }
    mem_free(slots);
    return rv;
}

static int super_check(const struct image *image, uint64_t mark, struct err_text *e)
{
    const struct super_block *s = &image->super;
    if (s->format != IMAGE_FORMAT) {
        return err_set(e, ERR_VERSION, "%s/super: format %u; this program knows %u", image->dir,
                       s->format, IMAGE_FORMAT);
    }
    if (s->uid != image->uid) {
        return err_set(e, ERR_WRONGCLUSTER,
                       "%s/super: belongs to shard %016" PRIx64 ", not %016" PRIx64, image->dir,
                       s->uid, image->uid);
    }
    if (s->sequence < mark) {
        return err_set(
            e, ERR_CORRUPT,
            "%s/super: checkpoint %" PRIu64 " is older than %" PRIu64
            " in the log: it was lost; restore a backup, or fill the node from its peers",
            image->dir, s->sequence, mark);
    }
    if (s->file_count == 0 || s->file_count > SUPER_FILES_MAX ||
        !heap_bytes_max_is_valid(s->bytes_max)) {
        return err_set(e, ERR_CORRUPT, "%s/super: fields out of bounds", image->dir);
    }
    return 0;
}

static uint64_t origin_of(const struct env *env, const struct super_block *super)
{
    struct super_block s = *super;
    s.origin = 0;
    s.crc = 0;
    return env->host == 0 ? 0 : hash64(env->host, &s, sizeof s);
}

void image_super_sign(const struct env *env, struct super_block *super)
{
    super->magic = SUPER_MAGIC;
    super->format = IMAGE_FORMAT;
    super->origin = origin_of(env, super);
    super->crc = image_crc(super, sizeof *super);
}

/* Did this machine write it? Then its pages are what they were, if their checksums fit, and needn't
 * be checked against each other. A directory that was handed to us is: who made it may have known
 * how to compute a checksum. */
static bool is_own(const struct image *image)
{
    return image->super.origin != 0 && image->super.origin == origin_of(image->env, &image->super);
}

struct pages_reader {
    struct env *env;
    struct env_file *file;
    const char *path;
    struct arena *arena;
    struct buf *patches; /* of all files */
    struct err_text *e;
    uint8_t *tail;                     /* of the file */
    const struct pages_entry *table;   /* in it; of all pages of the file */
    const struct pages_patch *patched; /* behind it; for those behind the whole pages */
    struct pages_footer footer;
};

/* The head says what the superblock and the footer say, too: whoever knows them needn't read it. */
static int pages_head_check(const struct pages_reader *r, const struct image *image,
                            const struct super_file *named)
{
    struct pages_head head;
    int rv = read_exactly(r->env, r->file, &head, sizeof head, 0);
    if (rv != 0) {
        return err_set(r->e, rv, "%s: can't be read", r->path);
    }
    if (head.crc != image_crc(&head, sizeof head) || head.magic != PAGES_MAGIC ||
        head.format != IMAGE_FORMAT || head.uid != image->uid || head.sequence != named->sequence ||
        head.bytes_max != image->super.bytes_max) {
        return err_set(r->e, ERR_CORRUPT, "%s: damaged head", r->path);
    }
    return 0;
}

/* Table and footer are read in one piece, of a small file all of it, so that no page of it is read
 * again from the disk; a large table around the page cache, which would read it in many pieces. */
#define TAIL_BYTES   ((uint64_t)64 << 10)
#define CACHED_BYTES ((uint64_t)1 << 20)
/* Head, and the first pages, of which opening reads most: a guess. */
#define FRONT_BYTES ((uint64_t)80 << 10)

static uint64_t tail_bytes(const struct super_file *named)
{
    uint64_t bytes = ((uint64_t)named->table_blocks + 1) * IMAGE_BLOCK_BYTES;
    bytes = bytes > TAIL_BYTES ? bytes : TAIL_BYTES;
    return bytes < named->bytes ? bytes : named->bytes;
}

static int pages_tail_read(struct pages_reader *r, const struct super_file *named)
{
    int64_t size = env_file_size(r->env, r->file);
    if (size < 0) {
        return err_set(r->e, (int)size, "%s: can't be read", r->path);
    }
    if ((uint64_t)size < named->bytes || named->bytes < 2 * IMAGE_BLOCK_BYTES ||
        named->bytes % IMAGE_BLOCK_BYTES != 0) {
        return err_set(r->e, ERR_CORRUPT, "%s: has %" PRIi64 " bytes, not %" PRIu64, r->path, size,
                       named->bytes);
    }
    uint64_t bytes = tail_bytes(named);
    r->tail = mem_aligned(IMAGE_BLOCK_BYTES, bytes);
    if (r->tail == NULL) {
        return ERR_NOMEM;
    }
    int rv = read_exactly(r->env, r->file, r->tail, bytes, named->bytes - bytes);
    return rv == 0 ? 0 : err_set(r->e, rv, "%s: can't be read", r->path);
}

static bool footer_is_sound(const struct pages_reader *r, const struct image *image,
                            const struct super_file *named)
{
    const struct pages_footer *f = &r->footer;
    uint64_t limit = r->arena->pages;
    return f->crc == image_crc(f, sizeof *f) && f->crc == named->footer_crc &&
           f->magic == FOOTER_MAGIC && f->uid == image->uid && f->sequence == named->sequence &&
           f->present <= limit && f->patched <= limit && f->gone <= limit &&
           f->patch_lines <= f->patched * (PAGE_BYTES / LINE_BYTES);
}

static uint64_t patches_at(const struct pages_footer *footer)
{
    return IMAGE_BLOCK_BYTES + footer->present * PAGE_BYTES;
}

static int pages_table_read(struct pages_reader *r, const struct image *image,
                            const struct super_file *named)
{
    const struct pages_footer *footer = &r->footer;
    uint64_t tail = tail_bytes(named);
    int rv = pages_tail_read(r, named);
    if (rv != 0) {
        return rv;
    }
    memcpy(&r->footer, r->tail + tail - sizeof *footer, sizeof *footer);
    if (!footer_is_sound(r, image, named)) {
        return err_set(r->e, ERR_CORRUPT, "%s: damaged footer", r->path);
    }
    uint64_t entries = footer->present + footer->patched + footer->gone;
    uint64_t table_bytes = entries * sizeof *r->table + footer->patched * sizeof *r->patched;
    uint64_t from_end = image_blocks_bytes(table_bytes) + IMAGE_BLOCK_BYTES;
    uint64_t bytes =
        patches_at(footer) + image_blocks_bytes(footer->patch_lines * LINE_BYTES) + from_end;
    if (bytes != named->bytes || from_end > tail) {
        return err_set(r->e, ERR_CORRUPT, "%s: footer doesn't fit the file's size", r->path);
    }
    if (entries == 0) {
        return 0;
    }
    r->table = (const struct pages_entry *)(const void *)(r->tail + tail - from_end);
    if (crc32c(0, r->table, table_bytes) != footer->table_crc) {
        return err_set(r->e, ERR_CORRUPT, "%s: damaged page table", r->path);
    }
    r->patched = (const struct pages_patch *)(const void *)(r->table + entries);
    return 0;
}

static int no_page(const struct pages_reader *r, uint64_t page)
{
    return err_set(r->e, ERR_CORRUPT, "%s: names page %" PRIu64 ", which can't be", r->path, page);
}

static int pages_apply_patches(struct pages_reader *r, uint32_t number)
{
    const struct pages_entry *entry = r->table + r->footer.present;
    struct arena *a = r->arena;
    uint64_t at = patches_at(&r->footer);
    uint64_t end = at + r->footer.patch_lines * LINE_BYTES;
    for (uint64_t i = 0; i < r->footer.patched; i++, entry++) {
        const struct pages_patch *what = &r->patched[i];
        uint64_t bytes = image_patch_bytes(what->lines);
        if (entry->page >= a->pages || !pageset_has(&a->present, entry->page)) {
            return no_page(r, entry->page);
        }
        if (bytes == 0 || bytes > end - at) {
            return err_set(r->e, ERR_CORRUPT, "%s: damaged patches", r->path);
        }
        uint64_t home = a->home[entry->page];
        int rv = image_patch_add(r->patches, what, image_home(number, at), &home);
        if (rv != 0) {
            return rv;
        }
        a->patched[entry->page] |= what->lines;
        arena_load_later(a, entry->page, entry->hash, home);
        at += bytes;
    }
    return 0;
}

#define EXPECT_PAGES 512u /* what is noted of so many fills a page of the process, or more */

/* From a page that is the first of many, one behind the other. */
static void run_expect(const struct pages_reader *r, uint64_t i)
{
    uint64_t count = 1;
    while (i + count < r->footer.present && r->table[i + count].page == r->table[i].page + count) {
        count++;
    }
    if (count >= EXPECT_PAGES && r->table[i].page + count <= r->arena->pages) {
        arena_load_expect(r->arena, r->table[i].page, count);
    }
}

/* What the file says of pages. Their bytes stay where they are. */
static int pages_apply(struct pages_reader *r, uint32_t number)
{
    const struct pages_footer *footer = &r->footer;
    struct arena *a = r->arena;
    const struct pages_entry *entry = r->table;
    for (uint64_t i = 0; i < footer->present; i++, entry++) {
        if (entry->page >= a->pages) {
            return no_page(r, entry->page);
        }
        if (number == 0 && (i == 0 || entry->page != entry[-1].page + 1)) {
            run_expect(r, i);
        }
        if (number > 0) { /* there is nothing below the first file */
            a->patched[entry->page] = 0;
        }
        arena_load_later(a, entry->page, entry->hash,
                         image_home(number, IMAGE_BLOCK_BYTES + i * PAGE_BYTES));
    }
    int rv = footer->patched == 0 ? 0 : pages_apply_patches(r, number);
    entry += footer->patched;
    for (uint64_t i = 0; i < footer->gone && rv == 0; i++, entry++) {
        uint64_t page = entry->page ^ PAGES_GONE;
        if (page >= a->pages) {
            return no_page(r, page);
        }
        arena_load_never(a, page);
    }
    return rv;
}

/* One file's table into the arena. */
static int pages_load(struct image *image, uint32_t number, bool look_only, struct arena *arena,
                      struct buf *patches, struct err_text *e)
{
    const struct super_file *named = &image->super.files[number];
    char name[32];
    char path[IMAGE_PATH_BYTES];
    image_pages_name(named->sequence, name);
    int rv = image_path(image->dir, name, path);
    if (rv != 0) {
        return rv;
    }
    struct pages_reader r = {
        .env = image->env, .path = path, .arena = arena, .patches = patches, .e = e};
    bool direct = !look_only && is_own(image) && tail_bytes(named) > CACHED_BYTES;
    rv = env_file_open(image->env, path,
                       ENV_OPEN_READ | (direct ? ENV_OPEN_DIRECT : ENV_OPEN_EXACT), &r.file);
    if (rv != 0) {
        return err_set(e, rv == ERR_NOTFOUND ? ERR_CORRUPT : rv, "%s: can't be opened: %s", path,
                       err_why(rv));
    }
    rv = pages_table_read(&r, image, named);
    if (rv == 0 && (look_only || !is_own(image))) {
        rv = pages_head_check(&r, image, named);
    }
    if (rv == 0) {
        rv = pages_apply(&r, number);
    }
    mem_free(r.tail);
    env_file_close(image->env, r.file);
    return rv;
}

static void pages_ahead(struct image *image, const struct super_file *named)
{
    char name[32];
    char path[IMAGE_PATH_BYTES];
    struct env_file *file = NULL;
    uint64_t tail = tail_bytes(named);
    image_pages_name(named->sequence, name);
    if (image_path(image->dir, name, path) == 0 &&
        env_file_open(image->env, path, ENV_OPEN_READ, &file) == 0) {
        if (tail <= CACHED_BYTES) {
            env_file_ahead(image->env, file, named->bytes - tail, tail);
        }
        env_file_ahead(image->env, file, 0, FRONT_BYTES);
        env_file_close(image->env, file);
    }
}

void image_ahead(struct env *env, const char *dir)
{
    char own[IMAGE_PATH_BYTES];
    struct image image = {.env = env, .dir = own};
    if (image_path(dir, ".", own) != 0 || /* the same directory, in a string of its own */
        super_read(&image, NULL) != 0) {
        return;
    }
    for (uint32_t i = 0; i < image.super.file_count && i < SUPER_FILES_MAX; i++) {
        pages_ahead(&image, &image.super.files[i]);
    }
}

/* ---- small deltas become part of the next ---- */

#define GATHER_BYTES_MIN ((uint64_t)1 << 20)  /* so much is always written again */
#define GATHER_BYTES_MAX ((uint64_t)16 << 20) /* and so much at most */
#define GATHER_SHARE     8u /* a larger delta than so many times the others stays */

static int gather_one(const struct image *image, uint32_t number, struct arena *arena)
{
    const struct super_file *named = &image->super.files[number];
    char name[32];
    char path[IMAGE_PATH_BYTES];
    struct pages_reader r = {.env = image->env, .path = path, .arena = arena};
    image_pages_name(named->sequence, name);
    int rv = image_path(image->dir, name, path);
    if (rv == 0) {
        rv = env_file_open(image->env, path, ENV_OPEN_READ, &r.file);
    }
    if (rv != 0) {
        return rv;
    }
    rv = pages_table_read(&r, image, named);
    uint64_t entries = rv == 0 ? r.footer.present + r.footer.patched + r.footer.gone : 0;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t page = r.table[i].page & ~PAGES_GONE;
        if (page < arena->pages) {
            arena_write_again(arena, page, PAGE_LINES_ALL);
        }
    }
    mem_free(r.tail);
    env_file_close(image->env, r.file);
    return rv;
}

void image_gather(struct image *image, struct heap *heap)
{
    const struct super_block *s = &image->super;
    struct arena *a = &heap->arena;
    if (image->mode != IMAGE_DISK || image->dead || image->run != NULL || !image->present) {
        return;
    }
    image->gathered = 0;
    if (a->dirty_count * PAGE_BYTES <= GATHER_BYTES_MAX) { /* no page in several places, either */
        for (uint64_t p = 0; (p = pageset_next(&a->dirty, p, a->pages)) < a->pages; p++) {
            arena_write_again(a, p, PAGE_LINES_ALL);
        }
    }
    for (uint32_t i = s->file_count; i-- > 1;) {
        uint64_t have = a->dirty_count * PAGE_BYTES;
        uint64_t next = s->files[i].bytes;
        if (have + next > GATHER_BYTES_MAX ||
            (next > GATHER_SHARE * have && have + next > GATHER_BYTES_MIN) ||
            gather_one(image, i, a) != 0) {
            break;
        }
        image->gathered++;
    }
}

static int no_image(const struct image *image, struct err_text *e)
{
    char path[IMAGE_PATH_BYTES];
    struct env_file *file = NULL;
    if (image_path(image->dir, "image.pm", path) == 0 &&
        env_file_open(image->env, path, ENV_OPEN_READ, &file) == 0) {
        env_file_close(image->env, file);
        return err_set(e, ERR_UNSUPPORTED, "%s: holds an image of the pmem mode", image->dir);
    }
    if (image->mark_sequence != 0) {
        return err_set(e, ERR_CORRUPT,
                       "%s: no image, but the log names checkpoint %" PRIu64
                       "; restore a backup, or fill the node from its peers",
                       image->dir, image->mark_sequence);
    }
    return ERR_NOTFOUND;
}

int image_load_arena(struct image *image, bool look_only, struct arena *arena, struct err_text *e)
{
    int rv = super_read(image, e);
    if (rv == ERR_NOTFOUND) {
        return no_image(image, e);
    }
    if (rv == 0) {
        rv = super_check(image, image->mark_sequence, e);
    }
    if (rv != 0) {
        return rv;
    }
    /* Its granules may be larger than the smallest that the limit allows: then the heap has less
     * address space than this. Its header will say. */
    struct heap_regions regions;
    heap_regions_of(image->super.bytes_max, 0, &regions);
    rv = arena_open(arena, regions.end >> PAGE_SHIFT);
    if (rv != 0) {
        return rv;
    }
    struct buf patches;
    buf_init(&patches);
    for (uint32_t i = 0; i < image->super.file_count && rv == 0; i++) {
        rv = pages_load(image, i, look_only, arena, &patches, e);
    }
    if (rv == 0 && arena->digest != image->super.digest) {
        rv =
            err_set(e, ERR_CORRUPT, "%s: the pages don't have the checkpoint's digest", image->dir);
    }
    if (rv == 0) {
        rv = image_source_open(image, arena, &patches);
    }
    buf_close(&patches);
    if (rv != 0) {
        arena_close(arena);
    }
    return rv;
}

int image_load_pages(struct arena *arena, struct err_text *e)
{
    int rv = arena_load_all(arena);
    if (rv != 0) {
        (void)err_set(e, rv, "%s", arena->damage_text.text);
        arena_close(arena);
    }
    return rv;
}

int image_adopt(const struct image *image, struct arena *arena, uint64_t bytes_max, bool own,
                struct heap **heap, struct err_text *e)
{
    struct heap *loaded = NULL;
    int rv = own ? heap_adopt_own(arena, bytes_max, &loaded, e)
                 : heap_adopt(arena, bytes_max, &loaded, e);
    if (rv != 0) {
        arena_close(arena);
        return rv;
    }
    if (header(loaded)->uid != image->uid || heap_index(loaded) != image->super.index ||
        heap_term(loaded) != image->super.term) {
        heap_free(loaded);
        return err_set(e, ERR_CORRUPT, "%s: the heap isn't the one that the image names",
                       image->dir);
    }
    *heap = loaded;
    return 0;
}

int image_load(struct image *image, struct heap **heap, struct err_text *e)
{
    struct arena arena;
    *heap = NULL;
    int rv = image_load_arena(image, false, &arena, e);
    if (rv != 0) {
        return rv == ERR_NOTFOUND ? 0 : rv;
    }
    bool own = is_own(image);
    if (!own) {
        rv = image_load_pages(&arena, e);
    }
    if (rv == 0) {
        rv = image_adopt(image, &arena, image->super.bytes_max, own, heap, e);
    }
    if (rv == 0) {
        image_source_opened(&(*heap)->arena);
    }
    return rv;
}

/* ---- names we know ---- */

struct sweep {
    struct env *env;
    const char *dir;
    const struct super_block *super;
};

static bool name_is_pages(const char *name, uint64_t *sequence)
{
    char again[32];
    if (strlen(name) != 22 || sscanf(name, "pages-%16" SCNx64, sequence) != 1) {
        return false;
    }
    image_pages_name(*sequence, again);
    return strcmp(name, again) == 0;
}

static void sweep_one(void *arg, const char *name)
{
    const struct sweep *s = arg;
    uint64_t sequence = 0;
    bool ours = strcmp(name, "super.tmp") == 0 || strcmp(name, "image.pm.tmp") == 0;
    if (name_is_pages(name, &sequence)) {
        ours = true;
        for (uint32_t i = 0; i < s->super->file_count; i++) {
            ours = ours && s->super->files[i].sequence != sequence;
        }
    }
    char path[IMAGE_PATH_BYTES];
    if (ours && image_path(s->dir, name, path) == 0) {
        (void)env_file_unlink(s->env, path);
    }
}

void image_sweep(struct env *env, const char *dir, const struct super_block *super)
{
    struct sweep s = {env, dir, super};
    (void)env_dir_list(env, dir, sweep_one, &s);
}
