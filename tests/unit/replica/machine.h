/* The state machine of a shard, without consensus: one heap, and entries made by hand. What fails
 * in here fails the test. */
#ifndef CAIRN_TESTS_UNIT_REPLICA_MACHINE_H
#define CAIRN_TESTS_UNIT_REPLICA_MACHINE_H

#include "alloc/command.h"
#include "replica/internal.h"

#define UID       16u
#define OWNER     7u
#define START_MS  1000000u
#define BATCH_MAX 64u
#define KEEP_MS   60000u

struct machine {
    uint64_t uid;
    struct heap *heap;
    uint64_t index, term, now_ms;
    uint64_t session, seq, acked;
    struct fsm_effects effects;
    struct buf entry; /* being built */
    uint32_t count;
    struct command_result results[BATCH_MAX];
};

void machine_open(struct machine *m, uint64_t uid); /* with a session */
void machine_close(struct machine *m);              /* all is sound still */
void machine_apply(struct machine *m, enum consensus_entry_type type, struct slice data);
/* An entry of several commands. */
void machine_begin(struct machine *m);
void machine_add(struct machine *m, uint16_t kind, struct slice body);
void machine_commit(struct machine *m);
/* An entry of one; frees the body. */
struct command_result machine_one(struct machine *m, uint16_t kind, struct buf *body);
/* The next number of the machine's session, which acknowledges it; frees the body. */
struct command_result machine_command(struct machine *m, uint16_t kind, struct buf body);
struct command_result machine_open_session(struct machine *m, uint64_t nonce, uint32_t window,
                                           uint32_t lease_ms);
struct command_result machine_expire(struct machine *m, uint64_t session, uint64_t renewed);
struct command_result machine_bury(struct machine *m, uint64_t session, uint64_t renewed,
                                   uint32_t tombstones_max, uint32_t results_max);

/* Encodes a command of the machine's session with the next number. */
#define COMMAND(m, NAME, name, ...)                                                                \
    machine_command((m), KIND_##NAME, encode_##name((m), (struct msg_##name){__VA_ARGS__}))

#define MACHINE_COMMANDS(X)                                                                        \
    X(alloc)                                                                                       \
    X(free)                                                                                        \
    X(write)                                                                                       \
    X(compare_and_write)                                                                           \
    X(add_u64)                                                                                     \
    X(write_if_version)                                                                            \
    X(root_set)                                                                                    \
    X(root_compare_and_set)                                                                        \
    X(root_delete)                                                                                 \
    X(realloc)                                                                                     \
    X(type_register)                                                                               \
    X(lease)                                                                                       \
    X(alloc_leased)                                                                                \
    X(defrag)                                                                                      \
    X(trim)                                                                                        \
    X(set_retention)                                                                               \
    X(tx_commit_one)                                                                               \
    X(heap_create)                                                                                 \
    X(heap_drop)
#define MACHINE_ENCODER(name) struct buf encode_##name(struct machine *m, struct msg_##name msg);
MACHINE_COMMANDS(MACHINE_ENCODER)

#endif
