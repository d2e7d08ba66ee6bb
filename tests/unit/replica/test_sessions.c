/* Sessions in the state machine: what is kept of them, for how long, and who finds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "unit/replica/machine.h"

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
        machine_begin(&m);
        machine_add(&m, KIND_ALLOC, slice_of(bodies[i].data, bodies[i].len));
        machine_commit(&m);
        first[i] = m.results[0];
        assert_int_equal(first[i].code, 0);
    }
    bodies[16] = encode_alloc(&m, (struct msg_alloc){.size = 1});
    assert_int_equal(machine_one(&m, KIND_ALLOC, &bodies[16]).code, ERR_LIMIT);
    for (uint32_t i = 0; i < 16; i++) {
        machine_begin(&m);
        machine_add(&m, KIND_ALLOC, slice_of(bodies[i].data, bodies[i].len));
        machine_commit(&m);
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
        struct command_result result = machine_one(&m, KIND_ALLOC, &body);
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
    assert_int_equal(machine_expire(&m, m.session, opened).code, ERR_CONFLICT); /* too early */
    m.now_ms += 9999;
    assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 1).code, 0); /* renews */
    uint64_t renewed = hlc_from_ms(m.now_ms);
    m.now_ms += 9999;
    assert_int_equal(machine_expire(&m, m.session, opened).code, ERR_CONFLICT); /* an old mark */
    assert_int_equal(machine_expire(&m, m.session, renewed).code, ERR_CONFLICT);
    m.now_ms += 1;
    m.term++; /* a new leader: everyone is renewed by its first entry */
    assert_int_equal(machine_expire(&m, m.session, renewed).code, ERR_CONFLICT);
    m.now_ms += 10000;
    assert_int_equal(machine_expire(&m, m.session, renewed).code, 0);
    assert_int_equal(machine_expire(&m, m.session, renewed).code, ERR_NOTFOUND);
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
    assert_int_equal(machine_bury(m, m->session, renewed + 1, 4, 100).code, ERR_CONFLICT);
    assert_int_equal(machine_bury(m, m->session, renewed, 4, 100).code, 0);
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
    assert_int_equal(machine_open_session(&m, 99, 4, 5000).code,
                     0); /* takes what is left of it away */
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
        m.session = sessions[i] = machine_open_session(&m, 100 + i, 8, 1000).value;
        m.acked = 0;
        for (m.seq = 0; m.seq < i;) {
            assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 8).code, 0);
            m.acked = 0;
        }
        uint64_t renewed = hlc_from_ms(m.now_ms);
        m.now_ms += 1000;
        assert_int_equal(machine_bury(&m, m.session, renewed, 4, 18).code, 0);
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
    m.session = machine_open_session(&m, 200, 16, 1000).value;
    for (m.seq = 0; m.seq < 9;) {
        m.acked = 0;
        assert_int_equal(COMMAND(&m, ALLOC, alloc, .size = 8).code, 0);
    }
    uint64_t renewed = hlc_from_ms(m.now_ms);
    m.now_ms += 1000;
    assert_int_equal(machine_bury(&m, m.session, renewed, 4, 8).code, 0);
    fsm_header_get(m.heap, &h);
    assert_int_equal(h.tombstone_count, 3);
    machine_close(&m);
}

static void sessions_are_bounded(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, UID);
    assert_int_equal(machine_open_session(&m, 2, 0, 5000).code, ERR_INVAL);
    assert_int_equal(machine_open_session(&m, 2, SESSION_WINDOW_MAX + 1, 5000).code, ERR_INVAL);
    assert_int_equal(machine_open_session(&m, 2, 1, 999).code, ERR_INVAL);
    assert_int_equal(machine_open_session(&m, 2, 1, 3600001).code, ERR_INVAL);
    uint32_t opened = 1;
    for (uint64_t nonce = 10; nonce < 10 + SESSIONS_PER_SHARD_MAX + 5; nonce++) {
        int code = machine_open_session(&m, nonce, 1, 5000).code;
        assert_true(code == 0 || code == ERR_LIMIT);
        opened += code == 0;
    }
    assert_int_equal(opened, SESSIONS_PER_SHARD_MAX);
    machine_close(&m);
}

static struct slice text(const char *s)
{
    return slice_of(s, strlen(s));
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
    m.session = machine_open_session(&m, 2, 16, 10000).value;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_is_kept_until_it_is_acknowledged),
        cmocka_unit_test(results_have_the_first_places_that_are_free),
        cmocka_unit_test(a_session_expires_only_when_its_mark_stood_still),
        cmocka_unit_test(a_late_retry_finds_its_result_in_the_tombstone),
        cmocka_unit_test(a_tombstone_ends_by_the_clock_of_the_shard),
        cmocka_unit_test(tombstones_are_bounded_and_the_oldest_go),
        cmocka_unit_test(sessions_are_bounded),
        cmocka_unit_test(hostile_records_are_refused_before_they_are_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
