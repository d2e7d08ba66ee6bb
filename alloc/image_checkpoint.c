/* One checkpoint, from a view to the superblock.
 *
 * The reactor copies pages into a piece, then patches of pages in which little has changed, and a
 * worker writes it; there are two pieces, so that one is filled while the other is written. The
 * file bypasses the page cache: nobody reads it soon, and what the log writes meanwhile waits for
 * one piece at most, not for all that a sync would find. So it is written in whole blocks: the head
 * with the first pages, table and footer with the last ones; and what patches have beyond a block
 * goes into the next piece. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "alloc/image_internal.h"
#include "base/crc.h"
#include "base/mem.h"

#define PIECE_PAGES 128u /* 512 KiB: what the reactor copies in one turn */
#define PIECE_BYTES ((uint64_t)PIECE_PAGES * PAGE_BYTES + IMAGE_BLOCK_BYTES)
#define PIECE_LIST  2048u /* pages and patches */
#define PIECES      2u

/* Filled by the reactor; from env_work() until `done` it is the worker's. */
struct piece {
    struct env_work work; /* first */
    struct image_run *run;
    bool busy;
    bool last;
    int err; /* in: the reactor's, which ends the checkpoint; out: the checkpoint's so far */
    uint8_t *buffer;    /* a block for the file's head, then pages */
    uint64_t from, end; /* what of the buffer is to be written */
    uint32_t count, patched;
    struct pages_entry table[PIECE_LIST]; /* pages, then patched ones */
    struct pages_patch patches[PIECE_LIST];
};

/* Owned by the image, or by itself when the image was closed meanwhile. */
struct image_run {
    struct env *env;
    struct image *image;  /* NULL: abandoned */
    pthread_mutex_t lock; /* guards `abandoned` and the worker's changes of the directory */
    bool abandoned;
    struct heap *heap;
    struct view *view; /* NULL: in pmem mode, or abandoned */
    char *dir;
    bool base;
    bool replaces; /* files that were named before aren't any more */
    image_checkpoint_cb cb;
    void *arg;
    uint64_t started_ns, pages_total;
    uint32_t pass;
    uint64_t next_page; /* of the pass */
    bool ending;        /* no further piece is filled: that was the last, or there was an error */
    uint32_t carried;
    uint8_t carry[IMAGE_BLOCK_BYTES]; /* begins the next piece */
    uint8_t *buffers;
    struct piece pieces[PIECES];

    /* The worker's, while a piece is on its way. Of what opening and the last piece fill in,
     * earlier pieces need nothing. */
    struct env_file *file;
    uint64_t offset;
    struct buf table;
    struct buf patched; /* entries */
    struct buf patches;
    struct buf gone;          /* entries of absent pages; from the last piece on */
    struct super_block super; /* to be */
    struct pages_footer footer;
    int err;
    bool finished;
    bool fatal; /* durability is in doubt */
};

/* ---- the worker's side ---- */

static int run_create(struct image_run *run)
{
    char name[32];
    char path[IMAGE_PATH_BYTES];
    image_pages_name(run->footer.sequence, name);
    int rv = image_path(run->dir, name, path);
    if (rv != 0) {
        return rv;
    }
    (void)env_file_unlink(run->env, path); /* left by one that failed */
    return env_file_open(run->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE | ENV_OPEN_DIRECT,
                         &run->file);
}

static int run_start(struct image_run *run, struct piece *piece)
{
    (void)pthread_mutex_lock(&run->lock);
    int rv = run->abandoned ? ERR_CANCELED : run_create(run);
    (void)pthread_mutex_unlock(&run->lock);
    if (rv != 0) {
        return rv;
    }
    struct pages_head head;
    static_assert(sizeof head == IMAGE_BLOCK_BYTES, "it has its place in a piece");
    memset(&head, 0, sizeof head);
    head.magic = PAGES_MAGIC;
    head.format = IMAGE_FORMAT;
    head.uid = run->footer.uid;
    head.sequence = run->footer.sequence;
    head.bytes_max = run->super.bytes_max;
    head.crc = image_crc(&head, sizeof head);
    memcpy(piece->buffer, &head, sizeof head);
    piece->from = 0;
    return 0;
}

