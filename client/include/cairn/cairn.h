/* Cairn: malloc for a cluster. The C SDK, libcairn.
 *
 * A program connects to a cluster, opens a heap, allocates objects in it, links them with
 * persistent pointers and gives names ("roots") to those it wants to find again. Objects survive
 * crashes, power loss and the loss of machines: a call that changes something returns 0 only after
 * a majority of replicas has it on disk.
 *
 * Errors. Every call returns 0 or a negative CAIRN_E_* code; cairn_errormsg() then has a sentence
 * for people. Exactly once. A call is retried inside across leader changes and restarts, and takes
 * effect at most once; after 0 exactly once. CAIRN_E_INDOUBT (a deadline passed, or the session
 * ended, while the answer was outstanding): it may or may not have happened. Threads. A client and
 * a heap may be used by any thread at a time. A library thread does the network; callbacks run on
 * it, must not block, and a blocking call inside one returns CAIRN_E_INVAL.
 * NULL. Only arguments of which the header says so may be NULL, and buffers of no bytes; any other
 * one yields CAIRN_E_INVAL, and the message names it. (What returns nothing does nothing then, a
 * count is 0, a text ""; a handle that isn't NULL must be one that was given and not yet freed.)
 * Blocking and asynchronous. Every network call exists in both forms; the blocking one is the
 * asynchronous one and a wait. Lifetime. client outlives its heaps, heap outlives its futures;
 * cairn_client_free() fails pending calls with CAIRN_E_CANCELED. Not usable in a child after
 * fork(). Embedded. All of it works on a directory of this machine too, without a cluster.
 */
#ifndef CAIRN_CAIRN_H
#define CAIRN_CAIRN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CAIRN_API __attribute__((visibility("default")))
#else
#define CAIRN_API
#endif

#define CAIRN_VERSION_MAJOR 0
#define CAIRN_VERSION_MINOR 1
#define CAIRN_VERSION_PATCH 0

/* ---- errors: the numbers never change ------------------------------------------------------- */

enum cairn_error {
    CAIRN_OK = 0,
    CAIRN_E_NOMEM = -1,
    CAIRN_E_INVAL = -2,
    CAIRN_E_NOTFOUND = -3,
    CAIRN_E_EXISTS = -4,
    CAIRN_E_CONFLICT = -5,
    CAIRN_E_STALE = -6,
    CAIRN_E_RANGE = -7,
    CAIRN_E_TOOBIG = -8,
    CAIRN_E_NOSPACE = -9,
    CAIRN_E_BUSY = -10,
    CAIRN_E_NOTLEADER = -11,
    CAIRN_E_UNAVAILABLE = -12,
    CAIRN_E_TIMEOUT = -13,
    CAIRN_E_INDOUBT = -14,
    CAIRN_E_CANCELED = -15,
    CAIRN_E_SESSION_EXPIRED = -16,
    CAIRN_E_DENIED = -17,
    CAIRN_E_UNAUTHENTICATED = -18,
    CAIRN_E_PROTOCOL = -19,
    CAIRN_E_VERSION = -20,
    CAIRN_E_IO = -21,
    CAIRN_E_CORRUPT = -22,
    CAIRN_E_DISKFULL = -23,
    CAIRN_E_CLOSED = -24,
    CAIRN_E_NOCONN = -25,
    CAIRN_E_TLS = -26,
    CAIRN_E_CONFIG = -27,
    CAIRN_E_UNSUPPORTED = -28,
    CAIRN_E_NOSHARD = -29,
    CAIRN_E_WRONGCLUSTER = -30,
    CAIRN_E_SHUTDOWN = -31,
    CAIRN_E_LOCKED = -32,
    CAIRN_E_TRUNCATED = -33,
    CAIRN_E_LIMIT = -34,
    CAIRN_E_SNAPSHOT_TOO_OLD = -35,
    CAIRN_E_NOT_YET = -36,
    CAIRN_E_TX_ABORTED = -37,
    CAIRN_E_TX_UNDECIDED = -38,
    CAIRN_E_TX_TOO_LATE = -39
};

