/* Pointers that change in one step: small transactions. */
#include <string.h>

#include "base/mem.h"
#include "client/tx_set.h"

#define POINTER_BYTES ((uint64_t)sizeof(cairn_ptr))

/* ---- compare and link ---- */

struct link {
    cairn_ptr owner, expected, desired;
    uint64_t offset;
};

/* No read first: with both objects on one shard it is one request. */
static int link_try(cairn_tx *tx, void *arg)
{
    const struct link *l = arg;
    int rv = cairn_tx_compare(tx, l->owner, l->offset, &l->expected, sizeof l->expected);
    if (rv == 0 && !cairn_ptr_is_null(l->desired)) {
        rv = sdk__tx_check_live(tx, l->desired);
    }
    return rv != 0 ? rv : cairn_tx_write(tx, l->owner, l->offset, &l->desired, sizeof l->desired);
}

/* After a conflict: does the pointer differ, or was only another transaction in the way? */
static int link_look(cairn_tx *tx, void *arg)
{
    const struct link *l = arg;
    cairn_ptr now;
    int rv = cairn_tx_read(tx, l->owner, l->offset, &now, sizeof now);
    if (rv == 0 && !cairn_ptr_equals(now, l->expected)) {
        char text[CAIRN_PTR_TEXT_BYTES];
        cairn_ptr_format(now, text, sizeof text);
        return sdk__fail(CAIRN_E_EXISTS, "the pointer there is %s: read again, and decide anew",
                         text);
    }
    return rv != 0 ? rv : link_try(tx, arg);
}

int cairn_compare_and_link(cairn_heap *heap, cairn_ptr owner, uint64_t offset, cairn_ptr expected,
                           cairn_ptr desired)
{
    struct link l = {owner, expected, desired, offset};
    cairn_tx *tx = NULL;
    int rv = cairn_tx_begin(heap, NULL, &tx);
    if (rv != 0) {
        return rv;
    }
    rv = link_try(tx, &l);
    if (rv != 0) {
        cairn_tx_abort(tx);
        return rv;
    }
    rv = cairn_tx_commit(tx, NULL);
    if (rv == CAIRN_E_CONFLICT || rv == CAIRN_E_TX_TOO_LATE) {
        rv = cairn_tx_run(heap, link_look, &l);
        rv = rv == CAIRN_E_EXISTS ? CAIRN_E_CONFLICT : rv; /* that one isn't tried again */
    }
    return rv;
}

/* ---- swap ---- */

struct swap {
    cairn_ptr a, b;
    uint64_t a_offset, b_offset;
};

static int swap_try(cairn_tx *tx, void *arg)
{
    const struct swap *s = arg;
    cairn_ptr in_a;
    cairn_ptr in_b;
    int rv = cairn_tx_read(tx, s->a, s->a_offset, &in_a, sizeof in_a);
    if (rv == 0) {
        rv = cairn_tx_read(tx, s->b, s->b_offset, &in_b, sizeof in_b);
    }
    if (rv == 0) {
        rv = cairn_tx_write(tx, s->a, s->a_offset, &in_b, sizeof in_b);
    }
    return rv != 0 ? rv : cairn_tx_write(tx, s->b, s->b_offset, &in_a, sizeof in_a);
}

/* Two different places of which each has some of the other's bytes. */
static bool overlap(cairn_ptr a, uint64_t a_offset, cairn_ptr b, uint64_t b_offset)
{
    uint64_t distance = a_offset > b_offset ? a_offset - b_offset : b_offset - a_offset;
    return cairn_ptr_equals(a, b) && distance != 0 && distance < POINTER_BYTES;
}

int cairn_ptr_swap(cairn_heap *heap, cairn_ptr a, uint64_t a_offset, cairn_ptr b, uint64_t b_offset)
{
    struct swap s = {a, b, a_offset, b_offset};
    if (overlap(a, a_offset, b, b_offset)) {
        return sdk__fail(CAIRN_E_INVAL, "the two pointers overlap");
    }
    return cairn_tx_run(heap, swap_try, &s);
}

/* ---- move ---- */

