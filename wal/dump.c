/* The offline view of a log directory. */
#include <string.h>

#include "wal/internal.h"

struct dump {
    void (*cb)(void *arg, const struct wal_dump_record *record);
    void *arg;
};

static const char *kind_name(enum wal_kind kind)
{
    switch (kind) {
    case WAL_KIND_ENTRY:
        return "entry";
    case WAL_KIND_TRUNCATE:
        return "truncate";
    case WAL_KIND_HARD_STATE:
        return "hard-state";
    case WAL_KIND_CHECKPOINT:
        return "checkpoint";
    case WAL_KIND_CREATE:
        return "create";
    case WAL_KIND_RESTART:
        return "restart";
    case WAL_KIND_DROP:
        return "drop";
    case WAL_KIND_COMMIT:
        return "commit";
    case WAL_KIND_MARK:
        return "mark";
    case WAL_KIND_OPENING:
        return "opening";
    case WAL_KIND_RESTATE:
        return "restate";
    }
    return "unknown";
}

static int on_block(void *arg, const struct wal_scan *scan, size_t segment, uint64_t offset,
                    const struct wal_block_head *head, struct slice records)
{
    struct dump *d = arg;

    (void)head;
    offset += WAL_BLOCK_HEAD_BYTES;
    while (records.len > 0) {
        struct wal_record r;
        struct wal_dump_record out;
        size_t bytes;
        int rv = wal__record_unpack(records, &r, &bytes);
        if (rv != 0) {
            return rv;
        }
        memset(&out, 0, sizeof out);
        out.segment = scan->segments[segment].header.sequence;
        out.offset = offset;
        out.uid = r.uid;
        out.index = r.index;
        out.term = r.term;
        out.kind = kind_name(r.kind);
        out.type = r.type;
        out.data = r.data;
        d->cb(d->arg, &out);
        offset += bytes;
        records.data += bytes;
        records.len -= bytes;
    }
    return 0;
}

int wal_dump(struct env *env, const char *dir,
             void (*cb)(void *arg, const struct wal_dump_record *record), void *arg,
             struct err_text *e)
{
    struct dump d = {cb, arg};
    struct wal_scan scan;
    int rv;

    if (strlen(dir) > WAL_DIR_BYTES_MAX) {
        return err_set(e, ERR_INVAL, "a log's directory has a name of at most %u bytes",
                       WAL_DIR_BYTES_MAX);
    }
    rv = wal__scan_open(&scan, env, dir, 0, e);

    /* Damage found while looking for the end still leaves the blocks before it to be shown. */
    if (rv == 0 || (rv == ERR_CORRUPT && scan.count > 0)) {
        int shown = wal__scan_blocks(&scan, on_block, &d, rv == 0 ? e : NULL);
        rv = rv == 0 ? shown : rv;
    }
    wal__scan_close(&scan);
    return rv;
}
