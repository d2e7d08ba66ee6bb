/* A user who sends whatever comes to mind: requests of every kind with numbers, names and
 * transactions that are right, nearly right and absurd, whole and cut off. Each is answered,
 * nothing of it stays behind, and the heap and its replicas are as sound afterwards as before. */
#include "support/test.h"

#include <stdlib.h>

#include "base/hash.h"
#include "base/hlc.h"
#include "base/log.h"
#include "replica/replica.h"
#include "unit/coord/world.h"

#define TOGETHER        64u
#define PTRS            64u
#define PART_MAX        (64u << 10)
#define PTR_SHARD_SHIFT 52
#define HEAPS_NEW       4u /* of heaps that it may make */

struct hostile {
    struct world w;
    uint64_t ptrs[PTRS]; /* some live, some stale, of all shards */
    uint32_t ptr_count;
    uint64_t leased[PTRS]; /* promised: what may be allocated */
    uint32_t leased_count;
    uint64_t lease; /* number of the last one */
    uint8_t part[PART_MAX];
    uint8_t parts[3 * (PART_MAX + 12)];
    uint8_t bytes[PART_MAX];
    char name[512];
    uint64_t uid;   /* that the message under construction began with */
    uint64_t heaps; /* made by now */
    uint64_t answered, refused, succeeded, lost;
};

static struct hostile h;

static uint64_t below(uint64_t limit)
{
    return sim_below(h.w.sim, limit);
}

static bool once_in(uint64_t n)
{
    return below(n) == 0;
}

/* ---- numbers ---- */

static uint32_t shard_of(uint64_t uid)
{
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        if (h.w.uids[i] == uid) {
            return i;
        }
    }
    return 0;
}

static uint64_t clock_of(uint64_t uid)
{
    const struct heap *heap = world_heap(&h.w, world_leader(&h.w, uid), uid);
    return heap_clock(heap);
}

static uint64_t any_number(void)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   7,
                                   8,
                                   9,
                                   255,
                                   256,
                                   1023,
                                   1024,
                                   1025,
                                   4096,
                                   (512u << 10) + 1,
                                   1u << 30,
                                   (1u << 30) + 1,
                                   INT32_MAX,
                                   UINT32_MAX,
                                   UINT32_MAX + UINT64_C(1),
                                   UINT64_C(1) << 52,
                                   INT64_MAX,
                                   UINT64_C(1) << 63,
                                   UINT64_MAX - 7,
                                   UINT64_MAX};
    return once_in(4) ? sim_random(h.w.sim) : odd[below(sizeof odd / sizeof odd[0])];
}

static uint64_t any_ptr(void)
{
    uint64_t ptr = h.ptrs[below(h.ptr_count)];
    for (uint32_t i = 0; i < 8 && ptr >> PTR_SHARD_SHIFT != shard_of(h.uid); i++) {
        ptr = h.ptrs[below(h.ptr_count)];
    }
    switch (below(24)) {
    case 0:
        return any_number();
    case 1:
        return ptr ^ UINT64_C(1) << below(64);
    case 2:
    case 3:
        return h.leased_count > 0 ? h.leased[below(h.leased_count)] : 0;
    default:
        return ptr;
    }
}

static uint64_t any_version(void)
{
    uint64_t clock = clock_of(h.w.uids[below(WORLD_SHARDS)]);
    return once_in(4) ? any_number() : clock + below(4) * 1000 - below(2) * 100000;
}

static bool is(const char *field, const char *name)
{
    return strcmp(field, name) == 0;
}

static uint64_t make_u64(const char *field)
{
    uint32_t shard = shard_of(h.uid);
    if (once_in(50)) {
        return any_number();
    }
    if (is(field, "lease")) {
        return h.lease;
    }
    if (is(field, "retention_ms")) {
        return once_in(4) ? any_number() : 60000;
    }
    if (is(field, "uid")) {
        h.uid = once_in(20) ? SHARD_META : h.w.uids[below(WORLD_SHARDS)];
        return h.uid;
    }
    if (is(field, "session") || is(field, "tx_session")) {
        return h.w.sessions[shard];
    }
    if (is(field, "seq")) {
        return once_in(20) ? below(h.w.seqs[shard] + 20) : ++h.w.seqs[shard];
    }
    if (is(field, "acked")) {
        return once_in(500) ? any_number() : h.w.seqs[shard] > 200 ? h.w.seqs[shard] - 200 : 0;
    }
    if (is(field, "ptr") || is(field, "expected") || is(field, "desired")) {
        return any_ptr();
    }
    if (is(field, "at") || is(field, "version") || is(field, "clock") || is(field, "token")) {
        return once_in(3) ? 0 : any_version();
    }
    if (is(field, "deadline")) {
        return once_in(8) ? any_version() : clock_of(h.w.uids[shard]) + hlc_from_ms(5000);
    }
    if (is(field, "owner")) {
        return hash64(0, "u1", 2);
    }
    if (is(field, "size") || is(field, "offset") || is(field, "skip")) {
        return once_in(4) ? any_number() : below(64);
    }
    return once_in(2) ? any_number() : below(8);
}