static int piece_flush(struct image_run *run, struct piece *piece)
{
    uint64_t len = piece->end - piece->from;
    int rv = len == 0 ? 0
                      : env_file_pwrite(run->env, run->file, piece->buffer + piece->from, len,
                                        run->offset);
    run->offset += rv == 0 ? len : 0;
    piece->from = piece->end = 0;
    return rv;
}

static int piece_append(struct image_run *run, struct piece *piece, const void *data, size_t len)
{
    for (const uint8_t *at = data; len > 0;) {
        int rv = piece->end == PIECE_BYTES ? piece_flush(run, piece) : 0;
        if (rv != 0) {
            return rv;
        }
        size_t n = len < PIECE_BYTES - piece->end ? len : (size_t)(PIECE_BYTES - piece->end);
        memcpy(piece->buffer + piece->end, at, n);
        piece->end += n;
        at += n;
        len -= n;
    }
    return 0;
}

static int table_add(struct image_run *run, const struct buf *part)
{
    return part->len == 0 ? 0 : buf_append(&run->table, part->data, part->len);
}

/* Table and footer, behind the last pages and patches. */
static int run_seal(struct image_run *run, struct piece *piece)
{
    static const uint8_t zeros[IMAGE_BLOCK_BYTES];
    int rv = table_add(run, &run->patched);
    if (rv == 0) {
        rv = table_add(run, &run->gone);
    }
    if (rv == 0) {
        rv = table_add(run, &run->patches);
    }
    if (rv == 0 && run->table.len > 0) {
        rv = piece_append(run, piece, run->table.data, run->table.len);
    }
    if (rv == 0) {
        rv = piece_append(run, piece, zeros, image_blocks_bytes(run->table.len) - run->table.len);
    }
    if (rv != 0) {
        return rv;
    }
    run->footer.magic = FOOTER_MAGIC;
    run->footer.gone = run->gone.len / sizeof(struct pages_entry);
    run->footer.table_crc = run->table.len == 0 ? 0 : crc32c(0, run->table.data, run->table.len);
    run->footer.crc = image_crc(&run->footer, sizeof run->footer);
    return piece_append(run, piece, &run->footer, sizeof run->footer);
}

static int run_piece(struct image_run *run, struct piece *piece)
{
    int rv = buf_append(&run->table, piece->table, piece->count * sizeof piece->table[0]);
    if (rv == 0) {
        rv = buf_append(&run->patched, piece->table + piece->count,
                        piece->patched * sizeof piece->table[0]);
    }
    if (rv == 0) {
        rv = buf_append(&run->patches, piece->patches, piece->patched * sizeof piece->patches[0]);
    }
    run->footer.present += piece->count;
    run->footer.patched += piece->patched;
    if (rv == 0 && piece->last) {
        rv = run_seal(run, piece);
    }
    if (rv == 0) {
        rv = piece_flush(run, piece);
    }
    if (rv == 0 && piece->last) {
        rv = env_file_sync(run->env, run->file);
        /* Also "no space" is final here: what the kernel had taken is lost. */
        run->fatal = rv != 0;
    }
    return rv;
}

static int run_flip(struct image_run *run)
{
    bool first = run->super.sequence == 1;
    struct super_file *own = &run->super.files[run->super.file_count++];
    own->sequence = run->footer.sequence;
    own->bytes = run->offset;
    own->footer_crc = run->footer.crc;
    own->table_blocks = (uint32_t)(image_blocks_bytes(run->table.len) / IMAGE_BLOCK_BYTES);
    int rv = env_dir_sync(run->env, run->dir);
    if (rv == 0) {
        rv = image_super_write(run->env, run->dir, &run->super);
    }
    if (rv == 0 && run->replaces) {
        /* The old files may go once no slot names them. */
        run->super.sequence++;
        rv = image_super_write(run->env, run->dir, &run->super);
        if (rv == 0) {
            image_sweep(run->env, run->dir, &run->super);
        }
    }
    run->fatal = rv != 0 && !(rv == ERR_DISKFULL && first);
    return rv;
}

static void run_discard(struct image_run *run)
{
    char name[32];
    char path[IMAGE_PATH_BYTES];
    image_pages_name(run->footer.sequence, name);
    if (image_path(run->dir, name, path) == 0) {
        (void)env_file_unlink(run->env, path);
    }
}

/* The directory is only touched while the image is open: afterwards it may belong to the next one.
 */
