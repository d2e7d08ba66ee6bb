/* The codec of the embedded log: what goes in comes out, and hostile bytes don't get in. */
#include "support/test.h"

#include "base/mem.h"
#include "embed/record.h"

static void put_three(struct buf *b)
{
    struct embedded_request r = {
        .op = EMBEDDED_ALLOC, .size = 100, .type = 7, .data = slice_of("hello", 5)};
    assert_int_equal(record_begin(b), 0);
    assert_int_equal(record_append(b, &r), 0);
    r = (struct embedded_request){.op = EMBEDDED_COMPARE_AND_WRITE,
                                  .session = 1,
                                  .ptr = 2,
                                  .expected_ptr = 3,
                                  .offset = 4,
                                  .size = 5,
                                  .delta = UINT64_MAX,
                                  .if_version = 6,
                                  .type = 8,
                                  .count = 9,
                                  .data = slice_of("new", 3),
                                  .expected = slice_of("old", 3),
                                  .name = slice_of("n", 1)};
    assert_int_equal(record_append(b, &r), 0);
    r = (struct embedded_request){.op = (enum embedded_op)RECORD_HEAP_DROP,
                                  .name = slice_of("orders", 6)};
    assert_int_equal(record_append(b, &r), 0);
    record_stamp(b, 1234);
}

static void what_goes_in_comes_out(void **state)
{
    (void)state;
    struct buf b = {0};
    struct record_reader reader;
    struct record r;
    put_three(&b);
    assert_int_equal(record_read_open(&reader, slice_of(b.data, b.len)), 0);
    assert_int_equal(reader.stamp, 1234);
    assert_int_equal(record_read(&reader, &r), 0);
    assert_int_equal(r.kind, HEAP_COMMAND_ALLOC);
    assert_int_equal(r.command.kind, HEAP_COMMAND_ALLOC);
    assert_int_equal(r.command.size, 100);
    assert_int_equal(r.command.type, 7);
    assert_int_equal(r.command.ptr, 0);
    assert_true(slice_equals(r.command.data, slice_of("hello", 5)));
    assert_int_equal(record_read(&reader, &r), 0);
    assert_int_equal(r.command.session, 1);
    assert_int_equal(r.command.ptr, 2);
    assert_int_equal(r.command.expected_ptr, 3);
    assert_int_equal(r.command.offset, 4);
    assert_int_equal(r.command.size, 5);
    assert_true(r.command.delta == UINT64_MAX);
    assert_int_equal(r.command.if_version, 6);
    assert_int_equal(r.command.type, 8);
    assert_int_equal(r.command.count, 9);
    assert_true(slice_equals(r.command.expected, slice_of("old", 3)));
    assert_int_equal(record_read(&reader, &r), 0);
    assert_int_equal(r.kind, RECORD_HEAP_DROP);
    assert_int_equal(r.command.kind, 0);
    assert_true(slice_equals(r.command.name, slice_of("orders", 6)));
    assert_int_equal(record_read(&reader, &r), ERR_NOTFOUND);
    buf_close(&b);
}

/* Fields are asked for in groups: each is there when no other is. */
static void each_field_stands_alone(void **state)
{
    (void)state;
    static const struct embedded_request alone[] = {{.type = 1},
                                                    {.count = 1},
                                                    {.session = 1},
                                                    {.ptr = 1},
                                                    {.expected_ptr = 1},
                                                    {.offset = 1},
                                                    {.size = 1},
                                                    {.delta = 1},
                                                    {.if_version = 1},
                                                    {.data = {(const uint8_t *)"a", 1}},
                                                    {.expected = {(const uint8_t *)"a", 1}},
                                                    {.name = {(const uint8_t *)"a", 1}}};
    for (size_t i = 0; i < sizeof alone / sizeof alone[0]; i++) {
        struct embedded_request r = alone[i];
        struct buf b = {0};
        struct record_reader reader;
        struct record out;
        r.op = EMBEDDED_WRITE;
        assert_int_equal(record_begin(&b), 0);
        assert_int_equal(record_append(&b, &r), 0);
        assert_int_equal(b.len, RECORD_HEADER_BYTES + record_bytes(&r));
        assert_int_equal(record_read_open(&reader, slice_of(b.data, b.len)), 0);
        assert_int_equal(record_read(&reader, &out), 0);
        const struct heap_command *c = &out.command;
        const uint64_t in[] = {r.type,         r.count,    r.session,      r.ptr,
                               r.expected_ptr, r.offset,   r.size,         r.delta,
                               r.if_version,   r.data.len, r.expected.len, r.name.len};
        const uint64_t back[] = {c->type,         c->count,    c->session,      c->ptr,
                                 c->expected_ptr, c->offset,   c->size,         c->delta,
                                 c->if_version,   c->data.len, c->expected.len, c->name.len};
        assert_memory_equal(in, back, sizeof in);
        assert_int_equal(in[i], 1);
        assert_int_equal(record_read(&reader, &out), ERR_NOTFOUND);
        buf_close(&b);
    }
}

