/* Who a directory is: DIR/instance, written when it is made, complete when all of it is there. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "embed/internal.h"

int embed__path(const struct embedded *db, const char *name, char out[EMBED_PATH_BYTES],
                struct err_text *e)
{
    int n = snprintf(out, EMBED_PATH_BYTES, "%s/%s", db->settings.dir, name);
    return n > 0 && n < (int)EMBED_PATH_BYTES
               ? 0
               : err_set(e, ERR_INVAL, "%s: the path is too long", db->settings.dir);
}

int embed__heap_path(const struct embedded *db, uint64_t uid, char out[EMBED_PATH_BYTES],
                     struct err_text *e)
{
    char name[32];
    (void)snprintf(name, sizeof name, "heaps/%016" PRIx64, uid);
    return embed__path(db, name, out, e);
}

static uint32_t block_crc(const struct identity_block *block)
{
    return crc32c(0, block, offsetof(struct identity_block, crc));
}

/* Whole or not at all, whenever the power goes. */
static int block_write(struct embedded *db, enum identity_state state, struct err_text *e)
{
    static_assert(IMAGE_DISK == 0 && IMAGE_PMEM == 1, "shown as IDENTITY_DISK and IDENTITY_PMEM");
    struct identity_block block = {.magic = IDENTITY_MAGIC,
                                   .format = IDENTITY_FORMAT,
                                   .mode = db->mode == IMAGE_PMEM ? IDENTITY_PMEM : IDENTITY_DISK,
                                   .uid = db->uid,
                                   .state = state};
    struct env *env = embed_env(db);
    char path[EMBED_PATH_BYTES];
    char fresh[EMBED_PATH_BYTES];
    struct env_file *file = NULL;
    block.crc = block_crc(&block);
    int rv = embed__path(db, "instance", path, e);
    if (rv == 0) {
        rv = embed__path(db, "instance.tmp", fresh, e);
    }
    if (rv != 0) {
        return rv;
    }
    (void)env_file_unlink(env, fresh);
    rv = env_file_open(env, fresh, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    if (rv == 0) {
        rv = env_file_pwrite(env, file, &block, sizeof block, 0);
        if (rv == 0) {
            rv = env_file_sync(env, file);
        }
        env_file_close(env, file);
    }
    if (rv == 0) {
        rv = env_file_rename(env, fresh, path);
    }
    if (rv == 0) {
        rv = env_dir_sync(env, db->settings.dir);
    }
    return rv == 0 ? 0 : err_set(e, rv, "%s: can't be written: %s", path, err_why(rv));
}

static int block_read(struct embedded *db, struct identity_block *block, struct err_text *e)
{
    struct env *env = embed_env(db);
    char path[EMBED_PATH_BYTES];
    struct env_file *file = NULL;
    int rv = embed__path(db, "instance", path, e);
    if (rv != 0) {
        return rv;
    }
    rv = env_file_open(env, path, ENV_OPEN_READ, &file);
    if (rv == ERR_NOTFOUND) {
        return rv;
    }
    if (rv != 0) {
        return err_set(e, rv, "%s: can't be opened: %s", path, err_why(rv));
    }
    int64_t n = env_file_pread(env, file, block, sizeof *block, 0);
    env_file_close(env, file);
    if (n < 0) {
        return err_set(e, (int)n, "%s: can't be read: %s", path, err_why((int)n));
    }
    if (n != (int64_t)sizeof *block || block->magic != IDENTITY_MAGIC ||
        block->crc != block_crc(block)) {
        return err_set(e, ERR_CORRUPT, "%s: damaged", path);
    }
    if (block->format != IDENTITY_FORMAT) {
        return err_set(e, ERR_VERSION, "%s: format %u; this program knows %u", path, block->format,
                       IDENTITY_FORMAT);
    }
    if ((block->mode != IDENTITY_DISK && block->mode != IDENTITY_PMEM) ||
        (block->state != IDENTITY_MAKING && block->state != IDENTITY_COMPLETE)) {
        return err_set(e, ERR_CORRUPT, "%s: fields out of bounds", path);
    }
    return 0;
}

/* Can files of the directory be made durable from user space? */
static bool dir_is_pmem(struct embedded *db)
{
    struct env *env = embed_env(db);
    char path[EMBED_PATH_BYTES];
    struct env_file *file = NULL;
    bool is_pmem = false;
    if (embed__path(db, "probe", path, NULL) != 0) {
        return false;
    }
    (void)env_file_unlink(env, path);
    if (env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file) != 0) {
        return false;
    }
    void *map = NULL;
    if (env_file_map(env, file, HEAP_PAGE_BYTES, &map, &is_pmem) == 0) {
        env_file_unmap(env, file, map, HEAP_PAGE_BYTES);
    }
    env_file_close(env, file);
    (void)env_file_unlink(env, path);
    return is_pmem;
}

static void strange_name(void *arg, const char *name)
{
    if (strcmp(name, "lock") != 0 && strcmp(name, "instance.tmp") != 0 &&
        strcmp(name, "probe") != 0) {
        *(bool *)arg = true;
    }
}

static int begin(struct embedded *db, struct err_text *e)
{
    bool strange = false;
    int rv = env_dir_list(embed_env(db), db->settings.dir, strange_name, &strange);
    if (rv != 0) {
        return err_set(e, rv, "%s: can't be listed: %s", db->settings.dir, err_why(rv));
    }
    if (strange) {
        return err_set(e, ERR_INVAL, "%s: has files in it, but no heaps: name an empty directory",
                       db->settings.dir);
    }
    bool is_pmem = db->settings.mode != EMBED_MODE_DISK && dir_is_pmem(db);
    if (db->settings.mode == EMBED_MODE_PMEM && !is_pmem) {
        return err_set(e, ERR_UNSUPPORTED, "%s: isn't on persistent memory; use mode=disk",
                       db->settings.dir);
    }
    db->mode = is_pmem ? IMAGE_PMEM : IMAGE_DISK;
    do {
        db->uid = env_random_u64(embed_env(db));
    } while (db->uid == 0);
    return block_write(db, IDENTITY_MAKING, e);
}

int embed__identify(struct embedded *db, bool *fresh, struct err_text *e)
{
    struct identity_block block = {0};
    int rv = block_read(db, &block, e);
    if (rv == ERR_NOTFOUND) {
        *fresh = true;
        return begin(db, e);
    }
    if (rv != 0) {
        return rv;
    }
    *fresh = block.state == IDENTITY_MAKING;
    db->uid = block.uid;
    db->mode = block.mode == IDENTITY_PMEM ? IMAGE_PMEM : IMAGE_DISK;
    if ((db->settings.mode == EMBED_MODE_PMEM && db->mode != IMAGE_PMEM) ||
        (db->settings.mode == EMBED_MODE_DISK && db->mode != IMAGE_DISK)) {
        return err_set(e, ERR_INVAL, "%s: was made in %s mode, which can't be changed",
                       db->settings.dir, db->mode == IMAGE_PMEM ? "pmem" : "disk");
    }
    return 0;
}

int embed__identity_complete(struct embedded *db, struct err_text *e)
{
    return block_write(db, IDENTITY_COMPLETE, e);
}
