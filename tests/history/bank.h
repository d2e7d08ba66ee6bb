/* The bank: transfers keep the total, so every audit that read all accounts must see it. */
#ifndef CAIRN_TESTS_HISTORY_BANK_H
#define CAIRN_TESTS_HISTORY_BANK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bank {
    uint32_t accounts;
    int64_t total;
    uint64_t audits; /* judged so far */
    uint64_t wrong;
    char first_wrong[160]; /* "" while there is none */
};

void bank_init(struct bank *b, uint32_t accounts, int64_t total);
/* A committed read-only transaction saw these balances, one per account. False: another total, or
 * one below zero (transfers never overdraw). what: names the audit in first_wrong, as a seed or a
 * time. */
bool bank_audit(struct bank *b, uint64_t what, const int64_t *balances, uint32_t count);
/* True: at least one audit, and none was wrong. A run without audits proves nothing. */
bool bank_holds(const struct bank *b);

#endif
