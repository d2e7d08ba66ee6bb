/* Looking at an image without touching it: another process may have it open, and may be writing the
 * next checkpoint meanwhile. */
#include <inttypes.h>

#include "alloc/image_internal.h"
#include "alloc/survey.h"

#define TRIES 5

static int load(struct image *image, struct arena *arena, uint64_t *bytes_max, struct err_text *e)
{
    if (image->mode == IMAGE_PMEM) {
        return image_pm_load_arena(image, arena, bytes_max, e);
    }
    int rv = image_load_arena(image, true, arena, e);
    if (rv == 0) {
        rv = image_load_pages(arena, e);
    }
    *bytes_max = image->super.bytes_max;
    return rv;
}

/* A checkpoint that ended while this one was read may have taken its files away: then the
 * superblock names others now, and those are read. */
static int load_newest(struct env *env, const char *dir, uint64_t uid, enum image_mode mode,
                       struct image *image, struct arena *arena, uint64_t *bytes_max,
                       struct err_text *e)
{
    uint64_t sequence = 0;
    int rv = 0;
    for (int i = 0; i < TRIES; i++) {
        *image =
            (struct image){.env = env, .dir = (char *)(uintptr_t)dir, .uid = uid, .mode = mode};
        rv = load(image, arena, bytes_max, e);
        bool again = rv == ERR_CORRUPT && mode == IMAGE_DISK && image->super.sequence != sequence;
        if (!again) {
            break;
        }
        sequence = image->super.sequence;
    }
    if (rv == ERR_NOTFOUND) {
        rv = err_set(e, ERR_NOTFOUND, "%s: there is no image of a heap", dir);
    }
    return rv;
}

int image_read(struct env *env, const char *dir, uint64_t uid, enum image_mode mode,
               struct heap **heap, struct err_text *e)
{
    struct image image;
    struct arena arena;
    uint64_t bytes_max = 0;
    *heap = NULL;
    int rv = load_newest(env, dir, uid, mode, &image, &arena, &bytes_max, e);
    return rv != 0 ? rv : image_adopt(&image, &arena, bytes_max, false, heap, e);
}

int image_check(struct env *env, const char *dir, uint64_t uid, enum image_mode mode, uint64_t max,
                heap_finding_cb cb, void *arg, uint64_t *damage, struct err_text *e)
{
    struct image image;
    struct arena arena;
    uint64_t bytes_max = 0;
    *damage = 0;
    int rv = load_newest(env, dir, uid, mode, &image, &arena, &bytes_max, e);
    if (rv == 0) {
        rv = heap_check_arena(&arena, bytes_max, max, cb, arg, damage, e);
        arena_close(&arena);
    }
    return rv;
}
