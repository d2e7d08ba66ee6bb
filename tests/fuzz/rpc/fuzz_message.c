/* All message decoders: what decodes must encode to the same bytes, and the printer must stay in
 * its buffer. The first two bytes choose the message. */
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "rpc/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(uint16_t kind, struct slice body, struct buf *out)
{
    switch (kind) {
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    case number: {                                                                                 \
        struct msg_##name m;                                                                       \
        if (message_decode_##name(body, &m) == 0) {                                                \
            int rv = message_encode_##name(&m, out);                                               \
            assert(rv == 0 || (rv == ERR_TOOBIG && body.len > FRAME_BYTES_MAX));                   \
            assert(rv != 0 || slice_equals(body, slice_of(out->data, out->len)));                  \
        }                                                                                          \
        break;                                                                                     \
    }
#include "rpc/message.def"
    default:
        assert(message_check(kind, body) == ERR_PROTOCOL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) {
        return 0;
    }
    uint16_t kind = load_u16(data);
    kind = (data[2] & 1) != 0 ? kind : kind % KIND_LIMIT; /* mostly numbers of the table */
    struct slice body = slice_of(data + 3, size - 3);
    struct buf out = {0};
    check(kind, body, &out);
    buf_close(&out);
    char text[200];
    size_t room = 1 + data[2] % sizeof text;
    int rv = message_print(kind, body, text, room);
    assert(rv == message_check(kind, body));
    assert(strnlen(text, room) < room);
    struct command_prefix prefix;
    (void)message_command_prefix(body, &prefix);
    return 0;
}
