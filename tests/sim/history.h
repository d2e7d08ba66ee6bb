/* What clients did and saw, and whether one order of it all explains it (linearizability).
 *
 * An operation whose outcome is unknown (INDOUBT) may take effect at any time after its call, once,
 * or never. Checked object by object, which is enough (Herlihy & Wing 1990, locality). */
#ifndef CAIRN_TESTS_SIM_HISTORY_H
#define CAIRN_TESTS_SIM_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTORY_NEVER UINT64_MAX

enum history_kind {
    HISTORY_READ,  /* out: the value */
    HISTORY_WRITE, /* a: the value */
    HISTORY_CAS,   /* a -> b; out 1: done, 0: something else was there */
    HISTORY_ADD    /* adds 1; out: the value before */
};

struct history_op {
    enum history_kind kind;
    uint32_t object, client;
    uint64_t a, b, out;
    uint64_t call_ns, return_ns; /* return HISTORY_NEVER: unknown outcome */
    bool dropped;                /* known to have had no effect, or a read that failed */
};

struct history {
    struct history_op *ops;
    size_t count, capacity;
};

void history_close(struct history *h);
/* An operation begins; its place. */
size_t history_call(struct history *h, uint32_t client, uint32_t object, enum history_kind kind,
                    uint64_t a, uint64_t b, uint64_t now_ns);
void history_return(struct history *h, size_t op, uint64_t out, uint64_t now_ns);
void history_fail(struct history *h, size_t op); /* it had no effect */
/* Never returned: unknown. Nothing to call. */

enum history_verdict { HISTORY_OK, HISTORY_VIOLATION, HISTORY_GAVE_UP };
/* A register of one object with the given first value: reads, writes and compare-and-writes. Depth
 * first over what may come next, remembering every {set, value} that led nowhere (Wing & Gong 1993,
 * Lowe 2017). why: where it got stuck. */
enum history_verdict history_check_register(const struct history *h, uint32_t object,
                                            uint64_t first, char *why, size_t why_bytes);
/* A counter that starts at 0: adds of 1 and reads. */
enum history_verdict history_check_counter(const struct history *h, uint32_t object, char *why,
                                           size_t why_bytes);

#endif
