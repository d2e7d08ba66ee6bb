/* PEER_BATCH from an authenticated but broken node, given to a running replica: raw items, and Raft
 * messages and confirmations that are well-formed but say anything. Whatever it says, the replica
 * must not crash: it may drop, refuse, or fail the shard. The input is a list of items, so that one
 * input is a conversation. */
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "rpc/message.h"
#include "unit/replica/cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ITEMS_MAX 256

/* A cluster ends by killing its processes, and a dead one's writes in flight never give back what
 * they hold. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

struct batch {
    struct cluster_node *node;
    uint32_t from;
    struct buf items;
};

static void receive(void *arg)
{
    struct batch *b = arg;
    (void)replica_receive(b->node->replica, b->from, slice_of(b->items.data, b->items.len));
}

/* Mostly small numbers, sometimes any. */
static uint64_t number(struct cursor *in)
{
    uint8_t b = cursor_u8(in);
    return b < 0xf0 ? b % 16u : cursor_u64(in);
}

static void item_end(struct buf *items, uint16_t kind, size_t start)
{
    store_u16(items->data + start, kind);
    store_u32(items->data + start + 2, (uint32_t)(items->len - start - 6));
}

/* Entries as APPEND carries them. */
static uint32_t entries(struct cursor *in, struct buf *out)
{
    uint32_t count = cursor_u8(in) % 4u;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t head[13];
        struct slice bytes = cursor_bytes(in, cursor_u8(in) % 64u);
        store_u64(head, number(in));
        head[8] = cursor_u8(in) % 8u;
        store_u32(head + 9, (uint32_t)bytes.len);
        (void)buf_append(out, head, sizeof head);
        (void)buf_append(out, bytes.data, bytes.len);
    }
    return count;
}

static void raft_item(struct batch *b, struct cursor *in)
{
    struct buf payload = {0};
    struct msg_raft m = {
        .uid = 1,
        .from = replica_id_make(0, b->from),
        .to = b->node->self_id,
        .type = cursor_u8(in) % 8u,
        .term = number(in),
        .index = number(in),
        .log_term = number(in),
        .commit = number(in),
        .rejected = number(in),
        .config_index = number(in),
        .flags = (uint16_t)number(in),
        .features = (uint16_t)number(in),
        .capacity = (uint16_t)number(in),
        .version = cursor_u8(in) % 4u,
    };
    if (m.type == MSG_APPEND) {
        m.count = entries(in, &payload);
    } else if (m.type == MSG_SNAPSHOT) {
        for (int i = 0; i < 2; i++) {
            uint8_t head[4];
            struct slice bytes = cursor_bytes(in, cursor_u8(in) % 128u);
            store_u32(head, (uint32_t)bytes.len);
            (void)buf_append(&payload, head, sizeof head);
            (void)buf_append(&payload, bytes.data, bytes.len);
        }
    }
    m.payload = slice_of(payload.data, payload.len);
    size_t start = b->items.len;
    if (buf_extend(&b->items, 6) != NULL && message_encode_raft(&m, &b->items) == 0) {
        item_end(&b->items, KIND_RAFT, start);
    }
    buf_close(&payload);
}

static void confirm_item(struct batch *b, struct cursor *in, bool result)
{
    size_t start = b->items.len;
    uint64_t from = replica_id_make(0, b->from);
    bool ok = buf_extend(&b->items, 6) != NULL;
    if (result) {
        struct msg_confirm_result m = {.uid = 1, .from = from, .to = b->node->self_id, .yes = 1};
        m.term = number(in);
        m.seq = number(in);
        ok = ok && message_encode_confirm_result(&m, &b->items) == 0;
    } else {
        struct msg_confirm m = {.uid = 1, .from = from, .to = b->node->self_id};
        m.term = number(in);
        m.seq = number(in);
        m.wall_ms = number(in);
        ok = ok && message_encode_confirm(&m, &b->items) == 0;
    }
    assert(ok);
    item_end(&b->items, result ? KIND_CONFIRM_RESULT : KIND_CONFIRM, start);
}

static void raw_item(struct batch *b, struct cursor *in)
{
    struct slice bytes = cursor_bytes(in, cursor_u8(in));
    (void)buf_append(&b->items, bytes.data, bytes.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cluster c;
    struct cursor in = cursor_of(slice_of(data, size));
    struct batch b = {.from = 2};
    cluster_open(&c, 1, 1 << 20);
    log_set_level(LOG_OFF);
    b.node = &c.nodes[0];
    if ((cursor_u8(&in) & 1) != 0) {
        (void)cluster_leader(&c, 1); /* into a service that runs; else into its beginning */
    }
    for (int i = 0; i < ITEMS_MAX && cursor_left(&in) > 0; i++) {
        uint8_t what = cursor_u8(&in);
        switch (what % 8u) {
        case 0:
            raw_item(&b, &in);
            break;
        case 1:
            confirm_item(&b, &in, false);
            break;
        case 2:
            confirm_item(&b, &in, true);
            break;
        default:
            raft_item(&b, &in);
        }
        if ((what & 8) != 0) { /* else the next item goes into the same batch */
            sim_proc_call(b.node->env, receive, &b);
            buf_clear(&b.items);
            cluster_run_ms(&c, what >> 4);
        }
    }
    sim_proc_call(b.node->env, receive, &b);
    cluster_run_ms(&c, 20);
    buf_close(&b.items);
    cluster_close(&c);
    return 0;
}
