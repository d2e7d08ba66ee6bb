/* Opening an image of the pmem mode: to go on with it, mapped; or only to look at it, read. */
#include <inttypes.h>
#include <string.h>

#include "alloc/image_pmem.h"
#include "base/assert.h"
#include "base/crc.h"
#include "base/mem.h"

/* ---- the file and its journal ---- */

static bool commit_is_valid(const struct image_pm *pm, const struct pm_commit *c)
{
    struct pm_reader reader = pm_reader_of(c);
    struct pm_patch patch;
    uint64_t left = (uint64_t)c->lines * LINE_BYTES;
    while (pm_reader_next(&reader, &patch)) {
        bool zero = patch.bytes == NULL;
        if (patch.offset < (zero ? pm->pages_at : pm->presence_at) ||
            patch.offset > pm->bytes - patch.len || (zero && patch.offset % PAGE_BYTES != 0) ||
            (!zero && patch.len > left)) {
            return false;
        }
        left -= zero ? 0 : patch.len;
    }
    return left == 0;
}

static int pm_head_read(struct image *image, struct image_pm *pm, const char *path,
                        struct err_text *e)
{
    struct pm_head head;
    int64_t n = env_file_pread(image->env, pm->file, &head, sizeof head, 0);
    if (n < 0) {
        return err_set(e, (int)n, "%s: can't be read", path);
    }
    if (n != (int64_t)sizeof head || head.magic != PM_MAGIC ||
        head.crc != image_crc(&head, sizeof head)) {
        return err_set(e, ERR_CORRUPT, "%s: damaged head", path);
    }
    if (head.format != PM_FORMAT) {
        return err_set(e, ERR_VERSION, "%s: format %u; this program knows %u", path, head.format,
                       PM_FORMAT);
    }
    if (head.uid != image->uid) {
        return err_set(e, ERR_WRONGCLUSTER, "%s: belongs to shard %016" PRIx64 ", not %016" PRIx64,
                       path, head.uid, image->uid);
    }
    if (!heap_bytes_max_is_valid(head.bytes_max) || head.half_bytes != PM_HALF_BYTES) {
        return err_set(e, ERR_CORRUPT, "%s: fields out of bounds", path);
    }
    image_pm_layout(pm, head.bytes_max);
    int64_t size = env_file_size(image->env, pm->file);
    if (size < 0 || (uint64_t)size < pm->bytes) {
        return err_set(e, size < 0 ? (int)size : ERR_CORRUPT,
                       "%s: has %" PRIi64 " bytes of %" PRIu64, path, size, pm->bytes);
    }
    return 0;
}

/* The commits of a half. */
struct pm_row {
    uint64_t half, count;
    struct pm_commit first, last;
};

static struct pm_row row_read(const struct image_pm *pm, uint64_t half)
{
    struct pm_row row = {.half = half};
    const struct pm_commit *c;
    for (uint64_t at = 0;
         (c = image_pm_commit_at(pm, half, at, row.count == 0 ? 0 : row.last.sequence + 1)) != NULL;
         at += pm_commit_bytes(c->lines, c->places)) {
        row.first = row.count == 0 ? *c : row.first;
        row.last = *c;
        row.count++;
    }
    return row;
}

/* What to replay, in order. */
struct pm_replay {
    struct pm_row rows[2];
    size_t count;
};

typedef int (*pm_commit_cb)(void *arg, const struct pm_commit *c);
static int replay_each(const struct image_pm *pm, const struct pm_replay *replay, pm_commit_cb cb,
                       void *arg)
{
    int rv = 0;
    for (size_t i = 0; i < replay->count; i++) {
        const uint8_t *at = pm->map + image_pm_half_at(replay->rows[i].half);
        for (uint64_t n = 0; n < replay->rows[i].count && rv == 0; n++) {
            const struct pm_commit *c = (const void *)at;
            rv = cb(arg, c);
            at += pm_commit_bytes(c->lines, c->places);
        }
    }
    return rv;
}

static int commit_check(void *arg, const struct pm_commit *c)
{
    return commit_is_valid(arg, c) ? 0 : ERR_CORRUPT;
}

static int sequence_check(const struct image *image, uint64_t sequence, const char *path,
                          struct err_text *e)
{
    return sequence >= image->mark_sequence
               ? 0
               : err_set(
                     e, ERR_CORRUPT,
                     "%s: commit %" PRIu64 " is older than %" PRIu64
                     " in the log: it was lost; restore a backup, or fill the node from its peers",
                     path, sequence, image->mark_sequence);
}

