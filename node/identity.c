#include "node/identity.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "base/hash.h"

/* identity file, little-endian, 256 bytes:
 *   0 magic "CAIRNID1"   8 format u32 = 1   12 state u32   16 number u32   20 founding u32
 *   24 node_uid u64      32 cluster_id u64  40 replica_id u64
 *   48 roster (ROSTER_BYTES_MAX)            252 crc32c of bytes 0..251 */
#define IDENTITY_BYTES     256u
#define IDENTITY_ROSTER_AT 48u
#define IDENTITY_CRC_AT    252u
#define IDENTITY_FORMAT    1u
#define IDENTITY_PATH_MAX  1100
static_assert(IDENTITY_ROSTER_AT + ROSTER_BYTES_MAX <= IDENTITY_CRC_AT, "the roster fits");

static const uint8_t identity_magic[8] = {'C', 'A', 'I', 'R', 'N', 'I', 'D', '1'};

size_t roster_encode(const struct roster *roster, uint8_t out[ROSTER_BYTES_MAX])
{
    assert(roster->count <= NODES_MAX);
    store_u32(out, roster->count);
    size_t at = 4;
    for (uint32_t i = 0; i < roster->count; i++) {
        store_u32(out + at, roster->nodes[i].number);
        store_u64(out + at + 4, roster->nodes[i].node_uid);
        at += 12;
    }
    return at;
}

int roster_decode(struct slice bytes, struct roster *out)
{
    struct cursor c = cursor_of(bytes);
    memset(out, 0, sizeof *out);
    uint32_t count = cursor_u32(&c);
    if (c.failed || count > NODES_MAX || cursor_left(&c) < count * 12u) {
        return ERR_PROTOCOL;
    }
    for (uint32_t i = 0; i < count; i++) {
        out->nodes[i].number = cursor_u32(&c);
        out->nodes[i].node_uid = cursor_u64(&c);
        if (out->nodes[i].number == 0 || out->nodes[i].node_uid == 0) {
            return ERR_PROTOCOL;
        }
    }
    out->count = count;
    return 0;
}

uint64_t roster_uid(const struct roster *roster, uint32_t number)
{
    for (uint32_t i = 0; i < roster->count; i++) {
        if (roster->nodes[i].number == number) {
            return roster->nodes[i].node_uid;
        }
    }
    return 0;
}

uint64_t roster_cluster_id(const struct roster *roster, const char *cluster_name)
{
    uint64_t id = hash64(0, cluster_name, strlen(cluster_name));
    for (uint32_t number = 1; number <= 255; number++) {
        uint64_t uid = roster_uid(roster, number);
        if (uid != 0) {
            uint8_t pair[12];
            store_u32(pair, number);
            store_u64(pair + 4, uid);
            id = hash64(id, pair, sizeof pair);
        }
    }
    return id == 0 ? 1 : id;
}

int identity_load(struct env *env, const char *dir, struct identity *out, struct err_text *e)
{
    char path[IDENTITY_PATH_MAX];
    uint8_t bytes[IDENTITY_BYTES];
    struct env_file *file = NULL;

    memset(out, 0, sizeof *out);
    (void)snprintf(path, sizeof path, "%s/identity", dir);
    int rv = env_file_open(env, path, ENV_OPEN_READ, &file);
    if (rv != 0) {
        return err_set(e, rv, "%s: %s", path, err_why(rv));
    }
    int64_t n = env_file_pread(env, file, bytes, sizeof bytes, 0);
    env_file_close(env, file);
    if (n < 0) {
        return err_set(e, (int)n, "%s: %s", path, err_why((int)n));
    }
    if (n != (int64_t)sizeof bytes || memcmp(bytes, identity_magic, 8) != 0 ||
        load_u32(bytes + IDENTITY_CRC_AT) != crc32c(0, bytes, IDENTITY_CRC_AT)) {
        return err_set(e, ERR_CORRUPT,
                       "%s is damaged: the node can't prove who it is. Move the data directory "
                       "away and start with an "
                       "empty one: the node rejoins and is filled by its peers",
                       path);
    }
    if (load_u32(bytes + 8) != IDENTITY_FORMAT) {
        return err_set(e, ERR_VERSION, "%s has format %u; this cairnd reads %u", path,
                       load_u32(bytes + 8), IDENTITY_FORMAT);
    }
    out->state = load_u32(bytes + 12) == IDENTITY_MEMBER ? IDENTITY_MEMBER : IDENTITY_FRESH;
    out->number = load_u32(bytes + 16);
    out->founding = load_u32(bytes + 20) != 0;
    out->node_uid = load_u64(bytes + 24);
    out->cluster_id = load_u64(bytes + 32);
    out->replica_id = load_u64(bytes + 40);
    if (roster_decode(slice_of(bytes + IDENTITY_ROSTER_AT, ROSTER_BYTES_MAX), &out->roster) != 0 ||
        out->node_uid == 0) {
        return err_set(e, ERR_CORRUPT, "%s: the roster in it is invalid", path);
    }
    return 0;
}

int identity_store(struct env *env, const char *dir, const struct identity *identity,
                   struct err_text *e)
{
    char path[IDENTITY_PATH_MAX];
    char temporary[IDENTITY_PATH_MAX];
    uint8_t bytes[IDENTITY_BYTES] = {0};
    struct env_file *file = NULL;

    assert(identity->node_uid != 0);
    memcpy(bytes, identity_magic, 8);
    store_u32(bytes + 8, IDENTITY_FORMAT);
    store_u32(bytes + 12, (uint32_t)identity->state);
    store_u32(bytes + 16, identity->number);
    store_u32(bytes + 20, identity->founding ? 1 : 0);
    store_u64(bytes + 24, identity->node_uid);
    store_u64(bytes + 32, identity->cluster_id);
    store_u64(bytes + 40, identity->replica_id);
    roster_encode(&identity->roster, bytes + IDENTITY_ROSTER_AT);
    store_u32(bytes + IDENTITY_CRC_AT, crc32c(0, bytes, IDENTITY_CRC_AT));

    (void)snprintf(path, sizeof path, "%s/identity", dir);
    (void)snprintf(temporary, sizeof temporary, "%s/identity.new", dir);
    int rv = env_file_unlink(env, temporary); /* left by a crash between create and rename */
    if (rv != 0 && rv != ERR_NOTFOUND) {
        return err_set(e, rv, "%s: %s", temporary, err_why(rv));
    }
    rv = env_file_open(env, temporary, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    if (rv != 0) {
        return err_set(e, rv, "%s: %s", temporary, err_why(rv));
    }
    rv = env_file_pwrite(env, file, bytes, sizeof bytes, 0);
    if (rv == 0) {
        rv = env_file_sync(env, file);
    }
    env_file_close(env, file);
    if (rv == 0) {
        rv = env_file_rename(env, temporary, path);
    }
    if (rv == 0) {
        rv = env_dir_sync(env, dir);
    }
    return rv == 0 ? 0 : err_set(e, rv, "%s: %s", path, err_why(rv));
}
