/* Reading a directory: which files are the log, how far it reaches, and whether what is broken is a
 * tear or damage.
 *
 * Rule: S is the greatest synced_to of any valid block. A block that should be there and isn't
 * valid, below S: damage. At or above S: the log ends before it, whatever stands behind.
 * docs/wal-format.md gives the reasons. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "wal/internal.h"

struct names {
    struct wal_scan *scan;
    uint64_t *sequences;
    size_t count, capacity;
    size_t spare_capacity;
    int err;
};

static void push_u64(uint64_t **array, size_t *count, size_t *capacity, uint64_t value, int *err)
{
    if (*count == *capacity) {
        size_t more = *capacity == 0 ? 16 : *capacity * 2;
        uint64_t *bigger = mem_realloc(*array, more * sizeof **array);
        if (bigger == NULL) {
            *err = ERR_NOMEM;
            return;
        }
        *array = bigger;
        *capacity = more;
    }
    (*array)[(*count)++] = value;
}

static void on_name(void *arg, const char *name)
{
    struct names *n = arg;
    uint64_t number;
    char kind = wal__name_parse(name, &number);

    if (n->err != 0) {
        return;
    }
    if (kind == 's') {
        push_u64(&n->sequences, &n->count, &n->capacity, number, &n->err);
    } else if (kind == 'p') {
        push_u64(&n->scan->spares, &n->scan->spare_count, &n->spare_capacity, number, &n->err);
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = load_u64(a), y = load_u64(b);

    return x < y ? -1 : x > y;
}

static int read_all(struct wal_scan *scan, uint64_t sequence, int flags, uint8_t *out, size_t bytes,
                    uint64_t offset, size_t *got, uint64_t *file_bytes, struct err_text *e)
{
    char path[WAL_PATH_BYTES];
    struct env_file *file;
    int64_t n;
    int rv;

    *got = 0;
    wal__segment_path(scan->dir, sequence, path);
    rv = env_file_open(scan->env, path, flags, &file);
    if (rv != 0) {
        return err_set(e, rv, "can't open %s: %s", path, err_why(rv));
    }
    n = env_file_size(scan->env, file);
    if (n >= 0 && file_bytes != NULL) {
        *file_bytes = (uint64_t)n;
    }
    if (n >= 0) {
        n = env_file_pread(scan->env, file, out, bytes, offset);
    }
    env_file_close(scan->env, file);
    if (n < 0) {
        return err_set(e, (int)n, "can't read %s: %s", path, err_why((int)n));
    }
    *got = (size_t)n;
    return 0;
}

#define FIRST_LOOK ((size_t)16 << 10) /* of a log that was closed, all that was written */

/* Reads what image_load() begins with, so that the page cache has it. */
static int header_load(struct wal_scan *scan, uint64_t sequence, uint64_t node_uid,
                       struct wal_found *out, struct err_text *e)
{
    uint8_t *bytes = mem_alloc(FIRST_LOOK);
    size_t got;
    int rv;

    if (bytes == NULL) {
        return ERR_NOMEM;
    }
    rv = read_all(scan, sequence, ENV_OPEN_READ | ENV_OPEN_EXACT, bytes, FIRST_LOOK, 0, &got,
                  &out->file_bytes, e);
    if (rv != 0) {
        goto out;
    }
    if (got < WAL_HEADER_BYTES) {
        rv = err_set(e, ERR_CORRUPT, "log segment %" PRIu64 " is cut at offset %zu, in its header",
                     sequence, got);
        goto out;
    }
    rv = wal__header_unpack(bytes, &out->header);
    if (rv == ERR_VERSION) {
        err_set(e, rv, "log segment %" PRIu64 " was written by another version of the format",
                sequence);
        goto out;
    }
    if (rv != 0 || out->header.sequence != sequence) {
        rv = err_set(e, ERR_CORRUPT,
                     "log segment %" PRIu64 " of %s has a damaged header at offset 0", sequence,
                     scan->dir);
        goto out;
    }
    if (node_uid != 0 && out->header.node_uid != node_uid) {
        rv = err_set(e, ERR_WRONGCLUSTER,
                     "the log in %s belongs to node %016" PRIx64 ", this is node %016" PRIx64,
                     scan->dir, out->header.node_uid, node_uid);
    }
out:
    mem_free(bytes);
    return rv;
}

static struct slice image_from(const struct wal_scan *scan, uint64_t offset)
{
    return offset < scan->image_bytes ? slice_of(scan->image + offset, scan->image_bytes - offset)
                                      : slice_of(NULL, 0);
}

