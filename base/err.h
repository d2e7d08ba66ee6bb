/* Error codes: one table for the whole product.
 *
 * A function that can fail returns `int`: 0, or a negative ERR_* code. The codes travel on the wire
 * and stand in the arena (results of commands), and the SDK publishes the same numbers as
 * CAIRN_E_*: a number, once given, is never changed or reused. Append only. */
#ifndef CAIRN_BASE_ERR_H
#define CAIRN_BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>

/* What a caller can do about an error (a set of bits). */
enum err_class {
    ERR_CLASS_NONE = 0,
    ERR_CLASS_RETRYABLE = 1 << 0,       /* the same request may succeed later, unchanged */
    ERR_CLASS_MAYBE_COMMITTED = 1 << 1, /* the effect may or may not have happened */
    ERR_CLASS_FATAL = 1 << 2,           /* this replica, connection or client can't go on */
};

/* clang-format off */
/*      name              number  class                        text                                              */
#define ERR_TABLE(X)                                                                                               \
    X(NOMEM,               1, ERR_CLASS_RETRYABLE,             "out of memory")                                    \
    X(INVAL,               2, ERR_CLASS_NONE,                  "invalid argument")                                 \
    X(NOTFOUND,            3, ERR_CLASS_NONE,                  "not found")                                        \
    X(EXISTS,              4, ERR_CLASS_NONE,                  "already exists")                                   \
    X(CONFLICT,            5, ERR_CLASS_NONE,                  "conflict: the current value is not the expected one") \
    X(STALE,               6, ERR_CLASS_NONE,                  "stale pointer: the object was freed")              \
    X(RANGE,               7, ERR_CLASS_NONE,                  "offset or length beyond the end of the object")    \
    X(TOOBIG,              8, ERR_CLASS_NONE,                  "larger than the limit")                            \
    X(NOSPACE,             9, ERR_CLASS_NONE,                  "the heap has no room for this")                    \
    X(BUSY,               10, ERR_CLASS_RETRYABLE,             "overloaded: try again later")                      \
    X(NOTLEADER,          11, ERR_CLASS_RETRYABLE,             "this node does not lead the shard")                \
    X(UNAVAILABLE,        12, ERR_CLASS_RETRYABLE,             "unavailable: no quorum or no connection")          \
    X(TIMEOUT,            13, ERR_CLASS_RETRYABLE,             "the deadline passed")                              \
    X(INDOUBT,            14, ERR_CLASS_MAYBE_COMMITTED,       "outcome unknown: it may or may not have happened") \
    X(CANCELED,           15, ERR_CLASS_NONE,                  "canceled")                                         \
    X(SESSION_EXPIRED,    16, ERR_CLASS_MAYBE_COMMITTED,       "the session has expired")                          \
    X(DENIED,             17, ERR_CLASS_NONE,                  "permission denied")                                \
    X(UNAUTHENTICATED,    18, ERR_CLASS_NONE,                  "no valid certificate")                             \
    X(PROTOCOL,           19, ERR_CLASS_FATAL,                 "protocol violation")                               \
    X(VERSION,            20, ERR_CLASS_FATAL,                 "unsupported protocol or format version")           \
    X(IO,                 21, ERR_CLASS_FATAL,                 "input/output error")                               \
    X(CORRUPT,            22, ERR_CLASS_FATAL,                 "corrupt data")                                     \
    X(DISKFULL,           23, ERR_CLASS_RETRYABLE,             "no space left on the device")                      \
    X(CLOSED,             24, ERR_CLASS_NONE,                  "closed")                                           \
    X(NOCONN,             25, ERR_CLASS_RETRYABLE,             "no connection")                                    \
    X(TLS,                26, ERR_CLASS_NONE,                  "TLS handshake failed")                             \
    X(CONFIG,             27, ERR_CLASS_NONE,                  "invalid configuration")                            \
    X(UNSUPPORTED,        28, ERR_CLASS_NONE,                  "not supported")                                    \
    X(NOSHARD,            29, ERR_CLASS_RETRYABLE,             "this node has no replica of the shard")            \
    X(WRONGCLUSTER,       30, ERR_CLASS_FATAL,                 "belongs to another cluster")                       \
    X(SHUTDOWN,           31, ERR_CLASS_RETRYABLE,             "shutting down")                                    \
    X(LOCKED,             32, ERR_CLASS_NONE,                  "in use by another process")                        \
    X(TRUNCATED,          33, ERR_CLASS_NONE,                  "ends too early")                                   \
    X(LIMIT,              34, ERR_CLASS_RETRYABLE,             "a limit of this session or shard is reached")         \
    X(SNAPSHOT_TOO_OLD,   35, ERR_CLASS_NONE,                  "older than the history that is kept")             \
    X(NOT_YET,            36, ERR_CLASS_NONE,                  "promised, but not allocated yet")                     \
    X(TX_ABORTED,         37, ERR_CLASS_NONE,                  "the transaction was aborted: nothing of it happened") \
    X(TX_UNDECIDED,       38, ERR_CLASS_RETRYABLE,             "a transaction that is being decided holds it")        \
    X(TX_TOO_LATE,        39, ERR_CLASS_RETRYABLE,             "the transaction came behind its deadline: nothing of it happened")
/* clang-format on */

enum err {
#define X(name, number, class, text) ERR_##name = -(number),
    ERR_TABLE(X)
#undef X
};

/* Lower-case text of a code, without a full stop; "unknown error" for a number not in the table.
 * thread: any */
const char *err_text_of(int err);

/* Of a function that has just failed on this thread with `err`: what the system said, where that is
 * more ("too many open files", "read-only file system"); else the text of the code. Valid until the
 * thread's next call. thread: any */
const char *err_why(int err);

/* "NOSPACE"; "UNKNOWN" for a number not in the table. thread: any */
const char *err_name(int err);

/* Bits of enum err_class; 0 for a number not in the table. thread: any */
int err_class(int err);

/* Text for an operator, filled only where one reads it (config, open, recover, connect): what,
 * where, and what to do. Borrowed by the callee for the call. A NULL `struct err_text *` is allowed
 * wherever one is taken. */
#define ERR_TEXT_BYTES 512
struct err_text {
    char text[ERR_TEXT_BYTES];
};

/* Fill `e` (when it isn't NULL), cutting at ERR_TEXT_BYTES - 1; returns `err`, so that `return
 * err_set(...)` reads well. */
int err_set(struct err_text *e, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* What no command's result may be: this copy of the heap is broken, or out of memory, and stops
 * (I2); every other code is an answer, and the same on every replica. thread: any */
static inline bool err_stops_replica(int err)
{
    return err == ERR_NOMEM || err == ERR_CORRUPT || err == ERR_IO;
}

/* The ERR_* code for an errno value: ENOSPC and EDQUOT -> DISKFULL, ENOMEM, EMFILE and ENFILE
 * (which pass, and lose nothing) -> NOMEM, ENOENT -> NOTFOUND, EEXIST -> EXISTS, EACCES, EPERM and
 * EROFS -> DENIED, everything else -> IO. thread: any */
int err_from_errno(int errnum);

#endif
