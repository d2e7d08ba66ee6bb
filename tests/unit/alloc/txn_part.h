/* Building parts, for tests of transactions. */
#ifndef CAIRN_TESTS_UNIT_ALLOC_TXN_PART_H
#define CAIRN_TESTS_UNIT_ALLOC_TXN_PART_H

#include <string.h>

#include "alloc/txn.h"

struct part {
    uint8_t bytes[64 << 10];
    size_t len;
};

static inline void part_begin(struct part *p, uint64_t session)
{
    struct txn_part_header head = {.session = session};
    memcpy(p->bytes, &head, sizeof head);
    p->len = sizeof head;
}

static inline void part_append(struct part *p, const void *data, size_t len)
{
    assert(p->len + len <= sizeof p->bytes);
    if (len > 0) {
        memcpy(p->bytes + p->len, data, len);
    }
    p->len += len;
}

static inline void part_add(struct part *p, struct txn_item item, struct slice name,
                            struct slice bytes)
{
    struct txn_part_header head;
    item.name_len = (uint16_t)name.len;
    item.len = (uint32_t)bytes.len;
    part_append(p, &item, sizeof item);
    part_append(p, name.data, name.len);
    part_append(p, bytes.data, bytes.len);
    memcpy(&head, p->bytes, sizeof head);
    head.items++;
    memcpy(p->bytes, &head, sizeof head);
}

static inline struct slice part_slice(const struct part *p)
{
    return slice_of(p->bytes, p->len);
}

static inline void part_check(struct part *p, uint64_t ptr, uint64_t version, uint8_t mode)
{
    part_add(
        p, (struct txn_item){.kind = TXN_CHECK_OBJECT, .ptr = ptr, .value = version, .mode = mode},
        slice_of(NULL, 0), slice_of(NULL, 0));
}

static inline void part_check_root(struct part *p, struct slice name, uint64_t version,
                                   uint8_t mode)
{
    part_add(p, (struct txn_item){.kind = TXN_CHECK_ROOT, .value = version, .mode = mode}, name,
             slice_of(NULL, 0));
}

static inline void part_check_directory(struct part *p, uint64_t version)
{
    part_add(p, (struct txn_item){.kind = TXN_CHECK_DIRECTORY, .value = version}, slice_of(NULL, 0),
             slice_of(NULL, 0));
}

static inline void part_check_bytes(struct part *p, uint64_t ptr, uint64_t offset,
                                    struct slice bytes)
{
    part_add(p, (struct txn_item){.kind = TXN_CHECK_BYTES, .ptr = ptr, .value = offset},
             slice_of(NULL, 0), bytes);
}

static inline void part_check_live(struct part *p, uint64_t ptr)
{
    part_add(p, (struct txn_item){.kind = TXN_CHECK_LIVE, .ptr = ptr}, slice_of(NULL, 0),
             slice_of(NULL, 0));
}

static inline void part_alloc(struct part *p, uint64_t ptr, uint64_t size, struct slice init)
{
    part_add(p, (struct txn_item){.kind = TXN_ALLOC, .ptr = ptr, .value = size}, slice_of(NULL, 0),
             init);
}

static inline void part_free(struct part *p, uint64_t ptr)
{
    part_add(p, (struct txn_item){.kind = TXN_FREE, .ptr = ptr}, slice_of(NULL, 0),
             slice_of(NULL, 0));
}

static inline void part_write(struct part *p, uint64_t ptr, uint64_t offset, struct slice bytes)
{
    part_add(p, (struct txn_item){.kind = TXN_WRITE, .ptr = ptr, .value = offset},
             slice_of(NULL, 0), bytes);
}

static inline void part_root(struct part *p, struct slice name, uint64_t ptr)
{
    part_add(p, (struct txn_item){.kind = ptr != 0 ? TXN_ROOT_SET : TXN_ROOT_DELETE, .ptr = ptr},
             name, slice_of(NULL, 0));
}

#endif
