/* Any bytes as a log directory: opening it never crashes, and what opens once opens again with the
 * same content.
 *
 * First byte 0: the rest is one segment file, as it is. Else it is a recipe for segments whose
 * headers and checksums are right and whose records are anything, as random bytes would never come
 * past the checksums. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/log.h"
#include "unit/wal/mem_env.h"
#include "wal/internal.h"

#define SEGMENT_BYTES (64u << 10)
#define SEGMENTS_MAX  3
#define RECORDS_MAX   200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void file_add(struct mem_env *m, uint64_t sequence, const uint8_t *data, size_t len)
{
    char path[WAL_PATH_BYTES];
    struct env_file *file;
    int rv;

    wal__segment_path("/d", sequence, path);
    rv = env_file_open(&m->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    assert(rv == 0);
    rv = env_file_pwrite(&m->env, file, data, len, 0);
    assert(rv == 0);
    env_file_close(&m->env, file);
}

/* Small numbers mostly, so that records meet each other. */
static uint64_t number(struct cursor *c)
{
    uint8_t b = cursor_u8(c);

    return b < 250 ? b % 16 : cursor_u64(c);
}

static size_t record_add(struct cursor *c, uint8_t *out)
{
    static const uint8_t zeroes[64];
    struct wal_record r = {.kind = (enum wal_kind)(1 + cursor_u8(c) % 11)};
    uint8_t words[WAL_RESTATE_BYTES];
    size_t len = cursor_u8(c) % 40;

    r.type = cursor_u8(c);
    r.uid = 1 + cursor_u8(c) % 3;
    r.index = number(c);
    r.term = number(c);
    r.data = slice_of(zeroes, len);
    if (r.kind == WAL_KIND_CHECKPOINT || r.kind == WAL_KIND_RESTATE) {
        for (size_t i = 0; i < sizeof words; i += 8) {
            store_u64(words + i, number(c));
        }
        r.data = slice_of(words, r.kind == WAL_KIND_CHECKPOINT ? 16 : sizeof words);
    }
    return wal__record_pack(&r, out);
}

static uint64_t segment_add(struct mem_env *m, struct cursor *c, const struct wal_header *h,
                            uint64_t prev_valid)
{
    uint8_t *file = calloc(1, SEGMENT_BYTES);
    uint64_t at = WAL_HEADER_BYTES;
    uint64_t position = cursor_u8(c);

    assert(file != NULL);
    wal__header_pack(h, file);
    while (cursor_left(c) > 0 && at + 3 * WAL_ALIGN < SEGMENT_BYTES) {
        uint8_t what = cursor_u8(c);
        struct wal_block_head head = {.position = position};
        size_t used = WAL_BLOCK_HEAD_BYTES;

        if (what % 16 == 0) {
            break;
        }
        if (at == WAL_HEADER_BYTES) {
            struct wal_record r = {
                .kind = WAL_KIND_OPENING, .index = prev_valid, .term = cursor_u8(c) % 4};
            used += wal__record_pack(&r, file + at + used);
            head.flags = WAL_BLOCK_FLAG_OPENING;
        }
        for (int i = 0; i < what / 16 && used < WAL_ALIGN; i++) {
            used += record_add(c, file + at + used);
        }
        head.bytes = (uint32_t)used;
        position += used;
        head.position_end = position;
        head.synced_to = what % 16 == 1 ? cursor_u64(c) : h->base + at;
        at += wal__block_seal(file + at, &head, h, at);
    }
    file_add(m, h->sequence, file, SEGMENT_BYTES);
    free(file);
    return at;
}

static void recipe(struct mem_env *m, struct cursor *c)
{
    unsigned count = 1 + cursor_u8(c) % SEGMENTS_MAX;
    uint64_t prev_valid = 0;

    for (unsigned i = 0; i < count; i++) {
        struct wal_header h = {.sequence = 5 + i,
                               .salt = 99 + i,
                               .base = (uint64_t)i * SEGMENT_BYTES,
                               .bytes = SEGMENT_BYTES,
                               .node_uid = 7};
        prev_valid = segment_add(m, c, &h, prev_valid);
    }
}

static void digest_log(void *arg, struct wal_log *log)
{
    uint64_t *sum = arg;
    uint64_t words[6] = {wal_log_uid(log), wal_log_prev_index(log), wal_log_last_index(log),
                         wal_log_last_term(log), wal_log_commit_hint(log)};
    uint64_t h = hash64(1, words, sizeof words);
    uint64_t index = words[1] + 1;

    assert(words[2] >= words[1]);
    while (index <= words[2]) {
        struct wal_entry e[8];
        size_t count;
        int rv = wal_log_read(log, index, e, 8, 1 << 20, &count);
        assert(rv == 0);
        assert(count > 0);
        for (size_t i = 0; i < count; i++) {
            h = hash64(h ^ e[i].term, e[i].data.data, e[i].data.len);
            if (e[i].block != NULL) {
                wal_block_unref(e[i].block);
            }
        }
        index += count;
    }
    *sum += h;
}

static int open_once(struct mem_env *m, uint64_t *digest)
{
    struct wal_opts opts = {.dir = "/d", .node_uid = 7, .segment_bytes = SEGMENT_BYTES};
    struct err_text e;
    struct wal *wal;
    int rv = wal_open(&m->env, &opts, &wal, &e);

    *digest = 0;
    if (rv == 0) {
        wal_log_each(wal, digest_log, digest);
        wal_abandon(wal);
        mem_env_drop_works(m);
    }
    return rv;
}

static void on_dump(void *arg, const struct wal_dump_record *record)
{
    *(size_t *)arg += record->data.len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_env m;
    struct cursor c = cursor_of(slice_of(data, size));
    uint64_t first, second;
    size_t bytes = 0;

    log_set_level(LOG_OFF);
    mem_env_init(&m, 1);
    m.dir_made = true;
    if (size > 0 && cursor_u8(&c) == 0) {
        file_add(&m, 1, data + 1, size - 1);
    } else {
        recipe(&m, &c);
    }
    (void)wal_dump(&m.env, "/d", on_dump, &bytes, NULL);
    if (open_once(&m, &first) == 0) {
        int rv = open_once(&m, &second);
        assert(rv == 0);
        assert(first == second);
    }
    mem_env_close(&m);
    return 0;
}
