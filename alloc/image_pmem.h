/* What the files of the pmem mode share (image_pmem.c: commits; image_pmem_load.c: opening;
 * image_pmem_seal.c: what a clean stop leaves for it; image_pmem_marks.c: how far the journal
 * goes; image_pmem_write.c: what a commit has;
 * image_pmem_store.c: stores). */
#ifndef CAIRN_ALLOC_IMAGE_PMEM_H
#define CAIRN_ALLOC_IMAGE_PMEM_H

#include "alloc/image_internal.h"
#include "base/crc.h"

/* Lines of the file that differ, or may differ, from the arena: a mask per page, counted from
 * presence_at on, and the pages that have one. */
struct pm_lines {
    uint64_t *masks;
    uint64_t *pages;
    uint64_t count;
    uint64_t done; /* of pages[], brought home */
};

struct image_pm {
    struct env_file *file;
    uint8_t *map;
    uint64_t bytes;
    uint64_t pages;
    uint64_t bytes_max;
    uint64_t seal_at, marks_at, hashes_at, presence_at, pages_at;
    /* The journal: where the next commit goes. */
    uint64_t half, at;
    uint64_t home_next; /* the newest commit before this half */
    bool unfenced;      /* lines went home since the last drain */
    bool sealed;
    /* Lines in commits of this half, which stand in the journal alone, and of the other one, which
     * are being brought home. */
    struct pm_lines recent, behind;
    void *memory;      /* of all that follows, and of the masks */
    uint64_t *present; /* as of the last commit, as in the file */
    uint8_t *commit;   /* being made; begins with a line */
    uint64_t *places;  /* of its lines, until they follow them */
};

static inline uint64_t image_pm_half_at(uint64_t half)
{
    return IMAGE_BLOCK_BYTES + half * PM_HALF_BYTES;
}
void image_pm_layout(struct image_pm *pm, uint64_t bytes_max);
void image_pm_free(struct env *env, struct image_pm *pm);
int image_pm_map(struct image *image, struct image_pm *pm, const char *path, struct err_text *e);
/* Makes ready for commits behind `sequence`: the home is the heap as it is, and half `half` may be
 * overwritten. ERR_NOMEM. */
int image_pm_start(struct image_pm *pm, const struct arena *arena, uint64_t half,
                   uint64_t sequence);
/* Copies what a commit has, which is in bounds, to its home; no fence. */
void image_pm_commit_apply(struct image_pm *pm, const struct pm_commit *c);
/* Brings all of the journal home, with a fence, and says so without one. What is in the arena is
 * committed, `sequence` the newest commit. */
void image_pm_home(struct image_pm *pm, const struct arena *a, uint64_t sequence);

/* image_pmem_store.c: stores without a fence; which of them don't arrive in a crash is open. */
void image_pm_copy(void *to, const void *from, uint64_t bytes);
void image_pm_copy_lines(void *to, const void *from, uint64_t mask); /* of a page */
void image_pm_drain(void);
bool image_pm_is_wide(void); /* the processor has lines in one register */

/* image_pmem_marks.c; nothing is fenced. */
void image_pm_mark_drained(struct image_pm *pm, uint64_t sequence);
/* The homes of all lines up to this commit are behind a drain. */
void image_pm_mark_home(struct image_pm *pm, uint64_t sequence);
/* False: damaged. */
bool image_pm_marks_read(const struct image_pm *pm, struct pm_marks *out);

/* image_pmem_seal.c */
/* Of a file of which [0, presence_at) is in memory. False: it isn't sealed, if *damaged isn't set
 * then. */
bool image_pm_seal_read(const struct image_pm *pm, struct pm_seal *out, bool *damaged);
bool image_pm_seal_is_own(const struct image *image, const struct pm_seal *seal);
uint32_t image_pm_seal_crc(const struct pm_seal *seal);
void image_pm_unseal(struct image_pm *pm);
/* The commit at `at` of the half. sequence: which one it must be; 0: any. NULL: there is none. */
const struct pm_commit *image_pm_commit_at(const struct image_pm *pm, uint64_t half, uint64_t at,
                                           uint64_t sequence);
/* The CRC of a commit of so many bytes. What stands in the head is its seed: so the CRC is over
 * whole lines, as they were stored. */
static inline uint32_t pm_commit_crc(const struct pm_commit *c, uint64_t bytes)
{
    const uint64_t k = 0x9e3779b97f4a7c15ull;
    uint64_t seed = (c->magic ^ c->sequence) * k;
    seed = (seed ^ seed >> 32 ^ c->index) * k;
    seed = (seed ^ seed >> 32 ^ c->term) * k;
    seed = (seed ^ seed >> 32 ^ c->lines ^ (uint64_t)c->places << 32) * k;
    return crc32c((uint32_t)(seed >> 32), c + 1, (size_t)bytes - sizeof *c);
}

/* Lines and places of one page, at most: with a line of presence bits, and one that it is zero. */
#define PM_PAGE_LINES_MAX  (PAGE_BYTES / LINE_BYTES + 1)
#define PM_PAGE_PLACES_MAX (PM_PAGE_LINES_MAX + 1)
#define PM_PAGE_BYTES_MAX  (PM_PAGE_LINES_MAX * LINE_BYTES + PM_PAGE_PLACES_MAX * sizeof(uint64_t))

/* ---- writing a commit (image_pmem_write.c) ---- */

struct pm_writer {
    uint8_t *line; /* there is room for a page, unless what was written is too much for a half */
    uint64_t *place;
    uint8_t *sent;     /* up to here the commit is on its way to the file */
    uint8_t *to;       /* where that goes on */
    uint64_t presence; /* place of the last line of presence bits */
    uint64_t lines;    /* at the end: how many there are */
};
struct pm_writer pm_writer_of(const struct image_pm *pm);
/* What a commit usually is: lines of few pages, which were there before. However many lines they
 * are, a half has room for them. */
bool pm_commit_is_usual(const struct arena *a);
/* Is there room for it in the current half? */
bool pm_usual_fits(const struct image_pm *pm, const struct arena *a);
void pm_write_usual(struct pm_writer *w, const struct image_pm *pm, const struct arena *a);
/* Any other: all is gathered, then sent. False: it is too much for a half. */
bool pm_write_all(struct pm_writer *w, const struct image_pm *pm, const struct arena *a);
bool pm_written_fits(const struct image_pm *pm, const struct pm_writer *w);
void pm_write_end(struct pm_writer *w, const struct image_pm *pm);

/* ---- reading one ---- */

struct pm_reader {
    const uint8_t *line, *place, *end;
};
struct pm_patch {
    uint64_t offset; /* in the file */
    uint64_t len;
    const uint8_t *bytes; /* lines; NULL: the page becomes zero */
};
static inline struct pm_reader pm_reader_of(const struct pm_commit *c)
{
    const uint8_t *line = (const uint8_t *)(c + 1);
    const uint8_t *place = line + (uint64_t)c->lines * LINE_BYTES;
    return (struct pm_reader){line, place, place + (uint64_t)c->places * sizeof(uint64_t)};
}
/* False: that was all. */
static inline bool pm_reader_next(struct pm_reader *r, struct pm_patch *out)
{
    if (r->place == r->end) {
        return false;
    }
    uint64_t place = load_u64(r->place);
    uint64_t len = pm_place_lines(place) * LINE_BYTES;
    out->offset = pm_place_offset(place);
    out->len = len == 0 ? PAGE_BYTES : len;
    out->bytes = len == 0 ? NULL : r->line;
    r->line += len;
    r->place += sizeof place;
    return true;
}

#endif