static void a_command_can_be_taken_back(void **state)
{
    (void)state;
    static const uint16_t kinds[] = {HEAP_COMMAND_ALLOC, HEAP_COMMAND_COMPARE_AND_WRITE,
                                     RECORD_HEAP_DROP};
    for (uint32_t cut = 0; cut < 3; cut++) {
        struct buf b = {0};
        struct record_reader reader;
        struct record r;
        put_three(&b);
        record_cut(&b, cut);
        assert_int_equal(record_read_open(&reader, slice_of(b.data, b.len)), 0);
        assert_int_equal(reader.stamp, 1234);
        for (uint32_t i = 0; i < 3; i++) {
            if (i != cut) {
                assert_int_equal(record_read(&reader, &r), 0);
                assert_int_equal(r.kind, kinds[i]);
            }
        }
        assert_int_equal(record_read(&reader, &r), ERR_NOTFOUND);
        buf_close(&b);
    }
}

/* The bytes of format 1, for ever. */
static void the_format_stays(void **state)
{
    (void)state;
    static const uint8_t golden[] = {1,    0, 0,    0, 1,   0,   0,  0, 0xd2,
                                     4,    0, 0,    0, 0,   0,   0, /* header: one command, stamp */
                                     4,    0, 0x28, 2,              /* WRITE: ptr, offset, data */
                                     0x11, 0, 0,    0, 0,   0,   0,  0, 8,
                                     0,    0, 0,    0, 0,   0,   0, /* 17, 8 */
                                     3,    0, 0,    0, 'a', 'b', 'c'};
    struct embedded_request r = {
        .op = EMBEDDED_WRITE, .ptr = 17, .offset = 8, .data = slice_of("abc", 3)};
    struct buf b = {0};
    assert_int_equal(record_begin(&b), 0);
    assert_int_equal(record_append(&b, &r), 0);
    assert_int_equal(b.len, RECORD_HEADER_BYTES + record_bytes(&r));
    record_stamp(&b, 1234);
    assert_int_equal(b.len, sizeof golden);
    assert_memory_equal(b.data, golden, sizeof golden);
    buf_close(&b);
}

static int read_all(const uint8_t *data, size_t len)
{
    uint8_t *copy =
        malloc(len == 0 ? 1 : len); /* exactly, so that a sanitizer sees every step over */
    struct record_reader reader;
    struct record r;
    memcpy(copy, data, len);
    int rv = record_read_open(&reader, slice_of(copy, len));
    while (rv == 0) {
        rv = record_read(&reader, &r);
    }
    free(copy);
    return rv;
}

static void what_is_cut_or_strange_is_refused(void **state)
{
    (void)state;
    struct buf b = {0};
    put_three(&b);
    for (size_t len = 0; len < b.len; len++) {
        assert_int_equal(read_all(b.data, len), ERR_CORRUPT);
    }
    assert_int_equal(read_all(b.data, b.len), ERR_NOTFOUND);
    assert_int_equal(buf_append(&b, "x", 1), 0);
    assert_int_equal(read_all(b.data, b.len), ERR_CORRUPT);
    b.len--;
    b.data[0] = 2;
    assert_int_equal(read_all(b.data, b.len), ERR_VERSION);
    b.data[0] = 1;
    b.data[RECORD_HEADER_BYTES] = HEAP_COMMAND_KINDS;
    assert_int_equal(read_all(b.data, b.len), ERR_CORRUPT);
    b.data[RECORD_HEADER_BYTES] = HEAP_COMMAND_ALLOC;
    b.data[RECORD_HEADER_BYTES + 3] |= 0x80;
    assert_int_equal(read_all(b.data, b.len), ERR_CORRUPT);
    buf_close(&b);
}

static void any_byte_may_be_flipped(void **state)
{
    (void)state;
    struct buf b = {0};
    put_three(&b);
    for (size_t i = 0; i < b.len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1u << bit);
            int rv = read_all(b.data, b.len);
            assert_true(rv == ERR_NOTFOUND || rv == ERR_CORRUPT || rv == ERR_VERSION);
            b.data[i] ^= (uint8_t)(1u << bit);
        }
    }
    buf_close(&b);
}

static void too_much_is_refused_and_nothing_appended(void **state)
{
    (void)state;
    uint8_t *big = calloc(1, COMMAND_BYTES_MAX);
    struct embedded_request r = {
        .op = EMBEDDED_WRITE, .ptr = 1, .data = slice_of(big, COMMAND_BYTES_MAX)};
    struct buf b = {0};
    assert_int_equal(record_begin(&b), 0);
    assert_int_equal(record_append(&b, &r), ERR_TOOBIG);
    assert_int_equal(b.len, RECORD_HEADER_BYTES);
    r.data.len = 4096;
    mem_fault(0, 1);
    assert_int_equal(record_append(&b, &r), ERR_NOMEM);
    mem_fault(0, 0);
    assert_int_equal(b.len, RECORD_HEADER_BYTES);
    assert_int_equal(load_u32(b.data + 4), 0);
    buf_close(&b);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(each_field_stands_alone),
        cmocka_unit_test(a_command_can_be_taken_back),
        cmocka_unit_test(the_format_stays),
        cmocka_unit_test(what_is_cut_or_strange_is_refused),
        cmocka_unit_test(any_byte_may_be_flipped),
        cmocka_unit_test(too_much_is_refused_and_nothing_appended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
