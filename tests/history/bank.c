#include "history/bank.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"

void bank_init(struct bank *b, uint32_t accounts, int64_t total)
{
    assert(accounts > 0);
    *b = (struct bank){.accounts = accounts, .total = total};
}

bool bank_audit(struct bank *b, uint64_t what, const int64_t *balances, uint32_t count)
{
    assert(count == b->accounts);
    int64_t sum = 0;
    bool overdrawn = false, overflow = false;
    for (uint32_t i = 0; i < count; i++) { /* bytes from the system under test: any number */
        overdrawn |= balances[i] < 0;
        overflow |= __builtin_add_overflow(sum, balances[i], &sum);
    }
    b->audits++;
    if (!overdrawn && !overflow && sum == b->total) {
        return true;
    }
    if (b->wrong++ == 0) {
        (void)snprintf(b->first_wrong, sizeof b->first_wrong,
                       "audit %" PRIu64 ": total %" PRId64 " instead of %" PRId64 "%s%s", what, sum,
                       b->total, overdrawn ? ", an account below zero" : "",
                       overflow ? ", overflow" : "");
    }
    return false;
}

bool bank_holds(const struct bank *b)
{
    return b->audits > 0 && b->wrong == 0;
}