/* What a caller can do about an error: bits of cairn_error_is(). */
enum cairn_error_class {
    CAIRN_ERROR_RETRYABLE = 1 << 0,       /* the same call may succeed later */
    CAIRN_ERROR_MAYBE_COMMITTED = 1 << 1, /* the effect may have happened */
    CAIRN_ERROR_FATAL = 1 << 2            /* this client can't go on */
};

/* "0.1.0". thread: any */
CAIRN_API const char *cairn_version(void);
/* Short lower-case text of a code, static. thread: any */
CAIRN_API const char *cairn_strerror(int code);
/* "CAIRN_E_NOSPACE"; static. thread: any */
CAIRN_API const char *cairn_error_name(int code);
/* The calling thread's last failure as a sentence (cause, and what to do next); "" if there was
 * none. Valid until the thread's next call. thread: any */
CAIRN_API const char *cairn_errormsg(void);
/* Non-zero if `code` belongs to the class. thread: any */
CAIRN_API int cairn_error_is(int code, enum cairn_error_class error_class);

/* ---- pointers ------------------------------------------------------------------------------- */

/* A persistent pointer: shard:12 | generation:14 | slot:38. Valid within its heap, on every node,
 * for ever; a freed one yields CAIRN_E_STALE, always. May be stored in objects as it is. */
typedef struct cairn_ptr {
    uint64_t word;
} cairn_ptr;
static const cairn_ptr CAIRN_NULL = {0};
static inline int cairn_ptr_is_null(cairn_ptr ptr)
{
    return ptr.word == 0;
}
static inline int cairn_ptr_equals(cairn_ptr a, cairn_ptr b)
{
    return a.word == b.word;
}
/* "shard.generation.slot", slot in ten hex digits: 2.1.0000000041. Writes at most `size` bytes with
 * the final NUL. */
#define CAIRN_PTR_TEXT_BYTES 32
CAIRN_API void cairn_ptr_format(cairn_ptr ptr, char *text, size_t size);
/* CAIRN_E_INVAL if `text` isn't such a pointer. */
CAIRN_API int cairn_ptr_parse(const char *text, cairn_ptr *out);

/* ---- connecting ----------------------------------------------------------------------------- */

typedef struct cairn_client cairn_client;
typedef struct cairn_heap cairn_heap;
typedef struct cairn_future cairn_future;

typedef struct cairn_client_opts {
    size_t struct_size;    /* set by cairn_client_opts_init() */
    const char *ca_file;   /* NULL: $CAIRN_CA */
    const char *cert_file; /* NULL: $CAIRN_CERT */
    const char *key_file;  /* NULL: $CAIRN_KEY */
    uint32_t timeout_ms;   /* deadline of a call, with all retries; default 30000 */
    uint32_t inflight_max; /* calls in flight per shard, 1..1024; more wait inside; default 256 */
    uint32_t lease_ms;     /* how long a silent client's sessions live; default 60000 */
    /* That client's library thread serves this one, too, with the same certificate (the three files
     * are NULL then): for programs with many clients. Its callbacks wait for one another then. Both
     * may be freed in any order. NULL: a thread of its own. */
    cairn_client *thread_of;
} cairn_client_opts;
CAIRN_API void cairn_client_opts_init(cairn_client_opts *opts, size_t struct_size);

/* Connects to the first node that answers and learns the others. endpoints:
 * "cairn://host:port,host:port", with or without the scheme; NULL: $CAIRN_ENDPOINTS. Or a directory
 * on this machine, without any node: "file:///dir" (docs/embedded.md); one process at a time,
 * CAIRN_E_LOCKED otherwise; also CAIRN_E_CORRUPT, CAIRN_E_IO, CAIRN_E_DISKFULL. opts NULL:
 * defaults. *client is given (free with cairn_client_free). CAIRN_E_UNAVAILABLE, CAIRN_E_TLS,
 * CAIRN_E_UNAUTHENTICATED, CAIRN_E_INVAL, CAIRN_E_NOTFOUND (a certificate file). */
CAIRN_API int cairn_connect(const char *endpoints, const cairn_client_opts *opts,
                            cairn_client **client);
