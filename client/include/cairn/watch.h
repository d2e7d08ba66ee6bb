/* Cairn: following the changes of an object, of roots, of a type or of a whole heap.
 *
 *     cairn_watch_opts opts;
 *     cairn_watch_opts_init(&opts, sizeof opts);
 *     cairn_watch_root(heap, "queue", &opts, &watch);
 *     while (cairn_watch_next(watch, UINT32_MAX, &event) == 0) { ... }
 *     cairn_watch_free(watch);
 *
 * The heap must keep history (cairn_heap_create's retention_ms; else UNSUPPORTED): changes are read
 * from it, so that within the retention nothing is missed and nothing comes twice, also across a
 * change of leader, the death of a node, a lost connection, or, with a token, of this process.
 *
 * Order: the changes of one object, and of one name, come in the order in which they happened. All
 * changes of one shard come in the order in which they were applied; between shards there is no
 * order but what versions tell. Only what is committed is seen; the changes of a transaction on one
 * shard come together (`more`), on several shards each for itself, with the same version.
 *
 * What a watch holds of changes that nobody has taken stays within opts.bytes_max, however slowly
 * it is read: each shard has a part of that, and isn't asked for more before it is empty. Nothing
 * is lost by it but time. One thread at a time per watch; cairn_watch_free() before the heap is
 * closed. */
#ifndef CAIRN_WATCH_H
#define CAIRN_WATCH_H

#include <cairn/cairn.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cairn_watch cairn_watch;

enum cairn_watch_from {
    CAIRN_WATCH_NOW = 0,     /* what changes after the call that opens the watch has begun */
    CAIRN_WATCH_TOKEN = 1,   /* behind the last change taken, in this process or another */
    CAIRN_WATCH_VERSION = 2, /* changes with a greater version */
    CAIRN_WATCH_OLDEST = 3   /* all that the history still has */
};
typedef struct cairn_watch_opts {
    size_t struct_size; /* set by cairn_watch_opts_init() */
    uint32_t from;      /* enum cairn_watch_from; default CAIRN_WATCH_NOW */
    int values;         /* non-zero: events with bytes; default 0 */
    uint64_t version;   /* CAIRN_WATCH_VERSION */
    const char *token;  /* CAIRN_WATCH_TOKEN; copied */
    uint64_t bytes_max; /* held by the watch; default 16 MiB, least 8.4 KiB for each shard and one
                           more (INVAL). Above 265 KiB for each nothing more is gained */
} cairn_watch_opts;
CAIRN_API void cairn_watch_opts_init(cairn_watch_opts *opts, size_t struct_size);

enum cairn_event_kind {
    CAIRN_EVENT_WRITTEN = 1,
    CAIRN_EVENT_RESIZED = 2,
    CAIRN_EVENT_BORN = 3,
    CAIRN_EVENT_FREED = 4,
    CAIRN_EVENT_ROOT_SET = 5,
    CAIRN_EVENT_ROOT_DELETED = 6
};
/* Memory of the watch, with all that it points at: until the next call for it. */
typedef struct cairn_event {
    uint32_t kind;         /* enum cairn_event_kind */
    uint32_t shard;        /* of the heap */
    uint64_t version;      /* of the change */
    uint64_t before;       /* of the object or name before it; 0: it didn't exist */
    uint64_t order;        /* place among the changes of the shard; grows */
    cairn_ptr ptr;         /* the object; a root: where it leads, CAIRN_NULL when it was deleted */
    cairn_ptr old_ptr;     /* a root: where it led, CAIRN_NULL when it didn't exist */
    const char *name;      /* of the root; NULL: an object */
    uint64_t offset;       /* written: where; resized: what was cut off began there */
    uint32_t len;          /* bytes written or cut off */
    uint32_t type;         /* of the object */
    uint64_t size;         /* of the object, afterwards */
    int more;              /* another change of the same transaction follows */
    const void *old_bytes; /* with opts.values: written: the range before; cut off: it; freed: the
                              object. NULL: none, or more than 4 KiB, or long ago and overwritten
                              often */
    const void *new_bytes; /* written: the range after; born: the object. NULL as above */
    uint32_t old_len, new_len;
} cairn_event;

/* Open a watch; *watch is given (free with cairn_watch_free). Blocking: when they return, the place
 * is fixed, and valid. opts NULL: from now.
 *
 * SNAPSHOT_TOO_OLD: changes behind that place are gone; cairn_errormsg() has the oldest version.
 * UNSUPPORTED: the heap keeps no history. STALE: nothing can change the
 * object any more. INVAL: the token is none, or of another watch or heap; a version more than a
 * second ahead. LIMIT: too many watches. */
CAIRN_API int cairn_watch_object(cairn_heap *heap, cairn_ptr ptr, const cairn_watch_opts *opts,
                                 cairn_watch **watch);
CAIRN_API int cairn_watch_root(cairn_heap *heap, const char *name, const cairn_watch_opts *opts,
                               cairn_watch **watch);
/* All roots whose names begin so; "": all. */
CAIRN_API int cairn_watch_roots(cairn_heap *heap, const char *prefix, const cairn_watch_opts *opts,
                                cairn_watch **watch);
CAIRN_API int cairn_watch_type(cairn_heap *heap, uint32_t type, const cairn_watch_opts *opts,
                               cairn_watch **watch);
/* Objects and roots. */
CAIRN_API int cairn_watch_heap(cairn_heap *heap, const cairn_watch_opts *opts, cairn_watch **watch);

/* The next change. timeout_ms 0: only what is here already (allowed in callbacks); UINT32_MAX: for
 * ever. TIMEOUT: none came; the watch goes on. Other errors end the watch, and come again: those
 * above (it was not read for longer than the retention, the object is gone), NOSHARD (the heap was
 * dropped), CANCELED (the directory is being closed), IO (it has failed). */
CAIRN_API int cairn_watch_next(cairn_watch *watch, uint32_t timeout_ms, const cairn_event **event);
/* A future that is ready when cairn_watch_next(watch, 0) returns something else than TIMEOUT. One
 * at a time (INVAL). */
CAIRN_API int cairn_watch_ready_async(cairn_watch *watch, cairn_future **future);

/* Where the watch goes on, behind the last event taken: [A-Za-z0-9_-], NUL-terminated; good for any
 * process, for the same heap and what is watched in it, as long as the history reaches. */
#define CAIRN_WATCH_TOKEN_BYTES 2816u
CAIRN_API int cairn_watch_token(cairn_watch *watch, char *token, size_t bytes); /* RANGE */
/* NULL is allowed. Never blocks. thread: any, but none that uses it. */
CAIRN_API void cairn_watch_free(cairn_watch *watch);

#ifdef __cplusplus
}
#endif

#endif
