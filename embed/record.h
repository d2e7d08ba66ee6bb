/* What an entry of an embedded directory's log holds: commands, as this program made them. Format:
 * docs/embedded.md. The number stands in front, so that older logs stay readable. */
#ifndef CAIRN_EMBED_RECORD_H
#define CAIRN_EMBED_RECORD_H

#include "alloc/command.h"
#include "base/buf.h"
#include "base/embedded.h"

#define RECORD_ENTRY_TYPE   64u /* wal_entry.type */
#define RECORD_FORMAT       1u
#define RECORD_HEADER_BYTES 16u /* format u16, 0 u16, count u32, stamp u64 (HLC) */
/* Of a command: kind, fields, all numbers and all lengths. */
#define RECORD_FIXED_BYTES_MAX 80u

/* Beside enum heap_command_kind. */
enum record_kind {
    RECORD_HEAP_CREATE =
        128,          /* of the catalogue: name, ptr: uid, size: bytes_max, delta: retention_ms */
    RECORD_HEAP_DROP, /* of the catalogue: name */
    RECORD_LEASES_RETURN, /* count: leases, whoever has them; value: how many are left */
    RECORD_KINDS
};

/* What is read back. kind: one of enum heap_command_kind or enum record_kind. */
struct record {
    uint16_t kind;
    struct heap_command command; /* .kind is that of heap commands, otherwise 0 */
};

/* Appends the header with no command and no stamp. ERR_NOMEM. */
int record_begin(struct buf *out);
/* Appends one command and counts it. ERR_NOMEM: nothing appended; ERR_TOOBIG. */
int record_append(struct buf *out, const struct embedded_request *request);
/* Takes command number `ordinal` out again. */
void record_cut(struct buf *out, uint32_t ordinal);
void record_stamp(struct buf *out, uint64_t stamp);
size_t record_bytes(const struct embedded_request *request);

struct record_reader {
    struct cursor at;
    uint32_t left;
    uint64_t stamp;
};
/* ERR_CORRUPT, ERR_VERSION: no entry of ours. */
int record_read_open(struct record_reader *r, struct slice entry);
/* The next command; its slices point into the entry. ERR_NOTFOUND at the end; ERR_CORRUPT. */
int record_read(struct record_reader *r, struct record *out);

#endif