/* Is the last record of the block the mark of an orderly end? */
static bool is_clean_end(struct slice in, const struct wal_block_head *head)
{
    struct slice left =
        slice_of(in.data + WAL_BLOCK_HEAD_BYTES, head->bytes - WAL_BLOCK_HEAD_BYTES);
    struct wal_record record = {.kind = 0};
    size_t bytes;

    while (left.len > 0 && wal__record_unpack(left, &record, &bytes) == 0) {
        left = slice_of(left.data + bytes, left.len - bytes);
    }
    return left.len == 0 && record.kind == WAL_KIND_MARK && record.type == WAL_RECORD_TYPE_CLEAN;
}

/* Does what was read of the segment, every block of it, lead to such a mark? Nothing is ever
 * written behind it. */
static bool ends_clean(const struct wal_scan *scan, const struct wal_header *header)
{
    struct wal_block_head head;
    uint64_t at = WAL_HEADER_BYTES;
    bool clean = false;

    while (!clean && wal__block_check(image_from(scan, at), header, at, &head)) {
        clean = is_clean_end(image_from(scan, at), &head);
        at += wal__round_up(head.bytes, WAL_ALIGN);
    }
    return clean;
}

/* The segment in scan->image: all of it, or up to the mark of an orderly end. */
static int image_load(struct wal_scan *scan, size_t i, struct err_text *e)
{
    const struct wal_found *s = &scan->segments[i];
    size_t bytes = (size_t)(s->file_bytes < s->header.bytes ? s->file_bytes : s->header.bytes);
    size_t got;
    int rv;

    if (scan->image_valid && scan->image_of == i) {
        return 0;
    }
    scan->image_valid = false;
    mem_free(scan->image);
    scan->image = mem_aligned(WAL_ALIGN, wal__round_up(bytes, WAL_ALIGN));
    if (scan->image == NULL) {
        return ERR_NOMEM;
    }
    scan->image_bytes = 0;
    for (size_t want = FIRST_LOOK; scan->image_bytes < bytes; want *= 2) {
        size_t part = (want < bytes ? want : bytes) - scan->image_bytes;
        rv = read_all(scan, s->header.sequence, ENV_OPEN_READ, scan->image + scan->image_bytes,
                      part, scan->image_bytes, &got, NULL, e);
        if (rv != 0) {
            return rv;
        }
        scan->image_bytes += got;
        if (got < part || ends_clean(scan, &s->header)) {
            break;
        }
    }
    scan->image_of = i;
    scan->image_valid = true;
    return 0;
}

static void saw_block(struct wal_scan *scan, const struct wal_block_head *head)
{
    if (head->synced_to > scan->synced_to) {
        scan->synced_to = head->synced_to;
    }
}

/* Raises S by whatever is valid in the image from `offset` on; blocks may start at every 4096
 * bytes. */
static void scan_behind(struct wal_scan *scan, const struct wal_header *header, uint64_t offset)
{
    struct wal_block_head head;

    while (offset < scan->image_bytes) {
        if (wal__block_check(image_from(scan, offset), header, offset, &head)) {
            saw_block(scan, &head);
            offset += wal__round_up(head.bytes, WAL_ALIGN);
        } else {
            offset += WAL_ALIGN;
        }
    }
}

static int damage(const struct wal_scan *scan, size_t segment, uint64_t offset, struct err_text *e)
{
    return err_set(e, ERR_CORRUPT,
                   "log segment %" PRIu64 " of %s is damaged at offset %" PRIu64
                   ", below what is known to have been synced: this log can't be trusted",
                   scan->segments[segment].header.sequence, scan->dir, offset);
}

/* The opening block of segment i says how far the segment before it is valid. */
static int opening_check(struct wal_scan *scan, size_t i, bool *valid, struct err_text *e)
{
    struct wal_block_head head;
    struct wal_record record;
    size_t bytes;
    struct slice in;
    int rv = image_load(scan, i, e);

    *valid = false;
    if (rv != 0) {
        return rv;
    }
    in = image_from(scan, WAL_HEADER_BYTES);
    if (!wal__block_check(in, &scan->segments[i].header, WAL_HEADER_BYTES, &head)) {
        return 0;
    }
    rv = wal__record_unpack(
        slice_of(in.data + WAL_BLOCK_HEAD_BYTES, head.bytes - WAL_BLOCK_HEAD_BYTES), &record,
        &bytes);
    if (rv != 0 || (head.flags & WAL_BLOCK_FLAG_OPENING) == 0 || record.kind != WAL_KIND_OPENING) {
        return err_set(e, ERR_CORRUPT, "log segment %" PRIu64 " has no opening record at offset %u",
                       scan->segments[i].header.sequence, WAL_HEADER_BYTES);
    }
    scan->segments[i].prev_valid = record.index;
    if (i > 0) {
        struct wal_found *before = &scan->segments[i - 1];
        if (record.index < WAL_HEADER_BYTES || record.index > before->header.bytes ||
            record.index % WAL_ALIGN != 0) {
            return err_set(e, ERR_CORRUPT,
                           "log segment %" PRIu64 " states an impossible length of the one before",
                           scan->segments[i].header.sequence);
        }
        before->valid_bytes = record.index;
    }
    *valid = true;
    return 0;
}