static int journal_damaged(const char *path, uint64_t sequence, struct err_text *e)
{
    return err_set(e, ERR_CORRUPT,
                   "%s: commit %" PRIu64 " in the journal is damaged; restore a backup, or fill "
                   "the node from its peers",
                   path, sequence);
}

static int marks_damaged(const char *path, struct err_text *e)
{
    return err_set(e, ERR_CORRUPT, "%s: damaged marks of the journal", path);
}

/* marks: read before the journal was. */
static int pm_journal_read(struct image *image, struct image_pm *pm, const struct pm_marks *marks,
                           const char *path, struct pm_replay *out, struct err_text *e)
{
    struct pm_row rows[2] = {row_read(pm, 0), row_read(pm, 1)};
    memset(out, 0, sizeof *out);
    if (rows[0].count == 0 && rows[1].count == 0) {
        return err_set(e, ERR_CORRUPT, "%s: neither half of the journal is valid", path);
    }
    uint64_t newest =
        rows[1].count != 0 && (rows[0].count == 0 || rows[1].last.sequence > rows[0].last.sequence);
    const struct pm_row *row = &rows[newest];
    const struct pm_row *before = &rows[1 - newest];
    int rv = sequence_check(image, row->last.sequence, path, e);
    if (rv != 0) {
        return rv;
    }
    /* A crash cuts off the commit behind the newest that was drained, which nobody was told of. */
    if (row->last.sequence < marks->drained || row->last.sequence < marks->home) {
        return journal_damaged(path, row->last.sequence + 1, e);
    }
    /* The half before may not be home yet: it is replayed first. If it was, writing the same bytes
     * again changes nothing; if the first commit that overwrites it was torn, it no longer reaches
     * up to this one. */
    if (before->count != 0 && before->last.sequence + 1 == row->first.sequence) {
        out->rows[out->count++] = *before;
    }
    /* A half that is overwritten is home, and the mark says so. */
    if ((out->count != 0 ? before : row)->first.sequence > marks->home + 1) {
        bool begins = before->count != 0 && before->first.sequence <= marks->home + 1;
        return journal_damaged(path, (begins ? before->last.sequence : marks->home) + 1, e);
    }
    out->rows[out->count++] = *row;
    if (replay_each(pm, out, commit_check, pm) != 0) {
        return err_set(e, ERR_CORRUPT, "%s: the journal's places are out of bounds", path);
    }
    image->super.sequence = row->last.sequence;
    image->super.index = row->last.index;
    image->super.term = row->last.term;
    return 0;
}

static int commit_apply(void *arg, const struct pm_commit *c)
{
    image_pm_commit_apply(arg, c);
    return 0;
}

/* Brings the journal home. half: the one that isn't needed any more. */
static int pm_recover(struct image *image, struct image_pm *pm, const char *path, uint64_t *half,
                      struct err_text *e)
{
    struct pm_replay replay;
    struct pm_marks marks;
    int rv = image_pm_marks_read(pm, &marks) ? pm_journal_read(image, pm, &marks, path, &replay, e)
                                             : marks_damaged(path, e);
    if (rv != 0) {
        return rv;
    }
    (void)replay_each(pm, &replay, commit_apply, pm);
    image_pm_drain();
    image_pm_mark_drained(pm, image->super.sequence);
    image_pm_mark_home(pm, image->super.sequence);
    image_pm_drain();
    *half = replay.rows[replay.count - 1].half ^ 1;
    return 0;
}

/* The first page from `from` on whose presence bit is `bit`; at most where the bits end. */
static uint64_t presence_find(const struct image_pm *pm, uint64_t from, bool bit)
{
    uint64_t end = (pm->pages + 63) / 64 * 64;
    while (from < end) {
        uint64_t bits = load_u64(pm->map + pm->presence_at + from / 64 * 8);
        bits = (bit ? bits : ~bits) >> (from & 63);
        if (bits != 0) {
            return from + (uint64_t)__builtin_ctzll(bits);
        }
        from = (from | 63) + 1;
    }
    return end;
}

/* Each mapping costs the kernel more than a few pages do, and it has only so many. */
#define MAP_RUN_PAGES 16u
#define MAP_RUNS_MAX  2048u

