/* The seal of an image in pmem mode: a clean stop brings the journal home and leaves the hash of
 * each page, so that the next opening needn't read what nobody asks for (ADR 0008).
 *
 * The order of stores. The table and the seal are written while its magic is 0, then fenced; then
 * the magic, and another fence. The next commit clears the magic behind a fence before its first
 * store. So there is a magic only as long as home and table are what the seal says. */
#include <string.h>

#include "alloc/image_pmem.h"
#include "base/crc.h"
#include "base/hash.h"

uint32_t image_pm_seal_crc(const struct pm_seal *seal)
{
    const size_t from = offsetof(struct pm_seal, sequence);
    return crc32c(0, (const uint8_t *)seal + from, offsetof(struct pm_seal, crc) - from);
}

static uint64_t origin_of(const struct env *env, const struct pm_seal *seal)
{
    struct pm_seal s = *seal;
    s.magic = 0;
    s.origin = 0;
    s.crc = 0;
    return env->host == 0 ? 0 : hash64(env->host, &s, sizeof s);
}

bool image_pm_seal_read(const struct image_pm *pm, struct pm_seal *out, bool *damaged)
{
    memcpy(out, pm->map + pm->seal_at, sizeof *out);
    *damaged = out->magic != 0 &&
               (out->magic != PM_SEAL_MAGIC || out->crc != image_pm_seal_crc(out) || out->half > 1);
    return out->magic != 0 && !*damaged;
}

bool image_pm_seal_is_own(const struct image *image, const struct pm_seal *seal)
{
    return seal->origin != 0 && seal->origin == origin_of(image->env, seal);
}

void image_pm_unseal(struct image_pm *pm)
{
    static const uint64_t none;
    image_pm_copy(pm->map + pm->seal_at, &none, sizeof none);
    image_pm_drain();
    pm->sealed = false;
}

/* Those that differ from what an earlier seal left: a line has eight, of present pages or 0. */
static void hashes_write(struct image_pm *pm, const struct arena *a)
{
    const uint64_t line = LINE_BYTES / sizeof(uint64_t);
    for (uint64_t p = 0; (p = pageset_next(&a->present, p, a->pages)) < a->pages;) {
        p = p / line * line;
        uint8_t *to = pm->map + pm->hashes_at + p * sizeof(uint64_t);
        uint64_t bytes = (a->pages - p < line ? a->pages - p : line) * sizeof(uint64_t);
        if (memcmp(to, &a->hash[p], bytes) != 0) {
            image_pm_copy(to, &a->hash[p], bytes);
        }
        p += line;
    }
}

void image_seal(struct image *image, struct heap *heap)
{
    struct image_pm *pm = image->pm;
    struct arena *a = &heap->arena;
    if (pm == NULL || pm->sealed || image->dead || a->damage != 0 || arena_dirty_pages(a) != 0 ||
        !a->tracked || pm->bytes_max != header(heap)->bytes_max) {
        return;
    }
    image_pm_home(pm, a, image->super.sequence);
    struct pm_seal seal = {.sequence = image->super.sequence,
                           .index = image->super.index,
                           .term = image->super.term,
                           .digest = arena_digest(a),
                           .pages = a->present_count,
                           .half = (uint32_t)pm->half};
    hashes_write(pm, a);
    seal.origin = origin_of(image->env, &seal);
    seal.crc = image_pm_seal_crc(&seal);
    image_pm_copy(pm->map + pm->seal_at, &seal, sizeof seal);
    image_pm_drain();
    seal.magic = PM_SEAL_MAGIC;
    image_pm_copy(pm->map + pm->seal_at, &seal.magic, sizeof seal.magic);
    image_pm_drain();
    pm->sealed = true;
}
