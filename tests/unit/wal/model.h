/* What a log should hold: a model of all shards beside the real one, and a digest of each state it
 * went through, so that a test can say "recovery came to the state after step k". */
#ifndef CAIRN_TESTS_UNIT_WAL_MODEL_H
#define CAIRN_TESTS_UNIT_WAL_MODEL_H

#include "unit/wal/mem_env.h"
#include "wal/wal.h"

#define MODEL_LOGS_MAX    8
#define MODEL_ENTRIES_MAX 4096
#define MODEL_STEPS_MAX   8192

struct model_log {
    uint64_t uid; /* 0: none */
    uint64_t prev_index, prev_term, last_index;
    uint64_t terms[MODEL_ENTRIES_MAX]; /* by index */
    uint64_t term, voted_for, checkpoint_sequence, checkpoint_index;
};

struct model {
    struct model_log logs[MODEL_LOGS_MAX];
    uint64_t next_uid;
    uint64_t next_term;
    uint64_t digests[MODEL_STEPS_MAX];   /* after each step; [0]: of the empty log */
    uint64_t positions[MODEL_STEPS_MAX]; /* durable from this position on */
    size_t steps;
    size_t entry_bytes_max;
};

void model_init(struct model *m, size_t entry_bytes_max);
/* After a crash: go on from the state of step `step`, in a log whose position is `position`. */
void model_restart(struct model *m, struct wal *wal);

/* One operation on both. false: the log refused (it is dead or has no memory), nothing changed in
 * the model. */
bool model_create(struct model *m, struct wal *wal);
bool model_append(struct model *m, struct wal *wal, struct model_log *log, size_t count);
bool model_truncate(struct model *m, struct wal *wal, struct model_log *log, uint64_t index);
bool model_hard_state(struct model *m, struct wal *wal, struct model_log *log);
bool model_checkpoint(struct model *m, struct wal *wal, struct model_log *log, uint64_t keep_after);
bool model_restart_log(struct model *m, struct wal *wal, struct model_log *log);
bool model_drop(struct model *m, struct wal *wal, struct model_log *log);
/* A random one. */
bool model_step(struct model *m, struct wal *wal, struct mem_env *env);

/* Digest of what the log holds now, every entry read and compared with what it must be (abort if
 * not). */
uint64_t model_digest_of(struct wal *wal);
/* The last step whose digest is this one, or -1. */
long model_find(const struct model *m, uint64_t digest);
/* Steps that are durable at this position. */
size_t model_durable_steps(const struct model *m, uint64_t position);

#endif
