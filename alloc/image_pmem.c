/* Pmem mode. Apply works on private pages (E15); image_commit() brings what changed to the mapped
 * image:
 *
 *   1. the lines written since the last commit go into the journal, behind the commit before, with
 * their places and a CRC over all of it;
 *   2. one drain: from here on the commit is durable;
 *   3. when a half of the journal is full, commits go on at the start of the other one, and the
 * lines that the full one has are brought home little by little, without a fence: from the arena,
 * as it is behind a drain.
 *
 * Why that is enough. A half is overwritten only when the home of all its lines is covered by a
 * drain (half_turn). Replaying the commits of both halves in order makes the home complete: a line
 * that went home early has the value of a commit that is durable, hence replayed, and it was
 * written by a commit of the older half; if a newer one wrote it too, that is replayed last. While
 * a half is being overwritten for the first time, what can still be read of it doesn't reach up to
 * the other half's first commit, and isn't replayed: its home is complete. */
#include <inttypes.h>
#include <string.h>

#include "alloc/image_pmem.h"
#include "base/mem.h"

/* More than the commits of a half can name: each page costs a place. */
#define PM_LINES_MAX (PM_HALF_BYTES / sizeof(uint64_t))

void image_pm_layout(struct image_pm *pm, uint64_t bytes_max)
{
    struct heap_regions regions;
    heap_regions_of(bytes_max, 0, &regions); /* for the smallest granules; see image_load.c */
    pm->bytes_max = bytes_max;
    pm->pages = regions.end >> PAGE_SHIFT;
    pm->seal_at = IMAGE_BLOCK_BYTES + 2 * PM_HALF_BYTES;
    pm->marks_at = pm->seal_at + IMAGE_BLOCK_BYTES;
    pm->hashes_at = pm->marks_at + IMAGE_BLOCK_BYTES;
    pm->presence_at =
        pm->hashes_at + (pm->pages * sizeof(uint64_t) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
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
    mem_free(pm->memory);
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
        return err_set(e, rv, "%s: can't be mapped: %s", path, err_why(rv));
    }
    pm->map = map;
    if (!is_pmem) {
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: isn't persistent memory; use the disk mode for this directory", path);
    }
    return 0;
}

/* ---- the journal ---- */

static uint64_t line_pages(const struct image_pm *pm) /* of the presence bits and the arena */
{
    return (pm->bytes - pm->presence_at) >> PAGE_SHIFT;
}

int image_pm_start(struct image_pm *pm, const struct arena *arena, uint64_t half, uint64_t sequence)
{
    uint64_t masks = line_pages(pm) * sizeof(uint64_t);
    uint64_t lists = PM_LINES_MAX * sizeof(uint64_t);
    uint64_t presence = pm->pages_at - pm->presence_at;
    /* Room for a page behind the end, and for what makes a row of lines of the places. */
    uint64_t commit = PM_HALF_BYTES + 2 * PAGE_BYTES;
    uint64_t places = commit;
    static_assert(PM_PAGE_BYTES_MAX + 3 * LINE_BYTES <= 2 * PAGE_BYTES, "room behind the end");
    /* Most of it is never touched. */
    uint8_t *at =
        mem_zalloc((size_t)(2 * masks + 2 * lists + presence + commit + places + LINE_BYTES));
    if (at == NULL) {
        return ERR_NOMEM;
    }
    pm->memory = at;
    at += -(uintptr_t)at % LINE_BYTES;
    pm->commit = at;
    at += commit;
    pm->places = (uint64_t *)(void *)at;
    at += places;
    pm->present = (uint64_t *)(void *)at;
    at += presence;
    struct pm_lines *sets[] = {&pm->recent, &pm->behind};
    for (size_t i = 0; i < 2; i++) {
        memset(sets[i], 0, sizeof *sets[i]);
        sets[i]->masks = (uint64_t *)(void *)at;
        at += masks;
        sets[i]->pages = (uint64_t *)(void *)at;
        at += lists;
    }
    for (uint64_t p = 0; (p = pageset_next(&arena->present, p, arena->pages)) < arena->pages; p++) {
        pm->present[p / 64] = arena->present.words[p / 64];
        p |= 63;
    }
    pm->half = half;
    pm->at = 0;
    pm->home_next = sequence;
    pm->unfenced = false;
    return 0;
}

const struct pm_commit *image_pm_commit_at(const struct image_pm *pm, uint64_t half, uint64_t at,
                                           uint64_t sequence)
{
    if (at > PM_HALF_BYTES - sizeof(struct pm_commit)) {
        return NULL;
    }
    const struct pm_commit *c = (const void *)(pm->map + image_pm_half_at(half) + at);
    uint64_t bytes = pm_commit_bytes(c->lines, c->places);
    return c->magic == PM_COMMIT_MAGIC && (sequence == 0 || c->sequence == sequence) &&
                   (c->reserved | c->reserved2[0] | c->reserved2[1]) == 0 &&
                   bytes <= PM_HALF_BYTES - at && c->crc == pm_commit_crc(c, bytes)
               ? c
               : NULL;
}

