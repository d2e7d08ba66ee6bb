#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "alloc/command.h"
#include "base/hlc.h"
#include "replica/internal.h"
#include "unit/alloc/txn_part.h"

#define UID       16u
#define OWNER     7u
#define START_MS  1000000u
#define BATCH_MAX 64u
#define KEEP_MS   60000u

/* One heap, and entries made by hand. */
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

static void apply_raw(struct machine *m, enum consensus_entry_type type, struct slice data)
{
    struct wal_entry entry = {.term = m->term, .type = (uint8_t)type, .data = data};
    memset(m->results, 0x55, sizeof m->results);
    assert_int_equal(fsm_apply(m->heap, ++m->index, &entry, m->results, BATCH_MAX, &m->effects), 0);
}

static void begin(struct machine *m)
{
    buf_clear(&m->entry);
    m->count = 0;
    uint8_t *at = buf_extend(&m->entry, ENTRY_HEADER_BYTES);
    assert_non_null(at);
    memset(at, 0, ENTRY_HEADER_BYTES);
}

static void add(struct machine *m, uint16_t kind, struct slice body)
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

static void commit(struct machine *m)
{
    store_u16(m->entry.data, ENTRY_FORMAT);
    store_u32(m->entry.data + 4, m->count);
    store_u64(m->entry.data + 8, hlc_from_ms(m->now_ms));
    apply_raw(m, ENTRY_COMMAND, slice_of(m->entry.data, m->entry.len));
}

static struct command_result one(struct machine *m, uint16_t kind, struct buf *body)
{
    begin(m);
    add(m, kind, slice_of(body->data, body->len));
    buf_close(body);
    commit(m);
    return m->results[0];
}

/* Encodes a command of the machine's session with the next number. */
#define COMMAND(m, NAME, name, ...)                                                                \
    command_encoded((m), KIND_##NAME, encode_##name((m), (struct msg_##name){__VA_ARGS__}))

#define ENCODER(name)                                                                              \
    static struct buf encode_##name(struct machine *m, struct msg_##name msg)                      \
    {                                                                                              \
        struct buf body = {0};                                                                     \
        msg.uid = m->uid;                                                                          \
        msg.session = m->session;                                                                  \
        msg.seq = m->seq + 1;                                                                      \
        msg.acked = m->acked;                                                                      \
        assert_int_equal(message_encode_##name(&msg, &body), 0);                                   \
        return body;                                                                               \
    }
ENCODER(alloc)
ENCODER(free)
ENCODER(write)
ENCODER(compare_and_write)
ENCODER(add_u64)
ENCODER(write_if_version)
ENCODER(root_set)
ENCODER(root_compare_and_set)
ENCODER(root_delete)
ENCODER(realloc)
ENCODER(type_register)
ENCODER(lease)
ENCODER(alloc_leased)
ENCODER(defrag)
ENCODER(trim)
ENCODER(set_retention)
ENCODER(tx_commit_one)
ENCODER(heap_create)
ENCODER(heap_drop)

static struct command_result command_encoded(struct machine *m, uint16_t kind, struct buf body)
{
    struct command_result result = one(m, kind, &body);
    m->seq++;
    m->acked = m->seq;
    return result;
}

static struct command_result open_session(struct machine *m, uint64_t nonce, uint32_t window,
                                          uint32_t lease_ms)
{
    struct msg_session_open msg = {
        .uid = m->uid, .nonce = nonce, .owner = OWNER, .window = window, .lease_ms = lease_ms};
    struct buf body = {0};
    assert_int_equal(message_encode_session_open(&msg, &body), 0);
    return one(m, KIND_SESSION_OPEN, &body);
}

static struct command_result expire(struct machine *m, uint64_t session, uint64_t renewed)
{
    struct msg_session_expire msg = {.uid = m->uid, .expired = session, .renewed = renewed};
    struct buf body = {0};
    assert_int_equal(message_encode_session_expire(&msg, &body), 0);
    return one(m, KIND_SESSION_EXPIRE, &body);
}

static struct command_result bury(struct machine *m, uint64_t session, uint64_t renewed,
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
    return one(m, KIND_SESSION_BURY, &body);
}

static void machine_open(struct machine *m, uint64_t uid)
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
    apply_raw(m, ENTRY_CHANGE, slice_of(data.data, data.len));
    buf_close(&data);
    struct command_result opened = open_session(m, 1, 16, 10000);
    assert_int_equal(opened.code, 0);
    m->session = opened.value;
}

static void machine_close(struct machine *m)
{
    struct err_text e;
    assert_int_equal(heap_check(m->heap, &e), 0);
    assert_int_equal(fsm_check(m->heap), 0);
    heap_free(m->heap);
    buf_close(&m->entry);
}

static struct slice text(const char *s)
{
    return slice_of(s, strlen(s));
}

static void object_commands_do_what_they_say(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    struct command_result r = COMMAND(&m, ALLOC, alloc, .size = 16, .init = text("12345678"));
    assert_int_equal(r.code, 0);
    uint64_t ptr = r.value;
    assert_int_equal(
        COMMAND(&m, WRITE, write, .ptr = ptr, .offset = 8, .data = text("abcdefgh")).code, 0);
    assert_int_equal(
        COMMAND(&m, WRITE, write, .ptr = ptr, .offset = 9, .data = text("abcdefgh")).code,
        ERR_RANGE);
    r = COMMAND(&m, COMPARE_AND_WRITE, compare_and_write, .ptr = ptr, .offset = 8,
                .expected = text("abc"), .desired = text("ABC"));
    assert_int_equal(r.code, 0);
    uint64_t version = r.version;
    r = COMMAND(&m, COMPARE_AND_WRITE, compare_and_write, .ptr = ptr, .offset = 8,
                .expected = text("abc"), .desired = text("xyz"));
    assert_int_equal(r.code, ERR_CONFLICT);
    assert_int_equal(r.version, version);
    assert_int_equal(COMMAND(&m, COMPARE_AND_WRITE, compare_and_write, .ptr = ptr,
                             .expected = text("ab"), .desired = text("a"))
                         .code,
                     ERR_INVAL);
    r = COMMAND(&m, WRITE_IF_VERSION, write_if_version, .ptr = ptr, .version = version - 1,
                .data = text("z"));
    assert_int_equal(r.code, ERR_CONFLICT);
    assert_int_equal(r.version, version);
    r = COMMAND(&m, WRITE_IF_VERSION, write_if_version, .ptr = ptr, .version = version,
                .data = text("\1\0\0\0\0\0\0"));
    assert_int_equal(r.code, 0);
    assert_true(r.version > version);
    r = COMMAND(&m, WRITE, write, .ptr = ptr,
                .data = slice_of("\xff\xff\xff\xff\xff\xff\xff\xff", 8));
    assert_int_equal(r.code, 0);
    r = COMMAND(&m, ADD_U64, add_u64, .ptr = ptr, .delta = 2);
    assert_true(r.value == UINT64_MAX);
    r = COMMAND(&m, ADD_U64, add_u64, .ptr = ptr, .delta = 0);
    assert_int_equal(r.value, 1);
    assert_int_equal(COMMAND(&m, ADD_U64, add_u64, .ptr = ptr, .offset = 9).code, ERR_RANGE);
    assert_int_equal(COMMAND(&m, FREE, free, .ptr = ptr).code, 0);
    assert_int_equal(COMMAND(&m, FREE, free, .ptr = ptr).code, ERR_STALE);
    assert_int_equal(COMMAND(&m, WRITE, write, .ptr = ptr, .data = text("x")).code, ERR_STALE);
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 0).code, ERR_INVAL);
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = OBJECT_BYTES_MAX + 1ull).code, ERR_TOOBIG);
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = OBJECT_BYTES_MAX).code, ERR_NOSPACE);
    assert_int_equal(
        COMMAND(&m, HEAP_CREATE, heap_create, .shard_count = 1, .name = text("h")).code, ERR_INVAL);
    machine_close(&m);
}

