/* Asking ahead for memory, where it is known what many shards do next.
 *
 * A message or a log write brings the news of many shards at once, and what they do with it is
 * a command or two each, in memory that other shards have driven out of the caches since the last
 * time. One shard after the other would wait for each line of it. So all take one step of the way
 * to what they will read before any takes the next (alloc/ahead.h). */
#include <string.h>

#include "alloc/ahead.h"
#include "replica/internal.h"

#define COMMANDS_MAX 2u /* of an entry; with more, the entry is its own company */

struct ahead {
    const struct shard *shard;
    uint64_t index;
    uint32_t count;
    struct {
        uint64_t session, ptr;
    } commands[COMMANDS_MAX];
};

static void read_entry(struct ahead *a)
{
    struct cursor c = cursor_of(wal_entry_ahead(a->shard->log, a->index, 2));
    (void)cursor_bytes(&c, ENTRY_HEADER_BYTES);
    while (a->count < COMMANDS_MAX && !c.failed && cursor_left(&c) > 0) {
        uint16_t kind = cursor_u16(&c);
        (void)cursor_u16(&c);
        struct slice body = cursor_bytes(&c, cursor_u32(&c));
        struct command_prefix prefix;
        if (c.failed || message_command_prefix(body, &prefix) != 0) {
            return;
        }
        a->commands[a->count].session = prefix.session;
        a->commands[a->count].ptr = fsm_object_of(kind, body);
        a->count++;
    }
}

static void commands_step(const struct ahead *a, unsigned step)
{
    for (uint32_t i = 0; i < a->count; i++) {
        if (a->commands[i].session != 0) {
            session_ahead(a->shard->heap, a->commands[i].session, step);
        }
        if (a->commands[i].ptr != 0) {
            heap_object_ahead(a->shard->heap, a->commands[i].ptr, step);
        }
    }
}

void ahead_apply(struct shard *const *shards, uint32_t count)
{
    struct ahead all[AHEAD_SHARDS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t index = shard__apply_next(shards[i]);
        if (index != 0) {
            all[n++] = (struct ahead){.shard = shards[i], .index = index};
            (void)wal_entry_ahead(shards[i]->log, index, 0);
            heap_ahead(shards[i]->heap, 0);
        }
    }
    if (n < 2) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        (void)wal_entry_ahead(all[i].shard->log, all[i].index, 1);
        heap_ahead(all[i].shard->heap, 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        read_entry(&all[i]);
        commands_step(&all[i], 2);
    }
    for (unsigned step = 3; step < HEAP_AHEAD_STEPS; step++) {
        for (uint32_t i = 0; i < n; i++) {
            commands_step(&all[i], step);
        }
    }
}

void ahead_receive(struct replica *r, struct slice items)
{
    const struct shard *shards[AHEAD_SHARDS_MAX];
    uint32_t n = 0;
    struct cursor c = cursor_of(items);
    while (n < AHEAD_SHARDS_MAX && cursor_left(&c) > 0) {
        (void)cursor_u16(&c);
        struct slice body = cursor_bytes(&c, cursor_u32(&c));
        if (c.failed || body.len < 8) {
            break;
        }
        /* The shard's number is the first field of all items. */
        shards[n] = replica_shard(r, load_u64(body.data));
        n += shards[n] != NULL && !shards[n]->failed;
    }
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        lines_prefetch(shards[i], offsetof(struct shard, install) + sizeof(enum install_step));
    }
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        consensus_ahead(shards[i]->consensus);
        wal_log_ahead(shards[i]->log);
    }
}
