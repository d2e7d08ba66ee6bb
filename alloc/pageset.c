/* Sets of pages: most words are zero in a large one, and the sums say which aren't. */
#include <string.h>

#include "alloc/arena.h"

uint64_t pageset_words(uint64_t pages)
{
    return (pages + 63) / 64;
}

static uint64_t sums_of(uint64_t pages)
{
    return (pageset_words(pages) + 63) / 64;
}

size_t pageset_bytes(uint64_t pages)
{
    return (size_t)(pageset_words(pages) + sums_of(pages)) * sizeof(uint64_t);
}

void pageset_place(struct pageset *s, void *memory, uint64_t pages)
{
    s->words = memory;
    s->sums = s->words + pageset_words(pages);
}

uint64_t pageset_next(const struct pageset *s, uint64_t from, uint64_t pages)
{
    if (from >= pages) {
        return pages;
    }
    uint64_t word = from >> 6;
    uint64_t bits = s->words[word] & (~(uint64_t)0 << (from & 63));
    while (bits == 0) {
        word++;
        if (word >= pageset_words(pages)) {
            return pages;
        }
        uint64_t sum = s->sums[word >> 6] & (~(uint64_t)0 << (word & 63));
        if (sum == 0) {
            word |= 63; /* the loop goes on with the next sum */
            continue;
        }
        word = (word & ~(uint64_t)63) + (uint64_t)__builtin_ctzll(sum);
        bits = s->words[word];
    }
    uint64_t page = (word << 6) + (uint64_t)__builtin_ctzll(bits);
    return page < pages ? page : pages;
}

/* Calls for every word that may have a bit. */
#define FOR_EACH_WORD(word, s, pages)                                                              \
    for (uint64_t sum_ = 0; sum_ < sums_of(pages); sum_++)                                         \
        for (uint64_t bits_ = (s)->sums[sum_], word = 0;                                           \
             bits_ != 0 && (word = (sum_ << 6) + (uint64_t)__builtin_ctzll(bits_), true);          \
             bits_ &= bits_ - 1)

void pageset_copy(struct pageset *to, const struct pageset *from, uint64_t pages)
{
    FOR_EACH_WORD(word, from, pages)
    {
        to->words[word] = from->words[word];
    }
    memcpy(to->sums, from->sums, sums_of(pages) * sizeof *to->sums);
}

void pageset_clear(struct pageset *s, uint64_t pages)
{
    FOR_EACH_WORD(word, s, pages)
    {
        s->words[word] = 0;
    }
    memset(s->sums, 0, sums_of(pages) * sizeof *s->sums);
}