static void root_commands_do_what_they_say(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    struct slice name = text("root");
    uint64_t one_ptr = ptr_make(3, 1, 5);
    uint64_t two_ptr = ptr_make(4, 1, 6);
    assert_int_equal(COMMAND(&m, ROOT_SET, root_set, .ptr = 0, .name = name).code, ERR_INVAL);
    assert_int_equal(COMMAND(&m, ROOT_SET, root_set, .ptr = one_ptr).code, ERR_INVAL);
    assert_int_equal(
        COMMAND(&m, ROOT_SET, root_set, .ptr = one_ptr, .name = slice_of("a\0b", 3)).code,
        ERR_INVAL);
    assert_int_equal(COMMAND(&m, ROOT_DELETE, root_delete, .name = name).code, ERR_NOTFOUND);
    struct command_result r =
        COMMAND(&m, ROOT_COMPARE_AND_SET, root_compare_and_set, .desired = one_ptr, .name = name);
    assert_int_equal(r.code, 0);
    uint64_t version = r.version;
    r = COMMAND(&m, ROOT_COMPARE_AND_SET, root_compare_and_set, .desired = two_ptr, .name = name);
    assert_int_equal(r.code, ERR_CONFLICT);
    assert_int_equal(r.version, version);
    assert_int_equal(r.value, one_ptr);
    assert_int_equal(COMMAND(&m, ROOT_SET, root_set, .ptr = two_ptr, .name = name).code, 0);
    assert_int_equal(
        COMMAND(&m, ROOT_COMPARE_AND_SET, root_compare_and_set, .expected = two_ptr, .name = name)
            .code,
        0);
    assert_int_equal(COMMAND(&m, ROOT_COMPARE_AND_SET, root_compare_and_set, .name = name).code, 0);
    assert_int_equal(heap_map_count(m.heap, HEAP_MAP_ROOTS), 0);
    assert_int_equal(COMMAND(&m, ROOT_SET, root_set, .ptr = two_ptr, .name = name).code, 0);
    r = COMMAND(&m, ROOT_DELETE, root_delete, .name = name);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.value, two_ptr);
    machine_close(&m);
}

static struct command_result reclaim(struct machine *m, uint64_t safepoint, uint32_t records)
{
    struct msg_reclaim msg = {.uid = m->uid, .safepoint = safepoint, .records = records};
    struct buf body = {0};
    assert_int_equal(message_encode_reclaim(&msg, &body), 0);
    return one(m, KIND_RECLAIM, &body);
}

static struct heap_stats stats_of(const struct machine *m)
{
    struct heap_stats stats;
    heap_get_stats(m->heap, &stats);
    return stats;
}

static void an_object_changes_its_size_and_keeps_its_pointer(void **state)
{
    (void)state;
    struct machine m;
    struct heap_object object;
    uint8_t bytes[8];
    machine_open(&m, UID);
    uint64_t ptr = COMMAND(&m, ALLOC, alloc, .size = 8, .init = text("12345678")).value;
    struct command_result r = COMMAND(&m, REALLOC, realloc, .ptr = ptr, .size = 5000);
    assert_int_equal(r.code, 0);
    assert_int_equal(heap_stat(m.heap, ptr, &object), 0);
    assert_int_equal(object.size, 5000);
    assert_true(object.version == r.version);
    assert_int_equal(heap_copy(m.heap, ptr, 0, bytes, 8), 0);
    assert_memory_equal(bytes, "12345678", 8);
    assert_int_equal(COMMAND(&m, REALLOC, realloc, .ptr = ptr, .size = 0).code, ERR_INVAL);
    assert_int_equal(
        COMMAND(&m, REALLOC, realloc, .ptr = ptr, .size = OBJECT_BYTES_MAX + 1ull).code,
        ERR_TOOBIG);
    assert_int_equal(COMMAND(&m, REALLOC, realloc, .ptr = ptr, .size = 100u << 20).code,
                     ERR_NOSPACE);
    assert_int_equal(COMMAND(&m, REALLOC, realloc, .ptr = ptr, .size = 3).code, 0);
    assert_int_equal(heap_copy(m.heap, ptr, 0, bytes, 3), 0);
    assert_memory_equal(bytes, "123", 3);
    assert_int_equal(COMMAND(&m, FREE, free, .ptr = ptr).code, 0);
    assert_int_equal(COMMAND(&m, REALLOC, realloc, .ptr = ptr, .size = 3).code, ERR_STALE);
    machine_close(&m);
}

