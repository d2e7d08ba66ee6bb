/* Faults on purpose: an environment that forwards to another one and makes chosen file operations
 * fail, and the sweep over "the 1st, 2nd, 3rd ... operation fails" that tests of anything durable
 * run.
 *
 *   struct fault f;
 *   fault_init(&f, real_env);
 *   for (long n = 0;; n++) {
 *       fault_file(&f, n, 1, ERR_IO, FAULT_ALL);
 *       int rv = open_change_close(&f.env, ...);
 *       fault_off(&f);
 *       if (f.hits == 0) { assert_int_equal(rv, 0); break; }     // the whole scenario was gone
 * through
 *       ... rv is a clean error, the old state is readable ...
 *   }
 *
 * Operations may come from worker threads; which one is the nth is then up to the scheduler. */
#ifndef CAIRN_TESTS_SUPPORT_FAULT_H
#define CAIRN_TESTS_SUPPORT_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/env.h"

/* Which operations count and may fail (a set of bits). */
enum fault_op {
    FAULT_OPEN = 1 << 0,
    FAULT_READ = 1 << 1,
    FAULT_WRITE = 1 << 2,
    FAULT_SYNC = 1 << 3,
    FAULT_SIZE = 1 << 4,
    FAULT_TRUNCATE = 1 << 5,
    FAULT_LOCK = 1 << 6,
    FAULT_MAP = 1 << 7,
    FAULT_DIR = 1 << 8, /* create, sync, list */
    FAULT_RENAME = 1 << 9,
    FAULT_UNLINK = 1 << 10,
    FAULT_DISK_FREE = 1 << 11,
    FAULT_ALL = (1 << 12) - 1,
    FAULT_CHANGES =
        FAULT_WRITE | FAULT_SYNC | FAULT_TRUNCATE | FAULT_DIR | FAULT_RENAME | FAULT_UNLINK,
};

struct fault {
    struct env env; /* first: hand &f.env to the code under test */
    struct env_ops ops;
    struct env *inner;
    _Atomic long left; /* counted operations that still succeed */
    _Atomic long repeat;
    _Atomic int err;
    _Atomic int mask;
    _Atomic long count;  /* counted operations since fault_file() or fault_off() */
    _Atomic long hits;   /* of them made to fail */
    _Atomic int last_op; /* the enum fault_op of the last one made to fail */
    _Atomic bool torn;   /* a failing write first writes half of its bytes (rounded down to 512) */
};

/* inner: borrowed for the life of f. Timers, tasks, posts, works and the transport go straight to
 * it. Files opened through f.env may be used only through f.env. */
void fault_init(struct fault *f, struct env *inner);
/* The operation number `after` from now on (0 = the next) of those in `mask` fails with `err`, and
 * `repeat` - 1 counted ones after it (repeat < 0: all that follow). Resets count and hits. */
void fault_file(struct fault *f, long after, long repeat, int err, int mask);
void fault_off(
    struct fault *f); /* nothing fails; count goes on from 0 over all operations; hits stays */

/* Runs scenario(arg) with allocation 0, 1, 2 ... of this thread failing (once: repeat 1, for ever:
 * repeat -1) until it ran through without a failed allocation, and returns how many runs met one.
 * After each run that did, check(arg, rv) must find a clean error (rv) or success, and all in
 * order. Allocations past `max` abort: the scenario never ends. */
long fault_memory_sweep(int (*scenario)(void *arg), void (*check)(void *arg, int rv), void *arg,
                        long repeat, long max);

#endif
