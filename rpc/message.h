/* Messages: structs, encoders, decoders and printers, all generated from message.def.
 *
 * For each message NAME of the table:
 *
 *   KIND_NAME                       its number
 *   struct msg_name                 its fields in wire order; STR and BYTES are slices, after
 * decoding borrowed from the bytes that were decoded message_decode_name(body, out)  0, or
 * ERR_PROTOCOL: a body that is short, long, or has a field out of bounds. *out is zero then.
 *   message_encode_name(m, out)     appends the body to a buffer. ERR_TOOBIG (a field over its
 * bound, or the body over FRAME_BYTES_MAX) or ERR_NOMEM, nothing appended then.
 *   message_size_name(m)            bytes that encoding appends
 *
 * Bodies decode to exactly what was encoded and encode to exactly what was decoded. thread: any */
#ifndef CAIRN_RPC_MESSAGE_H
#define CAIRN_RPC_MESSAGE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"

enum message_kind {
    KIND_NONE = 0,
#define MESSAGE(NAME, name, number, lane, answer, doc) KIND_##NAME = number,
#include "rpc/message.def"
};
#define KIND_LIMIT 256 /* numbers are below */

#define MESSAGE(NAME, name, number, lane, answer, doc) struct msg_##name {
#define U8(name, doc)                                  uint8_t name;
#define U16(name, doc)                                 uint16_t name;
#define U32(name, doc)                                 uint32_t name;
#define U64(name, doc)                                 uint64_t name;
#define STR(name, max, doc)                            struct slice name;
#define BYTES(name, max, doc)                          struct slice name;
/* Not a field: C knows no empty struct, and one message has no fields. */
#define END(name)                                                                                  \
    uint8_t end_;                                                                                  \
    }                                                                                              \
    ;
#include "rpc/message.def"

#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    int message_decode_##name(struct slice body, struct msg_##name *out);                          \
    int message_encode_##name(const struct msg_##name *m, struct buf *out);                        \
    size_t message_size_##name(const struct msg_##name *m);
#include "rpc/message.def"

/* ---- commands -------------------------------------------------------------------------------- */

/* The first fields of every command's body, 32 bytes. */
struct command_prefix {
    uint64_t uid;
    uint64_t session;
    uint64_t seq;
    uint64_t acked;
};
#define COMMAND_PREFIX_BYTES 32u

/* 0, or ERR_PROTOCOL if the body is shorter than a prefix. */
int message_command_prefix(struct slice body, struct command_prefix *out);
/* Overwrites the prefix of an encoded command (at least COMMAND_PREFIX_BYTES at `body`): a client
 * encodes a command once and patches it when it knows the session, or to retry. */
void message_patch_command(uint8_t *body, const struct command_prefix *prefix);

/* ---- the table ------------------------------------------------------------------------------- */

enum message_lane { MESSAGE_LANE_ANY, MESSAGE_LANE_CLIENT, MESSAGE_LANE_RAFT, MESSAGE_LANE_BULK };

/* "HEAP_OPEN"; "UNKNOWN" for a number not in the table. */
const char *message_name(uint16_t kind);
bool message_known(uint16_t kind);
enum message_lane message_lane(uint16_t kind); /* ANY for an unknown kind */
/* KIND_NONE if it isn't a request. */
enum message_kind message_answer(uint16_t kind);
bool message_is_command(uint16_t kind);

/* Checks a body by its kind: 0 or ERR_PROTOCOL (also for an unknown kind). */
int message_check(uint16_t kind, struct slice body);
/* One line for logs and `cairnctl log dump`: WRITE{uid=7 ... data[3]="abc"}, cut at size - 1,
 * always terminated (size > 0). 0 or ERR_PROTOCOL, with a text in either case. Bytes that don't
 * print are escaped; long ones are cut. */
int message_print(uint16_t kind, struct slice body, char *out, size_t size);

#endif
