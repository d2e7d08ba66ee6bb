/* One set of workloads for every allocator that ./dev bench alloc compares. Each system is a
 * program of its own: this driver and a table of functions. A program runs one workload and prints
 * one JSON line.
 *
 * - alloc_free: a window of live objects; each step frees a random one, allocates it anew, fills it
 * - update: overwrites a whole random live object in place
 * - replace: failure-atomic: allocate, fill, publish in a table, free the old one
 * - transaction: the same with the table in the heap, too, and all steps of a commit or none
 * - utilisation: fills, then a million steps of mixed sizes with half of it live: live / footprint
 * - fill: a fixed arena to the first failure; frees a random half, fills again, 8 times
 * - reopen: a million objects; closes; opens and allocates one
 *
 * Time is wall clock and CPU of the process; a step of alloc_free, replace and transaction is one
 * allocation and one free. What lives before the first step is committed in large parts, whatever
 * is measured. */
#ifndef CAIRN_BENCH_ALLOC_DRIVER_H
#define CAIRN_BENCH_ALLOC_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct alloc_system {
    const char *name;
    /* commit: how many steps become durable together (0: never, a volatile heap). capacity: bytes
     * of the arena. Ends the process on failure. */
    void (*open)(const char *dir, uint64_t capacity, unsigned commit, bool create);
    void (*close)(void);
    /* What has been done becomes durable; from here on so many steps do together (0: never). NULL:
     * always a volatile heap. */
    void (*commit_every)(unsigned steps);
    /* 0: no space. The object is filled with `fill`. */
    uint64_t (*alloc)(const void *fill, size_t bytes);
    void (*free)(uint64_t object);
    void (*update)(uint64_t object, const void *fill, size_t bytes);
    /* table[i] = a new object, its old one is freed, all or nothing. NULL: not offered. */
    void (*replace)(uint64_t *table, unsigned i, const void *fill, size_t bytes);
    /* transaction's step: replace, and where the heap has table[i] it points to the new object;
     * each of what follows until the commit once. NULL: not offered. */
    void (*publish)(uint64_t *table, unsigned i, const void *fill, size_t bytes);
    /* alloc_free's step in one call that may be under way until the commit: table[i] is freed, if
     * it isn't 0, and gets a new object; not before the commit is it exchanged again, in any
     * system. NULL: free and alloc do. */
    void (*exchange)(uint64_t *table, unsigned i, const void *fill, size_t bytes);
    /* One step is complete. */
    void (*step)(void);
    /* Bytes of media (or memory) that hold what is live now; 0: not offered. */
    uint64_t (*footprint)(void);
    /* Moves objects together until nothing moves any more. NULL: not offered. */
    void (*compact)(void);
};

int alloc_driver_main(int argc, char **argv, const struct alloc_system *system);

#endif
