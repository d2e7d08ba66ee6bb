/* Nodes that lack memory, at any allocation, while they commit across shards: all of it happens, or
 * none of it, and whoever asks again is told which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hlc.h"
#include "base/mem.h"
#include "unit/alloc/txn_part.h"
#include "unit/coord/world.h"

#define OLD UINT64_C(1)
#define NEW UINT64_C(42)

/* What a killed node had on its way to the disk or from it is nobody's leak. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static struct world w;

static struct buf encode(const uint64_t ptrs[WORLD_SHARDS])
{
    static struct part part;
    struct buf parts = {0};
    struct buf body = {0};
    uint8_t bytes[8];
    store_u64(bytes, NEW);
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        uint8_t head[12];
        part_begin(&part, 0);
        part_write(&part, ptrs[i], 0, slice_of(bytes, sizeof bytes));
        store_u64(head, w.uids[i]);
        store_u32(head + 8, (uint32_t)part.len);
        assert_int_equal(buf_append(&parts, head, sizeof head), 0);
        assert_int_equal(buf_append(&parts, part.bytes, part.len), 0);
    }
    const struct heap *heap = world_heap(&w, world_leader(&w, w.uids[0]), w.uids[0]);
    struct msg_tx_commit m = {.uid = w.uids[0],
                              .session = w.sessions[0],
                              .seq = ++w.seqs[0],
                              .deadline = heap_clock(heap) + hlc_from_ms(5000),
                              .parts = slice_of(parts.data, parts.len)};
    assert_int_equal(message_encode_tx_commit(&m, &body), 0);
    buf_close(&parts);
    return body;
}

/* A replica that lacked memory stays stopped until its node starts again. */
static void heal(void)
{
    for (uint32_t i = 0; i < WORLD_NODES; i++) {
        bool failed = false;
        for (uint32_t k = 0; k <= WORLD_SHARDS; k++) {
            struct shard_info info = {0};
            struct shard *s = replica_shard(node_replica(w.nodes[i].node),
                                            k < WORLD_SHARDS ? w.uids[k] : SHARD_META);
            if (s != NULL) {
                shard_get_info(s, &info);
            }
            failed = failed || info.failed;
        }
        if (failed) {
            world_kill(&w, i);
            world_start(&w, i);
        }
    }
    world_run_ms(&w, 2000);
}

/* The number of allocations that failed. */
static long commit_without(long n)
{
    uint64_t ptrs[WORLD_SHARDS];
    uint64_t version;
    world_open(&w, (uint64_t)n + 1);
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        ptrs[i] = world_alloc(&w, i, OLD);
    }
    struct buf body = encode(ptrs);
    mem_fault(n, 1);
    (void)mem_fault_hold(true);
    struct msg_result r = world_command(&w, w.uids[0], KIND_TX_COMMIT, &body);
    world_run_ms(&w, 500);
    long hits = mem_fault_hits();
    mem_fault(0, 0);
    (void)mem_fault_hold(false);
    heal();
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        uint64_t value = world_value(&w, i, ptrs[i], &version);
        assert_int_equal(value, r.code == 0 ? NEW : OLD);
        assert_true(r.code != 0 || version == r.version);
    }
    assert_true(hits > 0 || r.code == 0);
    world_settle(&w, 15000);
    world_close(&w);
    return hits;
}

static void all_of_it_happens_or_nothing(void **state)
{
    (void)state;
    long runs = 0;
    for (long n = 0; commit_without(n) > 0; n += 1 + n / 32) {
        runs++;
    }
    assert_true(runs > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it_happens_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
