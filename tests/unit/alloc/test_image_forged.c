/* An image whose checksums are right and whose fields aren't: whoever makes a file up can compute
 * them. Each is named, and nothing is loaded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/engine.h"
#include "alloc/image.h"
#include "alloc/image_internal.h"
#include "alloc/survey.h"
#include "memdisk.h"

#define UID 7

static void answered(void *arg, const struct image_result *result)
{
    *(int *)arg = result->err;
}

static int open_image(struct memdisk *d, struct image **image, struct heap **heap,
                      struct err_text *e)
{
    struct image_opts opts = {.dir = "/x", .uid = UID, .mode = IMAGE_DISK};
    return image_open(&d->env, &opts, image, heap, e);
}

/* A heap with an object, as of its second checkpoint. */
static void disk_with_image(struct memdisk *d)
{
    struct image *image = NULL;
    struct heap *heap = NULL;
    struct heap_opts opts = {.uid = UID, .heap_id = 3, .shard = 5, .bytes_max = 1 << 20};
    memdisk_open(d);
    assert_int_equal(open_image(d, &image, &heap, NULL), 0);
    assert_int_equal(heap_create(&opts, &heap), 0);
    for (uint64_t i = 1; i <= 2; i++) {
        uint64_t ptr = 0;
        int err = -1;
        heap_begin(heap, i, 1, i);
        assert_int_equal(heap_alloc(heap, i, 100, 0, slice_of("abc", 3), &ptr), 0);
        heap_end(heap);
        assert_int_equal(image_checkpoint(image, heap, answered, &err), 0);
        memdisk_run(d, 1000000);
        assert_int_equal(err, 0);
    }
    image_close(image);
    heap_free(heap);
}

struct forged {
    struct super_block *super; /* the newest */
    struct super_file *named;  /* the first file that it names */
    struct pages_head *head;
    struct pages_footer *footer;
};

static struct forged forged_open(struct memdisk *d)
{
    struct forged f;
    char name[32];
    struct super_block *slots = (void *)memdisk_file(d, "super")->data;
    f.super = slots[0].sequence > slots[1].sequence ? &slots[0] : &slots[1];
    f.named = &f.super->files[0];
    (void)snprintf(name, sizeof name, "pages-%016" PRIx64, f.named->sequence);
    uint8_t *pages = memdisk_file(d, name)->data;
    f.head = (void *)pages;
    f.footer = (void *)(pages + f.named->bytes - sizeof *f.footer);
    return f;
}

/* As handed to us by another machine: what this one wrote is checked less. */
static void forged_seal(struct forged *f)
{
    f->super->origin = 0;
    f->head->crc = image_crc(f->head, sizeof *f->head);
    f->footer->crc = image_crc(f->footer, sizeof *f->footer);
    f->named->footer_crc = f->footer->crc;
    f->super->crc = image_crc(f->super, sizeof *f->super);
}

static void forge(struct forged *f, int which)
{
    const uint64_t pages = f->super->bytes_max / PAGE_BYTES * 64; /* more than any arena has */
    switch (which) {
    case 0:
        f->super->format++;
        break;
    case 1:
        f->super->file_count = 0;
        break;
    case 2:
        f->super->file_count = SUPER_FILES_MAX + 1;
        break;
    case 3:
        f->super->bytes_max = 1000;
        break;
    case 4:
        f->super->index++;
        break;
    case 5:
        f->super->term++;
        break;
    case 6:
        f->named->bytes += IMAGE_BLOCK_BYTES;
        break;
    case 7:
        f->named->bytes = IMAGE_BLOCK_BYTES;
        break;
    case 8:
        f->named->bytes -= 8;
        break;
    case 9:
        f->named->sequence += 1000;
        break;
    case 10:
        f->footer->magic++;
        break;
    case 11:
        f->footer->uid++;
        break;
    case 12:
        f->footer->sequence++;
        break;
    case 13:
        f->footer->present = pages;
        break;
    case 14:
        f->footer->patched = pages;
        break;
    case 15:
        f->footer->gone = pages;
        break;
    case 16:
        f->footer->patch_lines = f->footer->patched * (PAGE_BYTES / LINE_BYTES) + 1;
        break;
    case 17:
        f->footer->present++;
        break;
    case 18:
        f->footer->table_crc++;
        break;
    case 19:
        f->head->magic++;
        break;
    case 20:
        f->head->format++;
        break;
    case 21:
        f->head->uid++;
        break;
    case 22:
        f->head->sequence++;
        break;
    default:
        f->head->bytes_max *= 2;
        break;
    }
}

static void wrong_fields_under_right_checksums_are_named(void **state)
{
    (void)state;
    static const char *const texts[] = {"format",
                                        "fields out of bounds",
                                        "fields out of bounds",
                                        "fields out of bounds",
                                        "the heap isn't the one",
                                        "the heap isn't the one",
                                        "bytes, not",
                                        "bytes, not",
                                        "bytes, not",
                                        "can't be opened",
                                        "damaged footer",
                                        "damaged footer",
                                        "damaged footer",
                                        "damaged footer",
                                        "damaged footer",
                                        "damaged footer",
                                        "damaged footer",
                                        "fit the file's size",
                                        "damaged page table",
                                        "damaged head",
                                        "damaged head",
                                        "damaged head",
                                        "damaged head",
                                        "damaged head"};
    for (int which = 0; which < (int)(sizeof texts / sizeof texts[0]); which++) {
        struct memdisk d;
        struct heap *heap = NULL;
        struct image *image = NULL;
        struct err_text e = {""};
        disk_with_image(&d);
        struct forged f = forged_open(&d);
        forge(&f, which);
        forged_seal(&f);
        int expected = which == 0 ? ERR_VERSION : ERR_CORRUPT;
        int rv = image_read(&d.env, "/x", UID, IMAGE_DISK, &heap, &e);
        if (rv != expected || strstr(e.text, texts[which]) == NULL) {
            fail_msg("%d: %d %s", which, rv, e.text);
        }
        assert_null(heap);
        e.text[0] = '\0';
        rv = open_image(&d, &image, &heap, &e);
        if (rv != expected || strstr(e.text, texts[which]) == NULL) {
            fail_msg("opened, %d: %d %s", which, rv, e.text);
        }
        assert_null(heap);
        assert_null(image);
        memdisk_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_fields_under_right_checksums_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