static uint64_t commit_seal(struct pm_commit *c, uint64_t sequence, const struct heap *heap,
                            uint64_t lines, uint64_t places)
{
    uint64_t bytes = pm_commit_bytes(lines, places);
    *c = (struct pm_commit){.magic = PM_COMMIT_MAGIC,
                            .sequence = sequence,
                            .index = header(heap)->index,
                            .term = header(heap)->term,
                            .lines = (uint32_t)lines,
                            .places = (uint32_t)places};
    c->crc = pm_commit_crc(c, bytes);
    return bytes;
}

void image_pm_commit_apply(struct image_pm *pm, const struct pm_commit *c)
{
    static const uint8_t zeros[PAGE_BYTES];
    struct pm_reader reader = pm_reader_of(c);
    struct pm_patch patch;
    while (pm_reader_next(&reader, &patch)) {
        image_pm_copy(pm->map + patch.offset, patch.bytes == NULL ? zeros : patch.bytes, patch.len);
    }
}

static uint8_t *journal_end(const struct image_pm *pm)
{
    return pm->map + image_pm_half_at(pm->half) + pm->at;
}

/* ---- home ---- */

static void lines_add(struct pm_lines *l, uint64_t page, uint64_t mask)
{
    uint64_t before = l->masks[page];
    assert(l->count < PM_LINES_MAX);
    l->pages[l->count] = page;
    l->count += before == 0; /* one in two, at random: no branch */
    l->masks[page] = before | mask;
}

/* Up to `pages` pages of the other half's lines, as they are in the arena, which is committed. */
static void home_some(struct image_pm *pm, const struct arena *a, uint64_t pages)
{
    struct pm_lines *l = &pm->behind;
    uint64_t presence = (pm->pages_at - pm->presence_at) >> PAGE_SHIFT;
    for (; pages > 0 && l->done < l->count; pages--, l->done++) {
        uint64_t page = l->pages[l->done];
        uint64_t mask = l->masks[page];
        l->masks[page] = 0;
        const uint8_t *from = (const uint8_t *)pm->present + (page << PAGE_SHIFT);
        if (page >= presence) {
            if (!pageset_has(&a->present, page - presence)) {
                continue; /* what is there doesn't matter */
            }
            from = a->base + ((page - presence) << PAGE_SHIFT);
        }
        uint8_t *to = pm->map + pm->presence_at + (page << PAGE_SHIFT);
        image_pm_copy_lines(to, from, mask);
        pm->unfenced = true;
    }
}

/* All that is left of the other half, from the journal: the arena has changed since the last drain.
 */
static void home_rest(struct image_pm *pm)
{
    struct pm_lines *l = &pm->behind;
    if (l->done == l->count) {
        return;
    }
    const struct pm_commit *c;
    uint64_t other = pm->half ^ 1;
    for (uint64_t at = 0, next = 0; (c = image_pm_commit_at(pm, other, at, next)) != NULL;
         at += pm_commit_bytes(c->lines, c->places), next = c->sequence + 1) {
        image_pm_commit_apply(pm, c);
    }
    for (; l->done < l->count; l->done++) {
        l->masks[l->pages[l->done]] = 0;
    }
    pm->unfenced = true;
}

/* Goes on in the other half, behind commit `sequence`. */
static void half_turn(struct image_pm *pm, uint64_t sequence)
{
    home_rest(pm);
    if (pm->unfenced) {
        image_pm_drain();
        pm->unfenced = false;
    }
    /* Drained before anything is overwritten: else that would look like damage. */
    image_pm_mark_home(pm, pm->home_next);
    image_pm_drain();
    pm->home_next = sequence;
    struct pm_lines empty = pm->behind;
    empty.count = empty.done = 0;
    pm->behind = pm->recent;
    pm->recent = empty;
    pm->half ^= 1;
    pm->at = 0;
}

void image_pm_home(struct image_pm *pm, const struct arena *a, uint64_t sequence)
{
    home_some(pm, a, UINT64_MAX);
    if (pm->at > 0) { /* else the other half has the newest commit */
        half_turn(pm, sequence);
        home_some(pm, a, UINT64_MAX);
    }
    image_pm_drain();
    pm->unfenced = false;
    image_pm_mark_home(pm, sequence);
}

/* ---- commit ---- */

/* The commit is in the current half: its lines have to go home some day. */
static void note_page(struct image_pm *pm, const struct arena *a, uint64_t page)
{
    uint64_t word = page / 64;
    if (pm->present[word] != a->present.words[word]) {
        pm->present[word] = a->present.words[word];
        lines_add(&pm->recent, word * 8 >> PAGE_SHIFT, arena_lines(word * 8, 8));
    }
    uint64_t mask = arena_lines_written(a, page);
    if (mask == 0 || !pageset_has(&a->present, page)) {
        return;
    }
    lines_add(&pm->recent, page + ((pm->pages_at - pm->presence_at) >> PAGE_SHIFT), mask);
}