/* Memory of the arena that shows the file, page by page until it is written. That it isn't a copy
 * can't be told: in these pages of the file only lines change that were written in the arena before
 * (home), and then the arena's page isn't the file's any more. Nobody reads all pages, to begin. */
static int run_load(const struct image *image, const struct image_pm *pm, struct arena *arena,
                    uint64_t page, uint64_t count, uint32_t *maps)
{
    uint64_t at = page << PAGE_SHIFT;
    uint64_t bytes = count << PAGE_SHIFT;
    int rv = 0;
    if (count >= MAP_RUN_PAGES && *maps < MAP_RUNS_MAX) {
        (*maps)++;
        rv = arena_commit(arena, at, bytes);
        if (rv == 0 && env_file_map_private(image->env, pm->file, arena->base + at, bytes,
                                            pm->pages_at + at) == 0) {
            arena_load_mapped(arena, page, count);
            return 0;
        }
    }
    for (uint64_t p = page; p < page + count && rv == 0; p++) {
        rv = arena_load(arena, p, pm->map + pm->pages_at + p * PAGE_BYTES);
    }
    return rv;
}

static int pm_load(const struct image *image, const struct image_pm *pm, struct arena *arena,
                   const char *path, struct err_text *e)
{
    uint32_t maps = 0;
    uint64_t page = presence_find(pm, 0, true);
    while (page < pm->pages) {
        uint64_t end = presence_find(pm, page, false);
        if (end > pm->pages) {
            break;
        }
        int rv = run_load(image, pm, arena, page, end - page, &maps);
        if (rv != 0) {
            return rv;
        }
        page = presence_find(pm, end, true);
    }
    return page < (pm->pages + 63) / 64 * 64
               ? err_set(e, ERR_CORRUPT, "%s: says that pages behind the last one are present",
                         path)
               : 0;
}

/* ---- sealed ---- */

/* Which pages there are, where, and with what hash: nothing of them is read. */
static int sealed_pages(const struct image_pm *pm, const struct pm_seal *seal, struct arena *arena,
                        const char *path, struct err_text *e)
{
    for (uint64_t word = 0; word < (pm->pages + 63) / 64; word++) {
        uint64_t bits = load_u64(pm->map + pm->presence_at + word * 8);
        for (; bits != 0; bits &= bits - 1) {
            uint64_t page = word * 64 + (uint64_t)__builtin_ctzll(bits);
            if (page >= pm->pages) {
                return err_set(e, ERR_CORRUPT, "%s: page %" PRIu64 " doesn't exist", path, page);
            }
            arena_load_later(arena, page, load_u64(pm->map + pm->hashes_at + page * 8),
                             image_home(0, pm->pages_at + page * PAGE_BYTES));
        }
    }
    return arena->digest == seal->digest && arena->present_count == seal->pages
               ? 0
               : err_set(e, ERR_CORRUPT, "%s: the pages aren't those of the seal", path);
}

/* *arena is open iff 0. */
static int sealed_load(struct image *image, const struct image_pm *pm, const struct pm_seal *seal,
                       struct arena *arena, const char *path, struct err_text *e)
{
    int rv = sequence_check(image, seal->sequence, path, e);
    if (rv == 0) {
        rv = arena_open(arena, pm->pages);
    }
    if (rv != 0) {
        return rv;
    }
    image->super.sequence = seal->sequence;
    image->super.index = seal->index;
    image->super.term = seal->term;
    rv = sealed_pages(pm, seal, arena, path, e);
    if (rv == 0) {
        rv = image_source_open(image, arena, NULL);
    }
    if (rv != 0) {
        arena_close(arena);
    }
    return rv;
}

static int sealed_open(struct image *image, struct image_pm *pm, const struct pm_seal *seal,
                       struct heap **heap, const char *path, struct err_text *e)
{
    struct arena arena;
    int rv = sealed_load(image, pm, seal, &arena, path, e);
    if (rv != 0) {
        return rv;
    }
    arena_track(&arena);
    bool own = image_pm_seal_is_own(image, seal);
    if (!own) {
        rv = image_load_pages(&arena, e);
        if (rv != 0) {
            return rv;
        }
    }
    rv = image_pm_start(pm, &arena, seal->half, seal->sequence);
    if (rv != 0) {
        arena_close(&arena);
        return rv;
    }
    pm->sealed = true;
    return image_adopt(image, &arena, pm->bytes_max, own, heap, e);
}

