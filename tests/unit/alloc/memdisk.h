/* A disk in memory behind the environment's file functions, which records every change, so that a
 * test can ask: what would be there if the power had gone after the nth? Works run when
 * memdisk_run() is called. One directory level. A file that is mapped takes it for persistent
 * memory and may not grow meanwhile. */
#ifndef CAIRN_TESTS_UNIT_ALLOC_MEMDISK_H
#define CAIRN_TESTS_UNIT_ALLOC_MEMDISK_H

#include "base/env.h"

#define MEMDISK_FILES 512

enum memdisk_op_kind { MD_CREATE, MD_WRITE, MD_SYNC, MD_RENAME, MD_UNLINK, MD_DIRSYNC };

struct memdisk_op {
    enum memdisk_op_kind kind;
    int file; /* identity */
    uint64_t offset;
    size_t len;
    uint8_t *bytes;
    char name[64], to[64];
};

struct memdisk_file {
    uint8_t *data;
    size_t len, capacity;
};

struct memdisk {
    struct env env; /* first */
    struct env_ops ops;
    struct list works;
    uint64_t now;
    struct memdisk_file files[MEMDISK_FILES]; /* by identity */
    int file_count;
    struct {
        char name[64];
        int file; /* -1: free */
    } names[64];
    struct memdisk_op *log;
    size_t log_count, log_capacity;
    bool recording;
};

enum memdisk_loss { LOSS_DROP, LOSS_KEEP, LOSS_TORN };

void memdisk_open(struct memdisk *d);
void memdisk_close(struct memdisk *d);
/* Runs works until none is left; at most `max` of them. */
void memdisk_run(struct memdisk *d, long max);
/* `out` becomes the disk after a power loss behind the first `ops` operations of d's log. Unsynced
 * writes and names are dropped, kept, or (by seed) partly there. */
void memdisk_cut(const struct memdisk *d, size_t ops, enum memdisk_loss loss, uint64_t seed,
                 struct memdisk *out);
/* What a loss of power behind the first `ops` operations leaves open: pages of unsynced writes, in
 * the order in which they were written, and changes of names. */
struct memdisk_open_ends {
    size_t pages, names;
};
struct memdisk_open_ends memdisk_open_ends(const struct memdisk *d, size_t ops);
/* The disk after it: of the pages those whose bit is set in `kept` (bit i mod 64 for page i) are
 * there, of the names the first so many. */
void memdisk_cut_pages(const struct memdisk *d, size_t ops, uint64_t kept, size_t names,
                       struct memdisk *out);
/* Begins to record; what is there counts as written and synced. */
void memdisk_record(struct memdisk *d);
struct memdisk_file *memdisk_file(struct memdisk *d, const char *name); /* NULL: none */

#endif