static void history_is_kept_as_long_as_it_was_asked_for(void **state)
{
    (void)state;
    struct machine m;
    uint8_t bytes[4];
    machine_open(&m, UID);
    assert_int_equal(
        COMMAND(&m, SET_RETENTION, set_retention, .retention_ms = RETENTION_MS_MAX + 1).code,
        ERR_INVAL);
    assert_int_equal(COMMAND(&m, SET_RETENTION, set_retention, .retention_ms = 5000).code, 0);
    m.now_ms += 10;
    struct command_result born = COMMAND(&m, ALLOC, alloc, .size = 4, .init = text("aaaa"));
    uint64_t ptr = born.value;
    m.now_ms += 10;
    struct command_result first = COMMAND(&m, WRITE, write, .ptr = ptr, .data = text("bbbb"));
    m.now_ms += 10;
    assert_int_equal(COMMAND(&m, FREE, free, .ptr = ptr).code, 0);
    assert_int_equal(heap_read_at(m.heap, born.version, ptr, 0, bytes, 4), 0);
    assert_memory_equal(bytes, "aaaa", 4);
    assert_int_equal(heap_read_at(m.heap, first.version, ptr, 0, bytes, 4), 0);
    assert_memory_equal(bytes, "bbbb", 4);
    /* Whatever the leader proposes, what is younger than the retention stays. */
    struct command_result r = reclaim(&m, UINT64_MAX, HEAP_RECLAIM_RECORDS_MAX);
    assert_int_equal(r.code, 0);
    assert_int_equal(heap_read_at(m.heap, born.version, ptr, 0, bytes, 4), 0);
    m.now_ms += 6000;
    uint64_t before = stats_of(&m).undo_count;
    assert_true(before > 0);
    r = reclaim(&m, hlc_from_ms(m.now_ms - 5000), 1);
    assert_int_equal(r.code, 0);
    assert_true(r.value > 0);
    assert_true(stats_of(&m).undo_count == before - 1);
    while (r.value > 0) {
        r = reclaim(&m, hlc_from_ms(m.now_ms - 5000), HEAP_RECLAIM_RECORDS_MAX);
        assert_int_equal(r.code, 0);
    }
    assert_int_equal(stats_of(&m).undo_count, 0);
    assert_int_equal(stats_of(&m).dead_count, 0);
    assert_int_equal(heap_read_at(m.heap, born.version, ptr, 0, bytes, 4), ERR_SNAPSHOT_TOO_OLD);
    assert_int_equal(reclaim(&m, 0, 0).code, ERR_INVAL);
    assert_int_equal(reclaim(&m, 0, HEAP_RECLAIM_RECORDS_MAX + 1).code, ERR_INVAL);
    machine_close(&m);
}

static void types_are_registered_once_and_extended(void **state)
{
    (void)state;
    struct machine m;
    struct heap_type *type = mem_zalloc(sizeof *type);
    struct buf bytes = {0};
    machine_open(&m, UID);
    assert_non_null(type);
    type->size = 16;
    type->name = text("pair");
    type->field_count = 1;
    type->fields[0] =
        (struct heap_field){.name = text("left"), .kind = FIELD_PTR, .count = 1, .target = 9};
    assert_int_equal(heap_type_encode(type, &bytes), 0);
    struct slice descriptor = slice_of(bytes.data, bytes.len);
    assert_int_equal(
        COMMAND(&m, TYPE_REGISTER, type_register, .number = 9, .descriptor = descriptor).code, 0);
    assert_int_equal(
        COMMAND(&m, TYPE_REGISTER, type_register, .number = 9, .descriptor = descriptor).code, 0);
    assert_int_equal(
        COMMAND(&m, TYPE_REGISTER, type_register, .number = 8, .descriptor = descriptor).code,
        ERR_CONFLICT);
    assert_true(COMMAND(&m, TYPE_REGISTER, type_register, .number = 9,
                        .descriptor = slice_of(bytes.data, bytes.len - 1))
                    .code < 0);
    type->field_count = 2;
    type->fields[1] =
        (struct heap_field){.name = text("right"), .kind = FIELD_PTR, .offset = 8, .count = 1};
    buf_clear(&bytes);
    assert_int_equal(heap_type_encode(type, &bytes), 0);
    descriptor = slice_of(bytes.data, bytes.len);
    assert_int_equal(
        COMMAND(&m, TYPE_REGISTER, type_register, .number = 9, .descriptor = descriptor).code, 0);
    assert_int_equal(heap_type_get(m.heap, 9, type), 0);
    assert_int_equal(type->field_count, 2);
    buf_close(&bytes);
    mem_free(type);
    machine_close(&m);
}

static uint64_t leased_slots(const struct machine *m)
{
    return stats_of(m).leased_slots;
}

