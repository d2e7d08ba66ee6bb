/* The arena: a flat byte space in pages, reserved once as address space, that knows which pages are
 * present, which have changed, and what open views still need. Addresses are byte offsets.
 *
 * A page that was never written, or that was dropped, is absent: zero by definition, in no image
 * and no transfer. */
#ifndef CAIRN_ALLOC_ARENA_H
#define CAIRN_ALLOC_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/heap.h"
#include "alloc/heap_layout.h"
#include "base/assert.h"
#include "base/mem.h"

/* A set of pages: a bit each, and above it a bit for every 64 that may have some. */
struct pageset {
    uint64_t *words;
    uint64_t *sums;
};

static inline bool pageset_has(const struct pageset *s, uint64_t page)
{
    return (s->words[page >> 6] >> (page & 63) & 1) != 0;
}
static inline void pageset_add(struct pageset *s, uint64_t page)
{
    s->words[page >> 6] |= (uint64_t)1 << (page & 63);
    s->sums[page >> 12] |= (uint64_t)1 << (page >> 6 & 63);
}
static inline void pageset_remove(struct pageset *s, uint64_t page)
{
    s->words[page >> 6] &= ~((uint64_t)1 << (page & 63));
}
uint64_t pageset_words(uint64_t pages);
size_t pageset_bytes(uint64_t pages); /* memory of a set over so many pages */
void pageset_place(struct pageset *s, void *memory, uint64_t pages); /* empty, in zeroed memory */
uint64_t pageset_next(const struct pageset *s, uint64_t from,
                      uint64_t pages); /* `pages` at the end */
void pageset_copy(struct pageset *to, const struct pageset *from, uint64_t pages); /* to is empty */
void pageset_clear(struct pageset *s, uint64_t pages);

struct copy; /* of a page, for views */

/* Where the bytes of pages are that aren't in memory yet (alloc/image_source.c). A page's home is a
 * number that the source understands; behind each other lie those whose homes differ by PAGE_BYTES.
 */
struct arena_source {
    int (*read)(struct arena_source *source, uint64_t home, uint64_t count, void *bytes);
    /* One line about a page that couldn't be read, or has other bytes (ERR_CORRUPT). */
    void (*describe)(struct arena_source *source, uint64_t page, uint64_t home, int err,
                     struct err_text *out);
    void (*close)(struct arena_source *source); /* the arena doesn't need it any more */
};

struct arena {
    uint8_t *base;
    uint64_t pages; /* of the reservation */
    void *memory;   /* of all below */
    size_t memory_bytes;
    uint64_t *chunks;     /* bit: these 2 MiB are accessible */
    uint64_t *huge;       /* bit: they may be one page of the machine */
    uint64_t collapse_at; /* the chunk where looking for full ones goes on */
    struct pageset present;
    struct pageset dirty;    /* changed since the last checkpoint began; nothing where tracked */
    struct pageset unhashed; /* present pages whose hash[] lacks lines, and which digest lacks */
    struct pageset stale;    /* absent, but the memory isn't zero */
    struct pageset unloaded; /* present, but not in memory yet, which is zero; hash[] is known */
    uint64_t *hash;          /* page_hash(); of unhashed pages, of the lines that aren't due */
    uint64_t *lines_due;     /* of unhashed pages */
    uint64_t *home;          /* of unloaded pages: where the source has them */
    /* Per page the 64-byte lines that may be written without asking: bits in a hot page only. A
     * page is hot when it was written since the newest view; thus dirty, unhashed, present, saved.
     * They are the lines written since it is hot; all of them when it was absent before, and when
     * they are so many that a checkpoint writes the whole page anyway. */
    uint64_t *lines;
    uint64_t *lines_before; /* written since the last checkpoint or commit, and before `lines` */
    uint64_t *patched;      /* lines that the image's deltas have on the newest whole copy */
    bool tracked;           /* pmem mode: a commit asks for a list of what was written */
    bool mapped;            /* some memory shows a file until it is written: arena_load_mapped() */
    /* Tracked: the pages that changed since the last commit, each once. So a commit looks at
     * nothing else, and writing a page again costs a mask and an entry. Those that have no lines
     * now are in listed. */
    uint64_t *written;
    uint64_t written_count;
    struct pageset listed;
    uint64_t *armed; /* tracked, bit: a page of which any line may be marked without further ado: it
                        was hot since the newest view, and is present */
    bool streamed;   /* something was written past the caches: arena_settle() */
    uint32_t *filled; /* by arena_fill(): when the page was */
    uint64_t filled_bytes;
    bool unusual; /* tracked: presence or lines_before may differ from the last commit's */
    uint64_t digest;
    uint64_t present_count, dirty_count, stale_count, unloaded_count;
    struct arena_source *source; /* NULL: nothing is unloaded */
    /* Why the first page that couldn't be loaded couldn't: no further one is, and what the heap
     * says since can't be trusted. */
    int damage;
    struct err_text damage_text;
    uint64_t trim_at; /* where arena_drop() goes on giving memory back */

