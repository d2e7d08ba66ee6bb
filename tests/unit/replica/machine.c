#include "unit/replica/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"

void machine_apply(struct machine *m, enum consensus_entry_type type, struct slice data)
{
    struct wal_entry entry = {.term = m->term, .type = (uint8_t)type, .data = data};
    memset(m->results, 0x55, sizeof m->results);
    assert_int_equal(fsm_apply(m->heap, ++m->index, &entry, m->results, BATCH_MAX, &m->effects), 0);
}

void machine_begin(struct machine *m)
{
    buf_clear(&m->entry);
    m->count = 0;
    uint8_t *at = buf_extend(&m->entry, ENTRY_HEADER_BYTES);
    assert_non_null(at);
    memset(at, 0, ENTRY_HEADER_BYTES);
}

void machine_add(struct machine *m, uint16_t kind, struct slice body)
{
    uint8_t *at = buf_extend(&m->entry, ENTRY_COMMAND_HEADER_BYTES + body.len);
    assert_non_null(at);
    store_u16(at, kind);
    store_u16(at + 2, 0);
    store_u32(at + 4, (uint32_t)body.len);
    if (body.len > 0) {
        memcpy(at + ENTRY_COMMAND_HEADER_BYTES, body.data, body.len);
    }
    m->count++;
}

void machine_commit(struct machine *m)
{
    store_u16(m->entry.data, ENTRY_FORMAT);
    store_u32(m->entry.data + 4, m->count);
    store_u64(m->entry.data + 8, hlc_from_ms(m->now_ms));
    machine_apply(m, ENTRY_COMMAND, slice_of(m->entry.data, m->entry.len));
}

struct command_result machine_one(struct machine *m, uint16_t kind, struct buf *body)
{
    machine_begin(m);
    machine_add(m, kind, slice_of(body->data, body->len));
    buf_close(body);
    machine_commit(m);
    return m->results[0];
}

#define ENCODER(name)                                                                              \
    struct buf encode_##name(struct machine *m, struct msg_##name msg)                             \
    {                                                                                              \
        struct buf body = {0};                                                                     \
        msg.uid = m->uid;                                                                          \
        msg.session = m->session;                                                                  \
        msg.seq = m->seq + 1;                                                                      \
        msg.acked = m->acked;                                                                      \
        assert_int_equal(message_encode_##name(&msg, &body), 0);                                   \
        return body;                                                                               \
    }
MACHINE_COMMANDS(ENCODER)

struct command_result machine_command(struct machine *m, uint16_t kind, struct buf body)
{
    struct command_result result = machine_one(m, kind, &body);
    m->seq++;
    m->acked = m->seq;
    return result;
}

struct command_result machine_open_session(struct machine *m, uint64_t nonce, uint32_t window,
                                           uint32_t lease_ms)
{
    struct msg_session_open msg = {
        .uid = m->uid, .nonce = nonce, .owner = OWNER, .window = window, .lease_ms = lease_ms};
    struct buf body = {0};
    assert_int_equal(message_encode_session_open(&msg, &body), 0);
    return machine_one(m, KIND_SESSION_OPEN, &body);
}

struct command_result machine_expire(struct machine *m, uint64_t session, uint64_t renewed)
{
    struct msg_session_expire msg = {.uid = m->uid, .expired = session, .renewed = renewed};
    struct buf body = {0};
    assert_int_equal(message_encode_session_expire(&msg, &body), 0);
    return machine_one(m, KIND_SESSION_EXPIRE, &body);
}

struct command_result machine_bury(struct machine *m, uint64_t session, uint64_t renewed,
                                   uint32_t tombstones_max, uint32_t results_max)
{
    struct msg_session_bury msg = {
        .uid = m->uid,
        .expired = session,
        .renewed = renewed,
        .tombstones_max = tombstones_max,
        .results_max = results_max,
        .keep_ms = KEEP_MS,
    };
    struct buf body = {0};
    assert_int_equal(message_encode_session_bury(&msg, &body), 0);
    return machine_one(m, KIND_SESSION_BURY, &body);
}

void machine_open(struct machine *m, uint64_t uid)
{
    memset(m, 0, sizeof *m);
    struct heap_opts opts = {
        .uid = uid, .heap_id = uid == SHARD_META ? 0 : 1, .bytes_max = 8u << 20};
    assert_int_equal(heap_create(&opts, &m->heap), 0);
    m->uid = uid;
    m->term = 1;
    m->now_ms = START_MS;
    struct consensus_config config = {.count = 3};
    for (uint32_t i = 0; i < 3; i++) {
        config.servers[i] =
            (struct consensus_server){.id = replica_id_make(0, i + 1), .role = CONSENSUS_VOTER};
    }
    struct buf data = {0};
    assert_int_equal(consensus_config_encode(&config, &data), 0);
    machine_apply(m, ENTRY_CHANGE, slice_of(data.data, data.len));
    buf_close(&data);
    struct command_result opened = machine_open_session(m, 1, 16, 10000);
    assert_int_equal(opened.code, 0);
    m->session = opened.value;
}

void machine_close(struct machine *m)
{
    struct err_text e;
    assert_int_equal(heap_check(m->heap, &e), 0);
    assert_int_equal(fsm_check(m->heap), 0);
    heap_free(m->heap);
    buf_close(&m->entry);
}