/* ---- names and bytes ---- */

static struct slice make_name(const char *field, uint32_t max)
{
    size_t len = once_in(8) ? max : once_in(4) ? 0 : below(4);
    len = len < sizeof h.name ? len : sizeof h.name;
    static const char *const verbs[] = {"status",     "heaps",   "shards",
                                        "checkpoint", "inspect", "transactions",
                                        "transfer",   "writers", "transaction"};
    if (is(field, "verb")) {
        const char *verb = verbs[below(sizeof verbs / sizeof verbs[0])];
        return slice_of(verb, strlen(verb));
    }
    for (size_t i = 0; i < len; i++) {
        h.name[i] = (char)(once_in(3) ? sim_random(h.w.sim) : 'a' + below(2));
    }
    return slice_of(h.name, len);
}

static size_t put_item(size_t at, size_t limit)
{
    static const uint8_t kinds[] = {0,
                                    TXN_CHECK_OBJECT,
                                    TXN_CHECK_ROOT,
                                    TXN_CHECK_DIRECTORY,
                                    TXN_CHECK_BYTES,
                                    TXN_CHECK_LIVE,
                                    TXN_ALLOC,
                                    TXN_FREE,
                                    TXN_WRITE,
                                    TXN_ROOT_SET,
                                    TXN_ROOT_DELETE,
                                    99};
    struct txn_item item = {.kind = once_in(40) ? kinds[below(sizeof kinds)]
                                                : kinds[1 + below(sizeof kinds - 2)]};
    bool named =
        item.kind == TXN_CHECK_ROOT || item.kind == TXN_ROOT_SET || item.kind == TXN_ROOT_DELETE;
    bool bytes = item.kind == TXN_CHECK_BYTES || item.kind == TXN_ALLOC || item.kind == TXN_WRITE;
    uint8_t data[64];
    item.name_len = named ? (uint16_t)(1 + below(3)) : 0;
    item.len = bytes ? (uint32_t)below(9) : 0;
    if (item.kind != TXN_CHECK_ROOT && item.kind != TXN_CHECK_DIRECTORY &&
        item.kind != TXN_ROOT_DELETE) {
        item.ptr = any_ptr();
    }
    switch (item.kind) {
    case TXN_CHECK_OBJECT:
    case TXN_CHECK_ROOT:
    case TXN_CHECK_DIRECTORY:
        item.value = once_in(2) ? 0 : any_version();
        item.mode = (uint8_t)below(2);
        break;
    case TXN_ALLOC:
        item.value = once_in(20) ? any_number() : 8 + below(64);
        item.ptr = h.leased_count > 0 && !once_in(8) ? h.leased[below(h.leased_count)] : item.ptr;
        break;
    case TXN_CHECK_BYTES:
    case TXN_WRITE:
        item.value = once_in(20) ? any_number() : 0;
        break;
    default:
        break;
    }
    if (once_in(60)) { /* what a kind doesn't use */
        item.mode = (uint8_t)below(256);
        item.reserved = (uint32_t)below(2);
        item.type = (uint32_t)any_number();
    }
    if (at + sizeof item + sizeof data > limit) {
        return at;
    }
    memcpy(h.part + at, &item, sizeof item);
    at += sizeof item;
    for (size_t i = 0; i < (size_t)item.name_len + item.len; i++) {
        h.part[at++] = (uint8_t)(named ? 'a' + below(2) : below(3));
    }
    /* Links to oneself and in circles. */
    if (item.len == 8 && once_in(2)) {
        uint64_t to = once_in(2) ? item.ptr : any_ptr();
        memcpy(h.part + at - 8, &to, sizeof to);
    }
    return at;
}

