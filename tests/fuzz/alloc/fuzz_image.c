/* Hostile image files: a sound image (superblock, base and delta with pages and patches; or a pmem
 * image with its journal) is damaged as the input says, its checksums are made to fit again if the
 * input wants it so, and it is opened. That must give an error or a heap that passes heap_check,
 * and never crash; and what was opened can be written to.
 *
 * Byte 0: bit 0 pmem mode, bit 1 checksums are repaired, bit 2 the pmem image is sealed. Then 10
 * bytes per edit: file, where, what.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/command.h"
#include "alloc/image_pmem.h"
#include "alloc/page_hash.h"
#include "base/crc.h"
#include "base/hash.h"
#include "unit/alloc/memdisk.h"

#define UID       7u
#define BYTES_MAX ((uint64_t)1 << 20)
#define PAGES_MAX 4096u
#define FILES_MAX 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct file {
    char name[32];
    uint8_t *data;
    size_t len;
    struct memdisk_file worked; /* memory of the damaged one, kept from run to run */
};

/* A sound directory of each mode. */
struct directory {
    struct file files[FILES_MAX];
    uint32_t count;
};
static struct directory sound[2];

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void copy_plain(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
}
static void lines_plain(void *to, const void *from, uint64_t mask)
{
    for (; mask != 0; mask &= mask - 1) {
        size_t at = (size_t)__builtin_ctzll(mask) * 64;
        memcpy((uint8_t *)to + at, (const uint8_t *)from + at, 64);
    }
}
static void drain_nothing(void) {}
static const struct image_pm_ops plain_ops = {copy_plain, lines_plain, drain_nothing};

/* ---- the sound ones ---- */

static void done(void *arg, const struct image_result *result)
{
    must(result->err == 0);
    *(bool *)arg = true;
}

static void save(struct memdisk *d, struct image *image, struct heap *heap, enum image_mode mode)
{
    bool ended = false;
    if (mode == IMAGE_PMEM) {
        must(image_commit(image, heap) == 0);
        return;
    }
    must(image_checkpoint(image, heap, done, &ended) == 0);
    memdisk_run(d, 1000000);
    must(ended);
}

static void setup(enum image_mode mode)
{
    static struct memdisk d;
    struct image_opts opts = {.dir = "/d", .uid = UID, .mode = mode};
    struct heap_opts heap_opts = {.uid = UID, .heap_id = 2, .bytes_max = BYTES_MAX};
    struct image *image = NULL;
    struct heap *heap = NULL;
    uint64_t ptrs[60];
    memdisk_open(&d);
    must(image_open(&d.env, &opts, &image, &heap, NULL) == 0);
    must(heap == NULL);
    must(heap_create(&heap_opts, &heap) == 0);
    heap_begin(heap, 5, 1, 10);
    for (uint64_t i = 0; i < 60; i++) {
        must(heap_alloc(heap, heap_next_version(heap), 1 + i * 131 % 700 + (i % 9 == 0) * 6000, 1,
                        slice_of("abc", 1), &ptrs[i]) == 0);
        char name[16];
        struct heap_outcome outcome;
        size_t len = (size_t)snprintf(name, sizeof name, "root-%u", (unsigned)i);
        struct heap_command set = {
            .kind = HEAP_COMMAND_ROOT_SET, .ptr = ptrs[i], .name = slice_of(name, len)};
        must(heap_apply(heap, heap_next_version(heap), &set, &outcome) == 0 && outcome.code == 0);
        must(heap_map_put(heap, HEAP_MAP_SESSIONS, slice_of(&i, 8), slice_of(&ptrs[i], 8)) == 0);
    }
    heap_end(heap);
    save(&d, image, heap, mode);
    heap_begin(heap, 6, 2, 11);
    for (uint64_t i = 0; i < 60; i += 9) {
        must(heap_free_object(heap, heap_next_version(heap), ptrs[i]) == 0);
    }
    heap_end(heap);
    save(&d, image, heap, mode);
    image_seal(image, heap);
    image_close(image);
    heap_free(heap);
    struct directory *s = &sound[mode];
    for (int i = 0; i < 64; i++) {
        if (d.names[i].file < 0) {
            continue;
        }
        const struct memdisk_file *from = &d.files[d.names[i].file];
        must(s->count < FILES_MAX);
        struct file *to = &s->files[s->count++];
        memcpy(to->name, d.names[i].name, sizeof to->name);
        to->data = malloc(from->len);
        must(to->data != NULL);
        memcpy(to->data, from->data, from->len);
        to->len = from->len;
    }
    must(s->count >= 1);
    memdisk_close(&d);
}

