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

#include "alloc/image_pmem.h"
#include "base/crc.h"
#include "base/mem.h"

#define LINE_BYTES 64u

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

void image_pm_layout(struct image_pm *pm, uint64_t bytes_max)
{
    struct heap_regions regions;
    heap_regions_of(bytes_max, 0, &regions); /* for the smallest granules; see image_load.c */
    pm->bytes_max = bytes_max;
    pm->pages = regions.end >> PAGE_SHIFT;
    pm->presence_at = IMAGE_BLOCK_BYTES + 2 * PM_HALF_BYTES;
    pm->pages_at =
        pm->presence_at + ((pm->pages + 63) / 64 * 8 + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    pm->bytes = pm->pages_at + pm->pages * PAGE_BYTES;
}

void image_pm_free(struct env *env, struct image_pm *pm)
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
    image_pm_free(image->env, image->pm);
    image->pm = NULL;
}

int image_pm_map(struct image *image, struct image_pm *pm, const char *path, struct err_text *e)
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

static int record_all(struct image_pm *pm, const struct arena *a, uint64_t *pages)
{
    *pages = 0;
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
            *pages += 1;
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

/* Copies the records to their home. They are in bounds. */
void image_pm_records_apply(struct image_pm *pm, const uint8_t *body, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        struct pm_record r;
        memcpy(&r, body + at, sizeof r);
        ops->copy(pm->map + r.offset, body + at + sizeof r, r.len);
        at += sizeof r + r.len;
    }
}

void image_pm_drain(void)
{
    ops->drain();
}

static void committed(struct image *image, struct heap *heap, uint64_t pages, uint64_t bytes)
{
    struct arena *a = &heap->arena;
    image->super.sequence++;
    image->super.index = heap_index(heap);
    image->super.term = heap_term(heap);
    image->present = true;
    image->bytes_written += bytes;
    image->pm_pages = pages;
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
    uint64_t pages = 0;
    int rv = head == NULL ? ERR_NOMEM : record_all(pm, &heap->arena, &pages);
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
    ops->copy(pm->map + image_pm_half_at(sequence), pm->journal.data, pm->journal.len);
    ops->drain();
    image_pm_records_apply(pm, body, bytes);
    committed(image, heap, pages, pm->journal.len);
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
    ops->copy(pm->map + image_pm_half_at(half.sequence), &half, sizeof half);
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
    image_pm_layout(pm, header(heap)->bytes_max);
    (void)env_file_unlink(image->env, fresh);
    rv = env_file_open(image->env, fresh, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &pm->file);
    if (rv == 0) {
        rv = image_pm_map(image, pm, fresh, NULL);
    }
    if (rv == 0) {
        rv = pm_fill(image, pm, heap);
    }
    if (rv != 0) {
        image_pm_free(image->env, pm);
        (void)env_file_unlink(image->env, fresh);
        return rv; /* the old file is as it was */
    }
    rv = env_file_rename(image->env, fresh, path);
    if (rv == 0) {
        rv = env_dir_sync(image->env, image->dir);
    }
    if (rv != 0) {
        image_pm_free(image->env, pm);
        image->dead = true; /* which of the two files is there is open */
        return ERR_IO;
    }
    image_pm_close(image);
    image->pm = pm;
    committed(image, heap, heap->arena.present_count, heap->arena.present_count * PAGE_BYTES);
    return 0;
}