static void leases_go_back_with_their_session(void **state)
{
    (void)state;
    struct machine m;
    uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
    uint64_t owner = 0;
    uint32_t left = 0;
    machine_open(&m, UID);
    struct command_result r = COMMAND(&m, LEASE, lease, .count = 16);
    assert_int_equal(r.code, 0);
    assert_int_equal(heap_lease_get(m.heap, r.value, &owner, ptrs, &left), 0);
    assert_int_equal(owner, m.session);
    assert_int_equal(left, 16);
    assert_int_equal(COMMAND(&m, ALLOC_LEASED, alloc_leased, .ptr = ptrs[3], .size = 8).code, 0);
    assert_int_equal(COMMAND(&m, ALLOC_LEASED, alloc_leased, .ptr = ptrs[3], .size = 8).code,
                     ERR_STALE);
    assert_int_equal(COMMAND(&m, ALLOC_LEASED, alloc_leased, .ptr = 0, .size = 8).code, ERR_INVAL);
    assert_int_equal(leased_slots(&m), 15);
    for (uint32_t i = 1; i < SESSION_LEASES_MAX; i++) {
        assert_int_equal(COMMAND(&m, LEASE, lease, .count = 2).code, 0);
    }
    assert_int_equal(COMMAND(&m, LEASE, lease, .count = 2).code, ERR_LIMIT);
    /* One that is used up makes room. */
    for (uint32_t i = 0; i < 16; i++) {
        if (i != 3) {
            assert_int_equal(
                COMMAND(&m, ALLOC_LEASED, alloc_leased, .ptr = ptrs[i], .size = 8).code, 0);
        }
    }
    assert_int_equal(COMMAND(&m, LEASE, lease, .count = 2).code, 0);
    assert_int_equal(leased_slots(&m), 2 * SESSION_LEASES_MAX);

    /* Another session's are not touched. */
    uint64_t first = m.session;
    struct command_result second = open_session(&m, 2, 16, 10000);
    assert_int_equal(second.code, 0);
    m.session = second.value;
    m.seq = m.acked = 0;
    assert_int_equal(COMMAND(&m, LEASE, lease, .count = 5).code, 0);
    assert_int_equal(
        COMMAND(&m, ALLOC_LEASED, alloc_leased, .ptr = ptr_make(0, 1, 2), .size = 8).code,
        ERR_STALE);
    struct msg_session_close close = {.uid = m.uid, .session = first};
    struct buf body = {0};
    assert_int_equal(message_encode_session_close(&close, &body), 0);
    assert_int_equal(one(&m, KIND_SESSION_CLOSE, &body).code, 0);
    assert_int_equal(leased_slots(&m), 5);
    uint64_t renewed = hlc_from_ms(m.now_ms);
    m.now_ms += 20000;
    assert_int_equal(expire(&m, m.session, renewed).code, 0);
    assert_int_equal(leased_slots(&m), 0);
    assert_int_equal(heap_map_count(m.heap, HEAP_MAP_SESSIONS), 0);
    machine_close(&m);
}

static void compaction_and_trimming_are_commands(void **state)
{
    (void)state;
    struct machine m;
    uint64_t ptrs[256];
    uint8_t bytes[8];
    machine_open(&m, UID);
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t number[8];
        store_u64(number, i);
        ptrs[i] = COMMAND(&m, ALLOC, alloc, .size = 8000, .init = slice_of(number, 8)).value;
        assert_true(ptrs[i] != 0);
    }
    for (uint32_t i = 0; i < 256; i++) {
        if (i % 8 != 7) {
            assert_int_equal(COMMAND(&m, FREE, free, .ptr = ptrs[i]).code, 0);
        }
    }
    uint64_t before = stats_of(&m).arena_bytes;
    assert_int_equal(COMMAND(&m, DEFRAG, defrag, .bytes = 0).code, ERR_INVAL);
    assert_int_equal(COMMAND(&m, DEFRAG, defrag, .bytes = HEAP_DEFRAG_BYTES_MAX + 1).code,
                     ERR_INVAL);
    struct command_result r;
    uint64_t moved = 0;
    do {
        r = COMMAND(&m, DEFRAG, defrag, .bytes = 32768);
        assert_int_equal(r.code, 0);
        moved += r.value >> 1;
    } while ((r.value & 1) != 0);
    assert_true(moved > 0);
    r = COMMAND(&m, TRIM, trim, .bytes = UINT64_MAX);
    assert_int_equal(r.code, 0);
    assert_true(stats_of(&m).arena_bytes < before);
    for (uint32_t i = 7; i < 256; i += 8) {
        assert_int_equal(heap_copy(m.heap, ptrs[i], 0, bytes, 8), 0);
        assert_true(load_u64(bytes) == i);
    }
    machine_close(&m);
}

/* All of a transaction happens, at one version, or nothing of it. */
static void a_transaction_on_one_shard_is_one_command(void **state)
{
    (void)state;
    struct machine m;
    static struct part part;
    struct heap_object object;
    struct root_record root;
    uint64_t ptrs[4];
    uint64_t session;
    uint32_t count;
    machine_open(&m, UID);
    uint64_t a = COMMAND(&m, ALLOC, alloc, .size = 8, .init = text("aaaaaaaa")).value;
    struct command_result lease = COMMAND(&m, LEASE, lease, .count = 4);
    assert_int_equal(lease.code, 0);
    assert_int_equal(heap_lease_get(m.heap, lease.value, &session, ptrs, &count), 0);
    assert_true(heap_ptr_is_unborn(m.heap, ptrs[0]));
    assert_int_equal(heap_stat(m.heap, a, &object), 0);
    uint64_t version = object.version;

    part_begin(&part, m.session);
    part_check(&part, a, version, TXN_EQUAL);
    part_alloc(&part, ptrs[0], 16, text("new"));
    part_write(&part, a, 0, text("bb"));
    part_root(&part, text("here"), ptrs[0]);
    struct command_result r = COMMAND(&m, TX_COMMIT_ONE, tx_commit_one, .part = part_slice(&part));
    assert_int_equal(r.code, 0);
    assert_int_equal(heap_stat(m.heap, a, &object), 0);
    assert_int_equal(object.version, r.version);
    assert_int_equal(heap_stat(m.heap, ptrs[0], &object), 0);
    assert_int_equal(object.version, r.version);
    assert_int_equal(heap_root_get(m.heap, text("here"), &root), 0);
    assert_int_equal(root.ptr, ptrs[0]);
    assert_int_equal(heap_directory_version(m.heap), r.version);

    /* The first version again: it isn't the object's any more, which is told, and nothing happens.
     */
    part_begin(&part, m.session);
    part_write(&part, ptrs[0], 0, text("xx"));
    part_check(&part, a, version, TXN_EQUAL);
    m.seq++; /* the number is sent twice below */
    struct msg_tx_commit_one msg = {.part = part_slice(&part)};
    m.acked = 0;
    struct buf body = encode_tx_commit_one(&m, msg);
    struct buf again = {0};
    assert_int_equal(buf_append(&again, body.data, body.len), 0);
    struct command_result no = one(&m, KIND_TX_COMMIT_ONE, &body);
    assert_int_equal(no.code, ERR_CONFLICT);
    assert_int_equal(no.value, a);
    assert_int_equal(no.version, r.version);
    uint8_t bytes[3];
    assert_int_equal(heap_copy(m.heap, ptrs[0], 0, bytes, 3), 0);
    assert_memory_equal(bytes, "new", 3);
    struct command_result same = one(&m, KIND_TX_COMMIT_ONE, &again);
    assert_int_equal(same.code, no.code);
    assert_int_equal(same.value, no.value);
    assert_int_equal(same.version, no.version);
    m.acked = ++m.seq;

    /* Slots of another user's session. */
    uint64_t mine = m.session;
    struct msg_session_open other = {
        .uid = UID, .nonce = 9, .owner = OWNER + 1, .window = 4, .lease_ms = 10000};
    body = (struct buf){0};
    assert_int_equal(message_encode_session_open(&other, &body), 0);
    uint64_t theirs = one(&m, KIND_SESSION_OPEN, &body).value;
    part_begin(&part, theirs);
    part_write(&part, a, 0, text("x"));
    assert_int_equal(COMMAND(&m, TX_COMMIT_ONE, tx_commit_one, .part = part_slice(&part)).code,
                     ERR_DENIED);
    part_begin(&part, mine);
    part.len--;
    assert_int_equal(COMMAND(&m, TX_COMMIT_ONE, tx_commit_one, .part = part_slice(&part)).code,
                     ERR_PROTOCOL);
    machine_close(&m);
}

