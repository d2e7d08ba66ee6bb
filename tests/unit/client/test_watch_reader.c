/* What a watch has heard and given: its bound, its tokens, and answers that no node would send. */
#include "support/fault.h"
#include "support/test.h"

#include "client/watch_reader.h"

#define HEAD      68u
#define HEAP      77u
#define TYPE      7u
#define VALUE_MAX 4096u

static cairn_watch_opts options(uint64_t bytes_max)
{
    return (cairn_watch_opts){.from = CAIRN_WATCH_NOW, .values = 1, .bytes_max = bytes_max};
}

static struct watch_reader *reader_of(uint32_t shards, uint64_t bytes_max)
{
    const struct msg_watch what = {.what = WATCH_TYPE, .type = TYPE};
    cairn_watch_opts opts = options(bytes_max);
    struct watch_reader *r = NULL;
    assert_int_equal(watch_reader_new(&what, HEAP, 0, shards, &opts, &r), 0);
    return r;
}

static int on_token(uint32_t shards, uint64_t heap, enum watch_what what, const char *token,
                    struct watch_reader **out)
{
    const struct msg_watch m = {.what = (uint8_t)what,
                                .type = what == WATCH_TYPE ? TYPE : 0,
                                .name = slice_of("n", what == WATCH_ROOTS ? 1 : 0)};
    cairn_watch_opts opts = options(16u << 20);
    opts.from = CAIRN_WATCH_TOKEN;
    opts.token = token;
    return watch_reader_new(&m, heap, 0, shards, &opts, out);
}

/* ---- answers ---- */

static void change_append(struct buf *b, uint32_t shard, uint64_t order, uint32_t value_bytes)
{
    uint8_t *at = buf_extend(b, HEAD + 2 * value_bytes);
    memset(at, 0, HEAD + 2 * value_bytes);
    store_u64(at, order);
    store_u64(at + 8, order * 10);
    store_u64(at + 16, order * 10 - 10);
    store_u64(at + 24, (uint64_t)shard << 52 | 1);
    store_u32(at + 48, value_bytes);
    store_u32(at + 52, TYPE);
    at[56] = CAIRN_EVENT_WRITTEN;
    store_u32(at + 60, value_bytes);
    store_u32(at + 64, value_bytes);
    memset(at + HEAD, (int)(order & 0xff), 2 * value_bytes);
}

/* As a node answers: none begins behind bytes_max. Returns the token. */
static uint64_t answer(const struct msg_watch *query, uint32_t shard, struct buf *b)
{
    uint64_t order = query->token;
    while (b->len < query->bytes_max && order - query->token < query->max) {
        change_append(b, shard, ++order, VALUE_MAX);
    }
    return order;
}

static uint64_t held(const struct watch_reader *r)
{
    uint64_t bytes = r->spent.capacity;
    for (uint32_t i = 0; i < r->count; i++) {
        bytes += r->sources[i].changes.capacity;
    }
    return bytes;
}

/* Hears everything that it asks for. Returns what it holds then. */
static uint64_t fill(struct watch_reader *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        if (watch_reader_wants(r, i)) {
            struct msg_watch query = watch_reader_query(r, i);
            struct buf b = {0};
            uint64_t token = answer(&query, i, &b);
            assert_int_equal(watch_reader_hear(r, i, token, &b), 0);
            buf_close(&b);
        }
    }
    return held(r);
}

