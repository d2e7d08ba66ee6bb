/* The durable home of one shard's heap: checkpoints in a directory (heap-engine.md §2; rules E4,
 * E7, E9-E12, E15).
 *
 * Disk mode: a checkpoint appends the dirty pages of a view to a delta file, syncs, and flips an
 * A/B superblock; deltas are folded into the base later. Pmem mode: the image is mapped and a redo
 * micro-journal makes each image_commit() atomic with one drain. What is on media is always the
 * arena at exactly one index (I4). Format: docs/heap-format.md.
 *
 * Calls on the reactor's thread; writing happens on workers (ENV_QUEUE_CHECKPOINT). After a failed
 * write or sync the image is dead: every later call returns ERR_IO and the replica stops serving
 * (I11); ERR_DISKFULL leaves the previous checkpoint and the image alive. */
#ifndef CAIRN_ALLOC_IMAGE_H
#define CAIRN_ALLOC_IMAGE_H

#include "alloc/heap.h"
#include "base/env.h"

struct image;

enum image_mode { IMAGE_DISK, IMAGE_PMEM };

struct image_opts {
    const char *dir; /* of this shard; created if missing; copied */
    uint64_t uid;
    enum image_mode mode;
    /* The log's newest checkpoint mark of this shard (wal_log_checkpoint); a superblock older than
     * it isn't believed (E9): ERR_CORRUPT. 0: none. */
    uint64_t mark_sequence;
    bool settle_later; /* image_open() is the first half: image_settle() follows */
};

/* Opens the directory and loads of the newest checkpoint (blocking) all of it, if another machine
 * has written it, which is then checked as a whole; else what every call needs, and the rest when
 * it is wanted, or by image_fill(): from then on ask heap_damage(). *heap is given, or NULL when
 * there is none yet. ERR_CORRUPT (text says which file and page), ERR_VERSION, ERR_WRONGCLUSTER
 * (another uid), ERR_IO, ERR_NOMEM, ERR_UNSUPPORTED (pmem mode on something that isn't memory). */
int image_open(struct env *env, const struct image_opts *opts, struct image **out,
               struct heap **heap, struct err_text *e);
/* Asks the disk for what image_open() is going to read of the directory: a hint, of which nothing
 * is believed. thread: any */
void image_ahead(struct env *env, const char *dir);
/* The second half of opening, for who has other things to do while the disk is at it (blocking):
 * syncs the files and writes the superblock again, since what was read of them may have come from
 * the page cache alone. Before it nothing may rest on the image. thread: any; meanwhile the heap
 * may be used, but not checkpointed. ERR_IO: then the image is only to be closed. */
int image_settle(struct image *image, struct err_text *e);
/* Loads in the background up to so many bytes of pages that nobody has wanted yet, each compared
 * with its checksum. To be called again; false: all are there. */
bool image_fill(struct heap *heap, uint64_t bytes);
/* Disk mode, before the last checkpoint of a clean stop: small deltas before it become part of it,
 * and it has whole pages when they are few, so that opening finds few files, and pages in one
 * place. Reads their tables, blocking. Pmem mode: nothing is to be done.
 */
void image_gather(struct image *image, struct heap *heap);
/* A clean stop, before image_close(). Pmem mode: what is committed goes home and gets hashes, so
 * that the next opening reads little; the next commit undoes that. Without it, or with changes that
 * aren't committed, the next opening reads and checks all. Disk mode: nothing is to be done. */
void image_seal(struct image *image, struct heap *heap);
/* Nothing may be in progress (image_busy()), or it is abandoned: the files stay valid in any case.
 * In pmem mode the heap's memory shows the file where it wasn't written since: it ends before the
 * directory is opened again. */
void image_close(struct image *image);
bool image_busy(const struct image *image);

/* Makes the heap's state as of now durable: takes a view, writes what changed since the last
 * checkpoint, flips the superblock, and calls cb with 0 and {sequence, index, term}. Runs piecewise
 * while apply goes on. ERR_BUSY when one is running. The caller calls this only when entry
 * heap_index() and its hard state are durable in the log (E8). */
struct image_checkpoint;
struct image_result {
    int err;
    uint64_t sequence, index, term;
    uint64_t pages_written, pages_total, bytes_written;
    uint64_t duration_ns;
};
typedef void (*image_checkpoint_cb)(void *arg, const struct image_result *result);
int image_checkpoint(struct image *image, struct heap *heap, image_checkpoint_cb cb, void *arg);
/* The same for a heap that replaces the current one (an installed snapshot): all its present pages
 * are written to new files, the superblock flips, the old files go. */
int image_replace(struct image *image, struct heap *heap, image_checkpoint_cb cb, void *arg);

/* Pmem mode only: makes the heap's state as of now durable with one drain. 0 or ERR_IO. */
int image_commit(struct image *image, struct heap *heap);

struct image_stats {
    enum image_mode mode;
    uint64_t sequence, index, term; /* of the newest durable checkpoint; 0 if none */
    uint64_t base_bytes, delta_bytes, delta_count;
    uint64_t checkpoints, bytes_written; /* since open */
};
void image_get_stats(const struct image *image, struct image_stats *out);
/* What a checkpoint of the heap as it is now takes of the disk; *more: on top of that when it is a
 * base, which stands beside the one that it replaces until it is complete. Disk mode. */
uint64_t image_checkpoint_bytes(const struct image *image, const struct heap *heap, uint64_t *more);

/* Deletes everything in `dir` that images leave there. Whatever a crash or an error leaves of it is
 * no image, and goes by another call. */
int image_clear(struct env *env, const char *dir);
/* And `dir` itself, if nothing else is in it (a dropped heap's shard). */
int image_destroy(struct env *env, const char *dir);

#endif