static void every_command_of_an_entry_has_its_own_version(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    begin(&m);
    for (uint32_t i = 0; i < 10; i++) {
        struct buf body = encode_alloc(&m, (struct msg_alloc){.size = 8});
        m.seq++;
        add(&m, KIND_ALLOC, slice_of(body.data, body.len));
        buf_close(&body);
    }
    m.now_ms -= 500; /* a stamp that went back */
    commit(&m);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(m.results[i].code, 0);
        assert_true(i == 0 || m.results[i].version > m.results[i - 1].version);
        assert_true(m.results[i].version >= hlc_from_ms(START_MS));
    }
    machine_close(&m);
}

static void a_result_is_kept_until_it_is_acknowledged(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    struct command_result first[16];
    struct buf bodies[17];
    for (uint32_t i = 0; i < 16; i++) {
        bodies[i] = encode_alloc(&m, (struct msg_alloc){.size = i + 1});
        m.seq++;
        begin(&m);
        add(&m, KIND_ALLOC, slice_of(bodies[i].data, bodies[i].len));
        commit(&m);
        first[i] = m.results[0];
        assert_int_equal(first[i].code, 0);
    }
    bodies[16] = encode_alloc(&m, (struct msg_alloc){.size = 1});
    assert_int_equal(one(&m, KIND_ALLOC, &bodies[16]).code, ERR_LIMIT);
    for (uint32_t i = 0; i < 16; i++) {
        begin(&m);
        add(&m, KIND_ALLOC, slice_of(bodies[i].data, bodies[i].len));
        commit(&m);
        assert_memory_equal(&m.results[0], &first[i], sizeof first[i]);
        buf_close(&bodies[i]);
    }
    m.seq = 16;
    m.acked = 9;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code,
                     0); /* number 17 takes the place of 1 */
    m.seq = 8;
    m.acked = 0;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 9).code, ERR_INVAL); /* 9 was acknowledged */
    struct heap_stats stats;
    heap_get_stats(m.heap, &stats);
    assert_int_equal(stats.object_count, 17);
    machine_close(&m);
}

static struct session_record record_of(const struct machine *m, struct slice *value)
{
    uint8_t key[SESSION_KEY_BYTES] = {'s'};
    uint64_t big = __builtin_bswap64(m->session);
    memcpy(key + 1, &big, sizeof big);
    struct session_record record;
    assert_int_equal(heap_map_get(m->heap, HEAP_MAP_SESSIONS, slice_of(key, sizeof key), value), 0);
    memcpy(&record, value->data, sizeof record);
    return record;
}

/* Commands come and are acknowledged in any order; each number runs once, a retry of one that isn't
 * acknowledged gets what the first got, and no result that is wanted is overwritten. */
static void results_have_the_first_places_that_are_free(void **state)
{
    (void)state;
    enum { WINDOW = 16, NUMBERS = 2000 };
    static struct command_result first[NUMBERS + 1];
    static bool done[NUMBERS + 1];
    struct machine m;
    struct slice value;
    machine_open(&m, UID);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code, 0);
        assert_int_equal(record_of(&m, &value).kept, 1);
    }
    uint64_t base = m.acked;
    uint64_t dice = 1;
    uint64_t runs = 0;
    memset(done, 0, sizeof done);
    while (m.acked - base < NUMBERS - WINDOW) {
        dice = dice * 6364136223846793005u + 1442695040888963407u;
        uint64_t seq = m.acked + 1 + (dice >> 33) % WINDOW;
        m.seq = seq - 1;
        struct buf body = encode_alloc(&m, (struct msg_alloc){.size = 1 + seq % 50});
        struct command_result result = one(&m, KIND_ALLOC, &body);
        assert_int_equal(result.code, 0);
        if (done[seq - base]) {
            assert_memory_equal(&result, &first[seq - base], sizeof result);
        } else {
            first[seq - base] = result;
            done[seq - base] = true;
            runs++;
        }
        assert_true(record_of(&m, &value).kept <= WINDOW);
        while ((dice >> 20) % 3 != 0 && done[m.acked + 1 - base]) {
            m.acked++;
        }
    }
    struct heap_stats stats;
    heap_get_stats(m.heap, &stats);
    assert_int_equal(stats.object_count, 50 + runs);
    machine_close(&m);
}

static void a_session_expires_only_when_its_mark_stood_still(void **state)
{
    (void)state;
    struct machine m;
    struct fsm_header h;
    machine_open(&m, UID);
    uint64_t opened = hlc_from_ms(START_MS);
    assert_int_equal(expire(&m, m.session, opened).code, ERR_CONFLICT); /* too early */
    m.now_ms += 9999;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code, 0); /* renews */
    uint64_t renewed = hlc_from_ms(m.now_ms);
    m.now_ms += 9999;
    assert_int_equal(expire(&m, m.session, opened).code, ERR_CONFLICT); /* an old mark */
    assert_int_equal(expire(&m, m.session, renewed).code, ERR_CONFLICT);
    m.now_ms += 1;
    m.term++; /* a new leader: everyone is renewed by its first entry */
    assert_int_equal(expire(&m, m.session, renewed).code, ERR_CONFLICT);
    m.now_ms += 10000;
    assert_int_equal(expire(&m, m.session, renewed).code, 0);
    assert_int_equal(expire(&m, m.session, renewed).code, ERR_NOTFOUND);
    fsm_header_get(m.heap, &h);
    assert_int_equal(h.session_count, 0);
    assert_int_equal(heap_map_count(m.heap, HEAP_MAP_SESSIONS), 0);
    m.acked = 0;
    m.seq = 0;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code, ERR_SESSION_EXPIRED);
    machine_close(&m);
}