    struct view *views[VIEWS_MAX]; /* oldest first */
    uint32_t view_count;
    uint64_t epoch; /* of the newest view ever */
    struct copy **copies;
    size_t copy_buckets, copy_count;
    size_t copy_max; /* 0: derived from the size */
};

int arena_open(struct arena *a, uint64_t pages); /* ERR_NOMEM */
void arena_close(struct arena *a);
/* Makes [address, address + len) accessible, in steps of 2 MiB. ERR_NOMEM. */
int arena_commit(struct arena *a, uint64_t address, uint64_t len);

void arena_touch(struct arena *a, uint64_t page, uint64_t lines);
void arena_touch_range(struct arena *a, uint64_t address, uint64_t len);
void arena_clean(struct arena *a, uint64_t address, uint64_t len);
/* The next checkpoint writes these lines of the page, or that it is absent, once more. It may be
 * unloaded. */
void arena_write_again(struct arena *a, uint64_t page, uint64_t lines);

/* ---- pages that are loaded when they are wanted
 *
 * Whoever reads with arena_at() knows that the page is in memory: since it belongs to what is
 * loaded when a heap is opened (alloc/adopt.c), or since arena_load_now() has said so in this call
 * or one before. Writing loads by itself. A page that can't be loaded reads as zero, and
 * arena.damage is set. */
__attribute__((cold)) int arena_load_slow(struct arena *a, uint64_t address, uint64_t len);
/* ERR_CORRUPT, ERR_IO, ERR_NOMEM. */
static inline int arena_load_now(struct arena *a, uint64_t address, uint64_t len)
{
    return __builtin_expect(a->unloaded_count == 0, 1) ? 0 : arena_load_slow(a, address, len);
}
bool arena_is_loaded(const struct arena *a, uint64_t page);

/* For reading, wherever pages are known to be present and loaded. */
static inline const void *arena_at(const struct arena *a, uint64_t address)
{
    assert_slow(arena_is_loaded(a, address >> PAGE_SHIFT));
    return a->base + address;
}
/* For reading where a page may be absent or unloaded. */
static inline const void *arena_read(struct arena *a, uint64_t address, uint64_t len)
{
    if ((a->stale_count | a->unloaded_count) != 0) {
        arena_clean(a, address, len);
    }
    return a->base + address;
}
#define LINE_SHIFT      6
#define LINE_BYTES      64u
#define PAGE_LINES_ALL  (~(uint64_t)0)
#define PATCH_LINES_MAX 32 /* a checkpoint writes a page of which more have changed whole */
/* The lines of [address, address + len), which lies in one page. len > 0. */
static inline uint64_t arena_lines(uint64_t address, uint64_t len)
{
    uint64_t last = (address + len - 1) >> LINE_SHIFT & 63;
    return PAGE_LINES_ALL << (address >> LINE_SHIFT & 63) & PAGE_LINES_ALL >> (63 - last);
}
static inline uint64_t arena_line(uint64_t address)
{
    return (uint64_t)1 << (address >> LINE_SHIFT & 63);
}
static inline bool arena_is_armed(const struct arena *a, uint64_t page)
{
    return (a->armed[page >> 6] >> (page & 63) & 1) != 0;
}
static inline bool arena_is_hot(const struct arena *a, uint64_t page)
{
    return a->lines[page] != 0 || arena_is_armed(a, page);
}
/* Marks lines of a page for writing. In a page that is marked as a whole the first test is all
 * there is to it, and which lines they are isn't computed. In pmem mode pages are armed, and of
 * those that a commit has one in two is written for the first time by it: no branch. */