static void run_finish(struct image_run *run)
{
    run->finished = true;
    if (run->file != NULL) {
        env_file_close(run->env, run->file);
        run->file = NULL;
    }
    (void)pthread_mutex_lock(&run->lock);
    if (run->abandoned) {
        run->err = ERR_CANCELED;
    } else if (run->err == 0) {
        run->err = run_flip(run);
    } else if (!run->fatal) {
        run_discard(run);
    }
    (void)pthread_mutex_unlock(&run->lock);
}

static void piece_run(struct env_work *work)
{
    struct piece *piece = (struct piece *)work;
    struct image_run *run = piece->run;
    if (!run->finished) {
        run->err = piece->err;
        if (run->err == 0 && run->file == NULL) {
            run->err = run_start(run, piece);
        }
        if (run->err == 0) {
            run->err = run_piece(run, piece);
        }
        if (run->err != 0 || piece->last) {
            run_finish(run);
        }
    }
    piece->err = run->err;
}

/* ---- the reactor's side ---- */

static bool run_is_busy(const struct image_run *run)
{
    bool busy = false;
    for (size_t i = 0; i < PIECES; i++) {
        busy = busy || run->pieces[i].busy;
    }
    return busy;
}

static void run_free(struct image_run *run)
{
    assert(!run_is_busy(run));
    if (run->view != NULL) {
        view_close(run->view);
    }
    if (run->file != NULL) {
        env_file_close(run->env, run->file);
    }
    (void)pthread_mutex_destroy(&run->lock);
    buf_close(&run->table);
    buf_close(&run->patched);
    buf_close(&run->patches);
    buf_close(&run->gone);
    mem_free(run->buffers);
    mem_free(run->dir);
    mem_free(run);
}

void image_run_abandon(struct image_run *run)
{
    if (run->view != NULL) {
        view_close(run->view);
        run->view = NULL;
    }
    run->image = NULL;
    /* A flip that has begun is waited for: then the directory is nobody's. */
    (void)pthread_mutex_lock(&run->lock);
    run->abandoned = true;
    (void)pthread_mutex_unlock(&run->lock);
}

