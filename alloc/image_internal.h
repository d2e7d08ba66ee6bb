/* What the files of the image share. Nobody outside alloc/ includes this. */
#ifndef CAIRN_ALLOC_IMAGE_INTERNAL_H
#define CAIRN_ALLOC_IMAGE_INTERNAL_H

#include "alloc/engine.h"
#include "alloc/image.h"
#include "alloc/image_layout.h"

#define IMAGE_PATH_BYTES 4096

struct image_run;
struct image_pm;

/* What a delta has of a page. */
struct image_part {
    uint64_t page;
    uint64_t lines; /* PAGE_LINES_ALL: the whole page, or that it is absent */
};

struct image {
    struct env *env;
    char *dir;
    uint64_t uid;
    enum image_mode mode;
    uint64_t mark_sequence;
    bool dead;    /* durability was lost: every later call fails */
    bool present; /* there is a checkpoint */
    struct super_block super;
    struct image_run *run; /* in progress */
    uint32_t gathered;     /* of the newest deltas: the next checkpoint has their pages */
    /* By number of the file, struct image_part: what small deltas have that were written since the
     * image was opened. Nothing: unknown. */
    struct buf parts[SUPER_FILES_MAX];
    struct image_pm *pm;
    uint64_t pm_pages; /* that the newest commit brought home */
    uint64_t checkpoints, bytes_written;
};

/* "DIR/name" into out; ERR_INVAL when too long. */
int image_path(const char *dir, const char *name, char out[IMAGE_PATH_BYTES]);
void image_pages_name(uint64_t sequence, char out[32]);
/* Writes and syncs the slot of super->sequence; signs it. Creates the file when there is none. */
int image_super_write(struct env *env, const char *dir, struct super_block *super);
uint32_t image_crc(const void *block, size_t bytes); /* of all but the last 4 bytes */
/* So many bytes in whole blocks. */
static inline uint64_t image_blocks_bytes(uint64_t bytes)
{
    return (bytes + IMAGE_BLOCK_BYTES - 1) / IMAGE_BLOCK_BYTES * IMAGE_BLOCK_BYTES;
}

/* image_checkpoint.c: image->run is set; cb comes later, unless the run is abandoned. ERR_NOMEM. */
int image_run_disk(struct image *image, struct heap *heap, bool base, image_checkpoint_cb cb,
                   void *arg);
int image_run_pm(struct image *image, struct heap *heap, bool replace, image_checkpoint_cb cb,
                 void *arg);
/* The image closes; the worker may still have the run, which frees itself when that is done. */
void image_run_abandon(struct image_run *run);

/* image_load.c: the newest checkpoint of a directory; *heap NULL when there is none. */
int image_load(struct image *image, struct heap **heap, struct err_text *e);
/* Its pages, which aren't loaded yet, and image->super. look_only: no file is opened for writing or
 * synced. ERR_NOTFOUND: there is no image. *arena is open iff 0. */
int image_load_arena(struct image *image, bool look_only, struct arena *arena, struct err_text *e);
/* Loads them all. *arena is closed unless 0. */
int image_load_pages(struct arena *arena, struct err_text *e);
/* The heap that the pages are, if it is the one that image->super names. own: nobody else can have
 * written them. *arena is taken. */
int image_adopt(const struct image *image, struct arena *arena, uint64_t bytes_max, bool own,
                struct heap **heap, struct err_text *e);
/* Magic, format, origin and CRC. */
void image_super_sign(const struct env *env, struct super_block *super);
/* Home of the page, or place of the patch, at an offset of a file. */
#define HOME_FILE_MASK ((uint64_t)PATCH_LINE_BYTES - 1)
static inline uint64_t image_home(uint32_t file, uint64_t offset)
{
    static_assert(SUPER_FILES_MAX <= PATCH_LINE_BYTES, "offsets are multiples of a line");
    return offset | file;
}

/* image_patch.c: pages whose newest copy is an older one and patches on it. */
struct image_patch {
    uint64_t below; /* home of what it is a patch on: a page, or a page with patches */
    uint64_t at;
    struct pages_patch what;
};
/* A patched page's home is the number of its newest patch, in bits that homes in files don't have;
 * no two of them look as if they lay behind each other. */
#define HOME_PATCHED     ((uint64_t)1 << 63)
#define HOME_PATCH_SHIFT (PAGE_SHIFT + 1)
static inline const struct image_patch *image_patch_of(const struct buf *patches, uint64_t home)
{
    return (const struct image_patch *)(const void *)patches->data +
           ((home & ~HOME_PATCHED) >> HOME_PATCH_SHIFT);
}
/* A page of which a further file has these lines, at that place: its home from then on. Patches
 * below that no line is read of are left out, so that each of the others has a line of its own, and
 * there are at most as many as lines. ERR_NOMEM. */
int image_patch_add(struct buf *patches, const struct pages_patch *what, uint64_t at,
                    uint64_t *home);
/* The lines of the patch into the page. False: they don't have its hash. */
bool image_patch_apply(const struct pages_patch *what, const uint8_t *lines, uint8_t *page);
/* The lines of the page, behind each other; how many bytes. */
uint64_t image_patch_make(uint64_t lines, const uint8_t *page, struct pages_patch *what,
                          uint8_t *to);
static inline uint64_t image_patch_bytes(uint64_t lines)
{
    return (uint64_t)__builtin_popcountll(lines) * PATCH_LINE_BYTES;
}

/* image_source.c: the arena's unloaded pages are in the files that image->super names. Takes the
 * patches, struct image_patch. ERR_NOMEM. */
int image_source_open(const struct image *image, struct arena *arena, struct buf *patches);
/* Up to now only what was asked for was read from the disk; now also what lies behind it. */
void image_source_opened(struct arena *arena);
/* Runs the full check over an arena that may be damaged; ERR_CORRUPT when not even its header
 * can be believed. (adopt.c) */
int heap_check_arena(struct arena *arena, uint64_t bytes_max, uint64_t max, heap_finding_cb cb,
                     void *arg, uint64_t *damage, struct err_text *e);
/* Deletes our files that the superblock doesn't name. Best effort. */
void image_sweep(struct env *env, const char *dir, const struct super_block *super);

/* image_pmem.c */
/* As image_load_arena() with look_only; the journal is replayed in memory. */
int image_pm_load_arena(struct image *image, struct arena *arena, uint64_t *bytes_max,
                        struct err_text *e);
int image_pm_open(struct image *image, struct heap **heap, struct err_text *e);
void image_pm_close(struct image *image);
int image_pm_commit(struct image *image, struct heap *heap);
/* A new file with all of the heap, in place of the old one. */
int image_pm_replace(struct image *image, struct heap *heap);

/* Copies that go around the cache, and the fence behind which they are durable. */
struct image_pm_ops {
    void (*copy)(void *to, const void *from, size_t len);
    void (*lines)(void *to, const void *from, uint64_t mask); /* of a page, those in the mask */
    void (*drain)(void);
};
/* For tests that cut between stores. NULL: the real ones. */
void image_pm_set_ops(const struct image_pm_ops *ops);
/* For tests: commits are gathered and stored as on a processor without wide registers. */
void image_pm_set_narrow(bool on);

#endif
