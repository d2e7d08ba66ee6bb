#include "base/hlc.h"

#include <stdio.h>
#include <time.h>

void hlc_format(uint64_t hlc, char text[HLC_TEXT_BYTES])
{
    char day[24] = "";
    struct tm tm = {0};
    uint64_t ms = hlc_to_ms(hlc);
    time_t seconds = (time_t)(ms / 1000);
    (void)gmtime_r(&seconds, &tm);
    (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text, HLC_TEXT_BYTES, "%s.%03uZ", day, (unsigned)(ms % 1000));
}

void hlc_say_oldest(uint64_t oldest, uint64_t retention_ms, char *text, size_t size)
{
    char kept[64] = "its heap keeps no history";
    char when[HLC_TEXT_BYTES];
    hlc_format(oldest, when);
    if (retention_ms != 0) {
        (void)snprintf(kept, sizeof kept, "its heap keeps versions for %llu s",
                       (unsigned long long)((retention_ms + 999) / 1000));
    }
    (void)snprintf(text, size,
                   "nothing is kept of that version any more: the oldest that can be read of this "
                   "shard is %llu (%s); %s",
                   (unsigned long long)oldest, when, kept);
}
