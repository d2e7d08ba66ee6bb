/* Looking at a whole heap: what `cairnctl heap stats --by`, `heap map` and `heap check` show. On a
 * heap that nobody changes meanwhile: a copy that image_read() loaded from a checkpoint. thread:
 * any, one at a time. */
#ifndef CAIRN_ALLOC_SURVEY_H
#define CAIRN_ALLOC_SURVEY_H

#include "alloc/heap.h"
#include "alloc/image.h"

/* Loads the newest checkpoint of a directory for reading: nothing is written, no file is locked,
 * synced or swept. Every page's checksum is verified on the way. *e names file and page. Blocking,
 * on any thread, and the heap may be in use meanwhile. ERR_NOTFOUND: there is no image. ERR_BUSY:
 * pmem mode, it changes faster than it can be read. */
int image_read(struct env *env, const char *dir, uint64_t uid, enum image_mode mode,
               struct heap **heap, struct err_text *e);

/* heap_check_all() over the newest checkpoint, also when it is too damaged for image_read(): the
 * checksums tell what the disk did, this tells what a fault of the program or the memory did before
 * they were made. *damage: how many findings of DAMAGE. Errors as image_read(); ERR_CORRUPT also
 * when not even the heap's header can be believed. */
int image_check(struct env *env, const char *dir, uint64_t uid, enum image_mode mode, uint64_t max,
                heap_finding_cb cb, void *arg, uint64_t *damage, struct err_text *e);

struct survey_type {
    uint32_t type;                      /* number */
    uint64_t count, bytes, block_bytes; /* live objects: as asked for, and with rounding */
};
#define SURVEY_TYPES_MAX 1024u

struct survey {
    uint64_t objects, object_bytes;
    /* Internal fragmentation: allocated to objects but not asked for, headers excluded. */
    uint64_t slack_bytes;
    uint32_t type_count; /* by descending bytes; beyond the maximum they are added to the last */
    struct survey_type types[SURVEY_TYPES_MAX];
};
int survey_types(const struct heap *heap, struct survey *out); /* ERR_NOMEM */

/* The arena's data in `cells` equal parts: share in use, in 1/1000, and what most of it is. EXTENT:
 * objects that aren't in slabs; INTERNAL: maps and history. The last cells may lie behind the end
 * of the data. */
enum survey_content { SURVEY_FREE, SURVEY_SLAB, SURVEY_EXTENT, SURVEY_INTERNAL };
struct survey_cell {
    uint16_t used_permille;
    uint8_t content;
};
/* Returns the bytes of a cell. */
uint64_t survey_map(const struct heap *heap, struct survey_cell *out, uint32_t cells);

#endif