/* ---- checksums that fit ---- */

static struct memdisk_file *pages_of(struct memdisk *d, const struct super_file *named)
{
    char name[32];
    image_pages_name(named->sequence, name);
    return memdisk_file(d, name);
}

static void seal_block(void *block)
{
    store_u32((uint8_t *)block + IMAGE_BLOCK_BYTES - 4, image_crc(block, IMAGE_BLOCK_BYTES));
}

/* What the files say so far. */
struct content {
    bool present[PAGES_MAX];
    uint8_t bytes[PAGES_MAX][PAGE_BYTES];
};

/* One entry of a table, with hashes that fit. data: the page or the patch. */
static void seal_entry(struct content *all, uint8_t *at, const uint8_t *data, uint8_t *patch)
{
    struct pages_entry entry;
    memcpy(&entry, at, sizeof entry);
    uint64_t page = entry.page & ~PAGES_GONE;
    if (page >= PAGES_MAX) {
        return;
    }
    if (patch != NULL) {
        struct pages_patch what;
        memcpy(&what, patch, sizeof what);
        what.hash = hash64(what.lines, data, image_patch_bytes(what.lines));
        memcpy(patch, &what, sizeof what);
        must(image_patch_apply(&what, data, all->bytes[page]));
    } else if (data != NULL) {
        memcpy(all->bytes[page], data, PAGE_BYTES);
        all->present[page] = true;
    } else {
        all->present[page] = false;
        return;
    }
    entry.hash = page_hash(all->bytes[page]);
    memcpy(at, &entry, sizeof entry);
}

/* Head, table and footer of one file; returns the footer's checksum. */
static uint32_t seal_pages(struct memdisk_file *f, struct content *all)
{
    struct pages_footer footer;
    if (f->len < 2 * IMAGE_BLOCK_BYTES) {
        return 0;
    }
    seal_block(f->data);
    uint8_t *end = f->data + f->len - IMAGE_BLOCK_BYTES;
    memcpy(&footer, end, sizeof footer);
    bool bounded = footer.present < PAGES_MAX && footer.patched < PAGES_MAX &&
                   footer.gone < PAGES_MAX && footer.patch_lines < PAGES_MAX * 64;
    uint64_t entries = footer.present + footer.patched + footer.gone;
    uint64_t bytes =
        entries * sizeof(struct pages_entry) + footer.patched * sizeof(struct pages_patch);
    uint64_t patches = IMAGE_BLOCK_BYTES + footer.present * PAGE_BYTES;
    uint64_t table = patches + image_blocks_bytes(footer.patch_lines * LINE_BYTES);
    if (bounded && table + bytes + IMAGE_BLOCK_BYTES <= f->len) {
        uint8_t *entry = f->data + table;
        uint8_t *patch = entry + entries * sizeof(struct pages_entry);
        uint64_t at = IMAGE_BLOCK_BYTES;
        for (uint64_t i = 0; i < footer.present; i++, at += PAGE_BYTES) {
            seal_entry(all, entry, f->data + at, NULL);
            entry += sizeof(struct pages_entry);
        }
        for (uint64_t i = 0; i < footer.patched; i++) {
            uint64_t len = image_patch_bytes(load_u64(patch));
            if (len <= table - at) {
                seal_entry(all, entry, f->data + at, patch);
                at += len;
            }
            entry += sizeof(struct pages_entry);
            patch += sizeof(struct pages_patch);
        }
        for (uint64_t i = 0; i < footer.gone; i++) {
            seal_entry(all, entry, NULL, NULL);
            entry += sizeof(struct pages_entry);
        }
        store_u32(end + offsetof(struct pages_footer, table_crc),
                  crc32c(0, f->data + table, bytes));
    }
    seal_block(end);
    return load_u32(end + IMAGE_BLOCK_BYTES - 4);
}

static void seal_disk(struct memdisk *d)
{
    static struct content all;
    struct memdisk_file *f = memdisk_file(d, "super");
    if (f == NULL) {
        return;
    }
    for (size_t slot = 0; (slot + 1) * sizeof(struct super_block) <= f->len; slot++) {
        struct super_block s;
        memset(all.present, 0, sizeof all.present);
        memcpy(&s, f->data + slot * sizeof s, sizeof s);
        for (uint32_t i = 0; i < s.file_count && i < SUPER_FILES_MAX; i++) {
            struct memdisk_file *pages = pages_of(d, &s.files[i]);
            if (pages != NULL) {
                s.files[i].footer_crc = seal_pages(pages, &all);
            }
        }
        s.digest = 0;
        for (uint64_t p = 0; p < PAGES_MAX; p++) {
            s.digest += all.present[p] ? page_share(p, page_hash(all.bytes[p])) : 0;
        }
        if (s.bytes_max > 64 * BYTES_MAX) {
            s.bytes_max = BYTES_MAX; /* a matter of memory, not of safety */
        }
        s.crc = image_crc(&s, sizeof s);
        memcpy(f->data + slot * sizeof s, &s, sizeof s);
    }
}