static inline void arena_mark(struct arena *a, uint64_t page, uint64_t lines)
{
    uint64_t marked = a->lines[page];
    if (__builtin_expect(marked != PAGE_LINES_ALL, 0) && (lines & ~marked) != 0) {
        if (__builtin_expect(!arena_is_armed(a, page), 0)) {
            arena_touch(a, page, lines);
            return;
        }
        a->written[a->written_count] = page;
        a->written_count += marked == 0;
        a->lines[page] = marked | lines;
    }
}
/* The same of several pages that are all armed, which the caller has asked: what is read in between
 * is kept in registers. */
struct arena_marker {
    uint64_t *lines;
    uint64_t *end; /* of arena.written */
};
static inline struct arena_marker arena_marker_of(const struct arena *a)
{
    return (struct arena_marker){a->lines, a->written + a->written_count};
}
static inline void arena_mark_armed(struct arena_marker *m, uint64_t page, uint64_t lines)
{
    uint64_t marked = m->lines[page];
    *m->end = page;
    m->end += marked == 0;
    m->lines[page] = marked | lines;
}
static inline void arena_marked(struct arena *a, const struct arena_marker *m)
{
    a->written_count = (uint64_t)(m->end - a->written);
}
static inline bool arena_is_marked(const struct arena *a, uint64_t page, uint64_t lines)
{
    return (lines & ~a->lines[page]) == 0;
}
/* For writing: every line is marked, and nothing but [address, address + len) may be written. Valid
 * until the command ends. len > 0. */
static inline void *arena_write(struct arena *a, uint64_t address, uint64_t len)
{
    uint64_t page = address >> PAGE_SHIFT;
    if ((address + len - 1) >> PAGE_SHIFT != page) {
        arena_touch_range(a, address, len);
        return a->base + address;
    }
    arena_mark(a, page, arena_lines(address, len));
    return a->base + address;
}
/* The same for what doesn't reach beyond the 64-byte line at `address`. */
static inline void *arena_write_line(struct arena *a, uint64_t address)
{
    arena_mark(a, address >> PAGE_SHIFT, arena_line(address));
    return a->base + address;
}
/* The same for a caller that writes all of it: none of it is zeroed first. */
void arena_overwrite_range(struct arena *a, uint64_t address, uint64_t len);
static inline void *arena_overwrite(struct arena *a, uint64_t address, uint64_t len)
{
    if (len < PAGE_BYTES) {
        return arena_write(a, address, len);
    }
    arena_overwrite_range(a, address, len);
    return a->base + address;
}
/* Header and bytes of a new object, which lie at `address` behind each other; what is around them
 * in pages that were absent is zero. Nobody is about to read them. Where they go to memory that is
 * in no cache, which they do in a large arena unless its last object was written just now, they are
 * written past the caches: that takes half the time, since a store that goes by a cache reads the
 * line first. (Not in pmem mode, where a commit reads them at once.) */
void arena_fill(struct arena *a, uint64_t address, struct slice head, struct slice bytes);
/* Comes before other threads look. */
static inline void arena_settle(struct arena *a)
{
    if (a->streamed) {
        lines_settle();
        a->streamed = false;
    }
}
/* Zeroes the part of [address, address + len) that lies in present pages. */
void arena_zero(struct arena *a, uint64_t address, uint64_t len);
/* The pages become absent. */
void arena_drop(struct arena *a, uint64_t page, uint64_t count);

/* For loading an image or a transfer: not dirty, hashed. No views open. */
int arena_load(struct arena *a, uint64_t page, const void *bytes); /* ERR_NOMEM */
/* The page is present, with bytes of that hash, which the source has there (and any it had before
 * don't count); or it is absent. Until arena_source_set(). */