/* ---- open ---- */

/* No file: fine, unless there should be one. */
static int pm_missing(const struct image *image, const char *path, struct err_text *e)
{
    char disk[IMAGE_PATH_BYTES];
    struct env_file *file = NULL;
    if (image_path(image->dir, "super", disk) == 0 &&
        env_file_open(image->env, disk, ENV_OPEN_READ, &file) == 0) {
        env_file_close(image->env, file);
        return err_set(e, ERR_UNSUPPORTED, "%s: holds an image of the disk mode", image->dir);
    }
    return image->mark_sequence == 0
               ? ERR_NOTFOUND
               : err_set(e, ERR_CORRUPT, "%s: missing, but the log names a checkpoint", path);
}

static int pm_new(struct image *image, int flags, const char *path, struct image_pm **out,
                  struct err_text *e)
{
    *out = NULL;
    struct image_pm *pm = mem_zalloc(sizeof *pm);
    if (pm == NULL) {
        return ERR_NOMEM;
    }
    int rv = env_file_open(image->env, path, flags, &pm->file);
    if (rv != 0) {
        mem_free(pm);
        return rv == ERR_NOTFOUND ? pm_missing(image, path, e)
                                  : err_set(e, rv, "%s: can't be opened: %s", path, err_why(rv));
    }
    rv = pm_head_read(image, pm, path, e);
    if (rv != 0) {
        image_pm_free(image->env, pm);
        return rv;
    }
    *out = pm;
    return 0;
}

/* After a crash: the journal goes home, and nothing vouches for the pages but the check. */
static int unsealed_open(struct image *image, struct image_pm *pm, struct heap **heap,
                         const char *path, struct err_text *e)
{
    struct arena arena;
    uint64_t half = 0;
    int rv = pm_recover(image, pm, path, &half, e);
    if (rv == 0) {
        rv = arena_open(&arena, pm->pages);
    }
    if (rv != 0) {
        return rv;
    }
    arena_track(&arena);
    rv = pm_load(image, pm, &arena, path, e);
    if (rv == 0) {
        rv = image_pm_start(pm, &arena, half, image->super.sequence);
    }
    if (rv != 0) {
        arena_close(&arena);
        return rv;
    }
    return image_adopt(image, &arena, pm->bytes_max, false, heap, e);
}

static int seal_damaged(const char *path, struct err_text *e)
{
    return err_set(e, ERR_CORRUPT, "%s: damaged seal", path);
}

int image_pm_open(struct image *image, struct heap **heap, struct err_text *e)
{
    char path[IMAGE_PATH_BYTES];
    struct image_pm *pm = NULL;
    int rv = image_path(image->dir, "image.pm", path);
    if (rv == 0) {
        rv = pm_new(image, ENV_OPEN_WRITE, path, &pm, e);
    }
    if (rv != 0) {
        return rv == ERR_NOTFOUND ? 0 : rv;
    }
    assert(pm != NULL);
    rv = image_pm_map(image, pm, path, e);
    if (rv == 0) {
        struct pm_seal seal;
        bool damaged = false;
        if (image_pm_seal_read(pm, &seal, &damaged)) {
            rv = sealed_open(image, pm, &seal, heap, path, e);
        } else {
            rv = damaged ? seal_damaged(path, e) : unsealed_open(image, pm, heap, path, e);
        }
    }
    if (rv != 0) {
        image_pm_free(image->env, pm);
        return rv;
    }
    image->pm = pm;
    image->present = true;
    return 0;
}

/* ---- looking only: the file is read, not mapped ---- */

struct pm_look {
    struct image *image;
    struct image_pm *pm;
    struct arena *arena;
    const char *path;
    struct err_text *e;
    bool presence; /* which of the lines count */
    uint8_t page[PAGE_BYTES];
};

static int look_read(struct pm_look *l, void *to, uint64_t len, uint64_t offset)
{
    int64_t n = env_file_pread(l->image->env, l->pm->file, to, (size_t)len, offset);
    if (n < 0 || (uint64_t)n != len) {
        return err_set(l->e, n < 0 ? (int)n : ERR_CORRUPT, "%s: can't be read at %" PRIu64, l->path,
                       offset);
    }
    return 0;
}

