/* A line's part is, over its eight words, the sum of (low half of the word with its key) * (high
 * half of that) + (the word beside it), each with the multiplier of its place in the line. It is
 * the inner loop of XXH3 over a page, whose accumulators are then added instead of mixed. Keys
 * differ in every word of a page, so that what changes places is seen; words beside each other in
 * pairs change theirs, so that half a word that equals its key hides nothing. */
#include "alloc/page_hash.h"

#include <stddef.h>
#include <string.h>

#include "alloc/heap_layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LINE_WORDS 8u
#define PAGE_WORDS (PAGE_BYTES / 8)

/* splitmix64: the i-th number from 0 on. */
#define MIX_0(i) (((i) + 1) * UINT64_C(0x9e3779b97f4a7c15))
#define MIX_1(x) (((x) ^ ((x) >> 30)) * UINT64_C(0xbf58476d1ce4e5b9))
#define MIX_2(x) (((x) ^ ((x) >> 27)) * UINT64_C(0x94d049bb133111eb))
#define MIX_3(x) ((x) ^ ((x) >> 31))
#define KEY(i)   MIX_3(MIX_2(MIX_1(MIX_0((uint64_t)(i)))))
#define KEYS_8(i)                                                                                  \
    KEY(i), KEY((i) + 1), KEY((i) + 2), KEY((i) + 3), KEY((i) + 4), KEY((i) + 5), KEY((i) + 6),    \
        KEY((i) + 7)
#define KEYS_64(i)                                                                                 \
    KEYS_8(i), KEYS_8((i) + 8), KEYS_8((i) + 16), KEYS_8((i) + 24), KEYS_8((i) + 32),              \
        KEYS_8((i) + 40), KEYS_8((i) + 48), KEYS_8((i) + 56)

static const uint64_t keys[PAGE_WORDS] __attribute__((aligned(64))) = {
    KEYS_64(0),   KEYS_64(64),  KEYS_64(128), KEYS_64(192),
    KEYS_64(256), KEYS_64(320), KEYS_64(384), KEYS_64(448),
};
static const uint64_t places[LINE_WORDS] = {
    KEY(512) | 1, KEY(513) | 1, KEY(514) | 1, KEY(515) | 1,
    KEY(516) | 1, KEY(517) | 1, KEY(518) | 1, KEY(519) | 1,
};

static uint64_t word_at(const uint8_t *bytes, size_t i)
{
    uint64_t word = 0;
    memcpy(&word, bytes + i * sizeof word, sizeof word);
    return word;
}

static uint64_t line_hash(const uint8_t *line, const uint64_t *key)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < LINE_WORDS; i++) {
        uint64_t keyed = word_at(line, i) ^ key[i];
        sum += ((keyed & UINT32_MAX) * (keyed >> 32) + word_at(line, i ^ 1)) * places[i];
    }
    return sum;
}

static uint64_t hash_lines(const uint8_t *page, uint64_t lines)
{
    uint64_t sum = 0;
    for (; lines != 0; lines &= lines - 1) {
        size_t line = (size_t)__builtin_ctzll(lines);
        sum += line_hash(page + line * LINE_WORDS * 8, keys + line * LINE_WORDS);
    }
    return sum;
}

#if defined(__x86_64__)
/* Four words of each line into four sums. */
#define ADD_WORDS(sums, at, key)                                                                   \
    do {                                                                                           \
        __m256i word_ = _mm256_loadu_si256((const __m256i *)(const void *)(at));                   \
        __m256i keyed_ = _mm256_xor_si256(word_, *(const __m256i *)(const void *)(key));           \
        (sums) =                                                                                   \
            _mm256_add_epi64((sums), _mm256_mul_epu32(keyed_, _mm256_srli_epi64(keyed_, 32)));     \
        (sums) = _mm256_add_epi64((sums), _mm256_shuffle_epi32(word_, 0x4e));                      \
    } while (0)

__attribute__((target("avx2"))) static uint64_t hash_vectors(const uint8_t *page)
{
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();
    uint64_t sums[LINE_WORDS];
    uint64_t sum = 0;
    for (size_t word = 0; word < PAGE_WORDS; word += LINE_WORDS) {
        ADD_WORDS(low, page + word * 8, keys + word);
        ADD_WORDS(high, page + word * 8 + 32, keys + word + 4);
    }
    _mm256_storeu_si256((__m256i *)(void *)sums, low);
    _mm256_storeu_si256((__m256i *)(void *)(sums + 4), high);
    for (size_t i = 0; i < LINE_WORDS; i++) {
        sum += sums[i] * places[i];
    }
    return sum;
}
#endif

uint64_t page_hash(const void *page)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return hash_vectors(page);
    }
#endif
    return hash_lines(page, UINT64_MAX);
}

uint64_t page_lines_hash(const void *page, uint64_t lines)
{
    return lines == UINT64_MAX ? page_hash(page) : hash_lines(page, lines);
}

uint64_t page_share(uint64_t page, uint64_t hash)
{
    return MIX_3(MIX_2(MIX_1(hash ^ MIX_0(page))));
}
