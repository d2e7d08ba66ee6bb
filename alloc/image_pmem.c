/* Pmem mode. Apply works on private pages (E15); image_commit() brings what changed to the mapped
 * image:
 *
 *   1. the changed 64-byte lines go as redo records into one half of the journal, with a CRC over
 * all of it;
 *   2. one drain: from here on the commit is durable;
 *   3. the same lines go to their home, without a fence: the next commit's drain covers them, and
 * it writes the other half.
 *
 * So at least one half is always valid, and replaying what is valid, in order, makes the home
 * complete: the newest half may be whole before its drain, when the home of the one before isn't
 * yet. */
#include <inttypes.h>
#include <libpmem.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "base/crc.h"
#include "base/mem.h"

#define LINE_BYTES 64u

struct image_pm {
    struct env_file *file;
    uint8_t *map;
    uint64_t bytes;
    uint64_t pages;
    uint64_t bytes_max;
    uint64_t presence_at, pages_at;
    struct buf journal; /* the half, as it will be written */
};

static void pm_copy(void *to, const void *from, size_t len)
{
    (void)pmem_memcpy(to, from, len, PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN);
}

static const struct image_pm_ops real_ops = {pm_copy, pmem_drain};
static const struct image_pm_ops *ops = &real_ops;

void image_pm_set_ops(const struct image_pm_ops *replacement)
{
    ops = replacement != NULL ? replacement : &real_ops;
}