static struct slice make_part(void)
{
    static const uint32_t counts[] = {0, 1, 2, 3, 5, 8, 100, 1023, 1024, 1025};
    uint32_t count = counts[below(once_in(20) ? 10 : 6)];
    struct txn_part_header head = {.items = once_in(30) ? (uint32_t)any_number() : count};
    head.session = once_in(3) ? 0 : h.w.sessions[shard_of(h.uid)];
    size_t len = sizeof head;
    uint64_t again = once_in(4) ? 1 + below(3) : 0; /* the same item over and over */
    size_t first = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t end = put_item(len, sizeof h.part);
        if (again != 0 && i % (again + 1) != 0 && first != 0 && len + first < sizeof h.part) {
            memcpy(h.part + len, h.part + sizeof head, first);
            end = len + first;
        }
        first = i == 0 ? end - len : first;
        len = end;
    }
    memcpy(h.part, &head, sizeof head);
    return slice_of(h.part, len);
}

static struct slice make_parts(void)
{
    uint64_t count = once_in(10) ? below(20) : 2 + below(2);
    uint64_t home = h.uid;
    uint64_t first = shard_of(home);
    size_t len = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t uid = h.w.uids[(first + i) % WORLD_SHARDS];
        if (once_in(40)) {
            uid = any_number();
        }
        h.uid = uid;
        struct slice part = make_part();
        if (part.len > 2000 || len + 12 + part.len > sizeof h.parts) {
            continue;
        }
        store_u64(h.parts + len, uid);
        store_u32(h.parts + len + 8, once_in(40) ? (uint32_t)any_number() : (uint32_t)part.len);
        memcpy(h.parts + len + 12, part.data, part.len);
        len += 12 + part.len;
    }
    h.uid = home;
    return slice_of(h.parts, len);
}

/* Lists of {pointer, depth}, as FETCH wants them. */
static struct slice make_list(void)
{
    size_t count = once_in(10) ? 1000 : below(5);
    for (size_t i = 0; i < count; i++) {
        store_u64(h.bytes + i * 12, any_ptr());
        store_u32(h.bytes + i * 12 + 8, once_in(5) ? (uint32_t)any_number() : 0);
    }
    return slice_of(h.bytes, count * 12);
}

static struct slice make_json(void)
{
    static const char *const words[] = {"{}",
                                        "{\"heap\":\"h\"}",
                                        "{\"heap\":\"\\u0000\"}",
                                        "{\"heap\":7,\"ptr\":{}}",
                                        "{\"heap\":\"h\",\"ptr\":\"99999999999999999999\"}",
                                        "{\"heap\":\"h\",\"ptr\":\"-1\"}",
                                        "{\"home\":\"16\",\"session\":\"1\",\"seq\":\"1\"}",
                                        "{\"home\":\"-16\",\"session\":[],\"seq\":null}",
                                        "{\"uid\":\"1\",\"to\":\"n2\"}",
                                        "{\"uid\":\"18446744073709551615\",\"to\":7}",
                                        "{\"in_doubt\":true}",
                                        "{\"what\":\"map\",\"heap\":\"h\",\"cells\":-1}",
                                        "{\"what\":\"map\",\"heap\":\"h\",\"cells\":1e300}",
                                        "{\"what\":\"check\",\"heap\":\"h\"}",
                                        "{\"what\":\"types\",\"uid\":\"17\"}",
                                        "[]",
                                        "{\"a\":",
                                        "\xff\xfe"};
    const char *text = words[below(sizeof words / sizeof words[0])];
    return slice_of(text, strlen(text));
}

static struct slice make_bytes(const char *field, uint32_t max)
{
    if (is(field, "part") && !once_in(30)) {
        return make_part();
    }
    if (is(field, "parts") && !once_in(30)) {
        return make_parts();
    }
    if ((is(field, "starts") || is(field, "known")) && !once_in(30)) {
        return make_list();
    }
    if (is(field, "args")) {
        return make_json();
    }
    size_t len = once_in(20) ? sizeof h.bytes : below(40);
    len = len < max ? len : max;
    for (size_t i = 0; i < len; i++) {
        h.bytes[i] = (uint8_t)(i < 64 ? sim_random(h.w.sim) : 0);
    }
    return slice_of(h.bytes, len);
}

/* ---- messages ---- */

static void put(struct buf *body, const void *data, size_t len)
{
    assert_int_equal(buf_append(body, data, len), 0);
}