CAIRN_API void cairn_client_free(cairn_client *client); /* NULL is allowed */
/* Lines of the library's log; level 0 debug .. 3 error. NULL: none (the default). Process-wide; any
 * thread calls cb. */
typedef void (*cairn_log_cb)(void *arg, int level, const char *line);
CAIRN_API void cairn_set_log(cairn_log_cb cb, void *arg);

/* ---- heaps ---------------------------------------------------------------------------------- */

typedef struct cairn_heap_opts {
    size_t struct_size;
    uint32_t shards;       /* default 4 */
    uint32_t replicas;     /* of each shard; default 0: 3, or all nodes if there are fewer */
    uint64_t bytes_max;    /* of all shards together; default 1 GiB */
    uint64_t retention_ms; /* how far back versions can be read; default 0: no history is kept */
} cairn_heap_opts;
CAIRN_API void cairn_heap_opts_init(cairn_heap_opts *opts, size_t struct_size);

/* Name: [a-z0-9][a-z0-9_-]*, at most 63 bytes. CAIRN_E_EXISTS. Returns when every shard has a
 * leader. opts NULL: defaults. */
CAIRN_API int cairn_heap_create(cairn_client *client, const char *name,
                                const cairn_heap_opts *opts);
CAIRN_API int cairn_heap_drop(cairn_client *client,
                              const char *name); /* all its objects are gone */
CAIRN_API int cairn_heap_open(cairn_client *client, const char *name,
                              cairn_heap **heap);  /* CAIRN_E_NOTFOUND */
CAIRN_API void cairn_heap_close(cairn_heap *heap); /* no call may be pending; NULL is allowed */
CAIRN_API uint32_t cairn_heap_shards(const cairn_heap *heap);
/* From now on, on every shard; 0 drops what history there is. At most a year. INVAL. */
CAIRN_API int cairn_heap_set_retention(cairn_heap *heap, uint64_t retention_ms);
/* One bounded step of compaction on one shard (0..cairn_heap_shards() - 1): moves objects together
 * until about `bytes` (1..1 MiB) are copied. Pointers stay valid. *moved (may be NULL): bytes;
 * *more (may be NULL): non-zero if another step would move something. */
CAIRN_API int cairn_heap_defrag(cairn_heap *heap, uint32_t shard, uint32_t bytes, uint64_t *moved,
                                int *more);
/* Gives free space at the end of a shard back, at most `bytes`; *freed (may be NULL): how much. */
CAIRN_API int cairn_heap_trim(cairn_heap *heap, uint32_t shard, uint64_t bytes, uint64_t *freed);

/* ---- objects -------------------------------------------------------------------------------- */

#define CAIRN_OBJECT_BYTES_MAX (1u << 30)
#define CAIRN_WRITE_BYTES_MAX                                                                      \
    (512u << 10) /* one write, one compare-and-write, one initial value                            \
                  */

typedef struct cairn_object {
    cairn_ptr ptr;
    uint64_t size;
    uint64_t
        version; /* of its newest change: a hybrid logical clock stamp, grows with every change */
    uint32_t type;
    uint32_t flags;
} cairn_object;

/* Allocates `bytes` (1..CAIRN_OBJECT_BYTES_MAX) zeroed bytes on some shard. type: a number of
 * yours, 0 untyped. An object that only this program's memory points at is lost when the program
 * ends: link it or name it. NOSPACE: that shard is full; the next call takes the next one. */
CAIRN_API int cairn_alloc(cairn_heap *heap, uint64_t bytes, uint32_t type, cairn_ptr *ptr);
/* The same with its first init_bytes bytes given: allocated and filled in one atomic step. */
CAIRN_API int cairn_alloc_init(cairn_heap *heap, uint64_t bytes, uint32_t type, const void *init,
                               size_t init_bytes, cairn_ptr *ptr);
/* count * bytes, zeroed; TOOBIG when the product is too large. */
CAIRN_API int cairn_calloc(cairn_heap *heap, uint64_t count, uint64_t bytes, uint32_t type,
                           cairn_ptr *ptr);
/* Changes the size (1..CAIRN_OBJECT_BYTES_MAX). The pointer stays, and so do the bytes up to the
 * smaller size; new ones are zero. NOSPACE: it is as it was. */
