/* Every message of the table: what is encoded decodes to the same, and nothing else decodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "rpc/frame.h"
#include "rpc/message.h"

static uint8_t pattern[FRAME_BYTES_MAX + 1];

static int group_open(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pattern; i++) {
        pattern[i] = (uint8_t)(i * 7 + i / 251);
    }
    return 0;
}

/* fill_name(m, len): distinct numbers, and every slice as long as `len` or its bound, whichever is
 * smaller. */
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    static void fill_##name(struct msg_##name *m, size_t len)                                      \
    {                                                                                              \
        uint64_t v = 0x0102030405060708;                                                           \
        memset(m, 0, sizeof *m);                                                                   \
        (void)len;                                                                                 \
        (void)v;
#define U8(name, doc)       m->name = (uint8_t)(v += 0x1111111111111111);
#define U16(name, doc)      m->name = (uint16_t)(v += 0x1111111111111111);
#define U32(name, doc)      m->name = (uint32_t)(v += 0x1111111111111111);
#define U64(name, doc)      m->name = (v += 0x1111111111111111);
#define STR(name, max, doc) m->name = slice_of(pattern + (v++ & 0xff), len < (max) ? len : (max));
#define BYTES(name, max, doc)                                                                      \
    m->name = slice_of(pattern + (v++ & 0xff), len < (max) / 4 ? len : (max) / 4);
#define END(name) }
#include "rpc/message.def"

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    static void same_##name(const struct msg_##name *a, const struct msg_##name *b)                \
    {                                                                                              \
        (void)a;                                                                                   \
        (void)b;
#define U8(name, doc)         assert_int_equal(a->name, b->name);
#define U16(name, doc)        assert_int_equal(a->name, b->name);
#define U32(name, doc)        assert_int_equal(a->name, b->name);
#define U64(name, doc)        assert_int_equal(a->name, b->name);
#define STR(name, max, doc)   assert_true(slice_equals(a->name, b->name));
#define BYTES(name, max, doc) assert_true(slice_equals(a->name, b->name));
#define END(name)             }
#include "rpc/message.def"

static void round_trip_every_size(size_t len)
{
    struct buf b = {0};
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    {                                                                                              \
        struct msg_##name in;                                                                      \
        struct msg_##name out;                                                                     \
        buf_clear(&b);                                                                             \
        fill_##name(&in, len);                                                                     \
        assert_int_equal(message_encode_##name(&in, &b), 0);                                       \
        assert_int_equal(b.len, message_size_##name(&in));                                         \
        assert_int_equal(message_decode_##name(slice_of(b.data, b.len), &out), 0);                 \
        same_##name(&in, &out);                                                                    \
        assert_int_equal(message_check(number, slice_of(b.data, b.len)), 0);                       \
    }
#include "rpc/message.def"
    buf_close(&b);
}

static void every_message_decodes_to_what_was_encoded(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 63, 511, 4096, FRAME_BYTES_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        round_trip_every_size(sizes[i]);
    }
}

static void a_cut_or_prolonged_body_is_a_protocol_error(void **state)
{
    (void)state;
    struct buf b = {0};
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    {                                                                                              \
        struct msg_##name in;                                                                      \
        struct msg_##name out;                                                                     \
        struct msg_##name zero;                                                                    \
        buf_clear(&b);                                                                             \
        memset(&zero, 0, sizeof zero);                                                             \
        fill_##name(&in, 5);                                                                       \
        assert_int_equal(message_encode_##name(&in, &b), 0);                                       \
        assert_int_equal(buf_append(&b, "x", 1), 0);                                               \
        for (size_t n = 0; n <= b.len; n++) {                                                      \
            int want = n == b.len - 1 ? 0 : ERR_PROTOCOL;                                          \
            /* A copy of its own, so that the sanitizer sees a read past the end. */               \
            uint8_t *copy = n == 0 ? NULL : mem_alloc(n);                                          \
            if (n > 0) {                                                                           \
                memcpy(copy, b.data, n);                                                           \
            }                                                                                      \
            assert_int_equal(message_decode_##name(slice_of(copy, n), &out), want);                \
            if (want != 0) {                                                                       \
                assert_memory_equal(&out, &zero, sizeof out);                                      \
            }                                                                                      \
            mem_free(copy);                                                                        \
        }                                                                                          \
    }
#include "rpc/message.def"
    buf_close(&b);
}

static void a_field_over_its_bound_is_neither_encoded_nor_decoded(void **state)
{
    (void)state;
    struct buf b = {0};
    struct msg_root_get m = {.uid = 1, .name = slice_of(pattern, ROOT_NAME_BYTES_MAX)};
    struct msg_root_get out;
    assert_int_equal(message_encode_root_get(&m, &b), 0);
    assert_int_equal(message_decode_root_get(slice_of(b.data, b.len), &out), 0);
    m.name.len++;
    assert_int_equal(message_encode_root_get(&m, &b), ERR_TOOBIG);
    store_u16(b.data + 8, ROOT_NAME_BYTES_MAX + 1);
    assert_int_equal(buf_append(&b, "x", 1), 0);
    assert_int_equal(message_decode_root_get(slice_of(b.data, b.len), &out), ERR_PROTOCOL);
    buf_clear(&b);
    struct msg_pages pages = {.pages = slice_of(pattern, FRAME_BYTES_MAX)};
    assert_int_equal(message_encode_pages(&pages, &b), ERR_TOOBIG); /* field fits, body doesn't */
    assert_int_equal(b.len, 0);
    struct msg_write w = {.data = slice_of(pattern, WRITE_BYTES_MAX + 1)};
    assert_int_equal(message_encode_write(&w, &b), ERR_TOOBIG);
    buf_close(&b);
}

static void encoding_without_memory_appends_nothing(void **state)
{
    (void)state;
    struct buf b = {0};
    struct msg_ping m = {.stamp = 1};
    mem_fault(0, 1);
    assert_int_equal(message_encode_ping(&m, &b), ERR_NOMEM);
    assert_int_equal(mem_fault_hits(), 1);
    mem_fault(0, 0);
    assert_int_equal(b.len, 0);
    assert_int_equal(message_encode_ping(&m, &b), 0);
    buf_close(&b);
}

static void a_command_is_patched_in_place(void **state)
{
    (void)state;
    struct buf b = {0};
    struct msg_add_u64 m = {.uid = 1, .ptr = 5, .offset = 8, .delta = 3};
    struct msg_add_u64 out;
    struct command_prefix p;
    assert_int_equal(message_encode_add_u64(&m, &b), 0);
    assert_int_equal(message_command_prefix(slice_of(b.data, b.len), &p), 0);
    assert_int_equal(p.uid, 1);
    p = (struct command_prefix){.uid = 9, .session = 10, .seq = 11, .acked = 12};
    message_patch_command(b.data, &p);
    assert_int_equal(message_decode_add_u64(slice_of(b.data, b.len), &out), 0);
    assert_int_equal(out.uid, 9);
    assert_int_equal(out.session, 10);
    assert_int_equal(out.seq, 11);
    assert_int_equal(out.acked, 12);
    assert_int_equal(out.ptr, 5);
    assert_int_equal(out.delta, 3);
    assert_int_equal(message_command_prefix(slice_of(b.data, 31), &p), ERR_PROTOCOL);
    buf_close(&b);
}

static void the_table_tells_lane_answer_and_command(void **state)
{
    (void)state;
    assert_string_equal(message_name(KIND_HEAP_OPEN), "HEAP_OPEN");
    assert_string_equal(message_name(77), "UNKNOWN");
    assert_string_equal(message_name(65535), "UNKNOWN");
    assert_true(message_known(KIND_PING));
    assert_false(message_known(0));
    assert_int_equal(message_lane(KIND_PEER_BATCH), MESSAGE_LANE_RAFT);
    assert_int_equal(message_lane(KIND_PAGES), MESSAGE_LANE_BULK);
    assert_int_equal(message_lane(KIND_WRITE), MESSAGE_LANE_CLIENT);
    assert_int_equal(message_answer(KIND_WRITE), KIND_RESULT);
    assert_int_equal(message_answer(KIND_READ), KIND_READ_RESULT);
    assert_int_equal(message_answer(KIND_RESULT), KIND_NONE);
    assert_true(message_is_command(KIND_TICK));
    assert_false(message_is_command(KIND_READ));
    assert_false(message_is_command(12345));
}

static void printing_escapes_cuts_and_never_overruns(void **state)
{
    (void)state;
    struct buf b = {0};
    char text[256];
    struct msg_root_get m = {.uid = 7, .name = slice_of("a\"b\n", 4)};
    assert_int_equal(message_encode_root_get(&m, &b), 0);
    struct slice body = slice_of(b.data, b.len);
    assert_int_equal(message_print(KIND_ROOT_GET, body, text, sizeof text), 0);
    assert_string_equal(text, "ROOT_GET{uid=7 at=0 name[4]=\"a\\x22b\\x0a\"}");
    for (size_t n = 1; n < 40; n++) {
        char *small = mem_alloc(n);
        assert_int_equal(message_print(KIND_ROOT_GET, body, small, n), 0);
        assert_true(strlen(small) < n);
        assert_memory_equal(small, text, strlen(small));
        mem_free(small);
    }
    body.len--;
    assert_int_equal(message_print(KIND_ROOT_GET, body, text, sizeof text), ERR_PROTOCOL);
    assert_string_equal(text, "ROOT_GET{kind=84, malformed, 21 bytes}");
    assert_int_equal(message_print(999, body, text, sizeof text), ERR_PROTOCOL);
    assert_string_equal(text, "UNKNOWN{kind=999, unknown, 21 bytes}");
    buf_close(&b);
}

static void a_frame_header_that_cant_be_is_refused(void **state)
{
    (void)state;
    const struct frame_header good = {
        .length = 5, .kind = KIND_PING, .request_id = 7, .trace_id = 9};
    const struct {
        size_t at;
        uint8_t value;
        int err;
        const char *text;
    } wrong[] = {
        {3, 1, ERR_TOOBIG, "limit"},
        {4, 0, ERR_PROTOCOL, "kind 0"},
        {7, 1, ERR_PROTOCOL, "flags"},
        {23, 1, ERR_PROTOCOL, "reserved"},
    };
    struct frame_header out;
    uint8_t bytes[FRAME_HEADER_BYTES];
    const char *cause = NULL;
    frame_pack(&good, bytes);
    assert_int_equal(frame_unpack(bytes, &out, &cause), 0);
    assert_memory_equal(&out, &good, sizeof good);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        frame_pack(&good, bytes);
        bytes[wrong[i].at] = wrong[i].value;
        assert_int_equal(frame_unpack(bytes, &out, &cause), wrong[i].err);
        assert_non_null(strstr(cause, wrong[i].text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_decodes_to_what_was_encoded),
        cmocka_unit_test(a_cut_or_prolonged_body_is_a_protocol_error),
        cmocka_unit_test(a_field_over_its_bound_is_neither_encoded_nor_decoded),
        cmocka_unit_test(encoding_without_memory_appends_nothing),
        cmocka_unit_test(a_command_is_patched_in_place),
        cmocka_unit_test(the_table_tells_lane_answer_and_command),
        cmocka_unit_test(printing_escapes_cuts_and_never_overruns),
        cmocka_unit_test(a_frame_header_that_cant_be_is_refused),
    };
    return cmocka_run_group_tests(tests, group_open, NULL);
}
