/* A watch without threads and requests: what it has heard from its shards, and how much of that its
 * program has taken. libcairn (watch.c) and the simulator ask for it. */
#ifndef CAIRN_CLIENT_WATCH_READER_H
#define CAIRN_CLIENT_WATCH_READER_H

#include "cairn/watch.h"
#include "rpc/message.h"

enum watch_what { WATCH_OBJECT = 1, WATCH_ROOT, WATCH_ROOTS, WATCH_TYPE, WATCH_ALL };

/* Of one shard: changes that it has sent and nobody has taken yet. */
struct watch_source {
    uint32_t shard;
    bool heard;        /* it has answered */
    bool full;         /* there may be something to take */
    uint64_t position; /* of the last change taken */
    uint64_t next;     /* where it goes on behind `changes` */
    struct buf changes;
    size_t taken; /* bytes of them */
};
struct watch_reader {
    struct msg_watch query; /* name: in `name` */
    char name[ROOT_NAME_BYTES_MAX + 1];
    char event_name[ROOT_NAME_BYTES_MAX + 1];
    uint64_t heap;
    uint32_t count, turn;
    uint32_t share;   /* bytes that a source may have: with `spent` they stay within the bound */
    struct buf spent; /* taken to its end: the last event taken may point there */
    struct watch_source sources[];
};

/* what: ptr, type or name as it wants them. shard: of `count` 1 the only one; else all of them from
 * 0 on. ERR_INVAL (a token that isn't one, or of another watch), ERR_NOMEM. */
int watch_reader_new(const struct msg_watch *what, uint64_t heap, uint32_t shard, uint32_t count,
                     const cairn_watch_opts *opts, struct watch_reader **out);
/* Least opts->bytes_max of so many sources (an assert of watch_reader_new). */
uint64_t watch_reader_bytes_min(uint32_t count);
void watch_reader_free(struct watch_reader *r); /* NULL is allowed */
/* Should source number i be asked? Not while it has something to take. */
bool watch_reader_wants(const struct watch_reader *r, uint32_t i);
/* What to ask it; wait_ms and uid are the caller's. Valid as long as the reader. */
struct msg_watch watch_reader_query(const struct watch_reader *r, uint32_t i);
/* Its answer; *changes is taken (and empty afterwards). ERR_PROTOCOL: no node sends such a thing.
 */
int watch_reader_hear(struct watch_reader *r, uint32_t i, uint64_t token, struct buf *changes);
bool watch_reader_has(const struct watch_reader *r);
/* False: there is none. *emptied: number of the source that should be asked now, UINT32_MAX none.
 */
bool watch_reader_next(struct watch_reader *r, cairn_event *out, uint32_t *emptied);
void watch_reader_token(const struct watch_reader *r, char out[CAIRN_WATCH_TOKEN_BYTES]);

#endif