CAIRN_API int cairn_realloc(cairn_heap *heap, cairn_ptr ptr, uint64_t bytes);
CAIRN_API int cairn_free(cairn_heap *heap, cairn_ptr ptr); /* STALE on a second free */
/* Reads exactly len bytes at one version of the object, whatever len. version may be NULL. RANGE.
 */
CAIRN_API int cairn_read(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, void *data, size_t len,
                         uint64_t *version);
/* Writes atomically; len 1..CAIRN_WRITE_BYTES_MAX, TOOBIG beyond: write larger ranges in pieces,
 * each atomic. */
CAIRN_API int cairn_write(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, const void *data,
                          size_t len);
/* CAIRN_E_CONFLICT if the bytes there aren't `expected`. */
CAIRN_API int cairn_compare_and_write(cairn_heap *heap, cairn_ptr ptr, uint64_t offset,
                                      const void *expected, const void *desired, size_t len);
/* CAIRN_E_CONFLICT if the object has changed since `version`. */
CAIRN_API int cairn_write_if_version(cairn_heap *heap, cairn_ptr ptr, uint64_t version,
                                     uint64_t offset, const void *data, size_t len);
/* Adds to a little-endian u64, wrapping; *before (may be NULL) gets the old value. */
CAIRN_API int cairn_add_u64(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, uint64_t delta,
                            uint64_t *before);
CAIRN_API int cairn_stat(cairn_heap *heap, cairn_ptr ptr, cairn_object *object);

/* ---- older versions, in a heap that keeps history ------------------------------------------- */

/* As it was at version `at` (of any object: versions are points in time). SNAPSHOT_TOO_OLD: older
 * than the heap's retention; NOTFOUND: not allocated yet then; STALE: freed by then; INVAL: more
 * than a second in the future (up to then the call waits). A freed object can be read at versions
 * before its free. version may be NULL. */
CAIRN_API int cairn_read_at(cairn_heap *heap, cairn_ptr ptr, uint64_t at, uint64_t offset,
                            void *data, size_t len, uint64_t *version);
CAIRN_API int cairn_stat_at(cairn_heap *heap, cairn_ptr ptr, uint64_t at, cairn_object *object);
enum cairn_change_kind {
    CAIRN_CHANGE_UNKNOWN = 0, /* older than the history */
    CAIRN_CHANGE_WRITE = 1,
    CAIRN_CHANGE_RESIZE = 2,
    CAIRN_CHANGE_BIRTH = 3,
    CAIRN_CHANGE_FREE = 4
};
typedef struct cairn_change {
    uint64_t version; /* of the change: read at it to see what it left behind */
    uint64_t before;  /* the object's version before; 0: there was none */
    uint64_t size;    /* of the object, afterwards */
    uint64_t offset;  /* of what was overwritten */
    uint32_t len;
    uint32_t kind; /* enum cairn_change_kind */
} cairn_change;
/* What changed an object, newest first, as far as history is kept; cb returns non-zero to stop. */
typedef int (*cairn_history_cb)(void *arg, const cairn_change *change);
CAIRN_API int cairn_history(cairn_heap *heap, cairn_ptr ptr, cairn_history_cb cb, void *arg);

/* ---- types ----------------------------------------------------------------------------------
 *
 * A type tells what objects hold: their fields, by name, for `cairnctl obj show`, and their
 * pointers, for checks and for whatever follows them. It costs an object nothing but its number.
 *
 *     struct account {
 *         int64_t balance;
 *         cairn_ptr next;
 *         char name[32];
 *     };
 *     CAIRN_TYPE(account, CAIRN_I64(balance), CAIRN_PTR(next, account), CAIRN_CHARS(name));
 *
 *     cairn_type_register(heap, CAIRN_TYPE_OF(account));
 *     cairn_alloc(heap, sizeof(struct account), CAIRN_TYPE_NUMBER(account), &ptr);
 *
 * A field may be an array, and may lie in a nested struct (CAIRN_I64(limits.upper)); what isn't
 * listed is opaque. The number is cairn_type_number() of the name, 16384 or greater; one of yours
 * (1..16383, which saves 16 bytes in every object below 1 KiB) is given with CAIRN_TYPE_NUMBERED.
 */

