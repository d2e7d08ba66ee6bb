/* The check of the slot table: directory, pages, free lists, the queue of pages, empty frames. */
#include <inttypes.h>
#include <string.h>

#include "alloc/check.h"

#define DIRECTORY_PER_PAGE (PAGE_BYTES / 4)

/* Frame of a page, or -1; never one beyond those in use. */
static int64_t frame_of(const struct check *c, uint64_t page)
{
    if (page >= c->hd->slot_pages) {
        return -1;
    }
    uint32_t frame = 0;
    memcpy(&frame, check_look(c, c->h->regions.directory_at + page * 4), sizeof frame);
    return frame == 0 || frame > c->hd->slot_frames ? -1 : (int64_t)frame - 1;
}

static const uint64_t *frame_words(const struct check *c, uint64_t frame)
{
    return check_look(c, c->h->regions.frames_at + frame * PAGE_BYTES);
}

static const struct slot_page *page_at(const struct check *c, uint64_t page)
{
    int64_t frame = frame_of(c, page);
    return frame < 0 ? NULL : (const struct slot_page *)frame_words(c, (uint64_t)frame);
}

uint64_t check_slot_entry(const struct check *c, uint64_t slot)
{
    int64_t frame = frame_of(c, slot / SLOTS_PER_PAGE);
    if (frame < 0 || slot % SLOTS_PER_PAGE < SLOT_FIRST) {
        return 0;
    }
    return frame_words(c, (uint64_t)frame)[slot % SLOTS_PER_PAGE];
}

/* A promised slot stands in the record of its lease. With the leases' own counts (check_map.c) that
 * makes the two equal. */
static void check_leased(struct check *c, uint64_t slot, uint64_t entry)
{
    uint64_t lease = slot_word_place(entry);
    uint64_t key = __builtin_bswap64(lease);
    struct map_record r;
    struct lease_record head;
    bool listed = false;
    if (check_map_find(c, HEAP_MAP_LEASES, slice_of(&key, sizeof key), &r) &&
        r.value.len >= sizeof head) {
        uint64_t count = (r.value.len - sizeof head) / 8;
        for (uint64_t i = 0; i < count && !listed; i++) {
            listed = load_u64(r.value.data + sizeof head + i * 8) == slot;
        }
    }
    if (!listed) {
        check_damage(c, "lease-slot",
                     "slot %s is leased, but lease %" PRIu64 " doesn't have it; it is lost",
                     check_pointer(c, slot_word_generation(entry), slot).text, lease);
    }
    c->leased++;
}

static bool entry_is_sound(uint64_t entry)
{
    uint32_t generation = slot_word_generation(entry);
    uint64_t place = slot_word_place(entry);
    switch (slot_word_state(entry)) {
    case SLOT_FREE:
        return generation != 0 && place < SLOTS_PER_PAGE;
    case SLOT_LIVE:
    case SLOT_DEAD:
    case SLOT_LEASED:
    case SLOT_PREPARED:
    case SLOT_SPARE:
        return generation != 0 && place != 0;
    case SLOT_RETIRED:
        return generation == SLOT_GENERATION_MAX && place == 0;
    case SLOT_STATES:
    default:
        return false;
    }
}

static void check_free_list(struct check *c, uint64_t page, const struct slot_page *p,
                            const uint32_t states[SLOT_STATES])
{
    const uint64_t *words = (const uint64_t *)(const void *)p;
    uint32_t listed = 0;
    for (uint64_t i = p->head; i != 0; i = slot_word_place(words[i])) {
        if (i < SLOT_FIRST || i >= p->fresh || slot_word_state(words[i]) != SLOT_FREE ||
            ++listed > states[SLOT_FREE]) {
            check_damage(c, "slot-list",
                         "slot page %" PRIu64 ": its list of free slots leads to %" PRIu64
                         "; an allocation would take a slot in use",
                         page, i);
            return;
        }
    }
    if (listed != states[SLOT_FREE] || p->retired != states[SLOT_RETIRED] ||
        p->free_count != listed + SLOTS_PER_PAGE - p->fresh) {
        check_damage(
            c, "slot-list",
            "slot page %" PRIu64 ": %u free slots, %u listed, %u counted; %u retired, %u counted",
            page, states[SLOT_FREE], listed, p->free_count, states[SLOT_RETIRED], p->retired);
    }
}

