/* Clients that die in the middle of their commits: transactions of which nobody is left who asks
 * again. They transfer between the bank's accounts, and come back under a session of their own. */
#ifndef CAIRN_TESTS_SIM_MORTALS_H
#define CAIRN_TESTS_SIM_MORTALS_H

#define MORTALS 2u

struct cluster;

/* While faults go on; when they end, the last ones die, too. */
void mortals_start(struct cluster *c);
void mortals_free(struct cluster *c);

#endif