enum cairn_field_kind {
    CAIRN_FIELD_BYTES = 1,
    CAIRN_FIELD_CHARS = 2, /* text, NUL-padded */
    CAIRN_FIELD_U8 = 3,
    CAIRN_FIELD_U16 = 4,
    CAIRN_FIELD_U32 = 5,
    CAIRN_FIELD_U64 = 6,
    CAIRN_FIELD_I8 = 7,
    CAIRN_FIELD_I16 = 8,
    CAIRN_FIELD_I32 = 9,
    CAIRN_FIELD_I64 = 10,
    CAIRN_FIELD_F32 = 11,
    CAIRN_FIELD_F64 = 12,
    CAIRN_FIELD_PTR = 13
};
typedef struct cairn_field {
    const char *name;
    uint32_t kind; /* enum cairn_field_kind */
    uint32_t offset;
    uint32_t count;  /* elements; bytes for BYTES and CHARS; 0, of the last field: as many as
                        the object has room for */
    uint32_t target; /* PTR: number of the type it points at; 0: see target_name */
    const char *target_name; /* PTR: a type whose number is made of its name; NULL: any */
} cairn_field;
typedef struct cairn_type {
    const char *name;
    uint32_t number; /* 0: made of the name */
    uint32_t size;   /* of the struct; objects may be larger */
    uint32_t field_count;
    const cairn_field *fields;
} cairn_type;

/* The number objects carry: type->number, or one made of the name (FNV-1a of 31 bits, with 16384
 * added to numbers below that), the same in every program. thread: any */
CAIRN_API uint32_t cairn_type_number(const cairn_type *type);
/* On every shard of the heap. The same type again is no error; one that has more fields where none
 * were, or a larger struct, extends it. CAIRN_E_CONFLICT: it doesn't agree with what is registered,
 * or the number is another type's. INVAL: fields overlap or leave the struct. */
CAIRN_API int cairn_type_register(cairn_heap *heap, const cairn_type *type);
/* All registered types by number; `type` and its names are valid during the call. cb returns
 * non-zero to stop. */
typedef int (*cairn_type_cb)(void *arg, const cairn_type *type, uint64_t version);
CAIRN_API int cairn_type_list(cairn_heap *heap, cairn_type_cb cb, void *arg);

#if defined(__GNUC__)
#define CAIRN_UNUSED __attribute__((unused))
#else
#define CAIRN_UNUSED
#endif

#define CAIRN_TYPE_NUMBERED(T, NUMBER, ...)                                                        \
    static inline CAIRN_UNUSED const cairn_type *cairn_type_of_##T(void)                           \
    {                                                                                              \
        typedef struct T cairn_self_;                                                              \
        static const cairn_field fields_[] = {__VA_ARGS__};                                        \
        static const cairn_type type_ = {#T, NUMBER, (uint32_t)sizeof(cairn_self_),                \
                                         (uint32_t)(sizeof fields_ / sizeof fields_[0]), fields_}; \
        return &type_;                                                                             \
    }                                                                                              \
    struct T
#define CAIRN_TYPE(T, ...)   CAIRN_TYPE_NUMBERED(T, 0, __VA_ARGS__)
#define CAIRN_TYPE_OF(T)     cairn_type_of_##T()
#define CAIRN_TYPE_NUMBER(T) cairn_type_number(CAIRN_TYPE_OF(T))

/* Only inside of CAIRN_TYPE. A member whose size is no multiple of the kind's doesn't compile. */
#define CAIRN_SIZEOF_(m) sizeof(((cairn_self_ *)0)->m)
#define CAIRN_COUNT_(m, bytes)                                                                     \
    (uint32_t)(CAIRN_SIZEOF_(m) / (bytes) +                                                        \
               sizeof(char[CAIRN_SIZEOF_(m) % (bytes) == 0 ? 1 : -1]) - 1)