/* What isn't this machine's by then: its origin doesn't fit. */
static void seal_pages_pmem(struct memdisk_file *f, uint64_t bytes_max)
{
    struct image_pm pm;
    struct pm_seal seal;
    if (!heap_bytes_max_is_valid(bytes_max)) {
        return;
    }
    image_pm_layout(&pm, bytes_max);
    if (f->len < pm.bytes) {
        return;
    }
    memcpy(&seal, f->data + pm.seal_at, sizeof seal);
    seal.digest = seal.pages = 0;
    for (uint64_t p = 0; p < pm.pages; p++) {
        if ((f->data[pm.presence_at + p / 8] >> p % 8 & 1) != 0) {
            uint64_t hash = page_hash(f->data + pm.pages_at + p * PAGE_BYTES);
            store_u64(f->data + pm.hashes_at + p * sizeof hash, hash);
            seal.digest += page_share(p, hash);
            seal.pages++;
        }
    }
    seal.crc = image_pm_seal_crc(&seal);
    memcpy(f->data + pm.seal_at, &seal, sizeof seal);
}

static void seal_pmem(struct memdisk *d)
{
    struct memdisk_file *f = memdisk_file(d, "image.pm");
    if (f == NULL || f->len < IMAGE_BLOCK_BYTES + 2 * PM_HALF_BYTES) {
        return;
    }
    struct pm_head head;
    memcpy(&head, f->data, sizeof head);
    if (head.bytes_max > 64 * BYTES_MAX) {
        head.bytes_max = BYTES_MAX;
    }
    head.crc = image_crc(&head, sizeof head);
    memcpy(f->data, &head, sizeof head);
    for (uint64_t i = 0; i < 2; i++) {
        uint8_t *half = f->data + IMAGE_BLOCK_BYTES + i * PM_HALF_BYTES;
        struct pm_commit c;
        for (uint64_t at = 0; at <= PM_HALF_BYTES - sizeof c;) {
            memcpy(&c, half + at, sizeof c);
            uint64_t bytes = pm_commit_bytes(c.lines, c.places);
            if (c.magic != PM_COMMIT_MAGIC || bytes > PM_HALF_BYTES - at) {
                break;
            }
            c.crc = pm_commit_crc((const void *)(half + at), bytes);
            memcpy(half + at, &c, sizeof c);
            at += bytes;
        }
    }
    struct image_pm pm;
    image_pm_layout(&pm, BYTES_MAX);
    if (f->len >= pm.bytes) {
        store_u64(f->data + pm.marks_at, 1); /* whatever the journal has is enough */
    }
    seal_pages_pmem(f, head.bytes_max);
}

static void unseal(struct memdisk *d)
{
    struct image_pm pm;
    image_pm_layout(&pm, BYTES_MAX);
    store_u64(memdisk_file(d, "image.pm")->data + pm.seal_at, 0);
}

/* ---- damage ---- */

static void edit(struct file *f, struct memdisk_file *m, struct cursor *c)
{
    static const size_t regions[] = {0, 64, 4096, 8192};
    uint8_t how = cursor_u8(c);
    uint32_t where = cursor_u32(c);
    uint32_t value = cursor_u32(c);
    if (m->len < 8) {
        return;
    }
    size_t region = regions[how & 3];
    size_t at = region == 0 || region > m->len ? where % (m->len - 4) : where % (region - 4);
    if ((how & 4) != 0) {
        at = m->len - 4 - at; /* from the end */
    }
    if ((how & 8) != 0 && strcmp(f->name, "image.pm") == 0) {
        /* Of a half of the journal, or the seal, the hashes and the map of present pages. */
        at = at % 65536 + IMAGE_BLOCK_BYTES + (how >> 4) % 3 * PM_HALF_BYTES;
        at = at + 4 > m->len ? m->len - 4 : at;
    }
    if (how >> 4 == 15) {
        m->len = at; /* torn off */
    } else if ((how & 16) != 0) {
        store_u32(m->data + at, load_u32(m->data + at) + (uint32_t)(int8_t)value);
    } else {
        store_u32(m->data + at, value);
    }
}