static void note_all(struct image_pm *pm, const struct arena *a, bool usual)
{
    if (!usual) {
        for (uint64_t i = 0; i < a->written_count; i++) {
            note_page(pm, a, a->written[i]);
        }
        return;
    }
    uint64_t first = (pm->pages_at - pm->presence_at) >> PAGE_SHIFT;
    for (uint64_t i = 0; i < a->written_count; i++) {
        lines_add(&pm->recent, first + a->written[i], a->lines[a->written[i]]);
    }
}

static void committed(struct image *image, struct heap *heap, uint64_t pages, uint64_t bytes)
{
    image->super.sequence++;
    image->super.index = heap_index(heap);
    image->super.term = heap_term(heap);
    image->present = true;
    image->bytes_written += bytes;
    image->pm_pages = pages;
    arena_committed(&heap->arena);
}

/* Behind its drain. So much goes home that the other half is done long before this one is full. */
static void home_share(struct image_pm *pm, const struct arena *a, uint64_t bytes)
{
    if (pm->behind.done < pm->behind.count) {
        home_some(pm, a, 1 + pm->behind.count * bytes * 4 / PM_HALF_BYTES);
    }
}

/* All that stands behind the head is on its way; the head, which says what there is, follows.
 * Returns how many bytes the commit has. */
static uint64_t finish(struct pm_writer *w, const struct image *image, const struct heap *heap)
{
    struct image_pm *pm = image->pm;
    struct pm_commit *head = (struct pm_commit *)(void *)pm->commit;
    uint64_t places = (uint64_t)(w->place - pm->places);
    uint64_t bytes = commit_seal(head, image->super.sequence + 1, heap, w->lines, places);
    image_pm_copy(journal_end(pm), head, sizeof *head);
    pm->at += bytes;
    return bytes;
}

int image_pm_commit(struct image *image, struct heap *heap)
{
    struct image_pm *pm = image->pm;
    struct arena *a = &heap->arena;
    if (pm == NULL || pm->bytes_max != header(heap)->bytes_max || !a->tracked) {
        return image_pm_replace(image, heap);
    }
    if (a->damage != 0) {
        return a->damage;
    }
    if (pm->sealed) {
        image_pm_unseal(pm);
    }
    bool usual = pm_commit_is_usual(a);
    struct pm_writer w = pm_writer_of(pm);
    if (!usual && !pm_write_all(&w, pm, a)) {
        return image_pm_replace(image, heap);
    }
    if (usual ? !pm_usual_fits(pm, a) : !pm_written_fits(pm, &w)) {
        half_turn(pm, image->super.sequence);
    }
    w.to = journal_end(pm) + sizeof(struct pm_commit);
    if (usual) {
        pm_write_usual(&w, pm, a);
    } else {
        pm_write_end(&w, pm);
    }
    uint64_t bytes = finish(&w, image, heap);
    uint64_t pages = a->written_count;
    /* While the stores are on their way: nothing from here on can fail. */
    note_all(pm, a, usual);
    committed(image, heap, pages, bytes);
    image_pm_drain();
    pm->unfenced = false;
    image_pm_mark_drained(pm, image->super.sequence);
    home_share(pm, a, bytes);
    return 0;
}

/* ---- a whole new file ---- */

static int pm_fill(struct image *image, struct image_pm *pm, const struct heap *heap)
{
    const struct arena *a = &heap->arena;
    struct pm_head head;
    struct pm_commit first;
    memset(&head, 0, sizeof head);
    head.magic = PM_MAGIC;
    head.format = PM_FORMAT;
    head.uid = image->uid;
    head.bytes_max = pm->bytes_max;
    head.half_bytes = PM_HALF_BYTES;
    head.crc = image_crc(&head, sizeof head);
    image_pm_copy(pm->map, &head, sizeof head);
    /* The file is new: what isn't written here is zero. */
    (void)commit_seal(&first, image->super.sequence + 1, heap, 0, 0);
    image_pm_copy(pm->map + image_pm_half_at(0), &first, sizeof first);
    image_pm_mark_drained(pm, first.sequence);
    image_pm_mark_home(pm, first.sequence);
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages; p++) {
        image_pm_copy(pm->map + pm->presence_at + p / 64 * 8, &a->present.words[p / 64], 8);
        image_pm_copy(pm->map + pm->pages_at + p * PAGE_BYTES, a->base + (p << PAGE_SHIFT),
                      PAGE_BYTES);
    }
    image_pm_drain();
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
    rv = heap_load_all(heap, NULL);
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
    if (rv == 0) {
        rv = image_pm_start(pm, &heap->arena, 1, image->super.sequence + 1);
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
    arena_track(&heap->arena);
    return 0;
}