static void put_number(struct buf *body, uint64_t value, size_t bytes)
{
    uint8_t le[8];
    store_u64(le, value);
    put(body, le, bytes);
}

static void put_slice(struct buf *body, size_t length_bytes, struct slice bytes)
{
    put_number(body, once_in(200) ? any_number() : bytes.len, length_bytes);
    put(body, bytes.data, bytes.len);
}

static const struct {
    uint16_t kind;
    enum message_lane lane;
    bool is_request;
} kinds[] = {
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    {number, MESSAGE_LANE_##lane, sizeof #answer != sizeof "NONE"},
#include "rpc/message.def"
};

static void make_body(uint16_t kind, struct buf *body)
{
    h.uid = h.w.uids[0];
    switch (kind) {
#define MESSAGE(NAME, name, number, lane, answer, doc) case number: {
#define U8(name, doc)                                  put_number(body, once_in(4) ? below(256) : below(7), 1);
#define U16(name, doc)                                 put_number(body, any_number(), 2);
#define U32(name, doc)                                 put_number(body, once_in(2) ? any_number() : 1 + below(40), 4);
#define U64(name, doc)                                 put_number(body, make_u64(#name), 8);
#define STR(name, max, doc)                            put_slice(body, 2, make_name(#name, max));
#define BYTES(name, max, doc)                          put_slice(body, 4, make_bytes(#name, max));
#define END(name)                                                                                  \
    break;                                                                                         \
    }
#include "rpc/message.def"
    default:
        put(body, h.bytes, below(64));
    }
    if (once_in(24) && body->len > 0) {
        body->len = below(body->len); /* cut off */
    } else if (once_in(24) && body->len > 0) {
        body->data[below(body->len)] ^= (uint8_t)(1u << below(8));
    } else if (once_in(40)) {
        put_number(body, any_number(), 8); /* too long */
    }
}

/* Heaps of its own are made by hand: few, and small; and the one that the test is about stays. */
static bool is_spared(uint16_t kind, const struct buf *body)
{
    if (kind == KIND_HEAP_DROP) {
        struct msg_heap_drop m;
        return message_decode_heap_drop(slice_of(body->data, body->len), &m) == 0 &&
               slice_equals(m.name, slice_of("h", 1));
    }
    if (kind == KIND_HEAP_CREATE) {
        struct msg_heap_create m;
        bool good = message_decode_heap_create(slice_of(body->data, body->len), &m) == 0 &&
                    m.shard_count >= 1 && m.shard_count <= SHARDS_PER_HEAP_MAX;
        return good && (m.shard_count > 2 || ++h.heaps > HEAPS_NEW);
    }
    return kind == KIND_SESSION_CLOSE && !once_in(20);
}

/* Kinds that rpc/ answers by itself are none of a node's requests: test_refusals has them. */
static uint16_t any_kind(void)
{
    for (;;) {
        size_t i = below(sizeof kinds / sizeof kinds[0]);
        if (kinds[i].kind == KIND_TX_HOLD && !once_in(20)) {
            continue; /* nobody else would be served */
        }
        if (kinds[i].lane == MESSAGE_LANE_CLIENT && (kinds[i].is_request || once_in(30))) {
            return once_in(4) ? (once_in(2) ? KIND_TX_COMMIT_ONE : KIND_TX_COMMIT) : kinds[i].kind;
        }
        if (kinds[i].lane == MESSAGE_LANE_RAFT && message_is_command(kinds[i].kind) &&
            once_in(300)) {
            return kinds[i].kind;
        }
    }
}

/* ---- asking ---- */

static void keep_leased(const struct answer *a)
{
    struct msg_lease_info m;
    assert_int_equal(message_decode_lease_info(slice_of(a->body.data, a->body.len), &m), 0);
    h.leased_count = 0;
    for (size_t at = 0; at + 8 <= m.ptrs.len && h.leased_count < PTRS; at += 8) {
        h.leased[h.leased_count++] = load_u64(m.ptrs.data + at);
    }
}

