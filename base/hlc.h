/* Hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): 48 bits of milliseconds
 * since 1970, then 16 bits of logical counter, in one uint64 that only grows. A version, an entry
 * stamp and a point in time are all this number. 0 is "no version". */
#ifndef CAIRN_BASE_HLC_H
#define CAIRN_BASE_HLC_H

#include <stddef.h>
#include <stdint.h>

#define HLC_LOGICAL_BITS 16

static inline uint64_t hlc_from_ms(uint64_t wall_ms)
{
    return wall_ms << HLC_LOGICAL_BITS;
}
static inline uint64_t hlc_to_ms(uint64_t hlc)
{
    return hlc >> HLC_LOGICAL_BITS;
}
/* The next stamp after `last` that isn't behind the wall clock. The logical part overflows into the
 * milliseconds, which is what keeps it monotonic. */
static inline uint64_t hlc_next(uint64_t last, uint64_t wall_ms)
{
    uint64_t now = hlc_from_ms(wall_ms);
    return now > last ? now : last + 1;
}

#define HLC_TEXT_BYTES 32
/* "2026-11-27T08:00:00.123Z" */
void hlc_format(uint64_t hlc, char text[HLC_TEXT_BYTES]);
/* For whoever asks for a version that is older than the history: what there is instead. */
void hlc_say_oldest(uint64_t oldest, uint64_t retention_ms, char *text, size_t size);

#endif