static int look_part(struct pm_look *l, uint64_t from, uint64_t end)
{
    return look_read(l, l->pm->map + from, end - from, from);
}

/* What a patch does to one page. bytes NULL: it becomes zero. */
static int look_page(struct pm_look *l, uint64_t offset, const uint8_t *bytes, uint64_t len)
{
    uint64_t page = (offset - l->pm->pages_at) / PAGE_BYTES;
    if (!pageset_has(&l->arena->present, page)) {
        return 0; /* absent in the end */
    }
    if (bytes == NULL) {
        memset(l->page, 0, PAGE_BYTES);
    } else {
        memcpy(l->page, arena_at(l->arena, page << PAGE_SHIFT), PAGE_BYTES);
        memcpy(l->page + offset % PAGE_BYTES, bytes, (size_t)len);
    }
    return arena_load(l->arena, page, l->page);
}

/* Presence bits (which come first), or lines of pages. */
static int look_patch(struct pm_look *l, const struct pm_patch *patch)
{
    int rv = 0;
    for (uint64_t done = 0, len = 0; done < patch->len && rv == 0; done += len) {
        uint64_t offset = patch->offset + done;
        const uint8_t *bytes = patch->bytes == NULL ? NULL : patch->bytes + done;
        len = PAGE_BYTES - offset % PAGE_BYTES; /* all parts begin at a multiple */
        len = len < patch->len - done ? len : patch->len - done;
        if ((offset < l->pm->pages_at) != l->presence) {
            continue;
        }
        if (l->presence) {
            assert(bytes != NULL); /* commit_is_valid(): only pages become zero */
            memcpy(l->pm->map + offset, bytes, (size_t)len);
        } else {
            rv = look_page(l, offset, bytes, len);
        }
    }
    return rv;
}

static int commit_look(void *arg, const struct pm_commit *c)
{
    struct pm_reader reader = pm_reader_of(c);
    struct pm_patch patch;
    int rv = 0;
    while (rv == 0 && pm_reader_next(&reader, &patch)) {
        rv = look_patch(arg, &patch);
    }
    return rv;
}

static int look_replay(struct pm_look *l, const struct pm_replay *replay, bool presence)
{
    l->presence = presence;
    return replay_each(l->pm, replay, commit_look, l);
}

/* The bits now say which pages there are. Those that have come meanwhile are in the journal as a
 * whole. */
static int look_presence(struct pm_look *l)
{
    memset(l->page, 0, PAGE_BYTES);
    for (uint64_t page = 0; page < l->pm->pages; page++) {
        bool is = (l->pm->map[l->pm->presence_at + page / 8] >> page % 8 & 1) != 0;
        bool was = pageset_has(&l->arena->present, page);
        int rv = is && !was ? arena_load(l->arena, page, l->page) : 0;
        if (rv != 0) {
            return rv;
        }
        if (was && !is) {
            arena_drop(l->arena, page, 1);
        }
    }
    return 0;
}

static int look_pages(struct pm_look *l)
{
    const struct image_pm *pm = l->pm;
    for (uint64_t word = 0; word < (pm->pages + 63) / 64; word++) {
        uint64_t bits = load_u64(pm->map + pm->presence_at + word * 8);
        for (; bits != 0; bits &= bits - 1) {
            uint64_t page = word * 64 + (uint64_t)__builtin_ctzll(bits);
            if (page >= pm->pages) {
                return err_set(l->e, ERR_CORRUPT, "%s: page %" PRIu64 " doesn't exist", l->path,
                               page);
            }
            int rv = look_read(l, l->page, PAGE_BYTES, pm->pages_at + page * PAGE_BYTES);
            if (rv == 0) {
                rv = arena_load(l->arena, page, l->page);
            }
            if (rv != 0) {
                return rv;
            }
        }
    }
    return 0;
}

/* Every page with its hash. */
static int look_sealed(struct pm_look *l, const struct pm_seal *seal)
{
    int rv = sealed_load(l->image, l->pm, seal, l->arena, l->path, l->e);
    return rv != 0 ? rv : image_load_pages(l->arena, l->e);
}

/* Marks, presence, then the journal, which so has every commit that the marks know of and whose
 * lines can have been seen at home. */
