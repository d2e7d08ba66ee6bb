/* A commit of the pmem mode: the lines that were written, gathered in memory, where their CRC is
 * computed, and sent to the journal. */
#include <string.h>

#include "alloc/image_pmem.h"

/* A line in one register, where the processor has such, and in two or four elsewhere. */
typedef uint64_t line_bytes __attribute__((vector_size(LINE_BYTES), aligned(8), may_alias));

static inline void write_line(struct pm_writer *w, uint64_t place, const void *bytes)
{
    *(line_bytes *)(void *)w->line = *(const line_bytes *)bytes;
    w->line += LINE_BYTES;
    *w->place++ = place;
}

/* All of a page. */
static inline void write_whole(struct pm_writer *w, uint64_t place, const uint8_t *bytes)
{
    memcpy(w->line, bytes, PAGE_BYTES);
    w->line += PAGE_BYTES;
    *w->place++ = place | (uint64_t)(PAGE_BYTES / LINE_BYTES - 1) << PM_PLACE_MORE_SHIFT;
}

static inline void write_lines(struct pm_writer *w, uint64_t place, const uint8_t *bytes,
                               uint64_t mask)
{
    if (__builtin_expect(mask == PAGE_LINES_ALL, 0)) {
        write_whole(w, place, bytes);
        return;
    }
    for (; mask != 0; mask &= mask - 1) {
        uint64_t line = (uint64_t)__builtin_ctzll(mask);
        write_line(w, place + line, bytes + line * LINE_BYTES);
    }
}

/* The places behind the lines, with zeros up to the end of a line. */
static inline void write_places(struct pm_writer *w, const struct image_pm *pm)
{
    const line_bytes zeros = {0};
    w->lines = (uint64_t)(w->line - pm->commit) / LINE_BYTES - 1;
    *(line_bytes *)(void *)w->place = zeros;
    for (const uint64_t *from = pm->places; from < w->place; from += LINE_BYTES / sizeof *from) {
        *(line_bytes *)(void *)w->line = *(const line_bytes *)(const void *)from;
        w->line += LINE_BYTES;
    }
}

static void send(struct pm_writer *w)
{
    uint64_t bytes = (uint64_t)(w->line - w->sent);
    image_pm_copy(w->to, w->sent, bytes);
    w->to += bytes;
    w->sent = w->line;
}

static inline void end(struct pm_writer *w, const struct image_pm *pm)
{
    write_places(w, pm);
    send(w);
}

void pm_write_end(struct pm_writer *w, const struct image_pm *pm)
{
    end(w, pm);
}

struct pm_writer pm_writer_of(const struct image_pm *pm)
{
    uint8_t *body = pm->commit + sizeof(struct pm_commit);
    return (struct pm_writer){.line = body, .sent = body, .place = pm->places};
}

bool pm_written_fits(const struct image_pm *pm, const struct pm_writer *w)
{
    uint64_t lines = (uint64_t)(w->line - w->sent) / LINE_BYTES;
    return pm_commit_bytes(lines, (uint64_t)(w->place - pm->places)) <= PM_HALF_BYTES - pm->at;
}

/* ---- any commit: all is gathered first ---- */

/* Lines of a page that aren't zero. */
static uint64_t lines_of_data(const uint8_t *bytes)
{
    uint64_t mask = 0;
    for (uint32_t line = 0; line < 64; line++) {
        uint64_t any = 0;
        for (uint32_t i = 0; i < LINE_BYTES; i += 8) {
            any |= load_u64(bytes + line * LINE_BYTES + i);
        }
        mask |= (uint64_t)(any != 0) << line;
    }
    return mask;
}

static void write_presence(struct pm_writer *w, const struct image_pm *pm, const struct arena *a,
                           uint64_t word)
{
    uint64_t first = word & ~(uint64_t)7;
    uint64_t place = (pm->presence_at + first * 8) / LINE_BYTES;
    if (place == w->presence) {
        return;
    }
    uint64_t line[8] = {0};
    uint64_t words = (a->pages + 63) / 64;
    for (uint64_t i = 0; i < 8 && first + i < words; i++) {
        line[i] = a->present.words[first + i];
    }
    write_line(w, place, line);
    w->presence = place;
}

static void write_page(struct pm_writer *w, const struct image_pm *pm, const struct arena *a,
                       uint64_t page)
{
    uint64_t word = page / 64;
    if (pm->present[word] != a->present.words[word]) {
        write_presence(w, pm, a, word);
    }
    if (!pageset_has(&a->present, page)) {
        return;
    }
    uint64_t mask = arena_lines_written(a, page);
    uint64_t place = (pm->pages_at + page * PAGE_BYTES) / LINE_BYTES;
    const uint8_t *bytes = a->base + (page << PAGE_SHIFT);
    if (mask == PAGE_LINES_ALL) {
        uint64_t data = lines_of_data(bytes);
        if (__builtin_popcountll(data) < 32) {
            *w->place++ = PM_PLACE_ZERO | place;
            mask = data;
        }
    }
    write_lines(w, place, bytes, mask);
}

bool pm_write_all(struct pm_writer *w, const struct image_pm *pm, const struct arena *a)
{
    for (uint64_t i = 0; i < a->written_count; i++) {
        write_page(w, pm, a, a->written[i]);
        if ((uint64_t)(w->line - pm->commit) +
                (uint64_t)(w->place - pm->places) * sizeof *w->place >
            PM_HALF_BYTES) {
            return false;
        }
    }
    return true;
}

/* ---- the usual commit: it goes to the file while it is gathered ---- */

#define PM_USUAL_PAGES_MAX ((PM_HALF_BYTES - 3 * LINE_BYTES) / PM_PAGE_BYTES_MAX)

bool pm_commit_is_usual(const struct arena *a)
{
    return !a->unusual && a->written_count <= PM_USUAL_PAGES_MAX;
}

bool pm_usual_fits(const struct image_pm *pm, const struct arena *a)
{
    uint64_t room = PM_HALF_BYTES - pm->at;
    if (room >= 3 * LINE_BYTES + a->written_count * PM_PAGE_BYTES_MAX) {
        return true;
    }
    uint64_t lines = 0; /* each with a place, at most */
    for (uint64_t i = 0; i < a->written_count; i++) {
        lines += (uint64_t)__builtin_popcountll(a->lines[a->written[i]]);
    }
    return room >= pm_commit_bytes(lines, lines);
}

/* A few lines at a time: to store them takes longer than to gather them, and goes on meanwhile. */
#define SEND_BYTES 512

static inline __attribute__((always_inline)) void
usual_write(struct pm_writer *to, const struct image_pm *pm, const struct arena *a)
{
    uint64_t first = pm->pages_at / LINE_BYTES;
    struct pm_writer w = *to;
    for (uint64_t i = 0; i < a->written_count; i++) {
        uint64_t page = a->written[i];
        write_lines(&w, first + page * (PAGE_BYTES / LINE_BYTES), a->base + (page << PAGE_SHIFT),
                    a->lines[page]);
        if (w.line - w.sent >= SEND_BYTES) {
            send(&w);
        }
    }
    end(&w, pm);
    *to = w;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void
usual_write_wide(struct pm_writer *w, const struct image_pm *pm, const struct arena *a)
{
    usual_write(w, pm, a);
}
#endif

void pm_write_usual(struct pm_writer *w, const struct image_pm *pm, const struct arena *a)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") != 0) {
        usual_write_wide(w, pm, a);
        return;
    }
#endif
    usual_write(w, pm, a);
}