/* Five numbers, the first two acknowledged; then silence until the session is buried. */
static void leave_results(struct machine *m, struct command_result results[5])
{
    for (uint64_t i = 0; i < 5; i++) {
        m->seq = i;
        m->acked = i < 2 ? i : 2;
        results[i] = COMMAND(m, ALLOC, alloc, .size = 100 + i);
        assert_int_equal(results[i].code, 0);
    }
    uint64_t renewed = hlc_from_ms(m->now_ms);
    m->now_ms += 10000;
    assert_int_equal(bury(m, m->session, renewed + 1, 4, 100).code, ERR_CONFLICT);
    assert_int_equal(bury(m, m->session, renewed, 4, 100).code, 0);
    m->acked = 2;
}

static uint64_t objects(const struct machine *m)
{
    struct heap_stats stats;
    heap_get_stats(m->heap, &stats);
    return stats.object_count;
}

static void a_late_retry_finds_its_result_in_the_tombstone(void **state)
{
    (void)state;
    struct machine m;
    struct command_result results[5];
    struct fsm_header h;
    machine_open(&m, UID);
    leave_results(&m, results);
    fsm_header_get(m.heap, &h);
    assert_int_equal(h.session_count, 0);
    assert_int_equal(h.tombstone_count, 1);
    assert_int_equal(h.tombstone_results, 3);
    assert_int_equal(objects(&m), 5);

    assert_int_equal(session_check(m.heap, m.session, OWNER), 0); /* so that it gets into the log */
    assert_int_equal(session_check(m.heap, m.session, OWNER + 1), ERR_DENIED);
    for (uint64_t i = 2; i < 5; i++) {
        m.seq = i;
        m.acked = 2;
        struct command_result r = COMMAND(&m, ALLOC, alloc, .size = 100 + i);
        assert_memory_equal(&r, &results[i], sizeof r);
    }
    m.acked = 2;
    m.seq = 3;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code, ERR_PROTOCOL); /* another command */
    m.acked = 0;
    m.seq = 1;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 101).code,
                     ERR_SESSION_EXPIRED); /* was acknowledged */
    m.acked = 2;
    m.seq = 5;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 105).code,
                     ERR_SESSION_EXPIRED); /* never ran, and won't */
    assert_int_equal(objects(&m), 5);
    machine_close(&m);
}

static void a_tombstone_ends_by_the_clock_of_the_shard(void **state)
{
    (void)state;
    struct machine m;
    struct command_result results[5];
    struct fsm_header h;
    machine_open(&m, UID);
    leave_results(&m, results);
    m.now_ms += KEEP_MS - 1;
    m.seq = 4;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 104).value, results[4].value);
    m.now_ms += 1;
    m.acked = 2;
    m.seq = 4;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 104).code, ERR_SESSION_EXPIRED);
    assert_int_equal(open_session(&m, 99, 4, 5000).code, 0); /* takes what is left of it away */
    fsm_header_get(m.heap, &h);
    assert_int_equal(h.tombstone_count, 0);
    assert_int_equal(h.tombstone_results, 0);
    assert_int_equal(heap_map_count(m.heap, HEAP_MAP_SESSIONS), 2);
    assert_int_equal(objects(&m), 5);
    machine_close(&m);
}

static void tombstones_are_bounded_and_the_oldest_go(void **state)
{
    (void)state;
    struct machine m;
    struct fsm_header h;
    uint64_t sessions[8];
    machine_open(&m, UID);
    for (uint64_t i = 0; i < 8; i++) {
        m.session = sessions[i] = open_session(&m, 100 + i, 8, 1000).value;
        m.acked = 0;
        for (m.seq = 0; m.seq < i;) {
            assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 8).code, 0);
            m.acked = 0;
        }
        uint64_t renewed = hlc_from_ms(m.now_ms);
        m.now_ms += 1000;
        assert_int_equal(bury(&m, m.session, renewed, 4, 18).code, 0);
        fsm_header_get(m.heap, &h);
        /* 0 has nothing to keep; 1+2+3+4, then 2+3+4+5, then 3+4+5+6, then 5+6+7 */
        static const uint64_t counts[] = {0, 1, 2, 3, 4, 4, 4, 3};
        static const uint64_t kept[] = {0, 1, 3, 6, 10, 14, 18, 18};
        assert_int_equal(h.tombstone_count, counts[i]);
        assert_int_equal(h.tombstone_results, kept[i]);
    }
    for (uint64_t i = 1; i < 8; i++) {
        m.session = sessions[i];
        m.seq = 0;
        m.acked = 0;
        assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 8).code,
                         i < 5 ? ERR_SESSION_EXPIRED : 0);
    }
    /* One that is too large by itself stays without. */
    m.session = open_session(&m, 200, 16, 1000).value;
    for (m.seq = 0; m.seq < 9;) {
        m.acked = 0;
        assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 8).code, 0);
    }
    uint64_t renewed = hlc_from_ms(m.now_ms);
    m.now_ms += 1000;
    assert_int_equal(bury(&m, m.session, renewed, 4, 8).code, 0);
    fsm_header_get(m.heap, &h);
    assert_int_equal(h.tombstone_count, 3);
    machine_close(&m);
}

static void sessions_are_bounded(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    assert_int_equal(open_session(&m, 2, 0, 5000).code, ERR_INVAL);
    assert_int_equal(open_session(&m, 2, SESSION_WINDOW_MAX + 1, 5000).code, ERR_INVAL);
    assert_int_equal(open_session(&m, 2, 1, 999).code, ERR_INVAL);
    assert_int_equal(open_session(&m, 2, 1, 3600001).code, ERR_INVAL);
    uint32_t opened = 1;
    for (uint64_t nonce = 10; nonce < 10 + SESSIONS_PER_SHARD_MAX + 5; nonce++) {
        int code = open_session(&m, nonce, 1, 5000).code;
        assert_true(code == 0 || code == ERR_LIMIT);
        opened += code == 0;
    }
    assert_int_equal(opened, SESSIONS_PER_SHARD_MAX);
    machine_close(&m);
}

