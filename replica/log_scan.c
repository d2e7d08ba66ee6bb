/* Reading the newest part of a shard's log again, for those who ask what happened. */
#include "replica/internal.h"

#define READ_ENTRIES   8u
#define READ_BYTES     (256u << 10)
#define SCAN_BYTES_MAX (8u << 20) /* read twice at worst, and the reactor waits for the disk */

bool entry_commands_open(struct entry_commands *c, const struct wal_entry *entry)
{
    *c = (struct entry_commands){.at = cursor_of(entry->data)};
    if (entry->type != ENTRY_COMMAND || cursor_u16(&c->at) != ENTRY_FORMAT) {
        return false;
    }
    (void)cursor_u16(&c->at);
    c->left = cursor_u32(&c->at);
    c->stamp = cursor_u64(&c->at);
    return !c->at.failed;
}

bool entry_commands_next(struct entry_commands *c, uint16_t *kind, struct slice *body)
{
    if (c->left == 0) {
        return false;
    }
    c->left--;
    *kind = cursor_u16(&c->at);
    (void)cursor_u16(&c->at);
    *body = cursor_bytes(&c->at, cursor_u32(&c->at));
    return !c->at.failed;
}

/* Entries [index, end), and their bytes; cb NULL: only these. */
static int read_entries(struct shard *shard, uint64_t index, uint64_t end, size_t *bytes,
                        log_scan_cb cb, void *arg)
{
    struct wal_entry entries[READ_ENTRIES];
    while (index < end) {
        size_t count = 0;
        size_t want = end - index < READ_ENTRIES ? (size_t)(end - index) : READ_ENTRIES;
        int rv = wal_log_read(shard->log, index, entries, want, READ_BYTES, &count);
        if (rv != 0 || count == 0) {
            return rv;
        }
        for (size_t i = 0; i < count; i++) {
            if (cb != NULL) {
                cb(arg, index + i, &entries[i]);
            }
            *bytes += entries[i].data.len;
            if (entries[i].block != NULL) {
                wal_block_unref(entries[i].block);
            }
        }
        index += count;
    }
    return 0;
}

int log_scan(struct shard *shard, uint64_t *from, log_scan_cb cb, void *arg)
{
    uint64_t end = shard->applied + 1;
    uint64_t oldest = wal_log_prev_index(shard->log) + 1;
    if (end > oldest + SHARD_TRACE_ENTRIES_MAX) {
        oldest = end - SHARD_TRACE_ENTRIES_MAX;
    }
    /* What is asked for is seldom the oldest: so much of the end as may be read. */
    uint64_t first = end;
    size_t bytes = 0;
    while (first > oldest) {
        uint64_t before = first - oldest > READ_ENTRIES ? first - READ_ENTRIES : oldest;
        int rv = read_entries(shard, before, first, &bytes, NULL, NULL);
        if (rv != 0) {
            return rv;
        }
        if (bytes > SCAN_BYTES_MAX) {
            break;
        }
        first = before;
    }
    *from = first;
    return read_entries(shard, first, end, &bytes, cb, arg);
}
