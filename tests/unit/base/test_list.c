#include "tests/support/test.h"

#include "base/list.h"

struct item {
    int number;
    struct list link;
};

static void expect(struct list *head, const int *numbers, size_t count)
{
    size_t i = 0;
    list_for_each (it, head) {
        assert_true(i < count);
        assert_int_equal(list_entry(it, struct item, link)->number, numbers[i]);
        assert_ptr_equal(it->next->prev, it);
        i++;
    }
    assert_int_equal(i, count);
}

static void items_stand_in_the_order_of_pushing(void **state)
{
    (void)state;
    struct list head;
    struct item a = {1, {0}}, b = {2, {0}}, c = {3, {0}};
    list_init(&head);
    assert_true(list_empty(&head));
    list_push_back(&head, &b.link);
    list_push_back(&head, &c.link);
    list_push_front(&head, &a.link);
    expect(&head, (const int[]){1, 2, 3}, 3);
}

static void removing_twice_is_harmless(void **state)
{
    (void)state;
    struct list head;
    struct item a = {1, {0}}, b = {2, {0}};
    list_init(&head);
    list_push_back(&head, &a.link);
    list_push_back(&head, &b.link);
    list_remove(&a.link);
    list_remove(&a.link);
    expect(&head, (const int[]){2}, 1);
}

static void body_may_remove_the_item(void **state)
{
    (void)state;
    struct list head;
    struct item items[6];
    list_init(&head);
    for (int i = 0; i < 6; i++) {
        items[i].number = i;
        list_push_back(&head, &items[i].link);
    }
    list_for_each_safe (it, next, &head) {
        if (list_entry(it, struct item, link)->number % 2 == 0) {
            list_remove(it);
        }
    }
    expect(&head, (const int[]){1, 3, 5}, 3);
}

static void splice_moves_all_to_the_back(void **state)
{
    (void)state;
    struct list to, from;
    struct item a = {1, {0}}, b = {2, {0}}, c = {3, {0}};
    list_init(&to);
    list_init(&from);
    list_splice(&to, &from);
    assert_true(list_empty(&to));
    list_push_back(&to, &a.link);
    list_push_back(&from, &b.link);
    list_push_back(&from, &c.link);
    list_splice(&to, &from);
    assert_true(list_empty(&from));
    expect(&to, (const int[]){1, 2, 3}, 3);
    list_splice(&from, &to);
    expect(&from, (const int[]){1, 2, 3}, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_stand_in_the_order_of_pushing),
        cmocka_unit_test(removing_twice_is_harmless),
        cmocka_unit_test(body_may_remove_the_item),
        cmocka_unit_test(splice_moves_all_to_the_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
