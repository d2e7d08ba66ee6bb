/* Asking ahead for memory, where it is known what many shards do next.
 *
 * A message or a log write brings the news of many shards at once, and what they do with it is
 * a command or two each, in memory that other shards have driven out of the caches since the last
 * time. One shard after the other would wait for each line of it. So all take one step of the way
 * to what they will read before any takes the next (alloc/ahead.h). */
#include <string.h>

#include "alloc/ahead.h"
#include "replica/internal.h"

#define ENTRIES_MAX  3u /* of a shard; who is spared gets several at a time */
#define COMMANDS_MAX 4u /* of a shard; with more, it is its own company */

struct ahead {
    const struct shard *shard;
    uint64_t index;
    uint32_t entries, count;
    struct {
        uint64_t session, ptr;
    } commands[COMMANDS_MAX];
};

static void read_entry(struct ahead *a, uint64_t index)
{
    struct cursor c = cursor_of(wal_entry_ahead(a->shard->log, index, 2));
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

static void entries_step(const struct ahead *a, unsigned step)
{
    for (uint32_t i = 0; i < a->entries; i++) {
        (void)wal_entry_ahead(a->shard->log, a->index + i, step);
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
        struct ahead *a = &all[n];
        uint64_t entries = shard__apply_due(shards[i]);
        a->shard = shards[i];
        a->index = shards[i]->applied + 1;
        a->entries = (uint32_t)(entries < ENTRIES_MAX ? entries : ENTRIES_MAX);
        a->count = 0;
        if (a->entries > 0) {
            entries_step(a, 0);
            heap_ahead(a->shard->heap, 0);
            n++;
        }
    }
    if (n < 2) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        entries_step(&all[i], 1);
        heap_ahead(all[i].shard->heap, 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < all[i].entries; k++) {
            read_entry(&all[i], all[i].index + k);
        }
        commands_step(&all[i], 2);
    }
    for (unsigned step = 3; step < HEAP_AHEAD_STEPS; step++) {
        for (uint32_t i = 0; i < n; i++) {
            commands_step(&all[i], step);
        }
    }
}

static void claims_step(const struct shard *s, unsigned step)
{
    const struct batch *b = s->open;
    for (uint32_t i = 0; i < b->count && i < COMMANDS_MAX; i++) {
        if (b->claims[i].session != 0) {
            session_ahead(s->heap, b->claims[i].session, step);
        }
    }
}

void ahead_submit(const struct list *shards)
{
    const struct shard *all[AHEAD_SHARDS_MAX];
    uint32_t n = 0;
    list_for_each (it, shards) {
        const struct shard *s = list_entry(it, const struct shard, turn_link);
        if (n == AHEAD_SHARDS_MAX) {
            break;
        }
        if (batch_is_due(s)) {
            all[n++] = s;
            consensus_ahead(s->consensus);
            wal_log_ahead(s->log);
            heap_ahead(s->heap, 0);
        }
    }
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        heap_ahead(all[i]->heap, 1);
        wal_tail_ahead(all[i]->log);
        claims_step(all[i], 2);
    }
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        claims_step(all[i], 3);
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
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        wal_tail_ahead(shards[i]->log);
    }
}