/* The headers of so many slots' objects are on their way while the ones before are looked at: in an
 * aged heap the next one may lie anywhere. */
#define AHEAD 16u

static void look_ahead(const struct check *c, uint64_t entry)
{
    uint64_t place = slot_word_place(entry);
    if (place != 0) {
        /* Of what isn't a place nothing is read: a prefetch can't fail. */
        __builtin_prefetch(
            (const void *)((uintptr_t)c->h->arena.base + (uintptr_t)block_address(c->h, place)));
    }
}

static void check_page(struct check *c, uint64_t page, uint64_t frame, const struct slot_page *p)
{
    const uint64_t *words = (const uint64_t *)(const void *)p;
    if (p->page != page || p->fresh < SLOT_FIRST || p->fresh > SLOTS_PER_PAGE ||
        (p->next & ~SLOT_PAGE_QUEUED) > c->hd->slot_pages) {
        check_damage(c, "slot-page",
                     "slot page %" PRIu64 " (page %" PRIu64
                     "): wrong header; up to 510 objects are lost",
                     page, (c->h->regions.frames_at >> PAGE_SHIFT) + frame);
        return;
    }
    uint32_t states[SLOT_STATES] = {0};
    for (uint32_t i = SLOT_FIRST; i < p->fresh && !c->stop; i++) {
        uint64_t slot = page * SLOTS_PER_PAGE + i;
        if (i + AHEAD < p->fresh) {
            look_ahead(c, words[i + AHEAD]);
        }
        if (!entry_is_sound(words[i])) {
            check_damage(c, "slot-entry", "slot %s: its entry %016" PRIx64 " makes no sense",
                         check_pointer(c, slot_word_generation(words[i]), slot).text, words[i]);
            continue;
        }
        enum slot_state state = slot_word_state(words[i]);
        states[state]++;
        if (state == SLOT_LIVE || state == SLOT_DEAD || state == SLOT_PREPARED ||
            state == SLOT_SPARE) {
            check_object(c, slot, words[i]);
        } else if (state == SLOT_LEASED) {
            check_leased(c, slot, words[i]);
        }
    }
    if (!check_is_zero(&words[p->fresh], (SLOTS_PER_PAGE - p->fresh) * 8u)) {
        check_damage(c, "slot-entry", "slot page %" PRIu64 ": slots never used aren't zero", page);
    }
    if (!c->stop) {
        check_free_list(c, page, p, states);
    }
}

/* Empty frames: their list ends, so it comes to none twice; and none of them is a page, whose first
 * word is larger than any link (fresh is at least 2). */
static void check_empty_frames(struct check *c, uint64_t in_use)
{
    const struct heap_header *hd = c->hd;
    uint64_t count = 0;
    for (uint64_t i = hd->slot_frame_free; i != 0;) {
        const uint64_t *words = i > hd->slot_frames ? NULL : frame_words(c, i - 1);
        if (words == NULL || ++count > hd->slot_frame_free_count || words[0] > hd->slot_frames ||
            !check_is_zero(words + 1, PAGE_BYTES - 8)) {
            check_damage(c, "slot-frames",
                         "the list of empty frames leads to %" PRIu64
                         "; a new slot page would overwrite one in use",
                         i);
            return;
        }
        i = words[0];
    }
    if (count != hd->slot_frame_free_count || in_use + count != hd->slot_frames) {
        check_damage(c, "slot-frames",
                     "%u frames: %" PRIu64 " hold slot pages, %" PRIu64 " are listed as empty "
                     "(counted as %u)",
                     hd->slot_frames, in_use, count, hd->slot_frame_free_count);
    }
}

static void check_queue(struct check *c, uint64_t queued)
{
    const struct heap_header *hd = c->hd;
    uint64_t count = 0;
    uint32_t last = 0;
    for (uint32_t i = hd->slot_queue_head; i != 0;) {
        const struct slot_page *p = page_at(c, i - 1);
        if (p == NULL || ++count > hd->slot_queue_count || i == hd->slot_current ||
            (p->next & SLOT_PAGE_QUEUED) == 0 || p->free_count == 0) {
            check_damage(c, "slot-queue",
                         "slot page %u shouldn't be in the queue of pages with free slots", i - 1);
            return;
        }
        last = i;
        i = p->next & (SLOT_PAGE_QUEUED - 1);
    }
    if (count != hd->slot_queue_count || queued != count || last != hd->slot_queue_tail) {
        check_damage(c, "slot-queue",
                     "%" PRIu64 " slot pages are marked as queued, %" PRIu64
                     " are in the queue (counted as %u)",
                     queued, count, hd->slot_queue_count);
    }
}

