/* Pointers as text: "shard.generation.slot", the slot in ten hexadecimal digits. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/sdk.h"

#define SLOT_BITS       38
#define GENERATION_BITS 14
#define SHARD_BITS      12
#define SLOT_DIGITS     10

void cairn_ptr_format(cairn_ptr ptr, char *text, size_t size)
{
    uint64_t slot = ptr.word & ((UINT64_C(1) << SLOT_BITS) - 1);
    uint64_t generation = ptr.word >> SLOT_BITS & ((UINT64_C(1) << GENERATION_BITS) - 1);
    (void)snprintf(text, text == NULL ? 0 : size, "%" PRIu64 ".%" PRIu64 ".%010" PRIx64,
                   ptr.word >> (SLOT_BITS + GENERATION_BITS), generation, slot);
}

/* Decimal digits without a leading zero (but for 0 itself), then a full stop. */
static const char *parse_decimal(const char *at, uint64_t limit, uint64_t *out)
{
    uint64_t value = 0;
    const char *first = at;
    while (*at >= '0' && *at <= '9') {
        value = value * 10 + (uint64_t)(*at - '0');
        if (value >= limit || (at > first && *first == '0')) {
            return NULL;
        }
        at++;
    }
    *out = value;
    return at > first && *at == '.' ? at + 1 : NULL;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int cairn_ptr_parse(const char *text, cairn_ptr *out)
{
    if (out == NULL) {
        return sdk__missing("out");
    }
    *out = CAIRN_NULL;
    uint64_t shard = 0;
    uint64_t generation = 0;
    uint64_t slot = 0;
    const char *at = text == NULL ? NULL : parse_decimal(text, UINT64_C(1) << SHARD_BITS, &shard);
    at = at == NULL ? NULL : parse_decimal(at, UINT64_C(1) << GENERATION_BITS, &generation);
    bool good = at != NULL && strlen(at) == SLOT_DIGITS;
    for (int i = 0; good && i < SLOT_DIGITS; i++) {
        int digit = digit_of(at[i]);
        good = digit >= 0;
        slot = slot << 4 | (uint64_t)(digit & 15);
    }
    if (!good || slot >> SLOT_BITS != 0) {
        return sdk__fail(CAIRN_E_INVAL, "'%.40s' is not a pointer like 2.1.0000000041",
                         text == NULL ? "" : text);
    }
    out->word = shard << (SLOT_BITS + GENERATION_BITS) | generation << SLOT_BITS | slot;
    return 0;
}
