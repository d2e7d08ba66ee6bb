/* What the two files of the pmem mode share (image_pmem.c: commits; image_pmem_load.c: opening). */
#ifndef CAIRN_ALLOC_IMAGE_PMEM_H
#define CAIRN_ALLOC_IMAGE_PMEM_H

#include "alloc/image_internal.h"

struct image_pm {
    struct env_file *file;
    uint8_t *map;
    uint64_t bytes;
    uint64_t pages;
    uint64_t bytes_max;
    uint64_t presence_at, pages_at;
    struct buf journal; /* the half, as it will be written */
};

static inline uint64_t image_pm_half_at(uint64_t sequence)
{
    return IMAGE_BLOCK_BYTES + sequence % 2 * PM_HALF_BYTES;
}
void image_pm_layout(struct image_pm *pm, uint64_t bytes_max);
void image_pm_free(struct env *env, struct image_pm *pm);
int image_pm_map(struct image *image, struct image_pm *pm, const char *path, struct err_text *e);
/* Copies records, which are in bounds, to their home; no fence. */
void image_pm_records_apply(struct image_pm *pm, const uint8_t *body, uint64_t bytes);
void image_pm_drain(void);

#endif