static void what_cannot_be_understood_does_nothing(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    const uint8_t junk[64] = {UID};
    for (uint32_t kind = 0; kind < KIND_LIMIT; kind++) {
        for (size_t len = 0; len <= sizeof junk; len += 16) {
            begin(&m);
            add(&m, (uint16_t)kind, slice_of(junk, len));
            commit(&m);
            assert_true(m.results[0].code < 0 || kind == KIND_TICK);
        }
    }
    /* Entries whose frame is wrong, cut anywhere. */
    struct buf body = encode_alloc(&m, (struct msg_alloc){.size = 8});
    begin(&m);
    add(&m, KIND_ALLOC, slice_of(body.data, body.len));
    for (size_t len = 0; len < m.entry.len; len++) {
        apply_raw(&m, ENTRY_COMMAND, slice_of(m.entry.data, len));
    }
    store_u16(m.entry.data, ENTRY_FORMAT);
    store_u16(m.entry.data + 2, 1);
    store_u32(m.entry.data + 4, 1);
    apply_raw(&m, ENTRY_COMMAND, slice_of(m.entry.data, m.entry.len));
    apply_raw(&m, ENTRY_BARRIER, slice_of(NULL, 0));
    struct heap_stats stats;
    heap_get_stats(m.heap, &stats);
    assert_int_equal(stats.object_count, 0);
    assert_int_equal(heap_map_count(m.heap, HEAP_MAP_SESSIONS), 2);
    buf_close(&body);
    machine_close(&m);
}

/* Any byte of what the replica keeps, as long as the heap doesn't mind. Some say nothing wrong
 * (times, results); what passes must not make a command leave its bounds. */
static void hostile_records_are_refused_before_they_are_used(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    struct command_result results[5];
    leave_results(&m, results);
    m.session = open_session(&m, 2, 16, 10000).value;
    m.seq = m.acked = 0;
    assert_int_equal(COMMAND(&m, LEASE, lease, .count = 4).code, 0);
    uint8_t *fsm = heap_fsm_edit(m.heap, 0, HEAP_FSM_BYTES);
    assert_int_equal(fsm_check(m.heap), 0);
    const struct {
        size_t at;
        uint8_t bit;
    } header[] = {
        {offsetof(struct fsm_header, format), 2},
        {offsetof(struct fsm_header, config_count), 7},
        {offsetof(struct fsm_header, config_count) + 3, 7},
        {offsetof(struct fsm_header, session_count), 0},
        {offsetof(struct fsm_header, tombstone_count), 3},
        {offsetof(struct fsm_header, servers) + offsetof(struct fsm_server, role), 6},
    };
    for (size_t i = 0; i < sizeof header / sizeof header[0]; i++) {
        fsm[header[i].at] ^= (uint8_t)(1u << header[i].bit);
        assert_int_equal(fsm_check(m.heap), ERR_CORRUPT);
        fsm[header[i].at] ^= (uint8_t)(1u << header[i].bit);
    }
    uint8_t key[SESSION_KEY_BYTES] = {'s'};
    uint64_t big = __builtin_bswap64(m.session);
    memcpy(key + 1, &big, sizeof big);
    const size_t record[] = {
        offsetof(struct session_record, id),         offsetof(struct session_record, nonce),
        offsetof(struct session_record, owner),      offsetof(struct session_record, window),
        offsetof(struct session_record, window) + 3, offsetof(struct session_record, kept)};
    for (size_t i = 0; i < sizeof record / sizeof record[0]; i++) {
        uint8_t *at =
            heap_map_edit(m.heap, HEAP_MAP_SESSIONS, slice_of(key, sizeof key), record[i], 1);
        assert_non_null(at);
        *at ^= 0x10;
        assert_int_equal(fsm_check(m.heap), ERR_CORRUPT);
        *at ^= 0x10;
    }
    /* A value too short for what its key says, in each map. */
    assert_int_equal(heap_map_put(m.heap, HEAP_MAP_SESSIONS, text("nxxxxxxxxyyyyyyyy"), text("1")),
                     0);
    assert_int_equal(fsm_check(m.heap), ERR_CORRUPT);
    assert_int_equal(heap_map_delete(m.heap, HEAP_MAP_SESSIONS, text("nxxxxxxxxyyyyyyyy")), 0);
    assert_int_equal(heap_map_put(m.heap, HEAP_MAP_CATALOG, text("h"), text("1")), 0);
    assert_int_equal(fsm_check(m.heap), ERR_CORRUPT);
    assert_int_equal(heap_map_delete(m.heap, HEAP_MAP_CATALOG, text("h")), 0);
    assert_int_equal(heap_map_put(m.heap, HEAP_MAP_META, text("node/001"), text("1")), 0);
    assert_int_equal(fsm_check(m.heap), ERR_CORRUPT);
    assert_int_equal(heap_map_delete(m.heap, HEAP_MAP_META, text("node/001")), 0);
    machine_close(&m);
}