/* Segments at the end whose opening block isn't there were prepared and not used, unless something
 * says that what they held was synced. */
static int drop_unused(struct wal_scan *scan, struct err_text *e)
{
    while (scan->count > 0) {
        size_t last = scan->count - 1;
        const struct wal_header *h = &scan->segments[last].header;
        bool valid;
        int rv = opening_check(scan, last, &valid, e);
        if (rv != 0) {
            return rv;
        }
        if (valid) {
            return 0;
        }
        scan_behind(scan, h, WAL_HEADER_BYTES);
        if (scan->synced_to > h->base + WAL_HEADER_BYTES) {
            return damage(scan, last, WAL_HEADER_BYTES, e);
        }
        scan->stale[scan->stale_count++] = h->sequence;
        scan->count--;
        scan->image_valid = false;
    }
    return 0;
}

/* S is the end of a block, or it was never written by us. */
static bool ends_a_block(const struct wal_scan *scan, const struct wal_found *s)
{
    uint64_t at = WAL_HEADER_BYTES;

    while (at < s->valid_bytes && s->header.base + at < scan->synced_to) {
        struct wal_block_head head;
        if (!wal__block_check(image_from(scan, at), &s->header, at, &head)) {
            return false;
        }
        at += wal__round_up(head.bytes, WAL_ALIGN);
    }
    return scan->synced_to <= s->header.base + WAL_HEADER_BYTES ||
           s->header.base + at == scan->synced_to;
}

/* How far the last segment goes, and S. */
static int find_end(struct wal_scan *scan, struct err_text *e)
{
    size_t last = scan->count - 1;
    struct wal_found *s = &scan->segments[last];
    struct wal_block_head head;
    uint64_t at = WAL_HEADER_BYTES;
    int rv = image_load(scan, last, e);

    if (rv != 0) {
        return rv;
    }
    while (wal__block_check(image_from(scan, at), &s->header, at, &head)) {
        saw_block(scan, &head);
        if (head.position_end < head.position || head.position_end >= 1ull << 62) {
            return damage(scan, last, at, e);
        }
        scan->position = head.position_end;
        at += wal__round_up(head.bytes, WAL_ALIGN);
    }
    s->valid_bytes = at;
    scan_behind(scan, &s->header, at);
    if (s->header.base + at < scan->synced_to || !ends_a_block(scan, s)) {
        return damage(scan, last, at, e);
    }
    /* For the operator: was something begun there? Remains of a recycled file's earlier life
     * aren't. */
    scan->torn = wal__block_begun(image_from(scan, at), &s->header);
    return 0;
}

static int segments_load(struct wal_scan *scan, struct names *names, uint64_t node_uid,
                         struct err_text *e)
{
    size_t from = names->count;

    if (names->count > 1) {
        qsort(names->sequences, names->count, sizeof *names->sequences, compare_u64);
    }
    /* Released files can come back after a power loss, as their renames aren't synced: what lies
     * below a hole isn't the log. Should it have been, replay misses entries and says so. */
    while (from > 0 &&
           (from == names->count || names->sequences[from] == names->sequences[from - 1] + 1)) {
        from--;
    }
    scan->segments = mem_zalloc((names->count + 1) * sizeof *scan->segments);
    scan->stale = mem_zalloc((names->count + 1) * sizeof *scan->stale);
    if (scan->segments == NULL || scan->stale == NULL) {
        return ERR_NOMEM;
    }
    for (size_t i = 0; i < from; i++) {
        scan->stale[scan->stale_count++] = names->sequences[i];
    }
    for (size_t i = from; i < names->count; i++) {
        struct wal_found *s = &scan->segments[scan->count];
        int rv = header_load(scan, names->sequences[i], node_uid, s, e);
        if (rv != 0) {
            return rv;
        }
        scan->count++;
        if (scan->count > 1 && s->header.base != s[-1].header.base + s[-1].header.bytes) {
            return err_set(e, ERR_CORRUPT,
                           "log segment %" PRIu64 " doesn't continue the one before",
                           s->header.sequence);
        }
    }
    return 0;
}