#define CAIRN_MEMBER_(m, kind, bytes, target, target_name)                                         \
    {                                                                                              \
#m, kind, (uint32_t)offsetof(cairn_self_, m), CAIRN_COUNT_(m, bytes), target, target_name  \
    }
#define CAIRN_BYTES(m) CAIRN_MEMBER_(m, CAIRN_FIELD_BYTES, 1, 0, NULL)
#define CAIRN_CHARS(m) CAIRN_MEMBER_(m, CAIRN_FIELD_CHARS, 1, 0, NULL)
#define CAIRN_U8(m)    CAIRN_MEMBER_(m, CAIRN_FIELD_U8, 1, 0, NULL)
#define CAIRN_U16(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_U16, 2, 0, NULL)
#define CAIRN_U32(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_U32, 4, 0, NULL)
#define CAIRN_U64(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_U64, 8, 0, NULL)
#define CAIRN_I8(m)    CAIRN_MEMBER_(m, CAIRN_FIELD_I8, 1, 0, NULL)
#define CAIRN_I16(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_I16, 2, 0, NULL)
#define CAIRN_I32(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_I32, 4, 0, NULL)
#define CAIRN_I64(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_I64, 8, 0, NULL)
#define CAIRN_F32(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_F32, 4, 0, NULL)
#define CAIRN_F64(m)   CAIRN_MEMBER_(m, CAIRN_FIELD_F64, 8, 0, NULL)
/* A cairn_ptr at objects of struct T (which needn't be declared yet); of a numbered type; at any.
 */
#define CAIRN_PTR(m, T)               CAIRN_MEMBER_(m, CAIRN_FIELD_PTR, 8, 0, #T)
#define CAIRN_PTR_NUMBERED(m, NUMBER) CAIRN_MEMBER_(m, CAIRN_FIELD_PTR, 8, NUMBER, NULL)
#define CAIRN_PTR_ANY(m)              CAIRN_MEMBER_(m, CAIRN_FIELD_PTR, 8, 0, NULL)

/* ---- iterating ------------------------------------------------------------------------------ */

typedef struct cairn_iter cairn_iter;
#define CAIRN_TYPE_ANY UINT32_MAX
/* Every live object of a type (0: untyped ones; CAIRN_TYPE_ANY: all), one shard after another,
 * fetched by the page. Objects that come or go meanwhile may or may not be seen; all others are
 * seen once. One thread at a time; freed before the heap is closed. */
CAIRN_API int cairn_iter_new(cairn_heap *heap, uint32_t type, cairn_iter **iter);
/* *end is non-zero, and *object zeroed, when there are no more. */
CAIRN_API int cairn_iter_next(cairn_iter *iter, cairn_object *object, int *end);
CAIRN_API void cairn_iter_free(cairn_iter *iter); /* NULL is allowed */

/* ---- roots: names for objects; 1..255 bytes without NUL ------------------------------------- */

CAIRN_API int cairn_root_get(cairn_heap *heap, const char *name, cairn_ptr *ptr); /* NOTFOUND */
CAIRN_API int cairn_root_set(cairn_heap *heap, const char *name, cairn_ptr ptr);
/* expected CAIRN_NULL: the root must not exist; desired CAIRN_NULL: delete it. CONFLICT. */
CAIRN_API int cairn_root_compare_and_set(cairn_heap *heap, const char *name, cairn_ptr expected,
                                         cairn_ptr desired);
CAIRN_API int cairn_root_delete(cairn_heap *heap, const char *name); /* NOTFOUND */
/* All roots, one shard after another, each in bytewise order; cb returns non-zero to stop. */
typedef int (*cairn_root_cb)(void *arg, const char *name, cairn_ptr ptr, uint64_t version);
CAIRN_API int cairn_root_list(cairn_heap *heap, cairn_root_cb cb, void *arg);

/* ---- futures --------------------------------------------------------------------------------
 *
 * x_async(...) returns 0 with *future given (free with cairn_future_free; that never blocks, and a
 * pending call goes on unobserved), or an error at once. Input bytes are copied before it returns;
 * an output buffer is borrowed until the future is ready. */
CAIRN_API int cairn_alloc_async(cairn_heap *heap, uint64_t bytes, uint32_t type,
                                cairn_future **future);
