/* Optional helpers over cairn.h: reading and writing one field of a struct. Macros alone; nothing
 * is linked. */
#ifndef CAIRN_TYPED_H
#define CAIRN_TYPED_H

#include <cairn/cairn.h>

/* The two arguments "offset, size" of a field: CAIRN_FIELD(struct node, next). */
#define CAIRN_FIELD(T, field) offsetof(T, field), sizeof(((T *)0)->field)

/* int cairn_read_field(heap, ptr, struct node, next, &next): reads a field into *out, of its type.
 */
#define cairn_read_field(heap, ptr, T, field, out)                                                 \
    cairn_read((heap), (ptr), offsetof(T, field), (out), sizeof(((T *)0)->field), NULL)
/* int cairn_write_field(heap, ptr, struct node, next, &next): atomically, if it is at most
 * CAIRN_WRITE_BYTES_MAX. */
#define cairn_write_field(heap, ptr, T, field, in)                                                 \
    cairn_write((heap), (ptr), offsetof(T, field), (in), sizeof(((T *)0)->field))
/* int cairn_compare_and_write_field(heap, ptr, struct node, next, &expected, &desired) */
#define cairn_compare_and_write_field(heap, ptr, T, field, expected, desired)                      \
    cairn_compare_and_write((heap), (ptr), offsetof(T, field), (expected), (desired),              \
                            sizeof(((T *)0)->field))
/* int CAIRN_NEW(heap, node, &ptr): a zeroed struct node of the type that CAIRN_TYPE(node, ...)
 * describes. */
#define CAIRN_NEW(heap, T, ptr) cairn_alloc((heap), sizeof(struct T), CAIRN_TYPE_NUMBER(T), (ptr))

#endif
