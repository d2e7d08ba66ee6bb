/* Which segment is the newest one: else a directory from which that was taken away looks like one
 * that has never come so far, and its node would vote without what it has acknowledged (E6).
 *
 * Written when a segment has got its name, and before anything that is in it is acknowledged: on
 * the worker that prepares it, so that no write waits. Before an unused one goes, the one before it
 * is the newest again. So at any moment the file names a segment that is there, or one below it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "wal/internal.h"

static void path_of(const char *dir, char out[WAL_PATH_BYTES])
{
    (void)snprintf(out, WAL_PATH_BYTES, "%s/newest", dir);
}

int wal__newest_read(struct env *env, const char *dir, struct wal_newest *out)
{
    char path[WAL_PATH_BYTES];
    struct env_file *file;

    memset(out, 0, sizeof *out);
    path_of(dir, path);
    int rv = env_file_open(env, path, ENV_OPEN_READ, &file);
    if (rv != 0) {
        return rv == ERR_NOTFOUND ? 0 : rv; /* there never was one */
    }
    uint8_t *bytes = mem_zalloc(WAL_NEWEST_BYTES);
    if (bytes == NULL) {
        rv = ERR_NOMEM;
    } else {
        int64_t got = env_file_pread(env, file, bytes, WAL_NEWEST_BYTES, 0);
        rv = got < 0 ? (int)got : 0;
        wal__newest_unpack(bytes, out); /* what was torn is a zero, or the one before it */
    }
    mem_free(bytes);
    env_file_close(env, file);
    return rv;
}

/* Its first slots are zeros, of the full length: later writes change no metadata. */
static int create(struct env *env, const char *dir, const char *path, struct env_file **out)
{
    int rv = env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, out);
    if (rv != 0) {
        return rv;
    }
    uint8_t *zeros = mem_zalloc(WAL_NEWEST_BYTES);
    rv = zeros == NULL ? ERR_NOMEM : env_file_pwrite(env, *out, zeros, WAL_NEWEST_BYTES, 0);
    mem_free(zeros);
    rv = rv == 0 ? env_dir_sync(env, dir) : rv;
    if (rv != 0) {
        env_file_close(env, *out);
    }
    return rv;
}

int wal__newest_write(struct env *env, const char *dir, struct wal_newest *newest,
                      uint64_t sequence)
{
    char path[WAL_PATH_BYTES];
    struct env_file *file;
    struct wal_newest next = *newest;

    next.generation++;
    next.sequence = sequence;
    uint8_t *slot = mem_zalloc(WAL_ALIGN);
    if (slot == NULL) {
        return ERR_NOMEM;
    }
    wal__newest_pack(&next, slot);
    path_of(dir, path);
    int rv = env_file_open(env, path, ENV_OPEN_WRITE, &file);
    if (rv == ERR_NOTFOUND) {
        rv = create(env, dir, path, &file);
    }
    if (rv == 0) {
        rv = env_file_pwrite(env, file, slot, WAL_ALIGN, (next.generation & 1) * WAL_ALIGN);
        rv = rv == 0 ? env_file_sync(env, file) : rv;
        env_file_close(env, file);
    }
    mem_free(slot);
    if (rv == 0) {
        *newest = next;
    }
    return rv;
}
