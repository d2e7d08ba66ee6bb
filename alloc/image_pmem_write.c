/* A commit of the pmem mode: the lines that were written, gathered in memory, where their CRC is
 * computed, and sent to the journal. */
#include <string.h>

#include "alloc/image_pmem.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static inline void write_line(struct pm_writer *w, uint64_t place, const void *bytes)
{
    memcpy(w->line, bytes, LINE_BYTES);
    w->line += LINE_BYTES;
    *w->place++ = place;
}

static inline uint64_t place_whole(uint64_t place)
{
    return place | (uint64_t)(PAGE_BYTES / LINE_BYTES - 1) << PM_PLACE_MORE_SHIFT;
}

/* All of a page. */
static inline void write_whole(struct pm_writer *w, uint64_t place, const uint8_t *bytes)
{
    memcpy(w->line, bytes, PAGE_BYTES);
    w->line += PAGE_BYTES;
    *w->place++ = place_whole(place);
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
    w->lines = (uint64_t)(w->line - pm->commit) / LINE_BYTES - 1;
    memset(w->place, 0, LINE_BYTES);
    for (const uint64_t *from = pm->places; from < w->place; from += LINE_BYTES / sizeof *from) {
        memcpy(w->line, from, LINE_BYTES);
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

/* First which lines the pages have, then the lines: two loops of a few instructions, neither of
 * which turns back where it can't be foreseen, as one would that asks page by page how many lines
 * there are. */
static uint64_t *usual_places(const struct image_pm *pm, const struct arena *a)
{
    uint64_t first = pm->pages_at / LINE_BYTES;
    uint64_t *place = pm->places;
    for (uint64_t i = 0; i < a->written_count; i++) {
        uint64_t page = a->written[i];
        uint64_t mask = a->lines[page];
        uint64_t begin = first + page * (PAGE_BYTES / LINE_BYTES);
        if (mask == PAGE_LINES_ALL) {
            *place++ = place_whole(begin);
            continue;
        }
        for (; mask != 0; mask &= mask - 1) {
            *place++ = begin + (uint64_t)__builtin_ctzll(mask);
        }
    }
    return place;
}

/* A few lines at a time: to store them takes longer than to gather them, and goes on meanwhile. */
#define SEND_BYTES 512

/* One piece of a machine that has registers so wide. */
typedef uint64_t line_bytes __attribute__((vector_size(LINE_BYTES), aligned(8), may_alias));

static inline __attribute__((always_inline)) void
usual_lines(struct pm_writer *to, const struct image_pm *pm, const struct arena *a, bool wide)
{
    struct pm_writer w = *to;
    const uint8_t *base = a->base;
    const uint64_t first = pm->pages_at / LINE_BYTES;
    const uint64_t *stop = w.place;
    for (const uint64_t *from = pm->places; from < stop; from++) {
        uint64_t place = *from;
        const uint8_t *bytes = base + ((place & PM_PLACE_LINE_MASK) - first) * LINE_BYTES;
        if (__builtin_expect(place >> PM_PLACE_MORE_SHIFT != 0, 0)) {
            memcpy(w.line, bytes, PAGE_BYTES);
            w.line += PAGE_BYTES;
        } else {
            if (wide) {
                *(line_bytes *)(void *)w.line = *(const line_bytes *)(const void *)bytes;
            } else {
                memcpy(w.line, bytes, LINE_BYTES);
            }
            w.line += LINE_BYTES;
        }
        if (w.line - w.sent >= SEND_BYTES) {
            send(&w);
        }
    }
    end(&w, pm);
    *to = w;
}

#if defined(__x86_64__)
/* The numbers of a page's lines at once. Places behind the last one are written over, or zeros. */
__attribute__((target("avx512f,avx512bw,avx512vbmi2"))) static uint64_t *
usual_places_wide(const struct image_pm *pm, const struct arena *a)
{
    static const uint8_t numbers[LINE_BYTES] = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    const __m512i all = _mm512_loadu_si512(numbers);
    uint64_t first = pm->pages_at / LINE_BYTES;
    uint64_t *place = pm->places;
    for (uint64_t i = 0; i < a->written_count; i++) {
        uint64_t page = a->written[i];
        uint64_t mask = a->lines[page];
        uint64_t begin = first + page * (PAGE_BYTES / LINE_BYTES);
        uint64_t count = (uint64_t)_mm_popcnt_u64(mask);
        if (__builtin_expect(mask == PAGE_LINES_ALL, 0)) {
            *place++ = place_whole(begin);
            continue;
        }
        __m512i lines = _mm512_maskz_compress_epi8(mask, all);
        __m512i from = _mm512_set1_epi64((long long)begin);
        __m512i eight = _mm512_cvtepu8_epi64(_mm512_castsi512_si128(lines));
        _mm512_storeu_si512(place, _mm512_add_epi64(from, eight));
        if (__builtin_expect(count > 8, 0)) {
            uint8_t rest[LINE_BYTES];
            _mm512_storeu_si512(rest, lines);
            for (uint64_t n = 8; n < count; n++) {
                place[n] = begin + rest[n];
            }
        }
        place += count;
    }
    return place;
}

__attribute__((target("avx512f"))) static void
usual_lines_wide(struct pm_writer *w, const struct image_pm *pm, const struct arena *a)
{
    usual_lines(w, pm, a, true);
}
#endif

void pm_write_usual(struct pm_writer *w, const struct image_pm *pm, const struct arena *a)
{
#if defined(__x86_64__)
    if (image_pm_is_wide()) {
        w->place =
            __builtin_cpu_supports("avx512vbmi2") ? usual_places_wide(pm, a) : usual_places(pm, a);
        usual_lines_wide(w, pm, a);
        return;
    }
#endif
    w->place = usual_places(pm, a);
    usual_lines(w, pm, a, false);
}