static void check_directory_rest(struct check *c)
{
    uint64_t end = c->h->regions.directory_at + (uint64_t)c->hd->slot_pages * 4;
    uint64_t rest = -end & (PAGE_BYTES - 1);
    if (c->hd->slot_pages % DIRECTORY_PER_PAGE != 0 &&
        !check_is_zero(check_look(c, end), (size_t)rest)) {
        check_damage(c, "slot-directory", "page %" PRIu64 ": entries behind the last slot page",
                     end >> PAGE_SHIFT);
    }
}

/* Each one listed has its block in a slab of the class; with as many listed as there are, and none
 * twice, all are. */
static void check_spares(struct check *c)
{
    uint64_t listed = 0;
    bool good = true;
    for (uint32_t class_number = 0; class_number < SPARE_CLASSES; class_number++) {
        const struct spares *k = (const struct spares *)check_look(c, SPARES_AT) + class_number;
        for (uint64_t i = 0; i < SPARES_MAX; i++) {
            uint64_t entry = check_slot_entry(c, k->slots[i]);
            bool used = i < k->count;
            good = good && (used ? slot_word_state(entry) == SLOT_SPARE &&
                                       place_class(slot_word_place(entry)) == class_number
                                 : k->slots[i] == 0);
            for (uint64_t other = 0; used && other < i; other++) {
                good = good && k->slots[i] != k->slots[other];
            }
        }
        good = good && k->count <= SPARES_MAX;
        listed += k->count;
    }
    const struct spares *rest = (const struct spares *)check_look(c, SPARES_AT) + SPARE_CLASSES;
    if (!good || !check_is_zero(rest, PAGE_BYTES - SPARE_CLASSES * sizeof *rest)) {
        check_damage(c, "slot-spares",
                     "page 1: what was freed and is kept for the next object isn't as it says; an "
                     "allocation would take a slot in use");
    }
    if (listed != 0 && history_is_kept(c->h)) {
        check_damage(c, "slot-spares",
                     "page 1: while history is kept nothing that was freed is kept for the next "
                     "object");
    }
    check_count(c, "spare slots", c->spares, listed);
}

void check_slots(struct check *c)
{
    const struct heap_header *hd = c->hd;
    uint64_t in_use = 0;
    uint64_t queued = 0;
    for (uint64_t page = 0; page < hd->slot_pages && !c->stop; page++) {
        uint32_t stored = 0;
        memcpy(&stored, check_look(c, c->h->regions.directory_at + page * 4), sizeof stored);
        int64_t frame = frame_of(c, page);
        if (frame < 0) {
            if (stored != 0) {
                check_damage(c, "slot-directory",
                             "slot page %" PRIu64 ": there is no frame %u; up to 510 objects are "
                             "lost",
                             page, stored - 1);
            }
            continue;
        }
        const struct slot_page *p = page_at(c, page);
        check_page(c, page, (uint64_t)frame, p);
        in_use++;
        queued += (p->next & SLOT_PAGE_QUEUED) != 0;
        if ((p->next & SLOT_PAGE_QUEUED) == 0 && p->next != 0) {
            check_damage(c, "slot-queue", "slot page %" PRIu64 ": linked, but not in the queue",
                         page);
        }
    }
    if (c->stop) {
        return;
    }
    check_spares(c);
    check_directory_rest(c);
    if (hd->slot_pages - in_use != hd->slot_retired) {
        check_damage(c, "slot-directory",
                     "%u slot pages, %" PRIu64 " in the table: %u should have left it",
                     hd->slot_pages, in_use, hd->slot_retired);
    }
    check_empty_frames(c, in_use);
    if (hd->slot_current != 0 && page_at(c, hd->slot_current - 1) == NULL) {
        check_damage(c, "slot-page", "slot page %u, which new slots come from, isn't there",
                     hd->slot_current - 1);
    }
    check_queue(c, queued);
}
