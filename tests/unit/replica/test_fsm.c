#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "unit/alloc/txn_part.h"
#include "unit/replica/machine.h"

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
    return machine_one(m, KIND_RECLAIM, &body);
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
    struct command_result second = machine_open_session(&m, 2, 16, 10000);
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
    assert_int_equal(machine_one(&m, KIND_SESSION_CLOSE, &body).code, 0);
    assert_int_equal(leased_slots(&m), 5);
    uint64_t renewed = hlc_from_ms(m.now_ms);
    m.now_ms += 20000;
    assert_int_equal(machine_expire(&m, m.session, renewed).code, 0);
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
    struct command_result no = machine_one(&m, KIND_TX_COMMIT_ONE, &body);
    assert_int_equal(no.code, ERR_CONFLICT);
    assert_int_equal(no.value, a);
    assert_int_equal(no.version, r.version);
    uint8_t bytes[3];
    assert_int_equal(heap_copy(m.heap, ptrs[0], 0, bytes, 3), 0);
    assert_memory_equal(bytes, "new", 3);
    struct command_result same = machine_one(&m, KIND_TX_COMMIT_ONE, &again);
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
    uint64_t theirs = machine_one(&m, KIND_SESSION_OPEN, &body).value;
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
    machine_begin(&m);
    for (uint32_t i = 0; i < 10; i++) {
        struct buf body = encode_alloc(&m, (struct msg_alloc){.size = 8});
        m.seq++;
        machine_add(&m, KIND_ALLOC, slice_of(body.data, body.len));
        buf_close(&body);
    }
    m.now_ms -= 500; /* a stamp that went back */
    machine_commit(&m);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(m.results[i].code, 0);
        assert_true(i == 0 || m.results[i].version > m.results[i - 1].version);
        assert_true(m.results[i].version >= hlc_from_ms(START_MS));
    }
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
            machine_begin(&m);
            machine_add(&m, (uint16_t)kind, slice_of(junk, len));
            machine_commit(&m);
            assert_true(m.results[0].code < 0 || kind == KIND_TICK);
        }
    }
    /* Entries whose frame is wrong, cut anywhere. */
    struct buf body = encode_alloc(&m, (struct msg_alloc){.size = 8});
    machine_begin(&m);
    machine_add(&m, KIND_ALLOC, slice_of(body.data, body.len));
    for (size_t len = 0; len < m.entry.len; len++) {
        machine_apply(&m, ENTRY_COMMAND, slice_of(m.entry.data, len));
    }
    store_u16(m.entry.data, ENTRY_FORMAT);
    store_u16(m.entry.data + 2, 1);
    store_u32(m.entry.data + 4, 1);
    machine_apply(&m, ENTRY_COMMAND, slice_of(m.entry.data, m.entry.len));
    machine_apply(&m, ENTRY_BARRIER, slice_of(NULL, 0));
    struct heap_stats stats;
    heap_get_stats(m.heap, &stats);
    assert_int_equal(stats.object_count, 0);
    assert_int_equal(heap_map_count(m.heap, HEAP_MAP_SESSIONS), 2);
    buf_close(&body);
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
    /* Promised space is address space of every node: 64 TiB of all heaps together. */
    assert_int_equal(COMMAND(&m, HEAP_CREATE, heap_create, .shard_bytes_max = UINT64_C(1) << 40,
                             .shard_count = 64, .replicas = 3, .name = text("b"))
                         .code,
                     ERR_TOOBIG);
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
        r = machine_one(&m, KIND_NODE_JOIN, &body);
        assert_int_equal(r.code, 0);
        assert_int_equal(r.value, replica_id_make(1, 2));
    }
    assert_int_equal(catalog_place_of(m.heap, SHARD_UID_FIRST + 1, &place), 0);
    assert_int_equal(place.members[0], replica_id_make(1, 2));
    assert_int_equal(place.founders[0], replica_id_make(0, 2));
    join.node = 4;
    struct buf body = {0};
    assert_int_equal(message_encode_node_join(&join, &body), 0);
    assert_int_equal(machine_one(&m, KIND_NODE_JOIN, &body).code, ERR_NOTFOUND);

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
        cmocka_unit_test(what_cannot_be_understood_does_nothing),
        cmocka_unit_test(the_catalogue_spreads_shards_over_the_nodes),
        cmocka_unit_test(what_may_not_be_proposed_is_told_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