struct move {
    cairn_ptr from, to, node;
    uint64_t from_offset, to_offset, next_offset;
};

static int move_try(cairn_tx *tx, void *arg)
{
    struct move *m = arg;
    cairn_ptr next;
    cairn_ptr head;
    int rv = cairn_tx_read(tx, m->from, m->from_offset, &m->node, sizeof m->node);
    if (rv == 0 && cairn_ptr_is_null(m->node)) {
        rv = sdk__fail(CAIRN_E_NOTFOUND, "the list is empty: there is nothing to move");
    }
    if (rv == 0) {
        rv = cairn_tx_read(tx, m->node, m->next_offset, &next, sizeof next);
    }
    if (rv == 0) {
        rv = cairn_tx_write(tx, m->from, m->from_offset, &next, sizeof next);
    }
    if (rv == 0) { /* behind that write: `to` may be the same place */
        rv = cairn_tx_read(tx, m->to, m->to_offset, &head, sizeof head);
    }
    if (rv == 0) {
        rv = cairn_tx_write(tx, m->node, m->next_offset, &head, sizeof head);
    }
    return rv != 0 ? rv : cairn_tx_write(tx, m->to, m->to_offset, &m->node, sizeof m->node);
}

int cairn_ptr_move(cairn_heap *heap, cairn_ptr from, uint64_t from_offset, cairn_ptr to,
                   uint64_t to_offset, uint64_t next_offset, cairn_ptr *node)
{
    struct move m = {from, to, CAIRN_NULL, from_offset, to_offset, next_offset};
    int rv = overlap(from, from_offset, to, to_offset)
                 ? sdk__fail(CAIRN_E_INVAL, "the two pointers overlap")
                 : cairn_tx_run(heap, move_try, &m);
    if (node != NULL) {
        *node = rv == 0 ? m.node : CAIRN_NULL;
    }
    return rv;
}

/* ---- allocate into ---- */

struct into {
    cairn_ptr owner, ptr;
    uint64_t offset, bytes, next_offset;
    uint32_t type;
    const void *init;
    size_t init_bytes;
};

static int into_try(cairn_tx *tx, void *arg)
{
    struct into *in = arg;
    cairn_ptr there;
    int rv = cairn_tx_read(tx, in->owner, in->offset, &there, sizeof there);
    if (rv == 0 && in->next_offset == UINT64_MAX && !cairn_ptr_is_null(there)) {
        /* Not CONFLICT yet: that would be tried again. */
        return sdk__fail(CAIRN_E_EXISTS,
                         "a pointer stands there already: read again, and decide anew");
    }
    if (rv == 0) {
        rv = cairn_tx_alloc_near(tx, in->owner, in->bytes, in->type, &in->ptr);
    }
    if (rv == 0 && in->init_bytes > 0) {
        rv = cairn_tx_write(tx, in->ptr, 0, in->init, in->init_bytes);
    }
    if (rv == 0 && in->next_offset != UINT64_MAX) {
        rv = cairn_tx_write(tx, in->ptr, in->next_offset, &there, sizeof there);
    }
    return rv != 0 ? rv : cairn_tx_write(tx, in->owner, in->offset, &in->ptr, sizeof in->ptr);
}

int cairn_alloc_into(cairn_heap *heap, cairn_ptr owner, uint64_t offset, uint64_t bytes,
                     uint32_t type, const void *init, size_t init_bytes, uint64_t next_offset,
                     cairn_ptr *ptr)
{
    struct into in = {.owner = owner,
                      .offset = offset,
                      .bytes = bytes,
                      .next_offset = next_offset,
                      .type = type,
                      .init = init,
                      .init_bytes = init_bytes};
    if (ptr == NULL || (init == NULL && init_bytes > 0)) {
        return sdk__missing(ptr == NULL ? "ptr" : "init");
    }
    int rv = cairn_tx_run(heap, into_try, &in);
    *ptr = rv == 0 ? in.ptr : CAIRN_NULL;
    return rv == CAIRN_E_EXISTS ? CAIRN_E_CONFLICT : rv;
}