static void lend(struct memdisk *d, struct file *f)
{
    struct env_file *file = NULL;
    char path[64];
    (void)snprintf(path, sizeof path, "/d/%s", f->name);
    must(env_file_open(&d->env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &file) == 0);
    env_file_close(&d->env, file);
    struct memdisk_file *m = memdisk_file(d, f->name);
    if (f->worked.data == NULL) {
        f->worked.data = malloc(f->len);
        f->worked.capacity = f->len;
        must(f->worked.data != NULL);
    }
    *m = f->worked;
    m->len = f->len;
    memcpy(m->data, f->data, f->len);
}

/* With nothing but what opening has loaded. False: a page is damaged, and that was said. */
static bool use_unread(struct heap *heap)
{
    static const enum heap_command_kind kinds[] = {HEAP_COMMAND_WRITE, HEAP_COMMAND_FREE,
                                                   HEAP_COMMAND_REALLOC, HEAP_COMMAND_ALLOC,
                                                   HEAP_COMMAND_DEFRAG};
    const char *text;
    heap_begin(heap, heap_index(heap) + 1, heap_term(heap), 1);
    for (uint64_t i = 0; i < 20 && heap_damage(heap, &text) == 0; i++) {
        enum heap_command_kind kind = kinds[i % 5];
        struct heap_command c = {.kind = kind,
                                 .ptr = kind == HEAP_COMMAND_ALLOC ? 0 : ptr_make(0, 1, 2 + i * 3),
                                 .size = 1 + i * 97,
                                 .count = 5000,
                                 .data = slice_of("z", 1)};
        struct heap_outcome out;
        int rv = heap_apply(heap, heap_next_version(heap), &c, &out);
        must(rv == heap_damage(heap, &text));
    }
    heap_end(heap);
    return heap_check(heap, NULL) == 0;
}

static void use(struct heap *heap)
{
    if (heap_index(heap) == UINT64_MAX || heap_clock(heap) > UINT64_MAX - 64) {
        return; /* no time is left to do anything in */
    }
    heap_begin(heap, heap_index(heap) + 1, heap_term(heap), 1);
    for (uint64_t i = 0; i < 20; i++) {
        uint64_t ptr = 0;
        (void)heap_alloc(heap, heap_next_version(heap), 1 + i * 401 % 9000, 0, slice_of("y", 1),
                         &ptr);
        (void)heap_map_put(heap, (enum heap_map)(HEAP_MAP_SESSIONS + i % 3), slice_of(&i, 8),
                           slice_of("value", i % 5));
    }
    heap_end(heap);
    must(heap_check(heap, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct memdisk d;
    if (sound[0].count == 0) {
        image_pm_set_ops(&plain_ops);
        setup(IMAGE_DISK);
        setup(IMAGE_PMEM);
    }
    struct cursor c = cursor_of(slice_of(data, size));
    uint8_t how = cursor_u8(&c);
    enum image_mode mode = (how & 1) != 0 ? IMAGE_PMEM : IMAGE_DISK;
    struct directory *s = &sound[mode];
    memdisk_open(&d);
    for (uint32_t i = 0; i < s->count; i++) {
        lend(&d, &s->files[i]);
    }
    if (mode == IMAGE_PMEM && (how & 4) == 0) {
        unseal(&d);
    }
    while (cursor_left(&c) >= 10) {
        struct file *f = &s->files[cursor_u8(&c) % s->count];
        edit(f, memdisk_file(&d, f->name), &c);
    }
    if ((how & 2) != 0) {
        mode == IMAGE_PMEM ? seal_pmem(&d) : seal_disk(&d);
    }
    struct image_opts opts = {.dir = "/d", .uid = UID, .mode = mode};
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct err_text e = {""};
    int rv = image_open(&d.env, &opts, &image, &heap, &e);
    must((rv == 0) == (image != NULL));
    must(rv == 0 || heap == NULL);
    if (size <= 1) {
        must(rv == 0 && heap != NULL); /* nothing was damaged */
    }
    if (heap != NULL && heap_index(heap) < UINT64_MAX - 64 && heap_clock(heap) < UINT64_MAX - 128 &&
        use_unread(heap)) {
        use(heap);
        save(&d, image, heap, mode);
    } else if (heap != NULL) {
        const char *text;
        must(heap_damage(heap, &text) != 0 || heap_check(heap, NULL) == 0);
    }
    if (image != NULL) {
        image_close(image);
    }
    if (heap != NULL) {
        heap_free(heap);
    }
    memdisk_run(&d, 1000000);
    for (uint32_t i = 0; i < s->count; i++) {
        s->files[i].worked = d.files[i]; /* identities are given in order */
        d.files[i].data = NULL;
    }
    memdisk_close(&d);
    return 0;
}
