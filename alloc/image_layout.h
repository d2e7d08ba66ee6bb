/* The bytes of an image's files (docs/heap-format.md). Media format only. */
#ifndef CAIRN_ALLOC_IMAGE_LAYOUT_H
#define CAIRN_ALLOC_IMAGE_LAYOUT_H

#include <stdint.h>

#include "base/assert.h"

#define IMAGE_FORMAT      6u
#define IMAGE_BLOCK_BYTES 4096u

/* ---- disk: "super", two slots of a block each; the valid one with the greater sequence counts
 * ---- */

#define SUPER_MAGIC     0x3152505553524943ull /* "CIRSUPR1" */
#define SUPER_FILES_MAX 64

struct super_file {
    uint64_t sequence; /* names the file */
    uint64_t bytes;
    uint32_t footer_crc;
    uint32_t table_blocks;
};

struct super_block {
    uint64_t magic;
    uint32_t format;
    uint32_t file_count; /* the first is the base, the others deltas in order */
    uint64_t uid;
    uint64_t sequence;
    uint64_t index, term, digest;
    uint64_t bytes_max;
    struct super_file files[SUPER_FILES_MAX];
    uint64_t origin; /* of the block before, with the host that wrote it as seed; 0: unknown */
    uint8_t reserved[2480];
    uint32_t pad;
    uint32_t crc; /* of all before */
};
static_assert(sizeof(struct super_block) == IMAGE_BLOCK_BYTES, "media format");

/* ---- disk: "pages-SEQUENCE": head, pages, patches, table, footer; zeros up to the end of a block
 * behind the patches and the table ---- */

#define PAGES_MAGIC  0x3153454741505243ull /* "CRPAGES1" */
#define FOOTER_MAGIC 0x31524554464f5243ull /* "CROFTER1" */

struct pages_head {
    uint64_t magic;
    uint32_t format;
    uint32_t reserved0;
    uint64_t uid;
    uint64_t sequence;
    uint64_t bytes_max;
    uint8_t reserved[4048];
    uint32_t pad;
    uint32_t crc;
};
static_assert(sizeof(struct pages_head) == IMAGE_BLOCK_BYTES, "media format");

/* The table: entries of pages as they lie in the file, of patched ones as their patches lie there,
 * and of those that became absent; then a pages_patch for each patched one. */
#define PAGES_GONE ((uint64_t)1 << 63)
struct pages_entry {
    uint64_t page;
    uint64_t hash; /* of its bytes: what the page contributes to the digest; 0: gone */
};
static_assert(sizeof(struct pages_entry) == 16, "media format");

/* A patch is lines of a page, behind each other, without the others: they are what the files before
 * have. */
#define PATCH_LINE_BYTES 64u
struct pages_patch {
    uint64_t lines; /* bit: the patch has this line */
    uint64_t hash;  /* of the patch, with `lines` as seed */
};
static_assert(sizeof(struct pages_patch) == 16, "media format");

struct pages_footer {
    uint64_t magic;
    uint64_t uid;
    uint64_t sequence;
    uint64_t index, term, digest;
    uint64_t present; /* whole pages in the file */
    uint64_t patched;
    uint64_t patch_lines; /* of all patches */
    uint64_t gone;
    uint32_t table_crc;
    uint8_t reserved[4004];
    uint32_t pad;
    uint32_t crc;
};
static_assert(sizeof(struct pages_footer) == IMAGE_BLOCK_BYTES, "media format");

/* ---- pmem: "image.pm": head, two journal halves, seal, marks, hashes, presence, pages ---- */

#define PM_FORMAT       7u
#define PM_MAGIC        0x31304d5052494143ull /* "CAIRPM01" */
#define PM_COMMIT_MAGIC 0x344c414e4a524943ull /* "CIRJNAL4" */
#define PM_SEAL_MAGIC   0x314c414553524943ull /* "CIRSEAL1" */
#define PM_HALF_BYTES   ((uint64_t)4 << 20)

struct pm_head {
    uint64_t magic;
    uint32_t format;
    uint32_t reserved0;
    uint64_t uid;
    uint64_t bytes_max;
    uint64_t half_bytes;
    uint8_t reserved[4048];
    uint32_t pad;
    uint32_t crc;
};
static_assert(sizeof(struct pm_head) == IMAGE_BLOCK_BYTES, "media format");

/* What a clean stop leaves: the pages at home are those of commit `sequence`, and have the hashes
 * in the table. The magic is written last, and cleared before the next commit. */
struct pm_seal {
    uint64_t magic; /* 0: broken, and nothing of this counts */
    uint64_t sequence;
    uint64_t index, term, digest;
    uint64_t pages;  /* that are present */
    uint64_t origin; /* of the seal without magic and crc, with the host as seed; 0: unknown */
    uint32_t half;   /* of the journal, where the next commit goes */
    uint32_t crc;    /* of all from `sequence` on */
};
static_assert(sizeof(struct pm_seal) == 64, "media format");

/* How far the journal is known to go, whatever has become of it since. Each in a line of its own.
 */
#define PM_MARKS_RESERVED 7u
struct pm_marks {
    /* This commit was drained. Stored behind that drain and covered by the next one: only a loss of
     * power, and only that of the newest commit, can take it. */
    uint64_t drained;
    uint64_t reserved[PM_MARKS_RESERVED];
    uint64_t home; /* all commits up to this one are home */
    uint64_t reserved2[PM_MARKS_RESERVED];
};
static_assert(sizeof(struct pm_marks) == 128, "media format");

/* A half is a row of commits: a head, `lines` lines of 64 bytes, `places` places of 8, and zeros up
 * to a multiple of 64. A commit counts if its CRC fits, its reserved bytes are zero and its
 * sequence follows that of the one before in its half. */
struct pm_commit {
    uint64_t magic;
    uint32_t crc; /* of all behind the head, seeded with what is in the head: pm_commit_crc() */
    uint32_t reserved;
    uint64_t sequence;
    uint64_t index, term;
    uint32_t lines, places;
    uint64_t reserved2[2];
};
static_assert(sizeof(struct pm_commit) == 64, "media format");

/* A place: where in the file, in lines from its start, the next line goes, and in bits 57 to 62 how
 * many more follow it there. Or the page that begins there becomes zero. */
#define PM_PLACE_MORE_SHIFT 57
#define PM_PLACE_ZERO       ((uint64_t)1 << 63)
#define PM_PLACE_LINE_MASK  (((uint64_t)1 << PM_PLACE_MORE_SHIFT) - 1)
static inline uint64_t pm_place_offset(uint64_t place)
{
    return (place & PM_PLACE_LINE_MASK) * 64;
}
static inline uint64_t pm_place_lines(uint64_t place)
{
    return (place & PM_PLACE_ZERO) != 0 ? 0 : (place >> PM_PLACE_MORE_SHIFT) + 1;
}

static inline uint64_t pm_commit_bytes(uint64_t lines, uint64_t places)
{
    return (sizeof(struct pm_commit) + lines * 64 + places * 8 + 63) & ~(uint64_t)63;
}

#endif