static void pm_layout(struct image_pm *pm, uint64_t bytes_max)
{
    struct heap_regions regions;
    heap_regions_of(bytes_max, &regions);
    pm->bytes_max = bytes_max;
    pm->pages = regions.end >> PAGE_SHIFT;
    pm->presence_at = IMAGE_BLOCK_BYTES + 2 * PM_HALF_BYTES;
    pm->pages_at =
        pm->presence_at + ((pm->pages + 63) / 64 * 8 + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    pm->bytes = pm->pages_at + pm->pages * PAGE_BYTES;
}

static void pm_free(struct env *env, struct image_pm *pm)
{
    if (pm == NULL) {
        return;
    }
    if (pm->map != NULL) {
        env_file_unmap(env, pm->file, pm->map, pm->bytes);
    }
    if (pm->file != NULL) {
        env_file_close(env, pm->file);
    }
    buf_close(&pm->journal);
    mem_free(pm);
}

void image_pm_close(struct image *image)
{
    pm_free(image->env, image->pm);
    image->pm = NULL;
}

static int pm_map(struct image *image, struct image_pm *pm, const char *path, struct err_text *e)
{
    void *map = NULL;
    bool is_pmem = false;
    int rv = env_file_map(image->env, pm->file, pm->bytes, &map, &is_pmem);
    if (rv != 0) {
        return err_set(e, rv, "%s: can't be mapped: %s", path, err_text_of(rv));
    }
    pm->map = map;
    if (!is_pmem) {
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: isn't persistent memory; use the disk mode for this directory", path);
    }
    return 0;
}

/* ---- commit ---- */

static int record(struct image_pm *pm, uint64_t offset, const void *bytes, uint64_t len)
{
    struct pm_record r = {offset, len};
    int rv = buf_append(&pm->journal, &r, sizeof r);
    return rv != 0 ? rv : buf_append(&pm->journal, bytes, len);
}

/* Runs of lines that differ from the home. */
static int record_page(struct image_pm *pm, uint64_t page, const uint8_t *bytes)
{
    uint64_t at = pm->pages_at + page * PAGE_BYTES;
    const uint8_t *home = pm->map + at;
    for (uint64_t i = 0; i < PAGE_BYTES;) {
        if (memcmp(home + i, bytes + i, LINE_BYTES) == 0) {
            i += LINE_BYTES;
            continue;
        }
        uint64_t from = i;
        while (i < PAGE_BYTES && memcmp(home + i, bytes + i, LINE_BYTES) != 0) {
            i += LINE_BYTES;
        }
        int rv = record(pm, at + from, bytes + from, i - from);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int record_all(struct image_pm *pm, const struct arena *a)
{
    uint64_t word = UINT64_MAX;
    for (uint64_t p = 0; (p = pageset_next(&a->dirty, p, a->pages)) < a->pages; p++) {
        int rv = 0;
        if (p / 64 != word) {
            word = p / 64;
            uint64_t at = pm->presence_at + word * 8;
            if (memcmp(pm->map + at, &a->present.words[word], 8) != 0) {
                rv = record(pm, at, &a->present.words[word], 8);
            }
        }
        if (rv == 0 && pageset_has(&a->present, p)) {
            rv = record_page(pm, p, a->base + (p << PAGE_SHIFT));
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static void half_seal(struct pm_half *half, uint64_t sequence, const struct heap *heap,
                      const uint8_t *body, uint64_t bytes)
{
    memset(half, 0, sizeof *half);
    half->magic = PM_HALF_MAGIC;
    half->sequence = sequence;
    half->index = heap_index(heap);
    half->term = heap_term(heap);
    half->bytes = bytes;
    half->body_crc = bytes == 0 ? 0 : crc32c(0, body, bytes);
    half->crc = image_crc(half, sizeof *half);
}

static uint64_t half_at(uint64_t sequence)
{
    return IMAGE_BLOCK_BYTES + sequence % 2 * PM_HALF_BYTES;
}

/* Copies the records to their home. They are in bounds. */
static void records_apply(struct image_pm *pm, const uint8_t *body, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        struct pm_record r;
        memcpy(&r, body + at, sizeof r);
        ops->copy(pm->map + r.offset, body + at + sizeof r, r.len);
        at += sizeof r + r.len;
    }
}

static void committed(struct image *image, struct heap *heap, uint64_t bytes)
{
    struct arena *a = &heap->arena;
    image->super.sequence++;
    image->super.index = heap_index(heap);
    image->super.term = heap_term(heap);
    image->present = true;
    image->bytes_written += bytes;
    pageset_clear(&a->dirty, a->pages);
    pageset_clear(&a->hot, a->pages); /* the next write has to mark its page again */
    a->dirty_count = 0;
}

int image_pm_commit(struct image *image, struct heap *heap)
{
    struct image_pm *pm = image->pm;
    if (pm == NULL || pm->bytes_max != header(heap)->bytes_max) {
        return image_pm_replace(image, heap);
    }
    buf_clear(&pm->journal);
    uint8_t *head = buf_extend(&pm->journal, sizeof(struct pm_half));
    int rv = head == NULL ? ERR_NOMEM : record_all(pm, &heap->arena);
    if (rv != 0) {
        return rv;
    }
    if (pm->journal.len > PM_HALF_BYTES) {
        return image_pm_replace(image, heap);
    }
    const uint8_t *body = pm->journal.data + sizeof(struct pm_half);
    uint64_t bytes = pm->journal.len - sizeof(struct pm_half);
    uint64_t sequence = image->super.sequence + 1;
    half_seal((struct pm_half *)(void *)pm->journal.data, sequence, heap, body, bytes);
    ops->copy(pm->map + half_at(sequence), pm->journal.data, pm->journal.len);
    ops->drain();
    records_apply(pm, body, bytes);
    committed(image, heap, pm->journal.len);
    return 0;
}

/* ---- a whole new file ---- */

static int pm_fill(struct image *image, struct image_pm *pm, const struct heap *heap)
{
    const struct arena *a = &heap->arena;
    struct pm_head head;
    struct pm_half half;
    memset(&head, 0, sizeof head);
    head.magic = PM_MAGIC;
    head.format = IMAGE_FORMAT;
    head.uid = image->uid;
    head.bytes_max = pm->bytes_max;
    head.half_bytes = PM_HALF_BYTES;
    head.crc = image_crc(&head, sizeof head);
    ops->copy(pm->map, &head, sizeof head);
    /* The file is new: what isn't written here is zero. */
    half_seal(&half, image->super.sequence + 1, heap, NULL, 0);
    ops->copy(pm->map + half_at(half.sequence), &half, sizeof half);
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        ops->copy(pm->map + pm->presence_at + p / 64 * 8, &a->present.words[p / 64], 8);
        ops->copy(pm->map + pm->pages_at + p * PAGE_BYTES, a->base + (p << PAGE_SHIFT), PAGE_BYTES);
    }
    ops->drain();
    return env_file_sync(image->env, pm->file); /* the size and the blocks */
}

int image_pm_replace(struct image *image, struct heap *heap)
{
    char path[IMAGE_PATH_BYTES];
    char fresh[IMAGE_PATH_BYTES];
    int rv = image_path(image->dir, "image.pm", path);
    if (rv == 0) {
        rv = image_path(image->dir, "image.pm.tmp", fresh);
    }
    if (rv != 0) {
        return rv;
    }
    struct image_pm *pm = mem_zalloc(sizeof *pm);
    if (pm == NULL) {
        return ERR_NOMEM;
    }
    pm_layout(pm, header(heap)->bytes_max);
    (void)env_file_unlink(image->env, fresh);
    rv = env_file_open(image->env, fresh, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &pm->file);
    if (rv == 0) {
        rv = pm_map(image, pm, fresh, NULL);
    }
    if (rv == 0) {
        rv = pm_fill(image, pm, heap);
    }
    if (rv != 0) {
        pm_free(image->env, pm);
        (void)env_file_unlink(image->env, fresh);
        return rv; /* the old file is as it was */
    }
    rv = env_file_rename(image->env, fresh, path);
    if (rv == 0) {
        rv = env_dir_sync(image->env, image->dir);
    }
    if (rv != 0) {
        pm_free(image->env, pm);
        image->dead = true; /* which of the two files is there is open */
        return ERR_IO;
    }
    image_pm_close(image);
    image->pm = pm;
    committed(image, heap, heap->arena.present_count * PAGE_BYTES);
    return 0;
}

/* ---- open ---- */

static bool half_is_valid(const struct image_pm *pm, uint64_t slot)
{
    const uint8_t *at = pm->map + IMAGE_BLOCK_BYTES + slot * PM_HALF_BYTES;
    struct pm_half half;
    memcpy(&half, at, sizeof half);
    if (half.magic != PM_HALF_MAGIC || half.crc != image_crc(&half, sizeof half) ||
        half.sequence % 2 != slot || half.bytes > PM_HALF_BYTES - sizeof half) {
        return false;
    }
    return half.bytes == 0 ? half.body_crc == 0
                           : half.body_crc == crc32c(0, at + sizeof half, half.bytes);
}

static bool records_are_valid(const struct image_pm *pm, const uint8_t *body, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        struct pm_record r;
        if (bytes - at < sizeof r) {
            return false;
        }
        memcpy(&r, body + at, sizeof r);
        at += sizeof r;
        if (r.len == 0 || r.len % 8 != 0 || r.len > bytes - at || r.offset < pm->presence_at ||
            r.offset % 8 != 0 || r.offset > pm->bytes || r.len > pm->bytes - r.offset) {
            return false;
        }
        at += r.len;
    }
    return true;
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
    if (head.format != IMAGE_FORMAT) {
        return err_set(e, ERR_VERSION, "%s: format %u; this program knows %u", path, head.format,
                       IMAGE_FORMAT);
    }
    if (head.uid != image->uid) {
        return err_set(e, ERR_WRONGCLUSTER, "%s: belongs to shard %016" PRIx64 ", not %016" PRIx64,
                       path, head.uid, image->uid);
    }
    if (!heap_bytes_max_is_valid(head.bytes_max) || head.half_bytes != PM_HALF_BYTES) {
        return err_set(e, ERR_CORRUPT, "%s: fields out of bounds", path);
    }
    pm_layout(pm, head.bytes_max);
    int64_t size = env_file_size(image->env, pm->file);
    if (size < 0 || (uint64_t)size < pm->bytes) {
        return err_set(e, size < 0 ? (int)size : ERR_CORRUPT,
                       "%s: has %" PRIi64 " bytes of %" PRIu64, path, size, pm->bytes);
    }
    return 0;
}

static int pm_recover(struct image *image, struct image_pm *pm, const char *path,
                      struct err_text *e)
{
    bool valid[2] = {half_is_valid(pm, 0), half_is_valid(pm, 1)};
    struct pm_half halves[2];
    for (uint64_t i = 0; i < 2; i++) {
        memcpy(&halves[i], pm->map + IMAGE_BLOCK_BYTES + i * PM_HALF_BYTES, sizeof halves[i]);
    }
    if (!valid[0] && !valid[1]) {
        return err_set(e, ERR_CORRUPT, "%s: neither half of the journal is valid", path);
    }
    uint64_t newest = valid[1] && (!valid[0] || halves[1].sequence > halves[0].sequence);
    const struct pm_half *half = &halves[newest];
    const uint8_t *body = pm->map + half_at(half->sequence) + sizeof *half;
    if (!records_are_valid(pm, body, half->bytes)) {
        return err_set(e, ERR_CORRUPT, "%s: the journal's records are out of bounds", path);
    }
    if (half->sequence < image->mark_sequence) {
        return err_set(e, ERR_CORRUPT,
                       "%s: commit %" PRIu64 " is older than %" PRIu64
                       " in the log: it was lost; repair from the peers",
                       path, half->sequence, image->mark_sequence);
    }
    /* The newest half may have arrived whole although its drain never ended, and then the home of
     * the one before isn't covered by any: replay that one first. Where it was covered, writing the
     * same bytes again changes nothing. */
    const struct pm_half *before = &halves[1 - newest];
    if (valid[1 - newest] && before->sequence + 1 == half->sequence) {
        const uint8_t *earlier = pm->map + half_at(before->sequence) + sizeof *before;
        if (!records_are_valid(pm, earlier, before->bytes)) {
            return err_set(e, ERR_CORRUPT, "%s: the journal's records are out of bounds", path);
        }
        records_apply(pm, earlier, before->bytes);
    }
    records_apply(pm, body, half->bytes);
    ops->drain();
    image->super.sequence = half->sequence;
    image->super.index = half->index;
    image->super.term = half->term;
    return 0;
}

static int pm_load(const struct image_pm *pm, struct arena *arena, const char *path,
                   struct err_text *e)
{
    for (uint64_t word = 0; word < (pm->pages + 63) / 64; word++) {
        uint64_t bits = load_u64(pm->map + pm->presence_at + word * 8);
        for (; bits != 0; bits &= bits - 1) {
            uint64_t page = word * 64 + (uint64_t)__builtin_ctzll(bits);
            if (page >= pm->pages) {
                return err_set(e, ERR_CORRUPT, "%s: page %" PRIu64 " doesn't exist", path, page);
            }
            int rv = arena_load(arena, page, pm->map + pm->pages_at + page * PAGE_BYTES);
            if (rv != 0) {
                return rv;
            }
        }
    }
    return 0;
}

int image_pm_open(struct image *image, struct heap **heap, struct err_text *e)
{
    char path[IMAGE_PATH_BYTES];
    char disk[IMAGE_PATH_BYTES];
    int rv = image_path(image->dir, "image.pm", path);
    if (rv == 0) {
        rv = image_path(image->dir, "super", disk);
    }
    if (rv != 0) {
        return rv;
    }
    struct image_pm *pm = mem_zalloc(sizeof *pm);
    if (pm == NULL) {
        return ERR_NOMEM;
    }
    rv = env_file_open(image->env, path, ENV_OPEN_WRITE, &pm->file);
    if (rv == ERR_NOTFOUND) {
        mem_free(pm);
        struct env_file *file = NULL;
        if (env_file_open(image->env, disk, ENV_OPEN_READ, &file) == 0) {
            env_file_close(image->env, file);
            return err_set(e, ERR_UNSUPPORTED, "%s: holds an image of the disk mode", image->dir);
        }
        return image->mark_sequence == 0
                   ? 0
                   : err_set(e, ERR_CORRUPT, "%s: missing, but the log names a checkpoint", path);
    }
    if (rv != 0) {
        mem_free(pm);
        return err_set(e, rv, "%s: can't be opened: %s", path, err_text_of(rv));
    }
    rv = pm_head_read(image, pm, path, e);
    if (rv == 0) {
        rv = pm_map(image, pm, path, e);
    }
    if (rv == 0) {
        rv = pm_recover(image, pm, path, e);
    }
    struct arena arena;
    bool arena_opened = false;
    if (rv == 0) {
        rv = arena_open(&arena, pm->pages);
        arena_opened = rv == 0;
    }
    if (rv == 0) {
        rv = pm_load(pm, &arena, path, e);
    }
    struct heap *loaded = NULL;
    if (rv == 0) {
        rv = heap_adopt(&arena, pm->bytes_max, &loaded, e);
    }
    if (rv != 0) {
        if (arena_opened) {
            arena_close(&arena);
        }
        pm_free(image->env, pm);
        return rv;
    }
    if (header(loaded)->uid != image->uid || heap_index(loaded) != image->super.index ||
        heap_term(loaded) != image->super.term) {
        heap_free(loaded);
        pm_free(image->env, pm);
        return err_set(e, ERR_CORRUPT, "%s: the heap isn't the journal's", path);
    }
    image->pm = pm;
    image->present = true;
    *heap = loaded;
    return 0;
}