static int gone_collect(struct image_run *run)
{
    if (run->base) {
        return 0;
    }
    uint64_t pages = run->view->arena->pages;
    for (uint64_t p = 0; (p = view_next_gone(run->view, p)) < pages; p++) {
        struct pages_entry entry = {.page = p | PAGES_GONE};
        int rv = buf_append(&run->gone, &entry, sizeof entry);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

#define LOOK_PAGES 4096u /* in one turn, for those that come first */

/* Pages before patches; of pages, what steers every call first, so that opening finds it in one
 * place. */
enum { PASS_STEERING, PASS_PAGES, PASS_PATCHES, PASS_NONE };

/* The next page to copy; view_page_count(): none, or not yet. Which pages steer may change
 * meanwhile: where they lie is a matter of speed alone. */
static uint64_t run_next(struct image_run *run, uint32_t *looks)
{
    uint64_t end = view_page_count(run->view);
    for (; run->pass != PASS_NONE; run->pass++, run->next_page = 0) {
        for (;; run->next_page++) {
            run->next_page = view_next(run->view, run->pass == PASS_PATCHES, run->next_page);
            if (run->next_page == end) {
                break;
            }
            if (run->pass != PASS_STEERING || heap_page_steers(run->heap, run->next_page)) {
                return run->next_page;
            }
            if (++*looks == LOOK_PAGES) {
                run->next_page++;
                return end;
            }
        }
    }
    return end;
}

/* Copies the page, or its patch; how many bytes. */
static uint64_t piece_add(struct image_run *run, struct piece *piece, uint64_t page,
                          const uint8_t *bytes, uint8_t *to)
{
    struct view *view = run->view;
    struct pages_entry *entry = &piece->table[piece->count + piece->patched];
    uint64_t lines = view_patch(view, page);
    uint64_t len = PAGE_BYTES;
    entry->page = page;
    view_expect(view, page);
    entry->hash = view_hash_page(view, page, bytes); /* while it is warm */
    if (run->pass != PASS_PATCHES) {
        memcpy(to, bytes, PAGE_BYTES);
        piece->count++;
    } else {
        len = image_patch_make(lines, bytes, &piece->patches[piece->patched++], to);
        run->footer.patch_lines += len / LINE_BYTES;
    }
    view_thaw(view, page);
    return len;
}

/* The piece ends with a whole block. */
static void piece_round(struct image_run *run, struct piece *piece)
{
    uint32_t over = (uint32_t)(piece->end % IMAGE_BLOCK_BYTES);
    uint8_t *last = piece->buffer + piece->end - over;
    run->carried = 0;
    if (over == 0) {
        return;
    }
    if (piece->last) {
        memset(last + over, 0, IMAGE_BLOCK_BYTES - over);
        piece->end += IMAGE_BLOCK_BYTES - over;
    } else {
        memcpy(run->carry, last, over);
        run->carried = over;
        piece->end -= over;
    }
}

static void piece_fill(struct image_run *run, struct piece *piece)
{
    struct view *view = run->view;
    uint32_t looks = 0;
    piece->err = 0;
    piece->count = piece->patched = 0;
    piece->from = IMAGE_BLOCK_BYTES;
    piece->end = IMAGE_BLOCK_BYTES + run->carried;
    memcpy(piece->buffer + IMAGE_BLOCK_BYTES, run->carry, run->carried);
    while (piece->count + piece->patched < PIECE_LIST && piece->end + PAGE_BYTES <= PIECE_BYTES) {
        uint64_t page = run_next(run, &looks);
        if (page >= view_page_count(view)) {
            piece->last = run->pass == PASS_NONE;
            break;
        }
        const uint8_t *bytes = view_page(view, page);
        if (bytes == NULL) {
            break; /* canceled */
        }
        piece->end += piece_add(run, piece, page, bytes, piece->buffer + piece->end);
        run->next_page = page + 1;
    }
    piece_round(run, piece);
    if (piece->last) {
        run->footer.digest = view_digest(view);
        run->super.digest = run->footer.digest;
        piece->err = gone_collect(run);
    }
    if (view_canceled(view)) {
        piece->err = ERR_NOMEM; /* what its copies would have needed */
    }
    run->ending = piece->last || piece->err != 0;
}

static void run_answer(struct image_run *run)
{
    struct image_result result = {
        .err = run->err,
        .sequence = run->err == 0 ? run->super.sequence : run->image->super.sequence,
        .index = run->super.index,
        .term = run->super.term,
        .pages_written = run->footer.present + run->footer.patched,
        .pages_total = run->pages_total,
        .bytes_written = run->offset,
        .duration_ns = env_now_ns(run->env) - run->started_ns,
    };
    run->image->run = NULL;
    image_checkpoint_cb cb = run->cb;
    void *arg = run->arg;
    run_free(run);
    cb(arg, &result);
}

#define PARTS_MAX 4096u /* pages of a delta that may be merged */

/* Files that are named no longer have no parts; a small delta has those of the view. */
static void parts_keep(const struct image_run *run)
{
    const struct view *view = run->view;
    uint32_t own = run->super.file_count - 1;
    struct buf *parts = &run->image->parts[own];
    for (uint32_t i = own; i < SUPER_FILES_MAX; i++) {
        buf_close(&run->image->parts[i]);
    }
    if (run->base || view->list_count > PARTS_MAX) {
        return;
    }
    for (size_t i = 0; i < view->list_count; i++) {
        struct image_part part = {.page = view->list[i].page, .lines = view->list[i].patch};
        if (part.lines != 0 && buf_append(parts, &part, sizeof part) != 0) {
            buf_close(parts);
            return;
        }
    }
}

static void run_end(struct image_run *run)
{
    struct image *image = run->image;
    if (run->err == 0) {
        view_settle(run->view, run->base);
        parts_keep(run);
        image->super = run->super;
        image->present = true;
        image->checkpoints++;
        image->bytes_written += run->offset;
    } else {
        if (run->view != NULL) {
            view_restore_dirty(run->view);
        }
        if (run->fatal ||
            (run->err != ERR_DISKFULL && run->err != ERR_NOMEM && run->err != ERR_CANCELED)) {
            image->dead = true;
        }
    }
    run_answer(run);
}

static void piece_done(struct env_work *work);

static void piece_submit(struct image_run *run, struct piece *piece)
{
    piece_fill(run, piece);
    piece->busy = true;
    piece->work.run = piece_run;
    piece->work.done = piece_done;
    piece->work.queue = ENV_QUEUE_CHECKPOINT;
    env_work(run->env, &piece->work);
}

static void piece_done(struct env_work *work)
{
    struct piece *piece = (struct piece *)work;
    struct image_run *run = piece->run;
    piece->busy = false;
    run->ending = run->ending || piece->err != 0;
    if (run->image != NULL && !run->ending) {
        piece_submit(run, piece);
    } else if (!run_is_busy(run)) {
        (run->image == NULL ? run_free : run_end)(run);
    }
}

static struct image_run *run_new(struct image *image, struct heap *heap, image_checkpoint_cb cb,
                                 void *arg)
{
    struct image_run *run = mem_zalloc(sizeof *run);
    if (run == NULL) {
        return NULL;
    }
    (void)pthread_mutex_init(&run->lock, NULL);
    run->env = image->env;
    run->image = image;
    run->heap = heap;
    run->cb = cb;
    run->arg = arg;
    run->started_ns = env_now_ns(image->env);
    run->super = image->super;
    run->pages_total = heap->arena.present_count;
    return run;
}

int image_run_disk(struct image *image, struct heap *heap, bool base, image_checkpoint_cb cb,
                   void *arg)
{
    struct image_run *run = run_new(image, heap, cb, arg);
    if (run == NULL) {
        return ERR_NOMEM;
    }
    run->dir = mem_strdup(image->dir);
    run->buffers = mem_aligned(IMAGE_BLOCK_BYTES, PIECES * PIECE_BYTES);
    int rv = run->dir == NULL || run->buffers == NULL ? ERR_NOMEM : 0;
    if (rv == 0) {
        rv = view_open_checkpoint(heap, base, &run->view);
    }
    if (rv != 0) {
        run_free(run);
        return rv;
    }
    run->base = base;
    run->replaces = base || image->gathered > 0;
    run->super.file_count = base ? 0 : run->super.file_count - image->gathered;
    memset(&run->super.files[run->super.file_count], 0,
           (SUPER_FILES_MAX - run->super.file_count) * sizeof run->super.files[0]);
    image->gathered = 0;
    run->super.uid = image->uid;
    run->super.sequence++;
    run->super.index = view_index(run->view);
    run->super.term = view_term(run->view);
    run->super.bytes_max = header(heap)->bytes_max;
    run->footer.uid = image->uid;
    run->footer.sequence = run->super.sequence;
    run->footer.index = run->super.index;
    run->footer.term = run->super.term;
    image->run = run;
    for (size_t i = 0; i < PIECES && !run->ending; i++) {
        run->pieces[i].run = run;
        run->pieces[i].buffer = run->buffers + i * PIECE_BYTES;
        piece_submit(run, &run->pieces[i]);
    }
    return 0;
}

/* ---- pmem mode ---- */

static void nothing(struct env_work *work)
{
    (void)work;
}

static void pm_done(struct env_work *work)
{
    struct piece *piece = (struct piece *)work;
    piece->busy = false;
    (piece->run->image == NULL ? run_free : run_answer)(piece->run);
}

/* A commit is synchronous; only its answer comes later, as the contract says. There may be further
 * commits before it: the image is theirs by then. */
int image_run_pm(struct image *image, struct heap *heap, bool replace, image_checkpoint_cb cb,
                 void *arg)
{
    struct image_run *run = run_new(image, heap, cb, arg);
    if (run == NULL) {
        return ERR_NOMEM;
    }
    uint64_t before = image->bytes_written;
    run->err = replace ? image_pm_replace(image, heap) : image_pm_commit(image, heap);
    run->footer.present = run->err == 0 ? image->pm_pages : 0;
    run->offset = image->bytes_written - before;
    run->super = image->super;
    image->checkpoints += run->err == 0;
    if (run->err != 0 && run->err != ERR_DISKFULL && run->err != ERR_NOMEM) {
        image->dead = true;
    }
    image->run = run;
    struct piece *piece = &run->pieces[0];
    piece->run = run;
    piece->busy = true;
    piece->work.run = nothing;
    piece->work.done = pm_done;
    piece->work.queue = ENV_QUEUE_CHECKPOINT;
    env_work(run->env, &piece->work);
    return 0;
}