static void all_shards_together_stay_within_the_bound(void **state)
{
    (void)state;
    static const struct {
        uint32_t shards;
        uint64_t bytes_max;
    } cases[] = {{1, 16u << 20}, {4, 16u << 20}, {256, 16u << 20}, {256, 0}, {3, 0}, {1, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        uint64_t max =
            cases[c].bytes_max != 0 ? cases[c].bytes_max : watch_reader_bytes_min(cases[c].shards);
        struct watch_reader *r = reader_of(cases[c].shards, max);
        uint64_t orders[256] = {0};
        uint64_t most = 0;
        cairn_event e;
        uint32_t emptied;
        for (uint32_t n = 0; n < 3000; n++) {
            uint64_t bytes = fill(r);
            most = bytes > most ? bytes : most;
            assert_true(bytes <= max);
            assert_true(watch_reader_next(r, &e, &emptied));
            assert_int_equal(e.order, ++orders[e.shard]); /* nothing is left out */
            assert_int_equal(e.old_len, VALUE_MAX);
            assert_int_equal(((const uint8_t *)e.new_bytes)[VALUE_MAX - 1], e.order & 0xff);
        }
        if (cases[c].shards == 256) {
            assert_true(most > max / 2); /* it is used */
        }
        for (uint32_t i = 0; i < r->count; i++) {
            assert_true(orders[i] > 0 || cases[c].shards == 256); /* nobody starves */
        }
        watch_reader_free(r);
    }
}

static void a_full_source_is_not_asked_again(void **state)
{
    (void)state;
    struct watch_reader *r = reader_of(2, 1u << 20);
    cairn_event e;
    uint32_t emptied = 0;
    struct buf b = {0};
    assert_true(watch_reader_wants(r, 0));
    change_append(&b, 0, 1, 8);
    change_append(&b, 0, 2, 8);
    assert_int_equal(watch_reader_hear(r, 0, 2, &b), 0);
    assert_false(watch_reader_wants(r, 0));
    assert_true(watch_reader_wants(r, 1));
    assert_true(watch_reader_next(r, &e, &emptied));
    assert_int_equal(emptied, UINT32_MAX);
    assert_false(watch_reader_wants(r, 0));
    assert_true(watch_reader_next(r, &e, &emptied));
    assert_int_equal(emptied, 0);
    assert_true(watch_reader_wants(r, 0));
    assert_int_equal(watch_reader_query(r, 0).token, 2);
    assert_false(watch_reader_next(r, &e, &emptied));
    watch_reader_free(r);
}

/* ---- answers that no node sends ---- */

static void garbage_is_no_answer(void **state)
{
    (void)state;
    struct watch_reader *r = reader_of(2, 1u << 20);
    uint32_t rejected = 0;
    for (uint32_t i = 0; i < 14; i++) {
        struct buf b = {0};
        uint64_t token = 2;
        change_append(&b, 0, 1, 8);
        change_append(&b, 0, 2, 8);
        uint8_t *second = b.data + b.len / 2;
        switch (i) {
        case 0: /* as it was: behind itself */
            store_u64(second, 1);
            break;
        case 1:
            b.len--;
            break;
        case 2:
            b.len = b.len / 2 + HEAD - 1;
            break;
        case 3:
            second[56] = 0;
            break;
        case 4:
            second[56] = 6;
            break;
        case 5:
            second[57] = 2;
            break;
        case 6: /* a name, of an object */
            store_u16(second + 58, 3);
            break;
        case 7: /* a root without one */
            second[56] = 5;
            break;
        case 8:
            store_u32(second + 60, UINT32_MAX - 1);
            break;
        case 9:
            store_u32(second + 64, UINT32_MAX - 70);
            break;
        case 10: /* another shard's */
            store_u64(second + 24, UINT64_C(1) << 52);
            break;
        case 11:
            token = 1;
            break;
        case 12: /* a name that is too long */
            second[56] = 5;
            store_u16(second + 58, 256);
            break;
        default: /* more than was asked for */
            for (uint64_t order = 3; b.len <= r->share; order++) {
                change_append(&b, 0, order, VALUE_MAX);
                token = order;
            }
            break;
        }
        rejected += watch_reader_hear(r, 0, token, &b) == ERR_PROTOCOL;
        buf_close(&b);
        assert_true(watch_reader_wants(r, 0));
        assert_false(watch_reader_has(r));
    }
    assert_int_equal(rejected, 14);
    watch_reader_free(r);
}

/* ---- tokens ---- */

static void a_token_is_good_for_what_it_was_made_of(void **state)
{
    (void)state;
    char token[CAIRN_WATCH_TOKEN_BYTES];
    char forged[CAIRN_WATCH_TOKEN_BYTES + 2];
    struct watch_reader *other = NULL;
    struct watch_reader *r = reader_of(3, 1u << 20);
    struct buf b = {0};
    cairn_event e;
    uint32_t emptied;
    for (uint32_t i = 0; i < 3; i++) {
        change_append(&b, i, 5 + i, 8);
        assert_int_equal(watch_reader_hear(r, i, 9, &b), 0);
    }
    assert_true(watch_reader_next(r, &e, &emptied)); /* of shard 0; the others' aren't taken */
    watch_reader_token(r, token);
    assert_int_equal(on_token(3, HEAP, WATCH_TYPE, token, &other), 0);
    assert_int_equal(watch_reader_query(other, 0).token, 9);
    assert_int_equal(watch_reader_query(other, 1).token, 5);
    assert_int_equal(watch_reader_query(other, 2).token, 6);
    watch_reader_free(other);
    assert_int_equal(on_token(3, HEAP + 1, WATCH_TYPE, token, &other), ERR_INVAL);
    assert_null(other);
    assert_int_equal(on_token(2, HEAP, WATCH_TYPE, token, &other), ERR_INVAL);
    assert_int_equal(on_token(3, HEAP, WATCH_ROOTS, token, &other), ERR_INVAL);
    assert_int_equal(on_token(3, HEAP, WATCH_ALL, token, &other), ERR_INVAL);
    assert_int_equal(on_token(3, HEAP, WATCH_TYPE, NULL, &other), ERR_INVAL);
    assert_int_equal(on_token(3, HEAP, WATCH_TYPE, "", &other), ERR_INVAL);
    /* Truncated anywhere, or with any character another one. */
    size_t len = strlen(token);
    for (size_t i = 0; i < len; i++) {
        (void)snprintf(forged, sizeof forged, "%.*s", (int)i, token);
        assert_int_equal(on_token(3, HEAP, WATCH_TYPE, forged, &other), ERR_INVAL);
        (void)snprintf(forged, sizeof forged, "%s", token);
        forged[i] = forged[i] == 'A' ? 'B' : 'A';
        assert_int_equal(on_token(3, HEAP, WATCH_TYPE, forged, &other), ERR_INVAL);
        forged[i] = '!';
        assert_int_equal(on_token(3, HEAP, WATCH_TYPE, forged, &other), ERR_INVAL);
    }
    (void)snprintf(forged, sizeof forged, "%sA", token);
    assert_int_equal(on_token(3, HEAP, WATCH_TYPE, forged, &other), ERR_INVAL);
    memset(forged, 'x', sizeof forged - 1);
    forged[sizeof forged - 1] = '\0';
    assert_int_equal(on_token(256, HEAP, WATCH_TYPE, forged, &other), ERR_INVAL);
    watch_reader_free(r);
}

/* The longest one has its place. */
static void a_token_of_all_shards_fits(void **state)
{
    (void)state;
    char token[CAIRN_WATCH_TOKEN_BYTES];
    struct watch_reader *other = NULL;
    struct watch_reader *r = reader_of(256, 16u << 20);
    (void)fill(r);
    watch_reader_token(r, token);
    assert_true(strlen(token) < sizeof token);
    assert_int_equal(on_token(256, HEAP, WATCH_TYPE, token, &other), 0);
    watch_reader_free(other);
    watch_reader_free(r);
}

static int open_one(void *arg)
{
    struct watch_reader *r = NULL;
    const struct msg_watch what = {.what = WATCH_ALL};
    cairn_watch_opts opts = options(1u << 20);
    (void)arg;
    int rv = watch_reader_new(&what, HEAP, 0, 4, &opts, &r);
    if (rv == 0) {
        watch_reader_free(r);
    }
    return rv;
}

static void check(void *arg, int rv)
{
    (void)arg;
    assert_true(rv == 0 || rv == ERR_NOMEM);
}

static void no_memory_is_said(void **state)
{
    (void)state;
    assert_int_equal(fault_memory_sweep(open_one, check, NULL, 1, 10), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_shards_together_stay_within_the_bound),
        cmocka_unit_test(a_full_source_is_not_asked_again),
        cmocka_unit_test(garbage_is_no_answer),
        cmocka_unit_test(a_token_is_good_for_what_it_was_made_of),
        cmocka_unit_test(a_token_of_all_shards_fits),
        cmocka_unit_test(no_memory_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
