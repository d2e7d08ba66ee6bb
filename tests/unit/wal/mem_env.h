/* An environment in memory for tests of the log: files that know what was synced, works and timers
 * that run when the test says so, and a power cut. Everything on one thread, the same seed gives
 * the same run. */
#ifndef CAIRN_TESTS_UNIT_WAL_MEM_ENV_H
#define CAIRN_TESTS_UNIT_WAL_MEM_ENV_H

#include "base/env.h"

#define MEM_ENV_FILES_MAX  256
#define MEM_ENV_TIMERS_MAX 64

struct mem_write {
    uint64_t offset;
    size_t len;
    uint8_t *data;
};

struct mem_inode {
    uint8_t *data;
    uint64_t bytes, capacity;
    uint8_t *durable; /* as of the last sync */
    uint64_t durable_bytes;
    struct mem_write *writes; /* since then */
    size_t write_count, write_capacity;
    int refs; /* names (of both tables) and handles */
    bool locked;
};

struct mem_name {
    char path[128];
    struct mem_inode *inode;
};

struct mem_env {
    struct env env; /* first */
    uint64_t now_ns;
    uint64_t random_state;
    struct mem_name names[MEM_ENV_FILES_MAX]; /* inode NULL: free */
    struct mem_name durable_names[MEM_ENV_FILES_MAX];
    struct env_timer *timers[MEM_ENV_TIMERS_MAX];
    struct list tasks;
    struct list works[ENV_QUEUE_COUNT];
    size_t works_queued;
    uint64_t disk_bytes_max; /* of all files; 0: no limit */
    long ops;                /* file operations so far */
    long dies_at;            /* from this operation on everything fails with IO; < 0: never */
    int handles;             /* open now */
    bool dir_made;
};

enum mem_cut { MEM_CUT_NOTHING, MEM_CUT_ALL, MEM_CUT_RANDOM };

void mem_env_init(struct mem_env *m, uint64_t seed);
void mem_env_close(struct mem_env *m);
uint64_t mem_env_random(struct mem_env *m, uint64_t below);

/* Runs the deferred tasks; then at most one queued work of the given queue (its tasks too). False:
 * it had none. */
void mem_env_tasks(struct mem_env *m);
bool mem_env_work_one(struct mem_env *m, unsigned queue);
/* Tasks, works and timers that are due, until none is left. */
void mem_env_settle(struct mem_env *m);
/* Moves the clock and settles at each timer on the way. */
void mem_env_advance_ms(struct mem_env *m, uint64_t ms);
/* Works that never ran are forgotten; their owner must have been abandoned and is freed by calling
 * them back. */
void mem_env_drop_works(struct mem_env *m);

/* The power goes: of what wasn't synced nothing, all, or a random, torn part remains. No file may
 * be open. */
void mem_env_power_cut(struct mem_env *m, enum mem_cut cut);

/* The files themselves. */
struct mem_inode *mem_env_file(struct mem_env *m, const char *path);
void mem_env_copy(struct mem_env *to,
                  const struct mem_env *from); /* files and names; not for a power cut */

#endif
