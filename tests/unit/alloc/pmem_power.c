#include "pmem_power.h"

#include <stdlib.h>
#include <string.h>

#include "heap_model.h"

struct power power;

uint64_t power_dice(void)
{
    power.seed = power.seed * 6364136223846793005ull + 1442695040888963407ull;
    return power.seed >> 33;
}

void power_settle(bool fenced)
{
    while (power.count > 0) {
        power.count--;
        uint8_t *to = power.stores[power.count].to;
        for (size_t at = 0; at < power.stores[power.count].len; at += 8) {
            size_t left = power.stores[power.count].len - at;
            if (!fenced && power_dice() % 2 == 0) {
                memcpy(to + at, power.stores[power.count].bytes + at, left < 8 ? left : 8);
            }
        }
        free(power.stores[power.count].bytes);
    }
}

static void copy(void *to, const void *from, size_t len)
{
    if (power.lost) {
        return;
    }
    MUST(power.count < POWER_STORES_MAX);
    power.stores[power.count].to = to;
    power.stores[power.count].len = len;
    power.stores[power.count].bytes = malloc(len);
    MUST(power.stores[power.count].bytes != NULL);
    memcpy(power.stores[power.count].bytes, to, len);
    memcpy(to, from, len);
    power.count++;
}

static void lines(void *to, const void *from, uint64_t mask)
{
    for (; mask != 0; mask &= mask - 1) {
        size_t at = (size_t)__builtin_ctzll(mask) * 64;
        copy((uint8_t *)to + at, (const uint8_t *)from + at, 64);
    }
}

static void drain(void)
{
    if (power.lost) {
        return;
    }
    if (power.left-- == 0) {
        power_settle(false);
        power.lost = true;
        return;
    }
    power_settle(true);
}

const struct image_pm_ops power_recorder = {copy, lines, drain};
