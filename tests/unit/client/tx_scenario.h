/* Transactions that use everything a transaction can do: for sweeps that make each allocation fail
 * in turn. 0, or what the first call that failed said; nothing is left behind in any case. */
#ifndef CAIRN_TESTS_UNIT_CLIENT_TX_SCENARIO_H
#define CAIRN_TESTS_UNIT_CLIENT_TX_SCENARIO_H

#include "cairn/tx.h"

struct tx_scenario {
    cairn_heap *heap;
    cairn_ptr a, b;    /* objects of 64 bytes */
    cairn_heap *other; /* NULL: transactions here have one heap */
};

/* arg: struct tx_scenario */
int tx_scenario_commit(void *arg); /* reads, compares, allocates, frees, writes, roots */
int tx_scenario_read(void *arg);   /* only reads, of more than one request; roots are listed */
int tx_scenario_snapshot(void *arg);
int tx_scenario_async(void *arg);    /* waited for, or freed before */
int tx_scenario_abort(void *arg);    /* of one that has allocated */
int tx_scenario_save(void *arg);     /* and loaded again, and committed */
int tx_scenario_pointers(void *arg); /* what is a transaction in one call */

#endif