void arena_load_later(struct arena *a, uint64_t page, uint64_t hash, uint64_t home);
/* It is going to be called for all of these: one system call for hundreds of page faults. */
void arena_load_expect(struct arena *a, uint64_t page, uint64_t count);
void arena_load_never(struct arena *a, uint64_t page);
/* The arena closes the source with its last unloaded page, or with itself. */
void arena_source_set(struct arena *a, struct arena_source *source);
int arena_load_all(struct arena *a);
/* Bytes of an unloaded page that somebody else read and compared with its hash. err: it couldn't.
 */
void arena_load_give(struct arena *a, uint64_t page, int err, const void *bytes);
/* The same for accessible pages whose memory was made to show a file, which hasn't been read yet:
 * they aren't hashed either. */
void arena_load_mapped(struct arena *a, uint64_t page, uint64_t count);

/* No page is hot any more: the next write of each has to mark it again. */
void arena_cool(struct arena *a);
/* The same in two steps: first what a commit will ask for, then each page that isn't hashed. */
void arena_cool_listed(struct arena *a);
void arena_cool_page(struct arena *a, uint64_t page);
/* The image has a whole copy of every page. */
void arena_patches_forget(struct arena *a);
/* From here on the arena lists which lines were written. */
void arena_track(struct arena *a);
/* The lines of a page that were written since the last checkpoint or commit; all of them when it
 * was absent. */
static inline uint64_t arena_lines_written(const struct arena *a, uint64_t page)
{
    return a->lines[page] | a->lines_before[page];
}
/* All that was written is committed: nothing is dirty. */
void arena_committed(struct arena *a);
/* Pages that the next checkpoint or commit writes. */
static inline uint64_t arena_dirty_pages(const struct arena *a)
{
    return a->tracked ? a->written_count : a->dirty_count;
}

uint64_t arena_digest(struct arena *a);

/* ---- views (alloc/view.c)
 * ------------------------------------------------------------------------------------------- */

/* Of a page that isn't hashed, or that changed since the last checkpoint. */
struct view_entry {
    uint64_t page;
    uint64_t hash, due; /* arena.hash[], and the lines that it lacks yet */
    uint64_t lines;     /* that changed */
    uint64_t patch;     /* what a delta says: these lines, or the whole page, or that it is absent
                           (PAGE_LINES_ALL), or nothing (0) */
};

struct view {
    struct heap *heap;
    struct arena *arena;
    uint64_t epoch;
    uint64_t index, term;
    uint64_t pages; /* of address space in use */
    struct pageset present;
    struct pageset whole; /* checkpoints: pages to be written */
    struct pageset part;  /* checkpoints: pages of which lines are to be written */
    struct pageset gone;  /* checkpoints: pages that changed and are absent */
    void *memory;
    struct view_entry *list; /* ascending; checkpoints: with the dirty marks taken */
    size_t list_count;
    size_t list_at;  /* where the next page will be looked for */
    uint64_t digest; /* of the pages that are hashed */
    bool checkpoint;
    bool canceled;
};

/* Before a page's memory changes: keeps its bytes for the views that need them. Never fails: views
 * are canceled. */
void view_save(struct arena *a, uint64_t page);
/* A view of the pages that changed since the last checkpoint (or of all), whose dirty marks it
 * takes. */
int view_open_checkpoint(struct heap *heap, bool all, struct view **out);
/* Gives the dirty marks back: the checkpoint failed. */
void view_restore_dirty(struct view *view);
/* The checkpoint is durable: what its file has of pages. */
void view_settle(struct view *view, bool all);
/* Next page of a checkpoint's view that is present, from `from` on, and isn't thawed;
 * view_page_count() at the end. part: of those of which only view_patch() is to be written. */
uint64_t view_next(const struct view *view, bool part, uint64_t from);
uint64_t view_patch(struct view *view, uint64_t page);
/* Pages behind this one will be read soon. */
void view_expect(const struct view *view, uint64_t page);
uint64_t view_next_gone(const struct view *view, uint64_t from);
/* Bytes of pages and patches that a delta would have as of now. */
uint64_t view_delta_bytes(const struct heap *heap);
/* The hash of the page, whose bytes view_page() gave; before view_thaw() of the same. */
uint64_t view_hash_page(struct view *view, uint64_t page, const uint8_t *bytes);
/* The view doesn't need this page any more. */
void view_thaw(struct view *view, uint64_t page);

#endif
