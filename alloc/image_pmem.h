/* What the files of the pmem mode share (image_pmem.c: commits; image_pmem_load.c: opening;
 * image_pmem_seal.c: what a clean stop leaves for it). */
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
    uint64_t seal_at, hashes_at, presence_at, pages_at;
    /* The journal: where the next commit goes. */
    uint64_t half, at;
    bool unfenced; /* lines went home since the last drain */
    bool sealed;
    /* Lines in commits of this half, which stand in the journal alone, and of the other one, which
     * are being brought home. */
    struct pm_lines recent, behind;
    void *memory;      /* of all that follows, and of the masks */
    uint64_t *present; /* as of the last commit, as in the file */
    uint8_t *commit;   /* being made: head and records */
};

static inline uint64_t image_pm_half_at(uint64_t half)
{
    return IMAGE_BLOCK_BYTES + half * PM_HALF_BYTES;
}
void image_pm_layout(struct image_pm *pm, uint64_t bytes_max);
void image_pm_free(struct env *env, struct image_pm *pm);
int image_pm_map(struct image *image, struct image_pm *pm, const char *path, struct err_text *e);
/* Makes ready for commits: the home is the heap as it is, and half `half` may be overwritten.
 * ERR_NOMEM. */
int image_pm_start(struct image_pm *pm, const struct arena *arena, uint64_t half);
/* Copies records, which are in bounds, to their home; no fence. */
void image_pm_records_apply(struct image_pm *pm, const uint8_t *body, uint64_t bytes);
void image_pm_copy(void *to, const void *from, uint64_t bytes); /* no fence */
void image_pm_drain(void);
/* Brings all of the journal home, with a fence. What is in the arena is committed. */
void image_pm_home(struct image_pm *pm, const struct arena *a);

/* image_pmem_seal.c */
/* Of a file of which [0, presence_at) is in memory. False: it isn't sealed, if *damaged isn't set
 * then. */
bool image_pm_seal_read(const struct image_pm *pm, struct pm_seal *out, bool *damaged);
bool image_pm_seal_is_own(const struct image *image, const struct pm_seal *seal);
uint32_t image_pm_seal_crc(const struct pm_seal *seal);
void image_pm_unseal(struct image_pm *pm);
/* Is there a commit at `at` of the half? sequence: which one it must be; 0: any. */
bool image_pm_commit_at(const struct image_pm *pm, uint64_t half, uint64_t at, uint64_t sequence,
                        struct pm_commit *out);
/* The CRC of a commit with so many bytes of records, which follow the head. */
static inline uint32_t pm_commit_crc(const void *head, uint64_t bytes)
{
    const size_t from = offsetof(struct pm_commit, reserved);
    return crc32c(0, (const uint8_t *)head + from, sizeof(struct pm_commit) - from + (size_t)bytes);
}
/* Bytes that a commit with so many bytes of records takes of its half. */
static inline uint64_t image_pm_commit_bytes(uint64_t bytes)
{
    return (sizeof(struct pm_commit) + bytes + 63) & ~(uint64_t)63;
}

#endif
