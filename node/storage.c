/* How a node keeps its images: on a disk, or mapped as memory. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node/internal.h"

#define SHARD_DIR_NAME_BYTES 16u

/* What the images that are there were made by. */
struct stored {
    struct node *node;
    bool disk, pmem;
    char example[2][PATH_BYTES_MAX + 64]; /* a file of each: [enum image_mode] */
};

static bool exists(struct node *node, const char *path)
{
    struct env_file *file = NULL;
    if (env_file_open(node->env, path, ENV_OPEN_READ, &file) != 0) {
        return false;
    }
    env_file_close(node->env, file);
    return true;
}

static void look_at(void *arg, const char *name)
{
    struct stored *s = arg;
    char path[PATH_BYTES_MAX + 64];
    if (strlen(name) != SHARD_DIR_NAME_BYTES) {
        return;
    }
    static const char *const files[] = {[IMAGE_DISK] = "super", [IMAGE_PMEM] = "image.pm"};
    for (int mode = IMAGE_DISK; mode <= IMAGE_PMEM; mode++) {
        (void)snprintf(path, sizeof path, "%s/shards/%s/%s", s->node->config.data_dir, name,
                       files[mode]);
        bool *found = mode == IMAGE_DISK ? &s->disk : &s->pmem;
        if (!*found && exists(s->node, path)) {
            *found = true;
            memcpy(s->example[mode], path, sizeof path);
        }
    }
}

/* Whether a file of the data directory is mapped as memory. ERR_CONFIG: it was forced to be, and
 * isn't. */
static int probe(struct node *node, bool *is_pmem)
{
    char path[PATH_BYTES_MAX + 32];
    (void)snprintf(path, sizeof path, "%s/probe", node->config.data_dir);
    struct env_file *file = NULL;
    *is_pmem = false;
    int rv = env_file_unlink(node->env, path);
    if (rv == 0 || rv == ERR_NOTFOUND) {
        rv = env_file_open(node->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file);
    }
    if (rv != 0) {
        return rv;
    }
    void *map = NULL;
    rv = env_file_truncate(node->env, file, HEAP_PAGE_BYTES);
    if (rv == 0) {
        rv = env_file_map(node->env, file, HEAP_PAGE_BYTES, &map, is_pmem);
    }
    if (rv == 0) {
        env_file_unmap(node->env, file, map, HEAP_PAGE_BYTES);
    }
    env_file_close(node->env, file);
    (void)env_file_unlink(node->env, path);
    return rv;
}

/* Images that were made by the other mode can't be opened: better said at once than by every shard
 * for itself. */
static int check_stored(struct node *node, struct err_text *e)
{
    struct stored s = {.node = node};
    char path[PATH_BYTES_MAX + 32];
    (void)snprintf(path, sizeof path, "%s/shards", node->config.data_dir);
    int rv = env_dir_list(node->env, path, look_at, &s);
    if (rv != 0 && rv != ERR_NOTFOUND) {
        return err_set(e, rv, "%s: %s", path, err_why(rv));
    }
    if (node->mode == IMAGE_PMEM && s.disk && !s.pmem &&
        node->config.storage == NODE_STORAGE_AUTO) {
        node->mode = IMAGE_DISK; /* as it always was */
        return 0;
    }
    enum image_mode other = node->mode == IMAGE_PMEM ? IMAGE_DISK : IMAGE_PMEM;
    if (other == IMAGE_DISK ? s.disk : s.pmem) {
        return err_set(e, ERR_CONFIG,
                       "this node would run in %s mode, but %s was made in %s mode: %s, or move "
                       "the data directory away and start empty, and the node is filled by its "
                       "peers",
                       other == IMAGE_DISK ? "pmem" : "disk", s.example[other],
                       other == IMAGE_DISK ? "disk" : "pmem",
                       other == IMAGE_DISK ? "set storage.mode to disk"
                                           : "bring back the persistent memory it was on");
    }
    return 0;
}

int node__choose_mode(struct node *node, struct err_text *e)
{
    const char *dir = node->config.data_dir;
    node->mode = IMAGE_DISK;
    if (node->config.storage != NODE_STORAGE_DISK) {
        bool is_pmem;
        int rv = probe(node, &is_pmem);
        if (rv == ERR_CONFIG) {
            return err_set(e, ERR_CONFIG,
                           "PMEM_IS_PMEM_FORCE is set, but %s is neither on persistent memory nor "
                           "on tmpfs: what is written there would not be durable. Unset it, or set "
                           "storage.mode to disk",
                           dir);
        }
        if (is_pmem) {
            node->mode = IMAGE_PMEM;
        } else if (node->config.storage == NODE_STORAGE_PMEM) {
            return err_set(e, ERR_CONFIG,
                           "storage.mode is pmem, but %s is not on persistent memory%s%s: set "
                           "storage.mode to disk or auto",
                           dir, rv == 0 ? "" : ": ", rv == 0 ? "" : err_text_of(rv));
        }
    }
    return check_stored(node, e);
}
