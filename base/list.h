/* Intrusive doubly linked circular list (the kind the Linux kernel made familiar). A head is a node
 * of its own. */
#ifndef CAIRN_BASE_LIST_H
#define CAIRN_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev;
    struct list *next;
};

static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}
static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}
static inline void list_push_back(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}
static inline void list_push_front(struct list *head, struct list *node)
{
    list_push_back(head->next, node);
}
/* Unlinks and re-initialises the node, so that removing twice is harmless. */
static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
/* Moves all nodes of `from` to the back of `to`; `from` is empty afterwards. */
static inline void list_splice(struct list *to, struct list *from)
{
    if (list_empty(from)) {
        return;
    }
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define list_entry(ptr, type, member)   container_of(ptr, type, member)
#define list_for_each(it, head)         for (struct list *it = (head)->next; it != (head); it = it->next)
/* `next` is a second cursor: the body may remove `it`. */
#define list_for_each_safe(it, next_, head)                                                        \
    for (struct list *it = (head)->next, *next_ = it->next; it != (head);                          \
         it = next_, next_ = it->next)

#endif