/* Is the newest segment there that ever was? `last`: the newest of the files, 0 if there is none */
static int newest_check(struct wal_scan *scan, uint64_t last, uint64_t node_uid, struct err_text *e)
{
    int rv = wal__newest_read(scan->env, scan->dir, &scan->newest);

    if (rv != 0) {
        return err_set(e, rv, "can't read %s/newest: %s", scan->dir, err_why(rv));
    }
    if (scan->newest.generation != 0 && node_uid != 0 && scan->newest.node_uid != node_uid) {
        return err_set(e, ERR_WRONGCLUSTER,
                       "the log in %s belongs to node %016" PRIx64 ", this is node %016" PRIx64,
                       scan->dir, scan->newest.node_uid, node_uid);
    }
    if (scan->newest.sequence > 0 && last == 0) {
        return err_set(e, ERR_CORRUPT, "the log in %s is gone: there is no segment of it",
                       scan->dir);
    }
    if (scan->newest.sequence > last) {
        return err_set(e, ERR_CORRUPT,
                       "segments of the log in %s are missing: it has come to %" PRIu64
                       ", and those behind %" PRIu64
                       " are gone, with what they acknowledged: this node's log can't be trusted",
                       scan->dir, scan->newest.sequence, last);
    }
    return 0;
}

int wal__scan_open(struct wal_scan *scan, struct env *env, const char *dir, uint64_t node_uid,
                   struct err_text *e)
{
    struct names names;
    size_t below_gap;
    bool valid;
    int rv;

    memset(scan, 0, sizeof *scan);
    scan->env = env;
    scan->dir = dir;
    memset(&names, 0, sizeof names);
    names.scan = scan;
    rv = env_dir_list(env, dir, on_name, &names);
    if (rv == 0) {
        rv = names.err;
    }
    if (rv != 0) {
        err_set(e, rv, "can't list %s: %s", dir, err_why(rv));
        goto out;
    }
    rv = segments_load(scan, &names, node_uid, e);
    below_gap = scan->stale_count;
    if (rv == 0) {
        rv = drop_unused(scan, e);
    }
    /* A segment is released only when a younger one is in use: files below a hole with nothing but
     * unused ones above it mean that the newest segment was taken away. */
    if (rv == 0 && scan->count == 0 && below_gap > 0) {
        rv = err_set(e, ERR_CORRUPT,
                     "segments of the log in %s are missing: %" PRIu64
                     " and older are there, the ones behind are not",
                     dir, scan->stale[below_gap - 1]);
    }
    /* Each says where the one before it ends; the last one was looked at by drop_unused(). */
    for (size_t i = 0; rv == 0 && i + 1 < scan->count; i++) {
        rv = opening_check(scan, i, &valid, e);
        if (rv == 0 && !valid) {
            rv = damage(scan, i, WAL_HEADER_BYTES, e);
        }
    }
    if (rv == 0 && scan->count > 0) {
        rv = find_end(scan, e);
    }
    /* Last, so that what is there can be shown. */
    if (rv == 0) {
        rv =
            newest_check(scan, names.count > 0 ? names.sequences[names.count - 1] : 0, node_uid, e);
    }
out:
    mem_free(names.sequences);
    return rv;
}

int wal__scan_blocks(struct wal_scan *scan, wal_block_cb cb, void *arg, struct err_text *e)
{
    for (size_t i = 0; i < scan->count; i++) {
        const struct wal_found *s = &scan->segments[i];
        int rv = image_load(scan, i, e);
        if (rv != 0) {
            return rv;
        }
        for (uint64_t at = WAL_HEADER_BYTES; at < s->valid_bytes;) {
            struct wal_block_head head;
            struct slice in = image_from(scan, at);
            if (!wal__block_check(in, &s->header, at, &head) ||
                wal__round_up(head.bytes, WAL_ALIGN) > s->valid_bytes - at) {
                return damage(scan, i, at, e);
            }
            rv = cb(arg, scan, i, at, &head,
                    slice_of(in.data + WAL_BLOCK_HEAD_BYTES, head.bytes - WAL_BLOCK_HEAD_BYTES));
            if (rv == ERR_CORRUPT) {
                return err_set(e, rv,
                               "log segment %" PRIu64 " holds records that contradict each other, "
                               "in the block at offset %" PRIu64,
                               s->header.sequence, at);
            }
            if (rv != 0) {
                return rv;
            }
            at += wal__round_up(head.bytes, WAL_ALIGN);
        }
    }
    return 0;
}

void wal__scan_close(struct wal_scan *scan)
{
    mem_free(scan->segments);
    mem_free(scan->stale);
    mem_free(scan->spares);
    mem_free(scan->image);
    memset(scan, 0, sizeof *scan);
}