static void hear(struct answer *a, uint16_t kind)
{
    struct msg_result m;
    if (!world_wait(&h.w, a, 120000)) {
        fail_msg("%s isn't answered", message_name(kind));
    }
    if (a->kind == KIND_RESULT) {
        assert_int_equal(message_decode_result(slice_of(a->body.data, a->body.len), &m), 0);
        if (kind == KIND_ALLOC && m.code == 0) {
            h.ptrs[h.ptr_count < PTRS ? h.ptr_count++ : below(PTRS)] = m.value;
        } else if (kind == KIND_LEASE && m.code == 0) {
            h.lease = m.value;
        }
        h.succeeded += m.code == 0;
    } else if (a->kind == KIND_LEASE_INFO) {
        keep_leased(a);
    }
    h.answered += a->kind != 0;
    h.lost += a->kind == 0;
    h.refused += a->kind == KIND_ERROR;
    world_answer_free(a);
}

static void round_of_requests(void)
{
    struct answer *answers[TOGETHER];
    uint16_t asked[TOGETHER];
    struct buf body = {0};
    for (uint32_t i = 0; i < TOGETHER; i++) {
        do {
            asked[i] = any_kind();
            buf_clear(&body);
            make_body(asked[i], &body);
        } while (is_spared(asked[i], &body));
        uint32_t node = once_in(6) ? (uint32_t)below(WORLD_NODES)
                                   : world_leader(&h.w, h.w.uids[shard_of(h.uid)]);
        answers[i] = world_send(&h.w, node, asked[i], slice_of(body.data, body.len));
        assert_non_null(answers[i]);
    }
    buf_close(&body);
    for (uint32_t i = 0; i < TOGETHER; i++) {
        hear(answers[i], asked[i]);
    }
}

/* ---- what must hold ---- */

static void keep_session(uint32_t shard)
{
    struct msg_session_open m = {.uid = h.w.uids[shard],
                                 .nonce = sim_random(h.w.sim),
                                 .owner = hash64(0, "u1", 2),
                                 .window = 256,
                                 .lease_ms = 60000};
    struct buf body = {0};
    assert_int_equal(message_encode_session_open(&m, &body), 0);
    struct msg_result r = world_command(&h.w, m.uid, KIND_SESSION_OPEN, &body);
    assert_int_equal(r.code, 0);
    h.w.sessions[shard] = r.value;
    h.w.seqs[shard] = 0;
}

static void check_all(void)
{
    struct err_text e = {""};
    world_run_ms(&h.w, 3000);
    world_settle(&h.w, 60000);
    world_run_ms(&h.w, 1000);
    for (uint32_t n = 0; n < WORLD_NODES; n++) {
        struct node_health health;
        node_get_health(h.w.nodes[n].node, &health);
        assert_int_equal(health.watches, 0);
    }
    for (uint32_t i = 0; i < WORLD_SHARDS; i++) {
        uint64_t digests[WORLD_NODES];
        uint64_t at[WORLD_NODES];
        for (uint32_t n = 0; n < WORLD_NODES; n++) {
            struct shard *s = replica_shard(node_replica(h.w.nodes[n].node), h.w.uids[i]);
            digests[n] = shard_digest(s, &at[n]);
            if (heap_check(shard_heap(s), &e) != 0) {
                fail_msg("%s", e.text);
            }
            assert_true(at[n] != at[0] || digests[n] == digests[0]);
        }
        /* It serves who behaves. */
        keep_session(i);
        uint64_t ptr = world_alloc(&h.w, i, 4711);
        assert_int_equal(world_value(&h.w, i, ptr, NULL), 4711);
    }
}

static void no_request_hurts_a_node(void **state)
{
    (void)state;
    const char *first = getenv("CAIRN_TEST_SEED");
    const char *many = getenv("CAIRN_TEST_ROUNDS");
    uint64_t rounds = many != NULL ? strtoull(many, NULL, 10) : 60;
    log_set_level(LOG_OFF);
    memset(&h, 0, sizeof h);
    world_open(&h.w, first != NULL ? strtoull(first, NULL, 10) : 1);
    for (uint32_t i = 0; i < 12; i++) {
        h.ptrs[h.ptr_count++] = world_alloc(&h.w, i % WORLD_SHARDS, i);
    }
    for (uint64_t i = 0; i < rounds; i++) {
        round_of_requests();
        if (i % 10 == 9) {
            check_all();
        }
    }
    check_all();
    print_message("%llu answers, %llu of them refusals, %llu commands succeeded; %llu connections "
                  "closed\n",
                  (unsigned long long)h.answered, (unsigned long long)h.refused,
                  (unsigned long long)h.succeeded, (unsigned long long)h.lost);
    assert_true(h.succeeded > rounds);
    world_close(&h.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_request_hurts_a_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