CAIRN_API int cairn_alloc_init_async(cairn_heap *heap, uint64_t bytes, uint32_t type,
                                     const void *init, size_t init_bytes, cairn_future **future);
CAIRN_API int cairn_realloc_async(cairn_heap *heap, cairn_ptr ptr, uint64_t bytes,
                                  cairn_future **future);
CAIRN_API int cairn_free_async(cairn_heap *heap, cairn_ptr ptr, cairn_future **future);
CAIRN_API int cairn_read_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, size_t len,
                               cairn_future **future);
CAIRN_API int cairn_write_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, const void *data,
                                size_t len, cairn_future **future);
CAIRN_API int cairn_compare_and_write_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset,
                                            const void *expected, const void *desired, size_t len,
                                            cairn_future **future);
CAIRN_API int cairn_write_if_version_async(cairn_heap *heap, cairn_ptr ptr, uint64_t version,
                                           uint64_t offset, const void *data, size_t len,
                                           cairn_future **future);
CAIRN_API int cairn_add_u64_async(cairn_heap *heap, cairn_ptr ptr, uint64_t offset, uint64_t delta,
                                  cairn_future **future);
CAIRN_API int cairn_stat_async(cairn_heap *heap, cairn_ptr ptr, cairn_future **future);
CAIRN_API int cairn_root_get_async(cairn_heap *heap, const char *name, cairn_future **future);
CAIRN_API int cairn_root_set_async(cairn_heap *heap, const char *name, cairn_ptr ptr,
                                   cairn_future **future);
CAIRN_API int cairn_root_compare_and_set_async(cairn_heap *heap, const char *name,
                                               cairn_ptr expected, cairn_ptr desired,
                                               cairn_future **future);
CAIRN_API int cairn_root_delete_async(cairn_heap *heap, const char *name, cairn_future **future);

/* Waits until ready; timeout_ms 0 polls, UINT32_MAX waits for ever. 0, or CAIRN_E_TIMEOUT (the call
 * goes on). Many calls: start them all, then wait; in a directory they are one write then. */
CAIRN_API int cairn_future_wait(cairn_future *future, uint32_t timeout_ms);
/* Runs cb once, on the library thread (also when it is ready already); cb may free the future. At
 * most one per future. */
typedef void (*cairn_future_cb)(cairn_future *future, void *arg);
CAIRN_API int cairn_future_on_ready(cairn_future *future, cairn_future_cb cb, void *arg);
/* The call's outcome; CAIRN_E_INVAL while it isn't ready. */
CAIRN_API int cairn_future_error(const cairn_future *future);
CAIRN_API const char *
cairn_future_errormsg(const cairn_future *future); /* the future's own; valid until its free */
/* Results by kind of call; CAIRN_E_INVAL for another kind. Bytes are the future's own; version may
 * be NULL. */
CAIRN_API int cairn_future_get_ptr(const cairn_future *future, cairn_ptr *ptr);
CAIRN_API int cairn_future_get_u64(const cairn_future *future, uint64_t *value);
CAIRN_API int cairn_future_get_bytes(const cairn_future *future, const void **data, size_t *len,
                                     uint64_t *version);
CAIRN_API int cairn_future_get_object(const cairn_future *future, cairn_object *object);
CAIRN_API void cairn_future_free(cairn_future *future); /* NULL is allowed */

/* ---- operators ------------------------------------------------------------------------------ */

/* Asks one node a question (docs/protocol.md, ADMIN): node is a node's name, or NULL for any.
 * args_json NULL: none. *json is given (free with cairn_json_free). */
CAIRN_API int cairn_admin(cairn_client *client, const char *node, const char *verb,
                          const char *args_json, char **json);
CAIRN_API void cairn_json_free(char *json); /* NULL is allowed */
/* The same, with a deadline of its own (0: the client's). cairn_future_get_bytes() has the answer,
 * without a zero behind it. */
CAIRN_API int cairn_admin_async(cairn_client *client, const char *node, const char *verb,
                                const char *args_json, uint32_t timeout_ms, cairn_future **future);

#ifdef __cplusplus
}
#endif

#endif