static void the_catalogue_spreads_shards_over_the_nodes(void **state)
{
    (void)state;
    struct machine m;
    struct catalog_place place;
    machine_open(&m, SHARD_META);
    assert_true(m.effects.meta_changed);
    struct command_result r =
        COMMAND(&m, HEAP_CREATE, heap_create, .shard_bytes_max = (1u << 20) + 1, .shard_count = 4,
                .replicas = 2, .retention_ms = 60000, .name = text("a-heap_1"));
    assert_int_equal(r.code, 0);
    assert_int_equal(r.value, 1);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(catalog_place_of(m.heap, SHARD_UID_FIRST + i, &place), 0);
        assert_int_equal(place.number, i);
        assert_int_equal(place.count, 2);
        assert_int_equal(place.retention_ms, 60000);
        assert_int_equal(place.shard_bytes_max % HEAP_PAGE_BYTES, 0);
        assert_int_equal(replica_id_node(place.members[0]), i % 3 + 1);
        assert_int_equal(replica_id_node(place.members[1]), (i + 1) % 3 + 1);
    }
    const struct {
        const char *name;
        uint64_t bytes;
        uint32_t shards, replicas;
        int code;
    } bad[] = {
        {"a-heap_1", 1u << 20, 1, 0, ERR_EXISTS}, {"", 1u << 20, 1, 0, ERR_INVAL},
        {"-a", 1u << 20, 1, 0, ERR_INVAL},        {"A", 1u << 20, 1, 0, ERR_INVAL},
        {"a b", 1u << 20, 1, 0, ERR_INVAL},       {"b", 1u << 20, 0, 0, ERR_INVAL},
        {"b", 1u << 20, 257, 0, ERR_INVAL},       {"b", 1u << 20, 1, 4, ERR_INVAL},
        {"b", 1u << 20, 1, 6, ERR_INVAL},         {"b", (1u << 20) - 1, 1, 0, ERR_INVAL},
        {"b", UINT64_MAX, 1, 0, ERR_INVAL},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        r = COMMAND(&m, HEAP_CREATE, heap_create, .shard_bytes_max = bad[i].bytes,
                    .shard_count = bad[i].shards, .replicas = bad[i].replicas,
                    .name = text(bad[i].name));
        assert_int_equal(r.code, bad[i].code);
    }
    /* 1023 shards beside the meta shard fit on a node, not more. */
    char name[] = "big0";
    for (int i = 0; i < 3; i++, name[3]++) {
        assert_int_equal(COMMAND(&m, HEAP_CREATE, heap_create, .shard_bytes_max = 1u << 20,
                                 .shard_count = 256, .replicas = 3, .name = text(name))
                             .code,
                         0);
    }
    assert_int_equal(COMMAND(&m, HEAP_CREATE, heap_create, .shard_bytes_max = 1u << 20,
                             .shard_count = 256, .replicas = 3, .name = text(name))
                         .code,
                     ERR_LIMIT);

    struct msg_node_join join = {.uid = SHARD_META, .node = 2, .node_uid = 99};
    for (int again = 0; again < 2; again++) {
        struct buf body = {0};
        assert_int_equal(message_encode_node_join(&join, &body), 0);
        r = one(&m, KIND_NODE_JOIN, &body);
        assert_int_equal(r.code, 0);
        assert_int_equal(r.value, replica_id_make(1, 2));
    }
    assert_int_equal(catalog_place_of(m.heap, SHARD_UID_FIRST + 1, &place), 0);
    assert_int_equal(place.members[0], replica_id_make(1, 2));
    assert_int_equal(place.founders[0], replica_id_make(0, 2));
    join.node = 4;
    struct buf body = {0};
    assert_int_equal(message_encode_node_join(&join, &body), 0);
    assert_int_equal(one(&m, KIND_NODE_JOIN, &body).code, ERR_NOTFOUND);

    r = COMMAND(&m, HEAP_DROP, heap_drop, .name = text("a-heap_1"));
    assert_int_equal(r.code, 0);
    assert_int_equal(r.value, 1);
    assert_int_equal(COMMAND(&m, HEAP_DROP, heap_drop, .name = text("a-heap_1")).code,
                     ERR_NOTFOUND);
    assert_int_equal(catalog_place_of(m.heap, SHARD_UID_FIRST, &place), ERR_NOTFOUND);
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code, ERR_INVAL);
    machine_close(&m);
}

static void what_may_not_be_proposed_is_told_at_once(void **state)
{
    (void)state;
    struct machine m;
    struct command_prefix prefix;
    machine_open(&m, UID);
    struct buf body = encode_alloc(&m, (struct msg_alloc){.size = 8});
    struct slice whole = slice_of(body.data, body.len);
    assert_int_equal(fsm_validate(UID, KIND_ALLOC, whole, &prefix), 0);
    assert_int_equal(prefix.session, m.session);
    assert_int_equal(fsm_validate(UID + 1, KIND_ALLOC, whole, &prefix), ERR_PROTOCOL);
    assert_int_equal(fsm_validate(UID, KIND_READ, whole, &prefix), ERR_PROTOCOL);
    for (size_t len = 0; len < whole.len; len++) {
        assert_int_equal(fsm_validate(UID, KIND_ALLOC, slice_of(whole.data, len), &prefix),
                         ERR_PROTOCOL);
    }
    prefix.session = 0;
    message_patch_command(body.data, &prefix);
    assert_int_equal(fsm_validate(UID, KIND_ALLOC, whole, &prefix), ERR_PROTOCOL);
    assert_int_equal(session_check(m.heap, m.session, OWNER), 0);
    assert_int_equal(session_check(m.heap, m.session, OWNER + 1), ERR_DENIED);
    assert_int_equal(session_check(m.heap, m.session + 1, OWNER), ERR_SESSION_EXPIRED);
    buf_close(&body);
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(object_commands_do_what_they_say),
        cmocka_unit_test(root_commands_do_what_they_say),
        cmocka_unit_test(an_object_changes_its_size_and_keeps_its_pointer),
        cmocka_unit_test(history_is_kept_as_long_as_it_was_asked_for),
        cmocka_unit_test(types_are_registered_once_and_extended),
        cmocka_unit_test(leases_go_back_with_their_session),
        cmocka_unit_test(compaction_and_trimming_are_commands),
        cmocka_unit_test(a_transaction_on_one_shard_is_one_command),
        cmocka_unit_test(every_command_of_an_entry_has_its_own_version),
        cmocka_unit_test(a_result_is_kept_until_it_is_acknowledged),
        cmocka_unit_test(results_have_the_first_places_that_are_free),
        cmocka_unit_test(a_session_expires_only_when_its_mark_stood_still),
        cmocka_unit_test(a_late_retry_finds_its_result_in_the_tombstone),
        cmocka_unit_test(a_tombstone_ends_by_the_clock_of_the_shard),
        cmocka_unit_test(tombstones_are_bounded_and_the_oldest_go),
        cmocka_unit_test(sessions_are_bounded),
        cmocka_unit_test(what_cannot_be_understood_does_nothing),
        cmocka_unit_test(hostile_records_are_refused_before_they_are_used),
        cmocka_unit_test(the_catalogue_spreads_shards_over_the_nodes),
        cmocka_unit_test(what_may_not_be_proposed_is_told_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
