/* Stores to persistent memory that a loss of power takes back: every one since the last drain, in
 * part. Installed with image_pm_set_ops(&power_recorder). */
#ifndef CAIRN_TESTS_UNIT_ALLOC_PMEM_POWER_H
#define CAIRN_TESTS_UNIT_ALLOC_PMEM_POWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/image_internal.h"

#define POWER_STORES_MAX 65536

struct power {
    bool lost; /* the power is gone: nothing arrives any more */
    long left; /* drains until then */
    uint64_t seed;
    struct {
        uint8_t *to;
        uint8_t *bytes; /* before */
        size_t len;
    } stores[POWER_STORES_MAX];
    size_t count;
};
extern struct power power;
extern const struct image_pm_ops power_recorder;

uint64_t power_dice(void);
/* Stores are visible at once, but what isn't fenced when the power goes may each have arrived or
 * not. */
void power_settle(bool fenced);

#endif
