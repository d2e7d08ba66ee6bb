/* Patches: of a page in which little has changed, a delta has the lines that did. The page is then
 * an older whole copy with patches on it, oldest first. */
#include <string.h>

#include "alloc/image_internal.h"
#include "base/hash.h"

static_assert(PATCH_LINE_BYTES == LINE_BYTES, "a line of a patch is a line of the arena");

/* What is left of the patches at `home` when `lines` are read from above them. */
static uint64_t prune(struct buf *patches, uint64_t home, uint64_t lines)
{
    struct image_patch *all = (struct image_patch *)(void *)patches->data;
    uint64_t top = home;
    for (uint64_t *link = &top; (*link & HOME_PATCHED) != 0;) {
        struct image_patch *patch = &all[(*link & ~HOME_PATCHED) >> HOME_PATCH_SHIFT];
        if ((patch->what.lines & ~lines) == 0) {
            *link = patch->below;
        } else {
            lines |= patch->what.lines;
            link = &patch->below;
        }
    }
    return top;
}

int image_patch_add(struct buf *patches, const struct pages_patch *what, uint64_t at,
                    uint64_t *home)
{
    struct image_patch patch = {
        .below = prune(patches, *home, what->lines), .at = at, .what = *what};
    uint64_t number = patches->len / sizeof patch;
    int rv = buf_append(patches, &patch, sizeof patch);
    *home = HOME_PATCHED | number << HOME_PATCH_SHIFT;
    return rv;
}

bool image_patch_apply(const struct pages_patch *what, const uint8_t *lines, uint8_t *page)
{
    if (hash64(what->lines, lines, image_patch_bytes(what->lines)) != what->hash) {
        return false;
    }
    for (uint64_t left = what->lines; left != 0; left &= left - 1, lines += LINE_BYTES) {
        memcpy(page + (size_t)__builtin_ctzll(left) * LINE_BYTES, lines, LINE_BYTES);
    }
    return true;
}

uint64_t image_patch_make(uint64_t lines, const uint8_t *page, struct pages_patch *what,
                          uint8_t *to)
{
    uint8_t *at = to;
    for (uint64_t left = lines; left != 0; left &= left - 1, at += LINE_BYTES) {
        memcpy(at, page + (size_t)__builtin_ctzll(left) * LINE_BYTES, LINE_BYTES);
    }
    *what = (struct pages_patch){.lines = lines};
    what->hash = hash64(lines, to, (size_t)(at - to));
    return (uint64_t)(at - to);
}