static int look_order(struct pm_look *l, struct pm_replay *replay, struct pm_marks *marks)
{
    int rv = look_part(l, l->pm->marks_at, l->pm->hashes_at);
    bool sound = rv == 0 && image_pm_marks_read(l->pm, marks);
    if (rv == 0) {
        rv = look_part(l, l->pm->presence_at, l->pm->pages_at);
    }
    if (rv == 0) {
        rv = look_part(l, 0, l->pm->seal_at);
    }
    if (rv == 0) {
        rv = pm_journal_read(l->image, l->pm, marks, l->path, replay, l->e);
    }
    return rv == 0 && !sound ? marks_damaged(l->path, l->e) : rv;
}

/* What looks damaged while somebody commits may only have changed while it was read. ERR_BUSY. */
static int look_journal(struct pm_look *l, struct pm_replay *replay)
{
    struct pm_marks before = {0};
    struct pm_marks behind;
    int rv = look_order(l, replay, &before);
    if (rv == ERR_CORRUPT && look_part(l, l->pm->marks_at, l->pm->hashes_at) == 0) {
        (void)image_pm_marks_read(l->pm, &behind);
        rv = behind.drained != before.drained || behind.home != before.home ? ERR_BUSY : rv;
    }
    return rv != 0 ? rv : look_replay(l, replay, true);
}

/* Somebody may be writing meanwhile. The journal is read before the pages and once more behind
 * them. If what it began with is still there, then it has all that changed since: replayed, it
 * makes of each line what the newest commit in it says, whatever the line was when it was read; and
 * what isn't in it was home before. ERR_BUSY: a half was overwritten. */
static int look_unsealed(struct pm_look *l)
{
    struct pm_replay replay;
    int rv = look_journal(l, &replay);
    if (rv == 0) {
        rv = arena_open(l->arena, l->pm->pages);
    }
    if (rv != 0) {
        return rv;
    }
    uint64_t oldest = replay.rows[0].first.sequence;
    rv = look_pages(l);
    if (rv == 0) {
        rv = look_journal(l, &replay);
    }
    if (rv == 0 && replay.rows[0].first.sequence > oldest) {
        rv = ERR_BUSY;
    }
    if (rv == 0) {
        rv = look_presence(l);
    }
    if (rv == 0) {
        rv = look_replay(l, &replay, false);
    }
    if (rv != 0) {
        arena_close(l->arena);
    }
    return rv;
}

#define LOOKS 8

static int look(struct pm_look *l)
{
    struct pm_seal seal;
    bool damaged = false;
    int rv = look_part(l, l->pm->seal_at, l->pm->pages_at);
    if (rv == 0 && image_pm_seal_read(l->pm, &seal, &damaged)) {
        rv = look_sealed(l, &seal);
        /* Whoever has it open may have gone on meanwhile: then the journal says what is. */
        if (rv != ERR_CORRUPT || look_part(l, l->pm->seal_at, l->pm->pages_at) != 0 ||
            memcmp(&seal, l->pm->map + l->pm->seal_at, sizeof seal) == 0) {
            return rv;
        }
        rv = 0;
    }
    if (damaged) {
        return seal_damaged(l->path, l->e);
    }
    rv = rv == 0 ? look_unsealed(l) : rv;
    for (int i = 1; i < LOOKS && rv == ERR_BUSY; i++) {
        rv = look_unsealed(l);
    }
    return rv == ERR_BUSY ? err_set(l->e, rv, "%s: changes faster than it can be read", l->path)
                          : rv;
}

int image_pm_load_arena(struct image *image, struct arena *arena, uint64_t *bytes_max,
                        struct err_text *e)
{
    char path[IMAGE_PATH_BYTES];
    struct image_pm *pm = NULL;
    int rv = image_path(image->dir, "image.pm", path);
    if (rv == 0) {
        rv = pm_new(image, ENV_OPEN_READ, path, &pm, e);
    }
    if (rv != 0) {
        return rv;
    }
    assert(pm != NULL);
    *bytes_max = pm->bytes_max;
    struct pm_look *l = mem_zalloc(sizeof *l);
    pm->map = mem_alloc((size_t)pm->pages_at);
    if (l == NULL || pm->map == NULL) {
        rv = ERR_NOMEM;
    } else {
        *l = (struct pm_look){.image = image, .pm = pm, .arena = arena, .path = path, .e = e};
        rv = look(l);
    }
    mem_free(l);
    mem_free(pm->map);
    pm->map = NULL; /* it wasn't mapped */
    image_pm_free(image->env, pm);
    return rv;
}
