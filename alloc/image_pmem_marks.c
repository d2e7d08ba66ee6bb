/* How far the journal of the pmem mode is known to go. It ends where a commit doesn't count, which
 * a crash leaves, but damage does as well. So two marks stand beside it: up to which commit all
 * were drained, and up to which one all are home. A journal that ends before the first, or begins
 * behind the second, has lost what was acknowledged.
 *
 * The first one is stored behind each commit's drain and covered by that of the next. When the
 * process is killed it is there anyway; a loss of power may take that of the newest commit, which,
 * if it is damaged too, can't be told from one that was never drained. */
#include <string.h>

#include "alloc/image_pmem.h"

void image_pm_mark_drained(struct image_pm *pm, uint64_t sequence)
{
    image_pm_copy(pm->map + pm->marks_at + offsetof(struct pm_marks, drained), &sequence,
                  sizeof sequence);
}

void image_pm_mark_home(struct image_pm *pm, uint64_t sequence)
{
    image_pm_copy(pm->map + pm->marks_at + offsetof(struct pm_marks, home), &sequence,
                  sizeof sequence);
}

bool image_pm_marks_read(const struct image_pm *pm, struct pm_marks *out)
{
    static const uint64_t none[PM_MARKS_RESERVED];
    memcpy(out, pm->map + pm->marks_at, sizeof *out);
    return out->drained != 0 && out->home != 0 && memcmp(out->reserved, none, sizeof none) == 0 &&
           memcmp(out->reserved2, none, sizeof none) == 0;
}
